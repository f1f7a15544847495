/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The VM's global variables, found in a live process.
 *
 * Three sources in this order: dynamic symbols, debug information, signatures
 * (recognising the object by what it holds, for a beam.smp that exports
 * nothing, as Debian's OTP 29). Whatever the source, an address is only kept
 * after the object behind it has been verified in the target's memory.
 */
#ifndef BEAMRAY_ERTS_ANCHORS_H
#define BEAMRAY_ERTS_ANCHORS_H

#include <stdbool.h>
#include <stdint.h>

#include "target/elf.h"
#include "erts/layout.h"

enum anchor_source {
	ANCHOR_MISSING,
	ANCHOR_DYNSYM,
	ANCHOR_DEBUGINFO,
	ANCHOR_DECODED,	  /* read out of the instructions of an accessor function */
	ANCHOR_SIGNATURE, /* recognised by content */
	ANCHOR_DERIVED,	  /* reached from another anchor */
};

struct anchor {
	uint64_t addr; /* of the variable itself; 0 while missing */
	enum anchor_source source;
	const char *why; /* for a missing one: what was looked for; static text */
};

enum anchor_id {
	A_ALLCTRS_INFO,	   /* erts_allctrs_info: ErtsAllocatorInfo_t[] */
	A_ALLCTR_THR_SPEC, /* erts_allctr_thr_spec: ErtsAllocatorThrSpec_t[] */
	A_ALLCTRS,	   /* erts_allctrs: ErtsAllocatorFunctions_t[] */
	A_A2AD,		   /* erts_alc_a2ad: const char *[] allocator number -> name */
	A_N2TD,		   /* erts_alc_n2td: const char *[] type number -> name */
	A_ATOM_TABLE,	   /* erts_atom_table: IndexTable */
	A_MODULE_TABLES,   /* module_tables[]: IndexTable[3] */
	A_EXPORT_TABLES,   /* export_tables[]: IndexTable[3] */
	A_FUN_TABLE,	   /* erts_fun_table: Hash or IndexTable, by release */
	A_REGISTER_TABLE,  /* process_reg: Hash */
	A_PROC,		   /* erts_proc: ErtsPTab */
	A_PORT,		   /* erts_port: ErtsPTab */
	A_SCHEDULER_DATA,  /* erts_aligned_scheduler_data: pointer variable */
	A_DIRTY_CPU_SCHEDULER_DATA,
	A_DIRTY_IO_SCHEDULER_DATA,
	A_NO_SCHEDULERS,      /* erts_no_schedulers: Uint */
	A_MSEG_ALLCTR,	      /* the array of ErtsMsegAllctr_t (pointer variable or array) */
	A_DEFAULT_MMAPPER,    /* erts_dflt_mmapper: ErtsMemMapper */
	A_LITERAL_MMAPPER,    /* erts_literal_mmapper: ErtsMemMapper */
	A_TOTAL_CODE_SIZE,    /* erts_total_code_size */
	A_ETS_MISC_MEM_SIZE,  /* erts_ets_misc_mem_size */
	A_ATOM_TEXT_RESERVED, /* static reserved_atom_space */
	A_ATOM_TEXT_USED,     /* static atom_space */
	A_RANGES,	      /* static r[] of beam_ranges.c */
	A_JIT_DESCRIPTOR,     /* __jit_debug_descriptor */
	A_OTP_RELEASE,	      /* etp_otp_release: char[] */
	A_ERTS_VERSION,	      /* etp_erts_version: char[] */
	A_CODE_INDEX,	      /* the_active_code_index */
	A_BIF_TABLE,	      /* bif_table */
	A_N
};

struct anchors {
	struct anchor v[A_N];
	/* Summary of where they came from, for the output's target.symbols:
	 * "dynsym", "debuginfo" or "signature" (the weakest source that was
	 * needed for the allocators). */
	const char *symbols;
};

const char *anchor_name(enum anchor_id id);	      /* the C name in ERTS */
const char *anchor_source_name(enum anchor_source s); /* one word */

#endif
