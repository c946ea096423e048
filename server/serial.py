"""A serial line: opens the port, keeps it raw and ours, and says why when that fails. Decides nothing about Modbus."""

from __future__ import annotations

import logging
from typing import Any

from twisted.internet.error import ConnectionAborted
from twisted.internet.protocol import connectionDone
from twisted.internet.serialport import SerialPort
from twisted.python.failure import Failure

from mbcore.line import LineSession

from .factory import ModbusServerFactory
from .port import open_port
from .tcp import ModbusTcpProtocol

try:
    import termios
except ImportError:  # pragma: no cover - not a POSIX system
    termios = None  # type: ignore[assignment]

_log = logging.getLogger(__name__)

CHARACTER_BITS = 11  # start, 8 data, parity or second stop, stop (Modbus over Serial Line V1.02, 2.5.1)
FAST_BAUDRATE = 19200  # above it the gap between frames is fixed (2.5.1.1)
FAST_GAP = 0.00175


def frame_gap(baudrate: int) -> float:
    """The silence that parts two RTU frames (t3.5), in seconds."""
    return FAST_GAP if baudrate > FAST_BAUDRATE else 3.5 * CHARACTER_BITS / baudrate


class ModbusSerialProtocol(ModbusTcpProtocol):
    """Answers on one serial line. Nothing that comes in closes the line."""

    factory: ModbusSerialFactory

    # What others say on the line has to be heard.
    _holds_back = False

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The port is closed, or its device has gone."""
        super().connectionLost(reason)
        if not self.closing:
            _log.error("%s is gone: start the server again when the device is back", self)

    def stream_broken(self) -> None:
        """Start over at the next byte: other than a client's connection, a line cannot be made anew."""
        self.session.reset()

    def __str__(self) -> str:
        return f"serial line {self.factory.line}"


class ModbusSerialFactory(ModbusServerFactory):
    """What the server of one serial line holds; builds the protocol of its port.

    :param line: the port's name, for the log
    :param gap: t3.5 in seconds
    """

    protocol = ModbusSerialProtocol

    def __init__(self, store: Any, framer: Any, identity: Any, line: str, gap: float, **kwargs: Any) -> None:
        super().__init__(store, framer, identity, **kwargs)
        self.line = line
        #: Keywords of the line's session.
        self.line_options: dict[str, Any] = {"frame_gap": gap}

    def buildSession(self) -> LineSession:
        """A new session for the line."""
        return LineSession(self.framer, self.store, self.control, **self.line_options, **self._session_options())


class LinePort(SerialPort):
    """A serial port for this process alone, on which no byte means more than itself."""

    # Replies may be written at once, see ModbusTcpProtocol.
    TLS = False

    def __init__(self, factory: ModbusSerialFactory, **settings: Any) -> None:
        SerialPort.__init__(self, factory.buildProtocol(None), factory.line, factory.reactor, **settings)

    def _serialFactory(self, *args: Any, **settings: Any) -> Any:
        # inter_byte_timeout=0 makes a read without data fail: the empty read it would be otherwise looks like a line that has gone.
        port = open_port(*args, inter_byte_timeout=0, **settings)
        if termios is not None:
            # A break, which an RS-485 pair without bias makes, must not flush the input.
            attributes = termios.tcgetattr(port.fileno())
            attributes[0] &= ~termios.BRKINT
            termios.tcsetattr(port.fileno(), termios.TCSANOW, attributes)
        return port

    def abortConnection(self: Any) -> None:
        """Close the port now; what is not sent yet is lost."""
        if self.connected:
            # The kernel would wait for these bytes, half a minute if flow control holds them up.
            self.flushOutput()
            self.connectionLost(Failure(ConnectionAborted()))


def open_line(
    factory: ModbusSerialFactory,
    baudrate: int = 19200,
    bytesize: int = 8,
    parity: str = "N",
    stopbits: float = 1,
    xonxoff: bool = False,
    rtscts: bool = False,
) -> LinePort:
    """Open the factory's line and serve it.

    :raises LineError: when the port is absent, busy, not permitted or no serial port
    :raises ConfigurationError: when it does not know the speed or the character format
    """
    return LinePort(
        factory,
        baudrate=baudrate,
        bytesize=bytesize,
        parity=parity,
        stopbits=stopbits,
        xonxoff=xonxoff,
        rtscts=rtscts,
    )
