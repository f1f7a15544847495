/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What threads and processes did with their time: the tables beside the stacks, from
 * the sets "sched" (exact times of threads) and "cpu" (samples).
 *
 * A scheduler's utilisation, as scheduler_wall_time defines it, is the time in which
 * it had something to do, whether or not the machine gave it a processor:
 *
 *	busy = running + preempted + blocked - spinning
 *	wall = running + preempted + blocked + idle
 *
 * running, preempted, blocked and idle are exact. Spinning (busy wait for new work
 * before it goes to sleep) is the part of the running time that the samples found in
 * it: an estimate, whose standard error is given. Aux work and timers that a scheduler
 * does between two naps count as spinning here; scheduler_wall_time has them as busy.
 */
#ifndef BEAMRAY_TRACE_USAGE_H
#define BEAMRAY_TRACE_USAGE_H

#include "trace/session.h"

struct thread_usage {
	uint32_t tid;
	char label[40]; /* "scheduler 1", "dirty io 3", else the thread's name */
	unsigned role;	/* enum thread_role */
	bool ended;
	bool timed;	      /* the times are known */
	uint64_t ns[SCHED_N]; /* by enum sched_class */
	uint64_t switches;
	uint64_t samples[STATE_N]; /* by enum thread_state */
};

uint64_t thread_usage_wall(const struct thread_usage *u);    /* ns */
uint64_t thread_usage_samples(const struct thread_usage *u); /* all states */
/* Time spent spinning, estimated; *error is its standard error. Both ns. */
double thread_usage_spin(const struct thread_usage *u, double *error);
/* 0..1 as defined above; *error likewise. -1 when the times are not known. */
double thread_usage_busy(const struct thread_usage *u, double *error);

/* All threads seen since session_baseline(), schedulers first. The caller frees.
 * Returns their number or -ENOMEM. */
ssize_t session_threads_usage(struct session *s, struct thread_usage **out);

struct process_usage {
	uint64_t process; /* pid term */
	uint64_t samples[STATE_N];
	/* Times that it stayed scheduled in on a normal scheduler for at least the
	 * threshold, from samples in a row between which it was not scheduled out: the
	 * longest of these took at least and at most so long (0: it is not over). All
	 * are counted that last the threshold and two periods of the samples; the times
	 * that the thread was off the processor meanwhile are exact (set sched). */
	uint64_t long_schedules, longest_ns, longest_most_ns;
};

/* Processes that were sampled, those with most samples first. The caller frees.
 * Returns their number or -ENOMEM. */
ssize_t session_processes_usage(struct session *s, struct process_usage **out);
/* The process's name; valid until the next call. */
const char *session_process_label(struct session *s, uint64_t process);

#endif
