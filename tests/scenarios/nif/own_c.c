/*
 * A NIF in C that holds memory in every way a C library does, loses some in every
 * way there is, and tells which is which. For tests of lost blocks and of owners.
 * Nothing newer than glibc 2.31; see leak_nif.c.
 */
#define _GNU_SOURCE
#include <malloc.h>
#include <stdlib.h>
#include <string.h>

#include <erl_nif.h>

#include "truth.h"

#if defined(__x86_64__)
__asm__(".symver pthread_create, pthread_create@GLIBC_2.2.5");
#endif

#define LIBRARY "own_c.so"

struct object;

struct ops {
	void (*run)(struct object *);
	void (*done)(struct object *);
};

struct object { /* what content tells: a pointer to its functions */
	const struct ops *ops;
	struct object *next;
	char *name;
	void (*hook)(struct object *);
	char payload[64];
};

struct entry { /* what only its table tells */
	struct entry *next;
	uint64_t key;
	unsigned char *value;
};

struct state { /* hangs on priv_data alone */
	struct entry *entries;
	void *buffers[64];
	void *big;
	unsigned n;
};

static void run(struct object *o)
{
	o->payload[0]++;
}

static void done(struct object *o)
{
	o->payload[1]++;
}

static const struct ops ops = { run, done };

static struct object *objects;
static struct entry **table;
static size_t table_size;
static void **array; /* grown by realloc */
static size_t array_used;
static ErlNifResourceType *resource_type;

static void *kept(void *p, size_t bytes)
{
	if (p)
		memset(p, 0x11, bytes);
	return truth_note(p, bytes, 0);
}

static void *lost(void *p, size_t bytes)
{
	if (p)
		memset(p, 0x22, bytes);
	return truth_note(p, bytes, 1);
}

static struct object *object_new(struct object *next, int is_lost)
{
	struct object *o = truth_note(malloc(sizeof(*o)), sizeof(*o), is_lost);

	memset(o, 0, sizeof(*o));
	o->ops = &ops;
	o->next = next;
	o->name = truth_note(malloc(40), 40, is_lost);
	memset(o->name, 'n', 40);
	o->hook = run;
	return o;
}

static struct entry *entry_new(struct entry *next, uint64_t key, size_t bytes)
{
	struct entry *e = kept(malloc(sizeof(*e)), sizeof(*e));

	e->next = next;
	e->key = key;
	e->value = kept(malloc(bytes), bytes);
	return e;
}

static __attribute__((noinline)) void make(struct state *s, unsigned long n)
{
	for (unsigned long i = 0; i < n; i++)
		objects = object_new(objects, 0);
	if (!table) {
		table_size = 1024;
		table = truth_note(calloc(table_size, sizeof(*table)), table_size * sizeof(*table),
				   0);
	}
	for (unsigned long i = 0; i < n; i++)
		table[i % table_size] = entry_new(table[i % table_size], i, 100 + i % 900);
	for (unsigned long i = 0; i < n; i++)
		s->entries = entry_new(s->entries, i, 200);
	for (unsigned i = 0; i < 64; i++) {
		size_t bytes = 1000 + 100 * i;

		if (!s->buffers[i])
			s->buffers[i] = kept(malloc(bytes), bytes);
	}
	if (!s->big)
		s->big = kept(malloc(700000), 700000);
	for (unsigned long i = 0; i < n; i++) {
		if ((array_used & (array_used - 1)) == 0) {
			size_t room = array_used ? array_used * 2 : 1;

			truth_forget(array);
			array = realloc(array, room * sizeof(*array));
			truth_note(array, room * sizeof(*array), 0);
		}
		array[array_used] = i % 2 ? memalign(64, 300) : malloc(300);
		kept(array[array_used++], 300);
	}
}

static __attribute__((noinline)) void leak(unsigned long n)
{
	struct object *chain = NULL;

	for (unsigned long i = 0; i < n; i++) {
		size_t bytes = 24 + i % 2000;

		lost(malloc(bytes), bytes);
		lost(calloc(1, 144), 144);
		lost(realloc(malloc(40), 5000), 5000);
		lost(memalign(256, 600), 600);
		lost(strcpy(malloc(64), "a name that nobody will ever ask for again"), 64);
		if (i % 16 == 0)
			chain = NULL;
		chain = object_new(chain, 1);
	}
	for (unsigned long i = 0; i < 32 + n / 1000; i++) {
		lost(malloc(400000), 400000); /* a mapping of its own */
		lost(memalign(4096, 300000), 300000);
	}
}

static ERL_NIF_TERM nif_make(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
	unsigned long n;

	(void)argc;
	if (!truth_number(env, argv[0], &n))
		return enif_make_badarg(env);
	make(enif_priv_data(env), n);
	truth_wipe();
	return enif_make_atom(env, "ok");
}

static ERL_NIF_TERM nif_leak(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
	unsigned long n;

	(void)argc;
	if (!truth_number(env, argv[0], &n))
		return enif_make_badarg(env);
	leak(n);
	truth_wipe();
	return enif_make_atom(env, "ok");
}

/* One resource that holds a list of plain blocks. */
static ERL_NIF_TERM nif_resource(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
	struct entry **r = enif_alloc_resource(resource_type, 4 * sizeof(*r));
	unsigned long n;
	ERL_NIF_TERM term;

	(void)argc;
	if (!r || !truth_number(env, argv[0], &n))
		return enif_make_badarg(env);
	memset(r, 0, 4 * sizeof(*r));
	for (unsigned long i = 0; i < n; i++)
		r[i % 4] = entry_new(r[i % 4], i, 350);
	term = enif_make_resource(env, r);
	enif_release_resource(r);
	return term;
}

/* Takes and gives back all the time, in a thread of its own: neither is lost. */
static volatile int churning;

static void *churn(void *arg)
{
	struct object *mine[64] = { NULL };
	unsigned state = 1;

	(void)arg;
	while (churning) {
		unsigned i;

		state = state * 1664525u + 1013904223u;
		i = state >> 8 & 63;
		free(mine[i]);
		mine[i] = malloc(sizeof(struct object) + (state >> 16 & 511));
		memset(mine[i], 0x33, sizeof(struct object));
	}
	for (unsigned i = 0; i < 64; i++)
		free(mine[i]);
	return NULL;
}

static ERL_NIF_TERM nif_churn(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
	unsigned long n;
	pthread_t thread;

	(void)argc;
	if (!truth_number(env, argv[0], &n))
		return enif_make_badarg(env);
	churning = n > 0;
	for (unsigned long i = 0; i < n; i++)
		if (pthread_create(&thread, NULL, churn, NULL))
			return enif_make_badarg(env);
	return enif_make_atom(env, "ok");
}

/* Where something lies that is reached in other ways: in the middle of the list on
 * priv_data; a plain block of the array; a value of the table. */
static ERL_NIF_TERM nif_where(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
	struct state *s = enif_priv_data(env);
	struct entry *e = s->entries;
	unsigned long what;
	void *p = NULL;

	(void)argc;
	if (!truth_number(env, argv[0], &what) || !e || !array_used || !table || !table[0])
		return enif_make_badarg(env);
	switch (what) {
	case 0:
		for (unsigned i = 0; i < 200 && e->next; i++)
			e = e->next;
		p = e;
		break;
	case 1:
		p = array[array_used / 2];
		break;
	case 2:
		p = table[0]->value;
		break;
	}
	return enif_make_uint64(env, (uint64_t)(uintptr_t)p);
}

static ERL_NIF_TERM nif_dump(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
	char name[1024];

	(void)argc;
	if (enif_get_string(env, argv[0], name, sizeof(name), ERL_NIF_LATIN1) <= 0 ||
	    truth_dump(name, LIBRARY))
		return enif_make_badarg(env);
	return enif_make_atom(env, "ok");
}

static int load(ErlNifEnv *env, void **priv_data, ERL_NIF_TERM load_info)
{
	(void)load_info;
	*priv_data = calloc(1, sizeof(struct state));
	resource_type = enif_open_resource_type(env, NULL, "own_c", NULL, ERL_NIF_RT_CREATE, NULL);
	if (!*priv_data || !resource_type || truth_open())
		return 1;
	truth_note(*priv_data, sizeof(struct state), 0);
	return 0;
}

static ErlNifFunc functions[] = {
	{ "make", 1, nif_make, 0 },	    { "leak", 1, nif_leak, 0 },
	{ "resource", 1, nif_resource, 0 }, { "churn", 1, nif_churn, 0 },
	{ "dump", 1, nif_dump, 0 },	    { "where", 1, nif_where, 0 },
};

ERL_NIF_INIT(own_c, functions, load, NULL, NULL, NULL)
