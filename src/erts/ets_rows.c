/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rows of ETS tables
 *
 *   set, bag, duplicate_bag (erl_db_hash.c)
 *	segtab -> [ segment 0: 256 buckets ][ 1: 2048 ][ 2: 2048 ] ...
 *	bucket -> HashDbTerm -next-> HashDbTerm ...
 *	of the slots only the first `nactive` are in use
 *
 *   ordered_set (erl_db_tree.c)
 *	root -> TreeDbTerm { left, right }, an AVL tree
 *
 *   ordered_set with write_concurrency (erl_db_catree.c)
 *	root -> route { left, right } ... -> base { root -> TreeDbTerm ... }
 *
 * Each ends in a DbTerm: first_oh, the row's off-heap list, and the tuple. Rows are
 * added and dropped while we walk, so a walk may miss some or end in the middle.
 */
#include "erts/ets_rows.h"

#include <errno.h>
#include <string.h>

#include "erts/list_guard.h"

#define FIRST_SEGMENT 256u  /* FIRST_SEGSZ of erl_db_hash.c, 23 to 29 */
#define NEXT_SEGMENT  2048u /* EXT_SEGSZ */
#define DEPTH_MAX     128   /* an AVL tree of 2^64 rows is 93 deep; routes lie above */
#define COPY_MAX      512

struct rows {
	struct vm *vm;
	uint64_t max, *n;
	ets_row_fn fn;
	void *ctx;
};

static int row_found(struct rows *r, uint64_t row, uint64_t off_heap)
{
	if (*r->n >= r->max)
		return -E2BIG;
	++*r->n;
	return r->fn(r->ctx, row, off_heap);
}

/* What is read of a row or node in one go. */
static int copy_read(struct rows *r, uint64_t addr, void *copy, size_t size)
{
	int ret = pointer_plausible(addr) ? vm_read(r->vm, addr, copy, size) : -EAGAIN;

	return vm_fatal(ret) ? ret : ret ? -EAGAIN : 0;
}

static size_t end_of(struct layout_field f)
{
	return layout_has(f) ? (size_t)f.offset + f.size : SIZE_MAX;
}

/* ---- hash ------------------------------------------------------------------ */

static int chain_walk(struct rows *r, uint64_t at, uint64_t limit)
{
	const struct layout *l = r->vm->layout;
	const struct layout_field oh = {
		.offset = l->HashDbTerm__dbterm.offset + l->DbTerm__first_oh.offset, .size = 8
	};
	unsigned char copy[64];
	uint64_t next, first, steps = 0;
	int ret = 0;

	/* A chain is no longer than the table, give or take what comes meanwhile. */
	for (; at && !ret; at = next) {
		if (++steps > limit)
			return -EAGAIN;
		ret = copy_read(r, at, copy, end_of(oh));
		if (ret)
			return ret;
		if (!vm_field(copy, sizeof(copy), l->HashDbTerm__next, &next) ||
		    !vm_field(copy, sizeof(copy), oh, &first))
			return -ENOENT;
		ret = row_found(r, at, first);
	}
	return ret;
}

/* The slots [first, first + n) of the table, all of one segment: BUCKET() takes a
 * slot's low bits, so that segment 1 begins in its middle. Only what is in use is
 * read: the rest may never have been touched. */
static int segment_walk(struct rows *r, uint64_t segment, uint64_t size, uint64_t first, uint64_t n,
			uint64_t longest)
{
	const struct layout *l = r->vm->layout;
	const uint64_t at = segment + (layout_has(l->ets_segment__buckets)
					       ? (uint64_t)l->ets_segment__buckets.offset
					       : 0);
	uint64_t buckets[FIRST_SEGMENT], i, k;
	int ret = 0;

	for (i = 0; i < n && !ret; i += k) {
		uint64_t in = (first + i) & (size - 1), run = size - in, j;

		run = run < FIRST_SEGMENT ? run : FIRST_SEGMENT;
		k = n - i < run ? n - i : run;
		ret = vm_read(r->vm, at + 8 * in, buckets, k * 8);
		for (j = 0; j < k && !ret; j++)
			ret = chain_walk(r, buckets[j], longest);
	}
	return ret;
}

static int hash_walk(struct rows *r, const struct ets_table *t)
{
	const struct layout *l = r->vm->layout;
	const uint64_t longest = 2 * t->items + 1024;
	uint64_t active, slots, segtab, segment, first = 0, n;
	int ret = vm_read_field(r->vm, t->addr, l->DbTableHash__nactive, &active);

	if (!ret)
		ret = vm_read_field(r->vm, t->addr, l->DbTableHash__nslots, &slots);
	if (!ret)
		ret = vm_read_field(r->vm, t->addr, l->DbTableHash__segtab, &segtab);
	if (ret)
		return ret == -ENOENT || vm_fatal(ret) ? ret : -EAGAIN;
	if (!layout_has(l->HashDbTerm__dbterm) || !layout_has(l->DbTerm__first_oh) ||
	    l->HashDbTerm__dbterm.offset + l->DbTerm__first_oh.offset + 8 > 64)
		return -ENOENT;
	if (active > slots || active > 1ull << 40 || !pointer_plausible(segtab))
		return -EAGAIN;
	for (n = 0; first < active && !ret; n++) {
		const uint64_t size = n ? NEXT_SEGMENT : FIRST_SEGMENT;
		const uint64_t in = active - first < size ? active - first : size;

		ret = vm_read_u64(r->vm, segtab + 8 * n, &segment);
		if (!ret)
			ret = pointer_plausible(segment)
				      ? segment_walk(r, segment, size, first, in, longest)
				      : -EAGAIN;
		first += in;
	}
	return ret == -E2BIG || ret == -ENOENT || vm_fatal(ret) ? ret : ret ? -EAGAIN : 0;
}

/* ---- trees ----------------------------------------------------------------- */

static int tree_walk(struct rows *r, uint64_t root)
{
	const struct layout *l = r->vm->layout;
	const struct layout_field oh = {
		.offset = l->TreeDbTerm__dbterm.offset + l->DbTerm__first_oh.offset, .size = 8
	};
	uint64_t stack[DEPTH_MAX], left, right, first, at;
	unsigned char copy[64];
	size_t n = 0;
	int ret;

	if (!layout_has(l->TreeDbTerm__dbterm) || !layout_has(l->DbTerm__first_oh) ||
	    end_of(oh) > sizeof(copy))
		return -ENOENT;
	if (root)
		stack[n++] = root;
	/* A tree that leads back into itself ends at the caller's bound on rows. */
	while (n) {
		at = stack[--n];
		ret = copy_read(r, at, copy, end_of(oh));
		if (!ret && (!vm_field(copy, sizeof(copy), l->TreeDbTerm__left, &left) ||
			     !vm_field(copy, sizeof(copy), l->TreeDbTerm__right, &right) ||
			     !vm_field(copy, sizeof(copy), oh, &first)))
			ret = -ENOENT;
		if (!ret)
			ret = row_found(r, at, first);
		if (ret)
			return ret;
		if (n + 2 > DEPTH_MAX)
			return -EAGAIN;
		if (right)
			stack[n++] = right;
		if (left)
			stack[n++] = left;
	}
	return 0;
}

static int catree_walk(struct rows *r, uint64_t root, uint64_t nodes_max)
{
	const struct layout *l = r->vm->layout;
	uint64_t stack[DEPTH_MAX], base, left, right, nodes = 0;
	unsigned char copy[COPY_MAX];
	const size_t size = l->size_DbTableCATreeNode;
	size_t n = 0;
	int ret;

	if (!layout_has(l->DbTableCATreeNode__is_base_node) || size > sizeof(copy))
		return -ENOENT;
	if (root)
		stack[n++] = root;
	while (n) {
		uint64_t at = stack[--n];
		size_t have = size;

		if (++nodes > nodes_max)
			return -EAGAIN;
		/* A base node may be allocated shorter than the union of both. */
		ret = copy_read(r, at, copy, have);
		if (ret)
			return ret;
		if (!vm_field(copy, size, l->DbTableCATreeNode__is_base_node, &base) ||
		    !vm_field(copy, size, l->DbTableCATreeNode__route_left, &left) ||
		    !vm_field(copy, size, l->DbTableCATreeNode__route_right, &right))
			return -ENOENT;
		if (base) {
			if (!vm_field(copy, size, l->DbTableCATreeNode__base_root, &left))
				return -ENOENT;
			ret = tree_walk(r, left);
			if (ret)
				return ret;
			continue;
		}
		if (n + 2 > DEPTH_MAX)
			return -EAGAIN;
		if (right)
			stack[n++] = right;
		if (left)
			stack[n++] = left;
	}
	return 0;
}

int ets_rows_walk(struct vm *vm, const struct ets_table *t, uint64_t max, uint64_t *rows,
		  ets_row_fn fn, void *ctx)
{
	const struct layout *l = vm->layout;
	struct rows r = { .vm = vm, .max = *rows + max, .n = rows, .fn = fn, .ctx = ctx };
	uint64_t root;
	int ret;

	if (t->type != ETS_ORDERED_SET)
		return hash_walk(&r, t);
	ret = vm_read_field(vm, t->addr, t->catree ? l->DbTableCATree__root : l->DbTableTree__root,
			    &root);
	if (ret)
		return ret == -ENOENT || vm_fatal(ret) ? ret : -EAGAIN;
	return t->catree ? catree_walk(&r, root, 4 * t->items + 4096) : tree_walk(&r, root);
}
