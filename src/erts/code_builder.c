/* SPDX-License-Identifier: Apache-2.0 */
/* Packing one module's functions and lines (see code_store.h). */
#include "erts/code_store.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "target/escape.h"

#define NO_FILE 255u /* lines have 8 bits for the file, as in ERTS's own tables */

static const char prologue[] = "-CodeInfoPrologue";

void builder_reset(struct code_builder *b)
{
	b->n_funcs = b->n_lines = b->n_files = b->n_strings = 0;
	b->error = 0;
	b->last_len = 0;
	b->escaped = false;
}

void builder_free(struct code_builder *b)
{
	free(b->funcs);
	free(b->lines);
	free(b->files);
	free(b->strings);
	memset(b, 0, sizeof(*b));
}

/* Makes room for `more` elements of `size` bytes. */
static bool reserve(struct code_builder *b, void *array, size_t n, size_t *allocated, size_t more,
		    size_t size)
{
	void **v = array;
	size_t want = *allocated;
	void *larger;

	if (b->error)
		return false;
	if (n + more <= want)
		return true;
	if (n + more > UINT32_MAX / 2) {
		b->error = -E2BIG;
		return false;
	}
	while (want < n + more)
		want = want ? want * 2 : 64;
	larger = realloc(*v, want * size);
	if (!larger) {
		b->error = -ENOMEM;
		return false;
	}
	*v = larger;
	*allocated = want;
	return true;
}

uint32_t builder_string(struct code_builder *b, const char *raw, size_t len)
{
	uint32_t at = (uint32_t)b->n_strings;
	char text[CODE_NAME_MAX];
	size_t n;

	if (b->escaped && len < sizeof(text)) {
		memcpy(text, raw, len);
		text[len] = '\0';
		n = len + 1;
	} else {
		n = escape_text(text, sizeof(text), raw, len) + 1;
	}
	if (!reserve(b, &b->strings, b->n_strings, &b->a_strings, n, 1))
		return 0;
	memcpy(b->strings + at, text, n);
	b->n_strings += n;
	return at;
}

/* "m:f/1", and not "global::fragment" or "m::codeHeader". */
static bool is_function(const char *name, size_t len)
{
	size_t digits = 0;

	while (len && name[len - 1] >= '0' && name[len - 1] <= '9') {
		len--;
		digits++;
	}
	return digits && len > 3 && name[len - 1] == '/';
}

void builder_func(struct code_builder *b, uint32_t start, uint32_t end, const char *raw, size_t len)
{
	struct code_func *f, *last = b->n_funcs ? &b->funcs[b->n_funcs - 1] : NULL;
	size_t strings = b->n_strings;
	uint32_t name;
	bool function;

	if (len > sizeof(prologue) - 1 &&
	    memcmp(raw + len - (sizeof(prologue) - 1), prologue, sizeof(prologue) - 1) == 0)
		len -= sizeof(prologue) - 1;
	function = is_function(raw, len);
	name = builder_string(b, raw, len);
	if (b->error)
		return;
	/* The second half of a function: after its prologue comes its body. */
	if (last && function && last->function && last->end == start && !last->n_lines &&
	    strcmp(b->strings + last->name, b->strings + name) == 0) {
		b->n_strings = strings;
		last->end = end;
		return;
	}
	if (!reserve(b, &b->funcs, b->n_funcs, &b->a_funcs, 1, sizeof(*f)))
		return;
	f = &b->funcs[b->n_funcs++];
	f->start = start;
	f->end = end;
	f->name = name;
	f->function = function;
	f->line = (uint32_t)b->n_lines;
	f->n_lines = 0;
}

static uint32_t find_file(struct code_builder *b, const char *file, size_t len)
{
	char text[CODE_NAME_MAX];
	size_t i;

	if (b->escaped && len < sizeof(text)) {
		memcpy(text, file, len);
		text[len] = '\0';
	} else {
		escape_text(text, sizeof(text), file, len);
	}
	for (i = b->n_files; i-- > 0;) /* the last one used is the likely one */
		if (strcmp(b->strings + b->files[i], text) == 0)
			return (uint32_t)i;
	if (b->n_files >= NO_FILE ||
	    !reserve(b, &b->files, b->n_files, &b->a_files, 1, sizeof(*b->files)))
		return NO_FILE;
	b->files[b->n_files] = builder_string(b, file, len);
	return (uint32_t)b->n_files++;
}

static uint32_t file_index(struct code_builder *b, const char *file, size_t len)
{
	uint32_t index;

	if (!file || !len)
		return NO_FILE;
	if (len == b->last_len && memcmp(file, b->last_file, len) == 0)
		return b->last_index;
	index = find_file(b, file, len);
	if (len <= sizeof(b->last_file)) {
		memcpy(b->last_file, file, len);
		b->last_len = len;
		b->last_index = index;
	}
	return index;
}

void builder_line(struct code_builder *b, uint32_t offset, const char *file, size_t len,
		  uint32_t line)
{
	struct code_line *l;
	uint32_t index;

	if (b->error || !b->n_funcs)
		return;
	index = file_index(b, file, len);
	if (!reserve(b, &b->lines, b->n_lines, &b->a_lines, 1, sizeof(*l)))
		return;
	l = &b->lines[b->n_lines++];
	l->offset = offset;
	l->loc = line < 1u << 24 ? index << 24 | line : NO_FILE << 24;
	b->funcs[b->n_funcs - 1].n_lines++;
}

static int compare_funcs(const void *a, const void *b)
{
	const struct code_func *x = a, *y = b;

	return x->start < y->start ? -1 : x->start > y->start;
}

static int compare_lines(const void *a, const void *b)
{
	const struct code_line *x = a, *y = b;

	return x->offset < y->offset ? -1 : x->offset > y->offset;
}

/* Sorted and disjoint, or an error: a table that contradicts itself is torn. */
static int check(struct code_builder *b)
{
	size_t i, j, n = 0;

	for (i = 1; i < b->n_funcs; i++)
		if (b->funcs[i].start < b->funcs[i - 1].start)
			break;
	if (i < b->n_funcs)
		qsort(b->funcs, b->n_funcs, sizeof(*b->funcs), compare_funcs);
	for (i = 0; i < b->n_funcs; i++) {
		struct code_func *f = &b->funcs[i];

		if (f->start == f->end)
			continue; /* nothing can be in it */
		if (n && f->start < b->funcs[n - 1].end)
			return -EAGAIN;
		for (j = 1; j < f->n_lines; j++)
			if (b->lines[f->line + j].offset < b->lines[f->line + j - 1].offset)
				break;
		if (j < f->n_lines)
			qsort(b->lines + f->line, f->n_lines, sizeof(*b->lines), compare_lines);
		b->funcs[n++] = *f;
	}
	b->n_funcs = n;
	return 0;
}

static void *compact(const void *v, size_t n, size_t size, bool *ok)
{
	void *copy;

	if (!n)
		return NULL;
	copy = malloc(n * size);
	if (copy)
		memcpy(copy, v, n * size);
	else
		*ok = false;
	return copy;
}

struct code_module *builder_finish(struct code_builder *b, uint64_t base, uint64_t code_size)
{
	struct code_module *m;
	bool ok = true;

	if (!b->error)
		b->error = check(b);
	if (b->error)
		return NULL;
	m = calloc(1, sizeof(*m));
	if (!m) {
		b->error = -ENOMEM;
		return NULL;
	}
	m->base = base;
	m->code_size = code_size;
	m->start = base + (b->n_funcs ? b->funcs[0].start : 0);
	m->end = base + (b->n_funcs ? b->funcs[b->n_funcs - 1].end : 0);
	m->n_funcs = (uint32_t)b->n_funcs;
	m->n_lines = (uint32_t)b->n_lines;
	m->n_files = (uint32_t)b->n_files;
	m->strings_len = (uint32_t)b->n_strings;
	m->funcs = compact(b->funcs, b->n_funcs, sizeof(*b->funcs), &ok);
	m->lines = compact(b->lines, b->n_lines, sizeof(*b->lines), &ok);
	m->files = compact(b->files, b->n_files, sizeof(*b->files), &ok);
	m->strings = compact(b->strings, b->n_strings, 1, &ok);
	m->bytes = sizeof(*m) + b->n_funcs * sizeof(*b->funcs) + b->n_lines * sizeof(*b->lines) +
		   b->n_files * sizeof(*b->files) + b->n_strings;
	if (!ok) {
		code_module_free(m);
		b->error = -ENOMEM;
		return NULL;
	}
	return m;
}

void code_module_free(struct code_module *m)
{
	if (!m)
		return;
	free(m->funcs);
	free(m->lines);
	free(m->files);
	free(m->strings);
	free(m);
}
