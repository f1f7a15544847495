// SPDX-License-Identifier: Apache-2.0
/*
 * Traces one node and prints what came out as JSON.
 *
 *	trace_node PID DIR [BUDGET [growth|cpu|gc|gc_time|carrier|native[=LIBRARY] [FREQUENCY]]]
 *
 * attaches, makes DIR/go, waits until DIR/done is there (60 s at most), and prints
 * {"stacks":[{weight, gross, count, label, complete, frames}], "figures":{kind:{subject:{}}},
 * "sum":{}, "stats":{}}.
 * Frames are leaf first: "e:module:function/arity", "n:symbol@library",
 * "cut", "joined", "repeat N". Exit code: that of the error, 77 without privilege.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "trace/session.h"
#include "trace/stacks.h"
#include "trace/usage.h"

static struct code *code;
static struct images *images;

static json_t *frame_json(const struct profile_stack *s, size_t i)
{
	const struct frame *f = &s->frames[i];
	bool exact = profile_frame_exact(s, i);
	struct image_symbol sym;
	struct code_mfa mfa;
	struct image *im;

	switch (f->kind) {
	case FRAME_ERLANG:
		if (exact ? code_lookup(code, f->addr, &mfa)
			  : code_lookup_return(code, f->addr, &mfa))
			return json_sprintf("e:%s", mfa.name);
		return json_sprintf("e:0x%" PRIx64, f->addr);
	case FRAME_NATIVE:
		im = images_find(images, f->addr - !exact);
		if (im && image_symbol_at(im, f->addr - !exact, &sym))
			return json_sprintf("n:%s@%s", sym.name, image_name(im));
		return json_sprintf("n:0x%" PRIx64 "@%s", im ? f->addr - image_bias(im) : f->addr,
				    im ? image_name(im) : "");
	case FRAME_CUT:
		return json_sprintf("cut:%s", frame_cut_name(f->addr));
	case FRAME_KERNEL:
		return json_sprintf("k:0x%" PRIx64, f->addr);
	case FRAME_JOINED:
		return json_string("joined");
	case FRAME_REPEAT:
		return json_sprintf("repeat:%u:%u", (unsigned)(f->addr >> 32), (unsigned)f->addr);
	default:
		return json_sprintf("kind:%u", f->kind);
	}
}

static json_t *native_json(struct session *s)
{
	struct native_sum n;

	session_native_sum(s, &n);
	return json_pack("{s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:s,s:s}", "allocs",
			 (json_int_t)n.allocs, "frees", (json_int_t)n.frees, "failed",
			 (json_int_t)n.failed, "before", (json_int_t)n.before, "before_bytes",
			 (json_int_t)n.before_bytes, "undrawn", (json_int_t)n.undrawn,
			 "missed_frees", (json_int_t)n.missed_frees, "full", (json_int_t)n.full,
			 "full_bytes", (json_int_t)n.full_bytes, "noted", (json_int_t)n.noted,
			 "unit", (json_int_t)n.unit, "mapping_bytes", (json_int_t)n.mapping_bytes,
			 "copied_bytes", (json_int_t)n.copied_bytes, "refused",
			 n.refused ? n.refused : "", "server", n.server ? n.server : "");
}

static json_t *counts(const uint64_t *v, size_t n)
{
	json_t *a = json_array();

	for (size_t i = 0; i < n; i++)
		json_array_append_new(a, json_integer((json_int_t)v[i]));
	return a;
}

static json_t *threads_json(struct session *s)
{
	struct thread_usage *v;
	json_t *a = json_array();
	ssize_t n = session_threads_usage(s, &v);

	for (ssize_t i = 0; i < n; i++) {
		double error = 0, busy = thread_usage_busy(&v[i], &error);

		json_array_append_new(a, json_pack("{s:s,s:I,s:f,s:f,s:o,s:o,s:I}", "label",
						   v[i].label, "role", (json_int_t)v[i].role,
						   "busy", busy, "error", error, "ns",
						   counts(v[i].ns, SCHED_N), "samples",
						   counts(v[i].samples, STATE_N), "switches",
						   (json_int_t)v[i].switches));
	}
	if (n >= 0)
		free(v);
	return a;
}

static json_t *processes_json(struct session *s)
{
	struct process_usage *v;
	json_t *a = json_array();
	ssize_t n = session_processes_usage(s, &v);

	for (ssize_t i = 0; i < n; i++)
		json_array_append_new(a, json_pack("{s:s,s:o,s:I,s:I,s:I}", "label",
						   session_process_label(s, v[i].process),
						   "samples", counts(v[i].samples, STATE_N), "long",
						   (json_int_t)v[i].long_schedules, "longest_ns",
						   (json_int_t)v[i].longest_ns, "longest_most_ns",
						   (json_int_t)v[i].longest_most_ns));
	if (n >= 0)
		free(v);
	return a;
}

static int figures_json(void *ctx, const char *kind, const char *subject,
			const struct recording_figure *v, size_t n)
{
	json_t *all = ctx, *of = json_object_get(all, kind), *figures = json_object();

	if (!of) {
		of = json_object();
		json_object_set_new(all, kind, of);
	}
	for (size_t i = 0; i < n; i++)
		json_object_set_new(figures, v[i].name, json_integer((json_int_t)v[i].value));
	return json_object_set_new(of, subject, figures);
}

static json_t *result(struct session *s, const struct profile *p)
{
	struct session_stats st;
	const struct set_stats *set = &st.sets[SET_GROWTH];
	struct growth_sum sum;
	const char *notice = "";
	json_t *stacks = json_array(), *cuts = json_object(), *figures = json_object();

	for (size_t i = 0; i < p->n; i++) {
		const struct profile_stack *k = &p->stacks[i];
		json_t *frames = json_array();

		for (size_t j = 0; j < k->n; j++)
			json_array_append_new(frames, frame_json(k, j));
		json_array_append_new(stacks,
				      json_pack("{s:I,s:I,s:I,s:s,s:b,s:b,s:o}", "weight",
						(json_int_t)k->weight, "gross",
						(json_int_t)k->gross, "count", (json_int_t)k->count,
						"label", k->label ? k->label : "", "complete",
						(int)k->complete, "process", (int)(k->process != 0),
						"frames", frames));
	}
	session_figures(s, figures_json, figures);
	session_stats(s, &st);
	for (unsigned i = 0; i < SET_N; i++)
		if (st.sets[i].name && st.sets[i].notice[0])
			notice = st.sets[i].notice;
	session_growth_sum(s, &sum);
	for (unsigned i = 1; i < CUT_N; i++)
		json_object_set_new(cuts, frame_cut_name(i),
				    json_integer((json_int_t)st.count[COUNT_CUT + i]));
	return json_pack(
		"{s:o,s:o,s:I,s:{s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I},"
		"s:{s:f,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:f,s:b,"
		"s:b,s:o,s:s}}",
		"stacks", stacks, "figures", figures, "without_stack", (json_int_t)p->without_stack,
		"sum", "opening", (json_int_t)sum.opening, "closing", (json_int_t)sum.closing,
		"owned", (json_int_t)sum.owned, "nearby", (json_int_t)sum.nearby, "unowned",
		(json_int_t)sum.unowned, "moved", (json_int_t)sum.moved, "released",
		(json_int_t)sum.released, "lost", (json_int_t)sum.lost, "stats", "seconds",
		st.seconds, "faults",
		(json_int_t)(set->count[COUNT_HITS] - set->count[COUNT_SYSCALLS]), "walked",
		(json_int_t)st.count[COUNT_STACKS], "complete",
		(json_int_t)st.count[COUNT_COMPLETE], "erlang", (json_int_t)st.count[COUNT_ERLANG],
		"erlang_root", (json_int_t)st.count[COUNT_ERLANG_ROOT], "joined",
		(json_int_t)st.count[COUNT_JOINED], "leaf_only",
		(json_int_t)st.count[COUNT_LEAF_ONLY], "missed", (json_int_t)st.missed, "hits",
		(json_int_t)st.count[COUNT_HITS], "full", (json_int_t)st.count[COUNT_FULL],
		"read_failed", (json_int_t)st.count[COUNT_READ_FAILED], "lost_records",
		(json_int_t)st.lost_records, "lost_stacks", (json_int_t)st.lost_stacks, "records",
		(json_int_t)st.records, "kernel_bytes", (json_int_t)st.kernel_bytes, "user_bytes",
		(json_int_t)st.user_bytes, "kernel_ns", (json_int_t)st.kernel_ns, "own_ns",
		(json_int_t)st.own_ns, "cpu_fraction", st.cpu_fraction, "thinned", (int)st.thinned,
		"over_budget", (int)st.over_budget, "cuts", cuts, "notice", notice);
}

static int fail(const struct error *err, int ret)
{
	fprintf(stderr, "trace_node: %s\n", *err->text ? err->text : strerror(-ret));
	if (err->code == EXIT_DENIED || ret == -EPERM)
		return 77;
	return err->code ? (int)err->code : 1;
}

int main(int argc, char **argv)
{
	struct error err = { 0 };
	struct session_opts opts = { 0 };
	struct set_cpu_opts cpu = { 0 };
	struct set_native_opts native = { 0 };
	struct set_gc_opts gc = { .long_ms = 5, .large_words = 1000000 };
	struct mappings *maps = NULL;
	struct session *s = NULL;
	struct target *t = NULL;
	struct profile *p = NULL;
	struct vm *vm = NULL;
	const char *kind = argc > 4 && argv[4] ? argv[4] : "growth";
	char path[4096];
	json_t *doc;
	int ret, fd;

	if (argc < 3) {
		fprintf(stderr,
			"usage: trace_node PID DIR [BUDGET [growth|cpu|gc|gc_time|carrier|native[=LIBRARY] "
			"[FREQUENCY]]]\n");
		return EXIT_USAGE;
	}
	opts.budget = argc > 3 ? atof(argv[3]) : 0;
	cpu.frequency = argc > 5 ? (unsigned)atoi(argv[5]) : 0;
	opts.verbose = getenv("VERBOSE") != NULL;
	ret = target_open(atoi(argv[1]), &t, &err);
	if (!ret)
		ret = mappings_read(t, &maps, &err);
	if (!ret)
		ret = images_read(t, maps, &images, &err);
	if (!ret)
		ret = vm_open(t, maps, images, &vm, &err);
	if (!ret)
		ret = code_open(vm, &code, &err);
	if (!ret)
		ret = session_open(t, vm, code, &opts, &s, &err);
	if (!ret && strncmp(kind, "native", 6) == 0) {
		const char *blocks = getenv("BLOCKS");

		native.library = kind[6] ? kind + 7 : NULL;
		native.blocks = blocks ? (size_t)atoi(blocks) : 0;
		kind = "native";
		ret = session_add(s, &set_native, &native, &err);
	} else if (!ret) {
		ret = strcmp(kind, "cpu") == 0	     ? session_add(s, &set_cpu, &cpu, &err)
		      : strncmp(kind, "gc", 2) == 0  ? session_add(s, &set_gc, &gc, &err)
		      : strcmp(kind, "offcpu") == 0  ? session_add(s, &set_offcpu, NULL, &err)
		      : strcmp(kind, "carrier") == 0 ? session_add(s, &set_carriers, NULL, &err)
						     : session_add(s, &set_growth, NULL, &err);
	}
	if (!ret && strcmp(kind, "cpu") == 0)
		ret = session_add(s, &set_sched, NULL, &err);
	if (!ret)
		ret = session_baseline(s, NULL, NULL, &err);
	if (ret)
		return fail(&err, ret);
	snprintf(path, sizeof(path), "%s/go", argv[2]);
	fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
	if (fd >= 0)
		close(fd);
	snprintf(path, sizeof(path), "%s/done", argv[2]);
	for (int i = 0; i < 600 && access(path, F_OK) && !ret; i++)
		ret = session_poll(s, 100, &err);
	if (!ret)
		ret = session_profile(s, kind, NULL, NULL, &p, &err);
	if (ret)
		return fail(&err, ret);
	code_refresh(code, NULL);
	images_free(images);
	mappings_free(maps);
	ret = mappings_read(t, &maps, &err);
	if (!ret)
		ret = images_read(t, maps, &images, &err);
	if (ret)
		return fail(&err, ret);
	session_stop(s);
	doc = result(s, p);
	if (session_set(s, &set_native))
		json_object_set_new(doc, "native", native_json(s));
	json_object_set_new(doc, "threads", threads_json(s));
	json_object_set_new(doc, "processes", processes_json(s));
	json_dumpf(doc, stdout, JSON_COMPACT);
	putchar('\n');
	json_decref(doc);
	profile_free(p);
	session_close(s);
	code_close(code);
	vm_close(vm);
	images_free(images);
	mappings_free(maps);
	target_close(t);
	return 0;
}
