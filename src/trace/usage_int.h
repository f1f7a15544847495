/* SPDX-License-Identifier: Apache-2.0 */
/* Between usage.c and the two sets that it gets its figures from. */
#ifndef BEAMRAY_TRACE_USAGE_INT_H
#define BEAMRAY_TRACE_USAGE_INT_H

#include "trace/set.h"
#include "trace/usage.h"

struct usage_thread_times {
	uint32_t tid;
	bool ended;
	struct sched_thread t;
};

/* Calls fn for every thread that the set knows; stops when it returns nonzero. */
int sched_each(struct set *set, int (*fn)(void *arg, const struct usage_thread_times *t),
	       void *arg);
int cpu_each_thread(struct set *set,
		    int (*fn)(void *arg, uint32_t tid, const uint64_t samples[STATE_N]), void *arg);
int cpu_each_process(struct set *set, int (*fn)(void *arg, const struct process_usage *p),
		     void *arg);

#endif
