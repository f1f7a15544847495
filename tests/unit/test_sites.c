// SPDX-License-Identifier: Apache-2.0
/*
 * Which instruction a probe goes to: on made bytes, and on every exported function of
 * the real libraries, whose instructions objdump tells independently.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <elf.h>
#include <fcntl.h>
#include <gelf.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "trace/sites.h"

#define HERE 0x401000

static const struct {
	const char *what;
	uint8_t code[48];
	size_t len;
	unsigned need;
	int skip;	 /* -1: refused */
	const char *why; /* part of the reason */
} made[] = {
	{ "push", { 0x55, 0xc3 }, 2, SITE_ARG0 | SITE_RETURN, 0, "" },
	{ "push r12", { 0x41, 0x54, 0xc3 }, 3, SITE_RETURN, 0, "" },
	{ "push with rex.w", { 0x48, 0x55, 0x55 }, 3, SITE_ARG0, 2, "" },
	{ "endbr64, push", { 0xf3, 0x0f, 0x1e, 0xfa, 0x55, 0xc3 }, 6, SITE_RETURN, 4, "" },
	{ "endbr64, sub rsp, push: return wanted",
	  { 0xf3, 0x0f, 0x1e, 0xfa, 0x48, 0x83, 0xec, 0x18, 0x55 },
	  9,
	  SITE_RETURN,
	  -1,
	  "the stack pointer moves at +4" },
	{ "the same, entry only",
	  { 0xf3, 0x0f, 0x1e, 0xfa, 0x48, 0x83, 0xec, 0x18, 0x55 },
	  9,
	  SITE_ARG0,
	  8,
	  "" },
	{ "test rdi, rdi; je", { 0x48, 0x85, 0xff, 0x74, 0x01, 0x90, 0xc3 }, 7, SITE_ARG0, 3, "" },
	{ "mov rdi, rsi; push: argument 0",
	  { 0x48, 0x89, 0xf7, 0x55 },
	  4,
	  SITE_ARG0,
	  -1,
	  "overwritten at +0" },
	{ "mov rdi, rsi; push: argument 1", { 0x48, 0x89, 0xf7, 0x55 }, 4, SITE_ARG1, 3, "" },
	{ "mov edi, 1", { 0xbf, 1, 0, 0, 0, 0x55 }, 6, SITE_ARG0, -1, "overwritten" },
	{ "mov dil, 1", { 0x40, 0xb7, 1, 0x55 }, 4, SITE_ARG0, -1, "overwritten" },
	{ "mov dh, 1", { 0xb6, 1, 0x55 }, 3, SITE_ARG2, -1, "overwritten" },
	{ "mul rsi writes rdx", { 0x48, 0xf7, 0xe6, 0x70, 0x01 }, 5, SITE_ARG2, -1, "overwritten" },
	{ "mul rsi", { 0x48, 0xf7, 0xe6, 0x70, 0x01 }, 5, SITE_ARG0 | SITE_ARG1, 3, "" },
	{ "nop", { 0x90, 0x55 }, 2, 0, 0, "" },
	{ "66 nop", { 0x66, 0x90 }, 2, 0, 0, "" },
	{ "nop5 is passed", { 0x0f, 0x1f, 0x44, 0, 0, 0x55 }, 6, 0, 5, "" },
	{ "41 90 is xchg r8, rax", { 0x41, 0x90, 0x55 }, 3, SITE_ARG0, 2, "" },
	{ "66 e8 is no call for the kernel",
	  { 0x66, 0xe8, 0, 0, 0, 0, 0x55 },
	  7,
	  0,
	  -1,
	  "elsewhere" },
	{ "call", { 0xe8, 0, 0, 0, 0 }, 5, SITE_ARG0 | SITE_RETURN, 0, "" },
	{ "jmp", { 0xe9, 0, 0, 0, 0 }, 5, SITE_ARG0 | SITE_RETURN, 0, "" },
	{ "jmp [rip + x]", { 0xff, 0x25, 0, 0, 0, 0, 0x55 }, 7, 0, -1, "elsewhere at +0" },
	{ "ret", { 0xc3, 0x55 }, 2, 0, -1, "elsewhere at +0" },
	{ "syscall", { 0x0f, 0x05, 0x55 }, 3, 0, -1, "elsewhere at +0" },
	{ "int3", { 0xcc, 0x55 }, 2, 0, -1, "elsewhere at +0" },
	{ "ud2", { 0x0f, 0x0b, 0x55 }, 3, 0, -1, "elsewhere" },
	{ "loop", { 0xe2, 0xfe, 0x55 }, 3, 0, -1, "elsewhere" },
	/* 0: xor eax,eax  2: inc eax  4: push rbx ... jne 2 */
	{ "a loop back before the site",
	  { 0x31, 0xc0, 0xff, 0xc0, 0x53, 0x5b, 0x75, 0xfa, 0xc3 },
	  9,
	  0,
	  -1,
	  "a jump leads back" },
	{ "a loop to the site itself",
	  { 0x31, 0xc0, 0xff, 0xc0, 0x53, 0x5b, 0x75, 0xfc, 0xc3 },
	  9,
	  0,
	  -1,
	  "a jump leads back" },
	{ "a loop behind it", { 0x31, 0xc0, 0xff, 0xc0, 0x53, 0x5b, 0x75, 0xfd, 0xc3 }, 9, 0, 4, "" },
	{ "to the beginning: called again",
	  { 0x31, 0xc0, 0xff, 0xc0, 0x53, 0x5b, 0x75, 0xf8, 0xc3 },
	  9,
	  0,
	  4,
	  "" },
	{ "a byte that is no instruction", { 0x06, 0x55 }, 2, 0, -1, "cannot be decoded" },
	{ "cut in an instruction", { 0x48, 0x8b }, 2, 0, -1, "cannot be decoded" },
	{ "nothing", { 0 }, 0, 0, -1, "ends at +0" },
	{ "ends without", { 0x48, 0x89, 0xf8 }, 3, 0, -1, "ends at +3" },
};

static void on_made_bytes(void **state)
{
	for (size_t k = 0; k < sizeof(made) / sizeof(made[0]); k++) {
		char why[SITE_WHY_MAX];
		uint32_t depth;
		int skip = site_choose(made[k].code, made[k].len, HERE, made[k].need, &depth, why);

		if (skip != made[k].skip || !strstr(why, made[k].why))
			fail_msg("%s: %d, should be %d; \"%s\"", made[k].what, skip, made[k].skip,
				 why);
	}
}

static void below_the_return_address(void **state)
{
	static const uint8_t sub[] = { 0x48, 0x83, 0xec, 0x18, 0x48, 0x81, 0xec, 0, 1, 0, 0, 0x55 };
	static const uint8_t lea[] = { 0x48, 0x8d, 0x64, 0x24, 0xf8, 0x55 };
	static const uint8_t none[] = { 0x48, 0x85, 0xff, 0x74, 0x01, 0x90, 0xc3 };
	char why[SITE_WHY_MAX];
	uint32_t depth;

	assert_int_equal(site_choose(sub, sizeof(sub), HERE, SITE_ARG0, &depth, why), 11);
	assert_int_equal(depth, 0x118);
	assert_int_equal(site_choose(lea, sizeof(lea), HERE, SITE_ARG0, &depth, why), 5);
	assert_int_equal(depth, SITE_DEPTH_UNKNOWN);
	assert_int_equal(site_choose(none, sizeof(none), HERE, SITE_ARG0, &depth, why), 3);
	assert_int_equal(depth, 0);
}

static void far_in(void **state)
{
	char why[SITE_WHY_MAX];
	uint8_t code[256];
	uint32_t depth;

	for (size_t k = 0; k < sizeof(code); k += 3)
		memcpy(code + k, "\x48\x89\xf8", k + 3 <= sizeof(code) ? 3 : 1);
	assert_int_equal(site_choose(code, sizeof(code), HERE, 0, &depth, why), -1);
	assert_non_null(strstr(why, "none of its first"));
}

static void on_any_bytes(void **state)
{
	uint64_t seed = 88172645463325252ULL;
	char why[SITE_WHY_MAX];
	uint8_t code[96];

	for (unsigned n = 0; n < 20000; n++) {
		uint32_t depth;
		int skip;

		for (size_t k = 0; k < sizeof(code); k++) {
			seed ^= seed << 13;
			seed ^= seed >> 7;
			seed ^= seed << 17;
			code[k] = (uint8_t)(seed >> 32);
		}
		skip = site_choose(code, n % (sizeof(code) + 1), HERE, n & 31, &depth, why);
		assert_true(skip < (int)sizeof(code));
		assert_true(skip >= 0 || (*why && strlen(why) < SITE_WHY_MAX));
	}
}

/* ---- real libraries ------------------------------------------------------------------ */

/* One bit a byte: an instruction begins here, as objdump has it. */
static uint8_t *boundaries(const char *file, uint64_t max)
{
	uint8_t *bits = calloc(1, max / 8 + 1);
	char command[600], line[512];
	unsigned long long at;
	FILE *f;

	snprintf(command, sizeof(command), "objdump -d --no-show-raw-insn -j .text '%s' 2>&1",
		 file);
	f = popen(command, "re");
	while (f && bits && fgets(line, sizeof(line), f))
		if (sscanf(line, " %llx:", &at) == 1 && at < max)
			bits[at / 8] |= (uint8_t)(1u << (at & 7));
	if (f)
		pclose(f);
	return bits;
}

static bool kernel_emulates(const uint8_t *p)
{
	while (*p == 0x66 || *p == 0xf2 || *p == 0xf3 || *p == 0x2e)
		p++;
	return (*p >= 0x50 && *p <= 0x57) || (p[0] == 0x41 && p[1] >= 0x50 && p[1] <= 0x57) ||
	       *p == 0x90 || *p == 0xe8 || *p == 0xe9 || *p == 0xeb || (*p >= 0x70 && *p <= 0x7f) ||
	       (p[0] == 0x0f && p[1] >= 0x80 && p[1] <= 0x8f);
}

/* Of all exported functions of the file: how many have a site. */
static void one_file(const char *file, const char *const *must)
{
	int fd = open(file, O_RDONLY | O_CLOEXEC);
	unsigned functions = 0, sites = 0, moved = 0;
	Elf *elf = elf_begin(fd, ELF_C_READ, NULL);
	Elf_Scn *scn = NULL;
	uint8_t *bits;
	size_t shstr;

	assert_non_null(elf);
	assert_int_equal(elf_getshdrstrndx(elf, &shstr), 0);
	bits = boundaries(file, 32 << 20);
	while ((scn = elf_nextscn(elf, scn))) {
		GElf_Shdr sh;
		Elf_Data *data;

		gelf_getshdr(scn, &sh);
		data = sh.sh_type == SHT_DYNSYM ? elf_getdata(scn, NULL) : NULL;
		for (size_t k = 0; data && k < sh.sh_size / sh.sh_entsize; k++) {
			uint8_t code[65536];
			char why[SITE_WHY_MAX];
			const char *name;
			GElf_Sym sym;
			GElf_Shdr in;
			bool wanted = false;
			uint32_t depth;
			int skip;

			gelf_getsym(data, (int)k, &sym);
			if (GELF_ST_TYPE(sym.st_info) != STT_FUNC || sym.st_shndx == SHN_UNDEF ||
			    !sym.st_size || sym.st_size > sizeof(code) - 16)
				continue;
			gelf_getshdr(elf_getscn(elf, sym.st_shndx), &in);
			name = elf_strptr(elf, sh.sh_link, sym.st_name);
			if (strcmp(elf_strptr(elf, shstr, in.sh_name), ".text") != 0)
				continue;
			memset(code, 0, sizeof(code));
			if (pread(fd, code, sym.st_size,
				  (off_t)(sym.st_value - in.sh_addr + in.sh_offset)) < 0)
				continue;
			functions++;
			skip = site_choose(code, sym.st_size, sym.st_value, SITE_RETURN, &depth,
					   why);
			for (size_t m = 0; must[m]; m++)
				wanted = wanted || !strcmp(name, must[m]);
			if (wanted && skip < 0)
				fail_msg("%s: %s: %s", file, name, why);
			if (skip < 0)
				continue;
			sites++;
			moved += skip > 0;
			if (!kernel_emulates(code + skip))
				fail_msg("%s: %s+%d begins with %02x", file, name, skip,
					 code[skip]);
			if (!(bits[(sym.st_value + (unsigned)skip) / 8] &
			      (1u << ((sym.st_value + (unsigned)skip) & 7))))
				fail_msg("%s: %s+%d is no instruction", file, name, skip);
		}
	}
	print_message("%s: %u of %u functions can be probed, %u of them not at their first "
		      "instruction\n",
		      strrchr(file, '/') + 1, sites, functions, moved);
	assert_true(functions > 200);
	assert_true(sites > functions / 3);
	free(bits);
	elf_end(elf);
	close(fd);
}

static void on_real_files(void **state)
{
	static const char *const libc[] = { "malloc", "calloc", "realloc", "posix_memalign", NULL };
	static const char *const beam[] = { NULL };
	const char *roots = getenv("BEAMRAY_ROOTS");
	unsigned files = 0;
	glob_t g;
	char pattern[512];

	elf_version(EV_CURRENT);
	if (system("objdump --version >/dev/null 2>&1"))
		skip();
	snprintf(pattern, sizeof(pattern), "%s/otp-*/usr/lib/x86_64-linux-gnu/libc.so.6",
		 roots ? roots : "build/roots");
	if (!glob(pattern, 0, NULL, &g))
		for (size_t k = 0; k < g.gl_pathc; k++, files++)
			one_file(g.gl_pathv[k], libc);
	globfree(&g);
	snprintf(pattern, sizeof(pattern), "%s/otp-*/usr/lib/erlang/erts-*/bin/beam.smp",
		 roots ? roots : "build/roots");
	if (!glob(pattern, 0, NULL, &g))
		for (size_t k = 0; k < g.gl_pathc; k++, files++)
			one_file(g.gl_pathv[k], beam);
	globfree(&g);
	if (!files)
		skip(); /* the matrix has not been set up yet */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(on_made_bytes), cmocka_unit_test(below_the_return_address),
		cmocka_unit_test(far_in),	 cmocka_unit_test(on_any_bytes),
		cmocka_unit_test(on_real_files),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
