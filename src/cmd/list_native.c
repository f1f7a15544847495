/* SPDX-License-Identifier: Apache-2.0 */
/* beamray list lost, beamray list native: memory of NIFs, drivers and libraries
 * from before anybody watched. */
#include "cmd/list.h"

#include <errno.h>
#include <stdio.h>

#include "ledger/native.h"

enum {
	L_SIZE,
	L_COUNT,
	L_BYTES,
	L_RESIDENT,
	L_MECHANISM,
	L_OWNER,
	L_EVIDENCE,
	L_ARENA,
	L_ARENAS,
	L_THREADS,
	L_HINT,
	L_COLUMNS
};

static const struct column lost_columns[] = {
	[L_SIZE] = { .key = "size", .header = "EACH", .kind = COLUMN_COUNT, .width = 9 },
	[L_COUNT] = { .key = "count", .header = "BLOCKS", .kind = COLUMN_COUNT, .width = 8 },
	[L_BYTES] = { .key = "bytes", .header = "LOST", .kind = COLUMN_BYTES },
	[L_RESIDENT] = { .key = "resident", .kind = COLUMN_BYTES },
	[L_MECHANISM] = { .key = "mechanism",
			  .header = "FROM",
			  .kind = COLUMN_TEXT,
			  .width = 4,
			  .fixed = true },
	[L_OWNER] = { .key = "owner", .header = "OWNER", .kind = COLUMN_TEXT, .width = 14 },
	[L_EVIDENCE] = { .key = "evidence",
			 .header = "KNOWN BY",
			 .kind = COLUMN_TEXT,
			 .width = 8,
			 .fixed = true },
	[L_ARENA] = { .key = "arena", .kind = COLUMN_COUNT },
	[L_ARENAS] = { .key = "arenas", .kind = COLUMN_COUNT },
	[L_THREADS] = { .key = "arena_threads",
			.header = "ARENA OF",
			.kind = COLUMN_TEXT,
			.width = 14 },
	[L_HINT] = { .key = "hint", .header = "HINT: PERHAPS", .kind = COLUMN_TEXT, .width = 18 },
};

enum {
	N_OWNER,
	N_CLASS,
	N_EVIDENCE,
	N_CONFIDENCE,
	N_MECHANISM,
	N_CHUNKS,
	N_BYTES,
	N_RESIDENT,
	N_LOST,
	N_LOST_BYTES,
	N_COLUMNS
};

static const struct column native_columns[] = {
	[N_OWNER] = { .key = "owner", .header = "OWNER", .kind = COLUMN_TEXT, .width = 20 },
	[N_CLASS] = { .key = "class",
		      .header = "KIND",
		      .kind = COLUMN_TEXT,
		      .width = 7,
		      .fixed = true },
	[N_EVIDENCE] = { .key = "evidence",
			 .header = "KNOWN BY",
			 .kind = COLUMN_TEXT,
			 .width = 8,
			 .fixed = true },
	[N_CONFIDENCE] = { .key = "confidence", .kind = COLUMN_TEXT, .width = 6, .fixed = true },
	[N_MECHANISM] = { .key = "mechanism",
			  .header = "FROM",
			  .kind = COLUMN_TEXT,
			  .width = 5,
			  .fixed = true },
	[N_CHUNKS] = { .key = "chunks", .header = "BLOCKS", .kind = COLUMN_COUNT, .width = 8 },
	[N_BYTES] = { .key = "bytes", .kind = COLUMN_BYTES },
	[N_RESIDENT] = { .key = "resident", .header = "RESIDENT", .kind = COLUMN_BYTES },
	[N_LOST] = { .key = "lost", .kind = COLUMN_COUNT },
	[N_LOST_BYTES] = { .key = "lost_bytes", .header = "LOST", .kind = COLUMN_BYTES },
};

static const char *evidence_text(enum native_evidence e)
{
	return e == NATIVE_NO_EVIDENCE ? NULL : native_evidence_name(e);
}

/* What both say of the whole. */
static void facts(struct listing *l, const struct native *n)
{
	size_t i;

	for (i = 0; i < n->n_notes; i++)
		listing_note(l, "%s", n->notes[i]);
	if (!n->complete)
		listing_missing(l, 1, 1);
	if (!n->heap_walked)
		return;
	listing_fact(l, "used_resident", "native memory in use", COLUMN_BYTES, n->used_resident);
	listing_fact(l, "lost_bytes", "lost", COLUMN_BYTES, n->lost_bytes);
	listing_fact(l, "lost_count", "lost blocks", COLUMN_COUNT, n->lost_count);
	listing_fact(l, "lost_resident", "lost and resident", COLUMN_BYTES, n->lost_resident);
	listing_fact(l, "read_bytes", "read", COLUMN_BYTES, n->read_bytes);
	listing_fact_real(l, "cpu_seconds", "seconds of CPU", COLUMN_REAL, n->cpu_seconds);
}

static void lost_row(struct table *t, const struct native_lost *g)
{
	table_set(t, L_SIZE, g->size);
	table_set(t, L_COUNT, g->count);
	table_set(t, L_BYTES, g->bytes);
	table_set(t, L_RESIDENT, g->resident);
	table_text(t, L_MECHANISM, native_mechanism_name(g->mechanism));
	table_text(t, L_OWNER, *g->owner ? g->owner : NULL);
	table_text(t, L_EVIDENCE, evidence_text(g->evidence));
	if (g->arenas) {
		table_set(t, L_ARENA, g->arena);
		table_set(t, L_ARENAS, g->arenas);
		table_text(t, L_THREADS, *g->threads ? g->threads : NULL);
	}
	table_text(t, L_HINT, *g->candidates ? g->candidates : NULL);
}

static int collect_lost(struct list_run *run, struct error *err)
{
	struct listing *l = run->listing;
	struct table *t = listing_table(l, "rows", lost_columns, L_COLUMNS);
	struct native *n;
	size_t i;
	int ret;

	if (!t)
		return -ENOMEM;
	l->noun = "sizes";
	ret = native_scan(run->observer, NULL, &n, err);
	if (ret < 0)
		return ret;
	for (i = 0; i < n->n_lost && !table_row(t); i++)
		lost_row(t, &n->lost[i]);
	facts(l, n);
	if (n->n_lost && !n->lost_proved)
		listing_note(l, "Not proved: these blocks are probably lost, but see above.");
	else if (n->n_lost)
		listing_note(l, "Nobody points to these blocks, in two looks: they cannot be freed "
				"any more. A size is a whole chunk: up to 24 bytes more than was "
				"asked for. To see who takes more of them: `beamray record "
				"--growth`, `beamray doctor`.");
	for (i = 0; i < n->n_lost && *n->lost[i].owner; i++)
		;
	if (i < n->n_lost && *n->lost[i].candidates)
		listing_note(l,
			     "Without an owner: plain bytes, which do not say whose they are. A hint, "
			     "no proof, for those of %llu bytes: %s.",
			     (unsigned long long)n->lost[i].size, n->lost[i].candidates);
	if (n->excused)
		listing_note(l,
			     "%llu signal stacks of the VM's threads are left out: the kernel "
			     "points to them.",
			     (unsigned long long)n->excused);
	native_free(n);
	return 0;
}

static int collect_native(struct list_run *run, struct error *err)
{
	struct listing *l = run->listing;
	struct table *t = listing_table(l, "rows", native_columns, N_COLUMNS);
	struct native *n;
	size_t i;
	int ret;

	if (!t)
		return -ENOMEM;
	l->noun = "owners";
	ret = native_scan(run->observer, NULL, &n, err);
	if (ret < 0)
		return ret;
	for (i = 0; i < n->n_rows && !table_row(t); i++) {
		const struct native_row *r = &n->rows[i];

		table_text(t, N_OWNER, *r->owner ? r->owner : NULL);
		table_text(t, N_CLASS, native_class_name(r->class));
		table_text(t, N_EVIDENCE, evidence_text(r->evidence));
		table_text(t, N_CONFIDENCE, native_confidence(r->evidence));
		table_text(t, N_MECHANISM, native_mechanism_name(r->mechanism));
		table_set(t, N_CHUNKS, r->chunks);
		table_set(t, N_BYTES, r->bytes);
		table_set(t, N_RESIDENT, r->resident);
		table_set(t, N_LOST, r->lost);
		table_set(t, N_LOST_BYTES, r->lost_bytes);
	}
	facts(l, n);
	if (n->heap_walked)
		listing_fact(l, "bookkeeping", "malloc's own", COLUMN_BYTES, n->bookkeeping);
	if (n->n_rows)
		listing_note(l, "Known by: content (the block points into the library), data (the "
				"library's own data points to it), tag (a resource or enif_alloc "
				"block does), library (a system library's content or data), "
				"thread (its stack), vm (only the VM leads to it); and what such "
				"blocks lead to.");
	native_free(n);
	return 0;
}

const struct list_what list_lost = {
	.name = "lost",
	.summary = "native blocks that nobody points to any more",
	.sort = "bytes",
	.collect = collect_lost,
};

const struct list_what list_native = {
	.name = "native",
	.summary = "whose native memory is: NIFs, drivers, libraries",
	.sort = "resident",
	.collect = collect_native,
};
