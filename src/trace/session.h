/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A tracing session: BPF programs attached to one target.
 *
 *	session_open()      compile tables, load, attach: events count from here
 *	session_baseline()  growth counts from here (once, or whenever wanted)
 *	session_poll()      drain the ring buffer; call it at least every 200 ms
 *	session_profile()   what has been seen up to now; as often as wanted
 *	session_stop()      detach; profiles can still be had
 *	session_close()
 *
 * Programs and maps belong to file descriptors of ours, nothing is pinned: when
 * beamray dies, of whatever, the kernel takes them away. All functions are for one
 * thread. The target is neither stopped nor written to.
 *
 * Needs CAP_BPF and CAP_PERFMON for the programs, CAP_SYS_PTRACE (or the node's own
 * user) for the target's memory, and a kernel with BTF (/sys/kernel/btf/vmlinux).
 */
#ifndef BEAMRAY_TRACE_SESSION_H
#define BEAMRAY_TRACE_SESSION_H

#include "erts/code.h"
#include "events.h"
#include "profile/profile.h"
#include "target/residency.h"
#include "trace/growth.h"

struct session;

enum session_probe {			 /* bits */
		     SESSION_GROWTH = 1, /* page faults, and system calls that take pages away */
		     SESSION_CPU = 2,	 /* processor samples */
};

struct session_opts {
	unsigned probes;    /* enum session_probe; 0: SESSION_GROWTH */
	unsigned frequency; /* of processor samples, per second of CPU time; 0: 49 */
	double budget;	    /* share of one core that all of it may cost; 0: 0.01 */
	size_t ring_bytes;  /* 0: 4 MiB; rounded up to a power of two */
	size_t user_bytes;  /* bound on our own tables; 0: 256 MiB */
	bool no_baseline;   /* session_baseline() follows at once: skip our own pass */
	bool verbose;	    /* libbpf's messages and the verifier's log to stderr */
};

/* Loads and attaches. `vm` and `code` may be NULL: native stacks only; all are
 * borrowed until session_close(). Errors: EXIT_DENIED (which capability is
 * missing), EXIT_UNSUPPORTED (no BTF, a tracepoint that is not there),
 * EXIT_GONE, -ENOMEM. */
int session_open(struct target *t, struct vm *vm, struct code *code,
		 const struct session_opts *opts, struct session **out, struct error *err);
void session_close(struct session *s);

/* Growth counts from this picture on. With r NULL a pass of our own is made;
 * else r and m are borrowed until the next baseline or session_close(). Take the
 * picture after session_open(), drain (session_poll(s, 0)) is done here. */
int session_baseline(struct session *s, const struct residency *r, const struct mappings *m,
		     struct error *err);

/* Drains for `ms` milliseconds (0: once). Returns 0 also when a signal came
 * early; -ESRCH when the target has ended, -ESTALE when it has exec'ed; what
 * was seen until then stays. */
int session_poll(struct session *s, int ms, struct error *err);

/* To be called just before a closing picture of one's own is taken: what the
 * target gives back from now on counts only after the next session_profile(). */
void session_freeze(struct session *s);

/* Detaches the programs and drains what is left. */
void session_stop(struct session *s);

/* A profile of what was seen up to now: "growth", "cpu". For growth, `closing` (with
 * its mappings) is the picture of now, see session_freeze(); NULL: a pass of our own, or, when the
 * target is gone, everything that was never given back. Frames are raw
 * (FRAME_ERLANG, FRAME_NATIVE and the markers). The caller frees it.
 * -ENOENT: no such kind, or its probes are not attached. */
int session_profile(struct session *s, const char *kind, const struct residency *closing,
		    const struct mappings *maps, struct profile **out, struct error *err);

struct session_stats {
	double seconds;		 /* since session_open() */
	uint64_t count[COUNT_N]; /* enum counter: hits, stacks, cuts, lost ... */
	uint64_t records;	 /* that came through the ring buffer */
	uint64_t lost_records;	 /* ring buffer full: events + stacks */
	uint64_t missed;	 /* hits during which a program was already running on that CPU */
	uint64_t lost_stacks;	 /* no room in our own tables */
	uint64_t stacks, owners; /* distinct */
	uint64_t kernel_bytes;	 /* of all maps, as the kernel charges them */
	uint64_t user_bytes;	 /* of our own tables */
	size_t modules, modules_without; /* native modules; of them without unwind rows */
	size_t rows, rules;
	uint64_t kernel_ns, own_ns; /* time in programs (estimated) and in our process */
	double cpu_fraction;	    /* of one core, both, since session_open() */
	double cpu_now;		    /* over the last second or so */
	bool thinned;		    /* the governor takes fewer stacks than it would like to */
	bool over_budget;	    /* and cannot do more */
	struct growth_sum growth;   /* of the last "growth" profile */
};
void session_stats(struct session *s, struct session_stats *out);
/* Share of the stacks that reached the Erlang root or the thread's start, 0..1;
 * 1 when there were none. */
double session_complete(const struct session_stats *st);

#endif
