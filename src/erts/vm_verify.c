/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Is this layout right for this process? (ERTS facts, section 1.3)
 *
 * A wrong layout does not crash: it reads plausible nonsense. So a layout is
 * accepted only after it has led, in the live process, to things that a wrong
 * one cannot lead to by chance: names, numbers that count, pointers that come
 * back. Every check says what it saw, for `beamray check`.
 *
 * The target runs meanwhile: a carrier may leave its list between two reads, a
 * process may be in the middle of a garbage collection. Such checks are made on
 * many objects and repeated, and a few misses are no failure; a wrong layout
 * misses nearly all.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "erts/vm_private.h"

#define TRIES	      5
#define SAMPLES	      64
#define INSTANCES_MAX 2048

/* Sizes that symbols claim, where there are symbols with sizes. */
static unsigned check_symbol_sizes(struct vm *vm)
{
	const struct layout *l = vm->layout;
	uint64_t n_alloc = anchor_n_allocators(l);
	const struct {
		const char *name;
		uint64_t size;
	} want[] = {
		{ "erts_invalid_process", l->size_Process },
		{ "erts_proc", l->size_ErtsPTab },
		{ "erts_atom_table", l->size_IndexTable },
		{ "erts_allctrs_info", n_alloc * l->size_ErtsAllocatorInfo_t },
		{ "erts_allctr_thr_spec", n_alloc * l->size_ErtsAllocatorThrSpec_t },
		{ "erts_dflt_mmapper", l->size_ErtsMemMapper },
	};
	unsigned seen = 0, failed = 0;

	for (size_t i = 0; i < sizeof(want) / sizeof(want[0]); i++) {
		struct image_symbol sym;

		if (!want[i].size || !image_symbol(vm->exe, want[i].name, &sym) || !sym.size)
			continue;
		seen++;
		if (sym.size == want[i].size)
			continue;
		failed++;
		vm_check_add(vm, false, want[i].name, "the symbol has %llu bytes, the layout %llu",
			     (unsigned long long)sym.size, (unsigned long long)want[i].size);
	}
	if (seen && !failed)
		vm_check_add(vm, true, "sizes of symbols", "%u of %u equal the layout's", seen,
			     seen);
	return failed;
}

/* ---- Allocators -------------------------------------------------------------------- */

struct instances {
	unsigned found, named, lists, good_lists;
};

/* The head of a carrier list leads back to the instance: its Carrier_t.allctr,
 * less the flags in its low bits, is the instance, and nothing precedes it. */
static bool carrier_leads_back(const struct anchor_search *s, uint64_t allctr,
			       struct layout_field list, bool *empty)
{
	const struct layout *l = s->l;

	for (int try = 0; try < TRIES; try++) {
		uint64_t head, back, prev;

		if (!anchor_u64(s, allctr + (uint64_t)list.offset, &head))
			continue;
		*empty = !head;
		if (!head)
			return true;
		if (anchor_pointer(s, head) &&
		    anchor_u64(s, head + (uint64_t)l->Carrier_t__allctr.offset, &back) &&
		    anchor_u64(s, head + (uint64_t)l->Carrier_t__prev.offset, &prev) &&
		    (back & ~7ULL) == allctr && !prev)
			return true;
	}
	return false;
}

static void check_instance(struct vm *vm, const struct anchor_search *s, uint64_t allctr,
			   unsigned type, struct instances *n)
{
	const struct layout *l = s->l;
	const char *prefix = NULL, *name = vm->alloc_names[type];
	uint64_t str = 0;
	uint32_t no = 0;

	n->found++;
	if (anchor_read(s, allctr + (uint64_t)l->Allctr_t__alloc_no.offset, &no, 4) && no == type &&
	    anchor_u64(s, allctr + (uint64_t)l->Allctr_t__name_prefix.offset, &str))
		prefix = image_copy_string(s->copy, str);
	/* "binary_" of "binary_alloc" */
	if (!prefix || strlen(prefix) < 2 || strncmp(prefix, name, strlen(prefix)) != 0)
		return;
	n->named++;
	if (!layout_has(l->Carrier_t__allctr) || !layout_has(l->Carrier_t__prev))
		return;
	for (int i = 0; i < 2; i++) {
		struct layout_field list = i ? l->Allctr_t__sbc_list_first
					     : l->Allctr_t__mbc_list_first;
		bool empty = true,
		     good = layout_has(list) && carrier_leads_back(s, allctr, list, &empty);

		if (empty && good)
			continue;
		n->lists++;
		n->good_lists += good;
	}
}

static unsigned check_allocators(struct vm *vm, const struct anchor_search *s)
{
	const struct layout *l = s->l;
	uint64_t info = vm->anchors.v[A_ALLCTRS_INFO].addr;
	uint64_t specs = vm->anchors.v[A_ALLCTR_THR_SPEC].addr;
	struct instances n = { 0 };
	unsigned failed = 0;

	if (!info || vm->n_alloc < 2) {
		vm_check_add(vm, false, "allocators", "%s",
			     !info ? "erts_allctrs_info was not found" : "they have no names");
		return 1;
	}
	if (!specs || !anchor_is_allctrs_info(s, info, specs)) {
		vm_check_add(vm, false, "allocators",
			     "erts_allctrs_info and erts_allctr_thr_spec do not fit together");
		return 1;
	}
	for (unsigned a = 1; a < vm->n_alloc; a++) {
		uint64_t e = info + a * l->size_ErtsAllocatorInfo_t;
		uint64_t t = specs + a * l->size_ErtsAllocatorThrSpec_t;
		uint64_t util, spec, extra, size = 0, array = 0;

		if (!anchor_field(s, e, l->ErtsAllocatorInfo_t__alloc_util, &util) || !util ||
		    !anchor_field(s, e, l->ErtsAllocatorInfo_t__thr_spec, &spec) ||
		    !anchor_field(s, e, l->ErtsAllocatorInfo_t__extra, &extra))
			continue;
		if (!spec) {
			check_instance(vm, s, extra, a, &n);
			continue;
		}
		anchor_field(s, t, l->ErtsAllocatorThrSpec_t__size, &size);
		anchor_field(s, t, l->ErtsAllocatorThrSpec_t__allctr, &array);
		for (uint64_t i = 0; i < size && i < INSTANCES_MAX; i++) {
			uint64_t allctr;

			if (anchor_u64(s, array + 8 * i, &allctr) && anchor_pointer(s, allctr))
				check_instance(vm, s, allctr, a, &n);
		}
	}
	failed += !vm_check_add(vm, n.found && n.named == n.found, "allocator instances",
				"%u of %u have their number and name", n.named, n.found);
	/* One in eight may be on the move. */
	failed += !vm_check_add(vm, n.lists && n.good_lists >= n.lists - n.lists / 8,
				"carrier lists", "%u of %u lead back to their allocator",
				n.good_lists, n.lists);
	return failed;
}

/* ---- Tables ------------------------------------------------------------------------ */

static unsigned check_atoms(struct vm *vm, const struct anchor_search *s)
{
	uint64_t table = vm->anchors.v[A_ATOM_TABLE].addr, entries = 0;
	bool ok = table && anchor_is_atom_table(s, table);

	if (ok)
		anchor_field(s, table, s->l->IndexTable__entries, &entries);
	return !vm_check_add(vm, ok, "atoms", "%s",
			     ok ? "atom 0 is false, atom 1 is true"
				: "no table with false and true");
}

static unsigned check_ptabs(struct vm *vm, const struct anchor_search *s)
{
	const struct layout *l = s->l;
	uint64_t size = 0;
	unsigned failed = 0;
	bool ok;

	ok = vm->anchors.v[A_PROC].addr && anchor_is_ptab(s, vm->anchors.v[A_PROC].addr, &size) &&
	     size == l->size_Process;
	failed += !vm_check_add(vm, ok, "size of a process",
				"%llu bytes in the VM's table, %u in the layout",
				(unsigned long long)size, l->size_Process);
	size = 0;
	ok = vm->anchors.v[A_PORT].addr && anchor_is_ptab(s, vm->anchors.v[A_PORT].addr, &size) &&
	     anchor_is_port_size(l, size);
	failed += !vm_check_add(vm, ok, "size of a port",
				"%llu bytes with its queue and lock, %u of them in the layout",
				(unsigned long long)size, l->size_Port);
	return failed;
}

/* heap <= stop <= hend, and heap_sz words between heap and hend. */
static bool process_holds(const struct anchor_search *s, uint64_t proc)
{
	const struct layout *l = s->l;

	for (int try = 0; try < TRIES; try++) {
		uint64_t heap, stop, htop, hend, words;

		if (anchor_u64(s, proc + (uint64_t)l->Process__heap.offset, &heap) &&
		    anchor_u64(s, proc + (uint64_t)l->Process__stop.offset, &stop) &&
		    anchor_u64(s, proc + (uint64_t)l->Process__htop.offset, &htop) &&
		    anchor_u64(s, proc + (uint64_t)l->Process__hend.offset, &hend) &&
		    anchor_u64(s, proc + (uint64_t)l->Process__heap_sz.offset, &words) && heap &&
		    heap <= htop && htop <= stop && stop <= hend && (hend - heap) / 8 == words)
			return true;
	}
	return false;
}

static unsigned check_processes(struct vm *vm, const struct anchor_search *s)
{
	const struct layout *l = s->l;
	uint64_t ptab = vm->anchors.v[A_PROC].addr, tab, max, invalid, step;
	unsigned seen = 0, good = 0;
	uint64_t slots[512];

	if (!ptab || !layout_has(l->Process__heap) || !layout_has(l->Process__heap_sz) ||
	    !anchor_field(s, ptab, l->ErtsPTab__r_o_tab, &tab) ||
	    !anchor_field(s, ptab, l->ErtsPTab__r_o_max, &max) ||
	    !anchor_field(s, ptab, l->ErtsPTab__r_o_invalid_element, &invalid)) {
		vm_check_add(vm, false, "processes", "no table of processes");
		return 1;
	}
	/* Slots fill in cache-line order: the table is looked at in up to 64
	 * windows across its length, until enough were seen. */
	step = max / 64 < 512 ? 512 : max / 64;
	for (uint64_t at = 0; at < max && seen < SAMPLES; at += step) {
		uint64_t n = max - at < 512 ? max - at : 512;

		if (!anchor_read(s, tab + 8 * at, slots, 8 * n))
			break;
		for (uint64_t i = 0; i < n && seen < SAMPLES; i++) {
			if (!slots[i] || slots[i] == invalid || !anchor_pointer(s, slots[i]))
				continue;
			seen++;
			good += process_holds(s, slots[i]);
		}
	}
	return !vm_check_add(vm, seen && good >= seen - seen / 8, "processes",
			     "%u of %u sampled have heap <= stop <= end", good, seen);
}

static unsigned check_schedulers(struct vm *vm)
{
	bool ok = vm->anchors.v[A_SCHEDULER_DATA].addr;

	return !vm_check_add(vm, ok, "schedulers", "%s",
			     ok ? "scheduler 1's data names a thread" : "no scheduler data found");
}

static unsigned check_jit(struct vm *vm)
{
	bool found = vm->anchors.v[A_JIT_DESCRIPTOR].addr;

	if (!vm->jit)
		return 0;
	/* OTP 24 may describe its code otherwise: not a reason to refuse. */
	vm_check_add(vm, true, "JIT", "%s",
		     found ? "the debug descriptor leads to its code"
			   : "no debug descriptor found");
	return 0;
}

unsigned vm_verify(struct vm *vm, const struct anchor_search *s)
{
	unsigned failed = 0;

	if (s->mode != ANCHORS_SIGNATURES)
		failed += check_symbol_sizes(vm);
	failed += check_allocators(vm, s);
	failed += check_atoms(vm, s);
	failed += check_ptabs(vm, s);
	failed += check_processes(vm, s);
	failed += check_schedulers(vm);
	failed += check_jit(vm);
	return failed;
}
