"""One connection or line: which unit a request is for, who is answered, what is discarded; hooks; datagrams."""

import pytest
from adu import (
    ECHO,
    FRAME_GAP,
    LINES,
    Master,
    addressed_line,
    block,
    every_line,
    image,
    master,
    one_unit,
    pdu,
    refused,
    serial_line,
    units,
    words,
    wrap_ascii,
    wrap_rtu,
    wrap_socket,
)
from twisted.internet.defer import Deferred

from mbcore import ModbusControlBlock, ModbusSequentialDataBlock, ModbusSlaveContext, ModbusSocketFramer
from mbcore.errors import RequestError
from mbcore.session import Session

READ = pdu("03 0000 0001")
WRITE = pdu("06 0000 0007")
SERVED = {1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 15, 16, 17, 20, 21, 22, 23, 24, 43}
NETWORK = [name for name in LINES if not name.endswith("-serial") and name != "tls"]
network_line = pytest.mark.parametrize("line", NETWORK)


def unit(value=5):
    return image(hr=block([value, 0, 0]), co=block([0, 0]), files={1: [0]})


# Functions

@pytest.mark.parametrize("line", ["socket", "rtu-serial", "ascii", "ascii-serial", "binary"])
@pytest.mark.parametrize("data", [b"", b"\0", b"\0\0\0\1", bytes(100)])
def test_every_function_that_is_not_served_is_illegal_function(line, data):
    it = master(line, unit())
    for code in set(range(1, 128)) - SERVED:
        assert it.ask_alone(bytes([code]) + data) == refused(code, 1), f"function {code}"
    assert it.ask(READ) == pdu("03 02 0005")


@pytest.mark.parametrize("line", ["socket", "rtu-serial", "ascii-serial", "binary"])
@pytest.mark.parametrize("data", [b"", b"\2", b"\0\0\0\1"])
def test_a_code_of_0_or_of_an_exception_response_is_refused_or_ignored(line, data):
    it = master(line, unit())
    for code in (0, *range(128, 256)):
        assert it.ask_alone(bytes([code]) + data) in (None, refused(code, 1)), f"function {code}"
    assert it.ask(READ) == pdu("03 02 0005")


@pytest.mark.parametrize("line", ["socket", "ascii", "binary", "ascii-serial"])
def test_a_frame_without_a_function_code_is_ignored(line):
    it = master(line, unit())
    bare = {"socket": words(1, 0, 1) + b"\1", "binary": b"{\x01\x7e\x80}"}.get(line, b":01FF\r\n")
    assert it.send(bare) == b""


# Units on a network

@network_line
@pytest.mark.parametrize("request_", [READ, WRITE, pdu("01 0000 0001"), pdu("2B 0E 01 00"), ECHO, pdu("03 0000 0000"), pdu("03 9999 0001")])
def test_absent_unit_is_gateway_target_failed_to_respond(line, request_):
    it = master(line, units(u1=unit(), u2=unit()))
    assert it.ask(request_, unit=9) == refused(request_[0], 0x0B)
    assert it.ask(READ, unit=1) == pdu("03 02 0005")


@network_line
def test_absent_unit_is_silent_with_ignore_missing_slaves(line):
    it = master(line, units(u1=unit(), u2=unit()), ignore_missing_slaves=True)
    assert it.ask(READ, unit=9) is None
    assert it.ask(READ, unit=1) == pdu("03 02 0005")


def test_requests_behind_one_to_an_absent_unit_are_answered():
    for options in ({}, {"ignore_missing_slaves": True}):
        it = master("socket", units(u1=unit(), u2=unit()), **options)
        out = it.send(wrap_socket(READ, 9, 1) + wrap_socket(READ, 1, 2) + wrap_socket(READ, 9, 3) + wrap_socket(READ, 2, 4))
        answered = [(adu.transaction, adu.pdu) for adu in it.line.unwrap(out)]
        good = [(2, pdu("03 02 0005")), (4, pdu("03 02 0005"))]
        assert [each for each in answered if each[1][0] == 3] == good
        assert len(answered) == (2 if options else 4)


@pytest.mark.parametrize("device", [0, 255])
@pytest.mark.parametrize("options", [{}, {"ignore_missing_slaves": True}])
def test_units_0_and_255_are_the_device_itself_in_a_server_of_one_unit(device, options):
    for context in (units(u1=unit()), units(u17=unit()), one_unit(unit())):
        it = master("socket", context, **options)
        assert it.ask(READ, unit=device) == pdu("03 02 0005")
        assert it.ask(WRITE, unit=device) == WRITE


def test_a_write_to_unit_0_of_a_network_is_answered_and_no_broadcast():
    one, two = unit(), unit()
    it = master("socket", units(u1=one, u2=two))
    assert it.ask(WRITE, unit=0) == refused(6, 0x0B)
    assert one.getValues(3, 0, 1) == two.getValues(3, 0, 1) == [5]


@network_line
def test_unit_0_is_broadcast_with_broadcast_enable(line):
    one, two = unit(), unit()
    it = master(line, units(u1=one, u2=two), broadcast_enable=True)
    assert it.ask(WRITE, unit=0) is None
    assert one.getValues(3, 0, 1) == two.getValues(3, 0, 1) == [7]
    assert it.ask(READ, unit=0) is None
    assert it.ask(READ, unit=1) == pdu("03 02 0007")


# Units on a serial line

@serial_line
@pytest.mark.parametrize("options", [{}, {"ignore_missing_slaves": True}])
def test_absent_unit_is_silent_on_a_serial_line(line, options):
    it = master(line, units(u1=unit()), **options)
    for request in (READ, WRITE, pdu("03 0000 0000"), ECHO, pdu("2B 0E 01 00")):
        assert it.ask(request, unit=9) is None
        assert it.ask(request, unit=255) is None
    assert it.ask(READ) == pdu("03 02 0005")


@serial_line
@pytest.mark.parametrize(("request_", "written"), [
    ("06 0000 0007", [7, 0, 0]), ("10 0001 0002 04 0008 0009", [5, 8, 9]), ("16 0000 0000 0025", [0x25, 0, 0]),
    ("17 0000 0001 0002 0001 02 0003", [5, 0, 3]),
])
def test_broadcast_writes_registers_of_all_units_and_is_never_answered(line, request_, written):
    one, two = unit(), unit()
    it = master(line, units(u1=one, u2=two))
    assert it.ask(pdu(request_), unit=0) is None
    assert one.getValues(3, 0, 3) == two.getValues(3, 0, 3) == written


@serial_line
@pytest.mark.parametrize(("request_", "written"), [("05 0001 FF00", [False, True]), ("0F 0000 0002 01 03", [True, True])])
def test_broadcast_writes_coils_of_all_units(line, request_, written):
    one, two = unit(), unit()
    assert master(line, units(u1=one, u2=two)).ask(pdu(request_), unit=0) is None
    assert one.getValues(1, 0, 2) == two.getValues(1, 0, 2) == written


@serial_line
@pytest.mark.parametrize("request_", ["15 09 06 0001 0000 0001 BEEF"])
def test_broadcast_writes_files_of_all_units(line, request_):
    one, two = unit(), unit()
    assert master(line, units(u1=one, u2=two)).ask(pdu(request_), unit=0) is None
    assert list(one.files[1]) == list(two.files[1]) == [0xBEEF]


@serial_line
@pytest.mark.parametrize("request_", ["03 0000 0001", "01 0000 0001", "03 0000 0000", "06 9999 0000", "05 0000 1234", "55", "08 0000 A537",
                                      "2B 0E 01 00", "11",
                                      "07", "0B", "0C", "18 0000", "14 07 06 0001 0000 0001", "80", "81 02", "00"])
def test_no_broadcast_is_ever_answered(line, request_):
    one, two = unit(), unit()
    it = master(line, units(u1=one, u2=two))
    assert it.ask_alone(pdu(request_), unit=0) is None
    assert one.getValues(3, 0, 3) == two.getValues(3, 0, 3) == [5, 0, 0]
    assert it.ask(READ, unit=2) == pdu("03 02 0005")


@serial_line
def test_broadcast_reaches_the_units_that_can_take_it(line):
    one, two, three = unit(), image(hr=block([1], 100)), unit()
    assert master(line, units(u1=one, u2=two, u3=three)).ask(WRITE, unit=0) is None
    assert one.getValues(3, 0, 1) == three.getValues(3, 0, 1) == [7]
    assert two.getValues(3, 100, 1) == [1]


@serial_line
def test_broadcast_reaches_a_single_context_once(line):
    calls = []

    class Counting(ModbusSequentialDataBlock):
        def setValues(self, address, values):
            calls.append((address, values))

    assert master(line, image(hr=Counting(0, [0]))).ask(WRITE, unit=0) is None
    assert calls == [(0, [7])]


@serial_line
def test_broadcast_passes_a_unit_whose_code_raises(line):
    def fail(self, address, values):
        raise RequestError(4)

    other = unit()
    broken = image(hr=type("Broken", (ModbusSequentialDataBlock,), {"setValues": fail})(0, [0]))
    assert master(line, units(u1=broken, u2=other)).ask(WRITE, unit=0) is None
    assert other.getValues(3, 0, 1) == [7]


@serial_line
def test_several_units_live_on_one_line(line):
    it = master(line, units(u1=unit(1), u17=unit(17), u247=unit(247)))
    assert [it.ask(READ, n) for n in (17, 1, 247, 2, 1)] == [pdu("03 02 0011"), pdu("03 02 0001"), pdu("03 02 00F7"), None,
                                                             pdu("03 02 0001")]


# Pipelining

def test_a_thousand_requests_in_one_segment_are_answered_in_order():
    it = master("socket", unit())
    stream = b"".join(wrap_socket(READ if n % 3 else pdu("03 9999 0001"), 1, n) for n in range(1000))
    answers = it.line.unwrap(it.session.receive(stream, 0.0))
    assert [adu.transaction for adu in answers] == list(range(1000))
    assert all(adu.pdu == (pdu("03 02 0005") if n % 3 else refused(3, 2)) for n, adu in enumerate(answers))


@pytest.mark.parametrize("piece", [1, 2, 3, 5, 7, 11, 13, 100, 259, 260, 261, 1000])
def test_pipelined_requests_in_any_pieces(piece):
    it = master("socket", image(hr=block([0] * 200)))
    writes = [pdu("10 0000 007B F6") + words(n) * 123 for n in range(1, 20)]
    stream = b"".join(wrap_socket(write, 1, 2 * n) + wrap_socket(READ, 1, 2 * n + 1) for n, write in enumerate(writes))
    answers = it.line.unwrap(it.send(stream, piece))
    assert [adu.transaction for adu in answers] == list(range(38))
    assert [adu.pdu for adu in answers[1::2]] == [pdu("03 02") + words(n) for n in range(1, 20)]


def test_an_effect_is_seen_by_the_next_request_of_the_segment():
    it = master("socket", unit())
    out = it.send(wrap_socket(READ, 1, 1) + wrap_socket(WRITE, 1, 2) + wrap_socket(READ, 1, 3))
    assert [adu.pdu for adu in it.line.unwrap(out)] == [pdu("03 02 0005"), WRITE, pdu("03 02 0007")]


def test_sessions_do_not_share_their_partial_frames():
    store = one_unit(unit())
    one, two = master("socket", store).session, master("socket", store).session
    frame = wrap_socket(READ, 1, 1)
    assert one.receive(frame[:5], 0.0) == b""
    assert two.receive(frame, 0.0) == wrap_socket(pdu("03 02 0005"), 1, 1)
    assert one.receive(frame[5:], 0.0) == wrap_socket(pdu("03 02 0005"), 1, 1)


def test_a_session_makes_its_own_control_block_when_none_is_given():
    session = Session(ModbusSocketFramer, one_unit(unit()))
    assert session.receive(wrap_socket(ECHO), 0.0) == wrap_socket(ECHO)


# Datagrams

@every_line
def test_a_datagram_is_one_adu(line):
    it = master(line, unit())
    wrap = it.line.wrap
    assert it.session.datagram(wrap(READ, 1, 7)) == wrap(pdu("03 02 0005"), 1, 7)
    assert it.session.datagram(b"") == b""


@addressed_line
def test_a_datagram_of_a_wrong_length_is_discarded_and_nothing_else(line):
    it = master(line, unit())
    frame = it.line.wrap(WRITE, 1, 7)
    for bad in [*(frame[:size] for size in range(len(frame))), frame + b"\0", frame + b"\xff" * 300, b"\0" + frame]:
        assert it.session.datagram(bad) == b""
        assert it.session.deadline() is None
        assert not it.session.closing
    assert it.session.datagram(it.line.wrap(READ, 1, 8)) == it.line.wrap(pdu("03 02 0005"), 1, 8)


def test_datagrams_of_two_peers_do_not_mix():
    session = master("socket", unit()).session
    frame = wrap_socket(WRITE)
    assert session.datagram(frame[:6]) == b""
    assert session.datagram(frame[6:]) == b""
    assert session.datagram(frame) == frame


@pytest.mark.parametrize("length", [0, 1, 5, 7, 255, 0xFFFF])
def test_a_datagram_with_another_length_in_its_head_is_discarded(length):
    session = master("socket", unit()).session
    assert session.datagram(words(1, 0, length) + b"\1" + WRITE) == b""
    assert not session.closing
    assert session.datagram(words(1, 5, 6) + b"\1" + WRITE) == b""
    assert session.datagram(wrap_socket(READ)) == wrap_socket(pdu("03 02 0005"))


def test_a_datagram_to_an_absent_unit():
    assert master("socket", units(u1=unit(), u2=unit())).session.datagram(wrap_socket(READ, 9, 4)) == wrap_socket(refused(3, 0x0B), 9, 4)
    assert master("socket", units(u1=unit(), u2=unit()), ignore_missing_slaves=True).session.datagram(wrap_socket(READ, 9, 4)) == b""


# Closing

def test_closing_ends_only_its_own_session():
    store, control = one_unit(unit()), ModbusControlBlock()
    one, two = master("socket", store, control), master("socket", store, control)
    one.session.receive(words(1, 0, 0), 0.0)
    assert one.session.closing
    assert not two.session.closing
    assert two.ask(READ) == pdu("03 02 0005")


@pytest.mark.parametrize("line", ["rtu", "rtu-serial", "ascii", "ascii-serial", "binary"])
def test_bad_bytes_never_close_a_line_that_can_resynchronise(line):
    it = master(line, unit())
    for noise in (bytes(1000), b"\xff" * 1000, bytes(range(256)) * 4, b":" * 1000, b"{" * 1000, b"}" * 1000, words(1, 0, 0xFFFF) * 100):
        it.send(noise, piece=37)
        assert not it.session.closing
        assert it.ask(READ) == pdu("03 02 0005")


# Hooks

def test_trace_pdu_sees_the_request_and_the_response():
    seen = []

    def trace(sending, message):
        seen.append((sending, message.function_code, message.unit_id, getattr(message, "registers", None)))
        return message

    it = master("socket", units(u1=unit(), u7=unit()), trace_pdu=trace)
    assert it.ask(READ, 7) == pdu("03 02 0005")
    assert it.ask(pdu("10 0000 0001 02 0009"), 1) == pdu("10 0000 0001")
    assert seen == [(False, 3, 7, None), (True, 3, 7, [5]), (False, 16, 1, [9]), (True, 16, 1, None)]


def test_trace_pdu_may_change_the_request_and_the_response():
    def trace(sending, message):
        if sending:
            message.registers = [0x63]
        else:
            message.address = 1
        return message

    calls = []

    class Watched(ModbusSequentialDataBlock):
        def getValues(self, address, count=1):
            calls.append((address, count))
            return super().getValues(address, count)

    it = master("socket", image(hr=Watched(0, [1, 2])), trace_pdu=trace)
    assert it.ask(READ) == pdu("03 02 0063")
    assert calls == [(1, 1)]


@every_line
@pytest.mark.parametrize("request_", ["03 0000 0001", "06 0000 0007", "03 9999 0001", "03 0000 0000", "08 0000 A537", "2B 0E 01 00", "11",
                                      "0F 0000 0002 01 FF",
                                      "15 09 06 0001 0000 0001 BEEF", "14 07 06 0001 0000 0001", "17 0000 0001 0000 0001 02 0009"])
def test_a_trace_that_changes_nothing_changes_nothing(line, request_):
    plain, traced = master(line, unit()), master(line, unit(), trace_pdu=lambda sending, message: message)
    assert traced.ask(pdu(request_)) == plain.ask(pdu(request_))


def test_a_trace_that_raises_changes_nothing_and_is_reported():
    reports = []

    def trace(sending, message):
        raise ValueError("no")

    it = master("socket", unit(), trace_pdu=trace, report=lambda *report: reports.append(report))
    assert it.ask(READ) == pdu("03 02 0005")
    assert reports
    assert all(isinstance(error, ValueError) for _, error in reports)


# Time

@serial_line
def test_deadlines_follow_the_last_byte(line):
    it = master(line, unit())
    frame = wrap_rtu(READ) if line.startswith("rtu") else wrap_ascii(READ)
    wait = FRAME_GAP if line.startswith("rtu") else 1.0
    it.session.receive(frame[:2], 50.0)
    assert it.session.deadline() == pytest.approx(50.0 + wait, abs=1e-9)
    it.session.receive(frame[2:4], 50.0 + wait / 2)
    assert it.session.deadline() == pytest.approx(50.0 + wait * 1.5, abs=1e-9)
    assert it.session.receive(frame[4:], 50.0 + wait) != b""
    assert it.session.deadline() is None


@every_line
def test_expire_without_a_deadline_does_nothing(line):
    it = master(line, unit())
    assert it.session.expire(1e9) == b""
    assert it.ask(READ) == pdu("03 02 0005")


def test_rtu_over_tcp_is_not_split_by_time():
    session = master("rtu", unit()).session
    out = b""
    for n, byte in enumerate(wrap_rtu(READ)):
        out += session.receive(bytes([byte]), n * 0.2)
    assert out == wrap_rtu(pdu("03 02 0005"))


@pytest.mark.parametrize("before", [
    "01 03 0001 0001 D500", "02 03 0001 0001 D5CA", "01 03 0001 00", "A55A33", "01 06 0001 0001 0000", "01 16 0000 0001 0002 0000",
    "09 03 02 ABCD E720", "01 03 0001 0001 D500 02 10", "FF 2B", "01 55 01 02 03 04", "01 18", "00 64 08",
])
@pytest.mark.parametrize("apart", [True, False])
def test_what_is_damaged_over_tcp_costs_no_master_the_answers_to_what_comes_behind_it(before, apart):
    session = master("rtu", unit()).session
    request, answer = wrap_rtu(READ), wrap_rtu(pdu("03 02 0005"))
    if apart:
        assert session.receive(pdu(before), 1.0) == b""
        heard = [session.receive(request, 1.02)]
    else:
        heard = [session.receive(pdu(before) + request, 1.02)]
    # A request may go with what it seems to be the end of.
    heard += [session.receive(request, 1.04 + 0.02 * n) for n in range(5)]
    assert heard[1].endswith(answer)
    assert heard[2:] == [answer] * 4
    assert b"".join(heard) in (answer * 6, answer * 5)


def test_a_request_within_one_that_comes_in_pieces_is_none_where_nothing_is_damaged():
    session = master("rtu", image(hr=block([5] * 10))).session
    inner = wrap_rtu(pdu("06 0000 0063"))
    whole = wrap_rtu(pdu("10 0001 0005 0A") + inner + b"\0\0")
    assert session.receive(whole[:-4], 1.0) == b""
    assert session.receive(whole[-4:], 1.1) == wrap_rtu(pdu("10 0001 0005"))


def test_rtu_over_tcp_answers_each_of_several_frames():
    it = Master(LINES["rtu"], "whole", LINES["rtu"].session(units(u1=unit(1), u2=unit(2))))
    requests = [wrap_rtu(READ, n) for n in (1, 2, 1)]
    assert it.send(b"".join(requests)) == b"".join(wrap_rtu(pdu("03 02") + words(n), n) for n in (1, 2, 1))


def test_a_datagram_of_the_wrong_length_for_its_function_is_refused_and_leaves_nothing_behind():
    it = master("rtu", image(hr=block([5])))
    for request in ("10 0000 0001 64 0001", "03 0000 00"):
        assert it.session.datagram(wrap_rtu(pdu(request))) == wrap_rtu(refused(pdu(request)[0], 3))
        assert it.session.deadline() is None
    assert it.session.datagram(wrap_rtu(READ)) == wrap_rtu(pdu("03 02 0005"))


def test_a_session_without_init_raises_instead_of_crashing():
    session = Session.__new__(Session)
    for call in (lambda: session.receive(b"\0", 0.0), lambda: session.datagram(b"\0"), session.deadline, lambda: session.expire(0.0)):
        with pytest.raises(TypeError, match="without __init__"):
            call()


def test_a_block_that_exits_is_exception_4():
    class Exits(ModbusSequentialDataBlock):
        def getValues(self, address, count=1):
            raise SystemExit

    reports = []
    it = master("socket", image(hr=Exits(0, [1])), report=lambda sentence, error: reports.append(error))
    assert it.ask(READ) == refused(3, 4)
    assert [type(error) for error in reports] == [SystemExit]


def test_a_trace_hook_that_exits_changes_nothing():
    def exits(sending, traced):
        raise SystemExit

    assert master("socket", image(hr=block([5])), trace_pdu=exits).ask(READ) == pdu("03 02 0005")


def test_observers_hear_what_a_broadcast_has_made_of_each_unit_which_is_not_asked_again():
    class Once(ModbusSlaveContext):
        def __init__(self, value):
            super().__init__(zero_mode=True)
            self.answers = [value]

        def getValues(self, fx, address, count=1):
            return [self.answers.pop()]

    reports, told = [], []
    store = units(u1=Once(0x12), u2=Once(0x40), u3=unit())
    store.add_observer(lambda *event: told.append(event))
    it = master("rtu-serial", store, report=lambda *report: reports.append(report))
    assert it.ask(pdu("16 0000 00F2 0025"), unit=0) is None
    assert told == [(1, "holding_registers", 0, [0x17]), (2, "holding_registers", 0, [0x45]), (3, "holding_registers", 0, [0x05])]
    assert not reports


# Observers that want the program to end

TWO_PLACES = pdu("15 12 06 0001 0000 0001 0005 06 0001 0001 0001 0006")
ONE_PLACE = pdu("15 09 06 0001 0002 0001 0007")


def observed_file():
    """A store, what each of three observers has heard, and what the second one raises before it hears anything more."""
    store = one_unit(image(files={1: [0] * 3}))
    heard, raised = [[], [], []], []

    def observer(number):
        def hear(_unit, _table, place, _values):
            heard[number].append(place)
            if number == 1 and raised:
                raise raised.pop(0)

        return hear

    for number in range(3):
        store.add_observer(observer(number))
    return store, heard, raised


def session_on(store, **options):
    return Session(ModbusSocketFramer, store, **options)


@pytest.mark.parametrize("wanted", [KeyboardInterrupt, GeneratorExit])
def test_an_observer_that_wants_the_program_to_end_keeps_nobody_from_hearing(wanted):
    store, heard, raised = observed_file()
    first = wanted("first")
    raised += [first, KeyboardInterrupt("second")]
    with pytest.raises(wanted) as caught:
        session_on(store).receive(wrap_socket(TWO_PLACES), 1.0)
    assert caught.value is first
    assert raised == []
    assert heard == [[(1, 0), (1, 1)]] * 3


def test_an_observer_that_wants_the_program_to_end_costs_no_other_session_anything():
    store, heard, raised = observed_file()
    raised += [KeyboardInterrupt()]
    with pytest.raises(KeyboardInterrupt):
        session_on(store).receive(wrap_socket(TWO_PLACES), 1.0)
    raised += [ValueError("of the other one")]
    late, reports = [], []
    store.add_observer(lambda *told: late.append(told))
    other = session_on(store, report=lambda sentence, error: reports.append(str(error)))
    assert other.receive(wrap_socket(ONE_PLACE), 1.0) == wrap_socket(ONE_PLACE)
    assert late == [(1, "file_records", (1, 2), [7])], "not of what was before it"
    assert reports == ["of the other one"]
    assert heard == [[(1, 0), (1, 1), (1, 2)]] * 3


def test_a_report_that_raises_keeps_no_observer_from_hearing():
    def report(sentence, error):
        raise LookupError(sentence) from error

    store, heard, raised = observed_file()
    raised += [ValueError()]
    with pytest.raises(LookupError, match=r"the observer .* failed"):
        session_on(store, report=report).receive(wrap_socket(TWO_PLACES), 1.0)
    assert heard == [[(1, 0), (1, 1)]] * 3


def test_a_context_that_wants_the_program_to_end_keeps_nobody_from_hearing_what_others_have_made_of_a_broadcast():
    class Ends(ModbusSlaveContext):
        def setValues(self, fx, address, values):
            raise KeyboardInterrupt

    store = units(u1=unit(), u2=Ends(zero_mode=True), u3=unit())
    told = []
    store.add_observer(lambda unit, _table, _address, values: told.append((unit, *values)))
    with pytest.raises(KeyboardInterrupt):
        session_on(store, broadcast_enable=True).receive(wrap_socket(pdu("06 0000 0025"), 0), 1.0)
    assert told == [(1, 0x25)]


def test_what_some_units_have_made_of_a_broadcast_is_heard_of_before_another_one_has_answered():
    asked = []

    class Later(ModbusSlaveContext):
        def setValues(self, fx, address, values):
            asked.append(Deferred())
            return asked[-1]

    store = units(u1=unit(), u2=Later(zero_mode=True), u3=unit())
    told = []
    store.add_observer(lambda unit, _table, _address, values: told.append((unit, *values)))
    session = session_on(store, broadcast_enable=True)
    session.receive(wrap_socket(pdu("16 0000 0000 0025"), 0), 1.0)
    assert told == [(1, 0x25)]
    asked[0].callback(None)
    session.resume(2.0)
    assert told == [(1, 0x25), (2, 0x25), (3, 0x25)]


def test_what_an_observer_writes_after_another_one_wanted_the_program_to_end_is_heard_of_too():
    store, heard, raised = observed_file()
    raised += [KeyboardInterrupt()]
    other, replies = session_on(store), []

    def further(_unit, _table, place, _values):
        if place == (1, 1):
            replies.append(other.receive(wrap_socket(ONE_PLACE), 1.0))

    store.add_observer(further)
    with pytest.raises(KeyboardInterrupt):
        session_on(store).receive(wrap_socket(TWO_PLACES), 1.0)
    assert replies == [wrap_socket(ONE_PLACE)]
    assert heard == [[(1, 0), (1, 1), (1, 2)]] * 3
