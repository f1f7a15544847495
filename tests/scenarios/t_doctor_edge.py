#!/usr/bin/env python3
"""The doctor where things go wrong: a target that ends or becomes another, no privileges,
no probes; its options, its exit codes, its recording, its text."""
# timeout: 600

import json
import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
from clinic import Doctor  # noqa: E402
from lab import LONG, PROGRAM, WORK, Node, Tap, beamray, releases  # noqa: E402

LEAK = ("ill", "start", "200", "10", "nif", "leak", "mmap", "8", "65536")


def leaking(node, *options, seconds=5, prefix=()):
    """The doctor while the node leaks: (exit code, answer, what it printed to stderr)."""
    doctor = Doctor(node.pid, *options, seconds=seconds, prefix=prefix)
    doctor.begun.wait(60)
    node(*LEAK)
    node("ill", "wait")
    answer = doctor.answer()
    return doctor.process.returncode, answer, "".join(doctor.err)


def interrupted(tap, label, release, what):
    """The target goes away in the middle: a report of what was seen, exit code 5."""
    with Node(release) as node:
        node("ill", "load", node.dir)
        node.settle()
        doctor = Doctor(node.pid, seconds=20)
        doctor.begun.wait(60)
        node("ill", "once", "nif", "leak", "mmap", "40", "65536")
        node.send(*what)
        answer = doctor.answer(60)
        tap.equal("%s: exit code" % label, doctor.process.returncode, 5)
        if not tap.ok("%s: an answer" % label, answer is not None, doctor.err):
            return
        first = answer["findings"][0]
        tap.ok("%s: claims no growth" % label,
               first["code"] not in ("healthy", "nif-leak") and not first["grew_bytes"],
               answer["findings"])
        tap.ok("%s: shows what was seen" % label,
               any("by_mmap" in f for s in first["stacks"] for f in s["frames"]),
               first["stacks"])


def privileges(tap, label, node):
    without = ["setpriv", "--inh-caps=-bpf,-perfmon,-sys_admin",
               "--bounding-set=-bpf,-perfmon,-sys_admin"]
    code, answer, err = leaking(node, prefix=without)
    if tap.ok("%s: no probes permitted: an answer" % label, answer is not None, err):
        first = answer["findings"][0]
        tap.equal("%s: ... exit code" % label, code, 1)
        tap.equal("%s: ... code" % label, (first["code"], first["confidence"]),
                  ("native-growth", "low"))
        tap.ok("%s: ... says why nobody is named" % label, "CAP_" in first["confidence_reason"],
               first["confidence_reason"])
        tap.ok("%s: ... and that it did not trace" % label, not answer["traced"]
               and "CAP_" in (answer["not_traced_because"] or ""), answer["not_traced_because"])
    healthy = beamray("doctor", "-p", node.pid, "-d", "1s", "--no-uprobes", "--no-scan")
    tap.ok("%s: healthy as far as two ledgers tell" % label, healthy.code == 0
           and healthy.out.startswith("Healthy") and "not traced: tracing was switched off"
           in healthy.out, healthy.out)
    nobody = beamray("doctor", "-p", node.pid, "-d", "1s",
                     prefix=["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"])
    tap.ok("%s: no privileges: exit code 4 and a sentence" % label,
           nobody.code == 4 and "CAP_SYS_PTRACE" in nobody.err, (nobody.code, nobody.err))


def gates(tap, label, node):
    code, answer, err = leaking(node, "--gate", "native=64K,vm.used.ets_alloc=1M")
    tap.ok("%s: a closed gate: exit code 1, with the stack" % label,
           code == 1 and any("by_mmap" in f for s in answer["findings"][0]["stacks"]
                             for f in s["frames"]), (code, err))
    tap.ok("%s: which gate, by how much" % label,
           "gate native: CLOSED" in err and "gate vm.used.ets_alloc: open" in err, err)
    idle = beamray("doctor", "-p", node.pid, "-d", "2s", "--gate", "native=64K")
    tap.ok("%s: an open gate: exit code 0" % label, idle.code == 0 and "open" in idle.out,
           (idle.code, idle.out))
    for rule in ("native", "native=", "native=64Q", "natve=1M", "=1M", "a b=1", ""):
        wrong = beamray("doctor", "-p", node.pid, "--gate", rule)
        tap.ok("%s: --gate %r is refused" % (label, rule), wrong.code == 2 and wrong.err,
               (wrong.code, wrong.err))


def options(tap, label, node):
    code, answer, _ = leaking(node, "--threshold", "native=512M")
    tap.ok("%s: below its threshold nothing is found" % label,
           (code, [f["code"] for f in answer["findings"]]) == (0, ["healthy"]), answer["findings"])
    for rule in ("native", "native=x", "vm=1M,2", "held=1M,200%", "what=1"):
        wrong = beamray("doctor", "-p", node.pid, "--threshold", rule)
        tap.ok("%s: --threshold %s is refused" % (label, rule),
               wrong.code == 2 and "native=1M" in wrong.err, (wrong.code, wrong.err))
    file = WORK / ("doctor-%d.bray" % os.getpid())
    code, answer, err = leaking(node, "-o", str(file))
    tap.ok("%s: the answer goes to stdout beside a recording" % label,
           answer is not None and file.exists(), err)
    folded = beamray("report", file, "-f", "folded", "--kind", "growth")
    tap.ok("%s: the recording has the stacks" % label,
           folded.code == 0 and "by_mmap" in folded.out, folded.err)
    diff = beamray("diff", file)
    tap.ok("%s: ... and the ledgers of both ends" % label,
           diff.code in (0, 1) and "native.mmap" in diff.out, (diff.code, diff.out[:600], diff.err))
    file.unlink()
    text = beamray("doctor", "-p", node.pid, "-d", "1s", "--no-scan")
    tap.ok("%s: the text starts with the answer" % label, text.out.startswith("Healthy"),
           text.out[:200])


def budget(tap, label, node):
    """So little that nothing fits: it thins or detaches, says so, and still answers."""
    node("churn", "start")
    code, answer, err = leaking(node, "--budget", "0.01")
    node("churn", "stop")
    if tap.ok("%s: a budget that is too small: an answer" % label, answer is not None, err):
        tap.ok("%s: ... says what was left out" % label, answer["overhead"]["notice"],
               answer["overhead"])
        # 5 MiB; a carrier that the churn was just making may have been nobody's at the start
        tap.ok("%s: ... and the leak is measured" % label, any(
            f["mechanism"] == "mmap" and f["grew_bytes"] > 2 << 20 for f in answer["findings"]),
               answer["findings"])


def still(tap, label, release):
    with Node(release) as node:
        node("ill", "load", node.dir)
        node("ill", "once", "nif", "leak", "mmap", "100", "65536")
        one = json.loads(beamray("doctor", "-p", node.pid, "--still", "--json", "--no-scan").out)
        tap.equal("%s: one look claims no growth" % label,
                  [(f["code"], f["grew_bytes"]) for f in one["findings"]], [("healthy", 0)])
        node("ill", "once", "nif", "leak", "malloc", "4000", "1000")
        one = json.loads(beamray("doctor", "-p", node.pid, "--still", "--json").out)
        lost = [f for f in one["findings"] if f["mechanism"] == "libc"]
        held = node("ill", "truth")["malloc"]
        tap.ok("%s: one look finds what is lost, and accuses nobody of it" % label,
               len(lost) == 1 and lost[0]["subject"] == "unknown" and not lost[0]["grew_bytes"]
               and abs(lost[0]["lost_bytes"] - held) < 0.05 * held, (held, one["findings"]))
        text = beamray("doctor", "-p", node.pid, "--still", "--no-scan").out
        tap.ok("%s: one look says that it is one" % label, "\none look: " in text, text)
        node("fragment", "binary", "96")
        done = beamray("doctor", "-p", node.pid, "--still")
        tap.ok("%s: one look finds fragmentation" % label,
               done.code == 1 and "binary_alloc" in done.out.splitlines()[0], done.out[:300])
        wide = [line for line in done.out.splitlines() if len(line) > 80]
        tap.ok("%s: the text keeps to 80 columns" % label, not wide, wide)


def early(tap, label, release):
    """A leak that is over before malloc is watched, into memory that libc held: no page
    fault and no call was seen. How much, that it stopped, and what of it is lost is."""
    with Node(release, env=["MALLOC_ARENA_MAX=1", "MALLOC_TRIM_THRESHOLD_=1000000000"]) as node:
        node("ill", "load", node.dir)
        node("ill", "once", "nif", "leak", "cache", 8000, 1000)
        node("ill", "once", "nif", "drop_cache")
        node.settle()
        doctor = Doctor(node.pid)
        doctor.begun.wait(60)
        node("ill", "once", "nif", "leak", "malloc", 4000, 1000)
        answer = doctor.answer()
        if not tap.ok("%s: an answer" % label, answer is not None, doctor.err):
            return
        first = answer["findings"][0]
        tap.equal("%s: code, owner" % label, (first["code"], first["subject"]),
                  ("native-growth", "unknown"))
        tap.ok("%s: bytes" % label, abs(first["grew_bytes"] - 4000 * 1008) < 200000,
               first["grew_bytes"])
        tap.ok("%s: says that it came before malloc was watched, and stopped" % label,
               "has stopped since" in first["confidence_reason"], first["confidence_reason"])
        lost = [e for e in first["evidence"] if "of 1008 bytes each" in e["what"]]
        tap.ok("%s: says which blocks are lost, 97%% of them at least" % label,
               lost and 0.97 < lost[0]["value"] / (4000 * 1008) <= 1, first["evidence"])


def main():
    with Tap() as tap:
        check = subprocess.run([PROGRAM, "check"], capture_output=True, text=True, check=False)
        tap.ok("check names the capabilities for tracing", "CAP_BPF" in check.stdout)
        gone = beamray("doctor", "-p", 4194303)
        tap.ok("no such process: exit code 5 and a sentence", gone.code == 5 and gone.err,
               (gone.code, gone.err))
        other = beamray("doctor", "-p", os.getpid())
        tap.ok("not a BEAM: exit code 3 and a sentence", other.code == 3 and other.err,
               (other.code, other.err))
        for release in releases(tap, None if LONG else ["25", "29"]):
            label = "OTP " + release
            interrupted(tap, label + " exits", release, ("stop",))
            interrupted(tap, label + " becomes another program", release,
                        ("ill", "once", "nif", "become"))
            still(tap, label, release)
            early(tap, label + " early leak", release)
            if not LONG and release != "25":
                continue
            with Node(release) as node:
                node("ill", "load", node.dir)
                node.settle()
                privileges(tap, label, node)
                gates(tap, label, node)
                options(tap, label, node)
                budget(tap, label, node)


if __name__ == "__main__":
    main()
