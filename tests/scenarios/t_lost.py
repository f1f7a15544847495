#!/usr/bin/env python3
"""Native memory from a still image: what is lost, and whose the rest is. Libraries that
know what they hold and what they have lost are the truth."""
# timeout: 300

import json
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
from lab import LONG, PROGRAM, TOP, Tap, beamray, memory, releases, run  # noqa: E402
from own import OwnNode, folder, look, total  # noqa: E402

ALL = ("own_c", "own_cpp", "own_z", "own_drv")
OWNERS = {name + ".so" for name in ALL} | {"crypto.so", "beam.smp"}


def fill(node, n):
    """Everything held, then everything lost."""
    node("app", "crypto")
    node.load(*ALL)
    node("crypto", 50)
    for what in ("make", "leak"):
        for library in ALL:
            node("call", library, what, min(n // 40, 100) if library == "own_z" else n)
        if what == "make":
            node("call", "own_c", "hold", 500)
            node("call", "own_cpp", "relics", 0)
    node.settle()


def wrong_bytes(truth):
    """Said to be another one's. A library both use is not wrong, and neither is the VM's."""
    wrong = 0
    for owner, of in truth.items():
        for key, count in of.items():
            if key.startswith("as ") and key.split()[1] in OWNERS - {owner}:
                wrong += count
    return wrong


def judged(found, label):
    """What must hold of a look, [(what, whether, why not)], and a line about it."""
    lost, kept = found["truth"]["lost"], found["truth"]["kept"]
    recall = total(lost, "found") / total(lost, "bytes")
    everything = total(lost, "bytes") + total(kept, "bytes")
    wrong = wrong_bytes(lost) + wrong_bytes(kept)
    holds = [
        ("the heap was walked, and lost is proved",
         found["walked"] and found["proved"] and found["complete"], found["notes"]),
        ("97%% of %d lost bytes are found lost" % total(lost, "bytes"), recall >= 0.97, recall),
        ("of %d kept bytes not 0.1%% are said to be lost" % total(kept, "bytes"),
         total(kept, "found") <= 0.001 * total(kept, "bytes"), kept),
        ("not 0.1% have a wrong owner", wrong <= 0.001 * everything, (wrong, lost, kept)),
    ]
    holds += [("most of those of %s too" % owner, of.get("found", 0) >= 0.9 * of["bytes"], of)
              for owner, of in lost.items()]
    holds += [("80%% of what %s holds is known to be its own" % owner,
               of.get("right", 0) >= 0.8 * of["bytes"], of) for owner, of in kept.items()]
    line = ("%s: recall %.4f, wrong %d of %d, known %.3f; %.2f s (estimate %.2f), %.3f s CPU, "
            "%d MB read" % (label, recall, wrong, everything,
                            total(kept, "right") / total(kept, "bytes"), found["seconds"],
                            found["estimate"], found["cpu_seconds"], found["read_bytes"] >> 20))
    return holds, line


def filled_look(tap, node, label, n, last):
    """A look at a node that has been filled. None, unless it is the `last` of them, if not
    all holds: memory is recycled with what was in it, and now and then an old pointer is in
    the very place that keeps a chain, or names it. Four of eighty nodes had one. Nothing but
    chance puts it there, so that another node has it elsewhere; a fault of ours is in both."""
    fill(node, n)
    found = look(node.pid, node.truth())
    holds, line = judged(found, label)
    tap.note(line)
    if not last and not all(ok for _, ok, _ in holds):
        tap.note("%s: taken again on another node: %s"
                 % (label, [(what, why) for what, ok, why in holds if not ok]))
        return None
    for what, ok, why in holds:
        tap.ok("%s: %s" % (label, what), ok, why)
    return found


def check_sums(tap, node, found, label):
    """Beside the ledger's accounts, which come from another way of adding."""
    # They are two looks, one after the other: where the node took or gave something back
    # between them, both are made again.
    for _ in range(3):
        rows = {row["account"]: row["bytes"] for row in memory(node.pid).json()["ledger"]}
        should = sum(rows.get(a, 0) for a in ("native.heap.used", "native.mmap", "native.stack"))
        if abs(found["used_resident"] - should) <= 0.01 * should:
            break
        found = look(node.pid, node.truth())
    tap.ok("%s: native memory is the ledger's %d bytes (1%%)" % (label, should),
           abs(found["used_resident"] - should) <= 0.01 * should, found["used_resident"])
    explained = sum(row["resident"] for row in found["rows"]) + found["bookkeeping"]
    tap.equal("%s: the rows add up to it" % label, explained, found["used_resident"])
    tap.ok("%s: malloc's own is little" % label, found["bookkeeping"] < 0.02 * should + (1 << 20),
           found["bookkeeping"])


def check_command(tap, node, found, label):
    lost = beamray("list", "-p", node.pid, "lost", "--json").json()
    tap.ok("%s: list lost says what the library says" % label,
           lost["complete"] and
           abs(lost["summary"]["lost_bytes"] - found["lost_bytes"]) <= 0.1 * found["lost_bytes"],
           (lost["summary"], found["lost_bytes"]))
    tap.equal("%s: its rows add up" % label, sum(r["bytes"] for r in lost["rows"]),
              lost["summary"]["lost_bytes"])
    sizes = {r["size"]: r for r in lost["rows"] if r["owner"] is None}
    tap.ok("%s: 5000 bytes each are a size of their own, with arena, threads and hint" % label,
           5008 in sizes and sizes[5008]["count"] >= 100 and sizes[5008]["arena_threads"]
           and "own_c.so" in (sizes[5008]["hint"] or ""), json.dumps(sizes.get(5008)))
    native = beamray("list", "-p", node.pid, "native", "--json").json()
    told = {(r["owner"], r["evidence"]) for r in native["rows"]}
    tap.ok("%s: list native has each kind of evidence" % label,
           {("own_c.so", "content"), ("own_c.so", "data"), ("own_c.so", "tag"),
            ("own_cpp.so", "content"), ("own_drv.so", "data"), ("beam.smp", "vm")} <= told,
           sorted(map(str, told)))
    for what in ("lost", "native"):
        text = beamray("list", "-p", node.pid, what)
        tap.ok("%s: list %s fits 80 columns" % (label, what),
               text.code == 0 and max(map(len, text.out.splitlines())) <= 80, text.err)


def check_busy(tap, release):
    """Everything moves, and nothing is lost; then the node goes away in the middle."""
    label = "OTP %s, busy" % release
    with OwnNode(release) as node:
        node.load(*ALL)
        for library in ALL:
            node("call", library, "make", 50 if library == "own_z" else 1000)
        node("call", "own_c", "churn", "3")
        node("churn", "start")
        truth = node.truth()
        for _ in range(6 if LONG else 2):
            found = look(node.pid, truth)
            kept = found["truth"]["kept"]
            tap.ok("%s: not 64 KiB seem lost" % label, found["lost_bytes"] <= 65536,
                   found["lost_groups"][:4])
            tap.ok("%s: not 0.1%% of %d kept bytes" % (label, total(kept, "bytes")),
                   total(kept, "found") <= 0.001 * total(kept, "bytes"), kept)
            wrong = wrong_bytes(kept)
            tap.ok("%s: not 0.1%% have a wrong owner" % label,
                   wrong <= 0.001 * total(kept, "bytes"), (wrong, kept))
        ended = subprocess.Popen([PROGRAM, "list", "-p", str(node.pid), "lost"], text=True,
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        time.sleep(0.1)
        node.process.kill()
        out, err = ended.communicate(timeout=60)
        tap.ok("%s: killed under the look, it says so in one sentence" % label,
               ended.returncode == 5 and err.count("\n") == 1 and not out,
               (ended.returncode, out, err))


def check_other_mallocs(tap, release):
    """The VM's own allocators switched off, so that all of it is malloc's; and a malloc
    that is not glibc's."""
    label = "OTP %s" % release
    with OwnNode(release, flags=("+Mea", "min")) as node:
        node.load("own_c")
        node("call", "own_c", "make", 500)
        node("call", "own_c", "leak", 500)
        node.settle()
        found = look(node.pid, node.truth())
        lost, kept = found["truth"]["lost"], found["truth"]["kept"]
        tap.ok("%s +Mea min: what is lost is found" % label,
               total(lost, "found") >= 0.97 * total(lost, "bytes"), lost)
        tap.ok("%s +Mea min: and nothing else" % label,
               found["lost_bytes"] <= 1.1 * total(lost, "bytes") and not total(kept, "found"),
               (found["lost_bytes"], kept))
    other = folder(release) / "libjemalloc.so.2"
    run(["gcc", "-shared", "-fPIC", "-O1", "-DOWN_HEAP", "-o", str(other),
         str(TOP / "tests/libc/preload.c")], "compiling preload.c")
    with OwnNode(release, env=("LD_PRELOAD=%s" % other,)) as node:
        for what in ("lost", "native"):
            said = beamray("list", "-p", node.pid, what, "--json")
            document = json.loads(said.out)
            tap.ok("%s: another malloc is named, and list %s says that it cannot" % (label, what),
                   said.code == 6 and not document["complete"] and not document["rows"]
                   and "libjemalloc.so.2" in document["notes"][0], (said.code, document))


def main():
    with Tap() as tap:
        for release in releases(tap):
            label = "OTP " + release
            for last in (False, True):
                with OwnNode(release) as node:
                    node.settle()
                    found = look(node.pid)
                    tap.ok("%s: an idle node has lost nothing" % label,
                           found["lost_bytes"] <= 4096, found["lost_groups"][:5])
                    found = filled_look(tap, node, label, 4000 if LONG else 1000, last)
                    if not found:
                        continue
                    check_sums(tap, node, found, label)
                    check_command(tap, node, found, label)
                    break
            if LONG or release == "25":
                check_busy(tap, release)
                check_other_mallocs(tap, release)


main()
