// SPDX-License-Identifier: Apache-2.0
/*
 * Processor samples. Each thread gets an event that counts its own CPU time
 * (cpu-clock) and is inherited by the threads that it starts. The alternative, one
 * event a processor, would interrupt every process on the machine; this one costs
 * others nothing, and a thread that sleeps costs nothing either.
 */
#include "trace/set.h"

#include <errno.h>
#include <linux/perf_event.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <bpf/bpf.h>

#include "cpu.skel.h"
#include "target/system.h"

#define FREQUENCY_DEFAULT 49 /* no divisor of what timers usually tick at */
#define THREADS_MAX	  4096u
#define HIT_NS		  10000 /* the timer's interrupt, in a virtual machine */

struct cpu_set {
	struct set set;
	struct cpu_bpf *skel;
	unsigned frequency;
	struct bpf_link **links;
	size_t n;
	struct weights weights;
};

static struct cpu_set *self(struct set *set)
{
	return (struct cpu_set *)set;
}

static int attach_thread(struct cpu_set *c, pid_t tid)
{
	struct perf_event_attr attr = {
		.type = PERF_TYPE_SOFTWARE,
		.size = sizeof(attr),
		.config = PERF_COUNT_SW_CPU_CLOCK,
		.sample_freq = c->frequency,
		.freq = 1,
		.inherit = 1,
	};
	struct bpf_link *link;
	int fd = (int)syscall(SYS_perf_event_open, &attr, tid, -1, -1, PERF_FLAG_FD_CLOEXEC);

	if (fd < 0)
		return errno == ESRCH ? 0 : -errno; /* it has ended */
	link = bpf_program__attach_perf_event(c->skel->progs.cpu_sample, fd);
	if (!link) {
		int ret = -errno;

		close(fd);
		return ret;
	}
	c->links[c->n++] = link; /* owns fd */
	return 0;
}

static int cpu_attach(struct set *set, struct error *err)
{
	struct cpu_set *c = self(set);
	struct system_thread *v;
	ssize_t n = system_threads(session_target(set->session), &v);
	int ret = 0;

	if (n < 0)
		return (int)n;
	if (n > THREADS_MAX)
		n = THREADS_MAX;
	c->links = calloc((size_t)n, sizeof(struct bpf_link *));
	if (!c->links)
		ret = -ENOMEM;
	for (ssize_t i = 0; !ret && i < n; i++)
		ret = attach_thread(c, v[i].tid);
	free(v);
	return ret ? set_failed(err, ret, "attaching") : 0;
}

static void cpu_detach(struct set *set)
{
	struct cpu_set *c = self(set);

	for (size_t i = 0; i < c->n; i++)
		bpf_link__destroy(c->links[i]);
	c->n = 0;
}

static void cpu_close(struct set *set)
{
	struct cpu_set *c = self(set);

	cpu_detach(set);
	cpu_bpf__destroy(c->skel);
	weights_free(&c->weights);
	free(c->links);
	free(c);
}

static int cpu_open(struct session *s, const void *opts, struct set **out, struct error *err)
{
	const struct set_cpu_opts *o = opts;
	struct cpu_set *c = calloc(1, sizeof(*c));
	int ret;

	*out = NULL;
	if (!c)
		return -ENOMEM;
	c->set.class = &set_cpu;
	c->set.session = s;
	c->frequency = o && o->frequency ? o->frequency : FREQUENCY_DEFAULT;
	c->skel = cpu_bpf__open();
	ret = c->skel ? set_load(&c->set, c->skel->obj, &c->skel->rodata->cfg, err)
		      : set_failed(err, -errno, "opening");
	if (ret) {
		cpu_close(&c->set);
		return ret;
	}
	*out = &c->set;
	return 0;
}

static void cpu_record(struct set *set, const struct event *e, size_t size)
{
	const struct event_sample *sample = (const struct event_sample *)e;
	struct weight *w;
	uint32_t owner;

	if (size < sizeof(*sample))
		return;
	owner = set_owner(set, sample->stack, sample->process, e->tid);
	w = owner ? weights_at(&self(set)->weights, owner) : NULL;
	if (w) {
		w->net++;
		w->gross++;
		w->count++;
	}
}

static int cpu_baseline(struct set *set, const struct set_picture *now, struct error *err)
{
	struct weights *w = &self(set)->weights;

	(void)err;
	if (!now && w->n)
		memset(w->v, 0, w->n * sizeof(*w->v));
	return 0;
}

static int cpu_profile(struct set *set, const char *kind, const struct set_picture *closing,
		       struct profile *p, struct error *err)
{
	(void)kind;
	(void)closing;
	(void)err;
	return set_profile_all(set, p, &self(set)->weights);
}

static uint64_t cpu_memory(const struct set *set)
{
	return ((const struct cpu_set *)set)->weights.n * sizeof(struct weight);
}

static const struct set_profile_kind kinds[] = { { "cpu", "samples" }, { NULL, NULL } };
static const uint32_t events[] = { EVENT_SAMPLE, 0 };

const struct set_class set_cpu = {
	.name = "cpu",
	.id = SET_CPU,
	.kinds = kinds,
	.events = events,
	.hit_ns = HIT_NS,
	.open = cpu_open,
	.attach = cpu_attach,
	.record = cpu_record,
	.baseline = cpu_baseline,
	.profile = cpu_profile,
	.memory = cpu_memory,
	.detach = cpu_detach,
	.close = cpu_close,
};
