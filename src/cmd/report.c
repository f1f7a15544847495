/* SPDX-License-Identifier: Apache-2.0 */
/* beamray report: what is in a recording. */
#include "cmd/diff.h"
#include "cmd/diff.h"

#include <errno.h>
#include <string.h>

#include "report/recording_view.h"
#include "target/escape.h"

static const char usage[] =
	"usage: beamray report FILE [-f FORMAT] [options]\n"
	"\n"
	"What a recording holds: how the ledger changed, and which stacks, processes and\n"
	"libraries did it. Needs no privilege, and neither the node nor its machine.\n"
	"\n"
	"  -f, --format FORMAT  text (default), html (one page: memory over time, tables,\n"
	"                       flame graphs), json (schema beamray.report/1), or of the\n"
	"                       stacks: svg (a flame graph), folded (flamegraph.pl),\n"
	"                       pprof (profile.proto, gzip), speedscope\n"
	"      --kind KIND      which profile: growth, cpu ... (default: text and html show\n"
	"                       all that were recorded, the others growth)\n"
	"      --process TEXT   only stacks of processes or threads with TEXT in the name\n"
	"      --library NAME   only stacks with a frame of this library\n"
	"      --invert         leaf first: what was called, and by whom\n"
	"      --diff FILE      compare with that recording, as `beamray diff FILE THIS` does:\n"
	"                       text, json, folded or svg (a differential flame graph)\n"
	"  -o, --output FILE    write there instead of to the terminal\n"
	"      --unit UNIT      auto, B, KiB, MiB or GiB\n"
	"  -v, --verbose        all rows and stacks, not the top of each\n"
	"  -h, --help           this text\n"
	"\n"
	"Exit codes: 0 ok, 2 usage, or not a recording, or a damaged one, 4 not permitted,\n"
	"6 the recording says itself that it is incomplete.\n";

enum format { TEXT, HTML, JSON, FOLDED, SVG, PPROF, SPEEDSCOPE, N_FORMATS };
static const char *const formats[N_FORMATS] = { "text", "html",	 "json",      "folded",
						"svg",	"pprof", "speedscope" };

struct report {
	struct options o;
	enum format format;
	struct view_opts view;
	const char *base; /* --diff */
	struct recording_view v;
};

static int usage_error(const char *what, const char *arg)
{
	char safe[200];

	fprintf(stderr, "beamray report: %s%s%s\n", what, arg ? ": " : "",
		arg ? escape_string(safe, sizeof(safe), arg) : "");
	return EXIT_USAGE;
}

static int pick_format(struct report *p)
{
	const char *name = p->o.format ? p->o.format : p->o.json ? "json" : "text";
	int i;

	if (p->o.json && p->o.format && strcmp(p->o.format, "json") != 0)
		return usage_error("--json and another format were both given", NULL);
	for (i = 0; i < N_FORMATS && strcmp(name, formats[i]) != 0; i++)
		;
	if (i == N_FORMATS)
		return usage_error("-f is one of text, html, json, folded, svg, pprof, speedscope",
				   name);
	p->format = (enum format)i;
	return -1;
}

static int write_json(FILE *to, const struct recording_view *v)
{
	json_t *doc = recording_json(v);

	if (!doc)
		return -ENOMEM;
	json_dumpf(doc, to, JSON_COMPACT | JSON_REAL_PRECISION(12));
	fputc('\n', to);
	json_decref(doc);
	return 0;
}

static int write_report(FILE *to, struct report *p)
{
	const struct recording *r = p->v.recording;
	const struct profile_report *stacks = p->v.n_profiles ? p->v.profiles[0].report : NULL;
	struct recording_text_opts text = { p->o.unit, columns_of(to), p->o.verbose > 0 };
	uint64_t begin = 0, duration = 0;
	int64_t ns;

	if (r->n_looks) {
		begin = (uint64_t)r->looks[0].time_ns;
		if (__builtin_sub_overflow(r->looks[r->n_looks - 1].time_ns, r->looks[0].time_ns,
					   &ns) ||
		    ns < 0)
			ns = 0;
		duration = (uint64_t)ns;
	}
	switch (p->format) {
	case HTML:
		recording_html(to, &p->v);
		return 0;
	case JSON:
		return write_json(to, &p->v);
	case FOLDED:
		return profile_folded(to, stacks);
	case SVG:
		profile_flamegraph(to, stacks, 0);
		return 0;
	case PPROF:
		return profile_pprof(to, stacks, begin, duration);
	case SPEEDSCOPE:
		return profile_speedscope(to, stacks);
	default:
		recording_text(to, &p->v, &text);
		return 0;
	}
}

static bool incomplete(const struct recording *r)
{
	size_t i;

	for (i = 0; i < r->n_looks; i++)
		if (!r->looks[i].complete)
			return true;
	return false;
}

static int report_all(struct report *p, const char *path)
{
	struct error err = { 0 };
	FILE *to;
	int ret;

	if (output_is(&p->o, path))
		return usage_error("-o names the recording itself", NULL);
	ret = recording_view_open(&p->v, path, &p->view, &err);
	if (ret < 0)
		return command_fail(&err, ret);
	to = output_open(&p->o);
	if (!to)
		return EXIT_USAGE;
	ret = write_report(to, p);
	if (!output_close(&p->o, to))
		return EXIT_INCOMPLETE;
	if (ret < 0)
		return command_fail(&err, ret);
	return incomplete(p->v.recording) ? EXIT_INCOMPLETE : EXIT_OK;
}

/* What a diff finds is no finding of a report. */
static int against(const struct report *p, const char *path)
{
	const struct diff_request q = {
		.options = &p->o,
		.format = formats[p->format],
		.a = p->base,
		.b = path,
		.kind = p->view.kind,
		.filter = p->view.filter,
	};
	int ret;

	if (p->format == HTML || p->format == SPEEDSCOPE)
		return usage_error("--diff has the formats text, json, svg and folded", NULL);
	if (p->format == PPROF)
		return usage_error("pprof compares by itself: write both recordings with -f pprof "
				   "and give it -diff_base",
				   NULL);
	ret = diff_run(&q);
	return ret == EXIT_FINDING ? EXIT_OK : ret;
}

static int run(int argc, char **argv)
{
	struct report p = { 0 };
	const struct option_own own[] = {
		{ "kind", true, option_text, &p.view.kind },
		{ "process", true, option_text, &p.view.filter.process },
		{ "library", true, option_text, &p.view.filter.library },
		{ "invert", false, option_flag, &p.view.filter.invert },
		{ "diff", true, option_text, &p.base },
		{ NULL, false, NULL, NULL },
	};
	int rest, ret = options_parse(argc, argv, &cmd_report, &p.o, own, &rest);

	if (ret < 0)
		ret = pick_format(&p);
	if (ret >= 0)
		return ret;
	if (rest + 1 != argc)
		return usage_error("give one recording, as `beamray record -o FILE` makes it",
				   NULL);
	if (p.o.pid)
		return usage_error("a report is made of a recording, not of a process (-p)", NULL);
	if (p.base)
		return against(&p, argv[rest]);
	p.view.ledgers = p.format == TEXT || p.format == JSON || p.format == HTML;
	p.view.history = p.format == HTML;
	p.view.one = p.format != TEXT && p.format != HTML;
	ret = report_all(&p, argv[rest]);
	recording_view_close(&p.v);
	return ret;
}

const struct command cmd_report = {
	.name = "report",
	.summary = "tables and flame graphs from a recording",
	.usage = usage,
	.privileges = PRIVILEGE_WRITE,
	.run = run,
};
