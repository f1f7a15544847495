/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Links and monitors of a process (erl_monitor_link.h).
 *
 *	common.u.alive.links        tree    of ErtsLink
 *	common.u.alive.monitors     tree    of monitors it made, and of named ones of it
 *	common.u.alive.lt_monitors  circle  of monitors others made of it
 *
 * All three are made of the same node, ErtsMonLnkNode. A tree's node has its
 * parent, with the tree's colours in the low bits: a child whose parent is not the
 * node we came from is a torn read. Up to 23 a link, and in all releases a
 * monitor, is one allocation that both sides share, so each counts its size
 * divided by the references (erts_link_size(), erts_monitor_size()).
 */
#include <errno.h>

#include "erts/process_private.h"

#define DEPTH_MAX   128 /* a red-black tree of 2^64 nodes is 128 deep */
#define NODE_MAX    64
#define PARENT_MASK 7ull

struct node {
	uint64_t addr, parent, left, right, next, item;
	uint64_t offset, flags, type;
};

static int node_read(struct vm *vm, uint64_t addr, struct node *n)
{
	const struct layout *l = vm->layout;
	unsigned char copy[NODE_MAX];
	size_t size = l->size_ErtsMonLnkNode;
	int ret;

	if (!pointer_plausible(addr))
		return -EAGAIN;
	if (!size || size > sizeof(copy))
		return -ENOTSUP;
	ret = vm_read(vm, addr, copy, size);
	if (ret)
		return ret == -EFAULT || ret == -ENODATA ? -EAGAIN : ret;
	n->addr = addr;
	n->type = 0;
	if (!vm_field(copy, size, l->ErtsMonLnkNode__node_tree_parent, &n->parent) ||
	    !vm_field(copy, size, l->ErtsMonLnkNode__node_tree_left, &n->left) ||
	    !vm_field(copy, size, l->ErtsMonLnkNode__node_tree_right, &n->right) ||
	    !vm_field(copy, size, l->ErtsMonLnkNode__node_list_next, &n->next) ||
	    !vm_field(copy, size, l->ErtsMonLnkNode__other_item, &n->item) ||
	    !vm_field(copy, size, l->ErtsMonLnkNode__offset, &n->offset) ||
	    !vm_field(copy, size, l->ErtsMonLnkNode__flags, &n->flags))
		return -ENOTSUP;
	/* From 28 on the type is in the flags. */
	if (!vm_field(copy, size, l->ErtsMonLnkNode__type, &n->type)) {
		if (!layout_has_const(l->ml_type_mask) || !layout_has_const(l->ml_type_shift))
			return -ENOTSUP;
		n->type = (n->flags & (uint64_t)l->ml_type_mask) >> l->ml_type_shift;
	}
	n->parent &= ~PARENT_MASK;
	return 0;
}

static bool type_is(const struct node *n, int64_t type)
{
	return layout_has_const(type) && n->type == (uint64_t)type;
}

int walk_term_words(struct vm *vm, uint64_t term, uint64_t *words)
{
	uint64_t header;

	if ((term & 3) != 2) /* not boxed: an immediate */
		return 0;
	if (vm_read_u64(vm, term & ~7ull, &header) || (header & 3) || header >> 6 > 64)
		return -EAGAIN;
	*words += (header >> 6) + 1;
	return 0;
}

/* Size of what `refc` references share. */
static int shared(struct process_walk *w, uint64_t size, uint64_t base, struct layout_field refc)
{
	uint64_t n;

	if (vm_read_field(w->vm, base, refc, &n) || !n || n > 16)
		return -EAGAIN;
	w->bytes += size / n;
	return 0;
}

static int link_add(struct process_walk *w, const struct node *n)
{
	const struct layout *l = w->vm->layout;
	uint64_t data = n->addr - n->offset, unlinking = 0, header;
	bool extended = layout_flag(n->flags, l->ml_flg_extended);

	if (extended) {
		if (!layout_has(l->ErtsELink__heap) ||
		    vm_read_u64(w->vm, data + (uint64_t)l->ErtsELink__heap.offset, &header) ||
		    header >> 6 > 64)
			return -EAGAIN;
		if (layout_has(l->ErtsELink__unlinking) &&
		    vm_read_field(w->vm, data, l->ErtsELink__unlinking, &unlinking))
			return -EAGAIN;
		w->info->links += !unlinking;
		return shared(w, l->size_ErtsELink + 8 * (header >> 6), data,
			      l->ErtsLinkData__refc);
	}
	if (!layout_has(l->ErtsILink__unlinking)) { /* 23 */
		w->info->links++;
		return shared(w, l->size_ErtsLinkData, data, l->ErtsLinkData__refc);
	}
	if (vm_read_field(w->vm, n->addr, l->ErtsILink__unlinking, &unlinking))
		return -EAGAIN;
	w->info->links += !unlinking;
	w->bytes += l->size_ErtsMonLnkNode;
	return 0;
}

static int monitor_size(struct process_walk *w, const struct node *n, uint64_t *size)
{
	const struct layout *l = w->vm->layout;
	const uint64_t data = n->addr - n->offset;
	const struct layout_field item = l->ErtsMonLnkNode__other_item;
	uint64_t words = 0, term;
	struct node origin;
	int ret;

	/* The type that decides is the origin's, which the other half shares; an
	 * alias has one half only. */
	ret = node_read(w->vm, data + (uint64_t)l->ErtsMonitorData__origin.offset, &origin);
	if (ret)
		return ret;
	if (type_is(&origin, l->mon_type_alias)) {
		*size = l->size_ErtsMonitorData;
		return 0;
	}
	if (type_is(&origin, l->mon_type_suspend)) {
		*size = l->size_ErtsMonitorSuspend;
		return 0;
	}
	if (!layout_flag(n->flags, l->ml_flg_extended)) {
		*size = l->size_ErtsMonitorDataHeap;
		return 0;
	}
	if (!type_is(n, l->mon_type_node) && !type_is(n, l->mon_type_nodes)) {
		if (vm_read_field(w->vm, data, l->ErtsMonitorData__ref, &term) ||
		    walk_term_words(w->vm, term, &words))
			return -EAGAIN;
		if ((type_is(n, l->mon_type_dist_proc) || type_is(n, l->mon_type_dist_port)) &&
		    (walk_term_words(w->vm, origin.item, &words) ||
		     vm_read_field(w->vm, data + (uint64_t)l->ErtsMonitorData__target.offset, item,
				   &term) ||
		     walk_term_words(w->vm, term, &words)))
			return -EAGAIN;
	}
	*size = l->size_ErtsMonitorDataExtended + 8 * words - 8;
	return 0;
}

static int monitor_add(struct process_walk *w, const struct node *n)
{
	const struct layout *l = w->vm->layout;
	bool other = type_is(n, l->mon_type_proc) || type_is(n, l->mon_type_port) ||
		     type_is(n, l->mon_type_dist_proc) || type_is(n, l->mon_type_dist_port);
	uint64_t size;
	int ret = monitor_size(w, n, &size);

	if (ret)
		return ret;
	if (layout_flag(n->flags, l->ml_flg_target))
		w->info->monitored_by += other || type_is(n, l->mon_type_resource);
	else if (!layout_flag(n->flags, l->ml_flg_spawn_pending))
		w->info->monitors += other || type_is(n, l->mon_type_time_offset);
	return shared(w, size, n->addr - n->offset, l->ErtsMonitorData__refc);
}

typedef int (*add_fn)(struct process_walk *w, const struct node *n);

static int walk_tree(struct process_walk *w, uint64_t root, add_fn add)
{
	struct {
		uint64_t addr, parent;
	} stack[DEPTH_MAX];
	unsigned depth = 0;
	uint64_t seen = 0;
	struct node n;
	int ret;

	if (!root)
		return 0;
	stack[depth].addr = root;
	stack[depth++].parent = 0;
	while (depth) {
		uint64_t addr = stack[--depth].addr, parent = stack[depth].parent;

		ret = node_read(w->vm, addr, &n);
		if (!ret && (n.parent != parent || ++seen > LIST_MAX || depth + 2 > DEPTH_MAX))
			ret = -EAGAIN;
		if (!ret)
			ret = add(w, &n);
		if (ret)
			return ret;
		if (n.left) {
			stack[depth].addr = n.left;
			stack[depth++].parent = addr;
		}
		if (n.right) {
			stack[depth].addr = n.right;
			stack[depth++].parent = addr;
		}
	}
	return 0;
}

static int walk_circle(struct process_walk *w, uint64_t first, add_fn add)
{
	struct cycle_guard guard = { 0 };
	uint64_t at = first;
	struct node n;
	int ret;

	while (at) {
		if (cycle_found(&guard, at))
			return -EAGAIN;
		ret = node_read(w->vm, at, &n);
		if (!ret)
			ret = add(w, &n);
		if (ret)
			return ret;
		at = n.next == first ? 0 : n.next;
	}
	return 0;
}

int walk_links(struct process_walk *w)
{
	const struct layout *l = w->vm->layout;
	int ret;

	w->info->links = w->info->monitors = w->info->monitored_by = 0;
	/* What exits uses the place for something else. */
	if (layout_flag(w->info->p.state, l->psflg_exiting))
		return 0;
	ret = walk_tree(w, walk_field(w, l->Process__common_u_alive_links), link_add);
	if (!ret)
		ret = walk_tree(w, walk_field(w, l->Process__common_u_alive_monitors), monitor_add);
	if (!ret)
		ret = walk_circle(w, walk_field(w, l->Process__common_u_alive_lt_monitors),
				  monitor_add);
	return ret;
}
