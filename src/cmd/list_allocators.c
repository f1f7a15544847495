/* SPDX-License-Identifier: Apache-2.0 */
/*
 * beamray list allocators: what recon_alloc says of a node, read from outside.
 *
 * All of recon_alloc's answers are sums and quotients of the counters that
 * erlang:system_info({allocator, T}) prints, which alloc_instance holds:
 *
 *   memory(used | allocated)    blocks_size and carriers_size, of sbcs, mbcs and
 *                               mbcs_pool, over all instances of all allocators
 *                               but literal_alloc and exec_alloc; unused is the
 *                               difference, usage the quotient
 *   fragmentation               the same by instance, sbcs and mbcs (with the pool)
 *                               apart; first where most is unused
 *   average_block_sizes         blocks_size / blocks
 *   sbcs_to_mbcs                blocks / blocks
 *   cache_hit_rates             of mseg_alloc's instances: cache_hits / mseg_alloc calls
 *
 * `max` are the largest values ever; the pool has none. What recon cannot know is
 * beside them: how much of what is unused is resident, and how much of that in
 * whole pages.
 */
#include "cmd/list.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
	NAME,
	ALLOCATED,
	USED,
	USAGE,
	RESIDENT_FREE,
	WHOLE,
	CARRIERS,
	RESIDENT,
	BLOCKS,
	MBCS_AVERAGE,
	SBCS_AVERAGE,
	MBCS_AVERAGE_MAX,
	SBCS_AVERAGE_MAX,
	INSTANCES,
	CALLS,
	ALLOCATED_MAX,
	ENABLED,
	N_COLUMNS
};

static const struct column columns[] = {
	[NAME] = { .key = "allocator",
		   .header = "ALLOCATOR",
		   .kind = COLUMN_TEXT,
		   .width = 13,
		   .fixed = true },
	[ALLOCATED] = { .key = "allocated", .header = "ALLOCATED", .kind = COLUMN_BYTES },
	[USED] = { .key = "used", .header = "USED", .kind = COLUMN_BYTES },
	[USAGE] = { .key = "usage", .header = "USAGE", .kind = COLUMN_SHARE },
	[RESIDENT_FREE] = { .key = "free_resident", .header = "FREE, RES.", .kind = COLUMN_BYTES },
	[WHOLE] = { .key = "free_whole_pages", .header = "WHOLE PGS", .kind = COLUMN_BYTES },
	[CARRIERS] = { .key = "carriers", .header = "CARR", .kind = COLUMN_COUNT, .width = 5 },
	[RESIDENT] = { .key = "resident", .header = "RESIDENT", .kind = COLUMN_BYTES },
	[BLOCKS] = { .key = "blocks", .header = "BLOCKS", .kind = COLUMN_COUNT },
	[MBCS_AVERAGE] = { .key = "mbcs_average", .header = "AVG MBC", .kind = COLUMN_BYTES },
	[SBCS_AVERAGE] = { .key = "sbcs_average", .header = "AVG SBC", .kind = COLUMN_BYTES },
	[MBCS_AVERAGE_MAX] = { .key = "mbcs_average_max", .kind = COLUMN_REAL },
	[SBCS_AVERAGE_MAX] = { .key = "sbcs_average_max", .kind = COLUMN_REAL },
	[INSTANCES] = { .key = "instances", .header = "INST", .kind = COLUMN_COUNT, .width = 4 },
	[CALLS] = { .key = "calls", .header = "CALLS", .kind = COLUMN_COUNT },
	[ALLOCATED_MAX] = { .key = "allocated_max", .kind = COLUMN_BYTES },
	[ENABLED] = { .key = "enabled", .kind = COLUMN_FLAG },
};

enum {
	I_NAME,
	I_NUMBER,
	I_UNUSED,
	I_MBCS_USAGE,
	I_MBCS_CARRIERS,
	I_SBCS_USAGE,
	I_SBCS_CARRIERS,
	I_RATIO,
	I_MBCS_BLOCKS,
	I_SBCS_BLOCKS,
	I_MBCS_USAGE_MAX,
	I_SBCS_USAGE_MAX,
	I_MBCS_BLOCKS_MAX,
	I_MBCS_CARRIERS_MAX,
	I_SBCS_BLOCKS_MAX,
	I_SBCS_CARRIERS_MAX,
	I_RATIO_MAX,
	I_ALLOC,
	I_FREE,
	I_REALLOC,
	I_RESIDENT_FREE,
	I_WHOLE,
	I_STRATEGY,
	I_ACUL,
	I_TORN,
	I_N
};

static const struct column instance_columns[] = {
	[I_NAME] = { .key = "allocator",
		     .header = "ALLOCATOR",
		     .kind = COLUMN_TEXT,
		     .width = 13,
		     .fixed = true },
	[I_NUMBER] = { .key = "instance", .header = "INST", .kind = COLUMN_COUNT, .width = 4 },
	[I_UNUSED] = { .key = "unused", .header = "UNUSED", .kind = COLUMN_BYTES },
	[I_MBCS_USAGE] = { .key = "mbcs_usage", .header = "MBCS", .kind = COLUMN_SHARE },
	[I_MBCS_CARRIERS] = { .key = "mbcs_carriers_size", .header = "OF", .kind = COLUMN_BYTES },
	[I_SBCS_USAGE] = { .key = "sbcs_usage", .header = "SBCS", .kind = COLUMN_SHARE },
	[I_SBCS_CARRIERS] = { .key = "sbcs_carriers_size", .header = "OF", .kind = COLUMN_BYTES },
	[I_RATIO] = { .key = "sbcs_to_mbcs", .header = "S:M", .kind = COLUMN_REAL },
	[I_MBCS_BLOCKS] = { .key = "mbcs_block_size", .kind = COLUMN_BYTES },
	[I_SBCS_BLOCKS] = { .key = "sbcs_block_size", .kind = COLUMN_BYTES },
	[I_MBCS_USAGE_MAX] = { .key = "mbcs_usage_max", .kind = COLUMN_SHARE },
	[I_SBCS_USAGE_MAX] = { .key = "sbcs_usage_max", .kind = COLUMN_SHARE },
	[I_MBCS_BLOCKS_MAX] = { .key = "mbcs_block_size_max", .kind = COLUMN_BYTES },
	[I_MBCS_CARRIERS_MAX] = { .key = "mbcs_carriers_size_max", .kind = COLUMN_BYTES },
	[I_SBCS_BLOCKS_MAX] = { .key = "sbcs_block_size_max", .kind = COLUMN_BYTES },
	[I_SBCS_CARRIERS_MAX] = { .key = "sbcs_carriers_size_max", .kind = COLUMN_BYTES },
	[I_RATIO_MAX] = { .key = "sbcs_to_mbcs_max", .kind = COLUMN_REAL },
	[I_ALLOC] = { .key = "alloc_calls", .kind = COLUMN_COUNT },
	[I_FREE] = { .key = "free_calls", .kind = COLUMN_COUNT },
	[I_REALLOC] = { .key = "realloc_calls", .kind = COLUMN_COUNT },
	[I_RESIDENT_FREE] = { .key = "free_resident", .header = "FREE, RES.", .kind = COLUMN_BYTES },
	[I_WHOLE] = { .key = "free_whole_pages", .header = "WHOLE PGS", .kind = COLUMN_BYTES },
	[I_STRATEGY] = { .key = "strategy", .kind = COLUMN_COUNT },
	[I_ACUL] = { .key = "abandon_util", .kind = COLUMN_COUNT },
	[I_TORN] = { .key = "approximate", .kind = COLUMN_FLAG },
};

enum { C_INSTANCE, C_RATE, C_HITS, C_CALLS, C_CACHED, C_N };

static const struct column cache_columns[] = {
	[C_INSTANCE] = { .key = "instance", .header = "MSEG", .kind = COLUMN_COUNT, .width = 5 },
	[C_RATE] = { .key = "hit_rate", .header = "HIT RATE", .kind = COLUMN_SHARE },
	[C_HITS] = { .key = "hits", .header = "HITS", .kind = COLUMN_COUNT },
	[C_CALLS] = { .key = "calls", .header = "CALLS", .kind = COLUMN_COUNT },
	[C_CACHED] = { .key = "cached_segments", .header = "CACHED", .kind = COLUMN_COUNT },
};

enum { T_INSTANCE, T_ALLOCATED, T_N };

static const struct column total_columns[] = {
	[T_INSTANCE] = { .key = "instance", .header = "INST", .kind = COLUMN_COUNT, .width = 5 },
	[T_ALLOCATED] = { .key = "allocated", .header = "ALLOCATED", .kind = COLUMN_BYTES },
};

/* recon_alloc's usage/2: nothing of nothing is all of it. */
static double usage(uint64_t blocks, uint64_t carriers)
{
	return carriers ? (double)blocks / (double)carriers : 1.0;
}

static void average_set(struct table *t, unsigned column, uint64_t size, uint64_t blocks, bool real)
{
	if (real)
		table_set_real(t, column, blocks ? (double)size / (double)blocks : 0);
	else
		table_set(t, column, blocks ? (size + blocks / 2) / blocks : 0);
}

/* One instance, or several added up. */
struct figures {
	uint64_t m_blocks, m_size, m_carriers, m_carriers_size; /* mbcs with the pool */
	uint64_t s_blocks, s_size, s_carriers, s_carriers_size;
	uint64_t m_blocks_max, m_size_max, m_carriers_max;
	uint64_t s_blocks_max, s_size_max, s_carriers_max;
	uint64_t calls, resident, free_resident, whole;
};

static void figures_add(struct figures *f, const struct alloc_instance *in)
{
	f->m_blocks += in->mbcs.blocks + in->pool.blocks;
	f->m_size += in->mbcs.blocks_size + in->pool.blocks_size;
	f->m_carriers += in->mbcs.carriers + in->pool.carriers;
	f->m_carriers_size += in->mbcs.carriers_size + in->pool.carriers_size;
	f->s_blocks += in->sbcs.blocks;
	f->s_size += in->sbcs.blocks_size;
	f->s_carriers += in->sbcs.carriers;
	f->s_carriers_size += in->sbcs.carriers_size;
	f->m_blocks_max += in->mbcs.blocks_max_ever;
	f->m_size_max += in->mbcs.blocks_size_max_ever;
	f->m_carriers_max += in->mbcs.carriers_size_max_ever;
	f->s_blocks_max += in->sbcs.blocks_max_ever;
	f->s_size_max += in->sbcs.blocks_size_max_ever;
	f->s_carriers_max += in->sbcs.carriers_size_max_ever;
	f->calls += in->calls_alloc + in->calls_free + in->calls_realloc;
}

/* What the walk found, by instance. */
static void residents_add(const struct carriers *found, struct figures *by_instance)
{
	size_t i;

	for (i = 0; i < found->n; i++) {
		const struct carrier *c = &found->v[i];

		by_instance[c->instance].resident += c->resident;
		by_instance[c->instance].free_resident += c->free_resident;
		by_instance[c->instance].whole += c->free_whole_pages;
	}
}

/* recon_alloc knows these nine. */
static bool is_reconed(const char *name)
{
	return strcmp(name, "literal_alloc") != 0 && strcmp(name, "exec_alloc") != 0 &&
	       strcmp(name, "test_alloc") != 0;
}

static void ratio_set(struct table *t, unsigned column, uint64_t single, uint64_t multi)
{
	if (multi || !single) /* else infinite: null */
		table_set_real(t, column, multi ? (double)single / (double)multi : 0);
}

static void instance_fill(struct table *t, const char *name, const struct alloc_instance *in,
			  const struct figures *f)
{
	table_text(t, I_NAME, name);
	table_set(t, I_NUMBER, in->index);
	table_set(t, I_UNUSED, f->m_carriers_size - f->m_size + f->s_carriers_size - f->s_size);
	table_set_real(t, I_MBCS_USAGE, usage(f->m_size, f->m_carriers_size));
	table_set_real(t, I_SBCS_USAGE, usage(f->s_size, f->s_carriers_size));
	table_set(t, I_MBCS_BLOCKS, f->m_size);
	table_set(t, I_MBCS_CARRIERS, f->m_carriers_size);
	table_set(t, I_SBCS_BLOCKS, f->s_size);
	table_set(t, I_SBCS_CARRIERS, f->s_carriers_size);
	ratio_set(t, I_RATIO, f->s_blocks, f->m_blocks);
	table_set_real(t, I_MBCS_USAGE_MAX, usage(f->m_size_max, f->m_carriers_max));
	table_set_real(t, I_SBCS_USAGE_MAX, usage(f->s_size_max, f->s_carriers_max));
	table_set(t, I_MBCS_BLOCKS_MAX, f->m_size_max);
	table_set(t, I_MBCS_CARRIERS_MAX, f->m_carriers_max);
	table_set(t, I_SBCS_BLOCKS_MAX, f->s_size_max);
	table_set(t, I_SBCS_CARRIERS_MAX, f->s_carriers_max);
	ratio_set(t, I_RATIO_MAX, f->s_blocks_max, f->m_blocks_max);
	table_set(t, I_ALLOC, in->calls_alloc);
	table_set(t, I_FREE, in->calls_free);
	table_set(t, I_REALLOC, in->calls_realloc);
	table_set(t, I_RESIDENT_FREE, f->free_resident);
	table_set(t, I_WHOLE, f->whole);
	table_set(t, I_STRATEGY, in->strategy);
	table_set(t, I_ACUL, in->abandon_util);
	table_set(t, I_TORN, in->torn);
}

static void type_fill(struct table *t, const struct alloc_type *a, const struct figures *f)
{
	uint64_t allocated = f->m_carriers_size + f->s_carriers_size, used = f->m_size + f->s_size;

	table_text(t, NAME, a->name);
	table_set(t, INSTANCES, a->n);
	table_set(t, ENABLED, a->enabled && a->alloc_util);
	table_set(t, ALLOCATED, allocated);
	table_set(t, ALLOCATED_MAX, f->m_carriers_max + f->s_carriers_max);
	table_set(t, USED, used);
	table_set_real(t, USAGE, usage(used, allocated));
	table_set(t, BLOCKS, f->m_blocks + f->s_blocks);
	table_set(t, CARRIERS, f->m_carriers + f->s_carriers);
	table_set(t, CALLS, f->calls);
	table_set(t, RESIDENT, f->resident);
	table_set(t, RESIDENT_FREE, f->free_resident);
	table_set(t, WHOLE, f->whole);
	average_set(t, MBCS_AVERAGE, f->m_size, f->m_blocks, false);
	average_set(t, SBCS_AVERAGE, f->s_size, f->s_blocks, false);
	average_set(t, MBCS_AVERAGE_MAX, f->m_size_max, f->m_blocks_max, true);
	average_set(t, SBCS_AVERAGE_MAX, f->s_size_max, f->s_blocks_max, true);
}

static void figures_merge(struct figures *to, const struct figures *from)
{
	const uint64_t *f = (const uint64_t *)from;
	uint64_t *t = (uint64_t *)to;
	size_t i;

	for (i = 0; i < sizeof(*to) / sizeof(uint64_t); i++)
		t[i] += f[i];
}

static int cache_fill(struct list_run *run, const struct vm_ranges *r)
{
	struct table *t = listing_table(run->listing, "cache_hit_rates", cache_columns, C_N);
	size_t i;

	if (!t)
		return -ENOMEM;
	if (!r->n_mseg)
		listing_note(run->listing, "The cache of mseg is not known: %s", r->why);
	for (i = 0; i < r->n_mseg && !table_row(t); i++) {
		table_set(t, C_INSTANCE, i);
		table_set_real(t, C_RATE, usage(r->mseg[i].cache_hits, r->mseg[i].calls_alloc));
		table_set(t, C_HITS, r->mseg[i].cache_hits);
		table_set(t, C_CALLS, r->mseg[i].calls_alloc);
		table_set(t, C_CACHED, r->mseg[i].cached);
	}
	return 0;
}

static int totals_fill(struct list_run *run, const uint64_t *by_number, size_t n)
{
	struct table *t = listing_table(run->listing, "allocated_instances", total_columns, T_N);
	size_t i;

	if (!t)
		return -ENOMEM;
	for (i = 0; i < n && !table_row(t); i++) {
		table_set(t, T_INSTANCE, i);
		table_set(t, T_ALLOCATED, by_number[i]);
	}
	return 0;
}

/* All but the tables that need nothing of `f`: figures of every instance. */
static int tables_fill(struct list_run *run, const struct allocators *a, struct figures *f,
		       uint64_t *by_number, size_t *numbers)
{
	struct table *t = listing_table(run->listing, "rows", columns, N_COLUMNS);
	struct table *each = listing_table(run->listing, "fragmentation", instance_columns, I_N);
	struct figures all = { 0 };
	unsigned off = 0;
	size_t i, k;

	if (!t || !each)
		return -ENOMEM;
	for (i = 1; i < a->n_types; i++) {
		const struct alloc_type *type = &a->types[i];
		struct figures sum = { 0 };

		if (!type->alloc_util || !type->n)
			continue;
		for (k = type->first; k < type->first + type->n; k++) {
			const struct alloc_instance *in = &a->inst[k];

			figures_add(&f[k], in);
			figures_merge(&sum, &f[k]);
			if (!is_reconed(type->name) || table_row(each))
				continue;
			instance_fill(each, type->name, in, &f[k]);
			by_number[in->index] += f[k].m_carriers_size + f[k].s_carriers_size;
			*numbers = in->index >= *numbers ? in->index + 1 : *numbers;
		}
		if (is_reconed(type->name))
			figures_merge(&all, &sum);
		if (!table_row(t))
			type_fill(t, type, &sum);
	}
	for (i = 1; i < a->n_types; i++)
		if (!a->types[i].alloc_util && strcmp(a->types[i].name, "sys_alloc") != 0 &&
		    strcmp(a->types[i].name, "test_alloc") != 0)
			off++;
	if (off)
		listing_note(run->listing,
			     "%u allocators are off (+M<S>e, +Mea): what they would do malloc() does, "
			     "and `beamray memory` shows it as native.",
			     off);
	table_sort(each, "unused");
	listing_fact(run->listing, "allocated", "allocated", COLUMN_BYTES,
		     all.m_carriers_size + all.s_carriers_size);
	listing_fact(run->listing, "used", "used", COLUMN_BYTES, all.m_size + all.s_size);
	listing_fact(run->listing, "unused", "unused", COLUMN_BYTES,
		     all.m_carriers_size + all.s_carriers_size - all.m_size - all.s_size);
	listing_fact_real(run->listing, "usage", "usage", COLUMN_SHARE,
			  usage(all.m_size + all.s_size,
				all.m_carriers_size + all.s_carriers_size));
	listing_fact(run->listing, "free_resident", "free but resident", COLUMN_BYTES,
		     all.free_resident);
	listing_fact(run->listing, "free_whole_pages", "in whole pages", COLUMN_BYTES, all.whole);
	listing_fact(run->listing, "allocated_max", "allocated at most", COLUMN_BYTES,
		     all.m_carriers_max + all.s_carriers_max);
	listing_fact(run->listing, "used_max", "used at most", COLUMN_BYTES,
		     all.m_size_max + all.s_size_max);
	return 0;
}

static int collect(struct list_run *run, struct error *err)
{
	struct allocators *a = NULL;
	struct carriers *c = NULL;
	struct vm_ranges *r = NULL;
	struct figures *f = NULL;
	uint64_t *by_number = NULL;
	size_t numbers = 0, i, most = 0, torn = 0;
	int ret = list_walk(run, NULL, NULL, &a, &c, err);

	run->listing->noun = "allocators";
	for (i = 0; !ret && i < a->n_inst; i++) {
		most = a->inst[i].index > most ? a->inst[i].index : most;
		torn += a->inst[i].torn;
	}
	if (!ret) {
		f = calloc(a->n_inst ? a->n_inst : 1, sizeof(*f));
		by_number = calloc(most + 1, sizeof(*by_number));
		ret = f && by_number ? 0 : -ENOMEM;
	}
	if (!ret)
		ret = vm_ranges_read(run->observer->vm, &r, err);
	if (!ret) {
		residents_add(c, f);
		ret = tables_fill(run, a, f, by_number, &numbers);
	}
	if (!ret)
		ret = cache_fill(run, r);
	if (!ret)
		ret = totals_fill(run, by_number, numbers);
	if (torn)
		listing_note(run->listing,
			     "The counters of %zu instances moved all the time: approximate.",
			     torn);
	if (a) {
		run->listing->torn += a->unreadable;
		listing_missing(run->listing, a->unreadable, a->n_inst + a->unreadable);
	}
	vm_ranges_free(r);
	carriers_free(c);
	allocators_free(a);
	free(by_number);
	free(f);
	return ret;
}

const struct list_what list_allocators = {
	.name = "allocators",
	.summary = "recon_alloc's figures, and what of them is resident",
	.sort = "allocated",
	.collect = collect,
};
