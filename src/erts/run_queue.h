/* SPDX-License-Identifier: Apache-2.0 */
/* What a scheduler is at, and what waits for it. */
#ifndef BEAMRAY_ERTS_RUN_QUEUE_H
#define BEAMRAY_ERTS_RUN_QUEUE_H

#include "erts/process.h"

struct run_queue {	   /* UINT64_MAX: could not be read */
	uint64_t addr;	   /* dirty schedulers of a kind share one */
	const char *state; /* "running", "waiting", "sleeping", "suspended"; static text */
	uint64_t len;	   /* processes and ports that wait, as statistics(run_queue_lengths) */
	uint64_t max, high, normal; /* processes of it by priority; low ones count as normal */
	uint64_t ports;
	uint64_t reductions; /* of processes that ran from this queue, ever */
	uint64_t context_switches;
	uint64_t nif_module; /* atom number of the NIF library's module that is being called */
	bool in_nif;
};

/* What the scheduler runs is read anew into *s, so that it, its state and its NIF are of one
 * moment. Errors: -ENOENT, -EFAULT ... when it has no queue that can be read. */
int run_queue_read(struct vm *vm, struct scheduler *s, struct run_queue *out);

#endif
