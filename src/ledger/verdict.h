/* SPDX-License-Identifier: Apache-2.0 */
/* What is wrong with this node's memory, from one look or from two. (verdict.c
 * opens with the page that explains how it decides.) */
#ifndef BEAMRAY_LEDGER_VERDICT_H
#define BEAMRAY_LEDGER_VERDICT_H

#include "ledger/ledger.h"
#include "profile/symbolize.h"

enum finding_code {
	FINDING_HEALTHY,
	FINDING_VM_DATA,
	FINDING_VM_FRAGMENTATION,
	FINDING_VM_RETAINED,
	FINDING_NIF_LEAK,
	FINDING_DRIVER_LEAK,
	FINDING_NATIVE_GROWTH,
	FINDING_LIBC_FRAGMENTATION,
	FINDING_THREAD_STACKS,
	FINDING_INCONCLUSIVE,
};

enum confidence { CONFIDENCE_LOW, CONFIDENCE_MEDIUM, CONFIDENCE_HIGH };

struct evidence {
	char what[160]; /* escaped */
	int64_t value;
	const char *unit; /* "bytes", "bytes/s", "percent", "blocks", "stacks" */
};

#define FINDING_EVIDENCE 12
#define FINDING_STACKS	 5
#define FINDING_ADVICE	 6

struct finding {
	enum finding_code code;
	char subject[128];   /* library, allocator, category; "" where none; escaped */
	char mechanism[16];  /* "libc", "mmap", "enif_alloc", "resource" ...; "" where none */
	char owner[192];     /* process, table, module; "" if unknown */
	uint64_t bytes;	     /* resident bytes that it explains at the end */
	uint64_t grew_bytes; /* what of it came during the watch */
	double bytes_per_s;
	enum confidence confidence;
	char why[256]; /* the reason for the confidence */
	struct evidence evidence[FINDING_EVIDENCE];
	size_t n_evidence;
	const struct profile_stack *stacks[FINDING_STACKS]; /* of the profile that was given */
	size_t n_stacks;
	char advice[FINDING_ADVICE][320];
	size_t n_advice;
};

struct verdict {
	struct finding *v; /* largest first; at least one */
	size_t n;
};

/* Thresholds: a finding needs the floor and the ratio. Ratios are of RSS. */
struct verdict_opts {
	uint64_t native_floor;	/* growth of native memory or of one tagged owner: 1 MiB */
	uint64_t vm_floor;	/* growth of VM data: 8 MiB ... */
	double vm_ratio;	/* ... and 5% */
	uint64_t held_floor;	/* fragmentation, retained, libc free: 16 MiB ... */
	double held_ratio;	/* ... and 20% */
	double cgroup_ratio;	/* of the cgroup's limit: 80% */
	double explained_ratio; /* growth stacks must explain this much of native growth: 80% */
};
extern const struct verdict_opts verdict_defaults;

/* One side of the watch. */
struct verdict_side {
	const struct look *look;
	const struct ledger *ledger;
};

/* What the tracer saw; all of it may be missing. */
struct verdict_trace {
	const struct profile *growth;  /* NULL: no tracing */
	const struct symbols *symbols; /* its names */
	const char *why_missing;       /* a sentence when growth is NULL */
	uint64_t lost;		       /* events and stacks */
};

/* The file name of the library that module `atom` (index) loaded as NIF; false
 * if unknown. */
typedef bool verdict_library_fn(void *arg, uint64_t atom, char *buf, size_t size);

struct verdict_input {
	const struct observer *o;
	struct verdict_side before; /* look == NULL: a still image */
	struct verdict_side after;
	double seconds; /* of the watch */
	/* The target ended while it was watched (a sentence): `after` is then the
	 * first ledger, `before` is empty, and growth is known by its stacks alone. */
	const char *ended;
	struct verdict_trace trace;
	verdict_library_fn *library;
	void *library_arg;
};

int verdict_make(const struct verdict_input *in, const struct verdict_opts *opts,
		 struct verdict **out);
void verdict_free(struct verdict *v);

const char *finding_code_name(enum finding_code code); /* "nif-leak" */
const char *confidence_name(enum confidence c);	       /* "high" */

#endif
