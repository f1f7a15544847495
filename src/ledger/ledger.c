/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The ledger: every resident byte in exactly one account
 *
 * One pagemap pass says which pages are resident. Everything that we know about
 * the address space is then laid over it as claims: ranges with an owner.
 *
 *   address ->   |------------------ anonymous mapping ------------------|
 *   carriers           |=== carrier ===|        |== carrier ==|
 *   mseg cache                          |======|
 *   libc heap    |-- chunks around a carrier --|
 *   the mapping  |.....................................................  |
 *
 * Claims overlap: a carrier lies in the libc heap, the heap lies in a mapping.
 * Every kind of claim has a rank, and at each address the claim of the highest
 * rank wins; claims of one rank are disjoint. The mappings themselves are the
 * lowest rank, so that nothing resident is left over, and the sum of what the
 * claims win is the sum of the pass: the rows add up to RSS by construction,
 * however wrong a single claim may be.
 *
 * What a claim wins is then split into accounts. A carrier brings its own split
 * (used, free and slack bytes that are resident), a heap region too (chunks in
 * use and free); the others have one account. Should a split not add up to what
 * its claim won, because two sources contradict each other, the difference is
 * `unattributed`: an unknown is shown, never spread over the known.
 *
 * What no claim explains in anonymous memory is `native.mmap`, memory that a
 * NIF or a library mapped for itself, but only while we know where the VM keeps
 * its own mappings (the mseg cache). Where that is not known, and for ranges
 * that disappeared while we looked, it is `unattributed`.
 */
#include "ledger/ledger.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "target/escape.h"

#define LEDGER_TRIES 3

enum rank {
	RANK_MAPPING, /* lowest */
	RANK_RESERVE, /* super carrier, literal area: what is not in a carrier */
	RANK_IMAGE,
	RANK_STACK,
	RANK_HEAP,
	RANK_CODE,
	RANK_CACHE,
	RANK_CARRIER,
	RANKS
};

struct claim {
	uint64_t start, end;
	enum rank rank;
	size_t index; /* into the look's array of that rank */
	uint64_t won; /* resident bytes */
};

struct build {
	const struct observer *o;
	const struct look *l;
	struct ledger *g;
	struct claim *claims;
	size_t n_claims, size_claims;
	size_t size_rows;
	bool failed; /* out of memory */
};

static void note(struct build *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void note(struct build *b, const char *fmt, ...)
{
	char raw[512], *text;
	char **bigger = realloc(b->g->notes, (b->g->n_notes + 1) * sizeof(*bigger));
	va_list ap;

	if (!bigger) {
		b->failed = true;
		return;
	}
	b->g->notes = bigger;
	va_start(ap, fmt);
	vsnprintf(raw, sizeof(raw), fmt, ap);
	va_end(ap);
	text = malloc(1024);
	if (!text) {
		b->failed = true;
		return;
	}
	b->g->notes[b->g->n_notes++] = escape_string(text, 1024, raw);
}

static struct ledger_row *row_get(struct build *b, const char *account)
{
	size_t i;
	struct ledger *g = b->g;

	for (i = 0; i < g->n; i++)
		if (strcmp(g->rows[i].account, account) == 0)
			return &g->rows[i];
	if (g->n == b->size_rows) {
		size_t size = b->size_rows ? b->size_rows * 2 : 64;
		struct ledger_row *bigger = realloc(g->rows, size * sizeof(*bigger));

		if (!bigger) {
			b->failed = true;
			return NULL;
		}
		g->rows = bigger;
		b->size_rows = size;
	}
	memset(&g->rows[g->n], 0, sizeof(g->rows[0]));
	snprintf(g->rows[g->n].account, sizeof(g->rows[0].account), "%s", account);
	return &g->rows[g->n++];
}

static void credit(struct build *b, const char *account, uint64_t bytes)
{
	struct ledger_row *r = bytes ? row_get(b, account) : NULL;

	if (r)
		r->bytes += bytes;
}

static void credit_vm(struct build *b, const char *what, unsigned type, uint64_t bytes,
		      uint64_t whole_pages)
{
	const struct vm *vm = b->o->vm;
	char account[LEDGER_ACCOUNT_MAX];
	struct ledger_row *r;

	if (!bytes)
		return;
	snprintf(account, sizeof(account), "vm.%s.%s", what,
		 type < vm->n_alloc && vm->alloc_names[type] ? vm->alloc_names[type] : "unknown");
	r = row_get(b, account);
	if (r) {
		r->bytes += bytes;
		r->whole_pages += whole_pages;
	}
}

static void claim_add(struct build *b, uint64_t start, uint64_t end, enum rank rank, size_t index)
{
	if (start >= end)
		return;
	if (b->n_claims == b->size_claims) {
		size_t size = b->size_claims ? b->size_claims * 2 : 1024;
		struct claim *bigger = realloc(b->claims, size * sizeof(*bigger));

		if (!bigger) {
			b->failed = true;
			return;
		}
		b->claims = bigger;
		b->size_claims = size;
	}
	b->claims[b->n_claims++] =
		(struct claim){ .start = start, .end = end, .rank = rank, .index = index };
}

static void claims_collect(struct build *b)
{
	const struct look *l = b->l;
	size_t i, j;

	for (i = 0; i < l->maps->n; i++)
		claim_add(b, l->maps->v[i].start, l->maps->v[i].end, RANK_MAPPING, i);
	for (i = 0; i < b->o->images->n; i++) {
		size_t n;
		const struct image_segment *s = image_segments(b->o->images->v[i], &n);

		for (j = 0; j < n; j++)
			claim_add(b, s[j].start, s[j].end, RANK_IMAGE, i);
	}
	for (i = 0; i < l->n_stacks; i++)
		claim_add(b, l->stacks[i].start, l->stacks[i].end, RANK_STACK, i);
	if (l->libc)
		for (i = 0; i < l->libc->n_regions; i++)
			claim_add(b, l->libc->regions[i].start, l->libc->regions[i].end, RANK_HEAP,
				  i);
	for (i = 0; i < l->ranges->n; i++) {
		const struct vm_range *r = &l->ranges->v[i];
		enum rank rank = r->kind == VM_RANGE_MSEG_CACHE ? RANK_CACHE
				 : r->kind == VM_RANGE_CODE || r->kind == VM_RANGE_CODE_ALIAS
					 ? RANK_CODE
					 : RANK_RESERVE;

		claim_add(b, r->start, r->end, rank, i);
	}
	for (i = 0; i < l->carriers->n; i++)
		claim_add(b, l->carriers->v[i].addr,
			  l->carriers->v[i].addr + l->carriers->v[i].size, RANK_CARRIER, i);
}

static int claim_order(const void *pa, const void *pb)
{
	const struct claim *a = pa, *b = pb;

	if (a->start != b->start)
		return a->start < b->start ? -1 : 1;
	return (int)b->rank - (int)a->rank;
}

/* Makes the claims of each rank disjoint: one that begins inside an earlier one
 * of its rank loses that part. */
static void claims_clip(struct build *b)
{
	uint64_t end[RANKS] = { 0 };
	size_t i, kept = 0;

	if (!b->n_claims)
		return;
	qsort(b->claims, b->n_claims, sizeof(*b->claims), claim_order);
	for (i = 0; i < b->n_claims; i++) {
		struct claim c = b->claims[i];

		if (c.start < end[c.rank])
			c.start = end[c.rank];
		if (c.start >= c.end)
			continue;
		end[c.rank] = c.end;
		b->claims[kept++] = c;
	}
	b->n_claims = kept;
	qsort(b->claims, b->n_claims, sizeof(*b->claims), claim_order);
}

/* Sweeps over the claims from low to high addresses. `active` holds for every
 * rank the claim that is open at this address; between two edges the highest
 * open rank wins. */
static void claims_sweep(struct build *b)
{
	struct claim *active[RANKS] = { NULL };
	uint64_t at = 0;
	size_t next = 0;

	claims_clip(b);
	for (;;) {
		struct claim *top = NULL;
		uint64_t edge = next < b->n_claims ? b->claims[next].start : UINT64_MAX;
		int r;

		for (r = RANKS - 1; r >= 0; r--) {
			if (active[r] && active[r]->end <= at)
				active[r] = NULL;
			if (!active[r])
				continue;
			if (!top)
				top = active[r];
			if (active[r]->end < edge)
				edge = active[r]->end;
		}
		if (edge == UINT64_MAX)
			break;
		if (top)
			top->won += residency_bytes(b->l->res, at, edge);
		at = edge;
		while (next < b->n_claims && b->claims[next].start == at) {
			active[b->claims[next].rank] = &b->claims[next];
			next++;
		}
	}
}

/* Gives what a claim won to up to three accounts by their split; a difference
 * is unattributed. */
static void split_check(struct build *b, uint64_t won, uint64_t *a, uint64_t *c, uint64_t *d)
{
	uint64_t sum = *a + *c + *d, over;

	if (sum <= won) {
		credit(b, "unattributed", won - sum);
		return;
	}
	/* The split says more than is there: cut it back, the last part first. */
	over = sum - won;
	uint64_t *parts[] = { d, c, a };

	for (size_t i = 0; i < 3 && over; i++) {
		uint64_t cut = *parts[i] < over ? *parts[i] : over;

		*parts[i] -= cut;
		over -= cut;
	}
}

static void credit_carrier(struct build *b, const struct carrier *c, uint64_t won)
{
	uint64_t used = c->used_resident, free_ = c->free_resident, slack = c->slack_resident;
	uint64_t left;
	unsigned t;

	if (used + free_ + slack != won)
		split_check(b, won, &used, &free_, &slack);
	if (!used && c->in_pool && !c->used_blocks) {
		/* a carrier without a used block is cache, not fragmentation */
		credit(b, "vm.cache", free_ + slack);
		return;
	}
	left = used;
	for (t = 0; t < CARRIER_TYPES; t++) {
		uint64_t part = c->used_resident_by_type[t] < left ? c->used_resident_by_type[t]
								   : left;

		credit_vm(b, "used", t, part, 0);
		left -= part;
	}
	credit_vm(b, "used", c->type, left, 0);
	if (!c->used_blocks) {
		credit(b, "vm.cache", free_ + slack);
		return;
	}
	credit_vm(b, "free", c->type, free_,
		  c->free_whole_pages < free_ ? c->free_whole_pages : free_);
	credit_vm(b, "slack", c->type, slack, 0);
}

/* Bytes of [start, end) that are still mapped after the look. */
static bool still_mapped(const struct mappings *m, uint64_t start, uint64_t end)
{
	size_t i = mappings_index(m, start);

	while (start < end) {
		if (i == m->n || m->v[i].start > start)
			return false;
		start = m->v[i++].end;
	}
	return true;
}

static void credit_mapping(struct build *b, const struct mapping *m, uint64_t won)
{
	const struct look *l = b->l;
	bool other_malloc = l->libc && !l->libc->is_glibc;

	switch (m->kind) {
	case MAPPING_FILE:
		credit(b, "file", won);
		return;
	case MAPPING_SHARED:
	case MAPPING_MEMFD:
		credit(b, "shared", won);
		return;
	case MAPPING_KERNEL:
	case MAPPING_DEVICE:
	case MAPPING_HUGETLB:
		credit(b, "kernel", won);
		return;
	case MAPPING_STACK:
		credit(b, "vm.stack", won); /* the first thread is the VM's */
		return;
	case MAPPING_HEAP:
		/* the brk heap when it could not be walked */
		credit(b,
		       other_malloc || !l->libc || !l->libc->walked ? "native.heap.used"
								    : "unattributed",
		       won);
		return;
	case MAPPING_ANON:
		break;
	}
	if (!still_mapped(l->maps_after, m->start, m->end)) {
		b->g->vanished += won;
		credit(b, "unattributed", won);
	} else if (other_malloc) {
		credit(b, "native.heap.used", won);
	} else if (!l->ranges->mseg_known || !l->libc || !l->libc->walked) {
		credit(b, "unattributed", won);
	} else {
		credit(b, "native.mmap", won);
	}
}

static bool is_vm_thread(const struct look *l, uint64_t pthread)
{
	size_t i;

	for (i = 0; i < l->n_threads; i++)
		if (l->threads[i].pthread == pthread)
			return true;
	return false;
}

static void credit_stack(struct build *b, const struct libc_stack *s, uint64_t won)
{
	const struct image *from = s->start_routine ? images_find(b->o->images, s->start_routine)
						    : NULL;

	/* Threads that the VM started run a function of its own: schedulers are
	 * known by their scheduler data, auxiliary and poll threads by this. */
	if (is_vm_thread(b->l, s->pthread) || (from && from == b->o->vm->exe))
		credit(b, "vm.stack", won);
	else
		credit(b, "native.stack", won);
}

static void credit_image(struct build *b, size_t index, uint64_t won)
{
	const struct image *im = b->o->images->v[index];
	const struct mapping *m;
	char account[LEDGER_ACCOUNT_MAX], name[LEDGER_ACCOUNT_MAX - 8];
	size_t n;
	const struct image_segment *s = image_segments(im, &n);

	m = n ? mappings_find(b->l->maps, s[0].start) : NULL;
	if (m && m->kind == MAPPING_KERNEL) {
		credit(b, "kernel", won);
		return;
	}
	escape_string(name, sizeof(name), image_name(im));
	snprintf(account, sizeof(account), "image.%s", *name ? name : "unknown");
	credit(b, account, won);
}

static void credit_all(struct build *b)
{
	const struct look *l = b->l;
	size_t i;

	for (i = 0; i < b->n_claims; i++) {
		const struct claim *c = &b->claims[i];
		uint64_t used, free_, other;

		if (!c->won)
			continue;
		switch (c->rank) {
		case RANK_CARRIER:
			credit_carrier(b, &l->carriers->v[c->index], c->won);
			break;
		case RANK_CACHE:
		case RANK_RESERVE:
			credit(b, "vm.cache", c->won);
			break;
		case RANK_CODE:
			credit(b,
			       l->ranges->v[c->index].kind == VM_RANGE_CODE ? "vm.code"
									    : "vm.code.alias",
			       c->won);
			break;
		case RANK_HEAP:
			used = l->libc->regions[c->index].used_resident;
			free_ = l->libc->regions[c->index].free_resident;
			other = l->libc->regions[c->index].other_resident;
			if (used + free_ + other != c->won)
				split_check(b, c->won, &used, &free_, &other);
			credit(b, "native.heap.used", used);
			credit(b, "native.heap.free", free_);
			credit(b, "unattributed", other);
			break;
		case RANK_STACK:
			credit_stack(b, &l->stacks[c->index], c->won);
			break;
		case RANK_IMAGE:
			credit_image(b, c->index, c->won);
			break;
		case RANK_MAPPING:
			credit_mapping(b, &l->maps->v[c->index], c->won);
			break;
		case RANKS:
			break;
		}
	}
}

static void count_add(struct alloc_count *to, const struct alloc_count *from)
{
	uint64_t *t = (uint64_t *)to;
	const uint64_t *f = (const uint64_t *)from;
	size_t i;

	_Static_assert(sizeof(*to) % sizeof(uint64_t) == 0, "only 64-bit counters");
	for (i = 0; i < sizeof(*to) / sizeof(uint64_t); i++)
		t[i] += f[i];
}

static void allocators_sum(struct build *b)
{
	const struct allocators *a = b->l->allocators;
	struct ledger *g = b->g;
	size_t i, k;

	g->allocators = calloc(a->n_types ? a->n_types : 1, sizeof(*g->allocators));
	if (!g->allocators) {
		b->failed = true;
		return;
	}
	g->n_allocators = a->n_types;
	for (i = 0; i < a->n_types; i++) {
		struct ledger_allocator *s = &g->allocators[i];

		s->name = a->types[i].name;
		s->enabled = a->types[i].enabled;
		s->alloc_util = a->types[i].alloc_util;
		s->instances = a->types[i].n;
		for (k = 0; k < a->types[i].n; k++) {
			const struct alloc_instance *inst = &a->inst[a->types[i].first + k];

			count_add(&s->mbcs, &inst->mbcs);
			count_add(&s->sbcs, &inst->sbcs);
			count_add(&s->pool, &inst->pool);
		}
		g->vm_allocated +=
			s->mbcs.carriers_size + s->sbcs.carriers_size + s->pool.carriers_size;
		g->vm_used += s->mbcs.blocks_size + s->sbcs.blocks_size + s->pool.blocks_size;
		for (k = 0; k < b->l->carriers->n; k++) {
			const struct carrier *c = &b->l->carriers->v[k];

			if (c->type != a->types[i].type)
				continue;
			s->carriers++;
			s->carriers_size += c->size;
			s->used += c->used_bytes;
			s->free += c->free_bytes;
			s->resident += c->resident;
			s->used_resident += c->used_resident;
			s->free_resident += c->free_resident;
			s->whole_pages += c->free_whole_pages;
		}
	}
}

/* LazyFree: pages that were given to the kernel with MADV_FREE and that it has
 * not taken yet. smaps tells the amount per mapping; which account it falls on
 * follows from who uses MADV_FREE: free space in pooled carriers and cached
 * segments, then the libc heap's free memory. */
static void lazyfree_spread(struct build *b)
{
	uint64_t left = b->l->os.lazyfree;
	size_t i;

	if (left == SYSTEM_UNKNOWN)
		return;
	for (i = 0; i < b->g->n && left; i++) {
		struct ledger_row *r = &b->g->rows[i];
		uint64_t most = strncmp(r->account, "vm.free.", 8) == 0 ? r->whole_pages
				: strcmp(r->account, "vm.cache") == 0	? r->bytes
									: 0;

		r->lazyfree = most < left ? most : left;
		left -= r->lazyfree;
	}
	if (left) {
		struct ledger_row *r = row_get(b, "native.heap.free");

		if (r)
			r->lazyfree = r->bytes < left ? r->bytes : left;
	}
}

static int row_order(const void *pa, const void *pb)
{
	const struct ledger_row *a = pa, *b = pb;
	bool ua = strcmp(a->account, "unattributed") == 0;
	bool ub = strcmp(b->account, "unattributed") == 0;

	if (ua != ub)
		return ua ? 1 : -1;
	if (a->bytes != b->bytes)
		return a->bytes > b->bytes ? -1 : 1;
	return strcmp(a->account, b->account);
}

#define MIB(x) ((double)(x) / (1 << 20))

static void notes_write(struct build *b)
{
	const struct look *l = b->l;
	const struct ledger *g = b->g;
	const struct carriers *c = l->carriers;
	uint64_t code = ledger_sum(g, "vm.code"), alias;
	const struct ledger_row *r = ledger_row(g, "vm.code.alias");

	alias = r ? r->bytes : 0;
	note(b, "layout: %s", b->o->vm->layout_note);
	if (l->quick)
		note(b,
		     "--quick: the counters of the VM and the kernel alone; there is no ledger, and "
		     "os.rss is the kernel's approximate figure");
	if (alias)
		note(b,
		     "JIT code is one memory mapped twice: %.1f MiB of vm.code and %.1f MiB of "
		     "vm.code.alias are the same pages, counted twice in RSS and once in PSS",
		     MIB(code - alias), MIB(alias));
	if (l->os.lazyfree != SYSTEM_UNKNOWN && l->os.lazyfree)
		note(b, "%.1f MiB are LazyFree: the kernel takes them back under pressure",
		     MIB(l->os.lazyfree));
	if (l->os.pss == SYSTEM_UNKNOWN && l->os.rollup_reason[0])
		note(b, "pss and lazyfree are null: %s", l->os.rollup_reason);
	if (l->os.cgroup_limit == SYSTEM_UNKNOWN && l->os.cgroup_reason[0])
		note(b, "cgroup: %s", l->os.cgroup_reason);
	if (l->memory.why[0])
		note(b, "erlang:memory(): %s", l->memory.why);
	if (l->counts.port_table_bytes != UINT64_MAX && l->counts.port_table_bytes > (8u << 20))
		note(b,
		     "the port table has %llu slots (%.1f MiB): sized by the limit on open files",
		     (unsigned long long)l->counts.port_limit, MIB(l->counts.port_table_bytes));
	if (l->counts.process_table_bytes != UINT64_MAX &&
	    l->counts.process_table_bytes > (64u << 20))
		note(b, "the process table has %llu slots (%.1f MiB): sized by +P",
		     (unsigned long long)l->counts.process_limit,
		     MIB(l->counts.process_table_bytes));
	if (!l->quick && !l->ranges->mseg_known)
		note(b,
		     "the VM's segment cache was not found (%s): anonymous memory without an owner is "
		     "unattributed, not native.mmap",
		     l->ranges->why[0] ? l->ranges->why : "no symbol and no signature");
	if (l->libc && !l->libc->is_glibc)
		note(b,
		     "malloc is served by %s, whose heap is not walked: native.heap.used is all "
		     "anonymous memory that is not the VM's, free memory in it included",
		     l->libc->malloc_name);
	else if (l->libc && l->libc->why[0])
		note(b, "libc heap: %s", l->libc->why);
	if (c->torn)
		note(b,
		     "%llu of %zu carriers kept changing while they were read%s: split by their "
		     "own counters",
		     (unsigned long long)c->torn, c->n,
		     l->res && residency_swapped(l->res) ? ", or are swapped out in part" : "");
	if (c->lost_bytes > g->rss / 1000)
		note(b, "carriers of %.1f MiB are in the VM's counters but were not found",
		     MIB(c->lost_bytes));
	if (l->quick)
		return;
	if (residency_method(l->res) == ZERO_PAGES_COUNTED)
		note(b, "zero pages cannot be told from others on this kernel without "
			"CAP_SYS_ADMIN: memory that was only read counts as resident");
	if (residency_swapped(l->res))
		note(b, "%.1f MiB are swapped out: they are in no account, and were not read",
		     MIB(residency_swapped(l->res)));
	if (g->vanished > g->rss / 1000)
		note(b, "%.1f MiB were unmapped while we looked: unattributed", MIB(g->vanished));
}

static void rows_build(struct build *b)
{
	claims_collect(b);
	if (!b->failed)
		claims_sweep(b);
	if (!b->failed)
		credit_all(b);
	free(b->claims);
	b->claims = NULL;
	if (!b->failed)
		row_get(b, "unattributed");
	if (!b->failed)
		lazyfree_spread(b);
	if (b->failed)
		return;
	qsort(b->g->rows, b->g->n, sizeof(*b->g->rows), row_order);
	b->g->unattributed = b->g->rows[b->g->n - 1].bytes;
}

int ledger_build(const struct observer *o, const struct look *l, struct ledger **out,
		 struct error *err)
{
	struct build b = { .o = o, .l = l };
	uint64_t missing, moved;
	size_t i;

	*out = NULL;
	b.g = calloc(1, sizeof(*b.g));
	if (!b.g)
		return -ENOMEM;
	b.g->rss = l->quick ? l->os.rss : residency_total(l->res);
	if (!l->quick)
		rows_build(&b);
	if (!b.failed)
		allocators_sum(&b);
	if (!b.failed) {
		moved = l->carriers->lost_bytes;
		for (i = 0; i < l->carriers->n; i++)
			if (l->carriers->v[i].torn)
				moved += l->carriers->v[i].resident;
		missing = b.g->unattributed + moved;
		moved += b.g->vanished;
		b.g->complete = missing <= b.g->rss / 100;
		b.g->unsettled = !b.g->complete && missing - moved <= b.g->rss / 100;
		notes_write(&b);
	}
	if (b.failed) {
		ledger_free(b.g);
		return error_set(err, EXIT_INCOMPLETE, -ENOMEM,
				 "out of memory while building the ledger");
	}
	*out = b.g;
	return 0;
}

int ledger_take(struct observer *o, const struct look_opts *opts, struct look **look,
		struct ledger **out, struct error *err)
{
	struct look *earlier = NULL;
	struct ledger *earlier_g = NULL;
	unsigned tries = LEDGER_TRIES;
	int ret;

	for (;;) {
		*out = NULL;
		ret = look_take(o, opts, look, err);
		if (ret == 0)
			ret = ledger_build(o, *look, out, err);
		if (ret < 0 && ret != -ETIMEDOUT && earlier) {
			look_free(*look);
			*look = earlier;
			*out = earlier_g;
			if (err)
				*err = (struct error){ 0 };
			return 0;
		}
		look_free(earlier);
		ledger_free(earlier_g);
		if (!*out || !(*out)->unsettled || !--tries)
			break;
		earlier = *look;
		earlier_g = *out;
	}
	if (ret < 0 && ret != -ETIMEDOUT) {
		look_free(*look);
		*look = NULL;
	}
	return ret;
}

void ledger_free(struct ledger *l)
{
	size_t i;

	if (!l)
		return;
	for (i = 0; i < l->n_notes; i++)
		free(l->notes[i]);
	free(l->notes);
	free(l->rows);
	free(l->allocators);
	free(l);
}

const struct ledger_row *ledger_row(const struct ledger *l, const char *account)
{
	size_t i;

	for (i = 0; i < l->n; i++)
		if (strcmp(l->rows[i].account, account) == 0)
			return &l->rows[i];
	return NULL;
}

uint64_t ledger_sum(const struct ledger *l, const char *prefix)
{
	size_t len = strlen(prefix), i;
	uint64_t sum = 0;

	for (i = 0; i < l->n; i++)
		if (strncmp(l->rows[i].account, prefix, len) == 0 &&
		    (l->rows[i].account[len] == '\0' || l->rows[i].account[len] == '.'))
			sum += l->rows[i].bytes;
	return sum;
}
