"""Tells systemd how servers fare, by the protocol of sd_notify(3): ready, alive, stopping. Nothing is sent where nobody listens."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from twisted.internet.task import LoopingCall

from mbcore.errors import ConfigurationError

if TYPE_CHECKING:
    from .running import RunningServer

_log = logging.getLogger(__name__)

# Seconds that systemd may take to receive a word.
PATIENCE = 1.0


def notify_systemd(servers: Iterable[RunningServer], reactor: Any, environ: Mapping[str, str] = os.environ) -> LoopingCall | None:
    """Keep the service manager informed from when the reactor runs until it is shut down.

    With a watchdog it hears twice in its time that all is well, but only while every server is :attr:`~RunningServer.alive`: a service
    that does not serve is started again.

    :param servers: handles of the Start functions
    :param environ: where NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID are
    :returns: what feeds the watchdog; None where there is none for this process
    :raises ConfigurationError: for a NOTIFY_SOCKET that is no address of a socket
    """
    address = environ.get("NOTIFY_SOCKET")
    if not address:
        return None
    if address[0] not in "/@":
        raise ConfigurationError(f"NOTIFY_SOCKET is {address!r}: systemd gives a path, or an abstract name that begins with @")
    manager = _Manager(address)
    watched = tuple(servers)
    reactor.callWhenRunning(manager.say, "READY=1", f"STATUS={_status(watched)}")
    reactor.addSystemEventTrigger("before", "shutdown", manager.say, "STOPPING=1")
    interval = _interval(environ)
    if interval is None:
        return None

    def feed() -> None:
        status = f"STATUS={_status(watched)}"
        if all(server.alive for server in watched):
            manager.say("WATCHDOG=1", status)
        else:
            manager.say(status)

    feeding = LoopingCall(feed)
    feeding.clock = reactor
    reactor.callWhenRunning(feeding.start, interval)
    return feeding


class _Manager:
    """The service manager's socket."""

    def __init__(self, address: str) -> None:
        self._address = "\0" + address[1:] if address[0] == "@" else address
        self._told = False

    def say(self, *words: str) -> None:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.settimeout(PATIENCE)
                sender.sendto("\n".join(words).encode(), self._address)
        except OSError as error:
            if not self._told:
                self._told = True
                _log.warning("systemd is not told %s: %s", words[0], error)


def _interval(environ: Mapping[str, str]) -> float | None:
    """Seconds between two words to the watchdog; None where it does not watch this process."""
    try:
        microseconds = int(environ.get("WATCHDOG_USEC", "0"))
        meant = int(environ.get("WATCHDOG_PID", os.getpid()))
    except ValueError as error:
        raise ConfigurationError(f"WATCHDOG_USEC and WATCHDOG_PID are whole numbers: {error}") from error
    return microseconds / 2e6 if microseconds > 0 and meant == os.getpid() else None


def _status(servers: Iterable[RunningServer]) -> str:
    """One line on what is served."""
    return ", ".join(repr(server).strip("<>") + (f", waits: {server.line.reason}" if _waits(server) else "") for server in servers)


def _waits(server: RunningServer) -> bool:
    return server.line is not None and server.line.state == "waiting"
