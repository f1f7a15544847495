/* SPDX-License-Identifier: Apache-2.0 */
/* The list of built-in tables; add a line here and in tables.h for a new one. */
#include "erts/layouts/tables.h"

#include <string.h>

/*
 * In order of release; within a release the flavour that it is normally built with comes first:
 * layout_find() without a flavour takes the first that matches.
 */
/* clang-format off */
static const struct layout *const tables[] = {
	&layout_otp_23_x86_64,
	&layout_otp_23_x86_64_hipe,
	&layout_otp_25_x86_64,
	&layout_otp_25_x86_64_emu,
	&layout_otp_27_x86_64,
	&layout_otp_27_x86_64_emu,
	&layout_otp_29_x86_64,
	&layout_otp_29_x86_64_emu,
};
/* clang-format on */

#define TABLES (sizeof(tables) / sizeof(tables[0]))

size_t layout_count(void)
{
	return TABLES;
}

const struct layout *layout_at(size_t i)
{
	return i < TABLES ? tables[i] : NULL;
}

const struct layout *layout_find(int otp_major, const char *flavor)
{
	for (size_t i = 0; i < TABLES; i++) {
		if (tables[i]->otp_major != otp_major)
			continue;
		if (!flavor || strcmp(tables[i]->flavor, flavor) == 0)
			return tables[i];
	}
	return NULL;
}
