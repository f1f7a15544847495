#!/usr/bin/env python3
"""A node that is partly swapped out: every command says what it can and what it cannot, brings
hardly anything back in, and counts no byte that is not in memory. Swap is the machine's own, or one in memory (zram)
for the time of the test."""
# long
# timeout: 600

import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
from cgroups import Cgroups  # noqa: E402
from lab import Node, Tap, beamray, memory, releases  # noqa: E402

MIB = 1 << 20
# Finding the VM, before there is a picture of what is in memory, touches its data.
BACK = 4 * MIB
LISTS = ("processes", "ets", "allocators", "carriers", "pins", "binaries", "resources", "nifs",
         "atoms", "modules", "literals", "persistent_terms", "ports", "schedulers", "memory",
         "native", "lost")


class Swap:
    """Raises OSError where none can be had."""

    def __init__(self):
        self.disk = None

    def __enter__(self):
        if len(Path("/proc/swaps").read_text().splitlines()) > 1:
            return self
        disk = Path("/sys/block/zram0")
        if (disk / "disksize").read_text().strip() != "0":
            raise OSError("zram0 is in use")
        self.disk = disk
        (disk / "disksize").write_text("1G")
        for command in (["mkswap", "/dev/zram0"], ["swapon", "/dev/zram0"]):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                self.__exit__()
                raise OSError(done.stderr.strip())
        return self

    def __exit__(self, *_):
        if self.disk:
            subprocess.run(["swapoff", "/dev/zram0"], capture_output=True, check=False)
            (self.disk / "reset").write_text("1")


def swapped(pid):
    """Bytes, page by page as the kernel counts them."""
    return sum(int(line.split()[1]) for line in Path("/proc/%d/smaps" % pid).read_text()
               .splitlines() if line.startswith("Swap:")) * 1024


def push_out(groups, part):
    """Until so much of what the group has is not in memory any more."""
    usage = groups.usage(groups.node)
    for _ in range(20):
        try:
            if groups.v2:
                (groups.node / "memory.reclaim").write_text("%d" % (usage * part))
            else:
                groups.limit(groups.node, int(usage * (1 - part)))
            break
        except OSError:  # busy
            time.sleep(0.2)
    groups.limit(groups.node, 1 << 40)


def drops(node, seconds):
    """By how much what is swapped out shrinks by itself."""
    before = swapped(node.pid)
    time.sleep(seconds)
    return before - swapped(node.pid)


def check(tap, label, groups, node):
    for command in (("ill", "load", node.dir), ("binaries", 20000, 1000), ("binaries", 400, 100000),
                    ("spawn", 2000), ("table", 100000), ("heap", 3, 2000000)):
        node(*command)
    node.nif()
    node("ill", "once", "nif", "leak", "malloc", "20000", "1000")
    node.settle()
    push_out(groups, 0.6)
    time.sleep(1)
    before = swapped(node.pid)
    if not tap.ok("%s: %d MiB of it are swapped out" % (label, before // MIB),
                  before > 40 * MIB, before):
        return
    for _ in range(10):  # what it needs itself it takes back first
        if drops(node, 2) < MIB // 16:
            break

    start = swapped(node.pid)
    run = memory(node.pid)
    look = run.json()
    end = swapped(node.pid)
    rss = look["os"]["rss"]
    tap.equal("%s: memory: adds up" % label, sum(r["bytes"] for r in look["ledger"]), rss)
    tap.ok("%s: memory: and says so" % label, any("swap" in n for n in look["notes"]),
           look["notes"])
    tap.note("%s: memory exits with %d: %s" % (label, run.code, look["notes"]))
    tap.ok("%s: memory: nothing came back for it: %d bytes" % (label, start - end),
           start - end < BACK)

    for args in (["doctor", "--still"], ["doctor", "-d", "3s"], ["check"],
                 *(["list", what] for what in LISTS)):
        start = swapped(node.pid)
        run = beamray(args[0], "-p", node.pid, *args[1:], timeout=120)
        end = swapped(node.pid)
        name = " ".join(args)
        tap.ok("%s: %s: nothing came back for it: %d bytes" % (label, name, start - end),
               start - end < BACK)
        tap.ok("%s: %s: an answer, or why there is none" % (label, name),
               run.code in (0, 1, 6) and run.out or run.code and run.err.strip(),
               (run.code, run.out[-300:], run.err[-300:]))
        tap.note("%s: %s exits with %d%s" % (label, name, run.code, ": " + " ".join(
            (run.err + run.out).split())[-400:] if run.code == 6 else ""))
    tap.ok("%s: the node answers" % label, node("ping") == "pong")


def main():
    with Tap() as tap:
        for release in releases(tap):
            try:
                with Swap(), Cgroups() as groups, Node(release, cgroup=groups.node) as node:
                    check(tap, "OTP " + release, groups, node)
            except OSError as e:
                tap.skip("OTP %s swapped out" % release, "no swap, or no cgroup: %s" % e)


if __name__ == "__main__":
    main()
