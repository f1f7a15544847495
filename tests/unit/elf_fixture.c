/* SPDX-License-Identifier: Apache-2.0 */
#include "elf_fixture.h"

#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

char folder[] = "/tmp/test-elf-XXXXXX";
struct target *self;
struct mappings *maps;
struct images *images;

void look(void)
{
	struct error err = { 0 };

	images_free(images);
	mappings_free(maps);
	images = NULL;
	assert_int_equal(mappings_read(self, &maps, &err), 0);
	assert_int_equal(images_read(self, maps, &images, &err), 0);
}

const char *in_folder(const char *name)
{
	static char path[4][PATH_MAX];
	static unsigned turn;
	char *p = path[turn++ % 4];

	snprintf(p, PATH_MAX, "%s/%s", folder, name);
	return p;
}

void run(const char *fmt, ...)
{
	char cmd[4096];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(cmd, sizeof(cmd), fmt, ap);
	va_end(ap);
	if (system(cmd) != 0)
		fail_msg("failed: %s", cmd);
}

static void text_write(const char *name, const char *text)
{
	FILE *f = fopen(in_folder(name), "w");

	assert_non_null(f);
	fputs(text, f);
	fclose(f);
}

void *libc_symbol(const char *name)
{
	void *p = dlsym(dlopen("libc.so.6", RTLD_NOLOAD | RTLD_NOW), name);

	assert_non_null(p);
	return p;
}

struct image *image_of(const void *p)
{
	struct image *i = images_find(images, (uint64_t)(uintptr_t)p);

	assert_non_null(i);
	return i;
}

/* A library with one of everything. */
static const char library_source[] =
	"static int twin(void) { return 1; }\n"
	"extern int other(void), getpid(void);\n"
	"int first(void) { return twin() + other() + getpid(); }\n"
	"int old_f(void) { return 1; }\n"
	"int new_f(void) { return 2; }\n"
	"__asm__(\".symver old_f,f@V1\\n.symver new_f,f@@V2\");\n"
	"static int pick_a(void) { return 7; }\n"
	"static int (*pick(void))(void) { return pick_a; }\n"
	"int chosen(void) __attribute__((ifunc(\"pick\")));\n"
	"__thread int local_to_thread = 3;\n"
	"int data[1000] = { 1 };\n"
	"char big_bss[300001];\n"
	"int __first(void) __attribute__((alias(\"first\")));\n"
	/* outer [0,64), inner [16,32) */
	"__asm__(\".text\\n.globl outer\\n.type outer,@function\\nouter: .fill 16,1,0x90\\n\"\n"
	"\".globl inner\\n.type inner,@function\\ninner: .fill 16,1,0x90\\n.size inner,16\\n\"\n"
	"\".fill 32,1,0x90\\n.size outer,64\\n.fill 64,1,0x90\");\n";
static const char other_source[] = "static int twin(void) { return 5; }\n"
				   "int other(void) { return twin(); }\n";

void library_build(const char *name, const char *flags)
{
	const char *cc = getenv("CC");

	run("cd %s && %s -g -O0 -fPIC -shared %s -Wl,--version-script=v.map lib.c other.c -o %s",
	    folder, cc && *cc ? cc : "cc", flags, name);
}

int fixture_setup(void **state)
{
	assert_non_null(mkdtemp(folder));
	text_write("lib.c", library_source);
	text_write("other.c", other_source);
	text_write("v.map", "V1 { global: *; }; V2 { } V1;\n");
	library_build("libboth.so", "-Wl,--hash-style=both -Wl,--build-id=sha1");
	assert_int_equal(target_open(getpid(), &self, NULL), 0);
	look();
	return 0;
}

int fixture_teardown(void **state)
{
	images_free(images);
	mappings_free(maps);
	target_close(self);
	run("rm -rf %s", folder);
	return 0;
}

unsigned nm_agrees(struct image *i, const char *path, const char *flags)
{
	char cmd[PATH_MAX + 100], line[8192], name[8000], type = '?';
	unsigned long long addr, size;
	unsigned n = 0;
	FILE *f;

	snprintf(cmd, sizeof(cmd), "nm %s --defined-only -S %s", flags, path);
	f = popen(cmd, "r");
	assert_non_null(f);
	while (fgets(line, sizeof(line), f)) {
		struct image_symbol s, all[16];
		char *at;
		bool sized = strlen(line) > 36 && line[33] == ' ' &&
			     sscanf(line, "%llx %llx %c %7999s", &addr, &size, &type, name) == 4;
		bool is_old, is_global = type >= 'A' && type <= 'Z';
		size_t k, found;

		if (!sized)
			continue;
		at = strchr(name, '@');
		is_old = at && at[1] != '@';
		if (at)
			*at = '\0';
		if (strchr("aAuUN", type))
			continue;
		/* nm shows thread-local ones as data */
		if (!image_holds(i, image_bias(i) + addr) || strcmp(name, "local_to_thread") == 0)
			continue;
		found = image_symbol_all(i, name, all, 16);
		for (k = 0; k < found && k < 16; k++)
			if (all[k].addr == image_bias(i) + addr && all[k].size == size)
				break;
		if (!found || (k == found && found <= 16)) {
			/* a TLS symbol's offset looks like a low address */
			if (addr < 0x1000)
				continue;
			fail_msg("%s: not found: %s", path, line);
		}
		assert_true(image_symbol(i, name, &s));
		if (is_global && !is_old && at)
			assert_int_equal(s.addr, image_bias(i) + addr);
		assert_string_equal(s.name, name);
		assert_true(image_symbol_at(i, image_bias(i) + addr, &s));
		assert_true(s.addr <= image_bias(i) + addr &&
			    s.addr + s.size > image_bias(i) + addr);
		assert_true(image_symbol_at(i, image_bias(i) + addr + size - 1, &s));
		assert_true(s.addr + s.size > image_bias(i) + addr + size - 1);
		n++;
	}
	assert_int_equal(pclose(f), 0);
	return n;
}

struct loaded load(const char *path, const char *good)
{
	const Elf64_Ehdr *eh = (const void *)good;
	const Elf64_Phdr *ph = (const void *)(good + eh->e_phoff);
	int fd = open(path, O_RDONLY);
	struct loaded l = { 0 };
	unsigned k;

	assert_true(fd >= 0);
	for (k = 0; k < eh->e_phnum; k++)
		if (ph[k].p_type == PT_LOAD)
			l.bss_end = (ph[k].p_vaddr + ph[k].p_memsz + 4095) & ~4095ULL;
	l.span = l.bss_end + 65536;
	l.base = mmap(NULL, l.span, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(l.base, MAP_FAILED);
	for (k = 0; k < eh->e_phnum; k++) {
		size_t from = ph[k].p_vaddr & ~4095ULL;
		size_t len = ph[k].p_vaddr + ph[k].p_filesz - from;
		int prot = ((ph[k].p_flags & PF_R) ? PROT_READ : 0) |
			   ((ph[k].p_flags & PF_W) ? PROT_WRITE : 0) |
			   ((ph[k].p_flags & PF_X) ? PROT_EXEC : 0);

		if (ph[k].p_type == PT_LOAD)
			assert_ptr_not_equal(mmap(l.base + from, len, prot, MAP_PRIVATE | MAP_FIXED,
						  fd, (off_t)(ph[k].p_offset & ~4095ULL)),
					     MAP_FAILED);
	}
	close(fd);
	return l;
}

char *file_read(const char *path, size_t *size)
{
	FILE *f = fopen(path, "r");
	char *buf;

	assert_non_null(f);
	fseek(f, 0, SEEK_END);
	*size = (size_t)ftell(f);
	rewind(f);
	buf = malloc(*size);
	assert_int_equal(fread(buf, 1, *size, f), *size);
	fclose(f);
	return buf;
}

void copy_free(struct copy *c)
{
	size_t k;

	for (k = 0; k < c->n; k++)
		free((void *)(uintptr_t)c->buffers[k].data);
}

void copy_take(struct copy *c, const struct image *i)
{
	const struct image_segment *s;
	size_t k;

	memset(c, 0, sizeof(*c));
	s = image_segments(i, &c->n);
	for (k = 0; k < c->n; k++) {
		size_t len = s[k].end - s[k].start;
		char *data = malloc(len);

		assert_int_equal(target_read(self, s[k].start, data, len), 0);
		c->buffers[k] = (struct target_buffer){ s[k].start, data, len };
		c->maps[k] = *mappings_find(maps, s[k].start);
		c->maps[k].start = s[k].start;
		c->maps[k].end = s[k].end;
	}
	c->all.v = c->maps;
	c->all.n = c->n;
}
