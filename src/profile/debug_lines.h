/* SPDX-License-Identifier: Apache-2.0 */
/* What debug information says beyond symbols: lines and inlined functions. */
#ifndef BEAMRAY_PROFILE_DEBUG_LINES_H
#define BEAMRAY_PROFILE_DEBUG_LINES_H

#include "profile/profile.h"
#include "target/elf.h"

struct debug_lines; /* the debug information of one image */

/* NULL when there is none or it cannot be read. */
struct debug_lines *debug_lines_open(struct target *t, const struct image *i);
void debug_lines_close(struct debug_lines *d);

/* Adds file and line of `vaddr` (an address in the file) to `s`, which has its
 * name already, and replaces it by the innermost inlined function, if there are
 * some, with the others behind `outer`. -ENOMEM; 0 also when nothing is known. */
int debug_lines_add(struct debug_lines *d, uint64_t vaddr, struct symbol *s);

#endif
