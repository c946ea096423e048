"""Keywords that a server does not have: what pymodbus' other servers took, and slips of the pen. Says what to do instead."""

from __future__ import annotations

import warnings
from typing import NamedTuple


class IgnoredKeywordWarning(UserWarning):
    """A keyword of a pymodbus server has no effect here; the text says what to do instead."""


class _Unused(NamedTuple):
    """A keyword of some pymodbus server that has no use here."""

    advice: str  # what to do instead
    silent: tuple[object, ...] = (None, False)  # values that ask for nothing beyond what happens anyway

    def asks(self, value: object) -> bool:
        """Whether the user asks for something with this value; 0 is not False here, a port 0 asks for a free one."""
        return not any(type(value) is type(nothing) and value == nothing for nothing in self.silent)


_UNUSED = {
    "address": _Unused("it belongs to the Start functions of the network; a factory is handed to reactor.listenTCP(port, factory)"),
    "allow_multiple_devices": _Unused("other slaves on the line are always understood", (True, False)),
    "allow_reuse_address": _Unused("an address can always be used again at once", (None, True)),
    "allow_reuse_port": _Unused("let one process serve the port"),
    "auto_reconnect": _Unused("a serial line is opened again by itself when its device is back", (None, False, True)),
    "backlog": _Unused("it belongs to StartTcpServer and StartTlsServer"),
    "baudrate": _Unused("it belongs to StartSerialServer"),
    "bytesize": _Unused("it belongs to StartSerialServer"),
    "cafile": _Unused("it belongs to StartTlsServer"),
    "certfile": _Unused("it belongs to StartTlsServer"),
    "console": _Unused("it belongs to the Start functions"),
    "context": _Unused("the context is the first parameter"),
    "defer_reactor_run": _Unused("it belongs to the Start functions"),
    "defer_start": _Unused("use defer_reactor_run=True, which returns the server's handle"),
    "handle_local_echo": _Unused('StartSerialServer finds an echo by itself, and echo="drop" says that there is one'),
    "handler": _Unused("subclass ModbusTcpProtocol and set it as the protocol of a ModbusServerFactory"),
    "host": _Unused("use address=(host, port)"),
    "idle_timeout": _Unused("it belongs to StartTcpServer and StartTlsServer", (None, False, 0, 0.0)),
    "keyfile": _Unused("it belongs to StartTlsServer"),
    "loop": _Unused("Twisted's reactor runs the server; install twisted.internet.asyncioreactor first to share an asyncio loop"),
    "max_connections": _Unused("it belongs to StartTcpServer and StartTlsServer"),
    "max_connections_per_host": _Unused("it belongs to StartTcpServer and StartTlsServer"),
    "parity": _Unused("it belongs to StartSerialServer"),
    "password": _Unused("store the key without a password, or give sslctx=, a twisted.internet.ssl.CertificateOptions that has the key"),
    "path": _Unused("serve a UNIX socket with twisted.internet.endpoints.UNIXServerEndpoint and a ModbusServerFactory"),
    "port": _Unused("use address=(host, port)"),
    "reconnect_delay": _Unused("a serial line is tried again after 0.2 s, then ever more rarely, at last every 5 s"),
    "reqclicert": _Unused("give cafile=, then clients have to show a certificate that it signed"),
    "request_tracer": _Unused("use trace_pdu=, which sees every request and response"),
    "response_manipulator": _Unused("use trace_pdu= or trace_packet=, which may change what is sent"),
    "rtscts": _Unused("it belongs to StartSerialServer"),
    "sslctx": _Unused("it belongs to StartTlsServer"),
    "stopbits": _Unused("it belongs to StartSerialServer"),
    "timeout": _Unused("a server waits for requests without a limit", (None, 0, 0.0)),
    "xonxoff": _Unused("it belongs to StartSerialServer"),
}

# Keywords that users try on a server, and whose they are.
_CONTEXT_KEYWORDS = {"single": "ModbusServerContext", "slaves": "ModbusServerContext", "zero_mode": "ModbusSlaveContext"}
# How alike two words are when one may be a slip of the pen: above "factory" and "reactor" (0.71), not above "prot" and "port" (0.75).
_ALIKE = 0.75


def explain(caller: str, word: str, name: str, value: object, known: frozenset[str], stacklevel: int) -> None:
    """Warn where the keyword is one of another server's and asks for something.

    :param name: what mbcore calls the user's ``word``
    :param known: what the user might have meant
    :param stacklevel: how far up the user's own line is, as for :func:`warnings.warn`
    :raises TypeError: for a keyword that no server knows; names the nearest known one, or the class that it belongs to
    """
    if name not in _UNUSED:
        raise TypeError(f"{caller}() has no keyword {word!r}; {_hint(word, known)}")
    if _UNUSED[name].asks(value):
        warnings.warn(f"{caller}() ignores {word!r}: {_UNUSED[name].advice}", IgnoredKeywordWarning, stacklevel=stacklevel)


def _hint(word: str, known: frozenset[str]) -> str:
    """What to do about a keyword that no server has."""
    if word in _CONTEXT_KEYWORDS:
        return f"it belongs to {_CONTEXT_KEYWORDS[word]}"
    import difflib  # 230 KB that only a mistake needs

    nearest = difflib.get_close_matches(word, sorted(known | _UNUSED.keys()), n=1, cutoff=_ALIKE)
    return f"did you mean {nearest[0]!r}?" if nearest else f"it knows {', '.join(sorted(known))}"
