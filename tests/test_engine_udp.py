"""The compiled loop of datagrams, over a real socket: whatever clients send, whatever Python does."""

import errno
import select
import socket
import threading

import pytest
from adu import all_there_is, pdu, refused, wrap_ascii, wrap_rtu, wrap_socket
from test_answers_later import Asked
from test_engine_serial import REQUESTS, Told, raising, store, until, watched

from mbcore import ModbusAsciiFramer, ModbusRtuFramer, ModbusSocketFramer
from mbcore.engine.udp import UdpLoop
from mbcore.session import Session

pytestmark = pytest.mark.live

PATIENCE = 30
READ, ANSWER = pdu("03 0000 0001"), pdu("03 02 0005")
COILS, COILS_ANSWER = pdu("01 0000 0008"), pdu("01 01 00")


class Client:
    def __init__(self, address, family=socket.AF_INET, host=None):
        self.socket = socket.socket(family, socket.SOCK_DGRAM)
        if host:
            self.socket.bind((host, 0))
        self.socket.settimeout(PATIENCE)
        self.address = address

    def say(self, data):
        self.socket.sendto(data, self.address)

    def hear(self):
        return self.socket.recv(1000)

    def ask(self, request, answer):
        self.say(wrap_socket(request))
        assert self.hear() == wrap_socket(answer)

    def hears_nothing(self):
        return not select.select([self.socket], [], [], 0)[0]


class Served:
    """A loop that runs on a port of its own."""

    def __init__(self, context=None, framer=ModbusSocketFramer, *, most=100, admit=None, start=True, host="127.0.0.1", **options):
        self.context = store() if context is None else context
        self.framer, self.options = framer, options
        self.family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.socket = socket.socket(self.family, socket.SOCK_DGRAM)
        self.socket.bind((host, 0))
        self.socket.setblocking(False)
        self.sessions, self.changed, self.clients = [], [], []
        self.loop = UdpLoop(self.socket.fileno(), self.new_session, most, admit=admit)
        self.thread = threading.Thread(target=self.loop.run)
        if start:
            self.thread.start()

    def new_session(self):
        session = Session(self.framer, self.context, **self.options)
        session.wake = lambda: self.loop.resume(session)
        self.sessions.append(session)
        return session

    def connect(self, host=None):
        self.clients.append(Client(self.socket.getsockname(), self.family, host))
        return self.clients[-1]

    def attend(self):
        self.changed += self.loop.attend()

    def turn(self):
        """The loop wants Python and gets it."""
        assert select.select([self.loop], [], [], PATIENCE)[0]
        self.attend()

    def turn_until(self, true):
        while not true():
            self.turn()

    def hear(self, client):
        """A reply, and the loop gets what it wants of Python meanwhile."""
        while True:
            ready, _, _ = select.select([client.socket, self.loop], [], [], PATIENCE)
            assert ready
            if client.socket in ready:
                return client.hear()
            self.attend()

    def close(self):
        self.loop.stop()
        if self.thread.ident:
            self.thread.join(PATIENCE)
        for client in self.clients:
            client.socket.close()
        self.socket.close()
        assert not self.thread.is_alive()


@pytest.fixture
def serve(request):
    """serve(context, framer, **keywords of the loop and the session) -> Served"""

    def start(*args, **kwargs):
        made = Served(*args, **kwargs)
        request.addfinalizer(made.close)
        return made

    return start


@pytest.mark.parametrize(
    ("framer", "wrap"), [(ModbusSocketFramer, wrap_socket), (ModbusRtuFramer, wrap_rtu), (ModbusAsciiFramer, wrap_ascii)]
)
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_datagrams_are_answered_as_by_a_session(serve, framer, wrap, host):
    judge = Session(framer, store())
    client = serve(framer=framer, host=host).connect()
    for request in REQUESTS:
        expected = judge.datagram(wrap(request))
        client.say(wrap(request))
        assert client.hear() == expected


def test_what_is_not_exactly_one_frame_is_dropped(serve):
    served = serve()
    client = served.connect()
    one = wrap_socket(READ)
    for data in (b"", one[:-1], one[:7], one * 2, one + b"\0", one + b"\0" * 5000, b"\0" * 260, b"GET / HTTP/1.1\r\n\r\n"):
        client.say(data)
        client.ask(COILS, COILS_ANSWER)
    assert client.hears_nothing()


def test_a_damaged_frame_is_counted(serve):
    served = serve(framer=ModbusRtuFramer)
    client = served.connect()
    for _ in range(2):
        client.say(wrap_rtu(READ)[:-1] + b"\0")
        client.say(wrap_rtu(READ))
        assert client.hear() == wrap_rtu(ANSWER)
    assert sum(session.control.Counter.BusCommunicationError for session in served.sessions) == 2


def test_only_the_request_that_needs_python_waits(serve):
    told = Told()
    served = serve(store(hr=told), most=1000)
    standing, other = served.connect(), served.connect()
    for _ in range(200):
        standing.say(wrap_socket(READ))
        other.ask(COILS, COILS_ANSWER)
        standing.ask(COILS, COILS_ANSWER)
        assert served.hear(standing) == wrap_socket(pdu("03 02 1234"))
    assert set(told.threads) == {threading.get_ident()}
    assert len(served.sessions) <= 130, "they are used again"


def test_answers_that_come_later_in_another_order(serve):
    asked = Asked()
    served = serve(store(hr=asked))
    clients = [served.connect() for _ in range(3)]
    for number, client in enumerate(clients):
        client.say(wrap_socket(pdu(f"03 000{number} 0001"), 1, number))
    served.turn_until(lambda: len(asked.calls) == 3)
    assert [session.waiting for session in served.changed] == [True] * 3
    deferreds = {address: deferred for _, address, _, deferred in asked.calls}
    for number in (2, 0, 1):
        deferreds[number].callback([number])
    assert [client.hear() for client in clients] == [wrap_socket(pdu(f"03 02 000{number}"), 1, number) for number in range(3)]


def test_an_answer_that_does_not_come_is_given_up(serve):
    asked = Asked()
    served = serve(store(hr=asked))
    client = served.connect()
    client.say(wrap_socket(READ))
    served.turn_until(lambda: served.changed)
    assert served.loop.give_up(served.changed[0]) is False
    assert client.hear() == wrap_socket(refused(3, 0x0B))
    assert asked.calls[0][-1].called, "with CancelledError"


def test_more_requests_wait_than_there_may_be(serve):
    served = serve(store(hr=Told()), most=3)
    client = served.connect()
    for number in range(20):
        client.say(wrap_socket(READ, 1, number))
    until(lambda: served.loop.dropped == 17)
    client.ask(COILS, COILS_ANSWER)
    for number in range(3):
        assert served.hear(client) == wrap_socket(pdu("03 02 1234"), 1, number)
    client.say(wrap_socket(READ))
    assert served.hear(client) == wrap_socket(pdu("03 02 1234"))


@pytest.mark.parametrize("turned", [False, True])
def test_while_python_is_held_up_what_does_not_need_it_is_answered_however_many_wait(serve, turned):
    served = serve(store(hr=Told()), most=1000)
    client = served.connect()
    if turned:
        served.turn()
    # Fewer than the kernel keeps for a socket.
    for number in range(200):
        client.say(wrap_socket(READ, 1, number))
    client.ask(COILS, COILS_ANSWER)
    # As many as there are sessions, but for the one that goes on.
    kept = len(served.sessions) - 1
    assert kept >= 127 if turned else kept == 15
    assert served.loop.dropped == 200 - kept
    for number in range(kept):
        assert served.hear(client) == wrap_socket(pdu("03 02 1234"), 1, number)
    client.say(wrap_socket(READ))
    assert served.hear(client) == wrap_socket(pdu("03 02 1234"))


def test_what_ends_the_program_costs_one_reply(serve):
    told = Told(raising(KeyboardInterrupt()))
    served = serve(store(hr=told), most=2)
    client = served.connect()
    for _ in range(5):
        client.say(wrap_socket(READ))
        with pytest.raises(KeyboardInterrupt):
            served.turn_until(lambda: False)
        client.ask(COILS, COILS_ANSWER)
    assert client.hears_nothing()


def test_observers_hear_of_writes_in_order(serve):
    context, heard = watched()
    served = serve(context)
    client = served.connect()
    for number in range(1100):
        request = pdu(f"06 0001 {number:04X}")
        client.ask(request, request)
    assert heard == []
    served.turn()
    assert heard == [(1, "holding_registers", 1, [number]) for number in [*range(1024), 1099]]
    assert served.context.coalesced == 75


@pytest.mark.usefixtures("table_of_hosts")
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_only_who_is_let_in_is_answered(serve, host):
    outcome, asked = [True], []

    def admit(host):
        asked.append(host)
        return outcome[0]

    served = serve(store(hr=Told()), host=host, admit=admit, most=10)
    client = served.connect()
    for request, answer in [(COILS, COILS_ANSWER), (READ, pdu("03 02 1234"))] * 3:
        client.say(wrap_socket(request))
        assert served.hear(client) == wrap_socket(answer)
    outcome[0] = False
    for _ in range(5):
        client.say(wrap_socket(COILS))
    served.turn_until(lambda: len(asked) == 11)
    outcome[0] = True
    client.say(wrap_socket(COILS))
    served.hear(client)
    assert client.hears_nothing()
    assert asked == [host] * 12


def test_strangers_leave_room_for_requests_of_those_who_are_let_in(serve, table_of_hosts):
    asked = []
    served = serve(store(hr=Told()), admit=asked.append, most=10)
    client, stranger = served.connect(), served.connect("127.0.0.2")
    table_of_hosts((b"\x7f\0\0\1", 32))
    for _ in range(3):
        asked.clear()
        dropped, turned_away = served.loop.dropped, served.loop.turned_away
        for _ in range(20):
            stranger.say(wrap_socket(COILS))
        until(lambda turned_away=turned_away: served.loop.turned_away == turned_away + 15)
        for number in range(7):
            client.say(wrap_socket(READ, 1, number))
        until(lambda dropped=dropped: served.loop.dropped == dropped + 2)
        client.ask(COILS, COILS_ANSWER)
        for number in range(5):
            assert served.hear(client) == wrap_socket(pdu("03 02 1234"), 1, number)
        served.turn_until(lambda: len(asked) == 5)
        until(lambda: served.loop.knock())
    assert asked == ["127.0.0.2"] * 5
    assert stranger.hears_nothing()
    assert client.hears_nothing()


@pytest.mark.parametrize(
    ("host", "network"),
    [("127.0.0.1", (b"\x7f\0\0\1", 32)), ("127.0.0.1", (b"\x7f\0\0\0", 8)), ("::1", (bytes(15) + b"\1", 128)), ("::1", (bytes(16), 8))],
)
def test_who_is_in_the_table_is_answered_without_python(serve, table_of_hosts, host, network):
    """Nobody attends to the loop: the reactor is held up."""
    asked = []

    def admit(host):
        asked.append(host)
        return False

    served = serve(host=host, admit=admit, most=10)
    client = served.connect()
    table_of_hosts(network)
    for _ in range(20):
        client.ask(READ, ANSWER)
    table_of_hosts()
    client.say(wrap_socket(READ))
    served.turn_until(lambda: asked)
    assert asked == [host]
    table_of_hosts(network)
    client.ask(READ, ANSWER)
    assert client.hears_nothing()


def test_a_client_of_ip_version_4_is_let_in_on_a_socket_for_both(serve, table_of_hosts):
    served = serve(host="::", admit=lambda host: False)
    table_of_hosts((b"\x7f\0\0\0", 8))
    client = Client(("127.0.0.1", served.socket.getsockname()[1]))
    served.clients.append(client)
    client.ask(READ, ANSWER)


def test_a_reply_that_cannot_be_sent_is_counted(serve):
    """The loop reads one socket and writes it; a socket pair's other end has no address that a datagram could go to."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs:
        loop = UdpLoop(ours.fileno(), lambda: Session(ModbusSocketFramer, store()), 10)
        thread = threading.Thread(target=loop.run)
        thread.start()
        theirs.shutdown(socket.SHUT_RD)
        theirs.send(wrap_socket(READ))
        until(lambda: loop.undelivered == 1)
        assert select.select([loop], [], [], PATIENCE)[0]
        assert loop.refusal == errno.EPIPE
        loop.stop()
        thread.join(PATIENCE)


def test_new_sessions_for_the_datagrams_to_come(serve):
    served = serve()
    client = served.connect()
    client.ask(READ, ANSWER)
    served.framer = ModbusRtuFramer
    before = len(served.sessions)
    served.loop.renew()
    client.say(wrap_rtu(READ))
    assert served.hear(client) == wrap_rtu(ANSWER)
    assert len(served.sessions) > before


def test_an_end_cancels_what_a_users_code_owes(serve):
    asked = Asked()
    served = serve(store(hr=asked))
    served.connect().say(wrap_socket(READ))
    served.turn_until(lambda: served.changed)
    session = served.changed.pop()
    served.loop.stop()
    served.thread.join(PATIENCE)
    assert served.loop.over
    served.attend()
    assert served.changed == [session]
    assert not session.waiting
    assert asked.calls[0][-1].called, "with CancelledError"


def test_answers_that_are_ready_go_out_at_the_end(serve):
    told = Told()
    served = serve(store(hr=told))
    clients = [served.connect() for _ in range(10)]
    for client in clients:
        client.say(wrap_socket(READ))
    # The loop has read all of them when it answers this one.
    served.connect().ask(COILS, COILS_ANSWER)
    served.turn_until(lambda: len(told.threads) == 10)
    served.loop.stop()
    for client in clients:
        assert client.hear() == wrap_socket(pdu("03 02 1234"))


def test_a_hundred_loops_leave_nothing_behind():
    before = all_there_is()
    for number in range(100):
        served = Served()
        if number % 2:
            served.connect().ask(READ, ANSWER)
        served.close()
        del served
    until(lambda: all_there_is() == before)


def test_a_loop_is_made_once_and_with_init():
    session = Session(ModbusSocketFramer, store())
    loop = UdpLoop(0, lambda: Session(ModbusSocketFramer, store()), 10)
    with pytest.raises(TypeError, match="made once"):
        loop.__init__(0, lambda: session, 10)
    loop = UdpLoop.__new__(UdpLoop)
    for method in (loop.run, loop.attend, loop.stop, loop.renew, lambda: loop.resume(session), lambda: loop.give_up(session)):
        with pytest.raises(TypeError, match="without __init__"):
            method()
