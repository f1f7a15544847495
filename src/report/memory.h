/* SPDX-License-Identifier: Apache-2.0 */
/* A ledger as text for a terminal and as JSON. */
#ifndef BEAMRAY_REPORT_MEMORY_H
#define BEAMRAY_REPORT_MEMORY_H

#include <jansson.h>
#include <stdio.h>

#include "ledger/ledger.h"
#include "report/units.h"

struct memory_text_opts {
	enum unit unit;
	unsigned columns; /* width of the page; at least 80 */
	bool verbose;	  /* every account, every allocator */
};

/* What `beamray memory` prints. */
void memory_text(FILE *to, const struct observer *o, const struct look *l, const struct ledger *g,
		 const struct memory_text_opts *opts);
/* What changed between two ledgers of one observer, biggest change first. */
void memory_text_delta(FILE *to, const struct look *la, const struct ledger *a,
		       const struct look *lb, const struct ledger *b,
		       const struct memory_text_opts *opts);

/* The document of schema beamray.memory/1 (README describes it). A new
 * reference; NULL when out of memory. */
json_t *memory_json(const struct observer *o, const struct look *l, const struct ledger *g);
/* Its "target" object alone, shared by all schemas. */
json_t *target_json(const struct observer *o);
/* The line that every text begins with: process, release, time of the look. */
void target_text(FILE *to, const struct observer *o, const struct look *l);
/* When the look was taken, RFC 3339 with milliseconds. Returns buf. */
char *look_time(const struct look *l, char *buf, size_t size);

#endif
