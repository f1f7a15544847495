/* SPDX-License-Identifier: Apache-2.0 */
/* The carrier walk over made-up carriers: sound ones against the list of what
 * was made, damaged ones against what must hold whatever they say. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "erts/tag.h"
#include "vm_world.h"

#define PAGE 4096ULL

/* One look: allocators, then carriers. Checks what must always hold. */
struct look {
	struct allocators *a;
	struct carriers *c;
};

static void check_sums(struct world *w, const struct carriers *c)
{
	size_t i;
	unsigned t;

	for (i = 0; i < c->n; i++) {
		const struct carrier *x = &c->v[i];
		uint64_t by_type = 0;

		assert_true(x->size > 0 && x->addr + x->size > x->addr);
		assert_true(!i || c->v[i - 1].addr + c->v[i - 1].size <= x->addr);
		assert_int_equal(x->resident, residency_bytes(w->res, x->addr, x->addr + x->size));
		assert_true(x->used_resident <= x->resident && x->free_resident <= x->resident &&
			    x->slack_resident <= x->resident);
		assert_int_equal(x->resident,
				 x->used_resident + x->free_resident + x->slack_resident);
		for (t = 0; t < CARRIER_TYPES; t++)
			by_type += x->used_resident_by_type[t];
		assert_int_equal(by_type, x->used_resident);
		assert_true(x->free_whole_pages <= x->free_resident);
		assert_true(x->used_bytes <= x->size && x->free_bytes <= x->size &&
			    x->used_bytes + x->free_bytes <= x->size);
	}
}

static struct look look(struct world *w, const struct carriers_opts *opts)
{
	struct error err = { 0 };
	struct look k = { 0 };
	struct vm *vm = world_vm(w);

	alarm(60); /* nothing may hang */
	assert_int_equal(allocators_read(vm, &k.a, &err), 0);
	assert_int_equal(carriers_walk(vm, k.a, opts, &k.c, &err), 0);
	check_sums(w, k.c);
	alarm(0);
	return k;
}

static void look_free(struct look *k)
{
	carriers_free(k->c);
	allocators_free(k->a);
}

static const struct carrier *carrier_at(const struct carriers *c, uint64_t addr)
{
	size_t i;

	for (i = 0; i < c->n; i++)
		if (c->v[i].addr == addr)
			return &c->v[i];
	fail_msg("no carrier at %#lx", (unsigned long)addr);
	return NULL;
}

/* What the walk must say of a carrier, page by page and byte range by byte
 * range, from the list of blocks that were made. */
static void check_truth(struct world *w, const struct world_carrier *t, const struct carrier *c)
{
	uint64_t used = 0, free_ = 0, used_res = 0, free_res = 0, whole = 0, largest = 0, p;
	uint64_t n_used = 0, n_free = 0;
	size_t i;

	for (i = t->first; i < t->first + t->n; i++) {
		const struct world_block *b = &w->blocks[i];
		uint64_t res = 0;

		for (p = b->addr & ~(PAGE - 1); p < b->addr + b->size; p += PAGE) {
			uint64_t lo = p > b->addr ? p : b->addr;
			uint64_t hi = p + PAGE < b->addr + b->size ? p + PAGE : b->addr + b->size;

			if (w->hole[(p - WORLD_HEAP) / PAGE])
				continue;
			res += hi - lo;
			if (!b->used && hi - lo == PAGE)
				whole += PAGE;
		}
		if (b->used) {
			n_used++;
			used += b->size;
			used_res += res;
		} else {
			n_free++;
			free_ += b->size;
			free_res += res;
			if (b->size > largest)
				largest = b->size;
		}
	}
	assert_false(c->torn);
	assert_int_equal(c->used_blocks, n_used);
	assert_int_equal(c->used_bytes, used);
	assert_int_equal(c->free_blocks, n_free);
	assert_int_equal(c->free_bytes, free_);
	assert_int_equal(c->used_resident, used_res);
	assert_int_equal(c->free_resident, free_res);
	assert_int_equal(c->free_whole_pages, whole);
	if (!c->single)
		assert_int_equal(c->largest_free, largest);
}

/* Fills a carrier with random blocks. */
static void fill(struct world *w, struct world_carrier *c, unsigned type, uint64_t *rnd,
		 uint64_t largest)
{
	while (c->addr + c->size - c->next_block > largest + 64) {
		uint64_t size = 48 + (world_random(rnd) % largest & ~7ULL);
		bool used = c->prev_free || world_random(rnd) % 3;

		if (c->addr + c->size - c->next_block < size + 64)
			break;
		world_block(w, c, size, used, type, 0, 0, 0);
	}
	world_last(w, c, c->prev_free || world_random(rnd) % 2, type);
}

static void no_gaps(const struct carriers *c)
{
	assert_int_equal(c->torn, 0);
	assert_int_equal(c->errors, 0);
	assert_int_equal(c->counter_mismatch, 0);
	assert_int_equal(c->lost_bytes, 0);
	assert_int_equal(c->overlaps, 0);
}

struct called {
	struct world *w;
	size_t at, n, wrong;
	uint64_t bytes;
};

static void on_block(void *arg, const struct carrier *c, uint64_t addr, uint64_t size, bool used,
		     unsigned alloc_type)
{
	struct called *k = arg;
	const struct world_block *b = &k->w->blocks[k->at++ % k->w->n_blocks];

	k->n++;
	k->bytes += size;
	if (addr != b->addr || size != b->size || used != b->used || alloc_type != W_EHEAP ||
	    addr < c->addr || addr + size > c->addr + c->size)
		k->wrong++;
}

static void test_sound(void **state)
{
	size_t k;

	for (k = 0; k < layout_count(); k++) {
		struct world *w = world_new(layout_at(k));
		uint64_t a = world_allocator(w, W_EHEAP, 2), rnd = 42;
		struct called called = { .w = w };
		struct carriers_opts opts = { .block = on_block, .arg = &called };
		struct look l;
		size_t i;

		fill(w, world_carrier(w, a, 1 << 20, false), W_EHEAP, &rnd, 500);
		fill(w, world_carrier(w, a, 262144, false), W_EHEAP, &rnd, 100000);
		fill(w, world_carrier(w, a, 5 << 20, false), W_EHEAP, &rnd, 20000);
		fill(w, world_carrier(w, a, 262144, false), W_EHEAP, &rnd, 60);
		world_single(w, world_carrier(w, a, 700000 & ~7, true), 600000 & ~7);
		world_last(w, world_carrier(w, a, 262144, false), false, W_EHEAP);
		world_statistics(w, a, W_EHEAP);
		l = look(w, &opts);
		assert_int_equal(l.c->n, 6);
		no_gaps(l.c);
		for (i = 0; i < w->n_carriers; i++)
			check_truth(w, &w->carriers[i], carrier_at(l.c, w->carriers[i].addr));
		/* the callback saw every block once, in order */
		assert_int_equal(called.n, w->n_blocks);
		assert_int_equal(called.wrong, 0);
		assert_int_equal(l.c->blocks, w->n_blocks);
		assert_true(carrier_at(l.c, w->carriers[4].addr)->single);
		look_free(&l);
		world_free(w);
	}
}

/* The interior of free and used blocks may be away; no byte of it is read (a
 * hole cannot be read here). */
static void test_holes(void **state)
{
	struct world *w = world_new(layout_find(25, NULL));
	uint64_t a = world_allocator(w, W_BINARY, 2), rnd = 7;
	struct world_carrier *c;
	struct look l;
	size_t i, k;

	for (k = 0; k < 3; k++) {
		c = world_carrier(w, a, 2 << 20, false);
		fill(w, c, W_BINARY, &rnd, 200000);
		for (i = c->first; i < c->first + c->n; i++) {
			const struct world_block *b = &w->blocks[i];
			uint64_t p = (b->addr + 64 + PAGE - 1) & ~(PAGE - 1);

			for (; p + PAGE <= b->addr + b->size - 16; p += PAGE)
				w->hole[(p - WORLD_HEAP) / PAGE] = world_random(&rnd) % 3 != 0;
		}
	}
	world_statistics(w, a, W_BINARY);
	l = look(w, NULL);
	no_gaps(l.c);
	for (i = 0; i < w->n_carriers; i++) {
		const struct carrier *x = carrier_at(l.c, w->carriers[i].addr);

		check_truth(w, &w->carriers[i], x);
		assert_true(x->resident < x->size / 2);
	}
	look_free(&l);
	world_free(w);
}

/* A header in a page that is away: what lies before it holds, what lies behind
 * is split by the counters. */
static void test_header_away(void **state)
{
	struct world *w = world_new(layout_find(27, NULL));
	uint64_t a = world_allocator(w, W_ETS, 2);
	struct world_carrier *c = world_carrier(w, a, 1 << 20, false);
	const struct carrier *x;
	struct look l;
	int i;

	for (i = 0; i < 200; i++)
		world_block(w, c, 2048, i % 2 == 0, W_ETS, 0, 0, 0);
	world_last(w, c, true, W_ETS);
	world_statistics(w, a, W_ETS);
	w->hole[(c->addr + 262144 - WORLD_HEAP) / PAGE] = 1;
	l = look(w, NULL);
	x = carrier_at(l.c, c->addr);
	assert_true(x->torn);
	assert_int_equal(l.c->torn, 1);
	assert_int_equal(l.c->errors, 0);
	assert_int_equal(x->used_bytes + x->free_bytes + c->header, c->size);
	/* the counters' total is kept */
	assert_int_equal(x->used_bytes,
			 world_get(w, c->addr + (uint64_t)w->l->Carrier_t__cpool_total_blocks_size
							.offset));
	look_free(&l);
	world_free(w);
}

static void test_single(void **state)
{
	struct world *w = world_new(layout_find(25, NULL));
	uint64_t a = world_allocator(w, W_BINARY, 1);
	struct world_carrier *c = world_carrier(w, a, 1 << 20, true);
	struct carriers_opts quick = { .statistics_only = true };
	const struct carrier *x;
	struct look l;
	int i;

	world_single(w, c, 600 * 1024);
	world_statistics(w, a, W_BINARY);
	for (i = 0; i < 2; i++) {
		l = look(w, i ? &quick : NULL);
		x = carrier_at(l.c, c->addr);
		assert_true(x->single && x->mseg && !x->torn);
		assert_int_equal(x->used_bytes, 600 * 1024);
		assert_int_equal(x->used_resident, 600 * 1024);
		assert_int_equal(x->free_resident, 0);
		assert_int_equal(x->slack_resident, (1 << 20) - 600 * 1024);
		assert_int_equal(x->used_resident_by_type[W_BINARY], 600 * 1024);
		look_free(&l);
	}
	/* only the resident part counts */
	for (i = 10; i < 100; i++)
		w->hole[(c->addr - WORLD_HEAP) / PAGE + (size_t)i] = 1;
	l = look(w, NULL);
	assert_int_equal(carrier_at(l.c, c->addr)->used_resident, 600 * 1024 - 90 * PAGE);
	look_free(&l);

	/* a block larger than its carrier, and one without its flags */
	world_put(w, c->addr + c->header, (2 << 20) | 7);
	l = look(w, NULL);
	assert_true(carrier_at(l.c, c->addr)->torn);
	look_free(&l);
	world_put(w, c->addr + c->header, 600 * 1024);
	l = look(w, NULL);
	assert_true(carrier_at(l.c, c->addr)->torn);
	assert_int_equal(l.c->errors, 1);
	look_free(&l);
	world_free(w);
}

/* A pooled carrier with blocks of three allocators, as by default on 23. */
static void test_mixed(void **state)
{
	size_t k;

	for (k = 0; k < layout_count(); k++) {
		struct world *w = world_new(layout_at(k));
		uint64_t a = world_allocator(w, W_EHEAP, 2), first = 0;
		struct world_carrier *c = world_carrier(w, a, 1 << 20, false);
		struct carriers_opts opts = { .tags = true };
		const struct carrier *x;
		struct look l;
		int i;

		world_allocator(w, W_BINARY, 2);
		for (i = 0; i < 300; i++) {
			unsigned type = i % 3 == 0 ? W_EHEAP : i % 3 == 1 ? W_ETS : W_BINARY;

			world_block(w, c, 1000 + (uint64_t)(i % 5) * 8, true, type,
				    type == W_BINARY ? W_TYPE_BINARY : 0, 77, 0);
		}
		world_last(w, c, false, 0);
		/* statistics while it is on a list; then it moves to the pool */
		world_pool(w, c);
		l = look(w, &opts);
		x = carrier_at(l.c, c->addr);
		assert_true(x->in_pool && !x->torn);
		assert_int_equal(l.a->inst[x->instance].addr, a);
		assert_int_equal(l.c->counter_mismatch, 0);
		for (i = 0; i < ALLOC_TYPES; i++) {
			uint64_t should = 0;

			if (i >= 1 && i <= w->l->pool_blocks_len)
				should = world_get(w, c->addr +
							      (uint64_t)w->l
								      ->Carrier_t__cpool_blocks_size
								      .offset +
							      8 * (uint64_t)(i - 1));
			assert_int_equal(x->used_resident_by_type[i], should);
			first += should;
		}
		assert_int_equal(first, x->used_resident);
		assert_int_equal(l.c->n_tags, 1);
		assert_int_equal(l.c->tags[0].blocks, 100);
		look_free(&l);
		world_free(w);
	}
}

/* Placeholders, the list of dying carriers, carriers that no list has. */
static void test_lists(void **state)
{
	struct world *w = world_new(layout_find(25, NULL));
	const struct layout *lay = w->l;
	uint64_t a = world_allocator(w, W_EHEAP, 1), list, dummy;
	struct world_carrier *c[4];
	struct look l;
	int i;

	for (i = 0; i < 4; i++) {
		c[i] = world_carrier(w, a, 262144, false);
		world_last(w, c[i], i != 3, W_EHEAP);
	}
	world_statistics(w, a, W_EHEAP);
	/* the last goes to dc_list; the statistics have forgotten it */
	list = a + (uint64_t)lay->Allctr_t__mbc_list_last.offset;
	world_put(w, list, c[2]->addr);
	world_set(w, c[2]->addr, lay->Carrier_t__next, 0);
	world_set(w, c[3]->addr, lay->Carrier_t__prev, 0);
	world_set(w, a, lay->Allctr_t__cpool_dc_list_first, c[3]->addr);
	world_set(w, a, lay->Allctr_t__cpool_dc_list_last, c[3]->addr);
	l = look(w, NULL);
	assert_int_equal(l.c->n, 4);
	assert_true(carrier_at(l.c, c[3]->addr)->dead);
	assert_false(carrier_at(l.c, c[2]->addr)->dead);
	/* the statistics still count the one that is dying */
	assert_int_equal(l.c->lost_bytes, 262144);
	assert_int_equal(l.c->list_retries, 0);
	look_free(&l);

	/* a placeholder of size 0 between the first two */
	dummy = world_image(w, lay->size_Carrier_t);
	world_set(w, dummy, lay->Carrier_t__allctr, a);
	world_set(w, dummy, lay->Carrier_t__prev, c[0]->addr);
	world_set(w, dummy, lay->Carrier_t__next, c[1]->addr);
	world_set(w, c[0]->addr, lay->Carrier_t__next, dummy);
	world_set(w, c[1]->addr, lay->Carrier_t__prev, dummy);
	l = look(w, NULL);
	assert_int_equal(l.c->n, 4);
	assert_int_equal(l.c->list_retries, 0);
	look_free(&l);

	/* a broken link: the rest is found from the end */
	world_set(w, c[0]->addr, lay->Carrier_t__next, 0x1234560);
	l = look(w, NULL);
	assert_int_equal(l.c->n, 4);
	assert_true(l.c->list_retries > 0);
	look_free(&l);

	/* both ends broken: what is left out is announced by the statistics */
	world_set(w, c[2]->addr, lay->Carrier_t__prev, 8);
	l = look(w, NULL);
	assert_int_equal(l.c->n, 3);
	assert_int_equal(l.c->lost_bytes, 2 * 262144);
	look_free(&l);

	/* loops: to itself, and around */
	world_set(w, c[0]->addr, lay->Carrier_t__next, c[0]->addr);
	l = look(w, NULL);
	assert_int_equal(l.c->n, 3);
	look_free(&l);
	world_set(w, c[0]->addr, lay->Carrier_t__next, c[1]->addr);
	world_set(w, c[1]->addr, lay->Carrier_t__next, c[2]->addr);
	world_set(w, c[2]->addr, lay->Carrier_t__next, c[0]->addr);
	l = look(w, NULL);
	assert_int_equal(l.c->n, 4);
	look_free(&l);
	world_free(w);
}

/* Two carriers that claim the same memory. */
static void test_overlap(void **state)
{
	struct world *w = world_new(layout_find(25, NULL));
	uint64_t a = world_allocator(w, W_EHEAP, 1);
	struct world_carrier *c[3];
	struct look l;
	int i;

	for (i = 0; i < 3; i++) {
		c[i] = world_carrier(w, a, 262144, false);
		world_last(w, c[i], true, W_EHEAP);
	}
	world_set(w, c[0]->addr, w->l->Carrier_t__chdr, 3 * 262144 | 1);
	l = look(w, NULL);
	assert_int_equal(l.c->n, 2);
	assert_int_equal(l.c->overlaps, 1);
	assert_int_equal(l.c->v[0].addr, c[1]->addr);
	look_free(&l);
	/* a size beyond everything that is mapped */
	world_set(w, c[0]->addr, w->l->Carrier_t__chdr, (1ULL << 46) | 1);
	l = look(w, NULL);
	assert_int_equal(l.c->n, 2);
	look_free(&l);
	world_free(w);
}

struct damage {
	const char *what;
	uint64_t offset; /* from the victim block */
	uint64_t and, or, add;
};

/* Every single check of the walk, one lie each. */
static void test_damage(void **state)
{
	static const struct damage damages[] = {
		{ "size 0", 0, 0xffffff0000000007ULL, 0, 0 },
		{ "size past the end", 0, ~0ULL, 0, 1 << 24 },
		{ "size wrong by one unit", 0, ~0ULL, 0, 8 },
		{ "no size unit", 0, ~0ULL, 0, 0x1000 },
		{ "previous free", 0, ~0ULL, 2, 0 },
		{ "is last", 0, ~0ULL, 4, 0 },
		{ "carrier offset", 0, ~0ULL, 0, 1ULL << 40 },
		{ "carrier offset, all bits", 0, ~0ULL, 0x7fffffULL << 40, 0 },
		{ "single-block flags", 0, ~0ULL, 7, 0 },
		{ "header gone", 0, 0, 0, 0 },
		{ "all ones", 0, 0, ~0ULL, 0 },
	};
	static const struct damage damages_free[] = {
		{ "free: used instead", 0, ~1ULL, 0, 0 },
		{ "free: previous free", 0, ~0ULL, 2, 0 },
		{ "free: size", 0, ~0ULL, 0, 8 },
		{ "free: huge size", 0, ~0ULL, 1ULL << 50, 0 },
		{ "free: carrier", 8, ~0ULL, 0, 8 },
		{ "free: no carrier", 8, 0, 0, 0 },
		{ "free: footer", 400 - 8, ~0ULL, 0, 8 },
	};
	const size_t n = sizeof(damages) / sizeof(damages[0]);
	const size_t n_free = sizeof(damages_free) / sizeof(damages_free[0]);
	size_t i;

	for (i = 0; i < n + n_free; i++) {
		const struct damage *d = i < n ? &damages[i] : &damages_free[i - n];
		struct world *w = world_new(layout_find(25, NULL));
		uint64_t a = world_allocator(w, W_EHEAP, 1), victim[2], at;
		struct world_carrier *c = world_carrier(w, a, 262144, false), *good;
		const struct carrier *x;
		struct look l;
		int k;

		for (k = 0; k < 100; k++)
			world_block(w, c, 320, true, W_EHEAP, 0, 0, 0);
		victim[0] = world_block(w, c, 400, true, W_EHEAP, 0, 0, 0);
		world_block(w, c, 320, true, W_EHEAP, 0, 0, 0);
		victim[1] = world_block(w, c, 400, false, W_EHEAP, 0, 0, 0);
		for (k = 0; k < 100; k++)
			world_block(w, c, 320, true, W_EHEAP, 0, 0, 0);
		world_last(w, c, false, 0);
		good = world_carrier(w, a, 262144, false);
		world_last(w, good, true, W_EHEAP);
		world_statistics(w, a, W_EHEAP);

		at = victim[i >= n] + d->offset;
		world_put(w, at, ((world_get(w, at) & d->and) | d->or) + d->add);
		l = look(w, NULL);
		x = carrier_at(l.c, c->addr);
		if (!x->torn || l.c->torn != 1 || l.c->errors != 1)
			fail_msg("not noticed: %s", d->what);
		/* its counters split it, and nothing else suffers */
		assert_int_equal(x->used_bytes, 201 * 320 + 400);
		assert_int_equal(x->used_bytes + x->free_bytes + c->header, c->size);
		assert_int_equal(l.c->retries, 4);
		check_truth(w, good, carrier_at(l.c, good->addr));
		look_free(&l);
		world_free(w);
	}
}

/* Counters of a carrier that lie. */
static void test_counters(void **state)
{
	struct world *w = world_new(layout_find(25, NULL));
	uint64_t a = world_allocator(w, W_EHEAP, 1), total, block, size;
	struct world_carrier *c = world_carrier(w, a, 262144, false);
	struct carriers_opts quick = { .statistics_only = true };
	const struct carrier *x;
	struct look l;

	world_block(w, c, 1024, true, W_EHEAP, 0, 0, 0);
	world_last(w, c, false, 0);
	world_statistics(w, a, W_EHEAP);
	total = c->addr + (uint64_t)w->l->Carrier_t__cpool_total_blocks_size.offset;
	size = world_get(w, total);

	/* the walk is believed, the difference is counted */
	world_put(w, total, 1ULL << 60);
	l = look(w, NULL);
	check_truth(w, c, carrier_at(l.c, c->addr));
	assert_int_equal(l.c->counter_mismatch, 1);
	look_free(&l);

	/* without a walk an absurd counter is cut to what there is */
	l = look(w, &quick);
	x = carrier_at(l.c, c->addr);
	assert_int_equal(x->used_bytes, c->size - c->header);
	look_free(&l);
	world_put(w, total, size);
	l = look(w, &quick);
	x = carrier_at(l.c, c->addr);
	assert_int_equal(x->used_bytes, 1024);
	assert_false(x->torn);
	assert_int_equal(x->used_resident, 1024);
	look_free(&l);

	/* the same when blocks and counters both lie */
	block = w->blocks[0].addr;
	world_put(w, block, 0);
	world_put(w, total, ~0ULL);
	l = look(w, NULL);
	assert_true(carrier_at(l.c, c->addr)->torn);
	look_free(&l);
	world_free(w);
}

static const struct tag_sum *tag_find(const struct carriers *c, unsigned type, uint64_t owner,
				      uint64_t term, bool magic)
{
	size_t i;

	for (i = 0; i < c->n_tags; i++)
		if (c->tags[i].block_type == type && c->tags[i].owner_atom == owner &&
		    c->tags[i].pid_or_port == term && c->tags[i].magic == magic)
			return &c->tags[i];
	return NULL;
}

static void test_tags(void **state)
{
	size_t k;

	for (k = 0; k < layout_count(); k++) {
		struct world *w = world_new(layout_at(k));
		const struct layout *lay = w->l;
		uint64_t a = world_allocator(w, W_BINARY, 2), type[3], dtor = 0x1111110, at, i;
		uint64_t term = lay->otp_major >= 27 ? 0x1233 : 0;
		struct world_carrier *c = world_carrier(w, a, 1 << 20, false), *s;
		struct carriers_opts opts = { .tags = true, .tag_pids = true };
		const struct tag_sum *t;
		struct look l;

		if (!lay->size_ErtsMagicBinary || !lay->size_ErlNifResourceType)
			fail_msg("OTP %s: the layout has no magic binaries", lay->otp);
		/* the list of resource types: its head and two elements */
		for (i = 0; i < 3; i++)
			type[i] = world_image(w, lay->size_ErlNifResourceType);
		for (i = 0; i < 3; i++) {
			world_set(w, type[i], lay->ErlNifResourceType__next, type[(i + 1) % 3]);
			world_set(w, type[i], lay->ErlNifResourceType__prev, type[(i + 2) % 3]);
			world_set(w, type[i], lay->ErlNifResourceType__name, 5 << 6 | 0xb);
			world_set(w, type[i], lay->ErlNifResourceType__module, 6 << 6 | 0xb);
		}
		for (i = 0; i < 50; i++) {
			world_block(w, c, 512, true, W_BINARY, W_TYPE_BINARY, 1000, term);
			world_block(w, c, 256, true, W_BINARY, W_TYPE_DRV_BINARY, 2000, 0);
			world_block(w, c, 128, true, W_BINARY, 0, 0, 0);
			/* a resource; every tenth of a type that is off the list */
			at = world_block(w, c, 400, true, W_BINARY, W_TYPE_BINARY, 1000, term) + 8;
			world_set(w, at, lay->Binary__intern_flags, 1);
			world_set(w, at, lay->ErtsMagicBinary__destructor, dtor);
			world_put(w, at + (uint64_t)lay->ErtsMagicBinary__unaligned_data.offset,
				  i % 10 ? type[1 + i % 2] : WORLD_IMAGE + 64);
			/* a magic binary that is something else */
			at = world_block(w, c, 200, true, W_BINARY, W_TYPE_BINARY, 1000, term) + 8;
			world_set(w, at, lay->Binary__intern_flags, 1);
			world_set(w, at, lay->ErtsMagicBinary__destructor, dtor + 64);
			/* a tag that is none */
			world_block(w, c, 96, true, W_BINARY, W_TYPE_BINARY, 1ULL << 50, 0);
		}
		world_last(w, c, false, 0);
		s = world_carrier(w, a, 800000, true);
		world_single(w, s, 640000);
		world_put(w, s->addr + s->header, 640000 | 7 | 1ULL << 63);
		at = s->addr + s->header + 640000 - (lay->otp_major >= 27 ? 16 : 8);
		world_put(w, at, 3000 << 8 | W_TYPE_BINARY);
		world_statistics(w, a, W_BINARY);

		l = look(w, &opts);
		no_gaps(l.c);
		assert_int_equal(l.c->bad_tags, 50);
		assert_int_equal(l.c->n_tags, 4);
		t = tag_find(l.c, W_TYPE_BINARY, 1000, term, false);
		assert_non_null(t);
		assert_int_equal(t->blocks, 100); /* plain ones and the other magic */
		assert_int_equal(t->bytes, 50 * (512 + 200));
		assert_int_equal(t->resident, t->bytes);
		assert_int_equal(t->alloc_type, W_BINARY);
		t = tag_find(l.c, W_TYPE_BINARY, 1000, term, true);
		assert_non_null(t);
		assert_int_equal(t->blocks, 50);
		assert_int_equal(t->bytes, 50 * 400);
		t = tag_find(l.c, W_TYPE_DRV_BINARY, 2000, 0, false);
		assert_non_null(t);
		assert_int_equal(t->bytes, 50 * 256);
		t = tag_find(l.c, W_TYPE_BINARY, 3000, 0, false);
		assert_non_null(t);
		assert_int_equal(t->bytes, 640000);
		assert_ptr_equal(t, &l.c->tags[0]); /* the largest first */
		look_free(&l);
		world_free(w);
	}
}

/* The VM goes on while we walk: here, when the first carrier has been walked,
 * the second and the third are something else. */
static void on_first(void *arg, const struct carrier *c, uint64_t addr, uint64_t size, bool used,
		     unsigned alloc_type)
{
	struct world *w = arg;

	if (c->addr != w->carriers[0].addr)
		return;
	world_put(w, w->carriers[1].addr, 2 * 262144 | 1);
	world_put(w, w->carriers[2].addr, 0x1122334455667788);
}

static void test_gone(void **state)
{
	struct world *w = world_new(layout_find(27, NULL));
	uint64_t a = world_allocator(w, W_EHEAP, 1);
	struct carriers_opts opts = { .block = on_first, .arg = w };
	struct look l;
	int i;

	for (i = 0; i < 4; i++) {
		struct world_carrier *c = world_carrier(w, a, 262144, i == 2);

		if (i == 2) {
			world_single(w, c, 200000);
			continue;
		}
		world_block(w, c, 65536, true, W_EHEAP, 0, 0, 0);
		world_last(w, c, false, 0);
	}
	l = look(w, &opts);
	assert_int_equal(l.c->n, 4);
	assert_int_equal(l.c->gone, 2);
	assert_int_equal(l.c->torn, 0);
	assert_int_equal(l.c->errors, 0);
	assert_int_equal(l.c->retries, 0);
	for (i = 0; i < 4; i++)
		assert_int_equal(l.c->v[i].gone, i == 1 || i == 2);
	/* as they were when they were found */
	assert_int_equal(l.c->v[1].used_bytes, 65536);
	assert_int_equal(l.c->v[2].used_bytes, 200000);
	check_truth(w, &w->carriers[3], &l.c->v[3]);
	look_free(&l);
	world_free(w);
}

/* More owners than anybody has: bounded, and no byte is lost. */
static void test_many_tags(void **state)
{
	struct tag_table t = { 0 }, sum = { 0 };
	uint64_t blocks = 0, bytes = 0;
	size_t i;

	for (i = 0; i < 1200000; i++) {
		struct tag_key k = { .owner = i % 11, .term = i + 1, .block_type = 3 };

		assert_int_equal(tag_table_add(&t, &k, 1, 100, 50), 0);
	}
	assert_true(t.n > 500000 && t.n <= 1 << 20);
	assert_int_equal(tag_table_merge(&sum, &t), 0);
	assert_int_equal(sum.n, t.n);
	for (i = 0; i < sum.n; i++) {
		blocks += sum.v[i].blocks;
		bytes += sum.v[i].bytes;
	}
	assert_int_equal(blocks, 1200000);
	assert_int_equal(bytes, 120000000);
	tag_table_clear(&t);
	assert_int_equal(t.n, 0);
	assert_int_equal(tag_table_add(&t, &sum.v[5].key, 1, 1, 1), 0);
	assert_int_equal(t.n, 1);
	tag_table_free(&t);
	tag_table_free(&sum);
}

/* A layout that cannot be right: an error with a sentence, not a guess. */
static void test_bad_layout(void **state)
{
	struct world *w = world_new(layout_find(25, NULL));
	struct layout l = *w->l;
	struct error err = { 0 };
	struct allocators *a;
	struct carriers *c;

	world_last(w, world_carrier(w, world_allocator(w, W_EHEAP, 1), 262144, false), true,
		   W_EHEAP);
	world_vm(w);
	w->vm.layout = &l;
	l.size_Carrier_t = 0;
	assert_int_equal(allocators_read(&w->vm, &a, &err), 0);
	assert_int_equal(carriers_walk(&w->vm, a, NULL, &c, &err), -EINVAL);
	assert_null(c);
	assert_true(err.text[0] != '\0');
	allocators_free(a);
	carriers_free(NULL);
	world_free(w);
}

/* Whatever is in memory: an end, and sums that hold. */
static void fuzz(int otp, uint64_t seed, int rounds)
{
	const struct layout *l = layout_find(otp, NULL);
	struct world *w = world_new(l);
	uint64_t a, rnd = seed, i, image_used, torn = 0, walked = 0;
	unsigned char *image, *heap;
	int round;

	a = world_allocator(w, W_EHEAP, 3);
	world_allocator(w, W_BINARY, 0);
	fill(w, world_carrier(w, a, 262144, false), W_EHEAP, &rnd, 4000);
	fill(w, world_carrier(w, a, 262144, false), W_EHEAP, &rnd, 60000);
	world_single(w, world_carrier(w, a, 300000, true), 299000);
	world_statistics(w, a, W_EHEAP);
	for (i = 0; i < 2; i++) {
		struct world_carrier *c = world_carrier(w, a + world_stride, 262144, false);
		int k;

		for (k = 0; k < 100; k++)
			world_block(w, c, 512, true, k % 2 ? W_BINARY : W_EHEAP, W_TYPE_BINARY,
				    (uint64_t)k % 7, 0);
		world_last(w, c, false, 0);
		world_pool(w, c);
	}
	image_used = w->image_used;
	image = malloc(image_used);
	heap = malloc(w->heap_used);
	assert_true(image && heap);
	memcpy(image, w->image, image_used);
	memcpy(heap, w->heap, w->heap_used);

	for (round = 0; round < rounds; round++) {
		unsigned damage = 1 + (unsigned)(world_random(&rnd) % 6), k;
		struct carriers_opts opts = { .tags = round % 2 == 0,
					      .tag_pids = true,
					      .statistics_only = round % 16 == 15 };
		struct look lk;

		for (k = 0; k < damage; k++) {
			uint64_t r = world_random(&rnd), at, v, known[8];
			size_t c = world_random(&rnd) % w->n_carriers;

			/* carrier headers and instances oftener than the rest */
			switch (r % 4) {
			case 0:
				at = WORLD_IMAGE + (world_random(&rnd) % (image_used - 8) & ~7ULL);
				break;
			case 1:
				at = w->carriers[c].addr +
				     (world_random(&rnd) % l->size_Carrier_t & ~7ULL);
				break;
			case 2:
				at = w->blocks[world_random(&rnd) % w->n_blocks].addr +
				     8 * (world_random(&rnd) % 2);
				break;
			default:
				at = w->carriers[c].addr +
				     (world_random(&rnd) % (w->carriers[c].size - 8) & ~7ULL);
			}
			known[0] = 0;
			known[1] = ~0ULL;
			known[2] = w->carriers[world_random(&rnd) % w->n_carriers].addr;
			known[3] = a + world_stride * (world_random(&rnd) % 3);
			known[4] = world_get(w, at) ^ 1ULL << world_random(&rnd) % 64;
			known[5] = world_random(&rnd) % (1 << 20);
			known[6] = w->carriers[world_random(&rnd) % w->n_carriers].addr +
				   (uint64_t)l->Carrier_t__cpool.offset;
			known[7] = world_random(&rnd);
			v = known[world_random(&rnd) % 8];
			world_put(w, at, v);
		}
		if (round % 8 == 0)
			w->hole[world_random(&rnd) % (w->heap_used / PAGE)] ^= 1;
		lk = look(w, &opts);
		torn += lk.c->torn;
		walked += lk.c->n;
		assert_true(lk.c->n <= 64 && lk.c->errors <= lk.c->torn);
		look_free(&lk);
		memcpy(w->image, image, image_used);
		memcpy(w->heap, heap, w->heap_used);
	}
	/* the damage did reach the walk, and did not hide everything */
	assert_true(torn > (uint64_t)rounds / 10);
	assert_true(walked > (uint64_t)rounds * 3);
	free(image);
	free(heap);
	world_free(w);
}

static void test_fuzz(void **state)
{
	fuzz(23, 1, 3000);
	fuzz(25, 2, 3000);
	fuzz(27, 3, 3000);
	fuzz(29, 4, 3000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sound),	    cmocka_unit_test(test_holes),
		cmocka_unit_test(test_header_away), cmocka_unit_test(test_single),
		cmocka_unit_test(test_mixed),	    cmocka_unit_test(test_lists),
		cmocka_unit_test(test_overlap),	    cmocka_unit_test(test_damage),
		cmocka_unit_test(test_counters),    cmocka_unit_test(test_tags),
		cmocka_unit_test(test_gone),	    cmocka_unit_test(test_many_tags),
		cmocka_unit_test(test_bad_layout),  cmocka_unit_test(test_fuzz),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
