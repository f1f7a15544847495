/* SPDX-License-Identifier: Apache-2.0 */
/* Private to process*.c: the lists that hang on a process. */
#ifndef BEAMRAY_ERTS_PROCESS_PRIVATE_H
#define BEAMRAY_ERTS_PROCESS_PRIVATE_H

#include "erts/process_info.h"

#define PROCESS_COPY_MAX 4096u	      /* more than sizeof(Process) in any release */
#define LIST_MAX	 (1ull << 28) /* elements of any list or tree that are followed */

/* A list that leads back into itself ends here (Brent): a memory of one element,
 * taken anew at every power of two. */
struct cycle_guard {
	uint64_t seen, steps, next;
};

static inline bool cycle_found(struct cycle_guard *g, uint64_t at)
{
	if (at == g->seen || ++g->steps > LIST_MAX)
		return true;
	if (g->steps >= g->next) {
		g->next = g->next ? 2 * g->next : 16;
		g->seen = at;
	}
	return false;
}

/* True if `addr` can be that of a structure: aligned, not in the first page, in
 * user space. */
static inline bool pointer_plausible(uint64_t addr)
{
	return !(addr & 7) && addr >= 4096 && addr < 1ull << 47;
}

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
