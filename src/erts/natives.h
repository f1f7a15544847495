/* SPDX-License-Identifier: Apache-2.0 */
/*
 * C functions that the VM knows by an Erlang name: NIFs and BIFs. For libraries
 * and a beam.smp that are stripped, these are the only names there are.
 */
#ifndef BEAMRAY_ERTS_NATIVES_H
#define BEAMRAY_ERTS_NATIVES_H

#include "erts/vm.h"

struct native_function {
	uint64_t addr;	  /* where it begins */
	const char *name; /* "leak_nif:leak_malloc/1", escaped, quoted as Erlang does */
	bool nif;	  /* else a BIF */
};

/* A loaded NIF library, as the VM holds it for one module. */
struct native_private {
	uint64_t function;  /* one of its NIFs: leads to the image */
	uint64_t priv_data; /* what its load() left there; 0: nothing */
};

struct natives {
	struct native_function *v; /* by address; of equal ones the first stays */
	size_t n;
	size_t modules;			 /* with NIFs */
	struct native_private *privates; /* of modules with NIFs */
	size_t n_privates;
	char *strings;
};

/* Reads the NIFs of every module that has some (Module.curr.nif and .old.nif:
 * erl_module_nif holds a copy of the library's ErlNifEntry, OTP 23 to 29) and
 * the BIF table. What cannot be found or read is left out: an empty result is
 * no error. -ENOMEM, -ESRCH, -ETIMEDOUT. */
int natives_read(struct vm *vm, struct natives **out, struct error *err);
void natives_free(struct natives *n);
/* Calls fn for every library of NIFs that a module has, now or in its old code: the
 * address of its erl_module_nif and the number of the module's atom. The VM keeps
 * three tables of modules that hold mostly the same: a library may come several
 * times. 0, what fn returned, or what ends all reading. */
typedef int (*natives_nif_fn)(void *ctx, uint64_t nif, uint64_t module, bool old);
int natives_each_nif(struct vm *vm, natives_nif_fn fn, void *ctx);
/* The file name of the library that gave `module` (text of the atom, escaped) its
 * NIFs, escaped. False if the module has none or
 * its library is not among the images. */
bool natives_library(const struct natives *n, const struct images *images, const char *module,
		     char *buf, size_t size);
/* The function that begins exactly at `addr`, or NULL. */
const struct native_function *natives_find(const struct natives *n, uint64_t addr);

#endif
