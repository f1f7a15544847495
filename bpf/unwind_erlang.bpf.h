/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Erlang frames of a stack, and the step into them out of JIT code or the emulator:
 * unwind.bpf.h opens with the page that explains them. */
#ifndef BEAMRAY_BPF_UNWIND_ERLANG_H
#define BEAMRAY_BPF_UNWIND_ERLANG_H

#include "unwind_native.bpf.h"

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

#endif
