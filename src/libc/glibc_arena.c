/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One arena: its heaps, its chunks, its proof.
 *
 * Main's memory is the brk heap, one piece from mp_.sbrk_base to the end of the
 * top chunk. Another arena's memory is a chain of heaps, each reserved with 64
 * MiB at a multiple of 64 MiB:
 *
 *   | heap_info | malloc_state | chunk | chunk | ... | top |     <- newest: top
 *        ^ prev                                                     lies in it
 *   | heap_info | chunk | chunk | ... | 16 | 0 |                 <- older ones end
 *                                                                   in a fencepost
 *
 * and within a heap chunks lie wall to wall:
 *
 *   p ->  | prev_size | size|flags |  user's bytes ...           |
 *   p+size| prev_size | size|flags |  ...
 *
 * Whether p is in use is written in the *next* header (PREV_INUSE). When it is
 * free, the next header's prev_size repeats its size, it is linked in a bin
 * through fd and bk, and neither neighbour is free.
 *
 * The walk reads each heap once, front to back, through a window of at most
 * 1 MiB. What it keeps does not grow with chunks. So "header-free chunks are
 * exactly the members of the bins" is proved by sums that do not depend on
 * order: every link fd of a free chunk or bin head is an edge (chunk, fd), every
 * link bk an edge (bk, chunk). The lists are whole when both sets of edges are
 * the same set, so a 64-bit hash of each edge is added up on either side.
 *
 * The target runs meanwhile. A header that does not fit is read again, first
 * from the last window's beginning, then from windows before; an arena whose
 * free lists do not agree is walked again. A thread that was preempted in the
 * middle of malloc leaves a place torn for longer than any retry: then the walk
 * goes on at the next chunk that a tcache or fastbin names, and leaves a gap.
 * Every attempt starts from sums as
 * they were, and whatever is never explained ends as `other_resident`: the
 * three sums of a region are always its resident bytes.
 */
#include "libc/glibc_int.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WINDOW_MIN	  (64ULL << 10)
#define WINDOW_MAX	  TARGET_READ_MAX
#define CHECKPOINTS	  4
#define WINDOW_TRIES	  3   /* readings of one place before going further back */
#define GAPS_MAX	  256 /* places that one walk of a heap passes over */
#define TOP_MOVES	  64  /* that one walk follows */
#define ARENA_TRIES	  5
#define HEAP_TRIES	  100		 /* top and system_mem move together only at rest */
#define ARENA_RETRY_BYTES (256ULL << 20) /* arenas above this are not walked five times */
#define HEAPS_MAX	  65536
#define NEWEST_MAX	  1024

/* What has been seen up to a chunk: copied for a checkpoint, copied back when
 * the walk goes there again. */
struct tally {
	uint64_t chunk, size, flags, fd, bk; /* the chunk that waits for the next header */
	uint64_t second;		     /* its second word of user data: tcache key */
	bool pending, previous_free;
	size_t hole, cached; /* first ones that may still matter */
	uint64_t used_resident, free_resident;
	uint64_t chunks_used, chunks_free, used_bytes, free_bytes, tcache_bytes, fastbin_bytes;
	uint64_t tcache_chunks, fastbin_chunks;
	uint64_t hits;		    /* cached chunks found where they should be */
	size_t events;		    /* to be reported so far */
	uint64_t forward, backward; /* sums of the edges' hashes */
};

/* What a walk that is the best of several will report. */
struct event {
	uint64_t chunk, size; /* bytes | EVENT_USED or EVENT_GAP: sizes are multiples of 16 */
};

#define EVENT_USED 1ULL
#define EVENT_GAP  2ULL

struct walk {
	struct heap_view *v;
	const struct cached_chunks *cached;
	unsigned arena;
	uint64_t addr; /* of the arena */
	unsigned top_moves;
	struct event *events; /* w->at.events of them count */
	size_t room_events;
	uint8_t *window;
	uint64_t window_at;
	size_t window_len, window_want;
	uint64_t run_start, run_end; /* of equal residency */
	bool run_present;
	struct tally at, checkpoint[CHECKPOINTS];
	unsigned checkpoints, tries;
	uint64_t furthest; /* window so far: progress ends a series of tries */
	uint64_t resume;   /* where to begin while no chunk waits */
	unsigned gaps;
	uint64_t bytes;	     /* read, for the budget of retries */
	uint64_t back_bytes; /* of which because the walk went back */
	const char *why;
};

struct heap {
	uint64_t start, first, end; /* end: of what the heap uses */
	bool last;		    /* holds top */
	uint64_t top;		    /* then */
};

static uint64_t hash(uint64_t x)
{
	x ^= x >> 30;
	x *= 0xbf58476d1ce4e5b9ULL;
	x ^= x >> 27;
	x *= 0x94d049bb133111ebULL;
	return x ^ x >> 31;
}

static uint64_t edge(uint64_t from, uint64_t to)
{
	return hash(hash(from) + 0x9e3779b97f4a7c15ULL * to);
}

/* The first hole that ends above `addr`. */
static size_t hole_from(const struct heap_view *v, uint64_t addr)
{
	const struct libc_hole *h = v->opts->holes;
	size_t lo = 0, hi = v->opts->n_holes;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (h[mid].end <= addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

uint64_t resident_outside_holes(const struct heap_view *v, uint64_t start, uint64_t end)
{
	const struct libc_hole *h = v->opts->holes;
	uint64_t bytes = residency_bytes(v->r, start, end);
	size_t lo = hole_from(v, start);

	for (; lo < v->opts->n_holes && h[lo].start < end; lo++)
		bytes -= residency_bytes(v->r, h[lo].start > start ? h[lo].start : start,
					 h[lo].end < end ? h[lo].end : end);
	return bytes;
}

/* Same, for a walk that only goes forward. */
static uint64_t walk_resident(struct walk *w, uint64_t start, uint64_t end)
{
	const struct libc_hole *h = w->v->opts->holes;
	size_t n = w->v->opts->n_holes;
	uint64_t bytes;

	if (start < w->run_start || start >= w->run_end) {
		w->run_start = start;
		w->run_end = residency_run(w->v->r, start, start + HEAP_MAX, &w->run_present);
	}
	if (end <= w->run_end)
		bytes = w->run_present ? end - start : 0;
	else
		bytes = residency_bytes(w->v->r, start, end);
	while (w->at.hole < n && h[w->at.hole].end <= start)
		w->at.hole++;
	if (w->at.hole < n && h[w->at.hole].start < end)
		return resident_outside_holes(w->v, start, end);
	return bytes;
}

/* Copies four words at `addr` (what lies beyond `end` as zeroes) through the
 * window. */
static bool header_read(struct walk *w, uint64_t addr, uint64_t end, uint64_t word[4])
{
	uint64_t want = end - addr < 32 ? end - addr : 32, page = addr & ~(TARGET_PAGE - 1);
	ssize_t got;

	memset(word, 0, 32);
	if (addr < w->window_at || addr + want > w->window_at + w->window_len) {
		uint64_t len;

		/* Small windows where chunks are far apart, big ones where they follow
		 * each other. */
		if (w->window_len && addr >= w->window_at &&
		    addr < w->window_at + w->window_len + WINDOW_MIN)
			w->window_want = w->window_want < WINDOW_MAX ? w->window_want * 2
								     : WINDOW_MAX;
		else
			w->window_want = WINDOW_MIN;
		len = end - addr < w->window_want ? end - addr : w->window_want;
		got = residency_read(w->v->r, w->v->t, addr, w->window, (size_t)len);
		if (got == -EFAULT) { /* a page of it has gone: take only what is needed */
			uint64_t stop = (addr | (TARGET_PAGE - 1)) + 1;

			len = stop - addr < len ? stop - addr : len;
			if (len < want)
				len = want;
			got = residency_read(w->v->r, w->v->t, addr, w->window, (size_t)len);
		}
		if (got == -ESRCH || got == -ETIMEDOUT)
			w->v->fatal = (int)got;
		w->window_at = addr;
		w->window_len = got < 0 ? 0 : (size_t)len;
		w->bytes += len;
		if (addr <= w->furthest)
			w->back_bytes += len;
		if (got < 0)
			return false;
		if (w->checkpoints == CHECKPOINTS) {
			memmove(&w->checkpoint[0], &w->checkpoint[1],
				(CHECKPOINTS - 1) * sizeof(w->checkpoint[0]));
			w->checkpoints--;
		}
		w->checkpoint[w->checkpoints++] = w->at;
		if (addr > w->furthest) {
			w->furthest = addr;
			w->tries = 0;
		}
	}
	memcpy(word, w->window + (addr - w->window_at), want);
	/* A page that came after the picture is zeroes in the window. */
	if (!word[1] && !residency_page(w->v->r, page))
		return heap_read(w->v, addr, word, want) == 0;
	return true;
}

/* Goes back to a place that was good: to the beginning of the window a few
 * times, then of the window before it, and so on. False when that has been done
 * enough. */
static bool walk_back(struct walk *w)
{
	unsigned back = w->tries++ / WINDOW_TRIES + 1;

	if (w->v->fatal || back > CHECKPOINTS || !w->checkpoints ||
	    w->back_bytes > ARENA_RETRY_BYTES)
		return false;
	if (back > w->checkpoints)
		back = w->checkpoints;
	/* Filling the window makes this checkpoint once more. */
	w->checkpoints -= back;
	w->at = w->checkpoint[w->checkpoints];
	w->window_len = 0;
	return true;
}

static const struct cached_chunk *cached_at(struct walk *w, uint64_t chunk)
{
	const struct cached_chunks *c = w->cached;

	while (w->at.cached < c->n && c->v[w->at.cached].chunk < chunk)
		w->at.cached++;
	return w->at.cached < c->n && c->v[w->at.cached].chunk == chunk ? &c->v[w->at.cached]
									: NULL;
}

static void event_add(struct walk *w, uint64_t chunk, uint64_t size)
{
	if (!w->v->opts->chunk)
		return;
	if (w->at.events == w->room_events) {
		size_t room = w->room_events ? 2 * w->room_events : 4096;
		struct event *bigger = realloc(w->events, room * sizeof(*bigger));

		if (!bigger) {
			w->v->fatal = -ENOMEM;
			return;
		}
		w->events = bigger;
		w->room_events = room;
	}
	w->events[w->at.events++] = (struct event){ chunk, size };
}

/* The chunk that waited, now that its next header says whether it is in use. */
static bool chunk_close(struct walk *w, uint64_t next_prev_size, uint64_t next_flags,
			bool fencepost)
{
	struct tally *t = &w->at;
	uint64_t resident = walk_resident(w, t->chunk, t->chunk + t->size);
	const struct cached_chunk *c;

	if (!(next_flags & PREV_INUSE)) {
		if (next_prev_size != t->size || t->previous_free || (t->flags & NON_MAIN_ARENA) ||
		    fencepost)
			return false;
		t->free_resident += resident;
		t->free_bytes += t->size;
		t->chunks_free++;
		t->forward += edge(t->chunk, t->fd);
		t->backward += edge(t->bk, t->chunk);
		t->previous_free = true;
		event_add(w, t->chunk, t->size);
		return true;
	}
	t->previous_free = false;
	if (fencepost) {
		t->used_resident += resident;
		return true;
	}
	if (!(t->flags & NON_MAIN_ARENA) != !w->arena)
		return false;
	c = cached_at(w, t->chunk);
	if (c && t->size >= c->min && t->size <= c->max &&
	    (c->fast || !w->v->tcache_key || t->second == w->v->tcache_key)) {
		t->hits++;
		t->free_resident += resident;
		t->free_bytes += t->size;
		t->chunks_free++;
		if (c->fast) {
			t->fastbin_chunks++;
			t->fastbin_bytes += t->size;
		} else {
			t->tcache_chunks++;
			t->tcache_bytes += t->size;
		}
		event_add(w, t->chunk, t->size);
		return true;
	}
	t->used_resident += resident;
	t->used_bytes += t->size;
	t->chunks_used++;
	event_add(w, t->chunk, t->size | EVENT_USED);
	return true;
}

/* The target has taken from top since the arena was read: follows it when it
 * moved up within the same heap. */
static bool top_follow(struct walk *w, struct heap *heap)
{
	uint64_t top, size, limit = heap->start + HEAP_MAX;

	if (!heap->last || w->top_moves++ >= TOP_MOVES ||
	    heap_read_u64(w->v, w->addr + w->v->state->top, &top) < 0 || top <= heap->top ||
	    top & 15 || heap_read_u64(w->v, top + 8, &size) < 0)
		return false;
	size &= ~SIZE_BITS;
	if (!w->arena)
		limit = heap->end + HEAP_MAX;
	if (top >= limit || size < CHUNK_HEADER || size > limit - top ||
	    (top + size) % TARGET_PAGE != heap->end % TARGET_PAGE)
		return false;
	heap->top = top;
	heap->end = top + size;
	return true;
}

/* The first cached chunk that is not below `addr`. */
static size_t cached_from(const struct cached_chunks *c, uint64_t addr)
{
	size_t lo = 0, hi = c->n;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (c->v[mid].chunk < addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

/* Gives up the chunk that waits and goes on behind `at`, at a place that a
 * tcache or fastbin names. */
static bool walk_resume(struct walk *w, uint64_t at, uint64_t stop)
{
	size_t i = cached_from(w->cached, at + 1);
	uint64_t start;

	if (w->v->fatal || i == w->cached->n || w->cached->v[i].chunk >= stop ||
	    w->gaps++ >= GAPS_MAX)
		return false;
	start = w->at.pending ? w->at.chunk : at;
	event_add(w, start, (w->cached->v[i].chunk - start) | EVENT_GAP);
	w->resume = w->cached->v[i].chunk;
	w->at.pending = w->at.previous_free = false;
	w->at.cached = i;
	w->checkpoints = w->tries = 0;
	return true;
}

/* From heap->first to its end. Leaves the sums in w->at, also when it stops
 * midway (then it returns false and w->why says so). */
static bool heap_chunks(struct walk *w, struct heap *heap)
{
	uint64_t at, stop;
	uint64_t word[4];

	w->checkpoints = w->tries = w->top_moves = 0;
	w->furthest = w->back_bytes = 0;
	w->window_len = 0;
	w->resume = heap->first;
	w->gaps = 0;
	w->at.pending = w->at.previous_free = false;
	w->at.hole = hole_from(w->v, heap->start);
	w->at.cached = cached_from(w->cached, heap->start);
	w->run_start = w->run_end = 0;
	for (;;) {
		struct tally *t = &w->at;
		uint64_t size, flags;
		bool good;

		at = t->pending ? t->chunk + t->size : w->resume;
		stop = heap->last ? heap->top : heap->end - CHUNK_HEADER;
		good = header_read(w, at, heap->end, word);
		size = word[1] & ~SIZE_BITS;
		flags = word[1] & SIZE_BITS;
		if (good && at == heap->first && !(flags & PREV_INUSE)) {
			good = false;
		} else if (good && at == stop) {
			/* Top, or the header of size 0 after a fencepost. */
			good = heap->last ? size == heap->end - at && flags & PREV_INUSE
					  : size == 0;
		} else if (good) {
			/* The fencepost itself may be smaller than a chunk. */
			good = !(flags & IS_MMAPPED) && !(size & 15) && size <= stop - at &&
			       (size >= CHUNK_MIN ||
				(size == CHUNK_HEADER && !heap->last && at + size == stop));
		}
		if (good && t->pending)
			good = chunk_close(w, word[0], flags,
					   !heap->last && t->chunk + t->size == stop);
		if (good && at == stop)
			break;
		if (!good) {
			if (size == CHUNK_HEADER && !w->arena && heap->last)
				w->why = "the brk heap is shared with another user of sbrk";
			if (at == stop && top_follow(w, heap))
				continue;
			if (walk_back(w))
				continue;
			if (!w->why)
				w->why = "chunk headers do not fit each other";
			if (walk_resume(w, at, stop))
				continue;
			at = t->pending ? t->chunk : at;
			event_add(w, at, stop > at ? (stop - at) | EVENT_GAP : EVENT_GAP);
			t->pending = false;
			return false;
		}
		t->chunk = at;
		t->size = size;
		t->flags = flags;
		t->fd = word[2];
		t->bk = word[3];
		t->second = word[3];
		t->pending = true;
	}
	w->at.pending = false;
	if (heap->last) {
		w->at.free_resident += walk_resident(w, heap->top, heap->end);
		w->at.free_bytes += heap->end - heap->top;
	} else {
		w->at.used_resident += walk_resident(w, stop, heap->end);
	}
	return !w->gaps;
}

/* For the arena's own bookkeeping: a heap that came after the mappings were read
 * is not in them, but leads to those that are. */
static int info_read(struct heap_view *v, uint64_t addr, void *buf, size_t len)
{
	int ret = heap_read(v, addr, buf, len);

	return ret == -EFAULT && addr >> 47 == 0 ? target_read(v->t, addr, buf, len) : ret;
}

/* The newest heap of `arena` by what the mappings hold, for when top leads
 * nowhere: glibc unmaps a heap before it moves top to the one before. 0 if
 * there is none. */
static uint64_t heap_newest(struct heap_view *v, uint64_t arena)
{
	uint64_t start[NEWEST_MAX], prev[NEWEST_MAX], info[2];
	size_t i, j, n = 0;

	for (i = 0; i < v->m->n && n < NEWEST_MAX; i++) {
		const struct mapping *m = &v->m->v[i];
		uint64_t at = (m->start + HEAP_MAX - 1) & ~(HEAP_MAX - 1);

		if (m->kind != MAPPING_ANON || !m->read || !m->write)
			continue;
		for (; at < m->end && n < NEWEST_MAX; at += HEAP_MAX) {
			if (!residency_page(v->r, at) || heap_read(v, at, info, sizeof(info)) < 0 ||
			    info[0] != arena)
				continue;
			start[n] = at;
			prev[n++] = info[1];
		}
	}
	for (i = 0; i < n; i++) {
		for (j = 0; j < n && prev[j] != start[i]; j++)
			;
		if (j == n)
			return start[i];
	}
	return 0;
}

/* Main's one heap, or an arena's chain of heaps, newest first. The count, 0
 * with a reason when it does not hold together. `loose`: top is just being moved
 * and need not end where the heap does. */
static size_t heaps_read(struct heap_view *v, uint64_t arena, const uint8_t *copy, bool main,
			 bool loose, struct heap **out, uint64_t *used, const char **why)
{
	uint64_t top = heap_word(copy, v->state->top), at = top & ~(HEAP_MAX - 1), size;
	uint64_t system_mem = heap_word(copy, v->state->system_mem), sum = 0;
	uint64_t mark = 0;
	size_t n = 0, room = 0;

	*out = NULL;
	*used = 0;
	*why = "heaps do not hold together";
	if (info_read(v, top + 8, &size, sizeof(size)) < 0) {
		at = loose && !main ? heap_newest(v, arena) : 0;
		size = 0;
		if (!at)
			return 0;
	}
	size &= ~SIZE_BITS;
	if (main) {
		uint64_t base = mp_field(v, v->par->sbrk_base, 8);

		if (loose && base < top && system_mem > top - base &&
		    system_mem <= HEAP_MAX + (top - base)) /* top's size is off */
			size = base + system_mem - top;
		if (base + system_mem != top + size || base > top || top + size < top ||
		    (top + size) >> 47 || top < ((base + 15) & ~15ULL) ||
		    !heap_mapped(v, base, 1)) {
			*why = "the brk heap does not span system_mem";
			return 0;
		}
		*out = malloc(sizeof(**out));
		if (!*out) {
			v->fatal = -ENOMEM;
			return 0;
		}
		**out = (struct heap){ base, (base + 15) & ~15ULL, top + size, true, top };
		*used = system_mem;
		return 1;
	}
	while (at && n < HEAPS_MAX) {
		uint64_t info[4];

		/* arena.c, heap_info: ar_ptr, prev, size, mprotect_size */
		if (info_read(v, at, info, sizeof(info)) < 0 || info[0] != arena ||
		    info[2] > HEAP_MAX || info[2] < TARGET_PAGE || info[2] % TARGET_PAGE ||
		    info[3] < info[2] || info[3] > HEAP_MAX || info[1] & (HEAP_MAX - 1) ||
		    ((sum += info[2]) > system_mem && !loose) || at == mark)
			goto bad;
		if (!(n & (n - 1))) /* a cycle comes back to the last power of two */
			mark = at;
		if (n == room) {
			struct heap *bigger;

			room = room ? 2 * room : 4;
			bigger = realloc(*out, room * sizeof(*bigger));
			if (!bigger) {
				v->fatal = -ENOMEM;
				goto bad;
			}
			*out = bigger;
		}
		(*out)[n] =
			(struct heap){ at, 0, at + info[2], top >= at && top < at + info[2], top };
		/* The oldest one holds the arena right after heap_info, whose size
		 * this tells. */
		(*out)[n++].first = at;
		at = info[1];
	}
	if (at || !n)
		goto bad;
	{
		struct heap *oldest = &(*out)[n - 1];
		uint64_t info_size = arena - oldest->start;
		size_t i;

		if (arena < oldest->start || (info_size != 32 && info_size != 48) ||
		    (top + size != (*out)[0].end && !loose))
			goto bad;
		for (i = 0; i < n; i++)
			(*out)[i].first += info_size;
		oldest->first = (arena + v->state->size + 15) & ~15ULL;
		if (top < (*out)[0].first || top >= (*out)[0].end) {
			if (!loose)
				goto bad;
			(*out)[0].last = false;
		}
	}
	*used = sum;
	return n;
bad:
	free(*out);
	*out = NULL;
	return 0;
}

bool region_add(struct heap_view *v, const struct libc_region *region)
{
	struct libc_heap *h = v->out;
	struct libc_region *bigger;
	size_t lo = 0, hi = h->n_regions;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (h->regions[mid].end <= region->start)
			lo = mid + 1;
		else
			hi = mid;
	}
	if (lo < h->n_regions && h->regions[lo].start < region->end)
		return false;
	if (h->n_regions == v->room) {
		size_t room = v->room ? 2 * v->room : 64;

		bigger = realloc(h->regions, room * sizeof(*bigger));
		if (!bigger) {
			v->fatal = -ENOMEM;
			return false;
		}
		h->regions = bigger;
		v->room = room;
	}
	memmove(&h->regions[lo + 1], &h->regions[lo], (h->n_regions - lo) * sizeof(h->regions[0]));
	h->regions[lo] = *region;
	h->n_regions++;
	return true;
}

void region_drop(struct heap_view *v, size_t i)
{
	struct libc_heap *h = v->out;

	memmove(&h->regions[i], &h->regions[i + 1], (--h->n_regions - i) * sizeof(h->regions[0]));
}

/* Cached chunks of this arena, that is, inside its heaps. */
static uint64_t cached_within(const struct cached_chunks *c, const struct heap *heaps, size_t n)
{
	uint64_t inside = 0;
	size_t i, j;

	for (i = 0; i < n; i++) {
		for (j = cached_from(c, heaps[i].start); j < c->n && c->v[j].chunk < heaps[i].end;
		     j++)
			inside++;
	}
	return inside;
}

struct attempt {
	struct heap *heaps;
	struct libc_region *regions;
	size_t n;
	struct libc_arena arena;
	bool structure; /* heaps hold together */
	bool walked;	/* every chunk of every heap */
	bool agreed;	/* and the free lists */
	uint64_t other; /* resident bytes that could not be told */
	uint64_t bytes;
	struct event *events;
	size_t n_events;
};

static void attempt_free(struct attempt *a)
{
	free(a->heaps);
	free(a->regions);
	free(a->events);
	*a = (struct attempt){ 0 };
}

static bool attempt_better(const struct attempt *a, const struct attempt *b)
{
	int rank_a = a->structure + a->walked + a->agreed;
	int rank_b = b->structure + b->walked + b->agreed;

	return rank_a > rank_b || (rank_a == rank_b && a->other <= b->other);
}

static void arena_say(struct libc_arena *a, const char *why)
{
	snprintf(a->why, sizeof(a->why), "%s", why);
}

static void sums_add(struct libc_arena *a, const struct tally *t)
{
	a->chunks_used = t->chunks_used;
	a->chunks_free = t->chunks_free;
	a->used_bytes = t->used_bytes;
	a->free_bytes = t->free_bytes;
	a->tcache_bytes = t->tcache_bytes;
	a->fastbin_bytes = t->fastbin_bytes;
	a->tcache_chunks = t->tcache_chunks;
	a->fastbin_chunks = t->fastbin_chunks;
}

/* Structure and chunks, once. */
static void arena_try(struct heap_view *v, uint64_t addr, struct walk *w, struct attempt *a,
		      struct cached_chunks *cached, const struct cached_chunks *tcaches)
{
	uint8_t copy[MALLOC_STATE_MAX];
	const char *why = NULL;
	bool main = addr == v->main_arena;
	uint64_t used = 0;
	unsigned bin, attempt;
	size_t i;

	a->arena = (struct libc_arena){ .addr = addr };
	for (attempt = 0; attempt < HEAP_TRIES && !a->n && !v->fatal; attempt++) {
		if (heap_read(v, addr, copy, v->state->size) < 0) {
			arena_say(&a->arena, "the arena cannot be read");
			return;
		}
		a->n = heaps_read(v, addr, copy, main, attempt >= HEAP_TRIES / 2, &a->heaps, &used,
				  &why);
	}
	a->arena.system_mem = heap_word(copy, v->state->system_mem);
	if (!a->n) {
		arena_say(&a->arena, why);
		return;
	}
	a->arena.heaps = a->n;
	a->regions = calloc(a->n, sizeof(*a->regions));
	if (!a->regions) {
		v->fatal = -ENOMEM;
		return;
	}
	a->structure = true;
	cached_clear(cached);
	for (i = 0; i < tcaches->n; i++) { /* those of other arenas are passed over */
		if (cached->n == cached->size) {
			size_t size = cached->size ? 2 * cached->size : 256;
			struct cached_chunk *bigger = realloc(cached->v, size * sizeof(*bigger));

			if (!bigger) {
				v->fatal = -ENOMEM;
				return;
			}
			cached->v = bigger;
			cached->size = size;
		}
		cached->v[cached->n++] = tcaches->v[i];
	}
	if (fastbins_read(v, copy, cached) < 0)
		return;
	cached_sort(cached);

	w->at = (struct tally){ 0 };
	w->cached = cached;
	w->why = NULL;
	w->bytes = 0;
	for (bin = 0; bin < BINS; bin++) {
		size_t at = v->state->bins + (size_t)bin * 16;
		uint64_t head = addr + at - CHUNK_HEADER;

		w->at.forward += edge(head, heap_word(copy, at));
		w->at.backward += edge(heap_word(copy, at + 8), head);
	}
	a->walked = true;
	for (i = 0; i < a->n && !v->fatal; i++) {
		struct heap *heap = &a->heaps[i];
		struct libc_region *region = &a->regions[i];
		uint64_t end = heap->end, all, used_before, free_before;

		*region = (struct libc_region){ .start = heap->start,
						.end = heap->end,
						.kind = main ? LIBC_MAIN : LIBC_ARENA,
						.arena = w->arena };
		/* heap_info and the arena: used. */
		used_before = w->at.used_resident;
		free_before = w->at.free_resident;
		w->at.used_resident += resident_outside_holes(v, heap->start, heap->first);
		if (!heap_chunks(w, heap))
			a->walked = false;
		if (heap->end != end) { /* the target moved it meanwhile */
			uint64_t now = heap->end - end;

			region->end = heap->end;
			used += now;
			(void)heap_read_u64(v, addr + v->state->system_mem, &a->arena.system_mem);
		}
		all = resident_outside_holes(v, heap->start, heap->end);
		region->used_resident = w->at.used_resident - used_before;
		region->free_resident = w->at.free_resident - free_before;
		region->other_resident = all - region->used_resident - region->free_resident;
		a->other += region->other_resident;
		if (heap->last)
			a->arena.top_bytes = heap->end - heap->top;
	}
	sums_add(&a->arena, &w->at);
	a->bytes = w->bytes;
	a->events = w->events;
	a->n_events = w->at.events;
	w->events = NULL;
	w->room_events = 0;
	if (!a->walked) {
		arena_say(&a->arena, w->why ? w->why : "chunks could not be read");
		return;
	}
	if (used != a->arena.system_mem)
		snprintf(a->arena.why, sizeof(a->arena.why),
			 "heaps hold %llu of system_mem %llu bytes", (unsigned long long)used,
			 (unsigned long long)a->arena.system_mem);
	else if (w->at.forward != w->at.backward)
		arena_say(&a->arena, "free lists moved while they were read");
	else if (cached->incomplete)
		arena_say(&a->arena, "fastbins moved while they were read");
	else if (w->at.hits != cached_within(cached, a->heaps, a->n))
		arena_say(&a->arena, "cached chunks moved while they were read");
	else if (tcaches->incomplete)
		arena_say(&a->arena, "tcaches moved while they were read");
	else
		a->agreed = true;
}

/* Reports what the best walk saw. */
static void arena_emit(struct heap_view *v, unsigned index, const struct attempt *a)
{
	const struct libc_opts *opts = v->opts;
	size_t i;

	for (i = 0; i < a->n_events; i++) {
		uint64_t chunk = a->events[i].chunk, size = a->events[i].size & ~SIZE_BITS;

		if (!(a->events[i].size & EVENT_GAP))
			opts->chunk(opts->arg, chunk + CHUNK_HEADER, size,
				    a->events[i].size & EVENT_USED, index);
		else if (opts->gap)
			opts->gap(opts->arg, chunk, chunk + size, index);
	}
}

int arena_walk(struct heap_view *v, uint64_t addr, unsigned index,
	       const struct cached_chunks *tcaches)
{
	struct walk w = { .v = v, .arena = index, .addr = addr };
	struct attempt best = { 0 }, a = { 0 };
	struct cached_chunks cached = { 0 };
	uint64_t spent = 0;
	unsigned attempt;
	size_t i;

	w.window = malloc(WINDOW_MAX);
	if (!w.window)
		return v->fatal = -ENOMEM;
	for (attempt = 0; attempt < ARENA_TRIES && !v->fatal; attempt++) {
		arena_try(v, addr, &w, &a, &cached, tcaches);
		spent += a.bytes;
		if (!attempt || attempt_better(&a, &best)) {
			attempt_free(&best);
			best = a;
			a = (struct attempt){ 0 };
		} else {
			attempt_free(&a);
		}
		if (best.agreed || spent > ARENA_RETRY_BYTES)
			break;
	}
	for (i = 0; i < best.n && !v->fatal; i++) {
		if (best.structure && !region_add(v, &best.regions[i])) {
			best.agreed = false;
			arena_say(&best.arena, "its heaps overlap other memory of malloc");
		}
	}
	best.arena.proved = best.agreed;
	best.arena.torn = !best.agreed;
	v->out->arenas[index] = best.arena;
	if (v->opts->chunk && best.structure && !v->fatal)
		arena_emit(v, index, &best);
	attempt_free(&best);
	cached_free(&cached);
	free(w.events);
	free(w.window);
	return v->fatal;
}
