/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One BPF program at many sites of one file of the target. (uprobes.c opens with
 * the page on what the kernel does.)
 *
 *	uprobes_prepare()	before the programs are loaded: which of them, and as what
 *	uprobes_attach()	after; as often as wanted, also while the session runs
 *	uprobes_detach()	the text is original again
 *	uprobes_traces()	what stays behind in the target: to be printed
 *
 * An entry program alone is for what a function is called with. For what it returns,
 * too, there is a session program (one program for both, bpf/uprobe.bpf.h tells which
 * it is) where the kernel has them, and else an entry and a return program.
 *
 * Needs CAP_BPF and CAP_PERFMON; CAP_SYS_ADMIN where it falls back to perf.
 */
#ifndef BEAMRAY_TRACE_UPROBES_H
#define BEAMRAY_TRACE_UPROBES_H

#include "trace/sites.h"

struct bpf_program;
struct uprobes;

enum uprobes_how {		    /* what the kernel has; each includes those before it */
		   UPROBES_PERF,    /* one perf event a site */
		   UPROBES_MULTI,   /* all sites in one link, 6.6 with the pid filter repaired */
		   UPROBES_SESSION, /* and one program for entry and return, 6.13 */
};
/* Asks the kernel, once; needs the capabilities (without them: UPROBES_PERF).
 * BEAMRAY_UPROBES=perf|multi in the environment makes less of it, for tests. */
enum uprobes_how uprobes_how(void);

/* Programs of one object that belong together, in sections "uprobe" or "uretprobe"
 * (leave); those of bpf/uprobe.bpf.h. Any may be NULL if it is not needed. */
struct uprobe_programs {
	struct bpf_program *entry;	   /* where the return is not wanted */
	struct bpf_program *session;	   /* where it is ... */
	struct bpf_program *enter, *leave; /* ... and the kernel has no session probes */
};
/* Sets what is loaded, and as which type. */
void uprobes_prepare(const struct uprobe_programs *p);

struct uprobe {
	struct site site; /* chosen with SITE_RETURN if `leave` */
	uint64_t cookie;  /* bpf_get_attach_cookie(); 0 for all before Linux 5.15 */
	bool leave;	  /* the return is wanted, too */
};

/* Attaches at `n` sites of `i`, for the process `pid` alone. All or nothing.
 * Errors: EXIT_DENIED, EXIT_UNSUPPORTED (a site that the kernel refuses, no uprobes),
 * EXIT_GONE, -ENOMEM. */
int uprobes_attach(const struct uprobe_programs *p, const struct image *i, pid_t pid,
		   const struct uprobe *v, size_t n, struct uprobes **out, struct error *err);
/* Detaches and frees; NULL is nothing. Return probes that are under way when it is
 * called still return through the kernel; the program does not see them. */
void uprobes_detach(struct uprobes *u);

struct uprobes_traces {
	uint64_t mapping_bytes; /* the [uprobes] mapping, one page, once there was a hit */
	uint64_t copied_bytes;	/* pages of program text that are copies, not the file's */
};
/* What uprobes have left in the target; pages of text only of [start, end), one file's or
 * everything. Reads the maps, and the pagemap of executable file mappings there. */
int uprobes_traces(struct target *t, uint64_t start, uint64_t end, struct uprobes_traces *out);

#endif
