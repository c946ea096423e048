"""Starting and stopping: what is opened with what, in which thread, and what the user is told when it fails."""

import errno
import importlib
import logging
import socket
import sys

import pytest
from adu import block, image, one_unit, pdu, unwrap_socket, wrap_socket
from doubles import Port, Reactor, Wire, connect, in_thread
from twisted.internet.error import ConnectionDone, ReactorNotRestartable, ReactorNotRunning
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from mbcore import ModbusDeviceIdentification, ModbusRtuFramer, ModbusServerContext
from mbcore.errors import ConfigurationError, LineError
from mbcore.server import (
    IgnoredKeywordWarning,
    ModbusServerFactory,
    ModbusUdpProtocol,
    StartSerialServer,
    StartTcpServer,
    StartTlsServer,
    StartUdpServer,
    StopServer,
    console,
    running,
    serial,
    tls,
)

DONE = Failure(ConnectionDone())


def start(reactor, function=StartTcpServer, **options):
    return function(None, reactor=reactor, defer_reactor_run=True, **options)


@pytest.fixture
def tls_context(monkeypatch):
    asked = []
    monkeypatch.setattr(tls, "tls_context", lambda **files: asked.append(files) or "a context")
    return asked


@pytest.fixture
def serial_line(monkeypatch):
    """Serial lines are opened in name only."""
    monkeypatch.setattr(serial, "open_line", lambda factory: serial.Line(factory, serial.TwistedCarrier(factory)))


class FakeConsole:
    stopped = False

    def __init__(self, namespace, reactor=None, **options):
        self.namespace, self.reactor, self.options = namespace, reactor, options

    def stop(self):
        self.stopped = True


@pytest.fixture
def consoles(monkeypatch):
    started = []

    def start_console(*args, **kwargs):
        started.append(FakeConsole(*args, **kwargs))
        return started[-1]

    monkeypatch.setattr(console, "start_console", start_console)
    return started


def test_the_folder_cannot_be_imported_by_its_own_name(monkeypatch):
    monkeypatch.syspath_prepend(str(importlib.import_module("pathlib").Path(running.__file__).resolve().parents[1]))
    monkeypatch.delitem(sys.modules, "server", raising=False)
    folder = running.__file__.rsplit("/", 1)[0] + "/__init__.py"
    spec = importlib.util.spec_from_file_location("server", folder)
    with pytest.raises(ImportError, match=r"write `import mbcore\.server`, not `import server`"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


def test_tcp_listens_on_port_502_of_every_interface(reactor):
    start(reactor)
    [(port, factory, backlog, interface)] = reactor.tcpServers
    assert (port, interface, backlog) == (502, "", 1024)
    assert isinstance(factory, ModbusServerFactory)


def test_tls_listens_on_port_802_with_mbap_framing(reactor, tls_context):
    server = start(reactor, StartTlsServer, certfile="server.pem", keyfile="server.key", cafile="clients.pem")
    assert tls_context == [{"certfile": "server.pem", "keyfile": "server.key", "cafile": "clients.pem", "sslctx": None}]
    [(port, factory, context, backlog, interface)] = reactor.sslServers
    assert (port, context, backlog, interface) == (802, "a context", 1024, "")
    assert factory.framer.__name__ == "ModbusSocketFramer"
    assert (server.kind, server.port) == ("TLS", 802)


def test_udp_listens_on_port_502(reactor):
    server = start(reactor, StartUdpServer)
    [(port, protocol, interface)] = reactor.udp_servers
    assert (port, interface) == (502, "")
    assert isinstance(protocol, ModbusUdpProtocol)
    assert server.factory is protocol


@pytest.mark.parametrize(("host", "interface"), [("", ""), ("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("localhost", "127.0.0.1")])
def test_udp_takes_numbers_and_names(reactor, host, interface):
    start(reactor, StartUdpServer, address=(host, 5020))
    assert reactor.udp_servers[0][2] == interface


def test_udp_on_a_name_that_does_not_exist_is_one_sentence(reactor, monkeypatch):
    def unknown(name):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "gethostbyname", unknown)
    with pytest.raises(LineError, match="the name nowhere cannot be resolved: give the address of an interface of this machine"):
        start(reactor, StartUdpServer, address=("nowhere", 0))


@pytest.mark.parametrize("function", [StartTcpServer, StartUdpServer, StartTlsServer])
def test_what_is_given_reaches_the_server(reactor, tls_context, function):
    store, told = ModbusServerContext(), []
    server = function(
        store,
        ModbusDeviceIdentification(info={0: "ACME"}),
        ("127.0.0.1", 5020),
        framer="rtu",
        ignore_missing_devices=True,
        broadcast_enable=True,
        trace_packet=print,
        trace_pdu=print,
        trace_connect=told.append,
        reactor=reactor,
        defer_reactor_run=True,
    )
    factory = server.factory
    assert factory.store is store
    assert factory.framer is ModbusRtuFramer
    assert factory.control.Identity[0] == "ACME"
    assert factory.ignore_missing_slaves is True
    assert factory.broadcast_enable is True
    assert (factory.trace_packet, factory.trace_pdu, factory.trace_connect) == (print, print, told.append)
    assert server.address == ("127.0.0.1", 5020)


@pytest.mark.parametrize("function", [StartTcpServer, StartTlsServer])
def test_backlog_and_limit_of_connections(reactor, tls_context, function):
    server = start(reactor, function, backlog=7, max_connections=3)
    assert (reactor.tcpServers or [reactor.sslServers[0][1:]])[0][2] == 7
    assert server.factory.max_connections == 3


@pytest.mark.parametrize("function", [StartTcpServer, StartUdpServer, StartTlsServer])
def test_keywords_are_checked_under_the_functions_name(reactor, tls_context, function):
    with pytest.raises(TypeError, match=rf"{function.__name__}\(\) has no keyword 'framers'; did you mean 'framer'\?"):
        start(reactor, function, framers=1)
    with pytest.warns(IgnoredKeywordWarning, match=rf"{function.__name__}\(\) ignores 'host': use address=") as caught:
        function(reactor=reactor, defer_reactor_run=True, host="localhost")
    assert caught[0].filename == __file__


@pytest.mark.parametrize("word", ["custom_functions", "custom_pdu"])
@pytest.mark.parametrize("function", [StartTcpServer, StartUdpServer, StartTlsServer, StartSerialServer])
def test_a_custom_function_that_is_no_request_is_refused_and_an_empty_list_is_not(reactor, tls_context, serial_line, function, word):
    start(reactor, function, **{word: []})
    with pytest.raises(ConfigurationError, match="derive it from ModbusRequest"):
        start(reactor, function, **{word: [object]})


@pytest.mark.parametrize("function", [StartTcpServer, StartUdpServer, StartTlsServer, StartSerialServer])
def test_custom_functions_under_both_their_names_are_a_type_error(reactor, tls_context, serial_line, function):
    with pytest.raises(TypeError, match="got 'custom_functions' twice: 'custom_pdu' is another name for it"):
        start(reactor, function, custom_functions=[object], custom_pdu=[])


def test_the_handle_knows_the_real_port(reactor):
    server = start(reactor, address=("127.0.0.1", 0))
    assert server.port == 49152
    assert server.address == ("127.0.0.1", 49152)
    assert repr(server) == "<TCP server on 127.0.0.1:49152>"
    assert repr(start(reactor, address=("::1", 5020))) == "<TCP server on [::1]:5020>"


def test_the_handle_has_the_counters(reactor):
    server = start(reactor)
    connect(server.factory, StringTransport()).dataReceived(wrap_socket(pdu("03 0000 0001")))
    assert server.counters.BusMessage == 1
    assert server.control.Counter.BusMessage == 1


def test_stopping_frees_the_port_and_closes_the_connections(reactor, caplog):
    caplog.set_level(logging.INFO)
    server = start(reactor)
    connection = connect(server.factory, Wire(reactor))
    done = []
    server.stop().addCallback(done.append)
    assert not reactor.ports[0].listening
    assert connection.closing
    assert done == []
    connection.connectionLost(DONE)
    assert done == [None]
    assert repr(server) == "<TCP server on 0.0.0.0:502, stopped>"
    assert [record.getMessage() for record in caplog.records] == [
        "TCP server on 0.0.0.0:502 is ready",
        "TCP server on 0.0.0.0:502 is stopped",
    ]


def test_stopping_twice_is_stopping_once(reactor):
    server = start(reactor)
    connection = connect(server.factory, Wire(reactor))
    done = []
    for _ in range(2):
        server.stop().addCallback(done.append)
    connection.connectionLost(DONE)
    server.stop().addCallback(done.append)
    assert done == [None, None, None]
    assert reactor.shutdown_triggers == {}


def test_a_server_can_be_stopped_in_any_thread(reactor):
    server = start(reactor)
    reactor.running = True
    in_thread(server.stop)
    assert reactor.calls_from_threads == 1
    assert not reactor.ports[0].listening


def test_stop_and_start_again_while_the_reactor_runs(reactor):
    reactor.running = True
    for _ in range(2):
        StartTcpServer(reactor=reactor).stop()
    assert [port.listening for port in reactor.ports] == [False, False]


def test_the_control_block_of_the_process_is_that_of_the_first_server_that_runs(reactor, process_control):
    first, second = start(reactor), start(reactor, StartUdpServer)
    assert process_control.block is first.control
    first.stop()
    assert process_control.block is second.control
    second.stop()
    assert start(reactor).control is process_control.block


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        (StartTcpServer, "TCP port 502 is in use by another program: stop it (`sudo ss -ltnp` names it), or choose another port"),
        (StartUdpServer, "UDP port 502 is in use by another program: stop it (`sudo ss -lunp` names it), or choose another port"),
        (StartSerialServer, "it is not there"),
    ],
)
def test_a_start_that_failed_leaves_the_control_block_of_the_process_to_the_next(reactor, process_control, monkeypatch, function, sentence):
    def refuse(factory):
        raise LineError("it is not there")

    monkeypatch.setattr(serial, "open_line", refuse)
    reactor.refusal = OSError(errno.EADDRINUSE, "in use")
    with pytest.raises(LineError) as kept:  # and with it the traceback, and the server
        start(reactor, function)
    reactor.refusal = None
    assert start(reactor).control is process_control.block
    assert str(kept.value) == sentence


def test_each_server_is_stopped_alone(reactor):
    first, second = start(reactor), start(reactor, StartUdpServer)
    first.stop()
    assert [port.listening for port in reactor.ports] == [False, True]
    second.stop()
    assert [port.listening for port in reactor.ports] == [False, False]


def test_the_reactor_is_run_until_it_is_stopped(reactor):
    reactor.meanwhile = [StopServer]
    server = StartTcpServer(reactor=reactor)
    assert reactor.hasStopped
    assert reactor.signal_handlers is True
    assert not reactor.ports[0].listening
    assert repr(server).endswith("stopped>")


def test_in_another_thread_the_reactor_is_run_without_signal_handlers(reactor):
    reactor.meanwhile = [reactor.stop]
    in_thread(lambda: StartTcpServer(reactor=reactor))
    assert reactor.signal_handlers is False


def test_a_running_reactor_is_joined(reactor):
    reactor.running = True
    server = StartTcpServer(reactor=reactor)
    assert reactor.runs == 0
    assert server.port == 502
    assert reactor.calls_from_threads == 0


def test_a_reactor_that_runs_in_another_thread_is_joined_there(reactor):
    reactor.running = True
    server = in_thread(lambda: StartTcpServer(reactor=reactor))
    assert reactor.calls_from_threads == 1
    assert server.port == 502


def test_a_server_started_while_another_starts_the_reactor_joins_it(reactor):
    reactor.meanwhile = [lambda: in_thread(lambda: StartUdpServer(reactor=reactor)), StopServer]
    StartTcpServer(reactor=reactor)
    assert len(reactor.udp_servers) == 1
    assert [port.listening for port in reactor.ports] == [False, False]


def test_a_stopped_reactor_cannot_be_run_again(reactor):
    reactor.meanwhile = [StopServer]
    StartTcpServer(reactor=reactor)
    with pytest.raises(ReactorNotRestartable, match="Twisted's reactor runs once in a process: let it run, stop a server by its handle"):
        StartTcpServer(reactor=reactor)
    assert len(reactor.ports) == 1


def test_an_interrupted_start_lets_others_start(reactor):
    def interrupt():
        raise KeyboardInterrupt

    reactor.callWhenRunning(interrupt)
    with pytest.raises(KeyboardInterrupt):
        StartTcpServer(reactor=reactor)
    assert start(Reactor()).port == 502


def test_stop_server_stops_all_servers_and_leaves_a_reactor_that_they_joined(reactor):
    reactor.running = True
    StartTcpServer(reactor=reactor)
    start(reactor, StartUdpServer)
    StopServer()
    assert [port.listening for port in reactor.ports] == [False, False]
    assert reactor.running


def test_stop_server_in_another_thread_waits_until_the_port_is_free(reactor):
    reactor.running = True
    StartTcpServer(reactor=reactor)
    in_thread(StopServer)
    assert not reactor.ports[0].listening


def test_stop_server_stops_a_reactor_that_was_left_to_the_user(reactor):
    start(reactor)
    start(reactor, StartUdpServer)
    reactor.meanwhile = [StopServer]
    reactor.run()
    assert reactor.hasStopped
    assert [port.listening for port in reactor.ports] == [False, False]
    with pytest.raises(ReactorNotRunning, match="there is no server to stop"):
        StopServer()


def test_stop_server_stops_a_reactor_that_was_left_to_the_user_in_any_thread(reactor):
    start(reactor)
    reactor.meanwhile = [lambda: in_thread(StopServer)]
    reactor.run()
    assert reactor.hasStopped
    assert not reactor.ports[0].listening


def test_stop_server_before_the_user_runs_the_reactor_leaves_it_to_run(reactor):
    start(reactor)
    StopServer()
    assert not reactor.ports[0].listening
    ran = []
    reactor.meanwhile = [lambda: ran.append(reactor.running), reactor.stop]
    reactor.run()
    assert ran == [True]


def test_a_deferred_start_that_failed_leaves_the_reactor_alone(reactor):
    reactor.refusal = OSError(errno.EADDRINUSE, "in use")
    with pytest.raises(LineError):
        start(reactor)
    reactor.refusal = None
    reactor.running = True
    StartTcpServer(reactor=reactor)
    StopServer()
    assert reactor.running


def test_stop_server_in_another_thread_stops_the_reactor_that_a_start_function_runs(reactor):
    reactor.meanwhile = [lambda: in_thread(StopServer)]
    StartTcpServer(reactor=reactor)
    assert reactor.hasStopped


def test_stop_server_twice_at_once_is_harmless(reactor):
    pending = []
    reactor.callFromThread = lambda function, *args: pending.append((function, args))

    def run_pending():
        for function, args in pending:
            function(*args)

    reactor.meanwhile = [StopServer, StopServer, run_pending]
    StartTcpServer(reactor=reactor)
    assert reactor.hasStopped


def test_stop_server_without_a_server_says_so(reactor):
    with pytest.raises(ReactorNotRunning, match="there is no server to stop"):
        StopServer()
    start(reactor).stop()
    with pytest.raises(ReactorNotRunning, match="there is no server to stop"):
        StopServer()


@pytest.mark.parametrize(
    ("function", "error", "address", "sentence"),
    [
        (StartTcpServer, OSError(errno.EACCES, "Permission denied"), None, "TCP port 502 needs a right .*setcap .*port above 1023"),
        (StartUdpServer, OSError(errno.EADDRINUSE, "in use"), None, "UDP port 502 is in use by another program: stop it .*ss -lunp"),
        (StartTcpServer, OSError(errno.EADDRINUSE, "in use"), ("", 5020), "TCP port 5020 is in use by another program: stop it .*ss -ltnp"),
        (StartTlsServer, OSError(errno.EADDRNOTAVAIL, "no"), ("192.0.2.1", 0), "this machine has no interface 192.0.2.1: .*ip -br address"),
        (StartTcpServer, socket.gaierror(-2, "unknown"), ("nowhere", 0), "the name nowhere cannot be resolved: "),
        (StartTcpServer, OSError(errno.EACCES, "Permission denied"), ("", 5020), "TCP port 5020 cannot be opened: .*Permission denied"),
    ],
)
def test_a_port_that_is_refused_is_one_sentence_with_the_way_out(reactor, tls_context, function, error, address, sentence):
    reactor.refusal = error
    with pytest.raises(LineError, match=sentence) as caught:
        start(reactor, function, address=address)
    assert caught.value.errno == error.errno
    assert "\n" not in str(caught.value)
    with pytest.raises(ReactorNotRunning):
        StopServer()


def test_a_port_that_is_refused_is_told_to_the_thread_that_asked(reactor):
    reactor.running = True
    reactor.refusal = OSError(errno.EADDRINUSE, "in use")
    with pytest.raises(LineError, match="TCP port 502 is in use"):
        in_thread(lambda: StartTcpServer(reactor=reactor))


def test_a_start_that_failed_does_not_run_the_reactor_and_can_be_repeated(reactor):
    reactor.refusal = OSError(errno.EADDRINUSE, "in use")
    with pytest.raises(LineError):
        StartTcpServer(reactor=reactor)
    assert reactor.runs == 0
    reactor.refusal = None
    reactor.meanwhile = [StopServer]
    StartTcpServer(reactor=reactor)
    assert reactor.runs == 1


@pytest.mark.parametrize("function", [StartTcpServer, StartUdpServer, StartTlsServer])
def test_a_console_is_opened_when_asked_for_and_goes_with_the_server(reactor, tls_context, consoles, function):
    server = start(reactor, function, console=True)
    [shell] = consoles
    assert shell.namespace == {"factory": server.factory, "context": server.factory.store, "server": server}
    assert shell.reactor is reactor
    assert shell.options == {}
    server.stop()
    assert shell.stopped


def test_a_console_takes_options(reactor, consoles):
    start(reactor, console={"port": 2222})
    assert consoles[0].options == {"port": 2222}


def test_a_console_that_fails_leaves_no_server_behind(reactor, monkeypatch):
    def refuse(*args, **kwargs):
        raise ConfigurationError("the extra is missing")

    monkeypatch.setattr(console, "start_console", refuse)
    with pytest.raises(ConfigurationError, match="the extra is missing"):
        start(reactor, console=True)
    assert not reactor.ports[0].listening


def test_a_port_that_does_not_close_is_logged_and_the_stop_is_done(reactor, monkeypatch, caplog):
    def fail(port):
        raise OSError("no way")

    monkeypatch.setattr(Port, "stopListening", fail)
    server = start(reactor)
    done = []
    server.stop().addCallback(done.append)
    assert done == [None]
    assert [record.getMessage() for record in caplog.records] == ["TCP server on 0.0.0.0:502 did not close cleanly: no way"]


def test_requests_reach_the_context(reactor):
    server = StartTcpServer(one_unit(image(hr=block([7]))), reactor=reactor, defer_reactor_run=True)
    protocol = connect(server.factory, StringTransport())
    protocol.dataReceived(wrap_socket(pdu("03 0000 0001")))
    assert [adu.pdu for adu in unwrap_socket(protocol.transport.value())] == [pdu("03 02 0007")]
