/* SPDX-License-Identifier: Apache-2.0 */
/* What keeps a walk of the target's lists from running for ever or astray. */
#ifndef BEAMRAY_ERTS_LIST_GUARD_H
#define BEAMRAY_ERTS_LIST_GUARD_H

#include <stdbool.h>
#include <stdint.h>

#define LIST_MAX (1ull << 28) /* elements of any list or tree that are followed */

/* A list that leads back into itself ends here (Brent): a memory of one element,
 * taken anew at every power of two. */
struct cycle_guard {
	uint64_t seen, steps, next;
};

static inline bool cycle_found(struct cycle_guard *g, uint64_t at)
{
	if (at == g->seen || ++g->steps > LIST_MAX)
		return true;
	if (g->steps >= g->next) {
		g->next = g->next ? 2 * g->next : 16;
		g->seen = at;
	}
	return false;
}

/* True if `addr` can be that of a structure: aligned, not in the first page, in
 * user space. */
static inline bool pointer_plausible(uint64_t addr)
{
	return !(addr & 7) && addr >= 4096 && addr < 1ull << 47;
}

#endif
