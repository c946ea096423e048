# ruff: noqa: N815 - Twisted's names
"""One stream connection: each chunk goes to the session once, replies go out at once, and a client that does not read harms nobody."""

import logging
from types import SimpleNamespace

import pytest
from adu import block, image, one_unit, pdu, unwrap_rtu, unwrap_socket, words, wrap_ascii, wrap_rtu, wrap_socket
from doubles import Reactor, ScriptedSession, Wire, connect, scripted, scripted_connection
from twisted.internet.address import UNIXAddress
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import StringTransport
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure

from mbcore import ModbusAsciiFramer, ModbusRtuFramer
from mbcore.server import ModbusServerFactory, ModbusTcpProtocol
from mbcore.server.tcp import CHUNK_SIZE, CLOSE_WAIT

READ_TWO = pdu("03 0000 0002")
DONE = Failure(ConnectionDone())


def registers_factory(**options):
    return ModbusServerFactory(one_unit(image(hr=block([0x0102, 0x0304]))), reactor=Reactor(), **options)


def test_a_request_is_answered():
    protocol = connect(registers_factory(), StringTransport())
    protocol.dataReceived(wrap_socket(READ_TWO, unit=1, transaction=7))
    assert protocol.transport.value() == wrap_socket(pdu("03 04 0102 0304"), unit=1, transaction=7)


def test_a_request_may_come_byte_by_byte():
    protocol = connect(registers_factory(), StringTransport())
    for byte in wrap_socket(READ_TWO):
        protocol.dataReceived(bytes([byte]))
    assert protocol.transport.value() == wrap_socket(pdu("03 04 0102 0304"))


def test_all_requests_of_a_chunk_are_answered_in_one_write():
    wire = Wire(Reactor())
    writes = []
    write = wire.writeSomeData
    wire.writeSomeData = lambda data: writes.append(bytes(data)) or write(data)
    protocol = connect(registers_factory(), wire)
    protocol.dataReceived(b"".join(wrap_socket(READ_TWO, transaction=number) for number in range(3)))
    assert len(writes) == 1
    assert [adu.transaction for adu in unwrap_socket(wire.sent)] == [0, 1, 2]


def test_connections_of_a_factory_share_the_image_and_the_counters_but_not_their_frames():
    factory = registers_factory()
    first, second = connect(factory, StringTransport()), connect(factory, StringTransport())
    request = wrap_socket(pdu("06 0001 0007"))
    first.dataReceived(request[:5])
    second.dataReceived(wrap_socket(READ_TWO))
    first.dataReceived(request[5:])
    second.dataReceived(wrap_socket(READ_TWO))
    assert [adu.pdu for adu in unwrap_socket(second.transport.value())] == [pdu("03 04 0102 0304"), pdu("03 04 0102 0007")]
    assert factory.control.Counter.BusMessage == 3


def test_a_reply_is_sent_at_once_when_nothing_is_queued():
    protocol = scripted_connection(b"reply")
    protocol.dataReceived(b"request")
    assert protocol.transport.sent == b"reply"
    assert not protocol.transport.queued


def test_each_chunk_is_one_call_into_the_session():
    protocol = scripted_connection()
    protocol.factory.reactor.advance(3.0)
    protocol.dataReceived(b"chunk")
    assert protocol.session.received == [(b"chunk", 3.0)]
    assert protocol.transport.sent == b""


def test_what_the_kernel_does_not_take_is_queued_and_later_replies_wait_behind_it():
    protocol = scripted_connection(b"first", b"second", room=2)
    protocol.dataReceived(b"request")
    protocol.transport.room = 100
    protocol.dataReceived(b"request")
    assert protocol.transport.sent == b"fi"
    assert protocol.transport.queued
    protocol.transport.doWrite()
    assert protocol.transport.sent == b"firstsecond"
    assert not protocol.transport.queued


def test_replies_are_sent_at_once_again_when_the_queue_is_empty():
    protocol = scripted_connection(b"first", b"second", room=0)
    protocol.dataReceived(b"request")
    protocol.transport.room = 100
    protocol.transport.doWrite()
    protocol.dataReceived(b"request")
    assert protocol.transport.sent == b"firstsecond"
    assert not protocol.transport.queued


def test_a_connection_found_lost_when_writing_is_left_to_the_reactor():
    protocol = scripted_connection(b"reply", room=-1)
    protocol.dataReceived(b"request")
    assert protocol.transport.queued
    assert isinstance(protocol.transport.doWrite(), Exception)


def test_over_tls_the_bytes_pass_through_the_transports_write():
    protocol = scripted_connection(b"reply")
    protocol.transport.TLS = True
    protocol.dataReceived(b"request")
    assert protocol.transport.sent == b""
    assert protocol.transport.queued


def test_a_transport_that_is_wrapped_sees_the_bytes():
    class Scrambler(ProtocolWrapper):
        def write(self, data):
            super().write(data[::-1])

    class Scrambling(WrappingFactory):
        protocol = Scrambler

    reactor = Reactor()
    factory = scripted(ModbusServerFactory(reactor=reactor), ScriptedSession(b"reply"))
    wrapper = Scrambling(factory).buildProtocol(None)
    wire = Wire(reactor)
    wrapper.makeConnection(wire)
    wrapper.dataReceived(b"request")
    wire.doWrite()
    assert wire.sent == b"ylper"
    assert wire.bufferSize == CHUNK_SIZE


def test_the_connection_has_no_delay_and_keeps_alive():
    assert scripted_connection().transport.options == {"nodelay": True, "keepalive": True}


def test_a_unix_socket_is_not_asked_for_them():
    class UnixWire(Wire):
        def getHost(self):
            return UNIXAddress(b"/run/modbus")

        getPeer = getHost

    factory = registers_factory()
    protocol = connect(factory, UnixWire(factory.reactor))
    protocol.dataReceived(wrap_socket(READ_TWO))
    assert protocol.transport.options == {}
    assert protocol.transport.sent == wrap_socket(pdu("03 04 0102 0304"))
    assert "/run/modbus" in str(protocol)


def test_a_client_that_has_gone_before_they_are_set_does_no_harm():
    class ResetWire(Wire):
        def setTcpNoDelay(self, enabled):
            raise OSError(22, "Invalid argument")

    factory = registers_factory()
    assert connect(factory, ResetWire(factory.reactor)) in factory.connections


def test_a_transport_that_knows_no_peer_is_served_too():
    class Anonymous(StringTransport):
        def getPeer(self):
            raise NotImplementedError

    assert str(connect(registers_factory(), Anonymous())) == "ModbusTcpProtocol"


def test_a_client_that_does_not_read_is_not_read():
    requests = 100
    protocol = scripted_connection(*[b"r" * 260] * requests, room=0)
    while protocol.transport.reading:
        protocol.dataReceived(b"request")
    assert CHUNK_SIZE < 260 * len(protocol.session.received) <= CHUNK_SIZE + 260
    protocol.transport.room = 1 << 20
    protocol.transport.doWrite()
    assert protocol.transport.reading
    assert len(protocol.transport.sent) == 260 * len(protocol.session.received)


def test_beside_a_client_that_does_not_read_others_are_served():
    factory = registers_factory()
    stuck, other = connect(factory, Wire(factory.reactor, room=0)), connect(factory, Wire(factory.reactor))
    while stuck.transport.reading:
        stuck.dataReceived(wrap_socket(READ_TWO) * 100)
    other.dataReceived(wrap_socket(READ_TWO))
    assert other.transport.sent == wrap_socket(pdu("03 04 0102 0304"))


def test_a_stream_that_has_lost_its_frames_is_closed_after_the_replies():
    protocol = connect(registers_factory(), StringTransport())
    protocol.dataReceived(wrap_socket(READ_TWO) + b"\0\1\0\0\0\0\0\0")  # length 0 is below 2, TG 3.1.3
    assert protocol.transport.value() == wrap_socket(pdu("03 04 0102 0304"))
    assert protocol.transport.disconnecting


def test_closing_waits_for_the_replies_that_are_queued():
    protocol = scripted_connection(b"reply", room=0)
    protocol.dataReceived(b"request")
    protocol.close()
    assert not protocol.transport.reading
    protocol.transport.room = 100
    assert isinstance(protocol.transport.doWrite(), ConnectionDone)
    assert protocol.transport.sent == b"reply"


def test_closing_cuts_off_a_client_that_does_not_take_its_replies():
    protocol = scripted_connection(b"reply", room=0)
    protocol.dataReceived(b"request")
    protocol.close()
    protocol.close()
    protocol.factory.reactor.advance(CLOSE_WAIT - 0.01)
    assert not protocol.transport.aborted
    protocol.factory.reactor.advance(0.01)
    assert protocol.transport.aborted
    protocol.connectionLost(DONE)
    assert protocol.factory.reactor.getDelayedCalls() == []


def test_a_connection_that_others_close_while_its_client_does_not_read_closes_when_it_does():
    protocol = scripted_connection(b"r" * (CHUNK_SIZE + 1), room=0)
    protocol.dataReceived(b"request")
    assert not protocol.transport.reading
    protocol.transport.loseConnection()
    protocol.transport.room = 1 << 20
    assert protocol.transport.doWrite() is None
    assert isinstance(protocol.transport.doWrite(), ConnectionDone)


def test_a_lost_connection_is_forgotten_and_its_timers_with_it():
    protocol = scripted_connection()
    protocol.session.due = 1.0
    protocol.dataReceived(b"half a frame")
    protocol.close()
    assert len(protocol.factory.reactor.getDelayedCalls()) == 2
    protocol.transport.connectionLost(DONE)
    protocol.connectionLost(DONE)
    assert protocol.factory.connections == set()
    assert protocol.factory.reactor.getDelayedCalls() == []


def test_a_partial_frame_is_timed_out_by_the_session():
    protocol = scripted_connection(b"", b"late reply")
    protocol.session.due = 1.0
    protocol.dataReceived(b"half a frame")
    protocol.factory.reactor.advance(0.99)
    assert protocol.session.expired == []
    protocol.factory.reactor.advance(0.01)
    assert protocol.session.expired == [1.0]
    assert protocol.transport.sent == b"late reply"
    assert protocol.factory.reactor.getDelayedCalls() == []


def test_a_session_may_want_to_be_called_again():
    protocol = scripted_connection()
    protocol.session.due, protocol.session.due_after_expiry = 1.0, 1.5
    protocol.dataReceived(b"half a frame")
    protocol.factory.reactor.advance(1.0)
    protocol.session.due_after_expiry = None
    protocol.factory.reactor.advance(0.5)
    assert protocol.session.expired == [1.0, 1.5]


@pytest.mark.parametrize("later", [0.25, 5.0])
def test_the_timer_follows_the_deadline_in_both_directions(later):
    protocol = scripted_connection()
    protocol.session.due = 1.0
    protocol.dataReceived(b"half a frame")
    protocol.session.due = later
    protocol.dataReceived(b"more")
    assert len(protocol.factory.reactor.getDelayedCalls()) == 1
    protocol.factory.reactor.pump([0.125] * 41)
    assert protocol.session.expired == [later]


def test_a_deadline_that_is_withdrawn_is_not_missed():
    protocol = scripted_connection()
    protocol.session.due = 1.0
    protocol.dataReceived(b"half a frame")
    protocol.session.due = None
    protocol.dataReceived(b"the other half")
    protocol.factory.reactor.advance(2.0)
    assert protocol.session.expired == []


def test_a_deadline_in_the_past_is_met_at_once():
    protocol = scripted_connection()
    protocol.factory.reactor.advance(5.0)
    protocol.session.due = 4.0
    protocol.dataReceived(b"half a frame")
    protocol.factory.reactor.advance(0)
    assert protocol.session.expired == [5.0]


def test_a_timer_that_fires_early_waits_on():
    protocol = scripted_connection()
    protocol.session.due = 1.0
    protocol.dataReceived(b"half a frame")
    protocol.factory.seconds = lambda: 0.5  # the reactor's clock was set forward
    protocol.factory.reactor.advance(1.0)
    assert protocol.session.expired == []
    protocol.factory.seconds = protocol.factory.reactor.seconds
    protocol.factory.reactor.advance(0.5)
    assert protocol.session.expired == [1.5]


def test_ascii_over_tcp_forgets_a_frame_after_a_second_of_silence():
    factory = registers_factory(framer=ModbusAsciiFramer)
    factory.seconds = factory.reactor.seconds
    protocol = connect(factory, StringTransport())
    frame = wrap_ascii(READ_TWO)
    protocol.dataReceived(frame[:8])
    factory.reactor.advance(1.5)
    protocol.dataReceived(frame[8:])
    assert protocol.transport.value() == b""
    protocol.dataReceived(frame)
    assert protocol.transport.value() == wrap_ascii(pdu("03 04 0102 0304"))


def test_rtu_over_tcp_is_a_matter_of_the_framer():
    protocol = connect(registers_factory(framer=ModbusRtuFramer), StringTransport())
    protocol.dataReceived(wrap_rtu(READ_TWO) + wrap_rtu(READ_TWO))
    assert [adu.pdu for adu in unwrap_rtu(protocol.transport.value())] == [pdu("03 04 0102 0304")] * 2


def test_trace_packet_sees_and_changes_what_comes_in_and_goes_out():
    seen = []

    def trace(sending, data):
        seen.append((sending, data))
        return data.replace(words(0x0102), words(0x0909)) if sending else data.replace(b"\2", b"\1")

    protocol = connect(registers_factory(trace_packet=trace), StringTransport())
    protocol.dataReceived(wrap_socket(READ_TWO))
    assert seen == [(False, wrap_socket(READ_TWO)), (True, wrap_socket(pdu("03 02 0102")))]
    assert protocol.transport.value() == wrap_socket(pdu("03 02 0909"))


@pytest.mark.parametrize("outcome", ["raises", "returns None"])
def test_a_trace_packet_that_fails_changes_nothing_and_is_logged_once(outcome, caplog):
    def trace(sending, data):
        if outcome == "raises":
            raise KeyError("a slip")

    protocol = connect(registers_factory(trace_packet=trace), StringTransport())
    protocol.dataReceived(wrap_socket(READ_TWO))
    assert protocol.transport.value() == wrap_socket(pdu("03 04 0102 0304"))
    assert [record.getMessage() for record in caplog.records] == ["trace_packet failed; the bytes pass unchanged"]
    assert caplog.records[0].exc_info


def test_trace_connect_is_told_of_connections():
    told = []
    factory = registers_factory(trace_connect=told.append)
    protocol = connect(factory, StringTransport())
    assert told == [True]
    protocol.connectionLost(DONE)
    assert told == [True, False]


def test_a_trace_connect_that_fails_breaks_no_connection(caplog):
    def trace(connected):
        raise OSError("a slip")

    protocol = connect(registers_factory(trace_connect=trace), StringTransport())
    protocol.dataReceived(wrap_socket(READ_TWO))
    protocol.connectionLost(DONE)
    assert protocol.transport.value() == wrap_socket(pdu("03 04 0102 0304"))
    assert [record.getMessage() for record in caplog.records] == ["trace_connect failed"]


def test_trace_pdu_sees_requests_and_responses():
    seen = []

    def trace(sending, message):
        seen.append(sending)
        return message

    connect(registers_factory(trace_pdu=trace), StringTransport()).dataReceived(wrap_socket(READ_TWO))
    assert seen == [False, True]


def test_an_exception_of_a_data_block_is_logged_with_its_traceback(caplog):
    class Broken(type(block([0]))):
        def getValues(self, address, count=1):
            raise OSError("the sensor does not answer")

    factory = ModbusServerFactory(one_unit(image(hr=Broken(0, [0, 0]))), reactor=Reactor())
    protocol = connect(factory, StringTransport())
    protocol.dataReceived(wrap_socket(READ_TWO) * 2)
    assert [adu.pdu for adu in unwrap_socket(protocol.transport.value())] == [pdu("83 04")] * 2
    assert len(caplog.records) == 1
    assert isinstance(caplog.records[0].exc_info[1], OSError)


def test_debug_shows_the_bytes_of_both_directions_and_who_sent_them(caplog):
    caplog.set_level(logging.DEBUG, "mbcore.server")
    protocol = scripted_connection(b"\x83\x02")
    protocol.dataReceived(b"\x03\x00")
    protocol.connectionLost(DONE)
    assert [record.getMessage() for record in caplog.records if record.name == "mbcore.server.tcp"] == [
        "192.0.2.7:40000: connected",
        "192.0.2.7:40000 > 03 00",
        "192.0.2.7:40000 < 83 02",
        "192.0.2.7:40000: disconnected: Connection was closed cleanly.",
    ]


def test_the_users_subclass_is_used():
    class Own(ModbusTcpProtocol):
        def dataReceived(self, data):
            super().dataReceived(data[1:])

    factory = registers_factory()
    factory.protocol = Own
    protocol = connect(factory, StringTransport())
    protocol.dataReceived(b"#" + wrap_socket(READ_TWO))
    assert protocol.transport.value() == wrap_socket(pdu("03 04 0102 0304"))


def test_who_says_nothing_for_long_is_closed():
    protocol = scripted_connection(b"", b"", idle_timeout=10)
    reactor = protocol.factory.reactor
    protocol.factory.seconds = reactor.seconds
    protocol.last_heard = reactor.seconds()
    reactor.advance(9)
    protocol.dataReceived(b"a sign of life")
    reactor.advance(9)
    assert not protocol.closing
    protocol.session.waiting = True
    reactor.advance(1)
    reactor.advance(9.9)
    protocol.session.waiting = False
    assert not protocol.closing
    reactor.advance(0.1)
    assert protocol.closing
    protocol.connectionLost(DONE)
    assert reactor.getDelayedCalls() == []


def test_who_takes_replies_is_not_closed_for_saying_nothing():
    protocol = scripted_connection(b"", idle_timeout=10)
    reactor = protocol.factory.reactor
    waiting = protocol._descriptor = SimpleNamespace(dataBuffer=bytes(1000), offset=0, _tempDataLen=500)
    protocol.pauseProducing()
    for _ in range(3):
        waiting.offset += 1
        reactor.advance(10)
        assert not protocol.closing
    reactor.advance(10)
    assert protocol.closing
    protocol.connectionLost(DONE)


def test_on_a_transport_without_a_descriptor_only_what_comes_counts():
    reactor = Reactor()
    protocol = connect(scripted(ModbusServerFactory(None, reactor=reactor, idle_timeout=10), ScriptedSession()), StringTransport())
    reactor.advance(9.9)
    assert not protocol.closing
    reactor.advance(0.1)
    assert protocol.closing
    protocol.connectionLost(DONE)


def test_a_connection_that_is_lost_is_not_looked_at_again():
    protocol = scripted_connection(idle_timeout=10)
    protocol.connectionLost(DONE)
    assert protocol.factory.reactor.getDelayedCalls() == []
