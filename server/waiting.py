"""Sessions whose answer a user's code owes, and until when. Gives none up itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from mbcore.session import Session


def cancel(timer: Any) -> None:
    """Have a timer, where there is one, call no more; it may be what calls at present."""
    if timer is not None and timer.active():
        timer.cancel()


class Waiting:
    """The sessions of a server that wait, each with the timer that gives it up.

    :param server: whose reactor and clock they go by
    """

    def __init__(self, server: Any) -> None:
        self._server = server
        self._timers: dict[Session, Any] = {}

    def __len__(self) -> int:
        return len(self._timers)

    def watch(self, session: Session, give_up: Callable[..., None], *args: object) -> None:
        """Have ``give_up(*args)`` called when a session has waited long enough; or no more, where it waits for nothing."""
        cancel(self._timers.pop(session, None))
        deadline = session.deadline() if session.waiting else None
        if deadline is not None:  # else it was interrupted, and nobody answers
            delay = max(deadline - self._server.seconds(), 0)
            self._timers[session] = self._server.reactor.callLater(delay, give_up, *args)

    def forget(self) -> list[Session]:
        """Have none given up any more; returns those that wait."""
        timers, self._timers = self._timers, {}
        for timer in timers.values():
            cancel(timer)
        return list(timers)
