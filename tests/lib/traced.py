"""A node with a known load (tests/scenarios/trace_load.erl) under the tracer."""

import json
import os
import shutil
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import lab
from lab import SCENARIOS, TOP, Node, scenario_dir

TOOL = Path(os.environ.get("BEAMRAY_TRACE_TOOL") or TOP / "build/gcc/tests/trace/trace_node")

# What calls every load, leaf first.
CHAIN = ["e:trace_load:bottom/3", "e:trace_load:middle/3", "e:trace_load:outer/3",
         "e:trace_load:rounds/5", "e:trace_load:leaker/6"]


class Denied(Exception):
    pass


@contextmanager
def loaded(release, kind, count, size, rounds=40, pause=25, flags=(), env=(), namespaces=False):
    """A node whose load is ready to begin as soon as WORK/go is there: (node, WORK)."""
    base = scenario_dir(release)
    work = base / ("growth-%d-%s" % (os.getpid(), kind))
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        lab.run(["%s/tests/lib/nif.sh" % TOP, str(SCENARIOS / "nif" / "trace_nif.c"),
                 str(work / "trace_nif.so"), str(lab.nif_include())], "compiling the NIF")
        start = ["-s", "trace_load", "start", kind, str(work), str(work), str(count), str(size),
                 str(rounds), str(pause)]
        with Node(release, flags=(*flags, *start), env=env, namespaces=namespaces) as node:
            for _ in range(200):
                if (work / "ready").exists():
                    break
                time.sleep(0.05)
            time.sleep(0.3)
            yield node, work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def tool(node, work, budget=0, profile="growth", frequency=0, prefix=(), inside=False):
    """The tracer's command line; `inside` of the node's pid namespace, with its ids."""
    pid = node.pid
    if inside:
        status = Path("/proc/%d/status" % pid).read_text()
        prefix = ("nsenter", "-t", str(pid), "-p", "unshare", "-m", "sh", "-c",
                  'mount -t proc proc /proc && exec "$@"', "sh", *prefix)
        pid = int(status.split("NSpid:")[1].split("\n")[0].split()[-1])
    return [*prefix, str(TOOL), str(pid), str(work), str(budget), profile, str(frequency)]


def told(work):
    """Bytes that the NIF took during the load."""
    return int((work / "done").read_text().split()[0])


def traced(release, kind, count, size, rounds=40, pause=25, budget=0, profile="growth", frequency=0,
           flags=(), env=(), prefix=(), environ=None, namespaces=False, inside=False):
    """Runs one load under the tracer: (what came out, bytes that the NIF took). `env` is the
    node's, `environ` the tracer's. `namespaces`: the node has its own; `inside`: so has the
    tracer, the same."""
    with loaded(release, kind, count, size, rounds, pause, flags, env, namespaces) as (node, work):
        done = subprocess.run(tool(node, work, budget, profile, frequency, prefix, inside),
                              capture_output=True, text=True, check=False, timeout=100,
                              env={**os.environ, **(environ or {})})
        if done.returncode == 77:
            raise Denied(done.stderr.strip())
        if done.returncode:
            raise AssertionError("trace_node exits with %d: %s"
                                 % (done.returncode, done.stderr.strip()))
        out = json.loads(done.stdout)
        out["clocks"] = (work / "clocks").read_text().split("\n")
        return out, told(work)


def naps(release, kind, **options):
    """Ten naps of 150 ms, as traced()."""
    return traced(release, kind, 1, 150, rounds=10, pause=5, budget=1, profile="offcpu", **options)


def erlang(frames):
    """The Erlang functions of a stack, without the VM's own fragments."""
    return [f for f in frames if f.startswith("e:") and not f.startswith("e:global::")]


class Watched:
    """A node of ours with the tracer on it: `with Watched(node, "gc") as w: ...`, then w.out."""

    def __init__(self, node, profile, budget=1, inside=False):
        self.node, self.out = node, None
        self.work = scenario_dir(node.release) / ("watched-%d-%d" % (os.getpid(), node.pid))
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir()
        self.go = self.work / "go"  # the tracer makes it when it is attached
        self.command = tool(node, self.work, budget, profile, inside=inside)

    def start(self):
        """The tracer, attached."""
        self.go.unlink(missing_ok=True)
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, text=True)
        while not self.go.exists():
            if self.process.poll() is not None:
                self.finish()
            time.sleep(0.02)
        return self.process

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, kind, error, trace):
        (self.work / "done").touch()
        if kind:
            self.process.kill()
            self.process.communicate()
            shutil.rmtree(self.work, ignore_errors=True)
        else:
            self.finish()

    def finish(self):
        out, err = self.process.communicate(timeout=60)
        shutil.rmtree(self.work, ignore_errors=True)
        if self.process.returncode == 77:
            raise Denied(err.strip())
        if self.process.returncode:
            raise AssertionError("trace_node exits with %d: %s"
                                 % (self.process.returncode, err.strip()))
        self.out = json.loads(out)
