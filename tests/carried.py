"""Sessions that a real server carries: what is tested with a session alone is tested over sockets and pseudo-terminals too.

A :class:`Carried` looks like a session to a master of `adu` and is a client of a server in this process, on Twisted or on a compiled loop.
The reactor is one of our own, which the test's thread turns; the loop has its thread. Nothing here waits for a time to pass: a stream ends
with the client's farewell, after which the server's last reply, and then its own farewell, must come.
"""

import os
import socket
import sys
import threading
import time
import tty
from types import SimpleNamespace

import pytest
from adu import DELIVERIES, LINES, Master, one_unit
from live.device import has_choice
from twisted.internet.interfaces import IReadDescriptor
from twisted.internet.selectreactor import SelectReactor
from twisted.python import threadable
from zope.interface import implementer

from mbcore import ModbusControlBlock, ModbusServerContext
from mbcore.server import StartSerialServer, StartTcpServer, StartUdpServer
from mbcore.server.options import UDP_KEYWORDS
from mbcore.session import Session

PATIENCE = 30
# How long the reactor waits for something at most, before it is asked whether that is it, seconds.
TURN = 0.01
HOST = "127.0.0.1"
ENGINES = {"twisted": False, "loop": True}


class Turning:
    """A reactor that runs whenever the test's thread has to wait."""

    def __init__(self):
        self.reactor = SelectReactor()
        before = threadable.ioThread
        self.reactor.startRunning(installSignalHandlers=False)
        self.reactor.iterate(0)
        threadable.ioThread = before

    def until(self, true):
        limit = time.monotonic() + PATIENCE
        while not true():
            assert time.monotonic() < limit, "nothing comes"
            due = self.reactor.timeout()
            self.reactor.iterate(TURN if due is None else min(due, TURN))

    def call(self, function, *args, **kwargs):
        """Call it as the reactor's thread would."""
        before = threadable.ioThread
        threadable.ioThread = threading.get_ident()
        try:
            return function(*args, **kwargs)
        finally:
            threadable.ioThread = before


_turning = []


def turning():
    """The one of this process."""
    if not _turning:
        _turning.append(Turning())
    return _turning[0]


@implementer(IReadDescriptor)
class Ear:
    """Hears what comes on a descriptor."""

    def __init__(self, reactor, descriptor, read):
        self._reactor, self._descriptor, self._read = reactor, descriptor, read
        self.heard = b""
        self.over = False
        reactor.addReader(self)

    def fileno(self):
        return self._descriptor

    def doRead(self):
        try:
            data = self._read()
        except ConnectionResetError:
            data = b""
        self.heard += data
        if not data:
            self.over = True
            self.stop()

    def stop(self):
        self._reactor.removeReader(self)

    def connectionLost(self, reason):
        self.over = True

    def logPrefix(self):
        return "ear"


class Carried:
    """A server and its client."""

    def __init__(self, start, framer, store, control, options):
        self._turning = turning()
        self.reactor = self._turning.reactor
        self.closing = False
        self.handle = self._turning.call(self._with_control, control or ModbusControlBlock(), start, store, framer, options)

    def _with_control(self, control, start, store, framer, options):
        # As for a script that has asked for the process' control block: the server takes the one that it is given.
        before = sys.modules.get("mbcore.device")
        sys.modules["mbcore.device"] = SimpleNamespace(new_control=lambda identity: control, tell_loops=lambda: None)
        try:
            return start(store, framer=framer, reactor=self.reactor, defer_reactor_run=True, **options)
        finally:
            if before is None:
                del sys.modules["mbcore.device"]
            else:
                sys.modules["mbcore.device"] = before

    def close(self):
        stopped = []
        self._turning.call(self.handle.stop).addCallback(stopped.append)
        self._turning.until(lambda: stopped)


class CarriedStream(Carried):
    """Over TCP: one connection after the other, each for what is sent before the next silence."""

    def __init__(self, framer, store, control, options):
        super().__init__(StartTcpServer, framer, store, control, {"address": (HOST, 0)} | options)
        # Whether the end of the last frame is told by itself.
        self._shadow = Session(framer, ModbusServerContext(), ModbusControlBlock())
        self._socket = None

    def receive(self, data, now):
        if self._socket is None:
            self._socket = socket.create_connection((HOST, self.handle.port), PATIENCE)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._ear = Ear(self.reactor, self._socket.fileno(), lambda: self._socket.recv(65536))
        self._shadow.receive(data, 0.0)
        self._socket.sendall(data)
        self.reactor.iterate(0)
        return b""

    def deadline(self):
        return None if self._socket is None else 0.0

    def expire(self, now):
        assert self._shadow.deadline() is None, "silence ends this frame: tests of the session, of Twisted and of the loop have that"
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:  # the server has closed it
            self.closing = True
        self._turning.until(lambda: self._ear.over)
        self._socket.close()
        self._socket = None
        return self._ear.heard

    def close(self):
        super().close()
        if self._socket is not None:
            self._ear.stop()
            self._socket.close()


class CarriedDatagrams(Carried):
    """Over UDP, where whoever is asked answers."""

    def __init__(self, framer, store, control, options):
        super().__init__(StartUdpServer, framer, store, control, {"address": (HOST, 0)} | options)
        self._socket = socket.socket(type=socket.SOCK_DGRAM)
        self._socket.connect((HOST, self.handle.port))
        self._ear = Ear(self.reactor, self._socket.fileno(), lambda: self._socket.recv(1000))
        self._asked = False

    def receive(self, data, now):
        self._asked = True
        self._ear.heard = b""
        self._socket.send(data)
        return b""

    def deadline(self):
        return 0.0 if self._asked else None

    def expire(self, now):
        self._turning.until(lambda: self._ear.heard)
        self._asked = False
        return self._ear.heard

    def close(self):
        super().close()
        self._ear.stop()
        self._socket.close()


class CarriedLine(Carried):
    """Over a pseudo-terminal, where whoever is asked answers."""

    def __init__(self, framer, store, control, options):
        self._end, self._port = os.openpty()
        tty.setraw(self._port)
        port = {"port": os.ttyname(self._port), "baudrate": 115200, "low_latency": False}
        super().__init__(StartSerialServer, framer, store, control, port | options)
        self._ear = Ear(self.reactor, self._end, lambda: os.read(self._end, 4096))
        self._asked = False
        self._unwrap = next(line.unwrap for line in LINES.values() if line.framer is framer)

    def receive(self, data, now):
        self._asked = True
        self._ear.heard = b""
        os.write(self._end, data)
        return b""

    def deadline(self):
        return 0.0 if self._asked else None

    def expire(self, now):
        self._turning.until(self._is_whole)
        self._asked = False
        return self._ear.heard

    def _is_whole(self):
        try:
            return bool(self._unwrap(self._ear.heard))
        except (AssertionError, IndexError, ValueError):
            return False

    def close(self):
        super().close()
        self._ear.stop()
        os.close(self._end)
        os.close(self._port)


KINDS = {"tcp": CarriedStream, "udp": CarriedDatagrams, "line": CarriedLine}
SPOKEN = {"tcp": ("socket", "rtu", "ascii", "binary", "tls"), "udp": ("socket",), "line": ("rtu-serial", "ascii-serial")}
WAYS = [
    (kind, line, engine)
    for kind, lines in SPOKEN.items()
    for line in lines
    for engine in ENGINES
    if kind != "udp" or not ENGINES[engine] or "engine" in UDP_KEYWORDS
]


def carried_master(way, store, control=None, *, delivery=None, **options):
    """A master that asks a server of this process, and the server, which is to be closed. `delivery`: None is as hard as it may be."""
    kind, name, engine = way
    line = LINES[name]
    if not isinstance(store, ModbusServerContext):
        store = one_unit(store)
    if kind != "udp" or "engine" in UDP_KEYWORDS:
        options["engine"] = ENGINES[engine]
    carried = KINDS[kind](line.framer, store, control, options)
    assert carried.handle.engine is ENGINES[engine]
    # What is asked over a stream stands between two other requests.
    return Master(line, delivery or ("glued" if kind == "tcp" else "whole"), carried), carried


# What the fixture `connect` is made of: sessions alone, each a line and how it is asked, and servers.
EVERY = [*DELIVERIES, *WAYS]


def line_of(way):
    return LINES[way[0] if way in DELIVERIES else way[1]]


def case(way, *values, name=""):
    """`way` for the fixture `connect`, with what else the test takes."""
    marks = () if way in DELIVERIES else pytest.mark.live
    return pytest.param(way, *values, marks=marks, id="-".join([*way, name] if name else way))


def over(wanted):
    """A mark: the test's `connect` asks over lines that are `wanted` alone."""
    return pytest.mark.parametrize("connect", [case(way) for way in EVERY if wanted(line_of(way))], indirect=True)


addressed = over(lambda line: line.name != "tls")
miscounted = over(lambda line: line.self_delimiting)


def malformed(pdus):
    """A mark: the test takes `connect` and `request_`, each of these PDUs over every line that tells its end."""
    cases = [
        case(way, pdu, name=pdu.hex() if len(pdu) < 16 else f"{len(pdu)}-bytes")
        for pdu in pdus
        for way in EVERY
        if line_of(way).tells_end(pdu) and not (way[0] == "tcp" and ends_by_silence(line_of(way), pdu))
    ]
    return pytest.mark.parametrize(("connect", "request_"), cases, indirect=["connect"])


def ends_by_silence(line, pdu):
    session = line.session(ModbusServerContext())
    session.receive(line.wrap(pdu), 0.0)
    return session.deadline() is not None


def on_engines(names, cases):
    """A mark: of the test's parameters `names` the last is the `transport` of a live device, which every `engine` carries that can."""
    carried = [
        pytest.param(*values, engine, id="-".join([*values, name]))
        for name, engine in ENGINES.items()
        for values in cases
        if not engine or has_choice(values[-1])
    ]
    return pytest.mark.parametrize((*names, "engine"), carried, indirect=["engine"])
