/* SPDX-License-Identifier: Apache-2.0 */
/* Prose folded to the width of a page. */
#ifndef BEAMRAY_REPORT_PARAGRAPH_H
#define BEAMRAY_REPORT_PARAGRAPH_H

#include <stdio.h>

/* Prints `text` (valid UTF-8 on one line) folded at blanks so that no line is
 * wider than `columns` bytes. The first line begins with `lead`, the others
 * with as many blanks. */
void paragraph(FILE *to, const char *lead, const char *text, unsigned columns);

#endif
