/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BEAMRAY_TESTS_NATIVE_LOOK_H
#define BEAMRAY_TESTS_NATIVE_LOOK_H

/* Scans the native memory of `pid` and compares block by block with the lines
 * "lost|kept ADDRESS BYTES LIBRARY" in `file` (hex, decimal; "-": none). Prints one
 * JSON object. Returns 0, or 1 when the scan failed. */
int native_look(int pid, const char *file);

#endif
