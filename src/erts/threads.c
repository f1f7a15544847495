/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The VM's scheduler threads.
 *
 * erts_aligned_scheduler_data points to an array, one element a normal
 * scheduler; the dirty ones have an array of their own, dirty io behind dirty
 * cpu. Nothing says in one place how long they are: an element is one while its
 * number and type are those of its place and its tid leads to a thread, whose
 * control block begins with its own address (x86-64 ABI; glibc and musl).
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "erts/carrier.h"

#define SCHEDULERS_MAX 1024 /* ERTS_MAX_NO_OF_SCHEDULERS; dirty kinds have the same limit */

static const struct {
	enum anchor_id id;
	const char *role;
} kinds[] = {
	{ A_SCHEDULER_DATA, "scheduler" },
	{ A_DIRTY_CPU_SCHEDULER_DATA, "dirty cpu" },
	{ A_DIRTY_IO_SCHEDULER_DATA, "dirty io" },
};

/* The pthread_t of element `i` of kind `kind` (ErtsSchedType), 0 if it is none. */
static uint64_t scheduler_thread(struct vm *vm, uint64_t esd, unsigned kind, unsigned i)
{
	const struct layout *l = vm->layout;
	struct layout_field number = kind ? l->ErtsSchedulerData__dirty_no
					  : l->ErtsSchedulerData__no;
	uint64_t no, type, tid, self;

	if (vm_read_field(vm, esd, number, &no) || no != i + 1 ||
	    vm_read_field(vm, esd, l->ErtsSchedulerData__type, &type) || type != kind ||
	    vm_read_field(vm, esd, l->ErtsSchedulerData__tid, &tid) || !tid ||
	    vm_read_u64(vm, tid, &self) || self != tid)
		return 0;
	return tid;
}

ssize_t vm_threads_read(struct vm *vm, struct vm_thread **out)
{
	uint64_t stride = vm->layout->size_ErtsAlignedSchedulerData;
	struct vm_thread *v = NULL;
	size_t n = 0;

	*out = NULL;
	if (!stride)
		return -ENOENT;
	for (unsigned k = 0; k < sizeof(kinds) / sizeof(kinds[0]); k++) {
		uint64_t array, addr = vm->anchors.v[kinds[k].id].addr;

		if (!addr || vm_read_u64(vm, addr, &array) || !array)
			continue;
		for (unsigned i = 0; i < SCHEDULERS_MAX; i++) {
			uint64_t tid = scheduler_thread(vm, array + i * stride, k, i);
			struct vm_thread *bigger;

			if (!tid)
				break;
			bigger = realloc(v, (n + 1) * sizeof(*v));
			if (!bigger) {
				free(v);
				return -ENOMEM;
			}
			v = bigger;
			v[n].pthread = tid;
			snprintf(v[n].role, sizeof(v[n].role), "%s %u", kinds[k].role, i + 1);
			n++;
		}
	}
	*out = v;
	return (ssize_t)n;
}
