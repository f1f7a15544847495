/* SPDX-License-Identifier: Apache-2.0 */
/* What kind of term a word is (erl_term.h; equal from 23 to 29). */
#ifndef BEAMRAY_ERTS_TERM_H
#define BEAMRAY_ERTS_TERM_H

#include <stdbool.h>
#include <stdint.h>

static inline bool term_is_pid(uint64_t term)
{
	return (term & 0xf) == 0x3; /* _TAG_IMMED1_PID: of this node */
}

static inline bool term_is_port(uint64_t term)
{
	return (term & 0xf) == 0x7; /* _TAG_IMMED1_PORT */
}

static inline bool term_is_atom(uint64_t term)
{
	return (term & 0x3f) == 0x0b; /* _TAG_IMMED2_ATOM */
}

/* The atom of this number. */
static inline uint64_t term_of_atom(uint64_t number)
{
	return number << 6 | 0x0b;
}

#endif
