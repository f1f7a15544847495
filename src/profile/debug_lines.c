/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inlined functions have no symbol: the machine code of several functions is
 * one. DWARF keeps a tree of scopes,
 *
 *	subprogram parse            the symbol's function
 *	  inlined_subroutine next   called at parse.c:40
 *	    inlined_subroutine get  called at reader.h:12
 *
 * and an address belongs to all scopes that cover it. Read from the inside,
 * each scope's own line is where the one within it was called.
 * (dwarf_getscopes() goes on to where an inlined function was written, not to
 * where it was inlined; the tree's own parents are dwarf_getscopes_die()'s.)
 */
#include "profile/debug_lines.h"

#include <dwarf.h>
#include <elfutils/libdw.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "profile/demangle.h"
#include "target/escape.h"

#define DEPTH_MAX 32 /* functions inlined into each other */
#define TEXT_MAX  1024

struct debug_lines {
	int fd;
	Dwarf *dwarf;
};

struct debug_lines *debug_lines_open(struct target *t, const struct image *i)
{
	struct debug_lines *d = calloc(1, sizeof(*d));

	if (!d)
		return NULL;
	d->fd = image_debug_open(t, i);
	if (d->fd >= 0)
		d->dwarf = dwarf_begin(d->fd, DWARF_C_READ);
	if (d->dwarf)
		return d;
	debug_lines_close(d);
	return NULL;
}

void debug_lines_close(struct debug_lines *d)
{
	if (!d)
		return;
	if (d->dwarf)
		dwarf_end(d->dwarf);
	if (d->fd >= 0)
		close(d->fd);
	free(d);
}

static char *escaped(const char *raw)
{
	char text[TEXT_MAX];

	if (!raw || !*raw)
		return NULL;
	return strdup(escape_string(text, sizeof(text), raw));
}

static uint32_t call_line(Dwarf_Die *die)
{
	Dwarf_Attribute attr;
	Dwarf_Word line;

	if (!dwarf_attr(die, DW_AT_call_line, &attr) || dwarf_formudata(&attr, &line) ||
	    line > UINT32_MAX)
		return 0;
	return (uint32_t)line;
}

static const char *call_file(Dwarf_Die *cu, Dwarf_Die *die)
{
	Dwarf_Attribute attr;
	Dwarf_Files *files;
	Dwarf_Word index;
	size_t n;

	if (!dwarf_attr(die, DW_AT_call_file, &attr) || dwarf_formudata(&attr, &index) ||
	    dwarf_getsrcfiles(cu, &files, &n) || index >= n)
		return NULL;
	return dwarf_filesrc(files, index, NULL, NULL);
}

/* Where a function was declared: behind an inlined one stands the abstract function,
 * behind that, for a member, the declaration in its class. */
static Dwarf_Die declaration(Dwarf_Die *die)
{
	static const unsigned steps[] = { DW_AT_abstract_origin, DW_AT_specification };
	Dwarf_Die at = *die, next;
	Dwarf_Attribute attr;
	size_t i;

	for (i = 0; i < 2; i++)
		if (dwarf_attr(&at, steps[i], &attr) && dwarf_formref_die(&attr, &next))
			at = next;
	return at;
}

/* Its name with those of the namespaces and classes around it. Functions that are known
 * outside of their file have it as a symbol would; the others only by where they stand. */
static char *full_name(Dwarf_Die *die)
{
	Dwarf_Die at = declaration(die), *scopes = NULL;
	char text[TEXT_MAX] = "";
	Dwarf_Attribute attr;
	const char *name;
	size_t n = 0;
	int i;

	name = dwarf_attr_integrate(die, DW_AT_linkage_name, &attr) ? dwarf_formstring(&attr)
								    : NULL;
	if (name)
		return symbol_plain_name(name);
	i = dwarf_getscopes_die(&at, &scopes);
	while (i-- > 1 && n < sizeof(text)) {
		int tag = dwarf_tag(&scopes[i]);

		name = dwarf_diename(&scopes[i]);
		if (tag == DW_TAG_namespace || tag == DW_TAG_class_type ||
		    tag == DW_TAG_structure_type)
			n += (size_t)snprintf(text + n, sizeof(text) - n,
					      "%s::", name ? name : "(anonymous namespace)");
	}
	free(scopes);
	name = dwarf_diename(&at);
	if (n < sizeof(text))
		snprintf(text + n, sizeof(text) - n, "%s", name ? name : "");
	return name ? escaped(text) : NULL;
}

/* Puts a copy of `s` behind it and gives `s` the name of the inlined function. */
static int push(struct symbol *s, Dwarf_Die *cu, Dwarf_Die *die)
{
	struct symbol *outer;
	char *name = dwarf_diename(die) ? full_name(die) : NULL;

	if (!name)
		return 0;
	outer = malloc(sizeof(*outer));
	if (!outer) {
		free(name);
		return -ENOMEM;
	}
	*outer = *s;
	/* the outer function's line is that of the call */
	free(outer->file);
	outer->file = escaped(call_file(cu, die));
	outer->line = call_line(die);
	s->name = name;
	s->module = outer->module ? strdup(outer->module) : NULL;
	s->file = NULL;
	s->line = 0;
	s->outer = outer;
	return s->module || !outer->module ? 0 : -ENOMEM;
}

int debug_lines_add(struct debug_lines *d, uint64_t vaddr, struct symbol *s)
{
	Dwarf_Die cu, *scopes = NULL;
	Dwarf_Line *line;
	int i, n, number = 0, ret = 0;

	if (!dwarf_addrdie(d->dwarf, vaddr, &cu))
		return 0;
	n = dwarf_getscopes(&cu, vaddr, &scopes);
	if (n > 0) {
		Dwarf_Die innermost = scopes[0];

		free(scopes);
		scopes = NULL;
		n = dwarf_getscopes_die(&innermost, &scopes);
	}
	if (n > 0) {
		int first = n;

		/* scopes[0] is the innermost; the function itself ends the chain */
		for (i = 0; i < n; i++)
			if (dwarf_tag(&scopes[i]) == DW_TAG_subprogram) {
				first = i;
				break;
			}
		if (first == n || first > DEPTH_MAX)
			first = 0;
		for (i = first - 1; i >= 0 && !ret; i--)
			if (dwarf_tag(&scopes[i]) == DW_TAG_inlined_subroutine)
				ret = push(s, &cu, &scopes[i]);
	}
	free(scopes);
	if (ret)
		return ret;
	line = dwarf_getsrc_die(&cu, vaddr);
	if (line && dwarf_lineno(line, &number) == 0 && number > 0) {
		free(s->file);
		s->file = escaped(dwarf_linesrc(line, NULL, NULL));
		s->line = (uint32_t)number;
	}
	return 0;
}
