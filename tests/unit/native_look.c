/* SPDX-License-Identifier: Apache-2.0 */
/* A scan of a live node beside what its NIFs say of themselves. */
#include "native_look.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ledger/native.h"

struct truth {
	uint64_t addr, bytes;
	bool lost, seen;
	char owner[64];
};

struct block {
	uint64_t addr, bytes;
	char owner[64];
	enum native_evidence evidence;
	bool lost;
};

struct comparison {
	struct truth *truth;
	size_t n_truth;
	struct block *blocks;
	size_t n, room;
};

static void block_seen(void *arg, uint64_t addr, uint64_t bytes, const char *owner,
		       enum native_evidence evidence, bool lost)
{
	struct comparison *c = arg;
	struct block *b;

	if (c->n == c->room) {
		c->room = c->room ? c->room * 2 : 4096;
		c->blocks = realloc(c->blocks, c->room * sizeof(*c->blocks));
		if (!c->blocks)
			abort();
	}
	b = &c->blocks[c->n++];
	*b = (struct block){ .addr = addr, .bytes = bytes, .evidence = evidence, .lost = lost };
	snprintf(b->owner, sizeof(b->owner), "%s", owner);
}

static void truth_read(struct comparison *c, const char *file)
{
	char line[256], kind[16];
	struct truth t;
	size_t room = 0;
	FILE *f = fopen(file, "r");

	while (f && fgets(line, sizeof(line), f)) {
		memset(&t, 0, sizeof(t));
		if (sscanf(line, "%15s %" SCNx64 " %" SCNu64 " %63s", kind, &t.addr, &t.bytes,
			   t.owner) != 4)
			continue;
		t.lost = strcmp(kind, "lost") == 0;
		if (c->n_truth == room) {
			room = room ? room * 2 : 4096;
			c->truth = realloc(c->truth, room * sizeof(*c->truth));
			if (!c->truth)
				abort();
		}
		c->truth[c->n_truth++] = t;
	}
	if (f)
		fclose(f);
}

static const struct block *block_at(const struct comparison *c, uint64_t addr)
{
	size_t lo = 0, hi = c->n;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (c->blocks[mid].addr + c->blocks[mid].bytes <= addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < c->n && c->blocks[lo].addr <= addr ? &c->blocks[lo] : NULL;
}

static void count(json_t *in, const char *key, uint64_t bytes)
{
	json_int_t is = json_integer_value(json_object_get(in, key));

	json_object_set_new(in, key, json_integer(is + (json_int_t)bytes));
}

/* {"lost": {"a.so": {"bytes", "found", "right", "wrong", "unknown", "missing"}}, "kept": ...} */
static json_t *compare(const struct comparison *c)
{
	json_t *out = json_pack("{s:{}, s:{}}", "lost", "kept");
	size_t i;

	for (i = 0; i < c->n_truth; i++) {
		const struct truth *t = &c->truth[i];
		const struct block *b = block_at(c, t->addr);
		json_t *kind = json_object_get(out, t->lost ? "lost" : "kept");
		json_t *of = json_object_get(kind, t->owner);
		char key[96];

		if (!of) {
			json_object_set_new(kind, t->owner, json_object());
			of = json_object_get(kind, t->owner);
		}
		count(of, "bytes", t->bytes);
		if (!b) {
			count(of, "missing", t->bytes);
			continue;
		}
		count(of, "found", b->lost ? t->bytes : 0);
		fprintf(stderr, "UNK %s %lu\n", t->owner, (unsigned long)t->bytes);
		if (!b->owner[0] || strcmp(b->owner, "several") == 0)
			count(of, "unknown", t->bytes);
		else if (strcmp(b->owner, t->owner) == 0)
			count(of, "right", t->bytes);
		else
			count(of, "wrong", t->bytes);
		snprintf(key, sizeof(key), "as %s by %s", b->owner,
			 native_evidence_name(b->evidence));
		count(of, key, t->bytes);
	}
	return out;
}

static json_t *describe(const struct native *n)
{
	json_t *rows = json_array(), *lost = json_array(), *notes = json_array();
	size_t i;

	for (i = 0; i < n->n_rows; i++) {
		const struct native_row *r = &n->rows[i];

		json_array_append_new(rows,
				      json_pack("{s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:I}", "owner",
						r->owner, "class", native_class_name(r->class),
						"evidence", native_evidence_name(r->evidence),
						"mechanism", native_mechanism_name(r->mechanism),
						"chunks", (json_int_t)r->chunks, "bytes",
						(json_int_t)r->bytes, "resident",
						(json_int_t)r->resident, "lost_bytes",
						(json_int_t)r->lost_bytes));
	}
	for (i = 0; i < n->n_lost; i++) {
		const struct native_lost *g = &n->lost[i];

		json_array_append_new(lost,
				      json_pack("{s:s, s:s, s:s, s:I, s:I, s:s, s:s}", "owner",
						g->owner, "evidence",
						native_evidence_name(g->evidence), "mechanism",
						native_mechanism_name(g->mechanism), "size",
						(json_int_t)g->size, "count", (json_int_t)g->count,
						"threads", g->threads, "candidates",
						g->candidates));
	}
	for (i = 0; i < n->n_notes; i++)
		json_array_append_new(notes, json_string(n->notes[i]));
	return json_pack(
		"{s:b, s:b, s:b, s:o, s:o, s:o, s:I, s:I, s:I, s:I, s:f, s:f, s:I, s:I, s:I, s:I, s:I}",
		"walked", n->heap_walked, "proved", n->lost_proved, "complete", n->complete, "rows",
		rows, "lost_groups", lost, "notes", notes, "lost_bytes", (json_int_t)n->lost_bytes,
		"excused", (json_int_t)n->excused, "used_resident", (json_int_t)n->used_resident,
		"bookkeeping", (json_int_t)n->bookkeeping, "seconds", n->seconds, "cpu_seconds",
		n->cpu_seconds, "read_bytes", (json_int_t)n->read_bytes, "nodes",
		(json_int_t)n->nodes, "edges", (json_int_t)n->edges, "own_bytes",
		(json_int_t)n->own_bytes, "gone_bytes", (json_int_t)n->gone_bytes);
}

int native_look(int pid, const char *file)
{
	struct comparison c = { 0 };
	struct native_opts opts = { .block = block_seen, .arg = &c };
	struct error err = { 0 };
	struct target *t = NULL;
	struct observer *o = NULL;
	struct native *n = NULL;
	struct look *l = NULL;
	double estimate = 0;
	json_t *out;
	int ret = target_open(pid, &t, &err);

	truth_read(&c, file);
	if (ret == 0)
		ret = observer_open(t, &o, &err);
	if (ret == 0)
		ret = look_take(o, NULL, &l, &err);
	if (ret == 0) {
		estimate = native_scan_estimate(l);
		look_free(l);
		ret = native_scan(o, &opts, &n, &err);
	}
	if (ret < 0 || !n) {
		fprintf(stderr, "%s\n", err.text);
		free(c.blocks);
		free(c.truth);
		return 1;
	}
	out = describe(n);
	json_object_set_new(out, "truth", compare(&c));
	json_object_set_new(out, "estimate", json_real(estimate));
	json_dumpf(out, stdout, JSON_COMPACT | JSON_REAL_PRECISION(6));
	putchar('\n');
	json_decref(out);
	native_free(n);
	observer_close(o);
	target_close(t);
	free(c.blocks);
	free(c.truth);
	return 0;
}
