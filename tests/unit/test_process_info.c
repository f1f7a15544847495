/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What hangs on a process: queues, links, monitors, off-heap lists and a
 * dictionary made here by the layout's offsets, counted by the test itself;
 * then cycles, lies and noise in all of them.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "erts/process_info.h"

#define BASE	0x7f0000000000ull
#define BYTES	(4u << 20)
#define SLOTS	16u
#define N_PROCS 3

struct world {
	unsigned char *mem;
	size_t used;
	struct target_buffer buffer;
	struct target *target;
	struct vm vm;
	uint64_t tab, ptab, proc[N_PROCS];
	/* the truth, of process 0 */
	uint64_t bytes, messages, message_bytes, binaries, binary_bytes, links, monitored_by;
};

static void set_word(struct world *w, uint64_t addr, uint64_t v)
{
	assert_true(addr >= BASE && addr - BASE + 8 <= BYTES);
	memcpy(w->mem + (addr - BASE), &v, 8);
}

static void put(struct world *w, uint64_t base, struct layout_field f, uint64_t v)
{
	assert_true(layout_has(f));
	memcpy(w->mem + (base - BASE) + f.offset, &v, f.size < 8 ? f.size : 8);
}

static uint64_t take(struct world *w, size_t n)
{
	uint64_t addr = BASE + w->used;

	w->used += (n + 63) & ~63ull;
	assert_true(w->used <= BYTES);
	return addr;
}

static void add_process(struct world *w, unsigned i)
{
	const struct layout *l = w->vm.layout;
	uint64_t p = take(w, l->size_Process);

	w->proc[i] = p;
	put(w, p, l->Process__common_id, (uint64_t)(i + 1) << 4 | 3);
	put(w, p, l->Process__heap, 0x10000);
	put(w, p, l->Process__htop, 0x10100);
	put(w, p, l->Process__stop, 0x11f00);
	put(w, p, l->Process__hend, 0x12000);
	put(w, p, l->Process__heap_sz, 0x400);
	put(w, p, l->Process__arg_reg, p + (uint64_t)l->Process__def_arg_reg.offset);
	set_word(w, w->tab + 8 * (i + 1), p);
}

/* `n` messages of `words` words each on the list whose first pointer is `head`. */
static uint64_t add_messages(struct world *w, uint64_t p, struct layout_field head, unsigned n,
			     unsigned words, bool combined)
{
	const struct layout *l = w->vm.layout;
	uint64_t first = 0, i;

	for (i = 0; i < n; i++) {
		uint64_t m = take(w, l->size_ErtsMessage + 8 * words), frag;

		put(w, m, l->ErtsMessage__next, first);
		set_word(w, m + (uint64_t)l->ErtsMessage__m.offset, 0xf);
		w->message_bytes += l->size_ErtsMessage + 8ull * words;
		first = m;
		if (!words)
			continue;
		if (combined) {
			frag = m + (uint64_t)l->ErtsMessage__hfrag.offset;
			put(w, m, l->ErtsMessage__data_attached, 1);
		} else {
			frag = take(w, l->size_ErlHeapFragment);
			put(w, m, l->ErtsMessage__data_attached, frag);
		}
		put(w, frag, l->ErlHeapFragment__used_size, words);
	}
	put(w, p, head, first);
	w->messages += n;
	return first;
}

/* A tree of three links: root, left, right. */
static uint64_t add_links(struct world *w, uint64_t p)
{
	const struct layout *l = w->vm.layout;
	uint64_t node[3], i;

	for (i = 0; i < 3; i++) {
		size_t size = l->size_ErtsLinkData > 128 ? l->size_ErtsLinkData : 128;
		uint64_t data = take(w, size);

		node[i] = data;
		if (!layout_has(l->ErtsILink__unlinking)) {
			put(w, data, l->ErtsLinkData__refc, 2);
			w->bytes += l->size_ErtsLinkData / 2;
		} else {
			w->bytes += l->size_ErtsMonLnkNode;
		}
		if (i) {
			put(w, node[i], l->ErtsMonLnkNode__node_tree_parent, node[0] | 1);
			put(w, node[0],
			    i == 1 ? l->ErtsMonLnkNode__node_tree_left
				   : l->ErtsMonLnkNode__node_tree_right,
			    node[i]);
		}
	}
	put(w, p, l->Process__common_u_alive_links, node[0]);
	w->links = 3;
	return node[2];
}

/* Two monitors that others made of it, in a circle. */
static uint64_t add_monitors(struct world *w, uint64_t p)
{
	const struct layout *l = w->vm.layout;
	uint64_t node[2], i;

	for (i = 0; i < 2; i++) {
		uint64_t data = take(w, l->size_ErtsMonitorDataHeap),
			 offset = (uint64_t)l->ErtsMonitorData__target.offset,
			 flags = (uint64_t)l->ml_flg_target;

		node[i] = data + offset;
		put(w, node[i], l->ErtsMonLnkNode__offset, offset);
		if (layout_has(l->ErtsMonLnkNode__type)) {
			put(w, node[i], l->ErtsMonLnkNode__type, (uint64_t)l->mon_type_proc);
			put(w, data, l->ErtsMonLnkNode__type, (uint64_t)l->mon_type_proc);
		} else {
			flags |= (uint64_t)l->mon_type_proc << l->ml_type_shift;
			put(w, data, l->ErtsMonLnkNode__flags,
			    (uint64_t)l->mon_type_proc << l->ml_type_shift);
		}
		put(w, node[i], l->ErtsMonLnkNode__flags, flags);
		put(w, data, l->ErtsMonitorData__refc, 2);
		w->bytes += l->size_ErtsMonitorDataHeap / 2;
	}
	for (i = 0; i < 2; i++) {
		put(w, node[i], l->ErtsMonLnkNode__node_list_next, node[!i]);
		put(w, node[i], l->ErtsMonLnkNode__node_list_prev, node[!i]);
	}
	put(w, p, l->Process__common_u_alive_lt_monitors, node[0]);
	w->monitored_by = 2;
	return node[1];
}

static uint64_t add_binaries(struct world *w, uint64_t p)
{
	const struct layout *l = w->vm.layout;
	bool refs = l->size_BinRef != 0;
	uint64_t first = 0, i;

	for (i = 0; i < 5; i++) {
		uint64_t ref = take(w, 64), bin = take(w, 64);

		set_word(w, ref,
			 3u << 6 |
				 (uint64_t)(refs ? l->tag_header_bin_ref : l->tag_header_refc_bin));
		put(w, ref, l->erl_off_heap_header__next, first);
		put(w, ref, refs ? l->BinRef__val : l->ProcBin__val, bin);
		put(w, bin, l->Binary__orig_size, 1000 * (i + 1));
		w->binary_bytes += 1000 * (i + 1);
		first = ref;
	}
	put(w, p, l->Process__off_heap_first, first);
	w->binaries = 5;
	return first;
}

static struct world *world(int otp)
{
	struct world *w = calloc(1, sizeof(*w));
	const struct layout *l = layout_find(otp, NULL);
	uint64_t p, dict;
	unsigned i;

	assert_non_null(w);
	assert_non_null(l);
	w->mem = calloc(1, BYTES);
	assert_non_null(w->mem);
	w->used = 0x1000;
	w->buffer = (struct target_buffer){ BASE, w->mem, BYTES };
	assert_int_equal(target_open_buffers(&w->buffer, 1, &w->target), 0);
	w->vm.target = w->target;
	w->vm.layout = l;
	w->vm.exe_fd = -1;
	w->ptab = take(w, l->size_ErtsPTab);
	w->tab = take(w, SLOTS * 8);
	w->vm.anchors.v[A_PROC].addr = w->ptab;
	put(w, w->ptab, l->ErtsPTab__r_o_tab, w->tab);
	put(w, w->ptab, l->ErtsPTab__r_o_max, SLOTS);
	put(w, w->ptab, l->ErtsPTab__vola_tile_count, N_PROCS);
	put(w, w->ptab, l->ErtsPTab__r_o_pix_mask, SLOTS - 1);
	for (i = 0; i < N_PROCS; i++)
		add_process(w, i);
	p = w->proc[0];
	add_messages(w, p, l->Process__sig_qs_first, 40, 7, true);
	add_messages(w, p, l->Process__sig_qs_cont, 30, 11, false);
	add_messages(w, p, l->Process__sig_inq_first, 5, 0, false);
	add_links(w, p);
	add_monitors(w, p);
	add_binaries(w, p);
	dict = take(w, l->size_ProcDict + 8 * 63);
	put(w, dict, l->ProcDict__arraySize, 64);
	put(w, dict, l->ProcDict__numElements, 9);
	put(w, p, l->Process__dictionary, dict);
	w->bytes += w->message_bytes + l->size_ProcDict + 8 * 63 + l->size_Process + 8 * 0x400;
	return w;
}

static void world_done(struct world *w)
{
	target_close(w->target);
	free(w->mem);
	free(w);
}

struct seen {
	struct process_info v[N_PROCS + 1];
	size_t n;
};

static int see(void *ctx, const struct process_info *i)
{
	struct seen *s = ctx;

	assert_true(s->n < SLOTS);
	if (s->n <= N_PROCS)
		s->v[s->n] = *i;
	s->n++;
	return 0;
}

static int scan(struct world *w, struct seen *s, struct process_scan *out)
{
	struct error err = { 0 };

	memset(s, 0, sizeof(*s));
	return processes_scan(&w->vm, PROCESS_ALL, see, s, out, &err);
}

static const int releases[] = { 23, 25, 27, 29 };

static void what_hangs_on_a_process_is_counted(void **state)
{
	size_t r;

	for (r = 0; r < 4; r++) {
		struct world *w = world(releases[r]);
		struct process_scan out;
		struct seen s;
		const struct process_info *i = &s.v[0];

		assert_int_equal(scan(w, &s, &out), 0);
		assert_int_equal(out.found, N_PROCS);
		assert_int_equal(out.torn + out.gone + out.approximate + out.absent, 0);
		assert_int_equal(out.count, N_PROCS);
		assert_int_equal(i->message_queue_len, w->messages);
		assert_int_equal(i->message_bytes, w->message_bytes);
		assert_int_equal(i->messages_in_heap, 5);
		assert_int_equal(i->links, w->links);
		assert_int_equal(i->monitored_by, w->monitored_by);
		assert_int_equal(i->binaries, w->binaries);
		assert_int_equal(i->binary_bytes, w->binary_bytes);
		assert_int_equal(i->dictionary_entries, 9);
		assert_int_equal(i->memory, w->bytes);
		assert_int_equal(i->stack_size, 0x100 / 8);
		assert_string_equal(i->status, "waiting");
		world_done(w);
	}
}

/* Every kind of list led back into itself: an end, a mark, the others unharmed. */
static void cycles_end(void **state)
{
	size_t r, k;

	for (r = 0; r < 4; r++)
		for (k = 0; k < 5; k++) {
			struct world *w = world(releases[r]);
			const struct layout *l = w->vm.layout;
			struct process_scan out;
			struct seen s;
			uint64_t p = w->proc[0], at, first;

			switch (k) {
			case 0: /* messages: the last one's next is the second */
				first = add_messages(w, p, l->Process__sig_qs_first, 100, 2, true);
				for (at = first;;) {
					uint64_t next;

					memcpy(&next, w->mem + (at - BASE), 8);
					if (!next)
						break;
					at = next;
				}
				put(w, at, l->ErtsMessage__next, first);
				break;
			case 1: /* a link's child is its parent */
				at = add_links(w, p);
				put(w, at, l->ErtsMonLnkNode__node_tree_left, at);
				break;
			case 2: /* a circle that does not come back to its start */
				at = add_monitors(w, p);
				put(w, at, l->ErtsMonLnkNode__node_list_next, at);
				break;
			case 3: /* binaries */
				at = add_binaries(w, p);
				put(w, at, l->erl_off_heap_header__next, at);
				break;
			default: /* a fragment of a message */
				at = take(w, l->size_ErlHeapFragment);
				first = add_messages(w, p, l->Process__sig_qs_first, 1, 3, false);
				put(w, at, l->ErlHeapFragment__next, at);
				put(w, first, l->ErtsMessage__data_attached, at);
			}
			assert_int_equal(scan(w, &s, &out), 0);
			assert_int_equal(out.found, N_PROCS);
			assert_int_equal(out.approximate, 1);
			assert_true(s.v[0].approximate);
			assert_false(s.v[1].approximate);
			world_done(w);
		}
}

/* A slot that holds another process, or none any more, by the end. */
static void who_is_gone_is_left_out(void **state)
{
	struct world *w = world(25);
	struct process_scan out;
	struct seen s;

	/* not in the slot that its pid says */
	put(w, w->proc[1], w->vm.layout->Process__common_id, 9u << 4 | 3);
	/* a pointer to nowhere */
	set_word(w, w->tab + 8 * 3, 0xdead0000beefull);
	assert_int_equal(scan(w, &s, &out), 0);
	assert_int_equal(out.found, 1);
	assert_int_equal(out.torn, 2);
	world_done(w);
}

/* Words of it replaced by noise: always an end, never more than there are slots. */
static void noise_does_no_harm(void **state)
{
	uint64_t seed = 1;
	unsigned round, k;

	for (round = 0; round < 600; round++) {
		struct world *w = world(releases[round % 4]);
		struct process_shares *shares = NULL;
		struct process_scan out;
		struct error err = { 0 };
		struct seen s;

		for (k = 0; k < 1 + round % 40; k++) {
			uint64_t at, v;

			seed = seed * 6364136223846793005ull + 1442695040888963407ull;
			at = 0x1000 + (seed >> 20) % (w->used - 0x1000);
			v = seed & 1   ? BASE + (seed >> 8) % w->used
			    : seed & 2 ? seed
				       : (seed >> 30 & 0xff);
			memcpy(w->mem + (at & ~7ull), &v, 8);
		}
		scan(w, &s, &out);
		if (process_shares_read(&w->vm, &shares, &err) == 0)
			process_shares_free(shares);
		world_done(w);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_hangs_on_a_process_is_counted),
		cmocka_unit_test(cycles_end),
		cmocka_unit_test(who_is_gone_is_left_out),
		cmocka_unit_test(noise_does_no_harm),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
