/* SPDX-License-Identifier: Apache-2.0 */
#include "report/recording_view.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "report/paragraph.h"

#define STACKS_SHOWN 8
#define FRAMES_SHOWN 16
#define KERNEL_SHOWN 3 /* frames in a row */
#define ROWS_SHOWN   10
#define CHANGE_SHOWN (64 << 10) /* bytes; smaller ones are summed up */

/* ---- ledgers ---------------------------------------------------------------- */

static void ledger_tables(FILE *to, const struct recording_view *v,
			  const struct recording_text_opts *opts)
{
	const struct view_ledger *last = &v->ledgers[v->n_ledgers - 1];
	struct changes_text t = {
		.title = "ACCOUNT (resident)",
		.a = "FIRST",
		.b = "LAST",
		.unit = opts->unit,
		.most = ROWS_SHOWN,
		.floor = CHANGE_SHOWN,
		.large = last->n ? last->rows[0].bytes / 20 : 0,
		.all = opts->verbose,
	};

	changes_text(to, &v->accounts, &t);
	t.most = ROWS_SHOWN / 2;
	t.large = 0;
	t.title = "ALLOCATOR (blocks in use)";
	changes_text(to, &v->allocators, &t);
	t.title = "ALLOCATOR (carriers)";
	changes_text(to, &v->carriers, &t);
	t.title = "OWNER (tagged blocks)";
	changes_text(to, &v->owners, &t);
}

/* ---- stacks ------------------------------------------------------------------- */

char *share_text(char *buf, size_t size, int64_t part, int64_t whole)
{
	if (whole > 0 && part >= 0)
		snprintf(buf, size, "%.1f%%", 100.0 * (double)part / (double)whole);
	else
		snprintf(buf, size, "-");
	return buf;
}

static const char *label_of(const struct report_stack *s)
{
	return s->source->label && *s->source->label ? s->source->label : "(no process)";
}

static void sum_table(FILE *to, const struct view_profile *p, enum sum_by by, const char *title,
		      const struct recording_text_opts *opts)
{
	size_t i, n = p->n_by[by], most = opts->verbose ? SIZE_MAX : ROWS_SHOWN;
	char weight[32], part[16];

	if (n)
		fprintf(to, "\n%s\n", title);
	for (i = 0; i < n && i < most; i++) {
		const struct profile_sum *s = &p->by[by][i];

		fprintf(to, "  %12s %7s",
			weight_format(weight, sizeof(weight), p->profile, s->weight),
			share_text(part, sizeof(part), s->weight, p->report->total));
		line_text(to, 2, s->text, strlen(s->text), opts->verbose ? 0 : opts->columns - 22);
	}
	if (i < n)
		fprintf(to, "  and %zu more (-v)\n", n - i);
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

/* One line of functions, whichever instructions of them it was. */
struct top {
	const struct report_stack *stack;
	int64_t weight;
};

static void stack_lines(FILE *to, const struct view_profile *p, const struct top *top,
			size_t number, const struct recording_text_opts *opts)
{
	const struct profile_report *r = p->report;
	const struct report_stack *s = top->stack;
	size_t most = opts->verbose ? SIZE_MAX : FRAMES_SHOWN, i, shown = 0, kernel = 0;
	char weight[32], part[16];

	fprintf(to, "\n%3zu. %s  %s%s", number,
		weight_format(weight, sizeof(weight), p->profile, top->weight),
		share_text(part, sizeof(part), top->weight, r->total),
		s->source->complete		   ? ""
		: profile_stack_thinned(s->source) ? "  [thinned]"
						   : "  [cut]");
	line_text(to, 2, label_of(s), strlen(label_of(s)), opts->verbose ? 0 : opts->columns - 32);
	/* leaf first; the label is above already */
	for (i = s->n; i-- > 0;) {
		const struct report_name *name = &r->names[r->frames[s->first + i].name];

		if (name->kind == FRAME_LABEL)
			continue;
		/* what the kernel does inside of one call says less than who called it */
		if (name->kind == FRAME_KERNEL && ++kernel > KERNEL_SHOWN && !opts->verbose)
			continue;
		if (kernel > KERNEL_SHOWN && name->kind != FRAME_KERNEL && !opts->verbose)
			fprintf(to, "       and %zu more in the kernel\n", kernel - KERNEL_SHOWN);
		if (name->kind != FRAME_KERNEL)
			kernel = 0;
		if (shown++ < most)
			line_text(to, 7, name->text, strlen(name->text),
				  opts->verbose ? 0 : opts->columns);
	}
	if (kernel > KERNEL_SHOWN && !opts->verbose)
		fprintf(to, "       and %zu more in the kernel\n", kernel - KERNEL_SHOWN);
	if (shown > most)
		fprintf(to, "       and %zu more up to the root (-v)\n", shown - most);
}

static const struct profile_report *sorted; /* for by_names(): qsort has no argument */

static int by_names(const void *a, const void *b)
{
	const struct report_stack *x = ((const struct top *)a)->stack;
	const struct report_stack *y = ((const struct top *)b)->stack;
	const struct report_frame *v = sorted->frames;

	if (x->source->complete != y->source->complete)
		return x->source->complete ? -1 : 1;
	if (x->n != y->n)
		return x->n < y->n ? -1 : 1;
	for (size_t i = 0; i < x->n; i++)
		if (v[x->first + i].name != v[y->first + i].name)
			return v[x->first + i].name < v[y->first + i].name ? -1 : 1;
	return 0;
}

static int heavier(const void *a, const void *b)
{
	const struct top *x = a, *y = b;

	if (x->weight != y->weight)
		return x->weight > y->weight ? -1 : 1;
	return x->stack < y->stack ? -1 : x->stack > y->stack;
}

/* The stacks with equal names as one; returns how many. */
static size_t tops_merge(struct top *v, size_t n)
{
	size_t to = 0;

	for (size_t i = 0; i < n; i++) {
		if (to && by_names(&v[to - 1], &v[i]) == 0)
			v[to - 1].weight += v[i].weight;
		else
			v[to++] = v[i];
	}
	return to;
}

static void top_stacks(FILE *to, const struct view_profile *p,
		       const struct recording_text_opts *opts)
{
	const struct profile_report *r = p->report;
	struct top *top = calloc(r->n_stacks + 1, sizeof(*top));
	size_t i, n = r->n_stacks, most = opts->verbose ? SIZE_MAX : STACKS_SHOWN;

	if (!top)
		return;
	for (i = 0; i < n; i++)
		top[i] = (struct top){ &r->stacks[i], r->stacks[i].weight };
	sorted = r;
	qsort(top, n, sizeof(*top), by_names);
	n = tops_merge(top, n);
	qsort(top, n, sizeof(*top), heavier);
	for (i = 0; i < n && i < most && top[i].weight > 0; i++)
		stack_lines(to, p, &top[i], i + 1, opts);
	free(top);
}

static void growth_sums(FILE *to, const struct recording *r, const struct recording_text_opts *opts)
{
	const unsigned last = (unsigned)r->n_looks;
	char a[32], b[32], text[400];
	uint64_t unowned, released;

	if (!recording_counter_at(r, last, "growth.unowned", &unowned) ||
	    !recording_counter_at(r, last, "growth.released", &released))
		return;
	snprintf(text, sizeof(text),
		 "Resident bytes, net, that these stacks brought since the first look and that "
		 "are still there. Without a stack came %s; %s that were there at the first look "
		 "are gone.",
		 unit_format(a, sizeof(a), opts->unit, unowned),
		 unit_format(b, sizeof(b), opts->unit, released));
	paragraph(to, "", text, opts->columns);
}

static void native_sums(FILE *to, const struct recording *r, const struct recording_text_opts *opts)
{
	const unsigned last = (unsigned)r->n_looks;
	uint64_t before = 0, unit = 0, frees = 0;
	char text[500], a[32];
	int n;

	if (!recording_counter_at(r, last, "native.before_bytes", &before) ||
	    !recording_counter_at(r, last, "native.frees", &frees))
		return;
	recording_counter_at(r, last, "native.unit", &unit);
	n = snprintf(text, sizeof(text),
		     "Bytes of malloc and its relatives, in whole blocks, that were taken since the "
		     "first look and are still held; %" PRIu64
		     " other blocks were freed again. Of what was there before, %s were given back.",
		     frees, unit_format(a, sizeof(a), opts->unit, before));
	if (unit && n > 0 && (size_t)n < sizeof(text))
		snprintf(text + n, sizeof(text) - (size_t)n,
			 " Blocks below %" PRIu64
			 " bytes were drawn in proportion to their size: the sums are estimates.",
			 unit);
	paragraph(to, "", text, opts->columns);
}

static void profile_head(FILE *to, const struct recording_view *v, const struct view_profile *p,
			 const struct recording_text_opts *opts)
{
	const struct profile_report *r = p->report;
	char total[32], events[160];

	fprintf(to, "\n%s: %s%s in %zu stacks\n", p->profile->kind,
		weight_format(total, sizeof(total), p->profile, r->total),
		v->filtered ? " (filtered)" : "", r->n_stacks);
	if (r->events)
		fprintf(to, "%s.\n", events_text(events, sizeof(events), r));
	if (strcmp(p->profile->kind, "growth") == 0 && !v->filtered)
		growth_sums(to, v->recording, opts);
	else if (strcmp(p->profile->kind, "native") == 0 && !v->filtered)
		native_sums(to, v->recording, opts);
	if (strcmp(p->profile->kind, "growth") != 0 && p->profile->without_stack && !v->filtered)
		fprintf(to, "Without a stack: %s.\n",
			weight_format(total, sizeof(total), p->profile, p->profile->without_stack));
	if (p->profile->lost_events || p->profile->lost_stacks)
		fprintf(to, "LOST: %llu events, %llu stacks.\n",
			(unsigned long long)p->profile->lost_events,
			(unsigned long long)p->profile->lost_stacks);
}

void kind_tables_text(FILE *to, const struct recording_view *v, const struct view_profile *p,
		      const struct recording_text_opts *opts)
{
	if (v->filtered) /* they are of the whole node */
		return;
	if (strcmp(p->profile->kind, "cpu") == 0)
		usage_text(to, v, opts);
	else if (strcmp(p->profile->kind, "gc") == 0)
		collections_text(to, v, opts);
	else if (strcmp(p->profile->kind, "carrier") == 0)
		made_carriers_text(to, v, opts);
}

static void profile_tables(FILE *to, const struct recording_view *v, const struct view_profile *p,
			   const struct recording_text_opts *opts)
{
	profile_head(to, v, p, opts);
	if (p->report->invert)
		sum_table(to, p, SUM_FUNCTION, "BY FUNCTION (the leaf of the stack)", opts);
	else
		top_stacks(to, p, opts);
	sum_table(to, p, SUM_PROCESS, "BY PROCESS", opts);
	sum_table(to, p, SUM_LIBRARY, "BY LIBRARY", opts);
	kind_tables_text(to, v, p, opts);
}

/* ---- all of it -------------------------------------------------------------------- */

void recording_text(FILE *to, const struct recording_view *v,
		    const struct recording_text_opts *opts)
{
	const struct recording *r = v->recording;
	const struct recording_look *a = r->looks,
				    *b = r->n_looks ? &r->looks[r->n_looks - 1] : NULL;
	char x[16], y[16], z[16];
	size_t i;

	fprintf(to, "process %s, OTP %s (erts %s, %s), started %s\n", recording_known(r, "pid"),
		recording_known(r, "otp_release"), recording_known(r, "erts_version"),
		recording_known(r, "flavor"), recording_known(r, "start_time"));
	if (!b) {
		fprintf(to, "no look was recorded; the recording is %s\n", recording_state(r));
	} else {
		fprintf(to, "%zu look%s from %s on, %.1f s, %s\n", r->n_looks,
			r->n_looks == 1 ? "" : "s", a->time, recording_seconds(a, b),
			recording_state(r));
		fprintf(to, "resident %s -> %s (%s)\n",
			unit_format(x, sizeof(x), opts->unit, a->rss),
			unit_format(y, sizeof(y), opts->unit, b->rss),
			unit_format_signed(z, sizeof(z), opts->unit, (int64_t)(b->rss - a->rss)));
		if (v->n_ledgers)
			ledger_tables(to, v, opts);
	}
	for (i = 0; i < v->n_profiles; i++)
		profile_tables(to, v, &v->profiles[i], opts);
	if (v->why_not[0]) {
		fputc('\n', to);
		paragraph(to, "", v->why_not, opts->columns);
	}
	trace_text(to, v, opts);
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
