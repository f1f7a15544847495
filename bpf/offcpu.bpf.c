// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * Where threads block: the stack when a thread leaves the processor because it has to
 * wait, and for how long. The stack has to be taken before anybody knows how long it
 * will be; so with `mask` only one in mask + 1 departures, drawn at random, takes one,
 * and stands for all of them.
 *
 * A thread that is preempted does not block. A scheduler that waits for work is idle:
 * its time is summed up, without a stack.
 *
 * A thread that leaves again without having come back has come back untold: see ran_since().
 */
#define PROBE_SET     SET_OFFCPU
#define SCRATCH_SLOTS 1
#include "target.bpf.h"
#include "unwind.bpf.h"
#include "scheduler.bpf.h"

const volatile __u64 min_ns;

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32); /* mask */
	__uint(map_flags, BPF_F_MMAPABLE);
} offcpu_mask SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, struct offcpu_thread);
} offcpu_threads SEC(".maps");

static __always_inline __u32 mask_get(void)
{
	__u32 zero = 0, *mask = bpf_map_lookup_elem(&offcpu_mask, &zero);

	return mask ? *mask : 0;
}

/* The stack of the current thread, 0 if none. */
static __always_inline __u64 take_stack(struct scratch *s, void *ctx, __u64 begin)
{
	stack_begin(s);
	if (!kernel_frames(s, ctx))
		return 0;
	s->fault_page = s->sp & ~(PAGE_BYTES - 1);
	stack_walk(0);
	stack_send(0);
	process_send(s);
	stack_count(s, bpf_ktime_get_ns() - begin);
	return s->out.hash;
}

static __always_inline void sum_up(struct cpu_state *cpu, __u32 number, __u64 ns)
{
	__u64 *v = cpu->v[PROBE_SET];

	if (number) {
		v[COUNT_OFF_IDLE]++;
		v[COUNT_OFF_IDLE_NS] += ns;
	} else {
		v[COUNT_OFF_SHORT]++;
		v[COUNT_OFF_SHORT_NS] += ns;
	}
}

static __always_inline void came_back(struct offcpu_thread *off, __u32 tid, __u64 when)
{
	__u64 ns = when > off->since ? when - off->since : 0;
	struct event_offcpu ev = {};
	struct cpu_state *cpu = cpu_get();

	off->since = 0;
	if (!cpu)
		return;
	if (off->idle || ns < min_ns) {
		sum_up(cpu, off->idle, off->idle ? ns : ns * ((__u64)mask_get() + 1));
		return;
	}
	ev.e.kind = EVENT_OFFCPU;
	ev.e.tid = tid;
	ev.stack = off->stack;
	ev.process = off->process;
	ev.ns = ns * ((__u64)mask_get() + 1);
	send(&ev, sizeof(ev));
}

static __always_inline void leaves(void *ctx, struct task_struct *task)
{
	struct offcpu_thread off = {}, *before;
	__u64 now = bpf_ktime_get_ns();
	__u32 tid = (__u32)task->pid;
	struct scratch *s;
	struct thread *t;

	count(COUNT_HITS);
	before = bpf_map_lookup_elem(&offcpu_threads, &tid);
	if (before && before->since)
		came_back(before, tid, now - ran_since(task, before->since, before->exec, now));
	t = thread_get(tid);
	s = scratch_get(0);
	if (!t || !s)
		return;
	off.since = now;
	off.exec = task->se.sum_exec_runtime;
	off.idle = t->vm.scheduler && scheduler_waits(t->vm.scheduler);
	if (!off.idle) {
		if (bpf_get_prandom_u32() & mask_get()) {
			count(COUNT_THINNED);
			return;
		}
		process_read(s, &t->vm, proc_read(&t->vm));
		off.process = s->process;
		off.stack = take_stack(s, ctx, off.since);
	}
	if (bpf_map_update_elem(&offcpu_threads, &tid, &off, BPF_ANY))
		count(COUNT_FULL);
}

static __always_inline void comes_back(struct task_struct *task)
{
	__u32 tid = (__u32)task->pid;
	struct offcpu_thread *off = bpf_map_lookup_elem(&offcpu_threads, &tid);

	if (off && off->since)
		came_back(off, tid, bpf_ktime_get_ns());
}

SEC("tp_btf/sched_switch")
int BPF_PROG(offcpu_switch, bool preempt, struct task_struct *prev, struct task_struct *next)
{
	if (is_task_of_target(next) && !untold())
		comes_back(next);
	if (is_task_of_target(prev) && !preempt && !task_runnable(prev))
		leaves(ctx, prev);
	return 0;
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(offcpu_exit, struct task_struct *task)
{
	__u64 id = bpf_get_current_pid_tgid();
	__u32 tid = tid_of(id);

	if (is_target(id))
		bpf_map_delete_elem(&offcpu_threads, &tid);
	return 0;
}
