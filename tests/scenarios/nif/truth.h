/*
 * What a test library holds and what it has lost, told by itself.
 *
 * The table lies in a mapping of its own and addresses in it are stored
 * inverted, so that telling the truth does not point to what was lost.
 */
#ifndef TRUTH_H
#define TRUTH_H

#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

enum { TRUTH_RECORDS = 1 << 22 };

struct truth_record {
	uint64_t address_inverted; /* 0: given back */
	uint64_t bytes_lost;	   /* bytes << 1 | lost */
};

static struct truth_record *truth_table;
static size_t truth_used;
static pthread_mutex_t truth_lock = PTHREAD_MUTEX_INITIALIZER;

static int truth_open(void)
{
	truth_table = (struct truth_record *)mmap(NULL, TRUTH_RECORDS * sizeof(*truth_table),
						  PROT_READ | PROT_WRITE,
						  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
						  0);
	return truth_table == MAP_FAILED;
}

/* Returns its argument. */
static void *truth_note(void *p, size_t bytes, int lost)
{
	pthread_mutex_lock(&truth_lock);
	if (p && truth_used < TRUTH_RECORDS) {
		truth_table[truth_used].address_inverted = ~(uint64_t)(uintptr_t)p;
		truth_table[truth_used++].bytes_lost = (uint64_t)bytes << 1 | !!lost;
	}
	pthread_mutex_unlock(&truth_lock);
	return p;
}

static inline void truth_forget(const void *p)
{
	uint64_t key = ~(uint64_t)(uintptr_t)p;

	pthread_mutex_lock(&truth_lock);
	for (size_t i = truth_used; p && i-- > 0;)
		if (truth_table[i].address_inverted == key) {
			truth_table[i].address_inverted = 0;
			break;
		}
	pthread_mutex_unlock(&truth_lock);
}

/* From here on everything that was kept is lost: its only pointer has gone. */
static inline void truth_lose_since(size_t mark)
{
	for (size_t i = mark; i < truth_used; i++)
		truth_table[i].bytes_lost |= 1;
}

static int truth_dump(const char *name, const char *library)
{
	FILE *file = fopen(name, "a");

	if (!file)
		return -1;
	for (size_t i = 0; i < truth_used; i++)
		if (truth_table[i].address_inverted)
			fprintf(file, "%s %llx %llu %s\n",
				truth_table[i].bytes_lost & 1 ? "lost" : "kept",
				(unsigned long long)~truth_table[i].address_inverted,
				(unsigned long long)(truth_table[i].bytes_lost >> 1), library);
	return fclose(file);
}

#ifdef __ERL_NIF_H__
/* A number as the scenario's `call` hands it over, as text, or as it is. */
static inline int truth_number(ErlNifEnv *env, ERL_NIF_TERM term, unsigned long *n)
{
	char text[32];

	if (enif_get_ulong(env, term, n))
		return 1;
	if (enif_get_string(env, term, text, sizeof(text), ERL_NIF_LATIN1) <= 0)
		return 0;
	*n = strtoul(text, NULL, 10);
	return 1;
}
#endif

/* Overwrites what a call left below the stack pointer: pointers that nobody has
 * any more. */
static __attribute__((noinline)) void truth_wipe(void)
{
	volatile char stack[8192];

	for (size_t i = 0; i < sizeof(stack); i++)
		stack[i] = 0;
}

#endif
