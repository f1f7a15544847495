/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Names for the addresses of profiles. (symbolize.c opens with the page that
 * explains where they come from.)
 */
#ifndef BEAMRAY_PROFILE_SYMBOLIZE_H
#define BEAMRAY_PROFILE_SYMBOLIZE_H

#include "erts/code.h"
#include "profile/profile.h"

/* The names that were found: a table from address to symbol, shared by the
 * profiles of one recording. It needs neither the target nor its files. */
struct symbols;

struct symbols *symbols_new(void);
void symbols_free(struct symbols *s);

/* The symbol of frame i of a stack: never NULL for a frame that has been
 * symbolized, NULL for one that has not been, or that is no address (FRAME_CUT,
 * FRAME_REPEAT, FRAME_JOINED, FRAME_LABEL). Inlined functions: the innermost
 * one, `outer` leads to the others. */
const struct symbol *symbols_find(const struct symbols *s, const struct profile_stack *stack,
				  size_t i);

/* For those who write the table down and read it again. `exact` as in
 * profile_frame_exact(). */
struct symbol_key {
	uint64_t addr;
	uint8_t kind; /* of the raw frame: FRAME_ERLANG, FRAME_NATIVE, FRAME_KERNEL ... */
	bool exact;
};
size_t symbols_count(const struct symbols *s);
const struct symbol *symbols_at(const struct symbols *s, size_t i, struct symbol_key *key);
/* Copies `symbol` (with its chain) in; an entry with this key is replaced. */
int symbols_put(struct symbols *s, const struct symbol_key *key, const struct symbol *symbol);

/* What names are made from: one look at a target's images, NIFs and BIFs. */
struct symbolizer;

/* `code` may be NULL: Erlang frames then have no names. `images` must stay as
 * long as the symbolizer; a library loaded since is not known to it. */
int symbolizer_new(struct vm *vm, const struct code *code, struct images *images,
		   struct symbolizer **out, struct error *err);
void symbolizer_free(struct symbolizer *z);

/* Names every address of the profile that `s` does not know yet. Errors:
 * -ENOMEM, -ESRCH ...; what could be named until then is in `s`. An address
 * without a name is no error. */
int profile_symbolize(const struct profile *p, struct symbolizer *z, struct symbols *s,
		      struct error *err);

/* One address; the caller frees with symbol_clear(). Always fills *out: a
 * nameless address has module and offset, or only the address as offset. */
int symbolizer_symbol(struct symbolizer *z, uint64_t addr, uint8_t kind, bool exact,
		      struct symbol *out);
void symbol_clear(struct symbol *s);

/* The kind of a native address: FRAME_ERTS, FRAME_NIF, FRAME_LIBC or
 * FRAME_LIBRARY; FRAME_GLUE or FRAME_ERLANG for code of the VM; FRAME_NATIVE if
 * nothing is known to be there. */
enum frame_kind symbolizer_kind(struct symbolizer *z, uint64_t addr);

#endif
