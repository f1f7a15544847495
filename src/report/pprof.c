/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pprof's format: one protobuf message, gzip'ed.
 *
 *	Profile    1 sample_type  2 sample  3 mapping  4 location  5 function
 *	           6 string_table  9 time_nanos  10 duration_nanos
 *	           11 period_type  12 period  13 comment  14 default_sample_type
 *	ValueType  1 type  2 unit                       (numbers of strings)
 *	Sample     1 location_id (packed, leaf first)  2 value (packed)  3 label
 *	Label      1 key  2 str
 *	Mapping    1 id  5 filename  7 has_functions
 *	Location   1 id  2 mapping_id  4 line
 *	Line       1 function_id  2 line
 *	Function   1 id  2 name  3 system_name  4 filename
 *
 * (github.com/google/pprof, proto/profile.proto.) Parts of a message may come in
 * any order, so it is written as a stream: only one sample at a time is in
 * memory, however large the profile is. For that little the encoding is done
 * here: a number is 7 bits a byte, a part is number << 3 | form, then a number
 * (form 0) or a length and bytes (form 2).
 *
 * The process or thread is no frame here but a label of the sample, which is
 * what pprof's -tagroot, -tagfocus and -tagshow work on.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "report/profile_report.h"

enum {
	PROFILE_SAMPLE_TYPE = 1,
	PROFILE_SAMPLE,
	PROFILE_MAPPING,
	PROFILE_LOCATION,
	PROFILE_FUNCTION,
	PROFILE_STRING,
	PROFILE_TIME = 9,
	PROFILE_DURATION,
	PROFILE_COMMENT = 13,
	PROFILE_DEFAULT_TYPE
};

struct bytes {
	unsigned char *v;
	size_t n, allocated;
	bool failed;
};

struct strings {
	const char **v; /* v[i] is string number i */
	size_t n, allocated;
	uint32_t *slots; /* hash of text -> number + 1 */
	size_t n_slots;
};

struct location {
	uint32_t name, line;
};

struct pprof {
	const struct profile_report *r;
	FILE *to;
	z_stream z;
	int error;
	struct bytes part, inner; /* being built */
	struct strings strings;
};

/* ---- encoding ------------------------------------------------------------- */

static void put(struct bytes *b, const void *data, size_t n)
{
	if (b->failed || !n)
		return;
	if (b->n + n > b->allocated) {
		size_t more = b->allocated * 2 + n + 256;
		void *v = realloc(b->v, more);

		if (!v) {
			b->failed = true;
			return;
		}
		b->v = v;
		b->allocated = more;
	}
	memcpy(b->v + b->n, data, n);
	b->n += n;
}

static void put_varint(struct bytes *b, uint64_t v)
{
	unsigned char out[10];
	size_t n = 0;

	for (; v >= 0x80; v >>= 7)
		out[n++] = (unsigned char)(v | 0x80);
	out[n++] = (unsigned char)v;
	put(b, out, n);
}

static void put_number(struct bytes *b, unsigned field, uint64_t v)
{
	if (!v)
		return; /* the default */
	put_varint(b, field << 3);
	put_varint(b, v);
}

static void put_bytes(struct bytes *b, unsigned field, const void *data, size_t n)
{
	put_varint(b, field << 3 | 2);
	put_varint(b, n);
	put(b, data, n);
}

static void deflate_out(struct pprof *p, const void *data, size_t n, int flush)
{
	unsigned char out[16384];

	p->z.next_in = (unsigned char *)data;
	p->z.avail_in = (unsigned)n;
	do {
		p->z.next_out = out;
		p->z.avail_out = sizeof(out);
		if (deflate(&p->z, flush) == Z_STREAM_ERROR) {
			p->error = -EIO;
			return;
		}
		if (fwrite(out, 1, sizeof(out) - p->z.avail_out, p->to) !=
		    sizeof(out) - p->z.avail_out) {
			p->error = -EIO;
			return;
		}
	} while (!p->z.avail_out);
}

/* Writes a part of the profile itself. */
static void emit(struct pprof *p, unsigned field, const struct bytes *b)
{
	struct bytes head = { 0 };

	if (b->failed)
		p->error = -ENOMEM;
	if (p->error)
		return;
	put_varint(&head, field << 3 | 2);
	put_varint(&head, b->n);
	if (head.failed)
		p->error = -ENOMEM;
	else
		deflate_out(p, head.v, head.n, Z_NO_FLUSH);
	free(head.v);
	if (!p->error && b->n)
		deflate_out(p, b->v, b->n, Z_NO_FLUSH);
}

static void emit_number(struct pprof *p, unsigned field, uint64_t v)
{
	struct bytes b = { 0 };

	put_number(&b, field, v);
	if (b.failed)
		p->error = -ENOMEM;
	else if (!p->error && b.n)
		deflate_out(p, b.v, b.n, Z_NO_FLUSH);
	free(b.v);
}

/* ---- strings -------------------------------------------------------------- */

static size_t slot_of(const struct strings *s, const char *text)
{
	uint64_t h = 0xcbf29ce484222325ull;
	const char *c;
	size_t at;

	for (c = text; *c; c++)
		h = (h ^ (unsigned char)*c) * 0x100000001b3ull;
	at = (h ^ h >> 32) & (s->n_slots - 1);
	while (s->slots[at] && strcmp(s->v[s->slots[at] - 1], text) != 0)
		at = (at + 1) & (s->n_slots - 1);
	return at;
}

static bool grow(struct strings *s)
{
	size_t i, n = s->n_slots ? s->n_slots * 2 : 1024;
	uint32_t *slots;

	if (s->n == s->allocated) {
		size_t more = s->allocated ? s->allocated * 2 : 512;
		void *v = realloc(s->v, more * sizeof(*s->v));

		if (!v)
			return false;
		s->v = v;
		s->allocated = more;
	}
	if (s->n < s->n_slots / 4 * 3)
		return true;
	slots = calloc(n, sizeof(*slots));
	if (!slots)
		return false;
	free(s->slots);
	s->slots = slots;
	s->n_slots = n;
	for (i = 0; i < s->n; i++)
		s->slots[slot_of(s, s->v[i])] = (uint32_t)i + 1;
	return true;
}

/* The number of a text; it is written out when it is new. Number 0 is "". */
static uint64_t string(struct pprof *p, const char *text)
{
	struct strings *s = &p->strings;
	struct bytes b = { 0 };
	size_t at;

	if (p->error)
		return 0;
	if (!grow(s)) {
		p->error = -ENOMEM;
		return 0;
	}
	at = slot_of(s, text);
	if (s->slots[at])
		return s->slots[at] - 1;
	s->v[s->n] = text;
	s->slots[at] = (uint32_t)++s->n;
	put(&b, text, strlen(text));
	emit(p, PROFILE_STRING, &b);
	free(b.v);
	return s->n - 1;
}

/* ---- parts ---------------------------------------------------------------- */

static void put_type(struct pprof *p, const char *type, const char *unit)
{
	p->part.n = 0;
	put_number(&p->part, 1, string(p, type));
	put_number(&p->part, 2, string(p, unit));
	emit(p, PROFILE_SAMPLE_TYPE, &p->part);
}

/* Functions have the number of their name + 1. A mapping's number is that of
 * the string of its file name, which is as good as any. */
static void put_functions(struct pprof *p)
{
	const struct profile_report *r = p->r;
	size_t i;

	for (i = 0; i < r->n_names && !p->error; i++) {
		uint64_t name = string(p, r->names[i].text);

		p->part.n = 0;
		put_number(&p->part, 1, i + 1);
		put_number(&p->part, 2, name);
		put_number(&p->part, 3, name);
		if (r->names[i].file)
			put_number(&p->part, 4, string(p, r->names[i].file));
		emit(p, PROFILE_FUNCTION, &p->part);
	}
}

static bool is_native(const struct report_name *n)
{
	return n->module && (n->kind == FRAME_ERTS || n->kind == FRAME_NIF ||
			     n->kind == FRAME_LIBC || n->kind == FRAME_LIBRARY);
}

/* One mapping for each library; beam.smp first, which readers take for the
 * program. mapping[name] is filled with its number. */
static void put_mappings(struct pprof *p, uint64_t *mapping)
{
	const struct profile_report *r = p->r;
	uint64_t *seen = calloc(r->n_names + 1, sizeof(*seen));
	size_t i, k, seen_n = 0, pass;

	if (!seen) {
		p->error = -ENOMEM;
		return;
	}
	for (pass = 0; pass < 2; pass++)
		for (i = 0; i < r->n_names && !p->error; i++) {
			uint64_t file;

			if (!is_native(&r->names[i]) ||
			    (pass == 0) != (r->names[i].kind == FRAME_ERTS))
				continue;
			file = string(p, r->names[i].module);
			for (k = 0; k < seen_n && seen[k] != file; k++)
				;
			mapping[i] = k + 1;
			if (k < seen_n)
				continue;
			seen[seen_n++] = file;
			p->part.n = 0;
			put_number(&p->part, 1, k + 1);
			put_number(&p->part, 5, file);
			put_number(&p->part, 7, 1);
			emit(p, PROFILE_MAPPING, &p->part);
		}
	free(seen);
}

static int compare_locations(const void *a, const void *b)
{
	const struct location *x = a, *y = b;

	if (x->name != y->name)
		return x->name < y->name ? -1 : 1;
	return x->line < y->line ? -1 : x->line > y->line;
}

static bool is_label(const struct profile_report *r, const struct report_frame *f)
{
	return r->names[f->name].kind == FRAME_LABEL;
}

/* The distinct {name, line}, sorted: a location's number is its place + 1. */
static struct location *make_locations(struct pprof *p, size_t *n)
{
	const struct profile_report *r = p->r;
	struct location *v = malloc((r->n_frames + 1) * sizeof(*v));
	size_t i, k = 0;

	*n = 0;
	if (!v)
		return NULL;
	for (i = 0; i < r->n_frames; i++)
		if (!is_label(r, &r->frames[i])) {
			v[k].name = r->frames[i].name;
			v[k++].line = r->frames[i].line;
		}
	if (k)
		qsort(v, k, sizeof(*v), compare_locations);
	for (i = 0; i < k; i++)
		if (!*n || compare_locations(&v[*n - 1], &v[i]) != 0)
			v[(*n)++] = v[i];
	return v;
}

static void put_locations(struct pprof *p, const struct location *v, size_t n,
			  const uint64_t *mapping)
{
	size_t i;

	for (i = 0; i < n && !p->error; i++) {
		p->inner.n = 0;
		put_number(&p->inner, 1, (uint64_t)v[i].name + 1);
		put_number(&p->inner, 2, v[i].line);
		p->part.n = 0;
		put_number(&p->part, 1, i + 1);
		put_number(&p->part, 2, mapping[v[i].name]);
		if (p->inner.failed)
			p->error = -ENOMEM;
		put_bytes(&p->part, 4, p->inner.v, p->inner.n);
		emit(p, PROFILE_LOCATION, &p->part);
	}
}

static void put_sample(struct pprof *p, const struct report_stack *s, const struct location *v,
		       size_t n)
{
	const struct report_frame *frames = p->r->frames + s->first;
	const char *label = NULL;
	size_t i;

	p->inner.n = 0;
	for (i = 0; i < s->n; i++) { /* leaf first */
		const struct report_frame *f = &frames[p->r->invert ? i : s->n - 1 - i];
		const struct location key = { f->name, f->line };
		const struct location *found;

		if (is_label(p->r, f)) {
			label = p->r->names[f->name].text;
			continue;
		}
		found = bsearch(&key, v, n, sizeof(*v), compare_locations);
		put_varint(&p->inner, (uint64_t)(found - v) + 1);
	}
	p->part.n = 0;
	put_bytes(&p->part, 1, p->inner.v, p->inner.n);
	p->inner.n = 0;
	put_varint(&p->inner, (uint64_t)s->source->weight);
	put_varint(&p->inner, (uint64_t)s->gross);
	put_varint(&p->inner, s->count);
	put_bytes(&p->part, 2, p->inner.v, p->inner.n);
	if (label) {
		uint64_t key = string(p, s->source->process ? "process" : "thread");
		uint64_t text = string(p, label);

		p->inner.n = 0;
		put_number(&p->inner, 1, key);
		put_number(&p->inner, 2, text);
		put_bytes(&p->part, 3, p->inner.v, p->inner.n);
	}
	if (p->inner.failed)
		p->error = -ENOMEM;
	emit(p, PROFILE_SAMPLE, &p->part);
}

int profile_pprof(FILE *to, const struct profile_report *r, uint64_t time_ns, uint64_t duration_ns)
{
	struct pprof p = { .r = r, .to = to };
	uint64_t *mapping = calloc(r->n_names + 1, sizeof(*mapping));
	struct location *locations;
	size_t i, n = 0;

	locations = make_locations(&p, &n);
	if (!locations || !mapping ||
	    deflateInit2(&p.z, Z_DEFAULT_COMPRESSION, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) !=
		    Z_OK) {
		free(locations);
		free(mapping);
		return -ENOMEM;
	}
	string(&p, ""); /* number 0 */
	put_type(&p, r->profile->kind, r->profile->unit);
	put_type(&p, "gross", r->profile->unit);
	put_type(&p, "events", "count");
	put_functions(&p);
	put_mappings(&p, mapping);
	put_locations(&p, locations, n, mapping);
	for (i = 0; i < r->n_stacks && !p.error; i++)
		put_sample(&p, &r->stacks[i], locations, n);
	emit_number(&p, PROFILE_TIME, time_ns);
	emit_number(&p, PROFILE_DURATION, duration_ns);
	emit_number(&p, PROFILE_COMMENT, string(&p, r->title));
	emit_number(&p, PROFILE_DEFAULT_TYPE, string(&p, r->gross ? "gross" : r->profile->kind));
	if (!p.error)
		deflate_out(&p, NULL, 0, Z_FINISH);
	deflateEnd(&p.z);
	free(p.part.v);
	free(p.inner.v);
	free(p.strings.v);
	free(p.strings.slots);
	free(locations);
	free(mapping);
	return p.error;
}
