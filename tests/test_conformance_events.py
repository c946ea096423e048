"""AP 6.8 to 6.10 and SL appendix A: counters CPT1 to CPT8, listen-only mode, event counter and event log."""

import adu
import pytest
from adu import ECHO, LINES, block, image, one_unit, pdu, refused, serial_line, units, words
from carried import ENGINES, carried_master

from mbcore import ModbusControlBlock, ModbusSequentialDataBlock
from mbcore.errors import RequestError

COUNTERS = {
    0x0B: "BusMessage", 0x0C: "BusCommunicationError", 0x0D: "BusExceptionError", 0x0E: "SlaveMessage", 0x0F: "SlaveNoResponse",
    0x10: "SlaveNAK", 0x11: "SlaveBusy", 0x12: "BusCharacterOverrun",
}
READ = pdu("03 0000 0001")
ILLEGAL_ADDRESS = pdu("03 9999 0001")
LISTEN, RESTART, RESTART_AND_CLEAR_LOG = pdu("08 0004 0000"), pdu("08 0001 0000"), pdu("08 0001 FF00")

# Sessions alone, and servers on Twisted and on the compiled loop: with a connection for each request, whose end tells that nothing comes.
SERVERS = [pytest.param(("tcp", "socket", engine), marks=pytest.mark.live, id=f"tcp-{engine}") for engine in ENGINES]
every_line = pytest.mark.parametrize("line", [*LINES, *SERVERS])
every_way = pytest.mark.parametrize("line", ["socket", *SERVERS])


@pytest.fixture
def control():
    return ModbusControlBlock()


@pytest.fixture
def master(request):
    """master(line, store, control=None) -> Master"""

    def start(line, store, control=None):
        if line in LINES:
            return adu.master(line, store, control)
        made, server = carried_master(line, store, control, delivery="whole")
        request.addfinalizer(server.close)
        return made

    return start


def unit():
    return image(hr=block([5, 6]), co=block([0, 0]))


def diagnostic(sub_function, *data) -> bytes:
    return b"\x08" + words(sub_function, *data)


def count(master, sub_function) -> int:
    answer = master.ask(diagnostic(sub_function, 0))
    assert answer[:3] == diagnostic(sub_function)
    assert len(answer) == 5
    return int.from_bytes(answer[3:])


def event_log(master) -> tuple[int, int, int, bytes]:
    """Status, event count, message count and events of function 12 (AP 6.10)."""
    answer = master.ask(b"\x0c")
    assert answer[0] == 0x0C
    assert answer[1] == len(answer) - 2
    return int.from_bytes(answer[2:4]), int.from_bytes(answer[4:6]), int.from_bytes(answer[6:8]), answer[8:]


def event_count(master) -> int:
    answer = master.ask(b"\x0b")
    assert answer[:3] == pdu("0B 0000")  # status: no program command is running
    assert len(answer) == 5
    return int.from_bytes(answer[3:])


# Counters (CPT1 to CPT8)

@pytest.mark.parametrize(("sub_function", "name"), COUNTERS.items())
@every_way
def test_counter_is_16_bits(line, control, sub_function, name, master):
    setattr(control.Counter, name, 0xABCD)
    assert count(master(line, unit(), control), sub_function) in (0xABCD, 0xABCD + 1)
    assert getattr(control.Counter, name) in (0xABCD, 0xABCD + 1)


@every_line
def test_bus_messages_are_counted_and_the_counter_wraps(line, control, master):
    it = master(line, unit(), control)
    first = count(it, 0x0B)
    assert count(it, 0x0B) == first + 1
    for request in (READ, ILLEGAL_ADDRESS, b"\x07"):
        it.ask(request)
    assert count(it, 0x0B) == first + 5
    control.Counter.BusMessage = 0xFFFF
    assert count(it, 0x0B) == 0


@every_line
def test_server_messages_are_counted(line, control, master):
    it = master(line, unit(), control)
    first = count(it, 0x0E)
    for request in (READ, ILLEGAL_ADDRESS):
        it.ask(request)
    assert count(it, 0x0E) == first + 3


@serial_line
def test_messages_of_other_units_are_bus_messages_but_not_ours(line, control, master):
    it = master(line, units(u1=unit()), control)
    bus, ours = count(it, 0x0B), count(it, 0x0E)
    assert it.ask(READ, unit=9) is None
    assert it.ask(READ, unit=10) is None
    assert count(it, 0x0B) == bus + 4
    assert count(it, 0x0E) == ours + 2


@serial_line
def test_broadcasts_are_server_messages_without_a_response(line, control, master):
    it = master(line, units(u1=unit()), control)
    ours = count(it, 0x0E)
    assert count(it, 0x0F) == 0
    for _ in range(3):
        assert it.ask(pdu("06 0000 0001"), unit=0) is None
    assert count(it, 0x0F) == 3
    assert count(it, 0x0E) == ours + 6


@every_line
def test_exceptions_that_are_sent_are_counted(line, control, master):
    it = master(line, unit(), control)
    assert count(it, 0x0D) == 0
    for request in (ILLEGAL_ADDRESS, pdu("03 0000 0000"), pdu("08 0005 0000")):
        it.ask(request)
    assert count(it, 0x0D) == 3
    assert control.Counter.BusExceptionError == 3


@pytest.mark.parametrize("line", ["rtu", "rtu-serial", "ascii", "ascii-serial"])
def test_checksum_errors_are_counted_and_not_answered(line, control, master):
    it = master(line, unit(), control)
    good = it.line.wrap(READ)
    bad = good[:-1] + bytes([good[-1] ^ 1]) if line.startswith("rtu") else good[:-3] + (b"1" if good[-3:-2] == b"0" else b"0") + b"\r\n"
    assert count(it, 0x0C) == 0
    for expected in (1, 2):
        assert it.send(bad) == b""
        assert count(it, 0x0C) == expected
    assert control.Counter.BusCommunicationError == 2


class Refusing(ModbusSequentialDataBlock):
    def validate(self, address, count=1):
        raise RequestError({0: 5, 1: 6, 2: 7}[address])


@pytest.mark.parametrize(("address", "exception", "sub_function"), [(1, 6, 0x11), (2, 7, 0x10)])
@every_way
def test_busy_and_nak_responses_are_counted(line, control, address, exception, sub_function, master):
    it = master(line, image(hr=Refusing(0, [0] * 3)), control)
    for expected in (1, 2):
        assert it.ask(b"\x03" + words(address, 1)) == refused(3, exception)
        assert count(it, sub_function) == expected
    assert count(it, {0x10: 0x11, 0x11: 0x10}[sub_function]) == 0


@pytest.mark.parametrize("request_", [diagnostic(10, 0), RESTART, RESTART_AND_CLEAR_LOG])
@every_way
def test_counters_are_cleared(line, control, request_, master):
    it = master(line, unit(), control)
    for name in COUNTERS.values():
        setattr(control.Counter, name, 77)
    it.ask(request_)
    for sub_function in COUNTERS:
        assert count(it, sub_function) < 20
    assert control.Counter.SlaveNAK == 0


def test_counters_are_of_one_server(control, master):
    one, two = master("socket", unit(), control), master("socket", unit())
    for _ in range(5):
        one.ask(ILLEGAL_ADDRESS)
    assert count(two, 0x0D) == 0
    assert count(one, 0x0D) == 5


def test_sessions_of_one_server_share_its_counters(control, master):
    store = one_unit(unit())
    one, two = master("socket", store, control), master("rtu", store, control)
    one.ask(ILLEGAL_ADDRESS)
    assert count(two, 0x0D) == 1


# Listen-only mode

@every_line
def test_listen_only_mode_is_entered_unanswered_and_left_by_an_unanswered_restart(line, control, master):
    slave = unit()
    it = master(line, slave, control)
    assert it.ask(LISTEN) is None
    assert control.ListenOnly
    for request in (ECHO, READ, ILLEGAL_ADDRESS, pdu("06 0000 0001"), LISTEN, diagnostic(10, 0), diagnostic(1, 1), pdu("55")):
        assert it.ask_alone(request) is None
    assert control.ListenOnly
    assert slave.getValues(3, 0, 2) == [5, 6], "none of the messages is acted on"
    assert it.ask(RESTART) is None
    assert not control.ListenOnly
    assert it.ask(READ) == pdu("03 02 0005")


@every_way
def test_listen_only_mode_is_left_by_either_restart(line, control, master):
    for request in (RESTART, RESTART_AND_CLEAR_LOG):
        it = master(line, unit(), control)
        assert it.ask(LISTEN) is None
        assert it.ask(request) is None
        assert it.ask(request) == request


def test_messages_are_watched_in_listen_only_mode(control, master):
    it = master("rtu-serial", units(u1=unit()), control)
    it.ask(LISTEN)
    bus, unanswered = control.Counter.BusMessage, control.Counter.SlaveNoResponse
    it.ask(READ)
    it.ask(READ)
    it.ask(READ, unit=9)
    assert control.Counter.BusMessage == bus + 3
    assert control.Counter.SlaveNoResponse == unanswered + 2


@serial_line
def test_broadcasts_are_not_acted_on_in_listen_only_mode(line, control, master):
    slave = unit()
    it = master(line, units(u1=slave), control)
    it.ask(LISTEN)
    it.ask(pdu("06 0000 0001"), unit=0)
    assert slave.getValues(3, 0, 1) == [5]


@every_way
def test_the_rest_of_a_segment_is_not_answered_after_listen_only_mode_is_entered(line, control, master):
    wrap = LINES["socket"].wrap
    it = master(line, unit(), control)
    stream = wrap(ECHO, 1, 1) + wrap(LISTEN, 1, 2) + wrap(ECHO, 1, 3) + wrap(RESTART, 1, 4) + wrap(ECHO, 1, 5)
    assert [adu.transaction for adu in it.line.unwrap(it.send(stream))] == [1, 5]


# Event counter (11)

@every_line
def test_event_counter_counts_completed_messages_but_no_exceptions_and_no_fetches(line, control, master):
    it = master(line, unit(), control)
    assert event_count(it) == 0
    assert event_count(it) == 0
    it.ask(READ)
    assert event_count(it) == 1
    for request in (ILLEGAL_ADDRESS, pdu("03 0000 0000"), pdu("08 0005 0000")):
        it.ask(request)
    assert event_count(it) == 1
    for request in (READ, pdu("06 0000 0007"), pdu("05 0000 FF00"), pdu("10 0000 0001 02 0001")):
        it.ask(request)
    assert event_count(it) == 5
    assert control.Counter.Event == 5


@pytest.mark.parametrize("request_", [diagnostic(10, 0), RESTART])
@every_way
def test_event_counter_is_cleared(line, control, request_, master):
    it = master(line, unit(), control)
    for _ in range(9):
        it.ask(READ)
    it.ask(request_)
    assert event_count(it) <= 1


@every_way
def test_event_counter_example(line, control, master):
    it = master(line, unit(), control)
    for _ in range(0x0108):
        it.ask(READ)
    # AP 6.9: function, status, event count 0108
    assert it.ask(b"\x0b") == pdu("0B 0000 0108")


# Event log (12)

@every_way
def test_event_log_is_newest_first(line, control, master):
    it = master(line, unit(), control)
    it.ask(ECHO)
    it.ask(ILLEGAL_ADDRESS)
    # the fetch itself received, exception 1-3 sent, received, sent, received
    assert event_log(it)[3] == pdu("80 41 80 40 80")
    assert control.events == pdu("40 80 41 80 40 80")


@every_way
def test_event_log_tells_status_counts_and_events(line, control, master):
    it = master(line, unit(), control)
    it.ask(ECHO)
    it.ask(ILLEGAL_ADDRESS)
    bus, events = count(it, 0x0B), event_count(it)
    status, event, message, _ = event_log(it)
    assert status == 0
    assert event == events
    assert message == bus + 2  # the same as 08/0B: event counter and log have been fetched since


@every_line
def test_event_log_keeps_the_newest_64(line, control, master):
    it = master(line, unit(), control)
    for number in range(100):
        it.ask(ILLEGAL_ADDRESS if number == 80 else ECHO)
    events = event_log(it)[3]
    assert len(events) == 64
    assert events == b"\x80" + b"\x40\x80" * 19 + b"\x41\x80" + b"\x40\x80" * 11 + b"\x40"


@pytest.mark.parametrize(("address", "exception", "event"), [(0, 5, 0x44), (1, 6, 0x44), (2, 7, 0x48)])
@every_way
def test_send_event_tells_the_exception(line, control, address, exception, event, master):
    it = master(line, image(hr=Refusing(0, [0] * 3)), control)
    assert it.ask(b"\x03" + words(address, 1)) == refused(3, exception)
    assert control.events[0] == event


@every_way
def test_send_event_tells_a_device_failure(line, control, master):
    class Broken(ModbusSequentialDataBlock):
        def getValues(self, address, count=1):
            raise OSError("the sensor does not answer")

    it = master(line, image(hr=Broken(0, [0])), control)
    assert it.ask(READ) == refused(3, 4)
    assert control.events == pdu("42 80")


@serial_line
def test_receive_event_tells_a_broadcast(line, control, master):
    it = master(line, units(u1=unit()), control)
    it.ask(pdu("06 0000 0001"), unit=0)
    assert 0xC0 in control.events


@pytest.mark.parametrize("line", ["rtu-serial", "ascii-serial", "rtu", "ascii"])
def test_receive_event_tells_a_communication_error(line, control, master):
    it = master(line, unit(), control)
    good = it.line.wrap(READ)
    it.send(good[:-1] + bytes([good[-1] ^ 1]) if line.startswith("rtu") else good[:-3] + (b"1" if good[-3:-2] == b"0" else b"0") + b"\r\n")
    assert control.events == b"\x82"


@every_way
def test_events_of_listen_only_mode(line, control, master):
    it = master(line, unit(), control)
    it.ask(ECHO)
    it.ask(LISTEN)
    assert 0x04 in control.events
    it.ask(ECHO)
    assert 0xA0 in control.events  # received, currently in listen-only mode
    it.ask(RESTART)
    events = event_log(it)[3]
    assert 0x00 in events
    assert 0x04 in events
    assert events.index(0x00) < events.index(0x04)
    assert events.endswith(b"\x40\x80")


@every_way
def test_restart_with_FF00_clears_the_event_log(line, control, master):
    it = master(line, unit(), control)
    for _ in range(20):
        it.ask(ECHO)
    it.ask(RESTART_AND_CLEAR_LOG)
    assert 0x00 in control.events
    assert len(control.events) <= 2  # the restart, and perhaps its answer


@every_way
def test_restart_with_0000_keeps_the_event_log(line, control, master):
    it = master(line, unit(), control)
    for _ in range(20):
        it.ask(ECHO)
    it.ask(RESTART)
    assert 0x00 in control.events[:2]
    assert control.events.endswith(b"\x40\x80" * 20)


@every_way
def test_clear_counters_keeps_the_event_log(line, control, master):
    it = master(line, unit(), control)
    it.ask(ECHO)
    it.ask(diagnostic(10, 0))
    assert control.events == pdu("40 80 40 80")
