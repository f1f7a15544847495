#!/usr/bin/env python3
"""The ledger and the VM's figures, against the VM's and the kernel's own, per release."""
# timeout: 400

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
from lab import LONG, Node, Tap, beamray, memory, releases  # noqa: E402
from truth import check_rss, check_sums, check_tags, check_walk, compare  # noqa: E402


def check_shape(tap, node, look, label):
    """What DESIGN promises of the JSON itself."""
    tap.equal("%s: schema" % label, look["schema"], "beamray.memory/1")
    target, info = look["target"], node("info")
    tap.equal("%s: pid" % label, target["pid"], node.pid)
    tap.equal("%s: release" % label, target["otp_release"], info["otp_release"])
    tap.equal("%s: erts" % label, target["erts_version"], info["erts_version"])
    tap.equal("%s: flavor" % label, target["flavor"], info["flavor"])
    tap.ok("%s: layout and symbols are named" % label,
           target["layout"] in ("table", "dwarf")
           and target["symbols"] in ("dynsym", "debuginfo", "signature"), target)
    tap.equal("%s: complete" % label, look["complete"], True)
    vm = look["vm"]
    tap.ok("%s: used <= allocated, usage between" % label,
           0 < vm["used"] <= vm["allocated"] and 0 < vm["usage"] <= 1,
           [vm["used"], vm["allocated"], vm["usage"]])


def load(node):
    """Some of everything."""
    node("app", "crypto")
    node.nif()
    for words in ("spawn 2000", "table 20000", "binaries 2000 3000", "heap 20 50000",
                  "atoms 2000", "literals 50000", "sockets 20", "queue 2000",
                  "fragment binary 24", "fragment ets 16", "fragment heap 16", "crypto 200",
                  "nif keep_enif 300 700", "nif leak_enif 100 2000", "nif leak_binary 50 5000",
                  "nif leak_resource 100 200", "nif make_resources 100 300", "nif leak_env 50 100",
                  "nif leak_malloc 1000 333"):
        node(*words.split(), timeout=120)


def main():
    with Tap() as tap:
        for release in releases(tap):
            label = "OTP " + release
            with Node(release) as node:
                node.settle()
                look = compare(tap, node, label + " idle")
                check_shape(tap, node, look, label)
                check_sums(tap, look, label + " idle")
                check_walk(tap, look, label + " idle")
                check_rss(tap, node, label + " idle")

                load(node)
                node.settle()
                look = compare(tap, node, label + " loaded")
                check_sums(tap, look, label + " loaded")
                check_walk(tap, look, label + " loaded")
                check_tags(tap, node, label + " loaded")

                # The node has just answered questions about itself: a look may be incomplete,
                # and says so; not three in a row.
                for _ in range(3):
                    text = beamray("memory", "-p", node.pid)
                    if text.code != 6:
                        break
                    tap.note(text.out)
                wide = [line for line in text.out.splitlines() if len(line) > 80]
                tap.ok("%s: text of 80 columns, exit code 0" % label,
                       text.code == 0 and text.out and not wide, (text.code, text.err, wide))
            with Node(release, ["+S", "1"] if not LONG else ["+S", "8:8"]) as node:
                node.settle()
                look = compare(tap, node, label + " other schedulers")
                check_sums(tap, look, label + " other schedulers")
            with Node(release, namespaces=True) as node:
                node.settle()
                look = memory(node.pid).json()
                tap.equal("%s: in a pid namespace" % label, look["target"]["pid"], node.pid)
                check_sums(tap, look, label + " in a pid namespace")


main()
