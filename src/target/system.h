/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the operating system says of a target as a whole.
 */
#ifndef BEAMRAY_TARGET_SYSTEM_H
#define BEAMRAY_TARGET_SYSTEM_H

#include "target/mappings.h"

#define SYSTEM_UNKNOWN	 UINT64_MAX	  /* a figure that could not be had */
#define SYSTEM_UNLIMITED (UINT64_MAX - 1) /* of a limit: there is none */

struct system_memory {			     /* bytes; SYSTEM_UNKNOWN where not known */
	uint64_t rss;			     /* VmRSS: approximate since Linux 6.2 */
	uint64_t vmsize;		     /* VmSize */
	uint64_t swap;			     /* VmSwap */
	uint64_t page_tables;		     /* VmPTE */
	uint64_t pss, lazyfree, rollup_rss;  /* smaps_rollup */
	uint64_t cgroup_usage, cgroup_limit; /* limit: tightest of the ancestors */
	uint64_t cgroup_left;		     /* until one of those with a limit is full */
	uint64_t limit_as, limit_nofile;     /* RLIMIT_AS, RLIMIT_NOFILE (soft) */
	unsigned threads;
	char rollup_reason[128]; /* why pss and lazyfree are unknown */
	char cgroup_reason[128];
};

/* smaps_rollup holds the target's mmap_lock for a walk over all of its memory. */
enum system_rollup {
	SYSTEM_ROLLUP_AUTO, /* read when VmRSS is below 16 GB */
	SYSTEM_ROLLUP_ALWAYS,
	SYSTEM_ROLLUP_NEVER,
};

int system_memory(struct target *t, enum system_rollup rollup, struct system_memory *out,
		  struct error *err);

struct system_thread {
	pid_t tid;
	char comm[16];		/* raw */
	uint64_t stack_pointer; /* from /proc/TID/syscall; 0 while it runs */
};

/* The threads at this moment; the caller frees *out. Returns their number. */
ssize_t system_threads(struct target *t, struct system_thread **out);

/* LazyFree, Swap, Rss, Anonymous of the smaps entries that lie in [start, end).
 * Reading smaps is slow and holds mmap_lock, one mapping at a time. */
struct system_smaps {
	uint64_t start, end;
	uint64_t rss, anonymous, lazyfree, swap, anon_huge;
};
/* Calls fn for each mapping; stops when it returns non-zero. Bounded by `max_bytes`
 * of text. */
int system_smaps(struct target *t, int (*fn)(const struct system_smaps *s, void *arg), void *arg);

#endif
