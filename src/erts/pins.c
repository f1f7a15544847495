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
 *   freed    lists of fix_alloc, and of what waits for its thread   (freed.h)
 *   tags     owner and type, at the block's end  (tag.c)
 *
 * So: one walk collects the blocks of the carriers that matter, sorted by address;
 * then every pointer of that kind is looked up among them (pins_owners.c). What no
 * pointer leads to keeps its tag, or is nobody's: code, atoms, timers, the VM's own structures, and
 * what a NIF or driver keeps to itself.
 *
 * Blocks move under us: one whose header is another by the end was freed meanwhile.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "erts/pins_int.h"
#include "erts/port.h"
#include "erts/process_info.h"

#define BLOCKS_MAX (1u << 20)

/* ---- collecting blocks ----------------------------------------------------- */

static bool matters(const struct pins_reading *r, const struct carrier *c)
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
	struct pins_reading *r = arg;
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
	r->v[r->n++] = (struct pin_block){ .addr = addr + r->f.header,
					   .size = size,
					   .carrier = (uint32_t)p->n_carriers - 1,
					   .kind = PIN_UNKNOWN };
	p->carriers[p->n_carriers - 1].blocks++;
}

static int by_addr(const void *a, const void *b)
{
	const struct pin_block *x = a, *y = b;

	return x->addr < y->addr ? -1 : x->addr > y->addr;
}

/* ---- adding up --------------------------------------------------------------- */

static int by_group(const void *a, const void *b, void *arg)
{
	const struct pins *p = arg;
	const struct pin_block *x = a, *y = b;
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

static bool same_group(const struct pins *p, const struct pin_block *x, const struct pin_block *y)
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

static int groups_make(struct pins_reading *r)
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
			const struct pin_block *b = &r->v[end];

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
	struct pins_reading r = { .vm = vm, .opts = opts ? *opts : (struct pins_opts){ 0 } };
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
		ret = r.n ? pins_owners_find(&r, a, err) : 0;
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
		[PIN_HEAP] = "heap",	 [PIN_MESSAGE] = "message",   [PIN_PROCESS] = "process",
		[PIN_BINARY] = "binary", [PIN_ROW] = "row",	      [PIN_TABLE] = "table",
		[PIN_PORT] = "port",	 [PIN_RESOURCE] = "resource", [PIN_TAG] = "tagged",
		[PIN_SPARE] = "spare",	 [PIN_FREED] = "freed",	      [PIN_UNKNOWN] = "unknown",
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
	case PIN_SPARE:
		if (p->block_type < vm->n_types && vm->type_names[p->block_type])
			snprintf(buf, size, "%s", vm->type_names[p->block_type]);
		break;
	case PIN_FREED:
	case PIN_UNKNOWN:
		break;
	}
}
