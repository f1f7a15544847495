/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Code addresses of the VM.
 *
 * Since OTP 24 a BEAM on x86-64 compiles what it loads to machine code. Its
 * addresses are in no symbol table of any file, but the VM itself tells them:
 * to gdb, by a list in memory that is always kept (code_jit.c). Where that is
 * missing - the emulator, a JIT build of a form that we do not know - there is
 * the table by which the VM itself finds a function for an address
 * (code_ranges.c). Either way this file gets modules, each with its functions
 * and lines, and answers: what is at this address?
 *
 *       loaded, by address                          purged, by address
 *       +-------+  +----------+  +-----+            +-------+
 *       | lists |  | gen      |  | sup |            | gen   |
 *       +-------+  +----------+  +-----+            +--+----+--+
 *                                                      | old_x |     may overlap
 *                                                      +-------+
 *
 * Code comes and goes while we watch, and addresses are used again. So a module
 * that has gone is kept with the time at which it was last seen: a sample that
 * was taken before then still finds it. Loaded modules are disjoint, for a
 * newer one pushes an older one that it overlaps out to the purged; among
 * purged ones the newest that fits the time wins.
 *
 * A module is recognised at the next look by where its metadata is, how long it
 * is and its first bytes, and by its place in the list: new ones come at the
 * head only, so what matches must match in the old order. Otherwise an entry
 * freed and used again for a reload of the same module could pass as the old
 * one.
 *
 * Return addresses. A call may be the last instruction of its function (nothing
 * returns from erlang:error/1), so the address behind it belongs to whatever
 * comes next. Lookups of return addresses go one byte back. The VM's own lines
 * are recorded for exactly that address.
 */
#include "erts/code.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "erts/code_store.h"

struct code {
	struct vm *vm;
	enum code_source source;
	uint64_t anchor;
	struct code_jit_header header;

	struct code_module **listed; /* in the VM's order */
	size_t n_listed;
	struct code_module **loaded; /* by start, disjoint */
	size_t n_loaded;
	struct code_module **purged; /* by start, then by age */
	uint64_t *purged_end;	     /* largest end of purged[0..i] */
	size_t n_purged;

	uint64_t seq;
	size_t live_bytes, purged_bytes;
	uint64_t dropped;
	unsigned retries, gaps;

	struct code_builder builder; /* kept, so that a refresh does not allocate */
	unsigned char *buf;
	size_t buf_size;
};

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* ---- refreshing ----------------------------------------------------------- */

struct by_entry {
	uint64_t entry;
	size_t index;
};

static int compare_by_entry(const void *a, const void *b)
{
	const struct by_entry *x = a, *y = b;

	if (x->entry != y->entry)
		return x->entry < y->entry ? -1 : 1;
	return x->index < y->index ? -1 : x->index > y->index;
}

/* known[i]: the module that candidate i is, or NULL for a new one. */
static int match(const struct code *c, const struct code_candidates *k, struct code_module **known)
{
	struct by_entry *index, *hit, key = { 0, 0 };
	size_t i, limit = c->n_listed;

	if (!c->n_listed || !k->n)
		return 0;
	index = calloc(c->n_listed, sizeof(*index));
	if (!index)
		return -ENOMEM;
	for (i = 0; i < c->n_listed; i++) {
		index[i].entry = c->listed[i]->entry;
		index[i].index = i;
	}
	qsort(index, c->n_listed, sizeof(*index), compare_by_entry);
	for (i = k->n; i-- > 0;) {
		size_t low = 0, high = c->n_listed;

		key.entry = k->v[i].entry;
		while (low < high) {
			size_t mid = low + (high - low) / 2;

			if (compare_by_entry(&index[mid], &key) < 0)
				low = mid + 1;
			else
				high = mid;
		}
		hit = low < c->n_listed ? &index[low] : NULL;
		if (!hit || hit->entry != key.entry || (k->ordered && hit->index >= limit) ||
		    !code_candidate_is(&k->v[i], c->listed[hit->index]))
			continue;
		known[i] = c->listed[hit->index];
		limit = hit->index;
	}
	free(index);
	return 0;
}

static int compare_start(const void *a, const void *b)
{
	const struct code_module *x = *(struct code_module *const *)a;
	const struct code_module *y = *(struct code_module *const *)b;

	if (x->start != y->start)
		return x->start < y->start ? -1 : 1;
	return x->seq < y->seq ? -1 : x->seq > y->seq;
}

static int compare_age(const void *a, const void *b)
{
	const struct code_module *x = *(struct code_module *const *)a;
	const struct code_module *y = *(struct code_module *const *)b;

	if (x->last_seen != y->last_seen)
		return x->last_seen > y->last_seen ? -1 : 1;
	return x->seq > y->seq ? -1 : x->seq < y->seq;
}

/* Up to OTP 25 the list only grows. What was listed once need not be looked at
 * again, and a module that is overwritten is as good as gone. */
static bool only_grows(const struct code *c)
{
	return c->source == CODE_JIT && c->vm->layout->otp_major <= 25;
}

struct extent {
	uint64_t start, end;
	size_t index; /* among the candidates: smaller is newer */
};

static int compare_extents(const void *a, const void *b)
{
	const struct extent *x = a, *y = b;

	if (x->start != y->start)
		return x->start < y->start ? -1 : 1;
	return x->index < y->index ? -1 : x->index > y->index;
}

/* A list that only grows may have had 100,000 loads before we came. Which of
 * them are overwritten can be told from where they lie; no sample of ours can
 * be in those. */
static int skip_overwritten(const struct code_candidates *k, bool *skip)
{
	struct extent *v = calloc(k->n + 1, sizeof(*v));
	size_t i, n = 0, kept = 0;

	if (!v)
		return -ENOMEM;
	for (i = 0; i < k->n; i++)
		if (code_jit_extent(&k->v[i], &v[n].start, &v[n].end))
			v[n++].index = i;
	qsort(v, n, sizeof(*v), compare_extents);
	for (i = 0; i < n; i++) {
		bool keep = true;

		while (keep && kept && v[kept - 1].end > v[i].start) {
			if (v[kept - 1].index < v[i].index)
				keep = false;
			else
				skip[v[--kept].index] = true;
		}
		if (keep)
			v[kept++] = v[i];
		else
			skip[v[i].index] = true;
	}
	free(v);
	return 0;
}

/* From all listed modules the disjoint set of the newest. */
static void sweep(struct code *c)
{
	size_t i, n = 0;

	memcpy(c->loaded, c->listed, c->n_listed * sizeof(*c->loaded));
	qsort(c->loaded, c->n_listed, sizeof(*c->loaded), compare_start);
	for (i = 0; i < c->n_listed; i++) {
		struct code_module *m = c->loaded[i];

		m->loaded = m->start < m->end;
		while (m->loaded && n && c->loaded[n - 1]->end > m->start) {
			if (c->loaded[n - 1]->seq > m->seq)
				m->loaded = false;
			else
				c->loaded[--n]->loaded = false;
		}
		if (m->loaded)
			c->loaded[n++] = m;
	}
	c->n_loaded = n;
}

/* Puts what is not loaded into purged[], drops the oldest beyond the bound, and
 * makes it searchable. `gone` are the modules that left the list just now. */
static int file_purged(struct code *c, struct code_module **gone, size_t n_gone)
{
	struct code_module **v;
	uint64_t *ends, largest = 0;
	size_t i, n = 0, kept = 0;

	v = calloc(c->n_purged + n_gone + c->n_listed + 1, sizeof(*v));
	ends = calloc(c->n_purged + n_gone + c->n_listed + 1, sizeof(*ends));
	if (!v || !ends) {
		free(v);
		free(ends);
		return -ENOMEM;
	}
	for (i = 0; i < c->n_purged; i++)
		if (!c->purged[i]->listed)
			v[n++] = c->purged[i];
	for (i = 0; i < n_gone; i++)
		v[n++] = gone[i];
	qsort(v, n, sizeof(*v), compare_age);
	c->purged_bytes = 0;
	for (i = 0; i < n; i++) {
		if (c->purged_bytes + v[i]->bytes > CODE_PURGED_MAX) {
			code_module_free(v[i]);
			c->dropped++;
			continue;
		}
		c->purged_bytes += v[i]->bytes;
		v[kept++] = v[i];
	}
	/* Overwritten ones that are still listed stay with the list. */
	for (i = 0; i < c->n_listed; i++)
		if (!c->listed[i]->loaded && c->listed[i]->start < c->listed[i]->end)
			v[kept++] = c->listed[i];
	qsort(v, kept, sizeof(*v), compare_start);
	for (i = 0; i < kept; i++) {
		if (v[i]->end > largest)
			largest = v[i]->end;
		ends[i] = largest;
	}
	free(c->purged);
	free(c->purged_end);
	c->purged = v;
	c->purged_end = ends;
	c->n_purged = kept;
	return 0;
}

static int load(struct code *c, const struct code_candidate *k, struct code_module **out)
{
	if (c->source == CODE_JIT)
		return code_jit_load(c->vm, k, &c->builder, &c->buf, &c->buf_size, out, &c->header);
	return code_ranges_load(c->vm, k, &c->builder, out);
}

/* The new list from the candidates: what is known and what could be loaded.
 * -EAGAIN when too much of it was torn. */
static int take(struct code *c, const struct code_candidates *k, struct code_module **known,
		const bool *skip, struct code_module **fresh, unsigned *gaps, bool last_try)
{
	size_t i, bytes = 0;
	unsigned attempt;
	int ret;

	for (i = 0; i < k->n; i++)
		if (known[i])
			bytes += known[i]->bytes;
	for (i = 0; i < k->n; i++) {
		struct code_module *m = NULL;

		if (known[i] || skip[i])
			continue;
		ret = bytes > CODE_LIVE_MAX ? -ENOSPC : -EAGAIN;
		for (attempt = 0; attempt < CODE_TRIES && ret == -EAGAIN; attempt++) {
			ret = load(c, &k->v[i], &m);
			if (ret == -EAGAIN)
				c->retries++;
		}
		if (ret == -ENOMEM || ret == -ESRCH || ret == -ETIMEDOUT || ret == -EPERM)
			return ret;
		/* One that cannot be had: perhaps the list has moved on. */
		if (ret == -EAGAIN && !last_try)
			return ret;
		if (ret) {
			(*gaps)++;
			continue;
		}
		if (!m)
			continue; /* the header */
		m->entry = k->v[i].entry;
		m->symfile = k->v[i].symfile;
		m->size = k->v[i].size;
		m->head_len = k->v[i].head_len;
		memcpy(m->head, k->v[i].head, sizeof(m->head));
		bytes += m->bytes;
		fresh[i] = m;
	}
	return 0;
}

static void free_fresh(struct code_module **fresh, size_t n)
{
	size_t i;

	for (i = 0; fresh && i < n; i++)
		code_module_free(fresh[i]);
}

/* Puts the new list in place. Fails before it has changed anything. */
static int commit(struct code *c, size_t n, struct code_module **known, struct code_module **fresh)
{
	struct code_module **listed, **loaded, **gone;
	size_t i, n_listed = 0, n_gone = 0;
	uint64_t now = now_ns();
	int changes = 0, ret;

	listed = calloc(n + 1, sizeof(*listed));
	loaded = calloc(n + 1, sizeof(*loaded));
	gone = calloc(n + c->n_listed + 1, sizeof(*gone));
	if (!listed || !loaded || !gone) {
		free(listed);
		free(loaded);
		free(gone);
		return -ENOMEM;
	}
	for (i = 0; i < c->n_listed; i++)
		c->listed[i]->listed = false;
	for (i = n; i-- > 0;) { /* oldest first, for seq */
		struct code_module *m = known[i] ? known[i] : fresh[i];

		if (!m)
			continue;
		if (fresh[i]) {
			m->first_seen = now;
			changes++;
		}
		m->seq = ++c->seq; /* all of them: what is fresh need not be at the head */
		m->listed = true;
		m->last_seen = now;
	}
	c->live_bytes = 0;
	for (i = 0; i < n; i++) {
		struct code_module *m = known[i] ? known[i] : fresh[i];

		if (!m)
			continue;
		listed[n_listed++] = m;
		c->live_bytes += m->bytes;
	}
	for (i = 0; i < c->n_listed; i++) {
		if (c->listed[i]->listed)
			continue;
		c->listed[i]->loaded = false;
		/* An overwritten one is among the purged already. */
		gone[n_gone++] = c->listed[i];
		changes++;
	}
	for (i = 0; i < c->n_purged;) {
		size_t j;

		for (j = 0; j < n_gone && gone[j] != c->purged[i]; j++)
			;
		if (j < n_gone || c->purged[i]->listed)
			c->purged[i] = c->purged[--c->n_purged];
		else
			i++;
	}
	free(c->listed);
	free(c->loaded);
	c->listed = listed;
	c->n_listed = n_listed;
	c->loaded = loaded;
	sweep(c);
	if (only_grows(c)) {
		for (i = 0, n_listed = 0; i < c->n_listed; i++) {
			struct code_module *m = c->listed[i];

			/* the first one is where the next look stops */
			if (!i || m->loaded) {
				c->listed[n_listed++] = m;
				continue;
			}
			m->listed = false;
			c->live_bytes -= m->bytes;
			gone[n_gone++] = m;
		}
		c->n_listed = n_listed;
	}
	ret = file_purged(c, gone, n_gone);
	if (ret) { /* purged code is a convenience: without memory, without it */
		for (i = 0; i < c->n_purged; i++)
			code_module_free(c->purged[i]);
		for (i = 0; i < n_gone; i++)
			code_module_free(gone[i]);
		c->dropped += n_gone + c->n_purged;
		c->n_purged = 0;
	}
	free(gone);
	return changes;
}

static int refresh_once(struct code *c, bool last_try)
{
	struct code_candidates k = { NULL, 0, false };
	struct code_module **known = NULL, **fresh = NULL;
	const struct code_module *stop = only_grows(c) && c->n_listed ? c->listed[0] : NULL;
	bool *skip = NULL, met = false;
	unsigned gaps = 0;
	size_t n;
	int ret;

	if (c->source == CODE_JIT)
		ret = code_jit_list(c->vm, c->anchor, stop, &met, &k);
	else
		ret = code_ranges_list(c->vm, c->anchor, &k);
	if (ret)
		return ret;
	n = k.n + (met ? c->n_listed : 0);
	known = calloc(n + 1, sizeof(struct code_module *));
	fresh = calloc(n + 1, sizeof(struct code_module *));
	skip = calloc(n + 1, sizeof(*skip));
	ret = known && fresh && skip ? 0 : -ENOMEM;
	if (!ret && met && c->n_listed)
		memcpy(known + k.n, c->listed, c->n_listed * sizeof(struct code_module *));
	else if (!ret && !met)
		ret = match(c, &k, known);
	if (!ret && only_grows(c) && !met)
		ret = skip_overwritten(&k, skip);
	if (!ret)
		ret = take(c, &k, known, skip, fresh, &gaps, last_try);
	if (!ret)
		ret = commit(c, n, known, fresh);
	if (ret < 0)
		free_fresh(fresh, k.n);
	else if (!met || gaps)
		c->gaps = gaps;
	free(known);
	free(fresh);
	free(skip);
	free(k.v);
	return ret;
}

int code_refresh(struct code *c, struct error *err)
{
	int attempt, ret = -EAGAIN;

	for (attempt = 0; attempt < CODE_TRIES && ret == -EAGAIN; attempt++) {
		ret = refresh_once(c, attempt == CODE_TRIES - 1);
		if (ret == -EAGAIN)
			c->retries++;
	}
	if (ret >= 0)
		return ret;
	if (ret == -EAGAIN)
		return error_set(err, EXIT_INCOMPLETE, ret,
				 "The VM's list of loaded code could not be read: it kept changing "
				 "or is damaged; Erlang functions have no names.");
	if (ret == -ENOTSUP)
		return error_set(err, EXIT_UNSUPPORTED, ret,
				 "The VM describes its loaded code in a form that is not known "
				 "here (OTP %s); Erlang functions have no names.",
				 c->vm->otp_release);
	return error_set(err, error_exit_code(ret), ret,
			 "The VM's list of loaded code could not be read: %s.", strerror(-ret));
}

int code_open(struct vm *vm, struct code **out, struct error *err)
{
	const struct anchor *jit = &vm->anchors.v[A_JIT_DESCRIPTOR];
	const struct anchor *ranges = &vm->anchors.v[A_RANGES];
	struct image_symbol s;
	struct error first = { 0 };
	struct code *c;
	int ret;

	*out = NULL;
	c = calloc(1, sizeof(*c));
	if (!c)
		return -ENOMEM;
	c->vm = vm;
	ret = -ENOENT;
	if (jit->addr) {
		c->source = CODE_JIT;
		c->anchor = jit->addr;
		ret = code_refresh(c, &first);
		/* An emulator build has the symbol too, with an empty list. */
		if (ret >= 0 && !c->n_loaded && ranges->addr)
			ret = -ENOENT;
		if (ret >= 0 && c->gaps > c->n_listed && ranges->addr)
			ret = -ENOTSUP;
	}
	if (ret < 0 && ranges->addr) {
		c->source = CODE_RANGES;
		c->anchor = ranges->addr;
		ret = code_refresh(c, err);
		/* beam_emu.c: a process returns to the second instruction of
		 * beam_apply[], which is normal_exit (erl_create_process()). */
		if (ret >= 0 && !c->header.normal_exit && !vm->jit && vm->exe &&
		    image_symbol(vm->exe, "beam_apply", &s))
			c->header.normal_exit = s.addr + 8;
	}
	if (ret < 0) {
		code_close(c);
		if (first.text[0])
			return error_set(err, first.code, ret, "%s", first.text);
		return error_set(err, EXIT_UNSUPPORTED, ret,
				 "This VM's loaded code cannot be found: neither a JIT descriptor "
				 "nor the table of code ranges was recognised.");
	}
	*out = c;
	return 0;
}

/* Since OTP 23 at least each load and each deletion ends with the next index in force
 * (code_ix.c: erts_commit_staging_code_ix()). */
uint64_t code_watch(const struct code *c, uint64_t *mask)
{
	uint64_t index = c->vm->anchors.v[A_CODE_INDEX].addr;

	*mask = index ? UINT32_MAX : UINT64_MAX;
	if (index || c->source != CODE_JIT)
		return index;
	return c->anchor + 16; /* the first entry: new ones come there */
}

void code_close(struct code *c)
{
	size_t i;

	if (!c)
		return;
	for (i = 0; i < c->n_purged; i++)
		if (!c->purged[i]->listed)
			code_module_free(c->purged[i]);
	for (i = 0; i < c->n_listed; i++)
		code_module_free(c->listed[i]);
	free(c->listed);
	free(c->loaded);
	free(c->purged);
	free(c->purged_end);
	builder_free(&c->builder);
	free(c->buf);
	free(c);
}

/* ---- looking up ----------------------------------------------------------- */

static struct code_module *find_loaded(const struct code *c, uint64_t addr)
{
	size_t low = 0, high = c->n_loaded;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (c->loaded[mid]->end <= addr)
			low = mid + 1;
		else
			high = mid;
	}
	return low < c->n_loaded && c->loaded[low]->start <= addr ? c->loaded[low] : NULL;
}

/* The newest purged module at `addr`; at time `ns` unless that is 0. */
static struct code_module *find_purged(const struct code *c, uint64_t addr, uint64_t ns)
{
	struct code_module *best = NULL;
	size_t low = 0, high = c->n_purged;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (c->purged[mid]->start <= addr)
			low = mid + 1;
		else
			high = mid;
	}
	while (low-- > 0 && c->purged_end[low] > addr) {
		struct code_module *m = c->purged[low];

		if (m->end <= addr || (ns && (ns < m->first_seen || ns > m->last_seen)))
			continue;
		if (!best || m->seq > best->seq)
			best = m;
	}
	return best;
}

static const struct code_func *find_func(const struct code_module *m, uint64_t addr)
{
	uint64_t offset = addr - m->base;
	size_t low = 0, high = m->n_funcs;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (m->funcs[mid].end <= offset)
			low = mid + 1;
		else
			high = mid;
	}
	return low < m->n_funcs && m->funcs[low].start <= offset ? &m->funcs[low] : NULL;
}

static void find_line(const struct code_module *m, const struct code_func *f, uint64_t addr,
		      struct code_mfa *out)
{
	uint64_t offset = addr - m->base;
	size_t low = 0, high = f->n_lines;
	uint32_t loc;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (m->lines[f->line + mid].offset <= offset)
			low = mid + 1;
		else
			high = mid;
	}
	if (!low)
		return;
	loc = m->lines[f->line + low - 1].loc;
	if (loc >> 24 >= m->n_files || !(loc & 0xffffff))
		return;
	out->file = m->strings + m->files[loc >> 24];
	out->line = loc & 0xffffff;
}

bool code_lookup_at(const struct code *c, uint64_t addr, bool is_return, uint64_t ns,
		    struct code_mfa *out)
{
	const struct code_module *m;
	const struct code_func *f;

	if (is_return)
		addr--;
	m = find_loaded(c, addr);
	if (ns && (!m || ns < m->first_seen)) {
		const struct code_module *then = find_purged(c, addr, ns);

		m = then ? then : m;
	}
	if (!m)
		m = find_purged(c, addr, 0);
	f = m ? find_func(m, addr) : NULL;
	if (!f)
		return false;
	memset(out, 0, sizeof(*out));
	out->name = m->strings + f->name;
	out->module = m->strings;
	out->function = f->function;
	out->loaded = m->loaded;
	out->start = m->base + f->start;
	out->end = m->base + f->end;
	find_line(m, f, addr, out);
	return true;
}

bool code_replaced(const struct code *c, uint64_t addr, bool is_return)
{
	const struct code_module *now;
	const struct code_func *f;
	const char *name = NULL;

	if (is_return)
		addr--;
	now = find_loaded(c, addr);
	f = now ? find_func(now, addr) : NULL;
	if (f)
		name = now->strings + f->name;
	for (size_t i = 0; i < c->n_purged; i++) {
		const struct code_module *m = c->purged[i];

		if (addr < m->start || addr >= m->end)
			continue;
		f = find_func(m, addr);
		if (f && name && strcmp(name, m->strings + f->name) != 0)
			return true;
		if (f)
			name = m->strings + f->name;
	}
	return false;
}

bool code_lookup(const struct code *c, uint64_t addr, struct code_mfa *out)
{
	return code_lookup_at(c, addr, false, 0, out);
}

bool code_lookup_return(const struct code *c, uint64_t addr, struct code_mfa *out)
{
	return code_lookup_at(c, addr, true, 0, out);
}

ssize_t code_ranges(const struct code *c, uint64_t gap, struct code_range **out)
{
	struct code_range *v;
	size_t i, n = 0;

	*out = NULL;
	v = calloc(c->n_loaded + 1, sizeof(*v));
	if (!v)
		return -ENOMEM;
	for (i = 0; i < c->n_loaded; i++) {
		const struct code_module *m = c->loaded[i];

		if (n && m->start - v[n - 1].end <= gap) {
			v[n - 1].end = m->end;
		} else {
			v[n].start = m->start;
			v[n++].end = m->end;
		}
	}
	*out = v;
	return (ssize_t)n;
}

uint64_t code_normal_exit(const struct code *c)
{
	return c->header.normal_exit;
}

enum code_frame_layout code_frame_layout(const struct code *c)
{
	return c->header.layout;
}

enum code_source code_source(const struct code *c)
{
	return c->source;
}

/* The module named "global" that holds fragments: there may be an Erlang module
 * of that name as well. */
static bool is_fragments(const struct code_module *m)
{
	return m->n_funcs && strcmp(m->strings, "global") == 0 &&
	       strncmp(m->strings + m->funcs[0].name, "global::", 8) == 0 &&
	       strcmp(m->strings + m->funcs[0].name, "global::codeHeader") != 0;
}

int code_fragment(const struct code *c, const char *name, struct code_range *out)
{
	size_t i, j;

	for (i = 0; i < c->n_loaded; i++) {
		const struct code_module *m = c->loaded[i];

		if (!is_fragments(m))
			continue;
		for (j = 0; j < m->n_funcs; j++) {
			if (strcmp(m->strings + m->funcs[j].name, name) != 0)
				continue;
			out->start = m->base + m->funcs[j].start;
			out->end = m->base + m->funcs[j].end;
			return 0;
		}
	}
	return -ENOENT;
}

/* The VM makes one module of its own, of labels that it jumps to, by hand and
 * without counting it in erts_total_code_size (beam_asm.h, OTP 25 to 29). */
static bool is_built_in(const struct code_module *m)
{
	return strcmp(m->strings, "erts_beamasm") == 0;
}

void code_stats(const struct code *c, struct code_stats *out)
{
	size_t i, j;

	memset(out, 0, sizeof(*out));
	for (i = 0; i < c->n_loaded; i++) {
		const struct code_module *m = c->loaded[i];
		bool fragments = is_fragments(m);

		out->modules += !fragments && !is_built_in(m);
		out->code_bytes += fragments || is_built_in(m) ? 0 : m->code_size;
		for (j = 0; j < m->n_funcs; j++)
			if (m->funcs[j].function)
				out->functions++;
			else
				out->fragments++;
	}
	out->purged = c->n_purged;
	out->dropped = c->dropped;
	out->memory_bytes = c->live_bytes + c->purged_bytes + c->buf_size +
			    (c->n_listed + c->n_loaded + 2 * c->n_purged) * sizeof(void *);
	out->retries = c->retries;
	out->gaps = c->gaps;
}
