/* SPDX-License-Identifier: Apache-2.0 */
/* Private to verdict*.c: what rules have in common. */
#ifndef BEAMRAY_LEDGER_VERDICT_INT_H
#define BEAMRAY_LEDGER_VERDICT_INT_H

#include "ledger/advice.h"
#include "ledger/verdict.h"

#define BLAMES_MAX 64

struct judge;

/* One row of the table of rules. */
struct rule {
	const char *name;
	bool growth; /* needs two ledgers; else a still image may say it */
	/* Where its thresholds are in struct verdict_opts; ratio 0: none. */
	size_t floor, ratio;
	void (*run)(struct judge *j, const struct rule *r);
};

struct judge {
	const struct verdict_input *in;
	const struct verdict_opts *opts;
	struct verdict *v;
	uint64_t rss;
	/* growth of an allocator's used blocks that another finding has, by number: bytes */
	int64_t taken[CARRIER_TYPES];
	/* what of native growth was the VM's own mallocs: its JIT keeps a description of
	 * all code, for instance */
	int64_t vm_native;
};

/* The rules, in the order in which they take their bytes. */
void rule_native(struct judge *j, const struct rule *r);
void rule_stacks(struct judge *j, const struct rule *r);
void rule_lost(struct judge *j, const struct rule *r);
void rule_envs(struct judge *j, const struct rule *r);
void rule_tagged(struct judge *j, const struct rule *r);
void rule_data(struct judge *j, const struct rule *r);
void rule_tight(struct judge *j, const struct rule *r);
void rule_fragmentation(struct judge *j, const struct rule *r);
void rule_retained(struct judge *j, const struct rule *r);
void rule_libc(struct judge *j, const struct rule *r);

/* What of a finding's growth is lost, what is kept. */
void lost_evidence(struct judge *j, struct finding *f);
/* And of what sizes it is, when nobody is known to have taken it. */
void lost_groups(struct judge *j, struct finding *f);

/* Are so many bytes above the rule's floor and its share of RSS? */
bool rule_reached(const struct judge *j, const struct rule *r, int64_t bytes);

struct finding *finding_add(struct judge *j, enum finding_code code, const char *subject);
void evidence_add(struct finding *f, int64_t value, const char *unit, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));
void confidence_set(struct finding *f, enum confidence c, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
/* What `prefix` grew by between the two ledgers. */
int64_t ledger_grew(const struct judge *j, const char *prefix);
void growth_set(struct judge *j, struct finding *f, int64_t bytes);
/* When growth ended, by what value() says of every moment: sets grew_until, and the
 * words for it, where most of the watch's last part brought nothing. */
typedef int64_t moment_value_fn(const struct verdict_moment *m, const void *arg);
void growth_curve(struct judge *j, struct finding *f, moment_value_fn *value, const void *arg);
/* The value of a ledger's accounts (`arg`: names, ends with NULL) at a moment. */
int64_t moment_accounts(const struct verdict_moment *m, const void *arg);
/* What an account (`arg`: its whole name) holds and the kernel may not take back. */
int64_t moment_held(const struct verdict_moment *m, const void *arg);
/* For a state, memory that nobody uses, as value() has it: what it grew by, when that
 * ended, and whether it came during the watch and still comes (then its place is among
 * the growth). */
void state_rises(struct judge *j, struct finding *f, moment_value_fn *value, const void *arg);

#endif
