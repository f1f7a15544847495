/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The refc binaries that a process refers to: its off-heap lists (off_heap.h).
 *
 *	off_heap.first   what lies in its heaps
 *	wrt_bins         binaries being appended to (25 on; on 25 itself
 *	                 process_info() leaves them out, and so do we)
 *	mbuf             heap fragments, each with a list of its own
 *
 * process_info(P, binary) gives each binary with the size of the allocation behind
 * it, Binary.orig_size; so sums count a binary as often as the lists have it.
 */
#include <errno.h>

#include "erts/off_heap.h"
#include "erts/process_private.h"

#define SIZES_MAX 256

/* Sizes are scattered over all carriers: many are read in one call. */
struct sizes {
	struct process_walk *w;
	uint64_t v[SIZES_MAX];
	struct target_piece pieces[SIZES_MAX];
	size_t n;
};

static int sizes_flush(struct sizes *s)
{
	size_t i;
	int ret = vm_read_pieces(s->w->vm, s->pieces, s->n);

	for (i = 0; i < s->n && !ret; i++) {
		if (s->pieces[i].ret)
			ret = -EAGAIN;
		else
			s->w->info->binary_bytes += s->v[i];
	}
	s->n = 0;
	return ret;
}

static int sizes_add(void *ctx, uint64_t binary)
{
	struct sizes *s = ctx;
	const struct layout *l = s->w->vm->layout;

	if (l->Binary__orig_size.size != 8)
		return -ENOTSUP;
	s->w->info->binaries++;
	s->pieces[s->n] = (struct target_piece){
		.addr = binary + (uint64_t)l->Binary__orig_size.offset,
		.buf = &s->v[s->n],
		.len = 8,
	};
	return ++s->n == SIZES_MAX ? sizes_flush(s) : 0;
}

int walk_binaries(struct process_walk *w)
{
	const struct layout *l = w->vm->layout;
	struct sizes s;
	int ret;

	s.w = w;
	s.n = 0;
	w->info->binaries = w->info->binary_bytes = 0;
	ret = off_heap_walk(w->vm, walk_field(w, l->Process__off_heap_first), false, sizes_add, &s);
	if (!ret && l->size_BinRef)
		ret = off_heap_walk(w->vm, walk_field(w, l->Process__wrt_bins), false, sizes_add,
				    &s);
	if (!ret)
		ret = off_heap_fragments(w->vm, walk_field(w, l->Process__mbuf), sizes_add, &s);
	return ret ? ret : sizes_flush(&s);
}
