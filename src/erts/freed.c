/* SPDX-License-Identifier: Apache-2.0 */
#include "erts/freed.h"

#include <errno.h>

#include "erts/list_guard.h"

#define FIX_BYTES_MAX 65536u
#define FIX_LIST_MAX  128u

/* Fix lists are an array, and go by type number without a gap; each says its own type,
 * (number << 7) | ... (ERTS_ALC_T2N). */
ssize_t fix_lists_read(struct vm *vm, const struct alloc_instance *in, struct fix_list *v,
		       size_t max)
{
	const struct layout *l = vm->layout;
	uint64_t fix, pool = 0, base = UINT64_MAX, stride = l->size_ErtsAlcFixList_t;
	uint64_t n = layout_has_const(l->fix_types) ? (uint64_t)l->fix_types : 0;
	unsigned char copy[FIX_TYPES_MAX * FIX_LIST_MAX];
	bool seen[FIX_TYPES_MAX] = { false };

	if (!stride || !n || n > FIX_TYPES_MAX || n > max || stride > FIX_LIST_MAX ||
	    !vm_field(in->copy, l->size_Allctr_t, l->Allctr_t__fix, &fix))
		return -ENOENT;
	if (!fix)
		return 0;
	/* ERTS_ALC_IS_CPOOL_ENABLED: cpool.util_limit != 0 */
	vm_field(in->copy, l->size_Allctr_t, l->Allctr_t__cpool_util_limit, &pool);
	if (vm_read(vm, fix, copy, stride * n))
		return -EFAULT;
	for (uint64_t i = 0; i < n; i++) {
		const unsigned char *e = copy + i * stride;
		struct fix_list *f = &v[i];
		uint64_t type;

		if (!vm_field(e, stride, l->ErtsAlcFixList_t__type, &type) ||
		    !vm_field(e, stride, l->ErtsAlcFixList_t__type_size, &f->size) ||
		    !vm_field(e, stride, l->ErtsAlcFixList_t__list_size, &f->kept) ||
		    !vm_field(e, stride, l->ErtsAlcFixList_t__list, &f->first) ||
		    !vm_field(e, stride,
			      pool ? l->ErtsAlcFixList_t__u_cpool_allocated
				   : l->ErtsAlcFixList_t__u_nocpool_allocated,
			      &f->allocated) ||
		    !vm_field(e, stride,
			      pool ? l->ErtsAlcFixList_t__u_cpool_used
				   : l->ErtsAlcFixList_t__u_nocpool_used,
			      &f->used))
			return -ENOENT;
		type = type >> 7 & 255;
		if (base == UINT64_MAX)
			base = type;
		if (type - base >= n || seen[type - base] || type >= vm->n_types ||
		    f->size > FIX_BYTES_MAX)
			return -EFAULT;
		seen[type - base] = true;
		f->type = (unsigned)type;
	}
	return (ssize_t)n;
}

static int list_walk(struct vm *vm, uint64_t at, uint64_t next_at, uint64_t skip, unsigned type,
		     freed_fn fn, void *ctx)
{
	struct cycle_guard guard = { 0 };
	int ret = 0;

	while (!ret && pointer_plausible(at) && !cycle_found(&guard, at)) {
		if (at != skip)
			ret = fn(ctx, at, type);
		if (!ret && vm_fatal(ret = vm_read_u64(vm, at + next_at, &at)))
			return ret;
		if (ret == -EFAULT || ret == -ENODATA)
			return 0; /* given back meanwhile */
	}
	return ret;
}

int freed_blocks_walk(struct vm *vm, const struct allocators *a, freed_fn fn, void *ctx)
{
	const struct layout *l = vm->layout;
	const uint64_t next = (uint64_t)l->ErtsAllctrDDBlock_t__u_ptr_next.offset;
	struct fix_list fix[FIX_TYPES_MAX];
	int ret = 0;

	for (size_t i = 0; i < a->n_inst && !ret; i++) {
		const struct alloc_instance *in = &a->inst[i];
		ssize_t n = fix_lists_read(vm, in, fix, FIX_TYPES_MAX);
		uint64_t first;

		for (ssize_t k = 0; k < n && !ret; k++)
			ret = list_walk(vm, fix[k].first, 0, 0, fix[k].type, fn, ctx);
		if (ret || !in->thread_specific || !layout_has(l->Allctr_t__dd_q_head_first) ||
		    !layout_has(l->Allctr_t__dd_q_marker) ||
		    !layout_has(l->ErtsAllctrDDBlock_t__u_ptr_next))
			continue;
		/* The queue's own marker stands among the blocks. */
		ret = vm_read_field(vm, in->addr, l->Allctr_t__dd_q_head_first, &first);
		if (!ret)
			ret = list_walk(vm, first, next,
					in->addr + (uint64_t)l->Allctr_t__dd_q_marker.offset, 0, fn,
					ctx);
		else if (!vm_fatal(ret))
			ret = 0;
	}
	return ret;
}
