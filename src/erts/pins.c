/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pins
 *
 * A carrier goes back to the system when its last block is freed. One small block
 * that lives long can hold back eight megabytes: fragmentation has owners, and they
 * are those of the few blocks that stayed.
 *
 *   | hdr |        free        |blk|              free                |blk| free |
 *                               ^ a heap? a binary? whose?
 *
 * A block does not say what it is. But everything that the VM can find again it
 * finds by a pointer to the block's first byte, and we can follow the same pointers:
 *
 *   Process  .heap .old_heap .abandoned_heap     heaps
 *            .mbuf -> fragments, queues -> messages -> fragments
 *            itself, .dictionary .psd .arg_reg
 *   lists    off-heap lists -> Binary            (binary.c: who holds it)
 *   tables   DbTable, rows                       (ets_rows.c)
 *   ports    Port
 *   magic    Binary -> ErtsResource.type         (resource.c)
 *   tags     owner and type, at the block's end  (tag.c)
 *
 * So: one walk collects the blocks of the carriers that matter, sorted by address;
 * then every pointer of that kind is looked up among them. What no pointer leads to
 * keeps its tag, or is nobody's: code, atoms, timers, the VM's own structures, and
 * what a NIF or driver keeps to itself.
 *
 * Blocks move under us: one that was freed meanwhile is nobody's too.
 */
#include "erts/pins.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "erts/block.h"
#include "erts/ets_rows.h"
#include "erts/list_guard.h"
#include "erts/port.h"
#include "erts/process_info.h"
#include "erts/resource.h"
#include "erts/vm_cache.h"

#define BLOCKS_MAX    (1u << 20)
#define ROWS_MAX      1000000u
#define MESSAGES_MAX  (1u << 20) /* of all queues */
#define FRAGMENTS_MAX (1u << 20)
#define COPY_MAX      4096
#define CACHE_PAGES   1024

struct block {
	uint64_t addr; /* of its first byte behind the header: what pointers to it say */
	uint64_t size; /* whole block */
	uint64_t id;
	uint64_t owner;
	uint32_t carrier; /* index, while collecting */
	uint16_t block_type;
	uint8_t kind, holder;
	bool shared;
};

struct reading {
	struct vm *vm;
	struct pins *p;
	struct pins_opts opts;
	struct block_format f;
	struct block *v;
	size_t n, allocated, a_carriers;
	uint64_t messages, fragments;
	bool of_type[ALLOC_TYPES]; /* there are blocks in carriers of this allocator */
	int error;
};

/* ---- collecting blocks ----------------------------------------------------- */

static bool matters(const struct reading *r, const struct carrier *c)
{
	return !c->single && !c->torn && !c->gone && !c->dead && c->used_blocks &&
	       (!r->opts.alloc_type || c->type == r->opts.alloc_type) &&
	       c->free_resident >= r->opts.least && c->type < ALLOC_TYPES &&
	       (double)c->used_bytes < r->opts.below * (double)c->size;
}

static void *grow(void *v, size_t *allocated, size_t size)
{
	size_t more = *allocated ? *allocated * 2 : 1024;
	void *bigger = realloc(v, more * size);

	if (bigger)
		*allocated = more;
	return bigger;
}

/* The walk tells of a carrier's blocks when it is done with it: its sums are known. */
static void block_found(void *arg, const struct carrier *c, uint64_t addr, uint64_t size, bool used,
			unsigned alloc_type)
{
	struct reading *r = arg;
	struct pins *p = r->p;

	(void)alloc_type;
	if (r->error || !used || !matters(r, c))
		return;
	if (!p->n_carriers || p->carriers[p->n_carriers - 1].c.addr != c->addr) {
		if (p->n_carriers == r->a_carriers) {
			void *v = grow(p->carriers, &r->a_carriers, sizeof(*p->carriers));

			if (!v) {
				r->error = -ENOMEM;
				return;
			}
			p->carriers = v;
		}
		p->carriers[p->n_carriers++] = (struct pin_carrier){ .c = *c };
		p->free_resident += c->free_resident;
		r->of_type[c->type] = true;
	}
	p->blocks++;
	if (r->n >= BLOCKS_MAX) {
		p->left_out++;
		return;
	}
	if (r->n == r->allocated) {
		void *v = grow(r->v, &r->allocated, sizeof(*r->v));

		if (!v) {
			r->error = -ENOMEM;
			return;
		}
		r->v = v;
	}
	r->v[r->n++] = (struct block){ .addr = addr + r->f.header,
				       .size = size,
				       .carrier = (uint32_t)p->n_carriers - 1,
				       .kind = PIN_UNKNOWN };
	p->carriers[p->n_carriers - 1].blocks++;
}

static int by_addr(const void *a, const void *b)
{
	const struct block *x = a, *y = b;

	return x->addr < y->addr ? -1 : x->addr > y->addr;
}

/* The block that a pointer means, if nobody claimed it before. */
static struct block *mark(struct reading *r, uint64_t addr, enum pin_kind kind, uint64_t id)
{
	const struct block key = { .addr = addr };
	struct block *b;

	if (!addr || !r->n || addr < r->v[0].addr || addr > r->v[r->n - 1].addr)
		return NULL;
	b = bsearch(&key, r->v, r->n, sizeof(*b), by_addr);
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

static int fragments_mark(struct reading *r, uint64_t at, uint64_t pid)
{
	while (at) {
		int ret;

		if (!pointer_plausible(at) || ++r->fragments > FRAGMENTS_MAX)
			return 0;
		mark(r, at, PIN_MESSAGE, pid);
		ret = vm_read_field(r->vm, at, r->vm->layout->ErlHeapFragment__next, &at);
		if (ret)
			return vm_fatal(ret) ? ret : 0;
	}
	return 0;
}

/* A list of messages or other signals: each is a block, and so are fragments on it. */
static int messages_mark(struct reading *r, uint64_t at, uint64_t pid)
{
	const struct layout *l = r->vm->layout;

	while (at) {
		uint64_t next, attached;
		int ret;

		if (!pointer_plausible(at) || ++r->messages > MESSAGES_MAX)
			return 0;
		mark(r, at, PIN_MESSAGE, pid);
		ret = vm_read_field(r->vm, at, l->ErtsMessage__next, &next);
		if (!ret)
			ret = vm_read_field(r->vm, at, l->ErtsMessage__data_attached, &attached);
		if (!ret && attached > 1 && pointer_plausible(attached))
			ret = fragments_mark(r, attached, pid);
		if (ret)
			return vm_fatal(ret) ? ret : 0;
		at = next;
	}
	return 0;
}

static int process_mark(void *ctx, const struct process_info *info)
{
	struct reading *r = ctx;
	const struct layout *l = r->vm->layout;
	const size_t size = l->size_Process;
	unsigned char copy[COPY_MAX];
	const struct layout_field heaps[] = { l->Process__heap, l->Process__old_heap,
					      l->Process__abandoned_heap };
	const struct layout_field parts[] = { l->Process__dictionary, l->Process__psd,
					      l->Process__arg_reg };
	const struct layout_field queues[] = { l->Process__sig_qs_first, l->Process__sig_qs_cont,
					       l->Process__sig_inq_first, l->Process__msg_frag };
	const uint64_t pid = info->p.pid;
	int ret = size <= sizeof(copy) ? vm_read(r->vm, info->p.addr, copy, size) : -ENOENT;
	size_t i;

	if (ret || pointer(copy, size, l->Process__common_id) != pid)
		return vm_fatal(ret) ? ret : 0;
	mark(r, info->p.addr, PIN_PROCESS, pid);
	for (i = 0; i < sizeof(heaps) / sizeof(heaps[0]); i++)
		mark(r, pointer(copy, size, heaps[i]), PIN_HEAP, pid);
	for (i = 0; i < sizeof(parts) / sizeof(parts[0]); i++)
		mark(r, pointer(copy, size, parts[i]), PIN_PROCESS, pid);
	ret = fragments_mark(r, pointer(copy, size, l->Process__mbuf), pid);
	for (i = 0; i < sizeof(queues) / sizeof(queues[0]) && !ret; i++)
		ret = messages_mark(r, pointer(copy, size, queues[i]), pid);
	return ret;
}

/* ---- tables, ports, binaries ------------------------------------------------ */

struct row_job {
	struct reading *r;
	const struct ets_table *t;
};

static int row_mark(void *ctx, uint64_t row, uint64_t off_heap)
{
	struct row_job *j = ctx;
	struct block *b = mark(j->r, row, PIN_ROW, j->t->name);

	(void)off_heap;
	if (b)
		b->owner = j->t->owner;
	return 0;
}

static int tables_mark(struct reading *r, const struct ets_tables *t)
{
	uint64_t rows = 0;
	size_t i;

	for (i = 0; i < t->n; i++) {
		struct row_job j = { .r = r, .t = &t->v[i] };
		struct block *b = mark(r, t->v[i].addr, PIN_TABLE, t->v[i].name);
		int ret;

		if (b)
			b->owner = t->v[i].owner;
		ret = t->v[i].items && rows < ROWS_MAX
			      ? ets_rows_walk(r->vm, &t->v[i], ROWS_MAX - rows, &rows, row_mark, &j)
			      : 0;
		if (vm_fatal(ret))
			return ret;
	}
	return 0;
}

static int ports_mark(struct reading *r)
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

static int binaries_mark(struct reading *r, const struct ets_tables *t)
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
		struct block *block = mark(r, one->addr, PIN_BINARY, h->id);

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

/* ---- what is left: resources and tags --------------------------------------- */

static int rest_mark(struct reading *r, const struct resource_types *types)
{
	const struct layout *l = r->vm->layout;
	const struct layout_field type = { .offset = l->ErtsMagicBinary__unaligned_data.offset,
					   .size = 8 };
	unsigned char tag[16];
	size_t i;

	for (i = 0; i < r->n; i++) {
		struct block *b = &r->v[i];
		uint64_t header, value;
		struct block_tag t;
		int ret;

		if (b->kind != PIN_UNKNOWN)
			continue;
		ret = vm_read_u64(r->vm, b->addr - r->f.header, &header);
		if (ret || header & BLOCK_FREE || block_size(&r->f, header) != b->size) {
			if (vm_fatal(ret))
				return ret;
			continue; /* freed, or another one by now */
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
static bool wanted(const struct reading *r, const char *allocator)
{
	unsigned t;

	for (t = 1; t < r->vm->n_alloc && t < ALLOC_TYPES; t++)
		if (strcmp(r->vm->alloc_names[t], allocator) == 0)
			return r->of_type[t] || r->vm->layout->otp_major < 24;
	return true;
}

static int owners_find(struct reading *r, const struct allocators *a, struct error *err)
{
	struct resource_types *types = NULL;
	struct ets_tables *tables = NULL;
	struct vm_cache *own = NULL;
	struct process_scan scan;
	int ret = processes_scan(r->vm, 0, process_mark, r, &scan, err);

	(void)a;
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
		ret = rest_mark(r, types);
	if (own) {
		r->vm->cache = NULL;
		vm_cache_free(own);
	}
	resource_types_free(types);
	ets_free(tables);
	return ret;
}

/* ---- adding up --------------------------------------------------------------- */

static int by_group(const void *a, const void *b, void *arg)
{
	const struct pins *p = arg;
	const struct block *x = a, *y = b;
	const unsigned tx = p->carriers[x->carrier].c.type, ty = p->carriers[y->carrier].c.type;

	if (tx != ty)
		return tx < ty ? -1 : 1;
	if (x->kind != y->kind)
		return x->kind < y->kind ? -1 : 1;
	if (x->holder != y->holder)
		return x->holder < y->holder ? -1 : 1;
	if (x->block_type != y->block_type)
		return x->block_type < y->block_type ? -1 : 1;
	if (x->id != y->id)
		return x->id < y->id ? -1 : 1;
	return x->carrier < y->carrier ? -1 : x->carrier > y->carrier;
}

static bool same_group(const struct pins *p, const struct block *x, const struct block *y)
{
	return p->carriers[x->carrier].c.type == p->carriers[y->carrier].c.type &&
	       x->kind == y->kind && x->holder == y->holder && x->block_type == y->block_type &&
	       x->id == y->id;
}

/* One group's blocks in one carrier. */
static void carrier_add(struct pins *p, struct pin *pin, uint32_t index, uint32_t blocks,
			uint64_t bytes)
{
	struct pin_carrier *c = &p->carriers[index];

	pin->carriers++;
	pin->pinned += c->c.free_resident;
	if (blocks == c->blocks) {
		pin->alone++;
		pin->alone_pinned += c->c.free_resident;
	}
	c->owners++;
	if (bytes > c->most_bytes) {
		c->most_bytes = bytes;
		c->most = (uint32_t)(pin - p->v);
	}
}

static int groups_make(struct reading *r)
{
	struct pins *p = r->p;
	size_t i, end, groups = 0;

	if (r->n)
		qsort_r(r->v, r->n, sizeof(*r->v), by_group, p);
	for (i = 0; i < r->n; i++)
		groups += !i || !same_group(p, &r->v[i - 1], &r->v[i]);
	p->v = calloc(groups ? groups : 1, sizeof(*p->v));
	if (!p->v)
		return -ENOMEM;
	for (i = 0; i < r->n; i = end) {
		struct pin *pin = &p->v[p->n++];
		uint32_t carrier = r->v[i].carrier, blocks = 0;
		uint64_t bytes = 0;

		*pin = (struct pin){ .alloc_type = p->carriers[carrier].c.type,
				     .kind = (enum pin_kind)r->v[i].kind,
				     .holder = (enum binary_holder_kind)r->v[i].holder,
				     .block_type = r->v[i].block_type,
				     .id = r->v[i].id,
				     .owner = r->v[i].owner };
		for (end = i; end < r->n && same_group(p, &r->v[i], &r->v[end]); end++) {
			const struct block *b = &r->v[end];

			if (b->carrier != carrier) {
				carrier_add(p, pin, carrier, blocks, bytes);
				carrier = b->carrier;
				blocks = 0;
				bytes = 0;
			}
			blocks++;
			bytes += b->size;
			pin->blocks++;
			pin->bytes += b->size;
			pin->shared |= b->shared;
		}
		carrier_add(p, pin, carrier, blocks, bytes);
		if (pin->kind == PIN_UNKNOWN)
			p->unknown += pin->blocks;
	}
	return 0;
}

/* Largest first; carriers name their pin by its new place. */
static int by_pinned(const void *a, const void *b, void *arg)
{
	const struct pins *p = arg;
	const struct pin *x = &p->v[*(const uint32_t *)a], *y = &p->v[*(const uint32_t *)b];

	if (x->pinned != y->pinned)
		return x->pinned > y->pinned ? -1 : 1;
	if (x->bytes != y->bytes)
		return x->bytes > y->bytes ? -1 : 1;
	return *(const uint32_t *)a < *(const uint32_t *)b ? -1 : 1;
}

static int by_free(const void *a, const void *b)
{
	const struct pin_carrier *x = a, *y = b;

	if (x->c.free_resident != y->c.free_resident)
		return x->c.free_resident > y->c.free_resident ? -1 : 1;
	return x->c.addr < y->c.addr ? -1 : x->c.addr > y->c.addr;
}

static int order(struct pins *p)
{
	uint32_t *at = malloc((p->n ? p->n : 1) * sizeof(*at));
	uint32_t *to = malloc((p->n ? p->n : 1) * sizeof(*to));
	struct pin *v = malloc((p->n ? p->n : 1) * sizeof(*v));
	size_t i;
	int ret = at && to && v ? 0 : -ENOMEM;

	if (!ret) {
		for (i = 0; i < p->n; i++)
			at[i] = (uint32_t)i;
		if (p->n)
			qsort_r(at, p->n, sizeof(*at), by_pinned, p);
		for (i = 0; i < p->n; i++) {
			v[i] = p->v[at[i]];
			to[at[i]] = (uint32_t)i;
		}
		for (i = 0; i < p->n_carriers; i++)
			if (p->carriers[i].owners)
				p->carriers[i].most = to[p->carriers[i].most];
		free(p->v);
		p->v = v;
		v = NULL;
		if (p->n_carriers)
			qsort(p->carriers, p->n_carriers, sizeof(*p->carriers), by_free);
	}
	free(at);
	free(to);
	free(v);
	return ret;
}

int pins_read(struct vm *vm, const struct allocators *a, const struct pins_opts *opts,
	      struct pins **out, struct error *err)
{
	struct reading r = { .vm = vm, .opts = opts ? *opts : (struct pins_opts){ 0 } };
	const struct carriers_opts walk = { .block = block_found, .arg = &r };
	struct carriers *c = NULL;
	int ret;

	*out = NULL;
	r.opts.below = r.opts.below > 0 ? r.opts.below : 0.5;
	r.opts.least = r.opts.least ? r.opts.least : 32768;
	block_format_init(&r.f, vm->layout);
	r.p = calloc(1, sizeof(*r.p));
	ret = r.p ? carriers_walk(vm, a, &walk, &c, err) : -ENOMEM;
	if (!ret)
		ret = r.error;
	if (!ret) {
		r.p->torn = c->torn;
		if (r.n)
			qsort(r.v, r.n, sizeof(*r.v), by_addr);
		ret = r.n ? owners_find(&r, a, err) : 0;
	}
	if (!ret)
		ret = groups_make(&r);
	if (!ret)
		ret = order(r.p);
	free(r.v);
	carriers_free(c);
	if (ret) {
		pins_free(r.p);
		return error_set(err, error_exit_code(ret), ret,
				 "The blocks in nearly empty carriers could not be read: %s.",
				 strerror(-ret));
	}
	*out = r.p;
	return 0;
}

void pins_free(struct pins *p)
{
	if (!p)
		return;
	free(p->v);
	free(p->carriers);
	free(p);
}

/* ---- words -------------------------------------------------------------------- */

const char *pin_what(const struct pin *p)
{
	static const char *const names[] = {
		[PIN_HEAP] = "heap",	   [PIN_MESSAGE] = "message",	[PIN_PROCESS] = "process",
		[PIN_BINARY] = "binary",   [PIN_ROW] = "row",		[PIN_TABLE] = "table",
		[PIN_PORT] = "port",	   [PIN_RESOURCE] = "resource", [PIN_TAG] = "tagged",
		[PIN_UNKNOWN] = "unknown",
	};
	static const char *const holders[] = {
		[HOLDER_PROCESS] = "binary",
		[HOLDER_MESSAGES] = "binary, msg",
		[HOLDER_ETS] = "binary, row",
		[HOLDER_PORT] = "binary, port",
	};

	return p->kind == PIN_BINARY ? holders[p->holder] : names[p->kind];
}

void pin_owner(struct vm *vm, const struct pin *p, char *buf, size_t size)
{
	const struct layout *l = vm->layout;
	uint64_t module, name;
	char text[1100];
	size_t at;

	if (!size)
		return;
	buf[0] = '\0';
	switch (p->kind) {
	case PIN_HEAP:
	case PIN_MESSAGE:
	case PIN_PROCESS:
		process_pid_label(vm, p->id, buf, size);
		break;
	case PIN_BINARY: {
		const struct binary_holder h = { .kind = p->holder, .id = p->id };

		binary_holder_label(vm, &h, buf, size);
		break;
	}
	case PIN_ROW:
	case PIN_TABLE:
		vm_atom(vm, p->id >> 6, buf, size);
		break;
	case PIN_PORT:
		port_text(vm, p->id, buf, size);
		break;
	case PIN_RESOURCE:
		if (vm_read_field(vm, p->id, l->ErlNifResourceType__module, &module) ||
		    vm_read_field(vm, p->id, l->ErlNifResourceType__name, &name) ||
		    vm_atom(vm, module >> 6, buf, size) < 0 ||
		    vm_atom(vm, name >> 6, text, sizeof(text)) < 0)
			break;
		at = strlen(buf);
		snprintf(buf + at, size - at, ":%s", text);
		break;
	case PIN_TAG:
		if (vm_atom(vm, p->id, text, sizeof(text)) < 0)
			break;
		snprintf(buf, size, "%s (%s)", text, vm->type_names[p->block_type]);
		break;
	case PIN_UNKNOWN:
		break;
	}
}
