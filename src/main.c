/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <string.h>

#include "cmd/command.h"
#include "target/escape.h"

static const struct command *const commands[] = { &cmd_doctor, &cmd_memory, &cmd_record,
						  &cmd_report, &cmd_diff,   &cmd_list,
						  &cmd_check };
#define N_COMMANDS (sizeof(commands) / sizeof(commands[0]))

static void help(FILE *to)
{
	size_t i;

	fputs("beamray: an X-ray for a running Erlang VM, from outside\n\n"
	      "usage: beamray COMMAND [options]\n\n",
	      to);
	for (i = 0; i < N_COMMANDS; i++)
		fprintf(to, "  %-8s %s\n", commands[i]->name, commands[i]->summary);
	fputs("\n`beamray COMMAND --help` tells the options of one. The node is never stopped,\n"
	      "written to or made to run code.\n",
	      to);
}

int main(int argc, char **argv)
{
	char safe[64];
	size_t i;

	if (argc < 2) {
		help(stderr);
		return EXIT_USAGE;
	}
	if (strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "--help") == 0 ||
	    strcmp(argv[1], "help") == 0) {
		help(stdout);
		return EXIT_OK;
	}
	if (strcmp(argv[1], "-V") == 0 || strcmp(argv[1], "--version") == 0) {
		printf("beamray %s\n", BEAMRAY_VERSION);
		return EXIT_OK;
	}
	for (i = 0; i < N_COMMANDS; i++)
		if (strcmp(argv[1], commands[i]->name) == 0) {
			if (commands[i]->privileges)
				privileges_limit(commands[i]->privileges);
			return commands[i]->run(argc - 1, argv + 1);
		}
	fprintf(stderr, "beamray: there is no command %s; `beamray --help` lists them\n",
		escape_string(safe, sizeof(safe), argv[1]));
	return EXIT_USAGE;
}
