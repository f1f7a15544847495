/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What `beamray list` prints: a table or several, figures that stand above them,
 * notes, and how much could not be read. As text and as schema beamray.list/1.
 */
#ifndef BEAMRAY_REPORT_LISTING_H
#define BEAMRAY_REPORT_LISTING_H

#include "ledger/look.h"
#include "report/table.h"

#define LISTING_TABLES 8
#define LISTING_FACTS  48
#define LISTING_NOTES  24

struct listing {
	const char *what;		      /* "processes" */
	const char *noun;		      /* what its rows are, in plural; NULL: `what` */
	struct table *tables[LISTING_TABLES]; /* [0] is the main one, its key is "rows" */
	size_t n_tables;
	struct listing_fact {
		const char *key, *label; /* JSON and text; borrowed */
		enum column_kind kind;	 /* COUNT, BYTES, WORDS, SHARE, REAL */
		uint64_t value;		 /* UINT64_MAX: null; SHARE, REAL: the double's bits */
	} facts[LISTING_FACTS];
	size_t n_facts;
	char *notes[LISTING_NOTES];
	size_t n_notes;
	uint64_t torn;	  /* things that are there but could not be read as a whole */
	uint64_t missing; /* of `of`, in the unit that counts here: rows or bytes */
	uint64_t of;
	int error; /* the first -ENOMEM */
};

struct listing *listing_new(const char *what);
void listing_free(struct listing *l);

/* Adds a table; the listing owns it. The first is the main one, key "rows"; the
 * keys of others ("prefixes") are members of the JSON document and headings in
 * text. NULL when out of memory or when there are too many. */
struct table *listing_table(struct listing *l, const char *key, const struct column *columns,
			    size_t n);
/* A figure of the whole: JSON summary.KEY, text "label value". UINT64_MAX: null,
 * and then there must be a note that says why. */
void listing_fact(struct listing *l, const char *key, const char *label, enum column_kind kind,
		  uint64_t value);
void listing_fact_real(struct listing *l, const char *key, const char *label, enum column_kind kind,
		       double value);
/* One sentence, on the way through the escaping of error sentences. */
void listing_note(struct listing *l, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* `missing` of `of` rows or bytes could not be read: adds up over calls. More
 * than 1% makes the listing incomplete. */
void listing_missing(struct listing *l, uint64_t missing, uint64_t of);
bool listing_complete(const struct listing *l);

struct listing_opts {
	enum unit unit;
	unsigned columns; /* width of the page */
	size_t rows;	  /* of each table; 0: 20 as text, all as JSON */
};

void listing_text(FILE *to, const struct observer *o, const struct look *look,
		  const struct listing *l, const struct listing_opts *opts);
/* The document (README describes it), with a newline at its end. */
void listing_json(FILE *to, const struct observer *o, const struct look *look,
		  const struct listing *l, const struct listing_opts *opts);

#endif
