/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "report/paragraph.h"
#include "report/recording_diff.h"

#define STACKS_SHOWN 8
#define ROWS_SHOWN   14
#define FRAMES_SHOWN 16

/* Leaf first, as in the other texts: the folded text is taken from its end. */
static void stack_text(FILE *to, const char *text, unsigned columns)
{
	const char *end = text + strlen(text), *at;
	size_t shown = 0;

	while (end > text) {
		for (at = end; at > text && at[-1] != ';';)
			at--;
		if (columns && shown++ == FRAMES_SHOWN && at > text) {
			fprintf(to, "       ... up to the root (-v)\n");
			return;
		}
		line_text(to, 7, at, (size_t)(end - at), columns);
		end = at > text ? at - 1 : text;
	}
}

static void sums_text(FILE *to, const struct recording_diff *d, const char *title,
		      const struct changes *c, const struct recording_text_opts *opts)
{
	size_t i, most = opts->verbose ? SIZE_MAX : ROWS_SHOWN;
	char a[32], b[32], change[32];

	for (i = 0; i < c->n && i < most && c->v[i].change; i++) {
		if (!i)
			fprintf(to, "\n%14s %14s %14s  %s\n", "CHANGE", "A", "B", title);
		fprintf(to, "%14s %14s %14s",
			weight_format(change, sizeof(change), d->profile, c->v[i].change),
			weight_format(a, sizeof(a), d->profile, c->v[i].a),
			weight_format(b, sizeof(b), d->profile, c->v[i].b));
		line_text(to, 2, c->v[i].name, strlen(c->v[i].name),
			  opts->verbose ? 0 : opts->columns - 44);
	}
}

static void stacks_text(FILE *to, const struct recording_diff *d,
			const struct recording_text_opts *opts)
{
	char a[32], b[32], change[32];
	size_t i, shown = 0, most = opts->verbose ? SIZE_MAX : STACKS_SHOWN;

	if (!d->report) {
		fprintf(to, "\nStacks cannot be compared: not both moments have them.\n");
		return;
	}
	fprintf(to, "\nSTACKS: %s %s\n", d->profile->kind,
		d->ra == d->rb ? "between the two looks" : "of B's run beside that of A's");
	for (i = 0; i < d->stacks.n && shown < most; i++) {
		const struct change *s = &d->stacks.v[i];

		if (s->change <= 0)
			continue;
		fprintf(to, "\n%3zu. +%s (%s -> %s)\n", ++shown,
			weight_format(change, sizeof(change), d->profile, s->change),
			weight_format(a, sizeof(a), d->profile, s->a),
			weight_format(b, sizeof(b), d->profile, s->b));
		stack_text(to, s->name, opts->verbose ? 0 : opts->columns);
	}
	if (!shown)
		fprintf(to, "  none grew\n");
	sums_text(to, d, "BY PROCESS", &d->processes, opts);
	sums_text(to, d, "BY LIBRARY", &d->libraries, opts);
}

static void side_text(FILE *to, char name, const struct recording *r,
		      const struct recording_look *l, enum unit unit)
{
	const char *pid = recording_target(r, "pid"), *release = recording_target(r, "otp_release");
	char rss[16];

	fprintf(to, "%c  look %u of %zu, %s, process %s (OTP %s), %s\n", name, l->number,
		r->n_looks, l->time, pid ? pid : "?", release ? release : "?",
		unit_format(rss, sizeof(rss), unit, l->rss));
}

void recording_diff_text(FILE *to, const struct recording_diff *d,
			 const struct recording_text_opts *opts)
{
	const struct {
		const char *title;
		const struct changes *changes;
		size_t most;
	} tables[] = {
		{ "ACCOUNT (resident)", &d->accounts, ROWS_SHOWN },
		{ "ALLOCATOR (blocks in use)", &d->allocators, ROWS_SHOWN / 2 },
		{ "ALLOCATOR (carriers)", &d->carriers, ROWS_SHOWN / 2 },
		{ "OWNER (tagged blocks)", &d->owners, ROWS_SHOWN / 2 },
	};
	char a[16], b[16], change[16], line[300];
	size_t i;

	side_text(to, 'A', d->ra, d->la, opts->unit);
	side_text(to, 'B', d->rb, d->lb, opts->unit);
	if (!recording_diff_same(d))
		fprintf(to, "These are two different processes.\n");
	fprintf(to, "%.1f s from A to B, resident %s\n", recording_seconds(d->la, d->lb),
		unit_format_signed(change, sizeof(change), opts->unit,
				   (int64_t)(d->lb->rss - d->la->rss)));
	fputc('\n', to);
	for (i = 0; i < d->n_findings; i++) {
		const struct growth_finding *f = &d->findings[i];

		snprintf(line, sizeof(line), "%s by %s (floor %s): %s", f->what,
			 unit_format(a, sizeof(a), opts->unit, (uint64_t)f->bytes),
			 unit_format(b, sizeof(b), opts->unit, f->floor), f->why);
		paragraph(to, "GREW: ", line, opts->columns);
	}
	if (!d->n_findings)
		fprintf(to, "Nothing grew above its floor.\n");
	for (i = 0; i < sizeof(tables) / sizeof(tables[0]); i++) {
		struct changes_text t = { tables[i].title, "A", "B", opts->unit,
					  tables[i].most,  0,	0,   opts->verbose };

		changes_text(to, tables[i].changes, &t);
	}
	stacks_text(to, d, opts);
}
