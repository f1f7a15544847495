/*
 * A NIF on top of other libraries: zlib streams, whose memory it hands out itself
 * and so knows, and digest contexts of libcrypto. See own_c.c.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#include <erl_nif.h>
#include <zlib.h>

#include "truth.h"

#if defined(__x86_64__)
__asm__(".symver dlopen, dlopen@GLIBC_2.2.5");
__asm__(".symver dlsym, dlsym@GLIBC_2.2.5");
#endif

#define LIBRARY "own_z.so"

struct packer {
	struct packer *next;
	z_stream stream;
	void *digest; /* EVP_MD_CTX */
};

static struct packer *packers;
static int losing;
static void *(*digest_new)(void);
static int (*digest_init)(void *, const void *, void *);
static const void *(*digest_kind)(void);

static void *take(void *opaque, unsigned n, unsigned bytes)
{
	(void)opaque;
	return truth_note(calloc(n, bytes), (size_t)n * bytes, losing);
}

static void give(void *opaque, void *p)
{
	(void)opaque;
	truth_forget(p);
	free(p);
}

static struct packer *packer_new(struct packer *next, int inflates)
{
	struct packer *p = truth_note(calloc(1, sizeof(*p)), sizeof(*p), losing);
	unsigned char in[512], out[1024];

	memset(in, 'q', sizeof(in));
	p->next = next;
	p->stream.zalloc = take;
	p->stream.zfree = give;
	if (inflates)
		inflateInit(&p->stream);
	else
		deflateInit(&p->stream, 1);
	if (!inflates) {
		p->stream.next_in = in;
		p->stream.avail_in = sizeof(in);
		p->stream.next_out = out;
		p->stream.avail_out = sizeof(out);
		deflate(&p->stream, Z_SYNC_FLUSH);
		p->stream.next_in = p->stream.next_out = NULL;
	}
	if (digest_new) {
		p->digest = digest_new();
		if (digest_init && digest_kind)
			digest_init(p->digest, digest_kind(), NULL);
	}
	return p;
}

static __attribute__((noinline)) void build(unsigned long n)
{
	struct packer *chain = NULL;

	for (unsigned long i = 0; i < n; i++)
		chain = packer_new(chain, i % 2);
	if (!losing) {
		struct packer *last = chain;

		while (last && last->next)
			last = last->next;
		if (last)
			last->next = packers;
		packers = chain;
	}
}

static ERL_NIF_TERM nif_build(ErlNifEnv *env, const ERL_NIF_TERM argv[], int is_lost)
{
	unsigned long n;

	if (!truth_number(env, argv[0], &n))
		return enif_make_badarg(env);
	losing = is_lost;
	build(n);
	losing = 0;
	truth_wipe();
	return enif_make_atom(env, "ok");
}

static ERL_NIF_TERM nif_make(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
	(void)argc;
	return nif_build(env, argv, 0);
}

static ERL_NIF_TERM nif_leak(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
	(void)argc;
	return nif_build(env, argv, 1);
}

static ERL_NIF_TERM nif_dump(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
	char name[1024];

	(void)argc;
	if (enif_get_string(env, argv[0], name, sizeof(name), ERL_NIF_LATIN1) <= 0 ||
	    truth_dump(name, LIBRARY))
		return enif_make_badarg(env);
	return enif_make_atom(env, "ok");
}

/* Whatever libcrypto the crypto application has brought. */
static void crypto_find(void)
{
	void *lib = dlopen("libcrypto.so.3", RTLD_NOW | RTLD_NOLOAD);

	if (!lib)
		lib = dlopen("libcrypto.so.1.1", RTLD_NOW | RTLD_NOLOAD);
	if (!lib)
		return;
	*(void **)&digest_new = dlsym(lib, "EVP_MD_CTX_new");
	*(void **)&digest_init = dlsym(lib, "EVP_DigestInit_ex");
	*(void **)&digest_kind = dlsym(lib, "EVP_sha256");
}

static int load(ErlNifEnv *env, void **priv_data, ERL_NIF_TERM load_info)
{
	(void)env;
	(void)priv_data;
	(void)load_info;
	crypto_find();
	return truth_open();
}

static ErlNifFunc functions[] = {
	{ "make", 1, nif_make, 0 },
	{ "leak", 1, nif_leak, 0 },
	{ "dump", 1, nif_dump, 0 },
};

ERL_NIF_INIT(own_z, functions, load, NULL, NULL, NULL)
