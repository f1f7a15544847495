/* SPDX-License-Identifier: Apache-2.0 */
/* What changed between two moments, by name: accounts, allocators, owners, stacks. */
#ifndef BEAMRAY_REPORT_CHANGES_H
#define BEAMRAY_REPORT_CHANGES_H

#include <jansson.h>
#include <stdio.h>

#include "report/units.h"

struct change {
	char *name;   /* escaped */
	int64_t a, b; /* 0 where it is not there */
	int64_t change;
};

struct changes {
	struct change *v;
	size_t n;
	bool failed; /* out of memory: something is missing */
};

/* Adds `value` to what `name` has at the first (a) or the second (b) moment. */
void changes_add(struct changes *c, const char *name, bool is_b, int64_t value);
/* Merges equal names and sorts: biggest change first. 0 or -ENOMEM. */
int changes_sort(struct changes *c);
void changes_clear(struct changes *c);

struct changes_text {
	const char *title, *a, *b; /* of the columns */
	enum unit unit;
	size_t most;   /* rows; the others are summed up */
	int64_t floor; /* rows that changed less are summed up; 0: only those that did not change */
	uint64_t large; /* but not those with at least so many bytes at the end */
	bool all;
};

/* A table; nothing where there are no rows. */
void changes_text(FILE *to, const struct changes *c, const struct changes_text *t);
/* A list of {NAME, A, B, "change"}: the names of the first three members are given. */
json_t *changes_json(const struct changes *c, const char *name, const char *a, const char *b);

#endif
