/* SPDX-License-Identifier: Apache-2.0 */
/* The rows of an ETS table, for what they refer to; never for what they say.
 * (ets_rows.c opens with the page that explains how they are kept.) */
#ifndef BEAMRAY_ERTS_ETS_ROWS_H
#define BEAMRAY_ERTS_ETS_ROWS_H

#include "erts/ets.h"

/* Called for every row: its address (of HashDbTerm or TreeDbTerm) and its off-heap
 * list, 0 if it has none. A negative return ends the walk and is returned. */
typedef int (*ets_row_fn)(void *ctx, uint64_t row, uint64_t off_heap);

/* Walks at most `max` rows of `t`; how many there were is added to *rows. 0; -EAGAIN
 * when it does not hold together, because it changes or was never true (what was
 * called so far stands); -E2BIG when there are more; or what ends all reading. */
int ets_rows_walk(struct vm *vm, const struct ets_table *t, uint64_t max, uint64_t *rows,
		  ets_row_fn fn, void *ctx);

#endif
