/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A tracing session: BPF programs attached to one target.
 *
 *	session_open()      compile tables, load what all programs share
 *	session_add()       a probe set: load, attach; events count from here
 *	session_baseline()  weights count from here (once, or whenever wanted)
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
#include "profile/recording.h"
#include "target/residency.h"
#include "trace/growth.h"

struct session;
struct set;
struct set_class; /* trace/set.h */

struct session_opts {
	double budget;	   /* share of one core that all of it may cost; 0: 0.01 */
	size_t ring_bytes; /* 0: 4 MiB; rounded up to a power of two */
	size_t user_bytes; /* bound on our own tables; 0: 256 MiB */
	bool verbose;	   /* libbpf's messages and the verifier's log to stderr */
};

/* Loads what is shared; nothing is traced yet. `vm` and `code` may be NULL: native
 * stacks only; all are borrowed until session_close(). Errors: EXIT_DENIED (which
 * capability is missing), EXIT_UNSUPPORTED (no BTF), EXIT_GONE, -ENOMEM. */
int session_open(struct target *t, struct vm *vm, struct code *code,
		 const struct session_opts *opts, struct session **out, struct error *err);
void session_close(struct session *s);

/* ---- probe sets ------------------------------------------------------------------------ */

extern const struct set_class set_growth;   /* page faults, and what takes pages away */
extern const struct set_class set_cpu;	    /* processor samples; struct set_cpu_opts */
extern const struct set_class set_sched;    /* times of threads, see trace/usage.h */
extern const struct set_class set_carriers; /* carriers made and given back */
extern const struct set_class set_gc;	    /* every collection; struct set_gc_opts */

extern const struct set_class set_offcpu; /* blocked time; struct set_offcpu_opts */

struct set_offcpu_opts {
	uint64_t min_ns; /* shorter ones are only summed up; 0: 1 ms */
};

struct set_cpu_opts {
	unsigned frequency;	/* samples per second of a thread's CPU time; 0: 49 */
	unsigned long_schedule; /* ms from which on a schedule is a long one; 0: 100 */
};

/*
 * Blocks of malloc and its relatives, with the stack that took them, until they are freed:
 * profile "native", bytes that are held and were taken since the set was attached (or
 * since the last session_baseline()), in whole blocks. On demand: the governor may
 * draw blocks (see struct native_sum) or detach it. May be added in the middle of a
 * session: session_add(s, &set_native, &opts, err), then poll on, then
 * session_profile(s, "native", ...).
 */
extern const struct set_class set_native; /* struct set_native_opts */

struct set_native_opts {
	/* Only what the library of this file name allocates (first on the stack that is
	 * none of libc, libstdc++ and the like). NULL: everything. */
	const char *library;
	size_t blocks; /* that may be noted at once; 0: 256k, some 35 MiB of kernel memory */
};

struct native_sum {
	uint64_t allocs, frees, failed; /* calls: blocks given out, noted blocks freed */
	uint64_t before, before_bytes;	/* freed or moved, from before the attach */
	uint64_t undrawn;		/* freed or moved, had not been drawn */
	uint64_t missed_frees;		/* whose address was given out again */
	uint64_t full, full_bytes;	/* there was no room for */
	uint64_t noted;			/* blocks in the map now */
	uint64_t unit;			/* highest: smaller blocks were drawn with probability
					 * bytes/unit, and stand for unit bytes each; 0: all noted */
	const char *refused;		/* functions without a probe and why, sentences; "" */
	const char *server;		/* file that serves malloc, raw */
	bool asked; /* which does not tell a block's size: bytes are what was asked for */
	uint64_t mapping_bytes, copied_bytes; /* what stays in the target after detaching */
};
/* Of a session that set_native was added to; all zero when it was not. */
void session_native_sum(struct session *s, struct native_sum *out);

/* As erlang:system_monitor/2 has them: longer than so many ms, a heap of at least so many
 * words (both generations) after a collection. */
struct set_gc_opts {
	uint64_t long_ms;     /* 0: 100 */
	uint64_t large_words; /* 0: 10,000,000 */
};

/* Adds a set to a session that may have been running for long. `opts` is the set's
 * own struct, NULL for defaults. A set that was removed starts anew: what it had seen
 * is forgotten. -EEXIST: it is attached; errors as session_open(), and
 * EXIT_UNSUPPORTED for a probe that this kernel does not have. Other sets go on. */
int session_add(struct session *s, const struct set_class *class, const void *opts,
		struct error *err);
/* Detaches it; its profile as of now can still be had. */
void session_remove(struct session *s, const struct set_class *class);
/* NULL when it was never added. */
struct set *session_set(const struct session *s, const struct set_class *class);

/* ---- running ---------------------------------------------------------------------------- */

/* Weights count from this picture on. With r NULL a pass of our own is made;
 * else r and m are borrowed until the next baseline or session_close(). Take the
 * picture after the sets were added; draining (session_poll(s, 0)) is done here. */
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

/* A profile of what was seen up to now: "growth", "cpu", or whatever the sets have.
 * `closing` (with its mappings) is the picture of now, see session_freeze(); NULL: a
 * pass of our own where one is needed, or, when the target is gone, everything that
 * was never given back. Frames are raw (FRAME_ERLANG, FRAME_NATIVE and the markers).
 * The caller frees it. -ENOENT: no such kind, or its probes were never attached. */
int session_profile(struct session *s, const char *kind, const struct residency *closing,
		    const struct mappings *maps, struct profile **out, struct error *err);

/* What the sets count by subject (a process, an allocator), up to now: calls `fn` for
 * each; what it returns other than 0 ends it and is returned. */
typedef int (*figures_fn)(void *ctx, const char *kind, const char *subject,
			  const struct recording_figure *v, size_t n);
int session_figures(struct session *s, figures_fn fn, void *ctx);

/* ---- figures ---------------------------------------------------------------------------- */

struct set_stats {
	const char *name; /* NULL: not added */
	bool attached;
	uint64_t count[COUNT_N];
	uint64_t missed;     /* hits during which a program was already running on that CPU */
	uint64_t kernel_ns;  /* spent in its programs and on the way to them (estimated) */
	double cpu_fraction; /* of one core, while it was attached */
	unsigned level;	     /* how often its stacks were halved */
	uint64_t map_bytes;  /* of its own maps */
	const char *notice;  /* what the governor did, a sentence; "" */
};

struct session_stats {
	double seconds;		      /* since session_open() */
	struct set_stats sets[SET_N]; /* by enum set_id; [SET_CORE]: the shared part */
	uint64_t count[COUNT_N];      /* sums over all sets */
	uint64_t records;	      /* that came through the ring buffer */
	uint64_t lost_records;	      /* ring buffer full: events + stacks */
	uint64_t missed;
	uint64_t lost_stacks;		 /* no room in our own tables */
	uint64_t stacks, owners;	 /* distinct */
	uint64_t kernel_bytes;		 /* of all maps, as the kernel charges them */
	uint64_t user_bytes;		 /* of our own tables */
	size_t modules, modules_without; /* native modules; of them without unwind rows */
	size_t rows, rules;
	uint64_t kernel_ns, own_ns; /* time in programs (estimated) and in our process */
	double cpu_fraction;	    /* of one core, both, since session_open() */
	double cpu_now;		    /* over the last second or so */
	bool thinned;		    /* the governor takes fewer stacks than it would like to */
	bool over_budget;	    /* and cannot do more */
};
void session_stats(struct session *s, struct session_stats *out);
/* Share of the stacks that reached the Erlang root or the thread's start, 0..1;
 * 1 when there were none. */
double session_complete(const struct session_stats *st);
/* Of the last "growth" profile; all zero when there was none. */
void session_growth_sum(const struct session *s, struct growth_sum *out);
/* Are only those system calls seen that take memory away or move it? False: the tracepoint of
 * all of them is used, which costs every process of the machine; see bpf/memory.bpf.c. */
bool session_growth_direct(const struct session *s);

#endif
