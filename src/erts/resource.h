/* SPDX-License-Identifier: Apache-2.0 */
/* NIF resource types and how many resources of each live. (resource.c opens with
 * the page that explains them.) */
#ifndef BEAMRAY_ERTS_RESOURCE_H
#define BEAMRAY_ERTS_RESOURCE_H

#include "erts/carrier.h"

struct resource_type {
	uint64_t addr;		  /* ErlNifResourceType in the target */
	uint64_t module, name;	  /* atom terms */
	uint64_t library;	  /* erl_module_nif that destroys its resources, 0: none any more */
	uint64_t live;		  /* resources by the type's own count; UINT64_MAX: not known */
	uint64_t found;		  /* blocks found in carriers */
	uint64_t bytes, resident; /* of these, whole blocks */
	bool listed;		  /* it is in the VM's list; else its module is gone */
};

struct resource_types {
	struct resource_type *v; /* by bytes, largest first */
	size_t n;
	bool list_known; /* the VM's list was found: types without a resource are here too */
	bool torn;	 /* it did not hold together: some types may be missing */
};

/* `c`: a walk with carriers_opts.tags and .resources, or NULL: then there are no
 * bytes. Errors: -ENOENT (this release's types are not known), -ENOMEM, -ESRCH,
 * -ETIMEDOUT. */
int resource_types_read(struct vm *vm, const struct carriers *c, struct resource_types **out,
			struct error *err);
void resource_types_free(struct resource_types *t);
/* The type at this address, or NULL. Linear. */
const struct resource_type *resource_types_find(const struct resource_types *t, uint64_t addr);

#endif
