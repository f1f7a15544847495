/* SPDX-License-Identifier: Apache-2.0 */
/* What `record` and `doctor -o` put into a recording: facts, looks, growth. */
#ifndef BEAMRAY_CMD_KEEP_H
#define BEAMRAY_CMD_KEEP_H

#include "cmd/watch.h"
#include "profile/recording.h"

struct keeper {
	struct recorder *r;
	const struct watch *w;
	unsigned looks;	 /* that were written */
	bool incomplete; /* a ledger was, or too many events were lost */
};

/* All return 0 or the recorder's error. What is known before the first look: */
int keep_head(struct keeper *k, double duration, double interval, struct error *err);
/* A look and what belongs to it, one transaction; `growth` may be NULL. */
int keep_look(struct keeper *k, const struct look *l, const struct ledger *g,
	      const struct profile *growth, struct error *err);
/* How it ended: `result` of the run with its sentence, as far as it can be written. */
int keep_tail(struct keeper *k, int result, const struct error *why, struct error *err);

#endif
