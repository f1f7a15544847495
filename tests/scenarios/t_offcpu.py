#!/usr/bin/env python3
"""Blocked time by stack: NIFs that sleep, against the time that they say they slept."""
# timeout: 300

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
from lab import Tap, releases  # noqa: E402
from traced import CHAIN, Denied, erlang, naps  # noqa: E402


def check(tap, label, release, kind, untold=0):
    label = "%s %s%s" % (label, kind, ", 1 switch in %d untold" % untold if untold else "")
    out, slept = naps(release, kind, environ={"BEAMRAY_UNTOLD": "%d" % untold})
    mine = [s for s in out["stacks"] if any(f.startswith("n:nap@") for f in s["frames"])]
    found = sum(s["weight"] for s in mine)
    tap.ok("%s: blocked for %.1f ms, the NIF says %.1f" % (label, found / 1e6, slept / 1e6),
           abs(found - slept) <= 0.02 * slept,
           (out["stats"], [(s["weight"], s["frames"]) for s in out["stacks"][:4]]))
    wrong = [s for s in mine if erlang(s["frames"])[:5] != CHAIN or s["label"] != "trace_leaker"]
    tap.ok(label + ": every stack has the Erlang calls and the process", mine and not wrong,
           [s["frames"] for s in wrong[:2]])
    tap.ok(label + ": and the kernel's frames first",
           all(s["frames"][0].startswith("k:") for s in mine), [s["frames"][:4] for s in mine[:2]])
    idle = [s for s in out["stacks"] if s["label"].startswith(("scheduler", "dirty")) and
            s["weight"] > 1e9]
    tap.equal(label + ": schedulers without work are not among them", idle, [])
    walked, complete = out["stats"]["walked"], out["stats"]["complete"]
    tap.ok("%s: %d of %d stacks reach the root" % (label, complete, walked),
           complete >= 0.99 * walked, out["stats"]["cuts"])
    tap.equal(label + ": nothing lost", (out["stats"]["lost_records"], out["stats"]["lost_stacks"]),
              (0, 0))


def main():
    with Tap() as tap:
        for release in releases(tap):
            try:
                for kind in ("nap_normal", "nap_dirty"):
                    check(tap, "OTP " + release, release, kind)
                check(tap, "OTP " + release, release, "nap_dirty", untold=3)
            except Denied as e:
                tap.skip("OTP %s blocked time" % release, str(e))


if __name__ == "__main__":
    main()
