/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Residency: which pages are in memory
 *
 * The picture is a bitmap with one bit a page, in chunks of 64 MiB of address
 * space that exist only where something is present:
 *
 *   table[addr >> 26] -> { 16384 bits, how many are set }
 *
 * so a sparse address space (a node reserves gigabytes that it never touches)
 * costs nothing, and a dense one 1/32768 of its size.
 *
 * Two ways to fill it. PAGEMAP_SCAN (Linux 6.7) hands out runs of pages with
 * their categories and skips what is not populated; before that, /proc/PID/
 * pagemap has one word a page. Either way a call covers at most 64k pages,
 * since the kernel holds the target's mmap_lock (or its page table locks)
 * meanwhile.
 *
 * Zero pages. Anonymous memory that was only ever read maps the one shared page
 * of zeroes. pagemap calls it present, smaps does not count it as Rss. It is
 * recognised by PAGE_IS_PFNZERO, or by its page frame number where we may see
 * page frame numbers; a huge zero page (transparent huge pages) by the flags in
 * /proc/kpageflags.
 */
#include "target/residency.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define CHUNK_SHIFT 26
#define CHUNK_BYTES (1ULL << CHUNK_SHIFT)
#define CHUNK_PAGES (CHUNK_BYTES / TARGET_PAGE)
#define CHUNK_WORDS (CHUNK_PAGES / 64)
#define ADDRESS_END (1ULL << 47) /* user space with four-level page tables */
#define TABLE_SIZE  (ADDRESS_END >> CHUNK_SHIFT)
#define HUGE_BYTES  (2ULL << 20)

struct chunk {
	uint64_t bits[CHUNK_WORDS];
};

struct residency {
	struct chunk **table;  /* TABLE_SIZE pointers, most of it never touched */
	struct chunk **chunks; /* those that exist, to free them without a walk over the table */
	size_t n_chunks, size_chunks;
	enum zero_page_method method;
	uint64_t pages, swapped_pages, zero_pages, skipped_bytes;
};

/* include/uapi/linux/fs.h, Linux 6.7; declared here for older headers */
struct scan_region {
	uint64_t start, end, categories;
};
struct scan_arg {
	uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
	uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};
#define SCAN_IOCTL   _IOWR('f', 16, struct scan_arg)
#define SCAN_FILE    (1 << 2)
#define SCAN_PRESENT (1 << 3)
#define SCAN_SWAPPED (1 << 4)
#define SCAN_PFNZERO (1 << 5)
#define SCAN_HUGE    (1 << 6)
#define SCAN_GUARD   (1 << 8) /* Linux 6.15: guard pages, which otherwise look swapped */
#define SCAN_REGIONS 2048

/* Documentation/admin-guide/mm/pagemap.rst */
#define PM_PRESENT    (1ULL << 63)
#define PM_SWAPPED    (1ULL << 62)
#define PM_FILE	      (1ULL << 61)
#define PM_GUARD      (1ULL << 58) /* Linux 6.15 */
#define PM_EXCLUSIVE  (1ULL << 56)
#define PM_PFN	      ((1ULL << 55) - 1)
#define KPF_ZERO_PAGE 24

/* What a pass over one target needs besides the picture. */
struct pass {
	struct target *t;
	struct residency *r;
	int pagemap, kpageflags; /* file descriptors, -1 if not to be had */
	uint64_t zero_pfn;	 /* 0: not known */
	uint64_t scan_guard;	 /* SCAN_GUARD where the kernel knows it */
	uint64_t huge_zero_pfn;	 /* first frame of the huge zero page, 0: not seen yet */
};

static int chunk_at(struct residency *r, uint64_t addr, struct chunk **out)
{
	struct chunk **slot = &r->table[addr >> CHUNK_SHIFT];

	if (!*slot) {
		if (r->n_chunks == r->size_chunks) {
			size_t size = r->size_chunks ? r->size_chunks * 2 : 64;
			struct chunk **bigger = realloc(r->chunks, size * sizeof(*bigger));

			if (!bigger)
				return -ENOMEM;
			r->chunks = bigger;
			r->size_chunks = size;
		}
		*slot = calloc(1, sizeof(**slot));
		if (!*slot)
			return -ENOMEM;
		r->chunks[r->n_chunks++] = *slot;
	}
	*out = *slot;
	return 0;
}

static int mark(struct residency *r, uint64_t start, uint64_t end)
{
	while (start < end) {
		uint64_t edge = (start | (CHUNK_BYTES - 1)) + 1;
		uint64_t stop = end < edge ? end : edge, page, last;
		struct chunk *c;
		int ret = chunk_at(r, start, &c);

		if (ret < 0)
			return ret;
		page = (start & (CHUNK_BYTES - 1)) / TARGET_PAGE;
		last = page + (stop - start) / TARGET_PAGE;
		while (page < last) {
			uint64_t n = 64 - page % 64;
			uint64_t mask;

			if (n > last - page)
				n = last - page;
			mask = (n == 64 ? ~0ULL : (1ULL << n) - 1) << page % 64;
			/* the kernel may tell of a page twice, when a run ends where its
			 * answer was full or the mapping moved: count it once */
			r->pages += (uint64_t)__builtin_popcountll(mask & ~c->bits[page / 64]);
			c->bits[page / 64] |= mask;
			page += n;
		}
		start = stop;
	}
	return 0;
}

static ssize_t pagemap_read(struct pass *p, uint64_t addr, uint64_t *v, size_t n)
{
	ssize_t got;
	int e, ret = target_call_begin(p->t);

	if (ret < 0)
		return ret;
	got = pread(p->pagemap, v, n * sizeof(*v), (off_t)(addr / TARGET_PAGE * sizeof(*v)));
	e = errno;
	target_call_end(p->t);
	return got < 0 ? -e : got / (ssize_t)sizeof(*v);
}

/* Whether frame `pfn` belongs to the huge zero page. One look tells for all of
 * its 512 frames. */
static bool pfn_is_huge_zero(struct pass *p, uint64_t pfn)
{
	uint64_t base = pfn & ~(HUGE_BYTES / TARGET_PAGE - 1), flags;

	if (!pfn || p->kpageflags < 0)
		return false;
	if (p->huge_zero_pfn)
		return base == p->huge_zero_pfn;
	if (pread(p->kpageflags, &flags, sizeof(flags), (off_t)(pfn * sizeof(flags))) !=
	    (ssize_t)sizeof(flags))
		return false;
	if (!(flags >> KPF_ZERO_PAGE & 1) || pfn == p->zero_pfn)
		return false;
	p->huge_zero_pfn = base;
	return true;
}

/* A run that the scan calls present and huge: leave out the huge zero pages in
 * it, which PAGE_IS_PFNZERO does not cover. */
static int mark_huge(struct pass *p, uint64_t start, uint64_t end)
{
	while (start < end) {
		uint64_t edge = (start | (HUGE_BYTES - 1)) + 1, entry = 0;
		uint64_t stop = end < edge ? end : edge;
		ssize_t n = pagemap_read(p, start, &entry, 1);
		int ret;

		if (n < 0)
			return (int)n;
		if (n == 1 && entry & PM_PRESENT && !(entry & PM_EXCLUSIVE) &&
		    pfn_is_huge_zero(p, entry & PM_PFN)) {
			p->r->zero_pages += (stop - start) / TARGET_PAGE;
		} else {
			ret = mark(p->r, start, stop);
			if (ret < 0)
				return ret;
		}
		start = stop;
	}
	return 0;
}

static int pass_scan(struct pass *p, uint64_t start, uint64_t end)
{
	struct scan_region regions[SCAN_REGIONS];

	while (start < end) {
		uint64_t stop = end - start > TARGET_PAGEMAP_MAX * TARGET_PAGE
					? start + TARGET_PAGEMAP_MAX * TARGET_PAGE
					: end;
		struct scan_arg arg = {
			.size = sizeof(arg),
			.start = start,
			.end = stop,
			.vec = (uint64_t)(uintptr_t)regions,
			.vec_len = SCAN_REGIONS,
			.category_anyof_mask = SCAN_PRESENT | SCAN_SWAPPED,
			.return_mask = SCAN_PRESENT | SCAN_SWAPPED | SCAN_PFNZERO | SCAN_HUGE |
				       SCAN_FILE | p->scan_guard,
		};
		int n, i, e, ret = target_call_begin(p->t);

		if (ret < 0)
			return ret;
		n = ioctl(p->pagemap, SCAN_IOCTL, &arg);
		e = errno;
		target_call_end(p->t);
		if (n < 0 && e == EINTR)
			continue;
		if (n < 0)
			return -e;
		for (i = 0; i < n; i++) {
			struct scan_region *g = &regions[i];

			if (g->start < start || g->end > stop || g->end <= g->start)
				continue;
			if (g->categories & SCAN_SWAPPED && !(g->categories & SCAN_GUARD))
				p->r->swapped_pages += (g->end - g->start) / TARGET_PAGE;
			if (!(g->categories & SCAN_PRESENT))
				continue;
			if (g->categories & SCAN_PFNZERO) {
				p->r->zero_pages += (g->end - g->start) / TARGET_PAGE;
				continue;
			}
			ret = g->categories & SCAN_HUGE && !(g->categories & SCAN_FILE)
				      ? mark_huge(p, g->start, g->end)
				      : mark(p->r, g->start, g->end);
			if (ret < 0)
				return ret;
		}
		/* the kernel stops early when the vector is full */
		start = arg.walk_end > start && arg.walk_end <= stop ? arg.walk_end : stop;
	}
	return 0;
}

static int pass_words(struct pass *p, uint64_t start, uint64_t end)
{
	uint64_t v[8192];

	while (start < end) {
		size_t want = (size_t)((end - start) / TARGET_PAGE), i, run = 0;
		ssize_t n;

		if (want > sizeof(v) / sizeof(v[0]))
			want = sizeof(v) / sizeof(v[0]);
		n = pagemap_read(p, start, v, want);
		if (n == -EINTR)
			continue;
		if (n < 0)
			return (int)n;
		if (!n)
			break;
		for (i = 0; i <= (size_t)n; i++) {
			bool present = i < (size_t)n && v[i] & PM_PRESENT;
			int ret;

			if (i < (size_t)n && v[i] & PM_SWAPPED && !(v[i] & PM_GUARD) && !present)
				p->r->swapped_pages++;
			if (present && !(v[i] & (PM_EXCLUSIVE | PM_FILE)) && v[i] & PM_PFN &&
			    ((v[i] & PM_PFN) == p->zero_pfn ||
			     pfn_is_huge_zero(p, v[i] & PM_PFN))) {
				p->r->zero_pages++;
				present = false;
			}
			if (present) {
				run++;
				continue;
			}
			ret = run ? mark(p->r, start + (i - run) * TARGET_PAGE,
					 start + i * TARGET_PAGE)
				  : 0;
			if (ret < 0)
				return ret;
			run = 0;
		}
		start += (uint64_t)n * TARGET_PAGE;
	}
	return 0;
}

/* The frame number of the zero page, from a page of our own that was only read.
 * 0 when the kernel hides frame numbers from us. */
static uint64_t own_zero_pfn(void)
{
	volatile const char *page =
		mmap(NULL, TARGET_PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	uint64_t entry = 0;

	if (fd >= 0 && page != MAP_FAILED && page[0] == 0 &&
	    pread(fd, &entry, sizeof(entry),
		  (off_t)((uintptr_t)page / TARGET_PAGE * sizeof(entry))) != (ssize_t)sizeof(entry))
		entry = 0;
	if (fd >= 0)
		close(fd);
	if (page != MAP_FAILED)
		munmap((void *)page, TARGET_PAGE);
	return entry & PM_PRESENT ? entry & PM_PFN : 0;
}

/* Mappings whose pages the kernel does not count as Rss. */
static bool is_left_out(const struct mapping *m)
{
	return m->kind == MAPPING_HUGETLB || m->kind == MAPPING_DEVICE ||
	       strncmp(m->path, "[vvar", 5) == 0 || strncmp(m->path, "[vsyscall", 9) == 0 ||
	       m->end > ADDRESS_END;
}

static int pass_all(struct pass *p, const struct mappings *m, struct error *err)
{
	int (*pass)(struct pass *, uint64_t, uint64_t) = pass_scan;
	size_t i;

	p->r->method = ZERO_PAGES_BY_SCAN;
	for (i = 0; i < m->n; i++) {
		int ret;

		if (is_left_out(&m->v[i])) {
			p->r->skipped_bytes += m->v[i].end - m->v[i].start;
			continue;
		}
		ret = pass(p, m->v[i].start, m->v[i].end);
		if (pass == pass_scan && ret == -EINVAL && p->scan_guard) {
			/* before 6.15 that category is not known */
			p->scan_guard = 0;
			ret = pass(p, m->v[i].start, m->v[i].end);
		}
		if (pass == pass_scan && (ret == -ENOTTY || ret == -EINVAL)) {
			/* a kernel before 6.7 */
			pass = pass_words;
			p->r->method = p->zero_pfn ? ZERO_PAGES_BY_PFN : ZERO_PAGES_COUNTED;
			ret = pass(p, m->v[i].start, m->v[i].end);
		}
		if (ret == -ENOMEM || ret == -ETIMEDOUT)
			return ret;
		if (ret < 0)
			return error_set(err, error_exit_code(ret), ret,
					 "cannot read the page map of process %d: %s",
					 (int)target_pid(p->t), strerror(-ret));
	}
	return 0;
}

int residency_take(struct target *t, const struct mappings *m, struct residency **out,
		   struct error *err)
{
	struct residency *r = calloc(1, sizeof(*r));
	struct pass p = {
		.t = t, .r = r, .pagemap = -1, .kpageflags = -1, .scan_guard = SCAN_GUARD
	};
	int ret = 0;
	size_t i;

	*out = NULL;
	if (!r)
		return -ENOMEM;
	r->table = mmap(NULL, TABLE_SIZE * sizeof(*r->table), PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (r->table == MAP_FAILED) {
		free(r);
		return -ENOMEM;
	}
	if (target_is_buffers(t)) {
		for (i = 0; i < m->n && !ret; i++)
			if (m->v[i].end <= ADDRESS_END)
				ret = mark(r, m->v[i].start, m->v[i].end);
		r->method = ZERO_PAGES_BY_SCAN;
	} else {
		p.pagemap = target_proc_open(t, "pagemap");
		if (p.pagemap < 0) {
			ret = error_set(err, error_exit_code(p.pagemap), p.pagemap,
					"cannot open the page map of process %d: %s; run beamray as "
					"root (sudo) or with CAP_SYS_PTRACE, and for another user's "
					"process CAP_DAC_READ_SEARCH too",
					(int)target_pid(t), strerror(-p.pagemap));
		} else {
			p.zero_pfn = own_zero_pfn();
			if (p.zero_pfn)
				p.kpageflags = open("/proc/kpageflags", O_RDONLY | O_CLOEXEC);
			ret = pass_all(&p, m, err);
			close(p.pagemap);
			if (p.kpageflags >= 0)
				close(p.kpageflags);
		}
	}
	if (ret < 0) {
		residency_free(r);
		return ret;
	}
	*out = r;
	return 0;
}

void residency_free(struct residency *r)
{
	size_t i;

	if (!r)
		return;
	for (i = 0; i < r->n_chunks; i++)
		free(r->chunks[i]);
	free(r->chunks);
	munmap(r->table, TABLE_SIZE * sizeof(*r->table));
	free(r);
}

enum zero_page_method residency_method(const struct residency *r)
{
	return r->method;
}

bool residency_page(const struct residency *r, uint64_t addr)
{
	const struct chunk *c;
	uint64_t page;

	if (addr >= ADDRESS_END || !(c = r->table[addr >> CHUNK_SHIFT]))
		return false;
	page = (addr & (CHUNK_BYTES - 1)) / TARGET_PAGE;
	return c->bits[page / 64] >> page % 64 & 1;
}

/* Set pages in [start, end), both page aligned. */
static uint64_t count_pages(const struct residency *r, uint64_t start, uint64_t end)
{
	uint64_t n = 0;

	while (start < end) {
		uint64_t edge = (start | (CHUNK_BYTES - 1)) + 1;
		uint64_t stop = end < edge ? end : edge, page, last;
		const struct chunk *c = r->table[start >> CHUNK_SHIFT];

		if (c) {
			page = (start & (CHUNK_BYTES - 1)) / TARGET_PAGE;
			last = page + (stop - start) / TARGET_PAGE;
			while (page < last) {
				uint64_t k = 64 - page % 64, word = c->bits[page / 64] >> page % 64;

				if (k > last - page) {
					k = last - page;
					word &= (1ULL << k) - 1;
				}
				n += (uint64_t)__builtin_popcountll(word);
				page += k;
			}
		}
		start = stop;
	}
	return n;
}

uint64_t residency_bytes(const struct residency *r, uint64_t start, uint64_t end)
{
	uint64_t first = start & ~(TARGET_PAGE - 1), last;
	uint64_t n;

	if (end > ADDRESS_END)
		end = ADDRESS_END;
	if (start >= end)
		return 0;
	last = (end - 1) & ~(TARGET_PAGE - 1);
	if (first == last)
		return residency_page(r, first) ? end - start : 0;
	n = residency_page(r, first) ? first + TARGET_PAGE - start : 0;
	n += residency_page(r, last) ? end - last : 0;
	return n + count_pages(r, first + TARGET_PAGE, last) * TARGET_PAGE;
}

uint64_t residency_whole_pages(const struct residency *r, uint64_t start, uint64_t end)
{
	uint64_t first, last;

	if (end > ADDRESS_END)
		end = ADDRESS_END;
	if (start >= end)
		return 0;
	first = (start + TARGET_PAGE - 1) & ~(TARGET_PAGE - 1);
	last = end & ~(TARGET_PAGE - 1);
	return first < last ? count_pages(r, first, last) * TARGET_PAGE : 0;
}

uint64_t residency_run(const struct residency *r, uint64_t addr, uint64_t limit, bool *present)
{
	uint64_t at = addr & ~(TARGET_PAGE - 1);

	*present = residency_page(r, addr);
	while (at < limit) {
		const struct chunk *c = at < ADDRESS_END ? r->table[at >> CHUNK_SHIFT] : NULL;
		uint64_t page, word;

		if (!c) {
			if (*present)
				break;
			at = (at | (CHUNK_BYTES - 1)) + 1;
			continue;
		}
		page = (at & (CHUNK_BYTES - 1)) / TARGET_PAGE;
		word = c->bits[page / 64];
		if (*present)
			word = ~word; /* the run ends at the first bit of the other kind */
		word >>= page % 64;
		if (word) {
			at += (uint64_t)__builtin_ctzll(word) * TARGET_PAGE;
			break;
		}
		at += (64 - page % 64) * TARGET_PAGE;
	}
	return at < limit ? at : limit;
}

uint64_t residency_total(const struct residency *r)
{
	return r->pages * TARGET_PAGE;
}

uint64_t residency_swapped(const struct residency *r)
{
	return r->swapped_pages * TARGET_PAGE;
}

uint64_t residency_zero(const struct residency *r)
{
	return r->zero_pages * TARGET_PAGE;
}

uint64_t residency_skipped(const struct residency *r)
{
	return r->skipped_bytes;
}

ssize_t residency_read(const struct residency *r, struct target *t, uint64_t addr, void *buf,
		       size_t len)
{
	uint64_t at = addr, end = addr + len;
	size_t got = 0;

	if (end < addr)
		return -EFAULT;
	while (at < end) {
		bool present;
		uint64_t stop = residency_run(r, at, end, &present);
		char *to = (char *)buf + (at - addr);

		if (present) {
			int ret = target_read(t, at, to, (size_t)(stop - at));

			if (ret < 0)
				return ret;
			got += (size_t)(stop - at);
		} else {
			memset(to, 0, (size_t)(stop - at));
		}
		at = stop;
	}
	return (ssize_t)got;
}
