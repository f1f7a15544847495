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
	if (vm->res) {
		uint64_t end;
		bool present = false;

		if (addr + len < addr)
			return -EFAULT;
		if (len == 0)
			return 0;
		end = residency_run(vm->res, addr, addr + len, &present);
		if (!present || end < addr + len)
			return file_read(vm, addr, buf, len) ? 0 : -ENODATA;
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

ssize_t vm_atom(struct vm *vm, uint64_t index, char *buf, size_t size)
{
	char raw[ATOM_TEXT_MAX];
	ssize_t len;

	if (!vm->anchors.v[A_ATOM_TABLE].addr)
		return -ENOENT;
	len = text_read(read_vm, vm, vm->layout, vm->anchors.v[A_ATOM_TABLE].addr, index, raw,
			sizeof(raw));
	if (len < 0)
		return len == -ENODATA ? -EFAULT : len;
	return (ssize_t)escape_text(buf, size, raw, (size_t)len);
}
