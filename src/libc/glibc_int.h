/* SPDX-License-Identifier: Apache-2.0 */
/* What the parts of the glibc walk share. Nobody outside src/libc and its unit
 * tests includes this. */
#ifndef BEAMRAY_LIBC_GLIBC_INT_H
#define BEAMRAY_LIBC_GLIBC_INT_H

#include "libc/glibc.h"

/* malloc/malloc.c: the low bits of a chunk's size word */
#define PREV_INUSE	  1ULL
#define IS_MMAPPED	  2ULL
#define NON_MAIN_ARENA	  4ULL
#define SIZE_BITS	  7ULL
#define CHUNK_HEADER	  16ULL		/* prev_size and size */
#define CHUNK_MIN	  32ULL		/* MINSIZE */
#define HEAP_MAX	  (64ULL << 20) /* arena.c: HEAP_MAX_SIZE, without huge pages */
#define BINS		  127
#define FASTBINS	  10
#define NONCONTIGUOUS	  2U   /* malloc_state.flags */
#define MALLOC_STATE_MAX  2304 /* bytes: more than any malloc_state here has */
#define MALLOC_ARENAS_MAX 4096 /* what the ring may hold before it counts as broken */

/* Offsets in struct malloc_state. */
struct state_layout {
	unsigned fastbins; /* 0: this release has none */
	unsigned top, bins, next, system_mem, size;
	unsigned mmap_tail; /* bytes behind an mmapped chunk that belong to its mapping */
};

/* Offsets in struct malloc_par (the variable mp_). */
struct mp_layout {
	unsigned n_mmaps, max_n_mmaps, mmapped_mem, max_mmapped_mem, sbrk_base;
	unsigned tcache_bins, tcache_max_bytes, tcache_count, size;
};

/* struct tcache_perthread_struct. */
struct tcache_layout {
	unsigned chunk_size, bins, small_bins, entries_at; /* bins > small_bins hold ranges */
	bool counts_down;				   /* counts are free slots */
};

/* Copies of two arrays' worth of tables; see glibc_layout.c. */
extern const struct state_layout libc_state_layouts[];
extern const size_t libc_n_state_layouts;
extern const struct mp_layout libc_mp_layouts[];
extern const size_t libc_n_mp_layouts;
extern const struct tcache_layout libc_tcache_layouts[];
extern const size_t libc_n_tcache_layouts;

struct libc_thread {
	uint64_t fs; /* struct pthread */
	pid_t tid;   /* 0: cached stack */
	uint64_t stack, stack_size, start_routine;
};

struct libc_threads { /* sorted by fs */
	struct libc_thread *v;
	size_t n, size;
};

/* A free chunk whose header says that it is in use. */
struct cached_chunk {
	uint64_t chunk;	   /* address of the header */
	uint64_t min, max; /* bytes that the chunk may have in this list */
	bool fast;	   /* fastbin, else tcache */
};

struct cached_chunks { /* sorted by chunk, without duplicates */
	struct cached_chunk *v;
	size_t n, size;
	bool incomplete; /* a list was torn, too long, or has a strange link */
};

#define CACHED_FAST_MAX (1U << 20) /* chunks of fastbins that are remembered */

/* What the walk looks through, and what it knows of this libc. */
struct heap_view {
	struct target *t;
	const struct mappings *m;
	const struct residency *r; /* NULL: every page is looked at */
	const struct state_layout *state;
	const struct mp_layout *par;	    /* NULL: mp_ was not found */
	const struct tcache_layout *tcache; /* NULL: no thread has one */
	bool safe_linking;		    /* 2.32 on */
	unsigned version_minor;		    /* 36 of 2.36; 0: not known */
	uint64_t main_arena, mp;
	uint64_t tcache_count; /* mp_.tcache_count */
	uint64_t tcache_key;   /* 0: not known */
	uint64_t *tcaches;     /* the threads' tcache structs */
	size_t n_tcaches;
	bool tcaches_missed; /* a thread has one that does not verify */
	const struct libc_opts *opts;
	struct libc_heap *out;
	size_t room; /* of out->regions */
	int fatal;   /* -ESRCH, -ETIMEDOUT, -ENOMEM: stop everything */
};

/* Reads memory that is resident, or that cannot be in swap. 0, -ENODATA or
 * another negative errno; sets v->fatal where nothing more can be read. */
int heap_read(struct heap_view *v, uint64_t addr, void *buf, size_t len);
int heap_read_u64(struct heap_view *v, uint64_t addr, uint64_t *out);
uint64_t heap_word(const void *copy, size_t at); /* out of our own memory */
bool heap_mapped(const struct heap_view *v, uint64_t addr, uint64_t len);
void heap_say(struct heap_view *v, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* glibc_layout.c */

/* Whether `copy` (state->size bytes, read at `addr`) is an arena: every bin
 * verifies, `top` is readable. */
bool arena_verify(struct heap_view *v, const struct state_layout *state, uint64_t addr,
		  const uint8_t *copy);
/* Looks for main_arena in [start, end); sets v->state and v->main_arena. */
bool main_arena_find(struct heap_view *v, uint64_t start, uint64_t end);
/* Fills *ring (at most MALLOC_ARENAS_MAX; the caller frees) with the arenas,
 * main first. Returns their number, or -EINVAL when the ring does not close. */
ssize_t arena_ring(struct heap_view *v, const struct state_layout *state, uint64_t main_arena,
		   uint64_t **ring);
/* Looks for mp_ in [start, end); sets v->par, v->mp, v->tcache_count. */
bool mp_find(struct heap_view *v, uint64_t start, uint64_t end);
uint64_t mp_field(struct heap_view *v, unsigned offset, unsigned bytes);

/* glibc_cache.c */

void tcaches_find(struct heap_view *v, const struct libc_threads *threads);
/* Collects what the tcaches hold now. */
int tcaches_read(struct heap_view *v, struct cached_chunks *out);
/* Adds the fastbins of the arena in `copy`. */
int fastbins_read(struct heap_view *v, const uint8_t *copy, struct cached_chunks *out);
void cached_sort(struct cached_chunks *c);
void cached_clear(struct cached_chunks *c); /* keeps the memory */
void cached_free(struct cached_chunks *c);

/* glibc_arena.c */

/* Walks the arena `addr`, adds its regions to v->out and fills
 * v->out->arenas[index]. Returns 0 or v->fatal. */
int arena_walk(struct heap_view *v, uint64_t addr, unsigned index,
	       const struct cached_chunks *tcaches);
/* Adds a region; false if it would overlap another. */
bool region_add(struct heap_view *v, const struct libc_region *region);
void region_drop(struct heap_view *v, size_t index);
/* Resident bytes of [start, end) without the holes. */
uint64_t resident_outside_holes(const struct heap_view *v, uint64_t start, uint64_t end);

/* glibc_mmap.c */

/* Finds mmapped chunks, adds their regions. */
int mmapped_find(struct heap_view *v, const struct images *im, const struct libc_threads *threads);

/* stacks.c */

int libc_threads_find(struct target *t, const struct mappings *m, struct images *im,
		      const struct residency *r, const uint64_t *pthreads, size_t n_pthreads,
		      struct libc_threads *out);
void libc_threads_free(struct libc_threads *threads);

/* glibc.c */

/* The walk behind libc_heap_walk() once main_arena is known: arenas, then
 * mmapped chunks. */
int heap_walk(struct heap_view *v, const struct images *im, const struct libc_threads *threads);

#endif
