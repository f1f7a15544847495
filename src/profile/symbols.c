/* SPDX-License-Identifier: Apache-2.0 */
/* The table from address to symbol: a hash of keys, symbols by value. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "profile/symbolize.h"

#define SYMBOLS_MAX (1u << 24)
#define CHAIN_MAX   64 /* functions inlined into each other at one address */
#define EMPTY	    UINT32_MAX

struct entry {
	struct symbol_key key;
	struct symbol symbol;
};

struct symbols {
	struct entry **v; /* each of its own: pointers to symbols stay valid */
	size_t n, allocated;
	uint32_t *slots;
	size_t n_slots;
};

struct symbols *symbols_new(void)
{
	return calloc(1, sizeof(struct symbols));
}

void symbol_clear(struct symbol *s)
{
	struct symbol *outer = s->outer;

	free(s->name);
	free(s->module);
	free(s->file);
	memset(s, 0, sizeof(*s));
	while (outer) {
		struct symbol *next = outer->outer;

		free(outer->name);
		free(outer->module);
		free(outer->file);
		free(outer);
		outer = next;
	}
}

void symbols_free(struct symbols *s)
{
	size_t i;

	if (!s)
		return;
	for (i = 0; i < s->n; i++) {
		symbol_clear(&s->v[i]->symbol);
		free(s->v[i]);
	}
	free(s->v);
	free(s->slots);
	free(s);
}

static bool same_key(const struct symbol_key *a, const struct symbol_key *b)
{
	return a->addr == b->addr && a->kind == b->kind && a->exact == b->exact;
}

static size_t find_slot(const struct symbols *s, const struct symbol_key *k)
{
	uint64_t h = (k->addr * 2 + k->exact) ^ (uint64_t)k->kind << 56;
	size_t at;

	h *= 0x9e3779b97f4a7c15ull;
	at = (h ^ h >> 32) & (s->n_slots - 1);
	while (s->slots[at] != EMPTY && !same_key(&s->v[s->slots[at]]->key, k))
		at = (at + 1) & (s->n_slots - 1);
	return at;
}

static int grow(struct symbols *s)
{
	size_t i, n_slots = s->n_slots ? s->n_slots * 2 : 256;
	uint32_t *slots, *old = s->slots;

	if (s->n < s->n_slots / 4 * 3)
		return 0;
	slots = malloc(n_slots * sizeof(*slots));
	if (!slots)
		return -ENOMEM;
	memset(slots, 0xff, n_slots * sizeof(*slots));
	s->slots = slots;
	s->n_slots = n_slots;
	for (i = 0; i < s->n; i++)
		s->slots[find_slot(s, &s->v[i]->key)] = (uint32_t)i;
	free(old);
	return 0;
}

static bool copy_text(char **dst, const char *src)
{
	*dst = src ? strdup(src) : NULL;
	return *dst || !src;
}

static bool copy_one(struct symbol *dst, const struct symbol *src)
{
	*dst = *src;
	dst->outer = NULL;
	/* all three, so that a failure leaves none that is not ours */
	return (int)copy_text(&dst->name, src->name) & (int)copy_text(&dst->module, src->module) &
	       (int)copy_text(&dst->file, src->file);
}

static int copy_symbol(struct symbol *dst, const struct symbol *src)
{
	struct symbol *to = dst;
	unsigned depth;

	if (!copy_one(to, src))
		goto fail;
	for (depth = 0; src->outer && depth < CHAIN_MAX; depth++) {
		src = src->outer;
		to->outer = calloc(1, sizeof(*to));
		if (!to->outer || !copy_one(to->outer, src))
			goto fail;
		to = to->outer;
	}
	return 0;
fail:
	symbol_clear(dst);
	return -ENOMEM;
}

int symbols_put(struct symbols *s, const struct symbol_key *key, const struct symbol *symbol)
{
	struct symbol copy;
	struct entry *e;
	size_t slot;
	int ret;

	if (s->n >= SYMBOLS_MAX)
		return -E2BIG;
	ret = grow(s);
	if (ret)
		return ret;
	if (s->n == s->allocated) {
		size_t more = s->allocated ? s->allocated * 2 : 128;
		void *v = realloc(s->v, more * sizeof(*s->v));

		if (!v)
			return -ENOMEM;
		s->v = v;
		s->allocated = more;
	}
	ret = copy_symbol(&copy, symbol);
	if (ret)
		return ret;
	slot = find_slot(s, key);
	if (s->slots[slot] != EMPTY) {
		e = s->v[s->slots[slot]];
		symbol_clear(&e->symbol);
	} else {
		e = calloc(1, sizeof(*e));
		if (!e) {
			symbol_clear(&copy);
			return -ENOMEM;
		}
		e->key = *key;
		s->v[s->n] = e;
		s->slots[slot] = (uint32_t)s->n++;
	}
	e->symbol = copy;
	return 0;
}

size_t symbols_count(const struct symbols *s)
{
	return s->n;
}

const struct symbol *symbols_at(const struct symbols *s, size_t i, struct symbol_key *key)
{
	if (i >= s->n)
		return NULL;
	if (key)
		*key = s->v[i]->key;
	return &s->v[i]->symbol;
}

const struct symbol *symbols_find(const struct symbols *s, const struct profile_stack *stack,
				  size_t i)
{
	const struct frame *f = &stack->frames[i];
	struct symbol_key key = { f->addr, f->kind, profile_frame_exact(stack, i) };
	size_t slot;

	if (!s || !s->n_slots)
		return NULL;
	slot = find_slot(s, &key);
	return s->slots[slot] == EMPTY ? NULL : &s->v[s->slots[slot]]->symbol;
}
