"""Debian systems of other architectures, in user emulation: their programs run on this machine's kernel, and nothing is started in them.

No chroot and no binfmt: a program finds the libraries and files of its root by qemu's path prefix. Where a Python starts itself again, this
machine's kernel gets to run a shell script in its place that calls qemu.
"""

import argparse
import hashlib
import json
import os
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from .tools import BUILD, TREE, WHEELS, FailedError, need_root, run, say

MIRROR = os.environ.get("DEBIAN_MIRROR", "http://deb.debian.org/debian")

WHEEL_OF = {
    "arm64": (WHEELS, "mbcore-*_aarch64.whl"),
    "armhf": (WHEELS, "mbcore-*_armv7l.whl"),
    "armel": (BUILD / "armel", "mbcore-*_armv6l.whl"),
}


def known(name: str) -> str:
    """A system's name, as argparse's type.

    :raises argparse.ArgumentTypeError: there is none of that name
    """
    if name not in SYSTEMS:
        raise argparse.ArgumentTypeError(f"there is no system {name}: choose of {', '.join(SYSTEMS)}")
    return name


@dataclass(frozen=True)
class System:
    """A release of Debian on an architecture; Raspberry Pi OS' userland is the same but for ARMv6."""

    release: str
    architecture: str
    python: str
    qemu: str
    #: the default emulates what no Pi has: pointer authentication makes arm64 ten times slower
    cpu: str

    @property
    def name(self) -> str:
        return f"{self.release}-{self.architecture}"

    def root(self, kind: str, packages: list[str]) -> Path:
        """The folder with these Debian packages and what they need, made where it is not there."""
        folder = BUILD / "roots" / f"{self.name}-{kind}"
        need_root("a Debian system of another architecture")
        # The command: where the root is and by which qemu it runs is written into it.
        made_by = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
        recipe = json.dumps([packages, MIRROR, self.command(folder, ""), made_by])
        stamp = folder / "recipe.json"
        if stamp.exists() and stamp.read_text() == recipe:
            return folder
        if folder.exists():
            shutil.rmtree(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        say(f"{self.name}: {' '.join(packages)} into {folder.name}")
        options = ["--variant=extract", f"--architectures={self.architecture}", f"--include={','.join(packages)}"]
        # The mirror as an address: for a line of sources.list mmdebstrap looks for no keys, and only Debian has its own in their place.
        run(need("mmdebstrap"), "--quiet", *options, self.release, folder, MIRROR)
        # With a /dev of its own there is no pseudo-terminal; the links belong to a package that is not unpacked first.
        shutil.rmtree(folder / "dev", ignore_errors=True)
        for name in ("bin", "lib", "sbin"):
            if not (folder / name).exists():
                (folder / name).symlink_to(f"usr/{name}")
        self._wrap_python(folder)
        # Of the pip that ensurepip installs: qemu's prefix is not in front of every path, of listxattr's for one.
        for settings in (folder / "usr" / "lib" / f"python{self.python}").glob("_sysconfigdata__*.py"):
            settings.write_text(settings.read_text().replace("'/usr/share/python-wheels/'", f"'{folder}/usr/share/python-wheels/'"))
        stamp.write_text(recipe)
        return folder

    def command(self, root: Path, program: str) -> list[str]:
        """What starts a program of the root."""
        return [need(self.qemu), "-cpu", self.cpu, "-L", str(root), f"{root}{program}"]

    def environment(self, root: Path, folder: Path) -> Path:
        """The Python of a new virtual environment in `folder` that sees the root's own packages too."""
        shutil.rmtree(folder, ignore_errors=True)
        run(root / "usr" / "bin" / f"python{self.python}", "-m", "venv", "--without-pip", "--system-site-packages", folder)
        return folder / "bin" / "python"

    def _wrap_python(self, root: Path) -> None:
        """Put a script that calls qemu in the place of the root's Python, so that this machine's kernel can start it under every name."""
        python = root / "usr" / "bin" / f"python{self.python}"
        python.rename(f"{python}.real")
        qemu, *options = self.command(root, f"/usr/bin/{python.name}.real")
        # By argv[0] it tells whether it is that of a virtual environment.
        python.write_text(f'#!/bin/sh\nexec {qemu} -0 "$0" {shlex.join(options)} "$@"\n')
        python.chmod(0o755)
        said = run(python, "-c", "import sys; print(sys.executable, *sys.version_info[:2], sep=' ')")
        if said.split() != [str(python), *self.python.split(".")]:
            raise FailedError(f"{self.name}: its Python does not start as {python}: {said}")


def the_wheel(system: System) -> Path:
    folder, pattern = WHEEL_OF[system.architecture]
    found = list(folder.glob(pattern))
    if len(found) != 1:
        raise FailedError(f"there is not one wheel for {system.architecture} in {folder.relative_to(TREE)}: run rpi/build-wheels")
    return found[0]


def own_terminals() -> list[str]:
    """What starts a command that shares no pseudo-terminal with any other; empty where this machine's kernel does not let us."""
    mount = "mount -t devpts devpts /dev/pts -o newinstance,ptmxmode=0666,mode=620 && mount --bind /dev/pts/ptmx /dev/ptmx"
    prefix = ["unshare", "--mount", "sh", "-c", f'{mount} && exec "$@"', "sh"]
    return prefix if shutil.which("unshare") and subprocess.run([*prefix, "true"], capture_output=True).returncode == 0 else []


def need(program: str) -> str:
    found = shutil.which(program)
    if not found:
        raise FailedError(f"there is no {program}: sudo apt install {'qemu-user-static' if program.startswith('qemu-') else program}")
    return found


SYSTEMS = {
    system.name: system
    for system in (
        System("bookworm", "armhf", "3.11", "qemu-arm-static", "cortex-a7"),
        System("trixie", "arm64", "3.13", "qemu-aarch64-static", "cortex-a72"),
        System("bookworm", "arm64", "3.11", "qemu-aarch64-static", "cortex-a72"),
        System("trixie", "armhf", "3.13", "qemu-arm-static", "cortex-a7"),
        # The processor of Pi 1 and Zero; Debian's armhf does not start on it.
        System("bookworm", "armel", "3.11", "qemu-arm-static", "arm1176"),
    )
}
