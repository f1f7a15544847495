/* SPDX-License-Identifier: Apache-2.0 */
/* Carriers and the blocks in them. (carrier.c opens with the page that
 * explains them.) */
#ifndef BEAMRAY_ERTS_CARRIER_H
#define BEAMRAY_ERTS_CARRIER_H

#include "erts/allocator.h"

#define CARRIER_TYPES ALLOC_TYPES

struct carrier {
	uint64_t addr;	   /* of Carrier_t */
	uint64_t size;	   /* bytes */
	unsigned type;	   /* allocator number of the instance that owns it (pool: last owner) */
	unsigned instance; /* index into allocators.inst[] */
	bool single;	   /* single-block carrier (sbc) */
	bool mseg;	   /* from mseg; else from sys_alloc, i.e. inside the libc heap */
	bool in_pool;	   /* abandoned to the carrier pool */
	bool dead;	   /* on a dc_list: being given back */
	bool torn;	   /* stayed inconsistent: split from its counters, not from a walk */
	bool gone;	   /* given back before it was walked: split from its last counters */
	/* Used blocks by allocator type (a pooled carrier may hold several types on
	 * OTP 23), header, tag and padding included. */
	uint64_t used_blocks, used_bytes, free_blocks, free_bytes;
	uint64_t largest_free; /* bytes */
	/* Of the resident bytes of the carrier (by the residency picture): */
	uint64_t resident; /* all: used + free + slack exactly */
	uint64_t used_resident, free_resident, slack_resident;
	uint64_t free_whole_pages; /* bytes in resident pages without any used or slack byte */
	uint64_t used_resident_by_type[CARRIER_TYPES]; /* sums to used_resident */
};

/* A tagged owner's blocks, summed over all carriers. */
struct tag_sum {
	unsigned alloc_type;  /* allocator number */
	unsigned block_type;  /* type number: index into vm->type_names */
	uint64_t owner_atom;  /* atom index of NIF module or driver; UINT64_MAX: system */
	uint64_t pid_or_port; /* from 27 on: the tagged term, 0 if none. Only summed when asked. */
	bool magic; /* a binary block that is a NIF resource (magic flag + resource destructor) */
	uint64_t blocks, bytes, resident; /* bytes: whole blocks */
};

/* Live NIF resources of one type, summed over all carriers. */
struct resource_sum {
	uint64_t type;			  /* ErlNifResourceType in the target */
	uint64_t blocks, bytes, resident; /* bytes: whole blocks */
};

struct carriers {
	struct resource_sum *resources; /* by bytes, largest first; if they were asked for */
	size_t n_resources;
	struct carrier *v; /* sorted by address, disjoint */
	size_t n;
	struct tag_sum *tags; /* by bytes, largest first */
	size_t n_tags;
	/* How good the walk was. */
	uint64_t blocks; /* walked */
	uint64_t bytes;	 /* of carriers walked */
	uint64_t torn;	 /* carriers given up after retries */
	uint64_t retries;
	uint64_t errors;	   /* of torn: failed twice at one place in a carrier that stood
				    still, so no race but a lie (0 on every sound node) */
	uint64_t counter_mismatch; /* walked clean but off the carrier's own counters */
	uint64_t lost_bytes;	   /* carriers_size by statistics minus found, when positive */
	uint64_t overlaps;	   /* carriers dropped because they overlapped another */
	uint64_t bad_tags;	   /* tagged blocks whose tag was not (yet) one: not in tags[] */
	uint64_t gone;		   /* carriers that were given back between finding and walking */
	uint64_t unseen;	   /* carriers newer than the residency picture: resident is 0 */
	uint64_t list_retries;	   /* lists that were walked again because they changed */
};

struct carriers_opts {
	bool tags;	      /* collect tag sums */
	bool tag_pids;	      /* ... split by pid/port from 27 on */
	bool resources;	      /* collect NIF resources by type (needs tags) */
	bool statistics_only; /* do not walk blocks: split by counters (--quick) */
	/* Called for every used/free block when set; to build pins, histograms. */
	void (*block)(void *arg, const struct carrier *c, uint64_t addr, uint64_t size, bool used,
		      unsigned alloc_type);
	void *arg;
};

int carriers_walk(struct vm *vm, const struct allocators *a, const struct carriers_opts *opts,
		  struct carriers **out, struct error *err);
void carriers_free(struct carriers *c);

/* Ranges that the VM holds without a carrier in them: the mseg cache, the
 * super carrier's and the literal area's resident reserve, JIT code areas. */
enum vm_range_kind {
	VM_RANGE_MSEG_CACHE,
	VM_RANGE_SUPER_CARRIER, /* the whole super carrier; carriers inside win */
	VM_RANGE_LITERAL,	/* the literal area's whole reserve; carriers inside win */
	VM_RANGE_CODE,		/* JIT code, executable mapping */
	VM_RANGE_CODE_ALIAS,	/* the same memory's writable mapping */
};
struct vm_range {
	uint64_t start, end;
	enum vm_range_kind kind;
};
/* What one mseg instance counts: {mseg_alloc, N} of erlang:system_info({allocator,
 * mseg_alloc}). Instance 0 is the one for all threads. */
struct vm_mseg {
	uint64_t cache_hits, calls_alloc; /* mseg_alloc, of which from the cache */
	uint64_t cached;		  /* segments in the cache */
	uint64_t segments, segments_size; /* bytes */
};
struct vm_ranges {
	struct vm_mseg *mseg; /* by instance; none where the state is not known */
	size_t n_mseg;
	struct vm_range *v; /* sorted by address; super carrier may hold carriers and cache */
	size_t n;
	bool mseg_known; /* the mseg state was found and verified */
	char why[128];	 /* when it was not */
};
int vm_ranges_read(struct vm *vm, struct vm_ranges **out, struct error *err);
void vm_ranges_free(struct vm_ranges *r);

/* Scheduler and other ERTS threads: tid values (pthread_t, the fs base) that
 * belong to the VM itself, to tell their stacks from those of others. */
struct vm_thread {
	uint64_t pthread; /* fs base */
	char role[24];	  /* "scheduler 1", "dirty cpu 2", "dirty io 3" */
};
ssize_t vm_threads_read(struct vm *vm, struct vm_thread **out);

#endif
