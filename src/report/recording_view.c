/* SPDX-License-Identifier: Apache-2.0 */
#include "report/recording_view.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "target/escape.h"

#define DEPTH_MAX 32 /* of a document */

/* ---- documents -------------------------------------------------------------- */

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

json_t *view_document(struct recording *r, unsigned look)
{
	struct error err = { 0 };
	json_t *raw = NULL, *safe = NULL;
	char *text;

	if (recording_document(r, look, &text, &err) != 0)
		return NULL;
	raw = json_loads(text, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, NULL);
	if (json_is_object(raw))
		safe = safe_copy(raw, 0);
	json_decref(raw);
	free(text);
	return safe;
}

/* ---- what changed ------------------------------------------------------------- */

void view_accounts(struct changes *c, const struct recording_row *rows, size_t n, bool is_b)
{
	size_t i;

	for (i = 0; i < n; i++)
		changes_add(c, rows[i].account, is_b,
			    rows[i].bytes > INT64_MAX ? INT64_MAX : (int64_t)rows[i].bytes);
}

static int64_t sum_of(json_t *allocator, const char *what)
{
	static const char *const parts[] = { "mbcs", "sbcs", "mbcs_pool" };
	int64_t sum = 0;
	size_t i;

	for (i = 0; i < 3; i++)
		sum = weight_add(sum, json_integer_value(
					      json_object_get(json_object_get(allocator, parts[i]),
							      what)));
	return sum;
}

void view_allocators(struct changes *blocks, struct changes *carriers, json_t *document, bool is_b)
{
	json_t *one, *all = json_object_get(json_object_get(document, "vm"), "allocators");
	size_t i;

	json_array_foreach(all, i, one) {
		const char *name = json_string_value(json_object_get(one, "name"));

		if (!name)
			continue;
		changes_add(blocks, name, is_b, sum_of(one, "blocks_size"));
		changes_add(carriers, name, is_b, sum_of(one, "carriers_size"));
	}
}

void view_owners(struct changes *c, json_t *document, bool is_b)
{
	json_t *one;
	size_t i;

	json_array_foreach(json_object_get(document, "tags"), i, one) {
		const char *owner = json_string_value(json_object_get(one, "owner"));
		const char *type = json_string_value(json_object_get(one, "type"));
		bool resource = json_is_true(json_object_get(one, "resource"));
		char name[600];

		snprintf(name, sizeof(name), "%s: %s%s", owner ? owner : "?", type ? type : "?",
			 resource ? " (resource)" : "");
		changes_add(c, name, is_b, json_integer_value(json_object_get(one, "bytes")));
	}
}

/* ---- profiles -------------------------------------------------------------------- */

static int finish_profile(struct view_profile *p, struct error *err)
{
	int by;

	for (by = SUM_PROCESS; by <= SUM_FUNCTION; by++) {
		p->by[by] = profile_sums(p->report, (enum sum_by)by, &p->n_by[by]);
		if (!p->by[by])
			return error_set(err, EXIT_INCOMPLETE, -ENOMEM, "Out of memory.");
	}
	return 0;
}

int view_profile_read(struct view_profile *p, struct recording *r, const char *kind, unsigned look,
		      const struct profile_report_opts *opts, struct error *err)
{
	int ret = recording_profile(r, kind, look, &p->profile, &p->symbols, err);

	if (ret < 0)
		return ret;
	ret = profile_report_new(p->profile, p->symbols, opts, &p->report);
	if (ret < 0)
		return error_set(err, EXIT_INCOMPLETE, ret,
				 ret == -ENOMEM ? "Out of memory."
						: "The profile is too large to be reported.");
	return finish_profile(p, err);
}

void view_profile_clear(struct view_profile *p)
{
	int by;

	for (by = SUM_PROCESS; by <= SUM_FUNCTION; by++)
		free(p->by[by]);
	profile_report_free(p->report);
	profile_free(p->profile);
	symbols_free(p->symbols);
	memset(p, 0, sizeof(*p));
}

static int read_one(struct recording_view *v, const char *kind, const struct view_opts *opts,
		    struct error *err)
{
	struct profile_report_opts filter = opts->filter;
	char title[256], process[80], library[80];

	snprintf(title, sizeof(title), "%s: process %s, OTP %s%s%s%s%s", kind,
		 recording_known(v->recording, "pid"), recording_known(v->recording, "otp_release"),
		 filter.process ? "; processes with " : "",
		 filter.process ? escape_string(process, sizeof(process), filter.process) : "",
		 filter.library ? "; stacks through " : "",
		 filter.library ? escape_string(library, sizeof(library), filter.library) : "");
	filter.title = title;
	return view_profile_read(&v->profiles[v->n_profiles++], v->recording, kind, UINT_MAX,
				 &filter, err);
}

static int read_profiles(struct recording_view *v, const struct view_opts *opts, struct error *err)
{
	const struct recording *r = v->recording;
	const char *kind = opts->kind;
	size_t i;
	int ret = 0;

	v->profiles = calloc(r->n_profiles + 1, sizeof(*v->profiles));
	if (!v->profiles)
		return error_set(err, EXIT_INCOMPLETE, -ENOMEM, "Out of memory.");
	if (!kind && (opts->one || !r->n_profiles)) {
		kind = r->n_profiles ? r->profiles[0].kind : "growth";
		for (i = 0; i < r->n_profiles; i++)
			if (strcmp(r->profiles[i].kind, "growth") == 0)
				kind = "growth";
	}
	if (kind) {
		struct error why = { 0 };

		ret = read_one(v, kind, opts, &why);
		if (ret == -ENOENT && opts->ledgers) {
			view_profile_clear(&v->profiles[--v->n_profiles]);
			snprintf(v->why_not, sizeof(v->why_not), "%s", why.text);
			return 0;
		}
		if (ret < 0)
			*err = why;
		return ret;
	}
	for (i = 0; i < r->n_profiles && ret == 0; i++)
		ret = read_one(v, r->profiles[i].kind, opts, err);
	return ret;
}

/* ---- ledgers ----------------------------------------------------------------------- */

static int read_ledgers(struct recording_view *v, const struct view_opts *opts, struct error *err)
{
	struct recording *r = v->recording;
	size_t i, n = opts->history ? r->n_looks : 2;
	int ret = 0;

	n = n > r->n_looks ? r->n_looks : n > VIEW_LEDGERS ? VIEW_LEDGERS : n;
	v->ledgers = calloc(n + 1, sizeof(*v->ledgers));
	if (!v->ledgers)
		return error_set(err, EXIT_INCOMPLETE, -ENOMEM, "Out of memory.");
	for (i = 0; i < n && ret == 0; i++) {
		struct view_ledger *l = &v->ledgers[i];

		l->look = &r->looks[n > 1 ? i * (r->n_looks - 1) / (n - 1) : 0];
		ret = recording_rows(r, l->look->number, &l->rows, &l->n, err);
		v->n_ledgers++;
	}
	return ret;
}

static int compare_ends(struct recording_view *v, struct error *err)
{
	const struct view_ledger *a = v->ledgers, *b = &v->ledgers[v->n_ledgers - 1];

	if (!a->look || !b->look)
		return 0;
	v->first = view_document(v->recording, a->look->number);
	v->last = view_document(v->recording, b->look->number);
	view_accounts(&v->accounts, a->rows, a->n, false);
	view_accounts(&v->accounts, b->rows, b->n, true);
	if (v->first && v->last) {
		view_allocators(&v->allocators, &v->carriers, v->first, false);
		view_allocators(&v->allocators, &v->carriers, v->last, true);
		view_owners(&v->owners, v->first, false);
		view_owners(&v->owners, v->last, true);
	}
	if (changes_sort(&v->accounts) || changes_sort(&v->allocators) ||
	    changes_sort(&v->carriers) || changes_sort(&v->owners))
		return error_set(err, EXIT_INCOMPLETE, -ENOMEM, "Out of memory.");
	return 0;
}

int recording_view_open(struct recording_view *v, const char *path, const struct view_opts *opts,
			struct error *err)
{
	int ret;

	memset(v, 0, sizeof(*v));
	v->filtered = opts->filter.process || opts->filter.library;
	ret = recording_open(path, &v->recording, err);
	if (ret == 0 && opts->ledgers)
		ret = read_ledgers(v, opts, err);
	if (ret == 0 && v->n_ledgers)
		ret = compare_ends(v, err);
	if (ret == 0)
		ret = read_profiles(v, opts, err);
	if (ret == 0)
		ret = recording_subjects(v->recording, "thread", UINT_MAX, &v->threads, err);
	if (ret == 0)
		ret = recording_subjects(v->recording, "cpu", UINT_MAX, &v->processes, err);
	if (ret == 0)
		ret = recording_subjects(v->recording, "gc", UINT_MAX, &v->collections, err);
	if (ret == 0)
		ret = recording_subjects(v->recording, "carriers", UINT_MAX, &v->made_carriers,
					 err);
	return ret;
}

void recording_view_close(struct recording_view *v)
{
	size_t i;

	for (i = 0; i < v->n_ledgers; i++)
		free(v->ledgers[i].rows);
	free(v->ledgers);
	for (i = 0; i < v->n_profiles; i++)
		view_profile_clear(&v->profiles[i]);
	free(v->profiles);
	recording_subjects_free(&v->threads);
	recording_subjects_free(&v->collections);
	recording_subjects_free(&v->made_carriers);
	recording_subjects_free(&v->processes);
	json_decref(v->first);
	json_decref(v->last);
	changes_clear(&v->accounts);
	changes_clear(&v->allocators);
	changes_clear(&v->carriers);
	changes_clear(&v->owners);
	recording_close(v->recording);
	memset(v, 0, sizeof(*v));
}

const char *recording_state(const struct recording *r)
{
	const char *state = recording_fact(r, "state");

	if (state && strcmp(state, "recording") == 0)
		return "not ended: still recording, or killed";
	return state && *state ? state : "?";
}

double recording_seconds(const struct recording_look *a, const struct recording_look *b)
{
	int64_t ns;

	if (__builtin_sub_overflow(b->time_ns, a->time_ns, &ns))
		return 0;
	return (double)ns / 1e9;
}

const char *recording_known(const struct recording *r, const char *name)
{
	const char *text = recording_target(r, name);

	return text && *text ? text : "?";
}
