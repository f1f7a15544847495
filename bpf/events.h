/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * What the BPF programs and user space both see: the configuration that user
 * space writes, the tables that it compiles, and the records that come back
 * through the ring buffer. The only header on both sides.
 *
 * All addresses are the target's; "ns" is CLOCK_MONOTONIC.
 */
#ifndef BEAMRAY_BPF_EVENTS_H
#define BEAMRAY_BPF_EVENTS_H

#ifndef __bpf__
#include <linux/types.h>
#endif

/* ---- stacks --------------------------------------------------------------- */

/*
 * A stack as it leaves the kernel: 64-bit words, leaf first. A user address has
 * its upper 17 bits clear, so the top byte of a word says what the word is.
 *
 *	LEAF_FRAMES words from the leaf on
 *	a STACK_CUT word if something is missing in between, and then
 *	at most ROOT_FRAMES words that end at the Erlang root
 */
#define STACK_LEAF_FRAMES 96
#define STACK_ROOT_FRAMES 32
#define STACK_FRAMES	  128

enum stack_word {
	STACK_NATIVE = 0, /* address of native code */
	STACK_ERLANG = 1, /* address in JIT or BEAM code */
	STACK_REPEAT = 2, /* the `period` words before it repeat `count` more times (or more) */
	STACK_CUT = 3,	  /* towards the root something is missing; low byte: enum stack_cut */
	STACK_KERNEL = 5, /* address of kernel code, its top byte (0xff) left out */
	STACK_JOINED = 4, /* what follows is the process's stack, not walked to */
};
#define STACK_WORD(kind, value) (((__u64)(kind) << 56) | (__u64)(value))
#define STACK_KIND(word)	((unsigned)((word) >> 56))
#define STACK_VALUE(word)	((word)&0xffffffffffffffULL)
#define STACK_REPEAT_WORD(period, count) \
	STACK_WORD(STACK_REPEAT, ((__u64)(period) << 32) | (__u32)(count))

enum stack_cut { /* why a stack ends before its root */
		 CUT_NONE,
		 CUT_NO_MODULE, /* the address lies in no known module */
		 CUT_NO_RULE,	/* no .eh_frame row covers it, or a rule of a kind we do not have */
		 CUT_READ,	/* stack memory could not be read */
		 CUT_LOOP,	/* the stack pointer did not advance */
		 CUT_DEPTH,	/* more frames than fit */
		 CUT_NO_E,	/* JIT code, but where the Erlang stack begins is not known */
		 CUT_NO_ROOT,	/* the Erlang stack ended without normal_exit */
		 CUT_NO_CODE,	/* emulator: the current function is not known; the stack goes on */
		 CUT_THINNED,	/* only the leaf was taken, to stay within the budget */
		 CUT_N
};
#define CUT_SLOTS 16 /* power of two, at least CUT_N */

enum stack_flag {
	STACK_COMPLETE = 1,   /* reached normal_exit or the thread's start */
	STACK_HAS_ERLANG = 2, /* an Erlang stack was found */
	STACK_IS_JOINED = 4,
	STACK_SKIPPED_MIDDLE = 8, /* words between the leaf and the root part were left out */
	STACK_LEAF_ONLY = 16,
};

/* ---- tables ---------------------------------------------------------------- */

/* Where the canonical frame address (the stack pointer before the call) is. */
enum unwind_cfa {
	UNWIND_CFA_NONE, /* no rule: the walk stops */
	UNWIND_CFA_SP,	 /* rsp + cfa_offset */
	UNWIND_CFA_BP,
	UNWIND_CFA_BX,
	UNWIND_CFA_R12,
	UNWIND_CFA_R13,
	UNWIND_CFA_SP_DEREF, /* *(rsp + cfa_offset) + deref_offset */
	UNWIND_CFA_BP_DEREF,
	UNWIND_CFA_PLT,	   /* rsp + 8, and 8 more from byte cfa_offset of the 16-byte slot on */
	UNWIND_CFA_SIGNAL, /* the kernel's signal frame: registers at rsp */
	UNWIND_CFA_ROOT,   /* the return address is undefined: the thread starts here */
};

/* Where the caller's value of a register is. */
enum unwind_saved {
	UNWIND_SAME,   /* still in the register */
	UNWIND_AT_CFA, /* at CFA + offset */
	UNWIND_AT_BP,  /* at rbp + offset (functions that realign their stack) */
	UNWIND_LOST,
};
enum unwind_reg { UNWIND_BP, UNWIND_BX, UNWIND_R12, UNWIND_R13, UNWIND_REGS };

struct unwind_rule {
	__s32 cfa_offset;
	__s16 deref_offset;
	__u8 cfa;   /* enum unwind_cfa */
	__u8 saved; /* enum unwind_saved, two bits a register, rbp lowest */
	__s16 offset[UNWIND_REGS];
};

/* One row: from this address on (relative to the module's base) the rule holds. */
struct unwind_row {
	__u32 pc;
	__u32 rule;
};

#define UNWIND_MODULES	 1024 /* executable mappings of native code */
#define UNWIND_ROW_STEPS 24   /* a module has at most 2^24 rows */

struct unwind_module {
	__u64 start, end; /* run-time addresses */
	__u64 base;	  /* subtracted from an address before rows are searched */
	__u32 row_first, row_count;
};

/* ---- configuration ---------------------------------------------------------- */

#define CODE_AREAS 16

enum vm_flavor {
	VM_NONE, /* not a BEAM: native stacks only */
	VM_JIT,
	VM_EMULATOR,
};

struct code_area {
	__u64 start, end;
};

/* What changes while the programs run; two copies, `active` says which holds. */
struct tables {
	__u32 n_modules;
	__u32 n_areas;
	struct code_area areas[CODE_AREAS];	      /* JIT or BEAM code, by address */
	__u64 code_min, code_max;		      /* hull of areas[] */
	struct unwind_module modules[UNWIND_MODULES]; /* by address */
};

/* Written once before the programs are loaded. */
struct config {
	__u32 tgid;	      /* as our pid namespace numbers it */
	__u32 flavor;	      /* enum vm_flavor */
	__u64 ns_dev, ns_ino; /* our pid namespace; 0: the initial one */
	/* offsets in ERTS structures, bytes */
	__u32 sched_current_process;
	__u32 proc_id, proc_stop, proc_heap, proc_hend, proc_reg, proc_initial, reg_name;
	/* what a scheduler is doing; 0: not known in this release */
	__u32 sched_ssi, ssi_flags, sched_current_nif, sched_current_port;
	__u32 proc_state, proc_reds, psflg_gc;
	__u64 normal_exit;
	__u64 main_start, main_end; /* process_main: C function (emulator) or fragment (JIT) */
	/* emulator: the executable with its data, and its text */
	__u64 exe_start, exe_end, text_start, text_end;
	/* a word of the VM's that changes as code is loaded, under a mask; 0: none */
	__u64 code_word, code_mask;
	/* for tests: 1 in so many switches to a thread is as if the kernel did not tell of it;
	 * 0: none */
	__u32 untold;
	__u32 pad;
};

/* What both sides write while the programs run; one for all programs. */
struct control {
	__u32 active;	  /* which copy of the tables holds */
	__u32 host_tgid;  /* the target in the initial pid namespace, once it was met */
	__u64 code_state; /* the word at code_word, when the last stack was taken */
};

/* ---- threads ----------------------------------------------------------------- */

enum thread_role {
	ROLE_OTHER,
	ROLE_SCHEDULER,
	ROLE_DIRTY_CPU,
	ROLE_DIRTY_IO,
	/* by their names only */
	ROLE_AUX,
	ROLE_POLL,
	ROLE_ASYNC,
	ROLE_SIGNAL,
	ROLE_N
};

/* Key: the thread's fs base (pthread_t). Filled from user space. */
struct thread_vm {
	__u64 scheduler; /* ErtsSchedulerData */
	__u32 role;	 /* enum thread_role */
	__u32 number;
};

struct thread {
	struct thread_vm vm;
};

/* ---- records ------------------------------------------------------------------ */

enum event_kind {
	EVENT_NONE,
	/* the core's */
	EVENT_STACK,
	EVENT_PROCESS,
	EVENT_THREAD,
	EVENT_CODE, /* an executable mapping came: tables are out of date */
	EVENT_EXEC,
	/* growth */
	EVENT_RUN,
	EVENT_UNMAP,
	EVENT_MOVE_BEGIN,
	EVENT_MOVE_END,
	/* cpu */
	EVENT_SAMPLE,
	/* sched */
	EVENT_SCHED_END,
	EVENT_SCHED_AWAY,
	/* offcpu */
	EVENT_OFFCPU,
	EVENT_N
};

struct event {
	__u32 kind;
	__u32 tid;
};

struct event_stack {
	struct event e;
	__u64 hash;
	__u16 n_leaf, n_root;
	__u8 flags, cut; /* enum stack_flag, enum stack_cut */
	__u16 pad;
	__u64 words[STACK_FRAMES]; /* n_leaf + n_root of them are sent */
};

struct event_process {
	struct event e;
	__u64 process;	  /* pid term */
	__u64 name;	  /* registered name, atom term, 0 if none */
	__u64 initial[3]; /* module, function, arity it was spawned with */
};

struct event_thread {
	struct event e;
	__u32 role, number;
	char comm[16];
};

/* ---- probe sets ------------------------------------------------------------------ */

/* Whose counters. src/trace/set.h says what a set is and how to add one. */
enum set_id {
	SET_CORE,
	SET_GROWTH,
	SET_CPU,
	SET_SCHED,
	SET_OFFCPU,
	SET_CARRIERS,
	SET_GC,
	SET_NATIVE,
	SET_N
};

/* Of one set, on one CPU. */
enum counter {
	COUNT_HITS,	   /* of its probes, in the target */
	COUNT_TIMED,	   /* hits without a walk that were timed (one in 64) ... */
	COUNT_TIMED_NS,	   /* ... and their time */
	COUNT_STACKS,	   /* stacks walked */
	COUNT_STACK_NS,	   /* time of hits that walked one */
	COUNT_NEW_STACKS,  /* stacks not seen before */
	COUNT_COMPLETE,	   /* stacks that reached the root */
	COUNT_ERLANG,	   /* stacks with an Erlang part */
	COUNT_ERLANG_ROOT, /* of those, ended in normal_exit */
	COUNT_JOINED,
	COUNT_THINNED,	   /* hits that took over the stack of their place */
	COUNT_LEAF_ONLY,   /* hits that had none to take over */
	COUNT_LOST_EVENTS, /* records that did not fit into the ring buffer */
	COUNT_LOST_STACKS,
	COUNT_FULL,	   /* no room in a map, of threads or of the set's own */
	COUNT_READ_FAILED, /* memory of the target that could not be read (stacks: CUT_READ) */
	COUNT_OWN,	   /* what it means is up to the set */
	COUNT_OWN_LAST = COUNT_OWN + 7,
	COUNT_CUT, /* + enum stack_cut; CUT_NONE: not cut */
	COUNT_N = COUNT_CUT + CUT_SLOTS
};

struct cpu_state {
	__u64 v[SET_N][COUNT_N];
};

/* ---- growth ------------------------------------------------------------------------ */

enum { COUNT_SYSCALLS = COUNT_OWN }; /* memory system calls; the other hits are page faults */

/* What the governor turns while the programs run. A bucket lets `burst` stacks
 * through at once and then one every `interval` ns. */
struct growth_limits {
	__u64 place_interval, place_burst;     /* of one place: see struct stratum */
	__u64 cpu_interval, cpu_burst;	       /* of all places on one CPU */
	__u64 reserve_interval, reserve_burst; /* of processes that seldom fault, on one CPU */
	__u64 process_interval, process_burst; /* what one process may take of it */
	__u32 random_mask; /* beyond its bucket a place takes one stack in random_mask + 1 faults */
	__u32 pad;
};

/* A run of neighbouring pages that one thread faulted in from one stack. */
struct run {
	__u64 start; /* page address; 0: none */
	__u64 pages;
	__u64 stack, process;
};

/*
 * Runs that are still growing, in slots by the lowest bits of the thread's id. A
 * thread that takes memory away first sends off the runs of all threads that lie in
 * it: otherwise their records would come after the range has been used anew.
 */
#define RUN_SLOTS 128 /* power of two */

struct run_slot {
	__u32 tid, pad;
	struct run run;
	__u64 sent; /* pages of it that have been sent already */
};

#define STRATA 128 /* power of two */

/* Faults of one place (instruction and process) on one thread. */
struct stratum {
	__u64 key;
	__u64 stack; /* the last stack that was taken here */
	__u64 due;   /* the bucket: when the next stack would be due at an even pace, ns */
};

struct growth_thread {
	struct thread_vm vm;
	__u64 run_ip, run_sp, run_proc; /* where the run began: instruction, stack, Process */
	__u64 run_process;		/* and its pid */
	__u64 run_jiffies;
	__u64 move_start, move_bytes; /* of an mremap that is under way */
	__u64 move_to_bytes;
	struct stratum strata[STRATA];
};

#define RARE 64 /* power of two */

struct growth_cpu {
	__u64 due;     /* the bucket of all places on this CPU */
	__u64 reserve; /* the same again, for processes that seldom fault */
	struct {
		__u64 process, due;
	} rare[RARE]; /* their buckets */
};

struct event_run {
	struct event e;
	struct run run;
};

struct event_range {
	struct event e;
	__u64 start, bytes;
	__u64 ns;
	__u64 to, to_bytes; /* EVENT_MOVE_END: where it is now (0: it failed) */
};

/* ---- native ------------------------------------------------------------------------ */

enum {
	COUNT_ALLOCS = COUNT_OWN, /* blocks given out, to the library that is wanted */
	COUNT_FREES,		  /* of blocks that had been noted */
	COUNT_BEFORE,	    /* blocks from before the attach that were freed or made smaller ... */
	COUNT_BEFORE_BYTES, /* ... and what was given back so */
	COUNT_UNDRAWN,	    /* freed blocks that had not been drawn, or were not wanted */
	COUNT_MISSED_FREES, /* an address was given out twice: its free was not seen */
	COUNT_FULL_BYTES,   /* blocks that there was no room for, bytes */
	COUNT_FAILED,	    /* calls that returned no block */
};

enum native_kind {		   /* lower half of a probe's cookie; the upper is its number */
		   NATIVE_ALLOC,   /* returns the block */
		   NATIVE_ARRAY,   /* the same, arguments 0 and 1 are to be multiplied */
		   NATIVE_ALIGNED, /* the same, argument 1 is the size */
		   NATIVE_REALLOC, /* argument 0 is the old block, 1 the size */
		   NATIVE_OUT,	   /* argument 0 is where the block goes, 2 the size */
};

#define NATIVE_RANGES	 8
#define NATIVE_FUNCTIONS 16 /* power of two */
#define NATIVE_LOOK	 16 /* native frames in which the library that allocates is looked for */

/* A block that is held. Key: its address. */
struct native_block {
	__u64 stack, process;
	__u64 bytes;  /* that it stands for; without: */
	__u64 before; /* bytes that it had before the attach, and was moved with */
	__u64 blocks; /* that it stands for, in 1/256 */
	__u32 tid;
	__u32 epoch; /* see native_control */
};

/* The call that a thread is in. Key: its id. */
struct native_call {
	__u64 sp;	    /* where its return address is; 0: none */
	__u64 block, bytes; /* what it was called with: old block or place for the new, size */
	__u64 before;	    /* bytes of the old block from before the attach */
	__u32 kind, number; /* enum native_kind */
	__u64 was_at;	    /* the old block had been noted, and this is what it was */
	struct native_block was;
};

struct native_control {
	__u64 live;	/* blocks noted */
	__u64 capacity; /* that there is room for */
	__u64 unit;	/* smaller ones are drawn, 0: all are noted */
	__u64 unit_top; /* the highest that it has been */
	__u32 epoch;	/* blocks of earlier ones do not count */
	__u32 chunks;	/* glibc: a block's size is in front of it */
	__u32 n_through, n_wanted;
	struct code_area server;		 /* code of the file that serves malloc */
	struct code_area through[NATIVE_RANGES]; /* code that allocates for others */
	struct code_area wanted[NATIVE_RANGES];	 /* the one library, none: all */
	__u64 functions[NATIVE_FUNCTIONS];	 /* by number: address of the probe ... */
	__u64 cookies[NATIVE_FUNCTIONS];	 /* ... and its cookie, for kernels without */
};

/* ---- cpu --------------------------------------------------------------------------- */

/* What a thread was doing, from what the VM keeps about its schedulers. */
enum thread_state {
	STATE_OTHER,	 /* no scheduler, or not known */
	STATE_WAITING,	 /* for work: asleep, or on the processor and spinning (busy wait) */
	STATE_SCHEDULER, /* neither process nor port: scheduling, polling, aux work, timers */
	STATE_PROCESS,	 /* Erlang code and BIFs */
	STATE_GC,
	STATE_NIF,
	STATE_PORT, /* a driver */
	STATE_N
};

struct event_sample {
	struct event e;
	__u64 stack, process;
	__u64 ns;
	__u64 reds;  /* that the process had used up when it was scheduled in */
	__u32 state; /* enum thread_state */
	__u32 pad;
};

/* ---- sched ------------------------------------------------------------------------- */

enum sched_class {
	SCHED_RUNNING,	 /* on a processor */
	SCHED_PREEMPTED, /* wants one */
	SCHED_BLOCKED,	 /* asleep, and not because there is no work */
	SCHED_IDLE,	 /* a scheduler that waits for work, asleep or preempted */
	SCHED_N
};

/* Of one thread. Key: its id, as the initial pid namespace has it. */
struct sched_thread {
	__u64 since; /* it has been in this class; ns */
	__u64 exec;  /* sum_exec_runtime when it was switched last, 0: not known */
	__u64 ns[SCHED_N];
	__u64 switches; /* off the processor */
	__u32 class;	/* enum sched_class */
	__u32 away;	/* its class when it gave the processor away last */
	/* a normal scheduler: the process that it left the processor with, 0 if none */
	__u64 process, reds;
};

/* A scheduler was off the processor for that long, with a process scheduled in: to
 * whoever tells long schedules, as good as a sample at either end. */
#define SCHED_AWAY_MIN_NS 10000000ULL

struct event_sched_away {
	struct event e;
	__u64 process, reds;
	__u64 from, to;
};

struct event_sched_end { /* a thread has ended */
	struct event e;
	struct sched_thread t;
};

/* ---- offcpu ------------------------------------------------------------------------ */

enum {
	COUNT_OFF_SHORT = COUNT_OWN, /* blocked for less than the minimum ... */
	COUNT_OFF_SHORT_NS,	     /* ... and their time */
	COUNT_OFF_IDLE,		     /* schedulers without work */
	COUNT_OFF_IDLE_NS
};

/* Of one thread that is off the processor, or was last. Key: its id. */
struct offcpu_thread {
	__u64 since; /* 0: it is on one */
	__u64 exec;  /* sum_exec_runtime when it left */
	__u64 stack; /* 0: none was taken */
	__u64 process;
	__u32 idle; /* a scheduler without work */
	__u32 pad;
};

struct event_offcpu {
	struct event e;
	__u64 stack, process;
	__u64 ns; /* weight: of thinned ones a multiple */
};

/* ---- sets at uprobes that are hit often (bpf/place.bpf.h) ---------------------------- */

/* A bucket lets `burst` stacks through at once and then one every `interval` ns. */
struct place_limits {
	__u64 place_interval, place_burst; /* of one place in one process */
	__u64 cpu_interval, cpu_burst;	   /* of all places on one CPU */
};

#define LOG2_BUCKETS 40 /* of times: bucket n holds 2^n to 2^(n+1) - 1 ns, the last all above */

/* ---- gc ------------------------------------------------------------------------------ */

/* Offsets and constants of this VM, and what counts as long and large. */
struct gc_config {
	__u32 proc_flags, proc_state, proc_gen_gcs, proc_max_gen_gcs;
	__u32 proc_heap_sz, proc_old_heap, proc_old_hend;
	__u32 sched_gc_info; /* of ErtsSchedulerData: {reclaimed, collections} */
	__u64 f_need_fullsweep, f_force_gc, psflg_exiting;
	__u64 dirty_info; /* address of the same pair of all dirty schedulers; 0: not known */
	__u64 long_ms, large_words;
};

/* Collections of one process. Words as the VM counts them. */
struct gc_sum {
	__u64 minor, major; /* that were done */
	__u64 escalated;    /* minor ones that were begun and gave way to a major one */
	__u64 dirty;	    /* of those that were done, on a dirty scheduler */
	__u64 delayed;	    /* calls that did not collect */
	__u64 killed;	    /* of those, the process had reached its max_heap_size */
	__u64 ns, ns_max;
	__u64 reclaimed;	 /* words given back ... */
	__u64 unknown;		 /* ... by all but so many, of which it cannot be told */
	__u64 heap_before, heap; /* words, both generations, before and after the last one */
	__u64 heap_max;		 /* largest that a collection left */
	__u64 long_gc, large_heap;
	__u32 histogram[LOG2_BUCKETS]; /* of ns */
};

struct gc_owner {
	__u64 stack, process; /* both 0: no stack was taken */
};

struct gc_weight {
	__u64 count, ns;
};

/* ---- carriers ------------------------------------------------------------------------ */

enum carrier_cookie { /* what a probe's function is */
		      CARRIER_CALL_MSEG_ALLOC,
		      CARRIER_CALL_MSEG_REALLOC,
		      CARRIER_CALL_MSEG_DEALLOC,
		      CARRIER_CALL_SYS_ALLOC,
		      CARRIER_CALL_SYS_REALLOC,
		      CARRIER_CALL_SYS_DEALLOC,
		      CARRIER_CALL_BY_NUMBER = 8, /* its first argument is the allocator's number */
		      CARRIER_CALL_BY_CALLER = 16, /* see struct vm_carrier_functions */
};

struct carrier_config {
	__u32 alloc_no; /* offset in Allctr_t */
	__u32 pad;
	__u64 mseg_2pow; /* flag of mseg_alloc: a multiblock carrier */
};

#define CARRIER_CALL_MASK 7

#define CARRIER_ALLOCS 16 /* allocators, a power of two */
/* By allocator, whether by sys_alloc (else mseg), whether for a single block. */
#define CARRIER_SUMS (CARRIER_ALLOCS * 4)

struct carrier_sum {
	__u64 created, created_bytes;
	__u64 destroyed, destroyed_bytes;
	__u64 older, older_bytes; /* of those, created before we came */
	__u64 resized, grown_bytes, shrunk_bytes;
	__u64 failed, failed_resizes;
	__u64 untracked;	  /* created, with no room to follow them */
	__u32 life[LOG2_BUCKETS]; /* ns from creation to destruction */
};

struct carrier_owner {
	__u64 stack, process; /* stack 0: none was taken */
	__u32 tid;	      /* 0 if process is set */
	__u32 pad;
};

struct carrier_weight {
	__u64 created, created_bytes; /* growth of a carrier counts as created bytes */
	__u64 destroyed, destroyed_bytes;
};

#endif
