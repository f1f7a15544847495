"""Nodes with libraries that know what they hold and what they have lost (own_c, own_cpp,
own_z, own_drv), and a look at them, block by block."""

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

from lab import SCENARIOS, TOP, WORK, Node, nif_include, otp, run, scenario_dir

LIBRARIES = {"own_c": ("own_c.c",), "own_cpp": ("own_cpp.cpp",),
             "own_z": ("own_z.c", "-lz", "-ldl"), "own_drv": ("own_drv.c",)}
LOOK = Path(os.environ.get("BEAMRAY_TEST_NATIVE") or TOP / "build/gcc/tests/unit/test_native")


def compiled():
    """Folder with the libraries; one build is good for every release."""
    seen = hashlib.sha256((TOP / "tests/lib/nif.sh").read_bytes())
    for source in ["truth.h", *[s[0] for s in LIBRARIES.values()]]:
        seen.update((SCENARIOS / "nif" / source).read_bytes())
    final = WORK / "own" / seen.hexdigest()[:12]
    if not final.exists():
        work = final.with_name(".%d" % os.getpid())
        work.mkdir(parents=True)
        for name, (source, *flags) in LIBRARIES.items():
            run(["%s/tests/lib/nif.sh" % TOP, str(SCENARIOS / "nif" / source),
                 str(work / (name + ".so")), str(nif_include()), *flags], "compiling " + source)
        try:
            work.rename(final)
        except OSError:
            shutil.rmtree(work)
    return final


def folder(release):
    scenario, own = scenario_dir(release), compiled()
    final = own / (release + "-" + scenario.parent.name)
    if not final.exists():
        work = own / (".%s.%d" % (release, os.getpid()))
        shutil.copytree(scenario, work)
        for library in own.glob("*.so"):
            shutil.copy(library, work)
        try:
            work.rename(final)
        except OSError:
            shutil.rmtree(work)
    return final


class OwnNode(Node):
    def __init__(self, release, *args, **kwargs):
        super().__init__(release, *args, folder=folder(release), **kwargs)
        self.root = None if release == "host" else otp.roots_dir() / ("otp-" + release)
        self.loaded = []

    def load(self, *libraries):
        for library in libraries:
            self("call", library, "load", self.dir)
            self.loaded.append(library)

    def truth(self):
        """File with what all of them say."""
        inside = "/tmp/own-truth-%d" % self.pid
        outside = Path(str(self.root) + inside) if self.root else Path(inside)
        outside.parent.mkdir(exist_ok=True)
        outside.unlink(missing_ok=True)
        for library in self.loaded:
            self("call", library, "dump", inside)
        text = outside.read_text()
        outside.unlink()
        file = WORK / ("truth-%d" % self.pid)
        file.write_text(text)
        return file


def look(pid, truth="-", timeout=300):
    """What the library under `beamray list lost|native` says, and how right it was."""
    done = subprocess.run([str(LOOK), str(pid), str(truth)], capture_output=True, text=True,
                          timeout=timeout, check=False)
    if done.returncode:
        raise RuntimeError("test_native: " + done.stderr.strip())
    return json.loads(done.stdout)


def total(truth, key):
    return sum(of.get(key, 0) for of in truth.values())
