/* SPDX-License-Identifier: Apache-2.0 */
/* Allocation tags, summed by owner. (tag.c opens with the page that explains
 * them.) Used by the carrier walk only; its results are struct tag_sum. */
#ifndef BEAMRAY_ERTS_TAG_H
#define BEAMRAY_ERTS_TAG_H

#include "erts/carrier.h"

/* Destructors of magic binaries that were seen; which of them is the NIF
 * resources' one is decided at the end. */
#define TAG_DESTRUCTORS 32

struct tag_key {
	uint64_t owner, term;
	uint16_t alloc_type, block_type;
	uint32_t magic; /* 0, or 1 + index of its destructor */
};

struct tag_entry {
	struct tag_key key;
	uint64_t blocks, bytes, resident;
};

/* A hash table that is emptied and filled again for every carrier (a walk that
 * fails must leave no trace in the sums), and once more for the total. */
struct tag_table {
	struct tag_entry *v; /* dense, in order of arrival */
	size_t n, size;
	uint32_t *slots; /* index into v + 1, 0: empty */
	size_t n_slots;	 /* a power of two */
	size_t last;	 /* the entry that was added to last */
};

/* Adds to the entry of `key`. -ENOMEM. Above a million entries terms are no
 * longer told apart. */
int tag_table_add(struct tag_table *t, const struct tag_key *key, uint64_t blocks, uint64_t bytes,
		  uint64_t resident);
/* Adds everything in `from` to `t`. */
int tag_table_merge(struct tag_table *t, const struct tag_table *from);
void tag_table_clear(struct tag_table *t);
void tag_table_free(struct tag_table *t);

struct tag_resources {
	struct tag_destructor {
		uint64_t addr;
		bool proven; /* a resource type behind it verified */
		unsigned tries;
	} v[TAG_DESTRUCTORS];
	unsigned n;
};

/* A magic binary with this destructor, whose data begins with `type`: returns
 * the value for tag_key.magic. Reads the resource type until one has proven
 * the destructor, at most 64 times for each destructor. */
uint32_t tag_resource(struct vm *vm, struct tag_resources *r, uint64_t destructor, uint64_t type);

/* The final sums, largest first: `magic` only where the destructor was proven,
 * the atom `system` as UINT64_MAX. The caller frees *out. -ENOMEM. */
int tag_sums(struct vm *vm, const struct tag_table *t, const struct tag_resources *r,
	     struct tag_sum **out, size_t *n);

/* Those of `t` (keys: type address) whose destructor was proven. The caller frees
 * *out. -ENOMEM. */
int tag_types(const struct tag_table *t, const struct tag_resources *r, struct resource_sum **out,
	      size_t *n);
/* Whether `type` is an element of the VM's list of resource types. */
bool tag_type_verify(struct vm *vm, uint64_t type);

#endif
