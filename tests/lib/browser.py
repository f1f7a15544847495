"""A real browser without a screen, for the pages that beamray writes."""

import os
import shutil
import struct
import subprocess
import tempfile
import zlib
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome")
PROGRAM = next((found for name in NAMES if (found := shutil.which(name))), None)
WHY_NOT = "no chromium on this machine"


def run(url, *args, width=1300, height=900, script=True):
    """One page; the DOM as text after its scripts ran, and a picture as PNG bytes."""
    with tempfile.TemporaryDirectory() as tmp:
        picture = os.path.join(tmp, "picture.png")
        cmd = [PROGRAM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
               "--user-data-dir=" + os.path.join(tmp, "profile"), "--no-first-run",
               "--disable-background-networking", "--disable-component-update",
               "--window-size=%d,%d" % (width, height), "--screenshot=" + picture, "--dump-dom"]
        if not script:  # as a person turns it off: in the settings
            settings = Path(tmp) / "profile" / "Default" / "Preferences"
            settings.parent.mkdir(parents=True)
            settings.write_text('{"profile":{"default_content_setting_values":{"javascript":2}}}')
        try:
            done = subprocess.run([*cmd, *args, url], capture_output=True, check=False, timeout=90,
                                  stdin=subprocess.DEVNULL)
        except subprocess.TimeoutExpired:
            return "", b""
        png = Path(picture).read_bytes() if os.path.exists(picture) else b""
        return done.stdout.decode("utf-8", "replace"), png


def colours(png):
    """How many pixels of each colour a PNG of 8 bits has: {(r, g, b): count}."""
    if not png.startswith(b"\x89PNG\r\n\x1a\n"):
        return {}
    at, data, width, height, channels = 8, b"", 0, 0, 0
    while at < len(png):
        length, kind = struct.unpack(">I4s", png[at:at + 8])
        body = png[at + 8:at + 8 + length]
        if kind == b"IHDR":
            width, height, depth, form = struct.unpack(">IIBB", body[:10])
            assert depth == 8 and form in (2, 6), (depth, form)
            channels = 3 if form == 2 else 4
        elif kind == b"IDAT":
            data += body
        at += length + 12
    raw, line, found = zlib.decompress(data), bytearray(width * channels), {}
    for y in range(height):
        start = y * (width * channels + 1)
        line = unfilter(raw[start], bytearray(raw[start + 1:start + 1 + width * channels]), line,
                        channels)
        for x in range(0, len(line), channels * 4):  # every fourth pixel tells enough
            colour = bytes(line[x:x + 3])
            found[colour] = found.get(colour, 0) + 1
    return {tuple(colour): count for colour, count in found.items()}


def unfilter(kind, line, above, step):
    for i in range(len(line)):
        left = line[i - step] if i >= step else 0
        corner = above[i - step] if i >= step else 0
        if kind == 1:
            line[i] = (line[i] + left) & 255
        elif kind == 2:
            line[i] = (line[i] + above[i]) & 255
        elif kind == 3:
            line[i] = (line[i] + (left + above[i]) // 2) & 255
        elif kind == 4:
            p = left + above[i] - corner
            a, b, c = abs(p - left), abs(p - above[i]), abs(p - corner)
            best = left if a <= b and a <= c else above[i] if b <= c else corner
            line[i] = (line[i] + best) & 255
    return line
