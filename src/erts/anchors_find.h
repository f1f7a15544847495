/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How the globals of anchors.h are found; private to erts/anchors*.c and vm*.c
 * (and to their tests).
 */
#ifndef BEAMRAY_ERTS_ANCHORS_FIND_H
#define BEAMRAY_ERTS_ANCHORS_FIND_H

#include "erts/anchors.h"

/* ---- anchors_image.c: the image of beam.smp, in our memory ------------------------------- */

#define IMAGE_PIECES_MAX 16
#define IMAGE_BYTES_MAX	 (32ULL << 20)

/* A run of the image that is not code. */
struct image_piece {
	uint64_t start, end; /* run-time addresses */
	unsigned char *data; /* end - start bytes */
	uint64_t file_end;   /* end of what the file has of it */
	bool write;	     /* .data, .bss; else .rodata and the like */
};

struct image_copy {
	struct target *target;
	const struct mappings *maps;
	struct image *image;
	int fd; /* the file itself, or -1 */
	struct image_piece v[IMAGE_PIECES_MAX];
	size_t n;
};

/* Copies everything of `image` that is not executable. Pages of it that the
 * target does not have in memory come from the file, so that looking makes the
 * target no larger. -E2BIG above IMAGE_BYTES_MAX, -EFAULT, -ESRCH, -EPERM. */
int image_copy_take(struct target *t, const struct mappings *maps, struct image *image,
		    struct image_copy *out, struct error *err);
void image_copy_free(struct image_copy *c);
/* Reads the writable pieces again. */
int image_copy_refresh(struct image_copy *c);

/* The copied bytes at a run-time address; NULL when [addr, addr+len) is not
 * inside one piece. */
const void *image_copy_at(const struct image_copy *c, uint64_t addr, size_t len);
bool image_copy_u64(const struct image_copy *c, uint64_t addr, uint64_t *out);
bool image_copy_u32(const struct image_copy *c, uint64_t addr, uint32_t *out);
/* The C string at `addr`, or NULL when it does not end inside its piece. */
const char *image_copy_string(const struct image_copy *c, uint64_t addr);

/* Address of the first occurrence of the bytes above `after` (0: from the
 * start), in read-only pieces only when `write` is false; 0 when there is none.
 * The linker shares string tails, so a C string is looked for with its NUL but
 * not with what stands before it. */
uint64_t image_copy_find(const struct image_copy *c, const void *bytes, size_t len, bool write,
			 uint64_t after);
/* Address of the next aligned word in writable pieces with this value. */
uint64_t image_copy_find_word(const struct image_copy *c, uint64_t value, uint64_t after);
/* The writable piece that holds `addr`, or NULL. */
const struct image_piece *image_copy_data(const struct image_copy *c, uint64_t addr);
/* Code bytes, from the file when possible. Returns the number read, or -errno. */
ssize_t image_copy_code(const struct image_copy *c, uint64_t addr, void *buf, size_t len);

/* ---- anchors.c ---------------------------------------------------------------------------- */

enum anchors_mode {
	ANCHORS_BEST,	    /* symbols, then debug info, code, signatures */
	ANCHORS_SIGNATURES, /* as if the executable had no symbols at all */
};

/* One search: what is needed to look, and what has been found. */
struct anchor_search {
	struct target *target;
	const struct mappings *maps;
	const struct images *images;
	struct image *exe;
	const struct image_copy *copy;
	const struct layout *l;
	enum anchors_mode mode;
	struct anchors *a;
	struct anchor_pages *pages; /* set while searching: see anchor_peek() */
};

/* Finds what can be found; nothing is an error, a missing anchor says why.
 * Everything found has been verified against its own content, but not yet
 * against the others (vm_verify.c does that). */
void anchors_find(struct anchor_search *s);

/* Keeps the address for `id` unless there is one already. */
void anchor_set(struct anchor_search *s, enum anchor_id id, uint64_t addr, enum anchor_source src);
void anchor_unset(struct anchor_search *s, enum anchor_id id); /* it was not right */
bool anchor_missing(const struct anchor_search *s, enum anchor_id id);

/* Reads of the target for recognisers; false when it cannot be read. */
bool anchor_read(const struct anchor_search *s, uint64_t addr, void *buf, size_t len);
bool anchor_u64(const struct anchor_search *s, uint64_t addr, uint64_t *out);
/* The same through a small cache of pages, for searches that touch thousands of
 * places: what it gives may be some milliseconds old. */
bool anchor_peek(const struct anchor_search *s, uint64_t addr, void *buf, size_t len);
void anchor_peek_afresh(const struct anchor_search *s); /* forgets what was cached */
/* A field of a structure that lies in the copied image. */
bool anchor_field(const struct anchor_search *s, uint64_t base, struct layout_field f,
		  uint64_t *out);
/* True if the address can be dereferenced by the target: readable, not in the
 * first page, 8-byte aligned. */
bool anchor_pointer(const struct anchor_search *s, uint64_t addr);
/* ... and into memory that was allocated: anonymous and writable. Searches
 * follow nothing else, so that they never make a page of some library resident
 * in the target. */
bool anchor_heap_pointer(const struct anchor_search *s, uint64_t addr);

/* ---- recognisers, by subject: each tries the anchors of its subject that are missing ------- */

void anchors_find_allocators(struct anchor_search *s); /* anchors_signature.c */
void anchors_find_tables(struct anchor_search *s);     /* anchors_signature.c */
void anchors_find_ptabs(struct anchor_search *s);      /* anchors_signature.c */
void anchors_find_schedulers(struct anchor_search *s); /* anchors_signature.c */
void anchors_find_memory(struct anchor_search *s);     /* anchors_memory.c: mseg, mmappers */
void anchors_find_code(struct anchor_search *s);       /* anchors_code.c: JIT, ranges, sizes */
void anchors_find_counters(struct anchor_search *s);   /* anchors_code.c: atom text, ets */

/* Content checks shared with vm_verify.c and used for symbols too: is the
 * object at `addr` (in the image) what it should be? */
bool anchor_is_index_table(const struct anchor_search *s, uint64_t addr, const char *name);
bool anchor_is_atom_table(const struct anchor_search *s, uint64_t addr);
bool anchor_is_ptab(const struct anchor_search *s, uint64_t addr, uint64_t *element_size);
bool anchor_is_port_size(const struct layout *l, uint64_t element_size);
bool anchor_is_jit_descriptor(const struct anchor_search *s, uint64_t addr);
bool anchor_is_mmapper(const struct anchor_search *s, uint64_t addr);
bool anchor_is_mseg_array(const struct anchor_search *s, uint64_t array);
bool anchor_is_ranges(const struct anchor_search *s, uint64_t addr);
bool anchor_is_thr_spec(const struct anchor_search *s, uint64_t addr);
bool anchor_is_allctrs_info(const struct anchor_search *s, uint64_t addr, uint64_t thr_spec);

/* The text of atom `index` by a table at `table`: raw bytes, not terminated.
 * Returns its length or -errno. vm_atom() escapes it. */
ssize_t atom_text(struct target *t, const struct layout *l, uint64_t table, uint64_t index,
		  char *buf, size_t size);

/* Number of allocators: erts_allctrs_info has 0..ERTS_ALC_A_MAX. */
unsigned anchor_n_allocators(const struct layout *l);

#endif
