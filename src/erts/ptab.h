/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ErtsPTab: the table that processes and ports live in, and what its identifiers
 * are made of. (process.c opens with the page that explains it.)
 */
#ifndef BEAMRAY_ERTS_PTAB_H
#define BEAMRAY_ERTS_PTAB_H

#include "erts/vm.h"

struct ptab {
	uint64_t tab, max, invalid; /* slots, their number, what an unused one may hold */
	uint64_t pix_mask, pix_cl_mask, pix_cl_shift, pix_cli_mask, pix_cli_shift;
	uint64_t dix_cl_mask, dix_cl_shift, dix_cli_mask, dix_cli_shift;
};

/* Reads the head of the table at this anchor (A_PROC, A_PORT). -ENOENT when it was
 * not found, -EFAULT when it makes no sense, or what vm_read() says. */
int ptab_read(struct vm *vm, enum anchor_id id, struct ptab *out);
/* True if identifiers hold the form of their slot (27 on), and the running number
 * that users know has to be computed. */
bool ptab_scrambles(const struct vm *vm);
/* The slot of a pid or port term. */
uint64_t ptab_slot(const struct vm *vm, const struct ptab *p, uint64_t term);
/* The data behind a term: what its text prints. `p` is used only where
 * ptab_scrambles(). */
uint64_t ptab_data(const struct vm *vm, const struct ptab *p, uint64_t term);

#endif
