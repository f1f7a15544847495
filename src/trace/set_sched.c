// SPDX-License-Identifier: Apache-2.0
/*
 * Exact times of threads, by sched_switch. The kernel keeps a row a thread; rows of
 * threads that have ended come as records. A thread that is not switched while we
 * watch, because it sleeps or has a processor for itself, would have no row: so every
 * thread is given one at the beginning, with the state that /proc says.
 */
#include "trace/set.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <bpf/bpf.h>

#include "erts/process.h"
#include "sched.skel.h"
#include "target/system.h"
#include "trace/session_int.h"
#include "trace/usage_int.h"

#define HIT_NS	  60
#define ENDED_MAX 4096u

struct sched_set {
	struct set set;
	struct sched_bpf *skel;
	struct usage_thread_times *base; /* as of the baseline */
	size_t n_base;
	struct usage_thread_times *ended;
	size_t n_ended, a_ended;
	uint64_t end_ns; /* when it was detached */
};

static struct sched_set *self(struct set *set)
{
	return (struct sched_set *)set;
}

/* Adds what the class that it is in has lasted. */
static void close_open(struct sched_thread *t, uint64_t now)
{
	if (t->class < SCHED_N && now > t->since)
		t->ns[t->class] += now - t->since;
	t->since = now;
}

static int read_all(struct sched_set *c, struct usage_thread_times **out, size_t *count)
{
	int fd = bpf_map__fd(c->skel->maps.sched_threads);
	uint64_t now = c->end_ns ? c->end_ns : session_now_ns();
	uint32_t max = bpf_map__max_entries(c->skel->maps.sched_threads), tid, *last = NULL;
	struct usage_thread_times *v = calloc(max ? max : 1, sizeof(*v));
	size_t n = 0;

	if (!v)
		return -ENOMEM;
	while (n < max && !bpf_map_get_next_key(fd, last, &tid)) {
		v[n].tid = tid;
		if (!bpf_map_lookup_elem(fd, &tid, &v[n].t)) {
			close_open(&v[n].t, now);
			n++;
		}
		last = &v[n ? n - 1 : 0].tid;
		if (*last != tid)
			break; /* it ended underneath; the next look has the rest */
	}
	*out = v;
	*count = n;
	return 0;
}

static void subtract(const struct sched_set *c, struct usage_thread_times *t)
{
	for (size_t i = 0; i < c->n_base; i++) {
		if (c->base[i].tid != t->tid)
			continue;
		for (unsigned k = 0; k < SCHED_N; k++)
			t->t.ns[k] -= c->base[i].t.ns[k] < t->t.ns[k] ? c->base[i].t.ns[k]
								      : t->t.ns[k];
		t->t.switches -= c->base[i].t.switches < t->t.switches ? c->base[i].t.switches
								       : t->t.switches;
		return;
	}
}

int sched_each(struct set *set, int (*fn)(void *arg, const struct usage_thread_times *t), void *arg)
{
	struct sched_set *c = self(set);
	struct usage_thread_times *v;
	size_t n;
	int ret = read_all(c, &v, &n);

	for (size_t i = 0; !ret && i < n; i++) {
		subtract(c, &v[i]);
		ret = fn(arg, &v[i]);
	}
	for (size_t i = 0; !ret && i < c->n_ended; i++) {
		struct usage_thread_times t = c->ended[i];

		subtract(c, &t);
		ret = fn(arg, &t);
	}
	free(v);
	return ret;
}

static void sched_record(struct set *set, const struct event *e, size_t size)
{
	const struct event_sched_end *ev = (const struct event_sched_end *)e;
	struct sched_set *c = self(set);

	if (size < sizeof(*ev))
		return;
	if (c->n_ended == c->a_ended) {
		size_t a = c->a_ended ? c->a_ended * 2 : 64;
		struct usage_thread_times *v;

		v = a > ENDED_MAX ? NULL : realloc(c->ended, a * sizeof(*v));
		if (!v) {
			session_stacks(set->session)->lost++;
			return;
		}
		c->ended = v;
		c->a_ended = a;
	}
	c->ended[c->n_ended++] = (struct usage_thread_times){ e->tid, true, ev->t };
}

static int sched_baseline(struct set *set, const struct set_picture *now, struct error *err)
{
	struct sched_set *c = self(set);

	(void)err;
	if (now)
		return 0;
	free(c->base);
	c->base = NULL;
	c->n_base = 0;
	c->n_ended = 0;
	return read_all(c, &c->base, &c->n_base);
}

/* Is the thread asleep? From /proc/PID/task/TID/stat: "tid (comm) S ...". */
static bool asleep(struct target *t, pid_t tid)
{
	char path[64], *text, *p;
	bool sleeps;

	snprintf(path, sizeof(path), "task/%d/stat", (int)tid);
	if (target_proc_read(t, path, 4096, &text) < 0)
		return true;
	p = strrchr(text, ')');
	sleeps = p && p[1] == ' ' && p[2] != 'R';
	free(text);
	return sleeps;
}

/* Nanoseconds that it ran, as the kernel counts them; 0: not known. */
static uint64_t ran(struct target *t, pid_t tid)
{
	char path[64], *text;
	uint64_t ns;

	snprintf(path, sizeof(path), "task/%d/schedstat", (int)tid);
	if (target_proc_read(t, path, 4096, &text) < 0)
		return 0;
	ns = strtoull(text, NULL, 10);
	free(text);
	return ns;
}

/* Names and times for the threads that are there. What a program has seen already
 * stays as it is. */
static void seed(struct sched_set *c)
{
	struct session *s = c->set.session;
	int fd = bpf_map__fd(c->skel->maps.sched_threads);
	struct system_thread *v;
	ssize_t n;

	if (s->config.ns_ino)
		return; /* the kernel knows them by other numbers */
	n = system_threads(s->target, &v);
	for (ssize_t i = 0; i < n; i++) {
		struct sched_thread t = { .since = session_now_ns(),
					  .exec = ran(s->target, v[i].tid) };
		uint32_t tid = (uint32_t)v[i].tid;
		unsigned role;

		t.class = asleep(s->target, v[i].tid) ? SCHED_BLOCKED : SCHED_RUNNING;
		names_thread_found(s->names, tid, v[i].comm);
		role = names_role(s->names, tid);
		if (t.class == SCHED_BLOCKED && role >= ROLE_SCHEDULER && role <= ROLE_DIRTY_IO)
			t.class = SCHED_IDLE;
		/* ready without being switched to: it waits for a processor */
		t.away = t.class == SCHED_RUNNING ? SCHED_PREEMPTED : t.class;
		bpf_map_update_elem(fd, &tid, &t, BPF_NOEXIST);
	}
	if (n >= 0)
		free(v);
}

static int sched_attach(struct set *set, struct error *err)
{
	int ret = sched_bpf__attach(self(set)->skel);

	if (ret)
		return set_failed(err, ret, "attaching");
	seed(self(set));
	return 0;
}

static void sched_detach(struct set *set)
{
	self(set)->end_ns = session_now_ns();
	sched_bpf__detach(self(set)->skel);
}

static void sched_close(struct set *set)
{
	struct sched_set *c = self(set);

	sched_bpf__destroy(c->skel);
	free(c->base);
	free(c->ended);
	free(c);
}

static int sched_open(struct session *s, const void *opts, struct set **out, struct error *err)
{
	struct sched_set *c = calloc(1, sizeof(*c));
	int ret;

	(void)opts;
	*out = NULL;
	if (!c)
		return -ENOMEM;
	c->set.class = &set_sched;
	c->set.session = s;
	c->skel = sched_bpf__open();
	if (c->skel) {
		bpf_map__set_max_entries(c->skel->maps.sched_threads, session_threads(s));
		ret = set_load(&c->set, c->skel->obj, &c->skel->rodata->cfg, err);
	} else {
		ret = set_failed(err, -errno, "opening");
	}
	if (ret) {
		sched_close(&c->set);
		return ret;
	}
	*out = &c->set;
	return 0;
}

static const uint32_t events[] = { EVENT_SCHED_END, 0 };

const struct set_class set_sched = {
	.name = "sched",
	.id = SET_SCHED,
	.events = events,
	.hit_ns = HIT_NS,
	.open = sched_open,
	.attach = sched_attach,
	.record = sched_record,
	.baseline = sched_baseline,
	.detach = sched_detach,
	.close = sched_close,
};
