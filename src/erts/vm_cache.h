/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pages of the target, kept for a moment: for walks of lists and trees whose
 * elements are small and lie close together.
 *
 * A message queue of five million messages is five million pointers to follow; a
 * system call each would take seconds, while the pages they lie in are read in
 * a fraction of one. While vm->cache is set, vm_read() of small pieces goes
 * through it. What is read is as old as the page in the cache: vm_cache_forget()
 * before what must be fresh, and after every few milliseconds of a long walk.
 * Only pages that are resident are read, whole and one by one.
 */
#ifndef BEAMRAY_ERTS_VM_CACHE_H
#define BEAMRAY_ERTS_VM_CACHE_H

#include "erts/vm.h"

#define VM_CACHE_READ_MAX 4096u /* longer reads pass by the cache */

struct vm_cache;

/* `pages`: how many are kept, a power of two. NULL when out of memory. */
struct vm_cache *vm_cache_new(size_t pages);
void vm_cache_free(struct vm_cache *c);
void vm_cache_forget(struct vm_cache *c);
/* 0; -ENODATA when a page of it is not to be had this way (the caller reads
 * directly then and learns why); -ESRCH, -EPERM, -ETIMEDOUT as target_read(). */
int vm_cache_read(struct vm_cache *c, struct vm *vm, uint64_t addr, void *buf, size_t len);

#endif
