/* SPDX-License-Identifier: Apache-2.0 */
#include "report/profile_report.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "report/units.h"

#define NAMES_MAX  (1u << 22)
#define NODES_MAX  (1u << 24)
#define FRAMES_MAX (1u << 28)
#define CHAIN_MAX  64
#define TEXT_MAX   4400

struct report_index {
	uint32_t *names; /* hash of text and kind -> number + 1 */
	size_t n_names, a_names_array;
	uint32_t *nodes; /* hash of parent and name -> number + 1 */
	size_t n_nodes, a_nodes_array;
	size_t a_frames, a_stacks;
};

static uint64_t hash_text(const char *text, unsigned kind)
{
	uint64_t h = 0xcbf29ce484222325ull ^ kind;

	for (; *text; text++)
		h = (h ^ (unsigned char)*text) * 0x100000001b3ull;
	return h ^ h >> 32;
}

static uint64_t hash_pair(uint32_t a, uint32_t b)
{
	uint64_t h = ((uint64_t)a << 32 | b) * 0x9e3779b97f4a7c15ull;

	return h ^ h >> 32;
}

/* Makes the array hold one more; doubles it when full. */
static int reserve(void *array, size_t n, size_t *allocated, size_t more, size_t size, size_t max)
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
	ret = reserve(&r->names, r->n_names, &x->a_names_array, 1, sizeof(*r->names), NAMES_MAX);
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

static void frame_text(char *buf, size_t size, const struct frame *f, const struct symbol *s)
{
	switch (f->kind) {
	case FRAME_REPEAT:
		/* Without the count, so that recursions of all depths are one. */
		snprintf(buf, size, "[repeated]");
		return;
	case FRAME_CUT:
		snprintf(buf, size, "[cut]");
		return;
	case FRAME_JOINED:
		snprintf(buf, size, "[joined]");
		return;
	default:
		break;
	}
	if (!s)
		snprintf(buf, size, "0x%" PRIx64, f->addr);
	else if (s->kind == FRAME_KERNEL)
		s->name ? snprintf(buf, size, "%s_[k]", s->name)
			: snprintf(buf, size, "0x%" PRIx64 "_[k]", s->offset);
	else if (s->name && (s->kind == FRAME_ERLANG || s->kind == FRAME_GLUE || !s->module))
		snprintf(buf, size, "%s", s->name);
	else if (s->name)
		snprintf(buf, size, "%s [%s]", s->name, s->module);
	else if (s->module)
		snprintf(buf, size, "%s+0x%" PRIx64, s->module, s->offset);
	else
		snprintf(buf, size, "0x%" PRIx64, s->offset);
}

/* ---- stacks --------------------------------------------------------------- */

static int add_frame(struct profile_report *r, const char *text, enum frame_kind kind,
		     const struct symbol *s)
{
	struct report_frame *f;
	uint32_t name;
	int ret;

	ret = reserve(&r->frames, r->n_frames, &r->index->a_frames, 1, sizeof(*r->frames),
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
		frame_text(text, sizeof(text), f, NULL);
		return add_frame(r, text, f->kind, NULL);
	}
	while (n-- > 0 && !ret) {
		frame_text(text, sizeof(text), f, chain[n]);
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

static void reverse(struct report_frame *v, size_t n)
{
	size_t i;

	for (i = 0; i < n / 2; i++) {
		struct report_frame f = v[i];

		v[i] = v[n - 1 - i];
		v[n - 1 - i] = f;
	}
}

static int64_t add_sat(int64_t a, int64_t b)
{
	int64_t sum;

	if (!__builtin_add_overflow(a, b, &sum))
		return sum;
	return a > 0 ? INT64_MAX : INT64_MIN;
}

static int add_stack(struct profile_report *r, const struct profile_stack *s,
		     const struct symbols *symbols, const struct profile_report_opts *opts)
{
	struct report_stack *out;
	size_t first = r->n_frames, i;
	int ret;

	if (opts->process && (!s->label || !strstr(s->label, opts->process)))
		return 0;
	ret = reserve(&r->stacks, r->n_stacks, &r->index->a_stacks, 1, sizeof(*r->stacks),
		      UINT32_MAX);
	if (!ret && s->label && s->label[0])
		ret = add_frame(r, s->label, FRAME_LABEL, NULL);
	for (i = s->n; i-- > 0 && !ret;)
		ret = add_address(r, &s->frames[i], symbols_find(symbols, s, i));
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
	out->source = s;
	r->total = add_sat(r->total, out->weight);
	r->events += s->count;
	r->complete += s->complete ? s->count : 0;
	return 0;
}

/* ---- the tree ------------------------------------------------------------- */

static int index_nodes(struct profile_report *r)
{
	struct report_index *x = r->index;
	size_t i, at, n = x->n_nodes ? x->n_nodes * 2 : 1024;
	uint32_t *v;

	if (r->n_nodes < x->n_nodes / 4 * 3)
		return 0;
	v = calloc(n, sizeof(*v));
	if (!v)
		return -ENOMEM;
	for (i = 1; i < r->n_nodes; i++) {
		at = hash_pair(r->nodes[i].parent, r->nodes[i].name) & (n - 1);
		while (v[at])
			at = (at + 1) & (n - 1);
		v[at] = (uint32_t)i + 1;
	}
	free(x->nodes);
	x->nodes = v;
	x->n_nodes = n;
	return 0;
}

static int child(struct profile_report *r, uint32_t parent, uint32_t name, uint32_t *out)
{
	struct report_index *x = r->index;
	struct report_node *node;
	size_t at;
	int ret;

	ret = index_nodes(r);
	if (ret)
		return ret;
	at = hash_pair(parent, name) & (x->n_nodes - 1);
	while (x->nodes[at]) {
		node = &r->nodes[x->nodes[at] - 1];
		if (node->parent == parent && node->name == name) {
			*out = x->nodes[at] - 1;
			return 0;
		}
		at = (at + 1) & (x->n_nodes - 1);
	}
	ret = reserve(&r->nodes, r->n_nodes, &x->a_nodes_array, 1, sizeof(*r->nodes), NODES_MAX);
	if (ret)
		return ret;
	*out = (uint32_t)r->n_nodes++;
	node = &r->nodes[*out];
	memset(node, 0, sizeof(*node));
	node->name = name;
	node->parent = parent;
	node->next_sibling = r->nodes[parent].first_child;
	r->nodes[parent].first_child = *out;
	x->nodes[at] = *out + 1;
	return 0;
}

static int add_to_tree(struct profile_report *r, const struct report_stack *s)
{
	uint32_t at = 0;
	size_t i;
	int ret;

	for (i = 0; i < s->n; i++) {
		ret = child(r, at, r->frames[s->first + i].name, &at);
		if (ret)
			return ret;
	}
	r->nodes[at].self = add_sat(r->nodes[at].self, s->weight);
	r->nodes[at].count += s->count;
	if (s->n > r->depth)
		r->depth = (unsigned)s->n;
	return 0;
}

/* Children come after their parents in nodes[]: one pass from the end sums up. */
static void sum_up(struct profile_report *r)
{
	size_t i;

	for (i = r->n_nodes; i-- > 0;) {
		struct report_node *n = &r->nodes[i];

		n->total = add_sat(n->total, n->self);
		if (n->self > 0)
			n->drawn += (uint64_t)n->self;
		else
			r->negative = add_sat(r->negative, n->self);
		if (i) {
			struct report_node *up = &r->nodes[n->parent];

			up->total = add_sat(up->total, n->total);
			up->drawn += n->drawn;
			up->count += n->count;
		}
	}
}

struct ordered {
	const struct profile_report *r;
	uint32_t node;
};

static int compare_children(const void *a, const void *b)
{
	const struct ordered *x = a, *y = b;
	const struct report_node *m = &x->r->nodes[x->node], *n = &y->r->nodes[y->node];

	if (m->drawn != n->drawn)
		return m->drawn > n->drawn ? -1 : 1;
	if (m->total != n->total)
		return m->total > n->total ? -1 : 1;
	return strcmp(x->r->names[m->name].text, x->r->names[n->name].text);
}

/* Largest child first; equal ones by name, so that the same profile always makes
 * the same document. */
static int sort_children(struct profile_report *r)
{
	struct ordered *v = NULL;
	size_t allocated = 0, i, n, k;
	uint32_t c;
	int ret;

	for (i = 0; i < r->n_nodes; i++) {
		n = 0;
		for (c = r->nodes[i].first_child; c; c = r->nodes[c].next_sibling) {
			ret = reserve(&v, n, &allocated, 1, sizeof(*v), UINT32_MAX);
			if (ret) {
				free(v);
				return ret;
			}
			v[n].r = r;
			v[n++].node = c;
		}
		if (n < 2)
			continue;
		qsort(v, n, sizeof(*v), compare_children);
		r->nodes[i].first_child = v[0].node;
		for (k = 0; k < n; k++)
			r->nodes[v[k].node].next_sibling = k + 1 < n ? v[k + 1].node : 0;
	}
	free(v);
	return 0;
}

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
	r->index = calloc(1, sizeof(*r->index));
	if (r->index)
		ret = reserve(&r->nodes, 0, &r->index->a_nodes_array, 1, sizeof(*r->nodes),
			      NODES_MAX);
	if (!ret) {
		memset(&r->nodes[0], 0, sizeof(r->nodes[0]));
		r->n_nodes = 1;
	}
	for (i = 0; i < p->n && !ret; i++)
		ret = add_stack(r, &p->stacks[i], symbols, opts);
	for (i = 0; i < r->n_stacks && !ret; i++)
		ret = add_to_tree(r, &r->stacks[i]);
	if (!ret) {
		sum_up(r);
		ret = sort_children(r);
	}
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
