// SPDX-License-Identifier: Apache-2.0
/*
 * The maps that all programs share: made, filled, and given to the programs of a set
 * when it is loaded. Unwind tables and schedulers are in the kernel before anything
 * is attached, so that the first stack is as good as any.
 */
#include "trace/session_int.h"

#include <errno.h>
#include <linux/capability.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <bpf/bpf.h>

#include "base.skel.h"
#include "erts/process.h"
#include "target/privileges.h"

#define RING_DEFAULT	(4u << 20)
#define RING_MAX	(256u << 20)
#define PID_NS_INIT_INO 0xeffffffcUL /* include/linux/proc_ns.h: PROC_PID_INIT_INO */

static bool verbose;

static int libbpf_message(enum libbpf_print_level level, const char *format, va_list args)
{
	(void)level;
	return verbose ? vfprintf(stderr, format, args) : 0;
}

int set_failed(struct error *err, int ret, const char *what)
{
	bool refused = ret == -EPERM || ret == -EACCES;

	if (refused && privilege_has(CAP_BPF) && privilege_has(CAP_PERFMON))
		return error_set(err, EXIT_UNSUPPORTED, ret,
				 "%s the tracing programs was refused, and not for want of CAP_BPF "
				 "or CAP_PERFMON: %s",
				 what,
				 ret == -EACCES
					 ? "this kernel's verifier does not accept them (-v shows "
					   "what it says)"
					 : "the kernel is locked down, or a container's filter "
					   "forbids bpf(2)");
	if (refused)
		return error_set(err, EXIT_DENIED, ret,
				 "%s the tracing programs was refused: it needs CAP_BPF and "
				 "CAP_PERFMON (run as root, or `setcap cap_bpf,cap_perfmon,"
				 "cap_sys_ptrace,cap_dac_read_search+ep` on the program)",
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

/* Where the emulator's own data and code are. */
static void extents_fill(const struct image *exe, struct config *c)
{
	const struct image_segment *v;
	size_t n;

	v = image_segments(exe, &n);
	for (size_t i = 0; i < n; i++) {
		if (!c->exe_end || v[i].start < c->exe_start)
			c->exe_start = v[i].start;
		if (v[i].end > c->exe_end)
			c->exe_end = v[i].end;
		if (v[i].exec && !c->text_end) {
			c->text_start = v[i].start;
			c->text_end = v[i].end;
		}
	}
}

static void config_fill(struct session *s)
{
	struct config *c = &s->config;
	const struct layout *l = s->vm ? s->vm->layout : NULL;
	struct code_range range;
	const char *untold = getenv("BEAMRAY_UNTOLD");
	struct image_symbol sym;
	uint64_t mask;

	c->tgid = (uint32_t)target_pid(s->target);
	c->untold = untold ? (uint32_t)strtoul(untold, NULL, 10) : 0;
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
	c->sched_ssi = field(l->ErtsSchedulerData__ssi);
	c->ssi_flags = field(l->ErtsSchedulerSleepInfo__flags);
	c->sched_current_nif = field(l->ErtsSchedulerData__current_nif);
	c->sched_current_port = field(l->ErtsSchedulerData__current_port);
	c->proc_state = field(l->Process__state);
	c->proc_reds = field(l->Process__reds);
	c->psflg_gc = (uint32_t)l->psflg_gc;
	c->normal_exit = code_normal_exit(s->code);
	c->code_word = code_watch(s->code, &mask);
	c->code_mask = mask;
	if (s->vm->jit) {
		if (!code_fragment(s->code, "global::process_main", &range)) {
			c->main_start = range.start;
			c->main_end = range.end;
		}
	} else if (s->vm->exe && image_symbol(s->vm->exe, "process_main", &sym)) {
		c->main_start = sym.addr;
		c->main_end = sym.addr + sym.size;
		extents_fill(s->vm->exe, c);
	}
}

static int schedulers_fill(struct session *s)
{
	int fd = bpf_map__fd(s->base->maps.schedulers);
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

int session_refresh(struct session *s, struct error *err)
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
	if (ret >= 0 && s->control) /* else there are no tables in the kernel yet */
		ret = tables_write(&s->tables, s->vm, s->code, s->maps, s->images);
	return ret < 0 ? ret : 0;
}

static int load_base(struct session *s, const struct session_opts *opts, struct error *err)
{
	struct base_bpf *skel = base_bpf__open();
	int ret;

	if (!skel)
		return set_failed(err, -errno, "opening");
	s->base = skel;
	memcpy((void *)&skel->rodata->cfg, &s->config, sizeof(s->config));
	bpf_map__set_max_entries(skel->maps.rows, (uint32_t)tables_rows_max(s->tables.unwind));
	bpf_map__set_max_entries(skel->maps.rules, (uint32_t)tables_rules_max(s->tables.unwind));
	bpf_map__set_max_entries(skel->maps.threads, s->threads);
	bpf_map__set_max_entries(skel->maps.events,
				 power_of_two(opts->ring_bytes ? opts->ring_bytes : RING_DEFAULT));
	ret = base_bpf__load(skel);
	return ret ? set_failed(err, ret, "loading") : 0;
}

int session_load(struct session *s, const struct session_opts *opts, ring_buffer_sample_fn record,
		 struct error *err)
{
	int ret;

	libbpf_set_strict_mode(LIBBPF_STRICT_ALL);
	verbose = opts->verbose;
	libbpf_set_print(libbpf_message);
	if (access("/sys/kernel/btf/vmlinux", R_OK))
		return error_set(
			err, EXIT_UNSUPPORTED, -ENOTSUP,
			"this kernel has no BTF (/sys/kernel/btf/vmlinux): it was built "
			"without CONFIG_DEBUG_INFO_BTF, and tracing needs it; `beamray memory` "
			"works without");
	s->threads = (unsigned)threads_count(s->target) * 2 + 128;
	config_fill(s);
	ret = load_base(s, opts, err);
	if (ret)
		return ret;
	ret = area_map(&s->control_area, bpf_map__fd(s->base->maps.control), sizeof(*s->control),
		       1);
	if (ret)
		return set_failed(err, ret, "mapping the controls of");
	s->control = s->control_area.mem;
	s->tables.active = &s->control->active;
	ret = tables_map(&s->tables, bpf_map__fd(s->base->maps.rows),
			 bpf_map__fd(s->base->maps.rules), bpf_map__fd(s->base->maps.tables));
	if (ret)
		return set_failed(err, ret, "mapping the tables of");
	ret = tables_write(&s->tables, s->vm, s->code, s->maps, s->images);
	if (ret)
		return ret;
	schedulers_fill(s);
	s->ring = ring_buffer__new(bpf_map__fd(s->base->maps.events), record, s, NULL);
	if (!s->ring)
		return set_failed(err, -errno, "reading from");
	ret = session_code_open(s, bpf_map__fd(s->base->maps.wakes));
	if (ret)
		return set_failed(err, ret, "reading from");
	ret = base_bpf__attach(s->base);
	return ret ? set_failed(err, ret, "attaching") : 0;
}

void session_unload(struct session *s)
{
	session_code_close(s);
	ring_buffer__free(s->ring);
	tables_unmap(&s->tables);
	area_unmap(&s->control_area);
	base_bpf__destroy(s->base);
}

void session_counters(struct session *s)
{
	struct cpu_state *cpu = calloc((size_t)s->cpus, sizeof(*cpu));
	uint32_t zero = 0;

	if (!cpu)
		return;
	if (!bpf_map_lookup_elem(bpf_map__fd(s->base->maps.cpu_states), &zero, cpu)) {
		memset(s->count, 0, sizeof(s->count));
		for (int i = 0; i < s->cpus; i++)
			for (unsigned k = 0; k < SET_N; k++)
				for (unsigned j = 0; j < COUNT_N; j++)
					s->count[k][j] += cpu[i].v[k][j];
	}
	free(cpu);
}

int set_load(struct set *set, struct bpf_object *object, const volatile struct config *cfg,
	     struct error *err)
{
	const struct session *s = set->session;
	struct bpf_map *map;
	int ret;

	memcpy((void *)cfg, &s->config, sizeof(s->config));
	bpf_object__for_each_map(map, object)
	{
		struct bpf_map *first;

		if (strchr(bpf_map__name(map), '.'))
			continue; /* .rodata and the like */
		first = bpf_object__find_map_by_name(s->base->obj, bpf_map__name(map));
		ret = first ? bpf_map__reuse_fd(map, bpf_map__fd(first)) : 0;
		if (ret)
			return set_failed(err, ret, "sharing the tables of");
	}
	ret = bpf_object__load(object);
	if (ret)
		return set_failed(err, ret, "loading");
	set->object = object;
	return 0;
}
