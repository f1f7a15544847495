/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sections and .dynamic of an image.
 *
 * Sections are what the linker thought in; nothing of them is needed to run,
 * so that they exist in files only and may be missing there. libelf reads them,
 * after their number and the size of their names have been looked at. .dynamic
 * is what the loader works with: it is read alike from the file and from the
 * target's memory.
 */
#include "target/elf_image.h"

#include <errno.h>
#include <libelf.h>
#include <stdlib.h>
#include <string.h>

/* sections ----------------------------------------------------------------- */

/* libelf makes room for all sections at once: their number is looked at
 * before it does. */
static bool sections_sane(int fd)
{
	Elf64_Ehdr eh;

	return image_pread(fd, 0, &eh, sizeof(eh)) == 0 && image_ehdr_good(&eh) &&
	       eh.e_shentsize == sizeof(Elf64_Shdr) && eh.e_shnum &&
	       eh.e_shnum <= IMAGE_SECTIONS_MAX && eh.e_phnum <= IMAGE_PHDRS_MAX;
}

int image_section_find(int fd, const char *name, unsigned type, Elf64_Shdr *out, Elf64_Shdr *link)
{
	Elf64_Shdr *sh;
	Elf_Scn *scn = NULL;
	size_t strndx;
	int ret = -ENOENT;
	Elf *e;

	if (fd < 0)
		return -ENOENT;
	if (!sections_sane(fd))
		return -EINVAL;
	elf_version(EV_CURRENT);
	e = elf_begin(fd, ELF_C_READ, NULL);
	if (!e)
		return -EINVAL;
	if (elf_kind(e) != ELF_K_ELF || elf_getshdrstrndx(e, &strndx) < 0) {
		ret = -EINVAL;
		goto done;
	}
	/* libelf takes the whole table of names into memory */
	sh = elf64_getshdr(elf_getscn(e, strndx));
	if (name && (!sh || sh->sh_size > (1u << 20))) {
		ret = -EINVAL;
		goto done;
	}
	while ((scn = elf_nextscn(e, scn))) {
		sh = elf64_getshdr(scn);
		if (!sh || (type && sh->sh_type != type))
			continue;
		if (name) {
			const char *is = elf_strptr(e, strndx, sh->sh_name);

			if (!is || strcmp(is, name) != 0)
				continue;
		}
		*out = *sh;
		if (link) {
			sh = elf64_getshdr(elf_getscn(e, out->sh_link));
			memset(link, 0, sizeof(*link));
			if (sh)
				*link = *sh;
		}
		ret = 0;
		break;
	}
done:
	elf_end(e);
	return ret;
}

bool image_section(struct image *i, const char *name, uint64_t *start, uint64_t *end)
{
	uint64_t addr = 0, size = 0;
	Elf64_Shdr sh;
	unsigned k, type;

	if (image_section_find(i->fd, name, 0, &sh, NULL) == 0) {
		if (!(sh.sh_flags & SHF_ALLOC) ||
		    (sh.sh_flags & SHF_TLS && sh.sh_type == SHT_NOBITS))
			return false;
		addr = sh.sh_addr;
		size = sh.sh_size;
	} else {
		/* without section headers two of them have a program header */
		type = strcmp(name, ".dynamic") == 0	    ? PT_DYNAMIC
		       : strcmp(name, ".eh_frame_hdr") == 0 ? PT_GNU_EH_FRAME
							    : PT_NULL;
		for (k = 0; k < i->n_ph && type != PT_NULL; k++)
			if (i->ph[k].p_type == type) {
				addr = i->ph[k].p_vaddr;
				size = i->ph[k].p_memsz;
			}
	}
	if (!size || addr >= IMAGE_ADDRESS_MAX || size >= IMAGE_ADDRESS_MAX)
		return false;
	addr += i->bias;
	for (k = 0; k < i->n_segs; k++)
		if (addr >= i->segs[k].start && addr + size <= i->segs[k].end) {
			*start = addr;
			*end = addr + size;
			return true;
		}
	return false;
}

/* .dynamic ------------------------------------------------------------------ */

/* glibc writes run-time addresses over the pointers of a loaded .dynamic, musl
 * and the vdso do not. */
static uint64_t dynamic_address(const struct image *i, uint64_t v)
{
	if (i->fd < 0 && image_holds(i, v))
		return v - i->bias;
	return v;
}

int image_dynamic_read(const struct image *i, struct image_dynamic *d)
{
	const Elf64_Phdr *p = NULL;
	uint64_t n;
	unsigned k;

	memset(d, 0, sizeof(*d));
	for (k = 0; k < i->n_ph; k++)
		if (i->ph[k].p_type == PT_DYNAMIC)
			p = &i->ph[k];
	if (!p)
		return -ENOENT;
	n = p->p_filesz / sizeof(Elf64_Dyn);
	for (k = 0; k < n && k < 4096; k++) {
		Elf64_Dyn dyn;
		int ret = image_read(i, p->p_vaddr + k * sizeof(dyn), &dyn, sizeof(dyn));

		if (ret < 0)
			return ret;
		switch (dyn.d_tag) {
		case DT_NULL:
			return 0;
		case DT_SYMTAB:
			d->symtab = dynamic_address(i, dyn.d_un.d_ptr);
			break;
		case DT_STRTAB:
			d->strtab = dynamic_address(i, dyn.d_un.d_ptr);
			break;
		case DT_STRSZ:
			d->strsz = dyn.d_un.d_val;
			break;
		case DT_HASH:
			d->hash = dynamic_address(i, dyn.d_un.d_ptr);
			break;
		case DT_GNU_HASH:
			d->gnu_hash = dynamic_address(i, dyn.d_un.d_ptr);
			break;
		case DT_VERSYM:
			d->versym = dynamic_address(i, dyn.d_un.d_ptr);
			break;
		case DT_NEEDED:
			if (d->n_needed < sizeof(d->needed) / sizeof(d->needed[0]))
				d->needed[d->n_needed++] = dyn.d_un.d_val;
			break;
		default:
			break;
		}
	}
	return 0;
}

size_t image_needed(struct image *i, const char *const **names)
{
	struct image_dynamic d;
	unsigned k;

	if (!i->needed_tried) {
		i->needed_tried = true;
		if (image_dynamic_read(i, &d) == 0 && d.n_needed)
			i->needed = calloc(d.n_needed, sizeof(char *));
		for (k = 0; i->needed && k < d.n_needed; k++) {
			uint64_t left = d.needed[k] < d.strsz ? d.strsz - d.needed[k] : 0;
			char name[256];
			size_t len = left < sizeof(name) ? (size_t)left : sizeof(name);

			if (!len || d.strtab >= IMAGE_ADDRESS_MAX ||
			    image_read(i, d.strtab + d.needed[k], name, len) < 0 ||
			    !memchr(name, '\0', len))
				continue;
			i->needed[i->n_needed] = strdup(name);
			if (i->needed[i->n_needed])
				i->n_needed++;
		}
	}
	*names = (const char *const *)i->needed;
	return i->n_needed;
}
