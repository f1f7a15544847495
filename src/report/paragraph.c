/* SPDX-License-Identifier: Apache-2.0 */
#include "report/paragraph.h"

#include <string.h>

void paragraph(FILE *to, const char *lead, const char *text, unsigned columns)
{
	unsigned indent = (unsigned)strlen(lead);
	unsigned room = columns > indent + 20 ? columns - indent : 20;

	while (*text) {
		size_t len = strlen(text), cut = len;

		if (len > room) {
			for (cut = room; cut > 0 && text[cut] != ' '; cut--)
				;
			if (!cut)
				cut = room;
			/* not in the middle of a UTF-8 sequence */
			while (cut < len && ((unsigned char)text[cut] & 0xc0) == 0x80)
				cut++;
		}
		fprintf(to, "%s%.*s\n", lead, (int)cut, text);
		text += cut;
		while (*text == ' ')
			text++;
		if (*text) {
			fprintf(to, "%*s", (int)indent, "");
			lead = "";
		}
	}
}
