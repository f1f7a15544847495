/* SPDX-License-Identifier: Apache-2.0 */
/* beamray list resources: NIF resources by module and type. */
#include "cmd/list.h"

#include <errno.h>
#include <string.h>

#include "erts/resource.h"

enum { MODULE, TYPE, LIVE, BYTES, RESIDENT, AVERAGE, FOUND, LOADED, N_COLUMNS };

static const struct column columns[] = {
	[MODULE] = { .key = "module", .header = "MODULE", .kind = COLUMN_TEXT, .width = 16 },
	[TYPE] = { .key = "type", .header = "TYPE", .kind = COLUMN_TEXT, .width = 16 },
	[LIVE] = { .key = "count", .header = "LIVE", .kind = COLUMN_COUNT, .width = 9 },
	[BYTES] = { .key = "bytes", .header = "BYTES", .kind = COLUMN_BYTES },
	[RESIDENT] = { .key = "resident", .header = "RESIDENT", .kind = COLUMN_BYTES },
	[AVERAGE] = { .key = "average", .header = "EACH", .kind = COLUMN_BYTES },
	[FOUND] = { .key = "blocks", .kind = COLUMN_COUNT },
	[LOADED] = { .key = "loaded", .header = "LOADED", .kind = COLUMN_FLAG },
};

static bool has_tags(const struct vm *vm, const struct allocators *a)
{
	size_t i;

	for (i = 0; i < a->n_inst; i++)
		if (a->inst[i].atags && a->inst[i].type < vm->n_alloc &&
		    strcmp(vm->alloc_names[a->inst[i].type], "binary_alloc") == 0)
			return true;
	return false;
}

static void rows_fill(struct vm *vm, struct table *t, const struct resource_types *r, bool bytes)
{
	char text[1100];
	size_t i;

	for (i = 0; i < r->n && !table_row(t); i++) {
		const struct resource_type *one = &r->v[i];

		if (vm_atom(vm, one->module >> 6, text, sizeof(text)) >= 0)
			table_text(t, MODULE, text);
		if (vm_atom(vm, one->name >> 6, text, sizeof(text)) >= 0)
			table_text(t, TYPE, text);
		table_set(t, LIVE, one->live);
		table_set(t, LOADED, one->listed);
		if (!bytes)
			continue;
		table_set(t, FOUND, one->found);
		table_set(t, BYTES, one->bytes);
		table_set(t, RESIDENT, one->resident);
		if (one->found)
			table_set(t, AVERAGE, one->bytes / one->found);
	}
}

static int collect(struct list_run *run, struct error *err)
{
	struct vm *vm = run->observer->vm;
	struct listing *l = run->listing;
	const struct carriers_opts opts = { .tags = true, .resources = true };
	struct table *t = listing_table(l, "rows", columns, N_COLUMNS);
	struct resource_types *r = NULL;
	struct allocators *a = NULL;
	struct carriers *c = NULL;
	const bool tags = has_tags(vm, run->look->allocators);
	uint64_t live = 0, bytes = 0;
	size_t i;
	int ret;

	if (!t)
		return -ENOMEM;
	l->noun = "resource types";
	ret = list_walk(run, &opts, NULL, &a, &c, err);
	if (ret == 0)
		ret = resource_types_read(vm, c, &r, err);
	if (ret == 0) {
		rows_fill(vm, t, r, tags);
		for (i = 0; i < r->n; i++) {
			live += r->v[i].live == UINT64_MAX ? 0 : r->v[i].live;
			bytes += r->v[i].bytes;
		}
		listing_fact(l, "count", "live resources", COLUMN_COUNT, live);
		listing_fact(l, "bytes", "of", COLUMN_BYTES, tags ? bytes : UINT64_MAX);
		if (!tags)
			listing_note(l, "Blocks of binary_alloc carry no tags (+MBatags false), so "
					"resources cannot be told from other binaries: no bytes.");
		if (!r->list_known)
			listing_note(l, "The VM's list of resource types was not found: types "
					"without a live resource are not here.");
		if (r->torn)
			listing_note(l, "The list of resource types changed all the time: some may "
					"be missing.");
	}
	resource_types_free(r);
	carriers_free(c);
	allocators_free(a);
	return ret;
}

const struct list_what list_resources = {
	.name = "resources",
	.summary = "NIF resources: module, type, live count, bytes",
	.sort = "bytes",
	.collect = collect,
};
