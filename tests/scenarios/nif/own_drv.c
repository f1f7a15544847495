/*
 * A linked-in driver with memory of its own: what a port holds hangs on its
 * drv_data alone. Commands: "k" keep some, "l" lose some, "d" + file: dump. See own_c.c.
 */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>

#include <erl_driver.h>

#include "truth.h"

#define LIBRARY "own_drv.so"

struct item {
	struct item *next;
	char *bytes;
};

struct port {
	ErlDrvPort port;
	struct item *items;
	char *buffer;
};

static void *noted(size_t bytes, int lost)
{
	return truth_note(calloc(1, bytes), bytes, lost);
}

static ErlDrvData start(ErlDrvPort port, char *command)
{
	struct port *p = noted(sizeof(*p), 0);

	(void)command;
	p->port = port;
	p->buffer = noted(9000, 0);
	return (ErlDrvData)p;
}

static __attribute__((noinline)) void take(struct port *p, int lost)
{
	struct item *chain = NULL;

	for (int i = 0; i < 1000; i++) {
		struct item *item = noted(sizeof(*item), lost);

		item->next = chain;
		item->bytes = noted(250, lost);
		chain = item;
	}
	if (!lost)
		p->items = chain;
}

static ErlDrvSSizeT control(ErlDrvData data, unsigned command, char *buf, ErlDrvSizeT len,
			    char **out, ErlDrvSizeT out_len)
{
	struct port *p = (struct port *)data;
	char name[1024];

	(void)out;
	(void)out_len;
	if (command == 'd' && len < sizeof(name)) {
		memcpy(name, buf, len);
		name[len] = '\0';
		truth_dump(name, LIBRARY);
	} else if ((command == 'k' && !p->items) || command == 'l') {
		take(p, command == 'l');
		truth_wipe();
	}
	return 0;
}

static int init(void)
{
	return truth_open() ? -1 : 0;
}

static ErlDrvEntry entry = {
	.init = init,
	.start = start,
	.driver_name = "own_drv",
	.control = control,
	.extended_marker = ERL_DRV_EXTENDED_MARKER,
	.major_version = ERL_DRV_EXTENDED_MAJOR_VERSION,
	.minor_version = ERL_DRV_EXTENDED_MINOR_VERSION,
};

DRIVER_INIT(own_drv)
{
	return &entry;
}
