// SPDX-License-Identifier: Apache-2.0
/*
 * Choosing the instruction that a uprobe replaces.
 *
 * A uprobe is a breakpoint in front of an instruction that must still be executed
 * afterwards. A few kinds the kernel does itself, in the trap that it is in already
 * (arch/x86/kernel/uprobes.c: branch_setup_xol_ops, push_setup_xol_ops):
 *
 *	push reg          50..57, with or without a REX prefix 41
 *	nop               90 behind any prefixes (the long 0f 1f forms only since 6.18)
 *	jmp, call         eb, e9, e8: relative, without a 66 prefix
 *	jcc               70..7f, 0f 80..8f
 *
 * All others are copied out and single-stepped: a second trap, three to twenty times
 * the cost. endbr64, which begins every function built with -fcf-protection, is one
 * of them. But nothing says that a probe must be at the first instruction:
 *
 *	free:   test rdi, rdi         stepped
 *	        je   1f               emulated, and rdi is what it was: here
 *
 * A later one will do when every call passes it exactly once, with the registers
 * that the probe looks at unchanged. So we go on from the first instruction while
 *
 *	- control cannot leave in between (no jump, call, return, trap), and
 *	- no instruction in between writes a register that is needed;
 *
 * and what was found counts if no jump of the whole function leads to it or in
 * between, where it would be passed again or without a call. Jumps through a register
 * cannot be followed; compilers use them for switch tables, which begin behind the
 * prologue.
 *
 * A return or session probe replaces the return address at rsp, so rsp must still be
 * what it was (a push may be the site, but not lie before it).
 */
#include "trace/sites.h"

#include <elf.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <capstone/capstone.h>

#include "target/elf_functions.h"
#include "target/escape.h"

#define SKIP_MAX     64u	/* bytes: further in nobody's arguments are in registers */
#define FUNCTION_MAX (1u << 20) /* bytes of one function */

static const struct {
	unsigned need;
	uint16_t reg[4]; /* 64, 32, 16, 8 bits of it */
} registers[] = {
	{ SITE_ARG0, { X86_REG_RDI, X86_REG_EDI, X86_REG_DI, X86_REG_DIL } },
	{ SITE_ARG1, { X86_REG_RSI, X86_REG_ESI, X86_REG_SI, X86_REG_SIL } },
	{ SITE_ARG2, { X86_REG_RDX, X86_REG_EDX, X86_REG_DX, X86_REG_DL } },
	{ SITE_ARG2, { X86_REG_DH } },
	{ SITE_ARG3, { X86_REG_RCX, X86_REG_ECX, X86_REG_CX, X86_REG_CL } },
	{ SITE_ARG3, { X86_REG_CH } },
	{ SITE_RETURN, { X86_REG_RSP, X86_REG_ESP, X86_REG_SP, X86_REG_SPL } },
};

static bool prefixed_66(const cs_insn *in)
{
	return in->detail->x86.prefix[2] == 0x66;
}

static bool is_emulated(const cs_insn *in)
{
	const uint8_t *op = in->detail->x86.opcode;

	if (op[0] >= 0x50 && op[0] <= 0x57)
		return in->size == 1 || (in->size == 2 && in->bytes[0] == 0x41);
	if (op[0] == 0x90) /* 41 90 is an xchg, which the kernel takes for a nop */
		return in->id == X86_INS_NOP && !in->detail->x86.rex;
	if (op[0] == 0xeb || op[0] == 0xe9 || op[0] == 0xe8 || (op[0] >= 0x70 && op[0] <= 0x7f) ||
	    (op[0] == 0x0f && op[1] >= 0x80 && op[1] <= 0x8f))
		return !prefixed_66(in);
	return false;
}

static bool in_group(const cs_insn *in, uint8_t group)
{
	for (unsigned i = 0; i < in->detail->groups_count; i++)
		if (in->detail->groups[i] == group)
			return true;
	return false;
}

static bool leaves(const cs_insn *in)
{
	return in_group(in, X86_GRP_JUMP) || in_group(in, X86_GRP_CALL) ||
	       in_group(in, X86_GRP_RET) || in_group(in, X86_GRP_IRET) ||
	       in_group(in, X86_GRP_INT) || in->id == X86_INS_SYSCALL || in->id == X86_INS_UD2 ||
	       in->id == X86_INS_HLT || in->id == X86_INS_LOOP || in->id == X86_INS_LOOPE ||
	       in->id == X86_INS_LOOPNE || in->id == X86_INS_JRCXZ || in->id == X86_INS_JECXZ;
}

/* What of `need` the instruction changes. */
static unsigned spoils(csh handle, const cs_insn *in, unsigned need)
{
	cs_regs read, written;
	uint8_t n_read, n_written;
	unsigned spoilt = 0;

	if (cs_regs_access(handle, in, read, &n_read, written, &n_written))
		return need; /* not known: all */
	for (unsigned w = 0; w < n_written; w++)
		for (size_t r = 0; r < sizeof(registers) / sizeof(registers[0]); r++)
			for (unsigned k = 0; k < 4; k++)
				if (registers[r].reg[k] && written[w] == registers[r].reg[k])
					spoilt |= registers[r].need;
	return spoilt & need;
}

/* The target of a direct jump, 0 if it is none. Calls are none: a function that calls
 * itself is called. */
static uint64_t jump_target(const cs_insn *in)
{
	const cs_x86 *x = &in->detail->x86;

	if (in_group(in, X86_GRP_CALL) || x->op_count != 1 || x->operands[0].type != X86_OP_IMM)
		return 0;
	return in_group(in, X86_GRP_JUMP) || in_group(in, X86_GRP_BRANCH_RELATIVE)
		       ? (uint64_t)x->operands[0].imm
		       : 0;
}

/* Does a jump in `code` lead behind its first byte, up to `site`? Bytes that are no
 * instruction (or none that the decoder knows) are passed one by one. */
static bool jumped_over(csh handle, const uint8_t *code, size_t len, uint64_t addr, uint64_t site)
{
	cs_insn *in = cs_malloc(handle);
	uint64_t at = addr;
	bool found = false;

	if (!in)
		return true;
	while (len && !found) {
		if (cs_disasm_iter(handle, &code, &len, &at, in)) {
			uint64_t to = jump_target(in);

			found = to > addr && to <= site;
		} else {
			code++;
			at++;
			len--;
		}
	}
	cs_free(in, 1);
	return found;
}

/* How far below the return address rsp is after an instruction that changes it. */
static uint32_t deeper(const cs_insn *in, uint32_t depth)
{
	const cs_x86_op *op = in->detail->x86.operands;

	if (in->id != X86_INS_SUB || op[0].type != X86_OP_REG || op[0].reg != X86_REG_RSP ||
	    op[1].type != X86_OP_IMM || op[1].imm < 0 || op[1].imm > 1 << 16 || depth > 1 << 20)
		return SITE_DEPTH_UNKNOWN;
	return depth + (uint32_t)op[1].imm;
}

static const char *spoilt_name(unsigned spoilt)
{
	return spoilt & SITE_RETURN ? "the stack pointer moves" : "an argument is overwritten";
}

static int choose(csh handle, cs_insn *in, const uint8_t *code, size_t len, uint64_t addr,
		  unsigned need, uint32_t *depth, char *why)
{
	const uint8_t *p = code;
	uint64_t at = addr;
	size_t left = len;

	for (;;) {
		uint64_t here = at;
		unsigned spoilt;

		if (here - addr > SKIP_MAX) {
			snprintf(why, SITE_WHY_MAX,
				 "none of its first %u bytes is an instruction that the kernel "
				 "emulates",
				 SKIP_MAX);
			return -1;
		}
		if (!cs_disasm_iter(handle, &p, &left, &at, in)) {
			snprintf(why, SITE_WHY_MAX,
				 left ? "the instruction at +%u cannot be decoded"
				      : "it ends at +%u without an instruction that the kernel "
					"emulates",
				 (unsigned)(here - addr));
			return -1;
		}
		if (is_emulated(in)) {
			if (here > addr && jumped_over(handle, code, len, addr, here)) {
				snprintf(why, SITE_WHY_MAX,
					 "a jump leads back before the first instruction that the "
					 "kernel emulates (+%u)",
					 (unsigned)(here - addr));
				return -1;
			}
			return (int)(here - addr);
		}
		if (leaves(in)) {
			snprintf(why, SITE_WHY_MAX,
				 "its code goes elsewhere at +%u, and the kernel would single-step "
				 "everything up to there",
				 (unsigned)(here - addr));
			return -1;
		}
		if (spoils(handle, in, SITE_RETURN) && *depth != SITE_DEPTH_UNKNOWN)
			*depth = deeper(in, *depth);
		spoilt = spoils(handle, in, need);
		if (spoilt) {
			snprintf(why, SITE_WHY_MAX,
				 "%s at +%u, before the first instruction that the kernel emulates",
				 spoilt_name(spoilt), (unsigned)(here - addr));
			return -1;
		}
	}
}

int site_choose(const uint8_t *code, size_t len, uint64_t addr, unsigned need, uint32_t *depth,
		char *why)
{
	csh handle;
	cs_insn *in;
	int skip = -1;

	*why = '\0';
	*depth = 0;
	if (cs_open(CS_ARCH_X86, CS_MODE_64, &handle)) {
		snprintf(why, SITE_WHY_MAX, "the decoder could not be started");
		return -1;
	}
	cs_option(handle, CS_OPT_DETAIL, CS_OPT_ON);
	in = cs_malloc(handle);
	if (in)
		skip = choose(handle, in, code, len, addr, need, depth, why);
	else
		snprintf(why, SITE_WHY_MAX, "out of memory");
	if (in)
		cs_free(in, 1);
	cs_close(&handle);
	return skip;
}

static int refuse(struct error *err, const char *name, struct image *i, const char *why)
{
	char text[128], file[128];

	escape_string(text, sizeof(text), name);
	escape_string(file, sizeof(file), image_name(i));
	return error_set(err, EXIT_UNSUPPORTED, -ENOENT, "%s of %s cannot be probed: %s", text,
			 file, why);
}

/* Bytes of the function that begins at `addr`, 0 if they are not known. */
static uint64_t extent(struct image *i, uint64_t addr)
{
	struct image_functions *functions;
	const struct image_function *f;
	struct image_symbol sym;
	uint64_t size = 0;

	if (image_symbol_at(i, addr, &sym) && sym.addr == addr && sym.size)
		return sym.size;
	if (image_functions_read(i, &functions))
		return 0;
	f = image_function_at(functions, addr);
	if (f && f->start == addr)
		size = f->size;
	image_functions_free(functions);
	return size;
}

int site_find(struct image *i, uint64_t addr, uint64_t size, const char *name, unsigned need,
	      struct site *out, struct error *err)
{
	char why[SITE_WHY_MAX];
	struct image_symbol sym;
	uint8_t *code;
	int skip, ret;

	memset(out, 0, sizeof(*out));
	if (!size)
		size = extent(i, addr);
	if (!size)
		return refuse(err, name, i, "where it ends is not known");
	if (size > FUNCTION_MAX)
		return refuse(err, name, i, "it is larger than a function can be");
	if (!image_offset(i, addr, &out->offset))
		return refuse(err, name, i, "its code comes from no file");
	code = malloc(size);
	if (!code)
		return -ENOMEM;
	ret = image_bytes(i, addr, code, size);
	skip = ret ? -1 : site_choose(code, size, addr, need, &out->depth, why);
	free(code);
	if (ret)
		return refuse(err, name, i, "its code cannot be read from the file");
	if (skip < 0)
		return refuse(err, name, i, why);
	/* another function that begins in between would be counted, too */
	if (skip && image_symbol_at(i, addr + (unsigned)skip, &sym) && sym.addr > addr)
		return refuse(err, name, i, "another function begins inside of it");
	out->addr = addr + (unsigned)skip;
	out->offset += (unsigned)skip;
	out->skip = (uint32_t)skip;
	return 0;
}

int site_first(struct image *i, uint64_t addr, const char *name, struct site *out,
	       struct error *err)
{
	memset(out, 0, sizeof(*out));
	if (!image_offset(i, addr, &out->offset))
		return refuse(err, name, i, "its code comes from no file");
	out->addr = addr;
	return 0;
}

int site_find_symbol(struct image *i, const char *name, unsigned need, struct site *out,
		     struct error *err)
{
	struct image_symbol sym;

	if (!image_symbol(i, name, &sym) || sym.type != STT_FUNC)
		return refuse(err, name, i, "there is no function of this name");
	return site_find(i, sym.addr, sym.size, name, need, out, err);
}
