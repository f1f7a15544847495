/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Free chunks that look used.
 *
 * Two caches of glibc keep chunks whose header still says "in use", so that
 * nobody merges them with a neighbour:
 *
 *   tcache    one per thread, reached through a thread variable:
 *             counts[], entries[] -> {next, key} -> {next, key} -> 0
 *   fastbins  ten lists per arena: fastbinsY[i] -> chunk.fd -> ... -> 0
 *
 * From 2.32 on the links are masked with their own address ("safe linking":
 * stored = next ^ (address of the link >> 12)); the heads are not.
 *
 * The thread variable has no symbol. It is the place below fs that leads, in
 * more threads than any other place, to a chunk with the size of the tcache
 * struct and counts that fit its entries. A chain counts when it is as
 * long as its count says and all its entries carry the same key: 2.31 to 2.33
 * store the tcache's address there, later ones a random number.
 */
#include "libc/glibc_int.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define TLS_BYTES	  8192 /* of thread variables that are searched below fs */
#define TLS_SLOTS	  (TLS_BYTES / 8)
#define TCACHE_BYTES	  0x300
#define TCACHE_SPARE	  48
#define TCACHE_TRIES	  5
#define TCACHE_COUNT_MAX  65535
#define TCACHE_CHAINS_MAX (1U << 20) /* entries of all tcaches */
#define TCACHE_LARGE_MAX  (8ULL << 20)

static uint64_t link_next(const struct heap_view *v, uint64_t where, uint64_t raw)
{
	return v->safe_linking ? raw ^ where >> 12 : raw;
}

static int cached_add(struct heap_view *v, struct cached_chunks *c, struct cached_chunk chunk)
{
	if (c->n == c->size) {
		size_t size = c->size ? 2 * c->size : 256;
		struct cached_chunk *bigger = realloc(c->v, size * sizeof(*bigger));

		if (!bigger)
			return v->fatal = -ENOMEM;
		c->v = bigger;
		c->size = size;
	}
	c->v[c->n++] = chunk;
	return 0;
}

static int cached_compare(const void *a, const void *b)
{
	const struct cached_chunk *x = a, *y = b;

	return (x->chunk > y->chunk) - (x->chunk < y->chunk);
}

void cached_sort(struct cached_chunks *c)
{
	size_t i, n = 0;

	if (!c->n)
		return;
	qsort(c->v, c->n, sizeof(c->v[0]), cached_compare);
	for (i = 0; i < c->n; i++) {
		if (n && c->v[n - 1].chunk == c->v[i].chunk)
			c->incomplete = true; /* in two lists: one of them moved */
		else
			c->v[n++] = c->v[i];
	}
	c->n = n;
}

void cached_clear(struct cached_chunks *c)
{
	c->n = 0;
	c->incomplete = false;
}

void cached_free(struct cached_chunks *c)
{
	free(c->v);
	*c = (struct cached_chunks){ 0 };
}

static unsigned tcache_held(const struct heap_view *v, const struct tcache_layout *tl,
			    const uint8_t *copy, unsigned bin)
{
	uint16_t n;

	memcpy(&n, copy + (size_t)bin * 2, sizeof(n));
	if (!tl->counts_down)
		return n;
	return n <= v->tcache_count ? (unsigned)v->tcache_count - n : TCACHE_COUNT_MAX + 1;
}

/* Whether `addr` is a tcache struct; *held gets the number of its chunks. */
static bool tcache_verify(struct heap_view *v, const struct tcache_layout *tl, uint64_t addr,
			  uint64_t *held)
{
	uint8_t copy[TCACHE_BYTES];
	unsigned bin, wrong = 0;
	uint64_t size;

	*held = 0;
	if (addr & 15 || addr < CHUNK_HEADER || heap_read_u64(v, addr - 8, &size) < 0 ||
	    size & IS_MMAPPED)
		return false;
	/* More where the chunk was cut from one that left no room for another: 2.43
	 * was seen with 16 and 32 bytes more. */
	size &= ~SIZE_BITS;
	if (size < tl->chunk_size || size > tl->chunk_size + TCACHE_SPARE)
		return false;
	if (heap_read(v, addr, copy, tl->entries_at + tl->bins * 8) < 0)
		return false;
	for (bin = 0; bin < tl->bins; bin++) {
		uint64_t entry = heap_word(copy, tl->entries_at + (size_t)bin * 8);
		unsigned n = tcache_held(v, tl, copy, bin);

		if (n > TCACHE_COUNT_MAX || entry & 15 || (entry && !mappings_find(v->m, entry)))
			return false;
		wrong += (n != 0) != (entry != 0); /* its thread may be just there */
		*held += n;
	}
	return wrong <= 1;
}

/* The word at `slot` of a copy of the thread variables, if it may point to a
 * tcache. */
static uint64_t slot_pointer(const struct heap_view *v, const uint8_t *tls, size_t slot)
{
	uint64_t p = heap_word(tls, slot * 8);

	return p && !(p & 15) && !(p >> 47) && mappings_find(v->m, p) ? p : 0;
}

/* Reads the thread variables; pages that are not there stay zero. */
static void tls_read(struct heap_view *v, uint64_t fs, uint8_t *tls)
{
	uint64_t at = fs - TLS_BYTES, stop;

	memset(tls, 0, TLS_BYTES);
	for (; at < fs && !v->fatal; at = stop) {
		stop = (at | (TARGET_PAGE - 1)) + 1;
		if (stop > fs)
			stop = fs;
		(void)heap_read(v, at, tls + (at - (fs - TLS_BYTES)), (size_t)(stop - at));
	}
}

static bool mapping_is_file(const struct heap_view *v, uint64_t addr)
{
	const struct mapping *m = mappings_find(v->m, addr);

	return m && m->kind == MAPPING_FILE;
}

struct slot_vote {
	unsigned threads;
	uint64_t held;
};

void tcaches_find(struct heap_view *v, const struct libc_threads *threads)
{
	struct slot_vote *votes = calloc(TLS_SLOTS * libc_n_tcache_layouts, sizeof(*votes));
	uint8_t *tls = malloc(TLS_BYTES);
	size_t i, k, slot, best = 0;
	uint64_t held, p;

	if (!votes || !tls) {
		v->fatal = -ENOMEM;
		goto out;
	}
	for (i = 0; i < threads->n && !v->fatal; i++) {
		if (!threads->v[i].tid)
			continue;
		tls_read(v, threads->v[i].fs, tls);
		for (slot = 0; slot < TLS_SLOTS; slot++) {
			p = slot_pointer(v, tls, slot);
			for (k = 0; p && k < libc_n_tcache_layouts; k++) {
				struct slot_vote *vote = &votes[slot * libc_n_tcache_layouts + k];

				if (!tcache_verify(v, &libc_tcache_layouts[k], p, &held))
					continue;
				vote->threads++;
				vote->held += held;
			}
		}
	}
	for (i = 1; i < TLS_SLOTS * libc_n_tcache_layouts; i++)
		if (votes[i].threads > votes[best].threads ||
		    (votes[i].threads == votes[best].threads && votes[i].held > votes[best].held))
			best = i;
	if (!votes[best].threads || v->fatal)
		goto out;
	v->tcache = &libc_tcache_layouts[best % libc_n_tcache_layouts];
	v->tcaches = calloc(threads->n, sizeof(*v->tcaches));
	if (!v->tcaches) {
		v->fatal = -ENOMEM;
		goto out;
	}
	for (i = 0; i < threads->n && !v->fatal; i++) {
		if (!threads->v[i].tid)
			continue;
		tls_read(v, threads->v[i].fs, tls);
		p = slot_pointer(v, tls, best / libc_n_tcache_layouts);
		if (!p)
			continue;
		if (tcache_verify(v, v->tcache, p, &held))
			v->tcaches[v->n_tcaches++] = p;
		else if (!mapping_is_file(v, p)) /* 2.42 on: what libc's data holds is a dummy */
			v->tcaches_missed = true;
	}
out:
	free(tls);
	free(votes);
}

/* One bin's chain. False when it is not as long as it should be or an entry
 * does not carry the key. */
static bool tcache_chain(struct heap_view *v, uint64_t tcache, uint64_t entry, unsigned held,
			 unsigned bin, struct cached_chunks *out)
{
	const struct tcache_layout *tl = v->tcache;
	struct cached_chunk c = { .min = CHUNK_MIN + 16ULL * bin, .max = CHUNK_MIN + 16ULL * bin };
	unsigned n;

	if (bin >= tl->small_bins) {
		c.min = CHUNK_MIN + 16ULL * tl->small_bins;
		c.max = TCACHE_LARGE_MAX;
	}
	for (n = 0; n < held && entry; n++) {
		uint64_t w[2];

		if (entry & 15 || entry < CHUNK_HEADER || out->n >= TCACHE_CHAINS_MAX ||
		    heap_read(v, entry, w, sizeof(w)) < 0)
			return false;
		if (v->version_minor && v->version_minor < 34) {
			if (w[1] != tcache)
				return false;
		} else if (!v->tcache_key && w[1] != tcache) {
			v->tcache_key = w[1]; /* the first one; all others must agree */
		} else if (w[1] != tcache && w[1] != v->tcache_key) {
			return false;
		}
		c.chunk = entry - CHUNK_HEADER;
		if (cached_add(v, out, c) < 0)
			return false;
		entry = link_next(v, entry, w[0]);
	}
	return n == held && !entry;
}

static bool tcache_read(struct heap_view *v, uint64_t tcache, struct cached_chunks *out)
{
	const struct tcache_layout *tl = v->tcache;
	uint8_t copy[TCACHE_BYTES];
	bool whole = true;
	unsigned bin;

	if (heap_read(v, tcache, copy, tl->entries_at + tl->bins * 8) < 0)
		return false;
	for (bin = 0; bin < tl->bins; bin++) {
		uint64_t entry = heap_word(copy, tl->entries_at + (size_t)bin * 8);
		unsigned held = tcache_held(v, tl, copy, bin);

		if (held > TCACHE_COUNT_MAX)
			return false;
		whole &= tcache_chain(v, tcache, entry, held, bin, out);
	}
	return whole;
}

int tcaches_read(struct heap_view *v, struct cached_chunks *out)
{
	size_t i;

	cached_clear(out);
	out->incomplete = v->tcaches_missed;
	for (i = 0; i < v->n_tcaches && !v->fatal; i++) {
		uint64_t key = v->tcache_key;
		size_t before = out->n;
		unsigned attempt;

		for (attempt = 0; attempt < TCACHE_TRIES && !v->fatal; attempt++) {
			out->n = before;
			v->tcache_key = key;
			if (tcache_read(v, v->tcaches[i], out))
				break;
		}
		if (attempt == TCACHE_TRIES) {
			/* Busy: what the last try saw counts, where the walk finds
			 * the key in it. */
			out->incomplete = true;
			v->tcache_key = key;
		}
	}
	cached_sort(out);
	return v->fatal;
}

/* The lists are as long as the program made them; a cycle is noticed by a mark
 * that moves on whenever the distance to it has doubled. */
int fastbins_read(struct heap_view *v, const uint8_t *copy, struct cached_chunks *out)
{
	unsigned bin;
	size_t n = 0;

	if (!v->state->fastbins)
		return 0;
	for (bin = 0; bin < FASTBINS; bin++) {
		uint64_t chunk = heap_word(copy, v->state->fastbins + (size_t)bin * 8);
		struct cached_chunk c = { .min = CHUNK_MIN + 16ULL * bin,
					  .max = CHUNK_MIN + 16ULL * bin,
					  .fast = true };
		uint64_t mark = 0, raw;
		size_t steps = 0, next_mark = 1;

		while (chunk) {
			if (chunk & 15 || chunk == mark || ++n > CACHED_FAST_MAX ||
			    heap_read_u64(v, chunk + CHUNK_HEADER, &raw) < 0) {
				out->incomplete = true;
				break;
			}
			c.chunk = chunk;
			if (cached_add(v, out, c) < 0)
				return v->fatal;
			if (++steps == next_mark) {
				mark = chunk;
				next_mark *= 2;
			}
			chunk = link_next(v, chunk + CHUNK_HEADER, raw);
		}
	}
	return v->fatal;
}
