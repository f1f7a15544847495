/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A made-up VM in buffers of ours, for the readers of src/erts: allocators,
 * instances, carriers and blocks laid out as a layout says, by code that shares
 * nothing with the readers. It keeps a list of what it made: the truth.
 */
#ifndef BEAMRAY_TESTS_VM_WORLD_H
#define BEAMRAY_TESTS_VM_WORLD_H

#include "erts/carrier.h"

#define WORLD_IMAGE	  0x100000000ULL /* where the "image" lies in the target */
#define WORLD_IMAGE_BYTES (1U << 20)
#define WORLD_HEAP	  0x700000000000ULL /* where carriers lie */
#define WORLD_HEAP_BYTES  (48ULL << 20)

/* Allocator numbers (erl_alloc.types; the same on every release of the matrix
 * for those below). */
enum { W_SYS = 1, W_TEMP = 2, W_EHEAP = 6, W_ETS = 7, W_BINARY = 10, W_DRIVER = 11, W_N = 13 };

enum { W_TYPE_BINARY = 200, W_TYPE_DRV_BINARY = 201, W_TYPE_DRIVER = 202, W_TYPES = 256 };

struct world_block {
	uint64_t addr, size;
	bool used;
};

struct world_carrier {
	uint64_t addr, size, header;
	uint64_t next_block; /* where the next block goes */
	bool prev_free;
	size_t first, n; /* in world.blocks */
};

struct world {
	const struct layout *l;
	unsigned char *image, *heap;
	uint64_t image_used, heap_used;
	uint64_t info, spec;
	uint64_t sentinel;
	struct world_carrier carriers[64];
	size_t n_carriers;
	struct world_block blocks[65536];
	size_t n_blocks;
	/* pages of the heap that are neither mapped nor readable */
	unsigned char hole[WORLD_HEAP_BYTES / 4096];

	struct mappings maps;
	struct target *target;
	struct residency *res;
	struct vm vm;
};

struct world *world_new(const struct layout *l);
void world_free(struct world *w);
/* Makes target, mappings, residency and vm of it; again after changes of holes. */
struct vm *world_vm(struct world *w);

/* Our own memory behind an address of the target (8 bytes at least). */
void *world_at(struct world *w, uint64_t addr);
void world_put(struct world *w, uint64_t addr, uint64_t value);
uint64_t world_get(struct world *w, uint64_t addr);
/* A field of 1 to 8 bytes. */
void world_set(struct world *w, uint64_t base, struct layout_field f, uint64_t value);
uint64_t world_image(struct world *w, size_t bytes); /* fresh zeroed memory in the image */

/* n instances of an allocator, thread specific unless n is 0 (one, shared).
 * Returns the address of the first; the others follow at `world_stride`. */
#define world_stride 4096
uint64_t world_allocator(struct world *w, unsigned type, unsigned n);

/* A carrier on mbc_list or sbc_list of the instance (not yet with blocks). */
struct world_carrier *world_carrier(struct world *w, uint64_t allctr, uint64_t size, bool single);
/* The next block; size in bytes, header included. A tagged one has tag_type
 * other than 0. Counts used blocks in the carrier's counters under `type`. */
uint64_t world_block(struct world *w, struct world_carrier *c, uint64_t size, bool used,
		     unsigned type, unsigned tag_type, uint64_t tag_owner, uint64_t tag_term);
/* What is left becomes the last block: free, or used. */
void world_last(struct world *w, struct world_carrier *c, bool used, unsigned type);
/* The one block of a single-block carrier. */
void world_single(struct world *w, struct world_carrier *c, uint64_t size);
/* Takes the carrier off its list (the only one on it) and puts it into the pool. */
void world_pool(struct world *w, struct world_carrier *c);
/* Brings the instances' statistics in line with all carriers made so far. */
void world_statistics(struct world *w, uint64_t allctr, unsigned type);

/* Deterministic random numbers. */
uint64_t world_random(uint64_t *state);

#endif
