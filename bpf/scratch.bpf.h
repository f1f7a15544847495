/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * The per-CPU area that a stack is walked in. Every object has one of its own, with
 * a slot for each of its programs that may interrupt another: SCRATCH_SLOTS.
 */
#ifndef BEAMRAY_BPF_SCRATCH_H
#define BEAMRAY_BPF_SCRATCH_H

#include "state.bpf.h"

#ifndef SCRATCH_SLOTS
#define SCRATCH_SLOTS 1
#endif

#define CHUNK_WORDS   64
#define CHUNK_BYTES   (CHUNK_WORDS * 8)
#define SCAN_CHUNKS   12 /* leaf part: at most so many chunks of the Erlang stack */
#define ROOT_CHUNKS   3	 /* root part: the last so many */
#define NATIVE_STEPS  96
#define KERNEL_FRAMES 16
#define CODE_NEAR     20  /* bytes behind a call in which the switch of stacks nearly always is */
#define CODE_FAR      320 /* and where it is when several calls are made in a row */

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
	__u32 busy; /* of probes that others may come in between of: uprobe.bpf.h */
	__u64 chunk[CHUNK_WORDS];
	__u64 root[STACK_ROOT_FRAMES]; /* root first */
	struct event_stack out;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, SCRATCH_SLOTS);
	__type(key, __u32);
	__type(value, struct scratch);
} scratches SEC(".maps");

static __always_inline struct scratch *scratch_get(__u32 slot)
{
	return bpf_map_lookup_elem(&scratches, &slot);
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
