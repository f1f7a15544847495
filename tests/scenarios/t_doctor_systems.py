#!/usr/bin/env python3
"""The doctor on busy systems that nobody here wrote: no false accusation.

RabbitMQ under publish and consume, ejabberd under messages, a web application in Elixir under
requests. They are healthy; what their own figures confirm (vm-data, vm-retained) may be
said, nothing of NIFs, drivers or native growth.
"""
# timeout: 1500

import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
from clinic import Doctor  # noqa: E402
from lab import LONG, TOP, NodeError, System, Tap  # noqa: E402
from load import Amqp, Http, Xmpp  # noqa: E402

# name, suite, runs: 24 in all with --long
SYSTEMS = [("rabbitmq", "bookworm", 1), ("elixir", "bookworm", 1)]
if LONG:
    SYSTEMS = [("rabbitmq", "bookworm", 8), ("ejabberd", "bookworm", 8), ("elixir", "bookworm", 8)]

LOADS = {"rabbitmq": lambda system: Amqp(35672), "ejabberd": lambda system: Xmpp(system, 35222),
         "elixir": lambda system: Http(36080)}


def examine(tap, system, label, runs):
    right = 0
    for run in range(runs):
        doctor = Doctor(system.pid, seconds=10 if LONG else 6)
        answer = doctor.answer()
        if answer is None:
            tap.ok("%s run %d: an answer" % (label, run), False, "".join(doctor.err)[-300:])
            continue
        findings = answer["findings"]
        bad = [f for f in findings if f["code"] not in ("healthy", "vm-data", "vm-retained")]
        grew = {r["account"]: r["bytes"] for r in answer["after"]["ledger"]}
        for r in answer["before"]["ledger"]:
            grew[r["account"]] = grew.get(r["account"], 0) - r["bytes"]
        for f in findings:
            # the node's own figures have to say so too
            if f["code"] == "vm-data" and f["grew_bytes"] and f["grew_bytes"] > 2 * max(
                    1, answer["after"]["vm"]["used"] - answer["before"]["vm"]["used"]):
                bad.append(f)
        right += not bad
        tap.ok("%s run %d: %s" % (label, run, ", ".join(f["code"] for f in findings)), not bad,
               [(f["code"], f["subject"], f["mechanism"], f["bytes"], f["grew_bytes"],
                 f["lost_bytes"], f["confidence_reason"]) for f in bad])
    tap.note("%s: %d of %d runs without a false accusation" % (label, right, runs))


def main():
    with Tap() as tap:
        for name, suite, runs in SYSTEMS:
            label = "%s of %s" % (name, suite)
            built = subprocess.run(["%s/tools/roots/system.sh" % TOP, "build", name, suite],
                                   capture_output=True, text=True, check=False)
            if built.returncode:
                tap.skip(label, built.stderr.strip().splitlines()[-1][:200])
                continue
            try:
                system = System(name, suite)
            except NodeError as e:
                tap.ok("%s: starts" % label, False, e)
                continue
            with system:
                with LOADS[name](system) as load:
                    time.sleep(8)
                    examine(tap, system, label, runs)
                    tap.ok("%s: there was a load" % label, load.count > 20 and not load.error,
                           (load.count, load.error))


if __name__ == "__main__":
    main()
