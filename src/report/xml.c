/* SPDX-License-Identifier: Apache-2.0 */
#include "report/xml.h"

#include <string.h>

void xml_text(FILE *to, const char *text, size_t len)
{
	size_t i;

	for (i = 0; i < len; i++)
		switch (text[i]) {
		case '<':
			fputs("&lt;", to);
			break;
		case '>':
			fputs("&gt;", to);
			break;
		case '&':
			fputs("&amp;", to);
			break;
		case '"':
			fputs("&quot;", to);
			break;
		case '\'':
			fputs("&#39;", to);
			break;
		default:
			if ((unsigned char)text[i] >= 0x20 && text[i] != 0x7f)
				putc(text[i], to);
		}
}

void xml_string(FILE *to, const char *text)
{
	xml_text(to, text, strlen(text));
}
