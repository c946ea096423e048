"""A serial line, byte for byte: what went wrong on other servers' lines must not silence this one."""

import time

import pytest
import serial
from adu import wrap_ascii
from live import raw

pytestmark = pytest.mark.live

PATIENCE = 10
ASKED = raw.rtu(raw.READ_ONE)
ANSWER = raw.rtu(raw.READ_ONE_ANSWER)


@pytest.fixture(scope="module")
def rtu_device(serve_all):
    return serve_all("rtu")


@pytest.fixture(scope="module")
def ascii_device(serve_all):
    return serve_all("ascii")


@pytest.fixture
def rtu_port(rtu_device):
    """The master's end of the line."""
    with serial.Serial(rtu_device.path, 19200, timeout=PATIENCE) as port:
        yield port


@pytest.fixture
def ascii_port(ascii_device):
    with serial.Serial(ascii_device.path, 19200, timeout=PATIENCE) as port:
        yield port


def heard_within(port, seconds, count=1):
    """What comes within so many seconds, `count` bytes at most."""
    port.timeout = seconds
    try:
        return port.read(count)
    finally:
        port.timeout = PATIENCE


@pytest.mark.parametrize(
    ("bad", "own_answer"),
    [
        # A right CRC around a PDU that is wrong: pymodbus 2.5.3 closed the port over these, for ever.
        (raw.rtu(bytes.fromhex("10 0001 0002 02 0001")), raw.rtu(bytes.fromhex("90 03"))),
        (raw.rtu(bytes.fromhex("17 0000 0001 0000 0001 01 00")), raw.rtu(bytes.fromhex("97 03"))),
        (raw.rtu(bytes.fromhex("14 03 06 0004")), raw.rtu(bytes.fromhex("94 03"))),
        (raw.rtu(bytes.fromhex("15 03 06 0004")), raw.rtu(bytes.fromhex("95 03"))),
        # A cut-off write of 123 registers: it waited for the rest while requests went by.
        (raw.rtu(bytes.fromhex("10 0000 007B F6") + bytes(246))[:7], b""),
        (ASKED[:-1] + b"\0", b""),
        (b"\0", b""),
        (b"\xff" * 40, b""),
        (bytes(range(256)), b""),
        # Other slaves' traffic: a request and its answer, an answer to a write.
        (raw.rtu(raw.READ_ONE, unit=5) + raw.rtu(raw.READ_ONE_ANSWER, unit=5), b""),
        (raw.rtu(bytes.fromhex("10 0001 0002"), unit=5), b""),
    ],
    ids=lambda data: data.hex()[:32],
)
def test_rtu_line_recovers_from(bad, own_answer, rtu_port):
    rtu_port.write(bad)
    assert rtu_port.read(len(own_answer)) == own_answer
    assert heard_within(rtu_port, 0.1) == b"", "between two frames the line is silent"
    rtu_port.write(ASKED)
    assert rtu_port.read(len(ANSWER)) == ANSWER


@pytest.mark.parametrize(
    "bad",
    [
        wrap_ascii(raw.READ_ONE)[:-4] + b"00\r\n",  # pymodbus 2.5.3 answered nothing after one wrong LRC
        b":0103zz010001FA\r\n",  # and died of what is no hexadecimal digit (2917)
        b":\r\n",
        b"\r\n" * 50,
        b":010300010001",
        b"0" * 2000,
        b":" + b"0" * 2000 + b"\r\n",
        b"\xff\xfe\0",
    ],
    ids=lambda data: data.hex()[:32],
)
def test_ascii_line_recovers_from(bad, ascii_port):
    ascii_port.write(bad)
    ascii_port.write(wrap_ascii(raw.READ_ONE))
    answer = wrap_ascii(raw.READ_ONE_ANSWER)
    assert ascii_port.read(len(answer)) == answer


def test_broadcast_is_executed_and_not_answered(rtu_port):
    for value in ("5AA5", "0103"):
        rtu_port.write(raw.rtu(bytes.fromhex("06 0001" + value), unit=0))
        assert heard_within(rtu_port, 0.2) == b""
        rtu_port.write(ASKED)
        answer = raw.rtu(bytes.fromhex("03 02" + value))
        assert rtu_port.read(len(answer)) == answer


def test_absent_unit_stays_silent(rtu_port):
    rtu_port.write(raw.rtu(raw.READ_ONE, unit=9))
    assert heard_within(rtu_port, 0.2) == b""
    rtu_port.write(ASKED)
    assert rtu_port.read(len(ANSWER)) == ANSWER


def test_request_may_dribble_in_byte_by_byte(ascii_port):
    """A second is allowed between two characters of an ASCII frame (SL 2.5.2)."""
    frame = wrap_ascii(raw.READ_ONE)
    for at, byte in enumerate(frame):
        if at == len(frame) // 2:
            time.sleep(0.2)
        ascii_port.write(bytes([byte]))
    answer = wrap_ascii(raw.READ_ONE_ANSWER)
    assert ascii_port.read(len(answer)) == answer


def test_master_may_close_and_open_its_port(rtu_device):
    for _ in range(3):
        with serial.Serial(rtu_device.path, 19200, timeout=PATIENCE) as port:
            port.write(ASKED)
            assert port.read(len(ANSWER)) == ANSWER
