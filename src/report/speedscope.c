/* SPDX-License-Identifier: Apache-2.0 */
/*
 * speedscope's file format: a table of frames, and stacks as lists of indexes
 * into it, root first, with a weight each. Negative weights cannot be shown
 * there; they are left out, and the name of the profile says so.
 *
 * Written piece by piece, since a tree of JSON values of a big profile would
 * take many times its size; jansson makes the strings.
 */
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "report/profile_report.h"

static int put_string(FILE *to, const char *text)
{
	json_t *s = json_string(text);
	int ret;

	if (!s) /* no valid UTF-8, which escaped text always is; or no memory */
		return -ENOMEM;
	ret = json_dumpf(s, to, JSON_ENCODE_ANY | JSON_ENSURE_ASCII);
	json_decref(s);
	return ret ? -EIO : 0;
}

static int put_frames(FILE *to, const struct profile_report *r)
{
	size_t i;
	int ret = 0;

	for (i = 0; i < r->n_names && !ret; i++) {
		fputs(i ? ",\n{\"name\":" : "{\"name\":", to);
		ret = put_string(to, r->names[i].text);
		if (!ret && r->names[i].file) {
			fputs(",\"file\":", to);
			ret = put_string(to, r->names[i].file);
		}
		putc('}', to);
	}
	return ret;
}

static const char *unit_name(const struct profile *p)
{
	if (strcmp(p->unit, "bytes") == 0)
		return "bytes";
	return strcmp(p->unit, "ns") == 0 ? "nanoseconds" : "none";
}

int profile_speedscope(FILE *to, const struct profile_report *r)
{
	char name[sizeof(r->title) + 128], weight[32];
	uint64_t end = 0;
	bool first = true;
	size_t i, j;
	int ret;

	for (i = 0; i < r->n_stacks; i++)
		if (r->stacks[i].weight > 0)
			end += (uint64_t)r->stacks[i].weight;
	snprintf(name, sizeof(name), "%s", r->title);
	if (r->negative)
		snprintf(name, sizeof(name), "%s (%s given back: not shown)", r->title,
			 weight_format(weight, sizeof(weight), r->profile, r->negative));
	fputs("{\"$schema\":\"https://www.speedscope.app/file-format-schema.json\",\n"
	      "\"exporter\":\"beamray\",\"name\":",
	      to);
	ret = put_string(to, name);
	if (ret)
		return ret;
	fputs(",\"activeProfileIndex\":0,\n\"shared\":{\"frames\":[", to);
	ret = put_frames(to, r);
	if (ret)
		return ret;
	fputs("]},\n\"profiles\":[{\"type\":\"sampled\",\"name\":", to);
	ret = put_string(to, name);
	if (ret)
		return ret;
	fprintf(to, ",\"unit\":\"%s\",\"startValue\":0,\"endValue\":%" PRIu64 ",\n\"samples\":[",
		unit_name(r->profile), end);
	for (i = 0; i < r->n_stacks; i++) {
		const struct report_stack *s = &r->stacks[i];

		if (s->weight <= 0)
			continue;
		fputs(first ? "[" : ",\n[", to);
		first = false;
		for (j = 0; j < s->n; j++)
			fprintf(to, j ? ",%" PRIu32 : "%" PRIu32, r->frames[s->first + j].name);
		putc(']', to);
	}
	fputs("],\n\"weights\":[", to);
	first = true;
	for (i = 0; i < r->n_stacks; i++)
		if (r->stacks[i].weight > 0) {
			fprintf(to, first ? "%" PRId64 : ",%" PRId64, r->stacks[i].weight);
			first = false;
		}
	fputs("]}]}\n", to);
	return 0;
}
