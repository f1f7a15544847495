// SPDX-License-Identifier: Apache-2.0
/*
 * Net resident growth.
 *
 * What a report shows as growth is the difference of two pagemaps, one from the
 * beginning and one from now, split by who did it:
 *
 *	opening   ..RRRR..RR......      R resident
 *	faults         A BB  CCCC       of stacks A, B, C
 *	unmapped    xx       xx
 *	closing   ..  RRRRRR....CC
 *	             |  ||  |   \\_____ C: 2 pages (2 of its 4 were given back)
 *	             |  \\__|__________ B: 2 pages
 *	             \______|__________ kept from before: nobody's
 *	                    \__________ A: was there already; that fault changed no byte
 *
 * The live map holds an owner for every page that was faulted in. A page that is
 * unmapped or discarded loses its owner; a fault on a page that has one (or that
 * was resident before and was not unmapped since) is a protection, NUMA or swap
 * fault and changes nothing. What the events could not tell (reclaimed pages,
 * failed unmaps, lost records) the closing pagemap corrects: an owner's weight
 * is what of its pages is resident then. So the parts always add up:
 *
 *	closing - opening = owned + unowned + moved - released
 *
 * One fault may bring more than a page: 2 MiB of transparent huge page, 64 KiB of a
 * file that is in the page cache. Such pages have no owner of their own and take
 * that of the page in the same block that has one (`nearby`).
 *
 * The map is a radix tree of 2 MiB chunks, each with one owner number a page: 0.1%
 * of the memory that it describes, no search, no merging.
 */
#include "trace/growth.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define PAGE	    TARGET_PAGE
#define CHUNK_PAGES 512u
#define CHUNK	    (CHUNK_PAGES * PAGE)
#define TREE_BITS   13
#define TREE	    (1u << TREE_BITS)
#define ADDRESS_END (1ULL << 47)
#define NEARBY_FILE (64ULL << 10)
#define MOVES_MAX   256

enum {			       /* owner numbers that are none */
       NOBODY = 0,	       /* never faulted since the beginning */
       GONE = UINT32_MAX,      /* was unmapped or discarded since then */
       MOVED = UINT32_MAX - 1, /* was resident at the beginning, at another address */
       STILL = UINT32_MAX - 2  /* in a segment only: was resident at the beginning, here */
};

struct chunk {
	uint32_t owner[CHUNK_PAGES];
};

struct node {
	struct chunk *chunks[TREE];
};

struct segment { /* of a range that is being moved */
	uint64_t offset, bytes;
	uint32_t owner;
};

struct move {
	uint32_t tid;
	uint64_t start, bytes;
	struct segment *v;
	size_t n, a;
};

struct growth {
	struct node *tree[TREE];
	size_t n_chunks, n_nodes, bytes_max;
	const struct residency *opening;
	const struct mappings *maps;
	struct move moves[MOVES_MAX];
	uint64_t lost;
};

int growth_new(size_t bytes_max, struct growth **out)
{
	*out = calloc(1, sizeof(**out));
	if (!*out)
		return -ENOMEM;
	(*out)->bytes_max = bytes_max;
	return 0;
}

static void growth_clear(struct growth *g)
{
	for (size_t i = 0; i < TREE; i++) {
		if (!g->tree[i])
			continue;
		for (size_t k = 0; k < TREE; k++)
			free(g->tree[i]->chunks[k]);
		free(g->tree[i]);
		g->tree[i] = NULL;
	}
	for (size_t i = 0; i < MOVES_MAX; i++)
		free(g->moves[i].v);
	memset(g->moves, 0, sizeof(g->moves));
	g->n_chunks = 0;
	g->n_nodes = 0;
	g->lost = 0;
}

void growth_free(struct growth *g)
{
	if (!g)
		return;
	growth_clear(g);
	free(g);
}

size_t growth_bytes(const struct growth *g)
{
	return sizeof(*g) + g->n_chunks * sizeof(struct chunk) + g->n_nodes * sizeof(struct node);
}

int growth_begin(struct growth *g, const struct residency *opening, const struct mappings *maps)
{
	growth_clear(g);
	g->opening = opening;
	g->maps = maps;
	return 0;
}

static struct chunk *chunk_find(const struct growth *g, uint64_t addr)
{
	uint64_t at = addr / CHUNK;
	struct node *node = g->tree[at >> TREE_BITS];

	return node ? node->chunks[at & (TREE - 1)] : NULL;
}

static struct chunk *chunk_make(struct growth *g, uint64_t addr)
{
	uint64_t at = addr / CHUNK;
	struct node **node = &g->tree[at >> TREE_BITS];
	struct chunk **chunk;

	if (!*node) {
		if (growth_bytes(g) + sizeof(**node) > g->bytes_max)
			return NULL;
		*node = calloc(1, sizeof(**node));
		if (!*node)
			return NULL;
		g->n_nodes++;
	}
	chunk = &(*node)->chunks[at & (TREE - 1)];
	if (!*chunk) {
		if (growth_bytes(g) + sizeof(**chunk) > g->bytes_max)
			return NULL;
		*chunk = calloc(1, sizeof(**chunk));
		if (*chunk)
			g->n_chunks++;
	}
	return *chunk;
}

/* Start of the first chunk at or above addr that exists, ADDRESS_END if none. */
static uint64_t chunk_next(const struct growth *g, uint64_t addr)
{
	uint64_t at = addr / CHUNK;

	while (at < (uint64_t)TREE * TREE) {
		const struct node *node = g->tree[at >> TREE_BITS];

		if (!node) {
			at = ((at >> TREE_BITS) + 1) << TREE_BITS;
			continue;
		}
		if (node->chunks[at & (TREE - 1)])
			return at * CHUNK;
		at++;
	}
	return ADDRESS_END;
}

static bool before(const struct growth *g, uint64_t addr)
{
	return g->opening && residency_page(g->opening, addr);
}

/* Cuts [start, start + bytes) to whole pages of the address space. */
static bool range_cut(uint64_t *start, uint64_t bytes, uint64_t *end)
{
	if (*start >= ADDRESS_END || !bytes)
		return false;
	*end = bytes > ADDRESS_END - *start ? ADDRESS_END : *start + bytes;
	*end = (*end + PAGE - 1) & ~(PAGE - 1);
	*start &= ~(PAGE - 1);
	return *start < *end;
}

uint64_t growth_fault(struct growth *g, uint64_t start, uint64_t bytes, uint32_t owner)
{
	uint64_t end, new = 0;

	if (!range_cut(&start, bytes, &end))
		return 0;
	while (start < end) {
		struct chunk *c = chunk_make(g, start);
		uint64_t stop = (start / CHUNK + 1) * CHUNK;

		if (stop > end)
			stop = end;
		if (!c) {
			g->lost += stop - start;
			start = stop;
			continue;
		}
		for (; start < stop; start += PAGE) {
			uint32_t *o = &c->owner[start / PAGE % CHUNK_PAGES];

			if (*o == GONE || (*o == NOBODY && !before(g, start))) {
				*o = owner;
				new += PAGE;
			}
		}
	}
	return new;
}

/* Calls for the pages of the range that have an owner or were resident at the
 * beginning, as long as fn keeps them NOBODY if they were. */
static void range_clear(struct growth *g, uint64_t start, uint64_t end, struct move *save)
{
	uint64_t begin = start;

	while (start < end) {
		struct chunk *c = chunk_find(g, start);
		uint64_t stop = (start / CHUNK + 1) * CHUNK;

		if (stop > end)
			stop = end;
		if (!c) {
			uint64_t next = chunk_next(g, start), here = start;
			bool present = false;

			/* only what was there before needs to be remembered as gone */
			if (next > end)
				next = end;
			while (g->opening && here < next && !present) {
				uint64_t run = residency_run(g->opening, here, next, &present);

				if (!present)
					here = run;
			}
			if (!present) {
				start = next;
				continue;
			}
			start = here;
			c = chunk_make(g, start);
			stop = (start / CHUNK + 1) * CHUNK;
			if (stop > end)
				stop = end;
			if (!c) {
				g->lost += stop - start;
				start = stop;
				continue;
			}
		}
		for (; start < stop; start += PAGE) {
			uint32_t *o = &c->owner[start / PAGE % CHUNK_PAGES];
			uint32_t was = *o;
			struct segment *last;

			if (was == NOBODY) {
				if (!before(g, start))
					continue;
				was = STILL;
			}
			*o = GONE;
			if (!save || was == GONE)
				continue;
			last = save->n ? &save->v[save->n - 1] : NULL;
			if (last && last->owner == was &&
			    last->offset + last->bytes == start - begin) {
				last->bytes += PAGE;
				continue;
			}
			if (save->n == save->a) {
				size_t a = save->a ? save->a * 2 : 16;
				struct segment *v = realloc(save->v, a * sizeof(*v));

				if (!v) {
					g->lost += PAGE;
					continue;
				}
				save->v = v;
				save->a = a;
			}
			save->v[save->n++] = (struct segment){ start - begin, PAGE, was };
		}
	}
}

void growth_gone(struct growth *g, uint64_t start, uint64_t bytes)
{
	uint64_t end;

	if (range_cut(&start, bytes, &end))
		range_clear(g, start, end, NULL);
}

static struct move *move_find(struct growth *g, uint32_t tid)
{
	for (size_t i = 0; i < MOVES_MAX; i++)
		if (g->moves[i].tid == tid)
			return &g->moves[i];
	return NULL;
}

static void move_end(struct move *m)
{
	free(m->v);
	memset(m, 0, sizeof(*m));
}

void growth_move_begin(struct growth *g, uint32_t tid, uint64_t start, uint64_t bytes)
{
	struct move *m = move_find(g, tid);
	uint64_t end;

	if (m)
		move_end(m); /* its end was lost */
	else
		m = move_find(g, 0);
	if (!range_cut(&start, bytes, &end))
		return;
	if (m) {
		m->tid = tid;
		m->start = start;
		m->bytes = end - start;
	}
	range_clear(g, start, end, m);
}

void growth_move_end(struct growth *g, uint32_t tid, uint64_t to, uint64_t bytes)
{
	struct move *m = tid ? move_find(g, tid) : NULL;
	uint64_t end;

	if (!m)
		return;
	if (!to) { /* it failed: everything is where it was */
		to = m->start;
		bytes = m->bytes;
	} else if (to != m->start) {
		growth_gone(g, to, bytes);
	}
	if (!range_cut(&to, bytes, &end))
		end = to;
	for (size_t i = 0; i < m->n; i++) {
		const struct segment *s = &m->v[i];
		uint64_t from = to + s->offset, stop = from + s->bytes;

		for (; from < stop && from < end; from += PAGE) {
			struct chunk *c = chunk_make(g, from);
			uint32_t owner = s->owner;

			if (owner == STILL)
				owner = to == m->start ? NOBODY : MOVED;
			if (!c)
				g->lost += PAGE;
			else
				c->owner[from / PAGE % CHUNK_PAGES] = owner;
		}
	}
	move_end(m);
}

static bool is_owner(uint32_t o, size_t n)
{
	return o != NOBODY && o < n;
}

/* How far around a page one fault may have brought others. */
static uint64_t nearby_block(const struct mappings *maps, const struct residency *closing,
			     uint64_t chunk, uint64_t addr)
{
	const struct mapping *m = mappings_find(maps, addr);

	if (!m)
		return 0;
	if (m->kind != MAPPING_FILE && m->kind != MAPPING_MEMFD && m->kind != MAPPING_SHARED &&
	    m->start <= chunk && m->end >= chunk + CHUNK &&
	    residency_bytes(closing, chunk, chunk + CHUNK) == CHUNK)
		return CHUNK;
	return NEARBY_FILE;
}

/* The owner of the page in the block around `addr` that is nearest. */
static uint32_t nearby_owner(const struct chunk *c, uint64_t chunk, uint64_t addr, uint64_t block,
			     size_t n)
{
	uint64_t first = addr & ~(block - 1), last = first + block;
	unsigned at = (unsigned)((addr - chunk) / PAGE);
	unsigned lo = (unsigned)((first - chunk) / PAGE), hi = (unsigned)((last - chunk) / PAGE);

	for (unsigned d = 1; d < block / PAGE; d++) {
		if (at >= lo + d && is_owner(c->owner[at - d], n))
			return c->owner[at - d];
		if (at + d < hi && is_owner(c->owner[at + d], n))
			return c->owner[at + d];
	}
	return NOBODY;
}

static void chunk_account(const struct growth *g, uint64_t chunk, const struct residency *closing,
			  const struct mappings *maps, int64_t *net, size_t n,
			  struct growth_sum *sum, uint64_t *kept)
{
	const struct chunk *c = chunk_find(g, chunk);
	bool owned = false;

	for (unsigned i = 0; i < CHUNK_PAGES && !owned; i++)
		owned = is_owner(c->owner[i], n);
	for (unsigned i = 0; i < CHUNK_PAGES; i++) {
		uint64_t addr = chunk + i * PAGE;
		uint32_t o = c->owner[i];
		bool was = before(g, addr), is = !closing || residency_page(closing, addr);

		if (o == NOBODY && (was || !closing))
			continue; /* counted as kept or released with the rest */
		if (o == GONE && !closing)
			is = false;
		if (was && (is || !closing))
			*kept -= PAGE; /* another page is there now, or none */
		if (!is)
			continue;
		if (o == MOVED) {
			sum->moved += PAGE;
			continue;
		}
		if (!is_owner(o, n) && owned && maps) {
			uint64_t block = nearby_block(maps, closing, chunk, addr);

			o = block ? nearby_owner(c, chunk, addr, block, n) : NOBODY;
			if (o != NOBODY)
				sum->nearby += PAGE;
		}
		if (is_owner(o, n)) {
			net[o] += PAGE;
			sum->owned += PAGE;
		}
	}
}

int growth_account(struct growth *g, const struct residency *closing, const struct mappings *maps,
		   int64_t *net, size_t n, struct growth_sum *sum)
{
	uint64_t kept = 0;

	memset(sum, 0, sizeof(*sum));
	sum->opening = g->opening ? residency_total(g->opening) : 0;
	sum->closing = closing ? residency_total(closing) : 0;
	sum->lost = g->lost;
	/* what was resident then and is now, whoever it belongs to */
	kept = closing ? 0 : sum->opening;
	for (size_t i = 0; closing && g->opening && g->maps && i < g->maps->n; i++) {
		uint64_t at = g->maps->v[i].start, end = g->maps->v[i].end;
		bool present;

		while (at < end) {
			uint64_t stop = residency_run(g->opening, at, end, &present);

			if (present)
				kept += residency_bytes(closing, at, stop);
			if (stop <= at)
				break;
			at = stop;
		}
	}
	for (uint64_t at = chunk_next(g, 0); at < ADDRESS_END; at = chunk_next(g, at + CHUNK))
		chunk_account(g, at, closing, maps, net, n, sum, &kept);
	sum->released = sum->opening - kept;
	if (!closing)
		sum->closing = kept + sum->owned + sum->moved;
	sum->unowned = sum->closing - kept - sum->owned - sum->moved;
	return 0;
}
