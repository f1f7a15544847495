#!/usr/bin/env python3
"""beamray list allocators against recon_alloc in the same node (RabbitMQ brings it along), and
against erlang:system_info({allocator, T}) where its code does not load."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
from lab import Node, Tap, beamray, otp, releases, scenario_dir  # noqa: E402

INSTANCE = ["sbcs_usage", "mbcs_usage", "sbcs_block_size", "sbcs_carriers_size",
            "mbcs_block_size", "mbcs_carriers_size"]


def recon_put(release):
    """recon_alloc's code into the node's path. OTP 25 compiled it: 23 cannot load it."""
    if int(release) < 25:
        return False
    systems = otp.roots_dir().parent / "systems"
    systems = Path(os.environ.get("BEAMRAY_SYSTEMS") or systems)
    for file in systems.glob("rabbitmq-*/usr/lib/rabbitmq/lib/*/plugins/recon-*/ebin/recon_alloc.beam"):
        (scenario_dir(release) / file.name).write_bytes(file.read_bytes())
        return True
    return False


def rows(node):
    run = beamray("list", "-p", node.pid, "allocators", "--json")
    return run.code, run.json()


def near(a, b):
    """Equal, or as far away as the asking itself takes it: it allocates some kilobytes, which in
    a carrier of 128 KiB are many percent."""
    if a is None or isinstance(b, str):
        return a is None and b in (None, "infinity")
    if isinstance(b, int):
        return abs(a - b) <= max(65536 if b > 4096 else 1024, b // 1000)
    return abs(a - b) <= 0.2 * max(abs(b), 1)


def compare_recon(tap, truth, doc, label):
    exact = total = 0
    bad = []

    def check(what, is_, should):
        nonlocal exact, total
        total += 1
        exact += is_ == should
        if not near(is_, should):
            bad.append("%s is %r, should be %r" % (what, is_, should))

    rates = {c["instance"]: c for c in doc["cache_hit_rates"]}
    if rates:
        for c in truth["cache_hit_rates"]:
            for key in ["hits", "calls", "hit_rate"]:
                check("cache %s %s" % (c["instance"], key), rates[c["instance"]][key], c[key])
    instances = {(r["allocator"], r["instance"]): r for r in doc["fragmentation"]}
    for when, end in [("current", ""), ("max", "_max")]:
        t = truth[when]
        for key in ["used", "allocated"]:
            check("memory(%s, %s)" % (key, when), doc["summary"][key + end], t["memory"][key])
        if when == "current":
            for name, size in t["allocated_types"].items():
                row = [r for r in doc["rows"] if r["allocator"] == name][0]
                check("allocated " + name, row["allocated"], size)
            for n, size in t["allocated_instances"]:
                check("instance %d" % n, doc["allocated_instances"][n]["allocated"], size)
            check("unused", doc["summary"]["unused"], t["memory"]["unused"])
            check("usage", doc["summary"]["usage"], t["memory"]["usage"])
        for f in t["fragmentation"]:
            row = instances[f["allocator"], f["instance"]]
            for key in INSTANCE:
                check("%s of %s %d %s" % (key, f["allocator"], f["instance"], when),
                      row[key + end], f[key])
        for a, n, ratio in t["sbcs_to_mbcs"]:
            check("sbcs_to_mbcs of %s %d %s" % (a, n, when), instances[a, n]["sbcs_to_mbcs" + end],
                  ratio)
    for f in truth["max"]["average_block_sizes"]:
        row = [r for r in doc["rows"] if r["allocator"] == f["allocator"]][0]
        check("average mbc of %s" % f["allocator"], row["mbcs_average_max"], f["mbcs"])
        check("average sbc of %s" % f["allocator"], row["sbcs_average_max"], f["sbcs"])
    for f in truth["current"]["average_block_sizes"]:
        row = [r for r in doc["rows"] if r["allocator"] == f["allocator"]][0]
        check("average mbc now of %s" % f["allocator"], row["mbcs_average"], int(f["mbcs"] + 0.5))
    return exact, total, bad


def compare_plain(node, doc):
    """The sums alone, by system_info."""
    bad = []
    for a in node("allocators"):
        row = [r for r in doc["rows"] if r["allocator"] == a["name"]]
        size = sum(i[s]["carriers_size"][0] if isinstance(i[s]["carriers_size"], list)
                   else i[s]["carriers_size"]
                   for i in a["by_instance"] for s in ["mbcs", "sbcs", "mbcs_pool"] if s in i)
        if row and not near(row[0]["allocated"], size):
            bad.append("%s: %d, should be %d" % (a["name"], row[0]["allocated"], size))
    return bad


def compare_calls(node, doc):
    """How many calls of every instance equal system_info's; temp_alloc's and
    sl_alloc's cannot: asking uses them."""
    seen = {(r["allocator"], r["instance"]):
            [r["alloc_calls"], r["free_calls"], r["realloc_calls"]] for r in doc["fragmentation"]}
    truth = {(a, n): c for a, n, *c in node("call", "list_truth", "calls")}
    both = [k for k in seen if k in truth]
    near = [k for k in both if all(abs(x - y) <= 200 + y // 1000
                                   for x, y in zip(seen[k], truth[k])) or k[0] in ("temp_alloc", "sl_alloc")]
    return len([k for k in both if seen[k] == truth[k]]), len(both), sorted(set(both) - set(near))


def main():
    with Tap() as tap:
        for release in releases(tap):
            label = "OTP " + release
            have = recon_put(release)
            with Node(release, ["+S", "3:3"]) as node:
                node("fragment", "binary", 60)
                node("heap", 20, 100000)
                node("drop", "heap")
                node.settle()
                truth = {"error": "not loaded"}
                best = None
                for _ in range(4):
                    code, doc = rows(node)
                    if have:
                        truth = node("call", "list_truth", "recon")
                    if "error" in truth:
                        break
                    one = compare_recon(tap, truth, doc, label)
                    if best is None or len(one[2]) < len(best[2]):
                        best = one
                tap.equal("%s: exits with 0" % label, code, 0)
                if best is None:
                    tap.skip("%s: recon_alloc" % label,
                             "compiled for OTP 25, or no RabbitMQ here to take it from: %s"
                             % truth["error"])
                else:
                    exact, total, bad = best
                    tap.ok("%s: %d of recon_alloc's %d figures equal, the rest as near as asking "
                           "lets them be" % (label, exact, total),
                           exact > 0.8 * total and not [b for b in bad if "max" not in b]
                           and len(bad) < 6, bad[:8])
                for _ in range(5):  # answering moves them now and then
                    bad = compare_plain(node, rows(node)[1])
                    if not bad:
                        break
                tap.ok("%s: carriers of every allocator equal system_info" % label, not bad, bad)
                exact, total, bad = compare_calls(node, rows(node)[1])
                tap.ok("%s: calls of %d of %d instances equal system_info's, the others beside"
                       % (label, exact, total), total > 20 and exact > total / 3 and not bad, bad)
                binary = [r for r in doc["rows"] if r["allocator"] == "binary_alloc"][0]
                tap.ok("%s: of %d unused bytes of binary_alloc %d are resident, %d in whole pages"
                       % (label, binary["allocated"] - binary["used"], binary["free_resident"],
                          binary["free_whole_pages"]),
                       0 < binary["free_whole_pages"] <= binary["free_resident"]
                       <= binary["allocated"] - binary["used"])
                text = beamray("list", "-p", node.pid, "allocators")
                tap.ok("%s: text of 80 columns" % label,
                       text.code == 0 and all(len(line) <= 80 for line in text.out.splitlines()))


main()
