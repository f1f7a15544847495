/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Lost and kept: what the still image adds
 *
 * The scan after the second ledger looks twice for native blocks that no pointer leads
 * to (ledger/native.c). For growth it tells a leak from a cache: what is lost will never
 * be given back, what is still pointed to may be. And it finds what was lost before
 * anybody watched, which no ledger can tell from memory in use. Whose that was is known
 * only where the blocks say so themselves; plain buffers have no owner, and then the
 * finding says how many there are of which size, and in the arena of which thread.
 */
#include "ledger/verdict_int.h"

#include <stdio.h>
#include <string.h>

static const struct native *proved(const struct judge *j)
{
	const struct native *n = j->in->scan.native;

	return n && n->heap_walked && n->lost_proved ? n : NULL;
}

/* Of an owner's blocks (NULL: of nobody known), bytes that nobody points to. */
static uint64_t lost_of(const struct native *n, const char *owner, bool mapped)
{
	uint64_t sum = 0;
	size_t i;

	for (i = 0; i < n->n_lost; i++)
		if ((n->lost[i].mechanism == NATIVE_MMAP) == mapped &&
		    n->lost[i].mechanism != NATIVE_STACK &&
		    strcmp(n->lost[i].owner, owner ? owner : "") == 0)
			sum += n->lost[i].resident;
	return sum;
}

/* Is what grew still pointed to? Only the scan after the second ledger knows. Plain
 * buffers that nobody points to have no owner: they count for whoever took that much. */
void lost_evidence(struct judge *j, struct finding *f)
{
	const struct native *n = proved(j);
	bool mapped = strcmp(f->mechanism, "mmap") == 0;
	uint64_t own, nobody;

	if (!n)
		return;
	own = lost_of(n, f->subject, mapped);
	nobody = lost_of(n, NULL, mapped);
	evidence_add(f, (int64_t)(own + nobody), "bytes",
		     "are lost: nobody points to them, in two looks%s",
		     own ? "" : " (whose they were is not known)");
	f->lost_bytes = own;
	if (own + nobody >= f->grew_bytes / 10)
		return;
	f->kept = true;
	if (f->confidence == CONFIDENCE_HIGH)
		f->confidence = CONFIDENCE_MEDIUM;
	strncat(f->why, "; kept, still reachable: it may be a cache that has not found its size",
		sizeof(f->why) - strlen(f->why) - 1);
}

/* What of it other findings have: growth that is lost was counted as growth. */
static uint64_t counted(const struct judge *j, const char *owner, bool mapped)
{
	uint64_t sum = 0;
	size_t i;

	for (i = 0; i < j->v->n; i++) {
		const struct finding *f = &j->v->v[i];

		if (f->kept || strcmp(f->mechanism, mapped ? "mmap" : "libc") != 0)
			continue;
		/* buffers without an owner can be anybody's growth */
		if (!owner || strcmp(f->subject, owner) == 0)
			sum += f->grew_bytes - (owner ? 0 : f->lost_bytes);
	}
	return sum;
}

static void groups_add(struct finding *f, const struct native *n, const char *owner, bool mapped)
{
	size_t i, shown = 0;

	for (i = 0; i < n->n_lost && shown < 4; i++) {
		const struct native_lost *g = &n->lost[i];

		if ((g->mechanism == NATIVE_MMAP) != mapped || g->mechanism == NATIVE_STACK ||
		    strcmp(g->owner, owner ? owner : "") != 0)
			continue;
		shown++;
		evidence_add(f, (int64_t)g->resident, "bytes",
			     "%llu of %llu bytes each%s%.63s%s%.120s", (unsigned long long)g->count,
			     (unsigned long long)g->size, g->threads[0] ? ", in the arena of " : "",
			     g->threads, g->candidates[0] ? "; perhaps " : "", g->candidates);
	}
}

void lost_groups(struct judge *j, struct finding *f)
{
	const struct native *n = proved(j);

	if (n && !f->kept)
		groups_add(f, n, NULL, strcmp(f->mechanism, "mmap") == 0);
}

/*
 * Plain buffers from before the watch do not say whose they are. But when one library
 * alone leaks now, what it leaked during the watch lies among them; and if what is lost of
 * all other sizes is less than half of that, most of its blocks have the size that nearly
 * all have. Then the rest is likely its own, from before. Returns that finding and sets
 * *top, or NULL.
 */
static const struct finding *same_leak(const struct judge *j, const struct native *n, uint64_t lost,
				       const struct native_lost **top)
{
	const struct finding *leak = NULL;
	size_t i;

	for (i = 0; i < j->v->n; i++) {
		const struct finding *f = &j->v->v[i];

		if (strcmp(f->mechanism, "libc") != 0 || !f->grew_bytes || f->kept)
			continue;
		if (leak || strcmp(f->subject, "unknown") == 0)
			return NULL;
		leak = f;
	}
	*top = NULL;
	for (i = 0; i < n->n_lost; i++)
		if (!n->lost[i].owner[0] && n->lost[i].mechanism == NATIVE_LIBC &&
		    (!*top || n->lost[i].resident > (*top)->resident))
			*top = &n->lost[i];
	if (!leak || !*top || lost - (*top)->resident >= (leak->grew_bytes - leak->lost_bytes) / 2)
		return NULL;
	return leak;
}

static void lost_report(struct judge *j, const struct rule *r, const struct native_lost *like,
			bool mapped)
{
	const struct native *n = proved(j);
	const char *owner = like ? like->owner : NULL;
	const struct native_lost *top = NULL;
	const struct finding *leak;
	char likely[sizeof(leak->subject)] = "";
	uint64_t lost = lost_of(n, owner, mapped), had = counted(j, owner, mapped);
	struct finding *f;

	if (lost <= had || !rule_reached(j, r, (int64_t)(lost - had)))
		return;
	leak = owner || mapped ? NULL : same_leak(j, n, lost, &top);
	if (leak) /* the next line may move it */
		snprintf(likely, sizeof(likely), "%s", leak->subject);
	f = finding_add(j,
			!like				     ? FINDING_NATIVE_GROWTH
			: like->class == NATIVE_CLASS_NIF    ? FINDING_NIF_LEAK
			: like->class == NATIVE_CLASS_DRIVER ? FINDING_DRIVER_LEAK
							     : FINDING_NATIVE_GROWTH,
			owner ? owner : "unknown");
	if (!f)
		return;
	snprintf(f->mechanism, sizeof(f->mechanism), "%s", mapped ? "mmap" : "libc");
	f->bytes = lost - had;
	f->lost_bytes = lost - had;
	evidence_add(f, (int64_t)lost, "bytes", "nobody points to, in two looks");
	if (had)
		evidence_add(f, (int64_t)had, "bytes", "of it grew during the watch (see there)");
	groups_add(f, n, owner, mapped);
	if (likely[0]) {
		snprintf(f->owner, sizeof(f->owner), "%s", likely);
		confidence_set(f, CONFIDENCE_MEDIUM,
			       "no pointer leads to these blocks. That they are the same leak from "
			       "before is likely, not proved: nearly all that is lost has %llu "
			       "bytes, so what %.60s lost during the watch has too",
			       (unsigned long long)top->size, likely);
		return;
	}
	confidence_set(f, CONFIDENCE_MEDIUM, "%s",
		       owner ? "no pointer leads to these blocks, and what is in them is of this "
			       "library; memory that is known to the kernel alone would look alike"
			     : "no pointer leads to these blocks; whose they were they do not say. "
			       "Memory that is known to the kernel alone would look alike");
}

void rule_lost(struct judge *j, const struct rule *r)
{
	const struct native *n = proved(j);
	size_t i, k;
	int mapped;

	for (mapped = 0; n && mapped < 2; mapped++) {
		for (i = 0; i < n->n_lost; i++) {
			if (!n->lost[i].owner[0] || (n->lost[i].mechanism == NATIVE_MMAP) != mapped)
				continue;
			for (k = 0; k < i; k++)
				if (n->lost[k].mechanism == n->lost[i].mechanism &&
				    strcmp(n->lost[k].owner, n->lost[i].owner) == 0)
					break;
			if (k == i)
				lost_report(j, r, &n->lost[i], mapped);
		}
		lost_report(j, r, NULL, mapped);
	}
}
