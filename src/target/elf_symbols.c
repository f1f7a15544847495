/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Symbols of an image.
 *
 * Two tables may exist. .symtab (found by section header) has everything that
 * the compiler named and is what `strip` takes away. .dynsym is what the
 * dynamic linker needs; it is found through .dynamic, without section headers,
 * so that it can be read from the target's memory as well as from the file.
 * Nothing says how long it is: DT_HASH has one chain entry per symbol, and
 * DT_GNU_HASH has to be followed to the end of the chain that begins last.
 *
 * A table in our memory is one array sorted by address, and a list of indices
 * sorted by name. An address is looked up by extent and never by nearness.
 * Extents nest (an entry point inside a function, aliases):
 *
 *        |-------------- A ---------------|
 *             |--- B ---|      |- C -|
 *                                  ^ C      ^ A: C.up
 *
 * so that each symbol knows the innermost one that reaches beyond its own end;
 * the search starts at the last symbol that begins at or before the address.
 *
 * Checked: counts, sizes, that a symbol lies in a segment, that names end.
 */
#include "target/elf_image.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define UP_STEPS_MAX 64
#define NAME_MAX_LEN 4096
#define HIDDEN_MARK  '\1'

#define RANK_DEFAULT_VERSION 4 /* or no version at all */

void image_symbols_free(struct symbol_table *s)
{
	if (!s)
		return;
	free(s->v);
	free(s->by_name);
	free(s->names);
	free(s);
}

/* sorting ------------------------------------------------------------------ */

static unsigned underscores(const char *name)
{
	unsigned n = 0;

	while (name[n] == '_')
		n++;
	return n;
}

/* Of two symbols with one extent, the better name comes later: functions, then
 * default versions and global ones, then fewer underscores in front. */
static int by_address(const void *pa, const void *pb, void *arg)
{
	const struct symbol *a = pa, *b = pb;
	const char *names = arg, *na = names + a->name, *nb = names + b->name;

	if (a->vaddr != b->vaddr)
		return a->vaddr < b->vaddr ? -1 : 1;
	if (a->size != b->size)
		return a->size > b->size ? -1 : 1;
	if ((a->type == STT_NOTYPE) != (b->type == STT_NOTYPE))
		return a->type == STT_NOTYPE ? -1 : 1;
	if (a->rank != b->rank)
		return a->rank < b->rank ? -1 : 1;
	if (underscores(na) != underscores(nb))
		return underscores(na) > underscores(nb) ? -1 : 1;
	return -strcmp(na, nb);
}

static int by_name(const void *pa, const void *pb, void *arg)
{
	const struct symbol_table *s = arg;
	const struct symbol *a = &s->v[*(const uint32_t *)pa], *b = &s->v[*(const uint32_t *)pb];
	int cmp = strcmp(s->names + a->name, s->names + b->name);

	if (cmp)
		return cmp;
	if (a->rank != b->rank)
		return a->rank > b->rank ? -1 : 1;
	return a < b ? -1 : a > b;
}

static uint64_t symbol_end(const struct symbol *s)
{
	return s->vaddr + s->size;
}

/* Links each symbol to the innermost one that outlives it. The symbols that
 * are open at an address form a stack, kept in the links themselves. One that
 * ends no later than a newer one can win at no address from here on. */
static void nest(struct symbol_table *s)
{
	uint32_t top = 0;
	size_t k;

	for (k = 0; k < s->n; k++) {
		struct symbol *one = &s->v[k];

		while (top && symbol_end(&s->v[top - 1]) <= one->vaddr)
			top = s->v[top - 1].up;
		if (!one->size) {
			one->up = top;
			continue;
		}
		while (top && symbol_end(&s->v[top - 1]) <= symbol_end(one))
			top = s->v[top - 1].up;
		one->up = top;
		top = (uint32_t)(k + 1);
	}
}

/* Sorts what was collected; NULL (and frees) when nothing was. */
static struct symbol_table *finish(struct symbol_table *s)
{
	struct symbol *v;
	size_t k, n;

	/* in a damaged table another name's cut may have emptied one */
	for (k = n = 0; k < s->n; k++)
		if (s->names[s->v[k].name])
			s->v[n++] = s->v[k];
	s->n = n;
	if (!s->n)
		goto none;
	v = realloc(s->v, s->n * sizeof(*v));
	if (v)
		s->v = v;
	s->by_name = malloc(s->n * sizeof(*s->by_name));
	if (!s->by_name)
		goto none;
	qsort_r(s->v, s->n, sizeof(*s->v), by_address, s->names);
	for (k = 0; k < s->n; k++)
		s->by_name[k] = (uint32_t)k;
	qsort_r(s->by_name, s->n, sizeof(*s->by_name), by_name, s);
	nest(s);
	s->bytes = s->n * (sizeof(*s->v) + sizeof(*s->by_name)) + s->names_len;
	return s;
none:
	image_symbols_free(s);
	return NULL;
}

/* collecting --------------------------------------------------------------- */

/* A symbol's address is in a segment; the linker's marks (_end) may stand at
 * its end. */
static bool in_image(const struct image *i, uint64_t vaddr, uint64_t size)
{
	uint64_t addr = i->bias + vaddr;
	size_t k;

	for (k = 0; k < i->n_segs; k++)
		if (addr >= i->segs[k].start && addr <= i->segs[k].end)
			if (size <= i->segs[k].end - addr)
				return true;
	return false;
}

/* Takes one symbol if it is one that can be asked for. `hidden`: its version
 * is not the default one. False: out of memory. */
static bool collect(struct symbol_table *s, size_t *room, const struct image *i,
		    const Elf64_Sym *sym, bool hidden)
{
	unsigned type = ELF64_ST_TYPE(sym->st_info), bind = ELF64_ST_BIND(sym->st_info);
	struct symbol *one;
	char *name, *at;
	size_t len;

	if (sym->st_shndx == SHN_UNDEF || sym->st_shndx == SHN_ABS || sym->st_shndx == SHN_COMMON)
		return true;
	if (type != STT_FUNC && type != STT_OBJECT && type != STT_NOTYPE && type != STT_GNU_IFUNC)
		return true;
	if (!sym->st_name || sym->st_name >= s->names_len || sym->st_size > UINT32_MAX ||
	    !in_image(i, sym->st_value, sym->st_size))
		return true;
	name = s->names + sym->st_name;
	len = strnlen(name, NAME_MAX_LEN + 1);
	if (!len || len > NAME_MAX_LEN)
		return true;
	/* .symtab writes the version into the name: f@@V is the default one, f@V
	 * an old one. The version is cut off in place; since names share tails, a
	 * mark behind the cut tells it to the next that ends here. */
	at = memchr(name + 1, '@', len - 1);
	if (at) {
		hidden |= at[1] != '@';
		at[0] = '\0';
		at[1] = hidden ? HIDDEN_MARK : '@';
	} else {
		hidden |= name[len + 1] == HIDDEN_MARK;
	}
	if (s->n == *room) {
		size_t bigger = *room ? *room * 2 : 1024;
		struct symbol *v = realloc(s->v, bigger * sizeof(*v));

		if (!v)
			return false;
		s->v = v;
		*room = bigger;
	}
	one = &s->v[s->n++];
	memset(one, 0, sizeof(*one));
	one->vaddr = sym->st_value;
	one->size = (uint32_t)sym->st_size;
	one->name = sym->st_name;
	one->type = (unsigned char)type;
	one->rank = (unsigned char)((hidden ? 0 : RANK_DEFAULT_VERSION) + (bind == STB_LOCAL  ? 0
									   : bind == STB_WEAK ? 1
											      : 2));
	return true;
}

static bool budget_allows(const struct image *i, uint64_t count, uint64_t names)
{
	size_t taken = i->symbol_bytes ? *i->symbol_bytes : 0;

	return count && count <= IMAGE_SYMBOLS_MAX && names && names <= IMAGE_NAMES_MAX &&
	       taken + names + count * (sizeof(struct symbol) + 4) <= IMAGES_SYMBOL_BYTES_MAX;
}

static void budget_take(struct image *i, const struct symbol_table *s)
{
	if (s && i->symbol_bytes)
		*i->symbol_bytes += s->bytes;
}

/* Where the pieces of a table lie: in a file by offset, or by address. */
struct pieces {
	const struct image *i;
	int fd; /* -1: addresses, through image_read() */
	uint64_t symbols, count;
	uint64_t names, names_len;
	uint64_t versions; /* 0: none */
};

static int piece_read(const struct pieces *p, uint64_t at, void *buf, size_t len)
{
	return p->fd >= 0 ? image_pread(p->fd, at, buf, len) : image_read(p->i, at, buf, len);
}

static struct symbol_table *pieces_read(const struct pieces *p, const char *source)
{
	struct symbol_table *s;
	Elf64_Sym syms[256];
	uint16_t versions[256];
	size_t room = 0, k;
	uint64_t at;

	if (!budget_allows(p->i, p->count, p->names_len))
		return NULL;
	s = calloc(1, sizeof(*s));
	if (!s)
		return NULL;
	s->source = source;
	s->names_len = (size_t)p->names_len;
	s->names = malloc(s->names_len + 2);
	if (!s->names || piece_read(p, p->names, s->names, s->names_len) < 0)
		goto none;
	s->names[s->names_len] = s->names[s->names_len + 1] = '\0';
	for (at = 0; at < p->count; at += k) {
		size_t n = p->count - at < 256 ? (size_t)(p->count - at) : 256;

		if (piece_read(p, p->symbols + at * sizeof(syms[0]), syms, n * sizeof(syms[0])) < 0)
			goto none;
		memset(versions, 0, sizeof(versions));
		if (p->versions && piece_read(p, p->versions + at * sizeof(versions[0]), versions,
					      n * sizeof(versions[0])) < 0)
			goto none;
		for (k = 0; k < n; k++)
			if (!collect(s, &room, p->i, &syms[k], (versions[k] & 0x8000) != 0))
				goto none;
	}
	return finish(s);
none:
	image_symbols_free(s);
	return NULL;
}

struct symbol_table *image_symtab_read(const struct image *i, int fd, const char *source)
{
	Elf64_Shdr sh, names;
	struct pieces p = { .i = i, .fd = fd };

	if (image_section_find(fd, NULL, SHT_SYMTAB, &sh, &names) < 0 ||
	    sh.sh_entsize != sizeof(Elf64_Sym) || names.sh_type != SHT_STRTAB ||
	    ((sh.sh_flags | names.sh_flags) & SHF_COMPRESSED))
		return NULL;
	p.symbols = sh.sh_offset;
	p.count = sh.sh_size / sizeof(Elf64_Sym);
	p.names = names.sh_offset;
	p.names_len = names.sh_size;
	return pieces_read(&p, source);
}

/* Symbols that DT_GNU_HASH covers: up to the end of the last chain. */
static uint64_t gnu_hash_count(const struct image *i, uint64_t hash)
{
	uint32_t h[4], buf[256], last = 0;
	uint64_t buckets, chains, at, k, n;

	if (image_read(i, hash, h, sizeof(h)) < 0 || h[0] > IMAGE_SYMBOLS_MAX ||
	    h[1] > IMAGE_SYMBOLS_MAX || h[2] > IMAGE_SYMBOLS_MAX)
		return 0;
	buckets = hash + sizeof(h) + h[2] * sizeof(uint64_t);
	chains = buckets + h[0] * sizeof(uint32_t);
	for (at = 0; at < h[0]; at += n) {
		n = h[0] - at < 256 ? h[0] - at : 256;
		if (image_read(i, buckets + at * 4, buf, n * 4) < 0)
			return 0;
		for (k = 0; k < n; k++)
			if (buf[k] > last)
				last = buf[k];
	}
	if (last < h[1])
		return h[1];
	for (; last < IMAGE_SYMBOLS_MAX; last++) {
		if (image_read(i, chains + (uint64_t)(last - h[1]) * 4, buf, 4) < 0)
			return 0;
		if (buf[0] & 1)
			return (uint64_t)last + 1;
	}
	return 0;
}

static struct symbol_table *dynsym_read(const struct image *i)
{
	struct pieces p = { .i = i, .fd = -1 };
	struct image_dynamic d;
	uint32_t hash[2];

	if (image_dynamic_read(i, &d) < 0 || !d.symtab || !d.strtab)
		return NULL;
	if (d.hash && image_read(i, d.hash, hash, sizeof(hash)) == 0)
		p.count = hash[1];
	else if (d.gnu_hash)
		p.count = gnu_hash_count(i, d.gnu_hash);
	p.symbols = d.symtab;
	p.names = d.strtab;
	p.names_len = d.strsz;
	p.versions = d.versym;
	return pieces_read(&p, "dynsym");
}

bool image_imports(const struct image *i, const char *const *names)
{
	struct image_dynamic d;
	uint64_t count = 0, at;
	uint32_t hash[2];
	bool found = false;
	char *strings;
	size_t k, j, n;

	if (!i->ph || image_dynamic_read(i, &d) < 0 || !d.symtab || !d.strtab || !d.strsz ||
	    d.strsz > IMAGE_NAMES_MAX)
		return false;
	if (d.hash && image_read(i, d.hash, hash, sizeof(hash)) == 0)
		count = hash[1];
	else if (d.gnu_hash)
		count = gnu_hash_count(i, d.gnu_hash);
	strings = malloc((size_t)d.strsz + 1);
	if (!strings || image_read(i, d.strtab, strings, (size_t)d.strsz) < 0)
		count = 0;
	else
		strings[d.strsz] = '\0';
	for (at = 0; at < count && at < IMAGE_SYMBOLS_MAX && !found; at += n) {
		Elf64_Sym syms[256];

		n = count - at < 256 ? (size_t)(count - at) : 256;
		if (image_read(i, d.symtab + at * sizeof(syms[0]), syms, n * sizeof(syms[0])) < 0)
			break;
		for (k = 0; k < n && !found; k++)
			for (j = 0;
			     names[j] && syms[k].st_shndx == SHN_UNDEF && syms[k].st_name < d.strsz;
			     j++)
				found |= !strcmp(strings + syms[k].st_name, names[j]);
	}
	free(strings);
	return found;
}

struct symbol_table *image_symbols(struct image *i)
{
	if (!i->own_tried) {
		i->own_tried = true;
		if (i->ph) {
			i->own = i->fd >= 0 ? image_symtab_read(i, i->fd, "symtab") : NULL;
			if (!i->own)
				i->own = dynsym_read(i);
			budget_take(i, i->own);
		}
	}
	return i->own;
}

int image_debuginfo(struct target *t, struct image *i)
{
	int fd;

	if (i->debug)
		return 0;
	if (!i->ph)
		return -ENOENT;
	fd = image_debug_open(t, i);
	if (fd < 0)
		return fd;
	i->debug = image_symtab_read(i, fd, "debuginfo");
	budget_take(i, i->debug);
	close(fd);
	return i->debug ? 0 : -EINVAL;
}

/* asking ------------------------------------------------------------------- */

static void fill(const struct image *i, const struct symbol_table *s, const struct symbol *one,
		 struct image_symbol *out)
{
	out->addr = i->bias + one->vaddr;
	out->size = one->size;
	out->name = s->names + one->name;
	out->type = one->type;
}

static size_t table_named(const struct image *i, const struct symbol_table *s, const char *name,
			  struct image_symbol *out, size_t max)
{
	size_t lo = 0, hi, found = 0;

	if (!s)
		return 0;
	hi = s->n;
	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (strcmp(s->names + s->v[s->by_name[mid]].name, name) < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	for (; lo < s->n; lo++) {
		const struct symbol *one = &s->v[s->by_name[lo]];

		if (strcmp(s->names + one->name, name) != 0)
			break;
		if (found < max)
			fill(i, s, one, &out[found]);
		found++;
	}
	return found;
}

size_t image_symbol_all(struct image *i, const char *name, struct image_symbol *out, size_t max)
{
	size_t n = table_named(i, i->debug, name, out, max);

	return n ? n : table_named(i, image_symbols(i), name, out, max);
}

bool image_symbol(struct image *i, const char *name, struct image_symbol *out)
{
	return image_symbol_all(i, name, out, 1) > 0;
}

static bool table_at(const struct image *i, const struct symbol_table *s, uint64_t addr,
		     struct image_symbol *out)
{
	uint64_t vaddr = addr - i->bias;
	size_t lo = 0, hi;
	uint32_t at;
	unsigned steps;

	if (!s)
		return false;
	hi = s->n;
	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (s->v[mid].vaddr <= vaddr)
			lo = mid + 1;
		else
			hi = mid;
	}
	for (at = (uint32_t)lo, steps = 0; at && steps < UP_STEPS_MAX; steps++) {
		const struct symbol *one = &s->v[at - 1];

		if (one->size && vaddr < symbol_end(one)) {
			fill(i, s, one, out);
			return true;
		}
		at = one->up;
	}
	return false;
}

bool image_symbol_at(struct image *i, uint64_t addr, struct image_symbol *out)
{
	if (!image_holds(i, addr))
		return false;
	return table_at(i, i->debug, addr, out) || table_at(i, image_symbols(i), addr, out);
}

size_t image_symbol_count(struct image *i)
{
	const struct symbol_table *s = i->debug ? i->debug : image_symbols(i);

	return s ? s->n : 0;
}

const char *image_symbol_source(struct image *i)
{
	const struct symbol_table *s = i->debug ? i->debug : image_symbols(i);

	return s ? s->source : "none";
}
