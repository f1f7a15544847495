#!/usr/bin/env python3
"""The walk of glibc's heap against programs that know what they hold, under every
glibc of the matrix, and with tunables, other mallocs, and heaps it must not walk."""
# timeout: 420

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
from lab import LONG, TOP, WORK, Tap, otp, releases, run  # noqa: E402

LOOK = Path(os.environ.get("BEAMRAY_TEST_GLIBC") or TOP / "build/gcc/tests/unit/test_glibc")
SOURCE = TOP / "tests" / "libc"

# (environment, arguments, what is expected)
EXACT = [
    ((), ("1", "100"), "exact"),
    ((), ("4", "3000"), "exact"),
    (("MALLOC_ARENA_MAX=1",), ("4", "2000"), "exact"),
    (("MALLOC_MMAP_THRESHOLD_=20000",), ("4", "2000"), "exact"),
    (("GLIBC_TUNABLES=glibc.malloc.tcache_count=0",), ("3", "2000"), "exact"),
    (("GLIBC_TUNABLES=glibc.malloc.mxfast=160:glibc.malloc.tcache_count=1",), ("3", "2000"),
     "exact"),
    ((), ("2", "2000", "sbrk"), "another user of sbrk"),
    ((), ("2", "2000", "noncontiguous"), "not one piece"),
]
MORE = [
    ((), ("12", "8000"), "exact"),
    (("MALLOC_PERTURB_=77",), ("4", "2000"), "exact"),
    (("MALLOC_TOP_PAD_=1000001",), ("4", "2000"), "exact"),
    (("GLIBC_TUNABLES=glibc.malloc.tcache_max=4194304:glibc.malloc.tcache_count=100",),
     ("4", "2000"), "exact"),
    ((), ("4", "3000", "churn"), "churn"),
]


def libc_of(root):
    for folder in ("lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"):
        if (root / folder / "libc.so.6").exists():
            return root / folder
    raise RuntimeError("%s has no libc" % root)


def build(root, target):
    """Linked with the root's own libc: symbol versions of a newer one would not load."""
    cmd = ["gcc", "-std=gnu11", "-D_GNU_SOURCE", "-O1", "-Wall", "-Wextra", "-Werror", "-pthread",
           "-o", str(target), str(SOURCE / "truth.c")]
    if root:
        lib = libc_of(root)
        crt = [subprocess.run(["gcc", "-print-file-name=" + f], capture_output=True, text=True,
                              check=True).stdout.strip() for f in ("Scrt1.o", "crti.o", "crtn.o")]
        libs = [str(lib / f) for f in ("libc.so.6", "libpthread.so.0", "libdl.so.2")
                if (lib / f).exists()]
        cmd = [*cmd, "-nostdlib", crt[0], crt[1], "-Wl,--no-as-needed", *libs,
               "-Wl,-rpath-link," + str(lib), crt[2]]
    run(cmd, "compiling truth.c")


def look(name, cmd, env, expect):
    """Starts a program, looks at it when it stands still; the looker prints TAP."""
    with tempfile.NamedTemporaryFile("w+", dir=WORK) as out:
        child = subprocess.Popen(["env", *env, *cmd], stdin=subprocess.PIPE, stdout=out)
        try:
            deadline = time.monotonic() + 60
            while not Path(out.name).read_text().endswith("ready\n"):
                if child.poll() is not None or time.monotonic() > deadline:
                    print("not ok - %s # the program did not get ready" % name, flush=True)
                    return False
                time.sleep(0.05)
            done = subprocess.run([str(LOOK), str(child.pid), out.name, name, expect],
                                  timeout=120, check=False)
            return done.returncode == 0
        finally:
            child.stdin.close()
            child.kill()
            child.wait()


def preloads(tap, truth):
    """A malloc with a heap of its own is named and not walked; a wrapper is walked."""
    cc = ["gcc", "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror"]
    with tempfile.TemporaryDirectory(dir=WORK) as folder:
        own, thin = folder + "/libjemalloc.so.2", folder + "/libthin.so"
        run([*cc, "-DOWN_HEAP", "-o", own, str(SOURCE / "preload.c")], "compiling preload.c")
        run([*cc, "-o", thin, str(SOURCE / "preload.c")], "compiling preload.c")
        good = look("preloaded own malloc", [truth, "2", "500"], ["LD_PRELOAD=" + own],
                    "refused libjemalloc.so.2")
        good &= look("preloaded wrapper", [truth, "2", "500"], ["LD_PRELOAD=" + thin], "exact")
    return good


def main():
    with Tap() as tap:
        WORK.mkdir(parents=True, exist_ok=True)
        if not LOOK.exists():
            run(["make", "-C", str(TOP), str(LOOK.relative_to(TOP))], "building test_glibc")
        if os.geteuid() != 0:
            tap.skip("glibc of the matrix", "chroot needs root")
        for release in releases(tap):
            root = None if release == "host" else otp.roots_dir() / ("otp-" + release)
            if root and os.geteuid() != 0:
                continue
            target = (root / "tmp" if root else WORK) / ("beamray-truth-%d" % os.getpid())
            target.parent.mkdir(exist_ok=True)
            build(root, target)
            try:
                for env, args, expect in EXACT + (MORE if LONG else []):
                    inside = ["chroot", str(root), "/tmp/" + target.name] if root else [
                        str(target)]
                    name = "OTP %s's libc, %s" % (release, " ".join([*env, *args]))
                    tap.failed += not look(name, [*inside, *args], env, expect)
            finally:
                target.unlink()
        truth = WORK / ("beamray-truth-%d" % os.getpid())
        build(None, truth)
        try:
            tap.failed += not preloads(tap, str(truth))
        finally:
            truth.unlink()


main()
