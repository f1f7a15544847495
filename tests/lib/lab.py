"""What the scenario tests stand on: nodes of every release, beamray, and TAP lines.

A test is a program tests/scenarios/t_*.py (or .sh) that prints `ok - name` and
`not ok - name # why` lines; tests/run.sh counts them. What cannot be tested here
is `ok - name # SKIP why`, never silence. Only the standard library is used.
"""

import atexit
import hashlib
import json
import os
import selectors
import subprocess
import sys
import threading
import time
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
SCENARIOS = TOP / "tests" / "scenarios"
WORK = Path(os.environ.get("BEAMRAY_TEST_WORK") or TOP / "build" / "tests").absolute()
PROGRAM = os.environ.get("BEAMRAY") or str(TOP / "beamray")
LONG = os.environ.get("BEAMRAY_LONG") == "1"
MATRIX = ["23", "25", "27", "29"]

sys.path.insert(0, str(TOP / "tools" / "roots"))
import otp  # noqa: E402  (the builder of the roots)


# ---- TAP ---------------------------------------------------------------------

class Tap:
    """Counts and prints; `with Tap() as tap` exits the program with its result."""

    def __init__(self):
        self.failed = 0

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if kind is not None and issubclass(kind, Exception):
            import traceback
            traceback.print_exception(kind, error, trace)
            self.ok("runs to its end", False, "%s: %s" % (kind.__name__, error))
        stop_all()
        if kind is None or issubclass(kind, Exception):
            sys.stdout.flush()
            os._exit(1 if self.failed else 0)

    def ok(self, name, good, why=""):
        name = name.replace("#", "")
        if good:
            print("ok - %s" % name, flush=True)
        else:
            self.failed += 1
            print("not ok - %s%s" % (name, " # " + str(why).replace("\n", " ") if why else ""),
                  flush=True)
        return good

    def equal(self, name, is_, should):
        return self.ok(name, is_ == should, "is %r, should be %r" % (is_, should))

    def skip(self, name, why):
        print("ok - %s # SKIP %s" % (name, why), flush=True)

    @staticmethod
    def note(text):
        for line in str(text).splitlines():
            print("# " + line, flush=True)


def releases(tap, wanted=None):
    """The releases of the matrix that can be had here; the others are counted as skipped."""
    chosen = (os.environ.get("BEAMRAY_RELEASES") or "").split() or wanted or MATRIX
    if wanted:
        chosen = [r for r in chosen if r in wanted]
    for release in chosen:
        if release == "host":
            yield release
            continue
        try:
            otp.build(release)
        except otp.CannotBuild as e:
            tap.skip("OTP %s" % release, "no root: %s" % e)
            continue
        yield release


# ---- what a node runs --------------------------------------------------------

def nif_include():
    """Headers of the oldest release there is: a NIF built with them loads in all."""
    for release in MATRIX:
        include = otp.roots_dir() / ("otp-" + release) / "usr/lib/erlang/usr/include"
        if (include / "erl_nif.h").exists():
            return include
    root = subprocess.run(["erl", "-noshell", "-eval",
                           "io:put_chars(code:root_dir()), halt()."],
                          capture_output=True, text=True, check=True).stdout
    return Path(root) / "usr" / "include"


# NIFs, a driver and a library to preload: source and what the compiler is told besides.
LIBRARIES = [
    ("leak_nif.so", "leak_nif.c", []),
    ("ill_nif.so", "ill_nif.c", ["-lstdc++"]),
    ("ill_drv.so", "ill_drv.c", []),
    ("grower.so", "grower.c", []),
]


def scenario_dir(release):
    """Folder with the scenario modules compiled by that release, and what they load."""
    sources = sorted(SCENARIOS.glob("*.erl"))
    seen = hashlib.sha256()
    for file in sources + [SCENARIOS / "nif" / source for _, source, _ in LIBRARIES]:
        seen.update(file.read_bytes())
    final = WORK / "scenario" / seen.hexdigest()[:12] / release
    if final.exists():
        return final
    work = final.with_name(".%s.%d.%d" % (release, os.getpid(), threading.get_ident()))
    work.mkdir(parents=True)
    for file in sources:
        (work / file.name).write_bytes(file.read_bytes())
    files = ",".join('"%s"' % (work / f.name) for f in sources)
    run(["%s/tools/roots/node.sh" % TOP, "-b", str(work), release, "-noinput", "-eval",
         '[{ok,_} = compile:file(F,[report,{outdir,"%s"}]) || F <- [%s]], halt(0).'
         % (work, files)], "compiling the scenario for OTP " + release)
    for library, source, flags in LIBRARIES:
        run(["%s/tests/lib/nif.sh" % TOP, str(SCENARIOS / "nif" / source), str(work / library),
             str(nif_include()), *flags], "compiling " + library)
    try:
        work.rename(final)
    except OSError:
        if not final.exists():
            raise
    return final


def run(cmd, what):
    done = subprocess.run(cmd, capture_output=True, text=True, check=False, timeout=120,
                          stdin=subprocess.DEVNULL)
    if done.returncode:
        raise RuntimeError("%s: %s" % (what, (done.stdout + done.stderr).strip()[-800:]))
    return done.stdout


# ---- nodes -------------------------------------------------------------------

NODES = []


def stop_all():
    for node in list(NODES):
        node.stop()


atexit.register(stop_all)


def enter(cgroup):
    """The calling process goes there (0 is itself)."""
    Path(cgroup, "cgroup.procs").write_text("0", encoding="ascii")


class NodeError(Exception):
    pass


class Node:
    """One BEAM that runs tests/scenarios/scenario.erl; see there for the commands."""

    def __init__(self, release, flags=(), env=(), namespaces=False, timeout=60, folder=None,
                 cgroup=None):
        """`folder`: of the modules and NIFs, if it is not the usual one; `cgroup`: it
        lives in that one from its first page on."""
        self.release = release
        self.dir = folder or scenario_dir(release)
        cmd = ["%s/tools/roots/node.sh" % TOP, "-b", str(self.dir)]
        cmd += ["-n"] if namespaces else []
        for item in env:
            cmd += ["-e", item]
        cmd += [release, *flags, "-noinput", "-s", "scenario", "main"]
        WORK.mkdir(parents=True, exist_ok=True)
        self.errors = open(WORK / ("node-%s-%d-%d.stderr" % (release, os.getpid(), threading.get_ident() % 1000)),
                           "w+b")
        self.process = subprocess.Popen(cmd, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=self.errors,
                                        preexec_fn=cgroup and (lambda: enter(cgroup)))
        NODES.append(self)
        self.buffer = b""
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.process.stdout, selectors.EVENT_READ)
        self.own_pid = self.read_line(timeout)["ready"]
        self.pid = self.child() if namespaces else self.process.pid
        comm = Path("/proc/%d/comm" % self.pid).read_text().strip()
        if comm != "beam.smp" and not comm.startswith("beam"):
            raise NodeError("pid %d is %s, not a BEAM" % (self.pid, comm))

    def child(self):
        pid = self.process.pid
        return int(Path("/proc/%d/task/%d/children" % (pid, pid)).read_text().split()[0])

    def read_line(self, timeout):
        deadline = time.monotonic() + timeout
        while b"\n" not in self.buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not self.selector.select(left):
                raise NodeError("OTP %s: no answer within %d s" % (self.release, timeout))
            data = os.read(self.process.stdout.fileno(), 1 << 20)
            if not data:
                raise NodeError("OTP %s: node ended: %s" % (self.release, self.stderr_text()))
            self.buffer += data
        line, self.buffer = self.buffer.split(b"\n", 1)
        try:
            return json.loads(line)
        except ValueError as e:
            raise NodeError("OTP %s: not JSON: %r" % (self.release, line[:400])) from e

    def stderr_text(self):
        self.errors.seek(0)
        return self.errors.read().decode("utf-8", "replace").strip()[-800:]

    def __call__(self, *words, timeout=120):
        """One command, its value."""
        self.send(*words)
        return self.receive(timeout)

    def send(self, *words):
        self.last = " ".join(str(w) for w in words)
        self.process.stdin.write(self.last.encode() + b"\n")
        self.process.stdin.flush()

    def receive(self, timeout=120):
        reply = self.read_line(timeout)
        if "error" in reply:
            raise NodeError("OTP %s: %s: %s" % (self.release, self.last, reply["error"]))
        return reply["ok"]

    def nif(self):
        return self("nif", "load", self.dir)

    def settle(self):
        """Let boot's last work end and the heaps of those who talk to us find their size."""
        self("gc")
        for _ in range(4):
            self("snap", "x")
            time.sleep(0.1)
        time.sleep(0.3)

    def stop(self):
        if self not in NODES:
            return
        NODES.remove(self)
        if self.process.poll() is None:
            try:
                self.process.stdin.write(b"stop\n")
                self.process.stdin.close()
            except OSError:
                pass
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.selector.close()
        self.process.stdout.close()
        self.errors.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


# ---- beamray -----------------------------------------------------------------

class Run:
    def __init__(self, code, out, err, seconds):
        self.code, self.out, self.err, self.seconds = code, out, err, seconds

    def json(self):
        if self.code not in (0, 1, 6):
            raise AssertionError("beamray exits with %d: %s" % (self.code, self.err.strip()))
        return json.loads(self.out)


def beamray(*args, timeout=60, program=None, prefix=()):
    start = time.monotonic()
    done = subprocess.run([*prefix, program or PROGRAM, *[str(a) for a in args]],
                          capture_output=True, encoding="utf-8", errors="replace", check=False,
                          timeout=timeout, stdin=subprocess.DEVNULL)
    return Run(done.returncode, done.stdout, done.stderr, time.monotonic() - start)


def memory(pid, *args, **options):
    return beamray("memory", "-p", pid, "--json", *args, **options)


# ---- real systems ------------------------------------------------------------

class System:
    """RabbitMQ, ejabberd or elixir of a Debian suite (tools/roots/system.sh), running."""

    def __init__(self, name, suite="bookworm", timeout=120):
        cmd = ["%s/tools/roots/system.sh" % TOP, "run", name, suite]
        WORK.mkdir(parents=True, exist_ok=True)
        self.log = open(WORK / ("system-%s-%s.log" % (name, suite)), "w+b")
        self.process = subprocess.Popen(cmd, stdin=subprocess.DEVNULL, stdout=self.log,
                                        stderr=subprocess.STDOUT)
        NODES.append(self)
        deadline = time.monotonic() + timeout
        while b"\nready\n" not in b"\n" + self.text():
            if self.process.poll() is not None or time.monotonic() > deadline:
                tail = self.text()[-500:].decode("utf-8", "replace")
                self.stop()
                raise NodeError("%s of %s did not start: %s" % (name, suite, tail))
            time.sleep(0.1)
        beams = [pid for pid in descendants(self.process.pid) if is_beam(pid)]
        if not beams:
            self.stop()
            raise NodeError("%s of %s: no BEAM among its processes" % (name, suite))
        self.pid = beams[0]

    def text(self):
        self.log.seek(0)
        return self.log.read()

    def stop(self):
        if self not in NODES:
            return
        NODES.remove(self)
        # unshare kills the first process of the namespace, and the kernel all others.
        self.process.kill()
        self.process.wait()
        self.log.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


def descendants(pid):
    try:
        children = Path("/proc/%d/task/%d/children" % (pid, pid)).read_text().split()
    except OSError:
        return []
    found = []
    for child in map(int, children):
        found += [child] + descendants(child)
    return found


def is_beam(pid):
    try:
        return os.path.basename(os.readlink("/proc/%d/exe" % pid)).startswith("beam")
    except OSError:
        return False
