/* SPDX-License-Identifier: Apache-2.0 */
#include "erts/messages.h"

#include <errno.h>
#include <string.h>

#include "erts/list_guard.h"

#define COMBINED_HFRAG 1u /* ERTS_MSG_COMBINED_HFRAG (erl_message.h) */
#define BUFFERS_MAX    256u
#define HEAD_MAX       64u

static int torn(int ret)
{
	return vm_fatal(ret) || ret == -ENOTSUP ? ret : -EAGAIN;
}

int message_list_walk(struct vm *vm, uint64_t at, message_fn fn, void *ctx)
{
	const struct layout *l = vm->layout;
	const size_t size = (size_t)l->ErtsMessage__m.offset + 8;
	struct cycle_guard guard = { 0 };
	unsigned char copy[HEAD_MAX];
	uint64_t attached, next;

	if (!layout_has(l->ErtsMessage__m) || !layout_has(l->ErtsMessage__hfrag) ||
	    size > sizeof(copy))
		return at ? -ENOTSUP : 0;
	for (; at; at = next) {
		struct message m = { .addr = at };
		int ret;

		if (!pointer_plausible(at) || cycle_found(&guard, at))
			return -EAGAIN;
		ret = vm_read(vm, at, copy, size);
		if (ret)
			return torn(ret);
		memcpy(&m.tag, copy + l->ErtsMessage__m.offset, 8);
		if (!vm_field(copy, size, l->ErtsMessage__next, &next) ||
		    !vm_field(copy, size, l->ErtsMessage__data_attached, &attached))
			return -ENOTSUP;
		m.signal = layout_has_const(l->tag_header_external_pid) &&
			   (m.tag & 0x3f) == (uint64_t)l->tag_header_external_pid;
		m.combined = !m.signal && attached == COMBINED_HFRAG;
		if (m.combined)
			m.fragment = at + (uint64_t)l->ErtsMessage__hfrag.offset;
		else if (!m.signal)
			m.fragment = attached;
		ret = fn(ctx, &m);
		if (ret)
			return ret;
	}
	return 0;
}

static int buffers_walk(struct vm *vm, uint64_t array, message_fn fn, void *ctx)
{
	const struct layout *l = vm->layout;
	uint64_t i, first;

	if (!pointer_plausible(array) || !l->size_ErtsSignalInQueueBuffer ||
	    !layout_has_const(l->sig_inq_buffers_len) ||
	    !layout_has(l->ErtsSignalInQueueBuffer__b_queue))
		return -EAGAIN;
	for (i = 0; i < (uint64_t)l->sig_inq_buffers_len && i < BUFFERS_MAX; i++) {
		uint64_t slot = array + (uint64_t)l->ErtsSignalInQueueBufferArray__slots.offset +
				i * l->size_ErtsSignalInQueueBuffer +
				(uint64_t)l->ErtsSignalInQueueBuffer__b_queue.offset;
		int ret = vm_read_field(vm, slot, l->ErtsSignalInQueue__first, &first);

		if (ret)
			return torn(ret);
		ret = message_list_walk(vm, first, fn, ctx);
		if (ret)
			return ret;
	}
	return 0;
}

int messages_walk(struct vm *vm, const void *copy, message_fn fn, void *ctx)
{
	const struct layout *l = vm->layout;
	const struct layout_field heads[] = { l->Process__sig_qs_first, l->Process__sig_qs_cont,
					      l->Process__sig_inq_first };
	uint64_t at;
	size_t i;
	int ret = 0;

	for (i = 0; i < sizeof(heads) / sizeof(heads[0]) && !ret; i++)
		if (vm_field(copy, l->size_Process, heads[i], &at))
			ret = message_list_walk(vm, at, fn, ctx);
	if (!ret && vm_field(copy, l->size_Process, l->Process__sig_inq_buffers, &at) && at)
		ret = buffers_walk(vm, at, fn, ctx);
	return ret;
}
