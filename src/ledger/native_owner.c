/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whose a block is.
 *
 * A block has an owner because it holds a pointer into a library (a vtable, a
 * callback), or because something that has one points to it. Both can lie, where
 * a recycled block still holds what its last user left: only pointers that are
 * typical carry a name (native_typical.c). What is reachable at all does not
 * depend on this: there every pointer counts.
 *
 * Names spread along typical edges, kind by kind in the order of enum
 * native_evidence. Where two names of equal strength meet, the block belongs to
 * "several", and so does what follows: no name is better than a wrong one.
 *
 * What the VM leads to is asked last: it holds pointers to what NIFs made, and NIFs
 * hold callbacks like enif_free() (without carriers, +Mea min, its data counts together
 * with that of NIFs). But most of what it has of malloc's, megabytes on a JIT, is known to
 * the byte: the list in which it describes its code. That is its own before anybody asks.
 *
 * The loader's link maps hold pointers into every library and are pointed to by
 * each one's data: they carry no name.
 */
#include "ledger/native_int.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "erts/code.h"
#include "target/escape.h"

#define SPARE_OWNERS   64 /* drivers inside the VM */
#define CONTENT_IMAGES 3  /* a block that points into more is the loader's, or a table */
#define LINK_MAP_WORDS 5
#define LESSONS	       40 /* rounds of learning what is typical of an owner */

/* ---- names -------------------------------------------------------------------- */

static bool holds_nif(const struct scan *s, const struct image *im)
{
	size_t i;

	for (i = 0; i < s->natives->n; i++)
		if (s->natives->v[i].nif && image_holds(im, s->natives->v[i].addr))
			return true;
	return false;
}

/* Marks in seen[] what image `i` needs, directly or not. */
static void needed_mark(const struct images *im, size_t i, bool *seen)
{
	const char *const *names;
	size_t k, j, n = image_needed(im->v[i], &names);

	for (k = 0; k < n; k++) {
		size_t len = strlen(names[k]);

		for (j = 0; j < im->n; j++) {
			/* the file behind libz.so.1 is called libz.so.1.2.13 */
			if (seen[j] || strncmp(image_name(im->v[j]), names[k], len) != 0)
				continue;
			seen[j] = true;
			needed_mark(im, j, seen);
		}
	}
}

/* A library that one NIF alone brought speaks for that NIF. */
static int owners_link(struct scan *s)
{
	const struct images *im = s->o->images;
	uint16_t *user = calloc(im->n ? im->n : 1, sizeof(*user));
	bool *seen = calloc(im->n ? im->n : 1, sizeof(*seen));
	size_t i, j;

	if (!user || !seen) {
		free(user);
		free(seen);
		return -ENOMEM;
	}
	for (i = 0; i < im->n; i++) {
		struct owner *o = &s->owners[OWNER_FIRST + i];

		if (o->class == NATIVE_CLASS_LIBRARY)
			continue;
		memset(seen, 0, im->n * sizeof(*seen));
		needed_mark(im, i, seen);
		for (j = 0; j < im->n; j++)
			if (seen[j])
				user[j] = user[j] || o->class == NATIVE_CLASS_VM
						  ? OWNER_SEVERAL
						  : (uint16_t)(OWNER_FIRST + i);
	}
	for (j = 0; j < im->n; j++) {
		struct owner *o = &s->owners[OWNER_FIRST + j];

		o->stands_for = (uint16_t)(OWNER_FIRST + j);
		if (o->class == NATIVE_CLASS_LIBRARY && user[j] >= OWNER_FIRST)
			o->stands_for = user[j];
	}
	free(user);
	free(seen);
	return 0;
}

int owners_make(struct scan *s)
{
	const struct images *im = s->o->images;
	struct image_symbol sym;
	size_t i;

	if (im->n > OWNERS_MAX - OWNER_FIRST - SPARE_OWNERS)
		return -E2BIG;
	s->owners = calloc(OWNER_FIRST + im->n + SPARE_OWNERS, sizeof(*s->owners));
	if (!s->owners)
		return -ENOMEM;
	s->n_owners = OWNER_FIRST + im->n;
	snprintf(s->owners[OWNER_SEVERAL].name, sizeof(s->owners[0].name), "several");
	for (i = 0; i < im->n; i++) {
		struct owner *o = &s->owners[OWNER_FIRST + i];

		o->image = im->v[i];
		escape_string(o->name, sizeof(o->name), image_name(im->v[i]));
		o->class = NATIVE_CLASS_LIBRARY;
		if (im->v[i] == s->o->vm->exe) {
			o->class = NATIVE_CLASS_VM;
			s->vm_owner = (uint16_t)(OWNER_FIRST + i);
		} else if (holds_nif(s, im->v[i])) {
			o->class = NATIVE_CLASS_NIF;
		} else if (image_symbol(im->v[i], "driver_init", &sym)) {
			o->class = NATIVE_CLASS_DRIVER;
		}
	}
	return owners_link(s);
}

static uint16_t owner_named(const struct scan *s, const char *name)
{
	size_t i;

	for (i = OWNER_FIRST; i < s->n_owners; i++)
		if (!strcmp(s->owners[i].name, name))
			return (uint16_t)i;
	return OWNER_NONE;
}

uint16_t owner_of_atom(struct scan *s, uint64_t atom)
{
	char text[1024], library[sizeof(s->owners[0].name)];
	struct owner *o;
	uint16_t found;
	ssize_t len;

	s->o->vm->res = s->l->res;
	len = vm_atom(s->o->vm, atom, text, sizeof(text));
	s->o->vm->res = NULL;
	if (len <= 0 || !strcmp(text, "system"))
		return OWNER_NONE;
	if (natives_library(s->natives, s->o->images, text, library, sizeof(library)) &&
	    (found = owner_named(s, library)))
		return found;
	/* erl_ddll loads driver x from x.so */
	snprintf(library, sizeof(library), "%.80s.so", text);
	found = owner_named(s, library);
	if (!found) {
		snprintf(library, sizeof(library), "%.80s", text);
		found = owner_named(s, library);
	}
	if (found || s->n_owners >= OWNER_FIRST + s->o->images->n + SPARE_OWNERS)
		return found;
	o = &s->owners[s->n_owners];
	snprintf(o->name, sizeof(o->name), "%s", library);
	o->class = NATIVE_CLASS_DRIVER;
	o->stands_for = (uint16_t)s->n_owners;
	return (uint16_t)s->n_owners++;
}

/* ---- who is named by itself --------------------------------------------------------- */

/* <link.h>: l_addr, l_name, l_ld, l_next, l_prev. */
static bool is_link_map(struct scan *s, uint32_t node)
{
	const struct graph *g = &s->g;
	uint64_t w[LINK_MAP_WORDS];
	uint32_t e;

	for (e = g->first[node]; e < g->first[node + 1]; e++) {
		const struct edge *x = &g->edges[e];

		/* l_ld leads to its .dynamic */
		if ((x->word & EDGE_WORD) == 2 && x->target & EDGE_IMAGE)
			break;
		if ((x->word & EDGE_WORD) > 2)
			return false;
	}
	return e < g->first[node + 1] && g->v[node].bytes > sizeof(w) &&
	       scan_peek(s, g->v[node].addr, w, sizeof(w)) &&
	       w[0] == image_bias(s->o->images->v[g->edges[e].target & ~EDGE_IMAGE]);
}

/* The owner of evidence `kind` that the images tell into which `node` points. */
static uint16_t content_owner(const struct scan *s, uint32_t node, enum native_evidence kind)
{
	const struct graph *g = &s->g;
	uint32_t seen[CONTENT_IMAGES + 1], e, n = 0, k;
	uint16_t owner = OWNER_NONE;

	for (e = g->first[node]; e < g->first[node + 1]; e++) {
		const struct edge *x = &g->edges[e];
		const struct owner *o;
		uint16_t is;
		bool counts;

		if (!(x->target & EDGE_IMAGE) || !(x->word & (EDGE_TYPICAL | EDGE_WEAK)))
			continue;
		for (k = 0; k < n && seen[k] != x->target; k++)
			;
		if (k == n) {
			if (n == CONTENT_IMAGES)
				return OWNER_NONE;
			seen[n++] = x->target;
		}
		is = (uint16_t)(OWNER_FIRST + (x->target & ~EDGE_IMAGE));
		o = &s->owners[is];
		counts = kind == NATIVE_CONTENT
				 ? o->class == NATIVE_CLASS_NIF || o->class == NATIVE_CLASS_DRIVER
			 : kind == NATIVE_LIBRARY ? o->class == NATIVE_CLASS_LIBRARY
						  : o->class == NATIVE_CLASS_VM;
		if (!counts)
			continue;
		if (kind == NATIVE_LIBRARY)
			is = o->stands_for;
		if (owner != OWNER_NONE && owner != is)
			return OWNER_NONE;
		owner = is;
	}
	return owner;
}

/* ---- spreading ------------------------------------------------------------------------ */

struct work {
	struct typical t;
	uint32_t *v;
	size_t n, room;
};

static int work_add(struct work *w, struct graph *g, uint32_t node)
{
	w->t.changed[w->t.b.of[node]] = true;
	if (g->v[node].flags & NODE_QUEUED)
		return 0;
	if (w->n == w->room) {
		size_t room = w->room ? w->room * 2 : 4096;
		uint32_t *bigger = realloc(w->v, room * sizeof(*bigger));

		if (!bigger)
			return -ENOMEM;
		w->v = bigger;
		w->room = room;
	}
	g->v[node].flags |= NODE_QUEUED;
	w->v[w->n++] = node;
	return 0;
}

/* Gives `node` an owner if this kind of evidence has a say in it. The stronger wins;
 * of two equally strong none: then it belongs to several, and so does what follows.
 * What a library or the VM leads to is asked only where nobody else was found. */
static int own(struct scan *s, struct work *w, uint32_t node, uint16_t owner, unsigned kind,
	       enum edge_strength strength, bool by_itself)
{
	struct node *n = &s->g.v[node];
	bool weak = strength == EDGE_CARRIES_WEAKLY, was_weak = n->flags & NODE_WEAK;

	if (n->flags & NODE_LOADER)
		return 0;
	if (by_itself && (kind == NATIVE_DATA || kind == NATIVE_VM) &&
	    (n->owner == owner || n->owner == OWNER_NONE))
		n->flags |= NODE_ROOTED;
	if (n->owner == owner && n->flags & NODE_ROOTED && !was_weak)
		return by_itself ? work_add(w, &s->g, node) : 0;
	if (n->owner != OWNER_NONE && n->evidence == NATIVE_VM && !was_weak)
		return 0;
	if (n->owner != OWNER_NONE) {
		bool replaces = was_weak && !weak && (n->evidence == kind || kind <= NATIVE_TAG);
		bool clashes = weak == was_weak && (n->evidence == kind || kind <= NATIVE_TAG) &&
			       !(n->flags & NODE_SEED && !by_itself);

		if (!replaces && (!clashes || n->owner == owner || n->owner == OWNER_SEVERAL))
			return 0;
		if (!replaces) {
			owner = OWNER_SEVERAL;
			kind = n->evidence;
		}
	}
	n->owner = owner;
	n->evidence = kind;
	n->flags = (n->flags & ~NODE_WEAK & NODE_FLAGS) | (weak ? NODE_WEAK : 0) |
		   (by_itself ? NODE_SEED : 0);
	return work_add(w, &s->g, node);
}

static int spread(struct scan *s, struct work *w, unsigned kind)
{
	struct graph *g = &s->g;
	int ret = 0;

	while (w->n && !ret) {
		uint32_t from = w->v[--w->n], e;

		g->v[from].flags &= ~NODE_QUEUED & NODE_FLAGS;
		for (e = g->first[from]; e < g->first[from + 1] && !ret; e++) {
			enum edge_strength strength;

			if (g->edges[e].target & EDGE_IMAGE)
				continue;
			strength = typical_edge(&w->t, from, &g->edges[e]);
			if (strength == EDGE_CARRIES && g->v[from].flags & NODE_WEAK)
				strength = EDGE_CARRIES_WEAKLY;
			if (strength != EDGE_CARRIES_NOT)
				ret = own(s, w, g->edges[e].target, g->v[from].owner, kind,
					  strength, false);
		}
	}
	return ret;
}

/* Blocks whose content says whose they are. */
static int contents_seed(struct scan *s, struct work *w, enum native_evidence kind)
{
	struct graph *g = &s->g;
	uint32_t i;
	int ret = 0;

	for (i = 0; i < g->n && !ret; i++) {
		uint16_t owner = g->v[i].owner || g->first[i] == g->first[i + 1]
					 ? OWNER_NONE
					 : content_owner(s, i, kind);

		if (owner != OWNER_NONE)
			ret = own(s, w, i, owner, kind, EDGE_CARRIES, true);
	}
	return ret;
}

static int roots_seed(struct scan *s, struct work *w, enum native_evidence kind)
{
	size_t i;
	int ret = 0;

	for (i = 0; i < s->g.n_seeds && !ret; i++) {
		const struct seed *seed = &s->g.seeds[i];

		if (seed->evidence == kind)
			ret = own(s, w, seed->node,
				  kind == NATIVE_LIBRARY ? s->owners[seed->owner].stands_for
							 : seed->owner,
				  kind, seed->weak ? EDGE_CARRIES_WEAKLY : EDGE_CARRIES, true);
	}
	return ret;
}

/* From the seeds on, in rounds: what is typical of an owner's blocks shows when
 * there are some. */
static int kind_spread(struct scan *s, struct work *w, enum native_evidence kind)
{
	struct graph *g = &s->g;
	int ret = spread(s, w, kind);
	unsigned round;
	uint32_t i;

	if (kind == NATIVE_LIBRARY || kind == NATIVE_THREAD)
		return ret;
	for (round = 0; round < LESSONS && !ret; round++) {
		int news = typical_learn(&w->t);

		if (news <= 0)
			return news;
		for (i = 0; i < g->n && !ret; i++)
			if (g->v[i].evidence == kind &&
			    (w->t.news[w->t.b.of[i]] || w->t.news[w->t.below[w->t.b.of[i]]]))
				ret = work_add(w, g, i);
		if (!ret)
			ret = spread(s, w, kind);
	}
	return ret;
}

/* What a JIT mallocs to describe its code. It leads nowhere else. */
static int jit_own(struct scan *s)
{
	struct graph *g = &s->g;
	uint64_t *v;
	ssize_t n = code_jit_memory(s->o->vm, &v), i;

	for (i = 0; i < n; i++) {
		uint32_t node = graph_find(g, v[i]);

		if (node == UINT32_MAX || node & EDGE_IMAGE || g->v[node].addr != v[i])
			continue;
		g->v[node].owner = s->vm_owner;
		g->v[node].evidence = NATIVE_VM;
		g->v[node].flags |= NODE_SEED;
	}
	free(v);
	if (n < 0 && n != -ENOMEM)
		native_note(s,
			    "the JIT's description of its code could not be listed: its memory may "
			    "be shown as unknown or as somebody else's");
	return n == -ENOMEM ? -ENOMEM : 0;
}

int owners_spread(struct scan *s)
{
	struct graph *g = &s->g;
	struct work w = { 0 };
	unsigned kind;
	uint32_t i;
	bool *teaches = calloc(OWNERS_MAX + 1, sizeof(*teaches));
	int ret;

	if (!teaches)
		return -ENOMEM;
	for (i = OWNER_FIRST; i < s->n_owners; i++)
		teaches[i] = s->owners[i].class != NATIVE_CLASS_LIBRARY;
	w.t.s = s;
	ret = typical_open(g, teaches, &w.t);
	for (i = 0; i < g->n && !ret; i++)
		if (is_link_map(s, i))
			g->v[i].flags |= NODE_LOADER;
	if (!ret)
		ret = jit_own(s);
	for (kind = NATIVE_CONTENT; kind < NATIVE_EVIDENCES && !ret; kind++) {
		if (kind == NATIVE_CONTENT || kind == NATIVE_LIBRARY || kind == NATIVE_VM)
			ret = contents_seed(s, &w, (enum native_evidence)kind);
		if (!ret)
			ret = roots_seed(s, &w, (enum native_evidence)kind);
		if (!ret)
			ret = kind_spread(s, &w, (enum native_evidence)kind);
	}
	for (i = 0; i < g->n; i++)
		if (g->v[i].owner == s->vm_owner)
			g->v[i].evidence = NATIVE_VM;
	typical_close(&w.t);
	free(teaches);
	free(w.v);
	return ret;
}
