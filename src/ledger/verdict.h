/* SPDX-License-Identifier: Apache-2.0 */
/* What is wrong with this node's memory, from one look or from two. (verdict.c
 * opens with the page that explains how it decides.) */
#ifndef BEAMRAY_LEDGER_VERDICT_H
#define BEAMRAY_LEDGER_VERDICT_H

#include "erts/nif_env.h"
#include "ledger/ledger.h"
#include "ledger/native.h"
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
	char what[240]; /* escaped */
	int64_t value;
	const char *unit; /* "bytes", "percent", "blocks", "carriers", "threads" ... */
};

#define FINDING_EVIDENCE 16
#define FINDING_STACKS	 5
#define FINDING_ADVICE	 8

struct finding {
	enum finding_code code;
	char subject[128];   /* library, allocator, category; "" where none; escaped */
	char mechanism[16];  /* "libc", "mmap", "enif_alloc", "resource" ...; "" where none */
	char owner[192];     /* process, table, module; "" if unknown; escaped */
	uint64_t bytes;	     /* resident bytes that it explains at the end */
	uint64_t grew_bytes; /* what of it came during the watch */
	uint64_t lost_bytes; /* proven lost: nothing points to them, in two looks */
	double bytes_per_s;
	bool rises;	   /* a state that came during the watch and still rises at its end */
	bool kept;	   /* something still points to it */
	double grew_until; /* seconds after the first ledger; < 0: it still grew at the end, or
			      nobody looked in between */
	enum confidence confidence;
	char why[320]; /* the reason for the confidence */
	struct evidence evidence[FINDING_EVIDENCE];
	size_t n_evidence;
	const struct profile_stack *stacks[FINDING_STACKS]; /* of the profiles that were given */
	size_t n_stacks;
	char advice[FINDING_ADVICE][320];
	size_t n_advice;
};

struct verdict {
	/* what grew during the watch, largest first, then all else, largest first; at least one */
	struct finding *v;
	size_t n;
	/* Seconds until the cgroup is full if all that grows goes on as it did; < 0: it has no
	 * limit, or nothing grows. */
	double cgroup_full_in;
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

/* "native=64K", "vm=8M,5%", "held=16M,20%", "cgroup=80%", "explained=80%": changes one
 * threshold. -EINVAL with the sentence in err. */
int verdict_opts_set(struct verdict_opts *o, const char *text, struct error *err);
/* "64K", "8M", "1G", "4096": bytes; false if it is not one. */
bool bytes_parse(const char *text, size_t len, uint64_t *out);

/* One side of the watch. */
struct verdict_side {
	const struct look *look;
	const struct ledger *ledger;
	const struct nif_envs *envs; /* process independent environments; NULL: not read */
	/* Bytes of refc binaries that processes, queues, tables and ports refer to, each
	 * once; UINT64_MAX: not known, or not all of it was looked at. */
	uint64_t binaries_held;
};

/* What the ledger was in between. */
struct verdict_moment {
	double at; /* seconds after the first ledger */
	const struct ledger *ledger;
	const struct tag_sum *tags;
	size_t n_tags;
};

/* What the tracer saw; all of it may be missing. */
struct verdict_trace {
	const struct profile *growth; /* NULL: no tracing */
	/* malloc and free of the time after they were attached, when that was needed;
	 * bytes that were taken since and not given back. NULL: never attached. */
	const struct profile *native;
	double native_from;	       /* seconds after the first ledger: a moment was taken */
	int64_t native_then;	       /* bytes that it had at that moment already */
	const struct symbols *symbols; /* names of both */
	const char *why_missing;       /* a sentence when growth is NULL */
	const char *native_note;       /* a sentence about the probes on malloc, or NULL */
	uint64_t lost;		       /* events and stacks */
};

/* Category of a verdict_owner: processes that did nothing during the watch, with bytes
 * of binaries that nobody else refers to. */
#define VERDICT_IDLE "idle binary"
/* The same with the allocator's name behind it: whose blocks keep its nearly empty
 * carriers, with the free resident bytes of those. */
#define VERDICT_PIN "pin:"

/* Who in the VM holds how much of one category, at both ends. */
struct verdict_owner {
	char category[40]; /* "processes", "ets", "binary", "atom", "code", "literal" */
	char name[192];	   /* escaped: "ill_queue, waits in ill:loop/1" */
	uint64_t before, after;
};

/* The still image scan after the second ledger. */
struct verdict_scan {
	const struct native *native; /* NULL: not done */
	char why[160];		     /* ... or nothing can be said from it: the reason */
};

/* The file name of the library that module `atom` (index) loaded as NIF; false
 * if unknown. */
typedef bool verdict_library_fn(void *arg, uint64_t atom, char *buf, size_t size);

struct verdict_input {
	const struct observer *o;
	struct verdict_side before; /* look == NULL: a still image */
	struct verdict_side after;
	double seconds; /* of the watch */
	/* Between the two ledgers: longer than the watch by what else is read and attached
	 * before it begins. What grew, grew in this time. */
	double apart;
	const struct verdict_moment *moments;
	size_t n_moments;
	const struct verdict_owner *owners;
	size_t n_owners;
	struct verdict_scan scan;
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
/* In the middle of a watch (`after` is the last look): what libc's heap grew by, and
 * what stacks of page faults explain of that; bytes. */
void verdict_so_far(const struct verdict_input *in, int64_t *grew, int64_t *explained);

const char *finding_code_name(enum finding_code code); /* "nif-leak" */
/* The answer in one sentence, with %s for the subject, %b for bytes, %g for what of it
 * came during the watch, %m for the mechanism in words and %o for the owner. */
const char *finding_words(const struct finding *f);
const char *mechanism_words(const char *mechanism);
/* Is it a claim that something grew? */
bool finding_grows(const struct finding *f);
const char *confidence_name(enum confidence c); /* "high" */

#endif
