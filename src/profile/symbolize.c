/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From an address to a name.
 *
 * An address of a mixed stack is one of these, asked in this order:
 *
 *	code of the VM      code_lookup(): lists:map/2, file and line; or one of
 *	                    the VM's own fragments (FRAME_GLUE)
 *	a mapped ELF file   .symtab, .dynsym, or the separate debug file, by the
 *	                    symbol whose extent holds the address
 *	  without a symbol  .eh_frame_hdr says where the function begins. If the VM
 *	                    knows a NIF or BIF that begins there, that is its name;
 *	                    else it is module+0xoffset of that beginning, so that
 *	                    all samples of one function stay together
 *	the kernel          /proc/kallsyms
 *	none of them        the address itself
 *
 * Never the nearest exported name: on a beam.smp that hides its symbols that
 * would name thousands of functions after their neighbour. 1,912 of 5,525
 * functions of Debian's OTP 25 have no exported name.
 *
 * A return address points behind its call, which may be the last instruction of
 * a function that does not return; so it is looked up one byte earlier.
 */
#include "profile/symbolize.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "erts/natives.h"
#include "profile/debug_lines.h"
#include "profile/demangle.h"
#include "profile/kernel_symbols.h"
#include "target/elf_functions.h"
#include "target/escape.h"

#define TEXT_MAX 2048

struct module {
	struct image *image;
	char *name; /* escaped */
	enum frame_kind kind;
	bool debug_asked, lines_asked, functions_asked;
	struct debug_lines *lines;
	struct image_functions *functions; /* NULL: not known */
};

struct symbolizer {
	struct vm *vm;
	const struct code *code;
	struct images *images;
	struct natives *natives;
	struct module *modules; /* as images->v */
};

/* ---- modules -------------------------------------------------------------- */

static const char *const libc_prefixes[] = {
	"libc.",    "libc-",	   "libpthread",  "ld-",	 "ld.",	   "libstdc++",
	"libgcc_s", "libm.",	   "libm-",	  "librt.",	 "librt-", "libdl.",
	"libdl-",   "libjemalloc", "libmimalloc", "libtcmalloc",
};

static bool has_native(const struct natives *n, const struct image *i)
{
	size_t k;

	for (k = 0; k < n->n; k++)
		if (n->v[k].nif && image_holds(i, n->v[k].addr))
			return true;
	return false;
}

static enum frame_kind module_kind(const struct symbolizer *z, struct image *i)
{
	const char *name = image_name(i);
	struct image_symbol s;
	size_t k;

	if (i == z->vm->exe)
		return FRAME_ERTS;
	for (k = 0; k < sizeof(libc_prefixes) / sizeof(libc_prefixes[0]); k++)
		if (strncmp(name, libc_prefixes[k], strlen(libc_prefixes[k])) == 0)
			return FRAME_LIBC;
	if (has_native(z->natives, i) || image_symbol(i, "nif_init", &s) ||
	    image_symbol(i, "driver_init", &s))
		return FRAME_NIF;
	return FRAME_LIBRARY;
}

int symbolizer_new(struct vm *vm, const struct code *code, struct images *images,
		   struct symbolizer **out, struct error *err)
{
	struct symbolizer *z = calloc(1, sizeof(*z));
	char text[TEXT_MAX];
	size_t i;
	int ret = -ENOMEM;

	*out = NULL;
	if (!z)
		return error_set(err, EXIT_INCOMPLETE, -ENOMEM, "Out of memory.");
	z->vm = vm;
	z->code = code;
	z->images = images;
	z->modules = calloc(images->n + 1, sizeof(*z->modules));
	if (z->modules)
		ret = natives_read(vm, &z->natives, err);
	for (i = 0; !ret && i < images->n; i++) {
		struct module *m = &z->modules[i];

		m->image = images->v[i];
		m->kind = module_kind(z, m->image);
		m->name = strdup(escape_string(text, sizeof(text), image_name(m->image)));
		if (!m->name)
			ret = -ENOMEM;
	}
	if (ret) {
		symbolizer_free(z);
		return error_set(err, error_exit_code(ret), ret,
				 "Names for addresses could not be prepared: %s.", strerror(-ret));
	}
	*out = z;
	return 0;
}

void symbolizer_free(struct symbolizer *z)
{
	size_t i;

	if (!z)
		return;
	for (i = 0; z->modules && i < z->images->n; i++) {
		free(z->modules[i].name);
		image_functions_free(z->modules[i].functions);
		debug_lines_close(z->modules[i].lines);
	}
	free(z->modules);
	natives_free(z->natives);
	free(z);
}

static struct module *find_module(struct symbolizer *z, uint64_t addr)
{
	struct image *image = images_find(z->images, addr);
	size_t i;

	for (i = 0; image && i < z->images->n; i++)
		if (z->modules[i].image == image)
			return &z->modules[i];
	return NULL;
}

enum frame_kind symbolizer_kind(struct symbolizer *z, uint64_t addr)
{
	struct code_mfa mfa;
	struct module *m;

	if (z->code && code_lookup(z->code, addr, &mfa))
		return mfa.function ? FRAME_ERLANG : FRAME_GLUE;
	m = find_module(z, addr);
	return m ? m->kind : FRAME_NATIVE;
}

/* ---- where a function without a symbol begins ------------------------------ */

static bool find_function(struct module *m, uint64_t addr, uint64_t *start)
{
	const struct image_function *f;

	if (!m->functions_asked) {
		m->functions_asked = true;
		image_functions_read(m->image, &m->functions);
	}
	f = m->functions ? image_function_at(m->functions, addr) : NULL;
	if (f)
		*start = f->start;
	return f != NULL;
}

/* ---- one address ---------------------------------------------------------- */

static int code_symbol(const struct code_mfa *mfa, struct symbol *out)
{
	out->kind = mfa->function ? FRAME_ERLANG : FRAME_GLUE;
	out->name = strdup(mfa->name);
	out->module = strdup(mfa->module);
	out->file = mfa->file ? strdup(mfa->file) : NULL;
	out->line = mfa->line;
	return out->name && out->module && (out->file || !mfa->file) ? 0 : -ENOMEM;
}

static int native_symbol(struct symbolizer *z, struct module *m, uint64_t pc, struct symbol *out)
{
	const struct native_function *f;
	struct image_symbol s;
	uint64_t start;
	bool found;

	out->kind = m->kind;
	out->module = strdup(m->name);
	if (!out->module)
		return -ENOMEM;
	out->offset = pc - image_bias(m->image);
	found = image_symbol_at(m->image, pc, &s);
	if (!found && !m->debug_asked) {
		m->debug_asked = true;
		found = image_debuginfo(z->vm->target, m->image) == 0 &&
			image_symbol_at(m->image, pc, &s);
	}
	if (found) {
		out->name = symbol_plain_name(s.name);
		if (!out->name)
			return -ENOMEM;
	} else if (find_function(m, pc, &start)) {
		out->offset = start - image_bias(m->image);
		f = natives_find(z->natives, start);
		out->name = f ? strdup(f->name) : NULL;
		if (f && !out->name)
			return -ENOMEM;
	}
	if (!out->name)
		return 0;
	if (!m->lines_asked) {
		m->lines_asked = true;
		m->lines = debug_lines_open(z->vm->target, m->image);
	}
	return m->lines ? debug_lines_add(m->lines, pc - image_bias(m->image), out) : 0;
}

int symbolizer_symbol(struct symbolizer *z, uint64_t addr, uint8_t kind, bool exact,
		      struct symbol *out)
{
	struct code_mfa mfa;
	struct module *m;
	int ret = 0;

	memset(out, 0, sizeof(*out));
	out->offset = addr;
	out->kind = kind;
	if (kind == FRAME_KERNEL) {
		struct kernel_symbol k = { .addr = exact ? addr : addr - 1 };
		char text[TEXT_MAX];

		kernel_symbols(&k, 1);
		if (k.name[0]) {
			out->name = strdup(escape_string(text, sizeof(text), k.name));
			ret = out->name ? 0 : -ENOMEM;
		}
	} else if (z->code && code_replaced(z->code, addr, !exact)) {
		/* two functions, and a stack does not say when it was taken */
		out->kind = FRAME_ERLANG;
		out->name = strdup("[code replaced meanwhile]");
		ret = out->name ? 0 : -ENOMEM;
	} else if (z->code && code_lookup_at(z->code, addr, !exact, 0, &mfa)) {
		ret = code_symbol(&mfa, out);
	} else {
		m = find_module(z, exact ? addr : addr - 1);
		if (m)
			ret = native_symbol(z, m, exact ? addr : addr - 1, out);
	}
	if (ret)
		symbol_clear(out);
	return ret;
}

/* ---- a profile ------------------------------------------------------------ */

static bool is_address(uint8_t kind)
{
	switch (kind) {
	case FRAME_REPEAT:
	case FRAME_CUT:
	case FRAME_JOINED:
	case FRAME_LABEL:
		return false;
	default:
		return true;
	}
}

static int compare_kernel(const void *a, const void *b)
{
	const struct kernel_symbol *x = a, *y = b;

	return x->addr < y->addr ? -1 : x->addr > y->addr;
}

/* Kernel addresses are named together: kallsyms is read once. `raw` holds the
 * keys; a return address is looked up one byte earlier. */
static int name_kernel(struct symbols *s, const struct symbol_key *raw, size_t n)
{
	struct kernel_symbol *v = calloc(n + 1, sizeof(*v));
	char text[TEXT_MAX];
	size_t i;
	int ret = v ? 0 : -ENOMEM;

	for (i = 0; !ret && i < n; i++)
		v[i].addr = raw[i].addr - !raw[i].exact;
	if (!ret && n) {
		qsort(v, n, sizeof(*v), compare_kernel);
		kernel_symbols(v, n);
	}
	for (i = 0; !ret && i < n; i++) {
		struct kernel_symbol key = { .addr = raw[i].addr - !raw[i].exact };
		const struct kernel_symbol *k = bsearch(&key, v, n, sizeof(*v), compare_kernel);
		struct symbol one = { .kind = FRAME_KERNEL, .offset = raw[i].addr };

		if (k && k->name[0])
			one.name = escape_string(text, sizeof(text), k->name);
		ret = symbols_put(s, &raw[i], &one);
	}
	free(v);
	return ret;
}

static int name_frame(struct symbolizer *z, struct symbols *s, const struct profile_stack *stack,
		      size_t i, struct symbol_key **kernel, size_t *n, size_t *allocated)
{
	const struct frame *f = &stack->frames[i];
	struct symbol_key key = { f->addr, f->kind, profile_frame_exact(stack, i) };
	struct symbol one;
	int ret;

	if (!is_address(f->kind) || symbols_find(s, stack, i))
		return 0;
	if (f->kind == FRAME_KERNEL) {
		/* a placeholder now, so that each is listed once */
		struct symbol none = { .kind = FRAME_KERNEL, .offset = f->addr };

		if (*n == *allocated) {
			size_t more = *allocated ? *allocated * 2 : 64;
			void *v = realloc(*kernel, more * sizeof(**kernel));

			if (!v)
				return -ENOMEM;
			*kernel = v;
			*allocated = more;
		}
		(*kernel)[(*n)++] = key;
		return symbols_put(s, &key, &none);
	}
	ret = symbolizer_symbol(z, f->addr, f->kind, key.exact, &one);
	if (ret)
		return ret;
	ret = symbols_put(s, &key, &one);
	symbol_clear(&one);
	return ret;
}

int profile_symbolize(const struct profile *p, struct symbolizer *z, struct symbols *s,
		      struct error *err)
{
	struct symbol_key *kernel = NULL;
	size_t i, j, n = 0, allocated = 0;
	int ret = 0;

	for (i = 0; i < p->n && !ret; i++)
		for (j = 0; j < p->stacks[i].n && !ret; j++)
			ret = name_frame(z, s, &p->stacks[i], j, &kernel, &n, &allocated);
	if (!ret && n)
		ret = name_kernel(s, kernel, n);
	free(kernel);
	if (ret)
		return error_set(err, error_exit_code(ret), ret,
				 "Not every address of the profile could be named: %s.",
				 strerror(-ret));
	return 0;
}
