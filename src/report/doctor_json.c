/* SPDX-License-Identifier: Apache-2.0 */
#include "report/doctor.h"

#include <string.h>

#include "report/frame_text.h"
#include "report/memory.h"

static json_t *stack_json(const struct verdict_input *in, const struct profile_stack *s)
{
	json_t *j = json_object(), *frames = json_array();
	char line[512];
	size_t i;

	json_object_set_new(j, "weight", json_integer(s->weight));
	json_object_set_new(j, "label", s->label ? json_string(s->label) : json_null());
	json_object_set_new(j, "complete", json_boolean(s->complete));
	for (i = 0; i < s->n; i++)
		json_array_append_new(frames, json_string(frame_text(line, sizeof(line),
								     in->trace.symbols, s, i)));
	json_object_set_new(j, "frames", frames);
	return j;
}

static json_t *finding_json(const struct verdict_input *in, const struct finding *f)
{
	json_t *j = json_object(), *list;
	size_t i;

	json_object_set_new(j, "code", json_string(finding_code_name(f->code)));
	json_object_set_new(j, "subject", json_string(f->subject));
	json_object_set_new(j, "mechanism",
			    f->mechanism[0] ? json_string(f->mechanism) : json_null());
	json_object_set_new(j, "bytes", json_integer((json_int_t)f->bytes));
	json_object_set_new(j, "grew_bytes", json_integer((json_int_t)f->grew_bytes));
	json_object_set_new(j, "bytes_per_s", json_real(f->bytes_per_s));
	json_object_set_new(j, "lost_bytes", json_integer((json_int_t)f->lost_bytes));
	json_object_set_new(j, "kept", json_boolean(f->kept));
	json_object_set_new(j, "rises", json_boolean(f->rises));
	json_object_set_new(j, "grew_until_s",
			    f->grew_until >= 0 ? json_real(f->grew_until) : json_null());
	json_object_set_new(j, "owner", f->owner[0] ? json_string(f->owner) : json_null());
	json_object_set_new(j, "confidence", json_string(confidence_name(f->confidence)));
	json_object_set_new(j, "confidence_reason", json_string(f->why));
	list = json_array();
	for (i = 0; i < f->n_evidence; i++)
		json_array_append_new(list,
				      json_pack("{s:s, s:I, s:s}", "what", f->evidence[i].what,
						"value", (json_int_t)f->evidence[i].value, "unit",
						f->evidence[i].unit));
	json_object_set_new(j, "evidence", list);
	list = json_array();
	for (i = 0; i < f->n_stacks; i++)
		json_array_append_new(list, stack_json(in, f->stacks[i]));
	json_object_set_new(j, "stacks", list);
	list = json_array();
	for (i = 0; i < f->n_advice; i++)
		json_array_append_new(list, json_string(f->advice[i]));
	json_object_set_new(j, "advice", list);
	return j;
}

/* What grew when. */
static json_t *moments_json(const struct verdict_input *in)
{
	json_t *list = json_array();
	size_t i;

	for (i = 0; i < in->n_moments; i++) {
		const struct ledger *g = in->moments[i].ledger;

		json_array_append_new(list,
				      json_pack("{s:f, s:I, s:I, s:I}", "at_s", in->moments[i].at,
						"rss", (json_int_t)g->rss, "native",
						(json_int_t)ledger_sum(g, "native.heap.used") +
							(json_int_t)ledger_sum(g, "native.mmap"),
						"vm_used", (json_int_t)ledger_sum(g, "vm.used")));
	}
	return list;
}

json_t *doctor_json(const struct verdict_input *in, const struct verdict *v,
		    const struct doctor_text_opts *opts)
{
	json_t *doc = json_object(), *findings = json_array(), *lost = json_object(),
	       *overhead = json_object();
	size_t i;

	json_object_set_new(doc, "schema", json_string("beamray.doctor/1"));
	json_object_set_new(doc, "target", target_json(in->o));
	json_object_set_new(doc, "duration_s", json_real(in->seconds));
	json_object_set_new(doc, "before",
			    in->before.look ? memory_json(in->o, in->before.look, in->before.ledger)
					    : json_null());
	json_object_set_new(doc, "after", memory_json(in->o, in->after.look, in->after.ledger));
	for (i = 0; i < v->n; i++)
		json_array_append_new(findings, finding_json(in, &v->v[i]));
	json_object_set_new(doc, "findings", findings);
	json_object_set_new(doc, "cgroup_full_in_s",
			    v->cgroup_full_in >= 0 ? json_real(v->cgroup_full_in) : json_null());
	json_object_set_new(doc, "moments", moments_json(in));
	json_object_set_new(doc, "traced", json_boolean(in->trace.growth));
	json_object_set_new(doc, "not_traced_because",
			    !in->trace.growth && in->trace.why_missing
				    ? json_string(in->trace.why_missing)
				    : json_null());
	json_object_set_new(doc, "malloc_watched_from_s",
			    in->trace.native ? json_real(in->trace.native_from) : json_null());
	json_object_set_new(doc, "scan",
			    in->scan.why[0]   ? json_string(in->scan.why)
			    : in->scan.native ? json_string("done")
					      : json_null());
	json_object_set_new(lost, "events", json_integer((json_int_t)in->trace.lost));
	json_object_set_new(lost, "stacks",
			    json_integer(in->trace.growth
						 ? (json_int_t)in->trace.growth->lost_stacks
						 : 0));
	json_object_set_new(doc, "lost", lost);
	json_object_set_new(overhead, "cpu_fraction",
			    opts->cpu_fraction >= 0 ? json_real(opts->cpu_fraction) : json_null());
	json_object_set_new(overhead, "notice",
			    opts->notice[0] ? json_string(opts->notice) : json_null());
	json_object_set_new(doc, "overhead", overhead);
	return doc;
}
