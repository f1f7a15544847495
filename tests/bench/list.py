#!/usr/bin/env python3
"""What `list processes` costs, beside what asking inside the node costs: `make bench`.

    tests/bench/list.py [-r REL] [-n PROCESSES]...

For each number of processes: CPU time and peak memory of beamray; the time that
process_info over all of them takes inside the node; and the worst delay of a 1 ms timer
in the node, with nobody looking and with looks in a loop. On a machine whose CPUs are all
busy the delays tell of that: `chrt -f` gives the node precedence where it is permitted.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
from lab import PROGRAM, Node, NodeError  # noqa: E402

RUNS = 3
BYTES_EACH = 2700  # of a process that has done nothing


def look(pid, *args):
    """CPU seconds and peak bytes of one listing."""
    child = subprocess.Popen([PROGRAM, "list", "-p", str(pid), "processes", *args,
                              "-o", "/dev/null"], stdin=subprocess.DEVNULL)
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode not in (0, 6):
        sys.exit("beamray exits with %d" % child.returncode)
    return used.ru_utime + used.ru_stime, used.ru_maxrss * 1024


def delays(node, milliseconds, looking):
    node.send("call", "process_truth", "delays", milliseconds)
    end = time.monotonic() + milliseconds / 1000 - 0.2
    looks = 0
    while looking and time.monotonic() < end:
        look(node.pid, "--json")
        looks += 1
    return node.receive(120)["worst_us"], looks


def row(n, name, value, unit, target="", good=True):
    print("%9d  %-44s %12s %-5s %s%s" % (n, name, value, unit, target, "" if good else "  MISSED"))


def measure(release, n):
    with Node(release, ["+P", str(max(262144, 2 * n))]) as node:
        node("call", "process_truth", "many", n, timeout=600)
        subprocess.run(["chrt", "-a", "-f", "-p", "50", str(node.pid)], capture_output=True,
                       check=False)
        text = min(look(node.pid) for _ in range(RUNS))
        json = min(look(node.pid, "--json") for _ in range(RUNS))
        inside = min(node("call", "process_truth", "cost", timeout=600)["us"]
                     for _ in range(RUNS))
        hundred = n == 100000
        row(n, "list processes, cpu", "%.3f" % text[0], "s", "< 1" if hundred else "",
            not hundred or text[0] < 1)
        row(n, "list processes --json, cpu", "%.3f" % json[0], "s", "< 1" if hundred else "",
            not hundred or json[0] < 1)
        row(n, "peak memory of beamray", "%.1f" % (max(text[1], json[1]) / 1e6), "MB",
            "< 100" if hundred else "", not hundred or max(text[1], json[1]) < 100e6)
        row(n, "process_info of all, inside the node", "%.3f" % (inside / 1e6), "s")
        quiet, _ = delays(node, 4000, False)
        looked, looks = delays(node, 4000, True)
        row(n, "worst delay of a 1 ms timer, nobody looking", "%.2f" % (quiet / 1e3), "ms")
        row(n, "worst delay of a 1 ms timer, %d looks" % looks, "%.2f" % (looked / 1e3), "ms")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("-r", "--release", default="25")
    parser.add_argument("-n", "--processes", type=int, action="append")
    options = parser.parse_args()
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for n in options.processes or [2000, 100000, 1000000]:
        if n * BYTES_EACH * 2 > available:
            print("%9d  skipped: wants %.1f GB of free memory" % (n, n * BYTES_EACH * 2 / 1e9))
            continue
        try:
            measure(options.release, n)
        except NodeError as e:
            sys.exit(str(e))


main()
