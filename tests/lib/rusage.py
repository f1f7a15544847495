#!/usr/bin/env python3
"""rusage.py COMMAND...: run it and print "WALL CPU PEAK_BYTES CODE"; its own output goes nowhere.

A process of its own because the kernel counts the memory of whoever forks into the
peak of the child: a test that holds a large JSON would be measured, not beamray.
"""

import os
import subprocess
import sys
import time

start = time.monotonic()
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
process.returncode = os.waitstatus_to_exitcode(status)
print(time.monotonic() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024,
      process.returncode)
