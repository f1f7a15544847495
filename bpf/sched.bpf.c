// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * Where every thread of the target spends its time: on a processor, waiting for one,
 * blocked, or idle. The tracepoint fires for all processes of the machine, so that the
 * first thing is to see that neither side of the switch is ours. A switch that was not told
 * shows at the next one, and the time is divided as the kernel counts it: see ran_since().
 */
#define PROBE_SET SET_SCHED
#include "target.bpf.h"
#include "scheduler.bpf.h"

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, struct sched_thread);
} sched_threads SEC(".maps");

static __always_inline void class_set(struct sched_thread *t, __u32 class, __u64 now)
{
	if (now > t->since)
		t->ns[t->class & (SCHED_N - 1)] += now - t->since;
	t->since = now;
	t->class = class;
}

/* The process that a normal scheduler leaves with. Only the current thread's memory can be
 * read, so it is done here and not when the scheduler comes back. */
static __always_inline void process_note(struct sched_thread *s, const struct thread *t,
					 __u32 class)
{
	__u64 proc;

	s->process = 0;
	if (class == SCHED_IDLE || !t || t->vm.role != ROLE_SCHEDULER || !cfg.proc_reds)
		return;
	proc = scheduler_word(t->vm.scheduler, cfg.sched_current_process);
	if (proc && (read_user(&s->process, sizeof(s->process), proc + cfg.proc_id) ||
		     read_user(&s->reds, sizeof(s->reds), proc + cfg.proc_reds))) {
		count(COUNT_READ_FAILED);
		s->process = 0;
	}
}

static __always_inline void away_send(struct sched_thread *s, __u32 tid, __u64 now)
{
	struct event_sched_away ev = {};

	if (s->process && now - s->since >= SCHED_AWAY_MIN_NS) {
		ev.e.kind = EVENT_SCHED_AWAY;
		ev.e.tid = tid;
		ev.process = s->process;
		ev.reds = s->reds;
		ev.from = s->since;
		ev.to = now;
		send(&ev, sizeof(ev));
	}
	s->process = 0;
}

static __always_inline void came_back(struct sched_thread *s, __u32 tid, __u64 when)
{
	away_send(s, tid, when);
	class_set(s, SCHED_RUNNING, when);
}

static __always_inline void switched_out(struct task_struct *task, bool preempt, __u64 now)
{
	struct sched_thread *s, fresh = {};
	__u32 tid = (__u32)task->pid, class;
	struct thread *t;

	count(COUNT_HITS);
	t = thread_get(tid);
	class = t && t->vm.scheduler && scheduler_waits(t->vm.scheduler) ? SCHED_IDLE
		: preempt						 ? SCHED_PREEMPTED
									 : SCHED_BLOCKED;
	s = bpf_map_lookup_elem(&sched_threads, &tid);
	if (s) {
		if (s->class != SCHED_RUNNING)
			came_back(s, tid, now - ran_since(task, s->since, s->exec, now));
		class_set(s, class, now);
		if (class != SCHED_PREEMPTED)
			s->away = class;
		s->exec = task->se.sum_exec_runtime;
		s->switches++;
		process_note(s, t, class);
		return;
	}
	if (task->flags & PF_EXITING)
		return;
	fresh.since = now;
	fresh.exec = task->se.sum_exec_runtime;
	fresh.class = class;
	fresh.away = class == SCHED_PREEMPTED ? SCHED_BLOCKED : class;
	process_note(&fresh, t, class);
	if (bpf_map_update_elem(&sched_threads, &tid, &fresh, BPF_NOEXIST))
		count(COUNT_FULL);
}

static __always_inline void switched_in(struct task_struct *task, __u64 now)
{
	struct sched_thread *s, fresh = {};
	__u32 tid = (__u32)task->pid;

	count(COUNT_HITS);
	s = bpf_map_lookup_elem(&sched_threads, &tid);
	if (s) {
		if (s->class == SCHED_RUNNING) /* it has left since, likely for what it did last */
			class_set(s, s->away, s->since + ran_since(task, s->since, s->exec, now));
		came_back(s, tid, now);
		s->exec = task->se.sum_exec_runtime;
		return;
	}
	fresh.since = now;
	fresh.exec = task->se.sum_exec_runtime;
	fresh.class = SCHED_RUNNING;
	fresh.away = SCHED_BLOCKED;
	if (bpf_map_update_elem(&sched_threads, &tid, &fresh, BPF_NOEXIST))
		count(COUNT_FULL);
}

/* The state that the thread leaves with is 0 (TASK_RUNNING) also when it gave way by
 * itself; both want the processor. */
SEC("tp_btf/sched_switch")
int BPF_PROG(sched_switch, bool preempt, struct task_struct *prev, struct task_struct *next)
{
	bool out = is_task_of_target(prev), in = is_task_of_target(next);
	__u64 begin, *v;
	struct cpu_state *cpu;

	if (!out && !in)
		return 0;
	begin = bpf_ktime_get_ns();
	if (out)
		switched_out(prev, preempt || task_runnable(prev), begin);
	if (in && !untold())
		switched_in(next, begin);
	cpu = cpu_get();
	if (!cpu)
		return 0;
	v = cpu->v[PROBE_SET];
	if ((v[COUNT_HITS] & 63) < 2) {
		v[COUNT_TIMED] += out + in;
		v[COUNT_TIMED_NS] += bpf_ktime_get_ns() - begin;
	}
	return 0;
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(sched_exit, struct task_struct *task)
{
	__u64 id = bpf_get_current_pid_tgid();
	struct event_sched_end ev = {};
	struct sched_thread *t;
	__u32 tid = tid_of(id);

	if (!is_target(id))
		return 0;
	t = bpf_map_lookup_elem(&sched_threads, &tid);
	if (!t)
		return 0;
	class_set(t, SCHED_BLOCKED, bpf_ktime_get_ns());
	ev.e.kind = EVENT_SCHED_END;
	ev.e.tid = tid;
	ev.t = *t;
	send(&ev, sizeof(ev));
	bpf_map_delete_elem(&sched_threads, &tid);
	return 0;
}
