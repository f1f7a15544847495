// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * Who uses the processor: samples of the target's threads, each with the kernel's,
 * the native and the Erlang part of its stack.
 *
 * The perf events (cpu-clock) belong to the target's threads, one each, inherited
 * by threads that start later: they tick with the thread's own CPU time, and no
 * other process is ever interrupted.
 */
#define PROBE_SET SET_CPU
#include "target.bpf.h"
#include "scheduler.bpf.h"
#include "unwind.bpf.h"

/* struct bpf_perf_event_data: its registers are the kernel's struct pt_regs as user
 * space knows it, whose layout does not change. */
struct sample_context {
	__u64 r15, r14, r13, r12, bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di;
	__u64 orig_ax, ip, cs, flags, sp, ss;
	__u64 period, addr;
};

SEC("perf_event")
int cpu_sample(struct sample_context *ctx)
{
	__u64 id = bpf_get_current_pid_tgid(), begin;
	struct event_sample ev = {};
	struct scratch *s;
	struct thread *t;

	if (!is_target(id))
		return 0;
	begin = bpf_ktime_get_ns();
	count(COUNT_HITS);
	s = scratch_get(0);
	t = thread_get(tid_of(id));
	if (!s || !t)
		return 0;
	process_read(s, &t->vm, proc_read(&t->vm));
	ev.state = scheduler_state(t->vm.scheduler, s->proc);
	if (s->proc && cfg.proc_reds)
		read_user(&ev.reds, sizeof(ev.reds), s->proc + cfg.proc_reds);
	s->fault_page = 0;
	stack_begin(s);
	if (ctx->cs & 3) {
		s->ip = ctx->ip;
		s->sp = ctx->sp;
		s->bp = ctx->bp;
		s->bx = ctx->bx;
		s->r12 = ctx->r12;
		s->r13 = ctx->r13;
		s->r8 = ctx->r8;
	} else if (!kernel_frames(s, ctx)) {
		return 0;
	} else {
		/* perhaps in the fault that brings the stack's next page */
		s->fault_page = s->sp & ~(PAGE_BYTES - 1);
	}
	stack_walk(0);
	stack_send(0);
	process_send(s);
	ev.e.kind = EVENT_SAMPLE;
	ev.e.tid = tid_of(id);
	ev.stack = s->out.hash;
	ev.process = s->process;
	ev.ns = begin;
	send(&ev, sizeof(ev));
	stack_count(s, bpf_ktime_get_ns() - begin);
	return 0;
}
