/* SPDX-License-Identifier: Apache-2.0 */
#include "erts/vm_cache.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct slot {
	uint64_t page; /* address / TARGET_PAGE */
	uint32_t age;  /* valid while it is the cache's */
	bool absent;   /* looked at and not to be had */
};

struct vm_cache {
	size_t mask;
	uint32_t age;
	struct slot *slots;
	unsigned char *data; /* TARGET_PAGE for each slot */
};

struct vm_cache *vm_cache_new(size_t pages)
{
	struct vm_cache *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	c->mask = pages - 1;
	c->age = 1;
	c->slots = calloc(pages, sizeof(*c->slots));
	c->data = malloc(pages * TARGET_PAGE);
	if (!c->slots || !c->data || (pages & c->mask)) {
		vm_cache_free(c);
		return NULL;
	}
	return c;
}

void vm_cache_free(struct vm_cache *c)
{
	if (!c)
		return;
	free(c->slots);
	free(c->data);
	free(c);
}

void vm_cache_forget(struct vm_cache *c)
{
	if (c && ++c->age == 0) {
		memset(c->slots, 0, (c->mask + 1) * sizeof(*c->slots));
		c->age = 1;
	}
}

/* The page's bytes in *out, NULL if it is not to be had. 0 or what ends a walk. */
static int page_of(struct vm_cache *c, struct vm *vm, uint64_t page, const unsigned char **out)
{
	/* Fibonacci hashing: pages a power of two apart do not share a slot. */
	size_t i = (size_t)(page * 0x9e3779b97f4a7c15ull >> 40) & c->mask;
	struct slot *s = &c->slots[i];
	unsigned char *data = c->data + i * TARGET_PAGE;
	uint64_t addr = page * TARGET_PAGE;
	int ret = 0;

	if (s->page != page || s->age != c->age) {
		s->page = page;
		s->age = c->age;
		s->absent = vm->res && !residency_page(vm->res, addr) &&
			    !target_present_now(vm->target, addr, TARGET_PAGE);
		if (!s->absent)
			ret = target_read(vm->target, addr, data, TARGET_PAGE);
		if (ret)
			s->absent = true;
	}
	*out = s->absent ? NULL : data;
	return ret == -EFAULT ? 0 : ret;
}

int vm_cache_read(struct vm_cache *c, struct vm *vm, uint64_t addr, void *buf, size_t len)
{
	char *to = buf;

	if (addr + len < addr)
		return -EFAULT;
	while (len) {
		size_t at = (size_t)(addr % TARGET_PAGE);
		size_t n = len < TARGET_PAGE - at ? len : TARGET_PAGE - at;
		const unsigned char *data;
		int ret = page_of(c, vm, addr / TARGET_PAGE, &data);

		if (ret)
			return ret;
		if (!data)
			return -ENODATA;
		memcpy(to, data + at, n);
		to += n;
		addr += n;
		len -= n;
	}
	return 0;
}
