// SPDX-License-Identifier: Apache-2.0
/*
 * Carriers: made and given back, by allocator and by the stack that made them
 * (bpf/carriers.bpf.c).
 */
#include "trace/places.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <bpf/bpf.h>

#include "carriers.skel.h"
#include "erts/functions.h"

#define LIVE_MAX   65536
#define OWNERS_MAX 16384

_Static_assert((int)CARRIER_CALL_MSEG_ALLOC == (int)CARRIER_MSEG_ALLOC &&
		       (int)CARRIER_CALL_SYS_DEALLOC == (int)CARRIER_SYS_DEALLOC,
	       "cookies are calls");
_Static_assert(CARRIER_ALLOCS >= ALLOC_TYPES, "every allocator has sums");

struct instance { /* of an allocator */
	uint64_t addr;
	uint32_t type;
};

struct carrier_set {
	struct set set;
	struct instance *instances;
	size_t n_instances;
	struct carriers_bpf *skel;
	struct uprobe probes[VM_CARRIER_FUNCTIONS_MAX];
	size_t n;
	struct uprobes *uprobes;
};

static struct carrier_set *self(struct set *set)
{
	return (struct carrier_set *)set;
}

static struct uprobe_programs programs(const struct carrier_set *c)
{
	return (struct uprobe_programs){
		.entry = c->skel->progs.carrier_gone,
		.enter = c->skel->progs.carrier_enter,
		.leave = c->skel->progs.carrier_leave,
		.session = c->skel->progs.carrier_session,
	};
}

static int carriers_attach(struct set *set, struct error *err)
{
	const struct uprobe_programs p = programs(self(set));

	return uprobes_attach(&p, session_vm(set->session)->exe,
			      target_pid(session_target(set->session)), self(set)->probes,
			      self(set)->n, &self(set)->uprobes, err);
}

static void carriers_detach(struct set *set)
{
	uprobes_detach(self(set)->uprobes);
	self(set)->uprobes = NULL;
}

static void carriers_close(struct set *set)
{
	carriers_detach(set);
	carriers_bpf__destroy(self(set)->skel);
	free(self(set)->instances);
	free(set);
}

static int instances_keep(struct carrier_set *c, const struct allocators *a)
{
	c->instances = calloc(a->n_inst ? a->n_inst : 1, sizeof(*c->instances));
	if (!c->instances)
		return -ENOMEM;
	for (size_t i = 0; i < a->n_inst; i++)
		c->instances[c->n_instances++] =
			(struct instance){ a->inst[i].addr, a->inst[i].type };
	return 0;
}

static void copied_notice(struct carrier_set *c, unsigned copied)
{
	char *p = c->set.notice, *end = p + sizeof(c->set.notice);

	p += snprintf(p, (size_t)(end - p),
		      "carriers: not all are seen: this build's compiler copied");
	for (unsigned i = 0; i < CARRIER_CALLS; i++)
		if (copied & 1u << i && p < end)
			p += snprintf(p, (size_t)(end - p), " %s",
				      carrier_call_name((enum carrier_call)i));
	if (p < end)
		snprintf(p, (size_t)(end - p), " into its callers");
}

static int probes_find(struct carrier_set *c, struct error *err)
{
	static const unsigned needs[CARRIER_CALLS] = {
		[CARRIER_MSEG_ALLOC] = SITE_ARG0 | SITE_ARG1 | SITE_ARG2 | SITE_RETURN,
		[CARRIER_MSEG_REALLOC] = SITE_ARG0 | SITE_ARG1 | SITE_ARG2 | SITE_ARG3 |
					 SITE_RETURN,
		[CARRIER_MSEG_DEALLOC] = SITE_ARG0 | SITE_ARG1 | SITE_ARG2,
		[CARRIER_SYS_ALLOC] = SITE_ARG0 | SITE_ARG1 | SITE_ARG2 | SITE_RETURN,
		[CARRIER_SYS_REALLOC] = SITE_ARG0 | SITE_ARG1 | SITE_ARG2 | SITE_ARG3 | SITE_RETURN,
		[CARRIER_SYS_DEALLOC] = SITE_ARG0 | SITE_ARG1 | SITE_ARG2,
	};
	struct vm *vm = session_vm(c->set.session);
	const struct residency *res;
	struct vm_carrier_functions f;
	struct allocators *a = NULL;
	int ret;

	if (!vm)
		return error_set(err, EXIT_UNSUPPORTED, -ENOENT,
				 "carriers cannot be traced: this is no Erlang VM that is known");
	res = vm->res;
	vm->res = NULL;
	ret = allocators_read(vm, &a, err);
	if (!ret)
		ret = vm_carrier_functions_find(vm, a, &f, err);
	if (!ret)
		ret = instances_keep(c, a);
	allocators_free(a);
	vm->res = res;
	if (ret)
		return ret;
	if (f.refused)
		snprintf(c->set.notice, sizeof(c->set.notice), "carriers: not all are seen: %s",
			 f.why);
	else if (f.copied)
		copied_notice(c, f.copied);
	for (size_t i = 0; i < f.n; i++) {
		struct uprobe *p = &c->probes[c->n];

		p->cookie = (uint64_t)f.v[i].call |
			    (f.v[i].by_number ? (uint64_t)CARRIER_CALL_BY_NUMBER : 0) |
			    (f.v[i].by_caller ? (uint64_t)CARRIER_CALL_BY_CALLER : 0);
		ret = places_probe(&c->set, f.v[i].addr, f.v[i].size,
				   carrier_call_name(f.v[i].call), needs[f.v[i].call], p, err);
		if (ret < 0)
			return ret;
		c->n++;
	}
	return 0;
}

static int load(struct carrier_set *c, struct error *err)
{
	const struct layout *l = session_vm(c->set.session)->layout;
	struct carrier_config config = {
		.alloc_no = (uint32_t)l->Allctr_t__alloc_no.offset,
		.mseg_2pow = layout_has_const(l->mseg_flg_2pow) ? (uint64_t)l->mseg_flg_2pow : 1,
	};
	struct carrier_owner nobody = { 0 };
	struct carrier_weight none = { 0 };
	struct uprobe_programs p;
	int ret;

	c->skel = carriers_bpf__open();
	if (!c->skel)
		return set_failed(err, -errno, "opening");
	memcpy((void *)&c->skel->rodata->carrier, &config, sizeof(config));
	bpf_map__set_max_entries(c->skel->maps.carrier_calls,
				 session_threads(c->set.session) * 2 + 128);
	bpf_map__set_max_entries(c->skel->maps.carrier_live, LIVE_MAX);
	bpf_map__set_max_entries(c->skel->maps.carrier_allctrs, (uint32_t)c->n_instances + 1);
	bpf_map__set_max_entries(c->skel->maps.carrier_owners, OWNERS_MAX);
	p = programs(c);
	uprobes_prepare(&p);
	ret = set_load(&c->set, c->skel->obj, &c->skel->rodata->cfg, err);
	if (!ret &&
	    bpf_map_update_elem(bpf_map__fd(c->skel->maps.carrier_owners), &nobody, &none, BPF_ANY))
		ret = -errno;
	for (size_t i = 0; !ret && i < c->n_instances; i++)
		if (bpf_map_update_elem(bpf_map__fd(c->skel->maps.carrier_allctrs),
					&c->instances[i].addr, &c->instances[i].type, BPF_ANY))
			ret = -errno;
	if (!ret)
		ret = places_thin(c->skel->maps.place_limits, 0);
	return ret ? set_failed(err, ret, "setting up the tables of") : 0;
}

static int carriers_open(struct session *s, const void *opts, struct set **out, struct error *err)
{
	struct carrier_set *c = calloc(1, sizeof(*c));
	int ret;

	(void)opts;
	*out = NULL;
	if (!c)
		return -ENOMEM;
	c->set.class = &set_carriers;
	c->set.session = s;
	ret = probes_find(c, err);
	if (!ret)
		ret = load(c, err);
	if (ret) {
		carriers_close(&c->set);
		return ret;
	}
	*out = &c->set;
	return 0;
}

static void carriers_thin(struct set *set, unsigned level)
{
	places_thin(self(set)->skel->maps.place_limits, level);
}

/* ---- results ------------------------------------------------------------------------- */

struct profiling {
	struct set *set;
	struct profile *p;
};

static int profile_owner(void *ctx, const void *key, const void *value)
{
	const struct carrier_weight *w = value;
	const struct carrier_owner *o = key;
	struct profiling *x = ctx;
	struct weight weight = { (int64_t)(w->created_bytes - w->destroyed_bytes), w->created_bytes,
				 w->created };
	uint32_t owner;

	if (!o->stack || !(owner = set_owner(x->set, o->stack, o->process, o->tid))) {
		x->p->without_stack += weight.net;
		return 0;
	}
	return set_profile_add(x->set, x->p, owner, &weight);
}

static int carriers_profile(struct set *set, const char *kind, const struct set_picture *closing,
			    struct profile *p, struct error *err)
{
	struct profiling x = { set, p };

	(void)kind;
	(void)closing;
	(void)err;
	return map_each(self(set)->skel->maps.carrier_owners, profile_owner, &x);
}

static int carriers_figures(struct set *set, figures_fn fn, void *ctx)
{
	static const char *const kinds[] = { "mseg mbc", "mseg sbc", "sys mbc", "sys sbc" };
	struct vm *vm = session_vm(set->session);
	int fd = bpf_map__fd(self(set)->skel->maps.carrier_sums), ret = 0;

	for (uint32_t i = 0; !ret && i < CARRIER_SUMS; i++) {
		struct recording_figure v[RECORDING_FIGURES_MAX];
		struct carrier_sum s;
		char subject[96];
		size_t n = 0;

		if (i / 4 >= vm->n_alloc || bpf_map_lookup_elem(fd, &i, &s) ||
		    s.created + s.destroyed + s.resized + s.failed + s.failed_resizes == 0)
			continue;
		figure_put(v, &n, "created", s.created);
		figure_put(v, &n, "created_bytes", s.created_bytes);
		figure_put(v, &n, "destroyed", s.destroyed);
		figure_put(v, &n, "destroyed_bytes", s.destroyed_bytes);
		figure_put(v, &n, "older", s.older);
		figure_put(v, &n, "older_bytes", s.older_bytes);
		figure_put(v, &n, "resized", s.resized);
		figure_put(v, &n, "grown_bytes", s.grown_bytes);
		figure_put(v, &n, "shrunk_bytes", s.shrunk_bytes);
		figure_put(v, &n, "failed", s.failed);
		figure_put(v, &n, "failed_resizes", s.failed_resizes);
		figure_put(v, &n, "untracked", s.untracked);
		figures_histogram(v, &n, "life", s.life);
		snprintf(subject, sizeof(subject), "%.60s %s", vm->alloc_names[i / 4],
			 kinds[i % 4]);
		ret = fn(ctx, "carriers", subject, v, n);
	}
	return ret;
}

static const struct set_profile_kind kinds[] = { { "carrier", "bytes" }, { NULL, NULL } };

const struct set_class set_carriers = {
	.name = "carriers",
	.id = SET_CARRIERS,
	.kinds = kinds,
	.hit_ns = PLACES_HIT_NS,
	.levels = PLACES_LEVELS,
	.on_demand = true, /* it is on from the start, but nothing else depends on it */
	.open = carriers_open,
	.attach = carriers_attach,
	.profile = carriers_profile,
	.figures = carriers_figures,
	.thin = carriers_thin,
	.detach = carriers_detach,
	.close = carriers_close,
};
