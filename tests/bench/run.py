#!/usr/bin/env python3
"""Speed of a look, in figures: `make bench`. Rows of name, value, unit, target.

    tests/bench/run.py READV [-r REL] [-m MEGABYTES]

READV is the yardstick, tests/bench/readv.c: a plain process_vm_readv of the same
memory. The node holds binaries of 1-8 KB, an ETS table and process heaps. Times are
the best of five: the machine's other work is not what is measured.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
from lab import PROGRAM, Node, NodeError  # noqa: E402

RUNS = 5
RUSAGE = str(Path(__file__).resolve().parents[1] / "lib" / "rusage.py")


class Look:
    """One beamray run: wall and CPU seconds, peak memory, JSON."""

    def __init__(self, pid, *args):
        with tempfile.NamedTemporaryFile() as out:
            told = subprocess.run([sys.executable, RUSAGE, PROGRAM, "memory", "-p", str(pid),
                                   "--json", "-o", out.name, *args],
                                  capture_output=True, text=True, check=True).stdout.split()
            self.wall, self.cpu, self.peak = float(told[0]), float(told[1]), int(told[2])
            if told[3] not in ("0", "6"):
                sys.exit("beamray exits with " + told[3])
            self.json = json.loads(Path(out.name).read_text())


def best(make, key):
    return min((make() for _ in range(RUNS)), key=key)


def row(name, value, unit, target="", good=True):
    print("%-46s %12s %-5s %s%s" % (name, value, unit, target, "" if good else "  MISSED"))


def fill(node, megabytes):
    count = megabytes * 7 // 10 * 1024 * 1024 // 4000
    node("binaries", count, 3900, timeout=600)
    node("table", megabytes * 700, timeout=600)
    # Two words an element, and a heap has room to grow.
    node("heap", 20, megabytes * 1500, timeout=600)
    node.settle()


def stalled(node, milliseconds, looks):
    node.send("nif", "stall", milliseconds)
    end = time.monotonic() + milliseconds / 1000
    while looks and time.monotonic() < end - 0.1:
        Look(node.pid)
    return node.receive(600)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("readv")
    parser.add_argument("-r", "--release", default="25")
    parser.add_argument("-m", "--megabytes", type=int, default=1024)
    options = parser.parse_args()
    try:
        node = Node(options.release)
    except NodeError as e:
        sys.exit(str(e))
    with node:
        node.nif()
        fill(node, options.megabytes)

        def plain():
            out = subprocess.run([options.readv, str(node.pid)], capture_output=True, text=True,
                                 check=True).stdout.split()
            return int(out[0]), float(out[1])

        whole = best(lambda: Look(node.pid), lambda look: look.wall)
        quick = best(lambda: Look(node.pid, "--quick"), lambda look: look.cpu)
        read_bytes, read_seconds = best(plain, lambda run: run[1])
        read_rate = read_bytes / read_seconds

        look, walk = whole.json, whole.json["walk"]
        rss = look["os"]["rss"]
        walked = walk.get("bytes") or sum(
            instance[section]["carriers_size"] for allocator in look["vm"]["allocators"]
            for instance in allocator["by_instance"] for section in ("mbcs", "mbcs_pool")
            if section in instance)
        # The walk's own time where beamray tells it, else all that --quick does not do.
        seconds = walk.get("seconds") or whole.wall - quick.wall
        walk_rate = walked / seconds

        row("OTP release of the node", look["target"]["otp_release"], "")
        row("resident", "%.0f" % (rss / 1e6), "MB")
        row("plain process_vm_readv", "%.2f" % (read_rate / 1e9), "GB/s")
        row("walk of %d blocks in %d carriers" % (walk["blocks"], walk["carriers"]),
            "%.2f" % (walk_rate / 1e9), "GB/s")
        row("walk / plain", "%.2f" % (walk_rate / read_rate), "", ">= 0.6",
            walk_rate / read_rate >= 0.6)
        limit = max(1.0, rss / 1e9)
        row("memory, wall", "%.3f" % whole.wall, "s", "< 1 on 1 GB", whole.wall < limit)
        row("memory, cpu", "%.3f" % whole.cpu, "s")
        row("memory --quick, cpu", "%.1f" % (quick.cpu * 1000), "ms", "< 10", quick.cpu < 0.010)
        row("peak memory of beamray", "%.1f" % (whole.peak / 1e6), "MB", "< 64 on 2 GB",
            whole.peak < 64e6)
        quiet = stalled(node, 3000, False)
        looked = stalled(node, 3000, True)
        row("longest mmap in the target, nobody looking", "%.2f" % (quiet["longest_ns"] / 1e6),
            "ms")
        row("longest mmap in the target, looks in a loop", "%.2f" % (looked["longest_ns"] / 1e6),
            "ms")


main()
