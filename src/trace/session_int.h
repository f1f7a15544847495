/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inside of a session: what session*.c, tables.c, names.c and governor.c share. Sets
 * see trace/set.h only.
 */
#ifndef BEAMRAY_TRACE_SESSION_INT_H
#define BEAMRAY_TRACE_SESSION_INT_H

#include "trace/session.h"
#include "trace/set.h"
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
/* A thread that no program has seen yet, by its name. */
void names_thread_found(struct names *n, uint32_t tid, const char comm[16]);
/* The root frame of an owner: registered name, initial call, or the thread's
 * role. Valid until the next call. */
const char *names_label(struct names *n, uint64_t process, uint32_t tid);
unsigned names_role(const struct names *n, uint32_t tid); /* enum thread_role */
size_t names_bytes(const struct names *n);

/* ---- governor.c: what it costs, and what to do about it -------------------------------- */

struct governor {
	double budget;
	uint64_t start_ns;
	uint64_t last_ns, last_own_ns;
	uint64_t own_ns;   /* CPU time that our side has taken */
	double now;	   /* share of one core, last interval */
	unsigned over_for; /* intervals in a row in which nothing could be thinned */
	bool over;
};

typedef uint64_t counters[SET_N][COUNT_N];

void governor_start(struct governor *g, double budget);
/* Looks twice a second at most: computes what each set costs, and thins, restores or
 * detaches one of them. */
void governor_tick(struct governor *g, counters count, struct set *const sets[SET_N]);
/* Time spent on a set's hits, from its counters. */
uint64_t governor_kernel_ns(const struct set *set, const uint64_t count[COUNT_N]);

/* ---- session_code.c: when code is looked at again --------------------------------------- */

struct session_code {
	struct ring_buffer *wakes;
	bool due;	      /* code was loaded since the last look at the list */
	uint64_t looked_ns;   /* when that was */
	uint64_t list_ns;     /* CPU time of a look that finds nothing new */
	uint64_t news_ns;     /* what the last one took beyond that */
	uint64_t native_came; /* when new native code was seen, 0: none waits */
	uint64_t strange;     /* stacks that ended in a module that was not known by then */
};

/* -errno */
int session_code_open(struct session *s, int wakes_fd);
void session_code_close(struct session *s);
/* New native code has come. */
void session_code_native(struct session *s);
/* Looks at what is due. */
void session_code_look(struct session *s);
/* What to wait for, or -1; makes *ns, the time to wait, shorter when a look is due. */
int session_code_wake_fd(const struct session *s, uint64_t *ns);
uint64_t session_cpu_ns(void);

/* ---- session.c, session_load.c ---------------------------------------------------------- */

struct session {
	struct target *target;
	struct vm *vm;
	struct code *code;
	struct mappings *maps; /* as of the last refresh */
	struct images *images;
	struct config config;
	unsigned threads; /* that the maps have room for */
	struct kernel_tables tables;
	struct base_bpf *base;
	struct tables_area control_area;
	struct control *control; /* shared with the programs */
	struct ring_buffer *ring;
	struct stacks *stacks;
	struct names *names;
	struct governor governor;

	struct set *sets[SET_N];
	struct set *by_event[EVENT_N];

	struct residency *opening; /* ours, or NULL when the caller's is in use */
	struct mappings *opening_maps;

	int pidfd;
	int cpus;
	bool stopped;
	bool ended, execed; /* the target */
	struct session_code looks;
	uint64_t records;
	counters count;
	uint64_t end_ns; /* of the session, once it has been stopped */
};

/* Makes and fills the shared maps, attaches the base programs, opens the ring. */
int session_load(struct session *s, const struct session_opts *opts, ring_buffer_sample_fn record,
		 struct error *err);
void session_unload(struct session *s);
/* Maps and images as they are now, and the kernel's tables after them. */
int session_refresh(struct session *s, struct error *err);
void session_counters(struct session *s);

uint64_t session_now_ns(void);
void set_detach(struct set *set);

#endif
