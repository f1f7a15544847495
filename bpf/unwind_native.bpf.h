/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Native frames of a stack: unwind.bpf.h opens with the page that explains them. */
#ifndef BEAMRAY_BPF_UNWIND_NATIVE_H
#define BEAMRAY_BPF_UNWIND_NATIVE_H

#include "scratch.bpf.h"

/* Index of the module that holds ip, or -1. The bounds of both searches are kept
 * in the scratch area: in registers the verifier would follow each of their
 * possible ranges, hundreds of thousands of steps. */
__noinline int module_find(__u32 slot, __u64 ip)
{
	struct scratch *s = scratch_get(slot);
	struct tables *t;
	__u32 which, lo;

	if (!s)
		return -1;
	which = s->which;
	t = bpf_map_lookup_elem(&tables, &which);
	if (!t)
		return -1;
	s->lo = 0;
	s->hi = t->n_modules;
	for (int i = 0; i < 11; i++) {
		__u32 mid = (s->lo + s->hi) / 2;

		if (s->lo >= s->hi)
			break;
		if (t->modules[mid & (UNWIND_MODULES - 1)].end <= ip)
			s->lo = mid + 1;
		else
			s->hi = mid;
	}
	lo = s->lo;
	if (lo >= t->n_modules || lo >= UNWIND_MODULES || ip < t->modules[lo].start)
		return -1;
	return (int)lo;
}

/* Number of the rule that holds at pc among rows first .. first + n - 1. */
__noinline int rule_find(__u32 slot, __u32 first, __u32 n, __u32 pc)
{
	struct scratch *s = scratch_get(slot);
	struct unwind_row *r;
	__u32 at;

	if (!s)
		return 0;
	s->lo = first;
	s->hi = first + n;
	for (int i = 0; i < UNWIND_ROW_STEPS; i++) {
		at = s->lo + (s->hi - s->lo) / 2;
		if (s->hi - s->lo <= 1)
			break;
		r = bpf_map_lookup_elem(&rows, &at);
		if (!r)
			return 0;
		if (r->pc <= pc)
			s->lo = at;
		else
			s->hi = at;
	}
	at = s->lo;
	r = bpf_map_lookup_elem(&rows, &at);
	if (!n || !r || r->pc > pc)
		return 0;
	return (int)r->rule;
}

/* Reads a saved register; `how` has its two bits lowest. */
static __always_inline __u64 restore(__u64 value, __u32 how, __s16 offset, __u64 cfa, __u64 bp)
{
	__u64 at;

	if ((how & 3) == UNWIND_SAME)
		return value;
	if ((how & 3) == UNWIND_LOST)
		return 0;
	at = (__u64)(long)offset + ((how & 3) == UNWIND_AT_CFA ? cfa : bp);
	if (read_user(&value, sizeof(value), at))
		return 0;
	return value;
}

enum step { STEP_ON, STEP_CODE, STEP_MAIN, STEP_ROOT, STEP_CUT };

/* The kernel pushed the interrupted registers: struct rt_sigframe is at sp, in
 * it uc_mcontext at 40 (arch/x86/include/uapi/asm/sigcontext.h). */
static __always_inline int signal_step(struct scratch *s)
{
	__u64 sp = s->sp;

	if (read_user(&s->r12, 8, sp + 40 + 32) || read_user(&s->r13, 8, sp + 40 + 40) ||
	    read_user(&s->bp, 8, sp + 40 + 80) || read_user(&s->bx, 8, sp + 40 + 88) ||
	    read_user(&s->sp, 8, sp + 40 + 120) || read_user(&s->ip, 8, sp + 40 + 128)) {
		cut(s, CUT_READ);
		return STEP_CUT;
	}
	s->exact = 1;
	return STEP_ON;
}

/* A probe on return stands between this frame and its caller: takes the address that was
 * there before. */
static __always_inline bool return_restore(struct scratch *s)
{
	__u64 at = s->sp - 8, *was = bpf_map_lookup_elem(&returns, &at);

	if (!was || s->ip != trampoline())
		return false;
	s->ip = *was;
	return true;
}

/* From one native frame to its caller. */
__noinline int native_step(__u32 slot)
{
	struct scratch *s = scratch_get(slot);
	struct unwind_module *m;
	struct unwind_rule *rule;
	struct tables *t;
	__u64 pc, cfa, ra;
	__u32 number, which;
	int at;

	if (!s)
		return STEP_CUT;
	which = s->which;
	t = bpf_map_lookup_elem(&tables, &which);
	if (!t)
		return STEP_CUT;
	if (in_code(t, s->ip))
		return STEP_CODE;
	/* a return address may lie behind the function that calls as its last act */
	pc = s->exact ? s->ip : s->ip - 1;
	at = module_find(slot, pc);
	if (at < 0 && !s->exact && return_restore(s)) {
		if (in_code(t, s->ip))
			return STEP_CODE;
		pc = s->ip - 1;
		at = module_find(slot, pc);
	}
	if (!emit(s, STACK_WORD(STACK_NATIVE, s->ip & 0x7fffffffffffULL))) {
		cut(s, CUT_DEPTH);
		return STEP_CUT;
	}
	if (cfg.flavor == VM_EMULATOR && pc >= cfg.main_start && pc < cfg.main_end)
		return STEP_MAIN;
	if (at < 0) {
		cut(s, CUT_NO_MODULE);
		return STEP_CUT;
	}
	m = &t->modules[at & (UNWIND_MODULES - 1)];
	number = (__u32)rule_find(slot, m->row_first, m->row_count, (__u32)(pc - m->base));
	rule = number ? bpf_map_lookup_elem(&rules, &number) : NULL;
	if (!rule) {
		cut(s, CUT_NO_RULE);
		return STEP_CUT;
	}
	cfa = (__u64)(long)rule->cfa_offset;
	switch (rule->cfa) {
	case UNWIND_CFA_SP:
	case UNWIND_CFA_SP_DEREF:
		cfa += s->sp;
		break;
	case UNWIND_CFA_BP:
	case UNWIND_CFA_BP_DEREF:
		cfa += s->bp;
		break;
	case UNWIND_CFA_BX:
		cfa += s->bx;
		break;
	case UNWIND_CFA_R12:
		cfa += s->r12;
		break;
	case UNWIND_CFA_R13:
		cfa += s->r13;
		break;
	case UNWIND_CFA_PLT:
		cfa = s->sp + ((pc & 15) >= cfa ? 16 : 8);
		break;
	case UNWIND_CFA_SIGNAL:
		return signal_step(s);
	case UNWIND_CFA_ROOT:
		return STEP_ROOT;
	default:
		cut(s, CUT_NO_RULE);
		return STEP_CUT;
	}
	if (rule->cfa == UNWIND_CFA_SP_DEREF || rule->cfa == UNWIND_CFA_BP_DEREF) {
		if (read_user(&cfa, sizeof(cfa), cfa)) {
			cut(s, CUT_READ);
			return STEP_CUT;
		}
		cfa += (__u64)(long)rule->deref_offset;
	}
	if (cfa <= s->sp || (cfa & 7)) {
		cut(s, CUT_LOOP);
		return STEP_CUT;
	}
	if (read_user(&ra, sizeof(ra), cfa - 8)) {
		cut(s, CUT_READ);
		return STEP_CUT;
	}
	s->bx = restore(s->bx, rule->saved >> 2, rule->offset[UNWIND_BX], cfa, s->bp);
	s->r12 = restore(s->r12, rule->saved >> 4, rule->offset[UNWIND_R12], cfa, s->bp);
	s->r13 = restore(s->r13, rule->saved >> 6, rule->offset[UNWIND_R13], cfa, s->bp);
	s->bp = restore(s->bp, rule->saved, rule->offset[UNWIND_BP], cfa, s->bp);
	s->sp = cfa;
	s->ip = ra;
	s->exact = 0;
	return ra ? STEP_ON : STEP_ROOT; /* the ABI marks the outermost frame so */
}

#endif
