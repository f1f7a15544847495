"""`beamray record` in the background."""

import os
import sqlite3
import subprocess
import time

from lab import PROGRAM


class Recorder:
    """`beamray record` in the background, into a file that is not there yet."""

    def __init__(self, pid, file, *args, prefix=(), program=None):
        for old in (str(file), str(file) + "-journal"):
            if os.path.exists(old):
                os.unlink(old)
        self.process = subprocess.Popen(
            [*prefix, program or PROGRAM, "record", "-p", str(pid), "-o", str(file),
             *[str(a) for a in args]],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def end(self, timeout=60):
        out, err = self.process.communicate(timeout=timeout)
        return self.process.returncode, out, err


def rows(file, sql):
    with sqlite3.connect("file:%s?mode=ro" % file, uri=True) as db:
        return db.execute(sql).fetchall()


def wait_looks(file, n, seconds=30):
    """Until that many looks are in the file."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if rows(file, "SELECT count(*) FROM look")[0][0] >= n:
                return True
        except sqlite3.Error:
            pass
        time.sleep(0.05)
    return False
