/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The process table: a table made here by the layout's offsets, with the slot
 * orders of both generations of pids; damaged in all ways.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "erts/process.h"

#define BASE	0x7f0000000000ull
#define BYTES	(1u << 20)
#define SLOTS	64u
#define INVALID (BASE + 0x40)

struct world {
	unsigned char *mem;
	size_t used;
	struct target_buffer buffer;
	struct target *target;
	struct vm vm;
	uint64_t tab, ptab;
};

static void put(struct world *w, uint64_t base, struct layout_field f, uint64_t v)
{
	assert_true(layout_has(f));
	memcpy(w->mem + (base - BASE) + f.offset, &v, f.size < 8 ? f.size : 8);
}

static uint64_t take(struct world *w, size_t n)
{
	uint64_t addr = BASE + w->used;

	w->used += (n + 63) & ~63ull;
	assert_true(w->used <= BYTES);
	return addr;
}

static struct world *world(int otp)
{
	struct world *w = calloc(1, sizeof(*w));
	const struct layout *l = layout_find(otp, NULL);

	assert_non_null(w);
	assert_non_null(l);
	w->mem = calloc(1, BYTES);
	assert_non_null(w->mem);
	w->used = 0x100;
	w->buffer = (struct target_buffer){ BASE, w->mem, BYTES };
	assert_int_equal(target_open_buffers(&w->buffer, 1, &w->target), 0);
	w->vm.target = w->target;
	w->vm.layout = l;
	w->vm.exe_fd = -1;
	w->ptab = take(w, l->size_ErtsPTab);
	w->tab = take(w, SLOTS * 8);
	w->vm.anchors.v[A_PROC].addr = w->ptab;
	put(w, w->ptab, l->ErtsPTab__r_o_tab, w->tab);
	put(w, w->ptab, l->ErtsPTab__r_o_max, SLOTS);
	put(w, w->ptab, l->ErtsPTab__r_o_invalid_element, INVALID);
	/* 64 slots of 8 bytes in 8 cache lines of 64: neighbours are 8 slots apart
	 * (erts_ptab_init_table(), erl_ptab.c) */
	put(w, w->ptab, l->ErtsPTab__r_o_pix_mask, SLOTS - 1);
	put(w, w->ptab, l->ErtsPTab__r_o_pix_cl_mask, 7);
	put(w, w->ptab, l->ErtsPTab__r_o_pix_cl_shift, 3);
	put(w, w->ptab, l->ErtsPTab__r_o_pix_cli_mask, 7);
	put(w, w->ptab, l->ErtsPTab__r_o_pix_cli_shift, 3);
	if (layout_has(l->ErtsPTab__r_o_dix_cl_mask)) {
		put(w, w->ptab, l->ErtsPTab__r_o_dix_cl_mask, 7);
		put(w, w->ptab, l->ErtsPTab__r_o_dix_cl_shift, 3);
		put(w, w->ptab, l->ErtsPTab__r_o_dix_cli_mask, 7);
		put(w, w->ptab, l->ErtsPTab__r_o_dix_cli_shift, 3);
	}
	return w;
}

static void world_done(struct world *w)
{
	target_close(w->target);
	free(w->mem);
	free(w);
}

static unsigned slot(unsigned data)
{
	return (data & 7) << 3 | (data >> 3 & 7);
}

/* A process with running number `data`; returns its pid. */
static uint64_t add(struct world *w, uint64_t data)
{
	const struct layout *l = w->vm.layout;
	uint64_t addr = take(w, l->size_Process), at = slot((unsigned)data), pid;

	pid = l->otp_major >= 27 ? ((data & ~63ull) | at) << 4 | 3 : data << 4 | 3;
	put(w, addr, l->Process__common_id, pid);
	put(w, addr, l->Process__heap, 0x1000);
	put(w, addr, l->Process__htop, 0x1100);
	put(w, addr, l->Process__stop, 0x1f00);
	put(w, addr, l->Process__hend, 0x2000);
	memcpy(w->mem + (w->tab - BASE) + 8 * at, &addr, 8);
	return pid;
}

static void the_table_is_read(struct world *w, const char *pid70)
{
	struct processes *p;
	struct process one;
	struct error err = { 0 };
	uint64_t a, b, invalid = INVALID;
	char text[64];

	add(w, 1);
	a = add(w, 70);
	b = add(w, 40002);
	memcpy(w->mem + (w->tab - BASE) + 8 * 60, &invalid, 8); /* being made */
	assert_int_equal(processes_read(&w->vm, &p, &err), 0);
	assert_int_equal(p->n, 3);
	assert_int_equal(p->limit, SLOTS);
	assert_int_equal(p->torn, 0);
	assert_non_null(processes_find(p, a));
	assert_non_null(processes_find(p, b));
	assert_null(processes_find(p, b + 16));
	assert_int_equal(process_find(&w->vm, a, &one), 0);
	assert_int_equal(one.pid, a);
	assert_int_equal(one.stop, 0x1f00);
	assert_int_equal(process_find(&w->vm, a + (64u << 4), &one), -ENOENT); /* same slot */
	assert_int_equal(process_find(&w->vm, 12, &one), -ENOENT);	       /* no pid */
	assert_true(process_pid_text(&w->vm, a, text, sizeof(text)));
	assert_string_equal(text, "<0.70.0>");
	assert_true(process_pid_text(&w->vm, b, text, sizeof(text)));
	assert_string_equal(text, pid70);
	assert_false(process_pid_text(&w->vm, 0xb, text, sizeof(text)));
	/* no names: the pid is what is left */
	assert_true(process_pid_label(&w->vm, b, text, sizeof(text)) > 0);
	assert_string_equal(text, pid70);
	processes_free(p);
}

static void pids_up_to_25_hold_the_number(void **state)
{
	struct world *w = world(25);

	the_table_is_read(w, "<0.7234.1>"); /* 40002 = 1 << 15 | 7234 */
	world_done(w);
}

static void pids_from_27_hold_the_slot(void **state)
{
	struct world *w = world(27);

	the_table_is_read(w, "<0.40002.0>");
	world_done(w);
}

static void a_process_in_a_wrong_slot_is_torn(void **state)
{
	struct world *w = world(27);
	const struct layout *l = w->vm.layout;
	struct processes *p;
	uint64_t pid = add(w, 5), addr, nowhere = 0x1234560;

	add(w, 6);
	memcpy(&addr, w->mem + (w->tab - BASE) + 8 * slot(5), 8);
	put(w, addr, l->Process__common_id, pid + 16);
	assert_int_equal(processes_read(&w->vm, &p, NULL), 0);
	assert_int_equal(p->n, 1);
	assert_int_equal(p->torn, 1);
	processes_free(p);
	put(w, addr, l->Process__common_id, 0);
	memcpy(w->mem + (w->tab - BASE) + 8 * slot(9), &nowhere, 8);
	assert_int_equal(processes_read(&w->vm, &p, NULL), 0);
	assert_int_equal(p->n, 1);
	assert_int_equal(p->torn, 2);
	processes_free(p);
	put(w, w->ptab, l->ErtsPTab__r_o_max, 0x7fffffff); /* beyond any table */
	assert_true(processes_read(&w->vm, &p, NULL) < 0);
	assert_null(p);
	world_done(w);
}

static uint32_t seed;

static uint32_t next_random(void)
{
	seed = seed * 1664525u + 1013904223u;
	return seed >> 8;
}

static void fuzzed_tables_are_survived(void **state)
{
	struct world *w = world(29);
	unsigned char *good = malloc(BYTES);
	unsigned i, j;

	assert_non_null(good);
	for (i = 0; i < 40; i++)
		add(w, i + 100);
	memcpy(good, w->mem, w->used);
	seed = 99;
	for (i = 0; i < 2000; i++) {
		struct processes *p;
		char text[PROCESS_LABEL_MAX];
		size_t k;

		memcpy(w->mem, good, w->used);
		for (j = 0; j < 8; j++)
			w->mem[next_random() % (i % 2 ? 1024 : w->used)] =
				(unsigned char)next_random();
		if (processes_read(&w->vm, &p, NULL))
			continue;
		for (k = 0; k < p->n && k < 4; k++)
			assert_true(process_label(&w->vm, &p->v[k], text, sizeof(text)) <
				    sizeof(text));
		processes_free(p);
	}
	free(good);
	world_done(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(pids_up_to_25_hold_the_number),
		cmocka_unit_test(pids_from_27_hold_the_slot),
		cmocka_unit_test(a_process_in_a_wrong_slot_is_torn),
		cmocka_unit_test(fuzzed_tables_are_survived),
	};

	return cmocka_run_group_tests_name("process", tests, NULL, NULL);
}
