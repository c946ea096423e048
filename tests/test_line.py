"""One serial line, with the clock in hand: when a frame counts, when a reply may go out, and what the line hears of itself."""

import pytest
from adu import FRAME_GAP, LINES, block, image, one_unit, pdu, units, wrap_ascii, wrap_binary, wrap_rtu

from mbcore import ModbusRtuFramer, ModbusSequentialDataBlock
from mbcore.errors import ConfigurationError
from mbcore.line import LineSession

READ, WRITE = pdu("03 0000 0001"), pdu("06 0001 BEEF")
ASKED, ANSWER = wrap_rtu(READ), wrap_rtu(pdu("03 02 0005"))
WRITTEN = wrap_rtu(WRITE)
LATE, PATIENCE = 0.02, 0.05
# another unit's request for 20 registers, and the response to it that has a request for us in it
OTHER = wrap_rtu(pdu("03 0000 0014"), 9)
PAYLOAD = bytes(6) + WRITTEN + bytes(26)
RESPONSE = wrap_rtu(bytes([3, len(PAYLOAD)]) + PAYLOAD, 9)


@pytest.fixture
def slave():
    return image(hr=block([5, 6, 7]), co=block([0] * 8))


@pytest.fixture
def line(slave):
    """line(**keywords) -> a session on an RTU line whose unit 1 is `slave`."""
    return lambda **keywords: LineSession(ModbusRtuFramer, units(u1=slave), frame_gap=FRAME_GAP, **keywords)


def told(session, now):
    """What the session says when nothing more comes, and when the last of it."""
    out = b""
    while (due := session.deadline()) is not None:
        now = max(now, due)
        out += session.expire(now)
    return out, now


# ---- the reply ------------------------------------------------------------------------------------------------------------------------


def test_the_reply_waits_for_reply_delay(line):
    session = line(reply_delay=0.004)
    assert session.receive(ASKED, 1.0) == b""
    assert session.deadline() == 1.004
    assert session.expire(1.003) == b""
    assert session.expire(1.004) == ANSWER
    assert session.deadline() is None


def test_without_a_delay_it_is_there_at_once(line):
    assert line().receive(ASKED, 1.0) == ANSWER


def test_the_request_is_executed_at_once_all_the_same(line, slave):
    session = line(reply_delay=1.0)
    session.receive(WRITTEN, 1.0)
    assert slave.getValues(3, 1, 1) == [0xBEEF]


@pytest.mark.parametrize("stray", [b"\0", b"\0\0\0", b"\xff"])
# Without a delay the reply is out before stray bytes can come apart from the request.
@pytest.mark.parametrize(("delay", "glued"), [(0.0, True), (FRAME_GAP, True), (FRAME_GAP, False)])
def test_stray_bytes_behind_the_request_cost_nothing(line, stray, delay, glued):
    session = line(reply_delay=delay)
    if glued:
        assert session.receive(ASKED + stray, 1.0) == b"", "bytes come in"
    else:
        session.receive(ASKED, 1.0)
        assert session.receive(stray, 1.001) == b""
    out, now = told(session, 1.0)
    assert out == ANSWER
    assert now == pytest.approx((1.0 if glued else 1.001) + FRAME_GAP)
    assert session.line_counters()["discarded_bytes"] == len(stray)
    assert session.receive(ASKED, 2.0) + told(session, 2.0)[0] == ANSWER


@pytest.mark.parametrize("stray", [b"\0", b"\0\0\0", b"\xff\xff"])
def test_stray_bytes_before_the_request_cost_nothing(line, stray):
    session = line()
    assert session.receive(stray + ASKED, 1.0) == b""
    out, now = told(session, 1.0)
    assert out == ANSWER
    assert now <= 1.0 + LATE


def test_noise_behind_the_request_delays_the_reply_until_it_is_over(line):
    session = line(reply_delay=FRAME_GAP)
    session.receive(ASKED, 1.0)
    session.receive(b"\xa5" * 5, 1.001)
    assert session.expire(1.0 + FRAME_GAP) == b"", "bytes still come"
    session.receive(b"\xa5" * 5, 1.002)
    out, now = told(session, 1.002)
    assert out == ANSWER
    assert 1.002 + FRAME_GAP <= now <= 1.002 + LATE


@pytest.mark.parametrize("following", [wrap_rtu(READ, 9), RESPONSE, wrap_rtu(pdu("83 02"), 9), WRITTEN])
def test_a_reply_is_dropped_when_another_frame_follows(line, following):
    session = line(reply_delay=FRAME_GAP)
    session.receive(ASKED, 1.0)
    session.receive(following, 1.001)
    out, _ = told(session, 1.001)
    assert out == (WRITTEN if following == WRITTEN else b"")
    assert session.line_counters()["suppressed_replies"] == 1
    assert session.control.Counter.SlaveNoResponse == 1


def test_no_reply_after_the_deadline(line):
    session = line(reply_delay=FRAME_GAP, reply_deadline=0.5)
    session.receive(ASKED, 1.0)
    assert session.expire(1.51) == b""
    assert session.line_counters()["suppressed_replies"] == 1
    session.receive(ASKED, 2.0)
    assert session.expire(2.5) == ANSWER


def test_the_deadline_counts_from_the_request_not_from_noise_behind_it(line):
    session = line(reply_delay=FRAME_GAP, reply_deadline=0.01)
    session.receive(ASKED, 1.0)
    for n in range(1, 12):
        session.receive(b"\0", 1.0 + n * 0.001)
    assert told(session, 1.011)[0] == b""


# ---- whose frame it is ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 3, 8, 17])
@pytest.mark.parametrize("pause", [0.0, FRAME_GAP * 1.1, 0.016])
def test_a_request_inside_the_response_that_is_expected_is_never_executed(line, slave, chunk, pause):
    # The pauses are those of adapters that deliver late, exactly at the end of what looks like a request too.
    session, now, out = line(), 1.0, b""
    session.receive(OTHER, now)
    for start in range(0, len(RESPONSE), chunk):
        now += 0.001
        while (due := session.deadline()) is not None and due < now + pause:
            out += session.expire(max(now, due))
        now += pause
        out += session.receive(RESPONSE[start : start + chunk], now)
    assert out + told(session, now)[0] == b""
    assert slave.getValues(3, 1, 1) == [6]
    assert session.line_counters()["foreign_frames"] == 2
    assert session.receive(ASKED, now + 1) == ANSWER


@pytest.mark.parametrize("head", [b"", b"\x55", RESPONSE[:3]])
def test_a_damaged_response_may_pause_at_the_end_of_a_request_inside(line, slave, head):
    # Its head is lost, but a silence of t3.5 may be late delivery.
    session = line()
    session.receive(OTHER, 1.0)
    session.receive(head + RESPONSE[4 : 3 + 6 + len(WRITTEN)], 1.01)
    for moment in (1.01 + FRAME_GAP, 1.01 + 0.016):
        assert session.expire(moment) == b""
    session.receive(RESPONSE[3 + 6 + len(WRITTEN) :], 1.0265)
    assert told(session, 1.0265)[0] == b""
    assert slave.getValues(3, 1, 1) == [6]


def test_a_request_behind_noise_is_answered_when_the_silence_is_certain(line):
    session = line()
    session.receive(b"\xde\xad\xbe\xef" + ASKED, 1.0)
    assert session.expire(1.0 + FRAME_GAP) == b""
    assert session.deadline() == 1.0 + LATE
    assert session.expire(1.0 + LATE) == ANSWER
    assert session.line_counters()["crc_errors"] == 1
    assert session.line_counters()["discarded_bytes"] == 4


@pytest.mark.parametrize(("frame_gap", "late"), [(0.004, 0.02), (0.032, 0.032 * 16 / 3.5)])
def test_at_a_low_speed_bytes_come_later(slave, frame_gap, late):
    # The FIFO of a UART hands them on in pieces.
    session = LineSession(ModbusRtuFramer, units(u1=slave), frame_gap=frame_gap)
    session.receive(b"\x55" + ASKED, 1.0)
    session.expire(1.0 + frame_gap)
    assert session.deadline() == pytest.approx(1.0 + late)
    assert session.expire(1.0 + late) == ANSWER


@pytest.mark.parametrize(
    ("query", "answer"),
    [(wrap_rtu(pdu("08 0000 1234")),) * 2, (ASKED, ANSWER), (wrap_rtu(pdu("07")), wrap_rtu(pdu("07 00")))],
)
@pytest.mark.parametrize("before", [b"", b"\0", b"\x7e"])
@pytest.mark.parametrize("after", [b"", b"\0", b"\0\0\0"])
def test_requests_between_stray_bytes_are_answered(line, query, answer, before, after):
    session = line(reply_delay=FRAME_GAP)
    session.receive(before + query + after, 1.0)
    out, now = told(session, 1.0)
    assert out == answer
    assert now <= 1.0 + LATE
    assert session.line_counters()["discarded_bytes"] == len(before + after)


def test_bytes_behind_a_request_that_is_not_at_a_boundary_are_no_stray_ones(line, slave):
    # The head of another unit's response is lost; what follows the request inside is its CRC.
    session = line()
    session.receive(b"\x55" + WRITTEN + b"\x12\x34", 1.0)
    assert told(session, 1.0)[0] == b""
    assert slave.getValues(3, 1, 1) == [6]


def test_a_request_behind_another_units_silence_is_answered_at_once(line):
    session = line()
    session.receive(OTHER, 1.0)
    assert session.receive(ASKED, 1.5) == ANSWER


def test_a_long_stream_without_a_pause_is_resynchronised_and_nothing_in_it_executed(line, slave):
    session, now = line(), 1.0
    session.receive(b"\x07" * 300 + WRITTEN + b"\x07" * 20 + WRITTEN, now)
    assert session.receive(b"\x07" * 300, now + 0.001) == b""
    assert slave.getValues(3, 1, 1) == [6]
    session.receive(OTHER + RESPONSE + ASKED, now + 0.002)
    assert told(session, now + 0.002)[0] == ANSWER
    assert slave.getValues(3, 1, 1) == [6]


@pytest.mark.parametrize("after", [b"", b"\0", b"\0\0\0"])
def test_behind_more_noise_than_a_frame_has_a_request_is_answered_too(line, after):
    session = line()
    session.receive(b"\x55" * 300 + ASKED + after, 1.0)
    assert told(session, 1.0)[0] == ANSWER


def test_after_a_reset_the_first_request_waits_for_silence(line):
    session = line()
    session.reset()
    assert session.receive(WRITTEN, 0.0005) == b"", "it may stand in the middle of another unit's payload"
    assert session.expire(0.0005 + LATE) == WRITTEN


def test_a_frame_may_pause(line):
    session = line()
    session.receive(ASKED[:5], 1.0)
    assert session.expire(1.0 + FRAME_GAP) == session.expire(1.0 + LATE) == b""
    assert session.receive(ASKED[5:], 1.04) == ANSWER


def test_what_is_left_of_a_frame_is_forgotten(line):
    session = line()
    session.receive(ASKED[:5], 1.0)
    assert told(session, 1.0) == (b"", 1.0 + PATIENCE)
    assert session.receive(ASKED, 1.06) == ANSWER
    assert session.line_counters()["discarded_bytes"] == 5


def test_units_names_whom_the_line_answers(slave):
    session = LineSession(ModbusRtuFramer, units(u1=slave, u2=image(hr=block([8])), u3=slave), units=[1, 2], frame_gap=FRAME_GAP)
    assert session.receive(ASKED, 1.0) == ANSWER
    assert session.receive(wrap_rtu(READ, 2), 2.0) == wrap_rtu(pdu("03 02 0008"), 2)
    assert session.receive(wrap_rtu(READ, 3), 3.0) == b""
    assert session.line_counters()["foreign_frames"] == 1


class Own(ModbusSequentialDataBlock):
    """A block that Python is asked for."""

    def setValues(self, address, values):
        super().setValues(address, values)


@pytest.mark.parametrize("kind", [ModbusSequentialDataBlock, Own])
def test_a_broadcast_is_for_the_units_of_the_line(kind):
    first, second = (image(hr=kind(0, [0, 0])) for _ in range(2))
    session = LineSession(ModbusRtuFramer, units(u1=first, u2=second), units=[2])
    session.receive(wrap_rtu(WRITE, 0), 1.0)
    assert (first.getValues(3, 1, 1), second.getValues(3, 1, 1)) == ([0], [0xBEEF])


@pytest.mark.parametrize("kind", [ModbusSequentialDataBlock, Own])
def test_a_broadcast_is_not_for_the_only_unit_where_the_line_does_not_answer_it(kind):
    only = image(hr=kind(0, [0, 0]))
    session = LineSession(ModbusRtuFramer, units(u1=only), units=[2])
    session.receive(wrap_rtu(WRITE, 0), 1.0)
    assert only.getValues(3, 1, 1) == [0]


@pytest.mark.parametrize("kind", [ModbusSequentialDataBlock, Own])
def test_a_broadcast_reaches_the_one_context_of_all_units(kind):
    slave = image(hr=kind(0, [0, 0]))
    session = LineSession(ModbusRtuFramer, one_unit(slave), units=[7])
    session.receive(wrap_rtu(WRITE, 0), 1.0)
    assert slave.getValues(3, 1, 1) == [0xBEEF]


@pytest.mark.parametrize("unit", [-1, 256])
def test_a_unit_id_that_does_not_exist_is_refused(slave, unit):
    with pytest.raises(ConfigurationError, match=rf"the unit id {unit} is not in 0\.\.255"):
        LineSession(ModbusRtuFramer, units(u1=slave), units=[unit])


@pytest.mark.parametrize(("name", "wrap"), [("ascii-serial", wrap_ascii), ("binary", wrap_binary)])
def test_other_framings_have_no_gap_but_the_same_manners(slave, name, wrap):
    session = LineSession(LINES[name].framer, units(u1=slave), reply_delay=0.003)
    answer = wrap(pdu("03 02 0005"))
    assert session.receive(wrap(READ, 9) + wrap(pdu("03 02 0005"), 9), 1.0) == b""
    assert session.receive(wrap(READ), 2.0) == b""
    assert told(session, 2.0) == (answer, 2.003)
    session.receive(wrap(READ), 3.0)
    session.receive(wrap(READ, 9), 3.001)
    assert told(session, 3.001)[0] == b"", "another frame follows"
    session.receive(wrap(READ), 4.0)
    session.receive(wrap(READ, 9)[:4], 4.001)
    assert session.expire(4.01) == b"", "another frame has begun"
    assert session.line_counters() == {
        "crc_errors": 0, "discarded_bytes": 0, "foreign_frames": 3, "suppressed_replies": 1, "echoes": 0, "collisions": 0,
    }


# ---- the own echo ---------------------------------------------------------------------------------------------------------------------

CHARACTER = 11 / 9600


@pytest.mark.parametrize("chunk", [1, 2, 100])
@pytest.mark.parametrize("echo", ["auto", "drop"])
def test_an_echo_is_recognised(line, echo, chunk):
    session = line(echo=echo)
    for n in range(3):
        now = 1.0 + n
        assert session.receive(ASKED, now) == ANSWER
        for start in range(0, len(ANSWER), chunk):
            assert session.receive(ANSWER[start : start + chunk], now + 0.01) == b""
        assert session.deadline() is None
    assert session.line_counters()["echoes"] == 3
    assert session.control.Counter.BusMessage == 3


@pytest.mark.parametrize("echo", ["auto", "drop"])
def test_an_echo_that_equals_its_request_is_not_executed_again(line, echo):
    session = line(echo=echo, character_time=CHARACTER)
    for n in range(3):
        assert session.receive(WRITTEN, 1.0 + n) == WRITTEN
        assert session.receive(WRITTEN, 1.0 + n + 8 * CHARACTER) == b""
    assert session.control.Counter.BusMessage == 3


def test_a_master_that_asks_the_same_again_is_answered(line):
    session = line(echo="auto", character_time=CHARACTER)
    for n in range(20):
        assert session.receive(WRITTEN, 1.0 + n * 0.04) == WRITTEN, "no echo comes so late"


@pytest.mark.parametrize("character_time", [0.0, CHARACTER])
def test_once_a_reply_has_not_come_back_the_same_request_is_one_again(line, character_time):
    session = line(echo="auto", character_time=character_time)
    session.receive(ASKED, 1.0)
    assert session.receive(wrap_rtu(pdu("01 0000 0001")), 1.01) != b""
    # As fast as the line is: our reply, t3.5, the master's request.
    step = (8 + 3.5 + 8) * character_time + 0.001
    for n in range(20):
        assert session.receive(WRITTEN, 2.0 + n * step) == WRITTEN


def test_an_echo_that_comes_as_fast_as_no_master_can_ask_is_one_even_after_one_was_lost(line):
    session = line(echo="auto", character_time=CHARACTER)
    session.receive(ASKED, 1.0)
    assert session.receive(wrap_rtu(pdu("01 0000 0001")), 1.02) != b""
    assert session.receive(WRITTEN, 2.0) == WRITTEN
    assert session.receive(WRITTEN, 2.0 + 8 * CHARACTER + 0.001) == b""


def test_the_first_echo_may_be_late(line):
    session = line(echo="auto", character_time=CHARACTER)
    assert session.receive(WRITTEN, 1.0) == WRITTEN
    assert session.receive(WRITTEN, 1.0 + 8 * CHARACTER + 0.016) == b""


def test_where_nothing_is_known_of_time_an_echo_that_goes_round_is_stopped(line):
    session, answers = line(echo="auto"), 0
    heard = session.receive(WRITTEN, 1.0)
    now = 1.0
    while heard:
        answers += 1
        now += 0.001
        heard = session.receive(heard, now)
        late, now = told(session, now)
        heard += late
    assert answers < 1100
    assert session.receive(ASKED, 2.0) == ANSWER
    assert session.receive(ANSWER, 2.001) == b""


@pytest.mark.parametrize("echo", ["auto", "none"])
def test_without_an_echo_nothing_is_lost(line, echo):
    session = line(echo=echo)
    for n in range(5):
        assert session.receive(ASKED, 1.0 + n * 0.01) == ANSWER
    assert session.line_counters()["echoes"] == 0


def test_a_request_that_begins_like_the_reply_is_none_of_it(line):
    session = line(echo="auto")
    assert session.receive(ASKED, 1.0) == ANSWER
    assert session.receive(ASKED[:2], 1.001) == b""
    assert session.receive(ASKED[2:], 1.002) == ANSWER


def test_a_part_of_an_echo_is_noise_in_the_end(line):
    session = line(echo="drop")
    session.receive(ASKED, 1.0)
    session.receive(ANSWER[:4], 1.001)
    assert told(session, 1.001)[0] == b""
    assert session.line_counters()["discarded_bytes"] == 4
    assert session.receive(ASKED, 2.0) == ANSWER


def test_an_echo_that_differs_is_a_collision(line):
    session = line(echo="drop")
    session.receive(ASKED, 1.0)
    session.receive(ANSWER[:4] + b"\x77" + ANSWER[5:], 1.001)
    assert told(session, 1.001)[0] == b""
    assert session.line_counters()["collisions"] == 1
    assert session.receive(ASKED, 2.0) == ANSWER


def test_a_quick_master_that_repeats_itself_loses_one_answer_at_most(line):
    # Nothing is known yet, and the adapter may be late.
    session, answered = line(echo="auto", character_time=CHARACTER), 0
    now = 1.0
    for _ in range(16):
        heard = session.receive(WRITTEN, now)
        late, now = told(session, now)
        heard += late
        answered += heard == WRITTEN
        # Our reply, and its next request; or its time-out.
        now += 8 * CHARACTER + 0.015 if heard else 0.5
    assert answered >= 15


@pytest.mark.parametrize("character_time", [0.0, CHARACTER])
@pytest.mark.parametrize("others", [False, True])
def test_a_quick_master_that_goes_on_repeating_itself_is_mistaken_for_an_echo_ever_more_rarely(line, character_time, others):
    session, lost, now = line(echo="auto", character_time=character_time), 0, 1.0
    for n in range(1000):
        if others and n % 250 == 249:
            assert session.receive(ASKED, now) == ANSWER
            now += 0.5
        heard = session.receive(WRITTEN, now)
        late, now = told(session, now)
        heard += late
        lost += not heard
        now += 8 * character_time + 0.01 if heard else 0.5
    assert lost <= 5


def test_a_line_whose_characters_take_no_time_is_found_out(line):
    session, now = line(echo="auto", character_time=CHARACTER), 1.0
    for request in (ASKED, ASKED, *[WRITTEN] * 100):
        assert session.receive(request, now) == (ANSWER if request == ASKED else WRITTEN)
        now += 0.001


def test_a_pause_shows_that_nothing_comes_back(line):
    session = line(echo="auto")
    for n in range(3):
        assert session.receive(WRITTEN, 1.0 + n) == WRITTEN
    for n in range(100):
        assert session.receive(WRITTEN, 10.0 + n * 0.001) == WRITTEN


@pytest.mark.parametrize("before", [b"\0", b"\xb1", pdu("07 41 12")])
@pytest.mark.parametrize("known", [True, False])
def test_an_echo_among_noise_is_not_executed(line, before, known):
    session = line(echo="auto", character_time=CHARACTER)
    if known:
        session.receive(ASKED, 1.0)
        session.receive(ANSWER, 1.0 + 7 * CHARACTER)
    assert session.receive(WRITTEN, 2.0) == WRITTEN
    assert session.receive(before + WRITTEN, 2.0 + 9 * CHARACTER) == b""
    assert told(session, 2.0 + 9 * CHARACTER)[0] == b""
    assert session.line_counters()["echoes"] == (2 if known else 1)
    assert session.receive(WRITTEN, 4.0) == WRITTEN, "asked again, much later"


def test_a_pseudo_terminal_takes_no_time(line):
    # A master that repeats itself as fast as it likes.
    session, now = line(echo="auto", character_time=CHARACTER, paced=False), 1.0
    for _ in range(500):
        now += 0.0001
        heard = session.receive(WRITTEN, now)
        late, now = told(session, now)
        assert heard + late == WRITTEN


def test_where_nothing_is_known_who_speaks_next_tells_an_echo(line):
    session = line(echo="auto")
    assert session.receive(WRITTEN, 1.0) == WRITTEN
    assert session.receive(WRITTEN, 1.001) == b"", "an echo, or a master that waits"
    assert session.receive(ASKED, 1.003) == ANSWER
    assert session.receive(ANSWER, 1.004) == b""
    assert session.line_counters()["echoes"] == 2
    assert session.control.Counter.BusMessage == 2


def test_a_request_that_is_repeated_because_its_answer_was_lost_is_answered(line):
    # On an adapter that echoes; that of the answer was damaged.
    session = line(echo="drop", character_time=CHARACTER)
    assert session.receive(WRITTEN, 1.0) == WRITTEN
    session.receive(WRITTEN[:3] + b"\x99\x99", 1.0 + 8 * CHARACTER)
    told(session, 1.02)
    assert session.receive(WRITTEN, 1.15) == WRITTEN


def test_an_adapter_that_stops_echoing_is_noticed(line):
    session = line(echo="auto")
    session.receive(ASKED, 1.0)
    assert session.receive(ANSWER, 1.001) == b""
    for n in range(4):
        assert session.receive(ASKED, 2.0 + n) == ANSWER
    for n in range(5):
        assert session.receive(WRITTEN, 10.0 + n * 0.3) == WRITTEN


def test_echo_takes_three_words(slave):
    with pytest.raises(ConfigurationError, match="echo is 'maybe': give one of none, auto, drop"):
        LineSession(ModbusRtuFramer, units(u1=slave), echo="maybe")
