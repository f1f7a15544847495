/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who holds which binary
 *
 * A binary above 64 bytes lives in binary_alloc, once, with a count of references.
 * Nothing in it says where these are; they are found from the other end:
 *
 *   process   off_heap.first, wrt_bins (binaries being appended to, 25 on), mbuf's
 *             fragments: what process_info(P, binary) lists (erl_bif_info.c,
 *             ERTS_PI_IX_BINARY; in 25 it forgets wrt_bins)
 *   messages  the data of a message that is not in the heap yet: fragments that
 *             hang on it, or the one it carries within (erl_message.h)
 *   table     each row's off-heap list
 *   port      vectors of the driver's queue: a driver binary is a Binary from
 *             orig_size on (erl_binary.h, ErlDrvBinary)
 *
 * so a reference is a pair {binary, holder}; sorted by binary they tell who shares
 * one, and the difference to Binary.intern.refc how many are elsewhere.
 *
 * Sub-binaries do not count: they refer to a ProcBin or BinRef of the same heap,
 * which is in the list once. Magic references are in the list, as references, and
 * are no binaries here, as for process_info.
 *
 * A leak of binaries mostly is no leak but a process that is not collected: its
 * heap holds a few words for each binary, so it grows slowly while megabytes hang
 * on it. ERTS counts against that: off_heap.overhead (words since the last
 * collection) above bin_vheap_sz forces one. What is older than one collection
 * counts in bin_old_vheap, which only a full collection looks at, and that comes
 * after max_gen_gcs minor ones. All these figures are read with the holder.
 *
 * What can be trusted: lists are followed under bounds; a process whose lists do
 * not hold together, or whose first element is another one afterwards, is read
 * again. A Binary counts when its header is sane; what was given back meanwhile is
 * counted as gone.
 */
#include "erts/binary.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "erts/list_guard.h"
#include "erts/messages.h"
#include "erts/off_heap.h"
#include "erts/ets_rows.h"
#include "erts/port.h"
#include "erts/process_info.h"
#include "erts/vm_cache.h"

#define CACHE_PAGES  1024 /* 4 MiB, for lists and rows */
#define REFS_MAX     (4ull << 20)
#define TRIES	     4
#define COPY_MAX     4096
#define MESSAGES_MAX (1u << 23) /* of one process: beyond, it is called approximate */
#define VECTORS_MAX  65536u
#define SIZE_MAX_    (1ull << 40) /* bytes of a binary */

struct reading {
	struct vm *vm;
	struct binaries *b;
	struct binaries_opts opts;
	size_t a_holders, a_refs;
	uint64_t messages; /* of the process under way */
};

/* Without these fields nothing can be said either. */
static bool is_fatal(int ret)
{
	return vm_fatal(ret) || ret == -ENOENT;
}

/* ---- collecting ------------------------------------------------------------ */

static int ref_add(void *ctx, uint64_t binary)
{
	struct reading *r = ctx;
	struct binaries *b = r->b;

	if (b->n_refs >= r->opts.refs_max) {
		b->left_out++;
		return 0;
	}
	if (b->n_refs == r->a_refs) {
		size_t more = r->a_refs ? r->a_refs * 2 : 4096;
		struct binary_ref *v = realloc(b->refs, more * sizeof(*v));

		if (!v)
			return -ENOMEM;
		b->refs = v;
		r->a_refs = more;
	}
	b->refs[b->n_refs++] = (struct binary_ref){ binary, (uint32_t)b->n_holders };
	return 0;
}

static int holder_room(struct reading *r)
{
	struct binaries *b = r->b;

	if (b->n_holders == r->a_holders) {
		size_t more = r->a_holders ? r->a_holders * 2 : 256;
		struct binary_holder *v = realloc(b->holders, more * sizeof(*v));

		if (!v)
			return -ENOMEM;
		b->holders = v;
		r->a_holders = more;
	}
	return b->n_holders < UINT32_MAX ? 0 : -ENOMEM;
}

/* The holder whose references begin at `first`: kept if it has any. */
static void holder_keep(struct reading *r, size_t first, struct binary_holder h)
{
	if (h.kind != HOLDER_PROCESS)
		h.overhead = h.vheap_size = h.old_vheap = h.old_vheap_size = h.minor_gcs =
			h.fullsweep_after = h.heap_words = UINT64_MAX;
	if (r->b->n_refs > first || h.approximate)
		r->b->holders[r->b->n_holders++] = h;
}

/* ---- processes ------------------------------------------------------------- */

static uint64_t field(const void *copy, size_t size, struct layout_field f)
{
	uint64_t v;

	return vm_field(copy, size, f, &v) ? v : UINT64_MAX;
}

static uint64_t address(const void *copy, size_t size, struct layout_field f)
{
	uint64_t v;

	return vm_field(copy, size, f, &v) ? v : 0;
}

static int heap_lists(struct reading *r, const void *copy, size_t size)
{
	const struct layout *l = r->vm->layout;
	int ret = off_heap_walk(r->vm, address(copy, size, l->Process__off_heap_first), false,
				ref_add, r);

	if (!ret)
		ret = off_heap_walk(r->vm, address(copy, size, l->Process__wrt_bins), false,
				    ref_add, r);
	return ret ? ret
		   : off_heap_fragments(r->vm, address(copy, size, l->Process__mbuf), ref_add, r);
}

static int message_found(void *ctx, const struct message *m)
{
	struct reading *r = ctx;

	if (++r->messages > MESSAGES_MAX)
		return -EAGAIN;
	/* one that came from another node and is not decoded holds no binaries yet */
	return m->fragment && m->tag ? off_heap_fragments(r->vm, m->fragment, ref_add, r) : 0;
}

static int message_lists(struct reading *r, const void *copy)
{
	int ret;

	r->messages = 0;
	ret = messages_walk(r->vm, copy, message_found, r);
	return ret && !is_fatal(ret) ? -EAGAIN : ret;
}

static void figures_take(const struct layout *l, const void *copy, size_t size,
			 struct binary_holder *h)
{
	uint64_t heap = field(copy, size, l->Process__heap_sz),
		 old = address(copy, size, l->Process__old_heap),
		 old_end = address(copy, size, l->Process__old_hend);

	h->overhead = field(copy, size, l->Process__off_heap_overhead);
	h->vheap_size = field(copy, size, l->Process__bin_vheap_sz);
	h->old_vheap = field(copy, size, l->Process__bin_old_vheap);
	h->old_vheap_size = field(copy, size, l->Process__bin_old_vheap_sz);
	h->minor_gcs = field(copy, size, l->Process__gen_gcs);
	h->fullsweep_after = field(copy, size, l->Process__max_gen_gcs);
	h->heap_words = heap != UINT64_MAX && old_end >= old ? heap + (old_end - old) / 8
							     : UINT64_MAX;
}

/* One of the two lists of a process, whose Process is in `copy`: tries until it
 * holds together and its first elements are still what they were. */
static int process_lists(struct reading *r, uint64_t addr, uint64_t pid, const void *as_found,
			 enum binary_holder_kind kind)
{
	const struct layout *l = r->vm->layout;
	const size_t size = l->size_Process, first = r->b->n_refs;
	unsigned char copy[COPY_MAX], again[COPY_MAX];
	struct binary_holder h = { .kind = kind, .id = pid, .addr = addr };
	const uint64_t left_out = r->b->left_out;
	int ret = holder_room(r), i;

	memcpy(copy, as_found, size);
	for (i = 0; i < TRIES && !is_fatal(ret); i++) {
		r->b->n_refs = first;
		r->b->left_out = left_out;
		if (i) {
			vm_cache_forget(r->vm->cache);
			ret = vm_read(r->vm, addr, copy, size);
			if (ret)
				return is_fatal(ret) ? ret : 0;
		}
		if (field(copy, size, l->Process__common_id) != pid)
			return 0; /* gone */
		ret = kind == HOLDER_PROCESS ? heap_lists(r, copy, size) : message_lists(r, copy);
		if (ret)
			continue;
		ret = target_read(r->vm->target, addr, again, size); /* not from the cache */
		if (ret)
			continue;
		if (field(again, size, l->Process__off_heap_first) ==
			    field(copy, size, l->Process__off_heap_first) &&
		    field(again, size, l->Process__heap) == field(copy, size, l->Process__heap) &&
		    field(again, size, l->Process__common_id) == pid)
			break;
		ret = -EAGAIN;
	}
	if (is_fatal(ret))
		return ret;
	if (field(copy, size, l->Process__common_id) != pid)
		return 0;
	h.approximate = ret != 0;
	figures_take(l, copy, size, &h);
	holder_keep(r, first, h);
	return 0;
}

/* Most processes hold nothing: one look at their Process says so. */
static int process_found(void *ctx, const struct process_info *info)
{
	struct reading *r = ctx;
	const struct layout *l = r->vm->layout;
	const size_t size = l->size_Process;
	unsigned char copy[COPY_MAX];
	int ret = size <= sizeof(copy) ? vm_read(r->vm, info->p.addr, copy, size) : -ENOENT;

	r->b->processes++;
	if (ret)
		return is_fatal(ret) ? ret : 0;
	if (address(copy, size, l->Process__off_heap_first) ||
	    address(copy, size, l->Process__wrt_bins) || address(copy, size, l->Process__mbuf))
		ret = process_lists(r, info->p.addr, info->p.pid, copy, HOLDER_PROCESS);
	if (!ret && r->opts.messages &&
	    (address(copy, size, l->Process__sig_qs_first) ||
	     address(copy, size, l->Process__sig_qs_cont) ||
	     address(copy, size, l->Process__sig_inq_first) ||
	     address(copy, size, l->Process__sig_inq_buffers)))
		ret = process_lists(r, info->p.addr, info->p.pid, copy, HOLDER_MESSAGES);
	return ret;
}

static int processes_add(struct reading *r, struct error *err)
{
	struct process_scan scan;
	int ret = processes_scan(r->vm, 0, process_found, r, &scan, err);

	r->b->torn = scan.torn;
	return ret;
}

/* ---- ports ----------------------------------------------------------------- */

static int port_queue(struct reading *r, const struct port *p)
{
	const struct layout *l = r->vm->layout;
	const size_t first = r->b->n_refs;
	struct binary_holder h = {
		.kind = HOLDER_PORT, .id = p->id, .addr = p->addr, .owner = p->connected
	};
	uint64_t head, tail, v[512], i;
	int ret = vm_read_field(r->vm, p->addr, l->Port__ioq_b_head, &head);

	if (!ret)
		ret = vm_read_field(r->vm, p->addr, l->Port__ioq_b_tail, &tail);
	if (ret || !layout_has(l->Binary__orig_size))
		return is_fatal(ret) && ret != -ENOENT ? ret : 0;
	if (!pointer_plausible(head) || tail < head || (tail - head) / 8 > VECTORS_MAX)
		return 0;
	ret = holder_room(r);
	while (head < tail && !ret) {
		size_t n = (tail - head) / 8 < 512 ? (size_t)(tail - head) / 8 : 512;

		ret = vm_read(r->vm, head, v, n * 8);
		for (i = 0; i < n && !ret; i++)
			if (pointer_plausible(v[i]))
				ret = ref_add(r, v[i] - (uint64_t)l->Binary__orig_size.offset);
		head += n * 8;
	}
	if (is_fatal(ret))
		return ret;
	h.approximate = ret != 0;
	holder_keep(r, first, h);
	return 0;
}

static int ports_add(struct reading *r)
{
	struct ports *p;
	size_t i;
	int ret = ports_read(r->vm, &p, NULL);

	if (ret) /* processes alone are worth having */
		return ret == -ENOENT || !is_fatal(ret) ? 0 : ret;
	for (i = 0; i < p->n && !ret; i++)
		if (p->v[i].queue_size)
			ret = port_queue(r, &p->v[i]);
	ports_free(p);
	return ret;
}

/* ---- tables ---------------------------------------------------------------- */

struct table_job {
	struct reading *r;
	bool packed;
};

static int row_add(void *ctx, uint64_t row, uint64_t off_heap)
{
	struct table_job *j = ctx;

	(void)row;
	return off_heap ? off_heap_walk(j->r->vm, off_heap, j->packed, ref_add, j->r) : 0;
}

static int by_items(const void *a, const void *b)
{
	const struct ets_table *x = *(const struct ets_table *const *)a,
			       *y = *(const struct ets_table *const *)b;

	return x->items < y->items ? -1 : x->items > y->items;
}

static int table_add(struct reading *r, const struct ets_table *t)
{
	struct binary_holder h = {
		.kind = HOLDER_ETS, .id = t->name, .addr = t->addr, .owner = t->owner
	};
	struct table_job j = { .r = r, .packed = t->compressed };
	const size_t first = r->b->n_refs;
	const uint64_t before = r->b->rows, left_out = r->b->left_out;
	int ret = holder_room(r), i;

	for (i = 0; i < TRIES && !is_fatal(ret); i++) {
		r->b->n_refs = first;
		r->b->left_out = left_out;
		r->b->rows = before;
		vm_cache_forget(r->vm->cache);
		ret = ets_rows_walk(r->vm, t, r->opts.rows_max - before, &r->b->rows, row_add, &j);
		if (!ret || ret == -E2BIG)
			break;
	}
	if (ret == -E2BIG || ret == -ENOENT) {
		r->b->tables_left++;
		r->b->rows_left += t->items - (r->b->rows - before);
		ret = 0;
	}
	if (is_fatal(ret))
		return ret;
	h.approximate = ret != 0;
	holder_keep(r, first, h);
	return 0;
}

static int tables_add(struct reading *r)
{
	const struct ets_tables *t = r->opts.tables;
	struct ets_tables *own = NULL;
	const struct ets_table **order;
	size_t i;
	int ret = t ? 0 : ets_read(r->vm, &own, NULL);

	if (ret)
		return ret == -ENOENT || !is_fatal(ret) ? 0 : ret;
	t = t ? t : own;
	order = calloc(t->n ? t->n : 1, sizeof(const struct ets_table *));
	ret = order ? 0 : -ENOMEM;
	for (i = 0; i < t->n && order; i++)
		order[i] = &t->v[i];
	if (order && t->n)
		qsort(order, t->n, sizeof(const struct ets_table *), by_items);
	for (i = 0; i < t->n && !ret; i++) {
		if (order[i]->items <= r->opts.rows_max - r->b->rows) {
			ret = table_add(r, order[i]);
		} else {
			r->b->tables_left++;
			r->b->rows_left += order[i]->items;
		}
	}
	free(order);
	ets_free(own);
	return ret;
}

/* ---- the binaries themselves ----------------------------------------------- */

static int by_binary(const void *a, const void *b)
{
	const struct binary_ref *x = a, *y = b;

	if (x->binary != y->binary)
		return x->binary < y->binary ? -1 : 1;
	return x->holder < y->holder ? -1 : x->holder > y->holder;
}

/* Header of the Binary at `addr`; *lo, *hi, buf: the piece of its page that was read
 * last, for neighbours. False when there is none (any more). */
static bool binary_read(struct reading *r, uint64_t addr, struct refc_binary *out,
			unsigned char *buf, uint64_t *lo, uint64_t *hi, int *ret)
{
	const struct layout *l = r->vm->layout;
	const size_t need = (size_t)l->Binary__orig_size.offset + 8;
	uint64_t flags, end;

	*ret = 0;
	if (addr < *lo || addr + need > *hi) {
		end = (addr + need + TARGET_PAGE - 1) & ~(TARGET_PAGE - 1);
		*ret = vm_read(r->vm, addr, buf, (size_t)(end - addr));
		*lo = *ret ? 0 : addr;
		*hi = *ret ? 0 : end;
		if (*ret)
			return false;
	}
	buf += addr - *lo;
	out->addr = addr;
	return vm_field(buf, need, l->Binary__intern_flags, &flags) &&
	       vm_field(buf, need, l->Binary__intern_refc, &out->refc) &&
	       vm_field(buf, need, l->Binary__orig_size, &out->bytes) && !(flags >> 8) &&
	       !layout_flag(flags, l->bin_flag_magic) && out->refc && out->refc < 1ull << 40 &&
	       out->bytes <= SIZE_MAX_;
}

/* Sorted references become binaries; those of binaries that are gone are dropped. */
static int binaries_make(struct reading *r)
{
	struct binaries *b = r->b;
	unsigned char buf[2 * TARGET_PAGE];
	uint64_t lo = 0, hi = 0;
	size_t i, end, kept = 0, n = 0;
	int ret;

	if (!layout_has(r->vm->layout->Binary__orig_size) ||
	    r->vm->layout->Binary__orig_size.offset > 128)
		return -ENOENT;
	if (b->n_refs)
		qsort(b->refs, b->n_refs, sizeof(*b->refs), by_binary);
	for (i = 0; i < b->n_refs; i++)
		n += !i || b->refs[i].binary != b->refs[i - 1].binary;
	b->v = calloc(n ? n : 1, sizeof(*b->v));
	if (!b->v)
		return -ENOMEM;
	for (i = 0; i < b->n_refs; i = end) {
		struct refc_binary *one = &b->v[b->n];

		for (end = i; end < b->n_refs && b->refs[end].binary == b->refs[i].binary;)
			end++;
		if (!binary_read(r, b->refs[i].binary, one, buf, &lo, &hi, &ret)) {
			if (ret && is_fatal(ret))
				return ret;
			b->gone += end - i;
			continue;
		}
		one->first = (uint32_t)kept;
		one->refs = (uint32_t)(end - i);
		b->bytes += one->bytes;
		b->n++;
		memmove(b->refs + kept, b->refs + i, (end - i) * sizeof(*b->refs));
		kept += end - i;
	}
	b->n_refs = kept;
	return 0;
}

static void holders_sum(struct binaries *b)
{
	size_t i, k;

	for (i = 0; i < b->n; i++) {
		const struct refc_binary *one = &b->v[i];
		const struct binary_ref *ref = b->refs + one->first;
		bool alone = one->refc <= one->refs && ref[0].holder == ref[one->refs - 1].holder;

		for (k = 0; k < one->refs; k++) {
			struct binary_holder *h = &b->holders[ref[k].holder];

			h->refs++;
			h->bytes += one->bytes;
			if (k && ref[k].holder == ref[k - 1].holder)
				continue;
			h->binaries++;
			h->distinct_bytes += one->bytes;
			if (alone)
				h->alone_bytes += one->bytes;
		}
	}
}

int binaries_read(struct vm *vm, const struct binaries_opts *opts, struct binaries **out,
		  struct error *err)
{
	struct reading r = { .vm = vm, .opts = opts ? *opts : (struct binaries_opts){ 0 } };
	struct vm_cache *cache = NULL;
	int ret;

	*out = NULL;
	if (!r.opts.refs_max || r.opts.refs_max > UINT32_MAX)
		r.opts.refs_max = REFS_MAX;
	r.b = calloc(1, sizeof(*r.b));
	ret = r.b ? processes_add(&r, err) : -ENOMEM;
	if (!ret && !vm->cache) {
		cache = vm_cache_new(CACHE_PAGES);
		vm->cache = cache;
	}
	if (!ret && r.opts.ports)
		ret = ports_add(&r);
	if (!ret && r.opts.rows_max)
		ret = tables_add(&r);
	if (cache) {
		vm->cache = NULL;
		vm_cache_free(cache);
	}
	if (!ret)
		ret = binaries_make(&r);
	if (ret) {
		binaries_free(r.b);
		return error_set(err, ret == -ENOENT ? EXIT_UNSUPPORTED : error_exit_code(ret), ret,
				 "The binaries of this VM could not be read: %s.", strerror(-ret));
	}
	holders_sum(r.b);
	*out = r.b;
	return 0;
}

void binaries_free(struct binaries *b)
{
	if (!b)
		return;
	free(b->holders);
	free(b->v);
	free(b->refs);
	free(b);
}

const struct refc_binary *binaries_find(const struct binaries *b, uint64_t addr)
{
	size_t low = 0, high = b->n;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (b->v[mid].addr <= addr)
			low = mid + 1;
		else
			high = mid;
	}
	/* header and data: no more than two words above orig_size, and padding */
	return low && addr - b->v[low - 1].addr < b->v[low - 1].bytes + 32 ? &b->v[low - 1] : NULL;
}

void binary_holder_label(struct vm *vm, const struct binary_holder *h, char *buf, size_t size)
{
	if (!size)
		return;
	buf[0] = '\0';
	if (h->kind == HOLDER_PORT)
		port_text(vm, h->id, buf, size);
	else if (h->kind == HOLDER_ETS)
		vm_atom(vm, h->id >> 6, buf, size);
	else
		process_pid_label(vm, h->id, buf, size);
}
