#!/usr/bin/env python3
"""`list processes` against process_info/2 of the same node: everything on an idle node, bounds
on one whose processes come and go."""
# timeout: 400

import re
import socket
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
from lab import LONG, Node, Tap, beamray, releases  # noqa: E402

# What must be equal for every process, and is compared one by one.
EXACT = ["initial_call", "current_function", "group_leader", "links", "monitors", "monitored_by",
         "binaries", "binary_bytes", "fullsweep_after", "minor_gcs", "min_heap_size",
         "min_bin_vheap_size", "max_heap_size", "max_heap_size_kill", "old_heap_size",
         "old_heap_used", "heap_used", "bin_vheap_size", "bin_vheap_block_size",
         "bin_old_vheap_size", "bin_old_vheap_block_size", "message_queue_len", "reductions",
         "heap_size", "total_heap_size", "stack_size", "status", "priority", "trap_exit",
         "message_queue_data", "registered_name", "memory"]


def raw(text):
    """What an escaped text stands for."""
    if text is None:
        return None
    return re.sub(r"\\(?:x([0-9A-Fa-f]{2})|u\{([0-9A-Fa-f]+)\}|\\)",
                  lambda m: chr(int(m.group(1) or m.group(2), 16)) if m.lastindex else "\\", text)


def processes(pid, *args, **options):
    return beamray("list", "-p", pid, "processes", "--json", *args, **options)


def compare(tap, node, label, looks=6):
    """The best of some looks: who was still busy with something changes between two answers."""
    best = None
    for _ in range(looks):
        first = {p["pid"]: p for p in node("call", "process_truth", "process_list")}
        look = processes(node.pid).json()
        last = {p["pid"]: p for p in node("call", "process_truth", "process_list")}
        ours = {p["pid"]: p for p in look["rows"]}
        ours.pop(node.own, None)
        wrong, approximate = [], 0
        for pid in sorted(set(first) & set(last) | set(ours)):
            if pid not in ours or pid not in first:
                wrong.append("%s is %s" % (pid, "not found" if pid in first else "not the node's"))
                continue
            for key in EXACT:
                is_, a, b = ours[pid][key], first[pid][key], last[pid][key]
                if key == "registered_name":
                    is_ = raw(is_)
                # 23 says "running" of one that runs only to answer this question.
                if key == "status" and node.release == "23" and is_ == "waiting":
                    a = is_ if a == "running" else a
                if is_ not in (a, b):
                    wrong.append("%s %s %s: %r, VM says %r, %r"
                                 % (pid, ours[pid]["label"][:30], key, is_, a, b))
            approximate += ours[pid]["approximate"]
        if best is None or len(wrong) < len(best[0]):
            best = (wrong, look, len(ours), approximate)
        if not wrong:
            break
        time.sleep(0.2)
    wrong, look, n, approximate = best
    tap.note("%s: %d processes, %d differences" % (label, n, len(wrong)))
    tap.ok("%s: all of %d processes equal process_info in %d items" % (label, n, len(EXACT)),
           not wrong, "; ".join(wrong[:8]))
    tap.equal("%s: complete, nothing torn" % label,
              (look["complete"], look["torn"], approximate), (True, 0, 0))
    return look


def check_text(tap, node, label):
    text = beamray("list", "-p", node.pid, "processes")
    wide = [line for line in text.out.splitlines() if len(line) > 80]
    tap.ok("%s: text of 80 columns, no escape sequence" % label,
           text.code == 0 and not wide and "\x1b" not in text.out
           and all(c == "\n" or ord(c) >= 32 for c in text.out), (text.code, wide))
    by = beamray("list", "-p", node.pid, "processes", "--sort", "message_queue_len", "-n", 3,
                 "--json").json()["rows"]
    lens = [r["message_queue_len"] for r in by]
    tap.ok("%s: --sort and -n" % label,
           len(by) == 3 and lens == sorted(lens, reverse=True) and lens[0] > 0, lens)
    bad = beamray("list", "-p", node.pid, "processes", "--sort", "nonsense")
    tap.equal("%s: an unknown key is a usage error" % label, bad.code, 2)


def check_window(tap, node, label):
    """Deltas over a window: a queue that grows by a known number."""
    grown = node("call", "process_truth", "queue", 10)
    before = {r["pid"]: r for r in processes(node.pid).json()["rows"]}
    look = processes(node.pid, "--window", "300ms").json()
    row = next(r for r in look["rows"] if r["pid"] == grown["pid"])
    tap.equal("%s: a window over which nothing happens" % label,
              (row["memory_delta"], row["message_queue_len_delta"], row["reductions_delta"],
               before[grown["pid"]]["memory_delta"]), (0, 0, 0, None))
    # What grows does so until the second look is over.
    node.send("call", "process_truth", "feed", grown["pid"], 3000)
    look = processes(node.pid, "--window", "500ms").json()
    fed = node.receive()
    row = next(r for r in look["rows"] if r["pid"] == grown["pid"])
    later = next(r for r in processes(node.pid).json()["rows"] if r["pid"] == grown["pid"])
    added = row["message_queue_len_delta"]
    tap.ok("%s: a queue that grows: its delta is the new messages, each of equal weight" % label,
           0 < added <= fed and later["message_queue_len"] == 10 + fed
           and row["memory_delta"] * fed
           == added * (later["memory"] - before[grown["pid"]]["memory"]),
           (row["memory_delta"], added, fed, later["memory"], before[grown["pid"]]["memory"]))
    tap.ok("%s: and the largest change is on top" % label,
           look["rows"][0]["memory_delta"] == max(r["memory_delta"] for r in look["rows"]),
           look["rows"][0]["memory_delta"])


def check_large(tap, node, label):
    """A long queue and a large dictionary."""
    n = 5000000 if LONG else 300000
    queue = node("call", "process_truth", "queue", n, timeout=200)
    entries = 100000
    dictionary = node("call", "process_truth", "dictionary", entries)
    look = processes(node.pid).json()
    rows = {r["pid"]: r for r in look["rows"]}
    row = rows[queue["pid"]]
    tap.equal("%s: a queue of %d messages" % (label, n), row["message_queue_len"],
              queue["message_queue_len"])
    row = rows[dictionary["pid"]]
    tap.equal("%s: a dictionary of %d keys" % (label, entries),
              (row["dictionary_entries"], row["memory"]), (entries, dictionary["memory"]))


def check_churn(tap, node, label):
    """Processes that live for milliseconds: never half a row, never a wrong one."""
    there = {r["pid"] for r in processes(node.pid).json()["rows"]}
    node("call", "process_truth", "churn", 50)
    seconds = 20 if LONG else 2
    end, looks, rows, torn, wrong, codes = time.monotonic() + seconds, 0, 0, 0, [], set()
    while time.monotonic() < end:
        run = processes(node.pid)
        codes.add(run.code)
        if run.code not in (0, 6):
            wrong.append(run.err)
            break
        look = run.json()
        looks += 1
        torn += look["torn"]
        rows += len(look["rows"])
        if len({r["pid"] for r in look["rows"]}) != len(look["rows"]):
            wrong.append("a process twice")
        for r in look["rows"]:
            if r["approximate"] or r["pid"] in there:
                continue
            if (not r["pid"] or r["memory"] is None or r["memory"] < 8 * r["total_heap_size"]
                    or r["message_queue_len"] > 10000 or r["links"] > 1000 or r["binaries"] > 2000
                    or r["memory"] > 1 << 30 or not r["initial_call"]):
                wrong.append(str(r)[:300])
    node("call", "process_truth", "churn_stop")
    tap.note("%s: %d looks, %d rows, %d torn, exit codes %s" % (label, looks, rows, torn, codes))
    tap.ok("%s: under churn every row is sound" % label, not wrong and looks, wrong[:3])
    tap.ok("%s: under churn at most 1%% torn over all looks" % label, torn <= rows / 100,
           (torn, rows))


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def check_remote(tap, release, label):
    """Messages of another node: nobody knows their size until somebody decodes them."""
    flags = ["-setcookie", "list", "-start_epmd", "false", "-erl_epmd_port", str(free_port()),
             "-kernel", "inet_dist_use_interface", "{127,0,0,1}"]
    with Node(release, [*flags, "-sname", "a@localhost"]) as a, \
            Node(release, [*flags, "-sname", "b@localhost", "-dist_listen", "false"]) as b:
        pid = a("call", "process_truth", "sleeper")
        b("call", "process_truth", "remote", "a@localhost", 100)
        row = None
        for _ in range(50):
            look = processes(a.pid).json()
            row = next(r for r in look["rows"] if r["pid"] == pid)
            if row["message_queue_len"] == 100:
                break
            time.sleep(0.1)
        tap.equal("%s: 100 messages of another node, marked while their size is not known" % label,
                  (row["message_queue_len"], row["approximate"], look["torn"],
                   any("other nodes" in note for note in look["notes"])), (100, True, 0, True))
        truth = {p["pid"]: p for p in a("call", "process_truth", "process_list")}[pid]
        after = next(r for r in processes(a.pid).json()["rows"] if r["pid"] == pid)
        tap.equal("%s: and exact once the node has asked" % label,
                  (after["message_queue_len"], after["memory"], after["approximate"]),
                  (100, truth["memory"], False))
        tap.ok("%s: a lower bound before" % label, row["memory"] < truth["memory"],
               (row["memory"], truth["memory"]))


def main():
    with Tap() as tap:
        for release in releases(tap):
            label = "OTP " + release
            with Node(release) as node:
                node.own = node("call", "process_truth", "own")
                node.settle()
                compare(tap, node, label + " idle")
                node("call", "process_truth", "make")
                node("spawn", 500)
                tap.equal("%s: one process has buffers for its senders" % label,
                          node("call", "process_truth", "has_buffers"), release != "23")
                node.settle()
                compare(tap, node, label + " all kinds")
                check_text(tap, node, label)
                check_window(tap, node, label)
                check_churn(tap, node, label)
                check_large(tap, node, label)
            check_remote(tap, release, label)


main()
