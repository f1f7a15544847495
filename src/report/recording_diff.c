/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two moments side by side.
 *
 * What grew is decided by the ledger rows alone, with the floors of verdict.h: a
 * growth below its floor is shown and is no finding. This is less than the doctor
 * knows (who owns a block, what the trace explains), so findings here name accounts
 * and accuse nobody. Shares are of the larger of the two resident sets.
 *
 * Stacks are compared by what they say, not by their addresses: those of two nodes
 * differ. A growth profile counts from the first look of its own recording, so the
 * difference is what came between two moments of one recording, and between two
 * recordings how much more these stacks brought in one run than in the other.
 */
#include "report/recording_report.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "ledger/verdict.h"
#include "report/paragraph.h"

#define STACKS_SHOWN 8
#define ROWS_SHOWN   14
#define FRAMES_SHOWN 16

/* ---- rules ------------------------------------------------------------------- */

/* `account` names one, or with a "." at its end all that begin so. `each`: one by
 * one instead of as a sum. */
static const struct rule {
	const char *what; /* of the sum */
	const char *accounts[4];
	bool each;
	enum { NATIVE, VM, HELD } floor;
	const char *why;
} rules[] = {
	{ "native.heap.used + native.mmap",
	  { "native.heap.used", "native.mmap" },
	  false,
	  NATIVE,
	  "memory of NIFs, drivers and libraries" },
	{ "vm.used.driver_alloc",
	  { "vm.used.driver_alloc" },
	  false,
	  NATIVE,
	  "what NIFs and drivers took from the VM's allocator" },
	{ "vm.used", { "vm.used." }, false, VM, "data of the VM: processes, binaries, tables" },
	{ "vm.free", { "vm.free." }, true, HELD, "free space inside carriers: fragmentation" },
	{ "vm.cache", { "vm.cache" }, false, HELD, "carriers that the VM keeps for later" },
	{ "native.heap.free", { "native.heap.free" }, false, HELD, "free in libc's heap" },
	{ "native.stack + vm.stack",
	  { "native.stack", "vm.stack" },
	  false,
	  HELD,
	  "stacks of threads" },
	{ "unattributed", { "unattributed" }, false, HELD, "memory that belongs to nobody known" },
};

static bool matches(const char *account, const char *pattern)
{
	size_t n = strlen(pattern);

	return pattern[n - 1] == '.' ? strncmp(account, pattern, n) == 0
				     : strcmp(account, pattern) == 0;
}

static void find(struct recording_diff *d, const struct rule *rule, const char *what, int64_t grew)
{
	const struct verdict_opts *o = &verdict_defaults;
	double rss = (double)(d->la->rss > d->lb->rss ? d->la->rss : d->lb->rss);
	double ratio = rule->floor == NATIVE ? 0 : rule->floor == VM ? o->vm_ratio : o->held_ratio;
	uint64_t floor = rule->floor == NATIVE ? o->native_floor
			 : rule->floor == VM   ? o->vm_floor
					       : o->held_floor;
	struct growth_finding *f;

	if ((double)floor < ratio * rss)
		floor = (uint64_t)(ratio * rss);
	if (grew < 0 || (uint64_t)grew < floor || d->n_findings == DIFF_FINDINGS)
		return;
	f = &d->findings[d->n_findings++];
	snprintf(f->what, sizeof(f->what), "%s", what);
	f->why = rule->why;
	f->bytes = grew;
	f->floor = floor;
}

static int larger(const void *a, const void *b)
{
	const struct growth_finding *x = a, *y = b;

	return x->bytes != y->bytes ? (x->bytes > y->bytes ? -1 : 1) : strcmp(x->what, y->what);
}

static void judge(struct recording_diff *d)
{
	size_t i, k, n;

	for (i = 0; i < sizeof(rules) / sizeof(rules[0]); i++) {
		const struct rule *r = &rules[i];
		int64_t sum = 0;

		for (k = 0; k < d->n_accounts; k++)
			for (n = 0; n < 4 && r->accounts[n]; n++) {
				if (!matches(d->accounts[k].account, r->accounts[n]))
					continue;
				if (r->each)
					find(d, r, d->accounts[k].account, d->accounts[k].change);
				else if (__builtin_add_overflow(sum, d->accounts[k].change, &sum))
					sum = INT64_MAX;
			}
		if (!r->each)
			find(d, r, r->what, sum);
	}
	qsort(d->findings, d->n_findings, sizeof(d->findings[0]), larger);
}

/* ---- stacks ------------------------------------------------------------------- */

static char *folded(const struct profile_report *r, const struct report_stack *s)
{
	char *text = NULL;
	size_t size, i;
	FILE *f = open_memstream(&text, &size);

	if (!f)
		return NULL;
	for (i = 0; i < s->n; i++) {
		const char *name = r->names[r->frames[s->first + i].name].text;

		if (i)
			putc(';', f);
		for (; *name; name++)
			if (*name == ';')
				fputs("\\x3B", f);
			else
				putc(*name, f);
	}
	if (fclose(f) != 0) {
		free(text);
		return NULL;
	}
	return text;
}

static int add_side(struct recording_diff *d, const struct profile_report *r, bool is_b)
{
	size_t i;

	for (i = 0; i < r->n_stacks; i++) {
		struct stack_change *c = &d->stacks[d->n_stacks];
		char *text = folded(r, &r->stacks[i]);

		if (!text)
			return -ENOMEM;
		d->texts[d->n_texts++] = text;
		c->text = text;
		*(is_b ? &c->b : &c->a) = r->stacks[i].weight;
		d->n_stacks++;
	}
	return 0;
}

static int by_text(const void *a, const void *b)
{
	return strcmp(((const struct stack_change *)a)->text,
		      ((const struct stack_change *)b)->text);
}

static int by_change(const void *a, const void *b)
{
	const struct stack_change *x = a, *y = b;

	if (x->change != y->change)
		return x->change > y->change ? -1 : 1;
	return strcmp(x->text, y->text);
}

static int64_t add(int64_t a, int64_t b)
{
	int64_t sum;

	if (!__builtin_add_overflow(a, b, &sum))
		return sum;
	return a > 0 ? INT64_MAX : INT64_MIN;
}

/* Equal texts become one; then the most grown come first. */
static void merge(struct recording_diff *d)
{
	size_t i, k = 0;

	if (!d->n_stacks)
		return;
	qsort(d->stacks, d->n_stacks, sizeof(*d->stacks), by_text);
	for (i = 1; i < d->n_stacks; i++) {
		if (strcmp(d->stacks[i].text, d->stacks[k].text) == 0) {
			d->stacks[k].a = add(d->stacks[k].a, d->stacks[i].a);
			d->stacks[k].b = add(d->stacks[k].b, d->stacks[i].b);
		} else {
			d->stacks[++k] = d->stacks[i];
		}
	}
	d->n_stacks = k + 1;
	for (i = 0; i < d->n_stacks; i++)
		if (__builtin_sub_overflow(d->stacks[i].b, d->stacks[i].a, &d->stacks[i].change))
			d->stacks[i].change = d->stacks[i].b > 0 ? INT64_MAX : INT64_MIN;
	qsort(d->stacks, d->n_stacks, sizeof(*d->stacks), by_change);
}

struct side {
	struct profile *p;
	struct symbols *s;
	struct profile_report *r;
};

static int side_read(struct side *x, struct recording *r, unsigned look, const char *kind,
		     struct error *err)
{
	int ret = recording_profile(r, kind, look, &x->p, &x->s, err);

	return ret == 0 ? profile_report_new(x->p, x->s, NULL, &x->r) : ret;
}

static void side_free(struct side *x)
{
	profile_report_free(x->r);
	profile_free(x->p);
	symbols_free(x->s);
}

/* Stacks where both sides have them; without them there are the ledgers. */
static int compare_stacks(struct recording_diff *d, struct recording *ra, struct recording *rb,
			  const char *kind, struct error *err)
{
	struct side a = { 0 }, b = { 0 };
	struct error why = { 0 };
	int ret = side_read(&a, ra, d->la->number, kind, &why);

	if (ret == 0)
		ret = side_read(&b, rb, d->lb->number, kind, &why);
	if (ret == -ENOENT) {
		ret = 0;
		goto out;
	}
	if (ret < 0 || !a.r || !b.r) {
		if (why.code != EXIT_OK && err->code == EXIT_OK)
			*err = why;
		goto out;
	}
	d->stacks = calloc(a.r->n_stacks + b.r->n_stacks + 1, sizeof(*d->stacks));
	d->texts = calloc(a.r->n_stacks + b.r->n_stacks + 1, sizeof(*d->texts));
	ret = d->stacks && d->texts ? 0 : -ENOMEM;
	if (ret == 0)
		ret = add_side(d, a.r, false);
	if (ret == 0)
		ret = add_side(d, b.r, true);
	if (ret == 0) {
		merge(d);
		d->has_stacks = true;
	}
out:
	side_free(&a);
	side_free(&b);
	return ret;
}

/* ---- both ----------------------------------------------------------------------- */

static int check_look(const struct recording *r, unsigned n, struct error *err)
{
	if (n >= 1 && n <= r->n_looks)
		return 0;
	return error_set(err, EXIT_USAGE, -ENOENT, "%s has %zu looks; there is no number %u",
			 r->path, r->n_looks, n);
}

int recording_diff_new(struct recording *ra, unsigned na, struct recording *rb, unsigned nb,
		       const char *kind, struct recording_diff **out, struct error *err)
{
	struct recording_diff *d = calloc(1, sizeof(*d));
	struct recording_row *a = NULL, *b = NULL;
	size_t n_a = 0, n_b = 0;
	int ret = d ? check_look(ra, na, err) : -ENOMEM;

	*out = NULL;
	if (ret == 0)
		ret = check_look(rb, nb, err);
	if (ret < 0)
		goto out;
	d->ra = ra;
	d->rb = rb;
	d->la = &ra->looks[na - 1];
	d->lb = &rb->looks[nb - 1];
	ret = recording_rows(ra, na, &a, &n_a, err);
	if (ret == 0)
		ret = recording_rows(rb, nb, &b, &n_b, err);
	if (ret == 0) {
		d->accounts = account_changes(a, n_a, b, n_b, &d->n_accounts);
		ret = d->accounts ? 0 : -ENOMEM;
	}
	if (ret == 0) {
		judge(d);
		ret = compare_stacks(d, ra, rb, kind, err);
	}
out:
	free(a);
	free(b);
	if (ret < 0) {
		recording_diff_free(d);
		return ret;
	}
	*out = d;
	return 0;
}

void recording_diff_free(struct recording_diff *d)
{
	size_t i;

	if (!d)
		return;
	for (i = 0; i < d->n_texts; i++)
		free(d->texts[i]);
	free(d->texts);
	free(d->stacks);
	free(d->accounts);
	free(d);
}

static bool same_node(const struct recording_diff *d)
{
	static const char *const names[] = { "pid", "start_time", "build_id" };
	size_t i;

	for (i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		const char *a = recording_target(d->ra, names[i]),
			   *b = recording_target(d->rb, names[i]);

		if (!a || !b || strcmp(a, b) != 0)
			return false;
	}
	return true;
}

/* ---- text -------------------------------------------------------------------------- */

/* Leaf first, as in the other texts: the folded text is taken from its end. */
static void stack_text(FILE *to, const char *text, unsigned columns)
{
	const char *end = text + strlen(text), *at;
	size_t shown = 0;

	while (end > text) {
		for (at = end; at > text && at[-1] != ';';)
			at--;
		if (columns && shown++ == FRAMES_SHOWN && at > text) {
			fprintf(to, "       ... up to the root (-v)\n");
			return;
		}
		line_text(to, 7, at, (size_t)(end - at), columns);
		end = at > text ? at - 1 : text;
	}
}

static void stacks_text(FILE *to, const struct recording_diff *d,
			const struct recording_text_opts *opts)
{
	char a[16], b[16], change[16];
	size_t i, most = opts->verbose ? SIZE_MAX : STACKS_SHOWN;

	if (!d->has_stacks) {
		fprintf(to, "\nStacks cannot be compared: not both moments have them.\n");
		return;
	}
	fprintf(to, "\n%s\n",
		d->ra == d->rb ? "STACKS: growth between the two looks"
			       : "STACKS: growth of B's run beside that of A's");
	for (i = 0; i < d->n_stacks && i < most && d->stacks[i].change > 0; i++) {
		const struct stack_change *s = &d->stacks[i];

		fprintf(to, "\n%3zu. %s (%s -> %s)\n", i + 1,
			unit_format_signed(change, sizeof(change), opts->unit, s->change),
			unit_format_signed(a, sizeof(a), opts->unit, s->a),
			unit_format_signed(b, sizeof(b), opts->unit, s->b));
		stack_text(to, s->text, opts->verbose ? 0 : opts->columns);
	}
	if (!i)
		fprintf(to, "  none grew\n");
}

static void side_text(FILE *to, char name, const struct recording *r,
		      const struct recording_look *l, enum unit unit)
{
	const char *pid = recording_target(r, "pid"), *release = recording_target(r, "otp_release");
	char rss[16];

	fprintf(to, "%c  look %u of %zu, %s, process %s (OTP %s), %s\n", name, l->number,
		r->n_looks, l->time, pid ? pid : "?", release ? release : "?",
		unit_format(rss, sizeof(rss), unit, l->rss));
}

void recording_diff_text(FILE *to, const struct recording_diff *d,
			 const struct recording_text_opts *opts)
{
	char a[16], b[16], change[16], line[300];
	size_t i, most = opts->verbose ? SIZE_MAX : ROWS_SHOWN;

	side_text(to, 'A', d->ra, d->la, opts->unit);
	side_text(to, 'B', d->rb, d->lb, opts->unit);
	if (!same_node(d))
		fprintf(to, "These are two different processes.\n");
	fprintf(to, "%.1f s from A to B, resident %s\n",
		(double)(d->lb->time_ns - d->la->time_ns) / 1e9,
		unit_format_signed(change, sizeof(change), opts->unit,
				   (int64_t)(d->lb->rss - d->la->rss)));
	fputc('\n', to);
	for (i = 0; i < d->n_findings; i++) {
		const struct growth_finding *f = &d->findings[i];

		snprintf(line, sizeof(line), "%s by %s (floor %s): %s", f->what,
			 unit_format(a, sizeof(a), opts->unit, (uint64_t)f->bytes),
			 unit_format(b, sizeof(b), opts->unit, f->floor), f->why);
		paragraph(to, "GREW: ", line, opts->columns);
	}
	if (!d->n_findings)
		fprintf(to, "Nothing grew above its floor.\n");
	fprintf(to, "\n%-40s %11s %11s %12s\n", "ACCOUNT (resident)", "A", "B", "CHANGE");
	for (i = 0; i < d->n_accounts && i < most; i++)
		if (d->accounts[i].change || opts->verbose)
			fprintf(to, "%-40.40s %11s %11s %12s\n", d->accounts[i].account,
				unit_format(a, sizeof(a), opts->unit, d->accounts[i].a),
				unit_format(b, sizeof(b), opts->unit, d->accounts[i].b),
				unit_format_signed(change, sizeof(change), opts->unit,
						   d->accounts[i].change));
	stacks_text(to, d, opts);
}

/* ---- JSON ----------------------------------------------------------------------------- */

static json_t *side_json(const struct recording *r, const struct recording_look *l)
{
	return json_pack("{s:o,s:i,s:s,s:I,s:b}", "target", recording_target_json(r), "look",
			 (int)l->number, "time", l->time, "rss", (json_int_t)l->rss, "complete",
			 (int)l->complete);
}

/* "a;b;c" as a list, root first. */
static json_t *frames_json(const char *text)
{
	json_t *list = json_array();

	while (*text) {
		size_t n = strcspn(text, ";");

		json_array_append_new(list, json_stringn(text, n));
		text += n + (text[n] == ';');
	}
	return list;
}

json_t *recording_diff_json(const struct recording_diff *d)
{
	json_t *accounts = json_array(), *stacks = d->has_stacks ? json_array() : json_null();
	json_t *grew = json_array();
	size_t i;

	for (i = 0; i < d->n_findings; i++)
		json_array_append_new(grew,
				      json_pack("{s:s,s:I,s:I,s:s}", "what", d->findings[i].what,
						"bytes", (json_int_t)d->findings[i].bytes, "floor",
						(json_int_t)d->findings[i].floor, "why",
						d->findings[i].why));
	for (i = 0; i < d->n_accounts; i++)
		json_array_append_new(accounts, json_pack("{s:s,s:I,s:I,s:I}", "account",
							  d->accounts[i].account, "a",
							  (json_int_t)d->accounts[i].a, "b",
							  (json_int_t)d->accounts[i].b, "change",
							  (json_int_t)d->accounts[i].change));
	for (i = 0; d->has_stacks && i < d->n_stacks; i++)
		if (d->stacks[i].change)
			json_array_append_new(stacks,
					      json_pack("{s:I,s:I,s:I,s:o}", "change",
							(json_int_t)d->stacks[i].change, "a",
							(json_int_t)d->stacks[i].a, "b",
							(json_int_t)d->stacks[i].b, "frames",
							frames_json(d->stacks[i].text)));
	return json_pack("{s:s,s:o,s:o,s:b,s:f,s:I,s:o,s:o,s:o}", "schema", "beamray.diff/1", "a",
			 side_json(d->ra, d->la), "b", side_json(d->rb, d->lb), "same_process",
			 (int)same_node(d), "seconds",
			 (double)(d->lb->time_ns - d->la->time_ns) / 1e9, "change",
			 (json_int_t)(d->lb->rss - d->la->rss), "grew", grew, "ledger", accounts,
			 "stacks", stacks);
}
