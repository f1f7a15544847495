/* SPDX-License-Identifier: Apache-2.0 */
/* Gates: which rules are taken, what they measure, when they close. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "cmd/gate.h"

static void rules_are_parsed_strictly(void **state)
{
	static const char *const good[] = { "native=64K", "rss=1G,vm=8M", "vm.used.ets_alloc=0",
					    "native.heap.used=4096", "image.a_nif.so=1MiB" };
	static const char *const bad[] = {
		"",	      "native",	   "native=",	  "=1M",       "natve=1M", "a b=1",
		"native=1M ", "native=-1", "native=1e99", "vm=1M,x=1", "vm=1Mx"
	};
	struct gates g;
	size_t i;

	for (i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		struct error err = { 0 };

		memset(&g, 0, sizeof(g));
		assert_int_equal(option_gate(&g, good[i], &err), 0);
		assert_int_equal(g.n, i == 1 ? 2 : 1);
	}
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct error err = { 0 };

		memset(&g, 0, sizeof(g));
		assert_int_equal(option_gate(&g, bad[i], &err), -EINVAL);
		assert_true(err.text[0] != 0);
	}
	/* no more than there is room for */
	memset(&g, 0, sizeof(g));
	for (i = 0; i < GATES_MAX; i++)
		assert_int_equal(option_gate(&g, "rss=1M", NULL), 0);
	assert_int_equal(option_gate(&g, "rss=1M", NULL), -EINVAL);
}

static void a_gate_closes_above_its_size(void **state)
{
	struct ledger_row before[] = { { .account = "native.heap.used", .bytes = 1000 },
				       { .account = "vm.used.ets_alloc", .bytes = 5000 },
				       { .account = "vm.used.ets_allocator", .bytes = 1 } };
	struct ledger_row after[] = { { .account = "native.heap.used", .bytes = 3000 },
				      { .account = "vm.used.ets_alloc", .bytes = 4000 },
				      { .account = "vm.used.ets_allocator", .bytes = 900 } };
	struct ledger a = { .rss = 6001, .rows = before, .n = 3 };
	struct ledger b = { .rss = 7900, .rows = after, .n = 3 };
	struct verdict_input in = { .before.ledger = &a, .after.ledger = &b };
	struct finding found = { .code = FINDING_NIF_LEAK,
				 .mechanism = "enif_alloc",
				 .grew_bytes = 500 };
	struct verdict v = { &found, 1 };
	struct gates g = { .n = 0 };

	/* blocks of a NIF in the VM's allocators are native too; malloc is in the ledger */
	assert_int_equal(option_gate(&g, "native=2499,rss=1899,vm.used.ets_alloc=0", NULL), 0);
	assert_int_equal(gates_judge(&g, &in, &v), 1);
	assert_int_equal(g.v[0].grew, 2500);
	assert_true(g.v[0].closed);
	assert_int_equal(g.v[1].grew, 1899);
	assert_false(g.v[1].closed);
	/* what shrank is no growth, and a name is no prefix of another's */
	assert_int_equal(g.v[2].grew, -1000);
	assert_false(g.v[2].closed);
	strcpy(found.mechanism, "libc");
	assert_int_equal(gates_judge(&g, &in, &v), 0);
	assert_int_equal(g.v[0].grew, 2000);

	/* without a first ledger nothing is measured, so nothing closes */
	in.before.ledger = NULL;
	memset(&g, 0, sizeof(g));
	assert_int_equal(option_gate(&g, "native=0,rss=0", NULL), 0);
	assert_int_equal(gates_judge(&g, &in, &v), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(rules_are_parsed_strictly),
		cmocka_unit_test(a_gate_closes_above_its_size),
	};

	return cmocka_run_group_tests_name("gate", tests, NULL, NULL);
}
