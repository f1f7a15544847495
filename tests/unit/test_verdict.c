/* SPDX-License-Identifier: Apache-2.0 */
/* The doctor's rules on ledgers and profiles made by hand: who is accused, of how
 * much, and above all who is not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ledger/verdict.h"

#define MB (1ULL << 20)

struct side {
	struct ledger g;
	struct ledger_row rows[16];
	struct look l;
	struct allocators allocators;
	struct carriers carriers;
	struct tag_sum tags[4];
};

struct scene {
	struct observer o;
	struct vm vm;
	struct side a, b;
	struct profile *growth;
	struct symbols *symbols;
	struct verdict_input in;
};

static void row(struct side *s, const char *account, uint64_t bytes)
{
	struct ledger_row *r = &s->rows[s->g.n++];

	memset(r, 0, sizeof(*r));
	snprintf(r->account, sizeof(r->account), "%s", account);
	r->bytes = bytes;
	s->g.rss += bytes;
}

static void side_make(struct side *s)
{
	s->g.rows = s->rows;
	s->g.complete = true;
	s->l.allocators = &s->allocators;
	s->l.carriers = &s->carriers;
	s->carriers.tags = s->tags;
	s->l.os.cgroup_limit = SYSTEM_UNLIMITED;
}

static void scene_make(struct scene *s)
{
	struct target_buffer none = { 0, "", 0 };

	memset(s, 0, sizeof(*s));
	assert_int_equal(target_open_buffers(&none, 1, &s->o.target), 0);
	s->o.vm = &s->vm;
	side_make(&s->a);
	side_make(&s->b);
	s->growth = profile_new("growth", "bytes");
	s->symbols = symbols_new();
	s->in.o = &s->o;
	s->in.before = (struct verdict_side){ &s->a.l, &s->a.g, NULL, UINT64_MAX };
	s->in.after = (struct verdict_side){ &s->b.l, &s->b.g, NULL, UINT64_MAX };
	s->in.seconds = 10;
	s->in.trace.growth = s->growth;
	s->in.trace.symbols = s->symbols;
}

static void scene_free(struct scene *s)
{
	profile_free(s->growth);
	symbols_free(s->symbols);
	target_close(s->o.target);
}

/* A frame at `addr` with this name; every frame is a return address but the
 * first. */
static struct frame name(struct scene *s, uint64_t addr, bool leaf, enum frame_kind kind,
			 const char *function, const char *module)
{
	struct symbol_key key = { .addr = addr, .kind = FRAME_NATIVE, .exact = leaf };
	struct symbol y = { .name = (char *)function, .module = (char *)module, .kind = kind };

	assert_int_equal(symbols_put(s->symbols, &key, &y), 0);
	return (struct frame){ addr, FRAME_NATIVE };
}

static void stack_of(struct scene *s, const struct frame *f, size_t n, int64_t weight)
{
	assert_int_equal(profile_add(s->growth, f, n, 0, 1, "proc", true, weight, weight, 1), 0);
}

static struct verdict *judge(struct scene *s)
{
	struct verdict *v = NULL;

	assert_int_equal(verdict_make(&s->in, NULL, &v), 0);
	assert_true(v->n >= 1);
	return v;
}

static void quiet_nodes_are_healthy(void **state)
{
	struct scene s;
	struct verdict *v;

	(void)state;
	scene_make(&s);
	/* big, but neither growing nor held: size alone is no finding */
	row(&s.a, "vm.used.eheap_alloc", 4000 * MB);
	row(&s.b, "vm.used.eheap_alloc", 4005 * MB);
	row(&s.a, "native.heap.used", 500 * MB);
	row(&s.b, "native.heap.used", 500 * MB + MB / 2);
	row(&s.b, "vm.free.binary_alloc", 15 * MB); /* below the floor */
	row(&s.b, "vm.free.ets_alloc", 600 * MB);   /* below the ratio */
	v = judge(&s);
	assert_int_equal(v->n, 1);
	assert_int_equal(v->v[0].code, FINDING_HEALTHY);
	verdict_free(v);
	scene_free(&s);
}

static void a_nif_behind_a_library_is_the_one(void **state)
{
	struct scene s;
	struct verdict *v;

	(void)state;
	scene_make(&s);
	row(&s.a, "native.heap.used", 10 * MB);
	row(&s.b, "native.heap.used", 30 * MB);
	struct frame f[] = {
		name(&s, 1, true, FRAME_LIBC, "malloc", "libc.so.6"),
		name(&s, 2, false, FRAME_LIBRARY, "deflateInit_", "libz.so.1"),
		name(&s, 3, false, FRAME_NIF, "start", "my_nif.so"),
		name(&s, 4, false, FRAME_ERTS, "call_nif", "beam.smp"),
	};

	stack_of(&s, f, 4, 18 * MB);
	v = judge(&s);
	assert_int_equal(v->n, 1);
	assert_int_equal(v->v[0].code, FINDING_NIF_LEAK);
	assert_string_equal(v->v[0].subject, "my_nif.so");
	assert_string_equal(v->v[0].mechanism, "libc");
	/* the ledgers' figure: what libc handed out again makes no fault */
	assert_int_equal(v->v[0].grew_bytes, 20 * MB);
	assert_int_equal(v->v[0].confidence, CONFIDENCE_HIGH);
	assert_int_equal(v->v[0].n_stacks, 1);
	verdict_free(v);
	scene_free(&s);
}

static void the_vm_itself_is_not_accused_of_native_growth(void **state)
{
	struct scene s;
	struct verdict *v;

	(void)state;
	scene_make(&s);
	/* the heap grew, but the stacks are the VM's own: nobody is named */
	row(&s.a, "native.heap.used", 10 * MB);
	row(&s.b, "native.heap.used", 20 * MB);
	struct frame f[] = {
		name(&s, 1, true, FRAME_LIBC, "malloc", "libc.so.6"),
		name(&s, 2, false, FRAME_ERTS, "erts_sys_alloc", "beam.smp"),
		name(&s, 3, false, FRAME_NIF, "innocent", "other_nif.so"),
	};

	stack_of(&s, f, 3, 10 * MB);
	v = judge(&s);
	assert_int_equal(v->n, 1);
	assert_int_equal(v->v[0].code, FINDING_NATIVE_GROWTH);
	assert_string_equal(v->v[0].subject, "unknown");
	assert_int_equal(v->v[0].confidence, CONFIDENCE_LOW);
	verdict_free(v);
	scene_free(&s);
}

static void memory_given_back_is_acquitted(void **state)
{
	struct scene s;
	struct verdict *v;

	(void)state;
	scene_make(&s);
	/* stacks saw faults, but at the end the ledger has not grown */
	row(&s.a, "native.heap.used", 100 * MB);
	row(&s.b, "native.heap.used", 100 * MB);
	struct frame f[] = {
		name(&s, 1, true, FRAME_LIBC, "malloc", "libc.so.6"),
		name(&s, 2, false, FRAME_NIF, "churn", "cache_nif.so"),
	};

	stack_of(&s, f, 2, 50 * MB);
	v = judge(&s);
	assert_int_equal(v->v[0].code, FINDING_HEALTHY);
	verdict_free(v);
	scene_free(&s);
}

static void touched_mappings_are_mmap(void **state)
{
	struct scene s;
	struct verdict *v;

	(void)state;
	scene_make(&s);
	/* two libraries at once; the page fault comes after mmap has returned */
	row(&s.a, "native.mmap", 1 * MB);
	row(&s.b, "native.mmap", 41 * MB);
	row(&s.a, "native.heap.used", 1 * MB);
	row(&s.b, "native.heap.used", 9 * MB);
	struct frame f[] = { name(&s, 1, true, FRAME_NIF, "map_it", "a_nif.so") };
	struct frame g[] = {
		name(&s, 2, true, FRAME_LIBC, "_int_malloc", "libc.so.6"),
		name(&s, 3, false, FRAME_LIBRARY, "grow", "libother.so"),
	};

	stack_of(&s, f, 1, 40 * MB);
	stack_of(&s, g, 2, 8 * MB);
	v = judge(&s);
	assert_int_equal(v->n, 2);
	assert_string_equal(v->v[0].subject, "a_nif.so");
	assert_string_equal(v->v[0].mechanism, "mmap");
	assert_int_equal(v->v[0].grew_bytes, 40 * MB);
	assert_int_equal(v->v[1].code, FINDING_NATIVE_GROWTH);
	assert_string_equal(v->v[1].subject, "libother.so");
	assert_string_equal(v->v[1].mechanism, "libc");
	verdict_free(v);
	scene_free(&s);
}

static void what_is_held_needs_floor_and_ratio(void **state)
{
	struct scene s;
	struct verdict *v;

	(void)state;
	scene_make(&s);
	s.in.before = (struct verdict_side){ 0 }; /* a still image may say this */
	row(&s.b, "vm.used.eheap_alloc", 100 * MB);
	row(&s.b, "vm.free.binary_alloc", 90 * MB);
	row(&s.b, "native.heap.free", 60 * MB);
	row(&s.b, "vm.cache", 10 * MB);
	row(&s.b, "native.heap.used", 30 * MB);
	v = judge(&s);
	assert_int_equal(v->n, 2);
	assert_int_equal(v->v[0].code, FINDING_VM_FRAGMENTATION);
	assert_string_equal(v->v[0].subject, "binary_alloc");
	assert_int_equal(v->v[0].bytes, 90 * MB);
	assert_int_equal(v->v[0].grew_bytes, 0);
	assert_int_equal(v->v[1].code, FINDING_LIBC_FRAGMENTATION);
	verdict_free(v);

	/* what the kernel can take back by itself is not held */
	s.b.rows[1].lazyfree = 80 * MB;
	v = judge(&s);
	assert_int_equal(v->v[0].code, FINDING_LIBC_FRAGMENTATION);
	verdict_free(v);
	scene_free(&s);
}

static void data_growth_and_a_tight_cgroup(void **state)
{
	struct scene s;
	struct verdict *v;

	(void)state;
	scene_make(&s);
	row(&s.a, "vm.used.ets_alloc", 100 * MB);
	row(&s.b, "vm.used.ets_alloc", 140 * MB);
	v = judge(&s);
	assert_int_equal(v->v[0].code, FINDING_VM_DATA);
	assert_string_equal(v->v[0].subject, "ets");
	assert_int_equal(v->v[0].grew_bytes, 40 * MB);
	verdict_free(v);

	s.a.rows[0].bytes = 140 * MB; /* does not grow, but the limit is near */
	s.b.l.os.cgroup_limit = 150 * MB;
	v = judge(&s);
	assert_int_equal(v->v[0].code, FINDING_VM_DATA);
	assert_int_equal(v->v[0].grew_bytes, 0);
	assert_int_equal(v->v[0].confidence, CONFIDENCE_MEDIUM);
	verdict_free(v);
	scene_free(&s);
}

static void missing_pieces_are_inconclusive(void **state)
{
	struct scene s;
	struct verdict *v;

	(void)state;
	scene_make(&s);
	row(&s.b, "unattributed", 50 * MB);
	s.b.g.complete = false;
	v = judge(&s);
	assert_int_equal(v->v[0].code, FINDING_INCONCLUSIVE);
	verdict_free(v);

	/* the target ended: what was seen is shown, nothing is claimed */
	s.b.g.complete = true;
	s.in.before = (struct verdict_side){ 0 };
	s.in.ended = "process 1 has exited";
	struct frame f[] = { name(&s, 1, true, FRAME_NIF, "grow", "a_nif.so") };

	stack_of(&s, f, 1, 40 * MB);
	v = judge(&s);
	assert_int_equal(v->v[0].code, FINDING_INCONCLUSIVE);
	assert_int_equal(v->v[0].n_stacks, 1);
	verdict_free(v);
	scene_free(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(quiet_nodes_are_healthy),
		cmocka_unit_test(a_nif_behind_a_library_is_the_one),
		cmocka_unit_test(the_vm_itself_is_not_accused_of_native_growth),
		cmocka_unit_test(memory_given_back_is_acquitted),
		cmocka_unit_test(touched_mappings_are_mmap),
		cmocka_unit_test(what_is_held_needs_floor_and_ratio),
		cmocka_unit_test(data_growth_and_a_tight_cgroup),
		cmocka_unit_test(missing_pieces_are_inconclusive),
	};

	return cmocka_run_group_tests_name("verdict", tests, NULL, NULL);
}
