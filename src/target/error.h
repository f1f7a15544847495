/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One error, one sentence.
 *
 * Functions return a negative errno and, where the caller passes a struct
 * error, leave in it the sentence a person reads (what, why, what to do) and
 * the exit code that DESIGN's table gives to this kind of failure.
 */
#ifndef BEAMRAY_TARGET_ERROR_H
#define BEAMRAY_TARGET_ERROR_H

enum exit_code {
	EXIT_OK = 0,
	EXIT_FINDING = 1,     /* doctor, diff: something other than healthy */
	EXIT_USAGE = 2,	      /* the command line is wrong */
	EXIT_UNSUPPORTED = 3, /* kernel, release or build not supported */
	EXIT_DENIED = 4,      /* not permitted */
	EXIT_GONE = 5,	      /* target gone or replaced */
	EXIT_INCOMPLETE = 6,  /* more than 1% of bytes or events missing */
};

struct error {
	enum exit_code code;
	char text[512];
};

/* Fills `err` (may be NULL) and returns `ret`, so that a failing function can
 * end in `return error_set(err, EXIT_GONE, -ESRCH, "...")`. The text is
 * escaped: control bytes from the target never pass through it. The first
 * error stays: a filled err is not overwritten. */
int error_set(struct error *err, enum exit_code code, int ret, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

/* The exit code that a bare negative errno stands for, for callers that got
 * no sentence. */
enum exit_code error_exit_code(int ret);

#endif
