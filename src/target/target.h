/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The target: one OS process, looked at from outside.
 *
 * A pid is not an identity: it is reused, and execve keeps it while everything
 * behind it changes. A target is pid + start time + the inode of its
 * executable, checked again at target_check(), so that numbers of two
 * processes never mix.
 *
 * Nothing here stops, traces or writes to the process. All reads go through
 * process_vm_readv and /proc; both take the target's mmap_lock for reading, so
 * one call covers at most 1 MiB (or 64k pagemap entries), and a call that does
 * not come back within two seconds makes target_guard() give up while the
 * stuck thread is left behind.
 */
#ifndef BEAMRAY_TARGET_TARGET_H
#define BEAMRAY_TARGET_TARGET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "target/error.h"

#define TARGET_PAGE	   4096ULL
#define TARGET_READ_MAX	   (1ULL << 20) /* bytes that one system call may cover */
#define TARGET_PAGEMAP_MAX (1ULL << 16) /* pagemap entries that one call may cover */

struct target;

/* Opens `pid` (as seen from our own pid namespace). Needs nothing but /proc
 * for itself; reading memory later needs the same user and ptrace access or
 * CAP_SYS_PTRACE. Errors: -ESRCH (no such process, zombie), -EACCES, -ENOTSUP
 * (a kernel thread, or not an x86-64 ELF of our word size). */
int target_open(pid_t pid, struct target **out, struct error *err);
void target_close(struct target *t);

/* A target that is not a process but pieces of memory: for tests and fuzzing.
 * Reads behave like process_vm_readv (holes give EFAULT or short reads);
 * target_check() always succeeds; everything in /proc is -ENOENT. The buffers
 * are borrowed and may change between reads. residency_take() on it takes every
 * page of `m` that is covered as resident. */
struct target_buffer {
	uint64_t addr;
	const void *data;
	size_t len; /* bytes */
};
int target_open_buffers(const struct target_buffer *v, size_t n, struct target **out);
bool target_is_buffers(const struct target *t);

/* 0 while the process is the one that was opened; -ESRCH when it has gone,
 * -ESTALE when the pid now belongs to another process or it has exec'ed. */
int target_check(const struct target *t, struct error *err);

pid_t target_pid(const struct target *t);
pid_t target_nspid(const struct target *t);	       /* pid inside its own namespace */
uint64_t target_start_ticks(const struct target *t);   /* /proc/PID/stat field 22 */
const char *target_start_time(const struct target *t); /* RFC 3339, UTC */
const char *target_exe(const struct target *t);	       /* raw link text, escape before printing */
const char *target_build_id(const struct target *t);   /* hex, "" if none */

/* Opens /proc/PID/NAME for reading. Returns a file descriptor or -errno. */
int target_proc_open(const struct target *t, const char *name);
/* Reads /proc/PID/NAME whole, at most `max` bytes, into a fresh NUL-terminated
 * buffer that the caller frees. Returns its length or -errno. */
ssize_t target_proc_read(const struct target *t, const char *name, size_t max, char **out);

/* Memory.  All addresses are the target's. A short read happens when part of
 * the range is not mapped. */

/* Up to `len` bytes (any length: split into calls of 1 MiB). Returns the bytes
 * read from the start on, or -EFAULT if not even the first byte could be read,
 * -ESRCH, -EPERM, -ETIMEDOUT (the target was declared stuck). Does not look at
 * residency: a caller that reads big ranges uses residency_read(), which skips
 * pages that are not present. */
ssize_t target_read_some(struct target *t, uint64_t addr, void *buf, size_t len);
/* All of `len` bytes or an error (-EFAULT when only a part was there). */
int target_read(struct target *t, uint64_t addr, void *buf, size_t len);
int target_read_u64(struct target *t, uint64_t addr, uint64_t *out);
int target_read_u32(struct target *t, uint64_t addr, uint32_t *out);
/* A C string of at most size - 1 bytes, always terminated; returns its length,
 * -ENAMETOOLONG when no NUL came within `size` bytes, or -EFAULT. Raw bytes. */
ssize_t target_read_string(struct target *t, uint64_t addr, char *buf, size_t size);

/* Many small reads in few calls, each of at most TARGET_READ_MAX bytes. `ret` of
 * each piece says what became of it: 0 or -EFAULT. Returns 0, or the negative
 * errno that ended all of it (-ESRCH, -EPERM, -ETIMEDOUT). */
struct target_piece {
	uint64_t addr;
	void *buf;
	size_t len;
	int ret;
};
int target_read_pieces(struct target *t, struct target_piece *v, size_t n);

/* True if every page of [addr, addr + len) is in memory at this moment; at most 16
 * pages. For readers that follow a pointer to what is newer than their picture of
 * resident pages. False for a target made of buffers. */
bool target_present_now(struct target *t, uint64_t addr, size_t len);

struct target_io {
	uint64_t reads;	     /* process_vm_readv calls */
	uint64_t read_bytes; /* bytes they brought */
	uint64_t faults;     /* calls that ended in EFAULT or came back short */
	uint64_t longest_ns; /* the longest single call */
};
void target_io(const struct target *t, struct target_io *out);

/* Runs fn(arg) in a thread of its own and returns its result. When one system
 * call on the target takes longer than two seconds (somebody holds its
 * mmap_lock), the target is declared stuck, every later read on this handle
 * fails with -ETIMEDOUT, and -ETIMEDOUT is returned with the sentence in err:
 * then `arg` must not be freed, since the thread may still use it.
 * `seconds` bounds the whole run as well (0: no bound). */
int target_guard(struct target *t, int (*fn)(void *arg), void *arg, unsigned seconds,
		 struct error *err);
/* For code that makes its own system calls on the target's mm (pagemap, maps):
 * marks the call's begin and end for target_guard(). Returns -ETIMEDOUT from
 * begin when the target has been declared stuck. */
int target_call_begin(struct target *t);
void target_call_end(struct target *t);

#endif
