/* SPDX-License-Identifier: Apache-2.0 */
/* beamray diff: what grew between two moments. */
#include "cmd/diff.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "report/recording_diff.h"

static const char usage[] =
	"usage: beamray diff A [B] [options]\n"
	"\n"
	"What grew from A to B: accounts, allocators, owners, libraries, processes, stacks.\n"
	"A and B are recordings, or moments of one: FILE@N is look number N of it (`beamray\n"
	"report FILE --json` lists them). FILE alone is its last look; a single FILE is\n"
	"compared with itself, first look and last. Needs no privilege.\n"
	"\n"
	"  -f, --format FORMAT  text (default), json (schema beamray.diff/1), or of the\n"
	"                       stacks: svg (a differential flame graph: a box is as wide as\n"
	"                       the larger of both weights, red came, blue went), folded\n"
	"                       (both weights, as flamegraph.pl takes them)\n"
	"      --kind KIND      which profile: growth (default), cpu ...\n"
	"      --process TEXT   only stacks of processes or threads with TEXT in the name\n"
	"      --library NAME   only stacks with a frame of this library\n"
	"      --invert         leaf first: what was called, and by whom\n"
	"      --json           the same as -f json\n"
	"      --unit UNIT      auto, B, KiB, MiB or GiB\n"
	"  -o, --output FILE    write there instead of to the terminal\n"
	"  -v, --verbose        all rows and stacks, not the top of each\n"
	"  -h, --help           this text\n"
	"\n"
	"Something grew when it passed its floor: native memory 1 MiB; data of the VM 8 MiB\n"
	"and 5% of the resident set; free space that is held and thread stacks 16 MiB and\n"
	"20%. Exit codes: 0 nothing grew, 1 something did, 2 usage, or not a recording, or\n"
	"a damaged one, 4 not permitted, 6 a ledger is incomplete.\n";

/* FILE or FILE@N. A file that is called so with its "@" wins. number: 0 if none. */
static char *split(const char *arg, unsigned *number)
{
	const char *at = strrchr(arg, '@');
	char *end;
	unsigned long v;

	*number = 0;
	if (!at || at == arg || at[1] < '0' || at[1] > '9' || access(arg, F_OK) == 0)
		return strdup(arg);
	v = strtoul(at + 1, &end, 10);
	if (*end)
		return strdup(arg);
	/* 0 and what is too large: numbers that no look has */
	*number = v && v < INT_MAX ? (unsigned)v : INT_MAX;
	return strndup(arg, (size_t)(at - arg));
}

static int usage_error(const char *text)
{
	fprintf(stderr, "beamray diff: %s\n", text);
	return EXIT_USAGE;
}

static int write_json(FILE *to, const struct recording_diff *d)
{
	json_t *doc = recording_diff_json(d);

	if (!doc)
		return -ENOMEM;
	json_dumpf(doc, to, JSON_COMPACT | JSON_REAL_PRECISION(12));
	fputc('\n', to);
	json_decref(doc);
	return 0;
}

static int write_diff(const struct diff_request *q, const struct recording_diff *d)
{
	const struct options *o = q->options;
	struct recording_text_opts text = { o->unit, 80, o->verbose > 0 };
	bool stacks = strcmp(q->format, "svg") == 0 || strcmp(q->format, "folded") == 0;
	int ret = 0;
	FILE *to;

	if (stacks && !d->report)
		return usage_error("these stacks cannot be compared: not both moments have them");
	to = output_open(o);
	if (!to)
		return EXIT_USAGE;
	text.columns = columns_of(to);
	if (strcmp(q->format, "svg") == 0)
		profile_flamegraph(to, d->report, 0);
	else if (stacks)
		ret = profile_folded(to, d->report);
	else if (strcmp(q->format, "json") == 0)
		ret = write_json(to, d);
	else
		recording_diff_text(to, d, &text);
	if (!output_close(o, to) || ret < 0 || !d->la->complete || !d->lb->complete)
		return EXIT_INCOMPLETE;
	return d->n_findings ? EXIT_FINDING : EXIT_OK;
}

static const char *default_kind(const struct recording *r)
{
	size_t i;

	for (i = 0; i < r->n_profiles; i++)
		if (strcmp(r->profiles[i].kind, "growth") == 0)
			return "growth";
	return r->n_profiles ? r->profiles[0].kind : "growth";
}

/* `second` is NULL where both are moments of one recording. */
static int compare(const struct diff_request *q, struct recording *first, unsigned na,
		   struct recording *second, unsigned nb)
{
	struct recording *b = second ? second : first;
	struct recording_diff *d = NULL;
	struct error err = { 0 };
	int ret;

	ret = recording_diff_new(first, na ? na : (unsigned)first->n_looks, b,
				 nb ? nb : (unsigned)b->n_looks,
				 q->kind ? q->kind : default_kind(b), &q->filter, &d, &err);
	ret = ret == 0 ? write_diff(q, d) : command_fail(&err, ret);
	recording_diff_free(d);
	return ret;
}

int diff_run(const struct diff_request *q)
{
	struct recording *a = NULL, *b = NULL;
	struct error err = { 0 };
	unsigned na, nb = 0;
	char *pa = split(q->a, &na), *pb = q->b ? split(q->b, &nb) : NULL;
	int ret = pa && (pb || !q->b) ? 0 : -ENOMEM;

	if (ret == 0 && !pb && na) {
		ret = usage_error("one moment alone has nothing to be compared with");
		goto out;
	}
	if (ret == 0 && (output_is(q->options, pa) || (pb && output_is(q->options, pb)))) {
		ret = usage_error("-o names the recording itself");
		goto out;
	}
	if (ret == 0)
		ret = recording_open(pa, &a, &err);
	if (ret == 0 && pb && strcmp(pa, pb) != 0)
		ret = recording_open(pb, &b, &err);
	ret = ret == 0 ? compare(q, a, pb ? na : 1, b, nb) : command_fail(&err, ret);
out:
	recording_close(a);
	recording_close(b);
	free(pa);
	free(pb);
	return ret;
}

static int run(int argc, char **argv)
{
	static const char *const formats[] = { "text", "json", "svg", "folded" };
	struct options o = { 0 };
	struct diff_request q = { .options = &o };
	const struct option_own own[] = {
		{ "kind", true, option_text, &q.kind },
		{ "process", true, option_text, &q.filter.process },
		{ "library", true, option_text, &q.filter.library },
		{ "invert", false, option_flag, &q.filter.invert },
		{ NULL, false, NULL, NULL },
	};
	int rest, ret = options_parse(argc, argv, &cmd_diff, &o, own, &rest);
	size_t i;

	if (ret >= 0)
		return ret;
	q.format = o.format ? o.format : o.json ? "json" : "text";
	for (i = 0; i < 4 && strcmp(q.format, formats[i]) != 0; i++)
		;
	if (i == 4 || (o.json && strcmp(q.format, "json") != 0))
		return usage_error("-f is one of text, json, svg, folded");
	if (rest >= argc || argc - rest > 2)
		return usage_error("give one or two recordings, as `beamray record -o FILE` makes "
				   "them, or moments of them: FILE@N");
	q.a = argv[rest];
	q.b = argc - rest == 2 ? argv[rest + 1] : NULL;
	return diff_run(&q);
}

const struct command cmd_diff = {
	.name = "diff",
	.summary = "what grew between two moments or recordings",
	.usage = usage,
	.privileges = PRIVILEGE_WRITE,
	.run = run,
};
