/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where in a function a probe is cheap and still sees what it is there for.
 * (sites.c opens with the page that explains it.)
 */
#ifndef BEAMRAY_TRACE_SITES_H
#define BEAMRAY_TRACE_SITES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "target/elf.h"

/* What must be as it was when the function was called. Bits. */
enum site_need {
	SITE_ARG0 = 1, /* rdi */
	SITE_ARG1 = 2, /* rsi */
	SITE_ARG2 = 4, /* rdx */
	SITE_ARG3 = 8, /* rcx */
	/* rsp is where the return address is: for return and session probes */
	SITE_RETURN = 16,
};

struct site {
	uint64_t addr;	 /* run-time address of the instruction */
	uint64_t offset; /* of it in the file */
	uint32_t skip;	 /* bytes from the function's first instruction to it */
	uint32_t depth;	 /* bytes from rsp up to the return address, SITE_DEPTH_UNKNOWN */
};
#define SITE_DEPTH_UNKNOWN UINT32_MAX

#define SITE_WHY_MAX 160

/* Looks for the first instruction of a function that the kernel emulates and where
 * `need` still holds. `code` is the function from its first byte on, `len` bytes, at
 * address `addr` (only for naming jump targets). Returns its distance from the
 * beginning and in *depth what struct site has, or -1 with the reason in `why`
 * (SITE_WHY_MAX bytes): words that continue "the function cannot be probed: ". */
int site_choose(const uint8_t *code, size_t len, uint64_t addr, unsigned need, uint32_t *depth,
		char *why);

/* The same for the function of `i` that begins at run-time address `addr` and has
 * `size` bytes (0: the symbol's size, else what .eh_frame says). 0, -ENOENT with the
 * reason (no extent, no file, no such instruction), -ENOMEM. `name` is for the
 * sentence, raw. */
int site_find(struct image *i, uint64_t addr, uint64_t size, const char *name, unsigned need,
	      struct site *out, struct error *err);
/* The first instruction itself, whatever it is: where nothing else will do, and a probe that the
 * kernel has to single-step is better than none. */
int site_first(struct image *i, uint64_t addr, const char *name, struct site *out,
	       struct error *err);
/* By the name of a symbol of `i`: also -ENOENT when there is no such function. */
int site_find_symbol(struct image *i, const char *name, unsigned need, struct site *out,
		     struct error *err);

#endif
