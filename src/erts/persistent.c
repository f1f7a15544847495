/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Persistent terms (erl_bif_persistent.c).
 *
 *	the_hash_table -> HashTable { allocated, num_entries, mask, ..., term[] }
 *	term[i]        -> the tuple {Key, Value}, which begins a literal area:
 *	                  ErtsLiteralArea { off_heap, end, start[] = {2, Key, Value} ... }
 *
 * The pointer is static: no symbol, in no release. But persistent_term:info/0 is
 * a BIF that the VM knows by name, and one of the first things it does is to load
 * that pointer, `mov reg, [rip + offset]`. So the loads of that function from the
 * image's own data are tried: the one that leads to a table whose size is a power
 * of two, whose mask is that minus one, and which holds as many tuples as it says,
 * is the_hash_table.
 */
#include "erts/modules.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "erts/natives.h"
#include "erts/vm_cache.h"

#define CODE_BYTES  512	       /* of persistent_term_info_0 that are looked at */
#define ENTRIES_MAX (1u << 24) /* slots of a table */
#define CACHE_PAGES 1024
#define ATOM_TAG    0x0bu
#define SMALL_TAG   0xfu
#define BOXED_TAG   2u
#define AREA_MAX    (1ull << 40)

struct table {
	uint64_t addr, allocated, entries;
};

static bool table_at(struct vm *vm, uint64_t pointer, struct table *t)
{
	const struct layout *l = vm->layout;
	uint64_t mask;

	return !vm_read_u64(vm, pointer, &t->addr) && t->addr >= 4096 && !(t->addr & 7) &&
	       !vm_read_field(vm, t->addr, l->persistent_table__allocated, &t->allocated) &&
	       !vm_read_field(vm, t->addr, l->persistent_table__num_entries, &t->entries) &&
	       !vm_read_field(vm, t->addr, l->persistent_table__mask, &mask) && t->allocated >= 2 &&
	       t->allocated <= ENTRIES_MAX && !(t->allocated & (t->allocated - 1)) &&
	       mask == t->allocated - 1 && t->entries < t->allocated;
}

/* The terms of the table, or NULL when they are not `entries` pointers to tuples. */
static uint64_t *terms_read(struct vm *vm, const struct table *t)
{
	uint64_t *v = malloc(t->allocated * sizeof(*v)), i, n = 0;

	if (v && vm_read(vm, t->addr + (uint64_t)vm->layout->persistent_table__term.offset, v,
			 t->allocated * sizeof(*v)) == 0)
		for (i = 0; i < t->allocated; i++) {
			if ((v[i] & 3) == BOXED_TAG)
				v[n++] = v[i];
		}
	if (v && n == t->entries)
		return v;
	free(v);
	return NULL;
}

/* Address of persistent_term:info/0. */
static uint64_t info_bif(struct vm *vm)
{
	struct natives *n;
	uint64_t addr = 0;
	size_t i;

	if (natives_read(vm, &n, NULL))
		return 0;
	for (i = 0; i < n->n && !addr; i++)
		if (!n->v[i].nif && strcmp(n->v[i].name, "persistent_term:info/0") == 0)
			addr = n->v[i].addr;
	natives_free(n);
	return addr;
}

/* Finds the table; its terms are the caller's to free. */
static int table_find(struct vm *vm, struct table *t, uint64_t **terms)
{
	unsigned char code[CODE_BYTES];
	uint64_t at = info_bif(vm);
	size_t i;

	if (!at || !layout_has(vm->layout->persistent_table__term))
		return -ENOENT;
	if (vm_read(vm, at, code, sizeof(code)))
		return -ENODATA;
	for (i = 0; i + 7 <= sizeof(code); i++) {
		int32_t offset;
		uint64_t pointer;

		/* REX.W, mov r64, [rip + disp32] */
		if ((code[i] & 0xf8) != 0x48 || code[i + 1] != 0x8b || (code[i + 2] & 0xc7) != 5)
			continue;
		memcpy(&offset, code + i + 3, 4);
		pointer = at + i + 7 + (uint64_t)(int64_t)offset;
		if (!image_holds(vm->exe, pointer) || pointer & 7 || !table_at(vm, pointer, t))
			continue;
		*terms = terms_read(vm, t);
		if (*terms)
			return 0;
	}
	return -ENOENT;
}

/* What may be told of a key. */
static void key_text(struct vm *vm, uint64_t key, char *buf, size_t size)
{
	uint64_t words[2];
	char atom[1100];

	if ((key & 0x3f) == ATOM_TAG && vm_atom(vm, key >> 6, buf, size) >= 0)
		return;
	if ((key & 0xf) == SMALL_TAG)
		snprintf(buf, size, "(integer)");
	else if ((key & 3) == 1)
		snprintf(buf, size, "(list)");
	else if ((key & 3) != BOXED_TAG || vm_read(vm, key & ~7ull, words, sizeof(words)))
		snprintf(buf, size, "(term)");
	else if ((words[0] & 0x3f) == 0 && (words[1] & 0x3f) == ATOM_TAG &&
		 vm_atom(vm, words[1] >> 6, atom, sizeof(atom)) >= 0)
		snprintf(buf, size, "{%s, ...} of %llu", atom, (unsigned long long)(words[0] >> 6));
	else if ((words[0] & 0x3f) == 0)
		snprintf(buf, size, "(tuple of %llu)", (unsigned long long)(words[0] >> 6));
	else
		snprintf(buf, size, "(term)");
}

static int entry_read(struct vm *vm, uint64_t term, struct persistent_terms *out)
{
	const struct layout *l = vm->layout;
	uint64_t tuple = term & ~7ull, area, end, words[3];
	struct persistent_term *p = &out->v[out->n];
	char key[1200];

	area = tuple - (uint64_t)l->ErtsLiteralArea__start.offset;
	if (vm_read(vm, tuple, words, sizeof(words)) || words[0] != 2u << 6 ||
	    vm_read_field(vm, area, l->ErtsLiteralArea__end, &end) || end < tuple + 24 ||
	    end - tuple > AREA_MAX) {
		out->torn++;
		return 0;
	}
	key_text(vm, words[1], key, sizeof(key));
	p->key = strdup(key);
	if (!p->key)
		return -ENOMEM;
	p->bytes = end - area;
	out->n++;
	out->memory += p->bytes;
	return 0;
}

int persistent_terms_read(struct vm *vm, struct persistent_terms **out, struct error *err)
{
	struct vm_cache *before = vm->cache, *cache;
	struct persistent_terms *p;
	struct table t;
	uint64_t *terms = NULL, i;
	int ret, try;

	*out = NULL;
	cache = vm_cache_new(CACHE_PAGES);
	p = calloc(1, sizeof(*p));
	if (!p || !cache) {
		vm_cache_free(cache);
		free(p);
		return -ENOMEM;
	}
	vm->cache = cache;
	ret = -ENOENT;
	for (try = 0; try < 3 && ret; try++) { /* a table that is being replaced */
		vm_cache_forget(cache);
		ret = table_find(vm, &t, &terms);
	}
	if (!ret) {
		p->v = calloc(t.entries ? t.entries : 1, sizeof(*p->v));
		ret = p->v ? 0 : -ENOMEM;
		/* persistent_term:info(): the table and all areas */
		p->memory = vm->layout->size_persistent_table + 8 * (t.allocated - 1);
	}
	for (i = 0; !ret && i < t.entries; i++)
		ret = entry_read(vm, terms[i], p);
	vm->cache = before;
	vm_cache_free(cache);
	free(terms);
	if (ret) {
		persistent_terms_free(p);
		return error_set(err, ret == -ENOMEM ? EXIT_INCOMPLETE : EXIT_UNSUPPORTED, ret,
				 "The table of persistent terms was not found: no load of "
				 "persistent_term:info/0 leads to it.");
	}
	*out = p;
	return 0;
}

void persistent_terms_free(struct persistent_terms *p)
{
	size_t i;

	if (!p)
		return;
	for (i = 0; i < p->n; i++)
		free(p->v[i].key);
	free(p->v);
	free(p);
}
