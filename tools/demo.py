#!/usr/bin/env python3
"""A node with a NIF that leaks and a fragmented binary allocator: the ledger of it,
and what the doctor says while the NIF goes on leaking.

Needs no privilege: the node is one's own. It is stopped at the end, by its pid.
"""

import shutil
import subprocess
import sys
import time
from pathlib import Path

TOP = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TOP / "tests" / "lib"))
from lab import PROGRAM, Node  # noqa: E402

STEPS = [
    ("a NIF mallocs 40,000 buffers of 1,000 bytes and forgets them", "nif leak_malloc 40000 1000"),
    ("100 MB of binaries of 1-8 KB, of which one in sixteen is kept", "fragment binary 100"),
    ("an ETS table of 50,000 rows", "table 50000"),
    ("1,000 idle processes", "spawn 1000"),
]


def main():
    if not shutil.which("erl"):
        print("There is no erl on this machine; `make deps` installs it.", file=sys.stderr)
        return 1
    with Node("host") as node:
        info = node("info")
        print("An Erlang/OTP %s node runs as pid %d. In it:" % (info["otp_release"], node.pid))
        node.nif()
        for text, command in STEPS:
            node(*command.split())
            print("  - " + text)
        node("gc")
        print("\n$ beamray memory -p %d\n" % node.pid, flush=True)
        code = subprocess.run([PROGRAM, "memory", "-p", str(node.pid)], check=False).returncode
        lost = node("nif", "truth")["malloc_lost"]
        print("\nWhat the NIF itself says: %d buffers, %d bytes lost."
              % (lost["count"], lost["usable"]))
        return code or watch(node, lost["usable"])


def watch(node, lost):
    """The doctor, while the NIF leaks some more."""
    command = [PROGRAM, "doctor", "-p", str(node.pid), "-d", "8s"]
    print("\nNow it leaks on, 2,000 buffers at a time:\n\n$ beamray doctor -p %d -d 8s\n"
          % node.pid, flush=True)
    doctor = subprocess.Popen(command)
    time.sleep(2)
    for _ in range(10):
        node("nif", "leak_malloc", "2000", "1000")
        time.sleep(0.4)
    code = doctor.wait()
    print("\nWhat the NIF itself says: %d bytes lost meanwhile."
          % (node("nif", "truth")["malloc_lost"]["usable"] - lost))
    return 0 if code in (0, 1) else code


if __name__ == "__main__":
    sys.exit(main())
