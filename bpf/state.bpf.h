/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * The maps that the programs share, with each other and with user space, and the
 * per-CPU scratch area that a stack is walked in.
 */
#ifndef BEAMRAY_BPF_STATE_H
#define BEAMRAY_BPF_STATE_H

#include "kernel.h"
#include "events.h"

#define CHUNK_WORDS  64
#define CHUNK_BYTES  (CHUNK_WORDS * 8)
#define SCAN_CHUNKS  12 /* leaf part: at most so many chunks of the Erlang stack */
#define ROOT_CHUNKS  3	/* root part: the last so many */
#define NATIVE_STEPS 96
#define CODE_NEAR    20 /* bytes behind a call in which the switch of stacks nearly always is */
#define CODE_FAR     64 /* and where it is when several calls are made in a row */

const volatile struct config cfg;

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct control);
	__uint(map_flags, BPF_F_MMAPABLE);
} control SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct unwind_row);
	__uint(map_flags, BPF_F_MMAPABLE);
} rows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct unwind_rule);
	__uint(map_flags, BPF_F_MMAPABLE);
} rules SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, struct tables);
	__uint(map_flags, BPF_F_MMAPABLE);
} tables SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, __u32);
} seen SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, __u64);
	__type(value, __u64);
} named SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 2048);
	__type(key, __u64);
	__type(value, struct thread_vm);
} schedulers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, struct thread);
} threads SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 22);
} events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct cpu_state);
} cpu_states SEC(".maps");

/*
 * Where a return or session probe is under way, the kernel has put the address of its
 * trampoline into the stack; here is what was there. Key: address of that word. The
 * probe's programs keep it (uprobe.bpf.h), all stack walks use it.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, __u64);
} returns SEC(".maps");

/* One slot for each program that may interrupt another. */
enum scratch_slot { SLOT_FAULT, SLOT_FAULT_KERNEL, SLOT_SYSCALL, SLOT_SAMPLE, SLOT_N };

struct scratch {
	/* registers of the frame being looked at */
	__u64 ip, sp, bp, bx, r12, r13;
	__u64 r8;     /* of the leaf only */
	__u32 which;  /* copy of the tables in use */
	__u8 exact;   /* ip is an instruction that was reached, not a return address */
	__u8 in_root; /* the root part of an Erlang stack is being read */
	__u8 done;    /* normal_exit was met */
	__u8 pad;
	__u64 scheduler; /* ErtsSchedulerData of the thread, 0 if it is none */
	__u32 role;
	__u32 depth;
	__u32 lo, hi; /* of a search */
	/* the Erlang process and its stack */
	__u64 proc, process;
	__u64 stop, heap, hend;
	__u64 e, limit;	  /* what remains to be read; limit 0: not known */
	__u64 fault_page; /* the page that is just being faulted in, 0 if none */
	/* a repetition that is under way: `period` words before n_leaf, `matched` of the next
	 * round have been seen */
	__u32 period, matched, count;
	__u32 chunk_words;
	__u64 chunk[CHUNK_WORDS];
	__u64 root[STACK_ROOT_FRAMES]; /* root first */
	struct event_stack out;
	struct thread fresh; /* a new thread's state, all zero */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, SLOT_N);
	__type(key, __u32);
	__type(value, struct scratch);
} scratches SEC(".maps");

static __always_inline struct scratch *scratch_get(__u32 slot)
{
	return bpf_map_lookup_elem(&scratches, &slot);
}

static __always_inline struct control *control_get(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&control, &zero);
}

static __always_inline struct cpu_state *cpu_get(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&cpu_states, &zero);
}

static __always_inline void count(enum counter c)
{
	struct cpu_state *cpu = cpu_get();

	if (cpu)
		cpu->v[c]++;
}

static __always_inline int read_user(void *to, __u32 bytes, __u64 from)
{
	return bpf_probe_read_user(to, bytes, (const void *)from);
}

/* The address that the kernel puts in place of a return address; 0: none yet. It is the
 * first of the [uprobes] mapping (kernel/events/uprobes.c: uprobe_get_trampoline_vaddr). */
static __always_inline __u64 trampoline(void)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();

	if (!bpf_core_field_exists(struct mm_struct, uprobes_state.xol_area))
		return 0;
	return BPF_CORE_READ(task, mm, uprobes_state.xol_area, vaddr);
}

static __always_inline bool in_code(const struct tables *t, __u64 ip)
{
	if (ip < t->code_min || ip >= t->code_max)
		return false;
	for (int i = 0; i < CODE_RANGES; i++) {
		if (ip < t->areas[i].end)
			return ip >= t->areas[i].start;
	}
	return false;
}

static __always_inline void cut(struct scratch *s, enum stack_cut why)
{
	if (!s->out.cut)
		s->out.cut = why;
}

/* Masks an index in a way that the compiler cannot leave out because it knows
 * better: the verifier does not. */
static __always_inline __u64 word_index(__u64 n)
{
	asm volatile("%[n] &= %[mask]" : [n] "+r"(n) : [mask] "i"(STACK_FRAMES - 1));
	return n;
}

/* Appends one word to the leaf part. */
static __always_inline bool emit(struct scratch *s, __u64 word)
{
	__u32 n = s->out.n_leaf;

	if (n >= STACK_LEAF_FRAMES)
		return false;
	s->out.words[word_index(n)] = word;
	s->out.n_leaf = n + 1;
	return true;
}

#endif
