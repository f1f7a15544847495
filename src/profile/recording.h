/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A recording: one SQLite file that holds what was seen of a target over time.
 * (recording.c opens with the page that explains the file.)
 *
 * A recorder writes one, a recording reads one. Both take and give plain rows and
 * texts: what a ledger is, is known further up.
 */
#ifndef BEAMRAY_PROFILE_RECORDING_H
#define BEAMRAY_PROFILE_RECORDING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "profile/profile.h"
#include "profile/symbolize.h"
#include "target/error.h"

#define RECORDING_APPLICATION 0x42524159 /* "BRAY", in the file's header */
#define RECORDING_VERSION     2		 /* of the schema: PRAGMA user_version; 1 can be read */

struct recording_row { /* of a ledger */
	char account[96];
	uint64_t bytes, whole_pages, lazyfree;
};

/* ---- writing ---------------------------------------------------------------- */

struct recorder;

/* Makes the file. An empty file and an older recording at `path` are replaced,
 * anything else is left alone. Errors: EXIT_USAGE (no such folder, not a regular
 * file, something else is there), EXIT_DENIED, EXIT_INCOMPLETE (disk full). */
int recorder_create(const char *path, struct recorder **out, struct error *err);

/*
 * What follows is one transaction each, or one together between recorder_begin()
 * and recorder_commit(). All text must have been escaped. Errors: -ENOSPC (disk
 * full, EXIT_INCOMPLETE), -EIO, -ENOMEM; after the first one every call fails with
 * the same sentence, and the file holds what was committed until then.
 */
int recorder_begin(struct recorder *r, struct error *err);
int recorder_commit(struct recorder *r, struct error *err);

/* Facts about the run ("state", "interval_s") and about the target ("pid",
 * "otp_release"); one that is there is replaced. */
int recorder_fact(struct recorder *r, const char *name, const char *value, struct error *err);
int recorder_target(struct recorder *r, const char *name, const char *value, struct error *err);

struct recorder_look {
	int64_t time_ns; /* CLOCK_REALTIME */
	uint64_t rss;	 /* sum of the rows' bytes */
	bool complete;
	const struct recording_row *rows;
	size_t n;
	const char *document; /* beamray.memory/1 as JSON text */
};
/* Looks are numbered from 1 on in the order they come. */
int recorder_look(struct recorder *r, const struct recorder_look *look, struct error *err);

/* The profile (from the beginning of the run) as it is at the last look, or, with
 * `after`, at a moment after the last look for which there is no ledger. Only what
 * changed since the profile of this kind was last given is written. `s` may be
 * NULL: frames without names. */
int recorder_profile(struct recorder *r, const struct profile *p, const struct symbols *s,
		     bool after, struct error *err);

/* A figure of the run as it stood at the last look ("lost_records"). */
int recorder_counter(struct recorder *r, const char *name, uint64_t value, struct error *err);
int recorder_note(struct recorder *r, const char *text, struct error *err);

#define RECORDING_FIGURES_MAX 64 /* of one subject */

struct recording_figure {
	char name[32]; /* [a-z0-9_.], begins with a letter */
	uint64_t value;
};
/* What is counted of one thing of a kind, as it stood at the last look: of a process
 * ("gc", "<0.80.0> rabbit_reader"), an allocator ("carriers", "binary_alloc").
 * Written only when it has changed. */
int recorder_figures(struct recorder *r, const char *kind, const char *subject,
		     const struct recording_figure *v, size_t n, struct error *err);

/* Closes the file; NULL is fine. What was not committed is gone. */
void recorder_close(struct recorder *r);

/* ---- reading ---------------------------------------------------------------- */

struct recording_look {
	unsigned number; /* from 1 on */
	int64_t time_ns;
	char time[40]; /* RFC 3339, UTC */
	uint64_t rss;
	bool complete;
	size_t rows;
};

struct recording_fact {
	char *name, *value;
};

struct recording_counter {
	unsigned look; /* 0: before the first one */
	char *name;
	uint64_t value;
};

struct recording_note {
	unsigned look;
	char *text;
};

struct recording_profile {
	int64_t id;
	char kind[16], unit[16];
};

/* All text is safe to print: it went through escape_again(). */
struct recording {
	char *path; /* as given; not escaped */
	struct recording_fact *facts, *target;
	size_t n_facts, n_target;
	struct recording_look *looks;
	size_t n_looks;
	struct recording_profile *profiles;
	size_t n_profiles;
	struct recording_counter *counters;
	size_t n_counters;
	struct recording_note *notes;
	size_t n_notes;
	struct recording_db *db; /* private */
};

/* Opens and checks a recording, which may come from anywhere: a file that is cut
 * short, damaged or something else is refused with a sentence, -EINVAL and
 * EXIT_USAGE; a newer schema likewise. Nothing is written to it or beside it, so
 * that no permission but to read is needed. It may still be being written. */
int recording_open(const char *path, struct recording **out, struct error *err);
void recording_close(struct recording *r);

/* NULL if there is none of this name. */
const char *recording_fact(const struct recording *r, const char *name);
const char *recording_target(const struct recording *r, const char *name);

/* The value of a counter at the last look up to `look`; false if there is none. */
bool recording_counter_at(const struct recording *r, unsigned look, const char *name,
			  uint64_t *value);

/* The ledger of look `number`, largest row first; the caller frees. -ENOENT: there
 * is no such look. The rows add up to the look's rss. */
int recording_rows(struct recording *r, unsigned number, struct recording_row **rows, size_t *n,
		   struct error *err);
/* The look's JSON document as it was written, NUL-terminated; the caller frees.
 * Its text is hostile until the strings in it went through escape_again(). */
int recording_document(struct recording *r, unsigned number, char **out, struct error *err);
/* The profile of this kind as it stood at look `number` (UINT_MAX: at the end),
 * sorted, with its names. The caller frees both. -ENOENT: there is none. */
int recording_profile(struct recording *r, const char *kind, unsigned number, struct profile **p,
		      struct symbols **s, struct error *err);

struct recording_subject {
	char *text;    /* safe to print */
	unsigned look; /* that it changed at last */
	struct recording_figure *v;
	size_t n;
};

struct recording_subjects {
	struct recording_subject *v; /* by text */
	size_t n;
};

/* All subjects of a kind as they stood at look `number` (UINT_MAX: at the end); none is no error. */
int recording_subjects(struct recording *r, const char *kind, unsigned number,
		       struct recording_subjects *out, struct error *err);
void recording_subjects_free(struct recording_subjects *s);
/* A figure by its name; 0 if the subject has none of it. */
uint64_t recording_figure(const struct recording_subject *s, const char *name);

#endif
