/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The address space of a target as /proc/PID/maps shows it.
 */
#ifndef BEAMRAY_TARGET_MAPPINGS_H
#define BEAMRAY_TARGET_MAPPINGS_H

#include "target/target.h"

enum mapping_kind {
	MAPPING_ANON,	/* no file, no name (or a name given by prctl: [anon:...]) */
	MAPPING_HEAP,	/* [heap] */
	MAPPING_STACK,	/* [stack] */
	MAPPING_FILE,	/* a regular file */
	MAPPING_MEMFD,	/* /memfd:... */
	MAPPING_SHARED, /* shared anonymous memory, SysV and POSIX shm, /dev/zero */
	MAPPING_KERNEL, /* [vdso], [vvar], [vsyscall], [uprobes] */
	MAPPING_HUGETLB,
	MAPPING_DEVICE, /* /dev/..., anon_inode: things that are not memory of ours */
};

struct mapping {
	uint64_t start, end; /* bytes, page aligned, end exclusive */
	uint64_t offset;     /* into the file, bytes */
	uint64_t inode;
	uint32_t dev_major, dev_minor;
	bool read, write, exec, shared;
	bool deleted; /* the file has been unlinked */
	enum mapping_kind kind;
	const char *path; /* raw, "" if none, without " (deleted)"; escape before printing */
};

struct mappings {
	struct mapping *v;
	size_t n;
	char *text; /* owns the paths */
};

/* Reads the maps, sorted by address, disjoint. At most 1,000,000 mappings are
 * taken; more is -E2BIG. */
int mappings_read(struct target *t, struct mappings **out, struct error *err);
void mappings_free(struct mappings *m);

/* The mapping that holds `addr`, or NULL. */
const struct mapping *mappings_find(const struct mappings *m, uint64_t addr);
/* Index of the first mapping whose end is above addr (n if none). */
size_t mappings_index(const struct mappings *m, uint64_t addr);
/* True if every byte of [addr, addr+len) lies in readable mappings. */
bool mappings_cover(const struct mappings *m, uint64_t addr, uint64_t len);

#endif
