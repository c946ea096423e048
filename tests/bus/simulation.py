"""A line, its stations and a judge put together: `run(setting, seed, polls)` polls our unit so often and says what came of it."""

import bisect
import random
from collections import Counter
from dataclasses import dataclass, field, fields

from bus import talk
from bus.clock import Clock
from bus.line import Line, Noise
from bus.stations import BROADCAST, Master, Poll, Receiver, Slaves
from bus.unit import QUOTES, UNIT, Unit

from mbcore.line import LineSession

OTHERS = range(2, 100)
ABSENT = 200  # units from here on are asked and are not there
STRAYS = 3  # stray bytes beside a frame that cost nothing
FOUND_OUT = 3  # replies that differ from their requests, after which echo="auto" has to know
COMPLAINTS = 20  # kept of one run


@dataclass(frozen=True)
class Setting:
    """What a simulated line is like; every field has a meaning of its own, all combinations are possible."""

    baudrate: int = 19200
    slaves: int = 1  # other slaves
    errors: float = 0.0  # bytes flipped, lost or inserted, per byte
    bursts: float = 0.0  # share of frames with noise in them or after them
    strays: float = 0.0  # share of frames with a 0x00 directly before, and directly after
    quoting: float = 0.3  # share of others' payloads with a valid request for us
    unknown: float = 0.0  # share of others' requests of user-defined function codes
    absent: float = 0.1  # share of polls of units that are not there
    broadcasts: float = 0.05
    repeats: float = 0.1  # share of own requests that the master sends twice, and of those without a right answer that it sends again
    tardy: float = 0.0  # share of others' answers that come after the master's time-out
    chunk: int = 1  # bytes per read
    late: float = 0.0  # seconds between an adapter's packets
    lag: float = 0.0  # seconds that a busy machine may take to look after the line
    single: bool = False  # the store answers every unit id, and the line is told that ours is the one
    echo: bool = False  # our own transmission is heard back
    ours_alone: bool = False  # the byte errors are at our receiver only
    timeout: float = 0.2  # the master's

    def __str__(self):
        told = (f"{field.name}={value}" for field in fields(self) if (value := getattr(self, field.name)) != field.default)
        return ", ".join(told) or "all as usual"


@dataclass
class Complaint:
    """One thing that must not be, with the session's calls that led to it."""

    fault: str
    sentence: str
    when: float
    since: float  # from then on it is of interest
    unit: Unit
    calls: list

    def __str__(self):
        return f"at {self.when:.6f} s, {self.fault}: {self.sentence}"

    def program(self):
        """Python that shows it: the fewest of the last calls, those since then at least, after which a new session does the same."""
        expected = self._does(self.calls)
        least = sum(call[1] >= self.since for call in self.calls)
        calls = next((calls for many in range(least, len(self.calls)) if self._does(calls := self.calls[-many:]) == expected), self.calls)
        at = 0
        while at + 1 < len(calls):
            (first, then, data, _), (second, now, more, last) = calls[at : at + 2]
            shorter = [*calls[:at], *calls[at + 1 :]]
            if first == second == "receive" and now - then < self.unit.line.silence:
                shorter = [*calls[:at], ["receive", now, data + more, last], *calls[at + 2 :]]
            if (self.fault != "unanswered" or len(shorter[at][2] or b"") > len(data or b"")) and self._does(shorter) == expected:
                calls = shorter
            else:
                at += 1
        lines = []
        for method, now, data, reply in calls:
            told = f"bytes.fromhex('{data.hex(' ')}'), " if data is not None else ""
            lines.append(f"session.{method}({told}{now:.6f})" + (f"  # {reply.hex(' ')}" if reply else ""))
        return "\n".join(lines)

    def _does(self, calls):
        """What a new session says and executes from `since` on."""
        done, now = [], 0.0
        session = self.unit.another_session(lambda *write: done.append((now, write)))
        for method, now, data, _ in calls:
            done.append((now, session.receive(data, now) if method == "receive" else session.expire(now)))
            if session.control.ListenOnly:
                session.control.ListenOnly = False
                done.append((now, "listens only"))
        return [what for when, what in done if what and when >= self.since]


@dataclass
class Verdict:
    """What came of a run.

    Intact are own requests that arrived as sent, with t3.5 of silence but for 3 stray bytes before them, and with silence until the reply
    but for as many 00. What else stands behind one may be the end of another unit's damaged frame that quotes it: nobody can tell.
    """

    counts: Counter = field(default_factory=Counter)
    worst: float = 0.0  # the longest time from a request's last byte to the reply's first
    complaints: list = field(default_factory=list, repr=False)

    # Each of these is one thing that must never be.
    FAULTS = ("unanswered", "wrong", "false executions", "stray frames", "too early", "into others")

    def __add__(self, other):
        return Verdict(self.counts + other.counts, max(self.worst, other.worst), (self.complaints + other.complaints)[:COMPLAINTS])

    @property
    def faultless(self):
        return not any(self.counts[fault] for fault in self.FAULTS)

    def hopeless(self, polls):
        """Whether a unit talks so much that the master won't get a word in."""
        return self.counts["stray frames"] > 100 + polls

    def __str__(self):
        counts = self.counts
        return (f"{counts['answered']}/{counts['intact']} answered, {counts['false executions']} false executions, "
                f"{counts['stray frames']} stray frames, worst {1000 * self.worst:.1f} ms")


class Judge:
    """Holds what our unit does against what it was asked."""

    def __init__(self, line, setting):
        self.line, self.clock, self.setting = line, line.clock, setting
        self.verdict = Verdict()
        self.unit = self.master = None
        self.reply_delay = line.silence
        self._asked = None  # the last own poll or broadcast
        self._seen = None  # the last one of anybody's
        self._arrived = False  # its bytes came off the line as they were sent
        self._write = None  # what it has still to write
        self._replies = []  # when they began
        self._complete = 0.0  # when its last byte came: noise may have said it a character sooner
        self._telling = 0  # replies that differ from their requests
        self._shadow = None

    def begin(self):
        self._shadow = self.unit.snapshot()

    def complain(self, fault, sentence):
        self.verdict.counts[fault] += 1
        if len(self.verdict.complaints) < COMPLAINTS:
            recent = [one.start for one in self.line.record[-3:] if one.sender not in (None, self.unit)]
            since = self._asked.transmission.start if self._asked else min(recent, default=self.clock.now)
            self.verdict.complaints.append(Complaint(fault, sentence, self.clock.now, since, self.unit, list(self.unit.calls)))

    def asked(self, poll):
        """The request is out."""
        if poll is self._seen:
            return
        self._seen = poll
        self._asked, self._replies, self._write = None, [], None
        if poll.unit not in (UNIT, BROADCAST):
            return
        self._asked = poll
        sent, unit = poll.transmission, self.unit
        self._arrived = self._around(sent)[0] is not None
        self.verdict.counts["asked"] += 1
        if self._arrived:
            self._write = unit.write_of(poll.pdu)

    def _catch_up(self):
        # A stray byte may still be on its way behind the request, and a reply without delay comes at once.
        poll = self.master.poll
        if poll is not None and poll.transmission.frame_end <= self.clock.now:
            self.asked(poll)

    def _around(self, sent):
        """How many bytes stood before the frame without t3.5 of silence between, and what came behind it until now or the reply.

        None where it did not come as it was sent.
        """
        times, heard, frame = self.unit.times, self.unit.heard, self._asked.frame
        edge = self.line.character / 2
        first = bisect.bisect(times, sent.start + edge)
        last = bisect.bisect(times, sent.end + edge)
        at = heard.find(frame, max(0, first - STRAYS), last)
        if at < 0:
            return None, None
        gap = self.line.silence + self.line.character - edge
        before, after = at, at + len(frame)
        self._complete = times[after - 1]
        while before > 0 and times[before] - times[before - 1] < gap:
            before -= 1
        end = bisect.bisect(times, self._replies[0]) if self._replies else len(times)
        return at - before, bytes(heard[after:end])

    def executed(self, unit, table, address, values):
        self._catch_up()
        values = [int(value) for value in values]
        self._shadow.setdefault(table, [])[address : address + len(values)] = values
        if self._write == (table, address, values):
            self._write = None
        else:
            self.complain("false executions", f"{table} {address} = {values[:8]} has been written, and nobody asked for it")

    def replied(self, transmission, reply):
        self._catch_up()
        now, poll = self.clock.now, self._asked
        # What it can't have heard yet it may collide with.
        heard = now - self.line.character - self.unit.receiver.lateness
        if any(one.sender is not None and one is not transmission and one.start < heard for one in self.line.sending):
            self.complain("into others", "sent while another station does")
        if poll is None or poll.over or poll.unit == BROADCAST or self._replies or not self._arrived:
            why = "nobody asks" if poll is None else "the master has given up" if poll.over else "it is a second time" if self._replies \
                else "the request was broken" if not self._arrived else "it was a broadcast"
            self.complain("stray frames", f"{reply.hex(' ')} sent, and {why}")
            return
        self._replies.append(now)
        self._telling += reply != poll.frame
        expected = talk.frame(self.unit.answer(poll.pdu), UNIT)
        if reply != expected:
            self.complain("wrong", f"{reply.hex(' ')} sent, right is {expected.hex(' ')}")
        waited = now - self._complete
        self.verdict.worst = max(self.verdict.worst, waited)
        if waited < self.reply_delay - 1e-9:
            self.complain("too early", f"replied {1000 * waited:.3f} ms after the request, {1000 * self.reply_delay:.3f} are asked for")

    def closed(self, poll):
        """The master has its answer or has given up."""
        if poll is not self._asked:
            return
        counts = self.verdict.counts
        sent = poll.transmission
        before, after = self._around(sent) if self._arrived else (None, None)
        done = self._write is None if poll.unit == BROADCAST else bool(self._replies)
        if before is None:
            counts["broken"] += 1
        elif any(one.sender not in (None, self.unit) and one is not sent and one.start > sent.start for one in self._since(sent)):
            counts["overtaken"] += 1
        elif before > STRAYS or len(after) > STRAYS or any(after):
            # By the specification no frame; answered or not, both are right.
            counts["in noise"] += 1
            counts["in noise answered"] += done
        else:
            counts["intact"] += 1
            counts["answered"] += done
            if not done:
                self.complain("unanswered", f"{poll.frame.hex(' ')} arrived {1000 * (self.clock.now - sent.frame_end):.1f} ms ago, "
                              f"{before} bytes before it and {after.hex(' ') or 'nothing'} behind it")
            elif self._write is not None:
                self.complain("wrong", f"answered, and {self._write} has not been written")
        self._write = None
        self._shadow.pop("listen only", None)
        if self._shadow != self.unit.snapshot():
            self.complain("false executions", "the image has changed, and nobody was told")
            self._shadow = self.unit.snapshot()

    def found_out(self):
        """Whether the unit has to know if it hears itself: until then, a write that is asked twice may be its own echo."""
        return self._telling > FOUND_OUT

    def _since(self, sent):
        for one in reversed(self.line.record):
            if one.start < sent.start:
                return
            yield one


def run(setting, seed, polls, session=LineSession):
    """Simulate until a unit on a `session` has been polled `polls` times: a Verdict. The same seed gives the same."""
    rng = random.Random(seed)
    clock = Clock()
    noise = Noise(random.Random(rng.random()), setting.errors)
    line = Line(clock, setting.baudrate, rng, noise=None if setting.ours_alone else noise, bursts=setting.bursts, strays=setting.strays)
    judge = Judge(line, setting)
    options = {"frame_gap": line.silence, "reply_delay": line.silence, "echo": "auto",
               "reply_deadline": setting.timeout - 2 * line.character, "character_time": line.character}
    unit = Unit(line, rng, judge.executed, judge.replied, session, options, setting.echo, setting.lag, setting.single)
    unit.receiver = Receiver(line, rng, unit.deliver, setting.chunk, setting.late)
    unit.noise = noise if setting.ours_alone else None
    judge.unit = unit
    talker = talk.Talk(rng, QUOTES, setting.quoting, setting.unknown)
    others = OTHERS[: setting.slaves]
    slaves = Slaves(line, rng, others, talker, setting.tardy, 1.1 * setting.timeout)

    def plan():
        for _ in range(polls):
            for _ in range(rng.randint(0, 3) if others else 0):
                request = talker.request()
                if len(request) <= 253:
                    yield Poll(rng.randint(ABSENT, 247) if rng.random() < setting.absent else rng.choice(others), request)
            if rng.random() < setting.broadcasts:
                yield Poll(BROADCAST, unit.broadcast())
            request = unit.request()
            yield Poll(UNIT, request)
            if rng.random() < setting.repeats and judge.found_out():
                yield Poll(UNIT, request)

    master = judge.master = Master(line, rng, plan(), setting.timeout, judge.asked, judge.closed, setting.repeats)
    master.may_repeat = judge.found_out
    line.join(unit, setting.echo)
    line.join(slaves)
    line.join(master)
    judge.begin()
    master.start()
    clock.run(lambda: master.done or judge.verdict.hopeless(polls))
    return judge.verdict
