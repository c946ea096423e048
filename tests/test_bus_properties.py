"""On a shared line, whatever it is like: what is asked of us is answered once, rightly and in time; nothing else is said or done."""

from dataclasses import replace

import pytest
from bus import soak
from bus.simulation import Setting, run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

LINES = [
    pytest.param({"baudrate": baudrate, **noise, **delivery}, id=f"{baudrate}-{noise_name}-{delivery_name}")
    for baudrate in soak.BAUDRATES
    for noise_name, noise in soak.NOISES.items()
    for delivery_name, delivery in soak.DELIVERIES.items()
]
PATIENCE = 50  # characters that the least patient master waits

rates = st.sampled_from([0.0, 1e-3, 1e-2])
shares = st.sampled_from([0.0, 0.05, 0.3, 1.0])



def bearable(setting):
    """As it is, with a master that waits long enough for its speed, and without noise in an echo.

    A damaged echo of a write and a master that asks again are the same bytes.
    """
    quiet = {"errors": 0.0, "bursts": 0.0, "strays": 0.0} if setting.echo else {}
    return replace(setting, timeout=max(setting.timeout, PATIENCE * 11 / setting.baudrate), **quiet)


any_line = st.builds(
    Setting,
    baudrate=st.sampled_from([4800, 9600, 19200, 38400, 115200]),
    slaves=st.integers(0, 8),
    errors=rates,
    bursts=st.sampled_from([0.0, 0.2]),
    strays=st.sampled_from([0.0, 0.3]),
    quoting=shares,
    unknown=st.sampled_from([0.0, 0.2]),
    absent=st.sampled_from([0.0, 0.1, 0.5]),
    broadcasts=st.sampled_from([0.0, 0.2]),
    tardy=st.sampled_from([0.0, 0.1]),
    chunk=st.sampled_from([1, 2, 3, 5, 8, 13, 64]),
    late=st.sampled_from([0.0, 0.001, 0.016]),
    lag=st.sampled_from([0.0, 0.0005, 0.002]),
    repeats=st.sampled_from([0.0, 0.1, 1.0]),
    single=st.booleans(),
    echo=st.booleans(),
    ours_alone=st.booleans(),
    timeout=st.sampled_from([0.15, 0.2, 0.5, 1.0]),
).map(bearable)


def found_right(verdict):
    assert verdict.faultless, "\n".join(f"{complaint}\n{complaint.program()}" for complaint in verdict.complaints[:1])


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("slaves", [1, 8])
def test_every_request_that_arrives_is_answered_and_nothing_else(line, slaves):
    verdict = run(Setting(slaves=slaves, **line), 1, 10)
    assert verdict.counts["asked"] >= 10
    found_right(verdict)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(setting=any_line, seed=st.integers(0, 2**32))
def test_whatever_the_line_is_like(setting, seed):
    found_right(run(setting, seed, 8))


@pytest.mark.live
@pytest.mark.long
def test_twenty_thousand_polls():
    found_right_of_all = soak.soak(20_000, seed=1_000_000)
    assert found_right_of_all.faultless
    counts = found_right_of_all.counts
    assert counts["answered"] == counts["intact"] >= 17_000
