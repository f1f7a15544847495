/* SPDX-License-Identifier: Apache-2.0 */
#include "erts/block.h"

#include <string.h>

static uint64_t constant(int64_t c, uint64_t otherwise)
{
	return layout_has_const(c) ? (uint64_t)c : otherwise;
}

void block_format_init(struct block_format *f, const struct layout *l)
{
	/* BLK_FLG_MASK: the three bits below ERTS_ALLOC_ALIGN_BYTES, and the top one */
	uint64_t flags = BLOCK_SINGLE | BLOCK_TAGGED;
	unsigned offset_bits = (unsigned)constant(l->mbc_ablk_offset_bits, 23);
	bool tag_has_term;

	f->offset_shift = 63 - offset_bits; /* MBC_ABLK_OFFSET_SHIFT */
	f->offset_mask = (1ULL << offset_bits) - 1;
	f->free_size = ~flags;
	f->used_size = ~flags & ~(f->offset_mask << f->offset_shift);
	/* ERTS_SUPER_ALIGN_BITS: 18 up to 23, 14 on x86-64 from 24 on */
	f->carrier_shift = (unsigned)constant(l->superaligned_bits,
					      l->otp_major && l->otp_major < 24 ? 18 : 14);
	f->header = 8; /* ABLK_HDR_SZ */
	/* alcu_atag_t became {packed, term} in 27 (erl_alloc_util.c) */
	tag_has_term = l->size_alcu_atag_t ? l->size_alcu_atag_t == 16 : l->otp_major >= 27;
	f->tag_bytes = tag_has_term ? 16 : 8;
	f->tag_type_bits = (unsigned)constant(l->alc_n_bits, 8);
	if (f->tag_type_bits > 16)
		f->tag_type_bits = 8;
	/* SBC_HEADER_SIZE: Carrier_t up to cpool, which single-block carriers lack */
	f->single_header = layout_has(l->Carrier_t__cpool) ? (unsigned)l->Carrier_t__cpool.offset
							   : 32;
}

void block_tag_read(const struct block_format *f, const unsigned char *end, struct block_tag *out)
{
	uint64_t packed;

	memcpy(&packed, end - f->tag_bytes, 8);
	out->type = (unsigned)(packed & ((1ULL << f->tag_type_bits) - 1));
	out->owner = packed >> f->tag_type_bits;
	out->term = 0;
	if (f->tag_bytes == 16)
		memcpy(&out->term, end - 8, 8);
}
