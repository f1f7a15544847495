/* SPDX-License-Identifier: Apache-2.0 */
/* NIF environments in a made-up VM: what is found, what is not one, what lies. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "erts/nif_env.h"
#include "vm_world.h"

#define OWNER 77

/* A block of driver_alloc that holds an environment; returns the Process in it. */
static uint64_t env_make(struct world *w, struct world_carrier *c)
{
	const struct layout *l = w->l;
	uint64_t bytes = (8 + l->size_ErlNifEnv + l->size_Process + 16 + 7) & ~7ull;
	uint64_t block = world_block(w, c, bytes, true, W_DRIVER, W_TYPE_DRIVER, OWNER, 0);
	uint64_t proc = block + 8 + l->size_ErlNifEnv;

	world_set(w, block + 8, l->ErlNifEnv__proc, proc);
	return proc;
}

static uint64_t fragment(struct world *w, uint64_t words, uint64_t next)
{
	const struct layout *l = w->l;
	uint64_t at = world_image(w, 256);

	world_set(w, at, l->ErlHeapFragment__alloc_size, words);
	world_set(w, at, l->ErlHeapFragment__next, next);
	return at;
}

/* A reference to a refc binary of so many bytes. */
static uint64_t reference(struct world *w, uint64_t bytes, uint64_t next)
{
	const struct layout *l = w->l;
	bool since_27 = l->size_BinRef != 0;
	uint64_t at = world_image(w, 64), binary = world_image(w, 64);

	world_put(w, at, since_27 ? 0x28 : 0x20);
	world_set(w, at, since_27 ? l->BinRef__val : l->ProcBin__val, binary);
	world_set(w, at, since_27 ? l->BinRef__next : l->ProcBin__next, next);
	world_set(w, binary, l->Binary__orig_size, bytes);
	return at;
}

static struct nif_envs *read_all(struct world *w)
{
	struct allocators *a;
	struct nif_envs *e;

	assert_int_equal(allocators_read(world_vm(w), &a, NULL), 0);
	assert_int_equal(nif_envs_read(&w->vm, a, &e, NULL), 0);
	allocators_free(a);
	return e;
}

static void environments_are_summed_by_owner(void **state)
{
	size_t k;

	for (k = 0; k < layout_count(); k++) {
		struct world *w = world_new(layout_at(k));
		const struct layout *l = w->l;
		uint64_t d = world_allocator(w, W_DRIVER, 1), proc;
		struct world_carrier *c = world_carrier(w, d, 1 << 18, false);
		const struct nif_env_sum *s;
		struct nif_envs *e;

		proc = env_make(w, c);
		world_set(w, proc, l->Process__mbuf, fragment(w, 100, fragment(w, 50, 0)));
		world_set(w, proc, l->Process__off_heap_first,
			  reference(w, 5000, reference(w, 300, 0)));
		env_make(w, c); /* an empty one */
		/* of the same size, but its `proc` is elsewhere */
		world_set(w, env_make(w, c) - l->size_ErlNifEnv, l->ErlNifEnv__proc, 0x1234);
		world_block(w, c, 64, true, W_DRIVER, W_TYPE_DRIVER, OWNER, 0);
		world_last(w, c, false, W_DRIVER);
		world_statistics(w, d, W_DRIVER);

		e = read_all(w);
		assert_int_equal(e->n, 1);
		s = nif_envs_find(e, OWNER);
		assert_non_null(s);
		assert_int_equal(s->envs, 2);
		assert_int_equal(s->binaries, 2);
		assert_in_range(s->heap_bytes, 150 * 8, 150 * 8 + 2 * 80);
		assert_in_range(s->binary_bytes, 5300, 5300 + 2 * 80);
		assert_int_equal(nif_env_bytes(s),
				 s->block_bytes + s->heap_bytes + s->binary_bytes);
		assert_null(nif_envs_find(e, OWNER + 1));
		assert_false(e->cut);
		nif_envs_free(e);
		world_free(w);
	}
}

/* Lists that bite their tail, sizes that cannot be, pointers into nowhere. */
static void lies_are_left_out(void **state)
{
	struct world *w = world_new(layout_find(25, NULL));
	const struct layout *l = w->l;
	uint64_t d = world_allocator(w, W_DRIVER, 1), at, proc;
	struct world_carrier *c = world_carrier(w, d, 1 << 18, false);
	struct nif_envs *e;

	at = fragment(w, 10, 0);
	world_set(w, at, l->ErlHeapFragment__next, at);
	world_set(w, env_make(w, c), l->Process__mbuf, at);
	world_set(w, env_make(w, c), l->Process__mbuf, fragment(w, UINT64_MAX / 4, 0));
	world_set(w, env_make(w, c), l->Process__mbuf, 0xdead0000);
	at = reference(w, 10, 0);
	world_set(w, at, l->ProcBin__next, at);
	world_set(w, env_make(w, c), l->Process__off_heap_first, at);
	world_set(w, env_make(w, c), l->Process__off_heap_first, reference(w, UINT64_MAX / 2, 0));
	proc = env_make(w, c);
	world_set(w, proc, l->Process__off_heap_first, reference(w, 1000, 0));
	world_last(w, c, false, W_DRIVER);
	world_statistics(w, d, W_DRIVER);
	e = read_all(w);
	assert_int_equal(e->n, 1);
	/* the one that is sound */
	assert_int_equal(e->v[0].envs, 1);
	assert_false(e->cut);
	assert_in_range(e->v[0].binary_bytes, 1000, 1100);
	nif_envs_free(e);
	world_free(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(environments_are_summed_by_owner),
		cmocka_unit_test(lies_are_left_out),
	};

	return cmocka_run_group_tests_name("nif_env", tests, NULL, NULL);
}
