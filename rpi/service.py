"""mbcore as a systemd service: a template unit, a file of words per instance, a udev rule for its adapter. Shows first what it would do.

``mbcore@NAME`` serves what stands in /etc/mbcore/NAME.env, as nobody in particular: no root, no shell, no home.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mbcore.errors import ConfigurationError

from .machine import Machine
from .ports import Port, describe, list_ports

UNIT = "/etc/systemd/system/mbcore@.service"
WANTED = "/etc/systemd/system/multi-user.target.wants"
FOLDER = "/etc/mbcore"
RULES = "/etc/udev/rules.d"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,40}")
# What systemd would take apart, or put something else in place of.
_ODD = re.compile(r"[\s\"'$\\%]")
_ELSEWHERE = (
    "install mbcore under /opt/mbcore: sudo python3 -m venv /opt/mbcore && sudo /opt/mbcore/bin/pip install ./WHEEL,"
    " the wheel for this system, which docs/install.md names"
)
_GROUPS = ("dialout", "gpio")
_RESTART = 2  # seconds from an end to the next start
# Drivers that come with their device, or a moment after the start of the system.
_MODULES = ("usbserial", "cdc_acm", "sc16is7xx")
# As /proc/devices has them, on a Pi and beside.
_DEVICES = ("ttyAMA", "ttyS", "ttySC", "ttyUSB", "ttyACM", "ttyXRUSB", "ttyLP", "gpiochip")

_TEMPLATE = """\
# Made by `mbcore service install`; what is served stands in {folder}/NAME.env.
[Unit]
Description=Modbus server %i
After=network.target
StartLimitIntervalSec=0
# systemd looks DeviceAllow=char-... up when it starts the service, and leaves out what no driver is loaded for: an adapter that is
# plugged in later would be refused for ever. Which of these a system lacks does not matter.
Wants={modules}
After={modules}

[Service]
Type=notify
NotifyAccess=main
EnvironmentFile={folder}/%i.env
ExecStart={program} serve $MBCORE_ARGS
Restart=always
RestartSec={restart}
WatchdogSec=10
TimeoutStopSec=10

# Nobody in particular, who may open serial ports, GPIO chips, and ports below 1024.
DynamicUser=yes
{groups}AmbientCapabilities=CAP_NET_BIND_SERVICE
CapabilityBoundingSet=CAP_NET_BIND_SERVICE
DevicePolicy=closed
{devices}

NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
StateDirectory=mbcore/%i
UMask=0077
LockPersonality=yes
RemoveIPC=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
# The compiled loops ask for short slices.
SystemCallFilter=sched_setattr
SystemCallErrorNumber=EPERM

[Install]
WantedBy=multi-user.target
"""


@dataclass(frozen=True)
class File:
    """A file to write."""

    path: str
    text: str


@dataclass(frozen=True)
class Removal:
    """A file to delete, if it is there."""

    path: str


Command = tuple[str, ...]
Step = File | Removal | Command


def check_name(name: str) -> str:
    """The name of an instance.

    :raises ConfigurationError: when it can't be one
    """
    if not NAME.fullmatch(name):
        raise ConfigurationError(f"{name!r} is no name of a service: use letters, digits, - and _, such as plant")
    return name


def check_file(machine: Machine, option: str, file: str) -> None:
    """Whether the service can read a file that an option names.

    :raises ConfigurationError: when it can't; says how it could
    """
    if not machine.exists(file):
        raise ConfigurationError(f"{option} {file}: there is no such file")
    owner = machine.owner(machine.path(file))
    readable = 0o044 if machine.group_name(owner.gid) in _GROUPS else 0o004
    folders = (os.path.dirname(file), os.path.dirname(os.path.realpath(file)))
    closed = next(filter(None, map(_closed_to_others, folders)), "") or ("" if owner.mode & readable else file)
    if closed:
        raise ConfigurationError(
            f"{option} {file} can't be read by a service, to which {closed} is closed: put it into {FOLDER},"
            f" and there sudo chgrp {_GROUPS[0]} FILE && sudo chmod 640 FILE"
        )


def plan_install(
    machine: Machine, name: str, words: Sequence[str], program: Sequence[str], places: Sequence[str], found: str = ""
) -> list[Step]:
    """What installing an instance takes, in order.

    :param words: those after `mbcore serve`; none: those that are in place
    :param program: how mbcore is called, with the full name of its program
    :param places: where else the program is: its package, its interpreter
    :param found: the device that the words mean where they name none
    :raises ConfigurationError: when there are no words, or a service can't get at the program
    """
    environment, rule = f"{FOLDER}/{check_name(name)}.env", _rule(name)
    steps: list[Step] = []
    adapter, outdated = None, False
    if words:
        named = next((word for word in words if word.startswith("/dev/")), "")
        device = named or found
        port = describe(machine, machine.device(device)) if device else None
        if port and port.usb and device not in words:
            words = [*words, device]
        if port and port.usb:
            # By its USB device a rule would give all ports of an adapter the one name.
            alone = sum(other.socket == port.socket for other in list_ports(machine)) < 2
            adapter, stable = (port, _stable(name)) if alone else (None, port.stable)
            # Names that are counted, as ttyUSB0, may be another adapter's tomorrow.
            words = [stable if word == device and re.match("/dev/tty", word) else word for word in words]
        # An adapter that goes by its rule's name may be unplugged just now.
        outdated = not adapter and device != _stable(name) and machine.exists(rule)
        steps.append(File(environment, _environment(name, words)))
    elif not machine.exists(environment):
        raise ConfigurationError(f"say what {name} is to serve: mbcore service install {name} rtu /dev/ttyUSB0 -b 19200")
    steps += [File(UNIT, unit(machine, program, places)), ("systemctl", "daemon-reload")]
    if adapter or outdated:
        steps.append(File(rule, udev_rule(name, adapter)) if adapter else Removal(rule))
        steps += [("udevadm", "control", "--reload"), ("udevadm", "trigger", "--settle", "--subsystem-match=tty")]
    return [*steps, ("systemctl", "enable", f"mbcore@{name}"), ("systemctl", "restart", f"mbcore@{name}")]


def plan_remove(machine: Machine, name: str, purge: bool) -> list[Step]:
    """What removing an instance takes; its words stay unless ``purge``, and the template while others use it.

    :raises ConfigurationError: when there is no such instance
    """
    link, environment = f"{WANTED}/mbcore@{check_name(name)}.service", f"{FOLDER}/{name}.env"
    if not machine.exists(environment) and not os.path.lexists(machine.path(link)):
        found = ", ".join(instances(machine)) or "none"
        raise ConfigurationError(f"there is no service {name}: installed is {found}")
    steps: list[Step] = [("systemctl", "disable", "--now", f"mbcore@{name}"), Removal(_rule(name))]
    if purge:
        steps.append(Removal(environment))
    others = {*machine.glob(f"{WANTED}/mbcore@*.service"), *machine.glob(f"{FOLDER}/*.env")} - {link, environment}
    if not others:
        steps.append(Removal(UNIT))
    return [*steps, ("systemctl", "daemon-reload"), ("udevadm", "control", "--reload")]


def instances(machine: Machine) -> list[str]:
    """The names of those that have a file of words."""
    return [Path(path).stem for path in machine.glob(f"{FOLDER}/*.env")]


def show(machine: Machine, name: str) -> str:
    """What is installed of an instance, file by file, and where to look further.

    :raises ConfigurationError: when nothing is
    """
    files = [UNIT, f"{FOLDER}/{check_name(name)}.env", _rule(name)]
    if not machine.exists(files[1]):
        raise ConfigurationError(f"there is no service {name}: installed is {', '.join(instances(machine)) or 'none'}")
    enabled = os.path.lexists(machine.path(f"{WANTED}/mbcore@{name}.service"))
    parts = [_shown(File(path, machine.read(path) + "\n")) for path in files if machine.exists(path)]
    parts.append(f"It {'starts' if enabled else 'does not start'} with the system.")
    parts.append(f"State:  systemctl status mbcore@{name}\nLog:    journalctl -u mbcore@{name} -e")
    return "\n".join(parts)


def explain(steps: Sequence[Step]) -> str:
    """The steps for people, who may do them by hand."""
    words = []
    for step in steps:
        match step:
            case File():
                words.append(_shown(step))
            case Removal(path):
                words.append(f"# rm -f {path}")
            case command:
                words.append(f"# {shlex.join(command)}")
    return "\n".join(words)


def carry_out(machine: Machine, steps: Sequence[Step], again: str, run: Callable[[Command], int] | None = None) -> None:
    """Do the steps.

    :param again: the command that asks for this, for the sentence that says who may
    :raises PermissionError: when the user is not root; nothing is done then
    :raises OSError: when a file can't be written, or a command fails
    """
    if machine.uid != 0:
        raise PermissionError(f"a service is root's to set up: run sudo {again}, or add --dry-run to see what that does")
    for step in steps:
        match step:
            case File(path, text):
                file = machine.path(path)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text)
                file.chmod(0o644)
            case Removal(path):
                machine.path(path).unlink(missing_ok=True)
            case command:
                code = (run or _run)(command)
                if code and command[:2] == ("systemctl", "restart"):
                    name, tried = command[2], f"it is tried again every {_RESTART} s"
                    raise OSError(f"{name} is installed and does not start yet, {tried}: journalctl -u {name} -e says why")
                if code:
                    raise OSError(f"`{shlex.join(command)}` has failed with exit code {code}: what stands before it is done")


def unit(machine: Machine, program: Sequence[str], places: Sequence[str]) -> str:
    """The template unit; the parameters are those of :func:`plan_install`.

    :raises ConfigurationError: when the program's place is closed to a service, or its name can't stand in a unit
    """
    for word in program:
        if _ODD.search(word):
            raise ConfigurationError(f"{word!r} can't stand in a unit, for its blanks, quotes, $, % or \\: {_ELSEWHERE}")
    if closed := next(filter(None, map(_closed_to_others, (program[0], *places))), ""):
        raise ConfigurationError(f"{program[0]} can't be run by a service, to which {closed} is closed: {_ELSEWHERE}")
    # A group that the system does not have would keep the unit from starting.
    groups = " ".join(group for group in _GROUPS if machine.has_group(group))
    devices = "\n".join(f"DeviceAllow=char-{name} rw" for name in _DEVICES)
    groups = f"SupplementaryGroups={groups}\n" if groups else ""
    modules = " ".join(f"modprobe@{name}.service" for name in _MODULES)
    return _TEMPLATE.format(folder=FOLDER, program=" ".join(program), devices=devices, groups=groups, modules=modules, restart=_RESTART)


def udev_rule(name: str, port: Port) -> str:
    """A rule that gives an adapter a name that stays, to the group dialout, without the 16 ms of FTDI's driver."""
    vendor, product = port.usb.split(":")
    match = f'ATTRS{{idVendor}}=="{vendor}", ATTRS{{idProduct}}=="{product}"'
    # Without a serial number only the socket tells two adapters apart.
    match = f'{match}, ATTRS{{serial}}=="{port.serial}"' if port.serial else f'KERNELS=="{port.socket}", {match}'
    lines = [
        f"# The adapter of mbcore@{name}; made by `mbcore service install`.",
        f'SUBSYSTEM=="tty", {match}, SYMLINK+="{_stable(name).removeprefix("/dev/")}", GROUP="dialout", MODE="0660"',
    ]
    if port.driver == "ftdi_sio":
        lines.append(f'SUBSYSTEM=="usb-serial", DRIVER=="ftdi_sio", {match}, ATTR{{latency_timer}}="1"')
    return "\n".join(lines) + "\n"


def _stable(name: str) -> str:
    return f"/dev/mbcore-{name}"


def _rule(name: str) -> str:
    # After those of packages: openocd's 60-openocd.rules gives FTDI adapters to the group plugdev.
    return f"{RULES}/90-mbcore-{name}.rules"


def _environment(name: str, words: Sequence[str]) -> str:
    for word in words:
        if _ODD.search(word) or not word:
            raise ConfigurationError(f"{word!r} can't stand in a service's words: leave out blanks, quotes, $, % and \\")
    return (
        f"# The words after `mbcore serve` of mbcore@{name}; then: sudo systemctl restart mbcore@{name}\n"
        f'MBCORE_ARGS="{" ".join(words)}"\n'
    )


def _shown(file: File) -> str:
    return f"==> {file.path} <==\n{file.text}"


def _closed_to_others(name: str) -> str:
    """What on the way to a file or folder keeps others out, the file itself included; empty where the way is open."""
    for path in (Path(name), Path(os.path.realpath(name))):
        for part in (*reversed(path.parents), path):
            # ProtectHome= of the unit hides these whatever their mode is.
            hidden = part in (Path("/home"), Path("/root"), Path("/run/user"))
            if hidden or not part.exists() or not part.stat().st_mode & 0o001:
                return str(part)
    return ""


def _run(command: Command) -> int:
    try:
        return subprocess.run(command, check=False).returncode
    except FileNotFoundError as error:
        raise OSError(f"there is no {command[0]}: this system is not run by systemd") from error
