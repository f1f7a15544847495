/* SPDX-License-Identifier: Apache-2.0 */
/* What a report of a recording is made of, read and put together. */
#ifndef BEAMRAY_REPORT_RECORDING_VIEW_H
#define BEAMRAY_REPORT_RECORDING_VIEW_H

#include <jansson.h>
#include <stdio.h>

#include "profile/recording.h"
#include "report/changes.h"
#include "report/profile_report.h"

struct view_opts {
	const char *kind; /* of the profile; NULL: all there are */
	bool one;	  /* NULL kind: growth, or else the first there is */
	struct profile_report_opts filter;
	bool ledgers; /* what changed from the first to the last look */
	bool history; /* the ledgers between too */
};

struct view_ledger {
	const struct recording_look *look;
	struct recording_row *rows; /* largest first */
	size_t n;
};

struct view_profile {
	struct profile *profile;
	struct symbols *symbols;
	struct profile_report *report;
	struct profile_sum *by[SUM_FUNCTION + 1];
	size_t n_by[SUM_FUNCTION + 1];
};

struct recording_view {
	struct recording *recording;
	bool filtered; /* by process or library: sums are parts */
	/* the first and the last, with `history` up to VIEW_LEDGERS evenly between */
	struct view_ledger *ledgers;
	size_t n_ledgers;
	struct view_profile *profiles;
	size_t n_profiles;
	/* what was counted of threads and (by samples) of processes, at the end */
	struct recording_subjects threads, processes;
	/* collections by process; carriers by allocator, source and kind */
	struct recording_subjects collections, made_carriers;
	char why_not[600];    /* there is no profile: why; "" otherwise */
	json_t *first, *last; /* the documents of those looks; NULL: not readable */
	/* from the first look to the last */
	struct changes accounts, allocators, carriers, owners;
};

#define VIEW_LEDGERS 400

/* Reads all of it, so that a recording that turns out to be damaged leaves no half
 * report. Errors: those of recording_open(); -ENOENT and a sentence when `kind` (or,
 * with `one`, any profile) is not there and `ledgers` is not wanted either. */
int recording_view_open(struct recording_view *v, const char *path, const struct view_opts *opts,
			struct error *err);
void recording_view_close(struct recording_view *v);

/* Words for the recording's end: "complete", "not ended: still recording, or killed". */
const char *recording_state(const struct recording *r);
/* From one look to another; a file may hold any times. */
double recording_seconds(const struct recording_look *a, const struct recording_look *b);
/* A fact about the target, "?" if there is none. */
const char *recording_known(const struct recording *r, const char *name);

/* ---- parts that a comparison has too ---- */

/* The profile of this kind at look `look` (UINT_MAX: the end), with names and sums. */
int view_profile_read(struct view_profile *p, struct recording *r, const char *kind, unsigned look,
		      const struct profile_report_opts *opts, struct error *err);
void view_profile_clear(struct view_profile *p);

/* A look's document: parsed, and every string in it made safe. NULL when it cannot be
 * read; the caller has the reference. */
json_t *view_document(struct recording *r, unsigned look);
/* What the rows and the document of one moment hold, into the tables of a change. */
void view_accounts(struct changes *c, const struct recording_row *rows, size_t n, bool is_b);
void view_allocators(struct changes *blocks, struct changes *carriers, json_t *document, bool is_b);
void view_owners(struct changes *c, json_t *document, bool is_b);

/* What threads and processes did with their time: tables, if anything of it was
 * recorded. */
struct recording_text_opts;
void usage_text(FILE *to, const struct recording_view *v, const struct recording_text_opts *opts);
/* The same of collections and of carriers that were made and given back. */
void collections_text(FILE *to, const struct recording_view *v,
		      const struct recording_text_opts *opts);
void made_carriers_text(FILE *to, const struct recording_view *v,
			const struct recording_text_opts *opts);
/* [{KEY: subject, figure: value ...}]; a new reference. */
json_t *subjects_json(const struct recording_subjects *s, const char *key);
/* What tracing cost and missed; with `verbose` by set. */
void trace_text(FILE *to, const struct recording_view *v, const struct recording_text_opts *opts);
/* {"threads":[...],"processes":[...]}; a new reference. */
json_t *usage_json(const struct recording_view *v);

/* ---- the formats ---- */

struct recording_text_opts {
	enum unit unit;
	unsigned columns;
	bool verbose; /* all of it, not the top of each table */
};

void recording_text(FILE *to, const struct recording_view *v,
		    const struct recording_text_opts *opts);
/* Schema beamray.report/1; a new reference, NULL when out of memory. */
json_t *recording_json(const struct recording_view *v);
/* A page by itself, readable without JavaScript. */
void recording_html(FILE *to, const struct recording_view *v);

/* Facts about the target, as JSON. */
json_t *recording_target_json(const struct recording *r);

/* The tables that belong to a kind of profile: threads and processes, collections,
 * carriers; nothing for the others. */
void kind_tables_text(FILE *to, const struct recording_view *v, const struct view_profile *p,
		      const struct recording_text_opts *opts);

/* A line indented by `indent`, cut with dots where it would be wider than `columns`;
 * 0 columns: never. */
void line_text(FILE *to, unsigned indent, const char *text, size_t len, unsigned columns);
/* "12.3%", or "-" where that says nothing. */
char *share_text(char *buf, size_t size, int64_t part, int64_t whole);

#endif
