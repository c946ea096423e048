"""How each framer delimits, checks and wraps: MBAP (TG 3.1), RTU and ASCII (SL 2.5), pymodbus' binary, bare PDUs over TLS."""

import pytest
from adu import (
    ECHO,
    LINES,
    addressed_line,
    block,
    crc_bytes,
    every_line,
    image,
    lrc,
    master,
    pdu,
    refused,
    units,
    words,
    wrap_ascii,
    wrap_binary,
    wrap_socket,
)

from mbcore import ModbusControlBlock
from mbcore.errors import FramingError
from mbcore.framer import build_request, parse_response

READ = pdu("03 0000 0002")
ANSWER = pdu("03 04 0005 0006")
WRITE = pdu("06 0001 BEEF")


@pytest.fixture
def slave():
    return image(hr=block([5, 6] + [0] * 200), co=block([0] * 10))


@pytest.fixture
def control():
    return ModbusControlBlock()


# Every framer

@every_line
@pytest.mark.parametrize("split", range(1, 17))
def test_a_frame_in_two_pieces_is_answered_once_complete(line, slave, split):
    it = master(line, slave)
    frame = it.line.wrap(READ)
    assert it.session.receive(frame[:split], 1.0) == (it.line.wrap(ANSWER) if split >= len(frame) else b"")
    if split < len(frame):
        assert it.session.receive(frame[split:], 1.0005) == it.line.wrap(ANSWER)


@every_line
def test_a_complete_frame_is_answered_at_once_without_a_deadline(line, slave):
    it = master(line, slave)
    assert it.session.deadline() is None
    assert it.session.receive(it.line.wrap(READ), 1.0) == it.line.wrap(ANSWER)
    assert it.session.deadline() is None


@every_line
def test_nothing_in_is_nothing_out(line, slave):
    it = master(line, slave)
    assert it.session.receive(b"", 1.0) == b""
    assert it.session.deadline() is None
    assert it.session.expire(2.0) == b""


@every_line
def test_reset_forgets_a_partial_frame(line, slave):
    it = master(line, slave)
    it.session.receive(it.line.wrap(READ)[:4], 1.0)
    it.session.reset()
    assert it.session.deadline() is None
    assert it.send(it.line.wrap(READ)) == it.line.wrap(ANSWER)


@pytest.mark.parametrize("line", [name for name in LINES if not name.endswith("-serial")])
@pytest.mark.parametrize("count", [2, 3, 50])
def test_frames_in_one_segment_are_answered_in_order(line, slave, count):
    it = master(line, slave)
    requests = [b"\x03" + words(n % 2, 1) for n in range(count)]
    out = it.session.receive(b"".join(it.line.wrap(request, 1, n) for n, request in enumerate(requests)), 1.0)
    assert out == b"".join(it.line.wrap(pdu("03 02") + words(5 + n % 2), 1, n) for n in range(count))


@pytest.mark.parametrize("line", [name for name in LINES if not name.endswith("-serial")])
@pytest.mark.parametrize("cut", range(1, 12))
def test_one_and_a_part_is_one_answer_then_another(line, slave, cut):
    it = master(line, slave)
    frame = it.line.wrap(READ)
    cut = min(cut, len(frame) - 1)
    assert it.session.receive(frame + frame[:cut], 1.0) == it.line.wrap(ANSWER)
    assert it.session.receive(frame[cut:], 1.0) == it.line.wrap(ANSWER)


@addressed_line
def test_the_reply_carries_the_units_id(line):
    it = master(line, units(u1=image(hr=block([1])), u2=image(hr=block([2])), u247=image(hr=block([247]))))
    for unit in (1, 2, 247):
        assert it.ask(pdu("03 0000 0001"), unit) == pdu("03 02") + words(unit)


@every_line
def test_largest_frames_pass_both_ways(line):
    it = master(line, image(hr=block([0x7B7D] * 125)))  # every byte is one that binary framing doubles
    assert it.ask(pdu("03 0000 007D")) == pdu("03 FA") + words(*[0x7B7D] * 125)
    assert it.ask(pdu("10 0000 007B F6") + words(*[0x7D7B] * 123)) == pdu("10 0000 007B")
    assert it.ask(pdu("03 0000 007B")) == pdu("03 F6") + words(*[0x7D7B] * 123)


# Socket: MBAP

def test_mbap_fields(slave):
    # transaction id, protocol id, length of unit + PDU, unit, PDU
    assert master("socket", slave).session.receive(pdu("1234 0000 0006 01 03 0000 0002"), 0.0) == pdu("1234 0000 0007 01 03 04 0005 0006")


@pytest.mark.parametrize("protocol", [1, 5, 0x0100, 0xFFFF])
def test_frame_of_another_protocol_is_discarded_unanswered_and_the_next_is_served(slave, protocol):
    session = master("socket", slave).session
    foreign = words(7, protocol, 6) + b"\x01" + WRITE
    assert session.receive(foreign, 0.0) == b""
    assert session.receive(foreign + wrap_socket(READ, 1, 8) + foreign, 0.0) == wrap_socket(ANSWER, 1, 8)
    assert not session.closing
    assert slave.getValues(3, 1, 1) == [6]


@pytest.mark.parametrize("length", [0, 1, 255, 256, 0x0600, 0x7FFF, 0x8000, 0xFFFF])
@pytest.mark.parametrize("split", [False, True])
def test_length_out_of_2_to_254_ends_the_stream_after_what_was_answered(slave, length, split):
    session = master("socket", slave).session
    assert not session.closing
    bad = words(2, 0, length) + b"\x01" + WRITE
    stream = wrap_socket(READ, 1, 1) + bad + wrap_socket(READ, 1, 3)
    out = b"".join(session.receive(bytes([byte]), 0.0) for byte in stream) if split else session.receive(stream, 0.0)
    assert out == wrap_socket(ANSWER, 1, 1)
    assert session.closing
    assert session.receive(wrap_socket(READ, 1, 4), 0.0) == b""
    assert slave.getValues(3, 1, 1) == [6]


@pytest.mark.parametrize("length", [0, 1, 255, 0xFFFF])
def test_length_is_judged_as_soon_as_it_is_there(slave, length):
    session = master("socket", slave).session
    session.receive(words(2, 0, length), 0.0)
    assert session.closing


def test_length_2_and_254_are_served(slave):
    it = master("socket", slave)
    assert it.ask(b"\x07") == pdu("07 00")
    assert it.ask(ECHO[:3] + bytes(250)) == ECHO[:3] + bytes(250)
    assert not it.session.closing


def test_mbap_length_delimits_the_frame_not_the_function_code(slave):
    session = master("socket", slave).session
    # a read whose PDU is a byte too long, then a good one
    assert session.receive(wrap_socket(READ + b"\0", 1, 1) + wrap_socket(READ, 1, 2), 0.0) == (
        wrap_socket(refused(3, 3), 1, 1) + wrap_socket(ANSWER, 1, 2))


@pytest.mark.parametrize("transaction", [0, 1, 0x00FF, 0xFF00, 0xFFFF])
def test_transaction_id_is_echoed_in_exceptions_too(slave, transaction):
    session = master("socket", slave).session
    assert session.receive(wrap_socket(READ, 1, transaction), 0.0) == wrap_socket(ANSWER, 1, transaction)
    assert session.receive(wrap_socket(b"\x63", 1, transaction), 0.0) == wrap_socket(refused(0x63, 1), 1, transaction)


def test_mbap_waits_for_ever_for_the_rest(slave):
    session = master("socket", slave).session
    frame = wrap_socket(READ)
    for n, byte in enumerate(frame[:-1]):
        assert session.receive(bytes([byte]), n * 100.0) == b""
        assert session.deadline() is None
    assert session.receive(frame[-1:], 5000.0) == wrap_socket(ANSWER)


# ASCII

def test_ascii_frame_of_literal_bytes(slave):
    # colon, unit 01, function 03, address 0000, quantity 0002, LRC FA, CR LF
    assert master("ascii", slave).session.receive(b":010300000002FA\r\n", 0.0) == b":01030400050006ED\r\n"
    assert lrc(pdu("01 03 0000 0002")) == 0xFA


@pytest.mark.parametrize("line", ["ascii", "ascii-serial"])
def test_either_case_of_hex_is_received_and_upper_case_is_sent(line, slave):
    it = master(line, slave)
    # register 200 = ABCD, LRC B9
    assert it.send(b":010600c8aBcDb9\r\n") == b":010600C8ABCDB9\r\n"


@pytest.mark.parametrize("line", ["ascii", "ascii-serial"])
@pytest.mark.parametrize("before", [b":", b":0103", b":01030000", b":010300000002FA", b":010300000002FA\r", b"::::", b":zz", b":0", b"\r\n",
                                    b"\n", b"noise",
                                    b"\x00\xff\x80", b":01030000\r\r", b":\r:"])
def test_colon_starts_anew_whatever_came_before(line, slave, before):
    it = master(line, slave)
    assert it.session.receive(before + wrap_ascii(READ), 1.0) == wrap_ascii(ANSWER)


@pytest.mark.parametrize("line", ["ascii", "ascii-serial"])
@pytest.mark.parametrize("bad", [
    b":010300000002FB\r\n", b":010300000002F9\r\n", b":010300000002\r\n",  # LRC wrong, missing
    b":010300000002F\r\n", b":10300000002FA\r\n", b":0\r\n",  # odd digits
    b":01030000000GFA\r\n", b":0103 00000002FA\r\n", b":01\x0000000002FA\r\n", b":0103000000\xb02FA\r\n",  # no hex digits
    b":\r\n", b":00\r\n", b":01FF\r\n", b":FFFF01\r\n",  # too short to hold unit, function and LRC
    b":010300000002FA\n", b":010300000002FA\r", b":010300000002FA",  # no end
    b"010300000002FA\r\n", b";010300000002FA\r\n",  # no start
])
def test_bad_ascii_frame_is_silence_and_the_next_is_answered(line, slave, bad):
    it = master(line, slave)
    assert it.session.receive(bad, 1.0) == b""
    assert it.session.receive(wrap_ascii(READ), 1.1) == wrap_ascii(ANSWER)
    assert it.send(bad) == b""
    assert it.ask(READ) == ANSWER


@pytest.mark.parametrize("line", ["ascii", "ascii-serial"])
def test_each_ascii_frame_with_a_wrong_lrc_is_an_error_of_its_own(line, slave):
    it = master(line, slave)
    for _ in range(2):
        assert it.send(b":010300000002FB\r\n") == b""
    assert it.send(b":0103:010300000002FB\r\n" + b":010300000002FB\r\n") == b""
    assert it.ask(pdu("08 000C 0000")) == pdu("08 000C 0005")


@pytest.mark.parametrize(("data", "answered"), [(248, True), (250, True), (251, False), (252, False), (1000, False), (100000, False)])
@pytest.mark.parametrize("piece", [0, 100])
def test_ascii_frame_beyond_513_characters_is_dropped(slave, data, answered, piece):
    it = master("ascii", slave)
    frame = wrap_ascii(ECHO[:3] + bytes(data))
    assert (len(frame) <= 513) == answered
    assert it.send(frame, piece) == (frame if answered else b"")
    assert it.ask(READ) == ANSWER


@pytest.mark.parametrize("line", ["ascii", "ascii-serial"])
def test_a_second_of_silence_discards_a_partial_ascii_frame(line, slave):
    it = master(line, slave)
    frame = wrap_ascii(READ)
    it.session.receive(frame[:4], 100.0)
    assert it.session.deadline() == pytest.approx(101.0)
    it.session.receive(frame[4:7], 100.9)
    assert it.session.deadline() == pytest.approx(101.9)
    assert it.session.expire(101.8) == b""
    assert it.session.receive(frame[7:9], 101.8) == b""
    assert it.session.expire(102.81) == b""
    assert it.session.deadline() is None
    assert it.session.receive(frame[9:], 102.9) == b""
    assert it.session.receive(frame, 103.0) == wrap_ascii(ANSWER)
    assert it.session.deadline() is None


def test_ascii_noise_outside_of_a_frame_keeps_no_deadline(slave):
    session = master("ascii", slave).session
    assert session.receive(b"no colon here\r\n" * 100, 1.0) == b""
    assert session.deadline() is None


# Binary

def test_binary_frame_of_literal_bytes(slave):
    body = pdu("01 03 0000 0002")
    assert master("binary", slave).session.receive(b"{" + body + b"\xc4\x0b" + b"}", 0.0) == wrap_binary(ANSWER)


@pytest.mark.parametrize("value", [0x7B7B, 0x7D7D, 0x7B7D, 0x7D7B, 0x007D, 0x7B00, 0x7D00, 0x007B])
@pytest.mark.parametrize("piece", [0, 1, 3])
def test_braces_in_the_data_are_doubled_both_ways(slave, value, piece):
    it = master("binary", slave)
    request = b"\x06" + words(1, value)
    assert it.send(wrap_binary(request), piece) == wrap_binary(request)
    assert slave.getValues(3, 1, 1) == [value]
    assert it.ask(pdu("03 0001 0001")) == pdu("03 02") + words(value)


def test_every_value_with_its_crc_passes_binary_framing(slave):
    # among 65536 values the CRC holds braces on either side, as pymodbus' client sends them: not doubled
    it = master("binary", slave)
    missing = []
    for value in range(65536):
        request = b"\x06" + words(1, value)
        if b"{" not in (frame := wrap_binary(request))[1:-1] and b"}" not in frame[1:-1] and value % 64:
            continue
        out = it.send(frame)
        if out != frame or slave.getValues(3, 1, 1) != [value]:
            missing.append(value)
    assert missing == []


@pytest.mark.parametrize("before", [b"\x00", b"noise", b"}", b"}}}", b"{", b"{\x01\x03\0\0\0\2\0\0}"])
def test_binary_noise_before_a_frame_is_passed_over(slave, before):
    it = master("binary", slave)
    assert it.send(before + wrap_binary(READ)) == wrap_binary(ANSWER)
    assert it.ask(READ) == ANSWER


@pytest.mark.parametrize("before", [b"{\x01\x03", b"{\x01\x03\0\0\0\2", b"{\x01\x03\0\0}\0\0", b"{abc{abc{abc"])
def test_binary_frame_that_was_cut_off_takes_none_of_the_next(slave, before):
    it = master("binary", slave)
    assert it.send(before + wrap_binary(READ)) == wrap_binary(ANSWER)


def test_binary_crc_error_is_silence_and_the_next_is_answered(slave):
    it = master("binary", slave)
    for frame in (b"{" + pdu("01 03 0000 0002 C40C") + b"}", b"{}", b"{\x01}", b"{\x01\x03}", b"{\x01\x03\x00\x00}"):
        assert it.send(frame) == b""
        assert it.ask(READ) == ANSWER


def test_binary_partial_frame_is_forgotten_after_silence(slave):
    it = master("binary", slave)
    assert it.send(wrap_binary(WRITE)[:6]) == b""
    assert it.session.deadline() is None
    assert it.ask(READ) == ANSWER
    assert slave.getValues(3, 1, 1) == [6]


# TLS: the bare PDU

def test_tls_frame_is_the_bare_pdu(slave):
    assert master("tls", slave).session.receive(READ, 0.0) == ANSWER


@pytest.mark.parametrize("code", [0x41, 0x63])
def test_tls_unknown_function_in_one_segment_is_illegal_function(slave, code):
    assert master("tls", slave).session.receive(bytes([code, 1, 2]), 0.0) == refused(code, 1)


# The client's side

@pytest.mark.parametrize("name", ["socket", "rtu", "ascii", "binary", "tls"])
@pytest.mark.parametrize("request_", [READ, WRITE, pdu("10 0000 0002 04 7B7D 7D7B"), b"\x07", ECHO])
def test_client_request_is_framed_as_specified(name, request_):
    line = LINES[name]
    assert build_request(line.framer, request_, 17, 0x1234) == line.wrap(request_, 17, 0x1234)


@pytest.mark.parametrize("name", ["socket", "rtu", "ascii", "binary", "tls"])
@pytest.mark.parametrize("response", [ANSWER, pdu("83 02"), pdu("10 0000 0002"), pdu("03 08 7B7D 7D7B 0000 7D7D"), pdu("07 6D"),
                                      pdu("18 0006 0002 01B8 1284"),
                                      pdu("2B 0E 01 81 00 00 01 00 04 41434D45")])
def test_client_takes_a_response_apart_and_waits_for_the_rest(name, response):
    line = LINES[name]
    frame = line.wrap(response, 17, 0x1234)
    for cut in range(len(frame)):
        assert parse_response(line.framer, frame[:cut]) is None
    unit, transaction, found, consumed = parse_response(line.framer, frame + b"\x00tail")
    assert (found, consumed) == (response, len(frame))
    if name != "tls":
        assert unit == 17
    if name == "socket":
        assert transaction == 0x1234


@pytest.mark.parametrize(("name", "frame"), [
    ("socket", words(1, 0, 0) + b"\x01\x03"), ("socket", words(1, 0, 0xFFFF) + b"\x01\x03"), ("socket", words(1, 5, 3) + b"\x01\x83\x02"),
    ("rtu", pdu("01 83 02 0000")), ("rtu", pdu("01 03 02 0005 0000")),
    ("ascii", b":018302FF\r\n"),
])
def test_client_is_told_that_it_is_no_frame(name, frame):
    with pytest.raises(FramingError):
        parse_response(LINES[name].framer, frame)


def test_crc_of_an_empty_message_is_the_start_value():
    assert crc_bytes(b"") == b"\xff\xff"
