#!/usr/bin/env python3
"""The kernels of Debian's suites, each with a node of the matrix in it: what works there."""
# long
# timeout: 1800

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "lib"))
sys.path.insert(0, str(HERE.parents[1] / "tools" / "kernels"))
import kernel  # noqa: E402
from lab import TOP, Tap, releases, scenario_dir, otp  # noqa: E402

PROGRAM = os.environ.get("BEAMRAY_STATIC") or str(TOP / "build/gcc-static/beamray")
# One release on every kernel, the others on one.
EVERYWHERE, ONCE = "25", "bookworm"


def stage(folder, release):
    """The root of a release with the test in it; links, since nothing is written."""
    subprocess.run(["cp", "-al", str(otp.build(release)), folder], check=True)
    test = Path(folder) / "test"
    test.mkdir()
    for file in scenario_dir(release).iterdir():
        shutil.copy(file, test)
    shutil.copy(PROGRAM, test / "beamray")
    shutil.copy(HERE / "guest.sh", test)


class Told:
    """What a guest wrote."""

    def __init__(self, folder):
        self.folder = Path(folder)

    def __call__(self, name):
        file = self.folder / name
        return file.read_text(errors="replace").strip() if file.exists() else ""

    def code(self, name):
        return int(self(name + ".code") or -1)

    def json(self, name):
        try:
            return json.loads(self(name))
        except ValueError:
            return None

    def why(self, name):
        return "%d %s %s" % (self.code(name), self(name + ".err")[-300:], self(name)[:200])


def leaked(told):
    """Bytes that the NIF says it lost, between its two answers."""
    answers = [json.loads(line)["ok"] for line in told("node").splitlines()
               if line.startswith('{"ok":{') and "malloc_lost" in line]
    return [a["malloc_lost"]["usable"] for a in answers]


def check(tap, label, told):
    tap.ok(label + ": the node ran", len(leaked(told)) == 2,
           told("node")[-300:] + told("node.err")[-300:] + told("log")[-300:])
    tap.ok(label + ": check", told.code("check") == 0 and "kernel" in told("check"),
           told.why("check"))
    doc = told.json("memory")
    if tap.ok(label + ": memory", told.code("memory") in (0, 6) and doc, told.why("memory")):
        tap.equal(label + ": rows add up", sum(r["bytes"] for r in doc["ledger"]),
                  doc["os"]["rss"])
        around = sorted(int(n) for n in told("smaps").split())  # before and after
        tap.ok(label + ": resident as smaps has it", len(around) == 2 and
               around[0] - (1 << 20) < doc["os"]["rss"] < around[1] + (1 << 20),
               (doc["os"]["rss"], around))
    for name in ("doctor", "still"):
        doc = told.json(name)
        # 6: slow as it is, carriers may change while they are read
        if not tap.ok("%s: %s finds something" % (label, name), told.code(name) in (1, 6) and doc,
                      told.why(name)):
            continue
        grew = [f for f in doc["findings"] if f["grew_bytes"] > 0]
        tap.ok("%s: %s: native memory grew" % (label, name),
               any(f["code"] in ("nif-leak", "native-growth") for f in grew),
               [(f["code"], f["subject"], f["grew_bytes"]) for f in doc["findings"]])
        if name == "doctor":
            mine = [f for f in grew if f["subject"] == "leak_nif.so"]
            tap.ok(label + ": doctor: it names the NIF, with its stack", any(
                "leak_malloc" in frame and "leak_nif.so" in frame for f in mine
                for s in f["stacks"] for frame in s["frames"]),
                   [(f["code"], f["subject"], f["grew_bytes"]) for f in doc["findings"]])
            tap.equal(label + ": doctor: nothing lost", doc["lost"]["events"], 0)
    doc = told.json("report")
    if tap.ok(label + ": record and report", told.code("record") in (0, 6) and doc,
              told.why("record") + told.why("report")):
        frames = [f for s in (doc["profile"] or {"stacks": []})["stacks"] for f in s["frames"]]
        # from 6.1 on functions of the kernel can be traced; before, it is said what it costs
        tap.equal(label + ": of system calls only those that matter are seen, or it is said",
                  any("does not let single system calls" in n for n in doc["notes"]),
                  "Linux 5." in label)
        tap.ok(label + ": stacks recorded", any("leak_malloc" in f for f in frames),
               doc["notes"])
        share = doc["profile"] and sum(s["count"] for s in doc["profile"]["stacks"]
                                       if s["complete"]) / max(1, sum(
                                           s["count"] for s in doc["profile"]["stacks"]))
        tap.note("%s: %s of events reach the root" % (label, share and "%.1f%%" % (100 * share)))


    check_sets(tap, label, told)


def check_sets(tap, label, told):
    """What each probe set brought, or the sentence why it is not there."""
    tap.ok(label + ": record --native --gc", told.code("record2") in (0, 6), told.why("record2"))
    for kind in ("native", "gc", "carrier", "cpu"):
        doc = told.json(kind)
        if not doc:
            tap.ok("%s: report of %s" % (label, kind), False, told.why(kind))
            continue
        profile, notes = doc["profile"], " ".join(doc["notes"])
        if profile is None or not profile["stacks"]:
            tap.note("%s: no %s: %s" % (label, kind, notes))
            # a quiet node makes no carrier and may not collect; what cannot be traced is said
            tap.ok("%s: %s is there, or it is said why not" % (label, kind),
                   kind == "carrier" or kind == "gc" and profile is not None or
                   "was not traced" in notes, notes)
            continue
        reached = sum(s["count"] for s in profile["stacks"] if s["complete"])
        tap.note("%s: %s: %d stacks, %.1f%% of events reach the root" % (
            label, kind, len(profile["stacks"]), 100 * reached / max(1, profile["events"])))
        if kind == "native":
            tap.ok(label + ": native names the NIF", any(
                "leak_malloc" in f and "leak_nif.so" in f for s in profile["stacks"]
                for f in s["frames"]), notes)


def main():
    with Tap() as tap, tempfile.TemporaryDirectory(dir=TOP / "build") as tmp:
        if not os.environ.get("BEAMRAY_STATIC"):
            made = subprocess.run(["make", "STATIC=1", "build/gcc-static/beamray"], cwd=TOP,
                                  capture_output=True, text=True, check=False)
            if made.returncode:
                tap.skip("kernels", "no static build: " + made.stderr.strip()[-200:])
                return
        for release in releases(tap):
            root = os.path.join(tmp, release)
            stage(root, release)
            for suite in kernel.SUITES if release == EVERYWHERE else [ONCE]:
                out = os.path.join(tmp, "out-%s-%s" % (suite, release))
                os.mkdir(out)
                try:
                    version = kernel.run(suite, root, out)
                except (otp.CannotBuild, kernel.CannotRun) as e:
                    tap.skip("%s, OTP %s" % (suite, release), str(e))
                    continue
                keep = TOP / "build" / "tests" / "log" / ("kernel-%s-%s" % (suite, release))
                shutil.rmtree(keep, ignore_errors=True)
                keep.parent.mkdir(parents=True, exist_ok=True)
                shutil.copytree(out, keep)
                check(tap, "Linux %s, OTP %s" % (re.match(r"[\d.]+", version).group(0), release),
                      Told(out))


main()
