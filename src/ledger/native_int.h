/* SPDX-License-Identifier: Apache-2.0 */
/* What the parts of the still image share. Nobody outside src/ledger/native*.c
 * and their unit tests includes this. */
#ifndef BEAMRAY_LEDGER_NATIVE_INT_H
#define BEAMRAY_LEDGER_NATIVE_INT_H

#include "erts/block.h"
#include "erts/natives.h"
#include "ledger/native.h"

#define CHUNK_HEADER   16U /* before what malloc returned: prev_size and size */
#define NODES_MAX      (1U << 30)
#define EDGES_MIN      (4U << 20) /* always allowed; see graph_edge_room() */
#define EDGES_PER_NODE 20U
#define EDGE_IMAGE     (1U << 31) /* in edge.target: an image's index, no node's */
#define EDGE_TYPICAL   (1U << 31) /* in edge.word: carries names on */
#define EDGE_WEAK      (1U << 30) /* in edge.word: may, where nothing better does */
#define EDGE_INNER     (1U << 29) /* in edge.word: to the middle of its target */
#define EDGE_WORD      (EDGE_INNER - 1)
#define START_BYTES    128U /* of a block that count as its beginning */
#define FROM_ROOT      (UINT32_MAX - 1)
#define FROM_SEVERAL   UINT32_MAX
#define OWNER_NONE     0
#define OWNER_SEVERAL  1 /* more than one could be */
#define OWNER_FIRST    2 /* the images follow in their order, then built-in drivers */
#define OWNERS_MAX     0xffffU
#define HASHED_WORDS   32U
#define ARENA_NONE     4095U /* mmapped; glibc has no more arenas than this */

enum node_flags {
	NODE_REACHED = 1, /* by somebody, directly or not */
	NODE_BY_VM = 2,	  /* a root of the VM points to it */
	NODE_MMAP = 4,	  /* an anonymous mapping, or a part of one */
	NODE_SEED = 8,	  /* its owner does not come from a neighbour */
	NODE_LOADER = 16, /* a link map: carries nobody's name */
	NODE_LOST = 32,	  /* in both looks */
	NODE_EXCUSED = 64,
	NODE_QUEUED = 128,
	NODE_WEAK = 256,   /* its owner came over a weak edge */
	NODE_ROOTED = 512, /* the owner's own data points to it */
	NODE_FLAGS = 1023,
};

/* A piece of native memory in use that may be pointed to. 16 bytes. */
struct node {
	uint64_t addr : 48, owner : 16; /* addr: what malloc returned, or the mapping's */
	uint64_t bytes : 39, arena : 12, evidence : 3, flags : 10; /* bytes: from addr on, usable */
};

struct edge {
	uint32_t target; /* node, or EDGE_IMAGE | image */
	uint32_t word;	 /* where in the source; EDGE_TYPICAL ... */
};

struct seed {
	uint32_t node;
	uint16_t owner;
	uint8_t evidence;
	bool weak;
	uint32_t kind, place; /* NATIVE_TAG: hashes of owner and size, and of the word too */
};

struct range {
	uint64_t start, end;
};

struct range_list {
	struct range *v;
	size_t n, room;
};

/* What two passes over one picture are made of: nodes by address, and where
 * each points to. */
struct graph {
	struct node *v;
	size_t n, room;
	uint32_t *first; /* [n + 1]: edges of a node */
	uint32_t *hash;	 /* [n]: of the first words */
	uint32_t *from;	 /* [n]: node + 1 that alone points to its beginning, or FROM_... */
	struct edge *edges;
	size_t n_edges, room_edges, max_edges;
	struct seed *seeds;
	size_t n_seeds, room_seeds;
	bool edges_cut; /* too many: what the rest points to counts as reached */

	/* From an address to its page's first node, or image. */
	uint32_t *top;	/* by 64 MiB: leaf + 1, or TOP_NODE | node */
	uint32_t *leaf; /* 16384 pages each: node + 1, or EDGE_IMAGE | image */
	size_t n_leaf, room_leaf;
	uint64_t low, high; /* all nodes and images lie in between */

	/* What the walks leave to be read as roots. */
	struct range_list vm_blocks;	   /* used ERTS blocks, merged */
	struct range_list tagged;	   /* blocks that may carry a tag, one by one */
	struct range_list gaps;		   /* of the libc heap: chunks unknown */
	bool failed;			   /* out of memory in a callback */
	uint32_t term_types, tagged_types; /* bits of allocator numbers */
	uint64_t last_carrier;		   /* of graph_block(), and what was found of it */
	bool last_roots, last_tags;
};

struct owner {
	char name[96];
	enum native_class class;
	const struct image *image; /* NULL: a driver inside the VM */
	uint16_t stands_for;	   /* the one NIF that alone uses this library, or itself */
};

struct scan { /* one look's worth */
	struct observer *o;
	struct look *l;
	struct graph g;
	struct natives *natives;
	struct owner *owners; /* [n_owners], from OWNER_FIRST on by image */
	size_t n_owners;
	uint16_t vm_owner; /* beam.smp */
	bool vm_apart;	   /* what the VM allocates is in carriers, not in libc's heap */

	unsigned char *buf; /* the one window that everything is read through */
	uint64_t buf_start, buf_end, next_size;
	uint64_t gone; /* bytes */
	int fatal;

	struct system_thread *threads;
	size_t n_threads;
	uint64_t *thread_arena; /* [look.n_stacks] arena + 1 of each stack's thread; 0 unknown */
	char **notes;
	size_t n_notes;
	double cpu0;
};

void native_note(struct scan *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Adds at the end; what begins in or right behind the last one makes that longer. */
int range_add(struct range_list *r, uint64_t start, uint64_t end);
int range_add_single(struct range_list *r, uint64_t start, uint64_t end); /* never merged */

/* native_graph.c */

/* For the walks; `arg` is the graph. */
void graph_chunk(void *arg, uint64_t addr, uint64_t size, bool used, unsigned arena);
void graph_gap(void *arg, uint64_t start, uint64_t end, unsigned arena);
void graph_block(void *arg, const struct carrier *c, uint64_t addr, uint64_t size, bool used,
		 unsigned alloc_type);
int graph_node_add(struct graph *g, uint64_t addr, uint64_t bytes, unsigned arena, unsigned flags);
/* Sorts, drops what holds a carrier of `c` and what overlaps, and makes the
 * directory. `c`, `h`, `im` may be NULL. 0 or -ENOMEM. */
int graph_index(struct graph *g, const struct carriers *c, const struct libc_heap *h,
		const struct images *im);
/* The node that holds `addr`; EDGE_IMAGE | image where an image does; UINT32_MAX. */
uint32_t graph_find(const struct graph *g, uint64_t addr);
/* Whether `addr` leads to the middle of `node`. A mapping may be many. */
static inline bool graph_inner(const struct graph *g, uint32_t node, uint64_t addr)
{
	return !(g->v[node].flags & NODE_MMAP) && addr - g->v[node].addr >= START_BYTES;
}
static inline void graph_pointed(struct graph *g, uint32_t node, uint32_t from)
{
	if (!g->from[node])
		g->from[node] = from;
	else if (g->from[node] != from)
		g->from[node] = FROM_SEVERAL;
}
/* Marks everything that is reached from nodes that are. 0 or -ENOMEM. */
int graph_mark(struct graph *g);
void graph_free(struct graph *g);
uint64_t graph_bytes(const struct graph *g); /* of our memory */

/* native_read.c */

/* Calls fn for every word of [start, end) that is resident and may point to a
 * node or an image. 0 or s->fatal. */
typedef void word_fn(struct scan *s, void *arg, uint64_t at, uint64_t word, uint32_t target);
int scan_words(struct scan *s, uint64_t start, uint64_t end, word_fn *fn, void *arg);
/* A few bytes, out of the window where they are there; what is not resident is
 * zero. False when nothing of it could be read. */
bool scan_peek(struct scan *s, uint64_t addr, void *buf, size_t len);
/* The contents of all nodes: edges and hashes. */
int scan_nodes(struct scan *s);

/* native_roots.c */

int roots_scan(struct scan *s);
/* The stack pointer of the thread that has this stack, or 0; 2nd: its stack is
 * the VM's. */
bool stack_is_vm(const struct scan *s, const struct libc_stack *st);

/* native_typical.c */

struct buckets { /* nodes by size */
	uint64_t *size;
	uint32_t *count, *start;
	size_t n, room; /* room: of the table below, a power of two */
	uint32_t *slot; /* bucket + 1 */
	uint32_t *of;	/* [nodes] */
	uint32_t *order;
};

struct votes { /* place and target of an edge -> nodes of the sample that have it */
	uint64_t *key;
	uint32_t *count;
	size_t room, allocated;
	uint32_t nodes; /* of the sample */
};

struct rule {
	uint64_t from, to; /* owner and size; place, or RULE_JUDGED */
	uint32_t members;  /* RULE_JUDGED: blocks of that owner and size, then */
};

struct typical {
	struct graph *g;
	struct scan *s; /* to look at a sample of blocks again; NULL: without */
	/* Of a sample, by word: not 0; a block's beginning; that of one which nobody
	 * else points to, or which has the same owner. */
	uint32_t *filled, *pointers, *clean;
	struct buckets b;
	struct votes v[2];
	struct rule *rules;
	size_t n_rules, room_rules;
	const bool *teaches; /* [owners] all but libraries: judged by their own blocks */
	bool *changed;	     /* [buckets] one of this size got an owner since the last lesson */
	bool *news;	     /* [buckets] the last lesson brought something for this size */
	uint32_t *below;     /* [buckets] the size that is 16 bytes smaller, or n */
};

/* Sets EDGE_TYPICAL where it belongs. 0 or -ENOMEM; close in either case. */
int typical_open(struct graph *g, const bool *teaches, struct typical *t);
void typical_close(struct typical *t);
/* Whether `e` of `node` carries the node's owner on. */
enum edge_strength { EDGE_CARRIES_NOT, EDGE_CARRIES_WEAKLY, EDGE_CARRIES };
enum edge_strength typical_edge(const struct typical *t, uint32_t node, const struct edge *e);
/* Learns from the nodes whose owner teaches. 1: something new; 0; -ENOMEM. */
int typical_learn(struct typical *t);

/* native_owner.c */

int owners_make(struct scan *s);
/* Gives every node an owner and evidence, where there is one. */
int owners_spread(struct scan *s);
/* Built-in or loaded driver or NIF module by the name in a tag; OWNER_NONE. */
uint16_t owner_of_atom(struct scan *s, uint64_t atom);

/* native_report.c */

int arenas_threads(struct scan *s);
/* Signal stacks among the lost. */
void lost_excuse(struct scan *s, struct native *out);
int report_make(struct scan *s, struct native *out);

#endif
