/* SPDX-License-Identifier: Apache-2.0 */
/* Private to target.c and memory.c. */
#ifndef BEAMRAY_TARGET_TARGET_PRIVATE_H
#define BEAMRAY_TARGET_TARGET_PRIVATE_H

#include <limits.h>
#include <stdatomic.h>
#include <sys/stat.h>

#include "target/target.h"

#define BUILD_ID_MAX 64

struct target {
	pid_t pid, nspid;
	int proc_fd; /* /proc/PID, kept open: its files fail with ESRCH once the process is gone */
	int pagemap_fd; /* opened at the first target_present_now(); -1 before */
	uint64_t start_ticks;
	char start_time[32];
	dev_t exe_dev;
	ino_t exe_ino;
	char exe[PATH_MAX];
	char build_id[2 * BUILD_ID_MAX + 1];

	/* a target made of buffers */
	struct target_buffer *buffers;
	size_t n_buffers;

	/* the system call that is under way, for the guard */
	_Atomic uint64_t call_since; /* CLOCK_MONOTONIC ns, 0: none */
	_Atomic bool stuck;

	_Atomic uint64_t reads, read_bytes, faults, longest_ns;
};

#endif
