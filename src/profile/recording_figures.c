/* SPDX-License-Identifier: Apache-2.0 */
/* Figures of a recording: the tables of what was counted by process, allocator and so on. */
#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "profile/recording_schema.h"

#define SUBJECTS_MAX (1u << 20)
#define ROWS_MAX     (1u << 24)

static bool name_good(const char *name)
{
	size_t n = strlen(name);

	return n > 0 && n < sizeof(((struct recording_figure *)0)->name) && name[0] >= 'a' &&
	       name[0] <= 'z' && strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_.") == n;
}

/* The figures as they are written: one object of numbers. */
static int figures_parse(const char *text, struct recording_subject *s)
{
	json_t *doc = json_loads(text, JSON_REJECT_DUPLICATES, NULL), *value;
	size_t n = doc && json_is_object(doc) ? json_object_size(doc) : 0;
	const char *name;
	int ret = -EINVAL;

	if (!doc || !json_is_object(doc) || n > RECORDING_FIGURES_MAX)
		goto out;
	ret = -ENOMEM;
	s->v = calloc(n ? n : 1, sizeof(*s->v));
	if (!s->v)
		goto out;
	ret = 0;
	json_object_foreach(doc, name, value) {
		if (!name_good(name) || !json_is_integer(value) || json_integer_value(value) < 0) {
			ret = -EINVAL;
			break;
		}
		strcpy(s->v[s->n].name, name);
		s->v[s->n++].value = (uint64_t)json_integer_value(value);
	}
out:
	json_decref(doc);
	return ret;
}

static void subject_free(struct recording_subject *s)
{
	free(s->text);
	free(s->v);
	memset(s, 0, sizeof(*s));
}

/* One row; the later one of a subject takes the place of the earlier. */
static int subject_add(struct recording_subjects *out, struct rows *w)
{
	struct recording_subject s = { 0 };
	char *figures = NULL;
	int ret = rows_text(w, 1, &s.text);

	if (ret == 0)
		ret = rows_text(w, 3, &figures);
	if (ret == 0 && (!s.text || !figures))
		ret = -EINVAL;
	if (ret == 0)
		ret = figures_parse(figures, &s);
	s.look = (unsigned)rows_int(w, 2);
	free(figures);
	if (ret == 0 && out->n && strcmp(out->v[out->n - 1].text, s.text) == 0) {
		subject_free(&out->v[out->n - 1]);
		out->v[out->n - 1] = s;
		return 0;
	}
	if (ret == 0 && out->n >= SUBJECTS_MAX)
		ret = -EINVAL;
	if (ret == 0)
		ret = rows_room(&out->v, out->n, sizeof(*out->v));
	if (ret == 0)
		out->v[out->n++] = s;
	else
		subject_free(&s);
	return ret;
}

int recording_subjects(struct recording *r, const char *kind, unsigned number,
		       struct recording_subjects *out, struct error *err)
{
	struct rows w;
	int ret;

	memset(out, 0, sizeof(*out));
	if (r->db->tables <= RECORDING_TABLES_1)
		return 0;
	ret = rows_open(r, &w, "figure", "WHERE look <= ?1 ORDER BY kind, subject, look", number, 0,
			ROWS_MAX, err);
	while (ret == 0 && (ret = rows_next(&w)) == 1) {
		char is[32];

		rows_text_in(&w, 0, is, sizeof(is));
		ret = strcmp(is, kind) == 0 ? subject_add(out, &w) : 0;
		if (ret == -EINVAL)
			ret = recording_damaged(r, "its figures are not numbers with names", err);
	}
	rows_close(&w);
	if (ret < 0)
		recording_subjects_free(out);
	return ret;
}

void recording_subjects_free(struct recording_subjects *s)
{
	for (size_t i = 0; i < s->n; i++)
		subject_free(&s->v[i]);
	free(s->v);
	memset(s, 0, sizeof(*s));
}

uint64_t recording_figure(const struct recording_subject *s, const char *name)
{
	for (size_t i = 0; i < s->n; i++)
		if (strcmp(s->v[i].name, name) == 0)
			return s->v[i].value;
	return 0;
}
