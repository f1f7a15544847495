// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * What every session has: the shared maps, and a watch on threads that end and on a
 * target that becomes another program.
 */
#define PROBE_SET SET_CORE
#include "target.bpf.h"

/* A thread begins with the name of the one that started it, and may be seen before it
 * takes its own. */
SEC("tp_btf/task_rename")
int BPF_PROG(thread_rename, struct task_struct *task, const char *comm)
{
	__u32 tid = (__u32)task->pid;
	struct event_thread ev = {};
	struct thread *t;

	if (!is_task_of_target(task))
		return 0;
	t = bpf_map_lookup_elem(&threads, &tid);
	if (!t)
		return 0; /* not seen yet */
	ev.e.kind = EVENT_THREAD;
	ev.e.tid = tid;
	ev.role = t->vm.role;
	ev.number = t->vm.number;
	bpf_probe_read_kernel_str(ev.comm, sizeof(ev.comm), comm);
	send(&ev, sizeof(ev));
	return 0;
}

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
