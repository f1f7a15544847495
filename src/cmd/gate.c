/* SPDX-License-Identifier: Apache-2.0 */
#include "cmd/gate.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static int gate_parse(struct gate *g, const char *text, size_t len)
{
	const char *eq = memchr(text, '=', len);
	size_t name = eq ? (size_t)(eq - text) : 0, i;

	memset(g, 0, sizeof(*g));
	if (!name || name >= sizeof(g->name))
		return -EINVAL;
	memcpy(g->name, text, name);
	/* accounts are words with dots; that keeps typing errors out of a test's rules */
	for (i = 0; i < name; i++)
		if (!strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-+",
			    g->name[i]))
			return -EINVAL;
	if (strcmp(g->name, "native") != 0 && strcmp(g->name, "vm") != 0 &&
	    strcmp(g->name, "rss") != 0 && strncmp(g->name, "vm.", 3) != 0 &&
	    strncmp(g->name, "native.", 7) != 0 && strncmp(g->name, "image.", 6) != 0 &&
	    strcmp(g->name, "file") != 0 && strcmp(g->name, "shared") != 0 &&
	    strcmp(g->name, "unattributed") != 0)
		return -EINVAL;
	return bytes_parse(eq + 1, len - name - 1, &g->most) ? 0 : -EINVAL;
}

int option_gate(void *to, const char *arg, struct error *err)
{
	struct gates *g = to;

	while (*arg) {
		size_t len = strcspn(arg, ",");

		if (g->n == GATES_MAX || gate_parse(&g->v[g->n], arg, len) < 0)
			return error_set(err, EXIT_USAGE, -EINVAL,
					 "--gate takes NAME=SIZE, such as native=64K or "
					 "vm.used.ets_alloc=1M; NAME is native, vm, rss or an "
					 "account of `beamray memory`");
		g->n++;
		arg += len;
		if (*arg == ',')
			arg++;
	}
	return g->n ? 0 : error_set(err, EXIT_USAGE, -EINVAL, "--gate needs a rule");
}

static int64_t grew(const struct verdict_input *in, const char *account)
{
	return (int64_t)(ledger_sum(in->after.ledger, account) -
			 ledger_sum(in->before.ledger, account));
}

/* Blocks that the VM's allocators hold for NIFs and drivers, by their findings. */
static int64_t tagged(const struct verdict *v)
{
	int64_t sum = 0;
	size_t i;

	for (i = 0; i < v->n; i++)
		if ((v->v[i].code == FINDING_NIF_LEAK || v->v[i].code == FINDING_DRIVER_LEAK) &&
		    strcmp(v->v[i].mechanism, "libc") != 0 &&
		    strcmp(v->v[i].mechanism, "mmap") != 0)
			sum += (int64_t)v->v[i].grew_bytes;
	return sum;
}

unsigned gates_judge(struct gates *g, const struct verdict_input *in, const struct verdict *v)
{
	unsigned closed = 0;
	size_t i;

	for (i = 0; i < g->n; i++) {
		struct gate *k = &g->v[i];

		if (!in->before.ledger)
			continue;
		if (strcmp(k->name, "rss") == 0)
			k->grew = (int64_t)(in->after.ledger->rss - in->before.ledger->rss);
		else if (strcmp(k->name, "native") == 0)
			k->grew = grew(in, "native.heap.used") + grew(in, "native.mmap") +
				  grew(in, "native.stack") + tagged(v);
		else if (strcmp(k->name, "vm") == 0)
			k->grew = grew(in, "vm.used") + grew(in, "vm.code");
		else
			k->grew = grew(in, k->name);
		k->closed = k->grew > 0 && (uint64_t)k->grew > k->most;
		closed += k->closed;
	}
	return closed;
}

void gates_floor(const struct gates *g, struct verdict_opts *o)
{
	size_t i;

	for (i = 0; i < g->n; i++) {
		uint64_t most = g->v[i].most > 4096 ? g->v[i].most : 4096;

		if (strncmp(g->v[i].name, "native", 6) == 0 && most < o->native_floor)
			o->native_floor = most;
		if (strncmp(g->v[i].name, "vm", 2) == 0 && most < o->vm_floor) {
			o->vm_floor = most;
			o->vm_ratio = 0;
		}
	}
}
