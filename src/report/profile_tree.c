/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Stacks merged from the root on, and sums over the merged tree.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "report/profile_report_int.h"

#define NODES_MAX (1u << 24)

static uint64_t hash_pair(uint32_t a, uint32_t b)
{
	uint64_t h = ((uint64_t)a << 32 | b) * 0x9e3779b97f4a7c15ull;

	return h ^ h >> 32;
}

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
	ret = report_reserve(&r->nodes, r->n_nodes, &x->a_nodes_array, 1, sizeof(*r->nodes),
			     NODES_MAX);
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
	if (s->is_base) {
		r->nodes[at].base_self = weight_add(r->nodes[at].base_self, s->weight);
	} else {
		r->nodes[at].self = weight_add(r->nodes[at].self, s->weight);
		r->nodes[at].count += s->count;
	}
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

		int64_t larger = n->self > n->base_self ? n->self : n->base_self;

		n->total = weight_add(n->total, n->self);
		n->base_total = weight_add(n->base_total, n->base_self);
		if (larger > 0)
			n->drawn += (uint64_t)larger;
		if (n->self < 0)
			r->negative = weight_add(r->negative, n->self);
		if (i) {
			struct report_node *up = &r->nodes[n->parent];

			up->total = weight_add(up->total, n->total);
			up->base_total = weight_add(up->base_total, n->base_total);
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
			ret = report_reserve(&v, n, &allocated, 1, sizeof(*v), UINT32_MAX);
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

int report_tree(struct profile_report *r)
{
	size_t i;
	int ret;

	ret = report_reserve(&r->nodes, 0, &r->index->a_nodes_array, 1, sizeof(*r->nodes),
			     NODES_MAX);
	if (ret)
		return ret;
	memset(&r->nodes[0], 0, sizeof(r->nodes[0]));
	r->n_nodes = 1;
	for (i = 0; i < r->n_stacks && !ret; i++)
		ret = add_to_tree(r, &r->stacks[i]);
	if (ret)
		return ret;
	sum_up(r);
	return sort_children(r);
}

void report_path(FILE *to, const struct profile_report *r, uint32_t node, uint32_t *path)
{
	const char *text;
	size_t n = 0;

	for (; node; node = r->nodes[node].parent)
		path[n++] = r->nodes[node].name;
	while (n-- > 0) {
		/* ";" would end a name; it is written as unprintable bytes are. */
		for (text = r->names[path[n]].text; *text; text++)
			if (*text == ';')
				fputs("\\x3B", to);
			else
				putc(*text, to);
		if (n)
			putc(';', to);
	}
}

/* ---- sums ----------------------------------------------------------------- */

static const char *process_of(const struct profile_report *r, uint32_t node)
{
	for (; node; node = r->nodes[node].parent)
		if (r->names[r->nodes[node].name].kind == FRAME_LABEL)
			return r->names[r->nodes[node].name].text;
	return "(no process)";
}

/* libc works for whoever called it, and the runtime for everyone. */
static const char *library_of(const struct profile_report *r, uint32_t node)
{
	const char *runtime = NULL, *library = NULL;

	for (; node; node = r->nodes[node].parent) {
		const struct report_name *name = &r->names[r->nodes[node].name];

		if (!name->module)
			continue;
		/* an inverted tree has the leaf at its root: there the last one is nearest */
		if ((name->kind == FRAME_NIF || name->kind == FRAME_LIBRARY) &&
		    (!library || r->invert))
			library = name->module;
		if (name->kind == FRAME_ERTS)
			runtime = name->module;
	}
	return library ? library : runtime ? runtime : "(no native code)";
}

static const char *leaf_of(const struct profile_report *r, uint32_t node)
{
	if (!node)
		return "(no frame)";
	while (r->invert && r->nodes[node].parent)
		node = r->nodes[node].parent;
	return r->names[r->nodes[node].name].text;
}

static int sum_by_text(const void *a, const void *b)
{
	return strcmp(((const struct profile_sum *)a)->text, ((const struct profile_sum *)b)->text);
}

static int sum_by_weight(const void *a, const void *b)
{
	const struct profile_sum *x = a, *y = b;
	double p = (double)x->weight - (double)x->base, q = (double)y->weight - (double)y->base;

	if (p != q)
		return p > q ? -1 : 1;
	return strcmp(x->text, y->text);
}

struct profile_sum *profile_sums(const struct profile_report *r, enum sum_by by, size_t *n)
{
	struct profile_sum *v = calloc(r->n_nodes + 1, sizeof(*v));
	size_t i, all = 0, k = 0;

	*n = 0;
	if (!v)
		return NULL;
	for (i = 0; i < r->n_nodes; i++) {
		const struct report_node *node = &r->nodes[i];
		uint32_t at = (uint32_t)i;

		if (!node->self && !node->base_self)
			continue;
		v[all++] = (struct profile_sum){
			by == SUM_PROCESS   ? process_of(r, at)
			: by == SUM_LIBRARY ? library_of(r, at)
					    : leaf_of(r, at),
			node->self,
			node->base_self,
		};
	}
	if (!all)
		return v;
	qsort(v, all, sizeof(*v), sum_by_text);
	for (i = 1; i < all; i++)
		if (strcmp(v[i].text, v[k].text) == 0) {
			v[k].weight = weight_add(v[k].weight, v[i].weight);
			v[k].base = weight_add(v[k].base, v[i].base);
		} else {
			v[++k] = v[i];
		}
	*n = k + 1;
	qsort(v, *n, sizeof(*v), sum_by_weight);
	return v;
}
