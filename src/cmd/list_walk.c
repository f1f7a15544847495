/* SPDX-License-Identifier: Apache-2.0 */
/* The walk of all carriers, for those who list what is in them. */
#include "cmd/list.h"

#include <stddef.h>

#define TRIES 4

/* Carriers that came and went between the counters and the walk look like lost
 * ones. On a busy node that happens now and then, and not twice in a row. */
int list_walk(struct list_run *run, const struct carriers_opts *opts, void (*reset)(void *arg),
	      struct allocators **a, struct carriers **c, struct error *err)
{
	struct vm *vm = run->observer->vm;
	int ret = 0, i;

	*a = NULL;
	*c = NULL;
	for (i = 0; i < TRIES && !ret; i++) {
		carriers_free(*c);
		allocators_free(*a);
		*c = NULL;
		*a = NULL;
		if (i && reset)
			reset(opts->arg);
		ret = allocators_read(vm, a, err);
		if (!ret)
			ret = carriers_walk(vm, *a, opts, c, err);
		if (!ret && (*c)->lost_bytes * 100 <= (*c)->bytes)
			break;
	}
	if (!ret) {
		run->listing->torn += (*c)->torn;
		listing_missing(run->listing, (*c)->lost_bytes, (*c)->bytes + (*c)->lost_bytes);
	}
	return ret;
}
