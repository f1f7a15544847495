/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The VM's own data: which kind grew, and who in the VM holds it
 *
 * Allocators are not kinds of data: ll_alloc holds atoms and what code loading leaves,
 * and JIT code lies outside of all allocators. So growth of used blocks is summed by
 * category; where one allocator serves several, erlang:memory()'s own figures say how
 * much of it is atoms and code. Who holds it is told by the inside view at both ends:
 * the process, table, module or atom prefix whose size grew most.
 */
#include "ledger/verdict_int.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
	const char *allocator, *category;
} categories[] = {
	{ "eheap_alloc", "processes" }, { "fix_alloc", "processes" },
	{ "binary_alloc", "binary" },	{ "ets_alloc", "ets" },
	{ "literal_alloc", "literal" }, { "driver_alloc", "driver" },
	{ "exec_alloc", "code" },	{ "ll_alloc", "system" },
	{ "std_alloc", "system" },	{ "sl_alloc", "system" },
	{ "temp_alloc", "temporary" },
};

#define CATEGORIES_MAX 16

static const char *category_of(const char *allocator)
{
	size_t i;

	for (i = 0; i < sizeof(categories) / sizeof(categories[0]); i++)
		if (strcmp(categories[i].allocator, allocator) == 0)
			return categories[i].category;
	return "system";
}

struct category {
	const char *name;
	int64_t grew;
	uint64_t bytes;
	const char *accounts[8]; /* that it is made of, for the curve */
	int64_t grew_of[8];
	size_t n;
};

static struct category *category_get(struct category *v, size_t *n, const char *name)
{
	size_t i;

	for (i = 0; i < *n; i++)
		if (strcmp(v[i].name, name) == 0)
			return &v[i];
	if (*n == CATEGORIES_MAX)
		return NULL;
	memset(&v[*n], 0, sizeof(v[*n]));
	v[*n].name = name;
	return &v[(*n)++];
}

static void category_add(struct category *c, const char *account, int64_t grew, uint64_t bytes)
{
	if (!c)
		return;
	c->grew += grew;
	c->bytes += bytes;
	/* one place stays NULL: the list's end */
	if (c->n + 1 < sizeof(c->accounts) / sizeof(c->accounts[0])) {
		c->accounts[c->n] = account;
		c->grew_of[c->n++] = grew;
	}
}

/* What of ll_alloc's growth is atoms and what is code: in proportion to what the VM's
 * own figures for both grew by, the atoms themselves being larger than their figure. */
static const char *long_lived_category(const struct judge *j)
{
	const struct look *a = j->in->before.look, *b = j->in->after.look;
	uint64_t atoms = b->counts.atoms - a->counts.atoms;
	int64_t code = (int64_t)(b->memory.code - a->memory.code);
	int64_t atom = (int64_t)(b->memory.atom - a->memory.atom);

	if (b->counts.atoms == UINT64_MAX || a->counts.atoms == UINT64_MAX)
		return "system";
	if (b->memory.code == UINT64_MAX || a->memory.code == UINT64_MAX)
		code = 0;
	if (b->memory.atom == UINT64_MAX || a->memory.atom == UINT64_MAX)
		atom = 0;
	/* an atom costs about 70 bytes besides its share of the table */
	if (b->counts.atoms > a->counts.atoms && atom + (int64_t)atoms * 70 > code)
		return "atom";
	return code > 0 ? "code" : "system";
}

/* From OTP 28 on an atom's text is a literal, some 32 bytes for a short one. */
static bool literals_are_atoms(const struct judge *j)
{
	const struct look *a = j->in->before.look, *b = j->in->after.look;
	int64_t grew = ledger_grew(j, "vm.used.literal_alloc");

	return atoi(j->in->o->vm->otp_release) >= 28 && a->counts.atoms != UINT64_MAX &&
	       b->counts.atoms != UINT64_MAX && b->counts.atoms > a->counts.atoms &&
	       (int64_t)(b->counts.atoms - a->counts.atoms) * 64 >= grew;
}

static int64_t taken_of(const struct judge *j, const char *allocator)
{
	const struct vm *vm = j->in->o->vm;
	unsigned i;

	for (i = 0; i < vm->n_alloc && i < CARRIER_TYPES; i++)
		if (vm->alloc_names[i] && strcmp(vm->alloc_names[i], allocator) == 0)
			return j->taken[i];
	return 0;
}

static size_t categories_sum(const struct judge *j, struct category *v)
{
	const struct ledger *now = j->in->after.ledger;
	size_t i, n = 0;

	for (i = 0; i < now->n; i++) {
		const struct ledger_row *r = &now->rows[i];
		const char *name = r->account + strlen("vm.used.");
		const char *category;

		if (strncmp(r->account, "vm.used.", 8) == 0) {
			category = strcmp(name, "ll_alloc") == 0 ? long_lived_category(j)
				   : strcmp(name, "literal_alloc") == 0 && literals_are_atoms(j)
					   ? "atom"
					   : category_of(name);
			/* what lives for one call says nothing about growth */
			if (strcmp(category, "temporary") != 0)
				category_add(category_get(v, &n, category), r->account,
					     ledger_grew(j, r->account) - taken_of(j, name),
					     r->bytes);
		} else if (strcmp(r->account, "vm.code") == 0 ||
			   strcmp(r->account, "vm.code.alias") == 0) {
			const struct ledger_row *old = ledger_row(j->in->before.ledger, r->account);

			category_add(category_get(v, &n, "code"), r->account,
				     (int64_t)(r->bytes - (old ? old->bytes : 0)), r->bytes);
		}
	}
	if (j->vm_native > 0)
		category_add(category_get(v, &n, "code"), "native.heap.used", j->vm_native,
			     (uint64_t)j->vm_native);
	return n;
}

/* The owners of a category that grew, largest first: the first is the finding's owner
 * when it accounts for a good part of the growth. */
static void owners_set(const struct judge *j, struct finding *f, int64_t grew)
{
	const struct verdict_owner *best[3] = { NULL };
	size_t i, k;

	for (i = 0; i < j->in->n_owners; i++) {
		const struct verdict_owner *o = &j->in->owners[i];

		if (strcmp(o->category, f->subject) != 0 || o->after <= o->before)
			continue;
		for (k = 3; k > 0; k--) {
			if (best[k - 1] &&
			    best[k - 1]->after - best[k - 1]->before >= o->after - o->before)
				break;
			if (k < 3)
				best[k] = best[k - 1];
			best[k - 1] = o;
		}
	}
	for (k = 0; k < 3 && best[k]; k++)
		if ((int64_t)(best[k]->after - best[k]->before) * 20 >= grew)
			evidence_add(f, (int64_t)(best[k]->after - best[k]->before), "bytes",
				     "more in %.130s", best[k]->name);
	if (best[0] && (int64_t)(best[0]->after - best[0]->before) * 5 >= grew)
		snprintf(f->owner, sizeof(f->owner), "%s", best[0]->name);
}

static void data_report(struct judge *j, const struct category *c)
{
	struct finding *f = finding_add(j, FINDING_VM_DATA, c->name);
	const struct look *a = j->in->before.look, *b = j->in->after.look;
	size_t i;

	if (!f)
		return;
	f->bytes = c->bytes;
	growth_set(j, f, c->grew);
	if (f->bytes < f->grew_bytes)
		f->bytes = f->grew_bytes;
	for (i = 0; i < c->n; i++)
		if (c->grew_of[i] > c->grew / 20)
			evidence_add(f, c->grew_of[i], "bytes", "%s grew (two ledgers)",
				     c->accounts[i]);
	if (strcmp(c->name, "atom") == 0)
		evidence_add(f, (int64_t)(b->counts.atoms - a->counts.atoms), "atoms",
			     "more, %llu now of at most %llu", (unsigned long long)b->counts.atoms,
			     (unsigned long long)b->counts.atom_limit);
	if (strcmp(c->name, "processes") == 0 && b->counts.processes != UINT64_MAX &&
	    a->counts.processes != UINT64_MAX)
		evidence_add(f, (int64_t)(b->counts.processes - a->counts.processes), "processes",
			     "more than at the start, %llu now",
			     (unsigned long long)b->counts.processes);
	owners_set(j, f, c->grew);
	confidence_set(f, CONFIDENCE_HIGH, "%s",
		       f->owner[0] ? "the VM's own blocks, counted at both ends; their holder's "
				     "size grew with them"
				   : "the VM's own blocks, counted at both ends");
	growth_curve(j, f, moment_accounts, c->accounts);
}

void rule_data(struct judge *j, const struct rule *r)
{
	struct category v[CATEGORIES_MAX];
	size_t i, n = categories_sum(j, v);

	for (i = 0; i < n; i++)
		if (rule_reached(j, r, v[i].grew))
			data_report(j, &v[i]);
}

/* Near the cgroup's limit size itself is the finding, when used blocks are the reason. */
void rule_tight(struct judge *j, const struct rule *r)
{
	const struct ledger *now = j->in->after.ledger;
	const struct look *l = j->in->after.look;
	const struct ledger_row *largest = NULL;
	struct finding *f;
	uint64_t used = 0;
	size_t i;

	if (l->os.cgroup_limit >= SYSTEM_UNLIMITED || !l->os.cgroup_limit ||
	    (double)j->rss <= j->opts->cgroup_ratio * (double)l->os.cgroup_limit)
		return;
	for (i = 0; i < now->n; i++)
		if (strncmp(now->rows[i].account, "vm.used.", 8) == 0) {
			used += now->rows[i].bytes;
			if (!largest)
				largest = &now->rows[i];
		}
	if (!largest || used * 2 <= j->rss || !rule_reached(j, r, (int64_t)largest->bytes))
		return;
	for (i = 0; i < j->v->n; i++)
		if (j->v->v[i].code == FINDING_VM_DATA)
			return; /* it grows: that says more */
	f = finding_add(j, FINDING_VM_DATA, category_of(largest->account + strlen("vm.used.")));
	if (!f)
		return;
	f->bytes = largest->bytes;
	evidence_add(f, (int64_t)j->rss, "bytes", "resident");
	evidence_add(f, (int64_t)l->os.cgroup_limit, "bytes", "limit of the cgroup");
	evidence_add(f, (int64_t)used, "bytes", "in used blocks of the VM");
	confidence_set(f, CONFIDENCE_MEDIUM,
		       "used blocks are the larger part of a node near its limit; they did not "
		       "grow while it was watched, or it was not watched");
}
