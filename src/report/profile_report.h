/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A profile made ready for drawing, and what can be drawn of it.
 *
 * profile_report_new() turns stacks of addresses into stacks of names, root
 * first: the process or thread role, then functions from the outermost to the
 * leaf, inlined ones included. Equal names are one. All text is escaped
 * already; each format adds what it needs itself.
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
	int64_t gross;
	uint64_t count;
	const struct profile_stack *source;
};

/* Stacks merged from the root on. nodes[0] is the root of all. */
struct report_node {
	uint32_t name;
	uint32_t parent, first_child, next_sibling; /* 0: none */
	int64_t self;				    /* weight of the stacks that end here */
	int64_t total;				    /* with those above */
	uint64_t drawn; /* the positive part of it: the width in a drawing */
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
	unsigned depth;	   /* of the deepest node */
	int64_t total;	   /* sum of the weights of the stacks */
	int64_t negative;  /* sum of those that are not drawn, <= 0 */
	uint64_t events;   /* sum of the stacks' counts */
	uint64_t complete; /* of them, those whose stack reached its root */

	struct report_index *index; /* private */
};

/* `symbols` may be NULL: then everything is an address. 0, -ENOMEM, -E2BIG. */
int profile_report_new(const struct profile *p, const struct symbols *symbols,
		       const struct profile_report_opts *opts, struct profile_report **out);
void profile_report_free(struct profile_report *r);

/* One word for a kind of frame: "Erlang", "runtime", "NIF" ... */
const char *frame_kind_name(enum frame_kind kind);
/* A weight with its unit, at most 31 characters: "12.1 MiB", "-3 samples", "1.20 s". */
char *weight_format(char *buf, size_t size, const struct profile *p, int64_t weight);

/* The formats. Each writes all of the document; write errors are the stream's
 * (ferror). */

/* One line a stack: names from the root on with ";" between, a blank, the weight.
 * 0 or -ENOMEM. */
int profile_folded(FILE *to, const struct profile_report *r);
/* A page by itself: zoom, search, readable without JavaScript. */
void profile_flamegraph(FILE *to, const struct profile_report *r);
/* pprof's profile.proto, gzip'ed. 0 or -ENOMEM, -EIO. */
int profile_pprof(FILE *to, const struct profile_report *r, uint64_t time_ns, uint64_t duration_ns);
/* speedscope's own JSON. 0 or -ENOMEM. */
int profile_speedscope(FILE *to, const struct profile_report *r);

#endif
