#!/usr/bin/env python3
"""The doctor on nodes that are ill in a known way, and on healthy ones."""
# timeout: 600

import json
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
from lab import PROGRAM, Node, Tap, releases  # noqa: E402

SECONDS = 6


def watch(node, step=None, every=0.3, times=12):
    """The doctor's answer while `step` is done again and again in the node."""
    process = subprocess.Popen([PROGRAM, "doctor", "-p", str(node.pid), "-d", "%ds" % SECONDS,
                                "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    time.sleep(1.5)
    for _ in range(times if step else 0):
        step()
        time.sleep(every)
    out, err = process.communicate(timeout=120)
    return process.returncode, json.loads(out) if out else None, err.decode()


def frames(finding):
    return [frame for stack in finding["stacks"][:1] for frame in stack["frames"]]


def check_leak(tap, node, label, words, truth, mechanism, code="nif-leak",
               subject="leak_nif.so", symbol=None):
    """`words` leaks in the node; truth() is what the node says it leaked in bytes."""
    before = truth()
    exit_code, answer, err = watch(node, lambda: node(*words.split()))
    leaked = truth() - before
    if not tap.ok("%s: an answer" % label, answer is not None and exit_code == 1,
                  (exit_code, err)):
        return
    first = answer["findings"][0]
    tap.equal("%s: code" % label, first["code"], code)
    tap.equal("%s: subject" % label, first["subject"], subject)
    tap.equal("%s: mechanism" % label, first["mechanism"], mechanism)
    tap.ok("%s: says %d of %d bytes (10%%)" % (label, first["grew_bytes"], leaked),
           abs(first["grew_bytes"] - leaked) <= 0.1 * leaked)
    if symbol:
        tap.ok("%s: the stack names %s and the Erlang function" % (label, symbol),
               any(symbol in f for f in frames(first))
               and any(f.startswith("scenario:") for f in frames(first)), frames(first))


def truth_of(node, kind, field="usable"):
    return lambda: node("nif", "truth")[kind][field]


def main():
    with Tap() as tap:
        probes = subprocess.run([PROGRAM, "check"], capture_output=True, text=True, check=False)
        for release in releases(tap):
            label = "OTP " + release
            with Node(release) as node:
                node.nif()
                node.settle()
                _, answer, _ = watch(node)
                tap.equal("%s: an idle node is healthy" % label,
                          [f["code"] for f in answer["findings"]], ["healthy"])
                for side in ("before", "after"):
                    tap.equal("%s: %s adds up" % (label, side),
                              sum(row["bytes"] for row in answer[side]["ledger"]),
                              answer[side]["os"]["rss"])
                said = subprocess.run([PROGRAM, "check", "-p", str(node.pid), "--json"],
                                      capture_output=True, text=True, check=False)
                found = {a["what"]: a for a in json.loads(said.stdout)["answers"]}
                tap.ok("%s: check finds the segment cache and carriers" % label,
                       found["segment cache"]["ok"]
                       and " 0 carriers" not in found["statistics"]["why"],
                       [found["segment cache"], found["statistics"]])
                check_leak(tap, node, label + " mmap", "nif leak_mmap 40 65536",
                           truth_of(node, "mmap", "bytes"), "mmap", symbol="leak_mmap")
                check_leak(tap, node, label + " enif_alloc", "nif leak_enif 800 1000",
                           truth_of(node, "enif_lost", "bytes"), "enif_alloc")
                check_leak(tap, node, label + " large malloc", "nif leak_malloc 5 300000",
                           truth_of(node, "malloc_lost"), "libc", symbol="leak_malloc")
            with Node(release) as node:
                node.settle()
                node("fragment", "binary", "96")
                _, answer, _ = watch(node)
                first = answer["findings"][0]
                tap.equal("%s fragmented: code" % label, first["code"], "vm-fragmentation")
                tap.equal("%s fragmented: subject" % label, first["subject"], "binary_alloc")
                row = {r["account"]: r["bytes"] for r in answer["after"]["ledger"]}
                tap.ok("%s fragmented: bytes are the account's" % label,
                       0 < first["bytes"] <= row["vm.free.binary_alloc"])
        tap.ok("check names the capabilities for tracing", "CAP_BPF" in probes.stdout)


if __name__ == "__main__":
    main()
