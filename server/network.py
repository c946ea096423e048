"""The compiled loops as the carriers of network servers: their threads, and what they want of the reactor. No Modbus here."""

from __future__ import annotations

import logging
import os
import select
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

from twisted.internet.interfaces import IReadDescriptor
from zope.interface import implementer

from .report import Rarely
from .thread import LoopThread
from .waiting import Waiting

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred
    from twisted.python.failure import Failure

    from mbcore.engine.tcp import TcpLoop
    from mbcore.engine.udp import UdpLoop
    from mbcore.session import Session

    from .factory import ModbusServerFactory
    from .udp import ModbusUdpProtocol

_log = logging.getLogger(__name__)

# Seconds that requests which come one upon another are answered before the reactor has its turn, where nothing else needs it.
TURN = 0.001
# More connections than a process may have.
MOST = 1 << 20


def poller_of(reactor: Any) -> Any:
    """The epoll object by which a reactor waits for all descriptors; None where it has another way."""
    poller = getattr(reactor, "_poller", None)
    return poller if isinstance(poller, select.epoll) and hasattr(reactor, "timeout") else None


@implementer(IReadDescriptor)
class LoopServer:
    """A thread without the GIL serves an open port; the reactor is asked where Python is needed.

    A subclass makes the loop, and says what there is to tell of it.

    :param port: a real port of Twisted's, which the reactor does not read any more
    """

    loop: Any

    def __init__(self, factory: Any, port: Any) -> None:
        self._factory = factory
        self._port = port
        self._waiting = Waiting(factory)
        self._rarely = Rarely()
        # What was told of the loop's counters and its context's.
        self._told: dict[str, int] = {"lost": factory.store.lost}
        self._news = 0
        # By what the reactor waits, and when the loop was attended to the last time.
        self._poller = poller_of(factory.reactor)
        self._attended = float("-inf")
        # Twisted asks for it each time.
        self._prefix = f"{type(self).__name__} on {port.getHost()}"
        # Who has a rule of his own for the hosts that are let in has loaded its module.
        device: Any = sys.modules.get("mbcore.device")
        if device:
            device.tell_loops()
        self.loop = self._make_loop()
        self._thread = LoopThread(self.loop, str(port.getHost().port), factory.reactor, self._fall_back)
        self._thread.start()
        port.stopReading()
        factory.reactor.addReader(self)
        factory.carrier = self
        factory.turning = self.turning

    def close(self) -> Deferred[None] | None:
        """Close the port and all connections; the Deferred fires when the port is free.

        :raises RuntimeError: where another process serves
        """
        self.loop.stop()
        self._end()
        return self._port.stopListening()  # type: ignore[no-any-return]

    def turning(self) -> bool:
        """Whether the loop turns; where Twisted has taken over there is none."""
        return self._factory.carrier is None or self._thread.turning(self._factory.seconds())

    def fileno(self) -> int:
        """What the reactor watches."""
        return self.loop.fileno()  # type: ignore[no-any-return]

    def doRead(self) -> None:
        """The loop wants something."""
        # Of the loop first: each request of a user's block comes here.
        if self.loop.elsewhere and self._thread.elsewhere():
            return
        begun = self._factory.seconds()
        soon = begun - self._attended < TURN
        while self._attend() and soon and self._lingers(begun + TURN):
            pass
        if self._news != self.loop.news:
            self._tell()

    def _lingers(self, until: float) -> bool:
        """Wait for what the loop wants next, as long as nothing else needs the reactor: its own turn takes longer than an answer."""
        if self._poller is None:
            return False
        try:
            delay = self._factory.reactor.timeout()
            left = until - self._attended
            return self.loop.linger(self._poller.fileno(), left if delay is None else min(delay, left))  # type: ignore[no-any-return]
        except BaseException as error:
            # Of a signal's handler. As it would in the reactor's own turn, this ends neither the server nor the program.
            self._factory.report("a signal's handler has interrupted the reactor", error)
            return False

    def connectionLost(self, reason: Failure) -> None:
        """The reactor forgets its readers: it was stopped."""
        if not self._thread.elsewhere():
            self.loop.stop()
            self._end()

    def logPrefix(self) -> str:
        """For Twisted's log."""
        return self._prefix

    def renew(self) -> None:
        """What sessions are made of has changed."""
        self.loop.renew()

    def trace(self) -> None:
        """There is a ``trace_connect`` hook now, or there is none."""

    def _make_loop(self) -> Any:
        """The loop of the port, which does not run yet."""

    def _tell(self) -> None:
        """Log what the loop has counted, now and then."""
        self._news = self.loop.news
        lost = self._grown("lost", self._factory.store.lost)
        if lost and (number := self._rarely.count("lost", lost)) is not None:
            _log.warning("values that masters have written are not told to observers: there is no memory (%d so far)", number)
        if turned_away := self._grown("turned away", self.loop.turned_away):
            self._factory.note_turned_away(turned_away)

    def _grown(self, counter: str, number: int) -> int:
        """By how much a counter has grown to `number` since the last time."""
        told = self._told.get(counter, 0)
        self._told[counter] = number
        return number - told

    def _end(self) -> None:
        self._factory.reactor.removeReader(self)
        self._thread.join()
        # Observers hear of the last writes too, whatever they raise; answers that a user's code still owes are given up.
        while not self._attend():
            pass
        self._tell()
        self._factory.carrier = None
        vars(self._factory).pop("turning", None)
        self.loop.close()

    def _attend(self) -> bool:
        """Do what the loop wants of Python; False where that was interrupted, and something may be left."""
        try:
            for session in self.loop.attend():
                self._watch(session)
            self._attended = self._factory.seconds()
        except BaseException as error:
            # Of a user's code that wants to end the program: as with Twisted its connection ends. Raised here it would end all.
            self._factory.report("a user's code was interrupted; a connection that waited for it is closed", error)
            return False
        return True

    def _fall_back(self, reason: str) -> None:
        """The system gives no thread: Twisted serves the port."""
        _log.error("the server on %s has no thread of its own (%s): Twisted carries its bytes", self._port.getHost(), reason)
        self._factory.reactor.removeReader(self)
        self._factory.carrier = None
        self._factory.engine = False
        self._port.startReading()

    def _new_session(self) -> Session:
        session: Session = self._factory.buildSession()
        session.wake = partial(self._resume, session)
        return session

    def _watch(self, session: Session) -> None:
        self._waiting.watch(session, self._give_up, session)

    def _resume(self, session: Session) -> None:
        """A user's code has answered at last."""
        try:
            self.loop.resume(session)
        finally:
            self._watch(session)

    def _give_up(self, session: Session) -> None:
        """It has not."""
        try:
            self.loop.give_up(session)
        finally:
            self._watch(session)


class TcpServer(LoopServer):
    """Accepts the connections of a TCP port and serves them."""

    loop: TcpLoop
    _factory: ModbusServerFactory

    def _make_loop(self) -> TcpLoop:
        from mbcore.engine.tcp import TcpLoop

        factory = self._factory
        loop = TcpLoop(
            self._port.fileno(),
            self._new_session,
            min(factory.max_connections, MOST),
            factory.idle_timeout,
            per_host=min(factory.max_connections_per_host or 0, MOST),
            admit=factory.admits,
            told=factory.run_trace_connect,
        )
        loop.trace(factory.trace_connect is not None)
        return loop

    def trace(self) -> None:
        """Have the hook told of the connections from now on, or no more."""
        self.loop.trace(self._factory.trace_connect is not None)

    def disconnect(self) -> None:
        """Close all connections there are; the factory is told when none is left."""
        # Who waits since before is told with those who wait from now on.
        self._grown("emptied", self.loop.emptied)
        self.loop.disconnect()

    def _tell(self) -> None:
        super()._tell()
        if evicted := self._grown("evicted", self.loop.evicted):
            self._factory.note_eviction(evicted)
        if broken := self._grown("broken", self.loop.broken):
            self._factory.note_broken(self.loop.broken_peer or "a client", broken)
        if refused := self._grown("refused", self.loop.refused):
            self._factory.note_refusal(self.loop.refusal, refused)
        # Others may have come since.
        if self._grown("emptied", self.loop.emptied) or not self.loop.count:
            self._factory.none_left()


class UdpServer(LoopServer):
    """Answers the datagrams of a UDP port."""

    loop: UdpLoop
    _factory: ModbusUdpProtocol

    def _make_loop(self) -> UdpLoop:
        from mbcore.engine.udp import UdpLoop

        from .udp import MAX_WAITING

        return UdpLoop(self._port.fileno(), self._new_session, MAX_WAITING, admit=self._factory.admits)

    def _tell(self) -> None:
        super()._tell()
        if dropped := self._grown("dropped", self.loop.dropped):
            self._factory.note_dropped(dropped)
        if undelivered := self._grown("undelivered", self.loop.undelivered):
            self._factory.note_undelivered(self.loop.undelivered_peer, os.strerror(self.loop.refusal), undelivered)
