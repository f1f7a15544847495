/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The separate debug file of an image.
 *
 * Distributions strip programs and keep the rest in a file of its own, which is
 * found by what the program still says of it:
 *
 *   build-id       /usr/lib/debug/.build-id/ab/cdef....debug
 *   .gnu_debuglink "NAME", crc32: in the program's folder, in .debug there, or
 *                  in /usr/lib/debug + folder
 *   debuginfod     a server that is asked by build-id
 *
 * Each place is looked at in the target's root first, then in ours: there the
 * file is the target's word, here it is a distribution's, and either may belong
 * to another build. So a file is taken only when its build-id equals the
 * image's, or, for an image without one, when its CRC equals the link's.
 */
#include "target/elf_image.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <zlib.h>

#define CRC_BYTES_MAX (4ULL << 30)
#define DEBUG_FOLDER  "/usr/lib/debug"

/* opening below a root ----------------------------------------------------- */

/* RESOLVE_IN_ROOT makes `root` the root for absolute symlinks and "..", so that
 * a path of the target cannot lead out of its own root into ours. Without
 * O_NONBLOCK a FIFO in the way would hold us. */
static int open_in_root(int root, const char *path)
{
	struct open_how how = {
		.flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY,
		.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS,
	};
	struct stat st;
	long fd = syscall(SYS_openat2, root, path, &how, sizeof(how));

	/* Before Linux 5.6, and where a container's filter does not know the call,
	 * a symlink may lead astray; but whoever opens a file here verifies it. */
	if (fd < 0 && (errno == ENOSYS || errno == EPERM))
		fd = openat(root, path + strspn(path, "/"), (int)how.flags);
	if (fd < 0)
		return -errno;
	if (fstat((int)fd, &st) < 0 || !S_ISREG(st.st_mode)) {
		close((int)fd);
		return -EINVAL;
	}
	return (int)fd;
}

int image_own_open(const char *path)
{
	int root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC), fd;

	if (root < 0)
		return -errno;
	fd = open_in_root(root, path);
	close(root);
	return fd;
}

int image_root_open(struct target *t, const char *path)
{
	char root_path[PATH_MAX], link[64];
	int root = target_proc_open(t, "root"), fd;
	ssize_t n;

	if (root < 0)
		return root;
	/* The maps show paths from our root: for a target chrooted below it, the
	 * chroot's own path stands in front. */
	snprintf(link, sizeof(link), "/proc/%d/root", (int)target_pid(t));
	n = readlink(link, root_path, sizeof(root_path) - 1);
	fd = -ENOENT;
	if (n > 1) {
		root_path[n] = '\0';
		if (strncmp(path, root_path, (size_t)n) == 0 && path[n] == '/')
			fd = open_in_root(root, path + n);
	}
	if (fd < 0)
		fd = open_in_root(root, path);
	close(root);
	return fd;
}

/* the candidates ----------------------------------------------------------- */

static bool has_debug(int fd)
{
	Elf64_Shdr sh;

	return image_section_find(fd, ".debug_info", 0, &sh, NULL) == 0 ||
	       image_section_find(fd, ".zdebug_info", 0, &sh, NULL) == 0;
}

/* What a debug file must have to be of use: debug info or at least symbols. */
static bool of_use(int fd)
{
	Elf64_Shdr sh;

	return has_debug(fd) || image_section_find(fd, NULL, SHT_SYMTAB, &sh, NULL) == 0;
}

/* .gnu_debuglink: a name, a NUL, padding to 4 bytes, a CRC. */
static bool link_read(int fd, char *name, size_t size, uint32_t *crc)
{
	Elf64_Shdr sh;
	size_t len, at;
	char buf[512];

	if (image_section_find(fd, ".gnu_debuglink", 0, &sh, NULL) < 0 ||
	    sh.sh_type == SHT_NOBITS || sh.sh_size < 6 || sh.sh_size > sizeof(buf) ||
	    image_pread(fd, sh.sh_offset, buf, sh.sh_size) < 0)
		return false;
	len = strnlen(buf, sh.sh_size);
	at = (len + 4) & ~(size_t)3;
	if (!len || len >= size || at + 4 > sh.sh_size)
		return false;
	memcpy(name, buf, len + 1);
	memcpy(crc, buf + at, 4);
	/* a file name, not a way to somewhere else */
	return !strchr(name, '/') && strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}

static bool crc_matches(int fd, uint32_t crc)
{
	unsigned char buf[1 << 15];
	uLong sum = crc32(0, NULL, 0);
	struct stat st;
	uint64_t at = 0;

	if (fstat(fd, &st) < 0 || (uint64_t)st.st_size > CRC_BYTES_MAX)
		return false;
	for (;;) {
		ssize_t n = pread(fd, buf, sizeof(buf), (off_t)at);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 || at > CRC_BYTES_MAX)
			return false;
		if (!n)
			return (uint32_t)sum == crc;
		sum = crc32(sum, buf, (uInt)n);
		at += (uint64_t)n;
	}
}

struct wanted {
	struct target *t;
	const struct image *i;
	bool has_crc;
	uint32_t crc;
};

/* `fd` if it is the one, else -ENOENT, closed. */
static int judge(const struct wanted *w, int fd, bool by_link)
{
	char id[2 * IMAGE_BUILD_ID_MAX + 1];
	bool good;

	if (fd < 0)
		return -ENOENT;
	if (image_file_build_id(fd, id) < 0)
		good = false;
	else if (w->i->build_id[0])
		good = strcmp(id, w->i->build_id) == 0;
	else
		good = by_link && w->has_crc && crc_matches(fd, w->crc);
	if (good && of_use(fd))
		return fd;
	close(fd);
	return -ENOENT;
}

static int try_path(const struct wanted *w, const char *path, bool by_link)
{
	int fd = -ENOENT;

	if (!target_is_buffers(w->t))
		fd = judge(w, image_root_open(w->t, path), by_link);
	if (fd < 0)
		fd = judge(w, image_own_open(path), by_link);
	return fd;
}

static int try_build_id(const struct wanted *w)
{
	const char *id = w->i->build_id;
	char path[PATH_MAX];

	if (strlen(id) < 6)
		return -ENOENT;
	snprintf(path, sizeof(path), DEBUG_FOLDER "/.build-id/%.2s/%s.debug", id, id + 2);
	return try_path(w, path, false);
}

static int try_link(const struct wanted *w, const char *name)
{
	const char *path = w->i->path;
	size_t len = (size_t)(w->i->name - path); /* with the slash */
	char folder[PATH_MAX], try[PATH_MAX + 300];
	int fd;

	if (!len || path[0] != '/' || len >= sizeof(folder))
		return -ENOENT;
	memcpy(folder, path, len);
	folder[len] = '\0';
	snprintf(try, sizeof(try), "%s%s", folder, name);
	fd = try_path(w, try, true);
	if (fd < 0) {
		snprintf(try, sizeof(try), "%s.debug/%s", folder, name);
		fd = try_path(w, try, true);
	}
	if (fd < 0) {
		snprintf(try, sizeof(try), DEBUG_FOLDER "%s%s", folder, name);
		fd = try_path(w, try, true);
	}
	return fd;
}

/* debuginfod asks servers that the user named, and only those. The library is
 * looked for at run time: whoever does not use it need not have it. A static
 * program (no interpreter, so no AT_BASE) cannot load libraries. */
static int try_debuginfod(const struct wanted *w)
{
	const char *urls = getenv("DEBUGINFOD_URLS");
	void *(*begin)(void);
	int (*find)(void *client, const unsigned char *id, int len, char **path);
	void (*end)(void *client);
	void *lib, *client;
	int fd = -ENOENT;

	if (!urls || !*urls || !w->i->build_id[0] || !getauxval(AT_BASE))
		return -ENOENT;
	lib = dlopen("libdebuginfod.so.1", RTLD_NOW | RTLD_LOCAL);
	if (!lib)
		return -ENOENT;
	*(void **)&begin = dlsym(lib, "debuginfod_begin");
	*(void **)&find = dlsym(lib, "debuginfod_find_debuginfo");
	*(void **)&end = dlsym(lib, "debuginfod_end");
	client = begin && find && end ? begin() : NULL;
	if (client) {
		/* length 0: the id is text */
		fd = judge(w, find(client, (const unsigned char *)w->i->build_id, 0, NULL), false);
		end(client);
	}
	/* the library stays: libcurl behind it does not like to be unloaded */
	return fd;
}

int image_debug_open(struct target *t, const struct image *i)
{
	struct wanted w = { .t = t, .i = i };
	char name[256];
	int fd;

	if (!i->ph)
		return -ENOENT;
	if (i->fd >= 0 && has_debug(i->fd))
		return image_open(i);
	fd = try_build_id(&w);
	if (fd < 0 && i->fd >= 0 && link_read(i->fd, name, sizeof(name), &w.crc)) {
		w.has_crc = true;
		fd = try_link(&w, name);
	}
	if (fd < 0)
		fd = try_debuginfod(&w);
	return fd < 0 ? -ENOENT : fd;
}
