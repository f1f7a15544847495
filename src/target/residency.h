/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which pages of a target are in memory: one pass over its pagemap.
 *
 * "Resident" is what smaps calls Rss, page by page: present, minus zero pages,
 * minus pages that the kernel does not count (device mappings, hugetlb). The
 * result of the pass is kept as one bit a page in chunks that exist only where
 * something is present, so that every account of the ledger is cut from the
 * same picture and their sum is its sum.
 */
#ifndef BEAMRAY_TARGET_RESIDENCY_H
#define BEAMRAY_TARGET_RESIDENCY_H

#include "target/mappings.h"

struct residency;

enum zero_page_method {
	ZERO_PAGES_BY_SCAN, /* PAGEMAP_SCAN's PAGE_IS_PFNZERO (6.7+) */
	ZERO_PAGES_BY_PFN,  /* our own zero page's PFN (CAP_SYS_ADMIN) */
	ZERO_PAGES_COUNTED, /* neither: anonymous zero pages may be counted as resident */
};

/* One pass over the mappings. Device and hugetlb mappings are left out.
 * Errors: -EACCES, -ESRCH, -ETIMEDOUT, -ENOMEM. */
int residency_take(struct target *t, const struct mappings *m, struct residency **out,
		   struct error *err);
void residency_free(struct residency *r);

enum zero_page_method residency_method(const struct residency *r);

/* Bytes of [start, end) that lie in resident pages; the ends need not be page
 * aligned. */
uint64_t residency_bytes(const struct residency *r, uint64_t start, uint64_t end);
/* Bytes of the whole pages inside [start, end) that are resident: what could
 * be given back if nothing in the range were needed. */
uint64_t residency_whole_pages(const struct residency *r, uint64_t start, uint64_t end);
bool residency_page(const struct residency *r, uint64_t addr);
/* The run of equal pages at `addr`: returns its end (<= limit) and says in
 * *present which kind it is. For loops over ranges without a call per page. */
uint64_t residency_run(const struct residency *r, uint64_t addr, uint64_t limit, bool *present);

uint64_t residency_total(const struct residency *r);   /* bytes: the ledger's os.rss */
uint64_t residency_swapped(const struct residency *r); /* bytes, whole target */
uint64_t residency_zero(const struct residency *r);    /* bytes of zero pages left out */
uint64_t residency_skipped(const struct residency *r); /* bytes of mappings left out */

/* Reads [addr, addr+len) into buf; pages that are not resident are not touched
 * and come back as zeroes (looking must not swap in). Returns the bytes that
 * were really read, or -EFAULT if a page that was resident has gone (`buf` then
 * holds what came before it), or another negative errno. */
ssize_t residency_read(const struct residency *r, struct target *t, uint64_t addr, void *buf,
		       size_t len);

#endif
