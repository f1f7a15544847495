/* SPDX-License-Identifier: Apache-2.0 */
/* Refc binaries and who holds references to them. (binary.c opens with the page
 * that explains where references are found.) */
#ifndef BEAMRAY_ERTS_BINARY_H
#define BEAMRAY_ERTS_BINARY_H

#include "erts/ets.h"

enum binary_holder_kind {
	HOLDER_PROCESS,	 /* a process's heaps: what process_info(P, binary) lists */
	HOLDER_MESSAGES, /* messages in a process's queue, outside of its heap */
	HOLDER_ETS,	 /* rows of a table */
	HOLDER_PORT,	 /* a driver's output queue */
};

struct binary_holder {
	enum binary_holder_kind kind;
	uint64_t id;	      /* term of the pid or port; ETS: the table's name, an atom */
	uint64_t addr;	      /* Process, DbTable or Port in the target */
	uint64_t owner;	      /* ETS: pid term of the owner; port: of the connected process */
	uint64_t refs, bytes; /* each reference counts: sums of process_info(P, binary) */
	uint64_t binaries, distinct_bytes; /* each binary counts once */
	uint64_t alone_bytes; /* of binaries all of whose references were found here: what
				 would be free if this holder let go */
	/* processes, in words; UINT64_MAX: not known. When it is collected next depends
	 * on these: overhead is what off-heap data weighs since the last collection. */
	uint64_t overhead, vheap_size, old_vheap, old_vheap_size;
	uint64_t minor_gcs, fullsweep_after; /* collections since the last full one, and limit */
	uint64_t heap_words;		     /* heap and old heap */
	bool approximate; /* its lists changed all the time: a part may be missing */
};

struct refc_binary {
	uint64_t addr;	/* of the Binary */
	uint64_t bytes; /* Binary.orig_size */
	uint64_t refc;	/* references by the VM's own count */
	uint32_t refs;	/* of which found: refc - refs are held by what was not looked at
			   (NIFs, drivers, code, matches under way ...) or were too new */
	uint32_t first; /* its references: binaries.refs[first .. first + refs) */
};

struct binary_ref {
	uint64_t binary; /* address */
	uint32_t holder; /* index into holders */
};

struct binaries {
	struct binary_holder *holders;
	size_t n_holders;
	struct refc_binary *v; /* by address */
	size_t n;
	struct binary_ref *refs; /* by binary, then holder */
	size_t n_refs;
	uint64_t bytes;	      /* of v: every binary once */
	uint64_t processes;   /* looked at */
	uint64_t torn;	      /* processes that are there but could not be read */
	uint64_t gone;	      /* references whose binary was given back meanwhile */
	uint64_t left_out;    /* references beyond what is kept (refs_max) */
	uint64_t rows;	      /* ETS rows looked at */
	uint64_t tables_left; /* tables that were not looked at or not to their end */
	uint64_t rows_left;   /* so many rows they have */
};

struct binaries_opts {
	bool messages, ports;
	uint64_t rows_max;		 /* ETS rows to look at, smallest tables first; 0: none */
	uint64_t refs_max;		 /* references to keep; 0: 4 million (64 MB) */
	const struct ets_tables *tables; /* NULL: read when rows_max asks for it */
};

/* Errors: -ENOENT, -ENOMEM, -ESRCH, -ETIMEDOUT ... */
int binaries_read(struct vm *vm, const struct binaries_opts *opts, struct binaries **out,
		  struct error *err);
void binaries_free(struct binaries *b);
/* The binary at, or around, this address of the target, or NULL. */
const struct refc_binary *binaries_find(const struct binaries *b, uint64_t addr);
/* How a report names a holder: process_label(), the table's name, "#Port<0.5>". */
void binary_holder_label(struct vm *vm, const struct binary_holder *h, char *buf, size_t size);

#endif
