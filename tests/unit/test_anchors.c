/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Finding the VM's globals. The reference is the dynamic linker's own table:
 * where Debian's builds export a variable (OTP 23, 25, 27), the search that may
 * not use symbols must arrive at the very same address, for every variable. The
 * recognisers are then fed objects that are wrong in one place each.
 */
#include "erts/anchors_find.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "erts/vm_private.h"
#include "live_node.h"
#include "target/elf_image.h"

/* ---- Live ---------------------------------------------------------------------------- */

struct look {
	struct target *t;
	struct mappings *maps;
	struct images *images;
	struct vm *vm;
	struct error err;
};

static int look(struct look *k, pid_t pid, const struct vm_open_opts *opts)
{
	memset(k, 0, sizeof(*k));
	if (target_open(pid, &k->t, &k->err) || mappings_read(k->t, &k->maps, &k->err) ||
	    images_read(k->t, k->maps, &k->images, &k->err))
		return -EIO;
	return vm_open_opts(k->t, k->maps, k->images, opts, &k->vm, &k->err);
}

static void unlook(struct look *k)
{
	vm_close(k->vm);
	images_free(k->images);
	mappings_free(k->maps);
	target_close(k->t);
}

/* What no search looks for: counted or read elsewhere. */
static bool not_searched(enum anchor_id id)
{
	return id == A_NO_SCHEDULERS || id == A_OTP_RELEASE || id == A_ERTS_VERSION ||
	       id == A_CODE_INDEX;
}

static void same_address(const char *release, const char *args, const char *first)
{
	const struct vm_open_opts blind = { .signatures_only = true, .no_debuginfo = true };
	struct live_node node;
	struct look seen, unseen;
	unsigned by_symbol = 0;
	char answer[64];

	if (!live_start(&node, release, args)) {
		print_message("no node of OTP %s\n", release);
		return;
	}
	if (first)
		assert_true(live_ask(&node, first, answer, sizeof(answer)));
	assert_int_equal(look(&seen, node.pid, NULL), 0);
	assert_int_equal(look(&unseen, node.pid, &blind), 0);
	for (int id = 0; id < A_N; id++) {
		const struct anchor *a = &seen.vm->anchors.v[id], *b = &unseen.vm->anchors.v[id];

		if (not_searched((enum anchor_id)id)) {
			assert_int_equal(b->addr, 0);
			assert_non_null(b->why);
			continue;
		}
		if (id == A_JIT_DESCRIPTOR && !seen.vm->jit) {
			assert_int_equal(b->addr, 0);
			continue;
		}
		if (!b->addr || a->addr != b->addr)
			print_error("OTP %s, %s: %s is at %#llx, found at %#llx (%s)\n", release,
				    args ? args : "default", anchor_name((enum anchor_id)id),
				    (unsigned long long)a->addr, (unsigned long long)b->addr,
				    b->why ? b->why : anchor_source_name(b->source));
		assert_true(b->addr != 0);
		assert_true(a->addr == b->addr);
		assert_true(b->source == ANCHOR_SIGNATURE || b->source == ANCHOR_DERIVED);
		by_symbol += a->source == ANCHOR_DYNSYM;
	}
	/* The comparison is empty where nothing is exported: 29. */
	if (atoi(seen.vm->otp_release) <= 27)
		assert_true(by_symbol >= 16);
	else
		assert_int_equal(by_symbol, 0);
	assert_string_equal(unseen.vm->anchors.symbols, "signature");
	unlook(&seen);
	unlook(&unseen);
	live_stop(&node);
}

/* In one process after the other: all flags on all releases would take long. */
static void signatures_find_what_symbols_name(void **state)
{
	for (const char *const *r = live_releases(); *r; r++)
		same_address(*r, NULL, NULL);
}

static void signatures_under_other_flags(void **state)
{
	static const char *const flags[] = { "+S 1:1",
					     "+S 4:3",
					     "+Mea min",
					     "+MMscs 64",
					     "+MBt false +MHe false",
					     "+P 200000 +Q 200000" };

	for (const char *const *r = live_releases(); *r; r++)
		for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]); i++)
			if (strcmp(*r, "host") != 0)
				same_address(*r, flags[i], NULL);
}

/* Counters that moved since start: atoms, code, tables that are fixed. */
static void signatures_after_work(void **state)
{
	for (const char *const *r = live_releases(); *r; r++)
		same_address(*r, NULL,
			     "[list_to_atom(\"made_\"++integer_to_list(I))||I<-lists:seq(1,30000)],"
			     "[begin T=ets:new(t,[public]),ets:safe_fixtable(T,true) end||"
			     "_<-lists:seq(1,200)],"
			     "[c:l(M)||M<-[dict,sets,string]],[code:ensure_loaded(M)||"
			     "M<-[compile,cerl,v3_core,beam_lib]],ok");
}

/* ---- The copy of an image -------------------------------------------------------------- */

static const char needle[] = "a text that stands in this test's read-only data";
static uint64_t haystack[4] = { 1, 0x5ca1ab1e0ddba11ULL, 3, 0x5ca1ab1e0ddba11ULL };

static void copy_of_our_own_image(void **state)
{
	struct image_copy c;
	struct look k;
	uint64_t word, at;
	uint32_t half;

	/* A program that only says it is a BEAM: the banners below are in our data. */
	assert_int_equal(look(&k, getpid(), NULL), -ENOTSUP);
	assert_null(k.vm);
	assert_int_equal(k.err.code, EXIT_UNSUPPORTED);
	assert_non_null(strstr(k.err.text, "OTP"));

	assert_int_equal(image_copy_take(k.t, k.maps, images_exe(k.images), &c, &k.err), 0);
	assert_true(c.n >= 2);
	at = image_copy_find(&c, needle, sizeof(needle), false, 0);
	assert_int_equal(at, (uintptr_t)needle);
	assert_string_equal(image_copy_string(&c, at), needle);
	assert_int_equal(image_copy_find(&c, needle, sizeof(needle), false, at), 0);

	at = image_copy_find_word(&c, 0x5ca1ab1e0ddba11ULL, 0);
	assert_int_equal(at, (uintptr_t)&haystack[1]);
	at = image_copy_find_word(&c, 0x5ca1ab1e0ddba11ULL, at);
	assert_int_equal(at, (uintptr_t)&haystack[3]);
	assert_int_equal(image_copy_find_word(&c, 0x5ca1ab1e0ddba11ULL, at), 0);
	assert_true(image_copy_u64(&c, (uintptr_t)haystack, &word) && word == 1);
	assert_non_null(image_copy_data(&c, (uintptr_t)haystack));
	assert_null(image_copy_data(&c, (uintptr_t)needle));

	/* Edges: nothing straddles the end of a piece, or lies outside. */
	for (size_t i = 0; i < c.n; i++) {
		assert_non_null(image_copy_at(&c, c.v[i].end - 8, 8));
		assert_null(image_copy_at(&c, c.v[i].end - 7, 8));
		assert_null(image_copy_at(&c, c.v[i].start, SIZE_MAX));
		assert_false(image_copy_u32(&c, c.v[i].end - 3, &half));
	}
	assert_null(image_copy_at(&c, 0, 1));
	assert_null(image_copy_string(&c, UINT64_MAX));
	image_copy_free(&c);
	image_copy_free(&c);
	image_copy_free(NULL);
	unlook(&k);
}

/* ---- The banner -------------------------------------------------------------------------- */

static int banner_of(const char *text, struct vm_banner *b)
{
	unsigned char data[512] = { 0 };
	struct image_copy c = { .fd = -1, .n = 1 };

	memcpy(data + 8, text, strlen(text) < 504 ? strlen(text) : 504);
	c.v[0] = (struct image_piece){ .start = 0x1000, .end = 0x1200, .data = data };
	return vm_banner_read(&c, b);
}

static void banners(void **state)
{
	struct vm_banner b;

	assert_int_equal(banner_of("Erlang/OTP 27%s [erts-15.2.7] [source] [64-bit] [jit:ns%s]",
				   &b),
			 0);
	assert_string_equal(b.release, "27");
	assert_string_equal(b.erts, "15.2.7");
	assert_true(b.jit);
	assert_string_equal(b.refused, "");

	assert_int_equal(banner_of("Erlang/OTP 23%s [erts-11.1.8] [64-bit]", &b), 0);
	assert_false(b.jit);
	assert_int_equal(banner_of("Erlang/OTP 26%s [erts-14.0] [jit] [lock-counting]", &b), 0);
	assert_string_equal(b.refused, "lock-counting");
	assert_int_equal(banner_of("Erlang/OTP 26%s [erts-14.0] [debug-compiled]", &b), 0);
	assert_string_equal(b.refused, "debug-compiled");

	assert_int_equal(banner_of("written for Erlang/OTP 25 and later", &b), -ENOENT);
	assert_int_equal(banner_of("Erlang/OTP x [erts-1]", &b), -ENOENT);
	assert_int_equal(banner_of("Erlang/OTP 25 [erts-]", &b), -ENOENT);
	assert_int_equal(banner_of("", &b), -ENOENT);
}

/* ---- Recognisers fed with nonsense ------------------------------------------------------- */

#define FAKE_CODE  0x10000ULL
#define FAKE_DATA  0x20000ULL
#define FAKE_HEAP  0x700000ULL
#define FAKE_BYTES 0x10000ULL

struct fake {
	unsigned char data[FAKE_BYTES], heap[FAKE_BYTES];
	struct image_segment segs[2];
	struct image image;
	struct mapping map[3];
	struct mappings maps;
	struct target *target;
	struct image_copy copy;
	struct anchors anchors;
	struct anchor_search s;
};

static struct fake *fake_new(const struct layout *l)
{
	struct fake *f = calloc(1, sizeof(*f));
	struct target_buffer v[2] = {
		{ .addr = FAKE_DATA, .data = f->data, .len = sizeof(f->data) },
		{ .addr = FAKE_HEAP, .data = f->heap, .len = sizeof(f->heap) },
	};

	f->segs[0] = (struct image_segment){
		.start = FAKE_CODE, .end = FAKE_DATA, .file_end = FAKE_DATA, .exec = true
	};
	f->segs[1] = (struct image_segment){ .start = FAKE_DATA,
					     .end = FAKE_DATA + FAKE_BYTES,
					     .file_end = FAKE_DATA,
					     .write = true };
	f->image.segs = f->segs;
	f->image.n_segs = 2;
	f->image.fd = -1;
	f->map[0] = (struct mapping){ .start = FAKE_CODE,
				      .end = FAKE_DATA,
				      .read = true,
				      .exec = true,
				      .kind = MAPPING_FILE,
				      .path = "" };
	f->map[1] = (struct mapping){ .start = FAKE_DATA,
				      .end = FAKE_DATA + FAKE_BYTES,
				      .read = true,
				      .write = true,
				      .kind = MAPPING_FILE,
				      .path = "" };
	f->map[2] = (struct mapping){ .start = FAKE_HEAP,
				      .end = FAKE_HEAP + FAKE_BYTES,
				      .read = true,
				      .write = true,
				      .kind = MAPPING_ANON,
				      .path = "" };
	f->maps = (struct mappings){ .v = f->map, .n = 3 };
	assert_int_equal(target_open_buffers(v, 2, &f->target), 0);
	f->copy = (struct image_copy){
		.target = f->target, .maps = &f->maps, .image = &f->image, .fd = -1
	};
	f->copy.v[0] = (struct image_piece){
		.start = FAKE_DATA, .end = FAKE_DATA + FAKE_BYTES, .data = f->data, .write = true
	};
	f->copy.n = 1;
	f->s = (struct anchor_search){ .target = f->target,
				       .maps = &f->maps,
				       .exe = &f->image,
				       .copy = &f->copy,
				       .l = l,
				       .mode = ANCHORS_SIGNATURES,
				       .a = &f->anchors };
	return f;
}

static void fake_free(struct fake *f)
{
	target_close(f->target);
	free(f);
}

static void *fake_at(struct fake *f, uint64_t addr)
{
	return addr >= FAKE_HEAP ? f->heap + (addr - FAKE_HEAP) : f->data + (addr - FAKE_DATA);
}

static void put(struct fake *f, uint64_t base, struct layout_field field, uint64_t value)
{
	assert_true(layout_has(field));
	memcpy(fake_at(f, base + (uint64_t)field.offset), &value, field.size < 8 ? field.size : 8);
}

static void put64(struct fake *f, uint64_t addr, uint64_t value)
{
	memcpy(fake_at(f, addr), &value, 8);
}

static const struct layout *l27(void)
{
	return layout_find(27, "jit");
}

static void process_tables(void **state)
{
	const struct layout *l = l27();
	struct fake *f = fake_new(l);
	uint64_t at = FAKE_DATA + 0x400, size;

	put(f, at, l->ErtsPTab__r_o_max, 1024);
	put(f, at, l->ErtsPTab__r_o_pix_mask, 1023);
	put(f, at, l->ErtsPTab__r_o_tab, FAKE_HEAP + 64);
	put(f, at, l->ErtsPTab__r_o_invalid_element, FAKE_DATA + 0x100);
	put(f, at, l->ErtsPTab__r_o_element_size, l->size_Process);
	put(f, at, l->ErtsPTab__vola_tile_count, 40);
	assert_true(anchor_is_ptab(&f->s, at, &size));
	assert_int_equal(size, l->size_Process);
	anchors_find_ptabs(&f->s);
	assert_int_equal(f->anchors.v[A_PROC].addr, at);

	put(f, at, l->ErtsPTab__r_o_max, 1000);
	assert_false(anchor_is_ptab(&f->s, at, &size));
	put(f, at, l->ErtsPTab__r_o_max, 1024);
	put(f, at, l->ErtsPTab__r_o_pix_mask, 1024);
	assert_false(anchor_is_ptab(&f->s, at, &size));
	put(f, at, l->ErtsPTab__r_o_pix_mask, 1023);
	put(f, at, l->ErtsPTab__vola_tile_count, 1025);
	assert_false(anchor_is_ptab(&f->s, at, &size));
	put(f, at, l->ErtsPTab__vola_tile_count, 40);
	put(f, at, l->ErtsPTab__r_o_invalid_element, FAKE_HEAP);
	assert_false(anchor_is_ptab(&f->s, at, &size));
	put(f, at, l->ErtsPTab__r_o_invalid_element, FAKE_DATA + 0x100);
	/* a table longer than the memory it points to */
	put(f, at, l->ErtsPTab__r_o_tab, FAKE_HEAP + FAKE_BYTES - 8 * 1023);
	assert_false(anchor_is_ptab(&f->s, at, &size));
	put(f, at, l->ErtsPTab__r_o_tab, FAKE_HEAP + FAKE_BYTES - 8 * 1024);
	assert_true(anchor_is_ptab(&f->s, at, &size));
	/* the last place where it still fits into the image */
	assert_false(anchor_is_ptab(&f->s, FAKE_DATA + FAKE_BYTES - l->size_ErtsPTab + 8, &size));
	assert_false(anchor_is_ptab(&f->s, UINT64_MAX - 64, &size));
	fake_free(f);
}

static void jit_descriptors(void **state)
{
	struct fake *f = fake_new(l27());
	uint64_t at = FAKE_DATA + 0x800, e1 = FAKE_HEAP + 0x100, e2 = FAKE_HEAP + 0x200;
	uint32_t version = 1;

	memcpy(fake_at(f, at), &version, 4);
	put64(f, at + 8, e1);
	put64(f, at + 16, e1);
	/* {next, prev, symfile, size} */
	put64(f, e1, e2);
	put64(f, e1 + 16, FAKE_HEAP + 0x300);
	put64(f, e1 + 24, 64);
	put64(f, e2 + 8, e1);
	assert_true(anchor_is_jit_descriptor(&f->s, at));
	put64(f, e2 + 8, e2); /* does not lead back */
	assert_false(anchor_is_jit_descriptor(&f->s, at));
	put64(f, e2 + 8, e1);
	put64(f, e1 + 8, e2); /* OTP 25 leaves anything in the first one's prev */
	assert_true(anchor_is_jit_descriptor(&f->s, at));
	put64(f, e1 + 8, 0);
	put64(f, e1 + 24, 1ULL << 40); /* absurd size */
	assert_false(anchor_is_jit_descriptor(&f->s, at));
	put64(f, e1 + 24, 64);
	put64(f, e1, e1); /* a loop */
	assert_false(anchor_is_jit_descriptor(&f->s, at));
	put64(f, at + 16, 0x7000); /* nothing mapped there */
	assert_false(anchor_is_jit_descriptor(&f->s, at));
	fake_free(f);
}

static void index_tables(void **state)
{
	const struct layout *l = l27();
	struct fake *f = fake_new(l);
	uint64_t at = FAKE_DATA + 0x1000, name = FAKE_DATA + 0x40;

	strcpy(fake_at(f, name), "module_code");
	put(f, at, l->Hash__name, name);
	put(f, at, l->Hash__shift, 64 - 6);
	put(f, at, l->Hash__nobjs, 10);
	put(f, at, l->Hash__bucket, FAKE_HEAP);
	put(f, at, l->IndexTable__size, 1024);
	put(f, at, l->IndexTable__limit, 65536);
	put(f, at, l->IndexTable__entries, 10);
	put(f, at, l->IndexTable__seg_table, FAKE_HEAP + 512);
	assert_true(anchor_is_index_table(&f->s, at, "module_code"));
	assert_true(anchor_is_index_table(&f->s, at, NULL));
	assert_false(anchor_is_index_table(&f->s, at, "atom_tab"));
	assert_false(anchor_is_atom_table(&f->s, at));
	put(f, at, l->IndexTable__entries, 1025);
	assert_false(anchor_is_index_table(&f->s, at, "module_code"));
	put(f, at, l->IndexTable__entries, 10);
	put(f, at, l->Hash__shift, 64);
	assert_false(anchor_is_index_table(&f->s, at, "module_code"));
	put(f, at, l->Hash__shift, 58);
	put(f, at, l->IndexTable__seg_table, 0x7003);
	assert_false(anchor_is_index_table(&f->s, at, "module_code"));
	put(f, at, l->IndexTable__seg_table, FAKE_HEAP + 512);
	/* a name that never ends */
	memset(fake_at(f, FAKE_DATA + FAKE_BYTES - 8), 'x', 8);
	put(f, at, l->Hash__name, FAKE_DATA + FAKE_BYTES - 8);
	assert_false(anchor_is_index_table(&f->s, at, NULL));
	fake_free(f);
}

/* An ErtsMsegAllctr_t whose first `used` slots are all free. */
static void mseg_put(struct fake *f, uint64_t at, uint32_t ix, uint64_t used)
{
	const struct layout *l = f->s.l;
	uint64_t cache = at + (uint64_t)l->ErtsMsegAllctr_t__cache.offset;
	uint64_t heads = at + (uint64_t)l->ErtsMsegAllctr_t__cache_unpowered_node.offset;
	uint64_t last = at + (uint64_t)l->ErtsMsegAllctr_t__cache_free.offset;
	uint64_t next = (uint64_t)l->cache_t__next.offset, prev = (uint64_t)l->cache_t__prev.offset;

	put(f, at, l->ErtsMsegAllctr_t__ix, ix);
	put(f, at, l->ErtsMsegAllctr_t__is_thread_safe, ix == 0);
	put(f, at, l->ErtsMsegAllctr_t__max_cache_size, used);
	for (uint64_t h = heads; h < last; h += l->size_cache_t) {
		put64(f, h + next, h);
		put64(f, h + prev, h);
	}
	for (uint64_t i = 0; i <= used; i++) {
		uint64_t n = i ? cache + (i - 1) * l->size_cache_t : last;
		uint64_t m = i < used ? cache + i * l->size_cache_t : last;

		put64(f, n + next, m);
		put64(f, m + prev, n);
	}
}

static void mseg_arrays(void **state)
{
	const struct layout *l = l27();
	struct fake *f = fake_new(l);
	uint64_t at = FAKE_HEAP + 64, stride = l->size_ErtsAlgndMsegAllctr_t;
	uint64_t var = FAKE_DATA + 0x2000, cache = at + (uint64_t)l->ErtsMsegAllctr_t__cache.offset;

	assert_true(stride > 0);
	mseg_put(f, at, 0, 10);
	mseg_put(f, at + stride, 1, 10);
	put64(f, var, at);
	assert_true(anchor_is_mseg_array(&f->s, at));
	assert_false(anchor_is_mseg_array(&f->s, at + stride)); /* ix 1 is no first one */
	anchors_find_memory(&f->s);
	assert_int_equal(f->anchors.v[A_MSEG_ALLCTR].addr, var);

	/* a slot that leads out of its instance */
	put64(f, cache + (uint64_t)l->cache_t__next.offset, at + stride + 200);
	assert_false(anchor_is_mseg_array(&f->s, at));
	mseg_put(f, at, 0, 10);
	/* a used slot beyond max_cache_size */
	put64(f, cache + 12 * l->size_cache_t + (uint64_t)l->cache_t__next.offset, cache);
	assert_false(anchor_is_mseg_array(&f->s, at));
	put64(f, cache + 12 * l->size_cache_t + (uint64_t)l->cache_t__next.offset, 0);
	assert_true(anchor_is_mseg_array(&f->s, at));
	put(f, at, l->ErtsMsegAllctr_t__max_cache_size, 31);
	assert_false(anchor_is_mseg_array(&f->s, at));
	put(f, at, l->ErtsMsegAllctr_t__max_cache_size, 10);
	put(f, at, l->ErtsMsegAllctr_t__cache_size, 11);
	assert_false(anchor_is_mseg_array(&f->s, at));
	put(f, at, l->ErtsMsegAllctr_t__cache_size, 0);
	put(f, at + stride, l->ErtsMsegAllctr_t__ix, 2);
	assert_false(anchor_is_mseg_array(&f->s, at));
	assert_false(anchor_is_mseg_array(&f->s, FAKE_HEAP + FAKE_BYTES - 64));
	fake_free(f);
}

static void mappers(void **state)
{
	const struct layout *l = l27();
	struct fake *f = fake_new(l);
	uint64_t at = FAKE_DATA + 0x3000, base = FAKE_HEAP;

	put64(f, at, FAKE_CODE + 16);
	put64(f, at + 8, FAKE_CODE + 32);
	assert_true(anchor_is_mmapper(&f->s, at)); /* without a super carrier */
	put(f, at, l->ErtsMemMapper__supercarrier, 1);
	assert_false(anchor_is_mmapper(&f->s, at));
	put(f, at, l->ErtsMemMapper__sa_bot, base + 0x1000);
	put(f, at, l->ErtsMemMapper__sa_top, base + 0x2000);
	put(f, at, l->ErtsMemMapper__sua_bot, base + 0x3000);
	put(f, at, l->ErtsMemMapper__sua_top, base + 0x8000);
	put(f, at, l->ErtsMemMapper__size_supercarrier_total, 0x8000);
	assert_true(anchor_is_mmapper(&f->s, at));
	put(f, at, l->ErtsMemMapper__sa_top, base + 0x4000); /* areas that overlap */
	assert_false(anchor_is_mmapper(&f->s, at));
	put(f, at, l->ErtsMemMapper__sa_top, base + 0x2000);
	put(f, at, l->ErtsMemMapper__size_supercarrier_total, 0x1000); /* too small */
	assert_false(anchor_is_mmapper(&f->s, at));
	put(f, at, l->ErtsMemMapper__size_supercarrier_total, 0x8000);
	put64(f, at, FAKE_HEAP); /* no function */
	assert_false(anchor_is_mmapper(&f->s, at));
	fake_free(f);
}

static void code_ranges(void **state)
{
	const struct layout *l = l27();
	struct fake *f = fake_new(l);
	uint64_t at = FAKE_DATA + 0x4000, mods = FAKE_HEAP + 0x1000;

	for (uint64_t i = 0; i < 3; i++) {
		uint64_t e = at + i * l->size_code_ranges;

		put(f, e, l->code_ranges__modules, mods + i * 0x100);
		put(f, e, l->code_ranges__n, 2);
		put(f, e, l->code_ranges__allocated, 4);
		put(f, e, l->code_ranges__mid, mods + i * 0x100 + 16);
		for (uint64_t k = 0; k < 2; k++) {
			put64(f, mods + i * 0x100 + 16 * k, FAKE_HEAP + 0x4000 + k * 0x100);
			put64(f, mods + i * 0x100 + 16 * k + 8, FAKE_HEAP + 0x4080 + k * 0x100);
		}
	}
	assert_true(anchor_is_ranges(&f->s, at));
	/* One index is being staged: the old count, a new array. */
	put(f, at, l->code_ranges__n, 5);
	put(f, at, l->code_ranges__mid, mods + 8);
	assert_true(anchor_is_ranges(&f->s, at));
	/* Then none is right. */
	put(f, at + l->size_code_ranges, l->code_ranges__mid, mods + 0x108);
	put64(f, mods + 0x200 + 16, FAKE_HEAP + 0x3000); /* not sorted */
	assert_false(anchor_is_ranges(&f->s, at));
	put64(f, mods + 0x200 + 16, FAKE_HEAP + 0x4100);
	assert_true(anchor_is_ranges(&f->s, at));
	/* One is impossible. */
	put(f, at, l->code_ranges__n, 1ULL << 62);
	put(f, at, l->code_ranges__allocated, 1ULL << 62);
	assert_false(anchor_is_ranges(&f->s, at));
	put(f, at, l->code_ranges__n, 2);
	put(f, at, l->code_ranges__allocated, 4);
	put(f, at, l->code_ranges__modules, FAKE_CODE);
	assert_false(anchor_is_ranges(&f->s, at));
	fake_free(f);
}

/* Random data, every table: nothing may be found, nothing may crash. */
static void noise(void **state)
{
	for (size_t i = 0; i < layout_count(); i++) {
		struct fake *f = fake_new(layout_at(i));
		uint32_t seed = 12345 + (uint32_t)i;

		for (size_t k = 0; k + 8 <= FAKE_BYTES; k += 8) {
			uint64_t w;

			seed = seed * 1664525 + 1013904223;
			/* Half of the words point somewhere. */
			switch (seed >> 29) {
			case 0:
				w = FAKE_HEAP + (seed >> 8) % FAKE_BYTES / 8 * 8;
				break;
			case 1:
				w = FAKE_DATA + (seed >> 8) % FAKE_BYTES / 8 * 8;
				break;
			case 2:
				w = FAKE_CODE + (seed >> 8) % 0x10000;
				break;
			case 3:
				w = (seed >> 8) % 4;
				break;
			case 4:
				w = FAKE_HEAP + (seed >> 8) % FAKE_BYTES / 64 * 64;
				break;
			default:
				w = (uint64_t)seed << 32 | seed;
			}
			memcpy(f->data + k, &w, 8);
			memcpy(f->heap + k, &w, 8);
		}
		anchors_find(&f->s);
		for (int id = 0; id < A_N; id++) {
			if (f->anchors.v[id].addr)
				print_error("table %zu: noise passes for %s\n", i,
					    anchor_name((enum anchor_id)id));
			assert_int_equal(f->anchors.v[id].addr, 0);
			assert_non_null(f->anchors.v[id].why);
		}
		fake_free(f);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(signatures_find_what_symbols_name),
		cmocka_unit_test(signatures_under_other_flags),
		cmocka_unit_test(signatures_after_work),
		cmocka_unit_test(copy_of_our_own_image),
		cmocka_unit_test(banners),
		cmocka_unit_test(process_tables),
		cmocka_unit_test(jit_descriptors),
		cmocka_unit_test(index_tables),
		cmocka_unit_test(mseg_arrays),
		cmocka_unit_test(mappers),
		cmocka_unit_test(code_ranges),
		cmocka_unit_test(noise),
	};

	return cmocka_run_group_tests_name("anchors", tests, NULL, NULL);
}
