/* SPDX-License-Identifier: Apache-2.0 */
/* What `beamray diff` and `beamray report --diff` share. */
#ifndef BEAMRAY_CMD_DIFF_H
#define BEAMRAY_CMD_DIFF_H

#include "cmd/command.h"
#include "report/profile_report.h"

struct diff_request {
	const struct options *options;
	const char *format; /* "text", "json", "folded", "svg" */
	const char *a, *b;  /* FILE or FILE@N; b NULL: another look of a */
	const char *kind;   /* NULL: growth, or else the first there is */
	struct profile_report_opts filter;
};

/* Compares and writes; errors are printed. Returns the exit code. */
int diff_run(const struct diff_request *q);

#endif
