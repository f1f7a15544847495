// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * What every session has: the shared maps, and a watch on threads that end and on a
 * target that becomes another program.
 */
#define PROBE_SET SET_CORE
#include "target.bpf.h"

SEC("tp_btf/sched_process_exit")
int BPF_PROG(thread_exit, struct task_struct *task)
{
	__u64 id = bpf_get_current_pid_tgid();
	__u32 tid = tid_of(id);

	if (is_target(id))
		bpf_map_delete_elem(&threads, &tid);
	return 0;
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(process_exec, struct task_struct *task)
{
	__u64 id = bpf_get_current_pid_tgid();
	struct event ev = { .kind = EVENT_EXEC, .tid = tid_of(id) };

	if (is_target(id))
		send(&ev, sizeof(ev));
	return 0;
}
