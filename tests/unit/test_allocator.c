/* SPDX-License-Identifier: Apache-2.0 */
/* Allocators and instances of a made-up VM. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "vm_world.h"

static struct allocators *read_all(struct world *w)
{
	struct error err = { 0 };
	struct allocators *a = NULL;

	alarm(60);
	assert_int_equal(allocators_read(world_vm(w), &a, &err), 0);
	alarm(0);
	assert_int_equal(a->n_types, W_N);
	return a;
}

/* A field inside a field of an Allctr_t. */
static void put(struct world *w, uint64_t allctr, struct layout_field outer, uint64_t offset,
		struct layout_field inner, uint64_t value)
{
	world_put(w, allctr + (uint64_t)outer.offset + offset + (uint64_t)inner.offset, value);
}

static void test_figures(void **state)
{
	size_t k;

	for (k = 0; k < layout_count(); k++) {
		struct world *w = world_new(layout_at(k));
		const struct layout *l = w->l;
		uint64_t e = world_allocator(w, W_EHEAP, 3), b = world_allocator(w, W_BINARY, 0);
		uint64_t carriers = (uint64_t)l->CarriersStats_t__carriers.offset;
		uint64_t blocks = (uint64_t)l->CarriersStats_t__blocks.offset;
		uint64_t second = e + world_stride;
		struct allocators *a;
		struct alloc_instance *in;

		/* 3 carriers from mseg, 2 from sys_alloc */
		put(w, second, l->Allctr_t__mbcs, carriers, l->StatValues_t__no, 3);
		put(w, second, l->Allctr_t__mbcs, carriers, l->StatValues_t__size, 3 << 20);
		put(w, second, l->Allctr_t__mbcs, carriers + l->size_StatValues_t,
		    l->StatValues_t__no, 2);
		put(w, second, l->Allctr_t__mbcs, carriers + l->size_StatValues_t,
		    l->StatValues_t__size, 2 << 20);
		put(w, second, l->Allctr_t__mbcs, 0, l->CarriersStats_t__max_no, 7);
		put(w, second, l->Allctr_t__mbcs, 0, l->CarriersStats_t__max_ever_no, 6);
		/* 10 eheap blocks, 4 foreign ones of binary_alloc */
		put(w, second, l->Allctr_t__mbcs, blocks + (W_EHEAP - 1) * l->size_BlockStats_t,
		    l->BlockStats_t__curr_no, 10);
		put(w, second, l->Allctr_t__mbcs, blocks + (W_EHEAP - 1) * l->size_BlockStats_t,
		    l->BlockStats_t__curr_size, 1000);
		put(w, second, l->Allctr_t__mbcs, blocks + (W_EHEAP - 1) * l->size_BlockStats_t,
		    l->BlockStats_t__max_no, 20);
		put(w, second, l->Allctr_t__mbcs, blocks + (W_EHEAP - 1) * l->size_BlockStats_t,
		    l->BlockStats_t__max_ever_no, 30);
		put(w, second, l->Allctr_t__mbcs, blocks + (W_BINARY - 1) * l->size_BlockStats_t,
		    l->BlockStats_t__curr_no, 4);
		put(w, second, l->Allctr_t__mbcs, blocks + (W_BINARY - 1) * l->size_BlockStats_t,
		    l->BlockStats_t__curr_size, 400);
		/* and in the pool */
		world_set(w, second, l->Allctr_t__cpool_stat_no_carriers, 1);
		world_set(w, second, l->Allctr_t__cpool_stat_carriers_size, 1 << 19);
		put(w, second, l->Allctr_t__cpool_stat_no_blocks, 8 * (W_ETS - 1),
		    (struct layout_field){ 0, 8 }, 5);
		put(w, second, l->Allctr_t__cpool_stat_blocks_size, 8 * (W_ETS - 1),
		    (struct layout_field){ 0, 8 }, 555);
		world_set(w, second, l->Allctr_t__calls_this_alloc, 123);
		world_set(w, second, l->Allctr_t__cpool_util_limit, 60);

		a = read_all(w);
		assert_int_equal(a->n_inst, 4);
		assert_int_equal(a->unreadable, 0);
		assert_int_equal(a->types[W_EHEAP].n, 3);
		assert_int_equal(a->types[W_BINARY].n, 1);
		assert_int_equal(a->types[W_ETS].n, 0);
		assert_false(a->types[W_ETS].alloc_util);
		assert_string_equal(a->types[W_EHEAP].name, "eheap_alloc");
		in = &a->inst[a->types[W_EHEAP].first + 1];
		assert_int_equal(in->addr, second);
		assert_int_equal(in->index, 1);
		assert_true(in->thread_specific);
		assert_false(in->torn);
		assert_int_equal(in->mbcs.carriers, 5);
		assert_int_equal(in->mbcs.carriers_size, 5 << 20);
		assert_int_equal(in->mbcs.mseg_carriers, 3);
		assert_int_equal(in->mbcs.mseg_carriers_size, 3 << 20);
		assert_int_equal(in->mbcs.blocks, 14);
		assert_int_equal(in->mbcs.blocks_size, 1400);
		assert_int_equal(in->mbcs.blocks_of[W_BINARY], 4);
		assert_int_equal(in->mbcs.blocks_max, 20);
		assert_int_equal(in->mbcs.blocks_max_ever, 30);
		assert_int_equal(in->mbcs.carriers_max, 7);
		assert_int_equal(in->mbcs.carriers_max_ever, 7); /* as it will be printed */
		assert_int_equal(in->sbcs.carriers, 0);
		assert_int_equal(in->pool.carriers, 1);
		assert_int_equal(in->pool.blocks, 5);
		assert_int_equal(in->pool.blocks_size_of[W_ETS], 555);
		assert_int_equal(a->pool_blocks[W_ETS], 5);
		assert_int_equal(a->pool_blocks_size[W_ETS], 555);
		assert_int_equal(in->calls_alloc, 123);
		assert_int_equal(in->abandon_util, 60);
		assert_int_equal(in->sbc_threshold, 524288);
		in = &a->inst[a->types[W_BINARY].first];
		assert_int_equal(in->addr, b);
		assert_false(in->thread_specific);
		assert_true(in->atags);
		allocators_free(a);
		world_free(w);
	}
}

/* Figures that contradict themselves: kept, and called torn. */
static void test_torn(void **state)
{
	struct world *w = world_new(layout_find(25, NULL));
	const struct layout *l = w->l;
	uint64_t e = world_allocator(w, W_EHEAP, 2);
	struct allocators *a;

	put(w, e, l->Allctr_t__mbcs,
	    (uint64_t)l->CarriersStats_t__blocks.offset + (W_EHEAP - 1) * l->size_BlockStats_t,
	    l->BlockStats_t__curr_size, 4096);
	a = read_all(w);
	assert_int_equal(a->n_inst, 2);
	assert_true(a->inst[0].torn); /* blocks without a carrier */
	assert_false(a->inst[1].torn);
	allocators_free(a);
	world_free(w);
}

/* What cannot be what it says it is. */
static void test_lies(void **state)
{
	struct world *w = world_new(layout_find(25, NULL));
	const struct layout *l = w->l;
	uint64_t e = world_allocator(w, W_EHEAP, 3), spec, list;
	struct allocators *a;

	world_allocator(w, W_ETS, 2);
	spec = w->spec + W_EHEAP * l->size_ErtsAllocatorThrSpec_t;
	list = world_get(w, spec + (uint64_t)l->ErtsAllocatorThrSpec_t__allctr.offset);

	/* an instance of another allocator, a wild and a null pointer */
	world_set(w, e, l->Allctr_t__alloc_no, W_ETS);
	world_put(w, list + 8, 0x123);
	world_put(w, list + 16, 0);
	a = read_all(w);
	assert_int_equal(a->types[W_EHEAP].n, 0);
	assert_int_equal(a->types[W_ETS].n, 2);
	assert_int_equal(a->unreadable, 2);
	allocators_free(a);

	/* absurd counts and arrays */
	world_set(w, spec, l->ErtsAllocatorThrSpec_t__size, 0x7fffffff);
	a = read_all(w);
	assert_int_equal(a->types[W_EHEAP].n, 0);
	assert_int_equal(a->types[W_ETS].n, 2);
	allocators_free(a);
	world_set(w, spec, l->ErtsAllocatorThrSpec_t__size, 3);
	world_set(w, spec, l->ErtsAllocatorThrSpec_t__allctr, WORLD_HEAP - 4096);
	a = read_all(w);
	assert_int_equal(a->types[W_ETS].n, 2);
	assert_true(a->unreadable > 0);
	allocators_free(a);
	world_free(w);
}

static void test_without(void **state)
{
	struct world *w = world_new(layout_find(25, NULL));
	struct error err = { 0 };
	struct allocators *a;

	/* +Mea min: hardly anything is an alloc_util allocator */
	world_allocator(w, W_TEMP, 2);
	a = read_all(w);
	assert_int_equal(a->n_inst, 2);
	assert_true(a->types[W_TEMP].alloc_util);
	assert_false(a->types[W_EHEAP].alloc_util);
	allocators_free(a);

	world_vm(w);
	w->vm.anchors.v[A_ALLCTRS_INFO].addr = 0;
	assert_int_equal(allocators_read(&w->vm, &a, &err), -ENOENT);
	assert_int_equal(err.code, EXIT_UNSUPPORTED);
	assert_null(a);
	/* an array in memory that is not there */
	memset(&err, 0, sizeof(err));
	w->vm.anchors.v[A_ALLCTRS_INFO].addr = 0x1000;
	assert_int_equal(allocators_read(&w->vm, &a, &err), 0);
	assert_int_equal(a->n_inst, 0);
	assert_true(a->unreadable > 0);
	allocators_free(a);
	allocators_free(NULL);
	world_free(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_figures),
		cmocka_unit_test(test_torn),
		cmocka_unit_test(test_lies),
		cmocka_unit_test(test_without),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
