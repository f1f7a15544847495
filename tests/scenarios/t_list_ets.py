#!/usr/bin/env python3
"""beamray list ets against ets:all/0 and ets:info/1: every table, every figure."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
from lab import LONG, Node, Tap, beamray, releases  # noqa: E402

FLAGS = ["named_table", "compressed", "read_concurrency", "decentralized_counters", "fixed"]
KEYS = ["size", "memory", "type", "protection", "keypos", "owner", "heir", "write_concurrency"]


def rows(node, *args):
    run = beamray("list", "-p", node.pid, "ets", "--json", *args)
    return run, run.json()


def escaped(name):
    """The name as beamray must print it."""
    out = ""
    for c in name:
        if c.isprintable() and c != "\\":
            out += c
        elif ord(c) < 0x80:
            out += "\\x%02x" % ord(c)
        else:
            out += "\\u{%x}" % ord(c)
    return out


def differences(truth, seen):
    bad = []
    for key in KEYS + FLAGS:
        if key not in truth:
            continue
        want = truth[key]
        if key == "write_concurrency":
            want = str(want).lower()
        if seen[key] != want:
            bad.append("%s of %s is %r, should be %r" % (key, truth["name"], seen[key], want))
    if seen["name"].lower() != escaped(truth["name"]).lower():
        bad.append("name is %r, should be %r" % (seen["name"], truth["name"]))
    if seen["memory_bytes"] != 8 * seen["memory"]:
        bad.append("memory_bytes is not memory in bytes")
    return bad


def check_all(tap, node, label):
    """Between two answers of the node, so that what moves by itself is known."""
    before = {t["id"]: t for t in node("call", "list_truth", "tables")}
    run, doc = rows(node)
    after = {t["id"]: t for t in node("call", "list_truth", "tables")}
    # Ids of named tables are their names, escaped as these are.
    seen = {r["id"]: r for r in doc["rows"]}
    same = {escaped(k).lower(): t for k, t in before.items() if after.get(k) == t}
    seen = {k.lower(): r for k, r in seen.items()}
    tap.equal("%s: exits with 0" % label, run.code, 0)
    tap.ok("%s: complete" % label, doc["complete"] is True and doc["schema"] == "beamray.list/1")
    tap.ok("%s: %d of %d tables stood still" % (label, len(same), len(before)),
           len(same) >= len(before) - 3)
    tap.equal("%s: finds all of them" % label, sorted(set(same) - set(seen)), [])
    tap.equal("%s: and no other" % label,
              sorted(set(seen) - {escaped(k).lower() for k in list(before) + list(after)}), [])
    bad = [d for k, t in same.items() if k in seen for d in differences(t, seen[k])]
    tap.ok("%s: %d figures of %d tables equal ets:info/1"
           % (label, len(same) * len(KEYS + FLAGS), len(same)), not bad, bad[:5])
    return doc


def check_coming_and_going(tap, node, label):
    """Tables that are dropped while being read: as a whole, marked, or not at all."""
    before = {t["id"] for t in node("call", "list_truth", "tables")}
    node("call", "list_truth", "slow_table", "300000")
    _, doc = rows(node)
    slow = [r for r in doc["rows"] if r["name"] == "slow_to_go"]
    tap.ok("%s: a table whose owner died is marked, or gone" % label,
           all(r["deleting"] for r in slow), slow)
    node("call", "list_truth", "churn_tables")
    bad, missed = [], 0
    for _ in range(12):
        run, doc = rows(node)
        bad += [r for r in doc["rows"] if r["name"] not in ("coming_and_going", "slow_to_go")
                and r["id"] not in before and not r["named_table"]]
        bad += [r for r in doc["rows"] if r["name"] == "coming_and_going"
                and (r["keypos"] != 2 or r["size"] > 10 or r["type"] != "set"
                     or not 0 < r["memory"] < 1000)]
        bad += [doc["notes"]] if run.code else []
        missed += len({i.lower() for i in map(escaped, before)}
                      - {r["id"].lower() for r in doc["rows"]})
    tap.ok("%s: of %d that stay %d were missed meanwhile" % (label, 12 * len(before), missed),
           missed <= 12 * len(before) // 20)
    tap.ok("%s: tables that come and go are whole or not there" % label, not bad, bad[:3])


def main():
    with Tap() as tap:
        for release in releases(tap):
            label = "OTP " + release
            with Node(release, ["+S", "4:4"]) as node:
                node("call", "list_truth", "make_tables")
                if LONG:
                    node("table", 10000000, timeout=300)
                node.settle()
                doc = check_all(tap, node, label)
                mine = [r for r in doc["rows"] if r["owner_name"] == "list_tables"]
                tap.equal("%s: the owner by its name" % label, len(mine), 19)
                tap.ok("%s: a reference as the id of an unnamed table" % label,
                       all(r["named_table"] or r["id"].startswith("#Ref<0.") for r in mine))
                node("call", "list_truth", "drop_table", "fine")
                check_all(tap, node, label + " after a delete")
                text = beamray("list", "-p", node.pid, "ets", "-n", "100")
                tap.ok("%s: text of 80 columns, nothing that moves a cursor" % label,
                       text.code == 0 and all(len(line) <= 80 and line.isprintable()
                                              for line in text.out.splitlines()),
                       [line for line in text.out.splitlines() if len(line) > 80][:2])
                check_coming_and_going(tap, node, label)
                node("churn", "start")
                churned = [rows(node)[0] for _ in range(10)]
                node("churn", "stop")
                tap.equal("%s: exits with 0 under churn" % label, [r.code for r in churned],
                          [0] * 10)


main()
