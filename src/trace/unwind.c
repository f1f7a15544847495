// SPDX-License-Identifier: Apache-2.0
/*
 * From .eh_frame to sorted rows.
 *
 * A compiler that leaves the frame pointer out leaves a description instead, for
 * exceptions: for every address, where the caller's registers are. It comes as
 * entries of two kinds. A CIE holds what many functions share; an FDE covers one
 * function, names its CIE, and holds a little program. Run from the function's
 * first address on, the program makes a table:
 *
 *	 address      CFA        rbx      rbp      return address
 *	 0x1000       rsp+8      same     same     at CFA-8        push rbp
 *	 0x1001       rsp+16     same     CFA-16   at CFA-8        push rbx
 *	 0x1002       rsp+24     CFA-24   CFA-16   at CFA-8        sub  rsp, 40
 *	 0x1006       rsp+64     CFA-24   CFA-16   at CFA-8        ...
 *
 * CFA, the canonical frame address, is the value of rsp before the call. Such
 * tables are what the kernel side wants, but running programs there is out of
 * the question; so they are run here, once a file, and every distinct line
 * (without its address) becomes a rule: beam.smp has 53,000 lines and 459 rules.
 *
 * libdw walks the entries; the programs are run here, in one pass, because asking
 * libdw for one address after the other starts the program anew every time. A test
 * compares all rows of real libraries with libdw's answers.
 *
 * Not every rule can be kept: of registers only rbp, rbx, r12 and r13 are followed
 * besides rsp, and of DWARF expressions those that occur: the one of PLT entries,
 * one load (functions that realign their stack), the signal frame. Everything else
 * is rule 0: there the walk stops and says so.
 *
 * The files are the target's: every length is checked, nothing is mapped.
 */
#include "trace/unwind.h"

#include <dwarf.h>
#include <elfutils/libdw.h>
#include <errno.h>
#include <gelf.h>
#include <stdlib.h>
#include <string.h>

#define EH_FRAME_MAX (256u << 20) /* bytes of one section */
#define REMEMBER_MAX 32
#define ENTRIES_MAX  (1u << 24)

/* DWARF's numbers of the x86-64 registers (psABI, figure 3.36). */
enum { DW_RBX = 3, DW_RBP = 6, DW_RSP = 7, DW_R12 = 12, DW_R13 = 13, DW_RA = 16 };
static const uint8_t tracked[UNWIND_REGS] = { DW_RBP, DW_RBX, DW_R12, DW_R13 };

/* ---- a reader that cannot run over --------------------------------------------- */

struct reader {
	const uint8_t *p, *end;
	bool bad;
};

static uint64_t read_bytes(struct reader *r, unsigned n)
{
	uint64_t v = 0;

	if ((size_t)(r->end - r->p) < n) {
		r->bad = true;
		r->p = r->end;
		return 0;
	}
	memcpy(&v, r->p, n);
	r->p += n;
	return v;
}

static uint64_t read_uleb(struct reader *r)
{
	uint64_t v = 0;
	unsigned shift = 0;
	uint8_t b;

	do {
		b = (uint8_t)read_bytes(r, 1);
		if (shift < 64)
			v |= (uint64_t)(b & 0x7f) << shift;
		shift += 7;
	} while ((b & 0x80) && !r->bad);
	return v;
}

static int64_t read_sleb(struct reader *r)
{
	uint64_t v = 0;
	unsigned shift = 0;
	uint8_t b;

	do {
		b = (uint8_t)read_bytes(r, 1);
		if (shift < 64)
			v |= (uint64_t)(b & 0x7f) << shift;
		shift += 7;
	} while ((b & 0x80) && !r->bad);
	if (shift < 64 && (b & 0x40))
		v |= ~0ULL << shift;
	return (int64_t)v;
}

static struct reader read_block(struct reader *r)
{
	uint64_t n = read_uleb(r);
	struct reader block = { r->p, r->p, false };

	if (n > (uint64_t)(r->end - r->p)) {
		r->bad = true;
		return block;
	}
	block.end = r->p + n;
	r->p += n;
	return block;
}

/* A pointer as .eh_frame encodes it; `at` is the address of its first byte. */
static uint64_t read_encoded(struct reader *r, uint8_t encoding, uint64_t at, bool relative)
{
	uint64_t v;

	switch (encoding & 0x0f) {
	case DW_EH_PE_absptr:
	case DW_EH_PE_udata8:
	case DW_EH_PE_sdata8:
		v = read_bytes(r, 8);
		break;
	case DW_EH_PE_udata4:
		v = read_bytes(r, 4);
		break;
	case DW_EH_PE_sdata4:
		v = (uint64_t)(int64_t)(int32_t)read_bytes(r, 4);
		break;
	case DW_EH_PE_udata2:
		v = read_bytes(r, 2);
		break;
	case DW_EH_PE_sdata2:
		v = (uint64_t)(int64_t)(int16_t)read_bytes(r, 2);
		break;
	default:
		r->bad = true;
		return 0;
	}
	if (!relative)
		return v;
	switch (encoding & 0xf0) {
	case DW_EH_PE_absptr:
		return v;
	case DW_EH_PE_pcrel:
		return v + at;
	default:
		r->bad = true;
		return 0;
	}
}

/* ---- the state that a program works on -------------------------------------------- */

enum where { W_SAME, W_OFFSET, W_EXPRESSION, W_UNDEFINED, W_OTHER };

struct place {
	uint8_t where;
	int64_t offset;	    /* W_OFFSET */
	struct reader expr; /* W_EXPRESSION */
};

struct state {
	uint8_t cfa_where; /* W_OFFSET: register + offset; W_EXPRESSION */
	uint64_t cfa_reg;
	int64_t cfa_offset;
	struct reader cfa_expr;
	struct place reg[UNWIND_REGS];
	struct place ra;
};

/* ---- rules --------------------------------------------------------------------------- */

static bool fits16(int64_t v)
{
	return v >= INT16_MIN && v <= INT16_MAX;
}

/* breg7 8; breg16 0; lit15; and; litN; ge; lit3; shl; plus (ld's PLT entries) */
static bool expression_plt(struct reader r, struct unwind_rule *rule)
{
	static const uint8_t head[] = { 0x77, 8, 0x80, 0, 0x3f, 0x1a };
	static const uint8_t tail[] = { 0x2a, 0x33, 0x24, 0x22 };
	uint8_t lit;

	if (r.end - r.p != sizeof(head) + 1 + sizeof(tail) ||
	    memcmp(r.p, head, sizeof(head)) != 0 ||
	    memcmp(r.p + sizeof(head) + 1, tail, sizeof(tail)) != 0)
		return false;
	lit = r.p[sizeof(head)];
	if (lit < 0x30 || lit > 0x3f)
		return false;
	rule->cfa = UNWIND_CFA_PLT;
	rule->cfa_offset = lit - 0x30;
	return true;
}

/* breg6 or breg7 N; deref [; plus_uconst M | litM; plus] */
static bool expression_deref(struct reader r, struct unwind_rule *rule)
{
	uint8_t op = (uint8_t)read_bytes(&r, 1);
	int64_t offset = read_sleb(&r), plus = 0;

	if (op != DW_OP_breg0 + DW_RBP && op != DW_OP_breg0 + DW_RSP)
		return false;
	if (read_bytes(&r, 1) != DW_OP_deref || r.bad || !fits16(offset))
		return false;
	if (r.p < r.end) {
		uint8_t next = (uint8_t)read_bytes(&r, 1);

		if (next == DW_OP_plus_uconst) {
			plus = (int64_t)read_uleb(&r);
		} else if (next >= DW_OP_lit0 && next <= DW_OP_lit31) {
			plus = next - DW_OP_lit0;
			if (read_bytes(&r, 1) != DW_OP_plus)
				return false;
		} else {
			return false;
		}
	}
	if (r.bad || r.p != r.end || !fits16(plus))
		return false;
	rule->cfa = op == DW_OP_breg0 + DW_RBP ? UNWIND_CFA_BP_DEREF : UNWIND_CFA_SP_DEREF;
	rule->cfa_offset = (int32_t)offset;
	rule->deref_offset = (int16_t)plus;
	return true;
}

/* The return address is at CFA - 8 on x86-64, always; a rule that says otherwise
 * is none that we have. */
static bool rule_cfa(const struct state *s, bool signal, struct unwind_rule *rule)
{
	if (s->ra.where == W_UNDEFINED) {
		rule->cfa = UNWIND_CFA_ROOT;
		return true;
	}
	if (signal) {
		/* glibc's __restore_rt: CFA is the saved rsp, *(rsp + 160) */
		struct unwind_rule probe = { 0 };

		if (s->cfa_where != W_EXPRESSION || !expression_deref(s->cfa_expr, &probe) ||
		    probe.cfa != UNWIND_CFA_SP_DEREF || probe.cfa_offset != 160)
			return false;
		rule->cfa = UNWIND_CFA_SIGNAL;
		return true;
	}
	if (s->ra.where != W_OFFSET || s->ra.offset != -8)
		return false;
	if (s->cfa_where == W_EXPRESSION)
		return expression_plt(s->cfa_expr, rule) || expression_deref(s->cfa_expr, rule);
	if (s->cfa_where != W_OFFSET || s->cfa_offset < INT32_MIN || s->cfa_offset > INT32_MAX)
		return false;
	switch (s->cfa_reg) {
	case DW_RSP:
		rule->cfa = UNWIND_CFA_SP;
		break;
	case DW_RBP:
		rule->cfa = UNWIND_CFA_BP;
		break;
	case DW_RBX:
		rule->cfa = UNWIND_CFA_BX;
		break;
	case DW_R12:
		rule->cfa = UNWIND_CFA_R12;
		break;
	case DW_R13:
		rule->cfa = UNWIND_CFA_R13;
		break;
	default:
		return false;
	}
	rule->cfa_offset = (int32_t)s->cfa_offset;
	return true;
}

static void rule_saved(const struct state *s, struct unwind_rule *rule)
{
	for (unsigned i = 0; i < UNWIND_REGS; i++) {
		const struct place *p = &s->reg[i];
		unsigned how = UNWIND_LOST;

		if (p->where == W_SAME) {
			how = UNWIND_SAME;
		} else if (p->where == W_OFFSET && fits16(p->offset)) {
			how = UNWIND_AT_CFA;
			rule->offset[i] = (int16_t)p->offset;
		} else if (p->where == W_EXPRESSION) {
			struct reader r = p->expr;
			int64_t offset;

			if (read_bytes(&r, 1) == DW_OP_breg0 + DW_RBP) {
				offset = read_sleb(&r);
				if (!r.bad && r.p == r.end && fits16(offset)) {
					how = UNWIND_AT_BP;
					rule->offset[i] = (int16_t)offset;
				}
			}
		}
		rule->saved |= (uint8_t)(how << (2 * i));
	}
}

static uint64_t rule_hash(const struct unwind_rule *rule)
{
	uint64_t w[2];

	_Static_assert(sizeof(*rule) == sizeof(w), "struct unwind_rule has no padding");
	memcpy(w, rule, sizeof(w));
	return ((w[0] * 0x9e3779b97f4a7c15ULL) ^ w[1]) * 0xff51afd7ed558ccdULL >> 20;
}

static int rule_index_grow(struct unwind *u)
{
	size_t n = u->a_rule_index ? u->a_rule_index * 2 : 4096;
	uint32_t *index = calloc(n, sizeof(*index));

	if (!index)
		return -ENOMEM;
	for (size_t i = 1; i < u->n_rules; i++) {
		size_t h = rule_hash(&u->rules[i]) & (n - 1);

		while (index[h])
			h = (h + 1) & (n - 1);
		index[h] = (uint32_t)i;
	}
	free(u->rule_index);
	u->rule_index = index;
	u->a_rule_index = n;
	return 0;
}

/* Number of this rule, or -ENOMEM. */
static int64_t rule_number(struct unwind *u, const struct unwind_rule *rule)
{
	size_t h;

	if (u->n_rules * 2 >= u->a_rule_index && rule_index_grow(u))
		return -ENOMEM;
	h = rule_hash(rule) & (u->a_rule_index - 1);
	for (; u->rule_index[h]; h = (h + 1) & (u->a_rule_index - 1))
		if (!memcmp(&u->rules[u->rule_index[h]], rule, sizeof(*rule)))
			return u->rule_index[h];
	if (u->n_rules == u->a_rules) {
		size_t n = u->a_rules ? u->a_rules * 2 : 1024;
		struct unwind_rule *rules = realloc(u->rules, n * sizeof(*rules));

		if (!rules)
			return -ENOMEM;
		u->rules = rules;
		u->a_rules = n;
	}
	u->rules[u->n_rules] = *rule;
	u->rule_index[h] = (uint32_t)u->n_rules;
	return (int64_t)u->n_rules++;
}

static int row_add(struct unwind *u, uint64_t pc, uint32_t rule)
{
	if (pc > UINT32_MAX)
		return 0; /* linked above 4 GiB: not on this platform */
	if (u->n_rows == u->a_rows) {
		size_t n = u->a_rows ? u->a_rows * 2 : 65536;
		struct unwind_row *rows;

		if (n > UNWIND_ROWS_MAX)
			return -E2BIG;
		rows = realloc(u->rows, n * sizeof(*rows));
		if (!rows)
			return -ENOMEM;
		u->rows = rows;
		u->a_rows = n;
	}
	u->rows[u->n_rows].pc = (uint32_t)pc;
	u->rows[u->n_rows++].rule = rule;
	return 0;
}

/* The state holds from `pc` on. */
static int row_state(struct unwind *u, const struct state *s, bool signal, uint64_t pc)
{
	struct unwind_rule rule = { 0 };
	int64_t number = 0;

	if (rule_cfa(s, signal, &rule)) {
		if (rule.cfa != UNWIND_CFA_ROOT && rule.cfa != UNWIND_CFA_SIGNAL)
			rule_saved(s, &rule);
		number = rule_number(u, &rule);
		if (number < 0)
			return (int)number;
	}
	return row_add(u, pc, (uint32_t)number);
}

/* ---- programs --------------------------------------------------------------------------- */

struct cie {
	uint64_t offset; /* in the section */
	struct state initial;
	uint64_t code_factor;
	int64_t data_factor;
	uint8_t encoding; /* of the FDE's addresses */
	bool sized;	  /* FDEs have augmentation data with a length */
	bool signal;
	bool usable;
};

static struct place *state_register(struct state *s, uint64_t reg)
{
	if (reg == DW_RA)
		return &s->ra;
	for (unsigned i = 0; i < UNWIND_REGS; i++)
		if (tracked[i] == reg)
			return &s->reg[i];
	return NULL;
}

static void place_set(struct state *s, uint64_t reg, enum where where, int64_t offset)
{
	struct place *p = state_register(s, reg);

	if (!p)
		return;
	p->where = where;
	p->offset = offset;
}

static void place_restore(struct state *s, const struct state *initial, uint64_t reg)
{
	struct place *p = state_register(s, reg);

	if (p)
		*p = *state_register((struct state *)initial, reg);
}

/* Runs one program. For an FDE, `u` is set and a row is added whenever the
 * address moves on; *pc ends where the last row begins. Returns 0, -EINVAL when
 * the program is not understood, or an error of row_add(). */
static int program_run(struct unwind *u, const struct cie *c, struct state *s, struct reader r,
		       uint64_t *pc)
{
	struct state stack[REMEMBER_MAX];
	unsigned depth = 0;
	struct place *place;
	uint64_t reg, step;
	int ret;

	while (r.p < r.end && !r.bad) {
		uint8_t op = (uint8_t)read_bytes(&r, 1);

		switch (op & 0xc0) {
		case DW_CFA_advance_loc:
			step = op & 0x3f;
			goto advance;
		case DW_CFA_offset:
			place_set(s, op & 0x3f, W_OFFSET, (int64_t)read_uleb(&r) * c->data_factor);
			continue;
		case DW_CFA_restore:
			place_restore(s, &c->initial, op & 0x3f);
			continue;
		default:
			break;
		}
		switch (op) {
		case DW_CFA_nop:
			break;
		case DW_CFA_advance_loc1:
			step = read_bytes(&r, 1);
			goto advance;
		case DW_CFA_advance_loc2:
			step = read_bytes(&r, 2);
			goto advance;
		case DW_CFA_advance_loc4:
			step = read_bytes(&r, 4);
			goto advance;
		case DW_CFA_offset_extended:
			reg = read_uleb(&r);
			place_set(s, reg, W_OFFSET, (int64_t)read_uleb(&r) * c->data_factor);
			break;
		case DW_CFA_offset_extended_sf:
			reg = read_uleb(&r);
			place_set(s, reg, W_OFFSET, read_sleb(&r) * c->data_factor);
			break;
		case DW_CFA_GNU_negative_offset_extended:
			reg = read_uleb(&r);
			place_set(s, reg, W_OFFSET, -(int64_t)read_uleb(&r) * c->data_factor);
			break;
		case DW_CFA_restore_extended:
			place_restore(s, &c->initial, read_uleb(&r));
			break;
		case DW_CFA_undefined:
			place_set(s, read_uleb(&r), W_UNDEFINED, 0);
			break;
		case DW_CFA_same_value:
			place_set(s, read_uleb(&r), W_SAME, 0);
			break;
		case DW_CFA_register:
			reg = read_uleb(&r);
			place_set(s, reg, read_uleb(&r) == reg ? W_SAME : W_OTHER, 0);
			break;
		case DW_CFA_val_offset:
			reg = read_uleb(&r);
			read_uleb(&r);
			place_set(s, reg, W_OTHER, 0);
			break;
		case DW_CFA_val_offset_sf:
			reg = read_uleb(&r);
			read_sleb(&r);
			place_set(s, reg, W_OTHER, 0);
			break;
		case DW_CFA_remember_state:
			if (depth == REMEMBER_MAX)
				return -EINVAL;
			stack[depth++] = *s;
			break;
		case DW_CFA_restore_state:
			if (!depth)
				return -EINVAL;
			*s = stack[--depth];
			break;
		case DW_CFA_def_cfa:
			s->cfa_where = W_OFFSET;
			s->cfa_reg = read_uleb(&r);
			s->cfa_offset = (int64_t)read_uleb(&r);
			break;
		case DW_CFA_def_cfa_sf:
			s->cfa_where = W_OFFSET;
			s->cfa_reg = read_uleb(&r);
			s->cfa_offset = read_sleb(&r) * c->data_factor;
			break;
		case DW_CFA_def_cfa_register:
			s->cfa_reg = read_uleb(&r);
			break;
		case DW_CFA_def_cfa_offset:
			s->cfa_offset = (int64_t)read_uleb(&r);
			break;
		case DW_CFA_def_cfa_offset_sf:
			s->cfa_offset = read_sleb(&r) * c->data_factor;
			break;
		case DW_CFA_def_cfa_expression:
			s->cfa_where = W_EXPRESSION;
			s->cfa_expr = read_block(&r);
			break;
		case DW_CFA_expression:
			reg = read_uleb(&r);
			place = state_register(s, reg);
			if (place) {
				place->where = W_EXPRESSION;
				place->expr = read_block(&r);
			} else {
				read_block(&r);
			}
			break;
		case DW_CFA_val_expression:
			reg = read_uleb(&r);
			read_block(&r);
			place_set(s, reg, W_OTHER, 0);
			break;
		case DW_CFA_GNU_args_size:
			read_uleb(&r);
			break;
		default:
			return -EINVAL; /* DW_CFA_set_loc among them: no compiler makes it here */
		}
		continue;
	advance:
		if (!u)
			return -EINVAL; /* in a CIE */
		if (!step)
			continue;
		ret = row_state(u, s, c->signal, *pc);
		if (ret)
			return ret;
		*pc += step * c->code_factor;
	}
	return r.bad ? -EINVAL : 0;
}

static int cie_parse(const Dwarf_CIE *in, uint64_t offset, struct cie *c)
{
	struct reader r = { in->initial_instructions, in->initial_instructions_end, false };
	struct reader data = { in->augmentation_data, NULL, false };
	const char *a = in->augmentation ? in->augmentation : "";
	uint64_t pc = 0;

	memset(c, 0, sizeof(*c));
	c->offset = offset;
	c->code_factor = in->code_alignment_factor;
	c->data_factor = in->data_alignment_factor;
	c->encoding = DW_EH_PE_absptr;
	if (in->return_address_register != DW_RA)
		return 0;
	if (*a == 'z') {
		c->sized = true;
		if (!data.p)
			return 0;
		data.end = data.p + in->augmentation_data_size;
		for (a++; *a; a++) {
			if (*a == 'R') {
				c->encoding = (uint8_t)read_bytes(&data, 1);
			} else if (*a == 'P') {
				uint8_t encoding = (uint8_t)read_bytes(&data, 1);

				read_encoded(&data, encoding, 0, false);
			} else if (*a == 'L') {
				read_bytes(&data, 1);
			} else if (*a == 'S') {
				c->signal = true;
			} else {
				break; /* the rest does not matter: the data has a length */
			}
		}
		if (data.bad)
			return 0;
	} else if (*a) {
		return 0;
	}
	c->usable = program_run(NULL, c, &c->initial, r, &pc) == 0;
	return 0;
}

/* ---- sections ------------------------------------------------------------------------------ */

struct section {
	Elf_Data *data;
	uint64_t addr; /* in the file's own addresses */
};

/* Without section headers .eh_frame is what PT_GNU_EH_FRAME points to; how long
 * it is is not said, but a zero length ends it, so up to the segment's end. */
static bool section_by_header(Elf *elf, struct section *out)
{
	size_t n;
	GElf_Phdr eh = { 0 }, ph;
	Elf_Data *d;
	struct reader r;
	uint8_t encoding;
	uint64_t addr;

	if (elf_getphdrnum(elf, &n) || n > 256)
		return false;
	for (size_t i = 0; i < n; i++)
		if (gelf_getphdr(elf, (int)i, &ph) && ph.p_type == PT_GNU_EH_FRAME)
			eh = ph;
	if (eh.p_type != PT_GNU_EH_FRAME || eh.p_filesz < 12)
		return false;
	d = elf_getdata_rawchunk(elf, (int64_t)eh.p_offset, 12, ELF_T_BYTE);
	if (!d || !d->d_buf)
		return false;
	r.p = d->d_buf;
	r.end = r.p + d->d_size;
	r.bad = false;
	read_bytes(&r, 1);
	encoding = (uint8_t)read_bytes(&r, 1);
	read_bytes(&r, 2);
	addr = read_encoded(&r, encoding, eh.p_vaddr + 4, true);
	if (r.bad)
		return false;
	for (size_t i = 0; i < n; i++) {
		uint64_t len;

		if (!gelf_getphdr(elf, (int)i, &ph) || ph.p_type != PT_LOAD || addr < ph.p_vaddr ||
		    addr >= ph.p_vaddr + ph.p_filesz)
			continue;
		len = ph.p_vaddr + ph.p_filesz - addr;
		if (len > EH_FRAME_MAX)
			return false;
		out->addr = addr;
		out->data = elf_getdata_rawchunk(elf, (int64_t)(ph.p_offset + (addr - ph.p_vaddr)),
						 len, ELF_T_BYTE);
		return out->data && out->data->d_buf;
	}
	return false;
}

static bool section_find(Elf *elf, struct section *out)
{
	size_t names;
	Elf_Scn *scn = NULL;

	if (!elf_getshdrstrndx(elf, &names)) {
		while ((scn = elf_nextscn(elf, scn))) {
			GElf_Shdr sh;
			const char *name;

			if (!gelf_getshdr(scn, &sh) || sh.sh_type == SHT_NOBITS ||
			    sh.sh_size > EH_FRAME_MAX)
				continue;
			name = elf_strptr(elf, names, sh.sh_name);
			if (!name || strcmp(name, ".eh_frame") != 0)
				continue;
			out->addr = sh.sh_addr;
			out->data = elf_getdata_rawchunk(elf, (int64_t)sh.sh_offset, sh.sh_size,
							 ELF_T_BYTE);
			if (out->data && out->data->d_buf)
				return true;
		}
	}
	return section_by_header(elf, out);
}

struct cies {
	struct cie *v;
	size_t n, a;
};

static struct cie *cie_get(struct cies *cs, const unsigned char *ident, Elf_Data *data,
			   uint64_t offset)
{
	Dwarf_CFI_Entry entry;
	Dwarf_Off next;

	for (size_t i = cs->n; i-- > 0;)
		if (cs->v[i].offset == offset)
			return &cs->v[i];
	if (cs->n == cs->a) {
		size_t n = cs->a ? cs->a * 2 : 16;
		struct cie *v = n > 65536 ? NULL : realloc(cs->v, n * sizeof(*v));

		if (!v)
			return NULL;
		cs->v = v;
		cs->a = n;
	}
	if (dwarf_next_cfi(ident, data, true, offset, &next, &entry) != 0 ||
	    !dwarf_cfi_cie_p(&entry))
		return NULL;
	cie_parse(&entry.cie, offset, &cs->v[cs->n]);
	return &cs->v[cs->n++];
}

static int fde_compile(struct unwind *u, const struct cie *c, const Dwarf_FDE *fde,
		       const struct section *s)
{
	struct reader r = { fde->start, fde->end, false };
	uint64_t at = s->addr + (uint64_t)(fde->start - (const uint8_t *)s->data->d_buf);
	struct state state = c->initial;
	uint64_t pc, end;
	size_t before = u->n_rows;
	int ret;

	pc = read_encoded(&r, c->encoding, at, true);
	end = pc + read_encoded(&r, c->encoding, 0, false);
	if (c->sized)
		read_block(&r);
	if (r.bad || end <= pc || !pc)
		return 0; /* pc 0: a function that the linker threw away */
	ret = program_run(u, c, &state, r, &pc);
	if (ret == -EINVAL || pc >= end) {
		u->n_rows = before;
		return 0;
	}
	if (!ret)
		ret = row_state(u, &state, c->signal, pc);
	if (!ret)
		ret = row_add(u, end, 0);
	return ret;
}

/* By address; an end (rule 0) before a beginning, so that the latter holds. */
static int row_order(const void *a, const void *b)
{
	const struct unwind_row *x = a, *y = b;

	if (x->pc != y->pc)
		return x->pc < y->pc ? -1 : 1;
	return x->rule < y->rule ? -1 : x->rule > y->rule;
}

static void rows_finish(struct unwind *u, size_t first)
{
	struct unwind_row *v = u->rows + first;
	size_t n = u->n_rows - first, to = 0;
	bool sorted = true;

	for (size_t i = 1; i < n && sorted; i++)
		sorted = row_order(&v[i - 1], &v[i]) <= 0;
	if (!sorted)
		qsort(v, n, sizeof(*v), row_order);
	for (size_t i = 0; i < n; i++) {
		if (i + 1 < n && v[i + 1].pc == v[i].pc)
			continue; /* the last of equal ones holds */
		if (to && v[to - 1].rule == v[i].rule)
			continue;
		v[to++] = v[i];
	}
	u->n_rows = first + to;
}

int unwind_compile(struct unwind *u, Elf *elf, uint32_t *row_first, uint32_t *row_count)
{
	const unsigned char *ident = (const unsigned char *)elf_getident(elf, NULL);
	struct section section;
	struct cies cies = { 0 };
	Dwarf_Off offset = 0, next = 0;
	Dwarf_CFI_Entry entry;
	size_t first = u->n_rows, entries = 0;
	int ret = 0, got;

	*row_first = (uint32_t)first;
	*row_count = 0;
	if (!ident || gelf_getclass(elf) != ELFCLASS64)
		return -EINVAL;
	if (!section_find(elf, &section))
		return -ENOENT;
	while (!ret && entries++ < ENTRIES_MAX) {
		got = dwarf_next_cfi(ident, section.data, true, offset, &next, &entry);
		if (got == 1)
			break;
		if (got == 0 && !dwarf_cfi_cie_p(&entry)) {
			const struct cie *c =
				cie_get(&cies, ident, section.data, entry.fde.CIE_pointer);

			if (c && c->usable)
				ret = fde_compile(u, c, &entry.fde, &section);
		}
		if (next <= offset)
			break;
		offset = next;
	}
	free(cies.v);
	if (ret) {
		u->n_rows = first;
		return ret;
	}
	rows_finish(u, first);
	*row_count = (uint32_t)(u->n_rows - first);
	return *row_count ? 0 : -ENOENT;
}

/* ---- the whole ------------------------------------------------------------------------------------ */

int unwind_new(struct unwind **out)
{
	struct unwind *u = calloc(1, sizeof(*u));

	*out = NULL;
	if (!u)
		return -ENOMEM;
	elf_version(EV_CURRENT);
	u->rules = calloc(1024, sizeof(*u->rules));
	if (!u->rules || rule_index_grow(u)) {
		unwind_free(u);
		return -ENOMEM;
	}
	u->a_rules = 1024;
	u->n_rules = 1; /* rule 0: none */
	*out = u;
	return 0;
}

void unwind_free(struct unwind *u)
{
	if (!u)
		return;
	for (size_t i = 0; i < u->n_files; i++)
		free(u->files[i].path);
	free(u->files);
	free(u->rows);
	free(u->rules);
	free(u->rule_index);
	free(u->modules);
	free(u);
}

const struct unwind_rule *unwind_rule_at(const struct unwind *u, uint32_t first, uint32_t count,
					 uint64_t pc)
{
	size_t lo = first, hi = (size_t)first + count;

	if (pc > UINT32_MAX || hi > u->n_rows)
		return &u->rules[0];
	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (u->rows[mid].pc <= pc)
			lo = mid + 1;
		else
			hi = mid;
	}
	return &u->rules[lo > first ? u->rows[lo - 1].rule : 0];
}
