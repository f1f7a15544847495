/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Atoms: how many, how large, and what those have in common that were made by
 * the thousand.
 */
#ifndef BEAMRAY_ERTS_ATOMS_H
#define BEAMRAY_ERTS_ATOMS_H

#include "erts/vm.h"

/* Number of atoms and the limit: two small reads. Errors as vm_read(). Atoms are
 * numbered from 0 and never go: those made between two moments are those from the
 * first count to the second. */
int atoms_count(struct vm *vm, uint64_t *count, uint64_t *limit);

struct atom_large {
	uint64_t index;
	uint64_t bytes; /* of its text */
	char *text;	/* escaped */
};

/* Atoms whose text begins alike. */
struct atom_prefix {
	char *prefix; /* escaped */
	uint64_t count;
	uint64_t bytes;	 /* texts and Atom structures */
	uint64_t newest; /* the largest index among them */
	char *example;	 /* the newest one, escaped */
};

struct atoms {
	uint64_t first, end; /* the indexes that were read */
	uint64_t bytes;	     /* texts and Atom structures of all of them */
	uint64_t unreadable;
	struct atom_prefix *prefixes; /* by count */
	size_t n_prefixes;
	struct atom_large *largest; /* by bytes */
	size_t n_largest;
};

/* Reads the atoms [first, end) and finds the prefixes that many of them share: at
 * least `least` atoms, and at least 2% of those read. Prefixes do not overlap. At
 * most `n_largest` of the largest are given by name. Costs about 1 us and 40 bytes
 * an atom. Errors: -ENOENT (no table), -ENOMEM, what ends a walk. */
int atoms_read(struct vm *vm, uint64_t first, uint64_t end, uint64_t least, size_t n_largest,
	       struct atoms **out, struct error *err);
void atoms_free(struct atoms *a);

#endif
