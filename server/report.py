"""Keeps the log readable: what happens over and over is logged now and then. Knows nothing of Modbus."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Hashable


class Rarely:
    """Counts events and says which of them to log: of each kind the first, the tenth, the hundredth and so on.

    :param limit: kinds remembered at most; the oldest is forgotten first
    """

    def __init__(self, limit: int = 100) -> None:
        self._limit = limit
        self._counts: dict[Hashable, int] = {}

    def count(self, kind: Hashable, events: int = 1) -> int | None:
        """Count events that have come together; the number of the last if one of them is to log, else None."""
        if kind not in self._counts and len(self._counts) >= self._limit:
            del self._counts[next(iter(self._counts))]
        before = self._counts.get(kind, 0)
        number = self._counts[kind] = before + events
        return number if not before or len(str(number)) > len(str(before)) else None


class ErrorLog:
    """Logs exceptions of the application's code (hooks, data blocks, observers), which never stop the bus.

    Each distinct one, told by its type and the place that raised it, is logged with its traceback the first time and counted from then on.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._rarely = Rarely()

    def __call__(self, message: str, error: BaseException) -> None:
        """Log what went wrong; the signature is that of a session's ``report``."""
        frames = traceback.extract_tb(error.__traceback__)
        place = (frames[-1].filename, frames[-1].lineno) if frames else message
        number = self._rarely.count((type(error), place))
        if number == 1:
            self._logger.error("%s", message, exc_info=error)
        elif number is not None:
            self._logger.error("%s: %s: %s (%d times so far)", message, type(error).__name__, error, number)
