/* SPDX-License-Identifier: Apache-2.0 */
/* beamray list carriers: each carrier, how full it is, and how full all are. */
#include "cmd/list.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Free blocks by size: below 512 bytes, below 1024, ..., all above: the slots of
 * instrument:carriers(#{histogram_start => 512}). */
#define SLOTS	   14
#define SLOT_FIRST 512
#define TENTHS	   10

enum {
	NAME,
	INSTANCE,
	SIZE,
	UTILISATION,
	FREE_RESIDENT,
	WHOLE,
	USED_BLOCKS,
	LARGEST,
	POOL,
	ADDRESS,
	KIND,
	FROM,
	USED,
	FREE,
	FREE_BLOCKS,
	RESIDENT,
	HISTOGRAM,
	STATE,
	N_COLUMNS
};

static const struct column columns[] = {
	[NAME] = { .key = "allocator",
		   .header = "ALLOCATOR",
		   .kind = COLUMN_TEXT,
		   .width = 13,
		   .fixed = true },
	[INSTANCE] = { .key = "instance", .header = "INST", .kind = COLUMN_COUNT, .width = 4 },
	[SIZE] = { .key = "size", .header = "SIZE", .kind = COLUMN_BYTES },
	[UTILISATION] = { .key = "utilisation", .header = "USED", .kind = COLUMN_SHARE },
	[FREE_RESIDENT] = { .key = "free_resident", .header = "FREE, RES.", .kind = COLUMN_BYTES },
	[WHOLE] = { .key = "free_whole_pages", .header = "WHOLE PGS", .kind = COLUMN_BYTES },
	[USED_BLOCKS] = { .key = "blocks", .header = "BLOCKS", .kind = COLUMN_COUNT, .width = 7 },
	[POOL] = { .key = "in_pool", .header = "POOL", .kind = COLUMN_FLAG },
	[LARGEST] = { .key = "largest_free", .header = "LARGEST", .kind = COLUMN_BYTES },
	[ADDRESS] = { .key = "address",
		      .header = "ADDRESS",
		      .kind = COLUMN_TEXT,
		      .width = 14,
		      .fixed = true },
	[KIND] = { .key = "kind", .kind = COLUMN_TEXT, .width = 4, .fixed = true },
	[FROM] = { .key = "from", .kind = COLUMN_TEXT, .width = 4, .fixed = true },
	[USED] = { .key = "blocks_size", .kind = COLUMN_BYTES },
	[FREE] = { .key = "free", .kind = COLUMN_BYTES },
	[FREE_BLOCKS] = { .key = "free_blocks", .kind = COLUMN_COUNT },
	[RESIDENT] = { .key = "resident", .kind = COLUMN_BYTES },
	[HISTOGRAM] = { .key = "free_histogram",
			.header = "FREE BY SIZE",
			.kind = COLUMN_TEXT,
			.width = 24 },
	[STATE] = { .key = "state", .kind = COLUMN_TEXT, .width = 5, .fixed = true },
};

enum { U_NAME, U_CARRIERS, U_TENTHS, U_N = U_TENTHS + TENTHS };

static const struct column util_columns[] = {
	[U_NAME] = { .key = "allocator",
		     .header = "ALLOCATOR",
		     .kind = COLUMN_TEXT,
		     .width = 13,
		     .fixed = true },
	[U_CARRIERS] = { .key = "carriers", .header = "CARR", .kind = COLUMN_COUNT, .width = 6 },
	[U_TENTHS + 0] = { .key = "below_10", .header = "<10%", .kind = COLUMN_COUNT, .width = 5 },
	[U_TENTHS + 1] = { .key = "below_20", .header = "<20%", .kind = COLUMN_COUNT, .width = 4 },
	[U_TENTHS + 2] = { .key = "below_30", .header = "<30%", .kind = COLUMN_COUNT, .width = 4 },
	[U_TENTHS + 3] = { .key = "below_40", .header = "<40%", .kind = COLUMN_COUNT, .width = 4 },
	[U_TENTHS + 4] = { .key = "below_50", .header = "<50%", .kind = COLUMN_COUNT, .width = 4 },
	[U_TENTHS + 5] = { .key = "below_60", .header = "<60%", .kind = COLUMN_COUNT, .width = 4 },
	[U_TENTHS + 6] = { .key = "below_70", .header = "<70%", .kind = COLUMN_COUNT, .width = 4 },
	[U_TENTHS + 7] = { .key = "below_80", .header = "<80%", .kind = COLUMN_COUNT, .width = 4 },
	[U_TENTHS + 8] = { .key = "below_90", .header = "<90%", .kind = COLUMN_COUNT, .width = 4 },
	[U_TENTHS + 9] = { .key = "up_to_100", .header = "100%", .kind = COLUMN_COUNT, .width = 5 },
};

/* Free blocks of one carrier, by size. */
struct histogram {
	uint64_t carrier;
	uint32_t slots[SLOTS];
};

struct histograms {
	struct histogram *v; /* in the order of the walk; sorted afterwards */
	size_t n, allocated;
	int error;
};

static unsigned slot_of(uint64_t size)
{
	unsigned slot = size < SLOT_FIRST ? 0 : 64 - 9 - (unsigned)__builtin_clzll(size);

	return slot < SLOTS ? slot : SLOTS - 1;
}

static void block_found(void *arg, const struct carrier *c, uint64_t addr, uint64_t size, bool used,
			unsigned alloc_type)
{
	struct histograms *h = arg;

	(void)addr;
	(void)alloc_type;
	if (used || h->error)
		return;
	if (!h->n || h->v[h->n - 1].carrier != c->addr) {
		if (h->n == h->allocated) {
			size_t more = h->allocated ? h->allocated * 2 : 64;
			struct histogram *v = realloc(h->v, more * sizeof(*v));

			if (!v) {
				h->error = -ENOMEM;
				return;
			}
			h->v = v;
			h->allocated = more;
		}
		h->v[h->n++] = (struct histogram){ .carrier = c->addr };
	}
	h->v[h->n - 1].slots[slot_of(size)]++;
}

static void histograms_reset(void *arg)
{
	struct histograms *h = arg;

	h->n = 0;
}

static int by_carrier(const void *a, const void *b)
{
	const struct histogram *x = a, *y = b;

	return x->carrier < y->carrier ? -1 : x->carrier > y->carrier;
}

static void histogram_text(const struct histograms *h, uint64_t carrier, char *buf, size_t size)
{
	const struct histogram key = { .carrier = carrier }, *one;
	size_t at = 0;
	unsigned i;

	one = h->n ? bsearch(&key, h->v, h->n, sizeof(key), by_carrier) : NULL;
	buf[0] = '\0';
	for (i = 0; i < SLOTS && at < size; i++)
		at += (size_t)snprintf(buf + at, size - at, "%s%u", i ? "," : "",
				       one ? one->slots[i] : 0);
}

static double utilisation(const struct carrier *c)
{
	return c->size ? (double)c->used_bytes / (double)c->size : 0;
}

static void row_fill(struct table *t, const char *name, const struct allocators *a,
		     const struct carrier *c, const struct histograms *h)
{
	char text[SLOTS * 12];

	table_text(t, NAME, name);
	table_set(t, INSTANCE, a->inst[c->instance].index);
	table_set(t, SIZE, c->size);
	table_set_real(t, UTILISATION, utilisation(c));
	table_set(t, USED, c->used_bytes);
	table_set(t, USED_BLOCKS, c->used_blocks);
	table_set(t, FREE, c->free_bytes);
	table_set(t, RESIDENT, c->resident);
	table_set(t, FREE_RESIDENT, c->free_resident);
	table_set(t, POOL, c->in_pool);
	table_text(t, KIND, c->single ? "sbc" : "mbc");
	table_text(t, FROM, c->mseg ? "mseg" : "sys");
	table_text(t, STATE, c->gone ? "gone" : c->torn ? "torn" : c->dead ? "dying" : NULL);
	snprintf(text, sizeof(text), "0x%llx", (unsigned long long)c->addr);
	table_text(t, ADDRESS, text);
	if (c->torn || c->gone) /* split by counters: the blocks are not known */
		return;
	table_set(t, WHOLE, c->free_whole_pages);
	table_set(t, LARGEST, c->largest_free);
	table_set(t, FREE_BLOCKS, c->free_blocks);
	histogram_text(h, c->addr, text, sizeof(text));
	table_text(t, HISTOGRAM, text);
}

static int utilisations_fill(struct list_run *run, const struct allocators *a,
			     const struct carriers *c)
{
	struct table *t = listing_table(run->listing, "utilisation", util_columns, U_N);
	uint64_t n[ALLOC_TYPES][TENTHS] = { { 0 } }, all[ALLOC_TYPES] = { 0 };
	size_t i;
	unsigned k;

	if (!t)
		return -ENOMEM;
	for (i = 0; i < c->n; i++) {
		int tenth = (int)(utilisation(&c->v[i]) * TENTHS);

		if (c->v[i].type >= ALLOC_TYPES)
			continue;
		n[c->v[i].type][tenth < TENTHS ? tenth : TENTHS - 1]++;
		all[c->v[i].type]++;
	}
	for (i = 1; i < a->n_types && i < ALLOC_TYPES; i++) {
		if (!all[i] || table_row(t))
			continue;
		table_text(t, U_NAME, a->types[i].name);
		table_set(t, U_CARRIERS, all[i]);
		for (k = 0; k < TENTHS; k++)
			table_set(t, U_TENTHS + k, n[i][k]);
	}
	table_sort(t, "carriers");
	return 0;
}

static int collect(struct list_run *run, struct error *err)
{
	struct allocators *a = NULL;
	struct listing *l = run->listing;
	struct histograms h = { 0 };
	const struct carriers_opts opts = { .block = block_found, .arg = &h };
	struct table *t = listing_table(l, "rows", columns, N_COLUMNS);
	struct carriers *c = NULL;
	uint64_t size = 0, resident = 0, pooled = 0;
	size_t i;
	int ret;

	if (!t)
		return -ENOMEM;
	ret = list_walk(run, &opts, histograms_reset, &a, &c, err);
	if (ret == 0)
		ret = h.error;
	if (h.n)
		qsort(h.v, h.n, sizeof(*h.v), by_carrier);
	for (i = 0; ret == 0 && i < c->n && !table_row(t); i++) {
		const struct carrier *one = &c->v[i];

		row_fill(t, a->types[one->type].name, a, one, &h);
		size += one->size;
		resident += one->free_resident;
		pooled += one->in_pool;
	}
	if (ret == 0) {
		ret = utilisations_fill(run, a, c);
		listing_fact(l, "carriers", "carriers", COLUMN_COUNT, c->n);
		listing_fact(l, "size", "of", COLUMN_BYTES, size);
		listing_fact(l, "in_pool", "in pools", COLUMN_COUNT, pooled);
		listing_fact(l, "free_resident", "free but resident", COLUMN_BYTES, resident);
		if (c->torn)
			listing_note(l,
				     "%llu carriers changed all the time and are shown by their "
				     "counters.",
				     (unsigned long long)c->torn);
	}
	free(h.v);
	carriers_free(c);
	allocators_free(a);
	return ret;
}

const struct list_what list_carriers = {
	.name = "carriers",
	.summary = "size, use, free blocks by size, in the pool, resident",
	.sort = "free_resident",
	.collect = collect,
};
