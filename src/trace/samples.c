// SPDX-License-Identifier: Apache-2.0
/*
 * Each thread gets an event that counts its own CPU time (cpu-clock) and is
 * inherited by the threads that it starts. The alternative, one event a processor,
 * would interrupt every process on the machine; this one costs others nothing, and
 * a thread that sleeps costs nothing either.
 */
#include "trace/samples.h"

#include <errno.h>
#include <linux/perf_event.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include "cpu.skel.h"
#include "target/system.h"

#define FREQUENCY_DEFAULT 49 /* no divisor of what timers usually tick at */
#define THREADS_MAX	  4096u

struct samples {
	struct cpu_bpf *skel;
	struct bpf_link **links;
	size_t n;
};

/* The maps are those of the first object, except what belongs to this one alone. */
static int maps_share(struct cpu_bpf *skel, struct bpf_object *object)
{
	struct bpf_map *map;

	bpf_object__for_each_map(map, skel->obj)
	{
		struct bpf_map *first;
		int ret;

		if (strchr(bpf_map__name(map), '.'))
			continue; /* .rodata and the like */
		first = bpf_object__find_map_by_name(object, bpf_map__name(map));
		if (!first)
			continue;
		ret = bpf_map__reuse_fd(map, bpf_map__fd(first));
		if (ret)
			return ret;
	}
	return 0;
}

static int attach_thread(struct samples *s, pid_t tid, unsigned frequency)
{
	struct perf_event_attr attr = {
		.type = PERF_TYPE_SOFTWARE,
		.size = sizeof(attr),
		.config = PERF_COUNT_SW_CPU_CLOCK,
		.sample_freq = frequency,
		.freq = 1,
		.inherit = 1,
	};
	struct bpf_link *link;
	int fd = (int)syscall(SYS_perf_event_open, &attr, tid, -1, -1, PERF_FLAG_FD_CLOEXEC);

	if (fd < 0)
		return errno == ESRCH ? 0 : -errno; /* it has ended */
	link = bpf_program__attach_perf_event(s->skel->progs.cpu_sample, fd);
	if (!link) {
		int ret = -errno;

		close(fd);
		return ret;
	}
	s->links[s->n++] = link; /* owns fd */
	return 0;
}

static int attach(struct samples *s, struct target *t, unsigned frequency)
{
	struct system_thread *v;
	ssize_t n = system_threads(t, &v);
	int ret = 0;

	if (n < 0)
		return (int)n;
	if (n > THREADS_MAX)
		n = THREADS_MAX;
	s->links = calloc((size_t)n, sizeof(*s->links));
	if (!s->links)
		ret = -ENOMEM;
	for (ssize_t i = 0; !ret && i < n; i++)
		ret = attach_thread(s, v[i].tid, frequency);
	free(v);
	return ret;
}

int samples_open(struct target *t, struct bpf_object *object, const struct config *config,
		 unsigned frequency, struct samples **out)
{
	struct samples *s = calloc(1, sizeof(*s));
	int ret;

	*out = NULL;
	if (!s)
		return -ENOMEM;
	s->skel = cpu_bpf__open();
	if (!s->skel) {
		ret = -errno;
		samples_close(s);
		return ret;
	}
	memcpy((void *)&s->skel->rodata->cfg, config, sizeof(*config));
	ret = maps_share(s->skel, object);
	if (!ret)
		ret = cpu_bpf__load(s->skel);
	if (!ret)
		ret = attach(s, t, frequency ? frequency : FREQUENCY_DEFAULT);
	if (ret) {
		samples_close(s);
		return ret;
	}
	*out = s;
	return 0;
}

void samples_detach(struct samples *s)
{
	if (!s)
		return;
	for (size_t i = 0; i < s->n; i++)
		bpf_link__destroy(s->links[i]);
	s->n = 0;
}

void samples_close(struct samples *s)
{
	if (!s)
		return;
	samples_detach(s);
	cpu_bpf__destroy(s->skel);
	free(s->links);
	free(s);
}
