#!/usr/bin/env python3
"""Recordings that somebody has changed: bytes, lengths, and rows with the right checksum.

Whatever is in the file, report and diff end with a documented exit code, within their time,
with one sentence or with documents that their readers take. The same seed every time;
with --long, many more.
"""
# timeout: 300

import json
import os
import random
import shutil
import sqlite3
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
import zlib
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
from lab import LONG, TOP, Node, Tap, beamray, releases  # noqa: E402
from recorder import Recorder, wait_looks  # noqa: E402

USAGE = 2
ASAN = str(TOP / "build/gcc-address-undefined/beamray")
PROGRAM = ASAN if os.path.exists(ASAN) else None
FORMATS = ("text", "html", "json", "svg", "folded", "pprof", "speedscope")
NUMBERS = [0, 1, 2, 3, -1, 7, 11, 12, 64, 65536, 2**31, 2**32, 2**53, 2**63 - 1, -2**63]
TEXTS = ["", "x", "a;b 1", "<script>alert(1)</script>", "]]>", "\x1b[31m", "\u202e", "%s%n",
         "{}", "[]", "{\"vm\":{\"allocators\":[{\"name\":7}]},\"tags\":[3]}", "9" * 40,
         "A" * 70000, "growth", "2026-01-01T00:00:00Z", "\\x3B"]


def row_sum(table, values):
    """As the README has it, written by somebody else than beamray."""
    def number(v):
        return b"i" + (v & (2**64 - 1)).to_bytes(8, "little")

    data = table.encode()
    for v in values:
        if isinstance(v, float):  # SQLite made it of a text in an integer's place
            return 0
        if v is None:
            data += b"n"
        elif isinstance(v, int):
            data += number(v)
        else:
            raw = v if isinstance(v, bytes) else v.encode("utf-8", "surrogatepass")
            data += b"t" + number(len(raw)) + raw
    return zlib.crc32(data)


def tables(file):
    with sqlite3.connect(file) as db:
        names = [n for n, in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {n: [c[1] for c in db.execute("PRAGMA table_info(%s)" % n)] for n in names}


def sums_are_documented(tap, file):
    bad = 0
    with sqlite3.connect(file) as db:
        for table in tables(file):
            for row in db.execute("SELECT * FROM " + table):
                bad += row_sum(table, row[:-1]) != row[-1]
    tap.equal("every row's checksum is what the README says", bad, 0)


def change_rows(rand, file, columns):
    """Some values of some rows, with the checksums of the rows made right."""
    with sqlite3.connect(file) as db:
        for _ in range(rand.choice([1, 1, 2, 5, 20])):
            table = rand.choice(list(columns))
            rows = db.execute("SELECT * FROM %s LIMIT 5000" % table).fetchall()
            if not rows:
                continue
            row = list(rand.choice(rows))
            this = " AND ".join("%s IS ?" % c for c in columns[table])
            key = tuple(row)
            if rand.random() < 0.1:
                db.execute("DELETE FROM %s WHERE %s" % (table, this), key)
                continue
            at = rand.randrange(len(row) - 1)
            old = row[at]
            if isinstance(old, int) and rand.random() < 0.9:
                row[at] = rand.choice(NUMBERS + [old + 1, old - 1, old ^ 1 << rand.randrange(63)])
                row[at] = max(-2**63, min(2**63 - 1, row[at]))
            elif isinstance(old, str) and len(old) > 200 and rand.random() < 0.7:
                i = rand.randrange(len(old))  # the document: still JSON now and then
                row[at] = old[:i] + rand.choice(["9", "-", "\"", "null", "}", "e99"]) + old[i + 1:]
            elif rand.random() < 0.1:
                row[at] = None
            else:
                row[at] = rand.choice(TEXTS)
            row[-1] = row_sum(table, row[:-1])
            try:
                db.execute("UPDATE %s SET %s WHERE %s" % (
                    table, ", ".join("%s = ?" % c for c in columns[table]), this), (*row, *key))
            except (sqlite3.IntegrityError, sqlite3.DataError):
                pass  # a key that is there already, or a column's own check


def change_bytes(rand, file):
    data = bytearray(Path(file).read_bytes())
    for _ in range(rand.choice([1, 3, 100])):
        data[rand.randrange(len(data))] ^= 1 << rand.randrange(8)
    Path(file).write_bytes(data)


def cut_short(rand, file):
    data = Path(file).read_bytes()
    Path(file).write_bytes(data[:rand.choice([rand.randrange(len(data)), rand.randrange(200),
                                              rand.randrange(len(data) // 4096) * 4096])])


def wrong(run, form):
    """What is not as promised, or None."""
    if run.code not in (0, 1, 6, USAGE):
        return "exit code %d: %s" % (run.code, run.err[-400:])
    if run.code == USAGE:
        lines = [line for line in run.err.splitlines() if line.strip()]
        return None if len(lines) == 1 and not run.out else "no single sentence: " + run.err[:300]
    if run.err:
        return "said " + run.err[:300]
    if form != "pprof" and [c for c in run.out if (c < " " and c not in "\n\t") or c in "\x7f\u202e"]:
        return "control characters"
    if "<script>alert" in run.out and form in ("html", "svg"):
        return "a foreign script"
    try:
        if form in ("json", "speedscope"):
            json.loads(run.out)
        if form == "svg":
            ElementTree.fromstring(run.out)
    except (ValueError, ElementTree.ParseError) as e:
        return "%s: %s" % (form, e)
    return None


def tries(tap, name, change, good, tmp, seed, count):
    rand = random.Random(seed)
    copy = os.path.join(tmp, "copy.beamray")
    codes, bad = {}, []
    for number in range(count):
        shutil.copy(good, copy)
        change(rand, copy)
        form = FORMATS[number % len(FORMATS)]
        for args, kind in ((["report", copy, "-f", form], form),
                           (["diff", copy, "-f", "json"], "json") if number % 3 == 0 else
                           (["report", copy, "--invert", "-v"], "text")):
            try:
                run = beamray(*args, timeout=30, program=PROGRAM)
            except Exception as e:  # too long is as bad as a crash
                bad.append((number, args[2:], str(e)[:200]))
                continue
            codes[run.code] = codes.get(run.code, 0) + 1
            why = wrong(run, kind)
            if why:
                bad.append((number, args[2:], why))
                keep = TOP / "build" / "tests" / ("fuzz-%s-%d.beamray" % (name.split()[0], number))
                shutil.copy(copy, keep)
    tap.ok("%s: %d files, exit codes %r" % (name, count, dict(sorted(codes.items()))),
           not bad, bad[:3])


def main():
    with Tap() as tap, tempfile.TemporaryDirectory() as tmp:
        release = next((r for r in releases(tap) if r != "host"), None)
        if not release:
            return
        good = os.path.join(tmp, "good.beamray")
        with Node(release) as node:
            node.nif()
            node.settle()
            recorder = Recorder(node.pid, good, "-d", 2, "-i", 1)
            wait_looks(good, 1)
            node("nif", "leak_malloc", 5000, 1000)
            node("binaries", 200, 3900)
            recorder.end()
        tap.equal("the recording is good", beamray("report", good).code, 0)
        sums_are_documented(tap, good)
        columns = tables(good)
        factor = 20 if LONG else 1
        tries(tap, "rows changed, checksums right",
              lambda rand, file: change_rows(rand, file, columns), good, tmp, 11, 60 * factor)
        tries(tap, "bytes changed", change_bytes, good, tmp, 12, 20 * factor)
        tries(tap, "cut short", cut_short, good, tmp, 13, 20 * factor)


main()
