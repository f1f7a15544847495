#!/usr/bin/env python3
"""Systems that nobody here wrote, under load: they lose nothing, so nothing may seem lost."""
# timeout: 300

import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
from lab import LONG, TOP, NodeError, System, Tap, memory  # noqa: E402
from load import Amqp, Xmpp  # noqa: E402
from own import look  # noqa: E402

SYSTEMS = [("rabbitmq", "bookworm"), ("ejabberd", "bookworm")]
if LONG:
    SYSTEMS += [("rabbitmq", "trixie"), ("ejabberd", "trixie"), ("rabbitmq", "forky")]
LOADS = {"rabbitmq": lambda system: Amqp(35672), "ejabberd": lambda system: Xmpp(system, 35222)}


def check(tap, label, name, system):
    with LOADS[name](system) as load:
        time.sleep(4)
        for _ in range(10 if LONG else 3):
            before = load.count
            found = look(system.pid)
            tap.ok("%s: not 64 KiB seem lost" % label,
                   found["proved"] and found["lost_bytes"] <= 65536,
                   (found["notes"], found["lost_groups"][:6]))
            tap.note("%s: %d done meanwhile, lost %d, %d signal stacks, %d blocks, %.2f s, "
                     "%.2f s CPU, %d MB read"
                     % (label, load.count - before, found["lost_bytes"], found["excused"],
                        found["nodes"], found["seconds"], found["cpu_seconds"],
                        found["read_bytes"] >> 20))
        tap.ok("%s: there was a load" % label, load.count > 20 and not load.error,
               (load.count, load.error))
        rows = {row["account"]: row["bytes"] for row in memory(system.pid).json()["ledger"]}
    should = sum(rows.get(a, 0) for a in ("native.heap.used", "native.mmap", "native.stack"))
    tap.ok("%s: native memory is the ledger's %d bytes (5%%)" % (label, should),
           abs(found["used_resident"] - should) <= 0.05 * should, found["used_resident"])


def main():
    with Tap() as tap:
        for name, suite in SYSTEMS:
            label = "%s of %s" % (name, suite)
            done = subprocess.run(["%s/tools/roots/system.sh" % TOP, "build", name, suite],
                                  capture_output=True, text=True, check=False)
            if done.returncode:
                tap.skip(label, done.stderr.strip().splitlines()[-1][:200])
                continue
            try:
                system = System(name, suite)
            except NodeError as e:
                tap.ok("%s: starts" % label, False, e)
                continue
            with system:
                check(tap, label, name, system)


main()
