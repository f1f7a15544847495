/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads of a VM's memory, and its atoms.
 *
 * An atom is an index into erts_atom_table, an IndexTable of two levels:
 *
 *	seg_table[i >> 10][i & 1023] -> Atom { index, len, latin1_chars, name }
 *
 * The text is UTF-8 in every release from 23 on (atom.h); a Latin-1 atom is
 * stored as UTF-8 too and only remembers how many characters it has. Up to 27
 * `name` points to the text. From 28 on it is a term: a heap bitstring
 * {header, bits, text} in the literal area, or, above 64 bytes, an ErlSubBits
 * whose base points to the text.
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "erts/vm_cache.h"
#include "erts/vm_private.h"
#include "target/escape.h"

/* MAX_ATOM_SZ_LIMIT of atom.h: 255 characters of four bytes. */
#define ATOM_TEXT_MAX (4 * 255)
#define INDEX_SHIFT   10 /* INDEX_PAGE_SHIFT of index.h, every release */

/* Read-only data of the executable, from its file: true whether its page is
 * resident or not, and nothing becomes resident by asking. */
static bool file_read(struct vm *vm, uint64_t addr, void *buf, size_t len)
{
	const struct mapping *m;

	if (vm->exe_fd < 0 || !image_holds(vm->exe, addr))
		return false;
	m = mappings_find(vm->maps, addr);
	return m && m->kind == MAPPING_FILE && !m->write && len <= m->end - addr &&
	       pread(vm->exe_fd, buf, len, (off_t)(m->offset + (addr - m->start))) == (ssize_t)len;
}

int vm_read(struct vm *vm, uint64_t addr, void *buf, size_t len)
{
	if (vm->cache && len <= VM_CACHE_READ_MAX) {
		int ret = vm_cache_read(vm->cache, vm, addr, buf, len);

		if (ret != -ENODATA)
			return ret;
	}
	if (vm->res) {
		uint64_t end;
		bool present = false;

		if (addr + len < addr)
			return -EFAULT;
		if (len == 0)
			return 0;
		end = residency_run(vm->res, addr, addr + len, &present);
		/* Not in the picture: in a file, or newer than the picture. */
		if (!present || end < addr + len) {
			if (file_read(vm, addr, buf, len))
				return 0;
			if (!target_present_now(vm->target, addr, len))
				return -ENODATA;
		}
	}
	return target_read(vm->target, addr, buf, len);
}

int vm_read_u64(struct vm *vm, uint64_t addr, uint64_t *out)
{
	return vm_read(vm, addr, out, sizeof(*out));
}

int vm_read_u32(struct vm *vm, uint64_t addr, uint32_t *out)
{
	return vm_read(vm, addr, out, sizeof(*out));
}

ssize_t vm_read_string(struct vm *vm, uint64_t addr, char *buf, size_t size)
{
	size_t len = 0;

	/* Page by page: what follows the string's end may not be there. */
	while (len + 1 < size) {
		size_t n = (size_t)(TARGET_PAGE - (addr + len) % TARGET_PAGE);
		const char *end;
		int ret;

		if (n > size - 1 - len)
			n = size - 1 - len;
		ret = vm_read(vm, addr + len, buf + len, n);
		if (ret) {
			buf[len] = '\0';
			return ret;
		}
		end = memchr(buf + len, '\0', n);
		if (end)
			return end - buf;
		len += n;
	}
	if (size)
		buf[len] = '\0';
	return -ENAMETOOLONG;
}

/* Those that may be read are moved to the front, and back to their places after. */
#define PIECES_MAX 1024

static bool piece_present(struct vm *vm, const struct target_piece *p)
{
	bool present = true;

	if (!vm->res || !p->len)
		return true;
	if (p->addr + p->len < p->addr)
		return false;
	if (residency_run(vm->res, p->addr, p->addr + p->len, &present) >= p->addr + p->len &&
	    present)
		return true;
	return target_present_now(vm->target, p->addr, p->len);
}

int vm_read_pieces(struct vm *vm, struct target_piece *v, size_t n)
{
	struct target_piece some[PIECES_MAX];
	size_t from[PIECES_MAX], at = 0, many, i;
	int ret;

	while (at < n) {
		for (many = 0; at < n && many < PIECES_MAX; at++) {
			v[at].ret = -ENODATA;
			if (!piece_present(vm, &v[at]))
				continue;
			from[many] = at;
			some[many++] = v[at];
		}
		ret = target_read_pieces(vm->target, some, many);
		if (ret)
			return ret;
		for (i = 0; i < many; i++)
			v[from[i]].ret = some[i].ret;
	}
	return 0;
}

static bool word_sized(struct layout_field f)
{
	return f.size == 1 || f.size == 2 || f.size == 4 || f.size == 8;
}

int vm_read_field(struct vm *vm, uint64_t base, struct layout_field f, uint64_t *out)
{
	unsigned char bytes[8] = { 0 };
	int ret;

	*out = 0;
	if (!layout_has(f) || !word_sized(f))
		return -ENOENT;
	ret = vm_read(vm, base + (uint64_t)f.offset, bytes, f.size);
	if (ret == 0)
		memcpy(out, bytes, sizeof(bytes)); /* little endian */
	return ret;
}

bool vm_field(const void *copy, size_t size, struct layout_field f, uint64_t *out)
{
	*out = 0;
	if (!layout_has(f) || !word_sized(f) || (size_t)f.offset > size ||
	    f.size > size - (size_t)f.offset)
		return false;
	memcpy(out, (const char *)copy + f.offset, f.size);
	return true;
}

typedef int (*read_fn)(void *ctx, uint64_t addr, void *buf, size_t len);

/* Address of the text that a bitstring term holds, and its length in bytes. */
static int bitstring_text(read_fn read, void *ctx, const struct layout *l, uint64_t term,
			  uint64_t *text, uint64_t *len)
{
	/* TAG_PTR_MASK__ is 7 on 64 bits: 2 tag bits and the literal bit */
	uint64_t mask = layout_has_const(l->tag_ptr_mask) ? (uint64_t)l->tag_ptr_mask : 7;
	uint64_t heap_tag = layout_has_const(l->tag_header_heap_bits)
				    ? (uint64_t)l->tag_header_heap_bits
				    : UINT64_MAX;
	uint64_t addr = term & ~mask, w[5];
	int ret;

	if ((term & 3) != 2) /* TAG_PRIMARY_BOXED */
		return -EINVAL;
	ret = read(ctx, addr, w, 16);
	if (ret)
		return ret;
	/* Subtags are six bits. A heap bitstring's header counts the words of
	 * its text and of the size word; nothing else does when the size is its
	 * own. */
	if (heap_tag == UINT64_MAX ? (w[0] >> 6) == 1 + (w[1] + 63) / 64
				   : (w[0] & 0x3f) == heap_tag) {
		*text = addr + 16;
		*len = w[1] / 8;
		return w[1] % 8 ? -EINVAL : 0;
	}
	/* ErlSubBits: base_flags (two low bits are flags), start, end in bits */
	ret = read(ctx, addr, w, sizeof(w));
	if (ret)
		return ret;
	if (w[2] % 8 || w[3] % 8 || w[3] < w[2])
		return -EINVAL;
	*text = (w[1] & ~3ULL) + w[2] / 8;
	*len = (w[3] - w[2]) / 8;
	return 0;
}

static ssize_t text_read(read_fn read, void *ctx, const struct layout *l, uint64_t table,
			 uint64_t index, char *buf, size_t size)
{
	unsigned shift = layout_has_const(l->index_page_shift) && l->index_page_shift > 0 &&
					 l->index_page_shift < 24
				 ? (unsigned)l->index_page_shift
				 : INDEX_SHIFT;
	uint64_t segs, seg, atom, text, len = 0;
	uint32_t entries;
	uint16_t atom_len;
	int ret;

	if (!layout_has(l->IndexTable__entries) || !layout_has(l->IndexTable__seg_table) ||
	    !layout_has(l->Atom__len))
		return -ENOENT;
	ret = read(ctx, table + (uint64_t)l->IndexTable__entries.offset, &entries, 4);
	if (ret)
		return ret;
	if (index >= entries)
		return -ENOENT;
	ret = read(ctx, table + (uint64_t)l->IndexTable__seg_table.offset, &segs, 8);
	if (!ret)
		ret = read(ctx, segs + (index >> shift) * 8, &seg, 8);
	if (!ret)
		ret = read(ctx, seg + (index & ((1ULL << shift) - 1)) * 8, &atom, 8);
	if (!ret)
		ret = read(ctx, atom + (uint64_t)l->Atom__len.offset, &atom_len, 2);
	if (ret)
		return ret;
	if (atom_len > ATOM_TEXT_MAX)
		return -EFAULT;
	if (layout_has(l->Atom__u_bin)) {
		uint64_t term;

		ret = read(ctx, atom + (uint64_t)l->Atom__u_bin.offset, &term, 8);
		if (!ret)
			ret = bitstring_text(read, ctx, l, term, &text, &len);
		if (ret)
			return ret == -EINVAL ? -EFAULT : ret;
		if (len != atom_len)
			return -EFAULT;
	} else {
		if (!layout_has(l->Atom__name))
			return -ENOENT;
		ret = read(ctx, atom + (uint64_t)l->Atom__name.offset, &text, 8);
		if (ret)
			return ret;
		len = atom_len;
	}
	if (len > size)
		return -ENAMETOOLONG;
	ret = len ? read(ctx, text, buf, len) : 0;
	return ret ? ret : (ssize_t)len;
}

static int read_target(void *ctx, uint64_t addr, void *buf, size_t len)
{
	return target_read(ctx, addr, buf, len);
}

static int read_vm(void *ctx, uint64_t addr, void *buf, size_t len)
{
	return vm_read(ctx, addr, buf, len);
}

ssize_t atom_text(struct target *t, const struct layout *l, uint64_t table, uint64_t index,
		  char *buf, size_t size)
{
	return text_read(read_target, t, l, table, index, buf, size);
}

ssize_t vm_atom_raw(struct vm *vm, uint64_t index, char *buf, size_t size)
{
	ssize_t len;

	if (!vm->anchors.v[A_ATOM_TABLE].addr)
		return -ENOENT;
	len = text_read(read_vm, vm, vm->layout, vm->anchors.v[A_ATOM_TABLE].addr, index, buf,
			size);
	return len == -ENODATA ? -EFAULT : len;
}

ssize_t vm_atom(struct vm *vm, uint64_t index, char *buf, size_t size)
{
	char raw[ATOM_TEXT_MAX];
	ssize_t len = vm_atom_raw(vm, index, raw, sizeof(raw));

	return len < 0 ? len : (ssize_t)escape_text(buf, size, raw, (size_t)len);
}

static bool needs_no_quotes(const char *text)
{
	const char *c = text;

	for (; *c; c++)
		if (!((*c >= 'a' && *c <= 'z') || (*c >= 'A' && *c <= 'Z') ||
		      (*c >= '0' && *c <= '9') || *c == '_' || *c == '@'))
			return false;
	return *text >= 'a' && *text <= 'z';
}

ssize_t vm_atom_quoted(struct vm *vm, uint64_t index, char *buf, size_t size)
{
	ssize_t n;

	if (size < 4)
		return -ENAMETOOLONG;
	n = vm_atom(vm, index, buf + 1, size - 2);
	if (n < 0)
		return n;
	if (needs_no_quotes(buf + 1)) {
		memmove(buf, buf + 1, (size_t)n + 1);
		return n;
	}
	buf[0] = '\'';
	buf[n + 1] = '\'';
	buf[n + 2] = '\0';
	return n + 2;
}
