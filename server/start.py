"""The Start functions: from keywords to a server that listens. Leaves life and death of the server to ``running``."""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.error import CannotListenError, ConnectionDone
from twisted.internet.tcp import Port as TcpPort
from twisted.internet.udp import Port as UdpPort
from twisted.python.failure import Failure

from mbcore.errors import ConfigurationError, LineError

from .factory import ModbusServerBase, ModbusServerFactory
from .options import (
    LINE_KEYWORDS,
    SERIAL_KEYWORDS,
    TCP_KEYWORDS,
    TLS_KEYWORDS,
    UDP_KEYWORDS,
    check_address,
    check_choice,
    check_count,
    take_options,
)
from .running import RunningServer, start_server
from .tcp import ModbusTcpProtocol

if TYPE_CHECKING:
    from .udp import ModbusUdpProtocol

PORT = 502
TLS_PORT = 802
# After a power cut every client connects at once; one that finds the queue full tries again a second later.
BACKLOG = 1024
# Bytes of replies that the kernel keeps for a client; left to itself it would give each of them megabytes.
SEND_BUFFER = 65536


def StartTcpServer(
    context: Any = None,
    identity: Any = None,
    address: tuple[str, int] | None = None,
    console: bool | Mapping[str, Any] = False,
    defer_reactor_run: bool = False,
    custom_functions: Iterable[Any] = (),
    **kwargs: Any,
) -> RunningServer:
    """Serve Modbus TCP, and run the reactor until it is stopped.

    In a thread of its own it runs the reactor there. When the reactor runs already, in this thread or another, the server joins it and
    the function returns at once.

    :param context: a ModbusServerContext; None makes one with default blocks
    :param identity: a ModbusDeviceIdentification
    :param address: (interface, port); None is every IPv4 interface and port 502; port 0 takes a free one
    :param console: True: an SSH shell on 127.0.0.1; or a dict with parameters of :func:`mbcore.server.console.start_console`
    :param defer_reactor_run: True: return at once and leave ``reactor.run()`` to the caller
    :param framer: MBAP framing by default; ModbusRtuFramer or "rtu" is RTU over TCP
    :param ignore_missing_slaves: True: silence for a unit that is not there; False: exception 0x0B
    :param broadcast_enable: True: unit 0 is a broadcast
    :param answer_timeout: seconds that a data block may take when it answers with a Deferred, 3 by default; then exception 0x0B
    :param trace_packet: ``hook(sending, data) -> data``
    :param trace_pdu: ``hook(sending, pdu) -> pdu``
    :param trace_connect: ``hook(connected)``
    :param engine: True: a compiled loop carries the bytes, whatever Python does meanwhile; False: Twisted does; None, the default: the
        loop, on Linux, where nothing needs to see every message, and the handle's ``engine`` tells
    :param max_connections: connections held at most, see :class:`ModbusServerFactory`; 2000 by default
    :param max_connections_per_host: as ``max_connections``, of those of one host; no limit by default
    :param idle_timeout: seconds after which a connection that says nothing and takes no replies is closed; 0, the default: never
    :param backlog: connections that may wait to be accepted, 1024 by default
    :param reactor: Twisted's reactor; None is the installed one
    :returns: the server's handle
    :raises LineError: when the port cannot be opened
    :raises ConfigurationError: for a value that cannot be used
    :raises TypeError: for an unknown keyword; those of other pymodbus servers get an :class:`~mbcore.server.IgnoredKeywordWarning`
    :raises ReactorNotRestartable: when the reactor has run before and has been stopped
    """
    options = take_options("StartTcpServer", kwargs, TCP_KEYWORDS, custom_functions=custom_functions)
    host, port = check_address(address, PORT)
    backlog = check_count("backlog", options.pop("backlog", BACKLOG), 1)
    engine = _take_engine(options)
    factory = ModbusServerFactory(context, identity=identity, **options)
    factory.engine = factory.wants_loop(engine, ModbusTcpProtocol, {})
    listen = partial(factory.reactor.listenTCP, port, factory, backlog, host)
    return start_server(partial(_open_port, "TCP", factory, host, port, listen, engine), factory.reactor, console, defer_reactor_run)


def StartTlsServer(
    context: Any = None,
    identity: Any = None,
    address: tuple[str, int] | None = None,
    certfile: str | os.PathLike[str] | None = None,
    keyfile: str | os.PathLike[str] | None = None,
    cafile: str | os.PathLike[str] | None = None,
    sslctx: Any = None,
    console: bool | Mapping[str, Any] = False,
    defer_reactor_run: bool = False,
    custom_functions: Iterable[Any] = (),
    **kwargs: Any,
) -> RunningServer:
    """Serve Modbus over TLS 1.2 or later; everything else is as with :func:`StartTcpServer`. Needs the extra ``tls``.

    :param address: (interface, port); None is every IPv4 interface and port 802
    :param certfile: the server's certificate, and those between it and the root, a PEM file
    :param keyfile: its private key, a PEM file without a password
    :param cafile: PEM file with the certificates that clients' certificates must come from; None: clients need none
    :param sslctx: twisted.internet.ssl.CertificateOptions or a pyOpenSSL Context, instead of the files
    """
    options = take_options("StartTlsServer", kwargs, TLS_KEYWORDS, custom_functions=custom_functions)
    host, port = check_address(address, TLS_PORT)
    from .tls import tls_context

    tls = tls_context(certfile=certfile, keyfile=keyfile, cafile=cafile, sslctx=sslctx)
    backlog = check_count("backlog", options.pop("backlog", BACKLOG), 1)
    factory = ModbusServerFactory(context, identity=identity, **options)
    listen = partial(factory.reactor.listenSSL, port, factory, tls, backlog, host)
    return start_server(partial(_open_port, "TLS", factory, host, port, listen), factory.reactor, console, defer_reactor_run)


def StartUdpServer(
    context: Any = None,
    identity: Any = None,
    address: tuple[str, int] | None = None,
    defer_reactor_run: bool = False,
    custom_functions: Iterable[Any] = (),
    console: bool | Mapping[str, Any] = False,
    **kwargs: Any,
) -> RunningServer:
    """Serve Modbus UDP; the parameters are those of :func:`StartTcpServer` without those of connections."""
    options = take_options("StartUdpServer", kwargs, UDP_KEYWORDS, custom_functions=custom_functions)
    host, port = check_address(address, PORT)
    engine = _take_engine(options)
    from .udp import ModbusUdpProtocol

    protocol = ModbusUdpProtocol(context, identity=identity, **options)
    protocol.engine = protocol.wants_loop(engine, ModbusUdpProtocol, {})
    listen = partial(_listen_udp, protocol, host, port)
    return start_server(partial(_open_port, "UDP", protocol, host, port, listen, engine), protocol.reactor, console, defer_reactor_run)


def StartSerialServer(
    context: Any = None,
    identity: Any = None,
    framer: Any = "ascii",
    defer_reactor_run: bool = False,
    custom_functions: Iterable[Any] = (),
    console: bool | Mapping[str, Any] = False,
    **kwargs: Any,
) -> RunningServer:
    """Serve a serial line; the parameters are those of :func:`StartTcpServer` without the address and those of connections.

    The line is opened for this process alone. Unit 0 is a broadcast, and for absent units there is silence. A device that is absent, or
    vanishes, is waited for and opened again by the same name; the handle's ``line`` tells of it and has the line's counters.

    :param framer: "ascii", which is ModbusAsciiFramer, by default, as in pymodbus; most lines speak ModbusRtuFramer or "rtu"
    :param port: the device, "/dev/ttyS0" by default; a name that stays the same is one of /dev/serial/by-id or by-path
    :param baudrate: bits a second, 19200 by default
    :param bytesize: data bits, 8 by default
    :param parity: "N" by default, "E" or "O"
    :param stopbits: 1 by default, 1.5 or 2
    :param xonxoff: software flow control, off by default
    :param rtscts: hardware flow control, off by default
    :param units: the unit ids that this line answers, one or several of 1..247; all others are other slaves'. None: all that the context
        has, which with ``single=True`` is every id: no other slave can share the line then, and the log warns of it
    :param frame_gap: seconds of silence that end an RTU frame, up to 1; None: 3.5 characters, 1.75 ms above 19200 Bd
    :param reply_delay: seconds from the end of a request to its reply at the earliest; None: with RTU the frame gap, else 0
    :param reply_deadline: seconds after which a reply is not sent any more, 1 by default; 0: none
    :param echo: "auto" recognises the line's own replies where the adapter hears them, "drop" expects them, "none" takes all for others'
    :param direction: who switches the transceiver: "auto" by default (itself), "kernel", "rts" or "gpio"
    :param direction_chip: with "gpio", the chip; "/dev/gpiochip0" by default
    :param direction_line: with "gpio", the number of its line
    :param direction_active: its state while sending, "high" by default, or "low"
    :param delay_before: seconds from switching to sending, 0 by default
    :param delay_after: seconds from the end of sending to switching back, 0 by default
    :param reopen: False: an absent device is an error at the start, and one that vanishes ends the line
    :param low_latency: ask the drivers of USB adapters to hand on bytes at once, True by default
    :param engine: True: the compiled loop carries the bytes, False: Twisted does; None: the loop where there is one
    :param realtime: run that loop with real-time priority, False by default
    :raises LineError: when the port is busy, not permitted or no serial port; with ``reopen=False`` also when it is absent
    :raises ConfigurationError: for a value that cannot be used, and for settings that the port's driver does not carry out
    """
    options = take_options("StartSerialServer", kwargs, SERIAL_KEYWORDS, custom_functions=custom_functions)
    from .serial import ModbusSerialFactory, open_line

    given = {name: options.pop(name) for name in LINE_KEYWORDS & options.keys()}
    factory = ModbusSerialFactory(context, framer or "ascii", identity, given, **options)

    def open_server() -> RunningServer:
        try:
            line = open_line(factory)
        except Exception:
            factory.retire()
            raise
        return RunningServer("serial", factory, factory.name, [line.close])

    return start_server(open_server, factory.reactor, console, defer_reactor_run)


def _take_engine(options: dict[str, Any]) -> bool | None:
    return check_choice("engine", options.pop("engine", None), (True, False, None))  # type: ignore[no-any-return]


def _open_port(
    kind: str, factory: ModbusServerBase, host: str, port: int, listen: Callable[[], Any], engine: bool | None = False
) -> RunningServer:
    """Open a network port.

    :raises LineError: when the system refuses it; says why and the way out
    """
    try:
        listener = listen()
    except CannotListenError as error:
        factory.retire()
        raise _refusal(kind, host, port, error.socketError) from error
    if isinstance(listener, TcpPort):
        # Its connections have the same: one that does not read takes no more of the kernel's memory.
        listener.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
    real = listener.getHost()
    try:
        close = _serve(factory, listener, engine)
    except OSError as error:  # the system gives no more descriptors
        raise _refusal(kind, host, port, error) from error
    return RunningServer(kind, factory, (real.host, real.port), [close, factory.close_connections])


def _serve(factory: Any, listener: Any, engine: bool | None) -> Callable[[], Any]:
    """Have the compiled loop serve an open port where it is to; what closes the port in the end."""
    if factory.engine:
        from .network import TcpServer, UdpServer

        try:
            if isinstance(listener, TcpPort):
                return TcpServer(factory, listener).close
            if isinstance(listener, UdpPort):
                return UdpServer(factory, listener).close
            if engine:
                raise ConfigurationError(f"engine is True, but {factory.reactor!r} listens in a way of its own: leave engine out")
        except Exception:  # also where the system gives no more threads, descriptors or memory
            factory.retire()
            if isinstance(listener, TcpPort | UdpPort):
                # At once, and not in the reactor's next turn: who tries again finds the port free.
                listener.connectionLost(Failure(ConnectionDone()))  # type: ignore[no-untyped-call]
            else:
                listener.stopListening()
            raise
        factory.engine = False
    return listener.stopListening  # type: ignore[no-any-return]


def _listen_udp(protocol: ModbusUdpProtocol, host: str, port: int) -> Any:
    # For a datagram port Twisted takes numbers only, for a TCP port names too.
    if host and not _is_number(host):
        try:
            host = socket.gethostbyname(host)
        except OSError as error:
            raise CannotListenError(host, port, error) from error
    return protocol.reactor.listenUDP(port, protocol, host)


def _is_number(host: str) -> bool:
    """Whether it is an address rather than a name."""
    return isIPAddress(host) or isIPv6Address(host)


def _refusal(kind: str, host: str, port: int, error: OSError) -> LineError:
    return LineError.numbered(_reason(kind, host, port, error), error.errno)


def _reason(kind: str, host: str, port: int, error: OSError) -> str:
    """Why a port does not open, and the way out."""
    if error.errno in (errno.EACCES, errno.EPERM) and port < 1024:
        return (
            f"{kind} port {port} needs a right that this process does not have: run"
            f" `sudo setcap cap_net_bind_service=+ep {os.path.realpath(sys.executable)}`,"
            " set AmbientCapabilities=CAP_NET_BIND_SERVICE in its service unit,"
            " or choose a port above 1023, e.g. 5020"
        )
    if error.errno == errno.EADDRINUSE:
        command = "ss -lunp" if kind == "UDP" else "ss -ltnp"
        return f"{kind} port {port} is in use by another program: stop it (`sudo {command}` names it), or choose another port"
    if error.errno == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror):
        named = isinstance(error, socket.gaierror) and not _is_number(host)
        reason = f"the name {host} cannot be resolved" if named else f"this machine has no interface {host}"
        return f'{reason}: give the address of an interface of this machine (`ip -br address` lists them), or "" for all'
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return (
            f"{kind} port {port} cannot be opened: {os.strerror(error.errno)}; raise the limit of this process,"
            " by LimitNOFILE= in its service unit or `ulimit -n` in the shell that starts it"
        )
    return f"{kind} port {port} cannot be opened: {error}; choose another"
