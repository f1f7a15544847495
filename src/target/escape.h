/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Text that came from a target is hostile until it has been through here.
 */
#ifndef BEAMRAY_TARGET_ESCAPE_H
#define BEAMRAY_TARGET_ESCAPE_H

#include <stddef.h>

/* Copies `len` bytes of `src` into `dst` (`size` bytes, always terminated) so
 * that the result is valid UTF-8 on one line: well-formed printable UTF-8
 * passes, everything else (C0, C1, DEL, bidi and zero-width controls, broken
 * sequences, the backslash itself) becomes \xHH or \u{H}. A text that does not
 * fit ends in "...". Returns the length written. */
size_t escape_text(char *dst, size_t size, const char *src, size_t len);

/* Same for a C string; the returned buffer is `dst`. */
char *escape_string(char *dst, size_t size, const char *src);

/* For text that says it went through escape_text() before but comes from where
 * somebody may have changed it (a recording): what is unsafe is replaced, a
 * backslash stays, so that text which is well escaped comes out as it went in. */
size_t escape_again(char *dst, size_t size, const char *src, size_t len);

#endif
