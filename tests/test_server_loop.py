"""The compiled loop as a carrier: what it wants of the reactor, and that it leaves nothing open."""

import errno
import logging
import os
import select
import threading
import tty

import pytest
from adu import block, image, pdu, refused, run_python, units, wrap_rtu
from doubles import Deaf, Forked, Reactor
from serial import Serial
from test_answers_later import Asked
from twisted.internet.error import ConnectionLost
from twisted.python.failure import Failure

from mbcore import ModbusRtuFramer
from mbcore.errors import ConfigurationError
from mbcore.server import loop, rs485, thread
from mbcore.server.line import Line
from mbcore.server.loop import LoopCarrier
from mbcore.server.port import SettingError
from mbcore.server.running import RunningServer
from mbcore.server.serial import ModbusSerialFactory

pytestmark = pytest.mark.live

PATIENCE = 10
ASKED, ANSWER = wrap_rtu(pdu("03 0000 0001")), wrap_rtu(pdu("03 02 0005"))
WRITTEN = wrap_rtu(pdu("06 0001 BEEF"))
LOST = Failure(ConnectionLost())


class Served:
    """A carrier on a pseudo-terminal, whose name stays when another one is plugged in; its reactor's time is the test's."""

    def __init__(self, folder, hr=None, **line):
        self.name = str(folder / "line")
        self.plug_in()
        self.reactor = Reactor()
        self.reactor.running = True
        self.connected, self.lost, self.reports = [], [], []
        self.context = units(u1=image(hr=block([5, 6, 7]) if hr is None else hr))
        settings = {"port": self.name, "reply_delay": 0.0} | line
        self.factory = ModbusSerialFactory(
            self.context, ModbusRtuFramer, None, settings, reactor=self.reactor, trace_connect=self.connected.append
        )
        self.carrier = LoopCarrier(self.factory)

    def plug_in(self):
        self.end, port = os.openpty()
        tty.setraw(port)
        if os.path.lexists(self.name):
            os.unlink(self.name)
        os.symlink(os.ttyname(port), self.name)
        self.ends = [self.end, port]

    def unplug(self):
        for end in self.ends:
            os.close(end)
        self.ends = []

    def open(self):
        self.port = self.factory.open_port()
        self.carrier.open(self.port, self.lost.append)

    def turn(self):
        """The reactor reads once."""
        ready, _, _ = select.select(list(self.reactor.readers), [], [], PATIENCE)
        for reader in ready:
            reader.doRead()
        assert ready

    def say(self, data):
        os.write(self.end, data)

    def hear(self, length):
        heard = b""
        while len(heard) < length:
            assert select.select([self.end], [], [], PATIENCE)[0]
            heard += os.read(self.end, length - len(heard))
        return heard

    def assert_nothing_is_left(self):
        assert not self.reactor.readers
        assert not self.reactor.getDelayedCalls()
        assert not self.port.is_open
        assert not [thread for thread in threading.enumerate() if thread.name == f"mbcore {self.name}"]
        assert self.carrier.fileno() == -1
        assert self.carrier._thread._loop.fileno() == -1, "the loop's descriptors are given back"
        assert not self.factory.session.waiting
        assert self.connected[-1] is False


@pytest.fixture
def serve(request, tmp_path):
    """serve(hr=None, **keywords of the line) -> Served"""

    def start(*args, **line):
        served = Served(tmp_path, *args, **line)

        def end():
            closed = served.carrier.close()
            while not closed.called:
                served.turn()
            served.unplug()

        request.addfinalizer(end)
        return served

    return start


def close(served):
    closed = served.carrier.close()
    assert not closed.called, "the loop ends first"
    assert served.carrier.close() is closed
    while not closed.called:
        served.turn()
    served.assert_nothing_is_left()


@pytest.mark.parametrize("closing", [False, True])
def test_a_users_code_that_wants_the_program_to_end_costs_the_line_nothing(serve, caplog, closing):
    """Be it in an observer of what another server's client has written."""
    served = serve()
    served.open()
    slips = [KeyboardInterrupt("slip")]

    def observer(*_):
        if slips:
            raise slips.pop()

    served.context.add_observer(observer)
    served.say(WRITTEN)
    assert served.hear(8) == WRITTEN
    if closing:
        close(served)
        served.open()
    else:
        served.turn()
    assert not slips
    assert "a user's code was interrupted" in caplog.text
    assert served.lost == []
    served.say(ASKED)
    assert served.hear(7) == ANSWER


def test_a_line_is_served_until_it_is_closed(serve):
    served = serve()
    assert served.carrier.close().called, "it is not open yet"
    served.open()
    served.say(ASKED)
    assert served.hear(7) == ANSWER
    assert served.connected == [True]
    assert served.carrier.logPrefix() == f"serial line {served.name}"
    close(served)
    assert served.lost == []
    served.carrier.doRead()


def test_a_device_that_goes_is_told_and_opened_again(serve):
    served = serve()
    line = Line(served.factory, served.carrier)
    line.open()
    served.say(ASKED)
    assert served.hear(7) == ANSWER
    served.unplug()
    served.turn()
    assert (line.state, line.reason) == ("waiting", os.strerror(errno.EIO))
    served.plug_in()
    served.reactor.advance(1)
    assert line.state == "open"
    # It was opened in the midst of something, perhaps.
    served.say(ASKED)
    assert served.hear(7) == ANSWER
    assert served.connected == [True, False, True]
    assert (line.openings, line.losses) == (2, 1)
    served.port = line._port
    closed = line.close()
    while not closed.called:
        served.turn()
    served.assert_nothing_is_left()


def test_observers_hear_of_writes(serve):
    served, heard = serve(), []
    served.context.add_observer(lambda *write: heard.append(write))
    served.open()
    served.say(WRITTEN)
    assert served.hear(8) == WRITTEN
    assert heard == []
    served.turn()
    assert heard == [(1, "holding_registers", 1, [0xBEEF])]
    served.say(WRITTEN)
    assert served.hear(8) == WRITTEN
    served.carrier.connectionLost(LOST)
    assert len(heard) == 2, "of the last one too"
    served.assert_nothing_is_left()


def test_an_answer_that_comes_later(serve):
    asked = Asked()
    served = serve(asked)
    served.open()
    for value in 7, 8:
        served.say(ASKED)
        served.turn()
        assert len(served.reactor.getDelayedCalls()) == 1
        asked.answer([value])
        assert served.hear(7) == wrap_rtu(pdu(f"03 02 {value:04X}"))
        assert served.reactor.getDelayedCalls() == []


def asked_on_the_line(serve, asked, **options):
    """A line whose master waits for a block that answers later."""
    served = serve(asked, **options)
    served.open()
    served.say(ASKED)
    served.turn()
    return served


def test_one_answer_after_the_other_has_its_time(serve):
    asked = Asked(("validate", "getValues"))
    served = asked_on_the_line(serve, asked, reply_deadline=60.0)
    asked.answer(True)
    assert len(served.reactor.getDelayedCalls()) == 1
    asked.answer([9])
    assert served.hear(7) == wrap_rtu(pdu("03 02 0009"))


def test_an_answer_that_does_not_come_is_exception_0b(serve):
    asked = Asked()
    served = asked_on_the_line(serve, asked, reply_deadline=60.0)
    served.reactor.advance(2)
    assert not asked.calls[0][-1].called
    served.reactor.advance(2)
    assert served.hear(5) == wrap_rtu(refused(3, 0x0B))
    assert asked.calls[0][-1].called
    assert served.reactor.getDelayedCalls() == []


@pytest.mark.parametrize("end", ["closed", "unplugged", "the reactor stops"])
def test_an_answer_that_is_waited_for_is_given_up_at_the_end(serve, end):
    asked = Asked()
    served = asked_on_the_line(serve, asked)
    failures = []
    asked.calls[0][-1].addErrback(failures.append)
    if end == "closed":
        close(served)
    elif end == "unplugged":
        served.unplug()
        served.turn()
        assert served.lost == [os.strerror(errno.EIO)]
    else:
        served.carrier.connectionLost(LOST)
    assert asked.calls[0][-1].called
    assert failures == [], "nobody is told of a cancellation"
    served.assert_nothing_is_left()


def test_a_reactor_that_stops_leaves_nothing_open(serve):
    served = serve()
    served.open()
    served.carrier.connectionLost(LOST)
    assert served.lost == [LOST.getErrorMessage()]
    served.assert_nothing_is_left()
    served.carrier.connectionLost(LOST)
    assert len(served.lost) == 1


def test_a_reactor_that_stops_while_the_line_is_closed(serve):
    served = serve()
    served.open()
    closed = served.carrier.close()
    served.carrier.connectionLost(LOST)
    assert closed.called
    assert served.lost == []
    served.assert_nothing_is_left()


def test_a_schedule_that_is_refused_is_said_once(serve, monkeypatch, caplog):
    monkeypatch.setattr(loop, "PRIORITY", 1000)
    served = serve(realtime=True)
    for _ in range(2):
        served.open()
        served.turn()
        served.say(ASKED)
        assert served.hear(7) == ANSWER
        close(served)
    [said] = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING and "realtime" in record.getMessage()]
    assert said.startswith(f"serial line {served.name} is served without realtime=True: {os.strerror(errno.EINVAL)}; set LimitRTPRIO=1000")


def no_gpio(monkeypatch):
    """A GPIO line that can't be switched; the list of those that were requested."""
    given = []

    def request(chip, line, *, active):
        given.append(os.open("/dev/null", os.O_RDWR))
        return given[-1]

    monkeypatch.setattr(rs485, "request_gpio", request)
    return given


def is_open(fd):
    return os.path.exists(f"/proc/self/fd/{fd}")


def test_a_gpio_line_that_fails_is_a_loss_and_the_line_is_given_back(serve, monkeypatch):
    given = no_gpio(monkeypatch)
    served = serve(direction="gpio", direction_line=4)
    served.open()
    served.say(ASKED)
    served.turn()
    assert served.lost == [os.strerror(errno.ENOTTY)]
    assert not is_open(given[0])
    assert select.select([served.end], [], [], 0)[0] == [], "no reply into a line that does not switch"
    served.assert_nothing_is_left()


def test_rts_that_cannot_be_moved_is_refused_and_later_a_loss(serve, monkeypatch):
    served = serve(direction="rts")
    port = served.factory.open_port()
    with pytest.raises(ConfigurationError, match="has no RTS"):
        served.carrier.open(port, served.lost.append)
    port.close()
    assert served.carrier.close().called
    monkeypatch.setattr(rs485, "check_rts", lambda *args, **kwargs: None)
    served.open()
    served.say(ASKED)
    served.turn()
    assert len(served.lost) == 1
    served.assert_nothing_is_left()


@pytest.mark.parametrize("direction", [{}, {"direction": "gpio", "direction_line": 4}])
def test_without_a_thread_nothing_is_left(serve, monkeypatch, direction):
    given = no_gpio(monkeypatch)
    served = serve(**direction)

    def refuse(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with served.factory.open_port() as port, pytest.raises(RuntimeError, match="new thread"):
        served.carrier.open(port, served.lost.append)
    assert not any(map(is_open, given))
    assert not served.reactor.readers
    assert served.connected == []
    assert served.carrier.close().called


# ---- before the reactor runs -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def early(serve):
    """A line that is open before its reactor runs."""
    served = serve()
    served.reactor.running = False
    served.open()
    return served


def start_reactor(served):
    served.reactor.running = True
    served.reactor.advance(0)


def test_the_thread_starts_with_the_reactor(early):
    assert not [thread for thread in threading.enumerate() if thread.name == f"mbcore {early.name}"]
    early.say(ASKED)
    start_reactor(early)
    assert early.hear(7) == ANSWER


def test_a_line_that_is_closed_before_the_reactor_runs_stays_closed(early):
    assert early.carrier.close().called
    early.assert_nothing_is_left()
    start_reactor(early)
    early.assert_nothing_is_left()
    assert early.lost == []


def test_without_a_thread_at_the_start_of_the_reactor_the_line_is_lost(early, monkeypatch):
    def refuse(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    start_reactor(early)
    assert early.lost == ["can't start new thread"]
    early.assert_nothing_is_left()


@pytest.mark.parametrize(("flow", "flushed"), [({}, 0), ({"xonxoff": True}, 1)])
@pytest.mark.parametrize("error", [None, OSError(errno.EIO, "gone"), SettingError(errno.EIO, "gone")])
def test_what_flow_control_holds_up_does_not_hold_up_the_end(serve, monkeypatch, flow, flushed, error):
    flushes = []

    def flush(port):
        flushes.append(port)
        if error:
            raise error

    served = serve(**flow)
    served.open()
    monkeypatch.setattr(Serial, "reset_output_buffer", flush)
    close(served)
    assert len(flushes) == flushed


def test_a_port_that_does_not_close_well_is_closed(serve, monkeypatch):
    served = serve()
    served.open()
    really = Serial.close

    def refuse(port):
        really(port)
        raise OSError(errno.EIO, "gone")

    monkeypatch.setattr(Serial, "close", refuse)
    close(served)


PROGRAM = """
import os, tty
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from mbcore import ModbusRtuFramer, ModbusSequentialDataBlock, ModbusServerContext, ModbusSlaveContext
from mbcore.server import StartSerialServer

class Later(ModbusSequentialDataBlock):
    def getValues(self, address, count=1):
        print("asked", address, count)
        reactor.callLater(0, %s)
        return Deferred(lambda deferred: print("cancelled"))

end, port = os.openpty()
tty.setraw(port)
context = ModbusServerContext({1: ModbusSlaveContext(hr=Later(0, [0] * 10), zero_mode=True)}, single=False)
server = StartSerialServer(context, framer=ModbusRtuFramer, port=os.ttyname(port), engine=True, defer_reactor_run=True)
reactor.callWhenRunning(os.write, end, bytes.fromhex("%s"))
reactor.run()
print(server.line.state)
"""


@pytest.mark.parametrize("stop", ["reactor.stop", "lambda: server.stop().addCallback(lambda _: reactor.stop())"])
def test_a_real_reactor_stops_while_an_answer_is_waited_for(stop):
    assert run_python(PROGRAM % (stop, ASKED.hex())) == "asked 0 1\ncancelled\nclosed\n"


DAEMON = """
import os, select, tty
from twisted.internet import reactor
from mbcore import ModbusRtuFramer, ModbusServerContext
from mbcore.server import StartSerialServer

end, port = os.openpty()
tty.setraw(port)
StartSerialServer(ModbusServerContext(), framer=ModbusRtuFramer, port=os.ttyname(port), engine=True, units=[1], defer_reactor_run=True)
if os.fork():
    os._exit(0)

def ask():
    os.write(end, bytes.fromhex("%s"))
    print(os.read(end, 7).hex() if select.select([end], [], [], 10)[0] else "deaf", flush=True)
    os._exit(0)

reactor.callWhenRunning(reactor.callInThread, ask)
reactor.run()
"""


def test_a_process_that_becomes_a_daemon_before_its_reactor_runs_is_not_deaf():
    assert run_python(DAEMON % ASKED.hex()) == wrap_rtu(pdu("03 02 0000")).hex() + "\n"


def test_a_line_that_is_lost_for_good_is_not_alive(serve):
    served = serve()
    line = served.factory.line = Line(served.factory, served.carrier, reopen=False)
    line.open()
    handle = RunningServer("serial", served.factory, served.name, [line.close])
    assert handle.alive
    served.unplug()
    while line.state == "open":
        served.turn()
    assert line.state == "closed"
    assert not handle.alive
    handle.stop()


def test_a_loop_that_turns_is_told_from_one_that_hangs(serve):
    served = serve()
    turning = served.factory.turning
    assert turning(), "there is no loop yet, and the reactor turns"
    served.open()
    for _ in range(20):
        assert turning()
    now = [1000.0]
    served.factory.seconds = lambda: now[0]
    held, real, deaf = served.carrier._thread, served.carrier._thread._loop, Deaf()
    held._loop = deaf
    assert turning()
    deaf.hears = False
    longest = thread.DEAF + loop.LONGEST_REPLY * served.factory.settings.character_time
    for passed, alive in ((0, True), (longest, True), (longest + 0.1, False)):
        now[0] = 1000 + passed
        assert turning() is alive, passed
    deaf.hears = True
    assert turning()
    deaf.hears = False
    assert turning(), "it has just been heard"
    deaf.over = deaf.hears = True
    assert not turning()
    held._loop = real
    close(served)
    assert turning()


def test_in_a_fork_nothing_is_done_that_the_parent_would_miss(serve, caplog, monkeypatch):
    served = serve()
    served.open()
    served.say(ASKED)
    assert served.hear(len(ANSWER)) == ANSWER
    with monkeypatch.context() as patch:
        patch.setattr(served.carrier._thread, "_loop", Forked())
        served.carrier.doRead()
        served.carrier.doRead()
        served.carrier.connectionLost(LOST)
    assert caplog.text.count("another process serves a server that it shares with process") == 1
    assert served.lost == []
    served.say(ASKED)
    assert served.hear(len(ANSWER)) == ANSWER


def test_in_a_fork_an_answer_is_not_given_up(serve, monkeypatch):
    asked = Asked()
    served = asked_on_the_line(serve, asked)
    with monkeypatch.context() as patch:
        patch.setattr(served.carrier._thread, "_loop", Forked())
        served.reactor.advance(4)
    assert not asked.calls[0][-1].called
    asked.answer([7])
    assert served.hear(7) == wrap_rtu(pdu("03 02 0007"))
