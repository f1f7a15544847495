/* SPDX-License-Identifier: Apache-2.0 */
/* beamray record: ledgers at an interval, and who makes the node grow, into a file. */
#include "cmd/command.h"

#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cmd/keep.h"
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
	"      --carriers       who makes the VM's carriers, and how long they live (on\n"
	"                       unless --no-carriers is given)\n"
	"      --gc             every collection: count, time, memory by process; stacks\n"
	"      --long-gc TIME, --large-heap WORDS  count those that are longer, or leave a\n"
	"                       heap as large (default 100ms, 10000000)\n"
	"      --offcpu         where threads block: stacks, in time\n"
	"      --offcpu-min TIME  shorter ones are only summed up (default 1ms)\n"
	"      --native[=LIB]   what is held of malloc and its relatives, by stack, exactly; of\n"
	"                       one library alone (a third of the cost). A malloc with its\n"
	"                       free costs some 6 us in a virtual machine: on demand\n"
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
	struct keeper keep;
	struct look *first; /* growth counts from it */
	struct ledger *first_ledger;
	double start; /* CLOCK_MONOTONIC */
	uint64_t rss;
	bool terminal;
};

static int take_native(void *to, const char *arg, struct error *err)
{
	struct record_trace *t = to;

	if (arg && !*arg)
		return error_set(err, EXIT_USAGE, -EINVAL,
				 "--native= wants a library's file name, as in --native=crypto.so");
	t->native = true;
	t->library = arg;
	return 0;
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
		c->keep.looks, c->keep.looks == 1 ? "" : "s");
	if (c->keep.looks)
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
	ret = keep_look(&c->keep, l, g, err);
	if (ret == 0)
		c->rss = g->rss;
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

static void summary(const struct record *c)
{
	char safe[300], rss[16], grew[16];

	if (!c->keep.looks)
		return;
	printf("%u look%s over %.1f s in %s: resident %s, %s since the first\n", c->keep.looks,
	       c->keep.looks == 1 ? "" : "s", seconds_now() - c->start,
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
	for (unsigned i = 0; i < c->trace.n_notes; i++)
		fprintf(stderr, "beamray record: %s\n", c->trace.notes[i]);
	if (ret == 0)
		ret = recorder_create(c->o.output, &c->keep.r, &err);
	if (ret < 0)
		return command_fail(&err, ret);
	/* all is attached */
	privileges_limit(PRIVILEGE_READ | PRIVILEGE_TRACE | PRIVILEGE_WRITE);
	c->keep.w = &c->w;
	c->keep.trace = &c->trace;
	interrupts_catch();
	c->start = seconds_now();
	ret = keep_head(&c->keep, c->duration, c->interval, &err);
	if (ret == 0)
		ret = run_looks(c, &err);
	put = keep_tail(&c->keep, ret, &err, &tail);
	progress_end(c);
	summary(c);
	if (ret < 0)
		return command_fail(&err, ret);
	if (put < 0)
		return command_fail(&tail, put);
	return c->keep.incomplete || c->trace.lost ? EXIT_INCOMPLETE : EXIT_OK;
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
		{ "gc", false, option_flag, &c.trace.gc },
		{ "long-gc", true, option_time, &c.trace.long_gc },
		{ "large-heap", true, option_number, &c.trace.large_heap },
		{ "carriers", false, option_flag, NULL },
		{ "no-carriers", false, option_flag, &c.trace.no_carriers },
		{ "native", optional_argument, take_native, &c.trace },
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
	recorder_close(c.keep.r);
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
