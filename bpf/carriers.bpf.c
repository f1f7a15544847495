// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * Who makes carriers: the functions that allocators get their memory by, and give it
 * back with. Each allocator instance points to six of them (src/erts/functions.c); the
 * cookie of a probe says which it is.
 *
 * A carrier that is made lives in carrier_live until it is given back: so a life has a
 * length, and what is given back is taken from the stack that made it.
 */
#define PROBE_SET     SET_CARRIERS
#define SCRATCH_SLOTS 1
#include "target.bpf.h"
#include "place.bpf.h"
#include "uprobe.bpf.h"

#define HEADER_SBC 2 /* bit of a carrier's first word: it holds a single block */

const volatile struct carrier_config carrier;

struct carrier_open {	      /* a call that is under way */
	__u64 size_at;	      /* where the size stands that was asked for, then what was given */
	__u64 bytes;	      /* with size_at 0: what was asked for, and given */
	__u64 was, was_bytes; /* realloc: what it is of */
	__u64 begin;
	struct carrier_owner owner;
	__u32 index; /* of carrier_sums */
	__u32 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, struct carrier_open);
} carrier_calls SEC(".maps");

struct carrier_life {
	__u64 bytes, begin;
	struct carrier_owner owner;
	__u32 index, pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u64);
	__type(value, struct carrier_life);
} carrier_live SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, CARRIER_SUMS);
	__type(key, __u32);
	__type(value, struct carrier_sum);
} carrier_sums SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, struct carrier_owner);
	__type(value, struct carrier_weight);
} carrier_owners SEC(".maps");

/* `who` is an Allctr_t or, when the cookie says so, the allocator's number. */
static __always_inline __u32 index_of(__u64 who, __u64 cookie, bool sys, bool sbc)
{
	__u32 alloc = (__u32)who;

	if (!(cookie & CARRIER_CALL_BY_NUMBER) && read_user(&alloc, 4, who + carrier.alloc_no))
		count(COUNT_READ_FAILED);
	return (alloc & (CARRIER_ALLOCS - 1)) * 4 + (sys ? 2 : 0) + (sbc ? 1 : 0);
}

/* Instances by address: their allocators' numbers. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u64);
	__type(value, __u32);
} carrier_allctrs SEC(".maps");

/* The instance that the caller has in a register; 0: it is no allocator. */
static __always_inline __u64 allctr_of(const struct pt_regs *regs)
{
	__u64 v[6] = { regs->bx, regs->bp, regs->r12, regs->r13, regs->r14, regs->r15 };

	for (int i = 0; i < 6; i++)
		if (bpf_map_lookup_elem(&carrier_allctrs, &v[i]))
			return v[i];
	return 0;
}

static __always_inline struct carrier_weight *weight_get(const struct carrier_owner *owner)
{
	struct carrier_weight *w = bpf_map_lookup_elem(&carrier_owners, owner), none = {};
	struct carrier_owner nobody = {};

	if (w)
		return w;
	bpf_map_update_elem(&carrier_owners, owner, &none, BPF_NOEXIST);
	w = bpf_map_lookup_elem(&carrier_owners, owner);
	if (!w) {
		count(COUNT_FULL);
		w = bpf_map_lookup_elem(&carrier_owners, &nobody); /* user space made it */
	}
	return w;
}

static __always_inline void came(__u64 addr, __u64 bytes, const struct carrier_owner *owner,
				 __u32 index, __u64 begin)
{
	struct carrier_sum *sum = bpf_map_lookup_elem(&carrier_sums, &index);
	struct carrier_life life = {
		.bytes = bytes, .begin = begin, .owner = *owner, .index = index
	};
	struct carrier_weight *w;

	if (sum) {
		add(&sum->created, 1);
		add(&sum->created_bytes, bytes);
	}
	if (bpf_map_update_elem(&carrier_live, &addr, &life, BPF_ANY)) {
		/* its end will not be seen: it would look as if it stayed */
		count(COUNT_FULL);
		if (sum)
			add(&sum->untracked, 1);
		return;
	}
	w = weight_get(owner);
	if (w) {
		add(&w->created, 1);
		add(&w->created_bytes, bytes);
	}
}

static __always_inline void went(__u64 addr, __u64 bytes, __u32 index, __u64 now)
{
	struct carrier_life *life = bpf_map_lookup_elem(&carrier_live, &addr);
	struct carrier_sum *sum = bpf_map_lookup_elem(&carrier_sums, &index);
	struct carrier_weight *w;
	__u32 bucket;

	if (!sum)
		return;
	add(&sum->destroyed, 1);
	add(&sum->destroyed_bytes, bytes);
	if (!life) {
		add(&sum->older, 1);
		add(&sum->older_bytes, bytes);
		return;
	}
	bucket = log2_of(now - life->begin);
	if (bucket >= LOG2_BUCKETS)
		bucket = LOG2_BUCKETS - 1;
	__sync_fetch_and_add(&sum->life[bucket], 1);
	w = weight_get(&life->owner);
	if (w) {
		add(&w->destroyed, 1);
		add(&w->destroyed_bytes, life->bytes);
	}
	bpf_map_delete_elem(&carrier_live, &addr);
}

/* It may have moved; it stays the one that it was. */
static __always_inline void resized(const struct carrier_open *open, __u64 addr, __u64 bytes)
{
	struct carrier_life *life = bpf_map_lookup_elem(&carrier_live, &open->was), copy;
	struct carrier_sum *sum = bpf_map_lookup_elem(&carrier_sums, &open->index);
	struct carrier_weight *w;

	if (sum) {
		add(&sum->resized, 1);
		if (bytes > open->was_bytes)
			add(&sum->grown_bytes, bytes - open->was_bytes);
		else
			add(&sum->shrunk_bytes, open->was_bytes - bytes);
	}
	if (!life)
		return;
	copy = *life;
	w = weight_get(&copy.owner);
	if (w) {
		if (bytes > copy.bytes)
			add(&w->created_bytes, bytes - copy.bytes);
		else
			add(&w->destroyed_bytes, copy.bytes - bytes);
	}
	copy.bytes = bytes;
	if (addr != open->was)
		bpf_map_delete_elem(&carrier_live, &open->was);
	if (bpf_map_update_elem(&carrier_live, &addr, &copy, BPF_ANY))
		count(COUNT_FULL);
}

static __always_inline void owner_find(struct pt_regs *regs, struct carrier_open *open,
				       struct thread *t, __u32 tid)
{
	__u64 proc = proc_read(&t->vm), from = 0;

	open->owner.process = 0;
	if (proc && read_user(&open->owner.process, 8, proc + cfg.proc_id))
		open->owner.process = 0;
	read_user(&from, 8, regs->sp);
	/* who comes the same way has the stack pointer at the same place */
	open->owner.stack =
		place_stack(regs, t, proc,
			    place_key(from ^ open->index, regs->sp, open->owner.process ^ tid),
			    true, tid, open->begin);
	if (!open->owner.stack)
		open->owner.process = 0;
	else if (!open->owner.process)
		open->owner.tid = tid;
}

static int carrier_asked(struct pt_regs *regs, __u64 cookie)
{
	/* all at once: an offset into the registers that is computed is refused */
	__u64 who = regs->di, a1 = regs->si, a2 = regs->dx, a3 = regs->cx, header = 0;
	__u32 tid = tid_of(bpf_get_current_pid_tgid());
	__u32 call = (__u32)cookie & CARRIER_CALL_MASK;
	struct carrier_open open = { .begin = bpf_ktime_get_ns() };
	struct thread *t = thread_get(tid);
	bool sys = call >= CARRIER_CALL_SYS_ALLOC, sbc;
	__u64 begin = open.begin, walked = stacks_walked();

	count(COUNT_HITS);
	if (!t)
		return 1;
	if (cookie & CARRIER_CALL_BY_CALLER) {
		bool aligned = who != 0;

		who = allctr_of(regs);
		if (!who)
			return 1;
		if (call == CARRIER_CALL_SYS_REALLOC) {
			open.was = aligned ? a1 : a2;
			open.bytes = aligned ? a2 : a3;
			read_user(&header, 8, open.was);
			open.was_bytes = aligned ? a3 : header & ~7ULL;
			open.index = index_of(who, cookie, true, header & HEADER_SBC);
		} else {
			open.bytes = aligned ? a1 : a2;
			open.index = index_of(who, cookie, true, !aligned);
			owner_find(regs, &open, t, tid);
			open.begin = bpf_ktime_get_ns();
		}
	} else if (call == CARRIER_CALL_MSEG_REALLOC || call == CARRIER_CALL_SYS_REALLOC) {
		open.was = a1;
		open.size_at = sys ? a2 : a3;
		open.was_bytes = sys ? a3 : a2;
		read_user(&header, 8, a1);
		open.index = index_of(who, cookie, sys, header & HEADER_SBC);
	} else {
		/* mseg's flags have a bit for multiblock carriers where sys_alloc has a bool */
		open.size_at = a1;
		sbc = sys ? !(__u32)a2 : !(a2 & carrier.mseg_2pow);
		open.index = index_of(who, cookie, sys, sbc);
		owner_find(regs, &open, t, tid);
		open.begin = bpf_ktime_get_ns();
	}
	if (bpf_map_update_elem(&carrier_calls, &tid, &open, BPF_ANY)) {
		count(COUNT_FULL);
		return 1;
	}
	place_timed(begin, walked);
	return 0;
}

static int carrier_given(struct pt_regs *regs, __u64 cookie)
{
	__u32 tid = tid_of(bpf_get_current_pid_tgid());
	struct carrier_open *open = bpf_map_lookup_elem(&carrier_calls, &tid);
	__u64 addr = regs->ax, bytes = 0;
	struct carrier_sum *sum;

	count(COUNT_HITS);
	if (!open)
		return 0;
	if (!addr) {
		__u32 index = open->index;

		sum = bpf_map_lookup_elem(&carrier_sums, &index);
		if (sum)
			add(open->was ? &sum->failed_resizes : &sum->failed, 1);
	} else if (!open->size_at) {
		bytes = open->bytes;
	} else if (read_user(&bytes, 8, open->size_at)) {
		count(COUNT_READ_FAILED);
		addr = 0;
	}
	if (!addr) {
		/* counted already */
	} else if (open->was) {
		resized(open, addr, bytes);
	} else {
		came(addr, bytes, &open->owner, open->index, open->begin);
	}
	bpf_map_delete_elem(&carrier_calls, &tid);
	return 0;
}

UPROBE_PAIR(carrier, carrier_asked, carrier_given)

/* (Allctr_t * or number, address, size, ...) of both kinds. */
SEC("uprobe")
int carrier_gone(struct pt_regs *regs)
{
	__u64 who = regs->di, addr = regs->si, bytes = regs->dx, header = 0;
	__u64 cookie = bpf_get_attach_cookie(regs);
	bool sys = (cookie & CARRIER_CALL_MASK) == CARRIER_CALL_SYS_DEALLOC;

	if (!is_target(bpf_get_current_pid_tgid()))
		return 0;
	count(COUNT_HITS);
	read_user(&header, 8, addr);
	went(addr, bytes, index_of(who, cookie, sys, header & HEADER_SBC), bpf_ktime_get_ns());
	return 0;
}
