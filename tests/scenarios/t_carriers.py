#!/usr/bin/env python3
"""Carriers: made, given back and resized, against the VM's own counters."""
# timeout: 600

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
from lab import Node, Tap, releases  # noqa: E402
from traced import Denied, Watched  # noqa: E402


def ours(figures, allocator):
    """The VM's names for what we counted of one allocator."""
    out = {}
    for way, sbc in (("mseg", "mbc"), ("mseg", "sbc"), ("sys", "mbc"), ("sys", "sbc")):
        f = figures.get("%s %s %s" % (allocator, way, sbc), {})
        get = lambda k: f.get(k, 0)  # noqa: E731
        calls = (("alloc", get("created") + get("failed")), ("realloc", get("resized") +
                 get("failed_resizes")), ("dealloc" if way == "mseg" else "free", get("destroyed")))
        for name, n in calls:
            key = "%s_%s" % (way, name)
            out[key] = out.get(key, 0) + n
        out["%s_%s_alloc_carriers" % (sbc, way)] = get("created") - get("destroyed")
        out["%s_%s_alloc_carriers_size" % (sbc, way)] = (
            get("created_bytes") + get("grown_bytes") - get("destroyed_bytes") -
            get("shrunk_bytes"))
    return out


def in_transit(should):
    """Carriers that the VM's own calls know of and its sums do not: it takes one out of an
    instance's sums before the instance that it is from gives it back."""
    calls = sum(should[k] for k in ("mseg_alloc", "sys_alloc"))
    calls -= sum(should[k] for k in ("mseg_dealloc", "sys_free"))
    return calls - sum(v for k, v in should.items() if k.endswith("_alloc_carriers"))


def one_release(tap, label, release, flags):
    with Node(release, flags=flags) as node:
        node.settle()
        w = Watched(node, "carrier")
        node.send("call", "carrier_load", "measure", w.go, 20)
        with w:
            node.receive()
        change = node("call", "carrier_load", "change")
        figures = w.out["figures"].get("carriers", {})
        notice = w.out["stats"]["notice"]
        if flags and "copied sys_alloc" in notice:
            tap.skip(label + ": sys_alloc", "it says so itself: " + notice)
            return
        seen = set()
        for allocator, should in sorted(change.items()):
            is_ = ours(figures, allocator)
            if not any(should.values()) and not any(is_.values()):
                continue
            seen.add(allocator)
            wrong = {k: (is_.get(k, 0), v) for k, v in should.items() if is_.get(k, 0) != v}
            away = in_transit(should)
            if away:
                tap.note("%s %s: the VM's sums lack %d carriers of its calls: sums not compared" %
                         (label, allocator, away))
                wrong = {k: v for k, v in wrong.items() if "carriers" not in k}
            tap.ok("%s %s: calls, carriers and bytes (%d made, %d given back)" % (
                label, allocator, is_["mseg_alloc"] + is_["sys_alloc"],
                is_["mseg_dealloc"] + is_["sys_free"]), not wrong, "ours, VM's: %s" % wrong)
        tap.ok(label + ": the load made carriers of every kind",
               {"eheap_alloc", "binary_alloc", "ets_alloc", "literal_alloc"} <= seen, seen)
        for subject, f in figures.items():
            lives = sum(v for k, v in f.items() if k.startswith("life."))
            tap.ok("%s %s: every life has a length" % (label, subject),
                   lives == f["destroyed"] - f["older"] and f["untracked"] == 0, f)
        # the profile: what was made and is still there, by stack
        net = sum(f["created_bytes"] + f["grown_bytes"] - f["shrunk_bytes"] -
                  f["destroyed_bytes"] + f["older_bytes"] for f in figures.values())
        weight = sum(s["weight"] for s in w.out["stacks"]) + w.out["without_stack"]
        older = any(f["older"] for f in figures.values())
        tap.ok("%s: the profile is what was made and stays: %d" % (label, weight),
               weight == net or older and abs(weight - net) < 0.1 * abs(net), net)
        keeper = [s for s in w.out["stacks"] if s["label"] == "carrier_keeper" and s["weight"] > 0]
        tap.ok(label + ": what stays is its maker's",
               sum(s["weight"] for s in keeper) > 0.5 * weight,
               [(s["label"], s["weight"]) for s in w.out["stacks"][:5]])
        good = sum(s["weight"] for s in keeper if "e:carrier_load:keep/0" in s["frames"])
        tap.ok(label + ": and its stack says where", keeper and
               good > 0.9 * sum(s["weight"] for s in keeper), [s["frames"] for s in keeper[:2]])
        st = w.out["stats"]
        tap.equal(label + ": nothing lost", (st["full"], st["read_failed"], st["lost_records"],
                                             st["lost_stacks"], st["missed"]), (0, 0, 0, 0, 0))
        tap.note("%s: %d hits, %d stacks walked, %d complete" % (label, st["hits"], st["walked"],
                                                                 st["complete"]))


def main():
    with Tap() as tap:
        for release in releases(tap):
            try:
                one_release(tap, "OTP " + release, release, ())
                # single-block carriers by sys_alloc, that is malloc
                one_release(tap, "OTP %s sys_alloc" % release, release,
                            ("+MBmmsbc", "0", "+MHmmsbc", "0"))
            except Denied as e:
                tap.skip("OTP %s carriers" % release, str(e))


if __name__ == "__main__":
    main()
