/* SPDX-License-Identifier: Apache-2.0 */
/* beamray list pins: whose blocks keep nearly empty carriers alive. */
#include "cmd/list.h"

#include <errno.h>
#include <stdio.h>

#include "erts/pins.h"
#include "erts/process.h"
#include "erts/vm_cache.h"

enum {
	ALLOCATOR,
	WHAT,
	OWNER,
	PINS,
	CARRIERS,
	BLOCKS,
	BYTES,
	ALONE,
	ID,
	TABLE_OWNER,
	ALONE_CARRIERS,
	SHARED,
	N_COLUMNS
};

static const struct column columns[] = {
	[ALLOCATOR] = { .key = "allocator",
			.header = "IN",
			.kind = COLUMN_TEXT,
			.width = 12,
			.fixed = true },
	[WHAT] = { .key = "what",
		   .header = "WHAT",
		   .kind = COLUMN_TEXT,
		   .width = 11,
		   .fixed = true },
	[OWNER] = { .key = "owner", .header = "OWNER", .kind = COLUMN_TEXT, .width = 18 },
	[PINS] = { .key = "pinned", .header = "PINS", .kind = COLUMN_BYTES },
	[CARRIERS] = { .key = "carriers", .header = "CARR", .kind = COLUMN_COUNT, .width = 4 },
	[BLOCKS] = { .key = "blocks", .header = "BLOCKS", .kind = COLUMN_COUNT, .width = 7 },
	[BYTES] = { .key = "bytes", .header = "BYTES", .kind = COLUMN_BYTES },
	[ALONE] = { .key = "pinned_alone", .header = "ALONE", .kind = COLUMN_BYTES },
	[ID] = { .key = "pid", .header = "PID", .kind = COLUMN_TEXT, .width = 11, .fixed = true },
	[TABLE_OWNER] = { .key = "table_owner", .kind = COLUMN_TEXT, .width = 11, .fixed = true },
	[ALONE_CARRIERS] = { .key = "carriers_alone", .kind = COLUMN_COUNT },
	[SHARED] = { .key = "shared", .kind = COLUMN_FLAG },
};

enum { C_NAME, C_SIZE, C_USED, C_FREE, C_BLOCKS, C_OWNERS, C_MOST, C_ADDRESS, C_POOL, C_N };

static const struct column carrier_columns[] = {
	[C_NAME] = { .key = "allocator",
		     .header = "CARRIER OF",
		     .kind = COLUMN_TEXT,
		     .width = 12,
		     .fixed = true },
	[C_SIZE] = { .key = "size", .header = "SIZE", .kind = COLUMN_BYTES },
	[C_USED] = { .key = "utilisation", .header = "USED", .kind = COLUMN_SHARE },
	[C_FREE] = { .key = "free_resident", .header = "FREE, RES.", .kind = COLUMN_BYTES },
	[C_BLOCKS] = { .key = "blocks", .header = "BLOCKS", .kind = COLUMN_COUNT, .width = 6 },
	[C_OWNERS] = { .key = "owners", .header = "OWNERS", .kind = COLUMN_COUNT, .width = 6 },
	[C_MOST] = { .key = "most", .header = "MOST OF IT", .kind = COLUMN_TEXT, .width = 20 },
	[C_ADDRESS] = { .key = "address",
			.header = "ADDRESS",
			.kind = COLUMN_TEXT,
			.width = 14,
			.fixed = true },
	[C_POOL] = { .key = "in_pool", .kind = COLUMN_FLAG },
};

static const char *allocator_name(const struct vm *vm, unsigned type)
{
	return type < vm->n_alloc && vm->alloc_names[type] ? vm->alloc_names[type] : "";
}

static void row_fill(struct vm *vm, struct table *t, const struct pin *p)
{
	const bool of_process = p->kind == PIN_HEAP || p->kind == PIN_MESSAGE ||
				p->kind == PIN_PROCESS ||
				(p->kind == PIN_BINARY &&
				 (p->holder == HOLDER_PROCESS || p->holder == HOLDER_MESSAGES));
	char text[PROCESS_LABEL_MAX + 1100];

	table_text(t, ALLOCATOR, allocator_name(vm, p->alloc_type));
	table_text(t, WHAT, pin_what(p));
	pin_owner(vm, p, text, sizeof(text));
	table_text(t, OWNER, text[0] ? text : NULL);
	table_set(t, PINS, p->pinned);
	table_set(t, CARRIERS, p->carriers);
	table_set(t, BLOCKS, p->blocks);
	table_set(t, BYTES, p->bytes);
	table_set(t, ALONE, p->alone_pinned);
	table_set(t, ALONE_CARRIERS, p->alone);
	if (p->kind == PIN_BINARY)
		table_set(t, SHARED, p->shared);
	if (of_process && process_pid_text(vm, p->id, text, sizeof(text)))
		table_text(t, ID, text);
	if (p->owner && process_pid_text(vm, p->owner, text, sizeof(text)))
		table_text(t, TABLE_OWNER, text);
}

static int carriers_fill(struct list_run *run, const struct pins *p)
{
	struct vm *vm = run->observer->vm;
	struct table *t = listing_table(run->listing, "carriers", carrier_columns, C_N);
	char text[PROCESS_LABEL_MAX + 1100], most[PROCESS_LABEL_MAX + 1200];
	size_t i;

	if (!t)
		return -ENOMEM;
	for (i = 0; i < p->n_carriers && !table_row(t); i++) {
		const struct pin_carrier *c = &p->carriers[i];

		table_text(t, C_NAME, allocator_name(vm, c->c.type));
		table_set(t, C_SIZE, c->c.size);
		table_set_real(t, C_USED, (double)c->c.used_bytes / (double)c->c.size);
		table_set(t, C_FREE, c->c.free_resident);
		table_set(t, C_BLOCKS, c->c.used_blocks);
		table_set(t, C_OWNERS, c->owners);
		table_set(t, C_POOL, c->c.in_pool);
		snprintf(text, sizeof(text), "0x%llx", (unsigned long long)c->c.addr);
		table_text(t, C_ADDRESS, text);
		if (!c->owners)
			continue;
		pin_owner(vm, &p->v[c->most], text, sizeof(text));
		snprintf(most, sizeof(most), "%s%s%s", pin_what(&p->v[c->most]),
			 text[0] ? " of " : "", text);
		table_text(t, C_MOST, most);
	}
	return 0;
}

static int collect(struct list_run *run, struct error *err)
{
	struct vm *vm = run->observer->vm;
	struct listing *l = run->listing;
	struct table *t = listing_table(l, "rows", columns, N_COLUMNS);
	struct vm_cache *cache;
	struct pins *p;
	size_t i;
	int ret;

	if (!t)
		return -ENOMEM;
	l->noun = "owners";
	ret = pins_read(vm, run->look->allocators, NULL, &p, err);
	if (ret < 0)
		return ret;
	/* names, of up to a row for each process: all from the same few pages */
	vm->cache = cache = vm_cache_new(1024);
	for (i = 0; i < p->n && !table_row(t); i++)
		row_fill(vm, t, &p->v[i]);
	ret = carriers_fill(run, p);
	vm->cache = NULL;
	vm_cache_free(cache);
	listing_fact(l, "carriers", "carriers below half full", COLUMN_COUNT, p->n_carriers);
	listing_fact(l, "free_resident", "free but resident in them", COLUMN_BYTES,
		     p->free_resident);
	listing_fact(l, "blocks", "held by blocks", COLUMN_COUNT, p->blocks);
	listing_fact(l, "unknown", "of which nobody's", COLUMN_COUNT, p->unknown);
	if (p->left_out)
		listing_note(l, "%llu blocks more than are kept were left out.",
			     (unsigned long long)p->left_out);
	if (p->cut)
		listing_note(l,
			     "The node has more rows, messages or heap fragments than are followed "
			     "(a million of each): blocks of the others are nobody's here.");
	l->torn += p->torn;
	listing_missing(l, p->left_out, p->blocks);
	pins_free(p);
	return ret;
}

const struct list_what list_pins = {
	.name = "pins",
	.summary = "whose blocks keep nearly empty carriers alive",
	.sort = "pinned",
	.collect = collect,
};
