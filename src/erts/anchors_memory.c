/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Recognising where the VM gets its memory from: mseg and the memory mappers.
 *
 *	Allctr_t --mseg--> ErtsMsegAllctr_t[i] --cache miss--> ErtsMemMapper --> mmap
 *	                     cache of segments                  super carrier
 *
 * mseg's state (erl_mseg.c) is one malloc'ed array, an element for "global",
 * one a scheduler and one for dirty schedulers, behind a static pointer that no
 * release exports. Its elements prove themselves: ix counts 0, 1, 2 ..., and the
 * first max_cache_size slots of each cache hang, every one, in circular lists
 * that start and end inside the same element (the other slots are never used).
 *
 *	ErtsMsegAllctr_t { ix, ..., cache[30], cache_unpowered_node,
 *			   cache_powered_node[], cache_free, cache_size ... }
 *	cache_free <-> cache[7] <-> cache[3] <-> ... <-> cache_free
 *
 * A memory mapper (erl_mmap.c) begins with two function pointers and holds the
 * bounds of its super carrier: sa.bot <= sa.top <= sua.bot <= sua.top. The
 * literal area's is found without any search: literal_alloc's Allctr_t points
 * to it. The default one has the same shape and lies beside it.
 */
#include "erts/anchors_find.h"

#include <string.h>

#define MAPPER_NEAR	4096 /* bytes around one mapper where the other is looked for */
#define DESCRIPTORS_MAX (1ULL << 30)
#define MSEG_BYTES_MAX	16384

static bool in_code(const struct anchor_search *s, uint64_t addr)
{
	size_t n;
	const struct image_segment *seg = image_segments(s->exe, &n);

	for (size_t i = 0; i < n; i++)
		if (seg[i].exec && addr >= seg[i].start && addr < seg[i].end)
			return true;
	return false;
}

bool anchor_is_mmapper(const struct anchor_search *s, uint64_t addr)
{
	const struct layout *l = s->l;
	uint64_t reserve, unreserve, super, only, sa_bot, sa_top, sua_bot, sua_top, total, used;

	/* The two functions are the first members of every release so far. */
	if (!image_copy_u64(s->copy, addr, &reserve) ||
	    !image_copy_u64(s->copy, addr + 8, &unreserve) ||
	    !anchor_field(s, addr, l->ErtsMemMapper__supercarrier, &super) ||
	    !anchor_field(s, addr, l->ErtsMemMapper__no_os_mmap, &only) ||
	    !anchor_field(s, addr, l->ErtsMemMapper__sa_bot, &sa_bot) ||
	    !anchor_field(s, addr, l->ErtsMemMapper__sa_top, &sa_top) ||
	    !anchor_field(s, addr, l->ErtsMemMapper__sua_bot, &sua_bot) ||
	    !anchor_field(s, addr, l->ErtsMemMapper__sua_top, &sua_top) ||
	    !anchor_field(s, addr, l->ErtsMemMapper__size_supercarrier_total, &total) ||
	    !anchor_field(s, addr, l->ErtsMemMapper__size_supercarrier_used_total, &used))
		return false;
	if (!in_code(s, reserve) || !in_code(s, unreserve) || super > 1 || only > 1)
		return false;
	if (!super)
		return !sa_bot && !sua_top && !total;
	/* Before sa.bot the super carrier holds the descriptors of its free
	 * segments (erts_mmap_init()): 64 KiB for literals, 1.5 MiB by default. */
	return sa_bot && sa_bot <= sa_top && sa_top <= sua_bot && sua_bot <= sua_top &&
	       sua_top - sa_bot <= total && total - (sua_top - sa_bot) <= DESCRIPTORS_MAX &&
	       used <= total;
}

static bool in_range(uint64_t addr, uint64_t start, uint64_t len)
{
	return addr >= start && addr < start + len;
}

/* One element: its cache slots are all reachable from its own list heads. */
static bool is_mseg(const struct anchor_search *s, uint64_t addr, uint64_t ix)
{
	const struct layout *l = s->l;
	static __thread unsigned char copy[MSEG_BYTES_MAX];
	uint64_t size = l->size_ErtsMsegAllctr_t, stride = l->size_cache_t;
	uint64_t first, end, heads, value = 0, used, next;

	if (!size || size > sizeof(copy) || !stride || !layout_has(l->cache_t__next) ||
	    !layout_has(l->ErtsMsegAllctr_t__ix) ||
	    !layout_has(l->ErtsMsegAllctr_t__is_thread_safe) ||
	    !layout_has(l->ErtsMsegAllctr_t__cache) ||
	    !layout_has(l->ErtsMsegAllctr_t__cache_unpowered_node) ||
	    !layout_has(l->ErtsMsegAllctr_t__cache_free) ||
	    !layout_has(l->ErtsMsegAllctr_t__cache_size) ||
	    !layout_has(l->ErtsMsegAllctr_t__max_cache_size) || !anchor_read(s, addr, copy, size))
		return false;
	memcpy(&value, copy + l->ErtsMsegAllctr_t__ix.offset, 4);
	if (value != ix)
		return false;
	value = 0;
	memcpy(&value, copy + l->ErtsMsegAllctr_t__is_thread_safe.offset, 4);
	if (value > 1)
		return false;
	memcpy(&used, copy + l->ErtsMsegAllctr_t__max_cache_size.offset, 8);
	memcpy(&value, copy + l->ErtsMsegAllctr_t__cache_size.offset, 8);
	if (used > l->ErtsMsegAllctr_t__cache.size / stride || value > used)
		return false;
	/* Slots, then the list heads, one array of nodes from cache to cache_free. */
	first = (uint64_t)l->ErtsMsegAllctr_t__cache.offset;
	heads = (uint64_t)l->ErtsMsegAllctr_t__cache_unpowered_node.offset;
	end = (uint64_t)l->ErtsMsegAllctr_t__cache_free.offset + stride;
	for (uint64_t at = first; at + stride <= end; at += stride) {
		bool linked = at >= heads || (at - first) / stride < used;

		memcpy(&next, copy + at + l->cache_t__next.offset, 8);
		if (linked ? !in_range(next, addr + first, end - first) : next != 0)
			return false;
	}
	return true;
}

bool anchor_is_mseg_array(const struct anchor_search *s, uint64_t array)
{
	uint64_t stride = s->l->size_ErtsAlgndMsegAllctr_t;

	/* At least "global" and one scheduler. */
	return stride && array % 64 == 0 && anchor_pointer(s, array) && is_mseg(s, array, 0) &&
	       is_mseg(s, array + stride, 1);
}

static void find_mseg(struct anchor_search *s)
{
	if (!anchor_missing(s, A_MSEG_ALLCTR))
		return;
	for (size_t i = 0; i < s->copy->n; i++) {
		const struct image_piece *p = &s->copy->v[i];

		for (uint64_t at = 0; p->write && at + 8 <= p->end - p->start; at += 8) {
			uint64_t ptr;
			uint32_t ix;

			memcpy(&ptr, p->data + at, 8);
			/* malloc'ed, aligned to a cache line, outside the image. */
			if (!ptr || ptr % 64 || image_holds(s->exe, ptr) ||
			    !anchor_heap_pointer(s, ptr) || !anchor_peek(s, ptr, &ix, 4) || ix)
				continue;
			if (anchor_is_mseg_array(s, ptr)) {
				anchor_set(s, A_MSEG_ALLCTR, p->start + at, ANCHOR_SIGNATURE);
				return;
			}
		}
	}
}

/* literal_alloc's instance: its mseg_mmapper leads to erts_literal_mmapper. */
static uint64_t literal_mmapper(const struct anchor_search *s)
{
	const struct layout *l = s->l;
	uint64_t info = s->a->v[A_ALLCTRS_INFO].addr, names = s->a->v[A_A2AD].addr;
	unsigned n = anchor_n_allocators(l);

	for (unsigned a = 1; info && names && a < n; a++) {
		uint64_t e = info + a * l->size_ErtsAllocatorInfo_t, name, util, spec, allctr, mm;
		const char *text;

		if (!image_copy_u64(s->copy, names + 8 * a, &name) ||
		    !(text = image_copy_string(s->copy, name)) ||
		    strcmp(text, "literal_alloc") != 0)
			continue;
		if (!anchor_field(s, e, l->ErtsAllocatorInfo_t__alloc_util, &util) || !util ||
		    !anchor_field(s, e, l->ErtsAllocatorInfo_t__thr_spec, &spec) || spec ||
		    !anchor_field(s, e, l->ErtsAllocatorInfo_t__extra, &allctr) ||
		    !anchor_pointer(s, allctr) || !layout_has(l->Allctr_t__mseg_mmapper) ||
		    !anchor_u64(s, allctr + (uint64_t)l->Allctr_t__mseg_mmapper.offset, &mm))
			return 0;
		return mm;
	}
	return 0;
}

void anchors_find_memory(struct anchor_search *s)
{
	uint64_t literal = literal_mmapper(s), at, from;

	find_mseg(s);
	if (!s->l->size_ErtsMemMapper) {
		for (int id = A_DEFAULT_MMAPPER; id <= A_LITERAL_MMAPPER; id++)
			if (anchor_missing(s, (enum anchor_id)id))
				s->a->v[id].why = "the layout does not know ErtsMemMapper";
		return;
	}
	if (anchor_missing(s, A_LITERAL_MMAPPER) && literal && anchor_is_mmapper(s, literal))
		anchor_set(s, A_LITERAL_MMAPPER, literal, ANCHOR_DERIVED);
	literal = s->a->v[A_LITERAL_MMAPPER].addr;
	if (!anchor_missing(s, A_DEFAULT_MMAPPER) || !literal)
		return;
	from = (literal - MAPPER_NEAR) & ~7ULL;
	for (at = from; at < literal + MAPPER_NEAR; at += 8) {
		uint64_t used;

		if (at + s->l->size_ErtsMemMapper > literal &&
		    at < literal + s->l->size_ErtsMemMapper)
			continue;
		/* mseg has mapped something through it by the time we look. */
		if (anchor_is_mmapper(s, at) &&
		    anchor_field(s, at, s->l->ErtsMemMapper__size_os_used, &used) &&
		    used % TARGET_PAGE == 0) {
			anchor_set(s, A_DEFAULT_MMAPPER, at, ANCHOR_SIGNATURE);
			return;
		}
	}
}
