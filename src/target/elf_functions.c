/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where the functions of a stripped image begin and end.
 *
 * Symbols can be stripped, what exceptions are unwound by cannot: .eh_frame has
 * an entry (FDE) for every function that a compiler made, and .eh_frame_hdr an
 * index of them, sorted by address:
 *
 *	.eh_frame_hdr	version, encodings, count, {function, FDE}[count]
 *	.eh_frame	FDE: length, CIE, begin, range, ...
 *
 * Both are read in the one form that linkers write (addresses of 4 bytes, relative
 * to the index or to themselves); anything else is an image without functions.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "target/elf_functions.h"
#include "target/elf_image.h"

#define HDR_MAX		 (8u << 20)  /* bytes of an .eh_frame_hdr */
#define FRAME_MAX	 (64u << 20) /* bytes of an .eh_frame */
#define DW_EH_PE_SDATA4	 0x0bu	     /* low 4 bits of an encoding: form */
#define DW_EH_PE_UDATA4	 0x03u
#define DW_EH_PE_DATAREL 0x30u

struct eh_frame_hdr {
	uint8_t version, frame_enc, count_enc, table_enc;
	int32_t frame;
	uint32_t n;
};

struct fde {
	uint32_t length, cie;
	int32_t begin;
	uint32_t range;
};

/* A section's bytes, the caller's to free; NULL if it is absent or too large. */
static unsigned char *section(struct image *i, const char *name, size_t max, uint64_t *addr,
			      size_t *len)
{
	uint64_t end = 0;
	unsigned char *bytes;

	if (!image_section(i, name, addr, &end) || end <= *addr || end - *addr > max)
		return NULL;
	*len = (size_t)(end - *addr);
	bytes = malloc(*len);
	if (bytes && image_bytes(i, *addr, bytes, *len)) {
		free(bytes);
		return NULL;
	}
	return bytes;
}

int image_functions_read(struct image *i, struct image_functions **out)
{
	uint64_t hdr_at = 0, frame_at = 0;
	size_t hdr_len = 0, frame_len = 0;
	unsigned char *hdr = section(i, ".eh_frame_hdr", HDR_MAX, &hdr_at, &hdr_len);
	unsigned char *frame = section(i, ".eh_frame", FRAME_MAX, &frame_at, &frame_len);
	struct image_functions *f = NULL;
	struct eh_frame_hdr h;
	int ret = -ENOENT;

	*out = NULL;
	if (!hdr || !frame || hdr_len < sizeof(h))
		goto out;
	memcpy(&h, hdr, sizeof(h));
	if (h.version != 1 || (h.frame_enc & 0x0f) != DW_EH_PE_SDATA4 ||
	    (h.count_enc & 0x0f) != DW_EH_PE_UDATA4 ||
	    h.table_enc != (DW_EH_PE_DATAREL | DW_EH_PE_SDATA4) || h.n > (hdr_len - sizeof(h)) / 8)
		goto out;
	ret = -ENOMEM;
	f = calloc(1, sizeof(*f));
	if (!f)
		goto out;
	f->v = malloc(h.n * sizeof(*f->v) + 1);
	if (!f->v)
		goto out;
	for (uint32_t k = 0; k < h.n; k++) {
		uint64_t start, at;
		int32_t entry[2];
		struct fde fde;

		memcpy(entry, hdr + sizeof(h) + (size_t)k * 8, sizeof(entry));
		start = hdr_at + (uint64_t)(int64_t)entry[0];
		at = hdr_at + (uint64_t)(int64_t)entry[1];
		if (at < frame_at || frame_len < sizeof(fde) ||
		    at - frame_at > frame_len - sizeof(fde))
			continue;
		memcpy(&fde, frame + (at - frame_at), sizeof(fde));
		/* the begin that it gives must be the index's, or the form is another */
		if (fde.length < 12 || fde.length >= 0xfffffff0u || !fde.cie || !fde.range ||
		    start >= IMAGE_ADDRESS_MAX || at + 8 + (uint64_t)(int64_t)fde.begin != start ||
		    (f->n && start < f->v[f->n - 1].start + f->v[f->n - 1].size))
			continue;
		f->v[f->n].start = start;
		f->v[f->n].size = fde.range;
		f->n++;
	}
	*out = f;
	f = NULL;
	ret = 0;
out:
	image_functions_free(f);
	free(hdr);
	free(frame);
	return ret;
}

void image_functions_free(struct image_functions *f)
{
	if (!f)
		return;
	free(f->v);
	free(f);
}

const struct image_function *image_function_at(const struct image_functions *f, uint64_t addr)
{
	size_t low = 0, high = f->n;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (f->v[mid].start <= addr)
			low = mid + 1;
		else
			high = mid;
	}
	if (!low || addr - f->v[low - 1].start >= f->v[low - 1].size)
		return NULL;
	return &f->v[low - 1];
}
