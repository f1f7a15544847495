/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The libc heap of a target
 *
 * What a NIF, a driver or a library gets from malloc lies in memory that glibc
 * divides on its own. From outside it looks like this:
 *
 *   libc.so's data     main_arena: bins, top, next -> arena -> arena -> back
 *                      mp_: sbrk_base, n_mmaps, mmapped_mem
 *   [heap]             main's chunks, wall to wall, up to the top chunk
 *   64 MiB reserves    other arenas: heap_info, malloc_state, chunks, top
 *   anywhere           mmapped chunks, one mapping each
 *   thread variables   tcache: free chunks that still look used
 *
 * Nothing of it has a symbol in a stripped libc, and there is no need for one:
 * each piece is recognised by what it holds, and each walk proves itself:
 *
 *   the ring of arenas closes                  -> it is glibc, and this layout
 *   heaps add up to the arena's system_mem     -> no heap is missing
 *   chunks tile each heap up to top            -> no chunk is missing
 *   free headers == members of the bins        -> used and free are right
 *   cached chunks are chunks of the walk       -> tcache and fastbins are right
 *   found mmapped chunks == n_mmaps, mmapped_mem
 *
 * What does not prove is said (`proved`, `torn`, `why`), and bytes that could
 * not be told stay in `other_resident`. On a busy node the free lists move
 * while they are read; then headers and tcaches still tell used from free, and
 * only the proof is missing.
 *
 * Parts: glibc_layout.c finds main_arena and mp_, glibc_arena.c walks chunks,
 * glibc_cache.c reads tcaches and fastbins, glibc_mmap.c finds mmapped chunks,
 * stacks.c the threads. This file asks who serves malloc, and ties them
 * together. The tables were measured on glibc 2.31, 2.36, 2.41 and 2.43.
 *
 * Recognised but not walked: a main arena that is not one piece of brk memory
 * (brk was blocked), arenas on huge pages, and every other malloc.
 */
#include "libc/glibc_int.h"

#include <errno.h>
#include <fcntl.h>
#include <gelf.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "target/escape.h"

#define RELOCATIONS_MAX (1U << 22)
#define BANNER_FILE_MAX (64ULL << 20)
#define BANNER_PIECE	(256U << 10)

void heap_say(struct heap_view *v, const char *fmt, ...)
{
	va_list ap;

	if (v->out->why[0]) /* one sentence, the first reason */
		return;
	va_start(ap, fmt);
	vsnprintf(v->out->why, sizeof(v->out->why), fmt, ap);
	va_end(ap);
}

/* ---- who serves malloc ---------------------------------------------------- */

/* The slot that relocation `rela` of `name` fills, in `scn`; 0 if none. */
static uint64_t section_slot(Elf *elf, Elf_Scn *scn, const GElf_Shdr *sh, const char *name)
{
	Elf_Scn *symscn = elf_getscn(elf, sh->sh_link);
	Elf_Data *rels = elf_getdata(scn, NULL), *syms = symscn ? elf_getdata(symscn, NULL) : NULL;
	GElf_Shdr symsh;
	size_t i, n;

	if (!rels || !syms || !sh->sh_entsize || !gelf_getshdr(symscn, &symsh))
		return 0;
	n = sh->sh_size / sh->sh_entsize;
	for (i = 0; i < n && i < RELOCATIONS_MAX; i++) {
		const char *s;
		GElf_Rela rela;
		GElf_Sym sym;
		uint64_t type;

		if (!gelf_getrela(rels, (int)i, &rela))
			break;
		type = GELF_R_TYPE(rela.r_info);
		if (type != R_X86_64_JUMP_SLOT && type != R_X86_64_GLOB_DAT && type != R_X86_64_64)
			continue;
		if (!gelf_getsym(syms, (int)GELF_R_SYM(rela.r_info), &sym))
			continue;
		s = elf_strptr(elf, symsh.sh_link, sym.st_name);
		if (s && !strcmp(s, name))
			return rela.r_offset;
	}
	return 0;
}

/* Where the executable's own pointer to `name` lies, as a run-time address. */
static uint64_t got_slot(const struct image *exe, const char *name)
{
	int fd = image_open(exe);
	Elf_Scn *scn = NULL;
	uint64_t slot = 0;
	GElf_Shdr sh;
	Elf *elf;

	if (fd < 0)
		return 0;
	elf_version(EV_CURRENT);
	elf = elf_begin(fd, ELF_C_READ_MMAP, NULL);
	while (elf && !slot && (scn = elf_nextscn(elf, scn)))
		if (gelf_getshdr(scn, &sh) && sh.sh_type == SHT_RELA)
			slot = section_slot(elf, scn, &sh, name);
	elf_end(elf);
	close(fd);
	return slot ? slot + image_bias(exe) : 0;
}

/* The release in glibc's banner ("GNU C Library (...) stable release version
 * 2.36."), which is in the file of every libc.so.6 (csu/version.c). */
static bool banner_read(const struct image *i, unsigned *major, unsigned *minor)
{
	static const char mark[] = "GNU C Library (";
	char *buf = malloc(BANNER_PIECE + 1);
	bool found = false;
	off_t at = 0;
	ssize_t got;
	int fd = buf ? image_open(i) : -1;

	while (fd >= 0 && !found && at < (off_t)BANNER_FILE_MAX &&
	       (got = pread(fd, buf, BANNER_PIECE, at)) > (ssize_t)sizeof(mark)) {
		const char *hit = memmem(buf, (size_t)got, mark, sizeof(mark) - 1), *version;

		buf[got] = '\0';
		version = hit ? strstr(hit, "version ") : NULL;
		found = version && sscanf(version, "version %2u.%2u", major, minor) == 2;
		at += got > 256 ? got - 256 : got;
	}
	if (fd >= 0)
		close(fd);
	free(buf);
	return found;
}

/* Mallocs that keep a heap of their own. A library that is none of them and not
 * glibc either may be a wrapper around glibc's. */
static bool own_heap(const char *name)
{
	static const char *const names[] = { "jemalloc", "mimalloc", "tcmalloc", "musl",   "scudo",
					     "snmalloc", "rpmalloc", "hoard",	 "ltalloc" };
	size_t i;

	for (i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (strstr(name, names[i]))
			return true;
	return false;
}

static struct image *libc_image(const struct images *im)
{
	struct image *i = images_named(im, "libc.so");

	if (!i)
		i = images_named(im, "libc-2.");
	return i;
}

static bool main_arena_in(struct heap_view *v, const struct image *i)
{
	size_t n, k;
	const struct image_segment *seg = i ? image_segments(i, &n) : NULL;

	for (k = 0; seg && k < n; k++)
		if (seg[k].write && main_arena_find(v, seg[k].start, seg[k].end))
			return true;
	return false;
}

/* Who serves malloc, from where the executable's pointer to it leads (0: not known). */
static struct image *malloc_server(struct images *im, uint64_t function)
{
	struct image *exe = images_exe(im), *libc = libc_image(im);
	struct image *server = function ? images_find(im, function) : NULL;
	uint64_t start, end;

	/* Not readable, or not bound yet: then it leads back into the PLT. */
	if (!server || (server == exe && image_section(exe, ".plt", &start, &end) &&
			function >= start && function < end))
		server = libc;
	return server ? server : exe;
}

struct image *libc_malloc_image(struct target *t, struct images *im, bool *chunks)
{
	struct image *exe = images_exe(im), *server;
	uint64_t slot = exe ? got_slot(exe, "malloc") : 0, function = 0;
	unsigned major, minor;

	if (slot && target_read_u64(t, slot, &function))
		function = 0;
	server = malloc_server(im, function);
	*chunks = server && !own_heap(image_name(server));
	/* A stranger: glibc's heap may be used through it. */
	if (*chunks && !banner_read(server, &major, &minor)) {
		server = libc_image(im);
		*chunks = server && banner_read(server, &major, &minor);
	}
	return server;
}

/* Who serves malloc, and where its main_arena is. Fills malloc_name, is_glibc;
 * returns the image that holds main_arena, or NULL with the reason. */
static struct image *malloc_find(struct heap_view *v, struct images *im)
{
	struct image *exe = images_exe(im), *libc = libc_image(im), *server;
	uint64_t slot = exe ? got_slot(exe, "malloc") : 0, function = 0;
	struct libc_heap *h = v->out;
	unsigned major = 0, minor = 0;
	char name[48] = "";

	if (!slot || heap_read_u64(v, slot, &function))
		function = 0;
	server = malloc_server(im, function);
	if (!server) {
		snprintf(h->malloc_name, sizeof(h->malloc_name), "unknown");
		heap_say(v, "no image of the target could be found, so its malloc is not known");
		return NULL;
	}
	escape_text(name, sizeof(name), image_name(server), strlen(image_name(server)));
	if (own_heap(image_name(server))) {
		snprintf(h->malloc_name, sizeof(h->malloc_name), "%s", name);
		heap_say(v, "malloc is served by %s, whose mappings cannot be told from others",
			 name);
		return NULL;
	}
	if (banner_read(server, &major, &minor)) {
		snprintf(h->malloc_name, sizeof(h->malloc_name), "glibc %u.%u", major, minor);
		h->is_glibc = true;
	} else {
		/* A stranger: glibc's heap may be used through it. */
		snprintf(h->malloc_name, sizeof(h->malloc_name), "%s", name);
		if (server != libc && libc && banner_read(libc, &major, &minor))
			server = libc;
	}
	v->version_minor = major == 2 ? minor : 0;
	v->safe_linking = !v->version_minor || v->version_minor >= 32;
	if (!main_arena_in(v, server)) {
		if (h->is_glibc)
			heap_say(v, "the bins of malloc's main arena did not verify: it was not "
				    "initialised, or is not glibc's");
		else
			heap_say(v,
				 "malloc is served by %s, whose mappings cannot be told from "
				 "others",
				 name);
		return NULL;
	}
	if (!h->is_glibc) {
		h->is_glibc = true;
		snprintf(h->malloc_name, sizeof(h->malloc_name), "%.32s over glibc %u.%u", name,
			 major, minor);
	}
	return server;
}

/* ---- the walk ------------------------------------------------------------- */

/* Main's own memory where it is not one piece: told by name alone. */
static void main_unwalked(struct heap_view *v, struct libc_arena *main, const char *why)
{
	size_t i;

	snprintf(main->why, sizeof(main->why), "%s", why);
	main->torn = true;
	main->proved = false;
	for (i = 0; i < v->m->n && !v->fatal; i++) {
		const struct mapping *m = &v->m->v[i];
		struct libc_region region = { .start = m->start, .end = m->end, .kind = LIBC_MAIN };

		if (m->kind != MAPPING_HEAP)
			continue;
		region.other_resident = resident_outside_holes(v, m->start, m->end);
		(void)region_add(v, &region);
	}
}

/* Does not use the images but to know where chunks cannot be. */
int heap_walk(struct heap_view *v, const struct images *im, const struct libc_threads *threads)
{
	struct libc_heap *h = v->out;
	struct cached_chunks tcaches = { 0 };
	uint64_t *ring = NULL;
	ssize_t n = arena_ring(v, v->state, v->main_arena, &ring), i;
	uint32_t flags = 0;
	const char *why;

	if (n < 0) {
		if (!v->fatal)
			heap_say(v, "the ring of malloc's arenas does not close");
		return v->fatal;
	}
	h->arenas = calloc((size_t)n, sizeof(*h->arenas));
	if (!h->arenas) {
		free(ring);
		return v->fatal = -ENOMEM;
	}
	h->n_arenas = (size_t)n;
	h->walked = true;
	tcaches_find(v, threads);
	if (!v->fatal)
		tcaches_read(v, &tcaches);
	for (i = 0; i < n && !v->fatal; i++) {
		h->arenas[i].addr = ring[i];
		if (i == 0) {
			(void)heap_read(v, ring[0] + 4, &flags, sizeof(flags));
			why = !v->par		      ? "malloc's mp_ was not found"
			      : flags & NONCONTIGUOUS ? "the main arena is not one piece of brk "
							"memory"
						      : NULL;
			if (why) {
				main_unwalked(v, &h->arenas[0], why);
				continue;
			}
		}
		if (arena_walk(v, ring[i], (unsigned)i, &tcaches) < 0)
			break;
		if (h->arenas[i].torn && v->n_tcaches && !v->fatal)
			tcaches_read(v, &tcaches);
		if (i == 0 && !h->arenas[0].heaps)
			main_unwalked(v, &h->arenas[0], h->arenas[0].why);
	}
	for (i = 0; i < n && !v->fatal; i++)
		if (!h->arenas[i].proved)
			heap_say(v, "arena %zd: %s", i, h->arenas[i].why);
	free(ring);
	cached_free(&tcaches);
	if (!v->fatal)
		mmapped_find(v, im, threads);
	return v->fatal;
}

static int view_error(int ret, struct error *err)
{
	if (ret == -ESRCH)
		return error_set(err, EXIT_GONE, ret, "the process has exited");
	if (ret == -ETIMEDOUT)
		return error_set(err, EXIT_GONE, ret,
				 "the process does not let its memory be read (its mmap_lock is "
				 "held)");
	return error_set(err, error_exit_code(ret), ret, "no memory for the walk of the libc heap");
}

int libc_heap_walk(struct target *t, const struct mappings *m, struct images *im,
		   const struct residency *r, const struct libc_opts *opts, struct libc_heap **out,
		   struct error *err)
{
	static const struct libc_opts none;
	struct libc_heap *h = calloc(1, sizeof(*h));
	struct heap_view v = { .t = t, .m = m, .r = r, .opts = opts ? opts : &none, .out = h };
	struct libc_threads threads = { 0 };
	struct image *libc;
	size_t n = 0, k;

	*out = NULL;
	if (!h)
		return view_error(-ENOMEM, err);
	libc = malloc_find(&v, im);
	if (libc && !v.fatal) {
		const struct image_segment *seg = image_segments(libc, &n);
		int ret;

		for (k = 0; k < n && !v.par; k++)
			if (seg[k].write)
				(void)mp_find(&v, seg[k].start, seg[k].end);
		ret = libc_threads_find(t, m, im, r, v.opts->pthreads, v.opts->n_pthreads,
					&threads);
		if (ret < 0)
			v.fatal = ret;
		else
			heap_walk(&v, im, &threads);
		libc_threads_free(&threads);
	}
	free(v.tcaches);
	if (v.fatal) {
		libc_heap_free(h);
		return view_error(v.fatal, err);
	}
	*out = h;
	return 0;
}

void libc_heap_free(struct libc_heap *h)
{
	if (!h)
		return;
	free(h->regions);
	free(h->arenas);
	free(h);
}
