/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * What every program does first: is this the target, and which of its threads?
 */
#ifndef BEAMRAY_BPF_TARGET_H
#define BEAMRAY_BPF_TARGET_H

#include "state.bpf.h"

/* The kernel knows a fixed list of names for what is GPL compatible; Apache is
 * not on it, but the programs may be used under the GPL (see COPYING). */
char LICENSE[] SEC("license") = "Dual BSD/GPL";

static __always_inline __u32 tid_of(__u64 id)
{
	return (__u32)id;
}

static __always_inline bool is_target(__u64 id)
{
	struct bpf_pidns_info ns = {};
	struct control *c;

	if (!cfg.ns_ino)
		return (__u32)(id >> 32) == cfg.tgid;
	c = control_get();
	if (!c)
		return false;
	if (c->host_tgid)
		return (__u32)(id >> 32) == c->host_tgid;
	if (bpf_get_ns_current_pid_tgid(cfg.ns_dev, cfg.ns_ino, &ns, sizeof(ns)) ||
	    ns.tgid != cfg.tgid)
		return false;
	c->host_tgid = (__u32)(id >> 32);
	return true;
}

/* The same for a task that need not be the current one. In a pid namespace only the current
 * one can be asked who it is there, so the first of the target that is tells us for all. */
static __always_inline bool is_task_of_target(struct task_struct *task)
{
	struct control *c;

	if (!cfg.ns_ino)
		return (__u32)task->tgid == cfg.tgid;
	c = control_get();
	if (!c)
		return false;
	if (!c->host_tgid) {
		__u64 id = bpf_get_current_pid_tgid();

		return (__u32)task->pid == tid_of(id) && is_target(id);
	}
	return (__u32)task->tgid == c->host_tgid;
}

static __always_inline void send(const void *ev, __u64 bytes)
{
	if (bpf_ringbuf_output(&events, (void *)ev, bytes, BPF_RB_NO_WAKEUP))
		count(COUNT_LOST_EVENTS);
}

/* What the current thread is, found out when it is seen first. */
static __always_inline struct thread *thread_get(__u32 tid)
{
	struct thread *t = bpf_map_lookup_elem(&threads, &tid), fresh = {};
	struct event_thread ev = {};
	struct task_struct *task;
	struct thread_vm *vm;
	__u64 fsbase;

	if (t)
		return t;
	task = (struct task_struct *)bpf_get_current_task();
	if (BPF_CORE_READ(task, flags) & PF_EXITING)
		return NULL; /* nobody would take its entry away again */
	fsbase = BPF_CORE_READ(task, thread.fsbase);
	vm = bpf_map_lookup_elem(&schedulers, &fsbase);
	if (vm)
		fresh.vm = *vm;
	if (bpf_map_update_elem(&threads, &tid, &fresh, BPF_NOEXIST)) {
		t = bpf_map_lookup_elem(&threads, &tid);
		if (!t)
			count(COUNT_FULL);
		return t; /* another program was faster */
	}
	ev.e.kind = EVENT_THREAD;
	ev.e.tid = tid;
	ev.role = fresh.vm.role;
	ev.number = fresh.vm.number;
	bpf_get_current_comm(ev.comm, sizeof(ev.comm));
	send(&ev, sizeof(ev));
	return bpf_map_lookup_elem(&threads, &tid);
}

#endif
