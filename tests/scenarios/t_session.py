#!/usr/bin/env python3
"""What may happen to a target, and to the tracer, while it is traced."""
# timeout: 300

import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
from lab import Tap, beamray, releases  # noqa: E402
from recorder import Recorder, wait_looks  # noqa: E402
from traced import loaded  # noqa: E402

GONE = 5


def started(node, file, *args):
    """The recorder with its first look taken, and whether it traces."""
    recorder = Recorder(node.pid, file, "-d", "60s", "-i", "30s", *args)
    if not wait_looks(file, 1):
        raise AssertionError("no look: %s" % (recorder.end(),))
    kinds = beamray("report", file, "-f", "json").json()["kinds"]
    return recorder, "growth" in kinds


def done(work):
    end = time.monotonic() + 60
    while not (work / "done").exists() and time.monotonic() < end:
        time.sleep(0.05)
    return (work / "done").exists()


def report(file, kind):
    return beamray("report", file, "-f", "json", "--kind", kind).json()


def other_program(tap, release, file):
    with loaded(release, "become", 1, 1, 1, 1) as (node, work):
        recorder, traced = started(node, file)
        if not traced:
            return False
        (work / "go").touch()
        code, _, err = recorder.end()
        tap.ok("exec: the run ends and says so", code == GONE and "exec" in err, (code, err))
        doc = report(file, "growth")
        tap.ok("exec: what was seen is in the file", doc["recording"]["state"] == "target gone" and
               doc["profile"] is not None, doc["recording"])
    return True


def child(tap, release, file):
    with loaded(release, "fork_child", 1, 64, 1, 1) as (node, work):
        recorder, _ = started(node, file, "-F", 997)
        (work / "go").touch()
        tap.ok("fork: the load ends", done(work))
        recorder.process.send_signal(signal.SIGTERM)
        code, _, err = recorder.end()
        tap.ok("fork: SIGTERM ends it early and complete", code == 0, (code, err))
        doc = report(file, "growth")
        mine = sum(s["weight"] for s in doc["profile"]["stacks"]
                   if any("fork_child" in f for f in s["frames"]))
        tap.ok("fork: the child's memory is not the target's: %d" % mine, mine < 1 << 20)
        burnt = sum(s["weight"] for s in report(file, "cpu")["profile"]["stacks"]
                    if any(f.startswith("burn ") for f in s["frames"]))
        tap.equal("fork: nor is its processor time", burnt, 0)


def late_thread(tap, release, file):
    with loaded(release, "burn_thread", 1, 400, 1, 1) as (node, work):
        recorder, _ = started(node, file, "-F", 997)
        (work / "go").touch()
        done(work)
        recorder.process.send_signal(signal.SIGINT)
        code, _, err = recorder.end()
        tap.ok("Ctrl-C ends it early and complete", code == 0, (code, err))
        doc = report(file, "cpu")
        mine = [s for s in doc["profile"]["stacks"] if any("burner_main" in f for f in s["frames"])]
        tap.ok("a thread that started later is sampled: %d" % sum(s["weight"] for s in mine),
               sum(s["weight"] for s in mine) > 20, doc["profile"]["stacks"][:3])
        tap.equal("under its name", sorted({s["process"] for s in mine}), ["burner"])
        row = [t for t in doc["usage"]["threads"] if t["name"].startswith("burner")]
        tap.ok("and its times are there although it has ended", len(row) == 1 and
               300e6 < row[0]["running_ns"] + row[0]["preempted_ns"] < 5e9, row)


def of_process(pid, what):
    """Ids of BPF objects that a process holds."""
    ids = set()
    for info in Path("/proc/%d/fdinfo" % pid).iterdir():
        try:
            ids |= set(re.findall(r"^%s_id:\t(\d+)" % what, info.read_text(), re.M))
        except OSError:
            pass
    return ids


def exists(what, number):
    return subprocess.run(["bpftool", what, "show", "id", number], capture_output=True,
                          check=False).returncode == 0


def killed(tap, release, file):
    with loaded(release, "idle", 1, 100, 1, 1) as (node, work):
        recorder, _ = started(node, file, "--offcpu")
        held = {what: of_process(recorder.process.pid, what) for what in ("prog", "map", "link")}
        tap.ok("it holds programs and maps", len(held["prog"]) > 5 and len(held["map"]) > 5,
               {k: len(v) for k, v in held.items()})
        recorder.process.kill()
        recorder.end()
        left = [(what, n) for what in held for n in held[what] if exists(what, n)]
        for _ in range(50):  # the kernel frees them a little later
            if not left:
                break
            time.sleep(0.1)
            left = [(what, n) for what in held for n in held[what] if exists(what, n)]
        tap.equal("SIGKILL leaves nothing in the kernel", left, [])
        tap.ok("and the node goes on", node("ping") == "pong")


def main():
    with Tap() as tap, tempfile.TemporaryDirectory() as tmp:
        file = str(Path(tmp) / "r")
        wanted = list(releases(tap))
        for release in [r for r in wanted if r in ("25", "29")] or wanted[:1]:
            if not other_program(tap, release, file):
                tap.skip("OTP %s session" % release, "tracing is not permitted here")
                continue
            child(tap, release, file)
            late_thread(tap, release, file)
            killed(tap, release, file)


if __name__ == "__main__":
    main()
