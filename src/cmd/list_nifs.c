/* SPDX-License-Identifier: Apache-2.0 */
/* beamray list nifs: libraries of native code, and what the VM gave them. */
#include "cmd/list.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "erts/nif_library.h"

enum { NAME, KIND, FUNCTIONS, BYTES, RESIDENT, BLOCKS, FILE_, PORTS, PATH, OLD, NAMES, N_COLUMNS };

static const struct column columns[] = {
	[NAME] = { .key = "name", .header = "NAME", .kind = COLUMN_TEXT, .width = 14 },
	[KIND] = { .key = "kind", .header = "KIND", .kind = COLUMN_TEXT, .width = 6, .fixed = true },
	[FUNCTIONS] = { .key = "functions", .header = "NIFS", .kind = COLUMN_COUNT, .width = 4 },
	[BYTES] = { .key = "bytes", .header = "BYTES", .kind = COLUMN_BYTES },
	[BLOCKS] = { .key = "blocks", .header = "BLOCKS", .kind = COLUMN_COUNT, .width = 8 },
	[FILE_] = { .key = "file", .header = "FILE", .kind = COLUMN_TEXT, .width = 16 },
	[PORTS] = { .key = "ports", .header = "PORTS", .kind = COLUMN_COUNT, .width = 5 },
	[RESIDENT] = { .key = "resident", .header = "RESIDENT", .kind = COLUMN_BYTES },
	[PATH] = { .key = "path", .kind = COLUMN_TEXT, .width = 30 },
	[OLD] = { .key = "old_code", .kind = COLUMN_FLAG },
	[NAMES] = { .key = "function_names", .kind = COLUMN_TEXT, .width = 30 },
};

static void row_fill(struct table *t, const struct native_library *one)
{
	const char *slash = strrchr(one->path, '/');

	table_text(t, NAME, one->name);
	table_text(t, KIND, one->driver ? "driver" : "nif");
	table_text(t, FILE_, !one->path[0] ? NULL : slash ? slash + 1 : one->path);
	table_text(t, PATH, one->path[0] ? one->path : NULL);
	table_set(t, BYTES, one->bytes);
	table_set(t, BLOCKS, one->blocks);
	table_set(t, RESIDENT, one->resident);
	table_set(t, OLD, one->old);
	if (one->driver) {
		table_set(t, PORTS, one->ports);
		return;
	}
	table_set(t, FUNCTIONS, one->functions);
	table_text(t, NAMES, one->function_names);
}

enum { F_LIBRARY, F_FUNCTIONS, F_N };

static const struct column function_columns[] = {
	[F_LIBRARY] = { .key = "name", .header = "MODULE", .kind = COLUMN_TEXT, .width = 14 },
	[F_FUNCTIONS] = { .key = "function", .header = "NIF", .kind = COLUMN_TEXT, .width = 40 },
};

/* With -v: a line for each function. */
static int functions_fill(struct listing *l, const struct native_libraries *n)
{
	struct table *t = listing_table(l, "functions", function_columns, F_N);
	size_t i;

	if (!t)
		return -ENOMEM;
	for (i = 0; i < n->n; i++) {
		char *names = strdup(n->v[i].function_names), *save = NULL, *one;

		if (!names)
			return -ENOMEM;
		for (one = strtok_r(names, " ", &save); one; one = strtok_r(NULL, " ", &save)) {
			if (table_row(t))
				break;
			table_text(t, F_LIBRARY, n->v[i].name);
			table_text(t, F_FUNCTIONS, one);
		}
		free(names);
	}
	return 0;
}

static int collect(struct list_run *run, struct error *err)
{
	struct vm *vm = run->observer->vm;
	struct listing *l = run->listing;
	const struct carriers_opts opts = { .tags = true };
	struct table *t = listing_table(l, "rows", columns, N_COLUMNS);
	struct native_libraries *n = NULL;
	struct allocators *a = NULL;
	struct carriers *c = NULL;
	struct ports *p = NULL;
	uint64_t bytes = 0;
	size_t i;
	int ret;

	if (!t)
		return -ENOMEM;
	l->noun = "libraries";
	ret = list_walk(run, &opts, NULL, &a, &c, err);
	if (ret == 0 && ports_read(vm, &p, NULL) == -ENOENT)
		listing_note(l, "The port table was not found, and drivers are found through it.");
	if (ret == 0)
		ret = native_libraries_read(vm, c, p, &n, err);
	if (ret == 0) {
		for (i = 0; i < n->n && !table_row(t); i++) {
			row_fill(t, &n->v[i]);
			bytes += n->v[i].bytes;
		}
		listing_fact(l, "bytes", "tagged with them", COLUMN_BYTES, bytes);
		listing_note(l,
			     "Bytes are what the VM gave them, by its tags on binary_alloc and "
			     "driver_alloc; what they get from malloc() or mmap() `beamray memory` "
			     "shows as native.");
		if (run->verbose)
			ret = functions_fill(l, n);
		if (n->drivers_torn)
			listing_note(l,
				     "The list of drivers changed while it was read: some may be "
				     "missing.");
	}
	native_libraries_free(n);
	ports_free(p);
	carriers_free(c);
	allocators_free(a);
	return ret;
}

const struct list_what list_nifs = {
	.name = "nifs",
	.summary = "NIF libraries and drivers: file, functions, tagged bytes",
	.sort = "bytes",
	.collect = collect,
};
