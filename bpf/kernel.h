/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * The few kernel types that the programs look into. Only the fields that are
 * used are declared: preserve_access_index makes libbpf take their real
 * offsets from the running kernel's BTF.
 */
#ifndef BEAMRAY_BPF_KERNEL_H
#define BEAMRAY_BPF_KERNEL_H

#include <linux/bpf.h>
#include <linux/types.h>
#include <stdbool.h>

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

#define KERNEL_TYPE __attribute__((preserve_access_index))

/* x86-64; the names have been the same since long before 5.10. <linux/ptrace.h>
 * of user space declares another struct pt_regs, which we never include. */
struct pt_regs {
	unsigned long r15;
	unsigned long r14;
	unsigned long r13;
	unsigned long r12;
	unsigned long bp;
	unsigned long bx;
	unsigned long r10;
	unsigned long r9;
	unsigned long r8;
	unsigned long ax;
	unsigned long cx;
	unsigned long dx;
	unsigned long si;
	unsigned long di;
	unsigned long orig_ax;
	unsigned long ip;
	unsigned long sp;
} KERNEL_TYPE;

struct thread_struct {
	unsigned long fsbase;
} KERNEL_TYPE;

struct xol_area { /* what [uprobes] in a process's maps is */
	unsigned long vaddr;
} KERNEL_TYPE;

struct uprobes_state {
	struct xol_area *xol_area;
} KERNEL_TYPE;

struct mm_struct {
	unsigned long start_brk;
	unsigned long brk;
	struct uprobes_state uprobes_state;
} KERNEL_TYPE;

struct sched_entity {
	__u64 sum_exec_runtime; /* ns on a processor, as of the last tick or switch */
} KERNEL_TYPE;

struct task_struct {
	unsigned int __state; /* from 5.14 on; `state` before */
	unsigned int flags;   /* PF_... */
	int pid;
	int tgid;
	struct mm_struct *mm;
	struct sched_entity se;
	struct thread_struct thread;
} KERNEL_TYPE;

#define PF_EXITING 4

struct task_struct___old { /* before 5.14 */
	long state;
} KERNEL_TYPE;

/* Would it go on if it had a processor? */
static inline __attribute__((always_inline)) bool task_runnable(struct task_struct *task)
{
	if (bpf_core_field_exists(task->__state))
		return task->__state == 0;
	return BPF_CORE_READ((struct task_struct___old *)task, state) == 0;
}

#define PAGE_BYTES 4096ULL
#define USER_END   0x7ffffffff000ULL

#endif
