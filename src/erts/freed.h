/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Blocks that were freed and are in use all the same, for the allocator counts them so.
 *
 *	fix_alloc   Allctr_t.fix[type].list -> block -> block -> 0
 *	            process structures, monitors, timers ... of one size: kept for the next
 *	            one that is needed (erl_alloc_util.c, fix_cpool_free())
 *	dd          Allctr_t.dd.q.head.first -> block -> ... -> 0
 *	            freed by another thread than the one whose instance they are from; that
 *	            thread has not got to it yet (ddq_enqueue())
 *
 * The pointers lie in the blocks' own first words.
 */
#ifndef BEAMRAY_ERTS_FREED_H
#define BEAMRAY_ERTS_FREED_H

#include <sys/types.h>

#include "erts/allocator.h"

#define FIX_TYPES_MAX 64 /* ERTS_ALC_NO_FIXED_SIZES: 12 in 23, 15 from 25 */

/* One list of a fix_alloc instance. allocated and used are blocks modulo 2^64: one freed
 * by another scheduler than the one that got it makes one instance's counter negative;
 * sums over the instances are right. */
struct fix_list {
	unsigned type; /* index into vm->type_names */
	uint64_t size; /* bytes of a block's user part */
	uint64_t allocated, used;
	uint64_t kept, first; /* length of the list of free ones, its first */
};

/* The lists of one instance, `max` of them at most. How many; 0 if it has none; -ENOENT
 * when this release's fields are not known; -EFAULT when they do not verify. */
ssize_t fix_lists_read(struct vm *vm, const struct alloc_instance *in, struct fix_list *v,
		       size_t max);

/* `block`: address of the first byte behind the header; `type`: index into
 * vm->type_names, or 0 where a thread waits for it. A negative return ends the walk. */
typedef int (*freed_fn)(void *ctx, uint64_t block, unsigned type);

/* All of them, of every instance. A list that changes under us ends early. 0, what fn
 * returned, or what ends all reading. */
int freed_blocks_walk(struct vm *vm, const struct allocators *a, freed_fn fn, void *ctx);

#endif
