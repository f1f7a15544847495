/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Environments of NIFs
 *
 * enif_alloc_env() takes one block of type nif_internal from driver_alloc. It holds an
 * ErlNifEnv and a process that is none, whose heap consists of fragments only:
 *
 *	struct enif_msg_environment_t           (erl_nif.c, OTP 23 to 29)
 *	| ErlNifEnv env | Process phony_proc |
 *	    .proc ----------^  .mbuf ------------> fragment -> fragment     eheap_alloc
 *	                       .off_heap.first --> ProcBin -> ProcBin       in fragments
 *	                                             |
 *	                                             +-> Binary             binary_alloc
 *
 * A NIF that forgets such an environment loses blocks of three allocators, of which
 * only the first is tagged with the NIF's module (and the binary, but that looks like
 * any other binary of the module). What tells an environment from other nif_internal
 * blocks is that `proc` points to the right place inside of its own block.
 *
 * Terms are not looked at: fragments say their size, and the list of off-heap objects
 * says which binaries are referred to.
 */
#include "erts/nif_env.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "erts/block.h"

#define ENVS_MAX    65536u /* that are followed in one look */
#define OWNERS_MAX  256u
#define NODES_MAX   (2u << 20) /* fragments and off-heap objects, of all together */
#define BLOCK_SLACK 64u	       /* a block is at most this much larger than what is in it */

/* Low bits of the header word of a reference to a refc binary (erl_term.h):
 * REFC_BINARY_SUBTAG up to OTP 26, BIN_REF_SUBTAG since. */
#define SUBTAG_MASK 0x3cu
#define SUBTAG_REFC 0x20u
#define SUBTAG_REF  0x28u

struct search {
	struct vm *vm;
	struct block_format format;
	unsigned driver_type;
	uint64_t least; /* bytes of a block that can hold an environment */
	uint64_t *blocks, *sizes;
	size_t n, size;
	unsigned nodes; /* that may still be followed */
	bool cut, failed;
};

/* Tells a ring: an address of before comes again (Brent's way, no memory). An
 * environment that is used again and never cleared is a long list, so length alone is
 * no lie. */
struct ring {
	uint64_t mark, steps, until;
};

static bool ring_closes(struct ring *r, uint64_t at)
{
	if (at == r->mark)
		return true;
	if (r->steps++ == r->until) {
		r->until = r->until ? r->until * 2 : 1;
		r->steps = 0;
		r->mark = at;
	}
	return false;
}

/* One step along a list: -EINVAL for a ring, -E2BIG when enough was followed. */
static int step(struct search *s, struct ring *r, uint64_t at)
{
	if (ring_closes(r, at))
		return -EINVAL;
	if (!s->nodes) {
		s->cut = true;
		return -E2BIG;
	}
	s->nodes--;
	return 0;
}

static void block_seen(void *arg, const struct carrier *c, uint64_t addr, uint64_t size, bool used,
		       unsigned alloc_type)
{
	struct search *s = arg;

	(void)c;
	if (!used || alloc_type != s->driver_type || size < s->least ||
	    size > s->least + BLOCK_SLACK)
		return;
	if (s->n == ENVS_MAX) {
		s->cut = true;
		return;
	}
	if (s->n == s->size) {
		size_t more = s->size ? s->size * 2 : 1024;
		uint64_t *b = realloc(s->blocks, more * sizeof(*b));
		uint64_t *z = b ? realloc(s->sizes, more * sizeof(*z)) : NULL;

		if (b)
			s->blocks = b;
		if (z)
			s->sizes = z;
		if (!z) {
			s->failed = true;
			return;
		}
		s->size = more;
	}
	s->blocks[s->n] = addr;
	s->sizes[s->n++] = size;
}

static uint64_t block_bytes(const struct search *s, uint64_t bytes, bool tagged)
{
	return (bytes + s->format.header + (tagged ? s->format.tag_bytes : 0) + 7) & ~7ull;
}

/* Binaries that are referred to from a list of off-heap objects. */
static int off_heap_add(struct search *s, uint64_t at, struct nif_env_sum *sum)
{
	struct ring ring = { 0 };
	const struct layout *l = s->vm->layout;
	bool bin_ref = l->size_BinRef != 0;
	struct layout_field next = bin_ref ? l->BinRef__next : l->ProcBin__next;
	struct layout_field val = bin_ref ? l->BinRef__val : l->ProcBin__val;
	uint64_t thing, binary, bytes;

	while (at) {
		int ret = step(s, &ring, at);

		if (ret < 0)
			return ret;
		if (vm_read_u64(s->vm, at, &thing) < 0)
			return -EFAULT;
		if ((thing & SUBTAG_MASK) == (bin_ref ? SUBTAG_REF : SUBTAG_REFC)) {
			if (vm_read_field(s->vm, at, val, &binary) < 0 ||
			    vm_read_field(s->vm, binary, l->Binary__orig_size, &bytes) < 0 ||
			    bytes > 1ull << 40)
				return -EFAULT;
			sum->binaries++;
			sum->binary_bytes +=
				block_bytes(s, bytes + (uint64_t)l->Binary__orig_bytes.offset,
					    true);
		}
		/* all off-heap objects have their link at one place */
		if (vm_read_field(s->vm, at,
				  layout_has(l->erl_off_heap_header__next)
					  ? l->erl_off_heap_header__next
					  : next,
				  &at) < 0)
			return -EFAULT;
	}
	return 0;
}

/* One environment: -EAGAIN when the block holds none. */
static int env_read(struct search *s, uint64_t block, uint64_t size, struct nif_env_sum *sum)
{
	const struct layout *l = s->vm->layout;
	uint64_t header, env = block + s->format.header, proc, at, words;
	unsigned char tag[16] = { 0 };
	struct ring ring = { 0 };

	memset(sum, 0, sizeof(*sum));
	sum->owner_atom = UINT64_MAX;
	if (vm_read_u64(s->vm, block, &header) < 0 ||
	    vm_read_field(s->vm, env, l->ErlNifEnv__proc, &proc) < 0)
		return -EFAULT;
	if (proc < env + l->size_ErlNifEnv || proc > env + l->size_ErlNifEnv + 16 ||
	    proc + l->size_Process > block + size)
		return -EAGAIN;
	if (header & BLOCK_TAGGED && s->format.tag_bytes <= sizeof(tag) &&
	    vm_read(s->vm, block + size - s->format.tag_bytes, tag, s->format.tag_bytes) == 0) {
		struct block_tag t;

		block_tag_read(&s->format, tag + s->format.tag_bytes, &t);
		sum->owner_atom = t.owner;
	}
	sum->envs = 1;
	sum->block_bytes = size;
	if (vm_read_field(s->vm, proc, l->Process__off_heap_first, &at) < 0)
		return -EFAULT;
	if (off_heap_add(s, at, sum) < 0)
		return -EFAULT;
	if (vm_read_field(s->vm, proc, l->Process__mbuf, &at) < 0)
		return -EFAULT;
	while (at) {
		uint64_t first;

		if (step(s, &ring, at) < 0)
			return -EINVAL;
		if (vm_read_field(s->vm, at, l->ErlHeapFragment__alloc_size, &words) < 0 ||
		    words > 1ull << 37 ||
		    vm_read_field(s->vm, at, l->ErlHeapFragment__off_heap_first, &first) < 0 ||
		    off_heap_add(s, first, sum) < 0)
			return -EFAULT;
		sum->heap_bytes +=
			block_bytes(s, (uint64_t)l->ErlHeapFragment__mem.offset + 8 * words, false);
		if (vm_read_field(s->vm, at, l->ErlHeapFragment__next, &at) < 0)
			return -EFAULT;
	}
	return 0;
}

static void sum_add(struct nif_envs *e, const struct nif_env_sum *one)
{
	size_t i;

	for (i = 0; i < e->n; i++)
		if (e->v[i].owner_atom == one->owner_atom)
			break;
	if (i == OWNERS_MAX) {
		e->cut = true;
		return;
	}
	if (i == e->n) {
		memset(&e->v[i], 0, sizeof(e->v[i]));
		e->v[i].owner_atom = one->owner_atom;
		e->n++;
	}
	e->v[i].envs += one->envs;
	e->v[i].block_bytes += one->block_bytes;
	e->v[i].heap_bytes += one->heap_bytes;
	e->v[i].binary_bytes += one->binary_bytes;
	e->v[i].binaries += one->binaries;
}

static unsigned type_of(const struct vm *vm, const char *name)
{
	unsigned i;

	for (i = 0; i < vm->n_alloc; i++)
		if (vm->alloc_names[i] && strcmp(vm->alloc_names[i], name) == 0)
			return i;
	return CARRIER_TYPES;
}

/* The instances of one allocator alone: the rest need not be walked for this. */
static int blocks_find(struct search *s, const struct allocators *a, struct error *err)
{
	struct allocators part = *a;
	struct carriers_opts opts = { .block = block_seen, .arg = s };
	struct carriers *c = NULL;
	size_t i;
	int ret;

	part.inst = calloc(a->n_inst ? a->n_inst : 1, sizeof(*part.inst));
	if (!part.inst)
		return -ENOMEM;
	part.n_inst = 0;
	for (i = 0; i < a->n_inst; i++)
		if (a->inst[i].type == s->driver_type)
			part.inst[part.n_inst++] = a->inst[i];
	ret = part.n_inst ? carriers_walk(s->vm, &part, &opts, &c, err) : 0;
	carriers_free(c);
	free(part.inst);
	return ret < 0 ? ret : s->failed ? -ENOMEM : 0;
}

int nif_envs_read(struct vm *vm, const struct allocators *a, struct nif_envs **out,
		  struct error *err)
{
	const struct layout *l = vm->layout;
	struct search s = { .vm = vm,
			    .driver_type = type_of(vm, "driver_alloc"),
			    .nodes = NODES_MAX };
	struct nif_envs *e = calloc(1, sizeof(*e));
	size_t i;
	int ret = 0;

	*out = NULL;
	if (e)
		e->v = calloc(OWNERS_MAX, sizeof(*e->v));
	if (!e || !e->v) {
		nif_envs_free(e);
		return -ENOMEM;
	}
	e->driver_type = s.driver_type;
	e->heap_type = type_of(vm, "eheap_alloc");
	e->binary_type = type_of(vm, "binary_alloc");
	block_format_init(&s.format, l);
	s.least = l->size_ErlNifEnv + l->size_Process + s.format.header;
	if (s.driver_type < CARRIER_TYPES && l->size_ErlNifEnv && l->size_Process)
		ret = blocks_find(&s, a, err);
	for (i = 0; ret == 0 && i < s.n; i++) {
		struct nif_env_sum one;
		int r = env_read(&s, s.blocks[i], s.sizes[i], &one);

		if (r == 0)
			sum_add(e, &one);
		else if (r == -ESRCH || r == -ETIMEDOUT)
			ret = r;
	}
	e->cut |= s.cut;
	free(s.blocks);
	free(s.sizes);
	if (ret < 0) {
		nif_envs_free(e);
		return ret;
	}
	*out = e;
	return 0;
}

void nif_envs_free(struct nif_envs *e)
{
	if (!e)
		return;
	free(e->v);
	free(e);
}

const struct nif_env_sum *nif_envs_find(const struct nif_envs *e, uint64_t owner_atom)
{
	size_t i;

	for (i = 0; e && i < e->n; i++)
		if (e->v[i].owner_atom == owner_atom)
			return &e->v[i];
	return NULL;
}

uint64_t nif_env_bytes(const struct nif_env_sum *s)
{
	return s ? s->block_bytes + s->heap_bytes + s->binary_bytes : 0;
}
