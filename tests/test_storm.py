"""Storms: a short one, with all that it checks; what is flat and what is not; who may be closed."""

import random
import re
from types import SimpleNamespace

import adu
import pytest
from storm import clients, run, server
from storm.run import Sample, judge, storm

FLAT = [Sample(50_000 + number, 24, 7) for number in range(24)]


@pytest.mark.live
@pytest.mark.long
@pytest.mark.parametrize("seed", [1, 2], ids=["gated", "open"])
def test_nothing_goes_wrong_in_a_storm(seed):
    """Two threads write and read 125 registers with one value, which clients read meanwhile: none is torn."""
    assert storm(minutes=0.1, seed=seed, rounds=4) == []


def test_what_is_flat():
    assert judge(FLAT) == []


@pytest.mark.parametrize("name", ["descriptors", "threads"])
def test_one_more_at_the_end_is_not_flat(name):
    faults = judge([*FLAT[:-1], FLAT[-1]._replace(**{name: 30})])
    assert len(faults) == 1
    assert name in faults[0]


def test_memory_that_grows_with_the_clients_is_not_flat():
    growing = [Sample(50_000 + 100 * number, 24, 7) for number in range(24)]
    assert judge(growing) == ["resident memory grows: 50850 KiB, then 52050 KiB"]
    assert judge(growing, memory=False) == []


def test_memory_that_is_taken_in_the_beginning_is_flat():
    assert judge([Sample(min(50_000 + 2000 * number, 60_000), 24, 7) for number in range(24)]) == []


@pytest.mark.live
@pytest.mark.long
def test_what_the_server_holds_too_much_is_found(monkeypatch):
    samples = iter([*FLAT[:3], Sample(50_000, 25, 8)])
    monkeypatch.setattr(run, "at_rest", lambda server: next(samples))
    faults = storm(minutes=0.01, seed=1, rounds=4)
    # Whether somebody has counted, or forked, in so short a time is a matter of the machine.
    assert faults[:2] == ["descriptors are not flat: [24, 24, 24, 25]", "threads are not flat: [7, 7, 7, 8]"]


@pytest.mark.live
@pytest.mark.parametrize(("numbers", "disorder"), [([0, 1, 5], 0), ([5, 4], 1), ([5, 5], 1)])
def test_numbers_that_come_out_of_order_are_noticed(numbers, disorder):
    """As clients write them, two registers each, one request behind the other."""
    application = server.Application()
    try:
        master = adu.master("socket", application.context)
        for number in numbers:
            assert master.ask(adu.pdu(f"10 0002 0002 04 {number:08X}")) == adu.pdu("10 0002 0002")
        assert application.state()["counted"] == len(numbers)
        assert application.state()["disorder"] == disorder
    finally:
        application.end()


class Headed(clients.Client):
    """Its answers have this head and nothing behind it."""

    def __init__(self, head):
        self._head = head

    def hear(self, size):
        head, self._head = self._head[:size], self._head[size:]
        assert len(head) == size, "more is waited for"
        return head


@pytest.mark.parametrize(
    ("head", "fault"),
    [
        ("0001 0000 0000", "an answer of length 0"),
        ("0001 0000 0001", "an answer of length 1"),
        ("0001 0000 00FF", "an answer of length 255"),
        ("0001 0100 0005", "protocol 256"),
    ],
)
def test_a_head_that_no_answer_has_is_a_fault(head, fault):
    with pytest.raises(AssertionError, match=f"^{fault}"):
        Headed(adu.pdu(head)).answer((1, 1))


def test_whatever_stops_a_client_is_a_fault():
    raging = clients.Storm({}, seed=1)
    raging.rage(60)
    assert len(raging.faults) >= clients.FAULTS
    assert all(re.search(r": KeyError: '(tcp|udp|rtu-over-tcp|limited)'$", fault) for fault in raging.faults)


class Guest(clients.Client):
    """A client of a server that closes, when 0.9 s have gone by, who has said nothing for `after` seconds; a request takes 0.2 s."""

    after = 0.0
    now = 0.0
    closed = 0

    def __init__(self, port, rng, host):
        self.rng, self.transaction, self.spoke = rng, 0, Guest.now

    def __exit__(self, *_):
        pass

    def say(self, data):
        Guest.now += 0.2
        if Guest.now > 0.9 and Guest.now - self.spoke >= self.after:
            Guest.closed += 1
            raise clients.GoneError

    def answer(self, head):
        return bytes([3, 250, *bytes(250)])

    def is_closed(self):
        return True


@pytest.fixture
def guests(monkeypatch):
    monkeypatch.setattr(clients, "Client", Guest)
    monkeypatch.setattr(clients, "time", SimpleNamespace(monotonic=lambda: Guest.now))
    for name, value in (("after", 0.0), ("now", 0.0), ("closed", 0)):
        monkeypatch.setattr(Guest, name, value)
    return Guest


@pytest.mark.parametrize("seed", range(10))
def test_who_has_just_spoken_must_not_be_closed_however_old_the_crowd_is(guests, seed):
    with pytest.raises(AssertionError, match="closed although it has just spoken"):
        clients.crowd_from_one_host(0, random.Random(seed), "")
    assert guests.closed == 1


@pytest.mark.parametrize("seed", range(10))
def test_who_has_said_nothing_for_long_may_be_closed(guests, seed):
    guests.after = 0.6
    clients.crowd_from_one_host(0, random.Random(seed), "")
    assert guests.closed == 1
