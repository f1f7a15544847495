/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The verdict: from two ledgers and a growth profile to findings
 *
 *      before ------------ watch ------------ after
 *     ledger A      growth stacks, tags      ledger B
 *
 * Every rule needs a floor (bytes that matter to anybody) and a ratio (bytes
 * that matter to this node). What is held (free space in carriers, cached
 * carriers, libc's free memory) can be judged from ledger B alone. What leaks
 * can not: growth needs A and B.
 *
 * Native growth is what `native.heap.used` and `native.mmap` grew by, never RSS:
 * a leak into memory that libc already holds makes no page fault and no system
 * call. The growth profile then says who: the frame nearest to the leaf that is
 * a NIF's or driver's. Blocks of the VM's own allocators that carry a tag name
 * their owner without any stack.
 *
 * A byte belongs to one finding. Tagged growth of an owner is taken out of the
 * growth of its allocator before that is judged.
 */
#include "ledger/verdict.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MIB	     (1ULL << 20)
#define FINDINGS_MAX 64
#define BLAMES_MAX   64

const struct verdict_opts verdict_defaults = {
	.native_floor = 1 * MIB,
	.vm_floor = 8 * MIB,
	.vm_ratio = 0.05,
	.held_floor = 16 * MIB,
	.held_ratio = 0.20,
	.cgroup_ratio = 0.80,
	.explained_ratio = 0.80,
};

static const char *const code_names[] = {
	[FINDING_HEALTHY] = "healthy",
	[FINDING_VM_DATA] = "vm-data",
	[FINDING_VM_FRAGMENTATION] = "vm-fragmentation",
	[FINDING_VM_RETAINED] = "vm-retained",
	[FINDING_NIF_LEAK] = "nif-leak",
	[FINDING_DRIVER_LEAK] = "driver-leak",
	[FINDING_NATIVE_GROWTH] = "native-growth",
	[FINDING_LIBC_FRAGMENTATION] = "libc-fragmentation",
	[FINDING_THREAD_STACKS] = "thread-stacks",
	[FINDING_INCONCLUSIVE] = "inconclusive",
};

const char *finding_code_name(enum finding_code code)
{
	return code_names[code];
}

const char *confidence_name(enum confidence c)
{
	return c == CONFIDENCE_HIGH ? "high" : c == CONFIDENCE_MEDIUM ? "medium" : "low";
}

struct judge {
	const struct verdict_input *in;
	const struct verdict_opts *opts;
	struct verdict *v;
	uint64_t rss;
	double seconds;
	/* growth that tags have explained, by allocator number: bytes */
	int64_t tagged_growth[CARRIER_TYPES];
};

static struct finding *finding_add(struct judge *j, enum finding_code code, const char *subject)
{
	struct finding *f;

	if (j->v->n == FINDINGS_MAX)
		return NULL;
	f = &j->v->v[j->v->n++];
	memset(f, 0, sizeof(*f));
	f->code = code;
	snprintf(f->subject, sizeof(f->subject), "%.127s", subject);
	return f;
}

static void evidence_add(struct finding *f, int64_t value, const char *unit, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

static void evidence_add(struct finding *f, int64_t value, const char *unit, const char *fmt, ...)
{
	struct evidence *e;
	va_list ap;

	if (f->n_evidence == FINDING_EVIDENCE)
		return;
	e = &f->evidence[f->n_evidence++];
	va_start(ap, fmt);
	vsnprintf(e->what, sizeof(e->what), fmt, ap);
	va_end(ap);
	e->value = value;
	e->unit = unit;
}

static void advice_add(struct finding *f, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

static void advice_add(struct finding *f, const char *fmt, ...)
{
	va_list ap;

	if (f->n_advice == FINDING_ADVICE)
		return;
	va_start(ap, fmt);
	vsnprintf(f->advice[f->n_advice++], sizeof(f->advice[0]), fmt, ap);
	va_end(ap);
}

static void confidence_set(struct finding *f, enum confidence c, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

static void confidence_set(struct finding *f, enum confidence c, const char *fmt, ...)
{
	va_list ap;

	f->confidence = c;
	va_start(ap, fmt);
	vsnprintf(f->why, sizeof(f->why), fmt, ap);
	va_end(ap);
}

static int64_t grew(const struct judge *j, const char *prefix)
{
	if (!j->in->before.ledger)
		return 0;
	return (int64_t)(ledger_sum(j->in->after.ledger, prefix) -
			 ledger_sum(j->in->before.ledger, prefix));
}

static void growth_set(struct judge *j, struct finding *f, int64_t bytes)
{
	f->grew_bytes = bytes > 0 ? (uint64_t)bytes : 0;
	f->bytes_per_s = j->seconds > 0 ? (double)f->grew_bytes / j->seconds : 0;
}

/* Who is to blame for a stack ------------------------------------------------ */

struct blame {
	char library[128];
	enum finding_code code;
	enum way {
		WAY_LIBC,    /* the stack goes through malloc and its like */
		WAY_MMAP,    /* ... through mmap alone */
		WAY_UNKNOWN, /* the page was touched later, by its user */
	} way;
	int64_t bytes;
	const struct profile_stack *stacks[FINDING_STACKS];
	size_t n;
};

static bool is_leaf_side(const struct symbol *s)
{
	return s->kind == FRAME_LIBC || s->kind == FRAME_KERNEL;
}

/* Walks from the leaf. libc and kernel frames are passed over; the first other
 * native frame decides, except that a NIF or driver above a plain library is
 * the one that called it. The VM's own frames first: not native growth at all
 * (its carriers are in other accounts). */
static bool stack_blame(const struct judge *j, const struct profile_stack *s, struct blame *out)
{
	const struct symbol *library = NULL, *nif = NULL;
	bool from_malloc = false, mapped = false;
	size_t i;

	for (i = 0; i < s->n; i++) {
		const struct symbol *y = symbols_find(j->in->trace.symbols, s, i);

		if (!y || y->kind == FRAME_REPEAT)
			continue;
		if (y->kind == FRAME_LIBC && y->name) {
			/* mmap called by malloc is malloc's business */
			if (strstr(y->name, "mmap"))
				mapped = true;
			else if (strstr(y->name, "alloc") || strstr(y->name, "sbrk") ||
				 strstr(y->name, "strdup"))
				from_malloc = true;
		}
		if (is_leaf_side(y))
			continue;
		if (y->kind == FRAME_NIF) {
			nif = y;
			break;
		}
		if (y->kind == FRAME_LIBRARY || y->kind == FRAME_NATIVE) {
			if (!library)
				library = y;
			continue;
		}
		if (y->kind == FRAME_ERTS && !library)
			return false;
		break;
	}
	if (!nif && !library)
		return false;
	memset(out, 0, sizeof(*out));
	snprintf(out->library, sizeof(out->library), "%s",
		 nif && nif->module	      ? nif->module
		 : library && library->module ? library->module
					      : "unknown");
	out->code = nif ? FINDING_NIF_LEAK : FINDING_NATIVE_GROWTH;
	out->way = from_malloc ? WAY_LIBC : mapped ? WAY_MMAP : WAY_UNKNOWN;
	out->bytes = s->weight;
	out->stacks[0] = s;
	out->n = 1;
	return true;
}

static void blame_add(struct blame *v, size_t *n, const struct blame *one)
{
	size_t k, i;

	for (k = 0; k < *n; k++)
		if (strcmp(v[k].library, one->library) == 0 && v[k].way == one->way)
			break;
	if (k == *n) {
		if (*n < BLAMES_MAX)
			v[(*n)++] = *one;
		return;
	}
	v[k].bytes += one->bytes;
	for (i = 0; i < one->n && v[k].n < FINDING_STACKS; i++)
		v[k].stacks[v[k].n++] = one->stacks[i];
}

/* A page fault's stack tells who touched the page, often long after malloc or
 * mmap returned. The two ledgers tell where it came from: the heap and the
 * mappings grew by so much each, and what stacks through malloc or mmap have
 * not explained of either is the larger claim to the rest. */
static size_t blames_collect(const struct judge *j, int64_t heap, int64_t mapped, struct blame *v)
{
	const struct profile *p = j->in->trace.growth;
	struct blame all[BLAMES_MAX];
	size_t i, n_all = 0, n = 0;

	for (i = 0; p && i < p->n; i++) {
		struct blame one;

		if (p->stacks[i].weight > 0 && stack_blame(j, &p->stacks[i], &one))
			blame_add(all, &n_all, &one);
	}
	for (i = 0; i < n_all; i++) {
		if (all[i].way == WAY_LIBC)
			heap -= all[i].bytes;
		else if (all[i].way == WAY_MMAP)
			mapped -= all[i].bytes;
	}
	for (i = 0; i < n_all; i++) {
		if (all[i].way == WAY_UNKNOWN) {
			all[i].way = mapped > heap ? WAY_MMAP : WAY_LIBC;
			*(all[i].way == WAY_MMAP ? &mapped : &heap) -= all[i].bytes;
		}
		blame_add(v, &n, &all[i]);
	}
	return n;
}

/* Stacks see page faults, ledgers see every chunk: memory that libc had free and
 * handed out again makes no fault. Where one library alone is named for a way,
 * and for most of it, the ledgers' figure is its figure. */
static int64_t way_measured(const struct judge *j, const struct blame *v, size_t n,
			    const struct blame *b, int64_t grew_by_ledger)
{
	size_t i;

	for (i = 0; i < n; i++)
		if (&v[i] != b && v[i].way == b->way && v[i].bytes * 20 > b->bytes)
			return b->bytes;
	return grew_by_ledger > b->bytes &&
			       (double)b->bytes >= j->opts->explained_ratio * (double)grew_by_ledger
		       ? grew_by_ledger
		       : b->bytes;
}

/* Rules ---------------------------------------------------------------------- */

static void rule_native_growth(struct judge *j)
{
	int64_t heap = grew(j, "native.heap.used"), mapped = grew(j, "native.mmap");
	int64_t total = heap + mapped, named = 0;
	struct blame blames[BLAMES_MAX];
	size_t n, i, k;

	if (!j->in->before.ledger || total < (int64_t)j->opts->native_floor)
		return;
	n = blames_collect(j, heap, mapped, blames);
	for (i = 0; i < n; i++) {
		struct blame *b = &blames[i];
		struct finding *f;
		int64_t measured;

		if (b->bytes < (int64_t)j->opts->native_floor)
			continue;
		f = finding_add(j, b->code, b->library);
		if (!f)
			break;
		snprintf(f->mechanism, sizeof(f->mechanism), "%s",
			 b->way == WAY_MMAP ? "mmap" : "libc");
		measured = way_measured(j, blames, n, b, b->way == WAY_MMAP ? mapped : heap);
		f->bytes = (uint64_t)measured;
		growth_set(j, f, measured);
		named += measured;
		evidence_add(f, total, "bytes", "native memory in use grew (two ledgers)");
		evidence_add(f, b->bytes, "bytes", "of it with stacks through %s", b->library);
		for (k = 0; k < b->n; k++)
			f->stacks[f->n_stacks++] = b->stacks[k];
		confidence_set(f,
			       (double)b->bytes >= j->opts->explained_ratio * (double)total
				       ? CONFIDENCE_HIGH
				       : CONFIDENCE_MEDIUM,
			       "stacks through it explain %.0f%% of the native growth",
			       100.0 * (double)b->bytes / (double)total);
		advice_add(f, "watch it longer: beamray doctor -p %d -d 5m",
			   (int)target_pid(j->in->o->target));
		advice_add(f,
			   "the function at the top of the stack keeps what it allocates: check that "
			   "each path frees it, destructors of resources included");
	}
	if (total - named < (int64_t)j->opts->native_floor ||
	    (double)named >= j->opts->explained_ratio * (double)total)
		return;
	struct finding *f = finding_add(j, FINDING_NATIVE_GROWTH, "unknown");

	if (!f)
		return;
	snprintf(f->mechanism, sizeof(f->mechanism), "%s", mapped > heap ? "mmap" : "libc");
	f->bytes = (uint64_t)(total - named);
	growth_set(j, f, total - named);
	evidence_add(f, heap, "bytes", "libc heap in use grew (two ledgers)");
	evidence_add(f, mapped, "bytes", "anonymous mappings of nobody grew (two ledgers)");
	confidence_set(f, CONFIDENCE_LOW, "%s",
		       j->in->trace.growth ? "growth stacks do not explain it: it went into memory "
					     "that libc already held, which makes no page fault"
		       : j->in->trace.why_missing ? j->in->trace.why_missing
						  : "no stacks were recorded");
	advice_add(f, "watch again, longer: beamray doctor -p %d -d 5m",
		   (int)target_pid(j->in->o->target));
}

static const struct tag_sum *tag_find(const struct carriers *c, const struct tag_sum *like)
{
	size_t i;

	for (i = 0; i < c->n_tags; i++)
		if (c->tags[i].owner_atom == like->owner_atom &&
		    c->tags[i].alloc_type == like->alloc_type &&
		    c->tags[i].block_type == like->block_type && c->tags[i].magic == like->magic)
			return &c->tags[i];
	return NULL;
}

static void tag_mechanism(const struct vm *vm, const struct tag_sum *t, struct finding *f)
{
	const char *type = t->block_type < vm->n_types && vm->type_names[t->block_type]
				   ? vm->type_names[t->block_type]
				   : "";
	const char *mechanism = "enif_alloc";

	if (t->magic)
		mechanism = "resource";
	else if (strcmp(type, "drv_binary") == 0)
		mechanism = "driver_binary";
	else if (strcmp(type, "driver") == 0 || strncmp(type, "drv", 3) == 0)
		mechanism = "driver_alloc";
	snprintf(f->mechanism, sizeof(f->mechanism), "%s", mechanism);
	if (strncmp(mechanism, "driver", 6) == 0)
		f->code = FINDING_DRIVER_LEAK;
}

static void rule_tagged_growth(struct judge *j)
{
	const struct carriers *now = j->in->after.look->carriers, *then;
	struct vm *vm = j->in->o->vm;
	size_t i;

	if (!j->in->before.look)
		return;
	then = j->in->before.look->carriers;
	for (i = 0; i < now->n_tags; i++) {
		const struct tag_sum *t = &now->tags[i], *old = tag_find(then, t);
		int64_t d = (int64_t)(t->bytes - (old ? old->bytes : 0));
		char owner[1100], library[128];
		struct finding *f;

		if (t->owner_atom == UINT64_MAX || d < (int64_t)j->opts->native_floor ||
		    vm_atom(vm, t->owner_atom, owner, sizeof(owner)) < 0 ||
		    strcmp(owner, "system") == 0)
			continue;
		/* a plain refc binary that a NIF made is the VM's data: whoever holds
		 * it is a process, and vm-data will say so */
		if (!t->magic && t->block_type < vm->n_types && vm->type_names[t->block_type] &&
		    strcmp(vm->type_names[t->block_type], "binary") == 0)
			continue;
		if (!j->in->library ||
		    !j->in->library(j->in->library_arg, t->owner_atom, library, sizeof(library)))
			snprintf(library, sizeof(library), "%.120s", owner);
		f = finding_add(j, FINDING_NIF_LEAK, library);
		if (!f)
			return;
		tag_mechanism(vm, t, f);
		if (f->code == FINDING_DRIVER_LEAK)
			snprintf(f->subject, sizeof(f->subject), "%.120s", owner);
		snprintf(f->owner, sizeof(f->owner), "%.180s", owner);
		f->bytes = t->resident ? t->resident : t->bytes;
		growth_set(j, f, d);
		if (t->alloc_type < CARRIER_TYPES)
			j->tagged_growth[t->alloc_type] += d;
		evidence_add(f, d, "bytes", "blocks tagged %.60s, %.40s, grew (two looks)", owner,
			     t->block_type < vm->n_types && vm->type_names[t->block_type]
				     ? vm->type_names[t->block_type]
				     : "?");
		evidence_add(f, (int64_t)t->blocks, "blocks", "live at the end");
		evidence_add(f, (int64_t)(t->blocks - (old ? old->blocks : 0)), "blocks",
			     "more than at the start");
		confidence_set(f, CONFIDENCE_HIGH,
			       "the VM tags every such block with the module or driver that "
			       "allocated it");
		advice_add(f, "inside the node: instrument:allocations(#{histogram_start => 64}).");
		if (t->magic)
			advice_add(f, "resources live as long as a term refers to them: look for a "
				      "process, table or enif_keep_resource that keeps them");
		else
			advice_add(f, "enif_alloc without enif_free on some path of this module");
	}
}

static const struct {
	const char *allocator, *category;
} categories[] = {
	{ "eheap_alloc", "processes" }, { "binary_alloc", "binary" }, { "ets_alloc", "ets" },
	{ "literal_alloc", "literal" }, { "driver_alloc", "driver" }, { "ll_alloc", "code" },
	{ "std_alloc", "system" },	{ "fix_alloc", "processes" }, { "sl_alloc", "system" },
	{ "temp_alloc", "temporary" },	{ "exec_alloc", "code" },
};

static const char *category_of(const char *allocator)
{
	size_t i;

	for (i = 0; i < sizeof(categories) / sizeof(categories[0]); i++)
		if (strcmp(categories[i].allocator, allocator) == 0)
			return categories[i].category;
	return "system";
}

static void data_advice(struct finding *f)
{
	if (strcmp(f->subject, "processes") == 0) {
		advice_add(f, "inside the node: recon:proc_count(memory, 10). and "
			      "recon:proc_count(message_queue_len, 10).");
	} else if (strcmp(f->subject, "binary") == 0) {
		advice_add(f, "inside the node: recon:bin_leak(10). names processes that hold refc "
			      "binaries and rarely collect");
		advice_add(f, "binary:copy/1 for small parts of large binaries that are kept; "
			      "hibernate idle holders");
	} else if (strcmp(f->subject, "ets") == 0) {
		advice_add(f, "inside the node: [{T, ets:info(T, memory)} || T <- ets:all()].");
	} else {
		advice_add(f, "inside the node: erlang:memory(). and "
			      "instrument:allocations().");
	}
}

static void rule_vm_data(struct judge *j)
{
	const struct ledger *now = j->in->after.ledger;
	const struct look *l = j->in->after.look;
	bool tight = l->os.cgroup_limit < SYSTEM_UNLIMITED && l->os.cgroup_limit &&
		     (double)j->rss > j->opts->cgroup_ratio * (double)l->os.cgroup_limit;
	const struct ledger_row *largest = NULL;
	size_t i;

	for (i = 0; i < now->n; i++) {
		const struct ledger_row *r = &now->rows[i];
		const char *name = r->account + strlen("vm.used.");
		int64_t d = grew(j, r->account);
		struct finding *f;
		size_t a;

		if (strncmp(r->account, "vm.used.", 8) != 0)
			continue;
		if (!largest)
			largest = r;
		for (a = 0; a < now->n_allocators && a < CARRIER_TYPES; a++)
			if (strcmp(now->allocators[a].name, name) == 0 &&
			    j->in->after.look->allocators->types[a].type < CARRIER_TYPES)
				d -= j->tagged_growth[j->in->after.look->allocators->types[a].type];
		if (d < (int64_t)j->opts->vm_floor ||
		    (double)d < j->opts->vm_ratio * (double)j->rss)
			continue;
		f = finding_add(j, FINDING_VM_DATA, category_of(name));
		if (!f)
			return;
		f->bytes = r->bytes;
		growth_set(j, f, d);
		evidence_add(f, d, "bytes", "used blocks of %.60s grew (two ledgers)", name);
		evidence_add(f, (int64_t)r->bytes, "bytes", "used by it now");
		confidence_set(f, CONFIDENCE_HIGH, "the VM's own blocks, counted at both ends");
		data_advice(f);
	}
	if (tight && largest && largest->bytes * 2 > j->rss) {
		struct finding *f =
			finding_add(j, FINDING_VM_DATA, category_of(largest->account + 8));

		if (!f)
			return;
		f->bytes = largest->bytes;
		evidence_add(f, (int64_t)j->rss, "bytes", "resident");
		evidence_add(f, (int64_t)l->os.cgroup_limit, "bytes", "limit of the cgroup");
		confidence_set(f, CONFIDENCE_MEDIUM,
			       "used blocks are the larger part of a node near its limit; one look "
			       "does not tell whether they grow");
		data_advice(f);
	}
}

static bool is_held(const struct judge *j, uint64_t bytes)
{
	return bytes >= j->opts->held_floor &&
	       (double)bytes >= j->opts->held_ratio * (double)j->rss;
}

static void rule_fragmentation(struct judge *j)
{
	const struct ledger *g = j->in->after.ledger;
	size_t i, a;

	for (i = 0; i < g->n; i++) {
		const struct ledger_row *r = &g->rows[i];
		const char *name = r->account + strlen("vm.free.");
		uint64_t held = r->bytes - r->lazyfree;
		struct finding *f;

		if (strncmp(r->account, "vm.free.", 8) != 0 || !is_held(j, held))
			continue;
		f = finding_add(j, FINDING_VM_FRAGMENTATION, name);
		if (!f)
			return;
		f->bytes = held;
		if (j->in->before.ledger)
			growth_set(j, f, grew(j, r->account));
		evidence_add(f, (int64_t)r->bytes, "bytes",
			     "resident free space in carriers that hold used blocks");
		evidence_add(f, (int64_t)r->whole_pages, "bytes",
			     "of it in pages without a used byte");
		for (a = 0; a < g->n_allocators; a++) {
			const struct ledger_allocator *s = &g->allocators[a];
			uint64_t used =
				s->mbcs.blocks_size + s->sbcs.blocks_size + s->pool.blocks_size;
			uint64_t size = s->mbcs.carriers_size + s->sbcs.carriers_size +
					s->pool.carriers_size;

			if (strcmp(s->name, name) != 0)
				continue;
			evidence_add(f, (int64_t)used, "bytes", "used blocks (the VM's counters)");
			evidence_add(f, (int64_t)size, "bytes", "carriers (the VM's counters)");
			evidence_add(f, size ? (int64_t)(100 * used / size) : 0, "percent",
				     "utilisation");
			evidence_add(f, (int64_t)s->pool.carriers, "carriers",
				     "abandoned to the pool");
		}
		confidence_set(f, CONFIDENCE_HIGH, "every block of every carrier was read");
		if (strcmp(name, "binary_alloc") == 0) {
			advice_add(f, "what is left in the carriers pins them: long-lived refc "
				      "binaries between short-lived ones; "
				      "recon:bin_leak(10). releases those that wait for a GC");
			advice_add(f,
				   "+MBas aobf (address order best fit) packs low addresses and "
				   "lets high carriers empty; costs a little CPU per allocation");
			advice_add(f, "+MBlmbcs 512 makes carriers smaller, so that they empty "
				      "sooner; costs more carriers");
		} else if (strcmp(name, "eheap_alloc") == 0) {
			advice_add(f, "after a spike of big heaps: erlang:garbage_collect(Pid) on "
				      "large idle processes, or hibernate them");
			advice_add(f,
				   "+MHas aobf, +MHlmbcs 512: smaller carriers that empty sooner");
		} else {
			advice_add(f, "smaller carriers empty sooner: +M<S>lmbcs; address order "
				      "strategies (+M<S>as aobf) pack better");
		}
		advice_add(f, "a rolling restart gives it back at once; the cause stays");
	}
}

static void rule_retained(struct judge *j)
{
	const struct ledger_row *r = ledger_row(j->in->after.ledger, "vm.cache");
	struct finding *f;

	if (!r || !is_held(j, r->bytes))
		return;
	f = finding_add(j, FINDING_VM_RETAINED, "mseg");
	if (!f)
		return;
	f->bytes = r->bytes;
	evidence_add(f, (int64_t)r->bytes, "bytes",
		     "resident in cached segments and carriers without a used block");
	if (r->lazyfree)
		evidence_add(f, (int64_t)r->lazyfree, "bytes", "of it the kernel may take back");
	confidence_set(f, CONFIDENCE_HIGH, "nothing is used in them");
	advice_add(f, "the VM keeps it for the next spike; +MMmcs lowers the number of cached "
		      "segments, +M<S>acul with acful gives free carriers back to the kernel");
}

static void rule_libc(struct judge *j)
{
	const struct look *l = j->in->after.look;
	const struct ledger_row *r = ledger_row(j->in->after.ledger, "native.heap.free");
	uint64_t held = r ? r->bytes - r->lazyfree : 0;
	struct finding *f;
	size_t i;

	if (!r || !is_held(j, held))
		return;
	f = finding_add(j, FINDING_LIBC_FRAGMENTATION, "glibc");
	if (!f)
		return;
	f->bytes = held;
	evidence_add(f, (int64_t)held, "bytes", "free and resident inside libc's heap");
	for (i = 0; l->libc && i < l->libc->n_arenas && i < 4; i++)
		evidence_add(f, (int64_t)l->libc->arenas[i].free_bytes, "bytes",
			     "free in arena %zu (of %llu bytes)", i,
			     (unsigned long long)l->libc->arenas[i].system_mem);
	confidence_set(f, CONFIDENCE_HIGH, "every chunk of the heap was read");
	advice_add(f, "MALLOC_ARENA_MAX=2 limits the arenas, MALLOC_TRIM_THRESHOLD_=131072 gives "
		      "free memory back sooner (both at the node's start)");
}

static void rule_stacks(struct judge *j)
{
	int64_t d = grew(j, "native.stack");
	struct finding *f;

	if (d < (int64_t)j->opts->native_floor)
		return;
	f = finding_add(j, FINDING_THREAD_STACKS, "");
	if (!f)
		return;
	f->bytes = ledger_sum(j->in->after.ledger, "native.stack");
	growth_set(j, f, d);
	evidence_add(f, (int64_t)(j->in->after.look->os.threads - j->in->before.look->os.threads),
		     "threads", "more than at the start");
	confidence_set(f, CONFIDENCE_HIGH, "stacks of threads that the VM did not start");
	advice_add(f, "a NIF starts threads without joining them");
}

/* The second ledger is missing: what grew until the end is known by its stacks
 * alone, and nothing can be claimed from them. */
static void rule_ended(struct judge *j)
{
	const struct profile *p = j->in->trace.growth;
	struct finding *f;
	size_t i;

	if (!j->in->ended)
		return;
	f = finding_add(j, FINDING_INCONCLUSIVE, "the second ledger");
	if (!f)
		return;
	confidence_set(f, CONFIDENCE_LOW, "%s", j->in->ended);
	for (i = 0; p && i < p->n && f->n_stacks < FINDING_STACKS; i++)
		if (p->stacks[i].weight > 0)
			f->stacks[f->n_stacks++] = &p->stacks[i];
	if (p)
		evidence_add(f, profile_total(p), "bytes", "faulted in while it was watched");
}

static int finding_order(const void *pa, const void *pb)
{
	const struct finding *a = pa, *b = pb;
	uint64_t x = a->bytes > a->grew_bytes ? a->bytes : a->grew_bytes;
	uint64_t y = b->bytes > b->grew_bytes ? b->bytes : b->grew_bytes;

	if (a->grew_bytes && (a->code == FINDING_NIF_LEAK || a->code == FINDING_DRIVER_LEAK ||
			      a->code == FINDING_NATIVE_GROWTH || a->code == FINDING_VM_DATA))
		x = a->grew_bytes > a->bytes ? a->grew_bytes : x;
	return x != y ? (x > y ? -1 : 1) : strcmp(a->subject, b->subject);
}

int verdict_make(const struct verdict_input *in, const struct verdict_opts *opts,
		 struct verdict **out)
{
	struct judge j = { .in = in, .opts = opts ? opts : &verdict_defaults };
	struct finding *f;

	*out = NULL;
	j.v = calloc(1, sizeof(*j.v));
	if (!j.v)
		return -ENOMEM;
	j.v->v = calloc(FINDINGS_MAX, sizeof(*j.v->v));
	if (!j.v->v) {
		free(j.v);
		return -ENOMEM;
	}
	j.rss = in->after.ledger->rss;
	j.seconds = in->seconds;

	rule_native_growth(&j);
	rule_tagged_growth(&j); /* before rule_vm_data, which leaves its bytes out */
	rule_vm_data(&j);
	rule_fragmentation(&j);
	rule_retained(&j);
	rule_libc(&j);
	rule_stacks(&j);
	rule_ended(&j);

	if (!j.v->n && !in->after.ledger->complete) {
		f = finding_add(&j, FINDING_INCONCLUSIVE, "ledger");
		evidence_add(f, (int64_t)in->after.ledger->unattributed, "bytes",
			     "could not be attributed");
		confidence_set(f, CONFIDENCE_LOW, "parts of the node could not be read");
		advice_add(f, "beamray check -p %d tells what is missing",
			   (int)target_pid(in->o->target));
	} else if (!j.v->n) {
		f = finding_add(&j, FINDING_HEALTHY, "");
		confidence_set(f, in->before.ledger ? CONFIDENCE_HIGH : CONFIDENCE_MEDIUM, "%s",
			       in->before.ledger ? "two ledgers, nothing above its threshold"
						 : "one look: growth was not watched");
	}
	qsort(j.v->v, j.v->n, sizeof(*j.v->v), finding_order);
	*out = j.v;
	return 0;
}

void verdict_free(struct verdict *v)
{
	if (!v)
		return;
	free(v->v);
	free(v);
}
