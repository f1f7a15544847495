/* SPDX-License-Identifier: Apache-2.0 */
/* The doctor's rules on ledgers and profiles made by hand: who is accused, of how
 * much, and above all who is not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ledger/verdict.h"

#define MB (1ULL << 20)

struct side {
	struct ledger g;
	struct ledger_row rows[16];
	struct look l;
	struct allocators allocators;
	struct carriers carriers;
	struct tag_sum tags[4];
};

struct scene {
	struct observer o;
	struct vm vm;
	struct side a, b;
	struct profile *growth;
	struct symbols *symbols;
	struct verdict_input in;
};

static void row(struct side *s, const char *account, uint64_t bytes)
{
	struct ledger_row *r = &s->rows[s->g.n++];

	memset(r, 0, sizeof(*r));
	snprintf(r->account, sizeof(r->account), "%s", account);
	r->bytes = bytes;
	s->g.rss += bytes;
}

static void side_make(struct side *s)
{
	s->g.rows = s->rows;
	s->g.complete = true;
	s->l.allocators = &s->allocators;
	s->l.carriers = &s->carriers;
	s->carriers.tags = s->tags;
	s->l.os.cgroup_limit = SYSTEM_UNLIMITED;
	s->l.os.cgroup_left = SYSTEM_UNKNOWN;
}

static void scene_make(struct scene *s)
{
	struct target_buffer none = { 0, "", 0 };

	memset(s, 0, sizeof(*s));
	assert_int_equal(target_open_buffers(&none, 1, &s->o.target), 0);
	s->o.vm = &s->vm;
	side_make(&s->a);
	side_make(&s->b);
	s->growth = profile_new("growth", "bytes");
	s->symbols = symbols_new();
	s->in.o = &s->o;
	s->in.before = (struct verdict_side){ &s->a.l, &s->a.g, NULL, UINT64_MAX };
	s->in.after = (struct verdict_side){ &s->b.l, &s->b.g, NULL, UINT64_MAX };
	s->in.seconds = s->in.apart = 10;
	s->in.trace.growth = s->growth;
	s->in.trace.symbols = s->symbols;
}

static void scene_free(struct scene *s)
{
	profile_free(s->growth);
	symbols_free(s->symbols);
	target_close(s->o.target);
}

/* A frame at `addr` with this name; every frame is a return address but the
 * first. */
static struct frame name(struct scene *s, uint64_t addr, bool leaf, enum frame_kind kind,
			 const char *function, const char *module)
{
	struct symbol_key key = { .addr = addr, .kind = FRAME_NATIVE, .exact = leaf };
	struct symbol y = { .name = (char *)function, .module = (char *)module, .kind = kind };

	assert_int_equal(symbols_put(s->symbols, &key, &y), 0);
	return (struct frame){ addr, FRAME_NATIVE };
}

static void stack_of(struct scene *s, const struct frame *f, size_t n, int64_t weight)
{
	assert_int_equal(profile_add(s->growth, f, n, 0, 1, "proc", true, weight, weight, 1), 0);
}

static struct verdict *judge(struct scene *s)
{
	struct verdict *v = NULL;

	assert_int_equal(verdict_make(&s->in, NULL, &v), 0);
	assert_true(v->n >= 1);
	return v;
}

static void quiet_nodes_are_healthy(void **state)
{
	struct scene s;
	struct verdict *v;

	(void)state;
	scene_make(&s);
	/* big, but neither growing nor held: size alone is no finding */
	row(&s.a, "vm.used.eheap_alloc", 4000 * MB);
	row(&s.b, "vm.used.eheap_alloc", 4005 * MB);
	row(&s.a, "native.heap.used", 500 * MB);
	row(&s.b, "native.heap.used", 500 * MB + MB / 2);
	row(&s.b, "vm.free.binary_alloc", 15 * MB); /* below the floor */
	row(&s.b, "vm.free.ets_alloc", 600 * MB);   /* below the ratio */
	v = judge(&s);
	assert_int_equal(v->n, 1);
	assert_int_equal(v->v[0].code, FINDING_HEALTHY);
	verdict_free(v);
	scene_free(&s);
}

static void a_nif_behind_a_library_is_the_one(void **state)
{
	struct scene s;
	struct verdict *v;

	(void)state;
	scene_make(&s);
	row(&s.a, "native.heap.used", 10 * MB);
	row(&s.b, "native.heap.used", 30 * MB);
	struct frame f[] = {
		name(&s, 1, true, FRAME_LIBC, "malloc", "libc.so.6"),
		name(&s, 2, false, FRAME_LIBRARY, "deflateInit_", "libz.so.1"),
		name(&s, 3, false, FRAME_NIF, "start", "my_nif.so"),
		name(&s, 4, false, FRAME_ERTS, "call_nif", "beam.smp"),
	};

	stack_of(&s, f, 4, 18 * MB);
	v = judge(&s);
	assert_int_equal(v->n, 1);
	assert_int_equal(v->v[0].code, FINDING_NIF_LEAK);
	assert_string_equal(v->v[0].subject, "my_nif.so");
	assert_string_equal(v->v[0].mechanism, "libc");
	/* the ledgers' figure: what libc handed out again makes no fault */
	assert_int_equal(v->v[0].grew_bytes, 20 * MB);
	assert_int_equal(v->v[0].confidence, CONFIDENCE_HIGH);
	assert_int_equal(v->v[0].n_stacks, 1);
	verdict_free(v);
	scene_free(&s);
}

static void the_vm_itself_is_not_accused_of_native_growth(void **state)
{
	struct scene s;
	struct verdict *v;

	(void)state;
	scene_make(&s);
	/* the heap grew, but the stacks are the VM's own: nobody is named */
	row(&s.a, "native.heap.used", 10 * MB);
	row(&s.b, "native.heap.used", 20 * MB);
	struct frame f[] = {
		name(&s, 1, true, FRAME_LIBC, "malloc", "libc.so.6"),
		name(&s, 2, false, FRAME_ERTS, "erts_sys_alloc", "beam.smp"),
		name(&s, 3, false, FRAME_NIF, "innocent", "other_nif.so"),
	};

	stack_of(&s, f, 3, 10 * MB);
	v = judge(&s);
	assert_int_equal(v->n, 1);
	assert_int_equal(v->v[0].code, FINDING_NATIVE_GROWTH);
	assert_string_equal(v->v[0].subject, "unknown");
	assert_int_equal(v->v[0].confidence, CONFIDENCE_LOW);
	verdict_free(v);
	scene_free(&s);
}

static void memory_given_back_is_acquitted(void **state)
{
	struct scene s;
	struct verdict *v;

	(void)state;
	scene_make(&s);
	/* stacks saw faults, but at the end the ledger has not grown */
	row(&s.a, "native.heap.used", 100 * MB);
	row(&s.b, "native.heap.used", 100 * MB);
	struct frame f[] = {
		name(&s, 1, true, FRAME_LIBC, "malloc", "libc.so.6"),
		name(&s, 2, false, FRAME_NIF, "churn", "cache_nif.so"),
	};

	stack_of(&s, f, 2, 50 * MB);
	v = judge(&s);
	assert_int_equal(v->v[0].code, FINDING_HEALTHY);
	verdict_free(v);
	scene_free(&s);
}

static void touched_mappings_are_mmap(void **state)
{
	struct scene s;
	struct verdict *v;

	(void)state;
	scene_make(&s);
	/* two libraries at once; the page fault comes after mmap has returned */
	row(&s.a, "native.mmap", 1 * MB);
	row(&s.b, "native.mmap", 41 * MB);
	row(&s.a, "native.heap.used", 1 * MB);
	row(&s.b, "native.heap.used", 9 * MB);
	struct frame f[] = { name(&s, 1, true, FRAME_NIF, "map_it", "a_nif.so") };
	struct frame g[] = {
		name(&s, 2, true, FRAME_LIBC, "_int_malloc", "libc.so.6"),
		name(&s, 3, false, FRAME_LIBRARY, "grow", "libother.so"),
	};

	stack_of(&s, f, 1, 40 * MB);
	stack_of(&s, g, 2, 8 * MB);
	v = judge(&s);
	assert_int_equal(v->n, 2);
	assert_string_equal(v->v[0].subject, "a_nif.so");
	assert_string_equal(v->v[0].mechanism, "mmap");
	assert_int_equal(v->v[0].grew_bytes, 40 * MB);
	assert_int_equal(v->v[1].code, FINDING_NATIVE_GROWTH);
	assert_string_equal(v->v[1].subject, "libother.so");
	assert_string_equal(v->v[1].mechanism, "libc");
	verdict_free(v);
	scene_free(&s);
}

static void what_is_held_needs_floor_and_ratio(void **state)
{
	struct scene s;
	struct verdict *v;

	(void)state;
	scene_make(&s);
	s.in.before = (struct verdict_side){ 0 }; /* a still image may say this */
	row(&s.b, "vm.used.eheap_alloc", 100 * MB);
	row(&s.b, "vm.free.binary_alloc", 90 * MB);
	row(&s.b, "native.heap.free", 60 * MB);
	row(&s.b, "vm.cache", 10 * MB);
	row(&s.b, "native.heap.used", 30 * MB);
	v = judge(&s);
	assert_int_equal(v->n, 2);
	assert_int_equal(v->v[0].code, FINDING_VM_FRAGMENTATION);
	assert_string_equal(v->v[0].subject, "binary_alloc");
	assert_int_equal(v->v[0].bytes, 90 * MB);
	assert_int_equal(v->v[0].grew_bytes, 0);
	assert_int_equal(v->v[1].code, FINDING_LIBC_FRAGMENTATION);
	verdict_free(v);

	/* what the kernel can take back by itself is not held */
	s.b.rows[1].lazyfree = 80 * MB;
	v = judge(&s);
	assert_int_equal(v->v[0].code, FINDING_LIBC_FRAGMENTATION);
	verdict_free(v);
	scene_free(&s);
}

static void data_growth_and_a_tight_cgroup(void **state)
{
	struct scene s;
	struct verdict *v;

	(void)state;
	scene_make(&s);
	row(&s.a, "vm.used.ets_alloc", 100 * MB);
	row(&s.b, "vm.used.ets_alloc", 140 * MB);
	v = judge(&s);
	assert_int_equal(v->v[0].code, FINDING_VM_DATA);
	assert_string_equal(v->v[0].subject, "ets");
	assert_int_equal(v->v[0].grew_bytes, 40 * MB);
	assert_true(v->cgroup_full_in < 0);
	verdict_free(v);

	s.b.l.os.cgroup_limit = 500 * MB; /* 4 MB a second into what is left of it */
	s.b.l.os.cgroup_left = 60 * MB;
	v = judge(&s);
	assert_true(v->cgroup_full_in > 14.99 && v->cgroup_full_in < 15.01);
	verdict_free(v);

	s.a.rows[0].bytes = 140 * MB; /* does not grow, but the limit is near */
	s.b.l.os.cgroup_limit = 150 * MB;
	v = judge(&s);
	assert_int_equal(v->v[0].code, FINDING_VM_DATA);
	assert_int_equal(v->v[0].grew_bytes, 0);
	assert_int_equal(v->v[0].confidence, CONFIDENCE_MEDIUM);
	assert_true(v->cgroup_full_in < 0);
	verdict_free(v);
	scene_free(&s);
}

static void missing_pieces_are_inconclusive(void **state)
{
	struct scene s;
	struct verdict *v;

	(void)state;
	scene_make(&s);
	row(&s.b, "unattributed", 50 * MB);
	s.b.g.complete = false;
	v = judge(&s);
	assert_int_equal(v->v[0].code, FINDING_INCONCLUSIVE);
	verdict_free(v);

	/* the target ended: what was seen is shown, nothing is claimed */
	s.b.g.complete = true;
	s.in.before = (struct verdict_side){ 0 };
	s.in.ended = "process 1 has exited";
	struct frame f[] = { name(&s, 1, true, FRAME_NIF, "grow", "a_nif.so") };

	stack_of(&s, f, 1, 40 * MB);
	v = judge(&s);
	assert_int_equal(v->v[0].code, FINDING_INCONCLUSIVE);
	assert_int_equal(v->v[0].n_stacks, 1);
	verdict_free(v);
	scene_free(&s);
}

static bool is_evidence(const struct finding *f, int64_t value, const char *what)
{
	size_t i;

	for (i = 0; i < f->n_evidence; i++)
		if (f->evidence[i].value == value && strcmp(f->evidence[i].what, what) == 0)
			return true;
	return false;
}

/* libc handed out memory that it held: faults say little, calls of malloc say who. */
static void calls_of_malloc_name_who_faults_do_not(void **state)
{
	struct profile *calls = profile_new("native", "bytes");
	struct verdict_moment m = { .at = 4 };
	struct native_lost lost = {
		.mechanism = NATIVE_LIBC, .size = 1008, .count = 20000, .resident = 20 * MB
	};
	struct native scan = {
		.heap_walked = true, .lost_proved = true, .lost = &lost, .n_lost = 1
	};
	struct side middle, late;
	struct scene s;
	struct verdict *v;

	(void)state;
	memset(&middle, 0, sizeof(middle));
	memset(&late, 0, sizeof(late));
	scene_make(&s);
	row(&s.a, "native.heap.used", 10 * MB);
	row(&s.b, "native.heap.used", 30 * MB);
	side_make(&middle);
	row(&middle, "native.heap.used", 20 * MB);
	m.ledger = &middle.g;
	s.in.moments = &m;
	s.in.n_moments = 1;
	struct frame f[] = {
		name(&s, 1, true, FRAME_LIBC, "malloc", "libc.so.6"),
		name(&s, 2, false, FRAME_NIF, "grow", "a_nif.so"),
	};

	stack_of(&s, f, 2, 2 * MB);
	v = judge(&s);
	/* faults alone: a part of it is named, the rest is nobody's */
	assert_int_equal(v->n, 2);
	assert_string_equal(v->v[0].subject, "unknown");
	assert_int_equal(v->v[0].confidence, CONFIDENCE_LOW);
	assert_int_equal(v->v[0].grew_bytes, 18 * MB);
	verdict_free(v);

	/* in the second half of the growth calls were watched: 9 of 10 MiB through it */
	assert_int_equal(profile_add(calls, f, 2, 0, 1, "proc", true, 9 * MB, 9 * MB, 9000), 0);
	s.in.trace.native = calls;
	s.in.trace.native_from = 4;
	v = judge(&s);
	assert_int_equal(v->n, 1);
	assert_int_equal(v->v[0].code, FINDING_NIF_LEAK);
	assert_string_equal(v->v[0].subject, "a_nif.so");
	assert_int_equal(v->v[0].grew_bytes, 20 * MB);
	assert_int_equal(v->v[0].confidence, CONFIDENCE_HIGH);
	verdict_free(v);

	/* calls that explain little are scaled, and the rest stays unknown */
	calls->stacks[0].weight = 2 * MB;
	v = judge(&s);
	assert_int_equal(v->n, 2);
	assert_string_equal(v->v[0].subject, "unknown");
	assert_int_equal(v->v[1].grew_bytes, 4 * MB);
	assert_null(strstr(v->v[0].why, "has stopped since"));
	verdict_free(v);

	/* a burst, and a little of a_nif afterwards: the burst is not taken to be its own */
	calls->stacks[0].weight = MB;
	row(&middle, "native.heap.used", 9 * MB); /* 29 in all */
	v = judge(&s);
	assert_int_equal(v->n, 2);
	assert_string_equal(v->v[0].subject, "unknown");
	assert_true(is_evidence(&v->v[0], 19 * MB,
				"libc heap in use grew before malloc was watched (from 4 s on)"));
	assert_string_equal(v->v[1].subject, "a_nif.so");
	assert_in_range(v->v[1].grew_bytes, MB, 4 * MB);
	verdict_free(v);

	/* all of it came before calls were watched: that is said */
	calls->stacks[0].weight = 0;
	side_make(&late);
	row(&late, "native.heap.used", 30 * MB);
	m.ledger = &late.g;
	s.in.scan.native = &scan; /* and what the still image knows of it */
	v = judge(&s);
	assert_string_equal(v->v[0].subject, "unknown");
	assert_non_null(strstr(v->v[0].why, "(from 4 s on) and has stopped since"));
	assert_true(is_evidence(&v->v[0], 20 * MB, "20000 of 1008 bytes each"));
	verdict_free(v);
	profile_free(calls);
	scene_free(&s);
}

static void growth_that_stopped_says_when(void **state)
{
	struct side middle[3];
	struct verdict_moment m[3];
	struct scene s;
	struct verdict *v;
	size_t i;

	(void)state;
	memset(middle, 0, sizeof(middle));
	scene_make(&s);
	row(&s.a, "vm.used.ets_alloc", 100 * MB);
	row(&s.b, "vm.used.ets_alloc", 140 * MB);
	for (i = 0; i < 3; i++) {
		side_make(&middle[i]);
		row(&middle[i], "vm.used.ets_alloc", i == 0 ? 120 * MB : 140 * MB);
		m[i] = (struct verdict_moment){ .at = 2.0 + (double)i * 2, .ledger = &middle[i].g };
	}
	s.in.moments = m;
	s.in.n_moments = 3;
	s.b.l.os.cgroup_left = 60 * MB;
	v = judge(&s);
	assert_int_equal(v->v[0].code, FINDING_VM_DATA);
	assert_int_equal(v->v[0].grew_bytes, 40 * MB);
	assert_true(v->v[0].grew_until > 3.9 && v->v[0].grew_until < 4.1);
	assert_true(v->cgroup_full_in < 0);
	verdict_free(v);

	/* what still came in the last quarter has not stopped */
	middle[2].rows[0].bytes = 138 * MB;
	middle[1].rows[0].bytes = 130 * MB;
	v = judge(&s);
	assert_true(v->v[0].grew_until < 0);
	assert_true(v->cgroup_full_in > 14.99 && v->cgroup_full_in < 15.01);
	verdict_free(v);
	scene_free(&s);
}

/* A leak comes before the larger free space that a busy node always has, and that goes up
 * and down; not before fragmentation that rises all the time. */
static void what_comes_is_told_before_what_is_there(void **state)
{
	static const struct {
		uint64_t start, at[4], end; /* MiB free, at 1, 4, 8 and 9 of 10 s */
		bool first;
	} held[] = {
		{ 31, { 31, 31, 31, 31 }, 31, false },	     /* a state */
		{ 14, { 31, 14, 31, 15 }, 31, false },	     /* moves, and ends high */
		{ 14, { 31, 31, 31, 31 }, 31, false },	     /* rose, and stays there */
		{ 20, { 26, 44, 68, 74 }, 80, true },	     /* rises all the time */
		{ 220, { 220, 221, 221, 222 }, 222, false }, /* large, and hardly rises */
	};
	struct side middle[4];
	struct verdict_moment m[4];
	size_t i, k;

	(void)state;
	for (i = 0; i < sizeof(held) / sizeof(held[0]); i++) {
		struct scene s;
		struct verdict *v;

		memset(middle, 0, sizeof(middle));
		scene_make(&s);
		row(&s.a, "native.heap.used", 10 * MB);
		row(&s.b, "native.heap.used", 22 * MB);
		row(&s.a, "vm.free.binary_alloc", held[i].start * MB);
		row(&s.b, "vm.free.binary_alloc", held[i].end * MB);
		for (k = 0; k < 4; k++) {
			static const double at[] = { 1, 4, 8, 9 };

			side_make(&middle[k]);
			row(&middle[k], "vm.free.binary_alloc", held[i].at[k] * MB);
			row(&middle[k], "native.heap.used", (10 + 3 * k) * MB);
			m[k] = (struct verdict_moment){ .at = at[k], .ledger = &middle[k].g };
		}
		s.in.moments = m;
		s.in.n_moments = 4;
		v = judge(&s);
		assert_int_equal(v->n, 2);
		assert_int_equal(v->v[0].code,
				 held[i].first ? FINDING_VM_FRAGMENTATION : FINDING_NATIVE_GROWTH);
		assert_int_equal(v->v[0].rises, held[i].first);
		assert_int_equal(v->v[1].rises, false);
		verdict_free(v);

		/* nobody looked in between: it may just have moved */
		s.in.n_moments = 0;
		v = judge(&s);
		assert_int_equal(v->v[0].code, FINDING_NATIVE_GROWTH);
		verdict_free(v);
		scene_free(&s);
	}
}

/* What is kept for later counts with what the kernel may take back by itself, its growth
 * too; fragmentation counts without. */
static void lazy_memory_is_kept_but_no_fragmentation(void **state)
{
	struct scene s;
	struct verdict *v;

	(void)state;
	scene_make(&s);
	row(&s.a, "vm.cache", 40 * MB);
	row(&s.b, "vm.cache", 90 * MB);
	s.b.rows[s.b.g.n - 1].lazyfree = 30 * MB;
	row(&s.b, "vm.free.binary_alloc", 80 * MB);
	s.b.rows[s.b.g.n - 1].lazyfree = 20 * MB;
	v = judge(&s);
	assert_int_equal(v->n, 2);
	assert_int_equal(v->v[0].code, FINDING_VM_RETAINED);
	assert_int_equal(v->v[0].bytes, 90 * MB);
	assert_int_equal(v->v[0].grew_bytes, 50 * MB);
	assert_int_equal(v->v[1].code, FINDING_VM_FRAGMENTATION);
	assert_int_equal(v->v[1].bytes, 60 * MB);
	assert_int_equal(v->v[1].grew_bytes, 60 * MB);
	verdict_free(v);
	scene_free(&s);
}

/* What the heap holds by faults can be more than the account grew by: nobody took more
 * than there is. */
static void nobody_took_more_than_there_is(void **state)
{
	struct scene s;
	struct verdict *v;

	(void)state;
	scene_make(&s);
	row(&s.a, "native.heap.used", 10 * MB);
	row(&s.b, "native.heap.used", 15 * MB);
	struct frame f[] = {
		name(&s, 1, true, FRAME_LIBC, "malloc", "libc.so.6"),
		name(&s, 2, false, FRAME_NIF, "churn", "a_nif.so"),
	};

	stack_of(&s, f, 2, 60 * MB);
	v = judge(&s);
	assert_int_equal(v->n, 1);
	assert_int_equal(v->v[0].grew_bytes, 5 * MB);
	verdict_free(v);
	scene_free(&s);
}

static void kept_is_told_from_lost(void **state)
{
	struct native_lost lost = { .mechanism = NATIVE_LIBC, .resident = 8 * MB };
	struct native scan = { .heap_walked = true, .lost_proved = true };
	struct scene s;
	struct verdict *v;

	(void)state;
	scene_make(&s);
	s.in.scan.native = &scan;
	row(&s.a, "native.heap.used", 10 * MB);
	row(&s.b, "native.heap.used", 18 * MB);
	struct frame f[] = {
		name(&s, 1, true, FRAME_LIBC, "malloc", "libc.so.6"),
		name(&s, 2, false, FRAME_NIF, "put", "cache_nif.so"),
	};

	stack_of(&s, f, 2, 8 * MB);
	v = judge(&s);
	assert_int_equal(v->v[0].code, FINDING_NIF_LEAK);
	assert_true(v->v[0].kept);
	assert_int_equal(v->v[0].confidence, CONFIDENCE_MEDIUM);
	assert_non_null(strstr(finding_words(&v->v[0]), "still reachable"));
	verdict_free(v);

	scan.lost = &lost;
	scan.n_lost = 1;
	v = judge(&s);
	assert_false(v->v[0].kept);
	assert_int_equal(v->v[0].confidence, CONFIDENCE_HIGH);
	verdict_free(v);

	/* a scan that could prove nothing says nothing */
	scan.n_lost = 0;
	scan.lost_proved = false;
	v = judge(&s);
	assert_false(v->v[0].kept);
	verdict_free(v);
	scene_free(&s);
}

/* What was lost before the watch is joined with the one leak that makes blocks of the
 * same size now, and with nothing else. */
static void old_losses_are_joined_by_size(void **state)
{
	struct native_lost lost[2] = {
		{ .mechanism = NATIVE_LIBC, .size = 1008, .count = 30000, .resident = 30 * MB },
		{ .mechanism = NATIVE_LIBC, .size = 48, .count = 1000, .resident = MB },
	};
	struct native scan = { .heap_walked = true, .lost_proved = true, .lost = lost, .n_lost = 2 };
	struct scene s;
	struct verdict *v;

	(void)state;
	scene_make(&s);
	s.in.scan.native = &scan;
	row(&s.a, "native.heap.used", 30 * MB);
	row(&s.b, "native.heap.used", 38 * MB);
	struct frame f[] = {
		name(&s, 1, true, FRAME_LIBC, "malloc", "libc.so.6"),
		name(&s, 2, false, FRAME_NIF, "lose", "leak_nif.so"),
	};

	stack_of(&s, f, 2, 8 * MB);
	v = judge(&s);
	assert_int_equal(v->n, 2);
	/* what leaks now is told first, what was lost before is larger */
	assert_string_equal(v->v[0].subject, "leak_nif.so");
	assert_int_equal(v->v[0].grew_bytes, 8 * MB);
	assert_int_equal(v->v[1].code, FINDING_NATIVE_GROWTH);
	assert_string_equal(v->v[1].subject, "unknown");
	assert_string_equal(v->v[1].owner, "leak_nif.so");
	assert_int_equal(v->v[1].bytes, 23 * MB);
	assert_int_equal(v->v[1].grew_bytes, 0);
	assert_non_null(strstr(finding_words(&v->v[1]), "likely"));
	verdict_free(v);

	/* so much of another size: the leak may be that one */
	lost[1].resident = 10 * MB;
	v = judge(&s);
	assert_string_equal(v->v[1].owner, "");
	verdict_free(v);
	lost[1].resident = MB;

	/* two that leak: it may be either's */
	struct frame g[] = {
		name(&s, 1, true, FRAME_LIBC, "malloc", "libc.so.6"),
		name(&s, 3, false, FRAME_NIF, "other", "other_nif.so"),
	};

	row(&s.b, "native.heap.used", 4 * MB);
	stack_of(&s, g, 2, 4 * MB);
	v = judge(&s);
	assert_string_equal(v->v[1].owner, "");
	verdict_free(v);
	scene_free(&s);
}

static void thresholds_are_parsed_strictly(void **state)
{
	struct verdict_opts o = verdict_defaults;
	struct error err = { 0 };
	static const char *const bad[] = { "",		"native",   "native=",	    "native=1X",
					   "native=-1", "vm=1M,5",  "vm=1M,101%",   "cgroup=80",
					   "nativ=1M",	"held=,5%", "native=1M,5%", "vm=1MM" };
	size_t i;

	(void)state;
	assert_int_equal(verdict_opts_set(&o, "native=64K", &err), 0);
	assert_int_equal(o.native_floor, 65536);
	assert_int_equal(verdict_opts_set(&o, "vm=2MiB,1.5%", &err), 0);
	assert_int_equal(o.vm_floor, 2 * MB);
	assert_true(o.vm_ratio > 0.0149 && o.vm_ratio < 0.0151);
	assert_int_equal(verdict_opts_set(&o, "held=1G", &err), 0);
	assert_int_equal(o.held_floor, 1024 * MB);
	assert_true(o.held_ratio == verdict_defaults.held_ratio);
	assert_int_equal(verdict_opts_set(&o, "explained=90%", &err), 0);
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct error why = { 0 };

		assert_int_equal(verdict_opts_set(&o, bad[i], &why), -EINVAL);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(quiet_nodes_are_healthy),
		cmocka_unit_test(a_nif_behind_a_library_is_the_one),
		cmocka_unit_test(the_vm_itself_is_not_accused_of_native_growth),
		cmocka_unit_test(memory_given_back_is_acquitted),
		cmocka_unit_test(touched_mappings_are_mmap),
		cmocka_unit_test(what_is_held_needs_floor_and_ratio),
		cmocka_unit_test(data_growth_and_a_tight_cgroup),
		cmocka_unit_test(missing_pieces_are_inconclusive),
		cmocka_unit_test(calls_of_malloc_name_who_faults_do_not),
		cmocka_unit_test(growth_that_stopped_says_when),
		cmocka_unit_test(what_comes_is_told_before_what_is_there),
		cmocka_unit_test(lazy_memory_is_kept_but_no_fragmentation),
		cmocka_unit_test(nobody_took_more_than_there_is),
		cmocka_unit_test(kept_is_told_from_lost),
		cmocka_unit_test(old_losses_are_joined_by_size),
		cmocka_unit_test(thresholds_are_parsed_strictly),
	};

	return cmocka_run_group_tests_name("verdict", tests, NULL, NULL);
}
