# ruff: noqa: N803 - Twisted's names
"""Stand-ins for what surrounds the Twisted room: a reactor, a transport with a buffer of its own, and a session that does as it is told."""

import threading

from twisted.internet.abstract import FileDescriptor
from twisted.internet.address import IPv4Address
from twisted.internet.error import CannotListenError, ReactorNotRunning
from twisted.internet.interfaces import ITCPTransport
from twisted.internet.main import CONNECTION_LOST
from twisted.internet.testing import MemoryReactorClock, _FakePort
from zope.interface import directlyProvides

from mbcore.server.factory import ModbusServerFactory


class Reactor(MemoryReactorClock):
    """MemoryReactorClock with datagrams, shutdown triggers and calls from threads; `refusal`, an OSError, makes it refuse ports.

    `run` runs until `running` is False again, which `meanwhile`, a list of functions, has to bring about.
    """

    def __init__(self):
        super().__init__()
        self.refusal = None
        self.udp_servers = []
        self.shutdown_triggers = {}
        self.ports = []
        self.meanwhile = []
        self.calls_from_threads = 0
        self.runs = 0

    def _port(self, port, interface):
        if self.refusal is not None:
            raise CannotListenError(interface, port, self.refusal)
        self.ports.append(Port(IPv4Address("TCP", interface or "0.0.0.0", port or 49152)))
        return self.ports[-1]

    def listenTCP(self, port, factory, backlog=50, interface=""):
        super().listenTCP(port, factory, backlog, interface)
        return self._port(port, interface)

    def listenSSL(self, port, factory, contextFactory, backlog=50, interface=""):
        super().listenSSL(port, factory, contextFactory, backlog, interface)
        return self._port(port, interface)

    def listenUDP(self, port, protocol, interface="", maxPacketSize=8192):
        self.udp_servers.append((port, protocol, interface))
        return self._port(port, interface)

    def run(self, installSignalHandlers=True):
        self.signal_handlers = installSignalHandlers
        self.running = True
        self.runs += 1
        for function, args, kwargs in self.whenRunningHooks:
            function(*args, **kwargs)
        while self.running:
            self.meanwhile.pop(0)()
        self._startedBefore = True

    def stop(self):
        if not self.running:
            raise ReactorNotRunning("it does not run")
        for trigger in list(self.shutdown_triggers.values()):
            trigger()
        super().stop()

    def addSystemEventTrigger(self, phase, eventType, callable, *args, **kw):
        assert (phase, eventType) == ("before", "shutdown")
        self.shutdown_triggers[callable] = lambda: callable(*args, **kw)
        return callable

    def removeSystemEventTrigger(self, triggerID):
        del self.shutdown_triggers[triggerID]

    def callFromThread(self, callable, *args, **kwargs):
        self.calls_from_threads += 1
        callable(*args, **kwargs)


class Port(_FakePort):
    listening = True

    def stopListening(self):
        self.listening = False


class Wire(FileDescriptor):
    """A TCP transport whose kernel takes `room` bytes, then none; -1 stands for a connection that is lost."""

    TLS = False

    def __init__(self, reactor, room=1 << 20):
        super().__init__(reactor)
        directlyProvides(self, ITCPTransport)
        self.connected = 1
        self.room = room
        self.sent = b""
        self.options = {}
        self.aborted = False
        self.startReading()

    @property
    def reading(self):
        return self in self.reactor.readers

    @property
    def queued(self):
        return self in self.reactor.writers

    def writeSomeData(self, data):
        if self.room < 0:
            return CONNECTION_LOST
        taken = bytes(data[: self.room])
        self.room -= len(taken)
        self.sent += taken
        return len(taken)

    def getHost(self):
        return IPv4Address("TCP", "192.0.2.1", 502)

    def getPeer(self):
        return IPv4Address("TCP", "192.0.2.7", 40000)

    def setTcpNoDelay(self, enabled):
        self.options["nodelay"] = enabled

    def setTcpKeepAlive(self, enabled):
        self.options["keepalive"] = enabled

    def abortConnection(self):
        self.aborted = True


class ScriptedSession:
    """Answers what `replies` holds, in turn; its deadline is what the test sets."""

    def __init__(self, *replies):
        self.replies = list(replies)
        self.received = []
        self.expired = []
        self.resets = 0
        self.due = None
        self.due_after_expiry = None
        self.closing = False
        self.waiting = False
        self.wake = None

    def receive(self, data, now):
        self.received.append((data, now))
        return self.replies.pop(0) if self.replies else b""

    def deadline(self):
        return self.due

    def expire(self, now):
        self.expired.append(now)
        self.due = self.due_after_expiry
        return self.replies.pop(0) if self.replies else b""

    def resume(self, now):
        self.waiting = False
        return self.replies.pop(0) if self.replies else b""

    def reset(self):
        self.resets += 1
        self.closing = False
        self.waiting = False


def scripted(factory, session):
    """Let `factory` give `session` to its connections, and its clock be the reactor's."""
    factory.buildSession = lambda: session
    factory.seconds = factory.reactor.seconds
    return factory


def connect(factory, transport):
    """A connection of `factory` over `transport`."""
    protocol = factory.buildProtocol(None)
    transport.protocol = protocol
    protocol.makeConnection(transport)
    return protocol


def scripted_connection(*replies, room=1 << 20, **options):
    """A factory's only connection, with a Wire and a ScriptedSession."""
    reactor = Reactor()
    factory = scripted(ModbusServerFactory(None, reactor=reactor, **options), ScriptedSession(*replies))
    return connect(factory, Wire(reactor, room))


def in_thread(function):
    """What `function` returns, or raises, in another thread."""
    outcome = []

    def run():
        try:
            outcome.append((function(), None))
        except BaseException as error:
            outcome.append((None, error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    result, error = outcome[0]
    if error is not None:
        raise error
    return result


class Deaf:
    """A loop that hears nothing, until it is told to."""

    over = False
    hears = True

    def knock(self):
        return self.hears


class Forked:
    """A loop that another process runs, whose fork this one is."""

    elsewhere = True
