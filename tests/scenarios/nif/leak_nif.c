/*
 * A NIF that leaks on purpose and tells the truth about it.
 *
 * Every call that takes memory notes it in a table, so that a test can compare
 * to the byte what was taken with what beamray says from outside. The table must
 * not spoil what it records: it lies in a mapping of its own (counted in
 * truth/0), and addresses in it are stored inverted, so that a block whose
 * pointer is thrown away is really pointed to by nobody.
 *
 * One build has to load into every release and glibc of the test matrix. So it is
 * compiled with the oldest erl_nif.h there is and uses nothing newer than glibc
 * 2.31; tests/lib/nif.sh checks that.
 */
#define _GNU_SOURCE
#include <malloc.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <erl_nif.h>

/* glibc 2.34 gave these a new version when it merged libpthread; the old one is there too. */
#if defined(__x86_64__)
__asm__(".symver pthread_create, pthread_create@GLIBC_2.2.5");
__asm__(".symver pthread_detach, pthread_detach@GLIBC_2.2.5");
__asm__(".symver pthread_attr_setstacksize, pthread_attr_setstacksize@GLIBC_2.2.5");
#elif defined(__aarch64__)
__asm__(".symver pthread_create, pthread_create@GLIBC_2.17");
__asm__(".symver pthread_detach, pthread_detach@GLIBC_2.17");
__asm__(".symver pthread_attr_setstacksize, pthread_attr_setstacksize@GLIBC_2.17");
#endif

enum kind {
	LOST_MALLOC,
	KEPT_MALLOC,
	LOST_MMAP,
	LOST_ENIF,
	KEPT_ENIF,
	LOST_BINARY,
	LOST_RESOURCE,
	HELD_RESOURCE,
	LOST_ENV,
	THREAD_STACK,
	PATTERN,
	KINDS
};

static const char *const kind_names[KINDS] = {
	"malloc_lost", "malloc_kept", "mmap", "enif_lost", "enif_kept", "binary",
	"resource",    "held",	      "env",  "thread",	   "pattern",
};

struct record {
	uint64_t address_inverted; /* 0: the record is free again */
	uint64_t bytes;		   /* as asked for */
	uint64_t usable;	   /* malloc_usable_size(), else bytes */
	uint32_t kind;
	uint32_t arena_thread; /* which pattern thread took it, 0 for the VM's own */
};

enum { TABLE_RECORDS = 4 << 20 };

static struct record *table;
static size_t table_used;
static ErlNifMutex *table_lock;

/* What is "kept" hangs on this list, rooted in the library's own data. */
struct kept {
	struct kept *next;
	size_t bytes;
};
static struct kept *kept_malloc, *kept_enif;

static ErlNifResourceType *resource_type;

/* Resources that their owner gave back. */
static uint64_t resources_destroyed;

static void note(enum kind kind, const void *address, size_t bytes, size_t usable, unsigned thread)
{
	enif_mutex_lock(table_lock);
	if (table_used < TABLE_RECORDS) {
		struct record *r = &table[table_used++];

		r->address_inverted = ~(uint64_t)(uintptr_t)address;
		r->bytes = bytes;
		r->usable = usable;
		r->kind = kind;
		r->arena_thread = thread;
	}
	enif_mutex_unlock(table_lock);
}

static int get_count_size(ErlNifEnv *env, const ERL_NIF_TERM argv[], unsigned long *count,
			  unsigned long *bytes)
{
	return enif_get_ulong(env, argv[0], count) && enif_get_ulong(env, argv[1], bytes) &&
	       *bytes > 0;
}

static ERL_NIF_TERM ok(ErlNifEnv *env)
{
	return enif_make_atom(env, "ok");
}

/* leak_malloc(Count, Size): touched, then forgotten. */
static ERL_NIF_TERM leak_malloc(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
	unsigned long count, bytes;

	(void)argc;
	if (!get_count_size(env, argv, &count, &bytes))
		return enif_make_badarg(env);
	for (unsigned long i = 0; i < count; i++) {
		char *p = malloc(bytes);

		if (!p)
			break;
		memset(p, 0x5a, bytes);
		note(LOST_MALLOC, p, bytes, malloc_usable_size(p), 0);
	}
	return ok(env);
}

/* keep_malloc(Count, Size): on a list that starts in this library's data. */
static ERL_NIF_TERM keep_malloc(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
	unsigned long count, bytes;

	(void)argc;
	if (!get_count_size(env, argv, &count, &bytes) || bytes < sizeof(struct kept))
		return enif_make_badarg(env);
	for (unsigned long i = 0; i < count; i++) {
		struct kept *p = malloc(bytes);

		if (!p)
			break;
		memset(p, 0x5b, bytes);
		p->bytes = bytes;
		p->next = kept_malloc;
		kept_malloc = p;
		note(KEPT_MALLOC, p, bytes, malloc_usable_size(p), 0);
	}
	return ok(env);
}

/* free_kept(): all that keep_malloc and keep_enif hold, given back. */
static ERL_NIF_TERM free_kept(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
	struct kept *p;

	(void)argc;
	(void)argv;
	while ((p = kept_malloc)) {
		kept_malloc = p->next;
		free(p);
	}
	while ((p = kept_enif)) {
		kept_enif = p->next;
		enif_free(p);
	}
	for (size_t i = 0; i < table_used; i++)
		if (table[i].kind == KEPT_MALLOC || table[i].kind == KEPT_ENIF)
			table[i].address_inverted = 0;
	return ok(env);
}

static ERL_NIF_TERM leak_mmap(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
	unsigned long count, bytes;

	(void)argc;
	if (!get_count_size(env, argv, &count, &bytes))
		return enif_make_badarg(env);
	for (unsigned long i = 0; i < count; i++) {
		char *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
			       0);

		if (p == MAP_FAILED)
			break;
		memset(p, 0x5c, bytes);
		note(LOST_MMAP, p, bytes, bytes, 0);
	}
	return ok(env);
}

static ERL_NIF_TERM leak_enif(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
	unsigned long count, bytes;

	(void)argc;
	if (!get_count_size(env, argv, &count, &bytes))
		return enif_make_badarg(env);
	for (unsigned long i = 0; i < count; i++) {
		char *p = enif_alloc(bytes);

		if (!p)
			break;
		memset(p, 0x5d, bytes);
		note(LOST_ENIF, p, bytes, bytes, 0);
	}
	return ok(env);
}

static ERL_NIF_TERM keep_enif(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
	unsigned long count, bytes;

	(void)argc;
	if (!get_count_size(env, argv, &count, &bytes) || bytes < sizeof(struct kept))
		return enif_make_badarg(env);
	for (unsigned long i = 0; i < count; i++) {
		struct kept *p = enif_alloc(bytes);

		if (!p)
			break;
		memset(p, 0x5e, bytes);
		p->bytes = bytes;
		p->next = kept_enif;
		kept_enif = p;
		note(KEPT_ENIF, p, bytes, bytes, 0);
	}
	return ok(env);
}

/* leak_binary(Count, Size): enif_alloc_binary() without a release. */
static ERL_NIF_TERM leak_binary(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
	unsigned long count, bytes;

	(void)argc;
	if (!get_count_size(env, argv, &count, &bytes))
		return enif_make_badarg(env);
	for (unsigned long i = 0; i < count; i++) {
		ErlNifBinary binary;

		if (!enif_alloc_binary(bytes, &binary))
			break;
		memset(binary.data, 0x5f, bytes);
		note(LOST_BINARY, binary.data, bytes, bytes, 0);
	}
	return ok(env);
}

/* leak_resource(Count, Size): the reference of its maker is never released. */
static ERL_NIF_TERM leak_resource(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
	unsigned long count, bytes;

	(void)argc;
	if (!get_count_size(env, argv, &count, &bytes))
		return enif_make_badarg(env);
	for (unsigned long i = 0; i < count; i++) {
		void *p = enif_alloc_resource(resource_type, bytes);

		if (!p)
			break;
		memset(p, 0x60, bytes);
		note(LOST_RESOURCE, p, bytes, bytes, 0);
	}
	return ok(env);
}

/* make_resources(Count, Size): terms; who holds them holds the memory. */
static ERL_NIF_TERM make_resources(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
	unsigned long count, bytes;
	ERL_NIF_TERM list = enif_make_list(env, 0);

	(void)argc;
	if (!get_count_size(env, argv, &count, &bytes))
		return enif_make_badarg(env);
	for (unsigned long i = 0; i < count; i++) {
		void *p = enif_alloc_resource(resource_type, bytes);

		if (!p)
			break;
		memset(p, 0x61, bytes);
		note(HELD_RESOURCE, p, bytes, bytes, 0);
		list = enif_make_list_cell(env, enif_make_resource(env, p), list);
		enif_release_resource(p);
	}
	return list;
}

/* leak_env(Count, Size): process independent environments, each with one binary of Size. */
static ERL_NIF_TERM leak_env(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
	unsigned long count, bytes;

	(void)argc;
	if (!get_count_size(env, argv, &count, &bytes))
		return enif_make_badarg(env);
	for (unsigned long i = 0; i < count; i++) {
		ErlNifEnv *lost = enif_alloc_env();
		ERL_NIF_TERM term;
		unsigned char *data;

		if (!lost)
			break;
		data = enif_make_new_binary(lost, bytes, &term);
		memset(data, 0x62, bytes);
		note(LOST_ENV, lost, bytes, bytes, 0);
	}
	return ok(env);
}

/*
 * Threads of the library's own: idle ones with touched stacks, and those that
 * leave a pattern of used and free chunks in an arena of glibc's.
 */
struct work {
	unsigned number;
	unsigned long chunks;  /* of a pattern, 0 for a plain thread */
	unsigned long touched; /* bytes of stack */
};

static ErlNifMutex *work_lock;
static ErlNifCond *work_changed;
static unsigned work_started, work_done, work_stop;

static uint32_t next_random(uint32_t *state)
{
	*state = *state * 1664525u + 1013904223u;
	return *state >> 8;
}

/* Sizes from tcache, fastbin, small bin, large bin and mmap territory. */
static size_t pattern_size(uint32_t *state)
{
	static const size_t limits[] = { 120, 1000, 1030, 4000, 70000, 400000 };
	uint32_t r = next_random(state) % 1000;
	size_t limit = r < 600	 ? limits[0]
		       : r < 800 ? limits[1]
		       : r < 900 ? limits[2]
		       : r < 980 ? limits[3]
		       : r < 998 ? limits[4]
				 : limits[5];

	return 1 + next_random(state) % limit;
}

static void make_pattern(const struct work *work)
{
	uint32_t state = 12345 + work->number;
	void **chunks = malloc(work->chunks * sizeof(*chunks));
	size_t *sizes = malloc(work->chunks * sizeof(*sizes));

	if (!chunks || !sizes) {
		free(chunks);
		free(sizes);
		return;
	}
	for (unsigned long i = 0; i < work->chunks; i++) {
		sizes[i] = pattern_size(&state);
		chunks[i] = malloc(sizes[i]);
		if (chunks[i])
			memset(chunks[i], 0x63, sizes[i]);
	}
	/* Every other one or so goes back, in an order of its own. */
	for (unsigned long i = 0; i < work->chunks / 2; i++) {
		unsigned long victim = next_random(&state) % work->chunks;

		free(chunks[victim]);
		chunks[victim] = NULL;
	}
	for (unsigned long i = 0; i < work->chunks; i++)
		if (chunks[i])
			note(PATTERN, chunks[i], sizes[i], malloc_usable_size(chunks[i]),
			     work->number);
	memset(chunks, 0, work->chunks * sizeof(*chunks));
	free(chunks);
	free(sizes);
}

static __attribute__((noinline)) void touch_stack(unsigned long bytes)
{
	volatile char *p = __builtin_alloca(bytes);

	for (unsigned long i = 0; i < bytes; i += 4096)
		p[i] = 1;
}

static void *thread_main(void *argument)
{
	struct work work = *(struct work *)argument;

	free(argument);
	if (work.touched)
		touch_stack(work.touched);
	if (work.chunks)
		make_pattern(&work);
	enif_mutex_lock(work_lock);
	work_done++;
	enif_cond_broadcast(work_changed);
	while (!work_stop)
		enif_cond_wait(work_changed, work_lock);
	enif_mutex_unlock(work_lock);
	return NULL;
}

static int start_threads(unsigned long count, unsigned long chunks, unsigned long touched,
			 unsigned long stack_bytes)
{
	unsigned started = 0;
	pthread_attr_t attr;

	pthread_attr_init(&attr);
	if (stack_bytes)
		pthread_attr_setstacksize(&attr, stack_bytes);
	for (unsigned long i = 0; i < count; i++) {
		struct work *work = malloc(sizeof(*work));
		pthread_t thread;

		if (!work)
			break;
		work->number = work_started + started + 1;
		work->chunks = chunks;
		work->touched = touched;
		if (pthread_create(&thread, &attr, thread_main, work)) {
			free(work);
			break;
		}
		pthread_detach(thread);
		started++;
		if (!chunks)
			note(THREAD_STACK, (void *)thread, stack_bytes, touched, work_started);
	}
	pthread_attr_destroy(&attr);
	enif_mutex_lock(work_lock);
	work_started += started;
	while (work_done < work_started)
		enif_cond_wait(work_changed, work_lock);
	enif_mutex_unlock(work_lock);
	return started == count;
}

/* threads(Count, TouchedBytes): idle threads with 1 MiB of stack, so much of it touched. */
static ERL_NIF_TERM threads(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
	unsigned long count, touched;

	(void)argc;
	if (!get_count_size(env, argv, &count, &touched) || touched > 900 * 1024)
		return enif_make_badarg(env);
	return start_threads(count, 0, touched, 1024 * 1024) ? ok(env) : enif_make_badarg(env);
}

/* pattern(Threads, Chunks): each thread mallocs so many of all sizes and frees about half. */
static ERL_NIF_TERM pattern(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
	unsigned long count, chunks;

	(void)argc;
	if (!get_count_size(env, argv, &count, &chunks))
		return enif_make_badarg(env);
	return start_threads(count, chunks, 0, 0) ? ok(env) : enif_make_badarg(env);
}

/* truth(): [{Kind, Count, Bytes, Usable}], and what the telling itself costs. */
static ERL_NIF_TERM truth(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
	uint64_t count[KINDS] = { 0 }, bytes[KINDS] = { 0 }, usable[KINDS] = { 0 };
	ERL_NIF_TERM list = enif_make_list(env, 0);

	(void)argc;
	(void)argv;
	for (size_t i = 0; i < table_used; i++) {
		const struct record *r = &table[i];

		if (!r->address_inverted)
			continue;
		count[r->kind]++;
		bytes[r->kind] += r->bytes;
		usable[r->kind] += r->usable;
	}
	for (int kind = 0; kind < KINDS; kind++)
		list = enif_make_list_cell(env,
					   enif_make_tuple4(env,
							    enif_make_atom(env, kind_names[kind]),
							    enif_make_uint64(env, count[kind]),
							    enif_make_uint64(env, bytes[kind]),
							    enif_make_uint64(env, usable[kind])),
					   list);
	return enif_make_tuple3(env, list, enif_make_uint64(env, table_used * sizeof(*table)),
				enif_make_uint64(env, resources_destroyed));
}

/* dump(File): "kind address bytes usable thread" of everything that is taken, one a line. */
static ERL_NIF_TERM dump(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
	char name[1024];
	int written;
	FILE *file;

	(void)argc;
	if (enif_get_string(env, argv[0], name, sizeof(name), ERL_NIF_LATIN1) <= 0)
		return enif_make_badarg(env);
	file = fopen(name, "w");
	if (!file)
		return enif_make_atom(env, "error");
	for (size_t i = 0; i < table_used; i++) {
		const struct record *r = &table[i];

		if (!r->address_inverted)
			continue;
		written = fprintf(file, "%s %llx %llu %llu %u\n", kind_names[r->kind],
				  (unsigned long long)~r->address_inverted,
				  (unsigned long long)r->bytes, (unsigned long long)r->usable,
				  r->arena_thread);
		if (written < 0)
			break;
	}
	return fclose(file) ? enif_make_atom(env, "error") : ok(env);
}

/* malloc_info(): glibc's own account of its arenas, XML. */
static ERL_NIF_TERM libc_info(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
	ERL_NIF_TERM term;
	char *text = NULL;
	size_t bytes = 0;
	FILE *file;

	(void)argc;
	(void)argv;
	file = open_memstream(&text, &bytes);
	if (!file)
		return enif_make_badarg(env);
	malloc_info(0, file);
	if (fclose(file) || !text)
		return enif_make_badarg(env);
	memcpy(enif_make_new_binary(env, bytes, &term), text, bytes);
	free(text);
	return term;
}

/*
 * stall(Milliseconds): {LongestNs, Calls} of mmap+munmap of one page in a loop. Who
 * reads this process's memory takes its mmap lock: this is how long a thread waits.
 */
static ERL_NIF_TERM stall(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
	ErlNifTime start = enif_monotonic_time(ERL_NIF_NSEC), before = start, longest = 0;
	unsigned long milliseconds, calls = 0;

	(void)argc;
	if (!enif_get_ulong(env, argv[0], &milliseconds) || milliseconds > 600000)
		return enif_make_badarg(env);
	while (before - start < (ErlNifTime)milliseconds * 1000000) {
		ErlNifTime after;
		char *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
			       0);

		if (p == MAP_FAILED)
			break;
		munmap(p, 4096);
		after = enif_monotonic_time(ERL_NIF_NSEC);
		if (after - before > longest)
			longest = after - before;
		before = after;
		calls++;
	}
	return enif_make_tuple2(env, enif_make_int64(env, longest), enif_make_ulong(env, calls));
}

static void resource_destroyed(ErlNifEnv *env, void *object)
{
	(void)env;
	enif_mutex_lock(table_lock);
	resources_destroyed++;
	for (size_t i = 0; i < table_used; i++)
		if (table[i].address_inverted == ~(uint64_t)(uintptr_t)object)
			table[i].address_inverted = 0;
	enif_mutex_unlock(table_lock);
}

static int load(ErlNifEnv *env, void **priv_data, ERL_NIF_TERM load_info)
{
	(void)priv_data;
	(void)load_info;
	table = mmap(NULL, TABLE_RECORDS * sizeof(*table), PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (table == MAP_FAILED)
		return 1;
	table_lock = enif_mutex_create("leak_nif_table");
	work_lock = enif_mutex_create("leak_nif_work");
	work_changed = enif_cond_create("leak_nif_work");
	resource_type = enif_open_resource_type(env, NULL, "leak_resource", resource_destroyed,
						ERL_NIF_RT_CREATE, NULL);
	return !table_lock || !work_lock || !work_changed || !resource_type;
}

static ErlNifFunc functions[] = {
	{ "leak_malloc", 2, leak_malloc, 0 },
	{ "keep_malloc", 2, keep_malloc, 0 },
	{ "free_kept", 0, free_kept, 0 },
	{ "leak_mmap", 2, leak_mmap, 0 },
	{ "leak_enif", 2, leak_enif, 0 },
	{ "keep_enif", 2, keep_enif, 0 },
	{ "leak_binary", 2, leak_binary, 0 },
	{ "leak_resource", 2, leak_resource, 0 },
	{ "make_resources", 2, make_resources, 0 },
	{ "leak_env", 2, leak_env, 0 },
	{ "threads", 2, threads, 0 },
	{ "pattern", 2, pattern, 0 },
	{ "truth", 0, truth, 0 },
	{ "dump", 1, dump, 0 },
	{ "malloc_info", 0, libc_info, 0 },
	{ "stall", 1, stall, ERL_NIF_DIRTY_JOB_CPU_BOUND },
};

ERL_NIF_INIT(leak_nif, functions, load, NULL, NULL, NULL)
