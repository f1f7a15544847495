#!/usr/bin/env python3
"""Many processes, much memory: still right, still quick, and beamray itself stays small."""
# timeout: 300

import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
from lab import LONG, PROGRAM, TOP, Node, Tap, releases  # noqa: E402
from truth import check_sums, check_walk, compare  # noqa: E402


def cost(pid, *args):
    """Wall and CPU seconds, peak bytes and exit code of one look."""
    out = subprocess.run([sys.executable, str(TOP / "tests/lib/rusage.py"), PROGRAM, "memory",
                          "-p", str(pid), "--json", *args], capture_output=True, text=True,
                         check=True).stdout.split()
    return float(out[0]), float(out[1]), int(out[2]), int(out[3])


def check_cost(tap, node, label, look):
    rss = look["os"]["rss"]
    wall, cpu, peak, code = min(cost(node.pid) for _ in range(3))
    # The promise is 1 s on 1 GB; a machine that does other things too gets three.
    limit = 3 * max(1.0, rss / 1e9)
    tap.ok("%s: a look at %.0f MB in %.2f s (%.2f s CPU)" % (label, rss / 1e6, wall, cpu),
           code == 0 and wall < limit, code)
    tap.ok("%s: beamray's own peak is %.0f MB" % (label, peak / 1e6), peak < 64e6)
    _, cpu, _, code = min((cost(node.pid, "--quick") for _ in range(3)), key=lambda c: c[1])
    tap.ok("%s: --quick takes %.1f ms CPU" % (label, cpu * 1000), code == 0 and cpu < 0.03, code)


def with_node(tap, release, label, flags, commands):
    with Node(release, flags) as node:
        for command in commands:
            node(*command.split(), timeout=300)
        node.settle()
        look = compare(tap, node, label)
        check_sums(tap, look, label)
        check_walk(tap, look, label)
        check_cost(tap, node, label, look)


def main():
    with Tap() as tap:
        for release in releases(tap, None if LONG else ["25", "29"]):
            label = "OTP " + release
            with_node(tap, release, label + " 100,000 processes", ["+P", "200000"],
                      ["spawn 100000"])
            if LONG:
                with_node(tap, release, label + " 2 GB", [],
                          ["binaries 350000 4000", "table 1000000", "heap 20 2000000"])


main()
