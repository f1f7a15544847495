// SPDX-License-Identifier: Apache-2.0
/*
 * Uprobes, from the newest way to the oldest.
 *
 * A uprobe belongs to an inode and an offset; the kernel puts a breakpoint into the
 * text of every process that maps it, or with a pid filter of that process alone
 * (into a private copy of the page). Another process with the same libc pays nothing.
 *
 *	session	   6.13+  one link for all sites; one program is called on entry and,
 *			  unless it said no there, on return
 *	multi	    6.6+  one link for all sites of a program, for entry or for return
 *	perf		  one perf event for every site; works everywhere, wants
 *			  CAP_SYS_ADMIN, and takes longer to attach
 *
 * The file is given as /proc/self/fd/N of the descriptor that the image was read
 * through: a path out of the maps would be looked up in our own mount namespace, where
 * it is nothing or, worse, another file, and then the probe silently never hits.
 *
 * libbpf knows the first two only since 1.2 and 1.5, and what we link with may be
 * older, so that bpf(2) is called as it is. The numbers are the kernel's (include/uapi/
 * linux/bpf.h). The first kernels with `multi` compared the pid with a thread's: they
 * are told by accepting pid -1, and count as not having it.
 *
 * Links are file descriptors; when we die, the kernel removes the breakpoints.
 */
#include "trace/uprobes.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include "target/mappings.h"

#define TRACE_UPROBE_MULTI   48u /* enum bpf_attach_type */
#define TRACE_UPROBE_SESSION 57u
#define UPROBE_MULTI_RETURN  1u
#define PAGEMAP_FILE	     (1ULL << 61)
#define PAGEMAP_PRESENT	     (1ULL << 63)

/* union bpf_attr of BPF_LINK_CREATE with its member uprobe_multi */
struct link_create {
	uint32_t prog_fd, target_fd, attach_type, flags;
	uint64_t path, offsets, ref_ctr_offsets, cookies;
	uint32_t count, multi_flags, pid, pad;
};

struct uprobes {
	/* links of many sites, in the order in which they are attached; -1: none */
	int fd[3];
	struct bpf_link **links; /* of one site each */
	size_t n_links;
};

static int link_create(int prog_fd, uint32_t type, uint32_t flags, const char *path,
		       const uint64_t *offsets, const uint64_t *cookies, size_t n, uint32_t pid)
{
	struct link_create a = {
		.prog_fd = (uint32_t)prog_fd,
		.attach_type = type,
		.path = (uintptr_t)path,
		.offsets = (uintptr_t)offsets,
		.cookies = (uintptr_t)cookies,
		.count = (uint32_t)n,
		.multi_flags = flags,
		.pid = pid,
	};
	int fd = (int)syscall(SYS_bpf, BPF_LINK_CREATE, &a, sizeof(a));

	return fd < 0 ? -errno : fd;
}

/* ---- what there is -------------------------------------------------------------- */

/* "/" is no file that could be probed: a kernel that has the type says so, one that has
 * not says that the arguments are wrong. */
static bool type_known(uint32_t type)
{
	static const struct bpf_insn body[] = {
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0 },
		{ .code = BPF_JMP | BPF_EXIT },
	};
	LIBBPF_OPTS(bpf_prog_load_opts, opts, .expected_attach_type = type);
	uint64_t offset = 0;
	bool known;
	int prog = bpf_prog_load(BPF_PROG_TYPE_KPROBE, "beamray_ask", "GPL", body, 2, &opts);

	if (prog < 0)
		return false;
	known = link_create(prog, type, 0, "/", &offset, NULL, 1, 0) == -EBADF &&
		link_create(prog, type, 0, "/", &offset, NULL, 1, UINT32_MAX) == -EINVAL;
	close(prog);
	return known;
}

enum uprobes_how uprobes_how(void)
{
	static int known = -1;
	const char *less;

	if (known >= 0)
		return (enum uprobes_how)known;
	known = !type_known(TRACE_UPROBE_MULTI)	    ? UPROBES_PERF
		: !type_known(TRACE_UPROBE_SESSION) ? UPROBES_MULTI
						    : UPROBES_SESSION;
	less = getenv("BEAMRAY_UPROBES");
	if (less && !strcmp(less, "perf"))
		known = UPROBES_PERF;
	else if (less && !strcmp(less, "multi") && known > UPROBES_MULTI)
		known = UPROBES_MULTI;
	return (enum uprobes_how)known;
}

static void prepare(struct bpf_program *prog, bool wanted, uint32_t type)
{
	if (!prog)
		return;
	bpf_program__set_autoload(prog, wanted);
	bpf_program__set_expected_attach_type(prog, (enum bpf_attach_type)type);
}

void uprobes_prepare(const struct uprobe_programs *p)
{
	enum uprobes_how how = uprobes_how();
	uint32_t type = how == UPROBES_PERF ? 0 : TRACE_UPROBE_MULTI;
	bool session = how == UPROBES_SESSION && p->session;

	prepare(p->entry, true, type);
	prepare(p->enter, !session, type);
	prepare(p->leave, !session, type);
	prepare(p->session, session, TRACE_UPROBE_SESSION);
}

/* ---- attach and detach ------------------------------------------------------------ */

static int attach_failed(struct error *err, int ret, const struct image *i)
{
	if (ret == -EPERM || ret == -EACCES)
		return error_set(err, EXIT_DENIED, ret,
				 "attaching probes to %s was refused: it needs CAP_BPF and "
				 "CAP_PERFMON%s (run as root)",
				 image_name(i),
				 uprobes_how() == UPROBES_PERF ? ", on this kernel CAP_SYS_ADMIN"
							       : "");
	if (ret == -ESRCH)
		return error_set(err, EXIT_GONE, ret, "the target has ended");
	return error_set(err, EXIT_UNSUPPORTED, ret, "attaching probes to %s failed: %s",
			 image_name(i), strerror(-ret));
}

/* One link for all sites with or without a return. 0 also if there are none. */
static int attach_many(const struct bpf_program *prog, uint32_t type, uint32_t flags,
		       const char *path, pid_t pid, const struct uprobe *v, size_t n, bool leave,
		       int *fd)
{
	uint64_t *offsets = calloc(n + 1, 2 * sizeof(*offsets)), *cookies = offsets + n;
	size_t m = 0;

	if (!offsets)
		return -ENOMEM;
	for (size_t k = 0; k < n; k++) {
		if (v[k].leave != leave)
			continue;
		offsets[m] = v[k].site.offset;
		cookies[m++] = v[k].cookie;
	}
	if (m)
		*fd = prog ? link_create(bpf_program__fd(prog), type, flags, path, offsets, cookies,
					 m, (uint32_t)pid)
			   : -EINVAL;
	free(offsets);
	return m && *fd < 0 ? *fd : 0;
}

static int attach_one(struct uprobes *u, const struct bpf_program *prog, const char *path,
		      pid_t pid, const struct uprobe *probe, bool leave)
{
	LIBBPF_OPTS(bpf_uprobe_opts, opts, .retprobe = leave, .bpf_cookie = probe->cookie);
	struct bpf_link *link;

	if (!prog)
		return -EINVAL;
	link = bpf_program__attach_uprobe_opts(prog, pid, path, probe->site.offset, &opts);
	if (!link && errno == EOPNOTSUPP && probe->cookie) {
		opts.bpf_cookie = 0;
		link = bpf_program__attach_uprobe_opts(prog, pid, path, probe->site.offset, &opts);
	}
	if (!link)
		return -errno;
	u->links[u->n_links++] = link;
	return 0;
}

/*
 * What has been entered must not return unseen, so returns come before entries; and
 * probes without a return (free) come before those with one (malloc): what is seen to begin
 * is seen to end.
 */
static int attach_perf(struct uprobes *u, const struct uprobe_programs *p, const char *path,
		       pid_t pid, const struct uprobe *v, size_t n)
{
	int ret = 0;

	u->links = calloc(2 * n + 1, sizeof(struct bpf_link *));
	if (!u->links)
		return -ENOMEM;
	for (size_t k = 0; !ret && k < n; k++)
		if (!v[k].leave)
			ret = attach_one(u, p->entry, path, pid, &v[k], false);
	for (size_t k = 0; !ret && k < n; k++)
		if (v[k].leave)
			ret = attach_one(u, p->leave, path, pid, &v[k], true);
	for (size_t k = 0; !ret && k < n; k++)
		if (v[k].leave)
			ret = attach_one(u, p->enter, path, pid, &v[k], false);
	return ret;
}

static int attach(struct uprobes *u, const struct uprobe_programs *p, const char *path, pid_t pid,
		  const struct uprobe *v, size_t n)
{
	enum uprobes_how how = uprobes_how();
	int ret;

	if (how == UPROBES_PERF)
		return attach_perf(u, p, path, pid, v, n);
	ret = attach_many(p->entry, TRACE_UPROBE_MULTI, 0, path, pid, v, n, false, &u->fd[0]);
	if (!ret && how == UPROBES_SESSION && p->session)
		return attach_many(p->session, TRACE_UPROBE_SESSION, 0, path, pid, v, n, true,
				   &u->fd[1]);
	if (!ret)
		ret = attach_many(p->leave, TRACE_UPROBE_MULTI, UPROBE_MULTI_RETURN, path, pid, v,
				  n, true, &u->fd[1]);
	if (!ret)
		ret = attach_many(p->enter, TRACE_UPROBE_MULTI, 0, path, pid, v, n, true,
				  &u->fd[2]);
	return ret;
}

int uprobes_attach(const struct uprobe_programs *p, const struct image *i, pid_t pid,
		   const struct uprobe *v, size_t n, struct uprobes **out, struct error *err)
{
	struct uprobes *u = calloc(1, sizeof(*u));
	char path[64];
	int fd, ret;

	*out = NULL;
	if (!u)
		return -ENOMEM;
	u->fd[0] = u->fd[1] = u->fd[2] = -1;
	fd = image_open(i);
	ret = fd;
	if (fd >= 0) {
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		ret = attach(u, p, path, pid, v, n);
		close(fd);
	}
	if (ret < 0) {
		uprobes_detach(u);
		return ret == -ENOMEM ? ret : attach_failed(err, ret, i);
	}
	*out = u;
	return 0;
}

void uprobes_detach(struct uprobes *u)
{
	if (!u)
		return;
	/* in the opposite order */
	for (int k = 2; k >= 0; k--)
		if (u->fd[k] >= 0)
			close(u->fd[k]);
	while (u->n_links)
		bpf_link__destroy(u->links[--u->n_links]);
	free(u->links);
	free(u);
}

/* ---- what stays ------------------------------------------------------------------ */

static int copied_pages(struct target *t, int pagemap, const struct mapping *m, uint64_t *pages)
{
	uint64_t entries[512], at = m->start;
	ssize_t got = 0;

	while (at < m->end && got >= 0) {
		size_t n = (m->end - at) / TARGET_PAGE;
		int ret = target_call_begin(t);

		if (ret)
			return ret;
		if (n > sizeof(entries) / sizeof(entries[0]))
			n = sizeof(entries) / sizeof(entries[0]);
		got = pread(pagemap, entries, n * 8, (off_t)(at / TARGET_PAGE * 8));
		target_call_end(t);
		if (got < 8)
			break;
		for (size_t k = 0; k < (size_t)got / 8; k++)
			if ((entries[k] & PAGEMAP_PRESENT) && !(entries[k] & PAGEMAP_FILE))
				++*pages;
		at += (uint64_t)got / 8 * TARGET_PAGE;
	}
	return 0;
}

int uprobes_traces(struct target *t, uint64_t start, uint64_t end, struct uprobes_traces *out)
{
	struct mappings *maps;
	uint64_t pages = 0;
	int pagemap, ret = mappings_read(t, &maps, NULL);

	memset(out, 0, sizeof(*out));
	if (ret)
		return ret;
	pagemap = target_proc_open(t, "pagemap");
	if (pagemap < 0)
		ret = pagemap;
	for (size_t k = 0; !ret && k < maps->n; k++) {
		const struct mapping *m = &maps->v[k];

		if (m->kind == MAPPING_KERNEL && !strcmp(m->path, "[uprobes]"))
			out->mapping_bytes += m->end - m->start;
		else if (m->kind == MAPPING_FILE && m->exec && !m->write && m->start >= start &&
			 m->end <= end)
			ret = copied_pages(t, pagemap, m, &pages);
	}
	out->copied_bytes = pages * TARGET_PAGE;
	if (pagemap >= 0)
		close(pagemap);
	mappings_free(maps);
	return ret;
}
