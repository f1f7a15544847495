#!/usr/bin/env python3
"""What beamray draws, in the hands of those who read it: a browser, speedscope, pprof.

The recording is of a node that leaks by malloc from a process with an ordinary name and
keeps binaries in processes whose names try to break out of every format.
"""
# timeout: 300

import base64
import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
import browser  # noqa: E402
from lab import WORK, Node, Tap, beamray, releases  # noqa: E402
from recorder import Recorder, wait_looks  # noqa: E402

# Readers of the public: names and versions of npm packages.
NPM = {"speedscope": "1.25.0", "pprof-format": "2.3.2"}
KIND_COLOURS = {"Erlang": (255, 194, 122), "ERTS": (169, 209, 247), "NIF": (255, 156, 143),
                "libc": (195, 230, 176), "JIT glue": (255, 233, 163)}
HOSTILE = ["<script>alert(1)</script>", "a;b 12", "]]>&amp;\"'", "esc\x1b[31m\u202elive"]


def npm():
    """The folder with the packages, or (None, why not)."""
    if not shutil.which("npm") or not shutil.which("node"):
        return None, "no node and npm on this machine"
    folder = WORK / "npm"
    have = all((folder / "node_modules" / name / "package.json").exists() for name in NPM)
    if not have:
        folder.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts",
                               "--prefix", str(folder),
                               *["%s@%s" % item for item in NPM.items()]], check=False,
                              capture_output=True, text=True, timeout=120,
                              stdin=subprocess.DEVNULL)
        if done.returncode:
            return None, "npm cannot install %s: %s" % (
                ", ".join(NPM), (done.stderr.strip().splitlines() or ["?"])[0][:100])
    return folder / "node_modules", ""


def make(release, file):
    with Node(release) as node:
        node.nif()
        node("nif", "leak_malloc", 10000, 1000)
        node.settle()
        recorder = Recorder(node.pid, file, "-d", 4, "-i", 1)
        wait_looks(file, 1)
        for name in HOSTILE:
            node("hostile", base64.b64encode(name.encode()).decode(), 400)
        time.sleep(1)
        node("nif", "leak_malloc", 4000, 1000)
        code, _, err = recorder.end()
    if code:
        raise RuntimeError("record: %d %s" % (code, err))


# ---- the browser -----------------------------------------------------------------------

# What a person does: looks, searches, clicks on a box, resets. The answers go into an
# attribute of the root, which the browser prints with the page.
DRIVE = r"""
(function () {
  var root = document.documentElement, said = [], errors = [];
  window.onerror = function (m) { errors.push(String(m)); };
  var svg = document.querySelector('svg.fg');
  var boxes = [].slice.call(svg.querySelectorAll('g.f'));
  var shown = function () {
    return boxes.filter(function (g) { return g.style.display !== 'none'; }).length;
  };
  var click = function (e) { e.dispatchEvent(new MouseEvent('click', { bubbles: true })); };
  window.prompt = function () { return 'LEAK_malloc'; };
  said.push(boxes.length, shown());
  click(svg.querySelector('.search'));
  said.push(svg.querySelectorAll('g.m').length, svg.querySelector('.found').textContent);
  var leak = boxes.filter(function (g) {
    return g.querySelector('title').textContent.indexOf('leak_malloc [leak_nif.so]') === 0;
  })[0];
  click(leak);
  said.push(shown(), +leak.querySelector('rect').getAttribute('width'));
  click(svg.querySelector('.reset'));
  said.push(shown());
  said.push(document.querySelectorAll('script').length, errors);
  root.setAttribute('data-said', JSON.stringify(said));
})();
"""


def drive(tap, name, text, close):
    with tempfile.TemporaryDirectory() as tmp:
        page = Path(tmp) / ("page." + name)
        script = "<script><![CDATA[%s]]></script>" if name == "svg" else "<script>%s</script>"
        at = text.rindex(close)
        page.write_text(text[:at] + script % DRIVE + text[at:])
        dom, _ = browser.run("file://%s" % page)
    said = re.search(r'data-said="([^"]*)"', dom)
    if not tap.ok(name + ": its script runs in a browser", said, dom[:300]):
        return
    boxes, shown, hits, found, zoomed, width, again, scripts, errors = json.loads(
        said.group(1).replace("&quot;", '"'))
    tap.ok(name + ": all boxes are shown", boxes == shown and boxes > 20, (boxes, shown))
    tap.ok(name + ": search finds", hits >= 1 and re.match(r"%d boxes match, [\d.]+%%" % hits,
                                                           found), (hits, found))
    tap.ok(name + ": a click makes a box fill the width", width == 1180 and zoomed < boxes,
           (zoomed, width))
    tap.equal(name + ": reset shows all", again, boxes)
    # one script a flame graph, and this one
    tap.ok(name + ": nothing else runs", scripts == text.count("<script>") + 1 and not errors,
           (scripts, errors))


def pictures(tap, svg, html):
    if not browser.PROGRAM:
        tap.skip("SVG and HTML in a browser", browser.WHY_NOT)
        return
    with tempfile.TemporaryDirectory() as tmp:
        for name, text in (("svg", svg), ("html", html)):
            page = Path(tmp) / ("page." + name)
            page.write_text(text)
            seen = {}
            for script in (True, False):
                dom, png = browser.run("file://%s" % page, script=script,
                                       height=900 if name == "svg" else 2600)
                seen[script] = browser.colours(png)
                missing = [k for k, c in KIND_COLOURS.items() if seen[script].get(c, 0) < 20]
                tap.ok("%s: boxes of all kinds are drawn%s" %
                       (name, "" if script else " without JavaScript"), png and not missing, missing)
                tap.ok("%s: and have names%s" % (name, "" if script else " without JavaScript"),
                       ">leak_malloc [leak_nif.so]</text>" in dom, dom[:200])
                # the script shows what needs it
                hidden = re.search(r'class="a search"[^>]*display: ?none', dom) is not None
                tap.equal("%s: JavaScript is %s" % (name, "on" if script else "off"), hidden,
                          not script)
            same = sum(min(n, seen[False].get(c, 0)) for c, n in seen[True].items())
            total = sum(seen[True].values())
            tap.ok(name + ": the picture is the same without JavaScript (%.1f%%)" %
                   (100 * same / max(total, 1)), same > 0.98 * total)
    drive(tap, "svg", svg, "</svg>")
    drive(tap, "html", html, "</body>")


# ---- other readers --------------------------------------------------------------------------

def speedscope(tap, modules, name, data):
    """speedscope's own page loads the file and shows its name; it shows an alert instead
    when it cannot read it."""
    with tempfile.TemporaryDirectory() as tmp:
        loader = Path(tmp) / "load.js"
        loader.write_text('speedscope.loadFileFromBase64("%s", "%s")' %
                          (name, base64.b64encode(data).decode()))
        dom, png = browser.run(
            "file://%s#localProfilePath=%s" % (modules / "speedscope/dist/release/index.html",
                                               loader),
            "--allow-file-access-from-files", "--use-gl=swiftshader",
            "--enable-unsafe-swiftshader", "--virtual-time-budget=8000", height=800)
    title = re.search(r"<title>([^<]*) - speedscope</title>", dom)
    colours = len([c for c, n in browser.colours(png).items() if n > 200])
    tap.ok("speedscope shows " + name, title and colours > 5, (title and title.group(1), colours))


READ_PPROF = r"""
const { Profile } = require('pprof-format');
const p = Profile.decode(require('zlib').gunzipSync(require('fs').readFileSync(process.argv[1])));
const str = (i) => p.stringTable.strings[Number(i)];
const fns = new Map(p.function.map((f) => [Number(f.id), str(f.name)]));
const locs = new Map(p.location.map((l) => [Number(l.id), l.line.map((x) => fns.get(Number(x.functionId)))]));
let total = 0, leak = 0;
for (const s of p.sample) {
  total += Number(s.value[0]);
  const names = s.locationId.flatMap((id) => locs.get(Number(id)));
  if (names.some((n) => n.startsWith('leak_malloc'))) leak += Number(s.value[0]);
}
console.log(JSON.stringify({ types: p.sampleType.map((t) => [str(t.type), str(t.unit)]),
  samples: p.sample.length, total, leak, duration: Number(p.durationNanos),
  labels: [...new Set(p.sample.flatMap((s) => s.label.map((l) => str(l.str))))] }));
"""


def pprof(tap, modules, file, doc):
    out = file + ".pb.gz"
    beamray("report", file, "-f", "pprof", "-o", out)
    done = subprocess.run(["node", "-e", READ_PPROF, out], capture_output=True, text=True,
                          check=False, env={**os.environ, "NODE_PATH": str(modules)}, timeout=60)
    if not tap.ok("pprof-format reads the profile", done.returncode == 0, done.stderr[-300:]):
        return
    seen = json.loads(done.stdout)
    profile = doc["profile"]
    leak = sum(s["weight"] for s in profile["stacks"]
               if any(f.startswith("leak_malloc") for f in s["frames"]))
    tap.equal("pprof: total and leak", (seen["total"], seen["leak"]), (profile["total"], leak))
    tap.equal("pprof: samples", seen["samples"], len(profile["stacks"]))
    tap.ok("pprof: first type is bytes", seen["types"][0][1] == "bytes", seen["types"])
    tap.ok("pprof: processes are labels", {s["process"] for s in profile["stacks"]} - {None} <=
           set(seen["labels"]), seen["labels"])
    if not shutil.which("go"):
        tap.skip("go tool pprof", "no go on this machine")
        return
    done = subprocess.run(["go", "tool", "pprof", "-top", "-sample_index=0", "-unit=B", out],
                          capture_output=True, text=True, check=False, timeout=120)
    tap.ok("go tool pprof reads it", done.returncode == 0 and "leak_malloc" in done.stdout and
           "%dB total" % profile["total"] in done.stdout, (done.stdout[:300], done.stderr[:300]))


def flamegraph_pl(tap, folded, both):
    """Brendan Gregg's own program: on the path, or as Debian's NYTProf brings it."""
    program = shutil.which("flamegraph.pl") or "/usr/share/perl5/Devel/NYTProf/flamegraph.pl"
    if not os.path.exists(program):
        tap.skip("flamegraph.pl", "neither on the path nor in libdevel-nytprof-perl")
        return
    for name, text in (("folded", folded), ("folded --diff", both)):
        done = subprocess.run([program], input=text, capture_output=True, text=True, check=False)
        tap.ok("flamegraph.pl draws " + name, done.returncode == 0 and not done.stderr and
               "leak_malloc" in done.stdout, done.stderr[-300:])
        if done.returncode:
            continue
        root = ElementTree.fromstring(done.stdout)
        boxes = [e.text for e in root.iter() if e.tag.endswith("title") and e.text]
        whole = re.search(r"^all \(([\d,]+) samples", "\n".join(boxes), re.M)
        # It takes the last column, and leaves out lines of nothing or less.
        weights = [int(line.rsplit(" ", 1)[1]) for line in text.splitlines()]
        tap.equal("flamegraph.pl counts what is in " + name,
                  int(whole.group(1).replace(",", "")) if whole else boxes[:3],
                  sum(w for w in weights if w > 0))


# ---- what the formats say ---------------------------------------------------------------------

def unescaped(text):
    return [c for c in text if (ord(c) < 0x20 and c not in "\n\t\r") or c in "\x7f\u202e"]


def hostile(tap, texts, doc):
    names = {s["process"] for s in doc["profile"]["stacks"]}
    tap.ok("the hostile names are there", sum("script" in (n or "") for n in names) and
           any("a;b 12" in (n or "") for n in names) and any("\\x1B" in (n or "") for n in names),
           names)
    for name, text in texts.items():
        tap.ok(name + ": no control characters", not unescaped(text), unescaped(text)[:5])
    for name in ("svg", "html"):
        tap.ok(name + ": no foreign tag", "<script>alert" not in texts[name] and
               "&lt;script&gt;alert" in texts[name])
    ElementTree.fromstring(texts["svg"])
    lines = texts["folded"].splitlines()
    tap.ok("folded: frames and weights", all(re.fullmatch(r"[^;].* -?\d+", line) for line in lines))
    tap.ok("folded: a name with ; stays one", any(line.startswith("a\\x3Bb 12;") for line in lines),
           [line[:40] for line in lines])


def differences(tap, file, looks):
    first, last = "%s@1" % file, "%s@%d" % (file, looks)
    svg = beamray("diff", first, last, "-f", "svg")
    tap.ok("diff -f svg", svg.code == 1 and "came" in svg.out and
           ElementTree.fromstring(svg.out).tag.endswith("svg"), (svg.code, svg.err))
    lines = beamray("diff", first, last, "-f", "folded").out.splitlines()
    sums = [sum(int(line.rsplit(" ", 2)[i]) for line in lines) for i in (1, 2)]
    whole = beamray("diff", first, last, "--json").json()
    tap.equal("diff -f folded and --json: the same sums", [sums[1] - sums[0]],
              [sum(s["change"] for s in whole["stacks"])])
    tap.equal("diff: libraries and processes add up to the stacks",
              [sum(s["change"] for s in whole[k]) for k in ("libraries", "processes")],
              [sum(s["change"] for s in whole["stacks"])] * 2)
    tap.ok("diff: allocators and carriers", any(r["allocator"] == "binary_alloc" and r["change"] > 0
                                                for r in whole["allocators"]) and whole["carriers"],
           whole["allocators"])
    same = beamray("report", file, "--diff", first, "-f", "svg")
    tap.equal("report --diff draws the same, and finds nothing", (same.code, same.out),
              (0, svg.out))
    only = beamray("diff", first, last, "--json", "--library", "leak_nif.so").json()
    tap.ok("diff --library", only["stacks"] and
           all(any("leak_nif.so" in f for f in s["frames"]) for s in only["stacks"]))
    return "\n".join(lines) + "\n"


def main():
    with Tap() as tap, tempfile.TemporaryDirectory() as tmp:
        release = next((r for r in releases(tap) if r in ("25", "27", "29")), None)
        if not release:
            tap.skip("what is drawn", "no root of OTP 25, 27 or 29")
            return
        file = os.path.join(tmp, "r.beamray")
        make(release, file)
        doc = beamray("report", file, "-f", "json").json()
        if doc["profile"] is None:
            tap.skip("what is drawn", "; ".join(doc["notes"]))
            return
        texts = {f: beamray("report", file, "-f", f).out
                 for f in ("text", "html", "svg", "folded", "json", "speedscope")}
        hostile(tap, texts, doc)
        both = differences(tap, file, len(doc["looks"]))
        pictures(tap, texts["svg"], texts["html"])
        flamegraph_pl(tap, texts["folded"], both)
        modules, why = npm()
        if not modules:
            tap.skip("speedscope and pprof", why)
            return
        pprof(tap, modules, file, doc)
        if not browser.PROGRAM:
            tap.skip("speedscope", browser.WHY_NOT)
            return
        speedscope(tap, modules, "own.speedscope.json", texts["speedscope"].encode())
        speedscope(tap, modules, "folded.txt", texts["folded"].encode())
        speedscope(tap, modules, "pprof.pb.gz",
                   gzip.compress(gzip.decompress(Path(file + ".pb.gz").read_bytes())))


main()
