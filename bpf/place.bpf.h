/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Stacks for programs at uprobes that are hit more often than stacks can be walked.
 *
 * Hits that come from one place in one process share a bucket of stacks. When it or the CPU's
 * is empty, a hit takes over the stack that its place took last, or, if that has
 * none yet, goes without. What a place is the set decides, by a key.
 *
 * Programs at uprobes can be interrupted by each other, and the scratch area is one for
 * a CPU: who comes second goes without a walk.
 */
#ifndef BEAMRAY_BPF_PLACE_H
#define BEAMRAY_BPF_PLACE_H

#include "unwind.bpf.h"

struct place {
	__u64 stack, due;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, struct place);
} places SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct place_limits);
	__uint(map_flags, BPF_F_MMAPABLE);
} place_limits SEC(".maps");

struct place_cpu {
	__u64 due;
	__u32 walking; /* the thread that walks in this CPU's scratch area */
	__u32 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct place_cpu);
} place_cpus SEC(".maps");

static __always_inline __u64 place_key(__u64 a, __u64 b, __u64 c)
{
	a = (a ^ (b * 0x9e3779b97f4a7c15ULL)) * 0xff51afd7ed558ccdULL;
	a ^= a >> 32;
	return ((a ^ c) * 0x9e3779b97f4a7c15ULL) | 1;
}

static __always_inline __u64 place_walk(struct pt_regs *regs, const struct thread *t, __u64 proc,
					__u32 tid, struct place_cpu *cpu, __u64 begin)
{
	struct scratch *s = scratch_get(0);
	__u64 hash;

	if (!s || cpu->walking)
		return 0;
	cpu->walking = tid;
	process_read(s, &t->vm, proc);
	s->fault_page = 0;
	regs_take(s, regs);
	stack_begin(s);
	stack_walk(0);
	stack_send(0);
	process_send(s);
	stack_count(s, bpf_ktime_get_ns() - begin);
	hash = cpu->walking == tid ? s->out.hash : 0;
	cpu->walking = 0;
	return hash;
}

/* The stack of a hit: its hash, 0 if it goes without. `exact`: all hits of a place have
 * the same stack, as far as can be told; else it is never taken over. */
static __always_inline __u64 place_stack(struct pt_regs *regs, const struct thread *t, __u64 proc,
					 __u64 key, bool exact, __u32 tid, __u64 begin)
{
	struct place *place, fresh = {};
	struct place_limits *limits;
	struct place_cpu *cpu;
	__u32 zero = 0;
	__u64 stack;

	limits = bpf_map_lookup_elem(&place_limits, &zero);
	cpu = bpf_map_lookup_elem(&place_cpus, &zero);
	place = bpf_map_lookup_elem(&places, &key);
	if (!place) {
		bpf_map_update_elem(&places, &key, &fresh, BPF_ANY);
		place = bpf_map_lookup_elem(&places, &key);
	}
	if (!limits || !cpu || !place)
		return 0;
	if ((!place->stack ||
	     bucket_take(&place->due, begin, limits->place_interval, limits->place_burst)) &&
	    bucket_take(&cpu->due, begin, limits->cpu_interval, limits->cpu_burst)) {
		stack = place_walk(regs, t, proc, tid, cpu, begin);
		if (stack) {
			place->stack = stack;
			return stack;
		}
	}
	if (place->stack && exact) {
		count(COUNT_THINNED);
		return place->stack;
	}
	count(COUNT_LEAF_ONLY);
	return 0;
}

/* For the governor: one hit in 64 that walked no stack is timed. */
static __always_inline void place_timed(__u64 begin, __u64 stacks_before)
{
	struct cpu_state *cpu = cpu_get();

	if (!cpu || (cpu->v[PROBE_SET][COUNT_HITS] & 63) ||
	    cpu->v[PROBE_SET][COUNT_STACKS] != stacks_before)
		return;
	cpu->v[PROBE_SET][COUNT_TIMED]++;
	cpu->v[PROBE_SET][COUNT_TIMED_NS] += bpf_ktime_get_ns() - begin;
}

static __always_inline __u64 stacks_walked(void)
{
	struct cpu_state *cpu = cpu_get();

	return cpu ? cpu->v[PROBE_SET][COUNT_STACKS] : 0;
}

static __always_inline void add(__u64 *to, __u64 v)
{
	__sync_fetch_and_add(to, v);
}

static __always_inline __u32 log2_of(__u64 v)
{
	__u32 n = 0;

	for (__u32 step = 32; step; step >>= 1) {
		if (v >> step) {
			v >>= step;
			n += step;
		}
	}
	return n;
}

#endif
