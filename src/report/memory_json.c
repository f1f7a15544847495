/* SPDX-License-Identifier: Apache-2.0 */
#include "report/memory.h"

#include <time.h>

#include "target/escape.h"

/* A figure that is not known is null, never 0. */
static json_t *number(uint64_t v)
{
	return v > INT64_MAX ? json_null() : json_integer((json_int_t)v);
}

static json_t *text(const char *raw)
{
	char buf[1024];

	return json_string(escape_string(buf, sizeof(buf), raw));
}

json_t *target_json(const struct observer *o)
{
	const struct vm *vm = o->vm;
	json_t *j = json_object();

	json_object_set_new(j, "pid", json_integer(target_pid(o->target)));
	json_object_set_new(j, "nspid", json_integer(target_nspid(o->target)));
	json_object_set_new(j, "start_time", text(target_start_time(o->target)));
	json_object_set_new(j, "exe", text(target_exe(o->target)));
	json_object_set_new(j, "build_id", text(target_build_id(o->target)));
	json_object_set_new(j, "otp_release", text(vm->otp_release));
	json_object_set_new(j, "erts_version", text(vm->erts_version));
	json_object_set_new(j, "flavor", json_string(vm->jit ? "jit" : "emu"));
	json_object_set_new(j, "layout", json_string(vm->layout_is_dwarf ? "dwarf" : "table"));
	json_object_set_new(j, "symbols", json_string(vm->anchors.symbols));
	return j;
}

static json_t *os_json(const struct look *l, const struct ledger *g)
{
	json_t *j = json_object(), *cg = json_object();

	json_object_set_new(j, "rss", number(g->rss));
	json_object_set_new(j, "rss_kernel", number(l->os.rss));
	json_object_set_new(j, "pss", number(l->os.pss));
	json_object_set_new(j, "lazyfree", number(l->os.lazyfree));
	json_object_set_new(j, "swap", number(l->os.swap));
	json_object_set_new(j, "page_tables", number(l->os.page_tables));
	json_object_set_new(j, "vmsize", number(l->os.vmsize));
	json_object_set_new(j, "zero_pages", l->res ? number(residency_zero(l->res)) : json_null());
	json_object_set_new(j, "threads", number(l->os.threads));
	json_object_set_new(cg, "usage", number(l->os.cgroup_usage));
	json_object_set_new(cg, "limit", number(l->os.cgroup_limit));
	json_object_set_new(cg, "left", number(l->os.cgroup_left));
	json_object_set_new(j, "cgroup", cg);
	return j;
}

static json_t *vm_memory_json(const struct vm_memory *m)
{
	json_t *j = json_object();

	if (m->total == UINT64_MAX) {
		json_decref(j);
		return json_null();
	}
	json_object_set_new(j, "total", number(m->total));
	json_object_set_new(j, "processes", number(m->processes));
	json_object_set_new(j, "processes_used", number(m->processes_used));
	json_object_set_new(j, "system", number(m->system));
	json_object_set_new(j, "atom", number(m->atom));
	json_object_set_new(j, "atom_used", number(m->atom_used));
	json_object_set_new(j, "binary", number(m->binary));
	json_object_set_new(j, "code", number(m->code));
	json_object_set_new(j, "ets", number(m->ets));
	return j;
}

static json_t *count_json(const struct alloc_count *c, bool maxima)
{
	json_t *j = json_object();

	json_object_set_new(j, "blocks", number(c->blocks));
	json_object_set_new(j, "blocks_size", number(c->blocks_size));
	json_object_set_new(j, "carriers", number(c->carriers));
	json_object_set_new(j, "carriers_size", number(c->carriers_size));
	if (!maxima)
		return j;
	json_object_set_new(j, "mseg_carriers", number(c->mseg_carriers));
	json_object_set_new(j, "mseg_carriers_size", number(c->mseg_carriers_size));
	json_object_set_new(j, "blocks_max_ever", number(c->blocks_max_ever));
	json_object_set_new(j, "blocks_size_max_ever", number(c->blocks_size_max_ever));
	json_object_set_new(j, "carriers_max_ever", number(c->carriers_max_ever));
	json_object_set_new(j, "carriers_size_max_ever", number(c->carriers_size_max_ever));
	return j;
}

static json_t *allocators_json(const struct look *l, const struct ledger *g)
{
	const struct allocators *a = l->allocators;
	json_t *list = json_array();
	size_t i, k;

	for (i = 0; i < g->n_allocators; i++) {
		const struct ledger_allocator *s = &g->allocators[i];
		json_t *j, *each;

		if (!s->alloc_util)
			continue;
		j = json_object();
		each = json_array();
		json_object_set_new(j, "name", text(s->name));
		json_object_set_new(j, "instances", number(s->instances));
		json_object_set_new(j, "mbcs", count_json(&s->mbcs, false));
		json_object_set_new(j, "sbcs", count_json(&s->sbcs, false));
		json_object_set_new(j, "mbcs_pool", count_json(&s->pool, false));
		json_object_set_new(j, "carriers_found", number(s->carriers));
		json_object_set_new(j, "resident", number(s->resident));
		json_object_set_new(j, "resident_used", number(s->used_resident));
		json_object_set_new(j, "resident_free", number(s->free_resident));
		json_object_set_new(j, "whole_free_pages", number(s->whole_pages));
		for (k = 0; k < a->types[i].n; k++) {
			const struct alloc_instance *inst = &a->inst[a->types[i].first + k];
			json_t *one = json_object();

			json_object_set_new(one, "instance", number(inst->index));
			json_object_set_new(one, "mbcs", count_json(&inst->mbcs, true));
			json_object_set_new(one, "sbcs", count_json(&inst->sbcs, true));
			json_object_set_new(one, "mbcs_pool", count_json(&inst->pool, false));
			json_array_append_new(each, one);
		}
		json_object_set_new(j, "by_instance", each);
		json_array_append_new(list, j);
	}
	return list;
}

static json_t *tags_json(const struct observer *o, const struct look *l)
{
	json_t *list = json_array();
	size_t i;

	for (i = 0; i < l->carriers->n_tags; i++) {
		const struct tag_sum *t = &l->carriers->tags[i];
		struct vm *vm = o->vm;
		char owner[1100] = "system";
		json_t *j = json_object();

		if (t->owner_atom != UINT64_MAX &&
		    vm_atom(vm, t->owner_atom, owner, sizeof(owner)) < 0)
			json_object_set_new(j, "owner", json_null());
		else
			json_object_set_new(j, "owner", json_string(owner));
		json_object_set_new(j, "type",
				    t->block_type < vm->n_types && vm->type_names[t->block_type]
					    ? json_string(vm->type_names[t->block_type])
					    : json_null());
		json_object_set_new(j, "allocator",
				    t->alloc_type < vm->n_alloc && vm->alloc_names[t->alloc_type]
					    ? json_string(vm->alloc_names[t->alloc_type])
					    : json_null());
		json_object_set_new(j, "resource", json_boolean(t->magic));
		json_object_set_new(j, "blocks", number(t->blocks));
		json_object_set_new(j, "bytes", number(t->bytes));
		json_array_append_new(list, j);
	}
	return list;
}

static json_t *libc_json(const struct libc_heap *h)
{
	json_t *j, *arenas;
	size_t i;

	if (!h)
		return json_null();
	j = json_object();
	arenas = json_array();
	json_object_set_new(j, "malloc", json_string(h->malloc_name));
	json_object_set_new(j, "walked", json_boolean(h->walked));
	json_object_set_new(j, "reason", h->why[0] ? text(h->why) : json_null());
	json_object_set_new(j, "mmapped_chunks", number(h->n_mmaps));
	json_object_set_new(j, "mmapped_bytes", number(h->mmapped_bytes));
	json_object_set_new(j, "mmapped_proved", json_boolean(h->mmaps_proved));
	for (i = 0; i < h->n_arenas; i++) {
		const struct libc_arena *a = &h->arenas[i];
		json_t *one = json_object();

		json_object_set_new(one, "system_mem", number(a->system_mem));
		json_object_set_new(one, "heaps", number(a->heaps));
		json_object_set_new(one, "used_chunks", number(a->chunks_used));
		json_object_set_new(one, "used_bytes", number(a->used_bytes));
		json_object_set_new(one, "free_chunks", number(a->chunks_free));
		json_object_set_new(one, "free_bytes", number(a->free_bytes));
		json_object_set_new(one, "top_bytes", number(a->top_bytes));
		json_object_set_new(one, "tcache_bytes", number(a->tcache_bytes));
		json_object_set_new(one, "fastbin_bytes", number(a->fastbin_bytes));
		json_object_set_new(one, "proved", json_boolean(a->proved));
		json_array_append_new(arenas, one);
	}
	json_object_set_new(j, "arenas", arenas);
	return j;
}

static json_t *counts_json(const struct vm_counts *c)
{
	json_t *j = json_object();

	json_object_set_new(j, "atoms", number(c->atoms));
	json_object_set_new(j, "atom_limit", number(c->atom_limit));
	json_object_set_new(j, "processes", number(c->processes));
	json_object_set_new(j, "process_limit", number(c->process_limit));
	json_object_set_new(j, "ports", number(c->ports));
	json_object_set_new(j, "port_limit", number(c->port_limit));
	json_object_set_new(j, "ets_tables", number(c->ets_tables));
	json_object_set_new(j, "process_table_bytes", number(c->process_table_bytes));
	json_object_set_new(j, "port_table_bytes", number(c->port_table_bytes));
	json_object_set_new(j, "schedulers", number(c->schedulers));
	return j;
}

static json_t *vm_json(const struct look *l, const struct ledger *g)
{
	json_t *j = json_object();

	json_object_set_new(j, "memory", vm_memory_json(&l->memory));
	json_object_set_new(j, "counts", counts_json(&l->counts));
	json_object_set_new(j, "allocated", number(g->vm_allocated));
	json_object_set_new(j, "used", number(g->vm_used));
	json_object_set_new(j, "usage",
			    g->vm_allocated
				    ? json_real((double)g->vm_used / (double)g->vm_allocated)
				    : json_null());
	json_object_set_new(j, "allocators", allocators_json(l, g));
	return j;
}

static json_t *walk_json(const struct look *l)
{
	const struct carriers *c = l->carriers;
	json_t *j = json_object();

	json_object_set_new(j, "carriers", number(c->n));
	json_object_set_new(j, "blocks", number(c->blocks));
	json_object_set_new(j, "bytes", number(c->bytes));
	json_object_set_new(j, "torn", number(c->torn));
	json_object_set_new(j, "retries", number(c->retries));
	json_object_set_new(j, "errors", number(c->errors));
	json_object_set_new(j, "counter_mismatch", number(c->counter_mismatch));
	json_object_set_new(j, "gone", number(c->gone));
	json_object_set_new(j, "bad_tags", number(c->bad_tags));
	json_object_set_new(j, "lost_bytes", number(c->lost_bytes));
	json_object_set_new(j, "seconds", json_real(l->seconds));
	json_object_set_new(j, "reads", number(l->io.reads));
	json_object_set_new(j, "read_bytes", number(l->io.read_bytes));
	json_object_set_new(j, "longest_read_ns", number(l->io.longest_ns));
	return j;
}

char *look_time(const struct look *l, char *buf, size_t size)
{
	struct tm tm;
	size_t n;

	gmtime_r(&l->when.tv_sec, &tm);
	n = strftime(buf, size, "%Y-%m-%dT%H:%M:%S", &tm);
	snprintf(buf + n, size - n, ".%03dZ", (int)(l->when.tv_nsec / 1000000 % 1000));
	return buf;
}

json_t *memory_json(const struct observer *o, const struct look *l, const struct ledger *g)
{
	json_t *doc = json_object(), *notes = json_array(), *rows = json_array();
	char when[48];
	size_t i;

	json_object_set_new(doc, "schema", json_string("beamray.memory/1"));
	json_object_set_new(doc, "target", target_json(o));
	json_object_set_new(doc, "time", json_string(look_time(l, when, sizeof(when))));
	json_object_set_new(doc, "complete", json_boolean(g->complete));
	for (i = 0; i < g->n_notes; i++)
		json_array_append_new(notes, json_string(g->notes[i]));
	json_object_set_new(doc, "notes", notes);
	json_object_set_new(doc, "os", os_json(l, g));
	json_object_set_new(doc, "vm", vm_json(l, g));
	json_object_set_new(doc, "libc", libc_json(l->libc));
	json_object_set_new(doc, "tags", tags_json(o, l));
	json_object_set_new(doc, "walk", walk_json(l));
	for (i = 0; i < g->n; i++) {
		const struct ledger_row *r = &g->rows[i];
		json_t *row = json_object();

		json_object_set_new(row, "account", json_string(r->account));
		json_object_set_new(row, "bytes", number(r->bytes));
		if (r->whole_pages)
			json_object_set_new(row, "whole_pages", number(r->whole_pages));
		if (r->lazyfree)
			json_object_set_new(row, "lazyfree", number(r->lazyfree));
		json_array_append_new(rows, row);
	}
	if (l->quick) {
		json_decref(rows);
		rows = json_null();
	}
	json_object_set_new(doc, "ledger", rows);
	json_object_set_new(doc, "unattributed", l->quick ? json_null() : number(g->unattributed));
	return doc;
}
