"""The life of a serial line: whatever happens to its device, it is opened again, and the log says so once."""

import errno
import logging

import pytest
from adu import block, image, one_unit, pdu, wrap_rtu
from doubles import Reactor
from twisted.internet.defer import Deferred

from mbcore import ModbusRtuFramer
from mbcore.errors import ConfigurationError, LineError
from mbcore.server import line as lines
from mbcore.server.line import Line
from mbcore.server.serial import ModbusSerialFactory, TwistedCarrier

NAME = "/dev/serial/by-id/usb-X"


class Port:
    """An open port, with what its driver has counted."""

    def __init__(self, **counts):
        self.counts = counts
        self.closed = False

    def close(self):
        self.closed = True


class Carrier:
    def __init__(self):
        self.opened = []
        self.refusal = None
        self.closed = Deferred()

    def open(self, port, lost):
        if self.refusal:
            raise self.refusal
        self.opened.append(port)
        self.lose = lost

    def close(self):
        return self.closed


def refusal(number, sentence="the reason"):
    error = LineError(sentence)
    error.errno = number
    return error


ABSENT = refusal(errno.ENOENT, "it is not there")


@pytest.fixture(autouse=True)
def counts(monkeypatch):
    """What the driver of a Port says."""
    monkeypatch.setattr(lines, "kernel_counts", lambda port: dict(port.counts))


class Device:
    """A line over a carrier that does nothing; each attempt to open its port has the outcome `next`, a port or an error."""

    def __init__(self, first, **options):
        self.next = first
        self.reactor = Reactor()
        self.factory = ModbusSerialFactory(None, ModbusRtuFramer, None, {"port": NAME}, reactor=self.reactor)
        self.factory.seconds = self.reactor.seconds
        self.factory.open_port = self.open_port
        self.carrier = Carrier()
        self.attempts = []
        self.line = Line(self.factory, self.carrier, **options)

    def open_port(self):
        self.attempts.append(self.reactor.seconds())
        if isinstance(self.next, Exception):
            raise self.next
        return self.next

    def pass_time(self, seconds):
        self.reactor.pump([0.1] * round(seconds * 10))


def logged(caplog, level=logging.INFO):
    return [(record.levelname, record.getMessage()) for record in caplog.records if record.levelno >= level]


@pytest.fixture(autouse=True)
def log_level(caplog):
    caplog.set_level(logging.INFO)


def test_a_line_whose_device_is_there_is_open_and_says_nothing(caplog):
    device = Device(Port())
    device.line.open()
    assert device.carrier.opened == [device.next]
    assert (device.line.state, device.line.reason, device.line.openings, device.line.losses) == ("open", "", 1, 0)
    assert logged(caplog) == []
    assert device.reactor.getDelayedCalls() == []


@pytest.mark.parametrize("number", [errno.ENOENT, errno.ENODEV, errno.ENXIO, errno.EIO])
def test_an_absent_device_is_waited_for(number, caplog):
    device = Device(refusal(number, "it is not there"))
    device.line.open()
    device.pass_time(10)
    assert (device.line.state, device.line.reason, device.line.openings) == ("waiting", "it is not there", 0)
    device.next = Port()
    device.pass_time(5)
    assert (device.line.state, device.line.reason, device.line.openings, device.line.losses) == ("open", "", 1, 0)
    assert logged(caplog) == [
        ("WARNING", "it is not there; the server waits for it"),
        ("INFO", f"serial line {NAME} is open"),
    ]


def test_the_waits_grow_from_0_2_to_5_seconds():
    device = Device(ABSENT)
    device.line.open()
    for _ in range(300):
        device.reactor.advance(0.1)
    waits = [after - before for before, after in zip(device.attempts, device.attempts[1:], strict=False)]
    assert waits == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0, 5.0], abs=0.11)


@pytest.mark.parametrize(
    "error",
    [
        refusal(errno.EBUSY),
        refusal(errno.EWOULDBLOCK),
        refusal(errno.EACCES),
        refusal(errno.EPERM),
        refusal(errno.ENOTTY),
        refusal(None),
        ConfigurationError("no such parity"),
    ],
)
def test_what_waiting_does_not_cure_is_refused_at_the_start(error):
    device = Device(error)
    with pytest.raises(type(error)) as caught:
        device.line.open()
    assert caught.value is error
    assert device.line.state == "closed"
    assert device.reactor.getDelayedCalls() == []


def test_without_reopening_an_absent_device_is_an_error():
    device = Device(ABSENT, reopen=False)
    with pytest.raises(LineError, match="it is not there"):
        device.line.open()
    assert device.reactor.getDelayedCalls() == []


def test_without_reopening_a_lost_line_is_lost_and_logged_once(caplog):
    device = Device(Port(), reopen=False)
    device.line.open()
    device.carrier.lose("it hung up")
    device.pass_time(20)
    assert (device.line.state, device.line.losses, len(device.attempts)) == ("closed", 1, 1)
    assert logged(caplog) == [("ERROR", f"serial line {NAME} is gone (it hung up): start the server again when the device is back")]


def test_a_lost_line_is_opened_again_and_the_log_has_both_once(caplog):
    device = Device(Port())
    device.line.open()
    device.pass_time(2)
    device.next = ABSENT
    device.carrier.lose("it hung up")
    assert (device.line.state, device.line.reason) == ("waiting", "it hung up")
    device.pass_time(30)
    device.next = Port()
    device.pass_time(5)
    assert device.carrier.opened[-1] is device.next
    assert (device.line.state, device.line.openings, device.line.losses) == ("open", 2, 1)
    assert logged(caplog) == [
        ("WARNING", f"serial line {NAME} is gone (it hung up); the server opens it again when the device is back"),
        ("INFO", f"serial line {NAME} is open"),
    ]


def test_a_line_that_was_steady_is_tried_again_at_once_and_a_loose_plug_is_not():
    device = Device(Port())
    device.line.open()
    gaps = []
    for open_for in (0.5, 0.5, 0.5, 2.0):
        device.pass_time(open_for)
        device.carrier.lose("it hung up")
        lost = device.reactor.seconds()
        while device.line.state == "waiting":
            device.pass_time(0.1)
        gaps.append(device.attempts[-1] - lost)
    assert gaps == pytest.approx([0.2, 0.4, 0.8, 0.2], abs=0.11)


@pytest.mark.parametrize("error", [refusal(errno.EBUSY), refusal(errno.EACCES), ConfigurationError("the reason")])
def test_a_refusal_at_another_opening_is_waited_out_and_logged_when_it_stays(error, caplog):
    device = Device(Port())
    device.line.open()
    device.carrier.lose("it hung up")
    caplog.clear()
    device.next = error
    device.pass_time(0.3)
    assert logged(caplog) == []  # a device that has just come is handed over by udev a moment later
    device.pass_time(30)
    assert logged(caplog) == [("WARNING", f"serial line {NAME} stays closed: the reason")]
    assert device.line.reason == "the reason"
    device.next = Port()
    device.pass_time(5)
    assert device.line.state == "open"


def test_an_error_nobody_thought_of_is_reported_and_the_line_is_tried_again(caplog):
    device = Device(Port())
    device.line.open()
    device.carrier.lose("it hung up")
    caplog.clear()
    device.next = ZeroDivisionError("a slip")
    device.pass_time(0.3)
    assert logged(caplog) == [("ERROR", f"serial line {NAME} does not open")]
    assert caplog.records[0].exc_info[1] is device.next
    device.next = Port()
    device.pass_time(5)
    assert device.line.state == "open"


def test_a_port_that_the_carrier_cannot_serve_is_closed_again():
    device = Device(Port())
    device.carrier.refusal = refusal(errno.ENOENT, "there is no GPIO chip /dev/gpiochip9")
    with pytest.raises(LineError, match="there is no GPIO chip"):
        device.line.open()
    assert device.next.closed
    assert device.reactor.getDelayedCalls() == []


def test_a_carrier_that_fails_at_another_opening_is_waited_for():
    device = Device(Port())
    device.line.open()
    device.carrier.lose("it hung up")
    device.carrier.refusal = refusal(errno.EIO)
    device.next = Port()
    device.pass_time(0.3)
    assert (device.line.state, device.next.closed) == ("waiting", True)
    device.carrier.refusal = None
    device.pass_time(2)
    assert device.line.state == "open"


def test_stopping_while_it_waits_stops():
    device = Device(ABSENT)
    device.line.open()
    assert device.line.close() is device.carrier.closed
    device.next = Port()
    device.pass_time(10)
    assert (device.line.state, len(device.attempts)) == ("closed", 1)
    assert device.reactor.getDelayedCalls() == []


def test_stopping_an_open_line_is_no_loss(caplog):
    device = Device(Port(breaks=0))
    device.line.open()
    assert device.line.close() is device.carrier.closed
    device.carrier.lose("it is closed")
    device.pass_time(10)
    assert (device.line.state, device.line.losses, len(device.attempts)) == ("closed", 0, 1)
    assert device.reactor.getDelayedCalls() == []
    assert logged(caplog) == []


def test_the_counters_are_the_lines_the_sessions_and_the_kernels():
    device = Device(Port(framing_errors=100, parity_errors=7, breaks=0, character_overruns=0, buffer_overruns=0))
    assert device.line.counters() == {"openings": 0, "losses": 0, **device.factory.session.line_counters()}
    device.line.open()
    device.next.counts.update(framing_errors=102, breaks=1)
    counters = device.line.counters()
    # From the opening on: the kernel counts since the driver was loaded.
    assert counters == device.line.counters()
    assert counters == {
        "openings": 1,
        "losses": 0,
        **device.factory.session.line_counters(),
        "framing_errors": 2,
        "parity_errors": 0,
        "breaks": 1,
        "character_overruns": 0,
        "buffer_overruns": 0,
    }


def test_the_kernels_counters_go_on_when_the_device_was_away():
    device = Device(Port(framing_errors=3))
    device.line.open()
    device.next.counts.update(framing_errors=5)
    device.pass_time(6)
    device.carrier.lose("it hung up")
    assert device.line.counters()["framing_errors"] == 2
    device.next = Port(framing_errors=0)
    device.pass_time(1)
    device.next.counts.update(framing_errors=1)
    assert device.line.counters()["framing_errors"] == 3
    assert device.line.counters()["losses"] == 1
    device.line.close()
    assert device.line.counters()["framing_errors"] == 3


def test_a_driver_that_counts_no_more_changes_nothing():
    device = Device(Port(framing_errors=0))
    device.line.open()
    device.next.counts.update(framing_errors=1)
    device.pass_time(6)
    device.next.counts.clear()
    device.pass_time(10)
    assert device.line.counters()["framing_errors"] == 1


def test_overruns_are_what_diagnostics_tell_a_master():
    device = Device(Port(character_overruns=10, buffer_overruns=0))
    device.line.open()
    device.next.counts.update(character_overruns=12, buffer_overruns=1)
    device.pass_time(6)
    assert device.factory.control.Counter.BusCharacterOverrun == 3
    device.pass_time(20)
    assert device.factory.control.Counter.BusCharacterOverrun == 3


def test_a_session_outlives_the_port_and_forgets_what_was_on_its_way():
    reactor = Reactor()
    factory = ModbusSerialFactory(one_unit(image(hr=block([5]))), ModbusRtuFramer, None, {"port": NAME, "reply_delay": 0}, reactor=reactor)
    session = factory.buildSession()
    request = wrap_rtu(pdu("03 0000 0001"))
    assert session.receive(request[:4], 0.0) == b""
    assert factory.buildSession() is session
    reply = session.receive(request, 0.001)
    reply += session.expire(0.2)
    assert reply == wrap_rtu(pdu("03 02 0005"))


def test_twisteds_carrier_has_nothing_to_close_while_it_waits():
    closed = []
    factory = ModbusSerialFactory(None, None, None, {"port": NAME}, reactor=Reactor())
    TwistedCarrier(factory).close().addCallback(closed.append)
    assert closed == [None]
