/* SPDX-License-Identifier: Apache-2.0 */
/* beamray list atoms: what many have in common, and the largest. */
#include "cmd/list.h"

#include <errno.h>

#include "erts/atoms.h"

enum { PREFIX, COUNT, BYTES, SHARE, NEWEST, EXAMPLE, N_COLUMNS };

static const struct column columns[] = {
	[PREFIX] = { "prefix", "BEGIN WITH", COLUMN_TEXT, 18 },
	[COUNT] = { "count", "ATOMS", COLUMN_COUNT, 9 },
	[BYTES] = { "bytes", "BYTES", COLUMN_BYTES, 0 },
	[SHARE] = { "of_atoms", "OF ALL", COLUMN_SHARE, 0 },
	[NEWEST] = { "newest_index", "NEWEST", COLUMN_COUNT, 9 },
	[EXAMPLE] = { "newest", "THE NEWEST OF THEM", COLUMN_TEXT, 18 },
};

enum { TEXT, TEXT_BYTES, INDEX, N_LARGEST_COLUMNS };

static const struct column largest_columns[] = {
	[TEXT] = { "atom", "ATOM", COLUMN_TEXT, 40 },
	[TEXT_BYTES] = { "bytes", "BYTES", COLUMN_BYTES, 0 },
	[INDEX] = { "index", "INDEX", COLUMN_COUNT, 0 },
};

#define LARGEST 20
#define LEAST	50 /* atoms that make a pattern */

static void fill(struct table *t, struct table *big, const struct atoms *a)
{
	uint64_t all = a->end - a->first;
	size_t i;

	for (i = 0; i < a->n_prefixes && !table_row(t); i++) {
		const struct atom_prefix *p = &a->prefixes[i];

		table_text(t, PREFIX, p->prefix);
		table_set(t, COUNT, p->count);
		table_set(t, BYTES, p->bytes);
		if (all)
			table_set_real(t, SHARE, (double)p->count / (double)all);
		table_set(t, NEWEST, p->newest);
		table_text(t, EXAMPLE, p->example);
	}
	for (i = 0; i < a->n_largest && !table_row(big); i++) {
		table_text(big, TEXT, a->largest[i].text);
		table_set(big, TEXT_BYTES, a->largest[i].bytes);
		table_set(big, INDEX, a->largest[i].index);
	}
}

static int collect(struct list_run *run, struct error *err)
{
	struct listing *l = run->listing;
	struct table *t = listing_table(l, "rows", columns, N_COLUMNS);
	struct table *big = listing_table(l, "largest", largest_columns, N_LARGEST_COLUMNS);
	const struct vm_memory *m = &run->look->memory;
	struct atoms *a;
	uint64_t count, limit;
	int ret;

	if (!t || !big)
		return -ENOMEM;
	ret = atoms_read(run->observer->vm, 0, UINT64_MAX, LEAST, LARGEST, &a, err);
	if (ret)
		return ret;
	l->noun = "patterns";
	if (!atoms_count(run->observer->vm, &count, &limit)) {
		listing_fact(l, "atom_count", "atoms", COLUMN_COUNT, a->end);
		listing_fact(l, "atom_limit", "of at most", COLUMN_COUNT, limit);
		if (limit)
			listing_fact_real(l, "of_limit", "that is", COLUMN_SHARE,
					  (double)a->end / (double)limit);
	}
	listing_fact(l, "bytes", "texts and structures", COLUMN_BYTES, a->bytes);
	listing_fact(l, "atom_used", "memory(atom_used)", COLUMN_BYTES, m->atom_used);
	if (m->atom_used == UINT64_MAX)
		listing_note(l, "memory(atom_used) is not known: %s",
			     m->why[0] ? m->why : "its counter was not found.");
	fill(t, big, a);
	l->torn = a->unreadable;
	listing_missing(l, a->unreadable, a->end);
	if (a->unreadable)
		listing_note(l, "%llu atoms could not be read.", (unsigned long long)a->unreadable);
	atoms_free(a);
	return 0;
}

const struct list_what list_atoms = {
	.name = "atoms",
	.summary = "count, limit, what many begin with, the largest",
	.sort = "count",
	.collect = collect,
};
