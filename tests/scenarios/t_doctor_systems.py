#!/usr/bin/env python3
"""The doctor on busy systems that nobody here wrote: no false accusation.

RabbitMQ under publish and consume, ejabberd with clients that come and go, an Elixir
node that decodes and holds sessions. They are healthy; what their own figures confirm
(vm-data, vm-retained) may be said, nothing of NIFs, drivers or native growth.
"""
# timeout: 1500

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
from clinic import Doctor  # noqa: E402
from lab import LONG, TOP, NodeError, System, Tap  # noqa: E402

# name, suite, runs: 20 in all with --long
SYSTEMS = [("rabbitmq", "bookworm", 1)]
if LONG:
    SYSTEMS = [("rabbitmq", "bookworm", 8), ("ejabberd", "bookworm", 8), ("elixir", "bookworm", 4)]

PUBLISH = """
import pika, sys
c = pika.BlockingConnection(pika.ConnectionParameters('127.0.0.1'))
ch = c.channel()
ch.queue_declare('doctor', auto_delete=True)
while True:
    for i in range(500):
        ch.basic_publish('', 'doctor', b'x' * 2000)
    for i in range(500):
        ch.basic_get('doctor', auto_ack=True)
"""


class Load:
    """Work for a system, until it is told to stop."""

    def __init__(self, name, port=None):
        self.stop, self.done = threading.Event(), 0
        self.process = None
        if name == "rabbitmq" and has_pika():
            self.process = subprocess.Popen([PYTHON, "-c", PUBLISH], stdout=subprocess.DEVNULL,
                                            stderr=subprocess.DEVNULL)
        elif name == "ejabberd":
            self.thread = threading.Thread(target=self.clients, args=(port or 5222,), daemon=True)
            self.thread.start()

    def clients(self, port):
        hello = (b"<?xml version='1.0'?><stream:stream to='localhost' xmlns='jabber:client' "
                 b"xmlns:stream='http://etherx.jabber.org/streams' version='1.0'>")
        while not self.stop.is_set():
            try:
                with socket.create_connection(("127.0.0.1", port), 2) as s:
                    s.sendall(hello)
                    s.settimeout(2)
                    s.recv(4096)
                self.done += 1
            except OSError:
                time.sleep(0.2)

    def end(self):
        self.stop.set()
        if self.process:
            self.process.kill()
            self.process.wait()


PYTHON = "/usr/bin/python3"


def has_pika():
    return os.path.exists(PYTHON) and subprocess.run(
        [PYTHON, "-c", "import pika"], capture_output=True, check=False).returncode == 0


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
            if name == "rabbitmq" and not has_pika():
                tap.skip("%s under load" % label, "python3-pika is not installed; it idles")
            with system:
                load = Load(name)
                time.sleep(5)
                examine(tap, system, label, runs)
                if load.process:
                    tap.ok("%s: its client went on" % label, load.process.poll() is None)
                load.end()
                if name == "ejabberd":
                    tap.ok("%s: clients came and went" % label, load.done > 100, load.done)


if __name__ == "__main__":
    main()
