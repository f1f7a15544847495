/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ErtsSchedulerData points to its ErtsRunQueue and to what it sleeps on
 * (erl_process.h). A queue's len is what waits in it: processes of all
 * priorities, ports and miscellaneous work; who runs is not in it.
 */
#include "erts/run_queue.h"

#include <errno.h>
#include <string.h>

#define TRIES 4

enum { MAX, HIGH, NORMAL }; /* PRIORITY_*, erl_process.h: the order of prio_info[] */

static const char *state_of(struct vm *vm, const struct scheduler *s)
{
	const struct layout *l = vm->layout;
	uint64_t ssi, flags;

	if (s->process || s->port)
		return "running";
	if (vm_read_field(vm, s->addr, l->ErtsSchedulerData__ssi, &ssi) || !ssi ||
	    vm_read_field(vm, ssi, l->ErtsSchedulerSleepInfo__flags, &flags))
		return NULL;
	if (layout_flag(flags, l->ssi_flg_suspended))
		return "suspended";
	if (layout_flag(flags, l->ssi_flg_sleeping))
		return "sleeping";
	/* Awake and without a process: looks for work, or does the VM's own. */
	return layout_flag(flags, l->ssi_flg_waiting) ? "waiting" : "running";
}

static uint64_t number(struct vm *vm, uint64_t base, struct layout_field f)
{
	uint64_t v;

	return vm_read_field(vm, base, f, &v) ? UINT64_MAX : v;
}

static uint64_t priority_len(struct vm *vm, uint64_t queue, unsigned priority)
{
	const struct layout *l = vm->layout;

	if (!layout_has(l->ErtsRunQueue__procs_prio_info) || !l->size_ErtsRunQueueInfo)
		return UINT64_MAX;
	return number(vm,
		      queue + (uint64_t)l->ErtsRunQueue__procs_prio_info.offset +
			      priority * l->size_ErtsRunQueueInfo,
		      l->ErtsRunQueueInfo__len);
}

/* The module whose NIF is being called: ErlNifEnv -> erl_module_nif -> Module. */
static bool nif_module(struct vm *vm, const struct scheduler *s, uint64_t *atom)
{
	const struct layout *l = vm->layout;
	uint64_t env, nif, module;

	return !vm_read_field(vm, s->addr, l->ErtsSchedulerData__current_nif, &env) && env &&
	       !vm_read_field(vm, env, l->ErlNifEnv__mod_nif, &nif) && nif &&
	       !vm_read_field(vm, nif, l->erl_module_nif__mod, &module) && module &&
	       !vm_read_field(vm, module, l->Module__module, atom);
}

/* What it is at, twice the same; one that never stays with anything has no NIF to show. */
static int activity_read(struct vm *vm, struct scheduler *s, struct run_queue *out)
{
	struct scheduler before;
	unsigned i;
	int ret;

	for (i = 0; i < TRIES; i++) {
		ret = scheduler_runs(vm, s);
		if (ret)
			return ret;
		if (i && s->process == before.process && s->port == before.port)
			return 0;
		before = *s;
		out->state = state_of(vm, s);
		out->in_nif = nif_module(vm, s, &out->nif_module);
	}
	out->in_nif = false;
	return 0;
}

int run_queue_read(struct vm *vm, struct scheduler *s, struct run_queue *out)
{
	const struct layout *l = vm->layout;
	int ret;

	memset(out, 0, sizeof(*out));
	ret = activity_read(vm, s, out);
	if (ret)
		return ret;
	ret = vm_read_field(vm, s->addr, l->ErtsSchedulerData__run_queue, &out->addr);
	if (!ret && !out->addr)
		ret = -ENOENT;
	if (ret)
		return ret;
	out->len = number(vm, out->addr, l->ErtsRunQueue__len);
	out->max = priority_len(vm, out->addr, MAX);
	out->high = priority_len(vm, out->addr, HIGH);
	out->normal = priority_len(vm, out->addr, NORMAL);
	out->ports = number(vm, out->addr, l->ErtsRunQueue__ports_info_len);
	out->reductions = number(vm, out->addr, l->ErtsRunQueue__procs_reductions);
	out->context_switches = number(vm, out->addr, l->ErtsRunQueue__procs_context_switches);
	return 0;
}
