/* SPDX-License-Identifier: Apache-2.0 */
/* One frame of a stack as a person reads it. */
#ifndef BEAMRAY_REPORT_FRAME_TEXT_H
#define BEAMRAY_REPORT_FRAME_TEXT_H

#include "profile/symbolize.h"

/* "lists:map/2", "malloc [libc.so.6]", "libfoo.so+0x1234", "vfs_read_[k]"; `s` NULL:
 * the address. Returns `buf`. */
char *symbol_text(char *buf, size_t size, const struct symbol *s, uint64_t addr);
/* The same for frame i of a stack, or a marker in parentheses. */
char *frame_text(char *buf, size_t size, const struct symbols *symbols,
		 const struct profile_stack *stack, size_t i);

#endif
