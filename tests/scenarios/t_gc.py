#!/usr/bin/env python3
"""Collections: counted by beamray and by the VM's own tracer, process by process."""
# timeout: 600

import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
import lab  # noqa: E402
from lab import Node, Tap, releases  # noqa: E402
from recorder import Recorder, wait_looks  # noqa: E402
from traced import Denied, Watched  # noqa: E402


def figures(out):
    """Figures by pid; the pid is the first word of a subject."""
    return {s.split(" ")[0]: (s, f) for s, f in out["figures"].get("gc", {}).items()}


def one_process(tap, label, row, subject, f):
    """What the tracer saw of a process against what we counted."""
    kind = row["kind"]
    name = "%s %s" % (label, kind)
    tap.equal(name + ": minor collections", f["minor"] + f["escalated"], row["gc_minor_end"])
    tap.equal(name + ": major collections", f["major"], row["gc_major_end"])
    tap.equal(name + ": collections begun",
              f["minor"] + f["escalated"] + f["major"] + f["killed"],
              row["gc_minor_start"] + row["gc_major_start"])
    if f["reclaimed_unknown"]:
        # two dirty schedulers were done at once: rare, and said so
        tap.ok(name + ": words given back, but for %d collections" % f["reclaimed_unknown"],
               f["reclaimed_words"] < row["reclaimed"] and
               f["reclaimed_unknown"] <= 1 + f["dirty"] // 50,
               "%d, should be below %d" % (f["reclaimed_words"], row["reclaimed"]))
    else:
        tap.equal(name + ": words given back", f["reclaimed_words"], row["reclaimed"])
    tap.equal(name + ": large heaps", f["large_heap"], row["large_heap"])
    # The VM reads its clock inside of the call that we time, and behind our trap, which
    # is where the kernel likes to give the processor to somebody else.
    tap.ok("%s: long collections: %d, system_monitor %d" % (name, f["long_gc"], row["long_gc"]),
           row["long_gc"] <= f["long_gc"] and
           (not kind.startswith("dirty") or f["long_gc"] <= row["long_gc"] * 1.2 + 5))
    done = f["minor"] + f["major"]
    buckets = {int(k[3:]): v for k, v in f.items() if k.startswith("ns.")}
    tap.ok(name + ": times fit together",
           sum(buckets.values()) == done and f["ns_max"] <= f["ns"] and
           (not done or max(buckets) == f["ns_max"].bit_length() - 1) and
           sum(v << k for k, v in buckets.items()) <= f["ns"] < sum(2 * v << k for k, v in
                                                                   buckets.items()) + 1, f)
    if row["alive"]:
        tap.ok(name + ": named", subject == "%s gc_%s" % (row["pid"], kind), subject)
    else:
        tap.ok(name + ": no other name", subject in (row["pid"], "%s gc_%s" % (row["pid"], kind),
                                                     row["pid"] + " gc_load:worker/2"), subject)


def one_release(tap, label, release):
    with Node(release) as node:
        node.settle()
        node("call", "gc_load", "prepare", 400)
        with Watched(node, "gc") as w:
            truth = node("call", "gc_load", "run")
        out, by_pid = w.out, figures(w.out)
        for row in truth:
            if row["pid"] not in by_pid:
                tap.ok("%s %s: seen" % (label, row["kind"]), False, sorted(by_pid))
                continue
            one_process(tap, label, row, *by_pid[row["pid"]])
        kinds = {row["kind"]: by_pid[row["pid"]][1] for row in truth if row["pid"] in by_pid}
        tap.ok(label + ": dirty schedulers collected", kinds["dirty"]["dirty"] > 10 and
               kinds["dirty2"]["dirty"] > 10 and kinds["on_heap"]["dirty"] > 0, kinds["dirty"])
        tap.ok(label + ": minor ones gave way to major ones", kinds["grow"]["escalated"] > 0,
               kinds["grow"])
        total = sum(f["minor"] + f["major"] for _, f in by_pid.values())
        weight = sum(s["weight"] for s in out["stacks"])
        tap.equal(label + ": the profile holds every collection", weight + out["without_stack"],
                  total)
        mine = [s for s in out["stacks"] if s["label"] == "gc_minor"]
        seen = sum(s["weight"] for s in mine)
        good = sum(s["weight"] for s in mine if "e:gc_load:garbage/1" in s["frames"] and
                   s["frames"][-1] == "e:gc_load:worker/2")
        tap.ok("%s: %d of %d stacks lead from the load to the collector" % (label, good, seen),
               seen > 0 and good >= 0.99 * seen, [s["frames"] for s in mine[:2]])
        mine = [s for s in out["stacks"] if s["label"] == "gc_fields"]
        cut = [s for s in mine if not s["complete"]]
        tap.ok("%s: stacks out of the making of binaries: %d" % (
            label, sum(s["weight"] for s in mine)),
               mine and (not cut or release == "23"), [s["frames"] for s in cut[:2]])
        st = out["stats"]
        tap.equal(label + ": nothing lost", (st["full"], st["read_failed"], st["lost_records"],
                                             st["lost_stacks"], st["missed"]), (0, 0, 0, 0, 0))
        tap.note("%s: %d collections, %d stacks walked, %d of them complete" % (
            label, total, st["walked"], st["complete"]))


def recorded(tap, label, release):
    """The same through `beamray record --gc` and `report`."""
    with Node(release) as node:
        node.settle()
        node("call", "gc_load", "prepare", 100)
        file = lab.WORK / ("gc-%s-%d.beamray" % (release, os.getpid()))
        run = Recorder(node.pid, file, "--gc", "--long-gc", "5ms", "--large-heap", "1000000",
                       "--budget", "100", "-d", "120s", "-i", "1s")
        if not wait_looks(file, 1):
            run.process.kill()
        truth = node("call", "gc_load", "run")
        run.process.send_signal(signal.SIGINT)
        code, _, err = run.end()
        if code == 4 or "not traced" in err:
            tap.skip(label + ": recorded", err)
            return
        report = lab.beamray("report", file, "-f", "json").json()
        stepped = "single-steps"
        said = [n for n in report["notes"] if stepped in n]
        tap.equal(label + ": a probe that is single-stepped is said before it starts, and recorded "
                  "once", (err.count(stepped), len(said)), (1, 1) if release == "29" else (0, 0))
        by_pid = {r["process"].split(" ")[0]: r for r in report["collections"]}
        wrong = [(row, by_pid.get(row["pid"])) for row in truth
                 if row["pid"] not in by_pid or
                 (by_pid[row["pid"]]["minor"] + by_pid[row["pid"]]["escalated"],
                  by_pid[row["pid"]]["major"], by_pid[row["pid"]]["reclaimed_words"]) !=
                 (row["gc_minor_end"], row["gc_major_end"], row["reclaimed"]) and
                 not by_pid[row["pid"]]["reclaimed_unknown"]]
        tap.ok(label + ": what was recorded equals what the VM's tracer saw", not wrong, wrong[:2])
        tap.ok(label + ": kinds", {"growth", "carrier", "gc", "gc_time"} <= set(report["kinds"]),
               report["kinds"])
        text = lab.beamray("report", file).out
        tap.ok(label + ": tables of collections and carriers", "COLLECTIONS BY PROCESS" in text and
               "CARRIERS BY ALLOCATOR" in text and "gc_minor" in text, text[-800:])
        file.unlink()


def many(tap, label, release):
    """More processes than there is room for: counted all the same, and said so."""
    with Node(release) as node:
        node.settle()
        w = Watched(node, "gc", budget=100)
        node.send("call", "gc_load", "many", w.go, 40000)
        with w:
            collections, words = node.receive()
        rows = list(w.out["figures"]["gc"].items())
        ours = sum(f["minor"] + f["major"] for _, f in rows)
        back = sum(f["reclaimed_words"] for _, f in rows)
        # what tells the two clocks apart is a file that is waited for and an answer
        tap.ok("%s: %d collections of %d processes, statistics() says %d" % (
            label, ours, len(rows), collections), 0 <= ours - collections <= 30)
        tap.ok("%s: %d words given back, statistics() says %d" % (label, back, words),
               0 <= back - words <= 0.02 * words + 100000)
        others = [f for s, f in rows if s.startswith("(")]
        tap.ok(label + ": what there was no room for is counted",
               len(others) == 1 and others[0]["major"] > 10000 and w.out["stats"]["full"] > 10000,
               (others, w.out["stats"]["full"]))


def rough(tap, label, release):
    """Killed, detached and attached again amid collections; and the node's own end."""
    with Node(release) as node:
        node("call", "gc_load", "churn_start", 2)
        w = Watched(node, "gc", budget=100)
        with w:
            w.process.kill()
            w.process.wait()
            tap.equal(label + ": the node lives when the tracer is killed", node("ping"), "pong")
            w.process = w.start()
        f = figures(w.out)
        tap.ok(label + ": attached again it counts", sum(x["minor"] for _, x in f.values()) > 0, f)
        tap.equal(label + ": the node lives when it has detached", node("ping"), "pong")
        w = Watched(node, "gc", budget=100)
        w.process = w.start()
        os.kill(node.pid, signal.SIGKILL)
        _, err = w.process.communicate(timeout=60)
        tap.ok(label + ": a node that ends is said to have ended", w.process.returncode == 5 and
               "has ended" in err, (w.process.returncode, err))


def main():
    with Tap() as tap:
        for release in releases(tap):
            try:
                one_release(tap, "OTP " + release, release)
                recorded(tap, "OTP " + release, release)
                many(tap, "OTP " + release, release)
                rough(tap, "OTP " + release, release)
            except Denied as e:
                tap.skip("OTP %s collections" % release, str(e))


if __name__ == "__main__":
    main()
