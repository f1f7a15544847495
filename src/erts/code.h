/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Code addresses of the VM: Module:Function/Arity, file and line.
 * (code.c opens with the page that explains where they come from.)
 */
#ifndef BEAMRAY_ERTS_CODE_H
#define BEAMRAY_ERTS_CODE_H

#include "erts/vm.h"

struct code; /* the code that was ever seen loaded in one VM */

enum code_frame_layout {
	CODE_FRAME_RA,	  /* a stack frame holds its return address only */
	CODE_FRAME_FP_RA, /* saved frame pointer below the return address: +JPfp true */
};

enum code_source {
	CODE_JIT,    /* __jit_debug_descriptor: functions, fragments, lines */
	CODE_RANGES, /* beam_ranges.c's table and BeamCodeHeader: emulator; no fragments */
};

/* What an address belongs to. Texts are escaped, owned by struct code, and stay
 * valid until the next code_refresh() or code_close(). */
struct code_mfa {
	const char *name;    /* "lists:map/2", as the VM quotes it; "global::garbage_collect" */
	const char *module;  /* "lists", unquoted; "global" for the VM's own fragments */
	const char *file;    /* source file as compiled in, NULL if unknown */
	uint32_t line;	     /* 0 if unknown */
	bool function;	     /* an Erlang function; false: a fragment of the VM's own */
	bool loaded;	     /* was there at the last code_refresh(); false: purged since */
	uint64_t start, end; /* extent of the function or fragment */
};

struct code_range {
	uint64_t start, end; /* end exclusive */
};

/* What the last code_refresh() saw. Bytes. */
struct code_stats {
	uint64_t modules, functions, fragments; /* loaded now */
	uint64_t purged;			/* kept although they are gone */
	uint64_t dropped;      /* purged ones given up to stay within the memory bound, ever */
	uint64_t code_bytes;   /* of loaded modules: equals erts_total_code_size (25 to 29) */
	uint64_t memory_bytes; /* beamray's own memory for all of it */
	unsigned retries;      /* of torn entries, ever */
	unsigned gaps;	       /* entries that stayed unreadable at the last refresh */
};

/*
 * Reads what is loaded now. Reads go through vm_read(): with a residency
 * picture in vm->res, code whose metadata is paged out, or was loaded after the
 * picture was taken, becomes a gap; for refreshing over time the picture must
 * be new or absent.
 *
 * Errors: -ENOENT (EXIT_UNSUPPORTED) when the VM has neither a JIT descriptor
 * nor a ranges table that could be found; -EAGAIN when the list stayed torn;
 * -ENOTSUP for a descriptor of a form that is not known (OTP 24); -ESRCH,
 * -ETIMEDOUT as target_read(); -ENOMEM.
 */
int code_open(struct vm *vm, struct code **out, struct error *err);
void code_close(struct code *c);

/* Looks again: adds what has been loaded since, marks what has gone. What has
 * gone stays known, within a bound on memory, so that samples taken before
 * still resolve. Returns the number of modules that were added or went, or a
 * negative errno as code_open(); then what was known before stays. Cost: two
 * small reads a module and one larger one for every new module. */
int code_refresh(struct code *c, struct error *err);

/* The address of a word in the VM that changes when code is loaded, in the bits of *mask,
 * for whoever can look at it more often than at everything; 0 where none is known. It may
 * be what it was before after a few loads more, and purging alone may not change it: it
 * tells when to look, never that there is no need to. */
uint64_t code_watch(const struct code *c, uint64_t *mask);

/* What `addr` belongs to. Where code was loaded over code that was purged, the
 * newest wins. `addr` is an instruction that runs or is about to; for a return
 * address pass code_lookup_return(), because the call may be the last
 * instruction of its function. */
bool code_lookup(const struct code *c, uint64_t addr, struct code_mfa *out);
bool code_lookup_return(const struct code *c, uint64_t addr, struct code_mfa *out);
/* Same for an address that was seen at `ns` (CLOCK_MONOTONIC): code known to
 * have been loaded at that time wins over newer code at the same place. */
bool code_lookup_at(const struct code *c, uint64_t addr, bool is_return, uint64_t ns,
		    struct code_mfa *out);

/* Has the address belonged to different functions over time, as far as refreshes saw
 * it? Then it names a function only together with a time. Linear in what was purged. */
bool code_replaced(const struct code *c, uint64_t addr, bool is_return);

/* The code areas that are loaded now, sorted, disjoint: every continuation
 * pointer of an Erlang stack lies in one of them. Ranges closer together than
 * `gap` bytes are joined (0: only those that touch), for consumers that can
 * hold a few only. *out is the caller's to free. Returns the count or -ENOMEM. */
ssize_t code_ranges(const struct code *c, uint64_t gap, struct code_range **out);

/* The address at which every Erlang stack ends; 0 if it is not known. */
uint64_t code_normal_exit(const struct code *c);
enum code_frame_layout code_frame_layout(const struct code *c);
enum code_source code_source(const struct code *c);
/* Extent of a fragment of the VM's own by its full name, e.g.
 * "global::garbage_collect"; -ENOENT if this release has no such fragment. */
int code_fragment(const struct code *c, const char *name, struct code_range *out);
void code_stats(const struct code *c, struct code_stats *out);

/* The memory in which a JIT keeps its own description of the code (the gdb JIT
 * interface's entries and symbol files, which asmjit and the VM take from malloc): where
 * each piece begins. *out is the caller's to free. Returns the count (0 for an emulator),
 * or a negative errno; -EAGAIN: the list kept changing. */
ssize_t code_jit_memory(struct vm *vm, uint64_t **out);

#endif
