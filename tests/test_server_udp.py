"""Datagrams: one frame each, answered to its sender, nothing kept in between."""

import logging

import pytest
from adu import block, image, one_unit, pdu, wrap_rtu, wrap_socket
from doubles import Reactor
from twisted.internet.testing import FakeDatagramTransport

from mbcore import ModbusRtuFramer, ModbusSocketFramer
from mbcore.server import ModbusUdpProtocol

READ = pdu("03 0000 0001")
REPLY = pdu("03 02 0102")
FIRST, SECOND = ("192.0.2.7", 40000), ("192.0.2.8", 40001)


def port(**options):
    protocol = ModbusUdpProtocol(one_unit(image(hr=block([0x0102]))), reactor=Reactor(), **options)
    protocol.makeConnection(FakeDatagramTransport())
    return protocol


def test_a_request_is_answered_to_its_sender():
    protocol = port()
    protocol.datagramReceived(wrap_socket(READ, transaction=1), FIRST)
    protocol.datagramReceived(wrap_socket(READ, transaction=2), SECOND)
    assert protocol.transport.written == [(wrap_socket(REPLY, transaction=1), FIRST), (wrap_socket(REPLY, transaction=2), SECOND)]


def test_half_a_datagram_poisons_nobody():
    protocol = port()
    protocol.datagramReceived(wrap_socket(READ)[:7], FIRST)
    protocol.datagramReceived(wrap_socket(READ)[7:], FIRST)
    protocol.datagramReceived(wrap_socket(READ), SECOND)
    assert protocol.transport.written == [(wrap_socket(REPLY), SECOND)]


def test_the_attributes_that_pymodbus_users_know():
    protocol = port(ignore_missing_slaves=True)
    assert protocol.framer is ModbusSocketFramer
    assert protocol.store[1].getValues(3, 0, 1) == [0x0102]
    assert protocol.ignore_missing_slaves is True
    protocol.datagramReceived(wrap_socket(READ), FIRST)
    assert protocol.control.Counter.BusMessage == 1


def test_rtu_over_udp_is_a_matter_of_the_framer():
    protocol = port(framer=ModbusRtuFramer)
    protocol.datagramReceived(wrap_rtu(READ), FIRST)
    assert protocol.transport.written == [(wrap_rtu(REPLY), FIRST)]


def test_trace_packet_sees_and_changes_datagrams():
    seen = []

    def trace(sending, data):
        seen.append((sending, data))
        return data[1:] if not sending else data + b"!"

    protocol = port(trace_packet=trace)
    protocol.datagramReceived(b"#" + wrap_socket(READ), FIRST)
    assert seen == [(False, b"#" + wrap_socket(READ)), (True, wrap_socket(REPLY))]
    assert protocol.transport.written == [(wrap_socket(REPLY) + b"!", FIRST)]


def test_trace_connect_is_told_when_the_port_opens_and_closes():
    told = []
    protocol = port(trace_connect=told.append)
    protocol.doStop()
    assert told == [True, False]


def test_debug_shows_the_datagrams(caplog):
    caplog.set_level(logging.DEBUG, "mbcore.server.udp")
    protocol = port()
    protocol.datagramReceived(b"\x01", FIRST)
    assert [record.getMessage() for record in caplog.records] == ["192.0.2.7:40000 > 01"]


def test_a_reply_that_cannot_be_sent_is_logged_and_stops_nothing(caplog):
    protocol = port()
    write = protocol.transport.write

    def refuse(data, addr):
        raise OSError(22, "Invalid argument")

    protocol.transport.write = refuse
    for _ in range(9):
        protocol.datagramReceived(wrap_socket(READ), ("192.0.2.9", 0))
    assert [record.getMessage() for record in caplog.records] == [
        "a reply to 192.0.2.9:0 could not be sent: [Errno 22] Invalid argument (1 times so far)"
    ]
    protocol.transport.write = write
    protocol.datagramReceived(wrap_socket(READ), FIRST)
    assert protocol.transport.written == [(wrap_socket(REPLY), FIRST)]


def test_closing_its_connections_is_done_at_once():
    done = []
    port().close_connections().addCallback(done.append)
    assert done == [None]


@pytest.mark.parametrize("data", [b"", b"\0", b"\xff" * 600])
def test_nonsense_is_not_answered(data):
    protocol = port()
    protocol.datagramReceived(data, FIRST)
    assert protocol.transport.written == []


def test_a_host_that_is_not_let_in_is_not_answered(access_control, caplog):
    protocol = port()
    access_control.add(SECOND[0])
    protocol.datagramReceived(wrap_socket(READ), FIRST)
    protocol.datagramReceived(wrap_socket(READ), FIRST)
    protocol.datagramReceived(wrap_socket(READ), SECOND)
    assert protocol.transport.written == [(wrap_socket(REPLY), SECOND)]
    assert protocol.control.Counter.BusMessage == 1
    assert protocol.refused == 2
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == ["192.0.2.7 is refused"]
