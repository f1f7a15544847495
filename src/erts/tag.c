/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Allocation tags
 *
 * binary_alloc and driver_alloc write into every block who asked for it (the
 * flag +M<S>atags, on by default for these two since OTP 21):
 *
 *   used block   [ header, bit 63 set | user data ... | padding | tag ]
 *   tag, to 25   one word:   atom index << 8 | type number
 *   tag, 27 on   two words:  the same, then a term: the pid or port that ran,
 *                            or a code pointer with `atags code`
 *
 * The atom is the NIF's module while a NIF runs, the driver's name while a
 * driver runs, else `system` (determine_alloc_tag(), set_alloc_tag() in
 * erl_alloc_util.c). It names who allocated, not who holds it today. The
 * header's bit is set before the tag is written, so a block that is just being
 * allocated may show a stale tag: what is not a type number of this VM is left
 * out and counted.
 *
 * NIF resources are binaries too, with the same type and tag. They are told
 * apart by content: Binary.intern.flags has BIN_FLAG_MAGIC and the destructor
 * is nif_resource_dtor (erl_nif.c), a static function that only a build with
 * symbols could name. It is recognised by what it destroys: the data of such a
 * binary begins with a pointer to an enif_resource_type_t, an element of the
 * doubly linked list of all resource types, and its module and name are atoms.
 * One element whose neighbours point back proves the destructor for all.
 */
#include "erts/tag.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define MAX_ENTRIES (1U << 20)
#define MAX_TRIES   64
#define MAX_OWNERS  4096 /* distinct owners whose name is compared with "system" */

static size_t hash(const struct tag_key *k)
{
	uint64_t h = k->owner * 0x9E3779B97F4A7C15ULL;

	h ^= h >> 29;
	h += k->term;
	h *= 0xBF58476D1CE4E5B9ULL;
	h ^= h >> 32;
	h += (uint64_t)k->alloc_type << 40 ^ (uint64_t)k->block_type << 24 ^ k->magic;
	h *= 0x94D049BB133111EBULL;
	return (size_t)(h ^ h >> 31);
}

static bool same(const struct tag_key *a, const struct tag_key *b)
{
	return a->owner == b->owner && a->term == b->term && a->alloc_type == b->alloc_type &&
	       a->block_type == b->block_type && a->magic == b->magic;
}

static int grow(struct tag_table *t)
{
	size_t size = t->size ? t->size * 2 : 64, n_slots = size * 2, i;
	struct tag_entry *v = realloc(t->v, size * sizeof(*v));
	uint32_t *slots;

	if (!v)
		return -ENOMEM;
	t->v = v;
	slots = calloc(n_slots, sizeof(*slots));
	if (!slots)
		return -ENOMEM;
	free(t->slots);
	t->size = size;
	t->slots = slots;
	t->n_slots = n_slots;
	for (i = 0; i < t->n; i++) {
		size_t s = hash(&v[i].key) & (n_slots - 1);

		while (slots[s])
			s = (s + 1) & (n_slots - 1);
		slots[s] = (uint32_t)i + 1;
	}
	return 0;
}

int tag_table_add(struct tag_table *t, const struct tag_key *key, uint64_t blocks, uint64_t bytes,
		  uint64_t resident)
{
	struct tag_key k = *key;
	struct tag_entry *e;
	size_t s;

	/* neighbours in a carrier mostly have one owner */
	if (t->last < t->n && same(&t->v[t->last].key, &k)) {
		e = &t->v[t->last];
		goto found;
	}
again:
	if (t->n == t->size && t->n < MAX_ENTRIES) {
		int ret = grow(t);

		if (ret < 0)
			return ret;
	}
	for (s = hash(&k) & (t->n_slots - 1); t->slots[s]; s = (s + 1) & (t->n_slots - 1)) {
		e = &t->v[t->slots[s] - 1];
		if (same(&e->key, &k)) {
			t->last = t->slots[s] - 1;
			goto found;
		}
	}
	if (t->n >= MAX_ENTRIES - 65536 && k.term) {
		k.term = 0;
		goto again;
	}
	if (t->n == MAX_ENTRIES)
		return -ENOMEM;
	t->slots[s] = (uint32_t)t->n + 1;
	t->last = t->n;
	e = &t->v[t->n++];
	memset(e, 0, sizeof(*e));
	e->key = k;
found:
	e->blocks += blocks;
	e->bytes += bytes;
	e->resident += resident;
	return 0;
}

int tag_table_merge(struct tag_table *t, const struct tag_table *from)
{
	size_t i;

	for (i = 0; i < from->n; i++) {
		const struct tag_entry *e = &from->v[i];
		int ret = tag_table_add(t, &e->key, e->blocks, e->bytes, e->resident);

		if (ret < 0)
			return ret;
	}
	return 0;
}

void tag_table_clear(struct tag_table *t)
{
	if (t->n && t->n_slots)
		memset(t->slots, 0, t->n_slots * sizeof(*t->slots));
	t->n = 0;
	t->last = 0;
}

void tag_table_free(struct tag_table *t)
{
	free(t->v);
	free(t->slots);
	memset(t, 0, sizeof(*t));
}

static bool is_atom(uint64_t term)
{
	return (term & 0x3f) == 0x0b; /* _TAG_IMMED2_ATOM (erl_term.h) */
}

bool tag_type_verify(struct vm *vm, uint64_t type)
{
	const struct layout *l = vm->layout;
	struct layout_field next = l->ErlNifResourceType__next, prev = l->ErlNifResourceType__prev;
	uint64_t n = 0, p = 0, back = 0, forth = 0, name = 0, module = 0;

	if (!type || type & 7 || !layout_has(next) || !layout_has(prev))
		return false;
	if (vm_read_field(vm, type, next, &n) || vm_read_field(vm, type, prev, &p))
		return false;
	/* the list's head is a pair of pointers in the image: it has no more than these */
	if (!n || !p || n & 7 || p & 7 || vm_read_field(vm, n, prev, &back) ||
	    vm_read_field(vm, p, next, &forth) || back != type || forth != type)
		return false;
	if (layout_has(l->ErlNifResourceType__name) &&
	    (vm_read_field(vm, type, l->ErlNifResourceType__name, &name) || !is_atom(name)))
		return false;
	return !layout_has(l->ErlNifResourceType__module) ||
	       (!vm_read_field(vm, type, l->ErlNifResourceType__module, &module) &&
		is_atom(module));
}

uint32_t tag_resource(struct vm *vm, struct tag_resources *r, uint64_t destructor, uint64_t type)
{
	struct tag_destructor *d;
	unsigned i;

	for (i = 0; i < r->n && r->v[i].addr != destructor; i++)
		;
	if (i == r->n) {
		if (r->n == TAG_DESTRUCTORS || !destructor ||
		    (vm->exe && !image_holds(vm->exe, destructor)))
			return 0;
		r->v[r->n++] = (struct tag_destructor){ .addr = destructor };
	}
	d = &r->v[i];
	/* a type whose module was purged is off the list: look at a few */
	if (!d->proven && d->tries < MAX_TRIES) {
		d->tries++;
		d->proven = tag_type_verify(vm, type);
	}
	return i + 1;
}

static int by_owner(const void *a, const void *b)
{
	const struct tag_sum *x = a, *y = b;

	return x->owner_atom < y->owner_atom ? -1 : x->owner_atom > y->owner_atom;
}

static int by_bytes(const void *a, const void *b)
{
	const struct tag_sum *x = a, *y = b;

	if (x->bytes != y->bytes)
		return x->bytes > y->bytes ? -1 : 1;
	if (x->owner_atom != y->owner_atom)
		return x->owner_atom < y->owner_atom ? -1 : 1;
	if (x->pid_or_port != y->pid_or_port)
		return x->pid_or_port < y->pid_or_port ? -1 : 1;
	if (x->block_type != y->block_type)
		return x->block_type < y->block_type ? -1 : 1;
	return (int)x->magic - (int)y->magic;
}

/* Every owner's name once: the atom `system` is nobody. */
static void find_system(struct vm *vm, struct tag_sum *v, size_t n)
{
	size_t i, end, owners = 0;

	qsort(v, n, sizeof(*v), by_owner);
	for (i = 0; i < n && owners < MAX_OWNERS; i = end, owners++) {
		char name[16];
		bool found = vm_atom(vm, v[i].owner_atom, name, sizeof(name)) == 6 &&
			     strcmp(name, "system") == 0;

		for (end = i; end < n && v[end].owner_atom == v[i].owner_atom; end++)
			;
		if (!found)
			continue;
		for (; i < end; i++)
			v[i].owner_atom = UINT64_MAX;
		break;
	}
}

int tag_sums(struct vm *vm, const struct tag_table *t, const struct tag_resources *r,
	     struct tag_sum **out, size_t *n)
{
	struct tag_table plain = { 0 };
	struct tag_sum *v;
	size_t i;

	*out = NULL;
	*n = 0;
	for (i = 0; i < t->n; i++) {
		const struct tag_entry *e = &t->v[i];
		struct tag_key k = e->key;
		int ret;

		k.magic = k.magic && k.magic <= r->n && r->v[k.magic - 1].proven;
		ret = tag_table_add(&plain, &k, e->blocks, e->bytes, e->resident);
		if (ret < 0) {
			tag_table_free(&plain);
			return ret;
		}
	}
	v = calloc(plain.n ? plain.n : 1, sizeof(*v));
	if (!v) {
		tag_table_free(&plain);
		return -ENOMEM;
	}
	for (i = 0; i < plain.n; i++) {
		const struct tag_entry *e = &plain.v[i];

		v[i] = (struct tag_sum){
			.alloc_type = e->key.alloc_type,
			.block_type = e->key.block_type,
			.owner_atom = e->key.owner,
			.pid_or_port = e->key.term,
			.magic = e->key.magic != 0,
			.blocks = e->blocks,
			.bytes = e->bytes,
			.resident = e->resident,
		};
	}
	*n = plain.n;
	tag_table_free(&plain);
	find_system(vm, v, *n);
	qsort(v, *n, sizeof(*v), by_bytes);
	*out = v;
	return 0;
}

static int types_by_bytes(const void *a, const void *b)
{
	const struct resource_sum *x = a, *y = b;

	if (x->bytes != y->bytes)
		return x->bytes > y->bytes ? -1 : 1;
	return x->type < y->type ? -1 : x->type > y->type;
}

int tag_types(const struct tag_table *t, const struct tag_resources *r, struct resource_sum **out,
	      size_t *n)
{
	struct resource_sum *v = calloc(t->n ? t->n : 1, sizeof(*v));
	size_t i;

	*out = v;
	*n = 0;
	if (!v)
		return -ENOMEM;
	for (i = 0; i < t->n; i++) {
		const struct tag_entry *e = &t->v[i];

		if (!e->key.magic || e->key.magic > r->n || !r->v[e->key.magic - 1].proven)
			continue;
		v[(*n)++] = (struct resource_sum){ .type = e->key.owner,
						   .blocks = e->blocks,
						   .bytes = e->bytes,
						   .resident = e->resident };
	}
	qsort(v, *n, sizeof(*v), types_by_bytes);
	return 0;
}
