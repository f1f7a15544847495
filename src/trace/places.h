/* SPDX-License-Identifier: Apache-2.0 */
/* What the sets at often hit uprobes share (bpf/place.bpf.h is the kernel's half). */
#ifndef BEAMRAY_TRACE_PLACES_H
#define BEAMRAY_TRACE_PLACES_H

#include "trace/set.h"
#include "trace/uprobes.h"

/* How often stacks are taken; every level halves it. `map` is place_limits. */
int places_thin(struct bpf_map *map, unsigned level);
#define PLACES_LEVELS 6

/* A probe of a function of the executable: at an instruction that the kernel emulates, or
 * else at the first one. Returns 1 when it has to be single-stepped, 0, or as
 * site_first(). */
int places_probe(struct set *set, uint64_t addr, uint64_t size, const char *name, unsigned need,
		 struct uprobe *out, struct error *err);

/* What a hit (an entry or a return) costs outside of the program. Measured in a virtual
 * machine, where traps are dear; of an entry that is single-stepped and its return, half. */
#define PLACES_HIT_NS	  700
#define PLACES_STEPPED_NS 9000

/* Calls `fn` for every element of a hash map; an element that comes or goes meanwhile may
 * be left out. What `fn` returns other than 0 ends it and is returned; -errno. */
typedef int (*map_fn)(void *ctx, const void *key, const void *value);
int map_each(struct bpf_map *map, map_fn fn, void *ctx);

/* Appends {name, value} to figures while there is room. */
void figure_put(struct recording_figure *v, size_t *n, const char *name, uint64_t value);
/* The buckets of a histogram that are not empty, as "PREFIX.N": 2^N ns and more. */
void figures_histogram(struct recording_figure *v, size_t *n, const char *prefix,
		       const uint32_t histogram[LOG2_BUCKETS]);

#endif
