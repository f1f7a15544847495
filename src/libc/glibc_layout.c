/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Finding glibc's malloc without a symbol.
 *
 * main_arena and mp_ are static variables of libc.so; a stripped library tells
 * nobody where they are. Both are recognised by what they hold:
 *
 *   main_arena   127 list heads in a row, each of which either points to itself
 *                or to chunks that point back to it. Then `next`, the ring of
 *                all arenas, must lead back to this address: that separates the
 *                layouts, which differ in what comes before and after the bins.
 *   mp_          the word that says where the brk heap begins, so that
 *                sbrk_base + main_arena.system_mem is the end of the top chunk,
 *                between counters that agree with each other.
 *
 * Layouts were read from the debug information of Debian's 2.31, 2.36, 2.41 and
 * 2.43. Releases between them are served by whichever table verifies.
 */
#include "libc/glibc_int.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SEGMENT_MAX (16ULL << 20) /* bytes of one image's data that are searched */
#define BIN_TRIES   64
#define MP_TRIES    16 /* top moves while we look */

/* malloc/malloc.c, struct malloc_state. Without fastbins from 2.43 on, where
 * mmapped chunks leave room for the next header, too. */
const struct state_layout libc_state_layouts[] = {
	{ .fastbins = 16, .top = 96, .bins = 112, .next = 2160, .system_mem = 2184, .size = 2200 },
	{ .fastbins = 0,
	  .top = 8,
	  .bins = 24,
	  .next = 2072,
	  .system_mem = 2096,
	  .size = 2112,
	  .mmap_tail = 16 },
};
const size_t libc_n_state_layouts = sizeof(libc_state_layouts) / sizeof(libc_state_layouts[0]);

/* malloc/malloc.c, struct malloc_par. 2.35 added thp_pagesize, hp_pagesize and
 * hp_flags; 2.43 one word more. */
const struct mp_layout libc_mp_layouts[] = {
	{ .n_mmaps = 60,
	  .max_n_mmaps = 68,
	  .mmapped_mem = 80,
	  .max_mmapped_mem = 88,
	  .sbrk_base = 96,
	  .tcache_bins = 104,
	  .tcache_max_bytes = 112,
	  .tcache_count = 120,
	  .size = 136 },
	{ .n_mmaps = 40,
	  .max_n_mmaps = 48,
	  .mmapped_mem = 56,
	  .max_mmapped_mem = 64,
	  .sbrk_base = 72,
	  .tcache_bins = 80,
	  .tcache_max_bytes = 88,
	  .tcache_count = 96,
	  .size = 112 },
	{ .n_mmaps = 68,
	  .max_n_mmaps = 76,
	  .mmapped_mem = 88,
	  .max_mmapped_mem = 96,
	  .sbrk_base = 104,
	  .tcache_bins = 112,
	  .tcache_max_bytes = 120,
	  .tcache_count = 128,
	  .size = 144 },
};
const size_t libc_n_mp_layouts = sizeof(libc_mp_layouts) / sizeof(libc_mp_layouts[0]);

/* malloc/malloc.c, struct tcache_perthread_struct: 16-bit counts since 2.30;
 * 2.42 added twelve bins for ranges of sizes and counts downwards. */
const struct tcache_layout libc_tcache_layouts[] = {
	{ .chunk_size = 0x290, .bins = 64, .small_bins = 64, .entries_at = 128 },
	{ .chunk_size = 0x300,
	  .bins = 76,
	  .small_bins = 64,
	  .entries_at = 152,
	  .counts_down = true },
};
const size_t libc_n_tcache_layouts = sizeof(libc_tcache_layouts) / sizeof(libc_tcache_layouts[0]);

uint64_t heap_word(const void *copy, size_t at)
{
	uint64_t w;

	memcpy(&w, (const char *)copy + at, sizeof(w));
	return w;
}

bool heap_mapped(const struct heap_view *v, uint64_t addr, uint64_t len)
{
	return addr + len >= addr && mappings_cover(v->m, addr, len);
}

int heap_read(struct heap_view *v, uint64_t addr, void *buf, size_t len)
{
	int ret;

	if (v->fatal)
		return v->fatal;
	if (!len || addr + len < addr || !heap_mapped(v, addr, len))
		return -EFAULT;
	/* A page that is not in the picture may have come since, or may lie in
	 * swap, from where looking must not bring it back. */
	if (v->r && residency_swapped(v->r)) {
		uint64_t page = addr & ~(TARGET_PAGE - 1);

		for (; page < addr + len; page += TARGET_PAGE)
			if (!residency_page(v->r, page))
				return -ENODATA;
	}
	ret = target_read(v->t, addr, buf, len);
	if (ret == -ESRCH || ret == -ETIMEDOUT)
		v->fatal = ret;
	return ret;
}

int heap_read_u64(struct heap_view *v, uint64_t addr, uint64_t *out)
{
	*out = 0;
	return heap_read(v, addr, out, sizeof(*out));
}

/* A bin's head looks like a chunk whose fd and bk are the two words of the
 * bin: its address is 16 bytes before them. */
static bool bin_verify(struct heap_view *v, const struct state_layout *state, uint64_t addr,
		       const uint8_t *copy, unsigned bin)
{
	size_t at = state->bins + (size_t)bin * 16;
	uint64_t head = addr + at - CHUNK_HEADER, back = 0, forward = 0;
	uint64_t fd = heap_word(copy, at), bk = heap_word(copy, at + 8);

	if (fd == head && bk == head)
		return true;
	if (fd == head || bk == head || fd & 15 || bk & 15)
		return false;
	if (heap_read_u64(v, fd + 24, &back) < 0 || heap_read_u64(v, bk + 16, &forward) < 0)
		return false;
	return back == head && forward == head;
}

/* How many of its bins verify. */
static unsigned bins_verify(struct heap_view *v, const struct state_layout *state, uint64_t addr,
			    const uint8_t *copy)
{
	uint64_t top = heap_word(copy, state->top);
	unsigned bin, good = 0;

	/* Most words that are not an arena fail here without a read. */
	for (bin = 0; bin < BINS; bin++) {
		size_t at = state->bins + (size_t)bin * 16;
		uint64_t fd = heap_word(copy, at), bk = heap_word(copy, at + 8);

		if (!fd || !bk || (fd | bk) & 7 || (fd | bk) >> 47)
			return 0;
	}
	if (top & 15 || !heap_mapped(v, top, CHUNK_MIN))
		return 0;
	for (bin = 0; bin < BINS && !v->fatal; bin++)
		good += bin_verify(v, state, addr, copy, bin);
	return good;
}

bool arena_verify(struct heap_view *v, const struct state_layout *state, uint64_t addr,
		  const uint8_t *copy)
{
	uint8_t again[MALLOC_STATE_MAX];
	unsigned good = bins_verify(v, state, addr, copy), attempt;

	/* A busy arena has a few bins that move just now. */
	for (attempt = 0; good < BINS && good > BINS / 2 && attempt < BIN_TRIES; attempt++) {
		if (heap_read(v, addr, again, state->size) < 0)
			return false;
		good = bins_verify(v, state, addr, again);
	}
	return good == BINS;
}

ssize_t arena_ring(struct heap_view *v, const struct state_layout *state, uint64_t main_arena,
		   uint64_t **ring)
{
	uint64_t at = main_arena;
	size_t n = 0, size = 16;

	*ring = malloc(size * sizeof(**ring));
	if (!*ring)
		return v->fatal = -ENOMEM;
	do {
		if (n == size) {
			uint64_t *bigger = realloc(*ring, 2 * size * sizeof(**ring));

			if (!bigger) {
				free(*ring);
				*ring = NULL;
				return v->fatal = -ENOMEM;
			}
			*ring = bigger;
			size *= 2;
		}
		(*ring)[n++] = at;
		if (n > MALLOC_ARENAS_MAX || heap_read_u64(v, at + state->next, &at) < 0 || at & 15)
			goto broken;
	} while (at != main_arena);
	return (ssize_t)n;
broken:
	free(*ring);
	*ring = NULL;
	return v->fatal ? v->fatal : -EINVAL;
}

/* Reads what is there of [start, end) into a fresh buffer, absent pages as
 * zeroes. */
static uint8_t *segment_read(struct heap_view *v, uint64_t start, uint64_t end)
{
	uint8_t *copy;
	uint64_t at;

	if (end <= start || end - start > SEGMENT_MAX)
		return NULL;
	copy = calloc(1, (size_t)(end - start));
	if (!copy) {
		v->fatal = -ENOMEM;
		return NULL;
	}
	for (at = start; at < end && !v->fatal; at += TARGET_PAGE) {
		uint64_t len = end - at < TARGET_PAGE ? end - at : TARGET_PAGE;

		(void)heap_read(v, at, copy + (at - start), (size_t)len);
	}
	if (v->fatal) {
		free(copy);
		return NULL;
	}
	return copy;
}

bool main_arena_find(struct heap_view *v, uint64_t start, uint64_t end)
{
	uint8_t *copy = segment_read(v, start, end);
	bool found = false;
	size_t at, i;

	if (!copy)
		return false;
	for (at = 0; at + libc_state_layouts[1].size <= end - start && !found; at += 8) {
		for (i = 0; i < libc_n_state_layouts && !found; i++) {
			const struct state_layout *state = &libc_state_layouts[i];
			uint64_t *ring = NULL;

			if (at + state->size > end - start ||
			    !arena_verify(v, state, start + at, copy + at) ||
			    arena_ring(v, state, start + at, &ring) < 0)
				continue;
			free(ring);
			v->state = state;
			v->main_arena = start + at;
			found = true;
		}
		if (v->fatal)
			break;
	}
	free(copy);
	return found && !v->fatal;
}

/* Where main's top chunk ends and how much the arena took, read together as
 * closely as two reads can be. */
static bool main_end(struct heap_view *v, uint64_t *end, uint64_t *system_mem)
{
	uint8_t copy[MALLOC_STATE_MAX];
	uint64_t top, size;

	if (heap_read(v, v->main_arena, copy, v->state->size) < 0)
		return false;
	top = heap_word(copy, v->state->top);
	if (heap_read_u64(v, top + 8, &size) < 0)
		return false;
	*end = top + (size & ~SIZE_BITS);
	*system_mem = heap_word(copy, v->state->system_mem);
	return true;
}

/* The counters of a candidate agree with each other. */
static bool mp_plausible(const struct mp_layout *par, const uint8_t *p)
{
	uint32_t n, max_n;
	uint64_t bins = heap_word(p, par->tcache_bins);
	uint64_t bytes = heap_word(p, par->tcache_max_bytes);
	uint64_t mmapped = heap_word(p, par->mmapped_mem);

	memcpy(&n, p + par->n_mmaps, sizeof(n));
	memcpy(&max_n, p + par->max_n_mmaps, sizeof(max_n));
	/* tcache: at most 76 bins, sizes below 4 MiB, 16-bit counts. */
	return bins <= 128 && bytes <= 8ULL << 20 && heap_word(p, par->tcache_count) <= 65535 &&
	       (int32_t)n >= 0 && (int32_t)max_n >= 0 && n <= max_n && mmapped % 16 == 0 &&
	       mmapped <= heap_word(p, par->max_mmapped_mem) && (n == 0) == (mmapped == 0);
}

bool mp_find(struct heap_view *v, uint64_t start, uint64_t end)
{
	unsigned attempt;

	for (attempt = 0; attempt < MP_TRIES; attempt++) {
		uint64_t heap_end, system_mem, base, first;
		uint8_t *copy;
		size_t at, i;

		if (!main_end(v, &heap_end, &system_mem))
			return false;
		copy = segment_read(v, start, end);
		if (!copy)
			return false;
		for (i = 0; i < libc_n_mp_layouts; i++) {
			const struct mp_layout *par = &libc_mp_layouts[i];

			for (at = 0; at + par->size <= end - start; at += 8) {
				base = heap_word(copy + at, par->sbrk_base);
				if (!base || base >= heap_end || !mp_plausible(par, copy + at))
					continue;
				/* The brk heap in one piece; or, when it is not in
				 * one piece, its first chunk. */
				if (base + system_mem != heap_end &&
				    (attempt + 1 < MP_TRIES ||
				     heap_read_u64(v, ((base + 15) & ~15ULL) + 8, &first) < 0 ||
				     (first & SIZE_BITS) != PREV_INUSE || first & 8 ||
				     !heap_word(copy + at, par->tcache_bins)))
					continue;
				v->par = par;
				v->mp = start + at;
				v->tcache_count = heap_word(copy + at, par->tcache_count);
				free(copy);
				return true;
			}
		}
		free(copy);
	}
	return false;
}

uint64_t mp_field(struct heap_view *v, unsigned offset, unsigned bytes)
{
	uint64_t value = 0;

	if (!v->par || bytes > sizeof(value) || heap_read(v, v->mp + offset, &value, bytes) < 0)
		return 0;
	return value;
}
