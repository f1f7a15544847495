/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "code_look.h"

struct code *code_of(struct vm *vm)
{
	struct error err = { 0 };
	struct code *c;

	assert_int_equal(code_open(vm, &c, &err), 0);
	return c;
}

struct code_mfa code_is(const struct code *c, uint64_t addr, const char *name)
{
	struct code_mfa mfa = { 0 };

	if (!name) {
		assert_false(code_lookup(c, addr, &mfa));
		return mfa;
	}
	assert_true(code_lookup(c, addr, &mfa));
	assert_string_equal(mfa.name, name);
	assert_true(mfa.start <= addr && addr < mfa.end);
	return mfa;
}
