/* SPDX-License-Identifier: Apache-2.0 */
/* beamray list ets: tables by what they hold. */
#include "cmd/list.h"

#include <errno.h>
#include <stdio.h>

#include "erts/ets.h"
#include "erts/process.h"
#include "erts/vm_cache.h"

enum {
	NAME,
	MEMORY,
	SIZE,
	TYPE,
	PROTECTION,
	LABEL,
	OWNER,
	ID,
	KEYPOS,
	WRITE,
	READ,
	COUNTERS,
	COMPRESSED,
	NAMED,
	FIXED,
	HEIR,
	DELETING,
	APPROXIMATE,
	N_COLUMNS
};

static const struct column columns[] = {
	[NAME] = { .key = "name", .header = "NAME", .kind = COLUMN_TEXT, .width = 18 },
	[MEMORY] = { .key = "memory", .header = "MEMORY", .kind = COLUMN_WORDS },
	[SIZE] = { .key = "size", .header = "ITEMS", .kind = COLUMN_COUNT },
	[TYPE] = { .key = "type",
		   .header = "TYPE",
		   .kind = COLUMN_TEXT,
		   .width = 13,
		   .fixed = true },
	[PROTECTION] = { .key = "protection",
			 .header = "ACCESS",
			 .kind = COLUMN_TEXT,
			 .width = 9,
			 .fixed = true },
	[LABEL] = { .key = "owner_name", .header = "OWNER", .kind = COLUMN_TEXT, .width = 14 },
	[OWNER] = { .key = "owner",
		    .header = "PID",
		    .kind = COLUMN_TEXT,
		    .width = 10,
		    .fixed = true },
	[ID] = { .key = "id", .header = "TABLE", .kind = COLUMN_TEXT, .width = 26, .fixed = true },
	[KEYPOS] = { .key = "keypos", .header = "KEY", .kind = COLUMN_COUNT, .width = 3 },
	[WRITE] = { .key = "write_concurrency",
		    .header = "WRITE",
		    .kind = COLUMN_TEXT,
		    .width = 5,
		    .fixed = true },
	[READ] = { .key = "read_concurrency", .header = "READ", .kind = COLUMN_FLAG },
	[COUNTERS] = { .key = "decentralized_counters", .header = "DECTR", .kind = COLUMN_FLAG },
	[COMPRESSED] = { .key = "compressed", .header = "COMPR", .kind = COLUMN_FLAG },
	[NAMED] = { .key = "named_table", .header = "NAMED", .kind = COLUMN_FLAG },
	[FIXED] = { .key = "fixed", .header = "FIXED", .kind = COLUMN_FLAG },
	[HEIR] = { .key = "heir", .kind = COLUMN_TEXT, .width = 10, .fixed = true },
	[DELETING] = { .key = "deleting", .kind = COLUMN_FLAG },
	[APPROXIMATE] = { .key = "approximate", .kind = COLUMN_FLAG },
};

/* Owners repeat: one that has been looked up stays for its next table. */
struct owner {
	uint64_t pid;
	char label[PROCESS_LABEL_MAX], text[32];
};

static void owner_find(struct vm *vm, uint64_t pid, struct owner *o)
{
	if (o->pid == pid)
		return;
	o->pid = pid;
	process_pid_label(vm, pid, o->label, sizeof(o->label));
	process_pid_text(vm, pid, o->text, sizeof(o->text));
}

static void row_fill(struct vm *vm, struct table *t, const struct ets_table *e, struct owner *o)
{
	char text[PROCESS_LABEL_MAX];

	if (vm_atom(vm, e->name >> 6, text, sizeof(text)) >= 0)
		table_text(t, NAME, text);
	ets_id(vm, e, text, sizeof(text));
	table_text(t, ID, text[0] ? text : NULL);
	table_set(t, MEMORY, (e->bytes + 7) / 8);
	table_set(t, SIZE, e->items);
	table_text(t, TYPE, ets_type_name(e->type));
	if (!e->deleting)
		table_text(t, PROTECTION, ets_protection_name(e->protection));
	owner_find(vm, e->owner, o);
	table_text(t, LABEL, o->label);
	table_text(t, OWNER, o->text);
	table_set(t, KEYPOS, e->keypos);
	table_text(t, WRITE, ets_write_name(e->write_concurrency));
	table_set(t, READ, e->read_concurrency);
	table_set(t, COUNTERS, e->decentralized_counters);
	table_set(t, COMPRESSED, e->compressed);
	table_set(t, NAMED, e->named);
	table_set(t, FIXED, e->fixed);
	if (e->heir && process_pid_text(vm, e->heir, text, sizeof(text)))
		table_text(t, HEIR, text);
	table_set(t, DELETING, e->deleting);
	table_set(t, APPROXIMATE, e->approximate);
}

static int collect(struct list_run *run, struct error *err)
{
	struct vm *vm = run->observer->vm;
	struct listing *l = run->listing;
	struct table *t = listing_table(l, "rows", columns, N_COLUMNS);
	uint64_t items = 0, bytes = 0, deleting = 0, approximate = 0;
	struct owner owner = { 0 };
	struct vm_cache *cache;
	struct ets_tables *e;
	size_t i;
	int ret;

	if (!t)
		return -ENOMEM;
	l->noun = "tables";
	ret = ets_read(vm, &e, err);
	if (ret < 0)
		return ret;
	vm->cache = cache = vm_cache_new(1024); /* for names alone */
	for (i = 0; i < e->n && !table_row(t); i++) {
		row_fill(vm, t, &e->v[i], &owner);
		items += e->v[i].items;
		bytes += e->v[i].bytes;
		deleting += e->v[i].deleting;
		approximate += e->v[i].approximate;
	}
	vm->cache = NULL;
	vm_cache_free(cache);
	listing_fact(l, "items", "items", COLUMN_COUNT, items);
	listing_fact(l, "bytes", "memory", COLUMN_BYTES, bytes);
	if (deleting)
		listing_note(l,
			     "%llu of these tables are being deleted: ets:all() has forgotten them, "
			     "their memory is still being given back.",
			     (unsigned long long)deleting);
	if (approximate)
		listing_note(l,
			     "The counters of %llu tables were being moved all the time: their sizes "
			     "are approximate.",
			     (unsigned long long)approximate);
	l->torn += e->torn;
	listing_missing(l, e->torn, e->n + e->torn);
	ets_free(e);
	return 0;
}

const struct list_what list_ets = {
	.name = "ets",
	.summary = "tables: owner, memory, items, type, concurrency",
	.sort = "memory",
	.collect = collect,
};
