"""The framers as pymodbus' callers use them: bytes in, frames looked at one after the other, messages handed to a callback."""

from types import SimpleNamespace

import pytest
from adu import LINES, pdu

from mbcore.errors import ConfigurationError

REQUEST = pdu("03 0001 0002")
NAMES = ["socket", "rtu", "ascii", "binary", "tls"]
each = pytest.mark.parametrize("line", [LINES[name] for name in NAMES], ids=NAMES)


class Decoder:
    """Stands for a ServerDecoder: keeps what it is asked to decode."""

    def __init__(self, known=(3,)):
        self.known = known

    def decode(self, message):
        return SimpleNamespace(pdu=message) if message[0] in self.known else None


@each
def test_a_frame_is_found_taken_and_dropped(line):
    framer = line.framer(Decoder())
    assert not framer.isFrameReady()
    assert framer.getFrame() == b""
    framer.addToFrame(line.wrap(REQUEST, 1, 7))
    assert framer.isFrameReady()
    assert framer.checkFrame()
    assert framer.getFrame() == REQUEST
    framer.advanceFrame()
    assert not framer.checkFrame()
    assert framer.getFrame() == b""
    assert framer.getRawFrame() == b""


@each
def test_half_a_frame_waits_for_the_rest(line):
    framer, frame = line.framer(Decoder()), line.wrap(REQUEST, 1, 7)
    framer.addToFrame(frame[:-2])
    assert not framer.checkFrame()
    framer.advanceFrame()
    assert framer.getRawFrame() == frame[:-2]
    framer.addToFrame(frame[-2:])
    assert framer.checkFrame()


@each
def test_frames_follow_one_another(line):
    framer, seen = line.framer(Decoder()), []
    framer.processIncomingPacket(line.wrap(REQUEST, 1, 7) + line.wrap(REQUEST, 1, 8), lambda message: seen.append(message.pdu), unit=[1])
    assert seen == [REQUEST, REQUEST]


@each
def test_a_reset_forgets_all(line):
    framer = line.framer(Decoder())
    framer.addToFrame(line.wrap(REQUEST, 1, 7))
    assert framer.checkFrame()
    framer.resetFrame()
    assert framer.getRawFrame() == b""
    assert not framer.checkFrame()


@each
def test_the_message_knows_where_it_came_from(line):
    framer, seen = line.framer(Decoder()), []
    framer.processIncomingPacket(line.wrap(REQUEST, 9, 0x1234), seen.append, unit=0)
    (message,) = seen
    assert message.unit_id == (0 if line.name == "tls" else 9)
    assert message.transaction_id == (0x1234 if line.name == "socket" else 0)
    assert message.protocol_id == 0


@pytest.mark.parametrize(
    ("unit", "single", "expected"), [(9, False, 1), ([1, 9], False, 1), ([1, 2], False, 0), ([1], True, 1), (255, False, 1)]
)
@pytest.mark.parametrize("line", [LINES[name] for name in NAMES if name != "tls"], ids=[name for name in NAMES if name != "tls"])
def test_only_the_units_asked_for_are_handed_on(line, unit, single, expected):
    framer, seen = line.framer(Decoder()), []
    framer.processIncomingPacket(line.wrap(REQUEST, 9, 7), seen.append, unit=unit, single=single)
    assert len(seen) == expected


@each
def test_what_the_decoder_does_not_know_is_passed_over(line):
    framer, seen = line.framer(Decoder(known=[6])), []
    framer.processIncomingPacket(line.wrap(REQUEST, 1, 7) + line.wrap(pdu("06 0001 0002"), 1, 7), seen.append, unit=1)
    assert [message.pdu for message in seen] == [pdu("06 0001 0002")]


@each
def test_a_packet_is_built_around_a_message(line):
    message = SimpleNamespace(function_code=3, encode=lambda: REQUEST[1:], unit_id=1, transaction_id=7, protocol_id=0)
    assert line.framer(Decoder()).buildPacket(message) == line.wrap(REQUEST, 1, 7)


def test_a_packet_keeps_its_protocol_id():
    message = SimpleNamespace(function_code=3, encode=lambda: b"", unit_id=0xFF, transaction_id=1, protocol_id=0x1234)
    packet = LINES["socket"].framer(None).buildPacket(message)
    assert packet == pdu("0001 1234 0002 FF 03")
    framer = LINES["socket"].framer(None)
    framer.addToFrame(packet)
    assert framer.checkFrame()
    result = SimpleNamespace()
    framer.populateResult(result)
    assert (result.transaction_id, result.protocol_id, result.unit_id) == (1, 0x1234, 0xFF)


def test_a_message_too_long_for_a_frame_is_the_callers_mistake():
    message = SimpleNamespace(function_code=3, encode=lambda: bytes(253), unit_id=1, transaction_id=7, protocol_id=0)
    with pytest.raises(ConfigurationError, match="254"):
        LINES["socket"].framer(None).buildPacket(message)


def test_without_a_decoder_nothing_can_be_decoded():
    with pytest.raises(ConfigurationError, match="decoder"):
        LINES["socket"].framer().processIncomingPacket(b"", print, unit=1)


@each
def test_what_nobody_takes_stays_bounded(line):
    framer = line.framer(Decoder())
    for _ in range(100):
        framer.addToFrame(bytes(1000))
    assert len(framer.getRawFrame()) <= 65536
