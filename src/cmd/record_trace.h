/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What `beamray record` traces: which sets, and what of them goes into the file.
 */
#ifndef BEAMRAY_CMD_RECORD_TRACE_H
#define BEAMRAY_CMD_RECORD_TRACE_H

#include "cmd/command.h"
#include "cmd/watch.h"
#include "profile/recording.h"

#define RECORD_NOTES 16

struct record_trace {
	bool no_cpu, offcpu, gc, no_carriers;
	bool native;		       /* malloc and its relatives ... */
	const char *library;	       /* ... as this library calls them; NULL: all */
	double long_gc;		       /* seconds; 0: default */
	size_t large_heap;	       /* words; 0: default */
	size_t frequency;	       /* of samples; 0: default */
	double offcpu_min;	       /* seconds; 0: default */
	bool lost;		       /* more than 1% of what came was lost */
	char kinds[100];	       /* of profiles that are recorded, with commas */
	char notes[RECORD_NOTES][600]; /* sentences: what could not be attached, or costs more here */
	unsigned n_notes;
};

/* Adds the sets to the watch's session, if it has one; what cannot be had becomes a
 * note, and so does what a set says of itself (a probe that has to be single-stepped): to
 * be printed before the first look. */
void record_trace_open(struct record_trace *t, struct watch *w);
/* Profiles, tables and counters as of a look, inside of a transaction; `look` NULL: the
 * target has gone since the last one. */
int record_trace_put(struct record_trace *t, struct watch *w, const struct look *look,
		     struct recorder *r, struct error *err);
/* What the governor did and what is missing, at the end. */
int record_trace_end(struct record_trace *t, struct watch *w, struct recorder *r,
		     struct error *err);

#endif
