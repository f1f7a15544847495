/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Native memory from one still image
 *
 * Memory that a NIF or a library got from malloc or mmap before anybody watched
 * has no tag and no stack. What can be known of it lies in pointers:
 *
 *      roots                         blocks
 *   | .data of a NIF |---> | table | ---> | entry | ---> | entry |    kept: the NIF's
 *   | resource, tag  |---> | state |                                  kept: the NIF's
 *   | thread stack   |---> | work  |                                  kept
 *                          | vtable of the NIF's |                    lost, but the NIF's
 *                          | bytes |   | bytes |                      lost, nobody's name
 *
 * A block that no pointer leads to, from any root over any number of blocks, is
 * lost: its program cannot free it any more. That is looked up twice, a tenth of
 * a second apart, since a pointer may be on its way from a place that was not
 * yet read to one that was: lost is what was unreachable both times, is still in
 * use, and has not changed (nobody can write what nobody points to). Pointers
 * into the middle of a block count. What may look like a pointer by chance keeps
 * a lost block from being found, never the other way round.
 *
 * The other way round there are three dangers, and each is said when it is met:
 * pages in swap are not read, so what only they point to seems lost; a heap that
 * could not be walked whole hides blocks; and a program may hide its pointers
 * (compress, mask, keep them in a file). The kernel alone knows of signal
 * stacks: these are excused by a rule (native_report.c).
 *
 * Whose a block is follows from what it holds and from what leads to it
 * (native_owner.c). Plain bytes that nobody points to have no name: then there
 * are only hints, the size, the arena and its threads.
 *
 * Nothing of the target is kept: both passes go through one window
 * (native_read.c), and what stays is a table of blocks and a list of edges
 * (native_graph.c), some 100 bytes a block. Roots are in native_roots.c.
 */
#include "ledger/native.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "ledger/native_int.h"
#include "target/escape.h"

#define PAUSE_S		  0.1
#define SCAN_SECONDS	  600
#define BYTES_PER_SECOND  2.5e9 /* reading and looking up, on a slow machine */
#define CHUNKS_PER_SECOND 1.5e6 /* walking them and telling whose they are */

/* A block that the first look did not find reachable. */
struct candidate {
	uint64_t addr, bytes;
	uint32_t hash;
};

struct candidates {
	struct candidate *v;
	size_t n;
};

void native_note(struct scan *s, const char *fmt, ...)
{
	char raw[512], *text = malloc(1024);
	char **bigger = realloc(s->notes, (s->n_notes + 1) * sizeof(*bigger));
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(raw, sizeof(raw), fmt, ap);
	va_end(ap);
	if (bigger)
		s->notes = bigger;
	if (!bigger || !text) {
		free(text);
		s->fatal = -ENOMEM;
		return;
	}
	s->notes[s->n_notes++] = escape_string(text, 1024, raw);
}

/* ---- anonymous mappings ---------------------------------------------------------- */

static int by_start(const void *a, const void *b)
{
	const struct range *x = a, *y = b;

	return (x->start > y->start) - (x->start < y->start);
}

/* Everything that belongs to somebody. */
static int taken_collect(const struct scan *s, struct range_list *t)
{
	const struct look *l = s->l;
	size_t i, j, n;
	int ret = 0;

	for (i = 0; i < s->o->images->n; i++) {
		const struct image_segment *seg = image_segments(s->o->images->v[i], &n);

		for (j = 0; j < n; j++)
			ret |= range_add_single(t, seg[j].start, seg[j].end);
	}
	for (i = 0; i < l->n_stacks; i++)
		ret |= range_add_single(t, l->stacks[i].start, l->stacks[i].end);
	for (i = 0; i < l->libc->n_regions; i++)
		ret |= range_add_single(t, l->libc->regions[i].start, l->libc->regions[i].end);
	for (i = 0; i < l->ranges->n; i++)
		ret |= range_add_single(t, l->ranges->v[i].start, l->ranges->v[i].end);
	for (i = 0; i < l->carriers->n; i++)
		ret |= range_add_single(t, l->carriers->v[i].addr,
					l->carriers->v[i].addr + l->carriers->v[i].size);
	if (t->n)
		qsort(t->v, t->n, sizeof(*t->v), by_start);
	return ret ? -ENOMEM : 0;
}

/* What is left of anonymous mappings is somebody's own mmap. */
static int mmaps_add(struct scan *s)
{
	struct range_list t = { 0 };
	const struct mappings *m = s->l->maps;
	size_t i, j = 0;
	int ret = taken_collect(s, &t);

	for (i = 0; i < m->n && !ret; i++) {
		uint64_t at = m->v[i].start, end = m->v[i].end;

		if (m->v[i].kind != MAPPING_ANON || !m->v[i].read || !m->v[i].write)
			continue;
		while (j < t.n && t.v[j].end <= at)
			j++;
		for (size_t k = j; at < end && !ret; k++) {
			uint64_t stop = k < t.n && t.v[k].start < end ? t.v[k].start : end;

			if (stop > at && residency_bytes(s->l->res, at, stop))
				ret = graph_node_add(&s->g, at, stop - at, ARENA_NONE, NODE_MMAP);
			if (k >= t.n || t.v[k].start >= end)
				break;
			if (t.v[k].end > at)
				at = t.v[k].end;
		}
	}
	free(t.v);
	return ret;
}

/* ---- one look --------------------------------------------------------------------- */

/* Without its own allocators (+Mea min) the VM's structures, and through them all
 * that NIFs gave it, lie in libc's heap. */
static bool vm_apart(const struct look *l)
{
	size_t i;

	for (i = 0; i < l->allocators->n_types; i++)
		if (!strcmp(l->allocators->types[i].name, "driver_alloc"))
			return l->allocators->types[i].alloc_util;
	return false;
}

static int scan_run(void *arg)
{
	struct scan *s = arg;
	struct error err = { 0 };
	int ret;

	s->buf = malloc(TARGET_READ_MAX);
	if (!s->buf)
		return -ENOMEM;
	s->o->vm->res = s->l->res;
	ret = natives_read(s->o->vm, &s->natives, &err);
	s->o->vm->res = NULL;
	s->vm_apart = vm_apart(s->l);
	if (!ret)
		ret = owners_make(s);
	if (!ret)
		ret = mmaps_add(s);
	if (!ret)
		ret = graph_index(&s->g, s->l->carriers, s->l->libc, s->o->images);
	/* Blocks first: a pointer that moves meanwhile mostly moves from a stack into
	 * a block, and stacks are read after that. */
	if (!ret)
		ret = scan_nodes(s);
	if (!ret) { /* stack pointers, just before stacks are read */
		ssize_t n = system_threads(s->o->target, &s->threads);

		s->n_threads = n > 0 ? (size_t)n : 0;
		ret = n == -ENOMEM ? -ENOMEM : 0;
	}
	if (!ret)
		ret = roots_scan(s);
	return ret ? ret : graph_mark(&s->g);
}

/* Process heaps and tables hold terms, and binary_alloc and driver_alloc tags. */
static void types_find(struct scan *s)
{
	const struct vm *vm = s->o->vm;
	unsigned i;

	for (i = 0; i < vm->n_alloc && i < ALLOC_TYPES; i++) {
		const char *name = vm->alloc_names[i] ? vm->alloc_names[i] : "";

		if (!strcmp(name, "eheap_alloc") || !strcmp(name, "ets_alloc"))
			s->g.term_types |= 1U << i;
		if (!strcmp(name, "binary_alloc") || !strcmp(name, "driver_alloc"))
			s->g.tagged_types |= 1U << i;
	}
}

static void scan_close(struct scan *s)
{
	size_t i;

	graph_free(&s->g);
	look_free(s->l);
	natives_free(s->natives);
	free(s->owners);
	free(s->threads);
	free(s->thread_arena);
	free(s->buf);
	for (i = 0; i < s->n_notes; i++)
		free(s->notes[i]);
	free(s->notes);
	free(s);
}

/* A failure while reading often is the target's end: then it says that. */
static int scan_failed(struct target *t, int ret, struct error *err)
{
	struct error gone = { 0 };

	if (target_check(t, &gone) < 0)
		return error_set(err, gone.code, -ESRCH, "%s", gone.text);
	return error_set(err, error_exit_code(ret), ret,
			 "reading the native memory of process %d failed: %s", (int)target_pid(t),
			 strerror(-ret));
}

/* Takes a look and reads what it shows. On -ETIMEDOUT the scan is given up, not
 * freed: a thread may still use it. */
static int scan_take(struct observer *o, struct scan **out, struct error *err)
{
	struct scan *s = calloc(1, sizeof(*s));
	struct look_visitor visitor = { graph_block, graph_chunk, graph_gap, s ? &s->g : NULL };
	struct look_opts opts = { .visitor = &visitor };
	int ret;

	*out = NULL;
	if (!s)
		return error_set(err, error_exit_code(-ENOMEM), -ENOMEM, "no memory");
	s->o = o;
	types_find(s);
	ret = look_take(o, &opts, &s->l, err);
	if (ret == 0 && s->l->libc->is_glibc && s->l->libc->walked)
		ret = target_guard(o->target, scan_run, s, SCAN_SECONDS, err);
	if (ret == -ETIMEDOUT)
		return ret;
	if (ret == 0)
		ret = target_check(o->target, err);
	if (ret < 0) {
		scan_close(s);
		return scan_failed(o->target, ret, err);
	}
	*out = s;
	return 0;
}

/* ---- two looks ------------------------------------------------------------------- */

static int candidates_take(const struct graph *g, struct candidates *c)
{
	size_t i, n = 0;

	for (i = 0; i < g->n; i++)
		n += !(g->v[i].flags & NODE_REACHED);
	c->v = malloc((n ? n : 1) * sizeof(*c->v));
	if (!c->v)
		return -ENOMEM;
	for (i = 0; i < g->n; i++)
		if (!(g->v[i].flags & NODE_REACHED))
			c->v[c->n++] = (struct candidate){ .addr = g->v[i].addr,
							   .bytes = g->v[i].bytes,
							   .hash = g->hash[i] };
	return 0;
}

/* Both are sorted by address. */
static void lost_mark(struct graph *g, const struct candidates *c, bool mmaps)
{
	size_t i, j = 0;

	for (i = 0; i < g->n; i++) {
		struct node *n = &g->v[i];

		while (j < c->n && c->v[j].addr < n->addr)
			j++;
		if (j < c->n && c->v[j].addr == n->addr && c->v[j].bytes == n->bytes &&
		    c->v[j].hash == g->hash[i] && !(n->flags & NODE_REACHED) &&
		    (mmaps || !(n->flags & NODE_MMAP)))
			n->flags |= NODE_LOST;
	}
}

/* Why what is not reachable need not be lost. */
static void doubts(struct scan *s, struct native *out)
{
	uint64_t swapped = residency_swapped(s->l->res), torn = 0;
	const struct libc_heap *h = s->l->libc;
	size_t i;

	out->lost_proved = true;
	if (swapped) {
		out->lost_proved = false;
		native_note(s,
			    "%llu bytes are in swap and were not read: what only they point to "
			    "seems lost here, and may not be",
			    (unsigned long long)swapped);
	}
	for (i = 0; i < h->n_arenas; i++)
		torn += !h->arenas[i].heaps;
	if (torn) {
		out->lost_proved = false;
		native_note(s, "%llu of %zu malloc arenas could not be walked: %s",
			    (unsigned long long)torn, h->n_arenas, h->why);
	} else if (h->why[0]) {
		native_note(s, "of malloc's own proofs one failed: %s", h->why);
	}
	if (s->g.gaps.n)
		native_note(s,
			    "the libc heap changed while it was walked: %zu places were passed over",
			    s->g.gaps.n);
	if (s->g.edges_cut)
		native_note(s, "there are more pointers than beamray remembers: some lost blocks "
			       "may pass for reachable, and some owners are missing");
	if (!s->l->ranges->mseg_known)
		native_note(s, "mappings are not judged: %s", s->l->ranges->why);
}

static void refused(struct scan *s, struct native *out)
{
	const struct libc_heap *h = s->l->libc;

	out->complete = false;
	if (!h->is_glibc)
		native_note(s,
			    "malloc is served by %s: beamray walks the heap of glibc only, so it "
			    "cannot say what is lost or whose it is",
			    h->malloc_name[0] ? h->malloc_name : "an unknown library");
	else
		native_note(s, "the libc heap could not be walked: %s", h->why);
}

static void blocks_tell(const struct scan *s, const struct native_opts *opts)
{
	size_t i;

	for (i = 0; opts && opts->block && i < s->g.n; i++) {
		const struct node *n = &s->g.v[i];

		opts->block(opts->arg, n->addr, n->bytes,
			    n->owner == OWNER_NONE ? "" : s->owners[n->owner].name,
			    (enum native_evidence)n->evidence, (n->flags & NODE_LOST) != 0);
	}
}

static double seconds(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

struct comparison {	/* lives on when its thread is stuck */
	struct scan *s; /* of the second look */
	struct candidates c;
	struct native *out;
};

/* What two looks tell. Reads samples of blocks once more. */
static int conclude(void *arg)
{
	struct comparison *j = arg;
	struct scan *s = j->s;
	int ret;

	lost_mark(&s->g, &j->c, s->l->ranges->mseg_known);
	ret = owners_spread(s);
	if (!ret)
		ret = arenas_threads(s);
	if (!ret) {
		lost_excuse(s, j->out);
		doubts(s, j->out);
		ret = report_make(s, j->out);
	}
	j->out->nodes = s->g.n;
	j->out->edges = s->g.n_edges;
	j->out->gone_bytes = s->gone;
	return ret ? ret : s->fatal;
}

static void pause_between(double wanted)
{
	double s = wanted > 0 ? wanted : PAUSE_S;
	struct timespec t = { .tv_sec = (time_t)s,
			      .tv_nsec = (long)((s - (double)(time_t)s) * 1e9) };

	while (nanosleep(&t, &t) < 0 && errno == EINTR)
		;
}

static bool scan_good(const struct scan *s)
{
	return s && s->l->libc->is_glibc && s->l->libc->walked;
}

/* From the first look, which it closes, to the end. On -ETIMEDOUT what `j` holds
 * must stay. */
static int compare(struct observer *o, struct comparison *j, const struct native_opts *opts,
		   struct error *err)
{
	struct native *n = j->out;
	int ret = candidates_take(&j->s->g, &j->c);

	n->heap_walked = true;
	n->own_bytes = graph_bytes(&j->s->g);
	scan_close(j->s);
	j->s = NULL;
	if (ret < 0)
		return ret;
	pause_between(opts ? opts->pause_s : 0);
	ret = scan_take(o, &j->s, err);
	if (ret < 0)
		return ret;
	if (!scan_good(j->s))
		return -EAGAIN;
	ret = target_guard(o->target, conclude, j, SCAN_SECONDS, err);
	if (ret < 0)
		return ret;
	blocks_tell(j->s, opts);
	if (graph_bytes(&j->s->g) > n->own_bytes)
		n->own_bytes = graph_bytes(&j->s->g);
	n->own_bytes += j->c.n * sizeof(*j->c.v);
	return 0;
}

int native_scan(struct observer *o, const struct native_opts *opts, struct native **out,
		struct error *err)
{
	double wall = seconds(CLOCK_MONOTONIC), cpu = seconds(CLOCK_PROCESS_CPUTIME_ID);
	struct comparison *j = calloc(1, sizeof(*j));
	struct native *n = calloc(1, sizeof(*n));
	struct target_io before, after;
	int ret = j && n ? 0 : -ENOMEM;

	*out = NULL;
	target_io(o->target, &before);
	if (ret == 0) {
		n->complete = true;
		j->out = n;
		ret = scan_take(o, &j->s, err);
	}
	if (ret == 0 && scan_good(j->s))
		ret = compare(o, j, opts, err);
	else if (ret == 0 && j->s)
		refused(j->s, n);
	if (ret == -ETIMEDOUT && n->heap_walked) {
		static struct comparison *abandoned; /* its thread may still use it */

		abandoned = j;
		(void)abandoned;
		return ret;
	}
	if (ret == -ETIMEDOUT) {
		native_free(n);
		free(j);
		return ret;
	}
	if (ret == 0 && j->s) {
		n->notes = j->s->notes;
		n->n_notes = j->s->n_notes;
		j->s->notes = NULL;
		j->s->n_notes = 0;
		target_io(o->target, &after);
		n->read_bytes = after.read_bytes - before.read_bytes;
		n->seconds = seconds(CLOCK_MONOTONIC) - wall;
		n->cpu_seconds = seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu;
		*out = n;
	} else {
		native_free(n);
		ret = scan_failed(o->target, ret, err);
	}
	if (j) {
		if (j->s)
			scan_close(j->s);
		free(j->c.v);
	}
	free(j);
	return ret;
}

double native_scan_estimate(const struct look *l)
{
	double bytes = 0, chunks = 0;
	size_t i;

	if (l->quick || !l->libc)
		return 0;
	for (i = 0; i < l->carriers->n; i++)
		bytes += (double)l->carriers->v[i].used_resident;
	for (i = 0; i < l->libc->n_regions; i++)
		bytes += (double)l->libc->regions[i].used_resident;
	for (i = 0; i < l->libc->n_arenas; i++)
		chunks += (double)(l->libc->arenas[i].chunks_used + l->libc->arenas[i].chunks_free);
	/* each look also takes what the one that was given took */
	return 2 * (l->seconds + bytes / BYTES_PER_SECOND + chunks / CHUNKS_PER_SECOND) + PAUSE_S;
}

void native_free(struct native *n)
{
	size_t i;

	if (!n)
		return;
	for (i = 0; i < n->n_notes; i++)
		free(n->notes[i]);
	free(n->notes);
	free(n->rows);
	free(n->lost);
	free(n);
}

const char *native_evidence_name(enum native_evidence e)
{
	static const char *const names[NATIVE_EVIDENCES] = { "none",	"content", "data", "tag",
							     "library", "thread",  "vm" };

	return names[e];
}

const char *native_class_name(enum native_class c)
{
	static const char *const names[] = { "unknown", "nif", "driver", "library", "vm" };

	return names[c];
}

const char *native_mechanism_name(enum native_mechanism m)
{
	static const char *const names[NATIVE_MECHANISMS] = { "libc", "mmap", "stack" };

	return names[m];
}

const char *native_confidence(enum native_evidence e)
{
	switch (e) {
	case NATIVE_CONTENT:
	case NATIVE_DATA:
	case NATIVE_TAG:
		return "high";
	case NATIVE_LIBRARY:
	case NATIVE_THREAD:
	case NATIVE_VM:
		return "medium";
	default:
		return "low";
	}
}
