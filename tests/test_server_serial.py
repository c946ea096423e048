"""A serial line: opened raw and for us alone, never closed by what comes in, and one sentence when it does not open."""

import errno
import logging
import os
import pty
import select
import sys
import termios

import pytest
from adu import block, image, one_unit, pdu, refused, units, wrap_ascii, wrap_rtu, wrap_socket
from doubles import Reactor, ScriptedSession, Wire, connect, scripted
from serial import SerialException
from test_custom_functions import SumRequest
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from mbcore import ModbusAsciiFramer, ModbusRtuFramer, ModbusSequentialDataBlock
from mbcore.errors import ConfigurationError, LineError
from mbcore.server import IgnoredKeywordWarning, StartSerialServer, rs485, serial
from mbcore.server.loop import LoopCarrier
from mbcore.server.serial import ModbusSerialFactory

LINE = {"port": "/dev/ttyX"}
READ = pdu("03 0000 0001")
ANSWER = wrap_ascii(pdu("03 02 0102"))


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
    factory = scripted(ModbusSerialFactory(None, None, None, LINE, reactor=reactor), ScriptedSession(*replies))
    return connect(factory, transport or Wire(reactor))


def test_unit_0_is_a_broadcast_and_absent_units_are_silent():
    slave = image(hr=block([1]))
    factory = ModbusSerialFactory(units(u1=slave), ModbusRtuFramer, None, LINE, reactor=Reactor())
    factory.seconds = factory.reactor.seconds
    protocol = connect(factory, StringTransport())
    for request, unit in ((pdu("06 0000 0005"), 0), (READ, 9), (READ, 1)):
        protocol.dataReceived(wrap_rtu(request, unit))
        factory.reactor.pump([0.01] * 3)
    assert protocol.transport.value() == wrap_rtu(pdu("03 02 0005"))


class Later(ModbusSequentialDataBlock):
    """A block that answers when its Deferred does."""

    def getValues(self, address, count=1):
        self.answer = Deferred()
        return self.answer


def test_an_answer_that_comes_before_the_reply_delay_is_over_waits_for_it():
    sensor = Later(0, [0])
    reactor = Reactor()
    factory = ModbusSerialFactory(one_unit(image(hr=sensor)), ModbusRtuFramer, None, LINE | {"reply_delay": 0.5}, reactor=reactor)
    factory.seconds = reactor.seconds
    protocol = connect(factory, StringTransport())
    protocol.dataReceived(wrap_rtu(READ))
    reactor.advance(0.1)
    sensor.answer.callback([5])
    reactor.advance(0.3)
    assert protocol.transport.value() == b""
    reactor.pump([0.05] * 4)
    assert protocol.transport.value() == wrap_rtu(pdu("03 02 0005"))


def test_a_stream_that_cannot_be_trusted_starts_over_and_the_line_stays_open():
    protocol = serial_connection(b"")
    protocol.session.closing = True
    protocol.dataReceived(b"noise")
    assert protocol.session.resets == 1
    assert not protocol.closing
    assert not protocol.transport.disconnecting


def test_the_log_names_the_line_and_what_goes_over_it(caplog):
    caplog.set_level(logging.DEBUG)
    serial_connection(b"\xab").dataReceived(b"\xcd")
    assert [message for message in caplog.messages if "ab" in message or "cd" in message] == [
        "serial line /dev/ttyX > cd",
        "serial line /dev/ttyX < ab",
    ]


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (SerialException(errno.ENOENT, "could not open port"), "there is no serial port /dev/ttyX: plug the adapter in, or choose"),
        (SerialException(errno.EIO, "could not open port"), "/dev/ttyX has no working device behind it: plug the adapter in again"),
        (SerialException(errno.EACCES, "could not open port"), "/dev/ttyX is not permitted to this user: .*usermod -aG dialout"),
        (
            SerialException(errno.EPERM, "could not open port"),
            "/dev/ttyX is not on the list of devices of the service or container .*: restart that, or .*DeviceAllow=",
        ),
        (SerialException(errno.EBUSY, "could not open port"), "/dev/ttyX is in use by another program: .*fuser -v /dev/ttyX"),
        (SerialException("Could not configure port: (25, 'ioctl')"), "/dev/ttyX does not open: Could not configure.*a serial device"),
    ],
)
def test_a_port_that_does_not_open_is_one_sentence_with_the_way_out(reactor, monkeypatch, error, sentence):
    def refuse(*args, **kwargs):
        raise error

    monkeypatch.setattr("serial.Serial", refuse)
    with pytest.raises(LineError, match=sentence) as caught:
        StartSerialServer(port="/dev/ttyX", reopen=False, reactor=reactor, defer_reactor_run=True)
    assert caught.value.errno == error.errno
    assert "\n" not in str(caught.value)


@pytest.mark.live
def test_a_pseudo_terminal_opens_with_a_parity_that_it_does_not_have_again_and_again(reactor, line):
    for _ in range(3):
        server = StartSerialServer(port=line[1], parity="E", engine=False, reactor=reactor, defer_reactor_run=True)
        assert server.line.state == "open"
        server.stop()
        reactor.advance(1.0)
        assert reactor.readers == set()


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


def test_a_timeout_is_not_used_and_says_so(reactor):
    with pytest.warns(IgnoredKeywordWarning, match=r"StartSerialServer\(\) ignores 'timeout'"):
        StartSerialServer(port="/dev/ttyX", timeout=3, reactor=reactor, defer_reactor_run=True).stop()


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
    options = {"engine": False} | options
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
    second = StartSerialServer(port=os.ttyname(other[1]), engine=False, reactor=reactor, defer_reactor_run=True)
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


def start_adapter(reactor, adapter, **options):
    options = {"units": 1, "engine": False} | options
    server = StartSerialServer(one_unit(image(hr=block([0x0102]))), port=adapter.name, reactor=reactor, defer_reactor_run=True, **options)
    server.factory.seconds = reactor.seconds
    return server


def ask(reactor, adapter):
    """What the master is answered."""
    [port] = reactor.readers
    deliver((adapter.master,), port, wrap_ascii(READ))
    reactor.pump([0.01] * 3)
    return collect((adapter.master,), len(ANSWER))


def hang_up(reactor):
    """What the reactor does when it sees that the other end of the line has gone."""
    [port] = reactor.readers
    lost = port.doRead()
    assert isinstance(lost, ConnectionLost | ConnectionDone)
    reactor.removeReader(port)
    port.connectionLost(Failure(lost))


@pytest.mark.live
def test_a_line_that_was_unplugged_answers_when_it_is_back(reactor, adapter, caplog):
    adapter.plug()
    server = start_adapter(reactor, adapter)
    for round_ in range(1, 4):
        assert ask(reactor, adapter) == ANSWER
        reactor.advance(2)
        adapter.unplug()
        hang_up(reactor)
        assert (server.line.state, server.line.losses) == ("waiting", round_)
        reactor.pump([0.1] * 20)
        adapter.plug()
        reactor.pump([0.1] * 50)
        assert (server.line.state, server.line.openings) == ("open", round_ + 1)
    assert ask(reactor, adapter) == ANSWER
    assert sum("is gone (it hung up)" in record.getMessage() for record in caplog.records) == 3
    assert len(server.factory.connections) == 1
    server.stop()


@pytest.mark.live
def test_a_line_that_is_absent_at_the_start_is_served_when_it_comes(reactor, adapter):
    server = start_adapter(reactor, adapter)
    assert (server.line.state, server.line.openings) == ("waiting", 0)
    adapter.plug()
    reactor.pump([0.1] * 50)
    assert ask(reactor, adapter) == ANSWER
    assert server.line.counters()["openings"] == 1
    server.stop()


@pytest.mark.live
def test_a_server_that_waits_stops_cleanly(reactor, adapter):
    server = start_adapter(reactor, adapter)
    done = []
    server.stop().addCallback(done.append)
    assert done == [None]
    assert reactor.getDelayedCalls() == []


@pytest.mark.live
def test_a_server_that_shall_not_wait_lives_on_without_its_line(reactor, adapter, caplog):
    adapter.plug()
    server = start_adapter(reactor, adapter, reopen=False)
    adapter.unplug()
    hang_up(reactor)
    assert "is gone (it hung up): start the server again when the device is back" in caplog.text
    assert reactor.getDelayedCalls() == []
    done = []
    server.stop().addCallback(done.append)
    assert done == [None]


@pytest.mark.live
def test_no_reply_goes_to_a_dead_port(reactor, adapter):
    adapter.plug()
    server = start_adapter(reactor, adapter, framer="rtu", reply_delay=0.5)
    [port] = reactor.readers
    deliver((adapter.master,), port, wrap_rtu(READ))
    adapter.unplug()
    hang_up(reactor)
    adapter.plug()
    reactor.pump([0.1] * 30)
    assert server.line.state == "open"
    [port] = reactor.readers
    deliver((adapter.master,), port, wrap_rtu(pdu("03 0005 0001")))
    reactor.pump([0.1] * 30)
    refusal = wrap_rtu(refused(3, 2))
    assert collect((adapter.master,), len(refusal)) == refusal, "the first that is said"
    server.stop()


@pytest.mark.live
def test_a_line_is_stopped_though_its_device_has_just_gone(reactor, adapter, monkeypatch):
    adapter.plug()
    server = start_adapter(reactor, adapter)
    [port] = reactor.readers
    port.write(b"more than goes out")

    def gone(*args):
        raise termios.error(errno.EIO, "Input/output error")

    monkeypatch.setattr(termios, "tcflush", gone)
    done = []
    server.stop().addCallback(done.append)
    reactor.advance(1.0)
    assert done == [None]


@pytest.mark.live
def test_a_device_that_goes_while_it_is_served_again_is_waited_for(reactor, adapter, monkeypatch):
    server = start_adapter(reactor, adapter)
    adapter.plug()
    flush = termios.tcflush
    flushes = []

    def gone(*args):
        flushes.append(args)
        if len(flushes) > 1:  # the first is pyserial's own
            raise termios.error(errno.EIO, "Input/output error")
        return flush(*args)

    monkeypatch.setattr(termios, "tcflush", gone)
    reactor.advance(0.3)
    assert (server.line.state, server.line.openings) == ("waiting", 0)
    assert "Input/output error" in server.line.reason
    monkeypatch.undo()
    reactor.pump([0.1] * 20)
    assert server.line.state == "open"
    server.stop()


@pytest.mark.live
def test_a_protocol_that_fails_costs_an_opening_and_not_the_line(reactor, adapter):
    adapter.plug()
    server = start_adapter(reactor, adapter)
    [port] = reactor.readers
    reactor.removeReader(port)
    port.connectionLost(Failure(ZeroDivisionError("a slip of the user's")))
    assert server.line.reason == "a slip of the user's"
    reactor.pump([0.1] * 5)
    assert ask(reactor, adapter) == ANSWER
    server.stop()


def test_the_session_is_told_how_the_line_is(monkeypatch):
    made = []
    monkeypatch.setattr(serial, "LineSession", lambda *args, **keywords: made.append((args, keywords)))
    line = LINE | {"units": [3], "reply_delay": 0.002, "reply_deadline": 0, "echo": "none"}
    factory = ModbusSerialFactory(None, "rtu", None, line, trace_pdu=print)
    [(args, keywords)] = made
    assert args == (ModbusRtuFramer, factory.store, factory.control)
    assert keywords == {
        "ignore_missing_slaves": False,
        "answer_timeout": 3.0,
        "report": factory.report,
        "trace_pdu": print,
        "decoder": None,
        "frame_gap": pytest.approx(3.5 * 11 / 19200),
        "reply_delay": 0.002,
        "reply_deadline": 0.0,
        "echo": "none",
        "character_time": pytest.approx(11 / 19200),
        "paced": True,
        "units": (3,),
    }


def warnings_of(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.live
@pytest.mark.parametrize(
    ("context", "options", "warned"),
    [
        (None, {}, True),
        (one_unit(image(hr=block([1]))), {}, True),
        (one_unit(image(hr=block([1]))), {"units": 1}, False),
        (units(u1=image(hr=block([1]))), {}, False),
    ],
)
def test_a_context_that_answers_every_unit_id_is_warned_of_once(reactor, line, caplog, context, options, warned):
    StartSerialServer(context, port=line[1], engine=False, reactor=reactor, defer_reactor_run=True, **options).stop()
    sentence = (
        f"serial line {line[1]} answers every unit id, since its context has single=True: where other slaves share the line, give"
        " units=[1] with the ids that are this one's"
    )
    assert warnings_of(caplog) == [sentence] * warned


@pytest.mark.live
def test_a_pseudo_terminal_without_parity_is_warned_of_once(reactor, adapter, caplog):
    adapter.plug()
    server = start_adapter(reactor, adapter, parity="E")
    adapter.unplug()
    hang_up(reactor)
    adapter.plug()
    reactor.pump([0.1] * 50)
    assert server.line.openings == 2
    server.stop()
    assert [said for said in warnings_of(caplog) if "is gone" not in said] == [
        f"serial line {adapter.name} is a pseudo-terminal, which has set parity N instead of E; it carries bytes all the same"
    ]


@pytest.mark.live
@pytest.mark.parametrize("low_latency", [True, False])
def test_low_latency_is_asked_for_unless_told_otherwise(reactor, line, monkeypatch, low_latency):
    asked = []
    monkeypatch.setattr(serial, "set_low_latency", lambda port, name: asked.append(name))
    StartSerialServer(port=line[1], low_latency=low_latency, engine=False, reactor=reactor, defer_reactor_run=True).stop()
    assert asked == [line[1]] * low_latency


@pytest.mark.live
def test_the_kernel_is_asked_to_switch_the_transceiver_at_every_opening(reactor, adapter, monkeypatch):
    asked = []
    monkeypatch.setattr(rs485, "kernel_mode", lambda fd, device, **options: asked.append((device, options)))
    adapter.plug()
    server = start_adapter(reactor, adapter, direction="kernel", direction_active="low", delay_before=0.001)
    adapter.unplug()
    hang_up(reactor)
    adapter.plug()
    reactor.advance(0.3)
    server.stop()
    assert asked == [(str(adapter.name), {"active": "low", "delay_before": 0.001, "delay_after": 0.0})] * 2


@pytest.mark.live
def test_a_line_whose_transceiver_cannot_be_switched_is_refused_and_closed(reactor, line):
    with pytest.raises(ConfigurationError, match="has no RS-485 mode"):
        StartSerialServer(port=line[1], direction="kernel", reactor=reactor, defer_reactor_run=True)
    StartSerialServer(port=line[1], engine=False, reactor=reactor, defer_reactor_run=True).stop()


class OwnProtocol(serial.ModbusSerialProtocol):
    pass


def hook(sending, data):
    return data


@pytest.mark.parametrize(
    ("options", "carrier"),
    [
        ({}, LoopCarrier),
        ({"engine": True}, LoopCarrier),
        ({"realtime": True}, LoopCarrier),
        ({"direction": "rts"}, LoopCarrier),
        ({"direction": "gpio", "direction_line": 4}, LoopCarrier),
        ({"engine": False}, serial.TwistedCarrier),
        ({"trace_packet": hook}, serial.TwistedCarrier),
        ({"trace_pdu": hook}, serial.TwistedCarrier),
    ],
)
def test_the_compiled_loop_carries_the_bytes_where_it_can(options, carrier):
    line = {name: value for name, value in options.items() if not name.startswith("trace")}
    traces = {name: value for name, value in options.items() if name.startswith("trace")}
    assert type(serial._carrier(ModbusSerialFactory(None, None, None, LINE | line, **traces))) is carrier


def test_twisted_carries_what_a_protocol_or_the_log_wants_to_see(caplog):
    factory = ModbusSerialFactory(None, None, None, LINE)
    factory.protocol = OwnProtocol
    assert type(serial._carrier(factory)) is serial.TwistedCarrier
    caplog.set_level(logging.DEBUG)
    assert type(serial._carrier(ModbusSerialFactory(None, None, None, LINE))) is serial.TwistedCarrier
    assert type(serial._carrier(ModbusSerialFactory(None, None, None, LINE | {"engine": True}))) is LoopCarrier


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"engine": True, "trace_pdu": hook},
            "engine is True, which needs the compiled loop, but trace_pdu is given, which sees every message",
        ),
        ({"realtime": True, "engine": False}, "realtime is True, which needs the compiled loop, but engine is False"),
        ({"direction": "rts", "engine": False}, 'direction is "rts", which needs the compiled loop, but engine is False'),
        (
            {"direction": "gpio", "direction_line": 4, "trace_packet": hook},
            'direction is "gpio", which needs the compiled loop, but trace_packet is given, which sees every message',
        ),
    ],
)
def test_what_only_the_compiled_loop_does_is_refused_where_it_cannot_carry(reactor, options, sentence):
    with pytest.raises(ConfigurationError) as caught:
        StartSerialServer(port="/dev/ttyX", reactor=reactor, defer_reactor_run=True, **options)
    assert str(caught.value) == f"{sentence}: leave one of the two out"


def test_the_compiled_loop_is_linuxs(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert type(serial._carrier(ModbusSerialFactory(None, None, None, LINE))) is serial.TwistedCarrier
    with pytest.raises(ConfigurationError, match="engine is True, which needs the compiled loop, but this system is not Linux"):
        serial._carrier(ModbusSerialFactory(None, None, None, LINE | {"engine": True}))


def test_the_compiled_loop_does_not_see_what_a_protocol_sees():
    factory = ModbusSerialFactory(None, None, None, LINE | {"engine": True})
    factory.protocol = OwnProtocol
    with pytest.raises(ConfigurationError, match="the factory's protocol is OwnProtocol, which sees every byte"):
        serial._carrier(factory)


def test_mbap_on_a_line_recovers_from_a_broken_head():
    factory = ModbusSerialFactory(one_unit(image(hr=block([1]))), "socket", None, LINE, reactor=Reactor())
    protocol = connect(factory, StringTransport())
    protocol.dataReceived(b"\0\1\0\0\0\0\0\0")
    protocol.dataReceived(wrap_socket(READ))
    assert protocol.transport.value() == wrap_socket(pdu("03 02 0001"))


def test_replies_of_a_line_are_written_at_once():
    protocol = serial_connection(b"reply")
    protocol.dataReceived(b"request")
    assert protocol.transport.sent == b"reply"


@pytest.mark.parametrize("engine", [True, False])
def test_the_handle_says_what_carries_the_bytes(reactor, monkeypatch, engine):
    monkeypatch.setattr(serial.Line, "open", lambda line: None)
    server = StartSerialServer(port="/dev/ttyX", engine=engine, reactor=reactor, defer_reactor_run=True)
    assert server.engine is engine


@pytest.mark.parametrize("engine", [True, False])
def test_what_a_line_is_made_of_cannot_be_changed_when_it_is_served(reactor, line, engine):
    server, _ = start(reactor, line, engine=engine, custom_functions=[SumRequest])
    for name, value in (("framer", "rtu"), ("ignore_missing_slaves", True), ("trace_pdu", print)):
        with pytest.raises(ConfigurationError, match=f"{name} can't be changed while the line is served"):
            setattr(server.factory, name, value)
    with pytest.raises(ConfigurationError, match="give custom_functions to StartSerialServer"):
        server.factory.decoder.register(SumRequest)
    server.factory.framer = server.factory.framer
    if engine:
        with pytest.raises(ConfigurationError, match="trace_packet can't be changed"):
            server.factory.trace_packet = print
    else:
        server.factory.trace_packet = print
    server.stop()
