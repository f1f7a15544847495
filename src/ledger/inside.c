/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who in the VM holds how much
 *
 * Cheap figures, the same at both ends, of which only differences matter:
 *
 *	processes  what process_info(P, memory) says
 *	binary     bytes of refc binaries that a process, a message queue, a table or a
 *	           port refers to: one that two refer to counts for both
 *	ets        what ets:info(T, memory) says
 *	atoms      numbers are given in order, so the new ones are known by their numbers;
 *	           what most of their names begin with is the pattern
 *	code,      of each module and persistent term; those that differ by a number at
 *	literals   the end of their name count together
 */
#include "ledger/inside_int.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "erts/ets.h"
#include "erts/process_info.h"

#define INSIDE_SECONDS 60
#define ROWS_MAX       100000u /* of ETS tables, looked at for binaries */

struct inside_job {
	struct observer *o;
	const struct look *look;
	const struct code *code;
	const struct inside *before;
	bool last;
	struct inside *in;
	struct error err;
};

bool inside_fatal(int ret)
{
	return ret == -ENOMEM || ret == -ESRCH || ret == -ETIMEDOUT;
}

int inside_order(const void *pa, const void *pb)
{
	const struct inside_holder *a = pa, *b = pb;

	return a->key != b->key ? (a->key < b->key ? -1 : 1) : 0;
}

static int process_seen(void *ctx, const struct process_info *p)
{
	struct inside *in = ctx;
	struct inside_holder h = { .key = p->p.pid,
				   .addr = p->p.addr,
				   .bytes = p->memory,
				   .queue = p->message_queue_len,
				   .reductions = p->reductions,
				   .current = p->current,
				   .instruction = p->instruction };
	size_t n = in->n[INSIDE_PROCESS];

	if (n == in->size) {
		size_t more = n ? n * 2 : 1024;
		struct inside_holder *v = realloc(in->v[INSIDE_PROCESS], more * sizeof(h));

		if (!v)
			return -ENOMEM;
		in->v[INSIDE_PROCESS] = v;
		in->size = more;
	}
	in->v[INSIDE_PROCESS][n] = h;
	in->n[INSIDE_PROCESS] = n + 1;
	return 0;
}

static int processes_take(struct vm *vm, struct inside *in)
{
	struct process_scan scan;

	return processes_scan(vm, PROCESS_MESSAGES | PROCESS_LINKS, process_seen, in, &scan, NULL);
}

/* Rows are looked at up to a bound, smallest tables first. */
static int binaries_take(struct vm *vm, struct inside *in)
{
	struct binaries_opts opts = { .messages = true, .ports = true, .rows_max = ROWS_MAX };
	size_t i;
	int ret = binaries_read(vm, &opts, &in->binaries, NULL);

	if (ret < 0)
		return ret;
	in->v[INSIDE_BINARY] = calloc(in->binaries->n_holders + 1, sizeof(struct inside_holder));
	for (i = 0; in->v[INSIDE_BINARY] && i < in->binaries->n_holders; i++) {
		const struct binary_holder *h = &in->binaries->holders[i];

		in->v[INSIDE_BINARY][in->n[INSIDE_BINARY]++] = (struct inside_holder){
			.key = (h->addr ^ h->id) * 4 + h->kind,
			.addr = h->addr,
			.bytes = h->distinct_bytes,
			.holder = (uint32_t)i,
		};
	}
	return in->v[INSIDE_BINARY] ? 0 : -ENOMEM;
}

static int tables_take(struct vm *vm, struct inside *in)
{
	struct ets_tables *t;
	size_t i;
	int ret = ets_read(vm, &t, NULL);

	if (ret < 0)
		return ret;
	in->v[INSIDE_ETS] = calloc(t->n + 1, sizeof(struct inside_holder));
	for (i = 0; in->v[INSIDE_ETS] && i < t->n; i++)
		in->v[INSIDE_ETS][in->n[INSIDE_ETS]++] =
			(struct inside_holder){ .key = t->v[i].addr ^ t->v[i].name,
						.addr = t->v[i].addr,
						.bytes = t->v[i].bytes };
	ret = in->v[INSIDE_ETS] ? 0 : -ENOMEM;
	ets_free(t);
	return ret;
}

static int inside_run(void *arg)
{
	struct inside_job *j = arg;
	struct vm *vm = j->o->vm;
	struct timespec t0, t1;
	int ret, k;

	clock_gettime(CLOCK_MONOTONIC, &t0);
	vm->res = j->look->res;
	ret = nif_envs_read(vm, j->look->allocators, &j->in->envs, &j->err);
	if (!inside_fatal(ret))
		ret = processes_take(vm, j->in);
	if (!inside_fatal(ret))
		ret = tables_take(vm, j->in);
	if (!inside_fatal(ret))
		ret = binaries_take(vm, j->in);
	if (!inside_fatal(ret))
		ret = modules_read(vm, &j->in->modules, NULL);
	if (!inside_fatal(ret))
		ret = persistent_terms_read(vm, &j->in->terms, NULL);
	j->in->atoms = j->look->counts.atoms;
	for (k = 0; k < INSIDE_KINDS; k++)
		if (j->in->v[k])
			qsort(j->in->v[k], j->in->n[k], sizeof(*j->in->v[k]), inside_order);
	if (!inside_fatal(ret))
		ret = inside_owners(j->o, j->look, j->code, j->before, j->last, j->in);
	vm->res = NULL;
	clock_gettime(CLOCK_MONOTONIC, &t1);
	j->in->seconds = (double)(t1.tv_sec - t0.tv_sec) + (double)(t1.tv_nsec - t0.tv_nsec) / 1e9;
	return inside_fatal(ret) ? ret : 0;
}

int inside_take(struct observer *o, const struct look *look, const struct code *code,
		const struct inside *before, bool last, struct inside **out, struct error *err)
{
	struct inside_job *j = calloc(1, sizeof(*j));
	int ret;

	*out = NULL;
	if (!j || !(j->in = calloc(1, sizeof(*j->in)))) {
		free(j);
		return -ENOMEM;
	}
	j->o = o;
	j->look = look;
	j->code = code;
	j->before = before;
	j->last = last;
	ret = target_guard(o->target, inside_run, j, INSIDE_SECONDS, err);
	if (ret == -ETIMEDOUT)
		return ret; /* the thread may still use it */
	if (ret < 0) {
		if (err && err->code == EXIT_OK)
			*err = j->err;
		inside_free(j->in);
	} else {
		*out = j->in;
	}
	free(j);
	return ret;
}

void inside_free(struct inside *in)
{
	int k;

	if (!in)
		return;
	for (k = 0; k < INSIDE_KINDS; k++)
		free(in->v[k]);
	nif_envs_free(in->envs);
	binaries_free(in->binaries);
	modules_free(in->modules);
	persistent_terms_free(in->terms);
	free(in->owners);
	free(in);
}
