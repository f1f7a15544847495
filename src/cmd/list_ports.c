/* SPDX-License-Identifier: Apache-2.0 */
/* beamray list ports: the node's ends of sockets, files and programs. */
#include "cmd/list.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "erts/port.h"
#include "erts/process.h"
#include "target/escape.h"

enum {
	PORT,
	NAME,
	QUEUE,
	INPUT,
	OUTPUT,
	LABEL,
	FD,
	OS_PID,
	CONNECTED,
	DRIVER,
	FILE_,
	FD_OUT,
	REGISTERED,
	REDUCTIONS,
	CLOSING,
	N_COLUMNS
};

static const struct column columns[] = {
	[PORT] = { .key = "port",
		   .header = "PORT",
		   .kind = COLUMN_TEXT,
		   .width = 13,
		   .fixed = true },
	[NAME] = { .key = "name", .header = "NAME", .kind = COLUMN_TEXT, .width = 14 },
	[QUEUE] = { .key = "queue_size", .header = "QUEUE", .kind = COLUMN_BYTES },
	[INPUT] = { .key = "input", .header = "INPUT", .kind = COLUMN_BYTES },
	[OUTPUT] = { .key = "output", .header = "OUTPUT", .kind = COLUMN_BYTES },
	[LABEL] = { .key = "connected_name", .header = "OWNER", .kind = COLUMN_TEXT, .width = 12 },
	[FD] = { .key = "fd", .header = "FD", .kind = COLUMN_COUNT, .width = 4 },
	[OS_PID] = { .key = "os_pid", .header = "OS PID", .kind = COLUMN_COUNT, .width = 7 },
	[CONNECTED] = { .key = "connected",
			.header = "PID",
			.kind = COLUMN_TEXT,
			.width = 10,
			.fixed = true },
	[DRIVER] = { .key = "driver", .header = "DRIVER", .kind = COLUMN_TEXT, .width = 10 },
	[FILE_] = { .key = "fd_file", .header = "FILE", .kind = COLUMN_TEXT, .width = 18 },
	[FD_OUT] = { .key = "fd_output", .kind = COLUMN_COUNT },
	[REGISTERED] = { .key = "registered_name",
			 .header = "REGISTERED",
			 .kind = COLUMN_TEXT,
			 .width = 12 },
	[REDUCTIONS] = { .key = "reductions", .kind = COLUMN_COUNT },
	[CLOSING] = { .key = "closing", .kind = COLUMN_FLAG },
};

/* What the descriptor is, by the kernel: "socket:[1234]", a path. */
static void file_text(struct vm *vm, int fd, char *buf, size_t size)
{
	char link[64], raw[512];
	ssize_t len;

	buf[0] = '\0';
	if (target_is_buffers(vm->target) || fd < 0)
		return;
	snprintf(link, sizeof(link), "/proc/%d/fd/%d", (int)target_pid(vm->target), fd);
	len = readlink(link, raw, sizeof(raw));
	if (len > 0)
		escape_text(buf, size, raw, (size_t)len);
}

static void row_fill(struct vm *vm, struct table *t, const struct port *p)
{
	char text[PROCESS_LABEL_MAX];
	int fd = p->fd_in >= 0 ? p->fd_in : p->fd_out;

	snprintf(text, sizeof(text), "#Port<0.%llu>", (unsigned long long)p->number);
	table_text(t, PORT, text);
	table_text(t, NAME, p->name);
	table_text(t, DRIVER, p->driver[0] ? p->driver : NULL);
	table_set(t, QUEUE, p->queue_size);
	table_set(t, INPUT, p->input);
	table_set(t, OUTPUT, p->output);
	table_set(t, OS_PID, p->os_pid);
	if (fd >= 0)
		table_set(t, FD, (uint64_t)fd);
	if (p->fd_out >= 0)
		table_set(t, FD_OUT, (uint64_t)p->fd_out);
	file_text(vm, fd, text, sizeof(text));
	table_text(t, FILE_, text[0] ? text : NULL);
	if (p->connected) {
		process_pid_label(vm, p->connected, text, sizeof(text));
		table_text(t, LABEL, text);
		if (process_pid_text(vm, p->connected, text, sizeof(text)))
			table_text(t, CONNECTED, text);
	}
	if (p->registered_name && vm_atom(vm, p->registered_name >> 6, text, sizeof(text)) >= 0)
		table_text(t, REGISTERED, text);
	table_set(t, REDUCTIONS, p->reductions);
	table_set(t, CLOSING, p->closing);
}

static int collect(struct list_run *run, struct error *err)
{
	struct vm *vm = run->observer->vm;
	struct listing *l = run->listing;
	struct table *t = listing_table(l, "rows", columns, N_COLUMNS);
	uint64_t queued = 0, in = 0, out = 0;
	struct ports *p;
	size_t i;
	int ret;

	if (!t)
		return -ENOMEM;
	ret = ports_read(vm, &p, err);
	if (ret < 0)
		return ret;
	for (i = 0; i < p->n && !table_row(t); i++) {
		row_fill(vm, t, &p->v[i]);
		queued += p->v[i].queue_size;
		in += p->v[i].input;
		out += p->v[i].output;
	}
	listing_fact(l, "ports", "ports", COLUMN_COUNT, p->n);
	listing_fact(l, "port_limit", "limit", COLUMN_COUNT, p->limit);
	listing_fact(l, "queue_size", "queued", COLUMN_BYTES, queued);
	listing_fact(l, "input", "input", COLUMN_BYTES, in);
	listing_fact(l, "output", "output", COLUMN_BYTES, out);
	l->torn += p->torn;
	listing_missing(l, p->torn, p->n + p->torn);
	ports_free(p);
	return 0;
}

const struct list_what list_ports = {
	.name = "ports",
	.summary = "ports: driver, owner, bytes, queue, descriptor",
	.sort = "queue_size",
	.collect = collect,
};
