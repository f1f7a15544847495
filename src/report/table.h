/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A table: columns described once, rows of cells, shown as text and as JSON.
 *
 * A column says how its cells are called in JSON (`key`: the VM's own name for
 * the thing, where it has one), what stands above them in text, and of what kind
 * they are; kind decides unit, alignment and JSON type, and words are shown in
 * bytes as text and under two keys in JSON. A cell that has not been set is
 * null: "not there, or not known", never 0.
 *
 *	enum { NAME, SIZE };
 *	static const struct column columns[] = {
 *		[NAME] = { "name", "NAME", COLUMN_TEXT, .width = 20 },
 *		[SIZE] = { "size", "SIZE", COLUMN_WORDS },
 *	};
 *
 *	struct table *t = table_new("rows", columns, 2);
 *	if (table_row(t) == 0) {
 *		table_text(t, NAME, escaped);
 *		table_set(t, SIZE, words);
 *	}
 *
 * Rows are eight bytes a cell and a shared heap of texts, so that a million
 * processes fit; nothing is formatted before it is printed.
 */
#ifndef BEAMRAY_REPORT_TABLE_H
#define BEAMRAY_REPORT_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "report/units.h"

enum column_kind {
	COLUMN_TEXT,   /* left; cut with a '~' where it does not fit; JSON string */
	COLUMN_COUNT,  /* right; JSON integer */
	COLUMN_BYTES,  /* right, with unit; JSON integer */
	COLUMN_WORDS,  /* eight bytes each: text in bytes; JSON `key` and `key_bytes` */
	COLUMN_SIGNED, /* a count that may be negative, with its sign */
	COLUMN_SIGNED_BYTES,
	COLUMN_REAL,  /* two decimals */
	COLUMN_SHARE, /* 0.0 to 1.0: text in percent, JSON real */
	COLUMN_FLAG,  /* text "yes" or "-", JSON true or false */
};

struct column {
	const char *key;
	const char *header; /* NULL: not shown as text unless it is sorted by */
	enum column_kind kind;
	unsigned width; /* characters; 0: what the kind needs */
	bool fixed;	/* a text that gets no share of what the page has left over */
	bool ascending; /* sorted by it: smallest first (texts always are) */
};

struct table; /* opaque */

/* `key` is the member of the JSON document ("rows" for the main table); key and
 * columns are borrowed. NULL when out of memory. */
struct table *table_new(const char *key, const struct column *columns, size_t n);
void table_free(struct table *t);

/* Appends a row whose cells are all null; the setters below fill the last row.
 * 0 or -ENOMEM (then the setters change nothing any more; see table_error()). */
int table_row(struct table *t);
/* Takes the last row back: what it described has gone while it was being read. */
void table_row_drop(struct table *t);
/* COUNT, BYTES, WORDS (in words), FLAG. UINT64_MAX is null. */
void table_set(struct table *t, unsigned column, uint64_t value);
void table_set_signed(struct table *t, unsigned column, int64_t value);
void table_set_real(struct table *t, unsigned column, double value); /* REAL, SHARE */
/* Copies `text`, which must have been escaped already; NULL is null. */
void table_text(struct table *t, unsigned column, const char *text);
/* The first error of any of the above, 0 if none. */
int table_error(const struct table *t);

size_t table_rows(const struct table *t);
const char *table_key(const struct table *t);
/* Reads a cell back: UINT64_MAX if it is null. `row` in the order of adding. */
uint64_t table_get(const struct table *t, size_t row, unsigned column);
const char *table_get_text(const struct table *t, size_t row, unsigned column); /* or NULL */

/* Puts the rows in order of the column with this key ("heap_size_bytes" means
 * "heap_size"): largest first, texts and ascending columns smallest first, null
 * last; equal rows stay in the order of adding. False if there is no such key.
 * The column is shown in text from then on. */
bool table_sort(struct table *t, const char *key);
/* All keys one can sort by, separated by ", ". */
void table_keys(const struct table *t, char *buf, size_t size);

struct table_text_opts {
	enum unit unit;
	unsigned columns; /* width of the page */
	size_t rows;	  /* at most so many */
};
/* Header and the first rows. Columns that do not fit the page are left out from
 * the right; the one sorted by never is. Returns the number of rows printed. */
size_t table_print(FILE *to, const struct table *t, const struct table_text_opts *opts);
/* The rows as a JSON array, at most `rows` of them. */
void table_json(FILE *to, const struct table *t, size_t rows);

/* A text as a JSON string, with its quotes. */
void json_text(FILE *to, const char *text);

#endif
