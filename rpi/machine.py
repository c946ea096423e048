"""Reads a machine: board, system, boot configuration, users, processes. Changes nothing, and judges nothing.

Every path is looked up under one root, so that a recorded tree can stand for a board.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from mbcore.server.devices import Hardware, find_hardware

#: Boards by what their header's UART is; "other" is no Raspberry Pi.
FAMILIES = ("zero", "zero-w", "zero-2-w", "1", "2", "3", "cm3", "4", "5", "other")
#: Those whose PL011 carries Bluetooth unless config.txt says otherwise.
BLUETOOTH = frozenset({"zero-w", "zero-2-w", "3", "4"})

_MODELS = (
    # Older firmware calls a Zero 2 W "Zero 2".
    (r"Zero 2\b", "zero-2-w"),
    (r"Zero W", "zero-w"),
    (r"Zero", "zero"),
    (r"Compute Module 3", "cm3"),
    (r"(Compute Module )?(2|3|4|5)(00|S)?\b", r"\2"),
    (r"(Compute )?Mod(el|ule)", "1"),
)
# Which of config.txt's sections hold for which boards.
_SECTIONS = {
    "all": FAMILIES,
    "pi0": ("zero", "zero-w", "zero-2-w"),
    "pi0w": ("zero-w", "zero-2-w"),
    "pi02": ("zero-2-w",),
    "pi1": ("1",),
    "pi2": ("2",),
    "pi3": ("3", "cm3", "zero-2-w"),
    "pi4": ("4",),
    "pi5": ("5",),
}
# Of these boards a model's name tells which one it is.
_NAMED_SECTIONS = {
    "pi3+": "3 Model . Plus",
    "cm1": "Compute Module Rev",
    "cm3": "Module 3",
    "cm3+": "Module 3 Plus",
    "cm4": "Module 4(?!S)",
    "cm4s": "Module 4S",
    "cm5": "Module 5",
    "pi400": "Pi 400",
    "pi500": "Pi 500",
}
# Lines of config.txt that add to each other; of the others the last one counts.
_ADDED = ("dtoverlay", "gpio")
# What these overlays do where nothing is said, as their README has it.
_DEFAULTS = {
    "sc16is752-i2c": {"int_pin": "24", "addr": "0x48"},
    "sc16is752-spi0": {"int_pin": "24"},
    "sc16is752-spi1": {"int_pin": "24"},
    "sc16is75x-spi": {"int_pin": "24"},
}
_ON = {"on", "true", "yes", "1", ""}
_OFF = {"off", "false", "no", "0"}


class Owner(NamedTuple):
    """Who may open a device."""

    mode: int
    uid: int
    gid: int


class Holder(NamedTuple):
    """A process that has a device open, or was started for it."""

    pid: int
    name: str
    unit: str = ""  # of systemd, where it is a service of the system: "mbcore@plant.service"


class Setting(NamedTuple):
    """A line of config.txt that holds for this board, or a part of it."""

    name: str  # "enable_uart", "dtparam", "dtoverlay"
    value: str  # "1", "uart0=on", "uart3"
    options: frozenset[str] = frozenset()  # of an overlay: "rs485", "int_pin=24"


def _owner_of(path: Path) -> Owner:
    status = path.stat()
    return Owner(status.st_mode, status.st_uid, status.st_gid)


@dataclass(frozen=True)
class Machine:
    """A board, or a recorded tree of one.

    :param root: the folder that stands for /
    :param uid: the user that asks
    :param gids: the groups that this user is in now
    :param owner: who may open the file at a path
    :raises OSError: what reads a file that is there and can't be read does not raise; it takes the file for absent
    """

    root: Path = Path("/")
    uid: int = field(default_factory=os.geteuid)
    gids: Collection[int] = field(default_factory=lambda: frozenset({os.getegid(), *os.getgroups()}))
    owner: Callable[[Path], Owner] = _owner_of

    # ---- files ----

    def path(self, name: str) -> Path:
        """Where an absolute path is under the root."""
        return self.root / name.lstrip("/")

    def read(self, name: str) -> str:
        """A small text file without the NUL or line feed at its end; empty where there is none."""
        try:
            return self.path(name).read_text(errors="replace").rstrip("\0\n")
        except OSError:
            return ""

    def lacks_line_feed(self, name: str) -> bool:
        """Whether a file's last line has no end, so that what is added would stand in it."""
        try:
            return self.path(name).read_bytes()[-1:] not in (b"", b"\n")
        except OSError:
            return False

    def exists(self, name: str) -> bool:
        """Whether something is there."""
        return self.path(name).exists()

    def glob(self, pattern: str) -> list[str]:
        """The absolute paths under the root that a pattern fits, in order."""
        found = sorted(self.root.glob(pattern.lstrip("/")))
        return ["/" + path.relative_to(self.root).as_posix() for path in found]

    def device(self, name: str) -> str:
        """What a name of a device leads to: /dev/serial0 -> /dev/ttyAMA0."""
        real = os.path.realpath(self.path(name))
        root = os.path.realpath(self.root)
        return "/" + os.path.relpath(real, root) if os.path.commonpath([real, root]) == root else real

    def hardware(self, device: str) -> Hardware:
        """What serves a serial port."""
        return find_hardware(os.fspath(self.path(device)), self.path("/sys/class/tty"))

    def node(self, device: str) -> str:
        """The folder of a serial port's hardware, which has its address on the chip: "fe201600.serial"; empty where there is none."""
        folder = self.hardware(device).folder
        return folder.name if folder else ""

    # ---- board and system ----

    @cached_property
    def model(self) -> str:
        """The board's name, as its firmware gives it; empty where there is none."""
        # What /proc/device-tree is a link to.
        return self.read("/sys/firmware/devicetree/base/model")

    @cached_property
    def family(self) -> str:
        """One of :data:`FAMILIES`."""
        if not self.model.startswith("Raspberry Pi "):
            return "other"
        for pattern, family in _MODELS:
            if found := re.match(f"Raspberry Pi {pattern}", self.model):
                return found.expand(family)
        return "other"

    @cached_property
    def system(self) -> str:
        """The name of the operating system."""
        found = re.search(r'^PRETTY_NAME="?([^"\n]*)', self.read("/etc/os-release"), re.MULTILINE)
        return found[1] if found else ""

    @cached_property
    def kernel(self) -> str:
        """The kernel's release."""
        return self.read("/proc/sys/kernel/osrelease")

    def kernel_at_least(self, version: str) -> bool:
        """Whether the kernel is of this version or a later one."""
        return _numbers(self.kernel) >= _numbers(version)

    def alias(self, name: str) -> str:
        """The node of the device tree that an alias means; empty where there is none."""
        return self.read(f"/sys/firmware/devicetree/base/aliases/{name}")

    # ---- what it was booted with ----

    @cached_property
    def boot_folder(self) -> str:
        """Where config.txt is: Debian 12 has it in another place than before. Empty where there is none."""
        for folder in ("/boot/firmware", "/boot"):
            if self.exists(f"{folder}/config.txt"):
                return folder
        return ""

    @property
    def config_file(self) -> str:
        """The name of config.txt, where it is or would be."""
        return f"{self.boot_folder or '/boot/firmware'}/config.txt"

    @property
    def command_line_file(self) -> str:
        """The name of cmdline.txt."""
        return f"{self.boot_folder or '/boot/firmware'}/cmdline.txt"

    @cached_property
    def config(self) -> tuple[Setting, ...]:
        """What config.txt, and what it includes, says to this board in the end."""
        found: dict[tuple[str, object], Setting] = {}
        overlay = None
        for number, has in enumerate(self._settings(self.config_file, 0) if self.boot_folder else ()):
            parameter = has.value.partition("=")[0] if has.name == "dtparam" else ""
            key = has.name, number if has.name in _ADDED else parameter
            found[key] = has
            if has.name == "dtoverlay":
                overlay = key if has.value else None
            elif has.name == "dtparam" and overlay:  # the overlay's, if it has such a parameter, else the board's
                found[overlay] = found[overlay]._replace(options=found[overlay].options | {has.value})
        return tuple(found.values())

    def configured(self, wanted: str) -> bool:
        """Whether config.txt has a line, or more on its subject; several lines parted by " or ": one of them."""
        return any(self._has(line) for line in wanted.split(" or "))

    def has_overlay(self, name: str) -> bool | None:
        """Whether the system brings an overlay; None where its overlays are not to be seen."""
        folder = f"{self.boot_folder}/overlays"
        return self.exists(f"{folder}/{name}.dtbo") if self.boot_folder and self.exists(folder) else None

    @cached_property
    def last_section(self) -> str:
        """Under which filter a line at the end of config.txt stands."""
        sections = re.findall(r"^\s*\[([^]]+)\]", self.read(self.config_file), re.MULTILINE)
        return sections[-1] if sections else "all"

    def _has(self, line: str) -> bool:
        return all(any(_means(has, want) for has in self.config) or self._is_default(want) for want in _parts(line))

    def _is_default(self, want: Setting) -> bool:
        """Whether the firmware does so unasked: it enables the UART on GPIO14/15 where that is not the mini UART."""
        if want != Setting("enable_uart", "1") or any(has.name == "enable_uart" for has in self.config):
            return False
        return self.family not in BLUETOOTH or self.configured("dtoverlay=disable-bt or dtoverlay=miniuart-bt")

    def _settings(self, file: str, depth: int) -> Iterator[Setting]:
        holds = True
        for raw in self.read(file).splitlines():
            line = raw.partition("#")[0].strip()
            if line.startswith("["):
                holds = self._section_holds(line.strip("[]").strip().lower())
            elif holds and line.startswith("include ") and depth < 3:
                yield from self._settings(f"{self.boot_folder}/{line.removeprefix('include ').strip()}", depth + 1)
            elif holds and "=" in line:
                yield from _parts(line)

    def _section_holds(self, section: str) -> bool:
        if section in _NAMED_SECTIONS:
            return bool(re.search(_NAMED_SECTIONS[section], self.model))
        # Of screens, serial numbers and pins nothing is known here.
        return self.family in _SECTIONS.get(section, ())

    def consoles(self) -> dict[str, str]:
        """The serial ports that the kernel's console is on now, or after the next start, and the words that say so."""
        found = {}
        for text in (self.read("/proc/cmdline"), self.read(self.command_line_file)):
            for word in re.findall(r"(?<!\S)console=(?:serial|tty[A-Z])\S*", text):
                port = "/dev/" + word.removeprefix("console=").partition(",")[0]
                found[self.device(port)] = word
        return found

    # ---- users and processes ----

    def group_name(self, gid: int) -> str:
        """A group's name, or its number."""
        for line in self.read("/etc/group").splitlines():
            name, _, number, *_ = [*line.split(":"), "", ""]
            if number == str(gid):
                return name
        return str(gid)

    def group_members(self, name: str) -> frozenset[str]:
        """Who is in a group from the next login on; empty where there is no such group."""
        found = re.search(rf"^{re.escape(name)}:[^:]*:[^:]*:(.*)$", self.read("/etc/group"), re.MULTILINE)
        return frozenset(filter(None, found[1].split(","))) if found else frozenset()

    def has_group(self, name: str) -> bool:
        """Whether the system knows a group."""
        return bool(re.search(rf"^{re.escape(name)}:", self.read("/etc/group"), re.MULTILINE))

    def user_name(self) -> str:
        """The asking user's name, or its number."""
        found = re.search(rf"^([^:\n]+):[^:]*:{self.uid}:", self.read("/etc/passwd"), re.MULTILINE)
        return found[1] if found else str(self.uid)

    def may_use(self, path: str) -> bool:
        """Whether the user may read and write a device; False also where it is not there."""
        if self.root == Path("/") and self.uid == os.geteuid():
            # The kernel knows of access lists, too, as those for who is logged in at the machine.
            return os.access(path, os.R_OK | os.W_OK)
        return self.is_let_in(path)

    def is_let_in(self, path: str) -> bool:
        """Whether a device's mode lets the user read and write it, as its owner, one of its group, or anyone."""
        try:
            owner = self.owner(self.path(path))
        except OSError:
            return False
        shift = 6 if owner.uid == self.uid else 3 if owner.gid in self.gids else 0
        return self.uid == 0 or (owner.mode >> shift) & 0o6 == 0o6

    def is_terminal(self, device: str) -> bool:
        """Whether a device goes by the name of a terminal, as serial ports and pseudo terminals do."""
        return device.startswith(("/dev/tty", "/dev/pts/")) or self.exists(f"/sys/class/tty/{os.path.basename(device)}")

    def holders(self, device: str) -> list[Holder]:
        """Other processes that have a device open, as far as this user may see, and all whose terminal it is, as that of a login shell."""
        real = self.device(device)
        number = self.read(f"/sys/class/tty/{os.path.basename(real)}/dev")
        found = []
        me = self.device("/proc/self")
        for folder in self.glob("/proc/[0-9]*"):
            if folder != me and (real in self._open_files(folder) or (number and self._terminal(folder) == number)):
                program = os.path.basename(self.read(f"{folder}/cmdline").partition("\0")[0])
                found.append(Holder(int(os.path.basename(folder)), program or self.read(f"{folder}/comm"), self._unit(folder)))
        return found

    @cached_property
    def sees_all_holders(self) -> bool:
        """Whether the user may see what every process has open; only root may."""
        folders = self.glob("/proc/[0-9]*")
        # Where other users' processes are hidden, the first one is.
        hidden = self.uid != 0 and self.root == Path("/") and "/proc/1" not in folders
        # In this order: a process may end in between.
        return not hidden and all(os.access(self.path(f"{folder}/fd"), os.R_OK) or not self.exists(f"{folder}/fd") for folder in folders)

    def _unit(self, process: str) -> str:
        """The service that a process belongs to, one of the system's, for a user has others; empty where it belongs to none."""
        for line in self.read(f"{process}/cgroup").splitlines():
            # "0::/system.slice/system-mbcore.slice/mbcore@plant.service"; of the hierarchies of version 1 systemd's has a name.
            _, _, rest = line.partition(":")
            controllers, _, path = rest.partition(":")
            folders = path.split("/")[1:]
            # Below a scope, and below what is no slice, are the services of a container.
            first = next((folder for folder in folders if not folder.endswith(".slice")), "")
            if controllers in ("", "name=systemd") and folders[0:1] != ["user.slice"] and first.endswith(".service"):
                # Before a name that could be a file's of the kernel systemd puts an underscore.
                return first.removeprefix("_")
        return ""

    def _terminal(self, process: str) -> str:
        """The number of a process' terminal, which anyone may see: "204:64"."""
        # Behind the program's name, which may hold anything: state, parent, group, session, terminal.
        fields = self.read(f"{process}/stat").rpartition(")")[2].split()
        device = int(fields[4]) if len(fields) > 4 else 0
        return f"{os.major(device)}:{os.minor(device)}"

    def _open_files(self, process: str) -> set[str]:
        found = set()
        try:
            for link in self.path(f"{process}/fd").iterdir():
                found.add(os.readlink(link))
        except OSError:  # it has ended, or is another user's
            pass
        return found


def _numbers(version: str) -> tuple[int, ...]:
    found = re.match(r"[\d.]*", version)
    return tuple(int(number) for number in found[0].strip(".").split(".") if number) if found else ()


def _parts(line: str) -> Iterator[Setting]:
    """A line of config.txt, taken apart so that two that mean the same are equal."""
    name, _, value = (word.strip() for word in line.partition("="))
    if name == "dtparam":
        for part in value.split(","):
            yield Setting(name, _plain(part))
    elif name == "dtoverlay":
        overlay, *options = value.split(",")
        # Before other boards had Bluetooth, its overlays were the Pi 3's.
        yield Setting(name, overlay.strip().removeprefix("pi3-"), frozenset(map(_plain, options)))
    else:
        yield Setting(name, value)


def _means(has: Setting, want: Setting) -> bool:
    """Whether a line of config.txt has all that another one wants."""
    said = {option.partition("=")[0] for option in has.options}
    unsaid = {f"{name}={value}" for name, value in _DEFAULTS.get(has.value, {}).items() if name not in said}
    return has.name == want.name and has.value == want.value and want.options <= has.options | unsaid


def _plain(parameter: str) -> str:
    """A parameter with its switch, if it is one, as "on" or "off"."""
    name, _, value = (word.strip() for word in parameter.partition("="))
    low = value.lower()
    return f"{name}={'on' if low in _ON else 'off' if low in _OFF else low}"
