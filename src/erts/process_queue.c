/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What waits in the signal queues of a process, as process_info() counts it
 * (messages.h tells where it is).
 *
 * process_info() fetches all of it into the inner queue before it counts, so all
 * of it is counted here. How many messages there are is kept in counters that
 * mean different things by release (erl_message.h); walking the lists is the same
 * in all, and needed anyway for what the messages weigh.
 *
 * A message counts sizeof(ErtsMessage) and its fragments (erts_process_memory(),
 * erl_process_dump.c). One from another node that is not decoded has its size in
 * words in the ErtsDistExternal behind the fragment, once known.
 */
#include <errno.h>
#include <string.h>

#include "erts/messages.h"
#include "erts/process_private.h"

struct queue_sum {
	struct process_walk *w;
	uint64_t heap_words;
};

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

static int message_add(void *ctx, const struct message *m)
{
	struct queue_sum *s = ctx;
	struct process_walk *w = s->w;
	const struct layout *l = w->vm->layout;
	uint64_t words = 0;
	int ret = 0;

	if (m->signal) {
		if (is_recv_marker(l, m->tag))
			w->bytes += l->size_ErtsRecvMarker;
		else
			w->info->signals++;
		return 0;
	}
	w->info->message_queue_len++;
	if (!m->fragment)
		w->info->messages_in_heap++;
	else if (!m->tag)
		ret = external(w, m->fragment, &words);
	else
		ret = fragments(w->vm, m->fragment, &words);
	w->info->message_bytes += l->size_ErtsMessage + 8 * words;
	w->bytes += l->size_ErtsMessage + 8 * words;
	s->heap_words += words;
	return ret;
}

int walk_queues(struct process_walk *w)
{
	struct queue_sum s = { .w = w };
	int ret;

	w->info->message_queue_len = w->info->message_bytes = 0;
	w->info->messages_in_heap = w->info->signals = 0;
	ret = messages_walk(w->vm, w->copy, message_add, &s);
	if (!w->info->off_heap_messages)
		w->info->total_heap_size += s.heap_words;
	return ret;
}
