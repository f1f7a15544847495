// SPDX-License-Identifier: Apache-2.0
/*
 * Rows and rules only grow; modules and code areas change as libraries and code
 * are loaded. So the former are appended to, and the latter exist twice: the copy
 * that is not in use is written, then one store makes it the one in use. A program
 * that reads the old copy at that moment reads a state that was true just before.
 */
#include "trace/session_int.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define ROWS_SPARE  (256u << 10) /* for libraries that are loaded later: 2 MiB */
#define RULES_SPARE 4096u

size_t tables_rows_max(const struct unwind *u)
{
	return u->n_rows + u->n_rows / 4 + ROWS_SPARE;
}

size_t tables_rules_max(const struct unwind *u)
{
	return u->n_rules + u->n_rules / 2 + RULES_SPARE;
}

int area_map(struct tables_area *a, int fd, size_t size, size_t max)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);

	a->max = max;
	a->bytes = (max * size + page - 1) & ~(page - 1);
	a->mem = mmap(NULL, a->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (a->mem == MAP_FAILED) {
		a->mem = NULL;
		return -errno;
	}
	return 0;
}

int tables_map(struct kernel_tables *k, int rows_fd, int rules_fd, int tables_fd)
{
	int ret =
		area_map(&k->rows, rows_fd, sizeof(struct unwind_row), tables_rows_max(k->unwind));

	if (!ret)
		ret = area_map(&k->rules, rules_fd, sizeof(struct unwind_rule),
			       tables_rules_max(k->unwind));
	if (!ret)
		ret = area_map(&k->tables, tables_fd, sizeof(struct tables), 2);
	if (ret)
		tables_unmap(k);
	return ret;
}

void area_unmap(struct tables_area *a)
{
	if (a->mem)
		munmap(a->mem, a->bytes);
	a->mem = NULL;
}

void tables_unmap(struct kernel_tables *k)
{
	area_unmap(&k->rows);
	area_unmap(&k->rules);
	area_unmap(&k->tables);
}

static void area_add(struct tables *t, uint64_t start, uint64_t end)
{
	if (t->n_areas == CODE_AREAS) {
		t->areas[CODE_AREAS - 1].end = end; /* by address: widen the last */
		return;
	}
	t->areas[t->n_areas].start = start;
	t->areas[t->n_areas++].end = end;
}

static bool range_inside(const struct code_range *v, ssize_t n, const struct mapping *m)
{
	for (ssize_t i = 0; i < n; i++)
		if (v[i].start < m->end && v[i].end > m->start)
			return true;
	return false;
}

/*
 * With a JIT, whole executable mappings that hold code: what is loaded later
 * lands in the same mapping and is covered at once. In the emulator code lies in
 * ordinary memory; then the ranges themselves, joined until they are few enough.
 */
static int areas_fill(struct tables *t, struct vm *vm, const struct code *code,
		      const struct mappings *maps, const struct images *images)
{
	struct code_range *v;
	uint64_t gap = 64 << 10;
	ssize_t n = code_ranges(code, vm->jit ? 0 : gap, &v);

	if (n < 0)
		return (int)n;
	if (vm->jit) {
		for (size_t i = 0; i < maps->n; i++) {
			const struct mapping *m = &maps->v[i];

			if (m->exec && range_inside(v, n, m) && !images_find(images, m->start))
				area_add(t, m->start, m->end);
		}
	} else {
		while (n > CODE_AREAS) {
			free(v);
			gap *= 4;
			n = code_ranges(code, gap, &v);
			if (n < 0)
				return (int)n;
		}
		for (ssize_t i = 0; i < n; i++)
			area_add(t, v[i].start, v[i].end);
	}
	free(v);
	if (t->n_areas) {
		t->code_min = t->areas[0].start;
		t->code_max = t->areas[t->n_areas - 1].end;
	}
	return 0;
}

int tables_write(struct kernel_tables *k, struct vm *vm, const struct code *code,
		 const struct mappings *maps, const struct images *images)
{
	uint32_t next = !*k->active;
	struct tables *t = (struct tables *)k->tables.mem + next;
	const struct unwind *u = k->unwind;
	int ret = 0;

	if (u->n_rows > k->rows.max || u->n_rules > k->rules.max) {
		k->full = true;
	} else {
		memcpy((struct unwind_row *)k->rows.mem + k->rows_sent, u->rows + k->rows_sent,
		       (u->n_rows - k->rows_sent) * sizeof(*u->rows));
		memcpy((struct unwind_rule *)k->rules.mem + k->rules_sent, u->rules + k->rules_sent,
		       (u->n_rules - k->rules_sent) * sizeof(*u->rules));
		k->rows_sent = u->n_rows;
		k->rules_sent = u->n_rules;
	}
	memset(t, 0, sizeof(*t));
	for (size_t i = 0; i < u->n_modules && i < UNWIND_MODULES; i++) {
		t->modules[i] = u->modules[i];
		if ((size_t)t->modules[i].row_first + t->modules[i].row_count > k->rows_sent)
			t->modules[i].row_count = 0; /* no room for its rows */
	}
	t->n_modules = (uint32_t)(u->n_modules < UNWIND_MODULES ? u->n_modules : UNWIND_MODULES);
	if (vm && code)
		ret = areas_fill(t, vm, code, maps, images);
	/* empty slots end above everything, for the search that stops at the first */
	for (unsigned i = t->n_areas; i < CODE_AREAS; i++)
		t->areas[i].start = t->areas[i].end = UINT64_MAX;
	__atomic_store_n(k->active, next, __ATOMIC_RELEASE);
	return ret;
}
