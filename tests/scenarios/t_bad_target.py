#!/usr/bin/env python3
"""Targets that are not there, not ours, not a BEAM, or go away: one sentence, the right code."""
# timeout: 200

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
from lab import PROGRAM, Node, Tap, beamray, releases  # noqa: E402

USAGE, UNSUPPORTED, NOT_PERMITTED, GONE, INCOMPLETE = 2, 3, 4, 5, 6
NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]


def refuses(tap, name, run, codes, sentence=True):
    lines = [line for line in run.err.splitlines() if line.strip()]
    good = run.code in codes and run.seconds < 5 and run.out == ""
    if sentence:
        good = good and len(lines) == 1 and len(lines[0]) > 20
    tap.ok("%s: exit code %s and a sentence" % (name, "/".join(map(str, codes))), good,
           "code %d, %.1f s, stdout %r, stderr %r" % (run.code, run.seconds, run.out[:100],
                                                      run.err[:300]))


def free_pid():
    done = subprocess.Popen(["true"])
    done.wait()
    return done.pid


def zombie():
    child = subprocess.Popen(["true"])
    for _ in range(100):
        if " Z " in Path("/proc/%d/stat" % child.pid).read_text():
            return child
        time.sleep(0.02)
    return child


def going_away(tap, release):
    """Killed at many moments of a look."""
    codes, slow, bad = {}, 0.0, []
    for step in range(8):
        with Node(release) as node:
            node("binaries", 20000, 3000)
            timer = threading.Timer(0.004 * step * step, os.kill, (node.pid, signal.SIGKILL))
            timer.start()
            run = beamray("memory", "-p", node.pid, "--json", timeout=20)
            timer.join()
            codes[run.code] = codes.get(run.code, 0) + 1
            slow = max(slow, run.seconds)
            if run.code not in (0, GONE, INCOMPLETE):
                bad.append((run.code, run.err[:200]))
            if run.code == GONE and len(run.err.splitlines()) != 1:
                bad.append((run.code, run.err[:200]))
            node.process.wait()
    tap.ok("OTP %s: node killed in the middle of a look: codes %r" % (release, codes),
           not bad and slow < 5, (bad, slow))


def main():
    with Tap() as tap, tempfile.TemporaryDirectory() as tmp:
        os.chmod(tmp, 0o755)
        program = shutil.copy(PROGRAM, os.path.join(tmp, "beamray"))

        for args in (["memory"], ["memory", "-p"], ["memory", "-p", "x"], ["memory", "-p", "0"],
                     ["memory", "-p", "-5"], ["nonsense"], [], ["memory", "--nonsense"]):
            run = beamray(*args)
            tap.ok("usage: %s" % (" ".join(args) or "no command"),
                   run.code == USAGE and run.err and not run.out, (run.code, run.out, run.err))
        for args in (["-h"], ["-V"], ["memory", "-h"]):
            run = beamray(*args)
            tap.ok("usage: %s answers" % " ".join(args), run.code == 0 and run.out,
                   (run.code, run.err))

        refuses(tap, "no such process", beamray("memory", "-p", free_pid()), [GONE])
        dead = zombie()
        refuses(tap, "zombie", beamray("memory", "-p", dead.pid), [GONE])
        dead.wait()

        sleeper = subprocess.Popen(["sleep", "60"])
        time.sleep(0.1)
        refuses(tap, "not a BEAM (sleep)", beamray("memory", "-p", sleeper.pid), [UNSUPPORTED])
        sleeper.kill()
        sleeper.wait()
        refuses(tap, "not a BEAM (this python)", beamray("memory", "-p", os.getpid()),
                [UNSUPPORTED])
        if os.path.exists("/proc/2") and not os.path.exists("/proc/2/exe"):
            refuses(tap, "kernel thread", beamray("memory", "-p", 2), [UNSUPPORTED])

        for release in releases(tap, ["25"]):
            with Node(release) as node:
                refuses(tap, "another user's node",
                        beamray("memory", "-p", node.pid, program=program, prefix=NOBODY),
                        [NOT_PERMITTED])
                os.kill(node.pid, signal.SIGSTOP)
                run = beamray("memory", "-p", node.pid, "--json")
                os.kill(node.pid, signal.SIGCONT)
                tap.ok("a stopped node is read like any other", run.code == 0, (run.code, run.err))
                tap.equal("and goes on afterwards", node("ping"), "pong")
            going_away(tap, release)

        if shutil.which("erl"):
            mine = subprocess.Popen([*NOBODY, "erl", "-noshell", "-eval", "timer:sleep(60000)."],
                                    cwd="/", env={**os.environ, "HOME": tmp},
                                    stdin=subprocess.DEVNULL)
            time.sleep(2)
            run = beamray("memory", "-p", mine.pid, "--json", program=program, prefix=NOBODY)
            scope = Path("/proc/sys/kernel/yama/ptrace_scope")
            if scope.exists() and scope.read_text().strip() != "0":
                refuses(tap, "one's own node under yama", run, [NOT_PERMITTED])
            else:
                tap.ok("one's own node needs no privilege", run.code == 0,
                       (run.code, run.err[:300]))
            mine.kill()
            mine.wait()
        else:
            tap.skip("one's own node needs no privilege", "no erl on this machine")


main()
