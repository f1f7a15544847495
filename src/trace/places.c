// SPDX-License-Identifier: Apache-2.0
#include "trace/places.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <bpf/bpf.h>

#define BATCH 1024

int places_thin(struct bpf_map *map, unsigned level)
{
	struct place_limits l = {
		.place_burst = 4,
		.place_interval = 20000000ULL << level, /* 50 a second */
		.cpu_burst = 128 >> level,
		.cpu_interval = 2000000ULL << level, /* 500 a second on each CPU */
	};
	uint32_t zero = 0;

	return bpf_map_update_elem(bpf_map__fd(map), &zero, &l, BPF_ANY) ? -errno : 0;
}

int places_probe(struct set *set, uint64_t addr, uint64_t size, const char *name, unsigned need,
		 struct uprobe *out, struct error *err)
{
	struct image *exe = session_vm(set->session)->exe;
	int ret;

	out->leave = need & SITE_RETURN;
	if (!site_find(exe, addr, size, name, need, &out->site, NULL))
		return 0;
	ret = site_first(exe, addr, name, &out->site, err);
	return ret ? ret : 1;
}

static int each_by_key(int fd, uint32_t key_size, void *value, map_fn fn, void *ctx)
{
	unsigned char *keys = calloc(2, key_size), *key = keys, *next;
	int ret;

	if (!keys)
		return -ENOMEM;
	next = keys + key_size;
	ret = bpf_map_get_next_key(fd, NULL, next);
	while (!ret) {
		unsigned char *was = key;

		key = next;
		next = was;
		if (!bpf_map_lookup_elem(fd, key, value))
			ret = fn(ctx, key, value);
		if (ret)
			goto out;
		ret = bpf_map_get_next_key(fd, key, next);
	}
	ret = errno == ENOENT ? 0 : -errno;
out:
	free(keys);
	return ret;
}

int map_each(struct bpf_map *map, map_fn fn, void *ctx)
{
	uint32_t key_size = bpf_map__key_size(map), value_size = bpf_map__value_size(map);
	unsigned char *keys = malloc((size_t)BATCH * key_size);
	unsigned char *values = malloc((size_t)BATCH * value_size);
	int fd = bpf_map__fd(map), ret = keys && values ? 0 : -ENOMEM;
	bool first = true, last = false;
	uint64_t at[8]; /* the kernel's own; a hash needs four bytes */

	while (!ret && !last) {
		uint32_t n = BATCH;
		int rc = bpf_map_lookup_batch(fd, first ? NULL : at, at, keys, values, &n, NULL);

		last = rc && errno == ENOENT;
		if (rc && !last) {
			/* kernels before 5.6; nothing has been given out yet */
			ret = first ? each_by_key(fd, key_size, values, fn, ctx) : -errno;
			break;
		}
		first = false;
		for (uint32_t i = 0; !ret && i < n; i++)
			ret = fn(ctx, keys + (size_t)i * key_size, values + (size_t)i * value_size);
	}
	free(keys);
	free(values);
	return ret;
}

void figure_put(struct recording_figure *v, size_t *n, const char *name, uint64_t value)
{
	if (*n >= RECORDING_FIGURES_MAX)
		return;
	snprintf(v[*n].name, sizeof(v[*n].name), "%s", name);
	v[(*n)++].value = value;
}

void figures_histogram(struct recording_figure *v, size_t *n, const char *prefix,
		       const uint32_t histogram[LOG2_BUCKETS])
{
	for (unsigned i = 0; i < LOG2_BUCKETS; i++) {
		char name[32];

		if (!histogram[i])
			continue;
		snprintf(name, sizeof(name), "%.20s.%u", prefix, i);
		figure_put(v, n, name, histogram[i]);
	}
}
