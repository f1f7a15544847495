/* SPDX-License-Identifier: Apache-2.0 */
/* Text in XML and HTML. */
#ifndef BEAMRAY_REPORT_XML_H
#define BEAMRAY_REPORT_XML_H

#include <stddef.h>
#include <stdio.h>

/* What has been escaped for a terminal still has < and &. Bytes that no XML document
 * may hold are not in it any more; if one is, it is left out. Good between tags and
 * in quoted attributes. */
void xml_text(FILE *to, const char *text, size_t len);
void xml_string(FILE *to, const char *text);

#endif
