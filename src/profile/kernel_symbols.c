/* SPDX-License-Identifier: Apache-2.0 */
/*
 * /proc/kallsyms has 200,000 lines and no order. Keeping them all would cost
 * more than the rest of beamray, so the few addresses that are wanted are kept
 * instead: each line is offered to the first wanted address at or above it,
 * and at the end every one inherits from the one before it if that knows of a
 * nearer function.
 */
#include "profile/kernel_symbols.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void offer(struct kernel_symbol *v, size_t n, uint64_t start, const char *name)
{
	size_t low = 0, high = n;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (v[mid].addr < start)
			low = mid + 1;
		else
			high = mid;
	}
	if (low < n && start > v[low].start) {
		v[low].start = start;
		snprintf(v[low].name, sizeof(v[low].name), "%s", name);
	}
}

int kernel_symbols(struct kernel_symbol *v, size_t n)
{
	char *line = NULL;
	size_t size = 0, i;
	FILE *f;

	if (!n)
		return 0;
	f = fopen("/proc/kallsyms", "re");
	if (!f)
		return -errno;
	while (getline(&line, &size, f) > 0) {
		char *p, *name, *end;
		uint64_t start = strtoull(line, &p, 16);

		if (!start || *p++ != ' ' || !strchr("tTwW", *p) || p[1] != ' ')
			continue;
		name = p + 2;
		end = name + strcspn(name, "\t\n ");
		*end = '\0';
		offer(v, n, start, name);
	}
	free(line);
	fclose(f);
	for (i = 1; i < n; i++)
		if (v[i - 1].start > v[i].start) {
			v[i].start = v[i - 1].start;
			memcpy(v[i].name, v[i - 1].name, sizeof(v[i].name));
		}
	return 0;
}
