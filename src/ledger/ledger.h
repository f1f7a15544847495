/* SPDX-License-Identifier: Apache-2.0 */
/* The ledger: every resident byte in exactly one account. (ledger.c opens with
 * the page that explains it.) */
#ifndef BEAMRAY_LEDGER_LEDGER_H
#define BEAMRAY_LEDGER_LEDGER_H

#include "ledger/look.h"

#define LEDGER_ACCOUNT_MAX 96

struct ledger_row {
	char account[LEDGER_ACCOUNT_MAX]; /* "vm.used.binary_alloc"; escaped */
	uint64_t bytes;			  /* resident */
	uint64_t whole_pages;		  /* vm.free.*: the part in pages without a used byte */
	uint64_t lazyfree;		  /* at most this much the kernel may take back by itself */
};

/* An allocator type over all its instances. */
struct ledger_allocator {
	const char *name;
	bool alloc_util, enabled;
	size_t instances;
	struct alloc_count mbcs, sbcs, pool; /* the VM's counters, summed */
	/* from the walk; bytes */
	uint64_t carriers, carriers_size; /* found */
	uint64_t used, free;		  /* virtual */
	uint64_t resident, used_resident, free_resident, whole_pages;
};

struct ledger {
	uint64_t rss;		 /* == sum of rows[].bytes; of a quick look the kernel's figure */
	struct ledger_row *rows; /* largest first, "unattributed" last; none of a quick look */
	size_t n;
	uint64_t unattributed;
	uint64_t vanished; /* part of unattributed: unmapped while we looked */

	struct ledger_allocator *allocators;
	size_t n_allocators;
	/* recon_alloc's words, from the VM's counters: bytes */
	uint64_t vm_allocated, vm_used;

	bool complete;	/* false: more than 1% of the bytes could not be read */
	bool unsettled; /* and that, for what is missing came or went while we looked */
	char **notes;	/* sentences, escaped */
	size_t n_notes;
};

int ledger_build(const struct observer *o, const struct look *l, struct ledger **out,
		 struct error *err);
void ledger_free(struct ledger *l);
/* Takes a look and builds its ledger; as often as LEDGER_TRIES times while too much
 * moves for a complete one. A later try that fails leaves the one before. Errors as
 * look_take(), -ENOMEM; *look and *out are NULL then (but see there for -ETIMEDOUT). */
int ledger_take(struct observer *o, const struct look_opts *opts, struct look **look,
		struct ledger **out, struct error *err);
/* The row of an account, or NULL. */
const struct ledger_row *ledger_row(const struct ledger *l, const char *account);
/* Sum of the rows whose account is `prefix` or starts with `prefix` and a dot. */
uint64_t ledger_sum(const struct ledger *l, const char *prefix);

#endif
