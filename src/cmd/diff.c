/* SPDX-License-Identifier: Apache-2.0 */
/* beamray diff: what grew between two moments. */
#include "cmd/command.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "report/recording_report.h"
#include "target/escape.h"

static const char usage[] =
	"usage: beamray diff A [B] [options]\n"
	"\n"
	"What grew from A to B, and which stacks did it. A and B are recordings, or\n"
	"moments of one: FILE@N is look number N of it (`beamray report FILE --json` lists\n"
	"them). FILE alone is its last look; a single FILE is compared with itself, first\n"
	"look and last. Needs no privilege.\n"
	"\n"
	"      --json           schema beamray.diff/1\n"
	"      --kind KIND      which profile: growth\n"
	"      --unit UNIT      auto, B, KiB, MiB or GiB\n"
	"  -o, --output FILE    write there instead of to the terminal\n"
	"  -v, --verbose        all rows and stacks, not the top of each\n"
	"  -h, --help           this text\n"
	"\n"
	"Something grew when it passed its floor: native memory 1 MiB; data of the VM 8 MiB\n"
	"and 5% of the resident set; free space that is held and thread stacks 16 MiB and\n"
	"20%. Exit codes: 0 nothing grew, 1 something did, 2 usage, or not a recording, or\n"
	"a damaged one, 4 not permitted, 6 a ledger is incomplete.\n";

static int take_text(void *to, const char *arg, struct error *err)
{
	(void)err;
	*(const char **)to = arg;
	return 0;
}

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

static int write_diff(const struct options *o, const struct recording_diff *d)
{
	FILE *to = output_open(o);
	struct recording_text_opts text = { o->unit, 80, o->verbose > 0 };
	json_t *doc;

	if (!to)
		return EXIT_USAGE;
	text.columns = columns_of(to);
	if (o->json) {
		doc = recording_diff_json(d);
		if (doc)
			json_dumpf(doc, to, JSON_COMPACT | JSON_REAL_PRECISION(12));
		fputc('\n', to);
		json_decref(doc);
	} else {
		recording_diff_text(to, d, &text);
	}
	if (!output_close(o, to) || !d->la->complete || !d->lb->complete)
		return EXIT_INCOMPLETE;
	return d->n_findings ? EXIT_FINDING : EXIT_OK;
}

static int run(int argc, char **argv)
{
	struct options o = { 0 };
	const char *kind = "growth";
	const struct option_own own[] = {
		{ "kind", true, take_text, &kind },
		{ NULL, false, NULL, NULL },
	};
	int rest, ret = options_parse(argc, argv, &cmd_diff, &o, own, &rest);
	struct recording *a = NULL, *b = NULL;
	struct recording_diff *d = NULL;
	struct error err = { 0 };
	unsigned na, nb = 0;
	char *pa, *pb;
	bool single;

	if (ret >= 0)
		return ret;
	if (o.format && strcmp(o.format, "json") == 0)
		o.json = true;
	else if (o.format && strcmp(o.format, "text") != 0)
		return usage_error("-f is one of text, json");
	if (rest >= argc || argc - rest > 2)
		return usage_error("give one or two recordings, as `beamray record -o FILE` makes "
				   "them, or moments of them: FILE@N");
	single = argc - rest == 1;
	pa = split(argv[rest], &na);
	pb = single ? NULL : split(argv[rest + 1], &nb);
	ret = pa && (pb || single) ? 0 : -ENOMEM;
	if (ret == 0 && single && na) {
		ret = usage_error("one moment alone has nothing to be compared with");
		goto out;
	}
	if (ret == 0)
		ret = recording_open(pa, &a, &err);
	if (ret == 0 && pb && strcmp(pa, pb) != 0)
		ret = recording_open(pb, &b, &err);
	if (ret == 0) {
		struct recording *second = b ? b : a;

		na = single ? 1 : na ? na : (unsigned)a->n_looks;
		nb = nb ? nb : (unsigned)second->n_looks;
		ret = recording_diff_new(a, na, second, nb, kind, &d, &err);
	}
	if (ret == 0)
		ret = write_diff(&o, d);
	else if (ret < 0)
		ret = command_fail(&err, ret);
out:
	recording_diff_free(d);
	recording_close(a);
	recording_close(b);
	free(pa);
	free(pb);
	return ret;
}

const struct command cmd_diff = {
	.name = "diff",
	.summary = "what grew between two moments or recordings",
	.usage = usage,
	.run = run,
};
