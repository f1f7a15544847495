/*
 * A preloaded library that is neither NIF nor driver, and grows: a thread of its own
 * mallocs GROWER_BYTES of 1,000-byte pieces once the file $GROWER is there, and
 * writes into $GROWER.took how many bytes of chunks that were.
 */
#define _GNU_SOURCE
#include <malloc.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#if defined(__x86_64__)
__asm__(".symver pthread_create, pthread_create@GLIBC_2.2.5");
#elif defined(__aarch64__)
__asm__(".symver pthread_create, pthread_create@GLIBC_2.17");
#endif

enum { GROWER_BYTES = 8 << 20 };

__attribute__((noinline, noclone)) static size_t grow_one(void)
{
	char *p = malloc(1000);

	if (!p)
		return 0;
	memset(p, 0x54, 1000);
	return malloc_usable_size(p) + 8;
}

static void *grow(void *arg)
{
	const char *file = arg;
	char name[512];
	size_t took = 0;
	FILE *f;

	while (access(file, F_OK) != 0)
		usleep(50000);
	while (took < GROWER_BYTES) {
		for (int i = 0; i < 200; i++)
			took += grow_one();
		usleep(20000);
	}
	snprintf(name, sizeof(name), "%s.took", file);
	f = fopen(name, "w");
	if (f) {
		fprintf(f, "%zu", took);
		fclose(f);
	}
	for (;;)
		pause();
	return NULL;
}

__attribute__((constructor)) static void begin(void)
{
	char *file = getenv("GROWER"), comm[32] = "";
	FILE *f = fopen("/proc/self/comm", "r");
	pthread_t t;

	if (f) {
		if (!fgets(comm, sizeof(comm), f))
			comm[0] = 0;
		fclose(f);
	}
	if (file && strncmp(comm, "beam", 4) == 0)
		pthread_create(&t, NULL, grow, file);
}
