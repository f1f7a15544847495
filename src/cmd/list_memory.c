/* SPDX-License-Identifier: Apache-2.0 */
/* beamray list memory: the categories of erlang:memory(). */
#include "cmd/list.h"

#include <errno.h>

enum { NAME, BYTES, PERCENT, N_COLUMNS };

static const struct column columns[] = {
	[NAME] = { .key = "category", .header = "CATEGORY", .kind = COLUMN_TEXT, .width = 16 },
	[BYTES] = { .key = "bytes", .header = "BYTES", .kind = COLUMN_BYTES },
	[PERCENT] = { .key = "of_total", .header = "OF TOTAL", .kind = COLUMN_SHARE },
};

static int collect(struct list_run *run, struct error *err)
{
	const struct vm_memory *m = &run->look->memory;
	const struct {
		const char *name;
		uint64_t bytes;
	} rows[] = {
		{ "total", m->total },
		{ "processes", m->processes },
		{ "processes_used", m->processes_used },
		{ "system", m->system },
		{ "atom", m->atom },
		{ "atom_used", m->atom_used },
		{ "binary", m->binary },
		{ "code", m->code },
		{ "ets", m->ets },
	};
	struct table *t = listing_table(run->listing, "rows", columns, N_COLUMNS);
	bool unknown = false;
	size_t i;

	(void)err;
	if (!t)
		return -ENOMEM;
	run->listing->noun = "categories";
	for (i = 0; i < sizeof(rows) / sizeof(rows[0]) && !table_row(t); i++) {
		table_text(t, NAME, rows[i].name);
		table_set(t, BYTES, rows[i].bytes);
		if (rows[i].bytes != UINT64_MAX && m->total != UINT64_MAX && m->total)
			table_set_real(t, PERCENT, (double)rows[i].bytes / (double)m->total);
		unknown |= rows[i].bytes == UINT64_MAX;
	}
	if (unknown)
		listing_note(run->listing, "Not all categories are known: %s",
			     m->why[0] ? m->why : "a counter of the VM could not be found.");
	return 0;
}

const struct list_what list_memory = {
	.name = "memory",
	.summary = "the categories of erlang:memory()",
	.sort = "bytes",
	.collect = collect,
};
