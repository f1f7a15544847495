/* SPDX-License-Identifier: Apache-2.0 */
/* beamray doctor: ledger, watch, ledger, verdict. */
#include "cmd/command.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cmd/examine.h"
#include "cmd/gate.h"
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
	"  -d, --duration TIME  how long to watch (default 30s), from the first ledger on;\n"
	"                       Ctrl-C ends it early and still reports\n"
	"      --no-uprobes     read only: no tracing, two ledgers; growth then has no stacks\n"
	"      --native         watch malloc and free from the start, not only when page\n"
	"                       faults explain too little of what grew\n"
	"      --scan, --no-scan  look for memory that nobody points to, at the end; default:\n"
	"                       when that takes less than ten seconds\n"
	"      --still          one ledger, no watch: only what one look can prove\n"
	"      --threshold NAME=VALUE  when something is a finding; defaults:\n"
	"                       native=1M (growth of native memory or of one NIF's blocks),\n"
	"                       vm=8M,5% (growth of VM data, and share of RSS),\n"
	"                       held=16M,20% (fragmentation, retained, free in libc),\n"
	"                       cgroup=80%, explained=80% (of native growth, by page faults)\n"
	"      --gate NAME=SIZE for tests: exit code 1 when NAME (native, vm, rss, or an\n"
	"                       account such as vm.used.ets_alloc) grew by more than SIZE,\n"
	"                       else 0; several, separated by commas\n"
	"      --budget SHARE   what tracing may cost, in percent of one core (default 1)\n"
	"      --json           schema beamray.doctor/1\n"
	"      --unit UNIT      auto, B, KiB, MiB or GiB\n"
	"  -o, --output FILE    keep all of it as a recording for `beamray report` and `diff`\n"
	"  -v, --verbose        when the watch begins and ends; twice: the tracer's messages\n"
	"  -h, --help           this text\n"
	"\n"
	"Needs CAP_SYS_PTRACE, for a node of another user CAP_DAC_READ_SEARCH; tracing needs\n"
	"CAP_BPF and CAP_PERFMON too. Exit codes:\n"
	"0 healthy or inconclusive, 1 a finding, 2 usage, 3 not supported, 4 not permitted,\n"
	"5 target gone (what was seen is reported), 6 incomplete.\n";

struct doctor {
	struct options o;
	bool no_trace, still, native, scan, no_scan;
	double budget; /* share of one core */
	struct verdict_opts thresholds;
	struct gates gates;
	struct examination e;
};

static int take_threshold(void *to, const char *arg, struct error *err)
{
	return verdict_opts_set(to, arg, err);
}

static int exit_code(const struct doctor *d, const struct verdict *v, unsigned closed)
{
	const struct verdict_input *in = &d->e.in;

	if (in->ended)
		return EXIT_GONE;
	if (!in->after.ledger->complete || (in->before.ledger && !in->before.ledger->complete))
		return EXIT_INCOMPLETE;
	if (d->e.stats.lost_records + d->e.stats.lost_stacks > d->e.stats.records / 100)
		return EXIT_INCOMPLETE;
	if (d->gates.n)
		return closed ? EXIT_FINDING : EXIT_OK;
	return v->v[0].code == FINDING_HEALTHY || v->v[0].code == FINDING_INCONCLUSIVE
		       ? EXIT_OK
		       : EXIT_FINDING;
}

static void gates_print(const struct doctor *d)
{
	char a[24], b[24];
	size_t i;

	for (i = 0; i < d->gates.n; i++) {
		const struct gate *g = &d->gates.v[i];

		fprintf(d->o.json ? stderr : stdout, "gate %s: %s, grew by %s, may %s\n", g->name,
			g->closed ? "CLOSED" : "open",
			unit_format_signed(a, sizeof(a), d->o.unit, g->grew),
			unit_format(b, sizeof(b), d->o.unit, g->most));
	}
}

/* What the governor did. */
static void notices(const struct session_stats *st, char *buf, size_t size)
{
	size_t n = 0;
	unsigned i;

	buf[0] = 0;
	for (i = 0; i < SET_N; i++)
		if (st->sets[i].name && st->sets[i].notice && st->sets[i].notice[0] && n < size)
			n += (size_t)snprintf(buf + n, size - n, "%s%s", n ? "; " : "",
					      st->sets[i].notice);
}

static int report(struct doctor *d)
{
	char notice[600];
	struct doctor_text_opts opts = { .unit = d->o.unit, .columns = columns_of(stdout) };
	const struct verdict_input *in = &d->e.in;
	struct verdict *v;
	unsigned closed;
	int ret;

	notices(&d->e.stats, notice, sizeof(notice));
	opts.notice = notice;
	opts.cpu_fraction = d->e.w.session ? d->e.stats.cpu_fraction : -1;
	ret = verdict_make(in, &d->thresholds, &v);
	if (ret < 0)
		return ret;
	closed = gates_judge(&d->gates, in, v);
	if (d->o.json) {
		json_t *doc = doctor_json(in, v, &opts);

		json_dumpf(doc, stdout, JSON_COMPACT | JSON_REAL_PRECISION(12));
		fputc('\n', stdout);
		json_decref(doc);
	} else {
		doctor_text(stdout, in, v, &opts);
	}
	gates_print(d);
	ret = exit_code(d, v, closed);
	verdict_free(v);
	return ret;
}

static int run_all(struct doctor *d)
{
	struct examine_opts opts = {
		.pid = d->o.pid,
		.seconds = d->o.duration_s > 0 ? d->o.duration_s : DEFAULT_SECONDS,
		.trace = !d->no_trace,
		.still = d->still,
		.native = d->native,
		.scan = d->no_scan ? SCAN_NEVER
			: d->scan  ? SCAN_ALWAYS
				   : SCAN_AUTO,
		.budget = d->budget,
		.verbose = d->o.verbose,
		.unit = d->o.unit,
		.keep = d->o.output && strcmp(d->o.output, "-") != 0 ? d->o.output : NULL,
		.thresholds = &d->thresholds,
	};
	struct options out = { 0 };
	struct error err = { 0 };
	int ret;

	gates_floor(&d->gates, &d->thresholds);
	ret = examine(&d->e, &opts, &err);
	examine_quiet();
	if (ret < 0)
		return command_fail(&err, ret);
	if (d->e.ended.code != EXIT_OK)
		fprintf(stderr, "beamray: %s; this is what was seen until then\n", d->e.ended.text);
	ret = report(d);
	if (ret < 0)
		return command_fail(&err, ret);
	if (d->e.kept.code != EXIT_OK)
		ret = command_fail(&d->e.kept, -EIO);
	if (!output_close(&out, stdout) && ret == EXIT_OK)
		ret = EXIT_INCOMPLETE;
	return ret;
}

static int run(int argc, char **argv)
{
	struct doctor *d = calloc(1, sizeof(*d));
	const struct option_own own[] = {
		{ "no-uprobes", false, option_flag, d ? &d->no_trace : NULL },
		{ "native", false, option_flag, d ? &d->native : NULL },
		{ "scan", false, option_flag, d ? &d->scan : NULL },
		{ "no-scan", false, option_flag, d ? &d->no_scan : NULL },
		{ "still", false, option_flag, d ? &d->still : NULL },
		{ "budget", true, option_budget, d ? &d->budget : NULL },
		{ "threshold", true, take_threshold, d ? &d->thresholds : NULL },
		{ "gate", true, option_gate, d ? &d->gates : NULL },
		{ NULL, false, NULL, NULL },
	};
	int ret;

	if (!d)
		return command_fail(&(struct error){ 0 }, -ENOMEM);
	d->budget = 0.01;
	d->thresholds = verdict_defaults;
	ret = options_parse(argc, argv, &cmd_doctor, &d->o, own, NULL);
	if (ret >= 0) {
		free(d);
		return ret;
	}
	if (!d->o.pid) {
		fprintf(stderr, "beamray doctor: which process? give -p PID; `pgrep -a beam` shows "
				"the nodes on this machine\n");
		ret = EXIT_USAGE;
	} else if (d->still && d->gates.n) {
		fprintf(stderr, "beamray doctor: --gate compares two ledgers, --still takes one\n");
		ret = EXIT_USAGE;
	} else {
		ret = run_all(d);
		examination_free(&d->e);
	}
	free(d);
	return ret;
}

const struct command cmd_doctor = {
	.name = "doctor",
	.summary = "what is wrong with this node's memory, and whose fault it is",
	.usage = usage,
	.privileges = PRIVILEGE_READ | PRIVILEGE_TRACE | PRIVILEGE_ATTACH | PRIVILEGE_WRITE,
	.run = run,
};
