/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A BEAM, recognised and verified: which release, which layout, where its
 * globals are. Everything else in erts/ starts from this handle.
 */
#ifndef BEAMRAY_ERTS_VM_H
#define BEAMRAY_ERTS_VM_H

#include <errno.h>

#include "target/residency.h"
#include "erts/anchors.h"

struct vm {
	struct target *target;
	const struct mappings *maps; /* borrowed; replaced by vm_refresh() */
	struct images *images;	     /* borrowed */
	struct image *exe;	     /* beam.smp */
	int exe_fd;		     /* its file, or -1: for pages of it that are not resident */
	const struct residency *res; /* borrowed; may be NULL (then reads are unconditional) */
	struct vm_cache *cache;	     /* borrowed; may be NULL. See vm_cache.h */

	const struct layout *layout;
	struct layout *layout_own; /* set when it was read from debug info */
	bool layout_is_dwarf;
	struct anchors anchors;

	char otp_release[16];  /* "25"; digits only */
	char erts_version[24]; /* "13.1.5" */
	bool jit;
	/* What the checks of the layout found, in words for `check` and notes. */
	char layout_note[256];
	/* Lines for `beamray check`: each verification that was made. */
	struct vm_check {
		char what[48];
		char result[96];
		bool ok;
	} * checks;
	size_t n_checks;

	char **alloc_names; /* [0..n_alloc): "sys_alloc" ...; escaped; from A_A2AD */
	unsigned n_alloc;
	char **type_names; /* [0..n_types): from A_N2TD; escaped; entries may be NULL */
	unsigned n_types;
};

/* Recognises the BEAM in `t`. Errors: EXIT_UNSUPPORTED (not a BEAM; a release
 * without a table that verifies; lock-checking, lock-counting or debug build;
 * an architecture other than x86-64), EXIT_DENIED, EXIT_GONE. */
int vm_open(struct target *t, const struct mappings *maps, struct images *images, struct vm **out,
	    struct error *err);
void vm_close(struct vm *vm);

/* The same with choices, for tests; NULL means vm_open(). */
struct vm_open_opts {
	bool signatures_only;	     /* as if the executable exported nothing */
	bool no_debuginfo;	     /* use a built-in table even where debug info is there */
	const struct layout *layout; /* only this one, instead of the release's own */
};
int vm_open_opts(struct target *t, const struct mappings *maps, struct images *images,
		 const struct vm_open_opts *opts, struct vm **out, struct error *err);

/* Reads through the residency picture when there is one (pages that are not
 * resident are not touched; the executable's read-only data then comes from its
 * file, and pages that the picture lacks are looked up again), else directly. 0, or -EFAULT, -ENODATA (the page is not resident),
 * -ETIMEDOUT. */
int vm_read(struct vm *vm, uint64_t addr, void *buf, size_t len);
/* True for errors that concern the target, or us, as a whole: a walk ends. All others
 * cost only what was to be read. */
static inline bool vm_fatal(int ret)
{
	return ret == -ENOMEM || ret == -ESRCH || ret == -ETIMEDOUT || ret == -EPERM;
}
int vm_read_u64(struct vm *vm, uint64_t addr, uint64_t *out);
int vm_read_u32(struct vm *vm, uint64_t addr, uint32_t *out);
/* A field of 1, 2, 4 or 8 bytes of a structure at `base`, zero-extended.
 * -ENOENT when the release does not have it. */
int vm_read_field(struct vm *vm, uint64_t base, struct layout_field f, uint64_t *out);
/* A C string of at most size - 1 bytes, raw, always terminated. Returns its length,
 * -ENAMETOOLONG when there is no end within `size` bytes (what fits is in buf), or
 * an error as vm_read(). */
ssize_t vm_read_string(struct vm *vm, uint64_t addr, char *buf, size_t size);
/* Many reads in few calls, see target_read_pieces(); `ret` of a piece is 0, -EFAULT
 * or -ENODATA. Passes by the cache. Returns 0 or what ends a walk. */
int vm_read_pieces(struct vm *vm, struct target_piece *v, size_t n);
/* A field out of a copy of a structure in our own memory; false when the field
 * does not exist or does not fit in `size`. */
bool vm_field(const void *copy, size_t size, struct layout_field f, uint64_t *out);

/* Text of atom number `index` (not the tagged term), escaped, UTF-8. Returns
 * its length or -ENOENT, -EFAULT. At most 255 characters by ERTS's own limit. */
ssize_t vm_atom(struct vm *vm, uint64_t index, char *buf, size_t size);
/* The same as it is: not escaped, not terminated. */
ssize_t vm_atom_raw(struct vm *vm, uint64_t index, char *buf, size_t size);
/* Escaped, and as the VM prints it in a function's name: in quotes where the syntax of
 * atoms asks for them. */
ssize_t vm_atom_quoted(struct vm *vm, uint64_t index, char *buf, size_t size);

#endif
