/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Finding the VM's global variables.
 *
 *	symbols of beam.smp ----+
 *	.symtab of debug info --+--> address --> is the object there what it
 *	signatures -------------+                should be? --> kept, or not
 *
 * Debian's OTP 23, 25 and 27 export every global, but never the static ones
 * (mseg's state, the module tables); OTP 29 is built with hidden visibility and
 * exports none. So signatures are no last resort for odd builds: on every
 * release a part is found by them, and on 29 everything is.
 *
 * Nothing is believed for its name. A symbol names the right object in the
 * right build; an address is kept only when what lies there has the shape of
 * the object (anchor_is_*()), whatever source gave it.
 */
#include "erts/anchors_find.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <gelf.h>
#include <libelf.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PAGES		  256	     /* of the cache: 1 MiB */
#define READS_MAX	  400000     /* a VM with a million atoms takes 20,000 */
#define DEBUG_SYMBOLS_MAX (1U << 20) /* beam.smp has some 20,000 */

static const struct {
	const char *name;  /* in ERTS */
	const char *other; /* its name in another release, or NULL */
	const char *why;   /* said when it is missing */
} names[A_N] = {
	[A_ALLCTRS_INFO] = { "erts_allctrs_info", NULL, "no symbol, no table of allocators found" },
	[A_ALLCTR_THR_SPEC] = { "erts_allctr_thr_spec", NULL,
				"no symbol, no table of allocator instances found" },
	[A_ALLCTRS] = { "erts_allctrs", NULL, "no symbol, no table of allocator functions found" },
	[A_A2AD] = { "erts_alc_a2ad", NULL, "no symbol, no list of allocator names found" },
	[A_N2TD] = { "erts_alc_n2td", NULL, "no symbol, no list of type names found" },
	[A_ATOM_TABLE] = { "erts_atom_table", NULL, "no symbol, no table named atom_tab found" },
	[A_MODULE_TABLES] = { "module_tables", NULL, "no tables named module_code found" },
	[A_EXPORT_TABLES] = { "export_tables", NULL, "no tables of exports found" },
	[A_FUN_TABLE] = { "erts_fun_table", "fun_tables", "no table of funs found" },
	[A_REGISTER_TABLE] = { "process_reg", NULL, "no table named process_reg found" },
	[A_PROC] = { "erts_proc", NULL, "no symbol, no table of processes found" },
	[A_PORT] = { "erts_port", NULL, "no symbol, no table of ports found" },
	[A_SCHEDULER_DATA] = { "erts_aligned_scheduler_data", NULL,
			       "no symbol, no scheduler data found" },
	[A_DIRTY_CPU_SCHEDULER_DATA] = { "erts_aligned_dirty_cpu_scheduler_data", NULL,
					 "no symbol, no dirty cpu scheduler data found" },
	[A_DIRTY_IO_SCHEDULER_DATA] = { "erts_aligned_dirty_io_scheduler_data", NULL,
					"no symbol, no dirty io scheduler data found" },
	[A_NO_SCHEDULERS] = { "erts_no_schedulers", NULL,
			      "no symbol, not looked for: scheduler data is counted instead" },
	[A_MSEG_ALLCTR] = { "aligned_mseg_allctr", NULL, "no mseg state found" },
	[A_DEFAULT_MMAPPER] = { "erts_dflt_mmapper", NULL, "no symbol, no memory mapper found" },
	[A_LITERAL_MMAPPER] = { "erts_literal_mmapper", NULL,
				"no symbol, no mapper of the literal area found" },
	[A_TOTAL_CODE_SIZE] = { "erts_total_code_size", NULL,
				"no symbol, no word equals the code size of the modules" },
	[A_ETS_MISC_MEM_SIZE] = { "erts_ets_misc_mem_size", NULL,
				  "no symbol, no counter beside the table of table names" },
	[A_ATOM_TEXT_RESERVED] = { "reserved_atom_space", NULL, "no counter of atom text found" },
	[A_ATOM_TEXT_USED] = { "atom_space", NULL, "no counter of atom text found" },
	[A_RANGES] = { "r", NULL, "no table of code ranges found" },
	[A_JIT_DESCRIPTOR] = { "__jit_debug_descriptor", NULL,
			       "no symbol, no JIT descriptor found (or no JIT)" },
	[A_OTP_RELEASE] = { "etp_otp_release", NULL, "no symbol: the version string tells" },
	[A_ERTS_VERSION] = { "etp_erts_version", NULL, "no symbol: the version string tells" },
	[A_CODE_INDEX] = { "the_active_code_index", NULL, "no symbol, not looked for" },
	[A_BIF_TABLE] = { "bif_table", NULL, "no symbol, no table of BIFs found" },
};

const char *anchor_name(enum anchor_id id)
{
	return id >= 0 && id < A_N ? names[id].name : "?";
}

const char *anchor_source_name(enum anchor_source s)
{
	static const char *const words[] = {
		[ANCHOR_MISSING] = "missing",	  [ANCHOR_DYNSYM] = "dynsym",
		[ANCHOR_DEBUGINFO] = "debuginfo", [ANCHOR_DECODED] = "decoded",
		[ANCHOR_SIGNATURE] = "signature", [ANCHOR_DERIVED] = "derived",
	};

	return (size_t)s < sizeof(words) / sizeof(words[0]) ? words[s] : "?";
}

void anchor_unset(struct anchor_search *s, enum anchor_id id)
{
	s->a->v[id] = (struct anchor){ .why = names[id].why };
}

void anchor_set(struct anchor_search *s, enum anchor_id id, uint64_t addr, enum anchor_source src)
{
	struct anchor *a = &s->a->v[id];

	if (a->addr || !addr)
		return;
	a->addr = addr;
	a->source = src;
	a->why = NULL;
}

bool anchor_missing(const struct anchor_search *s, enum anchor_id id)
{
	return !s->a->v[id].addr;
}

struct anchor_pages {
	uint64_t page[PAGES];
	unsigned reads; /* of the target, in this search */
	unsigned char data[PAGES][TARGET_PAGE];
};

bool anchor_read(const struct anchor_search *s, uint64_t addr, void *buf, size_t len)
{
	/* An image full of pointers must not keep us busy for minutes. */
	if (s->pages && ++s->pages->reads > READS_MAX)
		return false;
	return target_read(s->target, addr, buf, len) == 0;
}

bool anchor_u64(const struct anchor_search *s, uint64_t addr, uint64_t *out)
{
	return anchor_read(s, addr, out, sizeof(*out));
}

bool anchor_peek(const struct anchor_search *s, uint64_t addr, void *buf, size_t len)
{
	struct anchor_pages *c = s->pages;

	if (!c)
		return anchor_read(s, addr, buf, len);
	while (len) {
		uint64_t page = addr & ~(TARGET_PAGE - 1);
		size_t slot = page / TARGET_PAGE % PAGES, off = addr - page;
		size_t here = TARGET_PAGE - off < len ? TARGET_PAGE - off : len;

		if (c->page[slot] != page) {
			c->page[slot] = 0;
			if (!anchor_read(s, page, c->data[slot], TARGET_PAGE))
				return false;
			c->page[slot] = page;
		}
		memcpy(buf, c->data[slot] + off, here);
		buf = (char *)buf + here;
		addr += here;
		len -= here;
	}
	return true;
}

void anchor_peek_afresh(const struct anchor_search *s)
{
	if (s->pages)
		memset(s->pages->page, 0, sizeof(s->pages->page));
}

bool anchor_field(const struct anchor_search *s, uint64_t base, struct layout_field f,
		  uint64_t *out)
{
	const void *p;

	*out = 0;
	if (!layout_has(f) || f.size > sizeof(*out))
		return false;
	p = image_copy_at(s->copy, base + (uint64_t)f.offset, f.size);
	if (p)
		memcpy(out, p, f.size);
	return p;
}

bool anchor_pointer(const struct anchor_search *s, uint64_t addr)
{
	const struct mapping *m;

	if (addr % 8 || addr < TARGET_PAGE)
		return false;
	m = mappings_find(s->maps, addr);
	return m && m->read;
}

bool anchor_heap_pointer(const struct anchor_search *s, uint64_t addr)
{
	const struct mapping *m;

	if (addr % 8 || addr < TARGET_PAGE)
		return false;
	m = mappings_find(s->maps, addr);
	return m && m->read && m->write && (m->kind == MAPPING_ANON || m->kind == MAPPING_HEAP);
}

/* Whether the object that a name led to is the one meant. Objects without a
 * shape of their own (counters, strings) only have to lie in the image. */
static bool accepted(const struct anchor_search *s, enum anchor_id id, uint64_t addr)
{
	const char *text;
	uint64_t size;

	switch (id) {
	case A_ATOM_TABLE:
		return anchor_is_atom_table(s, addr);
	case A_MODULE_TABLES:
		return anchor_is_index_table(s, addr, "module_code");
	case A_EXPORT_TABLES:
		return anchor_is_index_table(s, addr, NULL);
	case A_PROC:
	case A_PORT:
		return anchor_is_ptab(s, addr, &size);
	case A_JIT_DESCRIPTOR:
		return anchor_is_jit_descriptor(s, addr);
	case A_DEFAULT_MMAPPER:
	case A_LITERAL_MMAPPER:
		return anchor_is_mmapper(s, addr);
	case A_RANGES:
		return anchor_is_ranges(s, addr);
	case A_ALLCTR_THR_SPEC:
		return anchor_is_thr_spec(s, addr);
	case A_MSEG_ALLCTR:
		return image_copy_u64(s->copy, addr, &size) && anchor_is_mseg_array(s, size);
	case A_A2AD:
	case A_N2TD:
		return image_copy_u64(s->copy, addr, &size) &&
		       (text = image_copy_string(s->copy, size)) &&
		       strcmp(text, id == A_A2AD ? "invalid_allocator" : "invalid_type") == 0;
	case A_OTP_RELEASE:
	case A_ERTS_VERSION:
		return image_holds(s->exe, addr);
	default:
		/* Checked against its neighbours later, or without a shape. */
		return addr % 4 == 0 && image_copy_data(s->copy, addr);
	}
}

static void offer(struct anchor_search *s, enum anchor_id id, uint64_t addr, enum anchor_source src)
{
	if (!anchor_missing(s, id))
		return;
	if (accepted(s, id, addr))
		anchor_set(s, id, addr, src);
	else
		s->a->v[id].why = "the symbol is there, but not the object it names";
}

static void find_symbols(struct anchor_search *s)
{
	enum anchor_source src = ANCHOR_DYNSYM;

	if (strcmp(image_symbol_source(s->exe), "debuginfo") == 0 ||
	    strcmp(image_symbol_source(s->exe), "symtab") == 0)
		src = ANCHOR_DEBUGINFO;
	for (int id = 0; id < A_N; id++) {
		struct image_symbol sym;

		if (image_symbol(s->exe, names[id].name, &sym) ||
		    (names[id].other && image_symbol(s->exe, names[id].other, &sym)))
			offer(s, (enum anchor_id)id, sym.addr, src);
	}
}

/* .symtab of the separate debug file: the only place that names statics. */
static void find_debug_symbols(struct anchor_search *s)
{
	uint64_t bias = image_bias(s->exe);
	Elf_Scn *scn = NULL;
	Elf *elf;
	int fd = image_debug_open(s->target, s->exe);

	if (fd < 0)
		return;
	elf_version(EV_CURRENT);
	elf = elf_begin(fd, ELF_C_READ, NULL);
	while (elf && (scn = elf_nextscn(elf, scn))) {
		GElf_Shdr sh;
		Elf_Data *data;
		size_t n;

		if (!gelf_getshdr(scn, &sh) || sh.sh_type != SHT_SYMTAB || !sh.sh_entsize)
			continue;
		data = elf_getdata(scn, NULL);
		n = data ? data->d_size / sh.sh_entsize : 0;
		if (n > DEBUG_SYMBOLS_MAX)
			n = DEBUG_SYMBOLS_MAX;
		for (size_t i = 0; i < n; i++) {
			const char *name;
			GElf_Sym sym;

			if (!gelf_getsym(data, (int)i, &sym) ||
			    GELF_ST_TYPE(sym.st_info) != STT_OBJECT || sym.st_shndx == SHN_UNDEF)
				continue;
			name = elf_strptr(elf, sh.sh_link, sym.st_name);
			for (int id = 0; name && id < A_N; id++)
				if (strcmp(name, names[id].name) == 0 ||
				    (names[id].other && strcmp(name, names[id].other) == 0))
					offer(s, (enum anchor_id)id, sym.st_value + bias,
					      ANCHOR_DEBUGINFO);
		}
	}
	elf_end(elf);
	close(fd);
}

void anchors_find(struct anchor_search *s)
{
	static const enum anchor_id needed[] = { A_ALLCTRS_INFO, A_ALLCTR_THR_SPEC, A_A2AD,
						 A_N2TD };

	memset(s->a, 0, sizeof(*s->a));
	for (int id = 0; id < A_N; id++)
		s->a->v[id].why = names[id].why;
	if (s->mode == ANCHORS_BEST) {
		find_symbols(s);
		find_debug_symbols(s);
	}
	s->pages = calloc(1, sizeof(*s->pages)); /* without it: slower */
	anchors_find_allocators(s);
	anchors_find_tables(s);
	anchors_find_ptabs(s);
	anchors_find_schedulers(s);
	anchors_find_memory(s);
	anchors_find_code(s);
	anchors_find_counters(s);
	free(s->pages);
	s->pages = NULL;

	s->a->symbols = "dynsym";
	for (size_t i = 0; i < sizeof(needed) / sizeof(needed[0]); i++) {
		enum anchor_source src = s->a->v[needed[i]].source;

		if (src == ANCHOR_DEBUGINFO && strcmp(s->a->symbols, "dynsym") == 0)
			s->a->symbols = "debuginfo";
		else if (src != ANCHOR_DYNSYM && src != ANCHOR_DEBUGINFO)
			s->a->symbols = "signature";
	}
}
