/* SPDX-License-Identifier: Apache-2.0 */
/* Reads of a target's memory. */
#include "target/target_private.h"

#include <errno.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#define PIECES_MAX 1024 /* IOV_MAX of Linux */

static ssize_t buffers_read(const struct target *t, uint64_t addr, void *buf, size_t len)
{
	size_t done = 0, i;

	while (done < len) {
		for (i = 0; i < t->n_buffers; i++)
			if (addr + done >= t->buffers[i].addr &&
			    addr + done - t->buffers[i].addr < t->buffers[i].len)
				break;
		if (i == t->n_buffers)
			break;
		size_t off = (size_t)(addr + done - t->buffers[i].addr);
		size_t n = t->buffers[i].len - off;

		if (n > len - done)
			n = len - done;
		memcpy((char *)buf + done, (const char *)t->buffers[i].data + off, n);
		done += n;
	}
	return done || !len ? (ssize_t)done : -EFAULT;
}

ssize_t target_read_some(struct target *t, uint64_t addr, void *buf, size_t len)
{
	size_t done = 0;

	if (addr + len < addr)
		return -EFAULT;
	while (done < len) {
		size_t want = len - done < TARGET_READ_MAX ? len - done : TARGET_READ_MAX;
		ssize_t n;
		int e;

		if (t->buffers) {
			n = buffers_read(t, addr + done, (char *)buf + done, want);
			e = EFAULT;
		} else {
			struct iovec local = { (char *)buf + done, want };
			struct iovec remote = { (void *)(uintptr_t)(addr + done), want };
			int ret = target_call_begin(t);

			if (ret < 0)
				return ret;
			n = process_vm_readv(t->pid, &local, 1, &remote, 1, 0);
			e = errno;
			target_call_end(t);
		}
		atomic_fetch_add_explicit(&t->reads, 1, memory_order_relaxed);
		if (n < 0) {
			if (e == EINTR)
				continue;
			if (e == EFAULT)
				atomic_fetch_add_explicit(&t->faults, 1, memory_order_relaxed);
			return done ? (ssize_t)done : -e;
		}
		atomic_fetch_add_explicit(&t->read_bytes, (uint64_t)n, memory_order_relaxed);
		done += (size_t)n;
		if ((size_t)n < want) {
			atomic_fetch_add_explicit(&t->faults, 1, memory_order_relaxed);
			break;
		}
	}
	return (ssize_t)done;
}

int target_read(struct target *t, uint64_t addr, void *buf, size_t len)
{
	ssize_t n = target_read_some(t, addr, buf, len);

	if (n < 0)
		return (int)n;
	return (size_t)n == len ? 0 : -EFAULT;
}

int target_read_u64(struct target *t, uint64_t addr, uint64_t *out)
{
	return target_read(t, addr, out, sizeof(*out));
}

int target_read_u32(struct target *t, uint64_t addr, uint32_t *out)
{
	return target_read(t, addr, out, sizeof(*out));
}

ssize_t target_read_string(struct target *t, uint64_t addr, char *buf, size_t size)
{
	size_t len = 0;

	if (!size)
		return -EINVAL;
	while (len < size) {
		/* up to the next page edge: what lies behind may not be mapped */
		size_t want = (size_t)(TARGET_PAGE - ((addr + len) & (TARGET_PAGE - 1)));
		ssize_t n;
		char *end;

		if (want > size - len)
			want = size - len;
		if (want > 256)
			want = 256;
		n = target_read_some(t, addr + len, buf + len, want);
		if (n <= 0) {
			buf[0] = '\0';
			return n < 0 ? n : -EFAULT;
		}
		end = memchr(buf + len, '\0', (size_t)n);
		if (end)
			return end - buf;
		len += (size_t)n;
	}
	buf[size - 1] = '\0';
	return -ENAMETOOLONG;
}

void target_io(const struct target *t, struct target_io *out)
{
	out->reads = atomic_load_explicit(&t->reads, memory_order_relaxed);
	out->read_bytes = atomic_load_explicit(&t->read_bytes, memory_order_relaxed);
	out->faults = atomic_load_explicit(&t->faults, memory_order_relaxed);
	out->longest_ns = atomic_load_explicit(&t->longest_ns, memory_order_relaxed);
}

/* One call for v[0..n): sets `ret` of those that it settled and returns how many
 * they are, or a negative errno that holds for all. */
static ssize_t pieces_call(struct target *t, struct target_piece *v, size_t n)
{
	struct iovec local[PIECES_MAX], remote[PIECES_MAX];
	size_t k, want = 0, got;
	ssize_t r;
	int e, ret;

	for (k = 0; k < n; k++) {
		local[k] = (struct iovec){ v[k].buf, v[k].len };
		remote[k] = (struct iovec){ (void *)(uintptr_t)v[k].addr, v[k].len };
		want += v[k].len;
	}
	ret = target_call_begin(t);
	if (ret < 0)
		return ret;
	do
		r = process_vm_readv(t->pid, local, n, remote, n, 0);
	while (r < 0 && errno == EINTR);
	e = errno;
	target_call_end(t);
	atomic_fetch_add_explicit(&t->reads, 1, memory_order_relaxed);
	if (r < 0 && e != EFAULT)
		return -e;
	got = r > 0 ? (size_t)r : 0;
	atomic_fetch_add_explicit(&t->read_bytes, got, memory_order_relaxed);
	if (got < want)
		atomic_fetch_add_explicit(&t->faults, 1, memory_order_relaxed);
	for (k = 0; k < n; k++) {
		v[k].ret = v[k].len <= got ? 0 : -EFAULT;
		if (v[k].ret)
			return (ssize_t)k + 1; /* the kernel stopped at this one */
		got -= v[k].len;
	}
	return (ssize_t)n;
}

int target_read_pieces(struct target *t, struct target_piece *v, size_t n)
{
	size_t at = 0;

	if (t->buffers) {
		for (; at < n; at++)
			v[at].ret = target_read(t, v[at].addr, v[at].buf, v[at].len);
		return 0;
	}
	while (at < n) {
		size_t many = 0, bytes = 0;
		ssize_t done;

		while (at + many < n && many < PIECES_MAX &&
		       v[at + many].len <= TARGET_READ_MAX - bytes)
			bytes += v[at + many++].len;
		if (!many) { /* larger than a call may be */
			v[at].ret = target_read(t, v[at].addr, v[at].buf, v[at].len);
			at++;
			continue;
		}
		done = pieces_call(t, v + at, many);
		if (done < 0)
			return (int)done;
		at += (size_t)done;
	}
	return 0;
}

bool target_present_now(struct target *t, uint64_t addr, size_t len)
{
	uint64_t first = addr / TARGET_PAGE, last, entries[16];
	size_t n, i;
	ssize_t got;

	if (!len || addr + len < addr || t->buffers)
		return false;
	last = (addr + len - 1) / TARGET_PAGE;
	n = (size_t)(last - first) + 1;
	if (n > sizeof(entries) / sizeof(entries[0]))
		return false;
	if (t->pagemap_fd < 0)
		t->pagemap_fd = target_proc_open(t, "pagemap");
	if (t->pagemap_fd < 0 || target_call_begin(t) < 0)
		return false;
	got = pread(t->pagemap_fd, entries, n * sizeof(entries[0]),
		    (off_t)(first * sizeof(entries[0])));
	target_call_end(t);
	if (got != (ssize_t)(n * sizeof(entries[0])))
		return false;
	for (i = 0; i < n; i++)
		if (!(entries[i] >> 63)) /* "present", pagemap.rst */
			return false;
	return true;
}
