/* SPDX-License-Identifier: Apache-2.0 */
/* What tracing cost and what it missed, from the counters of the last look. */
#include "report/recording_view.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "report/paragraph.h"
#include "report/table.h"

enum { S_SET, S_HITS, S_STACKS, S_ROOT, S_FAILED, S_FULL, S_LOST, S_MISSED, S_COST };

static const struct column columns[] = {
	[S_SET] = { "set", "TRACED", COLUMN_TEXT, .width = 8 },
	[S_HITS] = { "hits", "HITS", COLUMN_COUNT },
	[S_STACKS] = { "stacks", "STACKS", COLUMN_COUNT },
	[S_ROOT] = { "complete", "TO ROOT", COLUMN_SHARE },
	[S_FAILED] = { "failed_reads", "FAILED", COLUMN_COUNT, .width = 7 },
	[S_FULL] = { "full", "FULL", COLUMN_COUNT, .width = 5 },
	[S_LOST] = { "lost", "LOST", COLUMN_COUNT, .width = 5 },
	[S_MISSED] = { "missed", "MISSED", COLUMN_COUNT, .width = 7 },
	[S_COST] = { "cost", "OF CORE", COLUMN_SHARE },
};

static uint64_t at(const struct recording *r, const char *set, const char *what)
{
	uint64_t value = 0;
	char name[96];

	snprintf(name, sizeof(name), "trace.%s%s%s", set, *set ? "." : "", what);
	recording_counter_at(r, (unsigned)r->n_looks, name, &value);
	return value;
}

/* "trace.growth.hits": "growth", in `set`. */
static bool is_set(const struct recording_counter *c, unsigned look, char *set, size_t size)
{
	size_t n = strlen(c->name);

	if (c->look != look || n < 12 || strncmp(c->name, "trace.", 6) != 0 ||
	    strcmp(c->name + n - 5, ".hits") != 0 || n - 11 >= size)
		return false;
	memcpy(set, c->name + 6, n - 11);
	set[n - 11] = '\0';
	return strcmp(set, "core") != 0;
}

static void sets_text(FILE *to, const struct recording *r, const struct recording_text_opts *opts)
{
	struct table *t = table_new("sets", columns, sizeof(columns) / sizeof(columns[0]));
	struct table_text_opts o = { opts->unit, opts->columns, SIZE_MAX };
	char set[40];

	for (size_t i = 0; t && i < r->n_counters; i++) {
		uint64_t stacks;

		if (!is_set(&r->counters[i], (unsigned)r->n_looks, set, sizeof(set)) ||
		    table_row(t))
			continue;
		stacks = at(r, set, "stacks");
		table_text(t, S_SET, set);
		table_set(t, S_HITS, at(r, set, "hits"));
		table_set(t, S_STACKS, stacks);
		if (stacks)
			table_set_real(t, S_ROOT,
				       (double)at(r, set, "stacks_complete") / (double)stacks);
		table_set(t, S_FAILED, at(r, set, "failed_reads"));
		table_set(t, S_FULL, at(r, set, "full"));
		table_set(t, S_LOST, at(r, set, "lost"));
		table_set(t, S_MISSED, at(r, set, "missed"));
		table_set_real(t, S_COST, (double)at(r, set, "cpu_ppm") / 1e6);
	}
	if (t && table_rows(t)) {
		fputc('\n', to);
		table_print(to, t, &o);
		paragraph(to, "",
			  "FAILED: reads of the node's memory. FULL: no room in a table. LOST: "
			  "records that did not fit. MISSED: hits while the same program was "
			  "running on that processor, those of other processes included.",
			  opts->columns);
	}
	table_free(t);
}

void trace_text(FILE *to, const struct recording_view *v, const struct recording_text_opts *opts)
{
	const struct recording *r = v->recording;
	uint64_t cost, lost = at(r, "", "lost_records") + at(r, "", "lost_stacks");
	uint64_t stacks = at(r, "", "stacks");
	char kernel[32], own[32], text[400];

	if (!recording_counter_at(r, (unsigned)r->n_looks, "trace.cpu_ppm", &cost))
		return;
	if (opts->verbose)
		sets_text(to, r, opts);
	snprintf(text, sizeof(text),
		 "Tracing cost %.2f%% of one core, %s of kernel tables and %s of our own; %.1f%% "
		 "of %" PRIu64 " stacks reached their root; %" PRIu64 " records were lost.",
		 (double)cost / 1e4,
		 unit_format(kernel, sizeof(kernel), opts->unit, at(r, "", "kernel_bytes")),
		 unit_format(own, sizeof(own), opts->unit, at(r, "", "user_bytes")),
		 stacks ? 100.0 * (double)at(r, "", "stacks_complete") / (double)stacks : 100.0,
		 stacks, lost);
	fputc('\n', to);
	paragraph(to, "", text, opts->columns);
}
