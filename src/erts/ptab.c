/* SPDX-License-Identifier: Apache-2.0 */
#include "erts/ptab.h"

#include <errno.h>
#include <string.h>

#define TABLE_MAX (1ull << 27) /* ERTS_MAX_PROCESSES, ERTS_MAX_PORTS */

int ptab_read(struct vm *vm, enum anchor_id id, struct ptab *p)
{
	const struct layout *l = vm->layout;
	const uint64_t at = vm->anchors.v[id].addr;
	struct {
		struct layout_field f;
		uint64_t *to;
		bool needed;
	} fields[] = {
		{ l->ErtsPTab__r_o_tab, &p->tab, true },
		{ l->ErtsPTab__r_o_max, &p->max, true },
		{ l->ErtsPTab__r_o_invalid_element, &p->invalid, true },
		{ l->ErtsPTab__r_o_pix_mask, &p->pix_mask, false },
		{ l->ErtsPTab__r_o_pix_cl_mask, &p->pix_cl_mask, false },
		{ l->ErtsPTab__r_o_pix_cl_shift, &p->pix_cl_shift, false },
		{ l->ErtsPTab__r_o_pix_cli_mask, &p->pix_cli_mask, false },
		{ l->ErtsPTab__r_o_pix_cli_shift, &p->pix_cli_shift, false },
		{ l->ErtsPTab__r_o_dix_cl_mask, &p->dix_cl_mask, false },
		{ l->ErtsPTab__r_o_dix_cl_shift, &p->dix_cl_shift, false },
		{ l->ErtsPTab__r_o_dix_cli_mask, &p->dix_cli_mask, false },
		{ l->ErtsPTab__r_o_dix_cli_shift, &p->dix_cli_shift, false },
	};
	size_t i;
	int ret;

	memset(p, 0, sizeof(*p));
	if (!at)
		return -ENOENT;
	for (i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
		ret = vm_read_field(vm, at, fields[i].f, fields[i].to);
		if (ret && (fields[i].needed || ret != -ENOENT))
			return ret;
	}
	p->pix_cl_shift &= 63;
	p->pix_cli_shift &= 63;
	p->dix_cl_shift &= 63;
	p->dix_cli_shift &= 63;
	return p->max && p->max <= TABLE_MAX && p->tab ? 0 : -EFAULT;
}

/* Slot of a pid up to OTP 25, where the term holds the data. */
static uint64_t slot_from_data(const struct ptab *p, uint64_t data)
{
	uint32_t n = (uint32_t)data;

	if (!p->pix_cl_mask)
		return n % p->max;
	return ((n & p->pix_cl_mask) << p->pix_cl_shift) +
	       ((n >> p->pix_cli_shift) & p->pix_cli_mask);
}

/* From 27 on the term's low bits are the slot. */
static uint64_t slot_from_pixdata(const struct ptab *p, uint64_t pixdata)
{
	return p->pix_mask ? pixdata & p->pix_mask : pixdata % p->max;
}

bool ptab_scrambles(const struct vm *vm)
{
	return vm->layout->otp_major >= 26;
}

uint64_t ptab_slot(const struct vm *vm, const struct ptab *p, uint64_t term)
{
	return ptab_scrambles(vm) ? slot_from_pixdata(p, term >> 4) : slot_from_data(p, term >> 4);
}

uint64_t ptab_data(const struct vm *vm, const struct ptab *p, uint64_t term)
{
	uint64_t data = term >> 4;

	if (ptab_scrambles(vm) && p->pix_mask)
		data = (data & ~p->pix_mask) | (data >> p->dix_cl_shift & p->dix_cl_mask) |
		       (data & p->dix_cli_mask) << p->dix_cli_shift;
	return data;
}
