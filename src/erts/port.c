/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Ports
 *
 *   erts_port (ErtsPTab)     Port                          erts_driver_t
 *   | tab[max] ---------->   | common.id    port term |    | name     |
 *                            | connected    pid       |    | handle   |
 *                            | name         char *    |
 *                            | bytes_in, bytes_out    |
 *                            | ioq.size     queue     |
 *                            | drv_ptr ------------------> |
 *                            | drv_data ----------------> the driver's own
 *
 * The table is the processes' (process.c); a port term is data << 4 | 0x7, printed
 * as #Port<0.DATA> (28 bits up to 25). erlang:port_info/2
 * reads what stands here (erl_bif_info.c, erts_bld_port_info()).
 *
 * Which file descriptor a port has is the driver's private matter, so it is
 * believed only where the driver's data proves what it is:
 *
 *   tcp_inet, udp_inet, sctp_inet  {int s, long event, long mask, Port *, term}
 *                                  (inet_drv.c, inet_descriptor, 23 to 29): the
 *                                  last two must be this port's, event be s
 *   spawn, fd, vanilla, forker     {Port *, ofd *, ifd *} with the two structs
 *                                  right behind it, each beginning with its fd
 *                                  (sys_drivers.c, ErtsSysDriverData)
 */
#include "erts/port.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "erts/ptab.h"
#include "erts/term.h"
#include "target/escape.h"

#define COPY_MAX 4096 /* more than sizeof(Port) on any release */
#define FD_MAX	 (1 << 26)

/* ERTS_PORT_SFLG_* (erl_port.h), equal from 23 to 29. */
#define SFLG_EXITING	  (1u << 1)
#define SFLG_CLOSING	  (1u << 5)
#define SFLG_FREE	  (1u << 8)
#define SFLG_INITIALIZING (1u << 9)

static uint64_t number_of(const struct vm *vm, const struct ptab *t, uint64_t id)
{
	uint64_t data = ptab_data(vm, t, id);

	/* up to 25 the upper half of the term is the slot (erts_ptab_make_id()) */
	return ptab_scrambles(vm) ? data : data & 0xfffffff;
}

bool port_text(struct vm *vm, uint64_t port, char *buf, size_t size)
{
	struct ptab t = { 0 };

	if (size)
		buf[0] = '\0';
	if (!term_is_port(port) || (ptab_read(vm, A_PORT, &t)))
		return false;
	snprintf(buf, size, "#Port<0.%" PRIu64 ">", number_of(vm, &t, port));
	return true;
}

static void string_read(struct vm *vm, uint64_t addr, char *buf, size_t size)
{
	char raw[1024];
	ssize_t len = addr ? vm_read_string(vm, addr, raw, sizeof(raw)) : -EFAULT;

	if (len == -ENAMETOOLONG)
		len = sizeof(raw) - 1;
	if (len >= 0)
		escape_text(buf, size, raw, (size_t)len);
	else
		buf[0] = '\0';
}

static int fd_good(int32_t fd)
{
	return fd >= 0 && fd < FD_MAX ? fd : -1;
}

/* The descriptors, where the driver's data is what it should be. */
static void fds_read(struct vm *vm, struct port *p, uint64_t data)
{
	uint64_t words[5], ofd, ifd;
	int32_t fd;

	if (!data || data & 7 || vm_read(vm, data, words, sizeof(words)))
		return;
	if (words[3] == p->addr && words[4] == p->id) {
		if ((int32_t)words[0] == (int64_t)words[1])
			p->fd_in = p->fd_out = fd_good((int32_t)words[0]);
		return;
	}
	ofd = words[1];
	ifd = words[2];
	if (words[0] != p->addr || (ofd && ofd - data > 512) || (ifd && ifd - data > 512))
		return;
	if (ofd && !vm_read(vm, ofd, &fd, 4))
		p->fd_out = fd_good(fd);
	if (ifd && !vm_read(vm, ifd, &fd, 4))
		p->fd_in = fd_good(fd);
}

/* 0; -EAGAIN when what is there is not, or no more, a port of that slot. */
static int port_read(struct vm *vm, const struct ptab *t, uint64_t addr, uint64_t slot,
		     struct port *p)
{
	const struct layout *l = vm->layout;
	const size_t size = l->size_Port;
	unsigned char copy[COPY_MAX];
	uint64_t state, name, driver, data, reg = 0, value;
	int ret = vm_read(vm, addr, copy, size);

	memset(p, 0, sizeof(*p));
	p->addr = addr;
	p->fd_in = p->fd_out = -1;
	p->os_pid = UINT64_MAX;
	if (ret)
		return vm_fatal(ret) ? ret : -EAGAIN;
	if (!vm_field(copy, size, l->Port__common_id, &p->id) ||
	    !vm_field(copy, size, l->Port__state, &state) ||
	    !vm_field(copy, size, l->Port__connected, &p->connected) ||
	    !vm_field(copy, size, l->Port__bytes_in, &p->input) ||
	    !vm_field(copy, size, l->Port__bytes_out, &p->output) ||
	    !vm_field(copy, size, l->Port__ioq_size, &p->queue_size) ||
	    !vm_field(copy, size, l->Port__name, &name) ||
	    !vm_field(copy, size, l->Port__drv_ptr, &driver) ||
	    !vm_field(copy, size, l->Port__drv_data, &data))
		return -ENOENT;
	if (!term_is_port(p->id) || ptab_slot(vm, t, p->id) != slot ||
	    state & (SFLG_FREE | SFLG_INITIALIZING))
		return -EAGAIN;
	p->number = number_of(vm, t, p->id);
	p->closing = state & (SFLG_EXITING | SFLG_CLOSING);
	if (!term_is_pid(p->connected))
		p->connected = 0;
	if (vm_field(copy, size, l->Port__os_pid, &value) && (int64_t)value > 0 && value < 1u << 30)
		p->os_pid = value;
	if (vm_field(copy, size, l->Port__reds, &value))
		p->reductions = value;
	vm_field(copy, size, l->Port__common_u_alive_reg, &reg);
	if (reg && !p->closing && !vm_read_field(vm, reg, l->RegProc__name, &value) &&
	    term_is_atom(value))
		p->registered_name = value;
	string_read(vm, name, p->name, sizeof(p->name));
	if (!vm_read_field(vm, driver, l->erts_driver_t__name, &value))
		string_read(vm, value, p->driver, sizeof(p->driver));
	fds_read(vm, p, data);
	/* It may have gone, and its memory be another's, while the rest was read. */
	ret = vm_read_field(vm, addr, l->Port__common_id, &value);
	if (ret || value != p->id)
		return vm_fatal(ret) ? ret : -EAGAIN;
	return 0;
}

static int slots_add(struct vm *vm, const struct ptab *t, const uint64_t *slots, uint64_t first,
		     size_t n, struct ports *p, size_t *allocated)
{
	size_t i;

	for (i = 0; i < n; i++) {
		uint64_t now = 0;
		int ret;

		if (!slots[i] || slots[i] == t->invalid)
			continue;
		if (p->n == *allocated) {
			size_t more = *allocated ? *allocated * 2 : 64;
			struct port *v = realloc(p->v, more * sizeof(*v));

			if (!v)
				return -ENOMEM;
			p->v = v;
			*allocated = more;
		}
		ret = port_read(vm, t, slots[i], first + i, &p->v[p->n]);
		if (ret == -EAGAIN) {
			/* One that has gone since is no gap. */
			if (!vm_read_u64(vm, t->tab + 8 * (first + i), &now) && now == slots[i])
				p->torn++;
			continue;
		}
		if (ret)
			return ret;
		p->n++;
	}
	return 0;
}

int ports_read(struct vm *vm, struct ports **out, struct error *err)
{
	enum { CHUNK = 8192 };
	const struct layout *l = vm->layout;
	struct ports *p = NULL;
	uint64_t *slots = NULL, first;
	size_t allocated = 0;
	struct ptab t;
	int ret = ptab_read(vm, A_PORT, &t);

	*out = NULL;
	if (!ret && (!l->size_Port || l->size_Port > COPY_MAX))
		ret = -ENOENT;
	if (ret)
		return error_set(err, ret == -ENOENT ? EXIT_UNSUPPORTED : error_exit_code(ret), ret,
				 "The port table of this VM could not be found or read.");
	p = calloc(1, sizeof(*p));
	slots = malloc(CHUNK * sizeof(*slots));
	ret = p && slots ? 0 : -ENOMEM;
	if (!ret)
		p->limit = t.max;
	for (first = 0; !ret && first < t.max; first += CHUNK) {
		size_t n = t.max - first < CHUNK ? (size_t)(t.max - first) : CHUNK;

		ret = vm_read(vm, t.tab + 8 * first, slots, n * sizeof(*slots));
		if (!ret)
			ret = slots_add(vm, &t, slots, first, n, p, &allocated);
		else if (ret == -ENODATA) /* never written to: empty */
			ret = 0;
	}
	free(slots);
	if (ret) {
		ports_free(p);
		return error_set(err, error_exit_code(ret), ret,
				 "The port table could not be read: %s.", strerror(-ret));
	}
	*out = p;
	return 0;
}

void ports_free(struct ports *p)
{
	if (!p)
		return;
	free(p->v);
	free(p);
}
