// SPDX-License-Identifier: Apache-2.0
#include "trace/stacks.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define INDEX_START 1024

int stacks_new(size_t bytes_max, struct stacks **out)
{
	struct stacks *s = calloc(1, sizeof(*s));

	*out = NULL;
	if (!s)
		return -ENOMEM;
	s->bytes_max = bytes_max;
	s->a_index = INDEX_START;
	s->index = calloc(s->a_index, sizeof(*s->index));
	s->a_owner_index = INDEX_START;
	s->owner_index = calloc(s->a_owner_index, sizeof(*s->owner_index));
	s->a_owners = INDEX_START;
	s->owners = calloc(s->a_owners, sizeof(*s->owners));
	s->n_owners = 1;
	if (!s->index || !s->owner_index || !s->owners) {
		stacks_free(s);
		return -ENOMEM;
	}
	*out = s;
	return 0;
}

void stacks_free(struct stacks *s)
{
	if (!s)
		return;
	free(s->v);
	free(s->words);
	free(s->index);
	free(s->owners);
	free(s->owner_index);
	free(s);
}

size_t stacks_bytes(const struct stacks *s)
{
	return s->a * sizeof(*s->v) + s->a_words * sizeof(*s->words) +
	       (s->a_index + s->a_owner_index) * sizeof(uint32_t) +
	       s->a_owners * sizeof(*s->owners);
}

/* Room for `more` elements behind n; doubles. */
static int room(struct stacks *s, void **v, size_t n, size_t *a, size_t more, size_t size)
{
	size_t want = *a ? *a : 256;
	void *bigger;

	if (n + more <= *a)
		return 0;
	while (want < n + more)
		want *= 2;
	if (stacks_bytes(s) + (want - *a) * size > s->bytes_max)
		return -ENOSPC;
	bigger = realloc(*v, want * size);
	if (!bigger)
		return -ENOMEM;
	*v = bigger;
	*a = want;
	return 0;
}

static size_t stack_slot(const struct stacks *s, uint64_t hash)
{
	size_t h = (size_t)(hash >> 8) & (s->a_index - 1);

	while (s->index[h] && s->v[s->index[h] - 1].hash != hash)
		h = (h + 1) & (s->a_index - 1);
	return h;
}

static int index_grow(struct stacks *s)
{
	uint32_t *old = s->index;
	size_t n = s->a_index;

	s->index = calloc(n * 2, sizeof(*s->index));
	if (!s->index) {
		s->index = old;
		return -ENOMEM;
	}
	s->a_index = n * 2;
	for (size_t i = 0; i < s->n; i++)
		s->index[stack_slot(s, s->v[i].hash)] = (uint32_t)i + 1;
	free(old);
	return 0;
}

int stacks_add(struct stacks *s, const struct event_stack *ev, size_t bytes)
{
	size_t n = (size_t)ev->n_leaf + ev->n_root, at;
	struct stack *k;
	int ret;

	if (n > STACK_FRAMES || !n || bytes < offsetof(struct event_stack, words) + n * 8)
		return -EINVAL;
	if (s->index[stack_slot(s, ev->hash)])
		return 0; /* the kernel forgot that it had been sent */
	if (s->n * 2 >= s->a_index && index_grow(s)) {
		s->lost++;
		return -ENOMEM;
	}
	ret = room(s, (void **)&s->v, s->n, &s->a, 1, sizeof(*s->v));
	if (!ret)
		ret = room(s, (void **)&s->words, s->n_words, &s->a_words, n, sizeof(*s->words));
	if (ret) {
		s->lost++;
		return ret;
	}
	at = stack_slot(s, ev->hash);
	k = &s->v[s->n];
	k->hash = ev->hash;
	k->first = s->n_words;
	k->n = (uint16_t)n;
	k->flags = ev->flags;
	k->cut = ev->cut;
	memcpy(s->words + s->n_words, ev->words, n * 8);
	s->n_words += n;
	s->index[at] = (uint32_t)++s->n;
	return 0;
}

const struct stack *stacks_find(const struct stacks *s, uint64_t hash)
{
	uint32_t i = s->index[stack_slot(s, hash)];

	return i ? &s->v[i - 1] : NULL;
}

static size_t owner_slot(const struct stacks *s, uint64_t stack, uint64_t process, uint32_t tid)
{
	uint64_t key = (stack ^ (process * 0x9e3779b97f4a7c15ULL) ^ tid) * 0xff51afd7ed558ccdULL;
	size_t h = (size_t)(key >> 24) & (s->a_owner_index - 1);

	for (; s->owner_index[h]; h = (h + 1) & (s->a_owner_index - 1)) {
		const struct owner *o = &s->owners[s->owner_index[h]];

		if (o->stack == stack && o->process == process && o->tid == tid)
			break;
	}
	return h;
}

uint32_t owner_get(struct stacks *s, uint64_t stack, uint64_t process, uint32_t tid)
{
	struct owner *o;
	size_t h;

	if (process)
		tid = 0;
	h = owner_slot(s, stack, process, tid);
	if (s->owner_index[h])
		return s->owner_index[h];
	if (s->n_owners * 2 >= s->a_owner_index) {
		uint32_t *old = s->owner_index;
		size_t n = s->a_owner_index;

		s->owner_index = calloc(n * 2, sizeof(*s->owner_index));
		if (!s->owner_index) {
			s->owner_index = old;
			s->lost++;
			return 0;
		}
		s->a_owner_index = n * 2;
		for (size_t i = 1; i < s->n_owners; i++) {
			o = &s->owners[i];
			s->owner_index[owner_slot(s, o->stack, o->process, o->tid)] = (uint32_t)i;
		}
		free(old);
	}
	if (room(s, (void **)&s->owners, s->n_owners, &s->a_owners, 1, sizeof(*s->owners))) {
		s->lost++;
		return 0;
	}
	o = &s->owners[s->n_owners];
	memset(o, 0, sizeof(*o));
	o->stack = stack;
	o->process = process;
	o->tid = tid;
	s->owner_index[owner_slot(s, stack, process, tid)] = (uint32_t)s->n_owners;
	return (uint32_t)s->n_owners++;
}

size_t stack_frames(const struct stacks *s, const struct stack *k, struct frame *out)
{
	static const uint8_t kinds[] = {
		[STACK_NATIVE] = FRAME_NATIVE, [STACK_ERLANG] = FRAME_ERLANG,
		[STACK_REPEAT] = FRAME_REPEAT, [STACK_CUT] = FRAME_CUT,
		[STACK_JOINED] = FRAME_JOINED, [STACK_KERNEL] = FRAME_KERNEL,
	};
	size_t n = 0;

	for (size_t i = 0; i < k->n && n < STACK_FRAMES; i++) {
		uint64_t word = s->words[k->first + i];
		unsigned kind = STACK_KIND(word);

		if (kind >= sizeof(kinds))
			continue;
		out[n].kind = kinds[kind];
		out[n].addr = STACK_VALUE(word);
		if (kind == STACK_KERNEL)
			out[n].addr |= 0xffULL << 56;
		n++;
	}
	return n;
}

/* the numbers that recordings hold: frame_cut_name() */
_Static_assert(CUT_NO_MODULE == 1 && CUT_NO_E == 6 && CUT_THINNED == FRAME_CUT_THINNED &&
		       CUT_N == FRAME_CUT_THINNED + 1,
	       "reasons for a cut");
