/* SPDX-License-Identifier: Apache-2.0 */
/* Loaded libraries of native code: NIFs of modules, and drivers. */
#ifndef BEAMRAY_ERTS_NIF_LIBRARY_H
#define BEAMRAY_ERTS_NIF_LIBRARY_H

#include "erts/carrier.h"
#include "erts/port.h"

struct native_library {
	bool driver;	    /* else NIFs */
	bool old;	    /* of a module's old code only */
	uint64_t addr;	    /* erl_module_nif or erts_driver_t in the target */
	uint64_t atom;	    /* NIFs: number of the module's atom; drivers: UINT64_MAX */
	char *name;	    /* module or driver, escaped */
	char *path;	    /* of its file, escaped; "" when not known. Built-in: the emulator's */
	uint32_t functions; /* NIFs */
	char *function_names; /* "f/1 g/2", escaped, at most 4 kB of them; "" for drivers */
	uint32_t ports;	      /* that run the driver */
	uint64_t refc;	      /* NIFs: what keeps it loaded */
	uint64_t blocks, bytes, resident; /* of the VM's memory, by their tags */
};

struct native_libraries {
	struct native_library *v; /* by bytes, then by name */
	size_t n;
	bool drivers_torn; /* the list of drivers did not hold together */
};

/* `c`: a walk with tags, or NULL: then no bytes. `p`: drivers are found through the
 * ports that run them; NULL: none. Errors: -ENOMEM, -ESRCH, -ETIMEDOUT. */
int native_libraries_read(struct vm *vm, const struct carriers *c, const struct ports *p,
			  struct native_libraries **out, struct error *err);
void native_libraries_free(struct native_libraries *n);

#endif
