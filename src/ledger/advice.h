/* SPDX-License-Identifier: Apache-2.0 */
/* What to do about a finding: the next command, the call inside the node, the
 * setting with its price. (advice.c has the table.) */
#ifndef BEAMRAY_LEDGER_ADVICE_H
#define BEAMRAY_LEDGER_ADVICE_H

#include "ledger/verdict.h"

/* Adds all advice for the finding, settings only where this release has them. */
void advice_give(struct finding *f, const struct verdict_input *in);
void advice_add(struct finding *f, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
