/* SPDX-License-Identifier: Apache-2.0 */
/* beamray doctor: ledger, watch, ledger, verdict. */
#include "cmd/command.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cmd/watch.h"
#include "erts/natives.h"
#include "report/doctor.h"

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
	"Needs CAP_SYS_PTRACE, for a node of another user CAP_DAC_READ_SEARCH; tracing needs\n"
	"CAP_BPF and CAP_PERFMON too. Exit codes:\n"
	"0 healthy or inconclusive, 1 a finding, 2 usage, 3 not supported, 4 not permitted,\n"
	"5 target gone, 6 incomplete.\n";

struct doctor {
	struct options o;
	bool no_trace, still;
	double budget; /* share of one core */

	struct watch w;
	struct look *look[2];
	struct ledger *ledger[2];
	double seconds; /* of the watch */
	struct profile *growth;
	struct natives *natives; /* whose library a module's NIFs are in */
	struct session_stats stats;
	struct error ended; /* the target ended while it was watched */
};

static void say(const char *text)
{
	if (isatty(STDERR_FILENO))
		fprintf(stderr, "\r\033[K%s", text);
}

static int watch_with_progress(struct doctor *d, struct error *err)
{
	double total = d->o.duration_s > 0 ? d->o.duration_s : DEFAULT_SECONDS;
	double start = seconds_now(), left;
	int ret = 0;

	interrupts_catch();
	while (ret == 0 && !interrupted && (left = start + total - seconds_now()) > 0) {
		char line[128];

		snprintf(line, sizeof(line), "watching: %.0f of %.0f s (Ctrl-C reports now)",
			 total - left, total);
		say(line);
		ret = watch_wait(&d->w, left < 1 ? left : 1, err);
	}
	d->seconds = seconds_now() - start;
	return ret;
}

static int growth_take(struct doctor *d, struct error *err)
{
	int ret;

	if (!d->w.session)
		return 0;
	ret = watch_growth(&d->w, d->look[1], &d->growth, err);
	session_stop(d->w.session);
	session_stats(d->w.session, &d->stats);
	if (ret == 0)
		profile_sort(d->growth);
	return ret;
}

static bool library_of(void *arg, uint64_t atom, char *buf, size_t size)
{
	struct doctor *d = arg;
	char module[1100];

	return d->natives && vm_atom(d->w.observer->vm, atom, module, sizeof(module)) > 0 &&
	       natives_library(d->natives, d->w.observer->images, module, buf, size);
}

static int report(struct doctor *d, FILE *to)
{
	struct verdict_input in = { .o = d->w.observer, .seconds = d->seconds };
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
	in.trace.symbols = d->w.symbols;
	in.trace.why_missing = d->w.why[0] ? d->w.why : NULL;
	in.trace.lost = d->stats.lost_records;
	in.library = library_of;
	in.library_arg = d;
	/* without it a finding names the module instead of the library */
	natives_read(d->w.observer->vm, &d->natives, NULL);
	opts.cpu_fraction = d->w.session ? d->stats.cpu_fraction : -1;
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
	struct watch_opts opts = { .trace = !d->no_trace && !d->still,
				   .budget = d->budget,
				   .verbose = d->o.verbose > 0 };
	int ret;

	say("taking the first ledger");
	ret = watch_open(&d->w, d->o.pid, &opts, err);
	if (ret < 0)
		return ret;
	if (!d->still) {
		ret = watch_look(&d->w, &d->look[0], &d->ledger[0], err);
		if (ret < 0)
			return ret;
		ret = watch_with_progress(d, &d->ended);
	}
	if (ret == 0) {
		say("taking the second ledger");
		ret = watch_look(&d->w, &d->look[1], &d->ledger[1], &d->ended);
	}
	/* without a first ledger there is nothing to report */
	if (ret < 0 && (d->still || d->ended.code != EXIT_GONE)) {
		*err = d->ended;
		return ret;
	}
	say("reading the stacks");
	ret = growth_take(d, err);
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

	profile_free(d->growth);
	natives_free(d->natives);
	if (d->w.stuck)
		return;
	watch_close(&d->w);
	for (i = 0; i < 2; i++) {
		ledger_free(d->ledger[i]);
		look_free(d->look[i]);
	}
}

static int run(int argc, char **argv)
{
	struct doctor d = { .budget = 0.01 };
	struct error err = { 0 };
	const struct option_own own[] = {
		{ "no-uprobes", false, option_flag, &d.no_trace },
		{ "still", false, option_flag, &d.still },
		{ "budget", true, option_budget, &d.budget },
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
	.privileges = PRIVILEGE_READ | PRIVILEGE_TRACE | PRIVILEGE_ATTACH | PRIVILEGE_WRITE,
	.run = run,
};
