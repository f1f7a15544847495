/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Erlang processes and the scheduler threads that run them.
 * (process.c opens with the page that explains the table and pids.)
 */
#ifndef BEAMRAY_ERTS_PROCESS_H
#define BEAMRAY_ERTS_PROCESS_H

#include "erts/vm.h"

#define PROCESS_LABEL_MAX 800 /* three atoms, escaped; enough for any label */

struct process {
	uint64_t addr;			  /* Process in the target */
	uint64_t pid;			  /* the pid as a term: Process.common.id */
	uint64_t name;			  /* registered name as an atom term, 0 if none */
	uint64_t module, function, arity; /* initial call: two atom terms and a number */
	uint64_t heap, htop, stop, hend;  /* addresses: stack is [stop, hend) */
	uint64_t dictionary;		  /* ProcDict in the target, 0 if none */
	uint32_t state;			  /* ERTS_PSFLG_*, see layout->psflg_* */
};

struct processes {
	struct process *v; /* by slot of the table */
	size_t n;
	uint64_t limit; /* slots of the table */
	size_t torn;	/* slots that stayed inconsistent: processes that came or went */
};

/* Reads the table. A process that starts or ends underneath is left out or
 * counted in torn. Errors: -ENOENT (the table was not found), -EFAULT,
 * -ENOMEM ... */
int processes_read(struct vm *vm, struct processes **out, struct error *err);
void processes_free(struct processes *p);
/* The process with this pid, or NULL. Linear. */
const struct process *processes_find(const struct processes *p, uint64_t pid);

/* Reads the Process at `addr`. -EAGAIN when what is there is not (or no more) a
 * process of this VM. */
int process_read(struct vm *vm, uint64_t addr, struct process *out);
/* The same from a copy of the structure, `size` bytes. */
int process_decode(struct vm *vm, uint64_t addr, const void *copy, size_t size,
		   struct process *out);
/* The process with this pid through the table: 0, -ENOENT when there is none. */
int process_find(struct vm *vm, uint64_t pid, struct process *out);

/* "<0.123.0>" for a pid term of the local node; false if it is none. */
bool process_pid_text(struct vm *vm, uint64_t pid, char *buf, size_t size);
/* How a report names the process: its registered name; else its initial call,
 * that which proc_lib noted down ('$initial_call') where it did; else its pid.
 * Escaped, always terminated; returns the length. Nothing of a process's data
 * but these names is read. */
size_t process_label(struct vm *vm, const struct process *p, char *buf, size_t size);
/* Its initial call as the VM has it, "proc_lib:init_p/5", quoted where Erlang
 * would; 0 if it is not known. */
size_t process_initial_call(struct vm *vm, const struct process *p, char *buf, size_t size);
/* The function that the ErtsCodeMFA at `addr` names, in the same form. */
size_t process_mfa_at(struct vm *vm, uint64_t addr, char *buf, size_t size);
/* Same for a pid term whose process may be gone: then the pid as text. */
size_t process_pid_label(struct vm *vm, uint64_t pid, char *buf, size_t size);

enum scheduler_kind { SCHEDULER_NORMAL, SCHEDULER_DIRTY_CPU, SCHEDULER_DIRTY_IO };

struct scheduler {
	uint64_t addr;	  /* ErtsSchedulerData in the target */
	uint64_t pthread; /* its thread's fs base */
	enum scheduler_kind kind;
	unsigned number;  /* from 1, within its kind */
	uint64_t process; /* Process that it runs now, 0 if none */
	uint64_t pid;	  /* that one's pid, 0 if none */
	uint64_t port;	  /* Port that it runs now, 0 if none */
};

/* All schedulers of all kinds; the caller frees *out. Returns their number or a
 * negative errno. */
ssize_t schedulers_read(struct vm *vm, struct scheduler **out);
/* Reads anew what one of them runs: process, pid and port. Returns 0 or a negative errno. */
int scheduler_runs(struct vm *vm, struct scheduler *s);
/* "scheduler 1", "dirty cpu 2", "dirty io 3" */
void scheduler_role(const struct scheduler *s, char *buf, size_t size);

#endif
