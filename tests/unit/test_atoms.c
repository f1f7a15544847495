/* SPDX-License-Identifier: Apache-2.0 */
/* Beginnings that many atoms share: tables of atoms made here, texts of all kinds. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "erts/atoms.h"

#define BASE  0x7f0000000000ull
#define BYTES (8u << 20)
#define MOST  20000u

struct world {
	unsigned char *mem;
	size_t used;
	uint64_t table, segs;
	uint32_t n;
	struct target_buffer buffer;
	struct target *target;
	struct vm vm;
};

static uint64_t take(struct world *w, size_t n)
{
	uint64_t addr = BASE + w->used;

	w->used += (n + 7) & ~7ull;
	assert_true(w->used <= BYTES);
	return addr;
}

static void put(struct world *w, uint64_t addr, const void *v, size_t n)
{
	memcpy(w->mem + (addr - BASE), v, n);
}

static void put_field(struct world *w, uint64_t base, struct layout_field f, uint64_t v)
{
	put(w, base + (uint64_t)f.offset, &v, f.size);
}

static struct world *world(void)
{
	struct world *w = calloc(1, sizeof(*w));

	assert_non_null(w);
	w->mem = calloc(1, BYTES);
	assert_non_null(w->mem);
	w->used = 4096;
	w->buffer = (struct target_buffer){ BASE, w->mem, BYTES };
	assert_int_equal(target_open_buffers(&w->buffer, 1, &w->target), 0);
	w->vm.target = w->target;
	w->vm.layout = layout_find(25, NULL);
	w->vm.exe_fd = -1;
	w->table = take(w, w->vm.layout->size_IndexTable);
	w->segs = take(w, 8 * (MOST / 1024 + 1));
	w->vm.anchors.v[A_ATOM_TABLE].addr = w->table;
	put_field(w, w->table, w->vm.layout->IndexTable__seg_table, w->segs);
	put_field(w, w->table, w->vm.layout->IndexTable__limit, 1048576);
	return w;
}

static void add(struct world *w, const char *text, size_t len)
{
	const struct layout *l = w->vm.layout;
	uint64_t atom = take(w, l->size_Atom), name = take(w, len + 1), seg;

	if (w->n % 1024 == 0) {
		seg = take(w, 8 * 1024);
		put(w, w->segs + 8 * (w->n / 1024), &seg, 8);
	}
	memcpy(&seg, w->mem + (w->segs + 8 * (w->n / 1024) - BASE), 8);
	put(w, seg + 8 * (w->n % 1024), &atom, 8);
	put(w, name, text, len);
	put_field(w, atom, l->Atom__len, len);
	put_field(w, atom, l->Atom__name, name);
	w->n++;
	put_field(w, w->table, l->IndexTable__entries, w->n);
}

static void add_numbered(struct world *w, const char *prefix, unsigned n)
{
	char text[128];
	unsigned i;

	for (i = 0; i < n; i++)
		add(w, text, (size_t)snprintf(text, sizeof(text), "%s%u", prefix, i * 7919u));
}

static void done(struct world *w)
{
	target_close(w->target);
	free(w->mem);
	free(w);
}

static uint64_t count_of(const struct atoms *a, const char *prefix)
{
	size_t i;

	for (i = 0; i < a->n_prefixes; i++)
		if (strcmp(a->prefixes[i].prefix, prefix) == 0)
			return a->prefixes[i].count;
	return 0;
}

static void beginnings_are_found(void **state)
{
	struct world *w = world();
	struct atoms *a;
	struct error err = { 0 };
	uint64_t sum = 0;
	char x[256];
	size_t i;

	add(w, "false", 5);
	add(w, "true", 4);
	add(w, "", 0);
	for (i = 0; i < 500; i++) /* nothing in common */
		add(w, x, (size_t)snprintf(x, sizeof(x), "%c%zu", (int)('a' + i % 26), i * i));
	add_numbered(w, "session_", 3000);
	add_numbered(w, "session_of_", 900); /* within the other one */
	add_numbered(w, "user@host-", 1200);
	add_numbered(w, "\x1b[31m", 800);
	add_numbered(w, "\xc3\xa4\xe2\x82", 700); /* cut in a character */
	memset(x, 'x', 255);
	add(w, x, 255);
	assert_int_equal(atoms_read(&w->vm, 0, UINT64_MAX, 100, 3, &a, &err), 0);
	assert_int_equal(a->end, w->n);
	assert_int_equal(a->unreadable, 0);
	assert_int_equal(count_of(a, "user@host-"), 1200);
	assert_int_equal(count_of(a, "\\x1B[31m"), 800);
	assert_int_equal(count_of(a, "session_"), 3900);
	for (i = 0; i < a->n_prefixes; i++) {
		sum += a->prefixes[i].count;
		assert_null(strchr(a->prefixes[i].prefix, '\x1b'));
		assert_true(i == 0 || a->prefixes[i].count <= a->prefixes[i - 1].count);
	}
	assert_true(sum <= w->n); /* no atom in two of them */
	assert_int_equal(a->n_largest, 3);
	assert_int_equal(a->largest[0].bytes, 255);
	atoms_free(a);
	/* the new ones alone, as a doctor would ask */
	i = w->n;
	add_numbered(w, "req-", 400);
	assert_int_equal(atoms_read(&w->vm, i, UINT64_MAX, 50, 0, &a, &err), 0);
	assert_int_equal(a->n_prefixes, 1);
	assert_string_equal(a->prefixes[0].prefix, "req-");
	assert_int_equal(a->prefixes[0].count, 400);
	atoms_free(a);
	assert_int_equal(atoms_read(&w->vm, w->n, UINT64_MAX, 50, 0, &a, &err), 0);
	assert_int_equal(a->n_prefixes, 0);
	atoms_free(a);
	assert_true(atoms_read(&w->vm, w->n + 1, UINT64_MAX, 50, 0, &a, &err) < 0);
	done(w);
}

static void equal_and_nested_texts_end(void **state)
{
	struct world *w = world();
	struct atoms *a;
	struct error err = { 0 };
	char x[256];
	size_t i;

	/* damaged tables may hold one text many times, and texts within texts */
	for (i = 0; i < 500; i++)
		add(w, "same_text", 9);
	memset(x, 'a', sizeof(x));
	for (i = 0; i < 255; i++)
		add(w, x, i);
	assert_int_equal(atoms_read(&w->vm, 0, UINT64_MAX, 10, 5, &a, &err), 0);
	atoms_free(a);
	done(w);
}

static void noise_does_no_harm(void **state)
{
	uint64_t seed = 7;
	unsigned round, k;

	for (round = 0; round < 200; round++) {
		struct world *w = world();
		struct atoms *a = NULL;
		struct error err = { 0 };

		add_numbered(w, "abc", 200);
		for (k = 0; k < 20; k++) {
			uint64_t at, v;

			seed = seed * 6364136223846793005ull + 1442695040888963407ull;
			at = (4096 + (seed >> 20) % (w->used - 4096)) & ~7ull;
			v = seed & 1 ? BASE + (seed >> 8) % w->used : seed >> (seed & 63);
			memcpy(w->mem + at, &v, 8);
		}
		if (atoms_read(&w->vm, 0, UINT64_MAX, 10, 5, &a, &err) == 0)
			atoms_free(a);
		done(w);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(beginnings_are_found),
		cmocka_unit_test(equal_and_nested_texts_end),
		cmocka_unit_test(noise_does_no_harm),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
