"""What one server holds, and how many connections."""

import errno
import gc
import os

import pytest
from adu import block, image, pdu, run_python, units, unwrap_socket, wrap_socket
from doubles import Reactor, ScriptedSession, Wire, connect, scripted
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import StringTransport
from twisted.protocols.policies import WrappingFactory
from twisted.python.failure import Failure

from mbcore import ModbusDeviceIdentification, ModbusServerContext, ModbusSocketFramer
from mbcore.errors import ConfigurationError
from mbcore.messages import ModbusRequest, ModbusResponse
from mbcore.server import IgnoredKeywordWarning, ModbusServerFactory, ModbusUdpProtocol

DONE = Failure(ConnectionDone())


def asked(factory, request, unit=1):
    protocol = connect(factory, StringTransport())
    protocol.dataReceived(wrap_socket(request, unit))
    return [adu.pdu for adu in unwrap_socket(protocol.transport.value())]


def test_the_attributes_that_pymodbus_users_know():
    store = ModbusServerContext()
    factory = ModbusServerFactory(store)
    assert factory.store is store
    assert factory.framer is ModbusSocketFramer
    assert factory.control.ListenOnly is False
    assert factory.ignore_missing_slaves is False
    assert factory.decoder.lookupPduClass(3).__name__ == "ReadHoldingRegistersRequest"
    assert factory.decoder is factory.decoder


def test_without_a_store_there_are_default_blocks():
    assert asked(ModbusServerFactory(None), pdu("03 FFFE 0001")) == [pdu("03 02 0000")]


def test_two_factories_share_no_counters():
    first, second = ModbusServerFactory(), ModbusServerFactory()
    asked(first, pdu("03 0000 0001"))
    assert (first.control.Counter.BusMessage, second.control.Counter.BusMessage) == (1, 0)


def test_the_identity_is_the_servers():
    factory = ModbusServerFactory(None, None, ModbusDeviceIdentification(info={0: "ACME", 1: "X1", 2: "1.0"}))
    assert b"ACME" in asked(factory, pdu("2B 0E 01 00"))[0]


@pytest.mark.parametrize(("ignore", "replies"), [(False, [pdu("83 0B")]), (True, [])])
def test_an_absent_unit_gets_an_exception_or_silence(ignore, replies):
    factory = ModbusServerFactory(units(u1=image(hr=block([1]))), ignore_missing_slaves=ignore)
    assert asked(factory, pdu("03 0000 0001"), unit=9) == replies


def test_broadcast_enable_makes_unit_0_a_broadcast():
    slave = image(hr=block([1]))
    assert asked(ModbusServerFactory(units(u1=slave), broadcast_enable=True), pdu("06 0000 0005"), unit=0) == []
    assert slave.getValues(3, 0, 1) == [5]


@pytest.mark.parametrize("server", [ModbusServerFactory, ModbusUdpProtocol])
def test_keywords_are_checked_under_the_servers_name(server):
    with pytest.raises(TypeError, match=rf"{server.__name__}\(\) has no keyword 'ignore_missing_slave'; did you mean 'ignore_"):
        server(None, ignore_missing_slave=True)


@pytest.mark.parametrize("server", [ModbusServerFactory, ModbusUdpProtocol])
def test_the_warning_for_an_unused_keyword_points_at_the_users_line(server):
    with pytest.warns(IgnoredKeywordWarning, match=rf"{server.__name__}\(\) ignores 'handler'") as caught:
        server(None, handler=object)
    assert caught[0].filename == __file__


class EchoRequest(ModbusRequest):
    function_code = 0x41
    _rtu_frame_size = 6

    def decode(self, data):
        self.data = data

    def execute(self, context):
        response = ModbusResponse()
        response.function_code = 0x41
        response.encode = lambda: self.data
        return response


def test_custom_functions_are_answered_by_their_classes():
    session = ModbusServerFactory(custom_functions=[EchoRequest]).buildSession()
    request = bytes.fromhex("0007 0000 0004 01 41 1234")
    assert session.receive(request, 0.0) == request


def test_a_class_registered_later_answers_new_connections():
    factory = ModbusServerFactory()
    factory.decoder.register(EchoRequest)
    request = bytes.fromhex("0007 0000 0004 01 41 1234")
    assert factory.buildSession().receive(request, 0.0) == request


def test_a_custom_function_without_a_frame_size_is_refused_in_one_sentence():
    class Sizeless(ModbusRequest):
        function_code = 0x41

    with pytest.raises(ConfigurationError, match="_rtu_frame_size"):
        ModbusServerFactory(custom_functions=[Sizeless])


def test_hooks_are_checked():
    with pytest.raises(ConfigurationError, match="trace_connect is 'yes'"):
        ModbusServerFactory(trace_connect="yes")


def test_the_reactor_is_the_installed_one_unless_given():
    from twisted.internet import reactor

    own = Reactor()
    assert ModbusServerFactory(reactor=own).reactor is own
    assert ModbusServerFactory().reactor is reactor


@pytest.mark.parametrize(
    ("files", "connections"),
    [(-1, 2000), (1 << 20, 2000), (1024, 1004), (10, 1)],
    ids=["unlimited", "many", "usual", "hardly any"],
)
def test_the_limit_of_connections_is_finite_and_within_that_of_open_files(monkeypatch, files, connections):
    monkeypatch.setattr(os, "sysconf", lambda _: files)
    assert ModbusServerFactory().max_connections == connections


def test_a_limit_that_is_no_number_is_refused():
    with pytest.raises(ConfigurationError, match="max_connections is 0"):
        ModbusServerFactory(max_connections=0)


def full_house(count):
    """A factory with as many connections as it takes, each heard a second after the one before."""
    reactor = Reactor()
    factory = scripted(ModbusServerFactory(max_connections=count, reactor=reactor), ScriptedSession())
    connections = []
    for _ in range(count):
        connections.append(connect(factory, Wire(reactor)))
        reactor.advance(1.0)
    return factory, connections


def test_when_all_connections_are_taken_the_one_unused_for_longest_is_closed(caplog):
    factory, connections = full_house(3)
    connections[0].dataReceived(b"a sign of life")
    connect(factory, Wire(factory.reactor))
    assert [connection.closing for connection in connections] == [False, True, False]
    assert "all 3 connections of max_connections= are taken" in caplog.text


def test_a_connection_on_its_way_out_counts_no_more():
    factory, connections = full_house(2)
    connect(factory, Wire(factory.reactor))
    connections[0].connectionLost(DONE)
    assert [connection.closing for connection in connections] == [True, False]
    connect(factory, Wire(factory.reactor))
    assert [connection.closing for connection in connections] == [True, True]


def test_a_burst_of_connections_closes_one_each():
    factory, connections = full_house(3)
    for _ in range(2):
        connect(factory, Wire(factory.reactor))
    assert [connection.closing for connection in connections] == [True, True, False]


def test_a_place_that_is_free_already_costs_nobody_his():
    factory, connections = full_house(2)
    connections[0].close()  # and is not gone yet
    connect(factory, Wire(factory.reactor))
    assert [connection.closing for connection in connections] == [True, False]


def test_closing_all_connections_is_done_when_the_last_is_gone():
    factory, connections = full_house(2)
    done = []
    factory.close_connections().addCallback(done.append)
    factory.close_connections().addCallback(done.append)
    for connection in connections:
        assert done == []
        assert connection.closing
        connection.connectionLost(DONE)
    assert done == [None, None]


def test_closing_no_connections_is_done_at_once():
    done = []
    ModbusServerFactory().close_connections().addCallback(done.append)
    assert done == [None]


@pytest.mark.parametrize("server", [ModbusServerFactory, ModbusUdpProtocol])
def test_an_only_server_counts_in_the_control_block_of_the_process(process_control, server):
    process_control.Identity.VendorName = "ACME"
    first, second = server(), server()
    assert process_control.block is first.control is not second.control
    assert first.control.Identity.VendorName == "ACME"
    first.buildSession().receive(wrap_socket(pdu("03 0000 0001")), 0.0)
    assert process_control.Counter.BusMessage == 1
    first.retire()
    first.retire()
    assert process_control.block is second.control


def test_a_server_that_is_dropped_has_the_control_block_no_more(process_control):
    first, second = ModbusServerFactory(), ModbusServerFactory()
    assert process_control.block is first.control
    del first
    process_control._block = None
    gc.collect()
    assert process_control.block is second.control


def test_a_script_that_asks_late_gets_the_block_of_the_server_too():
    script = ("import sys; from mbcore.server import ModbusServerFactory; factory = ModbusServerFactory()\n"
              "assert 'mbcore.device' not in sys.modules; from mbcore.pymodbus.device import ModbusControlBlock\n"
              "ModbusControlBlock().Counter.BusMessage = 17; ModbusControlBlock().Plus; print(factory.control.Counter.BusMessage)")
    assert run_python(script) == "17\n"


HOME, STRANGER = IPv4Address("TCP", "127.0.0.1", 40000), IPv4Address("TCP", "192.0.2.9", 40000)


def calls(factory, peer):
    """What becomes of a connection from `peer` that asks something: the reply, or None where it is closed."""
    transport = StringTransport(peerAddress=peer)
    protocol = factory.buildProtocol(peer)
    protocol.makeConnection(transport)
    protocol.dataReceived(wrap_socket(pdu("03 0000 0001")))
    return None if transport.disconnecting else [adu.pdu for adu in unwrap_socket(transport.value())]


def test_everyone_is_let_in_until_a_host_is_added(access_control):
    factory = ModbusServerFactory()
    assert list(access_control) == ["127.0.0.1"]
    assert calls(factory, STRANGER) == calls(factory, HOME) == [pdu("03 02 0000")]
    assert factory.access is access_control
    assert factory.refused == 0


def test_a_host_that_is_not_in_the_table_is_closed_out(access_control, caplog):
    factory, told = ModbusServerFactory(trace_connect=lambda connected: told.append(connected)), []
    access_control.add("192.0.2.7")
    for _ in range(9):
        assert calls(factory, STRANGER) is None
    assert factory.refused == 9
    assert factory.connections == set()
    assert told == []
    assert [record.getMessage() for record in caplog.records] == [
        '192.0.2.9 is refused: ModbusAccessControl().add("192.0.2.9") would let it in (1 refused so far)'
    ]
    access_control.add("192.0.2.9")
    assert calls(factory, STRANGER) == [pdu("03 02 0000")]


def test_a_refused_host_costs_nobody_his_place(access_control):
    factory, connections = full_house(1)
    access_control.add("192.0.2.7")
    assert calls(factory, STRANGER) is None
    assert not connections[0].closing


def test_a_client_of_ip_version_4_is_known_on_a_port_for_both(access_control):
    access_control.add("192.0.2.0/28")
    assert calls(ModbusServerFactory(), IPv6Address("TCP", "::ffff:192.0.2.9", 40000)) == [pdu("03 02 0000")]
    assert calls(ModbusServerFactory(), IPv6Address("TCP", "::ffff:192.0.2.19", 40000)) is None


def test_what_has_no_host_is_always_let_in(access_control):
    access_control.add("192.0.2.7")
    access_control.remove("127.0.0.1")
    assert calls(ModbusServerFactory(), UNIXAddress("/run/modbus.sock")) == [pdu("03 02 0000")]


def test_a_factory_around_this_one_can_refuse_too(access_control):
    access_control.add("192.0.2.7")
    assert calls(WrappingFactory(ModbusServerFactory()), STRANGER) is None


def test_a_server_without_access_control_does_not_load_it():
    script = ("import sys; from mbcore.server import ModbusServerFactory; from twisted.internet.address import IPv4Address\n"
              "ModbusServerFactory().buildProtocol(IPv4Address('TCP', '192.0.2.9', 40000)); print('mbcore.device' in sys.modules)")
    assert run_python(script) == "False\n"


def test_the_connections_of_one_host_make_room_among_themselves(caplog):
    reactor = Reactor()
    factory = scripted(ModbusServerFactory(max_connections_per_host=2, reactor=reactor), ScriptedSession())
    connections = []
    for host in ("192.0.2.1", "192.0.2.2", "192.0.2.1", "192.0.2.1", "192.0.2.2"):
        protocol = factory.buildProtocol(IPv4Address("TCP", host, 5))
        protocol.makeConnection(Wire(reactor))
        connections.append(protocol)
        reactor.advance(1.0)
    assert [connection.closing for connection in connections] == [True, False, False, False, False]
    assert "or 2 of max_connections_per_host=, are taken" in caplog.text


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"max_connections_per_host": 0}, "max_connections_per_host is 0: give a whole number, 1 or more"),
        ({"idle_timeout": -1}, "idle_timeout is -1: give seconds, 0..100000"),
        ({"idle_timeout": None}, "idle_timeout is None: give seconds, 0..100000"),
    ],
)
def test_limits_that_are_none_are_refused(options, sentence):
    with pytest.raises(ConfigurationError) as raised:
        ModbusServerFactory(**options)
    assert str(raised.value) == sentence


def test_a_descriptor_that_is_missing_is_logged_now_and_then(caplog):
    factory = ModbusServerFactory()
    for _ in range(12):
        factory.note_refusal(errno.EMFILE)
    assert len([line for line in caplog.text.splitlines() if "connections cannot be accepted: Too many open files" in line]) == 2
