/* SPDX-License-Identifier: Apache-2.0 */
/*
 * NIF resources
 *
 *   resource_type_list     ErlNifResourceType          Binary (magic)
 *   (head, in the image)   | next, prev  |             | flags, refc, orig_size |
 *   | next, prev | <-----> | owner       | <-------------- ErtsResource.type    |
 *                          | refc        |             | the library's data     |
 *                          | module name |
 *
 * A resource is a magic binary of binary_alloc with the NIF's data in it; its type
 * says which library destroys it. The type counts its resources and itself once
 * more while its module is loaded (erl_nif.c). So "how many" costs nothing; "how
 * much" takes the walk of all carriers.
 *
 * The list's head is exported up to 27; else any live resource leads into the
 * ring; else the head is recognised among the image's data: the only pair of
 * pointers whose elements lead back to it and are types.
 */
#include "erts/resource.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "erts/anchors_find.h"
#include "erts/list_guard.h"
#include "erts/tag.h"
#include "erts/term.h"

#define TYPES_MAX  65536
#define CANDIDATES 4096 /* pairs of pointers in the image that are looked at */

/* ---- finding the list ------------------------------------------------------ */

static bool is_head(struct vm *vm, uint64_t addr, uint64_t next, uint64_t prev)
{
	const struct layout *l = vm->layout;
	uint64_t back, forth;

	if (next == addr && prev == addr)
		return false; /* an empty list looks like any other */
	return pointer_plausible(next) && pointer_plausible(prev) && !image_holds(vm->exe, next) &&
	       !image_holds(vm->exe, prev) &&
	       !vm_read_field(vm, next, l->ErlNifResourceType__prev, &back) && back == addr &&
	       !vm_read_field(vm, prev, l->ErlNifResourceType__next, &forth) && forth == addr &&
	       tag_type_verify(vm, next) && tag_type_verify(vm, prev);
}

/* The head among the image's writable data; 0 if there is none. */
static int head_search(struct vm *vm, uint64_t *head)
{
	const struct layout *l = vm->layout;
	const int64_t gap = l->ErlNifResourceType__prev.offset - l->ErlNifResourceType__next.offset;
	struct image_copy copy = { .fd = -1 };
	size_t i, tried = 0;
	int ret = image_copy_take(vm->target, vm->maps, vm->exe, &copy, NULL);

	*head = 0;
	for (i = 0; !ret && i < copy.n && !*head; i++) {
		const struct image_piece *p = &copy.v[i];
		uint64_t at, next, prev;

		if (!p->write)
			continue;
		for (at = p->start; at + 16 <= p->end && !*head; at += 8) {
			if (!image_copy_u64(&copy, at, &next) || !pointer_plausible(next) ||
			    !image_copy_u64(&copy, at + (uint64_t)gap, &prev) ||
			    !pointer_plausible(prev) || image_holds(vm->exe, next) ||
			    image_holds(vm->exe, prev) || ++tried > CANDIDATES)
				continue;
			if (is_head(vm, at - (uint64_t)l->ErlNifResourceType__next.offset, next,
				    prev))
				*head = at - (uint64_t)l->ErlNifResourceType__next.offset;
		}
	}
	image_copy_free(&copy);
	return vm_fatal(ret) ? ret : 0;
}

/* Where to begin: the head, or an element of the ring. */
static int start_find(struct vm *vm, const struct resource_types *t, uint64_t *start)
{
	struct image_symbol sym;
	uint64_t next, prev;
	size_t i;

	*start = 0;
	if (!vm->exe)
		return 0;
	if (image_symbol(vm->exe, "resource_type_list", &sym) &&
	    !vm_read_field(vm, sym.addr, vm->layout->ErlNifResourceType__next, &next) &&
	    !vm_read_field(vm, sym.addr, vm->layout->ErlNifResourceType__prev, &prev) &&
	    ((next == sym.addr && prev == sym.addr) || is_head(vm, sym.addr, next, prev))) {
		*start = sym.addr;
		return 0;
	}
	for (i = 0; i < t->n && !*start; i++)
		if (tag_type_verify(vm, t->v[i].addr))
			*start = t->v[i].addr;
	return *start || target_is_buffers(vm->target) ? 0 : head_search(vm, start);
}

/* ---- types ----------------------------------------------------------------- */

static struct resource_type *type_add(struct resource_types *t, uint64_t addr, size_t *allocated)
{
	if (t->n == *allocated) {
		size_t more = *allocated ? *allocated * 2 : 64;
		struct resource_type *v = realloc(t->v, more * sizeof(*v));

		if (!v)
			return NULL;
		t->v = v;
		*allocated = more;
	}
	memset(&t->v[t->n], 0, sizeof(*t->v));
	t->v[t->n].addr = addr;
	return &t->v[t->n++];
}

static int type_fill(struct vm *vm, struct resource_type *one)
{
	const struct layout *l = vm->layout;
	uint64_t refc;
	int ret = vm_read_field(vm, one->addr, l->ErlNifResourceType__module, &one->module);

	if (!ret)
		ret = vm_read_field(vm, one->addr, l->ErlNifResourceType__name, &one->name);
	if (!ret)
		ret = vm_read_field(vm, one->addr, l->ErlNifResourceType__owner, &one->library);
	if (!ret)
		ret = vm_read_field(vm, one->addr, l->ErlNifResourceType__refc, &refc);
	if (ret)
		return vm_fatal(ret) ? ret : -EAGAIN;
	one->live = refc > 1ull << 40 ? UINT64_MAX : refc;
	return term_is_atom(one->module) && term_is_atom(one->name) ? 0 : -EAGAIN;
}

/* Around the ring from `start`; the head is the one that lies in the image. */
static int ring_read(struct vm *vm, uint64_t start, struct resource_types *t, size_t *allocated)
{
	const struct layout *l = vm->layout;
	struct cycle_guard guard = { 0 };
	uint64_t at = start, before = 0, next, prev;
	int ret;

	do {
		struct resource_type *one;

		if (!pointer_plausible(at) || cycle_found(&guard, at) || t->n > TYPES_MAX)
			return -EAGAIN;
		ret = vm_read_field(vm, at, l->ErlNifResourceType__next, &next);
		if (!ret)
			ret = vm_read_field(vm, at, l->ErlNifResourceType__prev, &prev);
		if (ret)
			return vm_fatal(ret) ? ret : -EAGAIN;
		if (before && prev != before)
			return -EAGAIN;
		if (!image_holds(vm->exe, at)) {
			one = (struct resource_type *)resource_types_find(t, at);
			if (!one)
				one = type_add(t, at, allocated);
			if (!one)
				return -ENOMEM;
			one->listed = true;
		}
		before = at;
		at = next;
	} while (at != start);
	return 0;
}

static int by_bytes(const void *a, const void *b)
{
	const struct resource_type *x = a, *y = b;

	if (x->bytes != y->bytes)
		return x->bytes > y->bytes ? -1 : 1;
	if (x->live != y->live)
		return x->live > y->live ? -1 : 1;
	return x->addr < y->addr ? -1 : x->addr > y->addr;
}

static int types_read(struct vm *vm, const struct carriers *c, struct resource_types *t)
{
	size_t allocated = 0, i, kept = 0;
	uint64_t start;
	int ret, tries;

	for (i = 0; c && i < c->n_resources && t->n < TYPES_MAX; i++) {
		struct resource_type *one = type_add(t, c->resources[i].type, &allocated);

		if (!one)
			return -ENOMEM;
		one->found = c->resources[i].blocks;
		one->bytes = c->resources[i].bytes;
		one->resident = c->resources[i].resident;
	}
	ret = start_find(vm, t, &start);
	for (tries = 0; !ret && start && tries < 3; tries++) {
		int around = ring_read(vm, start, t, &allocated);

		if (vm_fatal(around))
			return around;
		t->list_known = true;
		t->torn = around != 0;
		if (!around)
			break;
	}
	for (i = 0; i < t->n && !ret; i++) {
		int good = type_fill(vm, &t->v[i]);

		if (vm_fatal(good))
			return good;
		if (good) /* freed with its last resource, or never a type */
			continue;
		/* the list counts once more while the module has it */
		if (t->v[i].listed && t->v[i].live && t->v[i].live != UINT64_MAX && t->v[i].library)
			t->v[i].live--;
		t->v[kept++] = t->v[i];
	}
	t->n = kept;
	if (t->n)
		qsort(t->v, t->n, sizeof(*t->v), by_bytes);
	return ret;
}

int resource_types_read(struct vm *vm, const struct carriers *c, struct resource_types **out,
			struct error *err)
{
	const struct layout *l = vm->layout;
	struct resource_types *t = NULL;
	int ret = layout_has(l->ErlNifResourceType__next) &&
				  layout_has(l->ErlNifResourceType__prev) &&
				  layout_has(l->ErlNifResourceType__refc)
			  ? 0
			  : -ENOENT;

	*out = NULL;
	if (!ret && !(t = calloc(1, sizeof(*t))))
		ret = -ENOMEM;
	if (!ret)
		ret = types_read(vm, c, t);
	if (ret) {
		resource_types_free(t);
		return error_set(err, ret == -ENOENT ? EXIT_UNSUPPORTED : error_exit_code(ret), ret,
				 "The resource types of this VM could not be read: %s.",
				 strerror(-ret));
	}
	*out = t;
	return 0;
}

void resource_types_free(struct resource_types *t)
{
	if (!t)
		return;
	free(t->v);
	free(t);
}

const struct resource_type *resource_types_find(const struct resource_types *t, uint64_t addr)
{
	size_t i;

	for (i = 0; i < t->n; i++)
		if (t->v[i].addr == addr)
			return &t->v[i];
	return NULL;
}
