"""Servers that run: their handles, the reactor under them, and how they stop. Opens no ports and moves no bytes."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, suppress
from typing import Any

from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.error import ReactorNotRestartable, ReactorNotRunning
from twisted.internet.threads import blockingCallFromThread
from twisted.python import threadable
from twisted.python.failure import Failure

from mbcore import ModbusControlBlock

from .factory import ModbusServerBase

_log = logging.getLogger(__name__)

# StopServer() takes no argument: here, and only here, the servers of this process are known, the reactors that a Start function runs, and
# those that it left to the user to run, with defer_reactor_run.
_servers: set[RunningServer] = set()
_reactors_run: set[Any] = set()
_reactors_left: set[Any] = set()
# Of two threads that start a server, one runs the reactor and the other has to find it running.
_starting = threading.Lock()


class RunningServer:
    """A server that listens; what the Start functions return.

    Its attributes may be read in any thread, and :meth:`stop` may be called in any.
    """

    def __init__(self, kind: str, factory: ModbusServerBase, address: tuple[str, int] | str, closers: Iterable[Callable[[], Any]]) -> None:
        self.kind = kind
        #: The ModbusServerFactory; of a UDP server the ModbusUdpProtocol.
        self.factory = factory
        #: (interface, port) as it really is, or the name of the serial port.
        self.address = address
        self._closers = list(closers)
        self._closed: Deferred[Any] | None = None
        self._trigger: Any = factory.reactor.addSystemEventTrigger("before", "shutdown", self._at_shutdown)
        _servers.add(self)
        _log.info("%s server on %s is ready", kind, self._place)

    @property
    def port(self) -> int | str:
        """The port number, a real one where 0 was asked for, or the name of the serial port."""
        return self.address if isinstance(self.address, str) else self.address[1]

    @property
    def engine(self) -> bool:
        """Whether the compiled loop carries the bytes, without Python; else Twisted does."""
        return self.factory.engine

    @property
    def connections(self) -> int:
        """Open connections; 0 of a server that has none, such as a UDP server."""
        carrier: Any = self.factory.carrier
        if carrier is not None:
            return getattr(carrier.loop, "count", 0)
        return len(getattr(self.factory, "connections", ()))

    @property
    def coalesced(self) -> int:
        """Values written by masters that observers were not told, since they were behind and the values were written again.

        Of all servers of its context.
        """
        return self.factory.store.coalesced

    @property
    def control(self) -> ModbusControlBlock:
        """The server's control block: counters, event log, identity, listen-only mode."""
        return self.factory.control

    @property
    def counters(self) -> Any:
        """The diagnostic counters, ``BusMessage`` and its like."""
        return self.factory.control.Counter

    @property
    def line(self) -> Any:
        """Of a serial server its :class:`mbcore.server.line.Line`: ``state``, ``reason``, ``openings``, ``losses``, ``counters()``."""
        return self.factory.line

    @property
    def alive(self) -> bool:
        """Whether it serves: not stopped, its line not lost for good, and the compiled loop, where there is one, turning.

        To be asked in the reactor's thread, which turns then itself.
        """
        lost = self.line is not None and self.line.state == "closed"
        return self._closed is None and not lost and self.factory.turning()

    def stop(self) -> Deferred[None]:
        """Free the port and close the connections; the reactor runs on.

        :returns: a Deferred that fires, in the reactor's thread, when that is done
        """
        done: Deferred[None] = Deferred()
        if _elsewhere(self.factory.reactor):
            self.factory.reactor.callFromThread(self._stop, done)
        else:
            self._stop(done)
        return done

    def __repr__(self) -> str:
        return f"<{self.kind} server on {self._place}{', stopped' if self._closed else ''}>"

    @property
    def _place(self) -> str:
        if isinstance(self.address, str):
            return self.address
        host, port = self.address
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def _stop(self, done: Deferred[None]) -> None:
        if self._closed is None:
            _servers.discard(self)
            self.factory.retire()
            if self._trigger is not None:
                self.factory.reactor.removeSystemEventTrigger(self._trigger)
            self._closed = closed = DeferredList([maybeDeferred(close).addErrback(self._not_closed) for close in self._closers])
            closed.addCallback(lambda _: _log.info("%s server on %s is stopped", self.kind, self._place))
        self._closed.addCallback(lambda _: done.callback(None))

    def _not_closed(self, failure: Failure) -> None:
        _log.error("%s server on %s did not close cleanly: %s", self.kind, self._place, failure.getErrorMessage())

    def _at_shutdown(self) -> Deferred[None]:
        self._trigger = None
        return self.stop()

    def _open_console(self, console: bool | Mapping[str, Any]) -> None:
        from .console import start_console

        options = dict(console) if isinstance(console, Mapping) else {}
        namespace = {"factory": self.factory, "context": self.factory.store, "server": self}
        self._closers.append(start_console(namespace, reactor=self.factory.reactor, **options).stop)


def StopServer() -> None:
    """Stop every server that the Start functions started in this process; can be called in any thread.

    As in pymodbus the reactor is stopped too, be it run by a Start function, which returns then, or by the user after one with
    ``defer_reactor_run=True``; to stop a server alone there is its handle's ``stop()``. A reactor that ran already when the first server
    joined it runs on, and so does one that is not running yet: called in its thread this function returns before the ports are free,
    called in another thread it waits for that.

    :raises ReactorNotRunning: when there is nothing to stop
    """
    reactors = _reactors_run | {reactor for reactor in tuple(_reactors_left) if reactor.running}
    servers = tuple(_servers)
    if not reactors and not servers:
        raise ReactorNotRunning("there is no server to stop: no Start function has started one, or it is stopped already")
    for reactor in reactors:
        # Not reactor.stop(): in a signal handler that would not wake the reactor up.
        reactor.callFromThread(_stop_reactor, reactor)
    for server in servers:
        reactor = server.factory.reactor
        if reactor in reactors:
            continue  # it goes down with its reactor
        stop: Callable[[], Any] = server.stop
        if _elsewhere(reactor):
            blockingCallFromThread(reactor, stop)
        else:
            stop()


def _stop_reactor(reactor: Any) -> None:
    with suppress(ReactorNotRunning):  # two threads may stop the server
        reactor.stop()


def _elsewhere(reactor: Any) -> bool:
    """Whether the reactor runs in another thread."""
    return bool(reactor.running) and not threadable.isInIOThread()


def start_server(
    open_server: Callable[[], RunningServer], reactor: Any, console: bool | Mapping[str, Any], defer_reactor_run: bool
) -> RunningServer:
    """Open a server in the reactor's thread, and run the reactor if nobody does."""

    def open_all() -> RunningServer:
        server = open_server()
        if console:
            try:
                server._open_console(console)
            except Exception:
                server.stop()
                raise
        return server

    with ExitStack() as turn:
        turn.enter_context(_starting)
        if not reactor.running:
            if defer_reactor_run:
                server = open_all()
                _reactors_left.add(reactor)
                return server
            if getattr(reactor, "_startedBefore", False):
                raise ReactorNotRestartable(
                    "Twisted's reactor runs once in a process: let it run, stop a server by its handle's stop() and start the next one"
                )
            _reactors_run.add(reactor)
            try:
                server = open_all()
                reactor.callWhenRunning(turn.close)
                reactor.run(installSignalHandlers=threading.current_thread() is threading.main_thread())
            finally:
                _reactors_run.discard(reactor)
            return server
    if _elsewhere(reactor):
        return blockingCallFromThread(reactor, open_all)
    return open_all()
