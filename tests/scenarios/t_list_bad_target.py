#!/usr/bin/env python3
"""`list` of targets that are not there, not ours, or go away in the middle."""
# timeout: 200

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
from lab import Node, Tap, beamray, releases  # noqa: E402

WHATS = ["processes", "stacks", "schedulers", "memory", "atoms", "modules", "literals", "persistent_terms"]
NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]


def sentence(run):
    return len([line for line in run.err.splitlines() if line.strip()]) == 1 and not run.out


def refusals(tap):
    gone = subprocess.Popen(["true"])
    gone.wait()
    sleeper = subprocess.Popen(["sleep", "60"])
    wrong = []
    for what in WHATS:
        run = beamray("list", "-p", gone.pid, what)
        if run.code != 5 or not sentence(run):
            wrong.append((what, "no process", run.code, run.err))
        run = beamray("list", "-p", sleeper.pid, what, "--json")
        if run.code != 3 or not sentence(run):
            wrong.append((what, "not a BEAM", run.code, run.err))
    sleeper.kill()
    sleeper.wait()
    tap.ok("no process: 5; not a BEAM: 3; one sentence each", not wrong, wrong[:3])
    wrong = [args for args in (["list"], ["list", "-p", "1"], ["list", "-p", "1", "nothing"],
                               ["list", "-p", "1", "atoms", "memory"], ["list", "-p", "x", "atoms"],
                               ["list", "-p", "1", "atoms", "-n", "-3"],
                               ["list", "-p", "1", "atoms", "-n", "0"],
                               ["list", "-p", "1", "processes", "--window", "soon"],
                               ["list", "-p", "1", "atoms", "--window", "1s"])
             if beamray(*args).code != 2]
    tap.ok("wrong command lines are usage errors", not wrong, wrong)


def going_away(tap, release, label):
    """Killed at many moments of a listing: a whole document, or a sentence."""
    codes, bad = {}, []
    for step in range(0, 8, 2):
        with Node(release) as node:
            node("spawn", 20000)
            timer = threading.Timer(0.002 * step * step, os.kill, (node.pid, signal.SIGKILL))
            timer.start()
            run = beamray("list", "-p", node.pid, "processes", "--json", timeout=20)
            timer.join()
            codes[run.code] = codes.get(run.code, 0) + 1
            try:
                rows = json.loads(run.out)["rows"] if run.out else None
            except ValueError as e:
                bad.append(str(e))
            if run.code not in (0, 5, 6) or (run.code == 0) != (rows is not None):
                bad.append((run.code, run.err[:200], run.out[:100]))
    tap.note("%s: exit codes %s" % (label, codes))
    tap.ok("%s: killed in the middle" % label, not bad, bad[:3])


def main():
    with Tap() as tap:
        refusals(tap)
        for release in releases(tap, ["25", "29"]):
            label = "OTP " + release
            with Node(release) as node:
                if os.geteuid() == 0:
                    run = beamray("list", "-p", node.pid, "processes", prefix=NOBODY)
                    tap.ok("%s: without privilege: 4 and a sentence" % label,
                           run.code == 4 and sentence(run), (run.code, run.err))
                else:
                    tap.skip("%s: without privilege" % label, "not root")
                node.process.send_signal(signal.SIGSTOP)
                looks = [beamray("list", "-p", node.pid, what, "--json") for what in WHATS]
                node.process.send_signal(signal.SIGCONT)
                tap.ok("%s: a node that answers nobody is read all the same" % label,
                       all(run.code == 0 for run in looks),
                       [(w, r.code, r.err) for w, r in zip(WHATS, looks) if r.code])
            with Node(release, ["+Mea", "min"]) as node:
                looks = {what: beamray("list", "-p", node.pid, what, "--json") for what in WHATS}
                memory = json.loads(looks["memory"].out)
                tap.ok("%s: +Mea min: memory is null, with a reason, the others are there" % label,
                       all(run.code == 0 for run in looks.values())
                       and all(r["bytes"] is None for r in memory["rows"]) and memory["notes"],
                       [(w, r.code, r.err) for w, r in looks.items()])
            going_away(tap, release, label)


main()
