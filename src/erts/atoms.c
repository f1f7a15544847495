/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which atoms grow
 *
 * Nodes that run into the atom limit make atoms of data: user_17, session-9f3a,
 * one for every request. What they have in common is their beginning. Sorted by
 * text, the atoms of a prefix stand together, and the prefixes are the inner nodes
 * of a tree:
 *
 *	"" ---+--- "user_" ---+--- "user_1" ...    each a tenth of user_
 *	      |               +--- "user_2" ...
 *	      +--- "erl_" ...
 *
 * A node is a pattern when many atoms are below it and none of its branches holds
 * most of them: there the data begins. It is reported, and what is below it is
 * not; from a node that is no pattern the search goes down every heavy branch. Beginnings
 * of one or two bytes say nothing and are always gone through.
 */
#include "erts/atoms.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "erts/anchors_find.h"
#include "erts/vm_cache.h"
#include "target/escape.h"

#define ATOMS_MAX    (1ull << 26) /* more than MAX_ATOM_INDEX lets there be is a lie */
#define TEXT_MAX     1020	  /* 255 characters of four bytes */
#define PREFIX_MIN   3		  /* bytes */
#define PREFIXES_MAX 200
#define CACHE_PAGES  2048
#define FORGET_EVERY 4096 /* atoms */

struct text {
	uint32_t at; /* into the heap of texts */
	uint32_t index;
	uint16_t len;
};

struct reading {
	struct vm *vm;
	struct atoms *out;
	char *heap;
	size_t heap_len, heap_size;
	struct text *v;
	size_t n;
	uint64_t least;
	size_t allocated_prefixes;
	int error;
};

int atoms_count(struct vm *vm, uint64_t *count, uint64_t *limit)
{
	uint64_t table = vm->anchors.v[A_ATOM_TABLE].addr;
	int ret;

	if (!table)
		return -ENOENT;
	ret = vm_read_field(vm, table, vm->layout->IndexTable__entries, count);
	if (!ret)
		ret = vm_read_field(vm, table, vm->layout->IndexTable__limit, limit);
	return ret;
}

static int text_add(struct reading *r, uint64_t index)
{
	char raw[TEXT_MAX];
	ssize_t len = vm_atom_raw(r->vm, index, raw, sizeof(raw));

	if (len < 0) {
		if (len == -ESRCH || len == -ETIMEDOUT || len == -EPERM)
			return (int)len;
		r->out->unreadable++;
		return 0;
	}
	if (r->heap_size - r->heap_len < (size_t)len) {
		size_t more = r->heap_size * 2 + 65536;
		char *heap = more > UINT32_MAX ? NULL : realloc(r->heap, more);

		if (!heap)
			return -ENOMEM;
		r->heap = heap;
		r->heap_size = more;
	}
	if (len)
		memcpy(r->heap + r->heap_len, raw, (size_t)len);
	r->v[r->n++] = (struct text){ (uint32_t)r->heap_len, (uint32_t)index, (uint16_t)len };
	r->heap_len += (size_t)len;
	r->out->bytes += (uint64_t)len + r->vm->layout->size_Atom;
	return 0;
}

static int by_text(const void *pa, const void *pb, void *ctx)
{
	const struct reading *r = ctx;
	const struct text *a = pa, *b = pb;
	size_t n = a->len < b->len ? a->len : b->len;
	int order = memcmp(r->heap + a->at, r->heap + b->at, n);

	return order ? order : (a->len > b->len) - (a->len < b->len);
}

static size_t common(const struct reading *r, size_t lo, size_t hi)
{
	const struct text *a = &r->v[lo], *b = &r->v[hi - 1];
	size_t n = a->len < b->len ? a->len : b->len, i;

	for (i = 0; i < n && r->heap[a->at + i] == r->heap[b->at + i]; i++)
		;
	return i;
}

static char *escaped(const char *raw, size_t len)
{
	char safe[8 * TEXT_MAX];

	escape_text(safe, sizeof(safe), raw, len);
	return strdup(safe);
}

static void report(struct reading *r, size_t lo, size_t hi, size_t len)
{
	struct atoms *a = r->out;
	struct atom_prefix *p;
	const struct text *newest = &r->v[lo];
	size_t i;

	/* not in the middle of a character */
	while (len && ((unsigned char)r->heap[r->v[lo].at + len] & 0xc0) == 0x80 &&
	       len < r->v[lo].len)
		len--;
	if (a->n_prefixes == PREFIXES_MAX)
		return;
	p = &a->prefixes[a->n_prefixes];
	memset(p, 0, sizeof(*p));
	for (i = lo; i < hi; i++) {
		p->count++;
		p->bytes += r->v[i].len + r->vm->layout->size_Atom;
		if (r->v[i].index > newest->index)
			newest = &r->v[i];
	}
	p->newest = newest->index;
	p->prefix = escaped(r->heap + r->v[lo].at, len);
	p->example = escaped(r->heap + newest->at, newest->len);
	a->n_prefixes++;
	if (!p->prefix || !p->example)
		r->error = -ENOMEM;
}

/* The end of the branch at `lo`: atoms with the same byte at `len`. */
static size_t branch_end(const struct reading *r, size_t lo, size_t hi, size_t len)
{
	size_t at = lo, step;
	int byte = r->v[lo].len > len ? (unsigned char)r->heap[r->v[lo].at + len] : -1;

	for (step = hi - lo; step; step /= 2)
		while (at + step <= hi) {
			const struct text *t = &r->v[at + step - 1];
			int b = t->len > len ? (unsigned char)r->heap[t->at + len] : -1;

			if (b != byte)
				break;
			at += step;
		}
	return at;
}

static void descend(struct reading *r, size_t lo, size_t hi)
{
	size_t len, at, end, largest = 0;

	if (hi - lo < r->least || r->error)
		return;
	len = common(r, lo, hi);
	for (at = lo; at < hi; at = end) {
		end = branch_end(r, at, hi, len);
		if (end == at) /* cannot be: a branch has its first atom */
			return;
		if (end - at > largest)
			largest = end - at;
	}
	if (len >= PREFIX_MIN && largest < (hi - lo) - (hi - lo) / 3) {
		report(r, lo, hi, len);
		return;
	}
	for (at = lo; at < hi; at = end) {
		end = branch_end(r, at, hi, len);
		/* one that goes no further is a single atom */
		if (end - at >= r->least && r->v[end - 1].len > len)
			descend(r, at, end);
	}
}

static int by_count(const void *pa, const void *pb)
{
	const struct atom_prefix *a = pa, *b = pb;

	return a->count != b->count ? (a->count > b->count ? -1 : 1) : strcmp(a->prefix, b->prefix);
}

static int by_length(const void *pa, const void *pb)
{
	const struct text *a = pa, *b = pb;

	return a->len != b->len ? (a->len > b->len ? -1 : 1)
				: (a->index > b->index) - (a->index < b->index);
}

static int largest(struct reading *r, size_t n)
{
	struct atoms *a = r->out;
	size_t i;

	n = n < r->n ? n : r->n;
	a->largest = calloc(n ? n : 1, sizeof(*a->largest));
	if (!a->largest)
		return -ENOMEM;
	qsort(r->v, r->n, sizeof(*r->v), by_length);
	for (i = 0; i < n; i++) {
		a->largest[i] = (struct atom_large){ r->v[i].index, r->v[i].len,
						     escaped(r->heap + r->v[i].at, r->v[i].len) };
		a->n_largest++;
		if (!a->largest[i].text)
			return -ENOMEM;
	}
	return 0;
}

static int read_all(struct reading *r, size_t n_largest)
{
	struct atoms *a = r->out;
	uint64_t i;
	int ret = 0;

	r->v = malloc((a->end - a->first + 1) * sizeof(*r->v));
	a->prefixes = calloc(PREFIXES_MAX, sizeof(*a->prefixes));
	if (!r->v || !a->prefixes)
		return -ENOMEM;
	for (i = a->first; i < a->end && !ret; i++) {
		if (i % FORGET_EVERY == 0)
			vm_cache_forget(r->vm->cache);
		ret = text_add(r, i);
	}
	if (ret)
		return ret;
	qsort_r(r->v, r->n, sizeof(*r->v), by_text, r);
	if (r->least < r->n / 50)
		r->least = r->n / 50;
	if (r->least < 2)
		r->least = 2;
	descend(r, 0, r->n);
	if (a->n_prefixes)
		qsort(a->prefixes, a->n_prefixes, sizeof(*a->prefixes), by_count);
	return r->error ? r->error : largest(r, n_largest);
}

int atoms_read(struct vm *vm, uint64_t first, uint64_t end, uint64_t least, size_t n_largest,
	       struct atoms **out, struct error *err)
{
	struct reading r = { .vm = vm, .least = least };
	struct vm_cache *before = vm->cache, *cache;
	uint64_t count, limit;
	int ret = atoms_count(vm, &count, &limit);

	*out = NULL;
	if (!ret && (count > ATOMS_MAX || count > limit || first > count))
		ret = -EFAULT;
	if (ret)
		return error_set(err, ret == -ENOENT ? EXIT_UNSUPPORTED : error_exit_code(ret), ret,
				 "The atom table of this VM could not be found or read.");
	r.out = calloc(1, sizeof(*r.out));
	cache = vm_cache_new(CACHE_PAGES);
	ret = r.out && cache ? 0 : -ENOMEM;
	if (!ret) {
		r.out->first = first;
		r.out->end = end < count ? end : count;
		if (r.out->end < first)
			r.out->end = first;
		vm->cache = cache;
		ret = read_all(&r, n_largest);
		vm->cache = before;
	}
	vm_cache_free(cache);
	free(r.heap);
	free(r.v);
	if (ret) {
		atoms_free(r.out);
		return error_set(err, error_exit_code(ret), ret, "Atoms could not be read: %s.",
				 strerror(-ret));
	}
	*out = r.out;
	return 0;
}

void atoms_free(struct atoms *a)
{
	size_t i;

	if (!a)
		return;
	for (i = 0; i < a->n_prefixes; i++) {
		free(a->prefixes[i].prefix);
		free(a->prefixes[i].example);
	}
	for (i = 0; i < a->n_largest; i++)
		free(a->largest[i].text);
	free(a->prefixes);
	free(a->largest);
	free(a);
}
