/* SPDX-License-Identifier: Apache-2.0 */
/* The ledger's arithmetic on looks made by hand: who wins where claims overlap,
 * and that the rows add up to RSS whatever the sources say. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "ledger/ledger.h"

#define MB   (1ULL << 20)
#define BASE 0x10000000ULL

static char *names[] = { "invalid", "sys_alloc", "binary_alloc", "ets_alloc" };

struct scene {
	struct observer o;
	struct look l;
	struct vm vm;
	struct images images;
	struct mappings maps;
	struct mapping mapping[4];
	struct allocators allocators;
	struct carriers carriers;
	struct carrier carrier[64];
	struct vm_ranges ranges;
	struct vm_range range[8];
	struct libc_heap libc;
	struct libc_region region[8];
};

/* One anonymous mapping of 64 MB at BASE, a file of 1 MB behind it; all of it
 * resident. */
static void scene_make(struct scene *s)
{
	struct target_buffer b = { BASE, "", 1 };

	memset(s, 0, sizeof(*s));
	assert_int_equal(target_open_buffers(&b, 1, &s->o.target), 0);
	s->mapping[0] = (struct mapping){
		.start = BASE, .end = BASE + 64 * MB, .path = "", .kind = MAPPING_ANON
	};
	s->mapping[1] = (struct mapping){ .start = BASE + 64 * MB,
					  .end = BASE + 65 * MB,
					  .path = "/some/file",
					  .kind = MAPPING_FILE };
	s->maps.v = s->mapping;
	s->maps.n = 2;
	assert_int_equal(residency_take(s->o.target, &s->maps, &s->l.res, NULL), 0);
	s->vm.alloc_names = names;
	s->vm.n_alloc = 4;
	s->o.vm = &s->vm;
	s->o.images = &s->images;
	s->l.maps = &s->maps;
	s->l.maps_after = &s->maps;
	s->l.allocators = &s->allocators;
	s->carriers.v = s->carrier;
	s->l.carriers = &s->carriers;
	s->ranges.v = s->range;
	s->ranges.mseg_known = true;
	s->l.ranges = &s->ranges;
	s->libc.is_glibc = s->libc.walked = true;
	s->libc.regions = s->region;
	s->l.libc = &s->libc;
	s->l.os.lazyfree = s->l.os.pss = s->l.os.cgroup_limit = SYSTEM_UNKNOWN;
	s->l.counts.port_table_bytes = s->l.counts.process_table_bytes = UINT64_MAX;
}

static void scene_free(struct scene *s)
{
	residency_free(s->l.res);
	target_close(s->o.target);
}

static struct ledger *build(struct scene *s)
{
	struct ledger *g = NULL;
	uint64_t sum = 0;
	size_t i;

	assert_int_equal(ledger_build(&s->o, &s->l, &g, NULL), 0);
	for (i = 0; i < g->n; i++)
		sum += g->rows[i].bytes;
	assert_int_equal(sum, g->rss);
	assert_int_equal(g->rss, residency_total(s->l.res));
	assert_string_equal(g->rows[g->n - 1].account, "unattributed");
	return g;
}

static uint64_t bytes(const struct ledger *g, const char *account)
{
	const struct ledger_row *r = ledger_row(g, account);

	return r ? r->bytes : 0;
}

static void ranks_decide_where_claims_overlap(void **state)
{
	struct scene s;
	struct ledger *g;

	(void)state;
	scene_make(&s);
	/* a carrier of 4 MB inside a libc heap of 16 MB, a cached segment of 2 MB,
	 * the rest of the mapping belongs to nobody */
	s.carrier[0] = (struct carrier){ .addr = BASE + 4 * MB,
					 .size = 4 * MB,
					 .type = 2,
					 .used_blocks = 1,
					 .resident = 4 * MB,
					 .used_resident = 1 * MB,
					 .free_resident = 3 * MB - 100,
					 .slack_resident = 100,
					 .free_whole_pages = 2 * MB,
					 .used_resident_by_type = { [2] = 1 * MB } };
	s.carriers.n = 1;
	s.region[0] = (struct libc_region){ .start = BASE,
					    .end = BASE + 16 * MB,
					    .used_resident = 10 * MB,
					    .free_resident = 2 * MB };
	s.libc.n_regions = 1;
	s.range[0] = (struct vm_range){ BASE + 20 * MB, BASE + 22 * MB, VM_RANGE_MSEG_CACHE };
	s.ranges.n = 1;
	g = build(&s);
	assert_int_equal(bytes(g, "vm.used.binary_alloc"), 1 * MB);
	assert_int_equal(bytes(g, "vm.free.binary_alloc"), 3 * MB - 100);
	assert_int_equal(ledger_row(g, "vm.free.binary_alloc")->whole_pages, 2 * MB);
	assert_int_equal(bytes(g, "vm.slack.binary_alloc"), 100);
	assert_int_equal(bytes(g, "native.heap.used"), 10 * MB);
	assert_int_equal(bytes(g, "native.heap.free"), 2 * MB);
	assert_int_equal(bytes(g, "vm.cache"), 2 * MB);
	assert_int_equal(bytes(g, "native.mmap"), 46 * MB);
	assert_int_equal(bytes(g, "file"), 1 * MB);
	assert_int_equal(g->unattributed, 0);
	assert_true(g->complete);
	assert_int_equal(ledger_sum(g, "native"), 58 * MB);
	assert_int_equal(ledger_sum(g, "vm.us"), 0); /* whole words only */
	ledger_free(g);
	scene_free(&s);
}

static void an_unknown_is_no_accusation(void **state)
{
	struct scene s;
	struct ledger *g;

	(void)state;
	/* without the VM's segment cache, ownerless memory is not native */
	scene_make(&s);
	s.ranges.mseg_known = false;
	g = build(&s);
	assert_int_equal(bytes(g, "native.mmap"), 0);
	assert_int_equal(g->unattributed, 64 * MB);
	assert_false(g->complete);
	assert_false(g->unsettled); /* nor will another look know */
	ledger_free(g);

	/* what was unmapped while we looked is not native either */
	s.ranges.mseg_known = true;
	struct mappings after = { .v = &s.mapping[1], .n = 1 };

	s.l.maps_after = &after;
	g = build(&s);
	assert_int_equal(g->unattributed, 64 * MB);
	assert_int_equal(g->vanished, 64 * MB);
	assert_false(g->complete);
	assert_true(g->unsettled);
	ledger_free(g);
	s.l.maps_after = &s.maps;

	/* another malloc: its memory is native heap, not mmap */
	s.libc.is_glibc = s.libc.walked = false;
	strcpy(s.libc.malloc_name, "libjemalloc.so.2");
	g = build(&s);
	assert_int_equal(bytes(g, "native.heap.used"), 64 * MB);
	ledger_free(g);
	scene_free(&s);
}

static void a_carrier_without_blocks_is_cache(void **state)
{
	struct scene s;
	struct ledger *g;

	(void)state;
	scene_make(&s);
	s.carrier[0] = (struct carrier){ .addr = BASE,
					 .size = MB,
					 .type = 2,
					 .in_pool = true,
					 .resident = MB,
					 .free_resident = MB - 64,
					 .slack_resident = 64,
					 .free_whole_pages = MB - 4096 };
	s.carriers.n = 1;
	g = build(&s);
	assert_int_equal(bytes(g, "vm.cache"), MB);
	assert_int_equal(bytes(g, "vm.free.binary_alloc"), 0);
	ledger_free(g);
	scene_free(&s);
}

/* Random claims that overlap, contradict each other and lie about their split:
 * build() checks that the rows still add up. */
static void rows_add_up_whatever_the_sources_say(void **state)
{
	int round;

	(void)state;
	srand(7);
	for (round = 0; round < 400; round++) {
		struct scene s;
		size_t i;

		scene_make(&s);
		s.carriers.n = (size_t)rand() % 64;
		for (i = 0; i < s.carriers.n; i++) {
			struct carrier *c = &s.carrier[i];

			c->addr = BASE + (uint64_t)rand() % (66 * MB);
			c->size = (uint64_t)rand() % (4 * MB);
			c->type = (unsigned)rand() % 20;
			c->used_blocks = (uint64_t)rand() % 2;
			c->in_pool = rand() % 2;
			c->torn = rand() % 10 == 0;
			c->used_resident = (uint64_t)rand() % (2 * MB);
			c->free_resident = (uint64_t)rand() % (2 * MB);
			c->slack_resident = (uint64_t)rand() % 4096;
			c->free_whole_pages = (uint64_t)rand() % (4 * MB);
			c->resident = residency_bytes(s.l.res, c->addr, c->addr + c->size);
			c->used_resident_by_type[rand() % CARRIER_TYPES] = (uint64_t)rand() % MB;
		}
		s.libc.n_regions = (size_t)rand() % 8;
		for (i = 0; i < s.libc.n_regions; i++) {
			s.region[i].start = BASE + (uint64_t)rand() % (64 * MB);
			s.region[i].end = s.region[i].start + (uint64_t)rand() % (20 * MB);
			s.region[i].used_resident = (uint64_t)rand() % (10 * MB);
			s.region[i].free_resident = (uint64_t)rand() % (10 * MB);
			s.region[i].other_resident = (uint64_t)rand() % MB;
		}
		s.ranges.n = (size_t)rand() % 8;
		for (i = 0; i < s.ranges.n; i++) {
			s.range[i].start = BASE + (uint64_t)rand() % (64 * MB);
			s.range[i].end = s.range[i].start + (uint64_t)rand() % (8 * MB);
			s.range[i].kind = (enum vm_range_kind)(rand() % 5);
		}
		s.ranges.mseg_known = rand() % 2;
		ledger_free(build(&s));
		scene_free(&s);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ranks_decide_where_claims_overlap),
		cmocka_unit_test(an_unknown_is_no_accusation),
		cmocka_unit_test(a_carrier_without_blocks_is_cache),
		cmocka_unit_test(rows_add_up_whatever_the_sources_say),
	};

	return cmocka_run_group_tests_name("ledger", tests, NULL, NULL);
}
