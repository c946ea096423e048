"""Checks what the user hands to a server: keywords, context, framer, address, hooks. Opens nothing and starts nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from mbcore import ModbusDeviceIdentification, ModbusServerContext, ModbusSlaveContext
from mbcore import framer as framers
from mbcore.errors import ConfigurationError

# Every server and factory takes these. Parameters with a name of their own are listed too, so that a slip of the pen finds them.
SERVER_KEYWORDS = frozenset(
    {
        "framer",
        "identity",
        "ignore_missing_slaves",
        "broadcast_enable",
        "answer_timeout",
        "custom_functions",
        "trace_packet",
        "trace_pdu",
        "trace_connect",
        "reactor",
    }
)
FACTORY_KEYWORDS = SERVER_KEYWORDS | {"max_connections", "max_connections_per_host", "idle_timeout"}
_START_KEYWORDS = frozenset({"context", "console", "defer_reactor_run"})
UDP_KEYWORDS = SERVER_KEYWORDS | _START_KEYWORDS | {"address", "engine"}
TLS_KEYWORDS = FACTORY_KEYWORDS | _START_KEYWORDS | {"address", "backlog", "certfile", "keyfile", "cafile", "sslctx"}
TCP_KEYWORDS = FACTORY_KEYWORDS | _START_KEYWORDS | {"address", "backlog", "engine"}
# Of a serial line itself: what `settings` checks.
LINE_KEYWORDS = frozenset(
    {
        "port",
        "baudrate",
        "bytesize",
        "parity",
        "stopbits",
        "xonxoff",
        "rtscts",
        "units",
        "frame_gap",
        "reply_delay",
        "reply_deadline",
        "echo",
        "direction",
        "direction_chip",
        "direction_line",
        "direction_active",
        "delay_before",
        "delay_after",
        "reopen",
        "low_latency",
        "engine",
        "realtime",
    }
)
SERIAL_KEYWORDS = SERVER_KEYWORDS | _START_KEYWORDS | LINE_KEYWORDS

# pymodbus 3's newer words for the same thing.
_ALIASES = {"ignore_missing_devices": "ignore_missing_slaves", "custom_pdu": "custom_functions"}
# The highest address of a slave (Serial Line V1.02, 2.2).
MAX_UNIT_ID = 247

# By name: a framer's module is loaded where the framer is asked for.
_FRAMER_WORDS = {
    "socket": "ModbusSocketFramer",
    "rtu": "ModbusRtuFramer",
    "ascii": "ModbusAsciiFramer",
    "binary": "ModbusBinaryFramer",
    "tls": "ModbusTlsFramer",
}


def take_options(caller: str, given: Mapping[str, Any], known: frozenset[str], stacklevel: int = 3, **named: Any) -> dict[str, Any]:
    """The keywords of ``given`` that ``caller`` uses, under their own names.

    A keyword that only some other pymodbus server uses gets one :class:`~mbcore.server.IgnoredKeywordWarning`.

    :param stacklevel: how far up the user's own line is, as for :func:`warnings.warn`
    :param named: parameters of the caller that ``given`` may hold under another name; an empty one is left out
    :raises TypeError: for a keyword that no server knows; names the nearest known one, or the class that it belongs to
    """
    options = {name: value for name, value in named.items() if value}
    for word, value in given.items():
        name = _ALIASES.get(word, word)
        if name in known:
            if name in options:
                raise TypeError(f"{caller}() got {name!r} twice: {word!r} is another name for it")
            options[name] = value
        else:
            from .foreign import explain  # most programs need none of it

            explain(caller, word, name, value, known.union(_ALIASES), stacklevel + 1)
    return options


def check_store(store: object) -> ModbusServerContext:
    """The server context to serve; None gives one with default blocks.

    :raises ConfigurationError: when it is something else; says how to wrap it
    """
    if store is None:
        return ModbusServerContext()
    if isinstance(store, ModbusServerContext):
        return store
    if isinstance(store, ModbusSlaveContext):
        raise ConfigurationError(
            "the context is a ModbusSlaveContext: wrap it, ModbusServerContext(slaves=context, single=True)"
            " for every unit id or ModbusServerContext(slaves={1: context}, single=False) for unit 1"
        )
    raise ConfigurationError(
        f"the context is {_what(store)}, not mbcore's: import ModbusServerContext, ModbusSlaveContext and the data blocks from mbcore"
        " and give ModbusServerContext(slaves=ModbusSlaveContext(hr=block), single=True)"
    )


def check_identity(identity: object) -> ModbusDeviceIdentification | None:
    """The identity of a server, or None.

    :raises ConfigurationError: when it is something else
    """
    if identity is None or isinstance(identity, ModbusDeviceIdentification):
        return identity
    raise ConfigurationError(
        f"the identity is {_what(identity)}: import ModbusDeviceIdentification from mbcore"
        ' and give ModbusDeviceIdentification(info_name={"VendorName": "..."})'
    )


def find_framer(framer: object) -> type:
    """The framer class that is meant: one of mbcore's classes, or pymodbus 3's word for it ("socket", "rtu", "ascii", "tls"; "binary" too).

    None is "socket".

    :raises ConfigurationError: when it is neither
    """
    classes = list(_FRAMER_WORDS.values())
    word = "socket" if framer is None else getattr(framer, "value", framer)  # pymodbus 3's FramerType is an enumeration of these words
    if isinstance(word, str) and word.lower() in _FRAMER_WORDS:
        found: type = getattr(framers, _FRAMER_WORDS[word.lower()])
        return found
    if isinstance(framer, type) and any(base.__name__ in classes and base is getattr(framers, base.__name__) for base in framer.__mro__):
        return framer
    raise ConfigurationError(
        f"the framer is {_what(framer)}: give one of the classes {', '.join(classes)} of mbcore,"
        f" or one of the words {', '.join(_FRAMER_WORDS)}"
    )


def is_own(framer: type) -> bool:
    """Whether a framer class is mbcore's rather than the application's."""
    return any(framer is getattr(framers, name) for name in _FRAMER_WORDS.values() if name == framer.__name__)


def check_hook(name: str, hook: Any) -> Callable[..., Any] | None:
    """A trace hook, or None.

    :raises ConfigurationError: when it cannot be called
    """
    if hook is None or callable(hook):
        return hook  # type: ignore[no-any-return]
    raise ConfigurationError(f"{name} is {hook!r}: give a function, or leave it out")


def check_count(name: str, value: Any, lowest: int) -> int:
    """A whole number that is not below ``lowest``.

    :raises ConfigurationError: when it is something else
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= lowest:
        return value
    kind = "" if value is None or type(value) is int else f", a {type(value).__name__}"
    raise ConfigurationError(f"{name} is {value!r}{kind}: give a whole number, {lowest} or more")


def check_time(name: str, value: Any, lowest: float, highest: float) -> float:
    """A time in ``lowest``..``highest`` seconds.

    :raises ConfigurationError: when it is something else
    """
    if isinstance(value, int | float) and not isinstance(value, bool) and lowest <= value <= highest:
        return float(value)
    raise ConfigurationError(f"{name} is {value!r}: give seconds, {lowest:g}..{highest:g}")


def check_choice(name: str, value: Any, choices: Iterable[Any]) -> Any:
    """One of a few values.

    :raises ConfigurationError: when it is another
    """
    for choice in choices:
        if type(value) is type(choice) and value == choice:
            return choice
    raise ConfigurationError(f"{name} is {value!r}: give {' or '.join(map(repr, choices))}")


def check_units(units: Any, store: ModbusServerContext) -> tuple[int, ...] | None:
    """The unit ids that a line answers, in order; None: all that the context has.

    :param units: one id or several of them, 1..247
    :raises ConfigurationError: for what is no id of a slave (Serial Line V1.02, 2.2), and for one that the context does not have
    """
    if units is None:
        return None
    given = tuple(units) if isinstance(units, Iterable) and not isinstance(units, str | bytes) else (units,)
    for unit in given:
        if not isinstance(unit, int) or isinstance(unit, bool) or not 1 <= unit <= MAX_UNIT_ID:
            raise ConfigurationError(f"units names {unit!r}: unit ids on a serial line are whole numbers, 1..{MAX_UNIT_ID}")
        if unit not in store:
            known = ", ".join(map(str, store.slaves()))
            raise ConfigurationError(f"units names {unit}, which the context does not have: add it there, or name some of {known}")
    if not given:
        raise ConfigurationError("units is empty: name the unit ids that the line answers, or leave it out")
    return tuple(sorted(set(given)))


def check_address(address: Any, default_port: int) -> tuple[str, int]:
    """The (interface, port) to listen on; None gives every interface and the default port, and "" is every IPv4 interface.

    :raises ConfigurationError: when it is no such pair, or the port is not in 0..65535
    """
    if address is None:
        return "", default_port
    match address:
        case (str() | None as host, int(port)) if 0 <= port <= 65535:
            return host or "", port
    raise ConfigurationError(f'the address is {address!r}: give (interface, port), e.g. ("", {default_port}), with a port in 0..65535')


def _what(thing: object) -> str:
    """A word on what the user gave instead of the right thing."""
    if isinstance(thing, type):
        return f"the class {thing.__module__}.{thing.__qualname__}"
    if isinstance(thing, str | int | float | bytes):
        return repr(thing)
    return f"a {type(thing).__module__}.{type(thing).__qualname__}"
