/* SPDX-License-Identifier: Apache-2.0 */
/*
 * C functions of the VM that are worth a probe: found by rule, with symbols or
 * without, and verified by evidence of another kind.
 * (functions.c opens with the page on how.)
 */
#ifndef BEAMRAY_ERTS_FUNCTIONS_H
#define BEAMRAY_ERTS_FUNCTIONS_H

#include "erts/allocator.h"
#include "erts/code.h"

/* garbage_collect() of erl_gc.c: every collection but the one of a process that
 * hibernates. Its first argument is the Process. */
struct vm_gc {
	uint64_t addr, size; /* of the function, run-time, bytes */
	/* &dirty_gc.info: {reclaimed words, collections} of all dirty schedulers;
	 * 0 if it was not found. */
	uint64_t dirty_info;
	char evidence[128]; /* what agrees, in words */
};

/* Errors, with a sentence: -ENOENT (EXIT_UNSUPPORTED) when there is no such function or
 * the kinds of evidence disagree; -ENOMEM. `code` may be NULL (then JIT fragments
 * give no evidence). */
int vm_gc_find(struct vm *vm, const struct code *code, struct vm_gc *out, struct error *err);

/* How an allocator gets memory for a carrier, and gives it back. */
enum carrier_call {
	CARRIER_MSEG_ALLOC,   /* (Allctr_t *, Uint *size, Uint flags) -> address */
	CARRIER_MSEG_REALLOC, /* (Allctr_t *, address, Uint old, Uint *size) -> address */
	CARRIER_MSEG_DEALLOC, /* (Allctr_t *, address, Uint size, Uint flags) */
	CARRIER_SYS_ALLOC,    /* (Allctr_t *, Uint *size, int superalign) -> address */
	CARRIER_SYS_REALLOC,  /* (Allctr_t *, address, Uint *size, Uint old, int superalign) */
	CARRIER_SYS_DEALLOC,  /* (Allctr_t *, address, Uint size, int superalign) */
	CARRIER_CALLS
};
const char *carrier_call_name(enum carrier_call c);

#define VM_CARRIER_FUNCTIONS_MAX 24

struct vm_carrier_functions {
	struct {
		uint64_t addr, size;
		enum carrier_call call;
		bool by_number; /* its first argument is the allocator's number, no Allctr_t */
		/* It is erts_sys_alloc(type, extra, size), _realloc(type, extra, address, size) or
		 * their aligned kind (alignment, size), (alignment, address, size, old), and
		 * knows no allocator: its caller has the Allctr_t in a register that is
		 * kept across calls. */
		bool by_caller;
	} v[VM_CARRIER_FUNCTIONS_MAX];
	size_t n;
	/* Calls that a compiler has copied into their callers and that nothing else was found
	 * for: not all are seen. Bits, by enum carrier_call. */
	unsigned copied;
	unsigned refused; /* pointers that lead to no function of the kind */
	char why[128];	  /* the first of them, "" if none */
};

/* The functions that the allocators' instances point to, or what those call. -ENOENT with a sentence
 * when none is found or a kind that is needed is missing; -ENOMEM. */
int vm_carrier_functions_find(struct vm *vm, const struct allocators *a,
			      struct vm_carrier_functions *out, struct error *err);

#endif
