#!/usr/bin/env python3
"""Systems that nobody here wrote: their ledgers add up too."""
# timeout: 300

import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
from lab import LONG, TOP, NodeError, System, Tap, memory  # noqa: E402
from truth import check_rss, check_sums, check_walk  # noqa: E402

SYSTEMS = [("rabbitmq", "bookworm"), ("ejabberd", "bookworm")]
if LONG:
    SYSTEMS += [("elixir", "bookworm"), ("rabbitmq", "trixie"), ("ejabberd", "trixie"),
                ("elixir", "trixie"), ("rabbitmq", "forky")]


def build(tap, name, suite):
    done = subprocess.run(["%s/tools/roots/system.sh" % TOP, "build", name, suite],
                          capture_output=True, text=True, check=False)
    if done.returncode:
        tap.skip("%s of %s" % (name, suite), done.stderr.strip().splitlines()[-1][:200])
    return done.returncode == 0


def main():
    with Tap() as tap:
        for name, suite in SYSTEMS:
            label = "%s of %s" % (name, suite)
            if not build(tap, name, suite):
                continue
            try:
                system = System(name, suite)
            except NodeError as e:
                tap.ok("%s: starts" % label, False, e)
                continue
            with system:
                time.sleep(2)
                run = memory(system.pid)
                if not tap.ok("%s: a look" % label, run.code == 0,
                              (run.code, run.err[:300] or run.json()["notes"])):
                    continue
                look = run.json()
                check_sums(tap, look, label)
                check_walk(tap, look, label, torn=2)
                check_rss(tap, system, label, slack=2 << 20)
                tap.note("%s: OTP %s, rss %d, unattributed %d"
                         % (label, look["target"]["otp_release"], look["os"]["rss"],
                            look["unattributed"]))


main()
