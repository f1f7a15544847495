/* SPDX-License-Identifier: Apache-2.0 */
/* Stacks of processes that wait; see process_stack.h. */
#include "erts/process_stack.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK_WORDS 512
#define PART_WORDS  (1u << 17) /* words looked at from each end, at most */

int process_stack_code_open(const struct code *c, struct process_stack_code *out)
{
	ssize_t n = code_ranges(c, 0, &out->ranges);

	out->n = n < 0 ? 0 : (size_t)n;
	out->normal_exit = code_normal_exit(c);
	return n < 0 ? (int)n : 0;
}

void process_stack_code_close(struct process_stack_code *c)
{
	free(c->ranges);
	c->ranges = NULL;
	c->n = 0;
}

static bool is_code(const struct process_stack_code *c, uint64_t word)
{
	size_t lo = 0, hi = c->n;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (c->ranges[mid].end <= word)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < c->n && word >= c->ranges[lo].start;
}

static bool is_return(const struct process_stack_code *c, uint64_t word)
{
	return !(word & 3) && word && is_code(c, word);
}

/* Adds a frame behind those from `first` on; false when `room` of them are there. */
static bool frame_add(struct process_stack *s, unsigned first, unsigned room, uint64_t address)
{
	/* the first of all is an instruction, no return address */
	if (s->n > first && s->n > 1 && s->v[s->n - 1].address == address) {
		if (s->v[s->n - 1].times < UINT32_MAX)
			s->v[s->n - 1].times++;
		return true;
	}
	if (s->n - first == room)
		return false;
	s->v[s->n++] = (struct process_stack_frame){ address, 1 };
	return true;
}

/* From `at` up. Returns where it stopped, or 0 with *ret set. */
static uint64_t leaf_part(struct vm *vm, const struct process_stack_code *code, uint64_t at,
			  uint64_t end, struct process_stack *s, int *ret)
{
	uint64_t chunk[CHUNK_WORDS], words = 0;
	size_t n, k;

	for (; at < end && words < PART_WORDS; at += n * 8, words += n) {
		n = (end - at) / 8 < CHUNK_WORDS ? (size_t)((end - at) / 8) : CHUNK_WORDS;
		*ret = vm_read(vm, at, chunk, n * 8);
		if (*ret)
			return 0;
		for (k = 0; k < n; k++) {
			if (chunk[k] && chunk[k] == code->normal_exit) {
				s->complete = true;
				return end;
			}
			if (is_return(code, chunk[k]) &&
			    !frame_add(s, 0, PROCESS_STACK_LEAF, chunk[k]))
				return at + k * 8;
		}
	}
	return at;
}

/* From the end down to `start`: frames come root first and are turned round. */
static int root_part(struct vm *vm, const struct process_stack_code *code, uint64_t start,
		     uint64_t end, struct process_stack *s)
{
	uint64_t chunk[CHUNK_WORDS], words = 0;
	unsigned first = s->n, i;
	size_t n, k;
	int ret;

	for (; end > start && words < PART_WORDS; words += n) {
		n = (end - start) / 8 < CHUNK_WORDS ? (size_t)((end - start) / 8) : CHUNK_WORDS;
		ret = vm_read(vm, end - n * 8, chunk, n * 8);
		if (ret)
			return ret;
		for (k = n; k > 0; k--, end -= 8) {
			uint64_t word = chunk[k - 1];

			if (word && word == code->normal_exit)
				s->complete = true;
			else if (is_return(code, word) &&
				 !frame_add(s, first, PROCESS_STACK_ROOT, word))
				goto full;
		}
	}
full:
	s->skipped = (end - start) / 8;
	for (i = 0; i < (s->n - first) / 2; i++) {
		struct process_stack_frame t = s->v[first + i];

		s->v[first + i] = s->v[s->n - 1 - i];
		s->v[s->n - 1 - i] = t;
	}
	return 0;
}

static uint64_t hash_of(const struct process_stack *s)
{
	uint64_t h = 0x9e3779b97f4a7c15ULL ^ s->n_leaf ^ (uint64_t)s->complete << 32;
	unsigned i;

	for (i = 0; i < s->n; i++) {
		h = (h ^ s->v[i].address) * 0xff51afd7ed558ccdULL;
		h ^= h >> 32;
	}
	return h;
}

/* What says that it is where it was: an instruction, and the two ends. */
static bool moved(struct vm *vm, const struct process_info *i)
{
	const struct layout *l = vm->layout;
	struct vm_cache *cache = vm->cache;
	uint64_t stop, hend, at;
	bool is;

	vm->cache = NULL; /* it has what was there before */
	is = vm_read_field(vm, i->p.addr, l->Process__stop, &stop) ||
	     vm_read_field(vm, i->p.addr, l->Process__hend, &hend) ||
	     vm_read_field(vm, i->p.addr, l->Process__i, &at) || stop != i->p.stop ||
	     hend != i->p.hend || at != i->instruction;
	vm->cache = cache;
	return is;
}

int process_stack_read(struct vm *vm, const struct process_stack_code *code,
		       const struct process_info *i, struct process_stack *out)
{
	uint64_t at;
	int ret = 0;

	memset(out, 0, sizeof(*out));
	/* On a dirty scheduler it is in native code, and the stack lies still. */
	if ((!strcmp(i->status, "running") && !i->dirty) ||
	    !strcmp(i->status, "garbage_collecting"))
		return -EBUSY;
	if (i->p.stop > i->p.hend || (i->p.stop & 7) || (i->p.hend & 7))
		return -EAGAIN;
	if (i->instruction)
		out->v[out->n++] = (struct process_stack_frame){ i->instruction, 1 };
	at = leaf_part(vm, code, i->p.stop, i->p.hend, out, &ret);
	out->n_leaf = out->n;
	if (!ret && !out->complete && at < i->p.hend)
		ret = root_part(vm, code, at, i->p.hend, out);
	if (!ret && moved(vm, i))
		ret = -EAGAIN;
	out->hash = hash_of(out);
	return ret;
}
