/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The file that a recording is, and reading it.
 *
 * A recording is a SQLite database (application_id "BRAY", user_version 2) of small
 * tables. A look is a ledger with its moment; it has a number, and everything that
 * was seen at that moment carries it:
 *
 *	look 1        look 2        look 3            moments of the run
 *	  |-- ledger    |-- ledger    |-- ledger      account, bytes, ...
 *	  |-- moment    |-- moment    |-- moment      one a profile: totals, what was lost
 *	  |-- weight    |-- weight    |-- weight      of the stacks that changed since
 *	  |-- counter   |-- counter   |-- counter
 *	  `-- figure    `-- figure    `-- figure      of the subjects that changed since
 *
 *	stack --> frame --> frame --> frame (the root)     frames are shared by stacks
 *	            `-> symbol --> symbol (it was inlined into)
 *
 * A profile counts from the beginning of the run. Its state at look N is the last
 * weight of every stack up to N; the difference of two states is what came between.
 * Frames are kept as a tree: a row names the frame towards the root, which has a
 * smaller id, so that there can be no circle. A symbol belongs to the address of its
 * frame and needs neither the target nor its files.
 *
 * What can be trusted: nothing. A recording may be cut short, damaged, or made by
 * somebody who knows what opens it as root. So:
 *
 *   - The header must be ours, the schema must be the text that we write, to the
 *     letter: no view, trigger, virtual table or expression of others is ever there
 *     to be run. Statements may do nothing but select (an authorizer watches).
 *   - `PRAGMA quick_check` walks the whole file first: pages and cells are sound.
 *   - Every row ends in a CRC-32 of its values: SQLite has none, and a flipped bit
 *     must become a sentence and not a wrong number. (This is against accidents; who
 *     wants to lie can compute a CRC.)
 *   - Numbers are checked where they lead somewhere; text goes through
 *     escape_again(); all bounds are ours.
 *   - Nothing is written beside the file. A journal that a killed beamray left is
 *     played into a copy: that needs no permission on the original, and works on a
 *     read-only medium. A journal that names a super-journal is refused, as SQLite
 *     would delete the file of that name.
 */
#include "profile/recording.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include "profile/recording_schema.h"
#include "target/escape.h"

#define LOOKS_MAX    (1u << 20)
#define ROWS_MAX     (1u << 16) /* of one ledger */
#define SMALL_MAX    (1u << 20) /* facts, counters, notes */
#define TEXT_MAX     (16u << 10)
#define DOCUMENT_MAX (64u << 20)
#define BUSY_MS	     5000 /* somebody is committing */

const struct recording_table recording_tables[RECORDING_TABLES] = {
	{ "recording", "CREATE TABLE recording(name TEXT PRIMARY KEY, value TEXT, crc INTEGER) "
		       "WITHOUT ROWID" },
	{ "target", "CREATE TABLE target(name TEXT PRIMARY KEY, value TEXT, crc INTEGER) "
		    "WITHOUT ROWID" },
	{ "look", "CREATE TABLE look(id INTEGER PRIMARY KEY, time_ns INTEGER, time TEXT, "
		  "rss INTEGER, complete INTEGER, accounts INTEGER, document TEXT, crc INTEGER)" },
	{ "ledger", "CREATE TABLE ledger(look INTEGER, account TEXT, bytes INTEGER, "
		    "whole_pages INTEGER, lazyfree INTEGER, crc INTEGER, "
		    "PRIMARY KEY(look, account)) WITHOUT ROWID" },
	{ "profile", "CREATE TABLE profile(id INTEGER PRIMARY KEY, kind TEXT, unit TEXT, "
		     "crc INTEGER)" },
	{ "moment", "CREATE TABLE moment(profile INTEGER, look INTEGER, total INTEGER, "
		    "without_stack INTEGER, lost_events INTEGER, lost_stacks INTEGER, "
		    "crc INTEGER, PRIMARY KEY(profile, look)) WITHOUT ROWID" },
	{ "symbol", "CREATE TABLE symbol(id INTEGER PRIMARY KEY, address INTEGER, raw INTEGER, "
		    "exact INTEGER, name TEXT, module TEXT, file TEXT, line INTEGER, "
		    "offset INTEGER, kind INTEGER, outer INTEGER, crc INTEGER)" },
	{ "frame", "CREATE TABLE frame(id INTEGER PRIMARY KEY, parent INTEGER, address INTEGER, "
		   "kind INTEGER, symbol INTEGER, crc INTEGER)" },
	{ "stack", "CREATE TABLE stack(id INTEGER PRIMARY KEY, profile INTEGER, frame INTEGER, "
		   "process INTEGER, label TEXT, complete INTEGER, crc INTEGER)" },
	{ "weight", "CREATE TABLE weight(look INTEGER, stack INTEGER, weight INTEGER, "
		    "gross INTEGER, count INTEGER, thread INTEGER, crc INTEGER, "
		    "PRIMARY KEY(look, stack)) WITHOUT ROWID" },
	{ "counter", "CREATE TABLE counter(look INTEGER, name TEXT, value INTEGER, crc INTEGER, "
		     "PRIMARY KEY(look, name)) WITHOUT ROWID" },
	{ "note", "CREATE TABLE note(id INTEGER PRIMARY KEY, look INTEGER, text TEXT, "
		  "crc INTEGER)" },
	/* from version 2 on */
	{ "figure", "CREATE TABLE figure(kind TEXT, subject TEXT, look INTEGER, figures TEXT, "
		    "crc INTEGER, PRIMARY KEY(kind, subject, look)) WITHOUT ROWID" },
};

/* ---- sums -------------------------------------------------------------------------- */

uint32_t recording_sum_begin(const char *table)
{
	return (uint32_t)crc32(0, (const Bytef *)table, (uInt)strlen(table));
}

uint32_t recording_sum_int(uint32_t sum, int64_t v)
{
	unsigned char b[9] = { 'i' };
	unsigned i;

	for (i = 0; i < 8; i++)
		b[1 + i] = (unsigned char)((uint64_t)v >> (8 * i));
	return (uint32_t)crc32(sum, b, sizeof(b));
}

uint32_t recording_sum_text(uint32_t sum, const char *text, size_t len)
{
	sum = recording_sum_int((uint32_t)crc32(sum, (const Bytef *)"t", 1), (int64_t)len);
	return (uint32_t)crc32_z(sum, (const Bytef *)text, len);
}

uint32_t recording_sum_null(uint32_t sum)
{
	return (uint32_t)crc32(sum, (const Bytef *)"n", 1);
}

/* ---- the database -------------------------------------------------------------------- */

int recording_damaged(const struct recording *r, const char *what, struct error *err)
{
	return error_set(err, EXIT_USAGE, -EINVAL, "%s is damaged: %s", r->db->safe, what);
}

int recording_sqlite_fail(const struct recording *r, int rc, struct error *err)
{
	switch (rc & 0xff) {
	case SQLITE_NOMEM:
		return error_set(err, EXIT_INCOMPLETE, -ENOMEM, "out of memory while reading %s",
				 r->db->safe);
	case SQLITE_BUSY:
	case SQLITE_LOCKED:
		return error_set(err, EXIT_USAGE, -EBUSY,
				 "%s is being written to without a break; try again", r->db->safe);
	case SQLITE_PERM:
	case SQLITE_AUTH:
	case SQLITE_CORRUPT:
	case SQLITE_NOTADB:
	case SQLITE_TOOBIG:
	case SQLITE_ERROR:
	case SQLITE_FORMAT:
	case SQLITE_MISMATCH:
		return recording_damaged(r, "its pages do not fit together", err);
	default:
		return error_set(err, EXIT_USAGE, -EIO, "cannot read %s: %s", r->db->safe,
				 sqlite3_errstr(rc));
	}
}

/* Statements here select, and nothing else. */
static int authorize(void *arg, int action, const char *a, const char *b, const char *c,
		     const char *d)
{
	(void)arg;
	(void)b;
	(void)c;
	(void)d;
	switch (action) {
	case SQLITE_SELECT:
	case SQLITE_READ:
		return SQLITE_OK;
	case SQLITE_PRAGMA:
		return strcmp(a, "quick_check") == 0 ? SQLITE_OK : SQLITE_DENY;
	default:
		return SQLITE_DENY;
	}
}

static int harden(sqlite3 *db)
{
	static const struct {
		int op, value;
	} config[] = {
		{ SQLITE_DBCONFIG_DEFENSIVE, 1 },
		{ SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0 },
		{ SQLITE_DBCONFIG_ENABLE_TRIGGER, 0 },
		{ SQLITE_DBCONFIG_ENABLE_VIEW, 0 },
		{ SQLITE_DBCONFIG_ENABLE_FKEY, 0 },
		{ SQLITE_DBCONFIG_WRITABLE_SCHEMA, 0 },
		{ SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 0 },
	};
	static const struct {
		int id, value;
	} limits[] = {
		{ SQLITE_LIMIT_LENGTH, DOCUMENT_MAX },
		{ SQLITE_LIMIT_SQL_LENGTH, 10000 },
		{ SQLITE_LIMIT_COLUMN, 100 },
		{ SQLITE_LIMIT_EXPR_DEPTH, 20 },
		{ SQLITE_LIMIT_COMPOUND_SELECT, 3 },
		{ SQLITE_LIMIT_VDBE_OP, 25000 },
		{ SQLITE_LIMIT_FUNCTION_ARG, 8 },
		{ SQLITE_LIMIT_ATTACHED, 0 },
		{ SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 50 },
		{ SQLITE_LIMIT_VARIABLE_NUMBER, 10 },
		{ SQLITE_LIMIT_TRIGGER_DEPTH, 0 },
		{ SQLITE_LIMIT_WORKER_THREADS, 0 },
	};
	size_t i;
	int rc;

	for (i = 0; i < sizeof(config) / sizeof(config[0]); i++)
		sqlite3_db_config(db, config[i].op, config[i].value, NULL);
	for (i = 0; i < sizeof(limits) / sizeof(limits[0]); i++)
		sqlite3_limit(db, limits[i].id, limits[i].value);
	sqlite3_busy_timeout(db, BUSY_MS);
	/* on a damaged file these may find that out: they are no question yet */
	rc = sqlite3_exec(db,
			  "PRAGMA cell_size_check = ON; PRAGMA mmap_size = 0; PRAGMA query_only = ON;"
			  "PRAGMA temp_store = MEMORY",
			  NULL, NULL, NULL);
	sqlite3_set_authorizer(db, authorize, NULL);
	return rc;
}

/* ---- a journal that was left behind ---------------------------------------------------- */

static int copy_file(const char *from, const char *to)
{
	char buf[65536];
	int in = open(from, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK), out, ret = 0;
	ssize_t n;

	if (in < 0)
		return -errno;
	out = open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (out < 0)
		ret = -errno;
	while (ret == 0 && (n = read(in, buf, sizeof(buf))) != 0)
		if (n < 0 || write(out, buf, (size_t)n) != n)
			ret = errno ? -errno : -EIO;
	close(in);
	if (out >= 0 && close(out) < 0 && ret == 0)
		ret = -errno;
	return ret;
}

/* Does the journal end in the name of a super-journal? Ours never do. */
static bool has_super_journal(const char *journal)
{
	static const unsigned char magic[8] = { 0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7 };
	unsigned char tail[8];
	struct stat st;
	bool has = true;
	int fd = open(journal, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);

	if (fd < 0)
		return true;
	if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size >= (off_t)sizeof(tail) &&
	    pread(fd, tail, sizeof(tail), st.st_size - (off_t)sizeof(tail)) == sizeof(tail))
		has = memcmp(tail, magic, sizeof(magic)) == 0;
	close(fd);
	return has;
}

/* Plays the journal into a copy and leaves that open in place of the file. */
static int play_journal(struct recording *r, const char *path, struct error *err)
{
	const char *tmp = getenv("TMPDIR");
	char dir[PATH_MAX], copy[PATH_MAX + 16], journal[PATH_MAX + 32], from[PATH_MAX + 16];
	int ret, rc = SQLITE_ERROR;

	sqlite3_close(r->db->db);
	r->db->db = NULL;
	if (snprintf(dir, sizeof(dir), "%s/beamray-XXXXXX", tmp && *tmp ? tmp : "/tmp") >=
		    (int)sizeof(dir) ||
	    !mkdtemp(dir))
		return error_set(err, EXIT_USAGE, -errno,
				 "%s was not closed properly and needs a folder for a copy of it: "
				 "set TMPDIR to one",
				 r->db->safe);
	snprintf(copy, sizeof(copy), "%s/recording", dir);
	snprintf(journal, sizeof(journal), "%s-journal", copy);
	snprintf(from, sizeof(from), "%s-journal", path);
	ret = copy_file(path, copy);
	if (ret == 0)
		ret = copy_file(from, journal);
	if (ret == 0 && has_super_journal(journal))
		ret = recording_damaged(r, "the journal beside it is not one of ours", err);
	if (ret == 0) {
		rc = sqlite3_open_v2(copy, &r->db->db,
				     SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX |
					     SQLITE_OPEN_PRIVATECACHE,
				     NULL);
		/* any read plays it */
		if (rc == SQLITE_OK)
			rc = sqlite3_exec(r->db->db, "PRAGMA schema_version", NULL, NULL, NULL);
		if (rc == SQLITE_OK)
			rc = harden(r->db->db);
		if (rc != SQLITE_OK)
			ret = recording_sqlite_fail(r, rc, err);
	} else if (err && err->code == EXIT_OK) {
		error_set(err, EXIT_USAGE, ret,
			  "%s was not closed properly, and a copy of it could not be made in %s: %s",
			  r->db->safe, dir, strerror(-ret));
	}
	/* the open descriptor is enough from here on */
	unlink(journal);
	unlink(copy);
	rmdir(dir);
	return ret;
}

/* ---- is it one of ours? ------------------------------------------------------------------ */

static uint32_t be32(const unsigned char *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static bool has_journal(const char *path)
{
	char journal[PATH_MAX + 16];
	struct stat st;

	snprintf(journal, sizeof(journal), "%s-journal", path);
	return lstat(journal, &st) == 0 && st.st_size > 0;
}

static int check_header(const struct recording *r, const char *path, struct error *err)
{
	const char *safe = r->db->safe;
	unsigned char h[100];
	struct stat st;
	uint64_t page;
	ssize_t n;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

	if (fd < 0)
		return error_set(err, errno == EACCES || errno == EPERM ? EXIT_DENIED : EXIT_USAGE,
				 -errno, "cannot read %s: %s", safe, strerror(errno));
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
		close(fd);
		return error_set(err, EXIT_USAGE, -EINVAL, "%s is not a file", safe);
	}
	n = pread(fd, h, sizeof(h), 0);
	close(fd); /* SQLite has not opened it yet: no lock is lost */
	if (st.st_size == 0)
		return error_set(err, EXIT_USAGE, -EINVAL,
				 "%s is empty: recording into it never began", safe);
	if (n < 16 || memcmp(h, "SQLite format 3", 16) != 0 ||
	    (n >= 72 && be32(h + 68) != RECORDING_APPLICATION))
		return error_set(err, EXIT_USAGE, -EINVAL, "%s is not a recording of beamray",
				 safe);
	if (n < (ssize_t)sizeof(h))
		return recording_damaged(r, "it is cut short", err);
	if (be32(h + 60) > RECORDING_VERSION)
		return error_set(err, EXIT_USAGE, -ENOTSUP,
				 "%s has schema %u, this beamray knows %u: use a newer one", safe,
				 be32(h + 60), RECORDING_VERSION);
	r->db->tables = be32(h + 60) == 1 ? RECORDING_TABLES_1 : RECORDING_TABLES;
	if (be32(h + 60) < 1 || h[18] != 1 || h[19] != 1)
		return recording_damaged(r, "its header is not one that beamray writes", err);
	page = (uint64_t)h[16] << 8 | h[17];
	page = page == 1 ? 65536 : page;
	if ((uint64_t)st.st_size < page * be32(h + 28) && !has_journal(path))
		return recording_damaged(r, "it is cut short", err);
	return 0;
}

static bool column_is(sqlite3_stmt *st, int col, const char *text)
{
	const char *v = (const char *)sqlite3_column_text(st, col);

	return v && strcmp(v, text) == 0;
}

/* The tables are ours, to the letter, and there is nothing else. */
static int check_schema(const struct recording *r, struct error *err)
{
	sqlite3_stmt *st = NULL;
	int rc = sqlite3_prepare_v2(r->db->db,
				    "SELECT type, name, tbl_name, sql FROM sqlite_schema "
				    "ORDER BY rowid",
				    -1, &st, NULL);
	bool same = true;
	size_t i;

	for (i = 0; rc == SQLITE_OK && same && i < r->db->tables; i++) {
		const struct recording_table *t = &recording_tables[i];

		rc = sqlite3_step(st);
		same = rc == SQLITE_ROW && column_is(st, 0, "table") && column_is(st, 1, t->name) &&
		       column_is(st, 2, t->name) && column_is(st, 3, t->sql);
		rc = rc == SQLITE_ROW || rc == SQLITE_DONE ? SQLITE_OK : rc;
	}
	if (rc == SQLITE_OK && same)
		rc = sqlite3_step(st);
	sqlite3_finalize(st);
	if (rc == SQLITE_DONE && same)
		return 0;
	return same && rc != SQLITE_ROW && rc != SQLITE_OK
		       ? recording_sqlite_fail(r, rc, err)
		       : recording_damaged(r, "its tables are not those that beamray makes", err);
}

static int check_pages(const struct recording *r, struct error *err)
{
	sqlite3_stmt *st = NULL;
	int rc = sqlite3_prepare_v2(r->db->db, "PRAGMA quick_check(1)", -1, &st, NULL);
	bool good = false;

	if (rc == SQLITE_OK && (rc = sqlite3_step(st)) == SQLITE_ROW) {
		good = column_is(st, 0, "ok");
		rc = SQLITE_OK;
	}
	sqlite3_finalize(st);
	if (rc != SQLITE_OK)
		return recording_sqlite_fail(r, rc, err);
	return good ? 0 : recording_damaged(r, "its pages do not fit together", err);
}

/* ---- rows -------------------------------------------------------------------------------- */

int rows_open(const struct recording *r, struct rows *w, const char *table, const char *how,
	      int64_t a, int64_t b, size_t max, struct error *err)
{
	char text[200];
	int rc;

	*w = (struct rows){ r, table, NULL, 0, max, err };
	snprintf(text, sizeof(text), "SELECT * FROM %s %s", table, how);
	rc = sqlite3_prepare_v2(r->db->db, text, -1, &w->st, NULL);
	if (rc == SQLITE_OK && strstr(how, "?1"))
		rc = sqlite3_bind_int64(w->st, 1, a);
	if (rc == SQLITE_OK && strstr(how, "?2"))
		rc = sqlite3_bind_int64(w->st, 2, b);
	if (rc == SQLITE_OK)
		return 0;
	sqlite3_finalize(w->st);
	w->st = NULL;
	return recording_sqlite_fail(r, rc, err);
}

/* Closes by itself unless there is a row. */
int rows_next(struct rows *w)
{
	uint32_t sum = recording_sum_begin(w->table);
	int rc = sqlite3_step(w->st), last = sqlite3_column_count(w->st) - 1, i, ret;

	if (rc == SQLITE_DONE) {
		ret = 0;
	} else if (rc != SQLITE_ROW) {
		ret = recording_sqlite_fail(w->r, sqlite3_extended_errcode(w->r->db->db), w->err);
	} else if (++w->n > w->max) {
		ret = recording_damaged(w->r, "more rows than beamray would write", w->err);
	} else {
		for (i = 0; i < last; i++)
			switch (sqlite3_column_type(w->st, i)) {
			case SQLITE_INTEGER:
				sum = recording_sum_int(sum, sqlite3_column_int64(w->st, i));
				break;
			case SQLITE_TEXT:
				sum = recording_sum_text(sum,
							 (const char *)sqlite3_column_text(w->st,
											   i),
							 (size_t)sqlite3_column_bytes(w->st, i));
				break;
			case SQLITE_NULL:
				sum = recording_sum_null(sum);
				break;
			default: /* never written */
				sum = ~sum;
			}
		if (sqlite3_column_int64(w->st, last) == (int64_t)sum)
			return 1;
		ret = recording_damaged(w->r, "a row's checksum is wrong", w->err);
	}
	sqlite3_finalize(w->st);
	w->st = NULL;
	return ret;
}

void rows_close(struct rows *w)
{
	sqlite3_finalize(w->st);
	w->st = NULL;
}

int64_t rows_int(const struct rows *w, int col)
{
	return sqlite3_column_int64(w->st, col);
}

void rows_text_in(const struct rows *w, int col, char *buf, size_t size)
{
	const char *v = (const char *)sqlite3_column_text(w->st, col);

	escape_again(buf, size, v ? v : "", v ? (size_t)sqlite3_column_bytes(w->st, col) : 0);
}

int rows_text(const struct rows *w, int col, char **out)
{
	const char *v = (const char *)sqlite3_column_text(w->st, col);
	size_t len = v ? (size_t)sqlite3_column_bytes(w->st, col) : 0, room;

	*out = NULL;
	if (!v)
		return sqlite3_column_type(w->st, col) == SQLITE_NULL ? 0 : -ENOMEM;
	len = len > TEXT_MAX ? TEXT_MAX : len;
	room = len * 4 + 4; /* "\xHH" for every byte */
	*out = malloc(room);
	if (!*out)
		return -ENOMEM;
	escape_again(*out, room, v, len);
	return 0;
}

int rows_room(void *array, size_t n, size_t size)
{
	void **v = array, *p;

	if (n & (n - 1) || (n && n < 16))
		return 0;
	p = realloc(*v, (n ? n * 2 : 16) * size);
	if (!p)
		return -ENOMEM;
	*v = p;
	return 0;
}

/* ---- what is read at once ---------------------------------------------------------------- */

static int read_facts(struct recording *r, const char *table, struct recording_fact **v, size_t *n,
		      struct error *err)
{
	struct rows w;
	int ret = rows_open(r, &w, table, "ORDER BY name", 0, 0, SMALL_MAX, err);

	while (ret == 0 && (ret = rows_next(&w)) == 1) {
		struct recording_fact f = { 0 };

		ret = rows_room(v, *n, sizeof(**v));
		if (ret == 0)
			ret = rows_text(&w, 0, &f.name);
		if (ret == 0)
			ret = rows_text(&w, 1, &f.value);
		if (ret == 0 && f.name && f.value) {
			(*v)[(*n)++] = f;
		} else {
			free(f.name);
			free(f.value);
			ret = ret ? ret
				  : recording_damaged(r, "a fact without a name or value", err);
		}
	}
	rows_close(&w);
	return ret;
}

static int read_looks(struct recording *r, struct error *err)
{
	struct rows w;
	int ret = rows_open(r, &w, "look", "ORDER BY id", 0, 0, LOOKS_MAX, err);

	while (ret == 0 && (ret = rows_next(&w)) == 1) {
		struct recording_look *l;

		ret = rows_room(&r->looks, r->n_looks, sizeof(*r->looks));
		if (ret < 0)
			break;
		l = &r->looks[r->n_looks];
		l->number = (unsigned)rows_int(&w, 0);
		l->time_ns = rows_int(&w, 1);
		rows_text_in(&w, 2, l->time, sizeof(l->time));
		l->rss = (uint64_t)rows_int(&w, 3);
		l->complete = rows_int(&w, 4) != 0;
		l->rows = (size_t)rows_int(&w, 5);
		if (rows_int(&w, 0) != (int64_t)r->n_looks + 1 || rows_int(&w, 3) < 0 ||
		    l->rows > ROWS_MAX)
			ret = recording_damaged(r, "its looks are not in order", err);
		else
			r->n_looks++;
	}
	rows_close(&w);
	return ret;
}

static int read_profiles(struct recording *r, struct error *err)
{
	struct rows w;
	int ret = rows_open(r, &w, "profile", "ORDER BY id", 0, 0, 64, err);

	while (ret == 0 && (ret = rows_next(&w)) == 1) {
		struct recording_profile *p;

		ret = rows_room(&r->profiles, r->n_profiles, sizeof(*r->profiles));
		if (ret < 0)
			break;
		p = &r->profiles[r->n_profiles++];
		p->id = rows_int(&w, 0);
		rows_text_in(&w, 1, p->kind, sizeof(p->kind));
		rows_text_in(&w, 2, p->unit, sizeof(p->unit));
	}
	rows_close(&w);
	return ret;
}

static int read_counters(struct recording *r, struct error *err)
{
	struct rows w;
	int ret = rows_open(r, &w, "counter", "ORDER BY look, name", 0, 0, SMALL_MAX, err);

	while (ret == 0 && (ret = rows_next(&w)) == 1) {
		struct recording_counter c = { (unsigned)rows_int(&w, 0), NULL,
					       (uint64_t)rows_int(&w, 2) };

		ret = rows_room(&r->counters, r->n_counters, sizeof(*r->counters));
		if (ret == 0)
			ret = rows_text(&w, 1, &c.name);
		if (ret == 0 && c.name)
			r->counters[r->n_counters++] = c;
		else if (ret == 0)
			ret = recording_damaged(r, "a counter without a name", err);
	}
	rows_close(&w);
	return ret;
}

static int read_notes(struct recording *r, struct error *err)
{
	struct rows w;
	int ret = rows_open(r, &w, "note", "ORDER BY id", 0, 0, SMALL_MAX, err);

	while (ret == 0 && (ret = rows_next(&w)) == 1) {
		struct recording_note c = { (unsigned)rows_int(&w, 1), NULL };

		ret = rows_room(&r->notes, r->n_notes, sizeof(*r->notes));
		if (ret == 0)
			ret = rows_text(&w, 2, &c.text);
		if (ret == 0 && c.text)
			r->notes[r->n_notes++] = c;
		else if (ret == 0)
			ret = recording_damaged(r, "a note without text", err);
	}
	rows_close(&w);
	return ret;
}

static int open_checked(struct recording *r, const char *path, struct error *err)
{
	int ret = check_header(r, path, err), rc;

	if (ret < 0)
		return ret;
	rc = sqlite3_open_v2(path, &r->db->db,
			     SQLITE_OPEN_READONLY | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_PRIVATECACHE |
				     SQLITE_OPEN_NOFOLLOW,
			     NULL);
	if (rc == SQLITE_OK)
		rc = harden(r->db->db);
	if (rc == SQLITE_OK) {
		/* the first that takes a lock: finds a journal that was left */
		sqlite3_stmt *st = NULL;

		rc = sqlite3_prepare_v2(r->db->db, "SELECT name FROM sqlite_schema", -1, &st, NULL);
		if (rc == SQLITE_OK)
			sqlite3_step(st);
		sqlite3_finalize(st);
		rc = sqlite3_extended_errcode(r->db->db);
	}
	if (rc == SQLITE_READONLY_ROLLBACK)
		ret = play_journal(r, path, err);
	/* what else is wrong, the checks below will say in their words */
	if (ret == 0 && !r->db->db)
		ret = recording_sqlite_fail(r, rc, err);
	if (ret == 0)
		ret = check_schema(r, err);
	if (ret == 0)
		ret = check_pages(r, err);
	return ret;
}

int recording_open(const char *path, struct recording **out, struct error *err)
{
	struct recording *r = calloc(1, sizeof(*r));
	size_t room = strlen(path) * 4 + 1;
	char *real = NULL;
	int ret = -ENOMEM;

	*out = NULL;
	if (!r)
		return -ENOMEM;
	r->db = calloc(1, sizeof(*r->db));
	r->path = strdup(path);
	if (!r->db || !r->path || !(r->db->safe = malloc(room)))
		goto out;
	escape_string(r->db->safe, room, path);
	/* absolute: "file:..." and ":memory:" are names like others here */
	real = realpath(path, NULL);
	if (!real)
		ret = error_set(err, errno == EACCES ? EXIT_DENIED : EXIT_USAGE, -errno,
				"cannot read %s: %s", r->db->safe, strerror(errno));
	else
		ret = open_checked(r, real, err);
	if (ret == 0)
		ret = read_facts(r, "recording", &r->facts, &r->n_facts, err);
	if (ret == 0)
		ret = read_facts(r, "target", &r->target, &r->n_target, err);
	if (ret == 0)
		ret = read_looks(r, err);
	if (ret == 0)
		ret = read_profiles(r, err);
	if (ret == 0)
		ret = read_counters(r, err);
	if (ret == 0)
		ret = read_notes(r, err);
out:
	free(real);
	if (ret == -ENOMEM)
		error_set(err, EXIT_INCOMPLETE, ret, "out of memory while reading a recording");
	if (ret < 0) {
		recording_close(r);
		return ret;
	}
	*out = r;
	return 0;
}

static void free_facts(struct recording_fact *v, size_t n)
{
	while (n-- > 0) {
		free(v[n].name);
		free(v[n].value);
	}
	free(v);
}

void recording_close(struct recording *r)
{
	size_t i;

	if (!r)
		return;
	free_facts(r->facts, r->n_facts);
	free_facts(r->target, r->n_target);
	for (i = 0; i < r->n_counters; i++)
		free(r->counters[i].name);
	for (i = 0; i < r->n_notes; i++)
		free(r->notes[i].text);
	free(r->counters);
	free(r->notes);
	free(r->looks);
	free(r->profiles);
	if (r->db) {
		sqlite3_close(r->db->db);
		free(r->db->safe);
	}
	free(r->db);
	free(r->path);
	free(r);
}

static const char *find_fact(const struct recording_fact *v, size_t n, const char *name)
{
	size_t i;

	for (i = 0; i < n; i++)
		if (strcmp(v[i].name, name) == 0)
			return v[i].value;
	return NULL;
}

const char *recording_fact(const struct recording *r, const char *name)
{
	return find_fact(r->facts, r->n_facts, name);
}

const char *recording_target(const struct recording *r, const char *name)
{
	return find_fact(r->target, r->n_target, name);
}

bool recording_counter_at(const struct recording *r, unsigned look, const char *name,
			  uint64_t *value)
{
	bool found = false;
	size_t i;

	for (i = 0; i < r->n_counters; i++)
		if (r->counters[i].look <= look && strcmp(r->counters[i].name, name) == 0) {
			*value = r->counters[i].value;
			found = true;
		}
	return found;
}
