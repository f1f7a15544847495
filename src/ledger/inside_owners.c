/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whose part grew, by name
 *
 * Two inside views are compared by what identifies a holder (pid, table, module), the
 * ones that grew most of each kind get a name, and only they: naming costs reads.
 */
#include "ledger/inside_int.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "erts/atoms.h"
#include "erts/ets.h"
#include "erts/pins.h"
#include "erts/process_info.h"

#define NAMED	   5 /* owners of each kind that get a name */
#define IDLE_NAMED 3
#define PINS_NAMED 3
#define PINS_LEAST (16u << 20) /* free resident bytes of an allocator */
#define ATOMS_MAX  1000000u    /* new ones that are read */

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

	return in->v[kind] ? bsearch(&like, in->v[kind], in->n[kind], sizeof(like), inside_order)
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
				 (unsigned long long)crowds[best].count * step, crowds[best].name);
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
	for (t = 0; t < CARRIER_TYPES && !inside_fatal(ret); t++)
		if (held[t] >= PINS_LEAST && t < w->o->vm->n_alloc && w->o->vm->alloc_names[t])
			ret = pins_name(w, look, t);
	return inside_fatal(ret) ? ret : 0;
}

int inside_owners(struct observer *o, const struct look *look, const struct code *code,
		  const struct inside *before, bool last, struct inside *in)
{
	struct owners w = { .o = o,
			    .code = code,
			    .size = INSIDE_KINDS * NAMED + IDLE_NAMED + 4 +
				    (size_t)CARRIER_TYPES * PINS_NAMED };
	int ret = 0;

	w.v = calloc(w.size, sizeof(*w.v));
	if (!w.v)
		return -ENOMEM;
	if (before)
		compare(&w, before, in);
	if (last)
		ret = pins_take(&w, look);
	in->owners = w.v;
	in->n_owners = w.n;
	return ret;
}
