// SPDX-License-Identifier: Apache-2.0
/*
 * Blocked time by stack. A thread that blocks all the time that we watch never comes
 * back to tell: what is still open when a profile is made counts as far as it has
 * lasted. A thread that blocked before we came has no stack until it blocks again.
 */
#include "trace/set.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <bpf/bpf.h>

#include "offcpu.skel.h"
#include "trace/session_int.h"

#define HIT_NS	       100
#define MIN_DEFAULT_NS 1000000ULL
#define LEVELS	       8

struct offcpu_set {
	struct set set;
	struct offcpu_bpf *skel;
	struct tables_area mask;
	struct weights weights;
	uint64_t min_ns, begin_ns, end_ns;
	uint64_t own_idle_ns; /* of threads that wait by profession: aux, poll, signals */
};

static struct offcpu_set *self(struct set *set)
{
	return (struct offcpu_set *)set;
}

static bool waits_by_profession(const struct session *s, uint32_t tid)
{
	unsigned role = session_role(s, tid);

	return role == ROLE_AUX || role == ROLE_POLL || role == ROLE_SIGNAL;
}

static void offcpu_record(struct set *set, const struct event *e, size_t size)
{
	const struct event_offcpu *ev = (const struct event_offcpu *)e;
	struct offcpu_set *c = self(set);
	struct weight *w;
	uint32_t owner;

	if (size < sizeof(*ev))
		return;
	if (waits_by_profession(set->session, e->tid)) {
		c->own_idle_ns += ev->ns;
		return;
	}
	owner = set_owner(set, ev->stack, ev->process, e->tid);
	w = owner ? weights_at(&c->weights, owner) : NULL;
	if (w) {
		w->net += (int64_t)ev->ns;
		w->gross += ev->ns;
		w->count++;
	}
}

static int offcpu_baseline(struct set *set, const struct set_picture *now, struct error *err)
{
	struct offcpu_set *c = self(set);

	(void)err;
	if (now)
		return 0;
	if (c->weights.n)
		memset(c->weights.v, 0, c->weights.n * sizeof(*c->weights.v));
	c->own_idle_ns = 0;
	c->begin_ns = session_now_ns();
	return 0;
}

/* Those that have not come back yet. */
static int profile_open(struct offcpu_set *c, struct profile *p)
{
	int fd = bpf_map__fd(c->skel->maps.offcpu_threads), ret = 0;
	uint64_t now = c->end_ns ? c->end_ns : session_now_ns();
	uint32_t max = bpf_map__max_entries(c->skel->maps.offcpu_threads), tid, last = 0;
	bool first = true;

	for (uint32_t i = 0; !ret && i < max; i++) {
		struct offcpu_thread off;
		struct weight w = { 0 };
		uint32_t owner;

		if (bpf_map_get_next_key(fd, first ? NULL : &last, &tid))
			break;
		first = false;
		last = tid;
		if (bpf_map_lookup_elem(fd, &tid, &off) || !off.since || off.idle ||
		    waits_by_profession(c->set.session, tid))
			continue;
		if (off.since < c->begin_ns)
			off.since = c->begin_ns;
		if (now < off.since + c->min_ns)
			continue;
		w.gross = now - off.since;
		w.net = (int64_t)w.gross;
		w.count = 1;
		owner = set_owner(&c->set, off.stack, off.process, tid);
		ret = owner ? set_profile_add(&c->set, p, owner, &w) : 0;
	}
	return ret;
}

static int offcpu_profile(struct set *set, const char *kind, const struct set_picture *closing,
			  struct profile *p, struct error *err)
{
	int ret = set_profile_all(set, p, &self(set)->weights);

	(void)kind;
	(void)closing;
	(void)err;
	return ret ? ret : profile_open(self(set), p);
}

static void offcpu_thin(struct set *set, unsigned level)
{
	*(uint32_t *)self(set)->mask.mem = (1u << level) - 1;
}

static int offcpu_attach(struct set *set, struct error *err)
{
	int ret = offcpu_bpf__attach(self(set)->skel);

	self(set)->begin_ns = session_now_ns();
	return ret ? set_failed(err, ret, "attaching") : 0;
}

static void offcpu_detach(struct set *set)
{
	self(set)->end_ns = session_now_ns();
	offcpu_bpf__detach(self(set)->skel);
}

static void offcpu_close(struct set *set)
{
	struct offcpu_set *c = self(set);

	area_unmap(&c->mask);
	offcpu_bpf__destroy(c->skel);
	weights_free(&c->weights);
	free(c);
}

static int load(struct offcpu_set *c, struct error *err)
{
	int ret;

	c->skel = offcpu_bpf__open();
	if (!c->skel)
		return set_failed(err, -errno, "opening");
	*(uint64_t *)&c->skel->rodata->min_ns = c->min_ns;
	bpf_map__set_max_entries(c->skel->maps.offcpu_threads, session_threads(c->set.session));
	ret = set_load(&c->set, c->skel->obj, &c->skel->rodata->cfg, err);
	if (ret)
		return ret;
	ret = area_map(&c->mask, bpf_map__fd(c->skel->maps.offcpu_mask), sizeof(uint32_t), 1);
	return ret ? set_failed(err, ret, "mapping the tables of") : 0;
}

static int offcpu_open(struct session *s, const void *opts, struct set **out, struct error *err)
{
	const struct set_offcpu_opts *o = opts;
	struct offcpu_set *c = calloc(1, sizeof(*c));
	int ret;

	*out = NULL;
	if (!c)
		return -ENOMEM;
	c->set.class = &set_offcpu;
	c->set.session = s;
	c->min_ns = o && o->min_ns ? o->min_ns : MIN_DEFAULT_NS;
	ret = load(c, err);
	if (ret) {
		offcpu_close(&c->set);
		return ret;
	}
	*out = &c->set;
	return 0;
}

static uint64_t offcpu_memory(const struct set *set)
{
	return ((const struct offcpu_set *)set)->weights.n * sizeof(struct weight);
}

static const struct set_profile_kind kinds[] = { { "offcpu", "ns" }, { NULL, NULL } };
static const uint32_t events[] = { EVENT_OFFCPU, 0 };

const struct set_class set_offcpu = {
	.name = "offcpu",
	.id = SET_OFFCPU,
	.kinds = kinds,
	.events = events,
	.hit_ns = HIT_NS,
	.levels = LEVELS,
	.on_demand = true,
	.open = offcpu_open,
	.attach = offcpu_attach,
	.record = offcpu_record,
	.baseline = offcpu_baseline,
	.profile = offcpu_profile,
	.thin = offcpu_thin,
	.memory = offcpu_memory,
	.detach = offcpu_detach,
	.close = offcpu_close,
};
