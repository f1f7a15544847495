/* SPDX-License-Identifier: Apache-2.0 */
/* What a recording counted by process and by allocator: collections, and carriers. */
#include "report/recording_view.h"

#include <stdlib.h>
#include <string.h>

#include "report/paragraph.h"
#include "report/table.h"

#define ROWS_SHOWN 10
#define BUCKETS	   64

/* The figures PREFIX.0 ... PREFIX.63 of a histogram: bucket n holds 2^n ns and more. */
static uint64_t histogram_get(const struct recording_subject *s, const char *prefix,
			      uint64_t buckets[BUCKETS])
{
	size_t len = strlen(prefix);
	uint64_t sum = 0;

	memset(buckets, 0, BUCKETS * sizeof(*buckets));
	for (size_t i = 0; i < s->n; i++) {
		const char *name = s->v[i].name;
		unsigned long n;
		char *end;

		if (strncmp(name, prefix, len) != 0 || name[len] != '.')
			continue;
		n = strtoul(name + len + 1, &end, 10);
		if (*end || n >= BUCKETS)
			continue;
		buckets[n] += s->v[i].value;
		sum += s->v[i].value;
	}
	return sum;
}

/* A time that half of all are shorter than, as far as buckets can tell: its upper end. */
static double median_ms(const struct recording_subject *s, const char *prefix)
{
	uint64_t buckets[BUCKETS], all = histogram_get(s, prefix, buckets), sum = 0;

	for (unsigned i = 0; i < BUCKETS - 1; i++) {
		sum += buckets[i];
		if (all && sum * 2 >= all)
			return (double)(1ull << (i + 1)) / 1e6;
	}
	return 0;
}

static void print(FILE *to, struct table *t, const char *title, const char *by,
		  const struct recording_text_opts *opts)
{
	struct table_text_opts text = { opts->unit, opts->columns,
					opts->verbose ? SIZE_MAX : ROWS_SHOWN };
	size_t n = table_rows(t);

	if (table_error(t) || !n)
		return;
	table_sort(t, by);
	fprintf(to, "\n%s\n", title);
	if (table_print(to, t, &text) < n)
		fprintf(to, "... of %zu; -v shows all\n", n);
}

/* ---- collections ------------------------------------------------------------------- */

enum { GC_COUNT, GC_MS, GC_LONGEST, GC_RECLAIMED, GC_HEAP, GC_NAME, GC_MAJOR, GC_LONG, GC_LARGE };

static const struct column gc_columns[] = {
	[GC_COUNT] = { "collections", "COUNT", COLUMN_COUNT },
	[GC_MS] = { "ms", "MS", COLUMN_REAL, .width = 10 },
	[GC_LONGEST] = { "longest_ms", "LONGEST", COLUMN_REAL, .width = 9 },
	[GC_RECLAIMED] = { "reclaimed", "RECLAIMED", COLUMN_WORDS },
	[GC_HEAP] = { "heap", "HEAP", COLUMN_WORDS },
	[GC_NAME] = { "process", "PROCESS", COLUMN_TEXT, .width = 22 },
	[GC_MAJOR] = { "major", "MAJOR", COLUMN_COUNT },
	[GC_LONG] = { "long_gc", "LONG", COLUMN_COUNT },
	[GC_LARGE] = { "large_heap", "LARGE", COLUMN_COUNT },
};

static void gc_row(struct table *t, const struct recording_subject *s)
{
	if (table_row(t))
		return;
	table_set(t, GC_COUNT, recording_figure(s, "minor") + recording_figure(s, "major"));
	table_set(t, GC_MAJOR, recording_figure(s, "major"));
	table_set_real(t, GC_MS, (double)recording_figure(s, "ns") / 1e6);
	table_set_real(t, GC_LONGEST, (double)recording_figure(s, "ns_max") / 1e6);
	/* what could not be told of some is not told of all */
	table_set(t, GC_RECLAIMED,
		  recording_figure(s, "reclaimed_unknown")
			  ? UINT64_MAX
			  : recording_figure(s, "reclaimed_words"));
	table_set(t, GC_HEAP, recording_figure(s, "heap_words"));
	table_text(t, GC_NAME, s->text);
	table_set(t, GC_LONG, recording_figure(s, "long_gc"));
	table_set(t, GC_LARGE, recording_figure(s, "large_heap"));
}

void collections_text(FILE *to, const struct recording_view *v,
		      const struct recording_text_opts *opts)
{
	uint64_t minor = 0, major = 0, ns = 0, dirty = 0, longest = 0;
	struct table *t;
	char text[400];

	if (!v->collections.n)
		return;
	t = table_new("gc", gc_columns, sizeof(gc_columns) / sizeof(gc_columns[0]));
	for (size_t i = 0; t && i < v->collections.n; i++) {
		const struct recording_subject *s = &v->collections.v[i];
		uint64_t max = recording_figure(s, "ns_max");

		minor += recording_figure(s, "minor");
		major += recording_figure(s, "major");
		dirty += recording_figure(s, "dirty");
		ns += recording_figure(s, "ns");
		longest = max > longest ? max : longest;
		if (recording_figure(s, "minor") + recording_figure(s, "major"))
			gc_row(t, s);
	}
	if (!t)
		return;
	snprintf(text, sizeof(text),
		 "%llu minor and %llu major collections took %.1f ms of the schedulers' time, the "
		 "longest %.2f ms; %llu of them on dirty schedulers. Heaps are both generations "
		 "after the last one.",
		 (unsigned long long)minor, (unsigned long long)major, (double)ns / 1e6,
		 (double)longest / 1e6, (unsigned long long)dirty);
	fputc('\n', to);
	paragraph(to, "", text, opts->columns);
	print(to, t, "COLLECTIONS BY PROCESS", "ms", opts);
	table_free(t);
}

/* ---- carriers ------------------------------------------------------------------------ */

enum { C_MADE, C_GONE, C_STAY, C_BYTES, C_LIFE, C_NAME };

static const struct column carrier_columns[] = {
	[C_MADE] = { "created", "MADE", COLUMN_COUNT },
	[C_GONE] = { "destroyed", "GIVEN BACK", COLUMN_COUNT, .width = 10 },
	[C_STAY] = { "net", "NET", COLUMN_SIGNED },
	[C_BYTES] = { "net_bytes", "NET BYTES", COLUMN_SIGNED_BYTES },
	[C_LIFE] = { "life_ms", "LIFE MS <", COLUMN_REAL, .width = 12 },
	[C_NAME] = { "allocator", "ALLOCATOR", COLUMN_TEXT, .width = 24 },
};

void made_carriers_text(FILE *to, const struct recording_view *v,
			const struct recording_text_opts *opts)
{
	struct table *t;

	if (!v->made_carriers.n)
		return;
	t = table_new("carriers", carrier_columns,
		      sizeof(carrier_columns) / sizeof(carrier_columns[0]));
	for (size_t i = 0; t && i < v->made_carriers.n; i++) {
		const struct recording_subject *s = &v->made_carriers.v[i];
		double life = median_ms(s, "life");

		if (table_row(t))
			break;
		table_set(t, C_MADE, recording_figure(s, "created"));
		table_set(t, C_GONE, recording_figure(s, "destroyed"));
		table_set_signed(t, C_STAY,
				 (int64_t)(recording_figure(s, "created") -
					   recording_figure(s, "destroyed")));
		table_set_signed(t, C_BYTES,
				 (int64_t)(recording_figure(s, "created_bytes") +
					   recording_figure(s, "grown_bytes") -
					   recording_figure(s, "destroyed_bytes") -
					   recording_figure(s, "shrunk_bytes")));
		if (life > 0)
			table_set_real(t, C_LIFE, life);
		table_text(t, C_NAME, s->text);
	}
	if (!t)
		return;
	print(to, t,
	      "CARRIERS BY ALLOCATOR, source (mseg or sys_alloc) and kind (LIFE: of half of them)",
	      "created", opts);
	table_free(t);
}

/* ---- JSON ---------------------------------------------------------------------------- */

json_t *subjects_json(const struct recording_subjects *s, const char *key)
{
	json_t *rows = json_array();

	for (size_t i = 0; i < s->n; i++) {
		json_t *row = json_object();

		json_object_set_new(row, key, json_string(s->v[i].text));
		for (size_t k = 0; k < s->v[i].n; k++)
			json_object_set_new(row, s->v[i].v[k].name,
					    json_integer((json_int_t)s->v[i].v[k].value));
		json_array_append_new(rows, row);
	}
	return rows;
}
