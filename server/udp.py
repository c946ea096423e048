"""Modbus over datagrams: each carries one frame, each reply goes to its sender. Decides nothing about Modbus."""

from __future__ import annotations

import logging
from typing import Any

from twisted.internet.protocol import DatagramProtocol

from .factory import ModbusServerBase
from .report import Rarely

_log = logging.getLogger(__name__)


class ModbusUdpProtocol(ModbusServerBase, DatagramProtocol):
    """A server for ``reactor.listenUDP`` and .tac files; the parameters are those of :class:`ModbusServerBase`."""

    transport: Any
    noisy = False

    def __init__(self, store: Any = None, framer: Any = None, identity: Any = None, **kwargs: Any) -> None:
        super().__init__(store, framer, identity, **kwargs)
        self.session = self.buildSession()
        self._undelivered = Rarely()

    def startProtocol(self) -> None:
        """The port is open."""
        self.run_trace_connect(True)

    def stopProtocol(self) -> None:
        """The port is closed."""
        self.run_trace_connect(False)

    def datagramReceived(self, data: bytes, addr: tuple[str, int]) -> None:
        """One frame of the client at ``addr``; what is not exactly one is dropped, and so is all of a host that is not let in."""
        if not self.admits(addr[0]):
            return
        observed = self.trace_packet is not None or _log.isEnabledFor(logging.DEBUG)
        if observed:
            data = self._observe(False, data, addr)
        reply = self.session.datagram(data)
        if reply:
            if observed:
                reply = self._observe(True, reply, addr)
            try:
                self.transport.write(reply, addr)
            except OSError as error:
                # Anyone can forge an address that nothing can be sent to.
                if (number := self._undelivered.count(error.errno)) is not None:
                    _log.warning("a reply to %s:%s could not be sent: %s (%d times so far)", addr[0], addr[1], error, number)

    def _observe(self, sending: bool, data: bytes, addr: tuple[str, int]) -> bytes:
        data = self.run_trace_packet(sending, data)
        if _log.isEnabledFor(logging.DEBUG):
            _log.debug("%s:%s %s %s", addr[0], addr[1], "<" if sending else ">", data.hex(" "))
        return data
