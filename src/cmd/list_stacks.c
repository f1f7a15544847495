/* SPDX-License-Identifier: Apache-2.0 */
/* beamray list stacks: where processes wait, those in the same place together. */
#include "cmd/list.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "erts/code.h"
#include "erts/process_stack.h"

enum {
	NUMBER,
	COUNT,
	EXAMPLE,
	LABEL,
	STATUS,
	AT,
	CALLED_FROM,
	DEPTH,
	COMPLETE,
	SKIPPED,
	N_COLUMNS
};

static const struct column columns[] = {
	[NUMBER] = { "stack", "STACK", COLUMN_COUNT, 5, .ascending = true },
	[COUNT] = { "processes", "PROCS", COLUMN_COUNT, 7 },
	[EXAMPLE] = { "pid", "ONE OF", COLUMN_TEXT, 11, .fixed = true },
	[LABEL] = { "label", "WHICH IS", COLUMN_TEXT, 16 },
	[STATUS] = { "status", NULL, COLUMN_TEXT, 9, .fixed = true },
	[AT] = { "at", "IS IN", COLUMN_TEXT, 16 },
	[CALLED_FROM] = { "called_from", "CALLED FROM", COLUMN_TEXT, 12 },
	[DEPTH] = { "deepest", NULL, COLUMN_COUNT, 7 },
	[COMPLETE] = { "complete", NULL, COLUMN_FLAG, 0 },
	[SKIPPED] = { "skipped_words", NULL, COLUMN_COUNT, 0 },
};

enum { OF, FRAME, FUNCTION, FILE_NAME, LINE, TIMES, N_FRAME_COLUMNS };

static const struct column frame_columns[] = {
	[OF] = { "stack", "STACK", COLUMN_COUNT, 5, .ascending = true },
	[FRAME] = { "frame", NULL, COLUMN_COUNT, 5, .ascending = true },
	[FUNCTION] = { "function", "FRAMES, INNERMOST FIRST", COLUMN_TEXT, 30 },
	[FILE_NAME] = { "file", "FILE", COLUMN_TEXT, 14 },
	[LINE] = { "line", "LINE", COLUMN_COUNT, 6 },
	[TIMES] = { "times", "TIMES", COLUMN_COUNT, 6 },
};

#define GROUPS_MAX 65536 /* stacks that are kept apart; 1.1 kB each */

struct group {
	struct process_stack stack;
	uint64_t processes, deepest;
	uint64_t pid;	  /* of the first, like what follows */
	uint64_t at, mfa; /* where it goes on; ErtsCodeMFA that the VM noted, or 0 */
	char status[24];
	char label[PROCESS_LABEL_MAX];
};

struct filling {
	struct list_run *run;
	struct vm *vm;
	struct code *code;
	struct process_stack_code where;
	struct group **v;
	size_t n, a;
	uint32_t *slots; /* by hash; 0: free, else index + 1 */
	size_t n_slots;
	uint64_t running, torn, unreadable, more, asked;
};

static struct group **group_slot(struct filling *f, uint64_t hash, const char *status, size_t *at)
{
	size_t s;

	for (s = hash & (f->n_slots - 1); f->slots[s]; s = (s + 1) & (f->n_slots - 1)) {
		struct group **g = &f->v[f->slots[s] - 1];

		if ((*g)->stack.hash == hash && !strcmp((*g)->status, status))
			return g;
	}
	*at = s;
	return NULL;
}

static int group_new(struct filling *f, size_t slot, const struct process_info *i,
		     const struct process_stack *s)
{
	struct group *g;

	if (f->n == f->a) {
		size_t a = f->a ? f->a * 2 : 256;
		struct group **v = realloc(f->v, a * sizeof(*v));

		if (!v)
			return -ENOMEM;
		f->v = v;
		f->a = a;
	}
	g = calloc(1, sizeof(*g));
	if (!g)
		return -ENOMEM;
	g->stack = *s;
	g->pid = i->p.pid;
	g->at = i->instruction;
	g->mfa = i->current;
	snprintf(g->status, sizeof(g->status), "%s", i->status);
	process_label(f->vm, &i->p, g->label, sizeof(g->label));
	f->v[f->n++] = g;
	f->slots[slot] = (uint32_t)f->n;
	return 0;
}

static uint64_t depth_of(const struct process_stack *s)
{
	uint64_t depth = 0;
	unsigned k;

	for (k = 0; k < s->n; k++)
		depth += s->v[k].times;
	return depth;
}

/* Is it the one that --process asks for? By pid or by name. */
static bool wanted(struct filling *f, const struct process_info *i)
{
	char text[PROCESS_LABEL_MAX];

	if (!f->run->process)
		return true;
	if (process_pid_text(f->vm, i->p.pid, text, sizeof(text)) && !strcmp(text, f->run->process))
		return true;
	return i->p.name && vm_atom(f->vm, i->p.name >> 6, text, sizeof(text)) >= 0 &&
	       !strcmp(text, f->run->process);
}

static int fill(void *ctx, const struct process_info *i)
{
	struct filling *f = ctx;
	struct process_stack s;
	struct group **g;
	size_t slot = 0;
	int ret;

	if (!wanted(f, i))
		return 0;
	f->asked++;
	ret = process_stack_read(f->vm, &f->where, i, &s);
	if (vm_fatal(ret))
		return ret;
	if (ret) {
		*(ret == -EBUSY ? &f->running : ret == -EAGAIN ? &f->torn : &f->unreadable) += 1;
		return 0;
	}
	g = group_slot(f, s.hash, i->status, &slot);
	if (!g) {
		if (f->n == GROUPS_MAX) {
			f->more++;
			return 0;
		}
		ret = group_new(f, slot, i, &s);
		if (ret)
			return ret;
		g = &f->v[f->n - 1];
	}
	(*g)->processes++;
	if (depth_of(&s) > (*g)->deepest)
		(*g)->deepest = depth_of(&s);
	return 0;
}

/* Most processes first; of equally many the deeper one, then by pid. */
static int order(const void *pa, const void *pb)
{
	const struct group *a = *(struct group *const *)pa, *b = *(struct group *const *)pb;

	if (a->processes != b->processes)
		return a->processes < b->processes ? 1 : -1;
	if (a->stack.n != b->stack.n)
		return a->stack.n < b->stack.n ? 1 : -1;
	return a->pid < b->pid ? -1 : a->pid > b->pid;
}

/* Only the first of all is an instruction; and not even that where i was no code. */
static bool frame_find(const struct filling *f, const struct group *g, unsigned k,
		       struct code_mfa *out)
{
	return k == 0 ? code_lookup(f->code, g->stack.v[0].address, out)
		      : code_lookup_return(f->code, g->stack.v[k].address, out);
}

/* Where it is: the function of that instruction. A BIF that waits has no code of its
 * own, and one that hibernates goes on in the JIT's entry ("erts_beamasm:run_process/3"):
 * of those the VM has noted the name. */
static bool place(const struct filling *f, const struct group *g, char *buf, size_t size)
{
	struct code_mfa mfa;

	if (g->at && code_lookup(f->code, g->at, &mfa) && mfa.function &&
	    strcmp(mfa.module, "erts_beamasm") != 0) {
		snprintf(buf, size, "%s", mfa.name);
		return true;
	}
	return g->mfa && process_mfa_at(f->vm, g->mfa, buf, size) > 0;
}

static const char *base(const char *file)
{
	const char *slash = file ? strrchr(file, '/') : NULL;

	return slash ? slash + 1 : file;
}

static int left_out(struct table *t, size_t number, const char *text)
{
	if (table_row(t))
		return table_error(t);
	table_set(t, OF, number);
	table_text(t, FUNCTION, text);
	return 0;
}

static int frame_show(struct filling *f, const struct group *g, unsigned k, size_t number,
		      struct table *t)
{
	char text[PROCESS_LABEL_MAX];
	struct code_mfa mfa;

	if (table_row(t))
		return table_error(t);
	table_set(t, OF, number);
	table_set(t, FRAME, k);
	if (k == 0 && place(f, g, text, sizeof(text))) {
		table_text(t, FUNCTION, text);
	} else if (frame_find(f, g, k, &mfa)) {
		table_text(t, FUNCTION, mfa.name);
	} else {
		snprintf(text, sizeof(text), "0x%llx", (unsigned long long)g->stack.v[k].address);
		table_text(t, FUNCTION, text);
	}
	if (frame_find(f, g, k, &mfa) && mfa.function) {
		table_text(t, FILE_NAME, base(mfa.file));
		if (mfa.line)
			table_set(t, LINE, mfa.line);
	}
	if (g->stack.v[k].times > 1)
		table_set(t, TIMES, g->stack.v[k].times);
	return 0;
}

static int frames_show(struct filling *f, const struct group *g, size_t number, struct table *t)
{
	char text[64];
	unsigned k;
	int ret = 0;

	for (k = 0; k < g->stack.n && !ret; k++) {
		if (k && k == g->stack.n_leaf) {
			snprintf(text, sizeof(text), "... %llu words of stack left out",
				 (unsigned long long)g->stack.skipped);
			ret = left_out(t, number, text);
		}
		if (!ret)
			ret = frame_show(f, g, k, number, t);
	}
	if (!ret && !g->stack.complete)
		ret = left_out(t, number, "... cut: the end of the stack was not met");
	return ret;
}

static int group_show(struct filling *f, const struct group *g, size_t number, struct table *t)
{
	char text[PROCESS_LABEL_MAX];
	struct code_mfa mfa;

	if (table_row(t))
		return table_error(t);
	table_set(t, NUMBER, number);
	table_set(t, COUNT, g->processes);
	if (process_pid_text(f->vm, g->pid, text, sizeof(text)))
		table_text(t, EXAMPLE, text);
	table_text(t, LABEL, g->label);
	table_text(t, STATUS, g->status);
	table_set(t, DEPTH, g->deepest);
	table_set(t, COMPLETE, g->stack.complete);
	table_set(t, SKIPPED, g->stack.skipped);
	if (place(f, g, text, sizeof(text)))
		table_text(t, AT, text);
	if (g->stack.n > 1 && frame_find(f, g, 1, &mfa))
		table_text(t, CALLED_FROM, mfa.name);
	return table_error(t);
}

static void say(struct filling *f, const struct process_scan *scan)
{
	struct listing *l = f->run->listing;

	f->torn += scan->torn;
	listing_fact(l, "processes", "processes", COLUMN_COUNT, scan->found);
	listing_fact(l, "stacks", "different stacks", COLUMN_COUNT, f->n);
	listing_fact(l, "running", "running", COLUMN_COUNT, f->running);
	l->torn = f->torn + f->unreadable;
	listing_missing(l, l->torn + f->more, f->asked + scan->torn);
	if (f->running)
		listing_note(l,
			     "%llu processes run or are collected: their stacks are in registers; "
			     "record has them.",
			     (unsigned long long)f->running);
	if (f->torn)
		listing_note(l, "%llu processes ran while they were read and are left out.",
			     (unsigned long long)f->torn);
	if (f->unreadable)
		listing_note(l, "%llu stacks are not in memory (swapped out) and are left out.",
			     (unsigned long long)f->unreadable);
	if (scan->gone)
		listing_note(l, "%llu processes ended while they were read and are left out.",
			     (unsigned long long)scan->gone);
	if (f->more)
		listing_note(l, "%llu processes have still other stacks, which are left out.",
			     (unsigned long long)f->more);
	if (f->run->process && !f->asked)
		listing_note(l,
			     "There is no process %s; give a pid as <0.123.0>, or a registered "
			     "name as it is printed here.",
			     f->run->process);
}

static int collect(struct list_run *run, struct error *err)
{
	struct filling f = { .run = run, .vm = run->observer->vm, .n_slots = GROUPS_MAX * 2 };
	struct table *t = listing_table(run->listing, "rows", columns, N_COLUMNS);
	struct table *frames =
		listing_table(run->listing, "frames", frame_columns, N_FRAME_COLUMNS);
	struct process_scan scan = { 0 };
	size_t i;
	int ret;

	run->listing->noun = "stacks";
	f.slots = calloc(f.n_slots, sizeof(*f.slots));
	ret = f.slots && t && frames ? code_open(f.vm, &f.code, err) : -ENOMEM;
	if (!ret)
		ret = process_stack_code_open(f.code, &f.where);
	if (!ret)
		ret = processes_scan(f.vm, 0, fill, &f, &scan, err);
	if (!ret && f.n)
		qsort(f.v, f.n, sizeof(struct group *), order);
	for (i = 0; i < f.n && !ret; i++) {
		ret = group_show(&f, f.v[i], i + 1, t);
		if (!ret)
			ret = frames_show(&f, f.v[i], i + 1, frames);
	}
	if (!ret)
		say(&f, &scan);
	for (i = 0; i < f.n; i++)
		free(f.v[i]);
	free(f.v);
	free(f.slots);
	process_stack_code_close(&f.where);
	code_close(f.code);
	return ret;
}

const struct list_what list_stacks = {
	.name = "stacks",
	.summary = "where processes wait, with their stacks; --process",
	.sort = "processes",
	.by_process = true,
	.collect = collect,
};
