/* SPDX-License-Identifier: Apache-2.0 */
#include "target/mappings.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAPPINGS_MAX  1000000
#define MAPS_TEXT_MAX (512u << 20)

static bool starts(const char *s, const char *prefix)
{
	return strncmp(s, prefix, strlen(prefix)) == 0;
}

static enum mapping_kind kind_of(const struct mapping *m)
{
	const char *p = m->path;

	if (!*p)
		return m->shared ? MAPPING_SHARED : MAPPING_ANON;
	if (*p == '[') {
		if (starts(p, "[heap]"))
			return MAPPING_HEAP;
		if (starts(p, "[stack"))
			return MAPPING_STACK;
		if (starts(p, "[anon:"))
			return MAPPING_ANON;
		if (starts(p, "[anon_shmem:"))
			return MAPPING_SHARED;
		return MAPPING_KERNEL;
	}
	if (starts(p, "/memfd:"))
		return MAPPING_MEMFD;
	if (starts(p, "/anon_hugepage"))
		return MAPPING_HUGETLB;
	if (starts(p, "/SYSV") || starts(p, "/dev/shm/") || starts(p, "/dev/zero"))
		return MAPPING_SHARED;
	if (starts(p, "/dev/") || starts(p, "anon_inode:") || starts(p, "socket:"))
		return MAPPING_DEVICE;
	return MAPPING_FILE;
}

/* One line of maps: "start-end perms offset dev inode   path". The path may
 * hold anything but a newline, which the kernel writes as \012. */
static bool parse_line(char *line, struct mapping *m)
{
	static const char gone[] = " (deleted)";
	unsigned long long start, end, offset, inode;
	unsigned major, minor;
	char perms[5];
	int at = 0;
	size_t len;

	if (sscanf(line, "%llx-%llx %4s %llx %x:%x %llu %n", &start, &end, perms, &offset, &major,
		   &minor, &inode, &at) < 7 ||
	    !at || end <= start)
		return false;
	memset(m, 0, sizeof(*m));
	m->start = start;
	m->end = end;
	m->offset = offset;
	m->inode = inode;
	m->dev_major = major;
	m->dev_minor = minor;
	m->read = perms[0] == 'r';
	m->write = perms[1] == 'w';
	m->exec = perms[2] == 'x';
	m->shared = perms[3] == 's';
	len = strlen(line + at);
	if (len >= sizeof(gone) - 1 && strcmp(line + at + len - (sizeof(gone) - 1), gone) == 0) {
		line[at + len - (sizeof(gone) - 1)] = '\0';
		m->deleted = true;
	}
	m->path = line + at;
	m->kind = kind_of(m);
	return true;
}

/* Reads maps in pieces, each under the guard's clock. */
static int maps_text(struct target *t, char **out)
{
	int fd = target_proc_open(t, "maps");
	size_t size = 1 << 16, len = 0;
	char *buf;

	if (fd < 0)
		return fd;
	buf = malloc(size + 1);
	if (!buf) {
		close(fd);
		return -ENOMEM;
	}
	for (;;) {
		ssize_t n;
		int e, ret;

		if (len == size) {
			char *bigger = size < MAPS_TEXT_MAX ? realloc(buf, size * 2 + 1) : NULL;

			if (!bigger) {
				free(buf);
				close(fd);
				return -E2BIG;
			}
			buf = bigger;
			size *= 2;
		}
		ret = target_call_begin(t);
		if (ret < 0) {
			free(buf);
			close(fd);
			return ret;
		}
		n = read(fd, buf + len, size - len);
		e = errno;
		target_call_end(t);
		if (n < 0 && e == EINTR)
			continue;
		if (n < 0) {
			free(buf);
			close(fd);
			return -e;
		}
		if (!n)
			break;
		len += (size_t)n;
	}
	close(fd);
	buf[len] = '\0';
	*out = buf;
	return 0;
}

int mappings_read(struct target *t, struct mappings **out, struct error *err)
{
	struct mappings *m;
	char *line, *next;
	size_t size = 0;
	int ret;

	*out = NULL;
	m = calloc(1, sizeof(*m));
	if (!m)
		return -ENOMEM;
	ret = maps_text(t, &m->text);
	if (ret < 0) {
		free(m);
		if (ret == -EACCES || ret == -EPERM)
			return error_set(
				err, EXIT_DENIED, ret,
				"not permitted to read the memory map of process %d; run beamray "
				"as root (sudo) or with CAP_SYS_PTRACE",
				(int)target_pid(t));
		return error_set(err, error_exit_code(ret), ret,
				 "cannot read the memory map of process %d: %s", (int)target_pid(t),
				 strerror(-ret));
	}
	for (line = m->text; line && *line; line = next) {
		struct mapping one;

		next = strchr(line, '\n');
		if (next)
			*next++ = '\0';
		else
			next = line + strlen(line);
		if (!parse_line(line, &one))
			continue;
		/* the kernel may show a mapping twice when it changes while we read:
		 * keep what is disjoint and in order. One that grew, or that a
		 * neighbour was merged into, comes again from its old start: its new
		 * part is nowhere else in the text and must not be lost */
		if (m->n && one.start < m->v[m->n - 1].end) {
			uint64_t seen = m->v[m->n - 1].end;

			if (one.end <= seen)
				continue;
			if (one.inode)
				one.offset += seen - one.start;
			one.start = seen;
		}
		if (m->n == size) {
			struct mapping *bigger;

			size = size ? size * 2 : 256;
			if (size > MAPPINGS_MAX * 2 ||
			    !(bigger = realloc(m->v, size * sizeof(*m->v)))) {
				mappings_free(m);
				return error_set(err, EXIT_INCOMPLETE, -E2BIG,
						 "process %d has more mappings than beamray takes",
						 (int)target_pid(t));
			}
			m->v = bigger;
		}
		m->v[m->n++] = one;
	}
	if (!m->n) {
		mappings_free(m);
		return error_set(err, EXIT_GONE, -ESRCH,
				 "process %d has no memory: it has just exited",
				 (int)target_pid(t));
	}
	*out = m;
	return 0;
}

void mappings_free(struct mappings *m)
{
	if (!m)
		return;
	free(m->v);
	free(m->text);
	free(m);
}

size_t mappings_index(const struct mappings *m, uint64_t addr)
{
	size_t lo = 0, hi = m->n;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (m->v[mid].end <= addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

const struct mapping *mappings_find(const struct mappings *m, uint64_t addr)
{
	size_t i = mappings_index(m, addr);

	return i < m->n && m->v[i].start <= addr ? &m->v[i] : NULL;
}

bool mappings_cover(const struct mappings *m, uint64_t addr, uint64_t len)
{
	uint64_t end = addr + len;
	size_t i;

	if (end < addr)
		return false;
	for (i = mappings_index(m, addr); addr < end; i++) {
		if (i == m->n || m->v[i].start > addr || !m->v[i].read)
			return false;
		addr = m->v[i].end;
	}
	return true;
}
