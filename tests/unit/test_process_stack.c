/* SPDX-License-Identifier: Apache-2.0 */
/* Stacks of waiting processes, made here word by word, right and damaged. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "erts/process_stack.h"

#define BASE  0x7f0000000000ull
#define BYTES (8u << 20)
#define HEND  (BASE + BYTES)
#define CODE  0x500000000000ull
#define EXIT  (CODE + 0x10)
#define TERM  0x7f0000001001ull /* a list: its lowest bits are no return address's */

struct world {
	unsigned char *mem;
	struct target_buffer buffer;
	struct target *target;
	struct vm vm;
	struct code_range range;
	struct process_stack_code code;
	struct process_info info;
	struct process_stack s;
};

static void put(struct world *w, uint64_t addr, uint64_t word)
{
	memcpy(w->mem + (addr - BASE), &word, 8);
}

static void put_field(struct world *w, struct layout_field f, uint64_t v)
{
	memcpy(w->mem + f.offset, &v, 8);
}

/* A Process at BASE, a stack that ends at HEND with normal_exit; `words` below it. */
static struct world *world(const uint64_t *words, size_t n)
{
	struct world *w = calloc(1, sizeof(*w));
	const struct layout *l = layout_find(27, NULL);
	size_t i;

	assert_non_null(w);
	w->mem = calloc(1, BYTES);
	assert_non_null(w->mem);
	w->buffer = (struct target_buffer){ BASE, w->mem, BYTES };
	assert_int_equal(target_open_buffers(&w->buffer, 1, &w->target), 0);
	w->vm.target = w->target;
	w->vm.layout = l;
	w->vm.exe_fd = -1;
	w->range = (struct code_range){ CODE, CODE + 0x10000 };
	w->code = (struct process_stack_code){ &w->range, 1, EXIT };
	put(w, HEND - 8, EXIT);
	for (i = 0; i < n; i++)
		put(w, HEND - 8 - (n - i) * 8, words[i]);
	w->info.p.addr = BASE;
	w->info.p.hend = HEND;
	w->info.p.stop = HEND - 8 - n * 8;
	w->info.instruction = CODE + 0x1000;
	w->info.status = "waiting";
	put_field(w, l->Process__stop, w->info.p.stop);
	put_field(w, l->Process__hend, w->info.p.hend);
	put_field(w, l->Process__i, w->info.instruction);
	return w;
}

static int look(struct world *w)
{
	return process_stack_read(&w->vm, &w->code, &w->info, &w->s);
}

static void end(struct world *w)
{
	target_close(w->target);
	free(w->mem);
	free(w);
}

static void frames_are_told_from_terms(void **state)
{
	/* what looks like an address but is outside of code is none: a saved frame pointer */
	const uint64_t words[] = { TERM,	 CODE + 0x200, TERM,	     0xf,
				   BASE + 0x100, CODE + 0x300, CODE + 0x301, 0 };
	struct world *w = world(words, sizeof(words) / sizeof(words[0]));

	(void)state;
	assert_int_equal(look(w), 0);
	assert_true(w->s.complete);
	assert_int_equal(w->s.n, 3);
	assert_int_equal(w->s.v[0].address, CODE + 0x1000);
	assert_int_equal(w->s.v[1].address, CODE + 0x200);
	assert_int_equal(w->s.v[2].address, CODE + 0x300);
	assert_int_equal(w->s.skipped, 0);
	end(w);
}

static void recursion_is_one_frame(void **state)
{
	uint64_t *words = calloc(60000, 8), shallow;
	struct world *w;
	size_t i;

	(void)state;
	assert_non_null(words);
	for (i = 0; i < 60000; i++)
		words[i] = i % 2 ? CODE + 0x400 : TERM;
	w = world(words, 60000);
	assert_int_equal(look(w), 0);
	assert_int_equal(w->s.n, 2);
	assert_int_equal(w->s.v[1].times, 30000);
	assert_true(w->s.complete);
	shallow = w->s.hash;
	end(w);
	/* another depth is the same place */
	w = world(words, 20);
	assert_int_equal(look(w), 0);
	assert_int_equal(w->s.v[1].times, 10);
	assert_true(w->s.hash == shallow);
	end(w);
	free(words);
}

/* Two functions that call each other: both ends, and what lies between is counted. */
static void very_deep_ones_have_both_ends(void **state)
{
	enum { N = 90000 };
	uint64_t *words = calloc(N, 8);
	struct world *w;
	size_t i;

	(void)state;
	assert_non_null(words);
	for (i = 0; i < N; i++)
		words[i] = CODE + 0x800 + i % 3 * 0x40;
	words[N - 1] = CODE + 0xf00;
	w = world(words, N);
	assert_int_equal(look(w), 0);
	assert_int_equal(w->s.n, PROCESS_STACK_LEAF + PROCESS_STACK_ROOT);
	assert_int_equal(w->s.n_leaf, PROCESS_STACK_LEAF);
	assert_true(w->s.complete);
	assert_int_equal(w->s.v[1].address, words[0]);
	assert_int_equal(w->s.v[w->s.n - 1].address, CODE + 0xf00);
	assert_int_equal(w->s.v[w->s.n - 2].address, words[N - 2]);
	assert_int_equal(w->s.v[w->s.n_leaf].address, words[N - PROCESS_STACK_ROOT]);
	/* the first frame is no word of the stack */
	assert_int_equal(w->s.skipped, N - (PROCESS_STACK_LEAF - 1) - PROCESS_STACK_ROOT);
	end(w);
	free(words);
}

static void lies_are_refused(void **state)
{
	const uint64_t words[] = { CODE + 0x200 };
	struct world *w = world(words, 1);
	const struct layout *l = w->vm.layout;

	(void)state;
	w->info.status = "running";
	assert_int_equal(look(w), -EBUSY);
	w->info.dirty = true; /* native code on a dirty scheduler: the stack is at rest */
	assert_int_equal(look(w), 0);
	w->info.status = "garbage_collecting";
	assert_int_equal(look(w), -EBUSY);
	w->info.status = "waiting";
	/* it ran on since it was copied */
	put_field(w, l->Process__i, CODE + 0x2000);
	assert_int_equal(look(w), -EAGAIN);
	put_field(w, l->Process__i, w->info.instruction);
	assert_int_equal(look(w), 0);

	w->info.p.stop = HEND + 8;
	assert_int_equal(look(w), -EAGAIN);
	w->info.p.stop = HEND - 12;
	assert_int_equal(look(w), -EAGAIN);
	/* nothing is there: an error, not a loop over all of memory */
	w->info.p.stop = 0x1000;
	assert_true(look(w) < 0);
	w->info.p.stop = HEND - 16;
	w->info.p.hend = UINT64_MAX & ~7ull;
	assert_true(look(w) < 0);

	/* without normal_exit at its end it is not complete */
	w->info.p.hend = HEND;
	put(w, HEND - 8, TERM);
	assert_int_equal(look(w), 0);
	assert_false(w->s.complete);
	w->code.normal_exit = 0;
	assert_int_equal(look(w), 0);
	assert_false(w->s.complete);
	end(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(frames_are_told_from_terms),
		cmocka_unit_test(recursion_is_one_frame),
		cmocka_unit_test(very_deep_ones_have_both_ends),
		cmocka_unit_test(lies_are_refused),
	};

	return cmocka_run_group_tests_name("process_stack", tests, NULL, NULL);
}
