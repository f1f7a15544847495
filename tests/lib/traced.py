"""A node with a known load (tests/scenarios/trace_load.erl) under the tracer."""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import lab
from lab import SCENARIOS, TOP, Node, scenario_dir

TOOL = Path(os.environ.get("BEAMRAY_TRACE_TOOL") or TOP / "build/gcc/tests/trace/trace_node")

# What calls every load, leaf first.
CHAIN = ["e:trace_load:bottom/3", "e:trace_load:middle/3", "e:trace_load:outer/3",
         "e:trace_load:rounds/5", "e:trace_load:leaker/6"]


class Denied(Exception):
    pass


def traced(release, kind, count, size, rounds=40, pause=25, budget=0, profile="growth", frequency=0,
           flags=()):
    """Runs one load under the tracer: (what came out, bytes that the NIF took)."""
    base = scenario_dir(release)
    work = base / ("growth-%d-%s" % (os.getpid(), kind))
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        lab.run(["%s/tests/lib/nif.sh" % TOP, str(SCENARIOS / "nif" / "trace_nif.c"),
                 str(work / "trace_nif.so"), str(lab.nif_include())], "compiling the NIF")
        start = ["-s", "trace_load", "start", kind, str(work), str(work), str(count), str(size),
                 str(rounds), str(pause)]
        with Node(release, flags=(*flags, *start)) as node:
            for _ in range(200):
                if (work / "ready").exists():
                    break
                time.sleep(0.05)
            time.sleep(0.3)
            done = subprocess.run([str(TOOL), str(node.pid), str(work), str(budget), profile,
                                   str(frequency)],
                                  capture_output=True, text=True, check=False, timeout=100)
            if done.returncode == 77:
                raise Denied(done.stderr.strip())
            if done.returncode:
                raise AssertionError("trace_node exits with %d: %s"
                                     % (done.returncode, done.stderr.strip()))
            told = (work / "done").read_text().split()
            out = json.loads(done.stdout)
            out["clocks"] = (work / "clocks").read_text().split("\n")
        return out, int(told[0])
    finally:
        shutil.rmtree(work, ignore_errors=True)


def erlang(frames):
    """The Erlang functions of a stack, without the VM's own fragments."""
    return [f for f in frames if f.startswith("e:") and not f.startswith("e:global::")]
