/* SPDX-License-Identifier: Apache-2.0 */
/* What the tests of ELF images share: our own process as the target, and
 * libraries that the compiler makes for them. */
#ifndef BEAMRAY_TESTS_ELF_FIXTURE_H
#define BEAMRAY_TESTS_ELF_FIXTURE_H

#include "target/elf.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

extern char folder[]; /* a fresh one, removed at the end */
extern struct target *self;
extern struct mappings *maps; /* of the last look() */
extern struct images *images;

int fixture_setup(void **state);
int fixture_teardown(void **state);

/* Reads maps and images anew. */
void look(void);
/* A path in the folder; four of them stay valid. */
const char *in_folder(const char *name);
/* Runs a shell command, which must succeed. */
void run(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* Makes the test's library with these flags. */
void library_build(const char *name, const char *flags);
/* libc's own, whatever a sanitizer has put in front of it. */
void *libc_symbol(const char *name);
struct image *image_of(const void *p);

/* Every symbol that nm tells of a file, against the image: by name, and by
 * extent at its first and last byte. Returns how many that were. */
unsigned nm_agrees(struct image *i, const char *path, const char *flags);

struct loaded {
	char *base;
	size_t span, bss_end; /* bytes; bss_end: of the image alone */
};

/* Maps a file as the loader would, by the program headers of `good`, with
 * readable memory right behind the .bss. */
struct loaded load(const char *path, const char *good);
char *file_read(const char *path, size_t *size);

/* A copy of an image's memory as it is while loaded. */
struct copy {
	struct target_buffer buffers[16];
	struct mapping maps[16];
	struct mappings all;
	size_t n;
};

void copy_take(struct copy *c, const struct image *i);
void copy_free(struct copy *c);

#endif
