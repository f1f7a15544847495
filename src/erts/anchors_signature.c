/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Recognising allocators, tables and schedulers by what they hold.
 *
 * A good signature ends in something that cannot be chance: a string that
 * ERTS's source puts there, or a chain that leads back to where it started.
 *
 *	erts_alc_a2ad[]		-> "invalid_allocator", "sys_alloc" ...
 *	erts_alc_n2td[]		-> "invalid_type", "undefined" ...
 *	erts_allctr_thr_spec[a]	.allctr[i] -> Allctr_t, whose alloc_no is a
 *	erts_allctrs_info[a]	.extra -> &erts_allctr_thr_spec[a], or an Allctr_t
 *	erts_allctrs[a]		.extra, the same, behind three function pointers
 *	IndexTable, Hash	.name -> "atom_tab", "module_code" ...
 *	ErtsPTab		.invalid_element in the image, .pix_mask == .max - 1
 *	scheduler data		.no counts 1, 2, 3 ..., .tid -> a thread's TCB,
 *				whose first word is its own address (x86-64 ABI)
 *
 * Every loop is over the copied image or bounded by a constant, and a word is
 * only followed when it points into a readable mapping.
 */
#include "erts/anchors_find.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define INSTANCES_MAX	2048 /* instances of an allocator: schedulers + 1 + dirty */
#define SCHEDULERS_MAX	1024 /* ERTS_MAX_NO_OF_SCHEDULERS */
#define STRING_HITS_MAX 64
#define WORD_HITS_MAX	256

unsigned anchor_n_allocators(const struct layout *l)
{
	/* 12 in every release from 23 on (erl_alloc_types.h is generated). */
	return (unsigned)(layout_has_const(l->alc_a_max) && l->alc_a_max > 0 && l->alc_a_max < 64
				  ? l->alc_a_max
				  : 12) +
	       1;
}

/* Loops over writable words: the next aligned address, 0 at the end. */
static uint64_t next_slot(const struct image_copy *c, uint64_t after, uint64_t len)
{
	uint64_t best = 0;

	for (size_t i = 0; i < c->n; i++) {
		const struct image_piece *p = &c->v[i];
		uint64_t at = after < p->start ? p->start : after + 8;

		if (p->write && at + len <= p->end && (!best || at < best))
			best = at;
	}
	return best;
}

static bool in_code(const struct anchor_search *s, uint64_t addr)
{
	size_t n;
	const struct image_segment *seg = image_segments(s->exe, &n);

	for (size_t i = 0; i < n; i++)
		if (seg[i].exec && addr >= seg[i].start && addr < seg[i].end)
			return true;
	return false;
}

/* ---- Names ------------------------------------------------------------------------- */

/* The address of an array of string pointers that begins with these two. */
static uint64_t find_names(const struct anchor_search *s, const char *first, const char *second)
{
	uint64_t str = 0;

	for (int n = 0; n < STRING_HITS_MAX; n++) {
		uint64_t word = 0;

		str = image_copy_find(s->copy, first, strlen(first) + 1, false, str);
		if (!str)
			break;
		for (int m = 0; m < WORD_HITS_MAX; m++) {
			const char *next;
			uint64_t addr;

			word = image_copy_find_word(s->copy, str, word);
			if (!word)
				break;
			if (image_copy_u64(s->copy, word + 8, &addr) &&
			    (next = image_copy_string(s->copy, addr)) && strcmp(next, second) == 0)
				return word;
		}
	}
	return 0;
}

/* ---- Allocators -------------------------------------------------------------------- */

/* True if `allctr` is an Allctr_t of allocator `no`. */
static bool is_allctr(const struct anchor_search *s, uint64_t allctr, unsigned no)
{
	const struct layout *l = s->l;
	uint32_t alloc_no;
	uint64_t name;
	const char *prefix;

	if (!anchor_pointer(s, allctr) || !layout_has(l->Allctr_t__alloc_no) ||
	    !layout_has(l->Allctr_t__name_prefix))
		return false;
	if (!anchor_read(s, allctr + (uint64_t)l->Allctr_t__alloc_no.offset, &alloc_no, 4) ||
	    alloc_no != no)
		return false;
	if (!anchor_u64(s, allctr + (uint64_t)l->Allctr_t__name_prefix.offset, &name))
		return false;
	/* "eheap_", "binary_" ...: a literal of the image that ends in '_'. */
	prefix = image_copy_string(s->copy, name);
	return prefix && prefix[0] && strlen(prefix) < 32 && prefix[strlen(prefix) - 1] == '_';
}

bool anchor_is_thr_spec(const struct anchor_search *s, uint64_t addr)
{
	const struct layout *l = s->l;
	uint64_t stride = l->size_ErtsAllocatorThrSpec_t;
	unsigned n = anchor_n_allocators(l), verified = 0;

	for (unsigned a = 1; a < n && stride; a++) {
		uint64_t e = addr + a * stride, enabled, size, allctr;
		unsigned here = 0;

		if (!anchor_field(s, e, l->ErtsAllocatorThrSpec_t__enabled, &enabled) ||
		    !anchor_field(s, e, l->ErtsAllocatorThrSpec_t__size, &size) ||
		    !anchor_field(s, e, l->ErtsAllocatorThrSpec_t__allctr, &allctr) ||
		    enabled > 1 || size > INSTANCES_MAX)
			return false;
		if (!enabled)
			continue;
		if (!size || !anchor_pointer(s, allctr))
			return false;
		/* Instance 0 may be missing (NULL) for some allocators. */
		for (uint64_t i = 0; i < size && i < 4; i++) {
			uint64_t inst;

			if (!anchor_u64(s, allctr + 8 * i, &inst))
				return false;
			if (!inst)
				continue;
			if (!is_allctr(s, inst, a))
				return false;
			here++;
		}
		verified += here > 0;
	}
	return verified > 0;
}

bool anchor_is_allctrs_info(const struct anchor_search *s, uint64_t addr, uint64_t thr_spec)
{
	const struct layout *l = s->l;
	uint64_t stride = l->size_ErtsAllocatorInfo_t;
	uint64_t spec_stride = l->size_ErtsAllocatorThrSpec_t;
	unsigned n = anchor_n_allocators(l), verified = 0;

	for (unsigned a = 1; a < n && stride; a++) {
		uint64_t e = addr + a * stride, util, enabled, spec, extra;

		if (!anchor_field(s, e, l->ErtsAllocatorInfo_t__alloc_util, &util) ||
		    !anchor_field(s, e, l->ErtsAllocatorInfo_t__enabled, &enabled) ||
		    !anchor_field(s, e, l->ErtsAllocatorInfo_t__thr_spec, &spec) ||
		    !anchor_field(s, e, l->ErtsAllocatorInfo_t__extra, &extra) || util > 1 ||
		    enabled > 1 || spec > INSTANCES_MAX)
			return false;
		if (!util)
			continue;
		if (spec && thr_spec) {
			if (extra != thr_spec + a * spec_stride)
				return false;
			verified++;
		} else if (!spec) {
			if (!is_allctr(s, extra, a))
				return false;
			verified++;
		}
	}
	return verified > 0;
}

/* erts_allctrs[a] = {alloc, realloc, free, extra}; every entry is filled, by
 * sys_alloc's functions where an allocator is off. */
static bool is_allctrs(const struct anchor_search *s, uint64_t addr)
{
	unsigned n = anchor_n_allocators(s->l);

	for (unsigned a = 1; a < n; a++)
		for (unsigned f = 0; f < 3; f++) {
			uint64_t fn;

			if (!image_copy_u64(s->copy, addr + 32 * a + 8 * f, &fn) || !in_code(s, fn))
				return false;
		}
	return true;
}

void anchors_find_allocators(struct anchor_search *s)
{
	const struct layout *l = s->l;
	uint64_t spec, at;
	/* temp_alloc is on and thread specific whatever the flags say. */
	uint64_t temp = layout_has_const(l->alc_a_temporary) ? (uint64_t)l->alc_a_temporary : 2;
	uint64_t n = anchor_n_allocators(l);

	if (anchor_missing(s, A_A2AD))
		anchor_set(s, A_A2AD, find_names(s, "invalid_allocator", "sys_alloc"),
			   ANCHOR_SIGNATURE);
	if (anchor_missing(s, A_N2TD))
		anchor_set(s, A_N2TD, find_names(s, "invalid_type", "undefined"), ANCHOR_SIGNATURE);

	if (anchor_missing(s, A_ALLCTR_THR_SPEC) && l->size_ErtsAllocatorThrSpec_t) {
		uint64_t len = n * l->size_ErtsAllocatorThrSpec_t;

		for (at = next_slot(s->copy, 0, len); at; at = next_slot(s->copy, at, len)) {
			uint64_t e = at + temp * l->size_ErtsAllocatorThrSpec_t, enabled, ptr;

			if (anchor_field(s, e, l->ErtsAllocatorThrSpec_t__enabled, &enabled) &&
			    enabled == 1 &&
			    anchor_field(s, e, l->ErtsAllocatorThrSpec_t__allctr, &ptr) &&
			    anchor_heap_pointer(s, ptr) && anchor_is_thr_spec(s, at)) {
				anchor_set(s, A_ALLCTR_THR_SPEC, at, ANCHOR_SIGNATURE);
				break;
			}
		}
	}
	spec = s->a->v[A_ALLCTR_THR_SPEC].addr;
	if (!spec)
		return;
	if (!anchor_missing(s, A_ALLCTRS_INFO) &&
	    !anchor_is_allctrs_info(s, s->a->v[A_ALLCTRS_INFO].addr, spec))
		anchor_unset(s, A_ALLCTRS_INFO);
	if (!anchor_missing(s, A_ALLCTRS) && !is_allctrs(s, s->a->v[A_ALLCTRS].addr))
		anchor_unset(s, A_ALLCTRS);
	spec += temp * l->size_ErtsAllocatorThrSpec_t;
	if (anchor_missing(s, A_ALLCTRS_INFO) && layout_has(l->ErtsAllocatorInfo_t__extra)) {
		uint64_t back = temp * l->size_ErtsAllocatorInfo_t +
				(uint64_t)l->ErtsAllocatorInfo_t__extra.offset;

		at = 0;
		for (int i = 0; i < WORD_HITS_MAX; i++) {
			at = image_copy_find_word(s->copy, spec, at);
			if (!at)
				break;
			if (anchor_is_allctrs_info(s, at - back, s->a->v[A_ALLCTR_THR_SPEC].addr)) {
				anchor_set(s, A_ALLCTRS_INFO, at - back, ANCHOR_SIGNATURE);
				break;
			}
		}
	}
	if (anchor_missing(s, A_ALLCTRS)) {
		at = 0;
		for (int i = 0; i < WORD_HITS_MAX; i++) {
			at = image_copy_find_word(s->copy, spec, at);
			if (!at)
				break;
			if (is_allctrs(s, at - 32 * temp - 24)) {
				anchor_set(s, A_ALLCTRS, at - 32 * temp - 24, ANCHOR_SIGNATURE);
				break;
			}
		}
	}
}

/* ---- Hash and index tables --------------------------------------------------------- */

/* The Hash part, the same in both. */
static bool is_hash(const struct anchor_search *s, uint64_t addr, const char *name)
{
	const struct layout *l = s->l;
	uint64_t ptr, shift, bucket, nobjs;
	const char *found;

	if (!anchor_field(s, addr, l->Hash__name, &ptr) ||
	    !anchor_field(s, addr, l->Hash__shift, &shift) ||
	    !anchor_field(s, addr, l->Hash__nobjs, &nobjs) ||
	    !anchor_field(s, addr, l->Hash__bucket, &bucket))
		return false;
	found = image_copy_string(s->copy, ptr);
	if (!found || (name && strcmp(found, name) != 0))
		return false;
	/* 2^(64 - shift) buckets */
	return shift > 24 && shift < 64 && nobjs < (1U << 31) && anchor_pointer(s, bucket);
}

bool anchor_is_index_table(const struct anchor_search *s, uint64_t addr, const char *name)
{
	const struct layout *l = s->l;
	uint64_t size, limit, entries, seg;

	if (!is_hash(s, addr, name) || !anchor_field(s, addr, l->IndexTable__size, &size) ||
	    !anchor_field(s, addr, l->IndexTable__limit, &limit) ||
	    !anchor_field(s, addr, l->IndexTable__entries, &entries) ||
	    !anchor_field(s, addr, l->IndexTable__seg_table, &seg))
		return false;
	return limit && entries <= limit && entries <= size && size < limit + (1U << 20) &&
	       anchor_pointer(s, seg);
}

bool anchor_is_atom_table(const struct anchor_search *s, uint64_t addr)
{
	char text[8];

	return anchor_is_index_table(s, addr, "atom_tab") &&
	       atom_text(s->target, s->l, addr, 0, text, sizeof(text)) == 5 &&
	       memcmp(text, "false", 5) == 0 &&
	       atom_text(s->target, s->l, addr, 1, text, sizeof(text)) == 4 &&
	       memcmp(text, "true", 4) == 0;
}

/* The first `n` consecutive tables of this name. */
static uint64_t find_tables(const struct anchor_search *s, const char *name, unsigned n, bool index)
{
	const struct layout *l = s->l;
	uint64_t stride = index ? l->size_IndexTable : l->size_Hash;
	uint64_t str = 0;

	if (!layout_has(l->Hash__name) || !stride)
		return 0;
	for (int i = 0; i < STRING_HITS_MAX; i++) {
		uint64_t word = 0;

		str = image_copy_find(s->copy, name, strlen(name) + 1, false, str);
		if (!str)
			break;
		for (int m = 0; m < WORD_HITS_MAX; m++) {
			unsigned k = 0;
			uint64_t base;

			word = image_copy_find_word(s->copy, str, word);
			if (!word)
				break;
			base = word - (uint64_t)l->Hash__name.offset;
			while (k < n && (index ? anchor_is_index_table(s, base + k * stride, name)
					       : is_hash(s, base + k * stride, name)))
				k++;
			if (k == n)
				return base;
		}
	}
	return 0;
}

void anchors_find_tables(struct anchor_search *s)
{
	unsigned n = layout_has_const(s->l->num_code_ix) ? (unsigned)s->l->num_code_ix : 3;

	if (!anchor_missing(s, A_FUN_TABLE) && !is_hash(s, s->a->v[A_FUN_TABLE].addr, NULL))
		anchor_unset(s, A_FUN_TABLE);
	if (!anchor_missing(s, A_REGISTER_TABLE) &&
	    !is_hash(s, s->a->v[A_REGISTER_TABLE].addr, "process_reg"))
		anchor_unset(s, A_REGISTER_TABLE);
	if (anchor_missing(s, A_ATOM_TABLE)) {
		uint64_t at = find_tables(s, "atom_tab", 1, true);

		if (at && anchor_is_atom_table(s, at))
			anchor_set(s, A_ATOM_TABLE, at, ANCHOR_SIGNATURE);
	}
	if (anchor_missing(s, A_MODULE_TABLES))
		anchor_set(s, A_MODULE_TABLES, find_tables(s, "module_code", n, true),
			   ANCHOR_SIGNATURE);
	/* erl_code_staged.h names its tables by their prefix: 28 and later. */
	if (anchor_missing(s, A_EXPORT_TABLES))
		anchor_set(s, A_EXPORT_TABLES, find_tables(s, "export_list", n, true),
			   ANCHOR_SIGNATURE);
	if (anchor_missing(s, A_EXPORT_TABLES))
		anchor_set(s, A_EXPORT_TABLES, find_tables(s, "export_staged_index", n, true),
			   ANCHOR_SIGNATURE);
	if (anchor_missing(s, A_FUN_TABLE))
		anchor_set(s, A_FUN_TABLE, find_tables(s, "fun_table", 1, false), ANCHOR_SIGNATURE);
	if (anchor_missing(s, A_FUN_TABLE))
		anchor_set(s, A_FUN_TABLE, find_tables(s, "fun_staged_index", n, true),
			   ANCHOR_SIGNATURE);
	if (anchor_missing(s, A_REGISTER_TABLE))
		anchor_set(s, A_REGISTER_TABLE, find_tables(s, "process_reg", 1, false),
			   ANCHOR_SIGNATURE);
}

/* ---- Process and port tables ------------------------------------------------------- */

bool anchor_is_ptab(const struct anchor_search *s, uint64_t addr, uint64_t *element_size)
{
	const struct layout *l = s->l;
	uint64_t max, mask, tab, invalid, release, count;

	*element_size = 0;
	if (!anchor_field(s, addr, l->ErtsPTab__r_o_max, &max) ||
	    !anchor_field(s, addr, l->ErtsPTab__r_o_pix_mask, &mask) ||
	    !anchor_field(s, addr, l->ErtsPTab__r_o_tab, &tab) ||
	    !anchor_field(s, addr, l->ErtsPTab__r_o_invalid_element, &invalid) ||
	    !anchor_field(s, addr, l->ErtsPTab__r_o_release_element, &release) ||
	    !anchor_field(s, addr, l->ErtsPTab__r_o_element_size, element_size) ||
	    !anchor_field(s, addr, l->ErtsPTab__vola_tile_count, &count))
		return false;
	/* erts_ptab_init_table(): max is a power of two, 16 to 2^27. */
	return max >= 16 && max <= (1U << 27) && !(max & (max - 1)) && mask == max - 1 &&
	       count <= max && *element_size >= 128 && *element_size <= 65536 &&
	       anchor_pointer(s, tab) && mappings_cover(s->maps, tab, max * 8) &&
	       image_holds(s->exe, invalid) && (!release || in_code(s, release));
}

/* erts_init_io(): Port, its task queue, 10 bytes for a name, a mutex; "doesn't
 * need to be exact", it says there, and the 10 keeps it off every alignment. */
bool anchor_is_port_size(const struct layout *l, uint64_t size)
{
	return l->size_Port && size > l->size_Port && size < l->size_Port + 512ULL && size % 4 == 2;
}

void anchors_find_ptabs(struct anchor_search *s)
{
	const struct layout *l = s->l;
	uint64_t len = l->size_ErtsPTab, at;

	if (!len || (!anchor_missing(s, A_PROC) && !anchor_missing(s, A_PORT)))
		return;
	for (at = next_slot(s->copy, 0, len); at; at = next_slot(s->copy, at, len)) {
		uint64_t size;

		/* Both are aligned to cache lines. */
		if (at % 64 || !anchor_is_ptab(s, at, &size))
			continue;
		if (size == l->size_Process)
			anchor_set(s, A_PROC, at, ANCHOR_SIGNATURE);
		else if (anchor_is_port_size(l, size))
			anchor_set(s, A_PORT, at, ANCHOR_SIGNATURE);
	}
}

/* ---- Schedulers -------------------------------------------------------------------- */

/* Scheduler data number `i` (from 1) of a kind at `esd`: the number fits and
 * tid is a thread. */
static bool is_scheduler(const struct anchor_search *s, uint64_t esd, uint64_t kind, uint64_t i)
{
	const struct layout *l = s->l;
	struct layout_field number = kind ? l->ErtsSchedulerData__dirty_no
					  : l->ErtsSchedulerData__no;
	uint64_t no = 0, tid, self;
	uint32_t type = 0;

	if (!layout_has(number) || number.size > 8 || !layout_has(l->ErtsSchedulerData__type) ||
	    !layout_has(l->ErtsSchedulerData__tid) || !anchor_heap_pointer(s, esd))
		return false;
	if (!anchor_peek(s, esd + (uint64_t)number.offset, &no, number.size) || no != i)
		return false;
	if (!anchor_peek(s, esd + (uint64_t)l->ErtsSchedulerData__type.offset, &type,
			 sizeof(type)) ||
	    type != kind)
		return false;
	return anchor_peek(s, esd + (uint64_t)l->ErtsSchedulerData__tid.offset, &tid, 8) &&
	       anchor_heap_pointer(s, tid) && anchor_peek(s, tid, &self, 8) && self == tid;
}

void anchors_find_schedulers(struct anchor_search *s)
{
	static const enum anchor_id ids[] = { A_SCHEDULER_DATA, A_DIRTY_CPU_SCHEDULER_DATA,
					      A_DIRTY_IO_SCHEDULER_DATA };
	uint64_t at;

	for (uint64_t kind = 0; kind < 3; kind++) {
		uint64_t ptr;

		if (!anchor_missing(s, ids[kind])) {
			/* By symbol: it must lead to scheduler 1 all the same. */
			if (image_copy_u64(s->copy, s->a->v[ids[kind]].addr, &ptr) &&
			    is_scheduler(s, ptr, kind, 1))
				continue;
			anchor_unset(s, ids[kind]);
		}
		for (at = next_slot(s->copy, 0, 8); at; at = next_slot(s->copy, at, 8))
			if (image_copy_u64(s->copy, at, &ptr) && ptr % 64 == 0 &&
			    is_scheduler(s, ptr, kind, 1)) {
				anchor_set(s, ids[kind], at, ANCHOR_SIGNATURE);
				break;
			}
	}
}
