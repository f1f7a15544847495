/* SPDX-License-Identifier: Apache-2.0 */
#include "report/table.h"

#include <errno.h>
#include <jansson.h>
#include <locale.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <wchar.h>

#define NONE	    UINT64_MAX
#define NONE_SIGNED INT64_MIN
#define COLUMNS_MAX 96
#define WORD	    8

struct table {
	const char *key;
	const struct column *columns;
	size_t n_columns;
	uint64_t *cells; /* rows of n_columns; a text is its offset in `text` */
	size_t n, allocated;
	char *text;
	size_t text_len, text_allocated;
	uint32_t *order;  /* permutation of rows once sorted, else NULL */
	size_t sorted_by; /* SIZE_MAX: not */
	int error;
};

struct table *table_new(const char *key, const struct column *columns, size_t n)
{
	struct table *t = calloc(1, sizeof(*t));

	if (!t || n > COLUMNS_MAX) {
		free(t);
		return NULL;
	}
	t->key = key;
	t->columns = columns;
	t->n_columns = n;
	t->sorted_by = SIZE_MAX;
	return t;
}

void table_free(struct table *t)
{
	if (!t)
		return;
	free(t->cells);
	free(t->text);
	free(t->order);
	free(t);
}

static bool is_signed(enum column_kind kind)
{
	return kind == COLUMN_SIGNED || kind == COLUMN_SIGNED_BYTES;
}

static uint64_t none_of(enum column_kind kind)
{
	return is_signed(kind) ? (uint64_t)NONE_SIGNED : NONE;
}

int table_row(struct table *t)
{
	size_t i;

	if (t->error)
		return t->error;
	if (t->n == t->allocated) {
		size_t more = t->allocated ? t->allocated + t->allocated / 2 : 64;
		uint64_t *v = more > UINT32_MAX
				      ? NULL
				      : realloc(t->cells, more * t->n_columns * sizeof(*v));

		if (!v)
			return t->error = -ENOMEM;
		t->cells = v;
		t->allocated = more;
	}
	for (i = 0; i < t->n_columns; i++)
		t->cells[t->n * t->n_columns + i] = none_of(t->columns[i].kind);
	t->n++;
	return 0;
}

void table_row_drop(struct table *t)
{
	if (t->n && !t->error)
		t->n--;
}

static uint64_t *last(struct table *t, unsigned column)
{
	return t->n && !t->error && column < t->n_columns
		       ? &t->cells[(t->n - 1) * t->n_columns + column]
		       : NULL;
}

void table_set(struct table *t, unsigned column, uint64_t value)
{
	uint64_t *cell = last(t, column);

	if (cell)
		*cell = value;
}

void table_set_signed(struct table *t, unsigned column, int64_t value)
{
	table_set(t, column, (uint64_t)value);
}

void table_set_real(struct table *t, unsigned column, double value)
{
	uint64_t bits;

	memcpy(&bits, &value, sizeof(bits));
	table_set(t, column, isfinite(value) ? bits : NONE);
}

void table_text(struct table *t, unsigned column, const char *text)
{
	size_t len = text ? strlen(text) + 1 : 0;
	const char *above = t->n > 1 ? table_get_text(t, t->n - 2, column) : NULL;

	if (!text || t->error)
		return;
	if (above && strcmp(above, text) == 0) { /* neighbours often have it in common */
		table_set(t, column, (uint64_t)(above - t->text));
		return;
	}
	if (!t->text || t->text_allocated - t->text_len < len) {
		size_t more = t->text_allocated + t->text_allocated / 2 + len + 4096;
		char *v = realloc(t->text, more);

		if (!v) {
			t->error = -ENOMEM;
			return;
		}
		t->text = v;
		t->text_allocated = more;
	}
	memcpy(t->text + t->text_len, text, len);
	table_set(t, column, t->text_len);
	t->text_len += len;
}

int table_error(const struct table *t)
{
	return t->error;
}

size_t table_rows(const struct table *t)
{
	return t->n;
}

const char *table_key(const struct table *t)
{
	return t->key;
}

uint64_t table_get(const struct table *t, size_t row, unsigned column)
{
	uint64_t v;

	if (row >= t->n || column >= t->n_columns)
		return NONE;
	v = t->cells[row * t->n_columns + column];
	return v == none_of(t->columns[column].kind) ? NONE : v;
}

const char *table_get_text(const struct table *t, size_t row, unsigned column)
{
	uint64_t at = table_get(t, row, column);

	return column < t->n_columns && t->columns[column].kind == COLUMN_TEXT && at < t->text_len
		       ? t->text + at
		       : NULL;
}

/* ---- order ------------------------------------------------------------------------- */

static double real_of(uint64_t bits)
{
	double v;

	memcpy(&v, &bits, sizeof(v));
	return v;
}

static int compare_cells(const struct table *t, const struct column *c, uint64_t a, uint64_t b)
{
	double x, y;

	switch (c->kind) {
	case COLUMN_TEXT:
		return strcmp(t->text + a, t->text + b);
	case COLUMN_SIGNED:
	case COLUMN_SIGNED_BYTES:
		return (int64_t)a < (int64_t)b ? -1 : (int64_t)a > (int64_t)b;
	case COLUMN_REAL:
	case COLUMN_SHARE:
		x = real_of(a);
		y = real_of(b);
		return x < y ? -1 : x > y;
	default:
		return a < b ? -1 : a > b;
	}
}

static int compare_rows(const void *pa, const void *pb, void *ctx)
{
	const struct table *t = ctx;
	const struct column *c = &t->columns[t->sorted_by];
	uint32_t ra = *(const uint32_t *)pa, rb = *(const uint32_t *)pb;
	uint64_t a = t->cells[ra * t->n_columns + t->sorted_by];
	uint64_t b = t->cells[rb * t->n_columns + t->sorted_by];
	uint64_t none = none_of(c->kind);
	int order = 0;

	if (a != none && b != none) {
		order = compare_cells(t, c, a, b);
		if (c->kind != COLUMN_TEXT && !c->ascending)
			order = -order;
	} else if (a != b) {
		return a == none ? 1 : -1;
	}
	return order ? order : ra < rb ? -1 : 1;
}

static bool key_is(const struct column *c, const char *key)
{
	size_t n = strlen(c->key);

	return strncmp(key, c->key, n) == 0 &&
	       (!key[n] || (c->kind == COLUMN_WORDS && strcmp(key + n, "_bytes") == 0));
}

bool table_sort(struct table *t, const char *key)
{
	size_t i, k;

	for (k = 0; k < t->n_columns && !key_is(&t->columns[k], key); k++)
		;
	if (k == t->n_columns)
		return false;
	free(t->order);
	t->order = malloc((t->n ? t->n : 1) * sizeof(*t->order));
	t->sorted_by = k;
	if (!t->order) {
		t->error = -ENOMEM;
		return true;
	}
	for (i = 0; i < t->n; i++)
		t->order[i] = (uint32_t)i;
	qsort_r(t->order, t->n, sizeof(*t->order), compare_rows, t);
	return true;
}

void table_keys(const struct table *t, char *buf, size_t size)
{
	size_t at = 0, i;

	if (size)
		buf[0] = '\0';
	for (i = 0; i < t->n_columns && at + 1 < size; i++) {
		int n = snprintf(buf + at, size - at, "%s%s", i ? ", " : "", t->columns[i].key);

		at += n < 0 ? 0 : (size_t)n;
	}
}

static const uint64_t *row_at(const struct table *t, size_t i)
{
	return t->cells + (t->order ? t->order[i] : i) * t->n_columns;
}

/* ---- text -------------------------------------------------------------------------- */

#define GAP 1 /* between columns */

static unsigned width_of(const struct column *c)
{
	static const unsigned widths[] = {
		[COLUMN_TEXT] = 16,  [COLUMN_COUNT] = 9,  [COLUMN_BYTES] = 10,
		[COLUMN_WORDS] = 10, [COLUMN_SIGNED] = 9, [COLUMN_SIGNED_BYTES] = 10,
		[COLUMN_REAL] = 8,   [COLUMN_SHARE] = 6,  [COLUMN_FLAG] = 3,
	};
	size_t header = c->header ? strlen(c->header) : strlen(c->key);
	unsigned w = c->width ? c->width : widths[c->kind];

	return header > w && c->kind != COLUMN_TEXT ? (unsigned)header : w;
}

/* A count in `width` characters: exact if it fits, else with a decimal prefix. */
static void format_count(char *buf, size_t size, uint64_t v, unsigned width, const char *sign)
{
	static const char prefixes[] = "kMGTPE";
	double d = (double)v;
	size_t i = 0;

	if (snprintf(buf, size, "%s%llu", sign, (unsigned long long)v) <= (int)width)
		return;
	for (d /= 1000; d >= 1000 && i + 2 < sizeof(prefixes); i++)
		d /= 1000;
	snprintf(buf, size, "%s%.1f%c", sign, d, prefixes[i]);
}

/* Bytes in `width` characters; from 1,000 GiB on without decimals. */
static void format_bytes(char *buf, size_t size, uint64_t v, enum unit unit, unsigned width)
{
	unit_format(buf, size, unit, v);
	if (strlen(buf) > width)
		snprintf(buf, size, "%.0f GiB", (double)v / (1ull << 30));
}

static void format_cell(char *buf, size_t size, const struct column *c, uint64_t v, enum unit unit,
			unsigned width)
{
	int64_t s = (int64_t)v;

	if (v == none_of(c->kind)) {
		snprintf(buf, size, "-");
		return;
	}
	switch (c->kind) {
	case COLUMN_COUNT:
		format_count(buf, size, v, width, "");
		break;
	case COLUMN_BYTES:
		format_bytes(buf, size, v, unit, width);
		break;
	case COLUMN_WORDS:
		format_bytes(buf, size, v < UINT64_MAX / WORD ? v * WORD : UINT64_MAX - 1, unit,
			     width);
		break;
	case COLUMN_SIGNED:
		format_count(buf, size, s < 0 ? 0 - (uint64_t)s : (uint64_t)s, width,
			     s < 0   ? "-"
			     : s > 0 ? "+"
				     : "");
		break;
	case COLUMN_SIGNED_BYTES:
		if (s)
			unit_format_signed(buf, size, unit, s);
		else
			snprintf(buf, size, "0 B");
		break;
	case COLUMN_REAL:
		snprintf(buf, size, "%.2f", real_of(v));
		break;
	case COLUMN_SHARE:
		snprintf(buf, size, "%.1f%%", 100 * real_of(v));
		break;
	case COLUMN_FLAG:
		snprintf(buf, size, "%s", v ? "yes" : "-");
		break;
	case COLUMN_TEXT:
		break;
	}
}

/* Prints `text` (valid UTF-8) in exactly `width` columns of a terminal, its end
 * replaced by a mark when it is longer; the last column is not filled up. */
static void print_text(FILE *to, const char *text, unsigned width, bool fill)
{
	size_t at = 0, cut = 0;
	unsigned used = 0, cut_used = 0;
	mbstate_t state = { 0 };
	size_t len = strlen(text);

	while (at < len) {
		wchar_t c;
		size_t n = mbrtowc(&c, text + at, len - at, &state);
		int w = n == (size_t)-1 || n == (size_t)-2 ? -1 : wcwidth(c);

		if (w < 0) { /* not in this locale: a byte is a column */
			memset(&state, 0, sizeof(state));
			w = 1;
			n = 1;
		}
		if (used + (unsigned)w > width)
			break;
		used += (unsigned)w;
		at += n ? n : 1;
		if (used < width) {
			cut = at;
			cut_used = used;
		}
	}
	if (at < len) {
		fprintf(to, "%.*s~", (int)cut, text);
		used = cut_used + 1;
	} else {
		fputs(text, to);
	}
	if (fill && used < width)
		fprintf(to, "%*s", (int)(width - used), "");
}

/* The longest text of a column in the first rows, in bytes: never too small. */
static unsigned longest(const struct table *t, size_t column, size_t rows)
{
	size_t most = 0, i;

	for (i = 0; i < t->n && i < rows; i++) {
		uint64_t at = row_at(t, i)[column];
		size_t len = at == NONE ? 1 : strlen(t->text + at);

		most = len > most ? len : most;
	}
	return (unsigned)most;
}

/* Which columns are shown, and how wide. Texts share what is left of the page, as
 * far as they need it. Returns how many. */
static size_t choose(const struct table *t, unsigned page, size_t rows, unsigned *shown,
		     unsigned *widths)
{
	unsigned used = 0, texts = 0, left;
	size_t n = 0, i;
	bool fits[COLUMNS_MAX] = { false };

	if (t->sorted_by < t->n_columns) {
		fits[t->sorted_by] = true;
		used = width_of(&t->columns[t->sorted_by]) + GAP;
	}
	for (i = 0; i < t->n_columns; i++) {
		unsigned w = width_of(&t->columns[i]) + GAP;

		if (fits[i] || !t->columns[i].header)
			continue;
		if (used + w > page + GAP)
			break;
		fits[i] = true;
		used += w;
	}
	for (i = 0; i < t->n_columns; i++)
		if (fits[i]) {
			shown[n] = (unsigned)i;
			widths[n++] = width_of(&t->columns[i]);
			texts += t->columns[i].kind == COLUMN_TEXT && !t->columns[i].fixed;
		}
	left = page + GAP > used ? page + GAP - used : 0;
	for (i = 0; i < n && texts; i++) {
		unsigned share = left / texts, need;

		if (t->columns[shown[i]].kind != COLUMN_TEXT || t->columns[shown[i]].fixed)
			continue;
		need = longest(t, shown[i], rows);
		need = need > widths[i] ? need - widths[i] : 0;
		share = share < need ? share : need;
		widths[i] += share;
		left -= share;
		texts--;
	}
	return n;
}

size_t table_print(FILE *to, const struct table *t, const struct table_text_opts *opts)
{
	unsigned shown[COLUMNS_MAX], widths[COLUMNS_MAX];
	size_t n = choose(t, opts->columns, opts->rows, shown, widths), i, k;
	locale_t utf8 = newlocale(LC_CTYPE_MASK, "C.UTF-8", (locale_t)0);
	locale_t before = utf8 ? uselocale(utf8) : (locale_t)0;
	char buf[64];

	for (k = 0; k < n; k++) {
		const struct column *c = &t->columns[shown[k]];
		const char *header = c->header ? c->header : c->key;

		if (c->kind == COLUMN_TEXT)
			print_text(to, header, widths[k], k + 1 < n);
		else
			fprintf(to, "%*s", (int)widths[k], header);
		fputs(k + 1 < n ? " " : "\n", to);
	}
	for (i = 0; i < t->n && i < opts->rows; i++) {
		const uint64_t *row = row_at(t, i);

		for (k = 0; k < n; k++) {
			const struct column *c = &t->columns[shown[k]];
			uint64_t v = row[shown[k]];

			if (c->kind == COLUMN_TEXT) {
				print_text(to, v == NONE ? "-" : t->text + v, widths[k], k + 1 < n);
			} else {
				format_cell(buf, sizeof(buf), c, v, opts->unit, widths[k]);
				fprintf(to, "%*s", (int)widths[k], buf);
			}
			fputs(k + 1 < n ? " " : "\n", to);
		}
	}
	if (utf8) {
		uselocale(before);
		freelocale(utf8);
	}
	return i;
}

/* ---- JSON -------------------------------------------------------------------------- */

/*
 * Rows are written one by one and not built as a document first: a hundred
 * thousand processes of forty columns would be four million objects. What needs
 * care, strings and reals, goes through the JSON library.
 */

static void json_value(FILE *to, json_t *v)
{
	if (v)
		json_dumpf(v, to, JSON_ENCODE_ANY | JSON_REAL_PRECISION(12));
	else
		fputs("null", to);
	json_decref(v);
}

void json_text(FILE *to, const char *text)
{
	json_value(to, json_string(text));
}

static void json_number(FILE *to, uint64_t v, bool negative)
{
	char buf[24], *p = buf + sizeof(buf);

	do {
		*--p = (char)('0' + v % 10);
		v /= 10;
	} while (v);
	if (negative)
		*--p = '-';
	fwrite_unlocked(p, 1, (size_t)(buf + sizeof(buf) - p), to);
}

static void json_cell(FILE *to, const struct table *t, const struct column *c, uint64_t v)
{
	int64_t s = (int64_t)v;

	if (v == none_of(c->kind)) {
		fputs_unlocked("null", to);
		return;
	}
	switch (c->kind) {
	case COLUMN_TEXT:
		json_text(to, t->text + v);
		break;
	case COLUMN_SIGNED:
	case COLUMN_SIGNED_BYTES:
		json_number(to, s < 0 ? 0 - (uint64_t)s : (uint64_t)s, s < 0);
		break;
	case COLUMN_REAL:
	case COLUMN_SHARE:
		json_value(to, json_real(real_of(v)));
		break;
	case COLUMN_FLAG:
		fputs_unlocked(v ? "true" : "false", to);
		break;
	default:
		json_number(to, v, false);
	}
}

static void json_key(FILE *to, const char *key, const char *suffix)
{
	fputs_unlocked("\"", to);
	fputs_unlocked(key, to);
	fputs_unlocked(suffix, to);
	fputs_unlocked("\":", to);
}

void table_json(FILE *to, const struct table *t, size_t rows)
{
	size_t i, k;

	fputs("[", to);
	for (i = 0; i < t->n && i < rows; i++) {
		const uint64_t *row = row_at(t, i);

		fputs_unlocked(i ? ",\n{" : "\n{", to);
		for (k = 0; k < t->n_columns; k++) {
			const struct column *c = &t->columns[k];

			if (k)
				fputs_unlocked(",", to);
			json_key(to, c->key, "");
			json_cell(to, t, c, row[k]);
			if (c->kind == COLUMN_WORDS) {
				fputs_unlocked(",", to);
				json_key(to, c->key, "_bytes");
				json_cell(to, t, c,
					  row[k] < UINT64_MAX / WORD ? row[k] * WORD : NONE);
			}
		}
		fputs_unlocked("}", to);
	}
	fputs("]", to);
}
