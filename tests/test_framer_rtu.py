"""RTU (SL 2.5.1): what ends a frame, what silence means, and what is said to and by other units on the line."""

import pytest
from adu import FRAME_GAP, block, crc_bytes, image, master, one_unit, pdu, refused, units, wrap_rtu

from mbcore import ModbusControlBlock

READ = pdu("03 0000 0002")
ANSWER = pdu("03 04 0005 0006")
WRITE = pdu("06 0001 BEEF")


@pytest.fixture
def slave():
    return image(hr=block([5, 6] + [0] * 200), co=block([0] * 10))


def test_crc_of_the_serial_line_guides_example():
    # SL 6.2.2: message 02 07 -> 1241 in the register, sent 41 12
    assert wrap_rtu(b"\x07", unit=2) == pdu("02 07 41 12")


def test_rtu_crc_is_sent_low_byte_first(slave):
    frame = pdu("01 03 0000 0002 C40B")  # 0BC4
    assert wrap_rtu(READ) == frame
    assert master("rtu", slave).session.receive(frame, 0.0) == wrap_rtu(ANSWER)


@pytest.mark.parametrize("line", ["rtu", "rtu-serial"])
@pytest.mark.parametrize("bit", range(64))
def test_any_flipped_bit_is_an_unanswered_frame_and_the_next_is_answered(line, slave, bit):
    it = master(line, units(u1=slave))
    frame = bytearray(wrap_rtu(WRITE))
    frame[bit // 8] ^= 1 << bit % 8
    assert it.send(bytes(frame)) == b""
    assert slave.getValues(3, 0, 3) == [5, 6, 0]
    assert it.ask(READ) == ANSWER


def test_rtu_crc_with_swapped_bytes_is_an_error(slave):
    it = master("rtu-serial", slave)
    good = wrap_rtu(READ)
    assert it.send(good[:-2] + good[:-3:-1]) == b""
    assert it.ask(READ) == ANSWER


@pytest.mark.parametrize("line", ["rtu", "rtu-serial"])
@pytest.mark.parametrize("noise", ["00", "FF", "0000", "01", "0103", "010300", "01 10 0000 007B F6", "05 10 0000 0064 C8", "FFFFFFFFFFFF",
                                   "01 2B",
                                   "01 14 F5", "00 10 0000 0001 02", "01 55 01 02 03 04", "01 18", "03", "01 03 FA"])
def test_noise_then_silence_is_forgotten(line, slave, noise):
    it = master(line, units(u1=slave))
    assert it.send(pdu(noise)) == b""
    assert it.session.deadline() is None
    assert it.session.receive(wrap_rtu(READ), it.now + 1) == wrap_rtu(ANSWER)


@pytest.mark.parametrize("noise", ["00", "FF", "0000", "00FF", "00000000", "7E", "F0F0F0"])
def test_stray_bytes_before_a_frame_are_discarded_and_the_request_is_answered(slave, noise):
    it = master("rtu-serial", units(u1=slave))
    assert it.send(pdu(noise) + wrap_rtu(READ)) == wrap_rtu(ANSWER)
    assert it.ask(READ) == ANSWER


def test_stray_byte_in_its_own_read_before_a_frame(slave):
    it = master("rtu-serial", units(u1=slave))
    out = it.session.receive(b"\0", 5.0) + it.session.receive(wrap_rtu(READ), 5.0005)
    assert out + it.silence() == wrap_rtu(ANSWER)


def test_a_partial_frame_has_a_deadline_after_the_frame_gap(slave):
    session = master("rtu-serial", slave).session
    session.receive(wrap_rtu(READ)[:5], 10.0)
    assert 10.0 < session.deadline() <= 10.0 + 2 * FRAME_GAP + 1e-9
    assert session.deadline() >= 10.0 + FRAME_GAP - 1e-9


def test_rtu_pieces_within_the_gap_are_one_frame(slave):
    session = master("rtu-serial", slave).session
    out = b""
    for n, byte in enumerate(wrap_rtu(READ)):
        out += session.receive(bytes([byte]), 10.0 + n * FRAME_GAP * 0.9)
    assert out == wrap_rtu(ANSWER)


def test_late_pieces_of_a_frame_are_put_together_when_silence_was_not_seen(slave):
    # user space's time is that of read(): an adapter that delivers late splits no frame
    session = master("rtu-serial", slave).session
    frame = wrap_rtu(READ)
    assert session.receive(frame[:5], 10.0) == b""
    assert session.receive(frame[5:], 10.0 + 10 * FRAME_GAP) == wrap_rtu(ANSWER)


def test_silence_discards_a_partial_frame(slave):
    it = master("rtu-serial", slave)
    frame = wrap_rtu(READ)
    assert it.send(frame[:5]) == b""
    assert it.send(frame[5:]) == b""
    assert it.ask(READ) == ANSWER


def test_expire_before_the_deadline_changes_nothing(slave):
    session = master("rtu-serial", slave).session
    frame = wrap_rtu(READ)
    session.receive(frame[:5], 10.0)
    due = session.deadline()
    assert session.expire(10.0 + FRAME_GAP / 4) == b""
    assert session.deadline() == due
    assert session.receive(frame[5:], 10.0 + FRAME_GAP / 2) == wrap_rtu(ANSWER)


@pytest.mark.parametrize("request_", [b"\x55", b"\x55\1\2\3", b"\x6e" + bytes(range(40)), b"\x03\0\0\0", b"\x03\0\0\0\1\0",
                                      b"\x08\0\0" + bytes(range(20))])
def test_rtu_frame_whose_length_is_unknown_ends_with_silence(slave, request_):
    it = master("rtu-serial", units(u1=slave))
    answers = {0x55: refused(0x55, 1), 0x6E: refused(0x6E, 1), 0x03: refused(3, 3), 0x08: request_}
    assert it.ask(request_) == answers[request_[0]]
    assert it.ask(READ) == ANSWER


@pytest.mark.parametrize("line", ["rtu", "rtu-serial"])
@pytest.mark.parametrize("pattern", ["06 0001 {:04X}", "10 0000 0001 02 {:04X}", "17 0000 0001 0000 0001 02 {:04X}",
                                     "15 09 06 0001 0000 0001 {:04X}"])
def test_rtu_frame_is_complete_only_with_its_last_byte(line, pattern):
    # a CRC that ends in 00 makes the frame without that byte valid too, for another length: one request in 256
    requests = [request for request in (pdu(pattern.format(value)) for value in range(0, 65536, 31)) if wrap_rtu(request).endswith(b"\0")]
    assert requests
    it = master(line, units(u1=image(hr=block([0] * 2), files={1: [0]})))
    for number, request in enumerate(requests):
        frame = wrap_rtu(request)
        assert it.session.receive(frame[:-1], number) == b""
        assert it.line.unwrap(it.session.receive(frame[-1:], number))[0].pdu[0] == request[0]


@pytest.mark.parametrize("frame", ["01 03 02 0005", "01 83 02", "01 01 01 00", "01 90 03", "01 10 0000 0002", "01 17 02 0000",
                                   "01 18 0002 0000"])
def test_a_response_with_our_own_unit_is_an_echo_and_is_not_answered(slave, frame):
    it = master("rtu-serial", units(u1=slave))
    assert it.send(pdu(frame) + crc_bytes(pdu(frame))) == b""
    assert it.ask(READ) == ANSWER


# RTU on a line with other slaves

def foreign(kind: str) -> bytes:
    """A foreign slave's request or response, or both."""
    read, answer = wrap_rtu(pdu("03 0000 0002"), 5), wrap_rtu(pdu("03 04 1111 2222"), 5)
    write, written = wrap_rtu(pdu("10 0000 0002 04 1111 2222"), 5), wrap_rtu(pdu("10 0000 0002"), 5)
    coils, echoed = wrap_rtu(pdu("0F 0000 0009 02 FFFF"), 5), wrap_rtu(pdu("0F 0000 0009"), 5)
    both, gave = wrap_rtu(pdu("17 0000 0002 0000 0001 02 1111"), 5), wrap_rtu(pdu("17 04 1111 2222"), 5)
    return {"read": read, "answer": answer, "write": write, "written": written, "coils": coils, "echoed": echoed,
            "exception": wrap_rtu(pdu("83 02"), 5),
            "conversation": read + answer + write + written, "bits": coils + echoed, "both": both + gave, "gave": gave,
            "full write": wrap_rtu(pdu("10 0000 007B F6") + bytes(246), 5), "full answer": wrap_rtu(pdu("03 FA") + bytes(250), 5),
            "single": wrap_rtu(pdu("06 0000 0001"), 5) * 2, "unknown": wrap_rtu(pdu("64 0102 0304 0506"), 5),
            "fifo": wrap_rtu(pdu("18 0000"), 5) + wrap_rtu(pdu("18 0006 0002 01B8 1284"), 5),
            "identity": wrap_rtu(pdu("2B 0E 01 00"), 5) + wrap_rtu(pdu("2B 0E 01 81 00 00 01 00 04") + b"ACME", 5)}[kind]


KINDS = ["read", "answer", "write", "written", "coils", "echoed", "exception", "conversation", "bits", "both", "gave", "full write",
         "full answer", "single",
         "unknown", "fifo", "identity"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("piece", [0, 1, 8])
def test_messages_of_other_units_are_never_answered_nor_executed_and_ours_behind_is(slave, kind, piece):
    it = master("rtu-serial", units(u1=slave))
    assert it.send(foreign(kind), piece) == b""
    assert slave.getValues(3, 0, 3) == [5, 6, 0]
    assert it.session.receive(wrap_rtu(READ), it.now) == wrap_rtu(ANSWER), "answered at once: the line was silent before"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("piece", [0, 1])
def test_our_request_right_behind_other_units_messages_is_answered(slave, kind, piece):
    it = master("rtu-serial", units(u1=slave))
    assert it.send(foreign(kind) + wrap_rtu(READ), piece) == wrap_rtu(ANSWER)
    assert it.ask(READ) == ANSWER


@pytest.mark.parametrize("kind", ["read", "write", "conversation", "full write"])
def test_our_request_behind_a_broken_off_foreign_message_is_answered_after_silence(slave, kind):
    it = master("rtu-serial", units(u1=slave))
    assert it.send(foreign(kind)[:-3] + wrap_rtu(READ)) == wrap_rtu(ANSWER)


@pytest.mark.parametrize("cut", [0, 1, 7, 15, 16, 17, 20])
def test_a_request_for_us_inside_of_a_foreign_payload_is_not_executed(slave, cut):
    it = master("rtu-serial", units(u1=slave))
    # unit 5 is sent (or sends) registers whose bytes are a valid request for unit 1, in two reads without silence between
    embedded = wrap_rtu(WRITE)
    request = wrap_rtu(pdu("10 0000 0006 0C") + embedded + bytes(4), 5)
    assert it.session.receive(request[:cut], 10.0) + it.session.receive(request[cut:], 10.0002) + it.silence() == b""
    answer = wrap_rtu(pdu("03 0C") + embedded + bytes(4), 5)
    assert it.send(wrap_rtu(pdu("03 0000 0006"), 5)) == b""
    now = it.now + 0.01
    assert it.session.receive(answer[:cut], now) + it.session.receive(answer[cut:], now + 0.0002) + it.silence() == b""
    assert slave.getValues(3, 0, 3) == [5, 6, 0]
    assert it.ask(READ) == ANSWER


def test_no_reply_while_another_frame_follows_on_the_line(slave):
    it = master("rtu-serial", units(u1=slave))
    assert it.send(wrap_rtu(READ) + foreign("read")) == b""
    assert it.ask(READ) == ANSWER


@pytest.mark.parametrize("pause", [0.002, 0.005, 0.016, 0.045])
@pytest.mark.parametrize("cut", range(1, 8))
def test_a_request_whose_second_half_comes_late_is_answered(pause, cut):
    # a USB adapter delivers every 16 ms: t3.5 of silence seen by a program splits no frame
    it, frame = master("rtu-serial", units(u1=image(hr=block([5])))), wrap_rtu(pdu("03 0000 0001"))
    assert it.session.receive(frame[:cut], it.now) == b""
    while it.session.deadline() is not None and it.session.deadline() <= it.now + pause:
        assert it.session.expire(it.session.deadline()) == b""
    assert it.session.receive(frame[cut:], it.now + pause) == wrap_rtu(pdu("03 02 0005"))


def test_what_stays_broken_is_given_up_and_counted_once():
    it = master("rtu-serial", units(u1=image(hr=block([5]))), control := ModbusControlBlock())
    it.session.receive(wrap_rtu(pdu("10 0000 0002 04 0001 0002"))[:9], it.now)
    assert it.silence() == b""
    assert it.session.deadline() is None
    assert control.Counter.BusCommunicationError == 1


@pytest.mark.parametrize("unit", range(1, 248))
def test_the_first_bytes_of_a_request_are_no_response_of_another_unit(unit):
    # 04 0083 with unit 3 begins like an empty response with a right CRC
    it = master("rtu-serial", one_unit(image(ir=block([7] * 0x100))))
    frame = wrap_rtu(pdu("04 0083 0001"), unit)
    out = b"".join(it.session.receive(frame[i : i + 1], it.now) for i in range(len(frame)))
    assert out == wrap_rtu(pdu("04 02 0007"), unit)
