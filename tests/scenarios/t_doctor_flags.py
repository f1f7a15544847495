#!/usr/bin/env python3
"""Every +M flag that the doctor's advice names: nodes of the releases it is said for start
with it, and one before them does not, or does not know it."""
# timeout: 300

import re
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
from lab import TOP, Tap, releases  # noqa: E402

LETTERS = "BDEFHLSR"


def advised():
    """[(first release, flag, value)] out of the table in advice.c."""
    text = (TOP / "src/ledger/advice.c").read_text()
    table = text[text.index("} table[] = {"):text.index("static const struct {\n\tconst char *all")]
    found = set()
    for entry in re.findall(r"\{ FINDING_.*?\},\n", table, re.S):
        release = int(re.search(r", (\d+),\s*\n?\s*\"", entry).group(1))
        words = "".join(re.findall(r'"((?:[^"\\]|\\.)*)"', entry))
        for flag, value in re.findall(r"(\+M[%A-Za-z]+)(?: (\d+|de|true|false|ao[a-z]+)\b)?", words):
            found.add((release, flag, value or None))
    return sorted(found, key=str)


def starts(release, *flags):
    return subprocess.run(["%s/tools/roots/node.sh" % TOP, release, *flags, "-noinput", "-eval",
                           "halt(0)."], capture_output=True, text=True, timeout=60,
                          stdin=subprocess.DEVNULL, check=False)


def main():
    with Tap() as tap:
        flags = [f for f in advised() if f[2] is not None]
        tap.ok("the table's flags are found", len(flags) >= 6, flags)
        for release in releases(tap):
            now = [f for f in flags if int(release) >= f[0]]
            words = []
            for _, flag, value in now:
                for letter in LETTERS if "%S" in flag else "-":
                    words += [flag.replace("%S", letter), value]
            done = starts(release, *words)
            tap.ok("OTP %s starts with all %d that it is told of" % (release, len(now)),
                   done.returncode == 0, (words, done.stderr[-300:]))
            for first, flag, value in flags:
                if int(release) < first:
                    done = starts(release, flag.replace("%S", "B"), value)
                    tap.ok("OTP %s does not know %s" % (release, flag), done.returncode != 0)


if __name__ == "__main__":
    main()
