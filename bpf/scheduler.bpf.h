/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * What a scheduler thread is doing, from what the VM itself keeps about it. No symbol
 * is needed, only offsets:
 *
 *	ErtsSchedulerData.ssi -> flags	ERTS_SSI_FLG_WAITING from the moment it has
 *					found no work until it has been given some:
 *					spinning and sleeping alike
 *	    .current_port		set while a driver's callback runs
 *	    .current_process		set while a process is scheduled in
 *	    .current_nif		set around a NIF, on dirty schedulers too
 *	Process.state			ERTS_PSFLG_GC during every collection
 */
#ifndef BEAMRAY_BPF_SCHEDULER_H
#define BEAMRAY_BPF_SCHEDULER_H

#include "state.bpf.h"

#define SSI_FLG_WAITING 8 /* erl_process.h, ERTS_SSI_FLG_WAITING; the same since R13 */

static __always_inline __u64 scheduler_word(__u64 scheduler, __u32 offset)
{
	__u64 value = 0;

	if (!offset || read_user(&value, sizeof(value), scheduler + offset))
		return 0;
	return value;
}

static __always_inline bool scheduler_waits(__u64 scheduler)
{
	__u64 ssi = scheduler_word(scheduler, cfg.sched_ssi);
	__u32 flags = 0;

	if (!ssi || read_user(&flags, sizeof(flags), ssi + cfg.ssi_flags))
		return false;
	return flags & SSI_FLG_WAITING;
}

static __always_inline __u32 scheduler_state(__u64 scheduler, __u64 proc)
{
	__u32 state = 0;

	if (!scheduler)
		return STATE_OTHER;
	if (scheduler_word(scheduler, cfg.sched_current_port))
		return STATE_PORT; /* it wins: a process may be current too */
	if (!proc)
		return scheduler_waits(scheduler) ? STATE_WAITING : STATE_SCHEDULER;
	if (cfg.proc_state && !read_user(&state, sizeof(state), proc + cfg.proc_state) &&
	    (state & cfg.psflg_gc))
		return STATE_GC;
	if (scheduler_word(scheduler, cfg.sched_current_nif))
		return STATE_NIF;
	return STATE_PROCESS;
}

/* Now and then the kernel does not tell of a switch (6.18: of one in some ten thousand).
 * What it counts of the thread's time says how long it ran all the same: it was told of
 * last at `since`, with `exec` ns run (0: not known, then it did not run), and is now. Never
 * more than has passed. */
static __always_inline __u64 ran_since(struct task_struct *task, __u64 since, __u64 exec, __u64 now)
{
	__u64 all = now > since ? now - since : 0, ran = task->se.sum_exec_runtime - exec;

	return !exec ? 0 : ran < all ? ran : all;
}

/* For tests. */
static __always_inline bool untold(void)
{
	return cfg.untold && !(bpf_get_prandom_u32() % cfg.untold);
}

#endif
