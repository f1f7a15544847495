/* SPDX-License-Identifier: Apache-2.0 */
#include "erts/off_heap.h"

#include <errno.h>
#include <string.h>

#include "erts/list_guard.h"

#define HEAD	    24u /* bytes: header, a word, next; every kind has them */
#define HEADER_MASK 0x3fu

static bool plausible(uint64_t addr, bool packed)
{
	return pointer_plausible(packed ? addr & ~7ull : addr);
}

static bool tag_is(uint64_t header, int64_t tag)
{
	return layout_has_const(tag) && (header & HEADER_MASK) == (uint64_t)tag;
}

static bool is_other(const struct layout *l, uint64_t header)
{
	return tag_is(header, l->tag_header_fun) || tag_is(header, l->tag_header_fun_ref) ||
	       tag_is(header, l->tag_header_ref) || tag_is(header, l->tag_header_external_pid) ||
	       tag_is(header, l->tag_header_external_port) ||
	       tag_is(header, l->tag_header_external_ref);
}

int off_heap_walk(struct vm *vm, uint64_t first, bool packed, off_heap_fn fn, void *ctx)
{
	const struct layout *l = vm->layout;
	const bool refs = l->size_BinRef != 0;
	const struct layout_field val = refs ? l->BinRef__val : l->ProcBin__val;
	const int64_t tag = refs ? l->tag_header_bin_ref : l->tag_header_refc_bin;
	struct cycle_guard guard = { 0 };
	uint64_t at, next, header, binary;
	unsigned char head[HEAD];
	int ret;

	if (!layout_has(val) || !layout_has(l->erl_off_heap_header__next))
		return -ENOENT;
	for (at = first; at; at = next) {
		if (!plausible(at, packed) || cycle_found(&guard, at))
			return -EAGAIN;
		ret = vm_read(vm, at, head, sizeof(head));
		if (ret)
			return vm_fatal(ret) ? ret : -EAGAIN;
		memcpy(&header, head, sizeof(header));
		if (!vm_field(head, sizeof(head), l->erl_off_heap_header__next, &next))
			return -ENOENT;
		if (tag_is(header, tag)) {
			ret = vm_read_field(vm, at, val, &binary);
			if (ret)
				return vm_fatal(ret) ? ret : -EAGAIN;
			ret = plausible(binary, false) ? fn(ctx, binary) : -EAGAIN;
			if (ret)
				return ret;
		} else if (!is_other(l, header)) {
			return -EAGAIN;
		}
	}
	return 0;
}

int off_heap_fragments(struct vm *vm, uint64_t fragment, off_heap_fn fn, void *ctx)
{
	const struct layout *l = vm->layout;
	struct cycle_guard guard = { 0 };
	uint64_t first;
	int ret;

	while (fragment) {
		if (!plausible(fragment, false) || cycle_found(&guard, fragment))
			return -EAGAIN;
		ret = vm_read_field(vm, fragment, l->ErlHeapFragment__off_heap_first, &first);
		if (!ret)
			ret = off_heap_walk(vm, first, false, fn, ctx);
		if (!ret)
			ret = vm_read_field(vm, fragment, l->ErlHeapFragment__next, &fragment);
		if (ret)
			return vm_fatal(ret) || ret == -ENOENT ? ret : -EAGAIN;
	}
	return 0;
}
