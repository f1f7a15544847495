#!/usr/bin/env python3
"""Names of native functions: a C++ NIF with debug information in every place where it can
be, with none at all, and with another library's.

What the names should be is known from the source; lines come from it too.
"""
# timeout: 300

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
from lab import SCENARIOS, Node, Tap, beamray, nif_include, releases, scenario_dir  # noqa: E402
from recorder import Recorder, rows, wait_looks  # noqa: E402

SOURCE = SCENARIOS / "nif" / "cxx_nif.cc"
LINES = {m.group(1): number for number, line in enumerate(SOURCE.read_text().splitlines(), 1)
         if (m := re.search(r"// LINE (\w+)", line))}
WHOLE = ["leak [cxx_nif.so]", "store::Pool<int>::grow [cxx_nif.so]", "store::take [cxx_nif.so]"]


def tool(*cmd):
    subprocess.run([str(c) for c in cmd], check=True, capture_output=True)


def compile_to(folder):
    out = folder / "whole.so"
    tool("g++", "-g", "-O2", "-shared", "-fPIC", "-fvisibility=hidden", "-Wl,--build-id",
         "-I%s" % nif_include(), "-o", out, SOURCE)
    return out


def build_id(file):
    text = subprocess.run(["readelf", "-n", str(file)], capture_output=True, text=True,
                          check=True).stdout
    return re.search(r"Build ID: ([0-9a-f]+)", text).group(1)


def chains(release, folder, tmp):
    """Records while the NIF leaks: the chains of frames of its library, root first, with their
    weights; and the lines of its symbols."""
    file = os.path.join(tmp, "r.beamray")
    with Node(release, folder=folder) as node:
        node("cxx", "load", node.dir)
        node("cxx", "leak", 2000, 1000)
        node.settle()
        recorder = Recorder(node.pid, file, "-d", 3, "-i", 1)
        wait_looks(file, 1)
        time.sleep(0.2)
        for _ in range(10):
            node("cxx", "leak", 500, 1000)
        code, _, err = recorder.end()
    if code:
        raise RuntimeError("record: %d %s" % (code, err))
    doc = beamray("report", file, "-f", "json").json()
    found = {}
    for stack in (doc["profile"] or {"stacks": []})["stacks"]:
        mine = tuple(f for f in stack["frames"] if "cxx_nif" in f and not f.startswith("cxx_nif:"))
        named = tuple(f for f in stack["frames"] if "cxx_nif.so" in f)
        if named:
            found[named] = found.get(named, 0) + stack["weight"]
        elif mine:
            found[mine] = found.get(mine, 0) + stack["weight"]
    lines = {name: line for name, line in
             rows(file, "SELECT name, line FROM symbol WHERE module = 'cxx_nif.so'") if name}
    return found, lines, doc


def check_whole(tap, label, found, lines):
    best = max(found, key=found.get, default=())
    tap.equal(label + ": all functions, the inlined one too", list(best), WHOLE)
    tap.equal(label + ": lines", {name: lines.get(name) for name in
                                  ("leak", "store::Pool<int>::grow")},
              {"leak": LINES["leak"], "store::Pool<int>::grow": LINES["grow"]})
    # take() is seen where it calls malloc and where it fills what it got
    tap.ok(label + ": and that of the inlined one", LINES["take"] <= lines.get("store::take", 0) <=
           LINES["take"] + 2, lines)


def check_stripped(tap, label, found):
    best = max(found, key=found.get, default=())
    tap.ok(label + ": the NIF has the name that the VM knows", len(best) == 2 and
           re.fullmatch(r"cxx_nif:leak/2 \[cxx_nif\.so\]", best[0]), best)
    tap.ok(label + ": the other one its place", len(best) == 2 and
           re.fullmatch(r"cxx_nif\.so\+0x[0-9a-f]+", best[1]), best)
    tap.ok(label + ": all samples of a function are one", len(found) <= 2, found)


def variants(tap, release, tmp, whole, other):
    """(label, what is done to the folder's library, check, what must be removed again)."""
    folder = Path(tmp) / "modules"
    shutil.copytree(scenario_dir(release), folder)
    library, debug = folder / "cxx_nif.so", folder / "cxx_nif.so.debug"
    own = Path("/usr/lib/debug/.build-id") / build_id(whole)[:2] / (build_id(whole)[2:] + ".debug")

    def strip(*more):
        shutil.copy(whole, library)
        tool("objcopy", "--only-keep-debug", whole, debug)
        tool("objcopy", "--strip-all", *more, library)

    shutil.copy(whole, library)
    found, lines, doc = chains(release, folder, tmp)
    if doc["profile"] is None:
        tap.skip("names", "; ".join(doc["notes"]))
        return
    check_whole(tap, "not stripped", found, lines)

    strip("--add-gnu-debuglink=%s" % debug) if debug.exists() else strip()
    tool("objcopy", "--add-gnu-debuglink=%s" % debug, library)
    found, lines, _ = chains(release, folder, tmp)
    check_whole(tap, "by .gnu_debuglink", found, lines)

    tool("objcopy", "--only-keep-debug", other, debug)  # another build's
    found, lines, _ = chains(release, folder, tmp)
    check_stripped(tap, "another build's debug file", found)

    strip()
    own.parent.mkdir(parents=True, exist_ok=True)
    debug.rename(own)
    try:
        found, lines, _ = chains(release, folder, tmp)
    finally:
        own.unlink()
        try:
            own.parent.rmdir()
        except OSError:
            pass
    check_whole(tap, "by build-id", found, lines)

    found, _, _ = chains(release, folder, tmp)
    check_stripped(tap, "stripped", found)


def main():
    with Tap() as tap, tempfile.TemporaryDirectory() as tmp:
        if not shutil.which("g++") or not shutil.which("objcopy"):
            tap.skip("names of a C++ NIF", "no g++ or objcopy on this machine")
            return
        release = next((r for r in releases(tap) if r != "host"), None)
        if not release:
            return
        os.chmod(tmp, 0o755)
        whole = compile_to(Path(tmp))
        other = Path(tmp) / "other.so"
        tool("g++", "-g", "-O1", "-shared", "-fPIC", "-Wl,--build-id", "-I%s" % nif_include(),
             "-o", other, SOURCE)
        variants(tap, release, tmp, whole, other)


main()
