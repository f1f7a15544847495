/* SPDX-License-Identifier: Apache-2.0 */
/* What the tests of code lookups ask. */
#ifndef BEAMRAY_TESTS_CODE_LOOK_H
#define BEAMRAY_TESTS_CODE_LOOK_H

#include "erts/code.h"

struct code *code_of(struct vm *vm);
/* That `addr` is in the function `name` ("m:f/1"), or, NULL, in none. */
struct code_mfa code_is(const struct code *c, uint64_t addr, const char *name);

#endif
