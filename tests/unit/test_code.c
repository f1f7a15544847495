/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Code addresses: JIT descriptors made here, byte by byte after gdb's interface
 * and beam_jit_metadata.cpp, whole, changing and damaged.
 */
#include <errno.h>
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
#include "erts/code_store.h"

#define BASE	  0x7f0000000000ull
#define BYTES	  (256u << 10)
#define CODE	  0x7f1000000000ull
#define EXIT_ADDR (CODE + 0x40)

/* A target that is one buffer; addresses are BASE + offset. */
struct world {
	unsigned char mem[BYTES];
	size_t used;
	struct target_buffer buffer;
	struct target *target;
	struct vm vm;
	uint64_t descriptor;
	uint64_t first; /* of the list */
};

struct text { /* what is being written */
	unsigned char v[16384];
	size_t n;
};

static void world_init(struct world *w)
{
	memset(w, 0, sizeof(*w));
	w->buffer = (struct target_buffer){ BASE, w->mem, BYTES };
	assert_int_equal(target_open_buffers(&w->buffer, 1, &w->target), 0);
	w->vm.target = w->target;
	w->vm.layout = layout_find(27, "jit");
	assert_non_null(w->vm.layout);
	w->used = 64;
	w->descriptor = BASE + w->used;
	w->used += 24;
	w->vm.anchors.v[A_JIT_DESCRIPTOR].addr = w->descriptor;
	w->vm.jit = true;
	w->mem[w->descriptor - BASE] = 1; /* version */
}

static void world_done(struct world *w)
{
	target_close(w->target);
	free(w);
}

static struct world *world(void)
{
	struct world *w = malloc(sizeof(*w));

	assert_non_null(w);
	world_init(w);
	return w;
}

static void put64(struct world *w, uint64_t addr, uint64_t v)
{
	memcpy(w->mem + (addr - BASE), &v, 8);
}

static uint64_t get64(struct world *w, uint64_t addr)
{
	uint64_t v;

	memcpy(&v, w->mem + (addr - BASE), 8);
	return v;
}

/* Takes memory for `n` bytes, and fills it. */
static uint64_t take(struct world *w, const void *data, size_t n)
{
	uint64_t addr;

	w->used = (w->used + 15) & ~15ull;
	addr = BASE + w->used;
	assert_true(w->used + n <= BYTES);
	if (data)
		memcpy(w->mem + w->used, data, n);
	w->used += n;
	return addr;
}

/* Puts an entry at the head of the list. */
static void link_entry(struct world *w, uint64_t entry, uint64_t symfile, uint64_t size)
{
	put64(w, entry, w->first);
	put64(w, entry + 8, 0);
	put64(w, entry + 16, symfile);
	put64(w, entry + 24, size);
	if (w->first)
		put64(w, w->first + 8, entry);
	w->first = entry;
	put64(w, w->descriptor + 16, entry);
}

static uint64_t add_entry(struct world *w, const struct text *t)
{
	uint64_t symfile = take(w, t->v, t->n), entry = take(w, NULL, 32);

	link_entry(w, entry, symfile, t->n);
	return entry;
}

static void unlink_entry(struct world *w, uint64_t entry)
{
	uint64_t next = get64(w, entry), prev = get64(w, entry + 8);

	if (next)
		put64(w, next + 8, prev);
	if (prev) {
		put64(w, prev, next);
	} else {
		w->first = next;
		put64(w, w->descriptor + 16, next);
	}
}

static void raw(struct text *t, const void *data, size_t n)
{
	assert_true(t->n + n <= sizeof(t->v));
	memcpy(t->v + t->n, data, n);
	t->n += n;
}

static void u16(struct text *t, uint16_t v)
{
	raw(t, &v, sizeof(v));
}

static void u32(struct text *t, uint32_t v)
{
	raw(t, &v, sizeof(v));
}

static void u64(struct text *t, uint64_t v)
{
	raw(t, &v, sizeof(v));
}

static void zeroes(struct text *t, size_t n)
{
	static const unsigned char zero[16];

	raw(t, zero, n);
}

static void begin(struct text *t, uint64_t base, uint32_t size, uint32_t ranges, const char *name)
{
	t->n = 0;
	u32(t, 1);
	u32(t, 0xdead); /* padding holds anything */
	u64(t, base);
	u32(t, ranges);
	u32(t, size);
	u16(t, (uint16_t)(strlen(name) + 1));
	raw(t, name, strlen(name) + 1);
	zeroes(t, 6);
}

static void range(struct text *t, uint32_t start, uint32_t end, uint32_t lines, const char *name)
{
	u32(t, start);
	u32(t, end);
	u32(t, lines);
	u16(t, (uint16_t)(strlen(name) + 1));
	raw(t, name, strlen(name) + 1);
	zeroes(t, 2);
}

static void line(struct text *t, uint32_t offset, uint32_t number, const char *file)
{
	u32(t, offset);
	u32(t, number);
	u16(t, (uint16_t)(strlen(file) + 1));
	raw(t, file, strlen(file) + 1);
	zeroes(t, 2);
}

static void header(struct text *t, uint32_t layout, uint64_t normal_exit)
{
	t->n = 0;
	u32(t, 0);
	u32(t, 0);
	u32(t, layout);
	u32(t, 0);
	u64(t, normal_exit);
	u64(t, 0x1234); /* rest of the union */
}

/* A module of the usual shape: 0x100 bytes of head, two functions, a foot. */
static void usual(struct text *t, uint64_t base, const char *name)
{
	char f[128];

	begin(t, base, 0x400, 6, name);
	snprintf(f, sizeof(f), "%s::codeHeader", name);
	range(t, 0, 0x100, 0, f);
	snprintf(f, sizeof(f), "%s:run/1-CodeInfoPrologue", name);
	range(t, 0x100, 0x130, 0, f);
	snprintf(f, sizeof(f), "%s:run/1", name);
	range(t, 0x130, 0x200, 2, f);
	line(t, 0x12e, 10, "a.erl");
	line(t, 0x180, 12, "b.hrl");
	snprintf(f, sizeof(f), "%s:'odd\nname'/0-CodeInfoPrologue", name);
	range(t, 0x200, 0x230, 0, f);
	snprintf(f, sizeof(f), "%s:'odd\nname'/0", name);
	range(t, 0x230, 0x300, 0, f);
	snprintf(f, sizeof(f), "%s::codeFooter", name);
	range(t, 0x300, 0x400, 0, f);
}

static void add_usual(struct world *w, uint64_t base, const char *name)
{
	struct text t;

	usual(&t, base, name);
	add_entry(w, &t);
}

static void add_fragments(struct world *w)
{
	struct text t;

	begin(&t, CODE, 0x100, 2, "global");
	range(&t, 0, 0x40, 0, "global::apply_fun_shared");
	range(&t, 0x40, 0x100, 0, "global::garbage_collect");
	add_entry(w, &t);
	header(&t, 1, EXIT_ADDR);
	add_entry(w, &t);
}

static void functions_lines_and_fragments(void **state)
{
	struct world *w = world();
	struct code_range r;
	struct code_mfa mfa;
	struct code_stats st;
	struct code *c;

	add_fragments(w);
	add_usual(w, CODE + 0x1000, "m");
	c = code_of(&w->vm);
	code_is(c, CODE + 0x1000 - 1, NULL);
	code_is(c, CODE + 0x1000, "m::codeHeader");
	code_is(c, CODE + 0x10ff, "m::codeHeader");
	code_is(c, CODE + 0x1100, "m:run/1"); /* its prologue */
	code_is(c, CODE + 0x1130, "m:run/1");
	code_is(c, CODE + 0x11ff, "m:run/1");
	code_is(c, CODE + 0x1200, "m:'odd\\x0Aname'/0");
	code_is(c, CODE + 0x13ff, "m::codeFooter");
	code_is(c, CODE + 0x1400, NULL);
	code_is(c, 0, NULL);
	code_is(c, UINT64_MAX, NULL);

	/* a return address belongs to the call before it */
	assert_true(code_lookup_return(c, CODE + 0x1200, &mfa));
	assert_string_equal(mfa.name, "m:run/1");
	assert_true(mfa.function && mfa.loaded);
	assert_string_equal(mfa.module, "m");
	assert_string_equal(mfa.file, "b.hrl");
	assert_int_equal(mfa.line, 12);
	assert_true(code_lookup_return(c, CODE + 0x1180, &mfa));
	assert_string_equal(mfa.file, "a.erl");
	assert_int_equal(mfa.line, 10);
	assert_true(code_lookup_return(c, CODE + 0x1181, &mfa));
	assert_int_equal(mfa.line, 12);
	assert_true(code_lookup(c, CODE + 0x1110, &mfa)); /* before the first line */
	assert_null(mfa.file);
	assert_int_equal(mfa.line, 0);

	assert_int_equal(code_fragment(c, "global::garbage_collect", &r), 0);
	assert_int_equal(r.start, CODE + 0x40);
	assert_int_equal(r.end, CODE + 0x100);
	assert_int_equal(code_fragment(c, "global::nothing", &r), -ENOENT);
	assert_true(code_lookup(c, CODE + 0x50, &mfa));
	assert_false(mfa.function);

	assert_int_equal(code_normal_exit(c), EXIT_ADDR);
	assert_int_equal(code_frame_layout(c), CODE_FRAME_FP_RA);
	code_stats(c, &st);
	assert_int_equal(st.modules, 1);
	assert_int_equal(st.functions, 2);
	assert_int_equal(st.code_bytes, 0x400);
	assert_int_equal(st.gaps, 0);
	code_close(c);
	world_done(w);
}

static void an_erlang_module_may_be_named_global(void **state)
{
	struct world *w = world();
	struct code_range r;
	struct code_stats st;
	struct code *c;

	add_fragments(w);
	add_usual(w, CODE + 0x1000, "global");
	add_usual(w, CODE + 0x2000, "erts_beamasm");
	c = code_of(&w->vm);
	assert_int_equal(code_fragment(c, "global::garbage_collect", &r), 0);
	assert_int_equal(code_fragment(c, "global::codeHeader", &r), -ENOENT);
	code_is(c, CODE + 0x1150, "global:run/1");
	code_stats(c, &st);
	assert_int_equal(st.modules, 1);
	assert_int_equal(st.code_bytes, 0x400); /* global's; not the VM's own */
	code_close(c);
	world_done(w);
}

static void ranges_join_over_small_gaps(void **state)
{
	struct world *w = world();
	struct code_range *v;
	struct code *c;

	add_fragments(w);
	add_usual(w, CODE + 0x100, "a"); /* touches the fragments */
	add_usual(w, CODE + 0x600, "b"); /* 0x100 behind a */
	add_usual(w, CODE + 0x100000, "c");
	c = code_of(&w->vm);
	assert_int_equal(code_ranges(c, 0, &v), 3);
	assert_int_equal(v[0].start, CODE);
	assert_int_equal(v[0].end, CODE + 0x500);
	assert_int_equal(v[1].start, CODE + 0x600);
	free(v);
	assert_int_equal(code_ranges(c, 0x100, &v), 2);
	assert_int_equal(v[0].end, CODE + 0xa00);
	assert_int_equal(v[1].start, CODE + 0x100000);
	free(v);
	assert_int_equal(code_ranges(c, 1 << 30, &v), 1);
	free(v);
	code_close(c);
	world_done(w);
}

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void purged_code_stays_known(void **state)
{
	struct world *w = world();
	struct code_mfa mfa;
	struct code_stats st;
	struct text t;
	uint64_t old, before, after;
	struct code *c;

	add_fragments(w);
	usual(&t, CODE + 0x1000, "old");
	old = add_entry(w, &t);
	c = code_of(&w->vm);
	before = now();
	assert_int_equal(code_refresh(c, NULL), 0);

	unlink_entry(w, old);
	assert_int_equal(code_refresh(c, NULL), 1);
	assert_true(code_lookup(c, CODE + 0x1150, &mfa));
	assert_string_equal(mfa.name, "old:run/1");
	assert_false(mfa.loaded);
	code_stats(c, &st);
	assert_int_equal(st.modules, 0);
	assert_int_equal(st.purged, 1);

	/* other code at the same place: the newest wins, unless a time is given */
	add_usual(w, CODE + 0x1080, "new");
	assert_int_equal(code_refresh(c, NULL), 1);
	after = now();
	code_is(c, CODE + 0x1150, "new::codeHeader");
	code_is(c, CODE + 0x1040, "old::codeHeader"); /* where there is nothing newer */
	assert_true(code_lookup_at(c, CODE + 0x1150, false, before, &mfa));
	assert_string_equal(mfa.name, "old:run/1");
	assert_true(code_lookup_at(c, CODE + 0x1150, false, after, &mfa));
	assert_string_equal(mfa.name, "new::codeHeader");
	assert_int_equal(code_refresh(c, NULL), 0);
	code_close(c);
	world_done(w);
}

/* The VM frees an entry and its symfile, and malloc gives both out again for the
 * next load of the same module: same addresses, same size, same first bytes. */
static void memory_used_again_is_no_old_acquaintance(void **state)
{
	struct world *w = world();
	struct text t;
	uint64_t entry, symfile, size;
	struct code *c;

	add_fragments(w);
	begin(&t, CODE + 0x1000, 0x100, 1, "m");
	range(&t, 0, 0x100, 0,
	      "m:this_function_has_a_name_that_is_rather_long_so_that_it_ends_late_a/1");
	entry = add_entry(w, &t);
	symfile = get64(w, entry + 16);
	size = get64(w, entry + 24);
	add_usual(w, CODE + 0x2000, "other");
	c = code_of(&w->vm);
	code_is(c, CODE + 0x1010,
		"m:this_function_has_a_name_that_is_rather_long_so_that_it_ends_late_a/1");

	unlink_entry(w, entry);
	begin(&t, CODE + 0x1000, 0x100, 1, "m");
	range(&t, 0, 0x100, 0,
	      "m:this_function_has_a_name_that_is_rather_long_so_that_it_ends_late_b/1");
	assert_int_equal(t.n, size);
	memcpy(w->mem + (symfile - BASE), t.v, t.n);
	link_entry(w, entry, symfile, size); /* at the head now */
	assert_int_equal(code_refresh(c, NULL), 2);
	code_is(c, CODE + 0x1010,
		"m:this_function_has_a_name_that_is_rather_long_so_that_it_ends_late_b/1");
	code_close(c);
	world_done(w);
}

/* Also where entries go, their going may be seen after the coming of what took
 * their place. */
static void the_newest_of_overlapping_entries_wins(void **state)
{
	struct world *w = world();
	struct code_range *v;
	struct code_mfa mfa;
	struct code *c;

	add_fragments(w);
	add_usual(w, CODE + 0x1000, "first");
	add_usual(w, CODE + 0x1200, "second");
	add_usual(w, CODE + 0x1400, "third");
	add_usual(w, CODE + 0x3000, "apart");
	c = code_of(&w->vm);
	code_is(c, CODE + 0x1550, "third:run/1");
	/* first must have gone before second could be loaded over its end */
	assert_true(code_lookup(c, CODE + 0x1150, &mfa));
	assert_string_equal(mfa.name, "first:run/1");
	assert_false(mfa.loaded);
	assert_int_equal(code_ranges(c, 0, &v), 3); /* fragments, third, apart */
	free(v);
	assert_int_equal(code_refresh(c, NULL), 0);
	code_is(c, CODE + 0x1350, "second:run/1"); /* between first's body and third */
	code_close(c);
	world_done(w);
}

/* There a node that reloads its code has a list that grows for ever: what has
 * been seen is not read again, and what is overwritten takes bounded memory. */
static void a_list_that_only_grows_is_not_read_again(void **state)
{
	struct world *w = world();
	struct target_io before, after;
	struct code_stats st;
	struct code_mfa mfa;
	struct text t;
	struct code *c;
	char name[32];
	unsigned i;

	w->vm.layout = layout_find(25, "jit");
	assert_non_null(w->vm.layout);
	add_fragments(w);
	for (i = 0; i < 100; i++) { /* before we came: one on top of the other */
		snprintf(name, sizeof(name), "m%u", i);
		add_usual(w, CODE + 0x1000 + 0x400 * (i % 4), name);
	}
	c = code_of(&w->vm);
	code_stats(c, &st);
	assert_int_equal(st.modules, 4);
	assert_int_equal(st.purged, 0); /* overwritten ones were not even read */
	code_is(c, CODE + 0x1000 + 0x150, "m96:run/1");
	code_is(c, CODE + 0x1c00 + 0x150, "m99:run/1");
	for (i = 100; i < 110; i++) {
		snprintf(name, sizeof(name), "m%u", i);
		usual(&t, CODE + 0x1200, name); /* over parts of two others */
		add_entry(w, &t);
		target_io(w->target, &before);
		assert_int_equal(code_refresh(c, NULL), 1);
		target_io(w->target, &after);
		assert_true(after.reads - before.reads < 10);
	}
	code_stats(c, &st);
	assert_int_equal(st.modules, 3);
	assert_int_equal(st.purged, 11);
	code_is(c, CODE + 0x1350, "m109:run/1");
	assert_true(code_lookup(c, CODE + 0x1050, &mfa)); /* m96, whose end is overwritten */
	assert_string_equal(mfa.name, "m96::codeHeader");
	assert_false(mfa.loaded);
	code_is(c, CODE + 0x1c00 + 0x150, "m99:run/1");
	target_io(w->target, &before);
	assert_int_equal(code_refresh(c, NULL), 0);
	target_io(w->target, &after);
	assert_true(after.reads - before.reads < 5);
	code_close(c);
	world_done(w);
}

static int open_fails(struct world *w)
{
	struct error err = { 0 };
	struct code *c = NULL;
	int ret = code_open(&w->vm, &c, &err);

	if (ret < 0) {
		assert_null(c);
		assert_true(err.text[0]);
	} else {
		code_close(c);
	}
	return ret;
}

static void a_damaged_list_is_an_error(void **state)
{
	struct world *w = world();
	uint64_t first, second, keep;

	add_usual(w, CODE, "a");
	second = w->first;
	add_usual(w, CODE + 0x1000, "b");
	first = w->first;
	assert_int_equal(open_fails(w), 0);

	put64(w, second + 8, first + 8); /* prev does not lead back */
	assert_int_equal(open_fails(w), -EAGAIN);
	put64(w, second + 8, first);
	put64(w, second, second); /* itself */
	assert_int_equal(open_fails(w), -EAGAIN);
	put64(w, second, first); /* a cycle; first's prev is not checked at the head */
	assert_int_equal(open_fails(w), -EAGAIN);
	put64(w, first + 8, second); /* a cycle that is right in every link */
	assert_int_equal(open_fails(w), -EAGAIN);
	put64(w, second, 0x1000); /* nowhere */
	assert_int_equal(open_fails(w), -EAGAIN);
	put64(w, second, 0);
	keep = get64(w, second + 24);
	put64(w, second + 24, UINT64_MAX);
	assert_int_equal(open_fails(w), -EAGAIN);
	put64(w, second + 24, keep);
	assert_int_equal(open_fails(w), 0);

	w->mem[w->descriptor - BASE] = 7; /* another version of the interface */
	assert_int_equal(open_fails(w), -ENOTSUP);
	world_done(w);
}

static void one_damaged_module_is_a_gap(void **state)
{
	struct world *w = world();
	struct code_stats st;
	uint64_t entry, symfile, size;
	struct text t;
	struct code *c;

	add_fragments(w);
	usual(&t, CODE + 0x1000, "bad");
	entry = add_entry(w, &t);
	symfile = get64(w, entry + 16);
	size = get64(w, entry + 24);
	add_usual(w, CODE + 0x2000, "good");

	put64(w, entry + 24, size - 1); /* one byte short */
	c = code_of(&w->vm);
	code_stats(c, &st);
	assert_int_equal(st.gaps, 1);
	assert_int_equal(st.modules, 1);
	assert_true(st.retries > 0);
	code_is(c, CODE + 0x2150, "good:run/1");
	code_is(c, CODE + 0x1150, NULL);

	put64(w, entry + 24, size + 1); /* one byte too many */
	assert_int_equal(code_refresh(c, NULL), 0);
	code_stats(c, &st);
	assert_int_equal(st.gaps, 1);

	put64(w, entry + 24, size); /* repaired, as when it was only torn */
	assert_int_equal(code_refresh(c, NULL), 1);
	code_stats(c, &st);
	assert_int_equal(st.gaps, 0);
	code_is(c, CODE + 0x1150, "bad:run/1");

	/* unreadable: what was known stays */
	put64(w, w->descriptor + 16, 8);
	assert_int_equal(code_refresh(c, NULL), -EAGAIN);
	code_is(c, CODE + 0x1150, "bad:run/1");
	code_close(c);
	(void)symfile;
	world_done(w);
}

/* Parses exactly `n` bytes, in a block of that size for the sanitizer. */
static int parse(const unsigned char *data, size_t n, struct code_module **out)
{
	struct code_jit_header h = { 0 };
	struct code_builder b = { 0 };
	unsigned char *copy = malloc(n ? n : 1);
	int ret;

	assert_non_null(copy);
	memcpy(copy, data, n);
	ret = code_jit_parse(&b, copy, n, out, &h);
	builder_free(&b);
	free(copy);
	return ret;
}

static void every_truncation_is_refused(void **state)
{
	struct code_module *m;
	struct text t;
	size_t n;

	usual(&t, CODE, "m");
	assert_int_equal(parse(t.v, t.n, &m), 0);
	assert_int_equal(m->n_funcs, 4); /* header, two functions, footer */
	code_module_free(m);
	for (n = 0; n < t.n; n++) {
		assert_int_equal(parse(t.v, n, &m), -EAGAIN);
		assert_null(m);
	}
	t.v[t.n] = 0;
	assert_int_equal(parse(t.v, t.n + 1, &m), -EAGAIN);
}

static void contradictions_are_refused(void **state)
{
	struct code_module *m;
	struct text t;

	begin(&t, CODE, 0x100, 1, "m");
	range(&t, 0x80, 0x40, 0, "m:f/1"); /* ends before it starts */
	assert_int_equal(parse(t.v, t.n, &m), -EAGAIN);
	begin(&t, CODE, 0x100, 1, "m");
	range(&t, 0x80, 0x101, 0, "m:f/1"); /* beyond the code */
	assert_int_equal(parse(t.v, t.n, &m), -EAGAIN);
	begin(&t, CODE, 0x100, 2, "m");
	range(&t, 0, 0x80, 0, "m:f/1");
	range(&t, 0x40, 0x100, 0, "m:g/1"); /* overlap */
	assert_int_equal(parse(t.v, t.n, &m), -EAGAIN);
	begin(&t, CODE, 0x100, 1, "m");
	range(&t, 0, 0x80, 0x7fffffff, "m:f/1"); /* lines that are not there */
	assert_int_equal(parse(t.v, t.n, &m), -EAGAIN);
	begin(&t, UINT64_MAX - 0x10, 0x100, 0, "m"); /* around the end of memory */
	assert_int_equal(parse(t.v, t.n, &m), -EAGAIN);
	begin(&t, CODE, 0x100, 2, "m"); /* out of order is no contradiction */
	range(&t, 0x80, 0x100, 0, "m:g/1");
	range(&t, 0, 0x80, 0, "m:f/1");
	assert_int_equal(parse(t.v, t.n, &m), 0);
	assert_string_equal(m->strings + m->funcs[0].name, "m:f/1");
	code_module_free(m);
}

static void purged_code_takes_bounded_memory(void **state)
{
	struct world *w = world();
	struct code_stats st;
	struct text *t = malloc(sizeof(*t));
	uint64_t entry = 0, symfile;
	struct code *c;
	char name[32];
	unsigned i, j;

	assert_non_null(t);
	add_fragments(w);
	c = code_of(&w->vm);
	symfile = take(w, NULL, 12000);
	entry = take(w, NULL, 32);
	for (i = 0; i < 3000; i++) { /* the same module, loaded anew again and again */
		begin(t, CODE + 0x1000 + 0x4000 * (uint64_t)(i % 50), 0x4000, 300, "m");
		for (j = 0; j < 300; j++) {
			snprintf(name, sizeof(name), "m:f%05u_%03u/1", i, j);
			range(t, j * 16, j * 16 + 16, 0, name);
		}
		assert_true(t->n <= 12000);
		memcpy(w->mem + (symfile - BASE), t->v, t->n);
		if (i)
			unlink_entry(w, entry);
		link_entry(w, entry, symfile, t->n);
		assert_true(code_refresh(c, NULL) >= 1);
	}
	code_stats(c, &st);
	assert_int_equal(st.modules, 1);
	assert_true(st.dropped > 0);
	assert_true(st.purged > 500);
	assert_true(st.memory_bytes < CODE_PURGED_MAX + (1u << 20));
	code_is(c, CODE + 0x1000 + 0x4000 * (2999 % 50), "m:f02999_000/1");
	code_is(c, CODE + 0x1000 + 0x4000 * (2998 % 50), "m:f02998_000/1"); /* purged */
	code_close(c);
	free(t);
	world_done(w);
}

static uint32_t seed;

static uint32_t next_random(void)
{
	seed = seed * 1664525u + 1013904223u;
	return seed >> 8;
}

/* Random damage anywhere: an answer or an error, always in bounded time, and
 * every text that comes out is there. */
static void fuzzed_lists_are_survived(void **state)
{
	struct world *w = world();
	unsigned char *good = malloc(BYTES);
	struct timespec t0, t1;
	size_t used;
	unsigned i, j, opened = 0;

	assert_non_null(good);
	add_fragments(w);
	for (i = 0; i < 6; i++)
		add_usual(w, CODE + 0x1000 * (i + 1), i % 2 ? "odd" : "even");
	memcpy(good, w->mem, BYTES);
	used = w->used;
	seed = 20240601;
	clock_gettime(CLOCK_MONOTONIC, &t0);
	for (i = 0; i < 4000; i++) {
		struct code *c = NULL;
		unsigned n = 1 + next_random() % 4;

		memcpy(w->mem, good, used);
		for (j = 0; j < n; j++)
			w->mem[next_random() % used] = (unsigned char)next_random();
		if (code_open(&w->vm, &c, NULL))
			continue;
		opened++;
		memcpy(w->mem, good, used);
		w->mem[next_random() % used] ^= (unsigned char)(1u << next_random() % 8);
		code_refresh(c, NULL);
		for (j = 0; j < 64; j++) {
			struct code_mfa mfa;
			uint64_t addr = CODE + next_random() % 0x8000;

			if (!code_lookup_at(c, addr, j & 1, j & 2 ? now() : 0, &mfa))
				continue;
			assert_true(strlen(mfa.name) < CODE_NAME_MAX);
			assert_true(strlen(mfa.module) < CODE_NAME_MAX);
			assert_true(!mfa.file || strlen(mfa.file) < CODE_NAME_MAX);
			assert_true(mfa.start < mfa.end);
		}
		code_close(c);
	}
	clock_gettime(CLOCK_MONOTONIC, &t1);
	assert_true(opened > 1000); /* most damage is to padding and texts */
	assert_true(opened < 4000);
	assert_true(t1.tv_sec - t0.tv_sec < 60);
	free(good);
	world_done(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(functions_lines_and_fragments),
		cmocka_unit_test(an_erlang_module_may_be_named_global),
		cmocka_unit_test(ranges_join_over_small_gaps),
		cmocka_unit_test(purged_code_stays_known),
		cmocka_unit_test(memory_used_again_is_no_old_acquaintance),
		cmocka_unit_test(the_newest_of_overlapping_entries_wins),
		cmocka_unit_test(a_list_that_only_grows_is_not_read_again),
		cmocka_unit_test(a_damaged_list_is_an_error),
		cmocka_unit_test(one_damaged_module_is_a_gap),
		cmocka_unit_test(every_truncation_is_refused),
		cmocka_unit_test(contradictions_are_refused),
		cmocka_unit_test(purged_code_takes_bounded_memory),
		cmocka_unit_test(fuzzed_lists_are_survived),
	};

	return cmocka_run_group_tests_name("code", tests, NULL, NULL);
}
