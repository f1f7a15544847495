/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The layout tables and the DWARF reader.
 *
 * The tables are generated, so what is tested is that they were generated from this list, that they
 * have what every release has, and that they agree with sizes that were read in live VMs. The reader
 * is tested on small programs compiled here, in every form that a compiler may choose, and damaged.
 */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <elfutils/libdw.h>
#include <errno.h>
#include <fcntl.h>
#include <gelf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "erts/layout.h"
#include "erts/layout_dwarf.h"

/* ---- tables -------------------------------------------------------------------------------- */

static void test_tables_present(void **state)
{
	static const struct {
		int major;
		const char *flavor;
	} wanted[] = {
		{ 23, "emu" }, { 23, "hipe" }, { 25, "jit" }, { 25, "emu" },
		{ 27, "jit" }, { 27, "emu" },  { 29, "jit" }, { 29, "emu" },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++) {
		const struct layout *l = layout_find(wanted[i].major, wanted[i].flavor);

		assert_non_null(l);
		assert_int_equal(l->otp_major, wanted[i].major);
		assert_int_equal(atoi(l->otp), wanted[i].major);
		assert_string_equal(l->flavor, wanted[i].flavor);
		assert_string_equal(l->arch, "x86_64");
		assert_true(strlen(l->erts_vsn) > 0);
		assert_true(strlen(l->source) > 0);
	}
	assert_int_equal(layout_count(), sizeof(wanted) / sizeof(wanted[0]));
	assert_null(layout_at(layout_count()));
	assert_null(layout_find(22, NULL));
	assert_null(layout_find(27, "hipe"));
	/* Without a flavour: what the release is normally built with. */
	assert_string_equal(layout_find(23, NULL)->flavor, "emu");
	assert_string_equal(layout_find(25, NULL)->flavor, "jit");
	assert_string_equal(layout_find(29, NULL)->flavor, "jit");
}

/* A table from another list would say "offset 0" of every field added since. */
static void test_tables_fresh(void **state)
{
	(void)state;
	for (size_t i = 0; i < layout_count(); i++) {
		if (layout_at(i)->list_id != layout_list_id())
			fail_msg("the table of OTP %s, %s, is stale: run tools/otp-layout/generate.sh",
				 layout_at(i)->otp, layout_at(i)->flavor);
	}
}

/* Every field lies inside its type; a type that is absent has no fields. */
static void test_tables_consistent(void **state)
{
	(void)state;
	for (size_t i = 0; i < layout_count(); i++) {
		const struct layout *l = layout_at(i);
		const struct layout_item *item;
		const struct layout_item *type = NULL;
		struct layout_field type_field = LAYOUT_NO_FIELD;

		for (size_t j = 0; (item = layout_item(j)) != NULL; j++) {
			struct layout_field field = layout_item_field(l, item);

			switch (item->kind) {
			case LAYOUT_KIND_TYPE:
				type = item;
				type_field = field;
				break;
			case LAYOUT_KIND_FIELD:
				assert_non_null(type);
				if (!type)
					break; /* for those who do not know that assert ends */
				assert_string_equal(item->type, type->type);
				if (!layout_has(field)) {
					assert_int_equal(field.offset, -1);
					assert_int_equal(field.size, 0);
				} else if ((uint64_t)field.offset + field.size > type_field.size) {
					fail_msg("OTP %s: %s lies outside of its type", l->otp,
						 item->name);
				}
				break;
			case LAYOUT_KIND_LENGTH:
				assert_non_null(type);
				if (!type)
					break;
				assert_string_equal(item->type, type->type);
				assert_true(layout_has(type_field) ||
					    !layout_has_const(layout_item_const(l, item)));
				break;
			case LAYOUT_KIND_CONST:
				break;
			}
		}
		assert_null(layout_item(layout_item_count()));
	}
}

/* Nothing on the list is there in vain: each entry exists in some release. */
static void test_list_without_dead_entries(void **state)
{
	const struct layout_item *item;

	(void)state;
	for (size_t j = 0; (item = layout_item(j)) != NULL; j++) {
		bool found = false;

		for (size_t i = 0; i < layout_count() && !found; i++) {
			const struct layout *l = layout_at(i);

			found = layout_has(layout_item_field(l, item)) ||
				layout_has_const(layout_item_const(l, item));
		}
		if (!found)
			fail_msg("%s (\"%s\") exists in no release", item->name, item->paths);
	}
}

/* What the reader of every release relies on. */
static void test_tables_mandatory(void **state)
{
#define FIELD(f)                               \
	{                                      \
#f, offsetof(struct layout, f) \
	}
	static const struct {
		const char *name;
		size_t member;
	} fields[] = {
		FIELD(ErtsRunQueue__len),
		FIELD(ErtsRunQueueInfo__len),
		FIELD(ErtsSchedulerSleepInfo__flags),
		FIELD(ErtsDistExternal__heap_size),
		FIELD(saved_calls__len),
		FIELD(persistent_table__mask),
		FIELD(persistent_table__term),
		FIELD(ErtsLiteralArea__end),
		FIELD(ErtsLiteralArea__start),
		FIELD(Module__curr_code_length),
		FIELD(BeamCodeHeader__literal_area),
		FIELD(ErtsPTab__vola_tile_count),
		FIELD(ErtsAllocatorInfo_t__alloc_util),
		FIELD(ErtsAllocatorInfo_t__extra),
		FIELD(ErtsAllocatorThrSpec_t__size),
		FIELD(ErtsAllocatorThrSpec_t__allctr),
		FIELD(Allctr_t__name_prefix),
		FIELD(Allctr_t__alloc_no),
		FIELD(Allctr_t__ix),
		FIELD(Allctr_t__atags),
		FIELD(Allctr_t__mbc_list_first),
		FIELD(Allctr_t__sbc_list_first),
		FIELD(Allctr_t__cpool_sentinel),
		FIELD(Allctr_t__cpool_dc_list_first),
		FIELD(Allctr_t__cpool_stat_blocks_size),
		FIELD(Allctr_t__cpool_stat_no_blocks),
		FIELD(Allctr_t__cpool_stat_carriers_size),
		FIELD(Allctr_t__mbc_header_size),
		FIELD(Allctr_t__fix),
		FIELD(Allctr_t__mbcs),
		FIELD(Allctr_t__sbcs),
		FIELD(Carrier_t__chdr),
		FIELD(Carrier_t__next),
		FIELD(Carrier_t__prev),
		FIELD(Carrier_t__allctr),
		FIELD(Carrier_t__cpool_next),
		FIELD(Carrier_t__cpool_prev),
		FIELD(Carrier_t__cpool_orig_allctr),
		FIELD(Carrier_t__cpool_blocks),
		FIELD(Carrier_t__cpool_blocks_size),
		FIELD(Block_t__bhdr),
		FIELD(Block_t__u_carrier),
		FIELD(CarriersStats_t__carriers),
		FIELD(CarriersStats_t__blocks),
		FIELD(BlockStats_t__curr),
		FIELD(BlockStats_t__max),
		FIELD(StatValues_t__no),
		FIELD(StatValues_t__size),
		FIELD(ErtsAlcFixList_t__type_size),
		FIELD(ErtsAlcFixList_t__type),
		FIELD(ErtsMsegAllctr_t__cache_size),
		FIELD(ErtsMsegAllctr_t__cache),
		FIELD(ErtsMsegAllctr_t__cache_powered_node),
		FIELD(ErtsMsegAllctr_t__segments_current_sz),
		FIELD(cache_t__size),
		FIELD(cache_t__seg),
		FIELD(cache_t__next),
		FIELD(ErtsMemMapper__sa_bot),
		FIELD(ErtsMemMapper__sua_top),
		FIELD(ErtsMemMapper__size_supercarrier_used_total),
		FIELD(ErtsFreeSegDesc__start),
		FIELD(ErtsPTab__r_o_tab),
		FIELD(ErtsPTab__r_o_max),
		FIELD(ErtsPTab__r_o_pix_mask),
		FIELD(ErtsPTab__r_o_invalid_element),
		FIELD(ErtsPTab__r_o_element_size),
		FIELD(ErtsPTab__vola_tile_count),
		FIELD(Process__common_id),
		FIELD(Process__common_u_alive_reg),
		FIELD(Process__htop),
		FIELD(Process__stop),
		FIELD(Process__heap),
		FIELD(Process__hend),
		FIELD(Process__old_heap),
		FIELD(Process__old_htop),
		FIELD(Process__old_hend),
		FIELD(Process__i),
		FIELD(Process__reds),
		FIELD(Process__flags),
		FIELD(Process__state),
		FIELD(Process__current),
		FIELD(Process__dictionary),
		FIELD(Process__mbuf),
		FIELD(Process__off_heap_first),
		FIELD(Process__sig_qs_first),
		FIELD(Process__sig_inq_first),
		FIELD(Process__u_initial_module),
		FIELD(ErtsNonMsgSignal__tag),
		FIELD(ErtsMessage__next),
		FIELD(ErtsMessage__m),
		FIELD(ErlHeapFragment__alloc_size),
		FIELD(ProcDict__arraySize),
		FIELD(Port__common_id),
		FIELD(Port__name),
		FIELD(Port__drv_ptr),
		FIELD(Port__state),
		FIELD(Port__bytes_in),
		FIELD(erts_driver_t__name),
		FIELD(DE_Handle__full_path),
		FIELD(RegProc__name),
		FIELD(ErtsSchedulerData__no),
		FIELD(ErtsSchedulerData__tid),
		FIELD(ErtsSchedulerData__type),
		FIELD(ErtsSchedulerData__current_process),
		FIELD(ErtsSchedulerData__run_queue),
		FIELD(ErtsSchedulerData__ets_tables_clist),
		FIELD(IndexTable__htable),
		FIELD(IndexTable__entries),
		FIELD(IndexTable__seg_table),
		FIELD(Hash__name),
		FIELD(Atom__len),
		FIELD(Atom__name),
		FIELD(Module__curr_code_hdr),
		FIELD(Module__curr_nif),
		FIELD(Export__info_mfa),
		FIELD(BeamCodeHeader__functions),
		FIELD(BeamCodeHeader__literal_area),
		FIELD(code_ranges__modules),
		FIELD(code_range__end),
		FIELD(Binary__intern_flags),
		FIELD(Binary__orig_size),
		FIELD(ErtsMagicBinary__destructor),
		FIELD(ErlNifEnv__mod_nif),
		FIELD(ErlNifEnv__heap_frag),
		FIELD(erl_module_nif__entry),
		FIELD(ErlNifEntry__funcs),
		FIELD(ErlNifFunc__fptr),
		FIELD(ErtsResource__type),
		FIELD(ErlNifResourceType__owner),
		FIELD(ErlNifResourceType__module),
		FIELD(DbTable__common_the_name),
		FIELD(DbTable__common_counters),
		FIELD(DbTableCommon__all_next),
		FIELD(DbTableCommon__owner),
		FIELD(DbTableCommon__status),
		FIELD(ErtsFlxCtr__is_decentralized),
		FIELD(ErtsFlxCtrDecentralizedCtrArray__array),
		FIELD(ErtsLiteralArea__start),
	};
#undef FIELD

	(void)state;
	for (size_t i = 0; i < layout_count(); i++) {
		for (size_t j = 0; j < sizeof(fields) / sizeof(fields[0]); j++) {
			struct layout_field field;

			memcpy(&field, (const char *)layout_at(i) + fields[j].member,
			       sizeof(field));
			if (!layout_has(field))
				fail_msg("OTP %s, %s: no %s", layout_at(i)->otp,
					 layout_at(i)->flavor, fields[j].name);
		}
	}
}

/* Sizes of symbols and elements, as read in live VMs of Debian's builds. */
static void test_tables_known_sizes(void **state)
{
	static const struct {
		int major;
		uint32_t process;
		uint32_t binary;
		int64_t superaligned_bits;
	} known[] = {
		{ 23, 736, 32, 18 },
		{ 25, 776, 32, 14 },
		{ 27, 760, 40, 14 },
		{ 29, 768, 40, 14 },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
		const struct layout *l = layout_find(known[i].major, NULL);

		assert_non_null(l);
		assert_int_equal(l->size_Process, known[i].process);
		assert_int_equal(l->superaligned_bits, known[i].superaligned_bits);
		/* orig_bytes[1] and padding are behind orig_size. */
		assert_int_equal(l->size_Binary, known[i].binary);
		assert_int_equal(l->size_ErtsPTab, 320);
		assert_int_equal(l->size_IndexTable, 128);
		assert_int_equal(l->size_ErtsMemMapper, 280);
		assert_int_equal(l->size_ErtsAllocatorInfo_t, 24);
		assert_int_equal(l->size_ErtsAllocatorThrSpec_t, 24);
	}
}

static void test_tables_constants(void **state)
{
	(void)state;
	for (size_t i = 0; i < layout_count(); i++) {
		const struct layout *l = layout_at(i);

		assert_int_equal(l->alc_a_min, 1);
		assert_int_equal(l->pool_blocks_len, l->alc_a_max - l->alc_a_min + 1);
		assert_int_equal(l->carrier_blocks_len, l->pool_blocks_len);
		assert_int_equal(l->carriers_stats_blocks_len, l->pool_blocks_len);
		assert_int_equal(l->CarriersStats_t__blocks.size,
				 (uint64_t)l->carriers_stats_blocks_len * l->size_BlockStats_t);
		assert_true(l->crr_alloc_mseg < l->carriers_stats_carriers_len);
		assert_true(l->crr_alloc_sys < l->carriers_stats_carriers_len);
		assert_true(l->alc_n_max >= l->alc_n_min);
		assert_int_equal(l->fix_types,
				 l->alc_n_max_fixed_size - l->alc_n_min_fixed_size + 1);
		assert_int_equal(l->ErtsMsegAllctr_t__cache_powered_node.size,
				 (uint64_t)l->mseg_cache_buckets * l->size_cache_t);
		/* The pieces of a used block's header neither overlap nor leave a hole. */
		assert_int_equal(l->mbc_ablk_sz_mask & l->mbc_ablk_offset_mask, 0);
		assert_int_equal(l->mbc_ablk_sz_mask | l->mbc_ablk_offset_mask | l->blk_flg_mask,
				 -1);
		assert_int_equal((uint64_t)l->atag_blk_hdr_flg, UINT64_C(1) << 63);
		assert_int_equal(l->bin_flag_magic, 1);
		assert_int_equal(l->tag_immed2_size, 6);
		assert_int_equal(l->tag_primary_immed1, 3);
		assert_true(layout_has_const(l->psflg_running));
		assert_true(layout_has_const(l->db_ordered_set));
		assert_true(layout_has_const(l->f_trap_exit));
		assert_true(layout_flag(l->db_private | l->db_bag, l->db_bag));
		assert_false(layout_flag(l->db_private, l->db_bag));
		assert_false(layout_flag(UINT64_MAX, LAYOUT_NO_CONST));
	}
}

struct difference {
	size_t count;
	bool process;
};

static void difference_count(const struct layout_item *item, const struct layout *a,
			     const struct layout *b, void *ctx)
{
	struct difference *difference = ctx;

	(void)a;
	(void)b;
	difference->count++;
	if (strcmp(item->name, "size_Process") == 0)
		difference->process = true;
}

static void test_compare(void **state)
{
	struct difference difference = { 0 };
	size_t count;

	(void)state;
	assert_int_equal(layout_compare(layout_at(0), layout_at(0), difference_count, &difference),
			 0);
	assert_int_equal(difference.count, 0);
	count = layout_compare(layout_find(25, "jit"), layout_find(27, "jit"), difference_count,
			       &difference);
	assert_true(count > 0);
	assert_int_equal(difference.count, count);
	assert_true(difference.process);
	assert_int_equal(layout_compare(layout_find(25, "jit"), layout_find(27, "jit"), NULL, NULL),
			 count);
}

/* ---- the reader ---------------------------------------------------------------------------- */

/* Two units, as a VM has them: one that defines, one that only declares, plus a stranger. */
static const char vm_unit[] =
	"struct proc_dict { unsigned sizeMask, usedSlots, arraySize, splitPosition;\n"
	"	unsigned long numElements; unsigned long data[1]; };\n"
	"enum binary_flags { BIN_FLAG_MAGIC = 1 << 0, BIN_FLAG_DRV = 1 << 1 };\n"
	"typedef struct Allctr_t_ Allctr_t;\n"
	"typedef struct { unsigned long counter; } ethr_atomic;\n"
	"typedef struct {\n"
	"	struct { Allctr_t *first, *last; } mbc_list;\n"
	"	struct { struct { ethr_atomic blocks_size[12]; ethr_atomic no_blocks[12]; } stat;\n"
	"	} cpool;\n"
	"} pools;\n"
	"struct Allctr_t_ {\n"
	"	char pad[24];\n"
	"	struct { Allctr_t *first, *last; } mbc_list;\n"
	"	struct { struct { ethr_atomic blocks_size[12]; const volatile ethr_atomic no_blocks[12];\n"
	"	} stat; } cpool;\n"
	"	unsigned ix : 8, ramv : 3, atags : 5;\n"
	"};\n"
	"typedef struct process Process;\n"
	"struct process {\n"
	"	union { struct { unsigned long id; } common; long other; };\n"
	"	struct { long hidden; union { unsigned long *htop; long alias; }; };\n"
	"	struct { struct { int first; int last; } slots[3]; } sig_qs[2];\n"
	"	Process *next;\n"
	"};\n"
	"struct literal_area { long off_heap; long *end; long start[]; };\n"
	"typedef struct literal_area ErtsLiteralArea_;\n"
	"struct ranges { int not_the_one; };\n"
	"Allctr_t allctr; Process process; struct proc_dict dict; ErtsLiteralArea_ *area;\n"
	"enum binary_flags flags; struct ranges r1; pools p;\n";

static const char other_unit[] =
	"typedef struct process Process;\n"
	"typedef struct Allctr_t_ Allctr_t;\n"
	"struct ranges { void *modules; long n; long allocated; long mid; };\n"
	"struct ranges r; extern Process *p; Allctr_t *a; Process *get(void) { return p; }\n";

static const char stranger[] = "struct nothing { int of; } interest;\n";

struct fixture {
	char dir[64];
};

static void write_file(const char *dir, const char *name, const char *text)
{
	char path[128];
	FILE *file;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	file = fopen(path, "w");
	assert_non_null(file);
	assert_true(fputs(text, file) >= 0);
	assert_int_equal(fclose(file), 0);
}

static int setup(void **state)
{
	struct fixture *fixture = calloc(1, sizeof(*fixture));

	if (!fixture)
		return -1;
	strcpy(fixture->dir, "/tmp/beamray-test-layout-XXXXXX");
	if (!mkdtemp(fixture->dir))
		return -1;
	write_file(fixture->dir, "vm.c", vm_unit);
	write_file(fixture->dir, "beam_ranges.c", other_unit);
	write_file(fixture->dir, "stranger.c", stranger);
	*state = fixture;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *fixture = *state;
	char command[128];

	snprintf(command, sizeof(command), "rm -rf '%s'", fixture->dir);
	(void)!system(command);
	free(fixture);
	return 0;
}

/* Compiles the sources into a shared object; false if the compiler knows none of the flags. */
static bool compile(const struct fixture *fixture, const char *flags, const char *sources)
{
	const char *cc = getenv("CC");
	char command[512];
	int status;

	snprintf(command, sizeof(command),
		 "cd '%s' && %s -w -g -shared -fPIC -nostdlib %s -o object.so %s 2>/dev/null",
		 fixture->dir, cc && *cc ? cc : "cc", flags, sources);
	status = system(command);
	return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

struct problems {
	size_t count;
	bool no_binary;	      /* type Binary is missing */
	bool no_current;      /* field Process.current is missing */
	bool bits;	      /* Allctr_t.ramv is a bit-field */
	bool ranges_doubtful; /* several types of that name */
};

static void problem_count(const struct layout_item *item, enum layout_problem problem, void *ctx)
{
	struct problems *problems = ctx;

	problems->count++;
	if (problem == LAYOUT_PROBLEM_TYPE_MISSING && strcmp(item->name, "size_Binary") == 0)
		problems->no_binary = true;
	if (problem == LAYOUT_PROBLEM_FIELD_MISSING && strcmp(item->name, "Process__current") == 0)
		problems->no_current = true;
	if (problem == LAYOUT_PROBLEM_FIELD_BITS && strcmp(item->name, "Allctr_t__ramv") == 0)
		problems->bits = true;
	if (problem == LAYOUT_PROBLEM_TYPE_AMBIGUOUS && strcmp(item->name, "size_code_ranges") == 0)
		problems->ranges_doubtful = true;
}

static int read_object(const struct fixture *fixture, const struct layout *base, struct layout *out,
		       struct problems *problems)
{
	char path[128];
	Dwarf *dw;
	int err;
	int fd;

	snprintf(path, sizeof(path), "%s/object.so", fixture->dir);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	dw = dwarf_begin(fd, DWARF_C_READ);
	assert_non_null(dw);
	err = layout_from_dwarf(dw, base, out, problems ? problem_count : NULL, problems);
	dwarf_end(dw);
	close(fd);
	return err;
}

static void check_field(struct layout_field field, int32_t offset, uint32_t size)
{
	assert_int_equal(field.offset, offset);
	assert_int_equal(field.size, size);
}

static void check_object(const struct fixture *fixture)
{
	const struct layout *base = layout_find(27, "jit");
	struct problems problems = { 0 };
	struct layout l;

	assert_int_equal(read_object(fixture, NULL, &l, &problems), 0);
	assert_int_equal(l.list_id, layout_list_id());
	assert_string_equal(l.flavor, "");

	/* Nested structs, arrays, qualifiers, atomics. */
	check_field(l.Allctr_t__mbc_list_first, 24, 8);
	check_field(l.Allctr_t__mbc_list_last, 32, 8);
	check_field(l.Allctr_t__cpool_stat_no_blocks, 136, 96);
	assert_int_equal(l.pool_blocks_len, 12);
	/* Bit-fields: one that is a byte, one that is not. */
	check_field(l.Allctr_t__ix, 232, 1);
	check_field(l.Allctr_t__ramv, -1, 0);
	assert_true(problems.bits);
	/* Unnamed structs and unions. */
	check_field(l.Process__common_id, 0, 8);
	check_field(l.Process__htop, 16, 8);
	check_field(l.Process__next, 72, 8);
	assert_int_equal(l.size_Process, 80);
	/* Of "first" and "last" in slots[3] of sig_qs[2] nothing is called sig_qs.first. */
	check_field(l.Process__sig_qs_first, -1, 0);
	/* A flexible array: there, without a size. */
	check_field(l.ErtsLiteralArea__start, 16, 0);
	assert_int_equal(l.size_ErtsLiteralArea, 16);
	/* Enumerators. */
	assert_int_equal(l.bin_flag_magic, 1);
	assert_int_equal(l.bin_flag_drv, 2);
	/* A name that is taken twice, told apart by its file. */
	assert_int_equal(l.size_code_ranges, 32);
	check_field(l.code_ranges__mid, 24, 8);
	assert_false(problems.ranges_doubtful);
	/* What is not there is said to be absent, and told. */
	assert_int_equal(l.size_Binary, 0);
	check_field(l.Binary__orig_size, -1, 0);
	check_field(l.Process__current, -1, 0);
	assert_true(problems.no_binary);
	assert_true(problems.no_current);
	assert_int_equal(l.superaligned_bits, LAYOUT_NO_CONST);

	/* With a base: types and macros that debug information lacks come from it, fields do not. */
	assert_int_equal(read_object(fixture, base, &l, NULL), 0);
	assert_int_equal(l.otp_major, 27);
	assert_string_equal(l.flavor, "jit");
	assert_int_equal(l.size_Process, 80);
	check_field(l.Process__current, -1, 0);
	assert_int_equal(l.size_Binary, base->size_Binary);
	check_field(l.Binary__orig_size, base->Binary__orig_size.offset, 8);
	assert_int_equal(l.superaligned_bits, base->superaligned_bits);
}

static void test_dwarf_forms(void **state)
{
	static const char *const flags[] = {
		"-gdwarf-4",
		"-gdwarf-5",
		"-gdwarf-4 -O2",
		"-gdwarf-5 -O2",
		"-gdwarf-4 -fdebug-types-section",
		"-gdwarf-5 -fdebug-types-section",
	};
	const struct fixture *fixture = *state;
	size_t compiled = 0;

	for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]); i++) {
		/* The order of units must not matter. */
		if (compile(fixture, flags[i], "vm.c beam_ranges.c stranger.c")) {
			check_object(fixture);
			compiled++;
		}
		if (compile(fixture, flags[i], "stranger.c beam_ranges.c vm.c"))
			check_object(fixture);
	}
	if (!compiled)
		skip();
}

static void test_dwarf_without_vm(void **state)
{
	const struct fixture *fixture = *state;
	struct layout l;

	if (!compile(fixture, "", "stranger.c"))
		skip();
	assert_int_equal(read_object(fixture, NULL, &l, NULL), -ENOENT);
	/* A base does not turn a stranger into a VM. */
	assert_int_equal(read_object(fixture, layout_find(27, "jit"), &l, NULL), -ENOENT);
}

/* Where the debug sections lie in the file. */
static size_t debug_extents(const char *image, size_t size, size_t extents[][2], size_t max)
{
	Elf *elf = elf_memory((char *)image, size);
	Elf_Scn *section = NULL;
	size_t count = 0;
	size_t names;

	assert_non_null(elf);
	assert_int_equal(elf_getshdrstrndx(elf, &names), 0);
	while ((section = elf_nextscn(elf, section)) != NULL && count < max) {
		GElf_Shdr header;
		const char *name;

		assert_non_null(gelf_getshdr(section, &header));
		name = elf_strptr(elf, names, header.sh_name);
		if (!name || strncmp(name, ".debug_", 7) != 0 || !header.sh_size)
			continue;
		extents[count][0] = header.sh_offset;
		extents[count][1] = header.sh_size;
		count++;
	}
	elf_end(elf);
	return count;
}

/*
 * Damaged debug information: any answer will do, a crash or a hang will not. Each try is a process
 * of its own, so that a failure names the seed.
 */
static void test_dwarf_damaged(void **state)
{
	const struct fixture *fixture = *state;
	size_t extents[16][2];
	size_t extents_count;
	struct stat status;
	char path[128];
	char *image;
	int fd;

	if (!compile(fixture, "-gdwarf-5", "vm.c beam_ranges.c stranger.c"))
		skip();
	elf_version(EV_CURRENT);
	snprintf(path, sizeof(path), "%s/object.so", fixture->dir);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(fstat(fd, &status), 0);
	image = malloc((size_t)status.st_size);
	assert_non_null(image);
	assert_int_equal(read(fd, image, (size_t)status.st_size), status.st_size);
	close(fd);
	extents_count = debug_extents(image, (size_t)status.st_size, extents, 16);
	assert_true(extents_count > 0);

	for (unsigned seed = 1; seed <= 400; seed++) {
		pid_t child = fork();
		int result;

		assert_true(child >= 0);
		if (child == 0) {
			struct layout l;
			unsigned random = seed * 2654435761u;
			Elf *elf;
			Dwarf *dw;

			alarm(10);
			for (unsigned i = 0; i < 1 + seed % 8; i++) {
				size_t *extent;

				random = random * 1103515245u + 12345u;
				if (!extents_count)
					break; /* asserted above */
				extent = extents[(random >> 16) % extents_count];
				random = random * 1103515245u + 12345u;
				size_t at = extent[0] + (random >> 8) % (extent[1] ? extent[1] : 1);
				random = random * 1103515245u + 12345u;
				image[at] = (char)(random >> 16);
			}
			elf = elf_memory(image, (size_t)status.st_size);
			dw = elf ? dwarf_begin_elf(elf, DWARF_C_READ, NULL) : NULL;
			if (dw) {
				layout_from_dwarf(dw, NULL, &l, NULL, NULL);
				dwarf_end(dw);
			}
			_exit(0);
		}
		assert_int_equal(waitpid(child, &result, 0), child);
		if (!WIFEXITED(result))
			fail_msg("seed %u: signal %d", seed, WTERMSIG(result));
	}
	free(image);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_tables_present),
		cmocka_unit_test(test_tables_fresh),
		cmocka_unit_test(test_tables_consistent),
		cmocka_unit_test(test_list_without_dead_entries),
		cmocka_unit_test(test_tables_mandatory),
		cmocka_unit_test(test_tables_known_sizes),
		cmocka_unit_test(test_tables_constants),
		cmocka_unit_test(test_compare),
		cmocka_unit_test_setup_teardown(test_dwarf_forms, setup, teardown),
		cmocka_unit_test_setup_teardown(test_dwarf_without_vm, setup, teardown),
		cmocka_unit_test_setup_teardown(test_dwarf_damaged, setup, teardown),
	};

	return cmocka_run_group_tests_name("layout", tests, NULL, NULL);
}
