"""Comparing a look of beamray's with what the VM and the kernel say themselves.

The VM's own figures move while it is asked: asking allocates. So it is asked
before and after the look. Where both answers agree, the look must say the same;
elsewhere it must lie within the distance of the two. An idle node is still not
dead (timers, the port that we talk to it through), so a look may be repeated, and
one clean look of several is enough: a wrong reader is never right by chance in
some hundred figures.
"""

import time
from pathlib import Path

from lab import memory

SECTIONS = ("mbcs", "mbcs_pool", "sbcs")
FIGURES = ("blocks", "blocks_size", "carriers", "carriers_size")
CATEGORIES = ("total", "processes", "processes_used", "system", "atom", "atom_used", "binary",
              "code", "ets")


# The request that carries the question to every scheduler is itself two or three short
# lived blocks (alloc_info_request), gone when the answer is there.
ASKING = {"sl_alloc": {"blocks": 4, "blocks_size": 1024}}


def by_instance(allocators):
    """{(allocator, instance, section, figure): value}"""
    found = {}
    for allocator in allocators:
        for instance in allocator.get("by_instance") or []:
            for section in SECTIONS:
                for figure in FIGURES:
                    if section in instance:
                        key = (allocator["name"], instance["instance"], section, figure)
                        found[key] = instance[section].get(figure)
    return found


def outside(value, low, high, slack=0):
    return value is None or not min(low, high) - slack <= value <= max(low, high) + slack


class Comparison:
    """One look between two answers of the VM."""

    def __init__(self, node, *args):
        node("snap", "before")
        self.run = memory(node.pid, *args)
        node("snap", "after")
        self.look = self.run.json()
        before, after = node("get", "before"), node("get", "after")

        self.agreed = self.total = 0
        self.wrong = []
        seen = by_instance(self.look["vm"]["allocators"])
        low, high = by_instance(before["allocators"]), by_instance(after["allocators"])
        for key, first in low.items():
            last = high.get(key, first)
            self.total += 1
            self.agreed += first == last
            slack = abs(last - first) + ASKING.get(key[0], {}).get(key[3], 0)
            if outside(seen.get(key), first, last, slack):
                self.wrong.append("%s %d %s.%s is %s, VM says %d and %d"
                                  % (*key, seen.get(key), first, last))

        self.memory_wrong = []
        self.memory_known = before["memory"] is not None
        told = self.look["vm"]["memory"]
        if self.memory_known:
            for name in CATEGORIES:
                # OTP 23 says 2^64 too much of "system" when there are 100,000 processes
                first, last = (memory[name] % 2**64
                               for memory in (before["memory"], after["memory"]))
                slack = max(65536, last // 200) + abs(last - first)
                if not told or outside(told.get(name), first, last, slack):
                    self.memory_wrong.append("%s is %s, VM says %d and %d"
                                             % (name, told and told.get(name), first, last))


def compare(tap, node, label, looks=5, args=(), share=0.9):
    """Statistics and memory categories of an idle node against the VM's own."""
    best = None
    for _ in range(looks):
        now = Comparison(node, *args)
        if best is None or len(now.wrong) + len(now.memory_wrong) \
                < len(best.wrong) + len(best.memory_wrong):
            best = now
        if not best.wrong and not best.memory_wrong:
            break
        time.sleep(0.3)
    tap.ok("%s: %d figures of allocator instances as the VM says" % (label, best.total),
           not best.wrong and best.total > 50, "; ".join(best.wrong[:5]))
    tap.ok("%s: the VM agrees with itself on %.0f%% of them" % (label, share * 100),
           best.agreed >= share * best.total, "%d of %d" % (best.agreed, best.total))
    if best.memory_known:
        tap.ok("%s: erlang:memory() in %d categories" % (label, len(CATEGORIES)),
               not best.memory_wrong, "; ".join(best.memory_wrong))
    else:
        tap.ok("%s: vm.memory is null, and said why" % label,
               best.look["vm"]["memory"] is None
               and any("memory" in note for note in best.look["notes"]), best.look["notes"])
    return best.look


def accounts(look):
    return {row["account"]: row["bytes"] for row in look["ledger"]}


def native(look):
    """Native bytes, wherever a release allows them to be named."""
    ledger = accounts(look)
    return sum(ledger.get(name, 0) for name in ("native.heap.used", "native.mmap"))


def rollup_rss(pid):
    for line in Path("/proc/%d/smaps_rollup" % pid).read_text().splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1]) * 1024
    return None


def check_sums(tap, look, label, unattributed=0.01):
    """What holds of every look, busy target or not."""
    ledger = look["ledger"]
    names = [row["account"] for row in ledger]
    total = sum(row["bytes"] for row in ledger)
    rss = look["os"]["rss"]
    mine = accounts(look)
    good = [
        tap.equal("%s: accounts add up to os.rss" % label, total, rss),
        tap.ok("%s: every account once, none negative" % label,
               len(names) == len(set(names)) and all(row["bytes"] >= 0 for row in ledger),
               [row for row in ledger if row["bytes"] < 0 or names.count(row["account"]) > 1]),
        tap.ok("%s: unattributed below %.0f%%" % (label, unattributed * 100),
               mine.get("unattributed", rss) < unattributed * rss,
               "%s of %d" % (mine.get("unattributed"), rss)),
        tap.equal("%s: unattributed is its row" % label, look["unattributed"],
                  mine.get("unattributed")),
    ]
    return all(good)


def check_walk(tap, look, label, torn=0):
    walk = look.get("walk") or {}
    tap.ok("%s: blocks walked without error" % label,
           walk.get("errors") == 0 and walk.get("torn", 1) <= torn and walk.get("blocks", 0) > 0
           and walk.get("carriers", 0) > 0, walk)


def check_rss(tap, node, label, slack=512 * 1024):
    """Against smaps, which counts zero pages out as we do; the node must be idle."""
    best = None
    for _ in range(4):
        before = rollup_rss(node.pid)
        rss = memory(node.pid).json()["os"]["rss"]
        after = rollup_rss(node.pid)
        off = max(0, min(before, after) - rss, rss - max(before, after))
        best = off if best is None else min(best, off)
        if best <= slack:
            break
    tap.ok("%s: os.rss is smaps' Rss (off by %d bytes)" % (label, best), best <= slack)


def vm_tags(answer):
    """{(owner, type): (blocks, least bytes, most bytes)} of instrument's histogram.

    Slot N ends at start * 2^N since OTP 26; before that a block may be found one slot
    lower (5,000 bytes in the one up to 4,096), so the bounds are those of both.
    """
    start, found = answer["histogram_start"], {}
    for tag in answer["tags"]:
        least = most = 0
        last = len(tag["histogram"]) - 1
        for slot, blocks in enumerate(tag["histogram"]):
            least += blocks * (0 if slot == 0 else start << (slot - 1))
            most += blocks * ((start << (slot + 1)) if slot < last else 1 << 62)
        found[(tag["owner"], tag["type"])] = (tag["blocks"], least, most)
    return found


def our_tags(look):
    found = {}
    for tag in look.get("tags") or []:
        key = (tag["owner"], tag["type"])
        blocks, size = found.get(key, (0, 0))
        found[key] = (blocks + tag["blocks"], size + tag["bytes"])
    return found


def check_tags(tap, node, label, looks=5):
    """Owners of tagged blocks, against instrument:allocations()."""
    wrong, best = None, None
    for _ in range(looks):
        # Asking makes binaries; what the first asking left is in the second's count.
        node("instrument", "allocations")
        first = node("instrument", "allocations")
        look = memory(node.pid).json()
        last = node("instrument", "allocations")
        if first["unscanned"] or last["unscanned"]:
            tap.skip("%s: tags" % label, "instrument leaves %d bytes unscanned"
                     % first["unscanned"])
            return
        ours, low, high = our_tags(look), vm_tags(first), vm_tags(last)
        wrong = []
        for key in sorted(set(low) | set(high) | set(ours)):
            a, b = low.get(key, (0, 0, 0)), high.get(key, (0, 0, 0))
            blocks, size = ours.get(key, (0, 0))
            if outside(blocks, a[0], b[0], abs(a[0] - b[0])):
                wrong.append("%s: %d blocks, VM says %d and %d" % (key, blocks, a[0], b[0]))
            elif a == b and not a[1] <= size <= a[2] + 8 * blocks:
                wrong.append("%s: %d bytes, VM says %d to %d" % (key, size, a[1], a[2]))
        if best is None or len(wrong) < len(best):
            best = wrong
        if not wrong:
            break
        time.sleep(0.3)
    tap.ok("%s: owners of tagged blocks as instrument says" % label, not best,
           "; ".join(best[:6]))
