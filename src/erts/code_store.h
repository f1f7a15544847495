/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inside of code.c, code_jit.c and code_ranges.c: one module's code, packed.
 */
#ifndef BEAMRAY_ERTS_CODE_STORE_H
#define BEAMRAY_ERTS_CODE_STORE_H

#include "erts/code.h"

#define CODE_HEAD	 96	      /* bytes of metadata that tell one load from another */
#define CODE_ENTRIES_MAX 200000u      /* modules in the VM's list, purged ones of OTP 25 included */
#define CODE_SYMFILE_MAX (64u << 20)  /* bytes of metadata of one module */
#define CODE_LIVE_MAX	 (512u << 20) /* bytes that all loaded modules may take here */
#define CODE_PURGED_MAX	 (16u << 20)  /* same for purged ones */
#define CODE_NAME_MAX	 2200	      /* three atoms of 255 characters, escaped and quoted */
#define CODE_TRIES	 5

struct code_line {
	uint32_t offset; /* from the module's base */
	uint32_t loc;	 /* file index << 24 | line, as in ERTS; file 255: unknown */
};

struct code_func {
	uint32_t start, end;		  /* offsets from the module's base */
	uint32_t name : 31, function : 1; /* name: offset into strings */
	uint32_t line, n_lines;		  /* into lines[] */
};

/* One module as loaded once: a reload is another one. */
struct code_module {
	/* where its metadata is in the target, to recognise it at a refresh */
	uint64_t entry, symfile, size;
	unsigned char head[CODE_HEAD];
	uint32_t head_len;

	uint64_t base, start, end; /* run-time addresses */
	uint64_t code_size;	   /* as the VM counts it */
	struct code_func *funcs;   /* by start, disjoint */
	struct code_line *lines;
	uint32_t *files; /* offsets into strings */
	char *strings;	 /* [0]: the module's name */
	uint32_t n_funcs, n_lines, n_files, strings_len;
	size_t bytes; /* of all of this */

	uint64_t seq;			/* larger: loaded later */
	uint64_t first_seen, last_seen; /* CLOCK_MONOTONIC ns */
	bool listed;			/* the VM still lists it */
	bool loaded;			/* listed, and not overwritten by a newer one */
};

/* A module that the VM lists, before its metadata has been parsed. */
struct code_candidate {
	uint64_t entry, symfile, size;
	unsigned char head[CODE_HEAD];
	uint32_t head_len;
};

struct code_candidates {
	struct code_candidate *v; /* newest first if `ordered` */
	size_t n;
	bool ordered;
};

/* Grows a module while its metadata is parsed; builder_finish() makes it
 * compact. All text that goes in is raw and comes out escaped. */
struct code_builder {
	struct code_func *funcs;
	struct code_line *lines;
	uint32_t *files;
	char *strings;
	size_t n_funcs, a_funcs, n_lines, a_lines, n_files, a_files, n_strings, a_strings;
	int error;	     /* first -ENOMEM, -E2BIG or -EAGAIN; later calls do nothing */
	char last_file[256]; /* raw: lines of one file follow each other */
	size_t last_len;
	uint32_t last_index;
	bool escaped; /* texts that come in have been through escape_text() (vm_atom) */
};

void builder_reset(struct code_builder *b);
void builder_free(struct code_builder *b);
/* Adds a text and returns its offset. */
uint32_t builder_string(struct code_builder *b, const char *raw, size_t len);
void builder_func(struct code_builder *b, uint32_t start, uint32_t end, const char *raw,
		  size_t len);
/* A line of the function added last; `file` raw, NULL if unknown. */
void builder_line(struct code_builder *b, uint32_t offset, const char *file, size_t len,
		  uint32_t line);
/* Takes what was built. NULL on error; `code_size` bounds every offset. */
struct code_module *builder_finish(struct code_builder *b, uint64_t base, uint64_t code_size);
void code_module_free(struct code_module *m);

/* code_jit.c */

struct code_jit_header { /* symfile of kind 0 */
	enum code_frame_layout layout;
	uint64_t normal_exit;
};

/* Lists what __jit_debug_descriptor at `descriptor` leads to, up to the entry of
 * `known`, if that is not NULL and still is what it was: then *met is true, and
 * what follows it is not looked at. -EAGAIN when it changed underneath. */
int code_jit_list(struct vm *vm, uint64_t descriptor, const struct code_module *known, bool *met,
		  struct code_candidates *out);
/* Is the candidate the load that `m` was made of? */
bool code_candidate_is(const struct code_candidate *k, const struct code_module *m);
/* Where the code of a candidate lies, by the first bytes of its metadata; false
 * when they do not say. */
bool code_jit_extent(const struct code_candidate *k, uint64_t *start, uint64_t *end);
/* Parses one payload of exactly `size` bytes. 0; -EAGAIN when it is no valid
 * one (torn, or a form that is not known). Kind 0 fills *header and leaves
 * *out NULL. */
int code_jit_parse(struct code_builder *b, const unsigned char *data, size_t size,
		   struct code_module **out, struct code_jit_header *header);
/* Reads and parses one candidate, and makes sure that it was still the same
 * afterwards. `buf` grows as needed. */
int code_jit_load(struct vm *vm, const struct code_candidate *k, struct code_builder *b,
		  unsigned char **buf, size_t *buf_size, struct code_module **out,
		  struct code_jit_header *header);

/* code_ranges.c */

int code_ranges_list(struct vm *vm, uint64_t tables, struct code_candidates *out);
int code_ranges_load(struct vm *vm, const struct code_candidate *k, struct code_builder *b,
		     struct code_module **out);

#endif
