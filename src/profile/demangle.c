/* SPDX-License-Identifier: Apache-2.0 */
#include "profile/demangle.h"

#include <stdlib.h>
#include <string.h>
#if __has_include(<libiberty/demangle.h>)
#include <libiberty/demangle.h>
#else
#include <demangle.h>
#endif

#include "target/escape.h"

#define TEXT_MAX    2048
#define MANGLED_MAX 2048 /* longer ones stay as they are */

char *symbol_plain_name(const char *raw)
{
	char text[TEXT_MAX], *plain = NULL, *result;

	/* libiberty limits its recursion by itself */
	if (raw[0] == '_' && (raw[1] == 'Z' || raw[1] == 'R') && strlen(raw) <= MANGLED_MAX)
		plain = cplus_demangle(raw, DMGL_AUTO | DMGL_ANSI);
	escape_string(text, sizeof(text), plain ? plain : raw);
	result = strdup(text);
	free(plain);
	return result;
}
