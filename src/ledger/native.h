/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Native memory from one still image: whose it is, and what of it is lost.
 * (native.c opens with the page that explains how far that can be known.)
 */
#ifndef BEAMRAY_LEDGER_NATIVE_H
#define BEAMRAY_LEDGER_NATIVE_H

#include "ledger/look.h"

/* Why a block is said to be somebody's, the strongest first. Each kind includes
 * what such a block leads to. */
enum native_evidence {
	NATIVE_NO_EVIDENCE,
	NATIVE_CONTENT, /* it holds a pointer into the NIF or driver: vtable, function, data */
	NATIVE_DATA,	/* the NIF's own data, its priv_data or its port points to it */
	NATIVE_TAG,	/* a resource, enif_alloc or driver_alloc block of its points to it */
	NATIVE_LIBRARY, /* content or data of a system library */
	NATIVE_THREAD,	/* a stack: the function that the thread began with */
	NATIVE_VM,	/* only the VM leads to it */
	NATIVE_EVIDENCES
};

enum native_class {
	NATIVE_CLASS_UNKNOWN, /* nobody, or several: owner is empty or says so */
	NATIVE_CLASS_NIF,
	NATIVE_CLASS_DRIVER,
	NATIVE_CLASS_LIBRARY, /* a library that NIFs or the VM use */
	NATIVE_CLASS_VM,
};

enum native_mechanism { NATIVE_LIBC, NATIVE_MMAP, NATIVE_STACK, NATIVE_MECHANISMS };

/* Memory in use of one owner, by one kind of evidence and one mechanism. */
struct native_row {
	char owner[96]; /* file name of the library, escaped; "" unknown */
	enum native_class class;
	enum native_evidence evidence;
	enum native_mechanism mechanism;
	uint64_t chunks, bytes, resident; /* bytes: whole chunks, headers included */
	uint64_t lost, lost_bytes;	  /* of which nobody points to */
};

/* Blocks of one size that nobody points to, of one owner and evidence. */
struct native_lost {
	char owner[96]; /* "": unknown, which is usual: see hint */
	enum native_class class;
	enum native_evidence evidence; /* NATIVE_CONTENT, NATIVE_LIBRARY or none */
	enum native_mechanism mechanism;
	uint64_t size; /* bytes of each, header and padding included */
	uint64_t count, bytes, resident;
	unsigned arenas;      /* malloc arenas that they are in; 0: not in one */
	unsigned arena;	      /* the one with most of them */
	char threads[64];     /* who uses that arena, escaped; "" unknown */
	char candidates[160]; /* a hint, no proof: libraries that could have done it, escaped */
};

struct native {
	bool heap_walked; /* false: nothing below is known; notes say why */
	/* Both looks saw enough to say what is lost. False: `lost` is empty or holds
	 * what is probably lost, and notes say why. */
	bool lost_proved;
	struct native_row *rows; /* by bytes, largest first */
	size_t n_rows;
	struct native_lost *lost; /* by bytes, largest first */
	size_t n_lost;
	uint64_t lost_count, lost_bytes, lost_resident; /* of all groups */
	uint64_t excused, excused_bytes; /* signal stacks: only the kernel points to them */
	uint64_t used_resident;		 /* native.heap.used + native.mmap + native.stack of the
					    second look, as the ledger counts them */
	uint64_t bookkeeping; /* of used_resident: malloc's own, and what no chunk explains */

	bool complete; /* false: the heap could not be walked */
	char **notes;  /* sentences, escaped */
	size_t n_notes;

	/* What it cost. */
	double seconds, cpu_seconds; /* wall; ours */
	uint64_t read_bytes;	     /* of the target, both looks */
	uint64_t nodes, edges;	     /* of the second look */
	uint64_t own_bytes;	     /* of tables, at most, in either look */
	uint64_t gone_bytes;	     /* resident at first, unmapped before they were read */
};

struct native_opts {
	double pause_s; /* between the looks; 0: a tenth of a second */
	/* Called for every block in use, in order of address: for tests. */
	void (*block)(void *arg, uint64_t addr, uint64_t bytes, const char *owner,
		      enum native_evidence evidence, bool lost);
	void *arg;
};

/* About how many seconds native_scan() will take, from a look that was taken
 * already. */
double native_scan_estimate(const struct look *l);

/* Takes two looks of its own and compares them. On -ETIMEDOUT the observer must
 * not be used nor closed any more. The caller frees *out. Errors as
 * look_take(). */
int native_scan(struct observer *o, const struct native_opts *opts, struct native **out,
		struct error *err);
void native_free(struct native *n);

const char *native_evidence_name(enum native_evidence e);   /* "content" */
const char *native_class_name(enum native_class c);	    /* "nif" */
const char *native_mechanism_name(enum native_mechanism m); /* "libc" */
/* "high", "medium", "low": how far an owner by this kind of evidence is to be
 * believed. */
const char *native_confidence(enum native_evidence e);

#endif
