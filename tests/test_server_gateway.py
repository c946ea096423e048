"""A remote unit behind a client that waits: the reactor goes on, and a call that nobody waits for any more is left out."""

import threading

import pytest
from adu import pdu, refused, units, wrap_socket
from doubles import Reactor, Wire, connect
from twisted.internet import reactor as installed
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol
from twisted.python import threadable

from mbcore.errors import RequestError
from mbcore.server import ModbusServerFactory
from mbcore.server.gateway import RemoteSlaveContext, _settle

READ = pdu("03 0000 0002")
PATIENCE = 10


class Registers:
    def __init__(self, registers):
        self.registers = registers

    def isError(self):
        return False


class Client:
    """Waits in each call until the test lets it go on."""

    def __init__(self):
        self.calls = []
        self.called = threading.Semaphore(0)
        self.go_on = threading.Semaphore(0)
        self.answer = Registers([5, 6])

    def read_holding_registers(self, address, count, unit):
        self.calls.append((address, count, unit, threading.current_thread().name))
        self.called.release()
        assert self.go_on.acquire(timeout=PATIENCE)
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


@pytest.fixture
def reactor(monkeypatch):
    """A clock that runs, in this thread; what other threads want of it waits for `settle`."""
    monkeypatch.setattr(threadable, "ioThread", threadable.getThreadID())
    monkeypatch.setattr(installed, "running", True, raising=False)
    asked, there = [], threading.Semaphore(0)
    monkeypatch.setattr(installed, "callFromThread", lambda *call: (asked.append(call), there.release()))

    def settle():
        assert there.acquire(timeout=PATIENCE)
        function, *args = asked.pop(0)
        function(*args)

    reactor = Reactor()
    reactor.settle = settle
    return reactor


def master_of(reactor, client, **options):
    factory = ModbusServerFactory(units(u1=RemoteSlaveContext(client, unit=9)), reactor=reactor, **options)
    factory.seconds = reactor.seconds
    return connect(factory, Wire(reactor))


def test_the_reactor_goes_on_while_the_client_waits(reactor):
    client = Client()
    protocol = master_of(reactor, client)
    protocol.dataReceived(wrap_socket(READ))
    assert client.called.acquire(timeout=PATIENCE)
    assert protocol.transport.sent == b""
    client.go_on.release()
    reactor.settle()
    assert protocol.transport.sent == wrap_socket(pdu("03 04 0005 0006"))
    assert client.calls == [(0, 2, 9, "mbcore remote unit")]


@pytest.mark.parametrize(("error", "code"), [(ConnectionError("unplugged"), 4), (RequestError(6, "busy"), 6)])
def test_what_the_client_raises_is_an_exception_response(reactor, error, code):
    client = Client()
    client.answer = error
    client.go_on.release()
    protocol = master_of(reactor, client)
    protocol.dataReceived(wrap_socket(READ))
    reactor.settle()
    assert protocol.transport.sent == wrap_socket(refused(3, code))


def test_a_call_that_has_not_begun_when_its_master_was_answered_is_left_out(reactor):
    client = Client()
    first = master_of(reactor, client, answer_timeout=1.0)
    second = connect(first.factory, Wire(reactor))
    first.dataReceived(wrap_socket(READ))
    assert client.called.acquire(timeout=PATIENCE)
    second.dataReceived(wrap_socket(pdu("03 0007 0002")))
    reactor.advance(1.1)
    assert first.transport.sent == second.transport.sent == wrap_socket(refused(3, 0x0B))
    client.go_on.release(2)
    reactor.settle()
    first.dataReceived(wrap_socket(pdu("03 0009 0002")))
    reactor.settle()
    assert [call[0] for call in client.calls] == [0, 9]


def test_outside_a_request_the_client_is_called_at_once():
    client = Client()
    client.go_on.release()
    assert RemoteSlaveContext(client, unit=9).getValues(3, 0, 2) == [5, 6]
    assert client.calls[0][3] == threading.current_thread().name


def test_a_twisted_client_is_called_where_it_lives(reactor):
    class TwistedClient(Protocol):
        def read_holding_registers(self, address, count, unit):
            self.answer = Deferred()
            return self.answer

    client = TwistedClient()
    protocol = master_of(reactor, client)
    protocol.dataReceived(wrap_socket(READ))
    client.answer.callback(Registers([7, 8]))
    assert protocol.transport.sent == wrap_socket(pdu("03 04 0007 0008"))


def test_an_answer_that_nobody_waits_for_is_dropped():
    outcome = Deferred()
    outcome.callback(1)
    _settle(outcome, 2)
    assert outcome.result == 1
