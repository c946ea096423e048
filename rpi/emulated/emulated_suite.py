"""What of the suite runs under emulation, as a plugin of pytest: `-p emulated_suite`, with PYTHONPATH at this folder.

Of a parametrised test the first case, the middle one and the last run (of one that is marked live, the first), so that every test of every
room does: emulated, one takes ten times as long. With MBCORE_EMULATED=all every case runs. What the emulator can't do is left out by
name.
"""

import os
from collections import Counter, defaultdict
from fnmatch import fnmatch

import pytest

CASES = 3
_WHY = pytest.StashKey[Counter]()
#: what is left out in any case, and why: patterns of test ids, and fixtures
LEFT_OUT = {
    "tests/test_house.py::*": "reads the sources, runs nothing",
    "tests/test_bench.py::*": "benchmarks are compiled for and run on this machine",
}
FIXTURES = {"shim": "the library that records system calls is compiled for this machine and can't be loaded there"}
FIXTURES["systemd_analyze"] = "it judges a file, and needs not be there for that"


def pytest_collection_modifyitems(config, items):
    everything = os.environ.get("MBCORE_EMULATED") == "all"
    cases = defaultdict(list)
    for item in items:
        cases[item.nodeid.partition("[")[0]].append(item)
    kept, why = set(), Counter()
    for its_items in cases.values():
        running = []
        for item in its_items:
            reason = reason_against(item)
            if reason:
                why[reason] += 1
            else:
                running.append(item)
        chosen = running if everything else thinned(running, 1 if running and running[0].get_closest_marker("live") else CASES)
        why["more cases of a test that runs"] += len(running) - len(chosen)
        kept |= {item.nodeid for item in chosen}
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid not in kept])
    items[:] = [item for item in items if item.nodeid in kept]
    config.stash[_WHY] = why


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
