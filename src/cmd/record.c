/* SPDX-License-Identifier: Apache-2.0 */
/* beamray record: ledgers at an interval, and who makes the node grow, into a file. */
#include "cmd/command.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "cmd/record_trace.h"
#include "profile/recording.h"
#include "report/memory.h"
#include "target/escape.h"

#define DEFAULT_SECONDS	 60.0
#define DEFAULT_INTERVAL 10.0
#define INTERVAL_MIN	 0.1
#define FREQUENCY_MAX	 10000

static const char usage[] =
	"usage: beamray record -p PID -o FILE [-d TIME] [-i TIME] [options]\n"
	"\n"
	"Takes a ledger of a node's memory at the start, at every interval and at the\n"
	"end, traces meanwhile who makes the node grow and who uses its processors, and\n"
	"puts it all into one file for `beamray report` and `beamray diff`. The file is\n"
	"whole at any moment.\n"
	"\n"
	"  -p, --pid PID        the beam.smp process\n"
	"  -o, --output FILE    the recording; an older recording there is replaced\n"
	"  -d, --duration TIME  how long (default 60s); Ctrl-C ends it early, complete\n"
	"  -i, --interval TIME  between two ledgers (default 10s, at least 100ms)\n"
	"      --growth         who makes it grow: stacks of page faults (on unless\n"
	"                       --no-uprobes is given)\n"
	"      --cpu            who uses the processors: samples with stacks, and the exact\n"
	"                       times of threads (on unless --no-cpu is given)\n"
	"  -F, --frequency N    samples a second of a thread's CPU time (default 49)\n"
	"      --offcpu         where threads block: stacks, in time\n"
	"      --offcpu-min TIME  shorter ones are only summed up (default 1ms)\n"
	"      --no-uprobes     read only: no tracing, ledgers alone\n"
	"      --budget SHARE   what tracing may cost, in percent of one core (default 1)\n"
	"  -v, --verbose        messages of the tracer\n"
	"  -h, --help           this text\n"
	"\n"
	"Needs CAP_SYS_PTRACE, for a node of another user CAP_DAC_READ_SEARCH; tracing needs\n"
	"CAP_BPF and CAP_PERFMON too, and without\n"
	"them ledgers alone are recorded. Exit codes: 0 ok, 2 usage, 3 not supported,\n"
	"4 not permitted, 5 target gone (what was seen is in the file), 6 incomplete or\n"
	"disk full.\n";

struct record {
	struct options o;
	bool no_uprobes;
	struct record_trace trace;
	double budget, interval, duration;

	struct watch w;
	struct recorder *r;
	struct look *first; /* growth counts from it */
	struct ledger *first_ledger;
	double start; /* CLOCK_MONOTONIC */
	unsigned looks;
	uint64_t rss;
	bool incomplete, terminal;
};

static int take_later(void *to, const char *arg, struct error *err)
{
	(void)arg;
	return error_set(err, EXIT_USAGE, -EINVAL, "--%s cannot be recorded by this version",
			 (const char *)to);
}

static int take_frequency(void *to, const char *arg, struct error *err)
{
	int ret = option_number(to, arg, err);

	if (!ret && *(size_t *)to > FREQUENCY_MAX)
		ret = error_set(err, EXIT_USAGE, -EINVAL, "-F is at most %d a second",
				FREQUENCY_MAX);
	return ret;
}

static void progress(const struct record *c, bool looking)
{
	char rss[16], grew[16];

	if (!c->terminal)
		return;
	fprintf(stderr, "\r\033[K%.0f of %.0f s, %u look%s", seconds_now() - c->start, c->duration,
		c->looks, c->looks == 1 ? "" : "s");
	if (c->looks)
		fprintf(stderr, ", resident %s (%s)",
			unit_format(rss, sizeof(rss), c->o.unit, c->rss),
			unit_format_signed(grew, sizeof(grew), c->o.unit,
					   (int64_t)(c->rss - c->first_ledger->rss)));
	fputs(looking ? ", looking ..." : "; Ctrl-C ends it", stderr);
	fflush(stderr);
}

static void progress_end(const struct record *c)
{
	if (c->terminal)
		fputs("\r\033[K", stderr);
}

/* ---- what goes into the file ---------------------------------------------------------- */

static int put_fact(struct record *c, const char *name, struct error *err, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

static int put_fact(struct record *c, const char *name, struct error *err, const char *fmt, ...)
{
	char text[600];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	return recorder_fact(c->r, name, text, err);
}

static int put_time(struct record *c, const char *name, struct error *err)
{
	time_t now = time(NULL);
	char text[40];
	struct tm tm;

	gmtime_r(&now, &tm);
	strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &tm);
	return recorder_fact(c->r, name, text, err);
}

static int put_target(struct record *c, struct error *err)
{
	json_t *target = target_json(c->w.observer), *value;
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

/* What is known before the first look. */
static int put_head(struct record *c, struct error *err)
{
	struct utsname u;
	char safe[200];
	int ret = recorder_begin(c->r, err);

	if (ret == 0)
		ret = recorder_fact(c->r, "version", BEAMRAY_VERSION, err);
	if (ret == 0)
		ret = put_time(c, "started", err);
	if (ret == 0)
		ret = put_fact(c, "duration_s", err, "%g", c->duration);
	if (ret == 0)
		ret = put_fact(c, "interval_s", err, "%g", c->interval);
	if (ret == 0)
		ret = recorder_fact(c->r, "kinds", c->trace.kinds, err);
	if (ret == 0)
		ret = recorder_fact(c->r, "state", "recording", err);
	if (ret == 0 && uname(&u) == 0)
		ret = put_fact(c, "kernel", err, "%s %s", u.machine,
			       escape_string(safe, sizeof(safe), u.release));
	if (ret == 0)
		ret = put_target(c, err);
	if (ret == 0 && !c->w.session) {
		char note[700];

		snprintf(note, sizeof(note), "Nothing was traced: %s.", c->w.why);
		ret = recorder_note(c->r, note, err);
	}
	return ret == 0 ? recorder_commit(c->r, err) : ret;
}

static int put_look(struct record *c, const struct look *l, const struct ledger *g,
		    struct error *err)
{
	struct recording_row *rows = calloc(g->n ? g->n : 1, sizeof(*rows));
	json_t *doc = memory_json(c->w.observer, l, g);
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

/* A look and what belongs to it, one transaction. */
static int take_look(struct record *c, struct error *err)
{
	struct ledger *g;
	struct look *l;
	int ret;

	progress(c, true);
	ret = watch_look(&c->w, &l, &g, err);
	if (ret < 0)
		return ret;
	ret = recorder_begin(c->r, err);
	if (ret == 0)
		ret = put_look(c, l, g, err);
	if (ret == 0 && c->w.session)
		ret = record_trace_put(&c->trace, &c->w, l, c->r, err);
	if (ret == 0)
		ret = recorder_commit(c->r, err);
	if (ret == 0) {
		c->looks++;
		c->rss = g->rss;
		c->incomplete |= !g->complete;
	}
	if (!c->first) {
		c->first = l;
		c->first_ledger = g;
	} else {
		ledger_free(g);
		look_free(l);
	}
	return ret;
}

/* ---- the run ---------------------------------------------------------------------------- */

static int run_looks(struct record *c, struct error *err)
{
	double end, next;
	int ret = take_look(c, err);

	c->start = seconds_now();
	end = c->start + c->duration;
	next = c->start + c->interval;
	while (ret == 0 && !interrupted) {
		double now = seconds_now();

		if (now >= end)
			break;
		/* an interval that hardly fits is left to the last look */
		if (next > end - c->interval / 4)
			next = end;
		if (now < next) {
			progress(c, false);
			ret = watch_wait(&c->w, next - now < 1 ? next - now : 1, err);
			continue;
		}
		if (next >= end)
			break;
		ret = take_look(c, err);
		for (now = seconds_now(); next <= now;)
			next += c->interval;
	}
	if (ret == 0)
		ret = take_look(c, err);
	return ret;
}

/* The target went away between two looks: what was traced since the last one. */
static int take_rest(struct record *c)
{
	struct error err = { 0 };
	int ret = recorder_begin(c->r, &err);

	if (ret == 0)
		ret = record_trace_put(&c->trace, &c->w, NULL, c->r, &err);
	return ret == 0 ? recorder_commit(c->r, &err) : ret;
}

/* How it ended, as far as it can still be written. */
static int put_tail(struct record *c, int ret, const struct error *why, struct error *err)
{
	const char *state = ret == 0		     ? interrupted ? "interrupted" : "complete"
			    : why->code == EXIT_GONE ? "target gone"
						     : "failed";
	int put;

	if (ret < 0 && why->code == EXIT_GONE && c->looks && c->w.session)
		take_rest(c);
	put = recorder_begin(c->r, err);
	if (put == 0)
		put = record_trace_end(&c->trace, &c->w, c->r, err);
	if (put == 0)
		put = recorder_fact(c->r, "state", state, err);
	if (put == 0)
		put = put_time(c, "ended", err);
	if (put == 0 && ret < 0)
		put = recorder_note(c->r, why->text[0] ? why->text : strerror(-ret), err);
	return put == 0 ? recorder_commit(c->r, err) : put;
}

static void summary(const struct record *c)
{
	char safe[300], rss[16], grew[16];

	if (!c->looks)
		return;
	printf("%u look%s over %.1f s in %s: resident %s, %s since the first\n", c->looks,
	       c->looks == 1 ? "" : "s", seconds_now() - c->start,
	       escape_string(safe, sizeof(safe), c->o.output),
	       unit_format(rss, sizeof(rss), c->o.unit, c->rss),
	       unit_format_signed(grew, sizeof(grew), c->o.unit,
				  (int64_t)(c->rss - c->first_ledger->rss)));
	if (!c->w.session)
		printf("Ledgers only: %s.\n", c->w.why);
}

static int record_all(struct record *c)
{
	struct watch_opts opts = { !c->no_uprobes, c->budget, c->o.verbose > 0 };
	struct error err = { 0 }, tail = { 0 };
	int ret = watch_open(&c->w, c->o.pid, &opts, &err), put;

	if (ret == 0)
		record_trace_open(&c->trace, &c->w);
	if (ret == 0)
		ret = recorder_create(c->o.output, &c->r, &err);
	if (ret < 0)
		return command_fail(&err, ret);
	/* all is attached */
	privileges_limit(PRIVILEGE_READ | PRIVILEGE_TRACE | PRIVILEGE_WRITE);
	interrupts_catch();
	c->start = seconds_now();
	ret = put_head(c, &err);
	if (ret == 0)
		ret = run_looks(c, &err);
	put = put_tail(c, ret, &err, &tail);
	progress_end(c);
	summary(c);
	if (ret < 0)
		return command_fail(&err, ret);
	if (put < 0)
		return command_fail(&tail, put);
	return c->incomplete || c->trace.lost ? EXIT_INCOMPLETE : EXIT_OK;
}

static int usage_error(const char *text)
{
	fprintf(stderr, "beamray record: %s\n", text);
	return EXIT_USAGE;
}

static int run(int argc, char **argv)
{
	struct record c = { 0 };
	const struct option_own own[] = {
		{ "growth", false, option_flag, NULL },
		{ "no-uprobes", false, option_flag, &c.no_uprobes },
		{ "budget", true, option_budget, &c.budget },
		{ "cpu", false, option_flag, NULL },
		{ "no-cpu", false, option_flag, &c.trace.no_cpu },
		{ "frequency", true, take_frequency, &c.trace.frequency },
		{ "F", true, take_frequency, &c.trace.frequency },
		{ "offcpu", false, option_flag, &c.trace.offcpu },
		{ "offcpu-min", true, option_time, &c.trace.offcpu_min },
		{ "gc", false, take_later, "gc" },
		{ "carriers", false, take_later, "carriers" },
		{ "native", false, take_later, "native" },
		{ NULL, false, NULL, NULL },
	};
	int ret = options_parse(argc, argv, &cmd_record, &c.o, own, NULL);

	if (ret >= 0)
		return ret;
	if (!c.o.pid)
		return usage_error("which process? give -p PID; `pgrep -a beam` shows the nodes on "
				   "this machine");
	if (!c.o.output || strcmp(c.o.output, "-") == 0)
		return usage_error("into which file? give -o FILE (a recording is a database and "
				   "cannot go to a pipe)");
	if (c.o.json)
		return usage_error("a recording has one form; `beamray report FILE -f json` makes "
				   "JSON of it");
	c.duration = c.o.duration_s > 0 ? c.o.duration_s : DEFAULT_SECONDS;
	c.interval = c.o.interval_s > 0 ? c.o.interval_s : DEFAULT_INTERVAL;
	if (c.interval < INTERVAL_MIN)
		return usage_error("-i is at least 100ms");
	c.terminal = isatty(STDERR_FILENO);
	ret = record_all(&c);
	recorder_close(c.r);
	watch_close(&c.w);
	if (!c.w.stuck) {
		ledger_free(c.first_ledger);
		look_free(c.first);
	}
	return ret;
}

const struct command cmd_record = {
	.name = "record",
	.summary = "ledgers at an interval, and who makes it grow, into a file",
	.usage = usage,
	.privileges = PRIVILEGE_READ | PRIVILEGE_TRACE | PRIVILEGE_ATTACH | PRIVILEGE_WRITE,
	.run = run,
};
