/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Code of the emulator: tables of code ranges and modules made here after beam_ranges.c
 * and beam_load.h of OTP 23, whole, changing while they are read, and damaged.
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "code_look.h"

#define BASE	  0x7f0000000000ull
#define BYTES	  (512u << 10)
#define CODE	  (BASE + (256u << 10))
#define SLOT	  0x1000u /* between two modules */
#define ROOM	  32	  /* entries of a table */
#define FUNCTIONS 2
#define BODY	  0x80u /* bytes of a function, its ErtsCodeInfo included */

/* A target that is one buffer; addresses are BASE + offset. */
struct world {
	unsigned char mem[BYTES];
	size_t used;
	struct target_buffer buffer;
	struct target *target;
	struct vm vm;
	uint64_t tables, index, atom_table, atom_seg;
	uint32_t atoms;
};

static void put64(struct world *w, uint64_t addr, uint64_t v)
{
	memcpy(w->mem + (addr - BASE), &v, 8);
}

static void put_field(struct world *w, uint64_t base, struct layout_field f, uint64_t v)
{
	memcpy(w->mem + (base + (uint64_t)f.offset - BASE), &v, f.size);
}

static uint64_t take(struct world *w, size_t n)
{
	uint64_t addr = BASE + w->used;

	w->used += (n + 15) & ~15ull;
	assert_true(BASE + w->used <= CODE);
	return addr;
}

static uint64_t atom(struct world *w, const char *text)
{
	const struct layout *l = w->vm.layout;
	uint64_t a = take(w, l->size_Atom), name = take(w, strlen(text) + 1);

	memcpy(w->mem + (name - BASE), text, strlen(text));
	put_field(w, a, l->Atom__len, strlen(text));
	put_field(w, a, l->Atom__name, name);
	put64(w, w->atom_seg + 8ull * w->atoms, a);
	put_field(w, w->atom_table, l->IndexTable__entries, w->atoms + 1);
	return (uint64_t)w->atoms++ << 6 | 0x0b;
}

static struct world *world(void)
{
	struct world *w = calloc(1, sizeof(*w));
	uint64_t segs;

	assert_non_null(w);
	w->buffer = (struct target_buffer){ BASE, w->mem, BYTES };
	assert_int_equal(target_open_buffers(&w->buffer, 1, &w->target), 0);
	w->vm.target = w->target;
	w->vm.exe_fd = -1;
	w->vm.layout = layout_find(23, "emu");
	assert_non_null(w->vm.layout);
	w->used = 64;
	w->tables = take(w, 3 * w->vm.layout->size_code_ranges);
	w->index = take(w, 4);
	put64(w, w->index, 0xabcdef0100000000ull); /* something else behind it */
	w->atom_table = take(w, w->vm.layout->size_IndexTable);
	segs = take(w, 8);
	w->atom_seg = take(w, 8 * 1024);
	put64(w, segs, w->atom_seg);
	put_field(w, w->atom_table, w->vm.layout->IndexTable__seg_table, segs);
	put_field(w, w->atom_table, w->vm.layout->IndexTable__limit, 1048576);
	w->vm.anchors.v[A_ATOM_TABLE].addr = w->atom_table;
	w->vm.anchors.v[A_RANGES].addr = w->tables;
	w->vm.anchors.v[A_CODE_INDEX].addr = w->index;
	for (unsigned i = 0; i < 3; i++)
		put_field(w, w->tables + i * w->vm.layout->size_code_ranges,
			  w->vm.layout->code_ranges__modules,
			  take(w, ROOM * w->vm.layout->size_code_range));
	return w;
}

static void done(struct world *w)
{
	target_close(w->target);
	free(w);
}

static uint64_t slot(unsigned i)
{
	return CODE + (uint64_t)i * SLOT;
}

/* Bytes of a module as module() makes it: header, functions, the end's mark, MD5. */
static uint64_t module_bytes(const struct world *w)
{
	return (uint64_t)w->vm.layout->BeamCodeHeader__functions.offset + 8ull * (FUNCTIONS + 1) +
	       FUNCTIONS * BODY + 8 + 16;
}

/* A module of functions name:f/0, name:g/1. All of them look alike but for what they are
 * called, and for the MD5. */
static void module(struct world *w, uint64_t at, uint64_t name, const uint64_t f[FUNCTIONS])
{
	const struct layout *l = w->vm.layout;
	uint64_t list = at + (uint64_t)l->BeamCodeHeader__functions.offset;
	uint64_t code = list + 8ull * (FUNCTIONS + 1), md5 = code + FUNCTIONS * BODY + 8;

	put_field(w, at, l->BeamCodeHeader__num_functions, FUNCTIONS);
	put_field(w, at, l->BeamCodeHeader__md5_ptr, md5);
	for (unsigned i = 0; i <= FUNCTIONS; i++)
		put64(w, list + 8ull * i, code + (uint64_t)i * BODY);
	for (unsigned i = 0; i < FUNCTIONS; i++) {
		put_field(w, code + (uint64_t)i * BODY, l->ErtsCodeInfo__mfa_module, name);
		put_field(w, code + (uint64_t)i * BODY, l->ErtsCodeInfo__mfa_function, f[i]);
		put_field(w, code + (uint64_t)i * BODY, l->ErtsCodeInfo__mfa_arity, i);
	}
	put64(w, md5, name * 0x9e3779b97f4a7c15ull);
	put64(w, md5 + 8, name ^ 0xff51afd7ed558ccdull);
}

static uint64_t table_at(const struct world *w, unsigned i)
{
	return w->tables + i * w->vm.layout->size_code_ranges;
}

static uint64_t entries_at(const struct world *w, unsigned i)
{
	uint64_t v;

	memcpy(&v,
	       w->mem + (table_at(w, i) + (uint64_t)w->vm.layout->code_ranges__modules.offset -
			 BASE),
	       8);
	return v;
}

static void entry(struct world *w, unsigned table, unsigned i, uint64_t start, uint64_t end)
{
	uint64_t at = entries_at(w, table) + i * w->vm.layout->size_code_range;

	put_field(w, at, w->vm.layout->code_range__start, start);
	put_field(w, at, w->vm.layout->code_range__end, end);
}

static void table_size(struct world *w, unsigned table, uint64_t n, uint64_t allocated)
{
	put_field(w, table_at(w, table), w->vm.layout->code_ranges__n, n);
	put_field(w, table_at(w, table), w->vm.layout->code_ranges__allocated, allocated);
}

static void activate(struct world *w, uint32_t table)
{
	__atomic_store_n((uint32_t *)(void *)(w->mem + (w->index - BASE)), table, __ATOMIC_RELEASE);
}

/* Modules at the first n slots, in table 0. */
static void first_slots(struct world *w, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		entry(w, 0, i, slot(i), slot(i) + module_bytes(w));
	table_size(w, 0, n, n);
}

static struct code *open_code(struct world *w)
{
	struct code *c = code_of(&w->vm);

	assert_int_equal(code_source(c), CODE_RANGES);
	return c;
}

/* Where the code of a module's function is. */
static uint64_t inside(const struct world *w, uint64_t at, unsigned function)
{
	return at + (uint64_t)w->vm.layout->BeamCodeHeader__functions.offset +
	       8ull * (FUNCTIONS + 1) + function * BODY + w->vm.layout->size_ErtsCodeInfo + 8;
}

static void what(const struct code *c, uint64_t addr, const char *name, bool loaded)
{
	const struct code_mfa mfa = code_is(c, addr, name);

	if (name)
		assert_int_equal(mfa.loaded, loaded);
}

static void the_table_in_force_counts(void **state)
{
	struct world *w = world();
	uint64_t a = atom(w, "a"), b = atom(w, "b"), f[] = { atom(w, "f"), atom(w, "Odd") };
	struct code_stats st;
	struct code *c;

	module(w, slot(0), a, f);
	module(w, slot(1), b, f);
	first_slots(w, 2);
	entry(w, 1, 0, slot(0), slot(0) + module_bytes(w)); /* being staged, or of before */
	table_size(w, 1, 1, 4);
	c = open_code(w);
	what(c, slot(0), NULL, false); /* the header is no code */
	what(c, inside(w, slot(0), 0), "a:f/0", true);
	what(c, inside(w, slot(1), 1), "b:'Odd'/1", true);
	what(c, inside(w, slot(2), 0), NULL, false);
	assert_int_equal(code_refresh(c, NULL), 0);

	activate(w, 1);
	assert_int_equal(code_refresh(c, NULL), 1);
	what(c, inside(w, slot(0), 0), "a:f/0", true);
	what(c, inside(w, slot(1), 1), "b:'Odd'/1", false); /* has gone, and is still known */

	/* purged in place: of no length */
	entry(w, 1, 0, slot(0), slot(0));
	assert_int_equal(code_refresh(c, NULL), 1);
	what(c, inside(w, slot(0), 0), "a:f/0", false);
	code_stats(c, &st);
	assert_int_equal(st.modules, 0);
	assert_int_equal(st.gaps, 0);

	/* without the index the fullest is taken */
	w->vm.anchors.v[A_CODE_INDEX].addr = 0;
	assert_int_equal(code_refresh(c, NULL), 2);
	what(c, inside(w, slot(1), 1), "b:'Odd'/1", true);
	code_close(c);
	done(w);
}

/* Made from one template: as long, as many functions, all pointers alike, at the place of the
 * one that was purged. */
static void a_twin_in_the_same_place_is_another_module(void **state)
{
	struct world *w = world();
	uint64_t a = atom(w, "a"), b = atom(w, "b"), f[] = { atom(w, "f"), atom(w, "g") };
	struct code_mfa mfa;
	struct code *c;

	module(w, slot(0), a, f);
	first_slots(w, 1);
	c = open_code(w);
	what(c, inside(w, slot(0), 1), "a:g/1", true);
	assert_false(code_replaced(c, inside(w, slot(0), 1), false));

	module(w, slot(0), b, f);
	assert_int_equal(code_refresh(c, NULL), 2);
	what(c, inside(w, slot(0), 1), "b:g/1", true);
	assert_true(code_replaced(c, inside(w, slot(0), 1), false));
	assert_int_equal(code_refresh(c, NULL), 0);

	/* and where there is no MD5 to be had, it is at least read */
	put_field(w, slot(0), w->vm.layout->BeamCodeHeader__md5_ptr, slot(0) - 8);
	assert_int_equal(code_refresh(c, NULL), 2);
	assert_true(code_lookup(c, inside(w, slot(0), 0), &mfa));
	assert_string_equal(mfa.name, "b:f/0");
	code_close(c);
	done(w);
}

static void the_watched_word(void **state)
{
	struct world *w = world();
	uint64_t f[] = { atom(w, "f"), atom(w, "g") }, mask;
	struct code *c;

	module(w, slot(0), f[0], f);
	first_slots(w, 1);
	c = open_code(w);
	assert_int_equal(code_watch(c, &mask), w->index);
	assert_int_equal(mask, UINT32_MAX);
	w->vm.anchors.v[A_CODE_INDEX].addr = 0;
	assert_int_equal(code_watch(c, &mask), 0);
	code_close(c);
	done(w);
}

static void damaged_tables_are_errors(void **state)
{
	struct world *w = world();
	uint64_t f[] = { atom(w, "f"), atom(w, "g") }, size = module_bytes(w);
	struct error err = { 0 };
	struct code *c;

	module(w, slot(0), f[0], f);
	module(w, slot(1), f[1], f);
	first_slots(w, 2);
	c = open_code(w);

	activate(w, 3);
	assert_int_equal(code_refresh(c, &err), -ENOTSUP);
	activate(w, 0);
	table_size(w, 0, 3, 2); /* more than there is room for */
	memset(&err, 0, sizeof(err));
	assert_int_equal(code_refresh(c, &err), -EAGAIN);
	assert_int_equal(err.code, EXIT_INCOMPLETE);
	table_size(w, 0, 1ull << 40, 1ull << 40);
	assert_int_equal(code_refresh(c, &err), -EAGAIN);
	table_size(w, 0, UINT64_MAX, UINT64_MAX);
	assert_int_equal(code_refresh(c, &err), -EAGAIN);
	table_size(w, 0, 100000, 100000); /* out of what can be read */
	assert_true(code_refresh(c, &err) < 0);
	first_slots(w, 2);
	entry(w, 0, 0, slot(5), slot(5) + size); /* not by address */
	assert_int_equal(code_refresh(c, &err), -EAGAIN);
	what(c, inside(w, slot(0), 0), "f:f/0", true); /* all the while */

	/* no modules: lengths that cannot be, then one that is not there */
	entry(w, 0, 0, slot(0), UINT64_MAX);
	entry(w, 0, 1, slot(1), slot(1) - 1);
	assert_int_equal(code_refresh(c, &err), 2);
	entry(w, 0, 0, 0x1000, 0x2000);
	assert_int_equal(code_refresh(c, &err), -EAGAIN);
	what(c, inside(w, slot(1), 0), "g:f/0", false);
	code_close(c);
	done(w);
}

/* Refreshes to one gap among two; the other module is there. */
static void gap(struct world *w, struct code *c)
{
	struct code_stats st;

	assert_true(code_refresh(c, NULL) >= 0);
	code_stats(c, &st);
	assert_int_equal(st.gaps, 1);
	assert_int_equal(st.modules, 1);
	what(c, inside(w, slot(0), 0), "f:f/0", true);
}

static void damaged_modules_are_gaps(void **state)
{
	struct world *w = world();
	const struct layout *l = w->vm.layout;
	uint64_t f[] = { atom(w, "f"), atom(w, "g") }, list, code;
	struct code *c;

	module(w, slot(0), f[0], f);
	module(w, slot(1), f[1], f);
	first_slots(w, 2);
	c = open_code(w);
	list = slot(1) + (uint64_t)l->BeamCodeHeader__functions.offset;
	code = list + 8ull * (FUNCTIONS + 1);

	put_field(w, slot(1), l->BeamCodeHeader__num_functions, 1ull << 60);
	gap(w, c);
	put_field(w, slot(1), l->BeamCodeHeader__num_functions, FUNCTIONS + 50);
	gap(w, c);
	module(w, slot(1), f[1], f);
	put64(w, slot(1) + (uint64_t)l->BeamCodeHeader__attr_ptr.offset, 1); /* another one */
	put64(w, list + 8, slot(3));					     /* not in the module */
	gap(w, c);
	put64(w, list + 8, code - 8); /* backwards */
	gap(w, c);
	module(w, slot(1), f[1], f);
	put_field(w, code, l->ErtsCodeInfo__mfa_arity, 256);
	put64(w, slot(1) + (uint64_t)l->BeamCodeHeader__attr_ptr.offset, 2);
	gap(w, c);
	module(w, slot(1), 0x1234567b, f); /* an atom that there is not */
	gap(w, c);
	module(w, slot(1), 0x30, f); /* no atom */
	gap(w, c);
	entry(w, 0, 1, slot(1), slot(1) + 8); /* shorter than any header */
	gap(w, c);
	entry(w, 0, 1, slot(1), slot(1) + module_bytes(w));
	module(w, slot(1), f[1], f);
	put_field(w, slot(1), l->BeamCodeHeader__line_table, slot(1) + 3);
	assert_true(code_refresh(c, NULL) > 0); /* lines are lost, functions are not */
	what(c, inside(w, slot(1), 1), "g:g/1", true);
	code_close(c);
	done(w);
}

#define TWINS 8
#define HOT   4 /* slots that they take turns in */

struct loader {
	struct world *w;
	uint64_t names[TWINS], f[FUNCTIONS];
	unsigned generation;
	bool stop;
};

/* The next generation, as the VM does it: a table that has been out of force for long is
 * filled, then it is in force; the memory of what was purged is used again. */
static void load_next(struct loader *l)
{
	unsigned g = ++l->generation, table = g % 3;
	struct world *w = l->w;

	memset(w->mem + (entries_at(w, table) - BASE), 0xff, ROOM * w->vm.layout->size_code_range);
	module(w, slot(1 + g % HOT), l->names[g % TWINS], l->f);
	/* Compiled anew each time. A million loads a second, as here, would else put the
	 * same module back while one look lasts. */
	put64(w, slot(1 + g % HOT) + module_bytes(w) - 16, g);
	entry(w, table, 0, slot(0), slot(0) + module_bytes(w));
	for (unsigned i = 1; i <= HOT; i++) { /* the two newest */
		bool there = i == 1 + g % HOT || i == 1 + (g - 1) % HOT;

		entry(w, table, i, slot(i), slot(i) + (there ? module_bytes(w) : 0));
	}
	table_size(w, table, 1 + HOT, ROOM);
	activate(w, table);
}

static void *loader_run(void *arg)
{
	struct loader *l = arg;

	while (!__atomic_load_n(&l->stop, __ATOMIC_ACQUIRE))
		load_next(l);
	return NULL;
}

/* Whatever is seen of a table that changes without pause, what has been there all the time
 * is known, and nothing has a name that has not been in that place. */
static void tables_that_change_under_us(void **state)
{
	struct world *w = world();
	struct loader l = { .w = w, .f = { atom(w, "f"), atom(w, "g") }, .generation = TWINS };
	uint64_t stays = atom(w, "stays");
	unsigned seen = 0, torn = 0;
	struct code_mfa mfa;
	pthread_t thread;
	struct code *c;
	char name[32];

	for (unsigned i = 0; i < TWINS; i++) {
		snprintf(name, sizeof(name), "twin%u", i);
		l.names[i] = atom(w, name);
	}
	module(w, slot(0), stays, l.f);
	load_next(&l);
	load_next(&l);
	c = open_code(w);
	assert_int_equal(pthread_create(&thread, NULL, loader_run, &l), 0);
	for (unsigned round = 0; seen < 200 && round < 1000000; round++) {
		int ret = code_refresh(c, NULL);

		assert_true(ret >= 0 || ret == -EAGAIN);
		torn += ret < 0;
		seen += ret > 0;
		assert_true(code_lookup(c, inside(w, slot(0), 0), &mfa));
		assert_string_equal(mfa.name, "stays:f/0");
		for (unsigned i = 1; i <= HOT; i++) {
			unsigned at;

			if (!code_lookup(c, inside(w, slot(i), 1), &mfa))
				continue;
			assert_int_equal(sscanf(mfa.name, "twin%u:g/1", &at), 1);
			assert_int_equal(at % HOT, i - 1);
		}
	}
	__atomic_store_n(&l.stop, true, __ATOMIC_RELEASE);
	pthread_join(thread, NULL);
	assert_int_equal(seen, 200);
	print_message("# %u generations, %u new, %u torn\n", l.generation, seen, torn);

	/* and when it has come to rest, all is known as it is */
	assert_true(code_refresh(c, NULL) >= 0);
	for (unsigned i = 0; i < 2; i++) {
		unsigned g = l.generation - i;

		snprintf(name, sizeof(name), "twin%u:g/1", g % TWINS);
		what(c, inside(w, slot(1 + g % HOT), 1), name, true);
	}
	what(c, inside(w, slot(0), 0), "stays:f/0", true);
	code_close(c);
	done(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_table_in_force_counts),
		cmocka_unit_test(a_twin_in_the_same_place_is_another_module),
		cmocka_unit_test(the_watched_word),
		cmocka_unit_test(damaged_tables_are_errors),
		cmocka_unit_test(damaged_modules_are_gaps),
		cmocka_unit_test(tables_that_change_under_us),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
