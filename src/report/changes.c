/* SPDX-License-Identifier: Apache-2.0 */
#include "report/changes.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "profile/profile.h"

void changes_add(struct changes *c, const char *name, bool is_b, int64_t value)
{
	struct change *v;

	if (c->failed)
		return;
	if (!(c->n & (c->n - 1))) { /* room for the next power of two */
		v = realloc(c->v, (c->n ? c->n * 2 : 1) * sizeof(*v));
		if (!v) {
			c->failed = true;
			return;
		}
		c->v = v;
	}
	v = &c->v[c->n];
	*v = (struct change){ strdup(name), is_b ? 0 : value, is_b ? value : 0, 0 };
	c->failed = !v->name;
	c->n += !c->failed;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct change *)a)->name, ((const struct change *)b)->name);
}

static uint64_t size_of(int64_t change)
{
	return change < 0 ? 0 - (uint64_t)change : (uint64_t)change;
}

static int larger_change(const void *a, const void *b)
{
	const struct change *x = a, *y = b;
	uint64_t p = size_of(x->change), q = size_of(y->change);

	if (p != q)
		return p > q ? -1 : 1;
	if (x->b != y->b)
		return x->b > y->b ? -1 : 1;
	return strcmp(x->name, y->name);
}

int changes_sort(struct changes *c)
{
	size_t i, k = 0;

	if (c->failed)
		return -ENOMEM;
	if (!c->n)
		return 0;
	qsort(c->v, c->n, sizeof(*c->v), by_name);
	for (i = 1; i < c->n; i++)
		if (strcmp(c->v[i].name, c->v[k].name) == 0) {
			c->v[k].a = weight_add(c->v[k].a, c->v[i].a);
			c->v[k].b = weight_add(c->v[k].b, c->v[i].b);
			free(c->v[i].name);
		} else {
			c->v[++k] = c->v[i];
		}
	c->n = k + 1;
	for (i = 0; i < c->n; i++)
		if (__builtin_sub_overflow(c->v[i].b, c->v[i].a, &c->v[i].change))
			c->v[i].change = c->v[i].b > 0 ? INT64_MAX : INT64_MIN;
	qsort(c->v, c->n, sizeof(*c->v), larger_change);
	return 0;
}

void changes_clear(struct changes *c)
{
	size_t i;

	for (i = 0; i < c->n; i++)
		free(c->v[i].name);
	free(c->v);
	memset(c, 0, sizeof(*c));
}

static char *plain(char *buf, size_t size, enum unit unit, int64_t bytes)
{
	return bytes < 0 ? unit_format_signed(buf, size, unit, bytes)
			 : unit_format(buf, size, unit, (uint64_t)bytes);
}

void changes_text(FILE *to, const struct changes *c, const struct changes_text *t)
{
	char a[16], b[16], change[16];
	size_t i, shown = 0;
	int64_t rest = 0;

	for (i = 0; i < c->n; i++) {
		const struct change *v = &c->v[i];
		bool small = size_of(v->change) <= (uint64_t)t->floor &&
			     (!t->large || v->b < 0 || (uint64_t)v->b < t->large);

		if (!t->all && (shown >= t->most || small)) {
			rest = weight_add(rest, v->change);
			continue;
		}
		if (!shown++)
			fprintf(to, "\n%-40s %11s %11s %12s\n", t->title, t->a, t->b, "CHANGE");
		fprintf(to, "%-40.40s %11s %11s %12s\n", v->name,
			plain(a, sizeof(a), t->unit, v->a), plain(b, sizeof(b), t->unit, v->b),
			unit_format_signed(change, sizeof(change), t->unit, v->change));
	}
	if (shown && shown < c->n)
		fprintf(to, "%-40s %11s %11s %12s\n", "others (-v shows all)", "", "",
			unit_format_signed(change, sizeof(change), t->unit, rest));
}

json_t *changes_json(const struct changes *c, const char *name, const char *a, const char *b)
{
	json_t *list = json_array();
	size_t i;

	for (i = 0; i < c->n; i++)
		json_array_append_new(list,
				      json_pack("{s:s,s:I,s:I,s:I}", name, c->v[i].name, a,
						(json_int_t)c->v[i].a, b, (json_int_t)c->v[i].b,
						"change", (json_int_t)c->v[i].change));
	return list;
}
