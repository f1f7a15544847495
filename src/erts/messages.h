/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The signal queues of a process, element by element.
 *
 *	sig_qs.first   inner queue: messages (and receive markers, 24 on)
 *	sig_qs.cont    middle queue: messages and other signals
 *	sig_inq.first  what senders have added since
 *	sig_inq_buffers->slots[i].b.queue.first
 *	               25 on, receivers with message_queue_data off_heap that many
 *	               senders write to: what they have added to buffers of their own
 *
 * An element is a message unless its tag, m[0], is the header of an external pid
 * (ERTS_SIG_IS_NON_MSG, erl_proc_sig_queue.h). Where a message's data is says
 *
 *	data.attached   NULL   in the process's heap, or an immediate
 *	                1      in the message itself, hfrag, and in the fragments
 *	                       behind hfrag.next (ERTS_MSG_COMBINED_HFRAG)
 *	                else   a list of heap fragments
 *	m[0] == 0              from another node and not decoded
 */
#ifndef BEAMRAY_ERTS_MESSAGES_H
#define BEAMRAY_ERTS_MESSAGES_H

#include "erts/vm.h"

struct message {
	uint64_t addr;	   /* of the ErtsMessage */
	uint64_t tag;	   /* m[0] */
	uint64_t fragment; /* ErlHeapFragment its data begins in, 0: none */
	bool combined;	   /* that one is part of the message */
	bool signal;	   /* no message: another signal, or a receive marker */
};

/* A negative return ends the walk and is returned. */
typedef int (*message_fn)(void *ctx, const struct message *m);

/* Calls fn for every element of the list that begins at `at` (0: none). 0; -EAGAIN
 * when it does not hold together (what was called so far stands); -ENOTSUP when this
 * release's fields are not known; what fn returned; or what ends all reading. */
int message_list_walk(struct vm *vm, uint64_t at, message_fn fn, void *ctx);
/* The same for all queues of the process whose Process, size_Process bytes, is in
 * `copy`. The list of messages received since the last collection (msg_frag) is not
 * among them: process_info() does not count those. */
int messages_walk(struct vm *vm, const void *copy, message_fn fn, void *ctx);

#endif
