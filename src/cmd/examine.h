/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The doctor's examination: ledger, watch, ledger. (examine.c opens with the page that
 * tells its course.)
 */
#ifndef BEAMRAY_CMD_EXAMINE_H
#define BEAMRAY_CMD_EXAMINE_H

#include "cmd/keep.h"
#include "erts/natives.h"
#include "ledger/inside.h"
#include "ledger/native.h"
#include "ledger/verdict.h"
#include "report/units.h"

#define MOMENTS_MAX 32

struct examine_opts {
	pid_t pid;
	double seconds; /* of the watch */
	bool trace, still;
	bool native; /* watch malloc from the start */
	enum examine_scan { SCAN_AUTO, SCAN_ALWAYS, SCAN_NEVER } scan;
	double budget;
	unsigned verbose;
	enum unit unit;
	const char *keep; /* file of a recording, or NULL */
	const struct verdict_opts *thresholds;
};

struct examination {
	struct examine_opts opts;
	struct watch w;
	struct record_trace trace; /* of the recording */
	struct keeper keep;
	double begun;	/* CLOCK_MONOTONIC */
	double first_s; /* the first ledger was complete and probes attached so long after */
	double seconds; /* of the watch */
	struct look *look[2];
	double taken[2]; /* when those began; CLOCK_MONOTONIC */
	struct ledger *ledger[2];
	struct inside *inside[2];
	struct verdict_moment moments[MOMENTS_MAX];
	size_t n_moments;
	struct profile *growth, *native;
	int64_t grew, explained; /* of libc's heap, at the last moment */
	bool native_tried;
	char native_note[400];
	struct natives *natives; /* whose library a module's NIFs are in */
	struct session_stats stats;
	struct native *lost; /* the still image scan, or NULL */
	struct verdict_scan scan;
	struct error ended; /* the target ended while it was watched */
	struct error kept;  /* the recording could not be written */
	struct verdict_input in;
};

/* The whole course. Afterwards e->in is what the verdict is made from; it points into
 * the examination. Errors: those of watch_open() and watch_look(). A target that ends
 * after the first ledger is no error: in.ended. */
int examine(struct examination *e, const struct examine_opts *opts, struct error *err);
void examination_free(struct examination *e);
/* The progress line goes away. */
void examine_quiet(void);

#endif
