/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A program that knows what it holds.
 *
 * Allocates and frees from several threads, then stands still and prints, for
 * t_glibc.sh to compare with what the walk of its heap says:
 *
 *   live ADDR USABLE     a pointer it holds, and malloc_usable_size()
 *   gone ADDR            a pointer it has freed (and did not get again)
 *   info NAME VALUE      mallinfo2() or mallinfo()
 *   arena ...            malloc_info()'s totals, one arena a line
 *   thread TID FS STACK SIZE START
 *   ready
 *
 * Main holds as much as each thread, in the main arena.
 *
 * Usage: truth THREADS POINTERS-PER-THREAD [sbrk|noncontiguous|churn]
 * Ends when its standard input does.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dlfcn.h>
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define THREADS_MAX  64
#define POINTERS_MAX 20000 /* per thread, live or gone */

struct holder {
	pthread_t thread;
	unsigned number;
	uint64_t random;
	void *live[POINTERS_MAX], *gone[POINTERS_MAX];
	size_t n_live, n_gone;
	long tid;
	void *stack;
	size_t stack_size;
};

static struct holder holders[THREADS_MAX + 1]; /* in .bss: malloc must not hold them */
static size_t per_thread;
static pthread_barrier_t started, done;
static int churning;
static char out_buffer[1 << 16], info_buffer[1 << 16], info_text[1 << 18];

static uint64_t random_next(struct holder *h)
{
	h->random ^= h->random << 13;
	h->random ^= h->random >> 7;
	h->random ^= h->random << 17;
	return h->random;
}

static void *allocate(struct holder *h)
{
	uint64_t r = random_next(h), kind = r % 100;
	size_t size = 1 + (r >> 8) % ((r >> 40) % 8 ? 200 : 4000);
	void *p = NULL;

	if (kind < 60)
		return malloc(size);
	if (kind < 75)
		return calloc(1, size);
	if (kind < 85)
		return realloc(malloc(size), 1 + (r >> 20) % 6000);
	if (kind < 93) /* 32 ... 4096, and beyond what one page holds */
		return posix_memalign(&p, 32ULL << (r >> 24) % 8, size) ? NULL : p;
	if (kind < 97)
		return malloc(1 + (r >> 20) % 120000);
	if (kind < 98)
		return malloc(200000 + (r >> 20) % 900000); /* mmapped */
	if (kind < 99)					    /* mmapped, aligned */
		return posix_memalign(&p, 64ULL << (r >> 24) % 13, 300000 + (r >> 30) % 700000)
			       ? NULL
			       : p;
	return realloc(malloc(150000), 400000 + (r >> 20) % 400000);
}

static void release(struct holder *h, size_t i)
{
	free(h->live[i]);
	h->gone[h->n_gone++] = h->live[i];
	h->live[i] = h->live[--h->n_live];
}

static void fill(struct holder *h)
{
	size_t i, rounds;

	for (rounds = 0; rounds < 3; rounds++) {
		while (h->n_live < per_thread) {
			void *p = allocate(h);

			if (!p)
				abort();
			memset(p, (int)h->number, 1);
			h->live[h->n_live++] = p;
		}
		/* Half of them, in no order. */
		for (i = 0, h->n_gone = 0; i < per_thread / 2; i++)
			release(h, random_next(h) % h->n_live);
	}
	/* A run of small ones, so that tcache overflows into the fastbins. */
	for (i = 0; i < 200; i++)
		h->live[h->n_live++] = malloc(40);
	for (i = 0; i < 60; i++)
		release(h, h->n_live - 1 - i % 40);
}

static void *hold(void *arg)
{
	struct holder *h = arg;
	pthread_attr_t attr;
	size_t i;

	h->tid = syscall(SYS_gettid);
	if (pthread_getattr_np(pthread_self(), &attr) == 0) {
		pthread_attr_getstack(&attr, &h->stack, &h->stack_size);
		pthread_attr_destroy(&attr);
	}
	/* What a thread needs for itself it has, before anything counts as freed. */
	h->live[h->n_live++] = malloc(100);
	pthread_barrier_wait(&started);
	fill(h);
	pthread_barrier_wait(&done);
	while (churning) {
		i = random_next(h) % h->n_live;
		free(h->live[i]);
		h->live[i] = allocate(h);
	}
	for (;;)
		pause();
	return NULL;
}

static void say(const char *fmt, ...)
{
	char line[512];
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	fwrite(line, 1, (size_t)n, stdout);
}

static int address_compare(const void *a, const void *b)
{
	uintptr_t x = *(const uintptr_t *)a, y = *(const uintptr_t *)b;

	return (x > y) - (x < y);
}

/* malloc_info() as text; one line per <heap>. */
static void arenas_say(FILE *f)
{
	char *at = info_text;
	unsigned nr;

	rewind(f);
	if (malloc_info(0, f) != 0 || fflush(f) != 0)
		return;
	while ((at = strstr(at, "<heap nr=\"")) != NULL) {
		unsigned long fast_count = 0, fast = 0, rest_count = 0, rest = 0, current = 0;
		char *end = strstr(at, "</heap>"), *p;

		sscanf(at, "<heap nr=\"%u\"", &nr);
		p = strstr(at, "<total type=\"fast\"");
		if (p && p < end)
			sscanf(p, "<total type=\"fast\" count=\"%lu\" size=\"%lu\"", &fast_count,
			       &fast);
		p = strstr(at, "<total type=\"rest\"");
		if (p && p < end)
			sscanf(p, "<total type=\"rest\" count=\"%lu\" size=\"%lu\"", &rest_count,
			       &rest);
		p = strstr(at, "<system type=\"current\"");
		if (p && p < end)
			sscanf(p, "<system type=\"current\" size=\"%lu\"", &current);
		say("arena %u fast %lu %lu rest %lu %lu system %lu\n", nr, fast_count, fast,
		    rest_count, rest, current);
		at = end;
	}
}

struct info2 {
	size_t v[10];
};
struct info1 {
	int v[10];
};
static struct info2 (*mallinfo2_function)(void);
static struct info1 (*mallinfo_function)(void);

static void info_say(void)
{
	static const char *const names[] = { "arena",	 "ordblks", "smblks",  "hblks",
					     "hblkhd",	 "usmblks", "fsmblks", "uordblks",
					     "fordblks", "keepcost" };
	struct info2 two = { { 0 } };
	struct info1 one = { { 0 } };
	int i;

	if (mallinfo2_function)
		two = mallinfo2_function();
	else if (mallinfo_function)
		one = mallinfo_function();
	for (i = 0; i < 10; i++)
		say("info %s %zu\n", names[i],
		    mallinfo2_function ? two.v[i] : (size_t)(unsigned)one.v[i]);
}

/* Takes the address space right after the brk heap, so that it cannot grow. */
static void brk_block(void)
{
	uintptr_t end = ((uintptr_t)sbrk(0) + 4095) & ~4095UL;

	if (mmap((void *)end, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) ==
	    MAP_FAILED)
		abort();
}

int main(int argc, char **argv)
{
	unsigned n = argc > 1 ? (unsigned)atoi(argv[1]) : 1, i;
	const char *mode = argc > 3 ? argv[3] : "";
	static uintptr_t all[(THREADS_MAX + 1) * POINTERS_MAX];
	size_t n_all = 0, k;
	char c;
	FILE *f;

	per_thread = argc > 2 ? (size_t)atol(argv[2]) : 1000;
	if (n > THREADS_MAX || per_thread > POINTERS_MAX - 500)
		return 2;
	setvbuf(stdout, out_buffer, _IOFBF, sizeof(out_buffer));
	f = fmemopen(info_text, sizeof(info_text), "w");
	setvbuf(f, info_buffer, _IOFBF, sizeof(info_buffer));
	/* dlsym() that fails allocates: now, not later. */
	mallinfo2_function = (struct info2(*)(void))dlsym(RTLD_DEFAULT, "mallinfo2");
	mallinfo_function = (struct info1(*)(void))dlsym(RTLD_DEFAULT, "mallinfo");
	churning = !strcmp(mode, "churn");
	pthread_barrier_init(&started, NULL, n + 1);
	pthread_barrier_init(&done, NULL, n + 1);
	if (!strcmp(mode, "noncontiguous"))
		brk_block();
	for (i = 0; i <= n; i++) {
		holders[i].number = i;
		holders[i].random = 88172645463325252ULL + i * 7919;
	}
	if (!strcmp(mode, "sbrk") && sbrk(8192) == (void *)-1)
		abort();
	fill(&holders[n]);
	for (i = 0; i < n; i++)
		if (pthread_create(&holders[i].thread, NULL, hold, &holders[i]) != 0)
			abort();
	pthread_barrier_wait(&started);
	/* The threads took some of what had been freed: free some more. */
	for (k = 0, holders[n].n_gone = 0; k < per_thread / 4; k++)
		release(&holders[n], random_next(&holders[n]) % holders[n].n_live);
	pthread_barrier_wait(&done);
	usleep(100000); /* the others reach pause() */
	if (!churning) {
		for (i = 0; i < n; i++) /* another thread's chunks into main's tcache */
			for (k = 0; k < 20; k++)
				release(&holders[i], k);
		for (i = 0; i <= n; i++) {
			for (k = 0; k < holders[i].n_live; k++) {
				say("live %lx %zu\n", (unsigned long)holders[i].live[k],
				    malloc_usable_size(holders[i].live[k]));
				all[n_all++] = (uintptr_t)holders[i].live[k];
			}
		}
		qsort(all, n_all, sizeof(all[0]), address_compare);
		for (i = 0; i <= n; i++)
			for (k = 0; k < holders[i].n_gone; k++)
				if (!bsearch(&holders[i].gone[k], all, n_all, sizeof(all[0]),
					     address_compare))
					say("gone %lx\n", (unsigned long)holders[i].gone[k]);
		arenas_say(f); /* nothing is allocated or freed from here on */
		info_say();
	}
	for (i = 0; i < n; i++)
		say("thread %ld %lx %lx %zx %lx\n", holders[i].tid,
		    (unsigned long)holders[i].thread, (unsigned long)holders[i].stack,
		    holders[i].stack_size, (unsigned long)hold);
	say("ready\n");
	fflush(stdout);
	while (read(0, &c, 1) > 0)
		;
	_exit(0);
}
