/* SPDX-License-Identifier: Apache-2.0 */
/* A verdict as prose for a terminal and as JSON. */
#ifndef BEAMRAY_REPORT_DOCTOR_H
#define BEAMRAY_REPORT_DOCTOR_H

#include <jansson.h>
#include <stdio.h>

#include "ledger/verdict.h"
#include "report/units.h"

struct doctor_text_opts {
	enum unit unit;
	unsigned columns;
	double cpu_fraction; /* beamray's own cost on the node, of one core; < 0 unknown */
	const char *notice;  /* what was thinned or detached to stay within the budget; "" */
};

void doctor_text(FILE *to, const struct verdict_input *in, const struct verdict *v,
		 const struct doctor_text_opts *opts);
/* Schema beamray.doctor/1; a new reference, NULL when out of memory. */
json_t *doctor_json(const struct verdict_input *in, const struct verdict *v,
		    const struct doctor_text_opts *opts);

#endif
