/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Libraries with native code
 *
 * NIFs: every module that has some points to an erl_module_nif with a copy of the
 * library's ErlNifEntry in it (natives.c has the picture). Drivers: a list,
 * driver_list, whose head no release exports; every port points to its driver,
 * which is an element, so from any port both ends can be reached
 * (erl_driver.h, io.c).
 *
 * Which file one came from is decided by where its functions lie. What of the VM's
 * memory it has asked for is in the tags (tag.c) under the module's or the driver's
 * name; what it got from malloc() the VM does not know.
 */
#include "erts/nif_library.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "erts/list_guard.h"
#include "erts/natives.h"
#include "target/escape.h"

#define LIBRARIES_MAX 8192
#define FUNCTIONS_MAX 4096
#define NAMES_BYTES   4096

struct nif_func { /* public since NIF 2.7 (erl_nif.h) */
	uint64_t name;
	uint32_t arity, pad;
	uint64_t fptr;
	uint32_t flags, pad2;
};

struct reading {
	struct vm *vm;
	struct native_libraries *n;
	size_t allocated;
};

static struct native_library *library_add(struct reading *r, uint64_t addr)
{
	struct native_libraries *n = r->n;

	if (n->n == r->allocated) {
		size_t more = r->allocated ? r->allocated * 2 : 32;
		struct native_library *v = realloc(n->v, more * sizeof(*v));

		if (!v)
			return NULL;
		n->v = v;
		r->allocated = more;
	}
	memset(&n->v[n->n], 0, sizeof(*n->v));
	n->v[n->n].addr = addr;
	n->v[n->n].atom = UINT64_MAX;
	return &n->v[n->n++];
}

static struct native_library *library_find(struct reading *r, uint64_t addr)
{
	size_t i;

	for (i = 0; i < r->n->n; i++)
		if (r->n->v[i].addr == addr)
			return &r->n->v[i];
	return NULL;
}

/* The file that holds `addr`; "" if none does. */
static char *path_of(struct vm *vm, uint64_t addr)
{
	const struct image *im = addr ? images_find(vm->images, addr) : NULL;
	const struct mapping *m = addr && vm->maps ? mappings_find(vm->maps, addr) : NULL;
	char text[1024] = "";

	if (m && m->kind == MAPPING_FILE && m->path[0])
		escape_string(text, sizeof(text), m->path);
	else if (im)
		escape_string(text, sizeof(text), image_name(im));
	return strdup(text);
}

/* ---- NIFs ------------------------------------------------------------------ */

static int functions_read(struct vm *vm, uint64_t entry, struct native_library *one)
{
	const struct layout *l = vm->layout;
	char raw[260], text[1100], all[NAMES_BYTES] = "";
	uint64_t n = 0, funcs = 0, i, first = 0;
	struct nif_func f;
	size_t at = 0;
	bool full = false;

	if (l->size_ErlNifFunc != sizeof(f) ||
	    vm_read_field(vm, entry, l->ErlNifEntry__num_of_funcs, &n) ||
	    vm_read_field(vm, entry, l->ErlNifEntry__funcs, &funcs) || n > FUNCTIONS_MAX)
		n = 0;
	one->functions = (uint32_t)n;
	for (i = 0; i < n; i++) {
		int ret = vm_read(vm, funcs + i * sizeof(f), &f, sizeof(f));

		if (vm_fatal(ret))
			return ret;
		if (ret)
			break;
		first = first ? first : f.fptr;
		if (full || vm_read_string(vm, f.name, raw, sizeof(raw)) <= 0)
			continue;
		escape_string(text, sizeof(text), raw);
		full = at + strlen(text) + 16 > sizeof(all);
		at += (size_t)snprintf(all + at, sizeof(all) - at, "%s%s", at ? " " : "",
				       full ? "..." : text);
		if (!full)
			at += (size_t)snprintf(all + at, sizeof(all) - at, "/%" PRIu32, f.arity);
	}
	if (!first)
		vm_read_field(vm, entry, l->ErlNifEntry__load, &first);
	one->function_names = strdup(all);
	one->path = path_of(vm, first);
	return one->function_names && one->path ? 0 : -ENOMEM;
}

static int nif_found(void *ctx, uint64_t nif, uint64_t module, bool old)
{
	struct reading *r = ctx;
	const struct layout *l = r->vm->layout;
	struct native_library *one = library_find(r, nif);
	char text[1100];

	if (one) {
		one->old &= old;
		return 0;
	}
	if (r->n->n >= LIBRARIES_MAX || vm_atom(r->vm, module, text, sizeof(text)) < 0)
		return 0;
	one = library_add(r, nif);
	if (!one)
		return -ENOMEM;
	one->atom = module;
	one->old = old;
	one->name = strdup(text);
	vm_read_field(r->vm, nif, l->erl_module_nif__refc, &one->refc);
	return one->name
		       ? functions_read(r->vm, nif + (uint64_t)l->erl_module_nif__entry.offset, one)
		       : -ENOMEM;
}

/* ---- drivers --------------------------------------------------------------- */

static int driver_found(struct reading *r, uint64_t addr)
{
	const struct layout *l = r->vm->layout;
	char raw[256], text[1100];
	uint64_t name, code = 0;
	struct native_library *one;
	int ret = vm_read_field(r->vm, addr, l->erts_driver_t__name, &name);

	if (ret || vm_read_string(r->vm, name, raw, sizeof(raw)) <= 0)
		return vm_fatal(ret) ? ret : -EAGAIN;
	one = library_add(r, addr);
	if (!one)
		return -ENOMEM;
	escape_string(text, sizeof(text), raw);
	one->driver = true;
	one->name = strdup(text);
	one->function_names = strdup("");
	/* any of its callbacks: not all drivers have all */
	vm_read_field(r->vm, addr, l->erts_driver_t__start, &code);
	if (!code)
		vm_read_field(r->vm, addr, l->erts_driver_t__output, &code);
	one->path = path_of(r->vm, code);
	return one->name && one->function_names && one->path ? 0 : -ENOMEM;
}

/* The whole list, from one of its elements on in one direction. */
static int drivers_follow(struct reading *r, uint64_t from, bool backwards)
{
	const struct layout *l = r->vm->layout;
	struct cycle_guard guard = { 0 };
	uint64_t at = from, before = 0, next, prev;
	int ret = 0;

	while (at && !ret) {
		if (!pointer_plausible(at) || cycle_found(&guard, at) || r->n->n >= LIBRARIES_MAX)
			return -EAGAIN;
		ret = vm_read_field(r->vm, at, l->erts_driver_t__next, &next);
		if (!ret)
			ret = vm_read_field(r->vm, at, l->erts_driver_t__prev, &prev);
		if (ret)
			return vm_fatal(ret) ? ret : -EAGAIN;
		if (before && (backwards ? next : prev) != before)
			return -EAGAIN;
		if (!library_find(r, at))
			ret = driver_found(r, at);
		before = at;
		at = backwards ? prev : next;
	}
	return ret;
}

static int drivers_add(struct reading *r, const struct ports *p)
{
	const struct layout *l = r->vm->layout;
	struct native_library *one;
	uint64_t driver;
	size_t i;
	int ret;

	for (i = 0; i < p->n; i++) {
		if (vm_read_field(r->vm, p->v[i].addr, l->Port__drv_ptr, &driver) ||
		    !pointer_plausible(driver))
			continue;
		one = library_find(r, driver);
		if (!one) {
			/* the first shows all; one that is not in the list by now shows itself */
			ret = drivers_follow(r, driver, false);
			if (ret == 0)
				ret = drivers_follow(r, driver, true);
			if (ret && vm_fatal(ret))
				return ret;
			r->n->drivers_torn |= ret != 0;
			one = library_find(r, driver);
		}
		if (one)
			one->ports++;
	}
	return 0;
}

/* ---- bytes ----------------------------------------------------------------- */

static void bytes_add(struct reading *r, const struct carriers *c)
{
	char text[1100];
	size_t i, k;

	for (i = 0; i < c->n_tags; i++) {
		const struct tag_sum *t = &c->tags[i];

		if (t->owner_atom == UINT64_MAX ||
		    vm_atom(r->vm, t->owner_atom, text, sizeof(text)) < 0)
			continue;
		for (k = 0; k < r->n->n; k++) {
			struct native_library *one = &r->n->v[k];

			if (one->driver ? strcmp(one->name, text) != 0 : one->atom != t->owner_atom)
				continue;
			one->blocks += t->blocks;
			one->bytes += t->bytes;
			one->resident += t->resident;
			break;
		}
	}
}

static int by_bytes(const void *a, const void *b)
{
	const struct native_library *x = a, *y = b;

	if (x->bytes != y->bytes)
		return x->bytes > y->bytes ? -1 : 1;
	return strcmp(x->name, y->name);
}

int native_libraries_read(struct vm *vm, const struct carriers *c, const struct ports *p,
			  struct native_libraries **out, struct error *err)
{
	struct reading r = { .vm = vm, .n = calloc(1, sizeof(*r.n)) };
	int ret = r.n ? natives_each_nif(vm, nif_found, &r) : -ENOMEM;

	*out = NULL;
	if (!ret && p)
		ret = drivers_add(&r, p);
	if (ret) {
		native_libraries_free(r.n);
		return error_set(err, error_exit_code(ret), ret,
				 "The libraries of this VM could not be read: %s.", strerror(-ret));
	}
	if (c)
		bytes_add(&r, c);
	if (r.n->n)
		qsort(r.n->v, r.n->n, sizeof(*r.n->v), by_bytes);
	*out = r.n;
	return 0;
}

void native_libraries_free(struct native_libraries *n)
{
	size_t i;

	if (!n)
		return;
	for (i = 0; i < n->n; i++) {
		free(n->v[i].name);
		free(n->v[i].path);
		free(n->v[i].function_names);
	}
	free(n->v);
	free(n);
}
