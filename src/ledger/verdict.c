/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The verdict: from two ledgers and what was seen in between to findings
 *
 *      before ------- moments, stacks, tags ------- after
 *     ledger A                                    ledger B
 *
 * A table of rules. Every rule has a floor (bytes that matter to anybody) and most
 * have a ratio (bytes that matter to this node); a finding needs both. What is held
 * (free space in carriers, cached carriers, libc's free memory) can be judged from
 * ledger B alone, so a still image may say it. What leaks can not: growth needs A and
 * B, and what was given back before B is no growth, however much of it there was.
 *
 * What came during the watch is told first, what was there before it afterwards, each
 * largest first. The two are not of one kind: 12 MB in half a minute will be gigabytes
 * tomorrow, 30 MB of free space that a busy node always has will be 30 MB. So a state
 * counts as coming only while it still rises at the end, and by more than its own ups and
 * downs (state_rises()).
 *
 * A byte belongs to one finding. The rules run in the order of the table, and one that
 * can name who took the bytes comes before one that can only name the kind: what a
 * rule has explained of an allocator's growth is left out by those after it (`taken`).
 *
 * verdict_native.c   libc's heap, mappings and stacks of threads
 * verdict_lost.c     what of it nobody points to, from before the watch too
 * verdict_tagged.c   blocks of the VM's allocators that carry the name of a module or
 *                    driver; NIF environments
 * verdict_data.c     the VM's own data, and who in the VM holds it
 * verdict_held.c     memory that nobody uses: fragmentation, caches, libc's free chunks
 * advice.c           what to do about it
 */
#include "ledger/verdict_int.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MIB	     (1ULL << 20)
#define FINDINGS_MAX 64

const struct verdict_opts verdict_defaults = {
	.native_floor = 1 * MIB,
	.vm_floor = 8 * MIB,
	.vm_ratio = 0.05,
	.held_floor = 16 * MIB,
	.held_ratio = 0.20,
	.cgroup_ratio = 0.80,
	.explained_ratio = 0.80,
};

#define AT(member) offsetof(struct verdict_opts, member)

static const struct rule rules[] = {
	{ "thread stacks", true, AT(native_floor), 0, rule_stacks },
	{ "native memory", true, AT(native_floor), 0, rule_native },
	{ "lost memory", false, AT(native_floor), 0, rule_lost },
	{ "environments", true, AT(native_floor), 0, rule_envs },
	{ "tagged blocks", true, AT(native_floor), 0, rule_tagged },
	{ "data", true, AT(vm_floor), AT(vm_ratio), rule_data },
	{ "data near the limit", false, AT(vm_floor), 0, rule_tight },
	{ "fragmentation", false, AT(held_floor), AT(held_ratio), rule_fragmentation },
	{ "retained", false, AT(held_floor), AT(held_ratio), rule_retained },
	{ "libc", false, AT(held_floor), AT(held_ratio), rule_libc },
};

/* ---- words --------------------------------------------------------------------------- */

static const struct {
	const char *name;
	const char *grew;  /* the answer when it grew ... */
	const char *still; /* ... and when it is only there */
} codes[] = {
	[FINDING_HEALTHY] = { "healthy", NULL, "Healthy: nothing is above its threshold." },
	[FINDING_VM_DATA] = { "vm-data", "The node's own data grows: %s by %g, now %b.",
			      "The node's own data fills it: %s holds %b." },
	[FINDING_VM_FRAGMENTATION] = { "vm-fragmentation", NULL,
				       "VM fragmentation: %s holds %b that it does not use, in "
				       "carriers that cannot be given back." },
	[FINDING_VM_RETAINED] = { "vm-retained", NULL,
				  "The VM keeps %b for later: %s, without a used block." },
	[FINDING_NIF_LEAK] = { "nif-leak",
			       "A NIF leaks: %s took %g of %m and does not give it "
			       "back.",
			       "A NIF leaks: %s has lost %b of %m." },
	[FINDING_DRIVER_LEAK] = { "driver-leak",
				  "A driver leaks: %s took %g of %m and does not "
				  "give it back.",
				  "A driver leaks: %s has lost %b of %m." },
	[FINDING_NATIVE_GROWTH] = { "native-growth",
				    "Native memory grows by %g (%m), through %s, which is no NIF "
				    "and no driver.",
				    "%b of %m are lost: nobody points to them; through %s." },
	[FINDING_LIBC_FRAGMENTATION] = { "libc-fragmentation", NULL,
					 "libc fragmentation: %s holds %b that is free but "
					 "resident." },
	[FINDING_THREAD_STACKS] = { "thread-stacks",
				    "Thread stacks grow by %g, now %b: threads "
				    "of %s.",
				    "Thread stacks take %b: threads of %s." },
	[FINDING_INCONCLUSIVE] = { "inconclusive", NULL, "Inconclusive: %s is missing." },
};

static const struct {
	const char *name, *words;
} mechanisms[] = {
	{ "libc", "malloc memory" },
	{ "mmap", "memory mappings" },
	{ "enif_alloc", "enif_alloc memory" },
	{ "resource", "NIF resources" },
	{ "env", "NIF environments" },
	{ "thread", "thread stacks" },
	{ "driver_alloc", "driver_alloc memory" },
	{ "driver_binary", "driver binaries" },
};

const char *finding_code_name(enum finding_code code)
{
	return codes[code].name;
}

const char *finding_words(const struct finding *f)
{
	if (f->kept && f->code == FINDING_NIF_LEAK)
		return "A NIF grows: %s took %g of %m that it did not give back; it is kept, still "
		       "reachable.";
	if (f->code == FINDING_NATIVE_GROWTH && strcmp(f->subject, "unknown") == 0 && f->grew_bytes)
		return "Native memory grows by %g (%m), and nobody was seen to take it.";
	if (f->code == FINDING_NATIVE_GROWTH && strcmp(f->subject, "unknown") == 0 && f->owner[0])
		return "Lost: nobody points to %b of %m any more; likely it is the leak of %o, "
		       "from before the watch.";
	if (f->code == FINDING_NATIVE_GROWTH && strcmp(f->subject, "unknown") == 0)
		return "Lost: nobody points to %b of %m any more; whose it was is not known.";
	if (f->code == FINDING_THREAD_STACKS && !f->subject[0])
		return "Thread stacks grow by %g, now %b.";
	return f->grew_bytes && codes[f->code].grew ? codes[f->code].grew : codes[f->code].still;
}

const char *mechanism_words(const char *mechanism)
{
	size_t i;

	for (i = 0; i < sizeof(mechanisms) / sizeof(mechanisms[0]); i++)
		if (strcmp(mechanisms[i].name, mechanism) == 0)
			return mechanisms[i].words;
	return "memory";
}

const char *confidence_name(enum confidence c)
{
	return c == CONFIDENCE_HIGH ? "high" : c == CONFIDENCE_MEDIUM ? "medium" : "low";
}

bool finding_grows(const struct finding *f)
{
	return f->grew_bytes && codes[f->code].grew;
}

/* ---- thresholds ---------------------------------------------------------------------- */

bool bytes_parse(const char *text, size_t len, uint64_t *out)
{
	static const char units[] = "BKMG";
	char copy[32], *end;
	const char *u;
	double v;

	if (!len || len >= sizeof(copy))
		return false;
	memcpy(copy, text, len);
	copy[len] = 0;
	v = strtod(copy, &end);
	if (end == copy || !(v >= 0) || v > 1e15)
		return false;
	u = *end ? strchr(units, *end) : units;
	if (!u)
		return false;
	if (*end && strcmp(end + 1, "") != 0 && strcmp(end + 1, "iB") != 0)
		return false;
	*out = (uint64_t)(v * (double)(1ULL << (10 * (u - units))));
	return true;
}

static bool percent_parse(const char *text, double *out)
{
	char *end;
	double v = strtod(text, &end);

	if (end == text || strcmp(end, "%") != 0 || !(v >= 0) || v > 100)
		return false;
	*out = v / 100;
	return true;
}

int verdict_opts_set(struct verdict_opts *o, const char *text, struct error *err)
{
	const struct {
		const char *name;
		uint64_t *floor;
		double *ratio;
	} known[] = {
		{ "native", &o->native_floor, NULL },	    { "vm", &o->vm_floor, &o->vm_ratio },
		{ "held", &o->held_floor, &o->held_ratio }, { "cgroup", NULL, &o->cgroup_ratio },
		{ "explained", NULL, &o->explained_ratio },
	};
	const char *value = strchr(text, '='), *comma;
	size_t i;

	for (i = 0; value && i < sizeof(known) / sizeof(known[0]); i++) {
		if (strlen(known[i].name) != (size_t)(value - text) ||
		    strncmp(known[i].name, text, (size_t)(value - text)) != 0)
			continue;
		value++;
		if (!known[i].floor) {
			if (!known[i].ratio || !percent_parse(value, known[i].ratio))
				break;
			return 0;
		}
		comma = strchr(value, ',');
		if (comma && (!known[i].ratio || !percent_parse(comma + 1, known[i].ratio)))
			break;
		if (!bytes_parse(value, comma ? (size_t)(comma - value) : strlen(value),
				 known[i].floor))
			break;
		return 0;
	}
	return error_set(err, EXIT_USAGE, -EINVAL,
			 "--threshold is one of native=1M, vm=8M,5%%, held=16M,20%%, cgroup=80%%, "
			 "explained=80%%");
}

bool rule_reached(const struct judge *j, const struct rule *r, int64_t bytes)
{
	const char *opts = (const char *)j->opts;
	uint64_t floor = *(const uint64_t *)(opts + r->floor);
	double ratio = r->ratio ? *(const double *)(opts + r->ratio) : 0;

	return bytes > 0 && (uint64_t)bytes >= floor && (double)bytes >= ratio * (double)j->rss;
}

/* ---- findings ------------------------------------------------------------------------ */

struct finding *finding_add(struct judge *j, enum finding_code code, const char *subject)
{
	struct finding *f;

	if (j->v->n == FINDINGS_MAX)
		return NULL;
	f = &j->v->v[j->v->n++];
	memset(f, 0, sizeof(*f));
	f->code = code;
	f->grew_until = -1;
	snprintf(f->subject, sizeof(f->subject), "%.127s", subject);
	return f;
}

void evidence_add(struct finding *f, int64_t value, const char *unit, const char *fmt, ...)
{
	struct evidence *e;
	va_list ap;

	if (f->n_evidence == FINDING_EVIDENCE)
		return;
	e = &f->evidence[f->n_evidence++];
	va_start(ap, fmt);
	vsnprintf(e->what, sizeof(e->what), fmt, ap);
	va_end(ap);
	e->value = value;
	e->unit = unit;
}

void confidence_set(struct finding *f, enum confidence c, const char *fmt, ...)
{
	va_list ap;

	f->confidence = c;
	va_start(ap, fmt);
	vsnprintf(f->why, sizeof(f->why), fmt, ap);
	va_end(ap);
}

int64_t ledger_grew(const struct judge *j, const char *prefix)
{
	if (!j->in->before.ledger)
		return 0;
	return (int64_t)(ledger_sum(j->in->after.ledger, prefix) -
			 ledger_sum(j->in->before.ledger, prefix));
}

void growth_set(struct judge *j, struct finding *f, int64_t bytes)
{
	f->grew_bytes = bytes > 0 ? (uint64_t)bytes : 0;
	f->bytes_per_s = j->in->apart > 0 ? (double)f->grew_bytes / j->in->apart : 0;
}

int64_t moment_accounts(const struct verdict_moment *m, const void *arg)
{
	const char *const *names = arg;
	int64_t sum = 0;

	for (; *names; names++)
		sum += (int64_t)ledger_sum(m->ledger, *names);
	return sum;
}

int64_t moment_held(const struct verdict_moment *m, const void *arg)
{
	const struct ledger_row *r = ledger_row(m->ledger, arg);

	return r ? (int64_t)(r->bytes - r->lazyfree) : 0;
}

/* Growth has stopped when the last quarter of the watch, or more, brought less than a
 * fiftieth of it. */
void growth_curve(struct judge *j, struct finding *f, moment_value_fn *value, const void *arg)
{
	const struct verdict_input *in = j->in;
	struct verdict_moment end = { .at = in->seconds,
				      .ledger = in->after.ledger,
				      .tags = in->after.look->carriers->tags,
				      .n_tags = in->after.look->carriers->n_tags };
	int64_t last = value(&end, arg), slack = (int64_t)f->grew_bytes / 50;
	size_t i;

	if (!in->n_moments || !f->grew_bytes)
		return;
	for (i = in->n_moments; i > 0; i--)
		if (last - value(&in->moments[i - 1], arg) > slack)
			break;
	if (i == in->n_moments)
		return;
	/* moment i is the first one that already had it all */
	if (end.at - in->moments[i].at < end.at / 4)
		return;
	f->grew_until = in->moments[i].at;
	evidence_add(f, (int64_t)(f->grew_until + 0.999), "seconds",
		     "into the watch it had stopped growing; not given back");
}

/* A state came during the watch when all looks of the last quarter have more of it than
 * any of the first quarter had, by as much as VM data has to grow by. Between two looks
 * alone it may just have moved. */
void state_rises(struct judge *j, struct finding *f, moment_value_fn *value, const void *arg)
{
	const struct verdict_input *in = j->in;
	struct verdict_moment end = { .at = in->seconds, .ledger = in->after.ledger };
	struct verdict_moment start = { .ledger = in->before.ledger };
	int64_t most, least;
	size_t i;

	if (!start.ledger)
		return;
	growth_set(j, f, value(&end, arg) - value(&start, arg));
	growth_curve(j, f, value, arg);
	if (!in->n_moments || f->grew_until >= 0)
		return;
	most = value(&start, arg);
	least = value(&end, arg);
	for (i = 0; i < in->n_moments; i++) {
		int64_t v = value(&in->moments[i], arg);

		if (in->moments[i].at <= in->seconds / 4 && v > most)
			most = v;
		if (in->moments[i].at >= in->seconds * 3 / 4 && v < least)
			least = v;
	}
	if (least - most < (int64_t)j->opts->vm_floor ||
	    (double)(least - most) < j->opts->vm_ratio * (double)j->rss)
		return;
	f->rises = true;
	evidence_add(f, (int64_t)f->grew_bytes, "bytes",
		     "more than at the start of the watch, and it still rises");
}

static bool came_in_watch(const struct finding *f)
{
	return finding_grows(f) || f->rises;
}

/* Growth counts by what grew, or by what is proven lost; the rest by its size. */
static uint64_t finding_weight(const struct finding *f)
{
	if (!came_in_watch(f))
		return f->bytes;
	return f->grew_bytes > f->lost_bytes ? f->grew_bytes : f->lost_bytes;
}

static int finding_order(const void *pa, const void *pb)
{
	const struct finding *a = pa, *b = pb;
	uint64_t x = finding_weight(a), y = finding_weight(b);

	if (came_in_watch(a) != came_in_watch(b))
		return came_in_watch(a) ? -1 : 1;
	return x != y ? (x > y ? -1 : 1) : strcmp(a->subject, b->subject);
}

/* See struct verdict. Growth that stopped fills nothing. */
static double cgroup_full_in(const struct judge *j)
{
	uint64_t left = j->in->after.look->os.cgroup_left;
	double rate = 0;
	size_t i;

	for (i = 0; i < j->v->n; i++)
		if (came_in_watch(&j->v->v[i]) && j->v->v[i].grew_until < 0)
			rate += j->v->v[i].bytes_per_s;
	return left != SYSTEM_UNKNOWN && rate > 0 ? (double)left / rate : -1;
}

/* ---- when nothing can be said ---------------------------------------------------------- */

/* The second ledger is missing: what grew until the end is known by its stacks
 * alone, and nothing can be claimed from them. */
static void target_ended(struct judge *j)
{
	const struct profile *p = j->in->trace.growth;
	struct finding *f = finding_add(j, FINDING_INCONCLUSIVE, "the second ledger");
	size_t i;

	confidence_set(f, CONFIDENCE_LOW, "%s", j->in->ended);
	for (i = 0; p && i < p->n && f->n_stacks < FINDING_STACKS; i++)
		if (p->stacks[i].weight > 0)
			f->stacks[f->n_stacks++] = &p->stacks[i];
	if (p)
		evidence_add(f, profile_total(p), "bytes", "faulted in while it was watched");
}

static void nothing_found(struct judge *j)
{
	const struct verdict_input *in = j->in;
	struct finding *f;

	if (!in->after.ledger->complete) {
		f = finding_add(j, FINDING_INCONCLUSIVE, "a part of the ledger");
		evidence_add(f, (int64_t)in->after.ledger->unattributed, "bytes",
			     "could not be attributed");
		confidence_set(f, CONFIDENCE_LOW, "parts of the node could not be read");
		return;
	}
	f = finding_add(j, FINDING_HEALTHY, "");
	if (!in->before.ledger)
		confidence_set(f, CONFIDENCE_MEDIUM, "one look: growth was not watched");
	else if (in->trace.lost)
		confidence_set(f, CONFIDENCE_MEDIUM,
			       "two ledgers, nothing above its threshold; some events were lost");
	else
		confidence_set(f, CONFIDENCE_HIGH, "two ledgers, nothing above its threshold");
}

int verdict_make(const struct verdict_input *in, const struct verdict_opts *opts,
		 struct verdict **out)
{
	struct judge j = { .in = in, .opts = opts ? opts : &verdict_defaults };
	size_t i;

	*out = NULL;
	j.v = calloc(1, sizeof(*j.v));
	if (!j.v)
		return -ENOMEM;
	j.v->v = calloc(FINDINGS_MAX, sizeof(*j.v->v));
	if (!j.v->v) {
		free(j.v);
		return -ENOMEM;
	}
	j.rss = in->after.ledger->rss;
	for (i = 0; i < sizeof(rules) / sizeof(rules[0]); i++)
		if (!rules[i].growth || in->before.ledger)
			rules[i].run(&j, &rules[i]);
	if (in->ended)
		target_ended(&j);
	if (!j.v->n)
		nothing_found(&j);
	for (i = 0; i < j.v->n; i++)
		advice_give(&j.v->v[i], in);
	qsort(j.v->v, j.v->n, sizeof(*j.v->v), finding_order);
	j.v->cgroup_full_in = cgroup_full_in(&j);
	*out = j.v;
	return 0;
}

void verdict_free(struct verdict *v)
{
	if (!v)
		return;
	free(v->v);
	free(v);
}
