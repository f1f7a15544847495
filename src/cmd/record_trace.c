// SPDX-License-Identifier: Apache-2.0
#include "cmd/record_trace.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "erts/process.h"
#include "target/escape.h"
#include "trace/session.h"
#include "trace/usage.h"

#define PROCESSES_MAX 500 /* with most samples */

/* ---- kinds --------------------------------------------------------------------------- */

/* In the order in which reports have them. */
static const struct kind {
	const char *profile; /* NULL: tables only */
	const struct set_class *set;
} kinds[] = {
	{ "growth", &set_growth }, /* attached by the watch itself */
	{ "cpu", &set_cpu },	      { NULL, &set_sched }, { "offcpu", &set_offcpu },
	{ "carrier", &set_carriers }, { "gc", &set_gc },    { "gc_time", &set_gc },
	{ "native", &set_native },
};
#define N_KINDS (sizeof(kinds) / sizeof(kinds[0]))

static void add(struct record_trace *t, struct watch *w, const char *name,
		const struct set_class *class, const void *opts)
{
	struct error err = { 0 };
	int ret = session_add(w->session, class, opts, &err);

	if (ret && t->n_notes < RECORD_NOTES)
		snprintf(t->notes[t->n_notes++], sizeof(t->notes[0]), "%s was not traced: %s.",
			 name, err.text[0] ? err.text : strerror(-ret));
}

static void notice_text(char *buf, size_t size, const struct set_stats *s)
{
	snprintf(buf, size, "Tracing: %s.", s->notice);
}

/* What the sets say of themselves before anything was seen: what they cost more here, or
 * do not see. Kept now: the governor's words may take their place. */
static void notices_keep(struct record_trace *t, struct watch *w)
{
	struct session_stats st;

	session_stats(w->session, &st);
	for (unsigned i = 0; i < SET_N; i++)
		if (st.sets[i].name && st.sets[i].notice[0] && t->n_notes < RECORD_NOTES)
			notice_text(t->notes[t->n_notes++], sizeof(t->notes[0]), &st.sets[i]);
}

static bool noted(const struct record_trace *t, const char *text)
{
	for (unsigned i = 0; i < t->n_notes; i++)
		if (strcmp(t->notes[i], text) == 0)
			return true;
	return false;
}

void record_trace_open(struct record_trace *t, struct watch *w)
{
	struct set_cpu_opts cpu = { .frequency = (unsigned)t->frequency };
	struct set_offcpu_opts off = { .min_ns = (uint64_t)(t->offcpu_min * 1e9) };
	struct set_native_opts native = { .library = t->library };
	struct set_gc_opts gc = { .long_ms = (uint64_t)(t->long_gc * 1e3),
				  .large_words = t->large_heap };

	if (!w->session)
		return;
	if (!t->no_carriers)
		add(t, w, "carriers", &set_carriers, NULL);
	if (t->gc)
		add(t, w, "gc", &set_gc, &gc);
	if (!t->no_cpu) {
		add(t, w, "cpu", &set_cpu, &cpu);
		add(t, w, "sched", &set_sched, NULL);
	}
	if (t->offcpu)
		add(t, w, "offcpu", &set_offcpu, &off);
	if (t->native)
		add(t, w, "native", &set_native, &native);
	notices_keep(t, w);
	for (size_t i = 0; i < N_KINDS; i++)
		if (kinds[i].profile && session_set(w->session, kinds[i].set)) {
			size_t n = strlen(t->kinds);

			snprintf(t->kinds + n, sizeof(t->kinds) - n, "%s%s", n ? "," : "",
				 kinds[i].profile);
		}
}

/* ---- tables -------------------------------------------------------------------------- */

static const char *const state_names[STATE_N] = {
	[STATE_OTHER] = "other",     [STATE_WAITING] = "waiting", [STATE_SCHEDULER] = "scheduling",
	[STATE_PROCESS] = "process", [STATE_GC] = "gc",		  [STATE_NIF] = "nif",
	[STATE_PORT] = "port",
};

static const char *const class_names[SCHED_N] = {
	[SCHED_RUNNING] = "running_ns",
	[SCHED_PREEMPTED] = "preempted_ns",
	[SCHED_BLOCKED] = "blocked_ns",
	[SCHED_IDLE] = "idle_ns",
};

static size_t states_put(struct recording_figure *v, const uint64_t samples[STATE_N])
{
	for (unsigned i = 0; i < STATE_N; i++) {
		snprintf(v[i].name, sizeof(v[i].name), "%s", state_names[i]);
		v[i].value = samples[i];
	}
	return STATE_N;
}

static void figure_put(struct recording_figure *v, size_t *n, const char *name, uint64_t value)
{
	snprintf(v[*n].name, sizeof(v[*n].name), "%s", name);
	v[(*n)++].value = value;
}

static int put_threads(struct watch *w, struct recorder *r, struct error *err)
{
	struct thread_usage *v;
	ssize_t n = session_threads_usage(w->session, &v);
	int ret = n < 0 ? (int)n : 0;

	for (ssize_t i = 0; !ret && i < n; i++) {
		struct recording_figure f[SCHED_N + STATE_N + 2];
		size_t k = states_put(f, v[i].samples);
		char subject[64];

		for (unsigned c = 0; v[i].timed && c < SCHED_N; c++)
			figure_put(f, &k, class_names[c], v[i].ns[c]);
		figure_put(f, &k, "switches", v[i].switches);
		figure_put(f, &k, "role", v[i].role);
		if (v[i].role)
			snprintf(subject, sizeof(subject), "%s", v[i].label);
		else /* many may have the same name */
			snprintf(subject, sizeof(subject), "%s (thread %u)", v[i].label, v[i].tid);
		ret = recorder_figures(r, "thread", subject, f, k, err);
	}
	if (n >= 0)
		free(v);
	return ret;
}

static int put_processes(struct watch *w, struct recorder *r, struct error *err)
{
	struct process_usage *v;
	ssize_t n = session_processes_usage(w->session, &v);
	int ret = n < 0 ? (int)n : 0;

	for (ssize_t i = 0; !ret && i < n; i++) {
		struct recording_figure f[STATE_N + 3];
		size_t k = states_put(f, v[i].samples);
		char subject[PROCESS_LABEL_MAX + 40], pid[40] = "";

		if (i >= PROCESSES_MAX && !v[i].long_schedules)
			continue;
		if (v[i].long_schedules) {
			figure_put(f, &k, "long_schedules", v[i].long_schedules);
			figure_put(f, &k, "longest_ns", v[i].longest_ns);
			figure_put(f, &k, "longest_most_ns", v[i].longest_most_ns);
		}
		process_pid_text(w->tracer->vm, v[i].process, pid, sizeof(pid));
		snprintf(subject, sizeof(subject), "%s %s", pid,
			 session_process_label(w->session, v[i].process));
		ret = recorder_figures(r, "cpu", subject, f, k, err);
	}
	if (n >= 0)
		free(v);
	return ret;
}

struct put {
	struct recorder *r;
	struct error *err;
};

static int put_figures(void *ctx, const char *kind, const char *subject,
		       const struct recording_figure *v, size_t n)
{
	struct put *x = ctx;

	return recorder_figures(x->r, kind, subject, v, n, x->err);
}

/* ---- counters ------------------------------------------------------------------------ */

struct counter_row {
	const char *name;
	uint64_t value;
};

static int put_rows(struct recorder *r, const char *prefix, const struct counter_row *v, size_t n,
		    struct error *err)
{
	char name[64];
	int ret = 0;

	for (size_t i = 0; !ret && i < n; i++) {
		snprintf(name, sizeof(name), "%s.%s", prefix, v[i].name);
		ret = recorder_counter(r, name, v[i].value, err);
	}
	return ret;
}

static uint64_t ppm(double share)
{
	return (uint64_t)(share * 1e6);
}

static int put_set(struct recorder *r, const struct set_stats *s, struct error *err)
{
	const struct counter_row v[] = {
		{ "hits", s->count[COUNT_HITS] },
		{ "missed", s->missed },
		{ "stacks", s->count[COUNT_STACKS] },
		{ "stacks_complete", s->count[COUNT_COMPLETE] },
		{ "failed_reads", s->count[COUNT_READ_FAILED] + s->count[COUNT_CUT + CUT_READ] },
		{ "full", s->count[COUNT_FULL] },
		{ "lost", s->count[COUNT_LOST_EVENTS] + s->count[COUNT_LOST_STACKS] },
		{ "map_bytes", s->map_bytes },
		{ "cpu_ppm", ppm(s->cpu_fraction) },
		{ "level", s->level },
	};
	char prefix[40];

	snprintf(prefix, sizeof(prefix), "trace.%s", s->name);
	return put_rows(r, prefix, v, sizeof(v) / sizeof(v[0]), err);
}

static int put_counters(struct record_trace *t, struct watch *w, struct recorder *r,
			struct error *err)
{
	struct session_stats st;
	struct growth_sum g;
	int ret;

	session_stats(w->session, &st);
	session_growth_sum(w->session, &g);
	const struct counter_row all[] = {
		{ "stacks", st.count[COUNT_STACKS] },
		{ "stacks_complete", st.count[COUNT_COMPLETE] },
		{ "records", st.records },
		{ "lost_records", st.lost_records },
		{ "lost_stacks", st.lost_stacks },
		{ "missed", st.missed },
		{ "kernel_bytes", st.kernel_bytes },
		{ "user_bytes", st.user_bytes },
		{ "cpu_ppm", ppm(st.cpu_fraction) },
		{ "own_ns", st.own_ns },
		{ "thinned", st.thinned },
		{ "faults", st.sets[SET_GROWTH].count[COUNT_HITS] -
				    st.sets[SET_GROWTH].count[COUNT_SYSCALLS] },
		{ "syscalls", st.sets[SET_GROWTH].count[COUNT_SYSCALLS] },
	};
	const struct counter_row growth[] = {
		{ "opening", g.opening }, { "closing", g.closing }, { "owned", g.owned },
		{ "unowned", g.unowned }, { "moved", g.moved },	    { "released", g.released },
		{ "lost", g.lost },
	};

	ret = put_rows(r, "trace", all, sizeof(all) / sizeof(all[0]), err);
	if (!ret)
		ret = put_rows(r, "growth", growth, sizeof(growth) / sizeof(growth[0]), err);
	for (unsigned i = 0; !ret && i < SET_N; i++)
		if (st.sets[i].name)
			ret = put_set(r, &st.sets[i], err);
	if (st.lost_records + st.lost_stacks > st.records / 100)
		t->lost = true;
	return ret;
}

static int put_native(struct watch *w, struct recorder *r, struct error *err)
{
	struct native_sum n;

	session_native_sum(w->session, &n);
	const struct counter_row v[] = {
		{ "allocs", n.allocs },
		{ "frees", n.frees },
		{ "failed", n.failed },
		{ "before", n.before },
		{ "before_bytes", n.before_bytes },
		{ "undrawn", n.undrawn },
		{ "missed_frees", n.missed_frees },
		{ "full", n.full },
		{ "full_bytes", n.full_bytes },
		{ "noted", n.noted },
		{ "unit", n.unit },
	};

	return put_rows(r, "native", v, sizeof(v) / sizeof(v[0]), err);
}

/* What of the probes of malloc was not as it should be, and what they leave behind. */
static int native_notes(struct watch *w, struct recorder *r, struct error *err)
{
	struct native_sum n;
	char text[700], safe[500];
	int ret = 0;

	session_remove(w->session, &set_native);
	session_native_sum(w->session, &n);
	if (n.refused[0]) {
		snprintf(text, sizeof(text), "Without a probe: %s.",
			 escape_string(safe, sizeof(safe), n.refused));
		ret = recorder_note(r, text, err);
	}
	if (!ret && n.full) {
		snprintf(text, sizeof(text),
			 "There was no room to note %" PRIu64 " blocks of %" PRIu64
			 " bytes: native memory is more than what is said of it.",
			 n.full, n.full_bytes);
		ret = recorder_note(r, text, err);
	}
	if (!ret && n.asked) {
		snprintf(text, sizeof(text),
			 "Native memory is in bytes that were asked for: %s does not tell what a "
			 "block takes.",
			 escape_string(safe, sizeof(safe), n.server));
		ret = recorder_note(r, text, err);
	}
	if (!ret && w->tracer->vm)
		ret = recorder_note(r,
				    "What enif_alloc and driver_alloc give out of the VM's own "
				    "carriers is not in it: their code has no place where a probe is "
				    "cheap. `beamray list native` has the owners, by tags.",
				    err);
	snprintf(text, sizeof(text),
		 "The probes of %s are detached and its code is the file's again; %" PRIu64
		 " bytes of it stay as a copy, and a mapping [uprobes] of %" PRIu64 " bytes.",
		 escape_string(safe, sizeof(safe), n.server), n.copied_bytes, n.mapping_bytes);
	return ret ? ret : recorder_note(r, text, err);
}

/* ---- all of it ----------------------------------------------------------------------- */

int record_trace_put(struct record_trace *t, struct watch *w, const struct look *look,
		     struct recorder *r, struct error *err)
{
	int ret = 0;

	for (size_t i = 0; !ret && i < N_KINDS; i++) {
		struct profile *p = NULL;

		if (!kinds[i].profile || !session_set(w->session, kinds[i].set))
			continue;
		ret = watch_profile(w, kinds[i].profile, look, &p, err);
		if (!ret)
			ret = recorder_profile(r, p, w->symbols, !look, err);
		profile_free(p);
	}
	if (!ret && session_set(w->session, &set_cpu))
		ret = put_processes(w, r, err);
	if (!ret && (session_set(w->session, &set_sched) || session_set(w->session, &set_cpu)))
		ret = put_threads(w, r, err);
	if (!ret)
		ret = session_figures(w->session, put_figures, &(struct put){ r, err });
	if (!ret && session_set(w->session, &set_native))
		ret = put_native(w, r, err);
	return ret ? ret : put_counters(t, w, r, err);
}

int record_trace_end(struct record_trace *t, struct watch *w, struct recorder *r, struct error *err)
{
	struct session_stats st;
	char text[400];
	int ret = 0;

	for (unsigned i = 0; !ret && i < t->n_notes; i++)
		ret = recorder_note(r, t->notes[i], err);
	if (ret || !w->session)
		return ret;
	if (session_set(w->session, &set_native))
		ret = native_notes(w, r, err);
	if (!ret && !session_growth_direct(w->session))
		ret = recorder_note(r,
				    "This kernel does not let single system calls be traced: while "
				    "growth was traced, all of them, of every process, took some "
				    "100 ns longer.",
				    err);
	session_stats(w->session, &st);
	for (unsigned i = 0; !ret && i < SET_N; i++)
		if (st.sets[i].name && st.sets[i].notice[0]) {
			notice_text(text, sizeof(text), &st.sets[i]);
			if (!noted(t, text))
				ret = recorder_note(r, text, err);
		}
	if (!ret && st.lost_records + st.lost_stacks) {
		snprintf(text, sizeof(text),
			 "Tracing lost %llu records for want of room: what is said of stacks is "
			 "less than what was.",
			 (unsigned long long)st.lost_records + st.lost_stacks);
		ret = recorder_note(r, text, err);
	}
	return ret;
}
