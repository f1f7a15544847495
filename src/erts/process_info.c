/* SPDX-License-Identifier: Apache-2.0 */
/*
 * process_info/2 from outside
 *
 * Most of what process_info says is in the Process itself; some hangs on it:
 *
 *	Process ---+--> sig_qs, sig_inq   messages and signals   process_queue.c
 *	           +--> common.u.alive    links, monitors        process_links.c
 *	           +--> off_heap, mbuf    refc binaries          process_binaries.c
 *	           +--> dictionary, psd, arg_reg
 *
 * `memory` is computed as erts_process_memory() of erl_process_dump.c does, which
 * is the same from 23 to 29:
 *
 *	sizeof(Process), heap, old heap, abandoned heap, heap fragments, messages and
 *	their data, links, monitors, registers saved outside of the Process, the
 *	block of process-specific data, saved calls, the dictionary's array
 *
 * Processes are read in batches: the slots of the table, then all structures of a
 * batch in one call, then what hangs on each through a cache of pages, then the
 * slots again. A process whose slot holds another one by then has ended while it
 * was read, and is left out: what was followed may have been somebody else's.
 * Where a list does not hold together it is walked again; in the end what is
 * there is a lower bound, and marked.
 *
 * Reductions are counted when a process is scheduled out. process_info() adds
 * those of the running time slice only for a process that asks about itself.
 */
#include "erts/process_info.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "erts/process_private.h"
#include "erts/ptab.h"
#include "erts/vm_cache.h"

#define BATCH	    256
#define SLOTS	    8192 /* of the table in one read */
#define CACHE_PAGES 2048 /* 8 MiB */
#define TRIES	    4
#define WORD	    8

uint64_t walk_field(const struct process_walk *w, struct layout_field f)
{
	uint64_t v = 0;

	vm_field(w->copy, w->size, f, &v);
	return v;
}

/* UINT64_MAX where the release has no such field. */
static uint64_t known(const struct process_walk *w, struct layout_field f)
{
	uint64_t v;

	return vm_field(w->copy, w->size, f, &v) ? v : UINT64_MAX;
}

/* erts_process_state2status(), erl_process.c; the same from 23 to 29. */
static const char *status_of(const struct layout *l, uint64_t state)
{
	if (layout_flag(state, l->psflg_exiting))
		return "exiting";
	if (layout_flag(state, l->psflg_gc))
		return "garbage_collecting";
	if (layout_flag(state, l->psflg_suspended))
		return "suspended";
	if (layout_flag(state, l->psflg_running) || layout_flag(state, l->psflg_running_sys) ||
	    layout_flag(state, l->psflg_dirty_running) ||
	    layout_flag(state, l->psflg_dirty_running_sys))
		return "running";
	if (layout_flag(state, l->psflg_active) || layout_flag(state, l->psflg_active_sys) ||
	    layout_flag(state, l->psflg_dirty_active_sys))
		return "runnable";
	return "waiting";
}

static const char *priority_of(const struct layout *l, uint64_t state)
{
	uint64_t p;

	if (!layout_has_const(l->psflgs_usr_prio_offset) || !layout_has_const(l->psflgs_prio_mask))
		return NULL;
	p = state >> l->psflgs_usr_prio_offset & (uint64_t)l->psflgs_prio_mask;
	return p == (uint64_t)l->prio_max    ? "max"
	       : p == (uint64_t)l->prio_high ? "high"
	       : p == (uint64_t)l->prio_low  ? "low"
					     : "normal";
}

/* What stands out about the process's collector, one thing. */
static const char *gc_of(const struct layout *l, uint64_t flags)
{
	const struct {
		int64_t flag;
		const char *word;
	} words[] = {
		{ l->f_disable_gc, "disabled" },	   { l->f_delay_gc, "delayed" },
		{ l->f_dirty_major_gc, "dirty major" },	   { l->f_dirty_minor_gc, "dirty minor" },
		{ l->f_hibernated, "hibernated" },	   { l->f_force_gc, "forced" },
		{ l->f_need_fullsweep, "fullsweep next" }, { l->f_heap_grow, "growing" },
	};
	size_t i;

	for (i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		if (layout_flag(flags, words[i].flag))
			return words[i].word;
	return "";
}

static uint64_t words_between(uint64_t from, uint64_t to)
{
	return from && to >= from && to < 1ull << 47 ? (to - from) / WORD : 0;
}

static void heap_read(struct process_walk *w)
{
	const struct layout *l = w->vm->layout;
	struct process_info *i = w->info;
	uint64_t old_heap = walk_field(w, l->Process__old_heap);
	uint64_t old_hend = walk_field(w, l->Process__old_hend);
	uint64_t max = walk_field(w, l->Process__max_heap_size), abandoned;
	unsigned shift = layout_has_const(l->max_heap_size_include_oh_bins) ? 3 : 2;

	i->heap_size = walk_field(w, l->Process__heap_sz);
	i->mbuf_size = walk_field(w, l->Process__mbuf_sz);
	i->heap_used = words_between(i->p.heap, i->p.htop);
	i->stack_size = words_between(i->p.stop, i->p.hend);
	i->old_heap_size = old_hend ? words_between(old_heap, old_hend) : 0;
	i->old_heap_used = words_between(old_heap, walk_field(w, l->Process__old_htop));
	i->total_heap_size = i->heap_size + i->mbuf_size + i->old_heap_size;
	i->bin_vheap_size = known(w, l->Process__off_heap_overhead);
	i->bin_vheap_block_size = known(w, l->Process__bin_vheap_sz);
	i->bin_old_vheap_size = known(w, l->Process__bin_old_vheap);
	i->bin_old_vheap_block_size = known(w, l->Process__bin_old_vheap_sz);
	i->min_heap_size = known(w, l->Process__min_heap_size);
	i->min_bin_vheap_size = known(w, l->Process__min_vheap_size);
	i->max_heap_size = max >> shift;
	i->max_heap_kill = layout_flag(max, l->max_heap_size_kill);
	i->max_heap_log = layout_flag(max, l->max_heap_size_log);
	i->fullsweep_after = known(w, l->Process__max_gen_gcs);
	i->minor_gcs = known(w, l->Process__gen_gcs);

	i->memory = w->size + WORD * i->total_heap_size;
	abandoned = walk_field(w, l->Process__abandoned_heap);
	if (abandoned)
		i->memory += WORD * words_between(i->p.heap, i->p.hend);
}

/* The dictionary's array, registers and process-specific data. */
static int extras_read(struct process_walk *w)
{
	const struct layout *l = w->vm->layout;
	uint64_t regs = walk_field(w, l->Process__arg_reg), psd = walk_field(w, l->Process__psd);
	uint64_t calls, n;

	w->info->dictionary_entries = 0;
	if (w->info->p.dictionary) {
		if (vm_read_field(w->vm, w->info->p.dictionary, l->ProcDict__arraySize, &n) ||
		    vm_read_field(w->vm, w->info->p.dictionary, l->ProcDict__numElements,
				  &w->info->dictionary_entries) ||
		    !n || n > UINT32_MAX)
			return -EAGAIN;
		w->bytes += l->size_ProcDict + WORD * (n - 1);
	}
	if (regs != w->info->p.addr + (uint64_t)l->Process__def_arg_reg.offset)
		w->bytes += WORD * (walk_field(w, l->Process__arity) & 0xff);
	if (!psd)
		return 0;
	w->bytes += l->size_ErtsPSD;
	if (!layout_has(l->ErtsPSD__data) || !layout_has_const(l->psd_saved_calls_buf))
		return 0;
	if (vm_read_u64(w->vm,
			psd + (uint64_t)l->ErtsPSD__data.offset +
				WORD * (uint64_t)l->psd_saved_calls_buf,
			&calls))
		return -EAGAIN;
	if (calls && l->size_saved_calls) {
		if (vm_read_field(w->vm, calls, l->saved_calls__len, &n) || n > 100000)
			return -EAGAIN;
		w->bytes += l->size_saved_calls + WORD * n - WORD;
	}
	return 0;
}

static void plain_read(struct process_walk *w)
{
	const struct layout *l = w->vm->layout;
	struct process_info *i = w->info;
	uint64_t state = i->p.state, flags = walk_field(w, l->Process__flags);

	i->status = status_of(l, state);
	i->priority = priority_of(l, state);
	i->dirty = layout_flag(state, l->psflg_dirty_running) ||
		   layout_flag(state, l->psflg_dirty_running_sys);
	i->trap_exit = layout_flag(flags, l->f_trap_exit);
	i->off_heap_messages =
		!layout_flag(walk_field(w, l->Process__sig_qs_flags), l->fs_on_heap_msgq);
	i->gc = gc_of(l, flags);
	i->reductions = walk_field(w, l->Process__reds);
	i->group_leader = walk_field(w, l->Process__group_leader);
	i->parent = walk_field(w, l->Process__parent);
	i->instruction = walk_field(w, l->Process__i);
	i->current = walk_field(w, l->Process__current);
}

/* Everything of one process from its copy. 0, -EAGAIN, or what ends the scan. */
static int info_read(struct process_walk *w, unsigned parts)
{
	int ret, first = 0;

	w->bytes = 0;
	w->info->approximate = w->info->undecoded = false;
	plain_read(w);
	heap_read(w);
	/* One that does not hold together leaves the others their chance. */
	if (parts & PROCESS_MESSAGES)
		first = walk_queues(w);
	if (parts & PROCESS_LINKS && (!first || first == -EAGAIN)) {
		ret = walk_links(w);
		first = ret ? ret : first;
	}
	if (parts & PROCESS_BINARIES && (!first || first == -EAGAIN)) {
		ret = walk_binaries(w);
		first = ret ? ret : first;
	}
	if (parts && (!first || first == -EAGAIN)) {
		ret = extras_read(w);
		first = ret ? ret : first;
	}
	w->info->memory += w->bytes;
	return first;
}

struct batch {
	struct vm *vm;
	const struct ptab *table;
	unsigned parts;
	size_t size; /* of a Process */
	size_t n;
	uint64_t slot[BATCH], addr[BATCH], again[BATCH];
	unsigned char *copies;
	struct process_info *info;
	int state[BATCH]; /* 0, -EAGAIN: torn, -ESRCH: gone */
	struct target_piece pieces[BATCH];
};

static void *copy_of(const struct batch *b, size_t k)
{
	return b->copies + k * b->size;
}

static int identify(struct batch *b, size_t k)
{
	int ret = process_decode(b->vm, b->addr[k], copy_of(b, k), b->size, &b->info[k].p);

	if (!ret && ptab_slot(b->vm, b->table, b->info[k].p.pid) != b->slot[k])
		ret = -EAGAIN;
	return ret;
}

static int batch_one(struct batch *b, size_t k)
{
	struct process_walk w = {
		.vm = b->vm, .copy = copy_of(b, k), .size = b->size, .info = &b->info[k]
	};
	int ret = b->pieces[k].ret, i;

	if (ret == -EFAULT)
		ret = -EAGAIN;
	if (!ret)
		ret = identify(b, k);
	if (!ret)
		ret = info_read(&w, b->parts);
	for (i = 1; i < TRIES && ret == -EAGAIN; i++) {
		vm_cache_forget(b->vm->cache);
		ret = vm_read(b->vm, b->addr[k], copy_of(b, k), b->size);
		if (ret == -EFAULT || ret == -ENODATA)
			return -EAGAIN;
		if (!ret)
			ret = identify(b, k);
		if (ret)
			continue;
		ret = info_read(&w, b->parts);
		if (ret == -EAGAIN && i + 1 == TRIES) {
			b->info[k].approximate = true;
			ret = 0;
		}
	}
	return ret == -ENODATA ? -EAGAIN : ret;
}

/* Reads the batch and hands on those who are still there. */
static int batch_run(struct batch *b, int (*fn)(void *ctx, const struct process_info *info),
		     void *ctx, struct process_scan *out)
{
	size_t k;
	int ret;

	for (k = 0; k < b->n; k++)
		b->pieces[k] = (struct target_piece){ .addr = b->addr[k],
						      .buf = copy_of(b, k),
						      .len = b->size };
	memset(b->info, 0, BATCH * sizeof(*b->info));
	vm_cache_forget(b->vm->cache);
	ret = vm_read_pieces(b->vm, b->pieces, b->n);
	for (k = 0; k < b->n && !ret; k++) {
		b->state[k] = batch_one(b, k);
		if (b->state[k] && b->state[k] != -EAGAIN)
			ret = b->state[k];
	}
	for (k = 0; k < b->n && !ret; k++)
		b->pieces[k] = (struct target_piece){ .addr = b->table->tab + WORD * b->slot[k],
						      .buf = &b->again[k],
						      .len = WORD };
	if (!ret)
		ret = vm_read_pieces(b->vm, b->pieces, b->n);
	for (k = 0; k < b->n && !ret; k++) {
		struct process_info *i = &b->info[k];

		if (b->pieces[k].ret || b->again[k] != b->addr[k]) {
			out->gone++;
		} else if (b->state[k]) {
			out->torn++;
		} else {
			out->found++;
			out->approximate += i->approximate;
			out->undecoded += i->undecoded;
			ret = fn(ctx, i);
		}
	}
	b->n = 0;
	return ret;
}

/* Reads `n` slots; those in pages that are not in memory come back empty. */
static int slots_read(struct batch *b, uint64_t first, uint64_t *slots, size_t n,
		      struct process_scan *out)
{
	uint64_t at = b->table->tab + WORD * first;
	size_t i = 0, some;
	int ret = vm_read(b->vm, at, slots, n * WORD);

	while (ret == -ENODATA && i < n) { /* some of it: page by page */
		some = (size_t)(TARGET_PAGE - (at + WORD * i) % TARGET_PAGE) / WORD;
		some = some < n - i ? some : n - i;
		ret = vm_read(b->vm, at + WORD * i, slots + i, some * WORD);
		if (ret && ret != -ENODATA)
			return ret;
		if (ret) {
			memset(slots + i, 0, some * WORD);
			out->absent += some;
		}
		i += some;
		ret = i < n ? -ENODATA : 0;
	}
	return ret;
}

static int scan(struct batch *b, uint64_t *slots,
		int (*fn)(void *ctx, const struct process_info *info), void *ctx,
		struct process_scan *out)
{
	const struct ptab *t = b->table;
	uint64_t first;
	size_t i;
	int ret = 0;

	out->limit = t->max;
	if (vm_read_field(b->vm, b->vm->anchors.v[A_PROC].addr,
			  b->vm->layout->ErtsPTab__vola_tile_count, &out->count))
		out->count = UINT64_MAX;
	for (first = 0; !ret && first < t->max; first += SLOTS) {
		size_t n = t->max - first < SLOTS ? (size_t)(t->max - first) : SLOTS;

		ret = slots_read(b, first, slots, n, out);
		for (i = 0; !ret && i < n; i++) {
			if (!slots[i] || slots[i] == t->invalid)
				continue;
			b->slot[b->n] = first + i;
			b->addr[b->n++] = slots[i];
			if (b->n == BATCH)
				ret = batch_run(b, fn, ctx, out);
		}
	}
	return ret ? ret : batch_run(b, fn, ctx, out);
}

int processes_scan(struct vm *vm, unsigned parts,
		   int (*fn)(void *ctx, const struct process_info *info), void *ctx,
		   struct process_scan *out, struct error *err)
{
	struct vm_cache *before = vm->cache, *cache;
	struct batch *b;
	uint64_t *slots;
	struct ptab t;
	int ret;

	memset(out, 0, sizeof(*out));
	ret = ptab_read(vm, A_PROC, &t);
	if (ret)
		return error_set(err, ret == -ENOENT ? EXIT_UNSUPPORTED : error_exit_code(ret), ret,
				 "The process table of this VM could not be found or read.");
	if (!vm->layout->size_Process || vm->layout->size_Process > PROCESS_COPY_MAX)
		return error_set(err, EXIT_UNSUPPORTED, -ENOTSUP,
				 "The layout of this VM's processes is not known.");
	b = calloc(1, sizeof(*b));
	slots = malloc(SLOTS * sizeof(*slots));
	cache = vm_cache_new(CACHE_PAGES);
	ret = b && slots && cache ? 0 : -ENOMEM;
	if (!ret) {
		b->vm = vm;
		b->table = &t;
		b->parts = parts;
		b->size = vm->layout->size_Process;
		b->copies = malloc(BATCH * b->size);
		b->info = malloc(BATCH * sizeof(*b->info));
		ret = b->copies && b->info ? 0 : -ENOMEM;
	}
	if (!ret) {
		vm->cache = cache;
		ret = scan(b, slots, fn, ctx, out);
		vm->cache = before;
	}
	vm_cache_free(cache);
	free(slots);
	if (b) {
		free(b->copies);
		free(b->info);
	}
	free(b);
	if (ret)
		return error_set(err, error_exit_code(ret), ret,
				 "The process table could not be read: %s.", strerror(-ret));
	return 0;
}

/* ---- shares ------------------------------------------------------------------------ */

struct collecting {
	struct vm *vm;
	struct process_shares *s;
	size_t allocated;
};

static int share_add(void *ctx, const struct process_info *info)
{
	struct collecting *c = ctx;
	struct process_share *one;
	char label[PROCESS_LABEL_MAX];

	if (c->s->n == c->allocated) {
		size_t more = c->allocated ? c->allocated * 2 : 256;
		struct process_share *v = realloc(c->s->v, more * sizeof(*v));

		if (!v)
			return -ENOMEM;
		c->s->v = v;
		c->allocated = more;
	}
	one = &c->s->v[c->s->n];
	process_label(c->vm, &info->p, label, sizeof(label));
	*one = (struct process_share){ .pid = info->p.pid,
				       .memory = info->memory,
				       .binary_bytes = info->binary_bytes,
				       .message_queue_len = info->message_queue_len,
				       .label = strdup(label) };
	if (!one->label)
		return -ENOMEM;
	c->s->n++;
	return 0;
}

static int by_pid(const void *pa, const void *pb)
{
	const struct process_share *a = pa, *b = pb;

	return a->pid < b->pid ? -1 : a->pid > b->pid;
}

int process_shares_read(struct vm *vm, struct process_shares **out, struct error *err)
{
	struct collecting c = { .vm = vm, .s = calloc(1, sizeof(*c.s)) };
	int ret;

	*out = NULL;
	if (!c.s)
		return -ENOMEM;
	ret = processes_scan(vm, PROCESS_ALL, share_add, &c, &c.s->scan, err);
	if (ret) {
		process_shares_free(c.s);
		return ret;
	}
	if (c.s->n)
		qsort(c.s->v, c.s->n, sizeof(*c.s->v), by_pid);
	*out = c.s;
	return 0;
}

void process_shares_free(struct process_shares *s)
{
	size_t i;

	if (!s)
		return;
	for (i = 0; i < s->n; i++)
		free(s->v[i].label);
	free(s->v);
	free(s);
}

const struct process_share *process_share_find(const struct process_shares *s, uint64_t pid)
{
	struct process_share key = { .pid = pid };

	return s->n ? bsearch(&key, s->v, s->n, sizeof(*s->v), by_pid) : NULL;
}
