/* SPDX-License-Identifier: Apache-2.0 */
/*
 * --gate: rules for tests of NIFs. A rule is NAME=SIZE, several are separated by commas:
 *
 *	native=64K              libc's heap, mappings and stacks of threads that are not the
 *	                        VM's, and what the VM's allocators hold for NIFs and drivers
 *	vm=8M                   used blocks of the VM and its code
 *	rss=16M                 everything
 *	ACCOUNT=SIZE            one account of the ledger or all below it: native.heap.used,
 *	                        vm.used.ets_alloc, vm.free
 *
 * A gate is closed when the two ledgers differ by more than SIZE.
 */
#ifndef BEAMRAY_CMD_GATE_H
#define BEAMRAY_CMD_GATE_H

#include "ledger/verdict.h"

#define GATES_MAX 16

struct gates {
	struct gate {
		char name[64];
		uint64_t most;
		int64_t grew; /* filled in by gates_judge() */
		bool closed;
	} v[GATES_MAX];
	size_t n;
};

/* `take` of --gate (`to`: struct gates). */
int option_gate(void *to, const char *arg, struct error *err);
/* Compares the two ledgers; the number of closed gates. A native gate lowers the floor
 * of what is found before: see gates_floor(). */
unsigned gates_judge(struct gates *g, const struct verdict_input *in, const struct verdict *v);
/* Findings below a gate's size need not be named; those above must. */
void gates_floor(const struct gates *g, struct verdict_opts *o);

#endif
