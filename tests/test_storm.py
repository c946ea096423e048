"""Storms: a short one, with all that it checks; what is flat and what is not; a build for a sanitizer that is none."""

import pytest
from storm import run
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
    assert faults == ["descriptors are not flat: [24, 24, 24, 25]", "threads are not flat: [7, 7, 7, 8]"]
