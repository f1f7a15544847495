/* SPDX-License-Identifier: Apache-2.0 */
#include "live_node.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define ARGS_MAX 64

/* Reads a line, evaluates it, prints "=value". */
static const char evaluator[] =
	"L=fun L()->case io:get_line(\"\") of eof->halt(0,[{flush,false}]);S->"
	"R=try {ok,T,_}=erl_scan:string(S),{ok,E}=erl_parse:parse_exprs(T),"
	"{value,V,_}=erl_eval:exprs(E,[]),V catch C:X->{'EXIT',C,X} end,"
	"io:format(\"=~0p~n\",[R]),L() end end,io:format(\"=up~n\"),L().";

const char *const *live_releases(void)
{
	static const char *list[16];
	static char text[128];
	const char *chosen = getenv("BEAMRAY_RELEASES");
	size_t n = 0;

	if (list[0])
		return list;
	snprintf(text, sizeof(text), "%s", chosen && *chosen ? chosen : "23 25 27 29");
	for (char *save = NULL, *w = strtok_r(text, " ,", &save); w && n < 15;
	     w = strtok_r(NULL, " ,", &save))
		list[n++] = w;
	return list;
}

/* One line of the node within `ms`, without its newline; false if none came. */
static bool line_read(int fd, char *buf, size_t size, int ms)
{
	struct timespec ts;
	long long end;
	size_t n = 0;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	end = ts.tv_sec * 1000LL + ts.tv_nsec / 1000000 + ms;
	for (;;) {
		struct pollfd p = { .fd = fd, .events = POLLIN };
		long long now;
		char c;

		clock_gettime(CLOCK_MONOTONIC, &ts);
		now = ts.tv_sec * 1000LL + ts.tv_nsec / 1000000;
		if (now >= end || poll(&p, 1, (int)(end - now)) <= 0 || read(fd, &c, 1) != 1)
			return false;
		if (c == '\n') {
			buf[n] = 0;
			return true;
		}
		if (n + 1 < size)
			buf[n++] = c;
	}
}

/* The next line that is an answer. */
static bool answer_read(int fd, char *buf, size_t size, int ms)
{
	char *line = malloc(size + 1);
	bool ok = false;

	while (line && line_read(fd, line, size + 1, ms)) {
		if (line[0] != '=')
			continue;
		memcpy(buf, line + 1, strlen(line));
		ok = true;
		break;
	}
	free(line);
	return ok;
}

bool live_start(struct live_node *n, const char *release, const char *args)
{
	int in[2], out[2];
	char up[64];

	memset(n, 0, sizeof(*n));
	snprintf(n->release, sizeof(n->release), "%s", release);
	if (pipe2(in, O_CLOEXEC) || pipe2(out, O_CLOEXEC))
		return false;
	signal(SIGPIPE, SIG_IGN);
	n->pid = fork();
	if (n->pid == 0) {
		char copy[512], *argv[ARGS_MAX];
		size_t k = 0;

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		signal(SIGPIPE, SIG_DFL);
		dup2(in[0], 0);
		dup2(out[1], 1);
		argv[k++] = (char *)"tools/roots/node.sh";
		argv[k++] = (char *)release;
		snprintf(copy, sizeof(copy), "%s", args ? args : "");
		for (char *save = NULL, *w = strtok_r(copy, " ", &save); w && k < ARGS_MAX - 3;
		     w = strtok_r(NULL, " ", &save))
			argv[k++] = w;
		argv[k++] = (char *)"-eval";
		argv[k++] = (char *)evaluator;
		argv[k] = NULL;
		execv(argv[0], argv);
		_exit(127);
	}
	close(in[0]);
	close(out[1]);
	n->in = in[1];
	n->out = out[0];
	if (n->pid > 0 && answer_read(n->out, up, sizeof(up), 40000) && strcmp(up, "up") == 0)
		return true;
	live_stop(n);
	return false;
}

void live_stop(struct live_node *n)
{
	if (n->pid > 0) {
		kill(n->pid, SIGKILL);
		waitpid(n->pid, NULL, 0);
		close(n->in);
		close(n->out);
	}
	n->pid = 0;
}

bool live_ask(struct live_node *n, const char *expressions, char *answer, size_t size)
{
	return dprintf(n->in, "%s.\n", expressions) > 0 && answer_read(n->out, answer, size, 60000);
}

uint64_t live_number(struct live_node *n, const char *expressions)
{
	char text[64], *end;
	uint64_t value;

	if (!live_ask(n, expressions, text, sizeof(text)))
		return UINT64_MAX;
	value = strtoull(text, &end, 10);
	return end == text || *end ? UINT64_MAX : value;
}
