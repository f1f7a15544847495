/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A profile made ready for drawing, and what can be drawn of it.
 *
 * profile_report_new() turns stacks of addresses into stacks of names, root
 * first: the process or thread role, then functions from the outermost to the
 * leaf, inlined ones included. Equal names are one. All text is escaped
 * already; each format adds what it needs itself.
 *
 * Given a second profile, the base, it is of both: every stack and node has a
 * weight and a base weight, and what is drawn is the difference.
 */
#ifndef BEAMRAY_REPORT_PROFILE_REPORT_H
#define BEAMRAY_REPORT_PROFILE_REPORT_H

#include <stdio.h>

#include "profile/symbolize.h"

struct profile_report_opts {
	const char *title;   /* of the drawing, escaped; NULL: the profile's kind */
	const char *process; /* only stacks whose label contains this; NULL: all */
	const char *library; /* only stacks with a frame of this module; NULL: all */
	bool invert;	     /* leaf first: who is called, by whom */
	bool gross;	     /* draw the gross weight, not the net one */
	/* what to compare with; NULL: nothing */
	const struct profile *base;
	const struct symbols *base_symbols;
};

struct report_name {
	const char *text; /* "lists:map/2", "leak [leak_nif.so]", "libx.so+0x1240", "do_mmap_[k]" */
	const char *file; /* source, NULL */
	const char *module; /* library or Erlang module, NULL */
	enum frame_kind kind;
};

struct report_frame {
	uint32_t name; /* index into names[] */
	uint32_t line; /* 0 if unknown */
};

struct report_stack {
	size_t first, n; /* its frames in frames[], the root first */
	int64_t weight;	 /* net, or gross if that was asked for */
	bool is_base;	 /* of the base: its weight is a base weight */
	int64_t gross;
	uint64_t count;
	const struct profile_stack *source;
};

/* Stacks merged from the root on. nodes[0] is the root of all. */
struct report_node {
	uint32_t name;
	uint32_t parent, first_child, next_sibling; /* 0: none */
	int64_t self, base_self;		    /* weight of the stacks that end here */
	int64_t total, base_total;		    /* with those above */
	/* The width in a drawing: the positive part of the weight; with a base, of the
	 * larger of both, so that what has gone is there too. */
	uint64_t drawn;
	uint64_t count;
};

struct profile_report {
	const struct profile *profile;
	char title[256];
	bool invert, gross;
	struct report_name *names;
	size_t n_names;
	struct report_frame *frames;
	size_t n_frames;
	struct report_stack *stacks;
	size_t n_stacks;
	struct report_node *nodes; /* children: largest first */
	size_t n_nodes;
	unsigned depth; /* of the deepest node */
	bool has_base;
	int64_t total; /* sum of the weights of the stacks */
	int64_t base_total;
	int64_t negative;  /* sum of those that are not drawn, <= 0 */
	uint64_t events;   /* sum of the stacks' counts, without those of the base */
	uint64_t complete; /* of them, those whose stack reached its root */
	uint64_t thinned;  /* and those of which only the leaf was taken */

	struct report_index *index; /* private */
};

/* `symbols` may be NULL: then everything is an address. 0, -ENOMEM, -E2BIG. */
int profile_report_new(const struct profile *p, const struct symbols *symbols,
		       const struct profile_report_opts *opts, struct profile_report **out);
void profile_report_free(struct profile_report *r);

/* Writes the names from the root to this node, ";" between them. `path` has room
 * for r->depth + 1 numbers. */
void report_path(FILE *to, const struct profile_report *r, uint32_t node, uint32_t *path);

/* ---- sums ---- */

enum sum_by {
	SUM_PROCESS,  /* process or thread */
	SUM_LIBRARY,  /* whose code it was: the NIF, driver or library nearest to the leaf */
	SUM_FUNCTION, /* the leaf */
};

struct profile_sum {
	const char *text; /* the report's */
	int64_t weight, base;
};

/* Weights by what stacks have in common, largest weight (with a base: largest
 * change) first; the caller frees. NULL: no memory. */
struct profile_sum *profile_sums(const struct profile_report *r, enum sum_by by, size_t *n);

/* One word for a kind of frame: "Erlang", "runtime", "NIF" ... */
const char *frame_kind_name(enum frame_kind kind);
/* How many of the events were walked to their root: "99.2% of 4099 events with a stack
 * reach their root; of 291395 only the leaf was taken". Returns `buf`. */
char *events_text(char *buf, size_t size, const struct profile_report *r);
/* A weight with its unit, at most 31 characters: "12.1 MiB", "-3 samples", "1.20 s". */
char *weight_format(char *buf, size_t size, const struct profile *p, int64_t weight);

/* The formats. Each writes all of the document; write errors are the stream's
 * (ferror). */

/* One line a stack: names from the root on with ";" between, a blank, the weight.
 * With a base: the base weight, a blank, the weight, as difffolded.pl writes them.
 * 0 or -ENOMEM. */
int profile_folded(FILE *to, const struct profile_report *r);
/* A page by itself: zoom, search, readable without JavaScript. `number` 0: a
 * document; else the part of a page of HTML, told from others there by it. */
void profile_flamegraph(FILE *to, const struct profile_report *r, unsigned number);
/* pprof's profile.proto, gzip'ed. 0 or -ENOMEM, -EIO. */
int profile_pprof(FILE *to, const struct profile_report *r, uint64_t time_ns, uint64_t duration_ns);
/* speedscope's own JSON. 0 or -ENOMEM. */
int profile_speedscope(FILE *to, const struct profile_report *r);

#endif
