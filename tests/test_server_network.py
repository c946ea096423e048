"""The compiled loop as the carrier of a TCP server: what it wants of the reactor, who is served by it, and that it leaves nothing open."""

import errno
import gc
import logging
import os
import select
import socket
import sys
import threading
import time
from itertools import pairwise
from types import SimpleNamespace

import pytest
from adu import block, image, pdu, refused, run_python, units, wrap_rtu, wrap_socket
from doubles import Deaf, Forked, Reactor
from test_answers_later import Asked
from test_custom_functions import SumRequest
from test_engine_serial import Told, raising, until
from test_engine_tcp import Client, Stubborn, fill
from test_engine_udp import Client as UdpClient
from twisted.internet.defer import Deferred
from twisted.internet.epollreactor import EPollReactor
from twisted.internet.error import ConnectionLost
from twisted.internet.pollreactor import PollReactor
from twisted.internet.selectreactor import SelectReactor
from twisted.internet.task import Clock
from twisted.internet.tcp import Port
from twisted.internet.udp import Port as DatagramPort
from twisted.python.failure import Failure

from mbcore import ModbusRtuFramer
from mbcore.control import server_blocks
from mbcore.errors import ConfigurationError, LineError
from mbcore.server import (
    ModbusServerFactory,
    ModbusTcpProtocol,
    ModbusUdpProtocol,
    StartTcpServer,
    StartUdpServer,
    factory,
    network,
    thread,
)
from mbcore.server.start import SEND_BUFFER
from mbcore.session import Session

pytestmark = pytest.mark.live

PATIENCE = 30
READ, ANSWER, WRITTEN = pdu("03 0000 0001"), pdu("03 02 0005"), pdu("06 0001 BEEF")
COILS, COILS_ANSWER = pdu("01 0000 0008"), pdu("01 01 00")
LOST = Failure(ConnectionLost())


class ListeningReactor(Reactor):
    """Its ports are real ones; the time, and what is read, are the test's."""

    def listenTCP(self, port, factory, backlog=50, interface=""):
        self.ports.append(Port(port, factory, backlog, interface, self))
        self.ports[-1].startListening()
        return self.ports[-1]

    def listenUDP(self, port, protocol, interface="", maxPacketSize=8192):  # noqa: N803 - Twisted's name
        self.ports.append(DatagramPort(port, protocol, interface, maxPacketSize, self))
        self.ports[-1].startListening()
        return self.ports[-1]

    def turn(self, seconds=PATIENCE):
        ready, _, _ = select.select(list(self.readers), [], [], seconds)
        for reader in ready:
            if reason := reader.doRead():
                reader.connectionLost(Failure(reason))
        return bool(ready)

    def turn_until(self, true):
        limit = time.monotonic() + PATIENCE
        while not true():
            assert time.monotonic() < limit
            self.turn(0.01)


@pytest.fixture
def reactor(own_servers):
    made = ListeningReactor()
    made.running = True
    return made


class Served:
    def __init__(self, reactor, hr=None, **options):
        self.reactor, self.clients = reactor, []
        self.context = units(u1=image(hr=block([5, 6, 7]) if hr is None else hr, co=block([0] * 100)))
        options = {"engine": True} | options
        self.handle = StartTcpServer(self.context, address=("127.0.0.1", 0), reactor=reactor, defer_reactor_run=True, **options)
        if self.threads():
            # Its first wish: sessions for the clients to come.
            assert reactor.turn()

    def connect(self):
        self.clients.append(Client(("127.0.0.1", self.handle.port)))
        return self.clients[-1]

    def threads(self):
        return [thread for thread in threading.enumerate() if thread.name == f"mbcore {self.handle.port}"]

    def ask(self, client, request, answer):
        client.say(wrap_socket(request))
        self.hear(client, answer)

    def hear(self, client, answer):
        expected = wrap_socket(answer)
        assert self.take(client, len(expected)) == expected

    def take(self, client, length):
        """So many bytes for the client; what wants the reactor meanwhile gets it."""
        heard = b""
        while len(heard) < length:
            ready, _, _ = select.select([client.socket, *self.reactor.readers], [], [], PATIENCE)
            assert ready
            for one in ready:
                if one is client.socket:
                    heard += client.hear(1)
                else:
                    one.doRead()
        return heard

    def stop(self):
        stopped = self.handle.stop()
        self.reactor.advance(0)
        assert stopped.called
        for client in self.clients:
            client.socket.close()
        assert not self.reactor.readers
        assert not self.reactor.getDelayedCalls()
        assert not self.threads()
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


def test_a_server_that_is_stopped_keeps_no_descriptor(reactor, access_control):
    before = len(os.listdir("/proc/self/fd"))
    handles = []
    gc.disable()
    try:
        for kind in (Served, UdpServed):
            served = kind(reactor)
            served.stop()
            handles.append(served.handle)
        assert len(os.listdir("/proc/self/fd")) == before
    finally:
        gc.enable()
    assert not any(handle.alive for handle in handles)


def test_a_client_takes_little_of_the_kernels_memory(serve, reactor):
    serve()
    [port] = reactor.ports
    # Linux doubles what is asked for, and without a word would give each of them megabytes.
    assert port.socket.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == 2 * SEND_BUFFER


def test_a_stream_that_has_lost_its_frames_is_logged(serve, reactor, caplog):
    caplog.set_level(logging.INFO)
    client = serve().connect()
    client.say(b"\x00\x01\xff\xff" + bytes(20))
    assert client.is_closed()
    sentence = f"127.0.0.1:{client.socket.getsockname()[1]}: the stream has lost its frames; closing the connection"
    reactor.turn_until(lambda: sentence in caplog.text)


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
    reactor.turn_until(lambda: asked.calls)
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
    assert "a user's code was interrupted; a connection that waited for it is closed" in caplog.text
    served.ask(other, COILS, COILS_ANSWER)


class Brisk:
    """A server with a block of a user's own whose reactor has a poller, as Twisted's epoll reactor; and what else that waits for."""

    def __init__(self, serve, reactor, monkeypatch):
        monkeypatch.setattr("mbcore.server.network.TURN", PATIENCE)
        reactor._poller, reactor.delay = select.epoll(), 0
        reactor.timeout = lambda: reactor.delay
        self.answered = Told(lambda count: [5] * count)
        self.served = serve(self.answered)
        self.client, self.clock = self.served.connect(), Clock()
        [self.reader] = reactor.readers
        self.served.handle.factory.seconds = self.clock.seconds
        self.loop = self.reader.loop
        self.reader.loop = self
        self.lingered = []
        self.reader.doRead()
        self.lingered.clear()
        self.other, self.end = os.pipe()
        for watched in (self.reader.fileno(), self.other):
            reactor._poller.register(watched, select.EPOLLIN)
        # A request out of the blue is not waited behind, nor is the next one, of which nobody knows that it comes soon.
        self.clock.advance(PATIENCE)
        reactor.delay = None
        self.turn()
        assert self.client.hear(11) == wrap_socket(ANSWER)
        assert self.lingered == []

    def __getattr__(self, name):
        return getattr(self.loop, name)

    def linger(self, epoll, most):
        """As the loop, and written down."""
        self.lingered.append((most, self.loop.linger(epoll, most)))
        return self.lingered[-1][1]

    def say(self, client):
        client.say(wrap_socket(READ))
        assert select.select([self.reader], [], [], PATIENCE)[0]

    def turn(self):
        self.say(self.client)
        self.reader.doRead()

    def close(self, reactor):
        self.reader.loop = self.loop
        reactor._poller.close()
        os.close(self.other)
        os.close(self.end)


@pytest.fixture
def brisk(serve, reactor, monkeypatch):
    made = Brisk(serve, reactor, monkeypatch)
    yield made
    made.close(reactor)


def test_requests_that_come_one_upon_another_are_answered_in_one_turn(brisk):
    assert len(brisk.answered.threads) == 1

    def ask_on():
        for _ in range(3):
            assert brisk.client.hear(11) == wrap_socket(ANSWER)
            brisk.client.say(wrap_socket(READ))
        assert brisk.client.hear(11) == wrap_socket(ANSWER)
        os.write(brisk.end, b"x")

    asking = threading.Thread(target=ask_on)
    asking.start()
    brisk.turn()
    asking.join()
    assert len(brisk.answered.threads) == 5
    assert brisk.lingered == [(PATIENCE, True)] * 3 + [(PATIENCE, False)]


def test_a_turn_is_over_when_its_time_is(brisk):
    def takes_its_time(count):
        brisk.clock.advance(PATIENCE / 2)
        return [5] * count

    def ask_on():
        for _ in range(2):
            assert brisk.client.hear(11) == wrap_socket(ANSWER)
            brisk.client.say(wrap_socket(READ))

    brisk.answered.outcome = takes_its_time
    asking = threading.Thread(target=ask_on)
    asking.start()
    brisk.turn()
    asking.join()
    assert brisk.lingered == [(PATIENCE / 2, True), (0, False)]


def test_what_else_wants_the_reactor_ends_its_turn(brisk, reactor):
    os.write(brisk.end, b"x")
    brisk.turn()
    assert brisk.client.hear(11) == wrap_socket(ANSWER)
    brisk.say(brisk.client)
    assert not brisk.loop.linger(reactor._poller.fileno(), PATIENCE), "though the loop wants something, too"
    os.read(brisk.other, 1)
    reactor.delay = 0
    brisk.reader.doRead()
    assert brisk.client.hear(11) == wrap_socket(ANSWER)
    reactor.delay = 0.001
    brisk.turn()
    assert len(brisk.answered.threads) == 4
    assert brisk.lingered == [(PATIENCE, False), (0, False), (0.001, False)]


def test_a_loop_that_is_stopped_is_not_waited_for(brisk, reactor):
    epoll = reactor._poller.fileno()
    for _ in range(2):
        brisk.say(brisk.client)
        brisk.loop.attend()
        assert brisk.client.hear(11) == wrap_socket(ANSWER)
    assert not brisk.loop.linger(epoll, 0.001), "it wants nothing"
    brisk.say(brisk.client)
    assert brisk.loop.linger(epoll, PATIENCE)
    assert not brisk.loop.linger(epoll, 0)
    assert not brisk.loop.linger(epoll, -1)
    brisk.loop.stop()
    assert not brisk.loop.linger(epoll, PATIENCE)


def test_masters_that_take_turns_are_not_waited_for(brisk, reactor):
    one, other, waited = brisk.client, brisk.served.connect(), []
    brisk.say(one)
    for client, following in pairwise([one, other, other, one, one, one]):
        brisk.loop.attend()
        assert client.hear(11) == wrap_socket(ANSWER)
        brisk.say(following)
        waited.append(brisk.loop.linger(reactor._poller.fileno(), PATIENCE))
    assert waited == [True, False, True, False, True]


@pytest.mark.parametrize("together", [True, False])
def test_behind_what_has_come_together_or_asks_nothing_nobody_waits(brisk, reactor, together):
    others = [brisk.served.connect() for _ in range(3)] if together else []
    for client in others[:2]:
        client.say(wrap_socket(READ))
    for client in others[2:]:
        # The loop has them in their order.
        client.say(wrap_socket(COILS))
        assert client.hear(10) == wrap_socket(COILS_ANSWER)
    brisk.loop.attend()
    for client in others[:2]:
        assert client.hear(11) == wrap_socket(ANSWER)
    brisk.say(brisk.client)
    assert not brisk.loop.linger(reactor._poller.fileno(), PATIENCE)


def test_an_answer_that_comes_later_is_not_waited_for_in_the_reactors_place(brisk, reactor):
    os.write(brisk.end, b"x")
    brisk.turn()
    later = Deferred()
    brisk.answered.outcome = lambda count: later
    brisk.turn()
    os.read(brisk.other, 1)
    brisk.say(brisk.served.connect())
    assert not brisk.loop.linger(reactor._poller.fileno(), PATIENCE)
    later.callback([5])


def test_an_interruption_ends_the_turn(brisk, reactor, caplog):
    reactor.timeout = lambda: raising(KeyboardInterrupt())(0)
    brisk.turn()
    assert brisk.client.hear(11) == wrap_socket(ANSWER)
    assert "a signal's handler has interrupted the reactor" in caplog.text
    brisk.answered.outcome = raising(KeyboardInterrupt())
    brisk.turn()
    assert brisk.client.is_closed()
    assert brisk.lingered == []


def test_a_reactor_that_has_no_poller_has_its_turn():
    epoll = EPollReactor()
    assert network.poller_of(epoll) is epoll._poller
    for other in (PollReactor(), SelectReactor(), Reactor(), SimpleNamespace(_poller=epoll._poller)):
        assert network.poller_of(other) is None


def test_a_connection_that_makes_room_is_told_of(serve, reactor, caplog):
    served = serve(max_connections=2)
    for _ in range(3):
        served.ask(served.connect(), READ, ANSWER)
    reactor.turn_until(lambda: "all 2 connections of max_connections= are taken" in caplog.text)
    assert served.clients[0].is_closed()


def test_a_server_does_without_the_table_of_hosts_where_no_script_has_loaded_it(serve, monkeypatch):
    monkeypatch.delitem(sys.modules, "mbcore.device")
    served = serve()
    served.ask(served.connect(), READ, ANSWER)
    assert "mbcore.device" not in sys.modules


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
    access_control.remove("127.0.0.1")
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
    addresses = []

    def refuse(thread):
        addresses.append(reactor.ports[0].getHost())
        raise RuntimeError("can't start new thread")

    server_blocks.clear()
    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        Served(reactor)
    assert not reactor.readers
    assert not server_blocks
    [address] = addresses
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((address.host, address.port))


@pytest.mark.parametrize(("start", "name", "kind"), [(StartTcpServer, "TcpServer", "TCP"), (StartUdpServer, "UdpServer", "UDP")])
def test_a_system_that_gives_a_loop_no_more_descriptors_is_told_of_and_the_port_is_free_at_once(reactor, monkeypatch, start, name, kind):
    reactor.running = False
    make, ports = getattr(network, name)._make_loop, []

    def refuse(server):
        ports.append(server._port.getHost().port)
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(getattr(network, name), "_make_loop", refuse)
    sentence = f"{kind} port 0 cannot be opened: Too many open files; raise the limit of this process, by LimitNOFILE= in its service unit"
    with pytest.raises(LineError, match=sentence) as caught:
        start(address=("127.0.0.1", 0), reactor=reactor, defer_reactor_run=True)
    assert caught.value.errno == errno.EMFILE
    monkeypatch.setattr(getattr(network, name), "_make_loop", make)
    start(address=("127.0.0.1", ports[0]), reactor=reactor, defer_reactor_run=True).stop()
    reactor.advance(0)


# ---- when the loop begins -------------------------------------------------------------------------------------------------------------


def test_the_loop_begins_with_the_reactor(reactor):
    reactor.running = False
    served = Served(reactor)
    client = served.connect()
    client.say(wrap_socket(READ))
    assert not served.threads()
    reactor.running = True
    reactor.advance(0)
    assert client.hear(11) == wrap_socket(ANSWER)
    served.stop()


def test_a_server_that_another_process_has_begun_to_serve(reactor, caplog):
    reactor.running = False
    served = Served(reactor)
    [reader] = reactor.readers
    child, end = in_a_fork(reader.loop.claim)
    try:
        refusal = f"another process serves this server, which it shares with process {os.getpid()} since a fork"
        with pytest.raises(RuntimeError, match=refusal):
            reader.loop.stop()
        reactor.running = True
        reactor.advance(0)
        reader.doRead()
        assert not served.threads()
        sentence = f"another process serves a server that it shares with process {os.getpid()} since a fork"
        assert [sentence in record.getMessage() for record in caplog.records if record.levelno == logging.ERROR] == [True]
    finally:
        end()
    assert os.waitpid(child, 0)[1] == 0
    # It has come too late for good.
    with pytest.raises(RuntimeError, match=refusal):
        _ = served.handle.alive
    served.handle.stop()
    assert "did not close cleanly: another process" in caplog.text
    reactor.ports[-1].stopListening()


def test_a_server_whose_process_has_ended_is_served_by_the_next_one(reactor):
    reactor.running = False
    served = Served(reactor)
    [reader] = reactor.readers
    child, end = in_a_fork(reader.loop.claim)
    assert reader.loop.elsewhere
    end()
    assert os.waitpid(child, 0)[1] == 0
    reactor.running = True
    reactor.advance(0)
    client = served.connect()
    client.say(wrap_socket(READ))
    assert client.hear(11) == wrap_socket(ANSWER)
    served.stop()


def in_a_fork(claim):
    """The process id of a fork that has the claim, and a function that ends it."""
    claimed, tell = os.pipe()
    wait, end = os.pipe()
    child = os.fork()
    if not child:
        status = 2
        try:
            os.close(end)
            if claim():
                os.write(tell, b"1")
                os.read(wait, 1)
                status = 0
        finally:
            os._exit(status)
    os.close(tell)
    assert os.read(claimed, 1) == b"1"
    os.close(claimed)
    os.close(wait)
    return child, lambda: os.close(end)


def test_a_server_that_is_stopped_before_the_reactor_runs(reactor):
    reactor.running = False
    served = Served(reactor)
    assert served.handle.alive, "it is not late"
    served.stop()
    reactor.advance(0)
    assert not served.threads()


def test_a_system_that_gives_no_thread_later_has_twisted(reactor, monkeypatch, caplog):
    def refuse(thread):
        raise RuntimeError("can't start new thread")

    reactor.running = False
    served = Served(reactor)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    reactor.advance(0)
    assert served.handle.engine is False
    assert reactor.readers == set(reactor.ports)
    assert "has no thread of its own (can't start new thread): Twisted carries its bytes" in caplog.text
    served.stop()


# ---- what a script does later ---------------------------------------------------------------------------------------------------------


def test_connections_are_told_of_in_order(reactor, caplog):
    told = []

    def trace_connect(connected):
        told.append(connected)
        if len(told) == 1:
            raise ValueError("a slip")

    served = Served(reactor, trace_connect=trace_connect, max_connections=2)
    for _ in range(3):
        served.ask(served.connect(), READ, ANSWER)
    served.clients[1].socket.close()
    reactor.turn_until(lambda: len(told) == 5)
    assert told == [True, True, False, True, False]
    assert "trace_connect failed" in caplog.text
    served.stop()
    assert told == [True, True, False, True, False, False]


def test_a_hook_that_is_set_later_is_told_from_then_on(serve, reactor):
    served, told = serve(), []
    first = served.connect()
    served.ask(first, READ, ANSWER)
    served.handle.factory.trace_connect = told.append
    served.ask(served.connect(), READ, ANSWER)
    first.socket.close()
    reactor.turn_until(lambda: len(told) == 2)
    assert told == [True, False]
    served.handle.factory.trace_connect = None
    served.ask(served.connect(), READ, ANSWER)
    until(lambda: not reactor.turn(0))
    assert told == [True, False]


def test_what_sessions_are_made_of_holds_for_the_connections_to_come(serve):
    served = serve()
    before = served.connect()
    served.ask(before, READ, ANSWER)
    served.handle.factory.framer = "rtu"
    client = served.connect()
    client.say(wrap_rtu(READ))
    assert served.take(client, 7) == wrap_rtu(ANSWER)
    served.handle.factory.framer = None
    served.handle.factory.ignore_missing_slaves = True
    client = served.connect()
    client.say(wrap_socket(READ, 9) + wrap_socket(READ, 1))
    assert served.take(client, 11) == wrap_socket(ANSWER)
    served.ask(before, READ, ANSWER)
    served.handle.factory.decoder.register(SumRequest)
    served.ask(served.connect(), pdu("37 0000 0003"), pdu("37 02 0012"))


@pytest.mark.parametrize(
    ("name", "value"),
    [("store", None), ("trace_packet", hook), ("trace_pdu", hook), ("max_connections", 5), ("idle_timeout", 1.0), ("framer", OwnFramer)],
)
def test_what_a_loop_has_begun_with_cannot_be_changed(serve, name, value):
    served = serve()
    before = getattr(served.handle.factory, name)
    with pytest.raises(ConfigurationError, match=f"{name} can't be changed while a compiled loop serves: .* engine=False"):
        setattr(served.handle.factory, name, value)
    setattr(served.handle.factory, name, before)
    assert getattr(served.handle.factory, name) == before


def test_a_framer_that_is_none(serve):
    with pytest.raises(ConfigurationError, match="the framer is 5"):
        serve().handle.factory.framer = 5


def test_connections_are_counted_and_closed_and_have_no_protocols(serve, reactor):
    served = serve()
    for number in range(3):
        served.ask(served.connect(), READ, ANSWER)
        assert served.handle.connections == number + 1
    with pytest.raises(ConfigurationError, match="the connections are the compiled loop's"):
        _ = served.handle.factory.connections
    for expected in (3, 0):
        assert served.handle.connections == expected
        gone = served.handle.factory.close_connections()
        reactor.turn_until(lambda gone=gone: gone.called)
    assert all(client.is_closed() for client in served.clients)
    served.ask(served.connect(), READ, ANSWER)
    twisted = StartTcpServer(engine=False, reactor=Reactor(), defer_reactor_run=True)
    assert twisted.connections == 0
    twisted.stop()


def test_who_waits_for_the_last_connection_is_told_though_another_one_has_come(serve, reactor):
    served = serve()
    client = served.connect()
    served.ask(client, READ, ANSWER)
    gone = served.handle.factory.close_connections()
    assert client.is_closed()
    # A master that connects again at once, before the reactor has its turn.
    client = served.connect()
    client.say(wrap_socket(READ))
    assert client.hear(11) == wrap_socket(ANSWER)
    reactor.turn_until(lambda: gone.called)
    served.ask(client, READ, ANSWER)
    assert served.handle.connections == 1


def test_who_waits_for_a_connection_to_be_cut_is_told_though_another_one_has_come(serve, reactor):
    served = serve(block(range(125)))
    deaf, client = served.connect(), served.connect()
    fill(deaf, wrap_socket(pdu("03 0000 007D")))
    gone = served.handle.factory.close_connections()
    assert client.is_closed()
    client = served.connect()
    served.ask(client, READ, pdu("03 02 0000"))
    reactor.turn_until(lambda: gone.called)
    served.ask(client, READ, pdu("03 02 0000"))
    assert served.handle.connections == 1


def test_values_that_observers_were_not_told_are_counted(reactor):
    served, heard = Served(reactor), []
    served.context.add_observer(lambda *write: heard.append(write))
    client = served.connect()
    for _ in range(1100):
        client.say(wrap_socket(WRITTEN))
        assert client.hear(12) == wrap_socket(WRITTEN)
    assert reactor.turn()
    assert (len(heard), served.handle.coalesced) == (1025, 75)
    served.stop()
    assert served.handle.coalesced == 75


class Counting:
    """A loop's counters."""

    evicted = emptied = refused = turned_away = count = dropped = undelivered = broken = 0
    # Its context's.
    lost = 0
    news = property(lambda self: -1 - self.evicted - self.refused - self.lost - self.dropped - self.undelivered - self.broken)
    refusal = errno.EMFILE
    elsewhere = False
    undelivered_peer = "192.0.2.7:1502"

    def attend(self):
        return []


def test_what_a_loop_counts_is_logged_now_and_then(serve, reactor, caplog, monkeypatch):
    served = serve()
    [reader] = reactor.readers
    counting = Counting()
    monkeypatch.setattr(reader, "loop", counting)
    monkeypatch.setitem(vars(served.handle.factory), "store", counting)
    for number in (1, 2, 7, 25, 25, 99, 150):
        counting.refused = counting.lost = counting.evicted = number
        reader.doRead()
    said = [record.getMessage() for record in caplog.records]
    for sentence in (
        "connections cannot be accepted: Too many open files; raise the limit",
        "values that masters have written are not told to observers",
        "closing the one unused for longest",
    ):
        numbers = [line.split("(")[-1].split()[0] for line in said if sentence in line]
        assert numbers == ["1", "25", "150"], sentence
    monkeypatch.undo()
    assert served.handle.factory.carrier is reader


# ---- UDP ------------------------------------------------------------------------------------------------------------------------------


class UdpServed:
    def __init__(self, reactor, hr=None, **options):
        self.reactor = reactor
        self.context = units(u1=image(hr=block([5, 6, 7]) if hr is None else hr, co=block([0] * 100)))
        self.handle = StartUdpServer(self.context, address=("127.0.0.1", 0), reactor=reactor, defer_reactor_run=True, **options)
        self.client = UdpClient(("127.0.0.1", self.handle.port))

    def ask(self, request, answer):
        self.client.say(wrap_socket(request))
        while not select.select([self.client.socket], [], [], 0.01)[0]:
            self.reactor.turn(0)
        assert self.client.hear() == wrap_socket(answer)

    def stop(self):
        stopped = self.handle.stop()
        self.reactor.advance(0)
        assert stopped.called
        self.client.socket.close()
        assert not self.reactor.readers
        assert not self.reactor.getDelayedCalls()


@pytest.fixture
def serve_udp(request, reactor):
    def start(*args, **options):
        served = UdpServed(reactor, *args, **options)
        request.addfinalizer(served.stop)
        return served

    return start


def test_datagrams_are_served_without_the_reactor(serve_udp, reactor):
    served = serve_udp()
    assert served.handle.engine is True
    assert served.handle.connections == 0
    # Sessions are made ahead.
    reactor.turn()
    served.client.ask(READ, ANSWER)
    assert not reactor.turn(0)
    [reader] = reactor.readers
    assert reader.logPrefix().startswith("UdpServer on")


def test_a_udp_server_whose_process_has_ended_is_served_by_the_next_one(reactor):
    """The one that has ended has heard what was to wake the loop."""
    reactor.running = False
    served = UdpServed(reactor)
    [reader] = reactor.readers

    def serve_for_a_while():
        thread = threading.Thread(target=reader.loop.run)
        thread.start()
        until(reader.loop.knock)
        reader.loop.stop()
        thread.join()
        return True

    child, end = in_a_fork(serve_for_a_while)
    end()
    assert os.waitpid(child, 0)[1] == 0
    reactor.running = True
    reactor.advance(0)
    served.client.ask(READ, ANSWER)
    served.stop()


def test_a_udp_server_tells_of_its_port(reactor):
    told = []
    served = UdpServed(reactor, trace_connect=told.append)
    served.ask(READ, ANSWER)
    served.handle.factory.trace_connect = told.append
    served.stop()
    assert told == [True, False]


def test_a_datagram_whose_answer_comes_later(serve_udp, reactor):
    asked = Asked()
    served = serve_udp(asked)
    served.client.say(wrap_socket(READ))
    reactor.turn_until(lambda: asked.calls)
    [timer] = reactor.getDelayedCalls()
    assert timer.getTime() - reactor.seconds() > 2.5
    asked.answer([7])
    assert served.client.hear() == wrap_socket(pdu("03 02 0007"))
    served.client.say(wrap_socket(READ))
    reactor.turn_until(lambda: len(asked.calls) == 2)
    reactor.advance(3)
    assert served.client.hear() == wrap_socket(refused(3, 0x0B))


def test_datagrams_of_a_host_that_is_not_let_in(serve_udp, reactor, access_control):
    served = serve_udp()
    access_control.add("10.0.0.0/8")
    access_control.remove("127.0.0.1")
    # An answer to it would be heard first.
    served.client.say(wrap_socket(READ, 1, 77))
    reactor.turn_until(lambda: served.handle.factory.refused == 1)
    access_control.add("127.0.0.1")
    served.ask(READ, ANSWER)
    assert served.client.hears_nothing()


@pytest.mark.parametrize("start", ["serve", "serve_udp"])
def test_a_host_in_the_table_is_served_while_the_reactor_is_held_up(request, access_control, start):
    served = request.getfixturevalue(start)()
    access_control.add("127.0.0.0/31")
    access_control.remove("127.0.0.1")
    clients = [served.client] * 5 if start == "serve_udp" else [served.connect() for _ in range(5)]
    for client in clients:
        client.say(wrap_socket(READ))
        assert client.hear(*([11] if start == "serve" else [])) == wrap_socket(ANSWER)
    assert served.handle.factory.refused == 0


def test_a_removal_holds_for_the_next_datagram(serve_udp, reactor, access_control):
    served = serve_udp()
    access_control.add("10.0.0.0/8")
    for number in range(1, 6):
        access_control.add("127.0.0.1")
        served.client.ask(READ, ANSWER)
        access_control.remove("127.0.0.1")
        served.client.say(wrap_socket(READ))
        reactor.turn_until(lambda number=number: served.handle.factory.refused == number)
    assert served.client.hears_nothing()


@pytest.mark.parametrize("before", [True, False], ids=["before the start", "before an addition"])
@pytest.mark.parametrize("start", ["serve", "serve_udp"])
def test_a_rule_of_the_applications_is_asked_about_everyone(request, reactor, access_control, monkeypatch, start, before):
    asked = []

    def check(self, host):
        asked.append(host)
        return len(asked) < 3

    def replace():
        monkeypatch.setattr(type(access_control), "check", check)

    access_control.add("10.0.0.1")
    if before:
        replace()
    served = request.getfixturevalue(start)()
    if not before:
        replace()
        access_control.add("10.0.0.2")
    for number in range(1, 5):
        client = served.client if start == "serve_udp" else served.connect()
        client.say(wrap_socket(READ))
        reactor.turn_until(lambda number=number: len(asked) == number)
    assert asked == ["127.0.0.1"] * 4
    assert served.handle.factory.refused == 2


def test_what_a_udp_loop_counts_is_logged_now_and_then(serve_udp, reactor, caplog, monkeypatch):
    serve_udp()
    [reader] = reactor.readers
    counting = Counting()
    counting.dropped = counting.undelivered = counting.turned_away = 7
    monkeypatch.setattr(reader, "loop", counting)
    reader.doRead()
    monkeypatch.undo()
    assert "too many requests wait for answers already; one more is dropped (7 times so far)" in caplog.text
    assert "does not have is turned away unasked, since many wait already (7 times so far)" in caplog.text
    assert "a reply to 192.0.2.7:1502 could not be sent: Too many open files (7 times so far)" in caplog.text


def test_what_a_datagrams_session_is_made_of_may_change(reactor):
    for engine in (None, False):
        served = UdpServed(reactor, engine=engine)
        served.handle.factory.framer = "rtu"
        served.client.say(wrap_rtu(READ))
        while not select.select([served.client.socket], [], [], 0.01)[0]:
            reactor.turn(0)
        assert served.client.hear() == wrap_rtu(ANSWER)
        served.stop()


def test_twisted_carries_the_datagrams(reactor):
    for options in ({"engine": False}, {"trace_packet": hook}):
        served = UdpServed(reactor, **options)
        assert served.handle.engine is False
        assert reactor.readers == {reactor.ports[-1]}
        served.ask(READ, ANSWER)
        served.stop()
    with pytest.raises(ConfigurationError, match=r"engine is True, .* but trace_packet is given"):
        UdpServed(reactor, engine=True, trace_packet=hook)
    with pytest.raises(ConfigurationError, match="listens in a way of its own"):
        StartUdpServer(engine=True, reactor=Reactor(), defer_reactor_run=True)


@pytest.mark.parametrize("start", ["serve", "serve_udp"])
def test_in_a_fork_nothing_is_done_that_the_parent_would_miss(request, reactor, caplog, monkeypatch, start):
    served = request.getfixturevalue(start)()
    [reader] = reactor.readers
    with monkeypatch.context() as patch:
        patch.setattr(reader._thread, "_loop", Forked())
        reader.doRead()
        reader.doRead()
        reader.connectionLost(LOST)
    assert caplog.text.count("another process serves a server that it shares with process") == 1
    assert not reader.loop.over
    assert served.handle.alive


# ---- what must not be lost ------------------------------------------------------------------------------------------------------------


def test_a_hook_that_stops_the_server_is_told_of_each_connection_once(reactor):
    told = []

    def trace_connect(connected):
        told.append(connected)
        if len(told) == 1:
            served.handle.stop()

    served = Served(reactor, trace_connect=trace_connect)
    for _ in range(4):
        served.connect()
    while served.handle.connections < 4:
        pass
    reactor.turn()
    for client in served.clients:
        client.socket.close()
    assert told == [True] * 4 + [False] * 4


def test_who_waits_for_the_last_connection_is_told_when_it_is_cut(serve):
    served = serve(block(range(125)))
    fill(served.connect(), wrap_socket(pdu("03 0000 007D")))
    began = time.monotonic()
    gone = served.handle.factory.close_connections()
    served.reactor.turn_until(lambda: gone.called)
    assert time.monotonic() - began >= 0.4, "it had its time to take the replies"
    assert served.handle.connections == 0


def test_observers_hear_of_the_last_writes_though_one_wants_the_program_to_end(serve):
    served, heard = serve(), []

    def observer(_unit, _table, _address, values):
        heard.extend(values)
        if len(heard) == 1:
            raise KeyboardInterrupt

    served.context.add_observer(observer)
    client = served.connect()
    for value in range(5):
        client.say(wrap_socket(b"\x06\0\1\0" + bytes([value])))
        client.hear(12)
    served.handle.stop()
    assert heard == [0, 1, 2, 3, 4]


def test_a_udp_server_that_could_not_make_a_session_once_makes_it_later(serve_udp, monkeypatch, caplog):
    served = serve_udp()
    served.ask(READ, ANSWER)
    build, failures = served.handle.factory.buildSession, [MemoryError("there is none")]

    def build_later():
        if failures:
            raise failures.pop()
        return build()

    monkeypatch.setattr(served.handle.factory, "buildSession", build_later)
    served.handle.factory.carrier.renew()
    while failures:
        assert served.reactor.turn()
    served.ask(READ, ANSWER)
    assert "there is none" in caplog.text


@pytest.mark.parametrize("name", ["max_connections", "max_connections_per_host"])
def test_no_limit_is_too_large(serve, name):
    served = serve(**{name: 1 << 40})
    served.ask(served.connect(), READ, ANSWER)


@pytest.mark.parametrize(("name", "value"), [("idle_timeout", 60), ("max_connections", 2000), ("max_connections_per_host", None)])
def test_what_is_given_once_more_changes_nothing(serve, name, value):
    served = serve(idle_timeout=60.0, max_connections=2000)
    setattr(served.handle.factory, name, value)
    with pytest.raises(ConfigurationError, match=f"{name} can't be changed"):
        setattr(served.handle.factory, name, 7)


def test_an_access_control_that_a_script_has_put_in_the_place_of_ours_is_asked(reactor, monkeypatch):
    asked = []
    monkeypatch.setattr(factory.ModbusServerBase, "access", property(lambda self: SimpleNamespace(enforced=True, check=asked.append)))
    served = Served(reactor, engine=None)
    assert served.handle.engine is False
    with pytest.raises(ConfigurationError, match=r"ModbusServerBase\.access has been replaced"):
        Served(reactor, engine=True)
    assert not served.handle.factory.admits("10.0.0.1")
    assert asked == ["10.0.0.1"]
    served.handle.stop()


@pytest.mark.parametrize("replaced", [(ModbusTcpProtocol, "connectionMade"), (ModbusServerFactory, "buildProtocol")])
def test_a_method_that_a_script_has_replaced_is_called(reactor, monkeypatch, replaced):
    place, name = replaced
    method, called = getattr(place, name), []

    def instead(self, *args):
        called.append(name)
        return method(self, *args)

    monkeypatch.setattr(place, name, instead)
    served = Served(reactor, engine=None)
    assert served.handle.engine is False
    with pytest.raises(ConfigurationError, match=f"{place.__name__}.{name} has been replaced"):
        Served(reactor, engine=True)
    client = served.connect()
    served.ask(client, READ, ANSWER)
    assert called == [name]
    client.socket.close()
    reactor.turn_until(lambda: not served.handle.connections)
    served.stop()


@pytest.mark.parametrize("logger", ["mbcore.server.tcp", "mbcore.server.udp", "mbcore"])
def test_a_log_of_every_message_is_twisteds(reactor, caplog, logger):
    with caplog.at_level(logging.DEBUG, logger):
        served = Served(reactor, engine=None)
    assert served.handle.engine is False
    served.handle.stop()


@pytest.mark.parametrize(
    ("name", "value"), [("broadcast_enable", True), ("ignore_missing_slaves", True), ("answer_timeout", 1.0), ("framer", ModbusRtuFramer)]
)
@pytest.mark.parametrize("base", [ModbusUdpProtocol, ModbusServerFactory])
def test_a_keyword_that_is_not_given_has_its_default_whatever_a_subclass_has(base, name, value):
    """As in pymodbus, where `__init__` sets each of them."""
    made = type("Mine", (base,), {name: value})()
    assert getattr(made, name) == getattr(base(), name) != value
    assert isinstance(made.buildSession(), Session)


def test_a_subclass_may_set_what_sessions_are_made_of_before_it_is_made():
    class Mine(ModbusUdpProtocol):
        def __init__(self):
            self.answer_timeout = 1.0
            super().__init__(answer_timeout=2.0)

    assert Mine().answer_timeout == 2.0


def test_a_subclass_may_hand_on_what_it_does_not_have():
    class Mine(ModbusServerFactory):
        def __init__(self):
            self.inner = object()
            super().__init__()

        def __getattr__(self, name):
            return getattr(self.inner, name)

    made = Mine()
    made.inner = SimpleNamespace(colour="red")
    assert made.colour == "red"
    assert isinstance(made.buildSession(), Session)


ITERATED = """
import socket
from twisted.internet import reactor
from mbcore.server import StartTcpServer

handle = StartTcpServer(address=("127.0.0.1", 0), defer_reactor_run=True)
with socket.create_connection(("127.0.0.1", handle.port), 30) as client:
    client.sendall(bytes.fromhex("0001 0000 0006 01 03 0000 0001"))
    reactor.iterate(0)
    print(handle.engine, client.recv(100).hex())
handle.stop()
"""


def test_a_reactor_that_nobody_runs_serves_when_it_turns():
    assert run_python(ITERATED) == "True 0001000000050103020000\n"


CRASHED = """
import socket, threading
from twisted.internet import reactor
from mbcore.server import StartTcpServer

handle = StartTcpServer(address=("127.0.0.1", 0), defer_reactor_run=True)

def ask(client):
    client.sendall(bytes.fromhex("0001 0000 0006 01 03 0000 0001"))
    return client.recv(100).hex()

with socket.create_connection(("127.0.0.1", handle.port), 30) as client:
    reactor.callWhenRunning(reactor.callLater, 0, lambda: (print(ask(client)), reactor.crash()))
    reactor.run()
    print(ask(client), reactor.running)
    handle.stop()
    print(client.recv(100), threading.active_count())
"""


def test_a_reactor_that_crashes_leaves_a_loop_that_serves_until_it_is_stopped():
    answer = "0001000000050103020000"
    assert run_python(CRASHED) == f"{answer}\n{answer} False\nb'' 1\n"


# ---- processes ------------------------------------------------------------------------------------------------------------------------

FORKED = """
import logging, os, socket, sys
from twisted.internet import reactor
from mbcore import ModbusSequentialDataBlock, ModbusServerContext, ModbusSlaveContext
from mbcore.server import StartTcpServer, StartUdpServer

logging.basicConfig(stream=sys.stdout, format="%(message)s")
context = ModbusServerContext(ModbusSlaveContext(hr=ModbusSequentialDataBlock(0, [7] * 10), zero_mode=True))
handles = [start(context, address=("127.0.0.1", 0), defer_reactor_run=True) for start in (StartTcpServer, StartUdpServer)]
tcp, udp = (("127.0.0.1", handle.port) for handle in handles)
READ = bytes.fromhex("0001 0000 0006 01 03 0000 0001")

def ask():
    with socket.create_connection(tcp, 30) as stream, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        stream.sendall(READ)
        assert len(stream.recv(100)) == 11
        datagrams.settimeout(30)
        datagrams.sendto(READ, udp)
        assert len(datagrams.recv(100)) == 11

def fork():
    kept = socket.create_connection(tcp, 30)
    kept.sendall(READ)
    assert len(kept.recv(100)) == 11
    child = os.fork()
    if not child:
        kept.close()
        print(context[0].getValues(3, 0, 1), [handle.connections for handle in handles], flush=True)
        for handle in handles:
            handle.stop()
        for reader in list(reactor.getReaders()):
            if "Server" in reader.logPrefix():
                for _ in range(2):
                    reader.doRead()
                try:
                    reader.loop.stop()
                except RuntimeError as error:
                    print(str(error)[:8], flush=True)
        os._exit(0)
    os.waitpid(child, 0)
    ask()
    kept.sendall(READ)
    assert len(kept.recv(100)) == 11
    kept.close()
    print("served", [handle.engine for handle in handles], flush=True)
    reactor.stop()

reactor.callWhenRunning(reactor.callLater, 0.01, fork)
reactor.run()
"""


def test_a_fork_does_not_serve_and_says_so():
    said = run_python(FORKED).splitlines()
    assert said[0] == "[7] [0, 0]"
    assert said[-1] == "served [True, True]"
    refusals = [line for line in said if "did not close cleanly: another process serves this server, which it shares with process" in line]
    assert {line[:3] for line in refusals} == {"TCP", "UDP"}
    assert len([line for line in said if "another process serves a server that it shares with process" in line]) == 2
    assert said.count("another ") == 2


DAEMON = """
import os, socket, sys
from twisted.internet import reactor
from mbcore.server import StartTcpServer, StartUdpServer
handle = StartTcpServer(address=("127.0.0.1", 0), defer_reactor_run=True)
there, here = os.pipe()
if os.fork():
    os.close(here)
    os._exit(0 if os.read(there, 10) == b"12" else 1)

def ask():
    with socket.create_connection(("127.0.0.1", handle.port), 30) as client:
        client.sendall(bytes.fromhex("0001 0000 0006 01 08 0000 A537"))
        os.write(here, b"%d" % len(client.recv(100)))
    reactor.callFromThread(reactor.stop)

reactor.callWhenRunning(reactor.callInThread, ask)
reactor.run()
"""


def test_a_process_that_becomes_a_daemon_before_the_reactor_runs_serves():
    assert run_python(DAEMON) == ""


PREFORKED = """
import logging, os, signal, socket, sys
from twisted.internet import reactor
from mbcore import ModbusSequentialDataBlock, ModbusServerContext, ModbusSlaveContext
from mbcore.server import StartTcpServer

class Block(ModbusSequentialDataBlock):
    def getValues(self, address, count=1):
        return list(os.getpid().to_bytes(4)) * (count // 4)

context = ModbusServerContext(ModbusSlaveContext(hr=Block(0, [0] * 10), zero_mode=True))
handle = StartTcpServer(context, address=("127.0.0.1", 0), defer_reactor_run=True)
there, here = os.pipe()

def begun():
    try:
        word = handle.alive
    except RuntimeError as error:
        word = str(error)
    os.write(here, f"{os.getpid()} turns: {word}\\n".encode())

children = [os.fork()]
if children[0]:
    children.append(os.fork())
if not all(children):
    signal.alarm(60)
    logging.basicConfig(stream=os.fdopen(here, "w"), format="%(process)d says: %(message)s")
    reactor.callWhenRunning(reactor.callLater, 0, begun)
    reactor.run()
os.close(here)
lines = os.fdopen(there)
left = len(children)
while left:
    line = lines.readline().replace(str(children[0]), "A").replace(str(children[1]), "B")
    assert line, "a process has ended"
    print(line, end="")
    left -= " turns: " in line
for _ in range(10):
    with socket.create_connection(("127.0.0.1", handle.port), 30) as client:
        client.sendall(bytes.fromhex("0001 0000 0006 01 03 0000 0004"))
        pid = int.from_bytes(client.recv(100)[10::2])
        print("AB"[children.index(pid)], "answers")
for child in children:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
"""


def test_of_processes_that_are_forked_before_the_reactor_runs_one_serves_and_the_others_say_so():
    said = run_python(PREFORKED).splitlines()
    serves = said[-1][0]
    other = "AB".replace(serves, "")
    assert said[-10:] == [f"{serves} answers"] * 10
    assert f"{serves} turns: True" in said
    [logged] = [line for line in said if "says" in line]
    assert logged.startswith(f"{other} says: another process serves a server that it shares with process {other} since a fork: make")
    [begun] = [line for line in said if line.startswith(f"{other} turns: ")]
    assert f"another process serves this server, which it shares with process {other} since a fork" in begun
    assert len(said) == 13


RESPAWNED = """
import os, signal, socket
from twisted.internet import reactor
from mbcore import ModbusSequentialDataBlock, ModbusServerContext, ModbusSlaveContext
from mbcore.server import StartTcpServer

class Block(ModbusSequentialDataBlock):
    def getValues(self, address, count=1):
        return list(os.getpid().to_bytes(4))

context = ModbusServerContext(ModbusSlaveContext(hr=Block(0, [0] * 10), zero_mode=True))
handle = StartTcpServer(context, address=("127.0.0.1", 0), defer_reactor_run=True)
for _ in range(3):
    child = os.fork()
    if not child:
        reactor.run()
    with socket.create_connection(("127.0.0.1", handle.port), 30) as client:
        client.sendall(bytes.fromhex("0001 0000 0006 01 03 0000 0004"))
        print(int.from_bytes(client.recv(100)[10::2]) - child)
    try:
        print(handle.alive)
    except RuntimeError:
        print("elsewhere")
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
"""


def test_a_process_takes_the_place_of_one_that_was_killed():
    assert run_python(RESPAWNED).split() == ["0", "elsewhere"] * 3


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




def test_a_loop_that_turns_is_told_from_one_that_hangs(serve, reactor):
    handle = serve().handle
    for _ in range(20):
        assert handle.alive
    [carrier] = reactor.readers
    now = [1000.0]
    handle.factory.seconds = lambda: now[0]
    held, real, deaf = carrier._thread, carrier._thread._loop, Deaf()
    held._loop = deaf
    assert handle.alive
    deaf.hears = False
    for passed, alive in ((0, True), (thread.DEAF, True), (thread.DEAF + 0.1, False)):
        now[0] = 1000 + passed
        assert handle.alive is alive, passed
    deaf.hears = True
    assert handle.alive
    deaf.over = True
    assert not handle.alive
    held._loop = real


def test_a_server_that_is_stopped_is_not_alive(reactor):
    served = Served(reactor)
    served.stop()
    assert not served.handle.alive
