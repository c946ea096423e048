"""Two wires that many stations share: characters in their time, collisions, noise, and a record of who sent what.

Knows no Modbus. A station is anything with `hear(data)`; it sends by `line.transmit(itself, data)`. The clock may be a simulated one
or one that waits (see ptys.py): the line does the same on both.
"""

import math
from dataclasses import dataclass, field

CHARACTER_BITS = 11  # SL 2.5.1: start, 8 data, parity or a second stop, stop
FAST_BAUDRATE, FAST_GAP = 19200, 0.00175
LONGEST_BURST = 30


def silence(baudrate):
    """t3.5 in seconds (SL 2.5.1.1)."""
    return FAST_GAP if baudrate > FAST_BAUDRATE else 3.5 * CHARACTER_BITS / baudrate


@dataclass(eq=False)
class Transmission:
    """What a station sends without a pause; `heard` is what the line made of it."""

    sender: object
    start: float
    data: bytearray
    begins: int = 0  # where the frame begins in `data` behind stray bytes, and where it ends
    ends: int = 0
    frame_end: float = math.inf  # when the frame's last character was through
    end: float = math.inf
    heard: bytearray = field(default_factory=bytearray)
    collided: bool = False
    sent: int = 0
    clashing: bool = False  # another one has ended within the current character


class Noise:
    """Flips, loses or inserts a byte, each as often, at `rate` per byte."""

    def __init__(self, rng, rate):
        self._rng, self._rate = rng, rate
        self._ahead = self._distance()

    def _distance(self):
        # Bytes until the next error: one draw per error, not per byte.
        return int(math.log(1 - self._rng.random()) / math.log(1 - self._rate)) if self._rate else math.inf

    def distort(self, byte):
        if self._ahead:
            self._ahead -= 1
            return bytes((byte,))
        self._ahead = self._distance()
        match self._rng.randrange(3):
            case 0:
                return bytes((byte ^ self._rng.randrange(1, 256),))
            case 1:
                return b""
            case _:
                return bytes((byte, self._rng.randrange(256)))


class Line:
    """The medium.

    :param noise: what distorts each character, for all that listen; None: nothing does
    :param bursts: the share of transmissions during or after which 1 to 30 bytes of noise come
    :param strays: the share of transmissions with a 0x00 directly before, and of those with one directly after
    """

    def __init__(self, clock, baudrate, rng, *, noise=None, bursts=0.0, strays=0.0):
        self.clock, self.baudrate = clock, baudrate
        self.character = CHARACTER_BITS / baudrate
        self.silence = silence(baudrate)
        self.record = []  # all transmissions, by their start
        self.sending = []
        self._rng, self._noise, self._bursts, self._strays = rng, noise, bursts, strays
        self._stations = []  # (station, whether it hears itself)

    def join(self, station, echo=False):
        self._stations.append((station, echo))

    def transmit(self, sender, data):
        """Send `data` from now on, behind what `sender` is sending already."""
        for transmission in self.sending:
            if transmission.sender is sender:
                transmission.data += data
                transmission.ends = len(transmission.data)
                return transmission
        before, after = (b"\0" if self._strays and self._rng.random() < self._strays else b"" for _ in range(2))
        transmission = self._put(sender, before + data + after)
        transmission.begins, transmission.ends = len(before), len(before + data)
        if self._bursts and self._rng.random() < self._bursts:
            length = len(transmission.data) * self.character + 4 * self.silence
            self.clock.after(self._rng.random() * length, self._burst)
        return transmission

    def _burst(self):
        self._put(None, self._rng.randbytes(self._rng.randint(1, LONGEST_BURST)))

    def _put(self, sender, data):
        transmission = Transmission(sender, self.clock.now, bytearray(data), ends=len(data))
        self.record.append(transmission)
        self.sending.append(transmission)
        self.clock.after(self.character, self._pass_character, transmission)
        return transmission

    def _pass_character(self, transmission):
        byte = transmission.data[transmission.sent]
        transmission.sent += 1
        if len(self.sending) > 1 or transmission.clashing:
            byte = self._rng.randrange(256)
            transmission.clashing = False
            for one in self.sending:
                one.collided = True
        heard = self._noise.distort(byte) if self._noise else bytes((byte,))
        transmission.heard += heard
        if transmission.sent == transmission.ends:
            transmission.frame_end = self.clock.now
        over = transmission.sent == len(transmission.data)
        if over:
            transmission.end = self.clock.now
            self.sending.remove(transmission)
            for one in self.sending:
                one.clashing = True
        else:
            self.clock.after(self.character, self._pass_character, transmission)
        if heard:
            for station, echo in self._stations:
                if echo or station is not transmission.sender:
                    station.hear(heard)
        if over and transmission.sender is not None:
            transmission.sender.sent(transmission)
