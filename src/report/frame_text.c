/* SPDX-License-Identifier: Apache-2.0 */
#include "report/frame_text.h"

#include <inttypes.h>
#include <stdio.h>

char *symbol_text(char *buf, size_t size, const struct symbol *s, uint64_t addr)
{
	if (!s)
		snprintf(buf, size, "0x%" PRIx64, addr);
	else if (s->kind == FRAME_KERNEL)
		s->name ? snprintf(buf, size, "%s_[k]", s->name)
			: snprintf(buf, size, "0x%" PRIx64 "_[k]", s->offset);
	else if (s->name && (s->kind == FRAME_ERLANG || s->kind == FRAME_GLUE || !s->module))
		snprintf(buf, size, "%s", s->name);
	else if (s->name)
		snprintf(buf, size, "%s [%s]", s->name, s->module);
	else if (s->module)
		snprintf(buf, size, "%s+0x%" PRIx64, s->module, s->offset);
	else
		snprintf(buf, size, "0x%" PRIx64, s->offset);
	return buf;
}

char *frame_text(char *buf, size_t size, const struct symbols *symbols,
		 const struct profile_stack *stack, size_t i)
{
	const struct frame *f = &stack->frames[i];

	switch (f->kind) {
	case FRAME_REPEAT:
		snprintf(buf, size, "(the frames before, %" PRIu64 " times more)", f->addr);
		return buf;
	case FRAME_CUT:
		snprintf(buf, size, "(cut: %s)", frame_cut_name(f->addr));
		return buf;
	case FRAME_JOINED:
		snprintf(buf, size, "(on behalf of the process)");
		return buf;
	default:
		return symbol_text(buf, size, symbols_find(symbols, stack, i), f->addr);
	}
}
