/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What process_info/2 says of a process, read from outside.
 * (process_info.c opens with the page that explains where it comes from.)
 */
#ifndef BEAMRAY_ERTS_PROCESS_INFO_H
#define BEAMRAY_ERTS_PROCESS_INFO_H

#include "erts/process.h"

/* Words are eight bytes. UINT64_MAX: this release has no such thing, or it could
 * not be read (then `approximate` is set). */
struct process_info {
	struct process p;
	const char *status; /* as process_info(P, status): "waiting" ...; static text */
	const char *priority;
	bool dirty; /* runs on a dirty scheduler */
	bool trap_exit, off_heap_messages;
	uint64_t reductions; /* up to the last time it was scheduled out */

	/* heap: words */
	uint64_t heap_size, total_heap_size, stack_size;	     /* process_info */
	uint64_t heap_used, old_heap_size, old_heap_used, mbuf_size; /* garbage_collection_info */
	uint64_t bin_vheap_size, bin_vheap_block_size, bin_old_vheap_size, bin_old_vheap_block_size;
	uint64_t min_heap_size, min_bin_vheap_size, max_heap_size, fullsweep_after, minor_gcs;
	bool max_heap_kill, max_heap_log;
	const char *gc; /* what its flags say of its collector, "" or static text */

	uint64_t memory; /* bytes: process_info(P, memory); a lower bound if approximate */

	/* message queue: all of inner, middle and in-queues */
	uint64_t message_queue_len;
	uint64_t message_bytes;	   /* bytes of messages outside of the process's heap */
	uint64_t messages_in_heap; /* messages whose data is (no more than) in its heap */
	uint64_t signals;	   /* that are no messages and wait to be handled */

	uint64_t binaries,
		binary_bytes; /* process_info(P, binary): references and bytes behind them */
	uint64_t links, monitors, monitored_by;
	uint64_t dictionary_entries;

	uint64_t group_leader, parent; /* terms; 0: none, or not of this node */
	uint64_t instruction;	       /* address at which it goes on */
	uint64_t current;	       /* ErtsCodeMFA in the target, 0 if the VM does not know */
	bool approximate; /* a list changed while it was read: figures of it are lower bounds */
	bool undecoded;	  /* has messages of other nodes whose size nobody knows yet: `memory`
			   * and `message_bytes` are without them */
};

enum process_parts { /* what beyond the Process itself is followed; bits, 0: nothing */
		     PROCESS_MESSAGES = 1,
		     PROCESS_LINKS = 2,
		     PROCESS_BINARIES = 4,
		     PROCESS_ALL =
			     7, /* all that process_info(P, memory) needs is in MESSAGES and LINKS */
};

struct process_scan {
	uint64_t found; /* processes handed to the function */
	uint64_t gone;	/* that ended while they were read: left out */
	uint64_t torn;	/* that are there but could not be read: left out */
	uint64_t approximate, undecoded;
	uint64_t limit;	 /* slots of the table */
	uint64_t count;	 /* processes that the table says it has; UINT64_MAX: unknown */
	uint64_t absent; /* slots in pages that are not in memory: swapped out, or never used */
};

/* Calls fn for every process of the table, in the order of its slots. While it
 * runs, vm->cache is set: what fn reads is cheap. A negative return of fn ends the
 * scan and is returned. Memory: one batch of processes, whatever their number.
 * Errors: as processes_read(). */
int processes_scan(struct vm *vm, unsigned parts,
		   int (*fn)(void *ctx, const struct process_info *info), void *ctx,
		   struct process_scan *out, struct error *err);

/* For attributing growth: what every process holds at one moment, by pid. */
struct process_share {
	uint64_t pid;	       /* term; process_pid_label() names it */
	uint64_t memory;       /* bytes, as process_info(P, memory) */
	uint64_t binary_bytes; /* bytes of refc binaries it refers to (others may, too) */
	uint64_t message_queue_len;
	char *label; /* process_label(), escaped */
};

struct process_shares {
	struct process_share *v; /* by pid */
	size_t n;
	struct process_scan scan;
};

/* Errors as processes_scan(). About 15 us of CPU a process with labels. */
int process_shares_read(struct vm *vm, struct process_shares **out, struct error *err);
void process_shares_free(struct process_shares *s);
/* Binary search; NULL if there is none. */
const struct process_share *process_share_find(const struct process_shares *s, uint64_t pid);

#endif
