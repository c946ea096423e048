"""The life of a serial line: opened, watched, and opened again when its device was away. Moves no bytes; that is its carrier's work."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Protocol

from mbcore.errors import LineError, ModbusError

from .port import ABSENT, OVERRUNS, kernel_counts

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.internet.defer import Deferred

    from .serial import ModbusSerialFactory

_log = logging.getLogger(__name__)

# Seconds from one attempt to open a device to the next: twice as long each time.
FIRST_WAIT = 0.2
LONGEST_WAIT = 5.0
# Seconds that a line must stay open before the next loss starts over with the first of these waits: a loose plug is no new plug.
STEADY = 1.0
# Seconds between two looks at what the kernel has counted.
COUNTING = 5.0


class Carrier(Protocol):
    """What moves the bytes between a port and the line's session."""

    def open(self, port: Any, lost: Callable[[str], None]) -> None:
        """Serve an open ``serial.Serial``, and close it in the end; what raises leaves it to the caller.

        :param lost: called once, in the reactor's thread, with the reason when the device has gone; the port is closed by then
        """

    def close(self) -> Deferred[None]:
        """Serve no more; the Deferred fires when the port is closed. Where none is open, at once."""


class Line:
    """One serial line. Its device may be absent at first, vanish and come back: the line opens it, by the same name, whenever it is there.

    Its attributes may be read in any thread.

    :param factory: gives the open port and the session
    :param carrier: moves the bytes
    :param reopen: False: an absent device is an error at the start, and a lost one is lost for good
    """

    def __init__(self, factory: ModbusSerialFactory, carrier: Carrier, reopen: bool = True) -> None:
        self.name = factory.name
        #: "open", "waiting" for its device, or "closed".
        self.state = "closed"
        #: Why it waits, a sentence; empty while it is open.
        self.reason = ""
        #: How often it was opened.
        self.openings = 0
        #: How often its device vanished while it was open.
        self.losses = 0
        self._factory = factory
        self._carrier = carrier
        self._reopen = reopen
        self._port: Any = None
        self._opened = 0.0
        self._wait = FIRST_WAIT
        self._logged = ""
        # Delayed calls: the next attempt to open, the next look at the kernel's counters.
        self._attempt: Any = None
        self._counting: Any = None
        # What the kernel has counted up to the last look, and what it said then; replaced as one, for other threads.
        self._kernel: tuple[dict[str, int], dict[str, int]] = {}, {}

    def open(self) -> None:
        """Open the line for the first time, or wait for its device.

        :raises LineError: when the port is busy, not permitted or no serial port; with ``reopen=False`` also when it is absent
        :raises ConfigurationError: when it cannot be set up as asked
        """
        try:
            port = self._factory.open_port()
        except LineError as error:
            if not self._reopen or error.errno not in ABSENT:
                raise
            _log.warning("%s; the server waits for it", error)
            self._wait_after(str(error))
        else:
            self._serve(port)

    def close(self) -> Deferred[None]:
        """Close the line for good, or wait no more."""
        self.state = "closed"
        for call in (self._attempt, self._counting):
            if call is not None:
                call.cancel()
        self._attempt = self._counting = None
        self._count_kernel()
        self._port = None
        return self._carrier.close()

    def counters(self) -> dict[str, int]:
        """What has happened on the line since the server started: its own, the session's and the kernel's counters, by name.

        ``openings`` and ``losses`` of the device; those of :meth:`mbcore.session.Session.line_counters`; where the driver counts,
        ``framing_errors``, ``parity_errors``, ``breaks``, ``character_overruns`` (the chip's) and ``buffer_overruns`` (the kernel's).
        """
        totals, _ = self._look()
        return {"openings": self.openings, "losses": self.losses, **self._factory.session.line_counters(), **totals}

    def _serve(self, port: Any) -> None:
        try:
            self._carrier.open(port, self._lost)
        except BaseException:
            port.close()
            raise
        self._port = port
        self.state = "open"
        self.reason = self._logged = ""
        self.openings += 1
        self._opened = self._factory.seconds()
        # A device that was plugged in again counts from zero.
        totals, _ = self._kernel
        self._kernel = totals, kernel_counts(port)
        if self._kernel[1]:
            self._count_again()

    def _lost(self, reason: str) -> None:
        if self.state != "open":
            return
        self._port = None
        self.losses += 1
        if self._counting is not None:
            self._counting.cancel()
            self._counting = None
        if not self._reopen:
            self.state = "closed"
            _log.error("serial line %s is gone (%s): start the server again when the device is back", self.name, reason)
            return
        _log.warning("serial line %s is gone (%s); the server opens it again when the device is back", self.name, reason)
        if self._factory.seconds() - self._opened >= STEADY:
            self._wait = FIRST_WAIT
        self._wait_after(reason)

    def _wait_after(self, reason: str) -> None:
        self.state = "waiting"
        self.reason = reason
        self._attempt = self._factory.reactor.callLater(self._wait, self._try_again)
        self._wait = min(2 * self._wait, LONGEST_WAIT)

    def _try_again(self) -> None:
        self._attempt = None
        try:
            self._serve(self._factory.open_port())
        except Exception as error:  # whatever it is, the line must not stay deaf
            self._refused(error)
        else:
            _log.info("serial line %s is open", self.name)

    def _refused(self, error: Exception) -> None:
        if not isinstance(error, ModbusError | OSError):
            self._factory.report(f"serial line {self.name} does not open", error)
        # That it is absent is known. Another reason is logged when it has come twice: udev takes a moment to hand a new device over.
        sentence = str(error)
        known = isinstance(error, LineError) and error.errno in ABSENT
        if not known and sentence == self.reason != self._logged:
            self._logged = sentence
            _log.warning("serial line %s stays closed: %s", self.name, sentence)
        self._wait_after(sentence)

    def _count_again(self) -> None:
        self._counting = self._factory.reactor.callLater(COUNTING, self._count_again)
        self._count_kernel()

    def _look(self) -> tuple[dict[str, int], dict[str, int]]:
        """What the kernel has counted up to now, and what it says now."""
        totals, seen = self._kernel
        port = self._port
        counts = kernel_counts(port) if port is not None else {}
        return totals | {name: totals.get(name, 0) + count - seen.get(name, count) for name, count in counts.items()}, seen | counts

    def _count_kernel(self) -> None:
        before, _ = self._kernel
        self._kernel = totals, _ = self._look()
        new = sum(totals.get(name, 0) - before.get(name, 0) for name in OVERRUNS)
        if new:
            # What 08/18 tells a master (AP 6.8.1).
            self._factory.control.Counter.BusCharacterOverrun += new
