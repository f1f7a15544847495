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

static const char *mechanism_words(const char *m)
{
	if (strcmp(m, "libc") == 0)
		return "malloc memory";
	if (strcmp(m, "mmap") == 0)
		return "memory mappings";
	if (strcmp(m, "enif_alloc") == 0)
		return "enif_alloc memory";
	if (strcmp(m, "resource") == 0)
		return "NIF resources";
	if (strcmp(m, "driver_alloc") == 0)
		return "driver_alloc memory";
	if (strcmp(m, "driver_binary") == 0)
		return "driver binaries";
	return "memory";
}

static void headline(const struct page *p, const struct finding *f, char *out, size_t size)
{
	char a[32], b[32];
	const char *s = f->subject;

	unit_format(a, sizeof(a), p->opts->unit, f->bytes);
	unit_format(b, sizeof(b), p->opts->unit, f->grew_bytes);
	switch (f->code) {
	case FINDING_HEALTHY:
		snprintf(out, size, "Healthy: nothing is above its threshold.");
		break;
	case FINDING_VM_DATA:
		if (f->grew_bytes)
			snprintf(out, size, "The node's own data grows: %s by %s, now %s.", s, b,
				 a);
		else
			snprintf(out, size, "The node's own data fills it: %s holds %s.", s, a);
		break;
	case FINDING_VM_FRAGMENTATION:
		snprintf(out, size,
			 "VM fragmentation: %s holds %s that it does not use, in carriers that "
			 "cannot be given back.",
			 s, a);
		break;
	case FINDING_VM_RETAINED:
		snprintf(out, size, "The VM keeps %s for later: %s without a used block.", a, s);
		break;
	case FINDING_NIF_LEAK:
		snprintf(out, size, "A NIF leaks: %s keeps %s of %s that it does not give back.", s,
			 f->grew_bytes ? b : a, mechanism_words(f->mechanism));
		break;
	case FINDING_DRIVER_LEAK:
		snprintf(out, size, "A driver leaks: %s keeps %s of %s.", s, f->grew_bytes ? b : a,
			 mechanism_words(f->mechanism));
		break;
	case FINDING_NATIVE_GROWTH:
		snprintf(out, size, "Native memory grows by %s, through %s, which is no NIF.", b,
			 strcmp(s, "unknown") == 0 ? "a library that was not seen" : s);
		break;
	case FINDING_LIBC_FRAGMENTATION:
		snprintf(out, size, "libc fragmentation: %s holds %s that is free but resident.", s,
			 a);
		break;
	case FINDING_THREAD_STACKS:
		snprintf(out, size, "Thread stacks grow: %s more, %s in all.", b, a);
		break;
	case FINDING_INCONCLUSIVE:
		snprintf(out, size, "Inconclusive: %s is missing.", s);
		break;
	}
}

static void evidence_print(const struct page *p, const struct evidence *e)
{
	char v[48];

	if (strcmp(e->unit, "bytes") == 0)
		unit_format_signed(v, sizeof(v), p->opts->unit, e->value);
	else
		snprintf(v, sizeof(v), "%lld %s", (long long)e->value, e->unit);
	fprintf(p->to, "    %14s  %.60s\n",
		strcmp(e->unit, "bytes") == 0 && e->value >= 0 ? v + 1 : v, e->what);
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
	if (f->owner[0])
		fprintf(p->to, "    owner           %.60s\n", f->owner);
	if (f->grew_bytes && f->bytes_per_s > 0) {
		unit_format(line, sizeof(line), p->opts->unit, (uint64_t)f->bytes_per_s);
		fprintf(p->to, "    %14s  a second\n", line);
	}
	for (i = 0; i < f->n_evidence; i++)
		evidence_print(p, &f->evidence[i]);
	snprintf(line, sizeof(line), "confidence %s: %s", confidence_name(f->confidence), f->why);
	paragraph(p->to, "    ", line, p->opts->columns);
	for (i = 0; i < f->n_stacks && i < 3; i++)
		stack_print(p, f->stacks[i]);
	if (f->n_advice)
		fputc('\n', p->to);
	for (i = 0; i < f->n_advice; i++)
		paragraph(p->to, "    -> ", f->advice[i], p->opts->columns);
	fputc('\n', p->to);
}

void doctor_text(FILE *to, const struct verdict_input *in, const struct verdict *v,
		 const struct doctor_text_opts *opts)
{
	struct page p = { to, in, opts };
	char a[32], b[32], c[32];
	size_t i;

	for (i = 0; i < v->n; i++)
		finding_print(&p, &v->v[i], i + 1, v->n);
	fprintf(to, "%spid %d, OTP %s: resident %s", v->v[0].code == FINDING_HEALTHY ? "\n" : "",
		(int)target_pid(in->o->target), in->o->vm->otp_release,
		unit_format(a, sizeof(a), opts->unit, in->after.ledger->rss));
	if (in->before.ledger)
		fprintf(to, " (%s in %.0f s)",
			unit_format_signed(b, sizeof(b), opts->unit,
					   (int64_t)(in->after.ledger->rss -
						     in->before.ledger->rss)),
			in->seconds);
	fprintf(to, ", erlang:memory(total) %s, unattributed %.1f%%\n",
		unit_format(c, sizeof(c), opts->unit, in->after.look->memory.total),
		in->after.ledger->rss ? 100.0 * (double)in->after.ledger->unattributed /
						(double)in->after.ledger->rss
				      : 0.0);
	if (in->trace.why_missing && !in->trace.growth)
		paragraph(to, "no stacks: ", in->trace.why_missing, opts->columns);
	if (in->trace.growth)
		fprintf(to, "%llu events and stacks lost", (unsigned long long)in->trace.lost);
	if (in->trace.growth && opts->cpu_fraction >= 0)
		fprintf(to, "; probes took %.2f%% of one core", 100 * opts->cpu_fraction);
	if (in->trace.growth)
		fputc('\n', to);
	fprintf(to, "the whole ledger: beamray memory -p %d\n", (int)target_pid(in->o->target));
}
