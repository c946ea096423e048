"""The log stays readable: what repeats is counted."""

import logging

import pytest

from mbcore.server.report import ErrorLog, Rarely


def raised(error):
    try:
        raise error
    except type(error) as caught:
        return caught


@pytest.fixture
def report(caplog):
    caplog.set_level(logging.DEBUG)
    return ErrorLog(logging.getLogger("test"))


def test_the_first_exception_is_logged_with_its_traceback(report, caplog):
    error = raised(OSError("no sensor"))
    report("getValues failed", error)
    assert [record.getMessage() for record in caplog.records] == ["getValues failed"]
    assert caplog.records[0].exc_info[1] is error


def test_the_same_exception_is_counted_at_1_10_and_100(report, caplog):
    for _ in range(150):
        report("getValues failed", raised(OSError("no sensor")))
    assert [record.getMessage() for record in caplog.records] == [
        "getValues failed",
        "getValues failed: OSError: no sensor (10 times so far)",
        "getValues failed: OSError: no sensor (100 times so far)",
    ]


def test_another_place_or_another_type_is_another_exception(report, caplog):
    report("failed", raised(OSError()))
    report("failed", raised(KeyError()))
    try:
        raise OSError
    except OSError as error:
        report("failed", error)
    assert len(caplog.records) == 3


def test_exceptions_without_a_traceback_are_told_apart_by_their_message(report, caplog):
    report("a wrong count", ValueError())
    report("a wrong type", ValueError())
    report("a wrong type", ValueError())
    assert [record.getMessage() for record in caplog.records] == ["a wrong count", "a wrong type"]


def test_of_what_has_come_together_the_last_is_logged():
    rarely = Rarely()
    assert [rarely.count("a", events) for events in (3, 6, 2, 88, 899, 10000)] == [3, None, 11, None, 998, 10998]
    assert rarely.count("b", 12) == 12


def test_the_memory_is_bounded_and_the_oldest_kind_is_forgotten_first():
    rarely = Rarely(limit=2)
    assert [rarely.count(kind) for kind in "aabcca"] == [1, None, 1, 1, None, 1]
