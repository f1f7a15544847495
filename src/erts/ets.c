/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ETS tables
 *
 * Every scheduler keeps the tables that were made on it in a ring, newest last:
 *
 *   ErtsSchedulerData          DbTable (DbTableCommon first)
 *   | ets_tables.count |       +------------------+ all.next +----
 *   | ets_tables.clist | ----> | all.next, .prev  | <------> | ...
 *                              | type, owner      |          +----
 *                              | the_name         |
 *                              | btid             | --> magic binary --> back to
 *                              | counters [0] [1] |     the table, NULL once
 *                              +------------------+     ets:delete/1 began
 *
 * (erl_db.c: save_sched_table(), remove_sched_table(), tid_clear(); erl_db_util.h:
 * DbTableCommon and the DB_ flags, equal from 23 to 29 but for two new ones.)
 * The owner is written when the table is given away; nothing but that and the
 * counters changes in a living table's head.
 *
 * Counter 0 is the number of items, counter 1 the bytes: ets:info/1 prints both
 * and so do we, which is why a table of ten million rows costs as little as an
 * empty one. They are where they seem to be, or, with decentralized counters
 * (erl_flxctr.c), in an array of cache lines, one for each group of schedulers,
 * whose sums count:
 *
 *   block | ... | block_start, snapshot_status | [0] [1] .. | [0] [1] .. | ...
 *               ^ counters.u.counters_ptr        ^ cache line aligned
 *
 * How many lines there are is a static variable. The size of the block says it,
 * since it is all that ERTS asked for (ERTS_FLXCTR_DECENTRALIZED_COUNTER_ARRAY_SIZE)
 * and an allocator adds less than its smallest block, which is smaller than a
 * line; where an allocator's smallest block is not, the answer is checked
 * against the number of schedulers. While the VM itself sums them up ("snapshot")
 * a new array has begun and the old one's values are not in it yet: looked at
 * again, some milliseconds later.
 *
 * What can be trusted: a table counts when it leads back to its neighbours, its
 * type and protection are one of each, its name is an atom, its owner a pid, and
 * its magic binary points back to it. Rings are followed again when they moved.
 */
#include "erts/ets.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "erts/block.h"
#include "erts/list_guard.h"
#include "erts/process.h"
#include "erts/term.h"

#define TRIES	    5
#define TABLES_MAX  (1u << 22)
#define COMMON_MAX  1024 /* more than sizeof(DbTableCommon) on any release */
#define LINES_MAX   257	 /* ERTS_MAX_FLXCTR_GROUPS and one (erl_flxctr.h) */
#define CACHE_LINE  64
#define SNAPSHOT_US 2000

/* DbTableCommon.type and .status (erl_db_util.h, 23 to 29). */
#define DB_PRIVATE	    (1u << 0)
#define DB_PROTECTED	    (1u << 1)
#define DB_PUBLIC	    (1u << 2)
#define DB_DELETE	    (1u << 3)
#define DB_SET		    (1u << 4)
#define DB_BAG		    (1u << 5)
#define DB_DUPLICATE_BAG    (1u << 6)
#define DB_ORDERED_SET	    (1u << 7)
#define DB_CA_ORDERED_SET   (1u << 8)
#define DB_FINE_LOCKED	    (1u << 9)
#define DB_FREQ_READ	    (1u << 10)
#define DB_NAMED_TABLE	    (1u << 11)
#define DB_FINE_LOCKED_AUTO (1u << 14) /* 25 on */
#define DB_PROTECTIONS	    (DB_PRIVATE | DB_PROTECTED | DB_PUBLIC)
#define DB_TYPES	    (DB_SET | DB_BAG | DB_DUPLICATE_BAG | DB_ORDERED_SET | DB_CA_ORDERED_SET)

struct reading {
	struct vm *vm;
	struct ets_tables *t;
	struct block_format f;
	size_t allocated;
	unsigned lines; /* of decentralized counters, with the one of suspended schedulers */
	uint64_t *ring; /* addresses of one ring */
	size_t n_ring, a_ring;
};

static bool one_bit(uint64_t v)
{
	return v && !(v & (v - 1));
}

/* ---- counters -------------------------------------------------------------- */

/* Lines of the counter array at `array`, by its block; 0 if that is no such
 * array. */
static unsigned lines_of(const struct reading *r, uint64_t array, uint64_t start)
{
	const struct layout *l = r->vm->layout;
	uint64_t fixed = l->size_ErtsFlxCtrDecentralizedCtrArray + CACHE_LINE + r->f.header;
	uint64_t header, size;

	if (!start || start & 7 || array < start || array - start > CACHE_LINE ||
	    vm_read_u64(r->vm, start - r->f.header, &header))
		return 0;
	/* A single block's low bits are all set; a libc chunk keeps its size in
	 * the same place with flags in the same bits (+Mea min). */
	size = (header & BLOCK_SINGLE) == BLOCK_SINGLE ? header & r->f.free_size
						       : header & r->f.used_size;
	if (size < fixed + CACHE_LINE || (size - fixed) / CACHE_LINE > LINES_MAX + 1)
		return 0;
	return (unsigned)((size - fixed) / CACHE_LINE);
}

/* Sums of a decentralized pair. 0; -EAGAIN while a snapshot is being taken or
 * the array is just being replaced. */
static int lines_sum(struct reading *r, uint64_t array, uint64_t *items, uint64_t *bytes)
{
	const struct layout *l = r->vm->layout;
	uint64_t start, status, lines[LINES_MAX * CACHE_LINE / 8];
	unsigned n, i;
	int ret;

	if (l->size_ErtsFlxCtrDecentralizedCtrArrayElem != CACHE_LINE ||
	    !layout_has(l->ErtsFlxCtrDecentralizedCtrArray__array))
		return -ENOENT;
	ret = vm_read_field(r->vm, array, l->ErtsFlxCtrDecentralizedCtrArray__block_start, &start);
	if (!ret)
		ret = vm_read_field(r->vm, array,
				    l->ErtsFlxCtrDecentralizedCtrArray__snapshot_status, &status);
	if (ret)
		return vm_fatal(ret) ? ret : -EAGAIN;
	n = lines_of(r, array, start);
	if (n > r->lines) /* an allocator that gave away more than a line */
		n = r->lines;
	if (!n)
		return -EAGAIN;
	ret = vm_read(r->vm, array + (uint64_t)l->ErtsFlxCtrDecentralizedCtrArray__array.offset,
		      lines, (size_t)n * CACHE_LINE);
	if (ret)
		return vm_fatal(ret) ? ret : -EAGAIN;
	*items = *bytes = 0;
	for (i = 0; i < n; i++) {
		*items += lines[i * (CACHE_LINE / 8)];
		*bytes += lines[i * (CACHE_LINE / 8) + 1];
	}
	return status ? -EAGAIN : 0;
}

/* ---- one table ------------------------------------------------------------- */

static int magic_read(struct reading *r, uint64_t btid, struct ets_table *t)
{
	const struct layout *l = r->vm->layout;
	unsigned char copy[128];
	uint64_t back = 0;
	size_t size = l->size_ErtsMagicBinary;
	int ret;

	if (!layout_has(l->ErtsMagicBinary__refn) || l->ErtsMagicBinary__refn.size != 12 ||
	    !layout_has(l->ErtsMagicBinary__unaligned_data) ||
	    (size_t)l->ErtsMagicBinary__unaligned_data.offset + 8 > sizeof(copy) ||
	    (size_t)l->ErtsMagicBinary__refn.offset + 12 > sizeof(copy))
		return 0;
	if (size < (size_t)l->ErtsMagicBinary__unaligned_data.offset + 8)
		size = (size_t)l->ErtsMagicBinary__unaligned_data.offset + 8;
	if (size > sizeof(copy))
		return 0;
	ret = vm_read(r->vm, btid, copy, size);
	if (ret)
		return vm_fatal(ret) ? ret : -EAGAIN;
	/* erts_binary_to_magic_indirection() */
	memcpy(&back, copy + l->ErtsMagicBinary__unaligned_data.offset, 8);
	if (back && back != t->addr)
		return -EAGAIN;
	t->deleting |= !back;
	memcpy(t->ref, copy + l->ErtsMagicBinary__refn.offset, 12);
	t->ref_known = true;
	return 0;
}

/* Type, protection and such out of the flags that never change and those that
 * do. */
static bool flags_take(struct ets_table *t, uint64_t type, uint64_t status)
{
	/* ets:delete/1 takes the protection away first */
	if (!one_bit(status & DB_TYPES) || (type ^ status) & DB_TYPES ||
	    !(one_bit(status & DB_PROTECTIONS) ||
	      (status & DB_DELETE && !(status & DB_PROTECTIONS))))
		return false;
	t->type = status & DB_SET	      ? ETS_SET
		  : status & DB_BAG	      ? ETS_BAG
		  : status & DB_DUPLICATE_BAG ? ETS_DUPLICATE_BAG
					      : ETS_ORDERED_SET;
	t->protection = status & DB_PRIVATE	? ETS_PRIVATE
			: status & DB_PROTECTED ? ETS_PROTECTED
						: ETS_PUBLIC;
	t->write_concurrency = !(status & DB_FINE_LOCKED)     ? ETS_WRITE_FALSE
			       : status & DB_FINE_LOCKED_AUTO ? ETS_WRITE_AUTO
							      : ETS_WRITE_TRUE;
	t->catree = status & DB_CA_ORDERED_SET;
	t->read_concurrency = status & DB_FREQ_READ;
	t->named = type & DB_NAMED_TABLE;
	t->deleting = status & DB_DELETE;
	return true;
}

/* 0; -EAGAIN when what is there is no table, or not now; or a fatal error. */
static int table_read(struct reading *r, uint64_t addr, struct ets_table *t)
{
	const struct layout *l = r->vm->layout;
	const size_t size = l->size_DbTableCommon;
	unsigned char copy[COMMON_MAX];
	uint64_t type, status, keypos, btid, far, value, counters;
	int ret;

	memset(t, 0, sizeof(*t));
	t->addr = addr;
	ret = vm_read(r->vm, addr, copy, size);
	if (ret)
		return vm_fatal(ret) ? ret : -EAGAIN;
	if (!vm_field(copy, size, l->DbTableCommon__type, &type) ||
	    !vm_field(copy, size, l->DbTableCommon__status, &status) ||
	    !vm_field(copy, size, l->DbTableCommon__owner, &t->owner) ||
	    !vm_field(copy, size, l->DbTableCommon__heir, &t->heir) ||
	    !vm_field(copy, size, l->DbTableCommon__the_name, &t->name) ||
	    !vm_field(copy, size, l->DbTableCommon__btid, &btid) ||
	    !vm_field(copy, size, l->DbTableCommon__keypos, &keypos) ||
	    !vm_field(copy, size, l->DbTableCommon__counters_is_decentralized, &far) ||
	    !vm_field(copy, size, l->DbTableCommon__counters_array, &counters))
		return -ENOENT;
	if (!flags_take(t, type, status) || !term_is_atom(t->name) || !term_is_pid(t->owner) ||
	    !btid || !keypos || keypos > 1u << 24)
		return -EAGAIN;
	t->keypos = (uint32_t)keypos;
	t->heir = term_is_pid(t->heir) ? t->heir : 0;
	t->compressed = vm_field(copy, size, l->DbTableCommon__compress, &value) && value;
	t->fixed = vm_field(copy, size, l->DbTableCommon__fix_count, &value) && value;
	t->decentralized_counters = far != 0;
	ret = magic_read(r, btid, t);
	if (ret)
		return ret;
	if (far) {
		ret = lines_sum(r, counters, &t->items, &t->bytes);
		/* what was read may do, if it does not get better */
		t->approximate = ret == -EAGAIN;
		return ret == -EAGAIN && t->bytes ? 0 : ret;
	}
	t->items = counters;
	memcpy(&t->bytes, copy + l->DbTableCommon__counters_array.offset + 8, 8);
	return 0;
}

/* `known`: it was in a ring that held together, so if it is none it is torn. */
static int table_add(struct reading *r, uint64_t addr, bool known)
{
	struct ets_tables *t = r->t;
	struct ets_table *one;
	int ret = -EAGAIN, i;

	if (t->n == r->allocated) {
		size_t more = r->allocated ? r->allocated * 2 : 256;
		struct ets_table *v = realloc(t->v, more * sizeof(*v));

		if (!v)
			return -ENOMEM;
		t->v = v;
		r->allocated = more;
	}
	one = &t->v[t->n];
	for (i = 0; i < TRIES; i++) {
		ret = table_read(r, addr, one);
		if (vm_fatal(ret) || ret == -ENOENT)
			return ret;
		if (!ret && !one->approximate)
			break;
		if (!known && ret)
			break;
		if (i && !target_is_buffers(r->vm->target))
			nanosleep(&(struct timespec){ .tv_nsec = SNAPSHOT_US * 1000L }, NULL);
	}
	/* Counters are signed and sums may be caught in the middle. */
	if (!ret && ((int64_t)one->items < 0 || (int64_t)one->bytes < 0)) {
		one->approximate = true;
		one->items = (int64_t)one->items < 0 ? 0 : one->items;
		one->bytes = (int64_t)one->bytes < 0 ? 0 : one->bytes;
	}
	if (!ret)
		t->n++;
	else
		t->torn += known;
	return 0;
}

/* ---- rings ----------------------------------------------------------------- */

static int ring_add(struct reading *r, uint64_t addr)
{
	if (r->n_ring == TABLES_MAX)
		return -E2BIG;
	if (r->n_ring == r->a_ring) {
		size_t more = r->a_ring ? r->a_ring * 2 : 256;
		uint64_t *v = realloc(r->ring, more * sizeof(*v));

		if (!v)
			return -ENOMEM;
		r->ring = v;
		r->a_ring = more;
	}
	r->ring[r->n_ring++] = addr;
	return 0;
}

/* Once around the ring from `first`, in one direction or the other. 0 when it
 * closed in order, 1 when not. */
static int ring_follow(struct reading *r, uint64_t first, bool backwards, uint64_t limit)
{
	const struct layout *l = r->vm->layout;
	uint64_t at = first, before = 0, next, prev, steps = 0;
	struct cycle_guard guard = { 0 };
	bool ordered = true;
	int ret;

	do {
		unsigned char copy[COMMON_MAX];
		const size_t size = l->size_DbTableCommon;

		/* A table that left the ring still points into it: from there the way
		 * may go around without ever meeting the first one again. */
		if (!pointer_plausible(at) || cycle_found(&guard, at) || ++steps > limit)
			return 1;
		ret = vm_read(r->vm, at, copy, size);
		if (ret)
			return vm_fatal(ret) ? ret : 1;
		if (!vm_field(copy, size, l->DbTableCommon__all_next, &next) ||
		    !vm_field(copy, size, l->DbTableCommon__all_prev, &prev))
			return -ENOENT;
		if (before && (backwards ? next : prev) != before)
			ordered = false;
		ret = ring_add(r, at);
		if (ret)
			return ret == -E2BIG ? 1 : ret;
		before = at;
		at = backwards ? prev : next;
	} while (at != first);
	return ordered ? 0 : 1;
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

/* The tables of one scheduler, each once. Of a ring that moves all the time what
 * any way around met is looked at: what does not verify has gone. */
static int scheduler_add(struct reading *r, const struct scheduler *s)
{
	const struct layout *l = r->vm->layout;
	uint64_t first = 0, count = 0, last = 0;
	size_t i, start = 0;
	bool closed = false;
	int ret, k;

	r->n_ring = 0;
	for (k = 0; k < TRIES && !closed; k++) {
		start = r->n_ring;
		ret = vm_read_field(r->vm, s->addr, l->ErtsSchedulerData__ets_tables_clist, &first);
		if (!ret && layout_has(l->ErtsSchedulerData__ets_tables_count))
			ret = vm_read_field(r->vm, s->addr, l->ErtsSchedulerData__ets_tables_count,
					    &count);
		if (ret)
			return vm_fatal(ret) ? ret : 0;
		if (!first)
			break;
		ret = ring_follow(r, first, k % 2,
				  count < TABLES_MAX ? 2 * count + 1024 : TABLES_MAX);
		if (ret < 0)
			return ret;
		closed = ret == 0;
	}
	r->t->expected += count;
	if (!first)
		return 0;
	if (!closed) {
		start = 0;
		qsort(r->ring, r->n_ring, sizeof(*r->ring), compare);
	}
	for (i = start; i < r->n_ring; i++) {
		if (!closed && i && r->ring[i] == last)
			continue;
		last = r->ring[i];
		ret = table_add(r, last, closed);
		if (ret)
			return ret;
	}
	return 0;
}

int ets_read(struct vm *vm, struct ets_tables **out, struct error *err)
{
	const struct layout *l = vm->layout;
	struct reading r = { .vm = vm };
	struct scheduler *s = NULL;
	ssize_t n = 0, i;
	int ret = 0;

	*out = NULL;
	if (!layout_has(l->ErtsSchedulerData__ets_tables_clist) || !l->size_DbTableCommon ||
	    l->size_DbTableCommon > COMMON_MAX ||
	    l->DbTableCommon__counters_array.offset + 16 > (int32_t)l->size_DbTableCommon)
		ret = -ENOENT;
	if (!ret) {
		n = schedulers_read(vm, &s);
		ret = n < 0 ? (int)n : 0;
	}
	if (!ret && !(r.t = calloc(1, sizeof(*r.t))))
		ret = -ENOMEM;
	block_format_init(&r.f, l);
	for (i = 0; i < n; i++)
		r.lines += s[i].kind == SCHEDULER_NORMAL;
	r.lines = r.lines + 1 < LINES_MAX ? r.lines + 1 : LINES_MAX;
	for (i = 0; !ret && i < n; i++)
		if (s[i].kind == SCHEDULER_NORMAL)
			ret = scheduler_add(&r, &s[i]);
	free(s);
	free(r.ring);
	if (ret) {
		ets_free(r.t);
		return error_set(err, ret == -ENOENT ? EXIT_UNSUPPORTED : error_exit_code(ret), ret,
				 ret == -ENOENT ? "The ETS tables of this VM could not be found."
						: "The ETS tables could not be read: %s.",
				 strerror(-ret));
	}
	if (!layout_has(l->ErtsSchedulerData__ets_tables_count))
		r.t->expected = UINT64_MAX;
	*out = r.t;
	return 0;
}

void ets_free(struct ets_tables *t)
{
	if (!t)
		return;
	free(t->v);
	free(t);
}

/* ---- words ----------------------------------------------------------------- */

const char *ets_type_name(enum ets_type t)
{
	static const char *const names[] = { "set", "bag", "duplicate_bag", "ordered_set" };

	return names[t];
}

const char *ets_protection_name(enum ets_protection p)
{
	static const char *const names[] = { "private", "protected", "public" };

	return names[p];
}

const char *ets_write_name(enum ets_write w)
{
	static const char *const names[] = { "false", "true", "auto" };

	return names[w];
}

void ets_id(struct vm *vm, const struct ets_table *t, char *buf, size_t size)
{
	if (!size)
		return;
	buf[0] = '\0';
	if (t->named && vm_atom(vm, t->name >> 6, buf, size) >= 0)
		return;
	if (t->ref_known)
		snprintf(buf, size, "#Ref<0.%" PRIu32 ".%" PRIu32 ".%" PRIu32 ">", t->ref[2],
			 t->ref[1], t->ref[0]);
}
