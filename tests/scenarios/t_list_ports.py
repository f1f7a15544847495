#!/usr/bin/env python3
"""beamray list ports against erlang:ports/0 and port_info: every port, every byte."""

import os
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
from lab import Node, Tap, beamray, releases  # noqa: E402

KEYS = ["connected", "input", "output", "os_pid", "queue_size"]


def check(tap, node, label):
    before = {p["port"]: p for p in node("call", "list_truth", "ports")}
    run = beamray("list", "-p", node.pid, "ports", "--json")
    seen = {p["port"]: p for p in run.json()["rows"]}
    after = {p["port"]: p for p in node("call", "list_truth", "ports")}
    tap.equal("%s: exits with 0" % label, run.code, 0)
    tap.equal("%s: finds all ports, and no other" % label, sorted(seen), sorted(before))
    # The port that answers moves with each answer; all others must stand still.
    same = [p for p in before if after.get(p) == before[p]]
    tap.ok("%s: %d of %d stand still" % (label, len(same), len(before)),
           len(same) >= len(before) - 1)
    bad = ["%s of %s is %r, should be %r" % (k, p, seen[p][k], before[p][k])
           for p in same for k in KEYS if seen[p][k] != before[p][k]]
    tap.ok("%s: %d figures equal port_info" % (label, len(same) * len(KEYS)), not bad, bad[:5])
    bad = ["%s: %r" % (p, seen[p]["name"]) for p in same if not same_name(before[p], seen[p])]
    tap.ok("%s: names, escaped and cut" % label, not bad, bad)
    return before, seen


def same_name(truth, seen):
    name = "".join(c if c.isprintable() and c != "\\" else "\\x%02X" % ord(c)
                   for c in truth["name"])
    got = seen["name"]
    return got == name or (got.endswith("...") and name.startswith(got[:-3]) and len(got) > 200)


def main():
    with Tap() as tap:
        for release in releases(tap):
            label = "OTP " + release
            with Node(release) as node:
                node("call", "list_truth", "make_ports")
                node.settle()
                before, seen = check(tap, node, label)
                queues = [p["queue_size"] for p in seen.values()]
                tap.ok("%s: one that is not read queues %d bytes" % (label, max(queues)),
                       max(queues) > 100000)
                fds = {p: t["fd"] for p, t in before.items() if t["fd"] is not None}
                tap.equal("%s: descriptors of %d sockets" % (label, len(fds)),
                          {p: seen[p]["fd"] for p in fds}, fds)
                links = [os.readlink("/proc/%d/fd/%d" % (node.pid, n)) for n in fds.values()]
                tap.ok("%s: which the kernel calls sockets too" % label,
                       all(re.match(r"socket:\[\d+\]$", x) for x in links) and len(links) >= 6,
                       links)
                tap.equal("%s: and beamray says so" % label,
                          sorted(seen[p]["fd_file"] for p in fds), sorted(links))
                programs = [p for p in seen.values() if p["os_pid"] is not None]
                tap.equal("%s: programs with their pids" % label, len(programs), 4)
                text = beamray("list", "-p", node.pid, "ports", "-n", "50")
                tap.ok("%s: text of 80 columns, nothing that moves a cursor" % label,
                       text.code == 0 and all(len(line) <= 80 and line.isprintable()
                                              for line in text.out.splitlines()), text.out)


main()
