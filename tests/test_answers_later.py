"""Blocks and contexts that answer with a Deferred: the session waits, keeps the order, and goes on."""

from types import SimpleNamespace

import pytest
from adu import FRAME_GAP, LINES, block, image, master, one_unit, pdu, refused, units, words, wrap_rtu, wrap_socket
from doubles import Reactor, Wire, connect
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import FakeDatagramTransport
from twisted.python.failure import Failure

from mbcore import ModbusControlBlock, ModbusRtuFramer, ModbusSequentialDataBlock, ModbusSocketFramer
from mbcore.datastore.remote import RemoteSlaveContext
from mbcore.errors import ConfigurationError, RequestError
from mbcore.execute import execute_request
from mbcore.server import ModbusServerFactory, ModbusUdpProtocol
from mbcore.server.serial import ModbusSerialFactory
from mbcore.server.waiting import Waiting
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
    failures = []
    session.receive(wrap_socket(READ) + wrap_socket(pdu("01 0000 0001")), 1.0)
    asked.calls[0][-1].addErrback(failures.append)
    assert session.deadline() == 4.0
    assert session.expire(3.9) == b""
    assert not asked.calls[0][-1].called
    assert session.expire(4.0) == wrap_socket(refused(3, 0x0B)) + wrap_socket(pdu("01 01 01"))
    assert asked.calls[0][-1].called
    assert failures == [], "nobody is told of a cancellation"
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


@pytest.mark.parametrize(
    ("unit", "request_pdu", "told"),
    [
        (2, pdu("15 12 06 0001 0000 0001 0005 06 0001 0003 0001 0006"), [(2, (1, 0)), (2, (1, 3))]),
        (0, pdu("05 0004 FF00"), [(1, 4), (2, 4)]),
    ],
    ids=["two places", "a broadcast"],
)
def test_a_write_that_an_observer_confirms_is_told_of_behind_the_one_before_it(unit, request_pdu, told):
    """The first observer confirms it when it hears of the first part of another one."""
    asked = Asked(later=("setValues",))
    store = units(u1=image(hr=asked), u2=image(files={1: [0] * 9}))
    late, other = (Session(ModbusSocketFramer, store, broadcast_enable=True) for _ in range(2))
    late.wake = lambda: late.resume(1.1)
    heard = [], []

    def first(unit, _table, address, _values):
        heard[0].append((unit, address))
        if len(heard[0]) == 1:
            asked.answer(None)

    store.add_observer(first)
    store.add_observer(lambda unit, _table, address, _values: heard[1].append((unit, address)))
    assert late.receive(wrap_socket(pdu("06 0007 0001"), 1), 1.0) == b""
    other.receive(wrap_socket(request_pdu, unit), 1.0)
    assert heard == ([*told, (1, 7)],) * 2


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


def test_an_answer_has_its_time_from_when_it_was_asked_for():
    session = LINES["rtu-serial"].session(units(u1=image(hr=Asked())), None, answer_timeout=0.1)
    session.receive(b"\0" + wrap_rtu(READ), 1.0)
    while not session.waiting:
        now = session.deadline()
        assert session.expire(now) == b""
    assert session.deadline() == now + 0.1


def test_on_a_line_exception_0b_comes_before_the_reply_deadline():
    session = LINES["rtu-serial"].session(units(u1=image(hr=Asked())), None, reply_deadline=1.0)
    session.receive(wrap_rtu(READ), 1.0)
    assert session.deadline() == 1.5
    assert session.expire(1.5) == wrap_rtu(refused(3, 0x0B))


def test_reset_gives_up_the_answer(session, asked):
    session.receive(wrap_socket(READ) + wrap_socket(READ), 1.0)
    session.reset()
    assert asked.calls[0][-1].called, "with CancelledError"
    assert not session.waiting
    assert session.resume(1.1) == b""
    assert session.receive(wrap_socket(pdu("01 0000 0001")), 1.2) == wrap_socket(pdu("01 01 01"))


def test_a_datagram_is_answered_later_too(session, asked):
    assert session.datagram(wrap_socket(READ, 1, 3), 5.0) == b""
    assert session.deadline() == 8.0
    asked.answer([1, 2])
    assert session.resume(5.1) == wrap_socket(pdu("03 04 0001 0002"), 1, 3)


def test_outside_a_session_it_is_refused_in_a_sentence(asked):
    with pytest.raises(ConfigurationError, match=r"answers later, by <Deferred .*only a server's session waits"):
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


# ---- over the transports --------------------------------------------------------------------------------------------------------------


def tcp_connection(asked, **options):
    reactor = Reactor()
    factory = ModbusServerFactory(one_unit(image(hr=asked, co=block([1] * 8))), reactor=reactor, **options)
    factory.seconds = reactor.seconds
    return connect(factory, Wire(reactor))


def test_a_client_whose_answer_is_waited_for_is_not_read(asked):
    protocol = tcp_connection(asked)
    other = connect(protocol.factory, Wire(protocol.factory.reactor))
    protocol.dataReceived(wrap_socket(READ, 1, 1) + wrap_socket(pdu("01 0000 0008"), 1, 2))
    assert protocol.transport.reading is False
    other.dataReceived(wrap_socket(pdu("01 0000 0008")))
    assert other.transport.sent == wrap_socket(pdu("01 01 FF")), "the others go on"
    asked.answer([5, 6])
    assert protocol.transport.sent == wrap_socket(pdu("03 04 0005 0006"), 1, 1) + wrap_socket(pdu("01 01 FF"), 1, 2)
    assert protocol.transport.reading is True


def test_a_client_that_takes_no_replies_is_not_read_when_the_answer_comes(asked):
    protocol = tcp_connection(asked)
    protocol.dataReceived(wrap_socket(READ))
    protocol.pauseProducing()
    protocol.resumeProducing()
    assert protocol.transport.reading is False, "an answer is still waited for"
    protocol.pauseProducing()
    asked.answer([5, 6])
    assert protocol.transport.reading is False
    protocol.resumeProducing()
    assert protocol.transport.reading is True


def test_one_answer_after_the_other(asked):
    protocol = tcp_connection(asked)
    protocol.dataReceived(wrap_socket(READ, 1, 1) + wrap_socket(READ, 1, 2))
    asked.answer([1, 2])
    assert protocol.transport.reading is False
    asked.answer([3, 4])
    assert protocol.transport.sent == wrap_socket(pdu("03 04 0001 0002"), 1, 1) + wrap_socket(pdu("03 04 0003 0004"), 1, 2)
    assert protocol.transport.reading is True


def test_the_master_of_a_server_hears_0b_after_answer_timeout(asked):
    protocol = tcp_connection(asked, answer_timeout=0.5)
    protocol.dataReceived(wrap_socket(READ))
    protocol.factory.reactor.advance(0.4)
    assert protocol.transport.sent == b""
    protocol.factory.reactor.advance(0.2)
    assert protocol.transport.sent == wrap_socket(refused(3, 0x0B))
    assert protocol.transport.reading is True


def test_a_connection_that_is_lost_gives_its_answer_up(asked):
    protocol = tcp_connection(asked)
    protocol.dataReceived(wrap_socket(READ))
    failures = []
    asked.calls[0][-1].addErrback(failures.append)
    protocol.connectionLost(Failure(ConnectionDone()))
    assert asked.calls[0][-1].called
    assert failures == [], "nobody is told of a cancellation"
    assert protocol.transport.sent == b""
    assert protocol.factory.reactor.getDelayedCalls() == []


@pytest.mark.parametrize("value", [0, -1, "3", None, 3601, float("inf"), float("nan")])
def test_a_time_that_is_none_is_refused(value):
    with pytest.raises(ConfigurationError, match=r"answer_timeout is .*: give seconds, 0.001"):
        ModbusServerFactory(answer_timeout=value)


def test_a_line_is_heard_while_an_answer_is_waited_for(asked):
    reactor = Reactor()
    line = {"port": "/dev/ttyX", "baudrate": 115200}
    factory = ModbusSerialFactory(units(u1=image(hr=asked)), ModbusRtuFramer, None, line, reactor=reactor)
    factory.seconds = reactor.seconds
    protocol = connect(factory, Wire(reactor))
    protocol.dataReceived(wrap_rtu(READ))
    assert protocol.transport.reading is True
    reactor.advance(0.1)
    asked.answer([5, 6])
    reactor.advance(FRAME_GAP)
    assert protocol.transport.sent == wrap_rtu(pdu("03 04 0005 0006"))


PEER, OTHER = ("192.0.2.7", 40000), ("192.0.2.8", 40001)


def udp_port(asked, **options):
    reactor = Reactor()
    protocol = ModbusUdpProtocol(one_unit(image(hr=asked, co=block([1] * 8))), reactor=reactor, **options)
    protocol.seconds = reactor.seconds
    protocol.makeConnection(FakeDatagramTransport())
    return protocol


def test_datagrams_are_answered_when_the_values_are_there_each_to_its_sender(asked):
    protocol = udp_port(asked)
    protocol.datagramReceived(wrap_socket(READ, 1, 1), PEER)
    protocol.datagramReceived(wrap_socket(READ, 1, 2), OTHER)
    protocol.datagramReceived(wrap_socket(pdu("01 0000 0008"), 1, 3), OTHER)
    asked.answer([7, 8], call=1)
    asked.answer([5, 6], call=0)
    assert protocol.transport.written == [
        (wrap_socket(pdu("01 01 FF"), 1, 3), OTHER),
        (wrap_socket(pdu("03 04 0007 0008"), 1, 2), OTHER),
        (wrap_socket(pdu("03 04 0005 0006"), 1, 1), PEER),
    ]
    assert protocol.reactor.getDelayedCalls() == []


def test_a_datagram_whose_values_do_not_come_is_answered_0b():
    asked = Asked(("validate", "getValues"))
    protocol = udp_port(asked, answer_timeout=1.0)
    protocol.datagramReceived(wrap_socket(READ, 1, 1), PEER)
    protocol.reactor.advance(0.9)
    asked.answer(True)
    protocol.reactor.advance(0.9)
    assert protocol.transport.written == [], "each answer has its time"
    protocol.reactor.advance(0.2)
    assert protocol.transport.written == [(wrap_socket(refused(3, 0x0B), 1, 1), PEER)]


def test_a_broadcast_that_is_never_confirmed_ends_in_silence():
    asked = Asked(("setValues",))
    protocol = udp_port(asked, broadcast_enable=True)
    protocol.datagramReceived(wrap_socket(pdu("06 0001 0005"), 0), PEER)
    [(*call, confirmed)] = asked.calls
    assert call == ["setValues", 1, [5]]
    assert not confirmed.called
    protocol.reactor.advance(10)
    assert confirmed.called, "with CancelledError"
    assert protocol.transport.written == []
    assert protocol.reactor.getDelayedCalls() == []


def test_a_broadcast_that_is_confirmed_ends_in_silence_too():
    asked = Asked(("setValues",))
    protocol = udp_port(asked, broadcast_enable=True)
    protocol.datagramReceived(wrap_socket(pdu("06 0001 0005"), 0), PEER)
    asked.answer(None)
    assert protocol.transport.written == []
    assert protocol.reactor.getDelayedCalls() == []


@pytest.mark.parametrize("answered", [False, True])
def test_each_unit_of_a_broadcast_by_datagram_has_its_time(answered):
    first, second = Asked(("setValues",)), Asked(("setValues",))
    protocol = ModbusUdpProtocol(units(u1=image(hr=first), u2=image(hr=second)), reactor=Reactor(), broadcast_enable=True, answer_timeout=1)
    protocol.seconds = protocol.reactor.seconds
    protocol.makeConnection(FakeDatagramTransport())
    protocol.datagramReceived(wrap_socket(pdu("06 0001 0005"), 0), PEER)
    protocol.reactor.advance(1.1)
    assert first.calls[0][-1].called, "it is given up"
    assert [call[:-1] for call in second.calls] == [("setValues", 1, [5])]
    if answered:
        second.answer(None)
    else:
        protocol.reactor.advance(1.1)
    assert second.calls[0][-1].called
    assert second.calls[0][-1].result is None, "not even a slip of the server's own"
    assert protocol.reactor.getDelayedCalls() == []
    assert protocol.transport.written == []


@pytest.mark.parametrize("given_up", [False, True])
def test_an_interruption_by_the_next_unit_of_a_broadcast_leaves_no_timer(given_up):
    first = Asked(("setValues",))

    class Interrupted(ModbusSequentialDataBlock):
        def setValues(self, address, values):
            raise KeyboardInterrupt

    protocol = ModbusUdpProtocol(
        units(u1=image(hr=first), u2=image(hr=Interrupted(0, [0] * 8))), reactor=Reactor(), broadcast_enable=True, answer_timeout=1
    )
    protocol.seconds = protocol.reactor.seconds
    protocol.makeConnection(FakeDatagramTransport())
    protocol.datagramReceived(wrap_socket(pdu("06 0001 0005"), 0), PEER)
    if given_up:
        with pytest.raises(KeyboardInterrupt):
            protocol.reactor.advance(1.1)
    else:
        first.answer(None)
        first.calls[0][-1].addErrback(lambda failure: failure.trap(KeyboardInterrupt))
    assert protocol.reactor.getDelayedCalls() == []
    protocol.stopProtocol()


def test_a_flood_of_datagrams_that_wait_has_a_limit(asked, monkeypatch, caplog):
    monkeypatch.setattr("mbcore.server.udp.MAX_WAITING", 2)
    protocol = udp_port(asked)
    for number in range(13):
        protocol.datagramReceived(wrap_socket(READ, 1, number), PEER)
    assert len(protocol.reactor.getDelayedCalls()) == 2
    said = [record.getMessage().rpartition(" is ")[2] for record in caplog.records]
    assert said == ["dropped (1 times so far)", "dropped (10 times so far)"]
    asked.answer([1, 2], call=0)
    protocol.datagramReceived(wrap_socket(READ, 1, 99), PEER)
    asked.answer([3, 4])
    assert protocol.transport.written[-1] == (wrap_socket(pdu("03 04 0003 0004"), 1, 99), PEER)


def test_a_port_that_is_closed_gives_its_answers_up(asked):
    protocol = udp_port(asked)
    protocol.datagramReceived(wrap_socket(READ), PEER)
    protocol.stopProtocol()
    assert asked.calls[0][-1].called
    assert protocol.reactor.getDelayedCalls() == []


def test_a_port_that_is_closed_waits_for_no_answer_that_another_ones_canceller_gives():
    class AllAtOnce(Asked):
        def _asked(self, name, *args):
            answer = Deferred(lambda _: [call[-1].callback(True) for call in self.calls if not call[-1].called])
            self.calls.append((name, *args, answer))
            return answer

    asked = AllAtOnce(("validate", "getValues"))
    protocol = udp_port(asked)
    protocol.datagramReceived(wrap_socket(READ, 1, 1), PEER)
    protocol.datagramReceived(wrap_socket(READ, 1, 2), OTHER)
    protocol.stopProtocol()
    assert [call[0] for call in asked.calls] == ["validate", "validate"], "nobody goes on with the second one"
    assert protocol.reactor.getDelayedCalls() == []
    protocol.reactor.advance(10)
    assert protocol.transport.written == []


def test_an_answer_that_has_come_is_not_given_up(session, asked):
    reactor = Reactor()
    server = SimpleNamespace(reactor=reactor, seconds=reactor.seconds)
    waiting = Waiting(server)
    session.receive(wrap_socket(READ), 1.0)
    waiting.watch(session, pytest.fail)
    assert len(reactor.getDelayedCalls()) == len(waiting) == 1
    asked.answer([5, 6])
    assert session.waiting, "until it goes on"
    waiting.watch(session, pytest.fail)
    assert len(reactor.getDelayedCalls()) == len(waiting) == 0
    assert waiting.forget() == []


@pytest.mark.parametrize("error", [RuntimeError("stuck"), SystemExit(1), KeyboardInterrupt()])
def test_a_canceller_that_fails_holds_up_nobody(error):
    def stuck(deferred):
        raise error

    class Never(ModbusSequentialDataBlock):
        def getValues(self, address, count=1):
            return Deferred(stuck)

    reports = []
    context = one_unit(image(hr=Never(0, [0] * 10), co=block([1] * 8)))
    session = Session(ModbusSocketFramer, context, report=lambda *report: reports.append(report))
    assert session.receive(wrap_socket(READ, 1, 1), 1.0) == b""
    assert session.expire(5.0) == wrap_socket(refused(3, 0x0B), 1, 1)
    assert session.receive(wrap_socket(READ, 1, 2), 6.0) == b""
    session.reset()
    assert session.receive(wrap_socket(pdu("01 0000 0008"), 1, 3), 7.0) == wrap_socket(pdu("01 01 FF"), 1, 3)
    assert [report[1] for report in reports] == [error, error]


def test_without_a_report_such_a_canceller_holds_up_nobody_either(session, asked):
    session.receive(wrap_socket(READ, 1, 1), 1.0)
    asked.calls[0][-1]._canceller = lambda deferred: 1 // 0
    assert session.expire(5.0) == wrap_socket(refused(3, 0x0B), 1, 1)


def test_an_observer_may_have_the_rest_of_a_broadcast_answered():
    """Of the unit whose write it hears of it knows more than another one's block."""
    asked = Asked(("setValues",))
    context, heard = units(u1=image(hr=block([0, 9])), u2=image(hr=asked)), []

    def observer(unit_id, table, address, values):
        heard.append((unit_id, values))
        if unit_id == 1:
            asked.answer(None)

    context.add_observer(observer)
    session = Session(ModbusSocketFramer, context, broadcast_enable=True)
    woken = []
    session.wake = lambda: woken.append(True)
    answer = session.receive(wrap_socket(pdu("06 0000 0005"), 0) + wrap_socket(READ, 1, 7), 1.0)
    assert answer == wrap_socket(pdu("03 04 0005 0009"), 1, 7)
    assert heard == [(1, [5]), (2, [5])]
    assert (session.waiting, session.deadline(), woken) == (False, None, [])


def test_observers_hear_what_a_broadcast_left_in_a_block_that_answers_later(asked):
    store = units(u1=image(hr=asked))
    heard, reports = [], []
    store.add_observer(lambda *told: heard.append(told))
    session = LINES["rtu-serial"].session(store, report=lambda *report: reports.append(report))
    session.receive(wrap_rtu(pdu("16 0001 00F2 0025"), 0), 1.0)
    asked.answer([0x12])
    session.resume(2.0)
    assert heard == [(1, "holding_registers", 1, [0x17])]
    assert len(asked.calls) == 1, "it is not asked again"
    assert not reports
