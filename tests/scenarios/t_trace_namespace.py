#!/usr/bin/env python3
"""A node in a pid namespace of its own, traced from outside and from inside of it: the kernel
has other ids than the node's /proc; names and sums are the same."""
# timeout: 600

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
from lab import Node, Tap, releases  # noqa: E402
from traced import CHAIN, Denied, Watched, erlang, naps, traced  # noqa: E402


def mine(out, function):
    """The stacks through a function of the NIF."""
    return [s for s in out["stacks"] if any(f.startswith("n:%s@" % function) for f in s["frames"])]


def chained(tap, label, stacks):
    wrong = [s for s in stacks if erlang(s["frames"])[:5] != CHAIN or s["label"] != "trace_leaker"]
    tap.ok(label + ": with the Erlang calls and the process", stacks and not wrong, wrong[:2])


def lossless(tap, label, out):
    tap.equal(label + ": nothing lost", (out["stats"]["lost_records"], out["stats"]["lost_stacks"]),
              (0, 0))


def growth(tap, label, release, inside):
    out, took = traced(release, "leak_normal", 300, 1000, namespaces=True, inside=inside)
    stacks = mine(out, "leak_normal")
    found = sum(s["weight"] for s in stacks)
    tap.ok("%s growth: %d bytes, the NIF says %d" % (label, found, took),
           abs(found - took) <= 0.05 * took)
    chained(tap, label + " growth", stacks)
    lossless(tap, label + " growth", out)


def offcpu(tap, label, release, inside):
    out, slept = naps(release, "nap_dirty", namespaces=True, inside=inside)
    stacks = mine(out, "nap")
    found = sum(s["weight"] for s in stacks)
    tap.ok("%s blocked for %.1f ms, the NIF says %.1f" % (label, found / 1e6, slept / 1e6),
           abs(found - slept) <= 0.02 * slept, [s["frames"] for s in out["stacks"][:3]])
    chained(tap, label + " blocked", stacks)
    lossless(tap, label + " blocked", out)


def cpu(tap, label, release, inside):
    out, _ = traced(release, "burn_normal", 1, 300, rounds=6, pause=1, budget=1, profile="cpu",
                    frequency=997, namespaces=True, inside=inside)
    stacks = mine(out, "burn_normal")
    chained(tap, label + " cpu", stacks)
    wall = [line.split() for line in out["clocks"] if line.startswith("wall ")]
    threads = {t["label"]: t for t in out["threads"]}
    names = {"scheduler": "scheduler ", "dirty_cpu": "dirty cpu ", "dirty_io": "dirty io "}
    theirs = {names[w[1]] + w[2] for w in wall}
    ours = {t["label"] for t in out["threads"] if 1 <= t["role"] <= 3}
    tap.equal(label + " sched: schedulers that the VM does not have", sorted(ours - theirs), [])
    # from inside, those that do not run meanwhile cannot be told
    need = {name for name in theirs if name.startswith("scheduler ")} if inside else theirs
    tap.equal(label + " sched: every scheduler of the VM is there", sorted(need - ours), [])
    wall = [w for w in wall if w[1] == "scheduler"]
    busiest = max(wall, key=lambda w: int(w[3]))
    t = threads.get("scheduler " + busiest[2], {"busy": 0, "ns": [0, 0, 0, 0]})
    ours, theirs = t["busy"] * sum(t["ns"]), int(busiest[3])
    tap.ok("%s sched: busy for %.0f ms, the VM says %.0f" % (label, ours / 1e6, theirs / 1e6),
           abs(ours - theirs) <= 0.1 * theirs + 40e6, t)
    numbers = [name for name in threads if name.startswith("thread ")]
    tap.equal(label + " sched: threads have names", numbers, [])
    lossless(tap, label + " cpu", out)


def gc(tap, label, release, inside):
    with Node(release, namespaces=True) as node:
        node.settle()
        node("call", "gc_load", "prepare", 50)
        with Watched(node, "gc", budget=100, inside=inside) as w:
            truth = node("call", "gc_load", "run")
    seen = {s.split(" ")[0]: (s, f) for s, f in w.out["figures"].get("gc", {}).items()}
    for row in truth:
        name, f = seen.get(row["pid"], ("", {}))
        tap.equal("%s gc %s: minor, major" % (label, row["kind"]),
                  (f.get("minor", 0) + f.get("escalated", 0), f.get("major", 0)),
                  (row["gc_minor_end"], row["gc_major_end"]))
        if row["alive"]:
            tap.equal("%s gc %s: name" % (label, row["kind"]), name,
                      "%s gc_%s" % (row["pid"], row["kind"]))
    lossless(tap, label + " gc", w.out)


def main():
    with Tap() as tap:
        for release in releases(tap):
            for where, inside in (("from outside", False), ("from inside", True)):
                label = "OTP %s %s" % (release, where)
                try:
                    for one in (growth, offcpu, cpu, gc):
                        one(tap, label, release, inside)
                except Denied as e:
                    tap.skip(label, str(e))


if __name__ == "__main__":
    main()
