#!/usr/bin/env python3
"""`list atoms, modules, literals, persistent_terms, schedulers, memory` against the node's own."""
# timeout: 300

import re
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
from lab import Node, Tap, beamray, releases  # noqa: E402
from traced import loaded  # noqa: E402


def listing(node, what, *args):
    return beamray("list", "-p", node.pid, what, "--json", *args).json()


def check_atoms(tap, node, label):
    truth = node("call", "process_truth", "inside")
    look = listing(node, "atoms")
    tap.equal("%s: atoms and their limit" % label,
              (look["summary"]["atom_count"], look["summary"]["atom_limit"]),
              (truth["atom_count"], truth["atom_limit"]))
    before = truth["atom_count"]
    after = node("call", "process_truth", "make_atoms", "session_of_user_", 5000)
    node("call", "process_truth", "make_atoms", "r\u00fcck-", 3000)
    look = listing(node, "atoms")
    found = {r["prefix"]: r for r in look["rows"]}
    tap.equal("%s: %d more atoms with one beginning" % (label, after - before),
              [found.get(p, {}).get("count") for p in ("session_of_user_", "r\u00fcck-")],
              [5000, 3000])
    tap.equal("%s: the newest of them" % label, found["session_of_user_"]["newest"],
              "session_of_user_5000")
    tap.ok("%s: all atoms read" % label, look["complete"] and look["torn"] == 0, look["torn"])
    tap.equal("%s: the largest is an atom of the test" % label,
              look["largest"][0]["bytes"], 3 * 255)


def check_modules(tap, node, label):
    truth = node("call", "process_truth", "inside")
    look = listing(node, "modules")
    ours = {r["module"]: (r["code"] + r["literals"], r["old_code"] + r["old_literals"])
            for r in look["rows"]}
    vms = {m["module"].strip("'"): (m["size"], m["old"]) for m in truth["modules"]}
    wrong = {m: (ours.get(m), vms.get(m)) for m in set(ours) | set(vms) if ours.get(m) != vms.get(m)}
    tap.ok("%s: code and literals of %d modules as system_info(loaded)" % (label, len(vms)),
           not wrong, list(wrong.items())[:4])
    total = look["summary"]
    tap.equal("%s: sums of code, old code" % label,
              (total["code"] + total["literals"], total["old_code"] + total["old_literals"]),
              (truth["code"], truth["old_code"]))
    tap.equal("%s: modules with old code" % label,
              sorted(r["module"] for r in look["rows"] if r["old_code"]),
              sorted(truth["old_modules"]))
    tap.equal("%s: nothing to note" % label, (look["complete"], look["notes"]), (True, []))


def check_literals(tap, node, label):
    truth = node("call", "process_truth", "inside")
    look = listing(node, "persistent_terms")
    tap.equal("%s: persistent terms, count and memory" % label,
              (look["summary"]["count"], look["summary"]["memory"], len(look["rows"])),
              (truth["persistent_terms"], truth["persistent_memory"], truth["persistent_terms"]))
    keys = [r["key"] for r in look["rows"]]
    tap.ok("%s: keys tell atoms, and nothing else" % label,
           "plain_key" in keys and "{process_truth, ...} of 2" in keys and "(term)" in keys
           and "\\x1B[31mred" in keys and not any("no atom" in k for k in keys), keys)
    look = listing(node, "literals")
    blocks = sum(i["mbcs"]["blocks_size"] + i["sbcs"]["blocks_size"] for i in
                 beamray("memory", "-p", node.pid, "--json").json()["vm"]["allocators"]
                 for i in (i["by_instance"] if i["name"] == "literal_alloc" else []))
    tap.equal("%s: blocks of literal_alloc" % label, look["summary"]["blocks_size"], blocks)
    tap.equal("%s: persistent terms are literals" % label, look["summary"]["persistent_terms"],
              truth["persistent_memory"])
    tap.ok("%s: the area's limit" % label, look["summary"]["area_limit"] == 1 << 30
           and blocks <= look["summary"]["area_taken"] <= 1 << 30, look["summary"])


def check_schedulers(tap, node, label):
    info = node("info")
    look = listing(node, "schedulers")
    names = {}
    for r in look["rows"]:
        comm = Path("/proc/%d/task/%d/comm" % (node.pid, r["tid"])).read_text().strip()
        names[r["role"]] = comm
    wrong = {role: comm for role, comm in names.items()
             if not re.search(r"(^%s_|_%s$)" % (role.split()[-1], role.split()[-1]), comm)
             or ("dirty" in role) != ("dirty" in comm or "_d" in comm)}
    tap.ok("%s: each scheduler's thread bears its name" % label,
           not wrong and len([r for r in look["rows"] if r["kind"] == "normal"])
           == info["schedulers"], (wrong, names))
    spinners = set(node("call", "process_truth", "spin", 10))
    good = None
    for _ in range(20):
        look = listing(node, "schedulers")
        normal = [r for r in look["rows"] if r["kind"] == "normal"]
        running = [r["pid"] for r in normal if r["pid"] in spinners]
        # Those who run or are being scheduled are not in a queue.
        if (len(running) == len(normal) and all(r["state"] == "running" for r in normal)
                and look["summary"]["run_queue"] == 10 - len(normal)):
            good = look
            break
    node("call", "process_truth", "spin_stop")
    tap.ok("%s: 10 processes that spin: one on each scheduler, the others in queues" % label, good,
           look["rows"][:3])


def check_nif(tap, release, kind, role):
    """A scheduler that is inside a NIF, which sleeps there."""
    label = "OTP %s: " % release + kind
    with loaded(release, kind, 1, 4000, rounds=1) as (node, work):
        before = listing(node, "schedulers")["rows"]
        (work / "go").touch()
        inside = []
        for _ in range(100):
            inside = [r for r in listing(node, "schedulers")["rows"] if r["nif_module"]]
            if inside:
                break
            time.sleep(0.05)
        tap.equal(label + ": the scheduler in it, whose process, which module",
                  [(r["role"].rsplit(" ", 1)[0], r["label"], r["nif_module"], r["state"])
                   for r in inside], [(role, "trace_leaker", "trace_load", "running")])
        tap.equal(label + ": and none before", [r for r in before if r["nif_module"]], [])


def main():
    with Tap() as tap:
        for release in releases(tap):
            check_nif(tap, release, "nap_normal", "scheduler")
            check_nif(tap, release, "nap_dirty", "dirty io")
            label = "OTP " + release
            with Node(release) as node:
                node.settle()
                check_modules(tap, node, label + " fresh")
                node("call", "process_truth", "make_inside")
                node("call", "process_truth", "make")
                node("modules", 20)
                check_modules(tap, node, label)
                check_literals(tap, node, label)
                check_atoms(tap, node, label)
                check_schedulers(tap, node, label)
                for what in ("atoms", "modules", "literals", "persistent_terms", "schedulers",
                             "memory"):
                    text = beamray("list", "-p", node.pid, what)
                    wide = [line for line in text.out.splitlines() if len(line) > 80]
                    tap.ok("%s: %s in 80 columns, nothing for a terminal to obey" % (label, what),
                           text.code == 0 and not wide and "\x1b" not in text.out,
                           (text.code, text.err, wide[:2]))


main()
