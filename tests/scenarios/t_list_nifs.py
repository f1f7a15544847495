#!/usr/bin/env python3
"""beamray list resources and nifs against what the test NIF made and what Erlang knows of it."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
from lab import Node, Tap, beamray, releases  # noqa: E402


def listing(node, what):
    run = beamray("list", "-p", node.pid, what, "--json")
    return run.code, run.json()


def resource(doc, module, name):
    found = [r for r in doc["rows"] if r["module"] == module and r["type"] == name]
    return found[0] if len(found) == 1 else None


def check_resources(tap, node, label):
    code, doc = listing(node, "resources")
    types = {(r["module"], r["type"]) for r in doc["rows"]}
    tap.ok("%s: types without a resource are known too" % label,
           code == 0 and ("prim_file", "efile") in types, types)
    tap.ok("%s: and none live" % label, resource(doc, "prim_file", "efile")["count"] == 0)
    node.nif()
    node("nif", "make_resources", 700, 3000)
    node("nif", "make_resources", 20, 50000)
    node("nif", "leak_resource", 30, 1000)
    node("call", "list_truth", "make_files", 5)
    code, doc = listing(node, "resources")
    row = resource(doc, "leak_nif", "leak_resource")
    made = 700 * 3000 + 20 * 50000 + 30 * 1000
    tap.equal("%s: live resources of the NIF" % label, (row["count"], row["blocks"]), (750, 750))
    tap.ok("%s: %d bytes in blocks for %d asked for" % (label, row["bytes"], made),
           made < row["bytes"] < made + 750 * 200 and row["resident"] <= row["bytes"], row)
    files = resource(doc, "prim_file", "efile")
    tap.equal("%s: open files" % label, (files["count"], files["blocks"]), (5, 5))
    node("drop", "resources")
    node("gc")
    _, doc = listing(node, "resources")
    row = resource(doc, "leak_nif", "leak_resource")
    tap.equal("%s: what was let go is gone, what leaked stays" % label,
              (row["count"], row["blocks"]), (30, 30))


def check_nifs(tap, node, label):
    node("nif", "leak_enif", 100, 4000)
    code, doc = listing(node, "nifs")
    row = [r for r in doc["rows"] if r["name"] == "leak_nif"][0]
    functions = sorted(row["function_names"].split())
    tap.equal("%s: functions of the NIF" % label, functions,
              sorted(node("call", "list_truth", "nif_functions", "leak_nif")))
    tap.equal("%s: as many as it says" % label, row["functions"], len(functions))
    tap.equal("%s: file" % label, (row["file"], row["kind"]), ("leak_nif.so", "nif"))
    tap.ok("%s: path" % label, row["path"].endswith("/leak_nif.so"), row["path"])
    made = 100 * 4000 + 30 * 1000
    tap.ok("%s: %d bytes tagged for %d asked for" % (label, row["bytes"], made),
           made < row["bytes"] < made + 130 * 200, row)
    node("call", "list_truth", "make_ports")
    _, doc = listing(node, "nifs")
    drivers = {r["name"]: r for r in doc["rows"] if r["kind"] == "driver"}
    tap.ok("%s: drivers with the ports that run them" % label,
           drivers["tcp_inet"]["ports"] == 5 and drivers["udp_inet"]["ports"] == 1
           and drivers["spawn"]["ports"] == 4, drivers)
    tap.ok("%s: and one that no port runs" % label, any(d["ports"] == 0 for d in drivers.values()),
           sorted(drivers))
    for what in ["nifs", "resources"]:
        text = beamray("list", "-p", node.pid, what)
        tap.ok("%s: %s as text of 80 columns" % (label, what),
               text.code == 0 and all(len(line) <= 80 for line in text.out.splitlines()), text.out)


def main():
    with Tap() as tap:
        for release in releases(tap):
            label = "OTP " + release
            with Node(release) as node:
                check_resources(tap, node, label)
                check_nifs(tap, node, label)
            with Node(release, ["+MBatags", "false"]) as node:
                code, doc = listing(node, "resources")
                tap.ok("%s: without tags no bytes, and it says why" % label,
                       code == 0 and doc["rows"] and all(r["bytes"] is None for r in doc["rows"])
                       and any("tags" in n for n in doc["notes"]), doc)


main()
