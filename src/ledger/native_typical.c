/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which pointers are live fields.
 *
 * malloc hands out what others have freed, with their pointers still in it. One
 * such leftover followed would pull in a whole foreign structure. A live field is
 * filled in most objects of its type, and a leftover lies where it happens to lie;
 * so a pointer is believed by its class:
 *
 *   of all blocks of this size, at least a tenth have, at this very place, a
 *   pointer to a block of that size (or into that image)        -> typical
 *   at least half of them have a pointer to any block there     -> typical
 *   fewer than three do, or there are at most three of this size -> cannot be told: weak
 *
 * A leftover may point to a place that a larger block covers by now: pointers to
 * the middle of a block keep it, but carry no name.
 *
 * A size is shared by many types: one of them is soon less than a tenth, and what
 * is typical of another is not of this. So the blocks of a NIF or driver are judged
 * by themselves, by those of one size that have its name already: a place where
 * most of what is not 0 is a pointer to the beginning of a block, and most of these
 * blocks have the same name or no other pointer to them, is a field of theirs
 * (rules). If less than a fifth have one, nearly all must be so: it may be a place that
 * their type never fills, with what was left there by others of the same library, and a
 * foreign pointer in between. What a new one has there gets the name too. A block that
 * nothing else points to gets it in any case: it is there for this pointer. Of up to three blocks, every pointer carries the name, but weakly: any
 * other name that comes over a typical edge takes its place.
 *
 * The first two words of a block tell more than the others: free() writes over
 * them, so a pointer into an image there is hardly ever a leftover.
 */
#include "ledger/native_int.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define FEW	       3
#define TENTH	       10
#define HALF	       2
#define FIFTH	       5
#define HEAD_WORDS     2
#define HEAD_SHARE     200 /* of a content pointer in one of them: half a percent */
#define SAMPLE_NODES   4096
#define SAMPLE_EDGES   (1U << 20)
#define OWNERS_OF_SIZE 16
#define SAMPLE_GROUP   512
#define RULE_JUDGED    (EDGE_IMAGE - 2) /* no place: these end in EDGE_IMAGE - 1 */
#define PLACES	       2048		/* words of a block that rules are made for */
#define ROOTED_BYTES   16384		/* what is larger may have an unused rest */

static uint64_t mix(uint64_t x)
{
	x ^= x >> 29;
	x *= 0xBF58476D1CE4E5B9ULL;
	return x ^ x >> 32;
}

static int buckets_grow(struct buckets *b)
{
	size_t room = b->room ? b->room * 2 : 4096, i, s;
	uint64_t *size = realloc(b->size, room / 2 * sizeof(*size));
	uint32_t *count = realloc(b->count, room / 2 * sizeof(*count));
	uint32_t *slot = calloc(room, sizeof(*slot));

	if (size)
		b->size = size;
	if (count)
		b->count = count;
	if (!size || !count || !slot) {
		free(slot);
		return -ENOMEM;
	}
	free(b->slot);
	b->slot = slot;
	b->room = room;
	for (i = 0; i < b->n; i++) {
		for (s = mix(b->size[i]) & (room - 1); slot[s]; s = (s + 1) & (room - 1))
			;
		slot[s] = (uint32_t)i + 1;
	}
	return 0;
}

static int buckets_make(const struct graph *g, struct buckets *b)
{
	uint32_t i, sum = 0;
	size_t s;

	b->of = calloc(g->n + 1, sizeof(*b->of));
	b->order = malloc((g->n ? g->n : 1) * sizeof(*b->order));
	if (!b->of || !b->order)
		return -ENOMEM;
	for (i = 0; i < g->n; i++) {
		uint64_t size = g->v[i].bytes;

		if (b->n * 2 == b->room && buckets_grow(b) < 0)
			return -ENOMEM;
		for (s = mix(size) & (b->room - 1); b->slot[s] && b->size[b->slot[s] - 1] != size;
		     s = (s + 1) & (b->room - 1))
			;
		if (!b->slot[s]) {
			b->size[b->n] = size;
			b->count[b->n] = 0;
			b->slot[s] = (uint32_t)++b->n;
		}
		b->of[i] = b->slot[s] - 1;
		b->count[b->of[i]]++;
	}
	b->start = calloc(b->n + 1, sizeof(*b->start));
	if (!b->start)
		return -ENOMEM;
	for (s = 0; s < b->n; s++) {
		b->start[s] = sum;
		sum += b->count[s];
	}
	for (i = 0; i < g->n; i++)
		b->order[b->start[b->of[i]]++] = i;
	for (s = 0; s < b->n; s++)
		b->start[s] -= b->count[s];
	return 0;
}

static void buckets_free(struct buckets *b)
{
	free(b->size);
	free(b->count);
	free(b->start);
	free(b->slot);
	free(b->of);
	free(b->order);
}

static uint64_t edge_class(const struct buckets *b, const struct edge *e)
{
	uint32_t to = e->target & EDGE_IMAGE ? e->target : b->of[e->target];

	return (uint64_t)(e->word & EDGE_WORD) << 32 | to;
}

/* The place alone: a pointer to a block of any size. No bucket has this number. */
static uint64_t edge_place(const struct edge *e)
{
	return (uint64_t)(e->word & EDGE_WORD) << 32 | (e->target & EDGE_IMAGE) | (EDGE_IMAGE - 1);
}

static uint32_t *vote_find(struct votes *v, uint64_t key)
{
	size_t s = mix(key + 1) & (v->room - 1);

	while (v->count[s] && v->key[s] != key)
		s = (s + 1) & (v->room - 1);
	v->key[s] = key;
	return &v->count[s];
}

/* Counts the classes of all edges of one size, or of a sample of it. */
static int votes_count(const struct graph *g, const struct buckets *b, size_t which,
		       struct votes *v)
{
	const uint32_t *node = b->order + b->start[which];
	uint32_t n = b->count[which], step = n > SAMPLE_NODES ? n / SAMPLE_NODES : 1, i, e;
	size_t edges = 0, room = 64;

	v->nodes = 0;
	for (i = 0; i < n && edges < SAMPLE_EDGES; i += step)
		edges += g->first[node[i] + 1] - g->first[node[i]];
	while (room < edges * 4)
		room *= 2;
	if (room > v->allocated) {
		free(v->key);
		free(v->count);
		v->key = malloc(room * sizeof(*v->key));
		v->count = malloc(room * sizeof(*v->count));
		v->allocated = v->key && v->count ? room : 0;
		if (!v->allocated)
			return -ENOMEM;
	}
	v->room = room;
	memset(v->count, 0, room * sizeof(*v->count));
	for (i = 0, edges = 0; i < n && edges < SAMPLE_EDGES; i += step, v->nodes++)
		for (e = g->first[node[i]]; e < g->first[node[i] + 1]; e++, edges++) {
			if (g->edges[e].word & EDGE_INNER)
				continue;
			++*vote_find(v, edge_class(b, &g->edges[e]));
			if (!(g->edges[e].target & EDGE_IMAGE))
				++*vote_find(v, edge_place(&g->edges[e]));
		}
	return 0;
}

/* Whether so many of the sample make it typical. */
static bool enough(const struct votes *v, uint32_t count, uint64_t share)
{
	return count > 0 && count * share >= v->nodes;
}

static enum edge_strength votes_for(struct votes *v, const struct buckets *b, const struct edge *e)
{
	uint64_t share = (e->word & EDGE_WORD) < HEAD_WORDS ? HEAD_SHARE : TENTH;
	uint32_t class, place = 0;
	bool typical;

	if (!v->nodes || e->word & EDGE_INNER)
		return EDGE_CARRIES_NOT;
	class = *vote_find(v, edge_class(b, e));
	if (e->target & EDGE_IMAGE) {
		typical = enough(v, class, share);
	} else {
		place = *vote_find(v, edge_place(e));
		typical = enough(v, class, TENTH) || enough(v, place, HALF);
	}
	if (!typical)
		return EDGE_CARRIES_NOT;
	return (class > place ? class : place) >= FEW ? EDGE_CARRIES : EDGE_CARRIES_WEAKLY;
}

/* malloc does not split off what is too small for a chunk: some objects of a
 * type are 16 bytes larger than most. Their bucket is its neighbour. */
static size_t bucket_below(const struct buckets *b, size_t which)
{
	uint64_t size = b->size[which] - 16;
	size_t s = mix(size) & (b->room - 1);

	for (; b->slot[s]; s = (s + 1) & (b->room - 1))
		if (b->size[b->slot[s] - 1] == size)
			return b->slot[s] - 1;
	return b->n;
}

/* All nodes of one size. */
static int bucket_judge(struct graph *g, const struct buckets *b, size_t which, struct votes *v)
{
	const uint32_t *node = b->order + b->start[which];
	uint32_t n = b->count[which], i, e;
	size_t below = bucket_below(b, which);
	int ret;

	if (n <= FEW) {
		for (i = 0; i < n; i++)
			for (e = g->first[node[i]]; e < g->first[node[i] + 1]; e++)
				if (!(g->edges[e].word & EDGE_INNER))
					g->edges[e].word |= EDGE_WEAK;
		return 0;
	}
	for (i = 0; i < n && g->first[node[i]] == g->first[node[i] + 1]; i++)
		;
	if (i == n)
		return 0;
	ret = votes_count(g, b, which, &v[0]);
	v[1].nodes = 0;
	if (!ret && below < b->n && b->count[below] > n)
		ret = votes_count(g, b, below, &v[1]);
	for (i = 0; i < n && !ret; i++)
		for (e = g->first[node[i]]; e < g->first[node[i] + 1]; e++) {
			enum edge_strength a = votes_for(&v[0], b, &g->edges[e]);
			enum edge_strength z = votes_for(&v[1], b, &g->edges[e]);

			if (a == EDGE_CARRIES || z == EDGE_CARRIES)
				g->edges[e].word |= EDGE_TYPICAL;
			else if (a == EDGE_CARRIES_WEAKLY || z == EDGE_CARRIES_WEAKLY)
				g->edges[e].word |= EDGE_WEAK;
		}
	return ret;
}

int typical_open(struct graph *g, const bool *teaches, struct typical *t)
{
	size_t i;
	int ret;

	t->g = g;
	t->teaches = teaches;
	ret = buckets_make(g, &t->b);
	if (!ret) {
		t->changed = calloc(t->b.n + 1, sizeof(*t->changed));
		t->news = calloc(t->b.n + 1, sizeof(*t->news));
		t->below = calloc(t->b.n + 1, sizeof(*t->below));
		t->filled = calloc(PLACES, sizeof(*t->filled));
		t->pointers = calloc(PLACES, sizeof(*t->pointers));
		t->clean = calloc(PLACES, sizeof(*t->clean));
		ret = t->changed && t->news && t->below && t->filled && t->pointers && t->clean
			      ? 0
			      : -ENOMEM;
	}
	for (i = 0; i < t->b.n && !ret; i++)
		t->below[i] = (uint32_t)bucket_below(&t->b, i);
	for (i = 0; i < t->b.n && !ret; i++)
		ret = bucket_judge(g, &t->b, i, t->v);
	return ret;
}

void typical_close(struct typical *t)
{
	size_t i;

	for (i = 0; i < 2; i++) {
		free(t->v[i].key);
		free(t->v[i].count);
	}
	buckets_free(&t->b);
	free(t->changed);
	free(t->news);
	free(t->below);
	free(t->filled);
	free(t->pointers);
	free(t->clean);
	free(t->rules);
}

/* ---- among those of one owner --------------------------------------------------- */

static size_t rule_slot(const struct typical *t, uint64_t from, uint64_t to)
{
	size_t s = mix(mix(from) + to) & (t->room_rules - 1);

	while (t->rules[s].from && (t->rules[s].from != from || t->rules[s].to != to))
		s = (s + 1) & (t->room_rules - 1);
	return s;
}

static int rules_grow(struct typical *t)
{
	struct rule *old = t->rules;
	size_t room = t->room_rules, i;

	t->room_rules = room ? room * 2 : 1024;
	t->rules = calloc(t->room_rules, sizeof(*t->rules));
	if (!t->rules) {
		t->rules = old;
		t->room_rules = room;
		return -ENOMEM;
	}
	for (i = 0; i < room; i++)
		if (old[i].from)
			t->rules[rule_slot(t, old[i].from, old[i].to)] = old[i];
	free(old);
	return 0;
}

static uint64_t rule_from(uint16_t owner, uint32_t bucket)
{
	return (uint64_t)owner << 32 | bucket;
}

/* 1: a new one; 0: known. */
static int rule_add(struct typical *t, uint64_t from, uint64_t to)
{
	size_t s;

	if (t->n_rules * 2 >= t->room_rules && rules_grow(t) < 0)
		return -ENOMEM;
	s = rule_slot(t, from, to);
	if (t->rules[s].from)
		return 0;
	t->rules[s] = (struct rule){ .from = from, .to = to };
	t->n_rules++;
	return 1;
}

static bool rule_for(const struct typical *t, uint16_t owner, uint32_t bucket, const struct edge *e)
{
	return t->rules[rule_slot(t, rule_from(owner, bucket), edge_place(e))].from != 0;
}

/* Nothing else points there. */
static bool is_only(const struct typical *t, uint32_t node, const struct edge *e)
{
	return !(e->target & EDGE_IMAGE) && t->g->from[e->target] == node + 1;
}

enum edge_strength typical_edge(const struct typical *t, uint32_t node, const struct edge *e)
{
	const struct node *n = &t->g->v[node];
	uint32_t bucket = t->b.of[node];

	if (e->word & EDGE_INNER)
		return EDGE_CARRIES_NOT;
	if (!t->teaches[n->owner]) {
		/* What is there for a block of several is not one's either. */
		if (e->word & EDGE_TYPICAL || (n->owner == OWNER_SEVERAL && is_only(t, node, e)))
			return EDGE_CARRIES;
	} else if (t->n_rules &&
		   (rule_for(t, n->owner, bucket, e) ||
		    (t->below[bucket] < t->b.n && rule_for(t, n->owner, t->below[bucket], e)))) {
		return EDGE_CARRIES;
	} else if (is_only(t, node, e)) {
		return EDGE_CARRIES;
	} else if (n->flags & NODE_ROOTED && n->bytes <= ROOTED_BYTES &&
		   !(e->target & EDGE_IMAGE) && !(t->g->v[e->target].flags & NODE_BY_VM)) {
		return EDGE_CARRIES_WEAKLY;
	}
	return e->word & EDGE_WEAK ? EDGE_CARRIES_WEAKLY : EDGE_CARRIES_NOT;
}

/* Few of one size: all their pointers, but to what the VM itself points to. */
static int few_learn(struct typical *t, size_t bucket, uint16_t owner)
{
	struct graph *g = t->g;
	uint32_t i, e;
	int news = 0;

	for (i = 0; i < t->b.count[bucket]; i++) {
		uint32_t node = t->b.order[t->b.start[bucket] + i];

		if (g->v[node].owner != owner)
			continue;
		for (e = g->first[node]; e < g->first[node + 1]; e++) {
			struct edge *x = &g->edges[e];

			if (x->word & (EDGE_WEAK | EDGE_INNER) || x->target & EDGE_IMAGE ||
			    g->v[x->target].flags & NODE_BY_VM)
				continue;
			x->word |= EDGE_WEAK;
			news = 1;
		}
	}
	return news;
}

/* Counts in a sample of the group, one in `step`, for every place, how many hold something and
 * how many a pointer to the beginning of a block. Returns the places, or -errno. */
static ssize_t places_count(struct typical *t, size_t bucket, uint16_t owner, uint32_t step)
{
	struct graph *g = t->g;
	uint64_t copy[PLACES];
	size_t words = t->b.size[bucket] / 8, k;
	uint32_t i, e, nth = 0;

	if (words > PLACES)
		words = PLACES;
	memset(t->filled, 0, words * sizeof(*t->filled));
	memset(t->pointers, 0, words * sizeof(*t->pointers));
	memset(t->clean, 0, words * sizeof(*t->clean));
	for (i = 0; i < t->b.count[bucket]; i++) {
		uint32_t node = t->b.order[t->b.start[bucket] + i];

		if (g->v[node].owner != owner || nth++ % step)
			continue;
		for (e = g->first[node]; e < g->first[node + 1]; e++) {
			const struct edge *x = &g->edges[e];

			k = x->word & EDGE_WORD;
			if (k >= words || x->target & EDGE_IMAGE || x->word & EDGE_INNER)
				continue;
			t->pointers[k]++;
			t->clean[k] += g->from[x->target] == node + 1 ||
				       g->v[x->target].owner == owner;
		}
		if (!t->s) { /* a test: all that is there are pointers */
			for (e = g->first[node]; e < g->first[node + 1]; e++)
				if ((g->edges[e].word & EDGE_WORD) < words)
					t->filled[g->edges[e].word & EDGE_WORD]++;
			continue;
		}
		if (scan_peek(t->s, g->v[node].addr, copy, words * 8))
			for (k = 0; k < words; k++)
				t->filled[k] += copy[k] != 0;
		else if (t->s->fatal)
			return t->s->fatal;
	}
	return (ssize_t)words;
}

/* A live field is 0 or points to something. Where most of what is not 0 is a
 * pointer, it is one, even if it is seldom set; a leftover lies among bytes,
 * numbers and other leftovers. */
static int group_learn(struct typical *t, size_t bucket, uint16_t owner, uint32_t members)
{
	uint64_t from = rule_from(owner, (uint32_t)bucket);
	/* The VM leads to much that others made: it has to be surer. */
	bool is_vm = t->s && owner == t->s->vm_owner;
	unsigned filled = is_vm ? 90 : 50, clean = is_vm ? 70 : 50; /* percent */
	uint32_t step = members > SAMPLE_GROUP ? members / SAMPLE_GROUP : 1;
	struct rule *judged;
	ssize_t k, words;
	int news = 0, ret;

	if (members <= FEW)
		return few_learn(t, bucket, owner);
	ret = rule_add(t, from, RULE_JUDGED);
	if (ret < 0)
		return ret;
	judged = &t->rules[rule_slot(t, from, RULE_JUDGED)];
	if (members < 2 * judged->members)
		return 0; /* there is little to learn from a few more */
	judged->members = members;
	words = places_count(t, bucket, owner, step);
	for (k = 0; k < words && ret >= 0; k++) {
		bool seldom = (uint64_t)t->pointers[k] * FIFTH < members / step;

		if (t->pointers[k] < FEW ||
		    t->pointers[k] * 100ULL < (uint64_t)t->filled[k] * (seldom ? 90 : filled) ||
		    t->clean[k] * 100ULL < (uint64_t)t->pointers[k] * (seldom ? 95 : clean))
			continue;
		ret = rule_add(t, from, (uint64_t)k << 32 | (EDGE_IMAGE - 1));
		news |= ret > 0;
	}
	return words < 0 ? (int)words : ret < 0 ? ret : news;
}

int typical_learn(struct typical *t)
{
	const struct graph *g = t->g;
	struct {
		uint16_t owner;
		uint32_t members;
	} seen[OWNERS_OF_SIZE];
	size_t bucket, k;
	int news = 0;

	for (bucket = 0; bucket < t->b.n; bucket++) {
		const uint32_t *node = t->b.order + t->b.start[bucket];
		size_t n = 0;
		uint32_t i;

		t->news[bucket] = false;
		if (!t->changed[bucket])
			continue;
		t->changed[bucket] = false;
		for (i = 0; i < t->b.count[bucket]; i++) {
			uint16_t owner = g->v[node[i]].owner;

			if (!t->teaches[owner])
				continue;
			for (k = 0; k < n && seen[k].owner != owner; k++)
				;
			if (k == n && n < OWNERS_OF_SIZE) {
				seen[n].owner = owner;
				seen[n++].members = 0;
			}
			if (k < n)
				seen[k].members++;
		}
		for (k = 0; k < n; k++) {
			int ret = group_learn(t, bucket, seen[k].owner, seen[k].members);

			if (ret < 0)
				return ret;
			t->news[bucket] |= ret > 0;
			news |= ret;
		}
	}
	return news;
}
