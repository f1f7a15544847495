/*
 * A NIF that is ill in as many ways as there are to take memory, and counts what it took.
 *
 * leak(Way, Count, Size) takes Count pieces of Size bytes by that way and forgets
 * them; leak_cpu and leak_io are the same on dirty schedulers, leak_thread on a
 * thread of the library's own. Every way is a function of its own that is never
 * inlined, so that a stack has its name. Nothing is written down but sums: a table
 * of pieces would be memory of the very kind that is measured.
 *
 * Like leak_nif.c it is built against the oldest erl_nif.h and glibc 2.31.
 */
#define _GNU_SOURCE
#include <malloc.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <erl_nif.h>

#if defined(__x86_64__)
__asm__(".symver pthread_create, pthread_create@GLIBC_2.2.5");
__asm__(".symver pthread_join, pthread_join@GLIBC_2.2.5");
__asm__(".symver pthread_attr_setstacksize, pthread_attr_setstacksize@GLIBC_2.2.5");
#elif defined(__aarch64__)
__asm__(".symver pthread_create, pthread_create@GLIBC_2.17");
__asm__(".symver pthread_join, pthread_join@GLIBC_2.17");
__asm__(".symver pthread_attr_setstacksize, pthread_attr_setstacksize@GLIBC_2.17");
#endif

#define NEVER_INLINE __attribute__((noinline, noclone))

/* operator new[](size_t) of C++: it is libstdc++ that calls malloc. */
extern void *_Znam(size_t bytes);

/* Bytes that each way holds now: whole chunks for libc, what was asked for else. */
static _Atomic int64_t held[32];
static ErlNifResourceType *resource_type;

/* A cache hangs on this list; so do the pieces that a fragmented heap keeps. */
struct link {
	struct link *next;
};
static struct link *cache, *kept;
static ErlNifMutex *lock;

/* Behind a call that must not become a jump: its caller's frame is wanted in stacks. */
#define KEEP_FRAME() __asm__ volatile("" ::: "memory")

NEVER_INLINE static void *chunk(int way, void *p, int c, size_t bytes)
{
	if (p) {
		memset(p, c, bytes);
		held[way] += (int64_t)malloc_usable_size(p) + 8;
	}
	return p;
}

NEVER_INLINE static void by_malloc(int way, size_t bytes)
{
	chunk(way, malloc(bytes), 0x41, bytes);
	KEEP_FRAME();
}

NEVER_INLINE static void by_calloc(int way, size_t bytes)
{
	chunk(way, calloc(1, bytes), 0x42, bytes);
	KEEP_FRAME();
}

NEVER_INLINE static void by_realloc(int way, size_t bytes)
{
	void *p = malloc(16), *q = p ? realloc(p, bytes) : NULL;

	chunk(way, q, 0x43, bytes);
	KEEP_FRAME();
}

NEVER_INLINE static void by_memalign(int way, size_t bytes)
{
	void *p = NULL;

	if (posix_memalign(&p, 64, bytes) == 0)
		chunk(way, p, 0x44, bytes);
	KEEP_FRAME();
}

NEVER_INLINE static void by_strdup(int way, size_t bytes)
{
	static __thread char text[1 << 16];

	bytes = bytes < sizeof(text) ? bytes : sizeof(text);
	memset(text, 'x', bytes - 1);
	text[bytes - 1] = 0;
	char *p = strdup(text);

	if (p)
		held[way] += (int64_t)malloc_usable_size(p) + 8;
}

NEVER_INLINE static void by_new(int way, size_t bytes)
{
	chunk(way, _Znam(bytes), 0x45, bytes);
	KEEP_FRAME();
}

NEVER_INLINE static void by_mmap(int way, size_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		return;
	memset(p, 0x46, bytes);
	held[way] += (int64_t)bytes;
}

NEVER_INLINE static void by_enif(int way, size_t bytes)
{
	void *p = enif_alloc(bytes);

	if (!p)
		return;
	memset(p, 0x47, bytes);
	held[way] += (int64_t)bytes;
}

NEVER_INLINE static void by_resource(int way, size_t bytes)
{
	void *p = enif_alloc_resource(resource_type, bytes);

	if (!p)
		return;
	memset(p, 0x48, bytes);
	held[way] += (int64_t)bytes;
}

/* A process independent environment with a binary and a list of that size. */
NEVER_INLINE static void by_env(int way, size_t bytes)
{
	ErlNifEnv *e = enif_alloc_env();
	ERL_NIF_TERM t, list;
	unsigned char *p;

	if (!e)
		return;
	p = enif_make_new_binary(e, bytes / 2, &t);
	memset(p, 0x49, bytes / 2);
	list = enif_make_list(e, 0);
	for (size_t i = 0; i < bytes / 32; i++)
		list = enif_make_list_cell(e, t, list);
	held[way] += (int64_t)bytes;
}

NEVER_INLINE static void by_binary(int way, size_t bytes)
{
	ErlNifBinary b;

	if (!enif_alloc_binary(bytes, &b))
		return;
	memset(b.data, 0x4e, bytes);
	held[way] += (int64_t)bytes;
}

/* Reachable for ever: a list that begins in the library's data. */
NEVER_INLINE static void by_cache(int way, size_t bytes)
{
	struct link *p = chunk(way, malloc(bytes), 0x4a, bytes);

	if (!p)
		return;
	enif_mutex_lock(lock);
	p->next = cache;
	cache = p;
	enif_mutex_unlock(lock);
}

/* Taken and given back: churn. */
NEVER_INLINE static void by_churn(int way, size_t bytes)
{
	void *p[16];

	(void)way;
	for (int i = 0; i < 16; i++)
		if ((p[i] = malloc(bytes)))
			memset(p[i], 0x4b, bytes);
	for (int i = 0; i < 16; i++)
		free(p[i]);
}

static void *stack_toucher(void *arg)
{
	size_t bytes = (size_t)(uintptr_t)arg;
	volatile char *p = __builtin_alloca(bytes);

	for (size_t i = 0; i < bytes; i += 4096)
		p[i] = 1;
	return NULL;
}

static void *stack_sleeper(void *arg)
{
	stack_toucher(arg);
	for (;;)
		pause();
	return NULL;
}

static void thread_start(int way, void *(*main)(void *), size_t bytes)
{
	pthread_attr_t attr;
	pthread_t t;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, bytes + 256 * 1024);
	if (pthread_create(&t, &attr, main, (void *)(uintptr_t)bytes) == 0)
		held[way] += (int64_t)bytes;
	pthread_attr_destroy(&attr);
}

/* Ended, and never joined: the stack stays. */
NEVER_INLINE static void by_unjoined(int way, size_t bytes)
{
	thread_start(way, stack_toucher, bytes);
}

NEVER_INLINE static void by_sleeper(int way, size_t bytes)
{
	thread_start(way, stack_sleeper, bytes);
}

static const struct way {
	const char *name;
	void (*take)(int way, size_t bytes);
} ways[] = {
	{ "malloc", by_malloc },     { "calloc", by_calloc },	  { "realloc", by_realloc },
	{ "memalign", by_memalign }, { "strdup", by_strdup },	  { "new", by_new },
	{ "mmap", by_mmap },	     { "enif", by_enif },	  { "resource", by_resource },
	{ "env", by_env },	     { "cache", by_cache },	  { "churn", by_churn },
	{ "binary", by_binary },     { "unjoined", by_unjoined }, { "sleeper", by_sleeper },
};

enum { WAYS = sizeof(ways) / sizeof(ways[0]) };

struct work {
	int way;
	unsigned long count, bytes;
};

static int work_get(ErlNifEnv *env, const ERL_NIF_TERM argv[], struct work *w)
{
	char name[32];

	if (!enif_get_atom(env, argv[0], name, sizeof(name), ERL_NIF_LATIN1) ||
	    !enif_get_ulong(env, argv[1], &w->count) || !enif_get_ulong(env, argv[2], &w->bytes) ||
	    w->bytes < sizeof(struct link))
		return 0;
	for (w->way = 0; w->way < WAYS; w->way++)
		if (strcmp(ways[w->way].name, name) == 0)
			return 1;
	return 0;
}

static void *work_run(void *arg)
{
	const struct work *w = arg;

	for (unsigned long i = 0; i < w->count; i++)
		ways[w->way].take(w->way, w->bytes);
	return NULL;
}

static ERL_NIF_TERM leak(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
	struct work w;

	(void)argc;
	if (!work_get(env, argv, &w))
		return enif_make_badarg(env);
	work_run(&w);
	return enif_make_atom(env, "ok");
}

static ERL_NIF_TERM leak_thread(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
	struct work w;
	pthread_t t;

	(void)argc;
	if (!work_get(env, argv, &w) || pthread_create(&t, NULL, work_run, &w) != 0)
		return enif_make_badarg(env);
	pthread_join(t, NULL);
	return enif_make_atom(env, "ok");
}

static void list_free(struct link **list)
{
	for (struct link *p; (p = *list);) {
		*list = p->next;
		free(p);
	}
}

/* drop_cache(): given back. */
static ERL_NIF_TERM drop_cache(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
	(void)argc;
	(void)argv;
	enif_mutex_lock(lock);
	list_free(&cache);
	enif_mutex_unlock(lock);
	for (int i = 0; i < WAYS; i++)
		if (ways[i].take == by_cache)
			held[i] = 0;
	return enif_make_atom(env, "ok");
}

/* fragment(Count, Size, Keep): takes Count pieces, then gives back all but each
 * Keep-th (0: all but the last), so that libc's heap has holes. */
static ERL_NIF_TERM fragment(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
	unsigned long count, bytes, keep;
	void **v;

	(void)argc;
	if (!enif_get_ulong(env, argv[0], &count) || !enif_get_ulong(env, argv[1], &bytes) ||
	    !enif_get_ulong(env, argv[2], &keep) || bytes < sizeof(struct link) || count < 1)
		return enif_make_badarg(env);
	v = mmap(NULL, count * sizeof(*v), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
		 0);
	if (v == MAP_FAILED)
		return enif_make_badarg(env);
	for (unsigned long i = 0; i < count; i++)
		if ((v[i] = malloc(bytes)))
			memset(v[i], 0x4c, bytes);
	for (unsigned long i = 0; i < count; i++) {
		struct link *p = v[i];

		if (!p)
			continue;
		if (i + 1 == count || (keep && i % keep == 0)) {
			p->next = kept;
			kept = p;
		} else {
			free(p);
		}
	}
	munmap(v, count * sizeof(*v));
	return enif_make_atom(env, "ok");
}

/* fragment_enif(Count, Size, Keep): the same with enif_alloc. */
static ERL_NIF_TERM fragment_enif(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
	unsigned long count, bytes, keep;
	void **v;

	(void)argc;
	if (!enif_get_ulong(env, argv[0], &count) || !enif_get_ulong(env, argv[1], &bytes) ||
	    !enif_get_ulong(env, argv[2], &keep) || count < 1 || keep < 2)
		return enif_make_badarg(env);
	v = mmap(NULL, count * sizeof(*v), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
		 0);
	if (v == MAP_FAILED)
		return enif_make_badarg(env);
	for (unsigned long i = 0; i < count; i++)
		if ((v[i] = enif_alloc(bytes)))
			memset(v[i], 0x4d, bytes);
	for (unsigned long i = 0; i < count; i++)
		if (v[i] && i % keep)
			enif_free(v[i]);
	munmap(v, count * sizeof(*v));
	return enif_make_atom(env, "ok");
}

/* become(): this process is a shell from now on, which waits for the end of its input. */
static ERL_NIF_TERM become(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
	(void)argc;
	(void)argv;
	execl("/bin/sh", "sh", "-c", "while read -r line; do :; done", (char *)NULL);
	return enif_make_badarg(env);
}

/* truth(): [{Way, BytesHeld}] */
static ERL_NIF_TERM truth(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
	ERL_NIF_TERM list = enif_make_list(env, 0);

	(void)argc;
	(void)argv;
	for (int i = 0; i < WAYS; i++)
		list = enif_make_list_cell(env,
					   enif_make_tuple2(env, enif_make_atom(env, ways[i].name),
							    enif_make_int64(env, held[i])),
					   list);
	return list;
}

static int load(ErlNifEnv *env, void **priv_data, ERL_NIF_TERM load_info)
{
	(void)priv_data;
	(void)load_info;
	lock = enif_mutex_create("ill_nif");
	resource_type =
		enif_open_resource_type(env, NULL, "ill_resource", NULL, ERL_NIF_RT_CREATE, NULL);
	return !lock || !resource_type;
}

static ErlNifFunc functions[] = {
	{ "leak", 3, leak, 0 },
	{ "leak_cpu", 3, leak, ERL_NIF_DIRTY_JOB_CPU_BOUND },
	{ "leak_io", 3, leak, ERL_NIF_DIRTY_JOB_IO_BOUND },
	{ "leak_thread", 3, leak_thread, 0 },
	{ "drop_cache", 0, drop_cache, 0 },
	{ "fragment", 3, fragment, 0 }, /* in the arena of the caller's scheduler */
	{ "fragment_enif", 3, fragment_enif, 0 },
	{ "become", 0, become, 0 },
	{ "truth", 0, truth, 0 },
};

ERL_NIF_INIT(ill_nif, functions, load, NULL, NULL, NULL)
