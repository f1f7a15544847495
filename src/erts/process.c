/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The process table and how a pid is written.
 *
 *   erts_proc (ErtsPTab)      tab[max]              Process
 *   +-------------+           +---------+           +-------------------+
 *   | tab       --+---------->| 0       |           | common.id   (pid) |
 *   | max         |           | Process-+---------->| common.u.alive.reg|--> RegProc.name
 *   | masks ...   |           | invalid |           | heap htop stop    |
 *   +-------------+           | ...     |           | dictionary        |--> ProcDict
 *                             +---------+           +-------------------+
 *
 * Slots are filled in an order that keeps neighbours off one cache line: the
 * running number that users know, "data", and the slot, "pix", are permutations
 * of each other. Up to OTP 25 a pid term holds the data and the slot is
 * computed from it; from 27 on it holds the slot's form and the data are
 * computed (erl_ptab.h, erts_ptab_data2pix() and erts_ptab_pixdata2data()).
 * Which one a VM does need not be known beforehand: only one of them leads
 * from a process's own pid back to the slot in which it was found. That is the
 * check that every process here must pass, too.
 *
 *   up to 25    data: 15 bits number, 13 bits serial          <0.number.serial>
 *   27, 29      data: 28 bits number, 32 bits serial
 *
 * A pid term is data << 4 | 0x3.
 */
#include "erts/process.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "erts/process_info.h"
#include "erts/ptab.h"

#define PID_TAG	  0x3u	/* _TAG_IMMED1_PID, low 4 bits */
#define ATOM_TAG  0x0bu /* _TAG_IMMED2_ATOM, low 6 bits */
#define SMALL_TAG 0xfu	/* _TAG_IMMED1_SMALL, low 4 bits */
#define LIST_TAG  0x1u
#define BOXED_TAG 0x2u
#define TUPLE(n)  ((uint64_t)(n) << 6) /* header of a tuple */

#define SCHEDULERS_MAX 1024 /* ERTS_MAX_NO_OF_SCHEDULERS */
#define DICTIONARY_MAX 4096 /* slots and entries of a dictionary that are looked at */
#define COPY_MAX       4096 /* more than sizeof(Process) in any release */

static bool is_pid(uint64_t term)
{
	return (term & 0xf) == PID_TAG;
}

static bool is_atom(uint64_t term)
{
	return (term & 0x3f) == ATOM_TAG;
}

bool process_pid_text(struct vm *vm, uint64_t pid, char *buf, size_t size)
{
	uint64_t data;
	struct ptab p = { 0 };

	if (size)
		buf[0] = '\0';
	if (!is_pid(pid) || (ptab_scrambles(vm) && ptab_read(vm, A_PROC, &p)))
		return false;
	data = ptab_data(vm, &p, pid);
	if (ptab_scrambles(vm))
		snprintf(buf, size, "<0.%" PRIu64 ".%" PRIu64 ">", data & 0xfffffff, data >> 28);
	else
		snprintf(buf, size, "<0.%" PRIu64 ".%" PRIu64 ">", data & 0x7fff,
			 data >> 15 & 0x1fff);
	return true;
}

int process_decode(struct vm *vm, uint64_t addr, const void *copy, size_t size, struct process *out)
{
	const struct layout *l = vm->layout;
	uint64_t reg = 0, state = 0, name;

	memset(out, 0, sizeof(*out));
	out->addr = addr;
	if (!vm_field(copy, size, l->Process__common_id, &out->pid) ||
	    !vm_field(copy, size, l->Process__heap, &out->heap) ||
	    !vm_field(copy, size, l->Process__htop, &out->htop) ||
	    !vm_field(copy, size, l->Process__stop, &out->stop) ||
	    !vm_field(copy, size, l->Process__hend, &out->hend))
		return -ENOTSUP;
	vm_field(copy, size, l->Process__u_initial_module, &out->module);
	vm_field(copy, size, l->Process__u_initial_function, &out->function);
	vm_field(copy, size, l->Process__u_initial_arity, &out->arity);
	vm_field(copy, size, l->Process__dictionary, &out->dictionary);
	vm_field(copy, size, l->Process__common_u_alive_reg, &reg);
	vm_field(copy, size, l->Process__state, &state);
	out->state = (uint32_t)state;
	if (!is_pid(out->pid) || layout_flag(state, l->psflg_free))
		return -EAGAIN;
	/* While it exits, common.u is used for something else. */
	if (reg && !layout_flag(state, l->psflg_exiting) &&
	    !vm_read_field(vm, reg, l->RegProc__name, &name) && is_atom(name)) {
		uint64_t back = 0;

		if (!layout_has(l->RegProc__p) ||
		    (!vm_read_field(vm, reg, l->RegProc__p, &back) && back == addr))
			out->name = name;
	}
	return 0;
}

int process_read(struct vm *vm, uint64_t addr, struct process *out)
{
	unsigned char copy[COPY_MAX];
	const size_t size = vm->layout->size_Process;
	int ret;

	memset(out, 0, sizeof(*out));
	if (!size || size > sizeof(copy))
		return -ENOTSUP;
	ret = vm_read(vm, addr, copy, size);
	if (ret)
		return ret == -EFAULT ? -EAGAIN : ret;
	return process_decode(vm, addr, copy, size, out);
}

int process_find(struct vm *vm, uint64_t pid, struct process *out)
{
	struct ptab p;
	uint64_t addr;
	int ret;

	if (!is_pid(pid))
		return -ENOENT;
	ret = ptab_read(vm, A_PROC, &p);
	if (ret)
		return ret;
	if (ptab_slot(vm, &p, pid) >= p.max)
		return -ENOENT;
	ret = vm_read_u64(vm, p.tab + 8 * ptab_slot(vm, &p, pid), &addr);
	if (ret)
		return ret;
	if (!addr || addr == p.invalid)
		return -ENOENT;
	ret = process_read(vm, addr, out);
	if (!ret && out->pid != pid)
		return -ENOENT;
	return ret == -EAGAIN ? -ENOENT : ret;
}

struct reading {
	struct processes *p;
	size_t allocated;
};

static int add_process(void *ctx, const struct process_info *info)
{
	struct reading *r = ctx;

	if (r->p->n == r->allocated) {
		size_t more = r->allocated ? r->allocated * 2 : 256;
		struct process *v = realloc(r->p->v, more * sizeof(*v));

		if (!v)
			return -ENOMEM;
		r->p->v = v;
		r->allocated = more;
	}
	r->p->v[r->p->n++] = info->p;
	return 0;
}

int processes_read(struct vm *vm, struct processes **out, struct error *err)
{
	struct reading r = { .p = calloc(1, sizeof(*r.p)) };
	struct process_scan scan;
	int ret;

	*out = NULL;
	if (!r.p)
		return -ENOMEM;
	ret = processes_scan(vm, 0, add_process, &r, &scan, err);
	if (ret) {
		processes_free(r.p);
		return ret;
	}
	r.p->limit = scan.limit;
	r.p->torn = scan.torn;
	*out = r.p;
	return 0;
}

void processes_free(struct processes *p)
{
	if (!p)
		return;
	free(p->v);
	free(p);
}

const struct process *processes_find(const struct processes *p, uint64_t pid)
{
	size_t i;

	for (i = 0; i < p->n; i++)
		if (p->v[i].pid == pid)
			return &p->v[i];
	return NULL;
}

/* ---- labels --------------------------------------------------------------- */

typedef ssize_t (*atom_fn)(struct vm *vm, uint64_t index, char *buf, size_t size);

static size_t mfa_text_by(struct vm *vm, atom_fn atom, uint64_t module, uint64_t function,
			  uint64_t arity, char *buf, size_t size)
{
	char m[PROCESS_LABEL_MAX / 2 - 8], f[PROCESS_LABEL_MAX / 2 - 8];
	int n;

	if (!is_atom(module) || !is_atom(function) || arity > 255 ||
	    atom(vm, module >> 6, m, sizeof(m)) < 0 || atom(vm, function >> 6, f, sizeof(f)) < 0)
		return 0;
	n = snprintf(buf, size, "%s:%s/%" PRIu64, m, f, arity);
	return n < 0 ? 0 : (size_t)n < size ? (size_t)n : size - 1;
}

static size_t mfa_text(struct vm *vm, uint64_t module, uint64_t function, uint64_t arity, char *buf,
		       size_t size)
{
	return mfa_text_by(vm, vm_atom, module, function, arity, buf, size);
}

size_t process_initial_call(struct vm *vm, const struct process *p, char *buf, size_t size)
{
	return mfa_text_by(vm, vm_atom_quoted, p->module, p->function, p->arity, buf, size);
}

size_t process_mfa_at(struct vm *vm, uint64_t addr, char *buf, size_t size)
{
	const struct layout *l = vm->layout;
	uint64_t m, f, a;

	if (vm_read_field(vm, addr, l->ErtsCodeMFA__module, &m) ||
	    vm_read_field(vm, addr, l->ErtsCodeMFA__function, &f) ||
	    vm_read_field(vm, addr, l->ErtsCodeMFA__arity, &a))
		return 0;
	return mfa_text_by(vm, vm_atom_quoted, m, f, a, buf, size);
}

/* The tuple behind a boxed term: checks its header and reads `n` elements. */
static bool read_tuple(struct vm *vm, uint64_t term, unsigned n, uint64_t *out)
{
	uint64_t words[4];

	if ((term & 3) != BOXED_TAG || n >= 4 || vm_read(vm, term & ~7ull, words, (n + 1) * 8) ||
	    words[0] != TUPLE(n))
		return false;
	memcpy(out, words + 1, n * 8);
	return true;
}

/* If `term` is {'$initial_call', {M, F, A}}, its text. */
static size_t entry_text(struct vm *vm, uint64_t term, char *buf, size_t size)
{
	uint64_t pair[2], mfa[3];
	char key[32];

	if (!read_tuple(vm, term, 2, pair) || !is_atom(pair[0]) ||
	    vm_atom(vm, pair[0] >> 6, key, sizeof(key)) < 0 || strcmp(key, "$initial_call") != 0 ||
	    !read_tuple(vm, pair[1], 3, mfa) || (mfa[2] & 0xf) != SMALL_TAG)
		return 0;
	return mfa_text(vm, mfa[0], mfa[1], mfa[2] >> 4, buf, size);
}

/* proc_lib puts the real initial call into the process dictionary, which is a
 * hash table of entries: NIL, a pair, or a list of pairs (erl_process_dict.c). */
static size_t dictionary_call(struct vm *vm, uint64_t dictionary, char *buf, size_t size)
{
	const struct layout *l = vm->layout;
	uint64_t used, i, at, term, cell[2];
	unsigned looked = 0;
	size_t n;

	if (!layout_has(l->ProcDict__data) ||
	    vm_read_field(vm, dictionary, l->ProcDict__usedSlots, &used))
		return 0;
	at = dictionary + (uint64_t)l->ProcDict__data.offset;
	for (i = 0; i < used && looked < DICTIONARY_MAX; i++, looked++) {
		if (vm_read_u64(vm, at + 8 * i, &term))
			return 0;
		while ((term & 3) == LIST_TAG) {
			if (++looked > DICTIONARY_MAX ||
			    vm_read(vm, term & ~7ull, cell, sizeof(cell)))
				return 0;
			n = entry_text(vm, cell[0], buf, size);
			if (n)
				return n;
			term = cell[1];
		}
		n = entry_text(vm, term, buf, size);
		if (n)
			return n;
	}
	return 0;
}

size_t process_label(struct vm *vm, const struct process *p, char *buf, size_t size)
{
	char module[32];
	ssize_t n;
	size_t len;

	if (!size)
		return 0;
	buf[0] = '\0';
	if (p->name) {
		n = vm_atom(vm, p->name >> 6, buf, size);
		if (n > 0)
			return (size_t)n;
	}
	/* Only proc_lib's processes have the entry; others are not searched. */
	if (p->dictionary && is_atom(p->module) &&
	    vm_atom(vm, p->module >> 6, module, sizeof(module)) > 0 &&
	    strcmp(module, "proc_lib") == 0) {
		len = dictionary_call(vm, p->dictionary, buf, size);
		if (len)
			return len;
	}
	len = mfa_text(vm, p->module, p->function, p->arity, buf, size);
	if (len)
		return len;
	process_pid_text(vm, p->pid, buf, size);
	return strlen(buf);
}

size_t process_pid_label(struct vm *vm, uint64_t pid, char *buf, size_t size)
{
	struct process p;

	if (!process_find(vm, pid, &p))
		return process_label(vm, &p, buf, size);
	if (!process_pid_text(vm, pid, buf, size) && size)
		snprintf(buf, size, "unknown process");
	return size ? strlen(buf) : 0;
}

/* ---- schedulers ----------------------------------------------------------- */

int scheduler_runs(struct vm *vm, struct scheduler *s)
{
	const struct layout *l = vm->layout;
	struct process p;
	int ret;

	s->process = s->pid = s->port = 0;
	ret = vm_read_field(vm, s->addr, l->ErtsSchedulerData__current_process, &s->process);
	if (ret)
		return ret;
	vm_read_field(vm, s->addr, l->ErtsSchedulerData__current_port, &s->port);
	if (s->process && !process_read(vm, s->process, &p))
		s->pid = p.pid;
	return 0;
}

static int add_schedulers(struct vm *vm, enum anchor_id anchor, enum scheduler_kind kind,
			  struct scheduler **v, size_t *n)
{
	const struct layout *l = vm->layout;
	const uint64_t stride = l->size_ErtsAlignedSchedulerData;
	uint64_t array, limit = SCHEDULERS_MAX, i;
	int ret;

	if (!vm->anchors.v[anchor].addr || !stride)
		return -ENOENT;
	ret = vm_read_u64(vm, vm->anchors.v[anchor].addr, &array);
	if (ret)
		return ret;
	if (!array)
		return 0;
	if (kind == SCHEDULER_NORMAL && vm->anchors.v[A_NO_SCHEDULERS].addr) {
		uint64_t no;

		ret = vm_read_u64(vm, vm->anchors.v[A_NO_SCHEDULERS].addr, &no);
		if (ret)
			return ret;
		if (no && no < limit)
			limit = no;
	}
	for (i = 0; i < limit; i++) {
		struct scheduler s = { .addr = array + i * stride, .kind = kind };
		uint64_t number;
		void *larger;

		/* The array has no length of its own: it ends where the numbers do. */
		if (vm_read_field(vm, s.addr,
				  kind == SCHEDULER_NORMAL ? l->ErtsSchedulerData__no
							   : l->ErtsSchedulerData__dirty_no,
				  &number) ||
		    number != i + 1 ||
		    vm_read_field(vm, s.addr, l->ErtsSchedulerData__tid, &s.pthread) ||
		    scheduler_runs(vm, &s))
			break;
		s.number = (unsigned)number;
		larger = realloc(*v, (*n + 1) * sizeof(**v));
		if (!larger)
			return -ENOMEM;
		*v = larger;
		(*v)[(*n)++] = s;
	}
	return 0;
}

ssize_t schedulers_read(struct vm *vm, struct scheduler **out)
{
	struct scheduler *v = NULL;
	size_t n = 0;
	int ret;

	*out = NULL;
	ret = add_schedulers(vm, A_SCHEDULER_DATA, SCHEDULER_NORMAL, &v, &n);
	if (!ret) {
		/* Without the dirty ones the normal ones are still right. */
		ret = add_schedulers(vm, A_DIRTY_CPU_SCHEDULER_DATA, SCHEDULER_DIRTY_CPU, &v, &n);
		if (!ret || ret == -ENOENT)
			ret = add_schedulers(vm, A_DIRTY_IO_SCHEDULER_DATA, SCHEDULER_DIRTY_IO, &v,
					     &n);
		if (ret == -ENOENT)
			ret = 0;
	}
	if (ret) {
		free(v);
		return ret;
	}
	*out = v;
	return (ssize_t)n;
}

void scheduler_role(const struct scheduler *s, char *buf, size_t size)
{
	static const char *const names[] = { "scheduler", "dirty cpu", "dirty io" };

	snprintf(buf, size, "%s %u", names[s->kind], s->number);
}
