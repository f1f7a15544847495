/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Recognising the VM's knowledge of its code, and three counters.
 *
 * __jit_debug_descriptor is gdb's JIT interface: {u32 version = 1, u32 action,
 * relevant, first}; first heads a list of {next, prev, symfile, size}, whose
 * head has no prev and whose next points back.
 *
 * r[] of beam_ranges.c: per code index {modules, n, allocated, mid}, the
 * modules sorted by address, mid inside them.
 *
 * Counters have no shape. They are recognised by value: what a counter counts
 * is counted by walking the structures, and the word that equals the sum is the
 * counter. erts_total_code_size is the sum of the code lengths in the module
 * table; atom_space is the sum of the lengths of all atoms whose text does not
 * lie in the image; erts_ets_misc_mem_size is the size of the table of table
 * names and a little more.
 */
#include "erts/anchors_find.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define MODULES_MAX  65536U /* MODULE_LIMIT */
#define ATOMS_MAX    (1U << 22)
#define COUNTER_NEAR 8192 /* bytes around a file's other statics */

/* ---- JIT descriptor ---------------------------------------------------------------- */

bool anchor_is_jit_descriptor(const struct anchor_search *s, uint64_t addr)
{
	uint64_t relevant, first, entry[4], next[4];
	uint32_t version, action;

	if (!image_copy_u32(s->copy, addr, &version) || version != 1 ||
	    !image_copy_u32(s->copy, addr + 4, &action) || action > 2 ||
	    !image_copy_u64(s->copy, addr + 8, &relevant) ||
	    !image_copy_u64(s->copy, addr + 16, &first) || !anchor_heap_pointer(s, first) ||
	    (relevant && !anchor_heap_pointer(s, relevant)))
		return false;
	/* {next, prev, symfile, size}. The first one's prev is not looked at: OTP 25
	 * leaves in it what malloc's memory held (seen on one node in forty). */
	if (!anchor_peek(s, first, entry, sizeof(entry)) || !anchor_heap_pointer(s, entry[0]) ||
	    !entry[2] || entry[3] < 4 || entry[3] > (1ULL << 30))
		return false;
	return anchor_peek(s, entry[0], next, sizeof(next)) && next[1] == first;
}

/* ---- Code ranges ------------------------------------------------------------------- */

/* One code index's entry: 0 wrong, 1 possible, 2 right in every respect. The
 * entry that is being staged has a new array but the old n and mid, and keeps
 * them when the staging is given up (erts_start_staging_ranges()). */
static int ranges_quality(const struct anchor_search *s, uint64_t e)
{
	const struct layout *l = s->l;
	uint64_t modules, n, allocated, mid, prev = 0;

	if (!anchor_field(s, e, l->code_ranges__modules, &modules) ||
	    !anchor_field(s, e, l->code_ranges__n, &n) ||
	    !anchor_field(s, e, l->code_ranges__allocated, &allocated) ||
	    !anchor_field(s, e, l->code_ranges__mid, &mid))
		return 0;
	if (n > 2 * MODULES_MAX || allocated > 2 * MODULES_MAX ||
	    (modules && !anchor_heap_pointer(s, modules)) || (n && !modules) ||
	    (allocated && !modules) || (modules && !allocated))
		return 0;
	if (!n || n > allocated || mid < modules ||
	    mid >= modules + allocated * l->size_code_range || (mid - modules) % l->size_code_range)
		return 1;
	for (uint64_t k = 0; k < n && k < 64; k++) {
		uint64_t r[2];

		/* end is start for a module that was purged */
		if (!anchor_peek(s, modules + k * l->size_code_range, r, sizeof(r)) ||
		    r[0] < prev || r[1] < r[0] || !anchor_pointer(s, r[0] & ~7ULL))
			return 1;
		prev = r[1];
	}
	return 2;
}

bool anchor_is_ranges(const struct anchor_search *s, uint64_t addr)
{
	const struct layout *l = s->l;
	uint64_t n_index = layout_has_const(l->num_code_ix) ? (uint64_t)l->num_code_ix : 3;
	unsigned right = 0;

	if (!l->size_code_ranges || l->size_code_range != 16)
		return false;
	for (uint64_t i = 0; i < n_index; i++) {
		int quality = ranges_quality(s, addr + i * l->size_code_ranges);

		if (!quality)
			return false;
		right += quality == 2;
	}
	return right > 0;
}

static void find_ranges(struct anchor_search *s)
{
	const struct layout *l = s->l;

	if (!anchor_missing(s, A_RANGES))
		return;
	if (!l->size_code_ranges) {
		s->a->v[A_RANGES].why = "the layout does not know the table of code ranges";
		return;
	}
	for (size_t i = 0; i < s->copy->n; i++) {
		const struct image_piece *p = &s->copy->v[i];

		for (uint64_t at = p->start; p->write && at + 96 <= p->end; at += 8) {
			uint64_t modules, n;

			if (!anchor_field(s, at, l->code_ranges__modules, &modules) ||
			    !anchor_field(s, at, l->code_ranges__n, &n) || !n ||
			    n > 2 * MODULES_MAX || !anchor_heap_pointer(s, modules))
				continue;
			if (anchor_is_ranges(s, at)) {
				anchor_set(s, A_RANGES, at, ANCHOR_SIGNATURE);
				return;
			}
		}
	}
}

/* ---- Sum of code ------------------------------------------------------------------- */

/* Sum of code lengths, current and old, over one code index's module table. */
static uint64_t code_sum(const struct anchor_search *s, uint64_t table)
{
	const struct layout *l = s->l;
	uint64_t entries, segs, sum = 0, slots[1024];

	if (!anchor_field(s, table, l->IndexTable__entries, &entries) ||
	    !anchor_field(s, table, l->IndexTable__seg_table, &segs) || entries > MODULES_MAX ||
	    !layout_has(l->Module__curr_code_length) || !layout_has(l->Module__old_code_length))
		return 0;
	for (uint64_t i = 0; i < entries; i++) {
		uint64_t seg;
		uint32_t length = 0;

		if (i % 1024 == 0 &&
		    (!anchor_u64(s, segs + i / 1024 * 8, &seg) ||
		     !anchor_read(s, seg, slots, 8 * (entries - i < 1024 ? entries - i : 1024))))
			return 0;
		if (!anchor_peek(s, slots[i % 1024] + (uint64_t)l->Module__curr_code_length.offset,
				 &length, 4))
			return 0;
		sum += length;
		if (!anchor_peek(s, slots[i % 1024] + (uint64_t)l->Module__old_code_length.offset,
				 &length, 4))
			return 0;
		sum += length;
	}
	return sum;
}

static void find_code_size(struct anchor_search *s)
{
	uint64_t tables = s->a->v[A_MODULE_TABLES].addr;

	for (uint64_t i = 0; i < 3 && tables && anchor_missing(s, A_TOTAL_CODE_SIZE); i++) {
		uint64_t sum = code_sum(s, tables + i * s->l->size_IndexTable);

		/* Smaller numbers could be anything; kernel and stdlib alone are
		 * more than this. */
		if (sum < 65536)
			continue;
		anchor_set(s, A_TOTAL_CODE_SIZE, image_copy_find_word(s->copy, sum, 0),
			   ANCHOR_SIGNATURE);
	}
}

static void find_bif_table(struct anchor_search *s)
{
	/* {BifFunction f, traced/eterm mfa...}: bif_table[i] begins with the
	 * atoms {module, name, arity}. erlang:abs/1 or similar heads it in every
	 * release: three words, an atom, an atom, a small arity; then a function.
	 * The longest run of such entries is the table. */
	uint64_t best = 0, best_n = 0, start = 0, stop = 0;

	if (!anchor_missing(s, A_BIF_TABLE) || !image_section(s->exe, ".text", &start, &stop))
		return;
	for (size_t i = 0; i < s->copy->n; i++) {
		const struct image_piece *p = &s->copy->v[i];

		for (uint64_t at = 0; p->write && at + 48 <= p->end - p->start; at += 8) {
			uint64_t n = 0, e[6];

			while (at + 48 * (n + 1) <= p->end - p->start) {
				memcpy(e, p->data + at + 48 * n, sizeof(e));
				if ((e[0] & 0x3f) != 0xb || (e[1] & 0x3f) != 0xb || e[2] > 255 ||
				    e[0] >> 32 || e[1] >> 32 || e[3] < start || e[3] >= stop)
					break;
				n++;
			}
			if (n > best_n) {
				best_n = n;
				best = p->start + at;
			}
			if (n)
				at += 48 * n - 8;
		}
	}
	if (best_n >= 300)
		anchor_set(s, A_BIF_TABLE, best, ANCHOR_SIGNATURE);
}

void anchors_find_code(struct anchor_search *s)
{
	if (anchor_missing(s, A_JIT_DESCRIPTOR))
		for (size_t i = 0; i < s->copy->n; i++) {
			const struct image_piece *p = &s->copy->v[i];

			for (uint64_t at = p->start; p->write && at + 24 <= p->end; at += 8)
				if (anchor_is_jit_descriptor(s, at)) {
					anchor_set(s, A_JIT_DESCRIPTOR, at, ANCHOR_SIGNATURE);
					break;
				}
		}
	find_ranges(s);
	find_code_size(s);
	find_bif_table(s);
}

/* ---- Atom text --------------------------------------------------------------------- */

/* Bytes of text of all atoms that are not the emulator's own: those of
 * erl_atom_names[] keep their text in the image and are not counted, up to 27
 * (init_atom_table()). From 28 on, text lies in literals and all count. */
static bool atom_text_sum(const struct anchor_search *s, uint64_t *sum)
{
	const struct layout *l = s->l;
	uint64_t table = s->a->v[A_ATOM_TABLE].addr, segs, slots[1024];
	uint32_t entries;

	*sum = 0;
	if (!table || !layout_has(l->Atom__len) ||
	    !anchor_read(s, table + (uint64_t)l->IndexTable__entries.offset, &entries, 4) ||
	    !anchor_u64(s, table + (uint64_t)l->IndexTable__seg_table.offset, &segs) ||
	    entries > ATOMS_MAX)
		return false;
	for (uint32_t i = 0; i < entries; i++) {
		uint64_t seg, name = 0;
		uint16_t len;

		if (i % 1024 == 0 &&
		    (!anchor_u64(s, segs + i / 1024 * 8, &seg) ||
		     !anchor_read(s, seg, slots, 8 * (entries - i < 1024 ? entries - i : 1024))))
			return false;
		if (!anchor_peek(s, slots[i % 1024] + (uint64_t)l->Atom__len.offset, &len, 2))
			return false;
		if (!layout_has(l->Atom__u_bin)) {
			if (!layout_has(l->Atom__name) ||
			    !anchor_peek(s, slots[i % 1024] + (uint64_t)l->Atom__name.offset, &name,
					 8))
				return false;
			if (image_holds(s->exe, name))
				continue;
		}
		*sum += len;
	}
	return true;
}

static void find_atom_text(struct anchor_search *s)
{
	/* AtomText of atom.c, 23 to 27: a next pointer and 32 KiB of text. */
	const uint64_t chunk = 32768 + 8;
	uint64_t table = s->a->v[A_ATOM_TABLE].addr, sum, used = 0, near, n;
	uint64_t w[2 * COUNTER_NEAR / 8];
	const struct image_piece *p;

	if (!table ||
	    (!anchor_missing(s, A_ATOM_TEXT_USED) && !anchor_missing(s, A_ATOM_TEXT_RESERVED)))
		return;
	p = image_copy_data(s->copy, table);
	if (!p)
		return;
	near = table - p->start > COUNTER_NEAR ? table - COUNTER_NEAR : p->start;
	n = (p->end - near < sizeof(w) ? p->end - near : sizeof(w)) / 8;
	/* Atoms may come while we count: the statics are read after the sum, and
	 * what does not agree is counted again. */
	for (int try = 0; try < 3 && !used; try++) {
		if (try)
			anchor_peek_afresh(s);
		if (!atom_text_sum(s, &sum) || !sum || !anchor_read(s, near, w, 8 * n))
			return;
		for (uint64_t i = 0; i < n && !used; i++)
			if (w[i] == sum)
				used = near + 8 * i;
	}
	if (!used)
		return;
	anchor_set(s, A_ATOM_TEXT_USED, used, ANCHOR_SIGNATURE);
	if (layout_has(s->l->Atom__u_bin)) {
		/* 28 and later: what is used is what is reserved. */
		anchor_set(s, A_ATOM_TEXT_RESERVED, used, ANCHOR_DERIVED);
		return;
	}
	for (uint64_t i = 0; i < n; i++)
		if (w[i] && w[i] % chunk == 0 && w[i] >= sum && w[i] - sum < sum / 8 + 4 * chunk) {
			anchor_set(s, A_ATOM_TEXT_RESERVED, near + 8 * i, ANCHOR_SIGNATURE);
			return;
		}
}

/* ---- ETS --------------------------------------------------------------------------- */

#define LOCKS_NEAR 32768 /* 256 locks of a cache line lie between its statics */

/* NIL of erl_term.h; 23 fills its upper bits. */
static uint64_t nil_term(const struct anchor_search *s)
{
	return layout_has_const(s->l->nil) ? (uint64_t)s->l->nil : 0x3b;
}

/* The first buckets of meta_name_tab (erl_db.c). Up to 27 a bucket is
 * {name, table or vector}, an empty one {NIL, NULL}; from 28 it is {entries,
 * size, capacity, {name, table}} and `entries` of an unshared one points to what
 * follows it. Returns the bucket's size, 0 if it is no such table. */
static uint64_t name_table_bucket(const struct anchor_search *s, uint64_t addr)
{
	uint64_t nil = nil_term(s), w[256];
	unsigned empty = 0, i;

	if (!anchor_peek(s, addr, w, sizeof(w)))
		return 0;
	for (i = 0; i < 128; i++) {
		uint64_t name = w[2 * i], tb = w[2 * i + 1];

		if (tb == 0 && name == nil)
			empty++;
		else if (!anchor_heap_pointer(s, tb))
			break;
	}
	if (i == 128 && empty >= 64)
		return 16;
	empty = 0;
	for (i = 0; i < 64; i++) {
		uint64_t self = addr + 32 * i;

		if (w[4 * i] == self + 8 && w[4 * i + 1] >> 32 == 1)
			empty++;
		else if (!anchor_heap_pointer(s, w[4 * i]))
			break;
	}
	return i == 64 && empty >= 48 ? 32 : 0;
}

/* The bytes of the table: its mask, 2^13 - 1 or more, is another static of
 * erl_db.c; with the right one the last bucket is a bucket as well. */
static uint64_t name_table_size(const struct anchor_search *s, uint64_t at, uint64_t table,
				uint64_t bucket)
{
	uint64_t nil = nil_term(s), w[2];

	for (uint64_t near = at - LOCKS_NEAR; near < at + LOCKS_NEAR; near += 4) {
		uint64_t last;
		uint32_t mask;

		if (!image_copy_u32(s->copy, near, &mask) || mask < 8191 ||
		    (mask & (mask + 1ULL)) || mask > (1U << 28))
			continue;
		last = table + bucket * mask;
		if (!anchor_heap_pointer(s, last) || !anchor_read(s, last, w, sizeof(w)))
			continue;
		if (bucket == 16 ? (w[0] == nil) == !w[1] && (!w[1] || anchor_heap_pointer(s, w[1]))
				 : w[0] == last + 8 || anchor_heap_pointer(s, w[0]))
			return bucket * (mask + 1ULL);
	}
	return 0;
}

static void find_ets_misc(struct anchor_search *s)
{
	if (!anchor_missing(s, A_ETS_MISC_MEM_SIZE))
		return;
	for (size_t i = 0; i < s->copy->n; i++) {
		const struct image_piece *p = &s->copy->v[i];

		for (uint64_t at = p->start; p->write && at + 8 <= p->end; at += 8) {
			uint64_t ptr = 0, bucket, size, best = 0, least = UINT64_MAX, value;

			image_copy_u64(s->copy, at, &ptr);
			if (!ptr || image_holds(s->exe, ptr) || !anchor_heap_pointer(s, ptr))
				continue;
			bucket = name_table_bucket(s, ptr);
			size = bucket ? name_table_size(s, at, ptr, bucket) : 0;
			if (!size)
				continue;
			/* The counter holds the table's bytes and, in small change,
			 * fixations and buckets that several names share. */
			for (uint64_t w = at - LOCKS_NEAR; w < at + LOCKS_NEAR; w += 8)
				if (image_copy_u64(s->copy, w, &value) && value >= size &&
				    value < size + size / 4 && value % 8 == 0 && value < least) {
					best = w;
					least = value;
				}
			anchor_set(s, A_ETS_MISC_MEM_SIZE, best, ANCHOR_SIGNATURE);
			return;
		}
	}
}

void anchors_find_counters(struct anchor_search *s)
{
	find_atom_text(s);
	find_ets_misc(s);
}
