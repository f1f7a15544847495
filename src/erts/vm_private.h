/* SPDX-License-Identifier: Apache-2.0 */
/* Private to vm*.c and their tests. */
#ifndef BEAMRAY_ERTS_VM_PRIVATE_H
#define BEAMRAY_ERTS_VM_PRIVATE_H

#include "erts/anchors_find.h"
#include "erts/vm.h"

/* What a build says of itself in the string that `erl` prints when it starts:
 *	Erlang/OTP 27%s [erts-15.2.7] [source] [64-bit] ... [jit:ns%s]
 * It is in every build, with symbols or without (erl_bif_info.c). */
struct vm_banner {
	char release[16];
	char erts[24];
	bool jit;
	/* The first tag that makes layouts differ, without brackets, or "". */
	char refused[32];
};

/* -ENOENT when there is no such string in the image. */
int vm_banner_read(const struct image_copy *c, struct vm_banner *out);

/* Appends a line for `check`. `fmt` is the result in words. Returns ok. */
bool vm_check_add(struct vm *vm, bool ok, const char *what, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

/* Every check of ERTS.md 1.3 that can be made; the results are appended to
 * vm->checks. Returns the number that failed, 0 if the layout holds. */
unsigned vm_verify(struct vm *vm, const struct anchor_search *s);

#endif
