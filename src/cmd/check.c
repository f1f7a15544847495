/* SPDX-License-Identifier: Apache-2.0 */
/* beamray check: what this kernel, these capabilities and this target allow. */
#include "cmd/command.h"

#include <cap-ng.h>
#include <errno.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "ledger/look.h"
#include "report/memory.h"
#include "report/paragraph.h"
#include "target/escape.h"

static const char usage[] =
	"usage: beamray check [-p PID] [--json]\n"
	"\n"
	"What this kernel, the capabilities of this user and (with -p) this process\n"
	"allow, with the reason where the answer is no. Changes nothing.\n"
	"\n"
	"  -p, --pid PID      look at a beam.smp process too\n"
	"      --json         schema beamray.check/1\n"
	"  -o, --output FILE  write there instead of to the terminal\n"
	"  -h, --help         this text\n"
	"\n"
	"Exit code 0 when `beamray memory` would work (with -p), else 3, 4 or 5.\n";

struct answers {
	json_t *list;
};

static void answer(struct answers *a, const char *section, const char *what, bool ok,
		   const char *fmt, ...) __attribute__((format(printf, 5, 6)));

static void answer(struct answers *a, const char *section, const char *what, bool ok,
		   const char *fmt, ...)
{
	char raw[400], safe[800];
	json_t *j = json_object();
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(raw, sizeof(raw), fmt, ap);
	va_end(ap);
	json_object_set_new(j, "section", json_string(section));
	json_object_set_new(j, "what", json_string(what));
	json_object_set_new(j, "ok", json_boolean(ok));
	json_object_set_new(j, "why", json_string(escape_string(safe, sizeof(safe), raw)));
	json_array_append_new(a->list, j);
}

static bool read_number(const char *path, long *out)
{
	FILE *f = fopen(path, "re");
	bool ok = f && fscanf(f, "%ld", out) == 1;

	if (f)
		fclose(f);
	return ok;
}

static void check_kernel(struct answers *a)
{
	struct utsname u;
	unsigned major = 0, minor = 0;
	long v;

	if (uname(&u) == 0) {
		sscanf(u.release, "%u.%u", &major, &minor);
		answer(a, "kernel", "x86-64", strcmp(u.machine, "x86_64") == 0, "%s %s", u.machine,
		       u.release);
	}
	answer(a, "kernel", "PAGEMAP_SCAN", major > 6 || (major == 6 && minor >= 7),
	       major > 6 || (major == 6 && minor >= 7)
		       ? "zero pages are told from resident ones in one pass"
		       : "older than 6.7: zero pages are recognised by frame number (CAP_SYS_ADMIN)");
	answer(a, "kernel", "probes in functions", major > 5 || (major == 5 && minor >= 15),
	       major > 6 || (major == 6 && minor >= 6)
		       ? "many at once: collections, carriers, malloc"
	       : major > 5 || (major == 5 && minor >= 15)
		       ? "older than 6.6: one by one, and that wants CAP_SYS_ADMIN"
		       : "older than 5.15: probes cannot be told apart; carriers and malloc are not "
			 "traced");
	answer(a, "kernel", "BTF", access("/sys/kernel/btf/vmlinux", R_OK) == 0,
	       "/sys/kernel/btf/vmlinux is %s; tracing commands need it",
	       access("/sys/kernel/btf/vmlinux", R_OK) == 0 ? "there" : "missing");
	if (read_number("/proc/sys/kernel/yama/ptrace_scope", &v))
		answer(a, "kernel", "ptrace_scope", v == 0, "Yama's ptrace_scope is %ld: %s", v,
		       v == 0 ? "a user may look at processes of its own"
			      : "only CAP_SYS_PTRACE may read another process");
	else
		answer(a, "kernel", "ptrace_scope", true, "no Yama: a user may look at its own");
}

static void check_capabilities(struct answers *a)
{
	static const struct {
		unsigned cap;
		const char *name, *what;
	} caps[] = {
		{ CAP_SYS_PTRACE, "CAP_SYS_PTRACE",
		  "read the memory of a node: memory, list, doctor" },
		{ CAP_DAC_READ_SEARCH, "CAP_DAC_READ_SEARCH",
		  "open the page map of a node that runs as another user" },
		{ CAP_BPF, "CAP_BPF", "load tracing programs: record, doctor" },
		{ CAP_PERFMON, "CAP_PERFMON", "attach tracing programs: record, doctor" },
		{ CAP_SYS_ADMIN, "CAP_SYS_ADMIN",
		  "page frame numbers (zero pages before 6.7, huge zero pages)" },
		{ CAP_CHECKPOINT_RESTORE, "CAP_CHECKPOINT_RESTORE",
		  "open the files that the node has mapped even when replaced" },
	};
	size_t i;

	capng_get_caps_process();
	for (i = 0; i < sizeof(caps) / sizeof(caps[0]); i++)
		answer(a, "capabilities", caps[i].name,
		       capng_have_capability(CAPNG_EFFECTIVE, caps[i].cap), "to %s", caps[i].what);
}

static bool same_namespace(const struct target *t, const char *ns)
{
	char mine[64], path[64];
	struct stat a, b;
	int fd;
	bool same;

	snprintf(mine, sizeof(mine), "/proc/self/ns/%s", ns);
	snprintf(path, sizeof(path), "ns/%s", ns);
	fd = target_proc_open(t, path);
	if (fd < 0)
		return false;
	same = stat(mine, &a) == 0 && fstat(fd, &b) == 0 && a.st_ino == b.st_ino;
	close(fd);
	return same;
}

static void check_vm(struct answers *a, struct observer *ob)
{
	struct vm *vm = ob->vm;
	unsigned missing = 0;
	char list[256] = "";
	size_t i;

	answer(a, "vm", "release", true, "OTP %s, erts %s, %s", vm->otp_release, vm->erts_version,
	       vm->jit ? "JIT" : "emulator");
	answer(a, "vm", "layout", true, "%s", vm->layout_note);
	for (i = 0; i < A_N; i++) {
		const struct anchor *an = &vm->anchors.v[i];

		if (an->addr)
			continue;
		missing++;
		if (strlen(list) + 40 < sizeof(list)) {
			strcat(list, *list ? ", " : ": ");
			strcat(list, anchor_name((enum anchor_id)i));
		}
	}
	answer(a, "vm", "symbols", image_symbol_count(vm->exe) > 0,
	       "%zu from %s; the VM's globals were found by %s", image_symbol_count(vm->exe),
	       image_symbol_source(vm->exe), vm->anchors.symbols);
	answer(a, "vm", "globals", missing == 0, "%u of %d not found%s", missing, (int)A_N, list);
	for (i = 0; i < vm->n_checks; i++)
		answer(a, "vm", vm->checks[i].what, vm->checks[i].ok, "%s", vm->checks[i].result);
}

static int check_target(struct answers *a, pid_t pid, struct error *err)
{
	struct target *t = NULL;
	struct observer *ob = NULL;
	struct look *l = NULL;
	int ret = target_open(pid, &t, err);

	if (ret < 0) {
		answer(a, "target", "process", false, "%s", err->text);
		return ret;
	}
	answer(a, "target", "process", true, "%s, started %s, build-id %s", target_exe(t),
	       target_start_time(t), target_build_id(t)[0] ? target_build_id(t) : "none");
	answer(a, "target", "namespaces", true, "pid namespace %s (pid %d there), mounts %s",
	       same_namespace(t, "pid") ? "ours" : "another", (int)target_nspid(t),
	       same_namespace(t, "mnt") ? "ours" : "others: files are opened through the process");
	ret = observer_open(t, &ob, err);
	if (ret < 0) {
		answer(a, "target", "Erlang VM", false, "%s", err->text);
		if (ret != -ETIMEDOUT)
			target_close(t);
		return ret;
	}
	check_vm(a, ob);
	ret = look_take(ob, NULL, &l, err);
	if (ret == 0) {
		answer(a, "vm", "segment cache", l->ranges->mseg_known, "%s",
		       l->ranges->mseg_known ? "found: memory of nobody is known to be native"
					     : l->ranges->why);
		answer(a, "vm", "statistics", true, "%zu allocator instances, %zu carriers",
		       l->allocators->n_inst, l->carriers->n);
	} else {
		answer(a, "vm", "statistics", false, "%s", err->text);
	}
	look_free(l);
	if (ret != -ETIMEDOUT) {
		observer_close(ob);
		target_close(t);
	}
	return ret;
}

static void print_text(FILE *to, const json_t *list)
{
	const char *section = "";
	char lead[64];
	size_t i;
	json_t *j;

	json_array_foreach(list, i, j) {
		const char *s = json_string_value(json_object_get(j, "section"));

		if (strcmp(s, section) != 0)
			fprintf(to, "%s%s\n", *section ? "\n" : "", s);
		section = s;
		snprintf(lead, sizeof(lead), "  %-3s  %-22s ",
			 json_is_true(json_object_get(j, "ok")) ? "yes" : "no",
			 json_string_value(json_object_get(j, "what")));
		paragraph(to, lead, json_string_value(json_object_get(j, "why")), columns_of(to));
	}
}

static int run(int argc, char **argv)
{
	struct options o = { 0 };
	struct error err = { 0 };
	struct answers a;
	json_t *doc;
	FILE *to;
	int ret = options_parse(argc, argv, &cmd_check, &o, NULL, NULL);

	if (ret >= 0)
		return ret;
	to = output_open(&o);
	if (!to)
		return EXIT_USAGE;
	a.list = json_array();
	check_kernel(&a);
	check_capabilities(&a);
	ret = o.pid ? check_target(&a, o.pid, &err) : 0;
	if (o.json) {
		doc = json_pack("{s:s, s:b, s:O}", "schema", "beamray.check/1", "ok", ret == 0,
				"answers", a.list);
		json_dumpf(doc, to, JSON_COMPACT);
		fputc('\n', to);
		json_decref(doc);
	} else {
		print_text(to, a.list);
	}
	json_decref(a.list);
	if (ret < 0)
		ret = command_fail(&err, ret);
	if (!output_close(&o, to) && ret == EXIT_OK)
		ret = EXIT_INCOMPLETE;
	return ret;
}

const struct command cmd_check = {
	.name = "check",
	.summary = "what this kernel, these capabilities and this target allow",
	.usage = usage,
	.privileges = PRIVILEGE_READ | PRIVILEGE_TRACE | PRIVILEGE_ATTACH | PRIVILEGE_WRITE,
	.run = run,
};
