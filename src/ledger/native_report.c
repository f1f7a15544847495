/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From nodes to rows: memory by owner, lost blocks by size.
 */
#include "ledger/native_int.h"

#include <elf.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "target/escape.h"

#define TLS_BYTES	8192 /* of thread variables that are searched below struct pthread */
#define CANDIDATES	4
#define ROWS_BY_SIZE	4    /* blocks that hint at an owner of their size, at least */
#define HINTED		64   /* groups that are compared with all blocks of their size */
#define SIGSTKSZ_LEAST	8192 /* sysdeps/unix/sysv/linux/sysconf-sigstksz.h; SIGSTKSZ before */
#define AT_MINSIGSTKSZ_ 51

/* ---- which threads use which arena ------------------------------------------------- */

static unsigned arena_at(const struct libc_heap *h, uint64_t addr)
{
	size_t i;

	for (i = 0; addr && i < h->n_arenas; i++)
		if (h->arenas[i].addr == addr)
			return (unsigned)i + 1;
	return 0;
}

/* The thread variable that points to the thread's arena has no symbol: it is
 * the place where most threads have the address of one. */
int arenas_threads(struct scan *s)
{
	const struct look *l = s->l;
	unsigned *votes = calloc(TLS_BYTES / 8, sizeof(*votes));
	uint64_t tls[TLS_BYTES / 8];
	size_t i, k, best = 0;
	unsigned pass;

	s->thread_arena = calloc(l->n_stacks ? l->n_stacks : 1, sizeof(*s->thread_arena));
	if (!votes || !s->thread_arena) {
		free(votes);
		return -ENOMEM;
	}
	for (pass = 0; pass < 2; pass++)
		for (i = 0; i < l->n_stacks && !s->fatal; i++) {
			uint64_t from = l->stacks[i].pthread - TLS_BYTES;
			ssize_t got;

			if (!l->stacks[i].tid || from < l->stacks[i].start)
				continue;
			got = residency_read(l->res, s->o->target, from, tls, sizeof(tls));
			if (got == -ESRCH || got == -ETIMEDOUT)
				s->fatal = (int)got;
			if (got <= 0)
				continue;
			if (pass) {
				s->thread_arena[i] = arena_at(l->libc, tls[best]);
				continue;
			}
			for (k = 0; k < TLS_BYTES / 8; k++)
				if (arena_at(l->libc, tls[k]) && ++votes[k] > votes[best])
					best = k;
		}
	free(votes);
	return s->fatal;
}

static void threads_of(const struct scan *s, unsigned arena, char *buf, size_t size)
{
	const char *names[3];
	size_t i, k, n = 0, all = 0, len;

	buf[0] = '\0';
	for (i = 0; i < s->l->n_stacks; i++) {
		if (s->thread_arena[i] != arena + 1)
			continue;
		all++;
		for (k = 0; k < s->n_threads && n < 3; k++)
			if (s->threads[k].tid == s->l->stacks[i].tid)
				names[n++] = s->threads[k].comm;
	}
	for (k = 0; k < n; k++) {
		char name[3 * sizeof(s->threads[0].comm)];

		escape_string(name, sizeof(name), names[k]);
		len = strlen(buf);
		snprintf(buf + len, size - len, "%s%s", k ? ", " : "", name);
	}
	len = strlen(buf);
	if (all > n && n)
		snprintf(buf + len, size - len, " and %zu more", all - n);
	if (!n && !arena)
		snprintf(buf, size, "the first thread");
}

/* ---- signal stacks ------------------------------------------------------------------- */

/* What sysconf(_SC_SIGSTKSZ) says in the target: four times the kernel's least. */
static uint64_t signal_stack_bytes(const struct scan *s)
{
	Elf64_auxv_t v[64];
	uint64_t least = 0;
	ssize_t n;
	int fd = target_proc_open(s->o->target, "auxv");
	size_t i;

	if (fd < 0)
		return SIGSTKSZ_LEAST;
	n = read(fd, v, sizeof(v));
	close(fd);
	for (i = 0; n > 0 && i < (size_t)n / sizeof(v[0]); i++)
		if (v[i].a_type == AT_MINSIGSTKSZ_)
			least = v[i].a_un.a_val;
	if (least > 1U << 24)
		return SIGSTKSZ_LEAST;
	return least * 4 > SIGSTKSZ_LEAST ? least * 4 : SIGSTKSZ_LEAST;
}

static uint64_t usable(uint64_t asked)
{
	return ((asked + 8 + 15) & ~15ULL) - 8;
}

/* The VM gives each of its threads a signal stack, to which only the kernel
 * points (sys_drivers.c, sigaltstack()). The thread allocates it itself, so
 * that it lies in its arena: a lost block of exactly that size is one of them,
 * as long as there are no more in an arena than threads of the VM that use it. */
void lost_excuse(struct scan *s, struct native *out)
{
	const uint64_t sizes[2] = { usable(signal_stack_bytes(s)), usable(SIGSTKSZ_LEAST) };
	const size_t n_arenas = s->l->libc->n_arenas;
	uint64_t *left = calloc(n_arenas + 1, sizeof(*left));
	size_t i;

	if (!left)
		return;
	for (i = 0; i < s->l->n_stacks; i++)
		if (s->l->stacks[i].tid && s->thread_arena[i] && stack_is_vm(s, &s->l->stacks[i]))
			left[s->thread_arena[i] - 1]++;
	left[0]++; /* the first thread: it has no stack of glibc's */
	for (i = 0; i < s->g.n; i++) {
		struct node *n = &s->g.v[i];

		if (!(n->flags & NODE_LOST) || n->arena >= n_arenas || !left[n->arena] ||
		    (n->bytes != sizes[0] && n->bytes != sizes[1]))
			continue;
		left[n->arena]--;
		n->flags &= ~NODE_LOST & NODE_FLAGS;
		n->flags |= NODE_EXCUSED;
		if (n->owner == OWNER_NONE) {
			n->owner = s->vm_owner;
			n->evidence = NATIVE_VM;
		}
		out->excused++;
		out->excused_bytes += n->bytes + 8;
	}
	free(left);
}

/* ---- rows ---------------------------------------------------------------------------- */

static const char *owner_name(const struct scan *s, unsigned owner)
{
	return owner == OWNER_NONE ? "" : s->owners[owner].name;
}

static uint64_t whole_start(const struct node *n)
{
	return n->flags & NODE_MMAP ? n->addr : (uint64_t)n->addr - CHUNK_HEADER;
}

/* Header included; the word of the next header that a chunk may use is that one's. */
static uint64_t whole_bytes(const struct node *n)
{
	return n->flags & NODE_MMAP	? (uint64_t)n->bytes
	       : n->arena == ARENA_NONE ? (uint64_t)n->bytes + CHUNK_HEADER
					: (uint64_t)n->bytes + 8;
}

static uint64_t resident_of(const struct scan *s, const struct node *n)
{
	uint64_t start = whole_start(n);

	return residency_bytes(s->l->res, start, start + whole_bytes(n));
}

static size_t row_index(const struct node *n)
{
	return ((size_t)n->owner * NATIVE_EVIDENCES + n->evidence) * NATIVE_MECHANISMS +
	       (n->flags & NODE_MMAP ? NATIVE_MMAP : NATIVE_LIBC);
}

static int by_row_bytes(const void *a, const void *b)
{
	const struct native_row *x = a, *y = b;

	if (x->bytes != y->bytes)
		return x->bytes > y->bytes ? -1 : 1;
	return strcmp(x->owner, y->owner);
}

static void stack_rows(const struct scan *s, struct native_row *table, uint64_t *resident)
{
	size_t i, k;

	for (i = 0; i < s->l->n_stacks; i++) {
		const struct libc_stack *st = &s->l->stacks[i];
		size_t owner = OWNER_NONE;
		struct native_row *r;

		if (stack_is_vm(s, st))
			continue;
		for (k = 0; st->start_routine && k < s->o->images->n; k++)
			if (image_holds(s->o->images->v[k], st->start_routine))
				owner = OWNER_FIRST + k;
		r = &table[(owner * NATIVE_EVIDENCES + (owner ? NATIVE_THREAD : NATIVE_NO_EVIDENCE)) *
				   NATIVE_MECHANISMS +
			   NATIVE_STACK];
		r->chunks++;
		r->bytes += st->end - st->start;
		r->resident += residency_bytes(s->l->res, st->start, st->end);
		*resident += residency_bytes(s->l->res, st->start, st->end);
	}
}

static int rows_make(const struct scan *s, struct native *out)
{
	size_t n = s->n_owners * NATIVE_EVIDENCES * NATIVE_MECHANISMS, i, kept = 0;
	struct native_row *table = calloc(n, sizeof(*table));
	uint64_t explained = 0;

	if (!table)
		return -ENOMEM;
	for (i = 0; i < s->g.n; i++) {
		const struct node *node = &s->g.v[i];
		struct native_row *r = &table[row_index(node)];
		uint64_t resident = resident_of(s, node);

		r->chunks++;
		r->bytes += whole_bytes(node);
		r->resident += resident;
		explained += resident;
		if (node->flags & NODE_LOST) {
			r->lost++;
			r->lost_bytes += whole_bytes(node);
		}
		if (node->flags & NODE_MMAP)
			out->used_resident += resident;
	}
	for (i = 0; i < s->l->libc->n_regions; i++)
		out->used_resident += s->l->libc->regions[i].used_resident;
	stack_rows(s, table, &explained);
	for (i = 0; i < n; i++)
		if (i % NATIVE_MECHANISMS == NATIVE_STACK)
			out->used_resident += table[i].resident;
	out->bookkeeping = out->used_resident > explained ? out->used_resident - explained : 0;
	for (i = 0; i < n; i++) {
		struct native_row *r = &table[i];
		size_t owner = i / NATIVE_MECHANISMS / NATIVE_EVIDENCES;

		if (!r->chunks)
			continue;
		snprintf(r->owner, sizeof(r->owner), "%s", owner_name(s, (unsigned)owner));
		r->class = s->owners[owner].class;
		r->evidence = (enum native_evidence)(i / NATIVE_MECHANISMS % NATIVE_EVIDENCES);
		r->mechanism = (enum native_mechanism)(i % NATIVE_MECHANISMS);
		table[kept++] = *r;
	}
	qsort(table, kept, sizeof(*table), by_row_bytes);
	out->rows = table;
	out->n_rows = kept;
	return 0;
}

/* ---- lost blocks by size ------------------------------------------------------------- */

static int by_group(const void *pa, const void *pb, void *arg)
{
	const struct graph *g = arg;
	const struct node *a = &g->v[*(const uint32_t *)pa], *b = &g->v[*(const uint32_t *)pb];

	if (a->owner != b->owner)
		return a->owner < b->owner ? -1 : 1;
	if (a->evidence != b->evidence)
		return a->evidence < b->evidence ? -1 : 1;
	if ((a->flags & NODE_MMAP) != (b->flags & NODE_MMAP))
		return a->flags & NODE_MMAP ? 1 : -1;
	if (a->bytes != b->bytes)
		return a->bytes < b->bytes ? -1 : 1;
	return (int)a->arena - (int)b->arena;
}

static bool same_group(const struct node *a, const struct node *b)
{
	return a->owner == b->owner && a->evidence == b->evidence && a->bytes == b->bytes &&
	       (a->flags & NODE_MMAP) == (b->flags & NODE_MMAP);
}

/* Whose blocks of this size are, when most of those with an owner are one NIF's:
 * a hint. */
static uint16_t size_owner(const struct scan *s, uint64_t size)
{
	uint32_t *count = calloc(s->n_owners, sizeof(*count)), all = 0;
	uint16_t best = OWNER_NONE;
	size_t i;

	if (!count)
		return OWNER_NONE;
	for (i = 0; i < s->g.n; i++)
		if (whole_bytes(&s->g.v[i]) == size && s->g.v[i].owner != OWNER_NONE) {
			all++;
			if (++count[s->g.v[i].owner] > count[best])
				best = s->g.v[i].owner;
		}
	if (all < ROWS_BY_SIZE || count[best] * 10ULL < all * 9ULL || best == OWNER_SEVERAL ||
	    (s->owners[best].class != NATIVE_CLASS_NIF &&
	     s->owners[best].class != NATIVE_CLASS_DRIVER))
		best = OWNER_NONE;
	free(count);
	return best;
}

static bool calls_malloc(const struct image *i)
{
	static const char *const names[] = { "malloc",	       "calloc",   "realloc", "strdup",
					     "posix_memalign", "memalign", "_Znwm",   "_Znam",
					     "aligned_alloc",  NULL };

	return image_imports(i, names);
}

/* "a.so, b.so and 3 more": NIFs and drivers that import malloc. */
static void importers(const struct scan *s, char *buf, size_t size)
{
	size_t i, n = 0, len = 0;

	buf[0] = '\0';
	for (i = OWNER_FIRST; i < s->n_owners; i++) {
		const struct owner *o = &s->owners[i];

		if ((o->class != NATIVE_CLASS_NIF && o->class != NATIVE_CLASS_DRIVER) ||
		    !o->image || !calls_malloc(o->image))
			continue;
		if (n++ < CANDIDATES)
			len += (size_t)snprintf(buf + len, len < size ? size - len : 0, "%s%.30s",
						n > 1 ? ", " : "", o->name);
		if (len >= size)
			len = size - 1;
	}
	if (n > CANDIDATES)
		snprintf(buf + len, size - len, " and %zu more", n - CANDIDATES);
	len = strlen(buf);
	if (n)
		snprintf(buf + len, size - len, " (can call malloc)");
}

static void group_add(const struct scan *s, const uint32_t *v, size_t n, const char *who,
		      struct native_lost *out)
{
	const struct node *first = &s->g.v[v[0]];
	size_t i, run = 0, best = 0;
	unsigned last = UINT32_MAX;

	snprintf(out->owner, sizeof(out->owner), "%s", owner_name(s, first->owner));
	out->class = s->owners[first->owner].class;
	out->evidence = (enum native_evidence)first->evidence;
	out->mechanism = first->flags & NODE_MMAP ? NATIVE_MMAP : NATIVE_LIBC;
	out->size = whole_bytes(first);
	out->count = n;
	out->bytes = out->size * n;
	for (i = 0; i < n; i++) {
		const struct node *node = &s->g.v[v[i]];

		out->resident += resident_of(s, node);
		if (node->arena == ARENA_NONE)
			continue;
		if (node->arena != last) {
			last = node->arena;
			out->arenas++;
			run = 0;
		}
		if (++run > best) {
			best = run;
			out->arena = last;
		}
	}
	if (out->arenas)
		threads_of(s, out->arena, out->threads, sizeof(out->threads));
	if (first->owner == OWNER_NONE && !(first->flags & NODE_MMAP))
		snprintf(out->candidates, sizeof(out->candidates), "%s", who);
}

static int by_lost_bytes(const void *a, const void *b)
{
	const struct native_lost *x = a, *y = b;

	if (x->bytes != y->bytes)
		return x->bytes > y->bytes ? -1 : 1;
	return (x->size > y->size) - (x->size < y->size);
}

static int groups_make(const struct scan *s, struct native *out)
{
	uint32_t *v;
	char who[sizeof(out->lost[0].candidates)];
	size_t i, from, n = 0;

	for (i = 0; i < s->g.n; i++)
		n += (s->g.v[i].flags & NODE_LOST) != 0;
	v = malloc((n ? n : 1) * sizeof(*v));
	if (!v)
		return -ENOMEM;
	for (i = 0, n = 0; i < s->g.n; i++)
		if (s->g.v[i].flags & NODE_LOST)
			v[n++] = (uint32_t)i;
	qsort_r(v, n, sizeof(*v), by_group, (void *)&s->g);
	for (i = 0, from = 0; i < n; i++)
		if (!i || !same_group(&s->g.v[v[i - 1]], &s->g.v[v[i]]))
			from++;
	out->lost = calloc(from ? from : 1, sizeof(*out->lost));
	if (!out->lost) {
		free(v);
		return -ENOMEM;
	}
	importers(s, who, sizeof(who));
	for (from = 0; from < n; from = i) {
		for (i = from + 1; i < n && same_group(&s->g.v[v[from]], &s->g.v[v[i]]); i++)
			;
		group_add(s, v + from, i - from, who, &out->lost[out->n_lost]);
		out->lost_count += out->lost[out->n_lost].count;
		out->lost_bytes += out->lost[out->n_lost].bytes;
		out->lost_resident += out->lost[out->n_lost++].resident;
	}
	qsort(out->lost, out->n_lost, sizeof(*out->lost), by_lost_bytes);
	for (i = 0; i < out->n_lost && i < HINTED; i++) {
		struct native_lost *g = &out->lost[i];
		uint16_t hint = !*g->owner && g->mechanism == NATIVE_LIBC ? size_owner(s, g->size)
									  : OWNER_NONE;

		if (hint != OWNER_NONE)
			snprintf(g->candidates, sizeof(g->candidates),
				 "%.60s (most blocks of this size with an owner are its own)",
				 s->owners[hint].name);
	}
	free(v);
	return 0;
}

int report_make(struct scan *s, struct native *out)
{
	int ret = rows_make(s, out);

	return ret ? ret : groups_make(s, out);
}
