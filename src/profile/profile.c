/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Stacks with weights. Equal stacks are found by a hash table with open
 * addressing that holds indexes into stacks[], so that the caller may read
 * stacks[] as a plain array at any time; sorting it makes the table be built
 * anew at the next addition.
 */
#include "profile/profile.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FRAMES_MAX 65536u     /* in one stack */
#define STACKS_MAX (1u << 24) /* distinct ones in a profile */
#define EMPTY	   UINT32_MAX

struct profile_index {
	uint32_t *slots;  /* index into stacks[], EMPTY */
	size_t n_slots;	  /* power of two, 0: has to be built */
	size_t allocated; /* of stacks[] */
};

struct profile *profile_new(const char *kind, const char *unit)
{
	struct profile *p = calloc(1, sizeof(*p));

	if (!p)
		return NULL;
	p->index = calloc(1, sizeof(*p->index));
	if (!p->index) {
		free(p);
		return NULL;
	}
	snprintf(p->kind, sizeof(p->kind), "%s", kind);
	snprintf(p->unit, sizeof(p->unit), "%s", unit);
	return p;
}

void profile_free(struct profile *p)
{
	size_t i;

	if (!p)
		return;
	for (i = 0; i < p->n; i++) {
		free(p->stacks[i].frames);
		free(p->stacks[i].label);
	}
	free(p->stacks);
	if (p->index)
		free(p->index->slots);
	free(p->index);
	free(p);
}

/* FNV-1a over words, with a final mix: the low bits choose the slot. */
static uint64_t mix(uint64_t h, uint64_t v)
{
	return (h ^ v) * 0x100000001b3ull;
}

static uint64_t hash(const struct frame *frames, size_t n, uint64_t process, const char *label,
		     bool complete)
{
	uint64_t h = 0xcbf29ce484222325ull;
	size_t i;

	for (i = 0; i < n; i++)
		h = mix(mix(h, frames[i].addr), frames[i].kind);
	h = mix(mix(h, process), complete);
	for (; label && *label; label++)
		h = mix(h, (unsigned char)*label);
	h ^= h >> 32;
	h *= 0x9e3779b97f4a7c15ull;
	return h ^ h >> 29;
}

static bool equal(const struct profile_stack *s, const struct frame *frames, size_t n,
		  uint64_t process, const char *label, bool complete)
{
	size_t i;

	if (s->n != n || s->process != process || s->complete != complete ||
	    strcmp(s->label ? s->label : "", label ? label : "") != 0)
		return false;
	for (i = 0; i < n; i++) /* not memcmp: the struct has padding */
		if (s->frames[i].addr != frames[i].addr || s->frames[i].kind != frames[i].kind)
			return false;
	return true;
}

/* The slot of an equal stack, or the empty one where it belongs. */
static size_t find_slot(const struct profile *p, const struct frame *frames, size_t n,
			uint64_t process, const char *label, bool complete)
{
	const struct profile_index *x = p->index;
	size_t at = hash(frames, n, process, label, complete) & (x->n_slots - 1);

	while (x->slots[at] != EMPTY &&
	       !equal(&p->stacks[x->slots[at]], frames, n, process, label, complete))
		at = (at + 1) & (x->n_slots - 1);
	return at;
}

/* Room for one more stack: at most three quarters of the table are in use. */
static int prepare(struct profile *p)
{
	struct profile_index *x = p->index;
	size_t i, n_slots = x->n_slots ? x->n_slots : 256;
	uint32_t *slots;

	if (p->n >= STACKS_MAX)
		return -E2BIG;
	if (p->n == x->allocated) {
		size_t more = x->allocated ? x->allocated * 2 : 128;
		struct profile_stack *v = realloc(p->stacks, more * sizeof(*v));

		if (!v)
			return -ENOMEM;
		p->stacks = v;
		x->allocated = more;
	}
	while (p->n + 1 > n_slots / 4 * 3)
		n_slots *= 2;
	if (n_slots == x->n_slots)
		return 0;
	slots = malloc(n_slots * sizeof(*slots));
	if (!slots)
		return -ENOMEM;
	memset(slots, 0xff, n_slots * sizeof(*slots));
	free(x->slots);
	x->slots = slots;
	x->n_slots = n_slots;
	for (i = 0; i < p->n; i++) {
		const struct profile_stack *s = &p->stacks[i];

		slots[find_slot(p, s->frames, s->n, s->process, s->label, s->complete)] =
			(uint32_t)i;
	}
	return 0;
}

const char *frame_cut_name(uint64_t addr)
{
	static const char *const names[] = {
		"complete",
		"address in no known module",
		"no unwind rule",
		"stack memory not readable",
		"stack pointer does not advance",
		"too deep",
		"start of the Erlang stack not known",
		"Erlang stack without normal_exit",
		"current function not known",
		[FRAME_CUT_THINNED] = "only the leaf was taken",
	};

	addr &= 0xff;
	return addr < sizeof(names) / sizeof(names[0]) ? names[addr] : "unknown";
}

bool profile_stack_thinned(const struct profile_stack *s)
{
	size_t i;

	for (i = 0; i < s->n; i++)
		if (s->frames[i].kind == FRAME_CUT &&
		    (s->frames[i].addr & 0xff) == FRAME_CUT_THINNED)
			return true;
	return false;
}

int64_t weight_add(int64_t a, int64_t b)
{
	int64_t sum;

	if (!__builtin_add_overflow(a, b, &sum))
		return sum;
	return a > 0 ? INT64_MAX : INT64_MIN;
}

int profile_add(struct profile *p, const struct frame *frames, size_t n, uint64_t process,
		uint32_t tid, const char *label, bool complete, int64_t weight, int64_t gross,
		uint64_t count)
{
	struct profile_stack *s;
	size_t slot;
	int ret;

	if (n > FRAMES_MAX)
		return -E2BIG;
	ret = prepare(p);
	if (ret)
		return ret;
	slot = find_slot(p, frames, n, process, label, complete);
	if (p->index->slots[slot] == EMPTY) {
		s = &p->stacks[p->n];
		memset(s, 0, sizeof(*s));
		s->frames = malloc(n ? n * sizeof(*frames) : 1);
		s->label = label ? strdup(label) : NULL;
		if (!s->frames || (label && !s->label)) {
			free(s->frames);
			free(s->label);
			return -ENOMEM;
		}
		if (n)
			memcpy(s->frames, frames, n * sizeof(*frames));
		s->n = n;
		s->process = process;
		s->tid = tid;
		s->complete = complete;
		p->index->slots[slot] = (uint32_t)p->n++;
	}
	s = &p->stacks[p->index->slots[slot]];
	if (s->tid != tid)
		s->tid = 0;
	s->weight = weight_add(s->weight, weight);
	s->gross = weight_add(s->gross, gross);
	s->count += count;
	return 0;
}

static int compare(const void *a, const void *b)
{
	const struct profile_stack *x = a, *y = b;

	if (x->weight != y->weight)
		return x->weight > y->weight ? -1 : 1;
	if (x->count != y->count)
		return x->count > y->count ? -1 : 1;
	/* then anything that does not depend on where it was */
	if (x->process != y->process)
		return x->process < y->process ? -1 : 1;
	return x->n < y->n ? -1 : x->n > y->n;
}

void profile_sort(struct profile *p)
{
	if (p->n)
		qsort(p->stacks, p->n, sizeof(*p->stacks), compare);
	p->index->n_slots = 0;
	free(p->index->slots);
	p->index->slots = NULL;
}

int64_t profile_total(const struct profile *p)
{
	int64_t total = p->without_stack;
	size_t i;

	for (i = 0; i < p->n; i++)
		total = weight_add(total, p->stacks[i].weight);
	return total;
}

bool profile_frame_exact(const struct profile_stack *s, size_t i)
{
	if (i && s->frames[i].kind == FRAME_KERNEL)
		return false;
	while (i-- > 0)
		if (s->frames[i].kind != FRAME_KERNEL)
			return false;
	return true;
}
