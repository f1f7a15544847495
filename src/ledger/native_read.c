/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading the target for pointers.
 *
 * Everything goes through one window of at most 1 MiB that moves forward: it
 * doubles while what is asked for follows the last piece, and falls back to a
 * few pages after a jump, so that millions of small blocks cost one system call
 * a megabyte and a lone block costs little. Pages that are not resident are not
 * read; a page that was unmapped since the picture was taken is counted.
 *
 * A word is looked up only when it lies between the lowest and the highest
 * block, and in a 64 MiB piece with something in it: most words fail at one of
 * the two.
 */
#include "ledger/native_int.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define WINDOW_MIN (16ULL << 10)
#define WINDOW_GAP (32ULL << 10) /* reading this much for nothing costs less than a call */

static bool is_fatal(int ret)
{
	return ret == -ESRCH || ret == -ETIMEDOUT || ret == -EPERM || ret == -EACCES;
}

/* Fills the window from `at` on: no more than it has to be, or a good piece
 * beyond `end` where reading goes on like that. Returns how far it reaches, or
 * how far nothing can be read (then the window is empty). */
static uint64_t window_fill(struct scan *s, uint64_t at, uint64_t end)
{
	bool present, follows = at >= s->buf_end && at - s->buf_end <= WINDOW_GAP && s->buf_end;
	uint64_t stop, want;
	ssize_t got;

	s->next_size = !follows				? WINDOW_MIN
		       : s->next_size < TARGET_READ_MAX ? s->next_size * 2
							: TARGET_READ_MAX;
	want = end - at > s->next_size ? TARGET_READ_MAX : s->next_size;
	stop = residency_run(s->l->res, at, at + want, &present);
	if (!present) /* as far as that goes */
		return at + want < end ? residency_run(s->l->res, at, end, &present) : stop;
	got = target_read_some(s->o->target, at, s->buf, (size_t)(stop - at));
	s->buf_start = at;
	s->buf_end = at;
	if (got > 0) {
		s->buf_end = at + ((uint64_t)got & ~7ULL);
		if (s->buf_end > at)
			return s->buf_end;
	}
	if (got < 0 && is_fatal((int)got))
		s->fatal = (int)got;
	/* unmapped: what it pointed to, it does not any more */
	stop = (at | (TARGET_PAGE - 1)) + 1;
	if (stop > end)
		stop = end;
	s->gone += stop - at;
	return stop;
}

/* The readable words from *at on, at most to `end`; NULL when there are none
 * left. Moves *at to them. */
static const uint64_t *words_next(struct scan *s, uint64_t *at, uint64_t end, size_t *n)
{
	while (*at + 8 <= end && !s->fatal) {
		uint64_t stop;

		if (*at < s->buf_start || *at + 8 > s->buf_end) {
			uint64_t to = window_fill(s, *at, end);

			if (*at < s->buf_start || *at + 8 > s->buf_end) {
				*at = (to + 7) & ~7ULL;
				continue;
			}
		}
		stop = end < s->buf_end ? end : s->buf_end;
		*n = (size_t)(stop - *at) / 8;
		return (const uint64_t *)(s->buf + (*at - s->buf_start));
	}
	return NULL;
}

int scan_words(struct scan *s, uint64_t start, uint64_t end, word_fn *fn, void *arg)
{
	const uint64_t low = s->g.low, span = s->g.high - s->g.low;
	uint64_t at = (start + 7) & ~7ULL;
	const uint64_t *w;
	size_t i, n;

	/* the window lies 8-byte aligned in our memory if `at` does in the target's */
	while ((w = words_next(s, &at, end, &n))) {
		for (i = 0; i < n; i++) {
			uint32_t target;

			if (w[i] - low >= span)
				continue;
			target = graph_find(&s->g, w[i]);
			if (target != UINT32_MAX)
				fn(s, arg, at + 8 * i, w[i], target);
		}
		at += 8 * n;
	}
	return s->fatal;
}

bool scan_peek(struct scan *s, uint64_t addr, void *buf, size_t len)
{
	ssize_t got;

	if (addr >= s->buf_start && addr + len <= s->buf_end) {
		memcpy(buf, s->buf + (addr - s->buf_start), len);
		return true;
	}
	got = residency_read(s->l->res, s->o->target, addr, buf, len);
	if (got < 0 && is_fatal((int)got))
		s->fatal = (int)got;
	return got > 0;
}

/* ---- the contents of nodes ------------------------------------------------------- */

static void edge_add(struct scan *s, uint32_t from, uint64_t word, uint32_t target, uint64_t value)
{
	struct graph *g = &s->g;
	uint32_t inner = 0;

	if (target == from)
		return;
	if (!(target & EDGE_IMAGE) && graph_inner(g, target, value))
		inner = EDGE_INNER;
	else if (!(target & EDGE_IMAGE))
		graph_pointed(g, target, from + 1);
	if (g->n_edges == g->room_edges) {
		size_t room = g->room_edges ? g->room_edges * 2 : 65536;
		struct edge *bigger;

		if (room > g->max_edges)
			room = g->max_edges;
		bigger = room > g->room_edges ? realloc(g->edges, room * sizeof(*bigger)) : NULL;
		if (!bigger) {
			/* too many to remember: no claim about what they lead to */
			g->edges_cut = true;
			if (!(target & EDGE_IMAGE))
				g->v[target].flags |= NODE_REACHED;
			return;
		}
		g->edges = bigger;
		g->room_edges = room;
	}
	g->edges[g->n_edges++] = (struct edge){
		.target = target,
		.word = (word < EDGE_WORD ? (uint32_t)word : EDGE_WORD) | inner,
	};
}

int scan_nodes(struct scan *s)
{
	struct graph *g = &s->g;
	uint32_t i;

	for (i = 0; i < g->n && !s->fatal; i++) {
		const uint64_t low = g->low, span = g->high - g->low, start = g->v[i].addr;
		const uint64_t end = start + g->v[i].bytes;
		uint64_t at = (start + 7) & ~7ULL;
		uint32_t hash = 0;
		const uint64_t *w;
		size_t k, n;

		g->first[i] = (uint32_t)g->n_edges;
		while ((w = words_next(s, &at, end, &n))) {
			for (k = 0; k < n; k++) {
				uint32_t target;

				if ((at - start) / 8 + k < HASHED_WORDS)
					hash = (uint32_t)((hash ^ w[k] ^ w[k] >> 32) *
								  0x9E3779B97F4A7C15ULL >>
							  24);
				if (w[k] - low >= span)
					continue;
				target = graph_find(g, w[k]);
				if (target != UINT32_MAX)
					edge_add(s, i, (at - start) / 8 + k, target, w[k]);
			}
			at += 8 * n;
		}
		g->hash[i] = hash;
	}
	for (; i <= g->n; i++)
		g->first[i] = (uint32_t)g->n_edges;
	return s->fatal;
}
