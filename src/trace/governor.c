// SPDX-License-Identifier: Apache-2.0
/*
 * The budget. Programs time every stack that they walk, and one in 64 of the
 * hits that walk none; what the kernel spends before a program runs cannot be seen
 * from inside and is a constant of the set, measured on a quiet machine. That, and our
 * own CPU time, is the cost.
 *
 * Above the budget, the dearest set that can still be thinned is thinned by one step,
 * which halves its stacks; well below, the set that was thinned most gets a step back.
 * Where nothing is left to be thinned, the dearest set that was attached on demand is
 * detached. Events are never left out of a set that stays: without them what it says
 * would be wrong.
 */
#include "trace/session_int.h"

#include <stdio.h>
#include <time.h>

#define TIMED_DEFAULT_NS 200 /* until some hits have been timed */
#define TICK_NS		 500000000ULL
#define DETACH_AFTER	 4  /* ticks above the budget with nothing to thin */
#define AT_ONCE		 30 /* times the budget: thinning, a level a tick, would take seconds */

uint64_t session_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ULL + (uint64_t)ts.tv_nsec;
}

void governor_start(struct governor *g, double budget)
{
	g->budget = budget > 0 ? budget : 0.01;
	g->start_ns = session_now_ns();
	g->last_ns = g->start_ns;
}

uint64_t governor_kernel_ns(const struct set *set, const uint64_t count[COUNT_N])
{
	uint64_t hits = count[COUNT_HITS], stacks = count[COUNT_STACKS];
	uint64_t plain = hits > stacks ? hits - stacks : 0;
	uint64_t each = count[COUNT_TIMED] ? count[COUNT_TIMED_NS] / count[COUNT_TIMED]
					   : TIMED_DEFAULT_NS;

	return count[COUNT_STACK_NS] + plain * each +
	       hits * (set->hit_ns ? set->hit_ns : set->class->hit_ns);
}

static void level_set(struct set *set, unsigned level)
{
	set->level = level;
	set->class->thin(set, level);
	if (level)
		snprintf(set->notice, sizeof(set->notice),
			 "%s: one stack in %u is taken, to stay within the budget",
			 set->class->name, 1u << level);
	else
		set->notice[0] = '\0';
}

static bool can_thin(const struct set *set)
{
	return set && set->attached && set->class->thin && set->level < set->class->levels;
}

static void drop_set(struct governor *g, struct set *drop)
{
	g->over_for = 0;
	set_detach(drop);
	snprintf(drop->notice, sizeof(drop->notice),
		 "%s was detached after %.1f s: it cost %.1f%% of a core, and all of it may cost "
		 "%.1f%% (--budget)",
		 drop->class->name, (double)(session_now_ns() - g->start_ns) / 1e9,
		 100 * drop->cost, 100 * g->budget);
}

static void save(struct governor *g, struct set *const sets[SET_N])
{
	struct set *thin = NULL, *drop = NULL;

	for (unsigned i = 0; i < SET_N; i++) {
		struct set *set = sets[i];

		if (can_thin(set) && (!thin || set->cost > thin->cost))
			thin = set;
		if (set && set->attached && set->class->on_demand &&
		    (!drop || set->cost > drop->cost))
			drop = set;
	}
	if (drop && drop->cost > AT_ONCE * g->budget) {
		drop_set(g, drop);
		return;
	}
	/* thinning what costs next to nothing saves nothing */
	if (thin && (!drop || thin->cost >= g->budget / 10)) {
		level_set(thin, thin->level + 1);
		g->over_for = 0;
		return;
	}
	g->over = true;
	if (drop && ++g->over_for >= DETACH_AFTER)
		drop_set(g, drop);
}

static void restore(struct set *const sets[SET_N])
{
	struct set *most = NULL;

	for (unsigned i = 0; i < SET_N; i++)
		if (sets[i] && sets[i]->attached && sets[i]->level &&
		    (!most || sets[i]->level > most->level))
			most = sets[i];
	if (most)
		level_set(most, most->level - 1);
}

void governor_tick(struct governor *g, counters count, struct set *const sets[SET_N])
{
	uint64_t now = session_now_ns();
	double wall = (double)(now - g->last_ns);

	if (now - g->last_ns < TICK_NS)
		return;
	g->now = (double)(g->own_ns - g->last_own_ns) / wall;
	for (unsigned i = 0; i < SET_N; i++) {
		uint64_t kernel;

		if (!sets[i])
			continue;
		/* an average is in it: less than before if what came since was cheap */
		kernel = governor_kernel_ns(sets[i], count[i]);
		sets[i]->cost = kernel > sets[i]->last_kernel_ns
					? (double)(kernel - sets[i]->last_kernel_ns) / wall
					: 0;
		sets[i]->last_kernel_ns = kernel;
		g->now += sets[i]->cost;
	}
	g->last_ns = now;
	g->last_own_ns = g->own_ns;
	g->over = false;
	if (g->now > g->budget)
		save(g, sets);
	else if (g->now < 0.4 * g->budget)
		restore(sets);
	if (!g->over)
		g->over_for = 0;
}
