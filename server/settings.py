"""What the user says about a serial line: checked, and sorted by who wants to know. Opens nothing."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mbcore import ModbusRtuFramer, ModbusServerContext
from mbcore.errors import ConfigurationError

from .options import check_choice, check_count, check_time, check_units
from .port import is_pseudo_terminal
from .rs485 import Direction, check_direction

CHARACTER_BITS = 11  # start, 8 data, parity or second stop, stop (Modbus over Serial Line V1.02, 2.5.1)
FAST_BAUDRATE = 19200  # above it the gap between frames is fixed (2.5.1.1)
FAST_GAP = 0.00175
REPLY_DEADLINE = 1.0  # masters rarely wait longer
# What is longer than these, in seconds, was meant to be milliseconds.
LONGEST_GAP = 1.0
LONGEST_REPLY = 60.0

_FLAGS = {"reopen": True, "low_latency": True, "realtime": False}
ECHOES = ("auto", "drop", "none")
_DIRECTION_KEYWORDS = ("direction", "direction_chip", "direction_line", "direction_active", "delay_before", "delay_after")


def frame_gap(baudrate: int) -> float:
    """The silence that parts two RTU frames (t3.5), in seconds."""
    return FAST_GAP if baudrate > FAST_BAUDRATE else 3.5 * CHARACTER_BITS / baudrate


@dataclass(frozen=True)
class LineSettings:
    """A serial line as the user wants it; made by :func:`check_line`."""

    name: str
    #: pyserial's keywords.
    port: Mapping[str, Any]
    #: The keywords of a line's :class:`mbcore.session.Session`; times in seconds.
    session: Mapping[str, Any]
    direction: Direction
    #: Wait for an absent device, and open one again that was away.
    reopen: bool
    #: Have a USB adapter hand on bytes at once.
    low_latency: bool
    #: Let the compiled loop carry the bytes; None: where it can.
    engine: bool | None
    #: Run that loop with real-time priority.
    realtime: bool

    @property
    def character_time(self) -> float:
        """Seconds that a character takes on the line."""
        return float(CHARACTER_BITS / self.port["baudrate"])


def check_line(given: Mapping[str, Any], framer: type, store: ModbusServerContext) -> LineSettings:
    """The settings that StartSerialServer's keywords mean.

    :param given: some of :data:`mbcore.server.options.LINE_KEYWORDS`
    :raises ConfigurationError: for a value that cannot be used; pyserial judges speed and character format when it opens the port
    """
    name = given.get("port", "/dev/ttyS0")
    if not isinstance(name, str | os.PathLike) or not os.fspath(name):
        raise ConfigurationError(f'the serial port is {name!r}: give port= the name of a device, e.g. "/dev/ttyUSB0"')
    baudrate = check_count("baudrate", given.get("baudrate", 19200), 1)
    port = {
        "baudrate": baudrate,
        "bytesize": given.get("bytesize", 8),
        "parity": given.get("parity", "N"),
        "stopbits": given.get("stopbits", 1),
        "xonxoff": given.get("xonxoff", False),
        "rtscts": given.get("rtscts", False),
    }
    flags = {name: check_choice(name, given.get(name, default), (True, False)) for name, default in _FLAGS.items()}
    return LineSettings(
        os.fspath(name),
        port,
        _session_keywords(given, baudrate, framer, store),
        check_direction(**{name: given[name] for name in _DIRECTION_KEYWORDS if name in given}, rtscts=port["rtscts"]),
        engine=check_choice("engine", given.get("engine"), (True, False, None)),
        **flags,
    )


def _session_keywords(given: Mapping[str, Any], baudrate: int, framer: type, store: ModbusServerContext) -> dict[str, Any]:
    gap, delay = given.get("frame_gap"), given.get("reply_delay")
    gap = frame_gap(baudrate) if gap is None else check_time("frame_gap", gap, 0.0001, LONGEST_GAP)
    # Only RTU needs silence to know where a frame begins.
    usual = gap if issubclass(framer, ModbusRtuFramer) else 0.0
    delay = usual if delay is None else check_time("reply_delay", delay, 0, LONGEST_REPLY)
    deadline = check_time("reply_deadline", given.get("reply_deadline", REPLY_DEADLINE), 0, LONGEST_REPLY)
    if 0 < deadline <= delay:
        raise ConfigurationError(
            f"reply_deadline is {deadline:g} s and no reply would go out before {delay:g} s of reply_delay or frame gap are over:"
            " give a later one, or 0 for none"
        )
    return {
        "frame_gap": gap,
        "reply_delay": delay,
        "reply_deadline": deadline,
        "echo": check_choice("echo", given.get("echo", "auto"), ECHOES),
        "character_time": CHARACTER_BITS / baudrate,
        "paced": not is_pseudo_terminal(given.get("port", "/dev/ttyS0")),
        "units": check_units(given.get("units"), store),
    }
