/* SPDX-License-Identifier: Apache-2.0 */
/* What `record` and `doctor -o` put into a recording: facts, looks, what was traced. */
#ifndef BEAMRAY_CMD_KEEP_H
#define BEAMRAY_CMD_KEEP_H

#include "cmd/record_trace.h"

struct keeper {
	struct recorder *r;
	struct watch *w;
	struct record_trace *trace;
	unsigned looks;	 /* that were written */
	bool incomplete; /* a ledger was */
};

/* All return 0 or the recorder's error. What is known before the first look: */
int keep_head(struct keeper *k, double duration, double interval, struct error *err);
/* A look and what belongs to it, one transaction. */
int keep_look(struct keeper *k, const struct look *l, const struct ledger *g, struct error *err);
/* How it ended: `result` of the run with its sentence, as far as it can be written. */
int keep_tail(struct keeper *k, int result, const struct error *why, struct error *err);

#endif
