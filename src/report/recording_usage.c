/* SPDX-License-Identifier: Apache-2.0 */
/* Threads and processes of a recording: what they did with their time. */
#include "report/recording_view.h"

#include <stdlib.h>
#include <string.h>

#include "report/paragraph.h"
#include "report/table.h"
#include "trace/usage.h"

#define ROWS_SHOWN  10
#define OTHER_FLOOR 0.002 /* threads that are no schedulers, below this share of a core */

static const char *const states[STATE_N] = {
	[STATE_OTHER] = "other",     [STATE_WAITING] = "waiting", [STATE_SCHEDULER] = "scheduling",
	[STATE_PROCESS] = "process", [STATE_GC] = "gc",		  [STATE_NIF] = "nif",
	[STATE_PORT] = "port",
};

static void states_get(const struct recording_subject *s, uint64_t samples[STATE_N])
{
	for (unsigned i = 0; i < STATE_N; i++)
		samples[i] = recording_figure(s, states[i]);
}

static void thread_get(const struct recording_subject *s, struct thread_usage *u)
{
	memset(u, 0, sizeof(*u));
	snprintf(u->label, sizeof(u->label), "%s", s->text);
	u->role = (unsigned)recording_figure(s, "role");
	u->ns[SCHED_RUNNING] = recording_figure(s, "running_ns");
	u->ns[SCHED_PREEMPTED] = recording_figure(s, "preempted_ns");
	u->ns[SCHED_BLOCKED] = recording_figure(s, "blocked_ns");
	u->ns[SCHED_IDLE] = recording_figure(s, "idle_ns");
	u->switches = recording_figure(s, "switches");
	states_get(s, u->samples);
	u->timed = thread_usage_wall(u) > 0;
}

static bool is_scheduler(const struct thread_usage *u)
{
	return u->role >= ROLE_SCHEDULER && u->role <= ROLE_DIRTY_IO;
}

static int thread_order(const void *a, const void *b)
{
	const struct thread_usage *x = a, *y = b;
	unsigned rx = is_scheduler(x) ? x->role : 99, ry = is_scheduler(y) ? y->role : 99;

	if (rx != ry)
		return rx < ry ? -1 : 1;
	if (is_scheduler(x))
		return strverscmp(x->label, y->label);
	if (x->ns[SCHED_RUNNING] != y->ns[SCHED_RUNNING])
		return x->ns[SCHED_RUNNING] > y->ns[SCHED_RUNNING] ? -1 : 1;
	return strverscmp(x->label, y->label);
}

/* Sorted; NULL when there are none. The caller frees. */
static struct thread_usage *threads_get(const struct recording_view *v)
{
	struct thread_usage *t = calloc(v->threads.n + 1, sizeof(*t));

	for (size_t i = 0; t && i < v->threads.n; i++)
		thread_get(&v->threads.v[i], &t[i]);
	if (t)
		qsort(t, v->threads.n, sizeof(*t), thread_order);
	return t;
}

/* ---- text ---------------------------------------------------------------------------- */

enum {
	T_NAME,
	T_BUSY,
	T_ERROR,
	T_RUN,
	T_SPIN,
	T_WANTS,
	T_BLOCKED,
	T_ERLANG,
	T_GC,
	T_NIF,
	T_PORT,
	T_SCHED
};

static const struct column thread_columns[] = {
	[T_NAME] = { "thread", "THREAD", COLUMN_TEXT, .width = 14 },
	[T_BUSY] = { "busy", "BUSY", COLUMN_SHARE },
	[T_ERROR] = { "error", "+-", COLUMN_SHARE },
	[T_RUN] = { "running", "ON CPU", COLUMN_SHARE },
	[T_SPIN] = { "spinning", "SPIN", COLUMN_SHARE },
	[T_WANTS] = { "preempted", "WANTS", COLUMN_SHARE },
	[T_BLOCKED] = { "blocked", "BLOCK", COLUMN_SHARE },
	[T_ERLANG] = { "erlang", "ERLANG", COLUMN_SHARE },
	[T_GC] = { "gc", "GC", COLUMN_SHARE },
	[T_NIF] = { "nif", "NIF", COLUMN_SHARE },
	[T_PORT] = { "port", "PORT", COLUMN_SHARE },
	[T_SCHED] = { "scheduling", "SCHED", COLUMN_SHARE },
};

static void set_part(struct table *t, unsigned column, uint64_t part, uint64_t whole)
{
	if (whole)
		table_set_real(t, column, (double)part / (double)whole);
}

static void thread_row(struct table *t, const struct thread_usage *u)
{
	uint64_t wall = thread_usage_wall(u), work;
	double error = 0, busy = thread_usage_busy(u, &error);

	if (table_row(t))
		return;
	table_text(t, T_NAME, u->label);
	if (u->timed && is_scheduler(u)) {
		table_set_real(t, T_BUSY, busy);
		table_set_real(t, T_ERROR, error);
		table_set_real(t, T_SPIN, thread_usage_spin(u, NULL) / (double)wall);
	}
	set_part(t, T_RUN, u->ns[SCHED_RUNNING], wall);
	set_part(t, T_WANTS, u->ns[SCHED_PREEMPTED], wall);
	if (is_scheduler(u)) {
		set_part(t, T_BLOCKED, u->ns[SCHED_BLOCKED], wall);
		work = thread_usage_samples(u) - u->samples[STATE_WAITING];
		set_part(t, T_ERLANG, u->samples[STATE_PROCESS], work);
		set_part(t, T_GC, u->samples[STATE_GC], work);
		set_part(t, T_NIF, u->samples[STATE_NIF], work);
		set_part(t, T_PORT, u->samples[STATE_PORT], work);
		set_part(t, T_SCHED, u->samples[STATE_SCHEDULER], work);
	}
}

/* All schedulers that ran, and other threads that did something. */
static bool worth_a_row(const struct thread_usage *u, bool all)
{
	double wall = (double)thread_usage_wall(u);

	if (all || u->role == ROLE_SCHEDULER)
		return true;
	return (double)(u->ns[SCHED_RUNNING] + u->ns[SCHED_PREEMPTED]) > OTHER_FLOOR * wall ||
	       (is_scheduler(u) && (double)u->ns[SCHED_BLOCKED] > OTHER_FLOOR * wall);
}

static void threads_text(FILE *to, const struct recording_view *v,
			 const struct recording_text_opts *opts)
{
	struct table *t = table_new("threads", thread_columns,
				    sizeof(thread_columns) / sizeof(thread_columns[0]));
	struct table_text_opts o = { opts->unit, opts->verbose ? 200 : opts->columns, SIZE_MAX };
	struct thread_usage *u = threads_get(v);
	size_t shown = 0;

	for (size_t i = 0; t && u && i < v->threads.n; i++)
		if (worth_a_row(&u[i], opts->verbose)) {
			thread_row(t, &u[i]);
			shown++;
		}
	if (shown) {
		fputc('\n', to);
		table_print(to, t, &o);
		if (shown < v->threads.n)
			fprintf(to, "and %zu that hardly ran (-v)\n", v->threads.n - shown);
		paragraph(to, "",
			  "BUSY is the time with work to do, whether or not there was a processor "
			  "for it, as scheduler_wall_time has it; SPIN the busy wait for new work, "
			  "estimated from samples. ON CPU, WANTS (a processor) and BLOCK are exact. "
			  "ERLANG to SCHED are shares of the samples in which it did not wait.",
			  opts->columns);
	}
	table_free(t);
	free(u);
}

enum { P_SHARE, P_ERLANG, P_GC, P_NIF, P_PORT, P_SAMPLES, P_NAME };

static const struct column process_columns[] = {
	[P_SHARE] = { "share", "CPU", COLUMN_SHARE },
	[P_ERLANG] = { "erlang", "ERLANG", COLUMN_SHARE },
	[P_GC] = { "gc", "GC", COLUMN_SHARE },
	[P_NIF] = { "nif", "NIF", COLUMN_SHARE },
	[P_PORT] = { "port", "PORT", COLUMN_SHARE },
	[P_SAMPLES] = { "samples", "SAMPLES", COLUMN_COUNT },
	[P_NAME] = { "process", "PROCESS", COLUMN_TEXT, .width = 30 },
};

static uint64_t sum(const uint64_t samples[STATE_N])
{
	uint64_t n = 0;

	for (unsigned i = 0; i < STATE_N; i++)
		n += samples[i];
	return n;
}

/* All samples that were taken in the run, of whatever thread. */
static uint64_t all_samples(const struct recording_view *v)
{
	uint64_t samples[STATE_N], n = 0;

	for (size_t i = 0; i < v->threads.n; i++) {
		states_get(&v->threads.v[i], samples);
		n += sum(samples);
	}
	return n;
}

static void processes_text(FILE *to, const struct recording_view *v,
			   const struct recording_text_opts *opts)
{
	struct table *t = table_new("processes", process_columns,
				    sizeof(process_columns) / sizeof(process_columns[0]));
	struct table_text_opts o = { opts->unit, opts->columns,
				     opts->verbose ? SIZE_MAX : ROWS_SHOWN };
	uint64_t all = all_samples(v), samples[STATE_N], mine;
	size_t i;

	for (i = 0; t && i < v->processes.n; i++) {
		states_get(&v->processes.v[i], samples);
		mine = sum(samples);
		if (!mine || table_row(t))
			continue;
		set_part(t, P_SHARE, mine, all);
		set_part(t, P_ERLANG, samples[STATE_PROCESS], mine);
		set_part(t, P_GC, samples[STATE_GC], mine);
		set_part(t, P_NIF, samples[STATE_NIF], mine);
		set_part(t, P_PORT, samples[STATE_PORT], mine);
		table_set(t, P_SAMPLES, mine);
		table_text(t, P_NAME, v->processes.v[i].text);
	}
	if (t && table_rows(t)) {
		table_sort(t, "samples");
		fputc('\n', to);
		table_print(to, t, &o);
		if (table_rows(t) > o.rows)
			fprintf(to, "and %zu more (-v)\n", table_rows(t) - o.rows);
	}
	table_free(t);
}

static void long_text(FILE *to, const struct recording_view *v,
		      const struct recording_text_opts *opts)
{
	bool any = false;

	for (size_t i = 0; i < v->processes.n; i++) {
		const struct recording_subject *s = &v->processes.v[i];
		uint64_t n = recording_figure(s, "long_schedules");
		uint64_t most = recording_figure(s, "longest_most_ns");
		char head[80];

		if (!n)
			continue;
		if (!any)
			fprintf(to, "\nLONG SCHEDULES (of 100 ms for sure; those of ports are not "
				    "seen)\n");
		any = true;
		if (most)
			snprintf(head, sizeof(head), "%5llu  longest %llu to %llu ms",
				 (unsigned long long)n,
				 (unsigned long long)(recording_figure(s, "longest_ns") / 1000000),
				 (unsigned long long)((most + 999999) / 1000000));
		else
			snprintf(head, sizeof(head), "%5llu  longest %llu ms, not over",
				 (unsigned long long)n,
				 (unsigned long long)(recording_figure(s, "longest_ns") / 1000000));
		fprintf(to, "%s", head);
		line_text(to, 2, s->text, strlen(s->text),
			  opts->verbose ? 0 : opts->columns - (unsigned)strlen(head));
	}
}

void usage_text(FILE *to, const struct recording_view *v, const struct recording_text_opts *opts)
{
	threads_text(to, v, opts);
	processes_text(to, v, opts);
	long_text(to, v, opts);
}

/* ---- JSON ---------------------------------------------------------------------------- */

static json_t *figures_json(const struct recording_subject *s)
{
	json_t *j = json_object();

	json_object_set_new(j, "name", json_string(s->text));
	for (size_t i = 0; i < s->n; i++)
		json_object_set_new(j, s->v[i].name, json_integer((json_int_t)s->v[i].value));
	return j;
}

json_t *usage_json(const struct recording_view *v)
{
	json_t *threads = json_array(), *processes = json_array();

	for (size_t i = 0; i < v->threads.n; i++) {
		json_t *j = figures_json(&v->threads.v[i]);
		struct thread_usage u;
		double error = 0;

		thread_get(&v->threads.v[i], &u);
		if (u.timed && is_scheduler(&u)) {
			json_object_set_new(j, "busy", json_real(thread_usage_busy(&u, &error)));
			json_object_set_new(j, "busy_error", json_real(error));
		}
		json_array_append_new(threads, j);
	}
	for (size_t i = 0; i < v->processes.n; i++)
		json_array_append_new(processes, figures_json(&v->processes.v[i]));
	return json_pack("{s:o,s:o}", "threads", threads, "processes", processes);
}
