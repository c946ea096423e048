"""What of the suite runs under emulation, as a plugin of pytest: `-p emulated_suite`, with PYTHONPATH at this folder.

Of a parametrised test the first case, the middle one and the last run (of one that is marked live, the first), so that every test of every
room does: emulated, one takes ten times as long. Of hypothesis' examples a tenth is tried. With MBCORE_EMULATED=all every case runs, with
every example. What the emulator can't do is left out by name.
"""

import os
import sys
from collections import Counter
from fnmatch import fnmatch

import hypothesis
import pytest

EVERY_CASE = os.environ.get("MBCORE_EMULATED") == "all"
CASES = 3
SLOWER = 10
# In the others PATIENCE is none of the real clock's.
LIVE_TESTS = ("test_live_", "test_cli", "test_console", "test_engine_", "test_server_gateway", "test_server_loop", "test_server_n")

_WHY = pytest.StashKey[Counter]()
#: what is left out in any case, and why: patterns of test ids, and fixtures
LEFT_OUT = {
    "tests/test_house.py::*": "reads the sources, runs nothing",
    "tests/test_bench.py::*": "benchmarks are compiled for and run on this machine",
    "tests/test_context.py::test_a_context_with_default_blocks_costs*": "the memory that it would measure is the emulator's",
    "tests/test_cli.py::test_signal_stops_within_a_second*": "a second is that of a real machine",
    "tests/test_engine_tcp.py::test_a_connection_that_cannot_be_accepted*": "a library that fails calls is compiled for this machine",
    "tests/test_live_robustness.py::test_many_clients_may_connect_at_once": "the emulator hands on too little of TCP_INFO",
    "tests/test_rpi_service.py::test_commands_are_run_by_the_system": "the emulator starts absent programs, from Python 3.13 on",
    "tests/test_server_loop.py::test_a_gpio_line_that_fails_is_a_loss*": "the emulator refuses the requests of GPIO lines in its own way",
}
FIXTURES = {"shim": "the library that records system calls is compiled for this machine and can't be loaded there"}
FIXTURES["systemd_analyze"] = "it judges a file, and needs not be there for that"


def pytest_configure(config):
    config.stash[_WHY] = Counter()
    # Before the tests are imported, which ask for so many.
    hypothesis.settings.register_profile("emulated", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
    hypothesis.settings.load_profile("emulated")
    if not EVERY_CASE:
        try_fewer_examples()


def try_fewer_examples():
    """A tenth of those that a test asks for, or would get without."""
    usual = hypothesis.settings.default.max_examples
    hypothesis.settings.register_profile("emulated and few", hypothesis.settings.default, max_examples=max(1, usual // SLOWER))
    hypothesis.settings.load_profile("emulated and few")
    whole = hypothesis.settings.__init__

    def fewer(self, *words, max_examples=None, **more):
        whole(self, *words, **more, **({} if max_examples is None else {"max_examples": max(1, max_examples // SLOWER)}))

    hypothesis.settings.__init__ = fewer


@pytest.hookimpl(hookwrapper=True)
def pytest_generate_tests(metafunc):
    """Drop cases before they become tests: to collect all of them takes minutes there."""
    yield
    if not EVERY_CASE:
        cases = metafunc._calls
        chosen = thinned(cases, 1 if metafunc.definition.get_closest_marker("live") else CASES)
        metafunc.config.stash[_WHY]["more cases of a test that runs"] += len(cases) - len(chosen)
        cases[:] = chosen


def pytest_collection_modifyitems(config, items):
    be_patient()
    reasons = [reason_against(item) for item in items]
    config.stash[_WHY].update(reason for reason in reasons if reason)
    config.hook.pytest_deselected(items=[item for item, reason in zip(items, reasons, strict=True) if reason])
    items[:] = [item for item, reason in zip(items, reasons, strict=True) if not reason]


def be_patient():
    """Have the tests wait longer for processes and threads, and before they are taken for hung: an emulated Python starts in seconds."""
    for name, module in list(sys.modules.items()):
        if name == "conftest":
            module.LIVE_SECONDS *= SLOWER
        elif name == "adu":
            module.RUN_SECONDS *= SLOWER
        elif name.startswith(("live.", *LIVE_TESTS)) and hasattr(module, "PATIENCE"):
            module.PATIENCE *= SLOWER
            if hasattr(module, "END_SECONDS"):
                module.END_SECONDS *= SLOWER


def pytest_terminal_summary(terminalreporter, config):
    for reason, count in sorted(config.stash[_WHY].items()):
        terminalreporter.write_line(f"left out: {count:5} {reason}")


def reason_against(item):
    """Why a test can't run there; None where it can."""
    reasons = [reason for pattern, reason in LEFT_OUT.items() if fnmatch(item.nodeid.partition("[")[0], pattern)]
    reasons += [reason for fixture, reason in FIXTURES.items() if fixture in item.fixturenames]
    return reasons[0] if reasons else None


def thinned(items, most):
    """At most so many, evenly spread, the first and the last among them."""
    if len(items) <= most:
        return items
    if most == 1:
        return items[:1]
    return [items[index * (len(items) - 1) // (most - 1)] for index in range(most)]
