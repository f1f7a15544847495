#!/usr/bin/env python3
"""The doctor on nodes that are ill in a known way, and on healthy ones.

A dozen cases by default; with --long all of them on OTP 25 and a third of them on every
release. BEAMRAY_CASES=word,word runs the cases with such names on all their releases.
tests/lib/clinic.py says what is compared.
"""
# timeout: 900

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
from clinic import ALL, Case, ward_round  # noqa: E402
from lab import Tap, releases  # noqa: E402

NIF, DRV = "ill_nif.so", "ill_drv"


def leak(name, way, mechanism, count=400, size=1000, function="leak", **more):
    """A leak by the NIF: `count` pieces ten times over."""
    more.setdefault("stack", "by_" + way)
    more.setdefault("truth", "ill:" + way)
    more.setdefault("every", 380)
    return Case(name, "nif-leak", NIF, mechanism,
                step="nif %s %s %d %d" % (function, way, count, size), **more)


CASES = [
    # ---- libc
    leak("malloc", "malloc", "libc", releases=ALL, quick="25 29"),
    leak("calloc", "calloc", "libc"),
    leak("realloc", "realloc", "libc"),
    leak("memalign", "memalign", "libc"),
    leak("C++ new", "new", "libc", releases=ALL),
    leak("strdup", "strdup", "libc"),
    leak("large mmapped chunks", "malloc", "libc", count=2, size=400000, releases=ALL),
    leak("malloc on a dirty CPU scheduler", "malloc", "libc", function="leak_cpu",
         releases=ALL, quick="25 29"),
    leak("malloc on a dirty IO scheduler", "malloc", "libc", function="leak_io"),
    leak("malloc on a thread of its own", "malloc", "libc", function="leak_thread"),
    leak("slow malloc, 64 KB a second", "malloc", "libc", count=16, every=250, times=0,
         seconds=30),
    leak("fast malloc, 500 MB a second to 2 GB", "malloc", "libc", count=25600, every=50,
         times=80, seconds=20),
    # libc has it free and resident already: no fault, no system call
    leak("malloc into libc's free memory", "malloc", "libc", count=1000, every=500, times=24,
         prepare=("ill once nif fragment 26000 1000 0",), flags=("+S", "1:1"), quick="25",
         releases=ALL, seconds=15),
    # ---- mmap, enif_alloc, resources, environments
    leak("mmap", "mmap", "mmap", count=8, size=65536, releases="23 25 27", quick="23"),
    leak("mmap on a thread of its own", "mmap", "mmap", count=8, size=65536,
         function="leak_thread"),
    leak("enif_alloc", "enif", "enif_alloc", stack=None, releases=ALL),
    leak("enif_alloc on a dirty scheduler", "enif", "enif_alloc", function="leak_cpu",
         stack=None),
    leak("resources never released", "resource", "resource", stack=None, releases=ALL,
         quick="25"),
    leak("enif_alloc_binary never released", "binary", "enif_alloc", count=40, size=20000,
         stack=None, releases=ALL),
    leak("environments forgotten", "env", "env", count=100, size=8000, stack=None,
         truth="memory:total", releases=ALL, quick="25 27"),
    # ---- drivers
    Case("driver_alloc", "driver-leak", DRV, "driver_alloc", step="drv alloc 400 1000",
         truth="ill:drv_alloc", prepare=("ill once drv alloc 1 100",), releases=ALL),
    Case("driver binaries", "driver-leak", DRV, "driver_binary", step="drv binary 400 1000",
         truth="ill:drv_binary", prepare=("ill once drv alloc 1 100",), releases=ALL, quick="25"),
    Case("malloc in a driver", "driver-leak", "ill_drv.so", "libc", step="drv malloc 400 1000",
         truth="ill:drv_malloc", prepare=("ill once drv alloc 1 100",)),
    # ---- threads
    # (the kernel gets most of a stack back when a thread ends: two pages or so stay)
    Case("threads never joined", "thread-stacks", NIF, "thread",
         step="nif leak unjoined 80 100000", releases=ALL, quick="25"),
    Case("threads that sleep", "thread-stacks", NIF, "thread",
         step="nif leak sleeper 2 400000", truth="ill:sleeper", may=("nif-leak",)),
    # ---- neither
    Case("a preloaded library", "native-growth", "grower.so", "libc", grower=True,
         truth="grower:", stack="grow_one", seconds=10),
    # ---- several at once
    leak("two leaks at once", "mmap", "mmap", count=8, size=65536,
         during=("nif leak_malloc 3000 1000",), options=("--native",), second=("nif-leak", "leak_nif.so", "libc")),
    leak("a leak beside heavy VM churn", "malloc", "libc", count=1200, size=1000,
         prepare=("churn start",), releases=ALL,
         may=("vm-data", "vm-retained", "vm-fragmentation")),
    # ---- what is no leak
    Case("idle", prepare=(), quick="25 29", releases=ALL),
    Case("idle and large", prepare=("table 300000", "spawn 2000", "binaries 2000 20000")),
    Case("malloc churn", step="nif leak churn 4000 5000", quick="25"),
    Case("a cache at its size", prepare=("ill once nif leak cache 20000 1000",)),
    Case("a cache given back", step="nif leak cache 400 1000",
         after=("ill once nif drop_cache",), releases=ALL, quick="25"),
    Case("a spike given back", step="spike 40 1000000", times=4),
    Case("code reloads", prepare=("ill once reload 2",), step="reload 2", releases=ALL),
    # ---- kept, still reachable; stopped
    leak("a cache that fills and stops", "cache", "libc", times=4, seconds=10,
         count=1000, confidence="medium", says="still reachable", options=("--native",)),
    leak("growth that stopped", "malloc", "libc", times=4, count=1000, seconds=10,
         says="stopped", options=("--native",)),
    # its end came before malloc was watched, and it made no faults: nobody is accused
    leak("growth that stopped unseen", "malloc", "libc", times=1, every=1, count=2000,
         prepare=("ill once nif fragment 4000 1000 0",), flags=("+S", "1:1"), seconds=8,
         stack=None, says="stopped", confidence="low").nobody(),
    # ---- VM data
    Case("ETS", "vm-data", "ets", step="ets 6000", truth="memory:ets", owner="ill_table",
         releases=ALL, quick="25"),
    # (erlang:memory(processes) has the 40 bytes of a message, not the 64 of its block)
    Case("a message queue", "vm-data", "processes", step="queue 20000",
         truth="blocks:eheap_alloc+fix_alloc", owner="ill_queue", releases=ALL, quick="25",
         may=("vm-retained",)),
    # (... and the whole of a heap, of which the end has never been touched)
    Case("one process's heap", "vm-data", "processes", step="heap 150000",
         truth="ill:heap", owner="ill_hoarder",
         flags=("+MMmcs", "0"), may=("vm-retained", "vm-fragmentation")),
    Case("many processes", "vm-data", "processes", step="procs 500", times=12,
         truth="memory:processes", owner="ill:"),
    Case("refc binaries kept", "vm-data", "binary", step="binaries 100 30000",
         truth="memory:binary", owner="ill_binaries", releases=ALL),
    Case("refc binaries pinned by sub-binaries", "vm-data", "binary", step="sub 100 30000",
         truth="memory:binary", owner="ill_sub"),
    Case("refc binaries held by an idle process", "vm-data", "binary", step="idle 20 150000",
         truth="memory:binary", owner="ill_idle"),
    # (erlang:memory(atom) has the table and the text, not the atoms)
    Case("atoms", "vm-data", "atom", step="atoms 30000", owner="ill_atom_", releases=ALL),
    Case("literals", "vm-data", "literal", step="literals 100000", owner="ill"),
    Case("modules", "vm-data", "code", step="modules 25", times=14, every=50, seconds=15,
         owner="ill_module_", may=("vm-data",)),
    # ---- held, not used
    # (23 lets the kernel have most of it, page by page: what is left may be no finding)
    Case("fragmented binaries", "vm-fragmentation", "binary_alloc",
         prepare=("fragment binary 96",), size="free:binary_alloc", releases="25 27 29",
         quick="25"),
    Case("fragmented heaps", "vm-fragmentation", "eheap_alloc", prepare=("fragment heap 128",),
         size="free:eheap_alloc", resident=0.6, settle=False),
    Case("fragmented ETS", "vm-fragmentation", "ets_alloc", prepare=("fragment ets 128",),
         size="free:ets_alloc", releases=ALL),
    Case("fragmented enif_alloc", "vm-fragmentation", "driver_alloc",
         prepare=("ill once nif fragment_enif 60000 1500 16",), size="free:driver_alloc"),
    Case("fragmented libc", "libc-fragmentation", "glibc",
         prepare=("ill once nif fragment 80000 1000 16",), releases=ALL),
    Case("a spike that the VM keeps", "vm-retained", "mseg", flags=("+MMamcbf", "200000",
         "+MMrmcbf", "1000", "+MMmcs", "30"), prepare=("ill once spike 20 5000000",)),
    Case("a spike in a super carrier", "vm-retained", "super_carrier", flags=("+MMscs", "400"),
         prepare=("ill once spike 20 5000000",), releases="25 29"),
    # ---- with less to go by
    Case("malloc without probes", "native-growth", "unknown", "libc",
         step="nif leak malloc 400 1000", truth="ill:malloc", options=("--no-uprobes",),
         confidence="low"),
    Case("enif_alloc without probes", "nif-leak", NIF, "enif_alloc",
         step="nif leak enif 400 1000", truth="ill:enif", options=("--no-uprobes",)),
    Case("busy at constant size", prepare=("churn start", "sleep 6000"), releases=ALL),
]


def main():
    with Tap() as tap:
        available = list(releases(tap, ALL.split()))
        ward_round(tap, CASES, available)


if __name__ == "__main__":
    main()
