/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The refc binaries that a process refers to: its off-heap list.
 *
 *	off_heap.first -> { thing_word, ..., next } -> ...     in its heaps
 *	wrt_bins       -> the same, binaries being appended to (25 on; on 25 itself
 *	                  process_info() leaves them out, and so do we)
 *	mbuf           -> heap fragments, each with a list of its own
 *
 * Elements are binaries (up to 25 ProcBin, from 27 on BinRef), funs, references
 * and terms of other nodes. process_info(P, binary) gives each binary with the
 * size of the allocation behind it, Binary.orig_size; so sums count a binary as
 * often as the list has it.
 */
#include <errno.h>
#include <string.h>

#include "erts/process_private.h"

#define SIZES_MAX 256

/* Sizes are scattered over all carriers: many are read in one call. */
struct sizes {
	uint64_t v[SIZES_MAX];
	struct target_piece pieces[SIZES_MAX];
	size_t n;
};

static int sizes_flush(struct process_walk *w, struct sizes *s)
{
	size_t i;
	int ret = vm_read_pieces(w->vm, s->pieces, s->n);

	for (i = 0; i < s->n && !ret; i++) {
		if (s->pieces[i].ret)
			ret = -EAGAIN;
		else
			w->info->binary_bytes += s->v[i];
	}
	s->n = 0;
	return ret;
}

static int sizes_add(struct process_walk *w, struct sizes *s, uint64_t binary)
{
	const struct layout *l = w->vm->layout;

	if (!pointer_plausible(binary) || l->Binary__orig_size.size != 8)
		return -EAGAIN;
	w->info->binaries++;
	s->pieces[s->n] = (struct target_piece){
		.addr = binary + (uint64_t)l->Binary__orig_size.offset,
		.buf = &s->v[s->n],
		.len = 8,
	};
	return ++s->n == SIZES_MAX ? sizes_flush(w, s) : 0;
}

static bool tag_is(uint64_t header, int64_t tag)
{
	return layout_has_const(tag) && (header & 0x3f) == (uint64_t)tag;
}

static int walk_off_heap(struct process_walk *w, struct sizes *s, uint64_t at)
{
	const struct layout *l = w->vm->layout;
	bool refs = l->size_BinRef != 0;
	struct layout_field val = refs ? l->BinRef__val : l->ProcBin__val;
	struct cycle_guard guard = { 0 };
	unsigned char copy[48];
	size_t size = refs ? l->size_BinRef : (size_t)l->ProcBin__val.offset + 8;
	uint64_t header, next, binary;
	int ret;

	if (!layout_has(val) || size > sizeof(copy) || size < 24)
		return -ENOTSUP;
	for (; at; at = next) {
		if (!pointer_plausible(at) || cycle_found(&guard, at))
			return -EAGAIN;
		/* all kinds have header and next within the first three words */
		ret = vm_read(w->vm, at, copy, 24);
		if (ret)
			return ret == -EFAULT || ret == -ENODATA ? -EAGAIN : ret;
		memcpy(&header, copy, 8);
		if (!vm_field(copy, 24, l->erl_off_heap_header__next, &next))
			return -ENOTSUP;
		if (tag_is(header, refs ? l->tag_header_bin_ref : l->tag_header_refc_bin)) {
			if (vm_read_field(w->vm, at, val, &binary))
				return -EAGAIN;
			ret = sizes_add(w, s, binary);
			if (ret)
				return ret;
		} else if (!tag_is(header, l->tag_header_fun) &&
			   !tag_is(header, l->tag_header_fun_ref) &&
			   !tag_is(header, l->tag_header_ref) &&
			   !tag_is(header, l->tag_header_external_pid) &&
			   !tag_is(header, l->tag_header_external_port) &&
			   !tag_is(header, l->tag_header_external_ref)) {
			return -EAGAIN;
		}
	}
	return 0;
}

int walk_binaries(struct process_walk *w)
{
	const struct layout *l = w->vm->layout;
	struct cycle_guard guard = { 0 };
	uint64_t frag = walk_field(w, l->Process__mbuf), first;
	struct sizes s;
	int ret;

	s.n = 0;
	w->info->binaries = w->info->binary_bytes = 0;
	ret = walk_off_heap(w, &s, walk_field(w, l->Process__off_heap_first));
	if (!ret && l->size_BinRef)
		ret = walk_off_heap(w, &s, walk_field(w, l->Process__wrt_bins));
	while (!ret && frag) {
		if (!pointer_plausible(frag) || cycle_found(&guard, frag) ||
		    vm_read_field(w->vm, frag, l->ErlHeapFragment__off_heap_first, &first) ||
		    vm_read_field(w->vm, frag, l->ErlHeapFragment__next, &frag))
			return -EAGAIN;
		ret = walk_off_heap(w, &s, first);
	}
	return ret ? ret : sizes_flush(w, &s);
}
