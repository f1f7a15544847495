// A C++ NIF that leaks through a chain of known functions: one that is inlined, one of a
// template, one without a name in a stripped library. Each line below is its own statement,
// so that lines can be told.
#include <cstdlib>
#include <cstring>

#include <erl_nif.h>

namespace store
{
template <typename T> struct Pool {
	static __attribute__((noinline)) void *grow(unsigned long bytes);
};

void *volatile last;

static inline __attribute__((always_inline)) void *take(unsigned long bytes)
{
	void *p = malloc(bytes); // LINE take
	if (p)
		memset(p, 1, bytes);
	last = p;
	return p;
}

template <typename T> void *Pool<T>::grow(unsigned long bytes)
{
	void *p = take(bytes); // LINE grow
	asm volatile("" ::: "memory");
	return p;
}
} // namespace store

static ERL_NIF_TERM leak(ErlNifEnv *env, int, const ERL_NIF_TERM argv[])
{
	unsigned long count, bytes;

	if (!enif_get_ulong(env, argv[0], &count) || !enif_get_ulong(env, argv[1], &bytes))
		return enif_make_badarg(env);
	for (unsigned long i = 0; i < count; i++)
		store::Pool<int>::grow(bytes); // LINE leak
	return argv[0];
}

static ErlNifFunc functions[] = { { "leak", 2, leak, 0 } };

extern "C" {
ERL_NIF_INIT(cxx_nif, functions, nullptr, nullptr, nullptr, nullptr)
}
