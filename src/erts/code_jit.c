/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The gdb JIT descriptor of a BeamAsm VM.
 *
 * gdb's interface for JIT compilers is one global with a list behind it. ERTS
 * (beam_jit_metadata.cpp, OTP 25 to 29) adds an entry for every module it
 * loads, whether or not a debugger is there:
 *
 *   __jit_debug_descriptor      entry (malloc)         symfile (malloc, `size` bytes)
 *   +------------+          +--> +----------+      +--> +0  u32 kind
 *   | version  1 |          |    | next     |--->  |    +8  kind 0: int frame layout
 *   | action     |          |    | prev     |      |    +16         void *normal_exit
 *   | relevant   |          |    | symfile  |------+
 *   | first      |----------+    | size     |           +8  kind 1: u64 base
 *   +------------+               +----------+           +16         u32 ranges
 *                                                       +20         u32 code bytes
 *   range: u32 start, end, lines; u16 length            +24         u16 length of name
 *          name at +14; padded to 16 + length           +26         name, with NUL
 *   line:  u32 offset, u32 line, u16 length             +32 + length: the ranges,
 *          file at +10; padded to 12 + length                         lines behind each
 *
 * All offsets are from base; nothing is aligned; texts are counted with their
 * NUL. A function comes as two ranges, "m:f/1-CodeInfoPrologue" and "m:f/1",
 * which are joined here; "m::codeHeader" and "m::codeFooter" surround them.
 * The VM's own fragments are a module named "global".
 *
 * OTP 25 never takes entries away, so that new code may overlap the entry of
 * code that was purged: the one nearer to the head is newer and right. From 27
 * on an entry is unlinked and freed when its module is purged, perhaps while
 * we read it. What is trusted: an entry whose prev leads back, a payload
 * whose parse consumes exactly `size` bytes, and both only when the entry still
 * says the same after the payload was read.
 */
#include "erts/code_store.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { SYMFILE_INFO = 0, SYMFILE_MODULE = 1 };

struct entry {
	uint64_t next, prev, symfile, size;
};

static uint32_t get_u32(const unsigned char *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

static uint64_t get_u64(const unsigned char *p)
{
	uint64_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

static uint16_t get_u16(const unsigned char *p)
{
	uint16_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

/* An unreadable piece of a list may be one that was freed: look again. */
static int torn(int ret)
{
	return ret == -EFAULT ? -EAGAIN : ret;
}

bool code_candidate_is(const struct code_candidate *k, const struct code_module *m)
{
	return m->entry == k->entry && m->symfile == k->symfile && m->size == k->size &&
	       m->head_len == k->head_len && memcmp(m->head, k->head, k->head_len) == 0;
}

bool code_jit_extent(const struct code_candidate *k, uint64_t *start, uint64_t *end)
{
	if (k->head_len < 24 || get_u32(k->head) != SYMFILE_MODULE)
		return false;
	*start = get_u64(k->head + 8);
	*end = *start + get_u32(k->head + 20);
	return *start && *end > *start;
}

int code_jit_list(struct vm *vm, uint64_t descriptor, const struct code_module *known, bool *met,
		  struct code_candidates *out)
{
	struct {
		uint32_t version, action;
		uint64_t relevant, first;
	} d;
	uint64_t addr, before = 0;
	size_t allocated = 0;
	int ret;

	memset(out, 0, sizeof(*out));
	out->ordered = true;
	*met = false;
	ret = vm_read(vm, descriptor, &d, sizeof(d));
	if (ret)
		return ret;
	if (d.version != 1 || d.action > 2)
		return -ENOTSUP;
	for (addr = d.first; addr;) {
		struct code_candidate *k;
		struct entry e;

		if (out->n >= CODE_ENTRIES_MAX) {
			ret = -EAGAIN; /* a cycle, most likely */
			goto fail;
		}
		ret = torn(vm_read(vm, addr, &e, sizeof(e)));
		if (ret)
			goto fail;
		/* The first one's prev is not always reset when entries go. */
		if ((before && e.prev != before) || e.next == addr || !e.symfile || e.size < 16 ||
		    e.size > CODE_SYMFILE_MAX) {
			ret = -EAGAIN;
			goto fail;
		}
		if (out->n == allocated) {
			size_t more = allocated ? allocated * 2 : 256;
			struct code_candidate *v = realloc(out->v, more * sizeof(*v));

			if (!v) {
				ret = -ENOMEM;
				goto fail;
			}
			out->v = v;
			allocated = more;
		}
		k = &out->v[out->n];
		memset(k, 0, sizeof(*k));
		k->entry = addr;
		k->symfile = e.symfile;
		k->size = e.size;
		k->head_len = e.size < CODE_HEAD ? (uint32_t)e.size : CODE_HEAD;
		ret = torn(vm_read(vm, e.symfile, k->head, k->head_len));
		/* Not resident: known to be there, and a gap when it is loaded. */
		if (ret && ret != -ENODATA)
			goto fail;
		if (known && code_candidate_is(k, known)) {
			*met = true;
			return 0;
		}
		out->n++;
		before = addr;
		addr = e.next;
	}
	return 0;
fail:
	free(out->v);
	memset(out, 0, sizeof(*out));
	return ret;
}

/* The length of a text without the NUL that is counted in; -1 if that is not
 * where it should be. */
static ssize_t text_length(const unsigned char *text, size_t len)
{
	if (!len)
		return 0;
	return memchr(text, '\0', len) == text + len - 1 ? (ssize_t)len - 1 : -1;
}

static int parse_ranges(struct code_builder *b, const unsigned char *data, size_t size, size_t at,
			uint32_t n, uint32_t code_size)
{
	uint32_t i, j;

	for (i = 0; i < n; i++) {
		const unsigned char *r = data + at;
		uint32_t start, end, lines, len;
		ssize_t text;

		if (size - at < 16)
			return -EAGAIN;
		start = get_u32(r);
		end = get_u32(r + 4);
		lines = get_u32(r + 8);
		len = get_u16(r + 12);
		if (start > end || end > code_size || len > size - at - 16)
			return -EAGAIN;
		text = text_length(r + 14, len);
		if (text < 0)
			return -EAGAIN;
		at += 16 + len;
		builder_func(b, start, end, (const char *)r + 14, (size_t)text);
		if (lines > (size - at) / 12)
			return -EAGAIN;
		for (j = 0; j < lines; j++) {
			const unsigned char *l = data + at;

			if (size - at < 12)
				return -EAGAIN;
			len = get_u16(l + 8);
			if (len > size - at - 12)
				return -EAGAIN;
			text = text_length(l + 10, len);
			if (text < 0)
				return -EAGAIN;
			at += 12 + len;
			builder_line(b, get_u32(l), text ? (const char *)l + 10 : NULL,
				     (size_t)text, get_u32(l + 4));
		}
		if (b->error)
			return b->error;
	}
	return at == size ? 0 : -EAGAIN;
}

int code_jit_parse(struct code_builder *b, const unsigned char *data, size_t size,
		   struct code_module **out, struct code_jit_header *header)
{
	uint32_t n, code_size, len;
	uint64_t base;
	ssize_t text;
	int ret;

	*out = NULL;
	if (size < 24)
		return -EAGAIN;
	switch (get_u32(data)) {
	case SYMFILE_INFO:
		/* the struct is a union of both kinds: 24 bytes and some padding */
		if (size > 64 || get_u32(data + 8) > 1)
			return -EAGAIN;
		header->layout = get_u32(data + 8) ? CODE_FRAME_FP_RA : CODE_FRAME_RA;
		header->normal_exit = get_u64(data + 16);
		return 0;
	case SYMFILE_MODULE:
		break;
	default:
		return -EAGAIN;
	}
	if (size < 32)
		return -EAGAIN;
	base = get_u64(data + 8);
	n = get_u32(data + 16);
	code_size = get_u32(data + 20);
	len = get_u16(data + 24);
	if (!base || base + code_size < base || len > size - 32 || n > (size - 32 - len) / 16)
		return -EAGAIN;
	text = text_length(data + 26, len);
	if (text < 0)
		return -EAGAIN;
	builder_reset(b);
	builder_string(b, (const char *)data + 26, (size_t)text);
	ret = parse_ranges(b, data, size, 32 + len, n, code_size);
	if (ret)
		return ret;
	*out = builder_finish(b, base, code_size);
	return *out ? 0 : b->error;
}

int code_jit_load(struct vm *vm, const struct code_candidate *k, struct code_builder *b,
		  unsigned char **buf, size_t *buf_size, struct code_module **out,
		  struct code_jit_header *header)
{
	struct code_jit_header info = *header;
	struct entry e;
	int ret;

	*out = NULL;
	if (k->size > *buf_size) {
		unsigned char *larger = realloc(*buf, k->size);

		if (!larger)
			return -ENOMEM;
		*buf = larger;
		*buf_size = k->size;
	}
	ret = torn(vm_read(vm, k->symfile, *buf, k->size));
	if (ret)
		return ret;
	ret = code_jit_parse(b, *buf, k->size, out, &info);
	if (ret)
		return ret;
	ret = torn(vm_read(vm, k->entry, &e, sizeof(e)));
	if (!ret && (e.symfile != k->symfile || e.size != k->size ||
		     memcmp(*buf, k->head, k->head_len) != 0))
		ret = -EAGAIN;
	if (ret) {
		code_module_free(*out);
		*out = NULL;
		return ret;
	}
	*header = info;
	return 0;
}

ssize_t code_jit_memory(struct vm *vm, uint64_t **out)
{
	uint64_t descriptor = vm->anchors.v[A_JIT_DESCRIPTOR].addr;
	struct code_candidates k = { NULL, 0, false };
	int attempt, ret = descriptor ? -EAGAIN : 0;
	bool met;
	size_t i;

	*out = NULL;
	for (attempt = 0; attempt < CODE_TRIES && ret == -EAGAIN; attempt++)
		ret = code_jit_list(vm, descriptor, NULL, &met, &k);
	if (ret || !k.n)
		return ret;
	*out = malloc(2 * k.n * sizeof(**out));
	for (i = 0; *out && i < k.n; i++) {
		(*out)[2 * i] = k.v[i].entry;
		(*out)[2 * i + 1] = k.v[i].symfile;
	}
	free(k.v);
	return *out ? (ssize_t)(2 * i) : -ENOMEM;
}
