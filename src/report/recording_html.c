/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A recording as one page of HTML, which needs nothing from anywhere: no script, no
 * style sheet, no font is loaded, and its own policy forbids it.
 *
 *	heading, facts
 *	memory over time     areas, one above the other, and the figures as a table
 *	what changed         accounts, allocators, owners
 *	each profile         flame graph, sums, top stacks
 *	notes
 *
 * Everything is there without JavaScript; with it the flame graphs zoom and search.
 */
#include <stdlib.h>
#include <string.h>

#include "report/account_groups.h"
#include "report/recording_view.h"
#include "report/xml.h"

#define CHART_WIDTH  1180.0
#define CHART_HEIGHT 260.0
#define CHART_LEFT   80.0 /* room for the figures of the axis */
#define CHART_BOTTOM 24.0
#define TIMES_SHOWN  12 /* rows of the table of looks */
#define ROWS_SHOWN   30
#define STACKS_SHOWN 20

static const char *const group_colours[ACCOUNT_GROUPS] = {
	"#f2a65a", "#e8d174", "#d9c9a3", "#b9a7d6", "#e2705f", "#f0b5ac", "#9cc3d9", "#5b6770",
};

static const char head[] =
	"<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
	"<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; "
	"style-src 'unsafe-inline'; script-src 'unsafe-inline'\">\n"
	"<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n"
	"<title>beamray: a recording</title>\n<style>"
	"body{font:14px/1.45 sans-serif;color:#111;background:#fff;margin:1.5em auto;"
	"max-width:1240px;padding:0 1em}"
	"h1{font-size:1.5em}h2{font-size:1.2em;margin-top:2em;border-bottom:1px solid #ccc}"
	"h3{font-size:1em;margin-bottom:.3em}"
	"table{border-collapse:collapse;font-size:13px}"
	"td,th{padding:.15em .7em;text-align:right;border-bottom:1px solid #e5e5e5;"
	"font-variant-numeric:tabular-nums;white-space:nowrap}"
	"th{background:#f4f4f6}td:first-child,th:first-child{text-align:left}"
	"td.n{white-space:normal;overflow-wrap:anywhere;text-align:left}"
	".wide{overflow-x:auto}.beside{display:flex;flex-wrap:wrap;gap:1em 3em}"
	"svg text{font:12px sans-serif}svg{max-width:100%}"
	".key{display:inline-block;width:.9em;height:.9em;margin:0 .4em;border:1px solid #777;"
	"vertical-align:-.1em}"
	"details{margin:.3em 0}summary{cursor:pointer}pre{margin:.3em 1.5em;font-size:12px;"
	"white-space:pre-wrap;overflow-wrap:anywhere}"
	".bad{background:#fde8e4;padding:.5em 1em}"
	"</style></head><body>\n";

static void put_bytes(FILE *to, uint64_t bytes)
{
	char text[16];

	fputs(unit_format(text, sizeof(text), UNIT_AUTO, bytes), to);
}

static void put_facts(FILE *to, const struct recording *r)
{
	const struct recording_look *a = r->looks, *b;
	char change[16];
	size_t i;

	fputs("<h1>beamray: process ", to);
	xml_string(to, recording_known(r, "pid"));
	fputs(", OTP ", to);
	xml_string(to, recording_known(r, "otp_release"));
	fputs("</h1>\n<p>erts ", to);
	xml_string(to, recording_known(r, "erts_version"));
	fputs(", ", to);
	xml_string(to, recording_known(r, "flavor"));
	fputs("; started ", to);
	xml_string(to, recording_known(r, "start_time"));
	fputs("; ", to);
	xml_string(to, recording_known(r, "exe"));
	fputs("<br>", to);
	if (!r->n_looks) {
		fputs("No look was recorded; the recording is ", to);
		xml_string(to, recording_state(r));
		fputs(".</p>\n", to);
		return;
	}
	b = &r->looks[r->n_looks - 1];
	fprintf(to, "%zu look%s from %s on, %.1f s, ", r->n_looks, r->n_looks == 1 ? "" : "s",
		a->time, recording_seconds(a, b));
	xml_string(to, recording_state(r));
	fputs("; resident <b>", to);
	put_bytes(to, a->rss);
	fputs("</b> &#8594; <b>", to);
	put_bytes(to, b->rss);
	fprintf(to, "</b> (%s)</p>\n",
		unit_format_signed(change, sizeof(change), UNIT_AUTO, (int64_t)(b->rss - a->rss)));
	for (i = 0; i < r->n_looks; i++)
		if (!r->looks[i].complete) {
			fprintf(to,
				"<p class=\"bad\">Incomplete: more than 1%% of the bytes of look "
				"%u are missing.</p>\n",
				r->looks[i].number);
			break;
		}
}

/* ---- memory over time ---------------------------------------------------------- */

struct group_sums {
	uint64_t v[ACCOUNT_GROUPS];
};

static struct group_sums sum_groups(const struct view_ledger *l)
{
	struct group_sums s = { { 0 } };
	size_t i;

	for (i = 0; i < l->n; i++)
		s.v[account_group_of(l->rows[i].account)] += l->rows[i].bytes;
	return s;
}

/* The place of look i on the time axis; evenly, where the clock says nothing. */
static double place(const struct recording_view *v, size_t i)
{
	double begin = (double)v->ledgers[0].look->time_ns;
	double end = (double)v->ledgers[v->n_ledgers - 1].look->time_ns;
	double now = (double)v->ledgers[i].look->time_ns;
	double share = end > begin ? (now - begin) / (end - begin)
				   : (double)i / (double)(v->n_ledgers - 1);

	share = share < 0 ? 0 : share > 1 ? 1 : share;
	return CHART_LEFT + share * (CHART_WIDTH - CHART_LEFT);
}

static void put_axis(FILE *to, const struct recording_view *v, double top)
{
	double seconds = recording_seconds(v->ledgers[0].look, v->ledgers[v->n_ledgers - 1].look);
	char text[16];
	int i;

	for (i = 0; i <= 4; i++) {
		double y = CHART_HEIGHT * (1 - i / 4.0) + 8;

		fprintf(to,
			"<path d=\"M%.0f %.1fH%.0f\" stroke=\"#0003\"/><text x=\"%.0f\" y=\"%.1f\" "
			"text-anchor=\"end\">%s</text>\n",
			CHART_LEFT, y, CHART_WIDTH, CHART_LEFT - 6, y + 4,
			unit_format(text, sizeof(text), UNIT_AUTO, (uint64_t)(top * i / 4)));
	}
	for (i = 0; i <= 4; i++)
		fprintf(to, "<text x=\"%.0f\" y=\"%.0f\" text-anchor=\"%s\">%.1f s</text>\n",
			CHART_LEFT + (CHART_WIDTH - CHART_LEFT) * i / 4,
			CHART_HEIGHT + CHART_BOTTOM,
			i == 0	 ? "start"
			: i == 4 ? "end"
				 : "middle",
			seconds * i / 4);
}

static void put_chart(FILE *to, const struct recording_view *v, const struct group_sums *sums)
{
	double *base = calloc(v->n_ledgers, sizeof(*base)), top = 1;
	size_t i, g;

	if (!base)
		return;
	for (i = 0; i < v->n_ledgers; i++)
		if ((double)v->ledgers[i].look->rss > top)
			top = (double)v->ledgers[i].look->rss;
	fprintf(to,
		"<svg viewBox=\"0 0 %.0f %.0f\" width=\"100%%\" role=\"img\" "
		"aria-label=\"Resident memory over time; the table below has the figures\">\n",
		CHART_WIDTH, CHART_HEIGHT + CHART_BOTTOM + 8);
	for (g = ACCOUNT_GROUPS; g-- > 0;) {
		fprintf(to, "<polygon fill=\"%s\" points=\"", group_colours[g]);
		for (i = 0; i < v->n_ledgers; i++)
			fprintf(to, "%.1f,%.1f ", place(v, i),
				8 + CHART_HEIGHT * (1 - base[i] / top));
		for (i = v->n_ledgers; i-- > 0;) {
			base[i] += (double)sums[i].v[g];
			fprintf(to, "%.1f,%.1f ", place(v, i),
				8 + CHART_HEIGHT * (1 - base[i] / top));
		}
		fprintf(to, "\"><title>%s</title></polygon>\n", account_groups[g].name);
	}
	put_axis(to, v, top);
	fputs("</svg>\n", to);
	free(base);
}

static void put_history(FILE *to, const struct recording_view *v)
{
	struct group_sums *sums = calloc(v->n_ledgers, sizeof(*sums));
	size_t i, g, rows = v->n_ledgers < TIMES_SHOWN ? v->n_ledgers : TIMES_SHOWN;

	if (!sums)
		return;
	for (i = 0; i < v->n_ledgers; i++)
		sums[i] = sum_groups(&v->ledgers[i]);
	fputs("<h2>Memory over time (resident)</h2>\n", to);
	if (v->n_ledgers > 1)
		put_chart(to, v, sums);
	fputs("<div class=\"wide\"><table><tr><th>look</th><th>at</th><th>resident</th>", to);
	for (g = 0; g < ACCOUNT_GROUPS; g++)
		fprintf(to,
			"<th title=\"%s\"><span class=\"key\" style=\"background:%s\"></span>%s</th>",
			account_groups[g].meaning, group_colours[g], account_groups[g].name);
	fputs("</tr>\n", to);
	for (i = 0; i < rows; i++) {
		size_t at = rows > 1 ? i * (v->n_ledgers - 1) / (rows - 1) : 0;
		const struct recording_look *l = v->ledgers[at].look;

		fprintf(to, "<tr><td>%u</td><td>%.1f s</td><td>", l->number,
			recording_seconds(v->ledgers[0].look, l));
		put_bytes(to, l->rss);
		for (g = 0; g < ACCOUNT_GROUPS; g++) {
			fputs("</td><td>", to);
			put_bytes(to, sums[at].v[g]);
		}
		fputs("</td></tr>\n", to);
	}
	fputs("</table></div>\n", to);
	free(sums);
}

/* ---- tables ---------------------------------------------------------------------- */

static void put_changes(FILE *to, const char *title, const struct changes *c)
{
	char change[16];
	size_t i, shown = 0;

	for (i = 0; i < c->n && shown < ROWS_SHOWN; i++) {
		const struct change *x = &c->v[i];

		if (!x->change)
			break; /* the biggest change comes first */
		if (!shown++)
			fprintf(to,
				"<div><h3>%s</h3><table><tr><th>name</th><th>first</th>"
				"<th>last</th><th>change</th></tr>\n",
				title);
		fputs("<tr><td class=\"n\">", to);
		xml_string(to, x->name);
		fputs("</td><td>", to);
		put_bytes(to, x->a < 0 ? 0 : (uint64_t)x->a);
		fputs("</td><td>", to);
		put_bytes(to, x->b < 0 ? 0 : (uint64_t)x->b);
		fprintf(to, "</td><td>%s</td></tr>\n",
			unit_format_signed(change, sizeof(change), UNIT_AUTO, x->change));
	}
	if (!shown)
		return;
	fputs("</table>", to);
	if (c->n > shown)
		fprintf(to, "<p>%zu more changed %s.</p>", c->n - shown,
			c->v[shown].change ? "less" : "not at all");
	fputs("</div>\n", to);
}

static void put_sums(FILE *to, const struct view_profile *p, enum sum_by by, const char *title)
{
	char weight[32], part[16];
	size_t i, n = p->n_by[by];

	if (!n)
		return;
	fprintf(to, "<div><h3>%s</h3><table><tr><th>name</th><th>weight</th><th>share</th></tr>\n",
		title);
	for (i = 0; i < n && i < ROWS_SHOWN; i++) {
		const struct profile_sum *s = &p->by[by][i];

		fputs("<tr><td class=\"n\">", to);
		xml_string(to, s->text);
		fprintf(to, "</td><td>%s</td><td>%s</td></tr>\n",
			weight_format(weight, sizeof(weight), p->profile, s->weight),
			share_text(part, sizeof(part), s->weight, p->report->total));
	}
	fputs("</table>", to);
	if (i < n)
		fprintf(to, "<p>%zu more weigh less.</p>", n - i);
	fputs("</div>\n", to);
}

static void put_stack(FILE *to, const struct view_profile *p, const struct report_stack *s)
{
	const struct profile_report *r = p->report;
	char weight[32], part[16];
	size_t i;

	fprintf(to, "<details><summary>%s, %s%s: ",
		weight_format(weight, sizeof(weight), p->profile, s->weight),
		share_text(part, sizeof(part), s->weight, r->total),
		s->source->complete		   ? ""
		: profile_stack_thinned(s->source) ? " [thinned]"
						   : " [cut]");
	xml_string(to, s->source->label && *s->source->label ? s->source->label : "(no process)");
	fputs("</summary><pre>", to);
	for (i = s->n; i-- > 0;) {
		const struct report_frame *f = &r->frames[s->first + i];

		if (r->names[f->name].kind == FRAME_LABEL)
			continue;
		xml_string(to, r->names[f->name].text);
		if (r->names[f->name].file && f->line) {
			fputs("  ", to);
			xml_string(to, r->names[f->name].file);
			fprintf(to, ":%u", f->line);
		}
		fputc('\n', to);
	}
	fputs("</pre></details>\n", to);
}

/* The tables that belong to a kind, as the text has them. */
static void put_kind_tables(FILE *to, const struct recording_view *v, const struct view_profile *p)
{
	const struct recording_text_opts opts = { UNIT_AUTO, 110, false };
	char *text = NULL;
	size_t size, n;
	FILE *f = open_memstream(&text, &size);

	if (!f)
		return;
	kind_tables_text(f, v, p, &opts);
	if (fclose(f) == 0 && size) {
		fputs("<pre>", to);
		/* line by line: an end of a line is no text that XML may hold here */
		for (const char *at = text; *at; at += n + (at[n] != '\0')) {
			n = strcspn(at, "\n");
			xml_text(to, at, n);
			fputc('\n', to);
		}
		fputs("</pre>\n", to);
	}
	free(text);
}

static void put_profile(FILE *to, const struct view_profile *p, unsigned number)
{
	const struct profile_report *r = p->report;
	size_t i;

	fputs("<h2>Profile: ", to);
	xml_string(to, p->profile->kind);
	fputs("</h2>\n", to);
	profile_flamegraph(to, r, number);
	fputs("<div class=\"beside\">\n", to);
	put_sums(to, p, SUM_PROCESS, "By process or thread");
	put_sums(to, p, SUM_LIBRARY, "By library");
	put_sums(to, p, SUM_FUNCTION, "By function (the leaf)");
	fputs("</div>\n<h3>Top stacks (the leaf first)</h3>\n", to);
	/* as the profile has them: largest weight first */
	for (i = 0; i < r->n_stacks && i < STACKS_SHOWN && r->stacks[i].weight > 0; i++)
		put_stack(to, p, &r->stacks[i]);
}

void recording_html(FILE *to, const struct recording_view *v)
{
	const struct recording *r = v->recording;
	size_t i;

	fputs(head, to);
	put_facts(to, r);
	if (v->n_ledgers) {
		put_history(to, v);
		fputs("<h2>What changed</h2>\n<div class=\"beside\">\n", to);
		put_changes(to, "Accounts (resident)", &v->accounts);
		put_changes(to, "Allocators (blocks in use)", &v->allocators);
		put_changes(to, "Allocators (carriers)", &v->carriers);
		put_changes(to, "Owners (tagged blocks)", &v->owners);
		fputs("</div>\n", to);
	}
	for (i = 0; i < v->n_profiles; i++) {
		put_profile(to, &v->profiles[i], (unsigned)i + 1);
		put_kind_tables(to, v, &v->profiles[i]);
	}
	if (v->why_not[0]) {
		fputs("<p>", to);
		xml_string(to, v->why_not);
		fputs("</p>\n", to);
	}
	if (r->n_notes)
		fputs("<h2>Notes</h2>\n<ul>\n", to);
	for (i = 0; i < r->n_notes; i++) {
		fputs("<li>", to);
		xml_string(to, r->notes[i].text);
		fputs("</li>\n", to);
	}
	fputs(r->n_notes ? "</ul>\n</body></html>\n" : "</body></html>\n", to);
}
