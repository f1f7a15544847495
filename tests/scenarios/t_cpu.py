#!/usr/bin/env python3
"""Processor samples: of known chains of calls, the stacks are the known ones."""
# timeout: 600

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
from lab import Tap, releases  # noqa: E402
from traced import CHAIN, Denied, erlang, traced  # noqa: E402

# load, count, size, rounds; what may run below bottom/3 (besides the VM's own)
LOADS = [
    ("spin", 20000000, 0, 12, {"trace_load:spin/2"}),
    ("body", 10000000, 10000, 12, {"trace_load:spin/2", "trace_load:body/2"}),
    ("collect", 200, 20000, 8,
     {"trace_load:collect/2", "trace_load:keep/1", "lists:seq/2", "lists:seq_loop/3"}),
    ("hash", 300, 30000, 8, {"trace_load:hash/2", "lists:seq/2", "lists:seq_loop/3"}),
    ("encode", 300, 30000, 8, {"trace_load:encode/2", "lists:seq/2", "lists:seq_loop/3",
                              "erlang:md5/1", "erlang:term_to_binary/1",
                              "erts_internal:term_to_binary_trap/1", "erlang:md5_trap/1"}),
    ("table", 200, 3000, 8, {"trace_load:table/3", "lists:seq/2", "lists:seq_loop/3", "ets:new/2",
                             "ets:insert/2", "ets:delete/1", "trace_load:'-table/3-lc$^0/1-0-'/3",
                             "ets_delete_trap", "erts_internal:ets_super_user/0"}),
    # another generation of trace_hot every 150 ms or so
    ("reload", 5000000, 0, 20,
     {"trace_hot:run/1", "trace_hot:again/1", "trace_hot:turn/2", "trace_load:reload/0",
      "code_server:call/1", "code:purge/1", "code:load_binary/3", "code:get_object_code/1",
      "erts_code_purger:purge/1", "code:load_module/4", "code:load_module/5",
      # the loader proper: a BIF, called from a wrapper that stays on the stack
      "erlang:prepare_loading/2", "erlang:prepare_loading_1/2", "erts_internal:prepare_loading/2"}),
    ("burn_normal", 1, 100, 12, set()),
    ("burn_dirty", 1, 100, 12, set()),
]


# Code without a name is shown as an address: not known, but not false. A generation of
# trace_hot lives for 150 ms, and a stack that is taken in it makes it known within a few.
NAMELESS = "nameless"


def judge(frames, allowed):
    """None if the Erlang part of a stack is a true one, else what is wrong."""
    seen = erlang(frames)
    if len(seen) < 2 or seen[-2:] != CHAIN[-2:]:
        return "does not end in rounds/5, leaker/6"
    if seen[-5:] == CHAIN:
        strange = [f for f in seen[:-5] if f[2:] not in allowed]
        if strange and all(f.startswith("e:0x") for f in strange):
            return NAMELESS
        return "strange frames: %s" % strange if strange else None
    if set(seen) & set(CHAIN[:3]):
        return "part of the chain is missing"
    return None  # between two rounds


def one_load(tap, label, release, load):
    kind, count, size, rounds, allowed = load
    out, _ = traced(release, kind, count, size, rounds=rounds, pause=1, budget=1, profile="cpu",
                    frequency=997)
    mine = [s for s in out["stacks"] if s["label"] == "trace_leaker"]
    total = sum(s["weight"] for s in mine)
    inside = sum(s["weight"] for s in mine if CHAIN[0] in s["frames"])
    right = wrong = cut = 0
    bad = []
    for s in mine:
        if not s["complete"]:
            cut += s["weight"]
            continue
        why = judge(s["frames"], allowed)
        if why == NAMELESS:
            continue
        if why:
            # before and after the load the process does file work: not the load's
            if "e:trace_load:leaker/6" in s["frames"] and "e:trace_load:rounds/5" not in s["frames"]:
                total -= s["weight"]
                continue
            wrong += s["weight"]
            bad.append("%d x %s: %s" % (s["weight"], why, " < ".join(s["frames"])))
        else:
            right += s["weight"]
    tap.ok("%s %s: samples were taken in the load: %d" % (label, kind, inside), inside >= 100,
           [s["frames"] for s in out["stacks"][:3]])
    tap.ok("%s %s: %d of %d stacks are the known ones" % (label, kind, right, total),
           total and right >= 0.99 * total, "; ".join(bad[:3]))
    tap.ok("%s %s: nothing false" % (label, kind), wrong <= 0.01 * total, "; ".join(bad[:3]))
    if bad:
        Tap.note(bad[0])
    for s in mine:
        if not s["complete"]:
            Tap.note("%s %s: cut: %s" % (label, kind, " < ".join(s["frames"])))
    tap.equal("%s %s: nothing lost" % (label, kind),
              (out["stats"]["lost_records"], out["stats"]["lost_stacks"]), (0, 0))


def main():
    with Tap() as tap:
        for release in releases(tap):
            try:
                for load in LOADS:
                    one_load(tap, "OTP " + release, release, load)
            except Denied as e:
                tap.skip("OTP %s processor samples" % release, str(e))


if __name__ == "__main__":
    main()
