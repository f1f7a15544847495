/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What to do about a finding
 *
 * One table, by code, subject and mechanism. Settings were read in the documentation
 * and source of erts_alloc of OTP 23, 25, 27 and 29, and nodes of each were started with
 * them (tests/scenarios/t_doctor_flags.py); `from` is the first of those releases that
 * takes it. Two things that are easily got wrong:
 *
 *	as aobf    turns carrier migration (acul) off: only aoff, aoffc* and ageffc*
 *	           have it, so the advice is aoffcaobf
 *	acful      is 0 by default: free space of abandoned carriers stays resident until
 *	           it is set, and is never given back above acul
 */
#include "ledger/advice.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* %p is the pid, %S the letter of the allocator in +M<S> flags. */
static const struct {
	enum finding_code code;
	const char *subject;   /* NULL: any */
	const char *mechanism; /* NULL: any */
	int from;	       /* release; 0: any */
	const char *text;
} table[] = {
	{ FINDING_NIF_LEAK, NULL, "libc", 0,
	  "the function at the top of the stack keeps what it mallocs: check that each path frees "
	  "it, error paths and destructors of resources included" },
	{ FINDING_NIF_LEAK, NULL, "mmap", 0,
	  "the function at the top of the stack maps memory: look for the munmap that belongs to "
	  "it" },
	{ FINDING_NIF_LEAK, NULL, "enif_alloc", 0,
	  "enif_alloc without enif_free on some path of this module" },
	{ FINDING_NIF_LEAK, NULL, "resource", 0,
	  "a resource lives as long as a term refers to it or its maker keeps it: look for "
	  "enif_alloc_resource or enif_keep_resource without enif_release_resource, then for a "
	  "process or table that holds the terms" },
	{ FINDING_NIF_LEAK, NULL, "env", 0,
	  "enif_alloc_env without enif_free_env; an environment that is used again grows until "
	  "enif_clear_env or enif_send empties it" },
	{ FINDING_NIF_LEAK, NULL, "enif_alloc", 0,
	  "inside the node: instrument:allocations(). lists blocks by module and type" },
	{ FINDING_NIF_LEAK, NULL, "resource", 0,
	  "inside the node: instrument:allocations(). lists blocks by module and type" },
	{ FINDING_NIF_LEAK, NULL, NULL, 0, "watch it longer: beamray doctor -p %p -d 5m" },
	{ FINDING_DRIVER_LEAK, NULL, "driver_alloc", 0,
	  "driver_alloc without driver_free; the driver's stop callback must free what a port "
	  "holds" },
	{ FINDING_DRIVER_LEAK, NULL, "driver_binary", 0,
	  "driver_alloc_binary without driver_free_binary: driver_output_binary takes a reference "
	  "of its own, the driver's stays" },
	{ FINDING_DRIVER_LEAK, NULL, "libc", 0,
	  "the function at the top of the stack keeps what it mallocs; the driver's stop callback "
	  "must free what a port holds" },
	{ FINDING_DRIVER_LEAK, NULL, NULL, 0,
	  "inside the node: [{P, erlang:port_info(P)} || P <- erlang:ports()]. tells which ports "
	  "use it" },
	{ FINDING_NATIVE_GROWTH, "unknown", NULL, 0,
	  "watch longer, so that malloc itself is watched: beamray doctor -p %p -d 5m" },
	{ FINDING_NATIVE_GROWTH, "unknown", NULL, 0,
	  "beamray list -p %p lost shows every size, and which thread's arena it is in" },
	{ FINDING_NATIVE_GROWTH, NULL, NULL, 0,
	  "look who calls it: beamray record -p %p -o FILE, then beamray report FILE --kind "
	  "growth" },
	{ FINDING_THREAD_STACKS, NULL, NULL, 0,
	  "threads are started and not ended, or not joined: enif_thread_join, or detach them; a "
	  "pool keeps their number" },

	{ FINDING_VM_DATA, "processes", NULL, 0,
	  "inside the node: recon:proc_count(memory, 10). and recon:proc_count("
	  "message_queue_len, 10)." },
	{ FINDING_VM_DATA, "processes", NULL, 0,
	  "a queue that grows wants back pressure: call instead of cast, or a bounded buffer; "
	  "process_flag(message_queue_data, off_heap) keeps it out of the collector's way" },
	{ FINDING_VM_DATA, "binary", NULL, 0,
	  "inside the node: recon:bin_leak(10). collects garbage everywhere and names processes "
	  "that let go of most binaries" },
	{ FINDING_VM_DATA, "binary", NULL, 0,
	  "binary:copy/1 for small parts of large binaries that are kept; hibernate processes "
	  "that only pass binaries on" },
	{ FINDING_VM_DATA, "ets", NULL, 0,
	  "inside the node: lists:sort([{ets:info(T, memory), T} || T <- ets:all()])." },
	{ FINDING_VM_DATA, "atom", NULL, 0,
	  "atoms are never collected, and the node ends at the limit (+t): binary_to_existing_atom "
	  "for what comes from outside" },
	{ FINDING_VM_DATA, "code", NULL, 0,
	  "inside the node: length(code:all_loaded()). tells whether modules are generated" },
	{ FINDING_VM_DATA, "literal", NULL, 0,
	  "inside the node: persistent_term:info(). and the modules that were loaded last" },
	{ FINDING_VM_DATA, "driver", NULL, 0,
	  "inside the node: instrument:allocations(). lists driver_alloc by owner" },
	{ FINDING_VM_DATA, "system", NULL, 0,
	  "inside the node: erlang:memory(). and recon_alloc:memory(allocated_types)." },

	{ FINDING_VM_FRAGMENTATION, "binary_alloc", NULL, 0,
	  "long-lived binaries between short-lived ones pin the carriers: recon:bin_leak(10). "
	  "frees those that wait for a collection of an idle process" },
	{ FINDING_VM_FRAGMENTATION, "eheap_alloc", NULL, 0,
	  "after a spike of big heaps: erlang:garbage_collect(Pid) on large idle processes, or "
	  "hibernate them" },
	{ FINDING_VM_FRAGMENTATION, "ets_alloc", NULL, 0,
	  "a table that was large and is now small keeps carriers alive: rebuild it into a new "
	  "one, or age objects out in the order in which they came" },
	{ FINDING_VM_FRAGMENTATION, "driver_alloc", NULL, 0,
	  "beamray memory -p %p names the modules and drivers whose blocks are left" },
	{ FINDING_VM_FRAGMENTATION, NULL, NULL, 25,
	  "+M%Sacful de: unused pages of abandoned carriers go back to the kernel (MADV_FREE: "
	  "they count as resident until it wants them); costs page faults when they are used "
	  "again" },
	{ FINDING_VM_FRAGMENTATION, NULL, NULL, 29,
	  "+Mumadtn true beside acful: MADV_DONTNEED, so that RSS falls at once; costs a fault "
	  "and a zeroed page for each that is used again" },
	{ FINDING_VM_FRAGMENTATION, NULL, NULL, 0,
	  "+M%Sas aoffcaobf: lowest carrier first, so that high ones empty; costs a little "
	  "time for each allocation (aobf would turn carrier migration off)" },
	{ FINDING_VM_FRAGMENTATION, NULL, NULL, 0,
	  "+M%Slmbcs 512: smaller carriers empty sooner; costs more of them, and more mmap calls" },
	{ FINDING_VM_FRAGMENTATION, "eheap_alloc", NULL, 0,
	  "+M%Srmbcmt 100: blocks of heaps that shrink stay in their carrier only when little is "
	  "left over; costs copying" },
	{ FINDING_VM_FRAGMENTATION, NULL, NULL, 0,
	  "+M%Ssbct 64: blocks above 64 KB get carriers of their own, which go when they go; "
	  "costs an mmap each" },
	{ FINDING_VM_RETAINED, "mseg", NULL, 0,
	  "the VM keeps it for the next spike; +MMmcs 0 keeps no segments (default 10), "
	  "+MMamcbf and +MMrmcbf bound how oversized a cached one may be; costs an mmap and page "
	  "faults for each large allocation" },
	{ FINDING_VM_RETAINED, "super_carrier", NULL, 0,
	  "+MMscs reserves it, +MMscrpm false reserves no physical memory in advance" },
	{ FINDING_LIBC_FRAGMENTATION, NULL, NULL, 0,
	  "MALLOC_TRIM_THRESHOLD_=131072 gives the top of the heap back sooner, MALLOC_ARENA_MAX=2 "
	  "limits the arenas (both in the environment at the node's start); costs system calls "
	  "and contention" },
	{ FINDING_LIBC_FRAGMENTATION, NULL, NULL, 0,
	  "malloc_trim(0), called by a NIF, gives back whole free pages in all arenas" },
	{ FINDING_INCONCLUSIVE, NULL, NULL, 0, "beamray check -p %p tells what is missing" },
};

static const struct {
	const char *allocator;
	char letter;
} letters[] = {
	{ "binary_alloc", 'B' }, { "std_alloc", 'D' },	 { "ets_alloc", 'E' },
	{ "fix_alloc", 'F' },	 { "eheap_alloc", 'H' }, { "ll_alloc", 'L' },
	{ "sl_alloc", 'S' },	 { "temp_alloc", 'T' },	 { "driver_alloc", 'R' },
};

void advice_add(struct finding *f, const char *fmt, ...)
{
	va_list ap;

	if (f->n_advice == FINDING_ADVICE)
		return;
	va_start(ap, fmt);
	vsnprintf(f->advice[f->n_advice++], sizeof(f->advice[0]), fmt, ap);
	va_end(ap);
}

static char letter_of(const char *allocator)
{
	size_t i;

	for (i = 0; i < sizeof(letters) / sizeof(letters[0]); i++)
		if (strcmp(letters[i].allocator, allocator) == 0)
			return letters[i].letter;
	return 0;
}

/* False when the text speaks of a flag that this subject has not. */
static bool fill(char *out, size_t size, const char *text, const struct finding *f, int pid)
{
	char letter = letter_of(f->subject);
	size_t n = 0;

	for (; *text && n + 32 < size; text++) {
		if (text[0] == '%' && text[1] == 'S') {
			if (!letter)
				return false;
			out[n++] = letter;
		} else if (text[0] == '%' && text[1] == 'p') {
			n += (size_t)snprintf(out + n, 16, "%d", pid);
		} else {
			out[n++] = *text;
			continue;
		}
		text++;
	}
	out[n] = 0;
	return true;
}

void advice_give(struct finding *f, const struct verdict_input *in)
{
	int release = atoi(in->o->vm->otp_release);
	size_t i;

	for (i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
		char text[320];

		if (table[i].code != f->code || release < table[i].from ||
		    (table[i].subject && strcmp(table[i].subject, f->subject) != 0) ||
		    (table[i].mechanism && strcmp(table[i].mechanism, f->mechanism) != 0))
			continue;
		if (fill(text, sizeof(text), table[i].text, f, (int)target_pid(in->o->target)))
			advice_add(f, "%s", text);
	}
}
