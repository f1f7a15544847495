/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The list of what a layout holds, and what can be said of any layout. See layout.h.
 *
 * The built-in tables are not referred to here, so that the generator can be built without them.
 */
#include "erts/layout.h"

#include <string.h>

static const struct layout_item items[] = {
#define LAYOUT_TYPE(t, names) \
	{ LAYOUT_KIND_TYPE, #t, "size_" #t, names, offsetof(struct layout, size_##t) },
#define LAYOUT_FIELD(t, field, paths) \
	{ LAYOUT_KIND_FIELD, #t, #t "__" #field, paths, offsetof(struct layout, t##__##field) },
#define LAYOUT_LENGTH(name, t, paths) \
	{ LAYOUT_KIND_LENGTH, #t, #name, paths, offsetof(struct layout, name) },
#define LAYOUT_CONST(name, names) \
	{ LAYOUT_KIND_CONST, NULL, #name, names, offsetof(struct layout, name) },
#include "erts/layout_fields.def"
};

#define ARRAY_LENGTH(a) (sizeof(a) / sizeof((a)[0]))

size_t layout_item_count(void)
{
	return ARRAY_LENGTH(items);
}

const struct layout_item *layout_item(size_t i)
{
	return i < ARRAY_LENGTH(items) ? &items[i] : NULL;
}

uint32_t layout_list_id(void)
{
	uint32_t id = 2166136261u; /* FNV-1a; any hash would do, it only has to notice changes */

	for (size_t i = 0; i < ARRAY_LENGTH(items); i++) {
		const char *texts[] = { items[i].name, items[i].paths };

		for (size_t j = 0; j < ARRAY_LENGTH(texts); j++) {
			for (const char *c = texts[j]; *c; c++)
				id = (id ^ (unsigned char)*c) * 16777619u;
			id = (id ^ '\n') * 16777619u;
		}
	}
	return id;
}

struct layout_field layout_item_field(const struct layout *l, const struct layout_item *item)
{
	struct layout_field field = LAYOUT_NO_FIELD;
	const char *member = (const char *)l + item->member;

	if (item->kind == LAYOUT_KIND_FIELD) {
		memcpy(&field, member, sizeof(field));
	} else if (item->kind == LAYOUT_KIND_TYPE) {
		memcpy(&field.size, member, sizeof(field.size));
		field.offset = field.size ? 0 : -1;
	}
	return field;
}

int64_t layout_item_const(const struct layout *l, const struct layout_item *item)
{
	int64_t value = LAYOUT_NO_CONST;

	if (item->kind == LAYOUT_KIND_CONST || item->kind == LAYOUT_KIND_LENGTH)
		memcpy(&value, (const char *)l + item->member, sizeof(value));
	return value;
}

size_t layout_compare(const struct layout *a, const struct layout *b, layout_difference_fn fn,
		      void *ctx)
{
	size_t differences = 0;

	for (size_t i = 0; i < ARRAY_LENGTH(items); i++) {
		const struct layout_item *item = &items[i];
		struct layout_field fa = layout_item_field(a, item);
		struct layout_field fb = layout_item_field(b, item);

		if (fa.offset == fb.offset && fa.size == fb.size &&
		    layout_item_const(a, item) == layout_item_const(b, item))
			continue;
		differences++;
		if (fn)
			fn(item, a, b, ctx);
	}
	return differences;
}
