/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inside of a session: what session.c, tables.c, names.c and governor.c share.
 */
#ifndef BEAMRAY_TRACE_SESSION_INT_H
#define BEAMRAY_TRACE_SESSION_INT_H

#include "trace/session.h"
#include "trace/stacks.h"
#include "trace/unwind.h"

/* ---- tables.c: the kernel's copies of the unwind tables and code areas ------------ */

struct tables_area {
	void *mem;	   /* the map's own memory, shared with the kernel */
	size_t bytes, max; /* max: elements */
};

struct kernel_tables {
	struct unwind *unwind;
	struct tables_area rows, rules, tables;
	size_t rows_sent, rules_sent;
	uint32_t *active; /* which of the two copies the programs read */
	bool full;	  /* modules came that there was no room for */
};

/* The memory of one array map; -errno. */
int area_map(struct tables_area *a, int fd, size_t size, size_t max);
void area_unmap(struct tables_area *a);

/* Sizes for the maps, before they are made. */
size_t tables_rows_max(const struct unwind *u);
size_t tables_rules_max(const struct unwind *u);
/* Maps the three maps' memory. -errno */
int tables_map(struct kernel_tables *k, int rows_fd, int rules_fd, int tables_fd);
void tables_unmap(struct kernel_tables *k);
/* Writes what is new and switches the programs over to it. */
int tables_write(struct kernel_tables *k, struct vm *vm, const struct code *code,
		 const struct mappings *maps, const struct images *images);

/* ---- names.c: labels of processes and threads ---------------------------------------- */

struct names;

int names_new(struct vm *vm, struct names **out);
void names_free(struct names *n);
void names_process(struct names *n, const struct event_process *ev);
void names_thread(struct names *n, const struct event_thread *ev);
/* The root frame of an owner: registered name, initial call, or the thread's
 * role. Valid until the next call. */
const char *names_label(struct names *n, uint64_t process, uint32_t tid);
size_t names_bytes(const struct names *n);

/* ---- governor.c: what it costs, and what to do about it -------------------------------- */

struct governor {
	double budget;
	uint64_t start_ns;
	uint64_t last_ns, last_kernel_ns, last_own_ns;
	uint64_t own_ns; /* CPU time that our side has taken */
	double now;	 /* share of one core, last interval */
	unsigned level;	 /* 0: as generous as it gets; each step halves the stacks */
	bool over;
};

void governor_start(struct governor *g, double budget, struct limits *limits);
/* Looks once a second at most; turns `limits`. */
void governor_tick(struct governor *g, const uint64_t count[COUNT_N], struct limits *limits);
/* Time spent in the programs, from the counters. */
uint64_t governor_kernel_ns(const uint64_t count[COUNT_N]);

uint64_t session_now_ns(void);

#endif
