/* SPDX-License-Identifier: Apache-2.0 */
/* What keeps nearly empty carriers alive. (pins.c opens with the page that explains
 * how a block's owner is found.) */
#ifndef BEAMRAY_ERTS_PINS_H
#define BEAMRAY_ERTS_PINS_H

#include "erts/binary.h"
#include "erts/carrier.h"

enum pin_kind {
	PIN_HEAP,     /* heap or old heap of a process; id: pid */
	PIN_MESSAGE,  /* a message of its queue or a heap fragment; id: pid */
	PIN_PROCESS,  /* its Process, dictionary and the like; id: pid */
	PIN_BINARY,   /* a refc binary; holder: how it is held, id: by whom */
	PIN_ROW,      /* a row of a table; id: the table's name, an atom */
	PIN_TABLE,    /* the table itself; id: as above */
	PIN_PORT,     /* a Port; id: port term */
	PIN_RESOURCE, /* a NIF resource; id: address of its type */
	PIN_TAG,      /* known by its tag alone; id: atom number of the owner */
	PIN_SPARE,    /* freed, kept by fix_alloc for the next one of its type */
	PIN_FREED,    /* freed: while we looked, or by a thread that must leave it to another */
	PIN_UNKNOWN,  /* nobody of these */
};

struct pin {
	unsigned alloc_type; /* allocator whose carriers it is in */
	enum pin_kind kind;
	enum binary_holder_kind holder; /* PIN_BINARY */
	unsigned block_type;		/* PIN_TAG, PIN_SPARE: index into vm->type_names */
	uint64_t id;
	uint64_t owner;		      /* tables: pid term of the owner, 0 if not known */
	bool shared;		      /* PIN_BINARY: some of them have other holders besides */
	uint64_t blocks, bytes;	      /* whole blocks */
	uint64_t carriers, pinned;    /* that it is in, and their free resident bytes */
	uint64_t alone, alone_pinned; /* of these, where all blocks are its own */
};

struct pin_carrier {
	struct carrier c;
	uint32_t blocks; /* used ones that were looked at */
	uint32_t owners; /* pins that it has */
	uint32_t most;	 /* the one of pins.v with most bytes in it */
	uint64_t most_bytes;
};

struct pins {
	struct pin *v; /* by pinned bytes, largest first */
	size_t n;
	struct pin_carrier *carriers; /* by free resident bytes, largest first */
	size_t n_carriers;
	uint64_t free_resident;	  /* of these carriers */
	uint64_t blocks, unknown; /* used blocks in them; of which nobody's */
	uint64_t left_out;	  /* blocks beyond what is kept */
	uint64_t torn;
	bool cut; /* rows, messages or fragments beyond a million of each: not followed */
};

struct pins_opts {
	double below;	     /* utilisation that calls a carrier nearly empty; 0: 0.5 */
	uint64_t least;	     /* free resident bytes that call it big; 0: 32 KiB */
	unsigned alloc_type; /* only carriers of this allocator; 0: of all */
};

/* Errors: -ENOMEM, -ESRCH, -ETIMEDOUT, and those of the readers behind it. */
int pins_read(struct vm *vm, const struct allocators *a, const struct pins_opts *opts,
	      struct pins **out, struct error *err);
void pins_free(struct pins *p);
/* "heap", "binary held by messages", "row" ...: static text. */
const char *pin_what(const struct pin *p);
/* Whose it is: a process's label, a table's name, "module:type" ...; escaped. */
void pin_owner(struct vm *vm, const struct pin *p, char *buf, size_t size);

#endif
