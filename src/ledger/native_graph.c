/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The table of native blocks, the way from an address to its block, and marking.
 *
 * A node is 16 bytes, an edge 8, and a node's edges follow each other, so that
 * one number per node finds them:
 *
 *   nodes   | addr, bytes, arena, owner | ...        sorted by address
 *   first   | 0 | 3 | 3 | 7 | ...
 *   edges   | target, word | ...                     word: where in the source
 *
 * Two levels lead from an address to its node: 64 MiB pieces, then pages; an
 * entry of a page is the first node that reaches into it. What one node covers
 * whole (a mapping of gigabytes) has no second level.
 */
#include "ledger/native_int.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define PIECE_BITS     26
#define PIECE_PAGES    (1U << (PIECE_BITS - 12))
#define PIECES	       (1U << (47 - PIECE_BITS))
#define TOP_NODE       (1U << 31)
#define USER_END       (1ULL << 47)
#define NODE_BYTES_MAX ((1ULL << 39) - 1)

int range_add_single(struct range_list *r, uint64_t start, uint64_t end)
{
	if (r->n == r->room) {
		size_t room = r->room ? r->room * 2 : 256;
		struct range *bigger = realloc(r->v, room * sizeof(*bigger));

		if (!bigger)
			return -ENOMEM;
		r->v = bigger;
		r->room = room;
	}
	r->v[r->n++] = (struct range){ start, end };
	return 0;
}

int range_add(struct range_list *r, uint64_t start, uint64_t end)
{
	if (start >= end)
		return 0;
	if (r->n && start >= r->v[r->n - 1].start && start <= r->v[r->n - 1].end) {
		if (end > r->v[r->n - 1].end)
			r->v[r->n - 1].end = end;
		return 0;
	}
	return range_add_single(r, start, end);
}

/* ---- what the walks tell ----------------------------------------------------- */

int graph_node_add(struct graph *g, uint64_t addr, uint64_t bytes, unsigned arena, unsigned flags)
{
	if (addr >= USER_END || bytes > NODE_BYTES_MAX || bytes > USER_END - addr || !bytes)
		return 0;
	if (g->n == g->room) {
		size_t room = g->room ? g->room * 2 : 4096;
		struct node *bigger = g->n < NODES_MAX ? realloc(g->v, room * sizeof(*bigger))
						       : NULL;

		if (!bigger)
			return -ENOMEM;
		g->v = bigger;
		g->room = room;
	}
	g->v[g->n++] = (struct node){ .addr = addr,
				      .bytes = bytes,
				      .arena = arena < ARENA_NONE ? arena : ARENA_NONE,
				      .flags = flags };
	return 0;
}

void graph_chunk(void *arg, uint64_t addr, uint64_t size, bool used, unsigned arena)
{
	struct graph *g = arg;

	/* The next chunk's first word belongs to this one while it is in use. */
	if (used && size > CHUNK_HEADER &&
	    graph_node_add(g, addr, size - CHUNK_HEADER + 8, arena, 0) < 0)
		g->failed = true;
}

void graph_gap(void *arg, uint64_t start, uint64_t end, unsigned arena)
{
	struct graph *g = arg;

	(void)arena;
	if (range_add(&g->gaps, start, end) < 0)
		g->failed = true;
}

/* Terms point to terms: heaps and tables are left out. Up to 23 a carrier that
 * was abandoned may hold blocks of several allocators, though. */
static bool carrier_holds_roots(const struct graph *g, const struct carrier *c)
{
	unsigned t;

	if (!(g->term_types >> c->type & 1))
		return true;
	for (t = 0; t < CARRIER_TYPES; t++)
		if (c->used_resident_by_type[t] && !(g->term_types >> t & 1))
			return true;
	return false;
}

static bool carrier_holds_tags(const struct graph *g, const struct carrier *c)
{
	unsigned t;

	if (g->tagged_types >> c->type & 1)
		return true;
	for (t = 0; t < CARRIER_TYPES; t++)
		if (c->used_resident_by_type[t] && g->tagged_types >> t & 1)
			return true;
	return false;
}

void graph_block(void *arg, const struct carrier *c, uint64_t addr, uint64_t size, bool used,
		 unsigned alloc_type)
{
	struct graph *g = arg;
	int ret;

	(void)alloc_type;
	if (!used)
		return;
	if (c->addr != g->last_carrier) {
		g->last_carrier = c->addr;
		g->last_roots = carrier_holds_roots(g, c);
		g->last_tags = carrier_holds_tags(g, c);
	}
	if (!g->last_roots)
		return;
	if (g->last_tags) /* not merged: each may have an owner of its own */
		ret = range_add_single(&g->tagged, addr, addr + size);
	else
		ret = range_add(&g->vm_blocks, addr, addr + size);
	if (ret < 0)
		g->failed = true;
}

/* ---- order and directory ------------------------------------------------------- */

static int by_addr(const void *a, const void *b)
{
	const struct node *x = a, *y = b;

	return (x->addr > y->addr) - (x->addr < y->addr);
}

static bool holds_carrier(const struct carriers *c, size_t *at, const struct node *n)
{
	while (c && *at < c->n && c->v[*at].addr < n->addr)
		++*at;
	return c && *at < c->n && c->v[*at].addr < (uint64_t)n->addr + n->bytes;
}

static uint32_t *leaf_of(struct graph *g, uint64_t piece)
{
	if (!g->top[piece]) {
		if (g->n_leaf == g->room_leaf) {
			size_t room = g->room_leaf ? g->room_leaf * 2 : 16;
			uint32_t *bigger = realloc(g->leaf, room * PIECE_PAGES * sizeof(*bigger));

			if (!bigger)
				return NULL;
			g->leaf = bigger;
			g->room_leaf = room;
		}
		if (!g->leaf)
			return NULL;
		memset(g->leaf + g->n_leaf * PIECE_PAGES, 0, PIECE_PAGES * sizeof(*g->leaf));
		g->top[piece] = (uint32_t)++g->n_leaf;
	}
	if (g->top[piece] & TOP_NODE) /* somebody has the whole piece */
		return NULL;
	return g->leaf + (size_t)(g->top[piece] - 1) * PIECE_PAGES;
}

static int cover(struct graph *g, uint64_t start, uint64_t end, uint32_t value, bool is_node)
{
	uint64_t page = start >> 12, last = (end - 1) >> 12;

	if (start < g->low)
		g->low = start;
	if (end > g->high)
		g->high = end;
	while (page <= last) {
		uint64_t piece = page / PIECE_PAGES, stop = (piece + 1) * PIECE_PAGES - 1;
		uint32_t *leaf;

		if (is_node && page % PIECE_PAGES == 0 && stop < last && !g->top[piece]) {
			g->top[piece] = TOP_NODE | (value - 1);
			page = stop + 1;
			continue;
		}
		leaf = leaf_of(g, piece);
		if (!leaf && !(g->top[piece] & TOP_NODE))
			return -ENOMEM;
		for (; page <= last && page <= stop; page++)
			if (leaf && !leaf[page % PIECE_PAGES])
				leaf[page % PIECE_PAGES] = value;
	}
	return 0;
}

/* An mmapped chunk ends where its mapping does: there is no next header whose
 * first word it could use. */
static void mmapped_cut(const struct libc_heap *h, size_t *at, struct node *n)
{
	if (n->flags & NODE_MMAP)
		return;
	while (h && *at < h->n_regions && h->regions[*at].end <= n->addr)
		++*at;
	if (!h || *at == h->n_regions || h->regions[*at].start > n->addr ||
	    h->regions[*at].kind != LIBC_MMAPPED)
		return;
	n->bytes -= 8;
	n->arena = ARENA_NONE;
}

int graph_index(struct graph *g, const struct carriers *c, const struct libc_heap *h,
		const struct images *im)
{
	uint64_t end = 0;
	size_t i, j, n = 0, at = 0, region = 0, segs;
	int ret = 0;

	if (g->failed || (g->n && !g->v))
		return -ENOMEM;
	for (i = 1; i < g->n && g->v[i - 1].addr < g->v[i].addr; i++)
		;
	if (i < g->n)
		qsort(g->v, g->n, sizeof(*g->v), by_addr);
	for (i = 0; i < g->n; i++) {
		mmapped_cut(h, &region, &g->v[i]);
		/* told twice, when a walk went back and began again */
		if (g->v[i].addr < end || holds_carrier(c, &at, &g->v[i]))
			continue;
		end = (uint64_t)g->v[i].addr + g->v[i].bytes;
		g->v[n++] = g->v[i];
	}
	g->n = n;
	g->max_edges = n * EDGES_PER_NODE > EDGES_MIN ? n * EDGES_PER_NODE : EDGES_MIN;
	g->top = calloc(PIECES, sizeof(*g->top));
	g->first = calloc(n + 1, sizeof(*g->first));
	g->hash = calloc(n ? n : 1, sizeof(*g->hash));
	g->from = calloc(n ? n : 1, sizeof(*g->from));
	if (!g->top || !g->first || !g->hash || !g->from)
		return -ENOMEM;
	g->low = UINT64_MAX;
	g->high = 0;
	for (i = 0; i < n && !ret; i++)
		ret = cover(g, g->v[i].addr, (uint64_t)g->v[i].addr + g->v[i].bytes,
			    (uint32_t)i + 1, true);
	for (i = 0; im && i < im->n && !ret; i++) {
		const struct image_segment *s = image_segments(im->v[i], &segs);

		for (j = 0; j < segs && !ret; j++)
			if (s[j].end <= USER_END && s[j].start < s[j].end)
				ret = cover(g, s[j].start, s[j].end, EDGE_IMAGE | (uint32_t)i,
					    false);
	}
	return ret;
}

uint32_t graph_find(const struct graph *g, uint64_t addr)
{
	uint32_t entry, i, step;

	if (addr - g->low >= g->high - g->low)
		return UINT32_MAX;
	entry = g->top[addr >> PIECE_BITS];
	if (!entry)
		return UINT32_MAX;
	if (entry & TOP_NODE) {
		i = entry & ~TOP_NODE;
	} else {
		entry = g->leaf[(size_t)(entry - 1) * PIECE_PAGES + (addr >> 12) % PIECE_PAGES];
		if (!entry || entry & EDGE_IMAGE)
			return entry ? entry : UINT32_MAX;
		i = entry - 1;
		/* the last one that begins at or before the address: 128 at most */
		for (step = 64; step; step /= 2)
			while (i + step < g->n && g->v[i + step].addr <= addr)
				i += step;
	}
	return addr >= g->v[i].addr && addr - g->v[i].addr < g->v[i].bytes ? i : UINT32_MAX;
}

/* ---- marking ------------------------------------------------------------------- */

int graph_mark(struct graph *g)
{
	uint32_t *stack = NULL;
	size_t i, n = 0, room = 0;
	int ret = 0;

	for (i = 0; i < g->n && !ret; i++) {
		size_t from = i;

		/* everything that a root points to, then what that leads to */
		if (!(g->v[i].flags & NODE_REACHED) || g->v[i].flags & NODE_QUEUED)
			continue;
		for (;;) {
			uint32_t e;

			g->v[from].flags |= NODE_REACHED | NODE_QUEUED;
			for (e = g->first[from]; e < g->first[from + 1]; e++) {
				uint32_t to = g->edges[e].target;

				if (to & EDGE_IMAGE || g->v[to].flags & NODE_QUEUED)
					continue;
				if (n == room) {
					size_t bigger = room ? room * 2 : 4096;
					uint32_t *v = realloc(stack, bigger * sizeof(*v));

					if (!v) {
						ret = -ENOMEM;
						break;
					}
					stack = v;
					room = bigger;
				}
				g->v[to].flags |= NODE_QUEUED;
				stack[n++] = to;
			}
			if (!n || ret)
				break;
			from = stack[--n];
		}
	}
	for (i = 0; i < g->n; i++)
		g->v[i].flags &= ~NODE_QUEUED & NODE_FLAGS;
	free(stack);
	return ret;
}

uint64_t graph_bytes(const struct graph *g)
{
	return g->room * sizeof(*g->v) + (g->n + 1) * sizeof(*g->first) +
	       g->n * (sizeof(*g->hash) + sizeof(*g->from)) + g->room_edges * sizeof(*g->edges) +
	       g->room_seeds * sizeof(*g->seeds) + g->room_leaf * PIECE_PAGES * sizeof(*g->leaf) +
	       (g->vm_blocks.room + g->tagged.room + g->gaps.room) * sizeof(struct range);
}

void graph_free(struct graph *g)
{
	free(g->v);
	free(g->first);
	free(g->hash);
	free(g->from);
	free(g->edges);
	free(g->seeds);
	free(g->top);
	free(g->leaf);
	free(g->vm_blocks.v);
	free(g->tagged.v);
	free(g->gaps.v);
	memset(g, 0, sizeof(*g));
}
