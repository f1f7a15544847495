/* SPDX-License-Identifier: Apache-2.0 */
/* What the files that make a profile_report share. */
#ifndef BEAMRAY_REPORT_PROFILE_REPORT_INT_H
#define BEAMRAY_REPORT_PROFILE_REPORT_INT_H

#include "report/profile_report.h"

struct report_index {
	uint32_t *names; /* hash of text and kind -> number + 1 */
	size_t n_names, a_names_array;
	uint32_t *nodes; /* hash of parent and name -> number + 1 */
	size_t n_nodes, a_nodes_array;
	size_t a_frames, a_stacks;
};

/* Makes the array hold `more` more; doubles it when full. 0, -ENOMEM, -E2BIG. */
int report_reserve(void *array, size_t n, size_t *allocated, size_t more, size_t size, size_t max);
/* Makes r->nodes of r->stacks. */
int report_tree(struct profile_report *r);

#endif
