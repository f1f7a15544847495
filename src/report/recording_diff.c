/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two moments side by side.
 *
 * What grew is decided by the ledger rows alone, with the floors of verdict.h: a
 * growth below its floor is shown and is no finding. This is less than the doctor
 * knows (who owns a block, what the trace explains), so findings here name accounts
 * and accuse nobody. Shares are of the larger of the two resident sets.
 *
 * Stacks are compared by what they say, not by their addresses: those of two nodes
 * differ. A growth profile counts from the first look of its own recording, so the
 * difference is what came between two moments of one recording, and between two
 * recordings how much more these stacks brought in one run than in the other.
 */
#include "report/recording_diff.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "ledger/verdict.h"

/* ---- rules ------------------------------------------------------------------- */

/* `account` names one, or with a "." at its end all that begin so. `each`: one by
 * one instead of as a sum. */
static const struct rule {
	const char *what; /* of the sum */
	const char *accounts[4];
	bool each;
	enum { NATIVE, VM, HELD } floor;
	const char *why;
} rules[] = {
	{ "native.heap.used + native.mmap",
	  { "native.heap.used", "native.mmap" },
	  false,
	  NATIVE,
	  "memory of NIFs, drivers and libraries" },
	{ "vm.used.driver_alloc",
	  { "vm.used.driver_alloc" },
	  false,
	  NATIVE,
	  "what NIFs and drivers took from the VM's allocator" },
	{ "vm.used", { "vm.used." }, false, VM, "data of the VM: processes, binaries, tables" },
	{ "vm.free", { "vm.free." }, true, HELD, "free space inside carriers: fragmentation" },
	{ "vm.cache", { "vm.cache" }, false, HELD, "carriers that the VM keeps for later" },
	{ "native.heap.free", { "native.heap.free" }, false, HELD, "free in libc's heap" },
	{ "native.stack + vm.stack",
	  { "native.stack", "vm.stack" },
	  false,
	  HELD,
	  "stacks of threads" },
	{ "unattributed", { "unattributed" }, false, HELD, "memory that belongs to nobody known" },
};

static bool matches(const char *account, const char *pattern)
{
	size_t n = strlen(pattern);

	return pattern[n - 1] == '.' ? strncmp(account, pattern, n) == 0
				     : strcmp(account, pattern) == 0;
}

static void find(struct recording_diff *d, const struct rule *rule, const char *what, int64_t grew)
{
	const struct verdict_opts *o = &verdict_defaults;
	double rss = (double)(d->la->rss > d->lb->rss ? d->la->rss : d->lb->rss);
	double ratio = rule->floor == NATIVE ? 0 : rule->floor == VM ? o->vm_ratio : o->held_ratio;
	uint64_t floor = rule->floor == NATIVE ? o->native_floor
			 : rule->floor == VM   ? o->vm_floor
					       : o->held_floor;
	struct growth_finding *f;

	if ((double)floor < ratio * rss)
		floor = (uint64_t)(ratio * rss);
	if (grew < 0 || (uint64_t)grew < floor || d->n_findings == DIFF_FINDINGS)
		return;
	f = &d->findings[d->n_findings++];
	snprintf(f->what, sizeof(f->what), "%s", what);
	f->why = rule->why;
	f->bytes = grew;
	f->floor = floor;
}

static int larger(const void *a, const void *b)
{
	const struct growth_finding *x = a, *y = b;

	return x->bytes != y->bytes ? (x->bytes > y->bytes ? -1 : 1) : strcmp(x->what, y->what);
}

static void judge(struct recording_diff *d)
{
	size_t i, k, n;

	for (i = 0; i < sizeof(rules) / sizeof(rules[0]); i++) {
		const struct rule *r = &rules[i];
		int64_t sum = 0;

		for (k = 0; k < d->accounts.n; k++)
			for (n = 0; n < 4 && r->accounts[n]; n++) {
				if (!matches(d->accounts.v[k].name, r->accounts[n]))
					continue;
				if (r->each)
					find(d, r, d->accounts.v[k].name, d->accounts.v[k].change);
				else if (__builtin_add_overflow(sum, d->accounts.v[k].change, &sum))
					sum = INT64_MAX;
			}
		if (!r->each)
			find(d, r, r->what, sum);
	}
	qsort(d->findings, d->n_findings, sizeof(d->findings[0]), larger);
}

/* ---- stacks ------------------------------------------------------------------- */

static void sum_changes(struct changes *c, const struct view_profile *p, enum sum_by by)
{
	size_t i;

	for (i = 0; i < p->n_by[by]; i++) {
		changes_add(c, p->by[by][i].text, false, p->by[by][i].base);
		changes_add(c, p->by[by][i].text, true, p->by[by][i].weight);
	}
}

static int stack_changes(struct changes *c, const struct profile_report *r)
{
	uint32_t *path = calloc((size_t)r->depth + 1, sizeof(*path));
	size_t i, size;

	for (i = 1; path && i < r->n_nodes; i++) {
		const struct report_node *n = &r->nodes[i];
		char *text = NULL;
		FILE *f;

		if (!n->self && !n->base_self)
			continue;
		f = open_memstream(&text, &size);
		if (f)
			report_path(f, r, (uint32_t)i, path);
		if (f && fclose(f) == 0) {
			changes_add(c, text, false, n->base_self);
			changes_add(c, text, true, n->self);
		} else {
			c->failed = true;
		}
		free(text);
	}
	c->failed |= !path;
	free(path);
	return changes_sort(c);
}

/* Stacks where both sides have them; without them there are the ledgers. */
static int compare_stacks(struct recording_diff *d, struct recording *ra, struct recording *rb,
			  const char *kind, const struct profile_report_opts *filter,
			  struct error *err)
{
	struct profile_report_opts opts = { 0 };
	struct error why = { 0 };
	char title[200];
	int ret = recording_profile(ra, kind, d->la->number, &d->a.profile, &d->a.symbols, &why);

	if (ret == 0) {
		if (filter)
			opts = *filter;
		snprintf(title, sizeof(title), "%s: look %u against look %u%s", d->a.profile->kind,
			 d->lb->number, d->la->number, ra == rb ? "" : " of another recording");
		opts.title = title;
		opts.base = d->a.profile;
		opts.base_symbols = d->a.symbols;
		ret = view_profile_read(&d->b, rb, kind, d->lb->number, &opts, &why);
	}
	if (ret == -ENOENT)
		return 0;
	if (ret < 0) {
		*err = why;
		return ret;
	}
	d->report = d->b.report;
	d->profile = d->b.profile;
	sum_changes(&d->libraries, &d->b, SUM_LIBRARY);
	sum_changes(&d->processes, &d->b, SUM_PROCESS);
	ret = stack_changes(&d->stacks, d->report);
	if (ret == 0)
		ret = changes_sort(&d->libraries);
	return ret == 0 ? changes_sort(&d->processes) : ret;
}

static int compare_looks(struct recording_diff *d, struct recording *r, unsigned look, bool is_b,
			 json_t *document, struct error *err)
{
	struct recording_row *rows;
	size_t n;
	int ret = recording_rows(r, look, &rows, &n, err);

	if (ret < 0)
		return ret;
	view_accounts(&d->accounts, rows, n, is_b);
	view_allocators(&d->allocators, &d->carriers, document, is_b);
	view_owners(&d->owners, document, is_b);
	free(rows);
	return 0;
}

/* Ledgers always; what the documents hold where both can be read. */
static int compare_ledgers(struct recording_diff *d, struct recording *ra, unsigned na,
			   struct recording *rb, unsigned nb, struct error *err)
{
	json_t *a = view_document(ra, na), *b = view_document(rb, nb);
	int ret = compare_looks(d, ra, na, false, b ? a : NULL, err);

	if (ret == 0)
		ret = compare_looks(d, rb, nb, true, a ? b : NULL, err);
	json_decref(a);
	json_decref(b);
	if (ret == 0 && (changes_sort(&d->accounts) || changes_sort(&d->allocators) ||
			 changes_sort(&d->carriers) || changes_sort(&d->owners)))
		ret = -ENOMEM;
	return ret;
}

/* ---- both ----------------------------------------------------------------------- */

static int check_look(const struct recording *r, unsigned n, struct error *err)
{
	if (n >= 1 && n <= r->n_looks)
		return 0;
	return error_set(err, EXIT_USAGE, -ENOENT, "%s has %zu looks; there is no number %u",
			 r->path, r->n_looks, n);
}

int recording_diff_new(struct recording *ra, unsigned na, struct recording *rb, unsigned nb,
		       const char *kind, const struct profile_report_opts *filter,
		       struct recording_diff **out, struct error *err)
{
	struct recording_diff *d = calloc(1, sizeof(*d));
	int ret = d ? check_look(ra, na, err) : -ENOMEM;

	*out = NULL;
	if (ret == 0)
		ret = check_look(rb, nb, err);
	if (ret == 0) {
		d->ra = ra;
		d->rb = rb;
		d->la = &ra->looks[na - 1];
		d->lb = &rb->looks[nb - 1];
		ret = compare_ledgers(d, ra, na, rb, nb, err);
	}
	if (ret == 0) {
		judge(d);
		ret = compare_stacks(d, ra, rb, kind, filter, err);
	}
	if (ret < 0) {
		recording_diff_free(d);
		return ret;
	}
	*out = d;
	return 0;
}

void recording_diff_free(struct recording_diff *d)
{
	if (!d)
		return;
	changes_clear(&d->accounts);
	changes_clear(&d->allocators);
	changes_clear(&d->carriers);
	changes_clear(&d->owners);
	changes_clear(&d->stacks);
	changes_clear(&d->libraries);
	changes_clear(&d->processes);
	view_profile_clear(&d->b);
	view_profile_clear(&d->a);
	free(d);
}

bool recording_diff_same(const struct recording_diff *d)
{
	static const char *const names[] = { "pid", "start_time", "build_id" };
	size_t i;

	for (i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		const char *a = recording_target(d->ra, names[i]),
			   *b = recording_target(d->rb, names[i]);

		if (!a || !b || strcmp(a, b) != 0)
			return false;
	}
	return true;
}
