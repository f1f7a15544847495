/* SPDX-License-Identifier: Apache-2.0 */
/* One carrier: its header, its blocks, its split into used, free and slack.
 * (carrier.c has the page that explains them; it is the only user.) */
#ifndef BEAMRAY_ERTS_CARRIER_WALK_H
#define BEAMRAY_ERTS_CARRIER_WALK_H

#include "erts/block.h"
#include "erts/carrier.h"
#include "erts/tag.h"

/* What a Carrier_t says. Single-block carriers have only the first part. */
struct carrier_header {
	uint64_t size; /* bytes; 0: a placeholder that a scan inside the VM put into the list */
	bool single, mseg;
	uint64_t owner; /* Allctr_t */
	unsigned flags; /* CARRIER_IN_POOL ... */
	uint64_t next, prev;
	/* multiblock carriers: */
	uint64_t pool_next, pool_prev;	     /* with their marks (low two bits) */
	uint64_t used_bytes, used_blocks;    /* over all types */
	uint64_t used_bytes_of[ALLOC_TYPES]; /* by allocator number */
	/* single-block carriers: */
	uint64_t block; /* the block's header */
};

/* Out of the first `len` bytes of a Carrier_t; -EINVAL when they are too few. */
int carrier_header_parse(const struct layout *l, const struct block_format *f, const void *copy,
			 size_t len, struct carrier_header *out);

struct walker; /* the buffer and everything else that is used again for every carrier */

int walker_open(struct vm *vm, const struct carriers_opts *opts, struct walker **out);
void walker_close(struct walker *w);
const struct block_format *walker_format(const struct walker *w);
/* The sums of all tags so far. */
const struct tag_table *walker_tags(const struct walker *w, const struct tag_resources **r);

/* The same of resources by their type, where carriers_opts asked for it. */
const struct tag_table *walker_types(const struct walker *w);

/* All of `len` bytes at `addr`. Pages that the residency picture does not have
 * are looked up in pagemap and read only when they are present by now.
 * -ENODATA when one is not, -EFAULT, or a fatal error (walker_fatal()). */
int walker_read(struct walker *w, uint64_t addr, void *buf, size_t len);
/* True for errors that concern the target as a whole: give up. */
bool walker_fatal(int ret);

/* Where a walk failed, to tell a race from a lie. All zero before the first. */
struct walker_failure {
	uint64_t at, used_bytes;
};

/* Walks the blocks of `c` once; its addr, size, type, single ... are set, the
 * rest of it is filled in; `header` is mbc_header_size of its owner. Returns 1
 * when it failed and another try may help. In the last try such a carrier is
 * split by its counters: all of it after a check that failed, or what lies
 * behind a page that is not resident. One that is gone is split by those of
 * `known`, the look that found it. Counts into `sum`. Negative: fatal errors
 * only. */
int walker_run(struct walker *w, struct carrier *c, unsigned header,
	       const struct carrier_header *known, struct walker_failure *failure, bool last_try,
	       struct carriers *sum);

/* The split by counters alone: used blocks in proportion, all sums exact. */
void walker_split(struct walker *w, struct carrier *c, unsigned header,
		  const struct carrier_header *h);

#endif
