/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Process independent NIF environments (enif_alloc_env) and what hangs on them.
 * (nif_env.c opens with the page that explains them.)
 */
#ifndef BEAMRAY_ERTS_NIF_ENV_H
#define BEAMRAY_ERTS_NIF_ENV_H

#include "erts/carrier.h"

struct nif_env_sum {	     /* of one owner's environments; bytes are whole blocks */
	uint64_t owner_atom; /* of the tag: the NIF's module; UINT64_MAX: none */
	uint64_t envs;
	uint64_t block_bytes;  /* the environments themselves */
	uint64_t heap_bytes;   /* heap fragments with their terms */
	uint64_t binary_bytes; /* refc binaries that those terms refer to */
	uint64_t binaries;
};

struct nif_envs {
	struct nif_env_sum *v;
	size_t n;
	unsigned driver_type, heap_type, binary_type; /* allocator numbers of the three sums */
	bool cut; /* there were more than could be read: sums are of a part */
};

/* Finds every environment among the used blocks of driver_alloc. What does not verify,
 * or changes underneath, is left out. Reads through the residency picture when there is
 * one. Errors: -ENOMEM, -ESRCH, -ETIMEDOUT. */
int nif_envs_read(struct vm *vm, const struct allocators *a, struct nif_envs **out,
		  struct error *err);
void nif_envs_free(struct nif_envs *e);
/* The sums of an owner, or NULL. */
const struct nif_env_sum *nif_envs_find(const struct nif_envs *e, uint64_t owner_atom);
uint64_t nif_env_bytes(const struct nif_env_sum *s);

#endif
