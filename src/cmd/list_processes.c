/* SPDX-License-Identifier: Apache-2.0 */
/* beamray list processes: what process_info/2 says, and over a --window what changed. */
#include "cmd/list.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "erts/code.h"
#include "erts/process_info.h"

enum {
	PID,
	LABEL,
	MEMORY,
	D_MEMORY,
	QUEUE,
	D_QUEUE,
	REDUCTIONS,
	D_REDUCTIONS,
	FUNCTION,
	LINE,
	BINARY_BYTES,
	D_BINARY_BYTES,
	BINARIES,
	HEAP,
	OLD_HEAP,
	STACK,
	STATUS,
	MESSAGE_BYTES,
	NAME,
	INITIAL_CALL,
	PRIORITY,
	DIRTY,
	TRAP_EXIT,
	MESSAGES_IN_HEAP,
	SIGNALS,
	QUEUE_DATA,
	TOTAL_HEAP,
	HEAP_USED,
	OLD_HEAP_USED,
	MBUF,
	VHEAP,
	VHEAP_BLOCK,
	OLD_VHEAP,
	OLD_VHEAP_BLOCK,
	MIN_HEAP,
	MIN_VHEAP,
	MAX_HEAP,
	MAX_HEAP_KILL,
	FULLSWEEP,
	MINOR_GCS,
	GC,
	LINKS,
	MONITORS,
	MONITORED_BY,
	DICTIONARY,
	GROUP_LEADER,
	PARENT,
	APPROXIMATE,
	N_COLUMNS
};

static const struct column columns[N_COLUMNS] = {
	[PID] = { "pid", "PID", COLUMN_TEXT, 12, .fixed = true },
	[LABEL] = { "label", "NAME OR INITIAL CALL", COLUMN_TEXT, 20 },
	[MEMORY] = { "memory", "MEMORY", COLUMN_BYTES, 0 },
	[D_MEMORY] = { "memory_delta", NULL, COLUMN_SIGNED_BYTES, 0 },
	[QUEUE] = { "message_queue_len", "MSGQ", COLUMN_COUNT, 7 },
	[D_QUEUE] = { "message_queue_len_delta", NULL, COLUMN_SIGNED, 8 },
	[REDUCTIONS] = { "reductions", "REDS", COLUMN_COUNT, 7 },
	[D_REDUCTIONS] = { "reductions_delta", NULL, COLUMN_SIGNED, 8 },
	[FUNCTION] = { "current_function", "CURRENT FUNCTION", COLUMN_TEXT, 18 },
	[LINE] = { "current_line", NULL, COLUMN_COUNT, 5 },
	[BINARY_BYTES] = { "binary_bytes", "BINARIES", COLUMN_BYTES, 0 },
	[D_BINARY_BYTES] = { "binary_bytes_delta", NULL, COLUMN_SIGNED_BYTES, 0 },
	[BINARIES] = { "binaries", "REFS", COLUMN_COUNT, 6 },
	[HEAP] = { "heap_size", "HEAP", COLUMN_WORDS, 0 },
	[OLD_HEAP] = { "old_heap_size", "OLD HEAP", COLUMN_WORDS, 0 },
	[STACK] = { "stack_size", "STACK", COLUMN_WORDS, 0 },
	[STATUS] = { "status", "STATUS", COLUMN_TEXT, 9, .fixed = true },
	[MESSAGE_BYTES] = { "message_bytes", "MESSAGES", COLUMN_BYTES, 0 },
	[NAME] = { "registered_name", NULL, COLUMN_TEXT, 20 },
	[INITIAL_CALL] = { "initial_call", NULL, COLUMN_TEXT, 20 },
	[PRIORITY] = { "priority", NULL, COLUMN_TEXT, 8 },
	[DIRTY] = { "dirty", NULL, COLUMN_FLAG, 0 },
	[TRAP_EXIT] = { "trap_exit", NULL, COLUMN_FLAG, 0 },
	[MESSAGES_IN_HEAP] = { "messages_in_heap", NULL, COLUMN_COUNT, 0 },
	[SIGNALS] = { "signals", NULL, COLUMN_COUNT, 0 },
	[QUEUE_DATA] = { "message_queue_data", NULL, COLUMN_TEXT, 8 },
	[TOTAL_HEAP] = { "total_heap_size", NULL, COLUMN_WORDS, 0 },
	[HEAP_USED] = { "heap_used", NULL, COLUMN_WORDS, 0 },
	[OLD_HEAP_USED] = { "old_heap_used", NULL, COLUMN_WORDS, 0 },
	[MBUF] = { "mbuf_size", NULL, COLUMN_WORDS, 0 },
	[VHEAP] = { "bin_vheap_size", NULL, COLUMN_WORDS, 0 },
	[VHEAP_BLOCK] = { "bin_vheap_block_size", NULL, COLUMN_WORDS, 0 },
	[OLD_VHEAP] = { "bin_old_vheap_size", NULL, COLUMN_WORDS, 0 },
	[OLD_VHEAP_BLOCK] = { "bin_old_vheap_block_size", NULL, COLUMN_WORDS, 0 },
	[MIN_HEAP] = { "min_heap_size", NULL, COLUMN_WORDS, 0 },
	[MIN_VHEAP] = { "min_bin_vheap_size", NULL, COLUMN_WORDS, 0 },
	[MAX_HEAP] = { "max_heap_size", NULL, COLUMN_WORDS, 0 },
	[MAX_HEAP_KILL] = { "max_heap_size_kill", NULL, COLUMN_FLAG, 0 },
	[FULLSWEEP] = { "fullsweep_after", NULL, COLUMN_COUNT, 0 },
	[MINOR_GCS] = { "minor_gcs", NULL, COLUMN_COUNT, 0 },
	[GC] = { "gc_flags", NULL, COLUMN_TEXT, 10 },
	[LINKS] = { "links", NULL, COLUMN_COUNT, 0 },
	[MONITORS] = { "monitors", NULL, COLUMN_COUNT, 0 },
	[MONITORED_BY] = { "monitored_by", NULL, COLUMN_COUNT, 0 },
	[DICTIONARY] = { "dictionary_entries", NULL, COLUMN_COUNT, 0 },
	[GROUP_LEADER] = { "group_leader", NULL, COLUMN_TEXT, 12 },
	[PARENT] = { "parent", NULL, COLUMN_TEXT, 12 },
	[APPROXIMATE] = { "approximate", NULL, COLUMN_FLAG, 0 },
};

/* Over a window the changes stand beside their columns. */
static const struct column *columns_windowed(void)
{
	static struct column c[N_COLUMNS];

	memcpy(c, columns, sizeof(c));
	c[D_MEMORY].header = "+MEMORY";
	c[D_QUEUE].header = "+MSGQ";
	c[D_REDUCTIONS].header = "+REDS";
	c[D_BINARY_BYTES].header = "+BINARIES";
	c[QUEUE].header = c[REDUCTIONS].header = NULL;
	return c;
}

/* What round 0 of a window leaves for round 1: one block, by pid. */
struct before {
	size_t n;
	struct moment {
		uint64_t pid, memory, queue, reductions, binary_bytes;
	} v[];
};

#define MFA_BEFORE 64	/* bytes: a function's name stands right before its code */
#define PLACES	   1024 /* power of two: addresses at which processes wait are few */

struct filling {
	struct list_run *run;
	struct vm *vm;
	struct code *code; /* NULL: not to be had */
	struct table *t;
	struct before *before;
	size_t allocated; /* of before->v, in round 0 */
	uint64_t memory, binary_bytes, messages;
	struct place {
		uint64_t instruction, current;
		uint32_t line;
		char text[PROCESS_LABEL_MAX];
	} * places;
};

static int by_pid(const void *pa, const void *pb)
{
	const struct moment *a = pa, *b = pb;

	return a->pid < b->pid ? -1 : a->pid > b->pid;
}

static int remember(void *ctx, const struct process_info *i)
{
	struct filling *f = ctx;
	struct before *b = f->before;

	if (b->n == f->allocated) {
		size_t more = f->allocated * 2;

		b = realloc(b, sizeof(*b) + more * sizeof(b->v[0]));
		if (!b)
			return -ENOMEM;
		f->before = b;
		f->allocated = more;
	}
	b->v[b->n++] = (struct moment){ i->p.pid, i->memory, i->message_queue_len, i->reductions,
					i->binary_bytes };
	return 0;
}

static void set_deltas(struct filling *f, const struct process_info *i)
{
	struct moment key = { .pid = i->p.pid };
	const struct moment *m = bsearch(&key, f->before->v, f->before->n, sizeof(key), by_pid);
	static const struct moment none; /* it did not exist yet: all of it is change */

	if (!m)
		m = &none;
	table_set_signed(f->t, D_MEMORY, (int64_t)(i->memory - m->memory));
	table_set_signed(f->t, D_QUEUE, (int64_t)(i->message_queue_len - m->queue));
	table_set_signed(f->t, D_REDUCTIONS, (int64_t)(i->reductions - m->reductions));
	table_set_signed(f->t, D_BINARY_BYTES, (int64_t)(i->binary_bytes - m->binary_bytes));
}

/* The function in which it goes on: as the VM noted it, else by address. */
static void set_function(struct filling *f, const struct process_info *i)
{
	struct place *p = &f->places[(i->instruction >> 2 ^ i->current >> 3) & (PLACES - 1)];
	struct code_mfa mfa;

	if (p->instruction != i->instruction || p->current != i->current) {
		bool found = f->code && code_lookup(f->code, i->instruction, &mfa);

		p->instruction = i->instruction;
		p->current = i->current;
		p->line = found ? mfa.line : 0;
		snprintf(p->text, sizeof(p->text), "%s", found ? mfa.name : "");
		/* In a BIF the noted function is not the one at that address. */
		if (i->current && process_mfa_at(f->vm, i->current, p->text, sizeof(p->text)) &&
		    !(found && i->current + MFA_BEFORE >= mfa.start && i->current < mfa.end))
			p->line = 0;
	}
	if (p->text[0])
		table_text(f->t, FUNCTION, p->text);
	if (p->line)
		table_set(f->t, LINE, p->line);
}

static void set_pid(struct filling *f, unsigned column, uint64_t term)
{
	char text[48];

	if (process_pid_text(f->vm, term, text, sizeof(text)))
		table_text(f->t, column, text);
}

static void set_names(struct filling *f, const struct process_info *i)
{
	char text[PROCESS_LABEL_MAX];

	set_pid(f, PID, i->p.pid);
	process_label(f->vm, &i->p, text, sizeof(text));
	table_text(f->t, LABEL, text);
	if (i->p.name && vm_atom(f->vm, i->p.name >> 6, text, sizeof(text)) >= 0)
		table_text(f->t, NAME, text);
	if (process_initial_call(f->vm, &i->p, text, sizeof(text)))
		table_text(f->t, INITIAL_CALL, text);
	set_function(f, i);
	table_text(f->t, STATUS, i->status);
	table_text(f->t, PRIORITY, i->priority);
	table_text(f->t, QUEUE_DATA, i->off_heap_messages ? "off_heap" : "on_heap");
	if (i->gc[0])
		table_text(f->t, GC, i->gc);
	set_pid(f, GROUP_LEADER, i->group_leader);
	set_pid(f, PARENT, i->parent);
}

static int fill(void *ctx, const struct process_info *i)
{
	struct filling *f = ctx;
	const struct {
		unsigned column;
		uint64_t value;
	} numbers[] = {
		{ MEMORY, i->memory },
		{ QUEUE, i->message_queue_len },
		{ REDUCTIONS, i->reductions },
		{ BINARY_BYTES, i->binary_bytes },
		{ BINARIES, i->binaries },
		{ HEAP, i->heap_size },
		{ OLD_HEAP, i->old_heap_size },
		{ STACK, i->stack_size },
		{ MESSAGE_BYTES, i->message_bytes },
		{ DIRTY, i->dirty },
		{ TRAP_EXIT, i->trap_exit },
		{ MESSAGES_IN_HEAP, i->messages_in_heap },
		{ SIGNALS, i->signals },
		{ TOTAL_HEAP, i->total_heap_size },
		{ HEAP_USED, i->heap_used },
		{ OLD_HEAP_USED, i->old_heap_used },
		{ MBUF, i->mbuf_size },
		{ VHEAP, i->bin_vheap_size },
		{ VHEAP_BLOCK, i->bin_vheap_block_size },
		{ OLD_VHEAP, i->bin_old_vheap_size },
		{ OLD_VHEAP_BLOCK, i->bin_old_vheap_block_size },
		{ MIN_HEAP, i->min_heap_size },
		{ MIN_VHEAP, i->min_bin_vheap_size },
		{ MAX_HEAP, i->max_heap_size },
		{ MAX_HEAP_KILL, i->max_heap_kill },
		{ FULLSWEEP, i->fullsweep_after },
		{ MINOR_GCS, i->minor_gcs },
		{ LINKS, i->links },
		{ MONITORS, i->monitors },
		{ MONITORED_BY, i->monitored_by },
		{ DICTIONARY, i->dictionary_entries },
		{ APPROXIMATE, i->approximate || i->undecoded },
	};
	size_t k;

	if (table_row(f->t))
		return table_error(f->t);
	for (k = 0; k < sizeof(numbers) / sizeof(numbers[0]); k++)
		table_set(f->t, numbers[k].column, numbers[k].value);
	set_names(f, i);
	if (f->before)
		set_deltas(f, i);
	f->memory += i->memory;
	f->binary_bytes += i->binary_bytes;
	f->messages += i->message_queue_len;
	return table_error(f->t);
}

static void say(struct filling *f, const struct process_scan *scan)
{
	struct listing *l = f->run->listing;

	listing_fact(l, "processes", "processes", COLUMN_COUNT, scan->found);
	listing_fact(l, "process_limit", "of at most", COLUMN_COUNT, scan->limit);
	listing_fact(l, "memory", "memory", COLUMN_BYTES, f->memory);
	listing_fact(l, "messages", "messages", COLUMN_COUNT, f->messages);
	listing_fact(l, "binary_bytes", "binaries referred to", COLUMN_BYTES, f->binary_bytes);
	l->torn = scan->torn + scan->approximate;
	listing_missing(l, l->torn, scan->found + scan->torn);
	if (scan->absent && scan->count != UINT64_MAX && scan->count > scan->found) {
		listing_missing(l, scan->count - scan->found, 0);
		listing_note(l,
			     "%llu slots of the process table are not in memory (swapped out): "
			     "the table has %llu processes, those there are not listed.",
			     (unsigned long long)scan->absent, (unsigned long long)scan->count);
	}
	if (scan->gone)
		listing_note(l, "%llu processes ended while they were read and are left out.",
			     (unsigned long long)scan->gone);
	if (scan->torn)
		listing_note(l, "%llu processes changed too fast to be read and are left out.",
			     (unsigned long long)scan->torn);
	if (scan->approximate)
		listing_note(l,
			     "%llu processes changed while their queues or lists were read: "
			     "memory, messages and binaries of those are lower bounds.",
			     (unsigned long long)scan->approximate);
	if (scan->undecoded)
		listing_note(l,
			     "%llu processes have messages of other nodes that nobody has decoded "
			     "yet: their memory is without those.",
			     (unsigned long long)scan->undecoded);
	if (!f->code)
		listing_note(l, "The VM's code could not be read: current_function is known only "
				"where the VM has noted it.");
}

static int collect(struct list_run *run, struct error *err)
{
	struct filling f = { .run = run, .vm = run->observer->vm };
	struct process_scan scan;
	bool first = run->window_s > 0 && run->round == 0;
	int ret;

	if (first) {
		f.allocated = 1024;
		f.before = malloc(sizeof(*f.before) + f.allocated * sizeof(f.before->v[0]));
		if (!f.before)
			return -ENOMEM;
		f.before->n = 0;
		ret = processes_scan(f.vm, PROCESS_ALL, remember, &f, &scan, err);
		if (!ret)
			qsort(f.before->v, f.before->n, sizeof(f.before->v[0]), by_pid);
		run->state = f.before;
		return ret;
	}
	f.before = run->state;
	f.t = listing_table(run->listing, "rows", f.before ? columns_windowed() : columns,
			    N_COLUMNS);
	f.places = calloc(PLACES, sizeof(*f.places));
	ret = f.t && f.places ? code_open(f.vm, &f.code, NULL) : -ENOMEM;
	if (ret != -ENOMEM && ret != -ESRCH && ret != -ETIMEDOUT)
		ret = processes_scan(f.vm, PROCESS_ALL, fill, &f, &scan, err);
	if (!ret) {
		say(&f, &scan);
		if (f.before)
			listing_fact_real(run->listing, "window_s", "seconds", COLUMN_REAL,
					  run->between);
	}
	code_close(f.code);
	free(f.places);
	return ret;
}

const struct list_what list_processes = {
	.name = "processes",
	.summary = "memory, queue, reductions, binaries; --window",
	.sort = "memory",
	.sort_window = "memory_delta",
	.windowed = true,
	.collect = collect,
};
