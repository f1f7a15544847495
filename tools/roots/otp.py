#!/usr/bin/env python3
"""Roots of the OTP matrix: one Debian suite's Erlang, unpacked into a folder.

    tools/roots/otp.py list             releases, suites and where their roots are
    tools/roots/otp.py build [REL...]   make what is missing (all when none is named)
    tools/roots/otp.py path REL         make it if missing, print its folder

Debian is the one place that has distributed, stripped builds of several OTP
releases which anybody can fetch and verify. No maintainer script runs: the
packages are unpacked (dpkg-deb -x) and the few things that scripts would have
done are done here. A root takes some seconds and 30-60 MB, once.

The mirror is the one that this machine's apt uses (BEAMRAY_MIRROR overrides it,
and is needed where there is no apt). Trust: the suite's InRelease is verified by
gpgv with Debian's archive keyring, Packages by the sha256 in it, every .deb by
the sha256 in Packages. Valid-Until is not looked at: old suites stay signed but
expire, and a frozen mirror is fine here.

Roots are kept in ${BEAMRAY_ROOTS:-build/roots}/otp-REL. Exit codes: 0 made or
there already, 1 cannot be had (the reason on stderr, one line).
"""

import fcntl
import gzip
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SUITES = {"23": "bullseye", "25": "bookworm", "27": "trixie", "29": "forky"}

# Names that a suite does not have are skipped; of a group in a tuple one is needed.
PACKAGES = [
    "libc6", "libgcc-s1", "gcc-10-base", "libstdc++6", "libtinfo6", "zlib1g",
    "erlang-base", "erlang-crypto", "erlang-tools", "erlang-runtime-tools", "erlang-dev",
    ("libssl3t64", "libssl3", "libssl1.1"),
    "libzstd1", "libcrypt1", "dash", "libsctp1", "libsystemd0", "liblzma5", "liblz4-1",
    "libgcrypt20", "libgpg-error0", "libcap2",
]
NEEDED = {"libc6", "erlang-base", "dash", "libstdc++6", "libtinfo6", "zlib1g"}

# Raise when what a root holds changes: old ones are then made again.
RECIPE = "3"

KEYRINGS = ["/usr/share/keyrings/debian-archive-keyring.gpg",
            "/usr/share/keyrings/debian-archive-keyring.pgp"]

TOP = Path(__file__).resolve().parents[2]


class CannotBuild(Exception):
    pass


def roots_dir():
    return Path(os.environ.get("BEAMRAY_ROOTS") or TOP / "build" / "roots").absolute()


def apt_config(key):
    try:
        out = subprocess.run(["apt-config", "shell", "V", key], capture_output=True, text=True,
                             check=True).stdout
    except (OSError, subprocess.CalledProcessError):  # not a machine with apt
        return ""
    m = re.match(r"V='(.*)'", out)
    return m.group(1) if m else ""


def apt_repositories():
    """URIs in this machine's apt configuration, in order; classic and deb822 files."""
    root = "/" + apt_config("Dir").strip("/")
    etc = os.path.join(root, apt_config("Dir::Etc") or "etc/apt")
    files = [Path(etc) / (apt_config("Dir::Etc::sourcelist") or "sources.list")]
    parts = Path(etc) / (apt_config("Dir::Etc::sourceparts") or "sources.list.d")
    if parts.is_dir():
        files += sorted(parts.iterdir())
    for file in files:
        if not file.is_file():
            continue
        text = re.sub(r"^\s*#.*$\n?", "", file.read_text(errors="replace"), flags=re.M)
        if file.suffix == ".sources":
            for stanza in re.split(r"\n\s*\n", text):
                if re.search(r"^Enabled:\s*no", stanza, re.M | re.I):
                    continue
                m = re.search(r"^URIs:((?:.*\n?)(?:[ \t].*\n?)*)", stanza, re.M | re.I)
                if m:
                    yield from m.group(1).split()
        elif file.suffix == ".list":
            for line in text.splitlines():
                m = re.match(r"\s*deb\s+(?:\[[^]]*\]\s*)?(\S+)", line)
                if m:
                    yield m.group(1)


def mirrors():
    if os.environ.get("BEAMRAY_MIRROR"):
        return [os.environ["BEAMRAY_MIRROR"].rstrip("/")]
    found = []
    for uri in apt_repositories():
        uri = uri.rstrip("/")
        # mirror+https://... and file:/... name things that only apt can follow.
        if re.match(r"https?://", uri) and uri not in found:
            found.append(uri)
    # The main archive is usually called "debian"; look there first.
    found.sort(key=lambda u: not re.search(r"/debian$", u))
    return found


def opener():
    proxies = urllib.request.getproxies()
    for scheme in ("http", "https"):
        proxy = apt_config("Acquire::%s::Proxy" % scheme)
        if proxy and proxy != "DIRECT":
            proxies.setdefault(scheme, proxy)
    return urllib.request.build_opener(urllib.request.ProxyHandler(proxies))


OPENER = None


def fetch(url, tries=3):
    global OPENER
    OPENER = OPENER or opener()
    for left in range(tries - 1, -1, -1):
        try:
            with OPENER.open(url, timeout=60) as reply:
                return reply.read()
        except urllib.error.HTTPError as e:
            if e.code in (403, 404, 410) or not left:
                raise CannotBuild("%s: HTTP %d" % (os.path.basename(url), e.code)) from e
        except (OSError, urllib.error.URLError) as e:
            if not left:
                raise CannotBuild("%s: %s" % (os.path.basename(url), e)) from e
        time.sleep(1)
    return b""


def verified_release(inrelease):
    """The signed text of an InRelease file."""
    rings = [k for k in KEYRINGS if os.path.exists(k)]
    if not rings:
        raise CannotBuild("Debian's archive keyring is not installed (debian-archive-keyring)")
    with tempfile.TemporaryDirectory() as tmp:
        signed, text = os.path.join(tmp, "InRelease"), os.path.join(tmp, "Release")
        Path(signed).write_bytes(inrelease)
        cmd = ["gpgv", "--quiet", "--output", text]
        for ring in rings:
            cmd += ["--keyring", ring]
        try:
            run = subprocess.run(cmd + [signed], capture_output=True, text=True, check=False)
        except OSError as e:
            raise CannotBuild("gpgv cannot be run: %s" % e) from e
        # One good signature of a key that we have; newer keys may be unknown to this machine.
        if "Good signature" not in run.stderr or "BAD signature" in run.stderr:
            raise CannotBuild("InRelease: signature not verified")
        return Path(text).read_text()


def sha256(data, wanted, name):
    if hashlib.sha256(data).hexdigest() != wanted:
        raise CannotBuild("%s: sha256 differs" % name)
    return data


def unpack_xz(data):
    try:
        import lzma
        return lzma.decompress(data)
    except ImportError:
        return subprocess.run(["xz", "-dc"], input=data, stdout=subprocess.PIPE, check=True).stdout


def index_of(mirror, suite, arch):
    release = verified_release(fetch("%s/dists/%s/InRelease" % (mirror, suite)))
    for suffix, unpack in ((".xz", unpack_xz), (".gz", gzip.decompress)):
        name = "main/binary-%s/Packages%s" % (arch, suffix)
        m = re.search(r"^ ([0-9a-f]{64})\s+\d+\s+%s$" % re.escape(name), release, re.M)
        if m:
            data = fetch("%s/dists/%s/%s" % (mirror, suite, name))
            return unpack(sha256(data, m.group(1), name)).decode("utf-8", "replace")
    raise CannotBuild("%s has no Packages for %s" % (suite, arch))


def stanza_of(index, name):
    m = re.search(r"^Package: %s\n(?:.+\n)*" % re.escape(name), index, re.M)
    if not m:
        return None
    field = lambda key: re.search(r"^%s: (.*)$" % key, m.group(0), re.M).group(1)
    return {"name": name, "file": field("Filename"), "sha256": field("SHA256"),
            "version": field("Version")}


def choose(index):
    chosen = []
    for entry in PACKAGES:
        for name in (entry if isinstance(entry, tuple) else (entry,)):
            stanza = stanza_of(index, name)
            if stanza:
                chosen.append(stanza)
                break
        else:
            if entry in NEEDED or isinstance(entry, tuple):
                raise CannotBuild("the suite has no package %s" % (entry,))
    return chosen


def merge_usr(root):
    """/bin, /sbin, /lib and /lib64 become links into /usr, as on every newer Debian."""
    for name in ("bin", "sbin", "lib", "lib64"):
        here, there = root / name, root / "usr" / name
        there.mkdir(parents=True, exist_ok=True)
        if here.is_dir() and not here.is_symlink():
            subprocess.run(["cp", "-a", "%s/." % here, str(there)], check=True)
            shutil.rmtree(here)
        if not here.is_symlink():
            here.symlink_to("usr/" + name)


def check_release(root, release):
    """A suite that still moves may have gone to the next OTP."""
    found = [p.name for p in (root / "usr/lib/erlang/releases").glob("[0-9]*")]
    if release not in found:
        raise CannotBuild("the suite has OTP %s now" % (" ".join(found) or "unknown"))


def furnish(root):
    merge_usr(root)
    sh = root / "usr/bin/sh"
    if not sh.exists():
        sh.symlink_to("dash")
    for name in ("dev", "proc", "sys", "root", "tmp", "run", "etc", "var/tmp"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "tmp").chmod(0o1777)
    for name, minor in (("null", 3), ("zero", 5), ("random", 8), ("urandom", 9)):
        node = root / "dev" / name
        if not node.exists():
            os.mknod(node, 0o20666, os.makedev(1, minor))
            node.chmod(0o666)
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n")
    (root / "etc/nsswitch.conf").write_text("passwd: files\ngroup: files\nhosts: files\n")
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n"
                                     "nobody:x:65534:65534:nobody:/nonexistent:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\nnogroup:x:65534:\n")
    for name in ("doc", "man", "locale", "lintian", "bash-completion"):
        shutil.rmtree(root / "usr/share" / name, ignore_errors=True)
    if not list(root.glob("usr/lib/erlang/erts-*/bin/beam.smp")):
        raise CannotBuild("no beam.smp in it after unpacking")


def architecture():
    try:
        return subprocess.run(["dpkg", "--print-architecture"], capture_output=True, text=True,
                              check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as e:
        raise CannotBuild("dpkg is not there to unpack Debian packages") from e


def stamp_of(root):
    try:
        return (root / ".beamray-root").read_text()
    except OSError:
        return ""


def is_made(root):
    return stamp_of(root).startswith("recipe %s\n" % RECIPE)


def build_from(mirror, suite, arch, root, release):
    index = index_of(mirror, suite, arch)
    chosen = choose(index)
    root.mkdir(parents=True)
    with tempfile.TemporaryDirectory(dir=root.parent) as tmp:
        def get(package):
            data = fetch("%s/%s" % (mirror, package["file"]))
            sha256(data, package["sha256"], package["name"])
            (Path(tmp) / (package["name"] + ".deb")).write_bytes(data)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(get, chosen))
        for package in chosen:
            subprocess.run(["dpkg-deb", "-x", os.path.join(tmp, package["name"] + ".deb"),
                            str(root)], check=True)
    furnish(root)
    check_release(root, release)
    lines = ["recipe " + RECIPE, "suite " + suite]
    lines += ["%s %s" % (p["name"], p["version"]) for p in chosen]
    (root / ".beamray-root").write_text("\n".join(lines) + "\n")


def build(release):
    """Returns the root of a release, made now if it was not there."""
    suite = SUITES.get(release)
    if not suite:
        raise CannotBuild("no suite known that has it (there are %s)" % " ".join(SUITES))
    final = roots_dir() / ("otp-" + release)
    if is_made(final):
        return final
    if os.geteuid() != 0:
        raise CannotBuild("making a root needs root (chroot, mknod)")
    roots_dir().mkdir(parents=True, exist_ok=True)
    with open(roots_dir() / (".lock-" + release), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if is_made(final):
            return final
        arch, reasons = architecture(), []
        where = mirrors()
        if not where:
            raise CannotBuild("no http mirror in apt's configuration; set BEAMRAY_MIRROR")
        for mirror in where:
            work = roots_dir() / (".otp-%s.%d" % (release, os.getpid()))
            try:
                build_from(mirror, suite, arch, work, release)
            except (CannotBuild, OSError, subprocess.CalledProcessError) as e:
                reasons.append(str(e))
                shutil.rmtree(work, ignore_errors=True)
                continue
            if final.exists():
                shutil.rmtree(final)
            work.rename(final)
            return final
        raise CannotBuild("%s: %s" % (suite, reasons[0]))


def main(args):
    if not args or args[0] not in ("list", "build", "path"):
        print(__doc__, file=sys.stderr)
        return 2
    if args[0] == "list":
        for release, suite in SUITES.items():
            root = roots_dir() / ("otp-" + release)
            print(release, suite, root, "made" if is_made(root) else "missing")
        return 0
    status = 0
    for release in args[1:] or list(SUITES):
        start = time.monotonic()
        try:
            root = build(release)
        except CannotBuild as e:
            print("OTP %s: root cannot be made: %s" % (release, e), file=sys.stderr)
            status = 1
            continue
        if args[0] == "path":
            print(root)
        else:
            print("OTP %s: %s (%.1f s)" % (release, root, time.monotonic() - start))
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
