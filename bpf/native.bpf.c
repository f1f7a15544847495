// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * Who holds native memory: every block that malloc and its relatives give out, with the
 * stack that took it, until it is freed.
 *
 *	malloc   enter ............ leave: address known, stack walked, block noted
 *	free     enter: block forgotten (after that its address may be given out anew)
 *	realloc  enter: old block taken out ... leave: new one noted, or the old one put back
 *
 * One call may make another (realloc calls malloc, valloc memalign): only the outermost
 * counts, and what is called inside of it is told by the stack pointer. A call that is
 * left by other ways than by returning cannot block its thread: the word where its
 * return address was no longer holds the kernel's trampoline then.
 *
 * The size of a block is what the allocator takes for it (glibc: the chunk, header
 * included), not what was asked for.
 *
 * Sampling. When the map of blocks fills up, or the budget asks for it, blocks smaller
 * than `unit` bytes are noted with probability bytes/unit, each standing for `unit` bytes
 * then; larger ones are all noted. So the sums stay right on average, whatever the sizes.
 * The draw is a hash of the address: a block that was left out is known as such when
 * it is freed, and is not taken for one from before.
 */
#define PROBE_SET     SET_NATIVE
#define SCRATCH_SLOTS 4
#include "uprobe.bpf.h"
#include "unwind.bpf.h"

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, __u64);
	__type(value, struct native_block);
} native_blocks SEC(".maps");

/* Threads come and go, and many may have been in a call once. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct native_call);
} native_calls SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct native_control);
	__uint(map_flags, BPF_F_MMAPABLE);
} native_control SEC(".maps");

static __always_inline struct native_control *native_get(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&native_control, &zero);
}

static __always_inline void count_add(__u32 counter, __u64 n)
{
	struct cpu_state *cpu = cpu_get();

	if (cpu)
		cpu->v[PROBE_SET][counter] += n;
}

static __always_inline bool in_ranges(const struct code_area *v, __u32 n, __u64 address)
{
	for (__u32 i = 0; i < NATIVE_RANGES; i++) {
		if (i >= n)
			break;
		if (address >= v[i].start && address < v[i].end)
			return true;
	}
	return false;
}

/* ---- blocks ------------------------------------------------------------------------ */

#define CHUNK_FLAGS  7ULL /* glibc: low bits of a chunk's size */
#define CHUNK_MAPPED 2ULL

/* What the block takes; `asked` where the allocator does not tell. */
static __always_inline __u64 block_bytes(const struct native_control *c, __u64 block, __u64 asked)
{
	__u64 head[2];

	if (!c->chunks || read_user(head, sizeof(head), block - 16))
		return asked;
	/* a mapping of its own begins prev_size bytes before the chunk */
	return (head[1] & ~CHUNK_FLAGS) + (head[1] & CHUNK_MAPPED ? head[0] : 0);
}

/* Blocks smaller than this are drawn, 0: none. */
static __always_inline __u64 unit_now(struct native_control *c)
{
	__u64 live = c->live, unit = c->unit;
	__u64 fill = 0;

	if (live >= c->capacity / 8 * 7)
		fill = 256 << 10;
	else if (live >= c->capacity / 4 * 3)
		fill = 16 << 10;
	else if (live >= c->capacity / 2)
		fill = 1 << 10;
	if (fill > unit)
		unit = fill;
	if (unit > c->unit_top)
		c->unit_top = unit;
	return unit;
}

static __always_inline bool is_drawn(__u64 block, __u64 bytes, __u64 unit)
{
	__u64 hash = (block >> 4) * 0x9e3779b97f4a7c15ULL >> 32;

	/* bytes and unit are below 2^31 where this is reached */
	return bytes >= unit || hash * unit < bytes << 32;
}

static __always_inline void before_gone(__u64 bytes)
{
	count(COUNT_BEFORE);
	count_add(COUNT_BEFORE_BYTES, bytes);
}

/* A block that is not in the map: was it there before we came? Else it was not drawn, or
 * another library's. */
static __always_inline bool is_before(const struct native_control *c, __u64 block, __u64 bytes)
{
	return bytes && !c->n_wanted && is_drawn(block, bytes, c->unit_top);
}

/* Takes a block out of the map; what it was goes to `was`. */
static __always_inline bool block_take(struct native_control *c, __u64 block,
				       struct native_block *was)
{
	struct native_block *b = bpf_map_lookup_elem(&native_blocks, &block);

	if (!b)
		return false;
	*was = *b;
	if (bpf_map_delete_elem(&native_blocks, &block))
		return false;
	__sync_fetch_and_add(&c->live, (__u64)-1);
	return true;
}

static __always_inline void block_note(struct native_control *c, __u64 block,
				       const struct native_block *b)
{
	bool again = bpf_map_lookup_elem(&native_blocks, &block) != NULL;

	if (bpf_map_update_elem(&native_blocks, &block, b, BPF_ANY)) {
		count(COUNT_FULL);
		count_add(COUNT_FULL_BYTES, b->bytes);
	} else if (again) {
		count(COUNT_MISSED_FREES);
	} else {
		__sync_fetch_and_add(&c->live, 1);
	}
}

/* ---- stacks ------------------------------------------------------------------------- */

/* With one library wanted: is it the first on the stack that is none of those that
 * allocate for others (libc, libstdc++)? */
__noinline int is_wanted(__u32 slot)
{
	struct scratch *s = scratch_get(slot);
	struct native_control *c = native_get();

	if (!s || !c)
		return 0;
	for (__u32 i = 1; i < NATIVE_LOOK; i++) {
		__u64 word = s->out.words[i & (STACK_FRAMES - 1)];

		if (i >= s->out.n_leaf || STACK_KIND(word) != STACK_NATIVE)
			return 0;
		if (!in_ranges(c->through, c->n_through, STACK_VALUE(word) - 1))
			return in_ranges(c->wanted, c->n_wanted, STACK_VALUE(word) - 1);
	}
	return 0;
}

/* The stack from where the call returns to, behind the function itself. Returns false
 * when the block is none of those that are wanted. */
static __always_inline bool caller_walk(struct pt_regs *regs, __u64 function, bool choose,
					struct native_block *b)
{
	__u64 begin = bpf_ktime_get_ns();
	__u32 slot = slot_take();
	struct scratch *s = scratch_get(slot);
	struct thread *t = thread_get(b->tid);
	bool wanted = true;

	if (!s || !t) {
		if (s)
			slot_give(slot);
		count(COUNT_LOST_STACKS);
		return true;
	}
	regs_take(s, regs);
	process_read(s, &t->vm, proc_read(&t->vm));
	s->fault_page = 0;
	stack_begin(s);
	s->exact = 0;
	emit(s, STACK_WORD(STACK_NATIVE, function & 0x7fffffffffffULL));
	stack_walk(slot);
	if (choose)
		wanted = is_wanted(slot);
	if (wanted) {
		stack_send(slot);
		process_send(s);
		b->stack = s->out.hash;
		b->process = s->process;
	}
	stack_count(s, bpf_ktime_get_ns() - begin);
	slot_give(slot);
	return wanted;
}

/* ---- probes --------------------------------------------------------------------------- */

/* Has this thread not come back from a call above this one? */
static __always_inline bool is_inside(const struct native_call *call, __u64 sp)
{
	__u64 word;

	return call && call->sp && sp <= call->sp && !read_user(&word, sizeof(word), call->sp) &&
	       word == trampoline();
}

/* The old block of a realloc is taken out before the call: afterwards its address may be
 * another thread's new block. */
static __always_inline void old_take(struct native_control *c, struct native_call *call)
{
	__u64 block = call->block, bytes;

	if (block_take(c, block, &call->was)) {
		call->was_at = block;
		call->before = call->was.before;
		if (call->was.epoch != c->epoch)
			call->before += call->was.bytes;
		return;
	}
	bytes = block_bytes(c, block, 0);
	if (is_before(c, block, bytes))
		call->before = bytes;
}

static __always_inline int on_enter(struct pt_regs *regs, __u64 cookie)
{
	__u32 tid = tid_of(bpf_get_current_pid_tgid());
	struct native_call *now = bpf_map_lookup_elem(&native_calls, &tid), call = {};
	struct native_control *c = native_get();

	if (!c || is_inside(now, regs->sp))
		return 1;
	call.sp = regs->sp;
	call.kind = (__u32)cookie;
	call.number = (__u32)(cookie >> 32);
	call.block = regs->di;
	switch (call.kind) {
	case NATIVE_ARRAY:
		call.bytes = regs->di * regs->si;
		break;
	case NATIVE_ALIGNED:
	case NATIVE_REALLOC:
		call.bytes = regs->si;
		break;
	case NATIVE_OUT:
		call.bytes = regs->dx;
		break;
	default:
		call.bytes = regs->di;
	}
	if (call.kind == NATIVE_REALLOC && call.block)
		old_take(c, &call);
	if (c->n_wanted && !call.was_at) {
		__u64 from = 0;

		if (read_user(&from, sizeof(from), call.sp) ||
		    (!in_ranges(c->wanted, c->n_wanted, from - 1) &&
		     !in_ranges(c->through, c->n_through, from - 1)))
			return 1;
	}
	if (now) {
		*now = call;
	} else if (bpf_map_update_elem(&native_calls, &tid, &call, BPF_ANY)) {
		count(COUNT_FULL);
		return 1;
	}
	return 0;
}

static __always_inline bool block_draw(struct native_control *c, __u64 block, __u64 bytes,
				       struct native_block *b)
{
	__u64 unit = unit_now(c);

	b->bytes = bytes;
	b->blocks = 256;
	if (bytes >= unit)
		return true;
	if (!bytes || !is_drawn(block, bytes, unit))
		return false;
	b->bytes = unit;
	b->blocks = unit * 256 / bytes;
	return true;
}

/* The call gave no block. A realloc to nothing has freed, another one left all as it was. */
static __always_inline void no_block(struct native_control *c, const struct native_call *call)
{
	if (call->kind == NATIVE_REALLOC && call->block && !call->bytes) {
		if (call->was_at)
			count(COUNT_FREES);
		if (call->before)
			before_gone(call->before);
		return;
	}
	count(COUNT_FAILED);
	if (call->was_at)
		block_note(c, call->was_at, &call->was);
}

static __always_inline int on_leave(struct pt_regs *regs, __u64 cookie)
{
	__u32 tid = tid_of(bpf_get_current_pid_tgid());
	struct native_call *now = bpf_map_lookup_elem(&native_calls, &tid), call;
	struct native_control *c = native_get();
	struct native_block b = {};
	__u64 block, bytes;

	if (!now || !c || regs->sp != now->sp + 8)
		return 0; /* a call inside of another, or one that we did not see begin */
	call = *now;
	now->sp = 0;
	block = regs->ax;
	if (call.kind == NATIVE_OUT &&
	    ((__u32)block != 0 || read_user(&block, sizeof(block), call.block)))
		block = 0;
	if (!block) {
		no_block(c, &call);
		return 0;
	}
	bytes = block_bytes(c, block, call.bytes);
	if (call.was_at)
		count(COUNT_FREES);
	b.tid = tid;
	b.epoch = c->epoch;
	/* what it had before we came is no news, and what it has no more is given back */
	b.before = call.before < bytes ? call.before : bytes;
	if (call.before > bytes)
		before_gone(call.before - bytes);
	if (!block_draw(c, block, bytes, &b)) {
		count(COUNT_ALLOCS);
		return 0;
	}
	if (!caller_walk(regs, c->functions[call.number & (NATIVE_FUNCTIONS - 1)], c->n_wanted, &b))
		return 0;
	b.bytes = b.bytes > b.before ? b.bytes - b.before : 0;
	count(COUNT_ALLOCS);
	block_note(c, block, &b);
	return 0;
}

/* Before Linux 5.15 a probe is told by where it is. */
static __always_inline __u64 cookie_here(struct pt_regs *regs, __u64 cookie)
{
	struct native_control *c = native_get();
	__u64 ip = regs->ip;

	if (bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_get_attach_cookie) || !c)
		return cookie;
	for (__u32 i = 0; i < NATIVE_FUNCTIONS; i++)
		if (c->functions[i] == ip)
			return c->cookies[i];
	return cookie;
}

static __always_inline __u64 hit(void)
{
	struct cpu_state *cpu = cpu_get();

	return cpu && (++cpu->v[PROBE_SET][COUNT_HITS] & 63) == 0 ? bpf_ktime_get_ns() : 0;
}

static __always_inline void hit_timed(__u64 begin)
{
	if (begin) {
		count(COUNT_TIMED);
		count_add(COUNT_TIMED_NS, bpf_ktime_get_ns() - begin);
	}
}

static __always_inline int enter(struct pt_regs *regs, __u64 cookie)
{
	__u64 begin = hit();
	int ret = on_enter(regs, cookie_here(regs, cookie));

	hit_timed(begin);
	return ret;
}

static __always_inline int leave(struct pt_regs *regs, __u64 cookie)
{
	count(COUNT_HITS); /* its walk is timed */
	return on_leave(regs, cookie);
}

UPROBE_PAIR(native, enter, leave)

/*
 * Blocks that are not in the map were there before, unless libc itself frees them: a thread
 * that ends gives back what its cache holds, and that has been freed once already.
 */
static __always_inline void freed(struct native_control *c, __u64 block, __u64 return_at)
{
	struct native_block was;
	__u64 bytes, caller = 0;

	if (block_take(c, block, &was)) {
		count(COUNT_FREES);
		if (was.epoch != c->epoch)
			was.before += was.bytes;
		if (was.before)
			before_gone(was.before);
		return;
	}
	bytes = block_bytes(c, block, 0);
	if (!is_before(c, block, bytes)) {
		count(COUNT_UNDRAWN);
		return;
	}
	read_user(&caller, sizeof(caller), return_at);
	if (caller < c->server.start || caller >= c->server.end)
		before_gone(bytes);
}

SEC("uprobe")
int native_free(struct pt_regs *regs)
{
	__u64 block = regs->di, begin;
	struct native_control *c = native_get();

	if (!is_target(bpf_get_current_pid_tgid()))
		return 0;
	begin = hit();
	if (block && c)
		freed(c, block, regs->sp + cookie_here(regs, cookie_of(regs)));
	hit_timed(begin);
	return 0;
}
