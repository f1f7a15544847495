/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Images of our own process, whose truth the dynamic loader (dl_iterate_phdr,
 * dlsym) and binutils (nm, readelf, objcopy) tell; libraries made by the
 * compiler for this test.
 */
#include "elf_fixture.h"

#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <link.h>
#include <linux/capability.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* extents ------------------------------------------------------------------ */

struct loader_truth {
	unsigned images, segments;
};

static int check_one(struct dl_phdr_info *info, size_t size, void *arg)
{
	struct loader_truth *truth = arg;
	const struct image_segment *s;
	struct image *i = NULL;
	char id[200] = "";
	size_t n, at = 0;
	unsigned k;

	for (k = 0; k < info->dlpi_phnum && !i; k++)
		if (info->dlpi_phdr[k].p_type == PT_LOAD)
			i = images_find(images, info->dlpi_addr + info->dlpi_phdr[k].p_vaddr);
	if (!i)
		fail_msg("no image for %s", info->dlpi_name);
	truth->images++;
	assert_int_equal(image_bias(i), info->dlpi_addr);
	s = image_segments(i, &n);
	for (k = 0; k < info->dlpi_phnum; k++) {
		const ElfW(Phdr) *p = &info->dlpi_phdr[k];

		if (p->p_type == PT_LOAD && p->p_memsz) {
			uint64_t start = info->dlpi_addr + p->p_vaddr, end = start + p->p_memsz;

			assert_true(at < n);
			assert_int_equal(s[at].start, start & ~4095ULL);
			assert_int_equal(s[at].end, (end + 4095) & ~4095ULL);
			assert_int_equal(s[at].file_end, (start + p->p_filesz + 4095) & ~4095ULL);
			assert_int_equal(s[at].exec, (p->p_flags & PF_X) != 0);
			assert_int_equal(s[at].write, (p->p_flags & PF_W) != 0);
			assert_true(image_holds(i, start) && image_holds(i, end - 1));
			at++;
			truth->segments++;
		}
		if (p->p_type == PT_NOTE) {
			const char *d = (const char *)(info->dlpi_addr + p->p_vaddr);
			const char *e = d + p->p_memsz;

			while (d + sizeof(ElfW(Nhdr)) < e) {
				const ElfW(Nhdr) *h = (const void *)d;
				const unsigned char *desc =
					(const void *)(d + sizeof(*h) + ((h->n_namesz + 3) & ~3u));
				unsigned b;

				if (h->n_type == NT_GNU_BUILD_ID && h->n_namesz == 4)
					for (b = 0; b < h->n_descsz; b++)
						sprintf(id + 2 * b, "%02x", desc[b]);
				d = (const char *)desc + ((h->n_descsz + 3) & ~3u);
			}
		}
	}
	assert_int_equal(at, n);
	assert_string_equal(image_build_id(i), id);
	return 0;
}

static void test_loader_agrees(void **state)
{
	struct loader_truth truth = { 0 };

	dl_iterate_phdr(check_one, &truth);
	assert_int_equal(truth.images, images->n);
	assert_true(truth.images >= 4 && truth.segments >= 12);
	assert_ptr_equal(images_exe(images), image_of((void *)(uintptr_t)test_loader_agrees));
	assert_null(images_find(images, (uint64_t)(uintptr_t)&truth));
	assert_null(images_find(images, 0));
	assert_null(images_find(images, UINT64_MAX));
	assert_ptr_equal(images_named(images, "libc.so"), image_of(libc_symbol("malloc")));
	assert_null(images_named(images, "libnothing"));
}

static void test_vdso(void **state)
{
	void *vdso = dlopen("linux-vdso.so.1", RTLD_NOLOAD | RTLD_NOW);
	uint64_t base = getauxval(AT_SYSINFO_EHDR);
	struct image *i = images_find(images, base);
	struct image_symbol s;

	if (!base)
		skip();
	assert_non_null(i);
	assert_string_equal(image_name(i), "[vdso]");
	assert_int_equal(image_open(i), -ENOENT);
	assert_true(image_symbol(i, "__vdso_gettimeofday", &s));
	assert_non_null(vdso);
	assert_ptr_equal((void *)(uintptr_t)s.addr, dlsym(vdso, "__vdso_gettimeofday"));
	dlclose(vdso);
}

/* symbols ------------------------------------------------------------------ */

static void test_symbols_of_libc(void **state)
{
	struct image *libc = image_of(libc_symbol("malloc"));
	static const char *const names[] = { "malloc", "free", "printf", "pthread_create",
					     "stdout" };
	struct image_symbol s;
	size_t k;

	for (k = 0; k < sizeof(names) / sizeof(names[0]); k++) {
		void *p = libc_symbol(names[k]);

		assert_true(image_symbol(libc, names[k], &s));
		assert_ptr_equal((void *)(uintptr_t)s.addr, p);
		assert_true(image_symbol_at(libc, s.addr + 1, &s));
		assert_true(s.addr == (uint64_t)(uintptr_t)p);
	}
	assert_true(image_symbol(libc, "memcpy", &s));
	assert_int_equal(s.type, STT_GNU_IFUNC);
	assert_false(image_symbol(libc, "no_such_function", &s));
	assert_false(image_symbol(libc, "", &s));
	assert_false(image_symbol(libc, "GLIBC_2.2.5", &s));
	assert_true(nm_agrees(libc, image_path(libc), "-D") > 2000);
	assert_string_equal(image_symbol_source(libc), "dynsym");
}

static void test_symbols_of_exe(void **state)
{
	struct image *exe = images_exe(images);
	struct image_symbol s;
	char path[64];

	assert_true(image_symbol(exe, "nm_agrees", &s));
	assert_ptr_equal((void *)(uintptr_t)s.addr, (void *)(uintptr_t)nm_agrees);
	assert_int_equal(s.type, STT_FUNC);
	assert_true(image_symbol(exe, "images", &s));
	assert_ptr_equal((void *)(uintptr_t)s.addr, &images);
	assert_true(s.size >= sizeof(images)); /* a sanitizer pads */
	snprintf(path, sizeof(path), "/proc/%d/exe", (int)getpid());
	assert_true(nm_agrees(exe, path, "") > 30);
	assert_string_equal(image_symbol_source(exe), "symtab");
	assert_true(image_symbol_count(exe) > 50);
}

static void library_check(void *handle, const char *path, bool dynsym_only)
{
	struct image *i;
	struct image_symbol s, all[8];
	void *first = dlsym(handle, "first");

	assert_non_null(first);
	look();
	i = image_of(first);
	assert_true(image_symbol(i, "f", &s));
	assert_ptr_equal((void *)(uintptr_t)s.addr, dlvsym(handle, "f", "V2"));
	assert_int_equal(image_symbol_all(i, "f", all, 8), 2);
	assert_ptr_equal((void *)(uintptr_t)all[1].addr, dlvsym(handle, "f", "V1"));
	assert_true(image_symbol(i, "chosen", &s));
	assert_int_equal(s.type, STT_GNU_IFUNC);
	assert_false(image_symbol(i, "local_to_thread", &s));
	/* of two names the plain one */
	assert_true(image_symbol_at(i, (uint64_t)(uintptr_t)first, &s));
	assert_string_equal(s.name, "first");
	/* nested ones, and what no extent holds */
	assert_true(image_symbol(i, "outer", &s));
	assert_true(image_symbol_at(i, s.addr + 15, all));
	assert_string_equal(all->name, "outer");
	assert_true(image_symbol_at(i, s.addr + 16, all));
	assert_string_equal(all->name, "inner");
	assert_true(image_symbol_at(i, s.addr + 31, all));
	assert_string_equal(all->name, "inner");
	assert_true(image_symbol_at(i, s.addr + 32, all));
	assert_string_equal(all->name, "outer");
	assert_true(image_symbol_at(i, s.addr + 63, all));
	assert_false(image_symbol_at(i, s.addr + 64, all));
	assert_true(image_symbol(i, "big_bss", &s));
	assert_ptr_equal((void *)(uintptr_t)s.addr, dlsym(handle, "big_bss"));
	assert_int_equal(s.size, 300001);
	assert_true(image_holds(i, s.addr + s.size - 1));
	if (dynsym_only) {
		assert_string_equal(image_symbol_source(i), "dynsym");
		assert_false(image_symbol(i, "twin", &s));
	} else {
		assert_string_equal(image_symbol_source(i), "symtab");
		assert_int_equal(image_symbol_all(i, "twin", all, 8), 2);
		assert_true(all[0].addr != all[1].addr);
	}
	nm_agrees(i, path, dynsym_only ? "-D" : "");
}

static void test_library_hash_styles(void **state)
{
	static const char *const styles[] = { "sysv", "gnu", "both" };
	char name[64], flags[128];
	size_t k;

	for (k = 0; k < 3; k++) {
		void *h;

		snprintf(name, sizeof(name), "lib%s%zu.so", styles[k], k);
		snprintf(flags, sizeof(flags), "-Wl,--hash-style=%s", styles[k]);
		library_build(name, flags);
		h = dlopen(in_folder(name), RTLD_NOW | RTLD_LOCAL);
		assert_non_null(h);
		library_check(h, in_folder(name), false);
		dlclose(h);
		run("strip %s", in_folder(name));
		h = dlopen(in_folder(name), RTLD_NOW | RTLD_LOCAL);
		library_check(h, in_folder(name), true);
		dlclose(h);
	}
	look();
}

static void test_sections_and_needed(void **state)
{
	struct image *exe = images_exe(images);
	unsigned long long addr, size;
	const char *const *needed;
	char line[512], want[64] = "";
	uint64_t start, end;
	unsigned found = 0;
	size_t n, k;
	FILE *f;

	snprintf(line, sizeof(line), "readelf -SW /proc/%d/exe", (int)getpid());
	f = popen(line, "r");
	while (fgets(line, sizeof(line), f)) {
		char name[64], type[32], *p = strchr(line, ']');

		if (!p ||
		    sscanf(p + 1, " %63s %31s %llx %*x %llx", name, type, &addr, &size) != 4 ||
		    name[0] != '.')
			continue;
		if (!addr) {
			assert_false(image_section(exe, name, &start, &end));
			continue;
		}
		if (!size || strcmp(name, ".tbss") == 0)
			continue;
		assert_true(image_section(exe, name, &start, &end));
		assert_int_equal(start - image_bias(exe), addr);
		assert_int_equal(end - start, size);
		found++;
	}
	pclose(f);
	assert_true(found > 15);
	assert_false(image_section(exe, ".nothing", &start, &end));

	n = image_needed(exe, &needed);
	snprintf(line, sizeof(line),
		 "readelf -dW /proc/%d/exe | sed -n 's/.*NEEDED.*\\[\\(.*\\)\\]/\\1/p'",
		 (int)getpid());
	f = popen(line, "r");
	for (k = 0; fgets(want, sizeof(want), f); k++) {
		want[strcspn(want, "\n")] = '\0';
		assert_true(k < n);
		assert_string_equal(needed[k], want);
	}
	pclose(f);
	assert_int_equal(k, n);
	assert_true(n >= 1);
}

/* which file --------------------------------------------------------------- */

/* In a child without the capabilities that map_files takes. */
static void without_map_files(void (*fn)(void *), void *arg)
{
	pid_t pid = fork();
	int status;

	if (pid == 0) {
		struct __user_cap_header_struct h = { _LINUX_CAPABILITY_VERSION_3, 0 };
		struct __user_cap_data_struct d[2] = { { 0 } };
		char name[64];

		syscall(SYS_capset, &h, d);
		prctl(PR_SET_DUMPABLE, 1);
		target_close(self);
		if (target_open(getpid(), &self, NULL) < 0)
			_exit(2);
		look();
		snprintf(name, sizeof(name), "map_files/%llx-%llx",
			 (unsigned long long)maps->v[0].start, (unsigned long long)maps->v[0].end);
		if (target_proc_open(self, name) >= 0)
			_exit(3);
		fn(arg);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

#define CHILD_ASSERT(c)                                                         \
	do {                                                                    \
		if (!(c)) {                                                     \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #c); \
			_exit(1);                                               \
		}                                                               \
	} while (0)

static void child_by_path(void *arg)
{
	struct image_symbol s;
	struct image *i = images_find(images, (uint64_t)(uintptr_t)arg);
	int fd;

	CHILD_ASSERT(i && strcmp(image_symbol_source(i), "symtab") == 0);
	CHILD_ASSERT(image_symbol(i, "first", &s) && s.addr == (uint64_t)(uintptr_t)arg);
	fd = image_open(i);
	CHILD_ASSERT(fd >= 0);
}

/* The path leads to another file now: only the memory can be read. */
static void child_by_memory(void *arg)
{
	struct image_symbol s;
	struct image *i = images_find(images, (uint64_t)(uintptr_t)arg);
	uint64_t start, end;
	const char *const *needed;

	CHILD_ASSERT(i && strcmp(image_symbol_source(i), "dynsym") == 0);
	CHILD_ASSERT(image_open(i) == -ENOENT);
	CHILD_ASSERT(image_symbol(i, "first", &s) && s.addr == (uint64_t)(uintptr_t)arg);
	CHILD_ASSERT(!image_symbol(i, "impostor", &s));
	CHILD_ASSERT(strlen(image_build_id(i)) == 40);
	CHILD_ASSERT(image_section(i, ".dynamic", &start, &end));
	CHILD_ASSERT(image_needed(i, &needed) >= 1 && strcmp(needed[0], "libc.so.6") == 0);
}

static void test_deleted_and_replaced(void **state)
{
	void *h, *first;
	struct image_symbol s;
	char id[200];
	int fd;

	library_build("libgone.so", "-Wl,--build-id=sha1");
	h = dlopen(in_folder("libgone.so"), RTLD_NOW | RTLD_LOCAL);
	assert_non_null(h);
	first = dlsym(h, "first");
	without_map_files(child_by_path, first);
	look();
	snprintf(id, sizeof(id), "%s", image_build_id(image_of(first)));
	assert_int_equal(strlen(id), 40);

	/* upgraded: another library stands at the path */
	run("cd %s && rm libgone.so && echo 'int impostor(void){return 1;}' > i.c && "
	    "cc -shared -fPIC -Wl,--build-id=sha1 i.c -o libgone.so",
	    folder);
	look();
	assert_string_equal(image_build_id(image_of(first)), id);
	assert_false(image_symbol(image_of(first), "impostor", &s));
	assert_true(image_symbol(image_of(first), "first", &s));
	assert_ptr_equal((void *)(uintptr_t)s.addr, first);
	fd = image_open(image_of(first));
	if (geteuid() == 0) {
		/* the deleted inode itself */
		assert_true(fd >= 0);
		assert_string_equal(image_symbol_source(image_of(first)), "symtab");
	}
	if (fd >= 0)
		close(fd);
	without_map_files(child_by_memory, first);
	dlclose(h);
	look();
}

/* A file that is mapped only to be read is not an image. */
static void test_data_mapping_is_no_image(void **state)
{
	int fd = open(in_folder("libboth.so"), O_RDONLY);
	struct stat st;
	size_t before = images->n;
	char *p;

	assert_int_equal(fstat(fd, &st), 0);
	p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	assert_ptr_not_equal(p, MAP_FAILED);
	assert_int_equal(mprotect(p + 4096, 4096, PROT_READ | PROT_WRITE), 0);
	look();
	assert_int_equal(images->n, before);
	assert_null(images_find(images, (uint64_t)(uintptr_t)p));
	munmap(p, (size_t)st.st_size);
	close(fd);
}

static void test_bss_ends_where_it_ends(void **state)
{
	size_t size, n;
	char *good = file_read(in_folder("libboth.so"), &size);
	struct loaded l = load(in_folder("libboth.so"), good);
	const struct image_segment *s;
	const struct mapping *m;

	look();
	s = image_segments(image_of(l.base), &n);
	assert_int_equal(s[n - 1].end, (uint64_t)(uintptr_t)l.base + l.bss_end);
	/* and the kernel did merge it with what lies behind */
	m = mappings_find(maps, s[n - 1].end);
	assert_non_null(m);
	assert_true(m->start < s[n - 1].end);
	assert_null(images_find(images, s[n - 1].end));
	munmap(l.base, l.span);
	free(good);
}

/* memory alone ------------------------------------------------------------- */

static void test_memory_alone(void **state)
{
	void *h = dlopen(in_folder("libboth.so"), RTLD_NOW | RTLD_LOCAL);
	struct image *libc, *here[2];
	struct images *im;
	struct target *t;
	struct copy c;
	unsigned k;

	assert_non_null(h);
	look();
	libc = image_of(libc_symbol("malloc"));
	here[0] = libc;
	here[1] = image_of(dlsym(h, "first"));
	for (k = 0; k < 2; k++) {
		const char *const *a, *const *b;
		struct image *i;

		copy_take(&c, here[k]);
		assert_int_equal(target_open_buffers(c.buffers, c.n, &t), 0);
		assert_int_equal(images_read(t, &c.all, &im, NULL), 0);
		assert_int_equal(im->n, 1);
		i = im->v[0];
		assert_int_equal(image_bias(i), image_bias(here[k]));
		assert_string_equal(image_build_id(i), image_build_id(here[k]));
		assert_string_equal(image_symbol_source(i), "dynsym");
		assert_int_equal(image_needed(i, &a), image_needed(here[k], &b));
		assert_string_equal(a[0], b[0]);
		assert_true(nm_agrees(i, image_path(here[k]), "-D") > (k ? 8 : 2000));
		if (!k) {
			assert_int_equal(image_symbol_count(i), image_symbol_count(libc));
			assert_ptr_equal(images_exe(im), i);
		}
		images_free(im);
		target_close(t);
		copy_free(&c);
	}
	dlclose(h);
	look();
}

/* debug files -------------------------------------------------------------- */

static void test_debug_files(void **state)
{
	struct image_symbol s, all[8];
	struct image *i;
	unsigned twin[2];
	void *h;
	int fd;

	/* the file itself has it */
	h = dlopen(in_folder("libboth.so"), RTLD_NOW | RTLD_LOCAL);
	look();
	fd = image_debug_open(self, image_of(dlsym(h, "first")));
	assert_true(fd >= 0);
	close(fd);
	dlclose(h);

	for (twin[0] = 0; twin[0] < 2; twin[0]++) {
		struct stat a, b;
		char name[32];

		/* with a build-id, and without one (then by CRC) */
		snprintf(name, sizeof(name), "libd%u.so", twin[0]);
		library_build(name, twin[0] ? "-Wl,--build-id=none" : "-Wl,--build-id=sha1");
		run("cd %s && mkdir -p .debug && objcopy --only-keep-debug %s .debug/%s.dbg && strip %s && "
		    "objcopy --add-gnu-debuglink=.debug/%s.dbg %s",
		    folder, name, name, name, name, name);
		h = dlopen(in_folder(name), RTLD_NOW | RTLD_LOCAL);
		assert_non_null(h);
		look();
		i = image_of(dlsym(h, "first"));
		assert_false(image_symbol(i, "twin", &s));
		fd = image_debug_open(self, i);
		assert_true(fd >= 0);
		snprintf(name, sizeof(name), ".debug/libd%u.so.dbg", twin[0]);
		assert_int_equal(fstat(fd, &a), 0);
		assert_int_equal(stat(in_folder(name), &b), 0);
		assert_int_equal(a.st_ino, b.st_ino);
		close(fd);
		assert_int_equal(image_debuginfo(self, i), 0);
		assert_string_equal(image_symbol_source(i), "debuginfo");
		assert_int_equal(image_symbol_all(i, "twin", all, 8), 2);
		assert_true(image_symbol(i, "f", &s));
		assert_ptr_equal((void *)(uintptr_t)s.addr, dlvsym(h, "f", "V2"));
		assert_true(nm_agrees(i, in_folder(name), "") > 10);

		/* another build's file in its place */
		run("cd %s && sed -i 's/return 7/return 8 + 100 * other()/' lib.c", folder);
		library_build("x.so", twin[0] ? "-Wl,--build-id=none" : "-Wl,--build-id=sha1");
		run("cd %s && objcopy --only-keep-debug x.so .debug/x && mv .debug/x %s", folder,
		    name);
		look();
		i = image_of(dlsym(h, "first"));
		assert_int_equal(image_debug_open(self, i), -ENOENT);
		assert_int_equal(image_debuginfo(self, i), -ENOENT);
		dlclose(h);
	}
	look();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_loader_agrees),
		cmocka_unit_test(test_vdso),
		cmocka_unit_test(test_symbols_of_libc),
		cmocka_unit_test(test_symbols_of_exe),
		cmocka_unit_test(test_library_hash_styles),
		cmocka_unit_test(test_sections_and_needed),
		cmocka_unit_test(test_deleted_and_replaced),
		cmocka_unit_test(test_data_mapping_is_no_image),
		cmocka_unit_test(test_bss_ends_where_it_ends),
		cmocka_unit_test(test_memory_alone),
		cmocka_unit_test(test_debug_files),
	};

	return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
