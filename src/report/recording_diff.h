/* SPDX-License-Identifier: Apache-2.0 */
/* Two moments side by side. (recording_diff.c opens with the page that explains
 * what a difference is.) */
#ifndef BEAMRAY_REPORT_RECORDING_DIFF_H
#define BEAMRAY_REPORT_RECORDING_DIFF_H

#include "report/recording_view.h"

/* What grew above its floor. */
struct growth_finding {
	char what[96];	 /* account or sum of accounts */
	const char *why; /* the rule, in words */
	int64_t bytes;
	uint64_t floor;
};

#define DIFF_FINDINGS 64

struct recording_diff {
	const struct recording *ra, *rb; /* may be one */
	const struct recording_look *la, *lb;
	struct changes accounts, allocators, carriers, owners;
	struct growth_finding findings[DIFF_FINDINGS]; /* largest first */
	size_t n_findings;

	/* The stacks of both: B's profile, with A's as its base. NULL where not both
	 * moments have one. Bytes, samples ...: the profile's unit. */
	const struct profile_report *report;
	const struct profile *profile;
	struct changes stacks; /* names: folded, root first, ";" between */
	struct changes libraries, processes;

	struct view_profile a, b; /* private */
};

/* Compares look `na` of `ra` with look `nb` of `rb`. `kind` is the profile's kind;
 * `filter` may be NULL. */
int recording_diff_new(struct recording *ra, unsigned na, struct recording *rb, unsigned nb,
		       const char *kind, const struct profile_report_opts *filter,
		       struct recording_diff **out, struct error *err);
void recording_diff_free(struct recording_diff *d);
/* Are A and B looks at one process? */
bool recording_diff_same(const struct recording_diff *d);

void recording_diff_text(FILE *to, const struct recording_diff *d,
			 const struct recording_text_opts *opts);
/* Schema beamray.diff/1; a new reference, NULL when out of memory. */
json_t *recording_diff_json(const struct recording_diff *d);

#endif
