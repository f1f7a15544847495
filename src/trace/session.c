// SPDX-License-Identifier: Apache-2.0
/*
 * A session from load to detach.
 *
 * Order matters in two places. The opening picture is taken after the sets were
 * attached, so that nothing comes unseen. The closing picture is taken after a drain,
 * and sets that depend on it drain again before they read it, so that all that is in
 * it has had its chance to get an owner.
 */
#include "trace/session_int.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <bpf/bpf.h>

#include "base.skel.h"

#define USER_DEFAULT (256u << 20)
#define DRAIN_MS     100 /* between two looks at the ring buffer */

/* ---- records ------------------------------------------------------------------------- */

static int on_record(void *ctx, void *data, size_t size)
{
	struct session *s = ctx;
	const struct event *e = data;
	struct set *set;

	if (size < sizeof(*e) || e->kind >= EVENT_N)
		return 0;
	s->records++;
	switch (e->kind) {
	case EVENT_STACK:
		stacks_add(s->stacks, data, size);
		break;
	case EVENT_PROCESS:
		if (size >= sizeof(struct event_process))
			names_process(s->names, data);
		break;
	case EVENT_THREAD:
		if (size >= sizeof(struct event_thread))
			names_thread(s->names, data);
		break;
	case EVENT_CODE:
		session_code_native(s);
		break;
	case EVENT_EXEC:
		s->execed = true;
		break;
	default:
		set = s->by_event[e->kind];
		if (set)
			set->class->record(set, e, size);
		break;
	}
	return 0;
}

static void drain(struct session *s)
{
	if (s->ring)
		ring_buffer__consume(s->ring);
}

/* ---- sets ---------------------------------------------------------------------------- */

struct set *session_set(const struct session *s, const struct set_class *class)
{
	return s->sets[class->id];
}

static void set_close(struct session *s, struct set *set)
{
	if (!set)
		return;
	for (unsigned i = 0; i < EVENT_N; i++)
		if (s->by_event[i] == set)
			s->by_event[i] = NULL;
	s->sets[set->class->id] = NULL;
	set->class->close(set);
}

void set_detach(struct set *set)
{
	if (!set->attached)
		return;
	set->class->detach(set);
	set->attached = false;
}

int session_add(struct session *s, const struct set_class *class, const void *opts,
		struct error *err)
{
	struct set *set = s->sets[class->id];
	int ret;

	if (s->stopped)
		return -EINVAL;
	if (set && set->attached)
		return -EEXIST;
	if (set)
		set_close(s, set);
	set = NULL;
	ret = class->open(s, opts, &set, err);
	if (!ret) {
		s->sets[class->id] = set;
		for (const uint32_t *e = class->events; e && *e; e++)
			s->by_event[*e] = set;
		set->attached = true; /* attach() may fail halfway */
		ret = class->attach ? class->attach(set, err) : 0;
	}
	if (ret && s->sets[class->id]) {
		set_detach(set);
		set_close(s, set);
	}
	return ret;
}

void session_remove(struct session *s, const struct set_class *class)
{
	struct set *set = s->sets[class->id];

	if (set)
		set_detach(set);
	drain(s);
}

/* ---- open and close ------------------------------------------------------------------ */

int session_open(struct target *t, struct vm *vm, struct code *code,
		 const struct session_opts *opts, struct session **out, struct error *err)
{
	static const struct session_opts none;
	struct session *s = calloc(1, sizeof(*s));
	int ret;

	*out = NULL;
	if (!s)
		return -ENOMEM;
	if (!opts)
		opts = &none;
	s->target = t;
	s->vm = vm;
	s->code = code;
	s->cpus = libbpf_num_possible_cpus();
	s->pidfd = (int)syscall(SYS_pidfd_open, target_pid(t), 0);
	governor_start(&s->governor, opts->budget);
	ret = s->cpus > 0 ? target_check(t, err) : -EIO;
	if (!ret)
		ret = unwind_new(&s->tables.unwind);
	if (!ret)
		ret = stacks_new((opts->user_bytes ? opts->user_bytes : USER_DEFAULT) / 2,
				 &s->stacks);
	if (!ret)
		ret = names_new(vm, &s->names);
	if (!ret)
		ret = session_refresh(s, err);
	if (!ret)
		ret = session_load(s, opts, on_record, err);
	if (ret) {
		session_close(s);
		return ret;
	}
	*out = s;
	return 0;
}

void session_stop(struct session *s)
{
	if (!s || s->stopped)
		return;
	s->stopped = true;
	s->end_ns = session_now_ns();
	for (unsigned i = 0; i < SET_N; i++)
		if (s->sets[i])
			set_detach(s->sets[i]);
	base_bpf__detach(s->base);
	drain(s);
	session_counters(s);
}

static void opening_free(struct session *s)
{
	residency_free(s->opening);
	mappings_free(s->opening_maps);
	s->opening = NULL;
	s->opening_maps = NULL;
}

void session_close(struct session *s)
{
	if (!s)
		return;
	for (unsigned i = 0; i < SET_N; i++)
		set_close(s, s->sets[i]);
	session_unload(s);
	unwind_free(s->tables.unwind);
	stacks_free(s->stacks);
	names_free(s->names);
	images_free(s->images);
	mappings_free(s->maps);
	opening_free(s);
	if (s->pidfd >= 0)
		close(s->pidfd);
	free(s);
}

/* ---- running -------------------------------------------------------------------------- */

/* One pagemap pass of our own. */
static int picture(struct session *s, struct residency **r, struct mappings **m, struct error *err)
{
	int ret = mappings_read(s->target, m, err);

	*r = NULL;
	if (ret < 0)
		return ret;
	ret = residency_take(s->target, *m, r, err);
	if (ret < 0) {
		mappings_free(*m);
		*m = NULL;
	}
	return ret < 0 ? ret : 0;
}

static void set_freeze(struct set *set)
{
	if (set->class->freeze)
		set->class->freeze(set);
	set->frozen = true;
}

static void set_thaw(struct set *set)
{
	if (set->frozen && set->class->thaw)
		set->class->thaw(set);
	set->frozen = false;
}

int session_baseline(struct session *s, const struct residency *r, const struct mappings *m,
		     struct error *err)
{
	struct set_picture now = { r, m };
	uint64_t before = session_cpu_ns();
	int ret = 0;

	/* what came before the picture does not count; what comes while it is
	 * taken is either in it or gets an owner */
	drain(s);
	for (unsigned i = 0; !ret && i < SET_N; i++)
		if (s->sets[i] && s->sets[i]->class->baseline) {
			set_thaw(s->sets[i]);
			ret = s->sets[i]->class->baseline(s->sets[i], NULL, err);
		}
	opening_free(s);
	if (!r && !ret) {
		ret = picture(s, &s->opening, &s->opening_maps, err);
		now.res = s->opening;
		now.maps = s->opening_maps;
	}
	for (unsigned i = 0; !ret && i < SET_N; i++)
		if (s->sets[i] && s->sets[i]->class->baseline)
			ret = s->sets[i]->class->baseline(s->sets[i], &now, err);
	s->governor.own_ns += session_cpu_ns() - before;
	return ret;
}

void session_freeze(struct session *s)
{
	drain(s);
	for (unsigned i = 0; i < SET_N; i++)
		if (s->sets[i])
			set_freeze(s->sets[i]);
}

static int target_state(struct session *s, struct error *err)
{
	struct pollfd p = { .fd = s->pidfd, .events = POLLIN };

	if (s->execed)
		return error_set(err, EXIT_GONE, -ESTALE,
				 "process %d has exec'ed: it is another program now",
				 (int)target_pid(s->target));
	if (!s->ended && s->pidfd >= 0 && poll(&p, 1, 0) == 1)
		s->ended = true;
	if (s->ended)
		return error_set(err, EXIT_GONE, -ESRCH, "process %d has ended",
				 (int)target_pid(s->target));
	return 0;
}

bool session_target_gone(struct session *s)
{
	return target_state(s, NULL) != 0;
}

/* Until the target ends, code is to be looked at, a signal comes (then negative), or for
 * so long. */
static int sleep_until_woken(struct session *s, uint64_t ns)
{
	struct pollfd p[2] = { { .fd = s->pidfd, .events = POLLIN }, { .fd = -1 } };

	if (!s->stopped)
		p[1] = (struct pollfd){ .fd = session_code_wake_fd(s, &ns), .events = POLLIN };
	return poll(p, 2, (int)((ns + 999999) / 1000000));
}

int session_poll(struct session *s, int ms, struct error *err)
{
	uint64_t until = session_now_ns() + (uint64_t)(ms > 0 ? ms : 0) * 1000000ULL;

	for (;;) {
		uint64_t before = session_cpu_ns(), now, wait;

		if (!s->stopped)
			session_code_look(s); /* before all that takes time */
		drain(s);
		if (!s->stopped) {
			for (unsigned i = 0; i < SET_N; i++)
				if (s->sets[i] && s->sets[i]->class->tick)
					s->sets[i]->class->tick(s->sets[i]);
			session_counters(s);
			s->governor.own_ns += session_cpu_ns() - before;
			governor_tick(&s->governor, s->count, s->sets);
		}
		now = session_now_ns();
		if (target_state(s, NULL))
			return target_state(s, err);
		if (now >= until)
			return 0;
		wait = until - now;
		if (wait > DRAIN_MS * 1000000ULL)
			wait = DRAIN_MS * 1000000ULL;
		if (sleep_until_woken(s, wait) < 0) {
			drain(s);
			return 0;
		}
	}
}

/* ---- results ---------------------------------------------------------------------------- */

/* The picture that a profile is made with: the caller's, or one of our own. */
static int closing_picture(struct session *s, struct set_picture *closing, struct residency **own,
			   struct mappings **own_maps, struct error *err)
{
	int ret;

	if (closing->res || session_target_gone(s))
		return 0;
	ret = picture(s, own, own_maps, NULL);
	/* a process that dies has no memory for a while before it has ended */
	if (ret && ret != -ESRCH && !session_target_gone(s))
		return picture(s, own, own_maps, err);
	closing->res = *own; /* NULL if it ended meanwhile: without a picture then */
	closing->maps = *own_maps;
	return 0;
}

static const struct set_profile_kind *kind_find(const struct session *s, const char *kind,
						struct set **set)
{
	for (unsigned i = 0; i < SET_N; i++) {
		const struct set_profile_kind *k = s->sets[i] ? s->sets[i]->class->kinds : NULL;

		for (; k && k->kind; k++)
			if (!strcmp(k->kind, kind)) {
				*set = s->sets[i];
				return k;
			}
	}
	return NULL;
}

int session_profile(struct session *s, const char *kind, const struct residency *closing,
		    const struct mappings *maps, struct profile **out, struct error *err)
{
	struct set_picture now = { closing, maps };
	const struct set_profile_kind *k;
	struct residency *own = NULL;
	struct mappings *own_maps = NULL;
	uint64_t before = session_cpu_ns();
	struct profile *p;
	struct set *set;
	int ret = 0;

	*out = NULL;
	k = kind_find(s, kind, &set);
	if (!k)
		return -ENOENT;
	p = profile_new(k->kind, k->unit);
	if (!p)
		return -ENOMEM;
	if (set->class->freeze) { /* its weights depend on what is resident */
		drain(s);
		if (!set->frozen)
			set_freeze(set);
		ret = closing_picture(s, &now, &own, &own_maps, err);
	}
	if (!s->stopped)
		drain(s);
	if (!ret)
		ret = set->class->profile(set, kind, now.res ? &now : NULL, p, err);
	set_thaw(set);
	residency_free(own);
	mappings_free(own_maps);
	if (ret) {
		profile_free(p);
		return ret;
	}
	session_counters(s);
	p->lost_events = s->count[set->class->id][COUNT_LOST_EVENTS];
	p->lost_stacks = s->count[set->class->id][COUNT_LOST_STACKS] + s->stacks->lost;
	profile_sort(p);
	s->governor.own_ns += session_cpu_ns() - before;
	*out = p;
	return 0;
}

/* What the kernel charges for a map, from its descriptor. */
static uint64_t map_bytes(int fd)
{
	char name[64], line[256];
	unsigned long long bytes = 0;
	FILE *f;

	snprintf(name, sizeof(name), "/proc/self/fdinfo/%d", fd);
	f = fopen(name, "re");
	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "memlock: %llu", &bytes) == 1)
			break;
	if (f)
		fclose(f);
	return bytes;
}

/* Hits that the kernel left out because a program was running already. */
static uint64_t programs_missed(struct bpf_object *object)
{
	struct bpf_program *prog;
	uint64_t missed = 0;

	if (!object)
		return 0;
	bpf_object__for_each_program(prog, object)
	{
		struct bpf_prog_info info = { 0 };
		uint32_t len = sizeof(info);
		int fd = bpf_program__fd(prog);

		if (fd >= 0 && !bpf_obj_get_info_by_fd(fd, &info, &len))
			missed += info.recursion_misses;
	}
	return missed;
}

/* Maps of the object; of a set, those that are not shared. */
static uint64_t maps_bytes(const struct session *s, struct bpf_object *object)
{
	struct bpf_map *map;
	uint64_t bytes = 0;

	if (!object)
		return 0;
	bpf_object__for_each_map(map, object)
	{
		const char *name = bpf_map__name(map);

		if (object == s->base->obj || strchr(name, '.') ||
		    !bpf_object__find_map_by_name(s->base->obj, name))
			bytes += map_bytes(bpf_map__fd(map));
	}
	return bytes;
}

int session_figures(struct session *s, figures_fn fn, void *ctx)
{
	int ret = 0;

	for (unsigned i = 0; !ret && i < SET_N; i++)
		if (s->sets[i] && s->sets[i]->class->figures)
			ret = s->sets[i]->class->figures(s->sets[i], fn, ctx);
	return ret;
}

static void set_figures(const struct session *s, struct set *set, double seconds,
			struct set_stats *out)
{
	const struct set_class *class = set->class;

	out->name = class->name;
	out->attached = set->attached;
	out->missed = programs_missed(set->object);
	out->kernel_ns = governor_kernel_ns(set, out->count);
	out->level = set->level;
	out->map_bytes = maps_bytes(s, set->object);
	out->notice = set->notice;
	if (seconds > 0)
		out->cpu_fraction = (double)out->kernel_ns / 1e9 / seconds;
}

void session_stats(struct session *s, struct session_stats *out)
{
	uint64_t end = s->stopped ? s->end_ns : session_now_ns();
	struct set_stats *core = &out->sets[SET_CORE];

	memset(out, 0, sizeof(*out));
	session_counters(s);
	out->seconds = (double)(end - s->governor.start_ns) / 1e9;
	core->name = "core";
	core->attached = !s->stopped;
	core->missed = programs_missed(s->base->obj);
	core->map_bytes = maps_bytes(s, s->base->obj);
	core->notice = "";
	for (unsigned i = 0; i < SET_N; i++) {
		struct set_stats *f = &out->sets[i];

		memcpy(f->count, s->count[i], sizeof(f->count));
		if (s->sets[i])
			set_figures(s, s->sets[i], out->seconds, f);
		for (unsigned k = 0; k < COUNT_N; k++)
			out->count[k] += f->count[k];
		out->missed += f->missed;
		out->kernel_bytes += f->map_bytes;
		out->kernel_ns += f->kernel_ns;
		out->thinned |= f->level > 0;
		if (s->sets[i] && s->sets[i]->class->memory)
			out->user_bytes += s->sets[i]->class->memory(s->sets[i]);
	}
	out->records = s->records;
	out->lost_records = out->count[COUNT_LOST_EVENTS] + out->count[COUNT_LOST_STACKS];
	out->lost_stacks = s->stacks->lost;
	out->stacks = s->stacks->n;
	out->owners = s->stacks->n_owners - 1;
	out->user_bytes += stacks_bytes(s->stacks) + names_bytes(s->names);
	out->modules = s->tables.unwind->n_modules;
	out->modules_without = s->tables.unwind->without;
	out->rows = s->tables.unwind->n_rows;
	out->rules = s->tables.unwind->n_rules;
	out->own_ns = s->governor.own_ns;
	if (out->seconds > 0)
		out->cpu_fraction = (double)(out->kernel_ns + out->own_ns) / 1e9 / out->seconds;
	out->cpu_now = s->governor.now;
	out->over_budget = s->governor.over;
}

double session_complete(const struct session_stats *st)
{
	uint64_t n = st->count[COUNT_STACKS];

	return n ? (double)st->count[COUNT_COMPLETE] / (double)n : 1;
}
