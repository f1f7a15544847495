// SPDX-License-Identifier: Apache-2.0
/*
 * Unwind tables against libdw: every row of real libraries, register by register.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dwarf.h>
#include <elfutils/libdw.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "trace/unwind.h"

static const int dwarf_regs[UNWIND_REGS] = { 6, 3, 12, 13 };

/* What libdw says of the CFA, in our terms. Returns false for what has no rule. */
static bool expect_cfa(Dwarf_Frame *frame, struct unwind_rule *out)
{
	Dwarf_Op memory[3], *ops;
	size_t n;
	bool signal = false;
	Dwarf_Addr start, end;
	int ra = dwarf_frame_info(frame, &start, &end, &signal);

	memset(out, 0, sizeof(*out));
	if (ra != 16)
		return false;
	/* the return address */
	if (dwarf_frame_register(frame, 16, memory, &ops, &n) != 0)
		return false;
	if (n == 0) {
		out->cfa = ops ? UNWIND_CFA_ROOT : UNWIND_CFA_NONE;
		return out->cfa != UNWIND_CFA_NONE;
	}
	if (!signal && (n != 2 || ops[0].atom != DW_OP_call_frame_cfa ||
			ops[1].atom != DW_OP_plus_uconst || (int64_t)ops[1].number != -8))
		return false;
	if (dwarf_frame_cfa(frame, &ops, &n) != 0)
		return false;
	if (signal) {
		out->cfa = UNWIND_CFA_SIGNAL;
		return n == 2 && ops[0].atom == DW_OP_breg7 && ops[0].number == 160 &&
		       ops[1].atom == DW_OP_deref;
	}
	if (n == 1 && ops[0].atom == DW_OP_bregx) {
		out->cfa_offset = (int32_t)ops[0].number2;
		switch (ops[0].number) {
		case 7:
			out->cfa = UNWIND_CFA_SP;
			break;
		case 6:
			out->cfa = UNWIND_CFA_BP;
			break;
		case 3:
			out->cfa = UNWIND_CFA_BX;
			break;
		case 12:
			out->cfa = UNWIND_CFA_R12;
			break;
		case 13:
			out->cfa = UNWIND_CFA_R13;
			break;
		default:
			return false;
		}
		return true;
	}
	if (n == 9 && ops[0].atom == DW_OP_breg7 && ops[1].atom == DW_OP_breg16 &&
	    ops[8].atom == DW_OP_plus) {
		out->cfa = UNWIND_CFA_PLT;
		out->cfa_offset = ops[4].atom - DW_OP_lit0;
		return true;
	}
	if ((n == 2 || n == 3) && (ops[0].atom == DW_OP_breg6 || ops[0].atom == DW_OP_breg7) &&
	    ops[1].atom == DW_OP_deref) {
		out->cfa = ops[0].atom == DW_OP_breg6 ? UNWIND_CFA_BP_DEREF : UNWIND_CFA_SP_DEREF;
		out->cfa_offset = (int32_t)ops[0].number;
		if (n == 3)
			out->deref_offset = (int16_t)ops[2].number;
		return n == 2 || ops[2].atom == DW_OP_plus_uconst;
	}
	return false;
}

static void expect_register(Dwarf_Frame *frame, int reg, unsigned *how, int *offset)
{
	Dwarf_Op memory[3], *ops;
	size_t n;

	*offset = 0;
	*how = UNWIND_LOST;
	if (dwarf_frame_register(frame, reg, memory, &ops, &n) != 0)
		return;
	if (n == 0) {
		/* unspecified: undefined for libdw, but callee-saved registers of
		 * the ABI stay as they are; the two cannot be told apart here */
		*how = UNWIND_SAME;
	} else if (ops[0].atom == DW_OP_call_frame_cfa && n <= 2) {
		*how = UNWIND_AT_CFA;
		*offset = n == 2 ? (int)(int64_t)ops[1].number : 0;
		if (n == 2 && ops[1].atom != DW_OP_plus_uconst)
			*how = UNWIND_LOST; /* a value, not a place */
	} else if (ops[0].atom == DW_OP_breg6 && n == 1) {
		*how = UNWIND_AT_BP;
		*offset = (int)(int64_t)ops[0].number;
	}
}

struct tally {
	size_t rows, without, checked, registers;
};

static void compare(const char *path, struct tally *tally)
{
	struct unwind *u;
	uint32_t first, count;
	Dwarf_CFI *cfi;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	Elf *elf;

	memset(tally, 0, sizeof(*tally));
	if (fd < 0)
		return;
	assert_int_equal(unwind_new(&u), 0);
	elf = elf_begin(fd, ELF_C_READ, NULL);
	assert_non_null(elf);
	assert_int_equal(unwind_compile(u, elf, &first, &count), 0);
	cfi = dwarf_getcfi_elf(elf);
	assert_non_null(cfi);
	for (uint32_t i = first; i < first + count; i++) {
		uint32_t pc = u->rows[i].pc;
		uint32_t next = i + 1 < first + count ? u->rows[i + 1].pc : pc + 1;
		/* both ends of what the row covers */
		uint32_t at[2] = { pc, next - 1 };

		assert_true(next > pc);
		tally->rows++;
		for (int k = 0; k < 2; k++) {
			const struct unwind_rule *got = unwind_rule_at(u, first, count, at[k]);
			struct unwind_rule want;
			Dwarf_Frame *frame = NULL;
			bool known;

			assert_ptr_equal(got, &u->rules[u->rows[i].rule]);
			if (dwarf_cfi_addrframe(cfi, at[k], &frame) != 0) {
				/* an address that no FDE covers */
				if (got->cfa != UNWIND_CFA_NONE)
					fail_msg("%s+0x%x: a rule where libdw has none", path,
						 at[k]);
				tally->without++;
				continue;
			}
			known = expect_cfa(frame, &want);
			if (got->cfa != (known ? want.cfa : UNWIND_CFA_NONE) ||
			    (known && (got->cfa_offset != want.cfa_offset ||
				       got->deref_offset != want.deref_offset)))
				fail_msg("%s+0x%x: CFA %u %d, libdw %u %d", path, at[k], got->cfa,
					 got->cfa_offset, known ? want.cfa : 0, want.cfa_offset);
			for (unsigned r = 0; known && r < UNWIND_REGS; r++) {
				unsigned how, have = (got->saved >> (2 * r)) & 3;
				int offset;

				if (want.cfa == UNWIND_CFA_ROOT || want.cfa == UNWIND_CFA_SIGNAL)
					break;
				expect_register(frame, dwarf_regs[r], &how, &offset);
				if (have != how || (how != UNWIND_SAME &&
						    got->offset[r] != offset && how != UNWIND_LOST))
					fail_msg("%s+0x%x: register %u is %u %d, libdw %u %d", path,
						 at[k], r, have, got->offset[r], how, offset);
				tally->registers++;
			}
			tally->checked++;
			free(frame);
		}
	}
	print_message("%s: %zu rows, %zu rules, %zu places and %zu registers as libdw\n", path,
		      tally->rows, u->n_rules, tally->checked, tally->registers);
	dwarf_cfi_end(cfi);
	elf_end(elf);
	close(fd);
	unwind_free(u);
}

struct names {
	char libc[512];
};

static int find_library(struct dl_phdr_info *info, size_t size, void *arg)
{
	struct names *names = arg;

	(void)size;
	if (info->dlpi_name && strstr(info->dlpi_name, "/libc.so.6"))
		snprintf(names->libc, sizeof(names->libc), "%s", info->dlpi_name);
	return 0;
}

static void test_libc(void **state)
{
	struct names names = { 0 };
	struct tally tally;

	dl_iterate_phdr(find_library, &names);
	compare(names.libc, &tally);
	assert_true(tally.rows > 5000);
	assert_true(tally.without > 0); /* end of .text at least */
}

static void test_self(void **state)
{
	struct tally tally;

	compare("/proc/self/exe", &tally);
	assert_true(tally.rows > 100);
}

/* Whatever else is mapped: libdw, libelf, libcrypto where it is. */
static int compare_library(struct dl_phdr_info *info, size_t size, void *arg)
{
	struct tally tally;

	(void)size;
	if (info->dlpi_name && info->dlpi_name[0] == '/') {
		compare(info->dlpi_name, &tally);
		++*(int *)arg;
	}
	return 0;
}

static void test_libraries(void **state)
{
	int n = 0;

	dl_iterate_phdr(compare_library, &n);
	assert_true(n >= 3);
}

static void test_beam(void **state)
{
	glob_t found;

	if (glob("/usr/lib/erlang/erts-*/bin/beam.smp", 0, NULL, &found) != 0)
		skip();
	for (size_t i = 0; i < found.gl_pathc; i++) {
		struct tally tally;

		compare(found.gl_pathv[i], &tally);
		assert_true(tally.rows > 20000);
	}
	globfree(&found);
}

/* Files that lie: cut anywhere, or with any byte changed, nothing may happen
 * but an error or other rows. */
static void test_damaged(void **state)
{
	unsigned seed = 1;
	FILE *f;
	long size;
	char *buf, *copy;

	f = fopen("/proc/self/exe", "re");
	assert_non_null(f);
	fseek(f, 0, SEEK_END);
	size = ftell(f);
	rewind(f);
	buf = malloc((size_t)size);
	copy = malloc((size_t)size);
	assert_non_null(buf);
	assert_non_null(copy);
	assert_int_equal(fread(buf, 1, (size_t)size, f), size);
	fclose(f);
	for (int round = 0; round < 60; round++) {
		struct unwind *u;
		uint32_t first, count;
		Elf *elf;
		size_t len = (size_t)size;

		memcpy(copy, buf, (size_t)size);
		if (round % 3 == 0)
			len = (size_t)rand_r(&seed) % (size_t)size;
		for (int k = 0; k < 2000; k++)
			copy[(size_t)rand_r(&seed) % (size_t)size] = (char)rand_r(&seed);
		if (round & 1)
			memcpy(copy, buf, sizeof(Elf64_Ehdr));
		assert_int_equal(unwind_new(&u), 0);
		elf = elf_memory(copy, len);
		if (elf) {
			unwind_compile(u, elf, &first, &count);
			for (size_t i = 0; i < u->n_rows; i++)
				assert_true(u->rows[i].rule < u->n_rules);
			elf_end(elf);
		}
		unwind_free(u);
	}
	free(buf);
	free(copy);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_libc),	  cmocka_unit_test(test_self),
		cmocka_unit_test(test_libraries), cmocka_unit_test(test_beam),
		cmocka_unit_test(test_damaged),
	};

	elf_version(EV_CURRENT);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
