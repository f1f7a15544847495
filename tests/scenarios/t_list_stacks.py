#!/usr/bin/env python3
"""`list stacks`: where processes wait, against process_info(P, current_stacktrace)."""
# timeout: 300

import collections
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
from lab import LONG, Node, Tap, beamray, releases  # noqa: E402


def listing(node, *args):
    return beamray("list", "-p", node.pid, "stacks", "--json", *args).json()


def stacks(document):
    """By number: [row, frames], a frame being (function, line); None where some are left out."""
    found = {r["stack"]: (r, []) for r in document["rows"]}
    for f in document["frames"]:
        found[f["stack"]][1].append(
            None if f["frame"] is None else (f["function"], f["line"], f["times"] or 1))
    return found


def same(ours, vms):
    """The VM leaves out repetitions, and tells lines of the code as loaded; a frame of ours
    that is deeper than backtrace_depth is not in its answer."""
    a = [(f[0], f[1]) if f else None for f in ours]
    if not vms:  # the JIT has nothing to say of one that hibernates; current_function has
        return [f and f[0] for f in a] == ["erlang:hibernate/3"]
    b = [tuple(f) for f in vms]
    # lines of the same function may differ where the VM says none
    def equal(x, y):
        return x[0] == y[0] and (x[1] == y[1] or y[1] is None or x[1] is None)
    if None in a:
        at = a.index(None)
        leaf, root = a[:at], a[at + 1:]
        return (len(b) >= len(leaf) and all(equal(x, y) for x, y in zip(leaf, b))
                and (len(b) >= 990 or all(equal(x, y) for x, y in zip(root, b[len(b) - len(root):]))))
    return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b))


def check_each(tap, node, label, made):
    """Each process by itself, ours and the VM's own."""
    truth = {p["pid"]: p["frames"] for p in node("call", "stack_truth", "stacks")}
    kinds = {pid: kind for kind, pid in made.items()}
    right, wrong, lines = 0, [], 0
    for pid, frames in truth.items():
        document = listing(node, "--process", pid)
        if pid not in kinds and not document["rows"]:
            continue  # it ended, or answers us
        ours = stacks(document)
        if len(ours) == 1 and same(ours[1][1], frames):
            right += 1
            lines += sum(1 for f in ours[1][1] if f and f[1])
        else:
            wrong.append((kinds.get(pid, pid), [o[1][:6] for o in ours.values()], frames[:6]))
    tap.note("%s: %d processes, %d frames with lines" % (label, right, lines))
    tap.ok("%s: stacks of %d of %d processes are those of current_stacktrace, each of the %d made "
           "among them" % (label, right, len(truth), len(made)),
           right >= 0.99 * len(truth) and not any(w[0] in made for w in wrong), wrong[:4])


def check_whole(tap, node, label, made):
    """All in one look: as many of each as the VM says."""
    for _ in range(4):
        truth = node("call", "stack_truth", "stacks")
        document = listing(node)
        again = node("call", "stack_truth", "stacks")
        if truth == again:
            break
        time.sleep(0.2)
    ours = stacks(document)
    counts = collections.Counter()
    unmatched = []
    for row, frames in ours.values():
        hits = [p for p in truth if same(frames, p["frames"])]
        if len(hits) < row["processes"] - (row["label"] == "scenario"):
            unmatched.append((row, frames[:4], len(hits)))
        counts["processes"] += row["processes"]
    tap.ok("%s: every stack is that of as many processes" % label, not unmatched, unmatched[:3])
    tap.equal("%s: all processes are in it" % label,
              (counts["processes"] + document["summary"]["running"], document["complete"],
               document["torn"]), (len(truth) + 1, True, 0))
    rows = {r["pid"]: r for r, _ in ours.values()}
    deep = rows.get(made["deep"], {})
    tap.ok("%s: 10,000 deep is said so" % label, 10000 <= (deep.get("deepest") or 0) <= 10010, deep)
    tap.ok("%s: each ends where it began, or says so" % label,
           all(r["complete"] for r, _ in ours.values()), [r for r, _ in ours.values()
                                                         if not r["complete"]][:3])


def check_text(tap, node, label, made):
    for args in ((), ("--process", made["chain"])):
        text = beamray("list", "-p", node.pid, "stacks", *args)
        lines = text.out.splitlines()
        tap.ok("%s: 80 columns, nothing for a terminal to obey%s" % (label, " ".join(args[:1])),
               text.code == 0 and max(map(len, lines)) <= 80 and "\x1b" not in text.out,
               (text.code, text.err))
    by_pid = listing(node, "--process", made["chain"])
    name = by_pid["rows"][0]["label"]
    by_name = listing(node, "--process", name)
    tap.ok("%s: by a hostile registered name as printed" % label,
           "\\x1B" in name and [f["function"] for f in by_name["frames"]]
           == [f["function"] for f in by_pid["frames"]], (name, by_name["rows"]))
    none = listing(node, "--process", "nobody_at_all")
    tap.ok("%s: nobody of that name" % label,
           not none["rows"] and any("nobody_at_all" in n for n in none["notes"]), none["notes"])
    other = beamray("list", "-p", node.pid, "ets", "--process", "x")
    tap.equal("%s: tables have no stacks" % label, (other.code, other.err.count("\n")), (2, 1))


def check_many(tap, release):
    label = "OTP %s, many" % release
    n = 100000 if LONG else 6000
    with Node(release, flags=("+P", "262144")) as node:
        node("call", "stack_truth", "many", str(n), "60", timeout=120)
        document = listing(node)
        top = sorted(r["processes"] for r in document["rows"])[-3:]
        tap.equal("%s: %d processes in three places" % (label, n), top, [n // 3] * 3)
        tap.ok("%s: complete" % label, document["complete"], document["notes"])
    with Node(release) as node:
        node("call", "stack_truth", "churn", "200")
        bad, seen = [], 0
        known = {"stack_truth:wander/1", "stack_truth:wander_deep/1", "timer:sleep/1",
                 "stack_truth:'-churn_loop/1-fun-0-'/2", "erlang:yield/0", "erts_internal:yield/0"}
        for _ in range(20):
            document = listing(node)
            for row, frames in stacks(document).values():
                names = [f[0] for f in frames if f]
                if any("wander" in x for x in names):
                    seen += row["processes"]
                    strange = [x for x in names if x not in known and "-churn_loop" not in x]
                    if strange or not row["complete"]:
                        bad.append((names, row))
        node("call", "stack_truth", "churn_stop")
        tap.ok("%s: under churn %d stacks, none of them false" % (label, seen),
               seen > 200 and not bad, json.dumps(bad[:3]))


def main():
    with Tap() as tap:
        for release in releases(tap):
            label = "OTP " + release
            with Node(release) as node:
                node.settle()
                made = node("call", "stack_truth", "make", "/tmp")
                check_each(tap, node, label, made)
                check_whole(tap, node, label, made)
                check_text(tap, node, label, made)
            if release in ("25", "29"):
                check_many(tap, release)


main()
