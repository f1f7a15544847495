// SPDX-License-Identifier: Apache-2.0
/*
 * The live map of growth: owners of pages through faults, unmaps and moves, and the
 * sums against pictures of what is resident.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "trace/growth.h"
#include "trace/session_int.h"
#include "trace/stacks.h"

#define P     TARGET_PAGE
#define BASE  0x7f0000000000ULL
#define PAGES 2048u

/* A picture in which these pages are resident: a string, one letter a page. */
struct picture {
	struct target *t;
	struct mappings m;
	struct mapping map;
	struct mapping pages[256]; /* a target of buffers has every mapped page resident */
	struct residency *r;
};

static void picture_make(struct picture *p, const char *resident)
{
	static char page[TARGET_PAGE];
	struct target_buffer buffer = { BASE, page, P };
	struct mappings resident_maps = { .v = p->pages };
	size_t n = 0;

	memset(p, 0, sizeof(*p));
	assert_int_equal(target_open_buffers(&buffer, 1, &p->t), 0);
	p->map = (struct mapping){ .start = BASE,
				   .end = BASE + PAGES * P,
				   .read = true,
				   .write = true,
				   .kind = MAPPING_ANON,
				   .path = "" };
	p->m.v = &p->map;
	p->m.n = 1;
	for (size_t i = 0; resident[i]; i++) {
		if (resident[i] == '.')
			continue;
		p->pages[n] = p->map;
		p->pages[n].start = BASE + i * P;
		p->pages[n++].end = BASE + (i + 1) * P;
	}
	resident_maps.n = n;
	assert_int_equal(residency_take(p->t, &resident_maps, &p->r, NULL), 0);
}

static void picture_free(struct picture *p)
{
	residency_free(p->r);
	target_close(p->t);
}

static struct growth_sum account(struct growth *g, const char *closing, int64_t *net)
{
	struct growth_sum sum;
	struct picture p;

	memset(net, 0, 8 * sizeof(*net));
	picture_make(&p, closing);
	assert_int_equal(growth_account(g, p.r, &p.m, net, 8, &sum), 0);
	assert_int_equal(sum.closing - sum.opening,
			 sum.owned + sum.unowned + sum.moved - sum.released);
	picture_free(&p);
	return sum;
}

/* Far enough apart that none is another's neighbour: 16 pages. */
#define AT(n) (BASE + (n)*16 * P)

static void test_faults(void **state)
{
	struct picture opening;
	struct growth_sum sum;
	struct growth *g;
	int64_t net[8];

	picture_make(&opening, "RR");
	assert_int_equal(growth_new(1 << 24, &g), 0);
	growth_begin(g, opening.r, &opening.m);
	assert_int_equal(growth_fault(g, BASE, P, 3), 0); /* was there already */
	assert_int_equal(growth_fault(g, BASE + 2 * P, 3 * P, 3), 3 * P);
	assert_int_equal(growth_fault(g, BASE + 3 * P, 3 * P, 4), P); /* first come */
	sum = account(g, "RRRRRR", net);
	assert_int_equal(net[3], 3 * P);
	assert_int_equal(net[4], P);
	assert_int_equal(sum.owned, 4 * P);
	assert_int_equal(sum.unowned, 0);
	assert_int_equal(sum.released, 0);
	/* gone from the picture, gone from the owner */
	sum = account(g, "R.R.RR", net);
	assert_int_equal(net[3], 2 * P);
	assert_int_equal(net[4], P);
	assert_int_equal(sum.released, P);
	growth_free(g);
	picture_free(&opening);
}

static void test_unmap(void **state)
{
	struct picture opening;
	struct growth_sum sum;
	struct growth *g;
	int64_t net[8];

	picture_make(&opening, "RRRR");
	assert_int_equal(growth_new(1 << 24, &g), 0);
	growth_begin(g, opening.r, &opening.m);
	/* two of what was there are unmapped, one of them comes back through owner 2 */
	growth_gone(g, BASE + P, 2 * P);
	assert_int_equal(growth_fault(g, BASE + P, P, 2), P);
	sum = account(g, "RR.R", net);
	assert_int_equal(net[2], P);
	assert_int_equal(sum.released, 2 * P);
	assert_int_equal(sum.unowned, 0);
	/* given back again */
	growth_gone(g, 0, UINT64_MAX);
	sum = account(g, "....", net);
	assert_int_equal(net[2], 0);
	assert_int_equal(sum.released, 4 * P);
	/* an unmap that failed: the pages are still there, nobody's */
	sum = account(g, "RRRR", net);
	assert_int_equal(sum.unowned, 4 * P);
	assert_int_equal(sum.released, 4 * P);
	growth_free(g);
	picture_free(&opening);
}

static void test_move(void **state)
{
	struct picture opening;
	struct growth_sum sum;
	struct growth *g;
	int64_t net[8];

	picture_make(&opening, "RR");
	assert_int_equal(growth_new(1 << 24, &g), 0);
	growth_begin(g, opening.r, &opening.m);
	growth_fault(g, BASE + 2 * P, 2 * P, 5);
	/* all four move to a place of their own, where one more comes */
	growth_move_begin(g, 77, BASE, 4 * P);
	growth_move_end(g, 77, AT(2), 5 * P);
	growth_fault(g, AT(2) + 4 * P, P, 6);
	sum = account(g, "................................RRRRR", net);
	assert_int_equal(net[5], 2 * P);
	assert_int_equal(net[6], P);
	assert_int_equal(sum.moved, 2 * P);
	assert_int_equal(sum.released, 2 * P);
	assert_int_equal(sum.unowned, 0);
	/* one that fails changes nothing; one that shrinks drops the rest */
	growth_move_begin(g, 77, AT(2), 5 * P);
	growth_move_end(g, 77, 0, 0);
	growth_move_begin(g, 77, AT(2), 5 * P);
	growth_move_end(g, 77, AT(2), 3 * P);
	sum = account(g, "................................RRR", net);
	assert_int_equal(net[5], P);
	assert_int_equal(net[6], 0);
	assert_int_equal(sum.moved, 2 * P);
	/* an end without a beginning, beginnings without an end */
	growth_move_end(g, 99, AT(3), P);
	for (uint32_t tid = 1; tid < 1000; tid++)
		growth_move_begin(g, tid, BASE, P);
	growth_free(g);
	picture_free(&opening);
}

/* In place: what was there before is not "moved". */
static void test_move_in_place(void **state)
{
	struct picture opening;
	struct growth_sum sum;
	struct growth *g;
	int64_t net[8];

	picture_make(&opening, "RR");
	assert_int_equal(growth_new(1 << 24, &g), 0);
	growth_begin(g, opening.r, &opening.m);
	growth_move_begin(g, 1, BASE, 2 * P);
	growth_move_end(g, 1, BASE, 4 * P);
	growth_fault(g, BASE + 2 * P, 2 * P, 1);
	sum = account(g, "RRRR", net);
	assert_int_equal(net[1], 2 * P);
	assert_int_equal(sum.moved, 0);
	assert_int_equal(sum.released, 0);
	growth_free(g);
	picture_free(&opening);
}

/* One fault brought the pages around it; a page far away stays nobody's. */
static void test_nearby(void **state)
{
	struct picture opening;
	struct growth_sum sum;
	struct growth *g;
	int64_t net[8];

	picture_make(&opening, "");
	assert_int_equal(growth_new(1 << 24, &g), 0);
	growth_begin(g, opening.r, &opening.m);
	growth_fault(g, BASE + 3 * P, P, 2);
	sum = account(g, "RRRRRRRRRRRRRRRRR", net);
	assert_int_equal(net[2], 16 * P);
	assert_int_equal(sum.nearby, 15 * P);
	assert_int_equal(sum.unowned, P);
	growth_free(g);
	picture_free(&opening);
}

/* The target has gone: all that was not given back is there. */
static void test_gone(void **state)
{
	struct picture opening;
	struct growth_sum sum;
	struct growth *g;
	int64_t net[8] = { 0 };

	picture_make(&opening, "RRR");
	assert_int_equal(growth_new(1 << 24, &g), 0);
	growth_begin(g, opening.r, &opening.m);
	growth_fault(g, AT(4), 3 * P, 2);
	growth_gone(g, AT(4), P);
	growth_gone(g, BASE, P);
	assert_int_equal(growth_account(g, NULL, NULL, net, 8, &sum), 0);
	assert_int_equal(net[2], 2 * P);
	assert_int_equal(sum.closing, 4 * P);
	assert_int_equal(sum.released, P);
	assert_int_equal(sum.unowned, 0);
	growth_free(g);
	picture_free(&opening);
}

/* Nonsense from the ring buffer, and no more room. */
static void test_bounds(void **state)
{
	struct growth_sum sum;
	struct growth *g;
	int64_t net[8];

	assert_int_equal(growth_new(300000, &g), 0);
	growth_begin(g, NULL, NULL);
	assert_int_equal(growth_fault(g, UINT64_MAX, UINT64_MAX, 1), 0);
	growth_gone(g, 1ULL << 47, P);
	growth_move_begin(g, 0, UINT64_MAX - P, 2 * P);
	growth_move_end(g, 0, 1, UINT64_MAX);
	growth_fault(g, BASE, 1ULL << 32, 1);
	sum = account(g, "RR", net);
	assert_int_equal(net[1], 2 * P);
	assert_true(sum.lost > 0);
	assert_true(growth_bytes(g) <= 300000);
	growth_free(g);
	growth_free(NULL);
}

static void test_stacks(void **state)
{
	struct frame frames[STACK_FRAMES];
	struct event_stack ev = { 0 };
	struct stacks *s;

	assert_int_equal(stacks_new(8 << 20, &s), 0);
	ev.n_leaf = 3;
	ev.words[0] = STACK_WORD(STACK_NATIVE, 0x7f0012345678);
	ev.words[1] = STACK_WORD(STACK_ERLANG, 0x7f0012345679);
	ev.words[2] = STACK_REPEAT_WORD(1, 512);
	for (uint64_t h = 1; h < 20000; h++) {
		ev.hash = h * 0x9e3779b97f4a7c15ULL;
		assert_int_equal(stacks_add(s, &ev, sizeof(ev)), 0);
		assert_int_equal(stacks_add(s, &ev, sizeof(ev)), 0);
	}
	assert_int_equal(s->n, 19999);
	assert_non_null(stacks_find(s, 77 * 0x9e3779b97f4a7c15ULL));
	assert_null(stacks_find(s, 77));
	assert_int_equal(stack_frames(s, stacks_find(s, 77 * 0x9e3779b97f4a7c15ULL), frames), 3);
	assert_int_equal(frames[0].kind, FRAME_NATIVE);
	assert_int_equal(frames[1].kind, FRAME_ERLANG);
	assert_int_equal(frames[1].addr, 0x7f0012345679);
	assert_int_equal(frames[2].kind, FRAME_REPEAT);
	/* shorter than it says, longer than can be, empty */
	ev.hash = 5;
	assert_int_equal(stacks_add(s, &ev, offsetof(struct event_stack, words) + 16), -EINVAL);
	ev.n_root = STACK_FRAMES;
	assert_int_equal(stacks_add(s, &ev, sizeof(ev)), -EINVAL);
	ev.n_leaf = ev.n_root = 0;
	assert_int_equal(stacks_add(s, &ev, sizeof(ev)), -EINVAL);
	/* owners: a process, or else a thread */
	for (int round = 0; round < 2; round++)
		for (uint32_t i = 1; i < 5000; i++)
			assert_int_equal(owner_get(s, i, i % 2 ? 0x53 : 0, i), i);
	assert_int_equal(owner_get(s, 7, 0x53, 99), 7);
	assert_true(owner_get(s, 8, 0, 99) != 8);
	/* and no more when there is no room */
	for (uint64_t i = 0; i < 1000000; i++)
		owner_get(s, i, 1, 0);
	assert_true(s->lost > 0);
	assert_true(stacks_bytes(s) <= 10 << 20);
	stacks_free(s);
	stacks_free(NULL);
}

static void thin(struct set *set, unsigned level)
{
	(void)set;
	(void)level;
}

static void detach(struct set *set)
{
	(void)set;
}

/* A second in which so many hits took a stack of 5 us each. */
static void second(struct governor *g, counters count, struct set *sets[SET_N], enum set_id id,
		   unsigned stacks)
{
	g->last_ns = session_now_ns() - 1000000000ULL;
	count[id][COUNT_HITS] += stacks;
	count[id][COUNT_STACKS] += stacks;
	count[id][COUNT_STACK_NS] += stacks * 5000ULL;
	governor_tick(g, count, sets);
}

static void test_governor(void **state)
{
	static const struct set_class always = { .name = "always", .levels = 4, .thin = thin };
	static const struct set_class demand = {
		.name = "demand", .levels = 2, .thin = thin, .on_demand = true, .detach = detach
	};
	struct set a = { .class = &always, .attached = true };
	struct set b = { .class = &demand, .attached = true };
	struct set *sets[SET_N] = { [SET_GROWTH] = &a, [SET_GC] = &b };
	static counters count;
	struct governor g = { 0 };

	governor_start(&g, 0.01);
	for (int i = 0; i < 3; i++)
		second(&g, count, sets, SET_GROWTH, 20000); /* 10% of a core */
	assert_int_equal(a.level, 3);
	assert_int_equal(b.level, 0); /* it costs nothing */
	assert_true(g.now > 0.09 && g.now < 0.13);
	assert_false(g.over);
	second(&g, count, sets, SET_GROWTH, 20000);
	assert_true(strstr(a.notice, "16"));
	for (int i = 0; i < 20; i++)
		second(&g, count, sets, SET_GROWTH, 0); /* quiet again */
	assert_int_equal(a.level, 0);
	assert_string_equal(a.notice, "");
	/* on demand and too dear: thinned as far as it goes, then detached */
	for (int i = 0; i < 4; i++)
		second(&g, count, sets, SET_GC, 20000);
	assert_int_equal(b.level, 2);
	assert_true(b.attached && g.over);
	for (int i = 0; i < 4; i++)
		second(&g, count, sets, SET_GC, 20000);
	assert_false(b.attached);
	assert_true(a.attached);
	assert_true(strstr(b.notice, "detached"));
	/* what is always on stays, and says so */
	for (int i = 0; i < 20; i++)
		second(&g, count, sets, SET_GROWTH, 20000);
	assert_true(a.attached && g.over);
	assert_int_equal(a.level, 4);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_faults),	 cmocka_unit_test(test_unmap),
		cmocka_unit_test(test_move),	 cmocka_unit_test(test_move_in_place),
		cmocka_unit_test(test_nearby),	 cmocka_unit_test(test_gone),
		cmocka_unit_test(test_bounds),	 cmocka_unit_test(test_stacks),
		cmocka_unit_test(test_governor),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
