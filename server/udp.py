"""Modbus over datagrams: each carries one frame, each reply goes to its sender. Decides nothing about Modbus."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from twisted.internet.protocol import DatagramProtocol

from .factory import ModbusServerBase, remember
from .report import Rarely
from .waiting import Waiting

if TYPE_CHECKING:
    from mbcore.session import Session

_log = logging.getLogger(__name__)

# Requests whose answers a user's code owes, at most; further ones are dropped.
MAX_WAITING = 1000


class ModbusUdpProtocol(ModbusServerBase, DatagramProtocol):
    """A server for ``reactor.listenUDP`` and .tac files; the parameters are those of :class:`ModbusServerBase`."""

    transport: Any
    noisy = False

    def __init__(self, store: Any = None, framer: Any = None, identity: Any = None, **kwargs: Any) -> None:
        super().__init__(store, framer, identity, **kwargs)
        #: The session of the next datagram.
        self.session = self.buildSession()
        self._undelivered = Rarely()
        self._waiting = Waiting(self)

    def startProtocol(self) -> None:
        """The port is open."""
        self.run_trace_connect(True)

    def stopProtocol(self) -> None:
        """The port is closed."""
        waiting = self._waiting.forget()
        for session in waiting:
            # Before: a user's canceller may answer others.
            session.wake = None
        for session in waiting:
            session.reset()
        self.run_trace_connect(False)

    def datagramReceived(self, data: bytes, addr: tuple[str, int]) -> None:
        """One frame of the client at ``addr``; what is not exactly one is dropped, and so is all of a host that is not let in."""
        if not self.admits(addr[0]):
            return
        if self.trace_packet is not None or _log.isEnabledFor(logging.DEBUG):
            data = self._observe(False, data, addr)
        session = self.session
        reply = session.datagram(data, self.seconds())
        if reply:
            self._send(reply, addr)
        elif session.waiting:
            self._wait(session, addr)

    def _wait(self, session: Session, addr: tuple[str, int]) -> None:
        """Keep the session until a user's code has answered; a new one takes the next datagrams."""
        if len(self._waiting) >= MAX_WAITING:
            session.reset()
            self.note_dropped()
            return
        self.session = self.buildSession()
        session.wake = partial(self._resume, session, addr)
        self._waiting.watch(session, self._give_up, session, addr)

    def _resume(self, session: Session, addr: tuple[str, int]) -> None:
        """A user's code has answered at last."""
        try:
            reply = session.resume(self.seconds())
            if reply:
                self._send(reply, addr)
        finally:
            self._waiting.watch(session, self._give_up, session, addr)

    def _give_up(self, session: Session, addr: tuple[str, int]) -> None:
        """It has not."""
        try:
            reply = session.expire(cast(float, session.deadline()))
            if reply:
                self._send(reply, addr)
        finally:
            # Of a broadcast another unit may be asked now.
            self._waiting.watch(session, self._give_up, session, addr)

    def _send(self, reply: bytes, addr: tuple[str, int]) -> None:
        if self.trace_packet is not None or _log.isEnabledFor(logging.DEBUG):
            reply = self._observe(True, reply, addr)
        try:
            self.transport.write(reply, addr)
        except OSError as error:
            # Anyone can forge an address that nothing can be sent to.
            self.note_undelivered(f"{addr[0]}:{addr[1]}", str(error))

    def note_dropped(self, times: int = 1) -> None:
        """A request was dropped because too many wait, or several since the last time: say so now and then."""
        if (number := self._undelivered.count("waiting", times)) is not None:
            _log.warning("too many requests wait for answers already; one more is dropped (%d times so far)", number)

    def note_undelivered(self, client: object, reason: str, times: int = 1) -> None:
        """A reply could not be sent, or several since the last time: say so now and then."""
        if (number := self._undelivered.count(reason, times)) is not None:
            _log.warning("a reply to %s could not be sent: %s (%d times so far)", client, reason, number)

    def _renew_sessions(self) -> None:
        if "session" in vars(self):  # else it is being made
            self.session = self.buildSession()
        super()._renew_sessions()

    def _observe(self, sending: bool, data: bytes, addr: tuple[str, int]) -> bytes:
        data = self.run_trace_packet(sending, data)
        if _log.isEnabledFor(logging.DEBUG):
            _log.debug("%s:%s %s %s", addr[0], addr[1], "<" if sending else ">", data.hex(" "))
        return data


remember(ModbusUdpProtocol)
