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
#include "ledger/inside.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "erts/atoms.h"
#include "erts/ets.h"
#include "erts/pins.h"
#include "erts/process_info.h"

#define INSIDE_SECONDS 60
#define NAMED	       5 /* owners of each kind that get a name */
#define IDLE_NAMED     3
#define PINS_NAMED     3
#define PINS_LEAST     (16u << 20) /* free resident bytes of an allocator */
#define ATOMS_MAX      1000000u	   /* new ones that are read */
#define ROWS_MAX       100000u	   /* of ETS tables, looked at for binaries */

struct inside_job {
	struct observer *o;
	const struct look *look;
	const struct code *code;
	const struct inside *before;
	bool last;
	struct inside *in;
	struct error err;
};

static bool is_fatal(int ret)
{
	return ret == -ENOMEM || ret == -ESRCH || ret == -ETIMEDOUT;
}

static int holder_order(const void *pa, const void *pb)
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

/* ---- comparing ------------------------------------------------------------------------ */

struct owners {
	struct observer *o;
	const struct code *code;
	struct verdict_owner *v;
	size_t n, size;
};

static struct verdict_owner *owner_new(struct owners *w, const char *category)
{
	struct verdict_owner *o;

	if (w->n == w->size)
		return NULL;
	o = &w->v[w->n++];
	memset(o, 0, sizeof(*o));
	snprintf(o->category, sizeof(o->category), "%s", category);
	return o;
}

/* "timer:sleep/1" */
static void place_name(const struct owners *w, const struct inside_holder *h, char *buf,
		       size_t size)
{
	struct code_mfa mfa;

	buf[0] = 0;
	if (w->code && code_lookup(w->code, h->instruction, &mfa) && mfa.function)
		snprintf(buf, size, "%s", mfa.name);
	else if (h->current)
		process_mfa_at(w->o->vm, h->current, buf, size);
}

/* "process ill_queue <0.80.0>, 200000 messages wait, in timer:sleep/1" */
static void process_name(const struct owners *w, const struct inside_holder *h, char *buf,
			 size_t size)
{
	struct vm *vm = w->o->vm;
	char label[PROCESS_LABEL_MAX], pid[48], queue[48] = "", in[PROCESS_LABEL_MAX] = "";
	struct process p;

	if (process_read(vm, h->addr, &p) < 0 || p.pid != h->key) {
		snprintf(buf, size, "a process that has ended");
		return;
	}
	process_label(vm, &p, label, sizeof(label));
	if (!process_pid_text(vm, p.pid, pid, sizeof(pid)) || strcmp(pid, label) == 0)
		pid[0] = 0;
	if (h->queue > 100 && h->queue != UINT64_MAX)
		snprintf(queue, sizeof(queue), ", %llu messages wait",
			 (unsigned long long)h->queue);
	place_name(w, h, in, sizeof(in));
	snprintf(buf, size, "process %.70s%s%s%s%s%.60s", label, pid[0] ? " " : "", pid, queue,
		 in[0] ? ", in " : "", in);
}

/* Who holds binaries, and what would go with it. */
static void holder_name(const struct owners *w, const struct inside *in,
			const struct inside_holder *h, char *buf, size_t size)
{
	const struct binary_holder *b = &in->binaries->holders[h->holder];
	char label[512];

	binary_holder_label(w->o->vm, b, label, sizeof(label));
	snprintf(buf, size, "%s %.120s",
		 b->kind == HOLDER_PROCESS    ? "process"
		 : b->kind == HOLDER_MESSAGES ? "the message queue of"
		 : b->kind == HOLDER_ETS      ? "table"
					      : "port",
		 label);
}

static void table_name(struct vm *vm, uint64_t addr, char *buf, size_t size)
{
	struct ets_tables *t;
	char id[512], owner[PROCESS_LABEL_MAX];
	size_t i;

	snprintf(buf, size, "a table that is gone");
	if (ets_read(vm, &t, NULL) < 0)
		return;
	for (i = 0; i < t->n; i++) {
		if (t->v[i].addr != addr)
			continue;
		ets_id(vm, &t->v[i], id, sizeof(id));
		process_pid_label(vm, t->v[i].owner, owner, sizeof(owner));
		snprintf(buf, size, "table %.90s, owned by %.70s", id, owner);
	}
	ets_free(t);
}

static const struct inside_holder *holder_find(const struct inside *in, int kind, uint64_t key)
{
	const struct inside_holder like = { .key = key };

	return in->v[kind] ? bsearch(&like, in->v[kind], in->n[kind], sizeof(like), holder_order)
			   : NULL;
}

/* Processes are many and short-lived: what new ones of one kind hold together matters
 * as much as what one holds. */
struct crowd {
	char name[PROCESS_LABEL_MAX];
	uint64_t bytes, count;
};

static void kind_compare(struct owners *w, const struct inside *a, const struct inside *b, int kind,
			 const char *category)
{
	struct {
		const struct inside_holder *h;
		uint64_t before, grew;
	} best[NAMED] = { { NULL, 0, 0 } };
	size_t i, k;

	for (i = 0; i < b->n[kind]; i++) {
		const struct inside_holder *h = &b->v[kind][i], *old = holder_find(a, kind, h->key);
		uint64_t before = old ? old->bytes : 0, grew;

		if (h->bytes <= before)
			continue;
		grew = h->bytes - before;
		if (best[NAMED - 1].h && best[NAMED - 1].grew >= grew)
			continue;
		for (k = NAMED - 1; k > 0 && (!best[k - 1].h || best[k - 1].grew < grew); k--)
			best[k] = best[k - 1];
		best[k].h = h;
		best[k].before = before;
		best[k].grew = grew;
	}
	for (k = 0; k < NAMED && best[k].h; k++) {
		struct verdict_owner *o = owner_new(w, category);

		if (!o)
			return;
		o->before = best[k].before;
		o->after = best[k].h->bytes;
		if (kind == INSIDE_ETS)
			table_name(w->o->vm, best[k].h->addr, o->name, sizeof(o->name));
		else if (kind == INSIDE_BINARY)
			holder_name(w, b, best[k].h, o->name, sizeof(o->name));
		else
			process_name(w, best[k].h, o->name, sizeof(o->name));
	}
}

/* Processes that came, by what they began with: a sample of them is asked. */
static void crowds_compare(struct owners *w, const struct inside *a, const struct inside *b)
{
	const struct inside_holder *v = b->v[INSIDE_PROCESS];
	size_t n = b->n[INSIDE_PROCESS], i, k, came = 0, step, n_crowds = 0, best = 0;
	struct crowd *crowds = calloc(64, sizeof(*crowds));
	uint64_t asked = 0;

	for (i = 0; i < n; i++)
		came += !holder_find(a, INSIDE_PROCESS, v[i].key);
	step = came / 1024 + 1;
	for (i = 0, k = 0; crowds && i < n; i++) {
		char label[PROCESS_LABEL_MAX];
		struct process p;
		size_t c;

		if (holder_find(a, INSIDE_PROCESS, v[i].key) || k++ % step)
			continue;
		if (process_read(w->o->vm, v[i].addr, &p) < 0 || p.pid != v[i].key)
			continue;
		asked++;
		process_label(w->o->vm, &p, label, sizeof(label));
		/* a plain spawn says nothing: what they wait in does */
		if (strcmp(label, "erlang:apply/2") == 0)
			place_name(w, &v[i], label, sizeof(label));
		for (c = 0; c < n_crowds && strcmp(crowds[c].name, label) != 0; c++)
			;
		if (c == 64)
			continue;
		if (c == n_crowds)
			memcpy(crowds[n_crowds++].name, label, sizeof(label));
		crowds[c].bytes += v[i].bytes;
		crowds[c].count++;
		if (crowds[c].bytes > crowds[best].bytes)
			best = c;
	}
	if (asked && crowds[best].count > 1) {
		struct verdict_owner *o = owner_new(w, "processes");

		if (o) {
			o->after = crowds[best].bytes * step;
			snprintf(o->name, sizeof(o->name), "%llu new processes in %.120s",
				 (unsigned long long)(crowds[best].count * step),
				 crowds[best].name);
		}
	}
	free(crowds);
}

static void atoms_compare(struct owners *w, const struct inside *a, const struct inside *b)
{
	struct verdict_owner *o;
	struct atoms *v;
	uint64_t end = b->atoms;

	if (a->atoms == UINT64_MAX || b->atoms == UINT64_MAX || b->atoms <= a->atoms)
		return;
	if (end - a->atoms > ATOMS_MAX)
		end = a->atoms + ATOMS_MAX;
	if (atoms_read(w->o->vm, a->atoms, end, 16, 0, &v, NULL) < 0)
		return;
	o = v->n_prefixes ? owner_new(w, "atom") : NULL;
	if (o) {
		o->after = v->prefixes[0].bytes;
		snprintf(o->name, sizeof(o->name), "%llu of %llu new atoms, which begin with %.80s",
			 (unsigned long long)v->prefixes[0].count,
			 (unsigned long long)(v->end - v->first), v->prefixes[0].prefix);
	}
	atoms_free(v);
}

/* ---- by name --------------------------------------------------------------------------- */

/* A name without the digits at its end: what is made by the thousand is numbered. */
static size_t stem(const char *name)
{
	size_t n = strlen(name);

	while (n > 0 && name[n - 1] >= '0' && name[n - 1] <= '9')
		n--;
	return n ? n : strlen(name);
}

static int stem_compare(const char *a, const char *b)
{
	size_t m = stem(a), n = stem(b), least = m < n ? m : n;
	int c = memcmp(a, b, least);

	return c ? c : m < n ? -1 : m > n;
}

static int name_order(const void *pa, const void *pb)
{
	return stem_compare(((const struct inside_name *)pa)->name,
			    ((const struct inside_name *)pb)->name);
}

/* Bytes of code, or of literals, by name; sorted. The caller frees. */
static struct inside_name *names_take(const struct inside *in, bool literals, size_t *n)
{
	size_t most =
		1 + (in->modules ? in->modules->n : 0) + (literals && in->terms ? in->terms->n : 0);
	struct inside_name *v = calloc(most, sizeof(*v));
	size_t i;

	*n = 0;
	for (i = 0; v && in->modules && i < in->modules->n; i++) {
		const struct module *m = &in->modules->v[i];

		v[(*n)++] = (struct inside_name){ m->name,
						  literals ? m->literals + m->old_literals
							   : m->code + m->old_code,
						  true };
	}
	for (i = 0; v && literals && in->terms && i < in->terms->n; i++)
		v[(*n)++] =
			(struct inside_name){ in->terms->v[i].key, in->terms->v[i].bytes, false };
	if (v)
		qsort(v, *n, sizeof(*v), name_order);
	return v;
}

/* The group of names with one stem that grew most. */
static void names_compare(struct owners *w, const struct inside *a, const struct inside *b,
			  bool literals)
{
	size_t na, nb, i, k = 0, count, best_count = 0;
	struct inside_name *va = names_take(a, literals, &na), *vb = names_take(b, literals, &nb);
	const struct inside_name *best = NULL;
	uint64_t best_before = 0, best_after = 0;

	for (i = 0; va && vb && i < nb; i += count) {
		uint64_t before = 0, after = 0;

		for (count = 0; i + count < nb && name_order(&vb[i], &vb[i + count]) == 0; count++)
			after += vb[i + count].bytes;
		while (k < na && name_order(&va[k], &vb[i]) < 0)
			k++;
		for (; k < na && name_order(&va[k], &vb[i]) == 0; k++)
			before += va[k].bytes;
		if (after > before && after - before > best_after - best_before) {
			best = &vb[i];
			best_before = before;
			best_after = after;
			best_count = count;
		}
	}
	if (best) {
		struct verdict_owner *o = owner_new(w, literals ? "literal" : "code");

		if (o) {
			o->before = best_before;
			o->after = best_after;
			if (best_count == 1)
				snprintf(o->name, sizeof(o->name), "%s %.160s",
					 best->module ? "module" : "persistent term", best->name);
			else
				snprintf(o->name, sizeof(o->name), "%zu %s %.*s", best_count,
					 best->module ? "modules that begin with"
						      : "persistent terms",
					 (int)stem(best->name), best->name);
		}
	}
	free(va);
	free(vb);
}

/* Processes that did nothing since `before`, by what would be free of their binaries if
 * they let go of them: a collection tells how much of that is garbage. */
static void idle_holders(struct owners *w, const struct inside *a, const struct inside *b)
{
	const struct inside_holder *best[IDLE_NAMED] = { NULL };
	size_t i, k;

	for (i = 0; b->binaries && i < b->n[INSIDE_BINARY]; i++) {
		const struct inside_holder *h = &b->v[INSIDE_BINARY][i], *now, *then;
		const struct binary_holder *x = &b->binaries->holders[h->holder];

		if (x->kind != HOLDER_PROCESS || !x->alone_bytes)
			continue;
		now = holder_find(b, INSIDE_PROCESS, x->id);
		then = holder_find(a, INSIDE_PROCESS, x->id);
		if (!now || !then || now->reductions != then->reductions)
			continue;
		for (k = IDLE_NAMED; k > 0; k--) {
			if (best[k - 1] &&
			    b->binaries->holders[best[k - 1]->holder].alone_bytes >= x->alone_bytes)
				break;
			if (k < IDLE_NAMED)
				best[k] = best[k - 1];
			best[k - 1] = h;
		}
	}
	for (k = 0; k < IDLE_NAMED && best[k]; k++) {
		struct verdict_owner *o = owner_new(w, VERDICT_IDLE);

		if (!o)
			return;
		o->after = b->binaries->holders[best[k]->holder].alone_bytes;
		holder_name(w, b, best[k], o->name, sizeof(o->name));
	}
}

static void compare(struct owners *w, const struct inside *before, const struct inside *after)
{
	kind_compare(w, before, after, INSIDE_PROCESS, "processes");
	crowds_compare(w, before, after);
	kind_compare(w, before, after, INSIDE_BINARY, "binary");
	kind_compare(w, before, after, INSIDE_ETS, "ets");
	atoms_compare(w, before, after);
	names_compare(w, before, after, false);
	names_compare(w, before, after, true);
	idle_holders(w, before, after);
}

/* Whose blocks keep the nearly empty carriers of an allocator. */
static int pins_name(struct owners *w, const struct look *look, unsigned type)
{
	struct pins_opts opts = { .alloc_type = type };
	struct pins *p;
	size_t i;
	int ret = pins_read(w->o->vm, look->allocators, &opts, &p, NULL);

	if (ret < 0)
		return ret;
	for (i = 0; i < p->n && i < PINS_NAMED; i++) {
		char category[40], owner[512];
		struct verdict_owner *o;

		if (p->v[i].pinned * 20 < p->free_resident)
			break;
		snprintf(category, sizeof(category), "%s%.30s", VERDICT_PIN,
			 w->o->vm->alloc_names[type]);
		o = owner_new(w, category);
		if (!o)
			break;
		o->after = p->v[i].pinned;
		pin_owner(w->o->vm, &p->v[i], owner, sizeof(owner));
		snprintf(o->name, sizeof(o->name), "%.40s of %.90s (%llu blocks, %llu KiB)",
			 pin_what(&p->v[i]), owner, (unsigned long long)p->v[i].blocks,
			 (unsigned long long)(p->v[i].bytes >> 10));
	}
	pins_free(p);
	return 0;
}

static int pins_take(struct owners *w, const struct look *look)
{
	const struct carriers *c = look->carriers;
	uint64_t held[CARRIER_TYPES] = { 0 };
	unsigned t;
	size_t i;
	int ret = 0;

	for (i = 0; i < c->n; i++)
		if (c->v[i].used_blocks && c->v[i].type < CARRIER_TYPES)
			held[c->v[i].type] += c->v[i].free_resident;
	for (t = 0; t < CARRIER_TYPES && !is_fatal(ret); t++)
		if (held[t] >= PINS_LEAST && t < w->o->vm->n_alloc && w->o->vm->alloc_names[t])
			ret = pins_name(w, look, t);
	return is_fatal(ret) ? ret : 0;
}

static int owners_name(struct inside_job *j)
{
	struct owners w = { .o = j->o,
			    .code = j->code,
			    .size = INSIDE_KINDS * NAMED + IDLE_NAMED + 4 +
				    (size_t)CARRIER_TYPES * PINS_NAMED };
	int ret = 0;

	w.v = calloc(w.size, sizeof(*w.v));
	if (!w.v)
		return -ENOMEM;
	if (j->before)
		compare(&w, j->before, j->in);
	if (j->last)
		ret = pins_take(&w, j->look);
	j->in->owners = w.v;
	j->in->n_owners = w.n;
	return ret;
}

/* ---- taking --------------------------------------------------------------------------- */

static int inside_run(void *arg)
{
	struct inside_job *j = arg;
	struct vm *vm = j->o->vm;
	struct timespec t0, t1;
	int ret, k;

	clock_gettime(CLOCK_MONOTONIC, &t0);
	vm->res = j->look->res;
	ret = nif_envs_read(vm, j->look->allocators, &j->in->envs, &j->err);
	if (!is_fatal(ret))
		ret = processes_take(vm, j->in);
	if (!is_fatal(ret))
		ret = tables_take(vm, j->in);
	if (!is_fatal(ret))
		ret = binaries_take(vm, j->in);
	if (!is_fatal(ret))
		ret = modules_read(vm, &j->in->modules, NULL);
	if (!is_fatal(ret))
		ret = persistent_terms_read(vm, &j->in->terms, NULL);
	j->in->atoms = j->look->counts.atoms;
	for (k = 0; k < INSIDE_KINDS; k++)
		if (j->in->v[k])
			qsort(j->in->v[k], j->in->n[k], sizeof(*j->in->v[k]), holder_order);
	if (!is_fatal(ret))
		ret = owners_name(j);
	vm->res = NULL;
	clock_gettime(CLOCK_MONOTONIC, &t1);
	j->in->seconds = (double)(t1.tv_sec - t0.tv_sec) + (double)(t1.tv_nsec - t0.tv_nsec) / 1e9;
	return is_fatal(ret) ? ret : 0;
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
