/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Walking a mixed native and Erlang stack inside the kernel.
 *
 *	 native stack of the thread          stack of the Erlang process
 *	+---------------------------+       (grows down from hend in its heap)
 *	| malloc                    | leaf
 *	| leak_malloc      (NIF)    |       +--------------------------+ E
 *	| call_nif_shared  (JIT) ---+-----> | term                     |
 *	+---------------------------+  E    | return address    -> m:f | low bits 00
 *	| process_main, C frames,   |       | term                     | low bits not 00
 *	| start_thread: not walked  |       | return address    -> m:g |
 *	+---------------------------+       | normal_exit              | hend - 8
 *	                                    +--------------------------+
 *
 * 1. Native frames (unwind_native.bpf.h). Nothing on a production system keeps frame pointers, so
 *    every frame is found by the rule that the compiler left in .eh_frame: user
 *    space has compiled them into rows sorted by address (src/trace/unwind.c).
 *    Besides rip and rsp the walk restores rbp, rbx, r12 and r13, because rules
 *    and the next step need them.
 * 2. The step into JIT code. The JIT switches between the thread's stack and the
 *    process's. Where the latter begins (E) is told by the instruction after the
 *    call, which switches back: `mov rsp, rbp` or `mov rsp, [r13 + stop]`. JIT
 *    code that faults itself runs on the process's stack: E is rsp.
 *    In the emulator E, the process and the instruction pointer are in r13, r12
 *    and rbx of process_main's frame, which the native walk restored.
 * 3. Erlang frames (unwind_erlang.bpf.h): words of the stack whose two low bits are 00 and that lie in
 *    code. Terms never have these bits; saved frame pointers do, but they are no
 *    code. In the emulator, where code lies in ordinary memory, what points at an
 *    instruction is code too. The walk ends at normal_exit, and only then the stack
 *    is complete.
 *
 * What cannot be told is cut with a reason, never guessed. Every loop is bounded,
 * every read may fail. Loops call global functions, which the verifier checks
 * once each and which kernels from 5.10 on have; state is in a per-CPU scratch
 * area, one slot per program, so that an interrupt's walk does not disturb ours.
 */
#ifndef BEAMRAY_BPF_UNWIND_H
#define BEAMRAY_BPF_UNWIND_H

#include "unwind_erlang.bpf.h"

static __always_inline void regs_take(struct scratch *s, struct pt_regs *regs)
{
	s->ip = regs->ip;
	s->sp = regs->sp;
	s->bp = regs->bp;
	s->bx = regs->bx;
	s->r12 = regs->r12;
	s->r13 = regs->r13;
	s->r8 = regs->r8;
}

static __always_inline void stack_begin(struct scratch *s)
{
	struct control *c = control_get();

	s->which = c ? c->active & 1 : 0;
	s->exact = 1;
	s->in_root = 0;
	s->done = 0;
	s->period = 0;
	s->matched = 0;
	s->count = 0;
	s->out.n_leaf = 0;
	s->out.n_root = 0;
	s->out.flags = 0;
	s->out.cut = 0;
}

/* The kernel's frames go in front, the user's registers are those that the thread
 * entered the kernel with. False when there is no way to them. */
static __always_inline bool kernel_frames(struct scratch *s, void *ctx)
{
	struct pt_regs *regs;
	long got;
	__u64 n;

	if (!bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_task_pt_regs))
		return false;
	regs = (struct pt_regs *)bpf_task_pt_regs(bpf_get_current_task_btf());
	regs_take(s, regs);
	got = bpf_get_stack(ctx, s->chunk, KERNEL_FRAMES * 8, 0);
	n = got > 0 ? (__u64)got / 8 : 0;
	for (__u32 i = 0; i < KERNEL_FRAMES; i++) {
		if (i >= n)
			break;
		emit(s, STACK_WORD(STACK_KERNEL, s->chunk[i] & 0xffffffffffffffULL));
	}
	return true;
}

/*
 * Code that is loaded and purged again has to be read in between, and a stack is the first
 * to know that it matters: when the VM has loaded code since the last stack was taken, user
 * space is woken up to look at it. What no stack is taken in needs no name.
 */
static __always_inline void code_watch(void)
{
	struct control *c = control_get();
	__u64 word;

	if (!c || !cfg.code_word || read_user(&word, sizeof(word), cfg.code_word))
		return;
	word &= cfg.code_mask;
	if (word == c->code_state)
		return;
	c->code_state = word;
	bpf_ringbuf_output(&wakes, &word, sizeof(word), BPF_RB_FORCE_WAKEUP);
}

/* Walks from the registers in the scratch area. */
__noinline int stack_walk(__u32 slot)
{
	struct scratch *s = scratch_get(slot);
	int step = STEP_ON;

	if (!s)
		return 0;
	for (int i = 0; i < NATIVE_STEPS; i++) {
		step = native_step(slot);
		if (step != STEP_ON)
			break;
	}
	if (step == STEP_CODE) {
		int how = jit_step(slot);

		if (how == 1)
			erlang_scan(slot);
		else if (how == 2)
			join(s, slot);
	} else if (step == STEP_MAIN) {
		if (emulator_step(slot))
			erlang_scan(slot);
	} else if (step == STEP_ROOT) {
		s->out.flags |= STACK_COMPLETE;
		if (s->role == ROLE_DIRTY_CPU || s->role == ROLE_DIRTY_IO) {
			join(s, slot);
			if ((s->out.flags & STACK_IS_JOINED) && !s->done)
				s->out.flags &= ~STACK_COMPLETE;
		}
	} else {
		if (step == STEP_ON)
			cut(s, CUT_DEPTH);
		emit(s, STACK_WORD(STACK_CUT, s->out.cut));
		join(s, slot);
		/* what lies between is not known */
		s->out.flags &= ~STACK_COMPLETE;
	}
	if (s->out.flags & STACK_HAS_ERLANG)
		code_watch();
	return 0;
}

/* The leaf alone. */
__noinline int stack_leaf(__u32 slot)
{
	struct scratch *s = scratch_get(slot);
	struct tables *t;
	__u32 which;

	if (!s)
		return 0;
	which = s->which;
	t = bpf_map_lookup_elem(&tables, &which);
	if (!t)
		return 0;
	emit(s, STACK_WORD(in_code(t, s->ip) ? STACK_ERLANG : STACK_NATIVE,
			   s->ip & 0x7fffffffffffULL));
	return 0;
}

/* Puts the parts together, hashes them and sends the stack unless it has been
 * sent before. The hash is left in out.hash. */
__noinline int stack_send(__u32 slot)
{
	struct scratch *s = scratch_get(slot);
	__u64 h = 0x9e3779b97f4a7c15ULL, bytes;
	__u32 n, one = 1;

	if (!s)
		return 0;
	if (s->out.cut && !(s->out.flags & STACK_IS_JOINED) && !s->in_root &&
	    s->out.n_leaf < STACK_FRAMES) {
		/* a stuck native walk has written it already */
		n = s->out.n_leaf;
		if (!n || STACK_KIND(s->out.words[(n - 1) & (STACK_FRAMES - 1)]) != STACK_CUT) {
			s->out.words[word_index(n)] = STACK_WORD(STACK_CUT, s->out.cut);
			s->out.n_leaf = n + 1;
		}
	}
	if (s->in_root && s->out.n_leaf <= STACK_LEAF_FRAMES) {
		__u32 roots = s->out.n_root, leafs = s->out.n_leaf;

		if (roots >= STACK_ROOT_FRAMES)
			roots = STACK_ROOT_FRAMES - 1;
		s->out.words[word_index(leafs)] = STACK_WORD(STACK_CUT, CUT_DEPTH);
		leafs++;
		for (__u32 i = 0; i < STACK_ROOT_FRAMES; i++) {
			if (i >= roots)
				break;
			s->out.words[word_index(leafs + i)] =
				s->root[(roots - 1 - i) & (STACK_ROOT_FRAMES - 1)];
		}
		s->out.n_leaf = leafs;
		s->out.n_root = roots;
	}
	n = (__u32)s->out.n_leaf + s->out.n_root;
	if (n > STACK_FRAMES)
		n = STACK_FRAMES;
	for (__u32 i = 0; i < STACK_FRAMES; i++) {
		if (i >= n)
			break;
		h = (h ^ s->out.words[i]) * 0xff51afd7ed558ccdULL;
		h ^= h >> 32;
	}
	h = (h ^ ((__u64)s->out.flags << 8 | s->out.cut)) * 0xff51afd7ed558ccdULL;
	h ^= h >> 32;
	h |= 1;
	s->out.hash = h;
	if (bpf_map_lookup_elem(&seen, &h))
		return 0;
	count(COUNT_NEW_STACKS);
	s->out.e.kind = EVENT_STACK;
	s->out.e.tid = (__u32)bpf_get_current_pid_tgid();
	bytes = __builtin_offsetof(struct event_stack, words) + (__u64)n * 8;
	if (bytes > sizeof(struct event_stack))
		return 0;
	if (bpf_ringbuf_output(&events, &s->out, bytes, BPF_RB_NO_WAKEUP)) {
		count(COUNT_LOST_STACKS);
		return 0;
	}
	bpf_map_update_elem(&seen, &h, &one, BPF_ANY);
	return 0;
}

static __always_inline void stack_count(struct scratch *s, __u64 ns)
{
	struct cpu_state *cpu = cpu_get();
	__u64 *v;

	if (!cpu)
		return;
	v = cpu->v[PROBE_SET];
	v[COUNT_STACKS]++;
	v[COUNT_STACK_NS] += ns;
	if (s->out.flags & STACK_COMPLETE)
		v[COUNT_COMPLETE]++;
	if (s->out.flags & STACK_HAS_ERLANG)
		v[COUNT_ERLANG]++;
	if ((s->out.flags & STACK_HAS_ERLANG) && s->done)
		v[COUNT_ERLANG_ROOT]++;
	if (s->out.flags & STACK_IS_JOINED)
		v[COUNT_JOINED]++;
	v[COUNT_CUT + (s->out.cut & (CUT_SLOTS - 1))]++;
}

/* Sends the name of the process when it is new or has changed. */
static __always_inline void process_send(struct scratch *s)
{
	struct event_process ev = {};
	__u64 reg = 0, name = 0, *known, process = s->process;

	if (!s->proc || !process)
		return;
	if (cfg.proc_reg && !read_user(&reg, 8, s->proc + cfg.proc_reg) && reg &&
	    read_user(&name, 8, reg + cfg.reg_name))
		name = 0;
	known = bpf_map_lookup_elem(&named, &process);
	if (known && *known == name)
		return;
	ev.e.kind = EVENT_PROCESS;
	ev.process = process;
	ev.name = name;
	bpf_probe_read_user(ev.initial, sizeof(ev.initial),
			    (const void *)(s->proc + cfg.proc_initial));
	if (bpf_ringbuf_output(&events, &ev, sizeof(ev), BPF_RB_NO_WAKEUP)) {
		count(COUNT_LOST_EVENTS);
		return;
	}
	bpf_map_update_elem(&named, &process, &name, BPF_ANY);
}

/* A bucket that lets `burst` through at once and one every `interval` after. */
static __always_inline bool bucket_take(__u64 *due, __u64 now, __u64 interval, __u64 burst)
{
	__u64 t = *due, floor = now - burst * interval;

	if (floor > now)
		floor = 0;
	if (t < floor)
		t = floor;
	if (t + interval > now)
		return false;
	*due = t + interval;
	return true;
}

#endif
