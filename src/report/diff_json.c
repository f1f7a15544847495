/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "report/recording_diff.h"

static json_t *side_json(const struct recording *r, const struct recording_look *l)
{
	return json_pack("{s:o,s:i,s:s,s:I,s:b}", "target", recording_target_json(r), "look",
			 (int)l->number, "time", l->time, "rss", (json_int_t)l->rss, "complete",
			 (int)l->complete);
}

/* "a;b;c" as a list, root first. */
static json_t *frames_json(const char *text)
{
	json_t *list = json_array();

	while (*text) {
		size_t n = strcspn(text, ";");

		json_array_append_new(list, json_stringn(text, n));
		text += n + (text[n] == ';');
	}
	return list;
}

json_t *recording_diff_json(const struct recording_diff *d)
{
	json_t *stacks = d->report ? json_array() : json_null(), *grew = json_array();
	size_t i;

	for (i = 0; i < d->n_findings; i++)
		json_array_append_new(grew,
				      json_pack("{s:s,s:I,s:I,s:s}", "what", d->findings[i].what,
						"bytes", (json_int_t)d->findings[i].bytes, "floor",
						(json_int_t)d->findings[i].floor, "why",
						d->findings[i].why));
	for (i = 0; i < d->stacks.n; i++)
		if (d->stacks.v[i].change)
			json_array_append_new(stacks,
					      json_pack("{s:I,s:I,s:I,s:o}", "change",
							(json_int_t)d->stacks.v[i].change, "a",
							(json_int_t)d->stacks.v[i].a, "b",
							(json_int_t)d->stacks.v[i].b, "frames",
							frames_json(d->stacks.v[i].name)));
	return json_pack("{s:s,s:o,s:o,s:b,s:f,s:I,s:o,s:o,s:o,s:o,s:o,s:s?,s:s?,s:o,s:o,s:o}",
			 "schema", "beamray.diff/1", "a", side_json(d->ra, d->la), "b",
			 side_json(d->rb, d->lb), "same_process", (int)recording_diff_same(d),
			 "seconds", recording_seconds(d->la, d->lb), "change",
			 (json_int_t)(d->lb->rss - d->la->rss), "grew", grew, "ledger",
			 changes_json(&d->accounts, "account", "a", "b"), "allocators",
			 changes_json(&d->allocators, "allocator", "a", "b"), "carriers",
			 changes_json(&d->carriers, "allocator", "a", "b"), "owners",
			 changes_json(&d->owners, "owner", "a", "b"), "kind",
			 d->profile ? d->profile->kind : NULL, "unit",
			 d->profile ? d->profile->unit : NULL, "processes",
			 changes_json(&d->processes, "process", "a", "b"), "libraries",
			 changes_json(&d->libraries, "library", "a", "b"), "stacks", stacks);
}
