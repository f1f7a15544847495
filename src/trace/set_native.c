// SPDX-License-Identifier: Apache-2.0
/*
 * Native memory: probes on the functions of whoever serves malloc.
 *
 * Probed are the functions that the others are made of. strdup, getline, operator new and
 * reallocarray call malloc or realloc as everybody does; an inner call of a
 * function that is probed itself (valloc calls memalign) is left out by the programs.
 * Functions that are one (memalign and aligned_alloc, up to glibc 2.36) get one probe.
 *
 * Blocks of enif_alloc and driver_alloc are not ours: they lie in carriers of the VM,
 * which takes them by mmap or, counted here for the VM, by malloc. Those functions consist
 * of a few moves and an indirect jump, all of which the kernel would have to single-step;
 * their blocks carry tags that name the owner, without any probe (erts/carrier.h).
 *
 * What is held is in the kernel's map of blocks, and is added up from there when a
 * profile is asked for: there is no record for a call, however many there are.
 */
#include "trace/set.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <bpf/bpf.h>

#include "libc/glibc.h"
#include "native.skel.h"
#include "target/escape.h"
#include "trace/session_int.h"
#include "trace/uprobes.h"

#define BLOCKS_DEFAULT (256u << 10)
#define BLOCKS_MAX     (16u << 20)
#define BATCH	       4096u
#define CALLS_SPARE    8192u /* threads that may be in a call, beside those there are now */
#define HIT_NS	       900   /* of a breakpoint, and of a return: in a virtual machine */
#define LEVELS	       8     /* at the last blocks below 64 KiB are drawn */
#define UNIT_FIRST     512u

static const struct function {
	const char *name;
	enum native_kind kind;
	unsigned need;	/* always */
	unsigned sized; /* and where the allocator does not tell a block's size */
} functions[] = {
	{ "malloc", NATIVE_ALLOC, 0, SITE_ARG0 },
	{ "calloc", NATIVE_ARRAY, 0, SITE_ARG0 | SITE_ARG1 },
	{ "realloc", NATIVE_REALLOC, SITE_ARG0 | SITE_ARG1, 0 },
	{ "posix_memalign", NATIVE_OUT, SITE_ARG0, SITE_ARG2 },
	{ "memalign", NATIVE_ALIGNED, 0, SITE_ARG1 },
	{ "aligned_alloc", NATIVE_ALIGNED, 0, SITE_ARG1 },
	{ "valloc", NATIVE_ALLOC, 0, SITE_ARG0 },
	{ "pvalloc", NATIVE_ALLOC, 0, SITE_ARG0 },
};
#define N_FUNCTIONS (sizeof(functions) / sizeof(functions[0]))

/* Libraries that allocate for whoever calls them. */
static const char *const go_between[] = { "libstdc++.", "libgcc_s.", "libc.", "libc-", "ld-" };

struct native_set {
	struct set set;
	struct native_bpf *skel;
	struct tables_area control_area;
	struct native_control *control; /* shared with the programs */
	struct uprobes *uprobes;
	char *library, *server;
	char refused[400];
	size_t capacity;
	uint64_t thinned; /* the highest unit that the governor asked for */
	struct uprobes_traces traces;
	uint64_t base[COUNT_N]; /* counters as of the last baseline */
};

static struct native_set *self(struct set *set)
{
	return (struct native_set *)set;
}

/* ---- which library ---------------------------------------------------------------------- */

static void ranges_add(struct code_area *v, uint32_t *n, const struct image *i)
{
	size_t n_segments;
	const struct image_segment *seg = image_segments(i, &n_segments);

	for (size_t k = 0; k < n_segments && *n < NATIVE_RANGES; k++)
		if (seg[k].exec)
			v[(*n)++] = (struct code_area){ seg[k].start, seg[k].end };
}

static void server_find(struct native_set *n, const struct image *server)
{
	struct code_area code[NATIVE_RANGES];
	uint32_t n_code = 0;

	ranges_add(code, &n_code, server);
	if (n_code) {
		n->control->server.start = code[0].start;
		n->control->server.end = code[n_code - 1].end;
	}
}

static bool is_go_between(const struct image *i)
{
	for (size_t k = 0; k < sizeof(go_between) / sizeof(go_between[0]); k++)
		if (!strncmp(image_name(i), go_between[k], strlen(go_between[k])))
			return true;
	return false;
}

/* Where the library's code is, and that of those between it and malloc. */
static int library_find(struct native_set *n, const struct images *images,
			const struct image *server, struct error *err)
{
	struct native_control *c = n->control;
	char text[200];

	if (!n->library)
		return 0;
	ranges_add(c->through, &c->n_through, server);
	for (size_t k = 0; k < images->n; k++) {
		const struct image *i = images->v[k];

		if (!strcmp(image_name(i), n->library))
			ranges_add(c->wanted, &c->n_wanted, i);
		else if (i != server && is_go_between(i))
			ranges_add(c->through, &c->n_through, i);
	}
	if (c->n_wanted)
		return 0;
	escape_string(text, sizeof(text), n->library);
	return error_set(err, EXIT_UNSUPPORTED, -ENOENT,
			 "the target has no library %s mapped: give its file name, as in "
			 "crypto.so, after it has been loaded",
			 text);
}

/* ---- sites -------------------------------------------------------------------------------- */

static void refused_add(struct native_set *n, const char *sentence)
{
	size_t at = strlen(n->refused);

	snprintf(n->refused + at, sizeof(n->refused) - at, "%s%s", at ? "; " : "", sentence);
}

/* Fills `v` (N_FUNCTIONS + 1). Returns how many there are; malloc, realloc and free must
 * be among them. */
static int sites_find(struct native_set *n, struct image *server, bool chunks, struct uprobe *v,
		      struct error *err)
{
	int found = 0, ret;

	for (size_t k = 0; k < N_FUNCTIONS; k++) {
		const struct function *f = &functions[k];
		struct uprobe *p = &v[found];
		struct error why = { 0 };
		struct image_symbol sym;
		bool twice = false;

		if (k && !image_symbol(server, f->name, &sym))
			continue; /* it has none: nobody can call it */
		ret = site_find_symbol(server, f->name,
				       SITE_RETURN | f->need | (chunks ? 0 : f->sized), &p->site,
				       &why);
		if (ret) {
			if (k == 0 || f->kind == NATIVE_REALLOC) {
				if (err && err->code == EXIT_OK)
					*err = why;
				return ret;
			}
			refused_add(n, why.text);
			continue;
		}
		for (int j = 0; j < found; j++)
			twice = twice || v[j].site.addr == p->site.addr;
		if (twice)
			continue;
		p->cookie = (uint64_t)found << 32 | f->kind;
		p->leave = true;
		n->control->functions[found] = p->site.addr;
		n->control->cookies[found++] = p->cookie;
	}
	memset(&v[found], 0, sizeof(v[found]));
	ret = site_find_symbol(server, "free", SITE_ARG0, &v[found].site, err);
	if (ret)
		return ret;
	v[found].cookie = v[found].site.depth;
	n->control->functions[found] = v[found].site.addr;
	n->control->cookies[found] = v[found].cookie;
	return found + 1;
}

static struct uprobe_programs programs(const struct native_set *n)
{
	return (struct uprobe_programs){ .entry = n->skel->progs.native_free,
					 .session = n->skel->progs.native_session,
					 .enter = n->skel->progs.native_enter,
					 .leave = n->skel->progs.native_leave };
}

static int native_attach(struct set *set, struct error *err)
{
	struct native_set *n = self(set);
	struct session *s = set->session;
	struct uprobe_programs p = programs(n);
	struct uprobe v[N_FUNCTIONS + 1];
	struct image *server;
	bool chunks = false;
	int ret, sites;

	ret = session_refresh(s, err);
	if (ret)
		return ret;
	server = libc_malloc_image(s->target, s->images, &chunks);
	if (!server)
		return error_set(err, EXIT_UNSUPPORTED, -ENOENT,
				 "which library serves the target's malloc is not known");
	n->server = strdup(image_name(server));
	if (!n->server)
		return -ENOMEM;
	n->control->chunks = chunks;
	server_find(n, server);
	ret = library_find(n, s->images, server, err);
	if (ret)
		return ret;
	sites = sites_find(n, server, chunks, v, err);
	if (sites < 0)
		return sites;
	return uprobes_attach(&p, server, target_pid(s->target), v, (size_t)sites, &n->uprobes,
			      err);
}

static void native_detach(struct set *set)
{
	struct native_set *n = self(set);

	uprobes_detach(n->uprobes);
	n->uprobes = NULL;
	uprobes_traces(set->session->target, n->control->server.start, n->control->server.end,
		       &n->traces);
}

/* ---- load --------------------------------------------------------------------------------- */

static void native_thin(struct set *set, unsigned level)
{
	struct native_set *n = self(set);

	n->control->unit = level ? UNIT_FIRST << (level - 1) : 0;
	if (n->control->unit > n->thinned)
		n->thinned = n->control->unit;
}

static void native_close(struct set *set)
{
	struct native_set *n = self(set);

	uprobes_detach(n->uprobes);
	area_unmap(&n->control_area);
	native_bpf__destroy(n->skel);
	free(n->library);
	free(n->server);
	free(n);
}

static int load(struct native_set *n, struct error *err)
{
	struct native_bpf *skel = native_bpf__open();
	struct uprobe_programs p;
	int ret;

	if (!skel)
		return set_failed(err, -errno, "opening");
	n->skel = skel;
	bpf_map__set_max_entries(skel->maps.native_blocks, (uint32_t)n->capacity);
	bpf_map__set_max_entries(skel->maps.native_calls,
				 CALLS_SPARE + 4 * session_threads(n->set.session));
	p = programs(n);
	uprobes_prepare(&p);
	ret = set_load(&n->set, skel->obj, &skel->rodata->cfg, err);
	if (ret)
		return ret;
	ret = area_map(&n->control_area, bpf_map__fd(skel->maps.native_control),
		       sizeof(*n->control), 1);
	if (ret)
		return set_failed(err, ret, "mapping the tables of");
	n->control = n->control_area.mem;
	n->control->capacity = n->capacity;
	return 0;
}

static int native_open(struct session *s, const void *opts, struct set **out, struct error *err)
{
	const struct set_native_opts *o = opts;
	struct native_set *n = calloc(1, sizeof(*n));
	int ret = 0;

	*out = NULL;
	if (!n)
		return -ENOMEM;
	n->set.class = &set_native;
	n->set.session = s;
	n->capacity = o && o->blocks ? o->blocks : BLOCKS_DEFAULT;
	if (n->capacity > BLOCKS_MAX)
		n->capacity = BLOCKS_MAX;
	if (o && o->library) {
		n->library = strdup(o->library);
		ret = n->library ? 0 : -ENOMEM;
	}
	if (!ret)
		ret = load(n, err);
	if (ret) {
		native_close(&n->set);
		return ret;
	}
	*out = &n->set;
	return 0;
}

/* ---- results ------------------------------------------------------------------------------ */

static int native_baseline(struct set *set, const struct set_picture *now, struct error *err)
{
	struct session *s = set->session;

	(void)err;
	if (!now) {
		self(set)->control->epoch++;
		session_counters(s);
		memcpy(self(set)->base, s->count[SET_NATIVE], sizeof(s->count[SET_NATIVE]));
	}
	return 0;
}

static void block_add(struct set *set, struct weights *w, struct profile *p,
		      const struct native_block *b)
{
	uint32_t owner = b->stack ? set_owner(set, b->stack, b->process, b->tid) : 0;
	struct weight *to = owner ? weights_at(w, owner) : NULL;

	if (!to) {
		p->without_stack += (int64_t)b->bytes;
		return;
	}
	to->net += (int64_t)b->bytes;
	to->gross += b->bytes;
	to->count += b->blocks;
}

/* The map changes while it is read: what is given out or freed meanwhile may be in or
 * not; a block that was there all the time is there once, but for a bucket that is so
 * long that the batch must be made larger. */
static int blocks_add(struct native_set *n, struct weights *w, struct profile *p)
{
	uint32_t size = BATCH, count, batch = 0, *last = NULL, epoch = n->control->epoch;
	uint64_t *keys = NULL;
	struct native_block *blocks = NULL;
	int fd = bpf_map__fd(n->skel->maps.native_blocks), ret = 0;

	while (!ret) {
		if (!keys) {
			keys = calloc(size, sizeof(*keys));
			blocks = calloc(size, sizeof(*blocks));
			if (!keys || !blocks) {
				ret = -ENOMEM;
				break;
			}
		}
		count = size;
		ret = bpf_map_lookup_batch(fd, last, &batch, keys, blocks, &count, NULL);
		if (ret && errno == ENOSPC && size < n->capacity) {
			free(keys);
			free(blocks);
			keys = NULL;
			blocks = NULL;
			size *= 2;
			ret = 0;
			continue;
		}
		ret = ret ? -errno : 0;
		if (ret && ret != -ENOENT)
			break;
		for (uint32_t k = 0; k < count; k++)
			if (blocks[k].epoch == epoch)
				block_add(&n->set, w, p, &blocks[k]);
		last = &batch;
	}
	free(keys);
	free(blocks);
	return ret == -ENOENT ? 0 : ret;
}

static int native_profile(struct set *set, const char *kind, const struct set_picture *closing,
			  struct profile *p, struct error *err)
{
	struct native_set *n = self(set);
	struct weights w = { 0 };
	int ret;

	(void)kind;
	(void)closing;
	(void)err;
	ret = blocks_add(n, &w, p);
	for (size_t i = 0; i < w.n; i++)
		w.v[i].count = (w.v[i].count + 128) / 256;
	if (!ret)
		ret = set_profile_all(set, p, &w);
	weights_free(&w);
	return ret;
}

void session_native_sum(struct session *s, struct native_sum *out)
{
	struct set *set = session_set(s, &set_native);
	const uint64_t *count = s->count[SET_NATIVE];
	const struct native_set *n;

	memset(out, 0, sizeof(*out));
	if (!set)
		return;
	n = self(set);
	session_counters(s);
	out->allocs = count[COUNT_ALLOCS] - n->base[COUNT_ALLOCS];
	out->frees = count[COUNT_FREES] - n->base[COUNT_FREES];
	out->failed = count[COUNT_FAILED] - n->base[COUNT_FAILED];
	out->before = count[COUNT_BEFORE] - n->base[COUNT_BEFORE];
	out->before_bytes = count[COUNT_BEFORE_BYTES] - n->base[COUNT_BEFORE_BYTES];
	out->undrawn = count[COUNT_UNDRAWN] - n->base[COUNT_UNDRAWN];
	out->missed_frees = count[COUNT_MISSED_FREES] - n->base[COUNT_MISSED_FREES];
	out->full = count[COUNT_FULL] - n->base[COUNT_FULL];
	out->full_bytes = count[COUNT_FULL_BYTES] - n->base[COUNT_FULL_BYTES];
	out->noted = n->control->live;
	out->unit = n->control->unit_top;
	out->refused = n->refused;
	out->server = n->server ? n->server : "";
	out->asked = n->server && !n->control->chunks;
	out->mapping_bytes = n->traces.mapping_bytes;
	out->copied_bytes = n->traces.copied_bytes;
}

/* The governor's own words are about stacks. */
static void native_tick(struct set *set)
{
	struct native_set *n = self(set);

	if (set->attached && n->control->unit_top)
		snprintf(set->notice, sizeof(set->notice),
			 "native: blocks smaller than %llu bytes are drawn at random, in proportion "
			 "to their size, to stay within %s",
			 (unsigned long long)n->control->unit_top,
			 n->control->unit_top <= n->thinned ? "the budget" : "the room for them");
}

static const struct set_profile_kind kinds[] = { { "native", "bytes" }, { NULL, NULL } };

const struct set_class set_native = {
	.name = "native",
	.id = SET_NATIVE,
	.kinds = kinds,
	.hit_ns = HIT_NS,
	.levels = LEVELS,
	.on_demand = true,
	.open = native_open,
	.attach = native_attach,
	.baseline = native_baseline,
	.profile = native_profile,
	.thin = native_thin,
	.tick = native_tick,
	.detach = native_detach,
	.close = native_close,
};
