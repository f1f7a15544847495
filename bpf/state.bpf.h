/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * The maps that the programs of all sets share, with each other and with user space.
 * base.bpf.c makes them; every other object finds them by their names. A program says
 * whose counters it counts on by PROBE_SET, before it includes anything.
 */
#ifndef BEAMRAY_BPF_STATE_H
#define BEAMRAY_BPF_STATE_H

#include "kernel.h"
#include "events.h"

#ifndef PROBE_SET
#error "define PROBE_SET (enum set_id) first"
#endif

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

/* What user space is woken up for: see code_watch(). */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} wakes SEC(".maps");

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
		cpu->v[PROBE_SET][c]++;
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
	for (int i = 0; i < CODE_AREAS; i++) {
		if (ip < t->areas[i].end)
			return ip >= t->areas[i].start;
	}
	return false;
}

#endif
