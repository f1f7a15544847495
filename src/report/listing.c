/* SPDX-License-Identifier: Apache-2.0 */
#include "report/listing.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "report/memory.h"
#include "report/paragraph.h"

#define ROWS_TEXT 20

struct listing *listing_new(const char *what)
{
	struct listing *l = calloc(1, sizeof(*l));

	if (l)
		l->what = what;
	return l;
}

void listing_free(struct listing *l)
{
	size_t i;

	if (!l)
		return;
	for (i = 0; i < l->n_tables; i++)
		table_free(l->tables[i]);
	for (i = 0; i < l->n_notes; i++)
		free(l->notes[i]);
	free(l);
}

struct table *listing_table(struct listing *l, const char *key, const struct column *columns,
			    size_t n)
{
	struct table *t = l->n_tables < LISTING_TABLES ? table_new(key, columns, n) : NULL;

	if (t)
		l->tables[l->n_tables++] = t;
	else
		l->error = -ENOMEM;
	return t;
}

void listing_fact(struct listing *l, const char *key, const char *label, enum column_kind kind,
		  uint64_t value)
{
	if (l->n_facts < LISTING_FACTS)
		l->facts[l->n_facts++] = (struct listing_fact){ key, label, kind, value };
}

void listing_fact_real(struct listing *l, const char *key, const char *label, enum column_kind kind,
		       double value)
{
	uint64_t bits;

	memcpy(&bits, &value, sizeof(bits));
	listing_fact(l, key, label, kind, bits);
}

void listing_note(struct listing *l, const char *fmt, ...)
{
	struct error safe = { 0 };
	char text[400];
	va_list ap;

	if (l->n_notes == LISTING_NOTES)
		return;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	error_set(&safe, EXIT_OK, 0, "%s", text);
	l->notes[l->n_notes] = strdup(safe.text);
	if (l->notes[l->n_notes])
		l->n_notes++;
	else
		l->error = -ENOMEM;
}

void listing_missing(struct listing *l, uint64_t missing, uint64_t of)
{
	l->missing += missing;
	l->of += of;
}

bool listing_complete(const struct listing *l)
{
	return l->missing <= l->of / 100;
}

/* ---- text -------------------------------------------------------------------------- */

static void fact_text(FILE *to, const struct listing_fact *f, enum unit unit)
{
	char buf[32];
	double real;

	memcpy(&real, &f->value, sizeof(real));
	if (f->value == UINT64_MAX)
		snprintf(buf, sizeof(buf), "unknown");
	else if (f->kind == COLUMN_BYTES || f->kind == COLUMN_WORDS)
		unit_format(buf, sizeof(buf), unit,
			    f->kind == COLUMN_WORDS ? 8 * f->value : f->value);
	else if (f->kind == COLUMN_SHARE)
		snprintf(buf, sizeof(buf), "%.1f%%", 100 * real);
	else if (f->kind == COLUMN_REAL)
		snprintf(buf, sizeof(buf), "%.2f", real);
	else
		snprintf(buf, sizeof(buf), "%llu", (unsigned long long)f->value);
	fprintf(to, "%s %s", f->label, buf);
}

/* Facts on as few lines as the page allows. */
static void facts_text(FILE *to, const struct listing *l, const struct listing_opts *opts)
{
	size_t used = 0, i;

	for (i = 0; i < l->n_facts; i++) {
		char one[160] = "";
		size_t len;
		FILE *f = fmemopen(one, sizeof(one), "w");

		if (!f)
			return;
		fact_text(f, &l->facts[i], opts->unit);
		fclose(f);
		len = strlen(one);
		if (used && used + 2 + len > opts->columns - 1) {
			fputs(",\n", to);
			used = 0;
		}
		fprintf(to, "%s%s", used ? ", " : "", one);
		used += len + (used ? 2 : 0);
	}
	if (l->n_facts)
		fputc('\n', to);
}

void listing_text(FILE *to, const struct observer *o, const struct look *look,
		  const struct listing *l, const struct listing_opts *opts)
{
	struct table_text_opts topts = { .unit = opts->unit,
					 .columns = opts->columns,
					 .rows = opts->rows ? opts->rows : ROWS_TEXT };
	size_t i;

	target_text(to, o, look);
	facts_text(to, l, opts);
	for (i = 0; i < l->n_tables; i++) {
		const struct table *t = l->tables[i];
		const char *name = i ? table_key(t) : l->noun ? l->noun : l->what;
		size_t shown;

		fputc('\n', to);
		if (!table_rows(t)) {
			fprintf(to, "no %s\n", name);
			continue;
		}
		shown = table_print(to, t, &topts);
		if (shown < table_rows(t))
			fprintf(to, "%zu of %zu %s (-n for more, --sort for another order)\n",
				shown, table_rows(t), name);
		else
			fprintf(to, "%zu %s\n", shown, name);
	}
	if (l->n_notes)
		fputc('\n', to);
	for (i = 0; i < l->n_notes; i++)
		paragraph(to, "- ", l->notes[i], opts->columns);
	if (!listing_complete(l))
		fprintf(to, "\nINCOMPLETE: more than 1%% could not be read.\n");
}

/* ---- JSON -------------------------------------------------------------------------- */

static json_t *fact_json(const struct listing_fact *f)
{
	double real;

	if (f->value == UINT64_MAX)
		return json_null();
	memcpy(&real, &f->value, sizeof(real));
	if (f->kind == COLUMN_REAL || f->kind == COLUMN_SHARE)
		return json_real(real);
	return json_integer((json_int_t)f->value);
}

/* Everything but the tables, which are written row by row. */
static json_t *head_json(const struct observer *o, const struct look *look, const struct listing *l)
{
	json_t *doc = json_object(), *summary = json_object(), *notes = json_array();
	char key[80], when[48];
	size_t i;

	for (i = 0; i < l->n_facts; i++) {
		const struct listing_fact *f = &l->facts[i];

		json_object_set_new(summary, f->key, fact_json(f));
		if (f->kind != COLUMN_WORDS)
			continue;
		snprintf(key, sizeof(key), "%s_bytes", f->key);
		json_object_set_new(summary, key,
				    f->value == UINT64_MAX
					    ? json_null()
					    : json_integer(8 * (json_int_t)f->value));
	}
	for (i = 0; i < l->n_notes; i++)
		json_array_append_new(notes, json_string(l->notes[i]));
	json_object_set_new(doc, "schema", json_string("beamray.list/1"));
	json_object_set_new(doc, "target", target_json(o));
	json_object_set_new(doc, "time", json_string(look_time(look, when, sizeof(when))));
	json_object_set_new(doc, "what", json_string(l->what));
	json_object_set_new(doc, "complete", json_boolean(listing_complete(l)));
	json_object_set_new(doc, "torn", json_integer((json_int_t)l->torn));
	json_object_set_new(doc, "notes", notes);
	json_object_set_new(doc, "summary", summary);
	return doc;
}

void listing_json(FILE *to, const struct observer *o, const struct look *look,
		  const struct listing *l, const struct listing_opts *opts)
{
	json_t *doc = head_json(o, look, l);
	char *head = doc ? json_dumps(doc, JSON_COMPACT | JSON_REAL_PRECISION(12)) : NULL;
	size_t i, len = head ? strlen(head) : 0;

	json_decref(doc);
	if (len)
		fwrite(head, 1, len - 1, to); /* its '}' comes last */
	free(head);
	for (i = 0; i < l->n_tables && len; i++) {
		fprintf(to, ",\"%s\":", table_key(l->tables[i]));
		table_json(to, l->tables[i], opts->rows ? opts->rows : SIZE_MAX);
	}
	if (len)
		fputs("}\n", to);
}
