/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Functions by their .eh_frame extents, against the symbols of this very program; and
 * the VM's collector and carrier functions on live nodes. That what was found is
 * the collector is for t_gc.py to say, which counts with it.
 */
#include "erts/functions.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "live_node.h"
#include "target/elf_functions.h"

struct look {
	struct target *t;
	struct mappings *maps;
	struct images *images;
	struct error err;
};

static void look(struct look *k, pid_t pid)
{
	memset(k, 0, sizeof(*k));
	assert_int_equal(target_open(pid, &k->t, &k->err), 0);
	assert_int_equal(mappings_read(k->t, &k->maps, &k->err), 0);
	assert_int_equal(images_read(k->t, k->maps, &k->images, &k->err), 0);
}

static void unlook(struct look *k)
{
	images_free(k->images);
	mappings_free(k->maps);
	target_close(k->t);
}

static void test_extents(void **state)
{
	struct look k;
	struct image_functions *f;
	struct image *exe;
	unsigned same = 0;

	look(&k, getpid());
	exe = images_exe(k.images);
	assert_int_equal(image_functions_read(exe, &f), 0);
	for (size_t i = 0; i < f->n; i++) {
		struct image_symbol sym;

		assert_ptr_equal(image_function_at(f, f->v[i].start), &f->v[i]);
		assert_ptr_equal(image_function_at(f, f->v[i].start + f->v[i].size - 1), &f->v[i]);
		assert_ptr_not_equal(image_function_at(f, f->v[i].start + f->v[i].size), &f->v[i]);
		if (!image_symbol_at(exe, f->v[i].start, &sym) || sym.addr != f->v[i].start ||
		    !sym.size)
			continue;
		assert_int_equal(sym.size, f->v[i].size);
		same++;
	}
	assert_true(same > 200);
	assert_null(image_function_at(f, 0));
	assert_null(image_function_at(f, UINT64_MAX));
	image_functions_free(f);
	unlook(&k);
}

/* A program that is no BEAM: refused with a sentence. */
static void test_refused(void **state)
{
	struct vm_gc gc;
	struct look k;
	struct vm vm = { 0 };

	look(&k, getpid());
	vm.target = k.t;
	vm.layout = layout_find(27, "jit");
	vm.exe_fd = -1;
	assert_int_equal(vm_gc_find(&vm, NULL, &gc, NULL), -ENOENT);
	vm.exe = images_exe(k.images);
	assert_int_equal(vm_gc_find(&vm, NULL, &gc, &k.err), -ENOENT);
	assert_non_null(strstr(k.err.text, "gc_minor_start"));
	assert_int_equal(k.err.code, EXIT_UNSUPPORTED);
	unlook(&k);
}

static void test_live(void **state)
{
	for (const char *const *r = live_releases(); *r; r++) {
		struct vm_carrier_functions carriers;
		bool have[CARRIER_CALLS] = { false };
		struct image_symbol sym;
		struct allocators *a;
		struct live_node node;
		struct code *code = NULL;
		struct vm *vm;
		struct vm_gc gc;
		struct look k;
		uint64_t words[2], n;

		if (!live_start(&node, *r, NULL)) {
			print_message("no node of OTP %s\n", *r);
			continue;
		}
		look(&k, node.pid);
		assert_int_equal(vm_open(k.t, k.maps, k.images, &vm, &k.err), 0);
		assert_int_equal(code_open(vm, &code, &k.err), 0);
		assert_int_equal(vm_gc_find(vm, code, &gc, &k.err), 0);
		assert_true(image_holds(vm->exe, gc.addr) && gc.size > 1000);
		/* static, so it has no name of its own in a stripped executable */
		assert_false(image_symbol_at(vm->exe, gc.addr, &sym) &&
			     strcmp(sym.name, "garbage_collect") != 0);
		/* collections of dirty schedulers: none yet, or some that gave something back */
		assert_int_not_equal(gc.dirty_info, 0);
		assert_int_equal(target_read(vm->target, gc.dirty_info, words, 16), 0);
		n = words[1];
		live_number(&node,
			    "X = lists:seq(1, 3000000), erlang:garbage_collect(), length(X)");
		assert_int_equal(target_read(vm->target, gc.dirty_info, words, 16), 0);
		assert_true(words[1] > n && words[1] < n + 1000);

		assert_int_equal(allocators_read(vm, &a, &k.err), 0);
		assert_int_equal(vm_carrier_functions_find(vm, a, &carriers, &k.err), 0);
		assert_int_equal(carriers.refused, 0);
		for (size_t i = 0; i < carriers.n; i++)
			if (carriers.v[i].by_number &&
			    image_symbol_at(vm->exe, carriers.v[i].addr, &sym))
				assert_non_null(strstr(sym.name, "erts_mseg_"));
		for (size_t i = 0; i < carriers.n; i++)
			have[carriers.v[i].call] = true;
		for (unsigned c = 0; c < CARRIER_CALLS; c++)
			assert_true(have[c]);
		/* instances that lie: nothing is believed */
		for (size_t i = 0; i < a->n_inst; i++)
			for (size_t b = 0; b + 8 <= vm->layout->size_Allctr_t; b += 8) {
				uint64_t *word = (uint64_t *)((char *)a->inst[i].copy + b);

				*word = *word ? *word + 1 : 0;
			}
		assert_int_equal(vm_carrier_functions_find(vm, a, &carriers, &k.err), -ENOENT);
		assert_int_equal(carriers.n, 0);
		assert_true(carriers.refused > 0 && carriers.why[0]);
		allocators_free(a);
		code_close(code);
		vm_close(vm);
		unlook(&k);
		live_stop(&node);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_extents),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_live),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
