"""What clients do to a server in a storm: each behaviour is one client's life, from its connection to its end.

A behaviour raises AssertionError where an answer is wrong, and `GoneError` where the server has closed the connection of one who did
nothing wrong. It draws all its chances from the client's `rng`.
"""

import contextlib
import itertools
import os
import random
import select
import socket
import struct
import threading
import time
import tty

from adu import wrap_rtu, wrap_socket
from live.raw import Connection
from storm.server import (
    BROKEN,
    COUNTED,
    GROWING,
    GUESTS,
    HOST,
    IDLE,
    LATER,
    MOST_PER_HOST,
    PASSING,
    PLAIN,
    SAME,
    SAME_COUNT,
    STRANGER,
    SUM,
)  # fmt: skip

PATIENCE = 30
WORKERS = len(GUESTS)
FAULTS = 5  # that are kept


class GoneError(Exception):
    """The server has closed the connection."""


class Client(Connection):
    """One TCP connection of a storm. `host`: the address that it comes from."""

    def __init__(self, port, rng, buffer=None, host=HOST):
        self.rng = rng
        self.socket = socket.socket()
        if buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self.socket.settimeout(PATIENCE)
        self.transaction = rng.randrange(0x10000)
        try:
            self.socket.bind((host, 0))
            self.socket.connect((HOST, port))
        except BaseException:
            self.socket.close()
            raise
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.spoke = time.monotonic()  # when the last request was sent that was answered, or when it connected

    def say(self, data):
        try:
            self.socket.sendall(data)
        except (ConnectionResetError, BrokenPipeError) as error:
            raise GoneError from error

    def say_in_pieces(self, data):
        while data:
            size = self.rng.choice((1, 2, 3, 7, 8, 12, 60, 500, 5000))
            self.say(data[:size])
            data = data[size:]

    def hear(self, size):
        heard = b""
        while len(heard) < size:
            try:
                piece = self.socket.recv(size - len(heard))
            except ConnectionResetError as error:
                raise GoneError from error
            if not piece:
                raise GoneError
            heard += piece
        return heard

    def request(self, pdu, unit=PLAIN):
        """The next request as its bytes, and the head of its answer but for the length."""
        self.transaction = self.transaction + 1 & 0xFFFF
        return wrap_socket(pdu, unit, self.transaction), (self.transaction, unit)

    def answer(self, head):
        """The PDU of the next answer, which must be that to `head`."""
        transaction, protocol, length = struct.unpack(">HHH", self.hear(6))
        assert protocol == 0, f"protocol {protocol}"
        assert 2 <= length <= 254, f"an answer of length {length}"
        body = self.hear(length)
        assert (transaction, body[0]) == head, f"the answer to {transaction} of unit {body[0]} where that to {head} is due"
        return body[1:]

    def ask(self, pdu, unit=PLAIN):
        data, head = self.request(pdu, unit)
        begun = time.monotonic()
        self.say(data)
        answer = self.answer(head)
        self.spoke = begun
        return answer

    def finish(self):
        """Say that no more comes."""
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError as error:  # not connected any more
            raise GoneError from error


# ---- requests and their answers -------------------------------------------------------------------------------------------------------


def read(address, count, function=3):
    return struct.pack(">BHH", function, address, count)


READ_SAME = read(SAME, SAME_COUNT)


def check_same(pdu):
    """One value in all registers: nothing was torn."""
    assert pdu[:2] == bytes([3, 2 * SAME_COUNT]), pdu.hex()
    assert pdu[2:] == pdu[2:4] * SAME_COUNT, f"a torn read: {pdu.hex()}"


def check_counted(address, count):
    expected = struct.pack(f">BB{count}H", 3, 2 * count, *range(address, address + count))
    return lambda pdu: _equal(pdu, expected)


def _equal(pdu, expected):
    assert pdu == expected, f"{pdu.hex()} instead of {expected.hex()}"


def check_later(address):
    def check(pdu):
        # The time may be over before the answer is there, where the machine is busy.
        kinds = (b"\3\2" + struct.pack(">H", address), b"\x83\x0b") if address % 4 < 2 else (b"\x83\x04",) if address % 4 == 2 else ()
        assert pdu in (*kinds, b"\x83\x0b"), pdu.hex()

    return check


def check_passing(pdu):
    # It is there or not, whole, with its values or those of the block that counts.
    assert pdu in (b"\x83\x0b", b"\x83\x04") or pdu in (b"\3\x14" + pdu[2:4] * 10, struct.pack(">BB10H", 3, 20, *range(10))), pdu.hex()


def some_request(rng, quick=False):
    """(PDU, unit, check of the answer) of a request that is in order. `quick`: none that waits for its answer."""
    kind = rng.randrange(6 if quick else 8)
    address = rng.randrange(1000)
    if kind < 3:
        return READ_SAME, PLAIN, check_same
    if kind == 3:
        return read(address, 10), COUNTED, check_counted(address, 10)
    if kind == 4:
        return read(0, 10), PASSING, check_passing
    if kind == 5:
        return bytes([SUM]) + struct.pack(">HH", address, 0), COUNTED, lambda pdu: _equal(pdu, bytes([SUM, 2, 0, 0]))
    if kind == 6:
        return read(address % 4, 1), LATER, check_later(address % 4)
    return read(address, 1), BROKEN, lambda pdu: _equal(pdu, b"\x83\x04")


def some_pdu(rng):
    """A PDU of any kind, in order or not; nothing that silences or restarts the server, and no write where others count."""
    function = rng.choice((1, 2, 3, 4, 5, 6, 7, 11, 12, 15, 16, 17, 20, 21, 22, 23, 24, 43, SUM, rng.randrange(256)))
    if function == 8:
        return bytes([8, 0, 0]) + rng.randbytes(2)
    size = rng.choice((0, 1, 4, 4, 4, 5, 6, 9, rng.randrange(253)))
    rest = bytearray(rng.randbytes(size))
    if size >= 2:
        # above what others look at
        rest[0:2] = (rng.choice((1500, 1990, 1999, 65535)) if function != 23 else 0).to_bytes(2)
    if size >= 4:
        rest[2:4] = rng.choice((0, 1, 2, 9, 125, 126, 2000, 0xFF00, 0xFFFF)).to_bytes(2)
    if function == 23 and size >= 6:
        rest[4:6] = (1600).to_bytes(2)
    if size >= 5 and function in (15, 16):
        rest[4] = size - 5 if rng.random() < 0.8 else rest[4]
    if function in (20, 21) and size:
        rest[0] = size - 1 if rng.random() < 0.8 else rest[0]
    return bytes([function]) + bytes(rest)


# ---- behaviours -----------------------------------------------------------------------------------------------------------------------


def poll(client):
    """Asks and waits for each answer."""
    for _ in range(client.rng.randrange(1, 60)):
        pdu, unit, check = some_request(client.rng)
        check(client.ask(pdu, unit))


def pipeline(client):
    """Asks a lot at once, in pieces, and wants all answers in order."""
    asked = [some_request(client.rng, quick=True) for _ in range(client.rng.randrange(2, 150))]
    sent = [client.request(pdu, unit) for pdu, unit, _ in asked]
    client.say_in_pieces(b"".join(data for data, _ in sent))
    for (_, head), (_, _, check) in zip(sent, asked, strict=True):
        check(client.answer(head))


def half_close(client):
    """Says that it has no more to say, and wants all answers nevertheless."""
    asked = [some_request(client.rng) for _ in range(client.rng.randrange(1, 40))]
    sent = [client.request(pdu, unit) for pdu, unit, _ in asked]
    client.say(b"".join(data for data, _ in sent))
    client.finish()
    for (_, head), (_, _, check) in zip(sent, asked, strict=True):
        check(client.answer(head))
    with contextlib.suppress(ConnectionResetError):
        assert client.socket.recv(1) == b"", "more answers than requests"


def count(client, place, numbers, port):
    """Writes one number after the other into two registers of its own, which an observer hears of one by one.

    :param port: of a UDP server with the same registers, which gets one of the numbers now and then
    """
    answer = struct.pack(">BHH", 16, place, 2)

    def counted():
        return struct.pack(">BHHBI", 16, place, 2, 4, next(numbers))

    with socket.socket(type=socket.SOCK_DGRAM) as master:
        master.connect((HOST, port))
        master.settimeout(PATIENCE)
        for _ in range(client.rng.randrange(1, 8)):
            heads = []
            data = b""
            for _ in range(client.rng.randrange(1, 100)):
                piece, head = client.request(counted())
                data += piece
                heads.append(head)
            client.say(data)
            for head in heads:
                _equal(client.answer(head), answer)
            for transaction in range(client.rng.randrange(4)):
                # Not said again: the kernel may drop it, but a number that comes twice would be out of order.
                master.send(wrap_socket(counted(), PLAIN, transaction))
                with contextlib.suppress(TimeoutError):
                    _equal(master.recv(1000), wrap_socket(answer, PLAIN, transaction))


def remember(client, place):
    """Writes into a register of its own, and reads back what it was told is written."""
    written = None
    for _ in range(client.rng.randrange(1, 100)):
        if written is not None:
            _equal(client.ask(read(place, 1), GROWING), struct.pack(">BBH", 3, 2, written))
        value = client.rng.randrange(0x10000)
        pdu = struct.pack(">BHH", 6, place, value)
        _equal(client.ask(pdu, GROWING), pdu)
        written = value


def read_slowly(client):
    """Asks on and on without taking an answer; then takes them all, or goes."""
    heads = []
    client.socket.settimeout(0.05)
    data = b""
    with contextlib.suppress(TimeoutError), contextlib.suppress(ConnectionError):
        for _ in range(20000):
            piece, head = client.request(READ_SAME)
            data = piece
            heads.append(head)
            while data:
                data = data[client.socket.send(data):]
    client.socket.settimeout(PATIENCE)
    if client.rng.random() < 0.5:
        client.reset()
        return
    # Into the small buffer the kernels may carry 2 KB with each probe of its window, five times a second.
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    # Of the last one a part was sent.
    for head in heads[:-1]:
        check_same(client.answer(head))
    if data:
        client.say(data)
    check_same(client.answer(heads[-1]))


def leave_halfway(client):
    """Half a frame, perhaps behind whole ones; then it goes in one of three ways."""
    pdu, unit, _ = some_request(client.rng)
    data = b"".join(client.request(pdu, unit)[0] for _ in range(client.rng.randrange(1, 30)))
    client.say(data[: client.rng.randrange(1, len(data))])
    if client.rng.random() < 0.3:
        time.sleep(client.rng.random() * 0.05)
    _leave(client)


def babble(client):
    """Bytes that are no Modbus, perhaps behind requests that are."""
    data = b"".join(client.request(READ_SAME)[0] for _ in range(client.rng.randrange(3)))
    with contextlib.suppress(GoneError):
        client.say_in_pieces(data + client.rng.randbytes(client.rng.choice((1, 6, 7, 260, 5000))))
    _leave(client)


def ask_anything(client):
    """Requests of any kind, damaged now and then."""
    with contextlib.suppress(GoneError):
        for _ in range(client.rng.randrange(1, 100)):
            unit = client.rng.choice((PLAIN, COUNTED, BROKEN, PASSING, 0, 255, 77))
            data = bytearray(client.request(some_pdu(client.rng), unit)[0])
            if client.rng.random() < 0.1:
                # Not of what is behind the function code: a write must not hit what others count.
                data[client.rng.randrange(6)] = client.rng.randrange(256)
            client.say_in_pieces(bytes(data))
    _leave(client)


def _leave(client):
    way = client.rng.randrange(3)
    if way == 0:
        client.reset()
    elif way == 1:
        with contextlib.suppress(OSError, GoneError):
            client.finish()
            # Whatever comes, until the end.
            while client.socket.recv(65536):
                pass


TCP = (poll, pipeline, half_close, count, remember, read_slowly, leave_halfway, babble, ask_anything)


def ask_over_rtu(client):
    """RTU over TCP: whole, in pieces and damaged; what is in order is answered."""
    for _ in range(client.rng.randrange(1, 20)):
        frame = wrap_rtu(READ_SAME)
        client.say_in_pieces(frame)
        answer = client.hear(2 * SAME_COUNT + 5)
        assert answer == wrap_rtu(answer[1:-2])
        check_same(answer[1:-2])
    client.say(client.rng.randbytes(client.rng.randrange(300)) if client.rng.random() < 0.5 else wrap_rtu(some_pdu(client.rng)))
    _leave(client)


def ask_by_datagrams(port, rng):
    """Datagrams of any kind; those that are in order are answered, sooner or later: the kernel may drop what comes too fast."""
    with socket.socket(type=socket.SOCK_DGRAM) as master:
        master.connect((HOST, port))
        master.settimeout(1)
        for transaction in range(rng.randrange(1, 60)):
            for _ in range(rng.randrange(4)):
                bad = wrap_socket(some_pdu(rng), rng.choice((PLAIN, COUNTED, BROKEN, PASSING, 0, 255, 77)), 0xFFFF)
                master.send(rng.choice((bad, bad[: rng.randrange(len(bad))], bad * 2, rng.randbytes(rng.randrange(2000)))))
            pdu, unit, check = some_request(rng, quick=True)
            check(_answer_to(master, wrap_socket(pdu, unit, transaction)))


def _answer_to(master, request):
    limit = time.monotonic() + PATIENCE
    while time.monotonic() < limit:
        master.send(request)
        with contextlib.suppress(TimeoutError):
            while True:
                answer = master.recv(1000)
                if answer[:2] == request[:2]:
                    assert wrap_socket(answer[7:], request[6], int.from_bytes(request[:2])) == answer
                    return answer[7:]
    raise AssertionError("a datagram is not answered")


def connect_and_go(port, rng):
    """A crowd that connects and says nothing."""
    crowd = []
    try:
        for _ in range(rng.randrange(1, 120)):
            crowd.append(Client(port, rng))
        for client in crowd:
            if rng.random() < 0.3:
                client.reset()
    finally:
        for client in crowd:
            client.socket.close()


def crowd_from_one_host(port, rng, host):
    """More connections than one host may have: the one that was unused for longest goes, and no other."""
    used = []  # the one that was unused for longest first
    with contextlib.ExitStack() as leaving, contextlib.suppress(GoneError):
        for _ in range(MOST_PER_HOST + rng.randrange(1, 6)):
            used.append(leaving.enter_context(Client(port, rng, host=host)))
            _ask_unless_idle(used[-1])
            if len(used) > MOST_PER_HOST:
                assert used.pop(0).is_closed()
            again = used.pop(rng.randrange(len(used)))
            used.append(again)
            _ask_unless_idle(again)
        for client in used:
            _ask_unless_idle(client)


def fall_silent(port, rng, host):
    """Polls for longer than it may say nothing, then says nothing and is closed."""
    with Client(port, rng, host=host) as client, contextlib.suppress(GoneError):
        begun = client.spoke
        while client.spoke < begun + 1.5 * IDLE:
            _ask_unless_idle(client)
            time.sleep(rng.random() * IDLE / 4)
        assert client.is_closed()


def _ask_unless_idle(client):
    """GoneError: it was closed because it had said nothing for long."""
    try:
        check_same(client.ask(READ_SAME))
    except GoneError:
        # A busy machine may have kept the client from speaking for so long, and the loop from looking at its clock for as long again.
        assert time.monotonic() > client.spoke + IDLE / 2, "closed although it has just spoken"
        raise


def come_uninvited(port, rng, gated):
    """From a host that is not in the table of hosts."""
    with Client(port, rng, host=STRANGER) as client:
        if gated:
            assert client.is_closed()
        else:
            check_same(client.ask(READ_SAME))


class LineMaster:
    """Speaks on a serial line, a pseudo-terminal whose other end is `path`."""

    def __init__(self, seed):
        self.rng = random.Random(f"{seed} line")
        self._master, self._port = os.openpty()
        tty.setraw(self._port)
        os.set_blocking(self._master, False)
        self.path = os.ttyname(self._port)

    def close(self):
        os.close(self._master)
        os.close(self._port)

    def storm(self):
        """Noise, requests in pieces, requests behind each other; then one that is in order must be answered."""
        for _ in range(self.rng.randrange(1, 10)):
            kind = self.rng.randrange(5)
            pdu, unit, _ = some_request(self.rng, quick=True)
            data = wrap_rtu(pdu, unit)
            if kind == 0:
                data = self.rng.randbytes(self.rng.choice((1, 8, 300, 3000)))
            elif kind == 1:
                data = data[: self.rng.randrange(1, len(data))]
            elif kind == 2:
                data = wrap_rtu(some_pdu(self.rng), self.rng.choice((PLAIN, COUNTED, 0, 77)))
            elif kind == 3:
                data *= self.rng.randrange(2, 30)
            self._say(data)
            if self.rng.random() < 0.5:
                time.sleep(self.rng.random() * 0.01)
            self._heard()
        limit = time.monotonic() + PATIENCE
        while not self._is_answered():
            assert time.monotonic() < limit, "the line is not answered any more"

    def _say(self, data):
        # What the line does not take now it has lost: it is flooded.
        with contextlib.suppress(BlockingIOError):
            os.write(self._master, data)

    def _heard(self):
        with contextlib.suppress(BlockingIOError):
            return os.read(self._master, 65536)
        return b""

    def _is_answered(self):
        """Whether one request is answered within a second; what came before it is forgotten."""
        # No other slave's answer is expected any more after that.
        time.sleep(0.1)
        while self._heard():
            pass
        self._say(wrap_rtu(READ_SAME))
        heard = b""
        while select.select([self._master], [], [], 1)[0]:
            heard += self._heard()
            for start in range(len(heard)):
                answer = heard[start : start + 2 * SAME_COUNT + 5]
                if len(answer) == 2 * SAME_COUNT + 5 and answer == wrap_rtu(answer[1:-2]):
                    check_same(answer[1:-2])
                    return True
        return False


class Storm:
    """Clients of every kind, several at a time.

    :param ports: those that the server has told
    :param line: a LineMaster, if a serial line is part of it
    :param gated: the server has a table of hosts
    """

    def __init__(self, ports, seed, line=None, gated=False):
        self._ports, self._line, self._gated = ports, line, gated
        self._chances = [random.Random(f"{seed} {number}") for number in range(WORKERS + 1)]
        # What each worker counts on, from client to client: an observer never hears of a number that is not above the last one.
        self._numbers = [itertools.count() for _ in range(WORKERS)]
        self._lock = threading.Lock()
        self.lives = 0
        # closed by the server, which may close who is idle where there is a crowd
        self.gone = 0
        self.faults = []

    def rage(self, seconds, crowded=False):
        """For so long; `crowded`: there are more clients than the server has room for. Everybody has left when it returns."""
        end = time.monotonic() + seconds
        threads = [threading.Thread(target=self._live, args=(number, end, crowded)) for number in range(WORKERS + bool(self._line))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _live(self, number, end, crowded):
        rng = self._chances[number]
        while time.monotonic() < end and len(self.faults) < FAULTS:
            life = None
            try:
                if number == WORKERS:
                    self._line.storm()
                elif crowded and rng.random() < 0.2:
                    connect_and_go(self._ports["tcp"], rng)
                elif rng.random() < 0.1:
                    life = ask_by_datagrams
                    life(self._ports["udp"], rng)
                elif rng.random() < 0.15:
                    life = ask_over_rtu
                    with Client(self._ports["rtu-over-tcp"], rng) as client:
                        life(client)
                elif rng.random() < 0.1:
                    life = rng.choice((crowd_from_one_host, crowd_from_one_host, crowd_from_one_host, fall_silent))
                    life(self._ports["limited"], rng, GUESTS[number])
                elif rng.random() < 0.03:
                    life = come_uninvited
                    life(self._ports["tcp"], rng, self._gated)
                else:
                    life = rng.choice(TCP)
                    with Client(self._ports["tcp"], rng, buffer=4096 if life is read_slowly else None) as client:
                        more = {count: (2 * number, self._numbers[number], self._ports["udp"]), remember: (number,)}.get(life, ())
                        life(client, *more)
            except (GoneError, ConnectionError):
                with self._lock:
                    self.gone += 1
                    if not crowded:
                        self.faults.append(f"{life}: the connection was closed without a reason")
            except Exception as fault:
                with self._lock:
                    self.faults.append(f"{life}: {type(fault).__name__}: {fault}")
            with self._lock:
                self.lives += 1
