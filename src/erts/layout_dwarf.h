/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading a layout from debug information.
 *
 * Debug information of the very binary at hand is better than a table: it is right for patched
 * and self-built VMs too. The generator of the tables uses the same reader.
 */
#ifndef BEAMRAY_ERTS_LAYOUT_DWARF_H
#define BEAMRAY_ERTS_LAYOUT_DWARF_H

#include <elfutils/libdw.h>

#include "erts/layout.h"

enum layout_problem {
	LAYOUT_PROBLEM_TYPE_MISSING,  /* no such type; if base has it, base's values were taken */
	LAYOUT_PROBLEM_FIELD_MISSING, /* the type is there, the field is not: it is absent in out */
	LAYOUT_PROBLEM_FIELD_BITS,    /* a bit-field that is no whole bytes: absent in out */
	LAYOUT_PROBLEM_CONST_MISSING, /* no such enumerator: base's value, if any, was taken */
	LAYOUT_PROBLEM_TYPE_AMBIGUOUS, /* several types of that name: the one that fits best */
};

/* Told about each entry of the list that could not be read plainly. Most are no errors. */
typedef void (*layout_problem_fn)(const struct layout_item *item, enum layout_problem problem,
				  void *ctx);

/*
 * Fills out from the debug information dw.
 *
 * dw	DWARF 4 or 5 of one ELF file, in whole or type units. Of a relocatable object it must come
 *	from libdwfl, which applies the relocations.
 * base	A layout of the same major release, or NULL. DWARF knows no macros, and a compiler drops
 *	types that nothing uses: constants that are macros and types not found come from base,
 *	as do the release's name, version and flavour. Without base these are absent.
 * out	The result. Holds pointers to base's strings; source says "debug information".
 * fn	Called for each entry with a problem; may be NULL. ctx is handed on to it.
 *
 * Returns 0; -ENOENT if dw describes no ERTS (the types every release has are not in it; out is
 * then undefined); -ENOMEM. A type or field that is missing is no error: see fn. What the result
 * says must still be verified in the live process, as with a table.
 */
int layout_from_dwarf(Dwarf *dw, const struct layout *base, struct layout *out,
		      layout_problem_fn fn, void *ctx);

#endif
