#!/usr/bin/env python3
"""record, report and diff: a NIF that leaks, against its own count; ends of every kind."""
# timeout: 600

import gzip
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
from lab import PROGRAM, Node, Tap, beamray, releases  # noqa: E402
from recorder import Recorder, rows, wait_looks  # noqa: E402

USAGE, DENIED, GONE, INCOMPLETE = 2, 4, 5, 6
NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all",
          "--bounding-set=-all"]


def one_line(text):
    return len([line for line in text.splitlines() if line.strip()]) == 1


# ---- what is in it -------------------------------------------------------------

def leak(node, rounds=20):
    """A slow leak; (bytes of chunks, calls) by the NIF's own count."""
    before = node("nif", "truth")["malloc_lost"]
    for _ in range(rounds):
        node("nif", "leak_malloc", 300, 1000)
        time.sleep(0.1)
    after = node("nif", "truth")["malloc_lost"]
    count = after["count"] - before["count"]
    return after["usable"] - before["usable"] + 8 * count


def check_sqlite(tap, label, file):
    tap.equal(label + ": SQLite finds it sound", rows(file, "PRAGMA integrity_check"), [("ok",)])
    tap.equal(label + ": versions", rows(file, "PRAGMA user_version") +
              rows(file, "PRAGMA application_id"), [(2,), (0x42524159,)])
    looks = rows(file, "SELECT id, rss, document FROM look ORDER BY id")
    sums = rows(file, "SELECT look, sum(bytes) FROM ledger GROUP BY look ORDER BY look")
    tap.equal(label + ": every ledger adds up", [(n, rss) for n, rss, _ in looks], sums)
    same = all({r["account"]: r["bytes"] for r in json.loads(document)["ledger"]} ==
               dict(rows(file, "SELECT account, bytes FROM ledger WHERE look = %d" % number))
               for number, _, document in looks)
    tap.ok(label + ": rows and documents say the same", same)
    tap.ok(label + ": no journal is left", not os.path.exists(file + "-journal"))
    return len(looks)


def check_growth(tap, label, file, took):
    doc = beamray("report", file, "-f", "json").json()
    tap.equal(label + ": schema", doc["schema"], "beamray.report/1")
    change = {r["account"]: r["change"] for r in doc["ledger"]}
    native = change.get("native.heap.used", 0)
    tap.ok("%s: native.heap.used grew by %d, truth %d" % (label, native, took),
           abs(native - took) <= 256 * 1024, native - took)
    profile = doc["profile"]
    if profile is None:
        tap.skip(label + ": growth stacks", "; ".join(doc["notes"]))
        return
    mine = [s for s in profile["stacks"] if any(f.startswith("nif_leak_malloc [leak_nif.so]") or
                                                "leak_malloc" in f and "leak_nif.so" in f
                                                for f in s["frames"])]
    found = sum(s["weight"] for s in mine)
    tap.ok("%s: stacks of the NIF hold %d bytes (%+.2f%%)" % (label, found,
                                                               100.0 * found / took - 100),
           abs(found - took) <= 0.05 * took, found - took)
    top = max(profile["stacks"], key=lambda s: s["weight"])
    tap.ok(label + ": the top stack is the leak", top in mine, top)
    tap.equal(label + ": and its process", top["process"], "scenario")
    tap.ok(label + ": and the Erlang function", any(f.startswith("leak_nif:leak_malloc/2") or
                                                    f.startswith("scenario:command/1")
                                                    for f in top["frames"]), top["frames"])
    c = doc["counters"]
    tap.equal(label + ": ledgers and stacks explain the same change",
              doc["looks"][-1]["rss"] - doc["looks"][0]["rss"],
              c["growth.owned"] + c["growth.unowned"] + c["growth.moved"] - c["growth.released"])
    tap.equal(label + ": weights are the owned bytes", profile["total"], c["growth.owned"])
    tap.equal(label + ": nothing lost", doc["lost"], {"events": 0, "stacks": 0})
    check_cpu(tap, label, file)
    check_formats(tap, label, file, profile)


def check_cpu(tap, label, file):
    """Samples and the tables beside them, with their own sums."""
    doc = beamray("report", file, "-f", "json", "--kind", "cpu").json()
    tap.ok(label + ": kinds", doc["kinds"] == ["growth", "cpu", "carrier"], doc["kinds"])
    states = ("other", "waiting", "scheduling", "process", "gc", "nif", "port")
    threads, processes = doc["usage"]["threads"], doc["usage"]["processes"]
    total = sum(t[s] for t in threads for s in states)
    tap.ok("%s: %d samples in stacks and in threads" % (label, total),
           total > 0 and total == doc["profile"]["total"] == doc["counters"]["trace.cpu.hits"],
           (total, doc["profile"]["total"], doc["counters"]["trace.cpu.hits"]))
    inside = sum(s["weight"] for s in doc["profile"]["stacks"] if s["process"] and
                 not re.match(r"(scheduler|dirty|aux|poll|async|beam|sys_|erts_)", s["process"]))
    tap.equal(label + ": processes have the samples that stacks of processes have",
              sum(p[s] for p in processes for s in states), inside)
    schedulers = [t for t in threads if t["role"] == 1]
    tap.ok(label + ": every scheduler has times that make the run",
           schedulers and all(0 <= t["busy"] <= 1 and abs(
               sum(t[k] for k in ("running_ns", "preempted_ns", "blocked_ns", "idle_ns")) -
               1e9 * doc["looks"][-1]["seconds"]) < 3e9 for t in schedulers)
           if "seconds" in doc["looks"][-1] else bool(schedulers), schedulers)
    text = beamray("report", file, "--kind", "cpu")
    tap.ok(label + ": text has the tables", text.code == 0 and "scheduler 1" in text.out and
           "BUSY" in text.out and all(len(line) <= 80 for line in text.out.splitlines()), text.out)


def check_formats(tap, label, file, profile):
    folded = beamray("report", file, "-f", "folded").out.splitlines()
    tap.ok(label + ": folded lines", folded and all(re.fullmatch(r"\S.* -?\d+", f) for f in folded))
    tap.equal(label + ": folded weights add up", sum(int(f.rsplit(" ", 1)[1]) for f in folded),
              profile["total"])
    svg = beamray("report", file, "-f", "svg")
    tap.ok(label + ": svg is XML", ElementTree.fromstring(svg.out).tag.endswith("svg"))
    out = file + ".pb.gz"
    tap.equal(label + ": pprof", beamray("report", file, "-f", "pprof", "-o", out).code, 0)
    tap.ok(label + ": pprof is gzip with the names in it",
           b"leak_nif.so" in gzip.decompress(Path(out).read_bytes()))
    speedscope = json.loads(beamray("report", file, "-f", "speedscope").out)
    tap.ok(label + ": speedscope", "speedscope" in speedscope["$schema"] and
           len(speedscope["shared"]["frames"]) > 5)
    page = beamray("report", file, "-f", "html")
    tap.ok(label + ": html", page.code == 0 and "</html>" in page.out and
           "leak_malloc [leak_nif.so]" in page.out and not page.err, (page.code, page.err))
    text = beamray("report", file)
    tap.ok(label + ": text", text.code == 0 and "leak_nif.so" in text.out and
           all(len(line) <= 80 for line in text.out.splitlines()), (text.code, text.err, text.out))
    few = beamray("report", file, "-f", "json", "--library", "leak_nif.so").json()["profile"]
    none = beamray("report", file, "-f", "json", "--process", "nobody_at_all").json()["profile"]
    turned = beamray("report", file, "-f", "folded", "--invert").out
    tap.ok(label + ": --library, --process, --invert",
           0 < len(few["stacks"]) <= len(profile["stacks"]) and not none["stacks"] and
           any(line.split(";")[-1].startswith("scenario ") for line in turned.splitlines()),
           (len(few["stacks"]), len(none["stacks"]), turned[:300]))


def check_diff(tap, label, file, looks):
    run = beamray("diff", file)
    tap.ok(label + ": diff finds it and exits with 1", run.code == 1 and
           "GREW: native.heap.used" in run.out and
           all(len(line) <= 80 for line in run.out.splitlines()), (run.code, run.out[:500]))
    whole = beamray("diff", "%s@1" % file, "%s@%d" % (file, looks), "--json")
    doc = whole.json()
    tap.equal(label + ": diff --json", (whole.code, doc["schema"], doc["same_process"]),
              (1, "beamray.diff/1", True))
    tap.equal(label + ": its rows add up to the change", sum(r["change"] for r in doc["ledger"]),
              doc["change"])
    middle = looks // 2 + 1
    parts = [beamray("diff", "%s@%d" % (file, a), "%s@%d" % (file, b), "--json").json()
             for a, b in ((1, middle), (middle, looks))]
    tap.equal(label + ": two halves make the whole", sum(p["change"] for p in parts), doc["change"])
    if doc["stacks"] is not None:
        tap.equal(label + ": of stacks too", sum(s["change"] for p in parts for s in p["stacks"]),
                  sum(s["change"] for s in doc["stacks"]))
    same = beamray("diff", "%s@%d" % (file, looks), file)
    tap.ok(label + ": nothing grew between a look and itself", same.code == 0 and
           "Nothing grew" in same.out, same.out)
    run = beamray("diff", "%s@%d" % (file, looks + 1), file)
    tap.ok(label + ": a look that is not there", run.code == USAGE and one_line(run.err), run.err)


def recorded(tap, release, tmp):
    label, file = "OTP " + release, os.path.join(tmp, "r%s.beamray" % release)
    with Node(release) as node:
        node.nif()
        node("nif", "leak_malloc", 2, 5000)
        # What is free already is filled without a fault.
        node("nif", "leak_malloc", 10000, 1000)
        node.settle()
        recorder = Recorder(node.pid, file, "-d", 6, "-i", 1, "--growth", "-F", 997)
        tap.ok(label + ": the first look is there at once", wait_looks(file, 1))
        time.sleep(0.5)
        took = leak(node)
        code, out, err = recorder.end()
        tap.ok(label + ": record", code == 0 and not err and "looks" in out, (code, out, err))
        tap.equal(label + ": the node goes on", node("ping"), "pong")
    # The node is gone now.
    looks = check_sqlite(tap, label, file)
    tap.ok("%s: %d looks in 6 s" % (label, looks), 5 <= looks <= 8)
    check_growth(tap, label, file, took)
    check_diff(tap, label, file, looks)
    return file


# ---- how it ends ---------------------------------------------------------------------

def facts(file):
    return beamray("report", file, "-f", "json").json()["recording"]


def early_ends(tap, tmp):
    file = os.path.join(tmp, "early.beamray")
    with Node("25") as node:
        for how, name in ((signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM")):
            recorder = Recorder(node.pid, file, "-d", "5m", "-i", "1s")
            wait_looks(file, 1)
            time.sleep(0.7)
            start = time.monotonic()
            recorder.process.send_signal(how)
            code, _, err = recorder.end()
            tap.ok("%s: ends early, complete" % name, code == 0 and not err and
                   facts(file)["state"] == "interrupted" and time.monotonic() - start < 5,
                   (code, err))
            check_sqlite(tap, name, file)
        rand = random.Random(3)
        bad = []
        for _ in range(6):
            recorder = Recorder(node.pid, file, "-d", "5m", "-i", "100ms")
            wait_looks(file, 2)
            time.sleep(rand.random() * 0.3)
            recorder.process.kill()
            recorder.end()
            run = beamray("report", file, "-f", "json")
            if run.code != 0 or len(run.json()["looks"]) < 2 or \
                    run.json()["recording"]["state"] != "recording":
                bad.append((run.code, run.err))
        tap.ok("SIGKILL: what was committed can be read", not bad, bad)
        recorder = Recorder(node.pid, file, "-d", "5m", "-i", "300ms")
        wait_looks(file, 2)
        os.kill(node.pid, signal.SIGKILL)
        code, _, err = recorder.end()
        tap.ok("target killed: exit code 5 and a sentence", code == GONE and one_line(err),
               (code, err))
        doc = beamray("report", file, "-f", "json").json()
        tap.ok("target killed: what was seen is there", len(doc["looks"]) >= 2 and
               doc["recording"]["state"] == "target gone", doc["recording"])
        node.process.wait()


def without_tracing(tap, tmp):
    file = os.path.join(tmp, "plain.beamray")
    with Node("25") as node:
        run = beamray("record", "-p", node.pid, "-o", file, "-d", 1, "-i", "500ms",
                      "--no-uprobes")
        tap.ok("--no-uprobes: ledgers only, and says so", run.code == 0 and
               "Ledgers only" in run.out, (run.code, run.out, run.err))
        doc = beamray("report", file, "-f", "json").json()
        tap.ok("--no-uprobes: no profile, with the reason", doc["profile"] is None and
               "Nothing was traced" in " ".join(doc["notes"]) and len(doc["looks"]) == 3, doc["notes"])
        run = beamray("report", file, "-f", "folded")
        tap.ok("--no-uprobes: no stacks to fold", run.code == USAGE and one_line(run.err) and
               not run.out, (run.code, run.err))
        run = beamray("diff", file)
        tap.ok("an idle node: nothing grew", run.code == 0 and "cannot be compared" in run.out,
               (run.code, run.out))


def unprivileged(tap, tmp, file):
    program = shutil.copy(PROGRAM, os.path.join(tmp, "beamray"))
    run = beamray("report", file, "-f", "folded", program=program, prefix=NOBODY)
    tap.ok("report needs no privilege", run.code == 0 and
           run.out == beamray("report", file, "-f", "folded").out, (run.code, run.err))
    os.chmod(file, 0o600)
    run = beamray("report", file, program=program, prefix=NOBODY)
    tap.ok("a file that may not be read", run.code == DENIED and one_line(run.err),
           (run.code, run.err))
    os.chmod(file, 0o644)
    if not shutil.which("erl"):
        tap.skip("record without capabilities", "no erl on this machine")
        return
    scope = Path("/proc/sys/kernel/yama/ptrace_scope")
    if scope.exists() and scope.read_text().strip() != "0":
        tap.skip("record without capabilities", "yama forbids it")
        return
    mine = os.path.join(tmp, "mine")
    os.mkdir(mine)
    os.chmod(mine, 0o777)
    node = subprocess.Popen([*NOBODY, "erl", "-noshell", "-eval", "timer:sleep(60000)."], cwd="/",
                            env={**os.environ, "HOME": tmp}, stdin=subprocess.DEVNULL)
    time.sleep(2)
    out = os.path.join(mine, "r")
    run = beamray("record", "-p", node.pid, "-o", out, "-d", 1, program=program, prefix=NOBODY)
    tap.ok("record without capabilities: ledgers only, and says so", run.code == 0 and
           "Ledgers only" in run.out and "CAP_BPF" in run.out, (run.code, run.out, run.err))
    tap.ok("and they are there", beamray("report", out).code == 0)
    node.kill()
    node.wait()


# ---- what is wrong ---------------------------------------------------------------------

def refused(tap, name, run, code=USAGE):
    tap.ok(name, run.code == code and one_line(run.err) and not run.out,
           (run.code, run.out[:200], run.err))


def bad_input(tap, tmp, good):
    there = os.path.join(tmp, "other")
    Path(there).write_text("mine")
    with Node("25") as node:
        for args in ([], ["-p", node.pid], ["-o", there], ["-p", node.pid, "-o", "-"],
                     ["-p", node.pid, "-o", there], ["-p", node.pid, "-o", tmp],
                     ["-p", node.pid, "-o", "/dev/null"], ["-p", node.pid, "-o", "/no/such/x"],
                     ["-p", node.pid, "-o", there + "2", "-F", "0"],
                     ["-p", node.pid, "-o", there + "2", "-i", "1ms"],
                     ["-p", node.pid, "-o", there + "2", "-d", "never"]):
            refused(tap, "record %s" % " ".join("PID" if a == node.pid else str(a).replace(tmp, "")
                                                for a in args), beamray("record", *args))
        tap.equal("another file is left alone", Path(there).read_text(), "mine")
        done = subprocess.Popen(["true"])
        done.wait()
        refused(tap, "record: no such process", beamray("record", "-p", done.pid, "-o", good), GONE)
        tap.equal("and the old recording is still there", beamray("report", good).code, 0)
        fifo = os.path.join(tmp, "fifo")
        os.mkfifo(fifo)
        refused(tap, "record into a FIFO", beamray("record", "-p", node.pid, "-o", fifo))
        refused(tap, "report of a FIFO", beamray("report", fifo))
        full_disk(tap, node, tmp)
        read_only(tap, node, tmp, good)
    for args in ([], [there], [tmp], [there + "3"], [good, good], [good, "-f", "nonsense"],
                 [good, "--kind", "nonsense", "-f", "svg"], [good, "-p", 1], [good, "-o", good],
                 [good, "--diff", good, "-f", "pprof"], [good, "--diff", there, "-f", "svg"]):
        refused(tap, "report %s" % " ".join(str(a).replace(tmp, "") for a in args),
                beamray("report", *args))
    for args in ([], [there], [good, good, good], [good + "@1"], [good + "@0", good],
                 [good, good + "@99999999999"], [good, "-o", good], [good, "-f", "html"]):
        refused(tap, "diff %s" % " ".join(a.replace(tmp, "") for a in args),
                beamray("diff", *args))
    damaged(tap, tmp, good)


def full_disk(tap, node, tmp):
    """A small file system of its own, which only that shell sees."""
    where = os.path.join(tmp, "small")
    os.mkdir(where)
    script = ("mount -t tmpfs -o size=300k tmpfs {0} || exit 99\n"
              "{1} record -p {2} -o {0}/r -d 60 -i 100ms\ncode=$?\n"
              "{1} report {0}/r -f json >&3 || exit 98\nexit $code").format(where, PROGRAM, node.pid)
    read, write = os.pipe()
    done = subprocess.run(["unshare", "-m", "sh", "-c",
                           "exec 3>&%d; %s" % (write, script) if write < 10 else
                           "exec 3>/dev/fd/%d; %s" % (write, script)],
                          capture_output=True, text=True, check=False, timeout=90,
                          pass_fds=[write])
    os.close(write)
    with os.fdopen(read) as f:
        text = f.read()
    if done.returncode == 99 or "unshare" in done.stderr:
        tap.skip("disk full", "no mount here")
        return
    tap.ok("disk full: exit code 6 and a sentence", done.returncode == INCOMPLETE and
           one_line(done.stderr) and "no space left" in done.stderr,
           (done.returncode, done.stderr))
    tap.ok("disk full: what was committed stays", len(json.loads(text or "{}")["looks"]) >= 2)


def read_only(tap, node, tmp, good):
    """A file system that cannot be written: no recording on it, but reports of one."""
    where = os.path.join(tmp, "fixed")
    os.mkdir(where)
    script = ("mount -t tmpfs tmpfs {0} && cp {3} {0}/good && mount -o remount,ro {0} || exit 99\n"
              "{1} record -p {2} -o {0}/r -d 1\ncode=$?\n"
              "{1} report {0}/good >/dev/null || exit 98\nexit $code").format(
                  where, PROGRAM, node.pid, good)
    done = subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, text=True,
                          check=False, timeout=60)
    if done.returncode == 99 or "unshare" in done.stderr:
        tap.skip("read-only disk", "no mount here")
        return
    tap.ok("read-only disk: no recording, exit code 4 and a sentence", done.returncode == DENIED and
           one_line(done.stderr) and "ead-only" in done.stderr, (done.returncode, done.stderr))


def damaged(tap, tmp, good):
    rand = random.Random(7)
    content = Path(good).read_bytes()
    copy = os.path.join(tmp, "damaged")
    codes, bad = {}, []
    for i in range(60):
        data = bytearray(content)
        if i % 4 == 0:
            data = data[:rand.randrange(len(data))]
        else:
            for _ in range(rand.choice([1, 3, 100])):
                data[rand.randrange(len(data))] ^= 1 << rand.randrange(8)
        Path(copy).write_bytes(data)
        for args in (["report", copy], ["report", copy, "-f", "json"], ["diff", copy]):
            run = beamray(*args, timeout=20)
            codes[run.code] = codes.get(run.code, 0) + 1
            if run.code not in (0, 1, USAGE) or (run.code == USAGE and not one_line(run.err)) or \
                    (run.code == USAGE and run.out):
                bad.append((args, run.code, run.err[:200]))
    tap.ok("damaged copies: codes %r" % codes, not bad and codes.get(USAGE, 0) > 50, bad[:3])


def main():
    with Tap() as tap, tempfile.TemporaryDirectory() as tmp:
        os.chmod(tmp, 0o755)
        file = None
        for release in releases(tap):
            file = recorded(tap, release, tmp)
        if not file:
            return
        early_ends(tap, tmp)
        without_tracing(tap, tmp)
        unprivileged(tap, tmp, file)
        bad_input(tap, tmp, file)


main()
