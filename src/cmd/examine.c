/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The course of an examination
 *
 *	0 s        the VM is recognised, probes are attached
 *	< 1 s      first ledger, inside view; the watch begins
 *	  ...      moments: a ledger and the growth stacks so far, a few times. They tell
 *	           when growth began and stopped, and whether page faults explain it: if
 *	           not, malloc and free themselves are watched from then on
 *	-d         second ledger, inside view; then, when it takes less than ten seconds,
 *	           the still image: what of native memory nobody points to
 *
 * A moment costs as much as a ledger (a fraction of a second on most nodes), so on a
 * large node there are fewer of them: looking takes at most a tenth of the watch. The
 * first ones are close together, for a leak may be short.
 */
#include "cmd/examine.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cmd/command.h"
#include "target/privileges.h"

#define MOMENTS_WANTED 8
#define MOMENT_LEAST_S 0.4
#define MOMENT_FIRST_S 0.3
#define SCAN_MOST_S    10.0

static void say(const char *text)
{
	if (isatty(STDERR_FILENO))
		fprintf(stderr, "\r\033[K%s", text);
}

void examine_quiet(void)
{
	say("");
}

/* A moment that a script may wait for: a line of its own, with -v. */
static void milestone(const struct examination *e, const char *text)
{
	if (e->opts.verbose)
		fprintf(stderr, "beamray: %.2f s: %s\n", seconds_now() - e->begun, text);
}

static struct verdict_side side_of(const struct look *look, const struct ledger *ledger,
				   const struct inside *inside)
{
	const struct binaries *b = inside ? inside->binaries : NULL;

	return (struct verdict_side){
		.look = look,
		.ledger = ledger,
		.envs = inside ? inside->envs : NULL,
		.binaries_held = b && !b->left_out && !b->tables_left ? b->bytes : UINT64_MAX,
	};
}

static void input_set(struct examination *e, const struct look *now, const struct ledger *ledger,
		      const struct inside *inside)
{
	struct verdict_input *in = &e->in;

	in->o = e->w.observer;
	in->before = side_of(e->look[0], e->ledger[0], e->inside[0]);
	in->after = side_of(now, ledger, inside);
	in->seconds = e->seconds;
	in->apart = e->taken[1] - e->taken[0];
	in->moments = e->moments;
	in->n_moments = e->n_moments;
	in->trace.growth = e->growth;
	in->trace.native = e->native;
	in->trace.native_note = e->native_note[0] ? e->native_note : NULL;
	in->trace.symbols = e->w.symbols;
	in->trace.why_missing = e->w.why[0] ? e->w.why : NULL;
}

/* ---- looks ---------------------------------------------------------------------------- */

static int keep(struct examination *e, const struct look *l, const struct ledger *g)
{
	if (e->keep.r && e->kept.code == EXIT_OK)
		return keep_look(&e->keep, l, g, &e->kept);
	return 0;
}

static int growth_take(struct examination *e, const struct look *look, struct error *err)
{
	struct profile *p = NULL;
	int ret;

	if (!e->w.session)
		return 0;
	ret = watch_growth(&e->w, look, &p, err);
	if (ret < 0)
		return ret;
	profile_free(e->growth);
	e->growth = p;
	profile_sort(p);
	session_stats(e->w.session, &e->stats);
	return 0;
}

/* What malloc gave out and nobody freed, since it is watched. */
static void native_take(struct examination *e, const struct look *look)
{
	const struct set_stats *st = &e->stats.sets[SET_NATIVE];
	struct native_sum sum;

	if (!e->native_tried || e->native_note[0] ||
	    watch_profile(&e->w, "native", look, &e->native, NULL) < 0)
		return;
	profile_sort(e->native);
	session_native_sum(e->w.session, &sum);
	session_stats(e->w.session, &e->stats);
	if (!st->attached && st->notice && st->notice[0])
		snprintf(e->native_note, sizeof(e->native_note), "%.390s", st->notice);
	else if (sum.refused && sum.refused[0])
		snprintf(e->native_note, sizeof(e->native_note),
			 "not all of malloc could be watched: %.300s", sum.refused);
}

/* One end of the watch. */
static int end_take(struct examination *e, int side, struct error *err)
{
	int ret = watch_look(&e->w, &e->look[side], &e->ledger[side], err);

	if (ret == 0)
		e->taken[side] = seconds_now() - e->look[side]->seconds;
	if (ret == 0)
		ret = inside_take(e->w.observer, e->look[side], e->w.code, e->inside[0], side == 1,
				  &e->inside[side], err);
	if (ret == -ETIMEDOUT)
		e->w.stuck = true;
	return ret;
}

/* A ledger in the middle of the watch; the look goes, its sums stay. */
static int moment_add(struct examination *e, double at, struct error *err)
{
	struct verdict_moment *m = &e->moments[e->n_moments];
	struct look *look;
	struct ledger *ledger;
	int ret = watch_look(&e->w, &look, &ledger, err);

	if (ret < 0)
		return ret;
	ret = growth_take(e, look, err);
	keep(e, look, ledger);
	if (ret == 0) {
		input_set(e, look, ledger, NULL);
		verdict_so_far(&e->in, &e->grew, &e->explained);
		m->at = at;
		m->ledger = ledger;
		m->tags = look->carriers->tags;
		m->n_tags = look->carriers->n_tags;
		look->carriers->tags = NULL;
		look->carriers->n_tags = 0;
		e->n_moments++;
	} else {
		ledger_free(ledger);
	}
	look_free(look);
	return ret;
}

/* Faults explain too little of what libc's heap grew by. On a node that grows steadily
 * the floor will be reached at the end; the probes are wanted long before. */
static bool wants_native(const struct examination *e, double at)
{
	const struct verdict_opts *o = e->opts.thresholds;
	double part = at / e->opts.seconds;

	return e->w.session && !e->native_tried &&
	       (double)e->grew >= (double)o->native_floor * (part > 0.1 ? part : 0.1) &&
	       (double)e->explained < o->explained_ratio * (double)e->grew;
}

static void native_attach(struct examination *e)
{
	struct error err = { 0 };

	e->native_tried = true;
	if (watch_native(&e->w, NULL, &err) < 0) {
		snprintf(e->native_note, sizeof(e->native_note),
			 "malloc could not be watched: %.300s", err.text);
		milestone(e, e->native_note);
		return;
	}
	milestone(e, "malloc and free are watched from here on");
}

static int moment_take(struct examination *e, double start, struct error *err)
{
	struct profile *p;
	int ret = moment_add(e, seconds_now() - start, err);

	if (ret < 0 || !wants_native(e, seconds_now() - start) || e->n_moments == MOMENTS_MAX)
		return ret;
	native_attach(e);
	privileges_limit(PRIVILEGE_READ | PRIVILEGE_WRITE | PRIVILEGE_TRACE);
	if (e->native_note[0])
		return 0;
	/* what calls of malloc are compared with begins where they begin */
	e->in.trace.native_from = seconds_now() - start;
	ret = moment_add(e, e->in.trace.native_from, err);
	if (ret == 0 && watch_profile(&e->w, "native", NULL, &p, NULL) == 0) {
		e->in.trace.native_then = profile_total(p);
		profile_free(p);
	}
	return ret;
}

/* ---- the watch ------------------------------------------------------------------------ */

static void progress(const struct examination *e, double at)
{
	char line[160], rss[24], native[24];
	const struct ledger *a = e->ledger[0], *b;

	if (!e->n_moments) {
		snprintf(line, sizeof(line),
			 "first ledger%s after %.1f s; watching: %.0f of %.0f s (Ctrl-C reports now)",
			 e->w.session ? " and probes" : "", e->first_s, at, e->opts.seconds);
	} else {
		b = e->moments[e->n_moments - 1].ledger;
		snprintf(line, sizeof(line),
			 "watching: %.0f of %.0f s, resident %s, native %s (Ctrl-C reports now)",
			 at, e->opts.seconds,
			 unit_format_signed(rss, sizeof(rss), e->opts.unit,
					    (int64_t)(b->rss - a->rss)),
			 unit_format_signed(native, sizeof(native), e->opts.unit,
					    (int64_t)(ledger_sum(b, "native") -
						      ledger_sum(a, "native"))));
	}
	say(line);
}

static int watch(struct examination *e, struct error *err)
{
	double start = seconds_now(), end = start + e->opts.seconds, now;
	double step = e->opts.seconds / MOMENTS_WANTED, gap = MOMENT_FIRST_S, next;
	int ret = 0;

	if (step < 10 * e->look[0]->seconds)
		step = 10 * e->look[0]->seconds;
	if (step < MOMENT_LEAST_S)
		step = MOMENT_LEAST_S;
	/* close together at first: what came before malloc's probes has no name */
	if (gap < 10 * e->look[0]->seconds)
		gap = 10 * e->look[0]->seconds;
	if (gap > step)
		gap = step;
	next = start + gap;
	while (ret == 0 && !interrupted && (now = seconds_now()) < end) {
		double until = next < end ? next : end;

		progress(e, now - start);
		if (now >= next && e->n_moments < MOMENTS_MAX && end - now > step / 2) {
			ret = moment_take(e, start, err);
			gap = 2 * gap < step ? 2 * gap : step;
			next = seconds_now() + gap;
			continue;
		}
		if (now >= next)
			next = end;
		if (until <= now)
			continue;
		ret = watch_wait(&e->w, until - now < 1 ? until - now : 1, err);
	}
	e->seconds = seconds_now() - start;
	return ret;
}

static bool library_of(void *arg, uint64_t atom, char *buf, size_t size)
{
	struct examination *e = arg;
	char module[1100];

	return e->natives && vm_atom(e->w.observer->vm, atom, module, sizeof(module)) > 0 &&
	       natives_library(e->natives, e->w.observer->images, module, buf, size);
}

static int begin(struct examination *e, struct error *err)
{
	struct watch_opts w = { .trace = e->opts.trace && !e->opts.still,
				.budget = e->opts.budget,
				.verbose = e->opts.verbose > 1 };
	char line[120];
	int ret;

	say("taking the first ledger");
	ret = watch_open(&e->w, e->opts.pid, &w, err);
	if (ret == 0 && e->opts.keep)
		ret = recorder_create(e->opts.keep, &e->keep.r, err);
	e->keep.w = &e->w;
	e->keep.trace = &e->trace;
	e->trace.no_cpu = e->trace.no_carriers = true;
	record_trace_open(&e->trace, &e->w);
	if (ret == 0 && e->keep.r)
		keep_head(&e->keep, e->opts.seconds, 0, &e->kept);
	if (ret < 0 || e->opts.still)
		return ret;
	ret = end_take(e, 0, err);
	if (ret < 0)
		return ret;
	keep(e, e->look[0], e->ledger[0]);
	if (e->opts.native && e->w.session)
		native_attach(e);
	e->first_s = seconds_now() - e->begun;
	snprintf(line, sizeof(line), "the first ledger is complete%s: watching for %.0f s",
		 e->w.session ? ", probes are attached" : "", e->opts.seconds);
	milestone(e, line);
	return 0;
}

/* Which part of native memory nobody points to. */
static int scan(struct examination *e, struct error *err)
{
	double estimate = native_scan_estimate(e->look[1]);
	int ret;

	if (e->opts.scan == SCAN_NEVER) {
		snprintf(e->scan.why, sizeof(e->scan.why), "it was switched off (--no-scan)");
		return 0;
	}
	if (e->opts.scan == SCAN_AUTO && estimate > SCAN_MOST_S) {
		snprintf(e->scan.why, sizeof(e->scan.why),
			 "it would take about %.0f s (--scan does it)", estimate);
		return 0;
	}
	say("looking for memory that nobody points to");
	ret = native_scan(e->w.observer, NULL, &e->lost, err);
	if (ret == -ETIMEDOUT)
		e->w.stuck = true;
	if (ret < 0) {
		snprintf(e->scan.why, sizeof(e->scan.why), "it failed: %.120s",
			 err->text[0] ? err->text : strerror(-ret));
		return ret == -ETIMEDOUT || ret == -ENOMEM ? ret : 0;
	}
	e->scan.native = e->lost;
	if (!e->lost->heap_walked || !e->lost->lost_proved)
		snprintf(e->scan.why, sizeof(e->scan.why), "%.150s",
			 e->lost->n_notes ? e->lost->notes[0] : "the heap was not walked");
	return 0;
}

static void finish(struct examination *e)
{
	if (e->w.session) {
		session_stop(e->w.session);
		session_stats(e->w.session, &e->stats);
	}
	/* without it a finding names the module instead of the library */
	natives_read(e->w.observer->vm, &e->natives, NULL);
	if (e->ended.code != EXIT_OK) {
		input_set(e, e->look[0], e->ledger[0], e->inside[0]);
		e->in.before = (struct verdict_side){ 0 };
		e->in.ended = e->ended.text;
	} else {
		input_set(e, e->look[1], e->ledger[1], e->inside[1]);
		e->in.owners = e->inside[1]->owners;
		e->in.n_owners = e->inside[1]->n_owners;
	}
	e->in.scan = e->scan;
	e->in.trace.lost = e->stats.lost_records;
	e->in.library = library_of;
	e->in.library_arg = e;
	if (e->keep.r && e->kept.code == EXIT_OK)
		keep_tail(&e->keep, e->ended.code != EXIT_OK ? -ESRCH : 0, &e->ended, &e->kept);
}

int examine(struct examination *e, const struct examine_opts *opts, struct error *err)
{
	int ret;

	memset(e, 0, sizeof(*e));
	e->opts = *opts;
	e->begun = seconds_now();
	ret = begin(e, err);
	if (ret < 0)
		return ret;
	/* malloc may have to be watched later; nothing else is attached any more */
	privileges_limit(PRIVILEGE_READ | PRIVILEGE_WRITE | (e->w.session ? PRIVILEGE_TRACE : 0) |
			 (e->w.session && !e->native_tried ? PRIVILEGE_ATTACH : 0));
	if (!opts->still) {
		interrupts_catch();
		ret = watch(e, &e->ended);
	}
	if (ret == 0) {
		say("taking the second ledger");
		milestone(e, "taking the second ledger");
		ret = end_take(e, 1, &e->ended);
	}
	/* without a first ledger there is nothing to report */
	if (ret < 0 && (opts->still || e->ended.code != EXIT_GONE)) {
		*err = e->ended;
		return ret;
	}
	say("reading the stacks");
	ret = growth_take(e, e->ended.code == EXIT_OK ? e->look[1] : NULL, err);
	if (ret < 0)
		return ret;
	if (e->ended.code == EXIT_OK) {
		struct error lost = { 0 };

		ret = scan(e, &lost);
		if (ret < 0) {
			*err = lost;
			return ret;
		}
	}
	native_take(e, e->ended.code == EXIT_OK ? e->look[1] : NULL);
	if (e->ended.code == EXIT_OK)
		keep(e, e->look[1], e->ledger[1]);
	finish(e);
	say("");
	return 0;
}

void examination_free(struct examination *e)
{
	size_t i;

	recorder_close(e->keep.r);
	profile_free(e->growth);
	profile_free(e->native);
	natives_free(e->natives);
	for (i = 0; i < e->n_moments; i++) {
		ledger_free((struct ledger *)e->moments[i].ledger);
		free((struct tag_sum *)e->moments[i].tags);
	}
	if (e->w.stuck)
		return;
	watch_close(&e->w);
	native_free(e->lost);
	for (i = 0; i < 2; i++) {
		ledger_free(e->ledger[i]);
		look_free(e->look[i]);
		inside_free(e->inside[i]);
	}
}
