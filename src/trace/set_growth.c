// SPDX-License-Identifier: Apache-2.0
/*
 * Growth: what faults and system calls say goes into the live map (growth.c), and
 * comes out with what a closing picture says is resident.
 */
#include "trace/set.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <bpf/bpf.h>

#include "memory.skel.h"
#include "trace/growth.h"
#include "trace/session_int.h"

#define LIVE_MAX (128u << 20) /* of the live map, which takes 0.1% of what it describes */
#define HELD_MAX (1u << 20)
#define HIT_NS	 80 /* an empty program at page_fault_user: 64 and 84 ns, medians of 25 pairs */
#define LEVELS	 4  /* some 80 stacks a second on each CPU: less tells nothing */

struct growth_set {
	struct set set;
	struct memory_bpf *skel;
	bool direct; /* system calls are seen at their own functions */
	struct tables_area limits, runs;
	struct growth *live;
	struct weights weights;
	struct growth_sum sum;
	/* While it is frozen: what came since, to be done after the profile. */
	union held {
		struct event e;
		struct event_run run;
		struct event_range range;
	} * held;
	size_t n_held, a_held;
};

static struct growth_set *self(struct set *set)
{
	return (struct growth_set *)set;
}

/* ---- records ------------------------------------------------------------------------- */

/*
 * Between a picture of what is resident and its use time passes, and a busy node
 * gives pages back that the picture shows. Such records wait until the picture has
 * been used. Faults wait with them, to be done in the right order, but are also done
 * at once: a page in the picture may have got its record only now. Returns true when
 * the record has been dealt with.
 */
static bool hold(struct growth_set *g, const struct event *e, size_t size)
{
	bool range = e->kind == EVENT_UNMAP || e->kind == EVENT_MOVE_BEGIN ||
		     e->kind == EVENT_MOVE_END;

	if (!range && (e->kind != EVENT_RUN || !g->n_held))
		return false;
	if (size < (range ? sizeof(struct event_range) : sizeof(struct event_run)))
		return true;
	if (g->n_held == g->a_held) {
		size_t a = g->a_held ? g->a_held * 2 : 256;
		union held *v = a > HELD_MAX ? NULL : realloc(g->held, a * sizeof(*v));

		if (!v)
			return false;
		g->held = v;
		g->a_held = a;
	}
	memcpy(&g->held[g->n_held++], e,
	       range ? sizeof(struct event_range) : sizeof(struct event_run));
	return range;
}

static void run_came(struct growth_set *g, const struct event_run *ev)
{
	uint64_t bytes = ev->run.pages * TARGET_PAGE;
	uint32_t owner = set_owner(&g->set, ev->run.stack, ev->run.process, ev->e.tid);
	struct weight *w = owner ? weights_at(&g->weights, owner) : NULL;

	if (!w)
		return;
	w->gross += growth_fault(g->live, ev->run.start, bytes, owner);
	w->count++;
}

static void take(struct growth_set *g, const struct event *e, size_t size)
{
	const struct event_range *range = (const struct event_range *)e;

	if (size < (e->kind == EVENT_RUN ? sizeof(struct event_run) : sizeof(*range)))
		return;
	switch (e->kind) {
	case EVENT_RUN:
		run_came(g, (const struct event_run *)e);
		break;
	case EVENT_UNMAP:
		growth_gone(g->live, range->start, range->bytes);
		break;
	case EVENT_MOVE_BEGIN:
		growth_move_begin(g->live, e->tid, range->start, range->bytes);
		break;
	case EVENT_MOVE_END:
		growth_move_end(g->live, e->tid, range->to, range->to_bytes);
		break;
	default:
		break;
	}
}

static void growth_record(struct set *set, const struct event *e, size_t size)
{
	struct growth_set *g = self(set);

	if (!set->frozen || !hold(g, e, size))
		take(g, e, size);
}

/* Runs that are still growing. They stay where they are and come as records
 * later; an owner is only taken once, so that does no harm. */
static void open_runs(struct growth_set *g)
{
	const volatile struct run_slot *slots = g->runs.mem;

	for (unsigned i = 0; slots && i < RUN_SLOTS; i++) {
		struct event_run ev = { .e = { EVENT_RUN, slots[i].tid } };

		ev.run.start = slots[i].run.start;
		ev.run.pages = slots[i].run.pages;
		ev.run.stack = slots[i].run.stack;
		ev.run.process = slots[i].run.process;
		if (ev.run.pages && ev.run.start == slots[i].run.start)
			growth_record(&g->set, &ev.e, sizeof(ev));
	}
}

static void growth_thaw(struct set *set)
{
	struct growth_set *g = self(set);

	for (size_t i = 0; i < g->n_held; i++)
		take(g, &g->held[i].e, sizeof(g->held[i]));
	g->n_held = 0;
}

static void growth_freeze(struct set *set)
{
	open_runs(self(set));
}

/* ---- load, attach -------------------------------------------------------------------- */

static void growth_thin(struct set *set, unsigned level)
{
	struct growth_limits *l = self(set)->limits.mem;

	l->place_burst = 10;
	l->place_interval = (20000000ULL << level); /* 50 a second */
	l->cpu_burst = 100 >> level;
	l->cpu_interval = 2000000ULL << level; /* 500 a second on each CPU */
	l->reserve_burst = 20;		       /* at every level: 100 a second, and 10 a process */
	l->reserve_interval = 10000000ULL;
	l->process_burst = 4;
	l->process_interval = 100000000ULL;
	l->random_mask = (64u << level) - 1;
	if (l->cpu_burst < 8)
		l->cpu_burst = 8;
}

static void growth_close(struct set *set)
{
	struct growth_set *g = self(set);

	area_unmap(&g->limits);
	area_unmap(&g->runs);
	memory_bpf__destroy(g->skel);
	growth_free(g->live);
	weights_free(&g->weights);
	free(g->held);
	free(g);
}

/* The programs at the functions of single system calls (N_DIRECT of them), and those at
 * the tracepoint of all. */
enum { N_DIRECT = 6, N_SYSCALLS = 8 };

struct syscall_program {
	struct bpf_program *program;
	struct bpf_link **link;
};

static void syscalls_list(struct memory_bpf *skel, struct syscall_program v[N_SYSCALLS])
{
	const struct syscall_program all[N_SYSCALLS] = {
		{ skel->progs.enter_mmap, &skel->links.enter_mmap },
		{ skel->progs.enter_munmap, &skel->links.enter_munmap },
		{ skel->progs.enter_brk, &skel->links.enter_brk },
		{ skel->progs.enter_madvise, &skel->links.enter_madvise },
		{ skel->progs.enter_mremap, &skel->links.enter_mremap },
		{ skel->progs.exit_mremap, &skel->links.exit_mremap },
		{ skel->progs.sys_enter, &skel->links.sys_enter },
		{ skel->progs.sys_exit, &skel->links.sys_exit },
	};

	memcpy(v, all, sizeof(all));
}

/* `direct`: with the programs for single system calls. A kernel that lacks one of their
 * functions, or may not trace any, refuses all. */
static int load_programs(struct growth_set *g, bool direct, struct error *err)
{
	struct memory_bpf *skel = memory_bpf__open();
	struct syscall_program v[N_SYSCALLS];
	unsigned i;

	if (!skel)
		return set_failed(err, -errno, "opening");
	g->skel = skel;
	syscalls_list(skel, v);
	for (i = 0; i < N_SYSCALLS; i++) {
		bpf_program__set_autoattach(v[i].program, false);
		if (i < N_DIRECT && !direct)
			bpf_program__set_autoload(v[i].program, false);
	}
	bpf_map__set_max_entries(skel->maps.growth_threads, session_threads(g->set.session));
	g->direct = direct;
	return set_load(&g->set, skel->obj, &skel->rodata->cfg, err);
}

static int load(struct growth_set *g, struct error *err)
{
	struct memory_bpf *skel;
	struct error first = { 0 };
	int ret = load_programs(g, true, &first);

	if (ret) {
		memory_bpf__destroy(g->skel);
		g->skel = NULL;
		ret = load_programs(g, false, err);
	}
	if (ret)
		return ret;
	skel = g->skel;
	ret = area_map(&g->limits, bpf_map__fd(skel->maps.growth_limits),
		       sizeof(struct growth_limits), 1);
	if (!ret)
		ret = area_map(&g->runs, bpf_map__fd(skel->maps.runs), sizeof(struct run_slot),
			       RUN_SLOTS);
	if (ret)
		return set_failed(err, ret, "mapping the tables of");
	growth_thin(&g->set, 0);
	return 0;
}

static int growth_open(struct session *s, const void *opts, struct set **out, struct error *err)
{
	struct growth_set *g = calloc(1, sizeof(*g));
	int ret;

	(void)opts;
	*out = NULL;
	if (!g)
		return -ENOMEM;
	g->set.class = &set_growth;
	g->set.session = s;
	ret = growth_new(LIVE_MAX, &g->live);
	if (!ret)
		ret = load(g, err);
	if (ret) {
		growth_close(&g->set);
		return ret;
	}
	*out = &g->set;
	return 0;
}

/* Attaches those from `from` to before `to`; a negative errno with none of them left. */
static int syscalls_attach(const struct syscall_program *v, unsigned from, unsigned to)
{
	unsigned i;

	for (i = from; i < to; i++) {
		int ret;

		*v[i].link = bpf_program__attach(v[i].program);
		if (*v[i].link)
			continue;
		ret = -errno;
		while (i-- > from) {
			bpf_link__destroy(*v[i].link);
			*v[i].link = NULL;
		}
		return ret;
	}
	return 0;
}

static int growth_attach(struct set *set, struct error *err)
{
	struct growth_set *g = self(set);
	struct syscall_program v[N_SYSCALLS];
	int ret = memory_bpf__attach(g->skel);

	syscalls_list(g->skel, v);
	if (!ret && (!g->direct || syscalls_attach(v, 0, N_DIRECT))) {
		ret = syscalls_attach(v, N_DIRECT, N_SYSCALLS);
		g->direct = false;
	}
	return ret ? set_failed(err, ret, "attaching") : 0;
}

static void growth_detach(struct set *set)
{
	memory_bpf__detach(self(set)->skel);
	open_runs(self(set));
}

/* ---- results ------------------------------------------------------------------------- */

static int growth_baseline(struct set *set, const struct set_picture *now, struct error *err)
{
	struct growth_set *g = self(set);

	(void)err;
	if (now)
		return growth_begin(g->live, now->res, now->maps);
	for (size_t i = 0; i < g->weights.n; i++)
		g->weights.v[i] = (struct weight){ 0 };
	return growth_begin(g->live, NULL, NULL);
}

static int growth_profile(struct set *set, const char *kind, const struct set_picture *closing,
			  struct profile *p, struct error *err)
{
	struct growth_set *g = self(set);
	size_t n = session_stacks(set->session)->n_owners;
	int64_t *net;
	int ret;

	(void)kind;
	(void)err;
	if (set->attached)
		open_runs(g);
	net = calloc(n, sizeof(*net));
	ret = net ? growth_account(g->live, closing ? closing->res : NULL,
				   closing ? closing->maps : NULL, net, n, &g->sum)
		  : -ENOMEM;
	for (uint32_t i = 1; !ret && i < n; i++) {
		struct weight *w = weights_at(&g->weights, i);

		ret = w ? 0 : -ENOMEM;
		if (ret)
			break;
		w->net = net[i];
		ret = set_profile_add(set, p, i, w);
	}
	p->without_stack += (int64_t)g->sum.unowned;
	free(net);
	return ret;
}

void session_growth_sum(const struct session *s, struct growth_sum *out)
{
	struct set *set = session_set(s, &set_growth);

	if (set)
		*out = self(set)->sum;
	else
		memset(out, 0, sizeof(*out));
}

bool session_growth_direct(const struct session *s)
{
	struct set *set = session_set(s, &set_growth);

	return !set || self(set)->direct;
}

static uint64_t growth_memory(const struct set *set)
{
	const struct growth_set *g = (const struct growth_set *)set;

	return growth_bytes(g->live) + g->a_held * sizeof(*g->held) +
	       g->weights.n * sizeof(*g->weights.v);
}

static const struct set_profile_kind kinds[] = { { "growth", "bytes" }, { NULL, NULL } };
static const uint32_t events[] = { EVENT_RUN, EVENT_UNMAP, EVENT_MOVE_BEGIN, EVENT_MOVE_END, 0 };

const struct set_class set_growth = {
	.name = "growth",
	.id = SET_GROWTH,
	.kinds = kinds,
	.events = events,
	.hit_ns = HIT_NS,
	.levels = LEVELS,
	.open = growth_open,
	.attach = growth_attach,
	.record = growth_record,
	.baseline = growth_baseline,
	.freeze = growth_freeze,
	.thaw = growth_thaw,
	.profile = growth_profile,
	.thin = growth_thin,
	.memory = growth_memory,
	.detach = growth_detach,
	.close = growth_close,
};
