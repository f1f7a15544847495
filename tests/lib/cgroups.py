"""Memory cgroups of our own, of version 1 or 2, for nodes to live in.

    top of the hierarchy / beamray-test-PID      has the limit
                               node              the node; no limit, or one of its own
                               beside            another process
"""

import os
import time
from pathlib import Path


class Cgroups:
    """The three groups; raises OSError where they cannot be had."""

    def __init__(self):
        self.point, self.v2 = hierarchy()
        self.outer = self.point / ("beamray-test-%d" % os.getpid())
        self.node, self.beside = self.outer / "node", self.outer / "beside"

    def __enter__(self):
        try:
            self.outer.mkdir()
            if self.v2:
                (self.outer / "cgroup.subtree_control").write_text("+memory")
            self.node.mkdir()
            self.beside.mkdir()
        except OSError:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for group in (self.node, self.beside, self.outer):
            for _ in range(50):  # what ended a moment ago may still be counted
                try:
                    group.rmdir()
                    break
                except FileNotFoundError:
                    break
                except OSError:
                    time.sleep(0.1)

    def usage(self, group):
        name = "memory.current" if self.v2 else "memory.usage_in_bytes"
        return int((group / name).read_text())

    def limit(self, group, size=None):
        """Sets it, or says what it is."""
        file = group / ("memory.max" if self.v2 else "memory.limit_in_bytes")
        if size:
            file.write_text("%d" % size)
        return int(file.read_text())


def hierarchy():
    """Mount point of the one that counts memory, and whether it is version 2."""
    for line in Path("/proc/mounts").read_text().splitlines():
        _, point, kind, options = line.split()[:4]
        point = Path(point)
        if kind == "cgroup" and "memory" in options.split(","):
            return point, False
        if kind == "cgroup2" and "memory" in (point / "cgroup.controllers").read_text().split():
            (point / "cgroup.subtree_control").write_text("+memory")
            return point, True
    raise OSError("no cgroup file system that counts memory is mounted")
