/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The live map: which stack faulted in which page, and what of it is still there.
 * (growth.c opens with the page that defines the weight.)
 */
#ifndef BEAMRAY_TRACE_GROWTH_H
#define BEAMRAY_TRACE_GROWTH_H

#include "target/residency.h"

struct growth;

int growth_new(size_t bytes_max, struct growth **out);
void growth_free(struct growth *g);

/* Starts from here: forgets everything and takes `opening` as what is resident
 * now. Both are borrowed until the next growth_begin() or growth_free(). */
int growth_begin(struct growth *g, const struct residency *opening, const struct mappings *maps);

/* Pages [start, start + bytes) were faulted in by `owner` (not 0). Returns the
 * bytes of it that had no owner yet. */
uint64_t growth_fault(struct growth *g, uint64_t start, uint64_t bytes, uint32_t owner);
/* The range was unmapped or discarded. */
void growth_gone(struct growth *g, uint64_t start, uint64_t bytes);
/* mremap by thread `tid`: its pages are taken out at the beginning and put to
 * where they are at the end (`to` 0: it failed). */
void growth_move_begin(struct growth *g, uint32_t tid, uint64_t start, uint64_t bytes);
void growth_move_end(struct growth *g, uint32_t tid, uint64_t to, uint64_t bytes);

/* All in bytes: closing - opening = owned + unowned + moved - released. */
struct growth_sum {
	uint64_t opening, closing; /* resident at the beginning and now */
	uint64_t owned;		   /* now there and faulted in since, by a known stack */
	uint64_t nearby;	   /* of it: by the stack of a page next to it (huge pages,
				    * files: one fault brings several pages) */
	uint64_t unowned;	   /* now there, was not before, nobody known */
	uint64_t moved;		   /* was there before, at another address */
	uint64_t released;	   /* was there at the beginning and is not any more */
	uint64_t lost;		   /* faulted in without room in the live map, gross */
};

/* What is owned now: net[owner] += bytes, for owners below n. With closing NULL
 * (the target has gone) everything that was not given back counts as there. */
int growth_account(struct growth *g, const struct residency *closing, const struct mappings *maps,
		   int64_t *net, size_t n, struct growth_sum *sum);
size_t growth_bytes(const struct growth *g); /* its own memory */

#endif
