/* SPDX-License-Identifier: Apache-2.0 */
#include "report/recording_report.h"

#include <stdlib.h>
#include <string.h>

#include "report/paragraph.h"

#define STACKS_SHOWN 8
#define FRAMES_SHOWN 16
#define ROWS_SHOWN   10
#define CHANGE_SHOWN (64 << 10) /* bytes; smaller ones are summed up */

/* ---- ledgers ---------------------------------------------------------------- */

static int larger_change(const void *a, const void *b)
{
	const struct account_change *x = a, *y = b;
	uint64_t p = x->change < 0 ? 0 - (uint64_t)x->change : (uint64_t)x->change;
	uint64_t q = y->change < 0 ? 0 - (uint64_t)y->change : (uint64_t)y->change;

	if (p != q)
		return p > q ? -1 : 1;
	if (x->b != y->b)
		return x->b > y->b ? -1 : 1;
	return strcmp(x->account, y->account);
}

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct recording_row *)a)->account,
		      ((const struct recording_row *)b)->account);
}

static struct recording_row *by_names(const struct recording_row *v, size_t n)
{
	struct recording_row *copy = calloc(n + 1, sizeof(*copy));

	if (copy && n) {
		memcpy(copy, v, n * sizeof(*copy));
		qsort(copy, n, sizeof(*copy), by_name);
	}
	return copy;
}

struct account_change *account_changes(const struct recording_row *a, size_t na,
				       const struct recording_row *b, size_t nb, size_t *n)
{
	struct account_change *out = calloc(na + nb + 1, sizeof(*out));
	struct recording_row *x = by_names(a, na), *y = by_names(b, nb);
	size_t i = 0, k = 0;

	*n = 0;
	while (out && x && y && (i < na || k < nb)) {
		struct account_change *c = &out[(*n)++];
		int order = i == na ? 1 : k == nb ? -1 : strcmp(x[i].account, y[k].account);

		memcpy(c->account, order <= 0 ? x[i].account : y[k].account, sizeof(c->account));
		if (order <= 0)
			c->a = x[i++].bytes;
		if (order >= 0)
			c->b = y[k++].bytes;
		c->change = (int64_t)(c->b - c->a);
	}
	if (!x || !y) {
		free(out);
		out = NULL;
	}
	free(x);
	free(y);
	if (out && *n)
		qsort(out, *n, sizeof(*out), larger_change);
	return out;
}

static void ledger_table(FILE *to, const struct recording_view *v,
			 const struct recording_text_opts *opts)
{
	char a[16], b[16], change[16];
	int64_t rest = 0;
	size_t i, n, shown = 0;
	struct account_change *c = account_changes(v->first, v->n_first, v->last, v->n_last, &n);

	if (!c)
		return;
	fprintf(to, "\n%-40s %11s %11s %12s\n", "ACCOUNT (resident)", "FIRST", "LAST", "CHANGE");
	for (i = 0; i < n; i++) {
		bool small = llabs(c[i].change) < CHANGE_SHOWN && c[i].b < v->last[0].bytes / 20;

		if (!opts->verbose && (shown >= ROWS_SHOWN || small)) {
			rest += c[i].change;
			continue;
		}
		shown++;
		fprintf(to, "%-40.40s %11s %11s %12s\n", c[i].account,
			unit_format(a, sizeof(a), opts->unit, c[i].a),
			unit_format(b, sizeof(b), opts->unit, c[i].b),
			unit_format_signed(change, sizeof(change), opts->unit, c[i].change));
	}
	if (shown < n)
		fprintf(to, "%-40s %11s %11s %12s\n", "others (-v shows all)", "", "",
			unit_format_signed(change, sizeof(change), opts->unit, rest));
	free(c);
}

/* ---- stacks ------------------------------------------------------------------- */

/* Sums of weights by a text. */
struct sum {
	const char *text;
	int64_t weight;
	uint64_t count;
};

static int sum_by_text(const void *a, const void *b)
{
	return strcmp(((const struct sum *)a)->text, ((const struct sum *)b)->text);
}

static int sum_by_weight(const void *a, const void *b)
{
	const struct sum *x = a, *y = b;

	if (x->weight != y->weight)
		return x->weight > y->weight ? -1 : 1;
	return strcmp(x->text, y->text);
}

static int64_t add(int64_t a, int64_t b)
{
	int64_t sum;

	if (!__builtin_add_overflow(a, b, &sum))
		return sum;
	return a > 0 ? INT64_MAX : INT64_MIN;
}

static void share(char *buf, size_t size, int64_t part, int64_t whole)
{
	if (whole > 0 && part >= 0)
		snprintf(buf, size, "%.1f%%", 100.0 * (double)part / (double)whole);
	else
		snprintf(buf, size, "-");
}

static const char *label_of(const struct report_stack *s)
{
	return s->source->label && *s->source->label ? s->source->label : "(no process)";
}

/* Takes the sums apart: they are sorted and merged in place. */
static void sum_table(FILE *to, const struct recording_view *v, const char *title, struct sum *s,
		      size_t n, const struct recording_text_opts *opts)
{
	size_t i, k = 0, most = opts->verbose ? SIZE_MAX : ROWS_SHOWN;
	char weight[32], part[16];

	if (!n)
		return;
	qsort(s, n, sizeof(*s), sum_by_text);
	for (i = 1; i < n; i++)
		if (strcmp(s[i].text, s[k].text) == 0) {
			s[k].weight = add(s[k].weight, s[i].weight);
			s[k].count += s[i].count;
		} else {
			s[++k] = s[i];
		}
	n = k + 1;
	qsort(s, n, sizeof(*s), sum_by_weight);
	fprintf(to, "\n%s\n", title);
	for (i = 0; i < n && i < most; i++) {
		share(part, sizeof(part), s[i].weight, v->report->total);
		fprintf(to, "  %12s %7s",
			weight_format(weight, sizeof(weight), v->profile, s[i].weight), part);
		line_text(to, 2, s[i].text, strlen(s[i].text),
			  opts->verbose ? 0 : opts->columns - 22);
	}
	if (i < n)
		fprintf(to, "  and %zu more (-v)\n", n - i);
}

/* Whose code this stack ran: the NIF, driver or library nearest to its leaf; else
 * the runtime. libc works for whoever called it. */
static const char *library_of(const struct recording_view *v, const struct profile_stack *s)
{
	const char *runtime = NULL;
	size_t i;

	for (i = 0; i < s->n; i++) {
		const struct symbol *y = symbols_find(v->symbols, s, i);

		if (!y || !y->module)
			continue;
		if (y->kind == FRAME_NIF || y->kind == FRAME_LIBRARY)
			return y->module;
		if (y->kind == FRAME_ERTS && !runtime)
			runtime = y->module;
	}
	return runtime ? runtime : "(Erlang code)";
}

void line_text(FILE *to, unsigned indent, const char *text, size_t len, unsigned columns)
{
	size_t room = columns > indent + 3 ? columns - indent - 3 : 20, cut;

	if (!columns || len <= room + 3) {
		fprintf(to, "%*s%.*s\n", (int)indent, "", (int)len, text);
		return;
	}
	/* not in the middle of a UTF-8 sequence */
	for (cut = room; cut > 0 && ((unsigned char)text[cut] & 0xc0) == 0x80;)
		cut--;
	fprintf(to, "%*s%.*s...\n", (int)indent, "", (int)cut, text);
}

static void stack_lines(FILE *to, const struct recording_view *v, const struct report_stack *s,
			size_t number, const struct recording_text_opts *opts)
{
	const struct profile_report *r = v->report;
	size_t most = opts->verbose ? SIZE_MAX : FRAMES_SHOWN, i, shown = 0;
	char weight[32], part[16];

	share(part, sizeof(part), s->weight, r->total);
	fprintf(to, "\n%3zu. %s  %s%s", number,
		weight_format(weight, sizeof(weight), v->profile, s->weight), part,
		s->source->complete ? "" : "  [cut]");
	line_text(to, 2, label_of(s), strlen(label_of(s)), opts->verbose ? 0 : opts->columns - 32);
	/* leaf first, whichever way the report is turned; the label is above already */
	for (i = 0; i < s->n; i++) {
		size_t at = s->first + (r->invert ? i : s->n - 1 - i);
		const struct report_name *name = &r->names[r->frames[at].name];

		if (name->kind == FRAME_LABEL)
			continue;
		if (shown++ < most)
			line_text(to, 7, name->text, strlen(name->text),
				  opts->verbose ? 0 : opts->columns);
	}
	if (shown > most)
		fprintf(to, "       and %zu more up to the root (-v)\n", shown - most);
}

static int heavier(const void *a, const void *b)
{
	const struct report_stack *const *x = a, *const *y = b;

	if ((*x)->weight != (*y)->weight)
		return (*x)->weight > (*y)->weight ? -1 : 1;
	return *x < *y ? -1 : *x > *y;
}

/* With --invert: functions by what ended in them. */
static void leaf_table(FILE *to, const struct recording_view *v,
		       const struct recording_text_opts *opts)
{
	const struct profile_report *r = v->report;
	struct sum *s = calloc(r->n_nodes + 1, sizeof(*s));
	size_t n = 0;
	uint32_t at;

	if (!s)
		return;
	for (at = r->nodes[0].first_child; at; at = r->nodes[at].next_sibling)
		s[n++] = (struct sum){ r->names[r->nodes[at].name].text, r->nodes[at].total,
				       r->nodes[at].count };
	sum_table(to, v, "BY FUNCTION (the leaf of the stack)", s, n, opts);
	free(s);
}

static void stack_tables(FILE *to, const struct recording_view *v,
			 const struct recording_text_opts *opts)
{
	const struct profile_report *r = v->report;
	const struct report_stack **top =
		calloc(r->n_stacks + 1, sizeof(const struct report_stack *));
	struct sum *s = calloc(r->n_stacks + 1, sizeof(*s));
	size_t i, most = opts->verbose ? SIZE_MAX : STACKS_SHOWN;

	if (!top || !s)
		goto out;
	for (i = 0; i < r->n_stacks; i++)
		top[i] = &r->stacks[i];
	qsort((void *)top, r->n_stacks, sizeof(const struct report_stack *), heavier);
	if (r->invert)
		leaf_table(to, v, opts);
	for (i = 0; i < r->n_stacks && i < most && !r->invert && top[i]->weight > 0; i++)
		stack_lines(to, v, top[i], i + 1, opts);
	for (i = 0; i < r->n_stacks; i++) {
		s[i] = (struct sum){ label_of(&r->stacks[i]), r->stacks[i].weight,
				     r->stacks[i].count };
	}
	sum_table(to, v, "BY PROCESS", s, r->n_stacks, opts);
	for (i = 0; i < r->n_stacks; i++)
		s[i] = (struct sum){ library_of(v, r->stacks[i].source), r->stacks[i].weight,
				     r->stacks[i].count };
	sum_table(to, v, "BY LIBRARY", s, r->n_stacks, opts);
out:
	free((void *)top);
	free(s);
}

static void growth_head(FILE *to, const struct recording_view *v,
			const struct recording_text_opts *opts)
{
	const struct recording *r = v->recording;
	const struct profile_report *p = v->report;
	unsigned last = (unsigned)r->n_looks;
	char a[32], b[32], text[400];
	uint64_t owned, unowned, released, cpu;

	fprintf(to, "\n%s: %s%s in %zu stacks", v->profile->kind,
		weight_format(a, sizeof(a), v->profile, p->total), v->filtered ? " (filtered)" : "",
		p->n_stacks);
	if (p->events)
		fprintf(to, "; %.1f%% of %llu events reach their root",
			100.0 * (double)p->complete / (double)p->events,
			(unsigned long long)p->events);
	fputc('\n', to);
	if (strcmp(v->profile->kind, "growth") == 0 && !v->filtered &&
	    recording_counter_at(r, last, "growth.owned", &owned) &&
	    recording_counter_at(r, last, "growth.unowned", &unowned) &&
	    recording_counter_at(r, last, "growth.released", &released)) {
		snprintf(text, sizeof(text),
			 "Resident bytes, net, that these stacks brought since the first look and "
			 "that are still there. Without a stack came %s; %s that were there at the "
			 "first look are gone.",
			 unit_format(a, sizeof(a), opts->unit, unowned),
			 unit_format(b, sizeof(b), opts->unit, released));
		paragraph(to, "", text, opts->columns);
	}
	if (v->profile->lost_events || v->profile->lost_stacks)
		fprintf(to, "LOST: %llu events, %llu stacks.\n",
			(unsigned long long)v->profile->lost_events,
			(unsigned long long)v->profile->lost_stacks);
	if (recording_counter_at(r, last, "trace.cpu_ppm", &cpu) && opts->verbose)
		fprintf(to, "Tracing cost %.2f%% of one core.\n", (double)cpu / 1e4);
}

/* ---- all of it -------------------------------------------------------------------- */

static const char *known(const char *text)
{
	return text && *text ? text : "?";
}

void recording_text(FILE *to, const struct recording_view *v,
		    const struct recording_text_opts *opts)
{
	const struct recording *r = v->recording;
	const struct recording_look *a = r->looks,
				    *b = r->n_looks ? &r->looks[r->n_looks - 1] : NULL;
	const char *state = recording_fact(r, "state");
	char x[16], y[16], z[16];
	size_t i;

	fprintf(to, "process %s, OTP %s (erts %s, %s), started %s\n",
		known(recording_target(r, "pid")), known(recording_target(r, "otp_release")),
		known(recording_target(r, "erts_version")), known(recording_target(r, "flavor")),
		known(recording_target(r, "start_time")));
	if (!b) {
		fprintf(to, "no look was recorded; the recording is %s\n", known(state));
	} else {
		fprintf(to, "%zu look%s from %s on, %.1f s, %s\n", r->n_looks,
			r->n_looks == 1 ? "" : "s", a->time,
			(double)(b->time_ns - a->time_ns) / 1e9,
			state && strcmp(state, "recording") == 0
				? "not ended: still recording, or killed"
				: known(state));
		fprintf(to, "resident %s -> %s (%s)\n",
			unit_format(x, sizeof(x), opts->unit, a->rss),
			unit_format(y, sizeof(y), opts->unit, b->rss),
			unit_format_signed(z, sizeof(z), opts->unit, (int64_t)(b->rss - a->rss)));
		if (v->n_last)
			ledger_table(to, v, opts);
	}
	if (v->report) {
		growth_head(to, v, opts);
		stack_tables(to, v, opts);
	} else if (v->why_not) {
		fprintf(to, "\n");
		paragraph(to, "", v->why_not, opts->columns);
	}
	if (r->n_notes)
		fputc('\n', to);
	for (i = 0; i < r->n_notes; i++)
		paragraph(to, "- ", r->notes[i].text, opts->columns);
	for (i = 0; a && i < r->n_looks; i++)
		if (!a[i].complete) {
			fprintf(to,
				"\nINCOMPLETE: more than 1%% of the bytes of look %u are missing.\n",
				a[i].number);
			break;
		}
}
