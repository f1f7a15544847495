/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The Erlang stack of a process that does not run, read from outside.
 *
 * A stack grows down from hend to stop. It holds terms and return addresses; the
 * addresses are the words with the two low bits 00 that lie in code (terms never have
 * these bits; a frame pointer, which `+JPfp true` saves, does, but is no code). It ends
 * with the address of normal_exit. Where the process goes on is in Process.i. That is
 * what process_info(P, current_stacktrace) is made of (erl_bif_info.c and
 * beam_common.c, gather_stacktrace(); emulator: beam_emu.c).
 */
#ifndef BEAMRAY_ERTS_PROCESS_STACK_H
#define BEAMRAY_ERTS_PROCESS_STACK_H

#include "erts/code.h"
#include "erts/process_info.h"

#define PROCESS_STACK_LEAF 48 /* frames kept from where it is */
#define PROCESS_STACK_ROOT 16 /* and from where it began */

struct process_stack_frame {
	uint64_t address; /* of an instruction for the first, else a return address */
	uint32_t times;	  /* frames in a row with this address: a recursion */
};

struct process_stack {
	struct process_stack_frame v[PROCESS_STACK_LEAF + PROCESS_STACK_ROOT]; /* leaf first */
	unsigned n, n_leaf; /* those from n_leaf on are of the root part */
	uint64_t skipped;   /* words of stack between the two parts that were not looked at */
	bool complete;	    /* it ended with normal_exit */
	uint64_t hash;	    /* of the addresses: equal stacks, however deep a recursion */
};

/* What reading needs to know of the code, taken once. */
struct process_stack_code {
	struct code_range *ranges; /* where code is */
	size_t n;
	uint64_t normal_exit; /* 0: not known; then no stack is complete */
};

/* Errors: -ENOMEM. */
int process_stack_code_open(const struct code *c, struct process_stack_code *out);
void process_stack_code_close(struct process_stack_code *c);

/* Reads the stack of a process out of a processes_scan(). 0; -EBUSY when it runs (its
 * registers are in the processor, and what is in memory is of before; not so for native
 * code on a dirty scheduler) or is collected; -EAGAIN when it ran meanwhile; or errors of vm_read(). At most 1 MiB is read from each end. */
int process_stack_read(struct vm *vm, const struct process_stack_code *code,
		       const struct process_info *i, struct process_stack *out);

#endif
