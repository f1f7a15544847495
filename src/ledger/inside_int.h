/* SPDX-License-Identifier: Apache-2.0 */
/* Private to inside*.c. */
#ifndef BEAMRAY_LEDGER_INSIDE_INT_H
#define BEAMRAY_LEDGER_INSIDE_INT_H

#include "ledger/inside.h"

/* Errors after which nothing more can be read. */
bool inside_fatal(int ret);
/* Holders in the order of their keys, for qsort and bsearch. */
int inside_order(const void *a, const void *b);
/* Fills in->owners. -ENOMEM, or an error after which nothing can be read. */
int inside_owners(struct observer *o, const struct look *look, const struct code *code,
		  const struct inside *before, bool last, struct inside *in);

#endif
