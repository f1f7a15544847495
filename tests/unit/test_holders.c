/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tables and their rows, binaries and who holds them, ports, resource types: a
 * small world made here by the layouts' offsets, then lists that never end, that
 * lead nowhere, and damage at random.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "erts/binary.h"
#include "erts/ets_rows.h"
#include "erts/off_heap.h"
#include "erts/port.h"
#include "erts/resource.h"

#define BASE	0x7f0000000000ull
#define BYTES	(1u << 20)
#define SLOTS	64u
#define INVALID (BASE + 0x40)
#define ATOM(n) ((uint64_t)(n) << 6 | 0x0b)
#define LINES	3 /* of decentralized counters: two schedulers and one */

/* DbTableCommon.type and .status, as erl_db_util.h has them. */
enum { PUBLIC = 1 << 2, SET = 1 << 4, TREE = 1 << 7, CATREE = 1 << 8, FINE = 1 << 9 };

struct world {
	unsigned char *mem;
	size_t used;
	struct target_buffer buffer;
	struct target *target;
	struct vm vm;
	const struct layout *l;
	uint64_t procs, ports, schedulers, scheduler_var;
	uint64_t tables[3], table_ring; /* all of scheduler 1 */
	uint64_t rows[8];
	uint64_t process, binaries[4], elements[4];
};

static void put(struct world *w, uint64_t base, struct layout_field f, uint64_t v)
{
	assert_true(layout_has(f));
	memcpy(w->mem + (base - BASE) + f.offset, &v, f.size < 8 ? f.size : 8);
}

static void put_word(struct world *w, uint64_t addr, uint64_t v)
{
	memcpy(w->mem + (addr - BASE), &v, 8);
}

static uint64_t take(struct world *w, size_t n)
{
	uint64_t addr = BASE + w->used;

	w->used += (n + 63) & ~63ull;
	assert_true(w->used <= BYTES);
	return addr;
}

static uint64_t ptab(struct world *w, enum anchor_id id)
{
	const struct layout *l = w->l;
	uint64_t at = take(w, l->size_ErtsPTab), tab = take(w, SLOTS * 8);

	w->vm.anchors.v[id].addr = at;
	put(w, at, l->ErtsPTab__r_o_tab, tab);
	put(w, at, l->ErtsPTab__r_o_max, SLOTS);
	put(w, at, l->ErtsPTab__r_o_invalid_element, INVALID);
	/* slot == number as long as that is below 8, with these masks */
	put(w, at, l->ErtsPTab__r_o_pix_mask, SLOTS - 1);
	put(w, at, l->ErtsPTab__r_o_pix_cl_mask, SLOTS - 1);
	if (layout_has(l->ErtsPTab__r_o_dix_cl_mask))
		put(w, at, l->ErtsPTab__r_o_dix_cl_mask, SLOTS - 1);
	return tab;
}

static uint64_t id_of(const struct world *w, unsigned n, unsigned tag)
{
	/* up to 25 the slot stands in the upper half as well */
	return (w->l->otp_major >= 26 ? 0 : (uint64_t)n << 32) | n << 4 | tag;
}

static void schedulers(struct world *w)
{
	const struct layout *l = w->l;

	w->scheduler_var = take(w, 8);
	w->schedulers = take(w, 3 * l->size_ErtsAlignedSchedulerData);
	put_word(w, w->scheduler_var, w->schedulers);
	w->vm.anchors.v[A_SCHEDULER_DATA].addr = w->scheduler_var;
	for (unsigned i = 0; i < 2; i++)
		put(w, w->schedulers + i * l->size_ErtsAlignedSchedulerData,
		    l->ErtsSchedulerData__no, i + 1);
}

/* A table with its magic binary; counters as they are. */
static uint64_t table(struct world *w, unsigned name, unsigned status, uint64_t items,
		      uint64_t bytes)
{
	const struct layout *l = w->l;
	uint64_t t = take(w, 1024), magic = take(w, l->size_ErtsMagicBinary + 8);
	struct layout_field memory = l->DbTableCommon__counters_array;

	memory.offset += 8;
	put(w, t, l->DbTableCommon__type, status & ~PUBLIC);
	put(w, t, l->DbTableCommon__status, status);
	put(w, t, l->DbTableCommon__owner, id_of(w, 1, 3));
	put(w, t, l->DbTableCommon__the_name, ATOM(name));
	put(w, t, l->DbTableCommon__keypos, 1);
	put(w, t, l->DbTableCommon__btid, magic);
	put(w, t, l->DbTableCommon__counters_array, items);
	put(w, t, memory, bytes);
	put_word(w, magic + (uint64_t)l->ErtsMagicBinary__unaligned_data.offset, t);
	return t;
}

static uint64_t decentral(struct world *w, unsigned name)
{
	const struct layout *l = w->l;
	uint64_t t = table(w, name, SET | PUBLIC | FINE, 0, 0), block = take(w, 512) + 8;
	uint64_t array, first;

	/* where create_decentralized_ctr_array() puts it, and the block's header */
	array = block + (uint64_t)l->ErtsFlxCtrDecentralizedCtrArray__array.offset;
	first = array + 64 - array % 64;
	array = first - (uint64_t)l->ErtsFlxCtrDecentralizedCtrArray__array.offset;
	put_word(w, block - 8, 8 + l->size_ErtsFlxCtrDecentralizedCtrArray + LINES * 64 + 64 + 16);
	put(w, array, l->ErtsFlxCtrDecentralizedCtrArray__block_start, block);
	for (unsigned i = 0; i < LINES; i++) {
		put_word(w, first + 64 * i, 100 * (i + 1));
		put_word(w, first + 64 * i + 8, 1000 * (i + 1));
	}
	put_word(w, first + 64 * LINES, 0x55555555); /* behind the block */
	put(w, t, l->DbTableCommon__counters_is_decentralized, 1);
	put(w, t, l->DbTableCommon__counters_ptr, array);
	return t;
}

static void ring(struct world *w, const uint64_t *v, size_t n)
{
	const struct layout *l = w->l;

	for (size_t i = 0; i < n; i++) {
		put(w, v[i], l->DbTableCommon__all_next, v[(i + 1) % n]);
		put(w, v[i], l->DbTableCommon__all_prev, v[(i + n - 1) % n]);
	}
	put(w, w->schedulers, l->ErtsSchedulerData__ets_tables_clist, v[0]);
	put(w, w->schedulers, l->ErtsSchedulerData__ets_tables_count, n);
}

/* Rows for the hash table (three in one chain) and the tree (a root, two leaves). */
static void rows(struct world *w)
{
	const struct layout *l = w->l;
	uint64_t segtab = take(w, 64), segment = take(w, 256 * 8 + 64);
	const struct layout_field oh = { l->HashDbTerm__dbterm.offset + l->DbTerm__first_oh.offset,
					 8 };

	for (unsigned i = 0; i < 8; i++)
		w->rows[i] = take(w, 128);
	put(w, w->tables[0], l->DbTableHash__segtab, segtab);
	put(w, w->tables[0], l->DbTableHash__nactive, 256);
	put(w, w->tables[0], l->DbTableHash__nslots, 256);
	put_word(w, segtab, segment);
	put_word(w, segment + 8 * 17, w->rows[0]);
	put(w, w->rows[0], l->HashDbTerm__next, w->rows[1]);
	put(w, w->rows[1], l->HashDbTerm__next, w->rows[2]);
	put(w, w->rows[1], oh, w->elements[3]);
	put(w, w->tables[1], l->DbTableTree__root, w->rows[3]);
	put(w, w->rows[3], l->TreeDbTerm__left, w->rows[4]);
	put(w, w->rows[3], l->TreeDbTerm__right, w->rows[5]);
}

/* A reference in an off-heap list. */
static void element(struct world *w, uint64_t at, uint64_t binary, uint64_t next)
{
	const struct layout *l = w->l;

	if (l->size_BinRef) {
		put_word(w, at, (uint64_t)l->tag_header_bin_ref | 2 << 6);
		put(w, at, l->BinRef__val, binary);
	} else {
		put_word(w, at, (uint64_t)l->tag_header_refc_bin | 5 << 6);
		put(w, at, l->ProcBin__val, binary);
	}
	put(w, at, l->erl_off_heap_header__next, next);
}

/* Process 1 holds binaries 0, 1 and 1 again; a row holds 2; 3 has two more references. */
static void holders(struct world *w, uint64_t tab)
{
	const struct layout *l = w->l;
	static const uint64_t refc[4] = { 1, 2, 1, 3 };

	for (unsigned i = 0; i < 4; i++) {
		w->binaries[i] = take(w, 128);
		w->elements[i] = take(w, 64);
		put(w, w->binaries[i], l->Binary__intern_refc, refc[i]);
		put(w, w->binaries[i], l->Binary__orig_size, 1000 * (i + 1));
	}
	w->process = take(w, l->size_Process);
	put_word(w, tab + 8 * 1, w->process);
	put(w, w->process, l->Process__common_id, id_of(w, 1, 3));
	put(w, w->process, l->Process__heap, BASE + 0x10000);
	put(w, w->process, l->Process__htop, BASE + 0x10010);
	put(w, w->process, l->Process__stop, BASE + 0x10f00);
	put(w, w->process, l->Process__hend, BASE + 0x11000);
	put(w, w->process, l->Process__off_heap_first, w->elements[0]);
	element(w, w->elements[0], w->binaries[0], w->elements[1]);
	element(w, w->elements[1], w->binaries[1], w->elements[2]);
	element(w, w->elements[2], w->binaries[1], 0);
	element(w, w->elements[3], w->binaries[2], 0);
}

static struct world *world(int otp)
{
	struct world *w = calloc(1, sizeof(*w));
	uint64_t tab;

	assert_non_null(w);
	w->l = layout_find(otp, NULL);
	assert_non_null(w->l);
	w->mem = calloc(1, BYTES);
	assert_non_null(w->mem);
	w->used = 0x100;
	w->buffer = (struct target_buffer){ BASE, w->mem, BYTES };
	assert_int_equal(target_open_buffers(&w->buffer, 1, &w->target), 0);
	w->vm.target = w->target;
	w->vm.layout = w->l;
	w->vm.exe_fd = -1;
	schedulers(w);
	tab = ptab(w, A_PROC);
	w->procs = tab;
	w->ports = ptab(w, A_PORT);
	holders(w, tab);
	w->tables[0] = table(w, 7, SET | PUBLIC, 3, 4000);
	w->tables[1] = table(w, 8, TREE | PUBLIC, 3, 5001);
	w->tables[2] = decentral(w, 9);
	ring(w, w->tables, 3);
	rows(w);
	return w;
}

static void world_done(struct world *w)
{
	target_close(w->target);
	free(w->mem);
	free(w);
}

static const int releases[] = { 23, 25, 27, 29 };
#define EACH_RELEASE(w, i)             \
	for (size_t i = 0; i < 4; i++) \
		for (struct world *w = world(releases[i]); w; world_done(w), w = NULL)

/* ---- tables ------------------------------------------------------------------- */

static void tables_and_counters(void **state)
{
	EACH_RELEASE(w, i)
	{
		struct ets_tables *t;

		assert_int_equal(ets_read(&w->vm, &t, NULL), 0);
		assert_int_equal(t->n, 3);
		assert_int_equal(t->torn, 0);
		assert_int_equal(t->expected, 3);
		assert_int_equal(t->v[0].items, 3);
		assert_int_equal(t->v[0].bytes, 4000);
		assert_int_equal(t->v[0].name, ATOM(7));
		assert_int_equal(t->v[0].protection, ETS_PUBLIC);
		assert_int_equal(t->v[1].type, ETS_ORDERED_SET);
		/* three lines, and not what lies behind the block */
		assert_true(t->v[2].decentralized_counters);
		assert_int_equal(t->v[2].items, 600);
		assert_int_equal(t->v[2].bytes, 6000);
		assert_false(t->v[2].approximate);
		ets_free(t);
	}
}

static void tables_that_are_none(void **state)
{
	EACH_RELEASE(w, i)
	{
		struct ets_tables *t;

		/* another owner's magic, two types at once, no atom */
		put_word(w, w->tables[0] + (uint64_t)w->l->DbTableCommon__the_name.offset, 0x13);
		put(w, w->tables[1], w->l->DbTableCommon__status, TREE | SET | PUBLIC);
		assert_int_equal(ets_read(&w->vm, &t, NULL), 0);
		assert_int_equal(t->n, 1);
		assert_int_equal(t->torn, 2);
		ets_free(t);
	}
}

static void rings_that_never_close(void **state)
{
	EACH_RELEASE(w, i)
	{
		struct ets_tables *t;

		/* the second leads to itself, never back to the first */
		put(w, w->tables[1], w->l->DbTableCommon__all_next, w->tables[1]);
		assert_int_equal(ets_read(&w->vm, &t, NULL), 0);
		assert_int_equal(t->n, 3); /* the last one from behind */
		ets_free(t);
		put(w, w->tables[1], w->l->DbTableCommon__all_next, 0x1234567);
		assert_int_equal(ets_read(&w->vm, &t, NULL), 0);
		assert_int_equal(t->n, 3); /* the last one from behind */
		ets_free(t);
	}
}

static int count_row(void *ctx, uint64_t row, uint64_t off_heap)
{
	++*(unsigned *)ctx;
	return 0;
}

static void rows_are_found(void **state)
{
	EACH_RELEASE(w, i)
	{
		struct ets_tables *t;
		uint64_t n = 0;
		unsigned called = 0;

		assert_int_equal(ets_read(&w->vm, &t, NULL), 0);
		assert_int_equal(ets_rows_walk(&w->vm, &t->v[0], 100, &n, count_row, &called), 0);
		assert_int_equal(ets_rows_walk(&w->vm, &t->v[1], 100, &n, count_row, &called), 0);
		assert_int_equal(n, 6);
		assert_int_equal(called, 6);
		n = 0;
		assert_int_equal(ets_rows_walk(&w->vm, &t->v[0], 2, &n, count_row, &called),
				 -E2BIG);
		/* a chain, and a tree, that lead back into themselves */
		put(w, w->rows[2], w->l->HashDbTerm__next, w->rows[0]);
		put(w, w->rows[4], w->l->TreeDbTerm__left, w->rows[3]);
		n = 0;
		assert_true(ets_rows_walk(&w->vm, &t->v[0], 1000000, &n, count_row, &called) < 0);
		n = 0;
		assert_true(ets_rows_walk(&w->vm, &t->v[1], 1000000, &n, count_row, &called) < 0);
		ets_free(t);
	}
}

/* ---- binaries ------------------------------------------------------------------ */

static const struct binary_holder *holder(const struct binaries *b, enum binary_holder_kind kind)
{
	for (size_t i = 0; i < b->n_holders; i++)
		if (b->holders[i].kind == kind)
			return &b->holders[i];
	return NULL;
}

static void holders_of_binaries(void **state)
{
	const struct binaries_opts opts = { .messages = true, .ports = true, .rows_max = 1000 };

	EACH_RELEASE(w, i)
	{
		const struct binary_holder *h;
		struct binaries *b;

		assert_int_equal(binaries_read(&w->vm, &opts, &b, NULL), 0);
		assert_int_equal(b->n, 3);
		assert_int_equal(b->bytes, 1000 + 2000 + 3000);
		h = holder(b, HOLDER_PROCESS);
		assert_non_null(h);
		assert_int_equal(h->refs, 3);
		assert_int_equal(h->bytes, 1000 + 2000 + 2000);
		assert_int_equal(h->binaries, 2);
		assert_int_equal(h->distinct_bytes, 3000);
		assert_int_equal(h->alone_bytes, 3000);
		h = holder(b, HOLDER_ETS);
		assert_non_null(h);
		assert_int_equal(h->id, ATOM(7));
		assert_int_equal(h->bytes, 3000);
		assert_ptr_equal(binaries_find(b, w->binaries[1] + 100), &b->v[1]);
		assert_null(binaries_find(b, BASE));
		binaries_free(b);
	}
}

static void binaries_that_are_gone(void **state)
{
	EACH_RELEASE(w, i)
	{
		struct binaries *b;

		put(w, w->binaries[0], w->l->Binary__intern_refc, 0);
		assert_int_equal(binaries_read(&w->vm, NULL, &b, NULL), 0);
		assert_int_equal(b->n, 1);
		assert_int_equal(b->gone, 1);
		binaries_free(b);
	}
}

static int count_binary(void *ctx, uint64_t binary)
{
	return ++*(unsigned *)ctx > 1000000 ? -E2BIG : 0;
}

static void lists_that_never_end(void **state)
{
	EACH_RELEASE(w, i)
	{
		struct binaries *b;
		unsigned n = 0;

		element(w, w->elements[2], w->binaries[1], w->elements[0]);
		assert_int_equal(off_heap_walk(&w->vm, w->elements[0], false, count_binary, &n),
				 -EAGAIN);
		assert_int_equal(binaries_read(&w->vm, NULL, &b, NULL), 0);
		assert_true(b->n_holders == 1 && b->holders[0].approximate);
		binaries_free(b);
		/* and one that is no element of such a list */
		put_word(w, w->elements[1], 0x1234);
		assert_int_equal(off_heap_walk(&w->vm, w->elements[0], false, count_binary, &n),
				 -EAGAIN);
	}
}

/* ---- ports --------------------------------------------------------------------- */

static uint64_t port(struct world *w, unsigned n)
{
	const struct layout *l = w->l;
	uint64_t p = take(w, l->size_Port), name = take(w, 64), driver = take(w, 256),
		 data = take(w, 128);

	put_word(w, w->ports + 8 * n, p);
	put(w, p, l->Port__common_id, id_of(w, n, 7));
	put(w, p, l->Port__connected, id_of(w, 1, 3));
	put(w, p, l->Port__bytes_in, 11);
	put(w, p, l->Port__bytes_out, 22);
	put(w, p, l->Port__ioq_size, 33);
	put(w, p, l->Port__name, name);
	put(w, p, l->Port__drv_ptr, driver);
	put(w, p, l->Port__drv_data, data);
	put(w, p, l->Port__os_pid, UINT64_MAX);
	memcpy(w->mem + (name - BASE), "cat \033[31m", 9);
	/* a socket's data: {fd, fd, mask, port, id} */
	put_word(w, data, 5);
	put_word(w, data + 8, 5);
	put_word(w, data + 24, p);
	put_word(w, data + 32, id_of(w, n, 7));
	return p;
}

static void ports_are_read(void **state)
{
	EACH_RELEASE(w, i)
	{
		uint64_t addr = port(w, 3), data;
		struct ports *p;

		assert_int_equal(ports_read(&w->vm, &p, NULL), 0);
		assert_int_equal(p->n, 1);
		assert_int_equal(p->v[0].number, 3);
		assert_int_equal(p->v[0].input, 11);
		assert_int_equal(p->v[0].output, 22);
		assert_int_equal(p->v[0].queue_size, 33);
		assert_int_equal(p->v[0].fd_in, 5);
		assert_string_equal(p->v[0].name, "cat \\x1B[31m");
		ports_free(p);
		/* data that is not this port's: no descriptor is claimed */
		memcpy(&data, w->mem + (addr - BASE) + w->l->Port__drv_data.offset, 8);
		put_word(w, data + 24, addr + 64);
		assert_int_equal(ports_read(&w->vm, &p, NULL), 0);
		assert_int_equal(p->v[0].fd_in, -1);
		ports_free(p);
		/* an id that leads to another slot */
		put(w, addr, w->l->Port__common_id, id_of(w, 4, 7));
		assert_int_equal(ports_read(&w->vm, &p, NULL), 0);
		assert_int_equal(p->n, 0);
		assert_int_equal(p->torn, 1);
		ports_free(p);
	}
}

/* ---- damage --------------------------------------------------------------------- */

static uint64_t next_random(uint64_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	*s ^= *s << 17;
	return *s;
}

/* Words become pointers into the world, small numbers or noise: everything has to
 * end, and to free what it took. */
static void damage(void **state)
{
	const struct binaries_opts opts = { .messages = true, .ports = true, .rows_max = 5000 };
	uint64_t s = 88172645463325252ull;

	for (int round = 0; round < 200; round++) {
		struct world *w = world(releases[round & 3]);
		struct resource_types *types;
		struct ets_tables *t;
		struct binaries *b;
		struct ports *p;

		port(w, 3);
		for (int k = 0; k < 12; k++) {
			uint64_t at = next_random(&s) % (w->used / 8) * 8, v = next_random(&s);

			v = k % 3 == 0 ? BASE + v % w->used / 8 * 8 : k % 3 == 1 ? v % 4096 : v;
			memcpy(w->mem + at, &v, 8);
		}
		if (!ets_read(&w->vm, &t, NULL))
			ets_free(t);
		if (!binaries_read(&w->vm, &opts, &b, NULL))
			binaries_free(b);
		if (!ports_read(&w->vm, &p, NULL))
			ports_free(p);
		if (!resource_types_read(&w->vm, NULL, &types, NULL))
			resource_types_free(types);
		world_done(w);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(tables_and_counters),
		cmocka_unit_test(tables_that_are_none),
		cmocka_unit_test(rings_that_never_close),
		cmocka_unit_test(rows_are_found),
		cmocka_unit_test(holders_of_binaries),
		cmocka_unit_test(binaries_that_are_gone),
		cmocka_unit_test(lists_that_never_end),
		cmocka_unit_test(ports_are_read),
		cmocka_unit_test(damage),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
