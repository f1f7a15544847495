/* SPDX-License-Identifier: Apache-2.0 */
#include "report/profile_report.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "report/frame_text.h"
#include "report/profile_report_int.h"
#include "report/units.h"

#define NAMES_MAX  (1u << 22)
#define FRAMES_MAX (1u << 28)
#define CHAIN_MAX  64
#define RUN_MAX	   4 /* equal frames in a row */
#define TEXT_MAX   4400

static uint64_t hash_text(const char *text, unsigned kind)
{
	uint64_t h = 0xcbf29ce484222325ull ^ kind;

	for (; *text; text++)
		h = (h ^ (unsigned char)*text) * 0x100000001b3ull;
	return h ^ h >> 32;
}

int report_reserve(void *array, size_t n, size_t *allocated, size_t more, size_t size, size_t max)
{
	void **v = array, *larger;
	size_t want = *allocated ? *allocated : 64;

	if (n + more <= *allocated)
		return 0;
	if (n + more > max)
		return -E2BIG;
	while (want < n + more)
		want *= 2;
	larger = realloc(*v, want * size);
	if (!larger)
		return -ENOMEM;
	*v = larger;
	*allocated = want;
	return 0;
}

const char *frame_kind_name(enum frame_kind kind)
{
	switch (kind) {
	case FRAME_ERLANG:
		return "Erlang";
	case FRAME_GLUE:
		return "JIT glue";
	case FRAME_ERTS:
		return "ERTS";
	case FRAME_NIF:
		return "NIF or driver";
	case FRAME_LIBC:
		return "libc";
	case FRAME_LIBRARY:
		return "library";
	case FRAME_KERNEL:
		return "kernel";
	case FRAME_LABEL:
		return "process or thread";
	case FRAME_REPEAT:
	case FRAME_CUT:
	case FRAME_JOINED:
		return "marker";
	case FRAME_NATIVE:
		break;
	}
	return "unknown";
}

char *events_text(char *buf, size_t size, const struct profile_report *r)
{
	uint64_t walked = r->events - r->thinned;
	int n = 0;

	*buf = '\0';
	if (walked)
		n = snprintf(buf, size,
			     "%.1f%% of %" PRIu64 " events with a stack reach their root",
			     100.0 * (double)r->complete / (double)walked, walked);
	if (r->thinned && n >= 0 && (size_t)n < size)
		snprintf(buf + n, size - (size_t)n, "%sof %" PRIu64 " only the leaf was taken",
			 n ? "; " : "", r->thinned);
	return buf;
}

char *weight_format(char *buf, size_t size, const struct profile *p, int64_t weight)
{
	if (strcmp(p->unit, "bytes") == 0)
		return weight < 0 ? unit_format_signed(buf, size, UNIT_AUTO, weight)
				  : unit_format(buf, size, UNIT_AUTO, (uint64_t)weight);
	if (strcmp(p->unit, "ns") == 0)
		snprintf(buf, size, "%.2f s", (double)weight / 1e9);
	else
		snprintf(buf, size, "%" PRId64 " %s", weight, p->unit);
	return buf;
}

/* ---- names ---------------------------------------------------------------- */

static int index_names(struct profile_report *r)
{
	struct report_index *x = r->index;
	size_t i, at, n = x->n_names ? x->n_names * 2 : 1024;
	uint32_t *v;

	if (r->n_names < x->n_names / 4 * 3)
		return 0;
	v = calloc(n, sizeof(*v));
	if (!v)
		return -ENOMEM;
	for (i = 0; i < r->n_names; i++) {
		at = hash_text(r->names[i].text, r->names[i].kind) & (n - 1);
		while (v[at])
			at = (at + 1) & (n - 1);
		v[at] = (uint32_t)i + 1;
	}
	free(x->names);
	x->names = v;
	x->n_names = n;
	return 0;
}

static int add_name(struct profile_report *r, const char *text, enum frame_kind kind,
		    const struct symbol *s, uint32_t *out)
{
	struct report_index *x = r->index;
	struct report_name *name;
	size_t at;
	int ret;

	ret = index_names(r);
	if (ret)
		return ret;
	at = hash_text(text, kind) & (x->n_names - 1);
	while (x->names[at]) {
		const struct report_name *known = &r->names[x->names[at] - 1];

		if (known->kind == kind && strcmp(known->text, text) == 0) {
			*out = x->names[at] - 1;
			return 0;
		}
		at = (at + 1) & (x->n_names - 1);
	}
	ret = report_reserve(&r->names, r->n_names, &x->a_names_array, 1, sizeof(*r->names),
			     NAMES_MAX);
	if (ret)
		return ret;
	name = &r->names[r->n_names];
	name->text = strdup(text);
	if (!name->text)
		return -ENOMEM;
	/* borrowed: symbols outlive the report */
	name->file = s ? s->file : NULL;
	name->module = s ? s->module : NULL;
	name->kind = kind;
	*out = (uint32_t)r->n_names++;
	x->names[at] = *out + 1;
	return 0;
}

static void name_of(char *buf, size_t size, const struct frame *f, const struct symbol *s)
{
	switch (f->kind) {
	case FRAME_REPEAT:
		/* Without the count, so that recursions of all depths are one. */
		snprintf(buf, size, "[repeated]");
		return;
	case FRAME_CUT:
		if ((f->addr & 0xff) == FRAME_CUT_THINNED)
			snprintf(buf, size, "[thinned]");
		else
			snprintf(buf, size, "[cut: %s]", frame_cut_name(f->addr));
		return;
	case FRAME_JOINED:
		snprintf(buf, size, "[joined]");
		return;
	default:
		symbol_text(buf, size, s, f->addr);
	}
}

/* ---- stacks --------------------------------------------------------------- */

static int add_frame(struct profile_report *r, const char *text, enum frame_kind kind,
		     const struct symbol *s)
{
	struct report_frame *f;
	uint32_t name;
	int ret;

	ret = report_reserve(&r->frames, r->n_frames, &r->index->a_frames, 1, sizeof(*r->frames),
			     FRAMES_MAX);
	if (!ret)
		ret = add_name(r, text, kind, s, &name);
	if (ret)
		return ret;
	f = &r->frames[r->n_frames++];
	f->name = name;
	f->line = s ? s->line : 0;
	return 0;
}

/* Adds one address: the functions that are inlined into each other there, the
 * outermost first. */
static int add_address(struct profile_report *r, const struct frame *f, const struct symbol *s)
{
	const struct symbol *chain[CHAIN_MAX];
	char text[TEXT_MAX];
	size_t n = 0;
	int ret = 0;

	for (; s && n < CHAIN_MAX; s = s->outer)
		chain[n++] = s;
	if (!n) {
		name_of(text, sizeof(text), f, NULL);
		return add_frame(r, text, f->kind, NULL);
	}
	while (n-- > 0 && !ret) {
		name_of(text, sizeof(text), f, chain[n]);
		ret = add_frame(r, text, chain[n]->kind, chain[n]);
	}
	return ret;
}

static bool has_library(const struct profile_report *r, size_t first, const char *library)
{
	for (; first < r->n_frames; first++) {
		const char *module = r->names[r->frames[first].name].module;

		if (module && strcmp(module, library) == 0)
			return true;
	}
	return false;
}

/* Makes one of recursions that differ in their depth: of more than RUN_MAX equal frames
 * in a row the two nearest to the leaf stay, and a mark. */
static int fold_runs(struct profile_report *r, size_t first)
{
	struct report_frame *v;
	size_t from, to = first, n;
	uint32_t mark;
	int ret = add_name(r, "[repeated]", FRAME_REPEAT, NULL, &mark);

	if (ret)
		return ret;
	v = r->frames;
	for (from = first; from < r->n_frames; from += n) {
		for (n = 1; from + n < r->n_frames && v[from + n].name == v[from].name; n++)
			;
		if (n > RUN_MAX && r->names[v[from].name].kind != FRAME_LABEL) {
			v[to++] = (struct report_frame){ mark, 0 };
			memmove(&v[to], &v[from + n - 2], 2 * sizeof(*v));
			to += 2;
		} else {
			memmove(&v[to], &v[from], n * sizeof(*v));
			to += n;
		}
	}
	r->n_frames = to;
	return 0;
}

static void reverse(struct report_frame *v, size_t n)
{
	size_t i;

	for (i = 0; i < n / 2; i++) {
		struct report_frame f = v[i];

		v[i] = v[n - 1 - i];
		v[n - 1 - i] = f;
	}
}

static int add_stack(struct profile_report *r, const struct profile_stack *s,
		     const struct symbols *symbols, const struct profile_report_opts *opts,
		     bool is_base)
{
	struct report_stack *out;
	size_t first = r->n_frames, i;
	int ret;

	if (opts->process && (!s->label || !strstr(s->label, opts->process)))
		return 0;
	ret = report_reserve(&r->stacks, r->n_stacks, &r->index->a_stacks, 1, sizeof(*r->stacks),
			     UINT32_MAX);
	if (!ret && s->label && s->label[0])
		ret = add_frame(r, s->label, FRAME_LABEL, NULL);
	for (i = s->n; i-- > 0 && !ret;)
		ret = add_address(r, &s->frames[i], symbols_find(symbols, s, i));
	if (!ret)
		ret = fold_runs(r, first);
	if (ret)
		return ret;
	if (opts->library && !has_library(r, first, opts->library)) {
		r->n_frames = first;
		return 0;
	}
	if (opts->invert)
		reverse(r->frames + first, r->n_frames - first);
	out = &r->stacks[r->n_stacks++];
	out->first = first;
	out->n = r->n_frames - first;
	out->weight = opts->gross ? s->gross : s->weight;
	out->gross = s->gross;
	out->count = s->count;
	out->is_base = is_base;
	out->source = s;
	if (is_base) {
		r->base_total = weight_add(r->base_total, out->weight);
		return 0;
	}
	r->total = weight_add(r->total, out->weight);
	r->events += s->count;
	r->complete += s->complete ? s->count : 0;
	r->thinned += profile_stack_thinned(s) ? s->count : 0;
	return 0;
}

/* ---- all of it ------------------------------------------------------------ */

int profile_report_new(const struct profile *p, const struct symbols *symbols,
		       const struct profile_report_opts *opts, struct profile_report **out)
{
	static const struct profile_report_opts none;
	struct profile_report *r = calloc(1, sizeof(*r));
	size_t i;
	int ret = -ENOMEM;

	*out = NULL;
	if (!r)
		return -ENOMEM;
	if (!opts)
		opts = &none;
	r->profile = p;
	r->invert = opts->invert;
	r->gross = opts->gross;
	snprintf(r->title, sizeof(r->title), "%s", opts->title ? opts->title : p->kind);
	r->has_base = opts->base != NULL;
	r->index = calloc(1, sizeof(*r->index));
	if (r->index)
		ret = 0;
	for (i = 0; i < p->n && !ret; i++)
		ret = add_stack(r, &p->stacks[i], symbols, opts, false);
	for (i = 0; opts->base && i < opts->base->n && !ret; i++)
		ret = add_stack(r, &opts->base->stacks[i], opts->base_symbols, opts, true);
	if (!ret)
		ret = report_tree(r);
	if (ret) {
		profile_report_free(r);
		return ret;
	}
	*out = r;
	return 0;
}

void profile_report_free(struct profile_report *r)
{
	size_t i;

	if (!r)
		return;
	for (i = 0; i < r->n_names; i++)
		free((char *)r->names[i].text);
	free(r->names);
	free(r->frames);
	free(r->stacks);
	free(r->nodes);
	if (r->index) {
		free(r->index->names);
		free(r->index->nodes);
	}
	free(r->index);
	free(r);
}
