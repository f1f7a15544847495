/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writing a recording.
 *
 * What must hold is that a file is whole at any moment, whoever pulls the plug. One
 * transaction holds one look and what belongs to it. The file is in SQLite's
 * rollback mode, where all that is committed is in the one file: the price is that
 * a beamray killed in the few milliseconds in which a commit writes leaves a
 * journal beside the file, which recording_open() and every SQLite apply by
 * themselves. (With a write-ahead log it would be the other way round: committed
 * looks would be in a second file nearly all the time.) Pages go to the file at
 * commits only: cache_spill is off.
 *
 * Rows are only ever added, apart from the facts: so a commit touches the last
 * pages of some tables, and a profile's past stays readable. What of a profile has
 * been written is kept in hash tables here: frames by (frame towards the root,
 * address, kind, symbol), stacks by (frame, process, label).
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libgen.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "profile/recording.h"
#include "profile/recording_schema.h"
#include "target/escape.h"

#define BUSY_MS 60000 /* a report reads the file while it is written */
#define IDS_MAX (1u << 26)

/* ---- a map from a key of words to a number ------------------------------------- */

#define KEY_WORDS 5

struct key {
	uint64_t w[KEY_WORDS];
};

struct entry {
	struct key key;
	uint32_t id; /* 0: the slot is free */
	uint32_t at; /* of what belongs to it, where that is kept */
};

struct map {
	struct entry *v;
	size_t n, slots; /* slots: power of two */
	uint64_t seed;	 /* keys come from the target: it shall not choose their slots */
};

static size_t map_slot(const struct map *m, const struct key *k)
{
	uint64_t h = m->seed;
	size_t i;

	for (i = 0; i < KEY_WORDS; i++) {
		h = (h ^ k->w[i]) * 0x9e3779b97f4a7c15ull;
		h ^= h >> 29;
	}
	for (i = h & (m->slots - 1); m->v[i].id; i = (i + 1) & (m->slots - 1))
		if (memcmp(&m->v[i].key, k, sizeof(*k)) == 0)
			break;
	return i;
}

/* The entry of a key, made (with id 0, which the caller fills in) if it is new. */
static struct entry *map_get(struct map *m, const struct key *k)
{
	struct entry *old = m->v;
	size_t i, n = m->slots;

	if (m->n >= IDS_MAX)
		return NULL;
	if ((m->n + 1) * 4 > n * 3) {
		m->slots = n ? n * 2 : 1024;
		m->v = calloc(m->slots, sizeof(*m->v));
		if (!m->v) {
			m->v = old;
			m->slots = n;
			return NULL;
		}
		for (i = 0; i < n; i++)
			if (old[i].id)
				m->v[map_slot(m, &old[i].key)] = old[i];
		free(old);
	}
	i = map_slot(m, k);
	if (!m->v[i].id) {
		m->v[i].key = *k;
		m->n++;
	}
	return &m->v[i];
}

/* ---- the file -------------------------------------------------------------------- */

enum table { /* in the order of recording_tables[] */
	     T_RECORDING,
	     T_TARGET,
	     T_LOOK,
	     T_LEDGER,
	     T_PROFILE,
	     T_MOMENT,
	     T_SYMBOL,
	     T_FRAME,
	     T_STACK,
	     T_WEIGHT,
	     T_COUNTER,
	     T_NOTE,
	     T_FIGURE,
};

struct written { /* of a stack */
	int64_t weight, gross, count;
	uint32_t tid, profile, id;
	uint32_t seen; /* number of the flush it was last seen in */
};

struct recorder {
	char *path, *safe; /* safe: for sentences */
	int fd;		   /* holds the lock that says that somebody records */
	sqlite3 *db;
	sqlite3_stmt *insert[RECORDING_TABLES];
	sqlite3_stmt *begin, *commit;
	bool open, grouped; /* a transaction is open; it is recorder_begin()'s */
	struct error failed;
	int failed_ret;

	unsigned looks, profiles, notes, flushes;
	char kinds[16][16]; /* of profiles, by id - 1 */
	struct map symbols, frames, stacks, subjects;
	struct written *written;
	size_t n_written, a_written;
	char last_time[40];
};

/* A write that fails at the limit that `ulimit -f` sets has no code of its own. */
static bool at_size_limit(const struct recorder *r)
{
	struct rlimit l;
	struct stat st;

	return getrlimit(RLIMIT_FSIZE, &l) == 0 && l.rlim_cur != RLIM_INFINITY &&
	       fstat(r->fd, &st) == 0 && (uint64_t)st.st_size + (1u << 20) >= l.rlim_cur;
}

/* Keeps the first failure: everything after it fails the same way. */
static int fail(struct recorder *r, int rc, struct error *err)
{
	bool limit = rc == SQLITE_IOERR_WRITE && at_size_limit(r);
	int e = r->db ? sqlite3_system_errno(r->db) : 0;
	char kept[128];

	if (r->failed_ret)
		goto out;
	snprintf(kept, sizeof(kept),
		 r->looks ? "; it holds %u looks, the last of %s" : "; nothing was recorded yet",
		 r->looks, r->last_time);
	rc &= 0xff;
	if (rc == SQLITE_NOMEM)
		r->failed_ret = error_set(&r->failed, EXIT_INCOMPLETE, -ENOMEM,
					  "out of memory while recording%s", kept);
	else if (rc == SQLITE_FULL || e == ENOSPC || e == EDQUOT)
		r->failed_ret = error_set(&r->failed, EXIT_INCOMPLETE, -ENOSPC,
					  "no space left for %s%s", r->safe, kept);
	else if (limit)
		r->failed_ret = error_set(&r->failed, EXIT_INCOMPLETE, -ENOSPC,
					  "%s may not become any larger (ulimit -f)%s", r->safe,
					  kept);
	else
		r->failed_ret = error_set(&r->failed, EXIT_INCOMPLETE, -EIO,
					  "could not write to %s: %s%s", r->safe,
					  e ? strerror(e) : sqlite3_errstr(rc), kept);
	if (r->db && !sqlite3_get_autocommit(r->db))
		sqlite3_exec(r->db, "ROLLBACK", NULL, NULL, NULL);
	r->open = r->grouped = false;
out:
	if (err && err->code == EXIT_OK)
		*err = r->failed;
	return r->failed_ret;
}

static int run(struct recorder *r, sqlite3_stmt *st)
{
	int rc = sqlite3_step(st);

	sqlite3_reset(st);
	return rc == SQLITE_DONE || rc == SQLITE_ROW ? SQLITE_OK : sqlite3_extended_errcode(r->db);
}

static int enter(struct recorder *r, struct error *err)
{
	int rc;

	if (r->failed_ret)
		return fail(r, 0, err);
	if (r->open)
		return 0;
	rc = run(r, r->begin);
	if (rc != SQLITE_OK)
		return fail(r, rc, err);
	r->open = true;
	return 0;
}

static int leave(struct recorder *r, struct error *err)
{
	int rc;

	if (r->failed_ret)
		return fail(r, 0, err);
	if (r->grouped)
		return 0;
	rc = run(r, r->commit);
	if (rc != SQLITE_OK)
		return fail(r, rc, err);
	r->open = false;
	return 0;
}

/* A row on its way: values are bound in the order of the columns, and summed. */
struct row {
	struct recorder *r;
	sqlite3_stmt *st;
	uint32_t sum;
	int col, rc;
};

static struct row row_begin(struct recorder *r, enum table t)
{
	return (struct row){ r, r->insert[t], recording_sum_begin(recording_tables[t].name), 0,
			     SQLITE_OK };
}

static void row_int(struct row *w, int64_t v)
{
	int rc = sqlite3_bind_int64(w->st, ++w->col, v);

	w->sum = recording_sum_int(w->sum, v);
	w->rc = w->rc ? w->rc : rc;
}

static void row_text(struct row *w, const char *text)
{
	int rc;

	if (text) {
		size_t len = strlen(text);

		rc = sqlite3_bind_text64(w->st, ++w->col, text, len, SQLITE_STATIC, SQLITE_UTF8);
		w->sum = recording_sum_text(w->sum, text, len);
	} else {
		rc = sqlite3_bind_null(w->st, ++w->col);
		w->sum = recording_sum_null(w->sum);
	}
	w->rc = w->rc ? w->rc : rc;
}

static int row_end(struct row *w)
{
	int rc = sqlite3_bind_int64(w->st, ++w->col, w->sum);

	w->rc = w->rc ? w->rc : rc;
	if (w->rc == SQLITE_OK)
		w->rc = run(w->r, w->st);
	sqlite3_clear_bindings(w->st);
	return w->rc;
}

/* ---- making it ------------------------------------------------------------------- */

/* Is this file an older recording (or nothing yet)? */
static bool replaceable(int fd, off_t size)
{
	unsigned char h[72];

	if (size == 0)
		return true;
	return pread(fd, h, sizeof(h), 0) == sizeof(h) && memcmp(h, "SQLite format 3", 16) == 0 &&
	       ((uint32_t)h[68] << 24 | h[69] << 16 | h[70] << 8 | h[71]) == RECORDING_APPLICATION;
}

/* An absolute path without symbolic links in its folders: SQLite would follow them
 * later, and takes other names for something else ("file:...", ":memory:"). */
static char *absolute(const char *path)
{
	char *a = strdup(path), *b = strdup(path), *dir = NULL, *out = NULL;
	const char *base;

	if (a && b && (dir = realpath(dirname(a), NULL))) {
		base = basename(b);
		if (strcmp(base, "/") == 0 || strcmp(base, ".") == 0 || strcmp(base, "..") == 0)
			errno = EISDIR;
		else if (asprintf(&out, "%s/%s", strcmp(dir, "/") == 0 ? "" : dir, base) < 0)
			out = NULL;
	}
	free(a);
	free(b);
	free(dir);
	return out;
}

static int cannot(const struct recorder *r, int e, struct error *err)
{
	if (e == ENOSPC || e == EDQUOT)
		return error_set(err, EXIT_INCOMPLETE, -ENOSPC,
				 "no space left for %s; nothing was recorded", r->safe);
	return error_set(err, e == EACCES || e == EPERM || e == EROFS ? EXIT_DENIED : EXIT_USAGE,
			 -e, "cannot record into %s: %s", r->safe, strerror(e));
}

static int make_file(struct recorder *r, struct error *err)
{
	char *journal;
	struct stat st;
	int e;

	r->fd = open(r->path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
	if (r->fd < 0 && errno == EEXIST) {
		if (lstat(r->path, &st) < 0)
			return cannot(r, errno, err);
		if (!S_ISREG(st.st_mode))
			return error_set(
				err, EXIT_USAGE, -EINVAL,
				"cannot record into %s: a recording is a database and needs a "
				"regular file of its own",
				r->safe);
		r->fd = open(r->path, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
		if (r->fd < 0 || fstat(r->fd, &st) < 0)
			return cannot(r, errno, err);
		if (!replaceable(r->fd, st.st_size))
			return error_set(err, EXIT_USAGE, -EEXIST,
					 "%s is there already and is not a recording; it was left "
					 "as it is",
					 r->safe);
		if (flock(r->fd, LOCK_EX | LOCK_NB) < 0)
			return error_set(err, EXIT_USAGE, -EBUSY,
					 "another beamray is recording into %s", r->safe);
		if (asprintf(&journal, "%s-journal", r->path) < 0)
			return -ENOMEM;
		unlink(journal); /* of the old one: must not be played into the new one */
		free(journal);
		if (st.st_size == 0)
			return 0;
		if (unlink(r->path) < 0)
			return cannot(r, errno, err);
		close(r->fd);
		r->fd = open(r->path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
	}
	if (r->fd < 0)
		return cannot(r, errno, err);
	e = flock(r->fd, LOCK_EX | LOCK_NB) < 0 ? errno : 0;
	return e == EWOULDBLOCK ? cannot(r, EBUSY, err) : 0;
}

static int make_tables(struct recorder *r)
{
	char text[160];
	size_t i;
	int rc = SQLITE_OK;

	for (i = 0; i < RECORDING_TABLES && rc == SQLITE_OK; i++)
		rc = sqlite3_exec(r->db, recording_tables[i].sql, NULL, NULL, NULL);
	snprintf(text, sizeof(text), "PRAGMA application_id = %d; PRAGMA user_version = %d",
		 RECORDING_APPLICATION, RECORDING_VERSION);
	return rc == SQLITE_OK ? sqlite3_exec(r->db, text, NULL, NULL, NULL) : rc;
}

/* "INSERT OR REPLACE INTO look VALUES (?,?,...)" for each table. */
static int prepare(struct recorder *r)
{
	size_t i;
	int rc = SQLITE_OK, k, n;

	for (i = 0; i < RECORDING_TABLES && rc == SQLITE_OK; i++) {
		char text[160];
		sqlite3_stmt *st = NULL;

		snprintf(text, sizeof(text), "SELECT * FROM %s", recording_tables[i].name);
		rc = sqlite3_prepare_v2(r->db, text, -1, &st, NULL);
		n = rc == SQLITE_OK ? sqlite3_column_count(st) : 0;
		sqlite3_finalize(st);
		snprintf(text, sizeof(text), "INSERT OR REPLACE INTO %s VALUES (?",
			 recording_tables[i].name);
		for (k = 1; k < n; k++)
			strcat(text, ",?");
		strcat(text, ")");
		if (rc == SQLITE_OK)
			rc = sqlite3_prepare_v3(r->db, text, -1, SQLITE_PREPARE_PERSISTENT,
						&r->insert[i], NULL);
	}
	if (rc == SQLITE_OK)
		rc = sqlite3_prepare_v2(r->db, "BEGIN IMMEDIATE", -1, &r->begin, NULL);
	if (rc == SQLITE_OK)
		rc = sqlite3_prepare_v2(r->db, "COMMIT", -1, &r->commit, NULL);
	return rc;
}

static int make_database(struct recorder *r, struct error *err)
{
	int rc = sqlite3_open_v2(r->path, &r->db,
				 SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX |
					 SQLITE_OPEN_PRIVATECACHE | SQLITE_OPEN_NOFOLLOW,
				 NULL);

	if (rc == SQLITE_OK) {
		sqlite3_busy_timeout(r->db, BUSY_MS);
		rc = sqlite3_exec(r->db,
				  "PRAGMA journal_mode = DELETE; PRAGMA synchronous = FULL;"
				  "PRAGMA cache_spill = OFF; PRAGMA temp_store = MEMORY; BEGIN",
				  NULL, NULL, NULL);
	}
	if (rc == SQLITE_OK)
		rc = make_tables(r);
	if (rc == SQLITE_OK)
		rc = sqlite3_exec(r->db, "COMMIT", NULL, NULL, NULL);
	if (rc == SQLITE_OK)
		rc = prepare(r);
	return rc == SQLITE_OK ? 0 : fail(r, rc, err);
}

int recorder_create(const char *path, struct recorder **out, struct error *err)
{
	struct recorder *r = calloc(1, sizeof(*r));
	size_t room = strlen(path) * 4 + 1;
	bool made;
	int ret;

	*out = NULL;
	if (!r || !(r->safe = malloc(room))) {
		free(r);
		return -ENOMEM;
	}
	r->fd = -1;
	escape_string(r->safe, room, path);
	if (getrandom(&r->frames.seed, sizeof(r->frames.seed), 0) < 0)
		r->frames.seed = (uint64_t)(uintptr_t)r;
	r->stacks.seed = r->symbols.seed = r->subjects.seed = r->frames.seed;
	r->path = absolute(path);
	if (!r->path) {
		ret = cannot(r, errno, err);
		recorder_close(r);
		return ret;
	}
	/* a limit on file sizes shall be an error, not our end */
	signal(SIGXFSZ, SIG_IGN);
	ret = make_file(r, err);
	made = ret == 0;
	if (ret == 0)
		ret = make_database(r, err);
	if (ret < 0) {
		if (made)
			unlink(r->path);
		recorder_close(r);
		return ret;
	}
	*out = r;
	return 0;
}

void recorder_close(struct recorder *r)
{
	size_t i;

	if (!r)
		return;
	for (i = 0; i < RECORDING_TABLES; i++)
		sqlite3_finalize(r->insert[i]);
	sqlite3_finalize(r->begin);
	sqlite3_finalize(r->commit);
	sqlite3_close(r->db);
	/* not before: closing any descriptor of a file drops SQLite's locks on it */
	if (r->fd >= 0)
		close(r->fd);
	free(r->symbols.v);
	free(r->frames.v);
	free(r->stacks.v);
	free(r->subjects.v);
	free(r->written);
	free(r->path);
	free(r->safe);
	free(r);
}

/* ---- what goes in ------------------------------------------------------------------ */

int recorder_begin(struct recorder *r, struct error *err)
{
	int ret = enter(r, err);

	if (ret == 0)
		r->grouped = true;
	return ret;
}

int recorder_commit(struct recorder *r, struct error *err)
{
	r->grouped = false;
	return r->open || r->failed_ret ? leave(r, err) : 0;
}

static int put_pair(struct recorder *r, enum table t, const char *name, const char *value,
		    struct error *err)
{
	int ret = enter(r, err);
	struct row w;

	if (ret < 0)
		return ret;
	w = row_begin(r, t);
	row_text(&w, name);
	row_text(&w, value);
	return row_end(&w) == SQLITE_OK ? leave(r, err) : fail(r, w.rc, err);
}

int recorder_fact(struct recorder *r, const char *name, const char *value, struct error *err)
{
	return put_pair(r, T_RECORDING, name, value, err);
}

int recorder_target(struct recorder *r, const char *name, const char *value, struct error *err)
{
	return put_pair(r, T_TARGET, name, value, err);
}

static void time_text(char *buf, size_t size, int64_t ns)
{
	time_t s = (time_t)(ns / 1000000000);
	struct tm tm;
	size_t n;

	gmtime_r(&s, &tm);
	n = strftime(buf, size, "%Y-%m-%dT%H:%M:%S", &tm);
	snprintf(buf + n, size - n, ".%03dZ", (int)(ns / 1000000 % 1000));
}

int recorder_look(struct recorder *r, const struct recorder_look *look, struct error *err)
{
	int ret = enter(r, err);
	char when[40];
	struct row w;
	size_t i;

	if (ret < 0)
		return ret;
	time_text(when, sizeof(when), look->time_ns);
	w = row_begin(r, T_LOOK);
	row_int(&w, r->looks + 1);
	row_int(&w, look->time_ns);
	row_text(&w, when);
	row_int(&w, (int64_t)look->rss);
	row_int(&w, look->complete);
	row_int(&w, (int64_t)look->n);
	row_text(&w, look->document);
	if (row_end(&w) != SQLITE_OK)
		return fail(r, w.rc, err);
	for (i = 0; i < look->n; i++) {
		w = row_begin(r, T_LEDGER);
		row_int(&w, r->looks + 1);
		row_text(&w, look->rows[i].account);
		row_int(&w, (int64_t)look->rows[i].bytes);
		row_int(&w, (int64_t)look->rows[i].whole_pages);
		row_int(&w, (int64_t)look->rows[i].lazyfree);
		if (row_end(&w) != SQLITE_OK)
			return fail(r, w.rc, err);
	}
	ret = leave(r, err);
	if (ret < 0)
		return ret;
	r->looks++;
	snprintf(r->last_time, sizeof(r->last_time), "%s", when);
	return 0;
}

int recorder_counter(struct recorder *r, const char *name, uint64_t value, struct error *err)
{
	int ret = enter(r, err);
	struct row w;

	if (ret < 0)
		return ret;
	w = row_begin(r, T_COUNTER);
	row_int(&w, r->looks);
	row_text(&w, name);
	row_int(&w, (int64_t)value);
	return row_end(&w) == SQLITE_OK ? leave(r, err) : fail(r, w.rc, err);
}

int recorder_note(struct recorder *r, const char *text, struct error *err)
{
	int ret = enter(r, err);
	struct row w;

	if (ret < 0)
		return ret;
	w = row_begin(r, T_NOTE);
	row_int(&w, ++r->notes);
	row_int(&w, r->looks);
	row_text(&w, text);
	return row_end(&w) == SQLITE_OK ? leave(r, err) : fail(r, w.rc, err);
}

/* Which of the subjects is it? Two sums of its text stand for the text. */
static struct entry *subject_get(struct recorder *r, const char *kind, const char *subject)
{
	uint64_t h = 0xcbf29ce484222325ull;
	struct key key = { { 0 } };

	for (const char *p = subject; *p; p++)
		h = (h ^ (unsigned char)*p) * 0x100000001b3ull;
	key.w[0] = h;
	key.w[1] = recording_sum_text(recording_sum_begin(kind), subject, strlen(subject));
	key.w[2] = strlen(subject);
	return map_get(&r->subjects, &key);
}

int recorder_figures(struct recorder *r, const char *kind, const char *subject,
		     const struct recording_figure *v, size_t n, struct error *err)
{
	char text[RECORDING_FIGURES_MAX * 64], *p = text;
	int ret = enter(r, err);
	struct entry *e;
	uint32_t sum;
	struct row w;

	if (ret < 0)
		return ret;
	for (size_t i = 0; i < n && i < RECORDING_FIGURES_MAX; i++)
		p += snprintf(p, 64, "%s\"%.31s\":%" PRIu64, i ? "," : "{", v[i].name, v[i].value);
	snprintf(p, 4, n ? "}" : "{}");
	sum = recording_sum_text(recording_sum_begin(kind), text, strlen(text));
	e = subject_get(r, kind, subject);
	if (!e)
		return fail(r, SQLITE_NOMEM, err);
	if (e->id && e->at == sum)
		return leave(r, err);
	e->id = 1;
	e->at = sum;
	w = row_begin(r, T_FIGURE);
	row_text(&w, kind);
	row_text(&w, subject);
	row_int(&w, r->looks);
	row_text(&w, text);
	return row_end(&w) == SQLITE_OK ? leave(r, err) : fail(r, w.rc, err);
}

/* ---- profiles ------------------------------------------------------------------------ */

/* Number of a symbol, its chain of inlined functions written before it. Symbols are
 * known by their content, so that an address whose code changed gets another one. */
static int put_symbol(struct recorder *r, const struct symbol_key *k, const struct symbol *s,
		      unsigned depth, uint32_t *id)
{
	uint32_t sum = recording_sum_begin("symbol"), outer = 0;
	struct entry *e;
	struct key key = { 0 };
	struct row w;
	int rc;

	*id = 0;
	if (!s || depth > 64)
		return SQLITE_OK;
	rc = put_symbol(r, k, s->outer, depth + 1, &outer);
	if (rc != SQLITE_OK)
		return rc;
	sum = s->name ? recording_sum_text(sum, s->name, strlen(s->name)) : recording_sum_null(sum);
	sum = s->module ? recording_sum_text(sum, s->module, strlen(s->module))
			: recording_sum_null(sum);
	sum = s->file ? recording_sum_text(sum, s->file, strlen(s->file)) : recording_sum_null(sum);
	key.w[0] = k->addr;
	key.w[1] = (uint64_t)k->kind << 32 | (uint64_t)k->exact << 16 | (uint64_t)s->kind << 8 |
		   depth;
	key.w[2] = (uint64_t)outer << 32 | s->line;
	key.w[3] = s->offset;
	key.w[4] = sum;
	e = map_get(&r->symbols, &key);
	if (!e)
		return SQLITE_NOMEM;
	if (!e->id) {
		e->id = (uint32_t)r->symbols.n;
		w = row_begin(r, T_SYMBOL);
		row_int(&w, e->id);
		row_int(&w, (int64_t)k->addr);
		row_int(&w, k->kind);
		row_int(&w, k->exact);
		row_text(&w, s->name);
		row_text(&w, s->module);
		row_text(&w, s->file);
		row_int(&w, s->line);
		row_int(&w, (int64_t)s->offset);
		row_int(&w, s->kind);
		row_int(&w, outer);
		rc = row_end(&w);
	}
	*id = e->id;
	return rc;
}

/* Number of the leaf frame: frames are written from the root on. */
static int put_frames(struct recorder *r, const struct profile_stack *stack,
		      const struct symbols *s, uint32_t *leaf)
{
	uint32_t parent = 0;
	size_t i;
	int rc;

	for (i = stack->n; i-- > 0;) {
		const struct frame *f = &stack->frames[i];
		struct symbol_key k = { f->addr, f->kind, profile_frame_exact(stack, i) };
		struct key key = { { parent, f->addr, f->kind } };
		uint32_t symbol;
		struct entry *e;
		struct row w;

		rc = put_symbol(r, &k, s ? symbols_find(s, stack, i) : NULL, 0, &symbol);
		if (rc != SQLITE_OK)
			return rc;
		key.w[3] = symbol;
		e = map_get(&r->frames, &key);
		if (!e)
			return SQLITE_NOMEM;
		if (!e->id) {
			e->id = (uint32_t)r->frames.n;
			w = row_begin(r, T_FRAME);
			row_int(&w, e->id);
			row_int(&w, parent);
			row_int(&w, (int64_t)f->addr);
			row_int(&w, f->kind);
			row_int(&w, symbol);
			rc = row_end(&w);
			if (rc != SQLITE_OK)
				return rc;
		}
		parent = e->id;
	}
	*leaf = parent;
	return SQLITE_OK;
}

static int put_weight(struct recorder *r, const struct written *k, unsigned look)
{
	struct row w = row_begin(r, T_WEIGHT);

	row_int(&w, look);
	row_int(&w, k->id);
	row_int(&w, k->weight);
	row_int(&w, k->gross);
	row_int(&w, k->count);
	row_int(&w, k->tid);
	return row_end(&w);
}

/* Two hashes of a label: with the seed nobody can make two labels meet. */
static void label_key(const struct recorder *r, const char *label, uint64_t *a, uint64_t *b)
{
	*a = r->stacks.seed ^ (label != NULL);
	*b = ~r->stacks.seed;
	for (; label && *label; label++) {
		*a = (*a ^ (unsigned char)*label) * 0x100000001b3ull;
		*b = (*b + (unsigned char)*label) * 0x9e3779b97f4a7c15ull;
		*b ^= *b >> 32;
	}
}

static int put_stack(struct recorder *r, uint32_t profile, const struct profile_stack *stack,
		     const struct symbols *s, unsigned look)
{
	struct written *k, now = { 0 };
	struct key key = { 0 };
	struct entry *e;
	uint32_t leaf;
	struct row w;
	int rc = put_frames(r, stack, s, &leaf);

	if (rc != SQLITE_OK)
		return rc;
	key.w[0] = (uint64_t)profile << 1 | stack->complete;
	key.w[1] = leaf;
	key.w[2] = stack->process;
	label_key(r, stack->label, &key.w[3], &key.w[4]);
	e = map_get(&r->stacks, &key);
	if (!e)
		return SQLITE_NOMEM;
	if (!e->id) {
		if (r->n_written == r->a_written) {
			size_t more = r->a_written ? r->a_written * 2 : 1024;
			void *v = realloc(r->written, more * sizeof(*r->written));

			if (!v)
				return SQLITE_NOMEM;
			r->written = v;
			r->a_written = more;
		}
		e->id = (uint32_t)r->stacks.n;
		e->at = (uint32_t)r->n_written++;
		now.id = e->id;
		now.profile = profile;
		r->written[e->at] = now;
		w = row_begin(r, T_STACK);
		row_int(&w, e->id);
		row_int(&w, profile);
		row_int(&w, leaf);
		row_int(&w, (int64_t)stack->process);
		row_text(&w, stack->label);
		row_int(&w, stack->complete);
		rc = row_end(&w);
		if (rc != SQLITE_OK)
			return rc;
	}
	k = &r->written[e->at];
	now = *k;
	now.weight = stack->weight;
	now.gross = stack->gross;
	now.count = (int64_t)stack->count;
	now.tid = stack->tid;
	k->seen = now.seen = r->flushes;
	if (memcmp(&now, k, sizeof(now)) == 0)
		return SQLITE_OK;
	*k = now;
	return put_weight(r, k, look);
}

static int profile_id(struct recorder *r, const struct profile *p, uint32_t *id)
{
	struct row w;
	unsigned i;

	for (i = 0; i < r->profiles; i++)
		if (strcmp(r->kinds[i], p->kind) == 0) {
			*id = i + 1;
			return SQLITE_OK;
		}
	if (i == sizeof(r->kinds) / sizeof(r->kinds[0]))
		return SQLITE_TOOBIG;
	memcpy(r->kinds[i], p->kind, sizeof(r->kinds[i]));
	*id = ++r->profiles;
	w = row_begin(r, T_PROFILE);
	row_int(&w, *id);
	row_text(&w, p->kind);
	row_text(&w, p->unit);
	return row_end(&w);
}

int recorder_profile(struct recorder *r, const struct profile *p, const struct symbols *s,
		     bool after, struct error *err)
{
	unsigned look = r->looks + after;
	uint32_t id = 0;
	struct row w;
	size_t i;
	int ret = enter(r, err), rc;

	if (ret < 0)
		return ret;
	r->flushes++;
	rc = profile_id(r, p, &id);
	for (i = 0; i < p->n && rc == SQLITE_OK; i++)
		rc = put_stack(r, id, &p->stacks[i], s, look);
	for (i = 0; i < r->n_written && rc == SQLITE_OK; i++) {
		struct written *k = &r->written[i];

		/* one that is not in the profile any more weighs nothing now */
		if (k->profile != id || k->seen == r->flushes ||
		    (!k->weight && !k->gross && !k->count))
			continue;
		k->weight = k->gross = k->count = 0;
		k->tid = 0;
		rc = put_weight(r, k, look);
	}
	if (rc != SQLITE_OK)
		return fail(r, rc, err);
	w = row_begin(r, T_MOMENT);
	row_int(&w, id);
	row_int(&w, look);
	row_int(&w, profile_total(p));
	row_int(&w, p->without_stack);
	row_int(&w, (int64_t)p->lost_events);
	row_int(&w, (int64_t)p->lost_stacks);
	return row_end(&w) == SQLITE_OK ? leave(r, err) : fail(r, w.rc, err);
}
