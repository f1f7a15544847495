#!/usr/bin/env python3
"""Probes of malloc and its relatives: what is held, to the byte, against the NIF's own count."""
# timeout: 600

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
import lab  # noqa: E402
from lab import LONG, Tap, releases  # noqa: E402
from recorder import Recorder, wait_looks  # noqa: E402
from traced import CHAIN, Denied, erlang, loaded, told, tool, traced  # noqa: E402

# What leaks, calls and bytes in a round, and the function that is nearest to libc. The budget
# is that of a machine that has nothing else to do: thinning has a test of its own.
LEAKS = [("leak_normal", 100, 1000, "take_malloc"), ("leak_calloc", 100, 1000, "leak_calloc"),
         ("leak_realloc", 1, 300000, "leak_realloc"), ("leak_aligned", 100, 1000, "leak_aligned"),
         ("leak_new", 100, 1000, "leak_new"), ("leak_strdup", 100, 1000, "leak_strdup"),
         ("leak_old", 1, 500000, "leak_old"), ("leak_dirty_cpu", 100, 1000, "take_malloc"),
         ("leak_mixed", 50, 1000, "leak_mixed")]
ROUNDS = 10
BUDGET = 5


def mine(out):
    return [s for s in out["stacks"] if any("@trace_nif.so" in f for f in s["frames"])]


def native(release, kind, count, size, **more):
    more.setdefault("budget", BUDGET)
    more.setdefault("profile", "native")
    return traced(release, kind, count, size, rounds=ROUNDS, pause=1, **more)


def nothing_missed(tap, label, out):
    tap.equal(label + ": nothing is missed",
              {k: out["native"][k] for k in ("missed_frees", "full", "refused")},
              {"missed_frees": 0, "full": 0, "refused": ""})
    tap.equal(label + ": nothing is lost", (out["stats"]["lost_records"],
                                            out["stats"]["lost_stacks"], out["without_stack"]),
              (0, 0, 0))


def leaks(tap, label, release, kind, count, size, function, **more):
    label = "%s %s" % (label, kind)
    out, took = native(release, kind, count, size, **more)
    if not took:
        tap.skip(label, "this VM has no C++ runtime")
        return
    held = sum(s["weight"] for s in mine(out))
    tap.ok("%s: %d bytes are held, truth %d (%+.3f%%)" % (label, held, took,
                                                          100.0 * held / took - 100),
           abs(held - took) <= 0.01 * took, "off by %d" % (held - took))
    top = out["stacks"][0]
    shown = " < ".join(top["frames"])
    tap.ok(label + ": top stack begins in libc and names the NIF function",
           "@libc" in top["frames"][0] and
           any(f == "n:%s@trace_nif.so" % function for f in top["frames"]), shown)
    tap.ok(label + ": and the Erlang calls", erlang(top["frames"])[:5] == CHAIN, shown)
    tap.equal(label + ": process", top["label"], "trace_leaker")
    nothing_missed(tap, label, out)


def gives_back(tap, label, release):
    out, _ = native(release, "churn_malloc", 1000, 1000)
    n = out["native"]
    tap.equal("%s %d blocks are freed again: 0 bytes are held" % (label, n["allocs"]),
              sum(s["weight"] for s in mine(out)), 0)
    tap.ok(label + " churn: they were seen", n["allocs"] > 10000 and n["frees"] > 10000, n)
    nothing_missed(tap, label + " churn", out)


def own_thread(tap, label, release):
    with loaded(release, "leak_thread", 1000, 1000, rounds=2, pause=1) as (node, work):
        done = subprocess.run(tool(node, work, BUDGET, "native"), capture_output=True, text=True,
                              check=False, timeout=100)
        out, took = lab.json.loads(done.stdout), told(work)
    held = sum(s["weight"] for s in out["stacks"] if "n:worker_main@trace_nif.so" in s["frames"])
    tap.ok("%s own thread: %d bytes are held, truth %d" % (label, held, took),
           abs(held - took) <= 0.01 * took)
    tap.ok(label + " own thread: no process", not out["stacks"][0]["process"], out["stacks"][0])


def one_library(tap, label, release):
    out, took = native(release, "leak_mixed", 50, 1000, profile="native=trace_nif.so")
    total = sum(s["weight"] for s in out["stacks"])
    tap.ok("%s of one library alone: %d bytes, truth %d" % (label, total, took),
           abs(total - took) <= 0.01 * took and len(mine(out)) == len(out["stacks"]),
           [s["frames"][:4] for s in out["stacks"][:3]])
    out, took = native(release, "leak_new", 100, 1000, profile="native=trace_nif.so")
    total = sum(s["weight"] for s in out["stacks"])
    tap.ok(label + " of one library alone, through libstdc++",
           not took or abs(total - took) <= 0.01 * took, "%d, truth %d" % (total, took))
    with loaded(release, "leak_normal", 1, 1000, rounds=1) as (node, work):
        done = subprocess.run(tool(node, work, BUDGET, "native=no_such.so"), capture_output=True,
                              text=True, check=False, timeout=100)
    tap.ok(label + " of a library that is not there: a sentence",
           done.returncode == 3 and "no library no_such.so" in done.stderr, done)


def drawn(tap, label, release):
    """Room for 2,048 blocks, and 10,000 leaked."""
    out, took = native(release, "leak_normal", 1000, 1000, environ={"BLOCKS": "2048"})
    held = sum(s["weight"] for s in mine(out))
    n = out["native"]
    count = sum(s["count"] for s in mine(out))
    tap.ok("%s drawn, %d of 10000 blocks noted: %d bytes, truth %d (%+.1f%%)"
           % (label, n["noted"], held, took, 100.0 * held / took - 100),
           0.7 * took <= held <= 1.3 * took and 0.7 * 10000 <= count <= 1.3 * 10000, n)
    tap.ok(label + " drawn: it says so", n["unit"] >= 16384 and not n["full"], n)
    out, _ = native(release, "churn_malloc", 1000, 1000, environ={"BLOCKS": "64"})
    tap.ok(label + " drawn: what was not drawn is not taken for older than the attach",
           out["native"]["before_bytes"] <= 4096, out["native"])


# ---- the target's text ------------------------------------------------------------------

def libc_text(pid):
    """The code of the node's libc: (as it is in memory, as it is in the file)."""
    for line in Path("/proc/%d/maps" % pid).read_text().splitlines():
        words = line.split()
        if "x" in words[1] and len(words) > 5 and Path(words[5]).name.startswith("libc"):
            if not Path(words[5]).name.startswith(("libc.", "libc-")):
                continue
            start, end = (int(x, 16) for x in words[0].split("-"))
            with open("/proc/%d/mem" % pid, "rb") as memory:
                memory.seek(start)
                now = memory.read(end - start)
            with open("/proc/%d/map_files/%s" % (pid, words[0]), "rb") as file:
                file.seek(int(words[2], 16))
                return now, file.read(end - start)
    raise AssertionError("no libc in the maps")


def breakpoints(pid):
    now, file = libc_text(pid)
    return [at for at, (a, b) in enumerate(zip(now, file)) if a != b]


def wait_for(what, seconds=20):
    until = time.monotonic() + seconds
    while not what():
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def killed(tap, label, release):
    """SIGKILL in the middle of the load."""
    with loaded(release, "leak_mixed", 50, 1000, rounds=40, pause=20) as (node, work):
        tap.equal(label + " text before", breakpoints(node.pid), [])
        tracer = subprocess.Popen(tool(node, work, BUDGET, "native"), stdout=subprocess.DEVNULL,
                                  stderr=subprocess.PIPE)
        wait_for(lambda: (work / "go").exists() or tracer.poll() is not None)
        time.sleep(0.2)
        found = breakpoints(node.pid)
        tap.ok("%s while it is traced: %d breakpoints" % (label, len(found)), len(found) >= 5)
        tracer.send_signal(signal.SIGKILL)
        tracer.wait()
        tracer.stderr.close()
        tap.ok(label + " SIGKILL: the text is original again",
               wait_for(lambda: not breakpoints(node.pid)), breakpoints(node.pid))
        tap.ok(label + " SIGKILL: the load goes on to its end",
               wait_for(lambda: (work / "done").exists(), 40))
        tap.ok(label + " SIGKILL: and the node answers", node("snap", "x") is not None)
        # and can be traced again
        again = subprocess.run(tool(node, work, BUDGET, "native"), capture_output=True,
                               text=True, check=False, timeout=60)
        tap.ok(label + " SIGKILL: it can be traced again", again.returncode == 0, again.stderr)
        tap.equal(label + " text after a detach", breakpoints(node.pid), [])


def recorded(tap, label, release):
    """`record --native`: the profile and the ledger say the same, and so does the NIF."""
    label += " recorded"
    with loaded(release, "leak_mixed", 200, 1000, rounds=30, pause=40) as (node, work):
        file = work / "native.rec"
        r = Recorder(node.pid, file, "-d", "60s", "-i", "60s", "--native", "--budget", "100")
        wait_looks(file, 1)
        (work / "go").touch()
        wait_for(lambda: (work / "done").exists(), 50)
        r.process.send_signal(signal.SIGINT)
        code, out, err = r.end()
        took = told(work)
        tap.ok(label + ": exit code 0", code == 0, out + err)
        doc = lab.beamray("report", file, "-f", "json", "--kind", "native").json()
        text = lab.beamray("report", file, "--kind", "native").out
        tap.equal(label + ": the text is original", breakpoints(node.pid), [])
    p, counters = doc["profile"], doc["counters"]
    used = [a["change"] for a in doc["ledger"] if a["account"] == "native.heap.used"][0]
    net = p["total"] - counters["native.before_bytes"]
    of_nif = sum(a["weight"] for a in p["by_library"] if a["library"] == "trace_nif.so")
    tap.ok("%s: %d bytes of trace_nif.so, truth %d" % (label, of_nif, took),
           abs(of_nif - took) <= 0.01 * took, p["by_library"])
    tap.ok("%s: held %d, given back of before %d; the ledger's heap grew by %d"
           % (label, p["total"], counters["native.before_bytes"], used),
           abs(net - used) <= 0.01 * used + 32768, {k: v for k, v in counters.items()
                                                    if k.startswith("native")})
    tap.ok(label + ": what enif_alloc gives is said not to be in it",
           any("enif_alloc" in note for note in doc["notes"]), doc["notes"])
    tap.ok(label + ": what stays in the target is said",
           any("[uprobes]" in note for note in doc["notes"]), doc["notes"])
    tap.ok(label + ": the text says what it is", "taken since the" in text.replace("\n", " "), text)


def over_budget(tap, label, release):
    """Calls without end and a budget of a thousandth of a core: it gives up, and says so."""
    label += " over the budget"
    with loaded(release, "churn_malloc", 20000, 1000, rounds=2000, pause=0) as (node, work):
        file = work / "native.rec"
        r = Recorder(node.pid, file, "-d", "12s", "-i", "60s", "--native", "--budget", "0.1")
        wait_looks(file, 1)
        (work / "go").touch()
        r.end()
        notes = lab.beamray("report", file, "-f", "json", "--kind", "native").json()["notes"]
        tap.ok(label + ": detached, and the report says so",
               any("native was detached after" in note for note in notes), notes)
        tap.equal(label + ": the text is original", breakpoints(node.pid), [])


def target_ends(tap, label, release):
    with loaded(release, "leak_mixed", 50, 1000, rounds=1000, pause=20) as (node, work):
        tracer = subprocess.Popen(tool(node, work, BUDGET, "native"), stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE, text=True)
        wait_for(lambda: (work / "go").exists() or tracer.poll() is not None)
        os.kill(node.pid, signal.SIGKILL)
        _, err = tracer.communicate(timeout=30)
        tap.ok(label + " target killed: exit code 5 and a sentence",
               tracer.returncode == 5 and "trace_node: " in err, (tracer.returncode, err))


def rights(tap, label, release):
    """With the capabilities that it names, and without."""
    with loaded(release, "leak_normal", 1, 1000, rounds=1) as (node, work):
        done = subprocess.run(tool(node, work, BUDGET, "native",
                                   prefix=("setpriv", "--bounding-set=-all,+sys_ptrace")),
                              capture_output=True, text=True, check=False, timeout=60)
        tap.ok(label + " without CAP_BPF: a sentence that names it",
               done.returncode == 77 and "CAP_BPF" in done.stderr, done)
        tap.equal(label + " without CAP_BPF: no trace", breakpoints(node.pid), [])
    out, took = native(release, "leak_normal", 100, 1000, prefix=(
        "setpriv", "--bounding-set=-all,+bpf,+perfmon,+sys_ptrace"))
    held = sum(s["weight"] for s in mine(out))
    tap.ok(label + " with CAP_BPF, CAP_PERFMON and CAP_SYS_PTRACE alone",
           abs(held - took) <= 0.01 * took, "%d, truth %d" % (held, took))


def one_release(tap, label, release, full):
    for leak in LEAKS if full else LEAKS[:3] + LEAKS[3::2]:
        leaks(tap, label, release, *leak)
    gives_back(tap, label, release)
    own_thread(tap, label, release)
    killed(tap, label, release)
    if not full:
        return
    one_library(tap, label, release)
    drawn(tap, label, release)
    recorded(tap, label, release)
    over_budget(tap, label, release)
    target_ends(tap, label, release)
    rights(tap, label, release)
    for way in ("multi", "perf"):
        leaks(tap, "%s by %s" % (label, way), release, *LEAKS[-1], environ={"BEAMRAY_UPROBES": way})


def main():
    with Tap() as tap:
        for release in releases(tap):
            try:
                one_release(tap, "OTP " + release, release, LONG or release in ("25", "29"))
            except Denied as e:
                tap.skip("OTP %s malloc probes" % release, str(e))


if __name__ == "__main__":
    main()
