#!/usr/bin/env python3
"""The doctor on nodes in a cgroup with a memory limit: how far it is to the limit, when it
is reached, and when size alone is the finding; against the kernel's own files.

    top of the hierarchy / beamray-test-PID      has the limit
                               node              the node; no limit, or one of its own
                               beside            another process, 40 MiB

What is left to the node is what the other process leaves it.
"""
# timeout: 600

import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
from cgroups import Cgroups  # noqa: E402
from clinic import Doctor  # noqa: E402
from lab import LONG, Node, Tap, beamray, enter, memory, releases  # noqa: E402

MIB = 1 << 20
# 4 MB a second for a minute at most; the limit is farther away: nothing is killed
LEAK = ("ill", "start", "100", "600", "nif", "leak", "malloc", "400", "1000")
ROOM = 320 * MIB


class Samples:
    """What the kernel says of both groups, ten times a second: (time, node, outer)."""

    def __init__(self, groups):
        self.groups, self.v, self.stop = groups, [], threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)

    def run(self):
        while not self.stop.wait(0.1):
            self.v.append((time.monotonic(), self.groups.usage(self.groups.node),
                           self.groups.usage(self.groups.outer)))

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()

    def between(self, start, end, which):
        """Least and most, with what version 1 counts in advance for each processor."""
        v = [s[which] for s in self.v if start <= s[0] <= end]
        return min(v) - MIB, max(v) + MIB


def leaks_towards_it(tap, label, groups, node):
    node.settle()
    start = groups.usage(groups.outer)
    limit = groups.limit(groups.outer, start + ROOM)
    node(*LEAK)
    # first it fills what libc has free, and that was counted long ago
    while groups.usage(groups.outer) < start + 8 * MIB:
        time.sleep(0.05)
    with Samples(groups) as samples:
        doctor = Doctor(node.pid, "--native", seconds=8)
        doctor.begun.wait(60)
        begun = time.monotonic()
        doctor.ended.wait(120)
        ended = time.monotonic()
        answer = doctor.answer()
        gone = time.monotonic()
    if not tap.ok("%s: an answer" % label, answer is not None, doctor.err):
        return
    first, said = answer["findings"][0], answer["after"]["os"]["cgroup"]
    tap.equal("%s: the leak is found" % label, (first["code"], first["subject"]),
              ("nif-leak", "ill_nif.so"))
    tap.equal("%s: the limit, which is the outer group's" % label, said["limit"], limit)
    least, most = samples.between(ended - 1.5, gone, 1)
    tap.ok("%s: usage is the node's group's" % label, least <= said["usage"] <= most,
           (least, said["usage"], most))
    least, most = samples.between(ended - 1.5, gone, 2)
    tap.ok("%s: what is left is what the other group leaves" % label,
           limit - most <= said["left"] <= limit - least, (limit - most, said["left"],
                                                           limit - least))
    watch = [s for s in samples.v if begun <= s[0] <= ended]
    pace = (watch[-1][2] - watch[0][2]) / (watch[-1][0] - watch[0][0])
    should = (limit - watch[-1][2]) / pace
    says = answer["cgroup_full_in_s"]
    tap.ok("%s: full in %.0f s, by the kernel's pace in %.0f s" % (label, says or 0, should),
           says is not None and abs(says - should) <= 0.1 * should, (says, should, pace))

    left = limit - groups.usage(groups.outer)
    text = beamray("doctor", "-p", node.pid, "-d", "6s", "--no-scan")
    after = limit - groups.usage(groups.outer)
    got = re.search(r"cgroup: \S+ MiB of (\S+) MiB used, page cache included; (\S+) MiB left, for a "
                    r"limit is shared with other cgroups; if what grows goes on like this, it is "
                    r"full in about (\d+) s", " ".join(text.out.split()))
    if tap.ok("%s: the text has it" % label, got, text.out):
        tap.ok("%s: ... the limit, what is left, and when" % label,
               abs(float(got[1]) - limit / MIB) < 0.06
               and after / MIB - 1.1 <= float(got[2]) <= left / MIB + 1.1
               and 0.7 * after / pace < float(got[3]) < 1.3 * left / pace,
               (got[0], limit, left, after, pace))


def fills_it(tap, label, groups, node):
    """Much in a table, nothing grows, and the limit is near."""
    node("ill", "once", "ets", "240000")  # most of what is resident: the rule wants half
    node.settle()
    rss = memory(node.pid).json()["os"]["rss"]
    limit = groups.limit(groups.node, max(int(rss / 0.9), groups.usage(groups.node) + 8 * MIB))
    if not tap.ok("%s: near its limit" % label, rss > 0.82 * limit, (rss, limit)):
        return
    tight = beamray("doctor", "-p", node.pid, "--still", "--no-scan", "--json")
    answer = tight.json()
    first = answer["findings"][0]
    tap.equal("%s: size is the finding" % label,
              (tight.code, first["code"], first["subject"], first["grew_bytes"]),
              (1, "vm-data", "ets", 0))
    tap.ok("%s: ... and the limit the reason" % label,
           limit in [e["value"] for e in first["evidence"] if "cgroup" in e["what"]], first)
    tap.ok("%s: nothing grows towards it" % label, answer["cgroup_full_in_s"] is None
           and answer["after"]["os"]["cgroup"]["limit"] == limit, answer["after"]["os"])
    wide = beamray("doctor", "-p", node.pid, "--still", "--no-scan", "--threshold", "cgroup=99%")
    said = " ".join(wide.out.split())
    tap.ok("%s: within a wider threshold it is healthy, and says what is left" % label,
           wide.code == 0 and "MiB left" in said and "full in" not in said, wide.out)


def main():
    with Tap() as tap:
        try:
            groups = Cgroups()
            with groups:
                pass
        except OSError as e:
            tap.skip("a cgroup with a limit", "none can be made here: %s" % e)
            return
        for release in releases(tap, None if LONG or "BEAMRAY_RELEASES" in os.environ else ["25"]):
            label = "OTP %s, cgroup version %d" % (release, 2 if groups.v2 else 1)
            with groups, subprocess.Popen(
                    [sys.executable, "-c", "import sys; x = b'x' * (40 << 20); sys.stdin.read()"],
                    stdin=subprocess.PIPE, preexec_fn=lambda: enter(groups.beside)) as beside:
                for look in (leaks_towards_it, fills_it):
                    with Node(release, cgroup=groups.node) as node:
                        node("ill", "load", node.dir)
                        look(tap, label, groups, node)
                beside.stdin.close()


if __name__ == "__main__":
    main()
