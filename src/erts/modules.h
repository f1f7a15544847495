/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Loaded modules, the literals that belong to them, persistent terms: what lies
 * in code and literal memory, by name.
 */
#ifndef BEAMRAY_ERTS_MODULES_H
#define BEAMRAY_ERTS_MODULES_H

#include "erts/vm.h"

struct module {
	char *name; /* escaped */
	/* bytes; of the old instance: 0 if none is kept */
	uint64_t code, literals;
	uint64_t old_code, old_literals;
	bool nif, on_load; /* has NIFs; its on_load function has not ended */
};

struct modules {
	struct module *v; /* in the VM's order: by first loading */
	size_t n;
	uint64_t code, literals, old_code, old_literals; /* sums */
	uint64_t torn; /* modules whose literals could not be read */
	/* Which of the VM's copies of the table is the active one was told by the VM or
	 * by the sum of its code; else the longest one was taken. */
	bool certain;
};

/* About 2 us a module. Errors: -ENOENT (no module table found), -EFAULT, -ENOMEM,
 * what ends a walk. */
int modules_read(struct vm *vm, struct modules **out, struct error *err);
void modules_free(struct modules *m);

struct persistent_term {
	/* What may be told of a key: an atom, or the atom that a tuple begins with and
	 * its arity; else its kind. Escaped. Never the value. */
	char *key;
	uint64_t bytes; /* of its literal area: key, value, header */
};

struct persistent_terms {
	struct persistent_term *v;
	size_t n;
	uint64_t memory; /* bytes, as persistent_term:info() says */
	uint64_t torn;	 /* entries that could not be read */
};

/* Errors: -ENOENT when the table was not found, with the reason in err. */
int persistent_terms_read(struct vm *vm, struct persistent_terms **out, struct error *err);
void persistent_terms_free(struct persistent_terms *p);

#endif
