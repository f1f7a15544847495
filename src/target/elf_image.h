/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Private to elf.c, elf_symbols.c and elf_debug.c: what an image is made of,
 * and the bounded readers that all three share.
 */
#ifndef BEAMRAY_TARGET_ELF_IMAGE_H
#define BEAMRAY_TARGET_ELF_IMAGE_H

#include <elf.h>

#include "target/elf.h"

#define IMAGE_PHDRS_MAX	   128
#define IMAGE_SECTIONS_MAX 4096u
#define IMAGE_BUILD_ID_MAX 64 /* bytes; SHA-1 takes 20 */
#define IMAGE_SYMBOLS_MAX  (1u << 18)
#define IMAGE_NAMES_MAX	   (16u << 20) /* bytes of one string table */
/* What all symbol tables of one target may take in our memory. */
#define IMAGES_SYMBOL_BYTES_MAX (32u << 20)

/* One symbol; a table is sorted by address. 24 bytes. */
struct symbol {
	uint64_t vaddr;
	uint32_t size; /* 0: unknown */
	uint32_t name; /* into names */
	uint32_t up;   /* index + 1 of the innermost symbol that encloses this one, 0: none */
	unsigned char type;
	unsigned char rank; /* which of several of one name wins: the highest */
};

struct symbol_table {
	struct symbol *v;
	size_t n;
	uint32_t *by_name; /* indices, sorted by name, the winner first */
	char *names;
	size_t names_len;
	size_t bytes; /* of our memory */
	const char *source;
};

struct image {
	struct target *t;     /* borrowed; only read for images without a file */
	size_t *symbol_bytes; /* of all images, shared */
	int fd;		      /* the file, or -1: everything comes from the target's memory */
	char *path;
	const char *name; /* into path */
	char build_id[2 * IMAGE_BUILD_ID_MAX + 1];
	uint64_t base; /* run-time address of the mapping with the ELF header */
	uint64_t bias;
	uint64_t inode;
	uint32_t dev_major, dev_minor;
	Elf64_Phdr *ph; /* NULL when the headers could not be trusted */
	unsigned n_ph;
	bool has_interp;
	struct image_segment *segs;
	size_t n_segs;
	struct symbol_table *own, *debug;
	bool own_tried, needed_tried;
	char **needed;
	size_t n_needed;
};

/* No address or size of ours is larger: sums of a few cannot overflow. */
#define IMAGE_ADDRESS_MAX (1ULL << 56)

/* A 64-bit little-endian program or library? */
bool image_ehdr_good(const Elf64_Ehdr *eh);

/* All of `len` bytes at file offset `at`, or -EIO (past the end), -errno. */
int image_pread(int fd, uint64_t at, void *buf, size_t len);

/* Bytes by their address in the file (p_vaddr's terms): from the file, or from
 * the target's memory for an image without one. 0 or -errno. */
int image_read(const struct image *i, uint64_t vaddr, void *buf, size_t len);

/* Program headers of a file: at most IMAGE_PHDRS_MAX, the caller frees. */
int image_phdrs(int fd, Elf64_Phdr **out, unsigned *n);

/* The build-id of an ELF file as hex, "" if it has none. `hex` holds
 * 2 * IMAGE_BUILD_ID_MAX + 1 bytes. Returns 0 or -errno (not an ELF file). */
int image_file_build_id(int fd, char *hex);

/* The tags of .dynamic that we use, as addresses in the file. */
struct image_dynamic {
	uint64_t symtab, strtab, strsz, hash, gnu_hash, versym;
	uint64_t needed[256]; /* offsets into the string table */
	unsigned n_needed;
};
int image_dynamic_read(const struct image *i, struct image_dynamic *d);

/* The first section of an ELF file that has this name (NULL: any) and this
 * type (0: any), with the section it links to. -ENOENT, -EINVAL (damaged). */
int image_section_find(int fd, const char *name, unsigned type, Elf64_Shdr *out, Elf64_Shdr *link);

/* The symbols of the image's own file or memory, read on first use; NULL: none. */
struct symbol_table *image_symbols(struct image *i);
/* Reads .symtab of `fd`, whose addresses are the image's. */
struct symbol_table *image_symtab_read(const struct image *i, int fd, const char *source);
void image_symbols_free(struct symbol_table *s);

/* Opens `path` as the target sees it (symlinks too resolved inside its root),
 * a regular file. -errno. */
int image_root_open(struct target *t, const char *path);
/* The same in our own root. */
int image_own_open(const char *path);

#endif
