"""Patients for the doctor: nodes that are made ill in a known way, and what it must say.

A case is a node, what is done to it before and during the watch, the node's own word on
how many bytes that took, and the finding that must come first. A case that is not
expected to be ill must be called healthy. What the doctor finds beside what is expected
is a false accusation, unless the case says that it may.
"""

import json
import os
import subprocess
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from lab import LONG, PROGRAM, Node, NodeError, scenario_dir

KiB, MiB = 1 << 10, 1 << 20


@dataclass
class Case:
    name: str
    code: str = "healthy"
    subject: str = ""
    mechanism: str = None
    prepare: tuple = ()       # commands to the node before the watch
    step: str = None          # `ill` step taken during the watch ...
    every: int = 250          # ... one every so many milliseconds
    times: int = 10           # ... so often; 0: as long as the watch lasts
    during: tuple = ()        # commands at the beginning of the watch, before the steps
    after: tuple = ()         # commands when the steps are done, still in the watch
    # bytes that came, by the node: "ill:malloc+calloc" (the program's count), "memory:ets"
    # (erlang:memory()), "blocks:eheap_alloc" (system_info: whole blocks, header included)
    truth: str = None
    tolerance: float = 0.10
    stack: str = None         # a function that the first stack must name
    owner: str = None         # must be in the finding's owner
    says: str = None          # must be in the finding's evidence, reason or advice
    confidence: str = None
    second: tuple = None      # (code, subject, mechanism) of another finding that must be there
    may: tuple = ()           # codes of further findings that are true as well
    size: str = None          # "free:binary_alloc": the finding's bytes against the VM's figure
    resident: float = 0.8     # ... of which at least so much is resident
    seconds: int = 6
    releases: str = "25"      # in the long run ("third" of the cases: all four)
    quick: str = ""           # releases in the default run
    flags: tuple = ()
    env: tuple = ()
    options: tuple = ()       # of the doctor
    exits: int = None         # exit code, if not 0 for healthy and 1 for a finding
    prefix: tuple = ()        # what the doctor is started through
    settle: bool = True       # collects garbage everywhere before the watch
    grower: bool = False      # preload nif/grower.c and let it grow


    def nobody(self):
        """Growth of which nobody was seen to be the cause."""
        self.code, self.subject = "native-growth", "unknown"
        return self


ALL = "23 25 27 29"


@dataclass
class Outcome:
    case: Case
    release: str
    got: str = "no answer"
    subject: str = ""
    wrong: list = field(default_factory=list)
    figures: str = ""
    text: str = ""


class Doctor:
    """`beamray doctor` on a node; knows when the watch begins and ends."""

    def __init__(self, pid, *options, seconds=6, prefix=()):
        self.process = subprocess.Popen(
            [*prefix, PROGRAM, "doctor", "-p", str(pid), "-d", "%ds" % seconds, "--json", "-v",
             *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.begun, self.ended = threading.Event(), threading.Event()
        self.err, self.out = [], b""
        self.readers = [threading.Thread(target=self.read_err, daemon=True),
                        threading.Thread(target=self.read_out, daemon=True)]
        for r in self.readers:
            r.start()

    def read_err(self):
        for line in self.process.stderr:
            text = line.decode("utf-8", "replace")
            self.err.append(text)
            if "watching" in text:
                self.begun.set()
            if "second ledger" in text:
                self.ended.set()
        self.begun.set()
        self.ended.set()

    def read_out(self):
        self.out = self.process.stdout.read()

    def answer(self, timeout=120):
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for r in self.readers:
            r.join()
        try:
            return json.loads(self.out)
        except ValueError:
            return None


def truth_now(node, what, grower):
    """Bytes, by the node's own word."""
    if not what:
        return 0
    where, _, names = what.partition(":")
    if where == "grower":
        try:
            return int(Path(grower + ".took").read_text())
        except (OSError, ValueError):
            return 0
    if where == "blocks":
        values = {a["name"]: sum(i[s]["blocks_size"] for i in a["by_instance"]
                                 for s in ("mbcs", "mbcs_pool", "sbcs") if s in i)
                  for a in node("allocators")}
    else:
        values = node("ill", "truth") if where == "ill" else node("memory")
    return sum(values[n] for n in names.split("+"))


def vm_free(node, allocator):
    """Bytes that an allocator's carriers hold beyond its blocks, by system_info."""
    free = 0
    for a in node("allocators"):
        if a["name"] != allocator:
            continue
        for inst in a["by_instance"]:
            for s in ("mbcs", "mbcs_pool"):
                if s in inst:
                    free += inst[s]["carriers_size"] - inst[s]["blocks_size"]
    return free


def treat(case, release):
    """One case on one release."""
    out = Outcome(case, release)
    # in the long run probes have more time to be attached in, whatever else runs
    slow = 2 if LONG and case.times and case.seconds < 15 else 1
    for stretch in (1, 2, 4):
        try:
            late = examine(case, release, case.seconds * slow * stretch, case.every * slow, out)
        except (NodeError, OSError, KeyError) as e:
            out.wrong.append("%s: %s" % (type(e).__name__, e))
            return out
        if not late:
            return out
    out.wrong.append("the steps were never done within the watch: machine too busy")
    return out


def examine(case, release, seconds, every, out):
    env = list(case.env)
    folder = scenario_dir(release)
    grower = str(folder / ("grow-%d-%d" % (os.getpid(), threading.get_ident())))
    if case.grower:
        env += ["LD_PRELOAD=%s" % (folder / "grower.so"), "GROWER=" + grower]
    with Node(release, flags=case.flags, env=env) as node:
        node("ill", "load", node.dir)
        node.nif()
        for command in case.prepare:
            node(*command.split(), timeout=300)
        if case.settle:
            node.settle()
        else:
            node("sleep", 1000)
        doctor = Doctor(node.pid, *case.options, seconds=seconds, prefix=case.prefix)
        doctor.begun.wait(60)
        before = truth_now(node, case.truth, grower)
        if case.grower:
            Path(grower).touch()
        for command in case.during:
            node(*command.split())
        if case.step:
            node("ill", "start", every, case.times or 1000000, *case.step.split())
        if case.step and case.times:
            node("ill", "wait")
        for command in case.after:
            node(*command.split())
        late = doctor.ended.is_set() and bool(case.step or case.after) and case.times
        doctor.ended.wait(120)
        took = truth_now(node, case.truth, grower) - before
        answer = doctor.answer()
        if case.grower:
            for name in (grower, grower + ".took"):
                Path(name).unlink(missing_ok=True)
        if late:
            return True
        if answer is None:
            out.wrong.append("no answer, exit code %d: %s"
                             % (doctor.process.returncode, "".join(doctor.err)[-400:].strip()))
            return False
        compare(case, answer, took, doctor.process.returncode, node, out)
        # why it did not do more, and when
        out.text += "; %s; %s" % (answer["findings"][0]["confidence_reason"],
                                  " ".join("".join(doctor.err).split()))
    return False


def compare(case, answer, took, exit_code, node, out):
    findings = answer["findings"]
    first = findings[0]
    wrong = out.wrong
    out.got, out.subject = first["code"], first["subject"]
    out.text = "; ".join("%s %s %s %d (+%d) %s" % (f["code"], f["subject"], f["mechanism"],
                                                   f["bytes"], f["grew_bytes"], f["owner"])
                         for f in findings)
    for key, should in (("code", case.code), ("subject", case.subject)):
        if first[key] != should:
            wrong.append("%s is %r, should be %r" % (key, first[key], should))
    if case.mechanism and first["mechanism"] != case.mechanism:
        wrong.append("mechanism is %r, should be %r" % (first["mechanism"], case.mechanism))
    should = case.exits if case.exits is not None else int(case.code not in
                                                           ("healthy", "inconclusive"))
    if exit_code != should:
        wrong.append("exit code %d, should be %d%s" % (exit_code, should, incomplete(answer)))
    if case.truth:
        out.figures = "%d of %d bytes" % (first["grew_bytes"], took)
        if abs(first["grew_bytes"] - took) > case.tolerance * took:
            wrong.append("says %s" % out.figures)
        if first["bytes"] < first["grew_bytes"]:
            wrong.append("explains %d bytes, less than grew" % first["bytes"])
    if case.size:
        free = vm_free(node, case.size.partition(":")[2])
        # OTP 23 lets the kernel have free space of abandoned carriers: that is not held
        lazy = answer["after"]["os"]["lazyfree"] or 0
        out.figures = "%d, %d LazyFree, of at most %d bytes" % (first["bytes"], lazy, free)
        if not case.resident * free <= first["bytes"] + lazy <= 1.02 * free:
            wrong.append("says %s" % out.figures)
    if case.owner and case.owner not in (first["owner"] or ""):
        wrong.append("owner is %r, should name %r" % (first["owner"], case.owner))
    if case.confidence and first["confidence"] != case.confidence:
        wrong.append("confidence is %s: %s" % (first["confidence"], first["confidence_reason"]))
    if case.stack and not any(case.stack in f for s in first["stacks"][:1] for f in s["frames"]):
        wrong.append("no stack names %s: %s" % (case.stack, first["stacks"][:1]))
    if case.says and case.says not in json.dumps(first):
        wrong.append("%r is not said: %s" % (case.says, json.dumps(first)[:600]))
    others = findings[1:]
    if case.second:
        found = [f for f in others if (f["code"], f["subject"], f["mechanism"]) == case.second]
        if not found:
            wrong.append("%s is missing" % (case.second,))
        others = [f for f in others if f not in found]
    for f in others:
        if f["code"] not in case.may:
            wrong.append("accuses falsely: %s %s %s of %d (+%d) bytes"
                         % (f["code"], f["subject"], f["mechanism"], f["bytes"],
                            f["grew_bytes"]))
    for side in ("before", "after"):
        if answer[side] and sum(r["bytes"] for r in answer[side]["ledger"]) \
                != answer[side]["os"]["rss"]:
            wrong.append("ledger %s does not add up" % side)


def incomplete(answer):
    """Why, where a ledger is not complete."""
    return "".join("; %s is incomplete, %d unattributed: %s"
                   % (side, answer[side]["unattributed"], " | ".join(answer[side]["notes"]))
                   for side in ("before", "after")
                   if answer[side] and not answer[side]["complete"])


def chosen(cases, available):
    """(case, release) pairs of this run: a dozen, or with LONG all."""
    only = os.environ.get("BEAMRAY_CASES")
    for case in cases:
        if only and not any(word in case.name for word in only.split(",")):
            continue
        for release in (case.releases if LONG or only else case.quick).split():
            if release in available:
                yield case, release


def ward_round(tap, cases, available):
    """Runs cases, two nodes at once; a confusion matrix at the end."""
    pairs = list(chosen(cases, available))
    outcomes = []
    with ThreadPoolExecutor(2) as pool:
        for out in pool.map(lambda p: treat(*p), pairs):
            label = "OTP %s %s: %s" % (out.release, out.case.name, out.got)
            tap.ok("%s%s" % (label, " (%s)" % out.figures if out.figures else ""),
                   not out.wrong, "; ".join(out.wrong) + " [" + out.text + "]")
            outcomes.append(out)
    matrix(tap, outcomes)
    return outcomes


def matrix(tap, outcomes):
    counts = Counter((o.case.code, o.got) for o in outcomes)
    should = sorted({s for s, _ in counts})
    got = sorted({g for _, g in counts})
    tap.note("confusion matrix, %d cases: rows what was done, columns what was said"
             % len(outcomes))
    tap.note("%-20s" % "" + "".join("%20s" % g for g in got))
    for s in should:
        tap.note("%-20s" % s + "".join("%20s" % (counts[s, g] or ".") for g in got))
    wrong = [o for o in outcomes if o.wrong]
    tap.note("right in code, subject, mechanism, bytes and nothing else: %d of %d"
             % (len(outcomes) - len(wrong), len(outcomes)))
    for o in wrong:
        tap.note("wrong: OTP %s %s: %s" % (o.release, o.case.name, "; ".join(o.wrong)))
