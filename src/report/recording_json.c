/* SPDX-License-Identifier: Apache-2.0 */
#include "report/recording_view.h"

#include <stdlib.h>
#include <string.h>

static json_t *number(uint64_t v)
{
	return v > INT64_MAX ? json_null() : json_integer((json_int_t)v);
}

static json_t *facts_json(const struct recording_fact *v, size_t n)
{
	json_t *j = json_object();
	size_t i;

	for (i = 0; i < n; i++)
		json_object_set_new(j, v[i].name, json_string(v[i].value));
	return j;
}

/* As target_json() makes it: numbers are numbers. */
json_t *recording_target_json(const struct recording *r)
{
	static const char *const numbers[] = { "pid", "nspid" };
	json_t *j = facts_json(r->target, r->n_target);
	size_t i;

	for (i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
		const char *v = recording_target(r, numbers[i]);

		if (v)
			json_object_set_new(j, numbers[i], json_integer(strtoll(v, NULL, 10)));
	}
	return j;
}

static json_t *looks_json(const struct recording *r)
{
	json_t *list = json_array();
	size_t i;

	for (i = 0; i < r->n_looks; i++) {
		const struct recording_look *l = &r->looks[i];

		json_array_append_new(list, json_pack("{s:i,s:s,s:o,s:b}", "number", (int)l->number,
						      "time", l->time, "rss", number(l->rss),
						      "complete", (int)l->complete));
	}
	return list;
}

static json_t *sums_json(const struct view_profile *p, enum sum_by by, const char *name)
{
	json_t *list = json_array();
	size_t i;

	for (i = 0; i < p->n_by[by]; i++)
		json_array_append_new(list, json_pack("{s:s,s:I}", name, p->by[by][i].text,
						      "weight", (json_int_t)p->by[by][i].weight));
	return list;
}

static json_t *profile_json(const struct view_profile *p)
{
	const struct profile_report *r = p->report;
	json_t *list = json_array();
	size_t i, k;

	for (i = 0; i < r->n_stacks; i++) {
		const struct report_stack *s = &r->stacks[i];
		json_t *frames = json_array();

		for (k = 0; k < s->n; k++) {
			const struct report_frame *f = &r->frames[s->first + k];
			const struct report_name *name = &r->names[f->name];

			if (name->kind != FRAME_LABEL)
				json_array_append_new(frames, json_string(name->text));
		}
		json_array_append_new(list, json_pack("{s:I,s:I,s:o,s:s?,s:b,s:o}", "weight",
						      (json_int_t)s->weight, "gross",
						      (json_int_t)s->gross, "count",
						      number(s->count), "process",
						      s->source->label && *s->source->label
							      ? s->source->label
							      : NULL,
						      "complete", (int)s->source->complete,
						      "frames", frames));
	}
	return json_pack("{s:s,s:s,s:I,s:I,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o}", "kind",
			 p->profile->kind, "unit", p->profile->unit, "total", (json_int_t)r->total,
			 "without_stack", (json_int_t)p->profile->without_stack, "lost_events",
			 number(p->profile->lost_events), "lost_stacks",
			 number(p->profile->lost_stacks), "events", number(r->events),
			 "events_complete", number(r->complete), "events_thinned",
			 number(r->thinned), "by_process", sums_json(p, SUM_PROCESS, "process"),
			 "by_library", sums_json(p, SUM_LIBRARY, "library"), "stacks", list);
}

static json_t *counters_json(const struct recording *r)
{
	json_t *j = json_object();
	size_t i;

	/* in the order of looks: the last one stays */
	for (i = 0; i < r->n_counters; i++)
		json_object_set_new(j, r->counters[i].name, number(r->counters[i].value));
	return j;
}

json_t *recording_json(const struct recording_view *v)
{
	const struct recording *r = v->recording;
	const struct view_profile *p = v->n_profiles ? &v->profiles[0] : NULL;
	json_t *notes = json_array(), *kinds = json_array();
	size_t i;

	for (i = 0; i < r->n_notes; i++)
		json_array_append_new(notes, json_string(r->notes[i].text));
	if (v->why_not[0])
		json_array_append_new(notes, json_string(v->why_not));
	for (i = 0; i < r->n_profiles; i++)
		json_array_append_new(kinds, json_string(r->profiles[i].kind));
	return json_pack(
		"{s:s,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:{s:o,s:o},s:o,s:o,s:O?,s:O?}",
		"schema", "beamray.report/1", "target", recording_target_json(r), "recording",
		facts_json(r->facts, r->n_facts), "looks", looks_json(r), "ledger",
		changes_json(&v->accounts, "account", "first", "last"), "allocators",
		changes_json(&v->allocators, "allocator", "first", "last"), "carriers",
		changes_json(&v->carriers, "allocator", "first", "last"), "owners",
		changes_json(&v->owners, "owner", "first", "last"), "kinds", kinds, "profile",
		p ? profile_json(p) : json_null(), "usage", usage_json(v), "collections",
		subjects_json(&v->collections, "process"), "carriers_made",
		subjects_json(&v->made_carriers, "allocator"), "lost", "events",
		number(p ? p->profile->lost_events : 0), "stacks",
		number(p ? p->profile->lost_stacks : 0), "counters", counters_json(r), "notes",
		notes, "before", v->first, "after", v->last);
}
