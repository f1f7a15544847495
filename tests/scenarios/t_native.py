#!/usr/bin/env python3
"""Native memory: what a NIF says that it took, against what the ledger says that it grew."""
# timeout: 300

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
from lab import Node, Tap, memory, releases  # noqa: E402
from truth import accounts, check_sums  # noqa: E402

MiB = 1024 * 1024


class Step:
    """How accounts and the NIF's truth moved since the last call of moved()."""

    def __init__(self, tap, node, label):
        self.tap, self.node, self.label = tap, node, label
        self.ledger, self.truth = self.now()

    def now(self):
        self.node("nif", "truth")
        # A carrier that is just being given back belongs to nobody for a moment.
        for _ in range(3):
            time.sleep(0.2)
            look = memory(self.node.pid).json()
            if look["complete"] and look["unattributed"] < 0.01 * look["os"]["rss"]:
                break
        check_sums(self.tap, look, self.label + " native")
        return accounts(look), self.node("nif", "truth")

    def moved(self):
        before, told = self.ledger, self.truth
        self.ledger, self.truth = self.now()
        grew = lambda *names: sum(self.ledger.get(n, 0) - before.get(n, 0) for n in names)
        took = lambda kind, key="usable": self.truth[kind][key] - told[kind][key]
        return grew, took, self.truth["table_bytes"] - told["table_bytes"]


def near(tap, name, is_, should, slack):
    tap.ok("%s: %d bytes, truth %d" % (name, is_, should), abs(is_ - should) <= slack,
           "off by %d, allowed %d" % (is_ - should, slack))


def main():
    with Tap() as tap:
        for release in releases(tap):
            label = "OTP " + release
            with Node(release) as node:
                node.nif()
                # What the first call of each costs once (buffers, an arena) is not its leak.
                for kind in ("leak_malloc", "keep_malloc", "leak_mmap", "leak_enif"):
                    node("nif", kind, 2, 5000)
                node.settle()
                step = Step(tap, node, label)

                node("nif", "leak_malloc", 20000, 1000)
                grew, took, _ = step.moved()
                # A chunk is its usable bytes and a header of 8; the last page is partly touched.
                should = took("malloc_lost") + 8 * took("malloc_lost", "count")
                near(tap, label + " leak by malloc", grew("native.heap.used"), should, 64 * 1024)

                node("nif", "keep_malloc", 5000, 3000)
                grew, took, _ = step.moved()
                should = took("malloc_kept") + 8 * took("malloc_kept", "count")
                near(tap, label + " kept by malloc", grew("native.heap.used"), should, 64 * 1024)

                node("nif", "free_kept")
                grew, took, _ = step.moved()
                should = took("malloc_kept") + 8 * took("malloc_kept", "count")
                near(tap, label + " freed again", grew("native.heap.used"), should, 64 * 1024)

                node("nif", "pattern", 4, 4000)
                grew, took, _ = step.moved()
                should = took("pattern") + 8 * took("pattern", "count")
                near(tap, label + " pattern in four arenas", grew("native.heap.used"), should,
                     256 * 1024 + should // 50)

                node("nif", "leak_mmap", 24, MiB)
                grew, took, table = step.moved()
                # While a release's mseg state is unknown, nobody's anonymous memory is
                # unattributed and not native: an unknown is no accusation.
                names = ["native.mmap"] + (["unattributed"] if release == "29" else [])
                near(tap, label + " leak by mmap", grew(*names), took("mmap") + table, 192 * 1024)

                node("nif", "leak_enif", 2000, 1000)
                grew, took, _ = step.moved()
                should = 1.02 * took("enif_lost", "bytes")
                near(tap, label + " leak by enif_alloc", grew("vm.used.driver_alloc"), should,
                     96 * 1024)

                node("nif", "threads", 8, 200 * 1024)
                grew, took, _ = step.moved()
                near(tap, label + " stacks of eight threads", grew("native.stack"),
                     took("thread", "usable"), 8 * 24 * 1024)

                # Stacks that are no whole number of pages, of threads that ended: the rest
                # of the last page is the stack's too, and nobody's mmap.
                node("ill", "load", node.dir)
                node("ill", "once", "nif", "leak", "unjoined", 1, 100000)
                step.moved()
                node("ill", "once", "nif", "leak", "unjoined", 200, 100000)
                grew, _, _ = step.moved()
                near(tap, label + " beside the stacks of 200 ended threads", grew(*names), 0,
                     32 * 1024)
                tap.ok(label + " the stacks of 200 ended threads: two pages each at least",
                       grew("native.stack") >= 200 * 8192, grew("native.stack"))


main()
