"""What one server holds: the process image, the control block, the framer, the hooks and the open connections. Moves no bytes."""

from __future__ import annotations

import logging
import os
import sys
import time
from types import FunctionType
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.protocol import Protocol, ServerFactory

from mbcore.control import ModbusControlBlock, server_blocks
from mbcore.errors import ConfigurationError
from mbcore.session import Session

from .options import (
    FACTORY_KEYWORDS,
    SERVER_KEYWORDS,
    check_count,
    check_hook,
    check_identity,
    check_store,
    check_time,
    find_framer,
    is_own,
    take_options,
)
from .report import ErrorLog, Rarely
from .tcp import ModbusTcpProtocol

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from twisted.internet.interfaces import IAddress

    from .line import Line
    from .network import LoopServer, TcpServer

_log = logging.getLogger(__name__)

# Those that show messages.
_LOGS = [logging.getLogger(f"mbcore.server.{name}") for name in ("tcp", "udp")]

MAX_CONNECTIONS = 2000
# Seconds that a data block's Deferred may take.
ANSWER_TIMEOUT = 3.0
# Open files that a process needs beside its connections.
OTHER_FILES = 20
# Seconds that `idle_timeout` may be.
LONGEST_IDLE = 100_000
# What a session is made of, and with what a compiled loop has begun.
OF_SESSIONS = frozenset({"framer", "ignore_missing_slaves", "broadcast_enable", "answer_timeout", "report"})
OF_LOOPS = frozenset(
    {
        "store",
        "control",
        "protocol",
        "trace_packet",
        "trace_pdu",
        "max_connections",
        "max_connections_per_host",
        "idle_timeout",
    }
)


class ModbusServerBase:
    """One server's image and behaviour, whatever carries its bytes.

    :param store: a ModbusServerContext; None makes one with default blocks
    :param framer: a framer class of mbcore, or pymodbus 3's word for it; None is MBAP framing (ModbusSocketFramer)
    :param identity: a ModbusDeviceIdentification, for function codes 17 and 43/14
    :param ignore_missing_slaves: True: never answer for a unit that is not there; False: answer 0x0B (silence on a serial line)
    :param broadcast_enable: True: unit 0 is a broadcast, executed in every unit and not answered (on a serial line it always is)
    :param answer_timeout: seconds that a data block may take when it answers with a Deferred, 3 by default; then exception 0x0B
    :param trace_packet: ``hook(sending, data) -> data`` sees, and may change, the bytes of every chunk that comes in or goes out
    :param trace_pdu: ``hook(sending, pdu) -> pdu`` sees, and may change, every request and response
    :param trace_connect: ``hook(connected)`` is told of every connection made and lost
    :param reactor: Twisted's reactor; None is the installed one
    :raises TypeError: for a keyword that no Modbus server has
    :raises ConfigurationError: for a value that cannot be used
    """

    #: Of a serial line: its state and its counters.
    line: Line | None = None
    #: Whether the compiled loop carries the bytes, without Python; else Twisted does.
    engine = False
    # What carries the bytes without Twisted, while it does.
    carrier: LoopServer | None = None
    # The clock of the sessions, seconds.
    seconds: Callable[[], float] = staticmethod(time.monotonic)
    # Whether the compiled loop turns, where there is one: its carrier knows.
    turning: Callable[[], bool] = staticmethod(lambda: True)

    _keywords = SERVER_KEYWORDS
    _fixed = "while a compiled loop serves: give it to the Start function, or engine=False too"

    def __init__(self, store: Any = None, framer: Any = None, identity: Any = None, **kwargs: Any) -> None:
        options = take_options(type(self).__name__, kwargs, self._keywords, stacklevel=4)
        self.store = check_store(store)
        self.framer = find_framer(framer)
        # A script that asks for the process' control block has loaded its module; others do without its memory.
        device: Any = sys.modules.get("mbcore.device")
        self.control: ModbusControlBlock = (device.new_control if device else ModbusControlBlock)(check_identity(identity))
        server_blocks[self.control] = None
        self.ignore_missing_slaves = bool(options.get("ignore_missing_slaves", False))
        self.broadcast_enable = bool(options.get("broadcast_enable", False))
        self.answer_timeout = check_time("answer_timeout", options.get("answer_timeout", ANSWER_TIMEOUT), 0.001, 3600)
        self.trace_packet = check_hook("trace_packet", options.get("trace_packet"))
        self.trace_pdu = check_hook("trace_pdu", options.get("trace_pdu"))
        self.trace_connect = check_hook("trace_connect", options.get("trace_connect"))
        self.report = ErrorLog(_log)
        #: Connections and datagrams that the access control has refused.
        self.refused = 0
        self._refusals = Rarely()
        self._reactor = options.get("reactor")
        self._decoder: Any = None
        for function in options.get("custom_functions") or ():
            self.decoder.register(function)

    def __setattr__(self, name: str, value: Any) -> None:
        """As with Twisted, what sessions are made of may be changed for the connections to come.

        :raises ConfigurationError: for a framer that is none, and for what a compiled loop can't change any more
        """
        if name == "framer":
            value = find_framer(value)
        if self._is_fixed(name, value):
            raise ConfigurationError(f"{name} can't be changed {self._fixed}")
        is_new = name in OF_SESSIONS and vars(self).get(name, value) is not value
        super().__setattr__(name, value)
        if is_new:
            self._renew_sessions()
        elif name == "trace_connect" and self.carrier is not None:
            self.carrier.trace()

    def _is_fixed(self, name: str, value: Any) -> bool:
        """Whether an attribute can't get this value any more."""
        if self.carrier is None or name not in OF_LOOPS | {"framer"}:
            return False
        if name == "framer":
            return not is_own(value)
        current = getattr(self, name)
        return value is not current and not (isinstance(value, int | float) and value == current)

    def _renew_sessions(self) -> None:
        """What sessions are made of has changed: those made ahead are out of date."""
        if self.carrier is not None:
            self.carrier.renew()

    @property
    def decoder(self) -> Any:
        """The ServerDecoder of this server; connections made from now on answer the functions of the classes registered with it."""
        if self._decoder is None:
            from mbcore.messages import ServerDecoder

            self._decoder = ServerDecoder(self.report, self._renew_sessions)
        return self._decoder

    @property
    def access(self) -> Any:
        """The ModbusAccessControl of this process: once a host is added to it, only the hosts in it are served."""
        from mbcore.device import ModbusAccessControl

        return ModbusAccessControl()

    def obstacle(self, own_protocol: Any, asked: bool) -> str:
        """Why a compiled loop can't carry this server's bytes; empty where it can.

        :param own_protocol: the protocol class that sees nothing which a user of this server wants to see
        :param asked: the user wants the loop rather than a log of every message
        """
        if not sys.platform.startswith("linux"):
            return "this system is not Linux"
        protocol = getattr(self, "protocol", own_protocol)
        if protocol is not own_protocol:
            return f"the factory's protocol is {protocol.__name__}, which sees every byte"
        if replaced := _replaced(own_protocol) or _replaced(*type(self).__mro__):
            return f"{replaced} has been replaced, which the loop would not call"
        if not is_own(self.framer):
            return f"the framer is {self.framer.__name__}, a class of the application's"
        for name in ("trace_packet", "trace_pdu"):
            if getattr(self, name) is not None:
                return f"{name} is given, which sees every message"
        if not asked and any(log.isEnabledFor(logging.DEBUG) for log in _LOGS):
            return "the log is to show every message (level DEBUG)"
        return ""

    def wants_loop(self, engine: bool | None, own_protocol: Any, wishes: Mapping[str, Any]) -> bool:
        """Whether a compiled loop is to carry this server's bytes.

        :param engine: True: it has to; False: Twisted does; None: the loop where it can
        :param wishes: what else the loop alone can do, and whether the user wants it
        :raises ConfigurationError: when the loop cannot do what the user wants
        """
        obstacle = "engine is False" if engine is False else self.obstacle(own_protocol, bool(engine))
        for wish, made in {"engine is True": engine, **wishes}.items():
            if obstacle and made:
                raise ConfigurationError(f"{wish}, which needs the compiled loop, but {obstacle}: leave one of the two out")
        return not obstacle

    def admits(self, host: str) -> bool:
        """Whether the access control lets a host in; a refusal is counted, and logged now and then."""
        # As above: who has filled the table has loaded its module.
        if "mbcore.device" not in sys.modules or not self.access.enforced or self.access.check(host):
            return True
        self.refused += 1
        if (number := self._refusals.count("host")) is not None:
            _log.warning('%s is refused: ModbusAccessControl().add("%s") would let it in (%d refused so far)', host, host, number)
        return False

    def note_turned_away(self, times: int = 1) -> None:
        """So many hosts wait to be let in that one more could not, or several since the last time: say so now and then."""
        if (number := self._refusals.count("waiting", times)) is not None:
            _log.warning(
                "a host that ModbusAccessControl does not have is turned away unasked, since many wait already (%d times so far)", number
            )

    @property
    def reactor(self) -> Any:
        """The reactor that drives this server."""
        if self._reactor is None:
            from twisted.internet import reactor

            self._reactor = reactor
        return self._reactor

    def buildSession(self) -> Session:
        """A new session for one connection or one line."""
        return Session(self.framer, self.store, self.control, broadcast_enable=self.broadcast_enable, **self._session_options())

    def _session_options(self) -> dict[str, Any]:
        return {
            "ignore_missing_slaves": self.ignore_missing_slaves,
            "answer_timeout": self.answer_timeout,
            "report": self.report,
            "trace_pdu": self.trace_pdu,
            "decoder": self._decoder,
        }

    def close_connections(self) -> Deferred[None]:
        """Close every connection; the Deferred fires when the last one is gone."""
        return succeed(None)

    def retire(self) -> None:
        """Take note that this server serves no more: the process' control block of old scripts is another server's, see mbcore.device."""
        server_blocks.pop(self.control, None)

    def run_trace_packet(self, sending: bool, data: bytes) -> bytes:
        """What the ``trace_packet`` hook makes of a chunk; a hook that fails changes nothing."""
        if self.trace_packet is None:
            return data
        try:
            traced = self.trace_packet(sending, data)
            if not isinstance(traced, bytes):
                raise TypeError(f"trace_packet returned {traced!r} instead of bytes")
        except Exception as error:
            self.report("trace_packet failed; the bytes pass unchanged", error)
            return data
        return traced

    def run_trace_connect(self, connected: bool) -> None:
        """Tell the ``trace_connect`` hook of a connection made (True) or lost (False)."""
        if self.trace_connect is not None:
            try:
                self.trace_connect(connected)
            except Exception as error:
                self.report("trace_connect failed", error)


class _Refused(Protocol):
    """What a host gets that is not let in. Factories that wrap another one can't take None for a protocol."""

    transport: Any

    def connectionMade(self) -> None:
        self.transport.loseConnection()


class ModbusServerFactory(ModbusServerBase, ServerFactory):
    """Builds a protocol for every connection to one server.

    For ``reactor.listenTCP``, endpoints and .tac files; the parameters are those of :class:`ModbusServerBase`, and

    :param max_connections: connections held at most; a further one takes the place of the one that was unused for longest. None: 2000, or
        what the process's limit of open files (``ulimit -n``) allows
    :param max_connections_per_host: as ``max_connections``, of those of one host; None: no limit
    :param idle_timeout: seconds after which a connection that says nothing and takes no replies is closed, up to 100000; 0, the default:
        never
    """

    #: What is built for a connection: ModbusTcpProtocol, or the user's subclass of it.
    protocol: Any = ModbusTcpProtocol
    noisy = False
    carrier: TcpServer | None = None

    _keywords = FACTORY_KEYWORDS

    def __init__(
        self,
        store: Any = None,
        framer: Any = None,
        identity: Any = None,
        *,
        max_connections: int | None = None,
        max_connections_per_host: int | None = None,
        idle_timeout: float = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(store, framer, identity, **kwargs)
        self.max_connections = _most_connections() if max_connections is None else check_count("max_connections", max_connections, 1)
        if max_connections_per_host is not None:
            check_count("max_connections_per_host", max_connections_per_host, 1)
        self.max_connections_per_host = max_connections_per_host
        self.idle_timeout = check_time("idle_timeout", idle_timeout, 0, LONGEST_IDLE)
        self._connections: set[ModbusTcpProtocol] = set()
        self._waiting: list[Deferred[None]] = []
        self._evictions = Rarely()

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """A protocol for a new connection from ``addr``; of what has no host, such as a UNIX socket, everyone is let in."""
        host = getattr(addr, "host", None)
        if host is not None and not self.admits(host):
            return _Refused()
        if self.max_connections_per_host is not None:
            self._evict([one for one in self._connections if one.host == host], self.max_connections_per_host)
        self._evict(self._connections, self.max_connections)
        protocol = self.protocol()
        protocol.factory = self
        protocol.host = host
        return protocol

    def _evict(self, connections: Collection[ModbusTcpProtocol], most: int) -> None:
        # "the oldest unused connection is closed" (Messaging on TCP/IP Implementation Guide V1.0b, connection management)
        if len(connections) < most:
            return
        kept = [connection for connection in connections if not connection.closing]
        if len(kept) >= most:
            min(kept, key=lambda connection: connection.last_heard).close()
            self.note_eviction()

    def note_eviction(self, times: int = 1) -> None:
        """A connection was closed to make room for another, or several since the last time: say so now and then."""
        if (number := self._evictions.count("full", times)) is not None:
            _log.warning(
                "all %d connections of max_connections=%s are taken; closing the one unused for longest (%d times so far)",
                self.max_connections,
                f", or {self.max_connections_per_host} of max_connections_per_host=," if self.max_connections_per_host else "",
                number,
            )

    def note_broken(self, client: object, times: int = 1) -> None:
        """What comes from a client cannot be cut into frames any more, or so it was several times since the last time."""
        _log.info("%s: the stream has lost its frames; closing the connection%s", client, f" ({times} of them)" if times > 1 else "")

    def note_refusal(self, error: int, times: int = 1) -> None:
        """The system lets no connection be accepted, for ``error``, an error number, ``times`` since the last time: say so now and then."""
        if (number := self._evictions.count(error, times)) is not None:
            _log.warning(
                "connections cannot be accepted: %s; raise the limit of open files (ulimit -n, or LimitNOFILE= in the service unit), or"
                " lower max_connections (%d times so far)",
                os.strerror(error),
                number,
            )

    @property
    def connections(self) -> set[ModbusTcpProtocol]:
        """The open connections; each enters itself and takes itself out.

        :raises ConfigurationError: they are a compiled loop's, which has no protocols
        """
        if self.carrier is not None:
            raise ConfigurationError(
                "the connections are the compiled loop's, which has no protocols: the handle's `connections` counts them,"
                " close_connections() closes them, and with engine=False they are here"
            )
        return self._connections

    def forget(self, connection: ModbusTcpProtocol) -> None:
        """A connection is lost."""
        self._connections.discard(connection)
        if not self._connections:
            self.none_left()

    def none_left(self) -> None:
        """There is no connection any more: tell who waits for that."""
        waiting, self._waiting = self._waiting, []
        for deferred in waiting:
            deferred.callback(None)

    def close_connections(self) -> Deferred[None]:
        """Close every connection; the Deferred fires when the last one is gone."""
        for connection in list(self._connections):
            connection.close()
        if self.carrier is not None:
            self.carrier.disconnect()
        elif not self._connections:
            return succeed(None)
        gone: Deferred[None] = Deferred()
        self._waiting.append(gone)
        return gone


def _most_connections() -> int:
    if not hasattr(os, "sysconf"):  # pragma: no cover - not a POSIX system
        return MAX_CONNECTIONS
    files = os.sysconf("SC_OPEN_MAX")
    return MAX_CONNECTIONS if files < 0 else max(1, min(MAX_CONNECTIONS, files - OTHER_FILES))


# The methods and properties of classes whose work a compiled loop does, as they were made: who replaces one wants it called.
_METHODS: dict[type, dict[str, Any]] = {}


def remember(made: type) -> None:
    """Remember the methods of a class; for classes of this package."""
    _METHODS[made] = _methods(made)


def _methods(of: type) -> dict[str, Any]:
    return {name: value for name, value in vars(of).items() if isinstance(value, FunctionType | property)}


def _replaced(*classes: type) -> str:
    """A method of the classes that is not as it was made; empty where there is none."""
    for made in classes:
        if made in _METHODS:
            for name, method in _methods(made).items():
                if _METHODS[made].get(name) is not method:
                    return f"{made.__name__}.{name}"
    return ""


for _made in (ModbusTcpProtocol, ModbusServerBase, ModbusServerFactory):
    remember(_made)
