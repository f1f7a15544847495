// SPDX-License-Identifier: Apache-2.0
/*
 * Who a stack belongs to. A process is asked for its name when it shows up first,
 * because it may be gone when the report is written; but only so many a second,
 * since a node can start processes faster than anybody could ask. For the others
 * there is what the kernel side read in passing: registered name and initial call.
 */
#include "trace/session_int.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "erts/process.h"
#include "target/escape.h"

#define PROCESSES_MAX  65536u
#define THREADS_MAX    8192u
#define ASK_PER_SECOND 200

struct process_name {
	uint64_t process, name, initial[3];
	char *label; /* NULL until asked */
};

struct thread_name {
	uint32_t tid, role; /* enum thread_role */
	char label[32];
};

struct names {
	struct vm *vm;
	struct process_name *processes;
	size_t n_processes, a_processes; /* a_processes: slots, a power of two */
	struct thread_name *threads;
	size_t n_threads, a_threads;
	uint64_t second;
	unsigned asked;
	size_t label_bytes;
	char buf[PROCESS_LABEL_MAX];
};

int names_new(struct vm *vm, struct names **out)
{
	struct names *n = calloc(1, sizeof(*n));

	*out = NULL;
	if (!n)
		return -ENOMEM;
	n->vm = vm;
	n->a_processes = 1024;
	n->processes = calloc(n->a_processes, sizeof(*n->processes));
	if (!n->processes) {
		free(n);
		return -ENOMEM;
	}
	*out = n;
	return 0;
}

void names_free(struct names *n)
{
	if (!n)
		return;
	for (size_t i = 0; i < n->a_processes; i++)
		free(n->processes[i].label);
	free(n->processes);
	free(n->threads);
	free(n);
}

size_t names_bytes(const struct names *n)
{
	return sizeof(*n) + n->a_processes * sizeof(*n->processes) +
	       n->a_threads * sizeof(*n->threads) + n->label_bytes;
}

static struct process_name *process_slot(struct process_name *v, size_t slots, uint64_t process)
{
	size_t h = (size_t)(process * 0x9e3779b97f4a7c15ULL >> 32) & (slots - 1);

	while (v[h].process && v[h].process != process)
		h = (h + 1) & (slots - 1);
	return &v[h];
}

static int processes_grow(struct names *n)
{
	size_t slots = n->a_processes * 2;
	struct process_name *v = calloc(slots, sizeof(*v));

	if (!v)
		return -ENOMEM;
	for (size_t i = 0; i < n->a_processes; i++)
		if (n->processes[i].process)
			*process_slot(v, slots, n->processes[i].process) = n->processes[i];
	free(n->processes);
	n->processes = v;
	n->a_processes = slots;
	return 0;
}

static bool atom_text(struct vm *vm, uint64_t term, char *buf, size_t size)
{
	/* an atom is its index and the tag 001011 */
	return (term & 0x3f) == 0x0b && vm_atom(vm, term >> 6, buf, size) > 0;
}

/* From what the kernel side read: needs only the atom table. */
static bool label_from_record(struct vm *vm, const struct process_name *p, char *buf, size_t size)
{
	char module[512], function[512];

	if (p->name && atom_text(vm, p->name, buf, size))
		return true;
	if (!atom_text(vm, p->initial[0], module, sizeof(module)) ||
	    !atom_text(vm, p->initial[1], function, sizeof(function)) || p->initial[2] > 255)
		return false;
	snprintf(buf, size, "%.300s:%.300s/%u", module, function, (unsigned)p->initial[2]);
	return true;
}

static void label_set(struct names *n, struct process_name *p, const char *text)
{
	free(p->label);
	p->label = strdup(text);
	if (p->label)
		n->label_bytes += strlen(text) + 1;
}

/* Reads must not depend on an old residency picture: what we ask for is new. */
static const struct residency *vm_fresh(struct vm *vm)
{
	const struct residency *res = vm->res;

	vm->res = NULL;
	return res;
}

/* Its label now, in n->buf; false if it is gone. */
static bool label_live(struct names *n, uint64_t process)
{
	const struct residency *res = vm_fresh(n->vm);
	struct process live;
	bool found = !process_find(n->vm, process, &live) &&
		     process_label(n->vm, &live, n->buf, sizeof(n->buf));

	n->vm->res = res;
	return found;
}

static bool may_ask(struct names *n)
{
	uint64_t second = session_now_ns() / 1000000000ULL;

	if (second != n->second) {
		n->second = second;
		n->asked = 0;
	}
	if (n->asked >= ASK_PER_SECOND)
		return false;
	n->asked++;
	return true;
}

static void ask(struct names *n, struct process_name *p)
{
	if (label_live(n, p->process))
		label_set(n, p, n->buf);
}

void names_process(struct names *n, const struct event_process *ev)
{
	struct process_name *p;
	bool renamed;

	if (!n->vm || !ev->process)
		return;
	if (n->n_processes * 2 >= n->a_processes &&
	    (n->n_processes >= PROCESSES_MAX || processes_grow(n)))
		return;
	p = process_slot(n->processes, n->a_processes, ev->process);
	renamed = p->process && p->name != ev->name;
	if (!p->process)
		n->n_processes++;
	p->process = ev->process;
	p->name = ev->name;
	memcpy(p->initial, ev->initial, sizeof(p->initial));
	if ((!p->label || renamed) && may_ask(n))
		ask(n, p);
}

/*
 * What ERTS calls its threads: "1_scheduler", "2_dirty_cpu_scheduler", "aux" until 26,
 * "erts_sched_1", "erts_dcpus_2", "erts_aux_1" from 26 on; the kernel keeps 15
 * characters. Any thread may call itself so: a scheduler is known for sure by its
 * scheduler data, and is taken by its name only as long as that has not been seen.
 */
static unsigned role_by_name(const char *comm, unsigned *number)
{
	static const struct {
		const char *old, *new;
		unsigned role;
	} known[] = {
		{ "scheduler", "erts_sched_", ROLE_SCHEDULER },
		{ "dirty_cpu_sch", "erts_dcpus_", ROLE_DIRTY_CPU },
		{ "dirty_io_sch", "erts_dios_", ROLE_DIRTY_IO },
		{ "aux", "erts_aux_", ROLE_AUX },
		{ "poller", "erts_poll_", ROLE_POLL },
		{ "async_", "erts_async_", ROLE_ASYNC },
		{ "sys_sig_", "erts_ssig_", ROLE_SIGNAL },
		{ "sys_msg_", "erts_smsg_", ROLE_SIGNAL },
	};
	char *rest;
	unsigned long n = strtoul(comm, &rest, 10);

	if (rest != comm && *rest == '_')
		rest++;
	for (size_t i = 0; i < sizeof(known) / sizeof(*known); i++) {
		size_t new = strlen(known[i].new), old = strlen(known[i].old);

		if (!strncmp(comm, known[i].new, new)) {
			*number = (unsigned)strtoul(comm + new, NULL, 10);
			return known[i].role;
		}
		if (!strncmp(rest, known[i].old, old)) {
			*number = rest != comm ? (unsigned)n
					       : (unsigned)strtoul(rest + old, NULL, 10);
			return known[i].role;
		}
	}
	return ROLE_OTHER;
}

static struct thread_name *thread_slot(struct names *n, uint32_t tid)
{
	for (size_t i = 0; i < n->n_threads; i++)
		if (n->threads[i].tid == tid)
			return &n->threads[i];
	if (n->n_threads == n->a_threads) {
		size_t a = n->a_threads ? n->a_threads * 2 : 64;
		struct thread_name *v;

		v = a > THREADS_MAX ? NULL : realloc(n->threads, a * sizeof(*v));
		if (!v)
			return NULL;
		n->threads = v;
		n->a_threads = a;
	}
	memset(&n->threads[n->n_threads], 0, sizeof(*n->threads));
	n->threads[n->n_threads].tid = tid;
	return &n->threads[n->n_threads++];
}

/* `guess`: may be a scheduler although its role is not known. */
static void thread_label(struct thread_name *t, const char comm[16], unsigned role, unsigned number,
			 bool guess)
{
	static const char *const roles[ROLE_N] = {
		[ROLE_SCHEDULER] = "scheduler", [ROLE_DIRTY_CPU] = "dirty cpu",
		[ROLE_DIRTY_IO] = "dirty io",	[ROLE_AUX] = "aux",
		[ROLE_POLL] = "poll",		[ROLE_ASYNC] = "async",
	};
	char name[17] = { 0 };
	unsigned by_name, number_by_name = 0;

	memcpy(name, comm, 16);
	by_name = role_by_name(name, &number_by_name);
	/* a thread that a scheduler starts has its name until it takes one of its own */
	if (!role && (guess || by_name > ROLE_DIRTY_IO)) {
		role = by_name;
		number = number_by_name;
	}
	t->role = role;
	if (roles[role])
		snprintf(t->label, sizeof(t->label), "%s %u", roles[role], number);
	else
		escape_text(t->label, sizeof(t->label), name, strlen(name));
}

void names_thread(struct names *n, const struct event_thread *ev)
{
	struct thread_name *t = thread_slot(n, ev->e.tid);

	if (t)
		thread_label(t, ev->comm, ev->role < ROLE_N ? ev->role : ROLE_OTHER, ev->number,
			     false);
}

void names_thread_found(struct names *n, uint32_t tid, const char comm[16])
{
	struct thread_name *t = thread_slot(n, tid);

	if (t && !t->label[0])
		thread_label(t, comm, ROLE_OTHER, 0, true);
}

unsigned names_role(const struct names *n, uint32_t tid)
{
	for (size_t i = 0; i < n->n_threads; i++)
		if (n->threads[i].tid == tid)
			return n->threads[i].role;
	return ROLE_OTHER;
}

const char *names_label(struct names *n, uint64_t process, uint32_t tid)
{
	struct process_name *p;

	if (!process) {
		for (size_t i = 0; i < n->n_threads; i++)
			if (n->threads[i].tid == tid)
				return n->threads[i].label;
		snprintf(n->buf, sizeof(n->buf), "thread %u", tid);
		return n->buf;
	}
	if (!n->vm)
		return "process";
	p = process_slot(n->processes, n->a_processes, process);
	if (p->process && !p->label)
		ask(n, p);
	if (p->label)
		return p->label;
	if (!p->process && may_ask(n) && label_live(n, process)) /* no record told of it */
		return n->buf;
	if (p->process) {
		const struct residency *res = vm_fresh(n->vm);
		bool found = label_from_record(n->vm, p, n->buf, sizeof(n->buf));

		n->vm->res = res;
		if (found)
			return n->buf;
	}
	if (!process_pid_text(n->vm, process, n->buf, sizeof(n->buf)))
		snprintf(n->buf, sizeof(n->buf), "process");
	return n->buf;
}
