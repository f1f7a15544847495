/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Unwind tables: .eh_frame compiled into what the kernel side can search.
 * (unwind.c opens with the page on what .eh_frame says.)
 */
#ifndef BEAMRAY_TRACE_UNWIND_H
#define BEAMRAY_TRACE_UNWIND_H

#include <libelf.h>

#include "events.h"
#include "target/elf.h"

#define UNWIND_ROWS_MAX (1u << 24)

/* The rows of all modules, one behind the other, and the rules that they share.
 * Rule 0 means "no rule". Only ever grows, so that what has been copied into
 * the kernel stays valid. */
struct unwind {
	struct unwind_row *rows;
	size_t n_rows, a_rows;
	struct unwind_rule *rules;
	size_t n_rules, a_rules;
	uint32_t *rule_index; /* hash of rules, open addressing, 0: empty */
	size_t a_rule_index;  /* power of two */

	struct unwind_file *files; /* what has been compiled */
	size_t n_files, a_files;

	struct unwind_module *modules; /* by address: executable segments of the images */
	size_t n_modules;
	size_t without; /* of them without a table */
};

/* Rows of one ELF file. Addresses in it are the file's own. */
struct unwind_file {
	char build_id[64]; /* hex; "" if it has none: then it is known by the address alone */
	uint64_t base;	   /* run-time bias when it was first seen */
	char *path;
	uint32_t row_first, row_count;
};

int unwind_new(struct unwind **out);
void unwind_free(struct unwind *u);

/* Compiles the .eh_frame of one ELF file and appends its rows. 0; -ENOENT when
 * it has none; -EINVAL when it cannot be understood; -ENOMEM; -E2BIG. */
int unwind_compile(struct unwind *u, Elf *elf, uint32_t *row_first, uint32_t *row_count);

/* Makes modules[] of the images that are mapped now; files seen before are not
 * compiled again. Returns the number of files compiled, or -ENOMEM. A file that
 * cannot be read or has no .eh_frame is a module without rows (`without`). */
int unwind_update(struct unwind *u, struct target *t, const struct images *images);

/* The rule that holds at `pc` (the file's own addresses) among the rows of one
 * file; rule 0 if none. For tests; the kernel side has its own search. */
const struct unwind_rule *unwind_rule_at(const struct unwind *u, uint32_t first, uint32_t count,
					 uint64_t pc);

#endif
