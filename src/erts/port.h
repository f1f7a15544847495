/* SPDX-License-Identifier: Apache-2.0 */
/* Ports: the VM's ends of sockets, files and other programs. (port.c opens with
 * the page that explains them.) */
#ifndef BEAMRAY_ERTS_PORT_H
#define BEAMRAY_ERTS_PORT_H

#include "erts/vm.h"

#define PORT_NAME_MAX 256

struct port {
	uint64_t addr;		  /* Port in the target */
	uint64_t id;		  /* port term */
	uint64_t number;	  /* N of #Port<0.N> */
	uint64_t registered_name; /* atom term, 0: none */
	uint64_t connected;	  /* pid term of the process that is connected, 0 while it closes */
	uint64_t input, output;	  /* bytes: erlang:port_info(P, input | output) */
	uint64_t queue_size;	  /* bytes that wait in the driver's queue */
	uint64_t os_pid;	  /* of a program that it runs, UINT64_MAX: none */
	int fd_in, fd_out;	  /* what it reads from and writes to; -1: none or not known */
	uint64_t reductions;
	bool closing;
	char name[PORT_NAME_MAX]; /* port_info(P, name), escaped: a driver's or a command */
	char driver[64];	  /* name of the driver, escaped */
};

struct ports {
	struct port *v; /* by slot of the table */
	size_t n;
	uint64_t limit; /* slots */
	size_t torn;	/* slots that stayed inconsistent */
};

/* Reads the port table. Errors: -ENOENT (it was not found), -EFAULT, -ENOMEM,
 * -ESRCH, -ETIMEDOUT. */
int ports_read(struct vm *vm, struct ports **out, struct error *err);
void ports_free(struct ports *p);
/* "#Port<0.5>" for a port term; false if it is none. */
bool port_text(struct vm *vm, uint64_t port, char *buf, size_t size);

#endif
