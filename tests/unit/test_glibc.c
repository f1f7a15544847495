/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The walk of a libc heap that was made by hand, so that its truth is known, and
 * of the same heap damaged in many ways: whatever its memory says, the walk ends,
 * stays within its buffers (run under ASan and UBSan), and its sums hold.
 *
 * `test_glibc PID FILE NAME EXPECT` compares a live process with what it says of
 * itself; tests/scenarios/t_glibc.py uses that.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "glibc_look.h"
#include "libc/glibc_int.h"

#define KB 1024ULL

#define DATA  0x7f0000100000ULL /* libc's variables */
#define BRK   0x555500000000ULL /* main's heap */
#define OLD   0x7f1000000000ULL /* an arena's first heap */
#define NEW   0x7f1004000000ULL /* ... and its second */
#define STACK 0x7f2000000000ULL
#define MMAP  0x7f3000000000ULL

#define DATA_BYTES  (16 * KB)
#define BRK_BYTES   (192 * KB)
#define OLD_BYTES   (128 * KB)
#define NEW_BYTES   (128 * KB)
#define STACK_BYTES (64 * KB)
#define MMAP_BYTES  (1024 * KB)
#define PIECES	    6

#define MAIN_ARENA (DATA + 0x200)
#define MP	   (DATA + 0x1000)
#define RING_HEAD  (DATA + 0x1800)
#define ARENA	   (OLD + 48)
#define PTHREAD	   (STACK + STACK_BYTES - 4096 + 64)
#define TCACHE_TLS (PTHREAD - 96)
#define KEY	   0x1122334455667788ULL

static const struct {
	uint64_t addr, bytes;
	enum mapping_kind kind;
} pieces[PIECES] = {
	{ BRK, BRK_BYTES, MAPPING_HEAP },     { DATA, DATA_BYTES, MAPPING_FILE },
	{ OLD, OLD_BYTES, MAPPING_ANON },     { NEW, NEW_BYTES, MAPPING_ANON },
	{ STACK, STACK_BYTES, MAPPING_ANON }, { MMAP, MMAP_BYTES, MAPPING_ANON },
};

struct truth {
	uint64_t used, used_bytes, freed, free_bytes, top, tcache, fast;
};

/* A made heap, and all that is needed to look at it. */
struct world {
	const struct state_layout *state;
	const struct mp_layout *par;
	const struct tcache_layout *tcache;
	bool safe, down;
	unsigned minor;
	uint8_t *memory[PIECES];
	struct target_buffer buffers[PIECES];
	struct mapping maps[PIECES];
	struct mappings mappings;
	struct target *t;
	struct residency *r;
	struct truth main, arena;
	uint64_t tcache_addr, random;
};

static uint64_t random_next(struct world *w)
{
	w->random ^= w->random << 13;
	w->random ^= w->random >> 7;
	w->random ^= w->random << 17;
	return w->random;
}

static uint8_t *at(struct world *w, uint64_t addr)
{
	size_t i;

	for (i = 0; i < PIECES; i++)
		if (addr >= pieces[i].addr && addr + 8 <= pieces[i].addr + pieces[i].bytes)
			return w->memory[i] + (addr - pieces[i].addr);
	fail_msg("the test wrote to %" PRIx64, addr);
	return NULL;
}

static void put(struct world *w, uint64_t addr, uint64_t value)
{
	memcpy(at(w, addr), &value, sizeof(value));
}

static uint64_t get(struct world *w, uint64_t addr)
{
	uint64_t value;

	memcpy(&value, at(w, addr), sizeof(value));
	return value;
}

static void put32(struct world *w, uint64_t addr, uint32_t value)
{
	memcpy(at(w, addr), &value, sizeof(value));
}

static uint64_t bin_head(struct world *w, uint64_t arena, unsigned bin)
{
	return arena + w->state->bins + bin * 16ULL - CHUNK_HEADER;
}

static void bins_empty(struct world *w, uint64_t arena)
{
	unsigned bin;

	for (bin = 0; bin < BINS; bin++) {
		put(w, bin_head(w, arena, bin) + 16, bin_head(w, arena, bin));
		put(w, bin_head(w, arena, bin) + 24, bin_head(w, arena, bin));
	}
}

static void bin_push(struct world *w, uint64_t arena, uint64_t chunk)
{
	uint64_t head = bin_head(w, arena, 0), first = get(w, head + 16);

	put(w, chunk + 16, first);
	put(w, chunk + 24, head);
	put(w, head + 16, chunk);
	put(w, first + 24, chunk);
}

static uint64_t masked(struct world *w, uint64_t where, uint64_t next)
{
	return w->safe ? next ^ where >> 12 : next;
}

static void tcache_push(struct world *w, uint64_t chunk, uint64_t size)
{
	uint64_t bin = (size - 32) / 16, user = chunk + 16;
	uint64_t entry = w->tcache_addr + w->tcache->entries_at + bin * 8;
	uint8_t *count = at(w, w->tcache_addr) + bin * 2;
	uint16_t n;

	put(w, user, masked(w, user, get(w, entry)));
	put(w, user + 8, w->minor < 34 ? w->tcache_addr : KEY);
	put(w, entry, user);
	memcpy(&n, count, sizeof(n));
	n = (uint16_t)(w->tcache->counts_down ? n - 1 : n + 1);
	memcpy(count, &n, sizeof(n));
}

/* Chunks from `first` up to `top`, of which the last one is in use. */
static void chunks_make(struct world *w, uint64_t arena, uint64_t first, uint64_t top,
			struct truth *truth)
{
	uint64_t chunk = first, size, flag = arena == MAIN_ARENA ? 0 : NON_MAIN_ARENA;
	bool previous_used = true;

	while (chunk < top) {
		uint64_t kind = random_next(w) % 8;
		bool make_free;

		size = 32 + random_next(w) % 60 * 16;
		if (random_next(w) % 50 == 0)
			size += 20000;
		if (!w->tcache_addr && arena == MAIN_ARENA) { /* the first one: tcache */
			size = w->tcache->chunk_size;
			kind = 7;
		}
		if (top - chunk < size + 32)
			size = top - chunk;
		make_free = kind < 2 && previous_used && chunk + size < top;
		put(w, chunk + 8, size | (make_free ? 0 : flag) | (previous_used ? PREV_INUSE : 0));
		if (make_free) {
			bin_push(w, arena, chunk);
			put(w, chunk + size, size);
			truth->freed++;
			truth->free_bytes += size;
		} else if (kind == 2 && w->tcache_addr && size <= 1040) {
			tcache_push(w, chunk, size);
			truth->freed++;
			truth->free_bytes += size;
			truth->tcache += size;
		} else if (kind == 3 && w->state->fastbins && size <= 128) {
			uint64_t head = arena + w->state->fastbins + (size - 32) / 2;

			put(w, chunk + 16, masked(w, chunk + 16, get(w, head)));
			put(w, head, chunk);
			truth->freed++;
			truth->free_bytes += size;
			truth->fast += size;
		} else {
			truth->used++;
			truth->used_bytes += size;
			if (!w->tcache_addr) {
				unsigned bin;

				w->tcache_addr = chunk + 16;
				for (bin = 0; w->tcache->counts_down && bin < w->tcache->bins;
				     bin++) {
					uint16_t n = 16;

					memcpy(at(w, chunk + 16) + bin * 2ULL, &n, sizeof(n));
				}
			}
		}
		previous_used = !make_free;
		chunk += size;
	}
}

static void heap_make(struct world *w)
{
	uint64_t main_top = BRK + BRK_BYTES - 20000 / 16 * 16, new_top = NEW + 96 * KB;
	uint64_t old_end = OLD + OLD_BYTES, chunk;

	w->random = 88172645463325252ULL;
	/* main */
	bins_empty(w, MAIN_ARENA);
	put(w, MAIN_ARENA + w->state->top, main_top);
	put(w, MAIN_ARENA + w->state->system_mem, BRK_BYTES);
	put(w, MAIN_ARENA + w->state->next, ARENA);
	chunks_make(w, MAIN_ARENA, BRK, main_top, &w->main);
	put(w, main_top + 8, (BRK + BRK_BYTES - main_top) | PREV_INUSE);
	w->main.top = BRK + BRK_BYTES - main_top;
	/* an arena of two heaps */
	bins_empty(w, ARENA);
	put(w, ARENA + w->state->top, new_top);
	put(w, ARENA + w->state->system_mem, OLD_BYTES + NEW_BYTES);
	put(w, ARENA + w->state->next, MAIN_ARENA);
	put(w, OLD, ARENA);
	put(w, OLD + 8, 0);
	put(w, OLD + 16, OLD_BYTES);
	put(w, OLD + 24, OLD_BYTES);
	put(w, NEW, ARENA);
	put(w, NEW + 8, OLD);
	put(w, NEW + 16, NEW_BYTES);
	put(w, NEW + 24, NEW_BYTES);
	chunk = (ARENA + w->state->size + 15) & ~15ULL;
	chunks_make(w, ARENA, chunk, old_end - 32, &w->arena);
	put(w, old_end - 32 + 8, 16 | PREV_INUSE);
	put(w, old_end - 16 + 8, PREV_INUSE);
	chunks_make(w, ARENA, NEW + 48, new_top, &w->arena);
	put(w, new_top + 8, (NEW + NEW_BYTES - new_top) | PREV_INUSE);
	w->arena.top = NEW + NEW_BYTES - new_top;
	/* mp_ */
	put32(w, MP + w->par->n_mmaps, 2);
	put32(w, MP + w->par->max_n_mmaps, 5);
	put(w, MP + w->par->mmapped_mem, 256 * KB);
	put(w, MP + w->par->max_mmapped_mem, 512 * KB);
	put(w, MP + w->par->sbrk_base, BRK);
	put(w, MP + w->par->tcache_bins, 64);
	put(w, MP + w->par->tcache_max_bytes, 1032);
	put(w, MP + w->par->tcache_count, 16);
	/* two mmapped chunks, the second one aligned to 64 KiB */
	put(w, MMAP + 8, (128 * KB - w->state->mmap_tail) | IS_MMAPPED);
	chunk = MMAP + 256 * KB;
	if (!w->state->mmap_tail)
		put(w, chunk + 8, 128 * KB | IS_MMAPPED);
	put(w, chunk + 64 * KB - 16, 64 * KB - 16);
	put(w, chunk + 64 * KB - 8, (64 * KB + 16 - w->state->mmap_tail) | IS_MMAPPED);
	/* one thread */
	put(w, PTHREAD, PTHREAD);
	put(w, PTHREAD + 16, PTHREAD);
	put32(w, PTHREAD + 720, 4711);
	put(w, PTHREAD + 704, RING_HEAD);
	put(w, PTHREAD + 712, RING_HEAD);
	put(w, RING_HEAD, PTHREAD + 704);
	put(w, RING_HEAD + 8, PTHREAD + 704);
	put(w, PTHREAD + 1680, STACK);
	put(w, PTHREAD + 1688, STACK_BYTES);
	put(w, TCACHE_TLS, w->tcache_addr);
}

static struct world *world_make(unsigned minor)
{
	struct world *w = calloc(1, sizeof(*w));
	struct error err = { 0 };
	size_t i;

	assert_non_null(w);
	w->minor = minor;
	w->safe = minor >= 32;
	w->state = &libc_state_layouts[minor >= 43];
	w->par = &libc_mp_layouts[minor >= 43 ? 2 : minor < 35 ? 1 : 0];
	w->tcache = &libc_tcache_layouts[minor >= 43];
	for (i = 0; i < PIECES; i++) {
		w->memory[i] = calloc(1, pieces[i].bytes);
		assert_non_null(w->memory[i]);
		w->buffers[i] =
			(struct target_buffer){ pieces[i].addr, w->memory[i], pieces[i].bytes };
		w->maps[i] = (struct mapping){ .start = pieces[i].addr,
					       .end = pieces[i].addr + pieces[i].bytes,
					       .read = true,
					       .write = true,
					       .kind = pieces[i].kind,
					       .path = "" };
	}
	w->mappings = (struct mappings){ .v = w->maps, .n = PIECES };
	heap_make(w);
	assert_int_equal(target_open_buffers(w->buffers, PIECES, &w->t), 0);
	assert_int_equal(residency_take(w->t, &w->mappings, &w->r, &err), 0);
	return w;
}

static void world_free(struct world *w)
{
	size_t i;

	for (i = 0; i < PIECES; i++)
		free(w->memory[i]);
	residency_free(w->r);
	target_close(w->t);
	free(w);
}

/* What libc_heap_walk() does once it knows the image. */
static struct libc_heap *world_walk(struct world *w, const struct libc_opts *opts)
{
	static const struct libc_opts none;
	struct libc_heap *h = calloc(1, sizeof(*h));
	struct heap_view v = { .t = w->t,
			       .m = &w->mappings,
			       .r = w->r,
			       .opts = opts ? opts : &none,
			       .out = h,
			       .safe_linking = w->safe,
			       .version_minor = w->minor };
	struct libc_threads threads = { 0 };
	uint64_t hint = PTHREAD;

	assert_non_null(h);
	if (main_arena_find(&v, DATA, DATA + DATA_BYTES)) {
		mp_find(&v, DATA, DATA + DATA_BYTES);
		assert_int_equal(libc_threads_find(w->t, &w->mappings, NULL, w->r, &hint, 1,
						   &threads),
				 0);
		assert_int_equal(heap_walk(&v, NULL, &threads), 0);
	}
	libc_threads_free(&threads);
	free(v.tcaches);
	return h;
}

static uint64_t holes_bytes(const struct world *w, const struct libc_opts *opts, uint64_t start,
			    uint64_t end)
{
	uint64_t sum = 0;
	size_t i;

	for (i = 0; opts && i < opts->n_holes; i++) {
		uint64_t from = opts->holes[i].start, to = opts->holes[i].end;

		from = from < start ? start : from;
		to = to > end ? end : to;
		sum += from < to ? residency_bytes(w->r, from, to) : 0;
	}
	return sum;
}

/* What must hold whatever the memory says. */
static void heap_check(const struct world *w, const struct libc_heap *h,
		       const struct libc_opts *opts)
{
	uint64_t end = 0;
	size_t i;

	for (i = 0; i < h->n_regions; i++) {
		const struct libc_region *g = &h->regions[i];

		assert_true(g->start >= end && g->end > g->start);
		assert_true(g->arena < h->n_arenas);
		assert_int_equal(g->used_resident + g->free_resident + g->other_resident,
				 residency_bytes(w->r, g->start, g->end) -
					 holes_bytes(w, opts, g->start, g->end));
		end = g->end;
	}
	for (i = 0; i < h->n_arenas; i++)
		assert_true(h->arenas[i].proved != h->arenas[i].torn);
	if (!h->walked)
		assert_int_equal(h->n_regions, 0);
}

static void arena_check(const struct libc_arena *a, const struct truth *t)
{
	assert_true(a->proved);
	assert_string_equal(a->why, "");
	assert_int_equal(a->chunks_used, t->used);
	assert_int_equal(a->used_bytes, t->used_bytes);
	assert_int_equal(a->chunks_free, t->freed);
	assert_int_equal(a->free_bytes, t->free_bytes + t->top);
	assert_int_equal(a->top_bytes, t->top);
	assert_int_equal(a->tcache_bytes, t->tcache);
	assert_int_equal(a->fastbin_bytes, t->fast);
}

static void made_heaps_are_walked_exactly(void **state)
{
	static const unsigned minors[] = { 31, 36, 43 };
	size_t i, j;

	(void)state;
	for (i = 0; i < sizeof(minors) / sizeof(minors[0]); i++) {
		struct world *w = world_make(minors[i]);
		struct libc_heap *h = world_walk(w, NULL);
		uint64_t free_resident = 0, used_resident = 0;

		assert_true(h->walked);
		assert_int_equal(h->n_arenas, 2);
		assert_true(w->main.tcache && w->main.freed > 20 && w->arena.freed > 20);
		arena_check(&h->arenas[0], &w->main);
		arena_check(&h->arenas[1], &w->arena);
		assert_int_equal(h->arenas[1].heaps, 2);
		assert_true(h->mmaps_proved);
		assert_int_equal(h->mmaps_found, 2);
		assert_int_equal(h->n_regions, 5);
		assert_string_equal(h->why, "");
		heap_check(w, h, NULL);
		/* Everything is resident, so bytes are bytes. */
		for (j = 0; j < h->n_regions; j++) {
			assert_int_equal(h->regions[j].other_resident, 0);
			free_resident += h->regions[j].free_resident;
			used_resident += h->regions[j].used_resident;
		}
		assert_int_equal(free_resident, h->arenas[0].free_bytes + h->arenas[1].free_bytes);
		assert_int_equal(used_resident + free_resident,
				 BRK_BYTES + OLD_BYTES + NEW_BYTES + 256 * KB);
		libc_heap_free(h);
		world_free(w);
	}
}

static void holes_are_left_out(void **state)
{
	struct world *w = world_make(36);
	struct libc_hole holes[] = { { BRK + 40000, BRK + 70008 },
				     { OLD + 60 * KB, OLD + 60 * KB + 8 },
				     { MMAP + 16, MMAP + 100 * KB } };
	struct libc_opts opts = { .holes = holes, .n_holes = 3 };
	struct libc_heap *h = world_walk(w, &opts), *plain = world_walk(w, NULL);
	uint64_t with = 0, without = 0;
	size_t i;

	(void)state;
	heap_check(w, h, &opts);
	assert_int_equal(h->n_regions, plain->n_regions);
	assert_true(h->mmaps_proved && h->arenas[0].proved && h->arenas[1].proved);
	for (i = 0; i < h->n_regions; i++) {
		with += h->regions[i].used_resident + h->regions[i].free_resident;
		without += plain->regions[i].used_resident + plain->regions[i].free_resident;
		assert_int_equal(h->regions[i].other_resident, 0);
	}
	assert_int_equal(without - with, 30008 + 8 + 100 * KB - 16);
	libc_heap_free(plain);
	libc_heap_free(h);
	world_free(w);
}

static void threads_are_found_without_and_with_lies(void **state)
{
	struct world *w = world_make(36);
	uint64_t hints[] = { PTHREAD, PTHREAD + 64, 0, ~63ULL, DATA, STACK };
	struct libc_stack *s = NULL;

	(void)state;
	assert_int_equal(libc_stacks_read(w->t, &w->mappings, NULL, w->r, hints, 6, &s), 1);
	assert_int_equal(s[0].start, STACK);
	assert_int_equal(s[0].end, STACK + STACK_BYTES);
	assert_int_equal(s[0].tid, 4711);
	assert_int_equal(s[0].pthread, PTHREAD);
	free(s);
	/* No whole pages: glibc's own reaches to the end of the last one, another's does not. */
	put(w, PTHREAD + 1688, STACK_BYTES - 1000);
	assert_int_equal(libc_stacks_read(w->t, &w->mappings, NULL, w->r, hints, 1, &s), 1);
	assert_int_equal(s[0].end, STACK + STACK_BYTES - 1000);
	free(s);
	put(w, PTHREAD + 1696, 4096);
	assert_int_equal(libc_stacks_read(w->t, &w->mappings, NULL, w->r, hints, 1, &s), 1);
	assert_int_equal(s[0].end, STACK + STACK_BYTES);
	free(s);
	/* A list that leads to itself, and a stack block that does not hold fs. */
	put(w, PTHREAD + 704, PTHREAD + 704);
	put(w, PTHREAD + 712, 0x10);
	assert_int_equal(libc_stacks_read(w->t, &w->mappings, NULL, w->r, hints, 1, &s), 1);
	free(s);
	put(w, PTHREAD + 1680, STACK - STACK_BYTES);
	assert_int_equal(libc_stacks_read(w->t, &w->mappings, NULL, w->r, hints, 1, &s), 0);
	free(s);
	world_free(w);
}

/* One thing is wrong: the walk says so, and nothing is proved that should not be. */
static void damage_is_noticed(void **state)
{
	enum { MAIN, OTHER, RING, MMAPS };
	const struct {
		uint64_t addr, value;
		int what;
	} cases[] = {
		{ MAIN_ARENA + 2160, ARENA + 16, RING }, /* next: not an arena */
		{ ARENA + 2160, ARENA, RING },		 /* a ring without main */
		{ ARENA + 2160, 0, RING },
		{ MAIN_ARENA + 112, MAIN_ARENA + 96, RING },   /* a bin half empty */
		{ MAIN_ARENA + 96, BRK + BRK_BYTES, RING },    /* top outside */
		{ MAIN_ARENA + 96, BRK + 160, MAIN },	       /* top inside */
		{ MAIN_ARENA + 2184, BRK_BYTES + 4096, MAIN }, /* system_mem */
		{ BRK + 8, 0, MAIN },			       /* sizes: none, */
		{ BRK + 8, 0x291 + 8, MAIN },		       /* not aligned, */
		{ BRK + 8, ~7ULL | 1, MAIN },		       /* absurd, */
		{ BRK + 8, 0x2a1, MAIN },		       /* into a chunk, */
		{ BRK + 8, 0x291 | IS_MMAPPED, MAIN },
		{ BRK + 8, 0x291 | NON_MAIN_ARENA, MAIN },
		{ OLD, OLD, OTHER },	 /* ar_ptr */
		{ NEW + 8, NEW, OTHER }, /* a heap before itself */
		{ NEW + 8, 0x7f5000000000ULL, OTHER },
		{ NEW + 16, HEAP_MAX + 4096, OTHER },
		{ OLD + OLD_BYTES - 8, 32 | PREV_INUSE, OTHER }, /* no fencepost */
		{ MMAP + 8, 64 * KB | IS_MMAPPED, MMAPS },
		{ MMAP + 8, ~15ULL | IS_MMAPPED, MMAPS },
		{ MMAP + 600 * KB + 8, 8 * KB | IS_MMAPPED, 99 }, /* one too many: told apart */
	};
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct world *w = world_make(36);
		struct libc_heap *h;

		put(w, cases[i].addr, cases[i].value);
		h = world_walk(w, NULL);
		heap_check(w, h, NULL);
		if (cases[i].what == RING)
			assert_false(h->walked);
		else if (cases[i].what == MMAPS)
			assert_true(h->walked && !h->mmaps_proved && h->why[0]);
		else if (cases[i].what == 99)
			assert_true(h->walked && h->mmaps_proved && h->mmaps_found == 2);
		else {
			assert_true(h->walked && h->n_arenas == 2);
			if (h->arenas[cases[i].what].proved)
				fail_msg("case %zu is proved", i);
			assert_true(h->arenas[cases[i].what].why[0] && h->why[0]);
			assert_true(h->arenas[!cases[i].what].proved);
		}
		libc_heap_free(h);
		world_free(w);
	}
}

/* Free lists: every chunk is still told, only the proof goes. */
static void free_lists_are_compared(void **state)
{
	unsigned what;

	(void)state;
	for (what = 0; what < 6; what++) {
		struct world *w = world_make(36);
		uint64_t head = bin_head(w, ARENA, 0), first = get(w, head + 16);
		uint64_t second = get(w, first + 16), fast;
		struct libc_heap *h;

		switch (what) {
		case 0: /* the list jumps over its first chunk */
			put(w, head + 16, second);
			put(w, second + 24, head);
			break;
		case 1: /* a chunk that points to itself */
			put(w, first + 16, first);
			break;
		case 2:
			put(w, first + 24, first);
			break;
		case 3: /* fd and bk of a middle one swapped away */
			put(w, second + 16, 0);
			break;
		case 4: /* a cycle among fastbins */
			for (fast = ARENA + 16; !get(w, fast); fast += 8)
				;
			first = get(w, fast);
			put(w, first + 16, masked(w, first + 16, first));
			break;
		default: /* a tcache whose count is wrong */
			put(w, w->tcache_addr, get(w, w->tcache_addr) + 1);
			break;
		}
		h = world_walk(w, NULL);
		heap_check(w, h, NULL);
		if (what == 5) { /* nobody knows whose chunks are missing */
			assert_false(h->arenas[0].proved);
		} else {
			if (h->arenas[1].proved)
				fail_msg("case %u is proved", what);
			assert_true(h->walked && h->arenas[0].proved);
			assert_int_equal(h->arenas[1].chunks_used + h->arenas[1].chunks_free,
					 w->arena.used + w->arena.freed);
		}
		libc_heap_free(h);
		world_free(w);
	}
}

static double seconds(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + 1e-9 * (double)ts.tv_nsec;
}

/* Words that hurt: addresses of everything, sizes around limits, noise. */
static uint64_t nasty(struct world *w)
{
	uint64_t r = random_next(w), piece = r >> 8 & 7;
	uint64_t addr = piece < PIECES
				? pieces[piece].addr + (r >> 16) % pieces[piece].bytes / 8 * 8
				: MAIN_ARENA;

	switch (r & 7) {
	case 0:
		return 0;
	case 1:
		return ~0ULL << (r >> 16) % 64;
	case 2:
		return 1ULL << (r >> 16) % 64;
	case 3:
		return addr;
	case 4:
		return addr & ~15ULL;
	case 5:
		return (r >> 16) % 4096;
	case 6:
		return ((r >> 16) % (2 * BRK_BYTES) & ~15ULL) | (r >> 60);
	default:
		return r;
	}
}

static void damaged_heaps_end(void **state)
{
	static const unsigned minors[] = { 31, 36, 43 };
	const char *more = getenv("BEAMRAY_FUZZ_ROUNDS");
	unsigned rounds = more ? (unsigned)atoi(more) : 600, round, i;
	size_t m, p, walked = 0;
	double slowest = 0;

	(void)state;
	for (m = 0; m < sizeof(minors) / sizeof(minors[0]); m++) {
		struct world *w = world_make(minors[m]);
		uint8_t *clean[PIECES];
		struct libc_hole holes[] = { { BRK + 4096, BRK + 8192 } };
		struct libc_opts opts = { .holes = holes, .n_holes = 1 };

		for (p = 0; p < PIECES; p++) {
			clean[p] = malloc(pieces[p].bytes);
			assert_non_null(clean[p]);
			memcpy(clean[p], w->memory[p], pieces[p].bytes);
		}
		w->random = 42 + m;
		for (round = 0; round < rounds; round++) {
			unsigned n = 1 + (unsigned)(random_next(w) % 24);
			double start = seconds();
			struct libc_heap *h;

			for (p = 0; p < PIECES; p++)
				memcpy(w->memory[p], clean[p], pieces[p].bytes);
			for (i = 0; i < n; i++) {
				uint64_t r = random_next(w);
				uint64_t piece = r % PIECES, offset;

				/* Where there is structure more often than elsewhere. */
				offset = (r >> 8) % (r >> 62 ? pieces[piece].bytes : 4 * KB);
				put(w, pieces[piece].addr + offset / 8 * 8, nasty(w));
			}
			h = world_walk(w, round % 2 ? &opts : NULL);
			heap_check(w, h, round % 2 ? &opts : NULL);
			walked += h->walked;
			libc_heap_free(h);
			start = seconds() - start;
			slowest = start > slowest ? start : slowest;
		}
		for (p = 0; p < PIECES; p++)
			free(clean[p]);
		world_free(w);
	}
	/* If everything were refused at the door, nothing was tested. */
	assert_true(walked > rounds / 4);
	if (slowest > 20)
		fail_msg("a walk took %.1f s", slowest);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(made_heaps_are_walked_exactly),
		cmocka_unit_test(holes_are_left_out),
		cmocka_unit_test(threads_are_found_without_and_with_lies),
		cmocka_unit_test(damage_is_noticed),
		cmocka_unit_test(free_lists_are_compared),
		cmocka_unit_test(damaged_heaps_end),
	};

	if (argc == 5)
		return glibc_look(atoi(argv[1]), argv[2], argv[3], argv[4]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
