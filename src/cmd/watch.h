/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A target that is looked at again and again while a session traces it.
 *
 * A look takes up to seconds on a large node, and the tracer's ring buffer must be
 * drained meanwhile: so looks are taken in a thread of their own, and the tracer has
 * a handle of its own on the target.
 */
#ifndef BEAMRAY_CMD_WATCH_H
#define BEAMRAY_CMD_WATCH_H

#include "ledger/ledger.h"
#include "profile/symbolize.h"
#include "trace/session.h"

struct watch {
	struct target *target;
	struct observer *observer;
	struct session *session; /* NULL: nothing is traced; `why` says why */
	struct symbols *symbols; /* of all profiles that were taken */
	struct code *code;	 /* what is loaded, while there is a session; else NULL */
	char why[600];

	/* private */
	struct target *traced;
	struct observer *tracer;
	struct symbolizer *early; /* names as of the first look, for when the target is gone */
	bool based;		  /* growth counts from the first look */
	bool stuck;		  /* a read never came back: nothing may be freed */
};

struct watch_opts {
	bool trace;
	double budget; /* share of one core; 0: the session's default */
	bool verbose;
};

/* Recognises the VM; attaches the tracer if that is wanted. Tracing that cannot be
 * had is no error. Errors: those of target_open() and observer_open(). */
int watch_open(struct watch *w, pid_t pid, const struct watch_opts *opts, struct error *err);
void watch_close(struct watch *w);

/* Takes a look while tracing goes on. From the first one on growth counts: it must
 * stay until watch_close(). The caller frees both. */
int watch_look(struct watch *w, struct look **look, struct ledger **ledger, struct error *err);
/* Lets time go by, at most `seconds`; ends early, with 0, when `interrupted` is set.
 * -ESRCH, -ESTALE: the target is gone. */
int watch_wait(struct watch *w, double seconds, struct error *err);
/* The growth since the first look, as it stood at `look`, with its names put into
 * w->symbols. `look` NULL: the target is gone, and what was never given back is
 * taken for growth. The caller frees. -ENOENT when nothing is traced. */
int watch_growth(struct watch *w, const struct look *look, struct profile **out, struct error *err);
/* The same for any kind that the session has: "growth", "native" ... */
int watch_profile(struct watch *w, const char *kind, const struct look *look, struct profile **out,
		  struct error *err);
/*
 * Attaches the probes of malloc and free for the rest of the watch; may be called at any
 * time after watch_open(), with a `library` (file name) to be looked at alone, or NULL.
 * From then on watch_profile(w, "native", ...) has what is held of what was given out
 * since, by stack, in bytes of whole blocks, and session_native_sum() the figures beside
 * it. What was taken before the call is not in it: compare it with two ledgers of
 * which the first is not older. -ENOENT when nothing is traced, and with the sentence
 * why it cannot be attached; -EEXIST when it is. What was attached before goes on.
 * Needs CAP_BPF and CAP_PERFMON at that time (PRIVILEGE_ATTACH not given up).
 */
int watch_native(struct watch *w, const char *library, struct error *err);

#endif
