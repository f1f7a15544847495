/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Damaged ELF images, from files and from memory: no crash, no hang, and
 * nothing outside of themselves.
 */
#include "elf_fixture.h"
#include "target/elf_functions.h"

#include <elf.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Asks an image everything; what it answers must lie in itself. */
static void exercise(struct image *i)
{
	const struct image_segment *s;
	const char *const *needed;
	struct image_symbol sym;
	struct image_functions *functions;
	uint64_t start, end, at;
	size_t n, k;
	int fd;

	s = image_segments(i, &n);
	image_symbol(i, "first", &sym);
	for (k = 0; k < n; k++) {
		assert_true(s[k].start < s[k].end && s[k].file_end <= s[k].end);
		assert_true(mappings_find(maps, s[k].start) && mappings_find(maps, s[k].end - 1));
		for (at = s[k].start; at < s[k].end; at += 997)
			if (image_symbol_at(i, at, &sym)) {
				assert_true(sym.addr <= at && at - sym.addr < sym.size);
				assert_true(strlen(sym.name) > 0);
			}
	}
	for (k = 0; k < 3; k++)
		if (image_section(i, ((const char *[]){ ".text", ".bss", ".dynsym" })[k], &start,
				  &end))
			assert_true(image_holds(i, start) && image_holds(i, end - 1));
	for (n = image_needed(i, &needed), k = 0; k < n; k++)
		assert_true(strlen(needed[k]) < 256);
	assert_true(image_symbol_count(i) < 100000);
	assert_true(strlen(image_build_id(i)) <= 128);
	fd = image_debug_open(self, i);
	if (fd >= 0)
		close(fd);
	if (!image_functions_read(i, &functions)) {
		for (k = 0; k < functions->n; k++)
			assert_ptr_equal(image_function_at(functions, functions->v[k].start),
					 &functions->v[k]);
		image_functions_free(functions);
	}
}

static uint64_t seed = 20240229;

static uint64_t rnd(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

/* Bytes that matter most: headers, .dynamic, hash tables, symbol tables. */
static size_t where(const char *good, size_t size)
{
	const Elf64_Ehdr *eh = (const void *)good;
	const Elf64_Shdr *sh = (const void *)(good + eh->e_shoff);
	unsigned k;

	switch (rnd() % 5) {
	case 0:
		return rnd() % sizeof(*eh);
	case 1:
		return eh->e_phoff + rnd() % (eh->e_phnum * sizeof(Elf64_Phdr));
	case 2:
		return eh->e_shoff + rnd() % (eh->e_shnum * sizeof(Elf64_Shdr));
	case 3:
		k = (unsigned)(rnd() % eh->e_shnum);
		if (sh[k].sh_type != SHT_NOBITS && sh[k].sh_type != SHT_PROGBITS && sh[k].sh_size)
			return sh[k].sh_offset + rnd() % sh[k].sh_size;
		/* fall through */
	default:
		return rnd() % size;
	}
}

static void damage(char *bad, const char *good, size_t size)
{
	static const uint64_t evil[] = { 0,	     1,		 0x7f,		 0xff,
					 0xffff,     0xffffffff, 1ULL << 31,	 1ULL << 62,
					 1ULL << 63, UINT64_MAX, UINT64_MAX - 7, 4096 };
	unsigned k, changes = 1 + (unsigned)(rnd() % 4);

	memcpy(bad, good, size);
	for (k = 0; k < changes; k++) {
		size_t at = where(good, size), width = 1u << rnd() % 4;
		uint64_t v = rnd() % 3 ? evil[rnd() % (sizeof(evil) / sizeof(evil[0]))] : rnd();

		at &= ~(width - 1);
		if (at + width <= size)
			memcpy(bad + at, &v, width);
	}
}

static void damaged_files(const char *good, size_t size, unsigned rounds)
{
	char *bad = malloc(size);
	unsigned k, with = 0;

	for (k = 0; k < rounds; k++) {
		size_t len = rnd() % 4 ? size : rnd() % size;
		struct loaded l;
		struct image *i;
		FILE *f = fopen(in_folder("bad.so"), "w");

		damage(bad, good, size);
		assert_int_equal(fwrite(bad, 1, len, f), len);
		fclose(f);
		l = load(in_folder("bad.so"), good);
		look();
		i = images_find(images, (uint64_t)(uintptr_t)l.base);
		if (i) {
			exercise(i);
			with += image_symbol_count(i) > 0;
		}
		munmap(l.base, l.span);
		unlink(in_folder("bad.so"));
	}
	/* most damage leaves something to read: else this test tests nothing */
	assert_true(with > rounds / 5);
	free(bad);
}

static void test_damaged_files(void **state)
{
	size_t size;
	char *good = file_read(in_folder("libboth.so"), &size);

	damaged_files(good, size, 800);
	free(good);
	run("cd %s && cp libboth.so stripped.so && strip stripped.so", folder);
	good = file_read(in_folder("stripped.so"), &size);
	damaged_files(good, size, 800);
	free(good);
	look();
}

static void test_memory_damaged(void **state)
{
	void *h = dlopen(in_folder("libboth.so"), RTLD_NOW | RTLD_LOCAL);
	unsigned round, with = 0;
	struct mappings *keep;
	struct image *good;
	struct copy c;
	char *backup[16] = { NULL };
	size_t k, parts;

	look();
	good = image_of(dlsym(h, "first"));
	copy_take(&c, good);
	assert_in_range(c.n, 2, 16);
	parts = c.n;
	if (parts < 2)
		return; /* for the static analyser */
	for (k = 0; k < parts; k++) {
		backup[k] = malloc(c.buffers[k].len);
		memcpy(backup[k], c.buffers[k].data, c.buffers[k].len);
	}
	keep = maps;
	for (round = 0; round < 4000; round++) {
		struct images *im;
		struct target *t;
		unsigned change;

		for (change = 0; change < 1 + rnd() % 4; change++) {
			/* headers and .dynamic tables more often than text */
			size_t seg = rnd() % 2 ? 0 : rnd() % parts;
			size_t at = rnd() % (rnd() % 3 ? 1024 : c.buffers[seg].len - 8);
			uint64_t v = rnd() % 2 ? rnd()
					       : (uint64_t[]){ 0, UINT64_MAX, 1ULL << 63,
							       0xffffffff }[rnd() % 4];

			memcpy((char *)(uintptr_t)c.buffers[seg].data + at, &v, 1u << rnd() % 4);
		}
		assert_int_equal(target_open_buffers(c.buffers, parts, &t), 0);
		assert_int_equal(images_read(t, &c.all, &im, NULL), 0);
		maps = &c.all;
		for (k = 0; k < im->n; k++) {
			exercise(im->v[k]);
			with += image_symbol_count(im->v[k]) > 0;
		}
		maps = keep;
		images_free(im);
		target_close(t);
		for (k = 0; k < parts; k++)
			memcpy((void *)(uintptr_t)c.buffers[k].data, backup[k], c.buffers[k].len);
	}
	assert_true(with > 400);
	for (k = 0; k < parts; k++)
		free(backup[k]);
	copy_free(&c);
	dlclose(h);
	look();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_damaged_files),
		cmocka_unit_test(test_memory_damaged),
	};

	return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
