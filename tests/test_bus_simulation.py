"""The simulated bus itself: what its line, its stations and its judge do, so that what is proved on it is proved."""

import random

import pytest
from bus import talk
from bus.clock import Clock
from bus.line import Line, Noise
from bus.simulation import Setting, run
from bus.stations import Receiver

from mbcore.line import LineSession


class Ear:
    def __init__(self, clock):
        self.clock, self.heard = clock, []

    def hear(self, data):
        self.heard.append((round(self.clock.now, 9), data))

    def sent(self, transmission):
        pass


def line_with_ear(**options):
    clock = Clock()
    line = Line(clock, 9600, random.Random(1), **options)
    ear = Ear(clock)
    line.join(ear)
    return line, ear


def text(ear):
    return b"".join(data for _, data in ear.heard)


def test_characters_come_in_the_time_that_they_take():
    line, ear = line_with_ear()
    line.transmit(Ear(line.clock), b"ab")
    line.clock.run(lambda: False)
    assert ear.heard == [(round(11 / 9600, 9), b"a"), (round(22 / 9600, 9), b"b")]


def test_a_station_does_not_hear_itself_but_where_there_is_an_echo():
    line, ear = line_with_ear()
    echoing = Ear(line.clock)
    line.join(echoing, echo=True)
    line.transmit(ear, b"x")
    line.clock.run(lambda: False)
    line.transmit(echoing, b"y")
    line.clock.run(lambda: False)
    assert (text(ear), text(echoing)) == (b"y", b"xy")


def test_two_at_once_collide_and_the_record_says_so():
    line, ear = line_with_ear()
    line.transmit(Ear(line.clock), b"first")
    line.clock.at(2.5 * line.character, line.transmit, Ear(line.clock), b"second")
    line.clock.run(lambda: False)
    assert [one.collided for one in line.record] == [True, True]
    assert [bytes(one.data) for one in line.record] == [b"first", b"second"]
    assert line.record[0].heard[:2] == b"fi"
    assert line.record[1].heard[-2:] == b"nd"
    assert text(ear) not in (b"firstsecond", b"")


def test_one_after_the_other_does_not_collide():
    line, ear = line_with_ear()
    line.transmit(Ear(line.clock), b"first")
    line.clock.at(5.5 * line.character, line.transmit, Ear(line.clock), b"second")
    line.clock.run(lambda: False)
    assert not any(one.collided for one in line.record)
    assert text(ear) == b"firstsecond"


@pytest.mark.parametrize("rate", [1e-3, 1e-2, 0.5])
def test_noise_comes_at_its_rate(rate):
    noise = Noise(random.Random(7), rate)
    distorted = [noise.distort(5) for _ in range(200_000)]
    wrong = [data for data in distorted if data != b"\5"]
    assert len(wrong) == pytest.approx(200_000 * rate, rel=0.2)
    for length in (0, 1, 2):
        assert sum(len(data) == length for data in wrong) == pytest.approx(len(wrong) / 3, rel=0.3)


def test_bursts_and_strays_come_as_often_as_told():
    line, _ = line_with_ear(bursts=0.2, strays=0.3)
    for number in range(1000):
        line.clock.at(number, line.transmit, Ear(line.clock), b"frame")
    line.clock.run(lambda: False)
    frames = [one for one in line.record if one.sender]
    assert len(line.record) - len(frames) == pytest.approx(200, rel=0.2)
    assert sum(one.begins for one in frames) == pytest.approx(300, rel=0.2)
    assert sum(len(one.data) - one.ends for one in frames) == pytest.approx(300, rel=0.2)


@pytest.mark.parametrize(("chunk", "late"), [(1, 0), (8, 0), (64, 0), (1, 0.016), (8, 0.016), (64, 0.016)])
def test_a_receiver_brings_all_in_pieces_and_in_time(chunk, late):
    clock = Clock()
    line = Line(clock, 19200, random.Random(1))
    came = []
    receiver = Receiver(line, random.Random(2), lambda data: came.append((clock.now, data)), chunk, late)
    line.join(receiver)
    line.transmit(Ear(clock), bytes(range(200)))
    clock.run(lambda: False)
    assert b"".join(data for _, data in came) == bytes(range(200))
    assert max(len(data) for _, data in came) == min(chunk, 29 if late else 14)  # 16 ms and a bit, FIFO level
    assert came[-1][0] <= 200 * line.character + max(0.017, 3.01 * line.character)


def test_requests_and_answers_of_all_functions_are_frames_that_tell_their_length():
    talker = talk.Talk(random.Random(3))
    seen = set()
    for _ in range(3000):
        request = talker.request()
        answer = talker.answer(request)
        seen.add(request[0])
        assert len(request) <= 253
        if len(answer) <= 253:
            assert talk.answer_length(request, talk.frame(answer, 9)) == len(answer) + 3
    assert seen == set(talk.REQUESTS_OF_OTHERS)


def test_the_quick_crc_is_the_slow_one():
    from adu import crc_bytes

    chance = random.Random(4)
    for _ in range(50):
        data = chance.randbytes(chance.randrange(1, 254))
        assert talk.crc(data) == crc_bytes(data)


class Saboteur(LineSession):
    """A session that spoils its replies."""

    def receive(self, data, now):
        return self.spoil(LineSession.receive(self, data, now))

    def expire(self, now):
        return self.spoil(LineSession.expire(self, now))


class Mute(Saboteur):
    def spoil(self, reply):
        return b""


class Liar(Saboteur):
    def spoil(self, reply):
        return reply and talk.frame(reply[1:-3] + bytes([reply[-3] ^ 1]), reply[0])


class Chatterbox(Saboteur):
    replies = 0

    def spoil(self, reply):
        self.replies += bool(reply)
        return reply * 2 if self.replies == 5 else reply


class Gossip(LineSession):
    """Says something when another unit is asked."""

    def receive(self, data, now):
        return LineSession.receive(self, data, now) or (talk.frame(b"\x83\1", 1) if data[:1] == b"\2" else b"")


class Hasty(LineSession):
    """Does not wait before it replies."""

    def __init__(self, *args, **options):
        LineSession.__init__(self, *args, **options | {"reply_delay": 0.0})


class Credulous(LineSession):
    """Executes whatever looks like a request for it, wherever it stands."""

    def receive(self, data, now):
        at = data.find(talk.frame(b"\x06\0\1\xbe\xef", 1))
        if at >= 0:
            self.store[1].setValues(6, 1, [0xBEEF])
        return LineSession.receive(self, data, now)


@pytest.mark.parametrize(
    ("session", "fault"),
    [(Mute, "unanswered"), (Liar, "wrong"), (Gossip, "stray frames"), (Gossip, "into others"), (Hasty, "too early"),
     (Credulous, "false executions")],
)
def test_the_judge_finds(session, fault):
    # What comes in one piece is found with ease; who hears each byte knows that others send.
    usb = {"chunk": 64, "late": 0.016} if session is Credulous else {}
    verdict = run(Setting(quoting=1.0, **usb), 1, 100, session)
    assert verdict.counts[fault] > 0
    assert not verdict.faultless
    complaint = next(one for one in verdict.complaints if one.fault == fault)
    assert "session." in complaint.program()


def test_the_judge_finds_what_is_said_twice():
    assert run(Setting(), 1, 20, Chatterbox).counts["wrong"] == 1


def test_the_same_seed_gives_the_same():
    setting = Setting(errors=1e-2, bursts=0.2)
    assert run(setting, 5, 20).counts == run(setting, 5, 20).counts != run(setting, 6, 20).counts
