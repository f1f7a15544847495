/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Code of the emulator, by the tables that the VM itself looks addresses up in.
 *
 *   r[code index]            Range[n], by address      code area of a module
 *   +-----------+            +--------------+          +------------------------+
 *   | modules   |----------->| start | end  |--------->| BeamCodeHeader         |
 *   | n         |            | ...          |          |   num_functions        |
 *   | allocated |            +--------------+          |   line_table ----------+--> lines
 *   | mid       |                                      |   functions[] ---+     |
 *   +-----------+                                      | ErtsCodeInfo <---+     |
 *                                                      |   module, function,    |
 *                                                      |   arity; then the code |
 *                                                      +------------------------+
 *
 * (beam_ranges.c, beam_load.h of OTP 23; beam_code.h since 24.) functions[] has
 * one entry more than there are functions: the end of the last one. A line
 * table counts line instructions of all functions in one array: func_tab[i] is
 * where function i begins in it, and loc_tab, of 2 or 4 bytes an entry, says
 * file << 24 | line for each; file 0 is the module's own name with ".erl".
 *
 * Three tables rotate as code is loaded, the_active_code_index says which is in
 * force. Everything is checked to lie inside the module's own area, in order.
 */
#include "erts/code_store.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TABLES	      3		   /* ERTS_NUM_CODE_IX */
#define FUNCTIONS_MAX (1u << 20)   /* in a module */
#define LINES_MAX     (1u << 22)   /* same */
#define MODULE_MAX    (1ull << 30) /* bytes of a module's code */
#define MD5_BYTES     16
#define ATOM_TAG      0x0bu /* _TAG_IMMED2_ATOM, erl_term.h, low 6 bits */

struct table {
	uint64_t modules, n, allocated;
};

static int read_table(struct vm *vm, uint64_t tables, unsigned i, struct table *t)
{
	const struct layout *l = vm->layout;
	uint64_t addr = tables + (uint64_t)i * l->size_code_ranges;
	int ret;

	ret = vm_read_field(vm, addr, l->code_ranges__modules, &t->modules);
	if (!ret)
		ret = vm_read_field(vm, addr, l->code_ranges__n, &t->n);
	if (!ret)
		ret = vm_read_field(vm, addr, l->code_ranges__allocated, &t->allocated);
	if (!ret && (t->n > t->allocated || t->n > CODE_ENTRIES_MAX || (t->n && !t->modules)))
		ret = -EAGAIN;
	return ret;
}

/* Where the module's MD5 is, by its header; 0 if that is not in the module. */
static uint64_t md5_addr(const struct vm *vm, const struct code_candidate *k)
{
	uint64_t addr;

	if (k->head_len < CODE_HEAD ||
	    !vm_field(k->head, sizeof(k->head), vm->layout->BeamCodeHeader__md5_ptr, &addr) ||
	    addr < k->entry || addr > k->symfile - MD5_BYTES)
		return 0;
	return addr;
}

/*
 * What tells one load from another, of all candidates: the header's first bytes, and instead
 * of the last of these the MD5. Modules that were made from one template may have equal
 * headers, at one and the same address one after the other. Those that are not resident are
 * known to be there, and are gaps when they are loaded.
 */
static int read_heads(struct vm *vm, struct code_candidate *k, size_t n)
{
	struct target_piece *v = calloc(n + 1, sizeof(*v));
	size_t i, m = 0;
	int ret = v ? 0 : -ENOMEM;

	for (i = 0; !ret && i < n; i++)
		v[i] = (struct target_piece){ k[i].entry, k[i].head, k[i].head_len, 0 };
	if (!ret)
		ret = vm_read_pieces(vm, v, n);
	for (i = 0; !ret && i < n; i++)
		if (v[i].ret == -EFAULT)
			ret = -EAGAIN;
	for (i = 0; !ret && i < n; i++) {
		uint64_t addr = md5_addr(vm, &k[i]);

		if (addr)
			v[m++] = (struct target_piece){ addr, k[i].head + CODE_HEAD - MD5_BYTES,
							MD5_BYTES, 0 };
	}
	if (!ret)
		ret = vm_read_pieces(vm, v, m);
	free(v);
	return ret;
}

/* The table in force: its number, or TABLES where that is not known, and what is in it. */
static int active_table(struct vm *vm, uint64_t tables, uint32_t *active, struct table *t)
{
	const uint64_t index_addr = vm->anchors.v[A_CODE_INDEX].addr;
	int ret;

	*active = TABLES;
	memset(t, 0, sizeof(*t));
	if (index_addr) {
		ret = vm_read_u32(vm, index_addr, active);
		if (ret)
			return ret;
		return *active < TABLES ? read_table(vm, tables, *active, t) : -ENOTSUP;
	}
	/* the fullest: a table that is being staged starts as a copy */
	for (unsigned i = 0; i < TABLES; i++) {
		struct table other;

		ret = read_table(vm, tables, i, &other);
		if (ret)
			return ret;
		if (other.n > t->n)
			*t = other;
	}
	return 0;
}

int code_ranges_list(struct vm *vm, uint64_t tables, struct code_candidates *out)
{
	const struct layout *l = vm->layout;
	uint32_t active, active_then, stride = l->size_code_range;
	struct table t, then;
	unsigned char *raw;
	uint64_t before = 0;
	int ret;

	memset(out, 0, sizeof(*out));
	if (!stride || stride > 64 || !l->size_code_ranges || !layout_has(l->code_range__start) ||
	    !layout_has(l->code_range__end) || !layout_has(l->BeamCodeHeader__functions))
		return -ENOTSUP;
	ret = active_table(vm, tables, &active, &t);
	if (ret)
		return ret;
	raw = malloc(t.n * stride + 1);
	out->v = calloc(t.n + 1, sizeof(*out->v));
	ret = raw && out->v ? vm_read(vm, t.modules, raw, t.n * stride) : -ENOMEM;
	/* one that is no longer in force is freed as the second load after begins */
	if (!ret)
		ret = active_table(vm, tables, &active_then, &then);
	if (!ret && (active_then != active || memcmp(&then, &t, sizeof(t)) != 0))
		ret = -EAGAIN;
	for (size_t i = 0; !ret && i < t.n; i++) {
		struct code_candidate *k = &out->v[out->n];
		uint64_t start = 0, end = 0;

		vm_field(raw + i * stride, stride, l->code_range__start, &start);
		vm_field(raw + i * stride, stride, l->code_range__end, &end);
		if (start < before) {
			ret = -EAGAIN;
			break;
		}
		before = start;
		if (end <= start || end - start > MODULE_MAX)
			continue; /* being purged */
		k->entry = start;
		k->symfile = end;
		k->size = end - start;
		k->head_len = CODE_HEAD < k->size ? CODE_HEAD : (uint32_t)k->size;
		out->n++;
	}
	free(raw);
	if (!ret)
		ret = read_heads(vm, out->v, out->n);
	if (ret) {
		free(out->v);
		memset(out, 0, sizeof(*out));
	}
	return ret;
}

/* An atom's text, quoted or not. Returns the length, or a negative errno. */
static ssize_t atom_text(struct vm *vm, uint64_t term, char *buf, size_t size, bool quote)
{
	ssize_t n;

	if ((term & 0x3f) != ATOM_TAG)
		return -EAGAIN;
	n = quote ? vm_atom_quoted(vm, term >> 6, buf, size) : vm_atom(vm, term >> 6, buf, size);
	return n == -ENOENT ? -EAGAIN : n;
}

struct lines {
	uint64_t *at; /* instruction of each */
	uint32_t *loc;
	uint64_t *first; /* by function: where its lines begin, in the target */
	uint64_t n, base;
	uint64_t names; /* fname_ptr */
	uint64_t last_file;
	char file[CODE_NAME_MAX];
};

static void lines_free(struct lines *t)
{
	free(t->at);
	free(t->loc);
	free(t->first);
	memset(t, 0, sizeof(*t));
}

/* Reads the line table. A module without one, or with one that does not add
 * up, has no lines: t->n stays 0. */
static int lines_read(struct vm *vm, uint64_t table, uint64_t functions, struct lines *t)
{
	const struct layout *l = vm->layout;
	uint64_t size, locs, i;
	unsigned char *raw;

	memset(t, 0, sizeof(*t));
	t->last_file = UINT64_MAX;
	if (!table || !layout_has(l->BeamCodeLineTab__func_tab) ||
	    !layout_has(l->BeamCodeLineTab__loc_tab))
		return 0;
	if (vm_read_field(vm, table, l->BeamCodeLineTab__fname_ptr, &t->names) ||
	    vm_read_field(vm, table, l->BeamCodeLineTab__loc_size, &size) ||
	    vm_read_field(vm, table, l->BeamCodeLineTab__loc_tab, &locs) ||
	    (size != 2 && size != 4))
		return 0;
	t->first = calloc(functions + 1, sizeof(*t->first));
	if (!t->first)
		return -ENOMEM;
	if (vm_read(vm, table + (uint64_t)l->BeamCodeLineTab__func_tab.offset, t->first,
		    (functions + 1) * sizeof(*t->first)))
		return 0;
	t->base = t->first[0];
	for (i = 0; i < functions; i++)
		if (t->first[i + 1] < t->first[i] || (t->first[i + 1] - t->base) % 8 != 0 ||
		    (t->first[i + 1] - t->base) / 8 > LINES_MAX)
			return 0;
	t->n = (t->first[functions] - t->base) / 8;
	t->at = calloc(t->n + 1, sizeof(*t->at));
	t->loc = calloc(t->n + 1, sizeof(*t->loc));
	raw = malloc(t->n * size + 1);
	if (!t->at || !t->loc || !raw) {
		free(raw);
		return -ENOMEM;
	}
	if (vm_read(vm, t->base, t->at, t->n * sizeof(*t->at)) ||
	    vm_read(vm, locs, raw, t->n * size))
		t->n = 0;
	for (i = 0; i < t->n; i++)
		if (size == 4)
			memcpy(&t->loc[i], raw + i * 4, 4);
		else
			t->loc[i] = (uint32_t)(raw[i * 2] | raw[i * 2 + 1] << 8);
	free(raw);
	return 0;
}

/* The file of a location: index 0 is the module's own. */
static const char *line_file(struct vm *vm, struct lines *t, uint32_t index, const char *module)
{
	uint64_t term;

	if (t->last_file == index)
		return t->file[0] ? t->file : NULL;
	t->last_file = index;
	t->file[0] = '\0';
	if (!index)
		snprintf(t->file, sizeof(t->file), "%s.erl", module);
	else if (!t->names || vm_read_u64(vm, t->names + 8ull * (index - 1), &term) ||
		 atom_text(vm, term, t->file, sizeof(t->file), false) < 0)
		t->file[0] = '\0';
	return t->file[0] ? t->file : NULL;
}

static void add_lines(struct vm *vm, struct code_builder *b, struct lines *t, uint64_t function,
		      const char *module, uint64_t base, uint64_t size)
{
	uint64_t i, from, to;

	if (!t->n)
		return;
	from = (t->first[function] - t->base) / 8;
	to = (t->first[function + 1] - t->base) / 8;
	for (i = from; i < to && i < t->n; i++) {
		const char *file;

		if (t->at[i] < base || t->at[i] - base > size || !t->loc[i])
			continue;
		file = line_file(vm, t, t->loc[i] >> 24, module);
		builder_line(b, (uint32_t)(t->at[i] - base), file, file ? strlen(file) : 0,
			     t->loc[i] & 0xffffff);
	}
}

static int add_functions(struct vm *vm, const struct code_candidate *k, struct code_builder *b,
			 const uint64_t *functions, uint64_t n, struct lines *lines)
{
	const struct layout *l = vm->layout;
	uint64_t i, last_module = 0;
	char module[CODE_NAME_MAX / 2] = "", plain[CODE_NAME_MAX / 2] = "";
	char function[CODE_NAME_MAX / 2], name[CODE_NAME_MAX + 32];

	for (i = 0; i < n; i++) {
		unsigned char info[128];
		uint64_t f = functions[i], m, fn, arity;
		int len, ret;

		if (f < k->entry || f > k->symfile - l->size_ErtsCodeInfo || functions[i + 1] < f ||
		    functions[i + 1] > k->symfile)
			return -EAGAIN;
		ret = vm_read(vm, f, info, l->size_ErtsCodeInfo);
		if (ret)
			return ret;
		if (!vm_field(info, sizeof(info), l->ErtsCodeInfo__mfa_module, &m) ||
		    !vm_field(info, sizeof(info), l->ErtsCodeInfo__mfa_function, &fn) ||
		    !vm_field(info, sizeof(info), l->ErtsCodeInfo__mfa_arity, &arity))
			return -ENOTSUP;
		if (arity > 255)
			return -EAGAIN;
		if (m != last_module) {
			if (atom_text(vm, m, module, sizeof(module), true) < 0 ||
			    atom_text(vm, m, plain, sizeof(plain), false) < 0)
				return -EAGAIN;
			last_module = m;
		}
		if (!i)
			builder_string(b, plain, strlen(plain));
		if (atom_text(vm, fn, function, sizeof(function), true) < 0)
			return -EAGAIN;
		len = snprintf(name, sizeof(name), "%s:%s/%" PRIu64, module, function, arity);
		builder_func(b, (uint32_t)(f - k->entry), (uint32_t)(functions[i + 1] - k->entry),
			     name, (size_t)len);
		add_lines(vm, b, lines, i, plain, k->entry, k->size);
		if (b->error)
			return b->error;
	}
	return 0;
}

int code_ranges_load(struct vm *vm, const struct code_candidate *k, struct code_builder *b,
		     struct code_module **out)
{
	const struct layout *l = vm->layout;
	struct code_candidate now = *k;
	uint64_t n, table = 0, at = (uint64_t)l->BeamCodeHeader__functions.offset;
	struct lines lines = { 0 };
	uint64_t *functions;
	int ret;

	*out = NULL;
	if (l->size_ErtsCodeInfo > 128 || !l->size_ErtsCodeInfo)
		return -ENOTSUP;
	ret = vm_read_field(vm, k->entry, l->BeamCodeHeader__num_functions, &n);
	if (!ret)
		ret = vm_read_field(vm, k->entry, l->BeamCodeHeader__line_table, &table);
	if (ret)
		return ret;
	if (n > FUNCTIONS_MAX || at + (n + 1) * 8 > k->size)
		return -EAGAIN;
	functions = calloc(n + 1, sizeof(*functions));
	if (!functions)
		return -ENOMEM;
	builder_reset(b);
	b->escaped = true; /* vm_atom() does it */
	ret = vm_read(vm, k->entry + at, functions, (n + 1) * sizeof(*functions));
	if (!ret)
		ret = lines_read(vm, table, n, &lines);
	if (!ret)
		ret = add_functions(vm, k, b, functions, n, &lines);
	if (!ret) { /* still the same module? */
		memset(now.head, 0, sizeof(now.head));
		ret = read_heads(vm, &now, 1);
		if (!ret && memcmp(now.head, k->head, k->head_len) != 0)
			ret = -EAGAIN;
	}
	if (ret == -EFAULT)
		ret = -EAGAIN;
	if (!ret) {
		*out = builder_finish(b, k->entry, k->size);
		ret = *out ? 0 : b->error;
	}
	lines_free(&lines);
	free(functions);
	return ret;
}
