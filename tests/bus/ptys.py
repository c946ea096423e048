"""The simulated line in real time: pseudo-terminals joined as one RS-485 line, paced by its speed, with the same stations and noise."""

import contextlib
import os
import random
import selectors
import threading
import time
import tty

from bus import talk
from bus.clock import Clock
from bus.line import Line, Noise
from bus.stations import Master, Receiver, Slaves

CHUNK = 4096


class WaitingClock(Clock):
    """A clock that waits until what is due is due, and looks after file descriptors meanwhile."""

    def __init__(self):
        super().__init__()
        self._begun = time.monotonic()
        self._selector = selectors.DefaultSelector()

    def watch(self, descriptor, readable):
        self._selector.register(descriptor, selectors.EVENT_READ, readable)

    def run(self, over):
        with self._selector:
            while not over():
                due = self.next()
                for key, _ in self._selector.select(None if due is None else max(0.0, due - self._passed())):
                    self.now = max(self.now, self._passed())
                    key.data()
                # Each at the time that it was due: what was late does not make the next late.
                while (due := self.next()) is not None and due <= self._passed():
                    self.step()

    def _passed(self):
        return time.monotonic() - self._begun


class PtyStation:
    """A station whose other end any program may open as its serial port: `path`."""

    def __init__(self, line, rng, chunk, late):
        self.line = line
        self._descriptor, self._port = os.openpty()
        tty.setraw(self._port)
        os.set_blocking(self._descriptor, False)
        self.path = os.ttyname(self._port)
        self._receiver = Receiver(line, rng, self._write, chunk, late)
        line.clock.watch(self._descriptor, self._read)

    def hear(self, data):
        self._receiver.hear(data)

    def sent(self, transmission):
        pass

    def _write(self, data):
        # Where nobody reads, the oldest bytes stay and these are lost, as in a full UART.
        with contextlib.suppress(BlockingIOError):
            os.write(self._descriptor, data)

    def _read(self):
        self.line.transmit(self, os.read(self._descriptor, CHUNK))

    def close(self):
        os.close(self._descriptor)
        os.close(self._port)

    def __str__(self):
        return self.path


class Bus:
    """A line with `ptys` ends for programs; runs in a thread of its own until it is closed. Usable as a context manager.

    :param ptys: how many pseudo-terminals; their names are in `paths`
    :param slaves: unit ids of the other slaves on it, who answer everything that they are asked
    :param polls: for a master on it, who waits for `begin`: an iterator of Poll; None: a program at one of the ends is the master
    :param timeout: that master's, seconds
    :param errors: bytes flipped, lost or inserted, per byte
    :param bursts: the share of frames with noise in them or after them
    :param strays: the share of frames with a 0x00 directly before, and directly after
    :param echo: the ptys hear what they send themselves
    :param chunk: bytes per read, :param late: seconds between the packets of a USB adapter (0: a UART)
    :param seed: of everything that is left to chance
    :param closed: called in the bus's thread with each Poll of that master when it is over
    """

    def __init__(self, baudrate=19200, ptys=2, slaves=(), *, polls=None, timeout=1.0, errors=0.0, bursts=0.0, strays=0.0, echo=False,
                 chunk=1, late=0.0, seed=0, closed=lambda poll: None):
        rng = random.Random(seed)
        self.clock = WaitingClock()
        self.line = Line(self.clock, baudrate, rng, noise=Noise(rng, errors), bursts=bursts, strays=strays)
        self._stations = [PtyStation(self.line, rng, chunk, late) for _ in range(ptys)]
        for station in self._stations:
            self.line.join(station, echo)
        self.slaves = Slaves(self.line, rng, slaves, talk.Talk(rng))
        self.line.join(self.slaves)
        self.master = None
        if polls is not None:
            self.master = Master(self.line, rng, polls, timeout, closed=closed)
            self.line.join(self.master)
        self._woken, self._wake = os.pipe()
        self._closing = False
        self.clock.watch(self._woken, self._begin)
        self._thread = threading.Thread(target=self.clock.run, args=(self._over,))
        self._thread.start()

    def _over(self):
        return self._closing or (self.master is not None and self.master.done)

    def _begin(self):
        if os.read(self._woken, 1):
            self.master.start()

    def begin(self):
        """Let the master ask."""
        os.write(self._wake, b"\n")

    @property
    def paths(self):
        return [station.path for station in self._stations]

    @property
    def record(self):
        """All transmissions until now, by their start: who, when, which bytes, and what the line made of them."""
        return list(self.line.record)

    def wait(self, seconds=None):
        """Until the master has no more polls; whether it has."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def close(self):
        self._closing = True
        os.close(self._wake)
        self._thread.join()
        os.close(self._woken)
        for station in self._stations:
            station.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
