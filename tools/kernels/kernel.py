#!/usr/bin/env python3
"""Kernels of the matrix: Debian's cloud kernels, run under qemu.

    tools/kernels/kernel.py list               suites, kernels, where they are
    tools/kernels/kernel.py build [SUITE...]   fetch what is missing (all when none is named)
    tools/kernels/kernel.py run SUITE ROOT     boot, run /test/guest.sh in ROOT, wait

A guest is a kernel, an initramfs with busybox and the modules for a disk, and two disks:
an ext4 image made of the folder ROOT, and one that the guest writes a tar archive of
/tmp/out to, which `run` unpacks to --out. Nothing else goes in or out: there is no
network. Without KVM qemu translates (TCG), which is 10 to 50 times slower: assert what a
guest does, never how fast.

Packages come from where tools/roots/otp.py gets them, with its checks. Kernels are kept in
${BEAMRAY_KERNELS:-build/kernels}/SUITE. Exit codes: 0 done, 1 cannot be had or did not
run (the reason on stderr, one line).
"""

import argparse
import hashlib
import io
import lzma
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "tools" / "roots"))
import otp  # noqa: E402

# The kernel of each suite, as far as its first two numbers: a suite that still moves
# may have another.
SUITES = {"bullseye": "5.10", "bookworm": "6.1", "trixie": "6.12", "forky": "7"}
META = "linux-image-cloud-amd64"
# What a guest needs for its disks and their file system; some are built in.
MODULES = ["virtio_pci", "virtio_blk", "ext4"]
TRIES = 3  # 6.12 panics in early boot now and then under TCG, before its first program

INIT = r"""#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /mnt
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t devtmpfs dev /dev
for m in $(/bin/busybox cat /modules); do /bin/busybox insmod /$m; done
echo GUEST-UP
/bin/busybox mount -t ext4 /dev/vda /mnt || echo "no disk"
for d in proc sys dev; do /bin/busybox mount -o bind /$d /mnt/$d; done
/bin/busybox mount -t tracefs t /mnt/sys/kernel/tracing 2>/dev/null
/bin/busybox mount -t tmpfs t /mnt/tmp
/bin/busybox mkdir -p /mnt/tmp/out /mnt/bin
/bin/busybox cp /bin/busybox /mnt/tmp/busybox
/bin/busybox ifconfig lo 127.0.0.1 up
/bin/busybox chroot /mnt /tmp/busybox sh /test/guest.sh >/mnt/tmp/out/log 2>&1
echo "ENDED $?"
/bin/busybox tar -cf /dev/vdb -C /mnt/tmp/out .
/bin/busybox sync
/bin/busybox poweroff -f
"""


class CannotRun(Exception):
    pass


# What was made by another recipe is made again.
RECIPE = hashlib.sha256((INIT + " ".join(MODULES)).encode()).hexdigest()[:12]


def kernels_dir():
    return Path(os.environ.get("BEAMRAY_KERNELS") or TOP / "build" / "kernels").absolute()


# ---- a kernel --------------------------------------------------------------------

def cpio(entries):
    """An archive of the new ASCII format: (name, mode, content) each."""
    out = io.BytesIO()
    for number, (name, mode, data) in enumerate([*entries, ("TRAILER!!!", 0, b"")]):
        raw = name.encode() + b"\0"
        fields = [number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(raw), 0]
        out.write(b"070701" + b"".join(b"%08X" % f for f in fields) + raw)
        out.write(b"\0" * (-out.tell() % 4))
        out.write(data)
        out.write(b"\0" * (-out.tell() % 4))
    return out.getvalue()


def module_name(file):
    return re.sub(r"\.ko.*$", "", file.name).replace("-", "_")


def modules(tree):
    """MODULES and what they need, in the order of loading: (name, content) each. What is
    built into the kernel has no file."""
    files = {module_name(f): f for f in tree.rglob("*.ko*")}
    order = {}

    def add(name):
        if name in order or name not in files:
            return
        data = module_bytes(files[name])
        needs = re.search(rb"\0depends=([^\0]*)\0", data)
        for other in (needs.group(1).decode().split(",") if needs else []):
            add(other.replace("-", "_"))
        order[name] = data

    for name in MODULES:
        add(name)
    return order.items()


def module_bytes(file):
    data = file.read_bytes()
    if file.suffix == ".xz":
        return lzma.decompress(data)
    if file.suffix == ".zst":
        return subprocess.run(["zstd", "-dcq"], input=data, stdout=subprocess.PIPE,
                              check=True).stdout
    return data


def make_initramfs(tree, busybox):
    entries = [("bin", 0o40755, b""), ("bin/busybox", 0o100755, busybox.read_bytes()),
               ("init", 0o100755, INIT.encode())]
    names = []
    for name, data in modules(tree):
        entries.append((name + ".ko", 0o100644, data))
        names.append(name + ".ko")
    entries.append(("modules", 0o100644, "\n".join(names).encode()))
    return cpio(entries)


def unpack(mirror, index, name, where):
    stanza = otp.stanza_of(index, name)
    if not stanza:
        raise otp.CannotBuild("the suite has no package %s" % name)
    deb = where / (name + ".deb")
    deb.write_bytes(otp.sha256(otp.fetch("%s/%s" % (mirror, stanza["file"])), stanza["sha256"],
                               name))
    subprocess.run(["dpkg-deb", "-x", str(deb), str(where)], check=True)
    deb.unlink()


def image_packages(index):
    """What the metapackage stands for: one package, or several since Linux 7."""
    def parts(package):
        m = re.search(r"^Package: %s\n(?:.+\n)*" % re.escape(package), index, re.M)
        m = m and re.search(r"^Depends:(.*)", m.group(0), re.M)
        return re.findall(r"\b(linux-(?:image|binary|modules)-[0-9][^\s,]*)", m.group(1)) if m else []

    images = parts(META)
    if not images:
        raise otp.CannotBuild("the suite has no %s" % META)
    return images + [more for image in images for more in parts(image)]


def build_from(mirror, suite, work):
    index = otp.index_of(mirror, suite, "amd64")
    work.mkdir(parents=True)
    with tempfile.TemporaryDirectory(dir=work.parent) as tmp:
        tmp = Path(tmp)
        for name in image_packages(index):
            unpack(mirror, index, name, tmp)
        unpack(mirror, index, "busybox-static", tmp)
        for folder in ("usr/lib/modules", "lib/modules"):
            trees = list((tmp / folder).glob("*"))
            if trees:
                break
        busybox = next(p for p in (tmp / "bin/busybox", tmp / "usr/bin/busybox") if p.exists())
        (work / "initramfs").write_bytes(make_initramfs(trees[0], busybox))
        shutil.copy(next(tmp.rglob("vmlinuz*")), work / "vmlinuz")
        (work / "release").write_text(trees[0].name + "\n")
        (work / "recipe").write_text(RECIPE)


def is_made(suite):
    recipe = kernels_dir() / suite / "recipe"
    return recipe.exists() and recipe.read_text() == RECIPE


def build(suite):
    """The folder of a suite's kernel, made now if it was not there."""
    if suite not in SUITES:
        raise otp.CannotBuild("no kernel known there (there are %s)" % " ".join(SUITES))
    final = kernels_dir() / suite
    if is_made(suite):
        return final
    reasons = []
    for mirror in otp.mirrors():
        work = kernels_dir() / (".%s.%d" % (suite, os.getpid()))
        try:
            build_from(mirror, suite, work)
        except (otp.CannotBuild, OSError, subprocess.CalledProcessError, StopIteration) as e:
            reasons.append(str(e))
            shutil.rmtree(work, ignore_errors=True)
            continue
        shutil.rmtree(final, ignore_errors=True)
        work.rename(final)
        return final
    raise otp.CannotBuild("%s: %s" % (suite, reasons[0] if reasons else "no mirror known"))


# ---- a guest -----------------------------------------------------------------------

def boot(kernel, disk, back, timeout):
    """What the guest's console said."""
    cmd = ["qemu-system-x86_64", "-m", "1024", "-smp", "2", "-nographic", "-no-reboot",
           "-nic", "none", "-accel", "tcg,thread=multi", "-cpu", "max",
           "-kernel", str(kernel / "vmlinuz"), "-initrd", str(kernel / "initramfs"),
           "-append", "console=ttyS0 panic=-1 quiet loglevel=4 mitigations=off",
           "-drive", "file=%s,if=virtio,format=raw" % disk,
           "-drive", "file=%s,if=virtio,format=raw" % back]
    try:
        done = subprocess.run(cmd, capture_output=True, check=False, timeout=timeout,
                              stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired as e:
        return (e.stdout or b"").decode("utf-8", "replace") + "\nnot done within %d s" % timeout
    return (done.stdout + done.stderr).decode("utf-8", "replace")


def run(suite, root, out, timeout=300):
    """Boots `root` and unpacks what it wrote into `out`. Raises CannotRun."""
    if not shutil.which("qemu-system-x86_64") or not shutil.which("mke2fs"):
        raise CannotRun("qemu-system-x86_64 or mke2fs is not on this machine")
    kernel = build(suite)
    with tempfile.TemporaryDirectory(dir=kernels_dir()) as tmp:
        disk, back = os.path.join(tmp, "disk"), os.path.join(tmp, "back")
        subprocess.run(["mke2fs", "-q", "-t", "ext4", "-O", "^metadata_csum_seed,^orphan_file",
                        "-d", str(root), disk, "400m"], check=True, capture_output=True)
        for _ in range(TRIES):
            with open(back, "wb") as f:
                f.truncate(64 << 20)
            said = boot(kernel, disk, back, timeout)
            if "GUEST-UP" in said:
                break
        else:
            raise CannotRun("the kernel did not come up %d times: %s" % (TRIES, said[-300:]))
        try:
            with tarfile.open(back) as tar:
                tar.extractall(out, filter="data") if hasattr(tarfile, "data_filter") \
                    else tar.extractall(out)
        except tarfile.TarError as e:
            raise CannotRun("the guest did not end well: %s" % said[-600:]) from e
    return (kernel / "release").read_text().strip()


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("action", choices=["list", "build", "run"])
    parser.add_argument("args", nargs="*")
    parser.add_argument("--out", default="out")
    o = parser.parse_args()
    if o.action == "list":
        for suite in SUITES:
            folder = kernels_dir() / suite
            made = is_made(suite)
            print(suite, (folder / "release").read_text().strip() if made else SUITES[suite],
                  folder, "made" if made else "missing")
        return 0
    try:
        if o.action == "build":
            for suite in o.args or SUITES:
                print(suite, build(suite))
        elif len(o.args) == 2:
            print(run(o.args[0], o.args[1], o.out))
        else:
            parser.error("run SUITE ROOT")
    except (otp.CannotBuild, CannotRun) as e:
        print("kernel.py: %s" % e, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
