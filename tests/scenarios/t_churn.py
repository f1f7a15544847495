#!/usr/bin/env python3
"""Looks in a loop at a node that works hard: no crash, no wrong sum, and it does not notice."""
# timeout: 240

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
from lab import LONG, Node, Tap, memory, releases  # noqa: E402
from truth import accounts  # noqa: E402

SECONDS = 60 if LONG else 10


def counters(node):
    """What the kernel counts of the target, and the work that it did."""
    fields = Path("/proc/%d/stat" % node.pid).read_text().rsplit(")", 1)[1].split()
    status = Path("/proc/%d/status" % node.pid).read_text()
    swap = [int(line.split()[1]) for line in status.splitlines() if line.startswith("VmSwap")]
    return {"minor": int(fields[7]), "major": int(fields[9]), "swap": swap[0] if swap else 0,
            "work": node("churn", "count")}


def moved(before, after):
    return {key: after[key] - before[key] for key in before}


def problem_of(run):
    """None, or what is wrong with one look at a busy node."""
    if run.code != 0:
        return "exit code %d: %s" % (run.code, run.err.strip()[-300:])
    look = run.json()
    total = sum(row["bytes"] for row in look["ledger"])
    if total != look["os"]["rss"]:
        return "accounts add up to %d, os.rss is %d" % (total, look["os"]["rss"])
    if any(row["bytes"] < 0 for row in look["ledger"]):
        return "a negative account"
    if accounts(look)["unattributed"] >= 0.01 * total:
        return "unattributed %d of %d" % (accounts(look)["unattributed"], total)
    if look["walk"]["errors"]:
        return "walk: %r" % look["walk"]
    return None


def looks_for(node, seconds):
    problems, count, torn, slowest = [], 0, 0, 0.0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        run = memory(node.pid, timeout=20)
        count += 1
        slowest = max(slowest, run.seconds)
        problem = problem_of(run)
        if problem:
            problems.append(problem)
        else:
            torn += run.json()["walk"]["torn"]
    return problems, count, torn, slowest


def busy(tap, release, label):
    with Node(release) as node:
        node("churn", "start")
        time.sleep(1)
        problems, count, torn, slowest = looks_for(node, SECONDS)
        tap.ok("%s: %d looks at a busy node, all right (%d carriers torn, slowest %.2f s)"
               % (label, count, torn, slowest), count > 0 and not problems,
               "%d wrong: %s" % (len(problems), "; ".join(problems[:3])))
        tap.equal("%s: the node lives" % label, node("ping"), "pong")


def unnoticed(tap, release, label):
    """With a core of its own for the looks: work and faults per work as without them."""
    with Node(release, ["+S", "1:1", "+SDcpu", "1:1"]) as node:
        node("churn", "start")
        time.sleep(2)
        quiet = {"minor": 0, "major": 0, "swap": 0, "work": 0}
        looked = dict(quiet)
        for _ in range(4):
            for sums, look in ((quiet, False), (looked, True)):
                before = counters(node)
                if look:
                    looks_for(node, SECONDS / 8)
                else:
                    time.sleep(SECONDS / 8)
                for key, value in moved(before, counters(node)).items():
                    sums[key] += value
        tap.note("%s quiet %r, looked at %r" % (label, quiet, looked))
        ratio = looked["work"] / max(1, quiet["work"])
        tap.ok("%s: does %.0f%% of the work while looked at" % (label, ratio * 100), ratio > 0.75)
        per_quiet = quiet["minor"] / max(1, quiet["work"])
        per_looked = looked["minor"] / max(1, looked["work"])
        tap.ok("%s: minor faults per work %.3f, %.3f without" % (label, per_looked, per_quiet),
               per_looked <= 1.3 * per_quiet + 0.02)
        tap.ok("%s: no major faults, no swap because of looks" % label,
               looked["major"] <= quiet["major"] + 2 and looked["swap"] <= max(0, quiet["swap"]),
               looked)

    with Node(release) as node:
        node("binaries", 5000, 10000)
        node("churn", "start")
        node("churn", "stop")
        node.settle()
        before = counters(node)
        for _ in range(10):
            memory(node.pid)
        after = moved(before, counters(node))
        # Two commands to an idle node may fault in a heap page or two.
        tap.ok("%s: ten looks at an idle node: %d minor faults" % (label, after["minor"]),
               after["minor"] <= 20 and after["major"] == 0 and after["swap"] == 0, after)


def main():
    with Tap() as tap:
        for release in releases(tap):
            label = "OTP " + release
            busy(tap, release, label)
            if LONG or release in ("25", "host"):
                unnoticed(tap, release, label)


main()
