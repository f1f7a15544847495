/*
 * A NIF whose memory is found by tracing: it leaks in the ways that a library can,
 * and counts what it took. As leak_nif.c it loads into every release of the matrix.
 *
 * Functions have no `static`, so that their names are there to be found.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <malloc.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <erl_nif.h>

#if defined(__x86_64__)
__asm__(".symver pthread_create, pthread_create@GLIBC_2.2.5");
__asm__(".symver pthread_detach, pthread_detach@GLIBC_2.2.5");
__asm__(".symver pthread_join, pthread_join@GLIBC_2.2.5");
__asm__(".symver dlsym, dlsym@GLIBC_2.2.5");
#elif defined(__aarch64__)
__asm__(".symver pthread_create, pthread_create@GLIBC_2.17");
__asm__(".symver pthread_detach, pthread_detach@GLIBC_2.17");
__asm__(".symver pthread_join, pthread_join@GLIBC_2.17");
__asm__(".symver dlsym, dlsym@GLIBC_2.17");
#endif

#define NOINLINE __attribute__((noinline))

/* Bytes in whole chunks or pages: what the leaks take up in memory. */
static uint64_t taken, calls;
static volatile int worker_done;

static void count(uint64_t bytes)
{
	__atomic_fetch_add(&taken, bytes, __ATOMIC_RELAXED);
	__atomic_fetch_add(&calls, 1, __ATOMIC_RELAXED);
}

NOINLINE void *take_malloc(size_t bytes)
{
	char *p = malloc(bytes);

	if (p) {
		memset(p, 0x5a, bytes);
		count(malloc_usable_size(p) + 8);
	}
	return p;
}

NOINLINE void take_many(unsigned long n, unsigned long bytes)
{
	for (unsigned long i = 0; i < n; i++)
		take_malloc(bytes);
	__asm__ volatile(""); /* not a tail call */
}

static int numbers(ErlNifEnv *env, const ERL_NIF_TERM argv[], unsigned long *n,
		   unsigned long *bytes)
{
	return enif_get_ulong(env, argv[0], n) && enif_get_ulong(env, argv[1], bytes);
}

ERL_NIF_TERM leak_normal(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
	unsigned long n, bytes;

	(void)argc;
	if (!numbers(env, argv, &n, &bytes))
		return enif_make_badarg(env);
	take_many(n, bytes);
	return enif_make_atom(env, "ok");
}

ERL_NIF_TERM leak_dirty_cpu(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
	unsigned long n, bytes;

	(void)argc;
	if (!numbers(env, argv, &n, &bytes))
		return enif_make_badarg(env);
	take_many(n, bytes);
	return enif_make_atom(env, "dirty_cpu");
}

ERL_NIF_TERM leak_dirty_io(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
	unsigned long n, bytes;

	(void)argc;
	if (!numbers(env, argv, &n, &bytes))
		return enif_make_badarg(env);
	take_many(n, bytes);
	return enif_make_atom(env, "dirty_io");
}

ERL_NIF_TERM leak_mmap(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
	unsigned long n, bytes;

	(void)argc;
	if (!numbers(env, argv, &n, &bytes))
		return enif_make_badarg(env);
	for (unsigned long i = 0; i < n; i++) {
		char *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
			       0);

		if (p == MAP_FAILED)
			break;
		for (unsigned long k = 0; k < bytes; k += 4096)
			p[k] = 1;
		count((bytes + 4095) & ~4095UL);
	}
	return enif_make_atom(env, "ok");
}

/* mmapped all at once by the kernel, without a fault */
ERL_NIF_TERM leak_populate(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
	unsigned long n, bytes;

	(void)argc;
	if (!numbers(env, argv, &n, &bytes))
		return enif_make_badarg(env);
	for (unsigned long i = 0; i < n; i++) {
		void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

		if (p != MAP_FAILED)
			count((bytes + 4095) & ~4095UL);
	}
	return enif_make_atom(env, "ok");
}

/* One block that is made larger again and again: mremap moves it about. */
ERL_NIF_TERM leak_realloc(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
	static char *block;
	static size_t size;
	unsigned long n, bytes;

	(void)argc;
	if (!numbers(env, argv, &n, &bytes))
		return enif_make_badarg(env);
	for (unsigned long i = 0; i < n; i++) {
		char *p = realloc(block, size + bytes);

		if (!p)
			break;
		memset(p + size, 0x5b, bytes);
		block = p;
		size += bytes;
		count(bytes);
	}
	return enif_make_atom(env, "ok");
}

/* Through the C++ runtime that the VM itself has loaded: operator new. */
ERL_NIF_TERM leak_new(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
	void *(*new)(size_t) = (void *(*)(size_t))(uintptr_t)dlsym(RTLD_DEFAULT, "_Znwm");
	unsigned long n, bytes;

	(void)argc;
	if (!numbers(env, argv, &n, &bytes))
		return enif_make_badarg(env);
	if (!new)
		return enif_make_atom(env, "no_cxx");
	for (unsigned long i = 0; i < n; i++) {
		void *p = new (bytes);

		memset(p, 0x5c, bytes);
		count(malloc_usable_size(p) + 8);
	}
	return enif_make_atom(env, "ok");
}

/* ---- the other ways to a block; t_malloc_probes.py ------------------------------- */

static void *noted(void *p)
{
	if (p)
		count(malloc_usable_size(p) + 8);
	return p;
}

ERL_NIF_TERM leak_calloc(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
	unsigned long n, bytes;

	(void)argc;
	if (!numbers(env, argv, &n, &bytes))
		return enif_make_badarg(env);
	for (unsigned long i = 0; i < n; i++)
		noted(calloc(4, bytes / 4));
	return enif_make_atom(env, "ok");
}

/* The four that align, and reallocarray. */
ERL_NIF_TERM leak_aligned(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
	unsigned long n, bytes;

	(void)argc;
	if (!numbers(env, argv, &n, &bytes))
		return enif_make_badarg(env);
	for (unsigned long i = 0; i < n; i++) {
		void *p = NULL;

		switch (i % 5) {
		case 0:
			p = memalign(256, bytes);
			break;
		case 1:
			p = aligned_alloc(64, (bytes + 63) & ~63UL);
			break;
		case 2:
			if (posix_memalign(&p, 1024, bytes))
				p = NULL;
			break;
		case 3:
			p = valloc(bytes);
			break;
		default:
			p = reallocarray(NULL, 8, bytes / 8);
		}
		noted(p);
	}
	return enif_make_atom(env, "ok");
}

ERL_NIF_TERM leak_strdup(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
	unsigned long n, bytes;
	char *text;

	(void)argc;
	if (!numbers(env, argv, &n, &bytes) || !(text = malloc(bytes)))
		return enif_make_badarg(env);
	memset(text, 'x', bytes - 1);
	text[bytes - 1] = 0;
	for (unsigned long i = 0; i < n; i++)
		noted(i & 1 ? strdup(text) : strndup(text, bytes));
	free(text);
	return enif_make_atom(env, "ok");
}

/* A block that was there before anybody looked is made larger: what it grew by is new. */
static char *old_block;

ERL_NIF_TERM leak_old(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
	unsigned long n, bytes;
	size_t was = malloc_usable_size(old_block);
	char *p;

	(void)argc;
	if (!numbers(env, argv, &n, &bytes))
		return enif_make_badarg(env);
	p = realloc(old_block, was + n * bytes);
	if (p) {
		old_block = p;
		count(malloc_usable_size(p) - was);
	}
	return enif_make_atom(env, "ok");
}

/* Blocks that two threads take from each other and free; between two calls of mixed() a
 * place holds a block or none. */
#define PLACES 64
static void *places[PLACES];
static volatile int shuttle_runs;

static void *some_block(unsigned long i, unsigned long bytes)
{
	void *p = NULL;

	switch (i % 6) {
	case 0:
		return calloc(1, bytes);
	case 1:
		return realloc(malloc(bytes / 2), bytes);
	case 2:
		return memalign(128, bytes);
	case 3:
		return posix_memalign(&p, 64, bytes) ? NULL : p;
	case 4:
		return realloc(malloc(bytes * 2), bytes);
	default:
		return malloc(bytes);
	}
}

static void shuttle(unsigned long i, unsigned long bytes)
{
	void *p = some_block(i, 16 + i * 7919 % bytes);

	p = __atomic_exchange_n(&places[i * 31 % PLACES], p, __ATOMIC_ACQ_REL);
	if (i % 7)
		free(p);
	else if (p && realloc(p, 0)) /* frees */
		abort();
}

static void *shuttle_main(void *arg)
{
	for (unsigned long i = 0; shuttle_runs; i++) {
		struct timespec pause = { 0, 50000 };

		shuttle(i, 3000);
		if (i % 8 == 0)
			nanosleep(&pause, NULL);
	}
	return arg;
}

static void places_empty(void)
{
	for (unsigned i = 0; i < PLACES; i++)
		free(__atomic_exchange_n(&places[i], NULL, __ATOMIC_ACQ_REL));
}

/* One block in ten is kept, all kinds, while another thread takes and frees. */
ERL_NIF_TERM leak_mixed(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
	unsigned long n, bytes;
	pthread_t thread;

	(void)argc;
	if (!numbers(env, argv, &n, &bytes))
		return enif_make_badarg(env);
	shuttle_runs = 1;
	if (pthread_create(&thread, NULL, shuttle_main, NULL))
		return enif_make_badarg(env);
	for (unsigned long i = 0; i < n; i++) {
		for (unsigned k = 0; k < 9; k++)
			shuttle(i * 9 + k, bytes);
		noted(some_block(i, bytes));
	}
	shuttle_runs = 0;
	pthread_join(thread, NULL);
	places_empty();
	return enif_make_atom(env, "ok");
}

/* The same without keeping any. */
ERL_NIF_TERM churn_malloc(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
	unsigned long n, bytes;

	(void)argc;
	if (!numbers(env, argv, &n, &bytes))
		return enif_make_badarg(env);
	for (unsigned long i = 0; i < n; i++)
		shuttle(i, bytes);
	places_empty();
	return enif_make_atom(env, "ok");
}

struct work {
	unsigned long n, bytes;
};

void *worker_main(void *arg)
{
	struct work w = *(struct work *)arg;

	free(arg);
	for (unsigned long i = 0; i < w.n; i++) {
		struct timespec pause = { 0, 100000 };

		take_malloc(w.bytes);
		nanosleep(&pause, NULL);
	}
	worker_done = 1;
	for (;;)
		pause();
	return NULL;
}

/* A thread of the library's own leaks. */
ERL_NIF_TERM leak_thread(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
	struct work *w = malloc(sizeof(*w));
	pthread_t thread;

	(void)argc;
	if (!w || !numbers(env, argv, &w->n, &w->bytes))
		return enif_make_badarg(env);
	worker_done = 0;
	if (pthread_create(&thread, NULL, worker_main, w))
		return enif_make_badarg(env);
	pthread_detach(thread);
	while (!worker_done) {
		struct timespec pause = { 0, 1000000 };

		nanosleep(&pause, NULL);
	}
	return enif_make_atom(env, "ok");
}

/* Taken, touched and given back: no growth. */
ERL_NIF_TERM no_leak(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
	unsigned long n, bytes;

	(void)argc;
	if (!numbers(env, argv, &n, &bytes))
		return enif_make_badarg(env);
	for (unsigned long i = 0; i < n; i++) {
		char *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
			       0);

		if (p == MAP_FAILED)
			break;
		memset(p, 1, bytes);
		munmap(p, bytes);
	}
	return enif_make_atom(env, "ok");
}

NOINLINE uint64_t burn(unsigned long ms)
{
	struct timespec start, now;
	uint64_t x = 1;

	clock_gettime(CLOCK_MONOTONIC, &start);
	do {
		for (int i = 0; i < 20000; i++)
			x = x * 6364136223846793005ULL + 1442695040888963407ULL;
		clock_gettime(CLOCK_MONOTONIC, &now);
	} while ((now.tv_sec - start.tv_sec) * 1000 + (now.tv_nsec - start.tv_nsec) / 1000000 <
		 (long)ms);
	return x;
}

ERL_NIF_TERM burn_normal(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
	unsigned long n, ms;

	(void)argc;
	if (!numbers(env, argv, &n, &ms))
		return enif_make_badarg(env);
	return enif_make_uint64(env, burn(ms));
}

ERL_NIF_TERM burn_dirty(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
	unsigned long n, ms;

	(void)argc;
	if (!numbers(env, argv, &n, &ms))
		return enif_make_badarg(env);
	return enif_make_uint64(env, burn(ms) | 1);
}

/* Blocks, on the system's clock; says for how many ns it did. */
NOINLINE uint64_t nap(unsigned long ms)
{
	struct timespec start, now, t = { (time_t)(ms / 1000), (long)(ms % 1000) * 1000000 };

	clock_gettime(CLOCK_MONOTONIC, &start);
	nanosleep(&t, NULL);
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)(now.tv_sec - start.tv_sec) * 1000000000 +
	       (uint64_t)(now.tv_nsec - start.tv_nsec);
}

ERL_NIF_TERM nap_normal(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
	unsigned long n, ms;

	(void)argc;
	if (!numbers(env, argv, &n, &ms))
		return enif_make_badarg(env);
	taken += nap(ms);
	return enif_make_atom(env, "ok");
}

ERL_NIF_TERM nap_dirty(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
	unsigned long n, ms;

	(void)argc;
	if (!numbers(env, argv, &n, &ms))
		return enif_make_badarg(env);
	taken += nap(ms);
	calls++;
	return enif_make_atom(env, "ok");
}

/* Another program in this process. */
ERL_NIF_TERM become(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
	(void)argc;
	(void)argv;
	execl("/bin/sh", "sh", "-c", "read line", (char *)NULL);
	return enif_make_badarg(env);
}

/* A child that makes `ms` MiB of its own and burns some time, while we wait. */
ERL_NIF_TERM fork_child(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
	unsigned long n, mb;
	pid_t pid;

	(void)argc;
	if (!numbers(env, argv, &n, &mb))
		return enif_make_badarg(env);
	pid = fork();
	if (pid == 0) {
		char *p = mmap(NULL, mb << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			       -1, 0);

		memset(p, 1, mb << 20);
		burn(300);
		_exit(0);
	}
	if (pid > 0)
		waitpid(pid, NULL, 0);
	return enif_make_atom(env, "ok");
}

static void *burner_main(void *arg)
{
	prctl(PR_SET_NAME, "burner");
	burn((unsigned long)(uintptr_t)arg);
	return NULL;
}

/* A thread that is started now, burns its time and ends. */
ERL_NIF_TERM burn_thread(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
	unsigned long n, ms;
	pthread_t thread;

	(void)argc;
	if (!numbers(env, argv, &n, &ms))
		return enif_make_badarg(env);
	if (pthread_create(&thread, NULL, burner_main, (void *)(uintptr_t)ms))
		return enif_make_badarg(env);
	pthread_join(thread, NULL);
	return enif_make_atom(env, "ok");
}

ERL_NIF_TERM truth(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
	(void)argc;
	(void)argv;
	return enif_make_tuple2(env, enif_make_uint64(env, taken), enif_make_uint64(env, calls));
}

static int load(ErlNifEnv *env, void **priv_data, ERL_NIF_TERM load_info)
{
	(void)env;
	(void)priv_data;
	(void)load_info;
	old_block = malloc(1 << 20);
	return old_block ? 0 : 1;
}

static ErlNifFunc functions[] = {
	{ "leak_normal", 2, leak_normal, 0 },
	{ "leak_dirty_cpu", 2, leak_dirty_cpu, ERL_NIF_DIRTY_JOB_CPU_BOUND },
	{ "leak_dirty_io", 2, leak_dirty_io, ERL_NIF_DIRTY_JOB_IO_BOUND },
	{ "leak_mmap", 2, leak_mmap, 0 },
	{ "leak_populate", 2, leak_populate, 0 },
	{ "leak_realloc", 2, leak_realloc, 0 },
	{ "leak_new", 2, leak_new, 0 },
	{ "leak_thread", 2, leak_thread, ERL_NIF_DIRTY_JOB_IO_BOUND },
	{ "leak_calloc", 2, leak_calloc, 0 },
	{ "leak_aligned", 2, leak_aligned, 0 },
	{ "leak_strdup", 2, leak_strdup, 0 },
	{ "leak_old", 2, leak_old, 0 },
	{ "leak_mixed", 2, leak_mixed, ERL_NIF_DIRTY_JOB_CPU_BOUND },
	{ "churn_malloc", 2, churn_malloc, 0 },
	{ "no_leak", 2, no_leak, 0 },
	{ "burn_normal", 2, burn_normal, 0 },
	{ "burn_dirty", 2, burn_dirty, ERL_NIF_DIRTY_JOB_CPU_BOUND },
	{ "become", 2, become, 0 },
	{ "fork_child", 2, fork_child, ERL_NIF_DIRTY_JOB_IO_BOUND },
	{ "burn_thread", 2, burn_thread, ERL_NIF_DIRTY_JOB_IO_BOUND },
	{ "nap_normal", 2, nap_normal, 0 },
	{ "nap_dirty", 2, nap_dirty, ERL_NIF_DIRTY_JOB_IO_BOUND },
	{ "truth", 0, truth, 0 },
};

ERL_NIF_INIT(trace_load, functions, load, NULL, NULL, NULL)
