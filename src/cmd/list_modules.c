/* SPDX-License-Identifier: Apache-2.0 */
/* beamray list modules, literals: code by module, old code kept, literal memory. */
#include "cmd/list.h"

#include <errno.h>
#include <string.h>

#include "erts/modules.h"

enum { NAME, CODE, LITERALS, OLD_CODE, OLD_LITERALS, NIF, ON_LOAD, N_COLUMNS };

static const struct column module_columns[] = {
	[NAME] = { "module", "MODULE", COLUMN_TEXT, 28 },
	[CODE] = { "code", "CODE", COLUMN_BYTES, 0 },
	[LITERALS] = { "literals", "LITERALS", COLUMN_BYTES, 0 },
	[OLD_CODE] = { "old_code", "OLD CODE", COLUMN_BYTES, 0 },
	[OLD_LITERALS] = { "old_literals", "OLD LIT.", COLUMN_BYTES, 0 },
	[NIF] = { "nif", "NIF", COLUMN_FLAG, 0 },
	[ON_LOAD] = { "on_load", NULL, COLUMN_FLAG, 0 },
};

enum { L_NAME, L_BYTES, L_OLD, N_LITERAL_COLUMNS };

static const struct column literal_columns[] = {
	[L_NAME] = { "module", "MODULE", COLUMN_TEXT, 40 },
	[L_BYTES] = { "literals", "LITERALS", COLUMN_BYTES, 0 },
	[L_OLD] = { "old_literals", "OLD LIT.", COLUMN_BYTES, 0 },
};

static int modules_of(struct list_run *run, struct modules **m, struct error *err)
{
	struct listing *l = run->listing;
	int ret = modules_read(run->observer->vm, m, err);

	if (ret)
		return ret;
	if (!(*m)->certain)
		listing_note(l, "Which of the VM's module tables is the active one is not known; "
				"the longest was read.");
	if ((*m)->torn)
		listing_note(l, "The literals of %llu modules could not be read.",
			     (unsigned long long)(*m)->torn);
	l->torn = (*m)->torn;
	listing_missing(l, (*m)->torn, (*m)->n);
	return 0;
}

static int collect_modules(struct list_run *run, struct error *err)
{
	struct listing *l = run->listing;
	struct table *t = listing_table(l, "rows", module_columns, N_COLUMNS);
	struct modules *m;
	size_t i;
	int ret = t ? modules_of(run, &m, err) : -ENOMEM;

	if (ret)
		return ret;
	listing_fact(l, "modules", "modules", COLUMN_COUNT, m->n);
	listing_fact(l, "code", "code", COLUMN_BYTES, m->code);
	listing_fact(l, "literals", "literals", COLUMN_BYTES, m->literals);
	listing_fact(l, "old_code", "old code", COLUMN_BYTES, m->old_code);
	listing_fact(l, "old_literals", "its literals", COLUMN_BYTES, m->old_literals);
	for (i = 0; i < m->n && !table_row(t); i++) {
		table_text(t, NAME, m->v[i].name);
		table_set(t, CODE, m->v[i].code);
		table_set(t, LITERALS, m->v[i].literals);
		table_set(t, OLD_CODE, m->v[i].old_code);
		table_set(t, OLD_LITERALS, m->v[i].old_literals);
		table_set(t, NIF, m->v[i].nif);
		table_set(t, ON_LOAD, m->v[i].on_load);
	}
	modules_free(m);
	return 0;
}

/* The literal area: what is reserved for it, what its carriers take of that, and
 * what is used in them. */
static void area_facts(struct list_run *run)
{
	struct listing *l = run->listing;
	struct vm *vm = run->observer->vm;
	const struct allocators *a = run->look->allocators;
	uint64_t mapper = vm->anchors.v[A_LITERAL_MMAPPER].addr, limit = UINT64_MAX, taken;
	uint64_t used = UINT64_MAX;
	unsigned type;
	size_t k;

	if (!mapper ||
	    vm_read_field(vm, mapper, vm->layout->ErtsMemMapper__size_supercarrier_total, &limit) ||
	    vm_read_field(vm, mapper, vm->layout->ErtsMemMapper__size_supercarrier_used_total,
			  &taken)) {
		limit = taken = UINT64_MAX;
		listing_note(l, "How much is reserved for literals is not known: the memory "
				"mapper of literals was not found.");
	}
	for (type = 0; type < vm->n_alloc && type < a->n_types; type++) {
		if (!vm->alloc_names[type] || strcmp(vm->alloc_names[type], "literal_alloc") != 0)
			continue;
		for (k = 0, used = 0; k < a->types[type].n; k++) {
			const struct alloc_instance *i = &a->inst[a->types[type].first + k];

			used += i->mbcs.blocks_size + i->sbcs.blocks_size + i->pool.blocks_size;
		}
	}
	listing_fact(l, "area_limit", "area", COLUMN_BYTES, limit);
	listing_fact(l, "area_taken", "taken by carriers", COLUMN_BYTES, taken);
	listing_fact(l, "blocks_size", "blocks in use", COLUMN_BYTES, used);
	if (limit != UINT64_MAX && limit && taken != UINT64_MAX)
		listing_fact_real(l, "of_limit", "that is", COLUMN_SHARE,
				  (double)taken / (double)limit);
}

static int collect_literals(struct list_run *run, struct error *err)
{
	struct listing *l = run->listing;
	struct table *t = listing_table(l, "rows", literal_columns, N_LITERAL_COLUMNS);
	struct persistent_terms *p = NULL;
	struct error why = { 0 };
	struct modules *m;
	size_t i;
	int ret = t ? modules_of(run, &m, err) : -ENOMEM;

	if (ret)
		return ret;
	l->noun = "modules";
	area_facts(run);
	listing_fact(l, "modules", "of modules", COLUMN_BYTES, m->literals);
	listing_fact(l, "old_modules", "of old code", COLUMN_BYTES, m->old_literals);
	ret = persistent_terms_read(run->observer->vm, &p, &why);
	listing_fact(l, "persistent_terms", "of persistent terms", COLUMN_BYTES,
		     ret ? UINT64_MAX : p->memory);
	if (ret)
		listing_note(l, "%s", why.text);
	for (i = 0; i < m->n && !table_row(t); i++) {
		table_text(t, L_NAME, m->v[i].name);
		table_set(t, L_BYTES, m->v[i].literals);
		table_set(t, L_OLD, m->v[i].old_literals);
	}
	persistent_terms_free(p);
	modules_free(m);
	return ret == -ENOMEM ? ret : 0;
}

enum { P_KEY, P_BYTES, N_TERM_COLUMNS };

static const struct column term_columns[] = {
	[P_KEY] = { "key", "KEY", COLUMN_TEXT, 40 },
	[P_BYTES] = { "bytes", "BYTES", COLUMN_BYTES, 0 },
};

static int collect_terms(struct list_run *run, struct error *err)
{
	struct listing *l = run->listing;
	struct table *t = listing_table(l, "rows", term_columns, N_TERM_COLUMNS);
	struct persistent_terms *p;
	size_t i;
	int ret = t ? persistent_terms_read(run->observer->vm, &p, err) : -ENOMEM;

	if (ret)
		return ret;
	l->noun = "persistent terms";
	listing_fact(l, "count", "persistent terms", COLUMN_COUNT, p->n);
	listing_fact(l, "memory", "memory", COLUMN_BYTES, p->memory);
	for (i = 0; i < p->n && !table_row(t); i++) {
		table_text(t, P_KEY, p->v[i].key);
		table_set(t, P_BYTES, p->v[i].bytes);
	}
	l->torn = p->torn;
	listing_missing(l, p->torn, p->n + p->torn);
	if (p->torn)
		listing_note(l, "%llu entries could not be read.", (unsigned long long)p->torn);
	persistent_terms_free(p);
	return 0;
}

const struct list_what list_modules = {
	.name = "modules",
	.summary = "code and literals by module, old code kept",
	.sort = "code",
	.collect = collect_modules,
};

const struct list_what list_literals = {
	.name = "literals",
	.summary = "the literal area: used, limit, biggest modules",
	.sort = "literals",
	.collect = collect_literals,
};

const struct list_what list_persistent_terms = {
	.name = "persistent_terms",
	.summary = "count, bytes, the largest keys",
	.sort = "bytes",
	.collect = collect_terms,
};
