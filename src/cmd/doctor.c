/* SPDX-License-Identifier: Apache-2.0 */
/* beamray doctor: ledger, watch, ledger, verdict. */
#include "cmd/command.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "erts/natives.h"
#include "report/doctor.h"
#include "trace/session.h"

#define DEFAULT_SECONDS 30.0

static const char usage[] =
	"usage: beamray doctor -p PID [-d TIME] [options]\n"
	"\n"
	"Says in plain words what is wrong with a node's memory: takes a ledger, watches\n"
	"who makes the node grow, takes another ledger, and compares. The node is not\n"
	"stopped and runs nothing of ours.\n"
	"\n"
	"  -p, --pid PID        the beam.smp process\n"
	"  -d, --duration TIME  how long to watch (default 30s); Ctrl-C ends it early and\n"
	"                       still reports\n"
	"      --no-uprobes     read only: no tracing, two ledgers; growth then has no stacks\n"
	"      --still          one ledger, no watch: only what one look can prove\n"
	"      --budget SHARE   what tracing may cost, in percent of one core (default 1)\n"
	"      --json           schema beamray.doctor/1\n"
	"      --unit UNIT      auto, B, KiB, MiB or GiB\n"
	"  -o, --output FILE    write there instead of to the terminal\n"
	"  -v, --verbose        messages of the tracer\n"
	"  -h, --help           this text\n"
	"\n"
	"Needs CAP_SYS_PTRACE; tracing needs CAP_BPF and CAP_PERFMON too. Exit codes:\n"
	"0 healthy or inconclusive, 1 a finding, 2 usage, 3 not supported, 4 not permitted,\n"
	"5 target gone, 6 incomplete.\n";

struct doctor {
	struct options o;
	bool no_trace, still;
	double budget; /* share of one core */

	struct target *t;
	struct observer *ob;
	struct code *code;
	struct session *session;
	char no_trace_why[600];

	struct look *look[2];
	struct ledger *ledger[2];
	struct timespec begin;
	double seconds; /* of the watch */
	struct profile *growth;
	struct symbols *symbols;
	struct symbolizer *symbolizer;
	struct natives *natives; /* whose library a module's NIFs are in */
	struct session_stats stats;
	struct error ended; /* the target ended while it was watched */
	bool stuck;	    /* a read did not come back: nothing may be freed */
};

static int take_flag(void *to, const char *arg, struct error *err)
{
	(void)arg;
	(void)err;
	*(bool *)to = true;
	return 0;
}

static int take_budget(void *to, const char *arg, struct error *err)
{
	char *end;
	double v = strtod(arg, &end);

	if (end == arg || (*end && strcmp(end, "%") != 0) || !(v > 0) || v > 100)
		return error_set(err, EXIT_USAGE, -EINVAL,
				 "--budget is a percentage of one core, such as 1 or 0.5");
	*(double *)to = v / 100;
	return 0;
}

static void say(const char *text)
{
	if (isatty(STDERR_FILENO))
		fprintf(stderr, "\r\033[K%s", text);
}

static double seconds_since(const struct timespec *from)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)(now.tv_sec - from->tv_sec) + (double)(now.tv_nsec - from->tv_nsec) / 1e9;
}

static int take_look(struct doctor *d, int i, struct error *err)
{
	int ret = look_take(d->ob, NULL, &d->look[i], err);

	if (ret == -ETIMEDOUT)
		d->stuck = true;
	return ret < 0 ? ret : ledger_build(d->ob, d->look[i], &d->ledger[i], err);
}

/* Tracing is wanted but not required: without it the answer has no stacks, and
 * says so. */
static void trace_begin(struct doctor *d)
{
	struct session_opts opts = { .budget = d->budget,
				     .no_baseline = true,
				     .verbose = d->o.verbose > 0 };
	struct error err = { 0 };
	int ret;

	if (d->no_trace || d->still) {
		snprintf(d->no_trace_why, sizeof(d->no_trace_why), "%s",
			 d->still ? "one look (--still)"
				  : "tracing was switched off (--no-uprobes)");
		return;
	}
	ret = code_open(d->ob->vm, &d->code, &err);
	if (ret == 0)
		ret = session_open(d->t, d->ob->vm, d->code, &opts, &d->session, &err);
	if (ret < 0)
		snprintf(d->no_trace_why, sizeof(d->no_trace_why), "%s",
			 err.text[0] ? err.text : strerror(-ret));
}

static int watch(struct doctor *d, struct error *err)
{
	double total = d->o.duration_s > 0 ? d->o.duration_s : DEFAULT_SECONDS, last = -1;
	int ret = 0;

	interrupts_catch();
	while (!interrupted && ret == 0 && (d->seconds = seconds_since(&d->begin)) < total) {
		double left = total - d->seconds;
		char line[128];

		if (d->seconds - last >= 1) {
			snprintf(line, sizeof(line),
				 "watching: %.0f of %.0f s (Ctrl-C reports now)", d->seconds,
				 total);
			say(line);
			last = d->seconds;
		}
		if (d->session)
			ret = session_poll(d->session, left < 0.1 ? (int)(left * 1000) : 100, err);
		else
			sleep_s(left < 0.2 ? left : 0.2);
		if (ret == 0)
			ret = target_check(d->t, err);
	}
	d->seconds = seconds_since(&d->begin);
	return ret;
}

/* Made before the watch, so that there are names when the target ends in it, and
 * again after it, for code and libraries that were loaded meanwhile. */
static int names_prepare(struct doctor *d, struct error *err)
{
	symbolizer_free(d->symbolizer);
	d->symbolizer = NULL;
	code_refresh(d->code, NULL);
	return symbolizer_new(d->ob->vm, d->code, d->ob->images, &d->symbolizer, err);
}

static int trace_end(struct doctor *d, struct error *err)
{
	int ret = 0;

	if (!d->session)
		return 0;
	session_stop(d->session);
	ret = session_profile(d->session, "growth", d->look[1] ? d->look[1]->res : NULL,
			      d->look[1] ? d->look[1]->maps : NULL, &d->growth, err);
	session_stats(d->session, &d->stats);
	if (ret < 0)
		return ret;
	profile_sort(d->growth);
	d->symbols = symbols_new();
	if (!d->symbols)
		return -ENOMEM;
	if (d->ended.code == EXIT_OK)
		ret = names_prepare(d, err);
	if (ret == 0 && d->symbolizer)
		ret = profile_symbolize(d->growth, d->symbolizer, d->symbols, err);
	/* names are a help, not the answer: what could be named is there */
	return ret == -ENOMEM ? ret : 0;
}

static bool library_of(void *arg, uint64_t atom, char *buf, size_t size)
{
	struct doctor *d = arg;
	char module[1100];

	return d->natives && vm_atom(d->ob->vm, atom, module, sizeof(module)) > 0 &&
	       natives_library(d->natives, d->ob->images, module, buf, size);
}

static int report(struct doctor *d, FILE *to)
{
	struct verdict_input in = { .o = d->ob, .seconds = d->seconds };
	struct doctor_text_opts opts = { .unit = d->o.unit, .columns = columns_of(to) };
	struct verdict *v;
	int code, ret;

	if (d->ended.code != EXIT_OK) {
		in.ended = d->ended.text;
		in.after = (struct verdict_side){ d->look[0], d->ledger[0] };
	} else {
		in.before = (struct verdict_side){ d->look[0], d->ledger[0] };
		in.after = (struct verdict_side){ d->look[1], d->ledger[1] };
	}
	in.trace.growth = d->growth;
	in.trace.symbols = d->symbols;
	in.trace.why_missing = d->no_trace_why[0] ? d->no_trace_why : NULL;
	in.trace.lost = d->stats.lost_records;
	in.library = library_of;
	in.library_arg = d;
	/* without it a finding names the module instead of the library */
	natives_read(d->ob->vm, &d->natives, NULL);
	opts.cpu_fraction = d->session ? d->stats.cpu_fraction : -1;
	ret = verdict_make(&in, NULL, &v);
	if (ret < 0)
		return ret;
	if (d->o.json) {
		json_t *doc = doctor_json(&in, v, opts.cpu_fraction);

		json_dumpf(doc, to, JSON_COMPACT | JSON_REAL_PRECISION(12));
		fputc('\n', to);
		json_decref(doc);
	} else {
		doctor_text(to, &in, v, &opts);
	}
	code = v->v[0].code == FINDING_HEALTHY || v->v[0].code == FINDING_INCONCLUSIVE
		       ? EXIT_OK
		       : EXIT_FINDING;
	if (!in.after.ledger->complete || (in.before.ledger && !in.before.ledger->complete))
		code = EXIT_INCOMPLETE;
	if (in.ended)
		code = EXIT_GONE;
	verdict_free(v);
	return code;
}

static int examine(struct doctor *d, FILE *to, struct error *err)
{
	int ret;

	say("taking the first ledger");
	trace_begin(d);
	if (!d->still) {
		ret = take_look(d, 0, err);
		if (ret < 0)
			return ret;
		if (d->session) {
			ret = session_baseline(d->session, d->look[0]->res, d->look[0]->maps, err);
			if (ret < 0)
				return ret;
			names_prepare(d, NULL);
		}
		clock_gettime(CLOCK_MONOTONIC, &d->begin);
		ret = watch(d, &d->ended);
		if (ret < 0 && d->ended.code != EXIT_GONE) {
			*err = d->ended;
			return ret;
		}
	}
	if (d->ended.code == EXIT_OK) {
		say("taking the second ledger");
		ret = take_look(d, 1, &d->ended);
		if (ret < 0 && (d->still || d->ended.code != EXIT_GONE)) {
			*err = d->ended;
			return ret;
		}
	}
	say("reading the stacks");
	ret = trace_end(d, err);
	say("");
	if (ret < 0)
		return ret;
	if (d->ended.code != EXIT_OK)
		fprintf(stderr, "beamray: %s; this is what was seen until then\n", d->ended.text);
	return report(d, to);
}

static void doctor_free(struct doctor *d)
{
	int i;

	if (d->stuck)
		return;
	profile_free(d->growth);
	symbolizer_free(d->symbolizer);
	symbols_free(d->symbols);
	natives_free(d->natives);
	session_close(d->session);
	code_close(d->code);
	for (i = 0; i < 2; i++) {
		ledger_free(d->ledger[i]);
		look_free(d->look[i]);
	}
	observer_close(d->ob);
	target_close(d->t);
}

static int run(int argc, char **argv)
{
	struct doctor d = { .budget = 0.01 };
	struct error err = { 0 };
	const struct option_own own[] = {
		{ "no-uprobes", false, take_flag, &d.no_trace },
		{ "still", false, take_flag, &d.still },
		{ "budget", true, take_budget, &d.budget },
		{ NULL, false, NULL, NULL },
	};
	int ret = options_parse(argc, argv, &cmd_doctor, &d.o, own, NULL);
	FILE *to;

	if (ret >= 0)
		return ret;
	if (!d.o.pid) {
		fprintf(stderr, "beamray doctor: which process? give -p PID; `pgrep -a beam` shows "
				"the nodes on this machine\n");
		return EXIT_USAGE;
	}
	to = output_open(&d.o);
	if (!to)
		return EXIT_USAGE;
	ret = target_open(d.o.pid, &d.t, &err);
	if (ret == 0)
		ret = observer_open(d.t, &d.ob, &err);
	if (ret == -ETIMEDOUT)
		d.stuck = true;
	if (ret == 0)
		ret = examine(&d, to, &err);
	if (ret < 0) {
		say("");
		ret = command_fail(&err, ret);
	}
	if (!output_close(&d.o, to) && ret == EXIT_OK)
		ret = EXIT_INCOMPLETE;
	doctor_free(&d);
	return ret;
}

const struct command cmd_doctor = {
	.name = "doctor",
	.summary = "what is wrong with this node's memory, and whose fault it is",
	.usage = usage,
	.run = run,
};
