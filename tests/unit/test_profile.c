/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Profiles against a list kept without any hashing; symbols against what was
 * put in; names for addresses of our own process against dladdr().
 */
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

#include <cmocka.h>

#include "profile/demangle.h"
#include "profile/symbolize.h"

static uint32_t seed;

static uint32_t next_random(void)
{
	seed = seed * 1664525u + 1013904223u;
	return seed >> 8;
}

struct truth {
	struct frame frames[6];
	size_t n;
	uint64_t process;
	int label;
	bool complete;
	int64_t weight, gross;
	uint64_t count;
	bool several;
	uint32_t tid;
};

static const char *const labels[] = { NULL, "", "a", "my_server" };

static bool same(const struct truth *t, const struct profile_stack *s)
{
	size_t i;

	if (t->n != s->n || t->process != s->process || t->complete != s->complete ||
	    strcmp(labels[t->label] ? labels[t->label] : "", s->label ? s->label : "") != 0)
		return false;
	for (i = 0; i < t->n; i++)
		if (t->frames[i].addr != s->frames[i].addr ||
		    t->frames[i].kind != s->frames[i].kind)
			return false;
	return true;
}

/* Few addresses and many additions, so that most stacks come again. */
static void equal_stacks_are_one(void **state)
{
	struct truth *list = calloc(20000, sizeof(*list));
	struct profile *p = profile_new("growth", "bytes");
	int64_t total = 0;
	size_t n = 0, i, j, k;

	assert_non_null(list);
	seed = 7;
	for (i = 0; i < 20000; i++) {
		struct truth t = { .weight = (int64_t)(next_random() % 1000) - 500,
				   .gross = next_random() % 1000,
				   .count = 1 };

		t.n = next_random() % 6;
		for (j = 0; j < t.n; j++) {
			t.frames[j].addr = 0x1000 + next_random() % 3;
			t.frames[j].kind =
				(uint8_t)(next_random() % 2 ? FRAME_ERLANG : FRAME_NATIVE);
		}
		t.process = next_random() % 2;
		t.label = (int)(next_random() % 4);
		t.complete = next_random() % 2;
		t.tid = next_random() % 2;
		assert_int_equal(profile_add(p, t.frames, t.n, t.process, t.tid, labels[t.label],
					     t.complete, t.weight, t.gross, t.count),
				 0);
		total += t.weight;
		for (k = 0; k < n; k++) {
			struct profile_stack s = { .frames = t.frames,
						   .n = t.n,
						   .process = t.process,
						   .label = (char *)labels[t.label],
						   .complete = t.complete };

			if (same(&list[k], &s))
				break;
		}
		if (k == n) {
			list[n++] = t;
		} else {
			list[k].weight += t.weight;
			list[k].gross += t.gross;
			list[k].count++;
			list[k].several |= list[k].tid != t.tid;
		}
		if (i == 10000) /* additions go on after sorting */
			profile_sort(p);
	}
	assert_int_equal(p->n, n);
	assert_true(n > 1000 && n < 19000);
	assert_int_equal(profile_total(p), total);
	p->without_stack = 5;
	assert_int_equal(profile_total(p), total + 5);
	profile_sort(p);
	for (i = 0; i < p->n; i++) {
		const struct profile_stack *s = &p->stacks[i];

		for (k = 0; k < n && !same(&list[k], s); k++)
			;
		assert_true(k < n);
		assert_int_equal(s->weight, list[k].weight);
		assert_int_equal(s->gross, list[k].gross);
		assert_int_equal(s->count, list[k].count);
		assert_int_equal(s->tid, list[k].several ? 0 : list[k].tid);
		assert_true(!i || p->stacks[i - 1].weight >= s->weight);
	}
	profile_free(p);
	profile_free(NULL);
	free(list);
}

static void sums_stop_at_the_ends(void **state)
{
	struct profile *p = profile_new("growth", "bytes");
	struct frame f = { 1, FRAME_NATIVE };

	assert_int_equal(profile_add(p, &f, 1, 0, 0, NULL, true, INT64_MAX - 1, 0, 1), 0);
	assert_int_equal(profile_add(p, &f, 1, 0, 0, NULL, true, 100, 0, 1), 0);
	assert_true(p->stacks[0].weight == INT64_MAX);
	f.addr = 2;
	assert_int_equal(profile_add(p, &f, 1, 0, 0, NULL, true, 100, 0, 1), 0);
	assert_true(profile_total(p) == INT64_MAX);
	assert_int_equal(profile_add(p, &f, 1 << 20, 0, 0, NULL, true, 1, 0, 1), -E2BIG);
	profile_free(p);
}

static void instructions_and_return_addresses(void **state)
{
	struct frame frames[] = { { 1, FRAME_KERNEL },
				  { 2, FRAME_KERNEL },
				  { 3, FRAME_NATIVE },
				  { 4, FRAME_ERLANG },
				  { 5, FRAME_KERNEL } };
	struct profile_stack s = { .frames = frames, .n = 5 };

	assert_true(profile_frame_exact(&s, 0));
	assert_false(profile_frame_exact(&s, 1)); /* called the first */
	assert_true(profile_frame_exact(&s, 2));  /* where the kernel was entered */
	assert_false(profile_frame_exact(&s, 3));
	assert_false(profile_frame_exact(&s, 4));
	s.frames++;
	assert_true(profile_frame_exact(&s, 1));
}

static void symbols_come_back_as_they_were_put(void **state)
{
	struct symbols *s = symbols_new();
	char name[32];
	struct frame f[2] = { { 0, FRAME_NATIVE }, { 0, FRAME_NATIVE } };
	struct profile_stack stack = { .frames = f, .n = 2 };
	struct symbol_key key;
	const struct symbol *found;
	size_t i;

	assert_null(symbols_find(s, &stack, 0));
	for (i = 0; i < 3000; i++) {
		struct symbol outer = { .name = "outer", .kind = FRAME_NIF, .line = 7 };
		struct symbol one = { .name = name,
				      .module = i % 2 ? "lib.so" : NULL,
				      .kind = FRAME_NIF,
				      .offset = i,
				      .outer = i % 3 ? NULL : &outer };

		snprintf(name, sizeof(name), "f%zu", i);
		key = (struct symbol_key){ i / 2, FRAME_NATIVE, i & 1 };
		assert_int_equal(symbols_put(s, &key, &one), 0);
	}
	assert_int_equal(symbols_count(s), 3000);
	for (i = 0; i < 3000; i++) {
		f[0].addr = f[1].addr = i / 2;
		found = symbols_find(s, &stack, i & 1 ? 0 : 1); /* frame 0 is exact */
		assert_non_null(found);
		snprintf(name, sizeof(name), "f%zu", i);
		assert_string_equal(found->name, name);
		assert_int_equal(found->offset, i);
		assert_int_equal(found->outer != NULL, i % 3 == 0);
		if (found->outer)
			assert_string_equal(found->outer->name, "outer");
	}
	f[0].kind = FRAME_KERNEL;
	assert_null(symbols_find(s, &stack, 0));
	f[0].kind = FRAME_NATIVE;
	/* a key that is known is replaced */
	key = (struct symbol_key){ 0, FRAME_NATIVE, false };
	assert_int_equal(symbols_put(s, &key, &(struct symbol){ .name = "new" }), 0);
	assert_int_equal(symbols_count(s), 3000);
	f[1].addr = 0;
	assert_string_equal(symbols_find(s, &stack, 1)->name, "new");
	assert_string_equal(symbols_at(s, 0, &key)->name, "new");
	assert_null(symbols_at(s, 3000, &key));
	symbols_free(s);
	symbols_free(NULL);
}

/* ---- names of our own process ---------------------------------------------- */

struct own {
	struct target *target;
	struct mappings *maps;
	struct images *images;
	struct vm vm;
	struct symbolizer *z;
};

static void own_open(struct own *o)
{
	struct error err = { 0 };

	memset(o, 0, sizeof(*o));
	assert_int_equal(target_open(getpid(), &o->target, &err), 0);
	assert_int_equal(mappings_read(o->target, &o->maps, &err), 0);
	assert_int_equal(images_read(o->target, o->maps, &o->images, &err), 0);
	o->vm.target = o->target;
	o->vm.maps = o->maps;
	o->vm.images = o->images;
	o->vm.exe = images_exe(o->images);
	o->vm.exe_fd = -1;
	o->vm.layout = layout_find(27, "jit");
	assert_int_equal(symbolizer_new(&o->vm, NULL, o->images, &o->z, &err), 0);
}

static void own_close(struct own *o)
{
	symbolizer_free(o->z);
	images_free(o->images);
	mappings_free(o->maps);
	target_close(o->target);
}

static void exported_functions_have_their_names(void **state)
{
	static const char *const names[] = { "deflate", "inflate", "crc32", "adler32",
					     "qsort",	"getline", "fopen" };
	struct symbol s;
	struct own o;
	size_t i;

	own_open(&o);
	for (i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		char *addr = dlsym(RTLD_DEFAULT, names[i]), *end, path[PATH_MAX];
		Dl_info info;

		assert_non_null(addr);
		assert_true(dladdr(addr, &info) && info.dli_sname);
		/* AddressSanitizer puts its own in front of some of libc's */
		if (strstr(info.dli_fname, "san"))
			continue;
		assert_non_null(realpath(info.dli_fname, path)); /* as maps has it */
		end = strrchr(path, '/');
		assert_int_equal(symbolizer_symbol(o.z, (uint64_t)(uintptr_t)addr + 1, FRAME_NATIVE,
						   true, &s),
				 0);
		assert_non_null(s.name);
		/* an address may have several names */
		assert_ptr_equal(dlsym(RTLD_DEFAULT, s.name), addr);
		assert_string_equal(s.module, end + 1);
		assert_int_equal(s.kind, i < 4 ? FRAME_LIBRARY : FRAME_LIBC);
		symbol_clear(&s);
		/* the return address of a call right before it is not in it */
		assert_int_equal(symbolizer_symbol(o.z, (uint64_t)(uintptr_t)addr, FRAME_NATIVE,
						   false, &s),
				 0);
		assert_true(!s.name || strcmp(s.name, names[i]) != 0);
		symbol_clear(&s);
	}
	own_close(&o);
}

static void an_address_of_nothing_has_no_name(void **state)
{
	struct symbol s;
	struct own o;

	own_open(&o);
	assert_int_equal(symbolizer_symbol(o.z, 0x10, FRAME_NATIVE, true, &s), 0);
	assert_null(s.name);
	assert_null(s.module);
	assert_int_equal(s.offset, 0x10);
	assert_int_equal(symbolizer_kind(o.z, 0x10), FRAME_NATIVE);
	symbol_clear(&s);
	assert_int_equal(symbolizer_kind(o.z, (uint64_t)(uintptr_t)own_open), FRAME_ERTS);
	own_close(&o);
}

/* A function that no symbol covers: known by where .eh_frame says it begins, the
 * same for all its addresses; never by its neighbour's name. Made by the
 * compiler and stripped. */
static void a_nameless_function_is_its_beginning(void **state)
{
	char dir[] = "/tmp/beamray-symbols-XXXXXX", path[64], command[512];
	void *(*get)(void), *lib;
	struct symbol a, b;
	struct own o;
	uint64_t addr;
	FILE *f;

	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/x.c", dir);
	f = fopen(path, "w");
	assert_non_null(f);
	fputs("int nif_init(void) { return 1; }\n"
	      "static __attribute__((noinline, noclone)) long hidden(long n)\n"
	      "{ volatile long s = 0; for (long i = 0; i < n; i++) s += i * s + 3; return s; }\n"
	      "long use(long n) { return hidden(n) + 1; }\n"
	      "void *get(void) { return (void *)hidden; }\n",
	      f);
	fclose(f);
	snprintf(path, sizeof(path), "%s/x_nif.so", dir);
	snprintf(command, sizeof(command),
		 "cc -O1 -fPIC -shared -o %s %s/x.c 2>/dev/null && strip %s", path, dir, path);
	if (system(command) != 0)
		skip();
	lib = dlopen(path, RTLD_NOW);
	assert_non_null(lib);
	*(void **)&get = dlsym(lib, "get");
	assert_non_null(get);
	addr = (uint64_t)(uintptr_t)get();
	own_open(&o);
	assert_int_equal(symbolizer_symbol(o.z, addr + 4, FRAME_NATIVE, true, &a), 0);
	assert_int_equal(symbolizer_symbol(o.z, addr + 9, FRAME_NATIVE, false, &b), 0);
	assert_null(a.name);
	assert_null(b.name);
	assert_string_equal(a.module, "x_nif.so");
	assert_int_equal(a.kind, FRAME_NIF); /* it defines nif_init */
	assert_int_equal(a.offset, b.offset);
	assert_int_equal(a.offset, addr - image_bias(images_find(o.images, addr)));
	symbol_clear(&a);
	symbol_clear(&b);
	own_close(&o);
	dlclose(lib);
	snprintf(command, sizeof(command), "rm -r %s", dir);
	assert_int_equal(system(command), 0);
}

static void a_profile_is_named_once(void **state)
{
	struct profile *p = profile_new("cpu", "samples");
	struct symbols *s = symbols_new();
	struct error err = { 0 };
	struct own o;
	struct frame f[] = { { (uint64_t)(uintptr_t)crc32 + 1, FRAME_NATIVE },
			     { 77, FRAME_CUT },
			     { (uint64_t)(uintptr_t)deflate + 9, FRAME_NATIVE },
			     { 0x10, FRAME_NATIVE },
			     { 0xffffffffffff0000ull, FRAME_KERNEL } };

	own_open(&o);
	assert_int_equal(profile_add(p, f, 5, 0, 0, NULL, true, 1, 1, 1), 0);
	assert_int_equal(profile_add(p, f, 3, 0, 0, NULL, true, 1, 1, 1), 0);
	assert_int_equal(profile_symbolize(p, o.z, s, &err), 0);
	assert_int_equal(symbols_count(s), 4); /* a cut is no address */
	assert_int_equal(profile_symbolize(p, o.z, s, &err), 0);
	assert_int_equal(symbols_count(s), 4);
	own_close(&o);
	/* the target is not needed any more */
	assert_string_equal(symbols_find(s, &p->stacks[0], 0)->name, "crc32");
	assert_string_equal(symbols_find(s, &p->stacks[0], 2)->name, "deflate");
	assert_null(symbols_find(s, &p->stacks[0], 1));
	assert_null(symbols_find(s, &p->stacks[0], 3)->name);
	assert_int_equal(symbols_find(s, &p->stacks[0], 4)->kind, FRAME_KERNEL);
	symbols_free(s);
	profile_free(p);
}

/* Names that compilers made, and what somebody could have written there. */
static void names_are_as_in_the_source(void **state)
{
	static const char *const names[][2] = {
		{ "_ZN5store4PoolIiE4growEm", "store::Pool<int>::grow" },
		{ "_ZN12_GLOBAL__N_14leakEv", "(anonymous namespace)::leak" },
		{ "_ZNK3foo3barEi", "foo::bar" },
		{ "_RNvNtCs1234_7mycrate3foo3bar", "mycrate::foo::bar" },
		{ "_ZN7mycrate3foo17h05af221e174051e9E", "mycrate::foo" },
		{ "leak_malloc", "leak_malloc" },
		{ "_Znonsense", "_Znonsense" },
		{ "_Z", "_Z" },
		{ "", "" },
		{ "_ZN1a\x1b[31mE", "_ZN1a\\x1B[31mE" },
	};
	char *name, deep[2100] = "_Z1f";
	size_t i;
	unsigned n;

	for (i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		name = symbol_plain_name(names[i][0]);
		assert_string_equal(name, names[i][1]);
		free(name);
	}
	/* pointers to pointers, templates of templates, and rubbish: an end, no more */
	memset(deep + 4, 'P', 2000);
	free(symbol_plain_name(deep));
	for (i = 0; i + 3 < 2000; i += 3)
		memcpy(deep + 2 + i, "1aI", 3);
	free(symbol_plain_name(deep));
	seed = 23;
	for (n = 0; n < 20000; n++) {
		static const char letters[] = "_ZNKIEPRSt0123456789abcdmvisXLDpC.$";
		char text[64] = "_Z";
		size_t len = 2 + next_random() % 60;

		text[1] = n % 3 ? 'Z' : 'R';
		for (i = 2; i < len; i++)
			text[i] = letters[next_random() % (sizeof(letters) - 1)];
		name = symbol_plain_name(text);
		assert_non_null(name);
		free(name);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(equal_stacks_are_one),
		cmocka_unit_test(sums_stop_at_the_ends),
		cmocka_unit_test(instructions_and_return_addresses),
		cmocka_unit_test(symbols_come_back_as_they_were_put),
		cmocka_unit_test(exported_functions_have_their_names),
		cmocka_unit_test(an_address_of_nothing_has_no_name),
		cmocka_unit_test(a_nameless_function_is_its_beginning),
		cmocka_unit_test(a_profile_is_named_once),
		cmocka_unit_test(names_are_as_in_the_source),
	};

	return cmocka_run_group_tests_name("profile", tests, NULL, NULL);
}
