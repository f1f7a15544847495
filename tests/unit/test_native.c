/* SPDX-License-Identifier: Apache-2.0 */
/* The parts of the still image that need no node: the table of blocks, the way
 * from an address to its block, marking, typical edges. With two arguments: a look
 * at a live node (native_look.h). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "ledger/native_int.h"
#include "native_look.h"

static uint32_t slow_find(const struct graph *g, uint64_t addr)
{
	uint32_t i;

	for (i = 0; i < g->n; i++)
		if (addr >= g->v[i].addr && addr < (uint64_t)g->v[i].addr + g->v[i].bytes)
			return i;
	return UINT32_MAX;
}

/* Small chunks wall to wall over pages, a mapping of 200 MiB that has pieces of the
 * directory to itself, told out of order and twice. */
static void every_address_leads_to_its_block(void **state)
{
	const uint64_t heap = 0x7f0000001000, map = 0x7f0010003000;
	uint64_t at = heap, sizes[] = { 32, 48, 1008, 32, 5008, 64 };
	struct graph g = { 0 };
	unsigned i;

	assert_int_equal(graph_node_add(&g, map, 200ULL << 20, ARENA_NONE, NODE_MMAP), 0);
	for (i = 0; i < 5000; i++) {
		uint64_t size = sizes[i % 6];

		graph_chunk(&g, at + 16, size, i % 5 != 0, 0);
		if (i % 100 == 1)
			graph_chunk(&g, at + 16, size, true, 0);
		at += size;
	}
	assert_int_equal(graph_index(&g, NULL, NULL, NULL), 0);
	assert_int_equal(g.n, 4001);
	for (i = 1; i < g.n; i++)
		assert_true(g.v[i - 1].addr + g.v[i - 1].bytes <= g.v[i].addr);
	for (at = heap - 64; at < heap + 200000; at += 8)
		assert_int_equal(graph_find(&g, at), slow_find(&g, at));
	for (at = map - 8192; at < map + (200ULL << 20) + 8192; at += 99991)
		assert_int_equal(graph_find(&g, at), slow_find(&g, at));
	assert_int_equal(graph_find(&g, map + (200ULL << 20) - 1), g.n - 1);
	assert_int_equal(graph_find(&g, map + (200ULL << 20)), UINT32_MAX);
	assert_int_equal(graph_find(&g, 0), UINT32_MAX);
	assert_int_equal(graph_find(&g, UINT64_MAX), UINT32_MAX);
	graph_free(&g);
}

/* The last word of a chunk is its own; of an mmapped one it is the next mapping's. */
static void a_mapped_chunk_ends_with_its_mapping(void **state)
{
	struct libc_region regions[] = {
		{ .start = 0x10000, .end = 0x20000, .kind = LIBC_MAIN },
		{ .start = 0x7f0000000000, .end = 0x7f0000062000, .kind = LIBC_MMAPPED },
	};
	struct libc_heap heap = { .regions = regions, .n_regions = 2 };
	struct carrier carrier = { .addr = 0x7f0000062000, .size = 0x40000 };
	struct carriers carriers = { .v = &carrier, .n = 1 };
	struct graph g = { 0 };

	graph_chunk(&g, 0x10010, 64, true, 0);
	graph_chunk(&g, 0x7f0000000010, 0x62000, true, 0);
	assert_int_equal(graph_index(&g, &carriers, &heap, NULL), 0);
	assert_int_equal(g.n, 2);
	assert_int_equal(g.v[0].bytes, 56);
	assert_int_equal(g.v[0].arena, 0);
	assert_int_equal(g.v[1].bytes, 0x62000 - 16);
	assert_int_equal(g.v[1].arena, ARENA_NONE);
	graph_free(&g);
}

/* A chunk with a carrier in it is the VM's. */
static void chunks_that_hold_carriers_are_left_out(void **state)
{
	struct carrier c[] = { { .addr = 0x14000, .size = 0x8000 },
			       { .addr = 0x40000, .size = 8 } };
	struct carriers carriers = { .v = c, .n = 2 };
	struct graph g = { 0 };

	graph_chunk(&g, 0x10010, 0x1000, true, 0);
	graph_chunk(&g, 0x13010, 0xa000, true, 0);
	graph_chunk(&g, 0x1d010, 0x1000, true, 0);
	assert_int_equal(graph_index(&g, &carriers, NULL, NULL), 0);
	assert_int_equal(g.n, 2);
	assert_int_equal(g.v[1].addr, 0x1d010);
	graph_free(&g);
}

/* What a callback is told may be a lie: sizes and addresses out of this world. */
static void lies_are_no_blocks(void **state)
{
	struct graph g = { 0 };

	graph_chunk(&g, UINT64_MAX - 8, 64, true, 0);
	graph_chunk(&g, 1ULL << 47, 64, true, 0);
	graph_chunk(&g, 0x7fffffff0000, 1ULL << 41, true, 0);
	graph_chunk(&g, 0x10000, 8, true, 0);
	graph_chunk(&g, 0x10010, 0, true, 0);
	graph_chunk(&g, 0x10010, 64, true, 70000);
	assert_int_equal(graph_index(&g, NULL, NULL, NULL), 0);
	assert_int_equal(g.n, 1);
	assert_int_equal(g.v[0].arena, ARENA_NONE);
	graph_free(&g);
}

/* Nodes at 64-byte steps, `edges` as pairs {from, to}, in order of from. */
static void graph_make(struct graph *g, uint32_t n, const uint32_t (*edges)[2], size_t n_edges)
{
	uint32_t i;
	size_t e = 0;

	for (i = 0; i < n; i++)
		graph_chunk(g, 0x10010 + 64ULL * i, 64, true, 0);
	assert_int_equal(graph_index(g, NULL, NULL, NULL), 0);
	g->edges = calloc(n_edges ? n_edges : 1, sizeof(*g->edges));
	assert_non_null(g->edges);
	for (i = 0; i <= n; i++) {
		g->first[i] = (uint32_t)e;
		for (; e < n_edges && edges[e][0] == i; e++) {
			g->edges[e].target = edges[e][1];
			graph_pointed(g, edges[e][1], i + 1);
		}
	}
	g->n_edges = g->room_edges = n_edges;
}

static void marking_follows_chains_and_circles(void **state)
{
	static const uint32_t edges[][2] = { { 0, 1 }, { 1, 2 }, { 2, 0 },
					     { 3, 4 }, { 4, 3 }, { 5, 2 } };
	struct graph g = { 0 };
	unsigned i;

	graph_make(&g, 7, edges, 6);
	g.v[0].flags = NODE_REACHED;
	assert_int_equal(graph_mark(&g), 0);
	for (i = 0; i < 7; i++)
		assert_int_equal(g.v[i].flags, i < 3 ? NODE_REACHED : 0);
	graph_free(&g);
}

/* A million blocks in one chain: no recursion, no square of anything. */
static void a_long_chain_is_marked(void **state)
{
	enum { N = 1000000 };
	uint32_t(*edges)[2] = calloc(N, sizeof(*edges)), i;
	struct graph g = { 0 };

	assert_non_null(edges);
	for (i = 0; i < N - 1; i++) {
		edges[i][0] = i;
		edges[i][1] = i + 1;
	}
	graph_make(&g, N, (const uint32_t(*)[2])edges, N - 1);
	g.v[0].flags = NODE_REACHED;
	assert_int_equal(graph_mark(&g), 0);
	for (i = 0; i < N; i++)
		assert_int_equal(g.v[i].flags, NODE_REACHED);
	free(edges);
	graph_free(&g);
}

/* 100 blocks of one size, each with a pointer to the next: typical. One has a
 * leftover at another place: not typical. */
static void leftovers_are_not_typical(void **state)
{
	enum { N = 100 };
	const bool nobody[OWNER_FIRST] = { false };
	uint32_t edges[N][2], i;
	struct typical t = { 0 };
	struct graph g = { 0 };

	for (i = 0; i < N - 1; i++) {
		edges[i][0] = i;
		edges[i][1] = i + 1;
	}
	edges[N - 1][0] = N - 1;
	edges[N - 1][1] = 7;
	graph_make(&g, N, edges, N);
	g.edges[N - 1].word = 5;
	assert_int_equal(typical_open(&g, nobody, &t), 0);
	assert_int_equal(typical_edge(&t, 3, &g.edges[3]), EDGE_CARRIES);
	assert_int_equal(typical_edge(&t, N - 1, &g.edges[N - 1]), EDGE_CARRIES_NOT);
	typical_close(&t);
	graph_free(&g);
}

/* A type that is one in a hundred of its size: not typical of the size, but of its
 * owner, once four have the name. */
static void rules_are_learned_from_those_with_a_name(void **state)
{
	enum { N = 1000 };
	static const uint32_t edges[][2] = { { 0, 1 }, { 1, 2 }, { 2, 3 },
					     { 3, 4 }, { 4, 5 }, { 6, 5 } };
	bool teaches[OWNER_FIRST + 1] = { [OWNER_FIRST] = true };
	struct typical t = { 0 };
	struct graph g = { 0 };
	unsigned i;

	graph_make(&g, N, edges, 6);
	assert_int_equal(typical_open(&g, teaches, &t), 0);
	for (i = 0; i < 4; i++) {
		g.v[i].owner = OWNER_FIRST;
		t.changed[t.b.of[i]] = true;
	}
	g.v[4].owner = OWNER_FIRST;
	assert_int_equal(typical_edge(&t, 4, &g.edges[4]), EDGE_CARRIES_NOT);
	assert_int_equal(typical_learn(&t), 1);
	assert_int_equal(typical_edge(&t, 4, &g.edges[4]), EDGE_CARRIES);
	assert_int_equal(typical_learn(&t), 0);
	typical_close(&t);
	graph_free(&g);
}

/* ---- reading -------------------------------------------------------------------- */

#define HEAP  0x7f0000000000ULL
#define PAGES 64
#define SIZE  (PAGES * 4096ULL)

/* A scan of a target that is one mapping of `memory`, whose first `there` bytes can
 * still be read. */
struct world {
	struct target_buffer buffer;
	struct mapping mapping;
	struct mappings maps;
	struct observer o;
	struct look l;
	struct scan s;
};

static void world_make(struct world *w, const void *memory, size_t there)
{
	struct error err = { 0 };

	memset(w, 0, sizeof(*w));
	w->buffer = (struct target_buffer){ HEAP, memory, SIZE };
	w->mapping = (struct mapping){ .start = HEAP,
				       .end = HEAP + SIZE,
				       .read = true,
				       .write = true,
				       .kind = MAPPING_ANON,
				       .path = "" };
	w->maps = (struct mappings){ .v = &w->mapping, .n = 1 };
	assert_int_equal(target_open_buffers(&w->buffer, 1, &w->o.target), 0);
	assert_int_equal(residency_take(w->o.target, &w->maps, &w->l.res, &err), 0);
	if (there < SIZE) {
		target_close(w->o.target);
		w->buffer.len = there;
		assert_int_equal(target_open_buffers(&w->buffer, 1, &w->o.target), 0);
	}
	w->s.o = &w->o;
	w->s.l = &w->l;
	w->s.buf = malloc(TARGET_READ_MAX);
	assert_non_null(w->s.buf);
}

static void world_free(struct world *w)
{
	graph_free(&w->s.g);
	free(w->s.buf);
	residency_free(w->l.res);
	target_close(w->o.target);
}

static uint32_t random_next(uint32_t *state)
{
	*state = *state * 1664525u + 1013904223u;
	return *state >> 8;
}

/* Pointers at known places: to the beginning, to the middle, across a page. */
static void pointers_become_edges(void **state)
{
	uint64_t *memory = calloc(1, SIZE);
	struct world w;
	uint32_t i;

	assert_non_null(memory);
	for (i = 0; i < SIZE / 512; i++) /* the next one, and the middle of the last */
		memory[i * 64 + 2] = HEAP + 512 * ((i + 1) % (SIZE / 512)) + 16;
	memory[3] = HEAP + SIZE - 512 + 16 + 200;
	memory[4] = HEAP + 4; /* a header: nobody's */
	world_make(&w, memory, SIZE);
	for (i = 0; i < SIZE / 512; i++)
		graph_chunk(&w.s.g, HEAP + 512ULL * i + 16, 512, true, 0);
	assert_int_equal(graph_index(&w.s.g, NULL, NULL, NULL), 0);
	assert_int_equal(scan_nodes(&w.s), 0);
	assert_int_equal(w.s.g.n_edges, SIZE / 512 + 1);
	assert_int_equal(w.s.g.edges[0].target, 1);
	assert_int_equal(w.s.g.edges[0].word, 0);
	assert_int_equal(w.s.g.edges[1].target, SIZE / 512 - 1);
	assert_int_equal(w.s.g.edges[1].word, 1 | EDGE_INNER);
	assert_int_equal(w.s.g.from[1], 1);
	w.s.g.v[5].flags = NODE_REACHED;
	assert_int_equal(graph_mark(&w.s.g), 0);
	for (i = 0; i < w.s.g.n; i++)
		assert_true(w.s.g.v[i].flags & NODE_REACHED);
	world_free(&w);
	free(memory);
}

/* Garbage that is full of almost-pointers, in chunks of all sizes, half of it unmapped
 * by the time it is read: it ends, what is found is there, and the rest is counted. */
static void garbage_is_read_to_its_end(void **state)
{
	uint64_t *memory = malloc(SIZE);
	uint32_t seed = 42, round, i, e;

	assert_non_null(memory);
	for (round = 0; round < 20; round++) {
		size_t there = round % 2 ? SIZE / 2 : SIZE;
		bool teaches[OWNER_FIRST + 2] = { [OWNER_FIRST] = true };
		struct typical t = { 0 };
		struct world w;
		uint64_t at = HEAP;

		for (i = 0; i < SIZE / 8; i++)
			memory[i] = random_next(&seed) % 3 ? HEAP + random_next(&seed) % (2 * SIZE)
							   : (uint64_t)random_next(&seed) << 40;
		world_make(&w, memory, there);
		while (at < HEAP + SIZE) {
			uint64_t size = 32 + 16ULL * (random_next(&seed) % 40);

			if (at + size > HEAP + SIZE)
				break;
			graph_chunk(&w.s.g, at + 16, size, random_next(&seed) % 4 != 0, 0);
			at += size;
		}
		assert_int_equal(graph_index(&w.s.g, NULL, NULL, NULL), 0);
		assert_int_equal(scan_nodes(&w.s), 0);
		assert_int_equal(w.s.gone != 0, there < SIZE);
		for (i = 0; i < w.s.g.n; i++)
			for (e = w.s.g.first[i]; e < w.s.g.first[i + 1]; e++) {
				uint64_t place =
					w.s.g.v[i].addr + 8ULL * (w.s.g.edges[e].word & EDGE_WORD);

				assert_in_range(place, HEAP, HEAP + there - 8);
				assert_int_equal(slow_find(&w.s.g, memory[(place - HEAP) / 8]),
						 w.s.g.edges[e].target);
			}
		w.s.g.v[0].flags = NODE_REACHED;
		assert_int_equal(graph_mark(&w.s.g), 0);
		t.s = &w.s;
		assert_int_equal(typical_open(&w.s.g, teaches, &t), 0);
		for (i = 0; i < w.s.g.n; i += 2) {
			w.s.g.v[i].owner = OWNER_FIRST;
			t.changed[t.b.of[i]] = true;
		}
		assert_true(typical_learn(&t) >= 0);
		for (e = 0; e < w.s.g.n_edges; e++)
			(void)typical_edge(&t, 0, &w.s.g.edges[e]);
		typical_close(&t);
		world_free(&w);
	}
	free(memory);
}

/* More pointers than are remembered: what the rest leads to counts as reached. */
static void too_many_pointers_lose_nothing(void **state)
{
	uint64_t *memory = calloc(1, SIZE);
	struct world w;
	uint32_t i;

	assert_non_null(memory);
	for (i = 0; i < SIZE / 64; i++)
		memory[i * 8 + 2] = HEAP + 64ULL * ((i + 1) % (SIZE / 64)) + 16;
	world_make(&w, memory, SIZE);
	for (i = 0; i < SIZE / 64; i++)
		graph_chunk(&w.s.g, HEAP + 64ULL * i + 16, 64, true, 0);
	assert_int_equal(graph_index(&w.s.g, NULL, NULL, NULL), 0);
	w.s.g.max_edges = 100;
	assert_int_equal(scan_nodes(&w.s), 0);
	assert_true(w.s.g.edges_cut);
	assert_int_equal(w.s.g.n_edges, 100);
	for (i = 102; i < w.s.g.n; i++)
		assert_true(w.s.g.v[i].flags & NODE_REACHED);
	world_free(&w);
	free(memory);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_address_leads_to_its_block),
		cmocka_unit_test(a_mapped_chunk_ends_with_its_mapping),
		cmocka_unit_test(chunks_that_hold_carriers_are_left_out),
		cmocka_unit_test(lies_are_no_blocks),
		cmocka_unit_test(marking_follows_chains_and_circles),
		cmocka_unit_test(a_long_chain_is_marked),
		cmocka_unit_test(leftovers_are_not_typical),
		cmocka_unit_test(rules_are_learned_from_those_with_a_name),
		cmocka_unit_test(pointers_become_edges),
		cmocka_unit_test(garbage_is_read_to_its_end),
		cmocka_unit_test(too_many_pointers_lose_nothing),
	};

	if (argc == 3)
		return native_look(atoi(argv[1]), argv[2]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
