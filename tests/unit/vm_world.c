/* SPDX-License-Identifier: Apache-2.0 */
#include "vm_world.h"

#include <stdlib.h>
#include <string.h>

static void must(bool good)
{
	if (!good)
		abort();
}

void *world_at(struct world *w, uint64_t addr)
{
	if (addr >= WORLD_IMAGE && addr + 8 <= WORLD_IMAGE + WORLD_IMAGE_BYTES)
		return w->image + (addr - WORLD_IMAGE);
	must(addr >= WORLD_HEAP && addr + 8 <= WORLD_HEAP + WORLD_HEAP_BYTES);
	return w->heap + (addr - WORLD_HEAP);
}

void world_put(struct world *w, uint64_t addr, uint64_t value)
{
	memcpy(world_at(w, addr), &value, 8);
}

uint64_t world_get(struct world *w, uint64_t addr)
{
	uint64_t v;

	memcpy(&v, world_at(w, addr), 8);
	return v;
}

void world_set(struct world *w, uint64_t base, struct layout_field f, uint64_t value)
{
	must(layout_has(f) && f.size <= 8);
	memcpy(world_at(w, base + (uint64_t)f.offset), &value, f.size);
}

uint64_t world_image(struct world *w, size_t bytes)
{
	uint64_t at = (w->image_used + 63) & ~63ULL;

	must(at + bytes <= WORLD_IMAGE_BYTES);
	w->image_used = at + bytes;
	return WORLD_IMAGE + at;
}

struct world *world_new(const struct layout *l)
{
	static char *names[W_N] = { "invalid",	 "sys_alloc",	  "temp_alloc",	  "sl_alloc",
				    "std_alloc", "ll_alloc",	  "eheap_alloc",  "ets_alloc",
				    "fix_alloc", "literal_alloc", "binary_alloc", "driver_alloc",
				    "test_alloc" };
	static char *types[W_TYPES];
	struct world *w = calloc(1, sizeof(*w));
	unsigned i;

	must(w != NULL);
	w->l = l;
	w->image = calloc(1, WORLD_IMAGE_BYTES);
	w->heap = calloc(1, WORLD_HEAP_BYTES);
	must(w->image && w->heap);
	for (i = 1; i < W_TYPES; i++)
		types[i] = "other";
	types[W_TYPE_BINARY] = "binary";
	types[W_TYPE_DRV_BINARY] = "drv_binary";
	types[W_TYPE_DRIVER] = "driver";
	w->info = world_image(w, W_N * l->size_ErtsAllocatorInfo_t);
	w->spec = world_image(w, W_N * l->size_ErtsAllocatorThrSpec_t);
	w->sentinel = world_image(w, l->size_ErtsAlcCPoolData_t);
	world_set(w, w->sentinel, l->ErtsAlcCPoolData_t__next, w->sentinel);
	world_set(w, w->sentinel, l->ErtsAlcCPoolData_t__prev, w->sentinel);
	w->vm.layout = l;
	w->vm.exe_fd = -1; /* there is no executable */
	w->vm.alloc_names = names;
	w->vm.n_alloc = W_N;
	w->vm.type_names = types;
	w->vm.n_types = W_TYPES;
	w->vm.anchors.v[A_ALLCTRS_INFO].addr = w->info;
	w->vm.anchors.v[A_ALLCTR_THR_SPEC].addr = w->spec;
	return w;
}

static void forget(struct world *w)
{
	target_close(w->target);
	residency_free(w->res);
	free(w->maps.v);
	w->target = NULL;
	w->res = NULL;
	w->maps.v = NULL;
}

void world_free(struct world *w)
{
	if (!w)
		return;
	forget(w);
	free(w->image);
	free(w->heap);
	free(w);
}

struct vm *world_vm(struct world *w)
{
	size_t pages = WORLD_HEAP_BYTES / 4096, i, n = 1;
	struct target_buffer *b = calloc(pages + 1, sizeof(*b));
	struct error err = { 0 };

	forget(w);
	w->maps.v = calloc(pages + 1, sizeof(*w->maps.v));
	must(b && w->maps.v);
	b[0] = (struct target_buffer){ WORLD_IMAGE, w->image, WORLD_IMAGE_BYTES };
	for (i = 0; i < pages; i++) {
		if (w->hole[i])
			continue;
		if (i && !w->hole[i - 1] && n > 1) {
			b[n - 1].len += 4096;
			continue;
		}
		b[n++] = (struct target_buffer){ WORLD_HEAP + i * 4096, w->heap + i * 4096, 4096 };
	}
	for (i = 0; i < n; i++)
		w->maps.v[i] = (struct mapping){ .start = b[i].addr,
						 .end = b[i].addr + b[i].len,
						 .read = true,
						 .write = true,
						 .kind = MAPPING_ANON,
						 .path = "" };
	w->maps.n = n;
	must(target_open_buffers(b, n, &w->target) == 0);
	must(residency_take(w->target, &w->maps, &w->res, &err) == 0);
	free(b);
	w->vm.target = w->target;
	w->vm.maps = &w->maps;
	w->vm.res = w->res;
	return &w->vm;
}

static uint64_t sum_field(const struct layout *l, uint64_t base, struct layout_field stats,
			  struct layout_field inner, size_t index, size_t stride,
			  struct layout_field leaf)
{
	(void)l;
	return base + (uint64_t)(stats.offset + inner.offset + leaf.offset) + index * stride;
}

uint64_t world_allocator(struct world *w, unsigned type, unsigned n)
{
	const struct layout *l = w->l;
	uint64_t info = w->info + type * l->size_ErtsAllocatorInfo_t;
	uint64_t spec = w->spec + type * l->size_ErtsAllocatorThrSpec_t;
	unsigned many = n ? n : 1, i;
	uint64_t base = world_image(w, many * world_stride);
	uint64_t list = world_image(w, many * 8);

	world_set(w, info, l->ErtsAllocatorInfo_t__alloc_util, 1);
	world_set(w, info, l->ErtsAllocatorInfo_t__enabled, 1);
	world_set(w, info, l->ErtsAllocatorInfo_t__thr_spec, n);
	world_set(w, info, l->ErtsAllocatorInfo_t__extra, n ? spec : base);
	world_set(w, spec, l->ErtsAllocatorThrSpec_t__enabled, n != 0);
	world_set(w, spec, l->ErtsAllocatorThrSpec_t__size, n);
	world_set(w, spec, l->ErtsAllocatorThrSpec_t__allctr, list);
	for (i = 0; i < many; i++) {
		uint64_t a = base + i * world_stride;
		/* MBC_HEADER_SIZE: so that user data, 8 bytes later, is aligned */
		uint64_t header = l->size_Carrier_t + 64;

		world_put(w, list + i * 8, a);
		world_set(w, a, l->Allctr_t__alloc_no, type);
		world_set(w, a, l->Allctr_t__ix, i);
		world_set(w, a, l->Allctr_t__mbc_header_size, header);
		world_set(w, a, l->Allctr_t__cpool_sentinel, n ? w->sentinel : 0);
		world_set(w, a, l->Allctr_t__sbc_threshold, 524288);
		world_set(w, a, l->Allctr_t__atags, type == W_BINARY || type == W_DRIVER);
	}
	return base;
}

/* Appends to a list {first, last} of an instance. */
static void list_append(struct world *w, uint64_t first, uint64_t last, uint64_t carrier)
{
	const struct layout *l = w->l;
	uint64_t tail = world_get(w, last);

	world_set(w, carrier, l->Carrier_t__prev, tail);
	world_set(w, carrier, l->Carrier_t__next, 0);
	if (tail)
		world_set(w, tail, l->Carrier_t__next, carrier);
	else
		world_put(w, first, carrier);
	world_put(w, last, carrier);
}

struct world_carrier *world_carrier(struct world *w, uint64_t allctr, uint64_t size, bool single)
{
	const struct layout *l = w->l;
	struct world_carrier *c = &w->carriers[w->n_carriers++];
	struct layout_field first = single ? l->Allctr_t__sbc_list_first
					   : l->Allctr_t__mbc_list_first;
	struct layout_field last = single ? l->Allctr_t__sbc_list_last : l->Allctr_t__mbc_list_last;
	uint64_t align = 1ULL << l->superaligned_bits;

	must(w->n_carriers <= sizeof(w->carriers) / sizeof(w->carriers[0]));
	memset(c, 0, sizeof(*c));
	c->addr = WORLD_HEAP + ((w->heap_used + align - 1) & ~(align - 1));
	c->size = size;
	w->heap_used = c->addr - WORLD_HEAP + size;
	must(w->heap_used <= WORLD_HEAP_BYTES);
	c->header = single ? (uint64_t)l->Carrier_t__cpool.offset : l->size_Carrier_t + 64;
	c->next_block = c->addr + c->header;
	c->first = w->n_blocks;
	world_set(w, c->addr, l->Carrier_t__chdr, size | 1 | (single ? 2 : 0));
	world_set(w, c->addr, l->Carrier_t__allctr, allctr);
	list_append(w, allctr + (uint64_t)first.offset, allctr + (uint64_t)last.offset, c->addr);
	return c;
}

static void count_used(struct world *w, struct world_carrier *c, unsigned type, uint64_t size)
{
	const struct layout *l = w->l;
	uint64_t n = c->addr + (uint64_t)l->Carrier_t__cpool_blocks.offset + 8 * (type - 1);
	uint64_t b = c->addr + (uint64_t)l->Carrier_t__cpool_blocks_size.offset + 8 * (type - 1);
	uint64_t t = c->addr + (uint64_t)l->Carrier_t__cpool_total_blocks_size.offset;

	world_put(w, n, world_get(w, n) + 1);
	world_put(w, b, world_get(w, b) + size);
	world_put(w, t, world_get(w, t) + size);
}

static uint64_t block_put(struct world *w, struct world_carrier *c, uint64_t size, bool used,
			  bool last, bool tagged)
{
	uint64_t at = c->next_block, hdr;
	unsigned shift = (unsigned)w->l->superaligned_bits;

	must(at + size <= c->addr + c->size);
	must(!(c->prev_free && !used));
	if (used) {
		hdr = size | (c->prev_free ? 2 : 0) | (last ? 4 : 0) | (tagged ? 1ULL << 63 : 0);
		hdr |= ((at >> shift) - (c->addr >> shift)) << 40;
	} else {
		hdr = size | 1 | (last ? 4 : 0);
		world_put(w, at + 8, c->addr);
		if (!last)
			world_put(w, at + size - 8, size);
	}
	world_put(w, at, hdr);
	must(w->n_blocks < sizeof(w->blocks) / sizeof(w->blocks[0]));
	w->blocks[w->n_blocks++] = (struct world_block){ at, size, used };
	c->n++;
	c->prev_free = !used;
	c->next_block += size;
	return at;
}

uint64_t world_block(struct world *w, struct world_carrier *c, uint64_t size, bool used,
		     unsigned type, unsigned tag_type, uint64_t tag_owner, uint64_t tag_term)
{
	uint64_t at = block_put(w, c, size, used, false, tag_type != 0);

	if (used)
		count_used(w, c, type, size);
	if (tag_type && w->l->otp_major >= 27) {
		world_put(w, at + size - 16, tag_owner << 8 | tag_type);
		world_put(w, at + size - 8, tag_term);
	} else if (tag_type) {
		world_put(w, at + size - 8, tag_owner << 8 | tag_type);
	}
	return at;
}

void world_last(struct world *w, struct world_carrier *c, bool used, unsigned type)
{
	uint64_t size = c->addr + c->size - c->next_block;

	block_put(w, c, size, used, true, false);
	if (used)
		count_used(w, c, type, size);
}

void world_single(struct world *w, struct world_carrier *c, uint64_t size)
{
	uint64_t at = c->next_block;

	world_put(w, at, size | 7);
	w->blocks[w->n_blocks++] = (struct world_block){ at, size, true };
	c->n++;
}

void world_pool(struct world *w, struct world_carrier *c)
{
	const struct layout *l = w->l;
	uint64_t node = c->addr + (uint64_t)l->Carrier_t__cpool.offset, tail;
	uint64_t word = world_get(w, c->addr + (uint64_t)l->Carrier_t__allctr.offset);

	world_set(w, word, l->Allctr_t__mbc_list_first, 0);
	world_set(w, word, l->Allctr_t__mbc_list_last, 0);
	world_set(w, c->addr, l->Carrier_t__allctr, word | 1);
	world_set(w, c->addr, l->Carrier_t__cpool_orig_allctr, word);
	tail = world_get(w, w->sentinel + (uint64_t)l->ErtsAlcCPoolData_t__prev.offset);
	world_set(w, node, l->ErtsAlcCPoolData_t__prev, tail);
	world_set(w, node, l->ErtsAlcCPoolData_t__next, w->sentinel);
	world_set(w, tail, l->ErtsAlcCPoolData_t__next, node);
	world_set(w, w->sentinel, l->ErtsAlcCPoolData_t__prev, node);
}

void world_statistics(struct world *w, uint64_t allctr, unsigned type)
{
	const struct layout *l = w->l;
	uint64_t no = 0, bytes = 0, sno = 0, sbytes = 0, used = 0, used_bytes = 0, sused = 0,
		 sused_bytes = 0;
	size_t i, k;

	for (i = 0; i < w->n_carriers; i++) {
		struct world_carrier *c = &w->carriers[i];
		uint64_t chdr = world_get(w, c->addr);
		bool single = chdr & 2;

		if ((world_get(w, c->addr + (uint64_t)l->Carrier_t__allctr.offset)) != allctr)
			continue;
		*(single ? &sno : &no) += 1;
		*(single ? &sbytes : &bytes) += c->size;
		for (k = c->first; k < c->first + c->n; k++) {
			if (!w->blocks[k].used)
				continue;
			*(single ? &sused : &used) += 1;
			*(single ? &sused_bytes : &used_bytes) += w->blocks[k].size;
		}
	}
	for (i = 0; i < 2; i++) {
		struct layout_field s = i ? l->Allctr_t__sbcs : l->Allctr_t__mbcs;

		world_put(w,
			  sum_field(l, allctr, s, l->CarriersStats_t__carriers, 0, 0,
				    l->StatValues_t__no),
			  i ? sno : no);
		world_put(w,
			  sum_field(l, allctr, s, l->CarriersStats_t__carriers, 0, 0,
				    l->StatValues_t__size),
			  i ? sbytes : bytes);
		world_put(w,
			  sum_field(l, allctr, s, l->CarriersStats_t__blocks, type - 1,
				    l->size_BlockStats_t, l->BlockStats_t__curr_no),
			  i ? sused : used);
		world_put(w,
			  sum_field(l, allctr, s, l->CarriersStats_t__blocks, type - 1,
				    l->size_BlockStats_t, l->BlockStats_t__curr_size),
			  i ? sused_bytes : used_bytes);
	}
}

uint64_t world_random(uint64_t *state)
{
	uint64_t z = *state += 0x9E3779B97F4A7C15ULL;

	z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9ULL;
	z = (z ^ z >> 27) * 0x94D049BB133111EBULL;
	return z ^ z >> 31;
}
