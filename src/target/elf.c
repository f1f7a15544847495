/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The ELF files of a target.
 *
 * The loader maps a file piece by piece, one piece per PT_LOAD header, each
 * rounded to pages, all shifted by one number, the bias:
 *
 *   file      |ehdr|phdrs| .rodata |  .text  |  .data |
 *                 \________PT_LOAD R    |X       |RW, p_memsz > p_filesz
 *   memory    |__________________|__________|________|:::::::::|
 *             ^ base             r-xp       rw-p      anonymous: the rest of .bss
 *
 * The mapping with file offset 0 holds the ELF header; base - bias is the
 * first PT_LOAD's address. Where an image *ends* is not in the maps: the .bss
 * is anonymous memory, which the kernel merges with whatever an mmap put right
 * behind it. Only p_vaddr + p_memsz says it.
 *
 * What can be trusted: the kernel's maps; nothing else. The file is the
 * target's, so that every header field is checked against the maps (a piece
 * must be mapped from this file at this offset with these rights) and every
 * count and size is bounded. An ELF file that is merely mapped to be read does
 * not pass, one that has been overwritten neither: an image that is executable
 * but whose headers lie keeps the extents that the maps give it, and has no
 * symbols.
 *
 * Which file: a path from the maps means what it says in the target's mount
 * namespace, if anywhere. In this order:
 *   1. /proc/PID/map_files/START-END is the very inode that is mapped, deleted
 *      or not. It takes CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN.
 *   2. /proc/PID/exe, likewise, for the executable.
 *   3. the path below /proc/PID/root (absolute symlinks resolved there too),
 *      then below ours (a target chrooted below us shows such paths): verified
 *      by device and inode, or, where a file system gives maps other numbers
 *      than stat (overlayfs, btrfs), by the build-id in the target's memory.
 *   4. no file: program headers, .dynamic and what it points to are read from
 *      the target's memory. So is the vdso.
 * Files are read with pread, never mapped: the target could truncate one under
 * our hands, and a mapping would then end in SIGBUS.
 */
#include "target/elf_image.h"

#include <errno.h>
#include <fcntl.h>
#include <libelf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define IMAGES_MAX    1024u
#define PROBES_MAX    16384u /* files that are opened to see whether they are ELF */
#define NEAR_MAPPINGS 16     /* an image's second mapping is this near its first */
#define NOTES_MAX     4096u  /* bytes of one PT_NOTE that are looked at */

/* The public part comes first: the two are allocated as one. */
struct images_all {
	struct images pub;
	size_t symbol_bytes;
	size_t exe; /* index + 1, 0: none */
};

static uint64_t page_floor(uint64_t a)
{
	return a & ~(TARGET_PAGE - 1);
}

static uint64_t page_ceil(uint64_t a)
{
	return (a + TARGET_PAGE - 1) & ~(TARGET_PAGE - 1);
}

/* reading ------------------------------------------------------------------ */

int image_pread(int fd, uint64_t at, void *buf, size_t len)
{
	size_t done = 0;

	if (at > INT64_MAX - len)
		return -EIO;
	while (done < len) {
		ssize_t n = pread(fd, (char *)buf + done, len - done, (off_t)(at + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (!n)
			return -EIO;
		done += (size_t)n;
	}
	return 0;
}

/* The segment whose file part holds all of it, or NULL. */
static const Elf64_Phdr *load_find(const struct image *i, uint64_t vaddr, size_t len)
{
	unsigned k;

	if (vaddr >= IMAGE_ADDRESS_MAX || len > IMAGE_ADDRESS_MAX)
		return NULL;
	for (k = 0; k < i->n_ph; k++) {
		const Elf64_Phdr *p = &i->ph[k];

		if (p->p_type == PT_LOAD && vaddr >= p->p_vaddr &&
		    vaddr - p->p_vaddr < p->p_filesz && len <= p->p_filesz - (vaddr - p->p_vaddr))
			return p;
	}
	return NULL;
}

int image_read(const struct image *i, uint64_t vaddr, void *buf, size_t len)
{
	const Elf64_Phdr *p = load_find(i, vaddr, len);

	if (!p)
		return -EFAULT;
	if (i->fd >= 0)
		return image_pread(i->fd, p->p_offset + (vaddr - p->p_vaddr), buf, len);
	return target_read(i->t, i->bias + vaddr, buf, len);
}

bool image_ehdr_good(const Elf64_Ehdr *eh)
{
	return memcmp(eh->e_ident, ELFMAG, SELFMAG) == 0 && eh->e_ident[EI_CLASS] == ELFCLASS64 &&
	       eh->e_ident[EI_DATA] == ELFDATA2LSB &&
	       (eh->e_type == ET_DYN || eh->e_type == ET_EXEC);
}

static bool phdrs_good(const Elf64_Ehdr *eh)
{
	return eh->e_phentsize == sizeof(Elf64_Phdr) && eh->e_phnum &&
	       eh->e_phnum <= IMAGE_PHDRS_MAX;
}

int image_phdrs(int fd, Elf64_Phdr **out, unsigned *n)
{
	Elf64_Ehdr eh;
	size_t bytes;
	int ret = image_pread(fd, 0, &eh, sizeof(eh));

	*out = NULL;
	*n = 0;
	if (ret < 0)
		return ret;
	if (!image_ehdr_good(&eh) || !phdrs_good(&eh))
		return -EINVAL;
	bytes = eh.e_phnum * sizeof(Elf64_Phdr);
	*out = malloc(bytes);
	if (!*out)
		return -ENOMEM;
	ret = image_pread(fd, eh.e_phoff, *out, bytes);
	if (ret < 0) {
		free(*out);
		*out = NULL;
		return ret;
	}
	*n = eh.e_phnum;
	return 0;
}

/* The same from the target's memory, where the header lies at `base`. Program
 * headers beyond the page of the ELF header are not searched for: no linker
 * puts them elsewhere. */
static int memory_phdrs(struct target *t, uint64_t base, Elf64_Phdr **out, unsigned *n)
{
	Elf64_Ehdr eh;
	size_t bytes;
	int ret = target_read(t, base, &eh, sizeof(eh));

	*out = NULL;
	*n = 0;
	if (ret < 0)
		return ret;
	if (!image_ehdr_good(&eh) || !phdrs_good(&eh))
		return -EINVAL;
	bytes = eh.e_phnum * sizeof(Elf64_Phdr);
	if (eh.e_phoff > 4 * TARGET_PAGE)
		return -EINVAL;
	*out = malloc(bytes);
	if (!*out)
		return -ENOMEM;
	ret = target_read(t, base + eh.e_phoff, *out, bytes);
	if (ret < 0) {
		free(*out);
		*out = NULL;
		return ret;
	}
	*n = eh.e_phnum;
	return 0;
}

/* build-id ----------------------------------------------------------------- */

static bool notes_search(const unsigned char *buf, size_t len, char *hex)
{
	size_t at = 0, k;

	while (len - at >= sizeof(Elf64_Nhdr)) {
		Elf64_Nhdr nh;
		size_t name = at + sizeof(nh), desc;

		memcpy(&nh, buf + at, sizeof(nh));
		if (nh.n_namesz > len || nh.n_descsz > len)
			return false;
		desc = name + (((size_t)nh.n_namesz + 3) & ~(size_t)3);
		if (desc > len || nh.n_descsz > len - desc)
			return false;
		if (nh.n_type == NT_GNU_BUILD_ID && nh.n_namesz == 4 &&
		    memcmp(buf + name, "GNU", 4) == 0 && nh.n_descsz &&
		    nh.n_descsz <= IMAGE_BUILD_ID_MAX) {
			for (k = 0; k < nh.n_descsz; k++)
				snprintf(hex + 2 * k, 3, "%02x", buf[desc + k]);
			return true;
		}
		at = desc + (((size_t)nh.n_descsz + 3) & ~(size_t)3);
		if (at > len)
			return false;
	}
	return false;
}

/* From the file `fd`, or with fd < 0 from memory at bias + p_vaddr. */
static void build_id_find(int fd, struct target *t, uint64_t bias, const Elf64_Phdr *ph, unsigned n,
			  char *hex)
{
	unsigned char buf[NOTES_MAX];
	unsigned k;

	hex[0] = '\0';
	for (k = 0; k < n; k++) {
		size_t len = ph[k].p_filesz < sizeof(buf) ? (size_t)ph[k].p_filesz : sizeof(buf);
		int ret;

		if (ph[k].p_type != PT_NOTE || !len)
			continue;
		if (fd >= 0)
			ret = image_pread(fd, ph[k].p_offset, buf, len);
		else
			ret = target_read(t, bias + ph[k].p_vaddr, buf, len);
		if (ret == 0 && notes_search(buf, len, hex))
			return;
	}
}

int image_file_build_id(int fd, char *hex)
{
	Elf64_Phdr *ph;
	unsigned n;
	int ret = image_phdrs(fd, &ph, &n);

	hex[0] = '\0';
	if (ret < 0)
		return ret;
	build_id_find(fd, NULL, 0, ph, n, hex);
	free(ph);
	return 0;
}

/* opening ------------------------------------------------------------------ */

static int regular_or_close(int fd)
{
	struct stat st;

	if (fd >= 0 && (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))) {
		close(fd);
		return -EINVAL;
	}
	return fd;
}

/* The bias that the mapping at `base` with file offset 0 gives. */
static bool bias_find(const Elf64_Phdr *ph, unsigned n, uint64_t base, uint64_t *bias)
{
	unsigned k;

	for (k = 0; k < n; k++)
		if (ph[k].p_type == PT_LOAD && ph[k].p_offset < TARGET_PAGE &&
		    ph[k].p_vaddr < IMAGE_ADDRESS_MAX && page_floor(ph[k].p_vaddr) <= base) {
			*bias = base - page_floor(ph[k].p_vaddr);
			return true;
		}
	return false;
}

/* Is `fd` the file that mapping `m` shows? */
static bool same_file(struct target *t, const struct mapping *m, int fd)
{
	char in_file[2 * IMAGE_BUILD_ID_MAX + 1], in_memory[2 * IMAGE_BUILD_ID_MAX + 1] = "";
	struct stat st;
	Elf64_Phdr *ph;
	unsigned n;
	uint64_t bias;

	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		return false;
	if (st.st_ino == m->inode && major(st.st_dev) == m->dev_major &&
	    minor(st.st_dev) == m->dev_minor)
		return true;
	if (image_file_build_id(fd, in_file) < 0 || !in_file[0])
		return false;
	if (memory_phdrs(t, m->start, &ph, &n) < 0)
		return false;
	if (bias_find(ph, n, m->start, &bias))
		build_id_find(-1, t, bias, ph, n, in_memory);
	free(ph);
	return strcmp(in_file, in_memory) == 0;
}

static int verified(struct target *t, const struct mapping *m, int fd)
{
	if (fd >= 0 && !same_file(t, m, fd)) {
		close(fd);
		return -ESTALE;
	}
	return fd;
}

/* The file behind a mapping, or -errno. */
static int file_open(struct target *t, const struct mapping *m)
{
	char name[64];
	int fd;

	if (target_is_buffers(t) || m->kind == MAPPING_KERNEL)
		return -ENOENT;
	/* This one needs no check: the kernel takes it from the mapping itself. */
	snprintf(name, sizeof(name), "map_files/%llx-%llx", (unsigned long long)m->start,
		 (unsigned long long)m->end);
	fd = regular_or_close(target_proc_open(t, name));
	if (fd >= 0)
		return fd;
	if (strcmp(m->path, target_exe(t)) == 0 || m->deleted) {
		fd = verified(t, m, target_proc_open(t, "exe"));
		if (fd >= 0)
			return fd;
	}
	if (m->kind != MAPPING_FILE || m->path[0] != '/')
		return -ENOENT;
	fd = verified(t, m, image_root_open(t, m->path));
	if (fd < 0)
		fd = verified(t, m, image_own_open(m->path));
	return fd;
}

/* extents ------------------------------------------------------------------ */

static bool maps_same_file(const struct mapping *a, const struct mapping *b)
{
	return a == b || (a->inode && a->inode == b->inode && a->dev_major == b->dev_major &&
			  a->dev_minor == b->dev_minor);
}

/* May mapping `m` hold a part of the .bss, or a piece of the file that the
 * program has replaced by memory (text moved to huge pages)? */
static bool is_memory(const struct mapping *m)
{
	return m->kind == MAPPING_ANON || m->kind == MAPPING_HEAP || m->kind == MAPPING_HUGETLB;
}

/* One PT_LOAD against the maps. 1: fills *s, 0: an empty one, -1: it lies. */
static int segment_check(const struct mappings *maps, const struct mapping *first,
			 const Elf64_Phdr *p, uint64_t bias, uint64_t floor,
			 struct image_segment *s)
{
	const struct mapping *m;
	uint64_t end, at;
	size_t k;

	if (p->p_vaddr >= IMAGE_ADDRESS_MAX || p->p_memsz >= IMAGE_ADDRESS_MAX ||
	    p->p_filesz > p->p_memsz)
		return -1;
	if (!p->p_memsz)
		return 0;
	s->start = bias + page_floor(p->p_vaddr);
	s->file_end = p->p_filesz ? bias + page_ceil(p->p_vaddr + p->p_filesz) : s->start;
	end = bias + page_ceil(p->p_vaddr + p->p_memsz);
	s->write = (p->p_flags & PF_W) != 0;
	s->exec = (p->p_flags & PF_X) != 0;
	if (end <= s->start || s->start < floor)
		return -1;
	m = mappings_find(maps, s->start);
	if (!m)
		return -1;
	if (p->p_filesz) {
		if (maps_same_file(m, first)) {
			if (m->offset + (s->start - m->start) != page_floor(p->p_offset) ||
			    (s->exec && !m->exec) || (s->write && m->shared))
				return -1;
		} else if (!is_memory(m)) {
			return -1;
		}
	}
	/* As far as the mappings go without a hole and belong to it. */
	for (k = (size_t)(m - maps->v), at = s->start; at < end && k < maps->n; k++) {
		m = &maps->v[k];
		if (m->start > at ||
		    !((maps_same_file(m, first) && at < s->file_end) || is_memory(m)))
			break;
		at = m->end;
	}
	s->end = at < end ? at : end;
	if (s->file_end > s->end)
		s->file_end = s->end;
	return s->end > s->start ? 1 : -1;
}

/* Fills i->segs and i->bias from i->ph; false when they do not fit the maps. */
static bool segments_from_phdrs(struct image *i, const struct mappings *maps,
				const struct mapping *first)
{
	uint64_t floor = 0;
	unsigned k;

	if (!bias_find(i->ph, i->n_ph, first->start, &i->bias))
		return false;
	i->segs = calloc(i->n_ph, sizeof(*i->segs));
	if (!i->segs)
		return false;
	for (k = 0; k < i->n_ph; k++) {
		if (i->ph[k].p_type == PT_INTERP)
			i->has_interp = true;
		if (i->ph[k].p_type != PT_LOAD)
			continue;
		switch (segment_check(maps, first, &i->ph[k], i->bias, floor,
				      &i->segs[i->n_segs])) {
		case 1:
			floor = i->segs[i->n_segs].end;
			i->n_segs++;
			break;
		case 0:
			break;
		default:
			goto bad;
		}
	}
	if (i->n_segs && i->segs[0].start == first->start)
		return true;
bad:
	free(i->segs);
	i->segs = NULL;
	i->n_segs = 0;
	i->bias = 0;
	i->has_interp = false;
	return false;
}

/* The extents as the maps show them, for an image whose headers lie: the
 * adjoining mappings of this file. False when none is executable (then it is
 * a file that somebody maps to read). */
static bool segments_from_maps(struct image *i, const struct mappings *maps,
			       const struct mapping *first)
{
	size_t k = (size_t)(first - maps->v), n;
	bool exec = false;

	for (n = k; n < maps->n && n - k < NEAR_MAPPINGS && maps_same_file(&maps->v[n], first) &&
		    (n == k || maps->v[n].start == maps->v[n - 1].end);
	     n++)
		exec |= maps->v[n].exec;
	if (!exec)
		return false;
	i->segs = calloc(n - k, sizeof(*i->segs));
	if (!i->segs)
		return false;
	for (; k < n; k++) {
		struct image_segment *s = &i->segs[i->n_segs++];

		s->start = maps->v[k].start;
		s->end = s->file_end = maps->v[k].end;
		s->write = maps->v[k].write;
		s->exec = maps->v[k].exec;
	}
	i->bias = first->start;
	return true;
}

/* images ------------------------------------------------------------------- */

static void image_free(struct image *i)
{
	size_t k;

	if (!i)
		return;
	if (i->fd >= 0)
		close(i->fd);
	for (k = 0; k < i->n_needed; k++)
		free(i->needed[k]);
	free(i->needed);
	image_symbols_free(i->own);
	image_symbols_free(i->debug);
	free(i->segs);
	free(i->ph);
	free(i->path);
	free(i);
}

static bool has_magic(struct target *t, int fd, uint64_t base)
{
	unsigned char ident[SELFMAG];
	int ret = fd >= 0 ? image_pread(fd, 0, ident, sizeof(ident))
			  : target_read(t, base, ident, sizeof(ident));

	return ret == 0 && memcmp(ident, ELFMAG, SELFMAG) == 0;
}

/* 1: *out is an image, 0: it is none, -ENOMEM, -ETIMEDOUT. */
static int image_make(struct target *t, const struct mappings *maps, const struct mapping *m,
		      struct image **out)
{
	struct image *i;
	const char *slash;

	*out = NULL;
	i = calloc(1, sizeof(*i));
	if (!i)
		return -ENOMEM;
	i->t = t;
	i->base = m->start;
	i->inode = m->inode;
	i->dev_major = m->dev_major;
	i->dev_minor = m->dev_minor;
	i->fd = file_open(t, m);
	if (i->fd < 0)
		i->fd = -1;
	if (!has_magic(t, i->fd, i->base))
		goto none;
	i->path = strdup(m->path);
	if (!i->path) {
		image_free(i);
		return -ENOMEM;
	}
	slash = strrchr(i->path, '/');
	i->name = slash ? slash + 1 : i->path;

	if (i->fd >= 0 && image_phdrs(i->fd, &i->ph, &i->n_ph) == 0 &&
	    segments_from_phdrs(i, maps, m))
		goto good;
	/* no file, or one that is not what the loader has mapped */
	free(i->ph);
	i->ph = NULL;
	i->n_ph = 0;
	if (i->fd >= 0)
		close(i->fd);
	i->fd = -1;
	if (memory_phdrs(t, i->base, &i->ph, &i->n_ph) == 0 && segments_from_phdrs(i, maps, m))
		goto good;
	free(i->ph);
	i->ph = NULL;
	i->n_ph = 0;
	if (!segments_from_maps(i, maps, m))
		goto none;
good:
	build_id_find(i->fd, t, i->bias, i->ph, i->n_ph, i->build_id);
	*out = i;
	return 1;
none:
	image_free(i);
	return 0;
}

/* An image has a second mapping near its first, or an executable first one.
 * Data files (a database may map thousands) are not opened at all. */
static bool worth_probing(const struct mappings *maps, size_t at)
{
	const struct mapping *m = &maps->v[at];
	size_t k;

	if (m->offset || !m->read)
		return false;
	if (m->kind == MAPPING_KERNEL)
		return strcmp(m->path, "[vdso]") == 0;
	if (m->kind != MAPPING_FILE && m->kind != MAPPING_MEMFD)
		return false;
	if (m->exec)
		return true;
	for (k = at + 1; k < maps->n && k - at < NEAR_MAPPINGS; k++)
		if (maps_same_file(&maps->v[k], m) && (maps->v[k].exec || maps->v[k].write))
			return true;
	return false;
}

/* The executable is what holds the program headers that the kernel named to
 * the loader. */
static size_t exe_find(struct target *t, const struct images *im)
{
	char *text = NULL;
	ssize_t len = target_proc_read(t, "auxv", 4096, &text);
	size_t k, exe = 0;
	Elf64_auxv_t av;

	for (k = 0; len > 0 && (k + 1) * sizeof(av) <= (size_t)len && !exe; k++) {
		size_t n;

		memcpy(&av, text + k * sizeof(av), sizeof(av));
		for (n = 0; av.a_type == AT_PHDR && n < im->n; n++)
			if (image_holds(im->v[n], av.a_un.a_val))
				exe = n + 1;
	}
	free(text);
	for (k = 0; k < im->n && !exe; k++)
		if (!target_is_buffers(t) && strcmp(im->v[k]->path, target_exe(t)) == 0)
			exe = k + 1;
	/* Buffers have no /proc. Libraries that can be run have an interpreter
	 * too (libc.so.6), but lie above the program. */
	for (k = 0; k < im->n && !exe; k++)
		if (target_is_buffers(t) && im->v[k]->has_interp)
			exe = k + 1;
	return exe;
}

int images_read(struct target *t, const struct mappings *m, struct images **out, struct error *err)
{
	struct images_all *all = calloc(1, sizeof(*all));
	const struct image *last = NULL;
	unsigned probes = 0;
	size_t k, size = 0;
	int ret = -ENOMEM;

	*out = NULL;
	elf_version(EV_CURRENT);
	if (!all)
		goto fail;
	for (k = 0; k < m->n && all->pub.n < IMAGES_MAX && probes < PROBES_MAX; k++) {
		const struct mapping *one = &m->v[k];
		struct image *i;

		/* a small file's data may be its page 0 once more */
		if (!worth_probing(m, k) || (last && image_holds(last, one->start)))
			continue;
		probes++;
		ret = image_make(t, m, one, &i);
		if (ret < 0)
			goto fail;
		if (!ret)
			continue;
		ret = -ENOMEM;
		if (all->pub.n == size) {
			size_t bigger = size ? size * 2 : 32;
			struct image **v = realloc(all->pub.v, bigger * sizeof(struct image *));

			if (!v) {
				image_free(i);
				goto fail;
			}
			all->pub.v = v;
			size = bigger;
		}
		i->symbol_bytes = &all->symbol_bytes;
		all->pub.v[all->pub.n++] = i;
		last = i;
	}
	/* A process that went away while we looked has left files that nobody can
	 * open and memory that nobody can read. */
	ret = target_check(t, err);
	if (ret < 0)
		goto fail;
	all->exe = exe_find(t, &all->pub);
	*out = &all->pub;
	return 0;
fail:
	images_free(all ? &all->pub : NULL);
	return error_set(err, error_exit_code(ret), ret, "cannot read the images of process %d: %s",
			 (int)target_pid(t), strerror(-ret));
}

void images_free(struct images *im)
{
	size_t k;

	if (!im)
		return;
	for (k = 0; k < im->n; k++)
		image_free(im->v[k]);
	free(im->v);
	free((struct images_all *)(void *)im);
}

struct image *images_find(const struct images *im, uint64_t addr)
{
	size_t lo = 0, hi = im->n;

	/* the last image that begins at or below addr; images do not interleave,
	 * but one may lie in another's hole */
	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (im->v[mid]->base <= addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	for (hi = lo; hi && lo - hi < 4; hi--)
		if (image_holds(im->v[hi - 1], addr))
			return im->v[hi - 1];
	return NULL;
}

struct image *images_exe(const struct images *im)
{
	size_t exe = ((const struct images_all *)(const void *)im)->exe;

	return exe ? im->v[exe - 1] : NULL;
}

struct image *images_named(const struct images *im, const char *prefix)
{
	size_t k, len = strlen(prefix);

	for (k = 0; k < im->n; k++)
		if (strncmp(im->v[k]->name, prefix, len) == 0)
			return im->v[k];
	return NULL;
}

const char *image_path(const struct image *i)
{
	return i->path;
}

const char *image_name(const struct image *i)
{
	return i->name;
}

const char *image_build_id(const struct image *i)
{
	return i->build_id;
}

uint64_t image_bias(const struct image *i)
{
	return i->bias;
}

const struct image_segment *image_segments(const struct image *i, size_t *n)
{
	*n = i->n_segs;
	return i->segs;
}

bool image_holds(const struct image *i, uint64_t addr)
{
	size_t k;

	for (k = 0; k < i->n_segs; k++)
		if (addr >= i->segs[k].start && addr < i->segs[k].end)
			return true;
	return false;
}

int image_bytes(const struct image *i, uint64_t addr, void *buf, size_t len)
{
	return image_read(i, addr - i->bias, buf, len);
}

bool image_offset(const struct image *i, uint64_t addr, uint64_t *offset)
{
	const Elf64_Phdr *p = i->fd >= 0 ? load_find(i, addr - i->bias, 1) : NULL;

	if (p)
		*offset = p->p_offset + (addr - i->bias - p->p_vaddr);
	return p;
}

int image_open(const struct image *i)
{
	int fd;

	if (i->fd < 0)
		return -ENOENT;
	fd = fcntl(i->fd, F_DUPFD_CLOEXEC, 3);
	return fd < 0 ? -errno : fd;
}
