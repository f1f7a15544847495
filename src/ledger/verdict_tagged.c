/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Blocks of the VM's allocators that carry a name
 *
 * driver_alloc and binary_alloc tag every block with the NIF's module or the driver
 * that took it, from the node's start on, so growth of an owner needs no stack. What a
 * block is follows from its type and content:
 *
 *	resource       a Binary with the magic flag and the destructor of NIF resources
 *	env            nif_internal whose content verifies as an ErlNifEnv, with the heap
 *	               fragments and binaries that hang on it (erts/nif_env.c)
 *	driver_binary  drv_binary        driver_alloc  driver, drv_...
 *	enif_alloc     anything else, and drv_binary of a module with NIFs
 *
 * A plain refc binary that a NIF made is the VM's data when a process, a queue, a table,
 * a port or an environment refers to it. One that grows and that none of them refers to
 * is held by the NIF itself (enif_alloc_binary): as enif_alloc.
 */
#include "ledger/verdict_int.h"

#include <stdio.h>
#include <string.h>

static const struct tag_sum *tag_find(const struct tag_sum *v, size_t n, const struct tag_sum *like)
{
	size_t i;

	for (i = 0; i < n; i++)
		if (v[i].owner_atom == like->owner_atom && v[i].alloc_type == like->alloc_type &&
		    v[i].block_type == like->block_type && v[i].magic == like->magic)
			return &v[i];
	return NULL;
}

static int64_t moment_tag(const struct verdict_moment *m, const void *arg)
{
	const struct tag_sum *t = tag_find(m->tags, m->n_tags, arg);

	return t ? (int64_t)t->bytes : 0;
}

static const char *type_name(const struct vm *vm, unsigned type)
{
	return type < vm->n_types && vm->type_names[type] ? vm->type_names[type] : "?";
}

/* The owner's name, and the file of its library if it is a module with NIFs. */
static bool owner_names(const struct judge *j, uint64_t atom, char *owner, char *library,
			size_t size, bool *nif)
{
	char text[1100];

	if (atom == UINT64_MAX || vm_atom(j->in->o->vm, atom, text, sizeof(text)) < 0 ||
	    strcmp(text, "system") == 0)
		return false;
	snprintf(owner, size, "%.120s", text);
	*nif = j->in->library && j->in->library(j->in->library_arg, atom, library, size);
	if (!*nif)
		snprintf(library, size, "%.120s", text);
	return true;
}

static void take(struct judge *j, unsigned type, int64_t bytes)
{
	if (type < CARRIER_TYPES)
		j->taken[type] += bytes;
}

static int64_t moment_env(const struct verdict_moment *m, const void *arg)
{
	const struct tag_sum *like = arg;
	int64_t n = 0;
	size_t i;

	for (i = 0; i < m->n_tags; i++)
		if (m->tags[i].owner_atom == like->owner_atom &&
		    m->tags[i].block_type == like->block_type)
			n += (int64_t)m->tags[i].bytes;
	return n;
}

void rule_envs(struct judge *j, const struct rule *r)
{
	const struct nif_envs *now = j->in->after.envs, *then = j->in->before.envs;
	const struct vm *vm = j->in->o->vm;
	size_t i, k;

	for (i = 0; now && i < now->n; i++) {
		const struct nif_env_sum *e = &now->v[i], *old = nif_envs_find(then, e->owner_atom);
		struct nif_env_sum none = { 0 };
		char owner[128], library[128];
		int64_t d;
		struct finding *f;
		bool nif;

		old = old ? old : &none;
		d = (int64_t)nif_env_bytes(e) - (int64_t)nif_env_bytes(old);
		if (!rule_reached(j, r, d) ||
		    !owner_names(j, e->owner_atom, owner, library, sizeof(owner), &nif))
			continue;
		f = finding_add(j, FINDING_NIF_LEAK, library);
		if (!f)
			return;
		snprintf(f->mechanism, sizeof(f->mechanism), "env");
		snprintf(f->owner, sizeof(f->owner), "module %s", owner);
		f->bytes = nif_env_bytes(e);
		growth_set(j, f, d);
		take(j, now->driver_type, (int64_t)(e->block_bytes - old->block_bytes));
		take(j, now->heap_type, (int64_t)(e->heap_bytes - old->heap_bytes));
		take(j, now->binary_type, (int64_t)(e->binary_bytes - old->binary_bytes));
		evidence_add(f, (int64_t)(e->envs - old->envs), "environments",
			     "more than at the start; %llu in all", (unsigned long long)e->envs);
		evidence_add(f, (int64_t)(e->block_bytes - old->block_bytes), "bytes",
			     "in their own blocks");
		evidence_add(f, (int64_t)(e->heap_bytes - old->heap_bytes), "bytes",
			     "in heap fragments that hold their terms");
		evidence_add(f, (int64_t)(e->binary_bytes - old->binary_bytes), "bytes",
			     "in refc binaries that those terms refer to");
		if (now->cut)
			confidence_set(f, CONFIDENCE_MEDIUM,
				       "blocks that verify as environments; there are more of them "
				       "than were read, so it is at least so much");
		else
			confidence_set(f, CONFIDENCE_HIGH,
				       "blocks tagged with the module whose content verifies as "
				       "environments, counted at both ends");
		for (k = 0; k < j->in->after.look->carriers->n_tags; k++) {
			const struct tag_sum *t = &j->in->after.look->carriers->tags[k];

			if (t->owner_atom != e->owner_atom ||
			    strcmp(type_name(vm, t->block_type), "nif_internal") != 0)
				continue;
			growth_curve(j, f, moment_env, t);
			break;
		}
	}
}

/* enif_alloc_binary() takes the same type as a driver's binaries: a NIF's module tells
 * them apart. */
static void tag_mechanism(const struct vm *vm, const struct tag_sum *t, bool nif, struct finding *f)
{
	const char *type = type_name(vm, t->block_type);
	const char *mechanism = "enif_alloc";

	if (t->magic)
		mechanism = "resource";
	else if (nif)
		;
	else if (strcmp(type, "drv_binary") == 0)
		mechanism = "driver_binary";
	else if (strcmp(type, "driver") == 0 || strncmp(type, "drv", 3) == 0)
		mechanism = "driver_alloc";
	snprintf(f->mechanism, sizeof(f->mechanism), "%s", mechanism);
	if (strncmp(mechanism, "driver", 6) == 0)
		f->code = FINDING_DRIVER_LEAK;
}

/* nif_internal blocks that turned out to be environments, and the binaries that hang on
 * them (on OTP 23 enif_make_new_binary() takes a drv_binary), are in rule_envs(). */
static int64_t envs_part(const struct judge *j, const struct tag_sum *t)
{
	static const struct nif_env_sum none;
	const char *type = type_name(j->in->o->vm, t->block_type);
	const struct nif_env_sum *e = nif_envs_find(j->in->after.envs, t->owner_atom);
	const struct nif_env_sum *old = nif_envs_find(j->in->before.envs, t->owner_atom);

	e = e ? e : &none;
	old = old ? old : &none;
	if (strcmp(type, "nif_internal") == 0)
		return (int64_t)(e->block_bytes - old->block_bytes);
	if (strcmp(type, "drv_binary") == 0 && !t->magic)
		return (int64_t)(e->binary_bytes - old->binary_bytes);
	return 0;
}

/* What of the growth of binaries nobody in the VM refers to; 0 when that is not known. */
static int64_t binaries_unheld(const struct judge *j)
{
	uint64_t now = j->in->after.binaries_held, then = j->in->before.binaries_held;
	const struct nif_envs *envs = j->in->after.envs, *old = j->in->before.envs;
	int64_t grew = ledger_grew(j, "vm.used.binary_alloc"), held;
	size_t i;

	if (now == UINT64_MAX || then == UINT64_MAX)
		return 0;
	held = (int64_t)(now - then);
	for (i = 0; envs && i < envs->n; i++)
		held += (int64_t)envs->v[i].binary_bytes;
	for (i = 0; old && i < old->n; i++)
		held -= (int64_t)old->v[i].binary_bytes;
	return grew - held;
}

static bool is_plain_binary(const struct vm *vm, const struct tag_sum *t)
{
	return !t->magic && strcmp(type_name(vm, t->block_type), "binary") == 0;
}

void rule_tagged(struct judge *j, const struct rule *r)
{
	int64_t unheld = binaries_unheld(j);
	const struct carriers *now = j->in->after.look->carriers,
			      *then = j->in->before.look->carriers;
	const struct vm *vm = j->in->o->vm;
	size_t i;

	for (i = 0; i < now->n_tags; i++) {
		const struct tag_sum *t = &now->tags[i];
		const struct tag_sum *old = tag_find(then->tags, then->n_tags, t);
		int64_t d = (int64_t)(t->bytes - (old ? old->bytes : 0)) - envs_part(j, t);
		char owner[128], library[128];
		struct finding *f;
		bool nif;

		if (!rule_reached(j, r, d) || (is_plain_binary(vm, t) && unheld < d - d / 5) ||
		    !owner_names(j, t->owner_atom, owner, library, sizeof(owner), &nif))
			continue;
		f = finding_add(j, FINDING_NIF_LEAK, library);
		if (!f)
			return;
		tag_mechanism(vm, t, nif, f);
		if (f->code == FINDING_DRIVER_LEAK)
			snprintf(f->subject, sizeof(f->subject), "%s", owner);
		snprintf(f->owner, sizeof(f->owner), "%s %s",
			 f->code == FINDING_DRIVER_LEAK ? "driver" : "module", owner);
		f->bytes = t->resident ? t->resident : t->bytes;
		growth_set(j, f, d);
		take(j, t->alloc_type, d);
		evidence_add(f, d, "bytes", "blocks of %s, type %.40s, grew (two looks)", owner,
			     type_name(vm, t->block_type));
		evidence_add(f, (int64_t)(t->blocks - (old ? old->blocks : 0)), "blocks",
			     "more than at the start; %llu in all", (unsigned long long)t->blocks);
		if (is_plain_binary(vm, t)) {
			evidence_add(f, unheld, "bytes",
				     "of the growth of binaries no process, message, table or port "
				     "refers to");
			confidence_set(f, CONFIDENCE_MEDIUM,
				       "the VM tags every such block with the module that "
				       "allocated it, and no term refers to them: the NIF itself "
				       "keeps them");
		} else {
			confidence_set(f, CONFIDENCE_HIGH,
				       "the VM tags every such block with the module or driver "
				       "that allocated it");
		}
		growth_curve(j, f, moment_tag, t);
	}
}
