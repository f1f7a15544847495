/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Ledgers and profiles out of a recording. (recording.c opens with the page that
 * explains the file.)
 *
 * A profile is put together from four tables: symbols and frames are read whole into
 * arrays (their ids count from 1 on without a gap), then the stacks of the profile,
 * then the weights up to the look that is wanted, later ones over earlier ones.
 */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "profile/recording.h"
#include "profile/recording_schema.h"
#include "target/escape.h"

#define ROWS_MAX   (1u << 16) /* of one ledger */
#define THINGS_MAX (1u << 24) /* symbols, frames, stacks */
#define FRAMES_MAX (1u << 16) /* of one stack, as profile_add() has it */
#define NAMES_MAX  64	      /* of one address, when code is loaded again and again */
#define BUILT_MAX  (1u << 25) /* frames of all stacks together: 512 MiB */

/* ---- ledgers ------------------------------------------------------------------------------- */

static int larger(const void *a, const void *b)
{
	const struct recording_row *x = a, *y = b;

	if (x->bytes != y->bytes)
		return x->bytes > y->bytes ? -1 : 1;
	return strcmp(x->account, y->account);
}

static int no_look(const struct recording *r, unsigned number, struct error *err)
{
	return error_set(err, EXIT_USAGE, -ENOENT, "%s has %zu looks; there is no number %u",
			 r->db->safe, r->n_looks, number);
}

int recording_rows(struct recording *r, unsigned number, struct recording_row **rows, size_t *n,
		   struct error *err)
{
	const struct recording_look *l;
	uint64_t sum = 0;
	struct rows w;
	int ret;

	*rows = NULL;
	*n = 0;
	if (number < 1 || number > r->n_looks)
		return no_look(r, number, err);
	l = &r->looks[number - 1];
	ret = rows_open(r, &w, "ledger", "WHERE look = ?1", number, 0, ROWS_MAX, err);
	while (ret == 0 && (ret = rows_next(&w)) == 1) {
		struct recording_row *row;

		ret = rows_room(rows, *n, sizeof(**rows));
		if (ret < 0)
			break;
		row = &(*rows)[(*n)++];
		rows_text_in(&w, 1, row->account, sizeof(row->account));
		row->bytes = (uint64_t)rows_int(&w, 2);
		row->whole_pages = (uint64_t)rows_int(&w, 3);
		row->lazyfree = (uint64_t)rows_int(&w, 4);
		if (__builtin_add_overflow(sum, row->bytes, &sum))
			ret = recording_damaged(r, "a ledger does not add up", err);
	}
	rows_close(&w);
	if (ret == 0 && (sum != l->rss || *n != l->rows))
		ret = recording_damaged(r, "a ledger does not add up", err);
	if (ret < 0) {
		free(*rows);
		*rows = NULL;
		*n = 0;
		return ret;
	}
	if (*n)
		qsort(*rows, *n, sizeof(**rows), larger);
	return 0;
}

int recording_document(struct recording *r, unsigned number, char **out, struct error *err)
{
	struct rows w;
	int ret;

	*out = NULL;
	if (number < 1 || number > r->n_looks)
		return no_look(r, number, err);
	ret = rows_open(r, &w, "look", "WHERE id = ?1", number, 0, 1, err);
	if (ret == 0 && (ret = rows_next(&w)) == 1) {
		const char *v = (const char *)sqlite3_column_text(w.st, 6);

		*out = strndup(v ? v : "", v ? (size_t)sqlite3_column_bytes(w.st, 6) : 0);
		ret = *out ? 0 : -ENOMEM;
		rows_close(&w);
	} else if (ret == 0) {
		ret = no_look(r, number, err);
	}
	return ret;
}

/* ---- profiles ------------------------------------------------------------------------------ */

struct kept_symbol {
	struct symbol_key key;
	struct symbol symbol;
	uint32_t outer;
	bool used;
};

struct kept_frame {
	uint64_t addr;
	uint32_t parent, symbol;
	uint8_t kind;
};

struct kept_stack {
	int64_t id;
	int64_t weight, gross, count, process;
	uint32_t leaf, tid;
	char *label;
	bool complete;
};

struct reading {
	struct recording *r;
	struct error *err;
	int64_t profile;
	struct kept_symbol *symbols; /* [id - 1], so for frames */
	struct kept_frame *frames;
	struct kept_stack *stacks; /* of this profile, by id */
	size_t n_symbols, n_frames, n_stacks;
};

static int read_symbols(struct reading *d)
{
	struct rows w;
	size_t i;
	int ret = rows_open(d->r, &w, "symbol", "ORDER BY id", 0, 0, THINGS_MAX, d->err);

	while (ret == 0 && (ret = rows_next(&w)) == 1) {
		struct kept_symbol *s;
		int64_t outer = rows_int(&w, 10), kind = rows_int(&w, 9), raw = rows_int(&w, 2);

		ret = rows_room(&d->symbols, d->n_symbols, sizeof(*d->symbols));
		if (ret < 0)
			break;
		s = &d->symbols[d->n_symbols];
		memset(s, 0, sizeof(*s));
		if (rows_int(&w, 0) != (int64_t)++d->n_symbols || kind < 0 || kind > FRAME_LABEL ||
		    raw < 0 || raw > FRAME_LABEL || outer < 0 || outer >= (int64_t)d->n_symbols) {
			ret = recording_damaged(d->r, "a symbol that cannot be", d->err);
			break;
		}
		s->key.addr = (uint64_t)rows_int(&w, 1);
		s->key.kind = (uint8_t)raw;
		s->key.exact = rows_int(&w, 3) != 0;
		s->symbol.line = (uint32_t)rows_int(&w, 7);
		s->symbol.offset = (uint64_t)rows_int(&w, 8);
		s->symbol.kind = (enum frame_kind)kind;
		s->outer = (uint32_t)outer;
		ret = rows_text(&w, 4, &s->symbol.name);
		if (ret == 0)
			ret = rows_text(&w, 5, &s->symbol.module);
		if (ret == 0)
			ret = rows_text(&w, 6, &s->symbol.file);
	}
	rows_close(&w);
	/* the array does not move any more; an outer one has a smaller id: no circle */
	for (i = 0; i < d->n_symbols; i++)
		if (d->symbols[i].outer)
			d->symbols[i].symbol.outer = &d->symbols[d->symbols[i].outer - 1].symbol;
	return ret;
}

static int read_frames(struct reading *d)
{
	struct rows w;
	int ret = rows_open(d->r, &w, "frame", "ORDER BY id", 0, 0, THINGS_MAX, d->err);

	while (ret == 0 && (ret = rows_next(&w)) == 1) {
		int64_t parent = rows_int(&w, 1), kind = rows_int(&w, 3), symbol = rows_int(&w, 4);

		ret = rows_room(&d->frames, d->n_frames, sizeof(*d->frames));
		if (ret < 0)
			break;
		/* towards the root ids get smaller: no circle */
		if (rows_int(&w, 0) != (int64_t)d->n_frames + 1 || parent < 0 ||
		    parent > (int64_t)d->n_frames || kind < 0 || kind > FRAME_LABEL || symbol < 0 ||
		    symbol > (int64_t)d->n_symbols) {
			ret = recording_damaged(d->r, "a frame that cannot be", d->err);
			break;
		}
		d->frames[d->n_frames++] = (struct kept_frame){ (uint64_t)rows_int(&w, 2),
								(uint32_t)parent, (uint32_t)symbol,
								(uint8_t)kind };
	}
	rows_close(&w);
	return ret;
}

static int read_stacks(struct reading *d)
{
	struct rows w;
	int ret = rows_open(d->r, &w, "stack", "WHERE profile = ?1 ORDER BY id", d->profile, 0,
			    THINGS_MAX, d->err);

	while (ret == 0 && (ret = rows_next(&w)) == 1) {
		struct kept_stack *s;
		int64_t leaf = rows_int(&w, 2);

		ret = rows_room(&d->stacks, d->n_stacks, sizeof(*d->stacks));
		if (ret < 0)
			break;
		if (leaf < 0 || leaf > (int64_t)d->n_frames) {
			ret = recording_damaged(d->r, "a stack that cannot be", d->err);
			break;
		}
		s = &d->stacks[d->n_stacks++];
		memset(s, 0, sizeof(*s));
		s->id = rows_int(&w, 0);
		s->leaf = (uint32_t)leaf;
		s->process = rows_int(&w, 3);
		s->complete = rows_int(&w, 5) != 0;
		ret = rows_text(&w, 4, &s->label);
	}
	rows_close(&w);
	return ret;
}

static struct kept_stack *find_stack(struct reading *d, int64_t id)
{
	size_t lo = 0, hi = d->n_stacks;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (d->stacks[mid].id < id)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < d->n_stacks && d->stacks[lo].id == id ? &d->stacks[lo] : NULL;
}

/* The last weight of every stack up to this look. */
static int read_weights(struct reading *d, unsigned number)
{
	struct rows w;
	int ret = rows_open(d->r, &w, "weight", "WHERE look <= ?1 ORDER BY look, stack", number, 0,
			    SIZE_MAX, d->err);

	while (ret == 0 && (ret = rows_next(&w)) == 1) {
		struct kept_stack *s = find_stack(d, rows_int(&w, 1));

		ret = 0;
		if (!s)
			continue; /* of another profile */
		s->weight = rows_int(&w, 2);
		s->gross = rows_int(&w, 3);
		s->count = rows_int(&w, 4);
		s->tid = (uint32_t)rows_int(&w, 5);
	}
	rows_close(&w);
	return ret;
}

/* The symbols that stacks need. Two may have been seen at one address, when code was
 * replaced: then the second gets an address that nothing has. */
static int put_symbol(struct reading *d, uint32_t id, struct symbols *to)
{
	struct kept_symbol *s = &d->symbols[id - 1];
	unsigned tries;

	if (s->used)
		return 0;
	s->used = true;
	for (tries = 0; tries < NAMES_MAX; tries++) {
		struct frame f = { s->key.addr, s->key.kind };
		struct frame two[2] = { { 0, FRAME_NATIVE }, f };
		const struct profile_stack exact = { .frames = &f, .n = 1 };
		const struct profile_stack other = { .frames = two, .n = 2 };

		if (!symbols_find(to, s->key.exact ? &exact : &other, !s->key.exact))
			break;
		s->key.addr += 1ULL << 48;
	}
	if (tries == NAMES_MAX)
		return recording_damaged(d->r, "one address with too many names", d->err);
	return symbols_put(to, &s->key, &s->symbol);
}

static int build(struct reading *d, struct profile *p, struct symbols *to)
{
	struct frame *frames = malloc(FRAMES_MAX * sizeof(*frames));
	size_t i, n, built = 0;
	int ret = frames ? 0 : -ENOMEM;

	for (i = 0; i < d->n_stacks && ret == 0; i++) {
		const struct kept_stack *s = &d->stacks[i];
		uint32_t at;

		if (!s->weight && !s->gross && !s->count)
			continue; /* not yet, or not any more */
		for (at = s->leaf, n = 0; at && n < FRAMES_MAX && ret == 0; n++) {
			const struct kept_frame *f = &d->frames[at - 1];

			frames[n] = (struct frame){ f->addr, f->kind };
			if (f->symbol && (ret = put_symbol(d, f->symbol, to)) == 0)
				frames[n].addr = d->symbols[f->symbol - 1].key.addr;
			at = f->parent;
		}
		built += n;
		if ((at || built > BUILT_MAX) && ret == 0)
			ret = recording_damaged(d->r, "stacks deeper than any", d->err);
		if (ret == 0)
			ret = profile_add(p, frames, n, (uint64_t)s->process, s->tid, s->label,
					  s->complete, s->weight, s->gross, (uint64_t)s->count);
	}
	free(frames);
	return ret;
}

static void reading_clear(struct reading *d)
{
	size_t i;

	for (i = 0; i < d->n_symbols; i++) {
		d->symbols[i].symbol.outer = NULL;
		symbol_clear(&d->symbols[i].symbol);
	}
	for (i = 0; i < d->n_stacks; i++)
		free(d->stacks[i].label);
	free(d->symbols);
	free(d->frames);
	free(d->stacks);
}

/* The profile's last moment up to `number`. */
static int read_moment(struct reading *d, unsigned number, struct profile *p, int64_t *total)
{
	struct rows w;
	int ret = rows_open(d->r, &w, "moment",
			    "WHERE profile = ?1 AND look <= ?2 ORDER BY look DESC LIMIT 1",
			    d->profile, number, 1, d->err);

	if (ret == 0 && (ret = rows_next(&w)) == 1) {
		*total = rows_int(&w, 2);
		p->without_stack = rows_int(&w, 3);
		p->lost_events = (uint64_t)rows_int(&w, 4);
		p->lost_stacks = (uint64_t)rows_int(&w, 5);
		rows_close(&w);
		return 0;
	}
	return ret < 0 ? ret
		       : error_set(d->err, EXIT_USAGE, -ENOENT,
				   "%s holds no %s profile of that moment", d->r->db->safe,
				   p->kind);
}

int recording_profile(struct recording *r, const char *kind, unsigned number, struct profile **p,
		      struct symbols **s, struct error *err)
{
	struct reading d = { .r = r, .err = err };
	int64_t total = 0;
	size_t i;
	int ret;

	*p = NULL;
	*s = NULL;
	for (i = 0; i < r->n_profiles && strcmp(r->profiles[i].kind, kind) != 0; i++)
		;
	if (i == r->n_profiles)
		return error_set(err, EXIT_USAGE, -ENOENT, "%s holds no %s profile", r->db->safe,
				 kind);
	d.profile = r->profiles[i].id;
	*p = profile_new(r->profiles[i].kind, r->profiles[i].unit);
	*s = symbols_new();
	ret = *p && *s ? 0 : -ENOMEM;
	if (ret == 0)
		ret = read_moment(&d, number, *p, &total);
	if (ret == 0)
		ret = read_symbols(&d);
	if (ret == 0)
		ret = read_frames(&d);
	if (ret == 0)
		ret = read_stacks(&d);
	if (ret == 0)
		ret = read_weights(&d, number);
	if (ret == 0)
		ret = build(&d, *p, *s);
	if (ret == 0 && profile_total(*p) != total)
		ret = recording_damaged(r, "a profile does not add up", err);
	reading_clear(&d);
	if (ret < 0) {
		if (ret == -ENOMEM)
			error_set(err, EXIT_INCOMPLETE, ret, "out of memory while reading %s",
				  r->db->safe);
		profile_free(*p);
		symbols_free(*s);
		*p = NULL;
		*s = NULL;
		return ret;
	}
	profile_sort(*p);
	return 0;
}
