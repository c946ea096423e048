"""The compiled loop as the carrier of a TCP server's connections: its thread, and what it wants of the reactor. No Modbus here."""

from __future__ import annotations

import os
import signal
import socket
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

from twisted.internet.interfaces import IReadDescriptor
from zope.interface import implementer

from mbcore.engine.tcp import TcpLoop

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred
    from twisted.internet.tcp import Port
    from twisted.python.failure import Failure

    from mbcore.session import Session

    from .factory import ModbusServerFactory


# Seconds that the loop may be deaf before it is taken to hang.
DEAF = 5.0


@implementer(IReadDescriptor)
class LoopServer:
    """A thread without the GIL accepts and serves the connections of an open port; the reactor is asked where Python is needed.

    :param port: listens, and is not read by the reactor any more
    """

    def __init__(self, factory: ModbusServerFactory, port: Port) -> None:
        self._factory = factory
        self._port = port
        # Sessions whose answer a user's code owes, each with the timer that gives it up.
        self._timers: dict[Session, Any] = {}
        self._evicted = 0
        # Since when the loop is known to be deaf.
        self._deaf: float | None = None
        self.loop = TcpLoop(port.fileno(), self._new_session, factory.max_connections, admit=self._admit)
        self._thread = threading.Thread(target=_run, args=(self.loop,), name=f"mbcore {port.getHost().port}", daemon=True)
        self._thread.start()
        port.stopReading()
        factory.reactor.addReader(self)
        factory.turning = self.turning

    def close(self) -> Deferred[None] | None:
        """Close the port and all connections; the Deferred fires when the port is free."""
        self._factory.reactor.removeReader(self)
        self._end()
        return self._port.stopListening()  # type: ignore[no-any-return]

    def turning(self) -> bool:
        """Whether the loop turns."""
        now = self._factory.seconds()
        self._deaf = None if self.loop.knock() else self._deaf or now
        return not self.loop.over and now - (self._deaf or now) <= DEAF

    def fileno(self) -> int:
        """What the reactor watches."""
        return self.loop.fileno()

    def doRead(self) -> None:
        """The loop wants something."""
        try:
            for session in self.loop.attend():
                self._watch(session)
        except BaseException as error:
            # Of a user's code that wants to end the program: as with Twisted its connection ends. Raised here it would end all.
            self._factory.report("a connection is closed: a user's code was interrupted", error)
        if self.loop.evicted != self._evicted:
            self._evicted = self.loop.evicted
            self._factory.note_eviction()

    def connectionLost(self, reason: Failure) -> None:
        """The reactor forgets its readers: it was stopped."""
        self._end()

    def logPrefix(self) -> str:
        """For Twisted's log."""
        return f"TCP server on {self._port.getHost()}"

    def _end(self) -> None:
        self.loop.stop()
        self._thread.join()
        # Observers hear of the last writes too; answers that a user's code still owes are given up.
        self.doRead()

    def _new_session(self) -> Session:
        session = self._factory.buildSession()
        session.wake = partial(self._resume, session)
        return session

    def _admit(self, descriptor: int) -> bool:
        try:
            with socket.socket(fileno=os.dup(descriptor)) as peer:
                host = peer.getpeername()[0]
        except OSError:  # it has gone
            return False
        return self._factory.admits(host)

    def _watch(self, session: Session) -> None:
        """Have the answer given up in time that a session waits for; or no more, where it waits for none."""
        timer = self._timers.pop(session, None)
        if timer is not None:
            timer.cancel()
        if session.waiting:
            deadline: Any = session.deadline()
            delay = max(deadline - self._factory.seconds(), 0)
            self._timers[session] = self._factory.reactor.callLater(delay, self._give_up, session)

    def _resume(self, session: Session) -> None:
        """A user's code has answered at last."""
        try:
            self.loop.resume(session)
        finally:
            self._watch(session)

    def _give_up(self, session: Session) -> None:
        """It has not."""
        del self._timers[session]
        try:
            self.loop.give_up(session)
        finally:
            self._watch(session)


def _run(loop: TcpLoop) -> None:
    # Signals are the main thread's.
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    loop.run()
