#!/usr/bin/env python3
"""Emulator flags that change what there is to read."""
# timeout: 300

import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
from lab import LONG, Node, NodeError, Tap, memory, releases  # noqa: E402
from truth import check_sums, check_walk, compare  # noqa: E402

FLAGS = [
    ("+MMscs 512", None),
    ("+MHacul 0", None),
    ("+MBas aobf", None),
    ("+MBas gf", None),
    ("+MBas bf", None),
    ("+MBas ageffcaoff", None),
    ("+Muacul 0", None),
    ("+Mut false", None),
    ("+Mulmbcs 1024 +Musbct 128", None),
    ("+Muatags true", None),
    ("+S 4:4 +SDcpu 4:4", None),
    ("+A 8", None),
    ("+hms 2586 +hmbs 46422", None),
    ("+JPperf true", ("25", "27", "29")),
    ("-emu_flavor emu", None),
]
# One of each kind in the short form.
SHORT = {"25": None, "29": ("+MMscs 512", "+MHacul 0", "+MBas aobf", "+JPperf true"),
         "27": ("+Muacul 0",), "23": ("+MMscs 512",)}


def starts(tap, name, release, flags, env=()):
    try:
        return Node(release, flags, env)
    except NodeError as e:
        tap.skip(name, "the VM does not start so: %s" % str(e).splitlines()[-1][:120])
        return None


def with_flags(tap, release, flags):
    name = "OTP %s %s" % (release, flags)
    node = starts(tap, name, release, flags.split())
    if not node:
        return
    with node:
        node("binaries", 2000, 2000)
        node("table", 5000)
        node("fragment", "binary", 8)
        node.settle()
        look = compare(tap, node, name)
        check_sums(tap, look, name)
        check_walk(tap, look, name)


def min_allocators(tap, release):
    """+Mea min: no allocator of ERTS's own; everything is the libc's."""
    name = "OTP %s +Mea min" % release
    node = starts(tap, name, release, ["+Mea", "min"])
    if not node:
        return
    with node:
        node("binaries", 2000, 2000)
        node.settle()
        look = memory(node.pid).json()
        tap.ok("%s: vm.memory is null, and said why" % name,
               look["vm"]["memory"] is None and look["notes"], look["notes"])
        check_sums(tap, look, name)
        native = {row["account"]: row["bytes"] for row in look["ledger"]}
        tap.ok("%s: native accounting goes on" % name,
               native.get("native.heap.used", 0) > 4 << 20, native)


def other_malloc(tap):
    """A preloaded jemalloc is named, and its memory not misread as glibc's."""
    name = "jemalloc preloaded"
    found = subprocess.run("ldconfig -p | grep -o '/.*libjemalloc\\.so\\.2' | head -n 1",
                           shell=True, capture_output=True, text=True, check=False).stdout.strip()
    if not found or not shutil.which("erl"):
        tap.skip(name, "no libjemalloc.so.2 or no erl on this machine")
        return
    with Node("host", env=["LD_PRELOAD=" + found]) as node:
        node.settle()
        look = memory(node.pid).json()
        check_sums(tap, look, name)
        tap.ok("%s: is named" % name, any("jemalloc" in note for note in look["notes"]),
               look["notes"])


def main():
    with Tap() as tap:
        for release in releases(tap):
            for flags, only in FLAGS:
                if only and release not in only and release != "host":
                    continue
                short = SHORT.get(release)
                if LONG or short is None or flags in short:
                    with_flags(tap, release, flags)
            min_allocators(tap, release)
        other_malloc(tap)


main()
