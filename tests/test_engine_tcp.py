"""The compiled loop of TCP connections, over real sockets: whatever clients send, whatever Python does."""

import contextlib
import gc
import os
import select
import socket
import subprocess
import sys
import threading
import time

import pytest
from adu import all_there_is, block, image, pdu, refused, run_python, units, wrap_ascii, wrap_binary, wrap_rtu, wrap_socket
from live.programs import need
from live.raw import Connection
from test_answers_later import Asked
from test_custom_functions import SumRequest, decoder_of
from test_engine_serial import REQUESTS, Told, raising, sleeps, store, until, watched
from twisted.internet.defer import Deferred

from mbcore import ModbusAsciiFramer, ModbusBinaryFramer, ModbusRtuFramer, ModbusSocketFramer, ModbusSparseDataBlock
from mbcore.engine.tcp import TcpLoop
from mbcore.session import Session

pytestmark = pytest.mark.live

PATIENCE = 30
# An end at most, of which half is the loop's own limit.
END_SECONDS = 0.1
READ, ANSWER = pdu("03 0000 0001"), pdu("03 02 0005")
COILS, COILS_ANSWER = pdu("01 0000 0008"), pdu("01 01 00")
# Observers lag behind by so many writes at most.
NOTES = 1024


def write(number):
    return pdu(f"06 0001 {number:04X}")


def words_answer(value):
    return pdu(f"03 02 {value:04X}")


class Client(Connection):
    """A connection to the loop."""

    def __init__(self, address, buffer=None, source=None):
        self.socket = socket.socket()
        if source:
            self.socket.bind((source, 0))
        if buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self.socket.settimeout(PATIENCE)
        self.socket.connect(address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def say(self, data):
        self.socket.sendall(data)

    def hear(self, length):
        heard = b""
        while len(heard) < length:
            piece = self.socket.recv(length - len(heard))
            assert piece, f"closed after {heard.hex()}"
            heard += piece
        return heard

    def hears_nothing(self):
        return not select.select([self.socket], [], [], 0)[0]


class Served:
    """A loop that runs on a port of its own. `attending`: the test's thread does what it wants of Python, while it waits."""

    def __init__(
        self, context=None, framer=ModbusSocketFramer, *, most=10, idle=0.0, per_host=0, admit=None, start=True, send_buffer=None, **options
    ):
        self.context = store() if context is None else context
        self.framer, self.options = framer, options
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.listener.setblocking(False)
        if send_buffer:
            self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        self.sessions, self.changed, self.clients, self.slips = [], [], [], []
        self.told = []
        self.loop = TcpLoop(
            self.listener.fileno(), self.new_session, most, idle, per_host=per_host, admit=admit, told=self.told.append
        )
        self.thread = threading.Thread(target=self._run)
        if start:
            self.thread.start()

    def _run(self):
        self.thread_id = threading.get_native_id()
        self.loop.run()

    def new_session(self):
        if self.slips:
            raise self.slips.pop()
        session = Session(self.framer, self.context, **self.options)
        session.wake = lambda: self.loop.resume(session)
        self.sessions.append(session)
        return session

    def connect(self, source="127.0.0.1", **options):
        self.clients.append(Client(self.listener.getsockname(), source=source, **options))
        return self.clients[-1]

    def attend(self):
        self.changed += self.loop.attend()

    def wants_python(self, seconds=PATIENCE):
        return bool(select.select([self.loop], [], [], seconds)[0])

    def turn(self):
        """The loop wants Python and gets it, when it has asked for all that came to its mind."""
        assert self.wants_python()
        until(lambda: self.loop.over or sleeps(self.thread_id))
        self.attend()

    def attend_until(self, true):
        limit = time.monotonic() + PATIENCE
        while not true():
            assert time.monotonic() < limit
            if self.wants_python(0.01):
                self.attend()

    def hear(self, client, length):
        """So many bytes of the loop, which gets what it wants of Python."""
        heard = b""
        while len(heard) < length:
            ready, _, _ = select.select([client.socket, self.loop], [], [], PATIENCE)
            assert ready, f"nothing comes after {heard.hex()}"
            if self.loop in ready:
                self.attend()
            if client.socket in ready:
                piece = client.socket.recv(length - len(heard))
                assert piece, f"closed after {heard.hex()}"
                heard += piece
        return heard

    def ask(self, client, request, answer, attending=True):
        client.say(wrap_socket(request))
        expected = wrap_socket(answer)
        assert (self.hear(client, len(expected)) if attending else client.hear(len(expected))) == expected

    def join(self):
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()
        assert self.loop.over

    def close(self):
        self.loop.stop()
        if self.thread.ident:
            self.thread.join(PATIENCE)
        for client in self.clients:
            client.socket.close()
        self.listener.close()
        assert not self.thread.is_alive()


@pytest.fixture
def serve(request):
    """serve(context, framer, **keywords of the loop and the session) -> Served"""

    def start(*args, **kwargs):
        made = Served(*args, **kwargs)
        request.addfinalizer(made.close)
        return made

    return start


# ---- bytes ----------------------------------------------------------------------------------------------------------------------------

FRAMERS = {
    "socket": (ModbusSocketFramer, wrap_socket),
    "rtu": (ModbusRtuFramer, wrap_rtu),
    "ascii": (ModbusAsciiFramer, wrap_ascii),
    "binary": (ModbusBinaryFramer, wrap_binary),
}


@pytest.mark.parametrize("piece", [1, 5, 100000])
@pytest.mark.parametrize("name", FRAMERS)
def test_pipelined_requests_are_answered_as_by_a_session_however_they_are_cut(serve, name, piece):
    framer, wrap = FRAMERS[name]
    stream = b"".join(wrap(request) for request in REQUESTS) * 3
    judge = Session(framer, store()).receive(stream, 1.0)
    client = serve(framer=framer).connect()
    for start in range(0, len(stream), piece):
        client.say(stream[start : start + piece])
    assert client.hear(len(judge)) == judge
    client.socket.shutdown(socket.SHUT_WR)
    assert client.is_closed(), "nothing else was said"


def test_three_hundred_connections_at_once(serve):
    served = serve(most=300)
    clients = []
    for _ in range(300):
        clients.append(served.connect())
        if served.wants_python(0):
            served.attend()
    for number, client in enumerate(clients):
        client.say(wrap_socket(pdu("03 0000 0001"), 1, number))
    for number, client in enumerate(clients):
        assert served.hear(client, 11) == wrap_socket(ANSWER, 1, number)
    assert (served.loop.count, served.loop.accepted, served.loop.evicted) == (300, 300, 0)
    assert len(served.sessions) <= 300 + 128 + 64, "made when they are wanted"
    for client in clients:
        client.socket.close()
    until(lambda: served.loop.count == 0)


def test_a_stream_that_is_no_modbus_is_closed_behind_the_replies(serve):
    client = serve().connect()
    client.say(wrap_socket(READ) + b"GET / HTTP/1.1\r\n\r\n")
    assert client.hear(11) == wrap_socket(ANSWER)
    assert client.is_closed()


def errors_of(served):
    return sum(session.control.Counter.BusCommunicationError for session in served.sessions)


def test_a_partial_frame_of_rtu_over_tcp_is_given_up(serve):
    served = serve(framer=ModbusRtuFramer)
    client = served.connect()
    client.say(wrap_rtu(READ)[:5])
    until(lambda: errors_of(served))
    client.say(wrap_rtu(READ))
    assert client.hear(7) == wrap_rtu(ANSWER)


def test_a_silence_ends_the_noise_that_it_ends_as_one_error(serve):
    # A colon begins a frame anew; what follows it is cut off: one run of noise, as with a session that Twisted feeds.
    noise = b":0103:01"
    fed = Session(ModbusAsciiFramer, store())
    fed.receive(noise, 1.0)
    fed.expire(9.0)
    served = serve(framer=ModbusAsciiFramer)
    served.connect().say(noise)
    until(lambda: errors_of(served))
    assert errors_of(served) == fed.control.Counter.BusCommunicationError == 1


def test_a_function_that_is_unknown_is_answered_after_the_silence(serve):
    client = serve(framer=ModbusRtuFramer).connect()
    client.say(wrap_rtu(pdu("41 01 02 03")))
    assert client.hear(5) == wrap_rtu(refused(0x41, 1))


def test_a_partial_frame_that_needs_python_in_the_end(serve):
    """A user's function without a declared size: only the silence tells its end."""

    class Unsized(SumRequest):
        _rtu_frame_size = None

        @classmethod
        def calculateRtuFrameSize(cls, data):
            return 8

    served = serve(framer=ModbusRtuFramer, decoder=decoder_of(Unsized))
    client = served.connect()
    client.say(wrap_rtu(pdu("37 0000 0003")))
    assert served.hear(client, 7) == wrap_rtu(pdu("37 02 0012"))
    client.say(wrap_rtu(READ))
    assert client.hear(7) == wrap_rtu(ANSWER)


def test_who_says_nothing_for_long_is_closed(serve):
    served = serve(idle=1.0)
    began = time.monotonic()
    silent, other = served.connect(), served.connect()
    ended = threading.Event()
    waiter = threading.Thread(target=lambda: silent.is_closed() and ended.set())
    waiter.start()
    while not ended.is_set():
        served.ask(other, READ, ANSWER)
    waiter.join()
    assert time.monotonic() - began >= 1.0
    until(lambda: served.loop.count == 1)


# ---- clients that are rude ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("request_pdu", [READ, COILS])
def test_who_sends_no_more_gets_the_last_replies(serve, request_pdu):
    """Of the first a user's block answers, after the end of the stream was seen."""
    served = serve(store(hr=Told()))
    client = served.connect()
    client.say(wrap_socket(COILS) + wrap_socket(request_pdu))
    client.socket.shutdown(socket.SHUT_WR)
    last = wrap_socket(COILS_ANSWER if request_pdu == COILS else pdu("03 02 1234"))
    assert served.hear(client, 10 + len(last)) == wrap_socket(COILS_ANSWER) + last
    assert client.is_closed()
    until(lambda: served.loop.count == 0)


def test_a_client_that_does_not_read_is_not_read_and_costs_the_others_nothing(serve):
    served = serve(send_buffer=4096)
    deaf, other = served.connect(buffer=4096), served.connect()
    request, answer = wrap_socket(pdu("03 0000 007D")), wrap_socket(b"\x03\xfa" + b"".join(n.to_bytes(2) for n in [5, 6, 7, *range(122)]))
    deaf.socket.setblocking(False)
    said = b""
    count = 0
    # Until neither side's kernel takes more.
    while select.select([], [deaf.socket], [], 0.3)[1]:
        with contextlib.suppress(BlockingIOError):
            while True:
                sent = deaf.socket.send(said or request * 100)
                count += sent
                said = (said or request * 100)[sent:]
        served.ask(other, READ, ANSWER)
    until(lambda: sleeps(served.thread_id))
    deaf.socket.settimeout(PATIENCE)
    rest = said[: len(said) % len(request)]
    sender = threading.Thread(target=deaf.socket.sendall, args=(rest,))
    sender.start()
    whole = (count + len(rest)) // len(request)
    for _ in range(whole):
        assert deaf.hear(len(answer)) == answer
    sender.join()
    served.ask(deaf, READ, ANSWER)
    deaf.socket.shutdown(socket.SHUT_WR)
    assert deaf.is_closed(), "nothing else was said"


@pytest.mark.parametrize("state", ["idle", "partial", "blocked", "standing"])
def test_a_client_that_resets_its_connection(serve, state):
    told = Told()
    served = serve(store(hr=told), send_buffer=4096)
    for _ in range(20):
        client = served.connect(buffer=4096)
        if state == "partial":
            client.say(wrap_socket(COILS)[:7])
        elif state == "blocked":
            client.socket.setblocking(False)
            while select.select([], [client.socket], [], 0.02)[1]:
                client.socket.send(wrap_socket(pdu("01 0000 0008")) * 50)
        elif state == "standing":
            client.say(wrap_socket(READ))
            assert served.wants_python()
        client.reset()
        if state == "standing":
            served.attend()
    # It may have been the departure of the one before that wanted Python.
    served.attend_until(lambda: served.loop.count == 0)
    served.ask(served.connect(), COILS, COILS_ANSWER)


def test_a_flood_of_connects(serve):
    served = serve(most=10)
    first = [served.connect() for _ in range(10)]
    served.attend_until(lambda: served.loop.accepted == 10)
    for _ in range(200):
        served.connect()
    served.attend_until(lambda: served.loop.accepted == 210)
    assert (served.loop.count, served.loop.evicted) == (10, 200)
    for client in first:
        assert client.is_closed()
    for client in served.clients[-10:]:
        served.ask(client, READ, ANSWER)
    assert len(served.sessions) <= 22


def test_the_connection_unused_for_longest_makes_room(serve):
    served = serve(most=3)
    clients = [served.connect() for _ in range(3)]
    for client in (clients[0], clients[2], clients[1], clients[0]):
        served.ask(client, READ, ANSWER)
    served.ask(served.connect(), READ, ANSWER)
    assert clients[2].is_closed()
    for client in clients[:2]:
        served.ask(client, READ, ANSWER)


def test_more_connections_go_than_python_keeps_up_with(serve):
    """All stand still for Python when others take their places: the kernel keeps those waiting for which there is no place."""
    served = serve(store(hr=Told()), most=4)
    for number in range(30):
        served.connect().say(wrap_socket(READ))
        if number < 10:
            until(lambda: served.loop.accepted > number and sleeps(served.thread_id))  # noqa: B023 - called at once
    assert served.loop.accepted == 10
    served.attend_until(lambda: served.loop.accepted == 30)
    assert (served.loop.count, served.loop.evicted) == (4, 26)
    served.ask(served.connect(), READ, pdu("03 02 1234"))
    assert len(served.sessions) <= 10


# What a test's program stands between, of which a loop serves a listener.
BEFORE = """\
import ctypes, os, resource, socket, threading, time
from mbcore import ModbusServerContext, ModbusSlaveContext, ModbusSocketFramer
from mbcore.engine.tcp import TcpLoop
from mbcore.session import Session
context = ModbusServerContext(ModbusSlaveContext())
listener = socket.create_server(("127.0.0.1", 0))
listener.setblocking(False)
loop = TcpLoop(listener.fileno(), lambda: Session(ModbusSocketFramer, context), 100, admit={admit})
thread = threading.Thread(target=loop.run)
thread.start()
"""
AFTER = """\
loop.stop()
thread.join()
"""


def run_beside_a_loop(program, admit="None", **variables):
    """What `program` prints in a Python of its own, where a loop has a thread and a listener."""
    return run_python(BEFORE.format(admit=admit) + program + AFTER, **variables)


def test_descriptors_that_run_out_are_waited_for():
    said = run_beside_a_loop(
        "clients = [socket.socket() for _ in range(5)]\n"
        "highest = max(map(int, os.listdir('/proc/self/fd'))) + 1\n"
        "hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))\n"
        "for client in clients:\n"
        "    client.settimeout(10)\n"
        "    client.connect(listener.getsockname())\n"
        "    client.sendall(bytes.fromhex('000100000006 01 08 0000 A537'))\n"
        "print(len(clients[0].recv(100)), loop.accepted)\n"
        "before = time.process_time()\n"
        "time.sleep(0.3)\n"
        "print(loop.accepted, time.process_time() - before < 0.2)\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))\n"
        "print([len(client.recv(100)) for client in clients[1:]], loop.accepted)\n"
    )
    lines = said.splitlines()
    assert lines[0].startswith("12 ")
    assert lines[1].endswith("True")
    assert int(lines[1].split()[0]) < 5
    assert lines[2] == "[12, 12, 12, 12] 5"


def test_a_connection_that_cannot_be_accepted_holds_up_no_other(tmp_path):
    """accept(2) tells of errors of the network that concern one connection alone."""
    source, library = tmp_path / "failing.c", tmp_path / "failing.so"
    source.write_text(
        "#define _GNU_SOURCE\n"
        "#include <dlfcn.h>\n#include <errno.h>\n#include <sys/socket.h>\n"
        "unsigned failures;\n"
        "int accept4(int fd, struct sockaddr* address, socklen_t* length, int flags) {\n"
        "    static const int errors[] = {ECONNABORTED, EPROTO, EHOSTUNREACH, ENETDOWN, EPERM};\n"
        "    if (failures < sizeof errors / sizeof *errors) { errno = errors[failures++]; return -1; }\n"
        "    int (*real)(int, struct sockaddr*, socklen_t*, int) = dlsym(RTLD_NEXT, \"accept4\");\n"
        "    return real(fd, address, length, flags);\n"
        "}\n"
    )
    subprocess.run([need("cc", "build-essential"), "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    said = run_beside_a_loop(
        "client = socket.create_connection(listener.getsockname(), 10)\n"
        "client.sendall(bytes.fromhex('000100000006 01 08 0000 A537'))\n"
        "print(len(client.recv(100)), loop.accepted, loop.refused, ctypes.c_uint.in_dll(ctypes.CDLL(None), 'failures').value)\n",
        LD_PRELOAD=str(library),
    )
    assert said == "12 1 0 5\n"


def test_the_connections_of_one_host_make_room_among_themselves(serve):
    served = serve(per_host=2)
    others = [served.connect(source="127.0.0.2"), served.connect(source="127.0.0.3")]
    for client in others:
        served.ask(client, READ, ANSWER)
    mine = []
    for _ in range(4):
        mine.append(served.connect())
        served.ask(mine[-1], READ, ANSWER)
    for client in mine[:2]:
        assert client.is_closed()
    for client in others + mine[2:]:
        served.ask(client, READ, ANSWER)
    assert (served.loop.count, served.loop.evicted) == (4, 2)


def fill(client, request):
    """Ask until neither side's kernel takes more."""
    client.socket.setblocking(False)
    while select.select([], [client.socket], [], 0.3)[1]:
        with contextlib.suppress(BlockingIOError):
            while True:
                client.socket.send(request * 100)
    client.socket.settimeout(PATIENCE)


def test_who_takes_replies_is_not_closed_for_saying_nothing(serve):
    served, count = serve(idle=1.0, send_buffer=4096), 120
    client = served.connect(buffer=4096)
    request, answer = wrap_socket(pdu("03 0000 007D")), wrap_socket(pdu("03 FA") + bytes(250))
    began = time.monotonic()
    client.say(request * count)
    for _ in range(count):
        assert client.hear(len(answer))[6:9] == answer[6:9]
        # So slow is the link: the last of them are taken after three times the time-out.
        while time.monotonic() < began + 0.025:
            select.select([], [], [], 0.005)
        began += 0.025
    assert client.is_closed()


def test_a_client_that_is_to_go_and_does_not_read_is_cut(serve):
    served = serve(send_buffer=4096)
    deaf, other = served.connect(buffer=4096), served.connect()
    served.ask(other, READ, ANSWER)
    fill(deaf, wrap_socket(pdu("03 0000 007D")))
    before = time.monotonic()
    served.loop.disconnect()
    served.attend_until(lambda: not served.loop.count)
    assert time.monotonic() - before >= 0.4
    assert other.is_closed()
    served.ask(served.connect(), READ, ANSWER)


def test_all_are_closed_that_there_are(serve):
    """Also those that wait for Python, and for being let in."""
    asked = Asked()
    served = serve(store(hr=asked))
    idle, standing = served.connect(), served.connect()
    served.ask(idle, COILS, COILS_ANSWER)
    standing.say(wrap_socket(READ))
    served.attend_until(lambda: served.changed)
    served.loop.disconnect()
    served.attend_until(lambda: not served.loop.count and asked.calls[0][-1].called)
    assert idle.is_closed()
    assert standing.is_closed()
    served.ask(served.connect(), COILS, COILS_ANSWER)


def test_python_is_told_of_connections_in_order_and_holds_up_nobody_for_long(serve):
    served = serve(most=2)
    served.loop.trace(True)
    first = served.connect()
    first.say(wrap_socket(READ))
    assert first.hear(11) == wrap_socket(ANSWER)
    assert served.told == []
    # Far more than can be kept for Python; the kernel keeps the rest waiting.
    for _ in range(100):
        served.connect()
    until(lambda: served.loop.accepted > 10 and sleeps(served.thread_id))
    assert served.loop.accepted < 60
    served.attend_until(lambda: served.loop.accepted == 101)
    served.attend_until(lambda: len(served.told) == 200)
    assert served.told == [True, True] + [False, True] * 99
    served.loop.trace(False)
    served.ask(served.connect(), READ, ANSWER)
    assert len(served.told) == 200


def test_sessions_are_made_before_the_last_one_is_taken(serve):
    """So that many are ahead when the reactor is held up."""
    served = serve(most=100)
    for _ in range(10):
        served.ask(served.connect(), READ, ANSWER, attending=False)
    assert len(served.sessions) == 16
    served.turn()
    assert len(served.sessions) > 16
    for _ in range(16):
        served.ask(served.connect(), READ, ANSWER, attending=False)


def test_new_sessions_for_the_connections_to_come(serve):
    served = serve()
    before = served.connect()
    served.ask(before, READ, ANSWER)
    for _ in range(20):
        served.loop.renew()
        served.framer = ModbusRtuFramer if served.framer is ModbusSocketFramer else ModbusSocketFramer
        client = served.connect()
        wrap = wrap_rtu if served.framer is ModbusRtuFramer else wrap_socket
        client.say(wrap(READ))
        assert served.hear(client, len(wrap(ANSWER))) == wrap(ANSWER)
        client.socket.close()
    served.ask(before, READ, ANSWER)


# ---- who is let in --------------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("table_of_hosts")
def test_only_who_is_let_in_is_served_and_takes_a_place(serve):
    outcome, asked = [True], []

    def admit(host):
        asked.append(host)
        return outcome[0]

    served = serve(most=2, admit=admit)
    kept = [served.connect(), served.connect()]
    for client in kept:
        served.ask(client, READ, ANSWER)
    outcome[0] = False
    for _ in range(20):
        other = served.connect()
        other.say(wrap_socket(READ))
        served.turn()
        assert other.is_closed()
    for client in kept:
        served.ask(client, READ, ANSWER)
    assert (served.loop.accepted, served.loop.evicted, served.loop.count) == (2, 0, 2)
    assert asked == ["127.0.0.1"] * 22


@pytest.mark.usefixtures("table_of_hosts")
def test_an_admission_that_fails_lets_nobody_in(serve):
    def admit(host):
        raise ValueError("a slip")

    served = serve(admit=admit)
    client = served.connect()
    with pytest.raises(ValueError, match="a slip"):
        # Perhaps it wants sessions first.
        served.attend_until(lambda: False)
    assert client.is_closed()
    served.attend()


def test_who_is_in_the_table_is_served_without_python(serve, table_of_hosts):
    """Nobody attends to the loop: the reactor is held up."""
    asked = []

    def admit(host):
        asked.append(host)
        return False

    served = serve(admit=admit)
    table_of_hosts((b"\x7f\0\0\0", 31))
    kept = [served.connect(source=source) for source in ("127.0.0.1", "127.0.0.1")]
    for client in kept:
        served.ask(client, READ, ANSWER, attending=False)
    stranger = served.connect(source="127.0.0.2")
    served.attend_until(lambda: asked)
    assert asked == ["127.0.0.2"]
    assert stranger.is_closed()
    table_of_hosts()
    stranger = served.connect()
    served.attend_until(lambda: len(asked) == 2)
    assert stranger.is_closed()
    for client in kept:
        served.ask(client, READ, ANSWER, attending=False)
    assert (served.loop.accepted, served.loop.count) == (2, 2)


@pytest.mark.parametrize("turned", [False, True])
def test_strangers_leave_room_for_hosts_in_the_table(serve, table_of_hosts, turned):
    """Nobody attends to the loop while they come."""
    asked = []
    served = serve(most=100, admit=asked.append)
    if turned:
        served.turn()
    table_of_hosts((b"\x7f\0\0\1", 32))
    strangers = [served.connect(source="127.0.0.2") for _ in range(200)]
    until(lambda: served.loop.turned_away >= (120 if turned else 190))
    for _ in range(7):
        served.ask(served.connect(), READ, ANSWER, attending=False)
    assert asked == []
    served.attend_until(lambda: len(asked) + served.loop.turned_away == 200)
    assert all(client.is_closed() for client in strangers)
    assert set(asked) == {"127.0.0.2"}
    assert (served.loop.accepted, served.loop.refused) == (7, 0)


@pytest.mark.usefixtures("table_of_hosts")
def test_who_has_given_up_before_he_is_let_in_takes_nobodys_place(serve):
    served = serve(most=1, admit=lambda host: True)
    kept = served.connect()
    served.ask(kept, READ, ANSWER)
    for _ in range(5):
        # Behind the session that it takes there is another one.
        served.connect().reset()
        served.ask(kept, READ, ANSWER)
    assert (served.loop.accepted, served.loop.evicted, served.loop.count) == (1, 0, 1)


def test_without_a_table_of_hosts_nobody_is_asked():
    said = run_beside_a_loop(
        "def ask():\n"
        "    client = socket.create_connection(listener.getsockname(), 10)\n"
        "    client.sendall(bytes.fromhex('000100000006 01 08 0000 A537'))\n"
        "    return client\n"
        "print(len(ask().recv(100)))\n"
        "from mbcore.device import ModbusAccessControl\n"
        "ModbusAccessControl().add('10.0.0.0/8')\n"
        "ModbusAccessControl().remove('127.0.0.1')\n"
        "client = ask()\n"
        "import select\n"
        "while client not in select.select([loop, client], [], [])[0]:\n"  # the loop may have something else to say before
        "    loop.attend()\n"
        "try:\n"
        "    print(client.recv(100))\n"
        "except ConnectionResetError:\n"
        "    print(b'')\n",
        admit="lambda host: False",
    )
    assert said == "12\nb''\n"


# ---- Python's share -------------------------------------------------------------------------------------------------------------------


def test_a_users_block_is_asked_in_the_thread_that_attends(serve):
    told = Told()
    served = serve(store(hr=told))
    client = served.connect()
    served.ask(client, READ, pdu("03 02 1234"))
    served.ask(client, write(7), write(7))
    served.ask(client, COILS, COILS_ANSWER, attending=False)
    assert told.threads == [threading.get_ident()] * 2
    assert told.writes == [(1, [7])]


def test_only_the_connection_that_needs_python_stands_still(serve):
    served = serve(store(hr=Told()))
    standing, other = served.connect(), served.connect()
    standing.say(wrap_socket(COILS, 1, 1) + wrap_socket(READ, 1, 2) + wrap_socket(COILS, 1, 3) + wrap_socket(READ, 1, 4))
    assert standing.hear(10) == wrap_socket(COILS_ANSWER, 1, 1), "what was asked before need not wait"
    for _ in range(20):
        served.ask(other, COILS, COILS_ANSWER, attending=False)
    standing.say(wrap_socket(COILS, 1, 5))
    rest = [pdu("03 02 1234"), COILS_ANSWER] * 2
    expected = b"".join(wrap_socket(answer, 1, number) for number, answer in enumerate(rest, 2))
    # 2 is a read of the block, 3 are coils, 4 a read, 5 coils again
    assert served.hear(standing, len(expected)) == expected


def test_what_came_together_is_answered_where_someone_observes(serve):
    context, heard = watched(hr=Told())
    served = serve(context)
    client = served.connect()
    client.say((wrap_socket(READ) + wrap_socket(write(7)) + wrap_socket(COILS)) * 10)
    assert served.hear(client, 330) == (wrap_socket(pdu("03 02 1234")) + wrap_socket(write(7)) + wrap_socket(COILS_ANSWER)) * 10
    assert len(heard) == 10


def test_what_comes_while_python_has_a_connection_is_answered_next(serve):
    told = Told()
    served = serve(store(hr=told))
    client = served.connect()

    def ask_again(count):
        client.say(wrap_socket(READ) + wrap_socket(COILS))
        until(lambda: sleeps(served.thread_id))
        told.outcome = lambda count: [8] * count
        return [7] * count

    for _ in range(20):
        told.outcome = ask_again
        client.say(wrap_socket(READ))
        served.turn()
        assert served.hear(client, 32) == b"".join(map(wrap_socket, [words_answer(7), words_answer(8), COILS_ANSWER]))


def test_a_client_that_goes_while_python_has_its_connection(serve):
    told = Told()
    served = serve(store(hr=told))

    def go(count):
        client.socket.shutdown(socket.SHUT_WR)
        until(lambda: sleeps(served.thread_id))
        return [7] * count

    told.outcome = go
    for _ in range(150):
        client = served.connect()
        client.say(wrap_socket(READ))
        assert served.hear(client, 11) == wrap_socket(words_answer(7))
        until(lambda: served.loop.count == 0)
        assert client.is_closed()
    assert len(served.sessions) <= 22, "they are given back"


def peer(descriptor):
    """Whom a descriptor of this process leads to; None where it is no connection."""
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as connection:
        return connection.getpeername()


def test_a_connection_that_makes_room_while_python_answers_it(serve):
    """Its answer goes nowhere: not to one that has its descriptor now."""
    told = Told()
    served = serve(store(hr=told), most=1)
    first = served.connect()
    # None of them takes the descriptor that becomes free.
    others = [socket.socket() for _ in range(2)]
    reused = []

    def make_room(count):
        address = first.socket.getsockname()
        [descriptor] = [int(name) for name in os.listdir("/proc/self/fd") if peer(int(name)) == address]
        for number, other in enumerate(others, 1):
            other.connect(served.listener.getsockname())
            until(lambda number=number: served.loop.evicted == number and sleeps(served.thread_id))
        reused.append(peer(descriptor) == others[1].getsockname())
        return [7] * count

    told.outcome = make_room
    first.say(wrap_socket(READ))
    served.attend_until(lambda: reused)
    assert reused == [True]
    assert first.is_closed()
    assert others[0].recv(1) == b""
    others[1].setblocking(False)
    with pytest.raises(BlockingIOError):
        others[1].recv(1)
    for other in others:
        other.close()


def test_who_was_answered_last_by_python_makes_room_last(serve):
    served = serve(store(hr=Told()), most=2)
    kept, asked = served.connect(), served.connect()
    served.ask(kept, COILS, COILS_ANSWER)
    served.ask(asked, READ, pdu("03 02 1234"))
    time.sleep(0.002)
    served.ask(kept, COILS, COILS_ANSWER)
    served.connect()
    served.attend_until(lambda: served.loop.evicted == 1)
    assert asked.is_closed()
    served.ask(kept, COILS, COILS_ANSWER)


def test_answers_of_a_users_block_that_the_client_does_not_take(serve):
    served = serve(store(hr=Told()), send_buffer=4096)
    deaf, other = served.connect(buffer=4096), served.connect()
    request, answer = wrap_socket(pdu("03 0000 0064")), wrap_socket(b"\x03\xc8" + b"\x12\x34" * 100)
    sender = threading.Thread(target=deaf.say, args=(request * 400,))
    sender.start()
    for _ in range(5):
        while served.wants_python(0.05):
            served.attend()
        served.ask(other, READ, pdu("03 02 1234"))
    assert served.hear(deaf, 400 * len(answer)) == answer * 400
    sender.join()
    served.ask(deaf, READ, pdu("03 02 1234"))


def test_an_answer_waits_for_no_slow_one_of_another_connection(serve):
    told, heard = Told(), []
    served = serve(store(hr=told))
    clients = [served.connect() for _ in range(2)]
    for client in clients:
        served.ask(client, COILS, COILS_ANSWER)

    def slow(count):
        if len(told.threads) == 2:
            heard.append(clients[0].hear(11))
        return [7] * count

    told.outcome = slow
    for client in clients:
        client.say(wrap_socket(READ))
    served.turn()
    assert heard == [wrap_socket(words_answer(7))]
    assert clients[1].hear(11) == wrap_socket(words_answer(7))


def test_slow_answers_of_one_connection_leave_the_reactor_its_turn_and_do_not_wait_for_each_other(serve):
    told = Told()
    served = serve(store(hr=told))
    client = served.connect()

    def slow(count):
        time.sleep(0.002)
        return [7] * count

    told.outcome = slow
    client.say(wrap_socket(READ) * 3)
    for number in range(1, 4):
        served.turn()
        assert len(told.threads) == number
        assert client.hear(11) == wrap_socket(words_answer(7))


@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_in_a_fork_that_a_users_block_makes_nothing_is_sent(serve):
    told = Told()
    served = serve(store(hr=told))
    client = served.connect()

    def fork(count):
        if len(told.threads) == 2:
            told.child = os.fork()
            if not told.child:
                # Some descriptor of these is the one that the connection had.
                told.pairs = [socket.socketpair() for _ in range(8)]
                raise KeyboardInterrupt
        return [7] * count

    told.outcome, told.child = fork, -1
    client.say(wrap_socket(READ) * 2)
    try:
        # On a slow machine the second one has a turn of its own.
        served.attend_until(lambda: told.child != -1)
    except KeyboardInterrupt:
        sent = select.select([end for pair in told.pairs for end in pair], [], [], 0)[0]
        os._exit(bool(sent))
    assert os.waitstatus_to_exitcode(os.waitpid(told.child, 0)[1]) == 0
    assert client.hear(22) == wrap_socket(words_answer(7)) * 2


@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_a_fork_that_a_users_block_makes_and_returns_from_does_nothing_more(serve):
    """Whose host is to be let in, and whose block is asked next, is the parent's."""
    told = Told()
    served = serve(store(hr=told))
    clients = [served.connect() for _ in range(4)]
    parent = os.getpid()

    def fork(count):
        if len(told.threads) == 1:
            told.child = os.fork()
        return [7] * count

    told.outcome, told.child = fork, -1
    for client in clients:
        client.say(wrap_socket(READ) * 2)
    # Behind all of them.
    served.ask(served.connect(), COILS, COILS_ANSWER, attending=False)
    served.attend()
    if os.getpid() != parent:
        os._exit(len(told.threads) != 1)
    assert os.waitstatus_to_exitcode(os.waitpid(told.child, 0)[1]) == 0
    for client in clients:
        assert served.hear(client, 22) == wrap_socket(words_answer(7)) * 2
    assert len(told.threads) == 8


def test_a_custom_function_is_answered(serve):
    served = serve(decoder=decoder_of(SumRequest))
    client = served.connect()
    served.ask(client, pdu("37 0000 0003"), pdu("37 02 0012"))
    served.ask(client, pdu("37 0000 0011"), refused(0x37, 6))
    client.say(wrap_socket(pdu("37 0000 0010")))
    served.ask(client, READ, ANSWER)


def test_a_custom_function_behind_so_many_replies_that_their_memory_was_given_back(serve):
    served = serve(store(hr=block([0] * 125)), framer=ModbusRtuFramer, decoder=decoder_of(SumRequest))
    client = served.connect()
    client.say(128 * wrap_rtu(pdu("03 0000 007D")) + wrap_rtu(pdu("37 0000 0003")))
    heard = served.hear(client, 128 * 255 + 7)
    assert heard.endswith(wrap_rtu(pdu("37 02 0000")))


@pytest.mark.parametrize("request_pdu", [READ, write(7), pdu("37 0000 0003")], ids=["read", "write", "custom"])
def test_a_unit_that_is_taken_out_while_python_is_asked_answers_no_more_and_no_other_one_for_it(serve, request_pdu):
    told = Told()
    context = units(u1=image(hr=block([5, 6, 7])), u2=image(hr=told))
    served = serve(context, decoder=decoder_of(SumRequest))
    client = served.connect()
    client.say(wrap_socket(request_pdu, 2))
    assert served.wants_python()
    del context[2]
    expected = wrap_socket(refused(request_pdu[0], 0x0B), 2)
    assert served.hear(client, len(expected)) == expected
    assert context[1].getValues(3, 0, 3) == [5, 6, 7]
    assert not told.threads


def test_the_only_unit_may_be_another_one_when_python_is_asked_for_the_device_itself(serve):
    context = units(u1=image(hr=Told()))
    served = serve(context)
    client = served.connect()
    client.say(wrap_socket(READ, 255))
    assert served.wants_python()
    context[2] = image(hr=block([6]))
    del context[1]
    assert served.hear(client, 11) == wrap_socket(pdu("03 02 0006"), 255)


def test_a_block_that_raises_is_told_and_answered(serve):
    reports = []
    served = serve(store(hr=Told(raising(ValueError("off")))), report=lambda *report: reports.append(report))
    served.ask(served.connect(), READ, refused(3, 4))
    assert len(reports) == 1


def test_what_ends_the_program_ends_its_connection_alone(serve):
    told = Told(raising(KeyboardInterrupt()))
    served = serve(store(hr=told))
    first, second, other = served.connect(), served.connect(), served.connect()
    first.say(wrap_socket(READ))
    assert served.wants_python()
    second.say(wrap_socket(READ))
    until(lambda: sleeps(served.thread_id))
    with pytest.raises(KeyboardInterrupt):
        served.attend()
    assert first.is_closed()
    told.outcome = lambda count: [7] * count
    assert served.hear(second, 11) == wrap_socket(pdu("03 02 0007"))
    served.ask(other, COILS, COILS_ANSWER)
    until(lambda: served.loop.count == 2)


def test_an_answer_that_comes_later(serve):
    asked = Asked()
    served = serve(store(hr=asked), answer_timeout=1.0)
    client, other = served.connect(), served.connect()
    for value in range(3):
        before = time.monotonic()
        client.say(wrap_socket(READ))
        served.turn()
        session = served.changed.pop()
        assert session.waiting
        assert before + 1.0 <= session.deadline() <= time.monotonic() + 1.0
        served.ask(other, COILS, COILS_ANSWER, attending=False)
        asked.answer([value])
        assert client.hear(11) == wrap_socket(words_answer(value))
        assert not session.waiting


def test_an_answer_that_comes_later_keeps_nobody_waiting_who_has_asked_before(serve):
    asked = Asked()
    served = serve(store(hr=asked))
    asked.setValues = lambda address, values: None
    client = served.connect()
    client.say(wrap_socket(write(7)) + wrap_socket(COILS) + wrap_socket(READ) + wrap_socket(write(8)))
    served.turn()
    assert client.hear(22) == wrap_socket(write(7)) + wrap_socket(COILS_ANSWER)
    assert client.hears_nothing()
    asked.answer([9])
    assert served.hear(client, 23) == wrap_socket(words_answer(9)) + wrap_socket(write(8))


def test_an_answer_has_its_time_from_when_it_is_asked_for(serve):
    asked = Asked(("validate", "getValues"))
    served = serve(store(hr=asked), answer_timeout=1.0)
    client = served.connect()
    client.say(wrap_socket(READ))
    assert served.wants_python()
    time.sleep(0.1)
    before = time.monotonic()
    served.attend()
    session = served.changed.pop()
    assert session.deadline() >= before + 1.0
    time.sleep(0.1)
    before = time.monotonic()
    asked.answer(True)
    assert session.waiting
    assert session.deadline() >= before + 1.0
    asked.answer([9])
    assert client.hear(11) == wrap_socket(words_answer(9))


def test_an_answer_that_does_not_come_is_given_up(serve):
    asked = Asked()
    served = serve(store(hr=asked))
    client = served.connect()
    client.say(wrap_socket(READ))
    served.turn()
    session = served.changed.pop()
    assert served.loop.give_up(session) is False
    assert asked.calls[0][-1].called, "with CancelledError"
    assert client.hear(9) == wrap_socket(refused(3, 0x0B))
    assert served.loop.give_up(session) is False
    assert served.loop.resume(session) is False
    served.ask(client, COILS, COILS_ANSWER)


def test_an_answer_that_another_ones_question_brings(serve):
    """In one and the same turn the first waits, and the second one's write answers it."""
    asked = Asked()
    served = serve(store(hr=asked))
    first, second = served.connect(), served.connect()
    asked.setValues = lambda address, values: asked.answer(values)
    first.say(wrap_socket(READ))
    assert served.wants_python()
    second.say(wrap_socket(write(0x77)))
    until(lambda: sleeps(served.thread_id))
    served.attend()
    assert not any(session.waiting for session in served.changed)
    assert first.hear(11) == wrap_socket(words_answer(0x77))
    assert second.hear(12) == wrap_socket(write(0x77))


def test_an_answer_is_cancelled_when_its_connection_makes_room(serve):
    asked = Asked()
    served = serve(store(hr=asked), most=1)
    for _ in range(10):
        client = served.connect()
        client.say(wrap_socket(READ))
        served.attend_until(lambda: any(session.waiting for session in served.changed))
        waiting = [session for session in served.changed if session.waiting]
        served.changed.clear()
        other = served.connect()
        served.ask(other, COILS, COILS_ANSWER)
        assert client.is_closed()
        assert served.changed == waiting
        served.changed.clear()
        assert not waiting[0].waiting
        assert asked.calls[-1][-1].called, "with CancelledError"
    assert len(served.sessions) <= 4, "they are given back"


class Stubborn(Asked):
    """Its answers don't like to be cancelled."""

    def _asked(self, name, *args):
        def slip(deferred):
            raise ZeroDivisionError

        self.calls.append((name, *args, Deferred(slip)))
        return self.calls[-1][-1]


def test_a_canceller_that_raises_loses_no_place(serve):
    served = serve(store(hr=Stubborn()), most=1)
    for _ in range(5):
        client = served.connect()
        client.say(wrap_socket(READ))
        served.attend_until(lambda: any(session.waiting for session in served.changed))
        waiting = next(session for session in served.changed if session.waiting)
        served.changed.clear()
        other = served.connect()
        served.attend_until(lambda waiting=waiting: not waiting.waiting)
        served.ask(other, COILS, COILS_ANSWER)
    assert len(served.sessions) <= 4


def test_a_canceller_that_raises_when_the_answer_is_given_up(serve):
    served = serve(store(hr=Stubborn()))
    client = served.connect()
    client.say(wrap_socket(READ))
    served.turn()
    served.loop.give_up(served.changed.pop())
    assert client.hear(9) == wrap_socket(refused(3, 0x0B))
    served.ask(client, COILS, COILS_ANSWER)


def test_observers_hear_of_every_write_in_order(serve):
    context, heard = watched()
    served = serve(context)
    clients = [served.connect() for _ in range(3)]
    for number in range(3 * NOTES):
        served.ask(clients[number % 3], write(number), write(number), attending=number % 50 == 0)
        if number % 50 == 0:
            served.attend()
    served.attend()
    assert heard == [(1, "holding_registers", 1, [number]) for number in range(3 * NOTES)]


def test_observers_that_are_behind_hear_of_the_last_values_in_the_order_of_the_writes(serve):
    context, heard = watched()
    served = serve(context)
    client, other = served.connect(), served.connect()
    for number in range(NOTES):
        served.ask(client, write(number), write(number), attending=False)
    # The bus goes on, whatever Python does: 2..4 are written at once, 3 again, 1 again and again.
    many = pdu("10 0002 0003 06 0002 0003 0004")
    served.ask(other, many, many[:5], attending=False)
    for number in range(1000, 1200):
        served.ask(client, write(number), write(number), attending=False)
    served.ask(other, pdu("06 0003 0033"), pdu("06 0003 0033"), attending=False)
    served.ask(other, pdu("05 0007 FF00"), pdu("05 0007 FF00"), attending=False)
    assert not heard
    served.turn()
    table = "holding_registers"
    assert heard[:NOTES] == [(1, table, 1, [number]) for number in range(NOTES)]
    assert heard[NOTES:] == [(1, table, 2, [2]), (1, table, 4, [4]), (1, table, 1, [1199]), (1, table, 3, [0x33]), (1, "coils", 7, [True])]
    assert (served.context.coalesced, served.context.lost) == (200, 0)
    heard.clear()
    served.ask(client, write(5), write(5), attending=False)
    served.turn()
    assert heard == [(1, table, 1, [5])], "as it was, now that they are not behind"


def test_observers_that_are_far_behind_hear_of_every_address_in_the_order_of_the_writes(serve):
    context = units(u1=image(hr=block([0] * 2000)))
    heard = []
    context.add_observer(lambda _unit, _table, address, values: heard.append((address, values)))
    served = serve(context)
    client = served.connect()
    for number in range(NOTES):
        served.ask(client, write(number), write(number), attending=False)
    written = []
    for start in range(1800, -1, -100):
        values = [start + index for index in range(100)]
        request = pdu(f"10 {start:04X} 0064 C8") + b"".join(value.to_bytes(2) for value in values)
        served.ask(client, request, request[:5], attending=False)
        written.append((start, values))
    served.turn()
    assert heard[NOTES:] == written
    assert (served.context.coalesced, served.context.lost) == (0, 0)


def test_an_observer_that_stops_the_loop_hears_of_the_last_writes_once(serve):
    context, heard = watched()
    served = serve(context)
    context.add_observer(lambda *_: (served.loop.stop(), served.join(), served.attend()))
    client = served.connect()
    for number in range(NOTES + 3):
        served.ask(client, write(number), write(number), attending=False)
    served.turn()
    assert [values for *_, values in heard] == [[number] for number in [*range(NOTES), NOTES + 2]]


def test_what_a_late_answer_writes_is_heard_of_behind_what_was_written_before(serve):
    asked = Asked(later=("setValues",))
    served = serve(units(u1=image(hr=asked), u2=image(hr=block([0] * 3))))
    heard = []
    served.context.add_observer(lambda unit, *_: heard.append(unit))
    late, other = served.connect(), served.connect()
    late.say(wrap_socket(write(1), 1))
    served.attend_until(lambda: asked.calls)
    other.say(wrap_socket(write(2), 2))
    other.hear(12)
    asked.answer(None)
    late.hear(12)
    assert heard == [2, 1]


def test_what_an_observer_has_confirmed_is_heard_of_behind_what_was_written_before(serve):
    """It answers another one's write while the next observer has not heard of the first one, and nobody of the second one."""
    asked = Asked(later=("setValues",))
    served = serve(units(u1=image(hr=asked), u2=image(hr=block([0] * 3))))
    heard = [], []

    def first(unit, _table, _address, values):
        heard[0].append((unit, *values))
        if len(heard[0]) == 1:
            asked.answer(None)

    served.context.add_observer(first)
    served.context.add_observer(lambda unit, _table, _address, values: heard[1].append((unit, *values)))
    late, other = served.connect(), served.connect()
    late.say(wrap_socket(write(1), 1))
    served.attend_until(lambda: asked.calls)
    for number in (2, 3):
        other.say(wrap_socket(write(number), 2))
        other.hear(12)
    served.attend()
    assert late.hear(12) == wrap_socket(write(1), 1)
    assert heard == ([(2, 2), (2, 3), (1, 1)],) * 2


def test_an_observer_that_wants_the_program_to_end_costs_nobody_an_answer(serve):
    """Its write is noted while a user's block, which stands before another one that is asked, has the turn."""
    slips = [KeyboardInterrupt()]

    def observer(*_):
        if slips:
            raise slips.pop()

    def outcome(count):
        if slips:
            served.connect().say(wrap_socket(write(7), 2))
            until(lambda: served.context[2].getValues(3, 1, 1) == [7])
            until(lambda: sleeps(served.thread_id))
        return [5] * count

    served = serve(units(u1=image(hr=Told(outcome)), u2=image(hr=block([0] * 3))))
    served.context.add_observer(observer)
    first, second = served.connect(), served.connect()
    for client in (first, second):
        client.say(wrap_socket(READ))
    assert served.wants_python()
    until(lambda: sleeps(served.thread_id))
    with pytest.raises(KeyboardInterrupt):
        served.attend_until(lambda: False)
    for client in (first, second):
        assert served.hear(client, 11) == wrap_socket(ANSWER)


@pytest.mark.parametrize("place", ["an observer", "a block"])
def test_python_is_asked_once_where_it_asks_for_its_turn_in_its_turn(serve, place):
    """As a user's code does that stops the server."""
    heard, asked = [], []

    def observer(_unit, _table, _address, values):
        heard.append(*values)
        if place == "an observer":
            served.attend()

    def outcome(count):
        asked.append(count)
        if place == "a block":
            served.attend()
        return [5] * count

    served = serve(units(u1=image(hr=Told(outcome)), u2=image(hr=block([0] * 3))))
    served.context.add_observer(observer)
    writer = served.connect()
    readers = [served.connect() for _ in range(3)]
    for number in range(5):
        writer.say(wrap_socket(write(number), 2))
        writer.hear(12)
    for reader in readers:
        reader.say(wrap_socket(READ))
    until(lambda: sleeps(served.thread_id))
    served.attend()
    for reader in readers:
        assert served.hear(reader, 11) == wrap_socket(ANSWER)
    assert heard == [0, 1, 2, 3, 4]
    assert asked == [1] * 3


def test_an_observer_that_fails_loses_nothing_and_is_told_once(serve):
    context, heard = watched()
    failing = [KeyboardInterrupt(), ValueError()]

    def fail(*write):
        if failing:
            raise failing.pop(0)

    context.add_observer(fail)
    served = serve(context)
    client = served.connect()
    for number in range(3):
        served.ask(client, write(number), write(number), attending=False)
    with pytest.raises(KeyboardInterrupt):
        served.attend()
    served.turn()
    assert [values for *_, values in heard] == [[0], [1], [2]]


def grow_and_shrink_a_list(values):
    values.append(7)
    values.insert(5, 8)
    values[5:9] = [9]
    values[6:6] = [1, 2, 3]
    del values[5]
    values.pop()


def grow_and_shrink_a_dict(values):
    values[30000] = 7
    values.update({30001: 8, 5: 9})
    del values[30000]
    values.pop(30001)


@pytest.mark.parametrize(("make", "change"), [
    (lambda: block([0] * 20000), grow_and_shrink_a_list), (lambda: ModbusSparseDataBlock([0] * 20000), grow_and_shrink_a_dict)
], ids=["list", "dict"])
def test_masters_writes_stay_while_the_application_grows_and_shrinks_their_block(serve, make, change):
    held = make()
    served = serve(units(u1=image(hr=held)))
    client = served.connect()
    served.ask(client, pdu("03 0000 0001"), pdu("03 02 0000"))
    undone = []

    def ask():
        for first in range(1, 20000, 50):
            numbers = range(first, first + 50)
            client.say(b"".join(wrap_socket(pdu(f"06 0001 {n:04X}")) + wrap_socket(pdu("03 0001 0001")) for n in numbers))
            expected = b"".join(wrap_socket(pdu(f"06 0001 {n:04X}")) + wrap_socket(pdu(f"03 02 {n:04X}")) for n in numbers)
            if client.hear(len(expected)) != expected or held.getValues(1, 1) != [numbers[-1]]:
                undone.append(first)

    asking = threading.Thread(target=ask)
    asking.start()
    turns = 0
    while asking.is_alive():
        change(held.values)
        turns += 1
    assert turns > 1, "the application had its turns"
    assert not undone


def test_a_busy_block_leaves_the_reactor_its_turn(serve):
    """Clients that ask again at once get no further than what was asked when Python began."""
    told = Told()
    served = serve(store(hr=told))
    clients = [served.connect() for _ in range(3)]

    def ask_again(count):
        for client in clients:
            client.say(wrap_socket(READ))
        until(lambda: sleeps(served.thread_id))
        return [0x1234] * count

    for client in clients:
        client.say(wrap_socket(READ) * 5)
    until(lambda: served.loop.accepted == 3 and sleeps(served.thread_id))
    told.outcome = ask_again
    served.attend()
    asked = len(told.threads)
    assert 3 <= asked <= 15
    told.outcome = lambda count: [0x1234] * count
    for client in clients:
        assert served.hear(client, (5 + asked) * 11) == wrap_socket(pdu("03 02 1234")) * (5 + asked)


def test_what_came_together_is_answered_together(serve):
    """As far as a millisecond gets."""
    told = Told()
    served = serve(store(hr=told))
    client = served.connect()

    def all_in_one_turn():
        told.threads.clear()
        client.say(wrap_socket(READ) * 5)
        served.turn()
        count = len(told.threads)
        assert served.hear(client, 55) == wrap_socket(pdu("03 02 1234")) * 5
        return count == 5

    assert any(all_in_one_turn() for _ in range(100))


OUTSIDE = """
import mmap, socket, sys
port, shared = int(sys.argv[1]), mmap.mmap(int(sys.argv[2]), 1)
asked, answer = map(bytes.fromhex, sys.argv[3:])
client = socket.create_connection(("127.0.0.1", port), 10)
print("ready", flush=True)
while not shared[0]:
    pass
for number in range(100):
    client.sendall(asked)
    heard = b""
    while len(heard) < len(answer):
        heard += client.recv(len(answer) - len(heard))
    assert heard == answer
    if number % 10 == 0:
        client.close()
        client = socket.create_connection(("127.0.0.1", port), 10)
shared[0] = 2
"""


def test_a_thread_that_keeps_the_gil_keeps_nobody_waiting(serve, tmp_path):
    import mmap

    served = serve(store(hr=Told()))
    standing = served.connect()
    standing.say(wrap_socket(READ))
    assert served.wants_python()
    (tmp_path / "shared").write_bytes(b"\0")
    interval = sys.getswitchinterval()
    with open(tmp_path / "shared", "r+b") as file, mmap.mmap(file.fileno(), 1) as shared:
        port = served.listener.getsockname()[1]
        asked = [wrap_socket(COILS).hex(), wrap_socket(COILS_ANSWER).hex()]
        command = [sys.executable, "-c", OUTSIDE, str(port), str(file.fileno()), *asked]
        with subprocess.Popen(command, pass_fds=[file.fileno()], stdout=subprocess.PIPE) as outside:
            assert outside.stdout.readline() == b"ready\n"
            sys.setswitchinterval(1000)
            try:
                shared[0] = 1
                while shared[0] != 2:
                    pass
            finally:
                sys.setswitchinterval(interval)
        assert outside.returncode == 0
    assert standing.hears_nothing()
    assert served.hear(standing, 11) == wrap_socket(pdu("03 02 1234"))


def test_who_asks_a_lot_at_once_does_not_hold_up_the_others(serve):
    context, heard = watched()
    served = serve(context, start=False)
    flood, polite = served.connect(), served.connect()
    flood.say(wrap_socket(write(1)) * 4000)
    polite.say(wrap_socket(write(2)))
    served.thread.start()
    assert polite.hear(12) == wrap_socket(write(2))
    served.attend_until(lambda: [2] in [values for *_, values in heard])
    # Each has a turn of 4096 bytes, and what was read with the last of them.
    assert [values for *_, values in heard].index([2]) <= 2 * 4096 // 12


def test_a_client_that_has_died_does_not_keep_its_place_until_python_answers(serve):
    asked = Asked()
    served = serve(store(hr=asked))
    client, other = served.connect(), served.connect()
    client.say(wrap_socket(READ))
    served.attend_until(lambda: asked.calls)
    served.ask(other, COILS, COILS_ANSWER)
    client.reset()
    served.attend_until(lambda: served.loop.count == 1)
    served.attend_until(lambda: asked.calls[0][-1].called)
    served.ask(other, COILS, COILS_ANSWER)


def test_a_client_that_only_says_no_more_keeps_it(serve):
    asked = Asked()
    served = serve(store(hr=asked))
    client = served.connect()
    client.say(wrap_socket(READ))
    client.socket.shutdown(socket.SHUT_WR)
    served.attend_until(lambda: asked.calls)
    asked.answer([7])
    assert served.hear(client, 11) == wrap_socket(words_answer(7))


def test_forty_masters_that_come_at_once_while_python_is_held_up(serve):
    served = serve(most=100)
    served.turn()
    clients = [served.connect() for _ in range(40)]
    for client in clients:
        client.say(wrap_socket(READ))
    for client in clients:
        assert client.hear(11) == wrap_socket(ANSWER)


# ---- the end --------------------------------------------------------------------------------------------------------------------------


def test_an_end_closes_all_connections(serve):
    served = serve(store(hr=Told()))
    idle, standing = served.connect(), served.connect()
    served.ask(idle, COILS, COILS_ANSWER)
    standing.say(wrap_socket(READ))
    assert served.wants_python()
    assert not served.loop.over
    served.loop.stop()
    served.join()
    served.turn()
    assert idle.is_closed()
    assert standing.is_closed()
    assert served.context[1].store["h"].threads == [], "the answer would go nowhere"


def test_an_end_tells_observers_of_the_last_writes(serve):
    context, heard = watched()
    served = serve(context)
    client = served.connect()
    for number in range(NOTES + 1):
        served.ask(client, write(number), write(number), attending=False)
    served.loop.stop()
    served.join()
    served.turn()
    assert [values for *_, values in heard] == [[number] for number in range(NOTES + 1)]
    assert served.context.coalesced == 0


def test_an_end_cancels_what_a_users_code_owes(serve):
    asked = Asked()
    served = serve(store(hr=asked))
    served.connect().say(wrap_socket(READ))
    served.turn()
    session = served.changed.pop()
    served.loop.stop()
    served.join()
    assert served.loop.resume(session) is False
    served.turn()
    assert served.changed == [session]
    assert not session.waiting
    assert asked.calls[0][-1].called, "with CancelledError"


def test_answers_that_are_ready_go_out_at_the_end(serve):
    served = serve(store(hr=Told()))
    clients = [served.connect() for _ in range(5)]
    for client in clients:
        client.say(wrap_socket(READ))
    until(lambda: served.loop.accepted == 5 and sleeps(served.thread_id))
    served.attend()
    served.loop.stop()
    for client in clients:
        assert client.hear(11) == wrap_socket(pdu("03 02 1234"))
        assert client.is_closed()


def test_an_end_takes_a_tenth_of_a_second_at_most_whatever_clients_do(serve):
    """Some do not read, some ask on and on, some wait for Python."""

    def end():
        served = serve(store(hr=Told()), most=200, send_buffer=4096)
        for number in range(50):
            client = served.connect(buffer=4096)
            served.ask(client, COILS, COILS_ANSWER)
            if number < 5:
                client.say(wrap_socket(READ))  # which waits for Python
        fill(served.connect(buffer=4096), wrap_socket(pdu("01 0000 07D0")))
        for _ in range(50):
            served.connect().say(wrap_socket(COILS) * 3000)
        began = time.monotonic()
        served.loop.stop()
        served.join()
        served.attend()
        took = time.monotonic() - began
        assert served.loop.count == 0
        return took

    assert any(end() <= END_SECONDS for _ in range(5)), "of a few ends one is on time, whatever else the machine does"


def test_who_does_not_run_the_loop_takes_no_ring_from_who_does(serve):
    """Processes that share a loop since a fork share what it rings."""
    served = serve(start=False)
    os.eventfd_write(served.loop.fileno(), 1)
    served.attend()
    assert served.wants_python(0)
    assert served.loop.claim()
    served.attend()
    assert not served.wants_python(0)


def test_a_loop_gives_its_descriptors_back_when_it_has_ended(serve):
    served = serve()
    served.ask(served.connect(), READ, ANSWER)
    with pytest.raises(RuntimeError, match="the loop runs: stop it first"):
        served.loop.close()
    served.loop.stop()
    served.join()
    served.attend()
    before = len(os.listdir("/proc/self/fd"))
    served.loop.close()
    served.loop.close()
    assert len(os.listdir("/proc/self/fd")) == before - 4
    served.loop.stop()


def test_one_process_may_run_a_loop_and_asks_as_often_as_it_likes(serve):
    loop = serve(start=False).loop
    assert [loop.claim(), loop.claim(), loop.elsewhere] == [True, True, False]


def test_an_end_before_the_beginning(serve):
    served = serve(start=False)
    served.loop.stop()
    assert not served.loop.over
    served.thread.start()
    served.join()


def test_a_hundred_loops_leave_nothing_behind():
    before = all_there_is()
    for number in range(100):
        served = Served()
        if number % 2:
            served.ask(served.connect(), READ, ANSWER)
        served.close()
        del served
    until(lambda: all_there_is() == before)


def new_session():
    return Session(ModbusSocketFramer, store())


def test_a_loop_that_never_runs_leaves_nothing_behind():
    before = os.listdir("/proc/self/fd")
    for _ in range(10):
        loop = TcpLoop(0, new_session, 10)
        assert loop.fileno() >= 0
        with pytest.raises(TypeError, match="made once"):
            loop.__init__(0, new_session, 10)
        loop.attend()
    del loop
    gc.collect()
    assert os.listdir("/proc/self/fd") == before


def methods(loop):
    session = new_session()
    return loop.run, loop.attend, lambda: loop.resume(session), lambda: loop.give_up(session)


def test_what_was_made_without_init_says_so():
    for method in methods(TcpLoop.__new__(TcpLoop)):
        with pytest.raises(TypeError, match="without __init__"):
            method()


@pytest.mark.parametrize(
    ("make", "error"), [(lambda: 1 / 0, ZeroDivisionError), (int, TypeError), (lambda: Session.__new__(Session), TypeError)]
)
def test_what_could_not_be_made_says_so(make, error):
    loop = TcpLoop.__new__(TcpLoop)
    with pytest.raises(error):
        loop.__init__(0, make, 10)
    for method in methods(loop):
        with pytest.raises(TypeError, match="without __init__"):
            method()
    with pytest.raises(TypeError, match="made once"):
        loop.__init__(0, new_session, 10)


def test_sessions_that_could_not_be_made_are_made_later(serve):
    served = serve(most=100)
    served.slips = [MemoryError(), MemoryError()]
    for _ in range(30):
        served.connect()
    for _ in range(2):
        assert served.wants_python()
        with pytest.raises(MemoryError):
            served.attend_until(lambda: False)
    served.attend_until(lambda: served.loop.accepted == 30)
    for client in served.clients:
        served.ask(client, READ, ANSWER)


def test_a_loop_hears_a_knock_when_it_turns(serve):
    served = serve(start=False)
    served.loop.knock()
    assert not served.loop.knock(), "it does not run yet"
    served.thread.start()
    until(served.loop.knock)
