/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Probe sets: what a session can trace.
 *
 * The session itself knows the target, its names, the tables that stacks are walked
 * with, the ring buffer and the budget; it attaches nothing but a watch on exit and
 * exec. What is traced is in sets, one file each (set_growth.c, set_cpu.c), added when
 * the session is opened or at any time later:
 *
 *	session_open()
 *	session_add(s, &set_growth, NULL)	open, attach
 *	...					record, tick; thin when it costs too much
 *	session_profile(s, "growth")		profile
 *	session_remove(s, &set_growth)		detach: what it has seen can still be had
 *	session_close()				close
 *
 * To add a set: an id in enum set_id, its records in enum event_kind (both in
 * bpf/events.h); bpf/NAME.bpf.c, which begins with
 *
 *	#define PROBE_SET     SET_NAME		whose counters it counts on
 *	#define SCRATCH_SLOTS 1			stacks that may be walked at once on a CPU
 *	#include "target.bpf.h"			is_target(), thread_get(), send(), count()
 *	#include "unwind.bpf.h"			stack_walk(), stack_send(), process_send()
 *
 * and src/trace/set_NAME.c with a `const struct set_class set_NAME`. Its open() calls
 * set_load(), which shares the maps of bpf/state.bpf.h by their names; maps with names
 * of their own stay its own. Programs count hits (COUNT_HITS), time one in 64 of those
 * that walk no stack (COUNT_TIMED, COUNT_TIMED_NS), and call stack_count() for the
 * others: that is what the governor computes the cost from.
 */
#ifndef BEAMRAY_TRACE_SET_H
#define BEAMRAY_TRACE_SET_H

#include <bpf/libbpf.h>

#include "events.h"
#include "profile/profile.h"
#include "target/residency.h"
#include "trace/session.h"
#include "trace/stacks.h"

/* What every set's own struct begins with. */
struct set {
	const struct set_class *class;
	struct session *session;
	struct bpf_object *object; /* set_load() puts it here; closed by the set's close() */
	bool attached;
	bool frozen;	 /* between freeze() and thaw() */
	unsigned level;	 /* of the governor, 0: nothing is left out */
	unsigned hit_ns; /* in place of the class's, when it is not 0 */
	uint64_t last_kernel_ns;
	double cost;	  /* share of one core over the last interval */
	char notice[200]; /* what the governor did to it, a sentence; empty if nothing */
};

struct set_profile_kind {
	const char *kind, *unit; /* "growth", "bytes"; kind NULL ends the list */
};

/* What is resident now, for sets whose weight depends on it. */
struct set_picture {
	const struct residency *res;
	const struct mappings *maps;
};

/* Functions may be NULL where nothing is to be done, except open() and close(). */
struct set_class {
	const char *name; /* in sentences, statistics and recordings */
	enum set_id id;
	const struct set_profile_kind *kinds; /* of profiles; NULL: none */
	const uint32_t *events;		      /* kinds of records that are its own, ends with 0 */
	unsigned hit_ns; /* what the kernel spends on a hit outside of the program */
	unsigned levels; /* how many steps thin() can go; each should halve the cost */
	bool on_demand;	 /* may be detached when thinning is not enough */

	/* Loads what will be attached. `opts` is the set's own, may be NULL. The struct
	 * in *out is freed by close(), also when open() itself or attach() fails. */
	int (*open)(struct session *s, const void *opts, struct set **out, struct error *err);
	int (*attach)(struct set *set, struct error *err);
	/* A record of one of its kinds; the size is at least that of struct event. */
	void (*record)(struct set *set, const struct event *e, size_t size);
	/* Forgets: what comes from now on counts. The picture (may be NULL) is
	 * borrowed until the next baseline() or close(). */
	int (*baseline)(struct set *set, const struct set_picture *now, struct error *err);
	/* A closing picture is about to be taken: later losses are not in it. Records go
	 * on to come; thaw() is called when the picture has been used. Only sets that have
	 * freeze() get a closing picture. */
	void (*freeze)(struct set *set);
	void (*thaw)(struct set *set);
	/* Puts weights into an empty profile. `closing` is NULL when the target has gone. */
	int (*profile)(struct set *set, const char *kind, const struct set_picture *closing,
		       struct profile *p, struct error *err);
	/* What it counts by subject, see session_figures(). */
	int (*figures)(struct set *set, figures_fn fn, void *ctx);
	/* Takes stacks half as often with every level. */
	void (*thin)(struct set *set, unsigned level);
	/* Every session_poll(), after the records. */
	void (*tick)(struct set *set);
	uint64_t (*memory)(const struct set *set); /* bytes of its own tables */
	void (*detach)(struct set *set);
	void (*close)(struct set *set);
};

/* ---- for sets: what the session does for them ---------------------------------------- */

/* Loads an opened object: gives it the session's configuration (`cfg` is its
 * skeleton's rodata->cfg) and the shared maps. Sizes and knobs of its own are set
 * before. */
int set_load(struct set *set, struct bpf_object *object, const volatile struct config *cfg,
	     struct error *err);
/* A sentence for what libbpf or the kernel refused, `what` as in "attaching". */
int set_failed(struct error *err, int ret, const char *what);
/* The maps of its threads should have room for so many. */
unsigned session_threads(const struct session *s);
struct target *session_target(const struct session *s);
struct vm *session_vm(const struct session *s);
struct code *session_code(const struct session *s);
struct stacks *session_stacks(const struct session *s);
unsigned session_role(const struct session *s, uint32_t tid); /* enum thread_role */
/* Did the target end, or exec? */
bool session_target_gone(struct session *s);

/* The root frame of what a process (or, with process 0, a thread) did: a name. Valid
 * until the next call. */
const char *set_label(struct set *set, uint64_t process, uint32_t tid);
/* Who a stack belongs to, as a number that stays; 0: no room (counted). */
uint32_t set_owner(struct set *set, uint64_t stack, uint64_t process, uint32_t tid);

/* Weights by owner. */
struct weight {
	int64_t net;
	uint64_t gross, count;
};

struct weights {
	struct weight *v;
	size_t n;
};

/* NULL: out of memory. Valid until the next call. */
struct weight *weights_at(struct weights *w, uint32_t owner);
void weights_free(struct weights *w);
/* Adds one owner's weight with its stack and label to a profile. */
int set_profile_add(struct set *set, struct profile *p, uint32_t owner, const struct weight *w);
/* All weights that are not zero. */
int set_profile_all(struct set *set, struct profile *p, const struct weights *w);

#endif
