"""One serial line's server: its factory and protocol, and Twisted as the carrier of its bytes. Decides nothing about Modbus."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.serialport import SerialPort
from twisted.python.failure import Failure

from mbcore.errors import ConfigurationError, LineError
from mbcore.line import LineSession

from . import rs485
from .factory import OF_LOOPS, OF_SESSIONS, ModbusServerFactory
from .line import Carrier, Line
from .port import FORMAT, SettingError, dropped_settings, open_port, set_low_latency
from .settings import check_line
from .tcp import ModbusTcpProtocol

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

_log = logging.getLogger(__name__)


class ModbusSerialProtocol(ModbusTcpProtocol):
    """Answers on one serial line, as long as its port is open. Nothing that comes in closes the line."""

    factory: ModbusSerialFactory

    # What others say on the line has to be heard.
    _holds_back = False

    def stream_broken(self) -> None:
        """Start over at the next byte: a line cannot be made anew by the other side, as a client's connection can."""
        self.session.reset()

    def __str__(self) -> str:
        return f"serial line {self.factory.name}"


class ModbusSerialFactory(ModbusServerFactory):
    """What the server of one serial line holds; builds a protocol whenever its port is opened.

    :param line: StartSerialServer's keywords for the line
    """

    protocol = ModbusSerialProtocol

    def __init__(self, store: Any, framer: Any, identity: Any, line: Mapping[str, Any], **kwargs: Any) -> None:
        super().__init__(store, framer, identity, **kwargs)
        self.settings = check_line(line, self.framer, self.store)
        self.name = self.settings.name
        #: The line's session: one for all its life, as its counters are.
        self.session = LineSession(self.framer, self.store, self.control, **self.settings.session, **self._session_options())
        self._told = False

    def buildSession(self) -> LineSession:
        """The line's session, which has forgotten what was on its way."""
        self.session.reset()
        return self.session

    def open_port(self) -> Any:
        """The line's port, open and set up.

        :raises LineError: when it is absent, busy, not permitted or no serial port
        :raises ConfigurationError: when it cannot be set up as asked
        """
        settings, name = self.settings, self.name
        # inter_byte_timeout=0 makes a read without data fail: the empty read it would be otherwise looks like a line that has gone.
        port = open_port(name, rts=settings.direction.idle_rts, **settings.port, timeout=0, inter_byte_timeout=0)
        try:
            self._tell_dropped(dropped_settings(port, **{word: settings.port[word] for word in FORMAT}))
            if settings.low_latency:
                set_low_latency(port, name)
            _set_direction(port, name, settings.direction)
        except BaseException:
            port.close()
            raise
        return port

    def _is_fixed(self, name: str, value: Any) -> bool:
        # The line's session is one for all its life, whatever carries the bytes.
        if self.line is None or (name == "trace_packet" and not self.engine):
            return False
        return name in OF_SESSIONS | OF_LOOPS and value is not getattr(self, name)

    def _renew_sessions(self) -> None:
        if self.line is not None:
            raise ConfigurationError(f"serial line {self.name} is served already: give custom_functions to StartSerialServer")

    def _tell_dropped(self, dropped: str) -> None:
        # Only a pseudo-terminal gets here with settings that its driver has dropped.
        if dropped and not self._told:
            self._told = True
            _log.warning("serial line %s is a pseudo-terminal, which has set %s; it carries bytes all the same", self.name, dropped)


def _set_direction(port: Any, name: str, direction: rs485.Direction) -> None:
    """Have the port's driver switch the transceiver, where it is to; "rts" and "gpio" are the carrier's to do."""
    if direction.kind == "kernel":
        rs485.kernel_mode(
            port.fileno(), name, active=direction.active, delay_before=direction.delay_before, delay_after=direction.delay_after
        )


class LinePort(SerialPort):
    """A serial port as Twisted's transport, over a port that is open already."""

    # Replies may be written at once, see ModbusTcpProtocol.
    TLS = False

    def __init__(self, factory: ModbusSerialFactory, port: Any, lost: Callable[[str], None]) -> None:
        self._open_port = port
        self._lost = lost
        SerialPort.__init__(self, factory.buildProtocol(None), factory.name, factory.reactor)

    def _serialFactory(self, *_args: Any, **_settings: Any) -> Any:
        return self._open_port

    def connectionLost(self: Any, reason: Failure) -> None:
        """The device has gone, or the port is closed."""
        try:
            SerialPort.connectionLost(self, reason)
        finally:
            self._lost("it hung up" if reason.check(ConnectionDone, ConnectionLost) else reason.getErrorMessage())

    def abortConnection(self: Any) -> None:
        """Close the port now; what is not sent yet is lost."""
        if self.connected:
            # The kernel would wait for these bytes, half a minute if flow control holds them up.
            with suppress(OSError, SettingError):  # of a device that has gone
                self.flushOutput()
            self.connectionLost(Failure(ConnectionAborted()))


class TwistedCarrier:
    """The reactor moves the bytes, through a protocol of the factory."""

    def __init__(self, factory: ModbusSerialFactory) -> None:
        self._factory = factory

    def open(self, port: Any, lost: Callable[[str], None]) -> None:
        """Serve an open port."""
        try:
            LinePort(self._factory, port, lost)
        except SettingError as error:  # the device went while it was opened
            raise LineError(f"the serial port {self._factory.name} has just gone: {error}") from error

    def close(self) -> Deferred[None]:
        """Close the port when the last reply is out."""
        return self._factory.close_connections()


def open_line(factory: ModbusSerialFactory) -> Line:
    """Open the factory's line and serve it, or wait for its device.

    :raises LineError: when the port is busy, not permitted or no serial port; unless it is to be reopened, also when it is absent
    :raises ConfigurationError: when it cannot be set up as asked
    """
    settings = factory.settings
    carrier = _carrier(factory)
    factory.engine = not isinstance(carrier, TwistedCarrier)
    line = factory.line = Line(factory, carrier, settings.reopen)
    line.open()
    if settings.session["units"] is None and factory.store.single:
        _log.warning(
            "serial line %s answers every unit id, since its context has single=True: where other slaves share the line, give"
            " units=[1] with the ids that are this one's",
            factory.name,
        )
    return line


def _carrier(factory: ModbusSerialFactory) -> Carrier:
    """What carries the line's bytes: the compiled loop where it can.

    :raises ConfigurationError: when that cannot do what the user wants
    """
    settings = factory.settings
    wishes = {
        "realtime is True": settings.realtime,
        f'direction is "{settings.direction.kind}"': settings.direction.kind in ("rts", "gpio"),
    }
    if not factory.wants_loop(settings.engine, ModbusSerialProtocol, wishes):
        return TwistedCarrier(factory)
    from .loop import LoopCarrier

    return LoopCarrier(factory)
