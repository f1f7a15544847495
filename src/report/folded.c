/* SPDX-License-Identifier: Apache-2.0 */
/*
 * "Folded" stacks: what flamegraph.pl, speedscope and many others read.
 *
 *	my_server;my_server:handle_call/3;leak [leak_nif.so];malloc [libc.so.6] 4096
 *
 * A weight may be negative (memory that these stacks gave back, net). With a base
 * there are two weights, the base's first.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "report/profile_report.h"

int profile_folded(FILE *to, const struct profile_report *r)
{
	uint32_t *path = calloc((size_t)r->depth + 1, sizeof(*path));
	size_t i;

	if (!path)
		return -ENOMEM;
	for (i = 1; i < r->n_nodes; i++)
		if (r->nodes[i].self || r->nodes[i].base_self) {
			report_path(to, r, (uint32_t)i, path);
			if (r->has_base)
				fprintf(to, " %" PRId64, r->nodes[i].base_self);
			fprintf(to, " %" PRId64 "\n", r->nodes[i].self);
		}
	free(path);
	return 0;
}
