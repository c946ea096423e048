"""Who speaks on the line: the master with its polls, the other slaves, and what brings bytes to a port as an adapter does."""

from dataclasses import dataclass, field

from bus import talk

BROADCAST, BROADCAST_PAUSE, BROADCAST_CHARACTERS = 0, 0.1, 22  # SL 2.4.1: the turnaround delay, 100 to 200 ms
LONGEST_ADU = 256
USB_PACKET = 62  # an FTDI's, without its two bytes of status
FIFO_LEVEL = 14  # the highest at which a 16550 interrupts
TICK_JITTER = 0.001


@dataclass(eq=False)
class Poll:
    """One request of the master's, and what became of it."""

    unit: int
    pdu: bytes
    transmission: object = None
    over: bool = False  # answered, or given up
    repeated: bool = False  # because it had no right answer
    answered: float = 0.0  # when the first byte of the answer came
    heard: bytearray = field(default_factory=bytearray)

    @property
    def frame(self):
        return talk.frame(self.pdu, self.unit)


class Master:
    """Asks what `polls`, an iterator of Poll, gives; waits for the answer, `timeout` seconds for its first byte.

    What is not told by its length is over after a silence. Where no right answer comes it asks once more in so many cases as
    `repeats` says. `asked(poll)` and `closed(poll)` are called when the request is out and when its
    answer is in or given up.
    """

    def __init__(self, line, rng, polls, timeout, asked=lambda poll: None, closed=lambda poll: None, repeats=0.0):
        self.line, self.clock = line, line.clock
        self._rng, self._polls, self._timeout, self._asked, self._closed, self._repeats = rng, polls, timeout, asked, closed, repeats
        self._again = None
        self.may_repeat = lambda: True
        self._last = 0.0
        self.poll = None
        self.done = False

    def start(self):
        self.clock.after(0, self._next)

    def _next(self):
        # Nobody begins before t3.5 of silence, a little more by the own clock.
        free = self._last + 1.05 * self.line.silence
        if self.clock.now < free:
            self.clock.at(free, self._next)
            return
        self.poll, self._again = self._again or next(self._polls, None), None
        if self.poll is None:
            self.done = True
            return
        self.poll.transmission = self.line.transmit(self, self.poll.frame)

    def sent(self, transmission):
        poll = self.poll
        self._asked(poll)
        self._last = self.clock.now
        if poll.unit == BROADCAST:
            self.clock.after(max(BROADCAST_PAUSE, BROADCAST_CHARACTERS * self.line.character), self._close, poll)
        else:
            self.clock.after(self._timeout, self._give_up, poll)

    def hear(self, data):
        self._last = self.clock.now
        poll = self.poll
        if poll is None or poll.over or poll.transmission.end > self.clock.now:
            return
        if not poll.heard:
            poll.answered = self.clock.now
        poll.heard += data
        heard = poll.heard.lstrip(b"\0")
        # It waits for the length of the answer, right or not; what comes from nowhere it waits out.
        if heard[:1] == bytes([poll.unit]) and len(heard) > 1 and heard[1] & 0x7F == poll.pdu[0]:
            length = talk.answer_length(poll.pdu, heard)
            if length is None:
                if len(heard) > 4:
                    self.clock.after(1.5 * self.line.silence, self._end, poll, len(poll.heard))
            elif len(heard) >= length:
                self._close(poll)

    def _end(self, poll, heard):
        if not poll.over and len(poll.heard) == heard:
            self._close(poll)

    def _give_up(self, poll):
        if poll.over:
            return
        quiet = self._last + 3 * self.line.silence
        if self.clock.now < quiet:
            self.clock.at(quiet, self._give_up, poll)
        else:
            self._close(poll)

    def _close(self, poll):
        if poll.over:
            return
        poll.over = True
        self._closed(poll)
        wrong = poll.unit != BROADCAST and not talk.is_frame(poll.heard)
        if wrong and not poll.repeated and self.may_repeat() and self._rng.random() < self._repeats:
            self._again = Poll(poll.unit, poll.pdu, repeated=True)
        self.clock.after(self.line.silence * (1.05 + 3 * self._rng.random()), self._next)


class Slaves:
    """All other slaves at once: each of `units` answers what is sent to it and arrives whole, after t3.5 and a little.

    :param tardy: the share of answers that come after `tardiness` seconds
    """

    def __init__(self, line, rng, units, talker, tardy=0.0, tardiness=0.0):
        self.line, self.clock = line, line.clock
        self._rng, self._units, self._talk, self._tardy, self._tardiness = rng, frozenset(units), talker, tardy, tardiness
        self._heard = bytearray()
        self._last = 0.0
        self._waiting = False

    def hear(self, data):
        self._heard += data
        self._last = self.clock.now
        if not self._waiting:
            self._waiting = True
            self.clock.after(self.line.silence, self._look)

    def _look(self):
        silent = self._last + self.line.silence
        if self.clock.now < silent:
            self.clock.at(silent, self._look)
            return
        self._waiting = False
        request, self._heard = self._request(), bytearray()
        if request is None:
            return
        late = self._tardiness if self._tardy and self._rng.random() < self._tardy else 0.0
        answer = talk.frame(self._talk.answer(request[1:-2]), request[0])
        if len(answer) <= LONGEST_ADU:
            self.clock.after(late + 0.01 * self._rng.random(), self.line.transmit, self, answer)

    def _request(self):
        # With a stray 0x00 before or after.
        heard = bytes(self._heard)
        for begin in (0, 1):
            for end in (len(heard), len(heard) - 1):
                candidate = heard[begin:end]
                if candidate[:1] and candidate[0] in self._units and talk.is_frame(candidate):
                    return candidate
        return None

    def sent(self, transmission):
        pass


class Receiver:
    """Brings what is heard to `deliver(data)` as hardware does, in pieces of `chunk` bytes at most.

    :param late: seconds between the packets of a USB adapter; 0: a UART, which interrupts at `chunk` bytes in its FIFO (14 at most) or
        after 3 characters' silence
    """

    def __init__(self, line, rng, deliver, chunk=1, late=0.0):
        self.clock = line.clock
        self._rng, self._deliver, self._chunk, self._late = rng, deliver, chunk, late
        self._idle = 3 * line.character
        self._level = USB_PACKET if late else min(chunk, FIFO_LEVEL)
        # How old what is delivered may be.
        self.lateness = late + TICK_JITTER if late else 0.0 if self._level == 1 else (self._level + 3) * line.character
        self._fifo = bytearray()
        self._waiting = False
        self._phase = rng.random() * late
        self._last = 0.0

    def hear(self, data):
        self._fifo += data
        self._last = self.clock.now
        if len(self._fifo) >= self._level:
            self.flush()
        elif not self._waiting:
            self._waiting = True
            if self._late:
                ticks = (self.clock.now - self._phase) // self._late + 1
                self.clock.at(self._phase + ticks * self._late + TICK_JITTER * self._rng.random(), self._tick)
            else:
                self.clock.after(self._idle, self._tick)

    def _tick(self):
        if not self._late and self.clock.now < self._last + self._idle and self._fifo:
            self.clock.at(self._last + self._idle, self._tick)
            return
        self._waiting = False
        self.flush()

    def flush(self):
        held, self._fifo = bytes(self._fifo), bytearray()
        for at in range(0, len(held), self._chunk):
            self._deliver(held[at : at + self._chunk])

    def cut(self):
        """End a packet here: the adapter's clock happens to strike now."""
        self._phase = self.clock.now
        self.flush()
