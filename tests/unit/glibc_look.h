/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BEAMRAY_TESTS_GLIBC_LOOK_H
#define BEAMRAY_TESTS_GLIBC_LOOK_H

/* Walks the heap of `pid` and compares with the lines in `file`; prints TAP.
 * `expect`: "exact", "churn", "refused NAME", or a part of the reason of a degraded walk.
 * Returns 1 if anything was wrong. */
int glibc_look(int pid, const char *file, const char *name, const char *expect);

#endif
