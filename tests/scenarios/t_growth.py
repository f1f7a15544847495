#!/usr/bin/env python3
"""Growth by page faults: a NIF that leaks in every way it can, against its own count."""
# timeout: 600

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
from lab import Tap, releases  # noqa: E402
from traced import CHAIN, Denied, erlang, traced  # noqa: E402


def names(stack, function):
    return any(f.startswith("n:%s@trace_nif.so" % function) for f in stack["frames"])


def check(tap, label, out, took, function, chain=True, joined=False, process=True):
    """The top stack is the leak, and all of its bytes are found."""
    top = out["stacks"][0]
    shown = " < ".join(top["frames"])
    if not took:
        tap.skip(label, "this VM has no C++ runtime")
        return
    tap.ok(label + ": top stack names the NIF function", names(top, function), shown)
    if chain:
        tap.ok(label + ": and the Erlang calls", erlang(top["frames"])[:5] == CHAIN, shown)
        tap.ok(label + ": joined only on a dirty scheduler", ("joined" in top["frames"]) == joined,
               shown)
    if process:
        tap.equal(label + ": label", top["label"], "trace_leaker")
    mine = [s for s in out["stacks"] if names(s, function)]
    found = sum(s["weight"] for s in mine)
    tap.ok("%s: %d bytes, truth %d (%+.2f%%)" % (label, found, took, 100.0 * found / took - 100),
           abs(found - took) <= 0.05 * took, "off by %d" % (found - took))
    if chain:
        wrong = [s for s in mine if erlang(s["frames"])[:5] != CHAIN]
        tap.ok(label + ": no other chain of Erlang calls",
               sum(s["gross"] for s in wrong) <= 0.01 * took,
               "; ".join(" < ".join(s["frames"]) for s in wrong[:3]))
    checks_always(tap, label, out)


def checks_always(tap, label, out, least=0.99):
    total, st = out["sum"], out["stats"]
    tap.equal(label + ": the parts add up", total["closing"] - total["opening"],
              total["owned"] + total["unowned"] + total["moved"] - total["released"])
    tap.equal(label + ": weights are the owned bytes",
              sum(s["weight"] for s in out["stacks"]), total["owned"])
    tap.equal(label + ": nothing lost", (st["lost_records"], st["lost_stacks"], total["lost"]),
              (0, 0, 0))
    share = st["complete"] / max(1, st["walked"])
    tap.ok("%s: %d of %d stacks reach the root" % (label, st["complete"], st["walked"]),
           share >= least, {k: v for k, v in st["cuts"].items() if v})
    for stack in out["stacks"]:
        if not stack["complete"]:
            Tap.note("%s: cut: %s" % (label, " < ".join(stack["frames"])))
    Tap.note("%s: cost %.2f%% of a core, %d faults in %.1f s, maps %.1f MB" % (
        label, 100 * st["cpu_fraction"], st["faults"], st["seconds"], st["kernel_bytes"] / 1e6))


def main():
    with Tap() as tap:
        for release in releases(tap):
            try:
                one_release(tap, "OTP " + release, release)
            except Denied as e:
                tap.skip("OTP %s growth" % release, str(e))


def one_release(tap, label, release):
    plain = [("leak_normal", 300, 1000), ("leak_mmap", 1, 300000), ("leak_new", 300, 1000),
             ("leak_realloc", 1, 300000)]
    for kind, count, size in plain:
        out, took = traced(release, kind, count, size)
        check(tap, "%s %s" % (label, kind), out, took, kind)
    for kind in ("leak_dirty_cpu", "leak_dirty_io"):
        out, took = traced(release, kind, 300, 1000)
        check(tap, "%s %s" % (label, kind), out, took, kind, joined=True)
    out, took = traced(release, "leak_thread", 3000, 3000, rounds=1)
    check(tap, label + " leak_thread", out, took, "worker_main", chain=False, process=False)

    out, took = traced(release, "deep", 10, 10000, rounds=50)
    top = next((s for s in out["stacks"] if names(s, "leak_normal")), None)
    frames = top["frames"] if top else []
    tap.ok(label + " recursion of 10,000: repeated, cut in the middle, root kept",
           top is not None and erlang(frames)[-5:] == CHAIN and
           "e:trace_load:deep/2" in frames and any(f.startswith("repeat:1:") for f in frames),
           " < ".join(frames))
    # A fault in the middle of a heap's move, below a deep stack: cut, and said so.
    checks_always(tap, label + " deep", out, 0.9)

    if release != "23":
        # frame pointers in JIT code: other stacks, same answer
        out, took = traced(release, "leak_normal", 300, 1000, flags=("+JPperf", "true"))
        check(tap, label + " with frame pointers", out, took, "leak_normal")

    # 64 KB a second on a node that faults thousands of pages a second
    out, took = traced(release, "slow", 7, 1000, rounds=120, pause=100)
    mine = [s for s in out["stacks"] if names(s, "leak_normal") or names(s, "take_malloc")]
    found = sum(s["weight"] for s in mine)
    tap.ok("%s slow leak in %d faults: %d bytes, truth %d" % (
        label, out["stats"]["faults"], found, took), abs(found - took) <= 0.1 * took + 65536,
        "off by %d" % (found - took))
    checks_always(tap, label + " slow", out, 0.9)

    out, _ = traced(release, "no_leak", 10, 1000000)
    kept = sum(s["weight"] for s in out["stacks"] if names(s, "no_leak"))
    gross = sum(s["gross"] for s in out["stacks"] if names(s, "no_leak"))
    tap.ok("%s given back: %d bytes kept of %d" % (label, kept, gross),
           gross >= 390000000 and kept <= 0.01 * gross, [s for s in out["stacks"][:3]])
    checks_always(tap, label + " no_leak", out)


if __name__ == "__main__":
    main()
