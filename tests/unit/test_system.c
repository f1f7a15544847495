/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The system's figures against the kernel's own of a child that stands still,
 * against memory of known size, threads with known stacks, a cgroup of our own
 * where cgroupfs can be written, and made-up hierarchies.
 */
#include "target/system_cgroup.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB	   (1ULL << 20)
#define STACK_SIZE (256 * 1024)

/* A child that has made itself known memory, threads and limits, and sleeps. */
struct facts {
	uint64_t touched, lazy; /* ranges' addresses */
	uint64_t stacks[3];
	pid_t tids[3];
	int ready;
};

#define TOUCHED (48 * MIB)
#define LAZY	(8 * MIB)
/* The kernel marks pages as lazily freed in batches, one a CPU of at most 31
 * pages (mm/swap.c, lru_lazyfree): the last ones may come late. */
#define LAZY_LATE (31 * 4096)

static struct facts *facts;
static pid_t child;
static struct target *target;

static void *sleeper(void *arg)
{
	size_t k = (size_t)(uintptr_t)arg;
	/* the third name has a newline, a blank and a parenthesis */
	static const char *const names[] = { "one", "fifteen_letters", "a\nb) c" };

	prctl(PR_SET_NAME, names[k]);
	__atomic_store_n(&facts->tids[k], (pid_t)syscall(SYS_gettid), __ATOMIC_SEQ_CST);
	for (;;)
		pause();
	return NULL;
}

static void child_main(void)
{
	struct rlimit nofile = { 321, 321 }, as = { 3ULL << 30, 3ULL << 30 };
	char *p;
	size_t k;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	p = mmap(NULL, TOUCHED, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	memset(p, 1, TOUCHED);
	facts->touched = (uint64_t)(uintptr_t)p;
	/* a gap on both sides keeps it a mapping of its own */
	p = mmap(NULL, LAZY + 8192, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	p += 4096;
	mprotect(p, LAZY, PROT_READ | PROT_WRITE);
	madvise(p, LAZY, MADV_NOHUGEPAGE);
	memset(p, 1, LAZY);
	madvise(p, LAZY, MADV_FREE);
	facts->lazy = (uint64_t)(uintptr_t)p;
	for (k = 0; k < 3; k++) {
		pthread_attr_t a;
		pthread_t t;

		p = mmap(NULL, STACK_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
			 0);
		facts->stacks[k] = (uint64_t)(uintptr_t)p;
		pthread_attr_init(&a);
		pthread_attr_setstack(&a, p, STACK_SIZE);
		pthread_create(&t, &a, sleeper, (void *)(uintptr_t)k);
	}
	for (k = 0; k < 3; k++)
		while (!__atomic_load_n(&facts->tids[k], __ATOMIC_SEQ_CST))
			usleep(1000);
	/* the last thing: a sanitizer needs more address space than this */
	setrlimit(RLIMIT_NOFILE, &nofile);
	setrlimit(RLIMIT_AS, &as);
	__atomic_store_n(&facts->ready, 1, __ATOMIC_SEQ_CST);
	for (;;)
		pause();
}

static int setup(void **state)
{
	facts = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	child = fork();
	if (!child) {
		child_main();
		_exit(0);
	}
	while (!__atomic_load_n(&facts->ready, __ATOMIC_SEQ_CST))
		usleep(1000);
	usleep(50000); /* into pause() */
	return target_open(child, &target, NULL);
}

static int teardown(void **state)
{
	target_close(target);
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	return 0;
}

static uint64_t proc_kb(const char *file, const char *key)
{
	char path[64], line[512];
	unsigned long long v = 0;
	bool found = false;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/%s", (int)child, file);
	f = fopen(path, "r");
	assert_non_null(f);
	while (fgets(line, sizeof(line), f) && !found)
		if (strncmp(line, key, strlen(key)) == 0 && line[strlen(key)] == ':')
			found = sscanf(line + strlen(key) + 1, "%llu", &v) == 1;
	fclose(f);
	assert_true(found);
	return v;
}

static void test_memory(void **state)
{
	struct system_memory m;
	struct error err = { 0 };

	assert_int_equal(system_memory(target, SYSTEM_ROLLUP_AUTO, &m, &err), 0);
	assert_int_equal(m.rss, proc_kb("status", "VmRSS") * 1024);
	assert_int_equal(m.vmsize, proc_kb("status", "VmSize") * 1024);
	assert_int_equal(m.swap, proc_kb("status", "VmSwap") * 1024);
	assert_int_equal(m.page_tables, proc_kb("status", "VmPTE") * 1024);
	assert_int_equal(m.threads, 4);
	assert_int_equal(m.limit_nofile, 321);
	assert_int_equal(m.limit_as, 3ULL << 30);
	assert_true(m.rollup_rss >= TOUCHED + LAZY && m.rollup_rss < TOUCHED + LAZY + 64 * MIB);
	assert_int_equal(m.rollup_rss, proc_kb("smaps_rollup", "Rss") * 1024);
	assert_in_range(m.lazyfree, LAZY - LAZY_LATE, LAZY);
	assert_true(m.pss >= TOUCHED + LAZY && m.pss <= m.rollup_rss);
	assert_string_equal(m.rollup_reason, "");
	assert_true((m.cgroup_usage == SYSTEM_UNKNOWN) == (m.cgroup_reason[0] != 0));
}

static void test_unlimited(void **state)
{
	struct rlimit r = { RLIM_INFINITY, RLIM_INFINITY };
	struct system_memory m;
	struct target *t;

	if (setrlimit(RLIMIT_AS, &r) < 0)
		skip();
	assert_int_equal(target_open(getpid(), &t, NULL), 0);
	assert_int_equal(system_memory(t, SYSTEM_ROLLUP_ALWAYS, &m, NULL), 0);
	assert_true(m.limit_as == SYSTEM_UNLIMITED);
	target_close(t);
}

static void test_gone(void **state)
{
	struct error err = { 0 };
	struct system_thread *th;
	struct system_memory m;
	struct target *t;
	pid_t pid = fork();

	if (!pid)
		for (;;)
			pause();
	assert_int_equal(target_open(pid, &t, NULL), 0);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	assert_true(system_memory(t, SYSTEM_ROLLUP_ALWAYS, &m, &err) < 0);
	assert_int_equal(err.code, EXIT_GONE);
	assert_true(system_threads(t, &th) < 0 || !th);
	target_close(t);
}

static void test_threads(void **state)
{
	static const char *const names[] = { "one", "fifteen_letters", "a\nb) c" };
	struct system_thread *th;
	ssize_t n = system_threads(target, &th), i;
	size_t k;

	assert_int_equal(n, 4);
	for (k = 0; k < 3; k++) {
		for (i = 0; i < n; i++)
			if (th[i].tid == facts->tids[k])
				break;
		assert_true(i < n);
		assert_string_equal(th[i].comm, names[k]);
		assert_true(th[i].stack_pointer > facts->stacks[k] &&
			    th[i].stack_pointer < facts->stacks[k] + STACK_SIZE);
	}
	free(th);
}

static void *spinner(void *arg)
{
	while (!__atomic_load_n((int *)arg, __ATOMIC_RELAXED))
		;
	return NULL;
}

/* A thread that runs has no stack pointer to show. */
static void test_running_thread(void **state)
{
	struct system_thread *th = NULL;
	struct target *t;
	int stop = 0, tries, zero = 0;
	pthread_t p;
	ssize_t n, i;

	assert_int_equal(pthread_create(&p, NULL, spinner, &stop), 0);
	assert_int_equal(target_open(getpid(), &t, NULL), 0);
	for (tries = 0; tries < 100 && !zero; tries++) {
		usleep(1000);
		n = system_threads(t, &th);
		assert_true(n >= 2);
		for (i = 0; i < n; i++)
			zero += th[i].tid != getpid() && !th[i].stack_pointer;
		free(th);
	}
	assert_true(zero > 0);
	__atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
	pthread_join(p, NULL);
	target_close(t);
}

/* smaps -------------------------------------------------------------------- */

struct sums {
	uint64_t rss, lazyfree, swap, anonymous, last_end;
	unsigned n, stop_after;
	struct system_smaps lazy, touched;
};

static int sum(const struct system_smaps *s, void *arg)
{
	struct sums *x = arg;

	assert_true(s->start >= x->last_end && s->end > s->start);
	x->last_end = s->end;
	x->rss += s->rss;
	x->lazyfree += s->lazyfree;
	x->swap += s->swap;
	x->anonymous += s->anonymous;
	x->n++;
	if (s->start == facts->lazy)
		x->lazy = *s;
	if (s->start <= facts->touched && facts->touched < s->end)
		x->touched = *s;
	return x->stop_after && x->n == x->stop_after ? 77 : 0;
}

static void test_smaps(void **state)
{
	struct sums x = { 0 };
	struct mappings *m;

	assert_int_equal(system_smaps(target, sum, &x), 0);
	assert_int_equal(x.rss, proc_kb("smaps_rollup", "Rss") * 1024);
	assert_int_equal(x.anonymous, proc_kb("smaps_rollup", "Anonymous") * 1024);
	assert_int_equal(x.swap, proc_kb("smaps_rollup", "Swap") * 1024);
	assert_in_range(x.lazyfree, LAZY - LAZY_LATE, LAZY);
	assert_int_equal(x.lazy.end, facts->lazy + LAZY);
	assert_in_range(x.lazy.lazyfree, LAZY - LAZY_LATE, LAZY);
	assert_int_equal(x.lazy.rss, LAZY);
	assert_true(x.touched.rss >= TOUCHED);
	assert_int_equal(mappings_read(target, &m, NULL), 0);
	assert_int_equal(m->n, x.n);
	mappings_free(m);

	memset(&x, 0, sizeof(x));
	x.stop_after = 3;
	assert_int_equal(system_smaps(target, sum, &x), 77);
	assert_int_equal(x.n, 3);
}

/* cgroups ------------------------------------------------------------------- */

static bool put(const char *dir, const char *name, const char *text)
{
	char path[PATH_MAX];
	bool good;
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	f = fopen(path, "w");
	if (!f)
		return false;
	good = fputs(text, f) >= 0;
	return fclose(f) == 0 && good;
}

/* Where a memory hierarchy that we may write to is mounted. */
static bool find_real(char *dir, size_t size, bool *v2)
{
	char line[4096], point[2048], type[64], opts[1024];
	FILE *f = fopen("/proc/mounts", "r");
	bool found = false;

	while (f && !found && fgets(line, sizeof(line), f))
		if (sscanf(line, "%*s %2047s %63s %1023s", point, type, opts) == 3) {
			char control[2100] = "";

			*v2 = strcmp(type, "cgroup2") == 0;
			snprintf(control, sizeof(control), "%s/cgroup.controllers", point);
			if (strcmp(type, "cgroup") == 0 && strstr(opts, ",memory"))
				found = true;
			else if (*v2) {
				FILE *c = fopen(control, "r");

				found = c && fgets(opts, sizeof(opts), c) && strstr(opts, "memory");
				if (c)
					fclose(c);
				if (found)
					found = put(point, "cgroup.subtree_control", "+memory");
			}
		}
	if (f)
		fclose(f);
	snprintf(dir, size, "%s", found ? point : "");
	return found;
}

static void test_real_cgroup(void **state)
{
	char point[2048], outer[2200], inner[2300], pid[16];
	struct system_memory m;
	struct target *t;
	char *p;
	bool v2 = false;
	int ready[2], status;
	char c;
	pid_t mine;

	if (!find_real(point, sizeof(point), &v2))
		skip();
	snprintf(outer, sizeof(outer), "%s/test-system-%d", point, (int)getpid());
	snprintf(inner, sizeof(inner), "%s/in ner", outer);
	if (mkdir(outer, 0755) < 0)
		skip();
	if (v2)
		put(outer, "cgroup.subtree_control", "+memory");
	assert_int_equal(mkdir(inner, 0755), 0);
	assert_true(put(outer, v2 ? "memory.max" : "memory.limit_in_bytes", "104857600"));
	assert_true(put(inner, v2 ? "memory.max" : "memory.limit_in_bytes", "209715200"));
	assert_int_equal(pipe(ready), 0);
	mine = fork();
	if (!mine) {
		if (read(ready[0], &c, 1) != 1)
			_exit(1);
		p = mmap(NULL, 32 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
			 0);
		memset(p, 1, 32 * MIB);
		prctl(PR_SET_NAME, "filled");
		for (;;)
			pause();
	}
	snprintf(pid, sizeof(pid), "%d", (int)mine);
	assert_true(put(inner, "cgroup.procs", pid));
	assert_int_equal(write(ready[1], "x", 1), 1);
	assert_int_equal(target_open(mine, &t, NULL), 0);
	for (status = 0; status < 500; status++) {
		assert_int_equal(system_memory(t, SYSTEM_ROLLUP_AUTO, &m, NULL), 0);
		if (m.rss > 32 * MIB && m.cgroup_usage > 32 * MIB)
			break;
		usleep(10000);
	}
	assert_string_equal(m.cgroup_reason, "");
	assert_int_equal(m.cgroup_limit, 104857600);
	assert_true(m.cgroup_usage >= 32 * MIB && m.cgroup_usage < 60 * MIB);
	assert_true(m.cgroup_left <= 104857600 - m.cgroup_usage &&
		    m.cgroup_left > 104857600 - 60 * MIB);
	/* the inner one is the tighter */
	assert_true(put(inner, v2 ? "memory.max" : "memory.limit_in_bytes", "83886080"));
	assert_int_equal(system_memory(t, SYSTEM_ROLLUP_AUTO, &m, NULL), 0);
	assert_int_equal(m.cgroup_limit, 83886080);
	kill(mine, SIGKILL);
	waitpid(mine, NULL, 0);
	target_close(t);
	close(ready[0]);
	close(ready[1]);
	for (status = 0; status < 100 && rmdir(inner) < 0; status++)
		usleep(10000);
	rmdir(outer);
}

static char tree[] = "/tmp/test-system-XXXXXX";

static struct system_memory ask(const char *cgroup, const char *mounts)
{
	struct system_memory m = { .cgroup_usage = SYSTEM_UNKNOWN,
				   .cgroup_limit = SYSTEM_UNKNOWN,
				   .cgroup_left = SYSTEM_UNKNOWN };
	char *text = strdup(cgroup), *lines = NULL, *with;
	size_t len = strlen(mounts) + 1000;
	FILE *f;

	/* %s stands for the made-up hierarchy */
	with = malloc(len);
	lines = strstr(mounts, "%s");
	if (lines)
		snprintf(with, len, "%.*s%s%s", (int)(lines - mounts), mounts, tree, lines + 2);
	else
		snprintf(with, len, "%s", mounts);
	f = fmemopen(with, strlen(with), "r");
	assert_non_null(f);
	system_cgroup(text, f, &m);
	fclose(f);
	free(with);
	free(text);
	return m;
}

#define UNKNOWN(m)                                                                            \
	do {                                                                                  \
		assert_true((m).cgroup_usage == SYSTEM_UNKNOWN && (m).cgroup_reason[0] != 0); \
		assert_true((m).cgroup_limit == SYSTEM_UNKNOWN);                              \
		assert_true((m).cgroup_left == SYSTEM_UNKNOWN);                               \
	} while (0)

static void test_made_up_cgroups(void **state)
{
	static const char v2[] =
		"30 25 0:26 / %s rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";
	static const char v1[] = "30 25 0:26 / %s rw shared:9 - cgroup cgroup rw,hugetlb,memory\n";
	char dir[PATH_MAX], cmd[PATH_MAX];
	struct system_memory m;

	assert_non_null(mkdtemp(tree));
	snprintf(dir, sizeof(dir), "%s/a", tree);
	mkdir(dir, 0755);
	put(dir, "memory.max", "5000000\n");
	put(dir, "memory.current", "4000000\n");
	snprintf(dir, sizeof(dir), "%s/a/b", tree);
	mkdir(dir, 0755);
	put(dir, "memory.max", "max\n");
	put(dir, "memory.current", "3000000\n");
	snprintf(dir, sizeof(dir), "%s/a/b/c", tree); /* the controller is off here */
	mkdir(dir, 0755);
	snprintf(dir, sizeof(dir), "%s/free", tree);
	mkdir(dir, 0755);
	put(dir, "memory.max", "max\n");
	put(dir, "memory.current", "77\n");
	put(dir, "memory.usage_in_bytes", "1234567\n");
	put(dir, "memory.limit_in_bytes", "9223372036854771712\n");
	put(dir, "memory.stat",
	    "cache 0\nhierarchical_memory_limit 9223372036854771712\ntotal 1\n");
	snprintf(dir, sizeof(dir), "%s/tight", tree);
	mkdir(dir, 0755);
	put(dir, "memory.usage_in_bytes", "1234567\n");
	put(dir, "memory.limit_in_bytes", "9000000\n");
	put(dir, "memory.stat", "cache 0\nhierarchical_memory_limit 8000000\n");
	snprintf(dir, sizeof(dir), "%s/tight/in", tree);
	mkdir(dir, 0755);
	put(dir, "memory.usage_in_bytes", "1000\n");
	put(dir, "memory.limit_in_bytes", "9223372036854771712\n");
	put(dir, "memory.stat", "cache 0\nhierarchical_memory_limit 8000000\n");
	snprintf(dir, sizeof(dir), "%s/tight/full", tree);
	mkdir(dir, 0755);
	put(dir, "memory.usage_in_bytes", "7000001\n");
	put(dir, "memory.limit_in_bytes", "7000000\n");
	snprintf(dir, sizeof(dir), "%s/tight/apart", tree); /* what is above does not count */
	mkdir(dir, 0755);
	put(dir, "memory.usage_in_bytes", "1000\n");
	put(dir, "memory.limit_in_bytes", "20000000\n");
	put(dir, "memory.stat", "cache 0\nhierarchical_memory_limit 20000000\n");

	m = ask("0::/a/b\n", v2);
	assert_int_equal(m.cgroup_usage, 3000000);
	assert_int_equal(m.cgroup_limit, 5000000);
	assert_int_equal(m.cgroup_left, 1000000); /* others have the rest */
	assert_string_equal(m.cgroup_reason, "");
	m = ask("0::/a/b/c\n", v2);
	assert_int_equal(m.cgroup_usage, 3000000);
	assert_int_equal(m.cgroup_limit, 5000000);
	m = ask("0::/free\n", v2);
	assert_int_equal(m.cgroup_usage, 77);
	assert_true(m.cgroup_limit == SYSTEM_UNLIMITED);

	m = ask("12:cpu,cpuacct:/x\n5:hugetlb,memory:/tight\n0::/free\n", v1);
	assert_int_equal(m.cgroup_usage, 1234567);
	assert_int_equal(m.cgroup_limit, 8000000);
	assert_int_equal(m.cgroup_left, 8000000 - 1234567);
	m = ask("5:memory:/tight/in\n", v1);
	assert_int_equal(m.cgroup_usage, 1000);
	assert_int_equal(m.cgroup_limit, 8000000);
	assert_int_equal(m.cgroup_left, 8000000 - 1234567);
	m = ask("5:memory:/tight/full\n", v1);
	assert_int_equal(m.cgroup_limit, 7000000);
	assert_int_equal(m.cgroup_left, 0);
	m = ask("5:memory:/tight/apart\n", v1);
	assert_int_equal(m.cgroup_limit, 20000000);
	assert_int_equal(m.cgroup_left, 20000000 - 1000);
	m = ask("5:memory:/free\n", v1);
	assert_true(m.cgroup_left == SYSTEM_UNKNOWN);
	assert_int_equal(m.cgroup_usage, 1234567);
	assert_true(m.cgroup_limit == SYSTEM_UNLIMITED);

	/* a container's mount: its root is taken off the path */
	m = ask("0::/docker/1234/a/b\n", "30 25 0:26 /docker/1234 %s rw - cgroup2 cgroup2 rw\n");
	assert_int_equal(m.cgroup_usage, 3000000);
	assert_int_equal(m.cgroup_limit, 5000000);
	m = ask("0::/docker/1234\n", "30 25 0:26 /docker/1234 %s/free rw - cgroup2 cgroup2 rw\n");
	assert_int_equal(m.cgroup_usage, 77);
	/* not a path component */
	m = ask("0::/docker/12345/a\n", "30 25 0:26 /docker/1234 %s rw - cgroup2 cgroup2 rw\n");
	UNKNOWN(m);
	assert_non_null(strstr(m.cgroup_reason, "outside"));
	m = ask("0::/../../x\n", v2);
	UNKNOWN(m);
	assert_non_null(strstr(m.cgroup_reason, "namespace"));
	UNKNOWN(ask("0::/a (deleted)\n", v2));
	UNKNOWN(ask("0::/\n", v2));
	UNKNOWN(ask("0::/nothing\n", v2));
	UNKNOWN(ask("0::/a\n", v1));
	UNKNOWN(ask("5:memory:/tight\n", v2));
	UNKNOWN(ask("5:cpu:/tight\n", v1));
	UNKNOWN(ask("\n", "\n"));
	UNKNOWN(ask("garbage\n::::\n0:\n", v2));
	UNKNOWN(ask("0::/a\n", "1 2 3\n - cgroup2\n30 25 0:26 / - cgroup2 x y\n"));

	/* blanks in a mount point */
	snprintf(cmd, sizeof(cmd), "ln -s %s '%s/b l'", "free", tree);
	assert_int_equal(system(cmd), 0);
	m = ask("0::/\n", "30 25 0:26 / %s/b\\040l rw - cgroup2 cgroup2 rw\n");
	assert_int_equal(m.cgroup_usage, 77);
	snprintf(cmd, sizeof(cmd), "rm -rf %s", tree);
	assert_int_equal(system(cmd), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_memory),	       cmocka_unit_test(test_unlimited),
		cmocka_unit_test(test_gone),	       cmocka_unit_test(test_threads),
		cmocka_unit_test(test_running_thread), cmocka_unit_test(test_smaps),
		cmocka_unit_test(test_real_cgroup),    cmocka_unit_test(test_made_up_cgroups),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
