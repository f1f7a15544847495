/* SPDX-License-Identifier: Apache-2.0 */
/* beamray list binaries: refc binaries by who holds them, and by size. */
#include "cmd/list.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "erts/binary.h"
#include "erts/port.h"
#include "erts/process.h"
#include "erts/vm_cache.h"

/* Rows of tables that are looked at: a table of ten million would cost seconds. */
#define ROWS_MAX 1000000
/* Of the largest binaries so many are shown, whatever -n says. */
#define LARGEST	    1000
#define RARELY_MIN  (1ull << 20) /* bytes held, to call a process one that holds much */
#define RARELY_HEAP 16		 /* times its own heap */

enum {
	HOLDER,
	KIND,
	DISTINCT,
	BINARIES,
	BYTES,
	COUNT,
	ALONE,
	ID,
	OWNER,
	HEAP,
	VHEAP,
	VHEAP_MAX,
	OLD,
	OLD_MAX,
	MINOR,
	FULL,
	APPROXIMATE,
	N_COLUMNS
};

static const struct column columns[] = {
	[HOLDER] = { .key = "holder", .header = "HOLDER", .kind = COLUMN_TEXT, .width = 16 },
	[KIND] = { .key = "kind", .header = "AS", .kind = COLUMN_TEXT, .width = 8, .fixed = true },
	[DISTINCT] = { .key = "distinct_bytes", .header = "HOLDS", .kind = COLUMN_BYTES },
	[BINARIES] = { .key = "binaries", .header = "BINARIES", .kind = COLUMN_COUNT, .width = 8 },
	[ALONE] = { .key = "alone_bytes", .header = "ALONE", .kind = COLUMN_BYTES },
	[COUNT] = { .key = "count", .header = "REFS", .kind = COLUMN_COUNT, .width = 8 },
	[ID] = { .key = "id", .header = "ID", .kind = COLUMN_TEXT, .width = 11, .fixed = true },
	[BYTES] = { .key = "bytes", .kind = COLUMN_BYTES },
	[OWNER] = { .key = "owner", .kind = COLUMN_TEXT, .width = 11, .fixed = true },
	[HEAP] = { .key = "heap", .kind = COLUMN_WORDS },
	[VHEAP] = { .key = "bin_vheap_size", .kind = COLUMN_WORDS },
	[VHEAP_MAX] = { .key = "bin_vheap_block_size", .kind = COLUMN_WORDS },
	[OLD] = { .key = "bin_old_vheap_size", .kind = COLUMN_WORDS },
	[OLD_MAX] = { .key = "bin_old_vheap_block_size", .kind = COLUMN_WORDS },
	[MINOR] = { .key = "minor_gcs", .kind = COLUMN_COUNT },
	[FULL] = { .key = "fullsweep_after", .kind = COLUMN_COUNT },
	[APPROXIMATE] = { .key = "approximate", .kind = COLUMN_FLAG },
};

enum { R_PROCESS, R_PID, R_HOLDS, R_HEAP, R_TIMES, R_FILL, R_OLD, R_MINOR, R_FULL, R_N };

static const struct column rarely_columns[] = {
	[R_PROCESS] = { .key = "process", .header = "PROCESS", .kind = COLUMN_TEXT, .width = 16 },
	[R_PID] = { .key = "pid", .header = "PID", .kind = COLUMN_TEXT, .width = 10, .fixed = true },
	[R_HOLDS] = { .key = "distinct_bytes", .header = "HOLDS", .kind = COLUMN_BYTES },
	[R_HEAP] = { .key = "heap", .header = "ITS HEAP", .kind = COLUMN_WORDS },
	[R_TIMES] = { .key = "times_heap", .header = "TIMES", .kind = COLUMN_COUNT, .width = 6 },
	[R_FILL] = { .key = "to_minor_gc", .header = "TO GC", .kind = COLUMN_SHARE },
	[R_OLD] = { .key = "to_full_gc", .header = "TO FULL", .kind = COLUMN_SHARE },
	[R_MINOR] = { .key = "minor_gcs", .header = "GCS", .kind = COLUMN_COUNT, .width = 5 },
	[R_FULL] = { .key = "fullsweep_after", .header = "OF", .kind = COLUMN_COUNT, .width = 5 },
};

enum { S_SIZE, S_BINARIES, S_BYTES, S_REFC, S_FOUND, S_N };

static const struct column size_columns[] = {
	[S_SIZE] = { .key = "up_to", .header = "UP TO", .kind = COLUMN_BYTES, .ascending = true },
	[S_BINARIES] = { .key = "binaries", .header = "BINARIES", .kind = COLUMN_COUNT },
	[S_BYTES] = { .key = "bytes", .header = "BYTES", .kind = COLUMN_BYTES },
	[S_REFC] = { .key = "refc", .header = "REFC", .kind = COLUMN_COUNT },
	[S_FOUND] = { .key = "refs", .header = "FOUND", .kind = COLUMN_COUNT },
};

enum { L_ADDR, L_BYTES, L_REFC, L_REFS, L_HOLDERS, L_FIRST, L_N };

static const struct column large_columns[] = {
	[L_ADDR] = { .key = "address",
		     .header = "BINARY",
		     .kind = COLUMN_TEXT,
		     .width = 14,
		     .fixed = true },
	[L_BYTES] = { .key = "bytes", .header = "BYTES", .kind = COLUMN_BYTES },
	[L_REFC] = { .key = "refc", .header = "REFC", .kind = COLUMN_COUNT, .width = 6 },
	[L_REFS] = { .key = "refs", .header = "FOUND", .kind = COLUMN_COUNT, .width = 6 },
	[L_HOLDERS] = { .key = "holders", .header = "HOLDERS", .kind = COLUMN_COUNT, .width = 7 },
	[L_FIRST] = { .key = "held_by", .header = "HELD BY", .kind = COLUMN_TEXT, .width = 30 },
};

static const char *const kinds[] = { "process", "messages", "ets", "port" };

static void pid_text(struct vm *vm, struct table *t, unsigned column, uint64_t pid)
{
	char text[64];

	if (pid && process_pid_text(vm, pid, text, sizeof(text)))
		table_text(t, column, text);
}

static void holder_fill(struct vm *vm, struct table *t, const struct binary_holder *h)
{
	char text[PROCESS_LABEL_MAX];

	binary_holder_label(vm, h, text, sizeof(text));
	table_text(t, HOLDER, text);
	table_text(t, KIND, kinds[h->kind]);
	table_set(t, COUNT, h->refs);
	table_set(t, BYTES, h->bytes);
	table_set(t, BINARIES, h->binaries);
	table_set(t, DISTINCT, h->distinct_bytes);
	table_set(t, ALONE, h->alone_bytes);
	if (h->kind == HOLDER_PROCESS || h->kind == HOLDER_MESSAGES)
		pid_text(vm, t, ID, h->id);
	else if (h->kind == HOLDER_PORT && port_text(vm, h->id, text, sizeof(text)))
		table_text(t, ID, text);
	pid_text(vm, t, OWNER, h->owner);
	table_set(t, APPROXIMATE, h->approximate);
	if (h->kind != HOLDER_PROCESS)
		return;
	table_set(t, HEAP, h->heap_words);
	table_set(t, VHEAP, h->overhead);
	table_set(t, VHEAP_MAX, h->vheap_size);
	table_set(t, OLD, h->old_vheap);
	table_set(t, OLD_MAX, h->old_vheap_size);
	table_set(t, MINOR, h->minor_gcs);
	table_set(t, FULL, h->fullsweep_after);
}

static void share_set(struct table *t, unsigned column, uint64_t part, uint64_t whole)
{
	if (part != UINT64_MAX && whole != UINT64_MAX && whole)
		table_set_real(t, column, (double)part / (double)whole);
}

/* The question of recon:bin_leak/1, without the collection that it forces: who
 * holds far more than its heap, so that growth of the heap will not collect it. */
static int rarely_fill(struct list_run *run, const struct binaries *b)
{
	struct vm *vm = run->observer->vm;
	struct table *t = listing_table(run->listing, "rarely_collected", rarely_columns, R_N);
	char text[PROCESS_LABEL_MAX];
	size_t i;

	if (!t)
		return -ENOMEM;
	for (i = 0; i < b->n_holders; i++) {
		const struct binary_holder *h = &b->holders[i];
		uint64_t heap = h->heap_words == UINT64_MAX ? 0 : 8 * h->heap_words;

		if (h->kind != HOLDER_PROCESS || h->distinct_bytes < RARELY_MIN || !heap ||
		    h->distinct_bytes / RARELY_HEAP < heap || table_row(t))
			continue;
		process_pid_label(vm, h->id, text, sizeof(text));
		table_text(t, R_PROCESS, text);
		pid_text(vm, t, R_PID, h->id);
		table_set(t, R_HOLDS, h->distinct_bytes);
		table_set(t, R_HEAP, h->heap_words);
		table_set(t, R_TIMES, h->distinct_bytes / heap);
		share_set(t, R_FILL, h->overhead, h->vheap_size);
		share_set(t, R_OLD, h->old_vheap, h->old_vheap_size);
		table_set(t, R_MINOR, h->minor_gcs);
		table_set(t, R_FULL, h->fullsweep_after);
	}
	table_sort(t, "distinct_bytes");
	return 0;
}

static int sizes_fill(struct list_run *run, const struct binaries *b)
{
	struct table *t = listing_table(run->listing, "sizes", size_columns, S_N);
	struct {
		uint64_t n, bytes, refc, refs;
	} sum[64] = { 0 };
	unsigned k;
	size_t i;

	if (!t)
		return -ENOMEM;
	for (i = 0; i < b->n; i++) {
		k = b->v[i].bytes > 64 ? 64 - (unsigned)__builtin_clzll(b->v[i].bytes - 1) : 6;
		sum[k & 63].n++;
		sum[k & 63].bytes += b->v[i].bytes;
		sum[k & 63].refc += b->v[i].refc;
		sum[k & 63].refs += b->v[i].refs;
	}
	for (k = 0; k < 64; k++) {
		if (!sum[k].n || table_row(t))
			continue;
		table_set(t, S_SIZE, 1ull << k);
		table_set(t, S_BINARIES, sum[k].n);
		table_set(t, S_BYTES, sum[k].bytes);
		table_set(t, S_REFC, sum[k].refc);
		table_set(t, S_FOUND, sum[k].refs);
	}
	return 0;
}

static int by_size(const void *a, const void *b)
{
	const struct refc_binary *x = *(const struct refc_binary *const *)a,
				 *y = *(const struct refc_binary *const *)b;

	if (x->bytes != y->bytes)
		return x->bytes > y->bytes ? -1 : 1;
	return x->addr < y->addr ? -1 : 1;
}

static void held_by(struct vm *vm, const struct binaries *b, const struct refc_binary *one,
		    char *buf, size_t size, uint64_t *holders)
{
	char text[PROCESS_LABEL_MAX];
	size_t at = 0;
	uint32_t k;

	*holders = 0;
	buf[0] = '\0';
	for (k = 0; k < one->refs; k++) {
		const struct binary_ref *ref = &b->refs[one->first + k];

		if (k && ref->holder == ref[-1].holder)
			continue;
		if (++*holders > 3)
			continue;
		binary_holder_label(vm, &b->holders[ref->holder], text, sizeof(text));
		at += (size_t)snprintf(buf + at, size - at, "%s%s", at ? ", " : "", text);
		at = at < size ? at : size - 1;
	}
}

static int largest_fill(struct list_run *run, const struct binaries *b)
{
	struct vm *vm = run->observer->vm;
	struct table *t = listing_table(run->listing, "largest", large_columns, L_N);
	const struct refc_binary **v = calloc(b->n ? b->n : 1, sizeof(const struct refc_binary *));
	char text[3 * PROCESS_LABEL_MAX + 8];
	uint64_t holders;
	size_t i;

	if (!t || !v) {
		free(v);
		return -ENOMEM;
	}
	for (i = 0; i < b->n; i++)
		v[i] = &b->v[i];
	if (b->n)
		qsort(v, b->n, sizeof(const struct refc_binary *), by_size);
	for (i = 0; i < b->n && i < LARGEST && !table_row(t); i++) {
		snprintf(text, sizeof(text), "0x%llx", (unsigned long long)v[i]->addr);
		table_text(t, L_ADDR, text);
		table_set(t, L_BYTES, v[i]->bytes);
		table_set(t, L_REFC, v[i]->refc);
		table_set(t, L_REFS, v[i]->refs);
		held_by(vm, b, v[i], text, sizeof(text), &holders);
		table_text(t, L_FIRST, text);
		table_set(t, L_HOLDERS, holders);
	}
	free(v);
	return 0;
}

static void say(struct listing *l, const struct binaries *b)
{
	uint64_t approximate = 0, lost = 0;
	size_t i;

	for (i = 0; i < b->n_holders; i++)
		approximate += b->holders[i].approximate;
	for (i = 0; i < b->n; i++)
		lost += b->v[i].refc > b->v[i].refs ? b->v[i].refc - b->v[i].refs : 0;
	if (lost)
		listing_note(l,
			     "%llu references were not found: NIFs, drivers, loaded code, matches "
			     "under way and whatever else holds binaries without a list.",
			     (unsigned long long)lost);
	if (b->tables_left)
		listing_note(l,
			     "%llu tables with %llu rows were not looked into: at most %u rows are.",
			     (unsigned long long)b->tables_left, (unsigned long long)b->rows_left,
			     ROWS_MAX);
	if (b->left_out)
		listing_note(l, "%llu references more than are kept were left out.",
			     (unsigned long long)b->left_out);
	if (approximate)
		listing_note(l,
			     "The lists of %llu holders changed all the time: a part is missing.",
			     (unsigned long long)approximate);
	l->torn += b->torn;
	listing_missing(l, b->torn, b->processes + b->torn);
	listing_missing(l, b->left_out, b->n_refs + b->left_out);
}

static int collect(struct list_run *run, struct error *err)
{
	struct vm *vm = run->observer->vm;
	struct listing *l = run->listing;
	struct table *t = listing_table(l, "rows", columns, N_COLUMNS);
	const struct binaries_opts opts = { .messages = true, .ports = true, .rows_max = ROWS_MAX };
	struct vm_cache *cache;
	struct binaries *b;
	size_t i;
	int ret;

	if (!t)
		return -ENOMEM;
	l->noun = "holders";
	ret = binaries_read(vm, &opts, &b, err);
	if (ret < 0)
		return ret;
	vm->cache = cache = vm_cache_new(1024); /* for names alone */
	for (i = 0; i < b->n_holders && !table_row(t); i++)
		holder_fill(vm, t, &b->holders[i]);
	ret = rarely_fill(run, b);
	if (!ret)
		ret = sizes_fill(run, b);
	if (!ret)
		ret = largest_fill(run, b);
	vm->cache = NULL;
	vm_cache_free(cache);
	listing_fact(l, "binaries", "binaries found", COLUMN_COUNT, b->n);
	listing_fact(l, "bytes", "of", COLUMN_BYTES, b->bytes);
	listing_fact(l, "binary_memory", "erlang:memory(binary)", COLUMN_BYTES,
		     run->look->memory.binary);
	if (run->look->memory.binary == UINT64_MAX)
		listing_note(l, "erlang:memory(binary) is not known: %s", run->look->memory.why);
	say(l, b);
	binaries_free(b);
	return ret;
}

const struct list_what list_binaries = {
	.name = "binaries",
	.summary = "refc binaries: who holds them, sizes, rarely collected",
	.sort = "distinct_bytes",
	.collect = collect,
};
