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
 * 1. Native frames. Nothing on a production system keeps frame pointers, so
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
 * 3. Erlang frames: words of the stack whose two low bits are 00 and that lie in
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

#include "scratch.bpf.h"

/* ---- native frames ------------------------------------------------------------- */

/* Index of the module that holds ip, or -1. The bounds of both searches are kept
 * in the scratch area: in registers the verifier would follow each of their
 * possible ranges, hundreds of thousands of steps. */
__noinline int module_find(__u32 slot, __u64 ip)
{
	struct scratch *s = scratch_get(slot);
	struct tables *t;
	__u32 which, lo;

	if (!s)
		return -1;
	which = s->which;
	t = bpf_map_lookup_elem(&tables, &which);
	if (!t)
		return -1;
	s->lo = 0;
	s->hi = t->n_modules;
	for (int i = 0; i < 11; i++) {
		__u32 mid = (s->lo + s->hi) / 2;

		if (s->lo >= s->hi)
			break;
		if (t->modules[mid & (UNWIND_MODULES - 1)].end <= ip)
			s->lo = mid + 1;
		else
			s->hi = mid;
	}
	lo = s->lo;
	if (lo >= t->n_modules || lo >= UNWIND_MODULES || ip < t->modules[lo].start)
		return -1;
	return (int)lo;
}

/* Number of the rule that holds at pc among rows first .. first + n - 1. */
__noinline int rule_find(__u32 slot, __u32 first, __u32 n, __u32 pc)
{
	struct scratch *s = scratch_get(slot);
	struct unwind_row *r;
	__u32 at;

	if (!s)
		return 0;
	s->lo = first;
	s->hi = first + n;
	for (int i = 0; i < UNWIND_ROW_STEPS; i++) {
		at = s->lo + (s->hi - s->lo) / 2;
		if (s->hi - s->lo <= 1)
			break;
		r = bpf_map_lookup_elem(&rows, &at);
		if (!r)
			return 0;
		if (r->pc <= pc)
			s->lo = at;
		else
			s->hi = at;
	}
	at = s->lo;
	r = bpf_map_lookup_elem(&rows, &at);
	if (!n || !r || r->pc > pc)
		return 0;
	return (int)r->rule;
}

/* Reads a saved register; `how` has its two bits lowest. */
static __always_inline __u64 restore(__u64 value, __u32 how, __s16 offset, __u64 cfa, __u64 bp)
{
	__u64 at;

	if ((how & 3) == UNWIND_SAME)
		return value;
	if ((how & 3) == UNWIND_LOST)
		return 0;
	at = (__u64)(long)offset + ((how & 3) == UNWIND_AT_CFA ? cfa : bp);
	if (read_user(&value, sizeof(value), at))
		return 0;
	return value;
}

enum step { STEP_ON, STEP_CODE, STEP_MAIN, STEP_ROOT, STEP_CUT };

/* The kernel pushed the interrupted registers: struct rt_sigframe is at sp, in
 * it uc_mcontext at 40 (arch/x86/include/uapi/asm/sigcontext.h). */
static __always_inline int signal_step(struct scratch *s)
{
	__u64 sp = s->sp;

	if (read_user(&s->r12, 8, sp + 40 + 32) || read_user(&s->r13, 8, sp + 40 + 40) ||
	    read_user(&s->bp, 8, sp + 40 + 80) || read_user(&s->bx, 8, sp + 40 + 88) ||
	    read_user(&s->sp, 8, sp + 40 + 120) || read_user(&s->ip, 8, sp + 40 + 128)) {
		cut(s, CUT_READ);
		return STEP_CUT;
	}
	s->exact = 1;
	return STEP_ON;
}

/* A probe on return stands between this frame and its caller: takes the address that was
 * there before. */
static __always_inline bool return_restore(struct scratch *s)
{
	__u64 at = s->sp - 8, *was = bpf_map_lookup_elem(&returns, &at);

	if (!was || s->ip != trampoline())
		return false;
	s->ip = *was;
	return true;
}

/* From one native frame to its caller. */
__noinline int native_step(__u32 slot)
{
	struct scratch *s = scratch_get(slot);
	struct unwind_module *m;
	struct unwind_rule *rule;
	struct tables *t;
	__u64 pc, cfa, ra;
	__u32 number, which;
	int at;

	if (!s)
		return STEP_CUT;
	which = s->which;
	t = bpf_map_lookup_elem(&tables, &which);
	if (!t)
		return STEP_CUT;
	if (in_code(t, s->ip))
		return STEP_CODE;
	/* a return address may lie behind the function that calls as its last act */
	pc = s->exact ? s->ip : s->ip - 1;
	at = module_find(slot, pc);
	if (at < 0 && !s->exact && return_restore(s)) {
		if (in_code(t, s->ip))
			return STEP_CODE;
		pc = s->ip - 1;
		at = module_find(slot, pc);
	}
	if (!emit(s, STACK_WORD(STACK_NATIVE, s->ip & 0x7fffffffffffULL))) {
		cut(s, CUT_DEPTH);
		return STEP_CUT;
	}
	if (cfg.flavor == VM_EMULATOR && pc >= cfg.main_start && pc < cfg.main_end)
		return STEP_MAIN;
	if (at < 0) {
		cut(s, CUT_NO_MODULE);
		return STEP_CUT;
	}
	m = &t->modules[at & (UNWIND_MODULES - 1)];
	number = (__u32)rule_find(slot, m->row_first, m->row_count, (__u32)(pc - m->base));
	rule = number ? bpf_map_lookup_elem(&rules, &number) : NULL;
	if (!rule) {
		cut(s, CUT_NO_RULE);
		return STEP_CUT;
	}
	cfa = (__u64)(long)rule->cfa_offset;
	switch (rule->cfa) {
	case UNWIND_CFA_SP:
	case UNWIND_CFA_SP_DEREF:
		cfa += s->sp;
		break;
	case UNWIND_CFA_BP:
	case UNWIND_CFA_BP_DEREF:
		cfa += s->bp;
		break;
	case UNWIND_CFA_BX:
		cfa += s->bx;
		break;
	case UNWIND_CFA_R12:
		cfa += s->r12;
		break;
	case UNWIND_CFA_R13:
		cfa += s->r13;
		break;
	case UNWIND_CFA_PLT:
		cfa = s->sp + ((pc & 15) >= cfa ? 16 : 8);
		break;
	case UNWIND_CFA_SIGNAL:
		return signal_step(s);
	case UNWIND_CFA_ROOT:
		return STEP_ROOT;
	default:
		cut(s, CUT_NO_RULE);
		return STEP_CUT;
	}
	if (rule->cfa == UNWIND_CFA_SP_DEREF || rule->cfa == UNWIND_CFA_BP_DEREF) {
		if (read_user(&cfa, sizeof(cfa), cfa)) {
			cut(s, CUT_READ);
			return STEP_CUT;
		}
		cfa += (__u64)(long)rule->deref_offset;
	}
	if (cfa <= s->sp || (cfa & 7)) {
		cut(s, CUT_LOOP);
		return STEP_CUT;
	}
	if (read_user(&ra, sizeof(ra), cfa - 8)) {
		cut(s, CUT_READ);
		return STEP_CUT;
	}
	s->bx = restore(s->bx, rule->saved >> 2, rule->offset[UNWIND_BX], cfa, s->bp);
	s->r12 = restore(s->r12, rule->saved >> 4, rule->offset[UNWIND_R12], cfa, s->bp);
	s->r13 = restore(s->r13, rule->saved >> 6, rule->offset[UNWIND_R13], cfa, s->bp);
	s->bp = restore(s->bp, rule->saved, rule->offset[UNWIND_BP], cfa, s->bp);
	s->sp = cfa;
	s->ip = ra;
	s->exact = 0;
	return ra ? STEP_ON : STEP_ROOT; /* the ABI marks the outermost frame so */
}

/* ---- Erlang frames --------------------------------------------------------------- */

/* The repetition has ended: writes its length. Rounded down to a power of two,
 * so that the depths of one recursion do not become thousands of stacks. */
__noinline int repeat_close(__u32 slot)
{
	struct scratch *s = scratch_get(slot);
	__u32 n, base, matched, period;

	if (!s || !s->period)
		return 0;
	n = s->count;
	base = s->out.n_leaf - s->period;
	matched = s->matched;
	period = s->period;
	s->period = 0;
	s->matched = 0;
	if (n < 2) {
		/* shorter as it was */
		matched += n * period;
		n = 0;
	} else {
		n |= n >> 1;
		n |= n >> 2;
		n |= n >> 4;
		n |= n >> 8;
		n |= n >> 16;
		n -= n >> 1;
		emit(s, STACK_REPEAT_WORD(period, n));
	}
	/* part of a round: at most 3 words, or 2 * 3 - 1 */
	for (__u32 i = 0; i < 6; i++) {
		if (i >= matched)
			break;
		emit(s, s->out.words[word_index(base + (i >= period ? i - period : i))]);
	}
	return 0;
}

/* Appends an Erlang return address, recognising repetitions of 1 to 3 words. */
__noinline int erlang_emit(__u32 slot, __u64 address)
{
	struct scratch *s = scratch_get(slot);
	__u64 word = STACK_WORD(STACK_ERLANG, address & 0x7fffffffffffULL);
	__u32 n;

	if (!s)
		return 0;
	if (s->period) {
		__u32 at = s->out.n_leaf - s->period + s->matched;

		if (s->out.words[at & (STACK_FRAMES - 1)] == word) {
			if (++s->matched == s->period) {
				s->matched = 0;
				s->count++;
			}
			return 1;
		}
		repeat_close(slot);
	}
	if (!emit(s, word))
		return 0;
	n = s->out.n_leaf;
	for (__u32 period = 1; period <= 3; period++) {
		bool same = n >= s->depth + 2 * period;

		for (__u32 i = 0; i < 3; i++) {
			if (i < period &&
			    s->out.words[(n - 1 - i) & (STACK_FRAMES - 1)] !=
				    s->out.words[(n - 1 - i - period) & (STACK_FRAMES - 1)])
				same = false;
		}
		if (same) {
			s->out.n_leaf = n - period;
			s->period = period;
			s->matched = 0;
			s->count = 1;
			break;
		}
	}
	return 1;
}

/*
 * Code of the emulator that the tables do not have yet: it was loaded after they were
 * written. An instruction begins with a word that is the address of the code in
 * process_main which carries it out; where the executable lies below 4 GiB, the lower half
 * of a word whose upper half holds operands (erl_vm.h: CODE_MODEL_SMALL). Instructions
 * of the VM's own, such as normal_exit's, are part of the executable and belong to no function.
 */
static __always_inline bool is_instruction(__u64 address)
{
	__u64 word;

	if (cfg.flavor != VM_EMULATOR || (address & 7) || !address ||
	    (address >= cfg.exe_start && address < cfg.exe_end) ||
	    read_user(&word, sizeof(word), address))
		return false;
	if (!(cfg.text_end >> 32))
		word = (__u32)word;
	return word >= cfg.text_start && word < cfg.text_end;
}

/* Saved frame pointers (+JPperf) look like return addresses and may lie between two
 * areas of code. */
__noinline int is_code(__u32 slot, __u64 address)
{
	struct scratch *s = scratch_get(slot);
	struct tables *t;
	__u32 which;

	if (!s)
		return 0;
	which = s->which;
	t = bpf_map_lookup_elem(&tables, &which);
	return t && (in_code(t, address) || is_instruction(address));
}

/* One word of the stack. Returns 0 when the walk is over. */
static __always_inline int erlang_word(struct scratch *s, __u32 slot, const struct tables *t,
				       __u64 word)
{
	if (word & 3)
		return 1;
	/* in the emulator it lies outside of all code */
	if (word == cfg.normal_exit && word) {
		s->done = 1;
		return s->in_root; /* in the root part it comes first */
	}
	if (cfg.flavor != VM_EMULATOR && (word < t->code_min || word >= t->code_max))
		return 1;
	if (!is_code(slot, word))
		return 1;
	if (s->in_root) {
		__u32 n = s->out.n_root;

		if (n >= STACK_ROOT_FRAMES - 1)
			return 0;
		s->root[n & (STACK_ROOT_FRAMES - 1)] =
			STACK_WORD(STACK_ERLANG, word & 0x7fffffffffffULL);
		s->out.n_root = n + 1;
		return 1;
	}
	return erlang_emit(slot, word);
}

/* Reads one chunk upwards from e. Returns 0 when the walk is over. */
__noinline int erlang_chunk(__u32 slot)
{
	struct scratch *s = scratch_get(slot);
	struct tables *t;
	__u32 which, n;
	__u64 bytes;
	__u64 e;

	if (!s)
		return 0;
	which = s->which;
	t = bpf_map_lookup_elem(&tables, &which);
	if (!t)
		return 0;
	e = s->e;
	if (s->limit && e >= s->limit)
		return 0;
	/* never across a page: the next one may not be there */
	bytes = PAGE_BYTES - (e & (PAGE_BYTES - 1));
	if (bytes > CHUNK_BYTES)
		bytes = CHUNK_BYTES;
	if (s->limit && s->limit - e < bytes)
		bytes = s->limit - e;
	/* the compiler must not split this in two registers: verifiers before 6.8 then
	 * do not see the bound */
	asm volatile("" : "+r"(bytes));
	if (bytes > CHUNK_BYTES || bpf_probe_read_user(s->chunk, (__u32)bytes, (const void *)e)) {
		/* The stack grows into a new page, and this very fault brings it:
		 * the frame that is being made has nothing in it yet. */
		if (s->fault_page && s->fault_page == (e & ~(PAGE_BYTES - 1)) &&
		    bytes < CHUNK_BYTES) {
			s->fault_page = 0;
			s->e = e + bytes;
			return 1;
		}
		cut(s, CUT_READ);
		return 0;
	}
	n = (__u32)bytes / 8;
	s->e = e + bytes;
	for (__u32 i = 0; i < CHUNK_WORDS; i++) {
		if (i >= n)
			break;
		if (!erlang_word(s, slot, t, s->chunk[i]))
			return 0;
	}
	return 1;
}

/* Reads one chunk downwards from limit, for the root part. */
__noinline int erlang_root_chunk(__u32 slot)
{
	struct scratch *s = scratch_get(slot);
	struct tables *t;
	__u32 which, n;
	__u64 bytes;

	if (!s)
		return 0;
	which = s->which;
	t = bpf_map_lookup_elem(&tables, &which);
	if (!t || s->limit <= s->e)
		return 0;
	bytes = s->limit - s->e;
	if (bytes > CHUNK_BYTES)
		bytes = CHUNK_BYTES;
	if (bpf_probe_read_user(s->chunk, (__u32)bytes, (const void *)(s->limit - bytes))) {
		cut(s, CUT_READ);
		return 0;
	}
	s->limit -= bytes;
	n = (__u32)bytes / 8;
	for (__u32 i = 0; i < CHUNK_WORDS; i++) {
		if (i >= n)
			break;
		if (!erlang_word(s, slot, t, s->chunk[(n - 1 - i) & (CHUNK_WORDS - 1)]))
			return 0;
	}
	return 1;
}

/* The Erlang stack from s->e to s->limit (0: to normal_exit). */
__noinline int erlang_scan(__u32 slot)
{
	struct scratch *s = scratch_get(slot);
	bool over = false;

	if (!s)
		return 0;
	s->out.flags |= STACK_HAS_ERLANG;
	s->depth = s->out.n_leaf;
	for (int i = 0; i < SCAN_CHUNKS; i++) {
		if (!erlang_chunk(slot)) {
			over = true;
			break;
		}
	}
	repeat_close(slot);
	if (s->done || s->out.cut)
		goto out;
	if (over && s->out.n_leaf < STACK_LEAF_FRAMES) {
		cut(s, CUT_NO_ROOT);
		goto out;
	}
	if (!s->limit) {
		cut(s, CUT_DEPTH);
		goto out;
	}
	/* too deep: leave the middle out and take the root from the other end */
	s->in_root = 1;
	for (int i = 0; i < ROOT_CHUNKS; i++) {
		if (!erlang_root_chunk(slot))
			break;
	}
	s->out.flags |= STACK_SKIPPED_MIDDLE;
	if (!s->done)
		cut(s, CUT_NO_ROOT);
out:
	if (s->done)
		s->out.flags |= STACK_COMPLETE;
	return 0;
}

/* The process that the thread runs now; 0 if none. */
static __always_inline __u64 proc_read(const struct thread_vm *vm)
{
	__u64 proc = 0;

	if (!vm->scheduler)
		return 0;
	if (read_user(&proc, 8, vm->scheduler + cfg.sched_current_process)) {
		count(COUNT_READ_FAILED);
		return 0;
	}
	return proc;
}

static __always_inline void process_known(struct scratch *s, const struct thread_vm *vm, __u64 proc,
					  __u64 process)
{
	s->scheduler = vm->scheduler;
	s->role = vm->role;
	s->proc = proc;
	s->process = process;
}

static __always_inline void process_read(struct scratch *s, const struct thread_vm *vm, __u64 proc)
{
	process_known(s, vm, proc, 0);
	if (proc && read_user(&s->process, 8, proc + cfg.proc_id)) {
		count(COUNT_READ_FAILED);
		s->proc = s->process = 0;
	}
}

static __always_inline bool process_stack(struct scratch *s)
{
	return s->proc && !read_user(&s->stop, 8, s->proc + cfg.proc_stop) &&
	       !read_user(&s->heap, 8, s->proc + cfg.proc_heap) &&
	       !read_user(&s->hend, 8, s->proc + cfg.proc_hend);
}

/* Native frames led to JIT code at s->ip. Returns 0: the walk is over, 1: s->e
 * is where the Erlang stack begins, 2: it is to be joined. */
__noinline int jit_step(__u32 slot)
{
	struct scratch *s = scratch_get(slot);
	unsigned char *code;
	__u64 e = 0;
	__u32 n, skip = 0;
	bool from_stop = false;

	if (!s)
		return 0;
	if (!emit(s, STACK_WORD(STACK_ERLANG, s->ip & 0x7fffffffffffULL))) {
		cut(s, CUT_DEPTH);
		return 0;
	}
	if (s->ip >= cfg.main_start && s->ip < cfg.main_end) {
		/* In erts_schedule(): between two processes there is no Erlang
		 * stack; else it works for one (system tasks, collections), whose
		 * stack is at rest. */
		if (s->proc)
			return 2;
		s->out.flags |= STACK_COMPLETE;
		return 0;
	}
	if (!s->proc || s->r13 != s->proc || !process_stack(s)) {
		cut(s, CUT_NO_E);
		return 0;
	}
	if (s->exact && s->sp >= s->heap && s->sp <= s->hend) {
		e = s->sp;
	} else {
		code = (unsigned char *)s->chunk;
		n = CODE_FAR;
		if (read_user(code, CODE_FAR + 4, s->ip)) {
			n = CODE_NEAR; /* the page behind may not be there */
			if (read_user(code, CODE_NEAR + 4, s->ip)) {
				cut(s, CUT_READ);
				return 0;
			}
		}
		for (__u32 i = 0; i < CODE_FAR; i++) {
			if (i >= n)
				break;
			if (skip) {
				skip--;
				continue;
			}
			if (code[i] == 0x48 && code[i + 1] == 0x89 && code[i + 2] == 0xec) {
				e = s->bp; /* mov rsp, rbp */
				break;
			}
			if (code[i] == 0x49 && code[i + 1] == 0x8b && code[i + 2] == 0x65 &&
			    code[i + 3] == (unsigned char)cfg.proc_stop) {
				e = s->stop; /* mov rsp, [r13 + stop] */
				from_stop = true;
				break;
			}
			/* mov rbp, rsp or mov [r13 + stop], rsp: the next switch to the
			 * thread's stack. Ours back would have come before. */
			if ((code[i] == 0x48 && code[i + 1] == 0x89 && code[i + 2] == 0xe5) ||
			    (code[i] == 0x49 && code[i + 1] == 0x89 && code[i + 2] == 0x65 &&
			     code[i + 3] == (unsigned char)cfg.proc_stop))
				break;
			/* further on, whatever may be a jump or a return ends it: what is
			 * behind belongs to something else. The distances of more calls
			 * (a binary is made field by field) and of branches are no
			 * instructions. */
			if (i >= CODE_NEAR &&
			    (code[i] == 0xe9 || code[i] == 0xeb || code[i] == 0xc3))
				break;
			if ((code[i] == 0xff && code[i + 1] == 0x15) ||
			    (code[i] == 0x0f && (code[i + 1] & 0xf0) == 0x80))
				skip = 5;
		}
	}
	if (!e || (e & 7)) {
		cut(s, CUT_NO_E);
		return 0;
	}
	if (e >= s->heap && e <= s->hend) {
		s->limit = s->hend;
	} else if (from_stop) {
		s->limit = 0; /* a collection has moved stop, but not heap and hend yet */
	} else {
		cut(s, CUT_NO_E);
		return 0;
	}
	s->e = e;
	return 1;
}

/* Native frames led to process_main of the emulator. */
__noinline int emulator_step(__u32 slot)
{
	struct scratch *s = scratch_get(slot);
	struct tables *t;
	__u64 at;
	__u32 which;

	if (!s)
		return 0;
	if (!s->proc) {
		s->out.flags |= STACK_COMPLETE;
		return 0;
	}
	which = s->which;
	t = bpf_map_lookup_elem(&tables, &which);
	if (!t || s->r12 != s->proc || !process_stack(s)) {
		cut(s, CUT_NO_E);
		return 0;
	}
	/* Across calls the instruction pointer is in rbx. Between them the compiler
	 * may have it elsewhere for a moment, where it is believed only if the tables
	 * know the code. */
	at = s->bx;
	if (!in_code(t, at) && s->exact) {
		if (in_code(t, s->r8))
			at = s->r8;
		else if (in_code(t, s->bp))
			at = s->bp;
	}
	if (in_code(t, at) || is_instruction(at))
		emit(s, STACK_WORD(STACK_ERLANG, at & 0x7fffffffffffULL));
	else
		emit(s, STACK_WORD(STACK_CUT, CUT_NO_CODE));
	if ((s->r13 & 7) == 0 && s->r13 >= s->heap && s->r13 <= s->hend) {
		s->e = s->r13;
		s->limit = s->hend;
	} else if ((s->stop & 7) == 0 && s->stop) {
		s->e = s->stop;
		s->limit = s->stop >= s->heap && s->stop <= s->hend ? s->hend : 0;
	} else {
		cut(s, CUT_NO_E);
		return 0;
	}
	return 1;
}

/* The walk is over without JIT code: the process's own stack, if there is one. */
static __always_inline void join(struct scratch *s, __u32 slot)
{
	if (!s->proc || !process_stack(s) || !s->stop || (s->stop & 7))
		return;
	if (!emit(s, STACK_WORD(STACK_JOINED, 0)))
		return;
	s->out.flags |= STACK_IS_JOINED;
	s->e = s->stop;
	/* outside of the heap during a collection, see jit_step() */
	s->limit = s->stop >= s->heap && s->stop <= s->hend ? s->hend : 0;
	erlang_scan(slot);
}

/* ---- a whole stack ------------------------------------------------------------------ */

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
