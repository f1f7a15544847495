/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the kernel says of a process as a whole: status, smaps_rollup, limits,
 * threads. (The memory cgroup that holds it is in system_cgroup.c.)
 *
 * smaps and smaps_rollup walk page tables under the target's mmap_lock. The
 * kernel shows as many mappings per read() as were asked for, and drops the
 * lock between two: smaps is read with a buffer smaller than one mapping's
 * text, so that each is shown under a lock of its own (fs/seq_file.c,
 * fs/proc/task_mmu.c, Linux 5.10-6.18).
 */
#include "target/system_cgroup.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ROLLUP_RSS_MAX (16ULL << 30)
#define THREADS_MAX    (1u << 20)
#define SMAPS_TEXT_MAX (1ULL << 30)
#define SMAPS_READ     512 /* bytes: less than the text of one mapping */

/* "VmRSS:	  123 kB" out of a text of such lines. */
static uint64_t kb_value(const char *text, const char *key)
{
	size_t len = strlen(key);
	const char *p;

	for (p = text; p && *p; p = strchr(p, '\n')) {
		if (*p == '\n')
			p++;
		if (strncmp(p, key, len) == 0 && p[len] == ':') {
			char *end;
			unsigned long long v;

			errno = 0;
			v = strtoull(p + len + 1, &end, 10);
			if (end == p + len + 1 || errno || v > (SYSTEM_UNKNOWN >> 11))
				return SYSTEM_UNKNOWN;
			return strncmp(end, " kB", 3) == 0 ? v * 1024 : v;
		}
	}
	return SYSTEM_UNKNOWN;
}

/* smaps_rollup -------------------------------------------------------------- */

static void rollup_read(struct target *t, enum system_rollup rollup, struct system_memory *out)
{
	char text[4096];
	size_t len = 0;
	ssize_t n;
	int fd, e, ret;

	if (rollup == SYSTEM_ROLLUP_NEVER) {
		snprintf(out->rollup_reason, sizeof(out->rollup_reason),
			 "smaps_rollup was not read");
		return;
	}
	if (rollup == SYSTEM_ROLLUP_AUTO &&
	    (out->rss == SYSTEM_UNKNOWN || out->rss >= ROLLUP_RSS_MAX)) {
		snprintf(out->rollup_reason, sizeof(out->rollup_reason),
			 "smaps_rollup holds the memory map of the process while it walks all of it, "
			 "so it is read only below 16 GB");
		return;
	}
	fd = target_proc_open(t, "smaps_rollup");
	if (fd < 0) {
		snprintf(out->rollup_reason, sizeof(out->rollup_reason),
			 "cannot open smaps_rollup: %s", strerror(-fd));
		return;
	}
	do {
		/* The walk of a huge process may take longer than the two seconds
		 * after which a call counts as stuck: whoever asked for it waits. */
		bool marked = out->rss != SYSTEM_UNKNOWN && out->rss < ROLLUP_RSS_MAX;

		ret = marked ? target_call_begin(t) : 0;
		if (ret < 0) {
			n = -1;
			e = -ret;
			break;
		}
		n = read(fd, text + len, sizeof(text) - 1 - len);
		e = errno;
		if (marked)
			target_call_end(t);
		if (n > 0)
			len += (size_t)n;
	} while (n > 0 || (n < 0 && e == EINTR));
	close(fd);
	if (n < 0) {
		snprintf(out->rollup_reason, sizeof(out->rollup_reason),
			 "cannot read smaps_rollup: %s", strerror(e));
		return;
	}
	text[len] = '\0';
	out->rollup_rss = kb_value(text, "Rss");
	out->pss = kb_value(text, "Pss");
	out->lazyfree = kb_value(text, "LazyFree");
	if (out->pss == SYSTEM_UNKNOWN)
		snprintf(out->rollup_reason, sizeof(out->rollup_reason),
			 "smaps_rollup has no figure for Pss");
}

/* cgroup -------------------------------------------------------------------- */

static void cgroup_read(struct target *t, struct system_memory *out)
{
	char *text;
	FILE *mounts;

	if (target_proc_read(t, "cgroup", 1 << 18, &text) < 0) {
		snprintf(out->cgroup_reason, sizeof(out->cgroup_reason),
			 "cannot read the cgroup of the process");
		return;
	}
	mounts = fopen("/proc/self/mountinfo", "re");
	system_cgroup(text, mounts, out);
	if (mounts)
		fclose(mounts);
	free(text);
}

/* limits -------------------------------------------------------------------- */

static uint64_t limit_value(const char *text, const char *name)
{
	const char *p = strstr(text, name);
	char *end;
	unsigned long long v;

	if (!p)
		return SYSTEM_UNKNOWN;
	p += strlen(name);
	p += strspn(p, " ");
	if (strncmp(p, "unlimited", 9) == 0)
		return SYSTEM_UNLIMITED;
	v = strtoull(p, &end, 10);
	return end == p ? SYSTEM_UNKNOWN : v;
}

int system_memory(struct target *t, enum system_rollup rollup, struct system_memory *out,
		  struct error *err)
{
	uint64_t threads;
	char *text;
	ssize_t n;

	memset(out, 0, sizeof(*out));
	out->rss = out->vmsize = out->swap = out->page_tables = SYSTEM_UNKNOWN;
	out->pss = out->lazyfree = out->rollup_rss = SYSTEM_UNKNOWN;
	out->cgroup_usage = out->cgroup_limit = out->cgroup_left = SYSTEM_UNKNOWN;
	out->limit_as = out->limit_nofile = SYSTEM_UNKNOWN;
	n = target_proc_read(t, "status", 65536, &text);
	if (n < 0)
		return error_set(err, error_exit_code((int)n), (int)n,
				 "cannot read the status of process %d: %s", (int)target_pid(t),
				 strerror((int)-n));
	out->rss = kb_value(text, "VmRSS");
	out->vmsize = kb_value(text, "VmSize");
	out->swap = kb_value(text, "VmSwap");
	out->page_tables = kb_value(text, "VmPTE");
	threads = kb_value(text, "Threads");
	out->threads = threads < UINT_MAX ? (unsigned)threads : 0;
	free(text);
	if (target_proc_read(t, "limits", 65536, &text) > 0) {
		out->limit_as = limit_value(text, "Max address space");
		out->limit_nofile = limit_value(text, "Max open files");
		free(text);
	}
	rollup_read(t, rollup, out);
	cgroup_read(t, out);
	return target_check(t, err);
}

/* threads ------------------------------------------------------------------- */

/* A file in task/TID. */
static ssize_t thread_file(int task, const char *tid, const char *name, char *buf, size_t size)
{
	char path[64];

	snprintf(path, sizeof(path), "%.20s/%s", tid, name);
	return system_file(task, path, buf, size);
}

/* syscall is "running", or "nr args(6) sp pc" in a system call, or "-1 sp pc"
 * when blocked elsewhere: the stack pointer is the last but one. */
static uint64_t stack_pointer(const char *text)
{
	const char *pc = strrchr(text, ' '), *sp;
	char *end;
	unsigned long long v;

	if (!pc || pc == text)
		return 0;
	for (sp = pc - 1; sp > text && *sp != ' '; sp--)
		;
	v = strtoull(sp, &end, 16);
	return end == pc ? v : 0;
}

ssize_t system_threads(struct target *t, struct system_thread **out)
{
	struct system_thread *v = NULL;
	size_t n = 0, size = 0;
	int task = target_proc_open(t, "task");
	struct dirent *d;
	DIR *dir;

	*out = NULL;
	if (task < 0)
		return task;
	dir = fdopendir(task);
	if (!dir) {
		int e = errno;

		close(task);
		return -e;
	}
	while (n < THREADS_MAX && (d = readdir(dir))) {
		struct system_thread one = { .tid = (pid_t)strtol(d->d_name, NULL, 10) };
		char text[256];
		ssize_t len;

		if (!isdigit((unsigned char)d->d_name[0]))
			continue;
		len = thread_file(task, d->d_name, "comm", text, sizeof(text));
		if (len < 0)
			continue; /* it has just ended */
		if (len && text[len - 1] == '\n')
			text[len - 1] = '\0';
		snprintf(one.comm, sizeof(one.comm), "%.15s", text);
		if (thread_file(task, d->d_name, "syscall", text, sizeof(text)) > 0)
			one.stack_pointer = stack_pointer(text);
		if (n == size) {
			size_t bigger = size ? size * 2 : 64;
			struct system_thread *w = realloc(v, bigger * sizeof(*v));

			if (!w) {
				free(v);
				closedir(dir);
				return -ENOMEM;
			}
			v = w;
			size = bigger;
		}
		v[n++] = one;
	}
	closedir(dir);
	*out = v;
	return (ssize_t)n;
}

/* smaps --------------------------------------------------------------------- */

struct smaps_parser {
	struct system_smaps now;
	bool open; /* `now` has begun */
	int (*fn)(const struct system_smaps *s, void *arg);
	void *arg;
	char line[256]; /* a longer one (a path) is cut: its end is not needed */
	size_t len;
};

/* A line: "start-end perms ..." begins a mapping, "Key:  123 kB" is a figure. */
static int smaps_line(struct smaps_parser *p)
{
	static const struct {
		const char *key;
		size_t at;
	} figures[] = {
		{ "Rss:", offsetof(struct system_smaps, rss) },
		{ "Anonymous:", offsetof(struct system_smaps, anonymous) },
		{ "LazyFree:", offsetof(struct system_smaps, lazyfree) },
		{ "Swap:", offsetof(struct system_smaps, swap) },
		{ "AnonHugePages:", offsetof(struct system_smaps, anon_huge) },
	};
	unsigned long long start, end;
	size_t k;
	int ret = 0;

	p->line[p->len] = '\0';
	if (isupper((unsigned char)p->line[0])) {
		for (k = 0; k < sizeof(figures) / sizeof(figures[0]); k++) {
			size_t len = strlen(figures[k].key);

			if (strncmp(p->line, figures[k].key, len) == 0) {
				uint64_t kb = strtoull(p->line + len, NULL, 10);

				memcpy((char *)&p->now + figures[k].at, &(uint64_t){ kb * 1024 },
				       sizeof(uint64_t));
			}
		}
	} else if (sscanf(p->line, "%llx-%llx ", &start, &end) == 2) {
		if (p->open)
			ret = p->fn(&p->now, p->arg);
		memset(&p->now, 0, sizeof(p->now));
		p->now.start = start;
		p->now.end = end;
		p->open = true;
	}
	p->len = 0;
	return ret;
}

int system_smaps(struct target *t, int (*fn)(const struct system_smaps *s, void *arg), void *arg)
{
	struct smaps_parser p = { .fn = fn, .arg = arg };
	int fd = target_proc_open(t, "smaps"), ret = 0, e;
	uint64_t total = 0;
	char buf[SMAPS_READ];
	ssize_t n, k;

	if (fd < 0)
		return fd;
	while (!ret) {
		ret = target_call_begin(t);
		if (ret < 0)
			break;
		n = read(fd, buf, sizeof(buf));
		e = errno;
		target_call_end(t);
		if (n < 0 && e == EINTR)
			continue;
		if (n < 0) {
			ret = -e;
			break;
		}
		if (!n) {
			if (p.open)
				ret = fn(&p.now, arg);
			break;
		}
		total += (uint64_t)n;
		if (total > SMAPS_TEXT_MAX) {
			ret = -E2BIG;
			break;
		}
		for (k = 0; k < n && !ret; k++) {
			if (buf[k] == '\n')
				ret = smaps_line(&p);
			else if (p.len < sizeof(p.line) - 1)
				p.line[p.len++] = buf[k];
		}
	}
	close(fd);
	return ret;
}
