/* SPDX-License-Identifier: Apache-2.0 */
/*
 * "Folded" stacks: what flamegraph.pl, speedscope and many others read.
 *
 *	my_server;my_server:handle_call/3;leak [leak_nif.so];malloc [libc.so.6] 4096
 *
 * A weight may be negative (memory that these stacks gave back, net).
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "report/profile_report.h"

/* ";" would end a frame; it is written as other unprintable bytes are. */
static void put_name(FILE *to, const char *text)
{
	for (; *text; text++)
		if (*text == ';')
			fputs("\\x3B", to);
		else
			putc(*text, to);
}

static void put_line(FILE *to, const struct profile_report *r, uint32_t node, uint32_t *path)
{
	size_t n = 0;
	uint32_t at;

	for (at = node; at; at = r->nodes[at].parent)
		path[n++] = r->nodes[at].name;
	while (n-- > 0) {
		put_name(to, r->names[path[n]].text);
		if (n)
			putc(';', to);
	}
	fprintf(to, " %" PRId64 "\n", r->nodes[node].self);
}

int profile_folded(FILE *to, const struct profile_report *r)
{
	uint32_t *path = calloc((size_t)r->depth + 1, sizeof(*path));
	size_t i;

	if (!path)
		return -ENOMEM;
	for (i = 1; i < r->n_nodes; i++)
		if (r->nodes[i].self)
			put_line(to, r, (uint32_t)i, path);
	free(path);
	return 0;
}
