/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BEAMRAY_PROFILE_KERNEL_SYMBOLS_H
#define BEAMRAY_PROFILE_KERNEL_SYMBOLS_H

#include <stddef.h>
#include <stdint.h>

/* One address in the kernel and the function it is in. */
struct kernel_symbol {
	uint64_t addr;
	uint64_t start; /* of the function, 0 if unknown */
	char name[128]; /* raw, "" if unknown; "[module]" left out */
};

/* Names v[0..n), which must be sorted by addr, in one pass over /proc/kallsyms
 * (which needs CAP_SYSLOG or a lenient kptr_restrict; without, names stay
 * empty). 0 or -errno. */
int kernel_symbols(struct kernel_symbol *v, size_t n);

#endif
