/* SPDX-License-Identifier: Apache-2.0 */
/* beamray list schedulers: what each is at, what waits for it, its thread. */
#include "cmd/list.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "erts/run_queue.h"

enum {
	ROLE,
	STATE,
	QUEUE,
	PROCESS,
	LABEL,
	NIF,
	TID,
	CPU,
	KIND,
	NUMBER,
	PORT,
	PRIO_MAX_LEN,
	PRIO_HIGH_LEN,
	PRIO_NORMAL_LEN,
	PORTS,
	REDUCTIONS,
	SWITCHES,
	N_COLUMNS
};

static const struct column columns[] = {
	[ROLE] = { "role", "SCHEDULER", COLUMN_TEXT, 12, .fixed = true },
	[STATE] = { "state", "STATE", COLUMN_TEXT, 9, .fixed = true },
	[QUEUE] = { "run_queue", "QUEUE", COLUMN_COUNT, 6 },
	[PROCESS] = { "pid", "PID", COLUMN_TEXT, 11, .fixed = true },
	[LABEL] = { "label", "RUNS", COLUMN_TEXT, 14 },
	[NIF] = { "nif_module", "NIF OF", COLUMN_TEXT, 6 },
	[TID] = { "tid", "THREAD", COLUMN_COUNT, 8, .ascending = true },
	[CPU] = { "cpu_s", "CPU s", COLUMN_REAL, 8 },
	[KIND] = { "kind", NULL, COLUMN_TEXT, 9 },
	[NUMBER] = { "number", NULL, COLUMN_COUNT, 6, .ascending = true },
	[PORT] = { "runs_port", NULL, COLUMN_FLAG, 0 },
	[PRIO_MAX_LEN] = { "run_queue_max", NULL, COLUMN_COUNT, 0 },
	[PRIO_HIGH_LEN] = { "run_queue_high", NULL, COLUMN_COUNT, 0 },
	[PRIO_NORMAL_LEN] = { "run_queue_normal", NULL, COLUMN_COUNT, 0 },
	[PORTS] = { "run_queue_ports", NULL, COLUMN_COUNT, 0 },
	[REDUCTIONS] = { "reductions", NULL, COLUMN_COUNT, 0 },
	[SWITCHES] = { "context_switches", NULL, COLUMN_COUNT, 0 },
};

static const char *const kinds[] = { "normal", "dirty_cpu", "dirty_io" };

/* User and system time of a thread, fields 14 and 15 of its stat. */
static double thread_cpu(const struct target *t, pid_t tid)
{
	char name[64], *text, *at;
	unsigned long long user, system;
	double s = -1;
	int i;

	snprintf(name, sizeof(name), "task/%d/stat", (int)tid);
	if (target_proc_read(t, name, 4096, &text) < 0)
		return -1;
	at = strrchr(text, ')'); /* the name before it may hold anything */
	for (i = 2; at && i < 14; i++)
		at = strchr(at + 1, ' ');
	if (at && sscanf(at, "%llu %llu", &user, &system) == 2)
		s = (double)(user + system) / (double)sysconf(_SC_CLK_TCK);
	free(text);
	return s;
}

static void set_thread(struct list_run *run, struct table *t, const struct libc_stack *stacks,
		       ssize_t n, const struct scheduler *s)
{
	double cpu;
	ssize_t i;

	for (i = 0; i < n; i++)
		if (stacks[i].pthread == s->pthread && stacks[i].tid > 0) {
			table_set(t, TID, (uint64_t)stacks[i].tid);
			cpu = thread_cpu(run->observer->target, stacks[i].tid);
			if (cpu >= 0)
				table_set_real(t, CPU, cpu);
			return;
		}
}

static void set_queue(struct vm *vm, struct table *t, const struct run_queue *q)
{
	char text[1100];

	table_set(t, QUEUE, q->len);
	table_set(t, PRIO_MAX_LEN, q->max);
	table_set(t, PRIO_HIGH_LEN, q->high);
	table_set(t, PRIO_NORMAL_LEN, q->normal);
	table_set(t, PORTS, q->ports);
	table_set(t, REDUCTIONS, q->reductions);
	table_set(t, SWITCHES, q->context_switches);
	if (q->in_nif && vm_atom(vm, q->nif_module, text, sizeof(text)) >= 0)
		table_text(t, NIF, text);
}

static int collect(struct list_run *run, struct error *err)
{
	struct observer *o = run->observer;
	struct vm *vm = o->vm;
	struct table *t = listing_table(run->listing, "rows", columns, N_COLUMNS);
	struct libc_stack *stacks = NULL;
	struct scheduler *v = NULL;
	uint64_t *pthreads, waiting = 0, last = 0;
	ssize_t n, n_stacks, i;
	char text[PROCESS_LABEL_MAX];

	n = schedulers_read(vm, &v);
	if (n < 0)
		return error_set(err, n == -ENOENT ? EXIT_UNSUPPORTED : error_exit_code((int)n),
				 (int)n, "The schedulers of this VM could not be found or read.");
	pthreads = calloc((size_t)n + 1, sizeof(*pthreads));
	for (i = 0; pthreads && i < n; i++)
		pthreads[i] = v[i].pthread;
	n_stacks = t && pthreads ? libc_stacks_read(o->target, run->look->maps, o->images,
						    run->look->res, pthreads, (size_t)n, &stacks)
				 : -ENOMEM;
	for (i = 0; i < n && t && pthreads && !table_row(t); i++) {
		struct run_queue q;
		bool known = run_queue_read(vm, &v[i], &q) == 0;

		scheduler_role(&v[i], text, sizeof(text));
		table_text(t, ROLE, text);
		table_text(t, KIND, kinds[v[i].kind]);
		table_set(t, NUMBER, v[i].number);
		table_text(t, STATE, q.state);
		table_set(t, PORT, v[i].port != 0);
		if (v[i].pid && process_pid_text(vm, v[i].pid, text, sizeof(text))) {
			table_text(t, PROCESS, text);
			process_pid_label(vm, v[i].pid, text, sizeof(text));
			table_text(t, LABEL, text);
		}
		set_thread(run, t, stacks, n_stacks, &v[i]);
		if (!known) {
			run->listing->torn++;
			continue;
		}
		set_queue(vm, t, &q);
		/* a queue that several share counts once */
		if (q.addr != last && q.len != UINT64_MAX)
			waiting += q.len;
		last = q.addr;
	}
	listing_fact(run->listing, "run_queue", "waiting to run", COLUMN_COUNT, waiting);
	listing_missing(run->listing, run->listing->torn, n > 0 ? (uint64_t)n : 0);
	if (n_stacks <= 0)
		listing_note(run->listing, "Thread ids are not known: this libc's threads could "
					   "not be verified.");
	free(stacks);
	free(pthreads);
	free(v);
	return t && n_stacks != -ENOMEM ? 0 : -ENOMEM;
}

const struct list_what list_schedulers = {
	.name = "schedulers",
	.summary = "run queues, what each runs, thread and CPU time",
	.collect = collect,
};
