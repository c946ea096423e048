"""A unit that is somewhere else, reached by a client whose calls wait: they run in a thread, and the reactor goes on. Knows no wire."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import BaseProtocol
from twisted.python import threadable
from twisted.python.failure import Failure

from mbcore.datastore.remote import RemoteSlaveContext as CoreRemoteSlaveContext


class RemoteSlaveContext(CoreRemoteSlaveContext):
    """Reads and writes another unit through a client, with one message on its wire for each request.

    While a server asks, a client whose methods wait is called in a thread of its own, one call after the other; a Twisted client, whose
    methods return a Deferred, where it lives. The master that asked waits for the answer, the other masters do not; after the server's
    ``answer_timeout`` it is answered 0x0B, and a call that has not begun by then is left out.

    :param client: has ``read_coils(address, count)`` and its like, ``write_coils(address, values)`` and ``write_registers``, as pymodbus'
        clients do
    :param unit: the unit id there, given to the client as ``unit=``; None leaves it out
    """

    def __init__(self, client: Any, unit: int | None = None) -> None:
        super().__init__(client, unit)
        self._caller: _Caller | None = None

    def _call(self, method: str, address: int, argument: Any) -> Any:
        from twisted.internet import reactor

        # Outside a server's request there is nobody else who would wait.
        if isinstance(self.client, BaseProtocol) or not reactor.running or not threadable.isInIOThread():
            return super()._call(method, address, argument)
        if self._caller is None:
            self._caller = _Caller(reactor)
        return self._caller.call(super()._call, method, address, argument)


class _Caller:
    """A thread that makes one call after the other. It ends with the process, which waits for no call."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._calls: queue.SimpleQueue[tuple[Deferred[Any], Callable[..., Any], tuple[Any, ...]]] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="mbcore remote unit", daemon=True).start()

    def call(self, function: Callable[..., Any], *args: Any) -> Deferred[Any]:
        """What ``function(*args)`` returns or raises, later."""
        outcome: Deferred[Any] = Deferred()
        self._calls.put((outcome, function, args))
        return outcome

    def _run(self) -> None:
        while True:
            outcome, function, args = self._calls.get()
            # Nobody waits any more for one that was given up.
            if not outcome.called:
                try:
                    answer = function(*args)
                except BaseException:
                    answer = Failure()
                self._reactor.callFromThread(_settle, outcome, answer)


def _settle(outcome: Deferred[Any], answer: Any) -> None:
    if outcome.called:
        return  # given up meanwhile
    if isinstance(answer, Failure):
        outcome.errback(answer)
    else:
        outcome.callback(answer)
