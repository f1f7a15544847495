// SPDX-License-Identifier: Apache-2.0
/* What the session does for its sets (trace/set.h). */
#include "trace/set.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "trace/session_int.h"

unsigned session_threads(const struct session *s)
{
	return s->threads;
}

struct target *session_target(const struct session *s)
{
	return s->target;
}

struct vm *session_vm(const struct session *s)
{
	return s->vm;
}

struct code *session_code(const struct session *s)
{
	return s->code;
}

struct stacks *session_stacks(const struct session *s)
{
	return s->stacks;
}

unsigned session_role(const struct session *s, uint32_t tid)
{
	return names_role(s->names, tid);
}

const char *set_label(struct set *set, uint64_t process, uint32_t tid)
{
	return names_label(set->session->names, process, tid);
}

uint32_t set_owner(struct set *set, uint64_t stack, uint64_t process, uint32_t tid)
{
	return owner_get(set->session->stacks, stack, process, tid);
}

struct weight *weights_at(struct weights *w, uint32_t owner)
{
	if (owner >= w->n) {
		size_t n = w->n ? w->n : 1024;
		struct weight *v;

		while (n <= owner)
			n *= 2;
		v = realloc(w->v, n * sizeof(*v));
		if (!v)
			return NULL;
		memset(v + w->n, 0, (n - w->n) * sizeof(*v));
		w->v = v;
		w->n = n;
	}
	return &w->v[owner];
}

void weights_free(struct weights *w)
{
	free(w->v);
	w->v = NULL;
	w->n = 0;
}

int set_profile_add(struct set *set, struct profile *p, uint32_t owner, const struct weight *w)
{
	const struct session *s = set->session;
	const struct owner *o = &s->stacks->owners[owner];
	const struct stack *k = stacks_find(s->stacks, o->stack);
	struct frame frames[STACK_FRAMES];

	if (!w->net && !w->gross)
		return 0;
	if (!k) {
		p->without_stack += w->net;
		return 0;
	}
	return profile_add(p, frames, stack_frames(s->stacks, k, frames), o->process, o->tid,
			   names_label(s->names, o->process, o->tid), k->flags & STACK_COMPLETE,
			   w->net, (int64_t)w->gross, w->count);
}

int set_profile_all(struct set *set, struct profile *p, const struct weights *w)
{
	size_t n = set->session->stacks->n_owners;
	int ret = 0;

	for (uint32_t i = 1; !ret && i < n && i < w->n; i++)
		ret = set_profile_add(set, p, i, &w->v[i]);
	return ret;
}
