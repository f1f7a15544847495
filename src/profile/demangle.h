/* SPDX-License-Identifier: Apache-2.0 */
/* Names of C++ and Rust functions as they are written in the source. */
#ifndef BEAMRAY_PROFILE_DEMANGLE_H
#define BEAMRAY_PROFILE_DEMANGLE_H

/* An escaped name out of a symbol's, or a copy of that, escaped, where it is no mangled
 * one. Without parameters: they say little and fill a line. The caller frees; NULL: no
 * memory. */
char *symbol_plain_name(const char *raw);

#endif
