/* SPDX-License-Identifier: Apache-2.0 */
/* Block headers: one word before every allocation. (carrier.c has the page
 * that explains them.) */
#ifndef BEAMRAY_ERTS_BLOCK_H
#define BEAMRAY_ERTS_BLOCK_H

#include "erts/layout.h"

/* Header bits, equal on every release since 21 (erl_alloc_util.h). */
#define BLOCK_FREE	(1ULL << 0)
#define BLOCK_PREV_FREE (1ULL << 1)
#define BLOCK_LAST	(1ULL << 2)
#define BLOCK_SINGLE	(BLOCK_FREE | BLOCK_PREV_FREE | BLOCK_LAST) /* of a single-block carrier */
#define BLOCK_TAGGED	(1ULL << 63) /* used blocks: a tag is at the end */

/* Carrier header bits. */
#define CARRIER_MSEG   (1ULL << 0)
#define CARRIER_SINGLE (1ULL << 1)
/* Low bits of the carrier's word `allctr`. */
#define CARRIER_IN_POOL	   (1ULL << 0)
#define CARRIER_BUSY	   (1ULL << 1)
#define CARRIER_HOMECOMING (1ULL << 2)
#define CARRIER_FLAGS	   7ULL

/* What differs, or may, between releases and builds. */
struct block_format {
	uint64_t used_size;	/* mask: size of a used block in a multiblock carrier */
	uint64_t free_size;	/* mask: size of a free or single block */
	unsigned offset_shift;	/* used blocks: carrier offset */
	uint64_t offset_mask;	/* ... after the shift */
	unsigned carrier_shift; /* carriers are aligned to, offsets count in, 2^this bytes */
	unsigned header;	/* bytes of a used block's header */
	unsigned tag_bytes;	/* of an allocation tag */
	unsigned tag_type_bits; /* low bits of the tag's packed word: type number */
	unsigned single_header; /* from a single-block carrier's start to its block */
};

/* From a layout; where that lacks a constant, what ERTS has on 64 bits. */
void block_format_init(struct block_format *f, const struct layout *l);

static inline uint64_t block_size(const struct block_format *f, uint64_t header)
{
	return header & (header & BLOCK_FREE ? f->free_size : f->used_size);
}

/* The carrier that a used block at `addr` says it is in. */
static inline uint64_t block_carrier(const struct block_format *f, uint64_t addr, uint64_t header)
{
	return ((addr >> f->carrier_shift) - (header >> f->offset_shift & f->offset_mask))
	       << f->carrier_shift;
}

/* The tag of a block: `end` points behind the block's last byte. */
struct block_tag {
	unsigned type;	/* type number */
	uint64_t owner; /* atom index */
	uint64_t term;	/* pid, port or code pointer; 0 if there is none (always up to 25) */
};
void block_tag_read(const struct block_format *f, const unsigned char *end, struct block_tag *out);

#endif
