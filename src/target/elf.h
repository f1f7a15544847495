/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ELF files as the target sees them: images mapped into it, their extents,
 * symbols and build-ids. Files are opened through /proc/PID/exe, map_files or
 * root, never by a bare path, which in another mount namespace is another file.
 */
#ifndef BEAMRAY_TARGET_ELF_H
#define BEAMRAY_TARGET_ELF_H

#include "target/mappings.h"

struct image; /* one ELF file mapped into the target */

struct image_segment {
	uint64_t start, end; /* run-time addresses, page aligned; end covers .bss */
	uint64_t file_end;   /* end of the part that comes from the file, page aligned */
	bool write, exec;
};

struct image_symbol {
	uint64_t addr; /* run-time address */
	uint64_t size; /* bytes, 0 if unknown */
	const char *name;
	unsigned char type; /* STT_FUNC, STT_OBJECT ... */
};

struct images {
	struct image **v; /* by address */
	size_t n;
};

/* Finds every ELF image among the mappings (by the mapping with file offset 0
 * whose first bytes are an ELF header; extents by PT_LOAD, so that a .bss that
 * the kernel merged with its neighbour still ends where it ends). Symbols are
 * read on first use. Files that cannot be read are images without symbols. */
int images_read(struct target *t, const struct mappings *m, struct images **out, struct error *err);
void images_free(struct images *im);
/* The image whose segments hold `addr`, or NULL. */
struct image *images_find(const struct images *im, uint64_t addr);
/* The image of the target's executable, or NULL. */
struct image *images_exe(const struct images *im);
/* First image whose file name (without folder) starts with `prefix`, or NULL. */
struct image *images_named(const struct images *im, const char *prefix);

const char *image_path(const struct image *i);	   /* raw */
const char *image_name(const struct image *i);	   /* file name alone, raw */
const char *image_build_id(const struct image *i); /* hex or "" */
uint64_t image_bias(const struct image *i);	   /* run-time address - address in the file */
const struct image_segment *image_segments(const struct image *i, size_t *n);
bool image_holds(const struct image *i, uint64_t addr);

/* Exact symbol by name: .symtab if there, else .dynsym, and debug files added
 * by image_debuginfo(). Of several versions the default one is taken; of
 * several symbols of one name a global one. An STT_GNU_IFUNC's address is its
 * resolver's. Thread-local and absolute symbols have no address and are left
 * out. Returns true and fills *out if it is defined. */
bool image_symbol(struct image *i, const char *name, struct image_symbol *out);
/* All symbols of that name (a debug file may hold several static ones), the
 * one that image_symbol() takes first. Returns how many there are, and fills
 * at most `max`. */
size_t image_symbol_all(struct image *i, const char *name, struct image_symbol *out, size_t max);
/* The function or object whose extent holds `addr`; false if none does (never
 * the nearest one). */
bool image_symbol_at(struct image *i, uint64_t addr, struct image_symbol *out);
/* Number of defined symbols and where they come from: "symtab", "dynsym",
 * "debuginfo" or "none". */
size_t image_symbol_count(struct image *i);
const char *image_symbol_source(struct image *i);

/* Bytes of the file that are mapped at `addr`: what the file holds, whether the page is
 * resident or not, and none becomes resident by asking; out of the target's
 * memory only when the image has no file. 0 or -errno. For code and read-only data. */
int image_bytes(const struct image *i, uint64_t addr, void *buf, size_t len);
/* Where in the file the byte at `addr` is; false if it comes from no file. */
bool image_offset(const struct image *i, uint64_t addr, uint64_t *offset);
/* Whether the image asks the loader for one of `names` (NULL-terminated). */
bool image_imports(const struct image *i, const char *const *names);

/* A descriptor for the file itself (dup'ed, the caller closes) or -errno. */
int image_open(const struct image *i);
/* A descriptor for the separate debug file: the file itself when it has
 * .debug_info, .gnu_debuglink or build-id under /usr/lib/debug (the target's
 * root first, then ours; build-id verified). -ENOENT when there is none. */
int image_debug_open(struct target *t, const struct image *i);
/* Adds the symbols of the separate debug file, if there is one: 0, -ENOENT,
 * -EINVAL (damaged), -ENOMEM. */
int image_debuginfo(struct target *t, struct image *i);
/* Extent of a section by name in run-time addresses; false if it is absent or
 * not loaded. */
bool image_section(struct image *i, const char *name, uint64_t *start, uint64_t *end);
/* DT_NEEDED names; count, *names valid as long as the image. */
size_t image_needed(struct image *i, const char *const **names);

#endif
