/*
 * The yardstick of the bench: every present page of a process's private anonymous
 * mappings and heap, read by process_vm_readv into one buffer, and nothing else done.
 *
 *	readv PID	prints "BYTES SECONDS"
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { PAGE_BYTES = 4096, CHUNK_BYTES = 1 << 20, CHUNK_PAGES = CHUNK_BYTES / PAGE_BYTES };

#define PAGEMAP_PRESENT (1ull << 63)

static char buffer[CHUNK_BYTES];
static uint64_t pagemap[CHUNK_PAGES];

static uint64_t read_run(pid_t pid, uint64_t address, uint64_t bytes)
{
	struct iovec to = { buffer, bytes };
	struct iovec from = { (void *)(uintptr_t)address, bytes };
	ssize_t got = process_vm_readv(pid, &to, 1, &from, 1, 0);

	return got > 0 ? (uint64_t)got : 0;
}

/* Present pages of one chunk, in runs. */
static uint64_t read_chunk(pid_t pid, int pagemap_fd, uint64_t address, uint64_t bytes)
{
	uint64_t pages = bytes / PAGE_BYTES, total = 0, run = 0;
	ssize_t got = pread(pagemap_fd, pagemap, pages * sizeof(*pagemap),
			    (off_t)(address / PAGE_BYTES * sizeof(*pagemap)));

	if (got <= 0)
		return 0;
	pages = (uint64_t)got / sizeof(*pagemap);
	for (uint64_t i = 0; i <= pages; i++) {
		if (i < pages && (pagemap[i] & PAGEMAP_PRESENT)) {
			run++;
		} else if (run) {
			total += read_run(pid, address + (i - run) * PAGE_BYTES, run * PAGE_BYTES);
			run = 0;
		}
	}
	return total;
}

static FILE *open_proc(pid_t pid, const char *what)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, what);
	return fopen(path, "r");
}

int main(int argc, char **argv)
{
	pid_t pid = argc == 2 ? (pid_t)strtol(argv[1], NULL, 10) : 0;
	FILE *maps = open_proc(pid, "maps"), *pagemap_file = open_proc(pid, "pagemap");
	struct timespec start, end;
	uint64_t total = 0;
	char line[4352];

	if (pid <= 0 || !maps || !pagemap_file) {
		fprintf(stderr, "readv: cannot open /proc/PID of %s\n", argc == 2 ? argv[1] : "?");
		return 1;
	}
	clock_gettime(CLOCK_MONOTONIC, &start);
	while (fgets(line, sizeof(line), maps)) {
		unsigned long long from, to;
		char mode[5], path[2] = "";

		if (sscanf(line, "%llx-%llx %4s %*s %*s %*s %1s", &from, &to, mode, path) < 3)
			continue;
		if (strncmp(mode, "rw-p", 4) != 0 || path[0] == '/')
			continue;
		for (; from < to; from += CHUNK_BYTES)
			total += read_chunk(pid, fileno(pagemap_file), from,
					    to - from < CHUNK_BYTES ? to - from : CHUNK_BYTES);
	}
	clock_gettime(CLOCK_MONOTONIC, &end);
	printf("%llu %.6f\n", (unsigned long long)total,
	       (double)(end.tv_sec - start.tv_sec) + (double)(end.tv_nsec - start.tv_nsec) / 1e9);
	fclose(maps);
	fclose(pagemap_file);
	return 0;
}
