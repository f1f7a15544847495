/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The inside view: who in the VM holds how much, taken beside a look, so that two of
 * them tell whose growth it was. (inside.c says what is counted.)
 */
#ifndef BEAMRAY_LEDGER_INSIDE_H
#define BEAMRAY_LEDGER_INSIDE_H

#include "erts/binary.h"
#include "erts/code.h"
#include "erts/modules.h"
#include "ledger/verdict.h"

enum inside_kind {
	INSIDE_PROCESS,
	INSIDE_BINARY, /* holders of refc binaries: processes, queues, tables, ports */
	INSIDE_ETS,
	INSIDE_KINDS
};

struct inside_holder {
	uint64_t key;	/* pid, or address and name of a table: what makes it the same one */
	uint64_t addr;	/* Process or DbTable */
	uint64_t bytes; /* that it holds of the kind */
	/* of a process: */
	uint64_t queue;		       /* messages that wait */
	uint64_t current, instruction; /* what it runs or waits in: struct process_info */
	uint64_t reductions;
	/* of a holder of binaries: index into inside.binaries->holders */
	uint32_t holder;
};

/* Bytes by name: modules, literals of modules and persistent terms. */
struct inside_name {
	const char *name; /* belongs to modules or terms */
	uint64_t bytes;
	bool module;
};

struct inside {
	struct inside_holder *v[INSIDE_KINDS]; /* sorted by key */
	size_t n[INSIDE_KINDS];
	size_t size;	/* private: room in the list of processes */
	uint64_t atoms; /* number of the next one; UINT64_MAX: unknown */
	struct nif_envs *envs;
	struct binaries *binaries;	/* NULL: not read */
	struct modules *modules;	/* NULL: not read */
	struct persistent_terms *terms; /* NULL: not read */
	struct verdict_owner *owners;
	size_t n_owners;
	double seconds; /* that it took */
};

/* Reads through `look`'s picture. What cannot be read is left out: an owner that is not
 * found is no error. With `before`, those whose part grew most since then are named in
 * owners[]; `code` (NULL: unknown) tells what processes wait in. With `last` it is also
 * asked whose blocks pin carriers, of allocators with much free space. -ENOMEM, -ESRCH, -ETIMEDOUT (then the observer must not be used nor closed
 * any more, and `before` and `look` must stay). */
int inside_take(struct observer *o, const struct look *look, const struct code *code,
		const struct inside *before, bool last, struct inside **out, struct error *err);
void inside_free(struct inside *i);

#endif
