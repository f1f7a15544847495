/* SPDX-License-Identifier: Apache-2.0 */
/* The libc heap of a target. (glibc.c opens with the page that explains it.) */
#ifndef BEAMRAY_LIBC_GLIBC_H
#define BEAMRAY_LIBC_GLIBC_H

#include "target/elf.h"
#include "target/residency.h"

/* Ranges inside the heap that are accounted elsewhere (carriers that the VM
 * got from sys_alloc). Sorted, disjoint. Ranges outside of the heap do no harm:
 * given all carriers, the search for mmapped chunks leaves those out too and
 * reads less. */
struct libc_hole {
	uint64_t start, end;
};

enum libc_region_kind {
	LIBC_MAIN, /* the main arena's brk heap (or the parts of it) */
	LIBC_ARENA, /* one heap of a thread arena, up to its size; the reserve beyond is not resident */
	LIBC_MMAPPED, /* one mmapped chunk */
	LIBC_OTHER,   /* memory of another malloc (jemalloc ...), unsplit: used only */
};

struct libc_region { /* disjoint, sorted by start */
	uint64_t start, end;
	enum libc_region_kind kind;
	unsigned arena; /* index into arenas[]; main is 0 */
	/* Of the resident bytes in [start,end) without the holes: the three sum to
	 * exactly that. Chunk headers count with their chunk. */
	uint64_t used_resident, free_resident, other_resident;
};

struct libc_arena {
	uint64_t addr; /* malloc_state */
	uint64_t system_mem;
	uint64_t heaps, chunks_used, chunks_free;
	uint64_t used_bytes, free_bytes; /* chunk bytes, holes included; free: bins and top */
	uint64_t top_bytes, tcache_bytes, fastbin_bytes; /* part of free_bytes */
	uint64_t tcache_chunks, fastbin_chunks;
	bool proved; /* sizes add up to system_mem and bins agree with headers */
	bool torn;   /* retries did not help: headers only */
	char why[96];
};

struct libc_heap {
	char malloc_name[64]; /* who serves malloc: "glibc 2.36", "libjemalloc.so.2", escaped */
	bool is_glibc;
	bool walked;	   /* false: refused, see why */
	bool mmaps_proved; /* n_mmaps and mmapped_mem equal what was found */
	char why[192];	   /* one sentence when refused or degraded */
	struct libc_region *regions;
	size_t n_regions;
	struct libc_arena *arenas;
	size_t n_arenas;
	uint64_t n_mmaps, mmapped_bytes;	 /* by mp_ */
	uint64_t mmaps_found, mmaps_found_bytes; /* by the scan */
};

/* Stacks of threads by their struct pthread. Sorted by start. */
struct libc_stack {
	uint64_t start, end;	/* stackblock .. stackblock + size (guard included) */
	uint64_t pthread;	/* fs base */
	pid_t tid;		/* 0: a cached stack without a thread */
	uint64_t start_routine; /* run-time address, 0 if unknown */
};

struct libc_opts {
	const struct libc_hole *holes;
	size_t n_holes;
	/* Threads' pthread_t values that are known already (the VM's schedulers),
	 * hints for finding TLS; may be NULL. */
	const uint64_t *pthreads;
	size_t n_pthreads;
	/* Called for every chunk when set: `addr` is what malloc returned, `size` the
	 * whole chunk's bytes, header included (so it reaches from addr - 16 to
	 * addr - 16 + size); used == false for free ones (tcache and fastbin members
	 * included, top not). What the sums are made of, each once, when an arena's walk
	 * is over: some 16 bytes a chunk wait until then. Mmapped chunks come with arena 0. */
	void (*chunk)(void *arg, uint64_t addr, uint64_t size, bool used, unsigned arena);
	/* With `chunk`: what the walk had to leave out of a heap, because headers did
	 * not fit each other. Chunks may be in there that nobody reported. */
	void (*gap)(void *arg, uint64_t start, uint64_t end, unsigned arena);
	void *arg;
};

/* Walks the heap. Always fills *out (refused heaps have walked == false and a
 * reason); errors only for -ENOMEM, -ESRCH, -ETIMEDOUT. */
int libc_heap_walk(struct target *t, const struct mappings *m, struct images *im,
		   const struct residency *r, const struct libc_opts *opts, struct libc_heap **out,
		   struct error *err);
void libc_heap_free(struct libc_heap *h);

/* The image that serves malloc for the executable, and whether its blocks are glibc's
 * chunks (their size in front of them). NULL when it cannot be told. */
struct image *libc_malloc_image(struct target *t, struct images *im, bool *chunks);

/* Stacks of the threads that exist now. Returns their number (0 when struct
 * pthread could not be verified), or -errno; the caller frees *out. */
ssize_t libc_stacks_read(struct target *t, const struct mappings *m, struct images *im,
			 const struct residency *r, const uint64_t *pthreads, size_t n_pthreads,
			 struct libc_stack **out);

#endif
