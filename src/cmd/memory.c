/* SPDX-License-Identifier: Apache-2.0 */
/* beamray memory: the ledger now. */
#include "cmd/command.h"

#include <errno.h>
#include <string.h>

#include "report/memory.h"

static const char usage[] =
	"usage: beamray memory -p PID [options]\n"
	"\n"
	"Where every resident byte of a running Erlang VM is: the operating system's\n"
	"view beside the VM's own. Reads only; the node is not stopped and runs nothing.\n"
	"\n"
	"  -p, --pid PID        the beam.smp process\n"
	"  -i, --interval TIME  look again every TIME (5s, 500ms) and print what changed\n"
	"  -c, --count N        how many looks (with -i; default: until Ctrl-C)\n"
	"      --json           one JSON document a look (schema beamray.memory/1)\n"
	"      --quick          the counters of the VM and the kernel alone, no ledger\n"
	"      --rollup         read PSS and LazyFree even on nodes above 16 GB\n"
	"      --unit UNIT      auto, B, KiB, MiB or GiB\n"
	"  -o, --output FILE    write there instead of to the terminal\n"
	"  -v, --verbose        every account, allocator and tagged owner\n"
	"  -h, --help           this text\n"
	"\n"
	"Needs root, or CAP_SYS_PTRACE, and for a node of another user CAP_DAC_READ_SEARCH\n"
	"too. Exit codes: 0 ok,\n"
	"2 usage, 3 not a BEAM or not supported, 4 not permitted, 5 target gone,\n"
	"6 more than 1% of the bytes could not be read.\n";

struct run {
	struct options o;
	struct look_opts look;
	struct memory_text_opts text;
	FILE *to;
};

static int print_json(FILE *to, const struct observer *ob, const struct look *l,
		      const struct ledger *g)
{
	json_t *doc = memory_json(ob, l, g);

	if (!doc)
		return -ENOMEM;
	json_dumpf(doc, to, JSON_COMPACT | JSON_REAL_PRECISION(12));
	fputc('\n', to);
	json_decref(doc);
	return 0;
}

/* Looks until the count is reached, the target is gone or Ctrl-C. The first
 * look is printed whole, later ones as changes (in JSON all are whole). */
static int looks(struct run *r, struct observer *ob, struct error *err)
{
	struct look *last = NULL, *l = NULL;
	struct ledger *last_g = NULL, *g = NULL;
	unsigned n = r->o.interval_s > 0 ? r->o.count : 1, i;
	int ret = 0, code = EXIT_OK;

	for (i = 0; (!n || i < n) && !interrupted; i++) {
		if (i)
			sleep_s(r->o.interval_s);
		if (interrupted)
			break;
		ret = ledger_take(ob, &r->look, &l, &g, err);
		if (ret < 0)
			break;
		if (r->o.json)
			ret = print_json(r->to, ob, l, g);
		else if (!last)
			memory_text(r->to, ob, l, g, &r->text);
		else
			memory_text_delta(r->to, last, last_g, l, g, &r->text);
		fflush(r->to);
		if (!g->complete)
			code = EXIT_INCOMPLETE;
		ledger_free(last_g);
		look_free(last);
		last = l;
		last_g = g;
		l = NULL;
		g = NULL;
		if (ret < 0)
			break;
	}
	ledger_free(g);
	if (ret != -ETIMEDOUT)
		look_free(l);
	ledger_free(last_g);
	look_free(last);
	return ret < 0 ? ret : code;
}

static int run(int argc, char **argv)
{
	struct run r = { 0 };
	struct error err = { 0 };
	const struct option_own own[] = {
		{ "quick", false, option_flag, &r.look.quick },
		{ "rollup", false, option_flag, &r.look.rollup },
		{ NULL, false, NULL, NULL },
	};
	struct target *t = NULL;
	struct observer *ob = NULL;
	int ret = options_parse(argc, argv, &cmd_memory, &r.o, own, NULL);

	if (ret >= 0)
		return ret;
	if (!r.o.pid) {
		fprintf(stderr, "beamray memory: which process? give -p PID; `pgrep -a beam` shows "
				"the nodes on this machine\n");
		return EXIT_USAGE;
	}
	r.to = output_open(&r.o);
	if (!r.to)
		return EXIT_USAGE;
	r.text.unit = r.o.unit;
	r.text.columns = columns_of(r.to);
	r.text.verbose = r.o.verbose > 0;
	interrupts_catch();
	ret = target_open(r.o.pid, &t, &err);
	if (ret == 0)
		ret = observer_open(t, &ob, &err);
	if (ret == 0)
		ret = looks(&r, ob, &err);
	if (ret < 0)
		ret = command_fail(&err, ret);
	if (!output_close(&r.o, r.to) && ret == EXIT_OK)
		ret = EXIT_INCOMPLETE;
	if (ret != EXIT_INCOMPLETE || err.code == EXIT_OK) {
		/* after a stuck read a thread may still be using them */
		observer_close(ob);
		target_close(t);
	}
	return ret;
}

const struct command cmd_memory = {
	.name = "memory",
	.summary = "where every resident byte is, now",
	.usage = usage,
	.privileges = PRIVILEGE_READ | PRIVILEGE_WRITE,
	.run = run,
};
