/* SPDX-License-Identifier: Apache-2.0 */
/* Identity, bounded reads, mappings and residency, on this very process and on
 * children that end, exec or are not there, against what the kernel says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "target/escape.h"
#include "target/residency.h"

#define MB (1u << 20)

static void escape_makes_one_safe_line(void **state)
{
	static const struct {
		const char *in, *out;
	} cases[] = {
		{ "plain", "plain" },
		{ "a\nb\tc", "a\\x0Ab\\x09c" },
		{ "\x1b[31m", "\\x1B[31m" },
		{ "back\\slash", "back\\\\slash" },
		{ "gr\xc3\xbc\xc3\x9f", "gr\xc3\xbc\xc3\x9f" },
		{ "\xe2\x80\xae"
		  "evil",
		  "\\u{202E}evil" }, /* right-to-left override */
		{ "\xc2\x9b"
		  "31m",
		  "\\u{9B}31m" }, /* C1 CSI */
		{ "\xff\xfe", "\\xFF\\xFE" },
		{ "\xc0\x80", "\\xC0\\x80" },			/* overlong NUL */
		{ "\xed\xa0\x80", "\\xED\\xA0\\x80" },		/* surrogate */
		{ "\xf4\x90\x80\x80", "\\xF4\\x90\\x80\\x80" }, /* above U+10FFFF */
		{ "cut\xe2\x82", "cut\\xE2\\x82" },
	};
	char buf[128], small[8];
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		assert_string_equal(escape_string(buf, sizeof(buf), cases[i].in), cases[i].out);
	assert_string_equal(escape_string(small, sizeof(small), "abcdefg"), "abcdefg");
	assert_string_equal(escape_string(small, sizeof(small), "abcdefgh"), "abcd...");
	/* whatever the bytes: short enough, terminated, no control byte */
	srand(1);
	for (i = 0; i < 20000; i++) {
		char in[24], out[40];
		size_t n = (size_t)rand() % sizeof(in), size = 1 + (size_t)rand() % sizeof(out), k;

		for (k = 0; k < n; k++)
			in[k] = (char)rand();
		k = escape_text(out, size, in, n);
		assert_true(k < size);
		assert_int_equal(strlen(out), k);
		for (k = 0; out[k]; k++)
			assert_true((unsigned char)out[k] >= 0x20 && out[k] != 0x7f);
	}
}

static void open_self(struct target **t)
{
	struct error err = { 0 };

	assert_int_equal(target_open(getpid(), t, &err), 0);
}

static void reads_what_is_there(void **state)
{
	struct target *t;
	char *p = mmap(NULL, 4 * MB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *copy = malloc(4 * MB), text[16];
	struct target_io io;
	uint64_t v = 0;

	(void)state;
	open_self(&t);
	assert_int_equal(target_check(t, NULL), 0);
	memset(p, 0x5a, 4 * MB);
	assert_int_equal(target_read(t, (uintptr_t)p, copy, 4 * MB), 0);
	assert_memory_equal(p, copy, 4 * MB);
	target_io(t, &io);
	assert_true(io.reads >= 4); /* no call covers more than 1 MiB */

	/* a hole in the middle: what comes before it, and an error for the whole */
	munmap(p + 2 * MB, 4096);
	assert_int_equal(target_read_some(t, (uintptr_t)p + 2 * MB - 100, copy, 200), 100);
	assert_int_equal(target_read(t, (uintptr_t)p + 2 * MB - 100, copy, 200), -EFAULT);
	assert_int_equal(target_read_some(t, (uintptr_t)p + 2 * MB, copy, 8), -EFAULT);
	assert_int_equal(target_read_some(t, UINT64_MAX - 4, copy, 8), -EFAULT);
	assert_int_equal(target_read_u64(t, 0, &v), -EFAULT);

	/* strings stop at the NUL, at the size, and never read beyond a page that ends */
	memcpy(p + 2 * MB - 6, "12345", 6);
	assert_int_equal(target_read_string(t, (uintptr_t)p + 2 * MB - 6, text, sizeof(text)), 5);
	assert_string_equal(text, "12345");
	memcpy(p + 2 * MB - 6, "123456", 6);
	assert_int_equal(target_read_string(t, (uintptr_t)p + 2 * MB - 6, text, sizeof(text)),
			 -EFAULT);
	assert_int_equal(target_read_string(t, (uintptr_t)p, text, sizeof(text)), -ENAMETOOLONG);
	assert_int_equal(text[15], 0);
	target_close(t);
	free(copy);
	munmap(p, 4 * MB);
}

static void identity_notices_exec_and_exit(void **state)
{
	struct target *t;
	struct error err = { 0 };
	int go[2], ready[2], status;
	char c;
	pid_t pid;

	(void)state;
	assert_int_equal(pipe(go), 0);
	assert_int_equal(pipe(ready), 0);
	pid = fork();
	if (!pid) {
		if (read(go[0], &c, 1) == 1) {
			close(ready[1]);
			execl("/bin/sleep", "sleep", "60", (char *)NULL);
		}
		_exit(1);
	}
	close(ready[1]);
	assert_int_equal(target_open(pid, &t, &err), 0);
	assert_int_equal(target_check(t, &err), 0);
	assert_int_equal(write(go[1], "x", 1), 1);
	assert_int_equal(read(ready[0], &c, 1), 0); /* closed just before the exec */
	for (int i = 0; i < 200 && target_check(t, NULL) == 0; i++)
		usleep(10000);
	assert_int_equal(target_check(t, &err), -ESTALE);
	assert_int_equal(err.code, EXIT_GONE);
	kill(pid, SIGKILL);
	/* a zombie is gone, too */
	for (int i = 0; i < 200 && target_check(t, NULL) == -ESTALE; i++)
		usleep(10000);
	assert_int_equal(target_check(t, NULL), -ESRCH);
	memset(&err, 0, sizeof(err));
	target_close(t);
	assert_int_equal(target_open(pid, &t, &err), -ESRCH);
	assert_non_null(strstr(err.text, "zombie"));
	waitpid(pid, &status, 0);
	memset(&err, 0, sizeof(err));
	assert_int_equal(target_open(pid, &t, &err), -ESRCH);
	assert_int_equal(err.code, EXIT_GONE);
	close(go[0]);
	close(go[1]);
	close(ready[0]);
}

static void kernel_threads_are_refused(void **state)
{
	struct target *t;
	struct error err = { 0 };

	(void)state;
	if (access("/proc/2/stat", R_OK) != 0)
		skip();
	if (target_open(2, &t, &err) == 0) {
		target_close(t); /* in a pid namespace 2 is an ordinary process */
		skip();
	}
	assert_true(err.code == EXIT_UNSUPPORTED || err.code == EXIT_DENIED);
}

static uint64_t smaps_rss(pid_t pid)
{
	char path[64], line[512];
	unsigned long kb;
	uint64_t sum = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/smaps", (int)pid);
	f = fopen(path, "r");
	assert_non_null(f);
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "Rss: %lu kB", &kb) == 1)
			sum += kb * 1024;
	fclose(f);
	return sum;
}

/* A child with memory that is untouched, written, only read, discarded and
 * shared; the sum of the pass equals smaps, which nobody here wrote. */
static void residency_equals_smaps(void **state)
{
	struct error err = { 0 };
	struct target *t;
	struct mappings *m;
	struct residency *r;
	char *where[2], c;
	int up[2], hold[2];
	uint64_t sum = 0, base;
	pid_t pid;
	size_t i;

	(void)state;
	assert_int_equal(pipe(up), 0);
	assert_int_equal(pipe(hold), 0);
	pid = fork();
	if (!pid) {
		char *p = mmap(NULL, 64 * MB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			       -1, 0);
		char *s = mmap(NULL, 4 * MB, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
			       0);

		madvise(p, 64 * MB, MADV_NOHUGEPAGE);
		memset(p, 1, 16 * MB); /* resident */
		for (i = 32 * MB; i < 48 * MB; i += 4096)
			(void)*(const volatile char *)(p + i); /* zero pages */
		madvise(p + 4 * MB, 4 * MB, MADV_DONTNEED);
		memset(s, 1, 2 * MB);
		where[0] = p;
		where[1] = s;
		if (write(up[1], where, sizeof(where)) != sizeof(where) || read(hold[0], &c, 1) < 0)
			_exit(1);
		_exit(0);
	}
	assert_int_equal(read(up[0], where, sizeof(where)), sizeof(where));
	assert_int_equal(target_open(pid, &t, &err), 0);
	assert_int_equal(mappings_read(t, &m, &err), 0);
	assert_int_equal(residency_take(t, m, &r, &err), 0);
	if (residency_method(r) != ZERO_PAGES_COUNTED) {
		assert_int_equal(residency_total(r), smaps_rss(pid));
		assert_true(residency_zero(r) >= 16 * MB);
	}
	for (i = 0; i < m->n; i++)
		sum += residency_bytes(r, m->v[i].start, m->v[i].end);
	assert_int_equal(sum, residency_total(r));

	base = (uintptr_t)where[0];
	assert_int_equal(residency_bytes(r, base, base + 64 * MB), 12 * MB);
	assert_int_equal(residency_bytes(r, (uintptr_t)where[1], (uintptr_t)where[1] + 4 * MB),
			 2 * MB);
	/* byte ranges that begin and end inside pages, over the hole's edges */
	assert_int_equal(residency_bytes(r, base + 4 * MB - 10, base + 4 * MB + 10), 10);
	assert_int_equal(residency_bytes(r, base + 8 * MB - 10, base + 8 * MB + 10), 10);
	assert_int_equal(residency_bytes(r, base + 100, base + 200), 100);
	assert_int_equal(residency_bytes(r, base + 5000, base + 5000), 0);
	assert_int_equal(residency_whole_pages(r, base + 1, base + 3 * 4096 - 1), 4096);
	assert_int_equal(residency_whole_pages(r, base + 1, base + 4096), 0);

	/* runs alternate and cover the range without gaps */
	for (sum = 0, i = base; i < base + 64 * MB;) {
		bool present;
		uint64_t end = residency_run(r, i, base + 64 * MB, &present);

		assert_true(end > i && end <= base + 64 * MB);
		sum += present ? end - i : 0;
		i = end;
	}
	assert_int_equal(sum, 12 * MB);

	/* reading leaves absent pages alone: the child's residency stays as it is */
	char *buf = malloc(32 * MB);
	uint64_t before = smaps_rss(pid);

	assert_int_equal(residency_read(r, t, base, buf, 32 * MB), 12 * MB);
	assert_int_equal(buf[0], 1);
	assert_int_equal(buf[4 * MB], 0);
	assert_int_equal(buf[16 * MB - 1], 1);
	assert_int_equal(smaps_rss(pid), before);
	free(buf);
	residency_free(r);
	mappings_free(m);
	target_close(t);
	assert_int_equal(write(hold[1], "x", 1), 1);
	waitpid(pid, NULL, 0);
	close(up[0]);
	close(up[1]);
	close(hold[0]);
	close(hold[1]);
}

/* Resident memory in more pieces than one PAGEMAP_SCAN call can tell of, some of
 * it huge pages where the kernel gives them: nothing is left out or counted twice. */
static void residency_of_many_pieces(void **state)
{
	struct error err = { 0 };
	struct target *t;
	struct mappings *m;
	struct residency *r;
	int up[2], hold[2];
	uint64_t sum = 0;
	size_t i, pieces;
	char c;

	(void)state;
	for (pieces = 2000; pieces < 2100; pieces += 7) {
		pid_t pid;

		assert_int_equal(pipe(up), 0);
		assert_int_equal(pipe(hold), 0);
		pid = fork();
		if (!pid) {
			size_t size = 64 * MB;

			alarm(30); /* a failed assertion above must not leave it behind */
			close(STDOUT_FILENO);
			close(STDERR_FILENO);
			char *p = mmap(NULL, size, PROT_READ | PROT_WRITE,
				       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

			madvise(p, size / 2, MADV_NOHUGEPAGE);
			madvise(p + size / 2, size / 2, MADV_HUGEPAGE);
			for (i = 0; i < pieces; i++)
				p[i * 8192] = 1;
			memset(p + size / 2, 1, size / 2);
			madvise(p + size - 3 * MB, 4096, MADV_DONTNEED);
			if (write(up[1], "x", 1) != 1 || read(hold[0], &c, 1) < 0)
				_exit(1);
			_exit(0);
		}
		assert_int_equal(read(up[0], &c, 1), 1);
		assert_int_equal(target_open(pid, &t, &err), 0);
		assert_int_equal(mappings_read(t, &m, &err), 0);
		assert_int_equal(residency_take(t, m, &r, &err), 0);
		for (sum = 0, i = 0; i < m->n; i++)
			sum += residency_bytes(r, m->v[i].start, m->v[i].end);
		assert_int_equal(sum, residency_total(r));
		if (residency_method(r) != ZERO_PAGES_COUNTED)
			assert_int_equal(residency_total(r), smaps_rss(pid));
		residency_free(r);
		mappings_free(m);
		target_close(t);
		assert_int_equal(write(hold[1], "x", 1), 1);
		waitpid(pid, NULL, 0);
		close(up[0]);
		close(up[1]);
		close(hold[0]);
		close(hold[1]);
	}
}

static void mappings_are_found(void **state)
{
	struct error err = { 0 };
	struct target *t;
	struct mappings *m;
	const struct mapping *one;
	size_t i;

	(void)state;
	open_self(&t);
	assert_int_equal(mappings_read(t, &m, &err), 0);
	for (i = 1; i < m->n; i++)
		assert_true(m->v[i].start >= m->v[i - 1].end);
	one = mappings_find(m, (uintptr_t)&mappings_are_found);
	assert_non_null(one);
	assert_true(one->exec && one->kind == MAPPING_FILE);
	one = mappings_find(m, (uintptr_t)&one);
	assert_non_null(one);
	assert_int_equal(one->kind, MAPPING_STACK);
	assert_null(mappings_find(m, 0));
	assert_true(mappings_cover(m, one->start, one->end - one->start));
	assert_false(mappings_cover(m, one->start, UINT64_MAX - one->start));
	assert_false(mappings_cover(m, 0, 4096));
	mappings_free(m);
	target_close(t);
}

static int finishes(void *arg)
{
	*(int *)arg = 1;
	return -ENOENT;
}

static int gets_stuck(void *arg)
{
	struct target *t = arg;

	/* stands for a system call that waits for the target's mmap_lock */
	if (target_call_begin(t) == 0) {
		sleep(4);
		target_call_end(t);
	}
	return 0;
}

static void guard_gives_up_on_a_stuck_call(void **state)
{
	struct error err = { 0 };
	struct target *t;
	uint64_t v;
	int done = 0;

	(void)state;
	open_self(&t);
	assert_int_equal(target_guard(t, finishes, &done, 0, &err), -ENOENT);
	assert_int_equal(done, 1);
	assert_int_equal(err.code, EXIT_OK);
	assert_int_equal(target_guard(t, gets_stuck, t, 0, &err), -ETIMEDOUT);
	assert_int_equal(err.code, EXIT_INCOMPLETE);
	assert_int_equal(target_read_u64(t, (uintptr_t)&done, &v), -ETIMEDOUT);
	sleep(3); /* let the stuck thread end before the handle goes */
	target_close(t);
}

static void buffers_behave_like_memory(void **state)
{
	struct target_buffer v[2];
	char a[100], b[50], out[200];
	struct target *t;

	(void)state;
	memset(a, 'a', sizeof(a));
	memset(b, 'b', sizeof(b));
	v[0] = (struct target_buffer){ 0x1000, a, sizeof(a) };
	v[1] = (struct target_buffer){ 0x1000 + sizeof(a), b, sizeof(b) };
	assert_int_equal(target_open_buffers(v, 2, &t), 0);
	assert_int_equal(target_read_some(t, 0x1000, out, sizeof(out)), 150);
	assert_int_equal(out[99], 'a');
	assert_int_equal(out[100], 'b');
	assert_int_equal(target_read_some(t, 0xfff, out, 1), -EFAULT);
	assert_int_equal(target_read(t, 0x1000, out, 151), -EFAULT);
	assert_int_equal(target_check(t, NULL), 0);
	target_close(t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(escape_makes_one_safe_line),
		cmocka_unit_test(reads_what_is_there),
		cmocka_unit_test(identity_notices_exec_and_exit),
		cmocka_unit_test(kernel_threads_are_refused),
		cmocka_unit_test(residency_equals_smaps),
		cmocka_unit_test(residency_of_many_pieces),
		cmocka_unit_test(mappings_are_found),
		cmocka_unit_test(guard_gives_up_on_a_stuck_call),
		cmocka_unit_test(buffers_behave_like_memory),
	};

	return cmocka_run_group_tests_name("target", tests, NULL, NULL);
}
