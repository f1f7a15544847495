/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Allocators and their instances
 *
 *   erts_allctrs_info[13]              erts_allctr_thr_spec[13]
 *   +------------------------+         +-----------------------+
 *   | alloc_util enabled     |         | size   (instances)    |
 *   | thr_spec > 0 ----------|-------> | allctr ---------------|--> Allctr_t *[size]
 *   | extra: Allctr_t, when  |         +-----------------------+
 *   |        thr_spec is 0   |
 *   +------------------------+
 *
 * The index is the allocator's number: 1 sys_alloc, 2 temp_alloc ...
 * (ERTS_ALC_A_*, generated from erl_alloc.types); 0 is not used. Everything
 * that erlang:system_info({allocator, T}) prints is computed from Allctr_t
 * (info_carriers() and info_cpool() in erl_alloc_util.c, releases 23 to 29):
 *
 *   mbcs, sbcs   CarriersStats_t: carriers[0] from mseg, [1] from sys_alloc;
 *                blocks[number - 1] by allocator, because since carriers
 *                migrate an eheap instance may hold a binary's block
 *   mbcs_pool    cpool.stat: what this instance has abandoned to the pool and
 *                nobody has adopted
 *
 * An instance without a lock is changed by its own thread while we look. One
 * read covers all of Allctr_t (2.4 kB), so figures that belong together are at
 * most a few hundred nanoseconds apart; what contradicts itself (more bytes in
 * blocks than in carriers) is read again, five times at most.
 */
#include "erts/allocator.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define TRIES	      5
#define MAX_INSTANCES 4096  /* schedulers are at most 1024; aux threads beside them */
#define MAX_ALLCTR    65536 /* bytes of an Allctr_t: 2400 on every release so far */

/* No address space is larger; a counter above it is a torn read. */
#define MAX_BYTES (1ULL << 47)

/* cpool.stat and blocks[] are indexed by number minus ERTS_ALC_A_MIN, which is
 * 1 on every release (erl_alloc.types; 0 is ERTS_ALC_A_INVALID). */
static unsigned first_number(const struct layout *l)
{
	return layout_has_const(l->alc_a_min) ? (unsigned)l->alc_a_min : 1;
}

/* Word number `i` of a field that is an array of words. */
static uint64_t word_at(const void *copy, size_t size, struct layout_field f, size_t i)
{
	struct layout_field one = { .offset = f.offset + (int32_t)(8 * i), .size = 8 };
	uint64_t v = 0;

	if (!layout_has(f) || 8 * (i + 1) > f.size)
		return 0;
	vm_field(copy, size, one, &v);
	return v;
}

static uint64_t field_of(const void *copy, size_t size, struct layout_field f)
{
	uint64_t v = 0;

	vm_field(copy, size, f, &v);
	return v;
}

/* A field of a struct that is itself a field of the copy. */
static uint64_t nested(const void *copy, size_t size, struct layout_field outer,
		       struct layout_field inner)
{
	struct layout_field f = { .offset = outer.offset + inner.offset, .size = inner.size };

	if (!layout_has(outer) || !layout_has(inner))
		return 0;
	return field_of(copy, size, f);
}

static uint64_t higher(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

/* A CarriersStats_t inside an Allctr_t. Returns false when it contradicts
 * itself. */
static bool count_carriers(const struct layout *l, const void *copy, size_t size,
			   struct layout_field stats, unsigned type, struct alloc_count *out)
{
	struct layout_field carriers = l->CarriersStats_t__carriers;
	struct layout_field blocks = l->CarriersStats_t__blocks;
	unsigned first = first_number(l);
	size_t i, n;

	memset(out, 0, sizeof(*out));
	if (!layout_has(stats) || !layout_has(carriers) || !layout_has(blocks) ||
	    !l->size_StatValues_t || !l->size_BlockStats_t)
		return false;
	carriers.offset += stats.offset;
	blocks.offset += stats.offset;

	/* carriers[]: ERTS_CRR_ALLOC_MSEG is 0, ERTS_CRR_ALLOC_SYS 1; the third
	 * element is never used (ERTS_CRR_ALLOC_MAX is counted in the length) */
	n = carriers.size / l->size_StatValues_t;
	for (i = 0; i < n && i < 3; i++) {
		struct layout_field v = { .offset = carriers.offset +
						    (int32_t)(i * l->size_StatValues_t),
					  .size = l->size_StatValues_t };
		uint64_t no = nested(copy, size, v, l->StatValues_t__no);
		uint64_t bytes = nested(copy, size, v, l->StatValues_t__size);

		out->carriers += no;
		out->carriers_size += bytes;
		if (i == 0) {
			out->mseg_carriers = no;
			out->mseg_carriers_size = bytes;
		}
		if (no > MAX_BYTES || bytes > MAX_BYTES || !no != !bytes)
			return false;
	}

	n = blocks.size / l->size_BlockStats_t;
	for (i = 0; i < n && i + first < ALLOC_TYPES; i++) {
		struct layout_field b = { .offset = blocks.offset +
						    (int32_t)(i * l->size_BlockStats_t),
					  .size = l->size_BlockStats_t };
		uint64_t no = nested(copy, size, b, l->BlockStats_t__curr_no);
		uint64_t bytes = nested(copy, size, b, l->BlockStats_t__curr_size);

		if (no > MAX_BYTES || bytes > MAX_BYTES)
			return false;
		out->blocks_of[i + first] = no;
		out->blocks_size_of[i + first] = bytes;
		out->blocks += no;
		out->blocks_size += bytes;
		if (i + first != type)
			continue;
		out->blocks_max = nested(copy, size, b, l->BlockStats_t__max_no);
		out->blocks_size_max = nested(copy, size, b, l->BlockStats_t__max_size);
		/* max_ever is brought up to date only when system_info prints it
		 * (update_max_ever_values() in erl_alloc_util.c) */
		out->blocks_max_ever = higher(nested(copy, size, b, l->BlockStats_t__max_ever_no),
					      out->blocks_max);
		out->blocks_size_max_ever =
			higher(nested(copy, size, b, l->BlockStats_t__max_ever_size),
			       out->blocks_size_max);
	}
	out->carriers_max = nested(copy, size, stats, l->CarriersStats_t__max_no);
	out->carriers_size_max = nested(copy, size, stats, l->CarriersStats_t__max_size);
	out->carriers_max_ever = higher(nested(copy, size, stats, l->CarriersStats_t__max_ever_no),
					out->carriers_max);
	out->carriers_size_max_ever =
		higher(nested(copy, size, stats, l->CarriersStats_t__max_ever_size),
		       out->carriers_size_max);
	return out->blocks_size <= out->carriers_size;
}

static bool count_pool(const struct layout *l, const void *copy, size_t size,
		       struct alloc_count *out)
{
	struct layout_field bytes = l->Allctr_t__cpool_stat_blocks_size;
	struct layout_field no = l->Allctr_t__cpool_stat_no_blocks;
	unsigned first = first_number(l);
	size_t i;

	memset(out, 0, sizeof(*out));
	for (i = 0; layout_has(bytes) && i < bytes.size / 8 && i + first < ALLOC_TYPES; i++) {
		out->blocks_of[i + first] = word_at(copy, size, no, i);
		out->blocks_size_of[i + first] = word_at(copy, size, bytes, i);
		if (out->blocks_of[i + first] > MAX_BYTES ||
		    out->blocks_size_of[i + first] > MAX_BYTES)
			return false;
		out->blocks += out->blocks_of[i + first];
		out->blocks_size += out->blocks_size_of[i + first];
	}
	out->carriers = field_of(copy, size, l->Allctr_t__cpool_stat_no_carriers);
	out->carriers_size = field_of(copy, size, l->Allctr_t__cpool_stat_carriers_size);
	return out->carriers <= MAX_BYTES && out->carriers_size <= MAX_BYTES &&
	       !out->carriers == !out->carriers_size && out->blocks_size <= out->carriers_size;
}

/* Whether the copy is an Allctr_t of allocator `type` at all. The index within
 * the allocator is not compared: an instance made for all threads says 0. */
static bool verify(const struct vm *vm, const void *copy, unsigned type)
{
	const struct layout *l = vm->layout;
	uint64_t no = 0, header = 0;

	return vm_field(copy, l->size_Allctr_t, l->Allctr_t__alloc_no, &no) && no == type &&
	       vm_field(copy, l->size_Allctr_t, l->Allctr_t__mbc_header_size, &header) &&
	       header >= 40 && header < 65536;
}

static bool evaluate(const struct vm *vm, struct alloc_instance *in)
{
	const struct layout *l = vm->layout;
	size_t size = l->size_Allctr_t;
	bool ok;

	in->atags = field_of(in->copy, size, l->Allctr_t__atags) != 0;
	in->strategy = (unsigned)field_of(in->copy, size, l->Allctr_t__alloc_strat);
	in->abandon_util = field_of(in->copy, size, l->Allctr_t__cpool_util_limit);
	in->sbc_threshold = field_of(in->copy, size, l->Allctr_t__sbc_threshold);
	in->main_carrier_size = field_of(in->copy, size, l->Allctr_t__main_carrier_size);
	in->largest_mbc_size = field_of(in->copy, size, l->Allctr_t__largest_mbc_size);
	in->calls_alloc = field_of(in->copy, size, l->Allctr_t__calls_this_alloc);
	in->calls_free = field_of(in->copy, size, l->Allctr_t__calls_this_free);
	in->calls_realloc = field_of(in->copy, size, l->Allctr_t__calls_this_realloc);
	ok = count_carriers(l, in->copy, size, l->Allctr_t__mbcs, in->type, &in->mbcs);
	ok = count_carriers(l, in->copy, size, l->Allctr_t__sbcs, in->type, &in->sbcs) && ok;
	return count_pool(l, in->copy, size, &in->pool) && ok;
}

static bool is_fatal(int ret)
{
	return ret == -ENOMEM || ret == -ETIMEDOUT || ret == -ESRCH || ret == -EPERM;
}

/* Appends the instance at `addr`. 0, 1 when it was left out, or an error. */
static int instance_read(struct vm *vm, struct allocators *a, uint64_t addr, unsigned type,
			 unsigned index, bool thread_specific)
{
	struct alloc_instance *in = &a->inst[a->n_inst];
	int i, ret;

	memset(in, 0, sizeof(*in));
	in->addr = addr;
	in->type = type;
	in->index = index;
	in->thread_specific = thread_specific;
	in->copy = malloc(vm->layout->size_Allctr_t);
	if (!in->copy)
		return -ENOMEM;
	for (i = 0; i < TRIES; i++) {
		ret = vm_read(vm, addr, in->copy, vm->layout->size_Allctr_t);
		if (ret < 0 || !verify(vm, in->copy, type)) {
			free(in->copy);
			in->copy = NULL;
			if (is_fatal(ret))
				return ret;
			a->unreadable++;
			return 1;
		}
		in->torn = !evaluate(vm, in);
		if (!in->torn)
			break;
	}
	a->n_inst++;
	return 0;
}

static int instances_grow(struct allocators *a, size_t more)
{
	struct alloc_instance *bigger = realloc(a->inst, (a->n_inst + more) * sizeof(*a->inst));

	if (!bigger)
		return -ENOMEM;
	a->inst = bigger;
	return 0;
}

/* All instances of one allocator. */
static int type_read(struct vm *vm, struct allocators *a, struct alloc_type *t)
{
	const struct layout *l = vm->layout;
	struct anchor *info = &vm->anchors.v[A_ALLCTRS_INFO];
	struct anchor *spec = &vm->anchors.v[A_ALLCTR_THR_SPEC];
	uint64_t at = info->addr + (uint64_t)t->type * l->size_ErtsAllocatorInfo_t;
	uint64_t enabled = 0, util = 0, threads = 0, extra = 0, n = 0, list = 0, *v;
	size_t i;
	int ret;

	t->first = a->n_inst;
	ret = vm_read_field(vm, at, l->ErtsAllocatorInfo_t__enabled, &enabled);
	if (!ret)
		ret = vm_read_field(vm, at, l->ErtsAllocatorInfo_t__alloc_util, &util);
	if (!ret)
		ret = vm_read_field(vm, at, l->ErtsAllocatorInfo_t__thr_spec, &threads);
	if (!ret)
		ret = vm_read_field(vm, at, l->ErtsAllocatorInfo_t__extra, &extra);
	if (ret < 0)
		return ret;
	t->enabled = enabled != 0;
	t->alloc_util = util != 0 && enabled != 0;
	if (!t->alloc_util)
		return 0;

	if (!threads) {
		ret = extra ? instances_grow(a, 1) : 1;
		if (!ret)
			ret = instance_read(vm, a, extra, t->type, 0, false);
		t->n = a->n_inst - t->first;
		return ret < 0 ? ret : 0;
	}

	at = spec->addr + (uint64_t)t->type * l->size_ErtsAllocatorThrSpec_t;
	ret = vm_read_field(vm, at, l->ErtsAllocatorThrSpec_t__size, &n);
	if (!ret)
		ret = vm_read_field(vm, at, l->ErtsAllocatorThrSpec_t__allctr, &list);
	if (ret < 0)
		return ret;
	if (!n || n > MAX_INSTANCES || !list) {
		a->unreadable++;
		return 0;
	}
	v = malloc(n * sizeof(*v));
	if (!v)
		return -ENOMEM;
	ret = vm_read(vm, list, v, n * sizeof(*v));
	if (!ret)
		ret = instances_grow(a, n);
	for (i = 0; !ret && i < n; i++) {
		/* without a pool an entry may be missing */
		int one = v[i] ? instance_read(vm, a, v[i], t->type, (unsigned)i, true) : 1;

		if (one < 0)
			ret = one;
	}
	free(v);
	t->n = a->n_inst - t->first;
	return ret;
}

static void sum_pool(const struct vm *vm, struct allocators *a)
{
	size_t i;
	unsigned t;

	for (i = 0; i < a->n_inst; i++) {
		if (!a->inst[i].thread_specific)
			continue;
		for (t = 0; t < vm->n_alloc && t < ALLOC_TYPES; t++) {
			a->pool_blocks[t] += a->inst[i].pool.blocks_of[t];
			a->pool_blocks_size[t] += a->inst[i].pool.blocks_size_of[t];
		}
	}
}

int allocators_read(struct vm *vm, struct allocators **out, struct error *err)
{
	const struct layout *l = vm->layout;
	struct allocators *a;
	unsigned t;
	int ret = 0;

	*out = NULL;
	if (!vm->anchors.v[A_ALLCTRS_INFO].addr || !vm->anchors.v[A_ALLCTR_THR_SPEC].addr ||
	    !l->size_ErtsAllocatorInfo_t || !l->size_ErtsAllocatorThrSpec_t || !l->size_Allctr_t ||
	    l->size_Allctr_t > MAX_ALLCTR || !vm->n_alloc || vm->n_alloc > ALLOC_TYPES)
		return error_set(err, EXIT_UNSUPPORTED, -ENOENT,
				 "the allocators of this VM were not found: its symbols are missing "
				 "and no signature matched");
	a = calloc(1, sizeof(*a));
	if (!a)
		return -ENOMEM;
	a->types = calloc(vm->n_alloc, sizeof(*a->types));
	a->pool_blocks = calloc(vm->n_alloc, sizeof(*a->pool_blocks));
	a->pool_blocks_size = calloc(vm->n_alloc, sizeof(*a->pool_blocks_size));
	if (!a->types || !a->pool_blocks || !a->pool_blocks_size)
		ret = -ENOMEM;
	for (t = 0; !ret && t < vm->n_alloc; t++) {
		struct alloc_type *type = &a->types[a->n_types++];

		type->name = vm->alloc_names[t] ? vm->alloc_names[t] : "";
		type->type = t;
		/* number 0 is ERTS_ALC_A_INVALID; the arrays have an element for it */
		ret = t < first_number(l) ? 0 : type_read(vm, a, type);
		if (ret < 0 && !is_fatal(ret)) {
			a->unreadable++;
			ret = 0;
		}
	}
	if (ret < 0) {
		allocators_free(a);
		return error_set(err, error_exit_code(ret), ret,
				 "the allocators of process %d cannot be read: %s",
				 (int)target_pid(vm->target), strerror(-ret));
	}
	sum_pool(vm, a);
	*out = a;
	return 0;
}

void allocators_free(struct allocators *a)
{
	size_t i;

	if (!a)
		return;
	for (i = 0; i < a->n_inst; i++)
		free(a->inst[i].copy);
	free(a->inst);
	free(a->types);
	free(a->pool_blocks);
	free(a->pool_blocks_size);
	free(a);
}
