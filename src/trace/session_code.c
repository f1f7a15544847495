// SPDX-License-Identifier: Apache-2.0
/*
 * When code is looked at again.
 *
 * New libraries announce themselves by an executable mapping, if growth is traced, and by
 * stacks that run into a module that is not known.
 *
 * Erlang code does not: the JIT writes into a mapping that is there, the emulator into
 * ordinary memory. So its list is looked at again and again: ten times a second on a small
 * node, once on one with thousands of modules. Between two such looks code may come and go.
 * But a word of the VM's changes as code is loaded (code_watch()), and the programs look at
 * it with every stack (bpf/unwind.bpf.h): what a stack may have been taken in wakes us up.
 *
 *	load A        load B    purge A        load C
 *	 |  stack      |         |              | stack
 *	 |  |          |         |              | |
 *	----+-look---------------------look-------+-look----
 *
 * So what a stack was taken in is known if it stays until we are there, which takes a
 * millisecond or so, and longer on a machine that is too busy, or where looks would cost
 * more than one in SOON_SHARE of a core. The VM keeps code for longer than that as a rule:
 * until code of the same name has been loaded twice more, or it is purged on request. What
 * goes sooner has no name; or, if other code took its very place before we came, that one's
 * (code_replaced() tells only what was seen). What no stack was taken in needs no name.
 */
#include "trace/session_int.h"

#include <errno.h>
#include <time.h>

#include <bpf/libbpf.h>

#include "erts/vm.h"

#define REFRESH_NS 200000000ULL /* from "native code has come" to reading what */
/* Between two looks at the list: as often as costs so much of a core, one in so many, but
 * not less often than every REST_MAX_NS, nor without cause more often than REST_MIN_NS.
 * What is new has to be read once anyway, and has cost the VM more. */
#define REST_SHARE  500
#define SOON_SHARE  200 /* when code has been loaded */
#define NEWS_SHARE  10
#define REST_MIN_NS 100000000ULL
#define REST_MAX_NS 1000000000ULL

uint64_t session_cpu_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ULL + (uint64_t)ts.tv_nsec;
}

static int on_wake(void *ctx, void *data, size_t size)
{
	struct session_code *c = ctx;

	(void)data;
	(void)size;
	c->due = true;
	return 0;
}

int session_code_open(struct session *s, int wakes_fd)
{
	s->looks.wakes = ring_buffer__new(wakes_fd, on_wake, &s->looks, NULL);
	return s->looks.wakes ? 0 : -errno;
}

void session_code_close(struct session *s)
{
	ring_buffer__free(s->looks.wakes);
	s->looks.wakes = NULL;
}

void session_code_native(struct session *s)
{
	if (!s->looks.native_came)
		s->looks.native_came = session_now_ns();
}

/* How long after the last look the next one may be. */
static uint64_t pause_ns(const struct session_code *c)
{
	uint64_t ns = c->list_ns * (c->due ? SOON_SHARE : REST_SHARE) + c->news_ns * NEWS_SHARE;

	if (ns > REST_MAX_NS)
		return REST_MAX_NS;
	return c->due || ns > REST_MIN_NS ? ns : REST_MIN_NS;
}

/* Returns how many modules came or went, or a negative errno. */
static int list_look(struct session *s)
{
	const struct residency *res = s->vm->res;
	struct session_code *c = &s->looks;
	uint64_t cost = session_cpu_ns();
	int changed;

	s->vm->res = NULL;
	changed = code_refresh(s->code, NULL);
	s->vm->res = res;
	c->due = changed == -EAGAIN; /* it kept changing */
	cost = session_cpu_ns() - cost;
	if (changed <= 0 || !c->list_ns || cost < c->list_ns)
		c->list_ns = cost;
	c->news_ns = cost - c->list_ns;
	return changed;
}

/* Have stacks run into native code that is not known? */
static void strange_look(struct session *s)
{
	uint64_t strange = 0;

	for (unsigned i = 0; i < SET_N; i++)
		strange += s->count[i][COUNT_CUT + CUT_NO_MODULE];
	if (strange != s->looks.strange)
		session_code_native(s);
	s->looks.strange = strange;
}

void session_code_look(struct session *s)
{
	struct session_code *c = &s->looks;
	uint64_t now = session_now_ns();
	int changed = 0;

	ring_buffer__consume(c->wakes);
	if (s->code && now - c->looked_ns >= pause_ns(c)) {
		c->looked_ns = now;
		changed = list_look(s);
		strange_look(s);
	}
	if (c->native_came && now - c->native_came >= REFRESH_NS) {
		c->native_came = 0;
		session_refresh(s, NULL);
	} else if (changed > 0) {
		tables_write(&s->tables, s->vm, s->code, s->maps, s->images);
	}
}

int session_code_wake_fd(const struct session *s, uint64_t *ns)
{
	const struct session_code *c = &s->looks;
	uint64_t now = session_now_ns(), at = c->looked_ns + pause_ns(c);

	if (!c->due)
		return ring_buffer__epoll_fd(c->wakes);
	/* it is known already, and only too early */
	if (at <= now)
		*ns = 0;
	else if (at - now < *ns)
		*ns = at - now;
	return -1;
}
