/* SPDX-License-Identifier: Apache-2.0 */
/* beamray list: what observer, etop, recon and instrument show, from outside. */
#include "cmd/command.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cmd/list.h"
#include "target/escape.h"

/* clang-format off */
static const struct list_what *const whats[] = {
	&list_processes, &list_stacks,	 &list_ets,	 &list_allocators, &list_carriers,
	&list_pins,	 &list_binaries, &list_resources, &list_nifs,	   &list_ports,
	&list_schedulers, &list_memory,	 &list_atoms,	 &list_modules,	   &list_literals,
	&list_persistent_terms, &list_native, &list_lost,
};
/* clang-format on */
#define N_WHATS (sizeof(whats) / sizeof(whats[0]))

/* A run as a whole; reading 1,000,000 processes takes seconds. */
#define COLLECT_SECONDS 600

static const char usage_head[] =
	"usage: beamray list -p PID WHAT [options]\n"
	"\n"
	"What is inside a running Erlang VM, read from outside: also when the node is\n"
	"wedged, has no shell, or is too busy to be asked. Reads only. WHAT is one of\n"
	"\n";
static const char usage_tail[] =
	"\n"
	"  -p, --pid PID        the beam.smp process\n"
	"  -n, --rows N         rows of a table; default 20, all with --json\n"
	"      --sort KEY       by another column, by its name in --json\n"
	"      --window TIME    processes: look twice, so far apart, and show what changed\n"
	"      --process WHO    stacks: of one process, <0.123.0> or its registered name\n"
	"      --json           one JSON document (schema beamray.list/1)\n"
	"      --unit UNIT      auto, B, KiB, MiB or GiB\n"
	"  -o, --output FILE    write there instead of to the terminal\n"
	"  -h, --help           this text\n"
	"\n"
	"Needs root, or CAP_SYS_PTRACE, and for a node of another user CAP_DAC_READ_SEARCH\n"
	"too. Exit codes: 0 ok,\n"
	"2 usage, 3 not a BEAM or not supported, 4 not permitted, 5 target gone,\n"
	"6 more than 1% could not be read.\n";

/* The help text, with a line for everything in `whats`. */
static const char *usage(void)
{
	static char text[sizeof(usage_head) + sizeof(usage_tail) + N_WHATS * 80];
	size_t at = 0, i;

	at += (size_t)snprintf(text, sizeof(text), "%s", usage_head);
	for (i = 0; i < N_WHATS && at < sizeof(text); i++)
		at += (size_t)snprintf(text + at, sizeof(text) - at, "  %-20.20s %.57s\n",
				       whats[i]->name, whats[i]->summary);
	if (at < sizeof(text))
		snprintf(text + at, sizeof(text) - at, "%s", usage_tail);
	return text;
}

struct job { /* of the guarded thread: lives as long as it does */
	const struct list_what *what;
	struct list_run run;
	struct error err;
};

static int collect(void *arg)
{
	struct job *j = arg;
	struct observer *o = j->run.observer;
	int ret;

	o->vm->res = j->run.look->res;
	ret = j->what->collect(&j->run, &j->err);
	o->vm->res = NULL;
	if (ret == 0 && j->run.look->res && residency_swapped(j->run.look->res))
		listing_note(j->run.listing,
			     "%.1f MiB of the node are swapped out and were not read: what is "
			     "missing, or seems to have changed, may lie there.",
			     (double)residency_swapped(j->run.look->res) / 1048576.0);
	if (ret == 0)
		ret = target_check(o->target, &j->err);
	return ret;
}

static int first_error(const struct listing *l)
{
	size_t i;

	for (i = 0; i < l->n_tables; i++)
		if (table_error(l->tables[i]))
			return table_error(l->tables[i]);
	return l->error;
}

/* One look and what is read under it. On -ETIMEDOUT nothing of the job may be
 * freed. */
static int one_round(struct job *j, struct look **look, struct error *err)
{
	struct look_opts opts = { .picture = j->what->look == LIST_PICTURE };
	double last = *look ? (double)(*look)->when.tv_sec + (double)(*look)->when.tv_nsec / 1e9
			    : 0;
	struct error gone = { 0 };
	int ret;

	look_free(*look);
	*look = NULL;
	ret = look_take(j->run.observer, &opts, look, err);
	if (ret < 0)
		return ret;
	listing_free(j->run.listing);
	j->run.look = *look;
	j->run.between = (double)(*look)->when.tv_sec + (double)(*look)->when.tv_nsec / 1e9 - last;
	j->run.listing = listing_new(j->what->name);
	if (!j->run.listing)
		return -ENOMEM;
	ret = target_guard(j->run.observer->target, collect, j, COLLECT_SECONDS, err);
	if (ret == -ETIMEDOUT)
		return ret;
	if (ret == 0)
		return first_error(j->run.listing);
	/* A failure while reading often is the target's end. */
	if (target_check(j->run.observer->target, &gone) < 0)
		j->err = gone;
	if (err->code == EXIT_OK)
		*err = j->err;
	return error_set(err, error_exit_code(ret), ret, "Reading the %s of process %d failed: %s.",
			 j->what->name, (int)target_pid(j->run.observer->target), strerror(-ret));
}

static int print(const struct job *j, const struct look *look, const struct options *o,
		 const char *sort, size_t rows, FILE *to, struct error *err)
{
	struct listing *l = j->run.listing;
	struct listing_opts opts = { .unit = o->unit, .columns = columns_of(to), .rows = rows };
	const char *by = sort ? sort : j->run.round ? j->what->sort_window : j->what->sort;
	char keys[1500];

	if (by && l->n_tables && !table_sort(l->tables[0], by)) {
		table_keys(l->tables[0], keys, sizeof(keys));
		return error_set(err, EXIT_USAGE, -EINVAL,
				 "%s have no %s to sort by; there are: %s", l->what, by, keys);
	}
	if (first_error(l))
		return first_error(l);
	if (o->json)
		listing_json(to, j->run.observer, look, l, &opts);
	else
		listing_text(to, j->run.observer, look, l, &opts);
	return listing_complete(l) ? EXIT_OK : EXIT_INCOMPLETE;
}

static const struct list_what *what_find(int argc, char **argv, int at)
{
	char safe[64];
	size_t i;

	for (i = 0; i < N_WHATS && at + 1 == argc; i++)
		if (strcmp(whats[i]->name, argv[at]) == 0)
			return whats[i];
	if (at >= argc)
		fprintf(stderr, "beamray list: list what? There are:");
	else if (at + 1 < argc)
		fprintf(stderr, "beamray list: one thing at a time. There are:");
	else
		fprintf(stderr, "beamray list: there is no %s to list. There are:",
			escape_string(safe, sizeof(safe), argv[at]));
	for (i = 0; i < N_WHATS; i++)
		fprintf(stderr, " %s", whats[i]->name);
	fprintf(stderr, "; see `beamray list --help`\n");
	return NULL;
}

static int run(int argc, char **argv)
{
	struct options o = { 0 };
	struct error err = { 0 };
	const char *sort = NULL, *process = NULL;
	size_t rows = 0;
	double window = 0;
	const struct option_own own[] = {
		{ "n", true, option_number, &rows },
		{ "rows", true, option_number, &rows },
		{ "sort", true, option_text, &sort },
		{ "window", true, option_time, &window },
		{ "process", true, option_text, &process },
		{ NULL, false, NULL, NULL },
	};
	struct target *t = NULL;
	struct look *look = NULL;
	struct job *j;
	FILE *to;
	const struct command self = { .name = "list", .usage = usage() };
	int at, ret = options_parse(argc, argv, &self, &o, own, &at);

	if (ret >= 0)
		return ret;
	if (!o.pid) {
		fprintf(stderr, "beamray list: which process? give -p PID; `pgrep -a beam` shows "
				"the nodes on this machine\n");
		return EXIT_USAGE;
	}
	j = calloc(1, sizeof(*j));
	if (!j)
		return command_fail(&err, -ENOMEM);
	j->what = what_find(argc, argv, at);
	if (j->what && window > 0 && !j->what->windowed) {
		fprintf(stderr, "beamray list: %s cannot be watched over a --window\n",
			j->what->name);
		j->what = NULL;
	}
	if (j->what && process && !j->what->by_process) {
		fprintf(stderr, "beamray list: %s cannot be told for one --process\n",
			j->what->name);
		j->what = NULL;
	}
	to = j->what ? output_open(&o) : NULL;
	if (!to) {
		free(j);
		return EXIT_USAGE;
	}
	j->run.window_s = window;
	j->run.process = process;
	j->run.verbose = o.verbose > 0;
	interrupts_catch();
	ret = target_open(o.pid, &t, &err);
	if (ret == 0)
		ret = observer_open(t, &j->run.observer, &err);
	if (ret == 0)
		ret = one_round(j, &look, &err);
	if (ret == 0 && window > 0) {
		sleep_s(window);
		j->run.round = 1;
		ret = one_round(j, &look, &err);
	}
	if (ret == 0)
		ret = print(j, look, &o, sort, rows, to, &err);
	if (!output_close(&o, to) && ret == EXIT_OK)
		ret = EXIT_INCOMPLETE;
	if (ret == -ETIMEDOUT)			/* a stuck thread may still be using all of it */
		return command_fail(&err, ret); /* NOLINT(clang-analyzer-unix.Malloc) */
	if (ret < 0)
		ret = command_fail(&err, ret);
	listing_free(j->run.listing);
	look_free(look);
	observer_close(j->run.observer);
	target_close(t);
	free(j->run.state);
	free(j);
	return ret;
}

const struct command cmd_list = {
	.name = "list",
	.summary = "what is inside: processes, tables, atoms, schedulers ...",
	.usage = usage_head,
	.privileges = PRIVILEGE_READ | PRIVILEGE_WRITE,
	.run = run,
};
