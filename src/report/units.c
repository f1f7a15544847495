/* SPDX-License-Identifier: Apache-2.0 */
#include "report/units.h"

#include <stdio.h>
#include <strings.h>

static const char *const names[] = { "auto", "B", "KiB", "MiB", "GiB" };

bool unit_parse(const char *text, enum unit *out)
{
	size_t i;

	for (i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (strcasecmp(text, names[i]) == 0) {
			*out = (enum unit)i;
			return true;
		}
	return false;
}

static char *format(char *buf, size_t size, enum unit unit, uint64_t bytes, const char *sign)
{
	double v = (double)bytes;
	int i;

	if (unit == UNIT_AUTO)
		unit = bytes < 1024		       ? UNIT_BYTES
		       : bytes < 1024 * 1024	       ? UNIT_KIB
		       : bytes < 1024ULL * 1024 * 1024 ? UNIT_MIB
						       : UNIT_GIB;
	if (unit == UNIT_BYTES) {
		snprintf(buf, size, "%s%llu B", sign, (unsigned long long)bytes);
		return buf;
	}
	for (i = UNIT_BYTES; i < (int)unit; i++)
		v /= 1024;
	snprintf(buf, size, "%s%.*f %s", sign, unit == UNIT_GIB ? 2 : 1, v, names[unit]);
	return buf;
}

char *unit_format(char *buf, size_t size, enum unit unit, uint64_t bytes)
{
	if (bytes == UINT64_MAX) {
		snprintf(buf, size, "unknown");
		return buf;
	}
	return format(buf, size, unit, bytes, "");
}

char *unit_format_signed(char *buf, size_t size, enum unit unit, int64_t bytes)
{
	uint64_t magnitude = bytes < 0 ? 0 - (uint64_t)bytes : (uint64_t)bytes;

	return format(buf, size, unit, magnitude, bytes < 0 ? "-" : "+");
}
