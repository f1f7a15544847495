// SPDX-License-Identifier: Apache-2.0
/*
 * A session from load to detach.
 *
 * Order matters in three places. Unwind tables and schedulers are in the kernel
 * before the first program is attached, so that the first stack is as good as any.
 * The opening picture is taken after attaching, so that no page comes unseen. The
 * closing picture is taken after a drain, and a second drain follows before it is
 * read, so that every page in it has had its chance to get an owner; what that one
 * says about pages given back comes too late for the picture and is held.
 */
#include "trace/session_int.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include "erts/process.h"
#include "memory.skel.h"
#include "trace/samples.h"

#define RING_DEFAULT	(4u << 20)
#define RING_MAX	(256u << 20)
#define USER_DEFAULT	(256u << 20)
#define HELD_MAX	(1u << 20)
#define DRAIN_MS	100	     /* between two looks at the ring buffer */
#define REFRESH_NS	200000000ULL /* from "code has come" to reading what */
#define PID_NS_INIT_INO 0xeffffffcUL /* include/linux/proc_ns.h: PROC_PID_INIT_INO */

struct session {
	struct target *target;
	struct vm *vm;
	struct code *code;
	unsigned probes;
	struct mappings *maps; /* as of the last refresh */
	struct images *images;
	struct kernel_tables tables;
	struct memory_bpf *skel;
	struct tables_area control_area, runs_area;
	struct control *control; /* shared with the programs */
	struct samples *samples; /* processor samples, NULL if not wanted */
	struct ring_buffer *ring;
	struct stacks *stacks;
	struct growth *growth;
	struct names *names;
	struct governor governor;
	struct growth_sum sum;

	struct residency *opening; /* ours, or NULL when the caller's is in use */
	struct mappings *opening_maps;

	int pidfd;
	int cpus;
	bool attached, stopped;
	bool ended, execed; /* the target */
	/* After session_freeze(): what came since, to be done after the profile. */
	bool frozen;
	union held {
		struct event e;
		struct event_run run;
		struct event_range range;
	} * held;
	size_t n_held, a_held;
	uint64_t code_came; /* when new code was seen, 0: none waits */
	uint64_t records;
	uint64_t count[COUNT_N];
	uint64_t end_ns; /* of the session, once it has been stopped */
};

static uint64_t cpu_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ULL + (uint64_t)ts.tv_nsec;
}

/* ---- records ------------------------------------------------------------------------- */

/*
 * Between a picture of what is resident and its use time passes, and a busy node
 * gives pages back that the picture shows. Such records wait until the picture has
 * been used. Faults wait with them, to be done in the right order, but are also done
 * at once: a page in the picture may have got its record only now. Returns true when
 * the record has been dealt with.
 */
static bool hold(struct session *s, const struct event *e, size_t size)
{
	bool range = e->kind == EVENT_UNMAP || e->kind == EVENT_MOVE_BEGIN ||
		     e->kind == EVENT_MOVE_END;

	if (!range && (e->kind != EVENT_RUN || !s->n_held))
		return false;
	if (size < (range ? sizeof(struct event_range) : sizeof(struct event_run)))
		return true;
	if (s->n_held == s->a_held) {
		size_t a = s->a_held ? s->a_held * 2 : 256;
		union held *v = a > HELD_MAX ? NULL : realloc(s->held, a * sizeof(*v));

		if (!v)
			return false;
		s->held = v;
		s->a_held = a;
	}
	memcpy(&s->held[s->n_held++], e,
	       range ? sizeof(struct event_range) : sizeof(struct event_run));
	return range;
}

static int on_record(void *ctx, void *data, size_t size)
{
	struct session *s = ctx;
	const struct event *e = data;
	const struct event_range *range = data;
	const struct event_run *run = data;

	if (size < sizeof(*e))
		return 0;
	s->records++;
	if (s->frozen && hold(s, e, size))
		return 0;
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
	case EVENT_RUN:
		if (size >= sizeof(*run)) {
			uint32_t owner =
				owner_get(s->stacks, run->run.stack, run->run.process, e->tid);
			uint64_t bytes = run->run.pages * TARGET_PAGE;

			if (owner) {
				struct owner *o = &s->stacks->owners[owner];

				o->gross += growth_fault(s->growth, run->run.start, bytes, owner);
				o->events++;
			}
		}
		break;
	case EVENT_SAMPLE:
		if (size >= sizeof(struct event_sample)) {
			const struct event_sample *sample = data;
			uint32_t owner =
				owner_get(s->stacks, sample->stack, sample->process, e->tid);

			if (owner)
				s->stacks->owners[owner].samples++;
		}
		break;
	case EVENT_UNMAP:
		if (size >= sizeof(*range))
			growth_gone(s->growth, range->start, range->bytes);
		break;
	case EVENT_MOVE_BEGIN:
		if (size >= sizeof(*range))
			growth_move_begin(s->growth, e->tid, range->start, range->bytes);
		break;
	case EVENT_MOVE_END:
		if (size >= sizeof(*range))
			growth_move_end(s->growth, e->tid, range->to, range->to_bytes);
		break;
	case EVENT_CODE:
		if (!s->code_came)
			s->code_came = session_now_ns();
		break;
	case EVENT_EXEC:
		s->execed = true;
		break;
	default:
		break;
	}
	return 0;
}

/* Runs that are still growing. They stay where they are and come as records
 * later; an owner is only taken once, so that does no harm. */
static void open_runs(struct session *s)
{
	const volatile struct run_slot *slots = s->runs_area.mem;

	for (unsigned i = 0; slots && i < RUN_SLOTS; i++) {
		struct event_run ev = { .e = { EVENT_RUN, slots[i].tid } };

		ev.run.start = slots[i].run.start;
		ev.run.pages = slots[i].run.pages;
		ev.run.stack = slots[i].run.stack;
		ev.run.process = slots[i].run.process;
		if (ev.run.pages && ev.run.start == slots[i].run.start)
			on_record(s, &ev, sizeof(ev));
	}
}

static void counters_read(struct session *s)
{
	struct cpu_state *cpu = calloc((size_t)s->cpus, sizeof(*cpu));
	uint32_t zero = 0;

	if (!cpu)
		return;
	if (!bpf_map_lookup_elem(bpf_map__fd(s->skel->maps.cpu_states), &zero, cpu)) {
		memset(s->count, 0, sizeof(s->count));
		for (int i = 0; i < s->cpus; i++)
			for (unsigned k = 0; k < COUNT_N; k++)
				s->count[k] += cpu[i].v[k];
	}
	free(cpu);
}

static void drain(struct session *s)
{
	if (s->ring)
		ring_buffer__consume(s->ring);
}

static void thaw(struct session *s)
{
	s->frozen = false;
	for (size_t i = 0; i < s->n_held; i++)
		on_record(s, &s->held[i], sizeof(s->held[i]));
	s->records -= s->n_held;
	s->n_held = 0;
}

void session_freeze(struct session *s)
{
	drain(s);
	if (!s->stopped)
		open_runs(s);
	s->frozen = true;
}

/* ---- what is mapped -------------------------------------------------------------------- */

/* Reads maps and images again and hands the kernel what is new. */
static int refresh(struct session *s, struct error *err)
{
	struct mappings *maps;
	struct images *images;
	int ret = mappings_read(s->target, &maps, err);

	if (ret < 0)
		return ret;
	ret = images_read(s->target, maps, &images, err);
	if (ret < 0) {
		mappings_free(maps);
		return ret;
	}
	images_free(s->images);
	mappings_free(s->maps);
	s->maps = maps;
	s->images = images;
	ret = unwind_update(s->tables.unwind, s->target, images);
	return ret < 0 ? ret : 0;
}

static void refresh_if_due(struct session *s)
{
	const struct residency *res;

	if (!s->code_came || session_now_ns() - s->code_came < REFRESH_NS)
		return;
	s->code_came = 0;
	if (s->code) {
		res = s->vm->res;
		s->vm->res = NULL;
		code_refresh(s->code, NULL);
		s->vm->res = res;
	}
	if (!refresh(s, NULL))
		tables_write(&s->tables, s->vm, s->code, s->maps, s->images);
}

/* ---- load and attach --------------------------------------------------------------------- */

static bool verbose;

static int libbpf_message(enum libbpf_print_level level, const char *format, va_list args)
{
	if (!verbose && level != LIBBPF_WARN)
		return 0;
	if (!verbose)
		return 0;
	return vfprintf(stderr, format, args);
}

static int open_failed(struct error *err, int ret, const char *what)
{
	if (ret == -EPERM || ret == -EACCES)
		return error_set(err, EXIT_DENIED, ret,
				 "%s the tracing programs was refused: it needs CAP_BPF and "
				 "CAP_PERFMON (run as root, or `setcap cap_bpf,cap_perfmon,"
				 "cap_sys_ptrace+ep` on the program)",
				 what);
	if (ret == -ENOMEM || ret == -E2BIG)
		return error_set(
			err, EXIT_UNSUPPORTED, ret,
			"%s the tracing programs failed: no memory for the kernel's tables, or "
			"the program is larger than this kernel takes",
			what);
	return error_set(err, EXIT_UNSUPPORTED, ret,
			 "%s the tracing programs failed (%s): this kernel lacks something that they "
			 "need; `beamray check` says what it has",
			 what, strerror(-ret));
}

/* Our pid namespace, as bpf_get_ns_current_pid_tgid() wants it; the initial one
 * needs no translation. */
static void pid_namespace(struct config *c)
{
	struct stat st;

	if (stat("/proc/self/ns/pid", &st) || st.st_ino == PID_NS_INIT_INO)
		return;
	c->ns_dev = st.st_dev;
	c->ns_ino = st.st_ino;
}

static uint32_t field(struct layout_field f)
{
	return f.offset >= 0 ? (uint32_t)f.offset : 0;
}

static void config_fill(struct session *s, struct config *c)
{
	const struct layout *l = s->vm ? s->vm->layout : NULL;
	struct code_range range;
	struct image_symbol sym;

	c->tgid = (uint32_t)target_pid(s->target);
	pid_namespace(c);
	if (!l || !s->code)
		return;
	c->flavor = s->vm->jit ? VM_JIT : VM_EMULATOR;
	c->sched_current_process = field(l->ErtsSchedulerData__current_process);
	c->proc_id = field(l->Process__common_id);
	c->proc_stop = field(l->Process__stop);
	c->proc_heap = field(l->Process__heap);
	c->proc_hend = field(l->Process__hend);
	c->proc_reg = field(l->Process__common_u_alive_reg);
	c->proc_initial = field(l->Process__u_initial_module);
	c->reg_name = field(l->RegProc__name);
	c->normal_exit = code_normal_exit(s->code);
	if (s->vm->jit) {
		if (!code_fragment(s->code, "global::process_main", &range)) {
			c->main_start = range.start;
			c->main_end = range.end;
		}
	} else if (s->vm->exe && image_symbol(s->vm->exe, "process_main", &sym)) {
		c->main_start = sym.addr;
		c->main_end = sym.addr + sym.size;
	}
}

static int schedulers_fill(struct session *s)
{
	int fd = bpf_map__fd(s->skel->maps.schedulers);
	const struct residency *res;
	struct scheduler *v;
	ssize_t n;

	if (!s->vm)
		return 0;
	res = s->vm->res;
	s->vm->res = NULL;
	n = schedulers_read(s->vm, &v);
	s->vm->res = res;
	if (n < 0)
		return 0; /* stacks will do without a process */
	for (ssize_t i = 0; i < n; i++) {
		struct thread_vm e = {
			.scheduler = v[i].addr,
			.role = v[i].kind == SCHEDULER_NORMAL	   ? ROLE_SCHEDULER
				: v[i].kind == SCHEDULER_DIRTY_CPU ? ROLE_DIRTY_CPU
								   : ROLE_DIRTY_IO,
			.number = v[i].number,
		};

		if (v[i].pthread)
			bpf_map_update_elem(fd, &v[i].pthread, &e, BPF_ANY);
	}
	free(v);
	return 0;
}

static uint32_t power_of_two(size_t n)
{
	uint32_t p = 4096;

	while (p < n && p < RING_MAX)
		p *= 2;
	return p;
}

static int threads_count(struct target *t)
{
	char *text, *p;
	int n = 0;

	if (target_proc_read(t, "status", 16384, &text) < 0)
		return 64;
	p = strstr(text, "\nThreads:");
	if (p)
		n = atoi(p + 9);
	free(text);
	return n > 0 && n < 65536 ? n : 64;
}

static int load(struct session *s, const struct session_opts *opts, struct error *err)
{
	struct memory_bpf *skel;
	int ret, threads = threads_count(s->target);

	libbpf_set_strict_mode(LIBBPF_STRICT_ALL);
	verbose = opts->verbose;
	libbpf_set_print(libbpf_message);
	if (access("/sys/kernel/btf/vmlinux", R_OK))
		return error_set(
			err, EXIT_UNSUPPORTED, -ENOTSUP,
			"this kernel has no BTF (/sys/kernel/btf/vmlinux): it was built "
			"without CONFIG_DEBUG_INFO_BTF, and tracing needs it; `beamray memory` "
			"works without");
	skel = memory_bpf__open();
	if (!skel)
		return open_failed(err, -errno, "opening");
	s->skel = skel;
	config_fill(s, (struct config *)&skel->rodata->cfg);
	bpf_map__set_max_entries(skel->maps.rows, (uint32_t)tables_rows_max(s->tables.unwind));
	bpf_map__set_max_entries(skel->maps.rules, (uint32_t)tables_rules_max(s->tables.unwind));
	bpf_map__set_max_entries(skel->maps.threads, (uint32_t)threads * 2 + 128);
	bpf_map__set_max_entries(skel->maps.events,
				 power_of_two(opts->ring_bytes ? opts->ring_bytes : RING_DEFAULT));
	if (!(s->probes & SESSION_GROWTH)) {
		struct bpf_program *prog;

		/* its maps are everybody's */
		bpf_object__for_each_program(prog, skel->obj)
			bpf_program__set_autoload(prog, false);
	}
	ret = memory_bpf__load(skel);
	if (ret)
		return open_failed(err, ret, "loading");
	ret = area_map(&s->control_area, bpf_map__fd(skel->maps.control), sizeof(*s->control), 1);
	if (ret)
		return open_failed(err, ret, "mapping the controls of");
	s->control = s->control_area.mem;
	ret = area_map(&s->runs_area, bpf_map__fd(skel->maps.runs), sizeof(struct run_slot),
		       RUN_SLOTS);
	if (ret)
		return open_failed(err, ret, "mapping the runs of");
	s->tables.active = &s->control->active;
	governor_start(&s->governor, opts->budget, &s->control->limits);
	ret = tables_map(&s->tables, bpf_map__fd(skel->maps.rows), bpf_map__fd(skel->maps.rules),
			 bpf_map__fd(skel->maps.tables));
	if (ret)
		return open_failed(err, ret, "mapping the tables of");
	ret = tables_write(&s->tables, s->vm, s->code, s->maps, s->images);
	if (ret)
		return ret;
	schedulers_fill(s);
	s->ring = ring_buffer__new(bpf_map__fd(skel->maps.events), on_record, s, NULL);
	if (!s->ring)
		return open_failed(err, -errno, "reading from");
	ret = s->probes & SESSION_GROWTH ? memory_bpf__attach(skel) : 0;
	if (ret)
		return open_failed(err, ret, "attaching");
	s->attached = true;
	if (s->probes & SESSION_CPU) {
		ret = samples_open(s->target, skel->obj, (const struct config *)&skel->rodata->cfg,
				   opts->frequency, &s->samples);
		if (ret)
			return open_failed(err, ret, "loading or attaching");
	}
	return 0;
}

int session_open(struct target *t, struct vm *vm, struct code *code,
		 const struct session_opts *opts, struct session **out, struct error *err)
{
	static const struct session_opts none;
	struct session *s = calloc(1, sizeof(*s));
	size_t bytes;
	int ret;

	*out = NULL;
	if (!s)
		return -ENOMEM;
	if (!opts)
		opts = &none;
	bytes = opts->user_bytes ? opts->user_bytes : USER_DEFAULT;
	s->target = t;
	s->vm = vm;
	s->code = code;
	s->probes = opts->probes ? opts->probes : SESSION_GROWTH;
	s->cpus = libbpf_num_possible_cpus();
	s->pidfd = (int)syscall(SYS_pidfd_open, target_pid(t), 0);
	ret = s->cpus > 0 ? target_check(t, err) : -EIO;
	if (!ret)
		ret = unwind_new(&s->tables.unwind);
	if (!ret)
		ret = stacks_new(bytes / 2, &s->stacks);
	if (!ret)
		ret = growth_new(bytes / 2, &s->growth);
	if (!ret)
		ret = names_new(vm, &s->names);
	if (!ret)
		ret = refresh(s, err);
	if (!ret)
		ret = load(s, opts, err);
	if (!ret && !opts->no_baseline)
		ret = session_baseline(s, NULL, NULL, err);
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
	if (s->attached)
		memory_bpf__detach(s->skel);
	samples_detach(s->samples);
	s->attached = false;
	drain(s);
	if (s->skel && s->ring) {
		open_runs(s);
		counters_read(s);
	}
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
	ring_buffer__free(s->ring);
	samples_close(s->samples);
	tables_unmap(&s->tables);
	area_unmap(&s->control_area);
	area_unmap(&s->runs_area);
	memory_bpf__destroy(s->skel);
	unwind_free(s->tables.unwind);
	stacks_free(s->stacks);
	growth_free(s->growth);
	names_free(s->names);
	free(s->held);
	images_free(s->images);
	mappings_free(s->maps);
	opening_free(s);
	if (s->pidfd >= 0)
		close(s->pidfd);
	free(s);
}

/* ---- running -------------------------------------------------------------------------------- */

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

int session_baseline(struct session *s, const struct residency *r, const struct mappings *m,
		     struct error *err)
{
	uint64_t before = cpu_ns();
	int ret = 0;

	/* what came before the picture does not count; what comes while it is
	 * taken is either in it or gets an owner */
	drain(s);
	thaw(s);
	opening_free(s);
	growth_begin(s->growth, NULL, NULL);
	for (size_t i = 1; i < s->stacks->n_owners; i++) {
		s->stacks->owners[i].gross = 0;
		s->stacks->owners[i].events = 0;
	}
	if (!r) {
		ret = picture(s, &s->opening, &s->opening_maps, err);
		r = s->opening;
		m = s->opening_maps;
	}
	if (!ret)
		ret = growth_begin(s->growth, r, m);
	s->governor.own_ns += cpu_ns() - before;
	return ret;
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

int session_poll(struct session *s, int ms, struct error *err)
{
	uint64_t until = session_now_ns() + (uint64_t)(ms > 0 ? ms : 0) * 1000000ULL;

	for (;;) {
		uint64_t before = cpu_ns(), now;
		bool interrupted = false;

		drain(s);
		if (!s->stopped) {
			refresh_if_due(s);
			counters_read(s);
			s->governor.own_ns += cpu_ns() - before;
			governor_tick(&s->governor, s->count, &s->control->limits);
		}
		now = session_now_ns();
		if (target_state(s, NULL))
			return target_state(s, err);
		if (now >= until)
			return 0;
		if (until - now > DRAIN_MS * 1000000ULL)
			now += DRAIN_MS * 1000000ULL;
		else
			now = until;
		now -= session_now_ns() < now ? session_now_ns() : now;
		if (s->pidfd >= 0) {
			struct pollfd p = { .fd = s->pidfd, .events = POLLIN };

			interrupted = poll(&p, 1, (int)((now + 999999) / 1000000)) < 0;
		} else {
			struct timespec ts = { 0, (long)(now % 1000000000ULL) };

			interrupted = nanosleep(&ts, NULL) < 0;
		}
		if (interrupted) {
			drain(s);
			return 0;
		}
	}
}

/* ---- results ------------------------------------------------------------------------------------ */

static int profile_owner(struct session *s, struct profile *p, const struct owner *o, int64_t net)
{
	const struct stack *k = stacks_find(s->stacks, o->stack);
	struct frame frames[STACK_FRAMES];
	size_t n;

	if (!net && !o->gross)
		return 0;
	if (!k) {
		p->without_stack += net;
		return 0;
	}
	n = stack_frames(s->stacks, k, frames);
	return profile_add(p, frames, n, o->process, o->tid,
			   names_label(s->names, o->process, o->tid), k->flags & STACK_COMPLETE,
			   net, (int64_t)o->gross, o->events);
}

static int profile_cpu(struct session *s, struct profile *p)
{
	struct frame frames[STACK_FRAMES];
	int ret = 0;

	if (!s->stopped)
		drain(s);
	for (size_t i = 1; !ret && i < s->stacks->n_owners; i++) {
		const struct owner *o = &s->stacks->owners[i];
		const struct stack *k = o->samples ? stacks_find(s->stacks, o->stack) : NULL;

		if (k)
			ret = profile_add(p, frames, stack_frames(s->stacks, k, frames), o->process,
					  o->tid, names_label(s->names, o->process, o->tid),
					  k->flags & STACK_COMPLETE, (int64_t)o->samples,
					  (int64_t)o->samples, o->samples);
		else
			p->without_stack += (int64_t)o->samples;
	}
	return ret;
}

static int profile_growth(struct session *s, const struct residency *closing,
			  const struct mappings *maps, struct profile *p, struct error *err)
{
	struct residency *own = NULL;
	struct mappings *own_maps = NULL;
	int64_t *net;
	int ret = 0;

	if (!s->frozen)
		session_freeze(s);
	if (!closing && !target_state(s, NULL)) {
		ret = picture(s, &own, &own_maps, NULL);
		/* a process that dies has no memory for a while before it has ended */
		if (ret && ret != -ESRCH && !target_state(s, NULL)) {
			thaw(s);
			return picture(s, &own, &own_maps, err);
		}
		closing = own; /* NULL if it ended meanwhile: without a picture then */
		maps = own_maps;
	}
	if (!s->stopped) {
		drain(s);
		open_runs(s);
	}
	net = calloc(s->stacks->n_owners, sizeof(*net));
	if (!net)
		ret = -ENOMEM;
	else
		ret = growth_account(s->growth, closing, maps, net, s->stacks->n_owners, &s->sum);
	for (size_t i = 1; !ret && i < s->stacks->n_owners; i++)
		ret = profile_owner(s, p, &s->stacks->owners[i], net[i]);
	p->without_stack += (int64_t)s->sum.unowned;
	thaw(s);
	free(net);
	residency_free(own);
	mappings_free(own_maps);
	return ret;
}

int session_profile(struct session *s, const char *kind, const struct residency *closing,
		    const struct mappings *maps, struct profile **out, struct error *err)
{
	uint64_t before = cpu_ns();
	struct profile *p;
	bool growth;
	int ret;

	*out = NULL;
	growth = !strcmp(kind, "growth");
	if (growth ? !(s->probes & SESSION_GROWTH) : strcmp(kind, "cpu") != 0 || !s->samples)
		return -ENOENT;
	p = profile_new(kind, growth ? "bytes" : "samples");
	if (!p)
		return -ENOMEM;
	ret = growth ? profile_growth(s, closing, maps, p, err) : profile_cpu(s, p);
	if (ret) {
		profile_free(p);
		return ret;
	}
	counters_read(s);
	p->lost_events = s->count[COUNT_LOST_EVENTS];
	p->lost_stacks = s->count[COUNT_LOST_STACKS] + s->stacks->lost;
	profile_sort(p);
	s->governor.own_ns += cpu_ns() - before;
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

void session_stats(struct session *s, struct session_stats *out)
{
	uint64_t end = s->stopped ? s->end_ns : session_now_ns();
	struct bpf_map *map;

	memset(out, 0, sizeof(*out));
	counters_read(s);
	out->seconds = (double)(end - s->governor.start_ns) / 1e9;
	memcpy(out->count, s->count, sizeof(out->count));
	out->records = s->records;
	out->lost_records = s->count[COUNT_LOST_EVENTS] + s->count[COUNT_LOST_STACKS];
	out->missed = programs_missed(s->skel->obj);
	out->lost_stacks = s->stacks->lost;
	out->stacks = s->stacks->n;
	out->owners = s->stacks->n_owners - 1;
	bpf_object__for_each_map(map, s->skel->obj)
		out->kernel_bytes += map_bytes(bpf_map__fd(map));
	out->user_bytes = stacks_bytes(s->stacks) + growth_bytes(s->growth) + names_bytes(s->names);
	out->modules = s->tables.unwind->n_modules;
	out->modules_without = s->tables.unwind->without;
	out->rows = s->tables.unwind->n_rows;
	out->rules = s->tables.unwind->n_rules;
	out->kernel_ns = governor_kernel_ns(s->count);
	out->own_ns = s->governor.own_ns;
	if (out->seconds > 0)
		out->cpu_fraction = (double)(out->kernel_ns + out->own_ns) / 1e9 / out->seconds;
	out->cpu_now = s->governor.now;
	out->thinned = s->governor.level > 0;
	out->over_budget = s->governor.over;
	out->growth = s->sum;
}

double session_complete(const struct session_stats *st)
{
	uint64_t n = st->count[COUNT_STACKS];

	return n ? (double)st->count[COUNT_COMPLETE] / (double)n : 1;
}
