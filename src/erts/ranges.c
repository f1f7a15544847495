/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the VM holds outside of carriers.
 *
 *	mseg cache	segments given back by allocators, kept a while for the
 *			next one that asks: per instance a list for any size and
 *			lists by power of two (erl_mseg.c)
 *	super carrier	one reserve, +MMscs; free segments inside of it stay
 *			resident unless discarded (erl_mmap.c)
 *	literal area	a super carrier too, 1 GiB of reserve, of which little is
 *			ever touched
 *	JIT code	asmjit's blocks. W^X: the same memfd is mapped twice, once
 *			to execute and once to write; with +JPperf or +JMsingle
 *			one private mapping does both
 *
 *	memfd:vmem  rw-s  [ alias  ]---+
 *	memfd:vmem  r-xs  [ code   ]---+--> the same pages, counted twice in RSS
 *
 * Other code makes executable memory as well (LuaJIT, libffi in a NIF). A
 * mapping counts as the VM's code only when an address that the VM itself lists
 * as code lies in it: the code ranges of the modules, and the entries of the
 * JIT's list, which alone know the VM's own fragments.
 *
 * The emulator's code lies in ordinary carriers.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "erts/carrier.h"

#define TRIES		   5
#define RANGES_MAX	   65536
#define MSEG_INSTANCES_MAX 4096
#define MSEG_BYTES_MAX	   16384
#define JIT_ENTRIES_MAX	   200000
#define CODE_RANGES_MAX	   200000

static int range_add(struct vm_ranges *r, uint64_t start, uint64_t end, enum vm_range_kind kind)
{
	struct vm_range *v;

	if (end <= start || r->n >= RANGES_MAX)
		return 0;
	v = realloc(r->v, (r->n + 1) * sizeof(*v));
	if (!v)
		return -ENOMEM;
	r->v = v;
	v[r->n++] = (struct vm_range){ .start = start, .end = end, .kind = kind };
	return 0;
}

/* ---- mseg -------------------------------------------------------------------------- */

static bool copy_u64(const unsigned char *copy, size_t size, uint64_t at, uint64_t *out)
{
	if (at > size || size - at < sizeof(*out))
		return false;
	memcpy(out, copy + at, sizeof(*out));
	return true;
}

/* A slot of the cache that holds a segment. */
static bool slot_read(const struct layout *l, const unsigned char *copy, size_t size, uint64_t at,
		      uint64_t *start, uint64_t *bytes)
{
	return copy_u64(copy, size, at + (uint64_t)l->cache_t__seg.offset, start) &&
	       copy_u64(copy, size, at + (uint64_t)l->cache_t__size.offset, bytes) && *start &&
	       *start % TARGET_PAGE == 0 && *bytes && *bytes % TARGET_PAGE == 0 &&
	       *start + *bytes > *start;
}

/* One instance's cached segments, from a copy of it. Returns 0, -EAGAIN when the
 * copy contradicts itself (it was being changed), or -ENOENT when it is no cache
 * at all: a list head that leads out of the instance. */
static int cache_walk(const struct vm *vm, uint64_t addr, const unsigned char *copy, size_t size,
		      struct vm_ranges *r)
{
	const struct layout *l = vm->layout;
	uint64_t stride = l->size_cache_t,
		 head = (uint64_t)l->ErtsMsegAllctr_t__cache_unpowered_node.offset;
	uint64_t last = (uint64_t)l->ErtsMsegAllctr_t__cache_free.offset, cached;
	uint64_t first = (uint64_t)l->ErtsMsegAllctr_t__cache.offset;
	uint64_t slots = l->ErtsMsegAllctr_t__cache.size / stride, n = 0;

	if (!vm_field(copy, size, l->ErtsMsegAllctr_t__cache_size, &cached) || cached > slots)
		return -ENOENT;
	/* The list heads lie between the slots and cache_free. */
	for (; head + stride <= last; head += stride) {
		uint64_t at = head, next, start, bytes;

		for (uint64_t step = 0;; step++) {
			if (step > slots ||
			    !copy_u64(copy, size, at + (uint64_t)l->cache_t__next.offset, &next))
				return -EAGAIN;
			if (at == head && (next < addr + first || next >= addr + last + stride))
				return -ENOENT;
			if (next == addr + head)
				break;
			at = next - addr;
			if (at < first || (at - first) / stride >= slots || (at - first) % stride ||
			    !slot_read(l, copy, size, at, &start, &bytes))
				return -EAGAIN;
			if (range_add(r, start, start + bytes, VM_RANGE_MSEG_CACHE))
				return -ENOMEM;
			n++;
		}
	}
	return n == cached ? 0 : -EAGAIN;
}

/* Of an instance that never stood still: what its slots hold. A free slot is
 * cleared (mseg_cache_clear_node()), so that at worst a segment is among them
 * that has just become a carrier or has gone. */
static int cache_salvage(const struct vm *vm, const unsigned char *copy, size_t size,
			 struct vm_ranges *r)
{
	const struct layout *l = vm->layout;
	uint64_t at = (uint64_t)l->ErtsMsegAllctr_t__cache.offset, start, bytes;
	uint64_t end = at + l->ErtsMsegAllctr_t__cache.size;

	for (; at + l->size_cache_t <= end; at += l->size_cache_t)
		if (slot_read(l, copy, size, at, &start, &bytes) &&
		    mappings_cover(vm->maps, start, bytes) &&
		    range_add(r, start, start + bytes, VM_RANGE_MSEG_CACHE))
			return -ENOMEM;
	return 0;
}

/* Instance `i`'s counters; a later try replaces an earlier one's. */
static int mseg_add(const struct layout *l, const void *copy, size_t size, unsigned i,
		    struct vm_ranges *r)
{
	struct layout_field giga = l->ErtsMsegAllctr_t__calls, ones = giga;
	struct vm_mseg *m;
	uint64_t g, o;

	if (i >= r->n_mseg) {
		m = realloc(r->mseg, (i + 1) * sizeof(*m));
		if (!m)
			return -ENOMEM;
		r->mseg = m;
		r->n_mseg = i + 1;
	}
	m = &r->mseg[i];
	memset(m, 0, sizeof(*m));
	/* struct { CallCounter alloc, ... } calls (erl_mseg.c, 23 to 29) */
	giga.offset += layout_has(l->CallCounter__giga_no) ? l->CallCounter__giga_no.offset : 0;
	ones.offset += layout_has(l->CallCounter__no) ? l->CallCounter__no.offset : 4;
	giga.size = ones.size = 4;
	if (vm_field(copy, size, giga, &g) && vm_field(copy, size, ones, &o))
		m->calls_alloc = 1000000000 * g + o;
	vm_field(copy, size, l->ErtsMsegAllctr_t__cache_hits, &m->cache_hits);
	vm_field(copy, size, l->ErtsMsegAllctr_t__cache_size, &m->cached);
	vm_field(copy, size, l->ErtsMsegAllctr_t__segments_current_no, &m->segments);
	vm_field(copy, size, l->ErtsMsegAllctr_t__segments_current_sz, &m->segments_size);
	return 0;
}

static int mseg_read(struct vm *vm, struct vm_ranges *r)
{
	const struct layout *l = vm->layout;
	uint64_t var = vm->anchors.v[A_MSEG_ALLCTR].addr, array;
	uint64_t size = l->size_ErtsMsegAllctr_t, stride = l->size_ErtsAlgndMsegAllctr_t;
	unsigned char *copy;
	unsigned i, torn = 0;
	int ret = 0;

	if (!var) {
		snprintf(r->why, sizeof(r->why), "%s",
			 vm->anchors.v[A_MSEG_ALLCTR].why ? vm->anchors.v[A_MSEG_ALLCTR].why
							  : "no mseg state found");
		return 0;
	}
	if (!size || size > MSEG_BYTES_MAX || stride < size || !l->size_cache_t ||
	    vm_read_u64(vm, var, &array) != 0) {
		snprintf(r->why, sizeof(r->why), "the mseg state could not be read");
		return 0;
	}
	copy = malloc(size);
	if (!copy)
		return -ENOMEM;
	for (i = 0; i < MSEG_INSTANCES_MAX && ret == 0; i++) {
		/* Microseconds are enough where a thread is in the middle of a
		 * change, milliseconds where it has been scheduled away there. */
		static const unsigned pause_us[TRIES] = { 0, 0, 100, 1000, 4000 };
		size_t before = r->n;
		int try;

		for (try = 0; try < TRIES; try++) {
			uint64_t ix;

			if (pause_us[try])
				usleep(pause_us[try]);
			r->n = before;
			if (vm_read(vm, array + i * stride, copy, size) ||
			    !vm_field(copy, size, l->ErtsMsegAllctr_t__ix, &ix) || ix != i)
				goto end; /* behind the last one */
			ret = mseg_add(l, copy, size, i, r);
			if (!ret)
				ret = cache_walk(vm, array + i * stride, copy, size, r);
			if (ret != -EAGAIN)
				break;
		}
		if (ret == -ENOENT) {
			r->n = before;
			goto end;
		}
		if (ret == -EAGAIN) {
			r->n = before;
			ret = cache_salvage(vm, copy, size, r);
			torn++;
		}
	}
end:
	free(copy);
	ret = ret == -ENOENT ? 0 : ret;
	r->mseg_known = ret == 0 && i >= 2; /* global, and one scheduler */
	r->n_mseg = r->mseg_known && i < r->n_mseg ? i : r->mseg_known ? r->n_mseg : 0;
	if (ret == 0 && i < 2)
		snprintf(r->why, sizeof(r->why), "the mseg state could not be read");
	else if (ret == 0 && torn)
		snprintf(r->why, sizeof(r->why),
			 "%u of %u mseg caches changed while they were read: taken as they looked",
			 torn, i);
	return ret;
}

/* ---- Super carriers ---------------------------------------------------------------- */

static int mapper_read(struct vm *vm, enum anchor_id id, enum vm_range_kind kind,
		       struct vm_ranges *r)
{
	const struct layout *l = vm->layout;
	uint64_t mm = vm->anchors.v[id].addr, super, top, bot, total;

	if (!mm)
		return 0;
	for (int try = 0; try < TRIES; try++) {
		if (vm_read_field(vm, mm, l->ErtsMemMapper__supercarrier, &super) ||
		    vm_read_field(vm, mm, l->ErtsMemMapper__sua_top, &top) ||
		    vm_read_field(vm, mm, l->ErtsMemMapper__sa_bot, &bot) ||
		    vm_read_field(vm, mm, l->ErtsMemMapper__size_supercarrier_total, &total))
			return 0;
		if (!super)
			return 0;
		/* Set once at start; the descriptors' area lies before sa.bot. */
		if (total && top > total && top - total <= bot && bot <= top)
			return range_add(r, top - total, top, kind);
	}
	return 0;
}

/* ---- JIT code ---------------------------------------------------------------------- */

struct code_maps {
	struct vm *vm;
	unsigned char *is; /* one flag a mapping: holds code of the VM */
};

static void code_at(struct code_maps *c, uint64_t addr)
{
	const struct mappings *m = c->vm->maps;
	size_t i = mappings_index(m, addr);

	if (i < m->n && m->v[i].start <= addr && m->v[i].exec && m->v[i].kind != MAPPING_FILE)
		c->is[i] = 1;
}

/* Module ranges of every code index. */
static void code_by_ranges(struct code_maps *c)
{
	const struct layout *l = c->vm->layout;
	uint64_t r = c->vm->anchors.v[A_RANGES].addr, stride = l->size_code_range;
	uint64_t indexes = layout_has_const(l->num_code_ix) ? (uint64_t)l->num_code_ix : 3;
	uint64_t chunk[128];

	if (!r || !l->size_code_ranges || stride != 16)
		return;
	for (uint64_t i = 0; i < indexes; i++) {
		uint64_t e = r + i * l->size_code_ranges, modules, n;

		if (vm_read_field(c->vm, e, l->code_ranges__modules, &modules) ||
		    vm_read_field(c->vm, e, l->code_ranges__n, &n) || n > CODE_RANGES_MAX)
			continue;
		for (uint64_t k = 0; k < n; k += 64) {
			uint64_t here = n - k < 64 ? n - k : 64;

			if (vm_read(c->vm, modules + k * stride, chunk, here * stride))
				break;
			for (uint64_t j = 0; j < here; j++)
				code_at(c, chunk[2 * j]);
		}
	}
}

/* Bases of the JIT's own list: modules and global fragments. */
static void code_by_descriptor(struct code_maps *c)
{
	uint64_t d = c->vm->anchors.v[A_JIT_DESCRIPTOR].addr, entry, prev = 0;

	if (!d || vm_read_u64(c->vm, d + 16, &entry))
		return;
	for (unsigned i = 0; entry && i < JIT_ENTRIES_MAX; i++) {
		uint64_t e[4]; /* next, prev, symfile, size */
		unsigned char head[16];
		uint32_t kind;
		uint64_t base;

		if (vm_read(c->vm, entry, e, sizeof(e)) || e[1] != prev)
			return;
		/* symfile: u32 kind; kind 1 is code: u64 base at +8 */
		if (e[3] >= sizeof(head) && vm_read(c->vm, e[2], head, sizeof(head)) == 0) {
			memcpy(&kind, head, 4);
			memcpy(&base, head + 8, 8);
			if (kind == 1)
				code_at(c, base);
		}
		prev = entry;
		entry = e[0];
	}
}

static bool same_file(const struct mapping *a, const struct mapping *b)
{
	return a->inode == b->inode && a->dev_major == b->dev_major && a->dev_minor == b->dev_minor;
}

static int code_read(struct vm *vm, struct vm_ranges *r)
{
	const struct mappings *m = vm->maps;
	struct code_maps c = { .vm = vm };
	int ret = 0;

	if (!vm->jit)
		return 0;
	c.is = calloc(m->n ? m->n : 1, 1);
	if (!c.is)
		return -ENOMEM;
	code_by_ranges(&c);
	code_by_descriptor(&c);
	for (size_t i = 0; i < m->n && ret == 0; i++) {
		const struct mapping *code = &m->v[i];

		if (!c.is[i])
			continue;
		ret = range_add(r, code->start, code->end, VM_RANGE_CODE);
		/* Its writable twin: another mapping of the same shared file whose
		 * offsets overlap. A private mapping has none. */
		for (size_t k = 0; k < m->n && ret == 0 && code->shared && code->inode; k++) {
			const struct mapping *w = &m->v[k];
			uint64_t from, to;

			if (k == i || c.is[k] || w->exec || !w->shared || !same_file(w, code))
				continue;
			from = w->offset > code->offset ? w->offset : code->offset;
			to = w->offset + (w->end - w->start);
			if (code->offset + (code->end - code->start) < to)
				to = code->offset + (code->end - code->start);
			if (from < to)
				ret = range_add(r, w->start + (from - w->offset),
						w->start + (to - w->offset), VM_RANGE_CODE_ALIAS);
		}
	}
	free(c.is);
	return ret;
}

/* ---- All --------------------------------------------------------------------------- */

static int by_address(const void *a, const void *b)
{
	const struct vm_range *x = a, *y = b;

	if (x->start != y->start)
		return x->start < y->start ? -1 : 1;
	/* The larger one first, so that what lies inside follows it. */
	return x->end > y->end ? -1 : x->end < y->end;
}

int vm_ranges_read(struct vm *vm, struct vm_ranges **out, struct error *err)
{
	struct vm_ranges *r = calloc(1, sizeof(*r));
	int ret = r ? 0 : -ENOMEM;

	*out = NULL;
	if (ret == 0)
		ret = mseg_read(vm, r);
	if (ret == 0)
		ret = mapper_read(vm, A_DEFAULT_MMAPPER, VM_RANGE_SUPER_CARRIER, r);
	if (ret == 0)
		ret = mapper_read(vm, A_LITERAL_MMAPPER, VM_RANGE_LITERAL, r);
	if (ret == 0)
		ret = code_read(vm, r);
	if (ret) {
		vm_ranges_free(r);
		return error_set(err, error_exit_code(ret), ret,
				 "The VM's reserves cannot be read: %s.", strerror(-ret));
	}
	if (r->n > 1)
		qsort(r->v, r->n, sizeof(*r->v), by_address);
	*out = r;
	return 0;
}

void vm_ranges_free(struct vm_ranges *r)
{
	if (!r)
		return;
	free(r->mseg);
	free(r->v);
	free(r);
}
