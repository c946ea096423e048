"""The framers as pymodbus' callers use them: bytes in, frames looked at one after the other, messages handed to a callback."""

from types import SimpleNamespace

import pytest
from adu import LINES, pdu

from mbcore import ModbusSequentialDataBlock, ModbusServerContext, ModbusSlaveContext
from mbcore.errors import ConfigurationError
from mbcore.framer import face
from mbcore.server.options import find_framer

REQUEST = pdu("03 0001 0002")
RESPONSE = pdu("03 04 0000 0000")
NAMES = ["socket", "rtu", "ascii", "binary", "tls"]
FACES = {name: LINES[name]._replace(framer=getattr(face, LINES[name].framer.__name__)) for name in NAMES}
NO_HEADER = {
    "socket": {"tid": 0, "pid": 0, "len": 0, "uid": 0},
    "rtu": {"uid": 0, "len": 0, "crc": b"\0\0"},
    "ascii": {"lrc": "0000", "len": 0, "uid": 0},
    "binary": {"crc": 0, "len": 0, "uid": 0},
    "tls": {"len": 0},
}
each = pytest.mark.parametrize("line", FACES.values(), ids=FACES)


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
@pytest.mark.parametrize("line", [FACES[name] for name in NAMES[:-1]], ids=NAMES[:-1])
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
    packet = FACES["socket"].framer(None).buildPacket(message)
    assert packet == pdu("0001 1234 0002 FF 03")
    framer = FACES["socket"].framer(None)
    framer.addToFrame(packet)
    assert framer.checkFrame()
    result = SimpleNamespace()
    framer.populateResult(result)
    assert (result.transaction_id, result.protocol_id, result.unit_id) == (1, 0x1234, 0xFF)


def test_a_message_too_long_for_a_frame_is_the_callers_mistake():
    message = SimpleNamespace(function_code=3, encode=lambda: bytes(253), unit_id=1, transaction_id=7, protocol_id=0)
    with pytest.raises(ConfigurationError, match="254"):
        FACES["socket"].framer(None).buildPacket(message)


def test_without_a_decoder_nothing_can_be_decoded():
    with pytest.raises(ConfigurationError, match="decoder"):
        FACES["socket"].framer().processIncomingPacket(b"", print, unit=1)


@each
def test_what_nobody_takes_stays_bounded(line):
    framer = line.framer(Decoder())
    for _ in range(100):
        framer.addToFrame(bytes(1000))
    assert len(framer.getRawFrame()) <= 65536


@each
def test_what_is_there_can_be_looked_at_and_set(line):
    framer, frame = line.framer(Decoder()), line.wrap(REQUEST, 1, 7)
    assert (framer._buffer, framer._header) == (b"", NO_HEADER[line.name])
    framer._buffer = frame + frame[:2]
    assert framer.checkFrame()
    assert framer.getRawFrame() == framer._buffer == frame + frame[:2]
    framer.advanceFrame()
    assert (framer._buffer, framer._header) == (frame[:2], NO_HEADER[line.name])
    framer.resetFrame()
    assert (framer._buffer, framer._header) == (b"", NO_HEADER[line.name])


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("socket", {"tid": 7, "pid": 0, "len": 6, "uid": 9}),  # the length field: unit id and PDU
        ("rtu", {"uid": 9, "len": 8, "crc": LINES["rtu"].wrap(REQUEST, 9)[-2:]}),
        ("ascii", {"uid": 9, "len": 15, "lrc": int(LINES["ascii"].wrap(REQUEST, 9)[-4:-2], 16)}),  # up to CR LF
        ("binary", {"uid": 9, "len": 9, "crc": int.from_bytes(LINES["binary"].wrap(REQUEST, 9)[-3:-1], "big")}),  # up to the brace
        ("tls", {"len": 5}),
    ],
)
def test_the_header_says_what_the_frame_says(name, header):
    framer = FACES[name].framer(Decoder())
    framer.addToFrame(FACES[name].wrap(REQUEST, 9, 7))
    assert framer.checkFrame()
    assert framer._header == header


def test_the_header_is_what_a_result_is_filled_from():
    framer, result = FACES["rtu"].framer(Decoder()), SimpleNamespace()
    framer._header["uid"] = 17
    framer.populateResult(result)
    assert (result.unit_id, result.transaction_id, result.protocol_id) == (17, 0, 0)


def test_two_framers_share_nothing():
    one, other = FACES["rtu"].framer(Decoder()), FACES["rtu"].framer(Decoder())
    one._header["uid"] = 17
    one.addToFrame(b"\1")
    assert (other._buffer, other._header) == (b"", NO_HEADER["rtu"])


def test_an_rtu_header_can_be_taken_from_any_bytes():
    framer, frame = FACES["rtu"].framer(Decoder()), FACES["rtu"].wrap(RESPONSE, 17)
    for broken in (b"", frame[:1], frame[:-1], frame[:-1] + b"\0", b"\0" + frame):
        with pytest.raises(IndexError, match="no whole RTU frame"):
            framer.populateHeader(broken)
    framer.populateHeader(frame + b"\x11\x03")
    assert framer._header == {"uid": 17, "len": len(frame), "crc": frame[-2:]}
    framer.resetFrame()
    framer.addToFrame(frame)
    framer.populateHeader()
    assert framer._header["uid"] == 17
    assert framer.getFrame() == RESPONSE


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("socket", {"tid": 7, "pid": 0, "length": 6, "unit": 9, "fcode": 3}),
        ("rtu", {"unit": 9, "fcode": 3}),
        ("ascii", {"unit": 9, "fcode": 3}),
        ("binary", {"unit": 9, "fcode": 3}),
        ("tls", {"fcode": 3}),
    ],
)
def test_the_head_of_an_adu_is_read_from_a_beginning(name, head):
    framer, frame = FACES[name].framer(), FACES[name].wrap(REQUEST, 9, 7)
    enough = next(size for size in range(len(frame)) if framer.decode_data(frame[:size]))
    assert enough == {"socket": 8, "rtu": 2, "ascii": 5, "binary": 3, "tls": 1}[name]
    assert framer.decode_data(frame[:enough]) == framer.decode_data(frame) == head


def test_the_head_of_what_is_no_ascii_is_nothing():
    assert FACES["ascii"].framer().decode_data(b":0G03") == {}


@each
def test_packets_go_through_the_client(line):
    sent = []
    client = SimpleNamespace(send=lambda data: sent.append(data) or len(data), recv=lambda size: bytes(size))
    framer = line.framer(Decoder(), client)
    assert framer.client is client
    assert framer.sendPacket(b"abc") == 3
    assert sent == [b"abc"]
    assert framer.recvPacket(2) == b"\0\0"
    for use in (lambda: line.framer().sendPacket(b""), lambda: line.framer().recvPacket(1)):
        with pytest.raises(ConfigurationError, match="client="):
            use()


def test_a_method_of_the_scripts_own_is_called():
    class Blind(FACES["rtu"].framer):
        def checkFrame(self):
            return False

    framer, seen = Blind(Decoder()), []
    framer.processIncomingPacket(FACES["rtu"].wrap(REQUEST, 1), seen.append, unit=1)
    assert seen == []
    assert framer.getRawFrame() == FACES["rtu"].wrap(REQUEST, 1)


@each
def test_a_server_takes_it_for_the_compiled_framer(line):
    store = ModbusServerContext(slaves=ModbusSlaveContext(hr=ModbusSequentialDataBlock(0, [0] * 8), zero_mode=True))
    assert find_framer(line.framer) is line.framer
    session = line.session(store)
    assert vars(line.framer()) == {}
    assert session.receive(line.wrap(REQUEST, 1, 7), 0.0) == line.wrap(RESPONSE, 1, 7)
