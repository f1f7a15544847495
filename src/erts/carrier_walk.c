/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Walking one carrier
 *
 * One buffer moves over the carrier like a window. It starts small and doubles
 * while the walk goes on where the window ends (small blocks: everything has
 * to be read to find the next header, at the speed of a memory copy), and
 * falls back to one page when a block reaches far beyond it (large blocks:
 * nothing but their ends is read). Memory use does not depend on the target.
 *
 *   |hdr|  used  |tag|hdr|  free            |size|hdr| used ...
 *   ^a               ^e = a + size: read from the end of this block (tag or
 *                     footer) to the header of the next in one piece
 *
 * A page that is not resident is never read. Residency per block comes from a
 * cursor that moves along with the walk; a carrier that is resident as a whole
 * needs none.
 */
#include "erts/carrier_walk.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define WINDOW_MAX   (256U << 10) /* fits a second-level cache; see the bench */
#define WINDOW_MIN   ((unsigned)TARGET_PAGE)
#define WINDOW_GAP   (16U << 10) /* reading less than this costs less than another call */
#define PRESENT_MAX  64		 /* pages looked up in pagemap at once */
#define MAX_HEADER   1024	 /* bytes of a Carrier_t that are looked at */
#define MAX_EVENTS   (1U << 20)	 /* blocks of one carrier that wait for the callback */
#define MIN_BLOCK    16		 /* header and one word; every allocator's minimum is larger */
#define TYPE_UNKNOWN 0xff

struct event {
	uint64_t addr;
	uint64_t size_used_type; /* size | used << 63 | type << 56 */
};

/* What one attempt adds up. */
struct sums {
	uint64_t used_blocks, used_bytes, free_blocks, free_bytes, largest_free;
	uint64_t used_resident, free_resident, free_whole_pages;
	uint64_t at; /* where it ended */
	uint64_t tagged_bytes[ALLOC_TYPES], tagged_resident[ALLOC_TYPES];
	uint64_t bad_tags;
};

struct walker {
	struct vm *vm;
	struct carriers_opts opts;
	struct block_format f;
	size_t carrier_bytes; /* of a Carrier_t */
	int pagemap;	      /* file descriptor, -1: not opened yet, -2: cannot be had */
	int err;	      /* why fetch() returned NULL */

	unsigned char *buf;
	uint64_t lo, hi; /* what it holds */
	unsigned window; /* bytes of the next read */

	/* of resource binaries; see find_magic() */
	unsigned binary_type; /* named "binary" */
	unsigned magic_bytes; /* of a block that have to be read; 0: cannot tell */
	struct layout_field magic_flags, magic_destructor, magic_data; /* from the block's header */
	uint64_t magic_flag;

	/* the carrier under way */
	uint64_t start, end;
	uint64_t run_start, run_end;
	bool run_present;
	bool whole;	/* all its pages are resident */
	bool mixed;	/* holds blocks of several allocators */
	bool delivered; /* some events were delivered before the walk was over */

	unsigned char allocator_of[256]; /* by block type number */
	struct tag_table pending, tags;
	struct tag_table pending_types, types; /* of resources; key.owner is the type's address */
	struct tag_resources resources;
	struct event *events;
	size_t n_events, size_events;
};

/* ---- headers --------------------------------------------------------------- */

static bool word(const void *copy, size_t len, struct layout_field f, size_t i, uint64_t *out)
{
	*out = 0;
	if (!layout_has(f) || 8 * (i + 1) > f.size || (size_t)f.offset + 8 * (i + 1) > len)
		return false;
	memcpy(out, (const char *)copy + f.offset + 8 * i, 8);
	return true;
}

int carrier_header_parse(const struct layout *l, const struct block_format *f, const void *copy,
			 size_t len, struct carrier_header *out)
{
	unsigned first = layout_has_const(l->alc_a_min) ? (unsigned)l->alc_a_min : 1;
	uint64_t chdr, allctr, v;
	size_t i;

	memset(out, 0, sizeof(*out));
	if (!word(copy, len, l->Carrier_t__chdr, 0, &chdr) ||
	    !word(copy, len, l->Carrier_t__next, 0, &out->next) ||
	    !word(copy, len, l->Carrier_t__prev, 0, &out->prev) ||
	    !word(copy, len, l->Carrier_t__allctr, 0, &allctr))
		return -EINVAL;
	out->size = chdr & ~CARRIER_FLAGS;
	out->mseg = chdr & CARRIER_MSEG;
	out->single = chdr & CARRIER_SINGLE;
	out->owner = allctr & ~CARRIER_FLAGS;
	out->flags = (unsigned)(allctr & CARRIER_FLAGS);
	if (out->single) {
		if (f->single_header + 8 > len)
			return -EINVAL;
		memcpy(&out->block, (const char *)copy + f->single_header, 8);
		return 0;
	}
	word(copy, len, l->Carrier_t__cpool_next, 0, &out->pool_next);
	word(copy, len, l->Carrier_t__cpool_prev, 0, &out->pool_prev);
	if (!word(copy, len, l->Carrier_t__cpool_total_blocks_size, 0, &out->used_bytes))
		return -EINVAL;
	for (i = 0; i + first < ALLOC_TYPES; i++) {
		if (word(copy, len, l->Carrier_t__cpool_blocks, i, &v))
			out->used_blocks += v;
		if (word(copy, len, l->Carrier_t__cpool_blocks_size, i, &v) && v <= out->size)
			out->used_bytes_of[i + first] = v;
	}
	return 0;
}

/* ---- the walker ------------------------------------------------------------ */

/* The allocator of a block type, where the layout knows (the type word is
 * number << 7 | class << 4 | allocator, erl_alloc_types.h). */
static void learn_type(struct walker *w, const struct layout *l, int64_t type)
{
	uint64_t shift = layout_has_const(l->alc_n_shift) ? (uint64_t)l->alc_n_shift : 7;
	uint64_t mask = layout_has_const(l->alc_a_mask) ? (uint64_t)l->alc_a_mask : 15;
	uint64_t n;

	if (!layout_has_const(type) || shift > 32)
		return;
	n = (uint64_t)type >> shift & ((1U << w->f.tag_type_bits) - 1);
	if (n < sizeof(w->allocator_of) && ((uint64_t)type & mask) < ALLOC_TYPES)
		w->allocator_of[n] = (unsigned char)((uint64_t)type & mask);
}

static struct layout_field in_block(struct walker *w, struct layout_field f)
{
	f.offset += (int32_t)w->f.header;
	if ((unsigned)f.offset + f.size > w->magic_bytes)
		w->magic_bytes = (unsigned)f.offset + f.size;
	return f;
}

/* Where a NIF resource's marks are, counted from its block's header. */
static void find_magic(struct walker *w, const struct layout *l)
{
	unsigned i;

	w->binary_type = UINT32_MAX;
	for (i = 0; i < w->vm->n_types; i++)
		if (w->vm->type_names[i] && strcmp(w->vm->type_names[i], "binary") == 0)
			w->binary_type = i;
	if (w->binary_type == UINT32_MAX || !layout_has(l->Binary__intern_flags) ||
	    !layout_has(l->ErtsMagicBinary__destructor) ||
	    !layout_has(l->ErtsMagicBinary__unaligned_data))
		return;
	w->magic_flag = layout_has_const(l->bin_flag_magic) ? (uint64_t)l->bin_flag_magic : 1;
	w->magic_flags = in_block(w, l->Binary__intern_flags);
	w->magic_destructor = in_block(w, l->ErtsMagicBinary__destructor);
	/* enif_alloc_resource() takes unaligned data; an ErtsResource begins with its type */
	w->magic_data = l->ErtsMagicBinary__unaligned_data;
	w->magic_data.offset += layout_has(l->ErtsResource__type) ? l->ErtsResource__type.offset
								  : 0;
	w->magic_data.size = 8;
	w->magic_data = in_block(w, w->magic_data);
	if (w->magic_bytes > 512)
		w->magic_bytes = 0;
}

int walker_open(struct vm *vm, const struct carriers_opts *opts, struct walker **out)
{
	const struct layout *l = vm->layout;
	struct walker *w = calloc(1, sizeof(*w));

	*out = NULL;
	if (!w)
		return -ENOMEM;
	w->vm = vm;
	if (opts)
		w->opts = *opts;
	w->pagemap = -1;
	block_format_init(&w->f, l);
	w->carrier_bytes = l->size_Carrier_t < MAX_HEADER ? l->size_Carrier_t : MAX_HEADER;
	w->buf = malloc(WINDOW_MAX + TARGET_PAGE);
	if (!w->buf || w->carrier_bytes < 48) {
		int ret = w->buf ? -EINVAL : -ENOMEM;

		walker_close(w);
		return ret;
	}
	memset(w->allocator_of, TYPE_UNKNOWN, sizeof(w->allocator_of));
	learn_type(w, l, l->alc_t_binary);
	learn_type(w, l, l->alc_t_drv_binary);
	learn_type(w, l, l->alc_t_drv);
	learn_type(w, l, l->alc_t_nif);
	learn_type(w, l, l->alc_t_driver);
	find_magic(w, l);
	*out = w;
	return 0;
}

void walker_close(struct walker *w)
{
	if (!w)
		return;
	if (w->pagemap >= 0)
		close(w->pagemap);
	free(w->buf);
	free(w->events);
	tag_table_free(&w->pending);
	tag_table_free(&w->tags);
	tag_table_free(&w->pending_types);
	tag_table_free(&w->types);
	free(w);
}

const struct block_format *walker_format(const struct walker *w)
{
	return &w->f;
}

const struct tag_table *walker_tags(const struct walker *w, const struct tag_resources **r)
{
	*r = &w->resources;
	return &w->tags;
}

const struct tag_table *walker_types(const struct walker *w)
{
	return &w->types;
}

bool walker_fatal(int ret)
{
	return ret == -ENOMEM || ret == -ETIMEDOUT || ret == -ESRCH || ret == -EPERM ||
	       ret == -EACCES;
}

/* ---- reading --------------------------------------------------------------- */

/* The end of the run of pages from `addr` on, at most `limit`, that are in
 * memory at this moment; `addr` when its own page is not. */
static uint64_t present_now(struct walker *w, uint64_t addr, uint64_t limit)
{
	uint64_t page = addr & ~(TARGET_PAGE - 1), entry[PRESENT_MAX];
	size_t n = (size_t)((limit - page + TARGET_PAGE - 1) / TARGET_PAGE), i;
	ssize_t got;

	if (w->pagemap == -1) {
		w->pagemap = target_proc_open(w->vm->target, "pagemap");
		if (w->pagemap < 0)
			w->pagemap = -2;
	}
	if (w->pagemap < 0 || target_call_begin(w->vm->target) < 0)
		return addr;
	if (n > PRESENT_MAX)
		n = PRESENT_MAX;
	got = pread(w->pagemap, entry, n * sizeof(entry[0]),
		    (off_t)(page / TARGET_PAGE * sizeof(entry[0])));
	target_call_end(w->vm->target);
	/* bit 63: present (Documentation/admin-guide/mm/pagemap.rst) */
	for (i = 0; got > 0 && i < (size_t)got / sizeof(entry[0]) && entry[i] >> 63; i++)
		page += TARGET_PAGE;
	return page < addr ? addr : page < limit ? page : limit;
}

/* How far from `addr` on may be read: pages of the picture, else pages that
 * have come since. */
static uint64_t readable(struct walker *w, uint64_t addr, uint64_t limit)
{
	const struct residency *res = w->vm->res;
	bool present;
	uint64_t end;

	if (!res)
		return limit;
	end = residency_run(res, addr, limit, &present);
	return present ? end : present_now(w, addr, end);
}

int walker_read(struct walker *w, uint64_t addr, void *buf, size_t len)
{
	uint64_t at = addr, end = addr + len;

	if (end < addr)
		return -EFAULT;
	while (at < end) {
		uint64_t stop = readable(w, at, end);

		if (stop == at)
			return -ENODATA;
		at = stop;
	}
	return target_read(w->vm->target, addr, buf, len);
}

/* Moves the window so that it begins at `addr` and holds `len` bytes at least. */
static const unsigned char *fetch(struct walker *w, uint64_t addr, size_t len)
{
	uint64_t stop, need = addr + len;
	ssize_t n;

	if (addr < w->start || need > w->end || need < addr) {
		w->err = -EINVAL;
		return NULL;
	}
	if (!w->hi || addr > w->hi + WINDOW_GAP)
		w->window = WINDOW_MIN;
	else if (w->window < WINDOW_MAX)
		w->window *= 2;
	stop = (addr + w->window + TARGET_PAGE - 1) & ~(TARGET_PAGE - 1);
	if (stop > w->end)
		stop = w->end;
	if (!w->whole) {
		uint64_t limit = stop;

		stop = readable(w, addr, limit);
		/* a header that straddles two runs of pages */
		if (stop < need && stop > addr)
			stop = readable(w, stop, limit);
		if (stop < need) {
			w->err = -ENODATA;
			return NULL;
		}
	}
	n = target_read_some(w->vm->target, addr, w->buf, (size_t)(stop - addr));
	if (n < (ssize_t)len) {
		w->err = n < 0 ? (int)n : -EFAULT;
		w->lo = w->hi = 0;
		return NULL;
	}
	w->lo = addr;
	w->hi = addr + (uint64_t)n;
	return w->buf;
}

/* `len` bytes at `addr`, valid until the next call. */
static inline const unsigned char *at(struct walker *w, uint64_t addr, size_t len)
{
	if (addr >= w->lo && addr + len <= w->hi)
		return w->buf + (addr - w->lo);
	return fetch(w, addr, len);
}

static inline uint64_t load(const unsigned char *p)
{
	uint64_t v;

	memcpy(&v, p, 8);
	return v;
}

/* Resident bytes of [a, e), for calls with rising addresses. */
static uint64_t resident_in(struct walker *w, uint64_t a, uint64_t e)
{
	uint64_t n = 0;

	while (a < e) {
		uint64_t stop;

		if (a < w->run_start || a >= w->run_end) {
			w->run_start = a;
			w->run_end = residency_run(w->vm->res, a, w->end, &w->run_present);
		}
		stop = e < w->run_end ? e : w->run_end;
		if (w->run_present)
			n += stop - a;
		a = stop;
	}
	return n;
}

static uint64_t bytes_resident(const struct walker *w, uint64_t a, uint64_t e)
{
	if (a >= e)
		return 0;
	return w->vm->res ? residency_bytes(w->vm->res, a, e) : e - a;
}

static uint64_t whole_pages(const struct walker *w, uint64_t a, uint64_t e)
{
	uint64_t first = (a + TARGET_PAGE - 1) & ~(TARGET_PAGE - 1), last = e & ~(TARGET_PAGE - 1);

	if (first >= last)
		return 0;
	return w->whole ? last - first : residency_whole_pages(w->vm->res, a, e);
}

/* ---- one block ------------------------------------------------------------- */

/* The part of a used block's tag that depends on its content: whether it is a
 * magic binary. `size` is the block's. */
static uint32_t magic_of(struct walker *w, uint64_t a, uint64_t size, uint64_t first_word,
			 uint64_t *type)
{
	const unsigned char *p;

	/* flags are the first word of a Binary on every release: most blocks
	 * need no look at the rest */
	if (!w->magic_bytes || size < w->magic_bytes ||
	    (w->magic_flags.offset == (int32_t)w->f.header && !(first_word & w->magic_flag)))
		return 0;
	p = at(w, a, w->magic_bytes);
	if (!p || !(load(p + w->magic_flags.offset) & w->magic_flag))
		return 0;
	*type = load(p + w->magic_data.offset);
	return tag_resource(w->vm, &w->resources, load(p + w->magic_destructor.offset), *type);
}

/* Adds a tagged block to the pending sums. `tag` may be of no use: counted. */
static int tagged_add(struct walker *w, const struct carrier *c, const struct block_tag *tag,
		      uint32_t magic, uint64_t resource, uint64_t size, uint64_t resident,
		      struct sums *s)
{
	struct tag_key k = { .owner = tag->owner, .block_type = (uint16_t)tag->type };
	unsigned type = c->type;

	if ((w->vm->n_types && (tag->type >= w->vm->n_types || !w->vm->type_names[tag->type])) ||
	    tag->owner > UINT32_MAX) {
		s->bad_tags++;
		return 0;
	}
	if (tag->type < sizeof(w->allocator_of)) {
		unsigned char *known = &w->allocator_of[tag->type];

		if (!w->mixed)
			*known = (unsigned char)c->type;
		else if (*known != TYPE_UNKNOWN)
			type = *known;
	}
	if (type >= ALLOC_TYPES)
		return 0;
	s->tagged_bytes[type] += size;
	s->tagged_resident[type] += resident;
	k.alloc_type = (uint16_t)type;
	k.term = w->opts.tag_pids ? tag->term : 0;
	k.magic = tag->type == w->binary_type ? magic : 0;
	if (k.magic && w->opts.resources) {
		struct tag_key type = { .owner = resource, .magic = magic };
		int ret = tag_table_add(&w->pending_types, &type, 1, size, resident);

		if (ret < 0)
			return ret;
	}
	return tag_table_add(&w->pending, &k, 1, size, resident);
}

static void events_deliver(struct walker *w, const struct carrier *c)
{
	size_t i;

	for (i = 0; i < w->n_events; i++) {
		uint64_t v = w->events[i].size_used_type;

		w->opts.block(w->opts.arg, c, w->events[i].addr, v & ((1ULL << 56) - 1), v >> 63,
			      (unsigned)(v >> 56 & 0x7f));
	}
	w->n_events = 0;
}

static int event_add(struct walker *w, const struct carrier *c, uint64_t addr, uint64_t size,
		     bool used)
{
	if (w->n_events == MAX_EVENTS) {
		/* after this a failed walk is not tried again */
		events_deliver(w, c);
		w->delivered = true;
	}
	if (w->n_events == w->size_events) {
		size_t n = w->size_events ? w->size_events * 2 : 1024;
		struct event *bigger;

		bigger = realloc(w->events, n * sizeof(*bigger));
		if (!bigger)
			return -ENOMEM;
		w->events = bigger;
		w->size_events = n;
	}
	w->events[w->n_events].addr = addr;
	w->events[w->n_events++].size_used_type = size | (uint64_t)used << 63 |
						  (uint64_t)c->type << 56;
	return 0;
}

/* ---- multiblock carriers --------------------------------------------------- */

static void begin(struct walker *w, const struct carrier *c, struct sums *s)
{
	memset(s, 0, sizeof(*s));
	w->lo = w->hi = 0;
	w->run_start = w->run_end = 0;
	w->start = c->addr;
	w->end = c->addr + c->size;
	w->whole = c->resident == c->size;
	w->n_events = 0;
	w->delivered = false;
	tag_table_clear(&w->pending);
	tag_table_clear(&w->pending_types);
}

static bool is_mixed(const struct carrier_header *h, unsigned type)
{
	unsigned i;

	for (i = 0; i < ALLOC_TYPES; i++)
		if (h->used_bytes_of[i] && i != type)
			return true;
	return false;
}

/* Tag, and magic, of the used block [a, e). */
static int used_tag(struct walker *w, const struct carrier *c, uint64_t a, uint64_t e, bool last,
		    uint64_t first_word, uint64_t resident, struct sums *s)
{
	uint64_t type = 0;
	uint32_t magic = magic_of(w, a, e - a, first_word, &type);
	struct block_tag tag;
	const unsigned char *p;

	p = at(w, e - w->f.tag_bytes, w->f.tag_bytes + (last ? 0 : 16));
	if (!p && w->err == -ENODATA)
		p = at(w, e - w->f.tag_bytes, w->f.tag_bytes);
	if (!p) {
		if (w->err != -ENODATA)
			return w->err;
		s->bad_tags++;
		return 0;
	}
	block_tag_read(&w->f, p + w->f.tag_bytes, &tag);
	return tagged_add(w, c, &tag, magic, type, e - a, resident, s);
}

/* One attempt. 0; -EINVAL when a check failed; -EFAULT when memory went away;
 * -ENODATA when a header's page is not resident (s->at: where); -ESTALE when
 * this carrier is not there any more. */
static int attempt(struct walker *w, const struct carrier *c, unsigned header,
		   struct carrier_header *h, struct sums *s)
{
	const struct block_format *f = &w->f;
	const uint64_t start = c->addr, end = c->addr + c->size;
	uint64_t a = start + header;
	bool prev_free = false;
	const unsigned char *p;
	int ret;

	begin(w, c, s);
	s->at = a;
	p = at(w, start, w->carrier_bytes);
	if (!p)
		return walker_fatal(w->err) ? w->err : -ESTALE;
	/* size and kind of a carrier never change */
	if (carrier_header_parse(w->vm->layout, f, p, w->carrier_bytes, h) < 0 || h->single ||
	    h->size != c->size)
		return -ESTALE;
	w->mixed = is_mixed(h, c->type);

	for (;;) {
		uint64_t hdr, first, size, e, resident;
		bool is_free, last;

		s->at = a;
		p = at(w, a, 16);
		if (!p)
			return w->err;
		hdr = load(p);
		first = load(p + 8);
		is_free = hdr & BLOCK_FREE;
		last = hdr & BLOCK_LAST;
		if (is_free) {
			/* neighbours that are both free would have been merged */
			size = hdr & f->free_size;
			if (hdr & BLOCK_PREV_FREE || prev_free || first != start)
				return -EINVAL;
		} else {
			size = hdr & f->used_size;
			if (!(hdr & BLOCK_PREV_FREE) == prev_free ||
			    block_carrier(f, a, hdr) != start)
				return -EINVAL;
		}
		if (size < MIN_BLOCK || size > end - a)
			return -EINVAL;
		e = a + size;
		if ((e == end) != last)
			return -EINVAL;
		resident = w->whole ? size : resident_in(w, a, e);
		if (is_free) {
			if (!last) {
				/* the last block has no footer */
				p = at(w, e - 8, 24);
				if (p ? load(p) != size : w->err != -ENODATA)
					return p ? -EINVAL : w->err;
			}
			s->free_blocks++;
			s->free_bytes += size;
			s->free_resident += resident;
			s->free_whole_pages += whole_pages(w, a, e);
			if (size > s->largest_free)
				s->largest_free = size;
		} else {
			s->used_blocks++;
			s->used_bytes += size;
			s->used_resident += resident;
			if (hdr & BLOCK_TAGGED && w->opts.tags && size > f->tag_bytes + 8) {
				ret = used_tag(w, c, a, e, last, first, resident, s);
				if (ret < 0)
					return ret;
			}
		}
		if (w->opts.block) {
			ret = event_add(w, c, a, size, !is_free);
			if (ret < 0)
				return ret;
		}
		prev_free = is_free;
		a = e;
		if (last)
			break;
	}
	s->at = a;
	return 0;
}

/* ---- splitting ------------------------------------------------------------- */

/* Adds `total`, divided in proportion to the weights, to out[]; exactly. */
static void distribute(uint64_t total, const uint64_t *weights, unsigned otherwise, uint64_t *out)
{
	unsigned __int128 sum = 0, upto = 0;
	uint64_t done = 0;
	unsigned i;

	for (i = 0; i < ALLOC_TYPES; i++)
		sum += weights[i];
	if (!sum) {
		out[otherwise < ALLOC_TYPES ? otherwise : 0] += total;
		return;
	}
	for (i = 0; i < ALLOC_TYPES; i++) {
		uint64_t share;

		upto += weights[i];
		share = (uint64_t)(upto * total / sum);
		out[i] += share - done;
		done = share;
	}
}

/* From the sums to the carrier. Slack is what is left: the three add up. */
static void conclude(struct carrier *c, const struct carrier_header *h, const struct sums *s)
{
	uint64_t weights[ALLOC_TYPES], tagged = 0;
	unsigned i;

	c->used_blocks = s->used_blocks;
	c->used_bytes = s->used_bytes;
	c->free_blocks = s->free_blocks;
	c->free_bytes = s->free_bytes;
	c->largest_free = s->largest_free;
	c->used_resident = s->used_resident;
	c->free_resident = s->free_resident;
	c->slack_resident = c->resident - s->used_resident - s->free_resident;
	c->free_whole_pages = s->free_whole_pages;

	memset(c->used_resident_by_type, 0, sizeof(c->used_resident_by_type));
	if (c->single || !is_mixed(h, c->type)) {
		c->used_resident_by_type[c->type < ALLOC_TYPES ? c->type : 0] = s->used_resident;
		return;
	}
	/* blocks of several allocators: those with a tag are known, the rest
	 * goes by the carrier's own counters */
	for (i = 0; i < ALLOC_TYPES; i++) {
		weights[i] = h->used_bytes_of[i] > s->tagged_bytes[i]
				     ? h->used_bytes_of[i] - s->tagged_bytes[i]
				     : 0;
		c->used_resident_by_type[i] = s->tagged_resident[i];
		tagged += s->tagged_resident[i];
	}
	distribute(s->used_resident - tagged, weights, c->type, c->used_resident_by_type);
}

/* What lies behind s->at, by the carrier's counters: so many bytes of it must
 * be used. */
static void split_rest(struct walker *w, const struct carrier *c, const struct carrier_header *h,
		       struct sums *s)
{
	uint64_t end = c->addr + c->size, rest = end - s->at;
	uint64_t resident = bytes_resident(w, s->at, end), used, used_resident;

	used = h->used_bytes > s->used_bytes ? h->used_bytes - s->used_bytes : 0;
	if (used > rest)
		used = rest;
	used_resident = rest ? (uint64_t)((unsigned __int128)resident * used / rest) : 0;
	s->used_bytes += used;
	s->used_resident += used_resident;
	s->free_bytes += rest - used;
	s->free_resident += resident - used_resident;
	if (h->used_blocks > s->used_blocks && used)
		s->used_blocks = h->used_blocks;
	s->at = end;
}

void walker_split(struct walker *w, struct carrier *c, unsigned header,
		  const struct carrier_header *h)
{
	struct sums s = { 0 };

	c->resident = bytes_resident(w, c->addr, c->addr + c->size);
	if (c->single) {
		uint64_t size = h->block & w->f.free_size;

		if (!size || size > c->size - w->f.single_header)
			size = c->size - w->f.single_header;
		s.at = c->addr + w->f.single_header;
		s.used_blocks = 1;
		s.used_bytes = size;
		s.used_resident = bytes_resident(w, s.at, s.at + size);
	} else {
		s.at = c->addr + header;
		split_rest(w, c, h, &s);
		s.free_blocks = s.free_bytes != 0; /* at least */
	}
	conclude(c, h, &s);
}

/* ---- single-block carriers ------------------------------------------------- */

static int single_attempt(struct walker *w, const struct carrier *c, struct carrier_header *h,
			  struct sums *s)
{
	const struct block_format *f = &w->f;
	uint64_t a = c->addr + f->single_header, size, e;
	unsigned char copy[MAX_HEADER];
	size_t len = f->single_header + 16;
	int ret;

	begin(w, c, s);
	w->mixed = false;
	if (len > sizeof(copy) || len > c->size)
		return -EINVAL;
	ret = walker_read(w, c->addr, copy, len);
	if (ret < 0)
		return walker_fatal(ret) ? ret : -ESTALE;
	if (carrier_header_parse(w->vm->layout, f, copy, len, h) < 0 || !h->single ||
	    h->size != c->size)
		return -ESTALE;
	size = h->block & f->free_size;
	if ((h->block & BLOCK_SINGLE) != BLOCK_SINGLE || size < MIN_BLOCK ||
	    size > c->size - f->single_header)
		return -EINVAL;
	e = a + size;
	s->used_blocks = 1;
	s->used_bytes = size;
	s->used_resident = bytes_resident(w, a, e);
	s->at = e;
	if (h->block & BLOCK_TAGGED && w->opts.tags && size > f->tag_bytes + 8) {
		ret = used_tag(w, c, a, e, true, load(copy + f->single_header + 8),
			       s->used_resident, s);
		if (ret < 0)
			return ret;
	}
	return w->opts.block ? event_add(w, c, a, size, true) : 0;
}

/* ---- a carrier ------------------------------------------------------------- */

/* A walk that ended well is off the carrier's counters, and they stood still. */
static bool disagrees(struct walker *w, const struct carrier *c, const struct carrier_header *h,
		      const struct sums *s)
{
	unsigned char copy[MAX_HEADER];
	struct carrier_header now;

	if (h->used_bytes == s->used_bytes && h->used_blocks == s->used_blocks)
		return false;
	return walker_read(w, c->addr, copy, w->carrier_bytes) == 0 &&
	       carrier_header_parse(w->vm->layout, &w->f, copy, w->carrier_bytes, &now) == 0 &&
	       now.used_bytes == h->used_bytes && now.used_blocks == h->used_blocks;
}

int walker_run(struct walker *w, struct carrier *c, unsigned header,
	       const struct carrier_header *known, struct walker_failure *failure, bool last_try,
	       struct carriers *sum)
{
	struct carrier_header h = { 0 };
	bool persistent;
	struct sums s;
	int ret;

	c->resident = bytes_resident(w, c->addr, c->addr + c->size);
	ret = c->single ? single_attempt(w, c, &h, &s) : attempt(w, c, header, &h, &s);
	if (walker_fatal(ret))
		return ret;
	if (ret == -ESTALE) {
		c->gone = true;
		sum->gone++;
		walker_split(w, c, header, known);
		return 0;
	}
	/* the same check at the same place in a carrier that stood still: no race */
	persistent = ret == -EINVAL && failure->at == s.at && failure->used_bytes == h.used_bytes;
	failure->at = s.at;
	failure->used_bytes = h.used_bytes;
	if (ret < 0 && !last_try && !w->delivered)
		return 1;
	if (ret < 0) {
		/* What was walked before a page that is not there still holds;
		 * what was walked into a contradiction does not. */
		c->torn = true;
		sum->torn++;
		sum->errors += persistent;
		w->n_events = 0;
		if (c->single || ret != -ENODATA) {
			walker_split(w, c, header, &h);
			return 0;
		}
		split_rest(w, c, &h, &s);
	} else if (!c->single && disagrees(w, c, &h, &s)) {
		sum->counter_mismatch++;
	}
	conclude(c, &h, &s);
	if (ret == 0) {
		sum->blocks += s.used_blocks + s.free_blocks;
		sum->bytes += c->size;
	}
	sum->bad_tags += s.bad_tags;
	ret = w->pending.n ? tag_table_merge(&w->tags, &w->pending) : 0;
	if (ret == 0 && w->pending_types.n)
		ret = tag_table_merge(&w->types, &w->pending_types);
	if (ret == 0 && w->opts.block)
		events_deliver(w, c);
	return ret;
}
