/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Native memory: who took it
 *
 * How much grew is measured by the ledgers, as native.heap.used and native.mmap: a
 * leak into memory that libc already holds makes no page fault and no system call.
 * Who did it is told by stacks, of which there are two kinds:
 *
 *   growth   page faults. They see memory that became resident, from the first ledger
 *            on, by whoever touched it first: often long after malloc or mmap returned.
 *   native   malloc and free themselves, from the moment at which they were attached
 *            (when faults had explained too little). They see every piece, but nothing
 *            of what came before.
 *
 * So faults are taken where they explain most of what the ledgers say, and calls of
 * malloc else, scaled to the whole watch. The frame nearest to the leaf that is a NIF's
 * or driver's is to blame; a plain library only when no NIF called it.
 */
#include "ledger/verdict_int.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "target/escape.h"

struct blame {
	char library[128];
	enum finding_code code;
	enum way {
		WAY_LIBC,    /* the stack goes through malloc and its like */
		WAY_MMAP,    /* ... through mmap alone */
		WAY_THREAD,  /* ... through pthread_create */
		WAY_UNKNOWN, /* the page was touched later, by its user */
	} way;
	int64_t bytes;
	const struct profile_stack *stacks[FINDING_STACKS];
	size_t n;
};

static const char *const way_names[] = { "libc", "mmap", "thread", "libc" };

static bool is_driver(const struct judge *j, const char *library)
{
	const struct images *im = j->in->o->images;
	struct image_symbol s;
	char name[128];
	size_t i;

	for (i = 0; im && i < im->n; i++)
		if (strcmp(escape_string(name, sizeof(name), image_name(im->v[i])), library) == 0)
			return image_symbol(im->v[i], "driver_init", &s);
	return false;
}

static enum way way_of(const char *name, enum way before)
{
	if (strstr(name, "pthread_create") || strstr(name, "allocate_stack") ||
	    strstr(name, "start_thread"))
		return WAY_THREAD;
	if (strstr(name, "alloc") || strstr(name, "sbrk") || strstr(name, "strdup") ||
	    strstr(name, "memalign"))
		return WAY_LIBC;
	/* mmap called by malloc is malloc's business */
	if (strstr(name, "mmap") && before == WAY_UNKNOWN)
		return WAY_MMAP;
	return before;
}

/* Walks from the leaf. libc and kernel frames are passed over; the first other
 * native frame decides, except that a NIF or driver above a plain library is
 * the one that called it. The VM's own frames first: not native growth at all
 * (its carriers are in other accounts). */
static bool stack_blame(const struct judge *j, const struct profile_stack *s, struct blame *out)
{
	const struct symbol *library = NULL, *nif = NULL;
	enum way way = WAY_UNKNOWN;
	size_t i;

	for (i = 0; i < s->n; i++) {
		const struct symbol *y = symbols_find(j->in->trace.symbols, s, i);

		if (!y || y->kind == FRAME_REPEAT)
			continue;
		if (y->kind == FRAME_LIBC || y->kind == FRAME_KERNEL) {
			/* a frame of libc nearer to the root than the user's is only who
			 * started the thread */
			if (y->kind == FRAME_LIBC && y->name && !library)
				way = way_of(y->name, way);
			continue;
		}
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
	out->code = !nif			 ? FINDING_NATIVE_GROWTH
		    : is_driver(j, out->library) ? FINDING_DRIVER_LEAK
						 : FINDING_NIF_LEAK;
	out->way = way;
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

/* Calls of malloc by the VM itself, but for carriers: those are memalign'ed and are in
 * accounts of their own. */
static int64_t vm_calls(const struct judge *j, const struct profile *p)
{
	int64_t sum = 0;
	size_t i, k;

	for (i = 0; p && i < p->n; i++) {
		const struct profile_stack *s = &p->stacks[i];
		bool carrier = false, vm = false;

		for (k = 0; k < s->n && !vm; k++) {
			const struct symbol *y = symbols_find(j->in->trace.symbols, s, k);

			if (!y || y->kind == FRAME_REPEAT || y->kind == FRAME_KERNEL)
				continue;
			if (y->kind == FRAME_LIBC)
				carrier |= y->name && strstr(y->name, "memalign");
			else if (y->kind == FRAME_ERTS)
				vm = true;
			else
				break;
		}
		if (vm && !carrier && s->weight > 0)
			sum += s->weight;
	}
	return sum;
}

/* Stacks of a profile by library and way; `way` WAY_UNKNOWN: as the stack says. */
static size_t blames_collect(const struct judge *j, const struct profile *p, enum way way,
			     struct blame *v)
{
	size_t i, n = 0;

	for (i = 0; p && i < p->n; i++) {
		struct blame one;

		if (p->stacks[i].weight <= 0 || !stack_blame(j, &p->stacks[i], &one))
			continue;
		if (way != WAY_UNKNOWN)
			one.way = way;
		blame_add(v, &n, &one);
	}
	return n;
}

static int64_t blames_sum(const struct blame *v, size_t n, enum way way)
{
	int64_t sum = 0;
	size_t i;

	for (i = 0; i < n; i++)
		if (v[i].way == way)
			sum += v[i].bytes;
	return sum;
}

/* A page fault's stack tells who touched the page, often long after malloc or
 * mmap returned. The two ledgers tell where it came from: the heap and the
 * mappings grew by so much each, and what stacks through malloc or mmap have
 * not explained of either is the larger claim to the rest. */
static size_t blames_settle(struct blame *v, size_t n, int64_t heap, int64_t mapped)
{
	struct blame all[BLAMES_MAX];
	size_t i, n_all = n, settled = 0;

	memcpy(all, v, n * sizeof(*v));
	heap -= blames_sum(all, n, WAY_LIBC);
	mapped -= blames_sum(all, n, WAY_MMAP);
	for (i = 0; i < n_all; i++) {
		if (all[i].way == WAY_UNKNOWN) {
			all[i].way = mapped > heap ? WAY_MMAP : WAY_LIBC;
			*(all[i].way == WAY_MMAP ? &mapped : &heap) -= all[i].bytes;
		}
		blame_add(v, &settled, &all[i]);
	}
	return settled;
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

static const char *const heap_accounts[] = { "native.heap.used", NULL };
static const char *const mmap_accounts[] = { "native.mmap", NULL };

static struct finding *blame_report(struct judge *j, const struct blame *b, int64_t measured)
{
	struct finding *f = finding_add(j, b->code, b->library);
	size_t k;

	if (!f)
		return NULL;
	snprintf(f->mechanism, sizeof(f->mechanism), "%s", way_names[b->way]);
	f->bytes = (uint64_t)measured;
	growth_set(j, f, measured);
	for (k = 0; k < b->n; k++)
		f->stacks[f->n_stacks++] = b->stacks[k];
	return f;
}

struct native_case { /* of one judgement */
	const struct rule *rule;
	int64_t heap, mapped; /* by the two ledgers */
	int64_t named_heap, named_mapped;
	struct blame faults[BLAMES_MAX], calls[BLAMES_MAX];
	size_t n_faults, n_calls;
};

/* What faulted in can be more than what an account grew by: some of it was given back
 * to libc, or belongs to another account (a thread's stack). Nobody took more than
 * there is. */
static void blames_cap(struct native_case *n)
{
	int64_t heap = blames_sum(n->faults, n->n_faults, WAY_LIBC);
	int64_t mapped = blames_sum(n->faults, n->n_faults, WAY_MMAP);
	size_t i;

	for (i = 0; i < n->n_faults; i++) {
		struct blame *b = &n->faults[i];
		int64_t all = b->way == WAY_MMAP ? mapped : heap;
		int64_t most = b->way == WAY_MMAP ? n->mapped : n->heap;

		if (b->way != WAY_THREAD && all > most)
			b->bytes =
				most > 0 ? (int64_t)((double)b->bytes / (double)all * (double)most)
					 : 0;
	}
}

/* Mappings, and the heap where faults explain most of it. */
static void report_faults(struct judge *j, struct native_case *n, bool heap)
{
	size_t i;

	for (i = 0; i < n->n_faults; i++) {
		const struct blame *b = &n->faults[i];
		bool mapped = b->way == WAY_MMAP;
		int64_t grew = mapped ? n->mapped : n->heap, measured;
		struct finding *f;

		if (b->way == WAY_THREAD || (!mapped && !heap) ||
		    !rule_reached(j, n->rule, b->bytes))
			continue;
		measured = way_measured(j, n->faults, n->n_faults, b, grew);
		f = blame_report(j, b, measured);
		if (!f)
			return;
		*(mapped ? &n->named_mapped : &n->named_heap) += measured;
		evidence_add(f, grew, "bytes",
			     mapped ? "anonymous mappings of nobody grew (two ledgers)"
				    : "libc heap in use grew (two ledgers)");
		evidence_add(f, b->bytes, "bytes", "of it with stacks of page faults through it");
		confidence_set(f,
			       (double)b->bytes >= j->opts->explained_ratio * (double)grew
				       ? CONFIDENCE_HIGH
				       : CONFIDENCE_MEDIUM,
			       "stacks through it explain %.0f%% of what grew",
			       grew > 0 ? 100.0 * (double)b->bytes / (double)grew : 100.0);
		growth_curve(j, f, moment_accounts, mapped ? mmap_accounts : heap_accounts);
		lost_evidence(j, f);
	}
}

/* What the heap grew by from the moment on at which malloc was watched. */
static int64_t heap_since_attach(const struct judge *j)
{
	const struct verdict_input *in = j->in;
	const struct ledger *from = in->before.ledger;
	size_t i;

	for (i = 0; i < in->n_moments && in->moments[i].at <= in->trace.native_from; i++)
		from = in->moments[i].ledger;
	return (int64_t)(ledger_sum(in->after.ledger, "native.heap.used") -
			 ledger_sum(from, "native.heap.used"));
}

/* What calls of malloc saw stands for what came before, if that is what a steady growth
 * brings in that time, or twice as much: most of what came in a burst before malloc was
 * watched need not be of those who took a little afterwards. */
static double calls_scale(const struct judge *j, const struct native_case *n, int64_t since,
			  int64_t seen, bool *steady)
{
	double watched = j->in->seconds - j->in->trace.native_from, scale = 1;

	if (since > 0 && n->heap > since)
		scale = (double)n->heap / (double)since;
	*steady = scale * watched <= 2 * j->in->seconds;
	if (!*steady)
		scale = watched > 0 ? 2 * j->in->seconds / watched : 1;
	/* more than came in all can nobody have taken */
	if ((double)seen * scale > (double)n->heap)
		scale = (double)n->heap / (double)seen;
	return scale;
}

/* Do page faults tell more of the heap than calls of malloc? */
static bool faults_tell_more(const struct judge *j, const struct native_case *n)
{
	int64_t named = 0, seen;
	bool steady;
	size_t i;

	if (!j->in->trace.native)
		return true;
	for (i = 0; i < n->n_faults; i++)
		if (n->faults[i].way == WAY_LIBC && rule_reached(j, n->rule, n->faults[i].bytes))
			named += n->faults[i].bytes;
	if ((double)named >= j->opts->explained_ratio * (double)n->heap)
		return true;
	seen = blames_sum(n->calls, n->n_calls, WAY_LIBC) + vm_calls(j, j->in->trace.native);
	return seen <= 0 || (double)named > (double)seen * calls_scale(j, n, heap_since_attach(j),
								       seen, &steady);
}

/* The heap, by calls of malloc. */
static void report_calls(struct judge *j, struct native_case *n)
{
	int64_t vm = vm_calls(j, j->in->trace.native);
	int64_t since = heap_since_attach(j);
	int64_t seen = blames_sum(n->calls, n->n_calls, WAY_LIBC) + vm;
	double scale, part;
	bool steady;
	size_t i;

	if (seen <= 0)
		return;
	scale = calls_scale(j, n, since, seen, &steady);
	part = since > 0 ? (double)(seen - j->in->trace.native_then) / (double)since : 0;
	j->vm_native = (int64_t)((double)vm * scale);
	n->named_heap += j->vm_native;
	for (i = 0; i < n->n_calls; i++) {
		const struct blame *b = &n->calls[i];
		int64_t measured = (int64_t)((double)b->bytes * scale);
		struct finding *f;

		/* one that took all that was seen took all that came */
		if (steady && b->bytes * 20 >= seen * 19 && part >= j->opts->explained_ratio)
			measured = n->heap;
		if (!rule_reached(j, n->rule, measured))
			continue;
		f = blame_report(j, b, measured);
		if (!f)
			return;
		n->named_heap += measured;
		evidence_add(f, n->heap, "bytes", "libc heap in use grew (two ledgers)");
		evidence_add(f, blames_sum(n->faults, n->n_faults, WAY_LIBC), "bytes",
			     "of it with stacks of page faults: the rest went into memory that "
			     "libc already held");
		evidence_add(
			f, b->bytes, "bytes",
			"taken through it and not freed since malloc was watched (from %.0f s on)",
			j->in->trace.native_from);
		evidence_add(f, since, "bytes", "libc heap in use grew in that time");
		confidence_set(f,
			       part >= j->opts->explained_ratio && part <= 1.25 ? CONFIDENCE_HIGH
										: CONFIDENCE_MEDIUM,
			       "calls of malloc explain %.0f%% of what the heap grew by while they "
			       "were watched; what came before is taken to be of the same kind",
			       100 * part);
		growth_curve(j, f, moment_accounts, heap_accounts);
		lost_evidence(j, f);
	}
}

static const char *unknown_why(const struct judge *j)
{
	const struct verdict_trace *t = &j->in->trace;

	if (!t->growth)
		return t->why_missing ? t->why_missing : "no stacks were recorded";
	if (t->native_note)
		return t->native_note;
	return "stacks of page faults do not explain it: it went into memory that libc already "
	       "held, which makes no page fault";
}

/* Calls of malloc are watched from a second or two on. What came before, and no more,
 * cannot be named by them; that it stopped is worth knowing. */
static void came_before_attach(struct judge *j, const struct native_case *n, struct finding *f)
{
	int64_t since, before;

	if (!j->in->trace.native)
		return;
	since = heap_since_attach(j);
	before = n->heap - since;
	if (before <= 0)
		return;
	evidence_add(f, before, "bytes",
		     "libc heap in use grew before malloc was watched (from %.0f s on)",
		     j->in->trace.native_from);
	if (since * 10 > before)
		return;
	confidence_set(f, CONFIDENCE_LOW,
		       "it came before malloc was watched (from %.0f s on) and has stopped since, "
		       "so no call was seen to take it",
		       j->in->trace.native_from);
}

static void report_unknown(struct judge *j, struct native_case *n)
{
	int64_t total = n->heap + n->mapped, named = n->named_heap + n->named_mapped;
	bool mapped = n->mapped - n->named_mapped > n->heap - n->named_heap;
	struct finding *f;

	if (!rule_reached(j, n->rule, total - named) ||
	    (double)named >= j->opts->explained_ratio * (double)total)
		return;
	f = finding_add(j, FINDING_NATIVE_GROWTH, "unknown");
	if (!f)
		return;
	snprintf(f->mechanism, sizeof(f->mechanism), "%s", mapped ? "mmap" : "libc");
	f->bytes = (uint64_t)(total - named);
	growth_set(j, f, total - named);
	evidence_add(f, n->heap, "bytes", "libc heap in use grew (two ledgers)");
	evidence_add(f, n->mapped, "bytes", "anonymous mappings of nobody grew (two ledgers)");
	confidence_set(f, CONFIDENCE_LOW, "%.300s", unknown_why(j));
	if (!mapped)
		came_before_attach(j, n, f);
	growth_curve(j, f, moment_accounts, mapped ? mmap_accounts : heap_accounts);
	lost_evidence(j, f);
	lost_groups(j, f);
}

/* The VM's own mallocs. When code was loaded, they are what the JIT keeps of it, and
 * rule_data() has them. */
static void report_vm(struct judge *j, const struct native_case *n)
{
	const struct look *a = j->in->before.look, *b = j->in->after.look;
	struct finding *f;

	if (b->memory.code != UINT64_MAX && a->memory.code != UINT64_MAX &&
	    (int64_t)(b->memory.code - a->memory.code) * 4 > j->vm_native)
		return;
	if (!rule_reached(j, n->rule, j->vm_native))
		return;
	f = finding_add(j, FINDING_NATIVE_GROWTH, "beam.smp");
	if (!f)
		return;
	snprintf(f->mechanism, sizeof(f->mechanism), "libc");
	f->bytes = (uint64_t)j->vm_native;
	growth_set(j, f, j->vm_native);
	j->vm_native = 0;
	evidence_add(f, n->heap, "bytes", "libc heap in use grew (two ledgers)");
	confidence_set(f, CONFIDENCE_MEDIUM,
		       "calls of malloc by the VM itself, while they were "
		       "watched");
}

void rule_native(struct judge *j, const struct rule *r)
{
	struct native_case *n = calloc(1, sizeof(*n));
	bool by_faults;

	if (!n)
		return;
	n->rule = r;
	n->heap = ledger_grew(j, "native.heap.used");
	n->mapped = ledger_grew(j, "native.mmap");
	if (rule_reached(j, r, n->heap + n->mapped)) {
		n->n_faults = blames_collect(j, j->in->trace.growth, WAY_UNKNOWN, n->faults);
		n->n_faults = blames_settle(n->faults, n->n_faults, n->heap, n->mapped);
		blames_cap(n);
		n->n_calls = blames_collect(j, j->in->trace.native, WAY_LIBC, n->calls);
		by_faults = faults_tell_more(j, n);
		report_faults(j, n, by_faults);
		if (!by_faults)
			report_calls(j, n);
		report_vm(j, n);
		report_unknown(j, n);
	}
	free(n);
}

void verdict_so_far(const struct verdict_input *in, int64_t *grew, int64_t *explained)
{
	struct judge j = { .in = in, .opts = &verdict_defaults };
	struct blame *v = calloc(BLAMES_MAX, sizeof(*v));
	size_t n;

	*grew = ledger_grew(&j, "native.heap.used");
	*explained = 0;
	if (!v)
		return;
	n = blames_collect(&j, in->trace.growth, WAY_UNKNOWN, v);
	n = blames_settle(v, n, *grew, ledger_grew(&j, "native.mmap"));
	*explained = blames_sum(v, n, WAY_LIBC);
	free(v);
}

/* ---- stacks of threads ------------------------------------------------------------------ */

static bool is_vm_thread(const struct look *l, uint64_t pthread)
{
	size_t i;

	for (i = 0; i < l->n_threads; i++)
		if (l->threads[i].pthread == pthread)
			return true;
	return false;
}

/* The library of most threads that were not there at the start, by the function that
 * they began in; else by who was seen to create threads. */
static void stacks_owner(const struct judge *j, char *buf, size_t size, struct finding *f)
{
	const struct look *now = j->in->after.look, *then = j->in->before.look;
	struct {
		const struct image *im;
		uint64_t n;
	} seen[BLAMES_MAX];
	struct blame blames[BLAMES_MAX];
	size_t n = 0, i, k, best = 0, n_blames;

	buf[0] = 0;
	for (i = 0; i < now->n_stacks; i++) {
		const struct libc_stack *s = &now->stacks[i];
		const struct image *im =
			s->start_routine ? images_find(j->in->o->images, s->start_routine) : NULL;

		for (k = 0; k < then->n_stacks && then->stacks[k].pthread != s->pthread; k++)
			;
		if (k < then->n_stacks || !im || is_vm_thread(now, s->pthread) ||
		    im == j->in->o->vm->exe)
			continue;
		for (k = 0; k < n && seen[k].im != im; k++)
			;
		if (k == BLAMES_MAX)
			continue;
		if (k == n) {
			seen[n].im = im;
			seen[n++].n = 0;
		}
		if (++seen[k].n > seen[best].n)
			best = k;
	}
	if (n) {
		escape_string(buf, size, image_name(seen[best].im));
		evidence_add(f, (int64_t)seen[best].n, "threads",
			     "of the new ones began in a function of it");
	}
	n_blames = blames_collect(j, j->in->trace.growth, WAY_UNKNOWN, blames);
	for (i = 0; i < n_blames; i++) {
		if (blames[i].way != WAY_THREAD || (buf[0] && strcmp(blames[i].library, buf) != 0))
			continue;
		if (!buf[0])
			snprintf(buf, size, "%.127s", blames[i].library);
		for (k = 0; k < blames[i].n && f->n_stacks < FINDING_STACKS; k++)
			f->stacks[f->n_stacks++] = blames[i].stacks[k];
	}
}

void rule_stacks(struct judge *j, const struct rule *r)
{
	static const char *const accounts[] = { "native.stack", NULL };
	int64_t d = ledger_grew(j, "native.stack");
	char library[128];
	struct finding *f;

	if (!rule_reached(j, r, d))
		return;
	f = finding_add(j, FINDING_THREAD_STACKS, "");
	if (!f)
		return;
	snprintf(f->mechanism, sizeof(f->mechanism), "thread");
	f->bytes = ledger_sum(j->in->after.ledger, "native.stack");
	growth_set(j, f, d);
	evidence_add(f,
		     (int64_t)j->in->after.look->os.threads -
			     (int64_t)j->in->before.look->os.threads,
		     "threads", "more than at the start");
	stacks_owner(j, library, sizeof(library), f);
	snprintf(f->subject, sizeof(f->subject), "%s", library);
	confidence_set(f, library[0] ? CONFIDENCE_HIGH : CONFIDENCE_MEDIUM, "%s",
		       library[0] ? "stacks of threads that the VM did not start"
				  : "stacks of threads that the VM did not start; whose they are "
				    "was not seen");
	growth_curve(j, f, moment_accounts, accounts);
}
