/* SPDX-License-Identifier: Apache-2.0 */
#include "report/account_groups.h"

#include <string.h>

/* What the VM says it uses, what it holds beside that, what is not the VM's. */
const struct account_group account_groups[ACCOUNT_GROUPS] = {
	{ "VM used", "blocks in use: the node's own data", { "vm.used" } },
	{ "VM free", "free space in carriers: fragmentation", { "vm.free" } },
	{ "VM slack, cache", "carrier headers, tails, cached segments", { "vm.slack", "vm.cache" } },
	{ "VM code, stacks", "JIT code (mapped twice), thread stacks", { "vm.code", "vm.stack" } },
	{ "native used",
	  "NIFs, drivers, libraries: malloc and mmap",
	  { "native.heap.used", "native.mmap", "native.stack" } },
	{ "native free", "free memory inside libc's heap", { "native.heap.free" } },
	{ "files, kernel",
	  "program and library text, files, shared",
	  { "image", "file", "shared", "kernel" } },
	{ "unattributed", "what nobody here can name", { "unattributed" } },
};

size_t account_group_of(const char *account)
{
	size_t i, k;

	for (i = 0; i < ACCOUNT_GROUPS; i++)
		for (k = 0; k < 4 && account_groups[i].prefixes[k]; k++) {
			size_t n = strlen(account_groups[i].prefixes[k]);

			if (strncmp(account, account_groups[i].prefixes[k], n) == 0 &&
			    (account[n] == '\0' || account[n] == '.'))
				return i;
		}
	return ACCOUNT_GROUPS - 1;
}
