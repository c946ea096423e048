"""The compiled loop as the carrier of a serial line's bytes: its thread, and what it wants of the reactor. Decides nothing about Modbus."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReadDescriptor
from zope.interface import implementer

from mbcore.engine.serial import SerialLoop

from . import rs485
from .port import SettingError
from .thread import LoopThread
from .waiting import Waiting

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.python.failure import Failure

    from .serial import ModbusSerialFactory

_log = logging.getLogger(__name__)

# Characters of the longest reply, which is an ASCII one.
LONGEST_REPLY = 513
# Of SCHED_FIFO: above other real-time work that has no wish, below the kernel's own threads.
PRIORITY = 40


@implementer(IReadDescriptor)
class LoopCarrier:
    """A thread without the GIL moves the bytes and the direction signal; the reactor is asked where Python is needed."""

    def __init__(self, factory: ModbusSerialFactory) -> None:
        self._factory = factory
        self._loop: SerialLoop | None = None
        self._closed: Deferred[None] | None = None
        self._waiting = Waiting(factory)
        # That the real-time schedule is refused was said.
        self._told = False
        factory.turning = self.turning

    def open(self, port: Any, lost: Callable[[str], None]) -> None:
        """Serve an open port, and close it in the end.

        :raises LineError: when the GPIO line of its direction is absent, busy or not permitted
        :raises ConfigurationError: when the direction cannot be switched as asked
        """
        factory, settings = self._factory, self._factory.settings
        direction = settings.direction
        gpio = -1
        if direction.kind == "gpio":
            line: Any = direction.line
            gpio = rs485.request_gpio(direction.chip, line, active=direction.active)
        elif direction.kind == "rts":
            rs485.check_rts(port.fileno(), factory.name, active=direction.active)
        session = factory.buildSession()
        loop = SerialLoop(
            session,
            port.fileno(),
            settings.character_time,
            direction=direction.kind,
            active=direction.active,
            gpio_fd=gpio,
            delay_before=direction.delay_before,
            delay_after=direction.delay_after,
            priority=PRIORITY if settings.realtime else 0,
        )
        self._thread = LoopThread(loop, factory.name, factory.reactor, self._end)
        try:
            self._thread.start()
        except RuntimeError:  # the system gives no more threads
            if gpio >= 0:
                os.close(gpio)
            raise
        session.wake = self._attend
        self._port, self._gpio, self._lost, self._loop = port, gpio, lost, loop
        factory.reactor.addReader(self)
        factory.run_trace_connect(True)

    def close(self) -> Deferred[None]:
        """Serve no more; the Deferred fires when the port is closed. Where none is open, at once."""
        if self._loop is None:
            return succeed(None)
        if self._closed is None:
            closed: Deferred[None] = Deferred()
            self._loop.stop()
            self._closed = closed
            if not self._thread.begun:
                self._end("")
            return closed
        return self._closed

    def turning(self) -> bool:
        """Whether the loop turns; while its line waits for its device there is none."""
        if self._loop is None:
            return True
        return self._thread.turning(self._factory.seconds(), LONGEST_REPLY * self._factory.settings.character_time)

    def fileno(self) -> int:
        """What the reactor watches."""
        return -1 if self._loop is None else self._loop.fileno()

    def doRead(self) -> None:
        """The loop wants something."""
        self._attend()

    def connectionLost(self, reason: Failure) -> None:
        """The reactor forgets its readers: it was stopped, or something went wrong in one."""
        if self._loop is not None and not self._thread.elsewhere():
            self._loop.stop()
            self._end(reason.getErrorMessage())

    def logPrefix(self) -> str:
        """For Twisted's log."""
        return f"serial line {self._factory.name}"

    def _attend(self) -> None:
        loop = self._loop
        if loop is None or self._thread.elsewhere():
            return
        self._call(loop.attend)
        if loop.schedule_errno and not self._told:
            self._told = True
            _log.warning(
                "serial line %s is served without realtime=True: %s; set LimitRTPRIO=%d in its service unit, or run"
                " `sudo setcap cap_sys_nice=+ep %s`",
                self._factory.name,
                os.strerror(loop.schedule_errno),
                PRIORITY,
                os.path.realpath(sys.executable),
            )
        if loop.over:
            self._end(os.strerror(loop.errno))
            return
        self._waiting.watch(self._factory.session, self._give_up, loop)

    def _give_up(self, loop: SerialLoop) -> None:
        """A user's code has not answered in time."""
        if not self._thread.elsewhere():
            self._call(loop.give_up)
            self._attend()

    def _call(self, method: Callable[[], None]) -> None:
        try:
            method()
        except BaseException as error:
            # Of a user's code that wants to end the program. Raised here it would end the line.
            self._factory.report("a user's code was interrupted; a request that it was to answer is not answered", error)

    def _end(self, reason: str) -> None:
        """The loop has ended: leave nothing open."""
        loop, self._loop = self._loop, None
        assert loop is not None
        factory = self._factory
        factory.reactor.removeReader(self)
        self._thread.join()
        # Observers hear of the last writes too; an answer that a user's code still owes is given up.
        self._call(loop.attend)
        loop.close()
        factory.session.wake = None
        factory.session.reset()
        self._waiting.forget()
        with suppress(OSError, SettingError):  # of a device that has gone
            if factory.settings.port["xonxoff"] or factory.settings.port["rtscts"]:
                # The kernel would wait for bytes that flow control holds up, half a minute.
                self._port.reset_output_buffer()
        with suppress(OSError):
            self._port.close()
        if self._gpio >= 0:
            os.close(self._gpio)
        factory.run_trace_connect(False)
        closed, self._closed = self._closed, None
        if closed is not None:
            closed.callback(None)
        else:
            self._lost(reason)
