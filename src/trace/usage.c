// SPDX-License-Identifier: Apache-2.0
#include "trace/usage.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "trace/session_int.h"
#include "trace/usage_int.h"

struct rows {
	struct session *s;
	struct thread_usage *v;
	size_t n, a;
};

static struct thread_usage *row(struct rows *r, uint32_t tid)
{
	struct thread_usage *u;

	for (size_t i = 0; i < r->n; i++)
		if (r->v[i].tid == tid && !r->v[i].ended)
			return &r->v[i];
	if (r->n == r->a) {
		size_t a = r->a ? r->a * 2 : 64;
		struct thread_usage *v = realloc(r->v, a * sizeof(*v));

		if (!v)
			return NULL;
		r->v = v;
		r->a = a;
	}
	u = &r->v[r->n++];
	memset(u, 0, sizeof(*u));
	u->tid = tid;
	snprintf(u->label, sizeof(u->label), "%s", names_label(r->s->names, 0, tid));
	u->role = names_role(r->s->names, tid);
	return u;
}

static int add_times(void *arg, const struct usage_thread_times *t)
{
	struct thread_usage *u = row(arg, t->tid);

	if (!u)
		return -ENOMEM;
	memcpy(u->ns, t->t.ns, sizeof(u->ns));
	u->switches = t->t.switches;
	u->timed = true;
	return 0;
}

static int add_samples(void *arg, uint32_t tid, const uint64_t samples[STATE_N])
{
	struct thread_usage *u = row(arg, tid);

	if (!u)
		return -ENOMEM;
	memcpy(u->samples, samples, sizeof(u->samples));
	return 0;
}

/* Schedulers by kind and number, then whoever ran most. */
static int thread_order(const void *a, const void *b)
{
	const struct thread_usage *x = a, *y = b;
	unsigned rx = x->role ? x->role : 99, ry = y->role ? y->role : 99;

	if (rx != ry)
		return rx < ry ? -1 : 1;
	if (x->role)
		return strverscmp(x->label, y->label);
	if (x->ns[SCHED_RUNNING] != y->ns[SCHED_RUNNING])
		return x->ns[SCHED_RUNNING] > y->ns[SCHED_RUNNING] ? -1 : 1;
	return x->tid < y->tid ? -1 : x->tid > y->tid;
}

ssize_t session_threads_usage(struct session *s, struct thread_usage **out)
{
	struct set *sched = session_set(s, &set_sched), *cpu = session_set(s, &set_cpu);
	struct rows r = { .s = s };
	int ret = 0;

	*out = NULL;
	if (sched)
		ret = sched_each(sched, add_times, &r);
	if (!ret && cpu)
		ret = cpu_each_thread(cpu, add_samples, &r);
	if (ret) {
		free(r.v);
		return ret;
	}
	if (r.n)
		qsort(r.v, r.n, sizeof(*r.v), thread_order);
	*out = r.v;
	return (ssize_t)r.n;
}

uint64_t thread_usage_wall(const struct thread_usage *u)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < SCHED_N; i++)
		sum += u->ns[i];
	return sum;
}

uint64_t thread_usage_samples(const struct thread_usage *u)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < STATE_N; i++)
		sum += u->samples[i];
	return sum;
}

double thread_usage_spin(const struct thread_usage *u, double *error)
{
	double n = (double)thread_usage_samples(u), p, run = (double)u->ns[SCHED_RUNNING];

	/* Without a sample anything is possible, and nearly nothing was run. */
	if (n < 1) {
		if (error)
			*error = run;
		return 0;
	}
	p = (double)u->samples[STATE_WAITING] / n;
	if (error) /* Agresti and Coull: no certainty from few samples */
		*error = run * sqrt((p * n + 2) / (n + 4) * (1 - (p * n + 2) / (n + 4)) / (n + 4));
	return run * p;
}

double thread_usage_busy(const struct thread_usage *u, double *error)
{
	double wall = (double)thread_usage_wall(u), spin;

	if (!u->timed || wall <= 0)
		return -1;
	spin = thread_usage_spin(u, error);
	if (error)
		*error /= wall;
	return ((double)(u->ns[SCHED_RUNNING] + u->ns[SCHED_PREEMPTED] + u->ns[SCHED_BLOCKED]) -
		spin) /
	       wall;
}

struct process_rows {
	struct process_usage *v;
	size_t n, a;
};

static int add_process(void *arg, const struct process_usage *p)
{
	struct process_rows *r = arg;

	if (r->n == r->a) {
		size_t a = r->a ? r->a * 2 : 64;
		struct process_usage *v = realloc(r->v, a * sizeof(*v));

		if (!v)
			return -ENOMEM;
		r->v = v;
		r->a = a;
	}
	r->v[r->n++] = *p;
	return 0;
}

static uint64_t process_samples(const struct process_usage *p)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < STATE_N; i++)
		sum += p->samples[i];
	return sum;
}

static int process_order(const void *a, const void *b)
{
	const struct process_usage *x = a, *y = b;
	uint64_t sx = process_samples(x), sy = process_samples(y);

	if (sx != sy)
		return sx > sy ? -1 : 1;
	return x->process < y->process ? -1 : x->process > y->process;
}

ssize_t session_processes_usage(struct session *s, struct process_usage **out)
{
	struct set *cpu = session_set(s, &set_cpu);
	struct process_rows r = { 0 };
	int ret = cpu ? cpu_each_process(cpu, add_process, &r) : 0;

	*out = NULL;
	if (ret) {
		free(r.v);
		return ret;
	}
	if (r.n)
		qsort(r.v, r.n, sizeof(*r.v), process_order);
	*out = r.v;
	return (ssize_t)r.n;
}

const char *session_process_label(struct session *s, uint64_t process)
{
	return names_label(s->names, process, 0);
}
