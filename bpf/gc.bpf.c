// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * Who collects garbage: garbage_collect() on its way in and out.
 *
 * What a call did is told by what the VM itself keeps. A scheduler counts its collections
 * and the words they gave back (ErtsSchedulerData.gc_info); dirty schedulers share one
 * such pair (dirty_gc.info), which several of them may change while one of our calls
 * is under way, so that there the pair is compared with what it was when the last collection
 * ended. A call after which nothing was counted did not collect: it was put off (collections
 * disabled, a process that exits, a heap so large that a dirty scheduler shall do it).
 *
 *	gen_gcs		0 after a major collection, one more after a minor one
 *	escalated	a minor one was begun and found the old heap too small
 *
 * Everything is counted; stacks are not taken of every collection (place.bpf.h).
 */
#define PROBE_SET     SET_GC
#define SCRATCH_SLOTS 1
#include "target.bpf.h"
#include "place.bpf.h"
#include "uprobe.bpf.h"

const volatile struct gc_config gc;

struct gc_open { /* a call that is under way */
	__u64 proc, process;
	__u64 begin; /* ns */
	__u64 cols, reclaimed;
	__u64 stack;
	__u64 heap_start, heap; /* words */
	__u32 flags, state;
	__u16 gen;
	__u8 minor, dirty;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, struct gc_open);
} gc_calls SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u64);
	__type(value, struct gc_sum);
} gc_processes SEC(".maps");

/* Of the processes that there was no room for. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct gc_sum);
} gc_others SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, struct gc_owner);
	__type(value, struct gc_weight);
} gc_stacks SEC(".maps");

/* dirty_gc.info as it was when the last collection on a dirty scheduler ended. */
struct gc_pair {
	__u64 reclaimed, cols;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct gc_pair);
} gc_dirty SEC(".maps");

static __always_inline __u64 word(__u64 at, __u32 bytes, bool *ok)
{
	__u64 v = 0;

	if (read_user(&v, bytes, at))
		*ok = false;
	return v;
}

/* Words of the young and the old heap as allocated. */
static __always_inline __u64 heap_words(__u64 proc, bool *ok)
{
	__u64 old = word(proc + gc.proc_old_heap, 8, ok), words;

	words = word(proc + gc.proc_heap_sz, 8, ok);
	if (old)
		words += (word(proc + gc.proc_old_hend, 8, ok) - old) / 8;
	return words;
}

/* Where a collection was asked for: the word on top of the process's stack is, in
 * JIT code, the return address into the function that ran out of heap. In the emulator
 * it may be any, and does not tell places apart. */
static __always_inline __u64 place_of(const struct pt_regs *regs, __u64 proc, __u64 process)
{
	__u64 stop = 0, top = 0, from = 0;

	read_user(&from, 8, regs->sp);
	if (!read_user(&stop, 8, proc + cfg.proc_stop) && stop)
		read_user(&top, 8, stop);
	return place_key(from, top, process);
}

/* Remembers what the collection is of, and what its process was like before. Not in one
 * function with the walk of the stack: all their frames together have 512 bytes. */
static __noinline int gc_opens(struct thread *t, __u64 proc, __u32 tid, __u64 stack)
{
	struct gc_open open = {};
	struct gc_pair pair = {};
	bool ok = true;

	open.proc = proc;
	open.process = word(proc + cfg.proc_id, 8, &ok);
	open.flags = (__u32)word(proc + gc.proc_flags, 4, &ok);
	open.state = (__u32)word(proc + gc.proc_state, 4, &ok);
	open.gen = (__u16)word(proc + gc.proc_gen_gcs, 2, &ok);
	open.minor = open.gen < (__u16)word(proc + gc.proc_max_gen_gcs, 2, &ok) &&
		     !(open.flags & gc.f_need_fullsweep);
	open.heap = heap_words(proc, &ok);
	open.heap_start = word(proc + cfg.proc_heap, 8, &ok);
	open.dirty = t->vm.role != ROLE_SCHEDULER;
	if (!open.dirty && read_user(&pair, sizeof(pair), t->vm.scheduler + gc.sched_gc_info))
		ok = false;
	if (open.dirty && gc.dirty_info && read_user(&pair, sizeof(pair), gc.dirty_info))
		ok = false;
	open.reclaimed = pair.reclaimed;
	open.cols = pair.cols;
	open.stack = stack;
	if (!ok) {
		count(COUNT_READ_FAILED);
		return 1;
	}
	open.begin = bpf_ktime_get_ns(); /* our own work does not count */
	if (bpf_map_update_elem(&gc_calls, &tid, &open, BPF_ANY)) {
		count(COUNT_FULL);
		return 1;
	}
	return 0;
}

static int gc_begins(struct pt_regs *regs, __u64 cookie)
{
	__u64 begin = bpf_ktime_get_ns(), proc = regs->di, process = 0, stack;
	__u32 tid = tid_of(bpf_get_current_pid_tgid());
	struct thread *t = thread_get(tid);
	__u64 walked = stacks_walked();

	count(COUNT_HITS);
	if (!t || !t->vm.scheduler)
		return 1;
	if (read_user(&process, 8, proc + cfg.proc_id)) {
		count(COUNT_READ_FAILED);
		return 1;
	}
	stack = place_stack(regs, t, proc, place_of(regs, proc, process), cfg.flavor != VM_EMULATOR,
			    tid, begin);
	if (gc_opens(t, proc, tid, stack))
		return 1;
	place_timed(begin, walked);
	return 0;
}

/* How many words the collection gave back on a dirty scheduler; false: it cannot be
 * told from what others did at the same time. */
static __always_inline bool dirty_reclaimed(const struct gc_open *open, __u64 *words)
{
	struct gc_pair now = {}, again = {}, *last;
	__u64 cols, reclaimed;
	__u32 zero = 0;

	last = bpf_map_lookup_elem(&gc_dirty, &zero);
	if (!last || !gc.dirty_info || read_user(&now, sizeof(now), gc.dirty_info) ||
	    read_user(&again, sizeof(again), gc.dirty_info))
		return false;
	cols = last->cols;
	reclaimed = last->reclaimed;
	last->reclaimed = now.reclaimed;
	last->cols = now.cols;
	if (now.cols != again.cols || now.reclaimed != again.reclaimed)
		return false;
	if (cols + 1 != now.cols) {
		cols = open->cols;
		reclaimed = open->reclaimed;
	}
	if (cols + 1 != now.cols || now.reclaimed < reclaimed)
		return false;
	*words = now.reclaimed - reclaimed;
	return true;
}

static __always_inline struct gc_sum *sum_get(__u64 process)
{
	static const struct gc_sum none;
	struct gc_sum *sum = bpf_map_lookup_elem(&gc_processes, &process);
	__u32 zero = 0;

	if (sum)
		return sum;
	sum = bpf_map_lookup_elem(&gc_others, &zero);
	if (!sum)
		return NULL;
	if (bpf_map_update_elem(&gc_processes, &process, &none, BPF_NOEXIST)) {
		count(COUNT_FULL);
		return sum;
	}
	return bpf_map_lookup_elem(&gc_processes, &process);
}

static __always_inline void stack_add(const struct gc_open *open, __u64 ns)
{
	struct gc_owner key = { open->stack, open->stack ? open->process : 0 };
	struct gc_weight *w, first = { 1, ns };

	w = bpf_map_lookup_elem(&gc_stacks, &key);
	if (!w) {
		if (!bpf_map_update_elem(&gc_stacks, &key, &first, BPF_NOEXIST))
			return;
		w = bpf_map_lookup_elem(&gc_stacks, &key); /* another thread was faster */
	}
	if (!w) {
		count(COUNT_FULL);
		key.stack = key.process = 0; /* made by user space, so that it is there */
		w = bpf_map_lookup_elem(&gc_stacks, &key);
	}
	if (!w)
		return;
	add(&w->count, 1);
	add(&w->ns, ns);
}

static int gc_ended(struct pt_regs *regs, __u64 cookie)
{
	__u32 tid = tid_of(bpf_get_current_pid_tgid()), flags, state, bucket;
	struct gc_open *open = bpf_map_lookup_elem(&gc_calls, &tid);
	__u64 now = bpf_ktime_get_ns(), ns, heap, heap_start, reclaimed = 0;
	struct thread *t = thread_get(tid);
	bool ok = true, done, known = true;
	struct gc_pair pair = {};
	struct gc_sum *sum;
	__u16 gen;

	count(COUNT_HITS);
	if (!open || !t)
		return 0;
	flags = (__u32)word(open->proc + gc.proc_flags, 4, &ok);
	state = (__u32)word(open->proc + gc.proc_state, 4, &ok);
	gen = (__u16)word(open->proc + gc.proc_gen_gcs, 2, &ok);
	heap = heap_words(open->proc, &ok);
	heap_start = word(open->proc + cfg.proc_heap, 8, &ok);
	if (!ok) {
		count(COUNT_READ_FAILED);
		goto out;
	}
	if (open->dirty) {
		/* a delayed one that needed memory asks for a collection soon, and one
		 * that needed none leaves all as it was */
		done = !(flags & gc.f_force_gc) &&
		       (gen != open->gen || heap_start != open->heap_start);
		if (done)
			known = dirty_reclaimed(open, &reclaimed);
	} else {
		if (read_user(&pair, sizeof(pair), t->vm.scheduler + gc.sched_gc_info)) {
			count(COUNT_READ_FAILED);
			goto out;
		}
		done = pair.cols != open->cols;
		reclaimed = pair.reclaimed - open->reclaimed;
	}
	sum = sum_get(open->process);
	if (!sum)
		goto out;
	if (!done) {
		add(&sum->delayed, 1);
		/* one that was begun, and left to a dirty scheduler; or ended the process */
		if (open->minor && !(open->flags & gc.f_need_fullsweep) &&
		    (flags & gc.f_need_fullsweep))
			add(&sum->escalated, 1);
		if (!(open->state & gc.psflg_exiting) && (state & gc.psflg_exiting))
			add(&sum->killed, 1);
		goto out;
	}
	ns = now - open->begin;
	if (gen)
		add(&sum->minor, 1);
	else
		add(&sum->major, 1);
	if (!gen && open->minor)
		add(&sum->escalated, 1);
	if (open->dirty)
		add(&sum->dirty, 1);
	if (known)
		add(&sum->reclaimed, reclaimed);
	else
		add(&sum->unknown, 1);
	add(&sum->ns, ns);
	if (ns > sum->ns_max)
		sum->ns_max = ns;
	sum->heap_before = open->heap;
	sum->heap = heap;
	if (heap > sum->heap_max)
		sum->heap_max = heap;
	if (ns / 1000000 > gc.long_ms)
		add(&sum->long_gc, 1);
	if (heap >= gc.large_words)
		add(&sum->large_heap, 1);
	bucket = log2_of(ns);
	if (bucket >= LOG2_BUCKETS)
		bucket = LOG2_BUCKETS - 1;
	__sync_fetch_and_add(&sum->histogram[bucket], 1);
	stack_add(open, ns);
out:
	bpf_map_delete_elem(&gc_calls, &tid);
	place_timed(now, stacks_walked());
	return 0;
}

UPROBE_PAIR(gc, gc_begins, gc_ended)
