/* SPDX-License-Identifier: Apache-2.0 */
/* Extents of an image's functions out of .eh_frame: with symbols or without. */
#ifndef BEAMRAY_TARGET_ELF_FUNCTIONS_H
#define BEAMRAY_TARGET_ELF_FUNCTIONS_H

#include "target/elf.h"

struct image_function {
	uint64_t start; /* run-time address */
	uint64_t size;	/* bytes */
};

struct image_functions {
	struct image_function *v; /* by address, disjoint */
	size_t n;
};

/* 0; -ENOENT when the image has no such tables or of a form that is not known;
 * -ENOMEM. What a compiler splits off a function (its .cold part) has an extent
 * of its own. */
int image_functions_read(struct image *i, struct image_functions **out);
void image_functions_free(struct image_functions *f);
/* The function whose extent holds `addr`, or NULL (never the nearest one). */
const struct image_function *image_function_at(const struct image_functions *f, uint64_t addr);

#endif
