/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Layouts from DWARF.
 *
 * The debug information of a VM is a list of units, about one for each source file, and each unit
 * describes anew every type that its file saw: Process is there some two hundred times, always the
 * same. So the reader walks the top level of all units once and keeps the definitions whose name
 * is on the list of layout_fields.def, one of each shape.
 *
 *	unit erl_process.c           kept
 *	  struct process {...}  -->  "process": 1 candidate
 *	unit beam_ranges.c
 *	  struct ranges {...}   -->  "ranges": 2 candidates, of different size
 *	unit some_library.c
 *	  struct ranges {...}   -->
 *
 * Where one name has several shapes (a VM has other people's code linked in), the candidate wins
 * in which most of the wanted fields are found. A name on the list may also name its file:
 * "ranges@beam_ranges.c".
 *
 * A typedef may point at a mere declaration ("typedef struct process Process;") when its unit does
 * not see the definition; such a typedef leads to the tag's name, which is looked up like any other.
 *
 * The input may be damaged or hostile like everything that comes from a target: whatever libdw
 * cannot read counts as not there, nesting is bounded, nothing is trusted beyond its own size.
 */
#include "erts/layout_dwarf.h"

#include <dwarf.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

/* Longest name of a type, field or enumerator on the list, with room. */
#define NAME_MAX_LENGTH 128

/* Deeper nesting of unnamed structs, or longer chains of typedefs, is no ERTS. */
#define NESTING_MAX 16

/* Different shapes of one name that are worth a comparison. */
#define CANDIDATES_MAX 16

/* A definition found, one of each shape. */
struct candidate {
	Dwarf_Die die;
	Dwarf_Word size;
	Dwarf_Word line; /* where it is declared: tells shapes of equal size apart */
};

/* A name that is looked for among types, or among enumerators. */
struct wanted {
	char name[NAME_MAX_LENGTH]; /* without "@file" */
	char file[NAME_MAX_LENGTH]; /* empty: any */
	int count;
	struct candidate candidates[CANDIDATES_MAX];
	char tag[NAME_MAX_LENGTH]; /* a typedef's target that was only declared; empty: none */
	bool has_value;		   /* an enumerator */
	int64_t value;
};

struct reader {
	struct wanted *types;
	size_t types_count;
	size_t types_allocated;
	struct wanted *enumerators;
	size_t enumerators_count;
	size_t enumerators_allocated;
};

/*
 * Takes the next alternative of "a|b@file|c" apart into name and file. Returns what follows, NULL
 * at the end. A name too long for its buffer comes out empty, and nothing has that name.
 */
static const char *alternative_next(const char *paths, char name[NAME_MAX_LENGTH],
				    char file[NAME_MAX_LENGTH])
{
	size_t length = strcspn(paths, "|");
	size_t name_length = strcspn(paths, "|@");
	size_t file_length = name_length < length ? length - name_length - 1 : 0;

	name[0] = file[0] = '\0';
	if (name_length < NAME_MAX_LENGTH && file_length < NAME_MAX_LENGTH) {
		memcpy(name, paths, name_length);
		name[name_length] = '\0';
		memcpy(file, paths + length - file_length, file_length);
		file[file_length] = '\0';
	}
	return paths[length] ? paths + length + 1 : NULL;
}

static int wanted_compare(const void *a, const void *b)
{
	const struct wanted *wa = a;
	const struct wanted *wb = b;
	int order = strcmp(wa->name, wb->name);

	return order ? order : strcmp(wa->file, wb->file);
}

/* The first entry of that name in a sorted list; the others of the name follow it. */
static struct wanted *wanted_find(struct wanted *list, size_t count, const char *name)
{
	size_t low = 0;
	size_t high = count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (strcmp(list[middle].name, name) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low < count && strcmp(list[low].name, name) == 0 ? &list[low] : NULL;
}

static int wanted_add(struct wanted **list, size_t *count, size_t *allocated, const char *name,
		      const char *file)
{
	struct wanted *entry;

	if (!name[0])
		return 0;
	if (*count == *allocated) {
		size_t more = *allocated ? *allocated * 2 : 256;
		struct wanted *bigger = reallocarray(*list, more, sizeof(**list));

		if (!bigger)
			return -ENOMEM;
		*list = bigger;
		*allocated = more;
	}
	entry = &(*list)[(*count)++];
	memset(entry, 0, sizeof(*entry));
	strcpy(entry->name, name);
	strcpy(entry->file, file);
	return 0;
}

/* Sorts a list and drops entries that occur twice. */
static void wanted_sort(struct wanted *list, size_t *count)
{
	size_t kept = 0;

	if (!*count)
		return;
	qsort(list, *count, sizeof(*list), wanted_compare);
	for (size_t i = 0; i < *count; i++) {
		if (kept && wanted_compare(&list[kept - 1], &list[i]) == 0)
			continue;
		if (kept != i)
			list[kept] = list[i];
		kept++;
	}
	*count = kept;
}

static int reader_init(struct reader *reader)
{
	const struct layout_item *item;
	int err = 0;

	memset(reader, 0, sizeof(*reader));
	for (size_t i = 0; !err && (item = layout_item(i)) != NULL; i++) {
		const char *paths = item->paths;
		char name[NAME_MAX_LENGTH];
		char file[NAME_MAX_LENGTH];

		while (!err && paths) {
			paths = alternative_next(paths, name, file);
			if (item->kind == LAYOUT_KIND_TYPE)
				err = wanted_add(&reader->types, &reader->types_count,
						 &reader->types_allocated, name, file);
			else if (item->kind == LAYOUT_KIND_CONST)
				err = wanted_add(&reader->enumerators, &reader->enumerators_count,
						 &reader->enumerators_allocated, name, "");
		}
	}
	wanted_sort(reader->types, &reader->types_count);
	wanted_sort(reader->enumerators, &reader->enumerators_count);
	return err;
}

static void reader_free(struct reader *reader)
{
	free(reader->types);
	free(reader->enumerators);
}

static bool is_struct(Dwarf_Die *die)
{
	switch (dwarf_tag(die)) {
	case DW_TAG_structure_type:
	case DW_TAG_class_type:
	case DW_TAG_union_type:
		return true;
	default:
		return false;
	}
}

/* An attribute that is a plain number. */
static bool number_of(Dwarf_Die *die, unsigned int name, Dwarf_Word *number)
{
	Dwarf_Attribute attribute;

	return dwarf_attr_integrate(die, name, &attribute) &&
	       dwarf_formudata(&attribute, number) == 0;
}

static bool is_declaration(Dwarf_Die *die)
{
	return dwarf_hasattr_integrate(die, DW_AT_declaration);
}

/* The type of a member, typedef or array element. False if there is none. */
static bool type_of(Dwarf_Die *die, Dwarf_Die *type)
{
	Dwarf_Attribute attribute;

	return dwarf_attr_integrate(die, DW_AT_type, &attribute) &&
	       dwarf_formref_die(&attribute, type);
}

/* Strips typedefs and qualifiers. False if what is below cannot be read, or nests too deeply. */
static bool type_peel(Dwarf_Die *die, Dwarf_Die *result)
{
	Dwarf_Die type = *die;

	for (int i = 0; i < NESTING_MAX; i++) {
		switch (dwarf_tag(&type)) {
		case DW_TAG_typedef:
		case DW_TAG_const_type:
		case DW_TAG_volatile_type:
		case DW_TAG_restrict_type:
		case DW_TAG_atomic_type: {
			Dwarf_Die below;

			if (!type_of(&type, &below))
				return false;
			type = below;
			break;
		}
		default:
			*result = type;
			return true;
		}
	}
	return false;
}

static const char *base_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

/* Remembers a complete definition, unless one of the same shape is known. */
static void candidate_add(struct wanted *entry, Dwarf_Die *die)
{
	struct candidate *candidate;
	Dwarf_Word size = 0;
	Dwarf_Word line = 0;

	if (dwarf_aggregate_size(die, &size) != 0)
		return;
	if (!number_of(die, DW_AT_decl_line, &line))
		line = 0;
	for (int i = 0; i < entry->count; i++) {
		if (entry->candidates[i].size == size && entry->candidates[i].line == line)
			return;
	}
	if (entry->count == CANDIDATES_MAX)
		return;
	candidate = &entry->candidates[entry->count++];
	candidate->die = *die;
	candidate->size = size;
	candidate->line = line;
}

/* The file that declares a type, without its folders; empty if that is not known. */
static const char *declaring_file(Dwarf_Die *die)
{
	const char *file = dwarf_decl_file(die);
	Dwarf_Word index;
	Dwarf_Die unit;

	/* DWARF 5 counts files from 0, the unit's own; elfutils 0.188 takes 0 for "none". */
	if (!file && number_of(die, DW_AT_decl_file, &index) && index == 0 &&
	    dwarf_diecu(die, &unit, NULL, NULL))
		file = dwarf_diename(&unit);
	return file ? base_name(file) : "";
}

static bool file_matches(const struct wanted *entry, Dwarf_Die *die, const char **file)
{
	if (!entry->file[0])
		return true;
	if (!*file)
		*file = declaring_file(die);
	return strcmp(entry->file, *file) == 0;
}

static void visit_type(struct reader *reader, Dwarf_Die *die)
{
	const char *name = dwarf_diename(die);
	const char *file = NULL;
	struct wanted *end = reader->types + reader->types_count;
	struct wanted *entry;
	Dwarf_Die type;

	if (!name)
		return;
	entry = wanted_find(reader->types, reader->types_count, name);
	if (!entry || !type_peel(die, &type) || !is_struct(&type))
		return;
	for (; entry < end && strcmp(entry->name, name) == 0; entry++) {
		if (!file_matches(entry, die, &file))
			continue;
		if (!is_declaration(&type)) {
			candidate_add(entry, &type);
		} else if (dwarf_tag(die) == DW_TAG_typedef) {
			const char *tag = dwarf_diename(&type);

			if (tag && strlen(tag) < NAME_MAX_LENGTH)
				strcpy(entry->tag, tag);
		}
	}
}

static void visit_enumeration(struct reader *reader, Dwarf_Die *die)
{
	Dwarf_Die child;

	if (dwarf_child(die, &child) != 0)
		return;
	do {
		const char *name = dwarf_diename(&child);
		Dwarf_Attribute attribute;
		struct wanted *entry;
		Dwarf_Sword value;

		if (dwarf_tag(&child) != DW_TAG_enumerator || !name)
			continue;
		entry = wanted_find(reader->enumerators, reader->enumerators_count, name);
		if (!entry || entry->has_value)
			continue;
		if (!dwarf_attr_integrate(&child, DW_AT_const_value, &attribute) ||
		    dwarf_formsdata(&attribute, &value) != 0)
			continue;
		entry->has_value = true;
		entry->value = value;
	} while (dwarf_siblingof(&child, &child) == 0);
}

/* Visits what stands at the top level of every unit, type units and partial units included. */
static void visit_units(struct reader *reader, Dwarf *dw, bool enumerations)
{
	Dwarf_CU *unit = NULL;
	Dwarf_Die root;

	while (dwarf_get_units(dw, unit, &unit, NULL, NULL, &root, NULL) == 0) {
		Dwarf_Die die;

		if (dwarf_child(&root, &die) != 0)
			continue;
		do {
			switch (dwarf_tag(&die)) {
			case DW_TAG_structure_type:
			case DW_TAG_class_type:
			case DW_TAG_union_type:
			case DW_TAG_typedef:
				visit_type(reader, &die);
				break;
			case DW_TAG_enumeration_type:
				if (enumerations)
					visit_enumeration(reader, &die);
				break;
			default:
				break;
			}
		} while (dwarf_siblingof(&die, &die) == 0);
	}
}

/*
 * Typedefs of which no unit had the definition in sight: their tags join the list, and a second
 * visit finds them. Returns 0 or -ENOMEM.
 */
static int resolve_declared(struct reader *reader, Dwarf *dw)
{
	size_t count = reader->types_count;
	bool again = false;

	for (size_t i = 0; i < count; i++) {
		const struct wanted entry = reader->types[i];
		int err;

		if (entry.count || !entry.tag[0] ||
		    wanted_find(reader->types, count, entry.tag) != NULL)
			continue;
		err = wanted_add(&reader->types, &reader->types_count, &reader->types_allocated,
				 entry.tag, "");
		if (err)
			return err;
		again = true;
	}
	if (again) {
		wanted_sort(reader->types, &reader->types_count);
		visit_units(reader, dw, false);
	}
	for (size_t i = 0; i < reader->types_count; i++) {
		struct wanted *entry = &reader->types[i];
		const struct wanted *tag;

		if (entry->count || !entry->tag[0])
			continue;
		tag = wanted_find(reader->types, reader->types_count, entry->tag);
		if (tag && tag != entry) {
			entry->count = tag->count;
			memcpy(entry->candidates, tag->candidates, sizeof(entry->candidates));
		}
	}
	return 0;
}

/* Where a member's storage begins within its struct, in bytes. */
static bool member_location(Dwarf_Die *member, Dwarf_Word *offset)
{
	Dwarf_Attribute attribute;
	Dwarf_Op *ops;
	size_t ops_count;

	*offset = 0;
	if (!dwarf_attr_integrate(member, DW_AT_data_member_location, &attribute))
		return true; /* a member of a union */
	if (dwarf_formudata(&attribute, offset) == 0)
		return true;
	/* DWARF 2 said it as an expression; compilers may still do so. */
	if (dwarf_getlocation(&attribute, &ops, &ops_count) != 0 || ops_count != 1 ||
	    ops[0].atom != DW_OP_plus_uconst)
		return false;
	*offset = ops[0].number;
	return true;
}

/*
 * Offset of a member in bytes; false if it cannot be told. *bits becomes true if the member is a
 * bit-field that cannot be read as a field, because it is not whole bytes.
 */
static bool member_offset(Dwarf_Die *member, Dwarf_Word *offset, bool *bits)
{
	Dwarf_Word storage;
	Dwarf_Word size;
	Dwarf_Word at;

	*bits = false;
	if (!member_location(member, offset))
		return false;
	if (!dwarf_hasattr_integrate(member, DW_AT_bit_size))
		return true;
	if (!number_of(member, DW_AT_bit_size, &size))
		return false;
	if (number_of(member, DW_AT_data_bit_offset, &at)) {
		*offset = at / CHAR_BIT;
	} else if (number_of(member, DW_AT_bit_offset, &at) &&
		   number_of(member, DW_AT_byte_size, &storage)) {
		/* DWARF 4 and before count from the storage's most significant bit. */
		if (storage > sizeof(uint64_t) || at + size > storage * CHAR_BIT)
			return false;
		at = storage * CHAR_BIT - at - size;
		*offset += at / CHAR_BIT;
	} else {
		at = 0; /* in a union: at its beginning */
	}
	*bits = size % CHAR_BIT || at % CHAR_BIT;
	return true;
}

/*
 * Finds a member by its name, in unnamed structs and unions too. On success *offset grew by the
 * member's offset.
 */
static bool member_find(Dwarf_Die *type, const char *name, size_t name_length, int depth,
			Dwarf_Die *member, Dwarf_Word *offset, bool *bits)
{
	Dwarf_Die child;

	if (depth > NESTING_MAX || dwarf_child(type, &child) != 0)
		return false;
	do {
		const char *child_name = dwarf_diename(&child);
		Dwarf_Word at;

		if (dwarf_tag(&child) != DW_TAG_member)
			continue;
		if (child_name) {
			if (strncmp(child_name, name, name_length) != 0 || child_name[name_length])
				continue;
			if (!member_offset(&child, &at, bits))
				return false;
			*offset += at;
			*member = child;
			return true;
		}
		Dwarf_Die below;
		Dwarf_Die peeled;

		if (!type_of(&child, &below) || !type_peel(&below, &peeled) || !is_struct(&peeled))
			continue;
		if (!member_offset(&child, &at, bits) || *bits)
			continue;
		if (member_find(&peeled, name, name_length, depth + 1, member, offset, bits)) {
			*offset += at;
			return true;
		}
	} while (dwarf_siblingof(&child, &child) == 0);
	return false;
}

/* Number of elements of an array's first dimension; 0 for a flexible array, -1 if it is none. */
static int64_t array_length(Dwarf_Die *type)
{
	Dwarf_Die child;
	Dwarf_Word value;

	if (dwarf_tag(type) != DW_TAG_array_type || dwarf_child(type, &child) != 0)
		return -1;
	do {
		if (dwarf_tag(&child) != DW_TAG_subrange_type)
			continue;
		if (number_of(&child, DW_AT_count, &value) && value <= INT32_MAX)
			return (int64_t)value;
		if (number_of(&child, DW_AT_upper_bound, &value) && value < INT32_MAX)
			return (int64_t)value + 1;
		return 0;
	} while (dwarf_siblingof(&child, &child) == 0);
	return -1;
}

enum lookup { LOOKUP_FOUND, LOOKUP_MISSING, LOOKUP_BITS };

/* Follows one path ("cpool.stat.no_blocks") from a struct. *length: see array_length(). */
static enum lookup path_follow(Dwarf_Die *type, const char *path, struct layout_field *field,
			       int64_t *length)
{
	Dwarf_Die current = *type;
	Dwarf_Die member;
	Dwarf_Die below;
	Dwarf_Word offset = 0;
	Dwarf_Word size = 0;

	for (;;) {
		size_t name_length = strcspn(path, ".|");
		bool bits = false;

		/* A path through an array means its first element. */
		for (int i = 0; i < NESTING_MAX && dwarf_tag(&current) == DW_TAG_array_type; i++) {
			Dwarf_Die element;

			if (!type_of(&current, &element) || !type_peel(&element, &current))
				return LOOKUP_MISSING;
		}
		if (!is_struct(&current) ||
		    !member_find(&current, path, name_length, 0, &member, &offset, &bits))
			return LOOKUP_MISSING;
		if (bits)
			return LOOKUP_BITS;
		if (!type_of(&member, &below) || !type_peel(&below, &current))
			return LOOKUP_MISSING;
		path += name_length;
		if (*path != '.')
			break;
		path++;
	}
	/* A flexible array has no size: the field is there and 0 bytes long. */
	if (number_of(&member, DW_AT_bit_size, &size))
		size /= CHAR_BIT;
	else if (dwarf_aggregate_size(&below, &size) != 0)
		size = 0;
	if (offset > INT32_MAX || size > UINT32_MAX)
		return LOOKUP_MISSING;
	field->offset = (int32_t)offset;
	field->size = (uint32_t)size;
	*length = array_length(&current);
	return LOOKUP_FOUND;
}

/* Tries the alternatives of a field in turn. */
static enum lookup paths_follow(Dwarf_Die *type, const char *paths, struct layout_field *field,
				int64_t *length)
{
	enum lookup result = LOOKUP_MISSING;

	while (paths) {
		enum lookup found = path_follow(type, paths, field, length);

		if (found == LOOKUP_FOUND)
			return found;
		if (found == LOOKUP_BITS)
			result = found;
		paths = strchr(paths, '|');
		if (paths)
			paths++;
	}
	return result;
}

/* How many of the type's fields on the list are in this candidate. */
static size_t candidate_score(struct candidate *candidate, const char *type)
{
	const struct layout_item *item;
	size_t score = 0;

	for (size_t i = 0; (item = layout_item(i)) != NULL; i++) {
		struct layout_field field;
		int64_t length;

		if (item->kind == LAYOUT_KIND_FIELD && strcmp(item->type, type) == 0 &&
		    paths_follow(&candidate->die, item->paths, &field, &length) == LOOKUP_FOUND)
			score++;
	}
	return score;
}

/* The definition of a type of the list, NULL if there is none. */
static struct candidate *type_select(struct reader *reader, const struct layout_item *item,
				     bool *ambiguous)
{
	const char *paths = item->paths;
	char name[NAME_MAX_LENGTH];
	char file[NAME_MAX_LENGTH];

	*ambiguous = false;
	while (paths) {
		struct wanted *end = reader->types + reader->types_count;
		struct wanted *entry;
		struct candidate *best = NULL;
		size_t best_score = 0;

		paths = alternative_next(paths, name, file);
		entry = wanted_find(reader->types, reader->types_count, name);
		while (entry && entry < end && strcmp(entry->name, name) == 0 &&
		       strcmp(entry->file, file) != 0)
			entry++;
		if (!entry || entry == end || strcmp(entry->name, name) != 0 || !entry->count)
			continue;
		*ambiguous = entry->count > 1;
		if (entry->count == 1)
			return &entry->candidates[0];
		for (int i = 0; i < entry->count; i++) {
			size_t score = candidate_score(&entry->candidates[i], item->type);

			if (!best || score > best_score) {
				best = &entry->candidates[i];
				best_score = score;
			}
		}
		return best;
	}
	return NULL;
}

static bool type_is_known(struct reader *reader, const char *name)
{
	const struct wanted *entry = wanted_find(reader->types, reader->types_count, name);

	return entry && entry->count > 0;
}

static bool enumerator_find(struct reader *reader, const char *paths, int64_t *value)
{
	char name[NAME_MAX_LENGTH];
	char file[NAME_MAX_LENGTH];

	while (paths) {
		const struct wanted *entry;

		paths = alternative_next(paths, name, file);
		entry = wanted_find(reader->enumerators, reader->enumerators_count, name);
		if (entry && entry->has_value) {
			*value = entry->value;
			return true;
		}
	}
	return false;
}

/* Sets an entry's value in a layout, whatever its kind. */
static void item_set(struct layout *l, const struct layout_item *item, struct layout_field field,
		     int64_t number)
{
	char *member = (char *)l + item->member;

	switch (item->kind) {
	case LAYOUT_KIND_TYPE:
		memcpy(member, &field.size, sizeof(field.size));
		break;
	case LAYOUT_KIND_FIELD:
		memcpy(member, &field, sizeof(field));
		break;
	case LAYOUT_KIND_LENGTH:
	case LAYOUT_KIND_CONST:
		memcpy(member, &number, sizeof(number));
		break;
	}
}

/* The value that an entry has when nothing is known of it: base's, or absent. */
static void item_set_default(struct layout *l, const struct layout_item *item,
			     const struct layout *base)
{
	const struct layout_field none = LAYOUT_NO_FIELD;

	if (base)
		item_set(l, item, layout_item_field(base, item), layout_item_const(base, item));
	else
		item_set(l, item, none, LAYOUT_NO_CONST);
}

int layout_from_dwarf(Dwarf *dw, const struct layout *base, struct layout *out,
		      layout_problem_fn fn, void *ctx)
{
	const struct layout_item *item;
	struct candidate *type = NULL;
	struct layout result;
	struct reader reader;
	int err;

	err = reader_init(&reader);
	if (err)
		goto out;
	visit_units(&reader, dw, true);
	err = resolve_declared(&reader, dw);
	if (err)
		goto out;

	memset(&result, 0, sizeof(result));
	result.otp = base ? base->otp : "";
	result.otp_major = base ? base->otp_major : 0;
	result.erts_vsn = base ? base->erts_vsn : "";
	result.arch = base ? base->arch : "";
	result.flavor = base ? base->flavor : "";
	result.source = "debug information";
	result.list_id = layout_list_id();

	/* A type stands before its fields in the list, and its fields follow it directly. */
	for (size_t i = 0; (item = layout_item(i)) != NULL; i++) {
		const struct layout_field none = LAYOUT_NO_FIELD;
		struct layout_field field = none;
		int64_t number = LAYOUT_NO_CONST;
		enum lookup found;
		bool ambiguous;

		switch (item->kind) {
		case LAYOUT_KIND_TYPE:
			type = type_select(&reader, item, &ambiguous);
			if (!type) {
				item_set_default(&result, item, base);
				if (fn)
					fn(item, LAYOUT_PROBLEM_TYPE_MISSING, ctx);
				break;
			}
			if (type->size <= UINT32_MAX)
				field.size = (uint32_t)type->size;
			item_set(&result, item, field, number);
			if (ambiguous && fn)
				fn(item, LAYOUT_PROBLEM_TYPE_AMBIGUOUS, ctx);
			break;
		case LAYOUT_KIND_FIELD:
		case LAYOUT_KIND_LENGTH:
			if (!type) {
				item_set_default(&result, item, base);
				break;
			}
			found = paths_follow(&type->die, item->paths, &field, &number);
			if (found == LOOKUP_FOUND && item->kind == LAYOUT_KIND_LENGTH && number < 0)
				found = LOOKUP_MISSING;
			if (found != LOOKUP_FOUND) {
				field = none;
				number = LAYOUT_NO_CONST;
				if (fn)
					fn(item,
					   found == LOOKUP_BITS ? LAYOUT_PROBLEM_FIELD_BITS
								: LAYOUT_PROBLEM_FIELD_MISSING,
					   ctx);
			}
			item_set(&result, item, field, number);
			break;
		case LAYOUT_KIND_CONST:
			if (enumerator_find(&reader, item->paths, &number)) {
				item_set(&result, item, field, number);
				break;
			}
			item_set_default(&result, item, base);
			if (fn)
				fn(item, LAYOUT_PROBLEM_CONST_MISSING, ctx);
			break;
		}
	}

	/* Every release has these, and nobody else: without them this is not a VM. */
	if (!type_is_known(&reader, "Allctr_t") || !type_is_known(&reader, "process")) {
		err = -ENOENT;
		goto out;
	}
	*out = result;
out:
	reader_free(&reader);
	return err;
}
