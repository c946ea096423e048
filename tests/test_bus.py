"""A shared RTU line: other units' conversations, noise, broadcasts and our requests in any order, glued or apart, in any pieces."""

import pytest
from adu import block, image, master, pdu, units, words, wrap_rtu
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

OURS, OTHERS = 1, st.integers(2, 247)
READ, WRITE = pdu("03 0000 0002"), pdu("06 0001 BEEF")
QUIET = bytes.maketrans(b"\0\1", b"\2\3")  # noise that names neither us nor everybody

word = st.integers(0, 0xFFFF)
plain_payloads = st.lists(word, min_size=1, max_size=20).map(lambda values: words(*values))
payloads = st.one_of(
    plain_payloads,
    st.just(wrap_rtu(WRITE)),  # what another unit is sent may be a valid request for us
    st.builds(lambda before, after: words(*before) + wrap_rtu(WRITE) + words(*after), st.lists(word, max_size=5),
              st.lists(word, max_size=5)),
)


def registers_read(address, payload):
    return b"\x03" + words(address, len(payload) // 2), bytes([3, len(payload)]) + payload


def registers_written(address, payload):
    return b"\x10" + words(address, len(payload) // 2) + bytes([len(payload)]) + payload, b"\x10" + words(address, len(payload) // 2)


def coils_written(address, payload):
    return b"\x0f" + words(address, 8 * len(payload)) + bytes([len(payload)]) + payload, b"\x0f" + words(address, 8 * len(payload))


def read_and_written(address, payload):
    return b"\x17" + words(address, 1, address, len(payload) // 2) + bytes([len(payload)]) + payload, b"\x17\x02\x01\x06"


def one_written(address, payload):
    return b"\x06" + words(address) + payload[:2], b"\x06" + words(address) + payload[:2]


def refused(address, payload):
    return b"\x04" + words(address, 1), b"\x84\x02"


def identified(address, payload):
    return b"\x2b\x0e\x04\x00", b"\x2b\x0e\x04\x81\x00\x00\x01\x00" + bytes([len(payload)]) + payload


def queue_read(address, payload):
    payload = payload[:62]
    return b"\x18" + words(address), b"\x18" + words(2 + len(payload), len(payload) // 2) + payload


KINDS = st.sampled_from([registers_read, registers_written, coils_written, read_and_written, one_written, refused, identified, queue_read])


def talk(payloads):
    """Request and response of another unit."""
    return st.builds(lambda unit, kind, address, payload: tuple(wrap_rtu(each, unit) for each in kind(address, payload)), OTHERS, KINDS,
                     word, payloads)


conversations = talk(payloads)

# each event: what it is, its bytes, whether it comes right behind the one before, without silence
events = st.one_of(
    st.tuples(st.just("foreign"), conversations.map(b"".join), st.booleans()),  # request and response
    st.tuples(st.just("foreign"), conversations.map(lambda both: both[0]), st.booleans()),  # a unit that does not answer
    st.tuples(st.just("foreign"), conversations.map(lambda both: both[1]), st.booleans()),  # a response alone
    st.tuples(st.just("broken"), st.builds(lambda both, cut: both[0][: -1 - cut % (len(both[0]) - 1)], talk(plain_payloads),
                                           st.integers(0, 30)), st.just(False)),
    st.tuples(st.just("noise"), st.binary(min_size=1, max_size=30).map(lambda noise: noise.translate(QUIET)), st.booleans()),
    st.tuples(st.just("read"), st.just(wrap_rtu(READ)), st.booleans()),
    st.tuples(st.just("broadcast"), word.map(lambda value: wrap_rtu(b"\x06" + words(2, value), 0)), st.just(False)),
)


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(events=st.lists(events, max_size=12), pieces=st.lists(st.integers(1, 40), min_size=1, max_size=6))
def test_a_busy_line_gets_exactly_our_answers(events, pieces):
    slave = image(hr=block([5, 6, 7]), co=block([0] * 8))
    it = master("rtu-serial", units(u1=slave))
    last_broadcast, out, expected, asked = 7, b"", b"", False
    for number, (kind, stream, glued) in enumerate([*events, ("read", wrap_rtu(READ), False)]):
        if not glued or asked or (kind == "read" and number and events[number - 1][0] == "noise"):
            out += it.silence()  # nobody speaks before a request is answered
            it.now += 0.01
            asked = False
        at, n = 0, 0
        while at < len(stream):
            size = pieces[n % len(pieces)]
            out += it.session.receive(stream[at : at + size], it.now)
            it.now += 0.0002
            at, n = at + size, n + 1
        if kind == "read":
            asked = True
            expected += wrap_rtu(pdu("03 04 0005 0006"))
        elif kind == "broadcast":
            out += it.silence()
            last_broadcast = int.from_bytes(stream[4:6])
        assert slave.getValues(3, 0, 2) == [5, 6], "executed what was said to another unit"
    out += it.silence()
    assert out == expected
    assert slave.getValues(3, 2, 1) == [last_broadcast]


@pytest.mark.parametrize("piece", [0, 1, 2, 3, 5, 8, 13])
@pytest.mark.parametrize("count", [1, 2, 30])
def test_a_master_that_polls_all_units_in_turn_is_answered_for_ours(piece, count):
    it = master("rtu-serial", units(u1=image(hr=block([5, 6]))))
    for _ in range(count):
        for unit in (1, 2, 3):
            answer = it.send(wrap_rtu(READ, unit), piece)
            assert answer == (wrap_rtu(pdu("03 04 0005 0006")) if unit == OURS else b"")
            if unit == 2:
                assert it.send(wrap_rtu(pdu("03 04 0001 0300"), 2), piece) == b""


def test_conversations_without_any_silence_leave_us_in_step():
    # 4800 bytes without a gap: an adapter that delivers late; then ours
    it = master("rtu-serial", units(u1=image(hr=block([5, 6]))))
    both = b"".join(wrap_rtu(each, 9) for each in registers_written(0, bytes(100)))
    for _ in range(40):
        assert it.session.receive(both, it.now) == b""
        it.now += 0.0002
    assert it.send(wrap_rtu(READ)) == wrap_rtu(pdu("03 04 0005 0006"))
