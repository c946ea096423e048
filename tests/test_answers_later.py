"""Blocks and contexts that answer with a Deferred: the session waits, keeps the order, and goes on."""

import pytest
from adu import FRAME_GAP, LINES, block, image, master, one_unit, pdu, refused, units, words, wrap_rtu, wrap_socket
from twisted.internet.defer import CancelledError, Deferred, fail, succeed

from mbcore import ModbusSequentialDataBlock, ModbusSocketFramer
from mbcore.datastore.remote import RemoteSlaveContext
from mbcore.errors import ConfigurationError, RequestError
from mbcore.execute import execute_request
from mbcore.session import Session

READ = pdu("03 0000 0002")


class Asked(ModbusSequentialDataBlock):
    """A block whose answers the test gives: each call is written down with its Deferred."""

    def __init__(self, later=("getValues",), cells=100):
        super().__init__(0, [0] * cells)
        self.calls = []
        self.later = later

    def _asked(self, name, *args):
        answer = Deferred()
        self.calls.append((name, *args, answer))
        return answer

    def validate(self, address, count=1):
        return self._asked("validate", address, count) if "validate" in self.later else super().validate(address, count)

    def getValues(self, address, count=1):
        return self._asked("getValues", address, count) if "getValues" in self.later else super().getValues(address, count)

    def setValues(self, address, values):
        return self._asked("setValues", address, values) if "setValues" in self.later else super().setValues(address, values)

    def answer(self, value, call=-1):
        self.calls[call][-1].callback(value)


@pytest.fixture
def asked():
    return Asked()


@pytest.fixture
def session(asked):
    return Session(ModbusSocketFramer, one_unit(image(hr=asked, co=block([1] * 8))))


def test_the_master_is_answered_when_the_values_are_there(session, asked):
    assert session.receive(wrap_socket(READ, 1, 7), 1.0) == b""
    assert session.waiting
    woken = []
    session.wake = lambda: woken.append(True)
    asked.answer([5, 6])
    assert woken == [True]
    assert session.resume(2.0) == wrap_socket(pdu("03 04 0005 0006"), 1, 7)
    assert not session.waiting
    assert [call[:-1] for call in asked.calls] == [("getValues", 0, 2)]


def test_what_comes_meanwhile_is_answered_afterwards_in_order(session, asked):
    coils, other = pdu("01 0000 0008"), pdu("03 0004 0001")
    first = session.receive(wrap_socket(coils, 1, 1) + wrap_socket(READ, 1, 2) + wrap_socket(coils, 1, 3)[:5], 1.0)
    assert first == wrap_socket(pdu("01 01 FF"), 1, 1)
    assert session.receive(wrap_socket(coils, 1, 3)[5:] + wrap_socket(other, 1, 4), 1.1) == b""
    assert session.resume(1.2) == b"", "the answer is not there yet"
    asked.answer([5, 6])
    assert session.resume(1.3) == wrap_socket(pdu("03 04 0005 0006"), 1, 2) + wrap_socket(pdu("01 01 FF"), 1, 3)
    assert session.waiting
    asked.answer([9])
    assert session.resume(1.4) == wrap_socket(pdu("03 02 0009"), 1, 4)


def test_an_answer_that_is_there_already_is_taken_at_once(session, asked, monkeypatch):
    monkeypatch.setattr(asked, "_asked", lambda name, address, count: succeed([3, 4]))
    assert session.receive(wrap_socket(READ), 1.0) == wrap_socket(pdu("03 04 0003 0004"))
    assert not session.waiting


@pytest.mark.parametrize(
    ("error", "code"), [(ValueError("the sensor is off"), 4), (RequestError(6, "busy"), 6), (RequestError(0x0B, "no answer"), 0x0B)]
)
@pytest.mark.parametrize("when", ["at once", "later"])
def test_a_failure_is_an_exception_response(session, asked, monkeypatch, error, code, when):
    if when == "at once":
        monkeypatch.setattr(asked, "_asked", lambda *call: fail(error))
        answer = session.receive(wrap_socket(READ), 1.0)
    else:
        session.receive(wrap_socket(READ), 1.0)
        asked.calls[0][-1].errback(error)
        answer = session.resume(1.1)
    assert answer == wrap_socket(refused(3, code))


@pytest.mark.parametrize("answer", [[1], 5, [1, 70000], ["x", 1]])
def test_a_wrong_answer_is_exception_04(session, asked, answer):
    reports = []
    it = Session(ModbusSocketFramer, session.store, report=lambda sentence, error: reports.append(sentence))
    it.receive(wrap_socket(READ), 1.0)
    asked.answer(answer)
    assert it.resume(1.1) == wrap_socket(refused(3, 4))
    assert len(reports) == 1


def test_no_answer_in_time_is_exception_0b_and_cancels(session, asked):
    cancelled = []
    session.receive(wrap_socket(READ) + wrap_socket(pdu("01 0000 0001")), 1.0)
    asked.calls[0][-1].addErrback(lambda failure: cancelled.append(failure.type))
    assert session.deadline() == 4.0
    assert session.expire(3.9) == b""
    assert session.expire(4.0) == wrap_socket(refused(3, 0x0B)) + wrap_socket(pdu("01 01 01"))
    assert asked.calls[0][-1].called
    assert session.deadline() is None


def test_the_time_is_settable(asked):
    session = Session(ModbusSocketFramer, one_unit(image(hr=asked)), answer_timeout=0.25)
    session.receive(wrap_socket(READ), 1.0)
    assert session.deadline() == 1.25


def test_an_answer_after_its_time_changes_nothing(session, asked):
    class Stubborn:
        """A Deferred that can't be cancelled."""

        def addCallbacks(self, answered, failed):
            self.answered, self.failed = answered, failed

    stubborn = Stubborn()
    asked._asked = lambda *call: stubborn
    it = Session(ModbusSocketFramer, session.store)
    it.receive(wrap_socket(READ, 1, 1), 1.0)
    assert it.expire(9.0) == wrap_socket(refused(3, 0x0B), 1, 1)
    stubborn.answered([1, 2])
    stubborn.failed(None)
    assert not it.waiting
    assert it.resume(9.1) == b""


def test_a_write_that_is_confirmed_later_is_answered_and_observed_then():
    asked, seen = Asked(("validate", "setValues")), []
    store = one_unit(image(hr=asked))
    store.add_observer(lambda *write: seen.append(write))
    session = Session(ModbusSocketFramer, store)
    request = pdu("10 0001 0002 04 0007 0008")
    assert session.receive(wrap_socket(request), 1.0) == b""
    asked.answer(True)
    assert session.resume(1.0) == b""
    assert [call[:-1] for call in asked.calls] == [("validate", 1, 2), ("setValues", 1, [7, 8])], "nothing is asked twice"
    assert seen == []
    asked.answer(None)
    assert session.resume(1.0) == wrap_socket(pdu("10 0001 0002"))
    assert seen == [(1, "holding_registers", 1, [7, 8])]


def test_addresses_that_are_refused_later_are_exception_02():
    asked = Asked(("validate",))
    session = Session(ModbusSocketFramer, one_unit(image(hr=asked)))
    session.receive(wrap_socket(READ), 1.0)
    asked.answer(False)
    assert session.resume(1.0) == wrap_socket(refused(3, 2))


def test_every_step_of_a_request_may_come_later():
    asked = Asked(("validate", "getValues", "setValues"))
    session = Session(ModbusSocketFramer, one_unit(image(hr=asked)))
    session.receive(wrap_socket(pdu("17 0000 0001 0002 0001 02 00FF")), 1.0)
    for answer in (True, True, None):
        asked.answer(answer)
        assert session.resume(1.0) == b""
    asked.answer([9])
    assert session.resume(1.0) == wrap_socket(pdu("17 02 0009"))
    assert [call[0] for call in asked.calls] == ["validate", "validate", "setValues", "getValues"]


def test_a_mask_write_reads_and_then_writes():
    asked = Asked(("getValues", "setValues"))
    session = Session(ModbusSocketFramer, one_unit(image(hr=asked)))
    request = pdu("16 0004 00F2 0025")
    session.receive(wrap_socket(request), 1.0)
    asked.answer([0x12])
    assert session.resume(1.0) == b""
    assert asked.calls[-1][:-1] == ("setValues", 4, [0x17])
    asked.answer(None)
    assert session.resume(1.0) == wrap_socket(request)


def test_a_broadcast_reaches_every_unit_in_turn():
    first, second = Asked(("setValues",)), Asked(("setValues",))
    session = LINES["rtu-serial"].session(units(u1=image(hr=first), u2=image(hr=second)))
    session.receive(wrap_rtu(pdu("06 0001 0005"), 0), 1.0)
    assert (len(first.calls), len(second.calls)) == (1, 0)
    first.answer(None)
    assert session.resume(1.1) == b""
    assert len(second.calls) == 1
    second.answer(None)
    assert session.resume(1.2) == b""
    assert not session.waiting


def test_on_a_line_the_answer_is_dropped_when_the_master_has_gone_on():
    asked = Asked()
    session = LINES["rtu-serial"].session(units(u1=image(hr=asked)), None)
    assert session.receive(wrap_rtu(READ), 1.0) == b""
    assert session.receive(wrap_rtu(READ, 2), 1.5) == b"", "someone else is asked"
    asked.answer([1, 2])
    assert session.resume(1.6) == b""
    assert session.line_counters()["suppressed_replies"] == 1
    assert session.line_counters()["foreign_frames"] == 1


def test_on_a_line_the_answer_goes_out_when_it_comes():
    asked = Asked()
    session = LINES["rtu-serial"].session(units(u1=image(hr=asked)), None, reply_delay=FRAME_GAP)
    session.receive(wrap_rtu(READ), 1.0)
    asked.answer([1, 2])
    assert session.resume(1.2) == wrap_rtu(pdu("03 04 0001 0002"))


def test_on_a_line_exception_0b_comes_before_the_reply_deadline():
    session = LINES["rtu-serial"].session(units(u1=image(hr=Asked())), None, reply_deadline=1.0)
    session.receive(wrap_rtu(READ), 1.0)
    assert session.deadline() == 1.5
    assert session.expire(1.5) == wrap_rtu(refused(3, 0x0B))


def test_reset_gives_up_the_answer(session, asked):
    session.receive(wrap_socket(READ) + wrap_socket(READ), 1.0)
    asked.calls[0][-1].addErrback(lambda failure: failure.trap(CancelledError))
    session.reset()
    assert not session.waiting
    assert session.resume(1.1) == b""
    assert session.receive(wrap_socket(pdu("01 0000 0001")), 1.2) == wrap_socket(pdu("01 01 01"))


def test_a_datagram_is_answered_later_too(session, asked):
    assert session.datagram(wrap_socket(READ, 1, 3), 5.0) == b""
    assert session.deadline() == 8.0
    asked.answer([1, 2])
    assert session.resume(5.1) == wrap_socket(pdu("03 04 0001 0002"), 1, 3)


def test_outside_a_session_it_is_refused_in_a_sentence(asked):
    from mbcore import ModbusControlBlock

    with pytest.raises(ConfigurationError, match="answers later, by <Deferred .*only a server's session waits"):
        execute_request(image(hr=asked), ModbusControlBlock(), READ)


class Client:
    """A client of a remote unit whose methods return Deferreds."""

    def __init__(self):
        self.asked = []

    def read_holding_registers(self, address, count, unit):
        answer = Deferred()
        self.asked.append((address, count, unit, answer))
        return answer


class Registers:
    def __init__(self, *registers):
        self.registers = list(registers)

    def isError(self):
        return False


def test_a_remote_unit_is_asked_once_and_the_master_waits_for_it():
    client = Client()
    it = master("socket", units(u1=RemoteSlaveContext(client, unit=9)))
    assert it.session.receive(wrap_socket(READ), 1.0) == b""
    ((address, count, unit, answer),) = client.asked
    assert (address, count, unit) == (0, 2, 9)
    answer.callback(Registers(11, 12))
    assert it.session.resume(1.5) == wrap_socket(b"\x03\x04" + words(11, 12))
