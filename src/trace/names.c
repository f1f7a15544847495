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
	uint32_t tid;
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

static void ask(struct names *n, struct process_name *p)
{
	const struct residency *res = vm_fresh(n->vm);
	struct process live;

	if (!process_find(n->vm, p->process, &live) &&
	    process_label(n->vm, &live, n->buf, sizeof(n->buf)))
		label_set(n, p, n->buf);
	n->vm->res = res;
}

void names_process(struct names *n, const struct event_process *ev)
{
	struct process_name *p;
	uint64_t second = session_now_ns() / 1000000000ULL;
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
	if (second != n->second) {
		n->second = second;
		n->asked = 0;
	}
	if ((!p->label || renamed) && n->asked < ASK_PER_SECOND) {
		n->asked++;
		ask(n, p);
	}
}

void names_thread(struct names *n, const struct event_thread *ev)
{
	static const char *const roles[] = {
		[ROLE_SCHEDULER] = "scheduler",
		[ROLE_DIRTY_CPU] = "dirty cpu",
		[ROLE_DIRTY_IO] = "dirty io",
	};
	struct thread_name *t = NULL;

	for (size_t i = 0; i < n->n_threads && !t; i++)
		if (n->threads[i].tid == ev->e.tid)
			t = &n->threads[i];
	if (!t) {
		if (n->n_threads == n->a_threads) {
			size_t a = n->a_threads ? n->a_threads * 2 : 64;
			struct thread_name *v;

			if (a > THREADS_MAX)
				return;
			v = realloc(n->threads, a * sizeof(*v));
			if (!v)
				return;
			n->threads = v;
			n->a_threads = a;
		}
		t = &n->threads[n->n_threads++];
	}
	t->tid = ev->e.tid;
	if (ev->role && ev->role < sizeof(roles) / sizeof(*roles))
		snprintf(t->label, sizeof(t->label), "%s %u", roles[ev->role], ev->number);
	else
		escape_text(t->label, sizeof(t->label), ev->comm, strnlen(ev->comm, 16));
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
