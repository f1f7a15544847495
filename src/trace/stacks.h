/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The stacks that came out of the kernel, and who owns what.
 *
 * A stack is sent once and known by its hash from then on; an owner is a stack
 * together with the Erlang process (or, outside of one, the thread) it was seen in.
 */
#ifndef BEAMRAY_TRACE_STACKS_H
#define BEAMRAY_TRACE_STACKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "events.h"
#include "profile/profile.h"

struct stack {
	uint64_t hash;
	size_t first; /* index of its first word */
	uint16_t n;
	uint8_t flags, cut; /* enum stack_flag, enum stack_cut */
};

struct owner {
	uint64_t stack, process; /* hash; pid term, 0 if none */
	uint32_t tid;		 /* 0 if process is set */
};

struct stacks {
	struct stack *v;
	size_t n, a;
	uint64_t *words;
	size_t n_words, a_words;
	uint32_t *index; /* of v + 1 by hash */
	size_t a_index;

	struct owner *owners; /* [0] is not used */
	size_t n_owners, a_owners;
	uint32_t *owner_index;
	size_t a_owner_index;

	size_t bytes_max; /* of all of this */
	uint64_t lost;	  /* stacks and owners that there was no room for */
};

int stacks_new(size_t bytes_max, struct stacks **out);
void stacks_free(struct stacks *s);
size_t stacks_bytes(const struct stacks *s);

/* Keeps a stack. `bytes` is the size of the record. -EINVAL when it is no valid
 * one, -ENOSPC when the bound is reached, -ENOMEM. */
int stacks_add(struct stacks *s, const struct event_stack *ev, size_t bytes);
/* NULL when it was lost. */
const struct stack *stacks_find(const struct stacks *s, uint64_t hash);

/* Number of the owner, made if it is new; 0 when there is no room. */
uint32_t owner_get(struct stacks *s, uint64_t stack, uint64_t process, uint32_t tid);

/* The stack as raw frames; `out` has room for STACK_FRAMES. Returns their number. */
size_t stack_frames(const struct stacks *s, const struct stack *k, struct frame *out);

#endif
