/* SPDX-License-Identifier: Apache-2.0 */
#include "target/target_private.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <elf.h>

#define STUCK_NS (2ULL * 1000000000ULL)

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ULL + (uint64_t)ts.tv_nsec;
}

int target_call_begin(struct target *t)
{
	if (atomic_load_explicit(&t->stuck, memory_order_relaxed))
		return -ETIMEDOUT;
	atomic_store_explicit(&t->call_since, now_ns(), memory_order_relaxed);
	return 0;
}

void target_call_end(struct target *t)
{
	uint64_t since = atomic_exchange_explicit(&t->call_since, 0, memory_order_relaxed);
	uint64_t took = since ? now_ns() - since : 0;

	/* one thread at a time makes calls; a lost maximum would not matter */
	if (took > atomic_load_explicit(&t->longest_ns, memory_order_relaxed))
		atomic_store_explicit(&t->longest_ns, took, memory_order_relaxed);
}

struct guard {
	struct target *t;
	int (*fn)(void *arg);
	void *arg;
	pthread_mutex_t lock;
	pthread_cond_t cond;
	bool done, abandoned;
	int ret;
};

static void guard_free(struct guard *g)
{
	pthread_mutex_destroy(&g->lock);
	pthread_cond_destroy(&g->cond);
	free(g);
}

static void *guard_main(void *p)
{
	struct guard *g = p;
	int ret = g->fn(g->arg);
	bool abandoned;

	pthread_mutex_lock(&g->lock);
	g->ret = ret;
	g->done = true;
	abandoned = g->abandoned;
	pthread_cond_signal(&g->cond);
	pthread_mutex_unlock(&g->lock);
	if (abandoned)
		guard_free(g);
	return NULL;
}

int target_guard(struct target *t, int (*fn)(void *arg), void *arg, unsigned seconds,
		 struct error *err)
{
	pthread_condattr_t ca;
	struct guard *g;
	pthread_t thread;
	uint64_t start = now_ns();
	bool stuck = false;
	int ret;

	if (atomic_load(&t->stuck))
		return error_set(
			err, EXIT_INCOMPLETE, -ETIMEDOUT,
			"process %d is stuck in the kernel: an earlier read did not come back",
			(int)t->pid);
	g = calloc(1, sizeof(*g));
	if (!g)
		return -ENOMEM;
	g->t = t;
	g->fn = fn;
	g->arg = arg;
	pthread_mutex_init(&g->lock, NULL);
	pthread_condattr_init(&ca);
	pthread_condattr_setclock(&ca, CLOCK_MONOTONIC);
	pthread_cond_init(&g->cond, &ca);
	pthread_condattr_destroy(&ca);
	ret = pthread_create(&thread, NULL, guard_main, g);
	if (ret) {
		guard_free(g);
		return -ret;
	}

	pthread_mutex_lock(&g->lock);
	while (!g->done) {
		struct timespec ts;
		uint64_t since, now;

		clock_gettime(CLOCK_MONOTONIC, &ts);
		ts.tv_nsec += 100000000;
		if (ts.tv_nsec >= 1000000000) {
			ts.tv_sec++;
			ts.tv_nsec -= 1000000000;
		}
		pthread_cond_timedwait(&g->cond, &g->lock, &ts);
		now = now_ns();
		since = atomic_load(&t->call_since);
		stuck = since && now > since && now - since > STUCK_NS;
		if (!g->done && (stuck || (seconds && now - start > seconds * 1000000000ULL))) {
			atomic_store(&t->stuck, true);
			g->abandoned = true;
			break;
		}
	}
	ret = g->done ? g->ret : -ETIMEDOUT;
	pthread_mutex_unlock(&g->lock);
	if (ret == -ETIMEDOUT && g->abandoned) {
		pthread_detach(thread);
		return error_set(
			err, EXIT_INCOMPLETE, -ETIMEDOUT,
			stuck ? "process %d is stuck in the kernel: a read of its memory did "
				"not return within 2 s, since something holds its mmap_lock; "
				"look at /proc/%d/task/*/stack and try again later"
			      : "looking at process %d took too long and was given up; "
				"/proc/%d/status shows its size",
			(int)t->pid, (int)t->pid);
	}
	pthread_join(thread, NULL);
	guard_free(g);
	return ret;
}

/* /proc ------------------------------------------------------------------ */

int target_proc_open(const struct target *t, const char *name)
{
	int fd;

	if (t->proc_fd < 0)
		return -ENOENT;
	fd = openat(t->proc_fd, name, O_RDONLY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

static ssize_t read_all(int fd, size_t max, char **out)
{
	size_t size = 4096, len = 0;
	char *buf = malloc(size + 1);

	if (!buf)
		return -ENOMEM;
	for (;;) {
		ssize_t n = read(fd, buf + len, size - len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			int e = errno;

			free(buf);
			return -e;
		}
		len += (size_t)n;
		if (!n || len == max)
			break;
		if (len == size) {
			char *bigger;

			size = size * 2 < max ? size * 2 : max;
			bigger = realloc(buf, size + 1);
			if (!bigger) {
				free(buf);
				return -ENOMEM;
			}
			buf = bigger;
		}
	}
	buf[len] = '\0';
	*out = buf;
	return (ssize_t)len;
}

ssize_t target_proc_read(const struct target *t, const char *name, size_t max, char **out)
{
	int fd = target_proc_open(t, name);
	ssize_t n;

	*out = NULL;
	if (fd < 0)
		return fd;
	n = read_all(fd, max, out);
	close(fd);
	return n;
}

#define PF_KTHREAD 0x00200000UL /* include/linux/sched.h */

/* Of /proc/PID/stat: field 22, and the state letter, 'K' for a kernel thread. The
 * command name in field 2 may hold anything, so fields are counted from the last
 * ')'. */
static int stat_read(const struct target *t, uint64_t *start_ticks, char *state)
{
	char *text, *p, *save = NULL;
	ssize_t n = target_proc_read(t, "stat", 4096, &text);
	int field = 3;

	if (n < 0 || !text)
		return n < 0 ? (int)n : -EPROTO;
	p = strrchr(text, ')');
	if (!p || p[1] != ' ') {
		free(text);
		return -EPROTO;
	}
	for (p = strtok_r(p + 2, " ", &save); p && field < 22; p = strtok_r(NULL, " ", &save)) {
		if (field == 3)
			*state = p[0];
		if (field == 9 && strtoul(p, NULL, 10) & PF_KTHREAD)
			*state = 'K';
		field++;
	}
	*start_ticks = p ? strtoull(p, NULL, 10) : 0;
	free(text);
	return p ? 0 : -EPROTO;
}

static void start_time_format(struct target *t)
{
	char line[256];
	FILE *f = fopen("/proc/stat", "re");
	unsigned long long btime = 0;
	long hz = sysconf(_SC_CLK_TCK);
	time_t when;
	struct tm tm;

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "btime %llu", &btime) == 1)
			break;
	if (f)
		fclose(f);
	when = (time_t)(btime + t->start_ticks / (uint64_t)(hz > 0 ? hz : 100));
	if (gmtime_r(&when, &tm))
		strftime(t->start_time, sizeof(t->start_time), "%Y-%m-%dT%H:%M:%SZ", &tm);
}

static pid_t nspid_read(const struct target *t)
{
	char *text, *p;
	pid_t pid = t->pid;

	if (target_proc_read(t, "status", 16384, &text) < 0)
		return pid;
	p = strstr(text, "\nNSpid:");
	if (p) {
		char *end;

		/* one number per nested namespace, the innermost last */
		for (p += 7; *p == '\t' || *p == ' '; p = end) {
			long v = strtol(p, &end, 10);

			if (end == p)
				break;
			pid = (pid_t)v;
		}
	}
	free(text);
	return pid;
}

/* The executable's ELF header and build-id, straight from the file. */
static int exe_read(struct target *t, struct error *err)
{
	unsigned char buf[4096];
	Elf64_Ehdr eh;
	ssize_t n;
	int fd = target_proc_open(t, "exe");
	unsigned i;

	if (fd == -ENOENT)
		return error_set(err, EXIT_GONE, -ESRCH, "process %d has just exited", (int)t->pid);
	if (fd < 0)
		return fd;
	n = pread(fd, &eh, sizeof(eh), 0);
	if (n != (ssize_t)sizeof(eh) || memcmp(eh.e_ident, ELFMAG, SELFMAG) != 0 ||
	    eh.e_ident[EI_CLASS] != ELFCLASS64 || eh.e_machine != EM_X86_64) {
		close(fd);
		return error_set(
			err, EXIT_UNSUPPORTED, -ENOTSUP,
			"process %d runs %s, which is not an x86-64 ELF program; beamray reads "
			"x86-64 only",
			(int)t->pid, t->exe);
	}
	for (i = 0; i < eh.e_phnum && i < 64; i++) {
		Elf64_Phdr ph;
		size_t at = 0, len;

		if (pread(fd, &ph, sizeof(ph), (off_t)(eh.e_phoff + i * sizeof(ph))) !=
		    (ssize_t)sizeof(ph))
			break;
		if (ph.p_type != PT_NOTE)
			continue;
		len = ph.p_filesz < sizeof(buf) ? (size_t)ph.p_filesz : sizeof(buf);
		n = pread(fd, buf, len, (off_t)ph.p_offset);
		len = n > 0 ? (size_t)n : 0;
		while (at + sizeof(Elf64_Nhdr) <= len) {
			Elf64_Nhdr nh;
			size_t name, desc, k;

			memcpy(&nh, buf + at, sizeof(nh));
			name = at + sizeof(nh);
			desc = name + (((size_t)nh.n_namesz + 3) & ~(size_t)3);
			if (nh.n_namesz > len || nh.n_descsz > len || desc + nh.n_descsz > len)
				break;
			if (nh.n_type == NT_GNU_BUILD_ID && nh.n_namesz == 4 &&
			    memcmp(buf + name, "GNU", 4) == 0 && nh.n_descsz <= BUILD_ID_MAX) {
				for (k = 0; k < nh.n_descsz; k++)
					snprintf(t->build_id + 2 * k, 3, "%02x", buf[desc + k]);
				close(fd);
				return 0;
			}
			at = desc + (((size_t)nh.n_descsz + 3) & ~(size_t)3);
		}
	}
	close(fd);
	return 0;
}

int target_open(pid_t pid, struct target **out, struct error *err)
{
	struct target *t = calloc(1, sizeof(*t));
	char path[64], state = '?';
	struct stat st;
	ssize_t n;
	int ret;

	*out = NULL;
	if (!t)
		return -ENOMEM;
	t->pid = pid;
	t->pagemap_fd = -1;
	snprintf(path, sizeof(path), "/proc/%d", (int)pid);
	t->proc_fd = pid > 0 ? open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
	if (t->proc_fd < 0 || stat_read(t, &t->start_ticks, &state) < 0) {
		ret = error_set(
			err, EXIT_GONE, -ESRCH,
			"there is no process %d; `pgrep -a beam` shows the nodes on this machine",
			(int)pid);
		goto fail;
	}
	if (state == 'K') {
		ret = error_set(err, EXIT_UNSUPPORTED, -ENOTSUP,
				"process %d has no executable: it is a kernel thread", (int)pid);
		goto fail;
	}
	if (state == 'Z' || state == 'X') {
		ret = error_set(err, EXIT_GONE, -ESRCH,
				"process %d is a zombie: it has exited and holds no memory any more",
				(int)pid);
		goto fail;
	}
	n = readlinkat(t->proc_fd, "exe", t->exe, sizeof(t->exe) - 1);
	if (n < 0) {
		ret = -errno;
		if (ret == -EACCES || ret == -EPERM)
			error_set(err, EXIT_DENIED, ret,
				  "not permitted to look at process %d; run beamray as root (sudo) or "
				  "with CAP_SYS_PTRACE",
				  (int)pid);
		else
			error_set(err, EXIT_GONE, ret = -ESRCH, "process %d has just exited",
				  (int)pid);
		goto fail;
	}
	if (fstatat(t->proc_fd, "exe", &st, 0) == 0) {
		t->exe_dev = st.st_dev;
		t->exe_ino = st.st_ino;
	}
	ret = exe_read(t, err);
	if (ret < 0) {
		error_set(err, error_exit_code(ret), ret,
			  "cannot read the executable of process %d: %s", (int)pid, strerror(-ret));
		goto fail;
	}
	t->nspid = nspid_read(t);
	start_time_format(t);
	*out = t;
	return 0;
fail:
	target_close(t);
	return ret;
}

int target_open_buffers(const struct target_buffer *v, size_t n, struct target **out)
{
	struct target *t = calloc(1, sizeof(*t));

	*out = NULL;
	if (!t)
		return -ENOMEM;
	t->proc_fd = -1;
	t->pagemap_fd = -1;
	t->buffers = calloc(n ? n : 1, sizeof(*v));
	if (!t->buffers) {
		free(t);
		return -ENOMEM;
	}
	if (n)
		memcpy(t->buffers, v, n * sizeof(*v));
	t->n_buffers = n;
	snprintf(t->start_time, sizeof(t->start_time), "1970-01-01T00:00:00Z");
	*out = t;
	return 0;
}

bool target_is_buffers(const struct target *t)
{
	return t->buffers != NULL;
}

void target_close(struct target *t)
{
	if (!t)
		return;
	if (t->proc_fd >= 0)
		close(t->proc_fd);
	if (t->pagemap_fd >= 0)
		close(t->pagemap_fd);
	free(t->buffers);
	free(t);
}

int target_check(const struct target *t, struct error *err)
{
	uint64_t ticks;
	char state = '?';
	struct stat st;

	if (t->buffers)
		return 0;
	if (stat_read(t, &ticks, &state) < 0 || state == 'Z' || state == 'X')
		return error_set(err, EXIT_GONE, -ESRCH, "process %d has exited", (int)t->pid);
	/* the open /proc/PID directory belongs to the process, not to the number,
	 * so only an exec can change what is behind it */
	if (ticks != t->start_ticks || fstatat(t->proc_fd, "exe", &st, 0) < 0 ||
	    st.st_dev != t->exe_dev || st.st_ino != t->exe_ino)
		return error_set(err, EXIT_GONE, -ESTALE,
				 "process %d has been replaced (it exec'ed another program)",
				 (int)t->pid);
	return 0;
}

pid_t target_pid(const struct target *t)
{
	return t->pid;
}

pid_t target_nspid(const struct target *t)
{
	return t->nspid;
}

uint64_t target_start_ticks(const struct target *t)
{
	return t->start_ticks;
}

const char *target_start_time(const struct target *t)
{
	return t->start_time;
}

const char *target_exe(const struct target *t)
{
	return t->exe;
}

const char *target_build_id(const struct target *t)
{
	return t->build_id;
}
