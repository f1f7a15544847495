/* SPDX-License-Identifier: Apache-2.0 */
/* Private to process*.c: the lists that hang on a process. */
#ifndef BEAMRAY_ERTS_PROCESS_PRIVATE_H
#define BEAMRAY_ERTS_PROCESS_PRIVATE_H

#include "erts/list_guard.h"
#include "erts/process_info.h"

#define PROCESS_COPY_MAX 4096u /* more than sizeof(Process) in any release */

/* What a process_info walk has in hand. */
struct process_walk {
	struct vm *vm;
	const unsigned char *copy; /* of the Process */
	size_t size;
	struct process_info *info;
	uint64_t bytes; /* of lists, towards `memory` */
};

/* A field of the Process's copy; 0 if the release has none. */
uint64_t walk_field(const struct process_walk *w, struct layout_field f);

/* Each: 0, -EAGAIN when a list did not hold together (counts so far are in info
 * and bytes), or what ends the whole scan. */
int walk_queues(struct process_walk *w);   /* process_queue.c */
int walk_links(struct process_walk *w);	   /* process_links.c */
int walk_binaries(struct process_walk *w); /* process_binaries.c */

/* Heap size of a term that a link or monitor holds: NC_HEAP_SIZE of erl_term.h. */
int walk_term_words(struct vm *vm, uint64_t term, uint64_t *words);

#endif
