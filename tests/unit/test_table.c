/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tables: order, width of the page, and what JSON says of the same cells, read
 * back by the JSON library.
 */
#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "report/table.h"
#include "target/escape.h"

enum { NAME, COUNT, BYTES, WORDS, DELTA, SHARE, FLAG, HIDDEN, N };

static const struct column columns[] = {
	[NAME] = { .key = "name", .header = "NAME", .kind = COLUMN_TEXT, .width = 12 },
	[COUNT] = { .key = "count", .header = "COUNT", .kind = COLUMN_COUNT },
	[BYTES] = { .key = "bytes", .header = "BYTES", .kind = COLUMN_BYTES },
	[WORDS] = { .key = "size", .header = "SIZE", .kind = COLUMN_WORDS },
	[DELTA] = { .key = "delta", .header = "DELTA", .kind = COLUMN_SIGNED },
	[SHARE] = { .key = "share", .header = "SHARE", .kind = COLUMN_SHARE },
	[FLAG] = { .key = "flag", .header = "FLAG", .kind = COLUMN_FLAG },
	[HIDDEN] = { .key = "hidden", .kind = COLUMN_COUNT },
};

#define LONG                                                                                 \
	("a_name_that_is_longer_than_any_page_that_a_terminal_has_and_then_some_more_of_it_" \
	 "and_more_still_because_an_atom_may_have_two_hundred_and_fifty_five_characters")

static const char *const raw_names[] = {
	"plain",
	"",
	"\x1b[31mred",
	"tab\tnew\nline",
	"\"quoted\\\"",
	"\xc3\xa4\xe2\x82\xac\xe4\xbd\xa0\xe5\xa5\xbd\xe4\xbd\xa0\xe5\xa5\xbd\xe4\xbd\xa0\xe5\xa5\xbd",
	"\xff\xfe",
	LONG,
};
#define N_NAMES (sizeof(raw_names) / sizeof(raw_names[0]))

static struct table *made(size_t rows)
{
	struct table *t = table_new("rows", columns, N);
	char safe[1200];
	size_t i;

	assert_non_null(t);
	for (i = 0; i < rows; i++) {
		assert_int_equal(table_row(t), 0);
		if (i % 7 == 3)
			continue; /* all null */
		table_text(t, NAME, escape_string(safe, sizeof(safe), raw_names[i % N_NAMES]));
		table_set(t, COUNT, i * 2654435761u % 1000);
		table_set(t, BYTES, i << (i % 40));
		table_set(t, WORDS, i);
		table_set_signed(t, DELTA, (int64_t)i - 5);
		table_set_real(t, SHARE, (double)i / (double)rows);
		table_set(t, FLAG, i & 1);
		table_set(t, HIDDEN, rows - i);
	}
	return t;
}

static char *print(const struct table *t, unsigned page, size_t rows, size_t *shown)
{
	char *text = NULL;
	size_t len;
	FILE *f = open_memstream(&text, &len);
	struct table_text_opts opts = { .unit = UNIT_AUTO, .columns = page, .rows = rows };

	assert_non_null(f);
	*shown = table_print(f, t, &opts);
	fclose(f);
	return text;
}

static json_t *json(const struct table *t, size_t rows)
{
	char *text = NULL;
	size_t len;
	FILE *f = open_memstream(&text, &len);
	json_t *j;
	json_error_t e;

	assert_non_null(f);
	table_json(f, t, rows);
	fclose(f);
	j = json_loads(text, JSON_REJECT_DUPLICATES, &e);
	if (!j)
		print_error("%s: %s\n", e.text, text);
	assert_non_null(j);
	free(text);
	return j;
}

/* Columns of a terminal, as this test counts them: a code point is one, those of
 * the CJK block used above are two. */
static size_t width(const char *line, size_t len)
{
	size_t n = 0, i;

	for (i = 0; i < len; i++)
		n += ((unsigned char)line[i] & 0xc0) != 0x80 ? 1 + ((unsigned char)line[i] >= 0xe4)
							     : 0;
	return n;
}

static void order_is_by_value_and_null_is_last(void **state)
{
	struct table *t = made(40);
	json_t *rows, *row;
	int64_t last = INT64_MAX;
	bool nulls = false;
	size_t i;

	assert_true(table_sort(t, "count"));
	rows = json(t, SIZE_MAX);
	assert_int_equal(json_array_size(rows), 40);
	json_array_foreach(rows, i, row) {
		json_t *v = json_object_get(row, "count");

		if (json_is_null(v)) {
			nulls = true;
			continue;
		}
		assert_false(nulls);
		assert_true(json_integer_value(v) <= last);
		last = json_integer_value(v);
	}
	assert_true(nulls);
	json_decref(rows);
	assert_true(table_sort(t, "delta"));
	rows = json(t, 1);
	assert_int_equal(json_integer_value(json_object_get(json_array_get(rows, 0), "delta")), 34);
	json_decref(rows);
	assert_true(table_sort(t, "size_bytes"));
	assert_false(table_sort(t, "bytes_bytes"));
	assert_false(table_sort(t, "nothing"));
	assert_false(table_sort(t, ""));
	table_free(t);
}

static void json_says_what_was_set(void **state)
{
	struct table *t = made(40);
	json_t *rows = json(t, SIZE_MAX);
	char safe[1200];
	size_t i;

	for (i = 0; i < 40; i++) {
		json_t *row = json_array_get(rows, i);

		assert_int_equal(json_object_size(row), N + 1);
		if (i % 7 == 3) {
			assert_true(json_is_null(json_object_get(row, "delta")));
			assert_true(json_is_null(json_object_get(row, "name")));
			assert_true(json_is_null(json_object_get(row, "size_bytes")));
			continue;
		}
		escape_string(safe, sizeof(safe), raw_names[i % N_NAMES]);
		assert_string_equal(json_string_value(json_object_get(row, "name")), safe);
		assert_int_equal(json_integer_value(json_object_get(row, "bytes")), i << (i % 40));
		assert_int_equal(json_integer_value(json_object_get(row, "size_bytes")), 8 * i);
		assert_int_equal(json_integer_value(json_object_get(row, "delta")), (int64_t)i - 5);
		assert_true(json_is_boolean(json_object_get(row, "flag")));
	}
	json_decref(rows);
	table_free(t);
}

static void text_keeps_to_the_page(void **state)
{
	static const unsigned pages[] = { 80, 81, 100, 160 };
	struct table *t = made(64);
	size_t p, shown;

	assert_true(table_sort(t, "hidden"));
	for (p = 0; p < sizeof(pages) / sizeof(pages[0]); p++) {
		char *text = print(t, pages[p], 50, &shown), *line = text, *end;
		size_t lines = 0;

		assert_int_equal(shown, 50);
		assert_non_null(strstr(text, "hidden")); /* sorted by: shown */
		for (; (end = strchr(line, '\n')); line = end + 1, lines++) {
			if (width(line, (size_t)(end - line)) > pages[p])
				print_error("%u: %.*s\n", pages[p], (int)(end - line), line);
			assert_true(width(line, (size_t)(end - line)) <= pages[p]);
			assert_null(memchr(line, '\x1b', (size_t)(end - line)));
		}
		assert_int_equal(lines, 51);
		free(text);
	}
	table_free(t);
}

static void a_dropped_row_leaves_nothing(void **state)
{
	struct table *t = made(3);

	assert_int_equal(table_row(t), 0);
	table_text(t, NAME, "half");
	table_row_drop(t);
	assert_int_equal(table_rows(t), 3);
	assert_int_equal(table_row(t), 0);
	assert_null(table_get_text(t, 3, NAME));
	assert_int_equal(table_get(t, 3, COUNT), UINT64_MAX);
	assert_int_equal(table_get(t, 3, DELTA), UINT64_MAX);
	table_free(t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(order_is_by_value_and_null_is_last),
		cmocka_unit_test(json_says_what_was_set),
		cmocka_unit_test(text_keeps_to_the_page),
		cmocka_unit_test(a_dropped_row_leaves_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
