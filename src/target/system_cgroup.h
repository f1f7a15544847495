/* SPDX-License-Identifier: Apache-2.0 */
/* Private to system.c and system_cgroup.c (and their tests). */
#ifndef BEAMRAY_TARGET_SYSTEM_CGROUP_H
#define BEAMRAY_TARGET_SYSTEM_CGROUP_H

#include <stdio.h>

#include "target/system.h"

/* Fills cgroup_usage, cgroup_limit, cgroup_left and cgroup_reason of *out, which the
 * caller has set to SYSTEM_UNKNOWN and "". `cgroup` is the text of /proc/PID/cgroup
 * (it is cut to pieces), `mounts` is /proc/self/mountinfo and may be NULL. */
void system_cgroup(char *cgroup, FILE *mounts, struct system_memory *out);

/* Reads a small file below the folder `dir` into `buf`, terminated. Returns its
 * length, cut to size - 1, or -1. */
ssize_t system_file(int dir, const char *name, char *buf, size_t size);

#endif
