/* SPDX-License-Identifier: Apache-2.0 */
/* beamray report: what is in a recording. */
#include "cmd/command.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "report/recording_report.h"
#include "target/escape.h"

static const char usage[] =
	"usage: beamray report FILE [-f FORMAT] [options]\n"
	"\n"
	"What a recording holds: how the ledger changed, and which stacks, processes and\n"
	"libraries did it. Needs no privilege, and neither the node nor its machine.\n"
	"\n"
	"  -f, --format FORMAT  text (default), json (schema beamray.report/1), or of the\n"
	"                       stacks: folded (flamegraph.pl), svg (a flame graph),\n"
	"                       pprof (profile.proto, gzip), speedscope\n"
	"      --kind KIND      which profile: growth\n"
	"      --process TEXT   only stacks of processes or threads with TEXT in the name\n"
	"      --library NAME   only stacks with a frame of this library\n"
	"      --invert         leaf first: what was called, and by whom\n"
	"  -o, --output FILE    write there instead of to the terminal\n"
	"      --unit UNIT      auto, B, KiB, MiB or GiB\n"
	"  -v, --verbose        all rows and stacks, not the top of each\n"
	"  -h, --help           this text\n"
	"\n"
	"Exit codes: 0 ok, 2 usage, or not a recording, or a damaged one, 4 not permitted,\n"
	"6 the recording says itself that it is incomplete.\n";

enum format { TEXT, JSON, FOLDED, SVG, PPROF, SPEEDSCOPE, HTML, N_FORMATS };
static const char *const formats[N_FORMATS] = { "text",	 "json",       "folded", "svg",
						"pprof", "speedscope", "html" };

struct report {
	struct options o;
	enum format format;
	const char *kind;
	struct profile_report_opts filter;

	struct recording *r;
	struct recording_row *first, *last;
	struct profile *profile;
	struct symbols *symbols;
	struct profile_report *report;
	json_t *before, *after;
	struct recording_view view;
	struct error no_profile;
};

static int take_text(void *to, const char *arg, struct error *err)
{
	(void)err;
	*(const char **)to = arg;
	return 0;
}

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
		return usage_error("-f is one of text, json, folded, svg, pprof, speedscope", name);
	if (i == HTML)
		return usage_error("html cannot be written by this version; svg can", NULL);
	p->format = (enum format)i;
	return -1;
}

static json_t *document(struct report *p, unsigned look)
{
	struct error err = { 0 };
	json_t *doc = NULL;
	char *text;

	if (recording_document(p->r, look, &text, &err) == 0) {
		doc = recording_document_json(text);
		free(text);
	}
	return doc;
}

/* Everything is read before anything is written: a recording that turns out to be
 * damaged leaves no half report. */
static int load(struct report *p, const char *path, struct error *err)
{
	struct recording_view *v = &p->view;
	int ret = recording_open(path, &p->r, err);
	unsigned last = ret == 0 ? (unsigned)p->r->n_looks : 0;

	if (ret < 0)
		return ret;
	v->recording = p->r;
	v->filtered = p->filter.process || p->filter.library;
	if (last && (p->format == TEXT || p->format == JSON)) {
		ret = recording_rows(p->r, 1, &p->first, &v->n_first, err);
		if (ret == 0)
			ret = recording_rows(p->r, last, &p->last, &v->n_last, err);
		if (ret < 0)
			return ret;
		v->first = p->first;
		v->last = p->last;
		if (p->format == JSON) {
			p->before = document(p, 1);
			p->after = document(p, last);
		}
	}
	ret = recording_profile(p->r, p->kind, UINT_MAX, &p->profile, &p->symbols, &p->no_profile);
	if (ret == 0)
		ret = profile_report_new(p->profile, p->symbols, &p->filter, &p->report);
	if (ret == -ENOENT && (p->format == TEXT || p->format == JSON)) {
		v->why_not = p->no_profile.text;
		return 0;
	}
	if (ret < 0) {
		*err = p->no_profile;
		return ret;
	}
	v->report = p->report;
	v->profile = p->profile;
	v->symbols = p->symbols;
	return 0;
}

static int write_json(FILE *to, struct report *p)
{
	json_t *doc = recording_json(&p->view, p->before, p->after);

	p->before = p->after = NULL; /* taken over */
	if (!doc)
		return -ENOMEM;
	json_dumpf(doc, to, JSON_COMPACT | JSON_REAL_PRECISION(12));
	fputc('\n', to);
	json_decref(doc);
	return 0;
}

static int write_report(FILE *to, struct report *p)
{
	const struct recording *r = p->r;
	struct recording_text_opts text = { p->o.unit, columns_of(to), p->o.verbose > 0 };
	uint64_t begin = 0, duration = 0;

	if (r->n_looks) {
		begin = (uint64_t)r->looks[0].time_ns;
		if (r->looks[r->n_looks - 1].time_ns > r->looks[0].time_ns)
			duration =
				(uint64_t)(r->looks[r->n_looks - 1].time_ns - r->looks[0].time_ns);
	}
	switch (p->format) {
	case JSON:
		return write_json(to, p);
	case FOLDED:
		return profile_folded(to, p->report);
	case SVG:
		profile_flamegraph(to, p->report);
		return 0;
	case PPROF:
		return profile_pprof(to, p->report, begin, duration);
	case SPEEDSCOPE:
		return profile_speedscope(to, p->report);
	default:
		recording_text(to, &p->view, &text);
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

static int run(int argc, char **argv)
{
	struct report p = { .kind = "growth" };
	const struct option_own own[] = {
		{ "kind", true, take_text, &p.kind },
		{ "process", true, take_text, &p.filter.process },
		{ "library", true, take_text, &p.filter.library },
		{ "invert", false, option_flag, &p.filter.invert },
		{ NULL, false, NULL, NULL },
	};
	struct error err = { 0 };
	int rest, ret = options_parse(argc, argv, &cmd_report, &p.o, own, &rest);
	FILE *to = NULL;

	if (ret < 0)
		ret = pick_format(&p);
	if (ret >= 0)
		return ret;
	if (rest + 1 != argc)
		return usage_error("give one recording, as `beamray record -o FILE` makes it",
				   NULL);
	if (p.o.pid)
		return usage_error("a report is made of a recording, not of a process (-p)", NULL);
	ret = load(&p, argv[rest], &err);
	if (ret == 0) {
		to = output_open(&p.o);
		if (!to) {
			ret = EXIT_USAGE;
			goto out;
		}
		ret = write_report(to, &p);
		if (!output_close(&p.o, to) && ret == 0)
			ret = EXIT_INCOMPLETE;
		else if (ret == 0)
			ret = incomplete(p.r) ? EXIT_INCOMPLETE : EXIT_OK;
	}
	if (ret < 0)
		ret = command_fail(&err, ret);
out:
	json_decref(p.before);
	json_decref(p.after);
	profile_report_free(p.report);
	profile_free(p.profile);
	symbols_free(p.symbols);
	free(p.first);
	free(p.last);
	recording_close(p.r);
	return ret;
}

const struct command cmd_report = {
	.name = "report",
	.summary = "tables and flame graphs from a recording",
	.usage = usage,
	.run = run,
};
