"""One stream connection: bytes between a transport and a session. Decides nothing about Modbus."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from twisted.internet.abstract import FileDescriptor
from twisted.internet.address import UNIXAddress
from twisted.internet.interfaces import IPushProducer, ITCPTransport
from twisted.internet.protocol import Protocol, connectionDone
from zope.interface import implementer

if TYPE_CHECKING:
    from twisted.python.failure import Failure

    from mbcore.session import Session

    from .factory import ModbusServerFactory

_log = logging.getLogger(__name__)

# Bytes taken from a connection at once, and bytes of replies that may wait before the client is not read any more.
CHUNK_SIZE = 8192
# Seconds that a client has for taking the last replies when its connection is closed.
CLOSE_WAIT = 0.5


@implementer(IPushProducer)
class ModbusTcpProtocol(Protocol):
    """Answers one connection of a :class:`ModbusServerFactory`.

    A subclass may extend connectionMade, connectionLost and dataReceived; it closes a connection with :meth:`close`.
    """

    factory: ModbusServerFactory
    transport: Any
    #: The core's side of this connection.
    session: Session
    #: When bytes last came in, or replies were seen to be taken, on the factory's clock.
    last_heard: float
    #: True from the moment that :meth:`close` is called.
    closing = False
    #: The client's address; None where it has none, as on a UNIX socket or a serial line.
    host: str | None = None

    # Delayed calls: to the session at its deadline, to cut off a client that does not read, to close a connection that says nothing.
    _timer: Any = None
    _abort: Any = None
    _idle: Any = None
    _direct = False
    # Requests that come while an answer is waited for stay in the kernel.
    _holds_back = True
    # Why the client is not read: it does not take its replies; a user's code still owes an answer.
    _untaken = False
    _waiting = False
    # What the transport writes to, and how many bytes of replies waited there when it was looked at.
    _descriptor: Any = None
    _left = 0

    def connectionMade(self) -> None:
        """The connection is open."""
        factory, transport = self.factory, self.transport
        self.session = factory.buildSession()
        self.session.wake = self._resume
        self.last_heard = factory.seconds()
        factory.connections.add(self)
        descriptor = transport
        while hasattr(descriptor, "transport"):  # of TLS and of twisted.protocols.policies
            descriptor = descriptor.transport
        if isinstance(descriptor, FileDescriptor):
            self._descriptor = descriptor
            descriptor.bufferSize = CHUNK_SIZE
            # Whatever wraps a descriptor has to see the bytes.
            self._direct = descriptor is transport and hasattr(transport, "TLS")
        if ITCPTransport.providedBy(transport) and not isinstance(transport.getHost(), UNIXAddress):
            with suppress(OSError):  # a client that has gone already is noticed soon enough
                transport.setTcpNoDelay(True)
                transport.setTcpKeepAlive(True)
        transport.registerProducer(self, True)
        if factory.idle_timeout:
            self._idle = factory.reactor.callLater(factory.idle_timeout, self._check_idle)
        _log.debug("%s: connected", self)
        factory.run_trace_connect(True)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is gone, for whatever reason."""
        for timer in (self._timer, self._abort, self._idle):
            if timer is not None:
                timer.cancel()
        self._timer = self._abort = self._idle = None
        self.session.wake = None
        if self.session.waiting:
            self.session.reset()
        _log.debug("%s: disconnected: %s", self, reason.getErrorMessage())
        self.factory.run_trace_connect(False)
        self.factory.forget(self)

    def dataReceived(self, data: bytes) -> None:
        """Bytes of the client, cut anywhere: answers every request that they complete."""
        factory, session = self.factory, self.session
        observed = factory.trace_packet is not None or _log.isEnabledFor(logging.DEBUG)
        if observed:
            data = self._observe(False, data)
        self.last_heard = now = factory.seconds()
        replies = session.receive(data, now)
        if replies:
            if observed:
                replies = self._observe(True, replies)
            self._send(replies)
        if session.closing or session.deadline() is not None:
            self._follow(now)

    def close(self) -> None:
        """Close the connection when the replies are out; a client that does not take them is cut off after CLOSE_WAIT seconds."""
        if not self.closing:
            self.closing = True
            self._abort = self.factory.reactor.callLater(CLOSE_WAIT, self._cut)
            # Twisted closes no connection that a producer may still write to.
            self.transport.unregisterProducer()
            self.transport.loseConnection()

    def stream_broken(self) -> None:
        """What comes from the client cannot be cut into frames any more."""
        self.factory.note_broken(self)
        self.close()

    def pauseProducing(self) -> None:
        """The client does not take its replies: read no more of its requests."""
        self._untaken = True
        self._left = self._unsent()
        self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        """The client has taken its replies."""
        self._untaken = False
        if self.transport.disconnecting:
            self.transport.unregisterProducer()
        elif not self._waiting:
            self.transport.resumeProducing()

    def stopProducing(self) -> None:
        """The transport takes no more bytes; connectionLost follows."""

    def __str__(self) -> str:
        try:
            peer = self.transport.getPeer()
        except NotImplementedError:  # of a SerialPort
            return type(self).__name__
        return f"{peer.host}:{peer.port}" if hasattr(peer, "port") else str(peer)

    def _send(self, data: bytes) -> None:
        transport = self.transport
        if self._direct and not transport.dataBuffer and not transport._tempDataBuffer and not transport.TLS:
            # Through transport.write the reactor would send it after two more system calls to arm and disarm itself.
            sent = transport.writeSomeData(data)
            if sent == len(data):
                return
            if isinstance(sent, int):
                data = data[sent:]
            # Otherwise the connection is lost: the reactor meets the same error when it writes, and closes.
        transport.write(data)

    def _observe(self, sending: bool, data: bytes) -> bytes:
        data = self.factory.run_trace_packet(sending, data)
        if _log.isEnabledFor(logging.DEBUG):
            _log.debug("%s %s %s", self, "<" if sending else ">", data.hex(" "))
        return data

    def _follow(self, now: float) -> None:
        """Do what the session asks for after it was fed."""
        if self.session.closing:
            self.stream_broken()
            return
        if self.session.waiting != self._waiting and self._holds_back:
            self._waiting = not self._waiting
            if self._waiting:
                self.transport.pauseProducing()
            elif not self._untaken and not self.closing:
                self.transport.resumeProducing()
        deadline = self.session.deadline()
        if deadline is not None:
            delay = max(deadline - now, 0.0)
            if self._timer is None:
                self._timer = self.factory.reactor.callLater(delay, self._expire)
            else:
                self._timer.reset(delay)

    def _resume(self) -> None:
        """A user's code has answered at last."""
        now = self.factory.seconds()
        replies = self.session.resume(now)
        if replies:
            self._send(self._observe(True, replies))
        self._follow(now)

    def _expire(self) -> None:
        self._timer = None
        now = self.factory.seconds()
        deadline = self.session.deadline()
        # The timer is left alone when a deadline is withdrawn, and runs on a clock that may be set.
        if deadline is not None and deadline <= now:
            replies = self.session.expire(now)
            if replies:
                self._send(self._observe(True, replies))
        self._follow(now)

    def _check_idle(self) -> None:
        """Close the connection if nothing has come for long; who waits for a user's code is not idle, nor is who takes replies."""
        self._idle = None
        now, idle = self.factory.seconds(), self.factory.idle_timeout
        before, self._left = self._left, self._unsent()
        if self._left < before or self.session.waiting:
            self.last_heard = now
        rest = self.last_heard + idle - now
        if rest > 0:
            self._idle = self.factory.reactor.callLater(rest, self._check_idle)
        else:
            self.close()

    def _unsent(self) -> int:
        """Bytes of replies that the kernel has not taken yet."""
        descriptor = self._descriptor
        return len(descriptor.dataBuffer) - descriptor.offset + descriptor._tempDataLen if descriptor is not None else 0

    def _cut(self) -> None:
        self._abort = None
        self.transport.abortConnection()
