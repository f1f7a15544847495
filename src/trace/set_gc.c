// SPDX-License-Identifier: Apache-2.0
/*
 * Every collection, by its entry and return (bpf/gc.bpf.c): counted by process in the
 * kernel, read from there whenever somebody asks.
 */
#include "trace/places.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <bpf/bpf.h>

#include "erts/functions.h"
#include "erts/process.h"
#include "gc.skel.h"

#define LONG_MS_DEFAULT	    100
#define LARGE_WORDS_DEFAULT 10000000
#define PROCESSES_MORE	    16384 /* that may come while we watch */
#define PROCESSES_MAX	    262144
#define STACKS_MAX	    16384

struct gc_set {
	struct set set;
	struct gc_bpf *skel;
	struct uprobe probe;
	struct uprobes *uprobes;
};

static struct gc_set *self(struct set *set)
{
	return (struct gc_set *)set;
}

static struct uprobe_programs programs(const struct gc_set *g)
{
	return (struct uprobe_programs){
		.enter = g->skel->progs.gc_enter,
		.leave = g->skel->progs.gc_leave,
		.session = g->skel->progs.gc_session,
	};
}

static int gc_attach(struct set *set, struct error *err)
{
	const struct uprobe_programs p = programs(self(set));

	return uprobes_attach(&p, session_vm(set->session)->exe,
			      target_pid(session_target(set->session)), &self(set)->probe, 1,
			      &self(set)->uprobes, err);
}

static void gc_detach(struct set *set)
{
	uprobes_detach(self(set)->uprobes);
	self(set)->uprobes = NULL;
}

static void gc_close(struct set *set)
{
	struct gc_set *g = self(set);

	gc_detach(set);
	gc_bpf__destroy(g->skel);
	free(g);
}

/* What the programs look at; false when this release lacks something. */
static bool config_fill(const struct vm *vm, const struct vm_gc *f, const struct set_gc_opts *opts,
			struct gc_config *c)
{
	const struct layout *l = vm->layout;
	const struct {
		uint32_t *to;
		struct layout_field from;
		uint32_t size;
	} fields[] = {
		{ &c->proc_flags, l->Process__flags, 4 },
		{ &c->proc_state, l->Process__state, 4 },
		{ &c->proc_gen_gcs, l->Process__gen_gcs, 2 },
		{ &c->proc_max_gen_gcs, l->Process__max_gen_gcs, 2 },
		{ &c->proc_heap_sz, l->Process__heap_sz, 8 },
		{ &c->proc_old_heap, l->Process__old_heap, 8 },
		{ &c->proc_old_hend, l->Process__old_hend, 8 },
		{ &c->sched_gc_info, l->ErtsSchedulerData__gc_info_reclaimed, 8 },
	};

	for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
		if (!layout_has(fields[i].from) || fields[i].from.size != fields[i].size)
			return false;
		*fields[i].to = (uint32_t)fields[i].from.offset;
	}
	if (l->ErtsSchedulerData__gc_info_garbage_cols.offset !=
		    l->ErtsSchedulerData__gc_info_reclaimed.offset + 8 ||
	    !layout_has_const(l->f_need_fullsweep) || !layout_has_const(l->f_force_gc) ||
	    !layout_has_const(l->psflg_exiting))
		return false;
	c->f_need_fullsweep = (uint64_t)l->f_need_fullsweep;
	c->f_force_gc = (uint64_t)l->f_force_gc;
	c->psflg_exiting = (uint64_t)l->psflg_exiting;
	c->dirty_info = f->dirty_info;
	c->long_ms = opts && opts->long_ms ? opts->long_ms : LONG_MS_DEFAULT;
	c->large_words = opts && opts->large_words ? opts->large_words : LARGE_WORDS_DEFAULT;
	return true;
}

/* Room for the processes that there are and as many again. */
static uint32_t processes_max(struct vm *vm)
{
	const struct residency *res = vm->res;
	struct vm_counts counts;
	uint64_t n;

	vm->res = NULL;
	vm_counts_read(vm, &counts);
	vm->res = res;
	n = counts.processes == UINT64_MAX ? 0 : counts.processes;
	n = n * 2 + PROCESSES_MORE;
	return n < PROCESSES_MAX ? (uint32_t)n : PROCESSES_MAX;
}

static int load(struct gc_set *g, const struct set_gc_opts *opts, struct error *err)
{
	struct vm *vm = session_vm(g->set.session);
	const struct residency *res;
	struct uprobe_programs p;
	struct gc_config config = { 0 };
	struct gc_owner nobody = { 0 };
	struct gc_weight none = { 0 };
	struct vm_gc f;
	int ret;

	if (!vm)
		return error_set(err, EXIT_UNSUPPORTED, -ENOENT,
				 "collections cannot be traced: this is no Erlang VM that is known");
	res = vm->res;
	vm->res = NULL;
	ret = vm_gc_find(vm, session_code(g->set.session), &f, err);
	vm->res = res;
	if (ret)
		return ret;
	if (!config_fill(vm, &f, opts, &config))
		return error_set(err, EXIT_UNSUPPORTED, -ENOENT,
				 "collections cannot be traced: this release keeps no account of them "
				 "that is known");
	ret = places_probe(&g->set, f.addr, f.size, "garbage_collect", SITE_ARG0 | SITE_RETURN,
			   &g->probe, err);
	if (ret < 0)
		return ret;
	g->set.hit_ns = PLACES_HIT_NS;
	if (ret) {
		g->set.hit_ns = PLACES_STEPPED_NS;
		snprintf(g->set.notice, sizeof(g->set.notice),
			 "gc: this build's collector can only be probed at an instruction that the "
			 "kernel single-steps: some 20 us a collection");
	}
	g->skel = gc_bpf__open();
	if (!g->skel)
		return set_failed(err, -errno, "opening");
	memcpy((void *)&g->skel->rodata->gc, &config, sizeof(config));
	bpf_map__set_max_entries(g->skel->maps.gc_calls, session_threads(g->set.session) * 2 + 128);
	bpf_map__set_max_entries(g->skel->maps.gc_processes, processes_max(vm));
	bpf_map__set_max_entries(g->skel->maps.gc_stacks, STACKS_MAX);
	p = programs(g);
	uprobes_prepare(&p);
	ret = set_load(&g->set, g->skel->obj, &g->skel->rodata->cfg, err);
	if (!ret &&
	    bpf_map_update_elem(bpf_map__fd(g->skel->maps.gc_stacks), &nobody, &none, BPF_ANY))
		ret = -errno;
	if (!ret)
		ret = places_thin(g->skel->maps.place_limits, 0);
	return ret ? set_failed(err, ret, "setting up the tables of") : 0;
}

static int gc_open(struct session *s, const void *opts, struct set **out, struct error *err)
{
	struct gc_set *g = calloc(1, sizeof(*g));
	int ret;

	*out = NULL;
	if (!g)
		return -ENOMEM;
	g->set.class = &set_gc;
	g->set.session = s;
	ret = load(g, opts, err);
	if (ret) {
		gc_close(&g->set);
		return ret;
	}
	*out = &g->set;
	return 0;
}

static void gc_thin(struct set *set, unsigned level)
{
	places_thin(self(set)->skel->maps.place_limits, level);
}

/* ---- results ------------------------------------------------------------------------- */

struct profiling {
	struct gc_set *g;
	struct profile *p;
	bool time;
};

static int profile_stack(void *ctx, const void *key, const void *value)
{
	const struct gc_weight *w = value;
	const struct gc_owner *o = key;
	struct profiling *x = ctx;
	int64_t v = (int64_t)(x->time ? w->ns : w->count);
	struct weight weight = { v, (uint64_t)v, w->count };
	uint32_t owner;

	if (!o->stack || !(owner = set_owner(&x->g->set, o->stack, o->process, 0))) {
		x->p->without_stack += v;
		return 0;
	}
	return set_profile_add(&x->g->set, x->p, owner, &weight);
}

static int gc_profile(struct set *set, const char *kind, const struct set_picture *closing,
		      struct profile *p, struct error *err)
{
	struct profiling x = { self(set), p, strcmp(kind, "gc_time") == 0 };

	(void)closing;
	(void)err;
	return map_each(self(set)->skel->maps.gc_stacks, profile_stack, &x);
}

struct figuring {
	struct gc_set *g;
	figures_fn fn;
	void *ctx;
};

static int process_figures(struct figuring *x, const char *subject, const struct gc_sum *s)
{
	struct recording_figure v[RECORDING_FIGURES_MAX];
	size_t n = 0;

	figure_put(v, &n, "minor", s->minor);
	figure_put(v, &n, "major", s->major);
	figure_put(v, &n, "escalated", s->escalated);
	figure_put(v, &n, "dirty", s->dirty);
	figure_put(v, &n, "delayed", s->delayed);
	figure_put(v, &n, "killed", s->killed);
	figure_put(v, &n, "ns", s->ns);
	figure_put(v, &n, "ns_max", s->ns_max);
	figure_put(v, &n, "reclaimed_words", s->reclaimed);
	figure_put(v, &n, "reclaimed_unknown", s->unknown);
	figure_put(v, &n, "heap_before_words", s->heap_before);
	figure_put(v, &n, "heap_words", s->heap);
	figure_put(v, &n, "heap_max_words", s->heap_max);
	figure_put(v, &n, "long_gc", s->long_gc);
	figure_put(v, &n, "large_heap", s->large_heap);
	figures_histogram(v, &n, "ns", s->histogram);
	return x->fn(x->ctx, "gc", subject, v, n);
}

/* "<0.80.0> rabbit_reader:init/3"; the pid alone where it has no other name. */
static int process_sum(void *ctx, const void *key, const void *value)
{
	char pid[64], subject[PROCESS_LABEL_MAX + 80];
	struct figuring *x = ctx;
	uint64_t process;
	const char *label;

	memcpy(&process, key, sizeof(process));
	if (!process_pid_text(session_vm(x->g->set.session), process, pid, sizeof(pid)))
		snprintf(pid, sizeof(pid), "0x%llx", (unsigned long long)process);
	label = set_label(&x->g->set, process, 0);
	if (strcmp(label, pid) == 0)
		snprintf(subject, sizeof(subject), "%s", pid);
	else
		snprintf(subject, sizeof(subject), "%s %s", pid, label);
	return process_figures(x, subject, value);
}

static int gc_figures(struct set *set, figures_fn fn, void *ctx)
{
	struct figuring x = { self(set), fn, ctx };
	struct gc_sum others;
	uint32_t zero = 0;
	int ret = map_each(x.g->skel->maps.gc_processes, process_sum, &x);

	if (!ret && !bpf_map_lookup_elem(bpf_map__fd(x.g->skel->maps.gc_others), &zero, &others) &&
	    others.minor + others.major + others.delayed)
		ret = process_figures(&x, "(processes that there was no room for)", &others);
	return ret;
}

static const struct set_profile_kind kinds[] = {
	{ "gc", "collections" },
	{ "gc_time", "ns" },
	{ NULL, NULL },
};

const struct set_class set_gc = {
	.name = "gc",
	.id = SET_GC,
	.kinds = kinds,
	.hit_ns = PLACES_HIT_NS,
	.levels = PLACES_LEVELS,
	.on_demand = true,
	.open = gc_open,
	.attach = gc_attach,
	.profile = gc_profile,
	.figures = gc_figures,
	.thin = gc_thin,
	.detach = gc_detach,
	.close = gc_close,
};
