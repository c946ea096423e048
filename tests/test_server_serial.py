"""A serial line: opened raw and for us alone, never closed by what comes in, and one sentence when it does not open."""

import errno
import logging
import os
import pty
import select
import termios

import pytest
from adu import block, image, one_unit, pdu, units, wrap_ascii, wrap_rtu, wrap_socket
from doubles import Reactor, ScriptedSession, Wire, connect, scripted
from serial import SerialException
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.testing import StringTransport
from twisted.python import threadable
from twisted.python.failure import Failure

from mbcore import ModbusAsciiFramer, ModbusRtuFramer
from mbcore.errors import ConfigurationError, LineError
from mbcore.server import IgnoredKeywordWarning, StartSerialServer, running, serial
from mbcore.server.serial import ModbusSerialFactory, frame_gap

READ = pdu("03 0000 0001")


@pytest.fixture
def reactor(monkeypatch):
    monkeypatch.setattr(threadable, "ioThread", threadable.getThreadID())
    monkeypatch.setattr(running, "_servers", set())
    monkeypatch.setattr(running, "_reactors_left", set())
    return Reactor()


@pytest.fixture
def line():
    """The two ends of a line: our file descriptor of the one, the name of the other."""
    master, slave = pty.openpty()
    name = os.ttyname(slave)
    os.close(slave)
    yield master, name
    os.close(master)


def serial_connection(*replies, transport=None):
    reactor = Reactor()
    factory = scripted(ModbusSerialFactory(None, None, None, "/dev/ttyX", 0.004, reactor=reactor), ScriptedSession(*replies))
    return connect(factory, transport or Wire(reactor))


@pytest.mark.parametrize(
    ("baudrate", "gap"),
    [(9600, 3.5 * 11 / 9600), (19200, 3.5 * 11 / 19200), (19201, 0.00175), (115200, 0.00175)],
)
def test_the_gap_between_frames_is_3_5_characters_of_11_bits_and_fixed_above_19200(baudrate, gap):
    assert frame_gap(baudrate) == pytest.approx(gap)


def test_unit_0_is_a_broadcast_and_absent_units_are_silent():
    slave = image(hr=block([1]))
    factory = ModbusSerialFactory(units(u1=slave), ModbusRtuFramer, None, "/dev/ttyX", 0.004, reactor=Reactor())
    factory.seconds = factory.reactor.seconds
    protocol = connect(factory, StringTransport())
    for request, unit in ((pdu("06 0000 0005"), 0), (READ, 9), (READ, 1)):
        protocol.dataReceived(wrap_rtu(request, unit))
        factory.reactor.pump([0.01] * 3)
    assert protocol.transport.value() == wrap_rtu(pdu("03 02 0005"))


def test_a_stream_that_cannot_be_trusted_starts_over_and_the_line_stays_open():
    protocol = serial_connection(b"")
    protocol.session.closing = True
    protocol.dataReceived(b"noise")
    assert protocol.session.resets == 1
    assert not protocol.closing
    assert not protocol.transport.disconnecting


def test_a_device_that_vanishes_is_logged_once(caplog):
    protocol = serial_connection()
    protocol.connectionLost(Failure(ConnectionLost()))
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == [
        "serial line /dev/ttyX is gone: start the server again when the device is back"
    ]


def test_a_line_that_is_closed_is_not_reported_gone(caplog):
    protocol = serial_connection()
    protocol.close()
    protocol.connectionLost(Failure(ConnectionDone()))
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (SerialException(errno.ENOENT, "could not open port"), "there is no serial port /dev/ttyX: plug the adapter in, or choose"),
        (SerialException(errno.EACCES, "could not open port"), "/dev/ttyX is not permitted to this user: .*usermod -aG dialout"),
        (SerialException(errno.EBUSY, "could not open port"), "/dev/ttyX is in use by another program: .*fuser -v /dev/ttyX"),
        (SerialException("Could not configure port: (25, 'ioctl')"), "/dev/ttyX does not open: Could not configure.*a serial device"),
    ],
)
def test_a_port_that_does_not_open_is_one_sentence_with_the_way_out(reactor, monkeypatch, error, sentence):
    def refuse(*args, **kwargs):
        raise error

    monkeypatch.setattr("serial.Serial", refuse)
    with pytest.raises(LineError, match=sentence) as caught:
        StartSerialServer(port="/dev/ttyX", reactor=reactor, defer_reactor_run=True)
    assert caught.value.errno == error.errno
    assert "\n" not in str(caught.value)


@pytest.mark.live
def test_a_pseudo_terminal_opens_with_a_parity_that_it_does_not_have_again_and_again(reactor, line):
    for _ in range(3):
        server = StartSerialServer(port=line[1], parity="E", reactor=reactor, defer_reactor_run=True)
        server.stop()
        reactor.advance(1.0)


@pytest.mark.parametrize("settings", [{"parity": "X"}, {"bytesize": 9}, {"stopbits": 3}])
def test_a_character_format_that_does_not_exist_is_refused(reactor, settings):
    with pytest.raises(ConfigurationError, match="the serial line /dev/null cannot be set up: Not a valid "):
        StartSerialServer(port="/dev/null", reactor=reactor, defer_reactor_run=True, **settings)


@pytest.mark.parametrize(("baudrate", "said"), [(0, "0"), (-9600, "-9600"), ("9600", "'9600', a str")])
def test_a_speed_that_is_no_number_is_refused(reactor, baudrate, said):
    with pytest.raises(ConfigurationError, match=f"baudrate is {said}: give a whole number"):
        StartSerialServer(baudrate=baudrate, reactor=reactor, defer_reactor_run=True)


@pytest.mark.parametrize("port", [0, "", None])
def test_a_port_without_a_name_is_refused(reactor, port):
    with pytest.raises(ConfigurationError, match=rf'the serial port is {port!r}: give port= the name of a device, e\.g\. "/dev/ttyUSB0"'):
        StartSerialServer(port=port, reactor=reactor, defer_reactor_run=True)


class FakePort:
    """What pyserial is asked for."""

    asked = None

    def __init__(self, *args, **settings):
        FakePort.asked = (args, settings)
        raise SerialException("enough")


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ({}, {"baudrate": 19200, "bytesize": 8, "parity": "N", "stopbits": 1, "xonxoff": False, "rtscts": False}),
        (
            {"baudrate": 9600, "bytesize": 7, "parity": "E", "stopbits": 2, "xonxoff": True, "rtscts": True, "timeout": 0},
            {"baudrate": 9600, "bytesize": 7, "parity": "E", "stopbits": 2, "xonxoff": True, "rtscts": True},
        ),
    ],
)
def test_the_line_is_set_up_as_asked_and_for_this_process_alone(reactor, monkeypatch, given, asked):
    monkeypatch.setattr("serial.Serial", FakePort)
    with pytest.raises(LineError):
        StartSerialServer(reactor=reactor, defer_reactor_run=True, **given)
    args, settings = FakePort.asked
    assert args == ("/dev/ttyS0",)
    assert settings == asked | {"timeout": 0, "exclusive": True, "inter_byte_timeout": 0}


def test_a_timeout_is_not_used_and_says_so(reactor, monkeypatch):
    monkeypatch.setattr(serial, "open_line", lambda factory, baudrate, **settings: None)
    with pytest.warns(IgnoredKeywordWarning, match=r"StartSerialServer\(\) ignores 'timeout'"):
        StartSerialServer(port="/dev/ttyX", timeout=3, reactor=reactor, defer_reactor_run=True)


def test_keywords_are_checked(reactor):
    with pytest.raises(TypeError, match=r"StartSerialServer\(\) has no keyword 'baudrates'; did you mean 'baudrate'\?"):
        StartSerialServer(baudrates=9600, reactor=reactor)
    with (
        pytest.warns(IgnoredKeywordWarning, match=r"StartSerialServer\(\) ignores 'handle_local_echo'") as caught,
        pytest.raises(ConfigurationError),
    ):
        StartSerialServer(handle_local_echo=True, custom_functions=[object], reactor=reactor)
    assert caught[0].filename == __file__


def start(reactor, line, *args, **options):
    server = StartSerialServer(one_unit(image(hr=block([0x0102]))), *args, port=line[1], reactor=reactor, defer_reactor_run=True, **options)
    server.factory.seconds = reactor.seconds
    [port] = reactor.readers
    return server, port


def deliver(line, port, data):
    """Let `data` come in; the kernel passes it from one end of a pty to the other in its own time."""
    os.write(line[0], data)
    ready, _, _ = select.select([port.fileno()], [], [], 10)
    assert ready
    return port.doRead()


def collect(line, count):
    data = b""
    while len(data) < count:
        ready, _, _ = select.select([line[0]], [], [], 10)
        assert ready
        data += os.read(line[0], 1024)
    return data


@pytest.mark.live
def test_a_request_over_a_line_is_answered_at_once(reactor, line):
    server, port = start(reactor, line)
    deliver(line, port, wrap_ascii(READ))
    reactor.pump([0.01] * 3)
    reply = wrap_ascii(pdu("03 02 0102"))
    assert collect(line, len(reply)) == reply
    assert reactor.writers == set()
    assert server.factory.framer is ModbusAsciiFramer
    assert (server.port, server.address, server.kind) == (line[1], line[1], "serial")
    assert repr(server) == f"<serial server on {line[1]}>"
    server.stop()


@pytest.mark.live
@pytest.mark.parametrize("framer", [ModbusRtuFramer, "rtu"])
def test_rtu_over_a_line(reactor, line, framer):
    server, port = start(reactor, line, None, framer)
    deliver(line, port, wrap_rtu(READ))
    reactor.pump([0.01] * 3)
    reply = wrap_rtu(pdu("03 02 0102"))
    assert collect(line, len(reply)) == reply
    server.stop()


@pytest.mark.live
def test_the_line_is_raw(reactor, line):
    server, port = start(reactor, line, framer="socket")
    iflag, oflag, _, lflag, _, _, characters = termios.tcgetattr(port.fileno())
    assert iflag & (termios.BRKINT | termios.ICRNL | termios.INLCR | termios.IGNCR | termios.ISTRIP | termios.IXON | termios.PARMRK) == 0
    assert oflag & termios.OPOST == 0
    assert lflag & (termios.ICANON | termios.ECHO | termios.ISIG | termios.IEXTEN) == 0
    assert (characters[termios.VMIN], characters[termios.VTIME]) in ((1, 0), (b"\x01", b"\x00"))
    server.stop()


@pytest.mark.live
def test_a_read_without_data_does_not_close_the_line(reactor, line):
    server, port = start(reactor, line)
    assert port.doRead() is None
    assert port.connected
    server.stop()


@pytest.mark.live
def test_a_line_is_opened_once(reactor, line):
    server, _ = start(reactor, line)
    with pytest.raises(LineError, match=f"the serial port {line[1]} is in use by another program"):
        StartSerialServer(port=line[1], reactor=reactor, defer_reactor_run=True)
    server.stop()


@pytest.mark.live
def test_several_lines_are_served_side_by_side(reactor, line):
    other = pty.openpty()
    server, _ = start(reactor, line)
    second = StartSerialServer(port=os.ttyname(other[1]), reactor=reactor, defer_reactor_run=True)
    assert {port.protocol.factory for port in reactor.readers} == {server.factory, second.factory}
    server.stop()
    second.stop()
    for end in other:
        os.close(end)


@pytest.mark.live
def test_stopping_closes_the_line(reactor, line):
    server, port = start(reactor, line)
    done = []
    server.stop().addCallback(done.append)
    assert isinstance(port.doWrite(), ConnectionDone)
    port.connectionLost(Failure(ConnectionDone()))
    assert done == [None]
    start(reactor, line)[0].stop()


@pytest.mark.live
def test_a_line_that_takes_nothing_is_closed_all_the_same(reactor, line):
    server, port = start(reactor, line)
    port.write(b"more than goes out")
    done = []
    server.stop().addCallback(done.append)
    assert done == []
    reactor.advance(1.0)
    assert done == [None]
    assert reactor.readers == reactor.writers == set()
    port.abortConnection()  # that has gone already


@pytest.mark.live
def test_without_termios_the_port_is_left_as_pyserial_sets_it_up(reactor, line, monkeypatch):
    monkeypatch.setattr(serial, "termios", None)
    server, port = start(reactor, line)
    deliver(line, port, wrap_ascii(READ))
    reactor.pump([0.01] * 3)
    assert collect(line, 5)
    server.stop()


@pytest.mark.live
def test_a_line_that_hangs_up_is_lost_and_the_server_lives(reactor, caplog):
    master, slave = pty.openpty()
    server, port = start(reactor, (master, os.ttyname(slave)))
    os.close(slave)
    os.close(master)
    lost = port.doRead()
    assert isinstance(lost, ConnectionLost | ConnectionDone)
    port.connectionLost(Failure(lost))
    assert "is gone" in caplog.text
    done = []
    server.stop().addCallback(done.append)
    assert done == [None]


def test_mbap_on_a_line_recovers_from_a_broken_head():
    factory = ModbusSerialFactory(one_unit(image(hr=block([1]))), "socket", None, "/dev/ttyX", 0.004, reactor=Reactor())
    protocol = connect(factory, StringTransport())
    protocol.dataReceived(b"\0\1\0\0\0\0\0\0")
    protocol.dataReceived(wrap_socket(READ))
    assert protocol.transport.value() == wrap_socket(pdu("03 02 0001"))


def test_replies_of_a_line_are_written_at_once():
    protocol = serial_connection(b"reply")
    protocol.dataReceived(b"request")
    assert protocol.transport.sent == b"reply"
