/* SPDX-License-Identifier: Apache-2.0 */
/* Byte counts as a person reads them. */
#ifndef BEAMRAY_REPORT_UNITS_H
#define BEAMRAY_REPORT_UNITS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum unit { UNIT_AUTO, UNIT_BYTES, UNIT_KIB, UNIT_MIB, UNIT_GIB };

/* "auto", "B", "KiB", "MiB", "GiB", any case; false if it is none of them. */
bool unit_parse(const char *text, enum unit *out);
/* At most 11 characters: "12.1 GiB", "-3.0 MiB", "unknown" for UINT64_MAX. */
char *unit_format(char *buf, size_t size, enum unit unit, uint64_t bytes);
char *unit_format_signed(char *buf, size_t size, enum unit unit, int64_t bytes);

#endif
