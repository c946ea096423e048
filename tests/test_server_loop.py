"""The compiled loop as a line's carrier: what it is told, when the reactor helps it, and that nothing of it is left behind."""

import errno
import logging
import os
import select
import threading
from types import SimpleNamespace

import pytest
from adu import block, image, one_unit, pdu, refused, wrap_rtu
from doubles import Reactor
from live.line import Adapter
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IReadDescriptor
from twisted.python import threadable
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from mbcore import ModbusRtuFramer, ModbusSequentialDataBlock
from mbcore.errors import LineError
from mbcore.server import StartSerialServer, loop, rs485, running
from mbcore.server.loop import PRIORITY, LoopCarrier
from mbcore.server.serial import ModbusSerialFactory

PATIENCE = 10


class Loop:
    """A loop that does nothing until it is told to stop; each of them is in `made`."""

    made = ()

    def __init__(self, session, fd, character_time, **options):
        self.session, self.fd, self.character_time, self.options = session, fd, character_time, options
        self.over = False
        self.errno = self.schedule_errno = 0
        self.attended = self.given_up = 0
        self.stopped = threading.Event()
        Loop.made = (*Loop.made, self)

    def fileno(self):
        return 99

    def run(self):
        assert self.stopped.wait(PATIENCE)

    def stop(self):
        self.stopped.set()

    def attend(self):
        self.attended += 1

    def give_up(self):
        self.given_up += 1

    def end(self, number=0):
        self.errno = number
        self.over = True
        self.stopped.set()


class Port:
    closed = False

    def fileno(self):
        return 42

    def close(self):
        self.closed = True


@pytest.fixture
def opened(monkeypatch):
    """opened(**line) -> a carrier whose line is open, and its loop, a double."""
    monkeypatch.setattr(loop, "SerialLoop", Loop)
    monkeypatch.setattr(Loop, "made", ())

    def open_it(session=None, **line):
        factory = ModbusSerialFactory(None, ModbusRtuFramer, None, {"port": "/dev/ttyX"} | line, reactor=Reactor())
        factory.seconds = factory.reactor.seconds
        factory.session = session or factory.session
        factory.connected = []
        factory.trace_connect = factory.connected.append
        carrier = LoopCarrier(factory)
        reasons = []
        port = Port()
        carrier.open(port, reasons.append)
        [made] = Loop.made
        return SimpleNamespace(carrier=carrier, factory=factory, reactor=factory.reactor, port=port, loop=made, reasons=reasons)

    yield open_it
    for made in Loop.made:
        made.stop()


def test_the_loop_is_told_how_the_line_is(opened):
    line = opened(baudrate=9600, direction="kernel", direction_active="low", delay_after=0.002)
    assert (line.loop.session, line.loop.fd) == (line.factory.session, 42)
    assert line.loop.character_time == pytest.approx(11 / 9600)
    assert line.loop.options == {
        "direction": "kernel",
        "active": "low",
        "gpio_fd": -1,
        "delay_before": 0.0,
        "delay_after": 0.002,
        "priority": 0,
    }
    assert verifyObject(IReadDescriptor, line.carrier)
    assert line.carrier.fileno() == 99
    assert line.carrier.logPrefix() == "serial line /dev/ttyX"
    assert line.reactor.readers == {line.carrier}
    assert line.factory.connected == [True]


def test_stopping_waits_for_the_loop_and_leaves_nothing(opened):
    line = opened()
    closed = []
    deferred = line.carrier.close()
    deferred.addCallback(closed.append)
    assert line.carrier.close() is deferred
    assert (closed, line.port.closed, line.loop.stopped.is_set()) == ([], False, True)
    line.loop.end()
    line.carrier.doRead()
    assert (closed, line.port.closed, line.reasons) == ([None], True, [])
    assert line.reactor.readers == set()
    assert line.carrier.fileno() == -1
    assert line.factory.session.wake is None
    assert line.factory.connected == [True, False]
    line.carrier.doRead()  # the reactor may have seen it readable before
    line.carrier.close().addCallback(closed.append)
    assert closed == [None, None]


def test_a_line_that_is_gone_is_told_with_the_reason(opened):
    line = opened()
    line.loop.end(errno.EIO)
    line.carrier.doRead()
    assert line.reasons == ["Input/output error"]
    assert line.port.closed
    assert line.factory.connected == [True, False]


def test_a_port_that_is_gone_may_refuse_to_be_closed(opened, monkeypatch):
    line = opened()

    def refuse():
        raise OSError(errno.EIO, "gone")

    line.port.close = refuse
    line.loop.end(errno.EIO)
    line.carrier.doRead()
    assert line.reasons == ["Input/output error"]


@pytest.mark.parametrize("stopping", [False, True])
def test_a_reactor_that_forgets_its_readers_ends_the_loop(opened, stopping):
    line = opened()
    closed = []
    if stopping:
        line.carrier.close().addCallback(closed.append)
    line.carrier.connectionLost(Failure(ConnectionDone()))
    assert line.loop.stopped.is_set()
    assert line.port.closed
    assert (closed, line.reasons) == (([None], []) if stopping else ([], ["the reactor is stopped"]))
    line.carrier.connectionLost(Failure(ConnectionDone()))  # that has gone already


def test_the_loop_is_attended_when_it_rings_and_when_a_user_has_answered(opened):
    line = opened()
    line.carrier.doRead()
    line.factory.session.wake()
    assert line.loop.attended == 2
    assert line.reactor.getDelayedCalls() == []


class Waiting:
    """A session that waits for a user's answer until `due`."""

    def __init__(self, due):
        self.waiting = True
        self.due = due
        self.wake = None

    def reset(self):
        pass

    def deadline(self):
        return self.due


def test_an_answer_that_does_not_come_is_given_up_in_time(opened):
    line = opened(Waiting(3.0))
    line.carrier.doRead()
    line.reactor.advance(2.0)
    line.carrier.doRead()
    assert len(line.reactor.getDelayedCalls()) == 1
    assert line.loop.given_up == 0
    line.factory.session.waiting = False
    line.reactor.advance(1.1)
    assert (line.loop.given_up, line.loop.attended) == (1, 3)
    assert line.reactor.getDelayedCalls() == []


def test_an_answer_is_waited_for_no_more_when_the_line_is_gone(opened):
    line = opened(Waiting(3.0))
    line.carrier.doRead()
    line.carrier.connectionLost(Failure(ConnectionDone()))
    assert line.reactor.getDelayedCalls() == []


def test_the_gpio_line_is_taken_and_given_back(opened, monkeypatch):
    asked = []
    descriptor, other = os.pipe()

    def request(*args, **options):
        asked.append((args, options))
        return descriptor

    monkeypatch.setattr(rs485, "request_gpio", request)
    line = opened(direction="gpio", direction_line=17, direction_active="low", delay_before=0.001)
    assert asked == [(("/dev/gpiochip0", 17), {"active": "low"})]
    assert line.loop.options["gpio_fd"] == descriptor
    assert line.loop.options["delay_before"] == 0.001
    line.loop.end(errno.EIO)
    line.carrier.doRead()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
    os.close(other)


def test_rts_is_tried_before_the_line_is_served(opened, monkeypatch):
    asked = []
    monkeypatch.setattr(rs485, "check_rts", lambda *args, **options: asked.append((args, options)))
    line = opened(direction="rts")
    assert asked == [((42, "/dev/ttyX"), {"active": "high"})]
    assert line.loop.options["direction"] == "rts"


def test_a_gpio_line_that_cannot_be_had_leaves_no_thread(opened, monkeypatch):
    def refuse(*args, **options):
        raise LineError("line 4 of /dev/gpiochip0 is in use")

    monkeypatch.setattr(rs485, "request_gpio", refuse)
    with pytest.raises(LineError, match="is in use"):
        opened(direction="gpio", direction_line=4)
    assert Loop.made == ()


def test_a_real_time_schedule_that_is_refused_is_said_once(opened, caplog):
    line = opened(realtime=True)
    assert line.loop.options["priority"] == PRIORITY
    line.loop.schedule_errno = errno.EPERM
    line.carrier.doRead()
    line.carrier.doRead()
    [said] = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert said.startswith("serial line /dev/ttyX is served without realtime=True: Operation not permitted; set LimitRTPRIO=40 in")


# ---- live: the loop itself, with a reactor that the test turns by hand ----


@pytest.fixture
def line(tmp_path, monkeypatch):
    """line(block, **options) -> a server on an adapter that is plugged in."""
    monkeypatch.setattr(threadable, "ioThread", threadable.getThreadID())
    monkeypatch.setattr(running, "_servers", set())
    monkeypatch.setattr(running, "_reactors_left", set())
    adapter = Adapter(tmp_path)
    adapter.plug()
    started = []

    def start(registers, **options):
        reactor = Reactor()
        server = StartSerialServer(
            one_unit(image(hr=registers)), framer="rtu", port=adapter.name, units=1, reactor=reactor, defer_reactor_run=True, **options
        )
        started.append((server, reactor))
        return SimpleNamespace(server=server, reactor=reactor, adapter=adapter)

    yield start
    for server, reactor in started:
        stop(server, reactor)
    if adapter.master is not None:
        adapter.unplug()


def stop(server, reactor):
    done = []
    server.stop().addCallback(done.append)
    while not done:
        turn(reactor)


def turn(reactor):
    """Wait for what the reactor waits for, and do it."""
    [reader] = reactor.readers
    assert select.select([reader.fileno()], [], [], PATIENCE)[0]
    reader.doRead()


def ask(line, request):
    os.write(line.adapter.master, wrap_rtu(request))


def heard(line, count):
    data = b""
    while len(data) < count:
        assert select.select([line.adapter.master], [], [], PATIENCE)[0]
        data += os.read(line.adapter.master, 256)
    return data


READ = pdu("03 0000 0001")
ANSWER = wrap_rtu(pdu("03 02 0005"))


@pytest.mark.live
def test_a_request_is_answered_while_the_reactor_does_nothing(line):
    served = line(block([5]))
    for _ in range(3):
        ask(served, READ)
        assert heard(served, len(ANSWER)) == ANSWER
    assert served.server.line.state == "open"
    assert served.server.counters.SlaveMessage == 3


class Sensor(ModbusSequentialDataBlock):
    """A block that Python answers for; `answer` is what it returns, a Deferred may be among it."""

    def __init__(self):
        super().__init__(0, [0])
        self.answer = [5]

    def getValues(self, address, count=1):
        return self.answer


@pytest.mark.live
def test_a_request_that_needs_python_is_answered_in_the_reactors_thread(line):
    served = line(Sensor())
    ask(served, READ)
    assert not select.select([served.adapter.master], [], [], 0.05)[0]
    turn(served.reactor)
    assert heard(served, len(ANSWER)) == ANSWER


@pytest.mark.live
def test_an_answer_that_comes_later_is_sent_then(line):
    sensor = Sensor()
    sensor.answer = Deferred()
    served = line(sensor, reply_deadline=0)
    ask(served, READ)
    turn(served.reactor)
    sensor.answer.callback([5])
    assert heard(served, len(ANSWER)) == ANSWER


@pytest.mark.live
def test_an_answer_that_never_comes_is_an_exception(line):
    sensor = Sensor()
    sensor.answer = Deferred()
    sensor.answer.addErrback(lambda failure: None)
    served = line(sensor, reply_deadline=0)
    ask(served, READ)
    turn(served.reactor)
    served.reactor.advance(3.1)
    assert heard(served, 5) == wrap_rtu(refused(3, 0x0B))


@pytest.mark.live
def test_observers_hear_of_writes_in_the_reactors_thread(line):
    served = line(block([0]))
    writes = []
    served.server.factory.store.add_observer(lambda *write: writes.append((*write, threading.get_ident())))
    ask(served, pdu("06 0000 0007"))
    assert heard(served, 8) == wrap_rtu(pdu("06 0000 0007"))
    assert writes == []
    turn(served.reactor)
    assert writes == [(1, "holding_registers", 0, [7], threading.get_ident())]


@pytest.mark.live
def test_a_line_that_was_unplugged_is_served_again_with_the_same_session(line):
    served = line(block([5]))
    served.server.factory.seconds = served.reactor.seconds
    session = served.server.factory.session
    for round_ in range(1, 4):
        ask(served, READ)
        assert heard(served, len(ANSWER)) == ANSWER
        served.reactor.advance(2)
        served.adapter.unplug()
        turn(served.reactor)
        assert (served.server.line.state, served.server.line.losses) == ("waiting", round_)
        assert served.reactor.readers == set()
        served.adapter.plug()
        served.reactor.advance(0.3)
        assert served.server.line.state == "open"
    ask(served, READ)
    assert heard(served, len(ANSWER)) == ANSWER
    assert served.server.factory.session is session
    assert served.server.counters.SlaveMessage == 4


@pytest.mark.live
def test_no_thread_and_no_descriptor_is_left(line):
    served = line(block([5]))
    before = len(os.listdir("/proc/self/fd"))
    threads = threading.active_count()
    for _ in range(5):
        served.adapter.unplug()
        turn(served.reactor)
        served.adapter.plug()
        served.reactor.advance(6)
        assert served.server.line.state == "open"
    assert threading.active_count() == threads
    assert len(os.listdir("/proc/self/fd")) == before
