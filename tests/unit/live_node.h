/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A live Erlang node to look at, that answers questions about itself: the other
 * side of every comparison. Started by tools/roots/node.sh; it dies with the
 * test.
 */
#ifndef BEAMRAY_TESTS_LIVE_NODE_H
#define BEAMRAY_TESTS_LIVE_NODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct live_node {
	char release[8]; /* "25", "host" */
	pid_t pid;
	int in, out; /* its stdin and stdout */
};

/* The releases to test: $BEAMRAY_RELEASES, else all of the matrix. The array
 * ends with NULL. */
const char *const *live_releases(void);

/* Starts a node; `args` are erl's own, separated by blanks, or NULL. Returns
 * false when it did not come up within 40 s (then there is nothing to stop). */
bool live_start(struct live_node *n, const char *release, const char *args);
void live_stop(struct live_node *n);

/* Evaluates Erlang expressions (without the final dot, on one line); the value
 * as ~0p prints it. False when no answer came within 60 s or it does not fit. */
bool live_ask(struct live_node *n, const char *expressions, char *answer, size_t size);
/* The same for a number; UINT64_MAX if the answer is none. */
uint64_t live_number(struct live_node *n, const char *expressions);

#endif
