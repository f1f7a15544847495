/* SPDX-License-Identifier: Apache-2.0 */
/*
 *   module_tables[code index]        Module              erl_module_nif
 *   +-----------+    seg_table       +-----------+       +--------------------+
 *   | IndexTable|---> [ ] ---> [ ]-->| module    |       | entry: ErlNifEntry |
 *   +-----------+   of 1024 each     | curr.nif --------->|   num_of_funcs   |
 *                                    | old.nif   |       |   funcs  --------------> ErlNifFunc[]
 *                                    +-----------+       +--------------------+     name, arity, fptr
 *
 * Three module tables rotate with the code index; all three are read, since
 * only the union of them is sure to hold everything that can be on a stack.
 * ErlNifEntry and ErlNifFunc are public interfaces (erl_nif.h); the VM converts
 * libraries built for older ones when it loads them, so one form is enough.
 */
#include "erts/natives.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "target/escape.h"

#define TABLES		3     /* ERTS_NUM_CODE_IX */
#define SEGMENT		1024u /* INDEX_PAGE_SIZE, index.h */
#define MODULES_MAX	(1u << 16)
#define FUNCTIONS_MAX	4096u	   /* of one NIF library */
#define NIF_MODULES_MAX 4096u	   /* with NIFs */
#define NATIVES_MAX	(1u << 18) /* looked at, whether they are good or not */
#define BIFS_MAX	4096u
#define ATOM_TAG	0x0bu
#define NAME_MAX_	2200

/* Public since NIF 2.7 (erl_nif.h). */
struct nif_func {
	uint64_t name;
	uint32_t arity, pad;
	uint64_t fptr;
	uint32_t flags, pad2;
};

struct building {
	struct vm *vm;
	struct native_function *v;
	size_t *names; /* offsets: strings moves while it grows */
	size_t n, allocated;
	char *strings;
	size_t n_strings, a_strings;
	uint64_t *seen; /* erl_module_nif addresses */
	size_t n_seen;
	struct native_private *privates; /* one for each of seen that has functions */
	size_t n_privates;
	size_t looked;
};

/* Only these end everything; whatever else fails costs one name. */
static bool is_fatal(int ret)
{
	return ret == -ENOMEM || ret == -ESRCH || ret == -ETIMEDOUT;
}

static int add(struct building *b, uint64_t addr, const char *name, bool nif)
{
	size_t len = strlen(name) + 1;

	if (!addr || b->n >= NATIVES_MAX)
		return 0;
	if (b->n == b->allocated) {
		size_t more = b->allocated ? b->allocated * 2 : 256;
		void *v = realloc(b->v, more * sizeof(*b->v)), *names;

		if (!v)
			return -ENOMEM;
		b->v = v;
		names = realloc(b->names, more * sizeof(*b->names));
		if (!names)
			return -ENOMEM;
		b->names = names;
		b->allocated = more;
	}
	if (b->n_strings + len > b->a_strings) {
		size_t more = b->a_strings * 2 + 4096;
		char *s = realloc(b->strings, more);

		if (!s)
			return -ENOMEM;
		b->strings = s;
		b->a_strings = more;
	}
	memcpy(b->strings + b->n_strings, name, len);
	b->names[b->n] = b->n_strings;
	b->n_strings += len;
	/* name: until the strings stay where they are, its place in order */
	b->v[b->n] = (struct native_function){ .addr = addr, .nif = nif };
	b->n++;
	return 0;
}

/* Escaped text of an atom, quoted if its syntax asks for it. */
static void quote(char *dst, size_t size, const char *text)
{
	const char *p = text;

	if (*p >= 'a' && *p <= 'z')
		for (; *p; p++)
			if (!((*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') ||
			      (*p >= '0' && *p <= '9') || *p == '_' || *p == '@'))
				break;
	snprintf(dst, size, *p || p == text ? "'%s'" : "%s", text);
}

static bool atom(struct vm *vm, uint64_t term, char *buf, size_t size)
{
	char text[NAME_MAX_ / 2];

	if ((term & 0x3f) != ATOM_TAG || vm_atom(vm, term >> 6, text, sizeof(text)) < 0)
		return false;
	quote(buf, size, text);
	return true;
}

static int add_nif(struct building *b, uint64_t nif, const char *module)
{
	const struct layout *l = b->vm->layout;
	uint64_t entry = nif + (uint64_t)l->erl_module_nif__entry.offset, n, funcs, i;
	char raw[260], text[NAME_MAX_ / 2], function[NAME_MAX_ / 2 + 2], name[2 * NAME_MAX_];
	struct native_private *privates;
	struct nif_func f;
	uint64_t *seen;
	size_t k;
	int ret;

	for (k = 0; k < b->n_seen; k++)
		if (b->seen[k] == nif)
			return 0;
	if (b->n_seen >= NIF_MODULES_MAX)
		return 0;
	seen = realloc(b->seen, (b->n_seen + 1) * sizeof(*seen));
	if (!seen)
		return -ENOMEM;
	b->seen = seen;
	b->seen[b->n_seen++] = nif;
	privates = realloc(b->privates, b->n_seen * sizeof(*privates));
	if (!privates)
		return -ENOMEM;
	b->privates = privates;
	if (l->size_ErlNifFunc != sizeof(f))
		return 0;
	ret = vm_read_field(b->vm, entry, l->ErlNifEntry__num_of_funcs, &n);
	if (!ret)
		ret = vm_read_field(b->vm, entry, l->ErlNifEntry__funcs, &funcs);
	if (ret)
		return is_fatal(ret) ? ret : 0;
	if (n > FUNCTIONS_MAX)
		return 0;
	for (i = 0; i < n && b->looked++ < NATIVES_MAX; i++) {
		ret = vm_read(b->vm, funcs + i * sizeof(f), &f, sizeof(f));
		if (ret)
			return is_fatal(ret) ? ret : 0;
		if (f.arity > 255 ||
		    target_read_string(b->vm->target, f.name, raw, sizeof(raw)) <= 0)
			continue;
		escape_string(text, sizeof(text), raw);
		quote(function, sizeof(function), text);
		snprintf(name, sizeof(name), "%s:%s/%" PRIu32, module, function, f.arity);
		ret = add(b, f.fptr, name, true);
		if (ret)
			return ret;
		if (i)
			continue;
		privates[b->n_privates].function = f.fptr;
		ret = vm_read_field(b->vm, nif, l->erl_module_nif__priv_data,
				    &privates[b->n_privates++].priv_data);
		if (is_fatal(ret))
			return ret;
	}
	return 0;
}

/* What is to be done with every library that a module has. */
struct each {
	struct vm *vm;
	natives_nif_fn fn;
	void *ctx;
};

static int each_of_module(struct each *e, uint64_t addr)
{
	const struct layout *l = e->vm->layout;
	const struct layout_field slots[] = { l->Module__curr_nif, l->Module__old_nif };
	uint64_t nif, name;
	size_t i;
	int ret;

	for (i = 0; i < 2; i++) {
		ret = vm_read_field(e->vm, addr, slots[i], &nif);
		if (is_fatal(ret))
			return ret;
		/* Module.module is an atom's number (module.h, "atom index for module") */
		if (ret || !nif || vm_read_field(e->vm, addr, l->Module__module, &name))
			continue;
		ret = e->fn(e->ctx, nif, name, i == 1);
		if (ret)
			return ret;
	}
	return 0;
}

static int each_of_table(struct each *e, uint64_t table)
{
	const struct layout *l = e->vm->layout;
	uint64_t entries, segments, i, j;
	uint64_t *modules;
	int ret;

	ret = vm_read_field(e->vm, table, l->IndexTable__entries, &entries);
	if (!ret)
		ret = vm_read_field(e->vm, table, l->IndexTable__seg_table, &segments);
	if (ret)
		return is_fatal(ret) ? ret : 0;
	if (entries > MODULES_MAX)
		return 0;
	modules = malloc(SEGMENT * sizeof(*modules));
	if (!modules)
		return -ENOMEM;
	for (i = 0; i < entries && !ret; i += SEGMENT) {
		uint64_t n = entries - i < SEGMENT ? entries - i : SEGMENT, segment;

		if (vm_read_u64(e->vm, segments + 8 * (i / SEGMENT), &segment) ||
		    vm_read(e->vm, segment, modules, n * sizeof(*modules)))
			continue;
		for (j = 0; j < n && !ret; j++)
			if (modules[j])
				ret = each_of_module(e, modules[j]);
	}
	free(modules);
	return ret;
}

int natives_each_nif(struct vm *vm, natives_nif_fn fn, void *ctx)
{
	const struct layout *l = vm->layout;
	const uint64_t tables = vm->anchors.v[A_MODULE_TABLES].addr;
	struct each e = { .vm = vm, .fn = fn, .ctx = ctx };
	size_t i;
	int ret = 0;

	if (!tables || !layout_has(l->erl_module_nif__entry) || !layout_has(l->Module__curr_nif))
		return 0;
	for (i = 0; i < TABLES && !ret; i++)
		ret = each_of_table(&e, tables + i * l->size_IndexTable);
	return ret;
}

static int nif_found(void *ctx, uint64_t nif, uint64_t module, bool old)
{
	struct building *b = ctx;
	char text[NAME_MAX_ / 2];

	(void)old;
	return atom(b->vm, module << 6 | ATOM_TAG, text, sizeof(text)) ? add_nif(b, nif, text) : 0;
}

static int add_bifs(struct building *b)
{
	const struct layout *l = b->vm->layout;
	const uint64_t table = b->vm->anchors.v[A_BIF_TABLE].addr;
	char module[NAME_MAX_ / 2], function[NAME_MAX_ / 2], name[2 * NAME_MAX_];
	unsigned char copy[128];
	uint64_t m, fn, arity, f, i;
	const size_t size = l->size_BifEntry;
	int ret;

	if (!table || !size || size > sizeof(copy))
		return 0;
	for (i = 0; i < BIFS_MAX; i++) {
		ret = vm_read(b->vm, table + i * size, copy, size);
		if (ret)
			return is_fatal(ret) ? ret : 0;
		if (!vm_field(copy, size, l->BifEntry__module, &m) ||
		    !vm_field(copy, size, l->BifEntry__name, &fn) ||
		    !vm_field(copy, size, l->BifEntry__arity, &arity) ||
		    !vm_field(copy, size, l->BifEntry__f, &f) || arity > 255 ||
		    !atom(b->vm, m, module, sizeof(module)) ||
		    !atom(b->vm, fn, function, sizeof(function)))
			return 0; /* the table's end */
		snprintf(name, sizeof(name), "%s:%s/%" PRIu64, module, function, arity);
		ret = add(b, f, name, false);
		/* f may be a wrapper that traces; impl is then the function itself */
		if (!ret && vm_field(copy, size, l->BifEntry__impl, &m) && m != f)
			ret = add(b, m, name, false);
		if (ret)
			return ret;
	}
	return 0;
}

static int compare(const void *a, const void *b)
{
	const struct native_function *x = a, *y = b;

	if (x->addr != y->addr)
		return x->addr < y->addr ? -1 : 1;
	return strcmp(x->name, y->name);
}

int natives_read(struct vm *vm, struct natives **out, struct error *err)
{
	struct building b = { .vm = vm };
	struct natives *r = calloc(1, sizeof(*r));
	size_t i, n = 0;
	int ret = r ? 0 : -ENOMEM;

	*out = NULL;
	if (!ret)
		ret = natives_each_nif(vm, nif_found, &b);
	if (!ret)
		ret = add_bifs(&b);
	for (i = 0; i < b.n; i++)
		b.v[i].name = b.strings + b.names[i];
	free(b.names);
	free(b.seen);
	if (ret) {
		free(b.v);
		free(b.strings);
		free(b.privates);
		free(r);
		return error_set(err, error_exit_code(ret), ret,
				 "The VM's tables of NIFs and BIFs could not be read: %s.",
				 strerror(-ret));
	}
	if (b.n)
		qsort(b.v, b.n, sizeof(*b.v), compare);
	for (i = 0; i < b.n; i++)
		if (!n || b.v[n - 1].addr != b.v[i].addr)
			b.v[n++] = b.v[i];
	r->v = b.v;
	r->n = n;
	r->strings = b.strings;
	r->modules = b.n_seen;
	r->privates = b.privates;
	r->n_privates = b.n_privates;
	*out = r;
	return 0;
}

void natives_free(struct natives *n)
{
	if (!n)
		return;
	free(n->v);
	free(n->strings);
	free(n->privates);
	free(n);
}

const struct native_function *natives_find(const struct natives *n, uint64_t addr)
{
	size_t low = 0, high = n->n;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (n->v[mid].addr < addr)
			low = mid + 1;
		else
			high = mid;
	}
	return low < n->n && n->v[low].addr == addr ? &n->v[low] : NULL;
}

bool natives_library(const struct natives *n, const struct images *images, const char *module,
		     char *buf, size_t size)
{
	char quoted[1200];
	size_t len, i;

	quote(quoted, sizeof(quoted), module);
	len = strlen(quoted);
	for (i = 0; i < n->n; i++) {
		const char *name = n->v[i].name;
		const struct image *im;

		if (!n->v[i].nif || strncmp(name, quoted, len) != 0 || name[len] != ':')
			continue;
		im = images_find(images, n->v[i].addr);
		if (!im)
			continue;
		escape_string(buf, size, image_name(im));
		return true;
	}
	return false;
}
