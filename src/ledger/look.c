/* SPDX-License-Identifier: Apache-2.0 */
#include "ledger/look.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* The whole of it has to end some time, even on a node of hundreds of
 * gigabytes: about 5 GB/s is walked, so ten minutes are 3 TB. */
#define LOOK_SECONDS 600

struct open_job {
	struct target *t;
	struct observer *o;
	struct error err;
};

static int open_run(void *arg)
{
	struct open_job *j = arg;
	int ret = mappings_read(j->t, &j->o->maps, &j->err);

	if (ret == 0)
		ret = images_read(j->t, j->o->maps, &j->o->images, &j->err);
	if (ret == 0)
		ret = vm_open(j->t, j->o->maps, j->o->images, &j->o->vm, &j->err);
	return ret;
}

/* A failure while reading often is the target's end: say that instead of what
 * it looked like from the middle. */
static int explain(struct target *t, int ret, const struct error *from, struct error *err)
{
	struct error gone = { 0 };

	if (ret == -ETIMEDOUT || target_check(t, &gone) == 0) {
		if (from->code != EXIT_OK && err && err->code == EXIT_OK)
			*err = *from;
		return error_set(err, error_exit_code(ret), ret, "looking at process %d failed: %s",
				 (int)target_pid(t), strerror(-ret));
	}
	if (err && err->code == EXIT_OK)
		*err = gone;
	return -ESRCH;
}

int observer_open(struct target *t, struct observer **out, struct error *err)
{
	struct observer *o = calloc(1, sizeof(*o));
	struct open_job *j = calloc(1, sizeof(*j));
	int ret;

	*out = NULL;
	if (!o || !j) {
		free(o);
		free(j);
		return -ENOMEM;
	}
	o->target = t;
	j->t = t;
	j->o = o;
	ret = target_guard(t, open_run, j, LOOK_SECONDS, err);
	if (ret == -ETIMEDOUT)
		return ret; /* the thread may still use o and j */
	if (ret < 0) {
		ret = explain(t, ret, &j->err, err);
		observer_close(o);
		free(j);
		return ret;
	}
	free(j);
	*out = o;
	return 0;
}

void observer_close(struct observer *o)
{
	if (!o)
		return;
	vm_close(o->vm);
	images_free(o->images);
	mappings_free(o->maps);
	free(o);
}

/* Libraries come and go: images are read anew when the file mappings differ
 * from those that the images were made from. */
static bool same_files(const struct mappings *a, const struct mappings *b)
{
	size_t i = 0, j = 0;

	for (;;) {
		while (i < a->n && a->v[i].kind != MAPPING_FILE)
			i++;
		while (j < b->n && b->v[j].kind != MAPPING_FILE)
			j++;
		if (i == a->n || j == b->n)
			return i == a->n && j == b->n;
		if (a->v[i].start != b->v[j].start || a->v[i].inode != b->v[j].inode ||
		    strcmp(a->v[i].path, b->v[j].path) != 0)
			return false;
		i++;
		j++;
	}
}

static int refresh_images(struct observer *o, struct error *err)
{
	struct mappings *maps;
	struct images *images;
	int ret = mappings_read(o->target, &maps, err);

	if (ret < 0)
		return ret;
	if (same_files(maps, o->maps)) {
		/* keep the images; the VM reads through the newer map */
		mappings_free(o->maps);
		o->maps = maps;
		o->vm->maps = maps;
		return 0;
	}
	ret = images_read(o->target, maps, &images, err);
	if (ret < 0) {
		mappings_free(maps);
		return ret;
	}
	images_free(o->images);
	mappings_free(o->maps);
	o->images = images;
	o->maps = maps;
	o->vm->images = images;
	o->vm->maps = maps;
	o->vm->exe = images_exe(images);
	return o->vm->exe ? 0 : -ESTALE;
}

struct look_job {
	struct observer *o;
	struct look_opts opts;
	struct look *l;
	struct error err;
};

/* Carriers that lie inside the libc heap (sys_alloc) are holes in it. All of
 * them are handed over: one that does not touch the heap does no harm. */
static struct libc_hole *holes_of(const struct carriers *c)
{
	struct libc_hole *h = calloc(c->n ? c->n : 1, sizeof(*h));
	size_t i;

	for (i = 0; h && i < c->n; i++) {
		h[i].start = c->v[i].addr;
		h[i].end = c->v[i].addr + c->v[i].size;
	}
	return h;
}

static int look_libc(struct look_job *j)
{
	struct observer *o = j->o;
	struct look *l = j->l;
	struct libc_opts opts = { 0 };
	struct libc_hole *holes = holes_of(l->carriers);
	uint64_t *pthreads = calloc(l->n_threads ? l->n_threads : 1, sizeof(*pthreads));
	ssize_t n;
	size_t i;
	int ret = -ENOMEM;

	if (!holes || !pthreads)
		goto out;
	for (i = 0; i < l->n_threads; i++)
		pthreads[i] = l->threads[i].pthread;
	opts.holes = holes;
	opts.n_holes = l->carriers->n;
	opts.pthreads = pthreads;
	opts.n_pthreads = l->n_threads;
	if (j->opts.visitor) {
		opts.chunk = j->opts.visitor->chunk;
		opts.gap = j->opts.visitor->gap;
		opts.arg = j->opts.visitor->arg;
	}
	ret = libc_heap_walk(o->target, l->maps, o->images, l->res, &opts, &l->libc, &j->err);
	if (ret < 0)
		goto out;
	n = libc_stacks_read(o->target, l->maps, o->images, l->res, pthreads, l->n_threads,
			     &l->stacks);
	l->n_stacks = n > 0 ? (size_t)n : 0;
	if (n == -ENOMEM || n == -ESRCH || n == -ETIMEDOUT)
		ret = (int)n;
out:
	free(holes);
	free(pthreads);
	return ret;
}

/* The VM's counters: small, always resident, read without the picture. */
static int look_counters(struct look_job *j)
{
	struct observer *o = j->o;
	struct look *l = j->l;
	int ret = allocators_read(o->vm, &l->allocators, &j->err);

	if (ret == 0) {
		vm_memory_read(o->vm, l->allocators, &l->memory);
		vm_counts_read(o->vm, &l->counts);
	}
	return ret;
}

static int look_quick(struct look_job *j)
{
	struct look *l = j->l;
	int ret = system_memory(j->o->target, SYSTEM_ROLLUP_NEVER, &l->os, &j->err);

	clock_gettime(CLOCK_REALTIME, &l->when);
	l->quick = true;
	l->carriers = calloc(1, sizeof(*l->carriers));
	l->ranges = calloc(1, sizeof(*l->ranges));
	if (!l->carriers || !l->ranges)
		return -ENOMEM;
	return ret < 0 ? ret : look_counters(j);
}

/* The picture alone: what it costs grows with the resident memory, not with what
 * is in it. */
static int look_picture(struct look_job *j)
{
	struct look *l = j->l;
	int ret = refresh_images(j->o, &j->err);

	if (ret == 0)
		ret = mappings_read(j->o->target, &l->maps, &j->err);
	if (ret == 0)
		ret = look_quick(j);
	if (ret == 0)
		ret = residency_take(j->o->target, l->maps, &l->res, &j->err);
	return ret;
}

static int look_whole(struct look_job *j)
{
	struct observer *o = j->o;
	struct look *l = j->l;
	struct carriers_opts copts = { .tags = true, .tag_pids = j->opts.tag_pids };
	ssize_t n;
	int ret = refresh_images(o, &j->err);

	if (j->opts.visitor) {
		copts.block = j->opts.visitor->block;
		copts.arg = j->opts.visitor->arg;
	}

	if (ret == 0)
		ret = system_memory(o->target,
				    j->opts.rollup ? SYSTEM_ROLLUP_ALWAYS : SYSTEM_ROLLUP_AUTO,
				    &l->os, &j->err);
	if (ret == 0)
		ret = mappings_read(o->target, &l->maps, &j->err);
	clock_gettime(CLOCK_REALTIME, &l->when);
	if (ret == 0)
		ret = residency_take(o->target, l->maps, &l->res, &j->err);
	if (ret < 0)
		return ret;

	/* The counters belong to the moment of the pagemap pass. From here on the
	 * picture is used for everything, so that looking never brings a page in. */
	o->vm->res = l->res;
	ret = look_counters(j);
	if (ret == 0)
		ret = vm_ranges_read(o->vm, &l->ranges, &j->err);
	if (ret == 0)
		ret = carriers_walk(o->vm, l->allocators, &copts, &l->carriers, &j->err);
	if (ret == 0) {
		n = vm_threads_read(o->vm, &l->threads);
		l->n_threads = n > 0 ? (size_t)n : 0;
		ret = look_libc(j);
	}
	o->vm->res = NULL;
	if (ret == 0)
		ret = mappings_read(o->target, &l->maps_after, &j->err);
	return ret;
}

static int look_run(void *arg)
{
	struct look_job *j = arg;
	struct look *l = j->l;
	struct target_io before;
	struct timespec t0, t1;
	int ret;

	clock_gettime(CLOCK_MONOTONIC, &t0);
	target_io(j->o->target, &before);
	ret = j->opts.picture ? look_picture(j) : j->opts.quick ? look_quick(j) : look_whole(j);
	if (ret == 0)
		ret = target_check(j->o->target, &j->err);
	clock_gettime(CLOCK_MONOTONIC, &t1);
	l->seconds = (double)(t1.tv_sec - t0.tv_sec) + (double)(t1.tv_nsec - t0.tv_nsec) / 1e9;
	target_io(j->o->target, &l->io);
	l->io.reads -= before.reads;
	l->io.read_bytes -= before.read_bytes;
	l->io.faults -= before.faults;
	return ret;
}

int look_take(struct observer *o, const struct look_opts *opts, struct look **out,
	      struct error *err)
{
	struct look_job *j = calloc(1, sizeof(*j));
	int ret;

	*out = NULL;
	if (!j || !(j->l = calloc(1, sizeof(*j->l)))) {
		free(j);
		return -ENOMEM;
	}
	j->o = o;
	if (opts)
		j->opts = *opts;
	ret = target_guard(o->target, look_run, j, LOOK_SECONDS, err);
	if (ret == -ETIMEDOUT)
		return ret;
	if (ret < 0) {
		ret = explain(o->target, ret, &j->err, err);
		look_free(j->l);
	} else {
		*out = j->l;
	}
	free(j);
	return ret;
}

void look_free(struct look *l)
{
	if (!l)
		return;
	libc_heap_free(l->libc);
	free(l->stacks);
	free(l->threads);
	vm_ranges_free(l->ranges);
	carriers_free(l->carriers);
	allocators_free(l->allocators);
	residency_free(l->res);
	mappings_free(l->maps_after);
	mappings_free(l->maps);
	free(l);
}
