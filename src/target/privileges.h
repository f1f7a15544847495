/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Capabilities: each part of the work has its own, and what a command does not need is
 * given up before it looks at anything.
 *
 * Capabilities belong to threads: a thread gives up its own, and those that it makes
 * later begin without.
 */
#ifndef BEAMRAY_TARGET_PRIVILEGES_H
#define BEAMRAY_TARGET_PRIVILEGES_H

#include <stdbool.h>

enum privilege {
	/* To read a target: CAP_SYS_PTRACE; CAP_CHECKPOINT_RESTORE (files that it has
	 * mapped), CAP_DAC_READ_SEARCH (files of other users), CAP_SYS_ADMIN (page frame
	 * numbers, to tell zero pages) and CAP_SYSLOG (names of kernel addresses) where
	 * they are there. */
	PRIVILEGE_READ = 1,
	/* To load programs and read their maps: CAP_BPF; CAP_SYS_RESOURCE where there is
	 * a limit on locked memory (before Linux 5.11). */
	PRIVILEGE_TRACE = 2,
	/* To attach them: CAP_PERFMON; CAP_SYS_ADMIN before Linux 6.6. */
	PRIVILEGE_ATTACH = 4,
	/* To write where the user wants it: CAP_DAC_OVERRIDE. */
	PRIVILEGE_WRITE = 8,
};

/* Gives up, for good, what is not in `kinds` (of enum privilege). */
void privileges_limit(unsigned kinds);
/* Does this thread have the capability (CAP_BPF ...)? CAP_SYS_ADMIN stands for CAP_BPF
 * and CAP_PERFMON too, as it does for the kernel. */
bool privilege_has(unsigned capability);

#endif
