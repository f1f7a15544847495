/* SPDX-License-Identifier: Apache-2.0 */
/* The accounts of a ledger in the order in which a person asks for them. */
#ifndef BEAMRAY_REPORT_ACCOUNT_GROUPS_H
#define BEAMRAY_REPORT_ACCOUNT_GROUPS_H

#include <stddef.h>

struct account_group {
	const char *name;
	const char *meaning;
	const char *prefixes[4];
};

#define ACCOUNT_GROUPS 8
extern const struct account_group account_groups[ACCOUNT_GROUPS];

/* The number of the group of an account; that of what nobody can name if it is in
 * none. */
size_t account_group_of(const char *account);

#endif
