#!/usr/bin/env python3
"""Where schedulers spend their time, against the VM's own clocks: scheduler_wall_time,
microstate accounting, and the system monitor's long schedules."""
# timeout: 600

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
from lab import LONG, Tap, releases  # noqa: E402
from traced import Denied, traced  # noqa: E402

RUNNING, PREEMPTED, BLOCKED, IDLE = range(4)
OTHER, WAITING, SCHEDULER, PROCESS, GC, NIF, PORT = range(7)

# load, count, size, rounds; the thread that does it; what its samples mostly are
LOADS = [
    ("idle", 1, 2000, 1, "scheduler 1", None),
    ("duty", 20, 4000, 1, "scheduler 1", PROCESS),
    ("duty", 50, 4000, 1, "scheduler 1", PROCESS),
    ("duty", 100, 2000, 1, "scheduler 1", PROCESS),
    ("collect", 200, 20000, 12, "scheduler 1", GC),
    ("burn_normal", 1, 300, 6, "scheduler 1", NIF),
    ("burn_dirty", 1, 300, 6, "dirty cpu", NIF),
    ("nap_normal", 1, 200, 6, "scheduler 1", None),
    ("driver", 100, 10000000, 2, "scheduler 1", PORT),
]

KINDS = {"scheduler": "scheduler", "dirty_cpu": "dirty cpu", "dirty_io": "dirty io",
         "dirty_cpu_scheduler": "dirty cpu", "dirty_io_scheduler": "dirty io"}


def clocks(lines):
    """What the VM says: wall {label: (active, total)}, states {label: {state: ns}}, long schedules."""
    wall, states, long = {}, {}, (0, 0)
    for line in lines:
        f = line.split()
        if f[:1] == ["wall"]:
            wall["%s %s" % (KINDS[f[1]], f[2])] = (int(f[3]), int(f[4]))
        elif f[:1] == ["acct"] and f[1] in KINDS:
            states.setdefault("%s %s" % (KINDS[f[1]], f[2]), {})[f[3]] = int(f[4])
        elif f[:1] == ["long"]:
            long = (int(f[1]), int(f[2]))
    return wall, states, long


def busy_machine(out):
    """Did the node's threads often have to wait for a processor?"""
    return sum(t["ns"][PREEMPTED] for t in out["threads"]) > 0.05 * max(
        sum(t["ns"]) for t in out["threads"])


def share(ns, whole):
    return 100.0 * ns / whole if whole else 0.0


def one_load(tap, label, release, load, untold=0):
    kind, count, size, rounds, thread, state = load
    label = "%s %s %d" % (label, kind, count)
    if untold:
        label += ", 1 return in %d untold" % untold
    out, _ = traced(release, kind, count, size, rounds=rounds, pause=1, budget=1, profile="cpu",
                    frequency=997, environ={"BEAMRAY_UNTOLD": "%d" % untold})
    wall, acct, long = clocks(out["clocks"])
    threads = {t["label"]: t for t in out["threads"]}
    tap.equal(label + ": every scheduler of the VM is there", sorted(set(wall) - set(threads)), [])
    for name, (active, _) in sorted(wall.items()):
        t = threads.get(name)
        if not t:
            continue
        total = sum(t["ns"])
        ours, error = t["busy"] * total, t["error"] * total
        # we begin a little earlier and end later than the VM's clocks
        off = abs(ours - active)
        slack = 40e6 + 4 * error + 0.02 * active
        if busy_machine(out):  # what we see more of takes longer
            slack += 60e6 + 0.1 * t["ns"][PREEMPTED]
        if active > 50e6 or off > 50e6:
            tap.ok("%s %s: busy %.0f ms +- %.0f, the VM says %.0f" % (
                label, name, ours / 1e6, error / 1e6, active / 1e6),
                off <= slack, "of %.0f ms: %s" % (total / 1e6, t))
    busiest = max(out["threads"], key=lambda t: t["ns"][RUNNING])
    if state is not None:
        tap.ok(label + ": the busiest is " + thread, busiest["label"].startswith(thread),
               busiest["label"])
    samples = busiest["samples"]
    if state == GC:
        mine = share(samples[GC], sum(samples[PROCESS:]))
        told = acct.get(busiest["label"], {})
        theirs = share(told.get("gc", 0) + told.get("gc_fullsweep", 0),
                       sum(told.get(k, 0) for k in ("emulator", "gc", "gc_fullsweep")))
        tap.ok("%s: %.0f%% of it collects, microstate accounting says %.0f%%" % (label, mine, theirs),
               abs(mine - theirs) <= 12, (samples, told))
    elif state == PORT:
        told = acct.get(busiest["label"], {})
        mine = share(samples[PORT], sum(samples[PROCESS:]))
        theirs = share(told.get("port", 0), told.get("port", 0) + told.get("emulator", 0))
        tap.ok("%s: %.0f%% of it in the port, microstate accounting says %.0f%%" % (
            label, mine, theirs), samples[PORT] > 0 and abs(mine - theirs) <= 15, (samples, told))
    elif state is not None:
        tap.ok(label + ": nearly all samples are of that kind",
               samples[state] >= 0.95 * (sum(samples) - samples[WAITING] - samples[SCHEDULER]),
               samples)
    leaker = next((p for p in out["processes"] if p["label"] == "trace_leaker"), {"long": 0})
    kept = busy_machine(out)
    if kind in ("burn_normal", "duty", "burn_dirty"):
        # what is long only because the machine was busy with other things is not seen
        tap.ok("%s: %d long schedules, the system monitor has %d%s" % (
            label, leaker["long"], long[0], " on a busy machine" if kept else ""),
            leaker["long"] <= long[0] if kept else leaker["long"] == long[0], leaker)
    if leaker["long"] and (leaker["long"] == long[0] or not kept):
        low, high = leaker["longest_ns"] / 1e6, leaker["longest_most_ns"] / 1e6
        tap.ok("%s: the longest took between %.0f and %.0f ms, the monitor says %d" % (
            label, low, high, long[1]), low <= long[1] + 1 and (not high or high >= long[1] - 1))


def schedules(tap, label, release):
    """Long schedules at the default frequency: never one that is none; from 100 ms and two
    periods on all of them, and all that are long because they block."""
    for kind, ms, all_of_them in (("burn_normal", 70, False), ("burn_normal", 120, False),
                                  ("burn_normal", 160, True), ("nap_normal", 150, True),
                                  ("nap_normal", 70, True)):
        out, _ = traced(release, kind, 1, ms, rounds=10, pause=20, budget=1, profile="cpu")
        _, _, (told, longest) = clocks(out["clocks"])
        mine = next((p for p in out["processes"] if p["label"] == "trace_leaker"), {"long": 0})
        kept = busy_machine(out)
        name = "%s %s of %d ms at 49 Hz: %d long schedules, the monitor has %d%s" % (
            label, kind, ms, mine["long"], told, " on a busy machine" if kept else "")
        tap.ok(name, mine["long"] == told if all_of_them and not kept else mine["long"] <= told,
               mine)
        if mine["long"]:
            tap.ok(name + ": at least %.0f ms, the longest took %d" % (
                mine["longest_ns"] / 1e6, longest), mine["longest_ns"] / 1e6 <= longest + 1)


def main():
    with Tap() as tap:
        for release in releases(tap):
            try:
                for load in LOADS if LONG else LOADS[:1] + LOADS[2:]:
                    one_load(tap, "OTP " + release, release, load)
                # the kernel does not tell of a switch now and then
                for load, untold in ((LOADS[1], 3), (LOADS[7], 3)):
                    one_load(tap, "OTP " + release, release, load, untold)
                schedules(tap, "OTP " + release, release)
            except Denied as e:
                tap.skip("OTP %s schedulers" % release, str(e))


if __name__ == "__main__":
    main()
