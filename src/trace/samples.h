/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Processor samples: one perf event on every thread of the target.
 */
#ifndef BEAMRAY_TRACE_SAMPLES_H
#define BEAMRAY_TRACE_SAMPLES_H

#include "events.h"
#include "target/target.h"

struct bpf_object;
struct samples;

/* Loads the program, which shares the maps of `object` (they are matched by
 * name), and attaches it at `frequency` samples a second of CPU time (0: 49).
 * Returns 0 or a negative errno of the load or of perf_event_open(). */
int samples_open(struct target *t, struct bpf_object *object, const struct config *config,
		 unsigned frequency, struct samples **out);
void samples_detach(struct samples *s);
void samples_close(struct samples *s);

#endif
