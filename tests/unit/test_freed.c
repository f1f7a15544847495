/* SPDX-License-Identifier: Apache-2.0 */
/* Lists of freed blocks that are in use for their allocator: of a made-up VM, then
 * lists that never end or lead nowhere. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "erts/freed.h"
#include "vm_world.h"

#define FIRST_TYPE 40u /* number of the first type that has a list */

struct seen {
	uint64_t v[64];
	unsigned type[64];
	size_t n, stop_at;
};

static int see(void *ctx, uint64_t block, unsigned type)
{
	struct seen *s = ctx;

	if (s->n < 64) {
		s->v[s->n] = block;
		s->type[s->n] = type;
	}
	return ++s->n == s->stop_at ? -ENOMEM : 0;
}

static bool saw(const struct seen *s, uint64_t block, unsigned type)
{
	size_t i;

	for (i = 0; i < s->n && i < 64; i++)
		if (s->v[i] == block && s->type[i] == type)
			return true;
	return false;
}

static int walk(struct world *w, struct seen *s)
{
	struct vm *vm = world_vm(w);
	struct error err = { 0 };
	struct allocators *a = NULL;
	int ret;

	alarm(60);
	assert_int_equal(allocators_read(vm, &a, &err), 0);
	s->n = 0;
	ret = freed_blocks_walk(vm, a, see, s);
	allocators_free(a);
	alarm(0);
	return ret;
}

/* An instance's fix lists, all empty. */
static uint64_t lists_make(struct world *w, uint64_t allctr)
{
	const struct layout *l = w->l;
	uint64_t at = world_image(w, (size_t)l->fix_types * l->size_ErtsAlcFixList_t);
	uint64_t i;

	world_set(w, allctr, l->Allctr_t__fix, at);
	for (i = 0; i < (uint64_t)l->fix_types; i++) {
		uint64_t list = at + i * l->size_ErtsAlcFixList_t;

		world_set(w, list, l->ErtsAlcFixList_t__type, (FIRST_TYPE + i) << 7 | 5);
		world_set(w, list, l->ErtsAlcFixList_t__type_size, 64 + 8 * i);
	}
	return at;
}

/* `n` blocks of a new carrier, each naming the next in its word `word`. */
static uint64_t chain(struct world *w, uint64_t allctr, unsigned n, uint64_t word, uint64_t *v)
{
	struct world_carrier *c = world_carrier(w, allctr, 1 << 18, false);
	unsigned i;

	for (i = 0; i < n; i++)
		v[i] = world_block(w, c, 80, true, W_EHEAP, 0, 0, 0) + 8;
	world_last(w, c, false, W_EHEAP);
	for (i = 0; i < n; i++)
		world_put(w, v[i] + word, i + 1 < n ? v[i + 1] : 0);
	return v[0];
}

static void freed_blocks_are_found(void **state)
{
	size_t k, i;

	(void)state;
	for (k = 0; k < layout_count(); k++) {
		struct world *w = world_new(layout_at(k));
		const struct layout *l = w->l;
		uint64_t e = world_allocator(w, W_EHEAP, 2), second = e + world_stride;
		uint64_t lists = lists_make(w, second), kept[5], waits[4];
		uint64_t marker = second + (uint64_t)l->Allctr_t__dd_q_marker.offset;
		uint64_t next = (uint64_t)l->ErtsAllctrDDBlock_t__u_ptr_next.offset;
		struct fix_list v[FIX_TYPES_MAX];
		struct allocators *a;
		struct error err = { 0 };
		struct seen s = { 0 };

		world_set(w, lists + 2 * l->size_ErtsAlcFixList_t, l->ErtsAlcFixList_t__list,
			  chain(w, second, 5, 0, kept));
		world_set(w, lists + 2 * l->size_ErtsAlcFixList_t, l->ErtsAlcFixList_t__list_size,
			  5);
		/* the queue's own marker stands between the second and the third */
		world_set(w, second, l->Allctr_t__dd_q_head_first,
			  chain(w, second, 4, next, waits));
		world_put(w, waits[1] + next, marker);
		world_put(w, marker + next, waits[2]);

		assert_int_equal(walk(w, &s), 0);
		assert_int_equal(s.n, 9);
		for (i = 0; i < 5; i++)
			assert_true(saw(&s, kept[i], FIRST_TYPE + 2));
		for (i = 0; i < 4; i++)
			assert_true(saw(&s, waits[i], 0));
		s.stop_at = 3;
		assert_int_equal(walk(w, &s), -ENOMEM);
		assert_int_equal(s.n, 3);

		assert_int_equal(allocators_read(world_vm(w), &a, &err), 0);
		assert_int_equal(fix_lists_read(&w->vm, &a->inst[a->types[W_EHEAP].first], v,
						FIX_TYPES_MAX),
				 0);
		assert_int_equal(fix_lists_read(&w->vm, &a->inst[a->types[W_EHEAP].first + 1], v,
						FIX_TYPES_MAX),
				 l->fix_types);
		assert_int_equal(v[2].type, FIRST_TYPE + 2);
		assert_int_equal(v[2].size, 80);
		assert_int_equal(v[2].kept, 5);
		assert_int_equal(v[2].first, kept[0]);
		/* no room for them; and two of one type */
		assert_int_equal(fix_lists_read(&w->vm, &a->inst[a->types[W_EHEAP].first + 1], v,
						3),
				 -ENOENT);
		world_set(w, lists, l->ErtsAlcFixList_t__type, (FIRST_TYPE + 1) << 7);
		assert_int_equal(fix_lists_read(&w->vm, &a->inst[a->types[W_EHEAP].first + 1], v,
						FIX_TYPES_MAX),
				 -EFAULT);
		allocators_free(a);
		world_free(w);
	}
}

static void lists_end(void **state)
{
	struct world *w = world_new(layout_at(0));
	const struct layout *l = w->l;
	uint64_t e = world_allocator(w, W_EHEAP, 1), lists = lists_make(w, e), v[20];
	const uint64_t nowhere[] = { 1, 8, 0xdead, WORLD_HEAP + WORLD_HEAP_BYTES + 64, UINT64_MAX };
	struct seen s = { 0 };
	size_t i;

	(void)state;
	world_set(w, lists, l->ErtsAlcFixList_t__list, chain(w, e, 20, 0, v));
	for (i = 0; i < sizeof(nowhere) / sizeof(nowhere[0]); i++) {
		world_put(w, v[9], nowhere[i]);
		assert_int_equal(walk(w, &s), 0);
		assert_true(s.n >= 10 && s.n <= 11);
	}
	/* back into itself, at once and further on */
	world_put(w, v[9], v[9]);
	assert_int_equal(walk(w, &s), 0);
	world_put(w, v[9], v[2]);
	assert_int_equal(walk(w, &s), 0);
	/* and the queue of the other threads */
	world_set(w, e, l->Allctr_t__dd_q_head_first, v[0]);
	assert_int_equal(walk(w, &s), 0);
	world_set(w, e, l->Allctr_t__dd_q_head_first, 12345);
	assert_int_equal(walk(w, &s), 0);
	world_set(w, e, l->Allctr_t__fix, WORLD_HEAP + WORLD_HEAP_BYTES + 64);
	assert_int_equal(walk(w, &s), 0);
	assert_int_equal(s.n, 0);
	world_free(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(freed_blocks_are_found),
		cmocka_unit_test(lists_end),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
