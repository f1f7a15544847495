/* SPDX-License-Identifier: Apache-2.0 */
#include "report/recording_report.h"

#include <stdlib.h>
#include <string.h>

#include "target/escape.h"

#define DEPTH_MAX 32

static json_t *number(uint64_t v)
{
	return v > INT64_MAX ? json_null() : json_integer((json_int_t)v);
}

static json_t *text_again(const char *raw, size_t len)
{
	size_t room = len * 4 + 4;
	char *buf = malloc(room);
	json_t *j = NULL;

	if (buf) {
		escape_again(buf, room, raw, len);
		j = json_string(buf);
	}
	free(buf);
	return j;
}

/* A copy in which every string, names included, went through escape_again(). */
static json_t *safe_copy(json_t *from, unsigned depth)
{
	json_t *to, *value;
	const char *name;
	size_t i;

	if (depth > DEPTH_MAX)
		return NULL;
	switch (json_typeof(from)) {
	case JSON_STRING:
		return text_again(json_string_value(from), json_string_length(from));
	case JSON_ARRAY:
		to = json_array();
		json_array_foreach(from, i, value) {
			if (json_array_append_new(to, safe_copy(value, depth + 1)) < 0) {
				json_decref(to);
				return NULL;
			}
		}
		return to;
	case JSON_OBJECT:
		to = json_object();
		json_object_foreach(from, name, value) {
			json_t *safe = text_again(name, strlen(name));
			int ret = safe ? json_object_set_new(to, json_string_value(safe),
							     safe_copy(value, depth + 1))
				       : -1;

			json_decref(safe);
			if (ret < 0) {
				json_decref(to);
				return NULL;
			}
		}
		return to;
	default:
		return json_deep_copy(from);
	}
}

json_t *recording_document_json(const char *text)
{
	json_t *raw = json_loads(text, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, NULL), *safe;

	if (!raw)
		return NULL;
	safe = json_is_object(raw) ? safe_copy(raw, 0) : NULL;
	json_decref(raw);
	return safe;
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

bool recording_counter_at(const struct recording *r, unsigned look, const char *name,
			  uint64_t *value)
{
	bool found = false;
	size_t i;

	for (i = 0; i < r->n_counters; i++)
		if (r->counters[i].look <= look && strcmp(r->counters[i].name, name) == 0) {
			*value = r->counters[i].value;
			found = true;
		}
	return found;
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

static json_t *ledger_json(const struct recording_view *v)
{
	json_t *list = json_array();
	size_t i, n = 0;
	struct account_change *c = account_changes(v->first, v->n_first, v->last, v->n_last, &n);

	for (i = 0; i < n; i++)
		json_array_append_new(list,
				      json_pack("{s:s,s:o,s:o,s:I}", "account", c[i].account,
						"first", number(c[i].a), "last", number(c[i].b),
						"change", (json_int_t)c[i].change));
	free(c);
	return list;
}

static json_t *profile_json(const struct recording_view *v)
{
	const struct profile_report *r = v->report;
	json_t *j, *list;
	size_t i, k;

	if (!r)
		return json_null();
	list = json_array();
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
	j = json_pack("{s:s,s:s,s:I,s:I,s:o}", "kind", v->profile->kind, "unit", v->profile->unit,
		      "total", (json_int_t)r->total, "without_stack",
		      (json_int_t)v->profile->without_stack, "stacks", list);
	return j;
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

json_t *recording_json(const struct recording_view *v, json_t *before, json_t *after)
{
	const struct recording *r = v->recording;
	json_t *notes = json_array();
	size_t i;

	for (i = 0; i < r->n_notes; i++)
		json_array_append_new(notes, json_string(r->notes[i].text));
	if (v->why_not)
		json_array_append_new(notes, json_string(v->why_not));
	return json_pack("{s:s,s:o,s:o,s:o,s:o,s:o,s:{s:o,s:o},s:o,s:o,s:o,s:o}", "schema",
			 "beamray.report/1", "target", recording_target_json(r), "recording",
			 facts_json(r->facts, r->n_facts), "looks", looks_json(r), "ledger",
			 ledger_json(v), "profile", profile_json(v), "lost", "events",
			 number(v->profile ? v->profile->lost_events : 0), "stacks",
			 number(v->profile ? v->profile->lost_stacks : 0), "counters",
			 counters_json(r), "notes", notes, "before", before ? before : json_null(),
			 "after", after ? after : json_null());
}
