/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Roots: memory that is in use by itself, and what it points to.
 *
 *   data and .bss of every image       the executable's: the VM; a NIF's: the NIF
 *   stacks, from the stack pointer on  thread variables lie above it
 *   used ERTS blocks                   but no process heaps and tables: terms
 *   parts of the libc heap that could not be walked, shared memory
 *
 * A thread that runs has no stack pointer to be read: then the whole stack
 * counts, and so it does for one whose pointer lies elsewhere (a scheduler in
 * Erlang code stands on a process heap). One that has a stack pointer waits in a
 * system call: what lies below it is old. What glibc keeps of threads that have
 * ended is read from struct pthread on: their stacks are dead, their thread
 * variables are not.
 *
 * Link maps, and with them everything the loader holds, hang on ld.so's data.
 * What a block of binary_alloc or driver_alloc points to gets the owner that
 * the block's tag names, if it is a structure: a resource, enif_alloc() or
 * driver_alloc(). The bytes of a binary may be anything.
 */
#include "ledger/native_int.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define STACK_PIECE (8ULL << 20)
#define ATOMS_MAX   1024
#define PORTS_MAX   (1U << 27)
#define PORTS_READ  4096
#define SEEDS_FEW   3
#define SEEDS_SHARE 10

struct root {
	uint16_t owner;
	uint8_t evidence;
	uint8_t flags;
	uint64_t start; /* NATIVE_TAG: of the block, and its size */
	uint64_t bytes;
};

static uint64_t mix(uint64_t x)
{
	x = (x ^ x >> 31) * 0x9E3779B97F4A7C15ULL;
	return x ^ x >> 29;
}

/* Blocks of one owner and one size. */
static uint32_t block_kind(const struct root *r)
{
	return (uint32_t)mix(r->bytes << 16 | r->owner);
}

static void seed_add(struct scan *s, uint32_t node, const struct root *r, uint64_t at)
{
	struct graph *g = &s->g;

	if (g->n_seeds && g->seeds[g->n_seeds - 1].node == node &&
	    g->seeds[g->n_seeds - 1].owner == r->owner)
		return;
	if (g->n_seeds == g->room_seeds) {
		size_t room = g->room_seeds ? g->room_seeds * 2 : 1024;
		struct seed *bigger =
			room <= g->max_edges / 4 ? realloc(g->seeds, room * sizeof(*bigger)) : NULL;

		if (!bigger) { /* then it belongs to nobody */
			g->edges_cut = true;
			return;
		}
		g->seeds = bigger;
		g->room_seeds = room;
	}
	g->seeds[g->n_seeds++] = (struct seed){
		.node = node,
		.owner = r->owner,
		.evidence = r->evidence,
		.kind = block_kind(r),
		.place = (uint32_t)mix(block_kind(r) + (at - r->start)),
	};
}

static void root_word(struct scan *s, void *arg, uint64_t at, uint64_t word, uint32_t target)
{
	const struct root *r = arg;

	if (target & EDGE_IMAGE)
		return;
	s->g.v[target].flags |= NODE_REACHED | r->flags;
	if (!graph_inner(&s->g, target, word))
		graph_pointed(&s->g, target, FROM_ROOT);
	if (r->owner != OWNER_NONE && !graph_inner(&s->g, target, word))
		seed_add(s, target, r, at);
}

static int root_range(struct scan *s, uint64_t start, uint64_t end, struct root r)
{
	return scan_words(s, start, end, root_word, &r);
}

static const struct root any_root;

/* What data of image `i` points to. */
static struct root image_root(const struct scan *s, size_t i)
{
	const struct owner *o = &s->owners[OWNER_FIRST + i];

	if (o->class == NATIVE_CLASS_VM)
		return (struct root){ .owner = s->vm_owner,
				      .evidence = s->vm_apart ? NATIVE_VM : NATIVE_DATA,
				      .flags = NODE_BY_VM };
	return (struct root){ .owner = (uint16_t)(OWNER_FIRST + i),
			      .evidence = o->class == NATIVE_CLASS_LIBRARY ? NATIVE_LIBRARY
									   : NATIVE_DATA };
}

static void images_scan(struct scan *s)
{
	const struct images *im = s->o->images;
	size_t i, j, n;

	for (i = 0; i < im->n && !s->fatal; i++) {
		const struct image_segment *seg = image_segments(im->v[i], &n);

		for (j = 0; j < n; j++)
			if (seg[j].write)
				(void)root_range(s, seg[j].start, seg[j].end, image_root(s, i));
	}
}

/* ---- stacks ------------------------------------------------------------------- */

bool stack_is_vm(const struct scan *s, const struct libc_stack *st)
{
	const struct image *from;
	size_t i;

	for (i = 0; i < s->l->n_threads; i++)
		if (s->l->threads[i].pthread == st->pthread)
			return true;
	from = st->start_routine ? images_find(s->o->images, st->start_routine) : NULL;
	return from && from == s->o->vm->exe;
}

static uint64_t stack_pointer(const struct scan *s, pid_t tid)
{
	size_t i;

	for (i = 0; i < s->n_threads; i++)
		if (s->threads[i].tid == tid)
			return s->threads[i].stack_pointer;
	return 0;
}

static const struct libc_stack *stack_at(const struct scan *s, uint64_t addr)
{
	size_t i;

	for (i = 0; i < s->l->n_stacks; i++)
		if (addr >= s->l->stacks[i].start && addr < s->l->stacks[i].end)
			return &s->l->stacks[i];
	return NULL;
}

static void stacks_scan(struct scan *s)
{
	const struct look *l = s->l;
	struct root r;
	size_t i;

	for (i = 0; i < l->n_stacks && !s->fatal; i++) {
		const struct libc_stack *st = &l->stacks[i];
		uint64_t sp = stack_pointer(s, st->tid), from = st->start;
		size_t k;

		r = any_root; /* a stack is full of leftovers: no name from the VM's */
		for (k = 0; !stack_is_vm(s, st) && k < s->o->images->n; k++)
			if (st->start_routine && image_holds(s->o->images->v[k], st->start_routine))
				r = (struct root){ .owner = (uint16_t)(OWNER_FIRST + k),
						   .evidence = NATIVE_THREAD };
		if (!st->tid)
			from = st->pthread;
		else if (sp > st->start && sp < st->end)
			from = sp & ~7ULL;
		(void)root_range(s, from, st->end, r);
	}
	/* The first thread's stack is the kernel's; others may be unknown. */
	for (i = 0; i < l->maps->n && !s->fatal; i++) {
		const struct mapping *m = &l->maps->v[i];
		uint64_t sp = m->kind == MAPPING_STACK ? stack_pointer(s, target_pid(s->o->target))
						       : 0;

		if (m->kind == MAPPING_STACK)
			(void)root_range(s, sp > m->start && sp < m->end ? sp & ~7ULL : m->start,
					 m->end, any_root);
	}
	for (i = 0; i < s->n_threads && !s->fatal; i++) {
		uint64_t sp = s->threads[i].stack_pointer;
		const struct mapping *m = sp ? mappings_find(l->maps, sp) : NULL;

		if (!m || m->kind == MAPPING_STACK || stack_at(s, sp))
			continue;
		(void)root_range(s, sp & ~7ULL,
				 m->end - sp < STACK_PIECE ? m->end : sp + STACK_PIECE, any_root);
	}
}

/* ---- ERTS blocks ---------------------------------------------------------------- */

struct tags {
	struct block_format f;
	unsigned type_nif, type_drv, type_binary; /* numbers; UINT_MAX: none such */
	struct layout_field flags;		  /* of a Binary, from the block's header on */
	uint64_t magic;
	struct {
		uint64_t atom;
		uint16_t owner;
	} known[ATOMS_MAX];
	size_t n_known;
};

static void tags_init(const struct scan *s, struct tags *t)
{
	const struct vm *vm = s->o->vm;
	const struct layout *l = vm->layout;
	unsigned i;

	memset(t, 0, sizeof(*t));
	block_format_init(&t->f, l);
	t->type_nif = t->type_drv = t->type_binary = UINT32_MAX;
	for (i = 0; i < vm->n_types; i++) {
		const char *name = vm->type_names[i] ? vm->type_names[i] : "";

		if (!strcmp(name, "nif"))
			t->type_nif = i;
		else if (!strcmp(name, "drv"))
			t->type_drv = i;
		else if (!strcmp(name, "binary"))
			t->type_binary = i;
	}
	t->flags = l->Binary__intern_flags;
	t->magic = layout_has_const(l->bin_flag_magic) ? (uint64_t)l->bin_flag_magic : 1;
}

static uint16_t tag_owner(struct scan *s, struct tags *t, uint64_t atom)
{
	uint16_t owner;
	size_t i;

	for (i = 0; i < t->n_known; i++)
		if (t->known[i].atom == atom)
			return t->known[i].owner;
	owner = owner_of_atom(s, atom);
	if (t->n_known < ATOMS_MAX) {
		t->known[t->n_known].atom = atom;
		t->known[t->n_known++].owner = owner;
	}
	return owner;
}

/* What a block of a tagged allocator is as a root. */
static struct root block_root(struct scan *s, struct tags *t, const struct range *b)
{
	uint64_t words[8] = { 0 }, header, flags = 0;
	unsigned char end[32];
	struct block_tag tag;
	uint16_t owner;
	size_t len = b->end - b->start < sizeof(words) ? b->end - b->start : sizeof(words);

	if (len < 16 || !scan_peek(s, b->start, words, len))
		return any_root;
	header = words[0];
	if (!(header & BLOCK_TAGGED))
		return any_root;
	if (t->f.tag_bytes > sizeof(end) || b->end - b->start <= t->f.tag_bytes + 8 ||
	    !scan_peek(s, b->end - t->f.tag_bytes, end, t->f.tag_bytes))
		return any_root;
	block_tag_read(&t->f, end + t->f.tag_bytes, &tag);
	if (tag.type == t->type_binary || (tag.type != t->type_nif && tag.type != t->type_drv)) {
		/* a resource has the magic flag; its text is then a structure */
		if (tag.type != t->type_binary || !layout_has(t->flags) ||
		    (size_t)t->flags.offset + t->f.header + t->flags.size > len ||
		    !vm_field((const char *)words + t->f.header, len - t->f.header, t->flags,
			      &flags))
			return any_root;
		if (!(flags & t->magic))
			return any_root;
	}
	owner = tag_owner(s, t, tag.owner);
	if (owner == OWNER_NONE)
		return any_root;
	return (struct root){ .owner = owner,
			      .evidence = NATIVE_TAG,
			      .start = b->start,
			      .bytes = b->end - b->start };
}

static int by_value(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

static size_t first_of(const uint32_t *v, size_t n, uint64_t value)
{
	size_t lo = 0, hi = n;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (v[mid] < value)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static size_t count_of(const uint32_t *v, size_t n, uint32_t value)
{
	return first_of(v, n, (uint64_t)value + 1) - first_of(v, n, value);
}

/* Blocks of the VM are recycled too: what points from a tagged block at a place
 * where few blocks of that owner and size have a pointer may be a leftover. */
static int seeds_judge(struct graph *g, uint32_t *kinds, size_t n_kinds)
{
	uint32_t *places = malloc((g->n_seeds ? g->n_seeds : 1) * sizeof(*places));
	size_t i, n = 0;

	if (!places)
		return -ENOMEM;
	for (i = 0; i < g->n_seeds; i++)
		if (g->seeds[i].evidence == NATIVE_TAG)
			places[n++] = g->seeds[i].place;
	if (n)
		qsort(places, n, sizeof(*places), by_value);
	if (n_kinds)
		qsort(kinds, n_kinds, sizeof(*kinds), by_value);
	for (i = 0; i < g->n_seeds; i++) {
		struct seed *seed = &g->seeds[i];
		size_t have;

		if (seed->evidence != NATIVE_TAG)
			continue;
		have = count_of(places, n, seed->place);
		seed->weak = have < SEEDS_FEW ||
			     have * SEEDS_SHARE < count_of(kinds, n_kinds, seed->kind);
	}
	free(places);
	return 0;
}

static void blocks_scan(struct scan *s)
{
	const struct graph *g = &s->g;
	const struct carriers *c = s->l->carriers;
	struct tags *t = malloc(sizeof(*t));
	uint32_t *kinds = malloc((g->tagged.n ? g->tagged.n : 1) * sizeof(*kinds));
	size_t i, n_kinds = 0;

	if (!t || !kinds) {
		free(t);
		free(kinds);
		s->fatal = -ENOMEM;
		return;
	}
	tags_init(s, t);
	for (i = 0; i < g->vm_blocks.n && !s->fatal; i++)
		(void)root_range(s, g->vm_blocks.v[i].start, g->vm_blocks.v[i].end, any_root);
	for (i = 0; i < g->tagged.n && !s->fatal; i++) {
		struct range b = g->tagged.v[i];
		struct root r = block_root(s, t, &b);

		if (r.evidence == NATIVE_TAG)
			kinds[n_kinds++] = block_kind(&r);
		(void)root_range(s, b.start, b.end, r);
	}
	if (!s->fatal)
		s->fatal = seeds_judge(&s->g, kinds, n_kinds);
	free(kinds);
	free(t);
	/* carriers whose blocks nobody told */
	for (i = 0; i < c->n && !s->fatal; i++)
		if ((c->v[i].torn || c->v[i].gone) && !(g->term_types >> c->v[i].type & 1))
			(void)root_range(s, c->v[i].addr, c->v[i].addr + c->v[i].size, any_root);
}

/* ---- where the VM keeps a NIF's or driver's own pointer ------------------------------ */

static void pointer_seed(struct scan *s, uint64_t pointer, uint64_t code)
{
	const struct images *im = s->o->images;
	uint32_t node = graph_find(&s->g, pointer), image = graph_find(&s->g, code);
	struct root r = { .evidence = NATIVE_DATA };
	const struct owner *o;

	if (node == UINT32_MAX || node & EDGE_IMAGE || image == UINT32_MAX ||
	    !(image & EDGE_IMAGE) || (image &= ~EDGE_IMAGE) >= im->n)
		return;
	o = &s->owners[OWNER_FIRST + image];
	if (o->class != NATIVE_CLASS_NIF && o->class != NATIVE_CLASS_DRIVER)
		return;
	s->g.v[node].flags |= NODE_REACHED;
	r.owner = (uint16_t)(OWNER_FIRST + image);
	seed_add(s, node, &r, 0);
}

/* Port.drv_data is what the driver's start() returned. */
static void ports_scan(struct scan *s)
{
	struct vm *vm = s->o->vm;
	const struct layout *l = vm->layout;
	uint64_t ptab = vm->anchors.v[A_PORT].addr, tab, max, i;
	uint64_t piece[PORTS_READ / 8];

	if (!ptab || !layout_has(l->Port__drv_data) || !layout_has(l->erts_driver_t__start) ||
	    vm_read_field(vm, ptab, l->ErtsPTab__r_o_tab, &tab) ||
	    vm_read_field(vm, ptab, l->ErtsPTab__r_o_max, &max) || max > PORTS_MAX)
		return;
	for (i = 0; i < max && !s->fatal; i += PORTS_READ / 8) {
		size_t k, n = max - i < PORTS_READ / 8 ? max - i : PORTS_READ / 8;

		if (!residency_page(s->l->res, tab + 8 * i) ||
		    vm_read(vm, tab + 8 * i, piece, n * 8))
			continue;
		for (k = 0; k < n; k++) {
			uint64_t driver, data, start;

			if (!piece[k] || piece[k] & 7 ||
			    vm_read_field(vm, piece[k], l->Port__drv_data, &data) || !data ||
			    vm_read_field(vm, piece[k], l->Port__drv_ptr, &driver) ||
			    vm_read_field(vm, driver, l->erts_driver_t__start, &start))
				continue;
			pointer_seed(s, data, start);
		}
	}
}

int roots_scan(struct scan *s)
{
	const struct look *l = s->l;
	size_t i;

	images_scan(s);
	stacks_scan(s);
	blocks_scan(s);
	for (i = 0; i < s->g.gaps.n && !s->fatal; i++)
		(void)root_range(s, s->g.gaps.v[i].start, s->g.gaps.v[i].end, any_root);
	for (i = 0; i < l->libc->n_regions && !s->fatal; i++) {
		const struct libc_region *r = &l->libc->regions[i];

		if (r->kind != LIBC_MMAPPED && r->arena < l->libc->n_arenas &&
		    !l->libc->arenas[r->arena].heaps)
			(void)root_range(s, r->start, r->end, any_root);
	}
	for (i = 0; i < l->maps->n && !s->fatal; i++)
		if (l->maps->v[i].kind == MAPPING_SHARED && l->maps->v[i].write)
			(void)root_range(s, l->maps->v[i].start, l->maps->v[i].end, any_root);
	s->o->vm->res = l->res;
	for (i = 0; i < s->natives->n_privates && !s->fatal; i++)
		pointer_seed(s, s->natives->privates[i].priv_data,
			     s->natives->privates[i].function);
	ports_scan(s);
	s->o->vm->res = NULL;
	return s->fatal;
}
