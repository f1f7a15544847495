#!/usr/bin/env python3
"""What tools cost a node: CPU time of its threads for an operation, with the tool attached
and without, in pairs one after the other.

    tests/bench/overhead.py [--pairs N] [--seconds S] [-r REL] [-l "gc ets"] [-t PATTERN] [-o FILE]
    tests/bench/overhead.py --long MINUTES [-r REL] [-l "gc ets"]

Loads: gc, binaries, messages, ets, crypto; each is one saturated loop that counts its
operations. Tools: beamray's default probes with the default budget (as a user has them) and
without one (what they cost if nothing is thinned), the doctor while it watches, growth alone, the default probes with each
set that is on demand, without a budget too; and beside them, where they run, `perf record -F
49 -g`, bcc's memleak, and bpftrace at page faults and at 49 Hz.

CPU time is that of /proc/PID/task/*/schedstat: system time is in it, and what interrupts
and probes take from the threads. A pair is a window without the tool and one with it, in
turn first and second; the ratio of a pair is (CPU for an operation with) / (without).
Printed are the median of the pairs and their spread. A row "nothing" has no tool in it: it
says how much of a difference is the machine's own. Run it on a machine that does nothing
else; on a busy one only large ratios mean anything.

  --pairs, --seconds   how many of what length; 5 of 2 s: a quarter of an hour for all
  -t        only tools whose name matches
  -o FILE   all figures as JSON
  --long    one recording with the default settings over so many minutes, on a node that
            does one load after the other: what was lost, memory of the kernel's maps, size
"""

import argparse
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
from lab import PROGRAM, Node, NodeError, beamray, descendants  # noqa: E402
from recorder import rows  # noqa: E402

LOADS = ["gc", "binaries", "messages", "ets", "crypto"]
# Schedulers that wait by spinning would count as work.
FLAGS = ["+sbwt", "none", "+sbwtdcpu", "none", "+sbwtdio", "none"]
ATTACH_S = 60
TICKS = os.sysconf("SC_CLK_TCK")


class CannotRun(Exception):
    pass


# ---- tools -----------------------------------------------------------------------------

def heed_interrupts():
    """What a shell starts in the background ignores them, and so would its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Tool:
    """A program that is started, attached, and stopped by SIGINT."""

    def __init__(self, name, command, attached):
        self.name, self.command, self.attached = name, command, attached
        self.kernel_bytes = self.lost = None

    def start(self, pid, folder):
        self.log = open(os.path.join(folder, "log"), "w+b")
        self.file = os.path.join(folder, "out")
        command = [str(a) for a in self.command(pid, self.file)]
        if not shutil.which(command[0]):
            raise CannotRun("%s is not on this machine" % command[0])
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.log,
                                        stderr=subprocess.STDOUT, cwd=folder,
                                        preexec_fn=heed_interrupts)
        end = time.monotonic() + ATTACH_S
        while not self.attached(self):
            if self.process.poll() is not None or time.monotonic() > end:
                why = self.text().strip().splitlines()
                self.stop()
                raise CannotRun(why[-1][:150] if why else "it ended at once")
            time.sleep(0.05)

    def text(self):
        self.log.seek(0)
        return self.log.read().decode("utf-8", "replace")

    def usage(self):
        """CPU seconds and resident bytes of it and its children."""
        cpu = memory = 0
        for pid in [self.process.pid, *descendants(self.process.pid)]:
            try:
                fields = Path("/proc/%d/stat" % pid).read_text().rsplit(") ", 1)[1].split()
                cpu += (int(fields[11]) + int(fields[12])) / TICKS
                memory += int(fields[21]) * os.sysconf("SC_PAGE_SIZE")
            except (OSError, IndexError):
                pass
        return cpu, memory

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()


class Beamray(Tool):
    def __init__(self, name, *options, budget=("--budget", "100"), interval="1h"):
        def command(pid, file):
            return [PROGRAM, "record", "-p", pid, "-o", file, "-d", "1h", "-i", interval,
                    *budget, *options]
        super().__init__(name, command, Beamray.has_look)

    def has_look(self):
        try:
            return rows(self.file, "SELECT count(*) FROM look")[0][0] >= 1
        except Exception:  # not a database yet
            return False

    def stop(self):
        super().stop()
        try:
            figures = dict(rows(self.file, "SELECT name, value FROM counter ORDER BY look"))
            self.kernel_bytes = figures.get("trace.kernel_bytes")
            self.lost = sum(figures.get(n, 0) for n in ("trace.lost_records",
                                                        "trace.lost_stacks"))
        except Exception:
            pass


class Nothing(Tool):
    def __init__(self):
        super().__init__("nothing", lambda pid, file: ["sleep", "1h"], lambda tool: True)


def said(pattern):
    return lambda tool: re.search(pattern, tool.text())


def tools():
    options = beamray("record", "--help").out
    found = [Nothing(), Beamray("beamray record", budget=()),
             Beamray("beamray record, no budget")]
    found.append(Tool("beamray doctor",
                      lambda pid, file: [PROGRAM, "doctor", "-p", pid, "-d", "1h", "--no-scan", "-v"],
                      said("probes are attached")))
    # the default sets alone, and with each that is on demand
    for name, switches, budgets in (("growth alone", ["--no-cpu", "--no-carriers"], [0]),
                                    ("--gc", ["--gc"], [1, 0]), ("--native", ["--native"], [1, 0]),
                                    ("--offcpu", ["--offcpu"], [1, 0])):
        if not all(re.search(r"%s\b" % s, options) for s in switches):
            continue
        for budget in budgets:
            found.append(Beamray("beamray record, %s%s" % (name, "" if budget else ", no budget"),
                                 *switches, **({"budget": ()} if budget else {})))
    found.append(Tool("perf record -F 49 -g",
                      lambda pid, file: ["perf", "record", "-F", "49", "-g", "-p", pid, "-o", file],
                      lambda tool: os.path.exists(tool.file)))
    found.append(Tool("bcc memleak",
                      lambda pid, file: ["memleak-bpfcc", "-p", pid, "3600"],
                      said("Attaching to pid")))
    for name, probe in (("page faults", "tracepoint:exceptions:page_fault_user /pid == %s/"),
                        ("49 Hz", "profile:hz:49 /pid == %s/")):
        found.append(Tool("bpftrace, stacks at " + name,
                          lambda pid, file, probe=probe: [
                              "bpftrace", "-e", probe % pid + " { @[ustack] = count(); }"],
                          said("Attaching")))
    return found


# ---- measuring ------------------------------------------------------------------------------

def cpu_ns(pid):
    total = 0
    for task in Path("/proc/%d/task" % pid).iterdir():
        try:
            total += int((task / "schedstat").read_text().split()[0])
        except OSError:
            pass
    return total


def window(node, seconds):
    """CPU nanoseconds for an operation."""
    ops, cpu = node("bench", "count"), cpu_ns(node.pid)
    time.sleep(seconds)
    ops, cpu = node("bench", "count") - ops, cpu_ns(node.pid) - cpu
    if ops <= 0:
        raise NodeError("the load stands still")
    return cpu / ops


def with_tool(node, tool, seconds):
    with tempfile.TemporaryDirectory() as folder:
        tool.start(node.pid, folder)
        try:
            time.sleep(0.3)
            before, start = tool.usage()[0], time.monotonic()
            cost = window(node, seconds)
            cpu, memory = tool.usage()
            return cost, (cpu - before) / (time.monotonic() - start), memory
        finally:
            tool.stop()


def measure(node, tool, pairs, seconds):
    ratios, own, memory = [], [], 0
    for i in range(pairs):
        if i % 2:
            cost, cpu, rss = with_tool(node, tool, seconds)
            time.sleep(0.3)
            plain = window(node, seconds)
        else:
            plain = window(node, seconds)
            cost, cpu, rss = with_tool(node, tool, seconds)
            time.sleep(0.3)
        ratios.append(cost / plain)
        own.append(cpu)
        memory = max(memory, rss)
    return {"ratio": statistics.median(ratios), "low": min(ratios), "high": max(ratios),
            "pairs": pairs, "own_cpu": statistics.median(own), "rss": memory,
            "kernel_bytes": tool.kernel_bytes, "lost": tool.lost}


def show(tool, r):
    extra = "" if r["kernel_bytes"] is None else "  %5.1f MiB kernel" % (r["kernel_bytes"] / 2**20)
    if r["lost"]:
        extra += "  LOST %d" % r["lost"]
    print("  %-37s %6.3f  (%.3f .. %.3f)  %5.1f%%  %6.1f MiB%s" %
          (tool, r["ratio"], r["low"], r["high"], 100 * r["own_cpu"], r["rss"] / 2**20, extra),
          flush=True)


def endurance(release, loads, minutes):
    """One recording over all loads, each twice, at full load."""
    tool = Beamray("beamray record", budget=(), interval="30s")
    with Node(release, flags=FLAGS) as node, tempfile.TemporaryDirectory() as folder:
        node("bench", "start", loads[0])
        tool.start(node.pid, folder)
        cpu, start, peak = tool.usage()[0], time.monotonic(), 0
        faults = minor_faults(node.pid)
        try:
            for kind in loads * 2:
                node("bench", "start", kind)
                time.sleep(minutes * 60 / (2 * len(loads)))
                peak = max(peak, tool.usage()[1])
            cpu, faults = tool.usage()[0] - cpu, minor_faults(node.pid) - faults
            spent = time.monotonic() - start
        finally:
            tool.stop()
        figures = dict(rows(tool.file, "SELECT name, value FROM counter ORDER BY look"))
        print("%.1f minutes of %s on OTP %s: %d page faults, %d records, %d stacks\n"
              "lost records %d, lost stacks %d, probes missed %d\n"
              "maps of the kernel %.1f MiB, beamray %.1f MiB at most, %.2f%% of a core; "
              "probes %.2f%% at the end\nrecording %.1f MiB" %
              (spent / 60, " ".join(loads), release, faults, figures.get("trace.records", 0),
               figures.get("trace.stacks", 0), figures.get("trace.lost_records", 0),
               figures.get("trace.lost_stacks", 0), figures.get("trace.missed", 0),
               figures.get("trace.kernel_bytes", 0) / 2**20, peak / 2**20, 100 * cpu / spent,
               figures.get("trace.cpu_ppm", 0) / 1e4, os.path.getsize(tool.file) / 2**20))


def minor_faults(pid):
    return int(Path("/proc/%d/stat" % pid).read_text().rsplit(") ", 1)[1].split()[7])


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--long", type=float, metavar="MINUTES")
    parser.add_argument("-r", "--release", default="25")
    parser.add_argument("-l", "--loads", default=" ".join(LOADS))
    parser.add_argument("-t", "--tools", default="")
    parser.add_argument("-o", "--output")
    options = parser.parse_args()
    pairs, seconds = options.pairs, options.seconds
    if options.long:
        return endurance(options.release, options.loads.split(), options.long)
    chosen = [t for t in tools() if re.search(options.tools, t.name)]
    figures, impossible = {}, {}
    load = os.getloadavg()[0]
    print("CPU for an operation with the tool / without, median of %d pairs of %g s (spread);\n"
          "the tool's own CPU of one core and memory. OTP %s, %d CPUs, load average %.1f%s" %
          (pairs, seconds, options.release, os.cpu_count(), load,
           ": NOT A QUIET MACHINE" if load > 0.5 else ""))
    try:
        for kind in options.loads.split():
            print(kind, flush=True)
            with Node(options.release, flags=FLAGS) as node:
                node("bench", "start", kind)
                time.sleep(2)
                for tool in chosen:
                    if tool.name in impossible:
                        continue
                    try:
                        figures.setdefault(kind, {})[tool.name] = measure(node, tool, pairs,
                                                                          seconds)
                        show(tool.name, figures[kind][tool.name])
                    except CannotRun as e:
                        impossible[tool.name] = str(e)
    except NodeError as e:
        sys.exit(str(e))
    print("median of the loads")
    for tool in chosen:
        ratios = [f[tool.name]["ratio"] for f in figures.values() if tool.name in f]
        if ratios:
            print("  %-37s %6.3f" % (tool.name, statistics.median(ratios)))
    for name, why in impossible.items():
        print("  %-37s does not run here: %s" % (name, why))
    if options.output:
        Path(options.output).write_text(json.dumps(
            {"pairs": pairs, "seconds": seconds, "release": options.release, "load": load,
             "figures": figures, "impossible": impossible}, indent=1) + "\n")


main()
