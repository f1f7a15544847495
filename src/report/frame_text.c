/* SPDX-License-Identifier: Apache-2.0 */
#include "report/frame_text.h"

#include <stdio.h>

char *frame_text(char *buf, size_t size, const struct symbols *symbols,
		 const struct profile_stack *stack, size_t i)
{
	const struct symbol *s = symbols_find(symbols, stack, i);
	const struct frame *f = &stack->frames[i];

	if (f->kind == FRAME_REPEAT)
		snprintf(buf, size, "(the frames before, %llu times more)",
			 (unsigned long long)f->addr);
	else if (f->kind == FRAME_CUT)
		snprintf(buf, size, "(cut: the rest could not be walked)");
	else if (f->kind == FRAME_JOINED)
		snprintf(buf, size, "(on behalf of the process)");
	else if (s && s->name && (s->kind == FRAME_ERLANG || s->kind == FRAME_GLUE))
		snprintf(buf, size, "%s", s->name);
	else if (s && s->name && s->kind == FRAME_KERNEL)
		snprintf(buf, size, "%s_[k]", s->name);
	else if (s && s->name)
		snprintf(buf, size, "%s [%s]", s->name, s->module ? s->module : "?");
	else if (s && s->module)
		snprintf(buf, size, "%s+0x%llx", s->module, (unsigned long long)s->offset);
	else
		snprintf(buf, size, "0x%llx", (unsigned long long)f->addr);
	return buf;
}
