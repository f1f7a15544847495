/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One look at a target: everything a ledger is made from, taken in one go.
 *
 * An observer stays open between looks and keeps what does not change (which
 * release, where the globals are); a look holds what was true at one moment.
 */
#ifndef BEAMRAY_LEDGER_LOOK_H
#define BEAMRAY_LEDGER_LOOK_H

#include "erts/carrier.h"
#include "libc/glibc.h"
#include "target/system.h"

struct observer {
	struct target *target;
	struct mappings *maps; /* as vm_open() saw them; vm and images borrow them */
	struct images *images;
	struct vm *vm;
};

struct look {		      /* a quick one: res, maps, libc are NULL, carriers and ranges empty */
	bool quick;	      /* a picture: maps and res are there, the rest as in a quick one */
	struct timespec when; /* CLOCK_REALTIME, just before the pagemap pass */
	double seconds;	      /* wall time the look took */
	struct system_memory os;
	struct mappings *maps, *maps_after; /* before and after the walk */
	struct residency *res;
	struct allocators *allocators;
	struct carriers *carriers;
	struct vm_ranges *ranges;
	struct vm_thread *threads; /* the VM's own */
	size_t n_threads;
	struct libc_heap *libc;
	struct libc_stack *stacks;
	size_t n_stacks;
	struct vm_memory memory;
	struct vm_counts counts;
	struct target_io io; /* what the look cost the target */
};

/* Who wants to see every block and chunk that a whole look walks over. */
struct look_visitor {
	/* As carriers_opts.block, libc_opts.chunk and libc_opts.gap. */
	void (*block)(void *arg, const struct carrier *c, uint64_t addr, uint64_t size, bool used,
		      unsigned alloc_type);
	void (*chunk)(void *arg, uint64_t addr, uint64_t size, bool used, unsigned arena);
	void (*gap)(void *arg, uint64_t start, uint64_t end, unsigned arena);
	void *arg;
};

struct look_opts {
	bool quick;    /* the counters of the VM and the kernel alone: no picture, no ledger */
	bool picture;  /* those and which pages are resident, for readers of single structures */
	bool tag_pids; /* split tag sums by process or port (27 on) */
	bool rollup;   /* read smaps_rollup whatever the size */
	const struct look_visitor *visitor; /* of a whole look; NULL: nobody */
};

/* Recognises the VM in `t` (borrowed). Errors as vm_open(). */
int observer_open(struct target *t, struct observer **out, struct error *err);
void observer_close(struct observer *o);

/* Takes one look, in a guarded thread (target_guard()). On -ETIMEDOUT the
 * observer must not be used nor closed any more. */
int look_take(struct observer *o, const struct look_opts *opts, struct look **out,
	      struct error *err);
void look_free(struct look *l);

#endif
