/* SPDX-License-Identifier: Apache-2.0 */
#include "cmd/watch.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cmd/command.h"

#define POLL_MS	     100
#define LOOK_POLL_MS 5

static int trace_open(struct watch *w, pid_t pid, const struct watch_opts *opts, struct error *err)
{
	struct session_opts session = { .budget = opts->budget, .verbose = opts->verbose };
	int ret = target_open(pid, &w->traced, err);

	if (ret == 0 && target_start_ticks(w->traced) != target_start_ticks(w->target))
		ret = error_set(err, EXIT_GONE, -ESTALE, "process %d was replaced by another",
				(int)pid);
	if (ret == 0)
		ret = observer_open(w->traced, &w->tracer, err);
	if (ret == 0)
		ret = code_open(w->tracer->vm, &w->code, err);
	if (ret == 0)
		ret = session_open(w->traced, w->tracer->vm, w->code, &session, &w->session, err);
	if (ret == 0)
		ret = session_add(w->session, &set_growth, NULL, err);
	if (ret < 0) {
		session_close(w->session);
		w->session = NULL;
	}
	if (ret == -ETIMEDOUT)
		w->stuck = true;
	return ret;
}

int watch_open(struct watch *w, pid_t pid, const struct watch_opts *opts, struct error *err)
{
	struct error trace = { 0 };
	int ret;

	memset(w, 0, sizeof(*w));
	ret = target_open(pid, &w->target, err);
	if (ret == 0)
		ret = observer_open(w->target, &w->observer, err);
	if (ret == -ETIMEDOUT)
		w->stuck = true;
	if (ret < 0)
		return ret;
	w->symbols = symbols_new();
	if (!w->symbols)
		return -ENOMEM;
	if (!opts->trace) {
		snprintf(w->why, sizeof(w->why), "tracing was switched off");
		return 0;
	}
	ret = trace_open(w, pid, opts, &trace);
	if (ret < 0)
		snprintf(w->why, sizeof(w->why), "%s", trace.text[0] ? trace.text : strerror(-ret));
	return 0;
}

void watch_close(struct watch *w)
{
	if (w->stuck)
		return;
	session_close(w->session);
	symbolizer_free(w->early);
	code_close(w->code);
	observer_close(w->tracer);
	target_close(w->traced);
	symbols_free(w->symbols);
	observer_close(w->observer);
	target_close(w->target);
	memset(w, 0, sizeof(*w));
}

struct look_job {
	struct observer *o;
	struct look *look;
	struct ledger *ledger;
	struct error err;
	int ret;
	atomic_bool done;
};

static void *look_run(void *arg)
{
	struct look_job *j = arg;

	j->ret = ledger_take(j->o, NULL, &j->look, &j->ledger, &j->err);
	atomic_store(&j->done, true);
	return NULL;
}

int watch_look(struct watch *w, struct look **look, struct ledger **ledger, struct error *err)
{
	struct look_job j = { .o = w->observer };
	pthread_t thread;

	*look = NULL;
	*ledger = NULL;
	/* what the target gives back from here on belongs to the next look */
	if (w->session && w->based)
		session_freeze(w->session);
	if (pthread_create(&thread, NULL, look_run, &j) != 0)
		return -ENOMEM;
	/* what goes wrong with the target here, the look says better */
	while (w->session && !atomic_load(&j.done))
		if (session_poll(w->session, LOOK_POLL_MS, NULL) < 0)
			break;
	pthread_join(thread, NULL);
	if (j.ret < 0) {
		if (j.ret == -ETIMEDOUT)
			w->stuck = true;
		if (err && err->code == EXIT_OK)
			*err = j.err;
		return j.ret;
	}
	*look = j.look;
	*ledger = j.ledger;
	if (w->session && !w->based) {
		w->based = true;
		session_baseline(w->session, j.look->res, j.look->maps, NULL);
		symbolizer_new(w->tracer->vm, w->code, w->tracer->images, &w->early, NULL);
	}
	return 0;
}

int watch_wait(struct watch *w, double seconds, struct error *err)
{
	double until = seconds_now() + seconds, left;
	int ret = 0;

	while (ret == 0 && !interrupted && (left = until - seconds_now()) > 0) {
		if (left > POLL_MS / 1000.0)
			left = POLL_MS / 1000.0;
		if (w->session)
			ret = session_poll(w->session, (int)(left * 1000) + 1, err);
		else
			sleep_s(left);
		if (ret == 0)
			ret = target_check(w->target, err);
	}
	return ret;
}

/* Is there a frame without a name that could have one? */
static bool needs_names(const struct watch *w, const struct profile *p)
{
	size_t i, k;

	for (i = 0; i < p->n; i++)
		for (k = 0; k < p->stacks[i].n; k++)
			switch (p->stacks[i].frames[k].kind) {
			case FRAME_REPEAT:
			case FRAME_CUT:
			case FRAME_JOINED:
			case FRAME_LABEL:
				break;
			default:
				if (!symbols_find(w->symbols, &p->stacks[i], k))
					return true;
			}
	return false;
}

int watch_native(struct watch *w, const char *library, struct error *err)
{
	struct set_native_opts opts = { .library = library };

	return w->session ? session_add(w->session, &set_native, &opts, err) : -ENOENT;
}

int watch_growth(struct watch *w, const struct look *look, struct profile **out, struct error *err)
{
	return watch_profile(w, "growth", look, out, err);
}

int watch_profile(struct watch *w, const char *kind, const struct look *look, struct profile **out,
		  struct error *err)
{
	struct symbolizer *z = NULL;
	int ret;

	*out = NULL;
	if (!w->session)
		return -ENOENT;
	ret = session_profile(w->session, kind, look ? look->res : NULL, look ? look->maps : NULL,
			      out, err);
	if (ret < 0 || !needs_names(w, *out))
		return ret;
	/* the looks' own handle has the libraries as of the last look. A name that
	 * cannot be had leaves an address: no reason to give up what was seen */
	if (look) {
		code_refresh(w->code, NULL);
		symbolizer_new(w->observer->vm, w->code, w->observer->images, &z, NULL);
	}
	if (z || w->early)
		profile_symbolize(*out, z ? z : w->early, w->symbols, NULL);
	symbolizer_free(z);
	return 0;
}
