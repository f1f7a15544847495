/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The VM's allocators and their instances, as statistics: what
 * erlang:system_info({allocator, T}) prints, read from Allctr_t.
 *
 * For every allocator type (eheap_alloc, binary_alloc ...) there is one
 * instance per scheduler and a global instance 0, or a single one. Each keeps
 * counters for multiblock carriers (mbcs), single-block carriers (sbcs) and,
 * for the carriers it abandoned to the pool, mbcs_pool.
 */
#ifndef BEAMRAY_ERTS_ALLOCATOR_H
#define BEAMRAY_ERTS_ALLOCATOR_H

#include "erts/vm.h"

/* More than ERTS has allocators (13 on every release up to 29). */
#define ALLOC_TYPES 16

struct alloc_count { /* one of mbcs, sbcs, mbcs_pool; sizes in bytes */
	/* Of all allocators' blocks in these carriers: a carrier that migrated
	 * may hold foreign ones. */
	uint64_t blocks, blocks_size;
	/* The same by allocator number, as system_info prints them: blocks, then
	 * [{binary_alloc, [{size, ...}, {count, ...}]}, ...]. */
	uint64_t blocks_of[ALLOC_TYPES], blocks_size_of[ALLOC_TYPES];
	uint64_t carriers, carriers_size;
	uint64_t mseg_carriers, mseg_carriers_size; /* of which from mseg; rest sys_alloc */
	/* maxima: since the last begin of a period ("max") and ever; 0 for the
	 * pool. Blocks of the instance's own allocator only. */
	uint64_t blocks_max, blocks_max_ever, blocks_size_max, blocks_size_max_ever;
	uint64_t carriers_max, carriers_max_ever, carriers_size_max, carriers_size_max_ever;
};

struct alloc_instance {
	uint64_t addr;	/* Allctr_t in the target */
	unsigned type;	/* allocator number: index into vm->alloc_names */
	unsigned index; /* instance number as system_info prints it */
	bool thread_specific;
	bool atags;	       /* blocks carry allocation tags */
	unsigned strategy;     /* ERTS's number of the +M<S>as strategy */
	uint64_t abandon_util; /* +M<S>acul in effect, percent; 0: carriers stay */
	struct alloc_count mbcs, sbcs, pool;
	uint64_t sbc_threshold, main_carrier_size, largest_mbc_size;
	uint64_t calls_alloc, calls_free, calls_realloc; /* 0 when not kept */
	void *copy; /* the whole Allctr_t as read; layout->size_Allctr_t bytes */
	bool torn;  /* stayed inconsistent after retries: figures are approximate */
};

struct alloc_type {
	const char *name; /* "binary_alloc": vm->alloc_names[type] */
	unsigned type;
	bool enabled;	 /* erts_allctrs_info[].enabled */
	bool alloc_util; /* served by an Allctr_t; false under +Mea min, and for sys_alloc */
	size_t first, n; /* its instances in allocators.inst[] */
};

struct allocators {
	struct alloc_type *types; /* by allocator number: types[t].type == t; 0 is unused */
	size_t n_types;
	struct alloc_instance *inst;
	size_t n_inst;
	/* pool blocks by allocator type, from cpool.stat.blocks[type] summed over
	 * all thread-specific instances (25+), bytes and counts. */
	uint64_t *pool_blocks, *pool_blocks_size; /* [vm->n_alloc] */
	unsigned unreadable;			  /* instances left out */
};

/* Reads all instances. Instances that cannot be read or do not verify (an
 * Allctr_t that does not say its own number) are left out and counted in
 * `unreadable`. Errors: -ENOENT with a sentence when the anchors are missing,
 * -ENOMEM, -ETIMEDOUT, -ESRCH. */
int allocators_read(struct vm *vm, struct allocators **out, struct error *err);
void allocators_free(struct allocators *a);

/* erlang:memory() from outside. A value is UINT64_MAX when it cannot be known,
 * with the reason in `why` (first reason only, "" if all are known). */
struct vm_memory {
	uint64_t total, processes, processes_used, system, atom, atom_used, binary, code, ets;
	char why[160];
};
void vm_memory_read(struct vm *vm, const struct allocators *a, struct vm_memory *out);

/* Counts and limits. UINT64_MAX where unknown. */
struct vm_counts {
	uint64_t atoms, atom_limit, processes, process_limit, ports, port_limit, ets_tables;
	uint64_t process_table_bytes, port_table_bytes; /* the tables' own arrays */
	uint64_t schedulers;
};
void vm_counts_read(struct vm *vm, struct vm_counts *out);

#endif
