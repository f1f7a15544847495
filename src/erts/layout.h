/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Layouts: where the fields of ERTS's structures lie in one build of the VM.
 *
 * beamray is not compiled against ERTS: every release moves fields about, and one beamray reads
 * all of them. So each struct that beamray reads is described by data: its size, and an offset and
 * a size for every field of interest. What is of interest is listed once, in layout_fields.def;
 * this header, the tables in layouts/, the DWARF reader (layout_dwarf.h) and the generator
 * (tools/otp-layout) are all expansions of that list.
 *
 * How to read a field:
 *
 *	const struct layout *l = ...;
 *	if (layout_has(l->Process__sig_qs_mq_len))
 *		... read l->Process__sig_qs_mq_len.size bytes
 *		    at address + l->Process__sig_qs_mq_len.offset ...
 *
 * Names:
 *	l->size_TYPE		sizeof(TYPE) in bytes, 0 if the release has no such type
 *	l->TYPE__FIELD		offset and size in bytes; {-1, 0} if the release has no such field
 *	l->CONSTANT		a number; LAYOUT_NO_CONST if the release has no such thing
 *
 * A layout says nothing about a live process until it has been verified there: sizes against
 * ErtsPTab's element_size, list invariants, known atoms (erts/anchors does that).
 */
#ifndef BEAMRAY_ERTS_LAYOUT_H
#define BEAMRAY_ERTS_LAYOUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* One field: bytes from the start of the struct, and bytes long (an array's whole length). */
struct layout_field {
	int32_t offset;
	uint32_t size;
};

#define LAYOUT_NO_FIELD                 \
	{                               \
		.offset = -1, .size = 0 \
	}

/* "This release has no such constant." No constant of ERTS that we read has this value. */
#define LAYOUT_NO_CONST INT64_MAX

struct layout {
	const char *otp;      /* release, e.g. "27.3.4.1" */
	int otp_major;	      /* 27 */
	const char *erts_vsn; /* "15.2.7" */
	const char *arch;     /* "x86_64" */
	const char *flavor;   /* "jit", "emu" or, up to OTP 23, "hipe" */
	const char *source;   /* what was measured, in words */
	uint32_t list_id;     /* layout_list_id() of the list that a table was made from */

#define LAYOUT_TYPE(type, names)	 uint32_t size_##type;
#define LAYOUT_FIELD(type, field, paths) struct layout_field type##__##field;
#define LAYOUT_LENGTH(name, type, paths) int64_t name;
#define LAYOUT_CONST(name, names)	 int64_t name;
#include "erts/layout_fields.def"
};

/* What an entry of layout_fields.def is; see layout_item(). */
enum layout_kind { LAYOUT_KIND_TYPE, LAYOUT_KIND_FIELD, LAYOUT_KIND_LENGTH, LAYOUT_KIND_CONST };

/* One entry of layout_fields.def, for code that treats all of them alike. */
struct layout_item {
	enum layout_kind kind;
	const char *type;  /* the type's name here; NULL for a constant */
	const char *name;  /* the member's name in struct layout, e.g. "Process__htop" */
	const char *paths; /* names or paths in ERTS, alternatives separated by '|' */
	size_t member;	   /* offsetof(struct layout, name) */
};

static inline bool layout_has(struct layout_field field)
{
	return field.offset >= 0;
}

static inline bool layout_has_const(int64_t constant)
{
	return constant != LAYOUT_NO_CONST;
}

/* True if any bit of the constant is set in value; false if the release lacks the constant. */
static inline bool layout_flag(uint64_t value, int64_t constant)
{
	return layout_has_const(constant) && (value & (uint64_t)constant) != 0;
}

/*
 * The built-in table of a release, or NULL. flavor is "jit", "emu" or "hipe"; NULL takes the one that
 * the release is normally built with. A table serves every version of a major release; whether it
 * fits the process at hand must be verified there (OTP 23 with HiPE has a larger Process and one
 * allocator more, but the same version). Static storage, never freed.
 */
const struct layout *layout_find(int otp_major, const char *flavor);

/* The built-in tables, ordered by release: layout_at(0) ... layout_at(layout_count() - 1). */
size_t layout_count(void);
const struct layout *layout_at(size_t i);

/* The entries of layout_fields.def in their order; NULL past the end. */
const struct layout_item *layout_item(size_t i);
size_t layout_item_count(void);

/*
 * A number that changes with every change to layout_fields.def. A table with another one is stale:
 * fields added since would read as "at offset 0" (tests/unit/test_layout.c refuses such a tree).
 */
uint32_t layout_list_id(void);

/*
 * One entry's value within a layout, as offset and size (a type: {0, size}).
 * Constants and lengths: use layout_item_const().
 */
struct layout_field layout_item_field(const struct layout *l, const struct layout_item *item);
int64_t layout_item_const(const struct layout *l, const struct layout_item *item);

/* Called for an entry whose values in a and b differ. */
typedef void (*layout_difference_fn)(const struct layout_item *item, const struct layout *a,
				     const struct layout *b, void *ctx);

/*
 * Compares all entries of two layouts (not the names of the release) and calls fn, unless NULL,
 * for each that differs. Returns the number of differences.
 */
size_t layout_compare(const struct layout *a, const struct layout *b, layout_difference_fn fn,
		      void *ctx);

#endif
