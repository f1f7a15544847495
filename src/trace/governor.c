// SPDX-License-Identifier: Apache-2.0
/*
 * The budget. Programs time every stack that they walk, and one in 64 of the
 * hits that walk none; what the tracepoint itself costs before a program runs
 * cannot be seen from inside and is taken as a constant measured on a quiet
 * machine. That, and our own CPU time, is the cost. Stacks are what can be saved:
 * when the cost is above the budget, their rate is halved, and raised again when
 * it is well below. Events are never left out: without them the live map
 * would be wrong.
 */
#include "trace/session_int.h"

#include <time.h>

#define HIT_NS		 100 /* a tracepoint's own cost, not seen by the program */
#define TIMED_DEFAULT_NS 200 /* until some hits have been timed */
#define TICK_NS		 500000000ULL
#define LEVEL_MAX	 4 /* some 80 stacks a second on each CPU: less tells nothing */

uint64_t session_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ULL + (uint64_t)ts.tv_nsec;
}

static void limits_set(struct limits *l, unsigned level)
{
	l->place_burst = 10;
	l->place_interval = (20000000ULL << level); /* 50 a second */
	l->cpu_burst = 100 >> level;
	l->cpu_interval = 2000000ULL << level; /* 500 a second on each CPU */
	l->reserve_burst = 20;		       /* at every level: 100 a second, and 10 a process */
	l->reserve_interval = 10000000ULL;
	l->process_burst = 4;
	l->process_interval = 100000000ULL;
	l->random_mask = (64u << level) - 1;
	if (l->cpu_burst < 8)
		l->cpu_burst = 8;
}

void governor_start(struct governor *g, double budget, struct limits *limits)
{
	g->budget = budget > 0 ? budget : 0.01;
	g->start_ns = session_now_ns();
	g->last_ns = g->start_ns;
	limits_set(limits, 0);
}

uint64_t governor_kernel_ns(const uint64_t count[COUNT_N])
{
	uint64_t hits = count[COUNT_FAULTS] + count[COUNT_SYSCALLS];
	uint64_t plain = count[COUNT_FAULTS] > count[COUNT_STACKS]
				 ? count[COUNT_FAULTS] - count[COUNT_STACKS]
				 : 0;
	uint64_t each = count[COUNT_TIMED] ? count[COUNT_TIMED_NS] / count[COUNT_TIMED]
					   : TIMED_DEFAULT_NS;

	return count[COUNT_STACK_NS] + plain * each + count[COUNT_SYSCALLS] * TIMED_DEFAULT_NS +
	       hits * HIT_NS;
}

void governor_tick(struct governor *g, const uint64_t count[COUNT_N], struct limits *limits)
{
	uint64_t now = session_now_ns(), kernel;
	double wall, stacks_share;

	if (now - g->last_ns < TICK_NS)
		return;
	kernel = governor_kernel_ns(count);
	wall = (double)(now - g->last_ns);
	g->now = ((double)(kernel - g->last_kernel_ns) + (double)(g->own_ns - g->last_own_ns)) /
		 wall;
	stacks_share = g->now / g->budget;
	g->last_ns = now;
	g->last_kernel_ns = kernel;
	g->last_own_ns = g->own_ns;
	g->over = false;
	if (stacks_share > 1) {
		if (g->level < LEVEL_MAX)
			g->level++;
		else
			g->over = true;
	} else if (stacks_share < 0.4 && g->level) {
		g->level--;
	} else {
		return;
	}
	limits_set(limits, g->level);
}
