/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Chunks that malloc got from mmap, one mapping each.
 *
 * No list holds them. They are recognised by their header, at the beginning of
 * a page (or, after memalign, a little or a lot further in):
 *
 *   base           | prev_size = 0 | size | 2 |  user's bytes ...  | end of a page
 *   base ... skip  | prev_size = skip | size | 2 | ...
 *
 * with IS_MMAPPED the only flag and prev_size + size whole pages (2.43: whole
 * pages less 16 bytes, and no header at `base` when there is one further in). The kernel
 * merges neighbouring mappings, so a chunk may begin at any page of anonymous
 * memory: every page outside of images, stacks, heaps and the caller's holes is
 * looked at, except those inside a chunk that was found. mp_ counts chunks and
 * bytes: both equal to what was found is the proof, and also the moment to stop
 * looking. Without that a stranger's data could pass for a header. (In 2.43
 * each mremap leaves 16 bytes too much in mmapped_mem: there the count must be
 * equal and the bytes nearly so.)
 */
#include "libc/glibc_int.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct range {
	uint64_t start, end;
};

struct ranges { /* where no mmapped chunk can be */
	struct range *v;
	size_t n, size;
};

#define RUN_MAX		 (16 * TARGET_READ_MAX)
#define MREMAP_DRIFT_MAX (128ULL << 10) /* less than the smallest usual mmapped chunk */

struct scan {
	struct heap_view *v;
	unsigned tail; /* bytes of a mapping behind its chunk */
	uint8_t *buf;
	uint64_t n_mmaps, mmapped_mem; /* by mp_ */
	bool counted;		       /* mp_ is known */
};

/* malloc.c, _int_memalign: for alignments up to half a page the header lies
 * here; above that, 16 bytes before a page. */
static const unsigned offsets[] = { 0, 48, 112, 240, 496, 1008, 2032, 4080 };

static int range_add(struct heap_view *v, struct ranges *r, uint64_t start, uint64_t end)
{
	if (r->n == r->size) {
		size_t size = r->size ? 2 * r->size : 64;
		struct range *bigger = realloc(r->v, size * sizeof(*bigger));

		if (!bigger)
			return v->fatal = -ENOMEM;
		r->v = bigger;
		r->size = size;
	}
	r->v[r->n++] = (struct range){ start, end };
	return 0;
}

static int range_compare(const void *a, const void *b)
{
	const struct range *x = a, *y = b;

	return (x->start > y->start) - (x->start < y->start);
}

static int taken_collect(struct heap_view *v, const struct images *im,
			 const struct libc_threads *threads, struct ranges *out)
{
	const struct libc_heap *h = v->out;
	size_t i, j, n;

	for (i = 0; im && i < im->n; i++) {
		const struct image_segment *seg = image_segments(im->v[i], &n);

		for (j = 0; j < n; j++)
			if (range_add(v, out, seg[j].start, seg[j].end) < 0)
				return v->fatal;
	}
	for (i = 0; i < threads->n; i++)
		if (threads->v[i].stack &&
		    range_add(v, out, threads->v[i].stack,
			      threads->v[i].stack + threads->v[i].stack_size) < 0)
			return v->fatal;
	for (i = 0; i < h->n_regions; i++)
		if (range_add(v, out, h->regions[i].start, h->regions[i].end) < 0)
			return v->fatal;
	if (out->n)
		qsort(out->v, out->n, sizeof(out->v[0]), range_compare);
	/* Later ones may reach over earlier ones: make the ends rise. */
	for (i = 1; i < out->n; i++)
		if (out->v[i].end < out->v[i - 1].end)
			out->v[i].end = out->v[i - 1].end;
	return 0;
}

static bool all_found(const struct scan *s)
{
	uint64_t found = s->v->out->mmaps_found_bytes;

	if (!s->counted || s->v->out->mmaps_found != s->n_mmaps)
		return false;
	return found == s->mmapped_mem || (s->tail && found < s->mmapped_mem &&
					   s->mmapped_mem - found < MREMAP_DRIFT_MAX && s->n_mmaps);
}

/* Looks for a header in the page `page`, of which a copy is given. On success
 * fills the mapping's extent. `low` and `end` bound where it may lie. */
static bool header_find(const uint8_t *copy, unsigned tail, uint64_t page, uint64_t low,
			uint64_t end, uint64_t *base, uint64_t *stop)
{
	size_t i;

	for (i = 0; i < sizeof(offsets) / sizeof(offsets[0]); i++) {
		uint64_t at = page + offsets[i];
		uint64_t skip = heap_word(copy, offsets[i]);
		uint64_t size = heap_word(copy, offsets[i] + 8);

		if ((size & 15) != IS_MMAPPED || skip & 15)
			continue;
		size &= ~SIZE_BITS;
		if (size < CHUNK_MIN || skip > at - low || size > end - at ||
		    (skip + size + tail) % TARGET_PAGE || (at - skip) % TARGET_PAGE ||
		    (offsets[i] < 4080 && skip != offsets[i]))
			continue;
		*base = at - skip;
		*stop = at + size + tail;
		return true;
	}
	return false;
}

/* memalign leaves the header at the mapping's beginning as it was and writes
 * another where the aligned part begins: that one is the chunk. */
static uint64_t chunk_locate(struct heap_view *v, uint64_t base, uint64_t stop)
{
	uint64_t alignment, word[2];

	for (alignment = 32; alignment && alignment < stop - base; alignment *= 2) {
		uint64_t user = (base + CHUNK_HEADER + alignment - 1) & ~(alignment - 1), at;

		if (user - CHUNK_HEADER - base < CHUNK_MIN)
			user += alignment;
		at = user - CHUNK_HEADER;
		if (at + CHUNK_MIN <= stop && heap_read(v, at, word, sizeof(word)) == 0 &&
		    word[0] == at - base && word[1] == ((stop - at) | IS_MMAPPED))
			return at;
	}
	return base;
}

static int found_add(struct scan *s, uint64_t base, uint64_t stop)
{
	struct heap_view *v = s->v;
	struct libc_region region = { .start = base, .end = stop, .kind = LIBC_MMAPPED };

	region.used_resident = resident_outside_holes(v, base, stop);
	if (!region_add(v, &region))
		return v->fatal;
	v->out->mmaps_found++;
	v->out->mmaps_found_bytes += stop - base;
	return 0;
}

/* A stranger's page that looks like a header: when there is one chunk too many,
 * and one alone has the size that is too much, that one is it. */
static void surplus_drop(struct scan *s)
{
	struct libc_heap *h = s->v->out;
	size_t i, hit = h->n_regions, hits = 0;
	uint64_t surplus;

	if (!s->counted || h->mmaps_found != s->n_mmaps + 1 ||
	    h->mmaps_found_bytes <= s->mmapped_mem)
		return;
	surplus = h->mmaps_found_bytes - s->mmapped_mem;
	for (i = 0; i < h->n_regions; i++) {
		const struct libc_region *g = &h->regions[i];

		if (g->kind == LIBC_MMAPPED && g->end - g->start == surplus) {
			hit = i;
			hits++;
		}
	}
	if (hits != 1)
		return;
	region_drop(s->v, hit);
	h->mmaps_found--;
	h->mmaps_found_bytes -= surplus;
}

static void mmapped_emit(struct scan *s)
{
	struct heap_view *v = s->v;
	size_t i;

	for (i = 0; v->opts->chunk && i < v->out->n_regions && !v->fatal; i++) {
		const struct libc_region *g = &v->out->regions[i];
		uint64_t stop = g->end - s->tail, chunk;

		if (g->kind != LIBC_MMAPPED)
			continue;
		chunk = chunk_locate(v, g->start, stop);
		v->opts->chunk(v->opts->arg, chunk + CHUNK_HEADER, stop - chunk, true, 0);
	}
}

/* The end of the hole that holds `addr`, or 0. *hole only moves forward. */
static uint64_t hole_end(const struct heap_view *v, uint64_t addr, size_t *hole)
{
	const struct libc_hole *h = v->opts->holes;

	while (*hole < v->opts->n_holes && h[*hole].end <= addr)
		++*hole;
	return *hole < v->opts->n_holes && h[*hole].start <= addr ? h[*hole].end : 0;
}

/* All pages of [start, end), which is anonymous and nobody's. */
static int interval_scan(struct scan *s, uint64_t start, uint64_t end, size_t *hole)
{
	struct heap_view *v = s->v;
	uint64_t at = start, low = start;

	while (at < end && !v->fatal && !all_found(s)) {
		uint64_t skip = hole_end(v, at, hole), stop, page;
		bool present;
		ssize_t got;

		if (skip) {
			at = (skip + TARGET_PAGE - 1) & ~(TARGET_PAGE - 1);
			continue;
		}
		/* a run is looked up no further than needed: it may be gigabytes */
		stop = residency_run(v->r, at, end - at > RUN_MAX ? at + RUN_MAX : end, &present);
		if (!present) {
			at = stop;
			continue;
		}
		if (*hole < v->opts->n_holes && v->opts->holes[*hole].start < stop)
			stop = (v->opts->holes[*hole].start + TARGET_PAGE - 1) & ~(TARGET_PAGE - 1);
		if (stop > end)
			stop = end;
		if (stop - at > TARGET_READ_MAX)
			stop = at + TARGET_READ_MAX;
		got = residency_read(v->r, v->t, at, s->buf, (size_t)(stop - at));
		if (got == -ESRCH || got == -ETIMEDOUT)
			return v->fatal = (int)got;
		if (got < 0) { /* gone meanwhile, or in part: page by page */
			stop = at + TARGET_PAGE;
			if (residency_read(v->r, v->t, at, s->buf, TARGET_PAGE) < 0) {
				at = stop;
				continue;
			}
		}
		for (page = at; page < stop; page += TARGET_PAGE) {
			uint64_t base, chunk_end;

			if (!header_find(s->buf + (page - at), s->tail, page, low, end, &base,
					 &chunk_end))
				continue;
			if (found_add(s, base, chunk_end) < 0)
				return v->fatal;
			low = chunk_end;
			page = chunk_end - TARGET_PAGE;
			if (chunk_end >= stop || all_found(s)) {
				stop = chunk_end;
				break;
			}
		}
		at = stop;
	}
	return v->fatal;
}

static bool may_hold(const struct mapping *m)
{
	return m->kind == MAPPING_ANON && m->read && m->write && !m->shared;
}

static int ranges_scan(struct scan *s, const struct ranges *taken)
{
	const struct mappings *m = s->v->m;
	size_t i = 0, j = 0, hole = 0;

	while (i < m->n && !all_found(s)) {
		uint64_t start, end;

		if (!may_hold(&m->v[i])) {
			i++;
			continue;
		}
		start = m->v[i].start;
		for (end = m->v[i++].end; i < m->n && may_hold(&m->v[i]) && m->v[i].start == end;)
			end = m->v[i++].end;
		while (start < end) { /* what the taken ranges leave of it */
			uint64_t stop = end;

			while (j < taken->n && taken->v[j].end <= start)
				j++;
			if (j < taken->n && taken->v[j].start <= start) {
				start = taken->v[j].end;
				continue;
			}
			if (j < taken->n && taken->v[j].start < stop)
				stop = taken->v[j].start;
			/* Whole pages: an end in a page is a page that is taken. */
			if (interval_scan(s, (start + TARGET_PAGE - 1) & ~(TARGET_PAGE - 1),
					  stop & ~(TARGET_PAGE - 1), &hole) < 0)
				return s->v->fatal;
			start = stop;
		}
	}
	return 0;
}

int mmapped_find(struct heap_view *v, const struct images *im, const struct libc_threads *threads)
{
	struct scan s = { .v = v, .tail = v->state->mmap_tail, .counted = v->par != NULL };
	struct ranges taken = { 0 };
	struct libc_heap *h = v->out;
	int ret;

	if (s.counted) {
		s.n_mmaps = h->n_mmaps = mp_field(v, v->par->n_mmaps, 4);
		s.mmapped_mem = h->mmapped_bytes = mp_field(v, v->par->mmapped_mem, 8);
	}
	s.buf = malloc(TARGET_READ_MAX);
	if (!s.buf)
		return v->fatal = -ENOMEM;
	ret = taken_collect(v, im, threads, &taken);
	if (ret == 0)
		ret = ranges_scan(&s, &taken);
	free(taken.v);
	free(s.buf);
	if (ret < 0)
		return ret;
	surplus_drop(&s);
	h->mmaps_proved = all_found(&s);
	if (s.counted && !h->mmaps_proved) { /* malloc went on meanwhile */
		h->n_mmaps = s.n_mmaps = mp_field(v, v->par->n_mmaps, 4);
		h->mmapped_bytes = s.mmapped_mem = mp_field(v, v->par->mmapped_mem, 8);
		surplus_drop(&s);
		h->mmaps_proved = all_found(&s);
	}
	mmapped_emit(&s);
	if (!s.counted)
		heap_say(v, "malloc's own counters were not found, so its mmapped chunks are "
			    "not proved");
	else if (!h->mmaps_proved)
		heap_say(v,
			 "malloc counts %llu mmapped chunks with %llu bytes, %llu with %llu were "
			 "found",
			 (unsigned long long)h->n_mmaps, (unsigned long long)h->mmapped_bytes,
			 (unsigned long long)h->mmaps_found,
			 (unsigned long long)h->mmaps_found_bytes);
	return v->fatal;
}
