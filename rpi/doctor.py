"""Looks for what keeps a serial line from working, and says the one line that mends it. Changes nothing but a free port's settings.

A finding is "ok", "note" (worth knowing; the line may work all the same) or "wrong" (mend it first).
"""

from __future__ import annotations

import os
import re
import shlex
import termios
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from mbcore.defaults import LINE_FORMAT
from mbcore.errors import ConfigurationError, LineError
from mbcore.server import rs485
from mbcore.server.port import open_port

from .hats import Hat, gpio_chip, load
from .machine import BLUETOOTH, Machine
from .ports import describe, list_ports

FIRMWARE = "/sys/devices/platform/soc*/*firmware/get_throttled"
UNDERVOLTAGE_NOW, UNDERVOLTAGE_SINCE_START = 1 << 0, 1 << 16
CONFIG_FIRST = "mend config.txt first"
_USB_LATENCY = 2  # milliseconds; more than that is heard as a silence
# Kernels whose mapping of sc16is752-spi1 to its new name leaves SPI1 as it was (linux #6962; mended by #6996).
_UNMAPPED, _MAPPED = "6.12.30", "6.12.42"
# From this kernel on sc16is7xx knows both levels of RTS while it sends, and on those of Raspberry Pi OS from December 2024 on.
_BOTH_LEVELS = "6.13"
# Services whose processes are their users': one of these is ended, and not the service.
_LOGINS = {"ssh", "sshd", "dropbear", "cron", "atd", "getty"}
# The pins of a Pi 4's further UARTs.
_FURTHER_UARTS = {"uart2": "GPIO0/1", "uart3": "GPIO4/5", "uart4": "GPIO8/9", "uart5": "GPIO12/13"}


class Finding(NamedTuple):
    """What was found, and what to do about it."""

    level: str  # "ok", "note", "wrong"
    subject: str  # "port", "console": a word that programs may look for
    text: str
    mend: str = ""  # one line, a command where one does it


class Trial(NamedTuple):
    """What came of opening a port."""

    refusal: str = ""  # a sentence with the way out; empty where it opens and takes the settings
    mode: rs485.KernelMode | None = None  # of its driver, None where that knows of none


def try_port(device: str, line: Mapping[str, Any]) -> Trial:
    """Open a port as a server would, read back what its driver made of that, and put it back as it was. Sets DTR and RTS for a moment.

    :param line: ``baudrate``, ``bytesize``, ``parity`` and ``stopbits``; none: its settings stay as they are
    """
    with ExitStack() as at_end:
        try:
            before = os.open(device, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
            at_end.callback(os.close, before)
            settings = termios.tcgetattr(before)
        except (OSError, termios.error) as error:
            if not line:
                return Trial(f"{device} does not open: {error}; `mbcore ports` lists what is there")
        else:
            if line:
                at_end.callback(_put_back, before, settings)
        try:
            if not line:
                return Trial(mode=rs485.read_mode(before))
            with open_port(device, timeout=0, inter_byte_timeout=0, **line) as port:
                return Trial(mode=rs485.read_mode(port.fileno()))
        except (LineError, ConfigurationError, OSError) as error:
            return Trial(str(error))


def _put_back(descriptor: int, settings: Any) -> None:
    with suppress(termios.error):  # of a device that has gone
        termios.tcsetattr(descriptor, termios.TCSANOW, settings)


@dataclass
class Report:
    """All that a doctor has to say."""

    board: str
    system: str
    kernel: str
    port: str
    findings: list[Finding] = field(default_factory=list)

    @property
    def wrong(self) -> int:
        """How many things are wrong."""
        return sum(finding.level == "wrong" for finding in self.findings)

    @property
    def untried(self) -> bool:
        """Whether the port was left without a trial of its settings, or there was none to try."""
        return not any(finding.subject == "settings" and finding.level != "note" for finding in self.findings)

    def as_json(self) -> dict[str, Any]:
        """The same for machines; ``wrong`` is a number, ``mend`` may be empty."""
        return asdict(self) | {"wrong": self.wrong, "findings": [finding._asdict() for finding in self.findings]}

    def as_text(self) -> str:
        """The same for people."""
        lines = [" · ".join(filter(None, (self.board or "no Raspberry Pi", self.system, f"Linux {self.kernel}" if self.kernel else "")))]
        width = max((len(finding.subject) for finding in self.findings), default=0)
        for finding in self.findings:
            level = "WRONG" if finding.level == "wrong" else finding.level
            lines.append(f"{level:5}  {finding.subject:{width}}  {finding.text}")
            if finding.mend:
                lines.append(f"{'':{width + 9}}-> {finding.mend}")
        count = self.wrong
        well = "Nothing wrong was found; the port's settings were not tried." if self.untried else "All is well."
        lines.append(well if not count else "One thing is wrong." if count == 1 else f"{count} things are wrong.")
        return "\n".join(lines)


Try = Callable[[str, Mapping[str, Any]], Trial]


def examine(
    machine: Machine, hat: Hat | None = None, port: str | None = None, trial: Try | None = None, again: str = "mbcore doctor"
) -> Report:
    """Look at the machine and at one port.

    :param hat: the board that the user has; None: a port without a profile
    :param port: its name; None: the board's, or the one that a server would most likely be given
    :param trial: opens the port, which is done only where nobody else has it open, and with settings only where that is known for
        certain; None: :func:`try_port`
    :param again: the command that asks for the same, by a name that root finds too
    :raises ConfigurationError: when the board does not fit the machine
    """
    report = Report(machine.model, machine.system, machine.kernel, "")
    look = _Examination(machine, hat, report.findings, trial or try_port, again)
    look.at_power()
    if hat and port:
        look.at_choice(hat, port)
    name = port or look.find_port()
    report.port = name
    if name:
        look.at_port(name)
    for note in hat.notes if hat else ():
        look.say("note", "board", note)
    return report


class _Examination:
    def __init__(self, machine: Machine, hat: Hat | None, findings: list[Finding], trial: Try, again: str) -> None:
        self.machine, self.hat, self.findings, self.trial, self.again = machine, hat, findings, trial, again
        # Why the port is left closed.
        self.untried = ""
        # The board of an overlay by an old name, which the user need not have named.
        self.outdated = next((one for one in ([hat] if hat else load()[1].values()) if one.stale_on(machine)), None)

    def say(self, level: str, subject: str, text: str, mend: str = "") -> None:
        self.findings.append(Finding(level, subject, text, mend))

    # ---- the board ----

    def at_power(self) -> None:
        """Undervoltage makes UARTs and USB fail in ways that look like anything else."""
        machine = self.machine
        alarms = [name for name in machine.glob("/sys/class/hwmon/hwmon*/name") if machine.read(name) == "rpi_volt"]
        words = [machine.read(name) for name in machine.glob(FIRMWARE)[:1]]
        flags = sum(int(word, 16) for word in words if re.fullmatch("(0x)?[0-9a-fA-F]+", word))
        mend = "use the board's own power supply, and a short cable"
        if flags & UNDERVOLTAGE_NOW or any(machine.read(f"{os.path.dirname(name)}/in0_lcrit_alarm") == "1" for name in alarms):
            self.say("wrong", "power", "the board has too little voltage", mend)
        elif flags & UNDERVOLTAGE_SINCE_START:
            self.say("note", "power", "the board had too little voltage since its start", mend)

    # ---- which port ----

    def at_choice(self, hat: Hat, port: str) -> None:
        """A port and a board that do not belong together."""
        machine = self.machine
        hat.check_family(machine)
        own = [*hat.devices_on(machine), *hat.ports]
        if machine.device(port) not in map(machine.device, own):
            whose = " or ".join(own) or f"that of an adapter with the driver {hat.driver}"
            self.say("note", "board", f"{port} is not the port of {hat.title}, which is {whose}", f"mbcore doctor --hat {hat.name}")

    def find_port(self) -> str:
        """The port to look at where the user names none; empty where there is none."""
        machine = self.machine
        if self.hat:
            try:
                return self.hat.device_on(machine)
            except LineError as error:
                sentence, _, way = str(error).partition(": ")
                self.say("wrong", "port", sentence, way)
                return ""
        ports = list_ports(machine)
        likely = [port.stable for port in ports if port.usb] + [port.device for port in ports if port.driver == "sc16is7xx"]
        if not likely and self.outdated:
            likely = list(self.outdated.devices_on(machine))
        if not likely and machine.family != "other":
            likely = [self.header_port()]
        likely += [port.device for port in ports]
        if not likely:
            self.say("wrong", "port", "there is no serial port", "plug an adapter in, `mbcore ports` lists what is there")
            return ""
        if len(ports) > 1:
            self.say("note", "port", f"of {len(ports)} ports this looks at {likely[0]}", f"mbcore doctor --port {ports[-1].device}")
        return likely[0]

    def header_port(self) -> str:
        """The UART on GPIO14/15."""
        uarts, _ = load()
        return uarts[self.machine.family].device

    # ---- the port ----

    def at_port(self, name: str) -> None:
        machine = self.machine
        device = machine.device(name)
        self.at_config(device)
        self.at_phantoms(device)
        if not machine.exists(name):
            self.absent(name, device)
            return
        self.at_name(name, device)
        if not machine.hardware(device).driver and not machine.is_terminal(device):
            return
        talks = self.at_console(device)
        held = self.at_holders(device)
        permitted = self.permitted(name, device, "permission")
        if self.hat and (self.hat.direction == "gpio" or self.hat.hold):
            self.at_gpio()
        why = "the console is on it" if talks else "it is in use" if held else "" if permitted else "it is not permitted"
        if why or self.untried:
            self.say("note", "settings", f"the port is not tried: {why or self.untried}")
        else:
            self.at_settings(name, device)

    def at_config(self, device: str) -> None:
        """What config.txt has to say for the board, or for the UART on GPIO14/15."""
        machine = self.machine
        of_chip = device.startswith("/dev/ttySC")
        if self.hat:
            wanted = self.hat.wanted_config(machine)
        elif self.outdated and of_chip:
            wanted = self.outdated.wanted_config(machine)
        elif machine.family != "other" and device in (self.header_port(), "/dev/serial0"):
            wanted = list(load()[0][machine.family].config)
        else:
            wanted = []
        if not wanted:
            return
        if not machine.boot_folder:
            self.say("note", "config", f"there is no config.txt to look into for {', '.join(wanted)}")
            return
        missing = [line for line in wanted if not machine.configured(line)]
        if self.outdated and (self.hat or of_chip):
            self.at_stale(self.outdated.stale_on(machine)[0], missing)
        elif missing:
            lacking = " and ".join(line.partition(" or ")[0] for line in missing)
            self.say("wrong", "config", f"{machine.config_file} lacks {lacking}", self.complete(missing))
        else:
            self.say("ok", "config", f"{machine.config_file} has what the port needs")
        if any(has.value == "disable-bt" for has in machine.config) and machine.exists(
            "/etc/systemd/system/multi-user.target.wants/hciuart.service"
        ):
            self.say("note", "bluetooth", "hciuart would talk to the port that Bluetooth had", "sudo systemctl disable --now hciuart")

    def at_phantoms(self, device: str) -> None:
        """Overlays of which not all can have their chip."""
        machine = self.machine
        buses = {has.value for has in machine.config if has.name == "dtoverlay" and has.value.startswith("sc16is75")}
        if len({name.rpartition("-")[2].rstrip("012") for name in buses}) > 1:
            self.say(
                "note",
                "config",
                f"of the overlays {' and '.join(sorted(buses))} one without its chip makes phantom ports, which hang when they are closed",
                f"take out what your board does not have: sudo nano {machine.config_file}",
            )
            if device.startswith("/dev/ttySC"):
                self.untried = "it may be a phantom"

    def at_stale(self, overlay: str, missing: list[str]) -> None:
        """An overlay that later systems have by another name."""
        machine = self.machine
        broken = machine.kernel_at_least(_UNMAPPED) and not machine.kernel_at_least(_MAPPED)
        if broken:
            self.untried = "programs freeze on it"
        lacking = [line.partition(" or ")[0] for line in missing]
        # Of a board that the user has not named, the pin is config.txt's.
        options = next(has.options for has in machine.config if has.name == "dtoverlay" and has.value == overlay)
        pin = next((option for option in options if option.startswith("int_pin=")), "")
        if pin and not self.hat:
            lacking = [re.sub(r"int_pin=\d+", pin, line) for line in lacking]
        parameters = "".join(f"; {line} is lacking, too" for line in lacking if line.startswith("dtparam"))
        old = f"^[[:space:]]*dtoverlay[[:space:]]*=[[:space:]]*{overlay}"
        new = "\\n".join(lacking)
        script = f"s/{old}.*/{new}/" if new else f"/{old}/d"
        fails = f"does not work from Linux {_UNMAPPED} on and before {_MAPPED} (dmesg: Native CS is not supported)"
        self.say(
            "note" if machine.glob("/dev/ttySC*") and not broken else "wrong",
            "config",
            f"the overlay {overlay} is only a mapping now{f', which {fails}' if broken else ''}{parameters}",
            f"sudo sed -i '{script}' {machine.config_file} && sudo reboot",
        )

    def complete(self, lines: list[str]) -> str:
        """The command that gives config.txt lines that it lacks, or has with other options."""
        first = [line.partition(" or ")[0] for line in lines]
        overlays = [line.removeprefix("dtoverlay=").partition(",")[0] for line in first]
        there = [has.value for has in self.machine.config if has.name == "dtoverlay"]
        other = {line: name for line, name in zip(first, overlays, strict=True) if there.count(name) == overlays.count(name) == 1}
        if not other:
            return self.append(lines)
        scripts = "; ".join(rf"s/^\s*dtoverlay\s*=\s*{name}\b.*/{line}/" for line, name in other.items())
        command = f"sudo sed -i '{scripts}' {self.machine.config_file} && "
        rest = [line for line in first if line not in other]
        return command + (self.append(rest) if rest else "sudo reboot")

    def append(self, lines: list[str]) -> str:
        """The command that adds lines to config.txt."""
        first = [line.partition(" or ")[0] for line in lines]
        if self.machine.last_section != "all":
            first.insert(0, "[all]")
        if self.machine.lacks_line_feed(self.machine.config_file):
            first.insert(0, "")
        words = " ".join(f"'{line}'" for line in first)
        return f"printf '%s\\n' {words} | sudo tee -a {self.machine.config_file} && sudo reboot"

    def config_is(self, level: str) -> bool:
        """Whether there is such a finding on config.txt."""
        return any(finding.subject == "config" and finding.level == level for finding in self.findings)

    def free_uart(self) -> str:
        """How the PL011 gets from Bluetooth to GPIO14/15."""
        return CONFIG_FIRST if self.config_is("wrong") else self.append(["dtoverlay=disable-bt"])

    def to_header_port(self) -> str:
        """How to come from another port to the UART on GPIO14/15, which may not be there yet."""
        machine, name = self.machine, self.header_port()
        if machine.exists(name):
            return f"use {name}"
        missing = [line for line in load()[0][machine.family].config if not machine.configured(line)]
        return f"{self.append(missing) if missing else 'sudo reboot'}  # then use {name}"

    def absent(self, name: str, device: str) -> None:
        """Why a port is not there."""
        machine = self.machine
        overlays = {has.value for has in machine.config if has.name == "dtoverlay"}
        if self.config_is("wrong"):
            self.say("wrong", "port", f"there is no {name}: config.txt does not enable it", CONFIG_FIRST)
        elif device == "/dev/ttyAMA0" and machine.family in BLUETOOTH and machine.alias("bluetooth"):
            mend = "sudo reboot" if machine.configured("dtoverlay=disable-bt") else self.free_uart()
            self.say("wrong", "port", f"there is no {name}: Bluetooth has its UART", mend)
        elif self.config_is("ok"):
            self.say("wrong", "port", f"there is no {name}: config.txt has changed since the start, or the board is off", "sudo reboot")
        elif machine.family == "4" and re.fullmatch("/dev/ttyAMA[1-5]", device) and not overlays & set(_FURTHER_UARTS):
            pins = ", ".join(f"{uart} is {pins}" for uart, pins in _FURTHER_UARTS.items())
            self.say("wrong", "port", f"there is no {name}: a further UART is not enabled; {pins}", self.append(["dtoverlay=uart3"]))
        elif machine.family == "5" and (number := device.removeprefix("/dev/ttyAMA")) in ("1", "2", "3", "4"):
            line = f"dtoverlay=uart{number}-pi5"
            mend = "sudo reboot" if machine.configured(line) else self.append([line])
            self.say("wrong", "port", f"there is no {name}: UART{number} is not enabled", mend)
        else:
            found = [port.stable for port in list_ports(machine)]
            way = f"choose one of {', '.join(found)}" if found else "plug the adapter in, then `mbcore ports`"
            self.say("wrong", "port", f"there is no {name}", way)

    def at_name(self, name: str, device: str) -> None:
        """What the name leads to, and whether that is what the user means."""
        machine = self.machine
        port = describe(machine, device)
        hardware = machine.hardware(device)
        what = f"{name} is {device}" if name != device else device
        served = f"{what}, served by {hardware.driver} ({hardware.folder.name if hardware.folder else '?'})" if hardware.driver else what
        if machine.family == "5" and device == "/dev/ttyAMA10":
            self.say("wrong", "port", f"{what}, on a Pi 5 the connector for debugging, not GPIO14/15", self.to_header_port())
        elif hardware.mini_uart:
            # With disable-bt it is not on the pins any more.
            booted = machine.configured("dtoverlay=disable-bt or dtoverlay=miniuart-bt")
            mend = "use /dev/ttyAMA0, after a restart if it is not there" if booted else self.free_uart()
            self.say("wrong", "port", f"{what}, the mini UART, which has no parity and one stop bit", mend)
        elif machine.alias("bluetooth") and self.carries_bluetooth(hardware.folder):
            self.say("wrong", "port", f"{what}, which is wired to Bluetooth, not to GPIO14/15", self.free_uart())
        elif not hardware.driver:
            self.say("wrong", "port", f"{what}, with no hardware behind it", "`mbcore ports` lists those that have")
        else:
            self.say("ok", "port", served)
        # A counted name, and one of adapters that are all alike; of a name that a user or a rule has made nobody knows better.
        doubtful = re.match(r"/dev/tty(USB|ACM|XRUSB)\d", name) or ("/by-id/" in name and not port.serial)
        if port.usb and doubtful and port.stable not in (name, device):
            self.say("note", "name", f"{name} may be another adapter after the next start", f"use {port.stable}")
        if port.latency is not None and port.latency > _USB_LATENCY:
            self.say(
                "note",
                "latency",
                f"the adapter hands on bytes every {port.latency} ms; mbcore asks for less where it opens the port, other programs don't",
                f"echo 1 | sudo tee /sys/class/tty/{os.path.basename(device)}/device/latency_timer",
            )

    def carries_bluetooth(self, folder: Any) -> bool:
        """Whether a UART is the parent of the device tree's Bluetooth."""
        node = os.path.realpath(folder / "of_node") if folder else ""
        return bool(node) and os.path.dirname(self.machine.alias("bluetooth")) == node.partition("/devicetree/base")[2]

    def at_console(self, device: str) -> bool:
        """Whether the kernel talks on the line; says so, and where a login shell is to."""
        machine = self.machine
        word = machine.consoles().get(device)
        name = os.path.basename(device)
        login_off = f"sudo systemctl disable --now serial-getty@{name}"
        if word:
            file = machine.command_line_file
            out = "sudo reboot" if machine.exists(file) else f"take {word} out of the boot loader's command line"
            written = dict.fromkeys(part for part in machine.read(file).split() if self.is_console(part, device))
            # Whole words: console=ttyAMA1 is the beginning of console=ttyAMA10,115200, too.
            script = "; ".join(rf"s/\b{re.escape(part)}(\s+|$)//g" for part in written)
            mend = f"sudo sed -i -E {shlex.quote(script)} {file} && {login_off}; sudo reboot" if written else out
            self.say("wrong", "console", f"the kernel writes its messages to {device} ({word})", mend)
        elif machine.exists(f"/etc/systemd/system/getty.target.wants/serial-getty@{name}.service"):
            self.say("wrong", "console", f"a login shell is to run on {device}", login_off)
        return bool(word)

    def is_console(self, word: str, device: str) -> bool:
        """Whether a word of cmdline.txt puts the console on a port."""
        name, _, value = word.partition("=")
        return name == "console" and self.machine.device("/dev/" + value.partition(",")[0]) == device

    def at_holders(self, device: str) -> bool:
        """Whether somebody has the port open."""
        holders = self.machine.holders(device)
        units = {"agetty": f"serial-getty@{os.path.basename(device)}", "hciattach": "hciuart"}
        for holder in holders:
            unit = holder.unit.removesuffix(".service")
            if unit.startswith("mbcore@"):
                stop = f"to try its settings: sudo systemctl stop {unit}"
                self.say("note", "holder", f"{device} is served by {unit} (process {holder.pid})", stop)
                continue
            process, stop = f"process {holder.pid}", f"sudo kill {holder.pid}"
            if holder.name in units or unit.startswith("serial-getty@"):
                stop = f"sudo systemctl disable --now {units.get(holder.name, unit)}"
            elif unit and unit.partition("@")[0] not in _LOGINS:
                # The service would start it again.
                process, stop = f"{process} of the service {unit}", f"sudo systemctl stop {shlex.quote(unit)}"
            self.say("wrong", "holder", f"{device} is in use by {holder.name} ({process})", stop)
        return bool(holders)

    def at_gpio(self) -> None:
        """The pin's chip, and whether the user may ask it for a line."""
        chip = gpio_chip(self.machine)
        chips = [chip] if chip.startswith("/") else self.machine.glob("/dev/gpiochip*")
        if not any(self.machine.exists(device) for device in chips):
            self.say("wrong", "gpio", "there is no GPIO chip, which the direction pin hangs on", "update the system: sudo apt full-upgrade")
        for device in chips[:1]:
            if self.machine.exists(device):
                self.permitted(device, device, "gpio")

    def permitted(self, name: str, device: str, subject: str) -> bool:
        """Whether the user may read and write a device; says so where not, with the way in."""
        machine = self.machine
        user = machine.user_name()
        if machine.may_use(device):
            self.say("ok", subject, f"{user} may use {name}")
            if not machine.is_let_in(device):
                group = machine.group_name(machine.owner(machine.path(device)).gid)
                text = f"{user} may use it while logged in at this machine, by an access list; a service needs the group {group}"
                self.say("note", subject, text)
            return True
        owner = machine.owner(machine.path(device))
        group = machine.group_name(owner.gid)
        if group == "tty":  # a login shell has taken it
            mend = f"sudo systemctl disable --now serial-getty@{os.path.basename(device)} && sudo reboot"
        elif owner.mode & 0o060 != 0o060 or group == "root":
            kernel = os.path.basename(device).rstrip("0123456789")
            subsystem, right = ("gpio", "gpio") if subject == "gpio" else ("tty", "dialout")
            rule = f'SUBSYSTEM=="{subsystem}", KERNEL=="{kernel}*", GROUP="{right}", MODE="0660"'
            mend = f"echo '{rule}' | sudo tee /etc/udev/rules.d/90-{kernel}.rules && sudo udevadm control --reload && sudo udevadm trigger"
        elif user in machine.group_members(group):
            mend = "log out and in again: you are in the group, but not in this session"
        else:
            mend = f"sudo usermod -aG {group} {user}, then log out and in again"
        self.say("wrong", subject, f"{user} may not use {name}: it is for the group {group}", mend)
        return False

    def at_settings(self, name: str, device: str) -> None:
        """Open the port, and read back what its driver made of that."""
        line = (self.hat.format if self.hat else None) or LINE_FORMAT
        certain = self.machine.sees_all_holders
        trial = self.trial(name, line if certain else {})
        if trial.refusal:
            sentence, _, way = trial.refusal.rpartition("; " if "; " in trial.refusal else ": ")
            self.say("wrong", "settings", *((sentence, way) if sentence else (way, "see `mbcore ports`")))
            return
        if certain:
            self.say("ok", "settings", "it opens with {baudrate} {bytesize}{parity}{stopbits}".format_map(line))
        else:
            text = "it opens; no settings are tried, for another user's program may have it open"
            self.say("note", "settings", text, f"sudo {self.again}")
        direction = self.hat.direction if self.hat else ""
        enabled = bool(trial.mode and trial.mode.enabled)
        driver = self.machine.hardware(device).driver
        if direction == "kernel" and trial.mode is None:
            way = "use one of the board's own ports, or --direction rts or gpio"
            self.say("wrong", "rs485", f"the driver {driver} has no RS-485 mode", way)
        elif enabled and direction in ("gpio", "rts"):
            self.say("wrong", "rs485", "the driver moves RTS itself, set by the device tree or another program", "use --direction kernel")
        elif self.hat and self.hat.rs485 == "on" and not enabled:
            text = "the driver's RS-485 mode is off, and nothing else switches the transceiver"
            self.say("wrong", "rs485", text, "use --direction kernel, or see what the vendor's device tree says")
        elif trial.mode is not None:
            hint = "" if self.hat else "; --direction kernel switches it on"
            state = f"on, as by --direction-active {trial.mode.active}" if enabled else f"off{hint}"
            self.say("ok", "rs485", f"the driver has an RS-485 mode, which is {state}")
            wanted = self.hat.direction_active if self.hat and direction == "kernel" else ""
            if driver == "sc16is7xx" and wanted == "high" and not self.machine.kernel_at_least(_BOTH_LEVELS):
                # Its number does not tell which of Raspberry Pi's kernels it is. Who serves reads the mode back.
                text = "before Linux 6.13, on Raspberry Pi OS before December 2024, the driver sc16is7xx can't do --direction-active high"
                self.say("note", "rs485", text, "where `mbcore serve` says so: sudo apt full-upgrade")
