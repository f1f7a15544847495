/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Threads of a glibc process, by their struct pthread.
 *
 * On x86-64 the thread register fs points to struct pthread. It lies near the
 * upper end of the thread's own stack block, below which glibc keeps the
 * thread's variables:
 *
 *   stackblock                                    fs
 *   | guard | stack ... <- sp | thread variables | struct pthread |
 *                                                  |- [0] == [16] == fs
 *                                                  |- list {next, prev}
 *                                                  |- tid
 *                                                  |- stackblock, size
 *
 * `list` chains all threads into a few rings, whose heads are variables of
 * ld.so (2.34 on) or libpthread: stacks that glibc made, stacks that the
 * program brought (main's is one of these), and stacks kept for the next
 * thread. From one known thread the ring leads to its head, and around the head
 * lie the other heads; without any known thread the heads are recognised by
 * what they point to.
 *
 * Trusted is only what verifies: fs is 64-byte aligned, points to itself twice,
 * its stack block holds it, and its tid is a thread of the process now.
 */
#include "libc/glibc_int.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* nptl/descr.h, struct pthread; the same from 2.31 to 2.43 */
#define PTHREAD_LIST	   704
#define PTHREAD_TID	   720
#define PTHREAD_STACK	   1680
#define PTHREAD_STACK_SIZE 1688
#define PTHREAD_GUARD	   1696
#define PTHREAD_BYTES	   1704
/* start_routine: 2.36 and 2.41, and 2.31 and 2.43 */
static const unsigned start_routines[] = { 1592, 1600 };

#define THREADS_MAX 32768
#define TASKS_MAX   65536
#define SEGMENT_MAX (1ULL << 20)
#define STACK_MAX   (64ULL << 30)
#define STACK_GAP   16384 /* thread variables may use up the rest, but not this little */

struct task {
	pid_t ns, tid; /* as the thread itself sees it, as we see it */
};

struct search {
	struct heap_view v; /* only t, m, r are used */
	struct libc_threads *out;
};

static size_t thread_slot(const struct libc_threads *th, uint64_t fs)
{
	size_t lo = 0, hi = th->n;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (th->v[mid].fs < fs)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static bool thread_known(const struct libc_threads *th, uint64_t fs)
{
	size_t i = thread_slot(th, fs);

	return i < th->n && th->v[i].fs == fs;
}

static bool pthread_verify(struct search *s, uint64_t fs, uint8_t *copy)
{
	uint64_t stack, size;
	uint32_t tid;

	if (!fs || fs & 63 || heap_read(&s->v, fs, copy, PTHREAD_BYTES) < 0)
		return false;
	if (heap_word(copy, 0) != fs || heap_word(copy, 16) != fs)
		return false;
	memcpy(&tid, copy + PTHREAD_TID, sizeof(tid));
	if (tid > 1U << 22)
		return false;
	stack = heap_word(copy, PTHREAD_STACK);
	size = heap_word(copy, PTHREAD_STACK_SIZE);
	if (!stack) /* the first thread: its stack is the kernel's */
		return tid != 0;
	return stack % TARGET_PAGE == 0 && size >= STACK_GAP && size <= STACK_MAX &&
	       stack + size > stack && stack < fs && fs < stack + size;
}

/* glibc maps stackblock_size bytes, which need not be whole pages (2.31 to 2.43), so
 * its last page is the stack's to the end. One that the program brought, which has no
 * guard, may lie beside other things. */
static uint64_t stack_bytes(const uint8_t *copy)
{
	uint64_t size = heap_word(copy, PTHREAD_STACK_SIZE);

	if (!heap_word(copy, PTHREAD_GUARD))
		return size;
	return (size + TARGET_PAGE - 1) / TARGET_PAGE * TARGET_PAGE;
}

static int thread_add(struct search *s, uint64_t fs, const uint8_t *copy)
{
	struct libc_threads *th = s->out;
	size_t i = thread_slot(th, fs);
	uint32_t tid;

	if (th->n == THREADS_MAX)
		return -E2BIG;
	if (th->n == th->size) {
		size_t size = th->size ? 2 * th->size : 64;
		struct libc_thread *v = realloc(th->v, size * sizeof(*v));

		if (!v)
			return -ENOMEM;
		th->v = v;
		th->size = size;
	}
	memmove(&th->v[i + 1], &th->v[i], (th->n - i) * sizeof(th->v[0]));
	memcpy(&tid, copy + PTHREAD_TID, sizeof(tid));
	th->v[i] = (struct libc_thread){
		.fs = fs,
		.tid = (pid_t)tid,
		.stack = heap_word(copy, PTHREAD_STACK),
		.stack_size = stack_bytes(copy),
	};
	th->n++;
	return 0;
}

/* Follows a ring from the list node `node` (of a thread or a head) until it
 * comes back or meets a thread that is known. Nodes that are no thread are
 * heads, of which a ring has one: the last one seen is left in *head. */
static int ring_follow(struct search *s, uint64_t node, unsigned word, uint64_t *head)
{
	uint8_t copy[PTHREAD_BYTES];
	uint64_t at = node;
	unsigned heads = 0;
	size_t steps;
	int ret;

	for (steps = 0; steps < THREADS_MAX; steps++) {
		uint64_t fs;

		if (heap_read_u64(&s->v, at + (uint64_t)word * 8, &at) < 0 || at == node || !at)
			break;
		fs = at - PTHREAD_LIST;
		if (fs & 63 || !pthread_verify(s, fs, copy)) {
			*head = at;
			if (++heads > 1) /* torn, or never a ring */
				break;
			continue;
		}
		if (thread_known(s->out, fs))
			continue;
		ret = thread_add(s, fs, copy);
		if (ret < 0)
			return ret;
	}
	return s->v.fatal;
}

static int thread_hint(struct search *s, uint64_t fs, uint64_t *head)
{
	uint8_t copy[PTHREAD_BYTES];
	int ret;

	if (thread_known(s->out, fs) || !pthread_verify(s, fs, copy))
		return s->v.fatal;
	ret = thread_add(s, fs, copy);
	/* Both ways: a thread that leaves right now cuts only one of them. */
	if (ret == 0)
		ret = ring_follow(s, fs + PTHREAD_LIST, 0, head);
	if (ret == 0)
		ret = ring_follow(s, fs + PTHREAD_LIST, 1, head);
	return ret;
}

/* Looks for ring heads in [start, end): words that point to a thread's list
 * node which points back. */
static int heads_search(struct search *s, uint64_t start, uint64_t end)
{
	uint8_t page[TARGET_PAGE], copy[PTHREAD_BYTES];
	uint64_t at, head;
	int ret;

	if (end - start > SEGMENT_MAX)
		return 0;
	for (at = start; at < end; at += TARGET_PAGE) {
		size_t i, len = end - at < TARGET_PAGE ? (size_t)(end - at) : TARGET_PAGE;

		if (heap_read(&s->v, at, page, len) < 0) {
			if (s->v.fatal)
				return s->v.fatal;
			continue;
		}
		for (i = 0; i + 8 <= len; i += 8) {
			uint64_t fs = heap_word(page, i) - PTHREAD_LIST;

			if (fs & 63 || fs >> 47 || !fs || !mappings_find(s->v.m, fs) ||
			    !pthread_verify(s, fs, copy) ||
			    heap_word(copy, PTHREAD_LIST + 8) != at + i)
				continue;
			ret = ring_follow(s, at + i, 0, &head);
			if (ret < 0)
				return ret;
		}
	}
	return 0;
}

static bool name_holds_heads(const char *name)
{
	return !strncmp(name, "ld-", 3) || !strncmp(name, "ld.so", 5) ||
	       !strncmp(name, "libpthread", 10) || !strncmp(name, "libc.so", 7) ||
	       !strncmp(name, "libc-", 5);
}

static int rings_search(struct search *s, struct images *im, const uint64_t *heads, size_t n_heads)
{
	size_t i, j, k, n;
	int ret;

	for (i = 0; im && i < im->n; i++) {
		const struct image_segment *seg = image_segments(im->v[i], &n);
		bool wanted = name_holds_heads(image_name(im->v[i]));

		for (j = 0; j < n; j++) {
			bool here = wanted;

			for (k = 0; k < n_heads; k++)
				here |= heads[k] >= seg[j].start && heads[k] < seg[j].end;
			if (!here || !seg[j].write)
				continue;
			ret = heads_search(s, seg[j].start, seg[j].end);
			if (ret < 0)
				return ret;
		}
	}
	return 0;
}

/* start_routine has moved between releases: the place where most threads have
 * an address of code is the right one. */
static void routines_read(struct search *s, struct images *im)
{
	unsigned votes[2] = { 0, 0 }, k, best;
	size_t i;

	if (!im)
		return;
	for (k = 0; k < 2; k++) {
		for (i = 0; i < s->out->n; i++) {
			struct libc_thread *th = &s->out->v[i];
			const struct mapping *m;
			uint64_t pc;

			if (!th->stack || heap_read_u64(&s->v, th->fs + start_routines[k], &pc) < 0)
				continue;
			m = pc ? mappings_find(s->v.m, pc) : NULL;
			votes[k] += m && m->exec && images_find(im, pc) != NULL;
		}
	}
	if (!votes[0] && !votes[1])
		return;
	best = votes[1] > votes[0];
	for (i = 0; i < s->out->n; i++) {
		struct libc_thread *th = &s->out->v[i];
		const struct mapping *m;
		uint64_t pc;

		if (!th->stack || heap_read_u64(&s->v, th->fs + start_routines[best], &pc) < 0)
			continue;
		m = pc ? mappings_find(s->v.m, pc) : NULL;
		th->start_routine = m && m->exec ? pc : 0;
	}
}

static int task_compare(const void *a, const void *b)
{
	const struct task *x = a, *y = b;

	return (x->ns > y->ns) - (x->ns < y->ns);
}

/* The innermost number of thread `tid` in its own pid namespace. */
static pid_t task_ns(const struct target *t, pid_t tid)
{
	char name[48], *text = NULL, *at;
	long ns = 0;

	snprintf(name, sizeof(name), "task/%d/status", (int)tid);
	if (target_proc_read(t, name, 65536, &text) < 0)
		return 0;
	at = strstr(text, "\nNSpid:");
	for (at = at ? at + 7 : NULL; at && *at && *at != '\n';) {
		char *next;
		long value = strtol(at, &next, 10);

		if (next == at)
			break;
		ns = value;
		at = next;
	}
	free(text);
	return (pid_t)ns;
}

static ssize_t tasks_read(const struct target *t, struct task **out)
{
	bool same = target_nspid(t) == target_pid(t);
	int fd = target_proc_open(t, "task");
	size_t n = 0, size = 0;
	struct dirent *e;
	DIR *dir;

	*out = NULL;
	if (fd < 0)
		return fd;
	dir = fdopendir(fd);
	if (!dir) {
		close(fd);
		return -errno;
	}
	while ((e = readdir(dir)) && n < TASKS_MAX) {
		pid_t tid = (pid_t)strtol(e->d_name, NULL, 10);

		if (tid <= 0)
			continue;
		if (n == size) {
			struct task *v = realloc(*out, (size ? 2 * size : 64) * sizeof(*v));

			if (!v) {
				closedir(dir);
				free(*out);
				*out = NULL;
				return -ENOMEM;
			}
			*out = v;
			size = size ? 2 * size : 64;
		}
		(*out)[n++] = (struct task){ same ? tid : task_ns(t, tid), tid };
	}
	closedir(dir);
	if (n)
		qsort(*out, n, sizeof(**out), task_compare);
	return (ssize_t)n;
}

/* Turns the numbers in struct pthread into ours; what is no thread (any more)
 * becomes 0. */
static int tids_check(struct search *s)
{
	struct task *tasks;
	ssize_t n;
	size_t i;

	if (target_is_buffers(s->v.t))
		return 0;
	n = tasks_read(s->v.t, &tasks);
	if (n < 0)
		return n == -ENOMEM ? -ENOMEM : -ESRCH;
	for (i = 0; i < s->out->n; i++) {
		struct task key = { s->out->v[i].tid, 0 }, *hit;

		hit = key.ns && tasks ? bsearch(&key, tasks, (size_t)n, sizeof(key), task_compare)
				      : NULL;
		s->out->v[i].tid = hit ? hit->tid : 0;
	}
	free(tasks);
	return 0;
}

void libc_threads_free(struct libc_threads *threads)
{
	if (!threads)
		return;
	free(threads->v);
	*threads = (struct libc_threads){ 0 };
}

int libc_threads_find(struct target *t, const struct mappings *m, struct images *im,
		      const struct residency *r, const uint64_t *pthreads, size_t n_pthreads,
		      struct libc_threads *out)
{
	struct search s = { .v = { .t = t, .m = m, .r = r }, .out = out };
	uint64_t heads[16], head;
	size_t i, j, n_heads = 0;
	int ret = 0;

	*out = (struct libc_threads){ 0 };
	for (i = 0; i < n_pthreads && ret == 0; i++) {
		head = 0;
		ret = thread_hint(&s, pthreads[i], &head);
		for (j = 0; j < n_heads && heads[j] != head; j++)
			;
		if (head && j == n_heads && n_heads < sizeof(heads) / sizeof(heads[0]))
			heads[n_heads++] = head;
	}
	if (ret == 0)
		ret = rings_search(&s, im, heads, n_heads);
	if (ret == -E2BIG) /* more than anybody has: keep what there is */
		ret = 0;
	if (ret == 0)
		ret = tids_check(&s);
	if (ret == 0)
		routines_read(&s, im);
	if (ret < 0)
		libc_threads_free(out);
	return ret;
}

static int stack_compare(const void *a, const void *b)
{
	const struct libc_stack *x = a, *y = b;

	return (x->start > y->start) - (x->start < y->start);
}

ssize_t libc_stacks_read(struct target *t, const struct mappings *m, struct images *im,
			 const struct residency *r, const uint64_t *pthreads, size_t n_pthreads,
			 struct libc_stack **out)
{
	struct libc_threads threads;
	uint64_t end = 0;
	size_t i, n = 0, kept = 0;
	int ret = libc_threads_find(t, m, im, r, pthreads, n_pthreads, &threads);

	*out = NULL;
	if (ret < 0)
		return ret;
	*out = calloc(threads.n ? threads.n : 1, sizeof(**out));
	if (!*out) {
		libc_threads_free(&threads);
		return -ENOMEM;
	}
	for (i = 0; i < threads.n; i++) {
		const struct libc_thread *th = &threads.v[i];

		if (!th->stack)
			continue;
		(*out)[n++] = (struct libc_stack){ .start = th->stack,
						   .end = th->stack + th->stack_size,
						   .pthread = th->fs,
						   .tid = th->tid,
						   .start_routine = th->start_routine };
	}
	libc_threads_free(&threads);
	qsort(*out, n, sizeof(**out), stack_compare);
	for (i = 0; i < n; i++) { /* blocks that overlap are a lie: the first one stays */
		if ((*out)[i].start < end)
			continue;
		end = (*out)[i].end;
		(*out)[kept++] = (*out)[i];
	}
	return (ssize_t)kept;
}
