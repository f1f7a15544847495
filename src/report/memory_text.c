/* SPDX-License-Identifier: Apache-2.0 */
#include "report/memory.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "report/account_groups.h"
#include "report/paragraph.h"

static void bar(FILE *to, uint64_t part, uint64_t whole, unsigned width)
{
	unsigned n = whole ? (unsigned)((double)part / (double)whole * width + 0.5) : 0, i;

	for (i = 0; i < n && i < width; i++)
		fputc('#', to);
}

static double percent(uint64_t part, uint64_t whole)
{
	return whole ? 100.0 * (double)part / (double)whole : 0.0;
}

void target_text(FILE *to, const struct observer *o, const struct look *l)
{
	char when[32];
	struct tm tm;

	gmtime_r(&l->when.tv_sec, &tm);
	strftime(when, sizeof(when), "%Y-%m-%d %H:%M:%SZ", &tm);
	fprintf(to, "pid %d  OTP %s (erts %s, %s)  %s  looked %.2f s\n", (int)target_pid(o->target),
		o->vm->otp_release, o->vm->erts_version, o->vm->jit ? "jit" : "emulator", when,
		l->seconds);
}

static void os_beside_vm(FILE *to, const struct look *l, const struct ledger *g,
			 const struct memory_text_opts *opts)
{
	char a[32], b[32], c[32];

	fprintf(to, "\nOS   resident %s", unit_format(a, sizeof(a), opts->unit, g->rss));
	if (l->os.pss != SYSTEM_UNKNOWN)
		fprintf(to, ", proportional %s", unit_format(a, sizeof(a), opts->unit, l->os.pss));
	if (l->os.swap != SYSTEM_UNKNOWN && l->os.swap)
		fprintf(to, ", swapped %s", unit_format(a, sizeof(a), opts->unit, l->os.swap));
	if (l->os.cgroup_limit < SYSTEM_UNLIMITED)
		fprintf(to, "\n     cgroup %s of %s, %s left",
			unit_format(a, sizeof(a), opts->unit, l->os.cgroup_usage),
			unit_format(b, sizeof(b), opts->unit, l->os.cgroup_limit),
			unit_format(c, sizeof(c), opts->unit, l->os.cgroup_left));
	fprintf(to, "\nVM   memory(total) %s; carriers %s, used %s (usage %.0f%%)\n",
		unit_format(a, sizeof(a), opts->unit, l->memory.total),
		unit_format(b, sizeof(b), opts->unit, g->vm_allocated),
		unit_format(c, sizeof(c), opts->unit, g->vm_used),
		percent(g->vm_used, g->vm_allocated));
}

static void group_table(FILE *to, const struct ledger *g, const struct memory_text_opts *opts)
{
	uint64_t sums[ACCOUNT_GROUPS] = { 0 };
	char a[32];
	size_t i;

	for (i = 0; i < g->n; i++)
		sums[account_group_of(g->rows[i].account)] += g->rows[i].bytes;
	fputc('\n', to);
	for (i = 0; i < ACCOUNT_GROUPS; i++)
		fprintf(to, "%-16s %10s %5.1f%%  %s\n", account_groups[i].name,
			unit_format(a, sizeof(a), opts->unit, sums[i]), percent(sums[i], g->rss),
			account_groups[i].meaning);
}

static void account_table(FILE *to, const struct ledger *g, const struct memory_text_opts *opts)
{
	uint64_t rest = 0;
	size_t i, hidden = 0;
	char a[32];

	fprintf(to, "\n%-34s %10s %6s\n", "ACCOUNT", "RESIDENT", "%");
	for (i = 0; i < g->n; i++) {
		const struct ledger_row *r = &g->rows[i];

		if (!opts->verbose && percent(r->bytes, g->rss) < 1.0 &&
		    strcmp(r->account, "unattributed") != 0) {
			rest += r->bytes;
			hidden++;
			continue;
		}
		fprintf(to, "%-34.34s %10s %6.1f ", r->account,
			unit_format(a, sizeof(a), opts->unit, r->bytes), percent(r->bytes, g->rss));
		bar(to, r->bytes, g->rss, opts->columns - 54);
		fputc('\n', to);
	}
	if (hidden)
		fprintf(to, "%zu more below 1%% %*s%10s %6.1f   (-v shows them)\n", hidden,
			hidden > 9 ? 18 : 19, "", unit_format(a, sizeof(a), opts->unit, rest),
			percent(rest, g->rss));
}

static uint64_t held_by(const struct ledger_allocator *s)
{
	return s->mbcs.carriers_size + s->sbcs.carriers_size + s->pool.carriers_size;
}

static int by_held(const void *pa, const void *pb)
{
	const struct ledger_allocator *a = *(const struct ledger_allocator *const *)pa;
	const struct ledger_allocator *b = *(const struct ledger_allocator *const *)pb;

	uint64_t x = held_by(a), y = held_by(b);

	return x != y ? (x > y ? -1 : 1) : strcmp(a->name, b->name);
}

static void allocator_table(FILE *to, const struct look *l, const struct ledger *g,
			    const struct memory_text_opts *opts)
{
	const struct ledger_allocator **v = calloc(g->n_allocators + 1, sizeof(*v));
	char a[32], b[32], c[32], d[32];
	size_t i, n = 0;

	if (!v)
		return;
	for (i = 0; i < g->n_allocators; i++)
		if (g->allocators[i].alloc_util &&
		    (opts->verbose || held_by(&g->allocators[i]) >= g->rss / 100))
			v[n++] = &g->allocators[i];
	qsort(v, n, sizeof(*v), by_held);
	fprintf(to, "\n%-16s %10s %10s %5s   %11s %12s\n", "ALLOCATOR", "USED", "CARRIERS", "UTIL",
		"FREE, RES.", "WHOLE PAGES");
	for (i = 0; i < n; i++) {
		const struct ledger_allocator *s = v[i];
		uint64_t used = s->mbcs.blocks_size + s->sbcs.blocks_size + s->pool.blocks_size;
		uint64_t held = held_by(s);

		fprintf(to, "%-16.16s %10s %10s %4.0f%%   %11s %12s\n", s->name,
			unit_format(a, sizeof(a), opts->unit, used),
			unit_format(b, sizeof(b), opts->unit, held), percent(used, held),
			l->quick ? "-" : unit_format(c, sizeof(c), opts->unit, s->free_resident),
			l->quick ? "-" : unit_format(d, sizeof(d), opts->unit, s->whole_pages));
	}
	free(v);
}

static void counts_line(FILE *to, const struct look *l)
{
	const struct vm_counts *c = &l->counts;

	if (c->processes == UINT64_MAX)
		return;
	fprintf(to, "\n%llu processes, %llu ports", (unsigned long long)c->processes,
		(unsigned long long)(c->ports == UINT64_MAX ? 0 : c->ports));
	if (c->ets_tables != UINT64_MAX)
		fprintf(to, ", %llu ETS tables", (unsigned long long)c->ets_tables);
	if (c->atoms != UINT64_MAX)
		fprintf(to, ", %llu of %llu atoms", (unsigned long long)c->atoms,
			(unsigned long long)c->atom_limit);
	fputc('\n', to);
}

static void owners(FILE *to, const struct observer *o, const struct look *l,
		   const struct memory_text_opts *opts)
{
	const struct carriers *c = l->carriers;
	size_t i, shown = 0, most = opts->verbose ? 200 : 5;
	char a[32];

	for (i = 0; i < c->n_tags && shown < most; i++) {
		const struct tag_sum *t = &c->tags[i];
		const struct vm *vm = o->vm;
		char owner[1100];

		if (t->owner_atom == UINT64_MAX ||
		    vm_atom(o->vm, t->owner_atom, owner, sizeof(owner)) < 0 ||
		    strcmp(owner, "system") == 0)
			continue;
		if (!shown++)
			fprintf(to, "\n%-26s %-18s %10s %10s\n", "TAGGED OWNER", "TYPE", "BLOCKS",
				"BYTES");
		fprintf(to, "%-26.26s %-18.18s %10llu %10s\n", owner,
			t->magic ? "resource"
			: t->block_type < vm->n_types && vm->type_names[t->block_type]
				? vm->type_names[t->block_type]
				: "?",
			(unsigned long long)t->blocks,
			unit_format(a, sizeof(a), opts->unit, t->bytes));
	}
}

void memory_text(FILE *to, const struct observer *o, const struct look *l, const struct ledger *g,
		 const struct memory_text_opts *opts)
{
	size_t i;

	target_text(to, o, l);
	os_beside_vm(to, l, g, opts);
	if (!l->quick) {
		group_table(to, g, opts);
		account_table(to, g, opts);
	}
	allocator_table(to, l, g, opts);
	owners(to, o, l, opts);
	counts_line(to, l);
	if (g->n_notes)
		fputc('\n', to);
	for (i = 0; i < g->n_notes; i++)
		paragraph(to, "- ", g->notes[i], opts->columns);
	if (!g->complete)
		fprintf(to,
			"\nINCOMPLETE: more than 1%% of the bytes could not be read or named.\n");
}

struct delta {
	const char *account;
	uint64_t now;
	int64_t change;
};

static int by_change(const void *pa, const void *pb)
{
	const struct delta *a = pa, *b = pb;
	int64_t x = llabs(a->change), y = llabs(b->change);

	return x != y ? (x > y ? -1 : 1) : strcmp(a->account, b->account);
}

void memory_text_delta(FILE *to, const struct look *la, const struct ledger *a,
		       const struct look *lb, const struct ledger *b,
		       const struct memory_text_opts *opts)
{
	struct delta *v = calloc(a->n + b->n + 1, sizeof(*v));
	char now[32], change[32], when[32];
	struct tm tm;
	size_t i, n = 0;

	if (!v)
		return;
	for (i = 0; i < b->n; i++) {
		const struct ledger_row *old = ledger_row(a, b->rows[i].account);

		v[n++] = (struct delta){ b->rows[i].account, b->rows[i].bytes,
					 (int64_t)(b->rows[i].bytes - (old ? old->bytes : 0)) };
	}
	for (i = 0; i < a->n; i++)
		if (!ledger_row(b, a->rows[i].account))
			v[n++] =
				(struct delta){ a->rows[i].account, 0, -(int64_t)a->rows[i].bytes };
	qsort(v, n, sizeof(*v), by_change);
	gmtime_r(&lb->when.tv_sec, &tm);
	strftime(when, sizeof(when), "%H:%M:%SZ", &tm);
	fprintf(to, "\n%s  +%.1f s  resident %s (%s)\n", when,
		(double)(lb->when.tv_sec - la->when.tv_sec) +
			(double)(lb->when.tv_nsec - la->when.tv_nsec) / 1e9,
		unit_format(now, sizeof(now), opts->unit, b->rss),
		unit_format_signed(change, sizeof(change), opts->unit, (int64_t)(b->rss - a->rss)));
	for (i = 0; i < n && (opts->verbose || i < 8); i++)
		if (v[i].change)
			fprintf(to, "  %-34.34s %10s %12s\n", v[i].account,
				unit_format(now, sizeof(now), opts->unit, v[i].now),
				unit_format_signed(change, sizeof(change), opts->unit,
						   v[i].change));
	free(v);
}
