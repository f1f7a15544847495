/* SPDX-License-Identifier: Apache-2.0 */
/*
 * erlang:memory() from outside, and counts of things.
 *
 * erlang:memory/0 is written in Erlang (erlang.erl, aa_mem_data/1 and
 * au_mem_data/1, the same from 23 to 29) over two sources:
 *
 *	allocators	every block of every alloc_util allocator but test_alloc,
 *			by the allocator the block belongs to, wherever it lies
 *	allocated_areas	sizes that the emulator counts itself (erl_alloc.c,
 *			erts_allocated_areas())
 *
 *	total		all blocks, and the JIT's code (external_alloc, from 24 on)
 *	processes	eheap blocks + the fixed-size types of processes + the
 *			process table; _used takes fixed-size blocks in use only
 *	system		total - processes
 *	atom		the atom table and its text, reserved or used
 *	binary, ets	their blocks; ets and the table of table names
 *	code		module, export and fun tables, code ranges, code
 *
 * Sizes that ERTS keeps in counters nobody exports are computed as it computes
 * them, from the tables: a table's size changes only where the counter does.
 *
 * With an allocator off (+Mea min, +M<S>e false) erlang:memory/0 raises notsup,
 * and here everything is unknown for the same reason.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "erts/freed.h"

#define UNKNOWN	       UINT64_MAX
#define INDEXES_MAX    8
#define SCHEDULERS_MAX 1024

static void because(struct vm_memory *out, const char *why)
{
	if (!out->why[0])
		snprintf(out->why, sizeof(out->why), "%s", why);
}

static unsigned code_indexes(const struct vm *vm)
{
	const struct layout *l = vm->layout;

	return layout_has_const(l->num_code_ix) && l->num_code_ix > 0 &&
			       l->num_code_ix <= INDEXES_MAX
		       ? (unsigned)l->num_code_ix
		       : 3;
}

/* ---- Tables ------------------------------------------------------------------------ */

/* hash_table_sz() and index_table_sz() of hash.c and index.c. */
struct table_size {
	uint64_t hash;	  /* hash_table_sz(): struct, buckets, name */
	uint64_t index;	  /* index_table_sz(): the same and slots */
	uint64_t grown;	  /* of index, what was added since it was made */
	uint64_t entries; /* of an index table */
};

static int table_read(struct vm *vm, uint64_t addr, bool is_index, struct table_size *out)
{
	const struct layout *l = vm->layout;
	unsigned char copy[256];
	size_t size = is_index ? l->size_IndexTable : l->size_Hash;
	uint64_t shift, max_shift, name, slots, first, segs = 0;
	char text[24] = "";

	memset(out, 0, sizeof(*out));
	if (!size || size > sizeof(copy))
		return -ENOENT;
	if (vm_read(vm, addr, copy, size))
		return -EFAULT;
	/* The Hash is the index table's first member. */
	if (!vm_field(copy, size, l->Hash__shift, &shift) ||
	    !vm_field(copy, size, l->Hash__max_shift, &max_shift) ||
	    !vm_field(copy, size, l->Hash__name, &name))
		return -ENOENT;
	if (shift >= 64 || max_shift >= 64 || shift < 24 || max_shift < shift)
		return -EFAULT;
	slots = 1ULL << (64 - shift);
	first = 1ULL << (64 - max_shift);
	/* With its NUL. The longest name there is has 19 bytes; of one that
	 * cannot be read an unknown few are missing. */
	vm_read(vm, name, text, sizeof(text));
	out->hash = l->size_Hash + slots * 8 + strnlen(text, sizeof(text) - 1) + 1;
	if (!is_index)
		return 0;
	if (!vm_field(copy, size, l->IndexTable__size, &segs) ||
	    !vm_field(copy, size, l->IndexTable__entries, &out->entries))
		return -ENOENT;
	out->index = l->size_IndexTable - l->size_Hash + segs * 8 + out->hash;
	out->grown = segs * 8 + (slots - first) * 8;
	return 0;
}

/* Index tables of one name, one a code index: sums, and the most entries. */
static int tables_read(struct vm *vm, enum anchor_id id, struct table_size *sum)
{
	uint64_t addr = vm->anchors.v[id].addr;

	memset(sum, 0, sizeof(*sum));
	if (!addr)
		return -ENOENT;
	for (unsigned i = 0; i < code_indexes(vm); i++) {
		struct table_size t;
		int ret = table_read(vm, addr + i * vm->layout->size_IndexTable, true, &t);

		if (ret)
			return ret;
		sum->index += t.index;
		sum->grown += t.grown;
		if (t.entries > sum->entries)
			sum->entries = t.entries;
	}
	return 0;
}

/* An object that is in all code indexes' tables (export.c up to 27,
 * erl_code_staged.h from 28): the object and an {IndexSlot, pointer} an index. */
static uint64_t staged_bytes(const struct vm *vm, uint64_t object)
{
	return object + code_indexes(vm) * (vm->layout->size_IndexSlot + 8);
}

static int code_size(struct vm *vm, uint64_t *out)
{
	uint64_t addr = vm->anchors.v[A_TOTAL_CODE_SIZE].addr;

	return addr ? vm_read_u64(vm, addr, out) : -ENOENT;
}

/* Allocated entries of the tables of code ranges: mem_used * sizeof(Range). */
static int ranges_size(struct vm *vm, uint64_t *out)
{
	const struct layout *l = vm->layout;
	uint64_t addr = vm->anchors.v[A_RANGES].addr;

	*out = 0;
	if (!addr)
		return -ENOENT;
	for (unsigned i = 0; i < code_indexes(vm); i++) {
		uint64_t n;

		if (vm_read_field(vm, addr + i * l->size_code_ranges, l->code_ranges__allocated,
				  &n))
			return -EFAULT;
		*out += n * l->size_code_range;
	}
	return 0;
}

/* module_table_sz(): deltas of index_table_sz() since the tables were made,
 * and a Module for each entry of each. */
static int modules_size(struct vm *vm, uint64_t *out)
{
	const struct layout *l = vm->layout;
	uint64_t addr = vm->anchors.v[A_MODULE_TABLES].addr;

	*out = 0;
	if (!addr || !l->size_Module)
		return -ENOENT;
	for (unsigned i = 0; i < code_indexes(vm); i++) {
		struct table_size t;
		int ret = table_read(vm, addr + i * l->size_IndexTable, true, &t);

		if (ret)
			return ret;
		*out += t.grown + t.entries * l->size_Module;
	}
	return 0;
}

static void code_memory(struct vm *vm, struct vm_memory *out, uint64_t loaded)
{
	const struct layout *l = vm->layout;
	struct table_size exports, funs;
	uint64_t modules, ranges, fun_bytes = 0;
	bool staged_funs = vm->layout->otp_major >= 28;

	if (loaded == UNKNOWN)
		because(out, "code: erts_total_code_size was not found");
	else if (modules_size(vm, &modules))
		because(out, "code: the module tables were not found");
	else if (tables_read(vm, A_EXPORT_TABLES, &exports) || !l->size_Export)
		because(out, "code: the export tables were not found");
	else if (ranges_size(vm, &ranges))
		because(out, "code: the table of code ranges was not found");
	else if (staged_funs
			 ? tables_read(vm, A_FUN_TABLE, &funs) || !l->size_ErlFunEntry
			 : !vm->anchors.v[A_FUN_TABLE].addr ||
				   table_read(vm, vm->anchors.v[A_FUN_TABLE].addr, false, &funs))
		because(out, "code: the table of funs was not found");
	else {
		/* fun_list exists from 28 on; before, fun entries are not counted. */
		fun_bytes = staged_funs ? funs.index + funs.entries *
							       staged_bytes(vm, l->size_ErlFunEntry)
					: funs.hash;
		out->code = modules + exports.index +
			    exports.entries * staged_bytes(vm, l->size_Export) + ranges +
			    fun_bytes + loaded;
	}
}

static void atom_memory(struct vm *vm, struct vm_memory *out)
{
	uint64_t table = vm->anchors.v[A_ATOM_TABLE].addr, reserved, used;
	struct table_size t;

	if (!table || table_read(vm, table, true, &t)) {
		because(out, "atom: the atom table could not be read");
		return;
	}
	if (!vm->anchors.v[A_ATOM_TEXT_RESERVED].addr ||
	    vm_read_u64(vm, vm->anchors.v[A_ATOM_TEXT_RESERVED].addr, &reserved))
		because(out, "atom: the counter of reserved text was not found");
	else
		out->atom = t.index + reserved;
	if (!vm->anchors.v[A_ATOM_TEXT_USED].addr ||
	    vm_read_u64(vm, vm->anchors.v[A_ATOM_TEXT_USED].addr, &used))
		because(out, "atom_used: the counter of used text was not found");
	else
		out->atom_used = t.index + used;
}

/* ---- Process table ----------------------------------------------------------------- */

/* erts_ptab_mem_size() of erl_ptab.c. */
static uint64_t ptab_bytes(struct vm *vm, enum anchor_id id)
{
	const struct layout *l = vm->layout;
	uint64_t addr = vm->anchors.v[id].addr, max, free_ids;

	if (!addr || vm_read_field(vm, addr, l->ErtsPTab__r_o_max, &max) ||
	    vm_read_field(vm, addr, l->ErtsPTab__r_o_free_id_data, &free_ids) || max > 1U << 27)
		return UNKNOWN;
	return max * 8 + (free_ids ? max * 4 : 0);
}

/* ---- Fixed-size blocks ------------------------------------------------------------- */

/* The types that erlang.erl's get_fix_proc/2 takes for processes. */
static bool is_process_type(const char *name)
{
	static const char *const names[] = { "proc",	  "monitor",	       "link",
					     "msg_ref",	  "ll_ptimer",	       "hl_ptimer",
					     "bif_timer", "accessor_bif_timer" };

	for (size_t i = 0; name && i < sizeof(names) / sizeof(names[0]); i++)
		if (strcmp(name, names[i]) == 0)
			return true;
	return false;
}

/* Adds one fix_alloc instance's process types. */
static int fix_add(struct vm *vm, const struct alloc_instance *in, uint64_t *allocated,
		   uint64_t *used)
{
	struct fix_list v[FIX_TYPES_MAX];
	ssize_t n = fix_lists_read(vm, in, v, FIX_TYPES_MAX);

	for (ssize_t i = 0; i < n; i++) {
		if (!is_process_type(vm->type_names[v[i].type]))
			continue;
		*allocated += v[i].size * v[i].allocated;
		*used += v[i].size * v[i].used;
	}
	return n < 0 ? (int)n : 0;
}

/* ---- erlang:memory() --------------------------------------------------------------- */

static const char *refused(const struct vm *vm, const struct allocators *a)
{
	for (size_t i = 0; i < a->n_types; i++) {
		const struct alloc_type *t = &a->types[i];

		if (!t->name || !strcmp(t->name, "sys_alloc") || !strcmp(t->name, "test_alloc") ||
		    !strcmp(t->name, vm->alloc_names[0]))
			continue;
		if (!t->enabled || !t->alloc_util)
			return t->name;
	}
	return NULL;
}

static void all_unknown(struct vm_memory *out)
{
	out->total = out->processes = out->processes_used = out->system = UNKNOWN;
	out->atom = out->atom_used = out->binary = out->code = out->ets = UNKNOWN;
	out->why[0] = 0;
}

void vm_memory_read(struct vm *vm, const struct allocators *a, struct vm_memory *out)
{
	uint64_t blocks[ALLOC_TYPES] = { 0 }, total = 0, fix_all = 0, fix_used = 0, value;
	uint64_t ptab = ptab_bytes(vm, A_PROC), loaded = UNKNOWN;
	unsigned eheap = 0, binary = 0, ets = 0, test = 0;
	const char *off;
	int fix = 0;

	all_unknown(out);
	off = vm->n_alloc ? refused(vm, a) : "sys_alloc";
	if (off) {
		snprintf(out->why, sizeof(out->why),
			 "%s is off (+Mea, +M<S>e); erlang:memory() itself raises notsup then",
			 off);
		return;
	}
	for (unsigned t = 1; t < vm->n_alloc && t < ALLOC_TYPES; t++) {
		const char *name = vm->alloc_names[t];

		eheap = strcmp(name, "eheap_alloc") ? eheap : t;
		binary = strcmp(name, "binary_alloc") ? binary : t;
		ets = strcmp(name, "ets_alloc") ? ets : t;
		test = strcmp(name, "test_alloc") ? test : t;
	}
	for (size_t i = 0; i < a->n_inst; i++) {
		const struct alloc_instance *in = &a->inst[i];

		/* erts_alloc_util_allocators() hides test_alloc. */
		if (in->type == test)
			continue;
		for (unsigned t = 1; t < ALLOC_TYPES; t++)
			blocks[t] += in->mbcs.blocks_size_of[t] + in->sbcs.blocks_size_of[t] +
				     in->pool.blocks_size_of[t];
		if (in->type < vm->n_alloc && !strcmp(vm->alloc_names[in->type], "fix_alloc") &&
		    !fix)
			fix = fix_add(vm, in, &fix_all, &fix_used);
	}
	for (unsigned t = 1; t < ALLOC_TYPES; t++)
		total += blocks[t];
	if (code_size(vm, &value) == 0)
		loaded = value;

	atom_memory(vm, out);
	code_memory(vm, out, loaded);
	if (a->unreadable) {
		because(out, "not every allocator instance could be read");
		return;
	}
	if (binary)
		out->binary = blocks[binary];
	if (ets && vm->anchors.v[A_ETS_MISC_MEM_SIZE].addr &&
	    vm_read_u64(vm, vm->anchors.v[A_ETS_MISC_MEM_SIZE].addr, &value) == 0)
		out->ets = blocks[ets] + value;
	else
		because(out, "ets: the counter of its other memory was not found");
	if (!eheap || ptab == UNKNOWN || fix) {
		because(out, fix ? "processes: the lists of fixed-size blocks could not be read"
				 : "processes: the process table was not found");
	} else {
		out->processes = blocks[eheap] + ptab + fix_all;
		out->processes_used = blocks[eheap] + ptab + fix_used;
	}
	/* external_alloc: the emulator's code lies in allocators already. */
	if (vm->jit && loaded == UNKNOWN)
		because(out, "total: erts_total_code_size was not found");
	else
		out->total = total + (vm->jit ? loaded : 0);
	if (out->total != UNKNOWN && out->processes != UNKNOWN)
		out->system = out->total - out->processes;
}

/* ---- Counts ------------------------------------------------------------------------ */

/* erts_ptab_count() and erts_ptab_max(): one less than 2^27 at most. */
static void ptab_count(struct vm *vm, enum anchor_id id, uint64_t *count, uint64_t *limit)
{
	const struct layout *l = vm->layout;
	uint64_t addr = vm->anchors.v[id].addr, max, n;

	if (!addr || vm_read_field(vm, addr, l->ErtsPTab__r_o_max, &max) ||
	    vm_read_field(vm, addr, l->ErtsPTab__vola_tile_count, &n))
		return;
	if (max == 1U << 27)
		max--;
	*limit = max;
	*count = (int32_t)n < 0 ? 0 : n > max ? max : n;
}

/* Normal schedulers and the ETS tables that each of them owns. */
static void schedulers_count(struct vm *vm, struct vm_counts *out)
{
	const struct layout *l = vm->layout;
	uint64_t var = vm->anchors.v[A_SCHEDULER_DATA].addr, array, tables = 0;
	uint64_t stride = l->size_ErtsAlignedSchedulerData, n = 0, no, type;
	bool counted = layout_has(l->ErtsSchedulerData__ets_tables_count);

	if (!var || !stride || vm_read_u64(vm, var, &array))
		return;
	for (; n < SCHEDULERS_MAX; n++) {
		uint64_t esd = array + n * stride, own;

		if (vm_read_field(vm, esd, l->ErtsSchedulerData__no, &no) || no != n + 1 ||
		    vm_read_field(vm, esd, l->ErtsSchedulerData__type, &type) || type != 0)
			break;
		if (counted &&
		    vm_read_field(vm, esd, l->ErtsSchedulerData__ets_tables_count, &own) == 0)
			tables += own;
		else
			counted = false;
	}
	if (!n)
		return;
	out->schedulers = n;
	if (counted)
		out->ets_tables = tables;
}

void vm_counts_read(struct vm *vm, struct vm_counts *out)
{
	const struct layout *l = vm->layout;
	uint64_t atoms = vm->anchors.v[A_ATOM_TABLE].addr, value;

	memset(out, 0xff, sizeof(*out));
	if (atoms && vm_read_field(vm, atoms, l->IndexTable__entries, &value) == 0)
		out->atoms = value;
	if (atoms && vm_read_field(vm, atoms, l->IndexTable__limit, &value) == 0)
		out->atom_limit = value;
	ptab_count(vm, A_PROC, &out->processes, &out->process_limit);
	ptab_count(vm, A_PORT, &out->ports, &out->port_limit);
	out->process_table_bytes = ptab_bytes(vm, A_PROC);
	out->port_table_bytes = ptab_bytes(vm, A_PORT);
	schedulers_count(vm, out);
}
