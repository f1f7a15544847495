/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `beamray list WHAT`: how a WHAT is made.
 *
 * One file src/cmd/list_WHAT.c each, which ends in one entry:
 *
 *	const struct list_what list_ports = {
 *		.name = "ports",
 *		.summary = "ports: driver, owner, bytes, queue",
 *		.sort = "queue_size",
 *		.collect = collect,
 *	};
 *
 * To add one: write that file, declare the entry below and name it in the array
 * `whats` of list.c (the order there is that of the help). `collect` makes the
 * tables (listing_table(), the first with the key "rows"), reads through
 * run->observer->vm, where the picture of resident pages is set, and fills rows.
 * It runs in a guarded thread. What it finds torn it drops (table_row_drop()) and
 * counts: listing->torn for what is there but could not be read, and
 * listing_missing() for what that means for completeness (exit code 6). What a
 * release does not have stays null in the row, with one listing_note() that says
 * why. Reading itself belongs into src/erts, where others can use it.
 */
#ifndef BEAMRAY_CMD_LIST_H
#define BEAMRAY_CMD_LIST_H

#include "report/listing.h"

enum list_look {
	LIST_PICTURE, /* which pages are resident, and the VM's counters */
	LIST_WHOLE,   /* carriers and libc's heap walked too: what `beamray memory` takes */
};

struct list_run {
	struct observer *observer;
	const struct look *look; /* of this call */
	struct listing *listing;
	double window_s;     /* --window; 0: not given */
	const char *process; /* --process: a pid as text or a registered name; NULL: all */
	bool verbose;
	unsigned round; /* 0; with --window collect is called again, with 1 */
	double between; /* round 1: seconds since round 0's look */
	void *state;	/* what round 0 leaves for round 1; freed with free() by list.c */
};

struct list_what {
	const char *name;
	const char *summary;	 /* for the help, at most 60 characters */
	const char *sort;	 /* key of the column that hurts; NULL: as collected */
	const char *sort_window; /* the same with --window */
	enum list_look look;
	bool windowed;	 /* understands --window */
	bool by_process; /* understands --process */
	/* 0 or a negative errno, with the sentence in err unless it is -ENOMEM. With
	 * --window round 0 leaves its listing empty: only that of round 1 is shown. */
	int (*collect)(struct list_run *run, struct error *err);
};

/* Counters and carriers of one moment; the caller frees both. What is torn or lost
 * is told to the listing. `reset` is called with opts->arg before another try. */
int list_walk(struct list_run *run, const struct carriers_opts *opts, void (*reset)(void *arg),
	      struct allocators **a, struct carriers **c, struct error *err);

extern const struct list_what list_ets, list_pins, list_carriers, list_nifs, list_resources,
	list_allocators, list_binaries, list_ports, list_processes, list_schedulers, list_memory,
	list_atoms, list_modules, list_literals, list_persistent_terms, list_native, list_lost,
	list_stacks;

#endif
