"""The compiled loop as the carrier of a TCP server: what it wants of the reactor, who is served by it, and that it leaves nothing open."""

import logging
import select
import socket
import sys
import threading

import pytest
from adu import block, image, pdu, refused, run_python, units, wrap_rtu, wrap_socket
from doubles import Reactor
from test_answers_later import Asked
from test_engine_serial import Told, raising, until
from test_engine_tcp import Client, Stubborn
from twisted.internet.error import ConnectionLost
from twisted.internet.tcp import Port
from twisted.python import threadable
from twisted.python.failure import Failure

from mbcore import ModbusRtuFramer
from mbcore.control import server_blocks
from mbcore.errors import ConfigurationError
from mbcore.server import ModbusTcpProtocol, StartTcpServer, factory, running

pytestmark = pytest.mark.live

PATIENCE = 10
READ, ANSWER, WRITTEN = pdu("03 0000 0001"), pdu("03 02 0005"), pdu("06 0001 BEEF")
COILS, COILS_ANSWER = pdu("01 0000 0008"), pdu("01 01 00")
LOST = Failure(ConnectionLost())


class ListeningReactor(Reactor):
    """Its ports are real ones; the time, and what is read, are the test's."""

    def listenTCP(self, port, factory, backlog=50, interface=""):
        self.ports.append(Port(port, factory, backlog, interface, self))
        self.ports[-1].startListening()
        return self.ports[-1]

    def turn(self, seconds=PATIENCE):
        ready, _, _ = select.select(list(self.readers), [], [], seconds)
        for reader in ready:
            reader.doRead()
        return bool(ready)


@pytest.fixture
def reactor(monkeypatch):
    monkeypatch.setattr(threadable, "ioThread", threadable.getThreadID())
    monkeypatch.setattr(running, "_servers", set())
    monkeypatch.setattr(running, "_reactors_left", set())
    made = ListeningReactor()
    made.running = True
    return made


class Served:
    def __init__(self, reactor, hr=None, **options):
        self.reactor, self.clients = reactor, []
        self.context = units(u1=image(hr=block([5, 6, 7]) if hr is None else hr, co=block([0] * 100)))
        options = {"engine": True} | options
        self.handle = StartTcpServer(self.context, address=("127.0.0.1", 0), reactor=reactor, defer_reactor_run=True, **options)

    def connect(self):
        self.clients.append(Client(("127.0.0.1", self.handle.port)))
        return self.clients[-1]

    def ask(self, client, request, answer):
        client.say(wrap_socket(request))
        self.hear(client, answer)

    def hear(self, client, answer):
        expected, heard = wrap_socket(answer), b""
        while len(heard) < len(expected):
            ready, _, _ = select.select([client.socket, *self.reactor.readers], [], [], PATIENCE)
            assert ready
            for one in ready:
                if one is client.socket:
                    heard += client.hear(1)
                else:
                    one.doRead()
        assert heard == expected

    def stop(self):
        stopped = self.handle.stop()
        self.reactor.advance(0)
        assert stopped.called
        for client in self.clients:
            client.socket.close()
        assert not self.reactor.readers
        assert not self.reactor.getDelayedCalls()
        assert not [thread for thread in threading.enumerate() if thread.name == f"mbcore {self.handle.port}"]
        with pytest.raises(ConnectionRefusedError):
            self.connect()


@pytest.fixture
def serve(request, reactor):
    """serve(hr=None, **keywords) -> Served; when it is stopped nothing is left"""

    def start(*args, **options):
        served = Served(reactor, *args, **options)
        request.addfinalizer(served.stop)
        return served

    return start


def test_a_server_is_served_without_the_reactor(serve, reactor):
    served = serve()
    assert served.handle.engine is True
    client = served.connect()
    client.say(wrap_socket(READ))
    assert client.hear(11) == wrap_socket(ANSWER)
    [reader] = reactor.readers
    assert reader.logPrefix() == f"TcpServer on {reactor.ports[0].getHost()}"
    assert not reactor.turn(0)


def test_rtu_over_tcp(serve):
    client = serve(framer=ModbusRtuFramer).connect()
    client.say(wrap_rtu(READ))
    assert client.hear(7) == wrap_rtu(ANSWER)


def test_observers_hear_of_writes_also_of_the_last(reactor):
    served, heard = Served(reactor), []
    served.context.add_observer(lambda *write: heard.append(write))
    client = served.connect()
    for count in (1, 2):
        client.say(wrap_socket(WRITTEN))
        assert client.hear(12) == wrap_socket(WRITTEN)
        assert len(heard) == count - 1
        if count == 1:
            assert reactor.turn()
    served.stop()
    assert heard == [(1, "holding_registers", 1, [0xBEEF])] * 2


def test_an_answer_that_comes_later(serve, reactor):
    asked = Asked(("validate", "getValues"))
    client = serve(asked).connect()
    for value in (7, 8):
        client.say(wrap_socket(READ))
        assert reactor.turn()
        asked.answer(True)
        [timer] = reactor.getDelayedCalls()
        assert 2.5 < timer.getTime() - reactor.seconds() <= 3.0
        asked.answer([value])
        assert reactor.getDelayedCalls() == []
        assert client.hear(11) == wrap_socket(pdu(f"03 02 {value:04X}"))


def test_an_answer_that_does_not_come_is_exception_0b(serve, reactor):
    asked = Asked()
    served = serve(asked)
    client = served.connect()
    for _ in range(2):
        client.say(wrap_socket(READ))
        assert reactor.turn()
        reactor.advance(3)
        assert client.hear(9) == wrap_socket(refused(3, 0x0B))
        assert asked.calls[-1][-1].called, "with CancelledError"
    served.ask(client, COILS, COILS_ANSWER)


def test_an_answer_that_does_not_like_to_be_given_up(serve, reactor):
    client = serve(Stubborn()).connect()
    client.say(wrap_socket(READ))
    assert reactor.turn()
    reactor.advance(3)
    assert client.hear(9) == wrap_socket(refused(3, 0x0B))


def test_an_end_while_an_answer_is_waited_for(reactor):
    asked = Asked()
    served = Served(reactor, asked)
    client = served.connect()
    client.say(wrap_socket(READ))
    assert reactor.turn()
    served.stop()
    assert asked.calls[0][-1].called, "with CancelledError"


def test_an_answer_that_another_connections_question_brings(serve, reactor):
    asked = Asked()
    served = serve(asked)
    asked.setValues = lambda address, values: asked.answer(values)
    first, second = served.connect(), served.connect()
    first.say(wrap_socket(READ))
    [reader] = reactor.readers
    assert select.select([reader], [], [], PATIENCE)[0]
    second.say(wrap_socket(pdu("06 0001 0077")))
    served.hear(first, pdu("03 02 0077"))
    served.hear(second, pdu("06 0001 0077"))
    assert reactor.getDelayedCalls() == []


def test_what_ends_the_program_ends_a_connection_and_not_the_server(serve, reactor, caplog):
    told = Told(raising(KeyboardInterrupt()))
    served = serve(told)
    client, other = served.connect(), served.connect()
    client.say(wrap_socket(READ))
    assert reactor.turn()
    assert client.is_closed()
    assert "a connection is closed: a user's code was interrupted" in caplog.text
    served.ask(other, COILS, COILS_ANSWER)


def test_a_connection_that_makes_room_is_told_of(serve, reactor, caplog):
    served = serve(max_connections=2)
    for _ in range(3):
        served.ask(served.connect(), READ, ANSWER)
    until(lambda: reactor.turn(0.01) or "all 2 connections of max_connections= are taken" in caplog.text)
    assert served.clients[0].is_closed()


def test_a_host_that_is_not_let_in(serve, reactor, access_control, caplog):
    served = serve()
    before = served.connect()
    served.ask(before, READ, ANSWER)
    access_control.add("10.0.0.0/8")
    access_control.remove("127.0.0.1")
    client = served.connect()
    assert reactor.turn()
    assert client.is_closed()
    assert served.handle.factory.refused == 1
    assert '127.0.0.1 is refused: ModbusAccessControl().add("127.0.0.1") would let it in' in caplog.text
    served.ask(before, READ, ANSWER)
    access_control.add("127.0.0.1")
    served.ask(served.connect(), READ, ANSWER)
    # One that has gone before it is asked for.
    client = served.connect()
    client.reset()
    assert reactor.turn()
    served.ask(before, READ, ANSWER)


def test_a_reactor_that_is_stopped_ends_the_loop(reactor):
    served = Served(reactor)
    client = served.connect()
    served.ask(client, READ, ANSWER)
    [reader] = reactor.readers
    reactor.removeReader(reader)
    reader.connectionLost(LOST)
    assert reader.loop.over
    assert client.is_closed()
    served.stop()


# ---- what carries the bytes -----------------------------------------------------------------------------------------------------------


class Watching(ModbusTcpProtocol):
    pass


class OwnFramer(ModbusRtuFramer):
    pass


def hook(*args):
    return args[-1]


SEEN = [
    ({"trace_packet": hook}, "trace_packet is given, which sees every message"),
    ({"trace_pdu": hook}, "trace_pdu is given, which sees every message"),
    ({"framer": OwnFramer}, "the framer is OwnFramer, a class of the application's"),
]


@pytest.mark.parametrize("options", [{"engine": False}, *({"engine": False} | options for options, _ in SEEN)])
def test_twisted_carries_the_bytes(reactor, options):
    served = Served(reactor, **options)
    assert served.handle.engine is False
    assert reactor.readers == set(reactor.ports)
    served.stop()


def test_the_loop_carries_the_bytes(serve):
    assert serve(engine=True).handle.engine is True


@pytest.mark.parametrize(("options", "reason"), SEEN)
def test_a_loop_that_is_wanted_and_cannot_be(reactor, options, reason):
    sentence = f"engine is True, which needs the compiled loop, but {reason}: leave one of the two out"
    with pytest.raises(ConfigurationError) as raised:
        Served(reactor, engine=True, **options)
    assert str(raised.value).endswith(sentence)
    assert reactor.ports == []


def test_a_protocol_of_the_users_own_sees_every_byte(reactor, monkeypatch):
    monkeypatch.setattr(factory.ModbusServerFactory, "protocol", Watching)
    with pytest.raises(ConfigurationError, match="but the factory's protocol is Watching, which sees every byte"):
        Served(reactor, engine=True)
    served = Served(reactor, engine=False)
    assert served.handle.engine is False
    served.stop()


def test_another_system_has_no_loop(reactor, monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(ConfigurationError, match="but this system is not Linux"):
        Served(reactor, engine=True)


def test_a_log_of_every_message_is_no_obstacle_where_the_loop_is_asked_for(reactor, caplog):
    with caplog.at_level(logging.DEBUG, "mbcore.server"):
        served = Served(reactor)
    assert served.handle.engine is True
    served.stop()


def test_a_reactor_with_ports_of_its_own_kind_keeps_them():
    handle = StartTcpServer(reactor=Reactor(), defer_reactor_run=True)
    assert handle.engine is False
    handle.stop()


def test_a_reactor_with_ports_of_its_own_kind_has_nothing_for_the_loop():
    reactor = Reactor()
    with pytest.raises(ConfigurationError, match=r"engine is True, but .* listens in a way of its own: leave engine out"):
        StartTcpServer(engine=True, reactor=reactor, defer_reactor_run=True)


def test_what_engine_may_be(reactor):
    with pytest.raises(ConfigurationError, match="engine is 1: give True or False or None"):
        Served(reactor, engine=1)


def test_a_system_that_gives_no_more_threads(reactor, monkeypatch):
    def refuse(thread):
        raise RuntimeError("can't start new thread")

    server_blocks.clear()
    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        Served(reactor)
    [port] = reactor.ports
    address = port.getHost()
    reactor.advance(0)
    assert not reactor.readers
    assert not server_blocks
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((address.host, address.port))


PROGRAM = """
import socket, sys, threading
from twisted.internet import reactor
from twisted.internet import defer
from mbcore import ModbusSequentialDataBlock, ModbusServerContext, ModbusSlaveContext
from mbcore.server import StartTcpServer, StopServer

def say(line):
    # One write: two threads speak, and print() writes the line's end apart.
    sys.stdout.write(f"{line}\\n")

class Later(ModbusSequentialDataBlock):
    def getValues(self, address, count=1):
        answer = defer.Deferred(lambda _: say("cancelled"))
        answer.addErrback(lambda _: None)
        if address == 0:
            reactor.callLater(0, answer.callback, [7] * count)
        else:
            reactor.callLater(0, %(stop)s)
        return answer

context = ModbusServerContext(ModbusSlaveContext(hr=Later(0, [0] * 10), zero_mode=True))
handle = StartTcpServer(context, address=("127.0.0.1", 0), engine=True, defer_reactor_run=True)

def ask():
    with socket.create_connection(("127.0.0.1", handle.port), 10) as client:
        client.sendall(bytes.fromhex("0001 0000 0006 01 03 0000 0001"))
        say(client.recv(100).hex())
        client.sendall(bytes.fromhex("0001 0000 0006 01 03 0001 0001"))
        say(client.recv(100))
    if "%(stop)s" == "handle.stop":
        StopServer()

thread = threading.Thread(target=ask)
thread.start()
reactor.run()
thread.join()
print(handle.engine, threading.active_count())
"""


@pytest.mark.parametrize("stop", ["handle.stop", "StopServer", "reactor.stop"])
def test_under_a_real_reactor(stop):
    first, *ending, last = run_python(PROGRAM % {"stop": stop}).splitlines()
    assert (first, last) == ("0001000000050103020007", "True 1")
    assert sorted(ending) == ["b''", "cancelled"]


