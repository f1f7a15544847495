/* SPDX-License-Identifier: Apache-2.0 */
/* Private to recording*.c and recorder.c: the tables, the sum behind every row, and
 * reading rows. */
#ifndef BEAMRAY_PROFILE_RECORDING_SCHEMA_H
#define BEAMRAY_PROFILE_RECORDING_SCHEMA_H

#include <sqlite3.h>
#include <stdint.h>

#include "profile/recording.h"

struct recording_table {
	const char *name;
	const char *sql; /* as SQLite keeps it in sqlite_schema */
};

#define RECORDING_TABLES   13
#define RECORDING_TABLES_1 12 /* in version 1 of the schema: the first ones */
extern const struct recording_table recording_tables[RECORDING_TABLES];

/* CRC-32 over a row: the table's name, then every value with its type. */
uint32_t recording_sum_begin(const char *table);
uint32_t recording_sum_int(uint32_t sum, int64_t v);
uint32_t recording_sum_text(uint32_t sum, const char *text, size_t len);
uint32_t recording_sum_null(uint32_t sum);

/* ---- reading ------------------------------------------------------------------- */

struct recording_db {
	sqlite3 *db;
	char *safe;    /* the path for sentences */
	size_t tables; /* that this version of the schema has */
};

struct rows {
	const struct recording *r;
	const char *table;
	sqlite3_stmt *st;
	size_t n, max;
	struct error *err;
};

/* "... is damaged: WHAT", EXIT_USAGE and -EINVAL. */
int recording_damaged(const struct recording *r, const char *what, struct error *err);
/* What SQLite says, as a sentence. */
int recording_sqlite_fail(const struct recording *r, int rc, struct error *err);

/* All columns of `table`; `how` is a WHERE or ORDER BY with at most ?1 and ?2. More
 * than `max` rows are damage. */
int rows_open(const struct recording *r, struct rows *w, const char *table, const char *how,
	      int64_t a, int64_t b, size_t max, struct error *err);
/* 1: a row whose sum is right; 0: no more; or an error. */
int rows_next(struct rows *w);
void rows_close(struct rows *w);
int64_t rows_int(const struct rows *w, int col);
/* Text, escaped again: into a buffer (too long is cut, with dots), or one of its own,
 * NULL where the column has none. -ENOMEM. */
void rows_text_in(const struct rows *w, int col, char *buf, size_t size);
int rows_text(const struct rows *w, int col, char **out);
/* Room for one more element in an array that doubles: `array` is the address of the
 * pointer, `n` the elements in use. 0 or -ENOMEM. */
int rows_room(void *array, size_t n, size_t size);

#endif
