// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * Who makes resident memory grow: page faults, and the system calls that take
 * pages away or move them.
 *
 * A page becomes resident by a fault (or by being populated), so the fault's
 * stack is who made the target grow; what the call that mapped the range was
 * does not matter. Neighbouring pages that a thread faults in from one stack
 * are joined to a run, and a run is one record. Whether a page is still there
 * at the end is for the closing pagemap to say.
 *
 * A stack for every fault would cost too much. Faults of one place (same
 * instruction, same process, same thread) share a bucket of stacks; when it is
 * empty, a fault takes over the stack that its place took last. So a rare fault
 * always has a stack of its own, however many there are elsewhere.
 */
#include "target.bpf.h"

enum { /* x86-64 system call numbers */
	SYS_MMAP = 9,
	SYS_MUNMAP = 11,
	SYS_BRK = 12,
	SYS_MREMAP = 25,
	SYS_MADVISE = 28,
};

#define PROT_EXEC_BIT 4
#define MAP_FIXED_BIT 0x10
#define ADVICE_DONTNEED 4
#define ADVICE_REMOVE 9
#define ADVICE_DONTNEED_LOCKED 24

static __always_inline void run_flush(struct thread *t, __u32 tid)
{
	struct event_run ev;

	if (!t->run.pages)
		return;
	ev.e.kind = EVENT_RUN;
	ev.e.tid = tid;
	ev.run = t->run;
	t->run.pages = 0;
	send(&ev, sizeof(ev));
}

/* The stack that this fault is counted to. */
static __always_inline __u64 stack_for(__u32 slot, struct scratch *s, struct thread *t, __u64 now)
{
	__u64 key = (s->ip ^ (s->process * 0x9e3779b97f4a7c15ULL)) * 0xff51afd7ed558ccdULL | 1;
	struct stratum *place = &t->strata[(key >> 40) & (STRATA - 1)];
	struct cpu_state *cpu = cpu_get();
	struct control *c = control_get();
	bool fresh, take;
	__u64 burst;

	if (!cpu || !c)
		return 0;
	fresh = place->key != key;
	if (fresh) {
		place->key = key;
		place->stack = 0;
		place->due = 0;
	}
	/* What is seen for the first time may use up the CPU's bucket, what comes
	 * again leaves some for it. */
	burst = c->limits.cpu_burst;
	take = true;
	if (!bucket_take(&place->due, now, c->limits.place_interval, c->limits.place_burst)) {
		take = ((now * 0x9e3779b97f4a7c15ULL >> 40) & c->limits.random_mask) == 0;
		burst /= 4;
	} else if (!fresh) {
		burst /= 2;
	}
	if (take && bucket_take(&cpu->due, now, c->limits.cpu_interval, burst)) {
		stack_begin(s);
		stack_walk(slot);
		stack_send(slot);
		process_send(s);
		stack_count(s, bpf_ktime_get_ns() - now);
		place->stack = s->out.hash;
		return s->out.hash;
	}
	if (place->stack) {
		cpu->v[COUNT_THINNED]++;
		return place->stack;
	}
	/* nothing to take over: the leaf alone */
	cpu->v[COUNT_LEAF_ONLY]++;
	stack_begin(s);
	stack_leaf(slot);
	s->out.flags = STACK_LEAF_ONLY;
	s->out.cut = CUT_THINNED;
	stack_send(slot);
	place->stack = s->out.hash;
	place->due = 0;
	return s->out.hash;
}

/*
 * One page at `address`, touched by `regs`. Most faults continue a loop that
 * copies or clears: same instruction, same process, next page, within a tick or
 * two. They belong to the stack of the page before, and are counted without more.
 */
static __always_inline void page_came(__u32 slot, struct pt_regs *regs, __u32 tid, __u64 address)
{
	__u64 page = address & ~(PAGE_BYTES - 1), jiffies = bpf_jiffies64();
	__u64 begin = 0, proc = 0, ip = regs->ip, stack, stacks;
	struct cpu_state *cpu = cpu_get();
	struct scratch *s;
	struct thread *t;
	struct run *run;

	if (!cpu)
		return;
	stacks = cpu->v[COUNT_STACKS];
	if ((++cpu->v[COUNT_FAULTS] & 63) == 0)
		begin = bpf_ktime_get_ns();
	t = thread_get(slot, tid);
	if (!t)
		return;
	proc = proc_read(t);
	run = &t->run;
	if (run->pages && page == run->start + run->pages * PAGE_BYTES && ip == t->run_ip &&
	    proc == t->run_proc && jiffies - t->run_jiffies <= 1) {
		run->pages++;
		t->run_jiffies = jiffies;
		goto out;
	}
	s = scratch_get(slot);
	if (!s)
		return;
	regs_take(s, regs);
	process_read(s, t, proc);
	s->fault_page = page;
	stack = stack_for(slot, s, t, bpf_ktime_get_ns());
	t->run_ip = ip;
	t->run_proc = proc;
	t->run_jiffies = jiffies;
	if (run->pages && page == run->start + run->pages * PAGE_BYTES && run->stack == stack &&
	    run->process == s->process) {
		run->pages++;
	} else {
		run_flush(t, tid);
		run->start = page;
		run->pages = 1;
		run->stack = stack;
		run->process = s->process;
	}
out:
	if (begin && stacks == cpu->v[COUNT_STACKS]) {
		cpu->v[COUNT_TIMED]++;
		cpu->v[COUNT_TIMED_NS] += bpf_ktime_get_ns() - begin;
	}
}

SEC("tp_btf/page_fault_user")
int BPF_PROG(page_fault_user, unsigned long address, struct pt_regs *regs, unsigned long error)
{
	__u64 id = bpf_get_current_pid_tgid();

	if (is_target(id) && address < USER_END)
		page_came(SLOT_FAULT, regs, tid_of(id), address);
	return 0;
}

/* The kernel touches the target's memory for it: read(2) into fresh memory. The
 * registers that the thread entered the kernel with are what we walk from. */
SEC("tp_btf/page_fault_kernel")
int BPF_PROG(page_fault_kernel, unsigned long address, struct pt_regs *kernel_regs,
	     unsigned long error)
{
	__u64 id = bpf_get_current_pid_tgid();
	struct pt_regs *regs;

	if (!is_target(id) || address >= USER_END)
		return 0;
	if (!bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_task_pt_regs))
		return 0;
	regs = (struct pt_regs *)bpf_task_pt_regs(bpf_get_current_task_btf());
	page_came(SLOT_FAULT_KERNEL, regs, tid_of(id), address);
	return 0;
}

static __always_inline void send_range(__u32 kind, __u32 tid, __u64 start, __u64 bytes, __u64 to,
				       __u64 to_bytes)
{
	struct event_range ev = {};

	ev.e.kind = kind;
	ev.e.tid = tid;
	ev.start = start;
	ev.bytes = bytes;
	ev.ns = bpf_ktime_get_ns();
	ev.to = to;
	ev.to_bytes = to_bytes;
	send(&ev, sizeof(ev));
}

/* On the way in: afterwards another thread may already have got the range. */
SEC("tp_btf/sys_enter")
int BPF_PROG(sys_enter, struct pt_regs *regs, long number)
{
	struct task_struct *task;
	struct thread *t;
	__u64 id, from, end;
	__u32 tid;

	if (number != SYS_MMAP && number != SYS_MUNMAP && number != SYS_BRK &&
	    number != SYS_MREMAP && number != SYS_MADVISE)
		return 0;
	id = bpf_get_current_pid_tgid();
	if (!is_target(id))
		return 0;
	tid = tid_of(id);
	count(COUNT_SYSCALLS);
	t = thread_get(SLOT_SYSCALL, tid);
	if (!t)
		return 0;
	switch (number) {
	case SYS_MUNMAP:
		run_flush(t, tid);
		send_range(EVENT_UNMAP, tid, regs->di, regs->si, 0, 0);
		break;
	case SYS_BRK:
		task = (struct task_struct *)bpf_get_current_task();
		from = regs->di;
		end = BPF_CORE_READ(task, mm, brk);
		if (from >= BPF_CORE_READ(task, mm, start_brk) && from < end) {
			run_flush(t, tid);
			from = (from + PAGE_BYTES - 1) & ~(PAGE_BYTES - 1);
			send_range(EVENT_UNMAP, tid, from, end - from, 0, 0);
		}
		break;
	case SYS_MADVISE:
		if (regs->dx == ADVICE_DONTNEED || regs->dx == ADVICE_REMOVE ||
		    regs->dx == ADVICE_DONTNEED_LOCKED) {
			run_flush(t, tid);
			send_range(EVENT_UNMAP, tid, regs->di, regs->si, 0, 0);
		}
		break;
	case SYS_MMAP:
		if (regs->r10 & MAP_FIXED_BIT) {
			run_flush(t, tid);
			send_range(EVENT_UNMAP, tid, regs->di, regs->si, 0, 0);
		}
		if (regs->dx & PROT_EXEC_BIT)
			send_range(EVENT_CODE, tid, regs->di, regs->si, 0, 0);
		break;
	case SYS_MREMAP:
		run_flush(t, tid);
		t->move_start = regs->di;
		t->move_bytes = regs->si;
		t->move_to_bytes = regs->dx;
		send_range(EVENT_MOVE_BEGIN, tid, regs->di, regs->si, 0, regs->dx);
		break;
	}
	return 0;
}

SEC("tp_btf/sys_exit")
int BPF_PROG(sys_exit, struct pt_regs *regs, long ret)
{
	struct thread *t;
	__u64 id;
	__u32 tid;

	if (regs->orig_ax != SYS_MREMAP)
		return 0;
	id = bpf_get_current_pid_tgid();
	if (!is_target(id))
		return 0;
	tid = tid_of(id);
	t = bpf_map_lookup_elem(&threads, &tid);
	if (!t || !t->move_bytes)
		return 0;
	send_range(EVENT_MOVE_END, tid, t->move_start, t->move_bytes,
		   ret < 0 && ret > -4096 ? 0 : (__u64)ret, t->move_to_bytes);
	t->move_bytes = 0;
	return 0;
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(process_exit, struct task_struct *task)
{
	__u64 id = bpf_get_current_pid_tgid();
	__u32 tid = tid_of(id);
	struct thread *t;

	if (!is_target(id))
		return 0;
	t = bpf_map_lookup_elem(&threads, &tid);
	if (!t)
		return 0;
	run_flush(t, tid);
	bpf_map_delete_elem(&threads, &tid);
	return 0;
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(process_exec, struct task_struct *task)
{
	__u64 id = bpf_get_current_pid_tgid();
	struct event ev = { .kind = EVENT_EXEC, .tid = tid_of(id) };

	if (is_target(id))
		send(&ev, sizeof(ev));
	return 0;
}
