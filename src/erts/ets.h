/* SPDX-License-Identifier: Apache-2.0 */
/* ETS tables: who owns them, what is in them, by the VM's own counters. (ets.c
 * opens with the page that explains them.) */
#ifndef BEAMRAY_ERTS_ETS_H
#define BEAMRAY_ERTS_ETS_H

#include "erts/vm.h"

enum ets_type { ETS_SET, ETS_BAG, ETS_DUPLICATE_BAG, ETS_ORDERED_SET };
enum ets_protection { ETS_PRIVATE, ETS_PROTECTED, ETS_PUBLIC };
enum ets_write { ETS_WRITE_FALSE, ETS_WRITE_TRUE, ETS_WRITE_AUTO };

struct ets_table {
	uint64_t addr;	 /* DbTable in the target */
	uint64_t name;	 /* atom term */
	uint64_t owner;	 /* pid term */
	uint64_t heir;	 /* pid term; 0: none */
	uint64_t items;	 /* ets:info(T, size) */
	uint64_t bytes;	 /* what ets:info(T, memory) rounds up to words */
	uint32_t ref[3]; /* numbers of its reference, #Ref<0.ref[2].ref[1].ref[0]> */
	bool ref_known;	 /* ... were read */
	bool named;	 /* its id is its name, else that reference */
	bool deleting;	 /* ets:delete/1 has begun: ets:all() does not know it any more, its
			      memory is still being given back */
	bool fixed;	 /* safe_fixtable: nothing is really deleted, a hash does not shrink */
	bool read_concurrency, decentralized_counters, compressed, catree;
	bool approximate; /* its counters were being moved all the time we looked */
	enum ets_type type;
	enum ets_protection protection;
	enum ets_write write_concurrency;
	uint32_t keypos;
};

struct ets_tables {
	struct ets_table *v; /* in the order of the schedulers' rings */
	size_t n;
	size_t torn;	   /* tables that stayed inconsistent while they were in a ring */
	uint64_t expected; /* the schedulers' own count; UINT64_MAX: not known */
};

/* Reads all tables of all schedulers. A table that comes or goes meanwhile is in
 * it or not; nothing of a table that was not there as a whole is. At most 4
 * million tables. Errors: -ENOENT (the schedulers were not found), -ENOMEM,
 * -ESRCH, -ETIMEDOUT. */
int ets_read(struct vm *vm, struct ets_tables **out, struct error *err);
void ets_free(struct ets_tables *t);

/* The words of ets:info/1: "ordered_set", "protected", "auto". */
const char *ets_type_name(enum ets_type t);
const char *ets_protection_name(enum ets_protection p);
const char *ets_write_name(enum ets_write w);
/* What ets:all() calls it: its name, escaped, or "#Ref<0.1.2.3>". */
void ets_id(struct vm *vm, const struct ets_table *t, char *buf, size_t size);

#endif
