"""ADUs built and taken apart from the text of the specifications alone: the second opinion that the core is checked against.

A :class:`Line` is a way of framing with its options; a :class:`Master` asks a session over one, whole, byte by byte or between two glued
frames. Nothing of mbcore's codec, framers or checksums is used here.
"""

import gc
import os
import subprocess
import sys
import threading
from typing import Any, NamedTuple

import pytest

import mbcore
from mbcore import (
    ModbusAsciiFramer,
    ModbusBinaryFramer,
    ModbusControlBlock,
    ModbusRtuFramer,
    ModbusSequentialDataBlock,
    ModbusServerContext,
    ModbusSlaveContext,
    ModbusSocketFramer,
    ModbusTlsFramer,
)
from mbcore.line import LineSession
from mbcore.session import Session

FRAME_GAP = 0.00175  # t3.5 above 19200 Bd, SL 2.5.1.1
ECHO = bytes.fromhex("08 0000 A537")  # AP 6.8, 00 Return Query Data: answered by itself, changes nothing but counters
COMPANION = b"\x0b"  # AP 6.9, Get Comm Event Counter: glued to the others, changes not even the event counter


class Adu(NamedTuple):
    """What one frame carries; `unit` and `transaction` are None where the framing has none."""

    unit: int | None
    transaction: int | None
    pdu: bytes


def crc16(data: bytes) -> int:
    """SL 6.2.2: polynomial A001, reflected, start FFFF."""
    register = 0xFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (0xA001 if register & 1 else 0)
    return register


def crc_bytes(data: bytes) -> bytes:
    """The CRC as it stands on the wire: low byte first (SL 2.5.1.2)."""
    return crc16(data).to_bytes(2, "little")


def lrc(data: bytes) -> int:
    """SL 6.2.1: two's complement of the sum of the bytes."""
    return -sum(data) & 0xFF


def response_size(pdu: bytes) -> int:
    """Length of the response PDU at the head of `pdu`, by its function code (AP 6)."""
    match pdu[0]:
        case code if code & 0x80:
            return 2
        case 1 | 2 | 3 | 4 | 12 | 17 | 20 | 21 | 23:
            return 2 + pdu[1]
        case 5 | 6 | 8 | 11 | 15 | 16:
            return 5
        case 7:
            return 2
        case 22:
            return 7
        case 24:
            return 3 + int.from_bytes(pdu[1:3])
        case 43:
            size = 7
            for _ in range(pdu[6]):
                size += 2 + pdu[size + 1]
            return size
    raise AssertionError(f"no response starts like {pdu.hex()}")


def reads_as_response(pdu: bytes) -> bool:
    """Whether `pdu` is as long as a response of its function."""
    try:
        return response_size(pdu) == len(pdu)
    except (AssertionError, IndexError):
        return False


def wrap_socket(pdu: bytes, unit: int = 1, transaction: int = 0) -> bytes:
    # TG 3.1.3: transaction id, protocol id 0, length of unit + PDU, unit
    return transaction.to_bytes(2) + b"\0\0" + (1 + len(pdu)).to_bytes(2) + bytes([unit]) + pdu


def unwrap_socket(stream: bytes) -> list[Adu]:
    adus = []
    while stream:
        length = int.from_bytes(stream[4:6])
        assert stream[2:4] == b"\0\0", "protocol id of a reply"
        assert 2 <= length <= 254
        assert len(stream) >= 6 + length, "the reply is cut off"
        adus.append(Adu(stream[6], int.from_bytes(stream[:2]), stream[7 : 6 + length]))
        stream = stream[6 + length :]
    return adus


def wrap_rtu(pdu: bytes, unit: int = 1, transaction: int = 0) -> bytes:
    body = bytes([unit]) + pdu
    return body + crc_bytes(body)


def unwrap_rtu(stream: bytes) -> list[Adu]:
    adus = []
    while stream:
        size = 1 + response_size(stream[1:])
        if crc_bytes(stream[:size]) != stream[size : size + 2]:
            size = len(stream) - 2  # 08/00 echoes any number of bytes
        assert size + 2 <= 256
        assert crc_bytes(stream[:size]) == stream[size : size + 2], "CRC of a reply"
        adus.append(Adu(stream[0], None, stream[1:size]))
        stream = stream[size + 2 :]
    return adus


def wrap_ascii(pdu: bytes, unit: int = 1, transaction: int = 0) -> bytes:
    body = bytes([unit]) + pdu
    return b":" + (body + bytes([lrc(body)])).hex().upper().encode() + b"\r\n"


def unwrap_ascii(stream: bytes, end: bytes = b"\r\n") -> list[Adu]:
    adus = []
    while stream:
        stop = stream.index(end)
        assert stream[:1] == b":"
        assert stop + 2 <= 513
        assert stream[1:stop] == stream[1:stop].upper(), "SL 2.5.2: 0-9 and A-F are sent"
        data = bytes.fromhex(stream[1:stop].decode())
        assert sum(data) & 0xFF == 0, "LRC of a reply"
        adus.append(Adu(data[0], None, data[1:-1]))
        stream = stream[stop + 2 :]
    return adus


def wrap_binary(pdu: bytes, unit: int = 1, transaction: int = 0) -> bytes:
    # pymodbus: each { and } of the data doubled, the CRC over the doubled bytes, itself as it is
    body = bytes([unit, pdu[0]]) + pdu[1:].replace(b"{", b"{{").replace(b"}", b"}}")
    return b"{" + body + crc_bytes(body) + b"}"


def unwrap_binary(stream: bytes) -> list[Adu]:
    adus = []
    while stream:
        assert stream[:1] == b"{"
        stop = stream.index(b"}", 5)
        while crc_bytes(stream[1 : stop - 2]) != stream[stop - 2 : stop]:
            stop = stream.index(b"}", stop + 1)
        data = stream[3 : stop - 2].replace(b"{{", b"{").replace(b"}}", b"}")
        adus.append(Adu(stream[1], None, stream[2:3] + data))
        stream = stream[stop + 1 :]
    return adus


def wrap_tls(pdu: bytes, unit: int = 1, transaction: int = 0) -> bytes:
    return pdu


def unwrap_tls(stream: bytes) -> list[Adu]:
    adus = []
    while stream:
        size = response_size(stream)
        assert len(stream) >= size, "the reply is cut off"
        adus.append(Adu(None, None, stream[:size]))
        stream = stream[size:]
    return adus


class Line(NamedTuple):
    """A way of framing: how requests are wrapped, replies unwrapped, and the options of its session."""

    name: str
    framer: type
    wrap: Any
    unwrap: Any
    options: dict[str, Any]
    self_delimiting: bool  # an ADU's end is told by the frame, not by its function code or by silence

    def session(self, store, control=None, **options) -> Session:
        kind = LineSession if self.name.endswith("-serial") else Session
        return kind(self.framer, store, control or ModbusControlBlock(), **self.options | options)

    def tells_end(self, pdu: bytes) -> bool:
        """Whether the end of a frame is told whose PDU is too short or too long for its function."""
        if self.name == "tls":
            return False  # a stream of these tells a frame's end by its function code only
        # On a shared line a PDU that reads as a response is one, perhaps the echo of our own.
        return self.name != "rtu-serial" or not reads_as_response(pdu)


SERIAL = {"frame_gap": FRAME_GAP}
LINES = {
    line.name: line
    for line in (
        Line("socket", ModbusSocketFramer, wrap_socket, unwrap_socket, {}, True),
        Line("rtu", ModbusRtuFramer, wrap_rtu, unwrap_rtu, {}, False),  # RTU over TCP
        Line("rtu-serial", ModbusRtuFramer, wrap_rtu, unwrap_rtu, SERIAL, False),
        Line("ascii", ModbusAsciiFramer, wrap_ascii, unwrap_ascii, {}, True),
        Line("ascii-serial", ModbusAsciiFramer, wrap_ascii, unwrap_ascii, SERIAL, True),
        Line("binary", ModbusBinaryFramer, wrap_binary, unwrap_binary, {}, True),
        Line("tls", ModbusTlsFramer, wrap_tls, unwrap_tls, {}, False),
    )
}


class Master:
    """Asks one session; time passes as on a line, and what the session wants to be called for is called when it is due."""

    def __init__(self, line: Line, delivery: str, session: Session):
        self.line, self.delivery, self.session = line, delivery, session
        self.now = 1000.0
        self.transaction = 0

    def send(self, stream: bytes, piece: int = 0) -> bytes:
        """All that the session says to `stream`, given in pieces of `piece` bytes (0: whole) and then silence."""
        self.now += 1.0
        out = b""
        step = piece or max(1, len(stream))
        for start in range(0, len(stream), step):
            out += self.session.receive(stream[start : start + step], self.now)
            self.now += 0.0002
        return out + self.silence()

    def silence(self) -> bytes:
        out = b""
        for _ in range(1000):
            due = self.session.deadline()
            if due is None:
                return out
            self.now = max(self.now, due)
            out += self.session.expire(self.now)
        raise AssertionError("the session has a deadline after a thousand expiries")

    def ask(self, pdu: bytes, unit: int = 1) -> bytes | None:
        """The response PDU to `pdu`, None when there is none; the head of the reply is checked."""
        wrap, unwrap = self.line.wrap, self.line.unwrap
        if self.line.name == "tls" and pdu[0] == 8:
            return self.ask_alone(pdu, unit)  # 08/00 is as long as its segment
        first = self.transaction + 1
        if self.delivery != "glued":
            self.transaction += 1
            replies = unwrap(self.send(wrap(pdu, unit, first), piece=self.delivery == "bytewise"))
            return self._checked(replies, unit, first)
        self.transaction += 3
        glued = wrap(COMPANION, unit, first) + wrap(pdu, unit, first + 1) + wrap(COMPANION, unit, first + 2)
        before, *replies, after = unwrap(self.send(glued))
        assert before.pdu[:3] == after.pdu[:3] == COMPANION + b"\0\0"
        return self._checked(replies, unit, first + 1)

    def ask_alone(self, pdu: bytes, unit: int = 1) -> bytes | None:
        """As `ask`, for a PDU whose length its function code does not tell: silence or the segment delimits it where the frame doesn't."""
        if self.line.self_delimiting:
            return self.ask(pdu, unit)
        self.transaction += 1
        replies = self.line.unwrap(self.send(self.line.wrap(pdu, unit, self.transaction)))
        return self._checked(replies, unit, self.transaction)

    def ask_malformed(self, pdu: bytes) -> bytes | None:
        """As `ask_alone`, for a PDU that is too short or too long for its function: for tests that are `carried.malformed`."""
        assert self.line.tells_end(pdu)
        return self.ask_alone(pdu)

    def ask_miscounted(self, pdu: bytes) -> bytes | None:
        """As `ask`, for a PDU that is not as long as its byte count says: for tests that are `carried.miscounted`."""
        assert self.line.self_delimiting, "the byte count delimits the frame"
        return self.ask(pdu)

    def _checked(self, replies: list[Adu], unit: int, transaction: int) -> bytes | None:
        assert len(replies) <= 1, "two replies to one request"
        if not replies:
            return None
        assert replies[0].unit in (None, unit)
        assert replies[0].transaction in (None, transaction)
        assert 1 <= len(replies[0].pdu) <= 253
        return replies[0].pdu


DELIVERIES = [(name, delivery) for name in LINES for delivery in ("whole", "bytewise", "glued")
              if not (delivery == "glued" and name.endswith("-serial"))]  # nobody answers while a line still speaks


def resident() -> int:
    """KiB of memory that this process has now; what it had at most, as `getrusage` tells, hides what leaks below that."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))


def all_there_is() -> tuple[int, int, int]:
    """Descriptors, Python's threads and the kernel's of this process: what must not grow."""
    gc.collect()
    return len(os.listdir("/proc/self/fd")), threading.active_count(), len(os.listdir("/proc/self/task"))


def pdu(text: str) -> bytes:
    """Bytes from hex with spaces."""
    return bytes.fromhex(text)


def words(*values: int) -> bytes:
    """16-bit fields, big-endian (AP 4.2)."""
    return b"".join(value.to_bytes(2) for value in values)


def refused(code: int, exception: int) -> bytes:
    """The exception response of function `code` (AP 7)."""
    return bytes([code | 0x80, exception])


def block(values, address: int = 0) -> ModbusSequentialDataBlock:
    return ModbusSequentialDataBlock(address, values)


def image(**tables) -> ModbusSlaveContext:
    """A unit whose blocks lie at the wire's addresses."""
    return ModbusSlaveContext(zero_mode=True, **tables)


def one_unit(slave: ModbusSlaveContext) -> ModbusServerContext:
    return ModbusServerContext(slaves=slave, single=True)


def units(**slaves) -> ModbusServerContext:
    """units(u1=..., u2=...): a server of several units."""
    return ModbusServerContext(slaves={int(name[1:]): slave for name, slave in slaves.items()}, single=False)


def master(line: str, store, control=None, delivery: str = "whole", **options) -> Master:
    """A master on a new session over the named line."""
    if not isinstance(store, ModbusServerContext):
        store = one_unit(store)
    return Master(LINES[line], delivery, LINES[line].session(store, control, **options))


every_line = pytest.mark.parametrize("line", LINES)
addressed_line = pytest.mark.parametrize("line", [name for name in LINES if name != "tls"])
serial_line = pytest.mark.parametrize("line", [name for name in LINES if name.endswith("-serial")])


RUN_SECONDS = 60
# For programs that are to have the mbcore of this process, be it the tree's or an installed one.
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(mbcore.__file__))}


def run_python(program: str, **variables: str) -> str:
    """What `program` prints in a Python of its own, with the mbcore of this one, whatever the current folder is.

    :param variables: of its environment, beside this one's
    """
    command = [sys.executable, "-P", "-c", program]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=RUN_SECONDS, env=ENVIRONMENT | variables).stdout
