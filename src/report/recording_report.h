/* SPDX-License-Identifier: Apache-2.0 */
/* A recording, and the difference of two moments, as text and as JSON. */
#ifndef BEAMRAY_REPORT_RECORDING_REPORT_H
#define BEAMRAY_REPORT_RECORDING_REPORT_H

#include <jansson.h>
#include <stdio.h>

#include "profile/recording.h"
#include "report/profile_report.h"
#include "report/units.h"

/* ---- what changed between two ledgers ----------------------------------------- */

struct account_change {
	char account[96];
	uint64_t a, b; /* resident bytes; 0 where it is not there */
	int64_t change;
};

/* Every account of either, biggest change first. The caller frees. NULL: no memory. */
struct account_change *account_changes(const struct recording_row *a, size_t na,
				       const struct recording_row *b, size_t nb, size_t *n);

/* ---- one recording ------------------------------------------------------------ */

struct recording_view {
	struct recording *recording;
	/* the first and the last ledger; NULL when there is none */
	const struct recording_row *first, *last;
	size_t n_first, n_last;
	/* what was traced; NULL: nothing, and why */
	const struct profile_report *report;
	const struct profile *profile;
	const struct symbols *symbols;
	const char *why_not;
	bool filtered; /* by process or library: sums are parts */
};

struct recording_text_opts {
	enum unit unit;
	unsigned columns;
	bool verbose; /* all of it, not the top of each table */
};

/* A line indented by `indent`, cut with dots where it would be wider than `columns`;
 * 0 columns: never. */
void line_text(FILE *to, unsigned indent, const char *text, size_t len, unsigned columns);

void recording_text(FILE *to, const struct recording_view *v,
		    const struct recording_text_opts *opts);
/* Schema beamray.report/1; a new reference, NULL when out of memory. The documents of
 * the first and the last look are in it, NULL where they could not be read. */
json_t *recording_json(const struct recording_view *v, json_t *before, json_t *after);

/* A document out of a recording: parsed, and every string in it made safe. NULL when
 * it is not JSON. */
json_t *recording_document_json(const char *text);
/* Facts about the target and the file, as JSON. */
json_t *recording_target_json(const struct recording *r);
/* The value of a counter at the last look up to `look`; false if there is none. */
bool recording_counter_at(const struct recording *r, unsigned look, const char *name,
			  uint64_t *value);

/* ---- two moments --------------------------------------------------------------- */

/* What grew above its floor. */
struct growth_finding {
	char what[96];	 /* account or sum of accounts */
	const char *why; /* the rule, in words */
	int64_t bytes;
	uint64_t floor;
};

struct stack_change {
	const char *text; /* folded: root first, ";" between */
	int64_t a, b, change;
};

#define DIFF_FINDINGS 64

struct recording_diff {
	const struct recording *ra, *rb; /* may be one */
	const struct recording_look *la, *lb;
	struct account_change *accounts;
	size_t n_accounts;
	struct growth_finding findings[DIFF_FINDINGS]; /* largest first */
	size_t n_findings;
	struct stack_change *stacks; /* biggest change first */
	size_t n_stacks;
	char **texts; /* of the stacks */
	size_t n_texts;
	bool has_stacks;
};

/* Compares look `na` of `ra` with look `nb` of `rb`. `kind` is the profile's kind. */
int recording_diff_new(struct recording *ra, unsigned na, struct recording *rb, unsigned nb,
		       const char *kind, struct recording_diff **out, struct error *err);
void recording_diff_free(struct recording_diff *d);
void recording_diff_text(FILE *to, const struct recording_diff *d,
			 const struct recording_text_opts *opts);
/* Schema beamray.diff/1. */
json_t *recording_diff_json(const struct recording_diff *d);

#endif
