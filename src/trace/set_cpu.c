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
#include <search.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <bpf/bpf.h>

#include "cpu.skel.h"
#include "target/system.h"
#include "trace/usage_int.h"

#define FREQUENCY_DEFAULT 49 /* no divisor of what timers usually tick at */
#define THREADS_MAX	  4096u
#define HIT_NS		  10000 /* the timer's interrupt, in a virtual machine */
#define LONG_DEFAULT_MS	  100u
#define TABLE_MAX	  65536u /* rows of threads and of processes, each */

struct cpu_thread {
	uint32_t tid;
	uint64_t samples[STATE_N];
	/* The process that it runs as far as samples tell, see long_check(). */
	uint64_t process, reds, first_ns, last_ns, before_ns;
};

struct cpu_set {
	struct set set;
	struct cpu_bpf *skel;
	unsigned frequency;
	struct bpf_link **links;
	size_t n;
	struct weights weights;
	uint64_t long_ns;
	void *threads, *processes; /* of tsearch(): cpu_thread, process_usage */
	size_t n_threads, n_processes;
};

static struct cpu_set *self(struct set *set)
{
	return (struct cpu_set *)set;
}

/* ---- tables -------------------------------------------------------------------------- */

static int thread_cmp(const void *a, const void *b)
{
	const struct cpu_thread *x = a, *y = b;

	return x->tid < y->tid ? -1 : x->tid > y->tid;
}

static int process_cmp(const void *a, const void *b)
{
	const struct process_usage *x = a, *y = b;

	return x->process < y->process ? -1 : x->process > y->process;
}

/* The row like *key, a copy of it if it is new; NULL: no room. */
static void *row_get(struct cpu_set *c, void **table, size_t *n, const void *key, size_t size,
		     int (*cmp)(const void *, const void *))
{
	void **found = tfind(key, table, cmp), *row;

	if (found)
		return *found;
	row = *n < TABLE_MAX ? malloc(size) : NULL;
	if (row) {
		memcpy(row, key, size);
		if (tsearch(row, table, cmp)) {
			(*n)++;
			return row;
		}
		free(row);
	}
	session_stacks(c->set.session)->lost++;
	return NULL;
}

static struct cpu_thread *thread_row(struct cpu_set *c, uint32_t tid)
{
	struct cpu_thread key = { .tid = tid };

	return row_get(c, &c->threads, &c->n_threads, &key, sizeof(key), thread_cmp);
}

static struct process_usage *process_row(struct cpu_set *c, uint64_t process)
{
	struct process_usage key = { .process = process };

	return row_get(c, &c->processes, &c->n_processes, &key, sizeof(key), process_cmp);
}

static void tables_clear(struct cpu_set *c)
{
	tdestroy(c->threads, free);
	tdestroy(c->processes, free);
	c->threads = c->processes = NULL;
	c->n_threads = c->n_processes = 0;
}

struct each {
	int (*thread)(void *arg, uint32_t tid, const uint64_t samples[STATE_N]);
	int (*process)(void *arg, const struct process_usage *p);
	void *arg;
	int ret;
};

static void visit(const void *node, VISIT which, void *closure)
{
	const void *row = *(void *const *)node;
	struct each *e = closure;

	if (e->ret || (which != postorder && which != leaf))
		return;
	if (e->thread) {
		const struct cpu_thread *t = row;

		e->ret = e->thread(e->arg, t->tid, t->samples);
	} else {
		e->ret = e->process(e->arg, row);
	}
}

int cpu_each_thread(struct set *set,
		    int (*fn)(void *arg, uint32_t tid, const uint64_t samples[STATE_N]), void *arg)
{
	struct each e = { .thread = fn, .arg = arg };

	twalk_r(self(set)->threads, visit, &e);
	return e.ret;
}

/* ---- long schedules ------------------------------------------------------------------ */

/*
 * A process's reductions are added up when it is scheduled out (Process.reds). Two
 * samples of one scheduler that find the same process with the same sum were taken in
 * one and the same schedule, which so lasted at least from the one to the other, and
 * at most from the sample before to the sample behind them:
 *
 *	samples     p q      q      q    p
 *	              |<- at least->|
 *	            |<-- at most ------->|
 *
 * Samples tick with the thread's own processor time. What of a schedule passes without
 * any, because the thread blocks or is kept from running, the set sched tells: leaving
 * the processor and coming back count like samples.
 */
static void long_end(struct cpu_set *c, const struct cpu_thread *t, uint64_t now)
{
	uint64_t least = t->last_ns - t->first_ns;
	struct process_usage *p;

	if (!t->process || least < c->long_ns)
		return;
	p = process_row(c, t->process);
	if (!p)
		return;
	p->long_schedules++;
	if (least > p->longest_ns)
		p->longest_ns = least;
	if (now - t->before_ns > p->longest_most_ns)
		p->longest_most_ns = now - t->before_ns;
}

static void long_check(struct cpu_set *c, struct cpu_thread *t, uint64_t process, uint64_t reds,
		       uint64_t ns)
{
	if (process != t->process || reds != t->reds) {
		long_end(c, t, ns);
		t->process = process;
		t->reds = reds;
		t->before_ns = t->last_ns ? t->last_ns : ns;
		t->first_ns = ns;
	}
	t->last_ns = ns;
}

static void away_record(struct cpu_set *c, const struct event_sched_away *ev)
{
	struct cpu_thread *t = thread_row(c, ev->e.tid);

	if (!t || ev->to < ev->from || ev->from < t->last_ns)
		return;
	process_row(c, ev->process); /* so that one that lasts is seen */
	long_check(c, t, ev->process, ev->reds, ev->from);
	long_check(c, t, ev->process, ev->reds, ev->to);
}

/* Those that still last count as far as they were seen. */
struct lasting {
	const struct cpu_set *c;
	struct process_usage *p;
};

static void lasting_visit(const void *node, VISIT which, void *closure)
{
	const struct cpu_thread *t = *(struct cpu_thread *const *)node;
	struct lasting *l = closure;
	uint64_t least = t->last_ns - t->first_ns;

	if ((which != postorder && which != leaf) || t->process != l->p->process ||
	    least < l->c->long_ns)
		return;
	l->p->long_schedules++;
	if (least > l->p->longest_ns) {
		l->p->longest_ns = least;
		l->p->longest_most_ns = 0; /* not over */
	}
}

struct process_visit {
	struct cpu_set *c;
	int (*fn)(void *arg, const struct process_usage *p);
	void *arg;
};

static int process_with_lasting(void *arg, const struct process_usage *p)
{
	struct process_visit *v = arg;
	struct process_usage copy = *p;
	struct lasting l = { v->c, &copy };

	twalk_r(v->c->threads, lasting_visit, &l);
	return v->fn(v->arg, &copy);
}

int cpu_each_process(struct set *set, int (*fn)(void *arg, const struct process_usage *p),
		     void *arg)
{
	struct process_visit v = { self(set), fn, arg };
	struct each e = { .process = process_with_lasting, .arg = &v };

	twalk_r(self(set)->processes, visit, &e);
	return e.ret;
}

/* ---- load, attach -------------------------------------------------------------------- */

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
	tables_clear(c);
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
	c->long_ns = (o && o->long_schedule ? o->long_schedule : LONG_DEFAULT_MS) * 1000000ULL;
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

/* ---- records ------------------------------------------------------------------------- */

static void cpu_record(struct set *set, const struct event *e, size_t size)
{
	const struct event_sample *sample = (const struct event_sample *)e;
	struct cpu_set *c = self(set);
	struct process_usage *p;
	struct cpu_thread *t;
	struct weight *w;
	uint32_t owner;

	if (e->kind == EVENT_SCHED_AWAY) {
		if (size >= sizeof(struct event_sched_away))
			away_record(c, (const struct event_sched_away *)e);
		return;
	}
	if (size < sizeof(*sample) || sample->state >= STATE_N)
		return;
	t = thread_row(c, e->tid);
	if (t) {
		t->samples[sample->state]++;
		if (session_role(set->session, e->tid) == ROLE_SCHEDULER)
			long_check(c, t, sample->process, sample->reds, sample->ns);
	}
	p = sample->process ? process_row(c, sample->process) : NULL;
	if (p)
		p->samples[sample->state]++;
	owner = set_owner(set, sample->stack, sample->process, e->tid);
	w = owner ? weights_at(&c->weights, owner) : NULL;
	if (w) {
		w->net++;
		w->gross++;
		w->count++;
	}
}

static int cpu_baseline(struct set *set, const struct set_picture *now, struct error *err)
{
	struct cpu_set *c = self(set);

	(void)err;
	if (now)
		return 0;
	if (c->weights.n)
		memset(c->weights.v, 0, c->weights.n * sizeof(*c->weights.v));
	tables_clear(c);
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
	const struct cpu_set *c = (const struct cpu_set *)set;

	return c->weights.n * sizeof(struct weight) + c->n_threads * sizeof(struct cpu_thread) +
	       c->n_processes * sizeof(struct process_usage);
}

static const struct set_profile_kind kinds[] = { { "cpu", "samples" }, { NULL, NULL } };
static const uint32_t events[] = { EVENT_SAMPLE, EVENT_SCHED_AWAY, 0 };

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
