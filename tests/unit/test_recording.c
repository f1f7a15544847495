/* SPDX-License-Identifier: Apache-2.0 */
/* Recordings: what goes in comes out; a recorder that is killed, has no disk left or
 * is refused; files that are damaged, foreign or made to hurt. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "profile/recording.h"

static char dir[64], file[96], journal[128];

static int setup(void **state)
{
	snprintf(dir, sizeof(dir), "/tmp/test-recording-XXXXXX");
	assert_non_null(mkdtemp(dir));
	snprintf(file, sizeof(file), "%s/r.beamray", dir);
	snprintf(journal, sizeof(journal), "%s-journal", file);
	return 0;
}

static int teardown(void **state)
{
	char cmd[128];

	snprintf(cmd, sizeof(cmd), "rm -rf %s", dir);
	return system(cmd);
}

/* A sequence that is the same everywhere. */
static uint64_t random_state = 20260101;
static uint32_t roll(uint32_t n)
{
	random_state = random_state * 6364136223846793005ull + 1442695040888963407ull;
	return (uint32_t)(random_state >> 33) % (n ? n : 1);
}

static char *slurp(const char *path, size_t *n)
{
	struct stat st = { 0 };
	int fd = open(path, O_RDONLY);
	char *v;

	assert_true(fd >= 0 && fstat(fd, &st) == 0);
	v = malloc((size_t)st.st_size + 1);
	*n = (size_t)st.st_size;
	assert_int_equal(read(fd, v, *n), *n);
	close(fd);
	return v;
}

static void spill(const char *path, const char *v, size_t n)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, v, n), n);
	close(fd);
}

/* ---- content that is known by its number -------------------------------------------- */

#define ROWS 20

static void put_look(struct recorder *r, unsigned k, int *ret, struct error *err)
{
	struct recording_row rows[ROWS];
	struct recorder_look l = {
		1700000000000000000 + k * 1000000000ll, 0, k % 2, rows, ROWS, NULL
	};
	char *doc = malloc(20000);
	size_t i;

	memset(rows, 0, sizeof(rows));
	for (i = 0; i < ROWS; i++) {
		snprintf(rows[i].account, sizeof(rows[i].account), "vm.used.a%zu", i);
		rows[i].bytes = 4096 * (k + 1) * (i + 1);
		rows[i].whole_pages = k;
		rows[i].lazyfree = i;
		l.rss += rows[i].bytes;
	}
	/* some weight on the disk, so that a kill finds something going on */
	i = (size_t)snprintf(doc, 64, "{\"look\":%u,\"pad\":\"", k);
	memset(doc + i, 'a' + (int)(k % 26), 15000);
	strcpy(doc + i + 15000, "\"}");
	l.document = doc;
	*ret = recorder_look(r, &l, err);
	free(doc);
}

static void check_look(struct recording *r, unsigned k)
{
	const struct recording_look *l = &r->looks[k - 1];
	struct recording_row *rows;
	struct error err = { 0 };
	uint64_t sum = 0;
	char want[40], *doc;
	size_t n, i;

	assert_int_equal(l->number, k);
	assert_int_equal(l->time_ns, 1700000000000000000 + k * 1000000000ll);
	assert_int_equal(l->complete, k % 2);
	assert_int_equal(recording_rows(r, k, &rows, &n, &err), 0);
	assert_int_equal(n, ROWS);
	for (i = 0; i < n; i++) {
		unsigned a = ROWS - 1 - (unsigned)i; /* largest first */

		snprintf(want, sizeof(want), "vm.used.a%u", a);
		assert_string_equal(rows[i].account, want);
		assert_int_equal(rows[i].bytes, 4096ull * (k + 1) * (a + 1));
		assert_int_equal(rows[i].whole_pages, k);
		assert_int_equal(rows[i].lazyfree, a);
		sum += rows[i].bytes;
	}
	assert_int_equal(sum, l->rss);
	free(rows);
	assert_int_equal(recording_document(r, k, &doc, &err), 0);
	snprintf(want, sizeof(want), "{\"look\":%u,", k);
	assert_memory_equal(doc, want, strlen(want));
	assert_int_equal(doc[15010], 'a' + (int)(k % 26));
	free(doc);
}

static struct symbol inlined = { "outer_function", "leak.so", "leak.c", 12, 0, FRAME_NIF, NULL };
static const struct {
	struct frame f;
	bool exact;
	struct symbol s;
} known[] = {
	{ { 0xffffffff81000010, FRAME_KERNEL },
	  true,
	  { "handle_mm_fault", NULL, NULL, 0, 0, FRAME_KERNEL, NULL } },
	{ { 0x7f0000001000, FRAME_NATIVE },
	  true,
	  { "leak_malloc", "leak.so", "leak.c", 42, 16, FRAME_NIF, &inlined } },
	{ { 0x7f0000001000, FRAME_NATIVE },
	  false,
	  { "before_leak", "leak.so", NULL, 0, 15, FRAME_NIF, NULL } },
	{ { 0x7f0000002000, FRAME_ERLANG },
	  false,
	  { "worker:loop/1", "worker", "worker.erl", 7, 0, FRAME_ERLANG, NULL } },
	{ { 0x7f0000003000, FRAME_NATIVE },
	  false,
	  { NULL, "libx.so", NULL, 0, 0x3000, FRAME_LIBRARY, NULL } },
};
#define KNOWN (sizeof(known) / sizeof(known[0]))

static struct symbols *make_symbols(void)
{
	struct symbols *s = symbols_new();
	size_t i;

	for (i = 0; i < KNOWN; i++) {
		struct symbol_key k = { known[i].f.addr, known[i].f.kind, known[i].exact };

		assert_int_equal(symbols_put(s, &k, &known[i].s), 0);
	}
	return s;
}

/* Profile `k` of a growing sequence. */
static struct profile *make_profile(unsigned k)
{
	struct profile *p = profile_new("growth", "bytes");
	struct frame a[] = { known[0].f, known[1].f, { 1ull << 32 | 5, FRAME_REPEAT }, known[3].f };
	struct frame b[] = { known[1].f, known[2].f, { 3, FRAME_CUT } };
	struct frame c[] = { known[4].f };

	assert_int_equal(profile_add(p, a, 4, 0x1234, 0, "worker", true, 1000 * k, 2000 * k, k), 0);
	assert_int_equal(profile_add(p, b, 3, 0, 77, NULL, false, -5, 10, 3), 0);
	assert_int_equal(profile_add(p, b, 3, 0, 77, "", true, 6, 6, 1), 0);
	if (k == 2) /* is not in the third any more */
		assert_int_equal(profile_add(p, c, 1, 9, 0, "gone", true, 99, 99, 9), 0);
	assert_int_equal(profile_add(p, NULL, 0, 9, 0, "no frames", false, k, k, 1), 0);
	p->lost_events = k;
	p->lost_stacks = 2 * k;
	p->without_stack = 10 * k;
	profile_sort(p);
	return p;
}

static void same_text(const char *a, const char *b)
{
	assert_int_equal(a != NULL, b != NULL);
	if (a && b)
		assert_string_equal(a, b);
}

static void same_symbol(const struct symbol *a, const struct symbol *b)
{
	assert_int_equal(a != NULL, b != NULL);
	if (!a || !b)
		return;
	same_text(a->name, b->name);
	same_text(a->module, b->module);
	same_text(a->file, b->file);
	assert_int_equal(a->line, b->line);
	assert_int_equal(a->offset, b->offset);
	assert_int_equal(a->kind, b->kind);
	same_symbol(a->outer, b->outer);
}

static void same_profile(const struct profile *a, const struct symbols *sa, const struct profile *b,
			 const struct symbols *sb)
{
	size_t i, k;

	assert_string_equal(a->kind, b->kind);
	assert_string_equal(a->unit, b->unit);
	assert_int_equal(a->n, b->n);
	assert_int_equal(a->lost_events, b->lost_events);
	assert_int_equal(a->lost_stacks, b->lost_stacks);
	assert_int_equal(a->without_stack, b->without_stack);
	assert_int_equal(profile_total(a), profile_total(b));
	for (i = 0; i < a->n; i++) {
		const struct profile_stack *x = &a->stacks[i], *y = &b->stacks[i];

		assert_int_equal(x->weight, y->weight);
		assert_int_equal(x->gross, y->gross);
		assert_int_equal(x->count, y->count);
		assert_int_equal(x->process, y->process);
		assert_int_equal(x->tid, y->tid);
		assert_int_equal(x->complete, y->complete);
		same_text(x->label, y->label);
		assert_int_equal(x->n, y->n);
		for (k = 0; k < x->n; k++) {
			assert_int_equal(x->frames[k].addr, y->frames[k].addr);
			assert_int_equal(x->frames[k].kind, y->frames[k].kind);
			same_symbol(symbols_find(sa, x, k), symbols_find(sb, y, k));
		}
	}
}

/* "changes" does at every look, "stays" is the same from the first on, "late" comes last. */
static void put_figures(struct recorder *r, unsigned k)
{
	const struct recording_figure changes[] = { { "count", 100 * k },
						    { "ns.max", 1ull << 60 } };
	const struct recording_figure stays[] = { { "count", 7 } };
	struct error err = { 0 };

	assert_int_equal(recorder_figures(r, "gc", "changes", changes, 2, &err), 0);
	assert_int_equal(recorder_figures(r, "gc", "stays", stays, 1, &err), 0);
	assert_int_equal(recorder_figures(r, "carriers", "changes", stays, 1, &err), 0);
	if (k == 3)
		assert_int_equal(recorder_figures(r, "gc", "late \"\\x01\"", stays, 0, &err), 0);
}

static void check_figures(struct recording *r)
{
	struct recording_subjects s;
	struct error err = { 0 };

	assert_int_equal(recording_subjects(r, "gc", UINT_MAX, &s, &err), 0);
	assert_int_equal(s.n, 3);
	assert_string_equal(s.v[0].text, "changes");
	assert_int_equal(s.v[0].look, 3);
	assert_int_equal(recording_figure(&s.v[0], "count"), 300);
	assert_int_equal(recording_figure(&s.v[0], "ns.max"), 1ull << 60);
	assert_int_equal(recording_figure(&s.v[0], "nothing"), 0);
	assert_string_equal(s.v[1].text, "late \"\\x01\"");
	assert_int_equal(s.v[1].n, 0);
	assert_string_equal(s.v[2].text, "stays");
	assert_int_equal(s.v[2].look, 1);
	recording_subjects_free(&s);
	assert_int_equal(recording_subjects(r, "gc", 2, &s, &err), 0);
	assert_int_equal(s.n, 2);
	assert_int_equal(recording_figure(&s.v[0], "count"), 200);
	recording_subjects_free(&s);
	assert_int_equal(recording_subjects(r, "carriers", 1, &s, &err), 0);
	assert_int_equal(s.n, 1);
	recording_subjects_free(&s);
	assert_int_equal(recording_subjects(r, "nothing", UINT_MAX, &s, &err), 0);
	assert_int_equal(s.n, 0);
}

static void record_all(const char *path)
{
	struct symbols *s = make_symbols();
	struct error err = { 0 };
	struct recorder *r;
	unsigned k;
	int ret;

	assert_int_equal(recorder_create(path, &r, &err), 0);
	assert_int_equal(recorder_fact(r, "state", "running", &err), 0);
	assert_int_equal(recorder_target(r, "pid", "4711", &err), 0);
	for (k = 1; k <= 3; k++) {
		struct profile *p = make_profile(k);

		assert_int_equal(recorder_begin(r, &err), 0);
		put_look(r, k, &ret, &err);
		assert_int_equal(ret, 0);
		assert_int_equal(recorder_profile(r, p, s, false, &err), 0);
		assert_int_equal(recorder_counter(r, "lost_records", 10 + k, &err), 0);
		put_figures(r, k);
		assert_int_equal(recorder_commit(r, &err), 0);
		profile_free(p);
	}
	assert_int_equal(recorder_note(r, "first", &err), 0);
	assert_int_equal(recorder_note(r, "second", &err), 0);
	assert_int_equal(recorder_fact(r, "state", "complete", &err), 0);
	recorder_close(r);
	symbols_free(s);
}

static void check_all(struct recording *r)
{
	struct symbols *s = make_symbols(), *rs;
	struct profile *p, *rp;
	struct error err = { 0 };
	unsigned k;

	assert_string_equal(recording_fact(r, "state"), "complete");
	assert_string_equal(recording_target(r, "pid"), "4711");
	assert_null(recording_fact(r, "nothing"));
	assert_int_equal(r->n_looks, 3);
	assert_int_equal(r->n_profiles, 1);
	assert_string_equal(r->profiles[0].kind, "growth");
	assert_string_equal(r->profiles[0].unit, "bytes");
	assert_int_equal(r->n_counters, 3);
	assert_string_equal(r->counters[2].name, "lost_records");
	assert_int_equal(r->counters[2].value, 13);
	assert_int_equal(r->counters[2].look, 3);
	check_figures(r);
	assert_int_equal(r->n_notes, 2);
	assert_string_equal(r->notes[0].text, "first");
	assert_int_equal(r->notes[1].look, 3);
	for (k = 1; k <= 3; k++) {
		check_look(r, k);
		p = make_profile(k);
		assert_int_equal(recording_profile(r, "growth", k == 3 ? UINT_MAX : k, &rp, &rs,
						   &err),
				 0);
		same_profile(p, s, rp, rs);
		profile_free(p);
		profile_free(rp);
		symbols_free(rs);
	}
	symbols_free(s);
}

static void what_goes_in_comes_out(void **state)
{
	struct error err = { 0 };
	struct recording_row *rows;
	struct recording *r;
	struct profile *p;
	struct symbols *s;
	size_t n;

	record_all(file);
	assert_int_not_equal(access(journal, F_OK), 0);
	assert_int_equal(recording_open(file, &r, &err), 0);
	check_all(r);
	assert_int_equal(recording_rows(r, 4, &rows, &n, &err), -ENOENT);
	assert_int_equal(err.code, EXIT_USAGE);
	memset(&err, 0, sizeof(err));
	assert_int_equal(recording_profile(r, "cpu", 1, &p, &s, &err), -ENOENT);
	memset(&err, 0, sizeof(err));
	assert_int_equal(recording_profile(r, "growth", 0, &p, &s, &err), -ENOENT);
	recording_close(r);
}

/* The same with other people's eyes: SQLite's own. */
static void sqlite_finds_it_sound(void **state)
{
	sqlite3_stmt *st;
	sqlite3 *db;

	record_all(file);
	assert_int_equal(sqlite3_open_v2(file, &db, SQLITE_OPEN_READONLY, NULL), SQLITE_OK);
	assert_int_equal(sqlite3_prepare_v2(db, "PRAGMA integrity_check", -1, &st, NULL),
			 SQLITE_OK);
	assert_int_equal(sqlite3_step(st), SQLITE_ROW);
	assert_string_equal((const char *)sqlite3_column_text(st, 0), "ok");
	sqlite3_finalize(st);
	assert_int_equal(
		sqlite3_prepare_v2(db,
				   "SELECT count(*) FROM look JOIN (SELECT look, sum(bytes) s "
				   "FROM ledger GROUP BY look) ON id = look AND rss = s",
				   -1, &st, NULL),
		SQLITE_OK);
	assert_int_equal(sqlite3_step(st), SQLITE_ROW);
	assert_int_equal(sqlite3_column_int(st, 0), 3);
	sqlite3_finalize(st);
	/* of the unchanged stack there is one weight, of the growing one three */
	assert_int_equal(sqlite3_prepare_v2(db, "SELECT count(*) FROM weight", -1, &st, NULL),
			 SQLITE_OK);
	assert_int_equal(sqlite3_step(st), SQLITE_ROW);
	assert_int_equal(sqlite3_column_int(st, 0), 3 + 1 + 1 + 2 + 3);
	sqlite3_finalize(st);
	sqlite3_close(db);
}

/* Code was replaced: one address, two functions, both are kept apart. */
static void one_address_may_have_two_names(void **state)
{
	struct frame f = { 0x1000, FRAME_ERLANG },
		     g[] = { { 0x1000, FRAME_ERLANG }, { 0x2000, FRAME_ERLANG } };
	struct symbol_key k = { 0x1000, FRAME_ERLANG, true };
	struct symbol one = { .name = "old:f/0", .kind = FRAME_ERLANG };
	struct symbol two = { .name = "new:g/0", .kind = FRAME_ERLANG };
	struct symbols *s = symbols_new(), *rs;
	struct profile *p = profile_new("growth", "bytes"), *rp;
	struct error err = { 0 };
	struct recording *r;
	struct recorder *w;

	assert_int_equal(recorder_create(file, &w, &err), 0);
	assert_int_equal(profile_add(p, &f, 1, 0, 0, NULL, true, 7, 7, 1), 0);
	symbols_put(s, &k, &one);
	assert_int_equal(recorder_profile(w, p, s, true, &err), 0);
	symbols_put(s, &k, &two);
	assert_int_equal(profile_add(p, g, 2, 0, 0, NULL, true, 5, 5, 1), 0);
	profile_free(p);
	p = profile_new("growth", "bytes");
	assert_int_equal(profile_add(p, &f, 1, 0, 0, NULL, true, 7, 7, 1), 0);
	assert_int_equal(profile_add(p, g, 2, 0, 0, "x", true, 5, 5, 1), 0);
	assert_int_equal(recorder_profile(w, p, s, true, &err), 0);
	recorder_close(w);
	assert_int_equal(recording_open(file, &r, &err), 0);
	assert_int_equal(recording_profile(r, "growth", UINT_MAX, &rp, &rs, &err), 0);
	assert_int_equal(rp->n, 2);
	assert_string_equal(symbols_find(rs, &rp->stacks[0], 0)->name, "new:g/0");
	assert_string_equal(symbols_find(rs, &rp->stacks[1], 0)->name, "new:g/0");
	profile_free(rp);
	symbols_free(rs);
	recording_close(r);
	profile_free(p);
	symbols_free(s);
}

static void hostile_text_is_harmless(void **state)
{
	static const char evil[] = "\x1b]0;x\x07\xe2\x80\xae"
				   "a\\x1B\n\xff";
	struct frame f = { 0x1000, FRAME_ERLANG };
	struct symbol_key k = { 0x1000, FRAME_ERLANG, true };
	struct symbol one = { .name = (char *)evil, .kind = FRAME_ERLANG };
	struct symbols *s = symbols_new(), *rs;
	struct profile *p = profile_new("growth", "bytes"), *rp;
	struct error err = { 0 };
	struct recording *r;
	struct recorder *w;
	const char *safe = "\\x1B]0;x\\x07\\u{202E}a\\x1B\\x0A\\xFF";

	assert_int_equal(recorder_create(file, &w, &err), 0);
	assert_int_equal(profile_add(p, &f, 1, 0, 0, evil, true, 7, 7, 1), 0);
	symbols_put(s, &k, &one);
	assert_int_equal(recorder_profile(w, p, s, true, &err), 0);
	assert_int_equal(recorder_fact(w, evil, evil, &err), 0);
	assert_int_equal(recorder_note(w, evil, &err), 0);
	recorder_close(w);
	assert_int_equal(recording_open(file, &r, &err), 0);
	assert_string_equal(r->facts[0].name, safe);
	assert_string_equal(r->facts[0].value, safe);
	assert_string_equal(r->notes[0].text, safe);
	assert_int_equal(recording_profile(r, "growth", UINT_MAX, &rp, &rs, &err), 0);
	assert_string_equal(rp->stacks[0].label, safe);
	assert_string_equal(symbols_find(rs, &rp->stacks[0], 0)->name, safe);
	profile_free(rp);
	symbols_free(rs);
	recording_close(r);
	profile_free(p);
	symbols_free(s);
}

/* ---- a recorder that ends badly ------------------------------------------------------- */

static pid_t record_for_ever(int *from)
{
	int fds[2];
	pid_t pid;

	assert_int_equal(pipe(fds), 0);
	pid = fork();
	if (pid == 0) {
		struct error err = { 0 };
		struct recorder *r;
		unsigned k;
		int ret = recorder_create(file, &r, &err);

		for (k = 1; ret == 0; k++) {
			put_look(r, k, &ret, &err);
			if (write(fds[1], &k, sizeof(k)) != sizeof(k))
				break;
		}
		_exit(1);
	}
	close(fds[1]);
	*from = fds[0];
	return pid;
}

static void killed_at_any_moment_it_is_whole(void **state)
{
	unsigned round, journals = 0, empty = 0, most = 0, rounds = 60;

	for (round = 0; round < rounds; round++) {
		struct timespec t = { 0, roll(20) * 1000000 + roll(1000000) };
		unsigned first = roll(6);
		struct error err = { 0 };
		unsigned done = 0, k;
		struct recording *r;
		int from, status;
		pid_t pid = record_for_ever(&from);
		int ret;

		/* some looks are made, then some time goes by */
		while (done < first && read(from, &k, sizeof(k)) == sizeof(k))
			done = k;
		nanosleep(&t, NULL);
		kill(pid, SIGKILL);
		waitpid(pid, &status, 0);
		assert_true(WIFSIGNALED(status));
		while (read(from, &k, sizeof(k)) == sizeof(k))
			done = k;
		close(from);
		journals += access(journal, F_OK) == 0;
		ret = recording_open(file, &r, &err);
		if (ret < 0) {
			/* killed before the file was made */
			assert_int_equal(done, 0);
			assert_int_equal(err.code, EXIT_USAGE);
			empty++;
		} else {
			assert_true(r->n_looks >= done && r->n_looks <= done + 1);
			for (k = 1; k <= r->n_looks; k++)
				check_look(r, k);
			most = r->n_looks > most ? (unsigned)r->n_looks : most;
			recording_close(r);
		}
		unlink(file);
		unlink(journal);
	}
	printf("# of %u killed: %u left a journal, %u had not begun, up to %u looks\n", rounds,
	       journals, empty, most);
	assert_true(most > 3 && empty < rounds / 2);
}

/* The record at the end of a journal that names another file. */
static void name_super_journal(const char *path, const char *name)
{
	static const unsigned char magic[8] = { 0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7 };
	unsigned char words[8] = { 0, 0, 0, (unsigned char)strlen(name) };
	unsigned sum = 0;
	size_t i;
	FILE *f = fopen(path, "ae");

	assert_non_null(f);
	for (i = 0; name[i]; i++)
		sum += (unsigned char)name[i];
	words[6] = (unsigned char)(sum >> 8);
	words[7] = (unsigned char)sum;
	assert_int_equal(fwrite("\0\4\0\1", 1, 4, f), 4);
	fputs(name, f);
	assert_int_equal(fwrite(words, 1, 8, f), 8);
	assert_int_equal(fwrite(magic, 1, 8, f), 8);
	assert_int_equal(fclose(f), 0);
}

/* A journal beside a file that may only be read: as left in the middle of a commit. */
static void left_journal_is_played_into_a_copy(void **state)
{
	char cmd[1024], kept[128], victim[128];
	struct error err = { 0 };
	struct recording *r;
	unsigned tries = 0, k;
	bool found = false;

	/* stop the recorder wherever it is and copy, until there is a journal in use */
	while (!found && tries++ < 100) {
		struct timespec t = { 0, 60000000 + roll(60000000) };
		int from, fd;
		pid_t pid = record_for_ever(&from);
		char first = 0;

		nanosleep(&t, NULL);
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
		close(from);
		fd = open(journal, O_RDONLY);
		if (fd >= 0 && read(fd, &first, 1) == 1 && first &&
		    recording_open(file, &r, &err) == 0) {
			found = r->n_looks > 0;
			recording_close(r);
		}
		if (fd >= 0)
			close(fd);
		if (!found) {
			unlink(journal);
			unlink(file);
		}
	}
	if (!found)
		skip();
	snprintf(kept, sizeof(kept), "%s/kept", dir);
	snprintf(cmd, sizeof(cmd), "cp %s %s && cp %s %s-journal && chmod 0444 %s*", file, kept,
		 journal, kept, kept);
	assert_int_equal(system(cmd), 0);
	assert_int_equal(recording_open(kept, &r, &err), 0);
	for (k = 1; k <= r->n_looks; k++)
		check_look(r, k);
	recording_close(r);
	/* neither was touched */
	snprintf(cmd, sizeof(cmd), "cmp -s %s %s && cmp -s %s %s-journal", file, kept, journal,
		 kept);
	assert_int_equal(system(cmd), 0);
	/* one that names a super-journal, which SQLite would delete, is refused */
	snprintf(victim, sizeof(victim), "%s/victim", dir);
	spill(victim, "", 0);
	snprintf(cmd, sizeof(cmd), "%s-journal", kept);
	assert_int_equal(chmod(cmd, 0644), 0);
	name_super_journal(cmd, victim);
	memset(&err, 0, sizeof(err));
	assert_int_equal(recording_open(kept, &r, &err), -EINVAL);
	assert_non_null(strstr(err.text, "not one of ours"));
	assert_int_equal(access(victim, F_OK), 0);
}

/* Records in a child of its own until it fails; the exit code is the looks. */
static void fill(void (*limit)(void), bool *possible)
{
	pid_t pid = fork();
	struct error err = { 0 };
	struct recording *r;
	unsigned k, n;
	int status;

	if (pid == 0) {
		struct recorder *w;
		int ret;

		limit();
		ret = recorder_create(file, &w, &err);
		for (k = 1; ret == 0 && k < 200; k++)
			put_look(w, k, &ret, &err);
		if (ret != -ENOSPC || err.code != EXIT_INCOMPLETE || !strstr(err.text, "it holds"))
			_exit(250);
		/* and it stays that way */
		if (recorder_note(w, "x", NULL) != -ENOSPC)
			_exit(251);
		recorder_close(w);
		if (strchr(file, '/') && strncmp(file, "/mnt", 4) == 0) {
			/* a file system of its own dies with the child: look here */
			memset(&err, 0, sizeof(err));
			if (recording_open(file, &r, &err) < 0 || r->n_looks != k - 2)
				_exit(252);
			recording_close(r);
		}
		_exit((int)k - 2);
	}
	waitpid(pid, &status, 0);
	assert_true(WIFEXITED(status));
	n = (unsigned)WEXITSTATUS(status);
	*possible = n != 255;
	printf("# ended after %u looks\n", n);
	if (!*possible || strncmp(file, "/mnt", 4) == 0) {
		assert_true(!*possible || (n > 2 && n < 200));
		return;
	}
	assert_true(n > 2 && n < 200);
	assert_int_equal(recording_open(file, &r, &err), 0);
	assert_int_equal(r->n_looks, n);
	for (k = 1; k <= n; k++)
		check_look(r, k);
	recording_close(r);
}

static void limit_file_size(void)
{
	struct rlimit l = { 300000, 300000 };

	setrlimit(RLIMIT_FSIZE, &l);
}

static void limit_disk(void)
{
	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
	    mount("tmpfs", "/mnt", "tmpfs", 0, "size=300k") < 0)
		_exit(255);
}

static void file_size_limit_keeps_what_was_committed(void **state)
{
	bool possible;

	fill(limit_file_size, &possible);
	assert_true(possible);
}

static void full_disk_keeps_what_was_committed(void **state)
{
	bool possible;

	snprintf(file, sizeof(file), "/mnt/r.beamray");
	fill(limit_disk, &possible);
	if (!possible)
		skip();
}

/* ---- files that are not what they should be -------------------------------------------- */

/* Everything that can be read of it. 0, or what failed first. */
static int read_everything(const char *path, bool *looks_right)
{
	struct error err = { 0 };
	struct recording_row *rows;
	struct recording *r;
	struct profile *p;
	struct symbols *s;
	char *doc;
	size_t n, k;
	int ret = recording_open(path, &r, &err);

	if (ret < 0) {
		assert_true(err.code == EXIT_USAGE);
		assert_true(strlen(err.text) > 20 && !strchr(err.text, '\n'));
		return ret;
	}
	for (k = 1; k <= r->n_looks && ret == 0; k++) {
		ret = recording_rows(r, (unsigned)k, &rows, &n, &err);
		if (ret == 0)
			free(rows);
		if (ret == 0)
			ret = recording_document(r, (unsigned)k, &doc, &err);
		if (ret == 0)
			free(doc);
	}
	for (k = 0; k < r->n_profiles && ret == 0; k++) {
		ret = recording_profile(r, r->profiles[k].kind, UINT_MAX, &p, &s, &err);
		if (ret == 0) {
			profile_free(p);
			symbols_free(s);
		}
	}
	for (k = 0; k < 2 && ret == 0; k++) {
		struct recording_subjects subjects;

		ret = recording_subjects(r, k ? "carriers" : "gc", UINT_MAX, &subjects, &err);
		recording_subjects_free(&subjects);
	}
	if (ret == 0) {
		*looks_right = r->n_looks == 3 && r->n_profiles == 1;
		if (*looks_right)
			check_all(r);
	} else {
		assert_true(err.code == EXIT_USAGE && strlen(err.text) > 20);
	}
	recording_close(r);
	return ret;
}

static void damage_is_said_and_never_read(void **state)
{
	unsigned i, k, refused = 0, sound = 0, rounds = getenv("BEAMRAY_LONG") ? 20000 : 1500;
	char *good, *bad;
	size_t n, len;

	record_all(file);
	good = slurp(file, &n);
	assert_true(n > 8192);
	bad = calloc(1, n + 1);
	for (i = 0; i < rounds; i++) {
		uint32_t what = roll(5), pages = (uint32_t)(n / 4096);
		bool right = true;

		memcpy(bad, good, n);
		len = n;
		switch (what) {
		case 0: /* bits */
			for (k = 1 + roll(4); k > 0; k--)
				bad[roll((uint32_t)n)] ^= (char)(1 << roll(8));
			break;
		case 1: /* bytes, rather in the headers of pages */
			for (k = 1 + roll(8); k > 0; k--)
				bad[roll(pages) * 4096 + roll(roll(2) ? 16 : 200)] =
					(char)roll(256);
			break;
		case 2: /* a page in place of another */
			memcpy(bad + (size_t)4096 * roll(pages), good + (size_t)4096 * roll(pages),
			       4096);
			break;
		case 3:
			len = roll((uint32_t)n);
			break;
		default: /* a run of something */
			k = roll((uint32_t)n - 600);
			memset(bad + k, roll(2) ? 0 : (int)roll(256), 1 + roll(600));
		}
		spill(file, bad, len);
		if (read_everything(file, &right) == 0) {
			assert_true(right);
			sound++;
		} else {
			refused++;
		}
	}
	printf("# %u damaged copies: %u refused, %u read right all the same\n", rounds, refused,
	       sound);
	assert_true(refused > rounds / 3);
	free(bad);
	free(good);
}

static void change(const char *sql)
{
	sqlite3 *db;
	char *why = NULL;

	assert_int_equal(sqlite3_open(file, &db), SQLITE_OK);
	sqlite3_db_config(db, SQLITE_DBCONFIG_DEFENSIVE, 0, NULL);
	sqlite3_exec(db, sql, NULL, NULL, &why);
	if (why)
		printf("# %s: %s\n", sql, why);
	assert_null(why);
	sqlite3_close(db);
}

static void refused(const char *path, const char *words, enum exit_code code)
{
	struct error err = { 0 };
	struct recording *r;

	assert_true(recording_open(path, &r, &err) < 0);
	assert_null(r);
	assert_int_equal(err.code, code);
	if (!strstr(err.text, words))
		printf("# %s\n", err.text);
	assert_non_null(strstr(err.text, words));
}

static void what_is_not_ours_is_refused(void **state)
{
	static const struct {
		const char *sql, *words;
	} cases[] = {
		{ "PRAGMA application_id = 1", "not a recording" },
		{ "PRAGMA user_version = 3", "newer" },
		{ "PRAGMA user_version = 1", "tables" },
		{ "PRAGMA user_version = 0", "header" },
		{ "PRAGMA journal_mode = WAL", "header" },
		{ "CREATE VIEW x AS SELECT 1", "tables" },
		{ "CREATE TRIGGER x AFTER INSERT ON look BEGIN DELETE FROM look; END", "tables" },
		{ "CREATE INDEX x ON frame(addr || 'x')", "tables" },
		{ "ALTER TABLE note ADD COLUMN x", "tables" },
		{ "DROP TABLE note", "tables" },
		{ "PRAGMA writable_schema = 1; UPDATE sqlite_schema SET sql = "
		  "'CREATE VIEW note(id, look, text, crc) AS SELECT 1, 1, 1, 1', rootpage = 0, "
		  "type = 'view' WHERE name = 'note'",
		  "" },
		{ "UPDATE ledger SET bytes = bytes + 1", NULL },
		{ "UPDATE look SET rss = rss + 4096 WHERE id = 2", "checksum" },
		{ "UPDATE look SET id = id + 1000; UPDATE look SET id = id - 999", "checksum" },
		{ "UPDATE note SET text = x'41'", "checksum" },
		{ "DELETE FROM look WHERE id = 1", "order" },
		{ "UPDATE note SET text = zeroblob(70000000)", "" },
		{ "UPDATE figure SET subject = subject || 's'", NULL },
		{ "UPDATE figure SET figures = '{\"count\":8}' WHERE subject = 'stays'", NULL },
		{ "DROP TABLE figure", "tables" },
	};
	bool right;
	size_t i;

	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		record_all(file);
		if (strstr(cases[i].sql, "CREATE INDEX"))
			change("CREATE INDEX x ON frame(address || 'x')");
		else
			change(cases[i].sql);
		if (cases[i].words)
			refused(file, cases[i].words, EXIT_USAGE);
		else
			assert_int_equal(read_everything(file, &right), -EINVAL);
		unlink(file);
	}
	refused(file, "No such file", EXIT_USAGE);
	refused(dir, "not a file", EXIT_USAGE);
	refused("/dev/null", "not a file", EXIT_USAGE);
	spill(file, "", 0);
	refused(file, "empty", EXIT_USAGE);
	spill(file, "hello", 5);
	refused(file, "not a recording", EXIT_USAGE);
	spill(file, "SQLite format 3\0", 16);
	refused(file, "cut short", EXIT_USAGE);
	refused(":memory:", "No such file", EXIT_USAGE);
	refused("", "No such file", EXIT_USAGE);
}

/* Version 1 had no figures. */
static void the_older_schema_can_be_read(void **state)
{
	struct recording_subjects subjects;
	struct error err = { 0 };
	struct recording *r;

	record_all(file);
	change("DROP TABLE figure; PRAGMA user_version = 1");
	assert_int_equal(recording_open(file, &r, &err), 0);
	assert_int_equal(r->n_looks, 3);
	assert_int_equal(recording_subjects(r, "gc", UINT_MAX, &subjects, &err), 0);
	assert_int_equal(subjects.n, 0);
	recording_close(r);
	unlink(file);
}

static void recorder_leaves_other_files_alone(void **state)
{
	char other[128], text[8] = { 0 };
	struct error err = { 0 };
	struct recorder *r, *second;
	struct recording *in;
	int fd;

	spill(file, "mine", 4);
	assert_int_equal(recorder_create(file, &r, &err), -EEXIST);
	assert_int_equal(err.code, EXIT_USAGE);
	fd = open(file, O_RDONLY);
	assert_int_equal(read(fd, text, sizeof(text)), 4);
	close(fd);
	/* symbolic links, folders, what is no file */
	snprintf(other, sizeof(other), "%s/link", dir);
	assert_int_equal(symlink("/nowhere", other), 0);
	memset(&err, 0, sizeof(err));
	assert_true(recorder_create(other, &r, &err) < 0);
	assert_int_equal(err.code, EXIT_USAGE);
	assert_int_not_equal(access("/nowhere", F_OK), 0);
	memset(&err, 0, sizeof(err));
	assert_true(recorder_create(dir, &r, &err) < 0);
	assert_int_equal(err.code, EXIT_USAGE);
	memset(&err, 0, sizeof(err));
	assert_true(recorder_create("/dev/null", &r, &err) < 0);
	assert_int_equal(err.code, EXIT_USAGE);
	memset(&err, 0, sizeof(err));
	assert_true(recorder_create("/no/such/folder/x", &r, &err) < 0);
	assert_int_equal(err.code, EXIT_USAGE);
	/* an empty file and an older recording are taken */
	spill(file, "", 0);
	memset(&err, 0, sizeof(err));
	assert_int_equal(recorder_create(file, &r, &err), 0);
	/* but not one that is being made */
	assert_true(recorder_create(file, &second, &err) < 0);
	assert_non_null(strstr(err.text, "another beamray"));
	recorder_close(r);
	record_all(file);
	memset(&err, 0, sizeof(err));
	assert_int_equal(recorder_create(file, &r, &err), 0);
	/* and can be read while it is made */
	assert_int_equal(recording_open(file, &in, &err), 0);
	assert_int_equal(in->n_looks, 0);
	recording_close(in);
	recorder_close(r);
}

/* A large profile: time and size stay in bounds, and only changes are written. */
static void large_profiles(void **state)
{
	struct profile *p = profile_new("growth", "bytes"), *rp;
	struct symbols *s = make_symbols(), *rs;
	struct error err = { 0 };
	struct frame f[64];
	struct recorder *w;
	struct recording *r;
	struct stat one, two;
	unsigned i, k;
	int ret;

	for (i = 0; i < 5000; i++) {
		for (k = 0; k < 64; k++)
			f[k] = (struct frame){ k < 4 ? 0x10000 + roll(100000) : known[3].f.addr + k,
					       FRAME_ERLANG };
		assert_int_equal(profile_add(p, f, 64, i, 0, "x", true, i + 1, 1, 1), 0);
	}
	profile_sort(p);
	assert_int_equal(recorder_create(file, &w, &err), 0);
	put_look(w, 1, &ret, &err);
	assert_int_equal(recorder_profile(w, p, s, false, &err), 0);
	assert_int_equal(stat(file, &one), 0);
	for (k = 0; k < 20; k++) {
		p->stacks[0].weight++;
		assert_int_equal(recorder_profile(w, p, s, true, &err), 0);
	}
	recorder_close(w);
	assert_int_equal(stat(file, &two), 0);
	assert_true(two.st_size - one.st_size < 65536);
	assert_true(two.st_size < 2000000);
	assert_int_equal(recording_open(file, &r, &err), 0);
	assert_int_equal(recording_profile(r, "growth", UINT_MAX, &rp, &rs, &err), 0);
	same_profile(p, s, rp, rs);
	profile_free(rp);
	symbols_free(rs);
	recording_close(r);
	profile_free(p);
	symbols_free(s);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(what_goes_in_comes_out),
		TEST(sqlite_finds_it_sound),
		TEST(one_address_may_have_two_names),
		TEST(hostile_text_is_harmless),
		TEST(killed_at_any_moment_it_is_whole),
		TEST(left_journal_is_played_into_a_copy),
		TEST(file_size_limit_keeps_what_was_committed),
		TEST(full_disk_keeps_what_was_committed),
		TEST(damage_is_said_and_never_read),
		TEST(what_is_not_ours_is_refused),
		TEST(the_older_schema_can_be_read),
		TEST(recorder_leaves_other_files_alone),
		TEST(large_profiles),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
