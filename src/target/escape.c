/* SPDX-License-Identifier: Apache-2.0 */
#include "target/escape.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

/* Decodes one UTF-8 sequence; returns its length or 0 if it is malformed
 * (overlong forms, surrogates and values above U+10FFFF included). */
static size_t utf8_decode(const unsigned char *s, size_t len, uint32_t *cp)
{
	static const uint32_t least[] = { 0, 0, 0x80, 0x800, 0x10000 };
	size_t n, i;
	uint32_t c;

	if (s[0] < 0x80) {
		*cp = s[0];
		return 1;
	}
	if (s[0] >= 0xc2 && s[0] <= 0xdf) {
		n = 2;
		c = s[0] & 0x1f;
	} else if ((s[0] & 0xf0) == 0xe0) {
		n = 3;
		c = s[0] & 0x0f;
	} else if (s[0] >= 0xf0 && s[0] <= 0xf4) {
		n = 4;
		c = s[0] & 0x07;
	} else {
		return 0;
	}
	if (n > len)
		return 0;
	for (i = 1; i < n; i++) {
		if ((s[i] & 0xc0) != 0x80)
			return 0;
		c = c << 6 | (s[i] & 0x3f);
	}
	if (c < least[n] || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff))
		return 0;
	*cp = c;
	return n;
}

/* Characters that change how the text around them is shown, or are not shown
 * at all: controls, line separators, bidi marks, zero-width, BOM, tags,
 * variation selectors, private use and non-characters. */
static bool is_unsafe(uint32_t c)
{
	return c < 0x20 || (c >= 0x7f && c < 0xa0) || c == 0xad || c == 0x34f || c == 0x61c ||
	       (c >= 0x115f && c <= 0x1160) || (c >= 0x17b4 && c <= 0x17b5) ||
	       (c >= 0x180b && c <= 0x180f) || (c >= 0x200b && c <= 0x200f) ||
	       (c >= 0x2028 && c <= 0x202e) || (c >= 0x2060 && c <= 0x206f) || c == 0x3164 ||
	       (c >= 0xe000 && c <= 0xf8ff) || (c >= 0xfdd0 && c <= 0xfdef) ||
	       (c >= 0xfe00 && c <= 0xfe0f) || c == 0xfeff || c == 0xffa0 ||
	       (c >= 0xfff0 && c <= 0xfffb) || (c & 0xfffe) == 0xfffe || c >= 0xe0000;
}

static size_t escape(char *dst, size_t size, const char *src, size_t len, bool backslash)
{
	size_t out = 0, last_fit = 0, i = 0;

	if (!size)
		return 0;
	while (i < len) {
		const unsigned char *s = (const unsigned char *)src + i;
		char piece[16];
		uint32_t cp = 0;
		size_t n = utf8_decode(s, len - i, &cp), plen;

		if (n && cp == '\\' && backslash) {
			plen = 2;
			memcpy(piece, "\\\\", 2);
		} else if (n && !is_unsafe(cp)) {
			memcpy(piece, s, n);
			plen = n;
		} else if (n && cp >= 0x80) {
			plen = (size_t)snprintf(piece, sizeof(piece), "\\u{%X}", (unsigned)cp);
		} else {
			plen = (size_t)snprintf(piece, sizeof(piece), "\\x%02X", s[0]);
			n = 1;
		}
		if (out + plen >= size) {
			/* does not fit: go back to where the dots still do */
			out = last_fit;
			for (n = 0; n < 3 && out + 1 < size; n++)
				dst[out++] = '.';
			break;
		}
		memcpy(dst + out, piece, plen);
		out += plen;
		if (out + 3 < size)
			last_fit = out;
		i += n;
	}
	dst[out] = '\0';
	return out;
}

size_t escape_text(char *dst, size_t size, const char *src, size_t len)
{
	return escape(dst, size, src, len, true);
}

size_t escape_again(char *dst, size_t size, const char *src, size_t len)
{
	return escape(dst, size, src, len, false);
}

char *escape_string(char *dst, size_t size, const char *src)
{
	escape_text(dst, size, src, strlen(src));
	return dst;
}
