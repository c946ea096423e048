"""Profiles of boards with a transceiver, from hats.toml: what they mean for a line on the machine that it runs on. Changes nothing."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib import resources
from typing import Any

from mbcore.errors import ConfigurationError, LineError
from mbcore.server.rs485 import DEFAULT_CHIP, request_gpio
from mbcore.server.settings import ECHOES

from .machine import Machine
from .ports import list_ports

# Of a Pi 5 the chip's number has changed with the kernel, its label has not.
_PI5_CHIP = "pinctrl-rp1"
# The overlay that took the place of sc16is752-spi0 and -spi1: where overlays are to be seen, it tells more than the kernel's number.
_RENAMED = "sc16is75x-spi"
_DIRECTION = ("direction_chip", "direction_line", "direction_active")


@dataclass(frozen=True)
class Uart:
    """The UART on GPIO14/15 of a family of boards."""

    device: str
    config: Sequence[str]


@dataclass(frozen=True)
class Hat:
    """One profile; the words are those of hats.toml, which explains them."""

    name: str
    title: str
    direction: str
    verified: str
    device: Sequence[str] | Mapping[str, Sequence[str]] = ()
    driver: str = ""
    node: Mapping[str, str] = field(default_factory=dict)
    ports: Sequence[str] = ()
    direction_chip: str | None = None
    direction_line: int | None = None
    direction_active: str | None = None
    echo: str = ECHOES[0]
    hold: Sequence[Mapping[str, Any]] = ()
    config: Sequence[Any] | Mapping[str, Sequence[str]] = ()
    stale: Sequence[str] = ()
    rs485: str = ""
    line: Mapping[str, Any] = field(default_factory=dict)
    fastest: int | None = None
    families: Sequence[str] = ()
    notes: Sequence[str] = ()

    def devices_on(self, machine: Machine) -> list[str]:
        """The names that its port may have on a machine; none while its adapter is not plugged in, and on a board that it does not fit."""
        if self.driver:
            return [port.stable for port in list_ports(machine) if port.driver == self.driver]
        if isinstance(self.device, Mapping):
            names = list(self.device.get(machine.family, ()))
            # Which name it is hangs on the other UARTs; the address of its hardware does not.
            served = [port.device for port in list_ports(machine) if machine.node(port.device) == self.node.get(machine.family, "none")]
            return served or [name for name in names if not machine.node(name)] or names
        return list(self.device) or [load()[0][machine.family].device]

    def device_on(self, machine: Machine) -> str:
        """Its port on a machine.

        :raises LineError: when its adapter is not plugged in
        :raises ConfigurationError: when there are several such adapters, or the board does not fit
        """
        self.check_family(machine)
        names = self.devices_on(machine)
        if not names:
            raise LineError(f"there is no adapter with the driver {self.driver}: plug it in, `mbcore ports` lists what is there")
        if self.driver and len(names) > 1:
            raise ConfigurationError(f"the profile {self.name} fits several adapters: name one of {', '.join(names)}")
        return next((name for name in names if machine.exists(name)), names[0])

    def check_family(self, machine: Machine) -> None:
        """Refuse a board that does not fit the machine.

        :raises ConfigurationError: naming both
        """
        if self.families and machine.family not in self.families:
            raise ConfigurationError(
                f"the profile {self.name} is for a Raspberry Pi {' or '.join(self.families)}, and this is {machine.model or 'none'}:"
                " choose another one (`mbcore hats`), or name the device and its direction"
            )

    def stale_on(self, machine: Machine) -> list[str]:
        """The overlays that config.txt loads for it by a name that the system has no more of its own."""
        wanted = self.wanted_config(machine)
        old = [name for name in self.stale if not any(f"dtoverlay={name}" in line for line in wanted)]
        return [name for name in old if machine.configured(f"dtoverlay={name}")]

    @property
    def format(self) -> dict[str, Any]:
        """The only settings that its port takes, as :class:`serial.Serial` does; empty: any."""
        if not self.line:
            return {}
        size, parity, stop = self.line["mode"]
        return {"baudrate": self.line["baudrate"], "bytesize": int(size), "parity": parity, "stopbits": int(stop)}

    @property
    def words(self) -> str:
        """What `mbcore serve rtu` and `mbcore sniff` want to be told of it."""
        words = [f"--hat {self.name}"]
        if self.direction == "gpio" and self.direction_line is None:
            words.append("--direction-line N")
        return " ".join(words)

    def wanted_config(self, machine: Machine) -> list[str]:
        """The lines that config.txt wants on a machine; "a or b": one of them."""
        own: Any = self.config
        if isinstance(own, Mapping):
            own = own.get(machine.family, ())
        elif own and isinstance(own[0], Mapping):
            new = machine.has_overlay(_RENAMED)
            later = [row for row in own[1:] if (machine.kernel_at_least(row["kernel"]) if new is None else new)]
            own = [own[0], *later][-1]["lines"]
        header = [] if self.device or self.driver else load()[0][machine.family].config
        return [*header, *own]

    def settings(self, machine: Machine, given: Mapping[str, Any]) -> dict[str, Any]:
        """What the board means for a line: ``device``, ``direction``, ``direction_...``, ``echo``.

        :param given: what the user has said, which wins; None where nothing was said
        :raises ConfigurationError: when the port can't do what the user wants, or a pin is not known
        :raises LineError: when its adapter is not plugged in
        """
        found: dict[str, Any] = {"device": given.get("device") or self.device_on(machine)}
        mine = given.get("direction") in (None, self.direction)
        named = {"direction": self.direction, "echo": self.echo}
        if mine:
            named |= {name: getattr(self, name) for name in _DIRECTION if getattr(self, name) is not None}
            if self.direction == "gpio":
                named = {"direction_chip": gpio_chip(machine)} | named
        found |= named
        found |= {name: given[name] for name in (*named, *_DIRECTION) if given.get(name) is not None}
        if found["direction"] == "gpio" and found.get("direction_line") is None:
            raise ConfigurationError(f"the profile {self.name} does not know its pin: give --direction-line N, the N of GPION")
        self._check_speed(given)
        return found

    def _check_speed(self, given: Mapping[str, Any]) -> None:
        rate = given.get("baudrate")
        if rate is None:
            return
        if self.fastest and rate > self.fastest:
            raise ConfigurationError(f"{self.title} loses bytes above {self.fastest} Bd and {rate} is asked for: give -b {self.fastest}")
        if self.line:
            mode = f"{given['bytesize']}{given['parity']}{given['stopbits']}"
            if (rate, mode) != (self.line["baudrate"], self.line["mode"]):
                raise ConfigurationError(
                    f"the port of {self.title} knows one setting and {rate} {mode} is another:"
                    f" give -b {self.line['baudrate']} -m {self.line['mode']}"
                )


def gpio_chip(machine: Machine) -> str:
    """The GPIO chip of the header's pins, as a direction_chip."""
    return _PI5_CHIP if machine.family == "5" else DEFAULT_CHIP


def hold_pins(hat: Hat, machine: Machine, held: ExitStack) -> None:
    """Hold the pins that a board wants held, until ``held`` is closed.

    :raises LineError: when a pin is busy or not permitted
    """
    for pin in hat.hold:
        # As a direction that never sends: the opposite of its level would mean to send.
        idle = {"high": "low", "low": "high"}[pin["level"]]
        held.callback(os.close, request_gpio(gpio_chip(machine), pin["line"], active=idle))


def hold_receiving(settings: Mapping[str, Any], held: ExitStack) -> None:
    """Hold the direction pin of who only listens at the level that receives, until ``held`` is closed.

    :param settings: of :meth:`Hat.settings`
    :raises LineError: when the pin is busy or not permitted
    """
    if settings.get("direction") == "gpio":
        active = settings.get("direction_active") or "high"
        held.callback(os.close, request_gpio(settings["direction_chip"], settings["direction_line"], active=active))


@cache
def load() -> tuple[dict[str, Uart], dict[str, Hat]]:
    """The UARTs of the families of boards, and the profiles by name."""
    with resources.files(__package__).joinpath("hats.toml").open("rb") as file:
        table = tomllib.load(file)
    uarts = {family: Uart(**row) for family, row in table["uart"].items()}
    return uarts, {name: Hat(name=name, **row) for name, row in table["hat"].items()}


def find_hat(name: str) -> Hat:
    """A profile.

    :raises ConfigurationError: when there is none of that name; names the nearest ones
    """
    _, hats = load()
    if name in hats:
        return hats[name]
    near = difflib.get_close_matches(name.lower(), hats, n=3, cutoff=0.5)
    way = f"did you mean {' or '.join(near)}?" if near else "`mbcore hats` lists them"
    raise ConfigurationError(f"there is no profile {name!r}: {way}")


def listing() -> str:
    """All profiles, a line each."""
    _, hats = load()
    width = max(map(len, hats))
    return "\n".join(f"{hat.name.ljust(width)}  {hat.title}" for hat in hats.values())


def as_json(machine: Machine, name: str | None) -> Any:
    """One profile as it is on a machine, or all as they are in the table, for machines."""
    _, hats = load()
    if name is None:
        return {hat.name: asdict(hat) for hat in hats.values()}
    hat = find_hat(name)
    return asdict(hat) | {"devices_here": hat.devices_on(machine), "config_here": hat.wanted_config(machine)}


def sheet(machine: Machine, name: str) -> str:
    """One profile as it is on a machine, for people."""
    hat = find_hat(name)
    names = hat.devices_on(machine)
    nowhere = f"the adapter with the driver {hat.driver}, which is not plugged in" if hat.driver else "not on this machine"
    pin = {"kernel": "RTS, by the UART's driver", "gpio": "GPIO" + ("?" if hat.direction_line is None else str(hat.direction_line))}
    switch = pin.get(hat.direction, "itself")
    if hat.direction_active:
        level = hat.direction_active
        if hat.direction == "kernel":
            # The word is the signal's; of the SC16IS7xx the pin is the other way round (docs/direction.md).
            of_chip = any(name.startswith("/dev/ttySC") for name in names)
            pin_level = {"high": "low", "low": "high"}[level] if of_chip else level
            switch += f", its pin {pin_level} while sending (--direction-active {level})"
        else:
            switch += f", {level} while sending"
    rows = [
        ("board", machine.model or "this machine is no Raspberry Pi"),
        ("port", " or ".join(names) or nowhere),
        *(("further", name) for name in hat.ports),
        ("switched by", switch),
        ("echo", hat.echo),
        *(("held", f"GPIO{pin['line']} {pin['level']}") for pin in hat.hold),
        *((machine.config_file, line) for line in hat.wanted_config(machine)),
        *(("note", note) for note in hat.notes),
        ("verified", "from documents; not tried on the board" if hat.verified == "docs" else hat.verified),
    ]
    width = max(len(word) for word, _ in rows)
    lines = [f"{hat.name}: {hat.title}", *(f"  {word.ljust(width)}  {text}" for word, text in rows)]
    return "\n".join([*lines, "", f"Serve it:  mbcore serve rtu {hat.words}", f"Check it:  mbcore doctor --hat {hat.name}"])
