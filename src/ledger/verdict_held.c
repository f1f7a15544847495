/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory that is resident and that nobody uses
 *
 *	fragmentation  free space in carriers that hold at least one used block: it can
 *	               be used again, by this allocator alone, and not be given back
 *	retained       carriers without a used block, cached segments, reserves: the VM
 *	               could give it back, and keeps it for the next spike
 *	libc           the same inside of malloc's heap
 *
 * What the kernel may take back by itself (LazyFree) is not held.
 */
#include "ledger/verdict_int.h"

#include <stdio.h>
#include <string.h>

static uint64_t used_of(const struct ledger_allocator *s)
{
	return s->mbcs.blocks_size + s->sbcs.blocks_size + s->pool.blocks_size;
}

static uint64_t carriers_of(const struct ledger_allocator *s)
{
	return s->mbcs.carriers_size + s->sbcs.carriers_size + s->pool.carriers_size;
}

static int64_t percent(uint64_t part, uint64_t of)
{
	return of ? (int64_t)((part * 100 + of / 2) / of) : 0;
}

static void utilisation_add(struct finding *f, const struct ledger_allocator *s)
{
	/* the VM keeps maxima of an instance's own carriers only, not of the pool's */
	uint64_t most = s->mbcs.blocks_size_max_ever + s->sbcs.blocks_size_max_ever;
	uint64_t most_carriers = s->mbcs.carriers_size_max_ever + s->sbcs.carriers_size_max_ever;

	evidence_add(f, (int64_t)used_of(s), "bytes", "used blocks (the VM's counters)");
	evidence_add(f, (int64_t)carriers_of(s), "bytes", "carriers (the VM's counters)");
	evidence_add(f, percent(used_of(s), carriers_of(s)), "percent", "utilisation now");
	if (most_carriers && most <= most_carriers)
		evidence_add(f, percent(most, most_carriers), "percent",
			     "utilisation at the maximum: %llu MiB in %llu MiB of carriers (may "
			     "read high)",
			     (unsigned long long)(most >> 20),
			     (unsigned long long)(most_carriers >> 20));
	if (s->pool.carriers)
		evidence_add(f, (int64_t)s->pool.carriers, "carriers",
			     "abandoned to the pool, for any instance to take");
}

/* Carriers that little of keeps from being given back. */
static void pinned_add(const struct judge *j, struct finding *f, const char *allocator)
{
	const struct carriers *c = j->in->after.look->carriers;
	const struct vm *vm = j->in->o->vm;
	uint64_t pinned = 0, held = 0, used = 0, all = 0;
	size_t i;

	for (i = 0; i < c->n; i++) {
		const struct carrier *k = &c->v[i];

		if (k->single || k->type >= vm->n_alloc || !vm->alloc_names[k->type] ||
		    strcmp(vm->alloc_names[k->type], allocator) != 0)
			continue;
		all++;
		if (!k->used_blocks || k->used_bytes * 4 > k->size)
			continue;
		pinned++;
		held += k->free_resident;
		used += k->used_bytes;
	}
	if (pinned)
		evidence_add(f, (int64_t)pinned, "carriers",
			     "of %llu hold less than a quarter: %llu KiB of blocks pin %llu MiB",
			     (unsigned long long)all, (unsigned long long)(used >> 10),
			     (unsigned long long)(held >> 20));
}

static void pins_add(const struct judge *j, struct finding *f, const char *allocator)
{
	size_t i;

	for (i = 0; i < j->in->n_owners; i++) {
		const struct verdict_owner *o = &j->in->owners[i];

		if (strncmp(o->category, VERDICT_PIN, strlen(VERDICT_PIN)) != 0 ||
		    strcmp(o->category + strlen(VERDICT_PIN), allocator) != 0)
			continue;
		evidence_add(f, (int64_t)o->after, "bytes", "free around %.140s", o->name);
		/* whose blocks are in the way of most of it */
		if (!f->owner[0] && o->after * 2 >= f->bytes)
			snprintf(f->owner, sizeof(f->owner), "%.190s", o->name);
	}
}

/* What would leave the carriers if processes that sleep were collected. */
static void idle_add(const struct judge *j, struct finding *f)
{
	size_t i;

	for (i = 0; i < j->in->n_owners; i++) {
		const struct verdict_owner *o = &j->in->owners[i];

		if (strcmp(o->category, VERDICT_IDLE) != 0 || o->after * 100 < f->bytes)
			continue;
		evidence_add(f, (int64_t)o->after, "bytes",
			     "of binaries are held by %.80s alone, which did nothing during the "
			     "watch",
			     o->name);
	}
}

void rule_fragmentation(struct judge *j, const struct rule *r)
{
	const struct ledger *g = j->in->after.ledger;
	size_t i, a;

	for (i = 0; i < g->n; i++) {
		const struct ledger_row *row = &g->rows[i];
		const char *name = row->account + strlen("vm.free.");
		uint64_t held = row->bytes - row->lazyfree;
		struct finding *f;

		if (strncmp(row->account, "vm.free.", 8) != 0 || !rule_reached(j, r, (int64_t)held))
			continue;
		f = finding_add(j, FINDING_VM_FRAGMENTATION, name);
		if (!f)
			return;
		f->bytes = held;
		evidence_add(f, (int64_t)row->bytes, "bytes",
			     "resident free space in carriers that hold used blocks");
		evidence_add(f, (int64_t)row->whole_pages, "bytes",
			     "of it in pages without a used byte");
		if (row->lazyfree)
			evidence_add(f, (int64_t)row->lazyfree, "bytes",
				     "of it the kernel may take back by itself (not counted)");
		for (a = 0; a < g->n_allocators; a++)
			if (g->allocators[a].name && strcmp(g->allocators[a].name, name) == 0)
				utilisation_add(f, &g->allocators[a]);
		pinned_add(j, f, name);
		pins_add(j, f, name);
		if (strcmp(name, "binary_alloc") == 0)
			idle_add(j, f);
		confidence_set(f, CONFIDENCE_HIGH, "every block of every carrier was read");
		state_rises(j, f, moment_held, row->account);
	}
}

void rule_retained(struct judge *j, const struct rule *r)
{
	const struct ledger_row *row = ledger_row(j->in->after.ledger, "vm.cache");
	static const char *const accounts[] = { "vm.cache", NULL };
	const struct look *l = j->in->after.look;
	uint64_t cached = 0, empty = 0, super = 0;
	struct finding *f;
	size_t i;

	if (!row || !rule_reached(j, r, (int64_t)row->bytes))
		return;
	for (i = 0; i < l->carriers->n; i++)
		if (!l->carriers->v[i].used_blocks)
			empty += l->carriers->v[i].resident;
	for (i = 0; l->res && i < l->ranges->n; i++) {
		const struct vm_range *g = &l->ranges->v[i];

		if (g->kind == VM_RANGE_MSEG_CACHE)
			cached += residency_bytes(l->res, g->start, g->end);
		else if (g->kind == VM_RANGE_SUPER_CARRIER)
			super = 1;
	}
	/* what is neither is the reserve of a super carrier, where there is one */
	f = finding_add(j, FINDING_VM_RETAINED,
			super && row->bytes > 2 * (cached + empty) ? "super_carrier" : "mseg");
	if (!f)
		return;
	f->bytes = row->bytes;
	evidence_add(f, (int64_t)row->bytes, "bytes", "resident, without a used block");
	if (cached)
		evidence_add(f, (int64_t)cached, "bytes", "of it in cached segments");
	if (empty)
		evidence_add(f, (int64_t)empty, "bytes", "of it in empty carriers");
	if (row->lazyfree)
		evidence_add(f, (int64_t)row->lazyfree, "bytes",
			     "of it the kernel may take back by itself");
	confidence_set(f, CONFIDENCE_HIGH, "nothing is used in it");
	state_rises(j, f, moment_accounts, accounts);
}

void rule_libc(struct judge *j, const struct rule *r)
{
	const struct look *l = j->in->after.look;
	const struct ledger_row *row = ledger_row(j->in->after.ledger, "native.heap.free");
	uint64_t held = row ? row->bytes - row->lazyfree : 0, top = 0, tcache = 0;
	struct finding *f;
	size_t i;

	if (!row || !rule_reached(j, r, (int64_t)held))
		return;
	f = finding_add(j, FINDING_LIBC_FRAGMENTATION, "glibc");
	if (!f)
		return;
	f->bytes = held;
	evidence_add(f, (int64_t)held, "bytes", "free and resident inside libc's heap");
	for (i = 0; l->libc && i < l->libc->n_arenas; i++) {
		const struct libc_arena *a = &l->libc->arenas[i];

		top += a->top_bytes;
		tcache += a->tcache_bytes + a->fastbin_bytes;
		if (a->free_bytes * 10 >= held && f->n_evidence < 6)
			evidence_add(f, (int64_t)a->free_bytes, "bytes",
				     "free in arena %zu, %llu chunks, of %llu MiB", i,
				     (unsigned long long)a->chunks_free,
				     (unsigned long long)(a->system_mem >> 20));
	}
	evidence_add(f, (int64_t)top, "bytes", "at the tops of the arenas, where trimming helps");
	evidence_add(f, (int64_t)tcache, "bytes", "in caches of threads and fast bins");
	confidence_set(f, CONFIDENCE_HIGH, "every chunk of the heap was read");
	state_rises(j, f, moment_held, row->account);
}
