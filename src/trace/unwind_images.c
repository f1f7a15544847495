// SPDX-License-Identifier: Apache-2.0
/*
 * The unwind tables of a target: which files it has mapped, and where. A file is
 * compiled once, however often it is looked at and wherever it is mapped: it is
 * known by its build-id.
 */
#include "trace/unwind.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define IMAGE_MEMORY_MAX (1u << 20) /* bytes of an image without a file (vdso) */

/* An image that is no file: the vdso, read from the target's memory. */
static Elf *elf_from_memory(struct target *t, const struct image *i, char **buf)
{
	size_t n;
	const struct image_segment *seg = image_segments(i, &n);
	uint64_t start, len;
	ssize_t got;

	*buf = NULL;
	if (!n)
		return NULL;
	start = seg[0].start;
	len = seg[n - 1].end - start;
	if (len > IMAGE_MEMORY_MAX || !(*buf = malloc(len)))
		return NULL;
	got = target_read_some(t, start, *buf, len);
	if (got < (ssize_t)sizeof(Elf64_Ehdr))
		return NULL;
	return elf_memory(*buf, (size_t)got);
}

static struct unwind_file *file_known(struct unwind *u, const struct image *i)
{
	const char *id = image_build_id(i);

	for (size_t k = 0; k < u->n_files; k++) {
		struct unwind_file *f = &u->files[k];

		if (*id ? !strcmp(f->build_id, id)
			: !*f->build_id && f->base == image_bias(i) &&
				    !strcmp(f->path, image_path(i)))
			return f;
	}
	return NULL;
}

static int file_add(struct unwind *u, struct target *t, const struct image *i,
		    struct unwind_file **out)
{
	struct unwind_file *f;
	char *memory = NULL;
	Elf *elf;
	int fd, ret = 0;

	*out = NULL;
	if (u->n_files == u->a_files) {
		size_t n = u->a_files ? u->a_files * 2 : 32;
		struct unwind_file *v = realloc(u->files, n * sizeof(*v));

		if (!v)
			return -ENOMEM;
		u->files = v;
		u->a_files = n;
	}
	f = &u->files[u->n_files];
	memset(f, 0, sizeof(*f));
	f->path = strdup(image_path(i));
	if (!f->path)
		return -ENOMEM;
	strncpy(f->build_id, image_build_id(i), sizeof(f->build_id) - 1);
	f->base = image_bias(i);
	u->n_files++;

	fd = image_open(i);
	elf = fd >= 0 ? elf_begin(fd, ELF_C_READ, NULL) : elf_from_memory(t, i, &memory);
	if (elf)
		ret = unwind_compile(u, elf, &f->row_first, &f->row_count);
	if (elf)
		elf_end(elf);
	if (fd >= 0)
		close(fd);
	free(memory);
	*out = f;
	return ret == -ENOMEM ? ret : 0;
}

static int module_order(const void *a, const void *b)
{
	const struct unwind_module *x = a, *y = b;

	return x->start < y->start ? -1 : x->start > y->start;
}

int unwind_update(struct unwind *u, struct target *t, const struct images *images)
{
	struct unwind_module *modules = calloc(UNWIND_MODULES, sizeof(*modules));
	size_t n_modules = 0, without = 0;
	int compiled = 0, ret;

	if (!modules)
		return -ENOMEM;
	for (size_t k = 0; k < images->n; k++) {
		const struct image *i = images->v[k];
		struct unwind_file *f = file_known(u, i);
		const struct image_segment *seg;
		size_t n;

		if (!f) {
			ret = file_add(u, t, i, &f);
			if (ret) {
				free(modules);
				return ret;
			}
			compiled++;
		}
		seg = image_segments(i, &n);
		for (size_t s = 0; s < n && n_modules < UNWIND_MODULES; s++) {
			if (!seg[s].exec)
				continue;
			modules[n_modules].start = seg[s].start;
			modules[n_modules].end = seg[s].end;
			modules[n_modules].base = image_bias(i);
			modules[n_modules].row_first = f->row_first;
			modules[n_modules++].row_count = f->row_count;
			without += !f->row_count;
		}
	}
	qsort(modules, n_modules, sizeof(*modules), module_order);
	free(u->modules);
	u->modules = modules;
	u->n_modules = n_modules;
	u->without = without;
	return compiled;
}
