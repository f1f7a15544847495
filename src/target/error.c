/* SPDX-License-Identifier: Apache-2.0 */
#include "target/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

#include "target/escape.h"

int error_set(struct error *err, enum exit_code code, int ret, const char *fmt, ...)
{
	char raw[512];
	va_list ap;

	if (!err || err->code != EXIT_OK)
		return ret;
	va_start(ap, fmt);
	vsnprintf(raw, sizeof(raw), fmt, ap);
	va_end(ap);
	err->code = code;
	escape_string(err->text, sizeof(err->text), raw);
	return ret;
}

enum exit_code error_exit_code(int ret)
{
	switch (-ret) {
	case 0:
		return EXIT_OK;
	case EACCES:
	case EPERM:
		return EXIT_DENIED;
	case ESRCH:
	case ESTALE:
		return EXIT_GONE;
	case ENOTSUP:
	case ENOSYS:
		return EXIT_UNSUPPORTED;
	case EINVAL:
		return EXIT_USAGE;
	default:
		return EXIT_INCOMPLETE;
	}
}
