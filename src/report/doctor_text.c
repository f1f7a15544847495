/* SPDX-License-Identifier: Apache-2.0 */
#include "report/doctor.h"

#include <stdlib.h>
#include <string.h>

#include "report/frame_text.h"
#include "report/paragraph.h"

struct page {
	FILE *to;
	const struct verdict_input *in;
	const struct doctor_text_opts *opts;
};

/* The finding's words with its figures in them. */
static void headline(const struct page *p, const struct finding *f, char *out, size_t size)
{
	const char *w = finding_words(f);
	size_t n = 0;

	for (; *w && n + 1 < size; w++) {
		char number[32];
		const char *put = NULL;

		if (w[0] == '%' && w[1] == 's')
			put = f->subject;
		else if (w[0] == '%' && w[1] == 'b')
			put = unit_format(number, sizeof(number), p->opts->unit, f->bytes);
		else if (w[0] == '%' && w[1] == 'g')
			put = unit_format(number, sizeof(number), p->opts->unit, f->grew_bytes);
		else if (w[0] == '%' && w[1] == 'm')
			put = mechanism_words(f->mechanism);
		else if (w[0] == '%' && w[1] == 'o')
			put = f->owner;
		if (!put) {
			out[n++] = *w;
			continue;
		}
		n += (size_t)snprintf(out + n, size - n, "%s", put);
		if (n >= size)
			n = size - 1;
		w++;
	}
	out[n] = 0;
}

static void evidence_print(const struct page *p, const struct evidence *e)
{
	char v[48], lead[64];
	int n;

	if (strcmp(e->unit, "bytes") == 0)
		unit_format_signed(v, sizeof(v), p->opts->unit, e->value);
	else
		snprintf(v, sizeof(v), "%lld %s", (long long)e->value, e->unit);
	n = snprintf(lead, sizeof(lead), "    %14s  ",
		     strcmp(e->unit, "bytes") == 0 && e->value >= 0 ? v + 1 : v);
	if (n > 0 && (size_t)n < sizeof(lead))
		paragraph(p->to, lead, e->what, p->opts->columns);
}

static void stack_print(const struct page *p, const struct profile_stack *s)
{
	char a[32], line[256];
	size_t i, most = 14;

	fprintf(p->to, "\n    %s through",
		unit_format(a, sizeof(a), p->opts->unit, s->weight > 0 ? (uint64_t)s->weight : 0));
	if (s->label)
		fprintf(p->to, " %.50s", s->label);
	fputc('\n', p->to);
	for (i = 0; i < s->n && i < most; i++)
		fprintf(p->to, "        %.*s\n", (int)p->opts->columns - 8,
			frame_text(line, sizeof(line), p->in->trace.symbols, s, i));
	if (s->n > most)
		fprintf(p->to, "        (%zu more)\n", s->n - most);
}

static void finding_print(const struct page *p, const struct finding *f, size_t number, size_t of)
{
	char line[512], lead[32] = "";
	size_t i;

	headline(p, f, line, sizeof(line));
	if (of > 1)
		snprintf(lead, sizeof(lead), "%zu. ", number);
	paragraph(p->to, lead, line, p->opts->columns);
	if (f->code == FINDING_HEALTHY)
		return;
	fputc('\n', p->to);
	if (f->owner[0] && !strstr(finding_words(f), "%o"))
		fprintf(p->to, "    owner           %.60s\n", f->owner);
	if (finding_grows(f) && f->bytes_per_s > 0) {
		unit_format(line, sizeof(line), p->opts->unit, (uint64_t)f->bytes_per_s);
		fprintf(p->to, "    %14s  a second%s\n", line,
			f->grew_until >= 0 ? " over the whole watch"
			: p->in->n_moments ? ", and it still grows"
					   : "");
	}
	for (i = 0; i < f->n_evidence; i++)
		evidence_print(p, &f->evidence[i]);
	snprintf(line, sizeof(line), "confidence %s: %s", confidence_name(f->confidence), f->why);
	paragraph(p->to, "    ", line, p->opts->columns);
	/* small ones beside a large one say nothing new: the recording has them */
	for (i = 0; i < f->n_stacks && i < 3; i++)
		if (i == 0 || f->stacks[i]->weight * 20 >= f->stacks[0]->weight)
			stack_print(p, f->stacks[i]);
	if (f->n_advice)
		fputc('\n', p->to);
	for (i = 0; i < f->n_advice; i++)
		paragraph(p->to, "    -> ", f->advice[i], p->opts->columns);
	fputc('\n', p->to);
}

/* What two ledgers alone cannot tell has to be said beside "healthy" too. */
static void not_traced(const struct page *p)
{
	char line[640];

	snprintf(line, sizeof(line),
		 "%.300s%sTwo ledgers tell what grew, and whose the tagged blocks are; not who "
		 "calls malloc or mmap, nor what came and went in between.",
		 p->in->trace.why_missing ? p->in->trace.why_missing : "",
		 p->in->trace.why_missing ? ". " : "");
	paragraph(p->to, "not traced: ", line, p->opts->columns);
}

/* How far it is to the limit: not a finding, but what decides how urgent one is. */
static void cgroup_print(const struct page *p, const struct verdict *v)
{
	const struct system_memory *os = &p->in->after.look->os;
	double s = v->cgroup_full_in;
	char used[32], limit[32], left[32], line[320];
	size_t n;

	if (os->cgroup_limit >= SYSTEM_UNLIMITED)
		return;
	n = (size_t)snprintf(line, sizeof(line), "%s of %s used, page cache included; %s left",
			     unit_format(used, sizeof(used), p->opts->unit, os->cgroup_usage),
			     unit_format(limit, sizeof(limit), p->opts->unit, os->cgroup_limit),
			     unit_format(left, sizeof(left), p->opts->unit, os->cgroup_left));
	if (os->cgroup_left < os->cgroup_limit && os->cgroup_usage < os->cgroup_limit &&
	    os->cgroup_left < os->cgroup_limit - os->cgroup_usage)
		n += (size_t)snprintf(line + n, sizeof(line) - n,
				      ", for a limit is shared with other cgroups");
	if (s >= 0)
		snprintf(line + n, sizeof(line) - n,
			 "; if what grows goes on like this, it is full in about %.0f %s",
			 s < 120      ? s
			 : s < 7200   ? s / 60
			 : s < 172800 ? s / 3600
				      : s / 86400,
			 s < 120      ? "s"
			 : s < 7200   ? "min"
			 : s < 172800 ? "h"
				      : "days");
	paragraph(p->to, "cgroup: ", line, p->opts->columns);
}

void doctor_text(FILE *to, const struct verdict_input *in, const struct verdict *v,
		 const struct doctor_text_opts *opts)
{
	struct page p = { to, in, opts };
	char a[32], b[32], c[32], line[256], lead[32];
	size_t i, n;

	if (!v->v)
		return;
	for (i = 0; i < v->n; i++)
		finding_print(&p, &v->v[i], i + 1, v->n);
	if (v->v[0].code == FINDING_HEALTHY)
		fputc('\n', to);
	n = (size_t)snprintf(line, sizeof(line), "OTP %s: resident %s", in->o->vm->otp_release,
			     unit_format(a, sizeof(a), opts->unit, in->after.ledger->rss));
	if (in->before.ledger)
		n += (size_t)snprintf(line + n, sizeof(line) - n, " (%s in %.0f s)",
				      unit_format_signed(b, sizeof(b), opts->unit,
							 (int64_t)(in->after.ledger->rss -
								   in->before.ledger->rss)),
				      in->apart);
	if (in->after.look->memory.total != UINT64_MAX)
		n += (size_t)snprintf(line + n, sizeof(line) - n, ", erlang:memory(total) %s",
				      unit_format(c, sizeof(c), opts->unit,
						  in->after.look->memory.total));
	snprintf(line + n, sizeof(line) - n, ", unattributed %.1f%%",
		 in->after.ledger->rss ? 100.0 * (double)in->after.ledger->unattributed /
						 (double)in->after.ledger->rss
				       : 0.0);
	snprintf(lead, sizeof(lead), "pid %d, ", (int)target_pid(in->o->target));
	paragraph(to, lead, line, opts->columns);
	cgroup_print(&p, v);
	if (!in->before.ledger)
		paragraph(to, "one look: ",
			  "it tells what is used, free and lost; not what grows, nor who makes it "
			  "grow",
			  opts->columns);
	else if (!in->trace.growth)
		not_traced(&p);
	if (in->trace.growth)
		fprintf(to, "%llu events and stacks lost", (unsigned long long)in->trace.lost);
	if (in->trace.growth && opts->cpu_fraction >= 0)
		fprintf(to, "; probes took %.2f%% of one core", 100 * opts->cpu_fraction);
	if (in->trace.growth)
		fputc('\n', to);
	if (opts->notice[0])
		paragraph(to, "within the budget: ", opts->notice, opts->columns);
	if (in->before.ledger && in->scan.why[0])
		paragraph(to, "memory that nobody points to was not looked for: ", in->scan.why,
			  opts->columns);
	fprintf(to, "the whole ledger: beamray memory -p %d\n", (int)target_pid(in->o->target));
}
