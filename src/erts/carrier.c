/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Carriers and the blocks in them
 *
 * The VM asks the system for carriers (large pieces: mseg, that is mmap, or
 * sys_alloc, that is malloc) and cuts blocks out of them. Read in
 * erl_alloc_util.c and erl_alloc_util.h of 23, 25, 27 and 29.
 *
 * A multiblock carrier, aligned to 2^14 bytes (2^18 up to 23):
 *
 *   addr                                                        addr + size
 *   | Carrier_t      |hdr| used   |hdr| free    |sz|hdr| used |tag|hdr| free |
 *   | chdr           |<- block -->|             ^footer           ^last block
 *   | next, prev     |
 *   | allctr | flags |<-- mbc_header_size from addr
 *   | cpool: counters by allocator, pool links |
 *
 * A single-block carrier: | chdr next prev allctr |hdr| used, or unused tail |
 *
 * One word of header before each block:
 *
 *   bit  0  this block is free          3..39  size of a used block, header
 *        1  the block before is free           included, in bytes
 *        2  last block of the carrier   40..62 how many alignment units its
 *        63 a tag is at the end                carrier begins before it
 *
 *   A free block has its size in all bits above 2, the carrier's address as
 *   its second word and, unless it is the last, its size as its last word.
 *   Low bits 111: the block of a single-block carrier.
 *
 * Where carriers are found: each allocator instance has the lists mbc_list and
 * sbc_list (doubly linked, NULL at both ends) and cpool.dc_list (multiblock
 * carriers that will be given back when every thread has passed by). Carriers
 * that are mostly free are abandoned to a pool, a ring of cpool nodes around a
 * static sentinel, where any instance, from 23 by default of any allocator,
 * may fetch them; so a pooled carrier, and one that came from a pool, may hold
 * blocks of several allocators, and cpool.blocks[] of the carrier says of
 * which. Which pools exist differs (one for all up to 24, one for each
 * allocator from 25 on, the option +M<S>cp): nothing here assumes it.
 *
 * What can be trusted: nothing that was read once. The VM goes on while we
 * look; a walk may meet a block that is just being cut in two. So:
 *
 *   lists     every carrier must name a known instance as its owner, have a
 *             sane size and be aligned; prev must lead back, the end must be
 *             the list's `last`, or the list is walked again (and at last from
 *             its end backwards). All carriers found in any try are kept.
 *             Loops are noticed by Brent's method, and everything is counted.
 *   carriers  sorted, found once, disjoint. Of two that overlap, one is stale:
 *             the one whose header does not hold any more goes.
 *   blocks    the previous-free bit must agree, a free block must point to its
 *             carrier and end in its size, a used block's offset must lead
 *             back to the carrier, the last block must end where the carrier
 *             ends. One lie spoils the whole walk of this carrier; five tries,
 *             the last three at the end and some milliseconds apart, then
 *             its own counters split it, and it is called torn. (One that was
 *             given back to the system meanwhile is gone, not torn.)
 *   sums      the walk's used blocks must equal the carrier's counters, unless
 *             these move; all carriers together the instances' statistics.
 *
 * Placeholders of size 0 are put into the lists by scans inside the VM
 * (instrument:allocations/0): skipped.
 */
#include "erts/carrier_walk.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define TRIES	     5
#define MAX_CARRIERS (1U << 20)
#define MAX_HEADER   1024
#define ADDRESS_END  (1ULL << 47)

/* One carrier while the lists are being walked. */
struct found {
	uint64_t addr;
	struct carrier_header h;
	bool dead;
};

struct owner {
	uint64_t addr; /* Allctr_t */
	unsigned instance;
	unsigned header; /* mbc_header_size */
};

struct finder {
	struct vm *vm;
	const struct allocators *a;
	struct walker *w;
	const struct block_format *f;
	struct carriers *out;

	struct owner *owners; /* by address */
	size_t n_owners;

	struct found *v;
	size_t n, size;
	uint32_t *slots; /* by address: index into v + 1 */
	size_t n_slots;
};

/* ---- the set of carriers --------------------------------------------------- */

static size_t slot_of(const struct finder *f, uint64_t addr)
{
	size_t s = (size_t)((addr >> 3) * 0x9E3779B97F4A7C15ULL >> 20) & (f->n_slots - 1);

	while (f->slots[s] && f->v[f->slots[s] - 1].addr != addr)
		s = (s + 1) & (f->n_slots - 1);
	return s;
}

static int found_grow(struct finder *f)
{
	size_t size = f->size ? f->size * 2 : 256, i;
	struct found *v = realloc(f->v, size * sizeof(*v));
	uint32_t *slots;

	if (!v)
		return -ENOMEM;
	f->v = v;
	slots = calloc(size * 2, sizeof(*slots));
	if (!slots)
		return -ENOMEM;
	free(f->slots);
	f->slots = slots;
	f->n_slots = size * 2;
	f->size = size;
	for (i = 0; i < f->n; i++)
		f->slots[slot_of(f, f->v[i].addr)] = (uint32_t)i + 1;
	return 0;
}

static int by_owner_addr(const void *a, const void *b)
{
	const struct owner *x = a, *y = b;

	return x->addr < y->addr ? -1 : x->addr > y->addr;
}

static const struct owner *owner_find(const struct finder *f, uint64_t addr)
{
	struct owner key = { .addr = addr };

	return f->n_owners ? bsearch(&key, f->owners, f->n_owners, sizeof(key), by_owner_addr)
			   : NULL;
}

static bool verify(const struct finder *f, uint64_t addr, const struct carrier_header *h)
{
	const struct owner *o = owner_find(f, h->owner);
	uint64_t least = h->single ? f->f->single_header + 16 : o ? o->header + 16 : 0;

	return o && !(addr & 7) && h->size >= least && addr < ADDRESS_END &&
	       h->size < ADDRESS_END - addr &&
	       (h->single || !(addr & ((1ULL << f->f->carrier_shift) - 1)));
}

/* Keeps the carrier. What is known already is brought up to date: it may have
 * moved to another list since. -EINVAL when it does not verify. */
static int found_add(struct finder *f, uint64_t addr, const struct carrier_header *h, bool dead)
{
	size_t s;

	if (!verify(f, addr, h))
		return -EINVAL;
	if (f->n == f->size) {
		int ret = f->n < MAX_CARRIERS ? found_grow(f) : -E2BIG;

		if (ret < 0)
			return ret;
	}
	s = slot_of(f, addr);
	if (!f->slots[s]) {
		f->v[f->n].addr = addr;
		f->slots[s] = (uint32_t)++f->n;
	}
	f->v[f->slots[s] - 1].h = *h;
	f->v[f->slots[s] - 1].dead = dead;
	return 0;
}

/* ---- lists ----------------------------------------------------------------- */

static int header_read(struct finder *f, uint64_t addr, struct carrier_header *h)
{
	unsigned char copy[MAX_HEADER];
	size_t len = f->vm->layout->size_Carrier_t, least = f->f->single_header + 8;
	int ret;

	if (len > sizeof(copy))
		len = sizeof(copy);
	if (!addr || addr & 7 || addr >= ADDRESS_END)
		return -EINVAL;
	ret = walker_read(f->w, addr, copy, len);
	if (ret < 0 && !walker_fatal(ret) && least < len) {
		/* a single-block carrier may be smaller than a Carrier_t */
		len = least;
		ret = walker_read(f->w, addr, copy, len);
	}
	return ret < 0 ? ret : carrier_header_parse(f->vm->layout, f->f, copy, len, h);
}

/* Follows a list from `from` on, forwards or backwards. Returns 0 and in *end
 * the last carrier when it ran out in order; 1 when something was wrong. */
static int list_follow(struct finder *f, uint64_t from, bool backwards, bool dead, uint64_t *end)
{
	uint64_t before = 0, turtle = 0, steps = 0, power = 1, at;
	bool ordered = true;

	*end = 0;
	for (at = from; at;) {
		struct carrier_header h;
		int ret = header_read(f, at, &h);

		if (ret < 0)
			return walker_fatal(ret) ? ret : 1;
		if ((backwards ? h.next : h.prev) != before)
			ordered = false;
		ret = h.size ? found_add(f, at, &h, dead) : owner_find(f, h.owner) ? 0 : -EINVAL;
		if (ret < 0)
			return walker_fatal(ret) ? ret : 1;
		before = at;
		at = backwards ? h.prev : h.next;
		/* Brent: the turtle waits at powers of two */
		if ((at && at == turtle) || ++steps > MAX_CARRIERS)
			return 1;
		if (steps == power) {
			turtle = at;
			power *= 2;
		}
	}
	*end = before;
	return ordered ? 0 : 1;
}

static int list_read(struct finder *f, uint64_t allctr, struct layout_field first,
		     struct layout_field last, bool dead)
{
	uint64_t from = 0, to = 0, end;
	int i, ret = 0;

	if (!layout_has(first) || !layout_has(last))
		return 0;
	for (i = 0; i < TRIES; i++) {
		if (i)
			f->out->list_retries++;
		ret = vm_read_field(f->vm, allctr + (uint64_t)first.offset,
				    (struct layout_field){ .offset = 0, .size = 8 }, &from);
		if (!ret)
			ret = vm_read_field(f->vm, allctr + (uint64_t)last.offset,
					    (struct layout_field){ .offset = 0, .size = 8 }, &to);
		if (ret < 0)
			return walker_fatal(ret) ? ret : 0;
		ret = list_follow(f, from, false, dead, &end);
		if (ret < 0)
			return ret;
		if (ret == 0 && end == to)
			return 0;
	}
	/* broken, or busy all the time: what lies behind the break */
	ret = list_follow(f, to, true, dead, &end);
	return ret < 0 ? ret : 0;
}

/* One way around the ring of a pool. 0 when it closed in order, 1 when not. */
static int ring_follow(struct finder *f, uint64_t sentinel, bool backwards)
{
	const struct layout *l = f->vm->layout;
	struct layout_field step = backwards ? l->ErtsAlcCPoolData_t__prev
					     : l->ErtsAlcCPoolData_t__next;
	uint64_t before = sentinel, turtle = 0, steps = 0, power = 1, at = 0;
	bool ordered = true;
	int ret = vm_read_field(f->vm, sentinel, step, &at);

	if (ret < 0)
		return walker_fatal(ret) ? ret : 1;
	for (at &= ~3ULL; at != sentinel;) {
		uint64_t addr = at - (uint64_t)l->Carrier_t__cpool.offset;
		struct carrier_header h;

		ret = header_read(f, addr, &h);
		if (ret < 0)
			return walker_fatal(ret) ? ret : 1;
		if (h.single)
			return 1;
		/* the low two bits mark links that are being changed */
		if (((backwards ? h.pool_next : h.pool_prev) & ~3ULL) != before)
			ordered = false;
		ret = h.size ? found_add(f, addr, &h, false) : owner_find(f, h.owner) ? 0 : -EINVAL;
		if (ret < 0)
			return walker_fatal(ret) ? ret : 1;
		before = at;
		at = (backwards ? h.pool_prev : h.pool_next) & ~3ULL;
		if ((at && at == turtle) || ++steps > MAX_CARRIERS)
			return 1;
		if (steps == power) {
			turtle = at;
			power *= 2;
		}
	}
	return ordered ? 0 : 1;
}

static int pool_read(struct finder *f, uint64_t sentinel)
{
	int i, ret;

	for (i = 0; i < TRIES; i++) {
		if (i)
			f->out->list_retries++;
		ret = ring_follow(f, sentinel, false);
		if (ret <= 0)
			return ret;
	}
	ret = ring_follow(f, sentinel, true);
	return ret < 0 ? ret : 0;
}

static int by_word(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

/* The pools that instances are attached to, each once. */
static int pools_read(struct finder *f)
{
	const struct layout *l = f->vm->layout;
	uint64_t *v;
	size_t i, n = 0;
	int ret = 0;

	if (!layout_has(l->Allctr_t__cpool_sentinel) || !layout_has(l->ErtsAlcCPoolData_t__next) ||
	    !layout_has(l->ErtsAlcCPoolData_t__prev) || !layout_has(l->Carrier_t__cpool))
		return 0;
	v = calloc(f->a->n_inst ? f->a->n_inst : 1, sizeof(*v));
	if (!v)
		return -ENOMEM;
	for (i = 0; i < f->a->n_inst; i++) {
		vm_field(f->a->inst[i].copy, l->size_Allctr_t, l->Allctr_t__cpool_sentinel, &v[n]);
		n += v[n] != 0;
	}
	qsort(v, n, sizeof(*v), by_word);
	for (i = 0; i < n && ret >= 0; i++)
		if (!i || v[i] != v[i - 1])
			ret = pool_read(f, v[i]);
	free(v);
	return ret;
}

static int lists_read(struct finder *f)
{
	const struct layout *l = f->vm->layout;
	size_t i;
	int ret;

	/* Pools first and again at the end: a carrier that is adopted or
	 * abandoned while we walk is in one of the two looks. */
	ret = pools_read(f);
	for (i = 0; ret >= 0 && i < f->a->n_inst; i++) {
		uint64_t addr = f->a->inst[i].addr;

		ret = list_read(f, addr, l->Allctr_t__mbc_list_first, l->Allctr_t__mbc_list_last,
				false);
		if (ret >= 0)
			ret = list_read(f, addr, l->Allctr_t__sbc_list_first,
					l->Allctr_t__sbc_list_last, false);
		if (ret >= 0)
			ret = list_read(f, addr, l->Allctr_t__cpool_dc_list_first,
					l->Allctr_t__cpool_dc_list_last, true);
	}
	return ret >= 0 ? pools_read(f) : ret;
}

static int owners_make(struct finder *f)
{
	const struct layout *l = f->vm->layout;
	size_t i;

	f->owners = calloc(f->a->n_inst ? f->a->n_inst : 1, sizeof(*f->owners));
	if (!f->owners)
		return -ENOMEM;
	for (i = 0; i < f->a->n_inst; i++) {
		uint64_t header = 0;

		vm_field(f->a->inst[i].copy, l->size_Allctr_t, l->Allctr_t__mbc_header_size,
			 &header);
		if (header < l->size_Carrier_t)
			header = l->size_Carrier_t;
		f->owners[f->n_owners++] = (struct owner){ .addr = f->a->inst[i].addr,
							   .instance = (unsigned)i,
							   .header = (unsigned)header };
	}
	qsort(f->owners, f->n_owners, sizeof(*f->owners), by_owner_addr);
	return 0;
}

/* ---- the picture ----------------------------------------------------------- */

static int by_addr(const void *a, const void *b)
{
	const struct found *x = a, *y = b;

	return x->addr < y->addr ? -1 : x->addr > y->addr;
}

/* Whether the carrier is still what it was when it was found. */
static bool still_there(struct finder *f, const struct found *c)
{
	struct carrier_header h;

	return header_read(f, c->addr, &h) == 0 && verify(f, c->addr, &h) && h.size == c->h.size &&
	       h.single == c->h.single &&
	       (!f->vm->maps || mappings_cover(f->vm->maps, c->addr, c->h.size));
}

/* Sorts, and drops one of each two that overlap. */
static void make_disjoint(struct finder *f)
{
	size_t i, n = 0;

	if (f->n)
		qsort(f->v, f->n, sizeof(*f->v), by_addr);
	for (i = 0; i < f->n; i++) {
		while (n && f->v[n - 1].addr + f->v[n - 1].h.size > f->v[i].addr) {
			f->out->overlaps++;
			/* both true is impossible: then the smaller claim stays */
			if (!still_there(f, &f->v[i]) ||
			    (still_there(f, &f->v[n - 1]) && f->v[n - 1].h.size <= f->v[i].h.size))
				break;
			n--;
		}
		if (n && f->v[n - 1].addr + f->v[n - 1].h.size > f->v[i].addr)
			continue;
		f->v[n++] = f->v[i];
	}
	f->n = n;
}

/* Bytes of carriers that the statistics announce and no list had. */
static void count_lost(struct finder *f)
{
	uint64_t announced = 0, seen = 0;
	size_t i;

	for (i = 0; i < f->a->n_inst; i++) {
		const struct alloc_instance *in = &f->a->inst[i];

		announced +=
			in->mbcs.carriers_size + in->sbcs.carriers_size + in->pool.carriers_size;
	}
	for (i = 0; i < f->n; i++)
		if (!f->v[i].dead) /* left the statistics when it went onto the list */
			seen += f->v[i].h.size;
	f->out->lost_bytes = announced > seen ? announced - seen : 0;
}

/* A carrier whose first tries failed. */
struct later {
	size_t carrier; /* index into out->v */
	size_t found;	/* index into f->v */
	unsigned header;
	struct walker_failure failure;
};

/* Walks what failed once more, three times. A thread of the VM that lost its
 * processor in the middle of an allocation leaves a carrier in pieces for
 * milliseconds: wait for it. */
static int walk_later(struct finder *f, struct later *v, size_t n)
{
	static const long pause_ns[] = { 1000000, 10000000, 50000000 };
	size_t i, k;

	for (k = 0; n && k < sizeof(pause_ns) / sizeof(pause_ns[0]); k++) {
		bool last = k + 1 == sizeof(pause_ns) / sizeof(pause_ns[0]);
		size_t left = 0;

		if (!target_is_buffers(f->vm->target))
			nanosleep(&(struct timespec){ .tv_nsec = pause_ns[k] }, NULL);
		for (i = 0; i < n; i++) {
			int ret;

			f->out->retries++;
			ret = walker_run(f->w, &f->out->v[v[i].carrier], v[i].header,
					 &f->v[v[i].found].h, &v[i].failure, last, f->out);
			if (ret < 0)
				return ret;
			if (ret)
				v[left++] = v[i];
		}
		n = left;
	}
	return 0;
}

static int split_all(struct finder *f, const struct carriers_opts *opts)
{
	struct carriers *out = f->out;
	struct later *later = NULL;
	size_t i, n_later = 0, size_later = 0;
	int ret = 0;

	out->v = calloc(f->n ? f->n : 1, sizeof(*out->v));
	if (!out->v)
		return -ENOMEM;
	for (i = 0; i < f->n; i++) {
		const struct found *from = &f->v[i];
		const struct owner *o = owner_find(f, from->h.owner);
		struct carrier *c = &out->v[out->n];
		struct walker_failure failure = { 0 };

		if (!o)
			continue;
		c->addr = from->addr;
		c->size = from->h.size;
		c->instance = o->instance;
		c->type = f->a->inst[o->instance].type;
		c->single = from->h.single;
		c->mseg = from->h.mseg;
		c->in_pool = from->h.flags & CARRIER_IN_POOL;
		c->dead = from->dead;
		out->n++;
		if (f->vm->res && !residency_page(f->vm->res, c->addr)) {
			/* its header was readable, but not when the picture was taken */
			out->unseen++;
			walker_split(f->w, c, o->header, &from->h);
			continue;
		}
		if (opts && opts->statistics_only) {
			walker_split(f->w, c, o->header, &from->h);
			continue;
		}
		ret = walker_run(f->w, c, o->header, &from->h, &failure, false, out);
		if (ret > 0) {
			out->retries++;
			ret = walker_run(f->w, c, o->header, &from->h, &failure, false, out);
		}
		if (ret > 0 && n_later == size_later) {
			struct later *bigger =
				realloc(later, (size_later * 2 + 16) * sizeof(*later));

			ret = bigger ? 1 : -ENOMEM;
			if (bigger) {
				later = bigger;
				size_later = size_later * 2 + 16;
			}
		}
		if (ret < 0)
			break;
		if (ret > 0)
			later[n_later++] = (struct later){ .carrier = out->n - 1,
							   .found = i,
							   .header = o->header,
							   .failure = failure };
	}
	if (ret >= 0)
		ret = walk_later(f, later, n_later);
	free(later);
	return ret;
}

int carriers_walk(struct vm *vm, const struct allocators *a, const struct carriers_opts *opts,
		  struct carriers **out, struct error *err)
{
	struct finder f = { .vm = vm, .a = a };
	int ret;

	*out = NULL;
	f.out = calloc(1, sizeof(*f.out));
	ret = f.out ? walker_open(vm, opts, &f.w) : -ENOMEM;
	if (!ret) {
		f.f = walker_format(f.w);
		ret = owners_make(&f);
	}
	if (!ret)
		ret = lists_read(&f);
	if (ret >= 0) {
		make_disjoint(&f);
		count_lost(&f);
		ret = split_all(&f, opts);
	}
	if (!ret && opts && opts->tags) {
		const struct tag_resources *r;
		const struct tag_table *t = walker_tags(f.w, &r);

		ret = tag_sums(vm, t, r, &f.out->tags, &f.out->n_tags);
		if (!ret)
			ret = tag_types(walker_types(f.w), r, &f.out->resources,
					&f.out->n_resources);
	}
	walker_close(f.w);
	free(f.owners);
	free(f.v);
	free(f.slots);
	if (ret < 0) {
		carriers_free(f.out);
		return error_set(err, error_exit_code(ret), ret,
				 "the carriers of process %d cannot be read: %s",
				 (int)target_pid(vm->target), strerror(-ret));
	}
	*out = f.out;
	return 0;
}

void carriers_free(struct carriers *c)
{
	if (!c)
		return;
	free(c->v);
	free(c->tags);
	free(c->resources);
	free(c);
}
