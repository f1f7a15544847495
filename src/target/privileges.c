/* SPDX-License-Identifier: Apache-2.0 */
#include "target/privileges.h"

#include <cap-ng.h>
#include <stddef.h>
#include <sys/prctl.h>

static const struct {
	unsigned capability, kinds;
} uses[] = {
	{ CAP_SYS_PTRACE, PRIVILEGE_READ },
	{ CAP_CHECKPOINT_RESTORE, PRIVILEGE_READ },
	{ CAP_DAC_READ_SEARCH, PRIVILEGE_READ | PRIVILEGE_ATTACH },
	{ CAP_SYS_ADMIN, PRIVILEGE_READ | PRIVILEGE_ATTACH },
	{ CAP_SYSLOG, PRIVILEGE_READ },
	{ CAP_BPF, PRIVILEGE_TRACE },
	{ CAP_SYS_RESOURCE, PRIVILEGE_TRACE },
	{ CAP_PERFMON, PRIVILEGE_ATTACH },
	{ CAP_DAC_OVERRIDE, PRIVILEGE_WRITE },
};

bool privilege_has(unsigned capability)
{
	if (capng_get_caps_process() < 0)
		return false;
	return capng_have_capability(CAPNG_EFFECTIVE, capability) ||
	       ((capability == CAP_BPF || capability == CAP_PERFMON) &&
		capng_have_capability(CAPNG_EFFECTIVE, CAP_SYS_ADMIN));
}

void privileges_limit(unsigned kinds)
{
	bool effective[sizeof(uses) / sizeof(uses[0])], permitted[sizeof(uses) / sizeof(uses[0])];
	size_t i;

	if (capng_get_caps_process() < 0)
		return;
	for (i = 0; i < sizeof(uses) / sizeof(uses[0]); i++) {
		effective[i] = capng_have_capability(CAPNG_EFFECTIVE, uses[i].capability);
		permitted[i] = capng_have_capability(CAPNG_PERMITTED, uses[i].capability);
	}
	capng_clear(CAPNG_SELECT_CAPS);
	for (i = 0; i < sizeof(uses) / sizeof(uses[0]); i++) {
		if (!(uses[i].kinds & kinds))
			continue;
		if (permitted[i])
			capng_update(CAPNG_ADD, CAPNG_PERMITTED, uses[i].capability);
		if (effective[i])
			capng_update(CAPNG_ADD, CAPNG_EFFECTIVE, uses[i].capability);
	}
	/* One who has fewer can always have fewer still: this does not fail. */
	capng_apply(CAPNG_SELECT_CAPS);
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
}
