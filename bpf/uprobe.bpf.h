/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * For programs at uprobes.
 *
 * What a function returns is seen by a session program, which is called on entry and on
 * return, or where the kernel has none by a pair of programs. Both look like this:
 *
 *	static int on_enter(struct pt_regs *regs, __u64 cookie)	0: the return is wanted
 *	static int on_leave(struct pt_regs *regs, __u64 cookie)
 *	UPROBE_PAIR(name, on_enter, on_leave)
 *
 * which makes name_session, name_enter and name_leave; src/trace/uprobes.h loads and
 * attaches those that the kernel can use. Entries must be at sites where the stack
 * pointer is what it was when the function was called (SITE_RETURN).
 */
#ifndef BEAMRAY_BPF_UPROBE_H
#define BEAMRAY_BPF_UPROBE_H

#include "scratch.bpf.h"
#include "target.bpf.h"
#include "unwind.bpf.h"

/* Remembers the return address, which the kernel is about to replace. A function that
 * ends in a jump to another one with a probe finds the trampoline there already. */
static __always_inline void return_save(struct pt_regs *regs)
{
	__u64 at = regs->sp, address;

	if (!read_user(&address, sizeof(address), at) && address != trampoline())
		bpf_map_update_elem(&returns, &at, &address, BPF_ANY);
}

static __always_inline void return_drop(struct pt_regs *regs)
{
	__u64 at = regs->sp - 8;

	bpf_map_delete_elem(&returns, &at);
}

/* On entry the instruction pointer is at the probe, on return behind the call. */
static __always_inline bool is_return(struct pt_regs *regs)
{
	return regs->ip != bpf_get_func_ip(regs);
}

/*
 * Programs at uprobes run with preemption enabled, and another thread's may come in
 * between on the same CPU. So a stack is walked in a slot that nobody else is in.
 * Returns SCRATCH_SLOTS when there is none. (Kernels before 5.12 have no atomic
 * exchange: of two that come at once, both may get none, but never both.)
 */
static __always_inline __u32 slot_take(void)
{
	for (__u32 slot = 0; slot < SCRATCH_SLOTS; slot++) {
		struct scratch *s = scratch_get(slot);

		if (!s)
			break;
		__sync_fetch_and_add(&s->busy, 1);
		if (*(volatile __u32 *)&s->busy == 1)
			return slot;
		__sync_fetch_and_add(&s->busy, -1);
	}
	return SCRATCH_SLOTS;
}

static __always_inline void slot_give(__u32 slot)
{
	struct scratch *s = scratch_get(slot);

	if (s)
		__sync_fetch_and_add(&s->busy, -1);
}

static __always_inline __u64 cookie_of(struct pt_regs *regs)
{
	/* 5.15 */
	return bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_get_attach_cookie)
		       ? bpf_get_attach_cookie(regs)
		       : 0;
}

#define UPROBE_PAIR(name, on_enter, on_leave)                \
	SEC("uprobe")                                        \
	int name##_session(struct pt_regs *regs)             \
	{                                                    \
		int no;                                      \
                                                             \
		if (!is_target(bpf_get_current_pid_tgid()))  \
			return 1;                            \
		if (is_return(regs)) {                       \
			return_drop(regs);                   \
			on_leave(regs, cookie_of(regs));     \
			return 0;                            \
		}                                            \
		no = on_enter(regs, cookie_of(regs));        \
		if (!no)                                     \
			return_save(regs);                   \
		return no;                                   \
	}                                                    \
                                                             \
	SEC("uprobe")                                        \
	int name##_enter(struct pt_regs *regs)               \
	{                                                    \
		if (is_target(bpf_get_current_pid_tgid())) { \
			return_save(regs);                   \
			on_enter(regs, cookie_of(regs));     \
		}                                            \
		return 0;                                    \
	}                                                    \
                                                             \
	SEC("uretprobe")                                     \
	int name##_leave(struct pt_regs *regs)               \
	{                                                    \
		if (is_target(bpf_get_current_pid_tgid())) { \
			return_drop(regs);                   \
			on_leave(regs, cookie_of(regs));     \
		}                                            \
		return 0;                                    \
	}

#endif
