"""The thread of a compiled loop: when it begins, and that signals are not its own. Knows no bytes."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable
from typing import Any, Protocol

from mbcore.engine.loop import running

_log = logging.getLogger(__name__)

FAULTS = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT, signal.SIGTRAP, signal.SIGSYS}
# Seconds that a loop may hear nothing, beside its longest reply, before it is taken to hang.
DEAF = 5.0


class _Loop(Protocol):
    @property
    def elsewhere(self) -> bool: ...
    @property
    def over(self) -> bool: ...
    def claim(self) -> bool: ...
    def knock(self) -> bool: ...
    def run(self) -> None: ...


class LoopThread:
    """A thread that runs a loop, and begins with the reactor: until then the process may become a daemon, and no thread follows it there.

    :param failed: called with the reason where the system gives no thread when the reactor begins
    """

    def __init__(self, loop: _Loop, name: str, reactor: Any, failed: Callable[[str], None]) -> None:
        self._loop = loop
        self._reactor = reactor
        self._failed = failed
        # Starts the thread when the reactor turns.
        self._call: Any = None
        self._told = False
        # Since when the loop is known to hear nothing.
        self._deaf: float | None = None
        self._thread = threading.Thread(target=self._run, name=f"mbcore {name}", daemon=True)

    def start(self) -> None:
        """Run the loop, now or when the reactor begins.

        :raises RuntimeError: when the system gives no more threads
        :raises OSError: when it gives no more descriptors, to a fork of the process that has made the loop
        """
        if self._reactor.running:
            self._start()
        else:
            # Not callWhenRunning: an asyncio loop or iterate() may turn a reactor that nobody runs.
            self._call = self._reactor.callLater(0, self._start_late)

    @property
    def begun(self) -> bool:
        """Whether the loop has been run."""
        return self._thread.ident is not None

    def turning(self, now: float, longest: float = 0.0) -> bool:
        """Whether the loop turns; one that has not begun is not late.

        :param now: seconds of the reactor's clock
        :param longest: seconds that it takes to send a reply, during which it hears nothing
        :raises RuntimeError: where another process serves
        """
        if not self.begun and not self._loop.elsewhere:
            return True
        self._deaf = None if self._loop.knock() else self._deaf or now
        return not self._loop.over and now - (self._deaf or now) <= DEAF + longest

    def elsewhere(self) -> bool:
        """Whether another process serves, and nothing is to be done in this one; the log says so once."""
        elsewhere = self._loop.elsewhere
        if elsewhere and not self._told:
            self._told = True
            _log.error(
                "another process serves a server that it shares with process %d since a fork: make each process a server of its own, or"
                " start the other program with subprocess",
                os.getpid(),
            )
        return elsewhere

    def join(self) -> None:
        """Wait until the loop has ended; one that has not begun never does."""
        if self._call is not None:
            self._call.cancel()
            self._call = None
        if self.begun:
            self._thread.join()

    def _start(self) -> None:
        # From now on a fork of this process has a loop without a thread.
        running.add(self._loop)
        try:
            if self._loop.claim():
                self._thread.start()
        except BaseException:
            running.discard(self._loop)
            raise
        if self.elsewhere():
            running.discard(self._loop)

    def _start_late(self) -> None:
        self._call = None
        try:
            self._start()
        except (OSError, RuntimeError) as error:
            self._failed(str(error))

    def _run(self) -> None:
        # Signals are the main thread's, but for those of a fault: a handler of this thread tells where it was.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - FAULTS)
        self._loop.run()
