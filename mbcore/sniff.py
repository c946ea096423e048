"""``mbcore sniff``: listens to a serial line and prints what both sides say; sends nothing. What the bytes mean is mbcore.monitor's."""

import os
import select
import struct
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from datetime import datetime
from typing import IO, Any

from mbcore.constants import ExceptionCode, FunctionCode
from mbcore.errors import ConfigurationError, LineError
from mbcore.framer import Framer, ModbusRtuFramer, build_request
from mbcore.monitor import Frame, Monitor, Tally

CHUNK = 4096
SHOWN_VALUES = 8
SHOWN_BYTES = 32
#: Where Wireshark's Modbus RTU dissector is told to see the units; what tells requests from responses of the same length.
PORT = 502
DISSECTOR = ("-o", f"mbrtu.tcp.port:{PORT}", "-o", "mbrtu.crc_verification:TRUE")


class Capture:
    """A pcap file that names Wireshark's dissector in each record, so that it opens without any setting.

    Its link type is Wireshark's own for exported PDUs. Frames of ASCII and binary lines, which Wireshark can't read, stand there as RTU
    frames of the same contents; damaged ones as they are.

    :param path: the file; what it held is lost
    :raises ConfigurationError: it can't be written
    """

    MAGIC_NANOSECONDS = 0xA1B23C4D
    LINKTYPE_WIRESHARK_UPPER_PDU = 252
    # Tags of an exported PDU.
    END, DISSECTOR_NAME, IPV4_SOURCE, IPV4_DESTINATION, PORT_TYPE, SOURCE_PORT, DESTINATION_PORT = 0, 12, 20, 21, 24, 25, 26
    TCP = 2
    MASTER = (bytes([10, 0, 0, 0]), 50000)

    def __init__(self, path: str, framer: type[Framer] = ModbusRtuFramer) -> None:
        try:
            self._file = open(path, "wb", buffering=0)  # noqa: SIM115 - closed by close()
        except OSError as error:
            raise ConfigurationError(f"{path} can't be written: {(error.strerror or str(error)).lower()}; name another file") from error
        self.path = path
        self._as_it_is = framer is ModbusRtuFramer
        self._write(struct.pack("<IHHiIII", self.MAGIC_NANOSECONDS, 2, 4, 0, 0, 0x40000, self.LINKTYPE_WIRESHARK_UPPER_PDU))

    def add(self, frame: Frame, at: float) -> None:
        """Write one frame; ``at`` is its time in seconds since 1970."""
        raw, tags = frame.raw, [(self.DISSECTOR_NAME, b"data")]
        if frame.unit is not None:
            raw = raw if self._as_it_is else build_request(ModbusRtuFramer, frame.pdu, frame.unit)
            unit = (bytes([10, 0, 1, frame.unit]), PORT)
            (source, source_port), (target, target_port) = (unit, self.MASTER) if frame.kind == "response" else (self.MASTER, unit)
            tags = [
                (self.DISSECTOR_NAME, b"mbrtu"),
                (self.IPV4_SOURCE, source),
                (self.IPV4_DESTINATION, target),
                (self.PORT_TYPE, struct.pack(">I", self.TCP)),
                (self.SOURCE_PORT, struct.pack(">I", source_port)),
                (self.DESTINATION_PORT, struct.pack(">I", target_port)),
            ]
        record = b"".join(map(_tag, *zip(*tags, (self.END, b""), strict=True))) + raw
        seconds, nanoseconds = divmod(round(at * 1e9), 1_000_000_000)
        self._write(struct.pack("<IIII", seconds, nanoseconds, len(record), len(record)) + record)

    def close(self) -> None:
        self._file.close()

    def _write(self, data: bytes) -> None:
        try:
            self._file.write(data)
        except OSError as error:
            raise LineError(f"{self.path} can't be written on: {(error.strerror or str(error)).lower()}") from error


def _tag(number: int, value: bytes) -> bytes:
    padding = b"\0" * (-len(value) % 4)
    return struct.pack(">HH", number, len(value) + len(padding)) + value + padding


class Sniffer:
    """Listens on an open port until it is stopped, has heard enough, or the port has gone; then prints the table of the units.

    :param port: an open ``serial.Serial``
    :param monitor: takes the line apart
    :param title: what is listened to, printed first
    :param capture: where the frames are written too
    :param quiet: print the table only
    :param count: end after so many frames, damaged ones among them; None: go on
    :param seconds: end after so many seconds; None: go on
    """

    def __init__(
        self,
        port: Any,
        monitor: Monitor,
        title: str,
        *,
        capture: Capture | None = None,
        quiet: bool = False,
        count: int | None = None,
        seconds: float | None = None,
        out: IO[str] | None = None,
    ) -> None:
        self._port = port
        self._monitor = monitor
        self._title = title
        self._capture = capture
        self._quiet = quiet
        self._left = count
        self._seconds = seconds
        self._out = out or sys.stdout
        # What is written to it ends the wait, whatever it is: a signal may come just before the wait begins.
        self._woken, self.wake_fd = os.pipe()
        os.set_blocking(self.wake_fd, False)

    def stop(self) -> None:
        """End; may be called by a signal's handler."""
        self._signal(b"s")

    def show_table(self) -> None:
        """Print the table and go on; may be called by a signal's handler."""
        self._signal(b"t")

    def _signal(self, what: bytes) -> None:
        with suppress(BlockingIOError):  # as many are waiting already as fit
            os.write(self.wake_fd, what)

    def close(self) -> None:
        """Let go of what wakes it up; the port stays open."""
        os.close(self._woken)
        os.close(self.wake_fd)

    def run(self) -> None:
        """Listen to the end.

        :raises LineError: the port has gone, or the capture can't be written any more; the table is printed before
        """
        self._started, self._wall = time.monotonic(), time.time()
        self._print(f"{self._title}; time 0 is {datetime.fromtimestamp(self._wall).isoformat(' ', 'milliseconds')}")
        if not self._quiet:
            self._print(_line("time", "gap ms", "unit", "", "function"))
        with ExitStack() as at_end:
            at_end.callback(self._end)
            while self._left is None or self._left > 0:
                patience = self._patience()
                if patience == 0 and self._is_over():
                    break
                ready, _, _ = select.select([self._port, self._woken], [], [], patience)
                if self._woken in ready and self._hear_signals():
                    break
                if self._port in ready:
                    self._report(self._monitor.receive(self._read(), time.monotonic()))
                else:
                    self._report(self._monitor.expire(time.monotonic()))

    def _is_over(self) -> bool:
        return self._seconds is not None and time.monotonic() >= self._started + self._seconds

    def _patience(self) -> float | None:
        ends = [self._monitor.deadline(), None if self._seconds is None else self._started + self._seconds]
        known = [end for end in ends if end is not None]
        return max(0.0, min(known) - time.monotonic()) if known else None

    def _hear_signals(self) -> bool:
        """Do what :meth:`show_table` asked for; whether :meth:`stop` was called."""
        heard = os.read(self._woken, CHUNK)
        if b"t" in heard:
            self._print(self.table())
        return b"s" in heard

    def _read(self) -> bytes:
        try:
            data = os.read(self._port.fileno(), CHUNK)
        except BlockingIOError:  # taken since
            return b""
        except OSError as error:
            raise self._gone() from error
        if not data:
            raise self._gone()
        return data

    def _gone(self) -> LineError:
        return LineError(f"the serial port {self._port.name} is gone: plug the adapter in and start again")

    def _end(self) -> None:
        try:
            self._report(self._monitor.expire(time.monotonic()))
            self._report(self._monitor.finish())
        finally:
            self._print(self.table())

    def _report(self, frames: Sequence[Frame]) -> None:
        for frame in frames if self._left is None else frames[: max(0, self._left)]:
            if self._capture:
                self._capture.add(frame, self._wall + frame.start - self._started)
            if not self._quiet:
                self._print(frame_line(frame, max(0.0, frame.start - self._started)))
        if self._left is not None:
            self._left -= len(frames)

    def _print(self, text: str) -> None:
        print(text, file=self._out, flush=True)

    def table(self) -> str:
        """What every unit did so far, and what the line lost."""
        monitor = self._monitor
        head = ("unit", "requests", "answers", "exceptions", "no answer", "damaged", "unasked", "min ms", "mean ms", "max ms")
        rows = [head, *(_row(unit, tally) for unit, tally in sorted(monitor.units.items()))]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
        lines.append(f"damaged frames: {monitor.damaged_frames}, discarded bytes: {monitor.discarded_bytes}")
        if monitor.discarded_bytes and not monitor.units:
            lines.append("No frame was whole: compare -b, -m and --framer with what the master uses, and A with B.")
        elif not monitor.units:
            lines.append("Nothing was heard: does the master ask, and is this its line?")
        return "\n".join(["", *lines])


def listen(port: Any) -> None:
    """Let an open port hear only: no driver is switched on, and bytes are handed on at once."""
    with suppress(OSError):  # a port without modem lines
        port.rts = False
    with suppress(OSError, ValueError, NotImplementedError):  # one whose driver knows nothing of it
        port.set_low_latency_mode(True)


# ---- text ----


def frame_line(frame: Frame, at: float) -> str:
    """One frame as it is printed; ``at`` is its time in seconds."""
    gap = "-" if frame.gap is None else f"{1000 * frame.gap:.1f}"
    if frame.unit is None:
        return _line(f"{at:.3f}", gap, "", "bad", _hex(frame.raw))
    return _line(f"{at:.3f}", gap, str(frame.unit), frame.kind, _said(frame))


def _line(at: str, gap: str, unit: str, kind: str, text: str) -> str:
    return f"{at:>10}  {gap:>8}  {unit:>4}  {kind:<8}  {text}"


def _said(frame: Frame) -> str:
    code = frame.pdu[0] & 0x7F
    name = f"{code:02d} {_name(FunctionCode, code)}"
    if frame.fields is None and code not in list(FunctionCode):
        return f"{name}: {_hex(frame.pdu[1:])}"
    if frame.fields is None:
        return f"{name}: not valid, {_hex(frame.pdu)}"
    if "exception_code" in frame.fields:
        exception = frame.fields["exception_code"]
        return f"{name}: exception {exception:02d} {_name(ExceptionCode, exception)}"
    return ": ".join(filter(None, [name, ", ".join(_fields(frame.fields))]))


def _name(codes: type[FunctionCode] | type[ExceptionCode], code: int) -> str:
    return codes(code).name.lower().replace("_", " ") if code in list(codes) else "of its own"


def _fields(fields: Mapping[str, Any]) -> Iterator[str]:
    for name, value in fields.items():
        if name != "function_code":
            yield f"{name.replace('_', ' ')} {_shown(value)}"


def _shown(value: Any) -> str:
    match value:
        case bool():
            return "on" if value else "off"
        case bytes():
            return _hex(value)
        case dict():
            return " ".join(f"{key}={text.decode('latin-1')!r}" for key, text in value.items()) or "none"
        case list() | tuple():
            shown = " ".join(f"({_shown(one)})" if isinstance(one, (list, tuple)) else str(int(one)) for one in value[:SHOWN_VALUES])
            return f"{shown} ... ({len(value)})" if len(value) > SHOWN_VALUES else shown or "none"
    return str(value)


def _hex(data: bytes) -> str:
    shown = data[:SHOWN_BYTES].hex(" ")
    return f"{shown} ... ({len(data)} bytes)" if len(data) > SHOWN_BYTES else shown or "no data"


def _row(unit: int, tally: Tally) -> tuple[str, ...]:
    counts = (tally.requests, tally.answers, tally.exceptions, tally.unanswered, tally.damaged, tally.unasked)
    times = (tally.shortest, tally.mean, tally.longest)
    return (str(unit), *map(str, counts), *(f"{1000 * seconds:.1f}" if tally.timed else "-" for seconds in times))
