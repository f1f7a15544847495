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
    """What the kernel counts of the target, and the work that it did.

    Others use this machine too, beamray among them. Time in which the busiest thread
    was ready but had no core is therefore not counted; time in which it waited for a
    lock of its own process (as the mmap lock, which reads take) is.
    """
    threads = [(task / "schedstat").read_text().split()
               for task in Path("/proc/%d/task" % node.pid).iterdir()]
    _, delay = max((int(spent), int(waited)) for spent, waited, _ in threads)
    fields = Path("/proc/%d/stat" % node.pid).read_text().rsplit(")", 1)[1].split()
    status = Path("/proc/%d/status" % node.pid).read_text()
    swap = [int(line.split()[1]) for line in status.splitlines() if line.startswith("VmSwap")]
    return {"minor": int(fields[7]), "major": int(fields[9]), "swap": swap[0] if swap else 0,
            "time": time.monotonic() - delay / 1e9, "work": node("churn", "count")}


def moved(before, after):
    return {key: after[key] - before[key] for key in before}


def problem_of(run):
    """None, "incomplete", or what is wrong with one look at a busy node.

    Carriers come and go while they are looked for. A look that missed more than a
    hundredth says so (exit code 6, and why); its sums must be right all the same.
    """
    if run.code not in (0, 6):
        return "exit code %d: %s" % (run.code, run.err.strip()[-300:])
    look = run.json()
    total = sum(row["bytes"] for row in look["ledger"])
    if total != look["os"]["rss"]:
        return "accounts add up to %d, os.rss is %d" % (total, look["os"]["rss"])
    if any(row["bytes"] < 0 for row in look["ledger"]):
        return "a negative account"
    if look["walk"]["errors"]:
        return "walk: %r" % look["walk"]
    if look["complete"] != (run.code == 0):
        return "exit code %d, complete is %r" % (run.code, look["complete"])
    if run.code == 6:
        return "incomplete" if look["notes"] else "incomplete, and not said why"
    if accounts(look)["unattributed"] >= 0.01 * total:
        return "unattributed %d of %d" % (accounts(look)["unattributed"], total)
    return None


class Looks:
    """Looks in a loop, for so many seconds."""

    def __init__(self, node, seconds):
        self.problems, self.count, self.torn, self.incomplete, self.slowest = [], 0, 0, 0, 0.0
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            run = memory(node.pid, timeout=20)
            self.count += 1
            self.slowest = max(self.slowest, run.seconds)
            problem = problem_of(run)
            if problem == "incomplete":
                self.incomplete += 1
                self.why = run.json()["notes"]
            elif problem:
                self.problems.append(problem)
            if run.code in (0, 6):
                self.torn += run.json()["walk"]["torn"]


def busy(tap, release, label):
    with Node(release) as node:
        node("churn", "start")
        time.sleep(1)
        looks = Looks(node, SECONDS)
        tap.ok("%s: %d looks at a busy node, none wrong (%d carriers torn, slowest %.2f s)"
               % (label, looks.count, looks.torn, looks.slowest),
               looks.count > 0 and not looks.problems,
               "%d wrong: %s" % (len(looks.problems), "; ".join(looks.problems[:3])))
        tap.ok("%s: %d of them incomplete" % (label, looks.incomplete),
               looks.incomplete <= 0.25 * looks.count, looks.incomplete and looks.why)
        tap.equal("%s: the node lives" % label, node("ping"), "pong")


def unnoticed(tap, release, label):
    """With a core of its own for the looks: work and faults per work as without them."""
    with Node(release, ["+S", "1:1", "+SDcpu", "1:1"]) as node:
        node("churn", "start")
        time.sleep(2)
        pairs = []
        for _ in range(4):
            pair = []
            for look in (False, True):
                before = counters(node)
                if look:
                    Looks(node, SECONDS / 8)
                else:
                    time.sleep(SECONDS / 8)
                pair.append(moved(before, counters(node)))
            pairs.append(pair)
        tap.note("%s quiet and looked at: %r" % (label, pairs))
        # What looks cost they cost in every pair; what else the machine does comes and goes.
        speed = max((looked["work"] / looked["time"]) / max(1, quiet["work"] / quiet["time"])
                    for quiet, looked in pairs)
        faults = min(looked["minor"] / looked["time"] - quiet["minor"] / quiet["time"]
                     for quiet, looked in pairs)
        tap.ok("%s: works at %.0f%% of its speed while looked at" % (label, speed * 100),
               speed > 0.75)
        tap.ok("%s: %.0f minor faults a second more than without looks" % (label, faults),
               faults <= 100, pairs)
        tap.ok("%s: no major faults, no swap because of looks" % label,
               sum(looked["major"] - quiet["major"] for quiet, looked in pairs) <= 2
               and sum(looked["swap"] for _, looked in pairs)
               <= max(0, sum(quiet["swap"] for quiet, _ in pairs)), pairs)

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
