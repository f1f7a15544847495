/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One file per command, each with one table entry; main.c finds and runs it.
 */
#ifndef BEAMRAY_CMD_COMMAND_H
#define BEAMRAY_CMD_COMMAND_H

#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/types.h>

#include "report/units.h"
#include "target/error.h"
#include "target/privileges.h"

struct command {
	const char *name;
	const char *summary; /* one line for `beamray --help` */
	const char *usage;   /* the whole text of `beamray NAME --help` */
	unsigned privileges; /* of enum privilege: others are given up at once; 0: none is */
	/* argv[0] is the command's name. Returns the exit code. */
	int (*run)(int argc, char **argv);
};

extern const struct command cmd_memory, cmd_check, cmd_doctor, cmd_record, cmd_report, cmd_diff,
	cmd_list;

/* What every command understands; a command's own options come through `own`. */
struct options {
	pid_t pid; /* 0: not given */
	double duration_s, interval_s;
	unsigned count;	    /* 0: not given */
	const char *output; /* NULL or "-": stdout */
	const char *format; /* NULL: not given */
	bool json;
	unsigned verbose;
	enum unit unit;
};

struct option_own {
	const char *name; /* without dashes; one letter is a short option (-n) */
	int has_arg; /* getopt's no_argument, required_argument, optional_argument (--name=ARG) */
	/* Returns 0, or -EINVAL with the sentence in err. */
	int (*take)(void *to, const char *arg, struct error *err);
	void *to;
};

/* `take` of a switch (`to`: bool, NULL for one that changes nothing). */
int option_flag(void *to, const char *arg, struct error *err);
/* `take` of an option that takes a text (`to`: const char *, borrowed) or a whole
 * number above 0 (`to`: size_t). */
int option_text(void *to, const char *arg, struct error *err);
int option_number(void *to, const char *arg, struct error *err);
/* `take` of a time such as 2s or 500ms (`to`: double, seconds) and of --budget
 * (`to`: double, share of one core). */
int option_time(void *to, const char *arg, struct error *err);
int option_budget(void *to, const char *arg, struct error *err);

/* Parses argv. Returns -1 to go on, or an exit code (after --help, or after a
 * wrong option, with the sentence printed). `own` ends with a NULL name; rest
 * gets the index of the first argument that is no option. */
int options_parse(int argc, char **argv, const struct command *cmd, struct options *o,
		  const struct option_own *own, int *rest);
/* "30s", "500ms", "2m", "1h", "30": seconds; -1 if it is not one. */
double duration_parse(const char *text);

/* Prints err's sentence to stderr and returns its exit code (that of `ret` if
 * err is empty). */
int command_fail(const struct error *err, int ret);
/* Opens the output that -o names; NULL after the sentence was printed. */
FILE *output_open(const struct options *o);
/* Would it be written over the file at `path`? */
bool output_is(const struct options *o, const char *path);
/* Closes it; false (with the sentence printed) when something was not written. */
bool output_close(const struct options *o, FILE *f);

/* Set by SIGINT and SIGTERM once interrupts_catch() was called: a run ends
 * early and still reports. */
extern volatile sig_atomic_t interrupted;
void interrupts_catch(void);
/* CLOCK_MONOTONIC in seconds. */
double seconds_now(void);
/* Sleeps; returns early when interrupted. */
void sleep_s(double seconds);
/* Width of the terminal behind `f`, 80 if it is none. */
unsigned columns_of(FILE *f);

#endif
