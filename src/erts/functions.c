/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Finding C functions in a beam.smp that may have no symbols.
 *
 * garbage_collect() is static in every release, so even where symbols are it has none.
 * What it cannot hide is what it says: it tells tracers of gc_minor_start,
 * gc_minor_end, gc_major_start and gc_major_end. Atoms known to the emulator have fixed
 * numbers in one build, so the four terms stand in its code as 32-bit constants:
 *
 *	atom table -> number of gc_minor_start ... -> term (number << 6 | tag)
 *	.text      -> the one function (extents by .eh_frame) with all four constants
 *
 * That is the first kind of evidence. The second is who calls it: a direct call (e8)
 * from at least three functions; from erts_garbage_collect and its like where their
 * names are exported (23 to 27), and where not, one that the JIT's own fragment
 * global::garbage_collect calls (29). Both must agree.
 *
 * Collections on dirty schedulers are counted in a static of erl_gc.c, {reclaimed,
 * collections}: the only thing in the image that garbage_collect() adds two words to at once
 * (one SSE store, 25 to 29), or one word and then its neighbour (23).
 *
 * Carriers need no search: each allocator instance (Allctr_t) has pointers to the
 * functions that get and give back its memory. A pointer is believed when
 * it leads to the beginning of a function of beam.smp in whose code the offset of
 * the Allctr_t's own counter of these calls stands.
 *
 * A compiler that knows from a profile where a pointer nearly always leads (Debian's
 * OTP 29 is built so) compares it and does what the function would do on the spot:
 *
 *	if (allctr->mseg_alloc == erts_alcu_mseg_alloc)
 *		... erts_mseg_alloc_opt(allctr->alloc_no, ...), as that function does
 *	else
 *		allctr->mseg_alloc(allctr, ...)
 *
 * Then the function is hardly ever called, but what it calls is. So of the functions that go to
 * mseg with the allocator's own options (Allctr_t.mseg_opt) the one that they call is
 * taken. The others are copied when something refers to them that reads the pointer. Of
 * those that go to malloc the two functions are taken that they call, for memory with an
 * alignment and without: these know no allocator, but who called them does, and counts the call
 * in its Allctr_t afterwards, so that it must have kept its address.
 */
#include "erts/functions.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "target/elf_functions.h"

#define TEXT_MAX      (64u << 20)
#define ATOMS_LOOKED  4096u /* atoms of the emulator come first; there are about 1,500 */
#define CALLERS_LEAST 3
#define CALLERS_MAX   16
#define ATOM_TAG      0x0bu
#define FRAGMENT_MAX  4096u

struct text {
	struct vm *vm;
	struct image_functions *functions;
	unsigned char *v;
	uint64_t start;
	size_t n;
};

static void text_free(struct text *t)
{
	image_functions_free(t->functions);
	free(t->v);
}

static int text_read(struct vm *vm, struct text *out)
{
	uint64_t end;
	int ret;

	memset(out, 0, sizeof(*out));
	out->vm = vm;
	if (!vm->exe || !image_section(vm->exe, ".text", &out->start, &end) || end <= out->start ||
	    end - out->start > TEXT_MAX)
		return -ENOENT;
	ret = image_functions_read(vm->exe, &out->functions);
	if (ret)
		return ret;
	out->n = (size_t)(end - out->start);
	out->v = malloc(out->n);
	ret = out->v ? image_bytes(vm->exe, out->start, out->v, out->n) : -ENOMEM;
	if (ret)
		text_free(out);
	return ret;
}

static uint32_t u32_at(const unsigned char *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

/* What a 32-bit distance that ends at byte `at + 4` of the text leads to. */
static uint64_t relative(const struct text *t, size_t at)
{
	return t->start + at + 4 + (uint64_t)(int64_t)(int32_t)u32_at(t->v + at);
}

/* The bytes of a function within the text; false when they are not all there. */
static bool extent(const struct text *t, const struct image_function *f, size_t *from, size_t *to)
{
	if (f->start < t->start || f->start - t->start > t->n ||
	    f->size > t->n - (f->start - t->start))
		return false;
	*from = (size_t)(f->start - t->start);
	*to = *from + (size_t)f->size;
	return true;
}

/* ---- the collector --------------------------------------------------------------------- */

static const char *const gc_atoms[] = {
	"gc_minor_start",
	"gc_minor_end",
	"gc_major_start",
	"gc_major_end",
};
#define GC_ATOMS (sizeof(gc_atoms) / sizeof(gc_atoms[0]))

static bool atoms_find(struct vm *vm, uint32_t *terms)
{
	char name[1100];
	size_t found = 0;

	memset(terms, 0, GC_ATOMS * sizeof(*terms));
	for (uint32_t i = 0; i < ATOMS_LOOKED && found < GC_ATOMS; i++) {
		if (vm_atom(vm, i, name, sizeof(name)) < 0)
			continue;
		for (size_t k = 0; k < GC_ATOMS; k++) {
			if (!terms[k] && strcmp(name, gc_atoms[k]) == 0) {
				terms[k] = i << 6 | ATOM_TAG;
				found++;
			}
		}
	}
	return found == GC_ATOMS;
}

/* The functions that hold all of the constants: how many, and the first. */
static size_t holders_find(const struct text *t, const uint32_t *terms,
			   const struct image_function **first)
{
	size_t n = 0;

	*first = NULL;
	for (size_t k = 0; k < t->functions->n; k++) {
		const struct image_function *f = &t->functions->v[k];
		unsigned seen = 0;
		size_t from, to;

		if (!extent(t, f, &from, &to))
			continue;
		for (size_t i = from; i + 4 <= to; i++) {
			uint32_t v = u32_at(t->v + i);

			for (size_t a = 0; a < GC_ATOMS; a++)
				if (v == terms[a])
					seen |= 1u << a;
		}
		if (seen != (1u << GC_ATOMS) - 1)
			continue;
		if (!n++)
			*first = f;
	}
	return n;
}

/* The functions with a direct call to `addr`: how many, and at most CALLERS_MAX of them. */
static size_t callers_find(const struct text *t, uint64_t addr, uint64_t *out)
{
	size_t n = 0;

	for (size_t i = 0; i + 5 <= t->n; i++) {
		const struct image_function *f;

		if (t->v[i] != 0xe8 || relative(t, i + 1) != addr)
			continue;
		f = image_function_at(t->functions, t->start + i);
		if (!f || f->start == addr || (n && n <= CALLERS_MAX && out[n - 1] == f->start))
			continue;
		if (n < CALLERS_MAX)
			out[n] = f->start;
		n++;
	}
	return n;
}

static bool holds(const uint64_t *v, size_t n, uint64_t addr)
{
	for (size_t i = 0; i < n && i < CALLERS_MAX; i++)
		if (v[i] == addr)
			return true;
	return false;
}

/* erts_garbage_collect and its like, where they are exported: how many there are, and
 * how many of them are among the callers. */
static void named_callers(struct vm *vm, const uint64_t *callers, size_t n, unsigned *there,
			  unsigned *agree)
{
	static const char *const names[] = {
		"erts_garbage_collect",
		"erts_garbage_collect_nobump",
		"erts_garbage_collect_literals",
		"erts_gc_after_bif_call_lhf",
	};
	struct image_symbol sym;

	*there = *agree = 0;
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		if (!image_symbol(vm->exe, names[i], &sym))
			continue;
		++*there;
		if (holds(callers, n, sym.addr))
			++*agree;
	}
}

/* Does the JIT's fragment for collections call one of the callers? The fragment's calls
 * go through a word of memory (ff 15) or are direct (e8). -ENOENT: no such fragment. */
static int fragment_calls(struct vm *vm, const struct code *code, const uint64_t *callers, size_t n)
{
	unsigned char bytes[FRAGMENT_MAX];
	struct code_range r;
	uint64_t len;

	if (!code || code_fragment(code, "global::garbage_collect", &r) || r.end <= r.start)
		return -ENOENT;
	len = r.end - r.start < sizeof(bytes) ? r.end - r.start : sizeof(bytes);
	if (target_read(vm->target, r.start, bytes, len))
		return -ENOENT;
	for (size_t i = 0; i + 6 <= len; i++) {
		uint64_t to = 0;

		if (bytes[i] == 0xe8)
			to = r.start + i + 5 + (uint64_t)(int64_t)(int32_t)u32_at(bytes + i + 1);
		else if (bytes[i] != 0xff || bytes[i + 1] != 0x15 ||
			 target_read(vm->target,
				     r.start + i + 6 +
					     (uint64_t)(int64_t)(int32_t)u32_at(bytes + i + 2),
				     &to, sizeof(to)))
			continue;
		if (holds(callers, n, to))
			return 1;
	}
	return 0;
}

static bool image_data_holds(const struct image *image, uint64_t addr)
{
	const struct image_segment *s;
	size_t n;

	s = image_segments(image, &n);
	for (size_t i = 0; i < n; i++)
		if (s[i].write && addr >= s[i].start && addr < s[i].end)
			return (addr & 7) == 0;
	return false;
}

/* dirty_gc.info; 0 unless exactly one pair of words fits. */
static uint64_t dirty_info_find(const struct text *t, const struct image_function *gc)
{
	uint64_t found = 0, added[CALLERS_MAX];
	size_t from, to, n_added = 0;

	if (!extent(t, gc, &from, &to))
		return 0;
	for (size_t i = from; i + 8 <= to; i++) {
		const unsigned char *p = t->v + i;
		uint64_t at = 0;

		/* a store of 16 bytes relative to rip: movups, movaps, movdqa, movdqu */
		if (p[0] == 0x0f && (p[1] == 0x11 || p[1] == 0x29 || p[1] == 0x7f) &&
		    (p[2] & 0xc7) == 0x05)
			at = relative(t, i + 3);
		/* add %reg64, X(%rip): X is the first word if 1 is added to its neighbour */
		else if ((p[0] & 0xfb) == 0x48 && p[1] == 0x01 && (p[2] & 0xc7) == 0x05 &&
			 n_added < CALLERS_MAX)
			added[n_added++] = relative(t, i + 3);
		if (!at || !image_data_holds(t->vm->exe, at) || at == found)
			continue;
		if (found)
			return 0;
		found = at;
	}
	for (size_t i = from; i + 8 <= to; i++) {
		const unsigned char *p = t->v + i;
		uint64_t at;

		/* addq $1, X(%rip): the distance counts from behind the constant */
		if (p[0] != 0x48 || p[1] != 0x83 || p[2] != 0x05 || p[7] != 1)
			continue;
		at = relative(t, i + 3) + 1 - 8;
		for (size_t k = 0; k < n_added; k++) {
			if (added[k] != at || !image_data_holds(t->vm->exe, at) || at == found)
				continue;
			if (found)
				return 0;
			found = at;
		}
	}
	return found;
}

int vm_gc_find(struct vm *vm, const struct code *code, struct vm_gc *out, struct error *err)
{
	uint64_t callers[CALLERS_MAX];
	const struct image_function *gc;
	unsigned there, agree;
	uint32_t terms[GC_ATOMS];
	struct text t;
	size_t n;
	int ret, fragment;

	memset(out, 0, sizeof(*out));
	ret = text_read(vm, &t);
	if (ret == -ENOMEM)
		return error_set(err, EXIT_INCOMPLETE, ret, "Out of memory.");
	if (ret)
		return error_set(err, EXIT_UNSUPPORTED, -ENOENT,
				 "The collector cannot be probed: the executable's code or its "
				 ".eh_frame cannot be read.");
	ret = -ENOENT;
	if (!atoms_find(vm, terms)) {
		error_set(
			err, EXIT_UNSUPPORTED, ret,
			"The collector cannot be probed: the VM's atom table has no gc_minor_start.");
		goto out;
	}
	n = holders_find(&t, terms, &gc);
	if (n != 1) {
		error_set(err, EXIT_UNSUPPORTED, ret,
			  "The collector cannot be probed: %zu functions of the executable use the "
			  "atoms gc_minor_start to gc_major_end, and it should be one.",
			  n);
		goto out;
	}
	n = callers_find(&t, gc->start, callers);
	named_callers(vm, callers, n, &there, &agree);
	fragment = there ? -ENOENT : fragment_calls(vm, code, callers, n);
	if (n < CALLERS_LEAST || n > CALLERS_MAX || agree != there || fragment == 0) {
		error_set(err, EXIT_UNSUPPORTED, ret,
			  "The collector cannot be probed: what looks like it is called by %zu "
			  "functions, %u of %u known ones among them%s.",
			  n, agree, there,
			  fragment == 0 ? ", and not by what the JIT's code calls" : "");
		goto out;
	}
	out->addr = gc->start;
	out->size = gc->size;
	out->dirty_info = dirty_info_find(&t, gc);
	snprintf(out->evidence, sizeof(out->evidence), "four atoms, %zu callers%s", n,
		 there		? ", the exported ones among them"
		 : fragment > 0 ? ", one of them called by the JIT's fragment"
				: "");
	ret = 0;
out:
	text_free(&t);
	return ret;
}

/* ---- carriers ---------------------------------------------------------------------------- */

const char *carrier_call_name(enum carrier_call c)
{
	static const char *const names[CARRIER_CALLS] = {
		[CARRIER_MSEG_ALLOC] = "mseg_alloc",	 [CARRIER_MSEG_REALLOC] = "mseg_realloc",
		[CARRIER_MSEG_DEALLOC] = "mseg_dealloc", [CARRIER_SYS_ALLOC] = "sys_alloc",
		[CARRIER_SYS_REALLOC] = "sys_realloc",	 [CARRIER_SYS_DEALLOC] = "sys_free",
	};

	return c < CARRIER_CALLS ? names[c] : "?";
}

/* Does the function's code address a word `offset` behind a register? */
static bool uses_offset(const struct text *t, const struct image_function *f, int32_t offset)
{
	size_t from, to;

	if (!extent(t, f, &from, &to))
		return false;
	for (size_t i = from; i + 5 <= to; i++)
		/* ModRM: a register and a distance of 32 bits */
		if ((t->v[i] & 0xc0) == 0x80 && u32_at(t->v + i + 1) == (uint32_t)offset)
			return true;
	return false;
}

/* The functions of .text that `f` calls directly (the PLT is outside): how many, and at
 * most `max` of them. */
static size_t callees_find(const struct text *t, const struct image_function *f,
			   const struct image_function **out, size_t max)
{
	size_t from, to, n = 0;

	if (!extent(t, f, &from, &to))
		return 0;
	for (size_t i = from; i + 5 <= to; i++) {
		const struct image_function *callee;
		size_t a, b, k = 0;

		if (t->v[i] != 0xe8)
			continue;
		callee = image_function_at(t->functions, relative(t, i + 1));
		if (!callee || callee->start != relative(t, i + 1) || !extent(t, callee, &a, &b))
			continue;
		while (k < n && k < max && out[k] != callee)
			k++;
		if (k < n && k < max)
			continue;
		if (n < max)
			out[n] = callee;
		n++;
	}
	return n;
}

/* Does it read the pointer `offset` behind a register: mov, cmp, an indirect call? */
static bool reads_at(const struct text *t, const struct image_function *f, int32_t offset)
{
	size_t from, to;

	if (!extent(t, f, &from, &to))
		return false;
	for (size_t i = from; i + 7 <= to; i++) {
		const unsigned char *p = t->v + i;

		if (*p != 0x8b && *p != 0x39 && *p != 0x3b && *p != 0xff)
			continue;
		/* ModRM with a distance of 32 bits, behind a SIB byte if there is one */
		if ((p[1] & 0xc0) == 0x80 &&
		    u32_at(p + ((p[1] & 7) == 4 ? 3 : 2)) == (uint32_t)offset)
			return true;
	}
	return false;
}

/* Is `f` referred to by a function that reads the pointer at `offset` of an Allctr_t? Who
 * only sets it up writes there, or somewhere else. */
static bool is_copied(const struct text *t, const struct image_function *f, int32_t offset)
{
	for (size_t i = 0; i + 4 <= t->n; i++) {
		const struct image_function *by;

		if (relative(t, i) != f->start)
			continue;
		by = image_function_at(t->functions, t->start + i);
		if (by && by != f && reads_at(t, by, offset))
			return true;
	}
	return false;
}

static bool add(struct vm_carrier_functions *out, const struct image_function *f,
		enum carrier_call call, bool by_number, bool by_caller)
{
	if (out->n == VM_CARRIER_FUNCTIONS_MAX)
		return false;
	out->v[out->n].addr = f->start;
	out->v[out->n].size = f->size;
	out->v[out->n].call = call;
	out->v[out->n].by_number = by_number;
	out->v[out->n].by_caller = by_caller;
	out->n++;
	return true;
}

struct carrier_pointer {
	enum carrier_call call;
	int32_t offset; /* in Allctr_t */
	struct layout_field counter;
};

static bool function_add(struct text *t, struct vm_carrier_functions *out,
			 const struct carrier_pointer *p, uint64_t addr)
{
	const struct image_function *f = image_function_at(t->functions, addr), *callee[2];
	struct layout_field options = t->vm->layout->Allctr_t__mseg_opt;
	bool mseg = p->call <= CARRIER_MSEG_DEALLOC;

	if (!f || f->start != addr || !layout_has(p->counter) ||
	    !uses_offset(t, f, p->counter.offset))
		goto no;
	if (mseg && layout_has(options) && uses_offset(t, f, options.offset)) {
		if (callees_find(t, f, callee, 2) == 1 && add(out, callee[0], p->call, true, false))
			return true;
		goto no;
	}
	if (is_copied(t, f, p->offset)) {
		if (!mseg && p->call != CARRIER_SYS_DEALLOC && callees_find(t, f, callee, 2) == 2)
			return add(out, callee[0], p->call, false, true) &&
			       add(out, callee[1], p->call, false, true);
		out->copied |= 1u << p->call;
	}
	if (add(out, f, p->call, false, false))
		return true;
no:
	if (!out->refused++)
		snprintf(out->why, sizeof(out->why),
			 "an allocator's %s leads to 0x%" PRIx64 ", which is no such function",
			 carrier_call_name(p->call), addr);
	return false;
}

int vm_carrier_functions_find(struct vm *vm, const struct allocators *a,
			      struct vm_carrier_functions *out, struct error *err)
{
	const struct layout *l = vm->layout;
	/* In a row: mseg_alloc, mseg_realloc, mseg_dealloc, mseg_mmapper, sys_alloc,
	 * sys_realloc, sys_dealloc (struct Allctr_t_, 23 to 29). */
	const struct carrier_pointer pointers[] = {
		{ CARRIER_MSEG_ALLOC, l->Allctr_t__mseg_alloc.offset,
		  l->Allctr_t__calls_mseg_alloc },
		{ CARRIER_MSEG_REALLOC, l->Allctr_t__mseg_alloc.offset + 8,
		  l->Allctr_t__calls_mseg_realloc },
		{ CARRIER_MSEG_DEALLOC, l->Allctr_t__mseg_dealloc.offset,
		  l->Allctr_t__calls_mseg_dealloc },
		{ CARRIER_SYS_ALLOC, l->Allctr_t__sys_alloc.offset, l->Allctr_t__calls_sys_alloc },
		{ CARRIER_SYS_REALLOC, l->Allctr_t__sys_alloc.offset + 8,
		  l->Allctr_t__calls_sys_realloc },
		{ CARRIER_SYS_DEALLOC, l->Allctr_t__sys_alloc.offset + 16,
		  l->Allctr_t__calls_sys_free },
	};
	uint64_t seen[CARRIER_CALLS][4] = { { 0 } }; /* pointers that were looked at */
	bool have[CARRIER_CALLS] = { false };
	struct text t;
	int ret;

	memset(out, 0, sizeof(*out));
	if (!layout_has(l->Allctr_t__mseg_alloc) || !layout_has(l->Allctr_t__sys_alloc) ||
	    l->Allctr_t__mseg_dealloc.offset != l->Allctr_t__mseg_alloc.offset + 16)
		return error_set(err, EXIT_UNSUPPORTED, -ENOENT,
				 "Carriers cannot be probed: this release's allocators have no "
				 "pointers to the functions that make them.");
	ret = text_read(vm, &t);
	if (ret == -ENOMEM)
		return error_set(err, EXIT_INCOMPLETE, ret, "Out of memory.");
	if (ret)
		return error_set(err, EXIT_UNSUPPORTED, -ENOENT,
				 "Carriers cannot be probed: the executable's code or its "
				 ".eh_frame cannot be read.");
	for (size_t i = 0; i < a->n_inst; i++) {
		for (size_t k = 0; k < sizeof(pointers) / sizeof(pointers[0]); k++) {
			struct layout_field f = { pointers[k].offset, 8 };
			uint64_t addr, *was = seen[pointers[k].call];
			size_t n = 0;

			if (!vm_field(a->inst[i].copy, l->size_Allctr_t, f, &addr) || !addr)
				continue;
			while (n < 4 && was[n] && was[n] != addr)
				n++;
			if (n < 4 && was[n] == addr)
				continue;
			if (n < 4)
				was[n] = addr;
			if (function_add(&t, out, &pointers[k], addr))
				have[pointers[k].call] = true;
		}
	}
	text_free(&t);
	if ((have[CARRIER_MSEG_ALLOC] && have[CARRIER_MSEG_DEALLOC]) ||
	    (have[CARRIER_SYS_ALLOC] && have[CARRIER_SYS_DEALLOC]))
		return 0;
	return error_set(err, EXIT_UNSUPPORTED, -ENOENT,
			 "Carriers cannot be probed: no allocator leads to the functions that make "
			 "them%s%s.",
			 out->why[0] ? ": " : "", out->why);
}
