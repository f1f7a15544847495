/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A private copy of the parts of beam.smp that hold data.
 *
 *	file	[ headers .rodata | .text | .data.rel.ro .data ]
 *	memory	[ headers .rodata | .text | .data.rel.ro .data .bss ]
 *		  \__ from the file __/     \___ from memory ___/
 *
 * Signatures look at every word of a few hundred KiB several times over; that
 * is done here, on a copy, and not by a system call a word. Three things are
 * worth knowing:
 *
 * - The kernel splits and merges mappings as it likes (RELRO makes two of one
 *   segment, .bss may melt into the mapping behind it). Pieces follow PT_LOAD,
 *   not /proc/PID/maps, so that no object straddles two of them.
 * - Reading a page of the target that it never touched would make it resident
 *   there. Pages that are neither present nor swapped out are taken from the
 *   file (or are zero, in .bss): the target stays as large as it was.
 * - The copy ages. It serves to find addresses, never to report values.
 */
#include "erts/anchors_find.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PAGEMAP_PRESENT (1ULL << 63)
#define PAGEMAP_SWAPPED (1ULL << 62)

/* Bytes of the executable's file at a run-time address, through the mapping
 * that shows them. Returns how many were read. */
static size_t file_read(const struct image_copy *c, uint64_t addr, void *buf, size_t len)
{
	size_t done = 0;

	while (c->fd >= 0 && done < len) {
		const struct mapping *m = mappings_find(c->maps, addr + done);
		uint64_t left;
		ssize_t got;

		if (!m || m->kind != MAPPING_FILE)
			break;
		left = m->end - (addr + done);
		if (left > len - done)
			left = len - done;
		got = pread(c->fd, (char *)buf + done, left,
			    (off_t)(m->offset + (addr + done - m->start)));
		if (got <= 0)
			break;
		done += (size_t)got;
	}
	return done;
}

/* One writable segment: from memory where the target has it, else from the
 * file, else zero. */
static int piece_read(struct image_copy *c, struct image_piece *p)
{
	size_t pages = (p->end - p->start) / TARGET_PAGE;
	uint64_t *map = calloc(pages, sizeof(*map));
	bool known = false;
	int fd, ret = 0;

	if (!map)
		return -ENOMEM;
	fd = target_proc_open(c->target, "pagemap");
	if (fd >= 0) {
		size_t want = pages * sizeof(*map);
		ssize_t got = -1;

		if (pages <= TARGET_PAGEMAP_MAX && target_call_begin(c->target) == 0) {
			got = pread(fd, map, want, (off_t)(p->start / TARGET_PAGE * sizeof(*map)));
			target_call_end(c->target);
		}
		known = got == (ssize_t)want;
		close(fd);
	}
	for (size_t i = 0; i < pages;) {
		bool there = !known || (map[i] & (PAGEMAP_PRESENT | PAGEMAP_SWAPPED));
		uint64_t addr = p->start + i * TARGET_PAGE;
		unsigned char *to = p->data + i * TARGET_PAGE;
		size_t n = 1, bytes;

		while (i + n < pages &&
		       (!known || !!(map[i + n] & (PAGEMAP_PRESENT | PAGEMAP_SWAPPED)) == there))
			n++;
		bytes = n * TARGET_PAGE;
		if (there) {
			ssize_t got = target_read_some(c->target, addr, to, bytes);

			/* A hole inside a segment is odd but harmless: it stays
			 * zero and no anchor is found there. */
			if (got < 0 && got != -EFAULT) {
				ret = (int)got;
				break;
			}
			if (got >= 0 && (size_t)got < bytes)
				n = (size_t)got / TARGET_PAGE + 1;
		} else {
			size_t from_file = addr < p->file_end ? file_read(c, addr, to, bytes) : 0;

			memset(to + from_file, 0, bytes - from_file);
		}
		i += n;
	}
	free(map);
	return ret;
}

int image_copy_take(struct target *t, const struct mappings *maps, struct image *image,
		    struct image_copy *out, struct error *err)
{
	const struct image_segment *seg;
	uint64_t total = 0;
	size_t n;
	int ret = 0;

	memset(out, 0, sizeof(*out));
	out->target = t;
	out->maps = maps;
	out->image = image;
	out->fd = image_open(image);
	if (out->fd < 0)
		out->fd = -1;
	seg = image_segments(image, &n);
	for (size_t i = 0; i < n && ret == 0; i++) {
		struct image_piece *p;
		uint64_t start = seg[i].start, end = seg[i].end, size, from, to;

		if (seg[i].exec)
			continue;
		/* Of read-only data only strings and constants, not .eh_frame or
		 * relocations, where the section headers tell. */
		if (!seg[i].write && image_section(image, ".rodata", &from, &to)) {
			from &= ~(TARGET_PAGE - 1);
			to = (to + TARGET_PAGE - 1) & ~(TARGET_PAGE - 1);
			start = from > start ? from : start;
			end = to < end ? to : end;
		}
		if (end <= start)
			continue;
		size = end - start;
		if (out->n == IMAGE_PIECES_MAX || size > IMAGE_BYTES_MAX - total) {
			ret = error_set(err, EXIT_UNSUPPORTED, -E2BIG,
					"The executable has more data than a BEAM can have.");
			break;
		}
		total += size;
		p = &out->v[out->n];
		p->start = start;
		p->end = end;
		p->file_end = seg[i].file_end;
		p->write = seg[i].write;
		p->data = calloc(1, size);
		if (!p->data) {
			ret = error_set(err, EXIT_INCOMPLETE, -ENOMEM, "Out of memory.");
			break;
		}
		out->n++;
		/* Read-only data is the same in the file; where that cannot be
		 * opened it is read like the rest. */
		if (!p->write && file_read(out, p->start, p->data, size) == size)
			continue;
		ret = piece_read(out, p);
		if (ret)
			error_set(err, error_exit_code(ret), ret,
				  "The executable's data cannot be read: %s.", strerror(-ret));
	}
	if (ret)
		image_copy_free(out);
	return ret;
}

int image_copy_refresh(struct image_copy *c)
{
	int ret = 0;

	for (size_t i = 0; i < c->n && ret == 0; i++)
		if (c->v[i].write)
			ret = piece_read(c, &c->v[i]);
	return ret;
}

void image_copy_free(struct image_copy *c)
{
	if (!c)
		return;
	for (size_t i = 0; i < c->n; i++)
		free(c->v[i].data);
	if (c->fd >= 0)
		close(c->fd);
	c->n = 0;
	c->fd = -1;
}

const void *image_copy_at(const struct image_copy *c, uint64_t addr, size_t len)
{
	for (size_t i = 0; i < c->n; i++) {
		const struct image_piece *p = &c->v[i];

		if (addr >= p->start && addr < p->end)
			return len <= p->end - addr ? p->data + (addr - p->start) : NULL;
	}
	return NULL;
}

bool image_copy_u64(const struct image_copy *c, uint64_t addr, uint64_t *out)
{
	const void *p = image_copy_at(c, addr, sizeof(*out));

	if (p)
		memcpy(out, p, sizeof(*out));
	return p;
}

bool image_copy_u32(const struct image_copy *c, uint64_t addr, uint32_t *out)
{
	const void *p = image_copy_at(c, addr, sizeof(*out));

	if (p)
		memcpy(out, p, sizeof(*out));
	return p;
}

const char *image_copy_string(const struct image_copy *c, uint64_t addr)
{
	for (size_t i = 0; i < c->n; i++) {
		const struct image_piece *p = &c->v[i];

		if (addr >= p->start && addr < p->end) {
			const unsigned char *s = p->data + (addr - p->start);

			return memchr(s, 0, p->end - addr) ? (const char *)s : NULL;
		}
	}
	return NULL;
}

uint64_t image_copy_find(const struct image_copy *c, const void *bytes, size_t len, bool write,
			 uint64_t after)
{
	uint64_t best = 0;

	for (size_t i = 0; i < c->n; i++) {
		const struct image_piece *p = &c->v[i];
		uint64_t from = p->start;
		const unsigned char *hit;

		if ((p->write && !write) || p->end <= after)
			continue;
		if (after >= from)
			from = after + 1;
		hit = memmem(p->data + (from - p->start), p->end - from, bytes, len);
		if (hit && (!best || p->start + (uint64_t)(hit - p->data) < best))
			best = p->start + (uint64_t)(hit - p->data);
	}
	return best;
}

uint64_t image_copy_find_word(const struct image_copy *c, uint64_t value, uint64_t after)
{
	uint64_t best = 0;

	for (size_t i = 0; i < c->n; i++) {
		const struct image_piece *p = &c->v[i];
		size_t at = 0;

		if (!p->write || p->end <= after)
			continue;
		if (after >= p->start)
			at = (after - p->start) / 8 * 8 + 8;
		for (; at + 8 <= p->end - p->start; at += 8) {
			uint64_t word;

			memcpy(&word, p->data + at, 8);
			if (word != value)
				continue;
			if (!best || p->start + at < best)
				best = p->start + at;
			break;
		}
	}
	return best;
}

const struct image_piece *image_copy_data(const struct image_copy *c, uint64_t addr)
{
	for (size_t i = 0; i < c->n; i++)
		if (c->v[i].write && addr >= c->v[i].start && addr < c->v[i].end)
			return &c->v[i];
	return NULL;
}

ssize_t image_copy_code(const struct image_copy *c, uint64_t addr, void *buf, size_t len)
{
	size_t got = file_read(c, addr, buf, len);

	return got ? (ssize_t)got : target_read_some(c->target, addr, buf, len);
}
