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
#define PROBE_SET     SET_GROWTH
#define SCRATCH_SLOTS 2
#include "target.bpf.h"
#include "unwind.bpf.h"

enum scratch_slot { SLOT_FAULT, SLOT_FAULT_KERNEL };

enum { /* x86-64 system call numbers */
       SYS_MMAP = 9,
       SYS_MUNMAP = 11,
       SYS_BRK = 12,
       SYS_MREMAP = 25,
       SYS_MADVISE = 28,
};

#define PROT_EXEC_BIT	       4
#define MAP_FIXED_BIT	       0x10
#define ADVICE_DONTNEED	       4
#define ADVICE_REMOVE	       9
#define ADVICE_DONTNEED_LOCKED 24

#define NEAR_BYTES 256 /* of one loop */

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, RUN_SLOTS);
	__type(key, __u32);
	__type(value, struct run_slot);
	__uint(map_flags, BPF_F_MMAPABLE);
} runs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct growth_limits);
	__uint(map_flags, BPF_F_MMAPABLE);
} growth_limits SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct growth_cpu);
} growth_cpus SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, struct growth_thread);
} growth_threads SEC(".maps");

/* What a thread's state begins as: no such thing fits on the stack. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct growth_thread);
	__uint(map_flags, BPF_F_RDONLY_PROG);
} growth_fresh SEC(".maps");

static __always_inline struct growth_thread *growth_thread_get(__u32 tid)
{
	struct growth_thread *g = bpf_map_lookup_elem(&growth_threads, &tid), *fresh;
	struct thread *t;
	__u32 zero = 0;

	if (g)
		return g;
	t = thread_get(tid);
	fresh = bpf_map_lookup_elem(&growth_fresh, &zero);
	if (!t || !fresh)
		return NULL;
	if (bpf_map_update_elem(&growth_threads, &tid, fresh, BPF_NOEXIST)) {
		count(COUNT_FULL);
		return NULL;
	}
	g = bpf_map_lookup_elem(&growth_threads, &tid);
	if (g)
		g->vm = t->vm;
	return g;
}

/* Sends what of the run has not been sent. */
static __always_inline void run_send(const struct run_slot *slot, const struct run *run)
{
	__u64 sent = slot->sent;
	struct event_run ev;

	if (run->pages <= sent)
		return;
	ev.e.kind = EVENT_RUN;
	ev.e.tid = slot->tid;
	ev.run = *run;
	ev.run.start += sent * PAGE_BYTES;
	ev.run.pages -= sent;
	send(&ev, sizeof(ev));
}

static __always_inline void run_flush(struct run_slot *slot)
{
	run_send(slot, &slot->run);
	slot->run.pages = 0;
	slot->sent = 0;
}

static __always_inline struct run_slot *run_get(__u32 tid)
{
	__u32 at = tid & (RUN_SLOTS - 1);
	struct run_slot *slot = bpf_map_lookup_elem(&runs, &at);

	if (slot && slot->tid != tid) {
		run_flush(slot); /* another thread's: they take turns */
		slot->tid = tid;
	}
	return slot;
}

/* The thread that the run belongs to may be at work on it: its range is not the one
 * that is being taken away then, and what is read is checked. */
__noinline int run_flush_range(__u32 at, __u64 start, __u64 end)
{
	struct run_slot *slot = bpf_map_lookup_elem(&runs, &at);
	struct run run;

	if (!slot)
		return 0;
	run = slot->run;
	if (!run.pages || run.start >= end || run.start + run.pages * PAGE_BYTES <= start)
		return 0;
	if (*(volatile __u64 *)&slot->run.start != run.start ||
	    *(volatile __u64 *)&slot->run.stack != run.stack)
		return 0;
	run_send(slot, &run);
	slot->sent = run.pages;
	return 0;
}

static __always_inline void runs_flush(__u64 start, __u64 bytes)
{
	for (__u32 i = 0; i < RUN_SLOTS; i++)
		run_flush_range(i, start, start + bytes);
}

/* A process that faults ten thousand times a second empties the CPU's bucket as
 * fast as it fills. One that faults now and then, as a slow leak does, must still
 * get its stacks: there is a second bucket that each process may draw on a little. */
static __always_inline bool reserve_take(struct growth_cpu *cpu, const struct growth_limits *limits,
					 __u64 process, __u64 now)
{
	__u64 slot = (process * 0x9e3779b97f4a7c15ULL >> 40) & (RARE - 1);

	if (cpu->rare[slot].process != process) {
		/* of two that meet here, the one that keeps within its share stays */
		if (cpu->rare[slot].due > now)
			return false;
		cpu->rare[slot].process = process;
		cpu->rare[slot].due = 0;
	}
	return bucket_take(&cpu->rare[slot].due, now, limits->process_interval,
			   limits->process_burst) &&
	       bucket_take(&cpu->reserve, now, limits->reserve_interval, limits->reserve_burst);
}

/* The stack that this fault is counted to. */
static __always_inline __u64 stack_for(__u32 slot, struct scratch *s, struct growth_thread *t)
{
	__u64 key = (s->ip ^ (s->process * 0x9e3779b97f4a7c15ULL)) * 0xff51afd7ed558ccdULL | 1;
	struct stratum *place = &t->strata[(key >> 40) & (STRATA - 1)];
	struct growth_limits *limits;
	struct growth_cpu *cpu;
	bool fresh, take;
	__u64 burst, real, now = bpf_ktime_get_ns();
	__u32 zero = 0;

	limits = bpf_map_lookup_elem(&growth_limits, &zero);
	cpu = bpf_map_lookup_elem(&growth_cpus, &zero);
	if (!cpu || !limits)
		return 0;
	fresh = place->key != key;
	if (fresh) {
		place->key = key;
		place->stack = 0;
		place->due = 0;
	}
	/* What is seen for the first time may use up the CPU's bucket, what comes
	 * again leaves some for it. */
	burst = limits->cpu_burst;
	take = true;
	if (!bucket_take(&place->due, now, limits->place_interval, limits->place_burst)) {
		take = (bpf_get_prandom_u32() & limits->random_mask) == 0;
		burst /= 4;
	} else if (!fresh) {
		burst /= 2;
	}
	take = take && (bucket_take(&cpu->due, now, limits->cpu_interval, burst) ||
			reserve_take(cpu, limits, s->process, now));
	if (take) {
		real = proc_read(&t->vm);
		if (real != s->proc) /* what a register said */
			process_read(s, &t->vm, real);
		stack_begin(s);
		stack_walk(slot);
		stack_send(slot);
		process_send(s);
		stack_count(s, bpf_ktime_get_ns() - now);
		place->stack = s->out.hash;
		return s->out.hash;
	}
	if (place->stack) {
		count(COUNT_THINNED);
		return place->stack;
	}
	/* nothing to take over: the leaf alone */
	count(COUNT_LEAF_ONLY);
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
 * Does a fault come from where the thread's run began? The same instruction, or one
 * of the same loop: collectors and compilers' copies write by several instructions in
 * turn. One that is near, with the stack pointer unchanged, is in the same call of the
 * same function. Not so in JIT code, where functions call each other without leaving
 * a trace on the stack.
 */
static __always_inline bool run_goes_on(const struct growth_thread *t, const struct pt_regs *regs)
{
	struct control *c;
	struct tables *code;
	__u64 ip = regs->ip;
	__u32 which;

	if (ip == t->run_ip)
		return true;
	if (ip - t->run_ip + NEAR_BYTES >= 2 * NEAR_BYTES || regs->sp != t->run_sp)
		return false;
	c = control_get();
	which = c ? c->active & 1 : 0;
	code = bpf_map_lookup_elem(&tables, &which);
	return code && (ip < code->code_min || ip >= code->code_max);
}

/* Is it JIT code, which keeps the process that it runs for in r13 (beam_asm.hpp: c_p)?
 * Not so the part that goes from one process to the next. */
static __always_inline bool has_proc(const struct pt_regs *regs)
{
	struct control *c = control_get();
	__u32 which = c ? c->active & 1 : 0;
	struct tables *code = bpf_map_lookup_elem(&tables, &which);
	__u64 ip = regs->ip;

	return code && cfg.flavor != VM_EMULATOR && in_code(code, ip) &&
	       (ip < cfg.main_start || ip >= cfg.main_end);
}

/*
 * One page at `address`, touched by `regs`. Most faults continue a loop that
 * copies or clears: same place, same process, next page, within a tick or
 * two. They belong to the stack of the page before, and are counted without more.
 */
static __always_inline void page_came(__u32 slot, struct pt_regs *regs, __u32 tid, __u64 address)
{
	__u64 page = address & ~(PAGE_BYTES - 1), jiffies = bpf_jiffies64();
	__u64 begin = 0, proc = 0, ip = regs->ip, stack, stacks;
	struct cpu_state *cpu = cpu_get();
	struct growth_thread *t;
	struct run_slot *slot_run;
	struct scratch *s;
	struct run *run;
	__u64 *v;

	if (!cpu)
		return;
	v = cpu->v[PROBE_SET];
	stacks = v[COUNT_STACKS];
	if ((++v[COUNT_HITS] & 63) == 0)
		begin = bpf_ktime_get_ns();
	t = growth_thread_get(tid);
	slot_run = run_get(tid);
	if (!t || !slot_run)
		return;
	/* to read it from the thread's scheduler takes longer than all the rest */
	proc = t->vm.scheduler && has_proc(regs) ? regs->r13 : proc_read(&t->vm);
	run = &slot_run->run;
	if (run->pages && page == run->start + run->pages * PAGE_BYTES && proc == t->run_proc &&
	    jiffies - t->run_jiffies <= 1 && run_goes_on(t, regs)) {
		run->pages++;
		t->run_jiffies = jiffies;
		goto out;
	}
	s = scratch_get(slot);
	if (!s)
		return;
	regs_take(s, regs);
	if (proc == t->run_proc && jiffies - t->run_jiffies <= 1)
		process_known(s, &t->vm, proc, t->run_process);
	else
		process_read(s, &t->vm, proc);
	s->fault_page = page;
	stack = stack_for(slot, s, t);
	t->run_ip = ip;
	t->run_sp = regs->sp;
	t->run_proc = proc;
	t->run_process = s->process;
	t->run_jiffies = jiffies;
	if (run->pages && page == run->start + run->pages * PAGE_BYTES && run->stack == stack &&
	    run->process == s->process) {
		run->pages++;
	} else {
		run_flush(slot_run);
		run->start = page;
		run->pages = 1;
		run->stack = stack;
		run->process = s->process;
	}
out:
	if (begin && stacks == v[COUNT_STACKS]) {
		v[COUNT_TIMED]++;
		v[COUNT_TIMED_NS] += bpf_ktime_get_ns() - begin;
	}
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

/*
 * System calls are seen at the kernel's functions for them, where only these calls pay.
 * Where such a function cannot be attached to (user space tries), at the tracepoint of all
 * system calls, which every process of the machine passes with each of its calls.
 *
 * On the way in: afterwards another thread may already have got the range.
 */
static __always_inline int syscall_came(long number, const struct pt_regs *regs)
{
	struct task_struct *task;
	struct growth_thread *t;
	__u64 id = bpf_get_current_pid_tgid(), from, end;
	__u32 tid;

	if (!is_target(id))
		return 0;
	tid = tid_of(id);
	count(COUNT_HITS);
	count(COUNT_SYSCALLS);
	t = growth_thread_get(tid);
	if (!t)
		return 0;
	switch (number) {
	case SYS_MUNMAP:
		runs_flush(regs->di, regs->si);
		send_range(EVENT_UNMAP, tid, regs->di, regs->si, 0, 0);
		break;
	case SYS_BRK:
		task = (struct task_struct *)bpf_get_current_task();
		from = regs->di;
		end = BPF_CORE_READ(task, mm, brk);
		if (from >= BPF_CORE_READ(task, mm, start_brk) && from < end) {
			from = (from + PAGE_BYTES - 1) & ~(PAGE_BYTES - 1);
			runs_flush(from, end - from);
			send_range(EVENT_UNMAP, tid, from, end - from, 0, 0);
		}
		break;
	case SYS_MADVISE:
		if (regs->dx == ADVICE_DONTNEED || regs->dx == ADVICE_REMOVE ||
		    regs->dx == ADVICE_DONTNEED_LOCKED) {
			runs_flush(regs->di, regs->si);
			send_range(EVENT_UNMAP, tid, regs->di, regs->si, 0, 0);
		}
		break;
	case SYS_MMAP:
		if (regs->r10 & MAP_FIXED_BIT) {
			runs_flush(regs->di, regs->si);
			send_range(EVENT_UNMAP, tid, regs->di, regs->si, 0, 0);
		}
		if (regs->dx & PROT_EXEC_BIT)
			send_range(EVENT_CODE, tid, regs->di, regs->si, 0, 0);
		break;
	case SYS_MREMAP:
		runs_flush(regs->di, regs->si);
		t->move_start = regs->di;
		t->move_bytes = regs->si;
		t->move_to_bytes = regs->dx;
		send_range(EVENT_MOVE_BEGIN, tid, regs->di, regs->si, 0, regs->dx);
		break;
	}
	return 0;
}

static __always_inline int mremap_went(long ret)
{
	__u64 id = bpf_get_current_pid_tgid();
	struct growth_thread *t;
	__u32 tid;

	if (!is_target(id))
		return 0;
	tid = tid_of(id);
	t = bpf_map_lookup_elem(&growth_threads, &tid);
	if (!t || !t->move_bytes)
		return 0;
	send_range(EVENT_MOVE_END, tid, t->move_start, t->move_bytes,
		   ret < 0 && ret > -4096 ? 0 : (__u64)ret, t->move_to_bytes);
	t->move_bytes = 0;
	return 0;
}

SEC("fentry/__x64_sys_mmap")
int BPF_PROG(enter_mmap, const struct pt_regs *regs)
{
	return syscall_came(SYS_MMAP, regs);
}

SEC("fentry/__x64_sys_munmap")
int BPF_PROG(enter_munmap, const struct pt_regs *regs)
{
	return syscall_came(SYS_MUNMAP, regs);
}

SEC("fentry/__x64_sys_brk")
int BPF_PROG(enter_brk, const struct pt_regs *regs)
{
	return syscall_came(SYS_BRK, regs);
}

SEC("fentry/__x64_sys_madvise")
int BPF_PROG(enter_madvise, const struct pt_regs *regs)
{
	return syscall_came(SYS_MADVISE, regs);
}

SEC("fentry/__x64_sys_mremap")
int BPF_PROG(enter_mremap, const struct pt_regs *regs)
{
	return syscall_came(SYS_MREMAP, regs);
}

SEC("fexit/__x64_sys_mremap")
int BPF_PROG(exit_mremap, const struct pt_regs *regs, long ret)
{
	return mremap_went(ret);
}

SEC("tp_btf/sys_enter")
int BPF_PROG(sys_enter, struct pt_regs *regs, long number)
{
	if (number != SYS_MMAP && number != SYS_MUNMAP && number != SYS_BRK &&
	    number != SYS_MREMAP && number != SYS_MADVISE)
		return 0;
	return syscall_came(number, regs);
}

SEC("tp_btf/sys_exit")
int BPF_PROG(sys_exit, struct pt_regs *regs, long ret)
{
	return regs->orig_ax == SYS_MREMAP ? mremap_went(ret) : 0;
}

/* These two take longest to verify. They stand behind those that a kernel may refuse, which
 * is then known soon. */
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

SEC("tp_btf/sched_process_exit")
int BPF_PROG(growth_exit, struct task_struct *task)
{
	__u64 id = bpf_get_current_pid_tgid();
	__u32 tid = tid_of(id);
	struct run_slot *slot;

	if (!is_target(id) || !bpf_map_lookup_elem(&growth_threads, &tid))
		return 0;
	slot = run_get(tid);
	if (slot)
		run_flush(slot);
	bpf_map_delete_elem(&growth_threads, &tid);
	return 0;
}
