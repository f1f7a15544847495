/* SPDX-License-Identifier: Apache-2.0 */
#include "cmd/command.h"

#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "target/escape.h"

#define OWN_BASE 1000
#define OWN_MAX	 24

volatile sig_atomic_t interrupted;

static const struct option common[] = {
	{ "pid", required_argument, NULL, 'p' },      { "duration", required_argument, NULL, 'd' },
	{ "interval", required_argument, NULL, 'i' }, { "count", required_argument, NULL, 'c' },
	{ "output", required_argument, NULL, 'o' },   { "format", required_argument, NULL, 'f' },
	{ "json", no_argument, NULL, 'j' },	      { "unit", required_argument, NULL, 'u' },
	{ "verbose", no_argument, NULL, 'v' },	      { "version", no_argument, NULL, 'V' },
	{ "help", no_argument, NULL, 'h' },
};
#define N_COMMON (sizeof(common) / sizeof(common[0]))

double duration_parse(const char *text)
{
	static const struct {
		const char *suffix;
		double seconds;
	} units[] = { { "", 1 }, { "s", 1 }, { "ms", 0.001 }, { "m", 60 }, { "h", 3600 } };
	char *end;
	double v = strtod(text, &end);
	size_t i;

	if (end == text || !(v >= 0) || v > 1e9)
		return -1;
	for (i = 0; i < sizeof(units) / sizeof(units[0]); i++)
		if (strcmp(end, units[i].suffix) == 0)
			return v * units[i].seconds;
	return -1;
}

static int usage_error(const struct command *cmd, const char *what, const char *arg)
{
	char safe[128];

	fprintf(stderr, "beamray %s: %s%s%s; see `beamray %s --help`\n", cmd->name, what,
		arg ? ": " : "", arg ? escape_string(safe, sizeof(safe), arg) : "", cmd->name);
	return EXIT_USAGE;
}

static bool whole_number(const char *text, long max, long *out)
{
	char *end;

	errno = 0;
	*out = strtol(text, &end, 10);
	return !errno && end != text && !*end && *out > 0 && *out <= max;
}

static int take_common(const struct command *cmd, struct options *o, int c)
{
	long v;

	switch (c) {
	case 'p':
		if (!whole_number(optarg, INT_MAX, &v))
			return usage_error(cmd, "-p takes a process id", optarg);
		o->pid = (pid_t)v;
		return -1;
	case 'd':
		o->duration_s = duration_parse(optarg);
		return o->duration_s > 0
			       ? -1
			       : usage_error(cmd, "-d takes a time such as 30s or 2m", optarg);
	case 'i':
		o->interval_s = duration_parse(optarg);
		return o->interval_s > 0
			       ? -1
			       : usage_error(cmd, "-i takes a time such as 500ms or 5s", optarg);
	case 'c':
		if (!whole_number(optarg, 1000000000, &v))
			return usage_error(cmd, "-c takes a number of looks", optarg);
		o->count = (unsigned)v;
		return -1;
	case 'o':
		o->output = optarg;
		return -1;
	case 'f':
		o->format = optarg;
		return -1;
	case 'j':
		o->json = true;
		return -1;
	case 'u':
		return unit_parse(optarg, &o->unit)
			       ? -1
			       : usage_error(cmd, "--unit is one of auto, B, KiB, MiB, GiB",
					     optarg);
	case 'v':
		o->verbose++;
		return -1;
	case 'V':
		printf("beamray %s\n", BEAMRAY_VERSION);
		return EXIT_OK;
	case 'h':
		fputs(cmd->usage, stdout);
		return EXIT_OK;
	default:
		return usage_error(cmd, "not an option", NULL);
	}
}

int options_parse(int argc, char **argv, const struct command *cmd, struct options *o,
		  const struct option_own *own, int *rest)
{
	struct option all[N_COMMON + OWN_MAX + 1];
	char letters[32 + 2 * OWN_MAX] = "p:d:i:c:o:f:jvVh";
	size_t n = N_COMMON, i, at = strlen(letters);
	int c;

	memset(all, 0, sizeof(all));
	memcpy(all, common, sizeof(common));
	for (i = 0; own && own[i].name && i < OWN_MAX; i++) {
		all[n++] = (struct option){ own[i].name, own[i].has_arg, NULL, OWN_BASE + (int)i };
		if (!own[i].name[1])
			at += (size_t)snprintf(letters + at, sizeof(letters) - at, "%s%s",
					       own[i].name, own[i].has_arg ? ":" : "");
	}
	optind = 1;
	opterr = 0;
	while ((c = getopt_long(argc, argv, letters, all, NULL)) != -1) {
		struct error err = { 0 };
		int ret;

		for (i = 0; own && own[i].name && i < OWN_MAX; i++)
			if (!own[i].name[1] && own[i].name[0] == c)
				c = OWN_BASE + (int)i;
		if (own && c >= OWN_BASE) {
			const struct option_own *w = &own[c - OWN_BASE];

			if (w->take(w->to, optarg, &err) < 0)
				return usage_error(cmd, err.text[0] ? err.text : "wrong value",
						   err.text[0] ? NULL : optarg);
			continue;
		}
		if (c == '?')
			return usage_error(cmd, "not an option, or its value is missing",
					   argv[optind > 0 ? optind - 1 : 0]);
		ret = take_common(cmd, o, c);
		if (ret >= 0)
			return ret;
	}
	if (rest)
		*rest = optind;
	else if (optind < argc)
		return usage_error(cmd, "does not know what to do with", argv[optind]);
	return -1;
}

int option_flag(void *to, const char *arg, struct error *err)
{
	(void)arg;
	(void)err;
	if (to)
		*(bool *)to = true;
	return 0;
}

int option_text(void *to, const char *arg, struct error *err)
{
	(void)err;
	*(const char **)to = arg;
	return 0;
}

int option_number(void *to, const char *arg, struct error *err)
{
	long v;

	if (!whole_number(arg, LONG_MAX, &v))
		return error_set(err, EXIT_USAGE, -EINVAL, "not a whole number above 0: %s", arg);
	*(size_t *)to = (size_t)v;
	return 0;
}

int option_time(void *to, const char *arg, struct error *err)
{
	double v = duration_parse(arg);

	if (!(v > 0))
		return error_set(err, EXIT_USAGE, -EINVAL, "not a time such as 2s or 500ms: %s",
				 arg);
	*(double *)to = v;
	return 0;
}

int option_budget(void *to, const char *arg, struct error *err)
{
	char *end;
	double v = strtod(arg, &end);

	if (end == arg || (*end && strcmp(end, "%") != 0) || !(v > 0) || v > 100)
		return error_set(err, EXIT_USAGE, -EINVAL,
				 "--budget is a percentage of one core, such as 1 or 0.5");
	*(double *)to = v / 100;
	return 0;
}

int command_fail(const struct error *err, int ret)
{
	fprintf(stderr, "beamray: %s\n", err->text[0] ? err->text : strerror(-ret));
	return err->code != EXIT_OK ? (int)err->code : (int)error_exit_code(ret);
}

FILE *output_open(const struct options *o)
{
	char safe[256];
	FILE *f;

	if (!o->output || strcmp(o->output, "-") == 0)
		return stdout;
	f = fopen(o->output, "we");
	if (!f)
		fprintf(stderr, "beamray: cannot write %s: %s\n",
			escape_string(safe, sizeof(safe), o->output), strerror(errno));
	return f;
}

bool output_is(const struct options *o, const char *path)
{
	struct stat a, b;

	return o->output && strcmp(o->output, "-") != 0 && stat(o->output, &a) == 0 &&
	       stat(path, &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

bool output_close(const struct options *o, FILE *f)
{
	char safe[256];
	bool bad = fflush(f) != 0 || ferror(f);
	int e = errno;

	if (f != stdout)
		bad = fclose(f) != 0 || bad;
	if (bad)
		fprintf(stderr, "beamray: could not write all of %s: %s\n",
			o->output ? escape_string(safe, sizeof(safe), o->output) : "the output",
			strerror(e));
	return !bad;
}

static void on_signal(int sig)
{
	(void)sig;
	interrupted = 1;
}

void interrupts_catch(void)
{
	struct sigaction sa = { .sa_handler = on_signal };

	sigaction(SIGINT, &sa, NULL);
	sigaction(SIGTERM, &sa, NULL);
}

double seconds_now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

void sleep_s(double seconds)
{
	struct timespec end, step = { 0, 0 };

	/* an absolute end: a signal that interrupts a sleep does not stretch it */
	clock_gettime(CLOCK_MONOTONIC, &end);
	step.tv_sec = (time_t)seconds;
	step.tv_nsec = (long)((seconds - (double)step.tv_sec) * 1e9);
	end.tv_sec += step.tv_sec + (end.tv_nsec + step.tv_nsec) / 1000000000;
	end.tv_nsec = (end.tv_nsec + step.tv_nsec) % 1000000000;
	while (!interrupted && clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &end, NULL) == EINTR)
		;
}

unsigned columns_of(FILE *f)
{
	struct winsize ws;

	if (ioctl(fileno(f), TIOCGWINSZ, &ws) == 0 && ws.ws_col >= 80)
		return ws.ws_col < 160 ? ws.ws_col : 160;
	return 80;
}
