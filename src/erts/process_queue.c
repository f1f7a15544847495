/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The signal queues of a process.
 *
 *	sig_qs.first   inner queue: messages (and receive markers, 24 on)
 *	sig_qs.cont    middle queue: messages and other signals
 *	sig_inq.first  what senders have added since
 *	sig_inq_buffers->slots[i].b.queue.first
 *	               25 on, receivers with message_queue_data off_heap that many
 *	               senders write to: what they have added to buffers of their own
 *
 * process_info() fetches all of it into the inner queue before it counts, so all
 * of it is counted here. How many messages there are is kept in counters that
 * mean different things by release (erl_message.h); walking the lists is the same
 * in all, and needed anyway for what the messages weigh.
 *
 * An element is a message unless its tag, m[0], is the header of an external pid
 * (ERTS_SIG_IS_NON_MSG, erl_proc_sig_queue.h). A message's data is
 *
 *	data.attached   NULL   in the process's heap, or an immediate
 *	                1      in the message itself, hfrag (ERTS_MSG_COMBINED_HFRAG)
 *	                else   a list of heap fragments
 *	m[0] == 0              from another node and not decoded: its size in words is
 *	                       in the ErtsDistExternal behind the fragment, once known
 *
 * and counts sizeof(ErtsMessage) besides (erts_process_memory(),
 * erl_process_dump.c).
 */
#include <errno.h>
#include <string.h>

#include "erts/process_private.h"

#define COMBINED_HFRAG 1u
#define BUFFERS_MAX    256u

struct queue_head {
	uint64_t next, attached, tag;
};

static bool is_signal(const struct layout *l, uint64_t tag)
{
	return layout_has_const(l->tag_header_external_pid) &&
	       (tag & 0x3f) == (uint64_t)l->tag_header_external_pid;
}

static bool is_recv_marker(const struct layout *l, uint64_t tag)
{
	return layout_has_const(l->sig_q_op_recv_mark) && layout_has_const(l->sig_q_op_mask) &&
	       layout_has_const(l->sig_q_op_shift) &&
	       (tag >> 6 >> l->sig_q_op_shift & (uint64_t)l->sig_q_op_mask) ==
		       (uint64_t)l->sig_q_op_recv_mark;
}

/* Used words of a list of fragments: erts_used_frag_sz(). */
static int fragments(struct vm *vm, uint64_t frag, uint64_t *words)
{
	const struct layout *l = vm->layout;
	struct cycle_guard guard = { 0 };
	uint64_t used;

	while (frag) {
		if (!pointer_plausible(frag) || cycle_found(&guard, frag) ||
		    vm_read_field(vm, frag, l->ErlHeapFragment__used_size, &used) ||
		    vm_read_field(vm, frag, l->ErlHeapFragment__next, &frag) || used >> 40)
			return -EAGAIN;
		*words += used;
	}
	return 0;
}

/* erts_msg_attached_data_size_aux(): what a message that came over the network
 * will need. */
static int external(struct process_walk *w, uint64_t frag, uint64_t *words)
{
	const struct layout *l = w->vm->layout;
	uint64_t used, size;

	if (!pointer_plausible(frag) ||
	    vm_read_field(w->vm, frag, l->ErlHeapFragment__used_size, &used) || used >> 40 ||
	    !layout_has(l->ErlHeapFragment__mem) || !layout_has(l->ErtsDistExternal__heap_size))
		return -EAGAIN;
	if (vm_read_field(w->vm, frag + (uint64_t)l->ErlHeapFragment__mem.offset + 8 * used,
			  l->ErtsDistExternal__heap_size, &size))
		return -EAGAIN;
	if ((int64_t)size < 0) /* nobody has looked yet, the VM itself would decode it now */
		w->info->undecoded = true;
	else
		*words += size;
	return 0;
}

static int message(struct process_walk *w, uint64_t at, const struct queue_head *h,
		   uint64_t *heap_words)
{
	const struct layout *l = w->vm->layout;
	uint64_t words = 0, frag;
	int ret = 0;

	w->info->message_queue_len++;
	if (!h->attached) {
		w->info->messages_in_heap++;
	} else if (!h->tag) {
		ret = external(w, h->attached, &words);
	} else {
		frag = h->attached == COMBINED_HFRAG ? at + (uint64_t)l->ErtsMessage__hfrag.offset
						     : h->attached;
		ret = fragments(w->vm, frag, &words);
	}
	w->info->message_bytes += l->size_ErtsMessage + 8 * words;
	w->bytes += l->size_ErtsMessage + 8 * words;
	*heap_words += words;
	return ret;
}

static int walk_list(struct process_walk *w, uint64_t at, uint64_t *heap_words)
{
	const struct layout *l = w->vm->layout;
	struct cycle_guard guard = { 0 };
	unsigned char copy[64];
	struct queue_head h;
	size_t size = (size_t)l->ErtsMessage__m.offset + 8;
	int ret;

	if (size > sizeof(copy))
		return -ENOTSUP;
	for (; at; at = h.next) {
		if (!pointer_plausible(at) || cycle_found(&guard, at))
			return -EAGAIN;
		ret = vm_read(w->vm, at, copy, size);
		if (ret)
			return ret == -EFAULT || ret == -ENODATA ? -EAGAIN : ret;
		h.tag = 0;
		memcpy(&h.tag, copy + l->ErtsMessage__m.offset, 8);
		if (!vm_field(copy, size, l->ErtsMessage__next, &h.next) ||
		    !vm_field(copy, size, l->ErtsMessage__data_attached, &h.attached))
			return -ENOTSUP;
		if (is_signal(l, h.tag)) {
			if (is_recv_marker(l, h.tag))
				w->bytes += l->size_ErtsRecvMarker;
			else
				w->info->signals++;
			continue;
		}
		ret = message(w, at, &h, heap_words);
		if (ret)
			return ret;
	}
	return 0;
}

static int walk_buffers(struct process_walk *w, uint64_t *heap_words)
{
	const struct layout *l = w->vm->layout;
	uint64_t array = walk_field(w, l->Process__sig_inq_buffers), i, first;
	int ret;

	if (!array)
		return 0;
	if (!pointer_plausible(array) || !l->size_ErtsSignalInQueueBuffer ||
	    !layout_has_const(l->sig_inq_buffers_len))
		return -EAGAIN;
	for (i = 0; i < (uint64_t)l->sig_inq_buffers_len && i < BUFFERS_MAX; i++) {
		uint64_t slot = array + (uint64_t)l->ErtsSignalInQueueBufferArray__slots.offset +
				i * l->size_ErtsSignalInQueueBuffer;

		ret = vm_read_field(w->vm,
				    slot + (uint64_t)l->ErtsSignalInQueueBuffer__b_queue.offset,
				    l->ErtsSignalInQueue__first, &first);
		if (!ret)
			ret = walk_list(w, first, heap_words);
		if (ret)
			return ret == -EFAULT || ret == -ENODATA ? -EAGAIN : ret;
	}
	return 0;
}

int walk_queues(struct process_walk *w)
{
	const struct layout *l = w->vm->layout;
	const struct layout_field heads[] = { l->Process__sig_qs_first, l->Process__sig_qs_cont,
					      l->Process__sig_inq_first };
	uint64_t heap_words = 0;
	size_t i;
	int ret = 0;

	w->info->message_queue_len = w->info->message_bytes = 0;
	w->info->messages_in_heap = w->info->signals = 0;
	for (i = 0; i < 3 && !ret; i++)
		ret = walk_list(w, walk_field(w, heads[i]), &heap_words);
	if (!ret)
		ret = walk_buffers(w, &heap_words);
	if (!w->info->off_heap_messages)
		w->info->total_heap_size += heap_words;
	return ret;
}
