/* SPDX-License-Identifier: Apache-2.0 */
/* Compares the walk of a live process with what the process says of itself:
 * the lines that tests/libc/truth.c prints. */
#include "glibc_look.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "libc/glibc.h"

struct seen {
	uint64_t addr, size;
	bool used;
};

struct look {
	const char *name;
	int failed;
	struct seen *seen;
	size_t n_seen, size_seen;
};

static void result(struct look *l, bool good, const char *what, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

static void result(struct look *l, bool good, const char *what, const char *fmt, ...)
{
	char why[400];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(why, sizeof(why), fmt, ap);
	va_end(ap);
	if (good) {
		printf("ok - %s: %s\n", l->name, what);
		return;
	}
	printf("not ok - %s: %s # %s\n", l->name, what, why);
	l->failed = 1;
}

static void chunk_seen(void *arg, uint64_t addr, uint64_t size, bool used, unsigned arena)
{
	struct look *l = arg;

	(void)arena;
	if (l->n_seen == l->size_seen) {
		l->size_seen = l->size_seen ? 2 * l->size_seen : 4096;
		l->seen = realloc(l->seen, l->size_seen * sizeof(*l->seen));
		if (!l->seen)
			abort();
	}
	l->seen[l->n_seen++] = (struct seen){ addr, size, used };
}

static int seen_compare(const void *a, const void *b)
{
	const struct seen *x = a, *y = b;

	return (x->addr > y->addr) - (x->addr < y->addr);
}

/* The chunk that holds the user address `addr`. */
static const struct seen *seen_at(const struct look *l, uint64_t addr)
{
	size_t lo = 0, hi = l->n_seen;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (l->seen[mid].addr <= addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	if (!lo || addr >= l->seen[lo - 1].addr + l->seen[lo - 1].size)
		return NULL;
	return &l->seen[lo - 1];
}

struct said {
	uint64_t live, live_wrong, gone, gone_wrong, threads, threads_wrong, starts_wrong;
	uint64_t arenas, arenas_wrong, info[10];
	bool has_info;
	char first[160];
};

static void wrong(struct said *s, uint64_t *count, const char *line)
{
	++*count;
	if (!s->first[0])
		snprintf(s->first, sizeof(s->first), "%.*s", (int)strcspn(line, "\n"), line);
}

static void arena_compare(struct said *s, const struct libc_heap *h, const char *line)
{
	unsigned long fast_count, fast, rest_count, rest, system;
	const struct libc_arena *a;
	uint64_t binned, top;
	unsigned nr;

	if (sscanf(line, "arena %u fast %lu %lu rest %lu %lu system %lu", &nr, &fast_count, &fast,
		   &rest_count, &rest, &system) != 6)
		return;
	s->arenas++;
	if (nr >= h->n_arenas) {
		wrong(s, &s->arenas_wrong, line);
		return;
	}
	a = &h->arenas[nr];
	binned = a->free_bytes - a->top_bytes - a->tcache_bytes - a->fastbin_bytes;
	top = a->top_bytes;
	/* Its sum of binned chunks takes the size words with their flag bit as they are. */
	if (fast_count != a->fastbin_chunks || fast != a->fastbin_bytes ||
	    rest != binned + top + (rest_count - 1) ||
	    rest_count != a->chunks_free - a->tcache_chunks - a->fastbin_chunks + 1 ||
	    system != a->system_mem)
		wrong(s, &s->arenas_wrong, line);
}

static void line_compare(struct look *l, struct said *s, const struct libc_heap *h,
			 const struct libc_stack *stacks, size_t n_stacks, const char *line)
{
	static const char *const names[] = { "arena",	 "ordblks", "smblks",  "hblks",
					     "hblkhd",	 "usmblks", "fsmblks", "uordblks",
					     "fordblks", "keepcost" };
	unsigned long a, b, c, d, e;
	const struct seen *seen;
	char name[32];
	size_t i;

	if (sscanf(line, "live %lx %lu", &a, &b) == 2) {
		seen = seen_at(l, a);
		s->live++;
		/* A chunk's user may use the next chunk's prev_size, unless it is mmapped. */
		if (!seen || seen->addr != a || !seen->used ||
		    (seen->size - 8 != b && seen->size - 16 != b))
			wrong(s, &s->live_wrong, line);
	} else if (sscanf(line, "gone %lx", &a) == 1) {
		seen = seen_at(l, a);
		s->gone++;
		/* Somebody inside libc may have got it, but not many. */
		if (seen && seen->used && seen->addr == a)
			wrong(s, &s->gone_wrong, line);
	} else if (sscanf(line, "thread %lu %lx %lx %lx %lx", &a, &b, &c, &d, &e) == 5) {
		s->threads++;
		for (i = 0; i < n_stacks; i++)
			if (stacks[i].pthread == b)
				break;
		/* The kernel's number, the block around what pthread_getattr_np() says. */
		if (i == n_stacks || stacks[i].start > c || stacks[i].end < c + d || !stacks[i].tid)
			wrong(s, &s->threads_wrong, line);
		else if (stacks[i].start_routine != e)
			wrong(s, &s->starts_wrong, line);
	} else if (sscanf(line, "info %31s %lu", name, &a) == 2) {
		for (i = 0; i < 10; i++)
			if (!strcmp(name, names[i]))
				s->info[i] = a;
		s->has_info = true;
	} else {
		arena_compare(s, h, line);
	}
}

static void info_compare(struct look *l, const struct said *s, const struct libc_heap *h)
{
	uint64_t system = 0, avail = 0, binned = 0, fast = 0, fast_chunks = 0;
	size_t i;

	for (i = 0; i < h->n_arenas; i++) {
		const struct libc_arena *a = &h->arenas[i];

		system += a->system_mem;
		avail += a->free_bytes - a->tcache_bytes;
		binned += a->chunks_free - a->tcache_chunks - a->fastbin_chunks + 1;
		fast += a->fastbin_bytes;
		fast_chunks += a->fastbin_chunks;
	}
	result(l,
	       system == s->info[0] && binned == s->info[1] && fast_chunks == s->info[2] &&
		       fast == s->info[6] && system - avail == s->info[7] && avail == s->info[8] &&
		       h->arenas[0].top_bytes == s->info[9],
	       "mallinfo",
	       "system %" PRIu64 " %" PRIu64 ", free chunks %" PRIu64 " %" PRIu64 ", fast %" PRIu64
	       " %" PRIu64 ", free %" PRIu64 " %" PRIu64,
	       system, s->info[0], binned, s->info[1], fast, s->info[6], avail, s->info[8]);
	result(l, h->mmaps_proved && h->mmaps_found == s->info[3] && h->mmapped_bytes == s->info[4],
	       "mmapped chunks", "%" PRIu64 " of %" PRIu64 ": %s", h->mmaps_found, s->info[3],
	       h->why);
}

/* Regions are disjoint, sorted, and their sums are their resident bytes. */
static void regions_check(struct look *l, const struct libc_heap *h, const struct residency *r)
{
	uint64_t end = 0, bad = 0, sum = 0;
	size_t i;

	for (i = 0; i < h->n_regions; i++) {
		const struct libc_region *g = &h->regions[i];

		bad += g->start < end || g->end <= g->start;
		bad += g->used_resident + g->free_resident + g->other_resident !=
		       residency_bytes(r, g->start, g->end);
		sum += g->used_resident + g->free_resident + g->other_resident;
		end = g->end;
	}
	result(l, !bad, "regions add up", "%" PRIu64 " of %zu do not", bad, h->n_regions);
	printf("# %zu regions, %" PRIu64 " bytes resident\n", h->n_regions, sum);
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + 1e-9 * (double)ts.tv_nsec;
}

static void heap_print(const struct libc_heap *h)
{
	size_t i;

	printf("# %s: walked %d, mmaps %" PRIu64 "/%" PRIu64 " %" PRIu64 "/%" PRIu64
	       " proved %d, %s\n",
	       h->malloc_name, h->walked, h->mmaps_found, h->n_mmaps, h->mmaps_found_bytes,
	       h->mmapped_bytes, h->mmaps_proved, h->why[0] ? h->why : "no complaint");
	for (i = 0; i < h->n_arenas; i++) {
		const struct libc_arena *a = &h->arenas[i];

		printf("#   arena %zu: %" PRIu64 " heaps, system %" PRIu64 ", used %" PRIu64
		       " in %" PRIu64 ", free %" PRIu64 " in %" PRIu64 ", top %" PRIu64
		       ", tcache %" PRIu64 ", fast %" PRIu64 "%s%s %s\n",
		       i, a->heaps, a->system_mem, a->used_bytes, a->chunks_used, a->free_bytes,
		       a->chunks_free, a->top_bytes, a->tcache_bytes, a->fastbin_bytes,
		       a->proved ? " proved" : "", a->torn ? " torn:" : "", a->why);
	}
}

int glibc_look(int pid, const char *file, const char *name, const char *expect)
{
	struct look l = { .name = name };
	struct libc_opts opts = { .chunk = chunk_seen, .arg = &l };
	struct error err = { 0 };
	struct target *t = NULL;
	struct mappings *m = NULL;
	struct images *im = NULL;
	struct residency *r = NULL;
	struct libc_heap *h = NULL;
	struct libc_stack *stacks = NULL;
	struct said said = { 0 };
	ssize_t n_stacks = 0;
	uint64_t unproved = 0;
	char *line = NULL;
	size_t room = 0, i, repeat;
	double start;
	FILE *f;

	if (target_open(pid, &t, &err) < 0 || mappings_read(t, &m, &err) < 0 ||
	    images_read(t, m, &im, &err) < 0 || residency_take(t, m, &r, &err) < 0) {
		result(&l, false, "looks", "%s", err.text);
		goto out;
	}
	for (repeat = 0; !strcmp(expect, "churn") && repeat < 50; repeat++) {
		struct mappings *m2 = NULL;
		struct residency *r2 = NULL;
		struct libc_heap *h2 = NULL;
		struct libc_opts plain = { 0 };

		if (mappings_read(t, &m2, &err) == 0 && residency_take(t, m2, &r2, &err) == 0 &&
		    libc_heap_walk(t, m2, im, r2, &plain, &h2, &err) == 0) {
			uint64_t bad = 0, other = 0, all = 0;

			for (i = 0; i < h2->n_regions; i++) {
				const struct libc_region *g = &h2->regions[i];

				bad += g->used_resident + g->free_resident + g->other_resident !=
				       residency_bytes(r2, g->start, g->end);
				other += g->other_resident;
				all += residency_bytes(r2, g->start, g->end);
			}
			if (bad)
				result(&l, false, "regions add up", "%" PRIu64 " do not", bad);
			printf("# look %zu: other %" PRIu64 " of %" PRIu64 ", %s\n", repeat, other,
			       all, h2->why);
			unproved += other * 100 > all;
		} else {
			result(&l, false, "looks", "%s", err.text);
		}
		libc_heap_free(h2);
		residency_free(r2);
		mappings_free(m2);
	}
	start = now();
	if (libc_heap_walk(t, m, im, r, &opts, &h, &err) < 0) {
		result(&l, false, "walks", "%s", err.text);
		goto out;
	}
	printf("# %.1f ms\n", 1e3 * (now() - start));
	heap_print(h);
	if (!strncmp(expect, "refused ", 8)) {
		result(&l, !h->walked && !h->is_glibc && !h->n_regions && h->why[0], "refused",
		       "%s", h->why);
		result(&l, !strcmp(h->malloc_name, expect + 8), "malloc's name", "%s",
		       h->malloc_name);
		goto out;
	}
	regions_check(&l, h, r);
	n_stacks = libc_stacks_read(t, m, im, r, NULL, 0, &stacks);
	qsort(l.seen, l.n_seen, sizeof(l.seen[0]), seen_compare);
	f = fopen(file, "r");
	while (f && getline(&line, &room, f) > 0)
		line_compare(&l, &said, h, stacks, n_stacks < 0 ? 0 : (size_t)n_stacks, line);
	if (f)
		fclose(f);
	free(line);
	fflush(stdout);
	result(&l, said.threads && !said.threads_wrong, "threads",
	       "%" PRIu64 " of %" PRIu64 " wrong: %s", said.threads_wrong, said.threads,
	       said.first);
	result(&l, !said.starts_wrong, "start routines", "%" PRIu64 " of %" PRIu64 " wrong",
	       said.starts_wrong, said.threads);
	if (!strcmp(expect, "exact")) {
		for (i = 0; i < h->n_arenas; i++)
			unproved += !h->arenas[i].proved;
		result(&l, h->walked && h->n_arenas && !unproved, "proved", "%s", h->why);
		result(&l, said.live && !said.live_wrong, "live pointers",
		       "%" PRIu64 " of %" PRIu64 " wrong: %s", said.live_wrong, said.live,
		       said.first);
		result(&l, said.gone && !said.gone_wrong, "freed pointers",
		       "%" PRIu64 " of %" PRIu64 " wrong: %s", said.gone_wrong, said.gone,
		       said.first);
		result(&l, said.arenas == h->n_arenas && !said.arenas_wrong, "malloc_info",
		       "%" PRIu64 " of %" PRIu64 " arenas wrong: %s", said.arenas_wrong,
		       said.arenas, said.first);
		info_compare(&l, &said, h);
	} else if (!strcmp(expect, "churn")) {
		result(&l, unproved <= 10, "churn", "%" PRIu64 " of 50 looks lost more than 1%%",
		       unproved);
	} else { /* degraded: says so, and main is not split */
		result(&l, h->walked && h->why[0] && h->arenas[0].torn && !h->arenas[0].proved,
		       "degraded", "%s", h->why);
		result(&l, strstr(h->why, expect) != NULL, "reason", "%s", h->why);
	}
out:
	free(l.seen);
	free(stacks);
	libc_heap_free(h);
	residency_free(r);
	images_free(im);
	mappings_free(m);
	target_close(t);
	return l.failed;
}
