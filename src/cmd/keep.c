/* SPDX-License-Identifier: Apache-2.0 */
#include "cmd/keep.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>

#include "report/memory.h"
#include "target/escape.h"

static int put_fact(struct keeper *c, const char *name, struct error *err, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

static int put_fact(struct keeper *c, const char *name, struct error *err, const char *fmt, ...)
{
	char text[600];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	return recorder_fact(c->r, name, text, err);
}

static int put_time(struct keeper *c, const char *name, struct error *err)
{
	time_t now = time(NULL);
	char text[40];
	struct tm tm;

	gmtime_r(&now, &tm);
	strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &tm);
	return recorder_fact(c->r, name, text, err);
}

static int put_target(struct keeper *c, struct error *err)
{
	json_t *target = target_json(c->w->observer), *value;
	const char *name;
	int ret = target ? 0 : -ENOMEM;

	json_object_foreach(target, name, value) {
		char number[32];

		snprintf(number, sizeof(number), "%" JSON_INTEGER_FORMAT,
			 json_integer_value(value));
		if (ret == 0)
			ret = recorder_target(c->r, name,
					      json_is_string(value) ? json_string_value(value)
								    : number,
					      err);
	}
	json_decref(target);
	return ret;
}

int keep_head(struct keeper *c, double duration, double interval, struct error *err)
{
	struct utsname u;
	char safe[200];
	int ret = recorder_begin(c->r, err);

	if (ret == 0)
		ret = recorder_fact(c->r, "version", BEAMRAY_VERSION, err);
	if (ret == 0)
		ret = put_time(c, "started", err);
	if (ret == 0)
		ret = put_fact(c, "duration_s", err, "%g", duration);
	if (ret == 0)
		ret = put_fact(c, "interval_s", err, "%g", interval);
	if (ret == 0)
		ret = recorder_fact(c->r, "kinds", c->trace->kinds, err);
	if (ret == 0)
		ret = recorder_fact(c->r, "state", "recording", err);
	if (ret == 0 && uname(&u) == 0)
		ret = put_fact(c, "kernel", err, "%s %s", u.machine,
			       escape_string(safe, sizeof(safe), u.release));
	if (ret == 0)
		ret = put_target(c, err);
	if (ret == 0 && !c->w->session) {
		char note[700];

		snprintf(note, sizeof(note), "Nothing was traced: %s.", c->w->why);
		ret = recorder_note(c->r, note, err);
	}
	return ret == 0 ? recorder_commit(c->r, err) : ret;
}

static int put_look(struct keeper *c, const struct look *l, const struct ledger *g,
		    struct error *err)
{
	struct recording_row *rows = calloc(g->n ? g->n : 1, sizeof(*rows));
	json_t *doc = memory_json(c->w->observer, l, g);
	char *text = doc ? json_dumps(doc, JSON_COMPACT | JSON_REAL_PRECISION(12)) : NULL;
	struct recorder_look look = {
		.time_ns = l->when.tv_sec * 1000000000ll + l->when.tv_nsec,
		.rss = g->rss,
		.complete = g->complete,
		.rows = rows,
		.n = g->n,
		.document = text,
	};
	size_t i;
	int ret = -ENOMEM;

	if (rows && text) {
		for (i = 0; i < g->n; i++) {
			memcpy(rows[i].account, g->rows[i].account, sizeof(rows[i].account));
			rows[i].bytes = g->rows[i].bytes;
			rows[i].whole_pages = g->rows[i].whole_pages;
			rows[i].lazyfree = g->rows[i].lazyfree;
		}
		ret = recorder_look(c->r, &look, err);
	}
	free(text);
	json_decref(doc);
	free(rows);
	return ret;
}

int keep_look(struct keeper *c, const struct look *l, const struct ledger *g, struct error *err)
{
	int ret = recorder_begin(c->r, err);

	if (ret == 0)
		ret = put_look(c, l, g, err);
	if (ret == 0 && c->w->session)
		ret = record_trace_put(c->trace, c->w, l, c->r, err);
	if (ret == 0)
		ret = recorder_commit(c->r, err);
	if (ret == 0) {
		c->looks++;
		c->incomplete |= !g->complete;
	}
	return ret;
}

/* The target went away between two looks: what was traced since the last one. */
static int take_rest(struct keeper *c)
{
	struct error err = { 0 };
	int ret = recorder_begin(c->r, &err);

	if (ret == 0)
		ret = record_trace_put(c->trace, c->w, NULL, c->r, &err);
	return ret == 0 ? recorder_commit(c->r, &err) : ret;
}

int keep_tail(struct keeper *c, int ret, const struct error *why, struct error *err)
{
	const char *state = ret == 0		     ? interrupted ? "interrupted" : "complete"
			    : why->code == EXIT_GONE ? "target gone"
						     : "failed";
	int put;

	if (ret < 0 && why->code == EXIT_GONE && c->looks && c->w->session)
		take_rest(c);
	put = recorder_begin(c->r, err);
	if (put == 0)
		put = record_trace_end(c->trace, c->w, c->r, err);
	if (put == 0)
		put = recorder_fact(c->r, "state", state, err);
	if (put == 0)
		put = put_time(c, "ended", err);
	if (put == 0 && ret < 0)
		put = recorder_note(c->r, why->text[0] ? why->text : strerror(-ret), err);
	return put == 0 ? recorder_commit(c->r, err) : put;
}
