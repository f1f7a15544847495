/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The memory cgroup of a process.
 *
 * A cgroup's figures lie in files at
 *
 *   MOUNT POINT + (the process's cgroup - the mount's own root) / memory.*
 *
 * /proc/PID/cgroup gives the path (from the root of *our* cgroup namespace),
 * /proc/self/mountinfo the mount point and the mount's root. In a container the
 * mount's root is the container's own cgroup; for a process outside of it the
 * path begins with "/.." and nothing can be had. Version 2 has one line "0::",
 * version 1 one with "memory" among its controllers; where both are mounted,
 * memory belongs to the one that has that line.
 *
 * The limit is the tightest on the way up. Version 2 has memory.max in each
 * folder; version 1 says hierarchical_memory_limit itself, for groups above the
 * mount's root too. In version 2 a group without memory.current is charged to the
 * nearest one above that has it.
 *
 * What is left is another question: a limit above is shared with all other groups
 * below it, so it is the least of limit - usage on the way up, each of one folder.
 * Usage has the page cache in it, which the kernel drops before it kills anybody.
 */
#include "target/system_cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CGROUP_DEPTH_MAX 128
/* Version 1 writes "no limit" as the largest number of whole pages. */
#define V1_UNLIMITED 0x7ffffffffffff000ULL

static void cgroup_reason(struct system_memory *out, const char *text)
{
	snprintf(out->cgroup_reason, sizeof(out->cgroup_reason), "%s", text);
}

/* The process's path in the hierarchy that counts its memory. */
static bool cgroup_path(char *text, char *path, size_t size, bool *v2, struct system_memory *out)
{
	char *line, *save = NULL, *found = NULL;
	bool good = false;

	for (line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		char *controllers = strchr(line, ':'), *where, *one, *inner = NULL;

		where = controllers ? strchr(controllers + 1, ':') : NULL;
		if (!where)
			continue;
		*where++ = '\0';
		controllers++;
		if (!*controllers && !found) {
			found = where;
			*v2 = true;
		}
		for (one = strtok_r(controllers, ",", &inner); one;
		     one = strtok_r(NULL, ",", &inner))
			if (strcmp(one, "memory") == 0) {
				found = where;
				*v2 = false;
			}
		if (found && !*v2)
			break;
	}
	if (!found)
		cgroup_reason(out, "the process is in no cgroup that counts memory");
	else if (found[0] != '/' || strcmp(found, "/..") == 0 || strncmp(found, "/../", 4) == 0)
		cgroup_reason(out,
			      "the process's cgroup lies outside of beamray's cgroup namespace; "
			      "run beamray on the host");
	else if (strlen(found) > 10 && strcmp(found + strlen(found) - 10, " (deleted)") == 0)
		cgroup_reason(out, "the process's cgroup has been removed");
	else if (strlen(found) >= size)
		cgroup_reason(out, "the path of the process's cgroup is too long");
	else
		good = true;
	if (good)
		snprintf(path, size, "%s", found);
	return good;
}

/* mountinfo writes blanks and backslashes as \ooo. */
static void unescape_octal(char *s)
{
	char *to = s;

	while (*s) {
		if (s[0] == '\\' && s[1] >= '0' && s[1] <= '3' && s[2] >= '0' && s[2] <= '7' &&
		    s[3] >= '0' && s[3] <= '7') {
			*to++ = (char)((s[1] - '0') * 64 + (s[2] - '0') * 8 + (s[3] - '0'));
			s += 4;
		} else {
			*to++ = *s++;
		}
	}
	*to = '\0';
}

static bool has_word(const char *list, const char *word)
{
	size_t len = strlen(word);
	const char *p;

	for (p = list; (p = strstr(p, word)); p += len)
		if ((p == list || p[-1] == ',') && (!p[len] || p[len] == ',' || p[len] == '\n'))
			return true;
	return false;
}

/* One line of mountinfo:
 *   36 35 98:0 /root /mount/point rw,noatime master:1 - type source options
 * True if it shows our hierarchy; the fields then point into the line. */
static bool mount_parse(char *line, bool v2, char **root, char **point)
{
	char *field[5], *save = NULL, *dash = strstr(line, " - "), *type, *options;
	unsigned k;

	if (!dash)
		return false;
	*dash = '\0';
	for (k = 0; k < 5; k++) {
		field[k] = strtok_r(k ? NULL : line, " ", &save);
		if (!field[k])
			return false;
	}
	type = strtok_r(dash + 3, " ", &save);
	(void)strtok_r(NULL, " ", &save);
	options = strtok_r(NULL, " \n", &save);
	if (!type || strcmp(type, v2 ? "cgroup2" : "cgroup") != 0)
		return false;
	if (!v2 && (!options || !has_word(options, "memory")))
		return false;
	unescape_octal(field[3]);
	unescape_octal(field[4]);
	*root = field[3];
	*point = field[4];
	return true;
}

/* Opens the mount point and says how long the part of `path` is that the
 * mount's root takes away. -1 with a reason. */
static int mount_open(FILE *f, const char *path, bool v2, size_t *strip, struct system_memory *out)
{
	char *line = NULL, *root, *point;
	size_t size = 0;
	bool any = false;
	int fd = -1;

	while (f && fd < 0 && getline(&line, &size, f) > 0) {
		size_t len;

		if (!mount_parse(line, v2, &root, &point))
			continue;
		any = true;
		len = strlen(root);
		if (len == 1)
			len = 0; /* "/" */
		else if (strncmp(path, root, len) != 0 || (path[len] && path[len] != '/'))
			continue;
		fd = open(point, O_PATH | O_DIRECTORY | O_CLOEXEC);
		*strip = len;
	}
	free(line);
	if (fd < 0)
		cgroup_reason(out,
			      any ? "the process's cgroup lies outside of the cgroup that is "
				    "mounted here; run beamray on the host"
				  : "no cgroup file system that counts memory is mounted here");
	return fd;
}

ssize_t system_file(int dir, const char *name, char *buf, size_t size)
{
	int fd = openat(dir, name, O_RDONLY | O_CLOEXEC);
	size_t len = 0;
	ssize_t n;

	if (fd < 0)
		return -1;
	while (len < size - 1 && (n = read(fd, buf + len, size - 1 - len)) > 0)
		len += (size_t)n;
	close(fd);
	buf[len] = '\0';
	return (ssize_t)len;
}

static uint64_t cgroup_number(int dir, const char *name)
{
	char buf[64], *end;
	unsigned long long v;

	if (system_file(dir, name, buf, sizeof(buf)) <= 0)
		return SYSTEM_UNKNOWN;
	if (strncmp(buf, "max", 3) == 0)
		return SYSTEM_UNLIMITED;
	errno = 0;
	v = strtoull(buf, &end, 10);
	return end == buf || errno ? SYSTEM_UNKNOWN : v;
}

/* The limit of a version 1 group, its ancestors' included, and those that we cannot see. */
static uint64_t v1_limit(int dir)
{
	uint64_t limit = cgroup_number(dir, "memory.limit_in_bytes");
	char text[16384], *p;

	if (system_file(dir, "memory.stat", text, sizeof(text)) > 0) {
		p = strstr(text, "hierarchical_memory_limit ");
		if (p) {
			uint64_t v = strtoull(p + 26, NULL, 10);

			if (limit == SYSTEM_UNKNOWN || v < limit)
				limit = v;
		}
	}
	return limit >= V1_UNLIMITED && limit != SYSTEM_UNKNOWN ? SYSTEM_UNLIMITED : limit;
}

/* One folder on the way up; `own`: the process's. */
static void folder_read(int dir, bool v2, bool own, struct system_memory *out)
{
	uint64_t limit = v2 ? cgroup_number(dir, "memory.max") : v1_limit(dir);
	uint64_t usage = cgroup_number(dir, v2 ? "memory.current" : "memory.usage_in_bytes");

	if (out->cgroup_usage == SYSTEM_UNKNOWN && (v2 || own))
		out->cgroup_usage = usage;
	if (limit == SYSTEM_UNKNOWN)
		return;
	if (out->cgroup_limit == SYSTEM_UNKNOWN || (v2 && limit < out->cgroup_limit))
		out->cgroup_limit = limit;
	/* a tighter one that version 1 did not tell of is not hierarchical: not ours */
	if (usage == SYSTEM_UNKNOWN || limit == SYSTEM_UNLIMITED || limit < out->cgroup_limit)
		return;
	if (limit < usage)
		limit = usage;
	if (out->cgroup_left == SYSTEM_UNKNOWN || limit - usage < out->cgroup_left)
		out->cgroup_left = limit - usage;
}

void system_cgroup(char *cgroup, FILE *mounts, struct system_memory *out)
{
	char path[PATH_MAX];
	bool v2 = false;
	size_t strip;
	unsigned depth;
	int mount;

	if (!cgroup_path(cgroup, path, sizeof(path), &v2, out))
		return;
	mount = mount_open(mounts, path, v2, &strip, out);
	if (mount < 0)
		return;
	for (depth = 0; depth < CGROUP_DEPTH_MAX; depth++) {
		const char *rel = path + strip;
		char *slash;
		int dir;

		while (*rel == '/')
			rel++;
		dir = openat(mount, *rel ? rel : ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
		if (dir < 0 && depth == 0) {
			cgroup_reason(out, "the process's cgroup is not under the mount point");
			break;
		}
		if (dir >= 0) {
			folder_read(dir, v2, depth == 0, out);
			close(dir);
		}
		if (!*rel)
			break;
		slash = strrchr(path + strip, '/');
		if (!slash)
			break;
		*slash = '\0';
	}
	close(mount);
	if (out->cgroup_reason[0])
		return;
	/* The root of version 2 has no memory.current, and no limit. */
	if (out->cgroup_usage == SYSTEM_UNKNOWN)
		cgroup_reason(out, v2 ? "no cgroup above the process counts memory"
				      : "cannot read memory.usage_in_bytes of the process's "
					"cgroup");
	else if (out->cgroup_limit == SYSTEM_UNKNOWN)
		cgroup_reason(out, "cannot read the limit of the process's cgroup");
}
