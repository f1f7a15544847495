/* SPDX-License-Identifier: Apache-2.0 */
/* Two mallocs to preload: with -DOWN_HEAP one that takes its memory elsewhere
 * (given a name such as libjemalloc.so.2), else one that stands before glibc's. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#ifdef OWN_HEAP

static char *at, *end;

static void *take(size_t size, size_t align)
{
	static int lock;
	char *p;

	while (__atomic_exchange_n(&lock, 1, __ATOMIC_ACQUIRE))
		;
	p = (char *)(((uintptr_t)at + 16 + align - 1) & ~(align - 1));
	if (!at || p + size > end) {
		size_t len = size + align + (64 << 20);

		at = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		end = at + len;
		p = (char *)(((uintptr_t)at + 16 + align - 1) & ~(align - 1));
	}
	((size_t *)p)[-1] = size;
	at = p + size;
	__atomic_store_n(&lock, 0, __ATOMIC_RELEASE);
	return p;
}

void *malloc(size_t size)
{
	return take(size, 16);
}

void free(void *p)
{
	(void)p;
}

void *calloc(size_t n, size_t size)
{
	return take(n * size, 16);
}

void *realloc(void *p, size_t size)
{
	void *q = take(size, 16);

	if (p)
		memcpy(q, p, ((size_t *)p)[-1] < size ? ((size_t *)p)[-1] : size);
	return q;
}

int posix_memalign(void **p, size_t align, size_t size)
{
	*p = take(size, align < 16 ? 16 : align);
	return 0;
}

size_t malloc_usable_size(void *p)
{
	return p ? ((size_t *)p)[-1] : 0;
}

#else

extern void *__libc_malloc(size_t size);
extern void __libc_free(void *p);

void *malloc(size_t size)
{
	return __libc_malloc(size);
}

void free(void *p)
{
	__libc_free(p);
}

#endif
