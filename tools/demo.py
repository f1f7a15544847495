#!/usr/bin/env python3
"""A node with a NIF that leaks and a fragmented binary allocator, and beamray on it.

Needs no privilege: the node is one's own. It is stopped at the end, by its pid.
"""

import shutil
import subprocess
import sys
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
        return code


if __name__ == "__main__":
    sys.exit(main())
