/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is drawn of a profile: sums against the profile, documents read back by
 * readers that are not ours (an XML parser, jansson) or by a plain protobuf
 * walk, names that try to break out of every format.
 */
#include <inttypes.h>
#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

#include <cmocka.h>

#include "report/profile_report.h"
#include "target/escape.h"

static uint32_t seed;

static uint32_t next_random(void)
{
	seed = seed * 1664525u + 1013904223u;
	return seed >> 8;
}

/* Raw names as a target could have them. */
static const char *const hostile[] = {
	"plain",
	"a;b",
	"x 12",
	"<script>alert(1)</script>",
	"&amp;\"'>",
	"]]>",
	"tab\tnew\nline\r",
	"\x1b[31mred",
	"\xff\xfe\x80",
	"\xc3\xa4\xe2\x82\xac",
	"\xe2\x80\xaelive",
	"",
	"\\x3B",
	"%s%n%d",
	"${x}`id`",
	"very_long_name_that_does_not_fit_into_its_box_whatever_happens/255",
};

#define N_HOSTILE (sizeof(hostile) / sizeof(hostile[0]))

struct made {
	struct profile *p;
	struct symbols *s;
	int64_t total, negative;
};

/* `stacks` random stacks over the hostile names. */
static void make(struct made *m, unsigned stacks, bool negative)
{
	static const enum frame_kind kinds[] = { FRAME_ERLANG, FRAME_GLUE, FRAME_ERTS,
						 FRAME_NIF,    FRAME_LIBC, FRAME_LIBRARY,
						 FRAME_KERNEL };
	unsigned i, j;

	m->p = profile_new("growth", "bytes");
	m->s = symbols_new();
	m->total = m->negative = 0;
	assert_true(m->p && m->s);
	for (i = 0; i < 200; i++) {
		char text[512], module[64];
		struct symbol one = { .kind = kinds[i % 7] };
		struct symbol_key key = { i, FRAME_NATIVE, false };

		escape_string(text, sizeof(text), hostile[i % N_HOSTILE]);
		escape_string(module, sizeof(module), hostile[(i + 5) % N_HOSTILE]);
		one.name = i % 11 ? text : NULL;
		one.module = i % 13 ? module : NULL;
		one.file = i % 3 ? "src/file.erl" : NULL;
		one.line = i;
		one.offset = i;
		assert_int_equal(symbols_put(m->s, &key, &one), 0);
		key.exact = true;
		assert_int_equal(symbols_put(m->s, &key, &one), 0);
	}
	for (i = 0; i < stacks; i++) {
		struct frame f[12];
		char label[512];
		unsigned n = 1 + next_random() % 12;
		int64_t weight = next_random() % 4096;

		if (negative && next_random() % 8 == 0)
			weight = -weight;
		for (j = 0; j < n; j++) {
			f[j].addr = next_random() % 200;
			f[j].kind = FRAME_NATIVE;
		}
		if (next_random() % 8 == 0)
			f[n - 1].kind = FRAME_CUT;
		escape_string(label, sizeof(label), hostile[next_random() % N_HOSTILE]);
		assert_int_equal(profile_add(m->p, f, n, i % 3, 1, i % 5 ? label : NULL, i % 2,
					     weight, 5000, 1),
				 0);
		m->total += weight;
	}
	profile_sort(m->p);
}

static void unmake(struct made *m)
{
	profile_free(m->p);
	symbols_free(m->s);
}

static char *written(const struct profile_report *r,
		     int (*fn)(FILE *, const struct profile_report *), size_t *size)
{
	char *text = NULL;
	FILE *f = open_memstream(&text, size);

	assert_non_null(f);
	assert_int_equal(fn(f, r), 0);
	assert_int_equal(fclose(f), 0);
	return text;
}

static int svg(FILE *f, const struct profile_report *r)
{
	profile_flamegraph(f, r, 0);
	return 0;
}

static int pprof(FILE *f, const struct profile_report *r)
{
	return profile_pprof(f, r, 1700000000000000000ull, 30000000000ull);
}

static void names_are_as_documented(void **state)
{
	struct profile *p = profile_new("growth", "bytes");
	struct symbols *s = symbols_new();
	struct symbol outer = { .name = "outer", .module = "x_nif.so", .kind = FRAME_NIF };
	const struct symbol all[] = {
		{ .name = "do_mmap", .kind = FRAME_KERNEL },
		{ .name = "malloc", .module = "libc.so.6", .kind = FRAME_LIBC },
		{ .module = "x_nif.so", .offset = 0x1240, .kind = FRAME_NIF },
		{ .name = "inner", .module = "x_nif.so", .kind = FRAME_NIF, .outer = &outer },
		{ .name = "global::call_nif", .module = "global", .kind = FRAME_GLUE },
		{ .name = "m:f/1", .module = "m", .kind = FRAME_ERLANG },
	};
	struct frame f[8];
	struct profile_report *r;
	size_t i, size;
	char *text;

	for (i = 0; i < 6; i++) {
		struct symbol_key key = { 0x100 + i, i ? FRAME_NATIVE : FRAME_KERNEL, i < 2 };

		assert_int_equal(symbols_put(s, &key, &all[i]), 0);
		f[i].addr = key.addr;
		f[i].kind = key.kind;
	}
	f[6] = (struct frame){ 1ull << 32 | 12000, FRAME_REPEAT };
	f[7] = (struct frame){ 0xabc, FRAME_NATIVE };
	assert_int_equal(profile_add(p, f, 8, 3, 1, "my_server", true, 4096, 8192, 1), 0);
	assert_int_equal(profile_report_new(p, s, NULL, &r), 0);
	text = written(r, profile_folded, &size);
	assert_string_equal(text, "my_server;0xabc;[repeated];m:f/1;global::call_nif;"
				  "outer [x_nif.so];inner [x_nif.so];x_nif.so+0x1240;"
				  "malloc [libc.so.6];do_mmap_[k] 4096\n");
	free(text);
	profile_report_free(r);

	assert_int_equal(profile_report_new(p, s,
					    &(struct profile_report_opts){ .invert = true,
									   .gross = true },
					    &r),
			 0);
	text = written(r, profile_folded, &size);
	assert_string_equal(text, "do_mmap_[k];malloc [libc.so.6];x_nif.so+0x1240;"
				  "inner [x_nif.so];outer [x_nif.so];global::call_nif;m:f/1;"
				  "[repeated];0xabc;my_server 8192\n");
	free(text);
	profile_report_free(r);

	/* without symbols there are still addresses */
	assert_int_equal(profile_report_new(p, NULL, NULL, &r), 0);
	text = written(r, profile_folded, &size);
	assert_non_null(strstr(text, "my_server;0xabc;[repeated];0x105;0x104;"));
	free(text);
	profile_report_free(r);
	profile_free(p);
	symbols_free(s);
}

static void filters_choose_stacks(void **state)
{
	struct made m;
	struct profile_report *r;
	int64_t sum = 0;
	size_t i, n = 0;

	seed = 3;
	make(&m, 500, false);
	for (i = 0; i < m.p->n; i++)
		if (m.p->stacks[i].label && strstr(m.p->stacks[i].label, "plain")) {
			sum += m.p->stacks[i].weight;
			n++;
		}
	assert_int_equal(profile_report_new(m.p, m.s,
					    &(struct profile_report_opts){ .process = "plain" },
					    &r),
			 0);
	assert_int_equal(r->total, sum);
	assert_int_equal(r->n_stacks, n);
	profile_report_free(r);
	assert_int_equal(profile_report_new(m.p, m.s,
					    &(struct profile_report_opts){ .library = "nowhere" },
					    &r),
			 0);
	assert_int_equal(r->total, 0);
	assert_int_equal(r->n_stacks, 0);
	profile_report_free(r);
	assert_int_equal(profile_report_new(m.p, m.s,
					    &(struct profile_report_opts){ .library = "plain" },
					    &r),
			 0);
	assert_true(r->n_stacks > 10 && r->n_stacks < m.p->n);
	profile_report_free(r);
	unmake(&m);
}

/* Every line: something, a blank, a number; the numbers add up. */
static void folded_adds_up(void **state)
{
	struct made m;
	struct profile_report *r;
	char *text, *line, *save = NULL;
	int64_t sum = 0;
	size_t size, lines = 0;

	seed = 11;
	make(&m, 3000, true);
	assert_int_equal(profile_report_new(m.p, m.s, NULL, &r), 0);
	assert_int_equal(r->total, m.total);
	text = written(r, profile_folded, &size);
	assert_int_equal(strlen(text), size);
	for (line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		char *blank = strrchr(line, ' '), *end;

		assert_non_null(blank);
		sum += strtoll(blank + 1, &end, 10);
		assert_true(end > blank + 1 && !*end);
		lines++;
	}
	assert_int_equal(sum, m.total);
	assert_true(lines > 1000);
	free(text);
	profile_report_free(r);
	unmake(&m);
}

static bool have(const char *command)
{
	return system(command) == 0;
}

static void svg_is_well_formed(void **state)
{
	struct made m;
	struct profile_report *r;
	char *text, *again, path[] = "/tmp/beamray-svg-XXXXXX", command[128];
	const char *at;
	double row = 0;
	size_t size, boxes = 0;
	int fd;

	seed = 5;
	make(&m, 3000, true);
	assert_int_equal(profile_report_new(m.p, m.s,
					    &(struct profile_report_opts){
						    .title = "growth of <a> & \"b\" ]]>" },
					    &r),
			 0);
	text = written(r, svg, &size);
	again = written(r, svg, &size);
	assert_string_equal(text, again); /* the same profile, the same document */
	free(again);
	assert_null(strstr(text, "<script>alert"));
	assert_non_null(strstr(text, "&lt;script&gt;alert(1)"));
	assert_null(memchr(text, '\x1b', size));
	/* the boxes of the lowest row take what is not given back */
	for (at = text; (at = strstr(at, "data-x=\"")); at++) {
		double x, w;
		unsigned depth;

		assert_int_equal(sscanf(at, "data-x=\"%lf\" data-w=\"%lf\" data-d=\"%u\"", &x, &w,
					&depth),
				 3);
		assert_true(x > -1e-6 && x + w < 1 + 1e-6);
		if (!depth)
			row += w;
		boxes++;
	}
	assert_true(boxes > 100);
	assert_true(row > 0.99 && row < 1 + 1e-6);
	assert_non_null(strstr(text, "not drawn: -")); /* and the rest is said */

	fd = mkstemp(path);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, size), size);
	close(fd);
	if (have("command -v xmllint >/dev/null"))
		snprintf(command, sizeof(command), "xmllint --noout %s", path);
	else if (have("command -v python3 >/dev/null"))
		snprintf(command, sizeof(command),
			 "python3 -c 'import sys,xml.dom.minidom as m; m.parse(sys.argv[1])' %s",
			 path);
	else
		snprintf(command, sizeof(command), "true");
	assert_int_equal(system(command), 0);
	unlink(path);
	free(text);
	profile_report_free(r);
	unmake(&m);
}

static void nothing_can_be_drawn_too(void **state)
{
	struct profile *p = profile_new("gc", "collections");
	int (*const all[])(FILE *, const struct profile_report *) = { profile_folded, svg, pprof,
								      profile_speedscope };
	struct profile_report *r;
	struct frame f = { 1, FRAME_NATIVE };
	size_t i, size;

	assert_int_equal(profile_report_new(p, NULL, NULL, &r), 0);
	for (i = 0; i < 4; i++)
		free(written(r, all[i], &size));
	profile_report_free(r);
	/* only what has been given back; a stack without frames */
	assert_int_equal(profile_add(p, &f, 1, 0, 0, NULL, false, -5, 0, 1), 0);
	assert_int_equal(profile_add(p, NULL, 0, 0, 0, NULL, false, 7, 0, 1), 0);
	assert_int_equal(profile_report_new(p, NULL, NULL, &r), 0);
	assert_int_equal(r->total, 2);
	assert_int_equal(r->negative, -5);
	for (i = 0; i < 4; i++)
		free(written(r, all[i], &size));
	profile_report_free(r);
	profile_free(p);
}

/* With a base: both sums, boxes as wide as the larger of both, two weights a line. */
static void differences_have_both_sides(void **state)
{
	struct profile *a = profile_new("growth", "bytes"), *b = profile_new("growth", "bytes");
	struct profile_report_opts opts = { .base = a };
	const struct frame same = { 1, FRAME_NATIVE }, gone = { 2, FRAME_NATIVE },
			   came = { 3, FRAME_NATIVE };
	struct profile_sum *sums;
	struct profile_report *r;
	size_t size, n, i;
	char *text;

	assert_int_equal(profile_add(a, &same, 1, 0, 0, "p", true, 100, 100, 1), 0);
	assert_int_equal(profile_add(a, &gone, 1, 0, 0, "p", true, 30, 30, 1), 0);
	assert_int_equal(profile_add(b, &same, 1, 0, 0, "p", true, 150, 150, 1), 0);
	assert_int_equal(profile_add(b, &came, 1, 0, 0, "q", true, 50, 50, 1), 0);
	assert_int_equal(profile_report_new(b, NULL, &opts, &r), 0);
	assert_int_equal(r->total, 200);
	assert_int_equal(r->base_total, 130);
	assert_int_equal(r->nodes[0].drawn, 150 + 30 + 50);
	assert_int_equal(r->events, 2);
	text = written(r, profile_folded, &size);
	assert_non_null(strstr(text, "p;0x1 100 150\n"));
	assert_non_null(strstr(text, "p;0x2 30 0\n"));
	assert_non_null(strstr(text, "q;0x3 0 50\n"));
	free(text);
	text = written(r, svg, &size);
	assert_non_null(strstr(text, "0x2 (30 B before, 0 B after, 13.04%"));
	assert_non_null(strstr(text, "<rect class=\"d3\""));
	assert_non_null(strstr(text, "<rect class=\"u3\""));
	free(text);
	sums = profile_sums(r, SUM_PROCESS, &n);
	assert_non_null(sums);
	assert_int_equal(n, 2);
	for (i = 0; i < n; i++) /* the largest change first */
		assert_string_equal(sums[i].text, i ? "p" : "q");
	free(sums);
	profile_report_free(r);
	profile_free(a);
	profile_free(b);
}

/* Whatever way it is turned, a stack has one leaf, one library, one process. */
static void sums_add_up(void **state)
{
	struct made m;
	int turned, by;

	seed = 17;
	make(&m, 2000, true);
	for (turned = 0; turned < 2; turned++)
		for (by = SUM_PROCESS; by <= SUM_FUNCTION; by++) {
			struct profile_report_opts opts = { .invert = turned };
			struct profile_sum *v;
			struct profile_report *r;
			int64_t sum = 0;
			size_t i, n;

			assert_int_equal(profile_report_new(m.p, m.s, &opts, &r), 0);
			v = profile_sums(r, (enum sum_by)by, &n);
			assert_non_null(v);
			for (i = 0; i < n; i++)
				sum += v[i].weight;
			assert_int_equal(sum, m.total);
			assert_true(n > 3);
			free(v);
			profile_report_free(r);
		}
	unmake(&m);
}

static void recursions_of_all_depths_are_one(void **state)
{
	struct profile *p = profile_new("cpu", "samples");
	struct frame f[40] = { { 1, FRAME_NATIVE } };
	struct profile_report *r;
	size_t i, n, size;
	char *text;

	for (n = 3; n < 40; n++) {
		for (i = 1; i < n - 1; i++)
			f[i] = (struct frame){ 2, FRAME_NATIVE };
		f[n - 1] = (struct frame){ 3, FRAME_NATIVE };
		assert_int_equal(profile_add(p, f, n, 0, 0, "p", true, 1, 1, 1), 0);
	}
	assert_int_equal(profile_report_new(p, NULL, NULL, &r), 0);
	text = written(r, profile_folded, &size);
	assert_non_null(strstr(text, "p;0x3;[repeated];0x2;0x2;0x1 33\n"));
	assert_non_null(strstr(text, "p;0x3;0x2;0x2;0x2;0x2;0x1 1\n"));
	free(text);
	profile_report_free(r);
	profile_free(p);
}

static void speedscope_adds_up(void **state)
{
	struct made m;
	struct profile_report *r;
	json_t *doc, *frames, *profile, *samples, *weights, *sample;
	json_int_t sum = 0, want = 0;
	json_error_t err;
	char *text;
	size_t size, i, j;

	seed = 9;
	make(&m, 1000, true);
	assert_int_equal(profile_report_new(m.p, m.s, NULL, &r), 0);
	text = written(r, profile_speedscope, &size);
	doc = json_loadb(text, size, JSON_REJECT_DUPLICATES, &err);
	assert_non_null(doc);
	frames = json_object_get(json_object_get(doc, "shared"), "frames");
	profile = json_array_get(json_object_get(doc, "profiles"), 0);
	samples = json_object_get(profile, "samples");
	weights = json_object_get(profile, "weights");
	assert_int_equal(json_array_size(samples), json_array_size(weights));
	json_array_foreach(samples, i, sample) {
		json_int_t w = json_integer_value(json_array_get(weights, i));
		json_t *f;

		assert_true(w > 0);
		sum += w;
		json_array_foreach(sample, j, f)
			assert_true(json_integer_value(f) < (json_int_t)json_array_size(frames));
	}
	for (i = 0; i < m.p->n; i++)
		if (m.p->stacks[i].weight > 0)
			want += m.p->stacks[i].weight;
	assert_int_equal(sum, want);
	assert_int_equal(json_integer_value(json_object_get(profile, "endValue")), sum);
	assert_string_equal(json_string_value(json_object_get(profile, "unit")), "bytes");
	json_decref(doc);
	free(text);
	profile_report_free(r);
	unmake(&m);
}

/* ---- a plain walk over protobuf -------------------------------------------- */

struct wire {
	const unsigned char *at, *end;
};

static uint64_t varint(struct wire *w)
{
	uint64_t v = 0;
	unsigned shift;

	for (shift = 0; shift < 70; shift += 7) {
		assert_true(w->at < w->end);
		v |= (uint64_t)(*w->at & 0x7f) << shift;
		if (!(*w->at++ & 0x80))
			return v;
	}
	fail();
	return 0;
}

/* The next field: a number in *v, or bytes in *sub. */
static bool field(struct wire *w, unsigned *number, uint64_t *v, struct wire *sub)
{
	uint64_t key, n;

	if (w->at == w->end)
		return false;
	key = varint(w);
	*number = (unsigned)(key >> 3);
	sub->at = sub->end = NULL;
	if ((key & 7) == 0) {
		*v = varint(w);
		return true;
	}
	assert_int_equal(key & 7, 2);
	n = varint(w);
	assert_true(n <= (uint64_t)(w->end - w->at));
	sub->at = w->at;
	sub->end = w->at += n;
	return true;
}

static unsigned char *gunzip(const char *data, size_t size, size_t *n)
{
	size_t room = 64u << 20;
	unsigned char *out = malloc(room);
	z_stream z = { .next_in = (unsigned char *)data, .avail_in = (unsigned)size };

	assert_non_null(out);
	z.next_out = out;
	z.avail_out = (unsigned)room;
	assert_int_equal(inflateInit2(&z, 15 + 16), Z_OK);
	assert_int_equal(inflate(&z, Z_FINISH), Z_STREAM_END);
	*n = room - z.avail_out;
	inflateEnd(&z);
	return out;
}

static void pprof_adds_up(void **state)
{
	struct made m;
	struct profile_report *r;
	struct wire all, part, sub, packed;
	uint64_t v = 0, strings = 0, functions = 0, locations = 0, mappings = 0, samples = 0,
		 types = 0;
	int64_t sum = 0, time = 0;
	unsigned number, inner;
	unsigned char *raw;
	size_t size, n;
	char *text;

	seed = 13;
	make(&m, 1000, true);
	assert_int_equal(profile_report_new(m.p, m.s, NULL, &r), 0);
	text = written(r, pprof, &size);
	raw = gunzip(text, size, &n);
	all = (struct wire){ raw, raw + n };
	while (field(&all, &number, &v, &part))
		switch (number) {
		case 1:
			types++;
			break;
		case 3:
			mappings++;
			break;
		case 4:
			locations++;
			break;
		case 5:
			functions++;
			break;
		case 6:
			if (!strings++)
				assert_ptr_equal(part.at, part.end); /* the first is "" */
			break;
		case 9:
			time = (int64_t)v;
			break;
		default:
			break;
		}
	assert_int_equal(types, 3);
	assert_int_equal(time, 1700000000000000000ll);
	assert_true(strings > 20 && functions > 20 && locations >= 100 && mappings > 3);
	all = (struct wire){ raw, raw + n };
	while (field(&all, &number, &v, &part)) {
		if (number != 2)
			continue;
		samples++;
		while (field(&part, &inner, &v, &sub)) {
			packed = sub;
			if (inner == 1)
				while (packed.at < packed.end) {
					v = varint(&packed);
					assert_true(v >= 1 && v <= locations);
				}
			if (inner == 2) {
				sum += (int64_t)varint(&packed);
				assert_true(varint(&packed) >= 5000);
				assert_true(varint(&packed) >= 1);
				assert_ptr_equal(packed.at, packed.end);
			}
		}
	}
	assert_int_equal(samples, m.p->n);
	assert_int_equal(sum, m.total); /* negative ones too */
	free(raw);
	free(text);
	profile_report_free(r);
	unmake(&m);
}

static void weights_have_their_unit(void **state)
{
	struct profile *bytes = profile_new("growth", "bytes");
	struct profile *gc = profile_new("gc", "collections");
	struct profile *off = profile_new("offcpu", "ns");
	char text[32];

	assert_string_equal(weight_format(text, sizeof(text), bytes, 3 << 20), "3.0 MiB");
	assert_string_equal(weight_format(text, sizeof(text), bytes, -(3 << 20)), "-3.0 MiB");
	assert_string_equal(weight_format(text, sizeof(text), gc, -3), "-3 collections");
	assert_string_equal(weight_format(text, sizeof(text), off, 1500000000), "1.50 s");
	profile_free(bytes);
	profile_free(gc);
	profile_free(off);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(names_are_as_documented),
		cmocka_unit_test(filters_choose_stacks),
		cmocka_unit_test(folded_adds_up),
		cmocka_unit_test(svg_is_well_formed),
		cmocka_unit_test(nothing_can_be_drawn_too),
		cmocka_unit_test(differences_have_both_sides),
		cmocka_unit_test(sums_add_up),
		cmocka_unit_test(recursions_of_all_depths_are_one),
		cmocka_unit_test(speedscope_adds_up),
		cmocka_unit_test(pprof_adds_up),
		cmocka_unit_test(weights_have_their_unit),
	};

	return cmocka_run_group_tests_name("flamegraph", tests, NULL, NULL);
}
