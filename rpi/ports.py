"""Lists a machine's serial ports with their names, drivers and adapters. Opens one only where it is asked to probe."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from mbcore.server import rs485

from .machine import Machine

#: What drivers are known to do about RS-485 (Linux 6.12).
RS485 = {
    "uart-pl011": "kernel",
    "bcm2835-aux-uart": "kernel",
    "sc16is7xx": "kernel",
    "xr_serial": "kernel",
    "ftdi_sio": "adapter",
    "ch341-uart": "adapter",
    "cp210x": "adapter",
    "cdc_acm": "adapter",
}
# Serial numbers that are those of every adapter of a kind.
_NO_SERIAL = re.compile(r"0*1?|0123456789(ABCDEF)?", re.IGNORECASE)


class Port(NamedTuple):
    """A serial port."""

    device: str  # "/dev/ttyUSB0"
    driver: str  # "ftdi_sio"; empty where sysfs does not tell
    bus: str  # "usb-serial"
    links: tuple[str, ...]  # other names, /dev/serial0 and those of /dev/serial/by-...
    stable: str  # the name that stays the same when adapters come and go
    usb: str = ""  # of an adapter, vendor and product: "0403:6001"
    product: str = ""  # "FTDI FT232R USB UART"
    serial: str = ""  # its serial number, where it tells one of its kind from another
    socket: str = ""  # the USB socket: "1-1.3"
    latency: int | None = None  # of an FTDI adapter, milliseconds
    rs485: str = "unknown"  # who may switch a transceiver: "kernel", "adapter"; or, probed, "on", "off", "none" and why not


def list_ports(machine: Machine, probe: Callable[[str], str] | None = None) -> list[Port]:
    """The serial ports that have hardware behind them, in order of their names.

    :param probe: what to say of a port's RS-485 instead of what is known of its driver
    """
    links = _links(machine)
    found = []
    for folder in machine.glob("/sys/class/tty/*/device"):
        device = "/dev/" + folder.split("/")[-2]
        # The PC's UARTs that are only provided for.
        if machine.read(f"{os.path.dirname(folder)}/type") == "0":
            continue
        port = describe(machine, device, links)
        if port.driver:
            found.append(port._replace(rs485=probe(device)) if probe else port)
    return sorted(found, key=lambda port: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", port.device)])


def describe(machine: Machine, device: str, links: dict[str, list[str]] | None = None) -> Port:
    """One port, by its name in /dev."""
    hardware = machine.hardware(device)
    names = (_links(machine) if links is None else links).get(device, [])
    port = Port(device, hardware.driver, hardware.bus, tuple(names), device, rs485=RS485.get(hardware.driver, "unknown"))
    adapter = _usb_device(hardware.folder) if hardware.folder else None
    if adapter is None:
        return port
    serial = _text(adapter / "serial")
    if _NO_SERIAL.fullmatch(serial):
        serial = ""
    # The socket's name is the only one that stays where adapters are all alike.
    kinds = ("/by-id/", "/by-path/") if serial else ("/by-path/", "/by-id/")
    latency = _text(hardware.folder / "latency_timer") if hardware.folder else ""
    return port._replace(
        stable=next((name for kind in kinds for name in names if kind in name), device),
        usb=f"{_text(adapter / 'idVendor')}:{_text(adapter / 'idProduct')}",
        product=" ".join(filter(None, (_text(adapter / "manufacturer"), _text(adapter / "product")))),
        serial=serial,
        socket=adapter.name,
        latency=int(latency) if latency.isdigit() else None,
    )


def probe_rs485(device: str) -> str:
    """What a port's driver says of its RS-485 mode. Opening the port sets DTR and RTS for a moment."""
    try:
        descriptor = os.open(device, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    except OSError as error:
        return f"unknown: {error.strerror}"
    try:
        mode = rs485.read_mode(descriptor)
    except OSError as error:
        return f"unknown: {error.strerror}"
    finally:
        os.close(descriptor)
    return "none" if mode is None else "on" if mode.enabled else "off"


def table(ports: list[Port]) -> str:
    """The ports as text for people, the names of a port under it."""
    if not ports:
        return "There is no serial port. On a Raspberry Pi `mbcore doctor` says how to enable the UART on GPIO14/15."
    rows = [("port", "driver", "RS-485", "adapter")]
    rows += [(port.device, port.driver, port.rs485, " ".join(filter(None, (port.usb, port.product, port.serial)))) for port in ports]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    said = lines[:1]
    for line, port in zip(lines[1:], ports, strict=True):
        said.append(line)
        said += [f"    {name}{'   <- use this name' if name == port.stable else ''}" for name in port.links]
    return "\n".join(said)


def _links(machine: Machine) -> dict[str, list[str]]:
    """Further names of ports, by the name in /dev."""
    found: dict[str, list[str]] = {}
    for pattern in ("/dev/serial[0-9]", "/dev/serial/by-id/*", "/dev/serial/by-path/*", "/dev/ttyRS485*", "/dev/mbcore-*"):
        for name in machine.glob(pattern):
            found.setdefault(machine.device(name), []).append(name)
    return found


def _usb_device(folder: Path) -> Path | None:
    """The folder of the USB device that a folder of sysfs belongs to."""
    return next((above for above in _above(folder) if (above / "idVendor").is_file()), None)


def _above(folder: Path) -> Iterator[Path]:
    yield folder
    yield from folder.parents


def _text(file: Path) -> str:
    try:
        return file.read_text(errors="replace").strip()
    except OSError:
        return ""
