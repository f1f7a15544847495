/* SPDX-License-Identifier: Apache-2.0 */
/* Private to pins*.c: the blocks of nearly empty carriers, and whose they are. */
#ifndef BEAMRAY_ERTS_PINS_INT_H
#define BEAMRAY_ERTS_PINS_INT_H

#include "erts/block.h"
#include "erts/pins.h"

struct pin_block {
	uint64_t addr; /* of its first byte behind the header: what pointers to it say */
	uint64_t size; /* whole block */
	uint64_t id;
	uint64_t owner;
	uint32_t carrier; /* index, while collecting */
	uint16_t block_type;
	uint8_t kind, holder;
	bool shared;
};

struct pins_reading {
	struct vm *vm;
	struct pins *p;
	struct pins_opts opts;
	struct block_format f;
	struct pin_block *v;
	size_t n, allocated, a_carriers;
	uint64_t messages, fragments;
	bool of_type[ALLOC_TYPES]; /* there are blocks in carriers of this allocator */
	int error;
};

/* pins_owners.c: says of every block of v, which is sorted by address, what it is and
 * whose, as far as anything leads to it. 0; -ENOMEM; or what ends all reading. */
int pins_owners_find(struct pins_reading *r, const struct allocators *a, struct error *err);

#endif
