/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Off-heap lists: what ties a heap, a message or an ETS row to things that live
 * outside of it, refc binaries above all.
 *
 *	first -> { thing_word, ..., next } -> { thing_word, ..., next } -> 0
 *
 * An element is a ProcBin (up to 25) or BinRef (27 on), which refer to a Binary; a
 * fun, a magic reference, or a pid, port or reference of another node
 * (erl_message.h, erl_off_heap_header). All have `next` in the same place.
 */
#ifndef BEAMRAY_ERTS_OFF_HEAP_H
#define BEAMRAY_ERTS_OFF_HEAP_H

#include "erts/vm.h"

/* Called for every reference to a refc binary, with the Binary's address. A
 * negative return ends the walk and is returned. */
typedef int (*off_heap_fn)(void *ctx, uint64_t binary);

/* Walks a list; `packed`: elements may lie at any address (compressed ETS rows).
 * Elements that are no binaries are passed over: a magic reference is no binary, as
 * for process_info(P, binary). 0; -EAGAIN when it does not hold together (torn: what
 * was called so far stands); or what ends all reading. */
int off_heap_walk(struct vm *vm, uint64_t first, bool packed, off_heap_fn fn, void *ctx);
/* Walks the lists of a chain of heap fragments (ErlHeapFragment.next). */
int off_heap_fragments(struct vm *vm, uint64_t fragment, off_heap_fn fn, void *ctx);

#endif
