/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The module table: an IndexTable of Module for each code index.
 *
 *	module_tables[3] -> Module { module, curr, old }
 *	                                     |     +--- { code_hdr, code_length, nif }
 *	                                     +--------- code_hdr -> literal_area
 *
 * Of the three one is active; the others are what was before, or what is being
 * loaded. The active one is the_active_code_index; where no symbol tells that, it
 * is the table whose code adds up to erts_total_code_size.
 *
 * Literals of a module are one ErtsLiteralArea {off_heap, end, start[]}; its size
 * is as in loaded() of break.c, which is what erlang:system_info(loaded) prints.
 */
#include "erts/modules.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "erts/vm_cache.h"

#define TABLES	    8
#define MODULES_MAX 65536u /* MODULE_LIMIT of module.h */
#define SEGMENT	    1024u  /* INDEX_PAGE_SIZE of index.h */
#define CACHE_PAGES 512
#define LITERAL_MAX (1ull << 36)

static int literal_bytes(struct vm *vm, uint64_t header, uint64_t *out)
{
	const struct layout *l = vm->layout;
	uint64_t area, end, start;

	*out = 0;
	if (!header)
		return 0;
	if (vm_read_field(vm, header, l->BeamCodeHeader__literal_area, &area))
		return -EAGAIN;
	if (!area)
		return 0;
	start = area + (uint64_t)l->ErtsLiteralArea__start.offset;
	if (vm_read_field(vm, area, l->ErtsLiteralArea__end, &end) || end < start ||
	    end - start > LITERAL_MAX)
		return -EAGAIN;
	*out = end - start;
	return 0;
}

static int module_read(struct vm *vm, uint64_t addr, struct modules *out)
{
	const struct layout *l = vm->layout;
	struct module *m = &out->v[out->n];
	char name[1100];
	uint64_t atom, header, old, v;

	memset(m, 0, sizeof(*m));
	if (vm_read_field(vm, addr, l->Module__module, &atom) ||
	    vm_read_field(vm, addr, l->Module__curr_code_length, &m->code) ||
	    vm_read_field(vm, addr, l->Module__old_code_length, &m->old_code) ||
	    vm_read_field(vm, addr, l->Module__curr_code_hdr, &header) ||
	    vm_read_field(vm, addr, l->Module__old_code_hdr, &old))
		return -EAGAIN;
	if (!m->code && !m->old_code) /* a name only: code that was called but never loaded */
		return 0;
	if (vm_atom(vm, atom, name, sizeof(name)) < 0)
		return -EAGAIN;
	if (literal_bytes(vm, header, &m->literals) || literal_bytes(vm, old, &m->old_literals))
		out->torn++;
	m->nif = !vm_read_field(vm, addr, l->Module__curr_nif, &v) && v;
	m->on_load = !vm_read_field(vm, addr, l->Module__on_load, &v) && v;
	m->name = strdup(name);
	if (!m->name)
		return -ENOMEM;
	out->n++;
	out->code += m->code;
	out->literals += m->literals;
	out->old_code += m->old_code;
	out->old_literals += m->old_literals;
	return 0;
}

static void modules_clear(struct modules *m)
{
	size_t i;

	for (i = 0; i < m->n; i++)
		free(m->v[i].name);
	free(m->v);
	memset(m, 0, sizeof(*m));
}

/* One code index's table. */
static int table_read(struct vm *vm, uint64_t table, struct modules *out)
{
	const struct layout *l = vm->layout;
	uint64_t entries, segments, segment, slots[SEGMENT], i, k;
	int ret = 0;

	memset(out, 0, sizeof(*out));
	if (vm_read_field(vm, table, l->IndexTable__entries, &entries) ||
	    vm_read_field(vm, table, l->IndexTable__seg_table, &segments) || entries > MODULES_MAX)
		return -EAGAIN;
	out->v = calloc(entries ? entries : 1, sizeof(*out->v));
	if (!out->v)
		return -ENOMEM;
	for (i = 0; i < entries && !ret; i += SEGMENT) {
		uint64_t n = entries - i < SEGMENT ? entries - i : SEGMENT;

		if (vm_read_u64(vm, segments + 8 * (i / SEGMENT), &segment) ||
		    vm_read(vm, segment, slots, n * 8))
			ret = -EAGAIN;
		for (k = 0; k < n && !ret; k++)
			ret = module_read(vm, slots[k], out);
	}
	if (ret)
		modules_clear(out);
	return ret;
}

/* Is this table the active one? 1 yes, 0 no, -1 unknown. */
static int is_active(struct vm *vm, unsigned index, const struct modules *m)
{
	uint64_t at = vm->anchors.v[A_CODE_INDEX].addr, total;
	uint32_t active;

	if (at && !vm_read_u32(vm, at, &active))
		return active == index;
	at = vm->anchors.v[A_TOTAL_CODE_SIZE].addr;
	if (at && !vm_read_u64(vm, at, &total))
		return m->code + m->old_code == total;
	return -1;
}

static int tables_read(struct vm *vm, struct modules *best)
{
	const struct layout *l = vm->layout;
	uint64_t tables = vm->anchors.v[A_MODULE_TABLES].addr;
	unsigned n = layout_has_const(l->num_code_ix) && l->num_code_ix <= TABLES
			     ? (unsigned)l->num_code_ix
			     : 3;
	struct modules m;
	unsigned i;
	int ret, active, torn = -EAGAIN;

	memset(best, 0, sizeof(*best));
	for (i = 0; i < n && !best->certain; i++) {
		ret = table_read(vm, tables + i * l->size_IndexTable, &m);
		if (ret == -EAGAIN)
			continue;
		if (ret) {
			modules_clear(best);
			return ret;
		}
		torn = 0;
		active = is_active(vm, i, &m);
		if (active == 1 || m.n > best->n) {
			modules_clear(best);
			*best = m;
			best->certain = active == 1;
		} else {
			modules_clear(&m);
		}
	}
	return torn;
}

int modules_read(struct vm *vm, struct modules **out, struct error *err)
{
	struct vm_cache *before = vm->cache, *cache;
	struct modules *m;
	int ret = 0, try;

	*out = NULL;
	if (!vm->anchors.v[A_MODULE_TABLES].addr ||
	    !layout_has(vm->layout->Module__curr_code_length))
		return error_set(err, EXIT_UNSUPPORTED, -ENOENT,
				 "The module table of this VM could not be found.");
	m = calloc(1, sizeof(*m));
	cache = vm_cache_new(CACHE_PAGES);
	if (!m || !cache) {
		free(m);
		vm_cache_free(cache);
		return -ENOMEM;
	}
	vm->cache = cache;
	for (try = 0; try < 4; try++) {
		modules_clear(m);
		vm_cache_forget(cache);
		ret = tables_read(vm, m);
		if (ret != -EAGAIN && (ret || m->certain))
			break;
	}
	vm->cache = before;
	vm_cache_free(cache);
	if (ret) {
		modules_free(m);
		return error_set(err, error_exit_code(ret), ret,
				 "The module table could not be read: %s.", strerror(-ret));
	}
	*out = m;
	return 0;
}

void modules_free(struct modules *m)
{
	if (m)
		modules_clear(m);
	free(m);
}
