/* SPDX-License-Identifier: Apache-2.0 */
/* Whose the blocks are: pins.c opens with the page that explains how they are found. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "erts/ets_rows.h"
#include "erts/freed.h"
#include "erts/list_guard.h"
#include "erts/messages.h"
#include "erts/pins_int.h"
#include "erts/port.h"
#include "erts/process_info.h"
#include "erts/resource.h"
#include "erts/vm_cache.h"

#define ROWS_MAX      1000000u
#define MESSAGES_MAX  (1u << 20) /* of all queues */
#define FRAGMENTS_MAX (1u << 20)
#define COPY_MAX      4096
#define CACHE_PAGES   1024
#define TRIES	      3 /* of a process whose lists change */

static int holds_addr(const void *key, const void *block)
{
	const uint64_t addr = *(const uint64_t *)key, at = ((const struct pin_block *)block)->addr;

	return addr < at ? -1 : addr > at;
}

/* The block that a pointer means, if nobody claimed it before. */
static struct pin_block *mark(struct pins_reading *r, uint64_t addr, enum pin_kind kind,
			      uint64_t id)
{
	struct pin_block *b;

	if (!addr || !r->n || addr < r->v[0].addr || addr > r->v[r->n - 1].addr)
		return NULL;
	b = bsearch(&addr, r->v, r->n, sizeof(*b), holds_addr);
	if (!b || b->kind != PIN_UNKNOWN)
		return NULL;
	b->kind = (uint8_t)kind;
	b->id = id;
	return b;
}

/* ---- processes ------------------------------------------------------------- */

static uint64_t pointer(const void *copy, size_t size, struct layout_field f)
{
	uint64_t v;

	return vm_field(copy, size, f, &v) ? v : 0;
}

struct process_blocks {
	struct pins_reading *r;
	uint64_t pid;
};

static int fragments_mark(struct pins_reading *r, uint64_t at, uint64_t pid)
{
	while (at) {
		int ret;

		if (!pointer_plausible(at))
			return 0;
		if (++r->fragments > FRAGMENTS_MAX) {
			r->p->cut = true;
			return 0;
		}
		mark(r, at, PIN_MESSAGE, pid);
		ret = vm_read_field(r->vm, at, r->vm->layout->ErlHeapFragment__next, &at);
		if (ret)
			return vm_fatal(ret) ? ret : 0;
	}
	return 0;
}

/* A message is a block, and so are the fragments on it; of one whose data it has in
 * itself, those behind. */
static int message_mark(void *ctx, const struct message *m)
{
	struct process_blocks *p = ctx;

	if (++p->r->messages > MESSAGES_MAX) {
		p->r->p->cut = true;
		return -E2BIG;
	}
	mark(p->r, m->addr, PIN_MESSAGE, p->pid);
	return m->fragment ? fragments_mark(p->r, m->fragment, p->pid) : 0;
}

/* 0; 1 when it runs and its lists changed under us: what was found stands. */
static int process_lists_mark(struct process_blocks *p, uint64_t addr)
{
	const struct layout *l = p->r->vm->layout;
	const size_t size = l->size_Process;
	unsigned char copy[COPY_MAX];
	const struct layout_field heaps[] = { l->Process__heap, l->Process__old_heap,
					      l->Process__abandoned_heap };
	const struct layout_field parts[] = { l->Process__dictionary, l->Process__psd,
					      l->Process__arg_reg };
	int ret = size <= sizeof(copy) ? vm_read(p->r->vm, addr, copy, size) : -ENOENT;
	size_t i;

	if (ret || pointer(copy, size, l->Process__common_id) != p->pid)
		return vm_fatal(ret) ? ret : 0;
	for (i = 0; i < sizeof(heaps) / sizeof(heaps[0]); i++)
		mark(p->r, pointer(copy, size, heaps[i]), PIN_HEAP, p->pid);
	for (i = 0; i < sizeof(parts) / sizeof(parts[0]); i++)
		mark(p->r, pointer(copy, size, parts[i]), PIN_PROCESS, p->pid);
	ret = fragments_mark(p->r, pointer(copy, size, l->Process__mbuf), p->pid);
	if (!ret)
		ret = message_list_walk(p->r->vm, pointer(copy, size, l->Process__msg_frag),
					message_mark, p);
	if (!vm_fatal(ret)) {
		int queues = messages_walk(p->r->vm, copy, message_mark, p);

		ret = queues ? queues : ret;
	}
	return ret == -EAGAIN ? 1 : vm_fatal(ret) ? ret : 0;
}

static int process_mark(void *ctx, const struct process_info *info)
{
	struct process_blocks p = { .r = ctx, .pid = info->p.pid };
	int ret, tries = TRIES;

	mark(p.r, info->p.addr, PIN_PROCESS, p.pid);
	do
		ret = process_lists_mark(&p, info->p.addr);
	while (ret == 1 && --tries);
	return ret < 0 ? ret : 0;
}

/* ---- tables, ports, binaries ------------------------------------------------ */

struct row_job {
	struct pins_reading *r;
	const struct ets_table *t;
};

static int row_mark(void *ctx, uint64_t row, uint64_t off_heap)
{
	struct row_job *j = ctx;
	struct pin_block *b = mark(j->r, row, PIN_ROW, j->t->name);

	(void)off_heap;
	if (b)
		b->owner = j->t->owner;
	return 0;
}

static int tables_mark(struct pins_reading *r, const struct ets_tables *t)
{
	uint64_t rows = 0;
	size_t i;

	for (i = 0; i < t->n; i++) {
		struct row_job j = { .r = r, .t = &t->v[i] };
		struct pin_block *b = mark(r, t->v[i].addr, PIN_TABLE, t->v[i].name);
		int ret;

		if (b)
			b->owner = t->v[i].owner;
		r->p->cut |= t->v[i].items && rows >= ROWS_MAX;
		ret = t->v[i].items && rows < ROWS_MAX
			      ? ets_rows_walk(r->vm, &t->v[i], ROWS_MAX - rows, &rows, row_mark, &j)
			      : 0;
		if (vm_fatal(ret))
			return ret;
	}
	return 0;
}

static int ports_mark(struct pins_reading *r)
{
	struct ports *p;
	size_t i;
	int ret = ports_read(r->vm, &p, NULL);

	if (ret)
		return vm_fatal(ret) ? ret : 0;
	for (i = 0; i < p->n; i++)
		mark(r, p->v[i].addr, PIN_PORT, p->v[i].id);
	ports_free(p);
	return 0;
}

static int binaries_mark(struct pins_reading *r, const struct ets_tables *t)
{
	const struct binaries_opts opts = {
		.messages = true, .ports = true, .rows_max = t ? ROWS_MAX : 0, .tables = t
	};
	struct binaries *b;
	size_t i;
	int ret = binaries_read(r->vm, &opts, &b, NULL);

	if (ret)
		return vm_fatal(ret) ? ret : 0;
	for (i = 0; i < b->n; i++) {
		const struct refc_binary *one = &b->v[i];
		const struct binary_ref *refs = b->refs + one->first;
		const struct binary_holder *h = &b->holders[refs[0].holder];
		struct pin_block *block = mark(r, one->addr, PIN_BINARY, h->id);

		if (!block)
			continue;
		block->holder = (uint8_t)h->kind;
		block->owner = h->owner;
		block->shared = refs[one->refs - 1].holder != refs[0].holder ||
				one->refc > one->refs;
	}
	binaries_free(b);
	return 0;
}

/* ---- what is left: freed blocks, resources and tags --------------------------------------- */

static int freed_mark(void *ctx, uint64_t addr, unsigned type)
{
	struct pin_block *b = mark(ctx, addr, type ? PIN_SPARE : PIN_FREED, 0);

	if (b)
		b->block_type = (uint16_t)type;
	return 0;
}

static int rest_mark(struct pins_reading *r, const struct resource_types *types)
{
	const struct layout *l = r->vm->layout;
	const struct layout_field type = { .offset = l->ErtsMagicBinary__unaligned_data.offset,
					   .size = 8 };
	unsigned char tag[16];
	size_t i;

	for (i = 0; i < r->n; i++) {
		struct pin_block *b = &r->v[i];
		uint64_t header, value;
		struct block_tag t;
		int ret;

		if (b->kind != PIN_UNKNOWN)
			continue;
		ret = vm_read_u64(r->vm, b->addr - r->f.header, &header);
		if (ret || header & BLOCK_FREE || block_size(&r->f, header) != b->size) {
			if (vm_fatal(ret))
				return ret;
			if (!ret) /* freed since, or another one by now */
				b->kind = PIN_FREED;
			continue;
		}
		if (!(header & BLOCK_TAGGED) || b->size < r->f.header + r->f.tag_bytes)
			continue;
		ret = vm_read(r->vm, b->addr - r->f.header + b->size - r->f.tag_bytes, tag,
			      r->f.tag_bytes);
		if (ret)
			continue;
		block_tag_read(&r->f, tag + r->f.tag_bytes, &t);
		if (t.type >= r->vm->n_types || !r->vm->type_names[t.type])
			continue;
		b->kind = PIN_TAG;
		b->id = t.owner;
		b->block_type = (uint16_t)t.type;
		if (types && layout_has(l->ErtsMagicBinary__unaligned_data) &&
		    !vm_read_field(r->vm, b->addr, l->Binary__intern_flags, &value) &&
		    layout_flag(value, l->bin_flag_magic) &&
		    !vm_read_field(r->vm, b->addr, type, &value) &&
		    resource_types_find(types, value)) {
			b->kind = PIN_RESOURCE;
			b->id = value;
		}
	}
	return 0;
}

/* Whether blocks of this allocator can be among ours. Up to 23 a carrier that was
 * fetched from the pool holds those of several. */
static bool wanted(const struct pins_reading *r, const char *allocator)
{
	unsigned t;

	for (t = 1; t < r->vm->n_alloc && t < ALLOC_TYPES; t++)
		if (strcmp(r->vm->alloc_names[t], allocator) == 0)
			return r->of_type[t] || r->vm->layout->otp_major < 24;
	return true;
}

int pins_owners_find(struct pins_reading *r, const struct allocators *a, struct error *err)
{
	struct resource_types *types = NULL;
	struct ets_tables *tables = NULL;
	struct vm_cache *own = NULL;
	struct process_scan scan;
	int ret = processes_scan(r->vm, 0, process_mark, r, &scan, err);

	if (!ret && !r->vm->cache) {
		own = vm_cache_new(CACHE_PAGES);
		r->vm->cache = own;
	}
	if (!ret && ets_read(r->vm, &tables, NULL) == -ENOMEM)
		ret = -ENOMEM;
	if (!ret && tables && wanted(r, "ets_alloc"))
		ret = tables_mark(r, tables);
	if (!ret)
		ret = ports_mark(r);
	if (!ret && wanted(r, "binary_alloc"))
		ret = binaries_mark(r, tables);
	if (!ret && resource_types_read(r->vm, NULL, &types, NULL) == -ENOMEM)
		ret = -ENOMEM;
	vm_cache_forget(r->vm->cache);
	if (!ret)
		ret = freed_blocks_walk(r->vm, a, freed_mark, r);
	if (!ret)
		ret = rest_mark(r, types);
	if (own) {
		r->vm->cache = NULL;
		vm_cache_free(own);
	}
	resource_types_free(types);
	ets_free(tables);
	return ret;
}
