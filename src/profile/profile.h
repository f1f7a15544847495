/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A profile: stacks with weights of one kind.
 *
 * Raw stacks come from the tracer as addresses, leaf first; symbols are put to
 * them later by profile_symbolize(), once for every distinct address, so that
 * adding a stack is cheap and late symbols (code loaded while we watched) still
 * resolve. After symbolizing, a profile needs neither the target nor its files.
 */
#ifndef BEAMRAY_PROFILE_PROFILE_H
#define BEAMRAY_PROFILE_PROFILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum frame_kind {
	FRAME_ERLANG,  /* address in JIT or emulator code: module:function/arity */
	FRAME_GLUE,    /* JIT fragment that is no Erlang function: global::... */
	FRAME_ERTS,    /* C function of beam.smp */
	FRAME_NIF,     /* NIF library or linked-in driver */
	FRAME_LIBC,    /* libc, libpthread, ld.so, libstdc++ */
	FRAME_LIBRARY, /* any other shared library */
	FRAME_KERNEL,
	FRAME_REPEAT, /* addr: how many more times the frames before it repeat */
	FRAME_CUT,    /* what follows (towards the root) could not be walked */
	FRAME_JOINED, /* the Erlang stack below was appended from the process, not walked to */
	FRAME_NATIVE, /* raw only: native address, not yet classified */
	FRAME_LABEL,  /* root label: process or thread role; text only */
};

#define FRAME_CUT_THINNED 9 /* see frame_cut_name() */

struct frame {
	uint64_t addr; /* exact for the leaf, return address for the others; FRAME_CUT: why */
	uint8_t kind;  /* enum frame_kind */
};

struct symbol {	      /* of one address, after symbolizing; all text escaped */
	char *name;   /* "lists:map/2", "leak_malloc", NULL if nameless */
	char *module; /* library file name or Erlang module; NULL */
	char *file;   /* source file, NULL */
	uint32_t line;
	uint64_t offset; /* addr - start of module, for nameless ones */
	enum frame_kind kind;
	struct symbol *outer; /* the function that this one was inlined into; NULL */
};

struct profile_stack {
	struct frame *frames; /* leaf first */
	size_t n;
	uint64_t process; /* Erlang pid term, 0 if none */
	uint32_t tid;	  /* a thread of the stack, for its role; 0 if several */
	char *label;	  /* root frame: registered name, initial call or thread role */
	bool complete;	  /* reached normal_exit or the thread's start */
	int64_t weight;	  /* net, in the profile's unit */
	int64_t gross;
	uint64_t count; /* events */
};

struct profile {
	char kind[16]; /* "growth", "cpu", "gc", "native", "carrier", "offcpu" */
	char unit[16]; /* "bytes", "samples", "collections", "ns" */
	struct profile_stack *stacks;
	size_t n;
	uint64_t lost_events, lost_stacks; /* counted by the tracer */
	int64_t without_stack;		   /* weight that has no stack (thinned, evicted) */
	struct profile_index *index;	   /* private: finds equal stacks */
};

struct profile *profile_new(const char *kind, const char *unit);
void profile_free(struct profile *p);
/* Adds weight to the stack (merged with an equal one: same frames, process and
 * label). Copies everything. 0 or -ENOMEM. */
int profile_add(struct profile *p, const struct frame *frames, size_t n, uint64_t process,
		uint32_t tid, const char *label, bool complete, int64_t weight, int64_t gross,
		uint64_t count);
/* Largest weight first; equal ones by count. */
void profile_sort(struct profile *p);
/* Sum of the stacks' weights and of what has no stack. Sums stop at the ends of
 * int64_t instead of wrapping. */
int64_t profile_total(const struct profile *p);
/* Why a stack was cut, by the low 8 bits of a FRAME_CUT's address. The numbers are in
 * recordings: they stay. */
const char *frame_cut_name(uint64_t addr);
/* Was only the leaf taken, to stay within the budget? */
bool profile_stack_thinned(const struct profile_stack *s);
/* a + b, which stops at the ends of int64_t instead of wrapping. */
int64_t weight_add(int64_t a, int64_t b);
/* Is the address of frame i that of an instruction, and not a return address?
 * So is the first one's, and that of the first behind kernel frames. */
bool profile_frame_exact(const struct profile_stack *s, size_t i);

#endif
