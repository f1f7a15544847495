#!/usr/bin/env python3
"""Capabilities: every command with exactly those that it names, and with one missing.

A program without any privilege of its own gets the set as ambient capabilities, under
another user than the node's, so that nothing else helps it.
"""
# timeout: 300

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
from lab import PROGRAM, Node, Tap, beamray, releases  # noqa: E402
from recorder import Recorder, wait_looks  # noqa: E402

DENIED, UNSUPPORTED = 4, 3
READ = ["sys_ptrace", "dac_read_search"]
TRACE = READ + ["bpf", "perfmon"]


def only(*caps):
    """A prefix for a command: another user, with these capabilities and no other."""
    names = ",".join("+" + c for c in caps)
    return ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
            "--inh-caps=-all" + ("," + names if names else ""),
            "--ambient-caps=-all" + ("," + names if names else ""),
            "--bounding-set=-all" + ("," + names if names else "")]


def one_line(text):
    return len([line for line in text.splitlines() if line.strip()]) == 1


def held(pid):
    """Capabilities that each thread of a process has: {thread: number}."""
    found = {}
    for task in Path("/proc/%d/task" % pid).iterdir():
        try:
            status = (task / "status").read_text()
        except OSError:
            continue
        found[task.name] = int(re.search(r"^CapPrm:\s*([0-9a-f]+)", status, re.M).group(1), 16)
    return found


# Numbers of linux/capability.h.
NUMBER = {"dac_override": 1, "dac_read_search": 2, "kill": 5, "setuid": 7, "net_admin": 12,
          "sys_module": 16, "sys_ptrace": 19, "sys_admin": 21, "syslog": 34, "perfmon": 38,
          "bpf": 39, "checkpoint_restore": 40}


def reading(tap, label, pid, program):
    for args in (["memory"], ["list", "memory"], ["list", "processes"], ["doctor", "--still"],
                 ["check"]):
        name = label + ": " + " ".join(args)
        run = beamray(*args[:1], "-p", pid, *args[1:], program=program, prefix=only(*READ))
        # an incomplete look (6) is no question of capabilities; what it says is kept
        if run.code == 6:
            tap.note(run.out)
        tap.ok(name + " with CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH", run.code in (0, 1, 6)
               and run.out and not run.err, (run.code, run.err))
        for caps in ([], ["dac_read_search"], ["sys_ptrace"]):
            run = beamray(*args[:1], "-p", pid, *args[1:], program=program, prefix=only(*caps))
            missing = "CAP_SYS_PTRACE" if "sys_ptrace" not in caps else "CAP_DAC_READ_SEARCH"
            tap.ok("%s with %s" % (name, " ".join(caps) or "none"), run.code == DENIED and
                   one_line(run.err) and missing in run.err, (run.code, run.err))


def tracing(tap, label, pid, program, tmp):
    file = os.path.join(tmp, "r")
    for name, args, answer in (
            ("record", ["record", "-d", 1, "-o", file], "Ledgers only"),
            ("doctor", ["doctor", "-d", "1s"], "")):
        run = beamray(*args[:1], "-p", pid, *args[1:], program=program, prefix=only(*TRACE))
        tap.ok("%s: %s with these and CAP_BPF, CAP_PERFMON" % (label, name),
               run.code in (0, 1) and not run.err and "Ledgers only" not in run.out,
               (run.code, run.out[-300:], run.err))
        if name == "record":
            doc = beamray("report", file, "-f", "json").json()
            tap.ok(label + ": and growth is traced", doc["profile"] is not None, doc["notes"])
        for missing in TRACE:
            run = beamray(*args[:1], "-p", pid, *args[1:], program=program,
                          prefix=only(*[c for c in TRACE if c != missing]))
            what = "%s: %s without CAP_%s" % (label, name, missing.upper())
            if missing in READ:
                tap.ok(what, run.code == DENIED and one_line(run.err) and
                       "CAP_" + missing.upper() in run.err, (run.code, run.err))
            else:  # it measures; a recording says why it holds no stacks
                tap.ok(what + ": it goes on", run.code in (0, 1) and answer in run.out and
                       not run.err and (name != "record" or re.search(r"CAP_BPF", run.out)),
                       (run.code, run.out[-400:], run.err))
        run = beamray(*args[:1], "-p", pid, *args[1:], "--no-uprobes", program=program,
                      prefix=only(*READ))
        tap.ok("%s: %s --no-uprobes with CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH" % (label, name),
               run.code in (0, 1) and not run.err, (run.code, run.err))
    run = beamray("report", file, program=program, prefix=only())
    tap.ok(label + ": report with none", run.code == 0 and run.out, (run.code, run.err))


def given_up(tap, label, pid, tmp):
    """What a recorder that root started still has while it records."""
    file = os.path.join(tmp, "dropped")
    recorder = Recorder(pid, file, "-d", "1m", "-i", "200ms")
    wait_looks(file, 2)
    union = 0
    for _ in range(20):  # threads for reading come and go
        for caps in held(recorder.process.pid).values():
            union |= caps
        time.sleep(0.02)
    status = Path("/proc/%d/status" % recorder.process.pid).read_text()
    recorder.process.terminate()
    code, _, err = recorder.end()
    have = {name for name, number in NUMBER.items() if union >> number & 1}
    tap.ok(label + ": record ends well without what it gave up", code == 0 and not err,
           (code, err))
    tap.ok(label + ": nothing but to read, to drain, to write is left",
           {"sys_ptrace", "bpf"} <= have and
           not have & {"perfmon", "kill", "setuid", "net_admin", "sys_module"}, sorted(have))
    tap.ok(label + ": nor can it be had again", re.search(r"^NoNewPrivs:\s*1", status, re.M))


def without_btf(tap, label, pid, tmp):
    """A mount namespace where the kernel's types are hidden."""
    file = os.path.join(tmp, "nobtf")
    empty = os.path.join(tmp, "empty")
    os.mkdir(empty)
    hide = ["unshare", "-m", "sh", "-c", "mount --bind %s /sys/kernel/btf || exit 99; exec \"$@\"" %
            empty, "sh"]
    run = beamray("record", "-p", pid, "-d", 1, "-o", file, prefix=hide)
    if run.code == 99 or "unshare" in run.err:
        tap.skip(label + ": without BTF", "no mount here")
        return
    tap.ok(label + ": record without BTF: ledgers, and why", run.code == 0 and
           "no BTF" in run.out and "Ledgers only" in run.out, (run.code, run.out, run.err))
    run = beamray("doctor", "-p", pid, "-d", "1s", "--json", prefix=hide)
    tap.ok(label + ": doctor without BTF", run.code in (0, 1) and not run.err,
           (run.code, run.err))
    run = beamray("check", prefix=hide)
    tap.ok(label + ": check says so", run.code == 0 and re.search(r"no   BTF", run.out), run.out)
    run = beamray("memory", "-p", pid, prefix=hide)
    tap.ok(label + ": memory needs none", run.code == 0, (run.code, run.err))


def main():
    with Tap() as tap, tempfile.TemporaryDirectory() as tmp:
        if os.geteuid() != 0 or not shutil.which("setpriv"):
            tap.skip("capabilities", "needs root and setpriv")
            return
        os.chmod(tmp, 0o755)
        program = shutil.copy(PROGRAM, os.path.join(tmp, "beamray"))
        out = os.path.join(tmp, "out")
        os.mkdir(out)
        os.chmod(out, 0o777)
        for release in releases(tap, ["25", "29"]):
            label = "OTP " + release
            with Node(release) as node:
                node.settle()
                reading(tap, label, node.pid, program)
                tracing(tap, label, node.pid, program, out)
                if release == "25":
                    given_up(tap, label, node.pid, out)
                    without_btf(tap, label, node.pid, tmp)
            for file in Path(out).iterdir():
                if file.is_file():
                    file.unlink()


main()
